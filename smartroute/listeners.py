"""Telling those who want to know what happens: events are made only if somebody listens."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable
from typing import ClassVar

from smartroute import events
from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import Attempt
from smartroute.policy.schedule import Claim, Finding
from smartroute.policy.selection import Candidate
from smartroute.route import Route

__all__ = ["Listeners", "shown"]

logger = logging.getLogger("smartroute")

MOST_SHOWN = 256
"""Characters of a model's name that are told."""


class Listeners:
    """The listeners of one router. None of them is ever called under a lock, and none can fail a request."""

    _numbers: ClassVar[itertools.count[int]] = itertools.count(1)
    verifications: ClassVar[itertools.count[int]] = itertools.count(1)
    """Their numbers: unique in the process, as those of exchanges are, for who listens to several routers."""

    def __init__(self) -> None:
        # Every change is one atomic operation of a dict: whoever subscribes or leaves undoes nobody else's.
        self._by_subscription: dict[object, events.Listener] = {}
        self._broken: tuple[events.Listener, ...] = ()

    def add(self, listener: events.Listener) -> Callable[[], None]:
        """Tell `listener` of every event from now on. Returns a function that ends this."""
        self._by_subscription[subscription := object()] = listener

        def remove() -> None:
            self._by_subscription.pop(subscription, None)

        return remove

    @property
    def _all(self) -> tuple[events.Listener, ...]:
        return tuple(self._by_subscription.values())

    def number(self) -> int:
        """A number for an exchange, unique in the process; 0 if nobody listens to exchanges now."""
        return next(self._numbers) if any(map(self._is_active, self._all)) else 0

    def emit(self, event: events.Event) -> None:
        """Tell every listener. One that fails is reported once and costs nobody anything."""
        for listener in self._all:
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - a bug in telemetry must not fail a request
                self._report_broken(listener, error)

    def after_fork(self) -> None:
        """In a child process: tell those listeners that have a lock, or note of what was under way."""
        for listener in self._all:
            try:
                getattr(listener, "after_fork", tuple)()
            except Exception as error:  # noqa: BLE001 - as above
                self._report_broken(listener, error)

    def exchange_started(self, exchange: Exchange, candidates: tuple[Candidate, ...], reason: str) -> None:
        """A request was accepted."""
        call = exchange.call
        model = shown(call.model)
        self.emit(events.ExchangeStarted(exchange.number, call.path, model, call.streaming, candidates, reason))

    def exchange_ended(self, exchange: Exchange, outcome: str, now: float) -> None:
        """Its journey is over."""
        delivered = exchange.delivered
        self.emit(
            events.ExchangeEnded(
                exchange.number,
                outcome,
                delivered.endpoint if delivered else None,
                len(exchange.attempts),
                delivered is not None and delivered.on_global,
                now - exchange.began,
                delivered.number if delivered else None,
                delivered.content_at - exchange.began if delivered and delivered.content_at else None,
                exchange.stopped if outcome == "failed" else None,
            )
        )

    def attempt_started(self, exchange: Exchange, attempt: Attempt) -> None:
        """An attempt is on its way."""
        self.emit(
            events.AttemptStarted(
                exchange.number,
                attempt.number,
                attempt.endpoint,
                "POST",
                attempt.endpoint.url + exchange.call.path,
                attempt.reason,
                attempt.headers,
                exchange.known(attempt.endpoint),
                shown(exchange.model_at(attempt.endpoint)),
                sum(earlier.sent for earlier in exchange.attempts),
            )
        )

    def attempt_ended(self, exchange: Exchange, attempt: Attempt, how: str | None) -> None:
        """An attempt is over."""
        since, ended = attempt.started, attempt.ended or attempt.started
        self.emit(
            events.AttemptEnded(
                exchange.number,
                attempt.number,
                attempt.endpoint,
                attempt.status,
                attempt.failure,
                attempt.detail,
                ended - since,
                attempt.reused,
                attempt.sent_at and attempt.sent_at - since,
                attempt.first_byte and attempt.first_byte - since,
                attempt.content_at and attempt.content_at - since,
                how,
                attempt.size,
                attempt.chunks,
                attempt.notes,
            )
        )

    def breaker_changed(self, route: Route, before: str, after: str, cause: str, by: Exchange | Claim | None) -> None:
        """A route's health changed."""
        exchange = by.number or None if isinstance(by, Exchange) else None
        verification = by.number if isinstance(by, Claim) and by.exchanges else None
        # Plain text, not members of our enums: what they are called is all that anybody needs to know.
        self.emit(events.BreakerChanged(route, str(before), str(after), cause, exchange, verification))

    def probe_ended(self, claim: Claim, found: Finding, askers: tuple[int, ...]) -> None:
        """A probe is over, whatever came of it."""
        told = bool(claim.exchanges)
        self.emit(
            events.ProbeEnded(
                claim.route,
                found.round_trip if found.failure is None and not found.late else None,
                found.failure and str(found.failure),
                claim.fresh,
                found.status,
                found.detail,
                claim.number if told else None,
                askers if told else (),
            )
        )

    def _is_active(self, listener: events.Listener) -> bool:
        try:
            return bool(getattr(listener, "active", True))
        except Exception as error:  # noqa: BLE001 - as above
            self._report_broken(listener, error)
            return False

    def _report_broken(self, listener: events.Listener, error: Exception) -> None:
        if not any(listener is broken for broken in self._broken):
            self._broken += (listener,)
            message = "A listener failed; requests go on. Further failures of it are not logged."
            with contextlib.suppress(Exception):  # where the log itself is what fails
                logger.error(message, exc_info=error)


def shown(model: str | None) -> str | None:
    """A model's name as it can be told: callers may send any text, such as one that forges a line of the log."""
    if model is None or (len(model) <= MOST_SHOWN and model.isprintable()):
        return model
    return ascii(model[:MOST_SHOWN])[1:-1]
