"""What tracing costs: a request's bookkeeping with and without listeners, and beside spans made by hand.

Interleaved: each round measures every case in turn. The work of a real call is left out, so that it hides nothing.
"""

import json
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, Tracer, set_span_in_context

from benchmarks.choosing import measured_router, request
from benchmarks.tables import table
from smartroute.log import Log
from smartroute.router import Router
from smartroute.telemetry import Telemetry

__all__ = ["main"]

ROUTES = 3
BATCH = 200
ROUNDS = 40
MOST_SILENT = 5.0
"""Microseconds that a request may take more because somebody might be listening, and nobody is."""


class Row(NamedTuple):
    """A case: median microseconds of a request, and those that it takes more than without any listener."""

    case: str
    median: float
    more: float


def router(*listeners: Telemetry | Log) -> Router:
    """A router that has these listeners."""
    made = measured_router(ROUTES)
    for listener in listeners:
        made.subscribe(listener)
    return made


def log() -> Log:
    """The log, whose logger is set to warnings."""
    logging.getLogger("smartroute").setLevel(logging.WARNING)
    return Log((), fallback=True)


def by_hand(tracer: Tracer) -> None:
    """Two spans with two attributes each: the least that an SDK takes for such a tree."""
    outer = tracer.start_span("outer", attributes={"path": "/chat/completions", "streaming": True})
    context = set_span_in_context(outer)
    inner = tracer.start_span("POST", context, SpanKind.CLIENT, {"server.address": "localhost", "server.port": 443})
    inner.end()
    outer.end()


def cases() -> dict[str, Callable[[], object]]:
    """What is measured, by name; the first is what the others are compared with."""
    spans, sampled_out = TracerProvider(), TracerProvider(ALWAYS_OFF)
    meters = MeterProvider([InMemoryMetricReader()])
    routers = {
        "no listener": router(),
        "no provider (as shipped)": router(log(), Telemetry()),
        "spans": router(log(), Telemetry(tracer_provider=spans)),
        "spans, sampled out": router(log(), Telemetry(tracer_provider=sampled_out)),
        "metrics": router(log(), Telemetry(meter_provider=meters)),
        "spans and metrics": router(log(), Telemetry(tracer_provider=spans, meter_provider=meters)),
    }
    found: dict[str, Callable[[], object]] = {
        name: lambda router=each: request(router)  # type: ignore[misc]
        for name, each in routers.items()
    }
    tracer = spans.get_tracer("by hand")
    found["two bare spans by hand"] = lambda: by_hand(tracer)
    return found


def measure() -> list[Row]:
    """All cases, interleaved."""
    working = cases()
    samples: dict[str, list[float]] = {name: [] for name in working}
    for round_ in range(ROUNDS + 1):  # the first warms up
        for name, work in working.items():
            began = time.perf_counter()
            for _ in range(BATCH):
                work()
            if round_:
                samples[name].append((time.perf_counter() - began) / BATCH * 1e6)
    first = next(iter(samples.values()))
    return [Row(name, statistics.median(figures), _more(figures, first)) for name, figures in samples.items()]


def _more(figures: Sequence[float], first: Sequence[float]) -> float:
    return statistics.median(mine - theirs for mine, theirs in zip(figures, first, strict=True))


def main(*, as_json: bool = False) -> bool:
    """Print the table. Returns whether nobody who listens costs no more than it may."""
    rows = measure()
    if as_json:
        print(json.dumps([row._asdict() for row in rows]))
    else:
        lines = [("a request's bookkeeping", "median, us", "more, us")]
        for row in rows:
            alone = row is rows[0] or row is rows[-1]
            lines.append((row.case, f"{row.median:.1f}", "" if alone else f"{row.more:+.1f}"))
        print(table(lines))
    silent = next(row for row in rows if row.case.startswith("no provider"))
    return silent.more <= MOST_SILENT
