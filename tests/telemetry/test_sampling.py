"""Sampling, suppression, and no provider at all."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context, metrics, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, TraceFlags

import smartroute.events
from smartroute.events import (
    ProbeEnded,
)
from smartroute.telemetry import Telemetry
from tests.telemetry.kit import ARIZONA, REMOTE, Backend, current, done, ended, sent, started


def test_sampled_out_is_told_to_the_endpoint_and_still_counted() -> None:
    backend = Backend(ALWAYS_OFF)
    headers: list[tuple[bytes, bytes]] = []
    backend.feed(started(), sent(headers=headers), ended(), done())

    ((name, value),) = headers
    assert name == b"traceparent"
    assert int(value[-2:], 16) & TraceFlags.SAMPLED == 0
    assert backend.spans == ()
    assert len(backend.metric("smartroute.route.duration")) == 1
    assert not backend.telemetry._spans._exchanges
    backend.close()


def test_a_sampler_sees_where_an_attempt_goes_and_why() -> None:
    seen: list[dict[str, Any]] = []

    class Watching(Sampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            seen.append(dict(kwargs.get("attributes") or args[4] or {}))
            return SamplingResult(Decision.DROP)

        def get_description(self) -> str:
            return "watching"

    backend = Backend(Watching())
    backend.feed(started(), sent(), ended(), done())
    http = {"http.request.method", "server.address", "server.port", "url.full"}
    assert http | {"smartroute.endpoint.name", "smartroute.reason"} < set(seen[1])
    backend.close()


@pytest.mark.parametrize(
    "key",
    [context._SUPPRESS_INSTRUMENTATION_KEY, context._SUPPRESS_HTTP_INSTRUMENTATION_KEY, "suppress_instrumentation"],
    ids=["all", "http", "by its public name"],  # two of these names are another in each process
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
    assert not telemetry._spans._exchanges
    assert telemetry._metrics._instruments() is None, "the API would keep the meter for good"


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
                AttemptEnded(number, 1, route, 200, None, "", 0.1, True, 0.0, 0.1, 0.1, "complete", 1, 1, ()),
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
        (
            "http.client.request.duration smartroute.attempts smartroute.attempts.in_flight smartroute.fallbacks "
            "smartroute.offline smartroute.route.duration"
        ),
    ]
