"""`python -m benchmarks chaos`: processes that play the cells, the matrix, the verdict."""

import argparse
import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.chaos.clients import KINDS
from benchmarks.chaos.engine import CALLS, Result
from benchmarks.chaos.faults import CASES
from benchmarks.chaos.network import isolated, why_not
from benchmarks.chaos.report import report

__all__ = ["Cell", "add_arguments", "cells", "main", "play_all"]

SLOW_JOBS = 10
"""Processes for cells that mostly wait."""
QUICK_JOBS = 4
"""Processes for those whose milliseconds count."""
HANGS = 150.0
"""Seconds after which a cell is given up: a call alone is, long before."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A place in the matrix."""

    case: str
    kind: str
    streamed: bool

    def __str__(self) -> str:
        return f"{self.case}, {self.kind}, {'streamed' if self.streamed else 'whole'}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add = parser.add_argument
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "faults:\n" + "\n".join(f"  {name}" for name in CASES)
    add("--only", action="append", metavar="PATTERN", help="cells whose name has this in it, or fits it; repeatable")
    add("--calls", type=int, default=CALLS, metavar="N", help=f"calls in each round of a cell (default: {CALLS})")
    slow, quick = SLOW_JOBS, QUICK_JOBS
    add("--jobs", type=int, metavar="N", help=f"cells played at once (default: {slow} that wait, then {quick} others)")
    add("--json", dest="file", metavar="FILE", help="write what came of each cell there")


def cells(patterns: Sequence[str] = ()) -> list[Cell]:
    """The matrix, or the part of it that these patterns name."""
    found = [
        Cell(case.name, kind, streamed)
        for case in CASES.values()
        for kind in KINDS
        for streamed in ((False, True) if case.streamed is None else (case.streamed,))
    ]
    return [cell for cell in found if not patterns or any(p in f"{cell}" or fnmatch(f"{cell}", p) for p in patterns)]


def main(given: argparse.Namespace) -> int:
    """Do what was asked; 1 if a promise was broken, 2 for a mistake in the arguments."""
    wanted = cells(given.only or ())
    if not wanted:
        print("no such cell; --help lists the faults", file=sys.stderr)
        return 2
    lacking = why_not()
    skipped = {
        f"{name} is not in this version": [cell for cell in wanted if cell.kind == name]
        for name, kind in KINDS.items()
        if not kind.available
    }
    if lacking is not None:
        skipped[f"a network of its own: {lacking}"] = [cell for cell in wanted if CASES[cell.case].network]
    left_out = {cell for group in skipped.values() for cell in group}
    playing = [cell for cell in wanted if cell not in left_out]
    began = time.monotonic()
    results = asyncio.run(_play_in_turn(playing, given.calls, given.jobs, alone=lacking is None))
    if given.file:
        Path(given.file).write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    print()
    kept = report(results, {why: len(group) for why, group in skipped.items() if group})
    print(f"{len(results)} cells in {time.monotonic() - began:.0f} s")
    return 0 if kept else 1


async def play_all(
    playing: Sequence[Cell], calls: int, jobs: int, *, alone: bool, told: Callable[[Result], object] = lambda _: None
) -> list[Result]:
    """Play the cells in several processes.

    Args:
        alone: whether each process gets a network of its own.
        told: is told what came of each cell at once.
    """
    waiting, results = list(reversed(playing)), list[Result]()

    async def work() -> None:
        worker = _Worker(alone=alone)
        while waiting:
            result = await worker.play(waiting.pop(), calls)
            results.append(result)
            told(result)
        await worker.end()

    await asyncio.gather(*(work() for _ in range(min(jobs, len(playing)))))
    return results


async def _play_in_turn(playing: Sequence[Cell], calls: int, jobs: int | None, *, alone: bool) -> list[Result]:
    """Play the cells that take long, many at a time, and then the others, few at a time."""
    numbers = itertools.count(1)

    def tell(result: Result) -> None:
        print(f"[{next(numbers):{len(f'{len(playing)}')}}/{len(playing)}] {_line(result)}", flush=True)

    results: list[Result] = []
    for slow, usual in ((True, SLOW_JOBS), (False, QUICK_JOBS)):
        some = [cell for cell in playing if CASES[cell.case].is_slow == slow]
        results += await play_all(some, calls, jobs or usual, alone=alone, told=tell)
    return results


class _Worker:
    """A process that plays one cell after the other; another takes its place if it dies."""

    def __init__(self, *, alone: bool) -> None:
        command = [sys.executable, "-m", "benchmarks.chaos.worker"]
        self._command = isolated([*command, "isolated"]) if alone else command
        self._process: asyncio.subprocess.Process | None = None

    async def play(self, cell: Cell, calls: int) -> Result:
        """What came of a cell."""
        if self._process is None:
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=pipe, stdout=pipe, env=_environment(), limit=1 << 24
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({**asdict(cell), "calls": calls}).encode() + b"\n")
            line = await asyncio.wait_for(process.stdout.readline(), HANGS)
            return Result(**json.loads(line))
        except (TimeoutError, ValueError) as error:
            await self.end(kill=True)
            why = "hangs" if isinstance(error, TimeoutError) else "the process that played it died"
            return Result(**asdict(cell), broken=[why])

    async def end(self, *, kill: bool = False) -> None:
        """Let it finish."""
        if self._process is not None:
            if kill and self._process.returncode is None:
                self._process.kill()
            assert self._process.stdin is not None
            self._process.stdin.close()
            await self._process.wait()
            self._process = None


def _environment() -> dict[str, str]:
    """Our environment, but for what would change the clients."""
    ours = ("SMARTROUTE_", "OPENAI_", "FIREWORKS_", "OTEL_")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours) and not k.lower().endswith("_proxy")}


def _line(result: Result) -> str:
    name = Cell(result.case, result.kind, result.streamed)
    verdict = "BROKEN" if result.broken else "ok    "
    told = [_counts({**result.answered, **result.errors})]
    if result.met:
        told.append("met " + " ".join(f"{ms:+.0f}" for ms in sorted(result.met)) + " ms")
    return f"{verdict} {f'{name}':62} {'; '.join([*told, *result.notes, *result.broken])}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {times}" for name, times in sorted(counts.items(), key=_by_number))


def _by_number(item: tuple[str, int]) -> int:
    return -item[1]
