"""Events as metrics, and the state of the routes as gauges.

Labels are names from the configuration, states, status codes and classes of failure: traffic makes none up.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

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
from smartroute.telemetry.names import SCOPE, Attribute, error_type, given, package_version, records
from smartroute.telemetry.spans import OpenAttempt, OpenExchange

__all__ = ["STATES", "Metrics"]

# Boundaries (seconds) of the conventions: HTTP request duration, and the GenAI conventions'
# operation duration (an answer may take minutes) and time to first token.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_ANSWER_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

STATES = ("closed", "suspect", "half_open", "open", "cooldown", "quarantine", "drained")
"""What a route can be, for a graph: of several that hold, the last one."""
SECOND_ATTEMPTS = frozenset(("failover", "next_key", "stale_connection", "connection_race", "rescue", "hedge"))
"""Reasons of attempts that were made because of another."""


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
        self._made: _Instruments | None = None
        self._offline = False

    def attempt_started(self, event: AttemptStarted, attempt: OpenAttempt) -> None:
        """One more in flight; and one more second attempt, if it is one."""
        if instruments := self._instruments():
            attempt.counted = True
            name = {"smartroute.endpoint.name": event.endpoint.name}
            instruments.in_flight.add(1, name, attempt.context)
            if event.reason in SECOND_ATTEMPTS:
                instruments.failovers.add(1, {**name, "smartroute.reason": event.reason}, attempt.context)

    def attempt_ended(self, event: AttemptEnded, attempt: OpenAttempt) -> None:
        """How long it took, and what came of it."""
        if not (instruments := self._instruments()):
            return
        name = {"smartroute.endpoint.name": event.endpoint.name}
        if attempt.counted:
            instruments.in_flight.add(-1, name, attempt.context)
        if event.stream == "diverted":  # nothing was sent
            return
        failure = event.failure and event.failure.value
        error = error_type(event.status, failure)
        request = given({**attempt.server, **name, "http.response.status_code": event.status, "error.type": error})
        instruments.request_duration.record(event.duration, request, attempt.context)
        if attempt.streaming and event.first_content is not None:
            instruments.first_token.record(event.first_content, name, attempt.context)
        outcome = _attempt_outcome(error, failure, event.stream)
        instruments.attempts.add(
            1, given({**name, "smartroute.outcome": outcome, "error.type": error}), attempt.context
        )

    def exchange_ended(self, event: ExchangeEnded, exchange: OpenExchange) -> None:
        """How long it took, and who answered."""
        if not (instruments := self._instruments()):
            return
        for attempt in exchange.left:
            if attempt.counted:
                instruments.in_flight.add(-1, {"smartroute.endpoint.name": attempt.endpoint}, attempt.context)
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
        if event.fallback:
            instruments.fallbacks.add(1, None, exchange.context)

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
        if (instruments := self._instruments()) and self._offline is event.online:
            self._offline = not event.online
            instruments.offline.add(1 if self._offline else -1)

    def probe_ended(self, event: ProbeEnded) -> None:
        """A probe's round trip, or its failure."""
        if instruments := self._instruments():
            name = {"smartroute.endpoint.name": event.route.name}
            if event.round_trip is not None:
                instruments.probe_duration.record(event.round_trip, name)
            elif error := error_type(None, event.failure):
                instruments.probe_failures.add(1, {**name, "error.type": error})

    def _instruments(self) -> "_Instruments | None":
        """The instruments, from the first event after a meter provider was configured."""
        if self._made is None:
            # Not before: the API keeps every meter that is asked for too early, forever.
            provider = self._provider or metrics.get_meter_provider()
            if records(provider):
                made = _of_provider.get(provider)
                if made is None:
                    made = _of_provider[provider] = _Instruments(provider.get_meter(SCOPE, package_version()))
                made.sources.add(self)
                self._made = made
        return self._made


class _Instruments:
    """The metrics of one provider: of every router in the process."""

    def __init__(self, meter: Meter) -> None:
        def seconds(name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=buckets)

        # A provider keeps its callbacks for ever, and must keep no router with them.
        self.sources: weakref.WeakSet[Metrics] = weakref.WeakSet()
        self.request_duration = seconds(
            "http.client.request.duration", "Duration of HTTP client requests.", _REQUEST_BUCKETS
        )
        self.route_duration = seconds(
            "smartroute.route.duration", "From accepting a request to the end of its answer.", _ANSWER_BUCKETS
        )
        self.first_token = seconds(
            "smartroute.time_to_first_token",
            "From the start of a streamed attempt to its first content.",
            _TOKEN_BUCKETS,
        )
        self.route_first_token = seconds(
            "smartroute.route.time_to_first_token",
            "From accepting a streamed request to its first content, failovers included.",
            _TOKEN_BUCKETS,
        )
        self.probe_duration = seconds(
            "smartroute.probe.duration", "Round trip of the probes that were answered in health.", _REQUEST_BUCKETS
        )
        self.attempts = meter.create_counter("smartroute.attempts", "{attempt}", "Attempts that have ended.")
        self.in_flight = meter.create_up_down_counter(
            "smartroute.attempts.in_flight", "{attempt}", "Attempts under way."
        )
        self.failovers = meter.create_counter(
            "smartroute.failovers", "{attempt}", "Attempts that were made because of another, by where they went."
        )
        self.fallbacks = meter.create_counter(
            "smartroute.fallbacks", "{exchange}", "Exchanges that the global endpoint answered in a route's place."
        )
        self.probe_failures = meter.create_counter(
            "smartroute.probe.failures", "{probe}", "Probes that were not answered in health."
        )
        self.breaker_transitions = meter.create_counter(
            "smartroute.breaker.transitions", "{transition}", "Changes of a route's health."
        )
        self.moves = meter.create_counter(
            "smartroute.incumbent.changes", "{change}", "Changes of the default route, by where requests go since."
        )
        self.offline = meter.create_up_down_counter(
            "smartroute.offline", "{router}", "Routers that can reach no endpoint at all: this machine is offline."
        )
        self.fallbacks.add(0)  # so that the first one shows as a rise
        self.offline.add(0)
        meter.create_observable_gauge(
            "smartroute.route.state", [self._states], "{route}", "1 for the state that a route is in, 0 for the others."
        )
        meter.create_observable_gauge(
            "smartroute.route.round_trip", [self._round_trips], "s", "The estimated round trip to a route."
        )
        meter.create_observable_gauge(
            "smartroute.route.first_token",
            [self._first_tokens],
            "s",
            "The expected time to first token of a streamed request of typical size.",
        )
        meter.create_observable_gauge(
            "smartroute.budget.tokens", [self._budgets], "{token}", "What may be sent twice, at this moment."
        )

    def _states(self, _: CallbackOptions) -> Iterator[Observation]:
        worst: dict[str, str] = {}  # where several routers have a route of the same name
        for status in self._routes():
            worst[status.name] = max(worst.get(status.name, STATES[0]), _state(status), key=STATES.index)
        for name, now in worst.items():
            for state in STATES:
                yield Observation(int(state == now), {"smartroute.endpoint.name": name, "smartroute.state": state})

    def _round_trips(self, _: CallbackOptions) -> Iterator[Observation]:
        for status in self._routes():
            if status.round_trip is not None:
                yield Observation(status.round_trip, {"smartroute.endpoint.name": status.name})

    def _first_tokens(self, _: CallbackOptions) -> Iterator[Observation]:
        for status in self._routes():
            if status.first_token is not None:
                yield Observation(status.first_token, {"smartroute.endpoint.name": status.name})

    def _budgets(self, _: CallbackOptions) -> Iterator[Observation]:
        least: dict[str, float] = {}
        for source in list(self.sources):
            for name, tokens in source.budgets().items():
                least[name] = min(tokens, least.get(name, tokens))
        for name, tokens in least.items():
            yield Observation(tokens, {"smartroute.budget": name})

    def _routes(self) -> Iterator[RouteStatus]:
        for source in list(self.sources):
            yield from source.status()


_of_provider: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()


def _state(status: RouteStatus) -> str:
    """The one word of `STATES` that says most of a route."""
    if status.drained:
        return "drained"
    if status.quarantine:
        return "quarantine"
    if status.cooldown:
        return "cooldown"
    return "suspect" if status.suspect and status.state == "closed" else status.state


def _attempt_outcome(error: str | None, failure: str | None, stream: str | None) -> str:
    """How an attempt ended, in the words for exchanges; `superseded`: another one was quicker."""
    if error is not None:
        return "interrupted" if stream == "interrupted" else "failed"
    if failure == "cancelled":
        return "cancelled"
    return "superseded" if stream == "superseded" else "answered"
