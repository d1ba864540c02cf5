"""The router: the one place with mutable state.

It knows the routes' latencies and health, ranks them, and takes in what exchanges and probes report.
Any number of sync and async clients of both HTTP families share one router: all of its methods may be
called from any thread. Decisions are made under a lock, listeners are told after it is released.
"""

from __future__ import annotations

import random as _random
import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, NoReturn

from smartroute import events
from smartroute.errors import ClosedError, NoRouteError, UnknownRouteError
from smartroute.listeners import Listeners, shown
from smartroute.policy import budget
from smartroute.policy.breaker import Breaker, State
from smartroute.policy.exchange import Exchange
from smartroute.policy.known import TYPICAL_SIZE, Known
from smartroute.policy.latency import Latency
from smartroute.policy.messages import Attempt, Call
from smartroute.policy.offline import CUT_OFF, WITHIN, Offline
from smartroute.policy.outcome import Failure
from smartroute.policy.patience import LOOK, TICK, Patience
from smartroute.policy.schedule import Claim, Finding, Schedule
from smartroute.policy.selection import Candidate, Standing, candidate
from smartroute.policy.selector import Selection, Selector
from smartroute.policy.silence import DEAD_AFTER, Silence
from smartroute.route import GLOBAL, Route, RouteStatus

if TYPE_CHECKING:
    from smartroute.config import Config

__all__ = ["Router"]

QUIET = 300.0
"""Seconds after the last request for which routes are still probed."""
UNANIMITY = 10.0
"""Seconds for which second opinions cost a token after two endpoints have had the same one."""
EXPIRES_SOON = 14 * 86_400.0
"""Seconds before its end at which a certificate should have been renewed; or a quarter of its life, if that is less."""
QUARANTINE = 300.0
"""Seconds for which a route is avoided that refused a key or a model which another endpoint accepted."""
MOST_TOLD = 8
"""Candidates that listeners are told of with each request: what an engineer reads, and a span holds."""
MOST_QUARANTINED = 100
"""Models remembered for a route as not found there."""
_UNMEASURED = Latency()
SILENT = frozenset((Failure.READ_TIMEOUT, Failure.CONNECT_TIMEOUT, Failure.DEADLINE))
"""Failures of probes that got no answer."""


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
        self._allowed = [known for known in self._known.values() if config.allows(known.route.region)]
        self._global = config.global_route
        self._patience = Patience()
        self._offline = Offline([*self._known] + ([GLOBAL] if self._global is not None else []))
        self._replays, self._hedges = budget.replays(now), budget.hedges(now)
        self._schedule = Schedule(config.probe_interval, random, Listeners.verifications)
        self._selector = Selector(
            self._known,
            self._patience.baseline,
            allows=config.allows,
            fallback=self._global,
            has_key=bool(config.global_api_key),
            clock=clock,
        )
        self._agreed_at: dict[int | None, float] = {}
        self._said: dict[tuple[str, int], float] = {}
        self._racing_until = now
        self._last_request: float | None = None
        self._awake_since = now
        self._listeners = Listeners()
        self._closed = False

    # For everybody

    def status(self) -> tuple[RouteStatus, ...]:
        """What is known of each route, in the order of the configuration."""
        now = self.clock()
        with self._lock:
            awake = self._last_request is not None and now - self._last_request <= QUIET
            probing = awake and self.config.probe_interval > 0
            usual, incumbents = self._selector.typical, self._selector.incumbents
            return tuple(
                known.status(usual, now, probing=probing, incumbent=known.standing in incumbents)
                for known in self._known.values()
            )

    def budgets(self) -> dict[str, float]:
        """How many tokens each budget has: `replay`, for what may be sent twice after a failure, and `hedge`."""
        now = self.clock()
        with self._lock:
            left = {"replay": self._replays.left(now)}
            return left | {"hedge": self._hedges.left(now)} if self.config.hedge else left

    def rank(
        self, *, model: str | None = None, path: str = "", size: int = TYPICAL_SIZE, conversation: str | None = None
    ) -> tuple[Candidate, ...]:
        """Where each endpoint stands for such a request, and why: first those that would be asked, in turn.

        Args:
            model: the model asked for.
            path: the path below the base URL; by default one that every route serves.
            size: bytes of the request's body.
            conversation: the affinity key.

        Raises:
            ValueError: the size is no number of bytes.
        """
        call = _imagined(model, path, size, conversation)
        now = self.clock()
        with self._lock:
            self._selector.refresh(now)
            selection = self._selector.select(call, now)
        return tuple(map(self._explained, selection.everybody))

    def pick(
        self, *, model: str | None = None, path: str = "", size: int = TYPICAL_SIZE, conversation: str | None = None
    ) -> Route | None:
        """The endpoint that such a request would be sent to first; None if there is none."""
        call = _imagined(model, path, size, conversation)
        now = self.clock()
        with self._lock:
            self._selector.refresh(now)
            return self._selector.select(call, now).first[0]

    def drain(self, name: str) -> None:
        """Send a route no further requests, until `resume`. Those on their way are not disturbed.

        Raises:
            UnknownRouteError: there is no such route.
        """
        known = self._find(name)
        with self._lock:
            known.drained = True
            self._selector.changed()

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
            self._selector.changed()

    def subscribe(self, listener: events.Listener) -> Callable[[], None]:
        """Tell `listener` of every event from now on.

        Returns:
            a function that ends the subscription.
        """
        return self._listeners.add(listener)

    def close(self) -> None:
        """Stop probing and take no more requests. Closing twice is harmless."""
        self._closed = True

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._closed

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Router, and a client that uses it, belong to their process; pickle the Config and make new ones from it"
        )

    def after_fork(self) -> None:
        """In a child process: what was under way is the parent's."""
        self._lock = threading.Lock()  # a thread that is not here may have held it
        for known in self._known.values():
            known.trial, known.probing_until, known.verifying_until = None, 0.0, 0.0
            known.load.after_fork()
            known.silence = Silence()
        self._selector.conversations.after_fork()
        self._selector.changed()
        self._listeners.after_fork()

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
            self._replays.deposit()
            self._hedges.deposit()
            forgotten = self._give_up_waiting(now) if self._selector.refresh(now) else []
            talk = selection = moved = None
            if call.pinned is not None:
                first, reason = self._pinned(call, call.pinned), "pinned"
            else:
                selection = self._selector.select(call, now, look=call.streaming)
                field = selection.field
                if not (field.runners or field.shut or field.refused):
                    return None
                endpoint, reason = selection.first
                if endpoint is None:
                    raise NoRouteError(self._refusals(call, field.refused))
                first = endpoint
                moved = self._selector.adopt(selection, now)
                if call.conversation is not None:
                    talk = self._selector.join(call, call.conversation, selection)
            # Nothing known of any route: the first request opens connections to all of them at once.
            unmeasured = reason == "unmeasured" and selection is not None and selection.has_peers
            at_once = unmeasured and now >= self._racing_until
            if at_once:
                self._racing_until = now + 1.0
        for known in forgotten:
            self._changed(known, State.OPEN, State.HALF_OPEN, "it has not been probed for long", None)
        if moved is not None:
            self._listeners.emit(events.IncumbentChanged(*moved))
        number, deadline = self._listeners.number(), self.config.deadline
        exchange = Exchange(call, self, first, reason, number=number, deadline=deadline, at_once=at_once, talk=talk)
        if number:
            self._listeners.exchange_started(exchange, self._ranked(first, reason, selection), reason)
        return exchange

    def passed_through(self, path: str, reason: str) -> None:
        """A request to a routed path is not routed."""
        self._listeners.emit(events.PassedThrough(path, reason))

    def finish(self, exchange: Exchange, outcome: str) -> None:
        """The whole exchange is over: `answered`, `failed`, `interrupted` or `cancelled`. Once for each."""
        if exchange.talk is not None:
            with self._lock:
                exchange.talk.in_flight -= 1
        if exchange.number:
            self._listeners.exchange_ended(exchange, outcome, self.clock())

    # For an exchange (`policy.exchange.Fleet`)

    def ranking(self, call: Call, now: float) -> list[Candidate]:
        """Who may be asked as of now, best first."""
        with self._lock:
            return self._selector.select(call, now).order

    def patience(self, route: Route) -> float:
        """How long to wait for the route's connection before racing another, in seconds."""
        known = self._known.get(route.name)
        return known.latency.patience if known else 0.5

    def handshake(self, route: Route) -> float:
        """How long to wait for a TLS handshake before going elsewhere, in seconds."""
        known = self._known.get(route.name)
        return (known.latency if known else _UNMEASURED).handshake

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
            return self._replays.take(now)

    def hedge(self, now: float) -> bool:
        """Take a hedging token."""
        with self._lock:
            return self._hedges.take(now)

    def second_opinion(self, status: int, now: float, *, same: bool) -> None:
        """What one endpoint has answered with this status another one could not answer either (`same`), or could."""
        self._agreed_at[status] = now if same else -inf

    def said(self, route: Route, status: int, now: float) -> None:
        """An endpoint answered with this status, of which another one is asked for its opinion."""
        self._said[route.name, status] = now

    def has_said(self, route: Route, status: int | None, now: float) -> bool:
        """Whether an endpoint has just answered so."""
        return status is not None and now - self._said.get((route.name, status), -inf) < UNANIMITY

    def is_unanimous(self, status: int | None, now: float) -> bool:
        """Whether second opinions about this status have just been the same."""
        return now - self._agreed_at.get(status, -inf) < UNANIMITY

    def diverted(self, exchange: Exchange, attempt: Attempt) -> None:
        """No connection to an attempt's route was made in the time that it should have taken: is it alive?"""
        known = self._known.get(attempt.endpoint.name)
        if known is not None and known.latency.round_trip is not None:
            with self._lock:
                known.silence.unconnected()
                known.asked_by(exchange.number)
                self._selector.changed()

    def departed(self, exchange: Exchange, attempt: Attempt) -> None:
        """An attempt is on its way."""
        known = self._known.get(attempt.endpoint.name)
        if known is not None:
            now = attempt.started
            with self._lock:
                known.requests += 1
                known.load.departed(now)
                known.standing.load = known.load.penalty(now)
                if known.breaker.state is State.HALF_OPEN:
                    known.trial = attempt
                    self._selector.changed()
                attempt.overdue_after = self._patience.overdue_after(exchange.call, known.latency)
                attempt.look_after = min(attempt.overdue_after, LOOK)
                if self.config.hedge and exchange.call.streaming:
                    attempt.hedge_after = self._patience.hedge_after(exchange.call, known.latency)
                    attempt.look_after = min(attempt.look_after, attempt.hedge_after)
        if exchange.number:
            self._listeners.attempt_started(exchange, attempt)

    def quiet(self, exchange: Exchange, attempt: Attempt, now: float) -> float | None:
        """Nothing has come of an attempt. When to look again; None: its route is dead, send it elsewhere too."""
        known = self._known.get(attempt.endpoint.name)
        if known is None:
            return inf
        departed = attempt.departed
        hedge_at, overdue_at = departed + attempt.hedge_after, departed + attempt.overdue_after
        look_at = min(overdue_at, departed + LOOK)
        with self._lock:
            if known.is_dead_to(attempt):
                return None
            attempt.hedge_due = now >= hedge_at - TICK
            if now < look_at - TICK:
                return look_at if attempt.hedge_due else min(look_at, hedge_at)
            if overdue := not attempt.overdue and now >= overdue_at - TICK:
                attempt.overdue = True
                known.silence.overdue(departed)
                self._selector.changed()
            rescue_at = (
                departed + self._patience.rescue_after(exchange.call, attempt, known.latency)
                if exchange.call.streaming
                else inf
            )
            attempt.slow = now >= rescue_at - TICK
            known.silence.look(departed, now)
            if known.silence.wanted:
                known.asked_by(exchange.number)
            again = now + (known.latency.verification_limit + TICK if known.silence.wanted else LOOK)
        if overdue and exchange.number:
            waited = now - departed
            self._listeners.emit(events.AttemptOverdue(exchange.number, attempt.number, attempt.endpoint, waited))
        return min([again, *(at for at in (hedge_at, overdue_at, rescue_at) if at - TICK > now)])

    def stalled(self, exchange: Exchange, attempt: Attempt, since: float) -> bool:
        """An endpoint has said nothing more since then, in the middle of an answer. Whether it is proven dead.

        If it is not, it is to be verified.
        """
        known = self._known.get(attempt.endpoint.name)
        if known is None:
            return False
        now = self.clock()
        with self._lock:
            dead = known.silence.dead_since(since)
            if not dead:
                known.silence.look(since, now)
                known.asked_by(exchange.number)
        return dead

    def answered(self, exchange: Exchange, attempt: Attempt, now: float) -> None:
        """An attempt brought an answer: its route is healthy, its times may be learned from."""
        self._reached(attempt.endpoint)
        known = self._known.get(attempt.endpoint.name)
        if known is None:
            return
        call = exchange.call
        with self._lock:
            before, since = known.breaker.state, known.breaker.since
            known.breaker.succeeded(now)
            after = known.breaker.state
            if after is not before:
                self._selector.changed()
                known.load.recovered(now)
            if not self.config.probe_interval and known.latency.round_trip is None and attempt.connect is not None:
                known.latency.saw_round_trip(attempt.connect, now)  # nobody probes: a handshake is a round trip
            if attempt.sent_at is not None and attempt.sent_at >= since:  # after an outage nothing of before it counts
                self._heard(known, call, attempt, now)
            known.refresh(now)
            first = self._selector.greet(call, known.standing, now)  # nothing measured yet: stay with it
            if exchange.talk is not None and exchange.talk.home is None:
                exchange.talk.home = known.standing
            refused, known.key = known.key, attempt.key if call.addressed != known.route.name else known.key
        if refused != known.key:
            self._listeners.emit(events.KeyRefused(known.route, refused + 1, known.key + 1))
        self._changed(known, before, after, "a request was answered", exchange)
        if first:
            self._listeners.emit(events.IncumbentChanged(None, known.route))

    def outpaced(self, exchange: Exchange, attempt: Attempt, now: float) -> None:
        """A hedge has answered, and this attempt has not: it would have taken longer, nobody knows how long.

        Taken as if it had answered now: were only those learned from that beat their hedges, a route that has become
        slow would never be found out.
        """
        known = self._known.get(attempt.endpoint.name)
        if known is not None and not attempt.late:
            with self._lock:
                busy = known.load.busy
                self._patience.learn(exchange.call, now - attempt.departed, known.latency, now, busy=busy)
                known.refresh(now)

    def blamed(self, exchange: Exchange, attempt: Attempt, now: float, *, unreachable: bool) -> None:
        """An attempt failed through its endpoint's fault."""
        known = self._known.get(attempt.endpoint.name)
        if attempt.failure in (Failure.CERTIFICATE, Failure.CLIENT_CERTIFICATE):
            ours = attempt.failure is Failure.CLIENT_CERTIFICATE
            self._listeners.emit(events.CertificateRefused(attempt.endpoint, attempt.detail, ours))
        cut_off = attempt.failure in CUT_OFF
        restored: list[Known] | None = None
        if known is None:
            if cut_off:
                with self._lock:
                    restored = self._lost(attempt.endpoint, now)
                self._tell_lost(restored)
            return
        with self._lock:
            before = known.breaker.state
            known.failures += 1
            known.last_failure = (attempt.detail or str(attempt.failure), now)
            if not (cut_off and self._offline.now):
                known.breaker.failed(now, attempt.detail, unreachable=unreachable, started=attempt.started)
                self._opened(known, before, now)
            after = known.breaker.state
            if cut_off:
                restored = self._lost(attempt.endpoint, now)
        self._changed(known, before, after, attempt.detail, exchange)
        self._tell_lost(restored)

    def cooled(self, exchange: Exchange, attempt: Attempt, seconds: float, now: float) -> None:
        """A route asked to be left alone for so many seconds."""
        known = self._known.get(attempt.endpoint.name)
        if known is None:
            return
        with self._lock:
            rested = now < known.cooldown_until
            known.cooldown_until = max(known.cooldown_until, now + seconds)
            if attempt.status == 429 or attempt.error_status == 429:
                known.load.refused()
            self._selector.changed()
        if not rested:
            number = exchange.number or None
            self._listeners.emit(events.Cooled(known.route, attempt.error_status, seconds, number))

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
            self._selector.changed()
        if not said:
            model, sent, number = shown(scope), shown(exchange.model_at(known.route)), exchange.number or None
            self._listeners.emit(events.Quarantined(known.route, attempt.error_status, model, QUARANTINE, number, sent))

    def arrived(self, exchange: Exchange, attempt: Attempt, how: str | None) -> None:
        """An attempt is over."""
        known = self._known.get(attempt.endpoint.name)
        if known is not None:
            with self._lock:
                known.load.arrived()
                known.standing.load = known.load.penalty(attempt.ended or attempt.started)
                if attempt.overdue:
                    known.silence.over()
                    self._selector.changed()
                if known.trial is attempt:
                    known.trial = None
                    self._selector.changed()
        if exchange.number:
            self._listeners.attempt_ended(exchange, attempt, how)

    # For the probers

    def claim_probes(self, prober: object) -> tuple[list[Claim], float | None]:
        """Which probes the prober is to make now, and in how many seconds to ask again.

        Every claim must be reported with `probed`. The clients that share a router share the probing too; each
        also visits each route often enough to keep its own connections warm.

        Returns:
            the claims, and the wait in seconds; None: nobody has asked for a while, rest until somebody does.
        """
        now = self.clock()
        awake = self._last_request is not None and now - self._last_request <= QUIET
        if self._closed or not (awake or any(known.silence.wanted for known in self._allowed)):
            return [], None
        with self._lock:
            claims, wait = self._schedule.claim(prober, self._allowed, now, offline=self._offline.now)
        return claims, QUIET if wait is None else wait

    def probing(self, claim: Claim) -> list[tuple[bytes, bytes]]:
        """A claimed probe is on its way. Gives the headers that listeners want to send along."""
        headers: list[tuple[bytes, bytes]] = []
        if claim.exchanges:
            url = claim.route.url + self.config.probe_path
            self._listeners.emit(events.VerificationStarted(claim.number, claim.route, url, headers, claim.exchanges))
        return headers

    def secured(self, attempt: Attempt) -> None:
        """An attempt or a probe made a connection with a certificate: is it good for some more time?"""
        if attempt.certificate is not None:
            begins, ends = attempt.certificate
            left = ends - self.wall()
            if left < min(EXPIRES_SOON, (ends - begins) / 4):
                self._listeners.emit(events.CertificateExpiring(attempt.endpoint, left))

    def probed(self, claim: Claim, found: Finding) -> None:
        """A claimed probe is over."""
        known, now = self._known[claim.route.name], self.clock()
        if found.failure is None:
            self._reached(claim.route)
        elif found.failure in (Failure.CERTIFICATE, Failure.CLIENT_CERTIFICATE):
            ours = found.failure == Failure.CLIENT_CERTIFICATE
            self._listeners.emit(events.CertificateRefused(claim.route, found.detail, ours))
        with self._lock:
            askers, before = known.askers, known.breaker.state
            if found.late:
                cause, restored = "", None
                self._heard_too_late(known, claim, found, now)
            else:
                cause, restored = self._measured(known, claim, found, now)
            after = known.breaker.state
        self._changed(known, before, after, cause, claim)
        self._tell_lost(restored)
        self._listeners.probe_ended(claim, found, askers)

    def unprobed(self, claim: Claim) -> None:
        """A claimed probe was given up without a result (its client closed)."""
        known, now = self._known[claim.route.name], self.clock()
        with self._lock:
            self._release(known, claim, now)
        if claim.exchanges:
            self._listeners.probe_ended(claim, Finding(now, failure=Failure.CANCELLED), claim.exchanges)

    # Under the lock

    def _measured(self, known: Known, claim: Claim, found: Finding, now: float) -> tuple[str, list[Known] | None]:
        """Learn from a probe. Gives what its failure is called, and what `_lost` gives."""
        failure, before = found.failure, known.breaker.state
        silent = failure in SILENT
        cause = found.detail or failure or "probes answered"
        restored: list[Known] | None = None
        if claim.fresh:
            known.verifying_until = now
        else:
            known.probing_until = now
        if failure is None and found.round_trip is not None:
            known.latency.saw_round_trip(found.round_trip, now)
            if known.silence.suspect:
                known.silence.connected()
                self._selector.changed()
            known.refresh(now)
        if claim.fresh:
            known.silence.verified(found.started, now, alive=not silent)
            if not known.silence.wanted:
                known.askers = ()
            self._selector.changed()
        elif silent and before is not State.OPEN:
            known.silence.doubt()
        if before is State.OPEN:
            known.breaker.probed(now, good=failure is None and found.status not in (401, 403))
        elif failure is not None:
            known.last_failure = (str(Failure.SILENCE) if silent else cause, now)
            dead = silent and claim.fresh and known.silence.failures >= DEAD_AFTER
            cause = f"silence: {DEAD_AFTER} verifications failed" if dead else cause
            cut_off = failure in CUT_OFF or (silent and found.unreachable)
            if (dead or not silent) and not (cut_off and self._offline.now):
                known.breaker.failed(now, cause, unreachable=found.unreachable or dead, started=found.started)
                self._opened(known, before, now)
            if cut_off:
                restored = self._lost(claim.route, now)
        if known.breaker.state is not before:
            self._selector.changed()
        return cause, restored

    def _heard_too_late(self, known: Known, claim: Claim, found: Finding, now: float) -> None:
        """A claimed probe was heard too late to measure anything. That it was answered proves life all the same."""
        self._release(known, claim, now)
        if claim.fresh and found.failure is None:
            known.silence.verified(found.started, now, alive=True)
            self._selector.changed()

    def _release(self, known: Known, claim: Claim, now: float) -> None:
        """A claim is nobody's any more. What it was to find out is still to be found out."""
        if claim.fresh:
            known.verifying_until = now
        else:
            known.probing_until = known.probe_at = now

    def _heard(self, known: Known, call: Call, attempt: Attempt, now: float) -> None:
        """Learn from an answer."""
        if known.silence.suspect:
            self._selector.changed()
        known.silence.heard(attempt.departed)
        if attempt.late:
            return
        busy = known.load.busy
        slower = self._patience.learn(call, now - attempt.departed, known.latency, now, busy=busy)
        if call.streaming:
            if busy:
                known.load.answered(slower)
            self._selector.explorer.sees(known.standing, slower, now)

    def _reached(self, endpoint: Route) -> None:
        """An endpoint was reached: this machine is not offline (any more)."""
        if not self._offline.is_missing(endpoint.name):
            return
        now = self.clock()
        with self._lock:
            ended = self._offline.reached(endpoint.name)
            for known in self._known.values() if ended else ():
                known.probe_at = known.breaker.retry_at = now
        if ended:
            self._listeners.emit(events.ConnectivityChanged(online=True))

    def _lost(self, endpoint: Route, now: float) -> list[Known] | None:
        """An endpoint could not be reached. If it was the last, this machine is offline: no route is open for that.

        Returns:
            the routes that were opened in vain, and are not open any more; None if this machine is not offline now.
        """
        if not self._offline.lost(endpoint.name, now):
            return None
        restored = [known for known in self._known.values() if known.breaker.restore(now, WITHIN)]
        for known in restored:
            known.refresh(now)
        self._selector.changed()
        return restored

    def _give_up_waiting(self, now: float) -> list[Known]:
        """Put open routes on trial that nobody has probed in time; gives those."""
        probed_since = self._awake_since if self.config.probe_interval else None
        opened = [known for known in self._known.values() if known.breaker.state is State.OPEN]
        for known in opened:
            known.breaker.give_up_waiting(now, probed_since)
        tried = [known for known in opened if known.breaker.state is not State.OPEN]
        if tried:
            self._selector.changed()
        return tried

    def _pinned(self, call: Call, name: str) -> Route:
        allowed = {n: k.route for n, k in self._known.items() if self._selector.allowed(k.route.region, call)}
        if (fallback := self._selector.fallback(call)) is not None:
            allowed[GLOBAL] = fallback
        if name not in allowed:
            raise UnknownRouteError(name, tuple(allowed))
        return allowed[name]

    def _refusals(self, call: Call, refused: Sequence[tuple[Standing, str]]) -> list[str]:
        """Why nobody may take a request, endpoint by endpoint."""
        reasons = [
            f"{s.route.name}: " + ("drained, until Router.resume" if why == "drained" else _not_allowed(s.route.region))
            for s, why in refused
        ]
        if self._global is None:
            return [*reasons, f"{GLOBAL}: switched off (SMARTROUTE_GLOBAL_URL)"]
        if not self._selector.allowed(self._global.region, call):
            return [*reasons, f"{GLOBAL}: {_not_allowed(self._global.region)}"]
        return [*reasons, f"{GLOBAL}: its key is unknown (SMARTROUTE_GLOBAL_API_KEY)"]

    def _ranked(self, first: Route, reason: str, selection: Selection | None) -> tuple[Candidate, ...]:
        """The ranking as data, for listeners; for a pinned request there is none."""
        if selection is not None:
            return tuple(map(self._explained, selection.everybody[:MOST_TOLD]))
        known = self._known.get(first.name)
        return (candidate(known.standing, 0.0, reason) if known else Candidate(first, None, State.CLOSED, reason),)

    def _explained(self, candidate: Candidate) -> Candidate:
        """With what stands in its way, and since when or for how long, if something does."""
        known = self._known.get(candidate.route.name)
        now = self.clock()
        note = "" if known is None else known.trouble(now)
        if self._offline.now:
            note = "while this machine seems to be offline"
        return candidate._replace(note=note) if note else candidate

    def _find(self, name: str) -> Known:
        try:
            return self._known[name]
        except KeyError:
            raise UnknownRouteError(name, tuple(self._known)) from None

    def _opened(self, known: Known, before: State, now: float) -> None:
        """A route was opened, if it was: its way has to be measured anew."""
        if known.breaker.state is before or known.breaker.state is not State.OPEN:
            return
        known.silence.forget()
        known.latency.interrupt()
        known.refresh(now)
        self._selector.changed()

    # After the lock

    def _changed(self, known: Known, before: State, after: State, cause: str, by: Exchange | Claim | None) -> None:
        if before is not after:
            self._listeners.breaker_changed(known.route, before, after, cause, by)

    def _tell_lost(self, restored: list[Known] | None) -> None:
        if restored is not None:
            self._listeners.emit(events.ConnectivityChanged(online=False))
            for known in restored:
                self._changed(known, State.OPEN, State.CLOSED, "this machine is offline", None)


def _not_allowed(region: str | None) -> str:
    return f"its region {region or '(unknown)'} is not allowed (SMARTROUTE_REGIONS, x-smartroute-regions)"


def _imagined(model: str | None, path: str, size: object, conversation: str | None) -> Call:
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"size={size!r} is no number of bytes; give a whole number, 0 or more")
    return Call(path, model, streaming=True, size=size, conversation=conversation)
