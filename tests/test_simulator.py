"""The simulator plays the shipped router: short matches, exactly repeatable, in which nothing is ever lost."""

from dataclasses import replace

import pytest

from benchmarks.selection.matches import ORACLE, SMART, Match, Result, play
from benchmarks.selection.scenarios import CELLS

CELLS_AT_ONE_A_SECOND = [name for name, cell in CELLS.items() if cell.rate == "1/s"]


SHORT = 0.15
"""The share of a match's usual time."""


def smart(cell: str, seed: int) -> Result:
    results = play(Match(cell, seed, (SMART,), SHORT))
    return next(result for result in results if result.contender == SMART)


@pytest.mark.parametrize("cell", CELLS_AT_ONE_A_SECOND)
def test_nothing_is_lost_whatever_breaks(cell: str) -> None:
    oracle, mine = play(Match(cell, 1, (SMART,), SHORT))
    assert (oracle.contender, mine.contender) == (ORACLE, SMART)
    assert mine.problems == ()
    assert mine.requests > 500
    assert mine.failed <= oracle.failed  # nobody can answer while this machine is offline
    assert mine.regret < 0.100


def test_a_seed_gives_the_same_match_twice() -> None:
    once, again = smart("flapping 1/s", 3), smart("flapping 1/s", 3)
    assert replace(once, took=0.0) == replace(again, took=0.0)
    assert smart("flapping 1/s", 4).regret != once.regret


def test_it_beats_chance() -> None:
    results = {each.contender: each for each in play(Match("steady 1/s", 2, (SMART, "random"), SHORT))}
    assert results[SMART].regret < results["random"].regret / 5
