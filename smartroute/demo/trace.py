"""The demo's traces: an OpenTelemetry provider as an application sets it up, and what it recorded."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

__all__ = ["Tracing", "endpoint"]

SEND_LIMIT = 3.0
"""Seconds for sending the spans, retries included."""
TRACES = "/v1/traces"
_CALL = "demo.call"


def endpoint(url: str) -> str:
    """Where spans are posted to, from a backend's base URL or from that very place.

    Raises:
        ValueError: it is no http(s) URL.
    """
    parts = urlsplit(url)  # a ValueError of its own where brackets do not match
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("write a URL, as in http://localhost:4318")
    return url if parts.path.rstrip("/").endswith(TRACES) else url.rstrip("/") + TRACES


class Tracing:
    """The provider, set up for the whole process, and the spans it has recorded."""

    def __init__(self) -> None:
        self._memory = InMemorySpanExporter()
        provider = TracerProvider(ALWAYS_ON, Resource.create({"service.name": "smartroute-demo"}))
        provider.add_span_processor(SimpleSpanProcessor(self._memory))
        trace.set_tracer_provider(provider)
        self._tracer = trace.get_tracer("smartroute.demo")

    def call(self, number: int) -> AbstractContextManager[object]:
        """The application's own span around a call."""
        return self._tracer.start_as_current_span(f"call {number}", attributes={_CALL: number})

    def tree(self, number: int, *, ascii_only: bool) -> list[str]:
        """The spans of a call and their events, one a line: what, how long, and what came of it."""
        spans = self._memory.get_finished_spans()
        root = next((span for span in spans if (span.attributes or {}).get(_CALL) == number), None)
        if root is None:
            return []
        rows = list(_rows(root, spans, ("|- ", "`- ", "|  ") if ascii_only else ("├─ ", "└─ ", "│  ")))
        width = max(len(label) for label, _, _ in rows)
        return [f"{label:<{width}}  {duration:>8}  {words}".rstrip() for label, duration, words in rows]

    def send(self, url: str) -> str | None:
        """Send all spans to an OTLP/HTTP backend. Returns why that failed, in a line; None: it did not."""
        spans = self._memory.get_finished_spans()
        complaints = _Complaints()
        exporter: SpanExporter = OTLPSpanExporter(url, timeout=SEND_LIMIT)
        try:
            result = exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever it is, a line is what there is to say about it
            result = SpanExportResult.FAILURE
            complaints.first = complaints.first or str(error)
        finally:
            exporter.shutdown()
            complaints.close()
        if result is SpanExportResult.SUCCESS:
            return None
        return complaints.first or "the exporter did not say why"


class _Complaints(logging.Handler):
    """Takes what the exporter logs, which would be on the screen in its own words."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""  # it tells of the cause, those that follow tell of retries
        self._logger = logging.getLogger("opentelemetry.exporter")
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        errno = re.search(r"\[Errno -?\d+\] [\w ]+", message)  # the one part that tells people something
        self.first = self.first or (errno[0] if errno else message)

    def close(self) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = True
        super().close()


def _rows(
    span: ReadableSpan, spans: Sequence[ReadableSpan], guides: tuple[str, str, str], lead: str = "", below: str = ""
) -> Iterator[tuple[str, str, str]]:
    """A span and all that is below it, in the order of time: label, duration, words."""
    fork, corner, line = guides
    attributes = dict(span.attributes or {})
    name = attributes.get("smartroute.endpoint.name") if span.kind is trace.SpanKind.CLIENT else None
    milliseconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    yield (
        f"{lead}{span.name} {name or ''}".rstrip(),
        f"{milliseconds:.1f} ms",
        _words(attributes, span.status.description),
    )
    mine = span.context and span.context.span_id
    parts: list[ReadableSpan | Event] = [each for each in spans if each.parent and each.parent.span_id == mine]
    parts = sorted([*parts, *span.events], key=_at)
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        begin = below + (corner if last else fork)
        if isinstance(part, ReadableSpan):
            yield from _rows(part, spans, guides, begin, below + ("   " if last else line))
        else:
            yield f"{begin}{part.name.removeprefix('smartroute.')}", "", _words(part.attributes or {}, None)


def _at(part: ReadableSpan | Event) -> int:
    return (part.start_time or 0) if isinstance(part, ReadableSpan) else part.timestamp


def _words(attributes: Mapping[str, Any], detail: str | None) -> str:
    """What the attributes of a span or an event say, in a line."""
    said = {name.removeprefix("smartroute."): value for name, value in attributes.items()}
    match said:
        case {"outcome": outcome, "attempts": attempts}:
            return f"{outcome} by {said.get('endpoint.name', 'nobody')}, attempts: {attempts}"
        case {"breaker.before": before, "breaker.after": after, "endpoint.name": name}:
            return f"{name}: {before} -> {after} ({said.get('breaker.cause')})"
        case {"reason": "verification"}:
            trip = said.get("round_trip")
            return "verification: " + (detail or ("given up" if trip is None else f"alive, {trip * 1000:.1f} ms"))
        case {"waited": waited}:
            return f"nothing after {waited * 1000:.0f} ms"
        case {"attempt": _, "reason": reason}:
            status, first_token = said.get("http.response.status_code"), said.get("time_to_first_token")
            words = [str(status)] if status else []
            if "failure.class" in said:
                words.append(detail or str(said["failure.class"]))
            elif first_token is not None:
                words.append(f"first token after {first_token * 1000:.1f} ms")
            elif said.get("stream.outcome") == "superseded":
                words.append("another attempt was quicker")
            return f"{', '.join(words)} (reason: {reason})"
        case {"reason": reason}:
            return f"{said.get('endpoint.name', 'nobody')} first (reason: {reason})"
        case _:
            return ""
