"""Events as spans.

The tree of one exchange:

    smartroute.route    INTERNAL, a child of the caller's span: what was decided, and how it ended
    ├── POST            CLIENT, one for each attempt: where it went, and what came of it
    ├── GET             CLIENT, a verification: a probe of a route that owed it an answer
    └── POST

Background probes make no spans.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider

from smartroute.events import (
    AttemptEnded,
    AttemptOverdue,
    AttemptStarted,
    BreakerChanged,
    Cooled,
    ExchangeEnded,
    ExchangeStarted,
    PassedThrough,
    ProbeEnded,
    Quarantined,
    VerificationStarted,
)
from smartroute.policy.selection import Candidate
from smartroute.route import Route
from smartroute.telemetry.names import SCOPE, Attribute, error_type, given, package_version

__all__ = ["OpenAttempt", "OpenExchange", "Spans"]

# The API keeps these keys private, yet they are how instrumentations tell each other to be silent.
# Read with care: their disappearance must not break an import. The last is what old ones still set.
_SUPPRESSION_KEYS: tuple[str, ...] = (
    getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", ""),
    getattr(otel_context, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", ""),
    "suppress_instrumentation",
)
_TRACE_HEADERS = (b"traceparent", b"tracestate")


@dataclass(slots=True, eq=False)
class OpenAttempt:
    """An attempt whose span is open.

    Attributes:
        server: the attributes that its metrics have too.
        context: the caller's context with the exchange's span in it.
        streaming: whether its answer is to be a stream.
        counted: whether it is counted as in flight.
    """

    span: Span
    endpoint: str
    server: dict[str, Attribute]
    context: Context
    streaming: bool
    counted: bool = False


@dataclass(slots=True, eq=False)
class OpenExchange:
    """An exchange whose span is open.

    Attributes:
        context: the caller's context with our span in it: the parent of its attempts.
        errors: the error types of the attempts that failed, by their numbers.
        left: the attempts that nobody saw the end of.
        error: what kind of error it ended with, once it has.
    """

    span: Span
    context: Context
    streaming: bool
    candidates: tuple[Candidate, ...]
    attempts: dict[int, OpenAttempt] = field(default_factory=dict[int, OpenAttempt])
    errors: dict[int, str] = field(default_factory=dict[int, str])
    left: list[OpenAttempt] = field(default_factory=list[OpenAttempt])
    error: str | None = None

    def conclude(self, event: ExchangeEnded) -> None:
        """Find what kind of error it ended with: that of the answer which the caller got, or the last."""
        if event.outcome in ("failed", "interrupted"):
            last = next(reversed(self.errors.values()), "_OTHER")
            self.error = last if event.delivered is None else self.errors.get(event.delivered, last)

    def end_attempts(self) -> None:
        """End the spans of attempts that nobody saw the end of; they have no outcome to tell."""
        for number in list(self.attempts):
            if attempt := self.attempts.pop(number, None):
                attempt.span.end()
                self.left.append(attempt)


class Spans:
    """The spans that are open.

    What it holds of an exchange it lets go of when the exchange ends, and the spans of attempts still open
    end with it.
    """

    def __init__(self, provider: TracerProvider | None) -> None:
        self._tracer = trace.get_tracer(SCOPE, package_version(), provider)
        # Every change is one atomic operation of a dict, so no lock is needed, with or without a GIL:
        # whoever pops an exchange, an attempt or a verification ends its span.
        self._exchanges: dict[int, OpenExchange] = {}
        self._verifications: dict[int, tuple[Span, int]] = {}

    def after_fork(self) -> None:
        """In a child process: the spans are the parent's, which ends them."""
        self._exchanges, self._verifications = {}, {}

    def exchange_started(self, event: ExchangeStarted) -> None:
        """Open the exchange's span, unless the caller wants none."""
        context = otel_context.get_current()
        if event.exchange in self._exchanges or _is_suppressed(context):
            return  # the later events of an exchange that isn't here are ignored
        span = self._tracer.start_span("smartroute.route", context)
        self._exchanges[event.exchange] = OpenExchange(
            span, trace.set_span_in_context(span, context), event.streaming, event.candidates
        )
        if not span.is_recording():
            return
        first = event.candidates[0].route.name if event.candidates else None
        span.set_attributes(
            given(
                {
                    "gen_ai.request.model": event.model,
                    "smartroute.exchange": event.exchange,
                    "smartroute.path": event.path,
                    "smartroute.streaming": event.streaming,
                    "smartroute.candidates": [candidate.route.name for candidate in event.candidates],
                }
            )
        )
        decision: dict[str, Attribute | None] = {
            "smartroute.reason": event.reason,
            "smartroute.endpoint.name": first,
            "smartroute.explanation": [str(candidate) for candidate in event.candidates],
        }
        span.add_event("smartroute.decision", given(decision))

    def attempt_started(self, event: AttemptStarted) -> OpenAttempt | None:
        """Open the attempt's span, and send its context along; None: nobody wants one."""
        exchange = self._exchanges.get(event.exchange)
        if exchange is None or event.attempt in exchange.attempts:
            return None
        server, url = _server(event.method, event.url)
        known = event.candidate or next((c for c in exchange.candidates if c.route is event.endpoint), None)
        span = self._tracer.start_span(
            event.method,
            exchange.context,
            SpanKind.CLIENT,
            given(
                {
                    **server,
                    "url.full": url,
                    "http.request.resend_count": event.resends or None,
                    "smartroute.attempt": event.attempt,
                    "smartroute.reason": event.reason,
                    "smartroute.explanation": None if known is None else str(known),
                    "smartroute.model": event.model,  # gen_ai.request.model would make it one more call of an LLM
                    **_endpoint(event.endpoint),
                }
            ),
        )
        attempt = OpenAttempt(span, event.endpoint.name, server, exchange.context, exchange.streaming)
        exchange.attempts[event.attempt] = attempt
        if self._exchanges.get(event.exchange) is not exchange:  # it ended in another thread meanwhile
            exchange.end_attempts()
        _inject(span, exchange.context, event.headers)
        return attempt

    def attempt_overdue(self, event: AttemptOverdue) -> None:
        """Say so in its span."""
        exchange = self._exchanges.get(event.exchange)
        attempt = exchange.attempts.get(event.attempt) if exchange else None
        if attempt is not None:
            attempt.span.add_event("smartroute.overdue", {"smartroute.waited": event.waited})

    def attempt_ended(self, event: AttemptEnded) -> OpenAttempt | None:
        """End the attempt's span; None: it had none."""
        exchange = self._exchanges.get(event.exchange)
        attempt = exchange.attempts.pop(event.attempt, None) if exchange else None
        if exchange is None or attempt is None:
            return None
        failure = event.failure and event.failure.value
        error = error_type(event.status, failure)
        if error is not None:
            exchange.errors[event.attempt] = error
        span = attempt.span
        if span.is_recording():
            handed_over = event.stream in ("complete", "closed", "interrupted")
            span.set_attributes(
                given(
                    {
                        "http.response.status_code": event.status,
                        "error.type": error,
                        "smartroute.failure.class": failure,
                        "smartroute.connection.reused": event.reused if event.departed is not None else None,
                        "smartroute.time_to_send": event.departed,
                        "smartroute.time_to_first_byte": event.first_byte,
                        # Of an answer that isn't streamed it would measure the length, not the first token.
                        "smartroute.time_to_first_token": event.first_content if exchange.streaming else None,
                        "smartroute.stream.outcome": event.stream,
                        "smartroute.stream.size": event.size if handed_over else None,
                        "smartroute.stream.chunks": event.chunks if handed_over and exchange.streaming else None,
                    }
                )
            )
            span.set_attributes(_header_attributes(event.headers))
            if error:
                span.set_status(StatusCode.ERROR, event.detail or None)
        span.end()
        return attempt

    def exchange_ended(self, event: ExchangeEnded) -> OpenExchange | None:
        """End the exchange's span, and with it what is still open of its attempts; None: it had none."""
        exchange = self._exchanges.pop(event.exchange, None)
        if exchange is None:
            return None
        exchange.end_attempts()
        exchange.conclude(event)
        span = exchange.span
        if span.is_recording():
            span.set_attributes(
                given(
                    {
                        "smartroute.outcome": event.outcome,
                        "smartroute.endpoint.name": event.endpoint.name if event.endpoint else None,
                        "smartroute.fallback": event.fallback,
                        "smartroute.attempts": event.attempts,
                        "smartroute.delivered.attempt": event.delivered,
                        "smartroute.time_to_first_token": event.first_content if exchange.streaming else None,
                        "smartroute.stopped": event.stopped,
                        "error.type": exchange.error,
                    }
                )
            )
            if exchange.error is not None:
                span.set_status(StatusCode.ERROR, f"{event.outcome}: {exchange.error}")
        span.end()
        return exchange

    def breaker_changed(self, event: BreakerChanged) -> None:
        """Say so in the span of what caused it."""
        exchange = None if event.exchange is None else self._exchanges.get(event.exchange)
        verification = None if event.verification is None else self._verifications.get(event.verification)
        span = exchange.span if exchange else verification[0] if verification else None
        if span is not None and span.is_recording():
            span.add_event(
                "smartroute.breaker.transition",
                {
                    "smartroute.endpoint.name": event.route.name,
                    "smartroute.breaker.before": event.before,
                    "smartroute.breaker.after": event.after,
                    "smartroute.breaker.cause": event.cause,
                },
            )

    def avoided(self, event: Cooled | Quarantined) -> None:
        """A route is left alone for a while: say so in the span of the exchange that caused it."""
        exchange = None if event.exchange is None else self._exchanges.get(event.exchange)
        if exchange is not None:
            why = "cooldown" if isinstance(event, Cooled) else "quarantine"
            exchange.span.add_event(
                "smartroute.route.avoided",
                given(
                    {
                        "smartroute.endpoint.name": event.route.name,
                        "smartroute.reason": why,
                        "smartroute.seconds": event.seconds,
                        "http.response.status_code": event.status,
                    }
                ),
            )

    def verification_started(self, event: VerificationStarted) -> None:
        """Open its span, below the exchange that asked for it first."""
        number, exchange = next(((n, self._exchanges[n]) for n in event.exchanges if n in self._exchanges), (0, None))
        if exchange is None:
            return
        server, url = _server("GET", event.url)
        why = given({"smartroute.reason": "verification", **_endpoint(event.route)})
        span = self._tracer.start_span("GET", exchange.context, SpanKind.CLIENT, {**server, "url.full": url, **why})
        self._verifications[event.verification] = span, number
        _inject(span, exchange.context, event.headers)

    def probe_ended(self, event: ProbeEnded) -> None:
        """End the span of a verification, with links to the other exchanges that waited for it."""
        found = None if event.verification is None else self._verifications.pop(event.verification, None)
        if found is None:
            return
        span, parent = found
        by_status = event.failure is not None and event.failure.isdecimal()
        error = error_type(event.status if event.failure else None, event.failure)
        if span.is_recording():
            span.set_attributes(
                given(
                    {
                        "http.response.status_code": event.status,
                        "error.type": error,
                        "smartroute.failure.class": "status" if by_status else event.failure,
                        "smartroute.round_trip": event.round_trip,
                    }
                )
            )
            if error:
                span.set_status(StatusCode.ERROR, event.detail or (f"status {error}" if by_status else None))
            for number in event.exchanges:
                if number != parent and (exchange := self._exchanges.get(number)) is not None:
                    span.add_link(exchange.span.get_span_context())
        span.end()

    def passed_through(self, event: PassedThrough) -> None:
        """There is no span of ours; the caller's own may want to know."""
        if not _is_suppressed(otel_context.get_current()):
            trace.get_current_span().add_event(
                "smartroute.passed_through", {"url.path": event.path, "smartroute.reason": event.reason}
            )


def _is_suppressed(context: Context) -> bool:
    return any(context.get(key) for key in _SUPPRESSION_KEYS)


def _inject(span: Span, context: Context, headers: list[tuple[bytes, bytes]]) -> None:
    """Make `headers` say that `span` is the parent, sampled or not, in place of whatever they said.

    The configured propagator writes them; which of them may leave is the transport's to say.
    """
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(span, context))
    added = [(name.lower().encode(), value.encode()) for name, value in carrier.items()]
    replaced = {name for name, _ in added}
    if replaced.intersection(_TRACE_HEADERS):  # a tracestate belongs to its traceparent: they are replaced together
        replaced.update(_TRACE_HEADERS)
    headers[:] = [pair for pair in headers if pair[0].lower() not in replaced] + added


@lru_cache(maxsize=1_000)
def _server(method: str, url: str) -> tuple[dict[str, Attribute], str]:
    """What spans and metrics say of a server; and the URL without user name, password, query and fragment."""
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    server: dict[str, Attribute] = {
        "http.request.method": method,
        "server.address": parts.hostname or "",
        "server.port": port,
    }
    return server, f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _endpoint(route: Route) -> dict[str, str | None]:
    return {
        "smartroute.endpoint.name": route.name,
        "smartroute.endpoint.kind": route.kind.value,
        "smartroute.endpoint.region": route.region,
    }


def _header_attributes(headers: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    attributes: dict[str, list[str]] = {}
    for name, value in headers:
        attributes.setdefault(f"http.response.header.{name}", []).append(value)
    return attributes
