"""What a fault is, and the stage that it is played on."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from benchmarks.chaos.clients import PATIENCE, Call, Caller, Kind
from benchmarks.chaos.traces import Traces
from benchmarks.chaos.world import World, port_of, trust, until_none
from smartroute.events import AttemptStarted

__all__ = ["Case", "Figure", "Outcome", "Stage"]

MOST_TO_SETTLE = 20
"""Calls after which the best region should long have been found."""
MOST_CLIENTS = 5
"""Clients that are tried until one has found it."""


class Outcome(Enum):
    """What has to come of every call."""

    ANSWER = "an answer, whole"
    INTERRUPTION = "an error of the caller's HTTP family, or an answer, whole"
    """For faults that strike after the first content: the first call that meets one cannot be saved."""
    AS_PLAIN = "the exception that the plain SDK raises"
    """For faults that strike everywhere."""


@dataclass(frozen=True, slots=True)
class Figure:
    """How much later the first token may come, of a call that meets the fault.

    Attributes:
        text: in words.
        seconds: at the most, beside `connects` times what a connection to the second-best region takes, and `trips`
            times the best region's time to first token.
    """

    text: str
    seconds: float
    connects: int = 0
    trips: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """A fault, and what has to come of it.

    Attributes:
        name: unique.
        strike: what goes wrong.
        outcome: what has to come of every call.
        streamed: whether it concerns streamed calls only (True), or only others (False); None: both.
        again: whether a second server may see a request.
        figure: how much later the first token may come.
        tls: whether the best region is behind TLS; None: in every other round.
        host: what the best region is called in its URL.
        each: strike before each call anew.
        known: whether it strikes clients that know their routes; None: it strikes one that knows nothing, too.
        network: whether it needs a network of its own.
        patience: the caller's read timeout, in seconds.
        calls: how many are worth making; None: as many as asked for.
        pace: what the latencies are multiplied with.
        check: what else has to hold of the calls; what it gives is broken.
        play: how it is played; None: the usual way.
    """

    name: str
    strike: Callable[[World], object]
    outcome: Outcome = Outcome.ANSWER
    streamed: bool | None = None
    again: bool = True
    figure: Figure | None = None
    tls: bool | None = None
    host: str | None = None
    each: bool = False
    known: bool | None = None
    network: bool = False
    patience: float = PATIENCE
    calls: int | None = None
    pace: float = 1.0
    check: Callable[[Stage, Sequence[Call]], list[str]] | None = None
    play: Callable[[Stage], Awaitable[None]] | None = None

    @property
    def is_slow(self) -> bool:
        """Whether it takes long to play."""
        return (
            self.play is not None or self.patience < PATIENCE or (self.figure is not None and self.figure.seconds > 1)
        )


@dataclass
class Stage:
    """Where one cell is played, and what came of it.

    Attributes:
        calls: every call that was made with the fault about.
        baseline: seconds to the first token of the calls that went to the second-best region in the first place.
        trips: the same of calls that the best region answered while it was healthy.
        met: seconds to the first token of the calls that met the fault; `after`: of those after them; `cold`: of the
            first call of clients that knew nothing.
        opened: routes that were open when their client was closed.
        left: connections that were open after their client had been closed.
        figures: what the play has measured.
        notes: what the play has to say.
        broken: promises that were not kept.
        traces: what the traces tell of the routed calls.
    """

    case: Case
    kind: Kind
    streamed: bool
    world: World
    wanted: int
    rounds: int
    calls: list[Call] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    trips: list[float] = field(default_factory=list)
    met: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    left: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    traces: Traces = field(default_factory=Traces)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def ask(self, caller: Caller, *, note: bool = True, patience: float | None = None) -> Call:
        """Make a call; `note` it as one that is to be judged."""
        name = f"{'call' if note else 'other'}-{next(self._numbers)}"
        seconds = self.case.patience if patience is None else patience
        is_routed = hasattr(caller.http_client, "router")
        with self.traces.call() if is_routed else nullcontext(list[Call]()) as made:
            made.append(call := await caller.ask(name, streamed=self.streamed, patience=seconds))
        if note:
            self.calls.append(call)
        return call

    @asynccontextmanager
    async def client(self, *names: str, knowing: bool = False) -> AsyncIterator[Caller]:
        """A routing client with routes to these regions; in the end it is closed, and everything healed.

        Args:
            knowing: it has found already that the first of them is the best.
        """
        caller = self._routing(*names)
        try:
            for _ in range(MOST_CLIENTS if knowing else 0):
                if await self.settle(caller, names[0]):
                    break
                await caller.close()  # what it measured had little to do with the regions: the machine is busy
                caller = self._routing(*names)
            else:
                self.notes += [f"{names[0]} was not found to be the best"] if knowing else []
            yield caller
        finally:
            self.opened |= {route.name for route in caller.http_client.router.status() if route.state == "open"}
            await caller.close()
            if "best" in names:
                await self._look_for_connections()

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[Caller]:
        """The plain SDK, which calls the global endpoint."""
        caller = Caller(self.kind, self.kind.plain(trust()), self.world.globe.url, "fake-console-key")
        try:
            yield caller
        finally:
            await caller.close()

    async def settle(self, caller: Caller, name: str | None = None) -> bool:
        """Make calls until all regions are known, and this one is in use; whether it came to that."""
        for _ in range(MOST_TO_SETTLE):
            call = await self.ask(caller, note=False, patience=PATIENCE)
            if call.route == "best" and call.first is not None:
                self.trips.append(call.first)
            measured = all(status.round_trip is not None for status in caller.http_client.router.status())
            if measured and name in (None, call.route):
                return True
        return False

    def count_attempts(self, caller: Caller) -> list[float]:
        """A list that gets a time for each attempt that is started from now on, whether it is sent or not."""
        started: list[float] = []

        def listen(event: Any) -> None:
            if isinstance(event, AttemptStarted):
                started.append(time.monotonic())

        caller.http_client.router.subscribe(listen)
        return started

    def _routing(self, *names: str) -> Caller:
        config = self.world.config(*names, host=self.case.host, backend=self.kind.backend)
        client = self.kind.client(config, trust())
        self.traces.watch(client.router)
        return Caller(self.kind, client, self.world.globe.url, "fake-console-key")

    async def _look_for_connections(self) -> None:
        """Count what the client that was just closed has left open at the region that only it knows."""
        network = self.world.network
        self.world.heal()
        if network is not None and self.case.network:  # the server may never hear of the end of a dead connection
            port = port_of(self.world.best)
            self.left += await until_none(lambda: network.connections(port))
        else:
            regions = self.world.best, *self.world.impostors
            self.left += await until_none(lambda: sum(region.open_connections for region in regions))
