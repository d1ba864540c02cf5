"""Events as OpenTelemetry spans and metrics.

The only importer of OpenTelemetry, and of its API alone: with no SDK configured there is nothing to
record and next to nothing to pay. Attributes are those of the stable HTTP conventions
(open-telemetry/semantic-conventions, `docs/http/http-spans.md` and `http-metrics.md`), else they begin
with `smartroute.`. Durations are in seconds.
"""

from collections.abc import Callable
from typing import assert_never

from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import INVALID_SPAN, TracerProvider, get_current_span, get_tracer_provider

from smartroute.events import (
    AttemptEnded,
    AttemptOverdue,
    AttemptStarted,
    BreakerChanged,
    CertificateExpiring,
    CertificateRefused,
    ConnectivityChanged,
    Cooled,
    Event,
    ExchangeEnded,
    ExchangeStarted,
    IncumbentChanged,
    KeyRefused,
    PassedThrough,
    ProbeEnded,
    Quarantined,
    VerificationStarted,
)
from smartroute.route import RouteStatus
from smartroute.telemetry.metrics import Metrics
from smartroute.telemetry.names import records
from smartroute.telemetry.spans import Spans

__all__ = ["Telemetry"]


class Telemetry:
    """A listener that turns events into spans and metrics.

    It may be called from any thread or task. No context is ever attached: parents are passed by hand,
    so nothing leaks into the caller's code across a yield or an await.

    Args:
        tracer_provider: where spans go; the globally configured provider by default, also when it
            is configured later.
        meter_provider: where metrics go; likewise.
        status: what is known of each route; asked each time that metrics are collected.
        budgets: how many tokens each budget has left, by its name; likewise.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        status: Callable[[], tuple[RouteStatus, ...]] = tuple,
        budgets: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._spans = Spans(tracer_provider)
        self._metrics = Metrics(meter_provider, status, budgets)
        self._configured = False

    def after_fork(self) -> None:
        """In a child process: what was under way is the parent's."""
        self._spans.after_fork()

    @property
    def active(self) -> bool:
        """Whether anyone would notice the events of an exchange that begins here and now.

        True once a provider is configured, and where the caller's context has a trace to pass on.
        Costs a microsecond or two while False, less once True: ask once per exchange, and build its
        events only on True.
        """
        if not self._configured:  # a provider, once set, is never unset
            self._configured = records(self._tracer_provider or get_tracer_provider()) or records(
                self._meter_provider or get_meter_provider()
            )
        return self._configured or get_current_span() is not INVALID_SPAN

    def __call__(self, event: Event, /) -> None:  # noqa: C901 - one case for each kind of event
        """Take note of an event."""
        match event:
            case ExchangeStarted():
                self._spans.exchange_started(event)
            case AttemptStarted():
                if (attempt := self._spans.attempt_started(event)) is not None:
                    self._metrics.attempt_started(event, attempt)
            case AttemptOverdue():
                self._spans.attempt_overdue(event)
            case AttemptEnded():
                if (attempt := self._spans.attempt_ended(event)) is not None:
                    self._metrics.attempt_ended(event, attempt)
            case ExchangeEnded():
                if (exchange := self._spans.exchange_ended(event)) is not None:
                    self._metrics.exchange_ended(event, exchange)
            case BreakerChanged():
                self._spans.breaker_changed(event)
                self._metrics.breaker_changed(event)
            case VerificationStarted():
                self._spans.verification_started(event)
            case ProbeEnded():
                self._spans.probe_ended(event)
                self._metrics.probe_ended(event)
            case IncumbentChanged():
                self._metrics.incumbent_changed(event)
            case PassedThrough():
                self._spans.passed_through(event)
            case ConnectivityChanged():
                self._metrics.connectivity_changed(event)
            case Cooled() | Quarantined():
                self._spans.avoided(event)
            case KeyRefused() | CertificateRefused() | CertificateExpiring():
                pass  # for people: they are in the log
            case _:
                assert_never(event)
