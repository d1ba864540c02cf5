"""The pictures of the docs: a day of choices, a brownout, a recovery. Needs matplotlib."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.selection.journal import Journal
from benchmarks.selection.matches import ORACLE, SMART, stage_of
from benchmarks.selection.overrides import Overridden
from benchmarks.selection.scenarios import CELLS, FIRST, OUTAGE
from benchmarks.selection.world import TYPICAL, World

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_all"]

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#666666")
"""Of the endpoints, the nearest route first, the global one last: told apart by the colour-blind (Okabe and Ito)."""
INKS = ("#005a8f", "#8f6200", "#00664b", "#9c3f74", "#444444")
"""The same for words on white."""
LOST = "#c1121f"
GREY = "#eeeeee"
QUIET = "#555555"
MANY = 2_000
"""Points of which an SVG had better hold an image."""
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": QUIET,
    "xtick.color": "#999999",
    "ytick.color": "#999999",
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "legend.frameon": False,
    "svg.hashsalt": "smartroute",
}


@dataclass(frozen=True)
class Play:
    """What one contender did in a world."""

    world: World
    journal: Journal

    def between(self, start: float, until: float) -> list[tuple[float, float, int]]:
        """When each request came, its first token in milliseconds, and who answered (-1: nobody)."""
        return [
            (request.at, self.journal.costs[request.number] * 1e3, self.journal.endpoints[request.number])
            for request in self.world.requests
            if start <= request.at < until
        ]

    def spans(self) -> Iterator[tuple[float, float, int]]:
        """From when until when in a row which endpoint answered."""
        since, now = 0.0, -1
        for at, _, endpoint in self.between(0, self.world.seconds):
            if endpoint != now:
                if now >= 0:
                    yield since, at, now
                since, now = at, endpoint
        if now >= 0:
            yield since, self.world.seconds, now


def draw_all(folder: str, *, seed: int, settings: Overridden) -> None:
    """Draw every picture into a folder."""
    import matplotlib as mpl  # noqa: PLC0415 - wanted for pictures only
    from matplotlib import pyplot as plt  # noqa: PLC0415

    with mpl.rc_context(STYLE):  # type: ignore[arg-type] # its keys are literals
        for name, draw in (("day", _day), ("brownout", _brownout), ("recovery", _recovery)):
            figure = draw(plt, seed, settings)
            path = Path(folder) / f"selection-{name}.svg"
            figure.savefig(path, dpi=180, metadata={"Date": None})
            plt.close(figure)
            print(path)


def _play(cell: str, name: str, seed: int, settings: Overridden) -> Play:
    world = CELLS[cell].world(seed)
    stage, contender = stage_of(name, world, CELLS[cell].faults(world), settings)
    stage.engine.run(world.requests, contender.arrive)
    contender.close()
    return Play(world, stage.journal)


def _label(world: World, endpoint: int) -> str:
    return "global" if endpoint == world.routes else f"{world.round_trip(endpoint) * 1e3:.0f} ms away"


def _title(pane: "Axes", bold: str, rest: str) -> None:
    """What is seen, over a pane and beginning where it begins; the first words bold."""
    said = pane.annotate(bold, (0, 1), (0, 6), "axes fraction", textcoords="offset points", weight="bold")
    pane.annotate(rest, (1, 0), (6, 0), said, textcoords="offset points", va="bottom", color=QUIET)


def _day(plt: Any, seed: int, settings: Overridden) -> Any:
    """The expected first token of each route over a day, and which one was chosen."""
    smart, oracle = (_play("steady 1/min", name, seed, settings) for name in (SMART, ORACLE))
    world = smart.world
    figure, (pane, strip) = plt.subplots(
        2, 1, sharex=True, figsize=(9, 4.8), layout="constrained", height_ratios=[7, 1]
    )
    times = [300.0 * step for step in range(int(world.seconds / 300) + 1)]
    ends = []
    for route in range(world.routes):
        truth = [world.first_token(route, TYPICAL, at) * 1e3 for at in times]
        pane.plot([at / 3_600 for at in times], truth, color=COLOURS[route], lw=1.1, alpha=0.45)
        ends.append(truth[-1])
        mine = [at for at, _, endpoint in smart.between(0, world.seconds) if endpoint == route]
        levels = [world.first_token(route, TYPICAL, at) * 1e3 for at in mine]
        pane.scatter([at / 3_600 for at in mine], levels, s=9, lw=0, color=COLOURS[route], rasterized=True)
    low, high = pane.get_ylim()
    for route, level in enumerate(_apart(ends, (high - low) / 20)):
        place = (1.01, level)
        pane.annotate(_label(world, route), place, xycoords=("axes fraction", "data"), va="center", color=INKS[route])
    pane.yaxis.set_major_formatter("{x:.0f} ms")
    pane.tick_params(axis="x", length=0)
    pane.grid(axis="y", color=GREY, lw=0.8)
    pane.set_axisbelow(True)
    _title(
        pane,
        "A day at one request a minute.",
        "Lines: the first token that each route would give. Dots: where the requests went.",
    )
    for level, play in ((1, smart), (0, oracle)):
        for route in range(world.routes):
            bars = [(start / 3_600, (until - start) / 3_600) for start, until, who in play.spans() if who == route]
            strip.broken_barh(bars, (level - 0.4, 0.8), color=COLOURS[route], lw=0, rasterized=True)
    strip.set_yticks([0, 1], ["oracle", "smartroute"])
    strip.set_ylim(-0.5, 1.5)
    strip.spines[["left", "bottom"]].set_visible(False)
    strip.tick_params(length=0)
    strip.set_xticks(range(0, int(world.seconds / 3_600) + 1, 3))
    strip.set_xlim(0, world.seconds / 3_600)
    strip.set_xlabel("hours")
    return figure


def _apart(levels: Sequence[float], least: float) -> list[float]:
    """The levels, moved up so that each is so far above the one below."""
    moved = list(levels)
    below = -inf
    for place in sorted(range(len(levels)), key=lambda place: levels[place]):
        below = moved[place] = max(levels[place], below + least)
    return moved


def _brownout(plt: Any, seed: int, settings: Overridden) -> Any:
    """The first token of each request through a brownout, by who answered."""
    start = FIRST["1/s"]
    window = (start - 120, start + OUTAGE + 180)
    names = (SMART, "EWMA, 5 % anywhere", "P2C PeakEWMA")
    figure, panes = plt.subplots(len(names), 1, sharex=True, sharey=True, figsize=(9, 6.4), layout="constrained")
    for pane, name in zip(panes, names, strict=True):
        play = _play("brownout 1/s", name, seed, settings)
        _scatter(pane, play, window, start)
        during = sorted(cost for at, cost, _ in play.between(start, start + OUTAGE))
        late = during[int(len(during) * 0.95)]
        _title(pane, f"{name}:", f"median {median(during):.0f} ms, one in twenty over {late:.0f} ms, in the grey time")
    _note(panes[0], 0.0, "the best region answers ten times slower")
    _legend(figure, panes)
    panes[-1].set_xlabel("seconds; each dot is the first token of a request")
    return figure


def _recovery(plt: Any, seed: int, settings: Overridden) -> Any:
    """Who answers while the best region is gone, and as it comes back cold."""
    start = FIRST["20/s"]
    window = (start - 60, start + OUTAGE + 300)
    smart, oracle = (_play("recovery 20/s", name, seed, settings) for name in (SMART, ORACLE))
    figure, panes = plt.subplots(3, 1, sharex=True, figsize=(9, 6.4), layout="constrained", height_ratios=[1, 1, 1.8])
    told = ((oracle, "Oracle:", "who answers its requests, 20 a second"), (smart, "smartroute:", "who answers"))
    for pane, (play, bold, rest) in zip(panes, told, strict=False):
        _shares(pane, play, window, start)
        _title(pane, bold, rest)
    _scatter(panes[2], smart, window, start)
    _title(panes[2], "smartroute:", "the first token of each request")
    _note(panes[2], 0.0, "the best region refuses")
    _note(panes[2], OUTAGE, "it is back, and stands little load for a minute")
    panes[2].set_xlabel("seconds")
    _legend(figure, [panes[2]])
    return figure


def _shares(pane: "Axes", play: Play, window: tuple[float, float], start: float, span: float = 5.0) -> None:
    """The share of requests that each endpoint answered, in steps of some seconds."""
    bins = [window[0] + span * step for step in range(int((window[1] - window[0]) / span))]
    stacks: list[list[float]] = [[] for _ in range(play.world.routes + 1)]
    for begins in bins:
        answered = [endpoint for _, _, endpoint in play.between(begins, begins + span)]
        for endpoint, stack in enumerate(stacks):
            stack.append(100 * answered.count(endpoint) / max(len(answered), 1))
    edges = [at - start for at in (*bins, window[1])]
    pane.stackplot(edges, *([*stack, stack[-1]] for stack in stacks), colors=COLOURS, step="post", lw=0)
    pane.set_ylim(0, 100)
    pane.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])
    pane.spines[["left", "bottom"]].set_visible(False)
    pane.tick_params(length=0)
    for at in (0.0, OUTAGE):
        pane.axvline(at, color="white", lw=1.5)


def _scatter(pane: "Axes", play: Play, window: tuple[float, float], start: float) -> None:
    """Each request's first token, in the colour of who answered."""
    points = play.between(*window)
    many = len(points) >= MANY
    pane.axvspan(0, OUTAGE, color=GREY, lw=0)
    for endpoint in range(play.world.routes + 1):
        mine = [(at - start, cost) for at, cost, answered in points if answered == endpoint]
        if mine:
            ats, costs = zip(*mine, strict=True)
            look: dict[str, Any] = {"s": 4, "alpha": 0.6} if many else {"s": 8, "alpha": 0.85}
            label = _label(play.world, endpoint)
            pane.scatter(ats, costs, lw=0, color=COLOURS[endpoint], label=label, rasterized=many, **look)
    lost = [(at - start, cost) for at, cost, answered in points if answered < 0]
    if lost:
        pane.scatter([at for at, _ in lost], [cost for _, cost in lost], s=18, marker="x", color=LOST, label="lost")
    pane.set_yscale("log")
    pane.set_yticks(
        [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000],
        ["50 ms", "100 ms", "200 ms", "500 ms", "1 s", "2 s", "5 s", "10 s"],
    )
    pane.minorticks_off()
    pane.set_xlim(window[0] - start, window[1] - start)
    pane.tick_params(axis="x", length=0)


def _note(pane: "Axes", at: float, what: str) -> None:
    """Say what happens from then on, at the upper edge."""
    pane.annotate(
        what,
        (at, 1),
        (4, -4),
        ("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        color=QUIET,
        fontsize=8,
    )


def _legend(figure: Any, panes: Sequence["Axes"]) -> None:
    """Who is who, in words of their colours, over everything."""
    known: dict[str, Any] = {}
    for pane in panes:
        known |= {label: handle for handle, label in zip(*pane.get_legend_handles_labels(), strict=True)}
    order = sorted(known, key=lambda label: COLOURS.index(_colour(known[label])) if label != "lost" else len(COLOURS))
    inks = [LOST if label == "lost" else INKS[COLOURS.index(_colour(known[label]))] for label in order]
    legend = figure.legend(
        [known[label] for label in order],
        order,
        loc="outside upper left",
        ncols=len(order),
        labelcolor=inks,
        handletextpad=0.1,
        columnspacing=1.2,
    )
    for handle in legend.legend_handles:
        handle.set_sizes([30])
        handle.set_alpha(1)


def _colour(handle: Any) -> str:
    from matplotlib.colors import to_hex  # noqa: PLC0415 - as above

    return to_hex(handle.get_facecolor()[0])
