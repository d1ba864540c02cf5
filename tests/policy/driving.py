"""A driver without a wire: plays events by hand against an exchange, over a plain fleet or the real router.

The two fleets are asked the same questions, so that a rule is tested alone and where it will live.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

from smartroute.config import Config
from smartroute.policy.breaker import State
from smartroute.policy.budget import Budget, hedges, replays
from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import (
    Answered,
    Attempt,
    Call,
    Content,
    Deliver,
    Diverted,
    Event,
    Failed,
    Gate,
    Hold,
    Raise,
    Send,
    Spoiled,
    Wait,
    Whole,
)
from smartroute.policy.outcome import Failure
from smartroute.policy.schedule import PROBE_LIMIT, Claim, Finding
from smartroute.policy.selection import Candidate
from smartroute.route import GLOBAL, Kind, Route
from smartroute.router import Router
from smartroute.testing import Clock

KEY = "fake-direct-key"
NAMES = ("a", "b", "c", "d")
STREAM = Call("/chat/completions", "m", streaming=True, size=2_000)
PLAIN = Call("/chat/completions", "m", streaming=False, size=2_000)
SPAN = 0.001
"""Seconds that each event takes unless said otherwise."""
LOOK = 1.0
"""Seconds after which a plain fleet has an attempt looked after."""


def route(
    name: str,
    *,
    region: str | None = None,
    keys: str = KEY,
    model: Mapping[str, str] | None = None,
    tier: int = 0,
) -> Route:
    return Route(f"https://{name}.example/v1", name=name, region=region, api_key=keys, model=model, tier=tier)


WORLDWIDE = Route("https://global.example/v1", kind=Kind.GLOBAL)


def call(**options: Any) -> Call:
    """A streamed request, but for these."""
    return STREAM._replace(**options)


# --- What may become of an attempt: the events that the wire would bring ------------------------------

Outcome = Callable[[Attempt], Sequence[Event]]


def _departs(attempt: Attempt, *, reused: bool = False) -> None:
    if not attempt.sent:
        attempt.depart(attempt.started, reused=reused)


def unsent(failure: Failure = Failure.CONNECT) -> Outcome:
    """Nothing of the request was sent."""
    return lambda attempt: [Failed(attempt, failure, str(failure))]


def lost(failure: Failure = Failure.RESET, *, reused: bool = False) -> Outcome:
    """Sent, and no response came."""

    def play(attempt: Attempt) -> Sequence[Event]:
        _departs(attempt, reused=reused)
        return [Failed(attempt, failure, str(failure))]

    return play


def says(status: int, wait: float | None = None, *, code: str | None = None) -> Outcome:
    """An answer without a stream: its head, and its body, which may name the error by a code, where anybody asks."""

    def play(attempt: Attempt) -> Sequence[Event]:
        _departs(attempt)
        attempt.first_byte = attempt.started
        attempt.error_code = code
        return [Answered(attempt, status, wait, event_stream=False, encoded=False), Whole(attempt)]

    return play


def streams(*, encoded: bool = False) -> Outcome:
    """A stream that has content."""

    def play(attempt: Attempt) -> Sequence[Event]:
        _departs(attempt)
        attempt.first_byte = attempt.started
        return [Answered(attempt, 200, None, event_stream=True, encoded=encoded), Content(attempt)]

    return play


def spoils(failure: Failure, named: int | None = None, *, event_stream: bool = True) -> Outcome:
    """A 200 that goes bad before its first content."""

    def play(attempt: Attempt) -> Sequence[Event]:
        _departs(attempt)
        attempt.first_byte = attempt.started
        head = Answered(attempt, 200, None, event_stream=event_stream, encoded=False)
        return [head, Spoiled(attempt, failure, str(failure), named)]

    return play


def diverted(winner: str) -> Outcome:
    """Another route's connection was ready first."""
    return lambda attempt: [Diverted(attempt, winner)]


def slowly(seconds: float, clock: Clock, outcome: Outcome) -> Outcome:
    """The same after so many seconds."""

    def play(attempt: Attempt) -> Sequence[Event]:
        clock.advance(seconds)
        return outcome(attempt)

    return play


# --- The fleets ----------------------------------------------------------------------------------------


class World(Protocol):
    """A fleet, and what a test wants to know of it."""

    clock: Clock

    def begin(self, call: Call, *, deadline: float | None = None) -> Exchange: ...
    def dies(self, name: str) -> None: ...
    def failures(self, name: str) -> int: ...
    def opened(self, name: str) -> bool: ...
    def cooldown(self, name: str) -> float: ...
    def quarantined(self, name: str) -> bool: ...
    def in_flight(self) -> int: ...
    @property
    def budget(self) -> Budget: ...


Build = Callable[..., World]


def broke(world: World) -> None:
    """There is no token left."""
    world.budget.tokens = 0.0


class PlainFleet:
    """The router as an exchange sees it: a list of candidates and a notebook."""

    def __init__(self, routes: Sequence[Route], fallback: Route | None = WORLDWIDE) -> None:
        self.clock = Clock()
        self.order = [Candidate(r, None, State.CLOSED, "next") for r in routes]
        if fallback is not None:
            self.order.append(Candidate(fallback, None, State.CLOSED, "fallback"))
        self.budget, self.hedges = replays(self.clock()), hedges(self.clock())
        self.flying: Counter[str] = Counter()
        self.agreed_at: dict[int | None, float] = {}
        self.statuses: set[tuple[str, int | None]] = set()
        self.rankings = 0
        self.departures = 0
        self.learned: list[str] = []
        self.blames: list[tuple[str, str | None]] = []
        self.unreachables: set[str] = set()
        self.dead: set[str] = set()
        self.slow: set[str] = set()
        self.waits: dict[str, float] = {}
        self.refusals: list[str] = []
        self.diversions: list[str] = []
        self.outpaces: list[str] = []
        self.endings: list[tuple[str, str | None]] = []

    def begin(self, call: Call, *, deadline: float | None = None, at_once: bool = False) -> Exchange:
        first = next(c for c in self.order if call.pinned in (None, c.route.name))
        return Exchange(call, self, first.route, first.reason, deadline=deadline, at_once=at_once)

    def dies(self, name: str) -> None:
        """From now on there is proof, or half of it, that nothing comes of what this route was sent."""
        self.dead.add(name)

    def failures(self, name: str) -> int:
        return [blamed for blamed, _ in self.blames].count(name)

    def opened(self, name: str) -> bool:
        return name in self.unreachables

    def cooldown(self, name: str) -> float:
        return self.waits.get(name, 0.0)

    def quarantined(self, name: str) -> bool:
        return name in self.refusals

    def in_flight(self) -> int:
        assert all(count >= 0 for count in self.flying.values())
        return self.flying.total()

    def ranking(self, call: Call, now: float) -> Sequence[Candidate]:
        self.rankings += 1
        if call.pinned is not None:
            return [c for c in self.order if c.route.name == call.pinned]
        return list(self.order)

    def patience(self, route: Route) -> float:
        return 0.2

    def handshake(self, route: Route) -> float:
        return 1.0

    def keys(self, call: Call, route: Route) -> tuple[int, int]:
        return 1 if route.kind is Kind.GLOBAL else len(route.keys), 0

    def same_key(self, call: Call, one: Route, other: Route) -> bool:
        return GLOBAL not in (one.name, other.name) and one.keys == other.keys

    def replay(self, now: float) -> bool:
        return self.budget.take(now)

    def hedge(self, now: float) -> bool:
        return self.hedges.take(now)

    def diverted(self, exchange: Exchange, attempt: Attempt) -> None:
        self.diversions.append(attempt.endpoint.name)

    def second_opinion(self, status: int, now: float, *, same: bool) -> None:
        self.agreed_at[status] = now if same else -inf

    def is_unanimous(self, status: int | None, now: float) -> bool:
        return now < self.agreed_at.get(status, -inf) + 10.0

    def said(self, route: Route, status: int, now: float) -> None:
        self.statuses.add((route.name, status))

    def has_said(self, route: Route, status: int | None, now: float) -> bool:
        return (route.name, status) in self.statuses

    def departed(self, exchange: Exchange, attempt: Attempt) -> None:
        self.flying[attempt.endpoint.name] += 1
        self.departures += 1
        if not attempt.on_global:
            attempt.look_after = attempt.overdue_after = LOOK

    def quiet(self, exchange: Exchange, attempt: Attempt, now: float) -> float | None:
        attempt.slow = attempt.endpoint.name in self.slow
        return None if attempt.endpoint.name in self.dead else now + LOOK

    def answered(self, exchange: Exchange, attempt: Attempt, now: float) -> None:
        self.learned.append(attempt.endpoint.name)

    def outpaced(self, exchange: Exchange, attempt: Attempt, now: float) -> None:
        self.outpaces.append(attempt.endpoint.name)

    def blamed(self, exchange: Exchange, attempt: Attempt, now: float, *, unreachable: bool) -> None:
        self.blames.append((attempt.endpoint.name, attempt.failure))
        if unreachable:
            self.unreachables.add(attempt.endpoint.name)

    def cooled(self, exchange: Exchange, attempt: Attempt, seconds: float, now: float) -> None:
        self.waits[attempt.endpoint.name] = seconds

    def refused(self, exchange: Exchange, attempt: Attempt, now: float) -> None:
        self.refusals.append(attempt.endpoint.name)

    def arrived(self, exchange: Exchange, attempt: Attempt, how: str | None) -> None:
        self.flying[attempt.endpoint.name] -= 1
        self.endings.append((attempt.endpoint.name, how))


class RealFleet:
    """The real router, its routes measured so that they stand in the order of their names."""

    def __init__(self, routes: Sequence[Route], fallback: Route | None = WORLDWIDE) -> None:
        self.clock = Clock()
        config = Config(routes, global_url=fallback.url if fallback else None)
        self.router = Router(config, clock=self.clock, wall=lambda: 1.7e9, random=lambda: 0.5)
        for place, each in enumerate(routes):
            measured(self.router, each, 0.010 * (place + 1))

    def begin(self, call: Call, *, deadline: float | None = None) -> Exchange:
        exchange = self.router.begin(call)
        assert exchange is not None
        exchange._deadline = deadline
        return exchange

    def dies(self, name: str) -> None:
        """A verification of the route fails."""
        each = next(r for r in self.router.config.routes if r.name == name)
        verified(self.router, each, alive=False)

    def _status(self, name: str) -> "tuple[int, str, float, str | None]":
        status = next(s for s in self.router.status() if s.name == name)
        return status.failures, status.state, status.cooldown, status.quarantine

    def failures(self, name: str) -> int:
        return 0 if name == GLOBAL else self._status(name)[0]

    def opened(self, name: str) -> bool:
        return self._status(name)[1] == "open"

    def cooldown(self, name: str) -> float:
        return 0.0 if name == GLOBAL else self._status(name)[2]

    def quarantined(self, name: str) -> bool:
        return name != GLOBAL and self._status(name)[3] is not None

    def in_flight(self) -> int:
        counts = [s.in_flight for s in self.router.status()]
        assert min(counts) >= 0
        return sum(counts)

    @property
    def budget(self) -> Budget:
        return self.router._replays


def measured(router: Router, each: Route, round_trip: float) -> None:
    """A probe of the route was answered after so many seconds."""
    now, claim = router.clock(), Claim(each, fresh=False, limit=PROBE_LIMIT)
    router.probed(claim, Finding(now, 200, round_trip))


def verified(router: Router, each: Route, *, alive: bool, started: float | None = None) -> None:
    """A probe of the route on a fresh connection is over."""
    at = router.clock() if started is None else started
    found = Finding(at, 200, 0.01) if alive else Finding(at, failure=Failure.READ_TIMEOUT)
    router.probed(Claim(each, fresh=True, limit=1.0), found)


# --- The driver ----------------------------------------------------------------------------------------

Script = Mapping[str, Outcome | Sequence[Outcome]]


@dataclass
class Flight:
    """Carries out an exchange as the script says, and keeps what was asked of it.

    Attributes:
        script: what becomes of the attempts on each endpoint, in turn; the last outcome stays.
        rivals: whose connections might have raced, for each of `sends`.
    """

    exchange: Exchange
    clock: Clock
    script: Script
    sends: list[Send] = field(default_factory=list)
    rivals: list[tuple[str, ...]] = field(default_factory=list)
    gates: list[Gate] = field(default_factory=list)

    @property
    def path(self) -> list[str]:
        """The endpoints that were sent the request, in order."""
        return [send.attempt.endpoint.name for send in self.sends]

    @property
    def reasons(self) -> list[str]:
        return [send.attempt.reason for send in self.sends]

    def fly(self) -> Deliver | Raise:
        """Until there is something for the caller."""
        command = self.exchange.start(self.clock())
        events: list[Event] = []
        while True:
            match command:
                case Send():
                    assert not self.exchange.delivered
                    self.sends.append(command)
                    self.rivals.append(tuple(rival.name for rival in command.rivals()))
                    assert len(self.sends) < 20
                    events = list(self._outcome(command.attempt))
                case Hold():
                    self.gates.append(command.gate)
                case Deliver() | Raise():
                    return command
                case Wait():
                    raise AssertionError("nothing else is in flight")
            self.clock.advance(SPAN)
            command = self.exchange.feed(events.pop(0), self.clock())

    def finish(self) -> Deliver | Raise:
        """The same, and the caller reads what it got to the end."""
        end = self.fly()
        if isinstance(end, Deliver):
            self.exchange.settle(end.attempt, "complete", self.clock())
        return end

    def _outcome(self, attempt: Attempt) -> Sequence[Event]:
        name = attempt.endpoint.name
        outcomes = self.script[name]
        if callable(outcomes):
            return outcomes(attempt)
        turn = sum(other == name for other in self.path[:-1])
        return outcomes[min(turn, len(outcomes) - 1)](attempt)


def fly(world: World, call: Call, **script: Outcome | Sequence[Outcome]) -> tuple[Deliver | Raise, Flight]:
    """One request, from its start to its end. `worldwide` stands for the global endpoint."""
    if "worldwide" in script:
        script[GLOBAL] = script.pop("worldwide")
    flight = Flight(world.begin(call), world.clock, script)
    return flight.finish(), flight
