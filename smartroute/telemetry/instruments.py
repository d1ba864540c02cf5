"""The instruments of a meter provider, and the state of the routes as gauges."""

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

from smartroute.route import RouteStatus
from smartroute.telemetry.names import SCOPE, Attribute, package_version

__all__ = ["STATES", "Instruments", "Source", "Totals"]

# Boundaries (seconds) of the conventions: HTTP request duration, and the GenAI conventions'
# operation duration (an answer may take minutes) and time to first token.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_ANSWER_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

STATES = ("closed", "suspect", "half_open", "quarantine", "cooldown", "open", "drained")
"""What a route can be, for a graph: of several that hold, the last one."""


class Source(Protocol):
    """A router, as far as gauges need it."""

    status: Callable[[], Iterable[RouteStatus]]
    budgets: Callable[[], dict[str, float]]
    offline: bool


class Totals:
    """A counter that is read when metrics are collected: counting costs a tenth of what the SDK's own takes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: Counter[tuple[tuple[str, Attribute], ...]] = Counter()

    def add(self, amount: int, labels: Mapping[str, Attribute]) -> None:
        """Count so many more (or fewer)."""
        key = tuple(labels.items())
        with self._lock:
            self._totals[key] += amount

    def after_fork(self) -> None:
        """In a child process: a thread that is not here may have held the lock."""
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Begin anew."""
        self._totals.clear()

    def observe(self, _: CallbackOptions) -> Iterator[Observation]:
        """What has been counted, by its labels."""
        with self._lock:
            totals = list(self._totals.items())
        for labels, total in totals:
            yield Observation(total, dict(labels))


class Instruments:
    """The metrics of one provider: of every router in the process."""

    def __init__(self, meter: Meter) -> None:
        def seconds(name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=buckets)

        def counter(name: str, unit: str, description: str) -> Totals:
            self._totals.append(totals := Totals())
            meter.create_observable_counter(name, [totals.observe], unit, description)
            return totals

        def up_down_counter(name: str, unit: str, description: str) -> Totals:
            self._totals.append(totals := Totals())
            meter.create_observable_up_down_counter(name, [totals.observe], unit, description)
            return totals

        self._totals: list[Totals] = []
        # A provider keeps its callbacks for ever, and must keep no router with them.
        self.sources: weakref.WeakSet[Source] = weakref.WeakSet()
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
        self.attempts = counter("smartroute.attempts", "{attempt}", "Attempts that have ended.")
        self.in_flight = up_down_counter("smartroute.attempts.in_flight", "{attempt}", "Attempts under way.")
        self.failovers = counter(
            "smartroute.failovers", "{attempt}", "Attempts that were made because of another, by where they went."
        )
        self.fallbacks = counter(
            "smartroute.fallbacks", "{exchange}", "Exchanges that the global endpoint answered in a route's place."
        )
        self.probe_failures = counter(
            "smartroute.probe.failures", "{probe}", "Probes that were not answered in health."
        )
        self.breaker_transitions = counter(
            "smartroute.breaker.transitions", "{transition}", "Changes of a route's health."
        )
        self.moves = counter(
            "smartroute.incumbent.changes", "{change}", "Changes of the default route, by where requests go since."
        )
        self.fallbacks.add(0, {})  # so that the first one shows as a rise
        meter.create_observable_up_down_counter(
            "smartroute.offline",
            [self._offline],
            "{router}",
            "Routers that can reach no endpoint at all: this machine is offline.",
        )
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

    @classmethod
    def of(cls, provider: MeterProvider) -> "Instruments":
        """Those of a provider, made when they are first asked for."""
        with _making:
            made = _of_provider.get(provider)
            if made is None:
                made = _of_provider[provider] = cls(provider.get_meter(SCOPE, package_version()))
            return made

    def after_fork(self) -> None:
        """In a child process: what is in flight is the parent's."""
        for totals in self._totals:
            totals.after_fork()
        self.in_flight.forget()

    def _states(self, _: CallbackOptions) -> Iterator[Observation]:
        worst: dict[str, str] = {}  # where several routers have a route of the same name
        for status in self._routes():
            worst[status.name] = max(worst.get(status.name, STATES[0]), _state(status), key=STATES.index)
        for name, now in worst.items():
            for state in STATES:
                yield Observation(int(state == now), {"smartroute.endpoint.name": name, "smartroute.state": state})

    def _offline(self, _: CallbackOptions) -> Iterator[Observation]:
        yield Observation(sum(source.offline and any(source.status()) for source in list(self.sources)))

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


def _state(status: RouteStatus) -> str:
    """The one word of `STATES` that says most of a route."""
    found = {
        str(status.state),
        "suspect" if status.suspect else "closed",
        "quarantine" if status.quarantine else "closed",
        "cooldown" if status.cooldown else "closed",
        "drained" if status.drained else "closed",
    }
    return max(found, key=STATES.index)


_making = threading.Lock()
_of_provider: weakref.WeakKeyDictionary[MeterProvider, Instruments] = weakref.WeakKeyDictionary()


def _after_fork() -> None:
    global _making  # noqa: PLW0603 - there is no other way to replace it
    _making = threading.Lock()  # a thread that is not here may have held it
    for made in tuple(_of_provider.values()):
        made.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
