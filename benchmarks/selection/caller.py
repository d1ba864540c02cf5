"""The baselines' client: what a team builds around such a rule, with a sane timeout.

An attempt has 10 seconds to its first token, then it has failed, and the next route by the rule is asked;
the global endpoint when all routes were. The oracle is a client as well, one that cannot be wrong.
"""

from random import Random

from benchmarks.selection.contender import SILENCE, Stage
from benchmarks.selection.network import Reply
from benchmarks.selection.rules import PROBE_INTERVAL, Rule
from benchmarks.selection.world import Request, way

__all__ = ["Caller", "Oracle"]

PATIENCE = 10.0
"""Seconds from an attempt's start until it is taken for failed."""


class Trip:
    """A request under way: who was tried (or must not be), who has it now since when, and whether it has departed."""

    __slots__ = ("departed", "endpoint", "request", "started", "tried")

    def __init__(self, request: Request, forbidden: list[int]) -> None:
        self.request = request
        self.tried = forbidden
        self.endpoint = -1
        self.started = 0.0
        self.departed = False


class Caller:
    """Asks one route after the other, in the order of its rule."""

    def __init__(self, stage: Stage, rule: Rule, random: Random) -> None:
        self._stage = stage
        self._rule = rule
        self._random = random
        self._worldwide = stage.world.routes
        if rule.probes:
            for route in range(stage.world.routes):
                stage.engine.at(0.0, self._probe, route)

    def arrive(self, request: Request) -> None:
        """Set out."""
        forbidden = []
        if request.allowed is not None:
            forbidden = [endpoint for endpoint in range(self._worldwide + 1) if endpoint not in request.allowed]
        self._next(Trip(request, forbidden))

    def close(self) -> None:
        """Nothing is left in flight."""
        if any(self._stage.network.flying):
            self._stage.journal.problems.append(f"in flight at the end: {self._stage.network.flying}")

    def _next(self, trip: Trip) -> None:
        stage, now = self._stage, self._stage.now
        route = self._rule.choose(trip.tried, now)
        if route is None and self._worldwide in trip.tried:
            stage.journal.failed(trip.request.number, now)
            return
        endpoint = self._worldwide if route is None else route
        trip.endpoint, trip.started, trip.departed = endpoint, now, False
        trip.tried.append(endpoint)
        if route is not None:
            self._rule.sent(route, now)
        if stage.network.take_idle(endpoint):
            self._depart(trip)
            return
        opening = stage.network.connect(endpoint, stage.world.ways[endpoint][trip.request.number])
        act = self._depart if opening.how == "open" else self._failed
        if opening.at > now + PATIENCE:
            stage.engine.at(now + PATIENCE, self._timed_out, trip)
        else:
            stage.engine.at(opening.at, act, trip)

    def _depart(self, trip: Trip) -> None:
        reply = self._stage.network.depart(trip.endpoint, trip.request)
        trip.departed = True
        limit = trip.started + PATIENCE
        if reply.at > limit:
            self._stage.engine.at(limit, self._timed_out, trip)
        elif reply.how == "content":
            self._stage.engine.at(reply.at, self._answered, trip, reply)
        else:
            self._stage.engine.at(reply.at, self._failed, trip)

    def _answered(self, trip: Trip, reply: Reply) -> None:
        now = self._stage.now
        self._stage.journal.answered(trip.request.number, trip.endpoint, now, reply.luck)
        if trip.endpoint != self._worldwide:
            self._rule.answered(trip.endpoint, now - trip.started, now)
        self._stage.engine.at(min(reply.ends, reply.at + SILENCE), self._ended, trip, reply.ending == "complete")

    def _ended(self, trip: Trip, keep: bool) -> None:
        self._stage.network.arrive(trip.endpoint, keep=keep)
        if trip.endpoint != self._worldwide:
            self._rule.ended(trip.endpoint, self._stage.now)

    def _timed_out(self, trip: Trip) -> None:
        self._failed(trip, timed_out=True)

    def _failed(self, trip: Trip, timed_out: bool = False) -> None:
        now = self._stage.now
        if trip.departed:
            self._stage.network.arrive(trip.endpoint, keep=False)
        if trip.endpoint != self._worldwide:
            self._rule.failed(trip.endpoint, now - trip.started, now, timed_out=timed_out)
            self._rule.ended(trip.endpoint, now)
        self._next(trip)

    def _probe(self, route: int) -> None:
        """Measure the round trip over the connections that requests use, as long as there are any."""
        stage, now = self._stage, self._stage.now
        if now > stage.world.seconds:
            return
        seconds = way(stage.world.round_trip(route), self._random)
        begins = now
        if not stage.network.take_idle(route):
            opening = stage.network.connect(route, seconds)
            begins = opening.at
        probe = stage.network.probe(route, seconds, begins) if begins < now + PATIENCE else None
        if probe is not None and probe.how == "open" and probe.at < now + PATIENCE:
            stage.engine.at(probe.at, self._probed, route, probe.at - begins)
        else:
            stage.engine.at(now + PATIENCE, self._probed, route, None)
        stage.engine.at(now + PROBE_INTERVAL, self._probe, route)

    def _probed(self, route: int, seconds: float | None) -> None:
        if seconds is not None:
            self._stage.network.give_back(route)
        self._rule.probed(route, seconds, self._stage.now)


class Oracle:
    """The reference: knows each route's true expected first token now, and which requests would fail there.

    Its connections are always open. It knows load and faults, and what they will do to this request; it does
    not know the luck of the draw. The global endpoint is asked when no route would answer.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def arrive(self, request: Request) -> None:
        """Send it to the best route that will answer it."""
        stage = self._stage
        network, now = stage.network, stage.now
        routes = range(stage.world.routes)
        best = sorted(routes, key=lambda route: network.expected(route, request))
        for endpoint in (*best, stage.world.routes):
            if request.allowed is not None and endpoint not in request.allowed:
                continue
            if network.outlook(endpoint, request, network.flying[endpoint] + 1).how == "content":
                reply = network.depart(endpoint, request)
                stage.engine.at(reply.at, stage.journal.answered, request.number, endpoint, reply.at, reply.luck)
                stage.engine.at(min(reply.ends, reply.at + SILENCE), self._ended, endpoint)
                return
        stage.journal.failed(request.number, now)

    def close(self) -> None:
        """It leaves nothing behind."""

    def _ended(self, endpoint: int) -> None:
        self._stage.network.arrive(endpoint, keep=False)
