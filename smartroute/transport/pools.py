"""Connection pools, one per route; and the family's own transports, one per proxy, for what passes through."""

from __future__ import annotations

import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar, cast
from urllib.parse import urlsplit
from weakref import WeakSet

import httpcore2

from smartroute.errors import ConfigError, Problem
from smartroute.route import Route
from smartroute.tls import own_context
from smartroute.transport.core import AsyncCorePool, SyncCorePool
from smartroute.transport.direct import AsyncDirectPool, SyncDirectPool
from smartroute.transport.http1 import Outgoing

if TYPE_CHECKING:
    import httpx2

    from smartroute.transport.family import Family

__all__ = [
    "AsyncPool",
    "AsyncResponse",
    "Passages",
    "PoolOptions",
    "Pools",
    "Response",
    "SyncPool",
    "SyncResponse",
    "TransportOptions",
    "async_pool",
    "split_options",
    "sync_pool",
]

ROUTE_KEEPALIVE = 55.0
"""Seconds for which an idle connection to a route is kept (the libraries' default of 5 s would cost a
quiet process a TCP and TLS handshake per request). Probes come more often than that."""


class _Connection(Protocol):
    def is_idle(self) -> bool: ...

    def has_expired(self) -> bool: ...


class Response(Protocol):
    """What drivers need of the head of a response: httpcore's, or ours."""

    status: int
    headers: Any
    extensions: Any


class SyncResponse(Response, Protocol):
    """A response whose body is to be read."""

    def iter_stream(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class AsyncResponse(Response, Protocol):
    """A response whose body is to be read."""

    def aiter_stream(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class SyncPool(Protocol):
    """What a sync driver needs of a pool."""

    @property
    def connections(self) -> Sequence[_Connection]:
        """Those that are open."""
        ...

    def handle_request(self, request: Outgoing) -> SyncResponse:
        """Send a request and read the head of its response."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class AsyncPool(Protocol):
    """What an async driver needs of a pool."""

    @property
    def connections(self) -> Sequence[_Connection]:
        """Those that are open."""
        ...

    async def handle_async_request(self, request: Outgoing) -> AsyncResponse:
        """Send a request and read the head of its response."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


Pool = TypeVar("Pool", SyncPool, AsyncPool)
Passage = TypeVar("Passage")


class TransportOptions(TypedDict, total=False):
    """What `httpx2.HTTPTransport` takes, with the same meaning and defaults."""

    verify: ssl.SSLContext | str | bool
    cert: Any
    trust_env: bool
    http1: bool
    http2: bool
    limits: httpx2.Limits
    proxy: httpx2.Proxy | httpx2.URL | str | None
    local_address: str | None
    socket_options: Iterable[httpcore2.SOCKET_OPTION] | None


@dataclass(eq=False)
class PoolOptions:
    """How connections are made; the same for every pool of a client."""

    family: Family
    given: TransportOptions
    _own: dict[str, ssl.SSLContext] = field(default_factory=dict[str, ssl.SSLContext], init=False)

    def context_for(self, route: Route) -> ssl.SSLContext | None:
        """What a route's certificate is verified with, made once; None: it has none, for it is reached without TLS.

        Raises:
            ConfigError: a file of the route's own cannot be used (any more).
        """
        if not route.url.startswith("https:"):
            return None
        if not route.has_own_tls:
            return self.ssl_context
        if route.name not in self._own:
            self._own[route.name] = own_context(route, self._system_context)
        return self._own[route.name]

    def _system_context(self) -> ssl.SSLContext:
        return self.family.create_ssl_context(trust_env=self.given.get("trust_env", True))

    @cached_property
    def ssl_context(self) -> ssl.SSLContext:
        """Made once: loading certificates takes longer than all the rest."""
        given = self.given
        return self.family.create_ssl_context(
            verify=given.get("verify", True), cert=given.get("cert"), trust_env=given.get("trust_env", True)
        )

    @cached_property
    def _proxies(self) -> list[tuple[Any, httpx2.Proxy | None]]:
        make = self.family.Proxy
        explicit = self.given.get("proxy")
        if explicit is not None:
            proxy = explicit if isinstance(explicit, make) else make(url=cast("str", explicit))
            return [(self.family.pattern("all://"), proxy)]
        if not self.given.get("trust_env", True):
            return []
        found = self.family.environment_proxies()
        return sorted(
            ((self.family.pattern(key), None if url is None else make(url=url)) for key, url in found.items()),
            key=lambda pair: pair[0],
        )

    def proxy_for(self, url: httpx2.URL) -> httpx2.Proxy | None:
        """The proxy for a URL, by the family's own rules; None: none."""
        return next((proxy for pattern, proxy in self._proxies if pattern.matches(url)), None)

    def proxy_for_text(self, url: str) -> httpx2.Proxy | None:
        """The same, for a URL that is not parsed yet."""
        return self.proxy_for(self.family.URL(url)) if self._proxies else None

    def make(
        self,
        pool: Callable[..., Pool],
        wire: Any,
        proxy: httpx2.Proxy | None,
        *,
        ssl_context: ssl.SSLContext | None,
        keepalive: float | None = None,
    ) -> Pool:
        """A pool. Through a proxy it uses httpcore's own backend: there is nothing to race."""
        limits = self.given.get("limits")
        return pool(
            ssl_context=ssl_context,
            proxy=None if proxy is None else _core_proxy(proxy),
            max_connections=limits.max_connections if limits else 1000,
            max_keepalive_connections=limits.max_keepalive_connections if limits else 1000,
            keepalive_expiry=keepalive if keepalive is not None else limits.keepalive_expiry if limits else 5.0,
            http1=self.given.get("http1", True),
            http2=self.given.get("http2", False),
            local_address=self.given.get("local_address"),
            socket_options=self.given.get("socket_options"),
            network_backend=wire if proxy is None else None,
        )

    def passage(self, make: Callable[..., Passage], proxy: httpx2.Proxy | None, *, tls: bool) -> Passage:
        """A transport as the family's own client would make it."""
        given: dict[str, Any] = {"limits": self.family.default_limits, **self.given, "proxy": proxy}
        given.pop("cert", None)  # it is in the context
        given["verify"] = self.ssl_context if tls else False  # without TLS no certificates need be loaded
        return make(**given)


def _core_proxy(proxy: httpx2.Proxy) -> httpcore2.Proxy:
    url = proxy.url
    return httpcore2.Proxy(
        url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        auth=proxy.raw_auth,
        headers=proxy.headers.raw,
        ssl_context=proxy.ssl_context,
    )


class Pools(Generic[Pool]):
    """The pools of one client (for async ones: in one event loop), made as they are needed.

    Args:
        make: what makes those of routes behind a proxy: httpcore's.
        direct: what makes the others.
    """

    def __init__(
        self,
        options: PoolOptions,
        make: Callable[..., Pool],
        direct: Callable[..., Pool],
        wire: Any,
    ) -> None:
        self._options = options
        self._make: Callable[..., Pool] = make
        self._direct: Callable[..., Pool] = direct
        self.wire = wire
        self._lock = threading.Lock()
        self._routes: dict[str, tuple[Pool, bool]] = {}
        self._addresses: dict[str, tuple[str, int]] = {}
        self._fresh: WeakSet[Pool] = WeakSet()

    def of(self, route: Route) -> tuple[Pool, bool]:
        """A route's pool, and whether a proxy stands before the route."""
        found = self._routes.get(route.name)
        if found is None:
            with self._lock:
                if route.name not in self._routes:
                    proxy = self._options.proxy_for_text(route.url)
                    limits = self._options.given.get("limits")
                    keepalive = max(ROUTE_KEEPALIVE, (limits and limits.keepalive_expiry) or 0.0)
                    context = self._options.context_for(route)
                    make = self._direct if proxy is None else self._make
                    pool = self._options.make(make, self.wire, proxy, ssl_context=context, keepalive=keepalive)
                    self._routes[route.name] = (pool, proxy is not None)
                found = self._routes[route.name]
        return found

    def fresh(self, route: Route, wire: Any) -> tuple[Pool, bool]:
        """A pool for one connection to a route, with a wire of its own; the caller closes it after use."""
        proxy = self._options.proxy_for_text(route.url)
        make = self._direct if proxy is None else self._make
        pool = self._options.make(make, wire, proxy, ssl_context=self._options.context_for(route))
        with self._lock:
            self._fresh.add(pool)
        return pool, proxy is not None

    def idle(self, route: Route) -> bool:
        """Whether a connection to the route is open and free."""
        found = self._routes.get(route.name)
        return found is not None and any(c.is_idle() and not c.has_expired() for c in found[0].connections)

    def address(self, route: Route) -> tuple[str, int] | None:
        """Where to connect to for a route; None if that is a proxy's business."""
        if self.of(route)[1]:
            return None
        found = self._addresses.get(route.name)
        if found is None:
            url = urlsplit(route.url)
            found = (url.hostname or "", url.port or (443 if url.scheme == "https" else 80))
            self._addresses[route.name] = found
        return found

    def drain(self) -> list[Pool]:
        """All pools, which from now on nobody gets any more; the caller closes them."""
        with self._lock:
            pools = [pool for pool, _ in self._routes.values()] + list(self._fresh)
            self._routes.clear()
        return pools


class Passages(Generic[Passage]):
    """The transports for what passes through: the family's own, with the caller's own limits.

    So whoever wraps or replaces those of the plain SDK (OpenTelemetry's instrumentation, a test's mock) has the same
    of ours.

    Args:
        make: the family's class.
    """

    def __init__(self, options: PoolOptions, make: Callable[..., Passage]) -> None:
        self._options = options
        self._make = make
        self._lock = threading.Lock()
        self._made: dict[tuple[int, str], Passage] = {}

    def to(self, url: httpx2.URL) -> Passage:
        """The transport for a URL, through the proxy that the URL needs."""
        proxy = self._options.proxy_for(url)
        key = (id(proxy), url.scheme)
        found = self._made.get(key)
        if found is None:
            with self._lock:
                if key not in self._made:
                    self._made[key] = self._options.passage(self._make, proxy, tls=url.scheme == "https")
                found = self._made[key]
        return found

    def drain(self) -> list[Passage]:
        """All of them, which from now on nobody gets any more; the caller closes them."""
        with self._lock:
            made = list(self._made.values())
            self._made.clear()
        return made


def sync_pool(backend: str, options: TransportOptions) -> Callable[..., SyncPool]:
    """What makes the pools of what is reached directly, for `Config.backend`."""
    return SyncCorePool if backend == "httpcore" or _needs_httpcore(options) else SyncDirectPool


def async_pool(backend: str, options: TransportOptions) -> Callable[..., AsyncPool]:
    """What makes the pools of what is reached directly, for `Config.backend`.

    Raises:
        ConfigError: the backend cannot do what the options ask for.
    """
    if backend == "aiohttp":
        if _needs_httpcore(options):
            problem = Problem("backend", "aiohttp does not speak HTTP/2", "leave out http2=True, or use httpcore")
            raise ConfigError([problem])
        from smartroute.transport.aiohttp import AiohttpPool  # noqa: PLC0415 - an extra, and slow to import

        return AiohttpPool
    return AsyncCorePool if backend == "httpcore" or _needs_httpcore(options) else AsyncDirectPool


def _needs_httpcore(options: TransportOptions) -> bool:
    return bool(options.get("http2"))


def split_options(family: Family, options: Mapping[str, Any]) -> tuple[TransportOptions, dict[str, Any]]:
    """What of a client's options is the transport's, and what its own, with the OpenAI SDK's defaults.

    Raises:
        TypeError: there is a transport among them.
    """
    if "transport" in options:
        raise TypeError(
            "smartroute's clients bring their own transport; give its options (verify=, proxy=, ...) instead"
        )
    names = TransportOptions.__optional_keys__
    client = {name: value for name, value in options.items() if name not in names or name == "trust_env"}
    client.setdefault("timeout", family.default_timeout)
    client.setdefault("follow_redirects", True)
    transport = {name: value for name, value in options.items() if name in names}
    return cast("TransportOptions", transport), client
