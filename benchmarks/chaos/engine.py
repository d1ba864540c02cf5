"""One cell of the matrix: a fault, a kind of client, streamed or not."""

import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

import openai

from benchmarks.chaos.clients import Kind
from benchmarks.chaos.network import Network
from benchmarks.chaos.plays import usual
from benchmarks.chaos.stage import Case, Outcome, Stage
from benchmarks.chaos.world import ANSWERS, World, until_none

__all__ = ["CALLS", "ROUNDS", "Result", "judge", "play"]

CALLS = 4
"""Calls in each round."""
ROUNDS = 2
"""Rounds in which the client knows its routes, beside one in which it knows nothing; one of what takes long."""


@dataclass
class Result:
    """What came of a cell. All times are in milliseconds.

    Attributes:
        calls: how many were made with the fault about.
        failed: how many of them raised what they should not have.
        truncated: how many of them gave as complete what is not.
        breaches: what a server heard that it should not have heard.
        twice: calls that two servers saw though their class does not allow it.
        left: connections that were open after their client had been closed.
        answered: who answered how often.
        errors: what was raised how often.
        seen: how many attempts each server saw; `most`: how many of one call's all servers together.
        connect: how long a connection to the second-best region takes.
        trip: how long the best region takes for the first token while it is healthy.
        met: how much later the first token came than where the second-best region was the first choice, of calls that
            met the fault; `after`: of those after them; `cold`: of the first call of a client that knew nothing.
        figures: what else was measured.
        notes: the same in words.
        broken: the promises that were not kept, in words.
        seconds: how long it took to play.
    """

    case: str
    kind: str
    streamed: bool
    calls: int = 0
    failed: int = 0
    truncated: int = 0
    breaches: list[str] = field(default_factory=list)
    twice: int = 0
    left: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    most: int = 0
    connect: float = 0.0
    trip: float | None = None
    met: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def play(
    case: Case,
    kind: Kind,
    *,
    streamed: bool,
    network: Network | None = None,
    calls: int = CALLS,
    rounds: int | None = None,
) -> Result:
    """Play a cell, and judge it."""
    began = time.monotonic()
    with World(network, pace=case.pace) as world:
        stage = Stage(case, kind, streamed, world, calls, rounds or (1 if case.is_slow else ROUNDS))
        result = Result(case.name, kind.name, streamed, connect=await world.connect_time() * 1e3)
        await (case.play or usual)(stage)
        others = world.second, world.third, world.globe
        result.left = stage.left + await until_none(lambda: sum(region.open_connections for region in others))
        await until_none(lambda: stage.traces.open)
        expected = await _plain_error(stage) if case.outcome is Outcome.AS_PLAIN else None
        judge(stage, expected, result)
    result.seconds = time.monotonic() - began
    return result


async def _plain_error(stage: Stage) -> type[Exception] | None:
    """What the plain SDK raises under the same fault."""
    stage.case.strike(stage.world)
    async with stage.plain() as caller:
        call = await stage.ask(caller, note=False)
    return None if call.error is None else type(call.error)


def judge(stage: Stage, expected: type[Exception] | None, result: Result) -> None:
    """Say of what happened on a stage what it was, and what should not have been.

    Args:
        expected: the type of exception that the plain SDK raises, where that is the outcome.
    """
    case, calls, seen = stage.case, stage.calls, stage.world.seen()
    attempts = [seen.get(call.name, Counter()) for call in calls]
    errors = [call.error for call in calls if call.error is not None]
    unfit = Counter(repr(error) for error in errors if not _is_fit(error, stage, expected))
    result.calls = len(calls)
    result.failed = unfit.total()
    result.truncated = sum(call.error is None and call.text not in ANSWERS for call in calls)
    result.breaches = stage.world.breaches()
    result.twice = 0 if case.again else sum(len(servers) > 1 for servers in attempts)
    result.answered = dict(Counter(call.route for call in calls if call.error is None))
    result.errors = dict(Counter(type(error).__name__ for error in errors))
    result.seen = dict(sum(attempts, Counter[str]()))
    result.most = max(servers.total() for servers in attempts)
    if stage.trips:
        result.trip = median(stage.trips) * 1e3
    if stage.baseline:
        usually = median(stage.baseline)
        for name in ("met", "after", "cold"):
            setattr(result, name, [(first - usually) * 1e3 for first in getattr(stage, name)])
    result.figures, result.notes = stage.figures, stage.notes
    result.broken = [
        *stage.broken,
        *(f"{times} failed: {error}" for error, times in unfit.items()),
        *([f"{result.truncated} truncated successes"] if result.truncated else []),
        *result.breaches,
        *([f"{result.twice} seen by two servers"] if result.twice else []),
        *([f"{result.left} connections left"] if result.left else []),
        *(["nobody met the fault"] if case.outcome is not Outcome.ANSWER and not errors else []),
        *(case.check(stage, calls) if case.check else []),
        *stage.traces.flaws(stage.world.received()),
    ]


def _is_fit(error: Exception, stage: Stage, expected: type[Exception] | None) -> bool:
    """Whether this is what a call had to raise."""
    match stage.case.outcome:
        case Outcome.ANSWER:
            return False
        case Outcome.INTERRUPTION:
            return isinstance(error, (stage.kind.transport_error, openai.APIError))
        case Outcome.AS_PLAIN:
            return type(error) is expected
