"""The pools of what is reached directly: HTTP/1.1 over the connections of our own wires.

They take the arguments of httpcore's `ConnectionPool` and `AsyncConnectionPool`, and raise the same exceptions. What
they leave out (proxies, HTTP/2) stays with those. What they are made for: a request costs what it has to, and a
thousand connections cost no more than one (httpcore's pools look at every connection for each request).
"""

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from math import inf
from queue import Empty, SimpleQueue
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import httpcore2

from smartroute.transport.http1 import Incoming, Outgoing

__all__ = ["AsyncAnswer", "AsyncDirectPool", "SyncAnswer", "SyncDirectPool"]

READ_SIZE = 64 * 1024
SENT_AT_ONCE = 64 * 1024
"""Bytes of a body up to which it is copied, to go out together with its head."""


class _Stream(Protocol):
    def get_extra_info(self, info: str) -> Any: ...


Stream = TypeVar("Stream", bound=_Stream)


class Connection(Generic[Stream]):
    """A connection of a pool.

    Attributes:
        kept_until: when it expires if it is idle, in `time.monotonic()`'s seconds; None: it is in use.
    """

    __slots__ = ("kept_until", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.kept_until: float | None = None

    def is_idle(self) -> bool:
        """Whether it waits for a request."""
        return self.kept_until is not None

    def has_expired(self) -> bool:
        """Whether an idle connection can serve no further request: its time is up, or the server closed it."""
        time_is_up = self.kept_until is not None and time.monotonic() > self.kept_until
        return time_is_up or bool(self.stream.get_extra_info("is_readable"))


class Shelf(Generic[Stream]):
    """Which connections of a pool are in use, and which wait. Thread-safe; closes nothing itself."""

    def __init__(self, most_idle: int | None, keepalive: float | None) -> None:
        self._most_idle = inf if most_idle is None else most_idle
        self._keepalive = inf if keepalive is None else keepalive
        self._lock = threading.Lock()
        self._idle: list[Connection[Stream]] = []  # the one that was used last is at the end
        self._busy: set[Connection[Stream]] = set()
        self._closed = False

    @property
    def connections(self) -> Sequence[Connection[Stream]]:
        """Those that are open."""
        with self._lock:
            return [*self._idle, *self._busy]

    def take(self) -> Connection[Stream] | None:
        """The idle connection that was used last, so that those that are not needed expire. It may have expired."""
        with self._lock:
            if not self._idle:
                return None
            connection = self._idle.pop()
            self._busy.add(connection)
        return connection

    def add(self, stream: Stream) -> Connection[Stream]:
        """A new connection, in use."""
        connection = Connection(stream)
        with self._lock:
            self._busy.add(connection)
        return connection

    def put_back(self, connection: Connection[Stream], *, keep: bool) -> list[Connection[Stream]]:
        """A connection is not used any more. Gives those that are to be closed now."""
        now = time.monotonic()
        closing: list[Connection[Stream]] = []
        with self._lock:
            if keep and connection in self._busy and not self._closed:
                connection.kept_until = now + self._keepalive
                self._idle.append(connection)
            else:
                closing.append(connection)
            self._busy.discard(connection)
            while self._idle and (len(self._idle) > self._most_idle or (self._idle[0].kept_until or now) < now):
                closing.append(self._idle.pop(0))
        return closing

    def clear(self) -> list[Connection[Stream]]:
        """Give all connections, to be closed. From now on none is kept."""
        with self._lock:
            self._closed = True
            closing = [*self._idle, *self._busy]
            self._idle.clear()
            self._busy.clear()
        return closing


class _Answer(Generic[Stream]):
    """A response, as drivers know httpcore's."""

    def __init__(self, connection: Connection[Stream], incoming: Incoming, limit: float | None) -> None:
        self.status = incoming.status
        self.headers = incoming.headers
        self.extensions: dict[str, Any] = {
            "http_version": b"HTTP/" + incoming.version,
            "reason_phrase": incoming.reason,
            "network_stream": connection.stream,
        }
        self._connection = connection
        self._incoming = incoming
        self._limit = limit
        self._is_open = True

    def _end(self) -> bool:
        """Whether its connection may be kept: all of it has been read, though perhaps not handed on."""
        self._incoming.release()
        return self._incoming.over and self._incoming.reusable


class SyncDirectPool:
    """The connections to one origin, for any number of threads."""

    reader: ClassVar[type[Incoming]] = Incoming

    def __init__(
        self,
        *,
        network_backend: httpcore2.NetworkBackend,
        ssl_context: ssl.SSLContext | None,
        max_connections: int | None,
        max_keepalive_connections: int | None,
        keepalive_expiry: float | None,
        local_address: str | None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None,
        **_: object,
    ) -> None:
        self._wire = network_backend
        self._ssl_context = ssl_context
        self._turns: SimpleQueue[None] | None = None
        if max_connections is not None:  # no semaphore: what a signal's handler raises can leave one locked for ever
            self._turns = SimpleQueue()
            for turn in [None] * max_connections:
                self._turns.put(turn)
        self._shelf: Shelf[httpcore2.NetworkStream] = Shelf(max_keepalive_connections, keepalive_expiry)
        self._local_address = local_address
        self._socket_options = tuple(socket_options or ())

    @property
    def connections(self) -> Sequence[Connection[httpcore2.NetworkStream]]:
        """Those that are open."""
        return self._shelf.connections

    def handle_request(self, request: Outgoing) -> "SyncAnswer":
        """Send a request and read the head of its response. The response has to be closed."""
        head, body, is_last = request.to_bytes()
        timeouts = _timeouts(request)
        self._wait_for_turn(timeouts.get("pool"))
        connection = None
        try:
            connection = self._take() or self._open(request)
            stream, incoming, limit = connection.stream, self.reader(), timeouts.get("read")
            try:
                for part in (head + body,) if len(body) <= SENT_AT_ONCE else (head, body):
                    stream.write(part, timeouts.get("write"))
            except httpcore2.WriteError:  # but the server may have answered before it closed
                is_last = True
            while not incoming.has_begun():
                incoming.feed(stream.read(READ_SIZE, limit))
            incoming.reusable &= not is_last
            return SyncAnswer(self, connection, incoming, limit)
        except BaseException:
            self.give_back(connection, keep=False)
            raise

    def close(self) -> None:
        """Close all connections, those in use too."""
        for connection in self._shelf.clear():
            connection.stream.close()

    def give_back(self, connection: Connection[httpcore2.NetworkStream] | None, *, keep: bool) -> None:
        """A request is over. Its connection, if it got so far as to have one, is free or to be closed."""
        try:
            if connection is not None:
                for each in self._shelf.put_back(connection, keep=keep):
                    each.stream.close()
        finally:
            self._release()  # now: who waits for it takes that connection, or there would be one too many

    def _wait_for_turn(self, seconds: float | None) -> None:
        if self._turns is not None:
            try:
                self._turns.get(timeout=seconds)
            except Empty:
                raise httpcore2.PoolTimeout("no connection became free in time") from None

    def _release(self) -> None:
        if self._turns is not None:
            self._turns.put(None)

    def _take(self) -> Connection[httpcore2.NetworkStream] | None:
        while (connection := self._shelf.take()) is not None:
            if not connection.has_expired():
                connection.kept_until = None
                return connection
            for each in self._shelf.put_back(connection, keep=False):
                each.stream.close()
        return None

    def _open(self, request: Outgoing) -> Connection[httpcore2.NetworkStream]:
        host, port = request.url.origin.host.decode("ascii"), request.url.origin.port
        timeout = _timeouts(request).get("connect")
        stream = self._wire.connect_tcp(host, port, timeout, self._local_address, self._socket_options)
        if self._ssl_context is not None:
            self._ssl_context.set_alpn_protocols(["http/1.1"])
            stream = stream.start_tls(self._ssl_context, _server_name(request) or host, timeout)
        return self._shelf.add(stream)


class SyncAnswer(_Answer[httpcore2.NetworkStream], Iterator[bytes]):
    """A response, and the iterator over its body, in the pieces in which it comes."""

    def __init__(
        self,
        pool: SyncDirectPool,
        connection: Connection[httpcore2.NetworkStream],
        incoming: Incoming,
        limit: float | None,
    ) -> None:
        super().__init__(connection, incoming, limit)
        self._pool = pool

    def iter_stream(self) -> Iterator[bytes]:
        """The body."""
        return self

    def __next__(self) -> bytes:
        try:
            piece = self._next()
        except BaseException:
            self.close()
            raise
        if piece is None:
            raise StopIteration
        return piece

    def _next(self) -> bytes | None:
        incoming = self._incoming
        while (piece := incoming.take()) is None and not incoming.over:
            incoming.feed(self._connection.stream.read(READ_SIZE, self._limit))
        return piece

    def close(self) -> None:
        """Be done with the connection. Closing twice is harmless."""
        if self._is_open:
            self._is_open = False
            self._pool.give_back(self._connection, keep=self._end())


class AsyncDirectPool:
    """The connections to one origin, in one event loop."""

    reader: ClassVar[type[Incoming]] = Incoming

    def __init__(
        self,
        *,
        network_backend: httpcore2.AsyncNetworkBackend,
        ssl_context: ssl.SSLContext | None,
        max_connections: int | None,
        max_keepalive_connections: int | None,
        keepalive_expiry: float | None,
        local_address: str | None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None,
        **_: object,
    ) -> None:
        self._wire = network_backend
        self._ssl_context = ssl_context
        self._turns = None if max_connections is None else asyncio.Semaphore(max_connections)
        self._shelf: Shelf[httpcore2.AsyncNetworkStream] = Shelf(max_keepalive_connections, keepalive_expiry)
        self._local_address = local_address
        self._socket_options = tuple(socket_options or ())

    @property
    def connections(self) -> Sequence[Connection[httpcore2.AsyncNetworkStream]]:
        """Those that are open."""
        return self._shelf.connections

    async def handle_async_request(self, request: Outgoing) -> "AsyncAnswer":
        """Send a request and read the head of its response. The response has to be closed."""
        head, body, is_last = request.to_bytes()
        timeouts = _timeouts(request)
        await self._wait_for_turn(timeouts.get("pool"))
        connection = None
        try:
            connection = await self._take() or await self._open(request)
            stream, incoming, limit = connection.stream, self.reader(), timeouts.get("read")
            try:
                for part in (head + body,) if len(body) <= SENT_AT_ONCE else (head, body):
                    await stream.write(part, timeouts.get("write"))
            except httpcore2.WriteError:  # but the server may have answered before it closed
                is_last = True
            while not incoming.has_begun():
                incoming.feed(await stream.read(READ_SIZE, limit))
            incoming.reusable &= not is_last
            return AsyncAnswer(self, connection, incoming, limit)
        except BaseException:
            await self.give_back(connection, keep=False)
            raise

    async def aclose(self) -> None:
        """Close all connections, those in use too."""
        for connection in self._shelf.clear():
            await connection.stream.aclose()

    async def give_back(self, connection: Connection[httpcore2.AsyncNetworkStream] | None, *, keep: bool) -> None:
        """A request is over. Its connection, if it got so far as to have one, is free or to be closed."""
        if self._turns is not None:
            self._turns.release()
        if connection is not None:
            for each in self._shelf.put_back(connection, keep=keep):
                await each.stream.aclose()

    async def _wait_for_turn(self, seconds: float | None) -> None:
        if self._turns is None:
            return
        if not self._turns.locked():  # this does not wait
            await self._turns.acquire()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise httpcore2.PoolTimeout("no connection became free in time") from None

    async def _take(self) -> Connection[httpcore2.AsyncNetworkStream] | None:
        while (connection := self._shelf.take()) is not None:
            if not connection.has_expired():
                connection.kept_until = None
                return connection
            for each in self._shelf.put_back(connection, keep=False):
                await each.stream.aclose()
        return None

    async def _open(self, request: Outgoing) -> Connection[httpcore2.AsyncNetworkStream]:
        host, port = request.url.origin.host.decode("ascii"), request.url.origin.port
        timeout = _timeouts(request).get("connect")
        stream = await self._wire.connect_tcp(host, port, timeout, self._local_address, self._socket_options)
        if self._ssl_context is not None:
            self._ssl_context.set_alpn_protocols(["http/1.1"])
            stream = await stream.start_tls(self._ssl_context, _server_name(request) or host, timeout)
        return self._shelf.add(stream)


class AsyncAnswer(_Answer[httpcore2.AsyncNetworkStream], AsyncIterator[bytes]):
    """A response, and the iterator over its body, in the pieces in which it comes."""

    def __init__(
        self,
        pool: AsyncDirectPool,
        connection: Connection[httpcore2.AsyncNetworkStream],
        incoming: Incoming,
        limit: float | None,
    ) -> None:
        super().__init__(connection, incoming, limit)
        self._pool = pool

    def aiter_stream(self) -> AsyncIterator[bytes]:
        """The body."""
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await self._next()
        except BaseException:
            await self.aclose()
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def _next(self) -> bytes | None:
        incoming = self._incoming
        while (piece := incoming.take()) is None and not incoming.over:
            incoming.feed(await self._connection.stream.read(READ_SIZE, self._limit))
        return piece

    async def aclose(self) -> None:
        """Be done with the connection. Closing twice is harmless."""
        if self._is_open:
            self._is_open = False
            await self._pool.give_back(self._connection, keep=self._end())


def _timeouts(request: Outgoing) -> dict[str, float | None]:
    found = request.extensions.get("timeout")
    return found if isinstance(found, dict) else {}


def _server_name(request: Outgoing) -> str | None:
    name = request.extensions.get("sni_hostname")
    return name if isinstance(name, str) else None
