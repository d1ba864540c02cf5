"""Many matches, on every core, with a line of progress."""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from benchmarks.selection.matches import Match, Result, play
from benchmarks.selection.scenarios import CELLS, LENGTHS, RATES

__all__ = ["run"]

EVERY = 2.0 if sys.stderr.isatty() else 15.0
"""Seconds between two lines of progress."""


def run(matches: Sequence[Match], *, jobs: int) -> list[Result]:
    """Play them all; the longest first. The results come in the order of the matches."""
    results: dict[Match, list[Result]] = {}
    began, told = time.monotonic(), 0.0
    total = sum(map(_work, matches))
    with ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(play, match): match for match in sorted(matches, key=_work, reverse=True)}
        for future in as_completed(running):
            results[running[future]] = future.result()
            done = sum(map(_work, results))
            took = time.monotonic() - began
            left = took * (total - done) / done
            if took - told >= EVERY or len(results) == len(matches):
                told = took
                _tell(f"{len(results)} of {len(matches)} matches, {took:.0f} s, about {left:.0f} s to go")
    _tell("")
    return [result for match in matches for result in results[match]]


def _work(match: Match) -> float:
    """A guess at how long a match takes: its requests, and the probes between them."""
    rate = CELLS[match.cell].rate
    return (RATES[rate] + 0.5) * LENGTHS[rate] * match.shorter * (1 + len(match.contenders))


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
    elif line:
        print(line, file=sys.stderr, flush=True)
