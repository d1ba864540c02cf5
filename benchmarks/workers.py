"""Contenders, each in a process of its own, called in turn so that a drift of the machine hits all alike."""

import json
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.servers import ROOT

__all__ = ["AGAIN", "BARE", "KEPT", "Case", "Contender", "Samples", "Worker", "interleaved", "say"]


class Contender(NamedTuple):
    """One way to call.

    Attributes:
        name: what tables call it.
        spec: what it is, for `benchmarks.contender`.
        environment: its folder in `.venvs`; none: this one.
    """

    name: str
    spec: dict[str, Any]
    environment: str | None = None

    @property
    def python(self) -> Path:
        """The interpreter it runs under."""
        return Path(sys.executable) if self.environment is None else ROOT / ".venvs" / self.environment / "bin/python"


BARE = Contender("SDK", {"kind": "bare"})
AGAIN = Contender("SDK again", {"kind": "bare"})
"""How far two equals differ is the measurement's error."""
KEPT = Contender("SDK, connection kept", {"kind": "bare", "kept": True})


class Case(NamedTuple):
    """What the contenders do, and who.

    Attributes:
        order: for `benchmarks.contender`.
        contenders: their names; the first is what the others are compared with.
    """

    name: str
    order: dict[str, Any]
    contenders: Sequence[str]


Samples = dict[str, dict[str, dict[str, list[float]]]]
"""By case, contender and measure: a figure for each round."""


class FailedError(Exception):
    """A contender could not do what it was told."""


class Worker:
    """The process of a contender."""

    def __init__(self, contender: Contender) -> None:
        self._process = subprocess.Popen(
            [str(contender.python), "-m", "benchmarks.contender", json.dumps(contender.spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if contender.environment else None,  # peers talk a lot
            text=True,
            cwd=ROOT,
        )

    def do(self, order: dict[str, Any]) -> dict[str, float]:
        """Have it carry out an order.

        Raises:
            FailedError: it could not, or has died.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise FailedError("it has ended") from None
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer:
                    raise FailedError(answer["error"])
                return answer
        raise FailedError("it has ended")

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._process.terminate()
        self._process.wait()


@contextmanager
def working(contenders: Iterable[Contender]) -> Iterator[dict[str, Worker]]:
    """A process for each."""
    with ExitStack() as stack:
        workers = {}
        for contender in contenders:
            workers[contender.name] = worker = Worker(contender)
            stack.callback(worker.close)
        yield workers


def interleaved(
    contenders: Sequence[Contender], cases: Sequence[Case], *, rounds: int, sessions: int
) -> tuple[Samples, dict[str, str]]:
    """Measure all cases with all of their contenders, in turn and in another order each round.

    Args:
        rounds: how many that count, in each session; one more before them warms up.
        sessions: how often all processes are started anew: how one lies in memory is a matter of luck.

    Returns:
        the samples, and why contenders were left out, by their names.
    """
    order = random.Random(1)
    samples: Samples = {case.name: {} for case in cases}
    left_out = {
        each.name: f".venvs/{each.environment} is missing: run `make bench-environments`"
        for each in contenders
        if not each.python.exists()
    }
    for session in range(sessions):
        with working(each for each in contenders if each.name not in left_out) as workers:
            for round_ in range(rounds + 1):
                for case in cases:
                    taking_part = [name for name in case.contenders if name not in left_out]
                    order.shuffle(taking_part)
                    for name in taking_part:
                        try:
                            figures = workers[name].do(case.order)
                        except FailedError as error:
                            left_out[name] = str(error)
                            continue
                        for measure, figure in figures.items() if round_ else ():
                            samples[case.name].setdefault(name, {}).setdefault(measure, []).append(figure)
                say(f"\rsession {session + 1} of {sessions}, round {round_} of {rounds} ")
    say("\n")
    for found in samples.values():
        for name in left_out:
            found.pop(name, None)
    for name, why in left_out.items():
        say(f"LEFT OUT: {name}: {why}\n")
    return samples, left_out


def say(text: str) -> None:
    """To whoever waits."""
    print(text, end="", file=sys.stderr, flush=True)
