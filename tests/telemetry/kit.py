"""Events made by hand, and a backend that keeps what is exported of them."""

import contextlib
from collections.abc import Generator
from typing import Any

from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState

from smartroute.events import (
    AttemptEnded,
    AttemptStarted,
    Event,
    ExchangeEnded,
    ExchangeStarted,
    ProbeEnded,
    VerificationStarted,
)
from smartroute.policy.outcome import Failure
from smartroute.policy.selection import Candidate
from smartroute.route import Kind, Route, RouteStatus
from smartroute.telemetry import Telemetry

ARIZONA = Route("acme-abcd1234.us-arizona-1.direct.fireworks.ai", api_key="direct-key-7Kq2")
FRANKFURT = Route("http://127.0.0.1:8080/v1", name="frankfurt", region="EU_FRANKFURT_1", api_key="direct-key-9Xw4")
GLOBAL = Route("https://api.fireworks.ai/inference/v1", kind=Kind.GLOBAL)

REMOTE = SpanContext(
    trace_id=0x0AF7651916CD43DD8448EB211C80319C,
    span_id=0xB7AD6B7169203331,
    is_remote=True,
    trace_flags=TraceFlags(0),
    trace_state=TraceState([("vendor", "opaque")]),
)


class Backend:
    """What an application sets up, and what its exporters then hold."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.status: tuple[RouteStatus, ...] = ()
        self.budgets: dict[str, float] = {}
        self.telemetry = Telemetry(
            tracer_provider=self.tracers,
            meter_provider=self.meters,
            status=lambda: self.status,
            budgets=lambda: self.budgets,
        )

    def feed(self, *events: Event) -> None:
        for event in events:
            self.telemetry(event)

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """Finished spans in the order in which they ended."""
        return self.exporter.get_finished_spans()

    @property
    def attempts(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.kind is SpanKind.CLIENT]

    @property
    def route(self) -> ReadableSpan:
        return self.named("smartroute.route")

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def metric(self, name: str) -> list[tuple[dict[str, Any], float]]:
        """The series of a metric: labels, and the sum of what was recorded."""
        data = self.reader.get_metrics_data()
        series: list[tuple[dict[str, Any], float]] = []
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        for point in metric.data.data_points:
                            assert isinstance(point, HistogramDataPoint | NumberDataPoint)
                            total = point.sum if isinstance(point, HistogramDataPoint) else point.value
                            series.append((dict(point.attributes or {}), total))
        return series

    def everything(self) -> str:
        """All that was exported, as text to search."""
        data = self.reader.get_metrics_data()
        return "\n".join([*(span.to_json() for span in self.spans), data.to_json() if data else ""])


@contextlib.contextmanager
def current(value: Context) -> Generator[None]:
    token = context.attach(value)
    try:
        yield
    finally:
        context.detach(token)


def started(exchange: int = 1, *, streaming: bool = True, model: str | None = "llama") -> ExchangeStarted:
    candidates = (
        Candidate(ARIZONA, 0.0412, "closed", "best"),
        Candidate(FRANKFURT, None, "open", "open"),
        Candidate(GLOBAL, None, "closed", "fallback"),
    )
    return ExchangeStarted(exchange, "/chat/completions", model, streaming, candidates, "best")


def sent(
    attempt: int = 1,
    endpoint: Route = ARIZONA,
    *,
    exchange: int = 1,
    reason: str = "best",
    url: str | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
    candidate: Candidate | None = None,
) -> AttemptStarted:
    url = url or f"{endpoint.url}/chat/completions"
    sent_along = [] if headers is None else headers
    return AttemptStarted(
        exchange, attempt, endpoint, "POST", url, reason, sent_along, candidate, "llama-sent", attempt - 1
    )


def ended(
    attempt: int = 1,
    endpoint: Route = ARIZONA,
    *,
    exchange: int = 1,
    status: int | None = 200,
    failure: Failure | None = None,
    detail: str = "",
    stream: str | None = "complete",
    headers: tuple[tuple[str, str], ...] = (),
) -> AttemptEnded:
    has_content = stream in ("complete", "interrupted")
    return AttemptEnded(
        exchange,
        attempt,
        endpoint,
        status,
        failure,
        detail,
        duration=0.75,
        reused=False,
        departed=None if failure is Failure.CONNECT else 0.125,
        first_byte=None if status is None else 0.25,
        first_content=0.5 if has_content else None,
        stream=stream,
        size=321,
        chunks=7,
        headers=headers,
    )


def done(
    outcome: str = "answered",
    endpoint: Route | None = ARIZONA,
    *,
    exchange: int = 1,
    attempts: int = 1,
    fallback: bool = False,
    delivered: int | None = None,
) -> ExchangeEnded:
    delivered = attempts if delivered is None and endpoint is not None else delivered
    first_content = 0.6 if endpoint is not None else None
    return ExchangeEnded(exchange, outcome, endpoint, attempts, fallback, 1.5, delivered, first_content)


def refused(attempt: int = 1, endpoint: Route = ARIZONA) -> AttemptEnded:
    return ended(
        attempt, endpoint, status=None, failure=Failure.CONNECT, detail="the connection was refused", stream=None
    )


def verifying(
    verification: int = 1,
    endpoint: Route = ARIZONA,
    *,
    exchanges: tuple[int, ...] = (1,),
    headers: list[tuple[bytes, bytes]] | None = None,
) -> VerificationStarted:
    sent_along = [] if headers is None else headers
    return VerificationStarted(verification, endpoint, f"{endpoint.url}/models", sent_along, exchanges)


def verified(
    verification: int | None = 1,
    endpoint: Route = ARIZONA,
    *,
    failure: str | None = None,
    detail: str = "",
    status: int | None = 200,
    exchanges: tuple[int, ...] = (1,),
) -> ProbeEnded:
    trip = 0.04 if failure is None else None
    return ProbeEnded(endpoint, trip, failure, True, status, detail, verification, exchanges)


def at(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def traceparent(span: ReadableSpan) -> bytes:
    return f"00-{at(span).trace_id:032x}-{at(span).span_id:016x}-{at(span).trace_flags:02x}".encode()
