"""The plots of docs/performance.md. Needs matplotlib: `pip install --group bench`."""

from typing import Any

from benchmarks import throughput as many
from benchmarks.figures import ratio, summary
from benchmarks.overhead import BASES, CONTENDERS
from benchmarks.workers import AGAIN, BARE, KEPT

__all__ = ["growth", "overhead", "throughput"]

OURS, THEIRS, OTHERS = "#0b6e4f", "#8a8a8a", "#c2571a"


def overhead(result: dict[str, Any], path: str) -> None:
    """What each contender's CPU time is beside the SDK's, with its interval."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - an extra

    cases = {
        case: found for case, found in result["samples"].items() if case.endswith(("1 kB", "1 MB", "stream of 200"))
    }
    rows: list[tuple[str, str, Any]] = []
    for case, found in cases.items():
        first = KEPT.name if KEPT.name in found else BARE.name
        for name in (each.name for each in CONTENDERS if each.name in found):
            figures, theirs = found[name], found.get(BASES.get(name, first))
            if name != first and theirs is not None and "environment" not in name:
                rows.append((case, name, ratio(figures["cpu"], theirs["cpu"])))
    figure, pane = plt.subplots(figsize=(9, 0.24 * len(rows) + 1), layout="constrained")
    for place, (_, name, found) in enumerate(reversed(rows)):
        color = OURS if name.startswith("smartroute") else THEIRS if name.startswith("SDK") else OTHERS
        low, middle, high = (100 * each - 100 for each in (found.low, found.median, found.high))
        pane.plot([low, high], [place, place], color=color, linewidth=3, alpha=0.4)
        pane.plot([middle], [place], "o", color=color, markersize=5)
    pane.set_yticks(range(len(rows)), [f"{case}: {name}" for case, name, _ in reversed(rows)], fontsize=7)
    pane.axvline(0, color="black", linewidth=0.8)
    pane.set_xscale("symlog", linthresh=25)
    ticks = (-25, -10, 0, 10, 25, 100, 500)
    pane.set_xticks(ticks, [f"{tick:+d} %" for tick in ticks])
    pane.set_xlabel("CPU of a call beside the SDK alone: median of the rounds and its 95 % interval")
    _finish(figure, [pane], path)


def throughput(result: dict[str, Any], path: str) -> None:
    """Requests a second and CPU per request, against how many are in flight."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - an extra

    figure, panes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    widths = [int(case.split()[0].replace(",", "")) for case in result["samples"]]
    there = {name for found in result["samples"].values() for name in found if name != AGAIN.name}
    names = [each.name for each in many.CONTENDERS if each.name in there]
    for name in names:
        style = {"color": OURS if name.startswith("smartroute") else THEIRS, "linestyle": _line(name)}
        for pane, key, factor in ((panes[0], "rate", 1.0), (panes[1], "cpu", 1e6)):
            series = [summary(found[name][key]) for found in result["samples"].values() if name in found]
            pane.plot(widths, [each.median * factor for each in series], label=name, **style)
            low, high = [each.low * factor for each in series], [each.high * factor for each in series]
            pane.fill_between(widths, low, high, color=style["color"], alpha=0.1, linewidth=0)
    for pane, title in zip(panes, ("requests a second", "CPU microseconds a request"), strict=True):
        pane.set_title(title, loc="left", fontsize=10)
        pane.set_xscale("log", base=2)
        pane.set_xticks(widths, [f"{width:,}" for width in widths])
        pane.set_xlabel("in flight")
        pane.set_ylim(bottom=0)
    panes[1].legend(fontsize=8, frameon=False)
    _finish(figure, panes, path)


def _line(name: str) -> str:
    return {"smartroute, httpcore": ":", "smartroute, aiohttp": "--", "SDK on aiohttp": "--"}.get(name, "-")


def growth(result: dict[str, Any], path: str) -> None:
    """A pane for each curve."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - an extra

    curves = result["curves"]
    rows = -(-len(curves) // 3)
    figure, grid = plt.subplots(rows, 3, figsize=(10, 2.6 * rows), layout="constrained")
    panes = list(grid.flat)
    for pane, (what, points) in zip(panes, curves.items(), strict=False):
        factor = 1e-3 if "bytes each" in what else 1e6
        places = [point["x"] for point in points]
        for key, color, name in (("sdk", THEIRS, "SDK"), ("ours", OURS, "smartroute")):
            if key in points[0]:
                pane.plot(
                    places, [point[key] * factor for point in points], "o-", color=color, markersize=3, label=name
                )
        pane.set_title(
            f"{what.replace(' (bytes each)', '')}: {'kB each' if factor < 1 else 'CPU us'}", loc="left", fontsize=9
        )
        pane.set_xscale("log")
        if max(point["ours"] for point in points) > 20 * min(point["ours"] for point in points):
            pane.set_yscale("log")
        else:
            pane.set_ylim(bottom=0)
    for pane in panes[len(curves) :]:
        pane.set_visible(False)
    panes[0].legend(fontsize=8, frameon=False)
    _finish(figure, panes, path)


def _finish(figure: Any, panes: Any, path: str) -> None:
    for pane in panes:
        pane.spines[["top", "right"]].set_visible(False)
        pane.tick_params(labelsize=7)
    figure.savefig(path, metadata={"Date": None})
