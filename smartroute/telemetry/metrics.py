"""Events as metrics.

Labels are names from the configuration, states, status codes and classes of failure: traffic makes none up.
"""

from collections.abc import Callable, Iterable

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider

from smartroute.events import (
    AttemptEnded,
    AttemptStarted,
    BreakerChanged,
    ConnectivityChanged,
    ExchangeEnded,
    IncumbentChanged,
    ProbeEnded,
)
from smartroute.route import RouteStatus
from smartroute.telemetry.instruments import Instruments
from smartroute.telemetry.names import Attribute, error_type, given, records
from smartroute.telemetry.spans import OpenAttempt, OpenExchange

__all__ = ["SECOND_ATTEMPTS", "Metrics"]

SECOND_ATTEMPTS = frozenset(("failover", "next_key", "stale_connection", "rescue", "hedge"))
"""Reasons of attempts that were made because of another one that was sent."""


class Metrics:
    """Records what happens, once a meter provider is configured.

    Args:
        status: what is known of each route now. `budgets`: the tokens that each budget has left, by its name.
    """

    def __init__(
        self,
        provider: MeterProvider | None,
        status: Callable[[], Iterable[RouteStatus]],
        budgets: Callable[[], dict[str, float]],
    ) -> None:
        self._provider = provider
        self.status = status
        self.budgets = budgets
        self._made: Instruments | None = None
        self.offline = False

    def attempt_started(self, event: AttemptStarted, attempt: OpenAttempt) -> None:
        """One more in flight; and one more second attempt, if it is one."""
        if instruments := self._instruments():
            attempt.counted = True
            name = {"smartroute.endpoint.name": event.endpoint.name}
            instruments.in_flight.add(1, name)
            if event.reason in SECOND_ATTEMPTS:
                instruments.failovers.add(1, {**name, "smartroute.reason": event.reason})

    def attempt_ended(self, event: AttemptEnded, attempt: OpenAttempt) -> None:
        """How long it took, and what came of it."""
        if not (instruments := self._instruments()):
            return
        name = {"smartroute.endpoint.name": event.endpoint.name}
        if attempt.counted:
            instruments.in_flight.add(-1, name)
        if event.stream == "diverted":  # nothing was sent
            return
        failure = event.failure and event.failure.value
        error = error_type(event.status, failure)
        request = given({**attempt.server, **name, "http.response.status_code": event.status, "error.type": error})
        instruments.request_duration.record(event.duration, request, attempt.context)
        if attempt.streaming and event.first_content is not None:
            instruments.first_token.record(event.first_content, name, attempt.context)
        outcome = _attempt_outcome(error, failure, event.stream)
        instruments.attempts.add(1, given({**name, "smartroute.outcome": outcome, "error.type": error}))

    def exchange_ended(self, event: ExchangeEnded, exchange: OpenExchange) -> None:
        """How long it took, and who answered."""
        if not (instruments := self._instruments()):
            return
        for attempt in exchange.left:
            if attempt.counted:
                instruments.in_flight.add(-1, {"smartroute.endpoint.name": attempt.endpoint})
        labels = given(
            {
                "smartroute.outcome": event.outcome,
                "smartroute.endpoint.name": event.endpoint.name if event.endpoint else None,
                "smartroute.fallback": event.fallback,
                "smartroute.streaming": exchange.streaming,
                "error.type": exchange.error,
            }
        )
        instruments.route_duration.record(event.duration, labels, exchange.context)
        if exchange.streaming and event.first_content is not None and event.endpoint is not None:
            answered: dict[str, Attribute] = {
                "smartroute.endpoint.name": event.endpoint.name,
                "smartroute.fallback": event.fallback,
            }
            instruments.route_first_token.record(event.first_content, answered, exchange.context)
        if event.fallback and event.outcome == "answered":
            instruments.fallbacks.add(1, {})

    def breaker_changed(self, event: BreakerChanged) -> None:
        """A route's health changed."""
        if instruments := self._instruments():
            instruments.breaker_transitions.add(
                1,
                {
                    "smartroute.endpoint.name": event.route.name,
                    "smartroute.breaker.before": event.before,
                    "smartroute.breaker.after": event.after,
                },
            )

    def incumbent_changed(self, event: IncumbentChanged) -> None:
        """Requests go elsewhere by default."""
        if instruments := self._instruments():
            instruments.moves.add(1, {"smartroute.endpoint.name": event.after.name})

    def connectivity_changed(self, event: ConnectivityChanged) -> None:
        """This machine is offline, or online again."""
        self.offline = not event.online
        self._instruments()

    def probe_ended(self, event: ProbeEnded) -> None:
        """A probe's round trip, or its failure."""
        if instruments := self._instruments():
            name = {"smartroute.endpoint.name": event.route.name}
            if event.round_trip is not None:
                instruments.probe_duration.record(event.round_trip, name)
            elif error := error_type(None, event.failure):
                instruments.probe_failures.add(1, {**name, "error.type": error})

    def _instruments(self) -> Instruments | None:
        """The instruments, from the first event after a meter provider was configured."""
        if self._made is None:
            # Not before: the API keeps every meter that is asked for too early, forever.
            provider = self._provider or metrics.get_meter_provider()
            if records(provider):
                self._made = Instruments.of(provider)
                self._made.sources.add(self)
        return self._made


def _attempt_outcome(error: str | None, failure: str | None, stream: str | None) -> str:
    """How an attempt ended, in the words for exchanges; `superseded`: another one was quicker."""
    if error is not None:
        return "interrupted" if stream == "interrupted" else "failed"
    if failure == "cancelled":
        return "cancelled"
    return "superseded" if stream == "superseded" else "answered"
