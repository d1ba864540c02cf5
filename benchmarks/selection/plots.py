"""The pictures of the docs: a day of choices, a brownout, a recovery. Needs matplotlib."""

from collections.abc import Sequence
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

COLOURS = ("#2a9d5c", "#e09f3e", "#7b5ea7", "#9e2a2b", "#335c8d")
"""Of the endpoints, the nearest route first, the global one last."""
LOST = "#c1121f"
GREY = "#00000010"
MANY = 2_000
"""Points of which an SVG had better hold an image."""
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#444444",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
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


def _day(plt: Any, seed: int, settings: Overridden) -> Any:
    """The expected first token of each route over a day, and which one was chosen."""
    smart, oracle = (_play("steady 1/min", name, seed, settings) for name in (SMART, ORACLE))
    world = smart.world
    figure, (pane, strip) = plt.subplots(
        2, 1, sharex=True, figsize=(9, 4.6), layout="constrained", height_ratios=[6, 1]
    )
    times = [300.0 * step for step in range(int(world.seconds / 300) + 1)]
    ends = []
    for route in range(world.routes):
        truth = [world.first_token(route, TYPICAL, at) * 1e3 for at in times]
        pane.plot([at / 3_600 for at in times], truth, color=COLOURS[route], lw=1.2, alpha=0.5)
        ends.append(truth[-1])
        mine = [at for at, _, endpoint in smart.between(0, world.seconds) if endpoint == route]
        levels = [world.first_token(route, TYPICAL, at) * 1e3 for at in mine]
        pane.scatter([at / 3_600 for at in mine], levels, s=11, lw=0, color=COLOURS[route], alpha=0.8, rasterized=True)
    for route, level in enumerate(_apart(ends, 14.0)):
        place = (1.01, level)
        pane.annotate(
            _label(world, route), place, xycoords=("axes fraction", "data"), va="center", color=COLOURS[route]
        )
    pane.set_ylabel("expected first token (ms)")
    pane.set_ylim(bottom=0)
    pane.set_title("A day at one request a minute: lines are the truth, dots are where smartroute sent each request")
    for level, play in enumerate((oracle, smart)):
        for route in range(world.routes):
            mine = [at / 3_600 for at, _, endpoint in play.between(0, world.seconds) if endpoint == route]
            strip.vlines(mine, level - 0.38, level + 0.38, lw=0.8, color=COLOURS[route], rasterized=True)
    strip.set_yticks([0, 1], ["oracle", "smartroute"])
    strip.set_ylim(-0.5, 1.5)
    strip.spines[["left", "bottom"]].set_visible(False)
    strip.tick_params(length=0)
    strip.set_xticks(range(0, int(world.seconds / 3_600) + 1, 3))
    strip.set_xlabel("hours")
    strip.set_xlim(0, world.seconds / 3_600)
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
    figure, panes = plt.subplots(len(names), 1, sharex=True, sharey=True, figsize=(9, 6), layout="constrained")
    for pane, name in zip(panes, names, strict=True):
        play = _play("brownout 1/s", name, seed, settings)
        _scatter(pane, play, window, start)
        during = sorted(cost for at, cost, _ in play.between(start, start + OUTAGE))
        late = during[int(len(during) * 0.95)]
        pane.set_title(f"{name}: median {median(during):.0f} ms, one in twenty over {late:.0f} ms in the brownout")
    _legend(figure, panes[0])
    panes[-1].set_xlabel("seconds; grey: the best region answers ten times slower")
    return figure


def _recovery(plt: Any, seed: int, settings: Overridden) -> Any:
    """Who answers while the best region is gone, and as it comes back cold."""
    start = FIRST["20/s"]
    window = (start - 60, start + OUTAGE + 180)
    smart, oracle = (_play("recovery 20/s", name, seed, settings) for name in (SMART, ORACLE))
    figure, panes = plt.subplots(3, 1, sharex=True, figsize=(9, 6), layout="constrained", height_ratios=[1, 1, 2])
    for pane, play, name in zip(panes, (oracle, smart), (ORACLE, SMART), strict=False):
        _shares(pane, play, window, start)
        pane.set_title(f"Who answers, at 20 requests a second: {name}")
    _scatter(panes[2], smart, window, start)
    panes[2].set_title("The first token of each request: smartroute")
    panes[2].set_xlabel("seconds; grey: the best region refuses; it stands little load in the minute after that")
    _legend(figure, panes[2])
    return figure


def _shares(pane: "Axes", play: Play, window: tuple[float, float], start: float, span: float = 5.0) -> None:
    """The share of requests that each endpoint answered, in steps of some seconds."""
    bins = [window[0] + span * step for step in range(int((window[1] - window[0]) / span))]
    stacks: list[list[float]] = [[] for _ in range(play.world.routes + 1)]
    for begins in bins:
        answered = [endpoint for _, _, endpoint in play.between(begins, begins + span)]
        for endpoint, stack in enumerate(stacks):
            stack.append(100 * answered.count(endpoint) / max(len(answered), 1))
    pane.stackplot([at - start for at in bins], *stacks, colors=COLOURS, step="post", lw=0)
    pane.set_ylim(0, 100)
    pane.set_ylabel("%")
    for at in (0.0, OUTAGE):
        pane.axvline(at, color="white", lw=1.2, ls=":")


def _scatter(pane: "Axes", play: Play, window: tuple[float, float], start: float) -> None:
    """Each request's first token, in the colour of who answered."""
    points = play.between(*window)
    size = 7 if len(points) < MANY else 4
    pane.axvspan(0, OUTAGE, color=GREY, lw=0)
    for endpoint in range(play.world.routes + 1):
        mine = [(at - start, cost) for at, cost, answered in points if answered == endpoint]
        pane.scatter(
            [at for at, _ in mine],
            [cost for _, cost in mine],
            s=size,
            lw=0,
            alpha=0.75,
            color=COLOURS[endpoint],
            label=_label(play.world, endpoint),
            rasterized=len(points) >= MANY,
        )
    lost = [(at - start, cost) for at, cost, answered in points if answered < 0]
    if lost:
        pane.scatter([at for at, _ in lost], [cost for _, cost in lost], s=18, marker="x", color=LOST, label="lost")
    pane.set_yscale("log")
    pane.set_yticks(
        [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000], ["50", "100", "200", "500", "1 s", "2", "5", "10"]
    )
    pane.minorticks_off()
    pane.set_ylabel("first token (ms)")
    pane.set_xlim(window[0] - start, window[1] - start)


def _legend(figure: Any, pane: "Axes") -> None:
    handles, labels = pane.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=8, markerscale=2)
