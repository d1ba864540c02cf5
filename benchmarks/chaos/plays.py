"""How faults are played: the usual way, and as stories."""

import asyncio
import time

from benchmarks.chaos.clients import Caller
from benchmarks.chaos.stage import Stage
from benchmarks.chaos.world import LATENCIES

__all__ = ["EMPTYING", "back_again", "flapping", "outage", "recovery", "saturation", "usual"]

COLD = 2
"""Calls of a client that knows nothing."""
ROUTES = ("best", "second", "third")
EMPTYING = 40
"""Calls that empty the budget."""
AT_ONCE = 8
"""Calls side by side, where there is load."""
BACK_WITHIN = 30.0
"""Seconds in which a healed region should be in use again."""


async def usual(stage: Stage) -> None:
    """Rounds with a new client each, to which the fault is news: at first to one that knows nothing yet.

    Each call is followed, or preceded, by one of a client whose best region is the second-best.
    """
    async with stage.client("second", "third", knowing=True) as other:
        first = 1 if stage.case.known is True else 0
        last = 0 if stage.case.known is False else stage.rounds
        for number in range(first, last + 1):
            tls = stage.case.tls
            stage.world.renew_best(tls=number % 2 == 1 if tls is None else tls)
            async with stage.client(*ROUTES, knowing=number > 0) as caller:
                stage.case.strike(stage.world)
                if number:
                    await _compare(stage, caller, other)
                else:
                    calls = [await stage.ask(caller) for _ in range(COLD)]
                    stage.cold += [call.first for call in calls[:1] if call.first is not None]
                    for _ in calls:
                        await _refer(stage, other)


async def _compare(stage: Stage, caller: Caller, other: Caller) -> None:
    for number in range(stage.case.calls or stage.wanted):
        if stage.case.each and number:
            stage.case.strike(stage.world)
        if number % 2:
            await _refer(stage, other)
        call = await stage.ask(caller)
        if not number % 2:
            await _refer(stage, other)
        if call.first is None:
            continue
        if number == 0 or call.attempts > 1 or stage.case.each:
            stage.met.append(call.first)
        else:
            stage.after.append(call.first)


async def _refer(stage: Stage, other: Caller) -> None:
    """Make a call whose first choice is the second-best region."""
    call = await stage.ask(other, note=False)
    if call.first is not None and call.route == "second":
        stage.baseline.append(call.first)


async def outage(stage: Stage) -> None:
    """Everything fails, for as many calls as it takes to empty the budget."""
    async with stage.client(*ROUTES) as caller:
        await stage.settle(caller)
        started = stage.count_attempts(caller)
        stage.case.strike(stage.world)
        per_call: list[int] = []
        for _ in range(stage.case.calls or stage.wanted):
            before = len(started)
            await stage.ask(caller)
            per_call.append(len(started) - before)
        last = per_call[len(per_call) * 2 // 3 :]
        rate = sum(last) / len(last)
        stage.figures["most attempts"] = max(per_call)
        if len(per_call) >= EMPTYING and stage.case.again:  # what no server sees feeds no outage
            stage.figures["attempts"] = rate
        stage.notes.append(f"attempts per call: {max(per_call)} at the most, {rate:.2f} in the end")


async def back_again(stage: Stage) -> None:
    """Everything is down, and comes back: calls fail as they must, and then no more."""
    async with stage.client(*ROUTES, knowing=True) as caller:
        for region in stage.world.endpoints:
            region.stop()
        down = [await stage.ask(caller, note=False) for _ in range(stage.wanted)]
        stage.broken += [f"an answer from nowhere: {call.text}" for call in down if call.error is None]
        for region in stage.world.endpoints:
            region.start()
        for _ in range(stage.wanted):
            await stage.ask(caller)
        await _until_back(stage, caller)


async def flapping(stage: Stage) -> None:
    """The best region dies and comes back, again and again, while calls are made."""
    async with stage.client(*ROUTES, knowing=True) as caller, _Load(stage, caller, 2):
        for _ in range(2):
            stage.world.best.stop()
            await asyncio.sleep(0.4)
            stage.world.best.start()
            await asyncio.sleep(2.2)  # long enough for it to be used again


async def recovery(stage: Stage) -> None:
    """The best region dies under load, and comes back under load."""
    async with stage.client(*ROUTES, knowing=True) as caller, _Load(stage, caller, AT_ONCE):
        stage.world.best.stop()
        await asyncio.sleep(0.5)
        stage.world.best.start()
        await _until_back(stage, None)


async def saturation(stage: Stage) -> None:
    """Three times as many calls at once as the best region can serve, and more than two can."""
    world = stage.world
    async with stage.client(*ROUTES, knowing=True) as caller:
        world.best.capacity, world.second.capacity = AT_ONCE, AT_ONCE // 2
        for _ in range(2):
            await asyncio.gather(*(stage.ask(caller) for _ in range(3 * AT_ONCE)))


async def _until_back(stage: Stage, caller: Caller | None) -> None:
    """Wait until the best region answers again; with a caller, make the calls for that."""
    began, calls = time.monotonic(), len(stage.calls)
    while time.monotonic() - began < BACK_WITHIN:
        if caller is not None:
            await stage.ask(caller)
        await asyncio.sleep(LATENCIES["best"])
        if any(call.route == "best" for call in stage.calls[calls:]):
            break
    seconds = time.monotonic() - began
    stage.figures["back"] = seconds
    stage.notes.append(f"back on the best route after {seconds:.1f} s")


class _Load:
    """Calls without end, so many at a time."""

    def __init__(self, stage: Stage, caller: Caller, at_once: int) -> None:
        self._stage, self._caller = stage, caller
        self._tasks: list[asyncio.Task[None]] = []
        self._at_once = at_once
        self._enough = False

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.create_task(self._go_on()) for _ in range(self._at_once)]

    async def __aexit__(self, *_: object) -> None:
        self._enough = True
        await asyncio.gather(*self._tasks)

    async def _go_on(self) -> None:
        while not self._enough:
            await self._stage.ask(self._caller)
            await asyncio.sleep(0.05)
