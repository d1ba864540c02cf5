"""The router: the one place with mutable state.

It knows the routes' latencies and health, ranks them, and takes in what exchanges and probes report.
Any number of sync and async clients of both HTTP families share one router: all of its methods may be
called from any thread. Decisions are made under a lock, listeners are told after it is released.
"""

from __future__ import annotations

import itertools
import logging
import random as _random
import threading
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakKeyDictionary

from cachetools import TTLCache

from smartroute import events
from smartroute.errors import ClosedError, NoRouteError, UnknownRouteError
from smartroute.policy.breaker import Breaker, State
from smartroute.policy.budget import Budget
from smartroute.policy.exchange import Exchange
from smartroute.policy.known import TYPICAL_SIZE, Known
from smartroute.policy.latency import Baseline
from smartroute.policy.messages import Attempt, Call
from smartroute.policy.selection import HOLD, Candidate, Choice, Standing, choose
from smartroute.route import GLOBAL, Route, RouteStatus, canonical_region
from smartroute.settings import key_variable

if TYPE_CHECKING:
    from smartroute.config import Config

__all__ = ["Router"]

logger = logging.getLogger("smartroute")

QUIET = 300.0
"""Seconds after the last request for which routes are still probed."""
KEEP_WARM = 45.0
"""Seconds after which a client probes a route for its own connections' sake (they are kept for 55)."""
PROBE_JITTER = 0.1
PROBE_LEASE = 15.0
"""Seconds after which a claimed probe of which nothing was heard is anybody's (its loop may have gone)."""
CONVERSATION_TIME = 600.0
MOST_CONVERSATIONS = 10_000
QUARANTINE = 300.0
"""Seconds for which a route is avoided that refused a key or a model which another endpoint accepted."""
MOST_QUARANTINED = 100
"""Models remembered for a route as not found there."""


class Router:
    """Chooses routes, and remembers how they did.

    Args:
        config: the routes and settings.
        clock: monotonic seconds; tests pass a virtual one.
        wall: the time of day as a Unix timestamp (for dates in Retry-After).
        random: numbers in [0, 1), to spread probes and backoffs.

    A router made here lives until `close()`. Clients that are given only a configuration share the
    router of that configuration among them, until the last of them closes (`lifecycle`).
    """

    _numbers: ClassVar[itertools.count[int]] = itertools.count(1)

    def __init__(
        self,
        config: Config,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self.config = config
        self.clock = clock
        self.wall = wall
        self._random = random
        self._lock = threading.Lock()
        now = clock()
        self._known = {route.name: Known(route, Breaker(now, random)) for route in config.routes}
        self._global = config.global_route
        self._baseline = Baseline()
        self._budget = Budget(now)
        self._conversations: TTLCache[tuple[str | None, str], str] = TTLCache(
            MOST_CONVERSATIONS, CONVERSATION_TIME, clock
        )
        self._incumbent: str | None = None
        self._held_until = now
        self._racing_until = now
        self._last_request: float | None = None
        self._awake_since = now
        self._prober_visits: WeakKeyDictionary[object, dict[str, float]] = WeakKeyDictionary()
        self._listeners: tuple[events.Listener, ...] = ()
        self._broken_listeners: list[events.Listener] = []
        self._closed = False

    # For everybody

    def status(self) -> tuple[RouteStatus, ...]:
        """What is known of each route, in the order of the configuration."""
        now = self.clock()
        with self._lock:
            awake = self._last_request is not None and now - self._last_request <= QUIET
            probing = awake and self.config.probe_interval > 0
            return tuple(
                known.status(self._baseline, now, probing=probing, incumbent=name == self._incumbent)
                for name, known in self._known.items()
            )

    def rank(
        self, *, model: str | None = None, size: int = TYPICAL_SIZE, conversation: str | None = None
    ) -> tuple[Candidate, ...]:
        """Where each endpoint stands for such a request, and why: first those that would be asked, in turn.

        Args:
            model: the model asked for.
            size: bytes of the request's body.
            conversation: the affinity key.
        """
        call = Call("", model, streaming=True, size=size, conversation=conversation)
        now = self.clock()
        with self._lock:
            choice = self._choose(call, now)
        return choice.order + choice.refused

    def pick(
        self, *, model: str | None = None, size: int = TYPICAL_SIZE, conversation: str | None = None
    ) -> Route | None:
        """The endpoint that such a request would be sent to first; None if there is none."""
        call = Call("", model, streaming=True, size=size, conversation=conversation)
        now = self.clock()
        with self._lock:
            order = self._choose(call, now).order
        return order[0].route if order else None

    def drain(self, name: str) -> None:
        """Send a route no further requests, until `resume`. Those on their way are not disturbed.

        Raises:
            UnknownRouteError: there is no such route.
        """
        self._find(name).drained = True

    def resume(self, name: str) -> None:
        """Use a drained route again; a quarantine and a cooldown end as well.

        Raises:
            UnknownRouteError: there is no such route.
        """
        known = self._find(name)
        with self._lock:
            known.drained = False
            known.quarantine.clear()
            known.cooldown_until = 0.0

    def subscribe(self, listener: events.Listener) -> Callable[[], None]:
        """Tell `listener` of every event from now on.

        Returns:
            a function that ends the subscription.
        """
        with self._lock:
            self._listeners += (listener,)

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = tuple(other for other in self._listeners if other is not listener)

        return unsubscribe

    def close(self) -> None:
        """Stop probing and take no more requests. Closing twice is harmless."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    def after_fork(self) -> None:
        """In a child process: what was under way is the parent's."""
        self._lock = threading.Lock()  # a thread that is not here may have held it
        for known in self._known.values():
            known.in_flight, known.trial, known.probing_until = 0, None, 0.0

    # For the transports

    def begin(self, call: Call) -> Exchange | None:
        """Accept a request for routing; None: no endpoint may serve it, let it pass as it is.

        Raises:
            UnknownRouteError: it is pinned to a route that does not exist or that it may not use.
            NoRouteError: routes serve the model, but none of them nor the global endpoint may be asked.
            ClosedError: the router was closed.
        """
        if self._closed:
            raise ClosedError(ClosedError.__doc__)
        now = self.clock()
        with self._lock:
            if self._last_request is None or now - self._last_request > QUIET:
                self._awake_since = now
            self._last_request = now
            self._budget.deposit()
            overdue = self._give_up_waiting(now)
            if call.pinned is not None:
                order: tuple[Candidate, ...] = (self._pinned(call, call.pinned, now),)
            else:
                choice = self._choose(call, now)
                order = choice.order
                if not any(c.route.name in self._known for c in choice.order + choice.refused):
                    return None
                if not order:
                    raise NoRouteError([f"{c.route.name}: {c.reason}" for c in choice.refused])
                self._adopt(choice, now)
                if call.conversation is not None and order[0].route.name in self._known:
                    self._conversations[call.model, call.conversation] = order[0].route.name
            # Nothing known of any route: the first request opens connections to all of them at once.
            at_once = order[0].reason == "unmeasured" and now >= self._racing_until
            if at_once:
                self._racing_until = now + 1.0
        for known in overdue:
            self._changed(known, State.OPEN, State.HALF_OPEN, "it has not been probed for long", None)
        listening = any(map(self._is_active, self._listeners))
        number = next(self._numbers) if listening else 0
        if listening:
            self.emit(events.ExchangeStarted(number, call.path, call.model, call.streaming, order, order[0].reason))
        return Exchange(call, self, order, number=number, deadline=self.config.deadline, at_once=at_once)

    def finish(self, exchange: Exchange, outcome: str) -> None:
        """The whole exchange is over: `answered`, `failed`, `interrupted` or `cancelled`. Once for each."""
        if not exchange.number:
            return
        delivered = exchange.delivered
        self.emit(
            events.ExchangeEnded(
                exchange.number,
                outcome,
                delivered.endpoint if delivered else None,
                len(exchange.attempts),
                delivered is not None and delivered.on_global,
                self.clock() - exchange.began,
            )
        )

    def emit(self, event: events.Event) -> None:
        """Tell every listener. One that fails is reported once and costs nobody anything."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - a bug in telemetry must not fail a request
                self._report_broken(listener, error)

    def _is_active(self, listener: events.Listener) -> bool:
        try:
            return bool(getattr(listener, "active", True))
        except Exception as error:  # noqa: BLE001 - as above
            self._report_broken(listener, error)
            return False

    def _report_broken(self, listener: events.Listener, error: Exception) -> None:
        if not any(listener is broken for broken in self._broken_listeners):
            self._broken_listeners.append(listener)
            message = "A listener failed; requests go on. Further failures of it are not logged."
            logger.error(message, exc_info=error)

    # For an exchange (`policy.exchange.Fleet`)

    def ranking(self, call: Call, now: float) -> tuple[Candidate, ...]:
        """Who may be asked as of now, best first."""
        with self._lock:
            return self._choose(call, now).order

    def patience(self, route: Route) -> float:
        """How long to wait for the route's connection before racing another, in seconds."""
        known = self._known.get(route.name)
        return known.latency.patience if known else 0.5

    def keys(self, call: Call, route: Route) -> tuple[int, int]:
        """How many keys there are to try, and which first: the caller's own where it addressed the route."""
        if route.name in (call.addressed, GLOBAL):
            return 1, 0
        return max(len(route.keys), 1), self._known[route.name].key

    def key_order(self, route: Route) -> list[int]:
        """The places of the route's keys, the one that was accepted last first."""
        count = max(len(route.keys), 1)
        first = self._known[route.name].key
        return [(first + place) % count for place in range(count)]

    def same_key(self, call: Call, one: Route, other: Route) -> bool:
        """Whether two endpoints would get the same key."""
        mine = GLOBAL if call.addressed is None else call.addressed
        return mine not in (one.name, other.name) and one.keys == other.keys

    def replay(self, now: float) -> bool:
        """Take a replay token."""
        with self._lock:
            return self._budget.take(now)

    def departed(self, exchange: Exchange, attempt: Attempt) -> None:
        """An attempt is on its way."""
        known = self._known.get(attempt.endpoint.name)
        if known is not None:
            with self._lock:
                known.in_flight += 1
                known.requests += 1
                if known.breaker.state is State.HALF_OPEN:
                    known.trial = attempt
        if exchange.number:
            self.emit(
                events.AttemptStarted(
                    exchange.number,
                    attempt.number,
                    attempt.endpoint,
                    "POST",
                    attempt.endpoint.url + exchange.call.path,
                    attempt.reason,
                    attempt.headers,
                    sum(earlier.sent for earlier in exchange.attempts),
                )
            )

    def answered(self, exchange: Exchange, attempt: Attempt, now: float) -> None:
        """An attempt brought an answer: its route is healthy, its times may be learned from."""
        known = self._known.get(attempt.endpoint.name)
        if known is None:
            return
        call = exchange.call
        with self._lock:
            before = known.breaker.state
            known.breaker.succeeded(now)
            after = known.breaker.state
            if not self.config.probe_interval and known.latency.round_trip is None and attempt.connect is not None:
                known.latency.saw_round_trip(attempt.connect, now)  # nobody probes: a handshake is a round trip
            if call.streaming and attempt.sent_at is not None:
                known.latency.saw_first_token(now - attempt.sent_at, self._baseline, call.model, call.size, now)
            if self._incumbent is None:
                self._incumbent = known.route.name  # nothing is measured yet: stay with what has answered
            if call.conversation is not None:
                self._conversations[call.model, call.conversation] = known.route.name
            refused, known.key = known.key, attempt.key if call.addressed != known.route.name else known.key
        if refused != known.key:
            logger.warning(
                "Route %s: key %d of %d was refused; key %d is accepted and used from now on. Remedy: take out the "
                "refused key, or renew it.",
                known.route.name,
                refused + 1,
                len(known.route.keys),
                known.key + 1,
            )
        self._changed(known, before, after, "a request was answered", exchange)

    def blamed(self, exchange: Exchange, attempt: Attempt, now: float, *, unreachable: bool) -> None:
        """An attempt failed through its route's fault."""
        known = self._known.get(attempt.endpoint.name)
        if known is None:
            return
        with self._lock:
            before = known.breaker.state
            known.failures += 1
            known.last_failure = (attempt.detail or str(attempt.failure), now)
            known.breaker.failed(now, attempt.detail, unreachable=unreachable, started=attempt.started)
            self._opened(known, before)
            after = known.breaker.state
        self._changed(known, before, after, attempt.detail, exchange)

    def cooled(self, attempt: Attempt, seconds: float, now: float) -> None:
        """A route asked to be left alone for so many seconds."""
        known = self._known.get(attempt.endpoint.name)
        if known is not None:
            with self._lock:
                known.cooldown_until = max(known.cooldown_until, now + seconds)

    def refused(self, exchange: Exchange, attempt: Attempt, now: float) -> None:
        """A route refused a key, or a model, that another endpoint accepted: avoid it for a while."""
        known = self._known.get(attempt.endpoint.name)
        if known is None:
            return
        wrong_model = attempt.error_status == 404
        why = "model not found" if wrong_model else "key refused"
        scope = exchange.call.model if wrong_model else None
        with self._lock:
            said = scope in known.quarantine and now < known.quarantine[scope][1]
            if len(known.quarantine) >= MOST_QUARANTINED:
                known.quarantine.clear()
            known.quarantine[scope] = (why, now + QUARANTINE)
        if said:
            return
        logger.warning(
            "Route %s: %s (status %s) though another endpoint accepted the same request. "
            "It is not used for %d s. Remedy: %s.",
            known.route.name,
            why,
            attempt.error_status,
            QUARANTINE,
            "check SMARTROUTE_MODEL for this route"
            if wrong_model
            else f"set the route's own key in {key_variable(known.route.name)}, or in "
            "SMARTROUTE_API_KEY if it is every route's (the global endpoint's key is another one)",
        )

    def arrived(self, exchange: Exchange, attempt: Attempt, *, how: str | None, size: int) -> None:
        """An attempt is over."""
        known = self._known.get(attempt.endpoint.name)
        if known is not None:
            with self._lock:
                known.in_flight -= 1
        if exchange.number:
            since = attempt.started
            self.emit(
                events.AttemptEnded(
                    exchange.number,
                    attempt.number,
                    attempt.endpoint,
                    attempt.status,
                    attempt.failure,
                    attempt.detail,
                    attempt.first_byte and attempt.first_byte - since,
                    attempt.content_at and attempt.content_at - since,
                    how,
                    size,
                    attempt.notes,
                )
            )

    # For the probers

    def claim_probes(self, prober: object) -> tuple[list[Route], float | None]:
        """Which routes the prober is to probe now, and in how many seconds to ask again.

        Every claimed route must be reported with `probed`. The clients that share a router share the
        probing too; each also visits each route often enough to keep its own connections warm.

        Returns:
            the routes, and the wait in seconds; None: nobody has asked for a while, rest until somebody does.
        """
        now = self.clock()
        interval = self.config.probe_interval
        if self._closed or self._last_request is None or now - self._last_request > QUIET:
            return [], None
        if not interval:
            return [], QUIET
        claimed: list[Route] = []
        wait = interval
        with self._lock:
            visits = self._prober_visits.setdefault(prober, {})
            for known in self._known.values():
                name = known.route.name
                is_open = known.breaker.state is State.OPEN
                due = known.due
                if not is_open:
                    due = min(due, visits.setdefault(name, now) + KEEP_WARM)
                if now < known.probing_until:
                    continue
                if due <= now:
                    known.probing_until = now + PROBE_LEASE
                    known.probe_at = now + interval * (1 + PROBE_JITTER * (2 * self._random() - 1))
                    visits[name] = now
                    claimed.append(known.route)
                else:
                    wait = min(wait, due - now)
        return claimed, max(wait, 0.01)

    def probed(
        self,
        route: Route,
        *,
        round_trip: float | None,
        status: int | None,
        failure: str | None,
        unreachable: bool,
        started: float,
    ) -> None:
        """A claimed probe is over.

        Args:
            round_trip: seconds from the request's first byte to the response's headers; None if none came.
            failure: the failure's class or the status code; None for an answer below 500.
            unreachable: no connection could be made.
            started: when it set out, in monotonic seconds.
        """
        known = self._known[route.name]
        now = self.clock()
        good = failure is None and status not in (401, 403)
        with self._lock:
            known.probing_until = now
            before = known.breaker.state
            if failure is None and round_trip is not None:
                known.latency.saw_round_trip(round_trip, now)
            if before is State.OPEN:
                known.breaker.probed(now, good=good)
            elif failure is not None:
                known.last_failure = (str(failure), now)
                known.breaker.failed(now, str(failure), unreachable=unreachable, started=started)
                self._opened(known, before)
            after = known.breaker.state
        self._changed(known, before, after, failure or "probes answered", None)
        if self._listeners:
            self.emit(events.ProbeEnded(route, round_trip if failure is None else None, failure))

    def unprobed(self, route: Route) -> None:
        """A claimed probe was given up without a result (its client closed)."""
        with self._lock:
            self._known[route.name].probing_until = self._known[route.name].probe_at = self.clock()

    # Under the lock

    def _choose(self, call: Call, now: float) -> Choice:
        standings = []
        for known in self._known.values():
            route = known.route
            if not route.serves(call.model):
                continue
            standings.append(
                Standing(
                    route,
                    known.latency.expected(self._baseline, call.model, call.size, now),
                    known.breaker.state,
                    known.breaker.since,
                    known.obstacle(call.model, now) if self._allowed(route.region, call) else "region",
                )
            )
        conversation = None
        if call.conversation is not None:
            conversation = self._conversations.get((call.model, call.conversation))
        return choose(
            standings,
            self._fallback(call),
            incumbent=self._incumbent,
            held_until=self._held_until,
            conversation=conversation,
            now=now,
        )

    def _give_up_waiting(self, now: float) -> list[Known]:
        """Put open routes on trial that nobody has probed in time; gives those."""
        probed_since = self._awake_since if self.config.probe_interval else None
        opened = [known for known in self._known.values() if known.breaker.state is State.OPEN]
        for known in opened:
            known.breaker.give_up_waiting(now, probed_since)
        return [known for known in opened if known.breaker.state is not State.OPEN]

    def _adopt(self, choice: Choice, now: float) -> None:
        if choice.incumbent != self._incumbent:
            self._held_until = now + HOLD if choice.moved else now  # who comes back from an outage is welcome
            self._incumbent = choice.incumbent

    def _fallback(self, call: Call) -> Route | None:
        """The global endpoint, where this call may go to it."""
        if self._global is None or not self._allowed(self._global.region, call):
            return None
        if call.addressed is not None and not self.config.global_api_key:
            return None  # the caller's key belongs to the route it addressed
        return self._global

    def _allowed(self, region: str | None, call: Call) -> bool:
        if not self.config.allows(region):
            return False
        return not call.regions or any(fnmatchcase(region or "", canonical_region(p)) for p in call.regions)

    def _pinned(self, call: Call, name: str, now: float) -> Candidate:
        allowed = {n: k.route for n, k in self._known.items() if self._allowed(k.route.region, call)}
        if (fallback := self._fallback(call)) is not None:
            allowed[GLOBAL] = fallback
        if name not in allowed:
            raise UnknownRouteError(name, tuple(allowed))
        known = self._known.get(name)
        score = known.latency.expected(self._baseline, call.model, call.size, now) if known else None
        return Candidate(allowed[name], score, known.breaker.state if known else State.CLOSED, "pinned")

    def _find(self, name: str) -> Known:
        try:
            return self._known[name]
        except KeyError:
            raise UnknownRouteError(name, tuple(self._known)) from None

    def _opened(self, known: Known, before: State) -> None:
        """After an outage nothing of before it counts."""
        # With nobody probing, what was known is all that can bring the route back.
        if known.breaker.state is State.OPEN and before is not State.OPEN and self.config.probe_interval:
            known.latency.forget()

    # After the lock

    def _changed(self, known: Known, before: State, after: State, cause: str, exchange: Exchange | None) -> None:
        if before is after:
            return
        logger.info("Route %s: %s -> %s (%s)", known.route.name, before, after, cause)
        if self._listeners:
            number = exchange.number if exchange else None
            self.emit(events.BreakerChanged(known.route, before, after, cause, number or None))
