"""Parents, and what travels with a request."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import CarrierT, Setter, TextMapPropagator, default_setter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from tests.telemetry.kit import (
    FRANKFURT,
    REMOTE,
    Backend,
    at,
    current,
    done,
    ended,
    refused,
    sent,
    started,
    traceparent,
)


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


def test_traceparent_goes_out_with_each_attempt(backend: Backend) -> None:
    first: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
    second: list[tuple[bytes, bytes]] = [(b"Traceparent", b"stale"), (b"TraceState", b"stale=1"), (b"accept", b"*/*")]
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


def test_baggage_is_offered_to_the_transport_which_lets_it_go_where_the_configuration_says_so(backend: Backend) -> None:
    headers: list[tuple[bytes, bytes]] = []
    with current(baggage.set_baggage("customer", "acme")):
        backend.feed(started(), sent(headers=headers))
    backend.feed(ended(), done())  # nothing stays attached

    assert headers == [(b"traceparent", traceparent(backend.attempts[0])), (b"baggage", b"customer=acme")]


def test_the_configured_propagator_is_asked(backend: Backend) -> None:
    headers = [(b"traceparent", b"the caller's")]
    configured = propagate.get_global_textmap()
    propagate.set_global_textmap(Legacy())
    try:
        backend.feed(started(), sent(headers=headers), ended(), done())
    finally:
        propagate.set_global_textmap(configured)
    assert headers == [(b"traceparent", b"the caller's"), (b"x-legacy-trace", b"1")]
