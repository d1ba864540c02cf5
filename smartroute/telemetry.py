"""Events as OpenTelemetry spans and metrics.

The only importer of OpenTelemetry, and of its API alone: with no SDK configured there is nothing to
record and next to nothing to pay. The span tree of one exchange:

    smartroute.route    INTERNAL, a child of the caller's span: what was decided, and how it ended
    ├── POST            CLIENT, one for each attempt: where it went, and what came of it
    └── POST

Attributes are those of the stable HTTP conventions (open-telemetry/semantic-conventions,
`docs/http/http-spans.md` and `http-metrics.md`), else they begin with `smartroute.`. Background
probes are measured and make no spans. Durations are in seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import assert_never
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter, MeterProvider
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider

from smartroute.events import (
    AttemptEnded,
    AttemptStarted,
    BreakerChanged,
    Event,
    ExchangeEnded,
    ExchangeStarted,
    IncumbentChanged,
    PassedThrough,
    ProbeEnded,
)

__all__ = ["Telemetry"]

_Value = str | bool | int | float | list[str]

_SCOPE = "smartroute"
_TRACE_HEADERS = ("traceparent", "tracestate")
_RAW_TRACE_HEADERS = frozenset(name.encode() for name in _TRACE_HEADERS)

# The API keeps these keys private, yet they are how instrumentations tell each other to be silent.
# Read with care: their disappearance must not break an import. The last is what old ones still set.
_SUPPRESSION_KEYS: tuple[str, ...] = (
    getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", ""),
    getattr(otel_context, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", ""),
    "suppress_instrumentation",
)

# Boundaries (seconds) of the conventions: HTTP request duration, and the GenAI conventions'
# operation duration (an answer may take minutes) and time to first token.
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_ANSWER_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKEN_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


class Telemetry:
    """A listener that turns events into spans and metrics.

    It may be called from any thread or task. No context is ever attached: parents are passed by hand,
    so nothing leaks into the caller's code across a yield or an await. What it holds of an exchange
    it lets go of when the exchange ends, and the spans of attempts still open end with it.

    Args:
        tracer_provider: where spans go; the globally configured provider by default, also when it
            is configured later.
        meter_provider: where metrics go; likewise.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer_provider = tracer_provider
        self._meter_provider = meter_provider
        self._tracer = trace.get_tracer(_SCOPE, _version(), tracer_provider)
        self._configured = False
        self._made_instruments: _Instruments | None = None
        # Every change is one atomic operation of a dict, so no lock is needed, with or without a GIL:
        # whoever pops an exchange or an attempt ends its span.
        self._exchanges: dict[int, _Exchange] = {}

    @property
    def active(self) -> bool:
        """Whether anyone would notice the events of an exchange that begins here and now.

        True once a provider is configured, and where the caller's context has a trace to pass on.
        Costs a microsecond or two while False, less once True: ask once per exchange, and build its
        events only on True.
        """
        if not self._configured:  # a provider, once set, is never unset
            self._configured = _records(self._tracer_provider or trace.get_tracer_provider()) or _records(
                self._meter_provider or metrics.get_meter_provider()
            )
        return self._configured or trace.get_current_span() is not trace.INVALID_SPAN

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""
        match event:
            case ExchangeStarted():
                self._exchange_started(event)
            case AttemptStarted():
                self._attempt_started(event)
            case AttemptEnded():
                self._attempt_ended(event)
            case ExchangeEnded():
                self._exchange_ended(event)
            case BreakerChanged():
                self._breaker_changed(event)
            case ProbeEnded():
                self._probe_ended(event)
            case PassedThrough():
                # There is no span of ours; the caller's own may want to know.
                trace.get_current_span().add_event(
                    "smartroute.passed_through", {"url.path": event.path, "smartroute.reason": event.reason}
                )
            case IncumbentChanged():
                pass
            case _:
                assert_never(event)

    def _exchange_started(self, event: ExchangeStarted) -> None:
        context = otel_context.get_current()
        if event.exchange in self._exchanges or any(context.get(key) for key in _SUPPRESSION_KEYS):
            return  # the later events of an exchange that isn't here are ignored
        span = self._tracer.start_span("smartroute.route", context)
        self._exchanges[event.exchange] = _Exchange(span, trace.set_span_in_context(span, context), event.streaming)
        if not span.is_recording():
            return
        first = event.candidates[0].route.name if event.candidates else None
        span.set_attributes(
            _given(
                {
                    "gen_ai.request.model": event.model,
                    "smartroute.path": event.path,
                    "smartroute.streaming": event.streaming,
                    "smartroute.candidates": [
                        f"{candidate.route.name} {_milliseconds(candidate.score)} {candidate.state} {candidate.reason}"
                        for candidate in event.candidates
                    ],
                }
            )
        )
        span.add_event(
            "smartroute.decision",
            _given(
                {
                    "smartroute.reason": event.reason,
                    "smartroute.endpoint.name": first,
                    "smartroute.explanation": [str(candidate) for candidate in event.candidates],
                }
            ),
        )

    def _attempt_started(self, event: AttemptStarted) -> None:
        exchange = self._exchanges.get(event.exchange)
        if exchange is None or event.attempt in exchange.attempts:
            return
        address, port, url = _server(event.url)
        server: dict[str, _Value] = {
            "http.request.method": event.method,
            "server.address": address,
            "server.port": port,
        }
        span = self._tracer.start_span(
            event.method,
            exchange.context,
            SpanKind.CLIENT,
            {**server, "url.full": url},  # for samplers
        )
        exchange.attempts[event.attempt] = _Attempt(span, server, perf_counter())
        if self._exchanges.get(event.exchange) is not exchange:  # it ended in another thread meanwhile
            exchange.end_attempts()
        _inject(span, event.headers)
        if span.is_recording():
            span.set_attributes(
                _given(
                    {
                        "http.request.resend_count": event.resends or None,
                        "smartroute.attempt": event.attempt,
                        "smartroute.reason": event.reason,
                        "smartroute.endpoint.name": event.endpoint.name,
                        "smartroute.endpoint.kind": event.endpoint.kind.value,
                        "smartroute.endpoint.region": event.endpoint.region,
                    }
                )
            )

    def _attempt_ended(self, event: AttemptEnded) -> None:
        exchange = self._exchanges.get(event.exchange)
        attempt = exchange.attempts.pop(event.attempt, None) if exchange else None
        if exchange is None or attempt is None:
            return
        failure = event.failure.value if event.failure else None
        error = _error_type(event.status, failure)
        exchange.error = error or exchange.error
        # The first content of an answer that isn't streamed measures its length, not its first token.
        first_token = event.first_content if exchange.streaming else None
        span = attempt.span
        if span.is_recording():
            span.set_attributes(
                _given(
                    {
                        "http.response.status_code": event.status,
                        "error.type": error,
                        "smartroute.failure.class": failure,
                        "smartroute.time_to_first_byte": event.first_byte,
                        "smartroute.time_to_first_token": first_token,
                        "smartroute.stream.outcome": event.stream,
                        "smartroute.stream.size": event.size if event.stream else None,
                    }
                )
            )
            span.set_attributes(_header_attributes(event.headers))
            if error:
                span.set_status(StatusCode.ERROR, event.detail or None)
        span.end()
        if event.stream != "diverted" and (instruments := self._instruments()):  # diverted: nothing was sent
            name = {"smartroute.endpoint.name": event.endpoint.name}
            request = _given({**attempt.server, **name, "http.response.status_code": event.status, "error.type": error})
            instruments.request_duration.record(perf_counter() - attempt.started, request, exchange.context)
            if first_token is not None:
                instruments.first_token.record(first_token, name, exchange.context)
            outcome = _attempt_outcome(failure, event.stream)
            instruments.attempts.add(1, _given({**name, "smartroute.outcome": outcome, "error.type": error}))

    def _exchange_ended(self, event: ExchangeEnded) -> None:
        exchange = self._exchanges.pop(event.exchange, None)
        if exchange is None:
            return
        exchange.end_attempts()
        outcome = _given(
            {
                "smartroute.outcome": event.outcome,
                "smartroute.endpoint.name": event.endpoint.name if event.endpoint else None,
                "smartroute.fallback": event.fallback,
            }
        )
        span = exchange.span
        if span.is_recording():
            span.set_attributes({**outcome, "smartroute.attempts": event.attempts})
            if event.outcome in ("failed", "interrupted"):
                error = exchange.error or "_OTHER"
                span.set_attribute("error.type", error)
                span.set_status(StatusCode.ERROR, f"{event.outcome}: {error}")
        span.end()
        if instruments := self._instruments():
            labels = {**outcome, "smartroute.streaming": exchange.streaming}
            instruments.route_duration.record(event.duration, labels, exchange.context)
            if event.fallback:
                instruments.fallbacks.add(1)

    def _breaker_changed(self, event: BreakerChanged) -> None:
        change: dict[str, _Value] = {
            "smartroute.endpoint.name": event.route.name,
            "smartroute.breaker.before": event.before,
            "smartroute.breaker.after": event.after,
        }
        exchange = None if event.exchange is None else self._exchanges.get(event.exchange)
        if exchange and exchange.span.is_recording():
            exchange.span.add_event(
                "smartroute.breaker.transition", {**change, "smartroute.breaker.cause": event.cause}
            )
        if instruments := self._instruments():
            instruments.breaker_transitions.add(1, change)

    def _probe_ended(self, event: ProbeEnded) -> None:
        if instruments := self._instruments():
            name = {"smartroute.endpoint.name": event.route.name}
            if event.round_trip is not None:
                instruments.probe_duration.record(event.round_trip, name)
            else:
                instruments.probe_failures.add(1, {**name, "error.type": event.failure or "_OTHER"})

    def _instruments(self) -> "_Instruments | None":
        """The instruments, from the first event after a meter provider was configured."""
        if self._made_instruments is None:
            # Not before: the API keeps every meter that is asked for too early, forever.
            provider = self._meter_provider or metrics.get_meter_provider()
            if _records(provider):
                self._made_instruments = _Instruments(provider.get_meter(_SCOPE, _version()))
        return self._made_instruments


@dataclass(slots=True)
class _Attempt:
    """An attempt whose span is open."""

    span: Span
    server: dict[str, _Value]
    started: float


@dataclass(slots=True)
class _Exchange:
    """An exchange whose span is open.

    Attributes:
        context: the caller's context with our span in it: the parent of its attempts.
        error: the error type of the attempt that failed last.
    """

    span: Span
    context: Context
    streaming: bool
    attempts: dict[int, _Attempt] = field(default_factory=dict[int, _Attempt])
    error: str | None = None

    def end_attempts(self) -> None:
        """End the spans of attempts that nobody saw the end of; they have no outcome to tell."""
        for number in list(self.attempts):
            if attempt := self.attempts.pop(number, None):
                attempt.span.end()


class _Instruments:
    """The metrics. Their labels are route names, states, status codes and classes of failure."""

    def __init__(self, meter: Meter) -> None:
        def seconds(name: str, description: str, buckets: tuple[float, ...]) -> Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=buckets)

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
        self.probe_duration = seconds(
            "smartroute.probe.duration", "Round trip of the probes that were answered in health.", _REQUEST_BUCKETS
        )
        self.attempts = meter.create_counter("smartroute.attempts", "{attempt}", "Attempts that have ended.")
        self.fallbacks = meter.create_counter(
            "smartroute.fallbacks", "{exchange}", "Exchanges that the global endpoint answered in a route's place."
        )
        self.probe_failures = meter.create_counter(
            "smartroute.probe.failures", "{probe}", "Probes that were not answered in health."
        )
        self.breaker_transitions = meter.create_counter(
            "smartroute.breaker.transitions", "{transition}", "Changes of a route's health."
        )


@cache
def _version() -> str:
    try:
        return version("smartroute")
    except PackageNotFoundError:  # run from a checkout
        return ""


def _records(provider: TracerProvider | MeterProvider) -> bool:
    """Whether a provider does anything: those of the API itself (proxy, no-op) don't."""
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def _inject(span: Span, headers: list[tuple[bytes, bytes]]) -> None:
    """Make `headers` say that `span` is the parent, sampled or not, in place of whatever they said.

    The configured propagator writes them, but only trace context may leave for a route: no baggage.
    """
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span, Context()))
    fresh = [(name.encode(), carrier[name].encode()) for name in _TRACE_HEADERS if name in carrier]
    if fresh:  # a tracestate belongs to its traceparent: they are replaced together
        headers[:] = [pair for pair in headers if pair[0].lower() not in _RAW_TRACE_HEADERS] + fresh


def _server(url: str) -> tuple[str, int, str]:
    """Host, port, and the URL without user name, password, query and fragment."""
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    return parts.hostname or "", port, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _error_type(status: int | None, failure: str | None) -> str | None:
    """What the conventions call `error.type`. An attempt that the caller cancelled is no error."""
    if failure == "cancelled":
        return None
    return str(status) if status is not None and status >= 400 else failure


def _attempt_outcome(failure: str | None, stream: str | None) -> str:
    """How an attempt ended, in the words for exchanges."""
    if failure is None:
        return "answered"
    if failure == "cancelled":
        return "cancelled"
    return "interrupted" if stream == "interrupted" else "failed"


def _header_attributes(headers: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    attributes: dict[str, list[str]] = {}
    for name, value in headers:
        attributes.setdefault(f"http.response.header.{name}", []).append(value)
    return attributes


def _given(attributes: Mapping[str, _Value | None]) -> dict[str, _Value]:
    """The attributes that have a value."""
    return {name: value for name, value in attributes.items() if value is not None}


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f}ms"
