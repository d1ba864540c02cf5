"""One contender, one cell, one seed: played on a stage of its own, and what came of it as numbers."""

import gc
import logging
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan
from random import Random
from typing import TYPE_CHECKING, cast

from benchmarks.selection.caller import Caller, Oracle
from benchmarks.selection.contender import Contender, Stage
from benchmarks.selection.engine import Clock, Engine
from benchmarks.selection.journal import Journal
from benchmarks.selection.network import Network
from benchmarks.selection.overrides import Overridden, smart
from benchmarks.selection.rules import RULES
from benchmarks.selection.scenarios import CELLS
from benchmarks.selection.world import Faults, World

if TYPE_CHECKING:
    from benchmarks.selection.smart import Smart

__all__ = ["CONTENDERS", "ORACLE", "SMART", "Match", "Result", "play", "stage_of"]

SMART, ORACLE = "smartroute", "oracle"
CONTENDERS = (SMART, *RULES)
"""Who plays; the oracle always does."""
MUCH_WORSE = 2.0
"""Seconds by which a request is worse than the oracle's that counts as failed by its routing."""


@dataclass(frozen=True)
class Match:
    """A cell with one seed, and who plays it.

    Attributes:
        shorter: the share of the cell's usual time.
        settings: constants of smartroute that have other values.
        worst: of how many requests the story is to be told.
    """

    cell: str
    seed: int
    contenders: tuple[str, ...] = CONTENDERS
    shorter: float = 1.0
    settings: Overridden = ()
    worst: int = 0


@dataclass(frozen=True)
class Result:
    """What came of one contender.

    Attributes:
        requests: how many were made, `failed` how many of them ended in an error.
        first_token: mean seconds to the first token.
        net: the same without what was mere luck at the endpoint that answered.
        regret: mean seconds beyond the oracle's, net.
        much_worse: the share of requests more than 2 s beyond the oracle's, net.
        unlucky: the same share with all luck, the oracle's and the contender's.
        stays: the share of turns answered where the conversation's last turn was; None: no conversations.
        moves: how often the incumbent was left; per hour.
        probes: per second, of the closed route that got most.
        problems: what must never happen, and did.
        worst: what happened to the requests that were worst off beside the oracle's.
        took: seconds of real time.
    """

    cell: str
    seed: int
    contender: str
    requests: int
    failed: int
    first_token: float
    net: float
    regret: float
    much_worse: float
    unlucky: float
    stays: float | None = None
    moves: float | None = None
    probes: float | None = None
    problems: tuple[str, ...] = ()
    worst: tuple[str, ...] = ()
    took: float = 0.0
    settings: Overridden = ()


def play(match: Match) -> list[Result]:
    """Play a match: the oracle first, then everybody else in the same world."""
    cell = CELLS[match.cell]
    world = cell.world(match.seed, shorter=match.shorter)
    faults = cell.faults(world)
    with _without_collector(), _in_silence():
        best, _, took = _run(ORACLE, world, faults, ())
        results = [_result(match, world, ORACLE, None, best, best, took)]
        for name in match.contenders:
            try:
                journal, contender, took = _run(name, world, faults, match.settings)
                results.append(_result(match, world, name, contender, journal, best, took))
            except Exception:  # noqa: BLE001 - the table is shown all the same, with the seed that did it
                results.append(_crash(match, name, traceback.format_exc(limit=-2)))
            gc.collect()
    return results


def stage_of(name: str, world: World, faults: Faults, settings: Overridden = ()) -> tuple[Stage, Contender]:
    """A stage, and a contender on it."""
    clock = Clock()
    engine = Engine(clock)
    network = Network(clock, world, faults, warm=name == ORACLE)
    stage = Stage(world, engine, network, Journal(world))
    random = Random(f"{world.seed}/{name}")
    if name == ORACLE:
        return stage, Oracle(stage)
    if name == SMART:
        contender: Contender = smart(settings).Smart(stage, faults, random)
        return stage, contender
    return stage, Caller(stage, RULES[name](world.routes, random), random)


def _run(name: str, world: World, faults: Faults, settings: Overridden) -> tuple[Journal, Contender, float]:
    stage, contender = stage_of(name, world, faults, settings)
    began = time.perf_counter()
    stage.engine.run(world.requests, contender.arrive)
    contender.close()
    stage.journal.close()
    return stage.journal, contender, time.perf_counter() - began


def _result(
    match: Match, world: World, name: str, contender: Contender | None, mine: Journal, best: Journal, took: float
) -> Result:
    count = len(mine.costs)
    regrets = [one - other for one, other in zip(mine.net(), best.net(), strict=True)]
    moves = probes = None
    if name == SMART:
        watcher = cast("Smart", contender).watcher
        moves = len(watcher.moves) * 3_600 / world.seconds
        probes = max(made / max(closed, 1.0) for made, closed in zip(watcher.probes, watcher.closed, strict=True))
    return Result(
        cell=match.cell,
        seed=match.seed,
        contender=name,
        requests=count,
        failed=sum(endpoint < 0 for endpoint in mine.endpoints),
        first_token=sum(mine.costs) / count,
        net=sum(mine.net()) / count,
        regret=sum(regrets) / count,
        much_worse=sum(regret > MUCH_WORSE for regret in regrets) / count,
        unlucky=sum(one - other > MUCH_WORSE for one, other in zip(mine.costs, best.costs, strict=True)) / count,
        stays=_stays(world, mine.endpoints),
        moves=moves,
        probes=probes,
        problems=tuple(mine.problems),
        worst=tuple(
            _story(world, mine, regrets, number) for number in _worst(regrets, 0 if name == ORACLE else match.worst)
        ),
        took=took,
        settings=match.settings,
    )


def _crash(match: Match, name: str, why: str) -> Result:
    return Result(match.cell, match.seed, name, 0, 0, nan, nan, nan, nan, nan, problems=(why,), settings=match.settings)


def _worst(regrets: Sequence[float], count: int) -> list[int]:
    return sorted(range(len(regrets)), key=lambda number: regrets[number], reverse=True)[:count]


def _story(world: World, journal: Journal, regrets: Sequence[float], number: int) -> str:
    request = world.requests[number]
    story = journal.stories.get(number) or f"answered by endpoint {journal.endpoints[number]}"
    return f"at {request.at:.1f} s, {request.size} bytes: {regrets[number]:+.2f} s: {story}"


def _stays(world: World, endpoints: Sequence[int]) -> float | None:
    """The share of turns, the first ones aside, that were answered where the turn before was."""
    last: dict[str, int] = {}
    turns = stayed = 0
    for request, endpoint in zip(world.requests, endpoints, strict=True):
        if request.conversation is None:
            return None
        if request.conversation in last:
            turns += 1
            stayed += last[request.conversation] == endpoint
        last[request.conversation] = endpoint
    return stayed / turns if turns else None


@contextmanager
def _in_silence() -> Iterator[None]:
    """Outages are what is played here: no word about them."""
    logger = logging.getLogger("smartroute")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Nothing here is cyclic for long; looking for cycles in a million events takes a third of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
