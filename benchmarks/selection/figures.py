"""The figures to reach: how each is read from the results, and what it should be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.selection.matches import ORACLE, SMART, Result
from benchmarks.selection.scenarios import CELLS

__all__ = ["FIGURES", "Figure", "Reached", "behind", "reached"]

RIVAL = "P2C PeakEWMA"
TOLERATED = 1.05
"""smartroute may be so much worse than the best baseline of a cell."""
ASIDE = (SMART, ORACLE, "static best route")
"""Who is no measure for smartroute: the static best route is configured by somebody who knows it."""


@dataclass(frozen=True)
class Figure:
    """A figure to reach.

    Attributes:
        read: its value in a result; None: the result says nothing of it.
        cells: the cells it is read from, the worst of them counts.
        target: what it may be at most (or at `least`); None: what the rival reaches.
        scale, digits, unit: how it is printed.
    """

    title: str
    column: str
    read: Callable[[Result], float | None]
    cells: tuple[str, ...]
    target: float | None
    scale: float
    digits: int
    unit: str
    least: bool = False


@dataclass(frozen=True)
class Reached:
    """What became of a figure: `median` and `worst` of the seeds, and what was to be reached."""

    figure: Figure
    median: float
    worst: float
    target: float

    def misses(self, value: float) -> bool:
        """Whether a value, as it is printed, is beyond the target."""
        shown = round(value * self.figure.scale, self.figure.digits)
        wanted = round(self.target * self.figure.scale, self.figure.digits)
        return shown < wanted if self.figure.least else shown > wanted


def _row(
    title: str,
    read: Callable[[Result], float | None],
    cells: Sequence[str],
    targets: Sequence[float],
    scale: float,
    digits: int,
    unit: str,
) -> list[Figure]:
    return [
        Figure(title, rate, read, tuple(f"{cell} {rate}" for cell in cells), target, scale, digits, unit)
        for rate, target in zip(("1/min", "1/s", "20/s"), targets, strict=True)
    ]


FIGURES = (
    *_row("regret, steady", lambda r: r.regret, ["steady"], (0.015, 0.008, 0.008), 1e3, 1, "ms"),
    *_row("> 2 s worse, blackhole", lambda r: r.much_worse, ["blackhole"], (0, 0.0002, 0.0001), 100, 3, "%"),
    *_row("> 2 s worse, brownout", lambda r: r.much_worse, ["brownout"], (0.002, 0, 0.0001), 100, 3, "%"),
    *_row("moves per hour, steady", lambda r: r.moves, ["steady"], (2, 6, 6), 1, 1, ""),
    *_row("probes per second", lambda r: r.probes, ["steady", "blackhole", "brownout"], (0.1, 0.12, 0.2), 1, 2, ""),
    Figure("first token, saturation", "50/s", lambda r: r.first_token, ("saturation 50/s",), None, 1e3, 0, "ms"),
    Figure("turns that stay", "1/s", lambda r: r.stays, ("conversations 1/s",), 0.99, 100, 2, "%", least=True),
)
"""The table of issue 3."""


def reached(results: Sequence[Result]) -> list[Reached]:
    """The figures that the results speak of."""
    found = []
    for figure in FIGURES:
        mine = _by_seed(figure, results, SMART)
        target = figure.target
        if target is None and (rival := _by_seed(figure, results, RIVAL)):
            target = median(rival)
        if mine and target is not None:
            worst = min(mine) if figure.least else max(mine)
            found.append(Reached(figure, median(mine), worst, target))
    return found


def _by_seed(figure: Figure, results: Sequence[Result], contender: str) -> list[float]:
    values: dict[int, list[float]] = {}
    for result in results:
        if result.cell in figure.cells and result.contender == contender and result.requests:
            value = figure.read(result)
            if value is not None:
                values.setdefault(result.seed, []).append(value)
    return [min(of_one) if figure.least else max(of_one) for of_one in values.values()]


def behind(results: Sequence[Result]) -> list[str]:
    """The cells where smartroute is worse than the best baseline by more than is tolerated, and how."""
    told = []
    measures: list[tuple[str, Callable[[Result], float], float, float]] = [
        ("mean first token, ms", lambda r: r.net, 1e3, 0.0),
        ("> 2 s worse, %", lambda r: r.much_worse, 1e2, 0.0001),
    ]
    for cell in CELLS:
        here = [result for result in results if result.cell == cell and result.requests]
        mine = [result for result in here if result.contender == SMART]
        rivals = {result.contender for result in here if result.contender not in ASIDE}
        if not mine or not rivals:
            continue
        for what, read, scale, slack in measures:
            of_rivals = {name: median(read(r) for r in here if r.contender == name) for name in rivals}
            best = min(of_rivals, key=lambda name: of_rivals[name])
            value = median(read(r) for r in mine)
            if value > of_rivals[best] * TOLERATED + slack:
                told.append(f"{cell}: {what}: {value * scale:.3g}; {best}: {of_rivals[best] * scale:.3g}")
    return told
