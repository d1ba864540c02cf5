"""What one contender's packets meet: its own connections, its own load, and the world's faults."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from benchmarks.selection.engine import Clock
from benchmarks.selection.faults import Blow, Fault, Stretch, What
from benchmarks.selection.world import CACHE_TIME, CACHED, JITTER, MEAN_NOISE, Faults, Request, World, service

__all__ = ["Network", "Reply"]

KEPT = 55.0
"""Seconds for which an idle connection is kept."""
SPARE_TIME = 20.0
"""Seconds for which a TCP connection is kept that lost a race and was not used."""


class Reply(NamedTuple):
    """What becomes of a request.

    Attributes:
        at: when its first token, or what comes instead, is there; infinite: never.
        how: `content`, or as in `Blow`.
        ends: when the answer is complete, or breaks off.
        ending: `complete`, or as in `Blow`.
        luck: by how many seconds chance alone made the first token late (or, below zero, early).
    """

    at: float
    how: str
    status: int = 200
    wait: float | None = None
    ends: float = inf
    ending: str = "complete"
    luck: float = 0.0


class Network:
    """The endpoints as one contender finds them.

    Args:
        warm: every connection is open already (for the oracle).

    Attributes:
        flying: how many requests are on their way at each endpoint.
    """

    def __init__(self, clock: Clock, world: World, faults: Faults, *, warm: bool = False) -> None:
        self._clock = clock
        self._world = world
        self._warm = warm
        endpoints = range(world.routes + 1)
        self._faults: list[Sequence[Fault]] = [sorted(faults.get(e, ()), key=lambda f: f.start) for e in endpoints]
        self._killed = [-inf for _ in endpoints]
        self._idle: list[list[float]] = [[] for _ in endpoints]
        self._spare: list[list[float]] = [[] for _ in endpoints]
        self._prompts: dict[tuple[int, str], tuple[int, float]] = {}
        self.flying = [0 for _ in endpoints]

    # Connections

    def has_idle(self, endpoint: int) -> bool:
        """Whether there is a connection that can be used at once."""
        return self._good(self._idle[endpoint], endpoint, KEPT)

    def take_idle(self, endpoint: int) -> bool:
        """Use an open connection, the one used last, if there is one."""
        if self._warm:
            return True
        if not self.has_idle(endpoint):
            return False
        self._idle[endpoint].pop()
        return True

    def give_back(self, endpoint: int) -> None:
        """A connection has served, and can serve again."""
        self._idle[endpoint].append(self._clock.now)

    def take_spare(self, endpoint: int) -> bool:
        """Use a TCP connection that lost a race, if there is one."""
        if not self._good(self._spare[endpoint], endpoint, SPARE_TIME):
            return False
        self._spare[endpoint].pop()
        return True

    def give_spare(self, endpoint: int) -> None:
        """A TCP connection is open and nobody needs it now."""
        self._spare[endpoint].append(self._clock.now)

    def handshake(self, endpoint: int, way: float, begins: float | None = None) -> Blow:
        """One round trip of a TCP or TLS handshake: `open` when it is done, or what happens instead."""
        begins = self._clock.now if begins is None else begins
        return self._round(endpoint, What.HANDSHAKE, way, begins)

    def connect(self, endpoint: int, way: float) -> Blow:
        """TCP and TLS."""
        tcp = self.handshake(endpoint, way)
        return self.handshake(endpoint, way, tcp.at) if tcp.how == "open" else tcp

    # Traffic

    def probe(self, endpoint: int, way: float, begins: float) -> Blow:
        """A small GET over an open connection: `open` when it is answered, or what happens instead."""
        return self._round(endpoint, What.PROBE, way, begins)

    def depart(self, endpoint: int, request: Request) -> Reply:
        """The first byte of a request is written. Everything that follows is settled now."""
        self.flying[endpoint] += 1
        reply = self.outlook(endpoint, request, self.flying[endpoint])
        if request.conversation is not None and reply.how == "content":
            self._prompts[endpoint, request.conversation] = request.size, reply.at
        return reply

    def outlook(self, endpoint: int, request: Request, flying: int) -> Reply:
        """What would become of a request that departs now as one of so many."""
        world, now, number = self._world, self._clock.now, request.number
        way, near = world.ways[endpoint][number], world.round_trip(endpoint)
        noise = world.noises[endpoint][number]
        serving = service(self._work(endpoint, request)) * world.factor(endpoint, now) * noise
        generation = request.generation
        knee = world.knee if endpoint < world.routes else inf
        faults = self._near(endpoint)
        for fault in faults:
            if fault.start > now:
                break
            if fault.until > now:
                way, near = way * fault.farther, near * fault.farther
                serving *= fault.slower
                generation *= fault.slower
                knee = fault.knee(now, knee)
        if flying > knee:
            serving *= (flying / knee) ** 3
            generation *= flying / knee
        first = now + way + serving
        ends = first + generation
        luck = serving * (1 - MEAN_NOISE / noise) + way - near * (1 + JITTER)
        if faults and faults[0].start < ends:
            lot = world.lot(endpoint, number)
            if blow := _struck(faults, Stretch(What.REQUEST, now, first, way, lot)):
                return Reply(blow.at, blow.how, blow.status, blow.wait)
            if blow := _struck(faults, Stretch(What.GENERATION, first, ends, way, lot)):
                return Reply(first, "content", 200, None, blow.at, blow.how, luck)
        return Reply(first, "content", 200, None, ends, "complete", luck)

    def arrive(self, endpoint: int, *, keep: bool) -> None:
        """A request is over; `keep`: its connection can be used again."""
        self.flying[endpoint] -= 1
        if keep:
            self.give_back(endpoint)

    def expected(self, endpoint: int, request: Request) -> float:
        """The true expected seconds to the first token of a request that departs now, warm, with load and faults."""
        world, now = self._world, self._clock.now
        knee = world.knee if endpoint < world.routes else inf
        slower, farther = 1.0, 0.0
        for fault in self._near(endpoint):
            if fault.start <= now < fault.until:
                slower *= fault.slower
                farther += (fault.farther - 1) * world.round_trip(endpoint)
                knee = fault.knee(now, knee)
        flying = self.flying[endpoint] + 1
        if flying > knee:
            slower *= (flying / knee) ** 3
        usual = world.first_token(endpoint, self._work(endpoint, request), now)
        near = world.round_trip(endpoint)
        return usual + farther if slower == 1.0 else near + farther + (usual - near) * slower

    def _work(self, endpoint: int, request: Request) -> float:
        """The bytes of its prompt that the endpoint has to work through: those of the turn before cost little."""
        if request.conversation is None:
            return request.size
        known, since = self._prompts.get((endpoint, request.conversation), (0, -inf))
        return request.size - known * (1 - CACHED) if self._clock.now - since <= CACHE_TIME else request.size

    def _round(self, endpoint: int, what: What, way: float, begins: float) -> Blow:
        faults = self._near(endpoint)
        for fault in faults:
            if fault.start <= begins < fault.until:
                way *= fault.farther
        stretch = Stretch(what, begins, begins + way, way)
        return _struck(faults, stretch) or Blow(stretch.ends, "open")

    def _good(self, kept: list[float], endpoint: int, seconds: float) -> bool:
        """Whether the connection used last is still good; if it is not, none is."""
        if not kept:
            return False
        self._near(endpoint)
        if kept[-1] > self._killed[endpoint] and self._clock.now - kept[-1] <= seconds:
            return True
        kept.clear()
        return False

    def _near(self, endpoint: int) -> Sequence[Fault]:
        """The faults that are not over, in order; notes which have killed connections."""
        faults, now = self._faults[endpoint], self._clock.now
        if not faults:
            return faults
        if faults[0].until <= now:
            self._kill(endpoint, faults[0])
            self._faults[endpoint] = faults[1:]
            return self._near(endpoint)
        for fault in faults:
            if fault.start > now:
                break
            self._kill(endpoint, fault)
        return faults

    def _kill(self, endpoint: int, fault: Fault) -> None:
        if fault.kills and fault.start > self._killed[endpoint]:
            self._killed[endpoint] = fault.start


def _struck(faults: Sequence[Fault], stretch: Stretch) -> Blow | None:
    for fault in faults:
        if fault.start >= stretch.ends:
            break
        if fault.until > stretch.begins and (blow := fault.strikes(stretch)):
            return blow
    return None
