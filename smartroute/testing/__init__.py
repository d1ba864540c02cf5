"""Scripted regions and a virtual clock, for tests of code that calls OpenAI-compatible endpoints.

    with Region("frankfurt", latency=0.020) as frankfurt, Region("arizona") as arizona:
        client = OpenAI(base_url=frankfurt.url, api_key="any")
        frankfurt.set(Status(503, {"retry-after": "1"}))  # a bad day
        ...
        frankfurt.heal()

Regions are real HTTP/1.1 servers on 127.0.0.1: real sockets, real resets, real TLS if asked for.
"""

from smartroute.testing.clock import Clock
from smartroute.testing.faults import (
    CloseAfterAnswer,
    Cut,
    Drip,
    EmptyStream,
    EndWithoutDone,
    ErrorEvent,
    ExtraHeaders,
    Fault,
    GarbledEvent,
    Gzip,
    Reset,
    Silence,
    Slow,
    Stall,
    Status,
    TruncatedEvent,
)
from smartroute.testing.region import Region, Seen

__all__ = [
    "Clock",
    "CloseAfterAnswer",
    "Cut",
    "Drip",
    "EmptyStream",
    "EndWithoutDone",
    "ErrorEvent",
    "ExtraHeaders",
    "Fault",
    "GarbledEvent",
    "Gzip",
    "Region",
    "Reset",
    "Seen",
    "Silence",
    "Slow",
    "Stall",
    "Status",
    "TruncatedEvent",
]
