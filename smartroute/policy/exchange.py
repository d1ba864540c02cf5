"""One request's journey, without any I/O.

A driver tells the exchange what happened and does what it answers:

    command = exchange.start(now)
    while not delivered:
        event = ... carry out the command ...
        command = exchange.feed(event, now)
    ... hand the body to the caller ...
    exchange.settle(attempt, how, now)

    Send ──▶ Answered ──▶ Hold ──▶ Content │ Whole │ Spoiled ──▶ Deliver
      │                                       │
      └──▶ Failed │ Diverted ─────────────────┴──▶ Send (elsewhere) │ Deliver │ Raise

An attempt of which nothing has come by its `check_at` is told as `Quiet`; the answer is `Wait`, or a `Send`
beside it: a rescue if its route is dead, a hedge if it is slow and hedging is on. Attempts carry numbers, so that
events of two in flight can be told apart.
"""

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import Protocol, assert_never

from smartroute.policy.affinity import Talk
from smartroute.policy.breaker import State
from smartroute.policy.messages import (
    Answered,
    Attempt,
    Call,
    Command,
    Content,
    Deliver,
    Diverted,
    Event,
    Failed,
    Gate,
    Hold,
    Quiet,
    Raise,
    Record,
    Send,
    Spoiled,
    Wait,
    Whole,
)
from smartroute.policy.outcome import Again, Blame, Failure, Rule, rule_for_failure, rule_for_status
from smartroute.policy.patience import TICK
from smartroute.policy.selection import Candidate
from smartroute.route import Kind, Route

__all__ = ["Exchange", "Fleet"]

MOST_ON_ROUTES = 3
"""How often a request is sent to routes at the most; what was never sent does not count, nor does a further key."""
MOST_ATTEMPTS_OF_A_RETRY = 2
"""When the SDK itself is retrying: its retries and ours must not multiply."""
MOST_RIVALS = 8
"""Connections opened at once at the most when nothing is known of any route."""
ERROR_LIMIT = 1.0
"""Seconds that an error's body may take where another endpoint is to be asked."""
LOOK_AGAIN = 1.0
"""Seconds after which an attempt is looked after again whose route is dead, if there was nowhere else to go."""
NO_HEDGE = ("suspect", "last_resort")
"""What stands for such a reason in the ranking says nothing, or has asked to be left alone."""
KEPT_FOR_GLOBAL = 1.0
"""Seconds of the deadline that attempts on routes leave to the global endpoint."""


_SILENT = rule_for_failure(Failure.SILENCE)


def _no_rivals() -> tuple[Route, ...]:
    return ()


class Fleet(Protocol):
    """What an exchange asks of the router, and tells it. Thread-safe there, a plain object in tests."""

    def ranking(self, call: Call, now: float) -> Sequence[Candidate]:
        """Who may be asked as of now, best first."""
        ...

    def patience(self, route: Route) -> float:
        """How long to wait for the route's connection before racing another, in seconds."""
        ...

    def handshake(self, route: Route) -> float:
        """How long to wait for a TLS handshake before going elsewhere, in seconds."""
        ...

    def keys(self, call: Call, route: Route) -> tuple[int, int]:
        """How many keys there are to try on the route for this call, and which to begin with."""
        ...

    def same_key(self, call: Call, one: Route, other: Route) -> bool:
        """Whether two endpoints would get the same key."""
        ...

    def replay(self, now: float) -> bool:
        """Take a replay token."""
        ...

    def hedge(self, now: float) -> bool:
        """Take a hedging token."""
        ...

    def second_opinion(self, status: int, now: float, *, same: bool) -> None:
        """What one endpoint has answered with this status another one could not answer either (`same`), or could."""
        ...

    def is_unanimous(self, status: int | None, now: float) -> bool:
        """Whether second opinions about this status have just been the same."""
        ...

    def said(self, route: Route, status: int, now: float) -> None:
        """An endpoint answered with this status, of which another one is asked for its opinion."""
        ...

    def has_said(self, route: Route, status: int | None, now: float) -> bool:
        """Whether an endpoint has just answered so."""
        ...

    def diverted(self, exchange: "Exchange", attempt: Attempt) -> None:
        """No connection to an attempt's route was made in the time that it should have taken."""
        ...

    def departed(self, exchange: "Exchange", attempt: Attempt) -> None:
        """An attempt is on its way. Sets when it is to be looked after, and when it is overdue."""
        ...

    def quiet(self, exchange: "Exchange", attempt: Attempt, now: float) -> float | None:
        """Nothing has come of an attempt. When to look again; None: its route is dead, send it elsewhere too."""
        ...

    def answered(self, exchange: "Exchange", attempt: Attempt, now: float) -> None:
        """An attempt brought an answer: its route is healthy, its times may be learned from."""
        ...

    def outpaced(self, exchange: "Exchange", attempt: Attempt, now: float) -> None:
        """A hedge has answered, and this attempt has not: it would have taken longer, nobody knows how long."""
        ...

    def blamed(self, exchange: "Exchange", attempt: Attempt, now: float, *, unreachable: bool) -> None:
        """An attempt failed through its route's fault."""
        ...

    def cooled(self, exchange: "Exchange", attempt: Attempt, seconds: float, now: float) -> None:
        """A route asked to be left alone for so many seconds."""
        ...

    def refused(self, exchange: "Exchange", attempt: Attempt, now: float) -> None:
        """A route refused a key or a model that another endpoint accepted."""
        ...

    def arrived(self, exchange: "Exchange", attempt: Attempt, how: str | None) -> None:
        """An attempt is over; told exactly once for each that departed."""
        ...


class Exchange:
    """The decisions of one request's journey. Used by one thread or task at a time.

    Args:
        call: the request.
        fleet: the router.
        first: the endpoint to begin with, and the `reason`.
        number: its number in events; 0 if nobody listens.
        deadline: seconds that the whole exchange may take up to the first content; None: as long as the
            caller's own timeouts allow.
        talk: the conversation it belongs to, if any.
        at_once: nothing is known of any route: open connections to all of them at the same time.

    Attributes:
        stopped: why the request was not sent to yet another endpoint, when one had failed (`ExchangeEnded.stopped`).
    """

    __slots__ = (
        "_at_once",
        "_deadline",
        "_first",
        "_fleet",
        "_moves",
        "_one_other",
        "_ranked",
        "_rivals",
        "_sends",
        "_starved",
        "_until",
        "attempts",
        "began",
        "call",
        "delivered",
        "number",
        "stopped",
        "talk",
    )

    def __init__(
        self,
        call: Call,
        fleet: Fleet,
        first: Route,
        reason: str,
        *,
        number: int = 0,
        deadline: float | None = None,
        at_once: bool = False,
        talk: Talk | None = None,
    ) -> None:
        self.call = call
        self._fleet = fleet
        self._first = first, reason
        self._ranked: Sequence[Candidate] | None = None
        self._rivals: tuple[Route, ...] = ()
        self._deadline = deadline
        self.number = number
        self.began = 0.0
        self._until: float | None = None
        self._at_once = at_once
        self.talk = talk
        self._sends = 0
        self._moves = 0
        self._starved = False
        self._one_other: Attempt | None = None
        self.attempts: list[Attempt] = []
        self.delivered: Attempt | None = None
        self.stopped: str | None = None

    def start(self, now: float) -> Command:
        """Set out."""
        self.began = now
        if self._deadline is not None:
            self._until = now + self._deadline
        return self._send(*self._first, now)

    def feed(self, event: Event, now: float) -> Command:
        """Take note of what happened, and say what to do."""
        match event:
            case Diverted():
                return self._diverted(event, now)
            case Answered():
                return self._answered(event, now)
            case Content() | Whole():
                return self._in_hand(event.attempt, now)
            case Failed() | Spoiled():
                return self._failed(event, now)
            case Quiet():
                return self._quiet(event.attempt, now)
        assert_never(event)

    def settle(
        self,
        attempt: Attempt,
        how: str,
        now: float,
        *,
        failure: Failure = Failure.TRUNCATED,
        detail: str = "",
        status: int | None = None,
    ) -> None:
        """The delivered body is over: `complete`, `closed` (by the caller) or `interrupted`, by which `failure`.

        Args:
            status: the status code that an error event named.
        """
        if attempt.ended is not None:
            return
        if how == "interrupted":
            attempt.failure, attempt.detail, attempt.error_status = failure, detail, status
            if not attempt.on_global and (status is None or status >= 500):
                self._fleet.blamed(self, attempt, now, unreachable=False)
        self._over(attempt, now, how=how)

    def cancel(self, now: float) -> None:
        """The caller went away before an answer: nothing is learned, nothing stays behind."""
        for attempt in self.attempts:
            if attempt.ended is None:
                attempt.failure = Failure.CANCELLED
                self._over(attempt, now, how="discarded")

    def begins(self, attempt: Attempt, now: float) -> None:
        """An attempt begins to be answered, beside which others were made: it is looked after as before them."""
        attempt.rescued, attempt.check_at = False, now + LOOK_AGAIN

    def known(self, route: Route) -> Candidate | None:
        """What the last ranking that was needed said of an endpoint."""
        return next((candidate for candidate in self._ranked or () if candidate.route is route), None)

    def records(self, now: float) -> tuple[Record, ...]:
        """The attempts so far, as values."""
        return tuple(
            Record(a.endpoint.name, a.reason, a.status, a.failure, a.detail, (a.ended or now) - a.started)
            for a in self.attempts
        )

    # What follows from each event

    def _diverted(self, event: Diverted, now: float) -> Command:
        self._over(event.attempt, now, how="diverted")
        self._fleet.diverted(self, event.attempt)
        self.attempts.remove(event.attempt)  # nothing was sent: it was no attempt
        winner = next(rival for rival in self._rivals if rival.name == event.winner)
        return self._send(winner, "connection_race", now, race=False)

    def _answered(self, event: Answered, now: float) -> Command:
        attempt, status = event.attempt, event.status
        attempt.status, attempt.wait = status, event.wait
        attempt.event_stream = event.event_stream
        if status >= 400:
            return Hold(attempt, Gate.ERROR, ERROR_LIMIT if self._may_go_on(attempt, status, now) else None)
        as_made = attempt.on_global and self.call.addressed is None
        if status >= 300 and not as_made:  # the client would resolve it against the URL that it knows
            return self._failed(Spoiled(attempt, Failure.REDIRECT, f"redirect ({status})"), now)
        if attempt.on_global:
            return self._in_hand(attempt, now)
        if not self.call.streaming:
            return Hold(attempt, Gate.WHOLE)
        if event.encoded and event.event_stream:
            return self._in_hand(attempt, now)  # nobody asked for an encoding, and it hides the events
        return Hold(attempt, Gate.FIRST_CONTENT)

    def _in_hand(self, attempt: Attempt, now: float) -> Command:
        if attempt.status is not None and attempt.status >= 400:
            return self._failed(Spoiled(attempt, Failure.STATUS, f"status {attempt.status}", attempt.status), now)
        attempt.content_at = now
        self._fleet.answered(self, attempt, now)
        if self._one_other is not None and self._one_other.error_status is not None:
            self._fleet.second_opinion(self._one_other.error_status, now, same=False)
        for earlier in self.attempts:  # now that another endpoint answered, it is clear whose fault it was
            if earlier.rule is None or earlier.endpoint is attempt.endpoint:
                continue
            if earlier.rule.blame is Blame.IF_OTHERS_ANSWER:
                self._fleet.blamed(self, earlier, now, unreachable=False)
            elif earlier.error_status in (401, 403, 404):
                self._fleet.refused(self, earlier, now)
        return self._deliver(attempt, now)

    def _quiet(self, attempt: Attempt, now: float) -> Command:
        if attempt.ended is None and attempt.content_at is None:
            attempt.check_at = self._fleet.quiet(self, attempt, now)
            dead = attempt.check_at is None
            wanted = (dead or attempt.slow) and not attempt.rescued and not self._pinned
            command = self._move(attempt, _SILENT, now, rescue=True, free=dead) if wanted else None
            if command is not None:
                attempt.rescued = True
                return command
            if attempt.check_at is not None and attempt.hedge_due and (command := self._hedge(attempt, now)):
                return command
            if dead and not attempt.rescued:
                attempt.check_at = now + LOOK_AGAIN
        return Wait()

    def _failed(self, event: Failed | Spoiled, now: float) -> Command:
        attempt = event.attempt
        attempt.failure, attempt.detail = event.failure, event.detail
        empty = event.failure in (Failure.EMPTY, Failure.TRUNCATED)
        if empty and self.call.streaming and attempt.status == 200 and not attempt.event_stream:
            attempt.failure, attempt.detail = Failure.CONTENT_TYPE, "not an event stream"
        attempt.error_status = status = event.status if isinstance(event, Spoiled) else None
        if status is None:
            attempt.rule = rule = rule_for_failure(event.failure)
        else:
            attempt.rule = rule = rule_for_status(status, attempt.error_code)
        if isinstance(event, Spoiled) and event.failure is Failure.ERROR_EVENT and rule.again is Again.NOWHERE:
            attempt.failure = None  # the caller's own mistake, told in the stream
            return self._deliver(attempt, now)
        self._judge(attempt, rule, status, now)
        if status is not None and rule.blame is Blame.IF_OTHERS_ANSWER:
            self._fleet.said(attempt.endpoint, status, now)
        if attempt.ended is None:
            self._over(attempt, now, how="discarded" if attempt.status else None)
        spare = attempt.on_global or self._on_routes < MOST_ON_ROUTES
        if attempt.stale and spare and not any(a.reason == "stale_connection" for a in self.attempts):
            return self._send(attempt.endpoint, "stale_connection", now, key=attempt.key, fresh=True)
        if status in (401, 403):
            keys, first = self._fleet.keys(self.call, attempt.endpoint)
            if (following := (attempt.key + 1) % keys) != first:
                return self._send(attempt.endpoint, "next_key", now, key=following)
        if self._is_answer(attempt, rule, status):
            self.stopped = "pinned" if self._pinned else "answer"
            return self._conclude(attempt, now)
        live = [other for other in self.attempts if other.ended is None]
        if all(other.rescued for other in live) and (command := self._move(attempt, rule, now)):
            return command
        for other in live:  # another endpoint may be back before they are answered
            if other.rescued:
                other.rescued, other.check_at = False, now + LOOK_AGAIN
        return Wait() if live else self._conclude(None, now)

    # Where next

    def _may_go_on(self, attempt: Attempt, status: int, now: float) -> bool:
        """Whether an error may not be the caller's answer yet: nobody waits long for what is thrown away."""
        if attempt.on_global or self._is_answer(attempt, rule_for_status(status), status):
            return False
        tried = {a.endpoint.name for a in self.attempts}
        return any(c.route.name not in tried for c in self._ranking(now))

    def _is_answer(self, attempt: Attempt, rule: Rule, status: int | None) -> bool:
        """Whether nobody else is to be asked, whatever happened."""
        refused_the_callers_key = attempt.endpoint.name == self.call.addressed and status in (401, 403)
        return rule.again is Again.NOWHERE or self._pinned or refused_the_callers_key

    def _judge(self, attempt: Attempt, rule: Rule, status: int | None, now: float) -> None:
        if attempt.stale:
            return
        if attempt.on_global:
            if rule.blame is Blame.OPEN:
                self._fleet.blamed(self, attempt, now, unreachable=True)
            return
        if status == 429 or (status == 503 and attempt.wait is not None):
            self._fleet.cooled(self, attempt, 1.0 if attempt.wait is None else attempt.wait, now)
        if rule.blame is Blame.OPEN or (rule.blame is Blame.COUNT and self.call.retry == 0):
            self._fleet.blamed(self, attempt, now, unreachable=rule.blame is Blame.OPEN)

    def _move(
        self, attempt: Attempt, rule: Rule, now: float, *, rescue: bool = False, free: bool = True
    ) -> Command | None:
        """Send it elsewhere, if limits, budget and deadline allow.

        Args:
            rescue: the attempt goes on.
            free: what promise 3 covers costs nothing. A rescue that is not free goes to no open route.
        """
        only_global = False
        if self._one_other is not None and attempt.sent and rule.again is not Again.ELSEWHERE:
            if not (_is_refusal(attempt) and _is_refusal(self._one_other)):
                self.stopped = "second_opinion"
                return None
            only_global = True  # whose key and model are the caller's own: the routes' may be mistaken alike
        if self.call.retry and sum(a.sent and not a.stale for a in self.attempts) >= MOST_ATTEMPTS_OF_A_RETRY:
            self.stopped = "sdk_retry"
            return None
        if self._out_of_time(now):
            self.stopped = "deadline"
            return None
        self.stopped = "exhausted"
        given_up = {a.endpoint.name for a in self.attempts if a.failure is Failure.OVERTAKEN}
        others = [a for a in self.attempts if a.failure is not Failure.OVERTAKEN]
        tried = {a.endpoint.name for a in others if a.sent or a.ended is None or not rescue}
        self._ranked = None
        ranking = [c for c in self._ranking(now) if c.route.name not in tried]
        ranking.sort(key=lambda c: c.route.name in given_up)  # they have not had their chance: when nobody else is left
        if rule.blame is Blame.IF_OTHERS_ANSWER:  # the opinion of who has just said the same is known
            ranking.sort(key=lambda c: self._fleet.has_said(c.route, attempt.error_status, now))
        if self.call.retry and attempt.sent:  # the plain SDK would have sent its retry to global in the first place
            only_global |= any(c.route.kind is Kind.GLOBAL for c in ranking)
        for candidate in ranking:
            route = candidate.route
            on_global = route.kind is Kind.GLOBAL
            if not on_global and (only_global or self._on_routes >= MOST_ON_ROUTES):
                continue
            if not free and candidate.reason == "last_resort":
                break
            limit = self._limit(route, now)
            if limit is not None and now >= limit:  # what is left of the deadline is kept for global
                continue
            if rule.again is Again.OTHER_KEY and self._fleet.same_key(self.call, attempt.endpoint, route):
                continue
            if rule.again is Again.OTHER_MODEL and self.model_at(attempt.endpoint) == self.model_at(route):
                continue
            promised = free and self._is_promised(candidate, rule, attempt.error_status, now)
            if attempt.sent and not promised and not self._fleet.replay(now):
                self.stopped = "budget"
                self._starved |= not rescue and rule.again is Again.ELSEWHERE and candidate.reason != "last_resort"
                continue
            if rule.again is not Again.ELSEWHERE and self._one_other is None:
                self._one_other = attempt
            self.stopped = None
            self._moves += attempt.sent
            # What was passed over here must not get the request by way of a connection race.
            race = not on_global and rule.again not in (Again.OTHER_KEY, Again.OTHER_MODEL)
            return self._send(route, "rescue" if rescue else "failover", now, race=race)
        return None

    def _is_promised(self, candidate: Candidate, rule: Rule, status: int | None, now: float) -> bool:
        """Whether a move is what promise 3 says: to global, or the first one, to what may be healthy.

        But no outage is fed: an open route costs a token, the SDK's own retries do, and so does a second opinion where
        second opinions have just been the same.
        """
        if rule.again is not Again.ELSEWHERE and self._fleet.is_unanimous(status, now):
            return False
        if candidate.route.kind is Kind.GLOBAL:
            return True
        return self._moves == 0 and not self.call.retry and candidate.reason != "last_resort"

    def model_at(self, route: Route) -> str | None:
        """The model that an endpoint is asked for."""
        as_made = self.call.addressed is None if route.kind is Kind.GLOBAL else self.call.addressed == route.name
        return self.call.model if as_made else route.model_for(self.call.model)

    def _hedge(self, attempt: Attempt, now: float) -> Command | None:
        """Race another attempt against one that is slow for its route (Dean and Barroso 2013: hedged requests).

        Only once, on a healthy route, and not before that route would have answered had it been asked first.
        """
        if self._pinned or self.call.retry or self._out_of_time(now) or len(self.attempts) > 1:
            return None
        self._ranked = None
        for candidate in self._ranking(now):
            if candidate.route is attempt.endpoint:
                continue
            if candidate.score is None or candidate.state != State.CLOSED or candidate.reason in NO_HEDGE:
                return None
            worth_it_at = attempt.departed + candidate.score
            if now < worth_it_at - TICK:
                attempt.check_at = min(attempt.check_at or inf, worth_it_at)
                return None
            return self._send(candidate.route, "hedge", now, race=False) if self._fleet.hedge(now) else None
        return None

    def _out_of_time(self, now: float) -> bool:
        """Whether the caller's time is up."""
        if self._until is not None and now >= self._until:
            return True
        return self.call.patience is not None and now - self.began >= self.call.patience

    def _conclude(self, answer: Attempt | None, now: float) -> Command:
        """Nowhere else to go: the most telling thing that happened goes to the caller."""
        other = self._one_other
        if answer is None and other is not None:
            last = self.attempts[-1]
            if other.error_status is not None and last is not other and last.error_status == other.error_status:
                self._fleet.second_opinion(other.error_status, now, same=True)
            if not _is_own_refusal(other, self.attempts):
                answer = other
        answer = answer or _most_telling(self.attempts)
        if answer.failure is not Failure.ERROR_EVENT and (answer.status is None or answer.status < 400):
            return Raise(answer)
        # What global says goes to the SDK as it is; and who asks it to wait is waited for.
        final = self._starved and not answer.on_global and answer.status != 429 and answer.wait is None
        return self._deliver(answer, now, final=final)

    def _deliver(self, attempt: Attempt, now: float, *, final: bool = False) -> Deliver:
        """One answer is enough: what else is in flight is dropped."""
        self.delivered = attempt
        for other in self.attempts:
            if other is not attempt and other.ended is None:
                if attempt.reason == "hedge" and attempt.content_at is not None and other.number < attempt.number:
                    self._fleet.outpaced(self, other, now)
                elif other.rescued and attempt.content_at is not None:  # somebody else did answer
                    though = "though its probes are answered" if other.slow else "nor is a probe of it answered"
                    other.failure, other.detail = Failure.SILENCE, f"silence: no answer came, {though}"
                    self._fleet.blamed(self, other, now, unreachable=False)
                self._over(other, now, how="superseded")
        return Deliver(attempt, final)

    def _send(
        self,
        route: Route,
        reason: str,
        now: float,
        *,
        key: int | None = None,
        race: bool = True,
        fresh: bool = False,
    ) -> Send:
        self._sends += 1
        if key is None:
            _, key = self._fleet.keys(self.call, route)
        attempt = Attempt(self._sends, route, key, reason, now, self._limit(route, now), fresh)
        rivals = partial(self._race, route, now) if race and not self._pinned else _no_rivals
        beside = any(other.ended is None for other in self.attempts)
        self.attempts.append(attempt)
        self._fleet.departed(self, attempt)
        patience = 0.0 if self._at_once else self._fleet.patience(route)
        return Send(attempt, rivals, patience, self._fleet.handshake(route), beside)

    def _ranking(self, now: float) -> Sequence[Candidate]:
        """Who may be asked, best first; asked for only when the first choice was not enough."""
        if self._ranked is None:
            self._ranked = self._fleet.ranking(self.call, now)
        return self._ranked

    def _limit(self, route: Route, now: float) -> float | None:
        """When an attempt on this endpoint must have brought an answer."""
        if self._until is None or self._pinned or route.kind is Kind.GLOBAL or any(a.on_global for a in self.attempts):
            return self._until
        if not any(c.route.kind is Kind.GLOBAL for c in self._ranking(now)):
            return self._until
        return self._until - min(KEPT_FOR_GLOBAL, (self._deadline or 0.0) / 2)

    def _race(self, route: Route, now: float) -> tuple[Route, ...]:
        """Who may be connected to as well; asked for only when a connection has to be made."""
        tried = {a.endpoint.name for a in self.attempts}
        others = (c.route for c in self._ranking(now) if c.reason != "last_resort" and c.route is not route)
        rivals = [r for r in others if r.name not in tried]
        if self._at_once:  # nothing is known of the routes: global and worse tiers are no competitors, but what is left
            rivals = [r for r in rivals if r.kind is not Kind.GLOBAL and r.tier == route.tier]
        self._rivals = tuple(rivals[: MOST_RIVALS - 1])
        return self._rivals

    @property
    def _on_routes(self) -> int:
        """How often it was sent to routes, each with one of its keys."""
        on_routes = (a for a in self.attempts if a.sent and not a.on_global)
        return sum(a.reason != "next_key" and a.failure is not Failure.OVERTAKEN for a in on_routes)

    @property
    def _pinned(self) -> bool:
        return self.call.pinned is not None

    def _over(self, attempt: Attempt, now: float, *, how: str | None) -> None:
        attempt.ended = now
        self._fleet.arrived(self, attempt, how)


def _most_telling(attempts: Sequence[Attempt]) -> Attempt:
    """Which failure the caller should see.

    A real answer tells more than an exception, and the last more than the first; but a fallback's own
    401, 403 or 404 says nothing about the failure that led there. If every endpoint is saturated, the
    shortest wait is the answer.
    """
    attempts = [a for a in attempts if a.failure is not Failure.OVERTAKEN]
    if all(a.status == 429 for a in attempts):
        return min(attempts, key=lambda a: float("inf") if a.wait is None else a.wait)
    answers = [a for a in attempts if a.status is not None and a.status >= 400]
    telling = [a for a in answers if not _is_own_refusal(a, attempts)]
    return telling[-1] if telling else next(a for a in reversed(attempts) if a not in answers)


def _is_refusal(attempt: Attempt) -> bool:
    """Whether a key, an account or a model was refused."""
    return attempt.error_status in (401, 402, 403, 404, 412)


def _is_own_refusal(attempt: Attempt, attempts: Sequence[Attempt]) -> bool:
    """Whether it is a fallback's own refusal, which says nothing about the failure that led there."""
    return attempt.status in (401, 403, 404) and attempt.endpoint is not attempts[0].endpoint
