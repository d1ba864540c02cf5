"""Plays scenarios: the real router and its exchanges, a clock that is turned by hand, and endpoints that obey."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any, assert_never

from smartroute import events
from smartroute.config import Config
from smartroute.errors import NoRouteError, UnknownRouteError
from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import (
    Answered,
    Attempt,
    Command,
    Deliver,
    Event,
    Failed,
    Hold,
    Quiet,
    Raise,
    Send,
    Spoiled,
    Wait,
)
from smartroute.policy.outcome import Failure, retry_after
from smartroute.policy.patience import LATE
from smartroute.policy.selection import Candidate
from smartroute.route import Route
from smartroute.router import Router
from smartroute.testing import Clock
from smartroute.transport.driver import UNSENT
from tests.policy.driving import (
    KEY,
    WORLDWIDE,
    Outcome,
    diverted,
    lost,
    measured,
    route,
    says,
    spoils,
    streams,
    unsent,
)
from tests.router.kit import Prober, call, probe, status
from tests.scenarios.reading import Does, MistakeError, Scenario, Step

__all__ = ["Met", "play"]

NEAR = 0.020
"""Seconds to an endpoint of which no round trip is given."""
SERVICE = 0.100
"""Seconds that a healthy endpoint takes on top of its round trip."""
MEASURED = 8
"""Probes of each route before a scenario begins."""
FOR_EVER = 3_600.0
WALL = 1.7e9

ANSWER = Does("answers")
UNWANTED = ("connects first", "answers and goes on", "answers, and the caller closes", "answers, then breaks off")
"""What a probe cannot meet."""


@dataclass
class Met:
    """What the scenarios have met, to see whether every rule is among it."""

    failures: set[Failure] = field(default_factory=set)
    statuses: set[int] = field(default_factory=set)


@dataclass
class Trip:
    """One request: carries out its exchange, one event after the other.

    Attributes:
        meets: what each endpoint does with it, in turn.
        coming: what is to come of each attempt, and when.
        answer: what the caller got: a status, a failure, or in words why it got nothing.
        streaming: the attempt whose answer is still being read.
    """

    clock: Clock
    meets: Mapping[str, Sequence[Does]]
    exchange: Exchange | None = None
    cancel_at: float = inf
    coming: dict[int, list[tuple[float, Event]]] = field(default_factory=dict)
    sends: list[Send] = field(default_factory=list)
    races: list[str] = field(default_factory=list)
    answer: int | str = "under way"
    answered_by: str = "nobody"
    do_not_retry: bool = False
    streaming: Attempt | None = None

    @property
    def asked(self) -> list[tuple[str, str]]:
        attempts = self.exchange.attempts if self.exchange else []
        return [(attempt.endpoint.name, attempt.reason) for attempt in attempts]


class Stage:
    """One scenario while it is played."""

    def __init__(self, scenario: Scenario, met: Met) -> None:
        self.scenario = scenario
        self.met = met
        self.clock = Clock()
        self.wall = WALL - self.clock()
        self.ways = {each["name"]: each.get("round_trip_ms", NEAR * 1e3) / 1e3 for each in scenario.routes}
        options = dict(scenario.options)
        self.router = Router(
            Config(
                [_route(each) for each in scenario.routes],
                global_url=WORLDWIDE.url if options.pop("global", True) else None,
                global_api_key=options.pop("global_key", None),
                **options,
            ),
            clock=self.clock,
            wall=lambda: self.wall + self.clock(),
            random=lambda: 0.5,
        )
        self.changes: list[str] = []
        self.prober = Prober()
        self.probes: list[str] = []
        self.verifications: list[str] = []
        self.trips: list[Trip] = []
        self.ranking_for: Mapping[str, Any] = {}
        for each, given in zip(self.router.config.routes, scenario.routes, strict=True):
            if "round_trip_ms" in given:
                for _ in range(MEASURED):
                    measured(self.router, each, self.ways[each.name])
        self.router.subscribe(self._hear)

    def _hear(self, event: events.Event) -> None:
        if isinstance(event, events.BreakerChanged):
            self.changes.append(f"{event.route.name}: {event.before} -> {event.after}")

    # What a step does

    def act(self, step: Step) -> None:
        """Do what the step says."""
        given = dict(step.given)
        self.changes.clear()
        after, times = given.pop("after", 0.0), given.pop("times", 1)
        self.ranking_for = given.pop("ranking_for", {})
        for _ in range(times):
            self.run(self.clock() + after)
            self._act(given)

    def _act(self, given: Mapping[str, Any]) -> None:
        for word, value in given.items():
            match word:
                case "request":
                    self._request(value, given.get("meets", {}))
                case "probe" | "verification":
                    for name, does in value.items():
                        self._probe(name, does, fresh=word == "verification")
                case "prober":
                    claims, _ = self.router.claim_probes(self.prober)
                    self.probes = [claim.route.name for claim in claims if not claim.fresh]
                    self.verifications = [claim.route.name for claim in claims if claim.fresh]
                case "drain":
                    self.router.drain(value)
                case "resume":
                    self.router.resume(value)
                case "streams_end":
                    for trip in self.trips:
                        self._settle(trip, "complete")
                case "sleep":  # nobody looks at what comes meanwhile
                    self.clock.advance(value)
                    self.run(self.clock())
                case "wall_clock_jumps":
                    self.wall += value
                case "meets":
                    pass
                case _:
                    raise AssertionError(word)

    def _probe(self, name: str, does: Does, *, fresh: bool) -> None:
        if does.words in UNWANTED:
            raise MistakeError(f"a probe cannot meet {does.words!r}")
        started, silent = self.clock(), "silent" in does.words
        seconds = does.after
        if seconds is None:
            seconds = 1.0 if silent else self.ways[name]
        self.run(started + seconds)
        failure: str | None = Failure.READ_TIMEOUT if silent else does.failure
        if failure is None and does.status >= 500:
            failure = str(does.status)
        probe(self.router, name, failure=failure, code=does.status, seconds=seconds, fresh=fresh, started=started)

    def _request(self, given: Mapping[str, Any], meets: Mapping[str, Sequence[Does]]) -> None:
        options = dict(given)
        watched = options.pop("watched", None)
        trip = Trip(self.clock, meets)
        trip.cancel_at = self.clock() + options.pop("cancelled_after", inf)
        self.trips.append(trip)
        options["streaming"] = options.pop("streamed", True)
        options["regions"] = tuple(options.get("regions", ()))
        try:
            trip.exchange = self.router.begin(call(**options))
        except NoRouteError:
            trip.answer = "no route"
            return
        except UnknownRouteError:
            trip.answer = "unknown route"
            return
        if trip.exchange is None:
            trip.answer = "passes through"
            return
        self._obey(trip, trip.exchange.start(self.clock()))
        self.run(self.clock() + (FOR_EVER if watched is None else watched), trip)
        if watched is None and trip.answer == "under way":
            raise MistakeError("the request is never over; say how long it is 'watched'")

    # Time

    def run(self, until: float, awaited: Trip | None = None) -> None:
        """Let everything happen that happens by then, or until the awaited request is over."""
        while awaited is None or awaited.answer == "under way":
            due, _, trip, act = min(
                (each for trip in self.trips for each in self._due(trip)),
                key=lambda each: each[:2],
                default=(inf, 0, None, None),
            )
            if due > until or act is None or trip is None:
                self.clock.advance(until - self.clock())
                return
            self.clock.advance(due - self.clock())
            act()

    def _due(self, trip: Trip) -> list[tuple[float, int, Trip, Any]]:
        """What happens next to a request, and when; of what is due at the same time the first kind goes first."""
        exchange, now = trip.exchange, self.clock()
        if exchange is None or trip.answer != "under way":
            return []
        due: list[tuple[float, int, Trip, Any]] = [(trip.cancel_at, 1, trip, partial(self._cancel, trip))]
        for attempt in exchange.attempts:
            if attempt.ended is not None:
                continue
            if coming := trip.coming[attempt.number]:
                due.append((max(coming[0][0], now), 0, trip, partial(self._comes, trip, attempt)))
            if attempt.until is not None:
                due.append((max(attempt.until, now), 1, trip, partial(self._expires, trip, attempt)))
            if attempt.check_at is not None:
                due.append((max(attempt.check_at, now), 2, trip, partial(self._feed, trip, Quiet(attempt))))
        return due

    def _comes(self, trip: Trip, attempt: Attempt) -> None:
        _, event = trip.coming[attempt.number].pop(0)
        if attempt.check_at is not None and self.clock() > attempt.check_at + LATE:
            attempt.late = True
        self._feed(trip, event)

    def _expires(self, trip: Trip, attempt: Attempt) -> None:
        attempt.until = None
        expired = Spoiled if attempt.status is not None else Failed
        self._feed(trip, expired(attempt, Failure.DEADLINE, "deadline"))

    def _cancel(self, trip: Trip) -> None:
        assert trip.exchange is not None
        trip.exchange.cancel(self.clock())
        trip.answer = "cancelled"
        self.router.finish(trip.exchange, "cancelled")
        self._meet(trip.exchange)

    def _feed(self, trip: Trip, event: Event) -> None:
        assert trip.exchange is not None
        self._obey(trip, trip.exchange.feed(event, self.clock()))

    # What the exchange says

    def _obey(self, trip: Trip, command: Command) -> None:
        exchange = trip.exchange
        assert exchange is not None
        match command:
            case Send():
                trip.sends.append(command)
                trip.races = [rival.name for rival in command.rivals()]
                does = self._does(trip, command.attempt.endpoint.name)
                trip.coming[command.attempt.number] = self._what_comes(command.attempt, does)
            case Hold() | Wait():
                pass
            case Deliver():
                self._delivered(trip, command)
            case Raise():
                trip.answer = str(command.attempt.failure)
                self.router.finish(exchange, "failed")
                self._meet(exchange)
            case _:
                assert_never(command)

    def _delivered(self, trip: Trip, command: Deliver) -> None:
        attempt = command.attempt
        trip.answer = attempt.error_status or attempt.status or "under way"
        trip.answered_by, trip.do_not_retry = attempt.endpoint.name, command.final
        trip.streaming = attempt
        how = {
            "answers and goes on": None,
            "answers, then breaks off": "interrupted",
            "answers, and the caller closes": "closed",
        }.get(self._did(trip, attempt).words, "complete")
        if how is not None:
            self._settle(trip, how)

    def _settle(self, trip: Trip, how: str) -> None:
        if trip.streaming is None or trip.exchange is None:
            return
        trip.exchange.settle(trip.streaming, how, self.clock())
        self.router.finish(trip.exchange, "interrupted" if how == "interrupted" else "answered")
        self._meet(trip.exchange)
        trip.streaming = None

    def _does(self, trip: Trip, name: str) -> Does:
        """What the endpoint does this time; who is not mentioned answers."""
        turns = trip.meets.get(name, [ANSWER])
        count = Counter(send.attempt.endpoint.name for send in trip.sends)[name]
        return turns[min(count, len(turns)) - 1]

    def _did(self, trip: Trip, attempt: Attempt) -> Does:
        turns = trip.meets.get(attempt.endpoint.name, [ANSWER])
        same = [send.attempt for send in trip.sends if send.attempt.endpoint is attempt.endpoint]
        return turns[min(same.index(attempt), len(turns) - 1)]

    def _what_comes(self, attempt: Attempt, does: Does) -> list[tuple[float, Event]]:
        way = self.ways.get(attempt.endpoint.name, NEAR)
        answers = does.failure is None and does.status == 200
        seconds = does.after if does.after is not None else way + (SERVICE if answers else 0.0)
        if "silent" in does.words:
            attempt.depart(attempt.started, reused=False)
            head = Answered(attempt, 200, None, event_stream=True, encoded=False)
            return [(attempt.started + way, head)] if does.words.startswith("begins") else []
        return [(attempt.started + seconds, event) for event in self._outcome(does, attempt)(attempt)]

    def _outcome(self, does: Does, attempt: Attempt) -> Outcome:
        """The same in the words of the driving kit."""
        if does.winner is not None:
            return diverted(does.winner)
        if does.words == "error event":
            return spoils(Failure.ERROR_EVENT, does.named)
        if does.failure in UNSENT:
            return unsent(does.failure)
        match does.failure:
            case None:
                pass
            case Failure.CONTENT_TYPE:
                return spoils(Failure.TRUNCATED, event_stream=False)  # an exchange finds out by itself
            case Failure.EMPTY | Failure.TRUNCATED | Failure.GARBLED:
                return spoils(does.failure)
            case failure:
                return lost(failure, reused=does.words == "resets a kept connection")
        if does.status != 200:
            headers = [] if does.wait is None else [(b"retry-after", str(does.wait).encode())]
            return says(does.status, retry_after(headers, self.router.wall()))
        trip = next(trip for trip in self.trips if trip.exchange and attempt in trip.exchange.attempts)
        assert trip.exchange is not None
        return streams() if trip.exchange.call.streaming else says(200)

    def _meet(self, exchange: Exchange) -> None:
        for attempt in exchange.attempts:
            self.met.failures |= {attempt.failure} if attempt.failure else set()
            self.met.statuses |= {code for code in (attempt.status, attempt.error_status) if code}

    def close(self) -> None:
        """Whoever still waits goes away."""
        for trip in self.trips:
            self._settle(trip, "closed")
            if trip.exchange is not None and trip.answer == "under way":
                self._cancel(trip)

    # What is found

    def found(self, word: str, expected: Any) -> Any:
        """What an expectation speaks of, in the form of what is expected."""
        trip = self.trips[-1] if self.trips else Trip(self.clock, {})
        match word:
            case "asked":
                return trip.asked
            case "races" | "answered_by" | "answer" | "do_not_retry":
                return getattr(trip, word)
            case "ranking":
                return [(each.route.name, each.reason) for each in self.ranking()]
            case "incumbent":
                return next((each.name for each in self.router.status() if each.incumbent), "none")
            case "suspect":
                return [each.name for each in self.router.status() if each.suspect]
            case "changes" | "probes" | "verifications":
                return list(getattr(self, word))
            case "offline":
                return self.router._offline.now
            case "replays_left":
                return self.router._replays.tokens
            case _:
                return {name: self._of(name, word) for name in expected}

    def _of(self, name: str, word: str) -> Any:
        known = status(self.router, name)
        match word:
            case "state" | "failures" | "in_flight" | "limit":
                return getattr(known, word)
            case "cooldown_s":
                return known.cooldown
            case "quarantine":
                return known.quarantine or "none"
            case "round_trip_ms":
                return "unmeasured" if known.round_trip is None else known.round_trip * 1e3
            case "first_token_ms":
                return None if known.first_token is None else known.first_token * 1e3
            case "score_ms":
                score = next(each.score for each in self.ranking() if each.route.name == name)
                return None if score is None else score * 1e3
            case "next_probe_s":
                return "rests" if known.next_probe is None else known.next_probe
            case _:
                raise AssertionError(word)

    def ranking(self) -> Sequence[Candidate]:
        """For requests like the ones that a scenario sends."""
        return self.router.rank(**{"model": "m", **self.ranking_for})


def _route(given: Mapping[str, Any]) -> Route:
    return route(
        given["name"],
        region=given.get("region"),
        keys=",".join(given.get("keys", [KEY])),
        model=given.get("model"),
        tier=given.get("tier", 0),
    )


# --- Expectations --------------------------------------------------------------------------------------


def play(scenario: Scenario, met: Met | None = None) -> list[str]:
    """Play a scenario up to the first step that disappoints. Returns what was expected there, and what was found.

    Raises:
        MistakeError: it asks for something that cannot be.
    """
    stage = Stage(scenario, Met() if met is None else met)
    for step in scenario.steps:
        try:
            stage.act(step)
        except MistakeError as mistake:
            raise MistakeError(f"{scenario.file}, step {step.number}: {mistake}") from None
        missed = []
        for word, expected in step.expected.items():
            found = stage.found(word, expected)
            if not _agrees(word, expected, found):
                missed += [
                    f"  {word}",
                    f"    expected: {_shown(word, expected)}",
                    f"    found:    {_shown(word, found)}",
                ]
        if missed:
            return [f"{scenario.file}, step {step.number}: {scenario.title}", *missed, *_context(stage)]
    return []


def _agrees(word: str, expected: Any, found: Any) -> bool:
    if isinstance(expected, dict):
        return all(_agrees(word, value, found[name]) for name, value in expected.items())
    if isinstance(expected, tuple):
        return isinstance(found, int | float) and expected[0] <= found <= expected[1]
    if word in ("asked", "ranking"):
        return len(expected) == len(found) and all(
            name == other and why in (None, reason)
            for (name, why), (other, reason) in zip(expected, found, strict=True)
        )
    return bool(expected == found)


def _shown(word: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(word, each)}" for name, each in value.items())
    if isinstance(value, tuple):
        return f"{value[0]:g} to {value[1]:g}"
    if word in ("asked", "ranking"):
        return ", ".join(f"{name} ({why})" if why else name for name, why in value) or "nobody"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _context(stage: Stage) -> list[str]:
    """What else there is to know at this point."""
    told = ["  at this point"]
    if stage.trips and (exchange := stage.trips[-1].exchange):
        for record in exchange.records(stage.clock()):
            became = record.detail or record.status or "under way"
            told.append(f"    asked {record.endpoint} ({record.reason}): {became} after {record.seconds:.3f} s")
    for each in stage.ranking():
        score = "unmeasured" if each.score is None else f"{each.score * 1e3:.0f} ms"
        told.append(f"    {each.route.name}: {each.state}, {each.reason}, {score}")
    return told
