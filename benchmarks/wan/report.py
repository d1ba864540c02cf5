"""The tables, the figures to reach, the picture."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from math import ceil, inf
from typing import TYPE_CHECKING, Any

from benchmarks.tables import table
from benchmarks.wan.scenes import FAULTS, ORDERS, PACES, Series
from benchmarks.wan.worker import FLOOR, SMART
from benchmarks.wan.world import TRIPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "percentile", "report"]

STATIC = {"smartroute, sync": "SDK to best, sync", "smartroute, async": "SDK to best, async"}
"""Whom each is measured against."""
SET_UP = 2 * TRIPS["near"] * 1e3
"""Milliseconds that a connection to the best region takes: TCP and TLS 1.3."""
NOISE = 5.0
Scene = dict[str, Series]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of these ascending values that is not below this share of them."""
    return values[max(0, ceil(share * len(values)) - 1)]


def report(played: Sequence[Series]) -> bool:
    """Print everything; whether every figure was reached."""
    scenes: dict[str, Scene] = {}
    for series in played:
        scenes.setdefault(series.scene, {})[series.contender] = series
    for name, scene in scenes.items():
        cold = name not in PACES and name not in FAULTS
        loads = [series.load for series in scene.values()]
        late = [series.late for series in scene.values()]
        print(f"\n{name} (load {max(loads):.1f}, {max(late):.1%} of the packets more than 1 ms late)")
        print(table(_in_fault(scene) if name in FAULTS else _in_peace(scene, cold=cold)))
    verdicts = [verdict for name, scene in scenes.items() for verdict in _verdicts(name, scene)]
    if verdicts:
        print("\nFigures to reach")
        print(table([("", "is", "at most", ""), *(_line(verdict) for verdict in verdicts)]))
    return all(is_ <= most for _, is_, most in verdicts)


def _in_peace(scene: Scene, *, cold: bool) -> list[tuple[str, ...]]:
    """First token in milliseconds, beside the floor; a first call is timed from the making of its client."""
    rows: list[tuple[str, ...]] = [
        ("milliseconds", "p50", "p90", "p99", "of floor", "calls", "failed", "connections", "probes")
    ]
    floor = percentile(scene[FLOOR].first_tokens(with_client=cold), 0.5) if FLOOR in scene else None
    for name, series in scene.items():
        values = series.first_tokens(with_client=cold)
        ratio = f"{percentile(values, 0.5) / floor:.3f}" if floor else ""
        shares = [_ms(percentile(values, share)) for share in (0.5, 0.9, 0.99)]
        counts = [f"{n}" for n in (len(values), values.count(inf), series.connections, series.probes)]
        rows.append((name, *shares, ratio, *counts))
    return rows


def _in_fault(scene: Scene) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("milliseconds", "p50", "p90", "p99", "first", "calls", "failed", "connections", "answered by")
    ]
    for name, series in scene.items():
        values = series.first_tokens()
        first = min(series.calls, key=lambda call: call.at).first
        shares = [_ms(percentile(values, share)) for share in (0.5, 0.9, 0.99)]
        counts = [f"{n}" for n in (len(values), values.count(inf), series.connections)]
        regions = Counter(call.region or call.error for call in series.calls)
        who = ", ".join(f"{region} {count}" for region, count in regions.most_common())
        rows.append((name, *shares, _ms(inf if first is None else first * 1e3), *counts, who))
    return rows


def _ms(value: float) -> str:
    return "never" if value == inf else f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


Verdict = tuple[str, float, float]
"""What is measured, what it is, and what it may be at most."""


def _verdicts(name: str, scene: Scene) -> Iterator[Verdict]:
    for smart, static in STATIC.items():
        if not {smart, static, FLOOR} <= scene.keys():
            continue
        cold = name not in PACES and name not in FAULTS
        ours, theirs, floor = (scene[who].first_tokens(with_client=cold) for who in (smart, static, FLOOR))
        if name in FAULTS:
            yield from _in_fault_verdicts(name, smart, scene[smart], percentile(floor, 0.5))
        elif cold:
            yield f"{name}: {smart}, p50 after the SDK's", percentile(ours, 0.5) - percentile(theirs, 0.5), 15.0
        else:
            if name == "1 per s":
                yield f"{name}: {smart}, p50 above the floor, %", _above(ours, floor, 0.5), 3.0
                yield f"{name}: {smart}, p99 above the floor's, %", _above(ours, floor, 0.99), 10.0
            if name == "1 per 12 s" or smart == SMART[0]:
                yield f"{name}: {smart}, p50 after the SDK's", percentile(ours, 0.5) - percentile(theirs, 0.5), -SET_UP


def _in_fault_verdicts(name: str, smart: str, ours: Series, second: float) -> Iterator[Verdict]:
    values = ours.first_tokens()
    yield f"{name}: {smart}, calls that failed", values.count(inf), 0
    most = FAULTS[name].most
    if most is not None:
        first = min(ours.calls, key=lambda call: call.at)
        after = sorted(inf if c.first is None else c.first * 1e3 for c in ours.calls if c.at > first.end)
        yield f"{name}: {smart}, the latest, beside the second-best region", values[-1] - second, most
        yield f"{name}: {smart}, p50 once it is known, beside the second-best", percentile(after, 0.5) - second, NOISE


def _above(ours: Sequence[float], floor: Sequence[float], share: float) -> float:
    return (percentile(ours, share) / percentile(floor, share) - 1) * 100


def _line(verdict: Verdict) -> tuple[str, ...]:
    what, is_, most = verdict
    return what, f"{is_:+.1f}", f"{most:+.1f}", "" if is_ <= most else "MISSED"


# --- The picture ----------------------------------------------------------------------------------------------

COLOURS = ("#444444", "#cc79a7", "#cc79a7", "#e69f00", "#e69f00", "#56b4e9", "#009e73", "#009e73")
"""Told apart by the colour-blind (Okabe and Ito)."""
LOST = "#c1121f"
STYLE = {
    "axes.edgecolor": "#999999",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "svg.hashsalt": "wan",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
}
LONGEST = 30_000.0
"""Milliseconds that the panes of faults end at."""


def draw(played: Sequence[Series], path: str) -> None:
    """Draw p50, p90 and p99 of each contender into a file. Needs matplotlib."""
    import matplotlib as mpl  # noqa: PLC0415 - wanted for a picture only
    from matplotlib import pyplot as plt  # noqa: PLC0415

    scenes: dict[str, list[Series]] = {}
    for series in played:
        if not series.scene.startswith("first call") or series.scene.endswith([*ORDERS][-1]):
            scenes.setdefault(series.scene, []).append(series)
    names = list(dict.fromkeys(series.contender for series in played))
    columns = min(5, len(scenes))
    rows = ceil(len(scenes) / columns)
    size = 2.4 * columns + 1, 2.2 * rows
    with mpl.rc_context(STYLE):  # type: ignore[arg-type] # its keys are literals
        figure, grid = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
        for pane, scene in zip_longest(grid.flat, scenes):
            pane.set_visible(scene is not None)
            for series in scenes.get(scene, ()):
                _draw_series(pane, names.index(series.contender), series)
            pane.set_title(scene, loc="left", fontsize=9)
            if scene in FAULTS:
                pane.set_xscale("log")
                pane.set_xlim(100, LONGEST)
                pane.set_xticks([100, 1_000, 10_000], ["0.1 s", "1 s", "10 s"])
                pane.minorticks_off()
            elif scene in PACES:
                pane.set_xlim(100, 350)
        grid[0][0].set_yticks(range(len(names)), names)
        grid[0][0].invert_yaxis()
        figure.supxlabel(
            "first token (ms, below: s): p50, p90, p99, from large to small, on a line from the least to the most"
        )
        figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    plt.close(figure)


def _draw_series(pane: "Axes", row: int, series: Series) -> None:
    values = series.first_tokens(with_client=series.scene.startswith("first call"))
    colour = COLOURS[row % len(COLOURS)]
    got = [value for value in values if value < inf]
    if got:
        pane.plot([got[0], got[-1]], [row, row], color=colour, lw=1)
    for share, size in ((0.5, 32), (0.9, 14), (0.99, 6)):
        if (value := percentile(values, share)) < inf:
            pane.scatter([value], [row], s=size, color=colour)
    if series.contender == FLOOR:
        pane.axvline(percentile(values, 0.5), color=colour, lw=0.6, ls=":")
    if lost := len(values) - len(got):
        where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "center"}
        pane.annotate(f"{lost} of {len(values)} lost", (1, row), color=LOST, fontsize=7, **where)
