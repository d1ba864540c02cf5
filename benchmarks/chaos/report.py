"""The matrix, and what it says about the promises."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from benchmarks.chaos.engine import Result
from benchmarks.chaos.faults import CASES
from benchmarks.tables import table

__all__ = ["report"]

ENDPOINTS = ("best", "second", "third", "global")
HEAD = ("fault", "", "calls", "answered by", "met", "at most", "", "after", "cold", *ENDPOINTS, "left")
EXPLAINED = """\
met, after, cold: by how many ms the first token (of calls that are not streamed: the answer) came later than where the
second-best region was asked in the first place; medians of the calls that met the fault, of those after them, and of
the first call of clients that knew nothing. At most: the figure that `met` should not exceed. best, second, third,
global: attempts that each server saw, per call. left: connections open after their client was closed."""
MOST_ATTEMPTS = 4
"""Attempts of one call at the most."""
EMPTIED = 1.2
"""Attempts per call that an outage may be fed with once the budget is empty."""
NOISE = 5.0
"""Milliseconds that calls may be late, as a median, once nothing is left to be found out."""
BACK = 30.0
"""Seconds after which a healed region should be in use again."""
FIGURES = {
    "most attempts": "attempts of one call in a full outage",
    "attempts": "attempts per call in a full outage once the budget is empty",
    "back": "seconds until a healed region is in use again",
}

Rows = dict[tuple[str, bool], list[Result]]


def report(results: Sequence[Result], skipped: Mapping[str, int]) -> bool:
    """Print everything; whether all promises were kept.

    Args:
        results: what came of each cell.
        skipped: how many cells were not played, by the reason.
    """
    rows: Rows = {}
    for result in sorted(results, key=lambda result: (list(CASES).index(result.case), result.streamed)):
        rows.setdefault((result.case, result.streamed), []).append(result)
    print(table([HEAD, *(_row(*key, group) for key, group in rows.items())]), f"\n{EXPLAINED}\n", sep="\n")
    _print_figures(rows)
    _print_promises(results)
    for result in results:
        if result.broken:
            streamed = "streamed" if result.streamed else "whole"
            print(f"BROKEN   {result.case}, {result.kind}, {streamed}: {'; '.join(result.broken)}")
    for why, cells in skipped.items():
        print(f"SKIPPED  {cells} cells: {why}")
    return not any(result.broken for result in results)


def _row(case: str, streamed: bool, group: Sequence[Result]) -> tuple[str, ...]:
    calls = sum(result.calls for result in group)
    answered, errors, seen = (_total(getattr(r, name) for r in group) for name in ("answered", "errors", "seen"))
    met, after, cold = (_median(group, name) for name in ("met", "after", "cold"))
    most = _most(case, group)
    verdict = "" if met is None or most is None else ("ok" if met <= most else "MISSED")
    per_call = (f"{seen[name] / calls:.2f}" if seen[name] else "" for name in ENDPOINTS)
    return (
        case,
        "streamed" if streamed else "whole",
        f"{calls}",
        ", ".join(f"{name} {times}" for name, times in (answered + errors).most_common()),
        _ms(met),
        _ms(most),
        verdict,
        _ms(after),
        _ms(cold),
        *per_call,
        f"{sum(result.left for result in group)}",
    )


def _print_figures(rows: Rows) -> None:
    """Each figure to reach, and the fault that came nearest to missing it."""
    print("Figures:")
    judged: dict[str, list[tuple[float, float, str]]] = {}
    for (case, streamed), group in rows.items():
        figure, name = CASES[case].figure, f"{case}, {'streamed' if streamed else 'whole'}"
        met, after, cold = (_median(group, kind) for kind in ("met", "after", "cold"))
        most = _most(case, group)
        if figure is not None and met is not None and most is not None:
            judged.setdefault(f"extra time to first token at most {figure.text}", []).append((met, most, name))
        if figure is not None and figure.seconds > 1 and cold is not None:
            text = f"the same, first call of a client that knows nothing, at most {figure.text}"
            judged.setdefault(text, []).append((cold, figure.seconds * 1e3, name))
        if figure is not None and after is not None:
            judged.setdefault(f"once it is known: nothing ({NOISE:.0f} ms of noise)", []).append((after, NOISE, name))
        for what, most in (("most attempts", MOST_ATTEMPTS), ("attempts", EMPTIED), ("back", BACK)):
            found = [result.figures[what] for result in group if what in result.figures]
            if found:
                judged.setdefault(FIGURES[what], []).append((max(found), most, name))
    for text, measured in judged.items():
        missed = sorted((each for each in measured if each[0] > each[1]), reverse=True)
        worst = max(measured, key=lambda each: each[0] - each[1])
        print(f"{'MISSED' if missed else 'reached':8} {text}; the worst: {worst[0]:.4g} of {worst[1]:.4g} ({worst[2]})")
        for value, most, name in missed:
            print(f"{'':10}{name}: {value:.4g} of {most:.4g}")


def _print_promises(results: Sequence[Result]) -> None:
    print(f"\nPromises, in {sum(result.calls for result in results):,} calls:")
    promises: tuple[tuple[str, Callable[[Result], int]], ...] = (
        ("failed calls", lambda result: result.failed),
        ("truncated answers that look like successes", lambda result: result.truncated),
        ("requests with a key or to a server that do not fit", lambda result: len(result.breaches)),
        ("requests seen by two servers though their class forbids it", lambda result: result.twice),
        ("connections left open", lambda result: result.left),
    )
    for name, count in promises:
        total = sum(map(count, results))
        print(f"{'BROKEN' if total else 'kept':8} {total} {name}")


def _most(case: str, group: Sequence[Result]) -> float | None:
    figure = CASES[case].figure
    if figure is None:
        return None
    connect = median(result.connect for result in group)
    trip = median([result.trip for result in group if result.trip is not None] or [0.0])
    return figure.seconds * 1e3 + figure.connects * connect + figure.trips * trip


def _median(group: Sequence[Result], name: str) -> float | None:
    values = [value for result in group for value in getattr(result, name)]
    return median(values) if values else None


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    return sum((Counter(each) for each in counts), Counter[str]())
