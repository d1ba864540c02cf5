"""What telemetry makes of events: fed by hand, read back from the SDK's in-memory exporters."""

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, context, metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import CarrierT, Setter, TextMapPropagator, default_setter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

import smartroute.events
from smartroute.events import (
    AttemptEnded,
    AttemptStarted,
    BreakerChanged,
    Event,
    ExchangeEnded,
    ExchangeStarted,
    PassedThrough,
    ProbeEnded,
)
from smartroute.policy.outcome import Failure
from smartroute.policy.selection import Candidate
from smartroute.route import Kind, Route
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
        self.telemetry = Telemetry(tracer_provider=self.tracers, meter_provider=self.meters)

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
        (span,) = [span for span in self.spans if span.name == "smartroute.route"]
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


@pytest.fixture
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    assert not backend.telemetry._exchanges, "nothing is kept of an exchange that has ended"
    backend.close()


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
) -> AttemptStarted:
    url = url or f"{endpoint.url}/chat/completions"
    return AttemptStarted(
        exchange, attempt, endpoint, "POST", url, reason, [] if headers is None else headers, attempt - 1
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
    first_byte = None if status is None else 0.25
    first_content = 0.5 if stream in ("complete", "interrupted") else None
    return AttemptEnded(
        exchange, attempt, endpoint, status, failure, detail, first_byte, first_content, stream, 321, headers
    )


def done(
    outcome: str = "answered",
    endpoint: Route | None = ARIZONA,
    *,
    exchange: int = 1,
    attempts: int = 1,
    fallback: bool = False,
) -> ExchangeEnded:
    return ExchangeEnded(exchange, outcome, endpoint, attempts, fallback, 1.5)


def refused(attempt: int = 1, endpoint: Route = ARIZONA) -> AttemptEnded:
    return ended(
        attempt, endpoint, status=None, failure=Failure.CONNECT, detail="the connection was refused", stream=None
    )


def at(span: ReadableSpan) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def traceparent(span: ReadableSpan) -> bytes:
    return f"00-{at(span).trace_id:032x}-{at(span).span_id:016x}-{at(span).trace_flags:02x}".encode()


# --- The span tree ---------------------------------------------------------------------------------


def test_a_healthy_call(backend: Backend) -> None:
    backend.feed(started(), sent(), ended(headers=(("x-request-id", "r1"), ("via", "a"), ("via", "b"))), done())

    attempt, route = backend.spans
    assert (route.name, route.kind, route.parent) == ("smartroute.route", SpanKind.INTERNAL, None)
    assert (attempt.name, attempt.kind, attempt.parent) == ("POST", SpanKind.CLIENT, route.get_span_context())
    assert dict(route.attributes or {}) == {
        "gen_ai.request.model": "llama",
        "smartroute.path": "/chat/completions",
        "smartroute.streaming": True,
        "smartroute.candidates": (
            "us-arizona-1 41ms closed best",
            "frankfurt - open open",
            "global - closed fallback",
        ),
        "smartroute.outcome": "answered",
        "smartroute.endpoint.name": "us-arizona-1",
        "smartroute.fallback": False,
        "smartroute.attempts": 1,
    }
    assert dict(attempt.attributes or {}) == {
        "http.request.method": "POST",
        "server.address": "acme-abcd1234.us-arizona-1.direct.fireworks.ai",
        "server.port": 443,
        "url.full": "https://acme-abcd1234.us-arizona-1.direct.fireworks.ai/v1/chat/completions",
        "http.response.status_code": 200,
        "http.response.header.x-request-id": ("r1",),
        "http.response.header.via": ("a", "b"),
        "smartroute.attempt": 1,
        "smartroute.reason": "best",
        "smartroute.endpoint.name": "us-arizona-1",
        "smartroute.endpoint.kind": "direct",
        "smartroute.endpoint.region": "US_ARIZONA_1",
        "smartroute.time_to_first_byte": 0.25,
        "smartroute.time_to_first_token": 0.5,
        "smartroute.stream.outcome": "complete",
        "smartroute.stream.size": 321,
    }
    assert [(event.name, dict(event.attributes or {})) for event in route.events] == [
        (
            "smartroute.decision",
            {
                "smartroute.reason": "best",
                "smartroute.endpoint.name": "us-arizona-1",
                "smartroute.explanation": tuple(str(each) for each in started().candidates),
            },
        )
    ]
    assert [span.status.status_code for span in backend.spans] == [StatusCode.UNSET, StatusCode.UNSET]


def test_a_failover(backend: Backend) -> None:
    backend.feed(
        started(),
        sent(),
        refused(),
        BreakerChanged(ARIZONA, "closed", "open", "connect", exchange=1),
        sent(2, FRANKFURT, reason="failover"),
        ended(2, FRANKFURT, status=503, failure=Failure.STATUS, stream="discarded"),
        sent(3, GLOBAL, reason="failover"),
        ended(3, GLOBAL),
        done(endpoint=GLOBAL, attempts=3, fallback=True),
    )

    first, second, third = (dict(span.attributes or {}) for span in backend.attempts)
    assert "http.request.resend_count" not in first
    assert "http.response.status_code" not in first
    assert (first["error.type"], first["smartroute.failure.class"]) == ("connect", "connect")
    assert (second["error.type"], second["smartroute.failure.class"]) == ("503", "status")
    assert (second["server.address"], second["server.port"]) == ("127.0.0.1", 8080)
    assert (second["http.request.resend_count"], third["http.request.resend_count"]) == (1, 2)
    assert (third["smartroute.reason"], third["smartroute.endpoint.kind"]) == ("failover", "global")
    assert [(span.status.status_code, span.status.description) for span in backend.spans] == [
        (StatusCode.ERROR, "the connection was refused"),
        (StatusCode.ERROR, None),
        (StatusCode.UNSET, None),
        (StatusCode.UNSET, None),  # the caller got an answer
    ]
    decision, transition = backend.route.events
    assert decision.name == "smartroute.decision"
    assert transition.name == "smartroute.breaker.transition"
    assert dict(transition.attributes or {}) == {
        "smartroute.endpoint.name": "us-arizona-1",
        "smartroute.breaker.before": "closed",
        "smartroute.breaker.after": "open",
        "smartroute.breaker.cause": "connect",
    }


def test_a_failed_call(backend: Backend) -> None:
    backend.feed(started(), sent(), refused(), done("failed", None))

    assert backend.route.status.status_code is StatusCode.ERROR
    assert backend.route.status.description == "failed: connect"
    assert (backend.route.attributes or {})["error.type"] == "connect"
    assert "smartroute.endpoint.name" not in (backend.route.attributes or {})


def test_a_failed_call_without_any_attempt(backend: Backend) -> None:
    backend.feed(started(model=None), done("failed", None, attempts=0))

    assert (backend.route.attributes or {})["error.type"] == "_OTHER"
    assert "gen_ai.request.model" not in (backend.route.attributes or {})


def test_the_callers_own_mistake_is_an_error_of_the_attempt_alone(backend: Backend) -> None:
    backend.feed(started(), sent(), ended(status=400), done())

    (attempt,) = backend.attempts
    assert attempt.status.status_code is StatusCode.ERROR
    assert (attempt.attributes or {})["error.type"] == "400"
    assert backend.route.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("status", [None, 200, 503])
def test_cancelled_by_the_caller_is_no_error(backend: Backend, status: int | None) -> None:
    cancelled = ended(status=status, failure=Failure.CANCELLED, detail="cancelled", stream="closed" if status else None)
    backend.feed(started(), sent(), cancelled, done("cancelled", None))

    for span in backend.spans:
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in (span.attributes or {})
    assert (backend.attempts[0].attributes or {})["smartroute.failure.class"] == "cancelled"


def test_an_interrupted_stream(backend: Backend) -> None:
    cut = ended(failure=Failure.TRUNCATED, detail="the stream ended early", stream="interrupted")
    backend.feed(started(), sent(), cut, done("interrupted"))

    (attempt,) = backend.attempts
    assert (attempt.attributes or {})["http.response.status_code"] == 200
    assert (attempt.attributes or {})["smartroute.stream.outcome"] == "interrupted"
    assert (attempt.attributes or {})["error.type"] == "truncated"
    assert attempt.status.description == "the stream ended early"
    assert backend.route.status.status_code is StatusCode.ERROR
    assert (backend.route.attributes or {})["error.type"] == "truncated"


def test_an_answer_that_is_not_streamed_has_no_first_token(backend: Backend) -> None:
    backend.feed(started(streaming=False), sent(), ended(), done())

    assert "smartroute.time_to_first_token" not in (backend.attempts[0].attributes or {})
    assert backend.metric("smartroute.time_to_first_token") == []


def test_a_breaker_moved_by_a_probe_or_by_an_exchange_long_over_is_on_no_span(backend: Backend) -> None:
    backend.feed(started(), BreakerChanged(FRANKFURT, "open", "half_open", "probe", None), done(attempts=0))
    backend.feed(BreakerChanged(FRANKFURT, "half_open", "closed", "trial", 1))

    assert [event.name for event in backend.route.events] == ["smartroute.decision"]
    assert sum(total for _, total in backend.metric("smartroute.breaker.transitions")) == 2


def test_a_url_shows_no_user_name_password_query_or_fragment(backend: Backend) -> None:
    backend.feed(started(), sent(url="https://user:hunter2@[2001:db8::1]:8443/v1/chat?key=hunter2#hunter2"), done())

    attributes = backend.attempts[0].attributes or {}
    assert attributes["url.full"] == "https://[2001:db8::1]:8443/v1/chat"
    assert (attributes["server.address"], attributes["server.port"]) == ("2001:db8::1", 8443)


# --- Parents and propagation -----------------------------------------------------------------------


def test_the_route_span_is_a_child_of_the_callers_and_nothing_stays_attached(backend: Backend) -> None:
    tracer = backend.tracers.get_tracer("application")
    with tracer.start_as_current_span("caller") as caller:
        for event in (started(), sent(), ended(), done()):
            backend.feed(event)
            assert trace.get_current_span() is caller
        assert backend.route.parent == caller.get_span_context()
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_parents_are_right_when_attempts_are_made_in_other_threads(backend: Backend) -> None:
    tracer = backend.tracers.get_tracer("application")

    def call(exchange: int) -> int:
        with tracer.start_as_current_span("caller") as caller:
            backend.feed(started(exchange))
            with ThreadPoolExecutor(2) as racers:  # threads that know nothing of the caller's context
                list(racers.map(backend.telemetry, [sent(1, exchange=exchange), sent(2, FRANKFURT, exchange=exchange)]))
            backend.feed(ended(2, FRANKFURT, exchange=exchange), ended(1, exchange=exchange), done(exchange=exchange))
            return caller.get_span_context().span_id

    with ThreadPoolExecutor(8) as callers:
        parents = set(callers.map(call, range(40)))
    _check_forest(backend, parents)


def test_parents_are_right_under_tasks(backend: Backend) -> None:
    tracer = backend.tracers.get_tracer("application")

    async def call(exchange: int) -> int:
        with tracer.start_as_current_span("caller") as caller:
            events = (
                started(exchange),
                sent(1, exchange=exchange),
                sent(2, FRANKFURT, exchange=exchange),
                ended(2, FRANKFURT, exchange=exchange),
                ended(1, exchange=exchange),
                done(exchange=exchange),
            )
            for event in events:
                backend.feed(event)
                assert trace.get_current_span() is caller
                await asyncio.sleep(0)
            return caller.get_span_context().span_id

    async def calls() -> list[int]:
        return await asyncio.gather(*(call(exchange) for exchange in range(20)))

    _check_forest(backend, set(asyncio.run(calls())))


def _check_forest(backend: Backend, callers: set[int]) -> None:
    """Each caller has one route span, each route span two attempts, and a trace is one caller's."""
    routes = [span for span in backend.spans if span.name == "smartroute.route"]
    assert Counter(span.parent.span_id for span in routes if span.parent) == dict.fromkeys(callers, 1)
    above = Counter((span.parent.trace_id, span.parent.span_id) for span in backend.attempts if span.parent)
    assert above == {(at(span).trace_id, at(span).span_id): 2 for span in routes}
    assert {at(span).trace_id for span in backend.attempts} == {at(span).trace_id for span in routes}


def test_traceparent_goes_out_with_each_attempt_and_baggage_does_not(backend: Backend) -> None:
    first: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    second: list[tuple[bytes, bytes]] = [(b"Traceparent", b"stale"), (b"TraceState", b"stale=1"), (b"accept", b"*/*")]
    with current(baggage.set_baggage("customer", "acme")):
        backend.feed(started(), sent(headers=first), refused(), sent(2, headers=second), ended(2), done())

    one, two = backend.attempts
    assert first == [(b"content-type", b"application/json"), (b"traceparent", traceparent(one))]
    assert second == [(b"accept", b"*/*"), (b"traceparent", traceparent(two))]


def test_tracestate_is_passed_on(backend: Backend) -> None:
    headers: list[tuple[bytes, bytes]] = []
    sampled = SpanContext(REMOTE.trace_id, REMOTE.span_id, True, TraceFlags(1), REMOTE.trace_state)
    with current(trace.set_span_in_context(NonRecordingSpan(sampled))):
        backend.feed(started(), sent(headers=headers), ended(), done())

    assert headers == [(b"traceparent", traceparent(backend.attempts[0])), (b"tracestate", b"vendor=opaque")]


class Legacy(TextMapPropagator):
    """A propagator of another school."""

    def extract(self, *args: Any, **kwargs: Any) -> Context:
        raise NotImplementedError

    def inject(
        self, carrier: CarrierT, context: Context | None = None, setter: Setter[CarrierT] = default_setter
    ) -> None:
        setter.set(carrier, "x-legacy-trace", "1")

    @property
    def fields(self) -> set[str]:
        return {"x-legacy-trace"}


def test_the_configured_propagator_is_asked_and_only_trace_context_is_taken(backend: Backend) -> None:
    headers = [(b"traceparent", b"the caller's")]
    configured = propagate.get_global_textmap()
    propagate.set_global_textmap(Legacy())
    try:
        backend.feed(started(), sent(headers=headers), ended(), done())
    finally:
        propagate.set_global_textmap(configured)
    assert headers == [(b"traceparent", b"the caller's")]


# --- Sampling, suppression, no provider ------------------------------------------------------------


def test_sampled_out_is_told_to_the_endpoint_and_still_counted() -> None:
    backend = Backend(ALWAYS_OFF)
    headers: list[tuple[bytes, bytes]] = []
    backend.feed(started(), sent(headers=headers), ended(), done())

    ((name, value),) = headers
    assert name == b"traceparent"
    assert int(value[-2:], 16) & TraceFlags.SAMPLED == 0
    assert backend.spans == ()
    assert len(backend.metric("smartroute.route.duration")) == 1
    assert not backend.telemetry._exchanges
    backend.close()


def test_a_sampler_sees_the_http_attributes() -> None:
    seen: list[dict[str, Any]] = []

    class Watching(Sampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            seen.append(dict(kwargs.get("attributes") or args[4] or {}))
            return SamplingResult(Decision.DROP)

        def get_description(self) -> str:
            return "watching"

    backend = Backend(Watching())
    backend.feed(started(), sent(), ended(), done())
    assert set(seen[1]) == {"http.request.method", "server.address", "server.port", "url.full"}
    backend.close()


@pytest.mark.parametrize(
    "key",
    [context._SUPPRESS_INSTRUMENTATION_KEY, context._SUPPRESS_HTTP_INSTRUMENTATION_KEY, "suppress_instrumentation"],
)
def test_a_suppressed_exchange_emits_nothing(backend: Backend, key: str) -> None:
    headers: list[tuple[bytes, bytes]] = []
    with current(context.set_value(key, True)):
        backend.feed(started())
    backend.feed(sent(headers=headers), ended(), done())  # wherever they happen

    assert backend.spans == ()
    assert headers == []
    assert backend.reader.get_metrics_data() is None


def test_suppression_around_the_sending_is_not_ours_to_obey(backend: Backend) -> None:
    """The driver silences the HTTP library's own instrumentation, which would double our spans."""
    headers: list[tuple[bytes, bytes]] = []
    backend.feed(started())
    with current(context.set_value(context._SUPPRESS_HTTP_INSTRUMENTATION_KEY, True)):
        backend.feed(sent(headers=headers), ended())
    backend.feed(done())

    assert len(backend.spans) == 2
    assert len(headers) == 1


def test_without_a_provider_nothing_happens() -> None:
    telemetry = Telemetry()
    headers: list[tuple[bytes, bytes]] = []
    assert not telemetry.active
    for event in (started(), sent(headers=headers), ended(), done(), ProbeEnded(ARIZONA, 0.1, None)):
        telemetry(event)
    assert headers == []
    assert not telemetry._exchanges
    assert telemetry._instruments() is None, "the API would keep the meter for good"


def test_without_a_provider_the_callers_trace_is_still_passed_on() -> None:
    telemetry = Telemetry()
    headers: list[tuple[bytes, bytes]] = []
    with current(trace.set_span_in_context(NonRecordingSpan(REMOTE))):
        assert telemetry.active
        for event in (started(), sent(headers=headers), ended(), done()):
            telemetry(event)
    assert headers == [
        (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
        (b"tracestate", b"vendor=opaque"),
    ]


def test_active_with_traces_or_metrics_alone() -> None:
    backend = Backend()
    assert Telemetry(tracer_provider=backend.tracers).active
    assert Telemetry(meter_provider=backend.meters).active
    noop = Telemetry(tracer_provider=trace.NoOpTracerProvider(), meter_provider=metrics.NoOpMeterProvider())
    assert not noop.active

    measured = Telemetry(tracer_provider=trace.NoOpTracerProvider(), meter_provider=backend.meters)
    for event in (started(), sent(), ended(), done()):
        measured(event)
    assert len(backend.metric("http.client.request.duration")) == 1
    backend.close()


def test_a_provider_configured_later_is_noticed() -> None:
    script = """
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from smartroute.events import *
        from smartroute.route import Route
        from smartroute.telemetry import Telemetry

        route = Route("https://eu.example/v1")
        def exchange(number):
            return (
                ExchangeStarted(number, "/chat/completions", None, False, (), "best"),
                AttemptStarted(number, 1, route, "POST", "https://eu.example/v1/chat/completions", "best", []),
                AttemptEnded(number, 1, route, 200, None, "", 0.1, 0.1, "complete", 1, ()),
                ExchangeEnded(number, "answered", route, 1, False, 0.2),
            )

        telemetry = Telemetry()
        assert not telemetry.active
        before = exchange(1)
        for event in before[:2]:
            telemetry(event)
        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        trace.set_tracer_provider(TracerProvider())
        trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
        assert telemetry.active
        metrics.set_meter_provider(MeterProvider([reader]))
        for event in (*before[2:], *exchange(2)):
            telemetry(event)
        print(*(span.name for span in exporter.get_finished_spans()))
        (resource,) = reader.get_metrics_data().resource_metrics
        print(*sorted(metric.name for scope in resource.scope_metrics for metric in scope.metrics))
    """
    root = Path(smartroute.events.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "POST smartroute.route",
        "http.client.request.duration smartroute.attempts smartroute.route.duration",
    ]


# --- Metrics ---------------------------------------------------------------------------------------


def test_metrics_of_a_failover(backend: Backend) -> None:
    backend.feed(
        started(),
        sent(),
        refused(),
        BreakerChanged(ARIZONA, "closed", "open", "connect", exchange=1),
        sent(2, GLOBAL, reason="failover"),
        ended(2, GLOBAL),
        done(endpoint=GLOBAL, attempts=2, fallback=True),
    )

    direct, fallback = (labels for labels, _ in backend.metric("http.client.request.duration"))
    assert direct == {
        "http.request.method": "POST",
        "server.address": "acme-abcd1234.us-arizona-1.direct.fireworks.ai",
        "server.port": 443,
        "smartroute.endpoint.name": "us-arizona-1",
        "error.type": "connect",
    }
    assert fallback == {
        "http.request.method": "POST",
        "server.address": "api.fireworks.ai",
        "server.port": 443,
        "smartroute.endpoint.name": "global",
        "http.response.status_code": 200,
    }
    exchange = {
        "smartroute.outcome": "answered",
        "smartroute.endpoint.name": "global",
        "smartroute.fallback": True,
        "smartroute.streaming": True,
    }
    transition = {
        "smartroute.endpoint.name": "us-arizona-1",
        "smartroute.breaker.before": "closed",
        "smartroute.breaker.after": "open",
    }
    assert backend.metric("smartroute.route.duration") == [(exchange, 1.5)]
    assert backend.metric("smartroute.time_to_first_token") == [({"smartroute.endpoint.name": "global"}, 0.5)]
    assert backend.metric("smartroute.attempts") == [
        ({"smartroute.endpoint.name": "us-arizona-1", "smartroute.outcome": "failed", "error.type": "connect"}, 1),
        ({"smartroute.endpoint.name": "global", "smartroute.outcome": "answered"}, 1),
    ]
    assert backend.metric("smartroute.fallbacks") == [({}, 1)]
    assert backend.metric("smartroute.breaker.transitions") == [(transition, 1)]


@pytest.mark.parametrize(
    ("failure", "stream", "outcome"),
    [
        (None, "closed", "answered"),
        (Failure.CANCELLED, None, "cancelled"),
        (Failure.TRUNCATED, "interrupted", "interrupted"),
        (Failure.EMPTY, "discarded", "failed"),
    ],
)
def test_outcomes_of_attempts(backend: Backend, failure: Failure | None, stream: str | None, outcome: str) -> None:
    backend.feed(started(), sent(), ended(failure=failure, stream=stream), done())

    ((labels, count),) = backend.metric("smartroute.attempts")
    assert (labels["smartroute.outcome"], count) == (outcome, 1)


def test_an_attempt_that_was_diverted_is_in_no_metric(backend: Backend) -> None:
    """Nothing was sent: another route's connection was ready first."""
    diverted = ended(status=None, stream="diverted")
    race = sent(2, FRANKFURT, reason="connection_race")
    backend.feed(started(), sent(), diverted, race, ended(2, FRANKFURT), done(endpoint=FRANKFURT))

    ((labels, count),) = backend.metric("smartroute.attempts")
    assert (labels["smartroute.endpoint.name"], count) == ("frankfurt", 1)
    ((labels, _),) = backend.metric("http.client.request.duration")
    assert labels["smartroute.endpoint.name"] == "frankfurt"
    assert [(span.attributes or {})["smartroute.stream.outcome"] for span in backend.attempts] == [
        "diverted",
        "complete",
    ]


def test_probes_are_measured_and_make_no_spans(backend: Backend) -> None:
    backend.feed(ProbeEnded(ARIZONA, 0.04, None), ProbeEnded(FRANKFURT, None, "connect"))

    assert backend.metric("smartroute.probe.duration") == [({"smartroute.endpoint.name": "us-arizona-1"}, 0.04)]
    assert backend.metric("smartroute.probe.failures") == [
        ({"smartroute.endpoint.name": "frankfurt", "error.type": "connect"}, 1)
    ]
    assert backend.spans == ()


# --- Exactly once, nothing kept, nothing told ------------------------------------------------------


class Ledger(SpanProcessor):
    """Counts beginnings and ends."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()

    def on_start(self, span: ReadableSpan, parent_context: Context | None = None) -> None:
        self.begun[at(span).span_id] += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.ended[at(span).span_id] += 1


class Complaints(logging.Handler):
    """What the SDK has to say about us: that a span was ended or changed after its end."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


STORY: tuple[Event, ...] = (
    started(),
    sent(),
    refused(),
    BreakerChanged(ARIZONA, "closed", "open", "connect", exchange=1),
    sent(2, FRANKFURT, reason="failover"),
    ended(2, FRANKFURT),
    done(endpoint=FRANKFURT, attempts=2),
)


@given(events=st.lists(st.sampled_from(STORY), max_size=20))
def test_every_span_ends_once_whatever_the_order_of_events(events: list[Event]) -> None:
    complaints, backend, ledger = Complaints(), Backend(), Ledger()
    backend.tracers.add_span_processor(ledger)
    logging.getLogger("opentelemetry").addHandler(complaints)
    try:
        backend.feed(*events, done())
    finally:
        logging.getLogger("opentelemetry").removeHandler(complaints)
        backend.close()

    assert ledger.begun == ledger.ended
    assert set(ledger.ended.values()) <= {1}
    assert not backend.telemetry._exchanges
    assert not complaints.records


def test_attempts_left_open_end_with_their_exchange(backend: Backend) -> None:
    backend.feed(
        started(), sent(), sent(2, FRANKFURT), done("cancelled", None, attempts=2), ended(), ended(2, FRANKFURT)
    )

    assert [span.name for span in backend.spans] == ["POST", "POST", "smartroute.route"]
    assert all(span.status.status_code is StatusCode.UNSET for span in backend.spans)


def test_an_attempt_begun_while_its_exchange_ends_is_ended_too(backend: Backend) -> None:
    class Meddler(SpanProcessor):
        """Ends the exchange at the worst moment: as another thread would."""

        def on_start(self, span: ReadableSpan, parent_context: Context | None = None) -> None:
            if span.name == "POST":
                backend.telemetry(done("cancelled", None))

    backend.tracers.add_span_processor(Meddler())
    backend.feed(started(), sent())

    assert sorted(span.name for span in backend.spans) == ["POST", "smartroute.route"]


def test_spans_end_once_when_threads_race(backend: Backend) -> None:
    ledger = Ledger()
    backend.tracers.add_span_processor(ledger)
    with ThreadPoolExecutor(8) as threads:
        for exchange in range(200):
            backend.feed(started(exchange), sent(exchange=exchange))
            race = [sent(2, exchange=exchange), ended(exchange=exchange), ended(exchange=exchange)]
            race += [done(exchange=exchange), done(exchange=exchange), ended(2, exchange=exchange)]
            list(threads.map(backend.telemetry, race))

    assert ledger.begun == ledger.ended
    assert set(ledger.ended.values()) == {1}


def test_no_key_leaves_by_telemetry(backend: Backend) -> None:
    secrets = [(b"authorization", b"Bearer console-key-3Zp8"), (b"cookie", b"session=cookie-5Rt1")]
    backend.feed(
        started(),
        sent(headers=list(secrets), url=f"{ARIZONA.url}/chat/completions?api_key=query-key-1Bn6"),
        refused(),
        sent(2, FRANKFURT, headers=list(secrets)),
        ended(2, FRANKFURT, status=401, failure=Failure.STATUS, stream="discarded"),
        BreakerChanged(ARIZONA, "closed", "open", "connect", 1),
        ProbeEnded(ARIZONA, None, "connect"),
        done("failed", FRANKFURT, attempts=2),
    )

    exported = backend.everything()
    assert "us-arizona-1" in exported
    for secret in ("direct-key", "console-key", "cookie-5Rt1", "query-key", "authorization"):
        assert secret not in exported.lower()


# --- what passes through -------------------------------------------------------------------------------


def test_what_passes_through_is_an_event_of_the_callers_own_span(backend: Backend) -> None:
    passed = PassedThrough("/chat/completions", "its body cannot be sent again")
    backend.feed(passed)  # there is no span
    with backend.tracers.get_tracer("app").start_as_current_span("the caller's"):
        backend.feed(passed)
    (span,) = backend.spans
    (event,) = span.events
    assert (event.name, dict(event.attributes or {})) == (
        "smartroute.passed_through",
        {"url.path": "/chat/completions", "smartroute.reason": "its body cannot be sent again"},
    )
