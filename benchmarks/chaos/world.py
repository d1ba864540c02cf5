"""The endpoints of a cell: real servers on localhost, each with a key of its own, the second-best behind TLS."""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import cache
from statistics import median
from typing import Any, Self
from urllib.parse import urlsplit

import trustme

from benchmarks.chaos.network import Network
from smartroute import Config, Route
from smartroute.testing import Fault, Region, Seen

__all__ = ["ANSWERS", "LATENCIES", "World", "port_of", "server_certificate", "trust", "until_none"]

LATENCIES = {"best": 0.020, "second": 0.040, "third": 0.080, "global": 0.060}
"""Seconds before each answer."""
ANSWERS = frozenset(f"{name} 2 3 4 5" for name in LATENCIES)
"""What a complete answer says."""
GONE = 5.0
"""Seconds in which a closed connection should be known to be closed."""


async def until_none(count: Callable[[], int]) -> int:
    """What is still counted after a while: at once, if it is nothing."""
    until = time.monotonic() + GONE
    while (left := count()) and time.monotonic() < until:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.01)
    return left


def port_of(region: Region) -> int:
    """The TCP port of a region."""
    port = urlsplit(region.url).port
    assert port is not None
    return port


def _key_of(name: str) -> str:
    return f"fake-{'console' if name == 'global' else name}-key"


@cache
def _authority() -> trustme.CA:
    return trustme.CA()


@cache
def trust() -> ssl.SSLContext:
    """What the clients trust."""
    context = ssl.create_default_context()
    _authority().configure_trust(context)
    return context


@cache
def server_certificate(kind: str = "good") -> ssl.SSLContext:
    """A server's side of TLS, its certificate `good`, `expired`, of the `wrong host` or an `unknown authority`."""
    now = datetime.now(UTC)
    match kind:
        case "expired":
            leaf = _authority().issue_cert("127.0.0.1", not_before=now - timedelta(9), not_after=now - timedelta(1))
        case "wrong host":
            leaf = _authority().issue_cert("elsewhere.example")
        case "unknown authority":
            leaf = trustme.CA().issue_cert("127.0.0.1")
        case _:
            leaf = _authority().issue_cert("127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    leaf.configure_cert(context)
    return context


class World:
    """Where the calls of a cell may go.

    Args:
        network: for faults of the network, if there is one of our own.
        pace: what the latencies are multiplied with.

    Attributes:
        best: the region that things happen to; each round has a new one.
        elsewhere: a server that nobody has any business with.
        impostors: servers that stand where a region should, and may not hear anything.
    """

    def __init__(self, network: Network | None = None, *, pace: float = 1.0) -> None:
        self._stack = ExitStack()
        self._pace = pace
        self.network = network
        self.second = self._open("second", tls=server_certificate())
        self.third = self._open("third")
        self.globe = self._open("global", prefix="/inference/v1")
        self.elsewhere = self._stack.enter_context(Region("elsewhere"))
        self.best = self._open("best")
        self.impostors: list[Region] = []
        self._usurped: Region | None = None
        self._past: list[Region] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def endpoints(self) -> tuple[Region, ...]:
        """Where calls may be answered."""
        return self.best, self.second, self.third, self.globe

    def renew_best(self, *, tls: bool) -> None:
        """Another best region, healthy."""
        self._past.append(self.best)
        self.best.stop()
        self.best = self._open("best", tls=server_certificate() if tls else None)

    def usurp_best(self, certificate: str) -> None:
        """Let a server with such a certificate stand where the best region was."""
        self.best.stop()
        self._usurped = self.best
        self.impostors.append(self._open("best", tls=server_certificate(certificate), port=port_of(self.best)))

    def heal(self) -> None:
        """Let nothing go wrong any more."""
        for region in self.endpoints:
            if region is not self._usurped:  # its port is taken
                region.start()
            region.heal()
            region.api_keys, region.models, region.capacity = [_key_of(region.name)], None, None
        if self.network is not None:
            self.network.heal()

    def set_all(self, *faults: Fault) -> None:
        """Set the faults on all endpoints."""
        for region in self.endpoints:
            region.set(*faults)

    def config(self, *names: str, host: str | None = None, backend: str = "httpcore") -> Config:
        """A configuration with routes to these regions. `host`: what the best region is called in its URL."""
        routes = []
        for region in self.endpoints:
            if region.name in names:
                url = region.url
                if host is not None and region is self.best:
                    url = url.replace("127.0.0.1", host)
                routes.append(Route(url, name=region.name, api_key=_key_of(region.name), allow_http=True))
        return Config(routes, global_url=self.globe.url, backend=backend)

    async def connect_time(self) -> float:
        """How many seconds a connection to the second-best region takes, TLS included."""
        times = []
        for _ in range(3):
            began = time.perf_counter()
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(self.second), ssl=trust())
            times.append(time.perf_counter() - began)
            writer.close()
            await writer.wait_closed()
        return median(times)

    def received(self) -> list[tuple[str, Seen]]:
        """Every request, with the name of the server that saw it."""
        regions = (*self._past, *self.endpoints, *self.impostors, self.elsewhere)
        return [(region.name, request) for region in regions for request in region.requests]

    def seen(self) -> dict[str, Counter[str]]:
        """By the name of each call, how often which server saw it."""
        found: dict[str, Counter[str]] = {}
        for name, request in self.received():
            if request.method == "POST":
                found.setdefault(request.header("idempotency-key") or "", Counter())[name] += 1
        return found

    def breaches(self) -> list[str]:
        """Each time that a server heard what it should not."""
        found = []
        for region in (*self._past, *self.endpoints):
            own = f"Bearer {_key_of(region.name)}"
            wrong = sum(request.header("authorization") != own for request in region.requests)
            if wrong:
                found.append(f"{wrong} requests to {region.name} with another's key or none")
        for stranger in (*self.impostors, self.elsewhere):
            found += [f"{request.method} {request.target} to a stranger" for request in stranger.requests]
        return found

    def _open(self, name: str, **options: Any) -> Region:
        latency = LATENCIES[name] * self._pace
        return self._stack.enter_context(Region(name, latency=latency, api_keys=[_key_of(name)], **options))
