"""The pools of `SMARTROUTE_BACKEND=aiohttp`: aiohttp's parser on the connections of the async wire.

What makes aiohttp fast is a parser in C, and a pool that does not look at every connection for every request. What its
client and its connector would cost are the promises: they do not tell whether a request was sent, let nothing be done
while an answer is overdue, and change what goes over the wire. So the parser is aiohttp's, the pool is this page, and
the connections are those of httpcore's pools: the same lines keep what is promised of them.
"""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from math import inf
from typing import cast

import httpcore2
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser, RawResponseMessage
from aiohttp.streams import StreamReader

__all__ = ["AiohttpPool"]

READ_SIZE = 64 * 1024
MOST_OF_HEAD = 100 * 1024
"""Bytes in which the head of a response must have come; httpcore's limit."""
SENT_AT_ONCE = 64 * 1024
"""Bytes of a body up to which it is copied, to go out together with its head."""
_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_LINE = re.compile(rb"%b [!-~]+ HTTP/1\.1\r\n" % _TOKEN)
_FIELD = re.compile(rb"%b: (?:[^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?\r\n" % _TOKEN)
"""A header as h11 lets it pass, and RFC 9110 (5.1, 5.5): its value cannot bring along another one."""
_BLANK_LINE = re.compile(rb"\n\r?\n")


class _Connection:
    """A connection of the pool.

    Attributes:
        kept_until: when it expires if it is idle, in `time.monotonic()`'s seconds; None: it is in use.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self.stream = stream
        self.kept_until: float | None = None

    def is_idle(self) -> bool:
        return self.kept_until is not None

    def has_expired(self) -> bool:
        """Whether an idle connection can serve no further request: its time is up, or the server closed it."""
        time_is_up = self.kept_until is not None and time.monotonic() > self.kept_until
        return time_is_up or bool(self.stream.get_extra_info("is_readable"))


class AiohttpPool:
    """The connections to one origin. To a driver it is an `httpcore2.AsyncConnectionPool`, for HTTP/1.1 only.

    Belongs to one event loop. Takes that pool's arguments, and raises that pool's exceptions.
    """

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
        self._most_idle = inf if max_keepalive_connections is None else max_keepalive_connections
        self._keepalive = inf if keepalive_expiry is None else keepalive_expiry
        self._local_address = local_address
        self._socket_options = tuple(socket_options or ())
        self._idle: list[_Connection] = []  # the one that was used last is at the end
        self._busy: set[_Connection] = set()

    @property
    def connections(self) -> Sequence[_Connection]:
        """Those that are open."""
        return [*self._idle, *self._busy]

    async def handle_async_request(self, request: httpcore2.Request) -> httpcore2.Response:
        """Send a request and read the head of its response. The response has to be closed."""
        content = b"".join([chunk async for chunk in cast("AsyncIterable[bytes]", request.stream)])
        head, body, is_last = _message(request, content)
        timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
        await self._wait_for_turn(timeouts.get("pool"))
        connection = None
        try:
            connection = await self._take() or await self._open(request)
            self._busy.add(connection)
            answer = _Answer(self, connection, timeouts.get("read"), is_last=is_last)
            try:
                for part in (head + body,) if len(body) <= SENT_AT_ONCE else (head, body):
                    await connection.stream.write(part, timeouts.get("write"))
            except httpcore2.WriteError:  # but the server may have answered before it closed
                answer.is_last = True
            message = await answer.begin()
        except BaseException:
            await self.give_back(connection, keep=False)
            raise
        return httpcore2.Response(
            message.code,
            headers=[(name, value.strip(b" \t")) for name, value in message.raw_headers],
            content=answer,
            extensions={
                "http_version": b"HTTP/%d.%d" % message.version,
                "reason_phrase": (message.reason or "").encode(errors="surrogateescape"),
                "network_stream": connection.stream,
            },
        )

    async def aclose(self) -> None:
        """Close all connections, those in use too."""
        closing = self.connections
        self._idle.clear()
        self._busy.clear()
        for connection in closing:
            await connection.stream.aclose()

    async def give_back(self, connection: _Connection | None, *, keep: bool) -> None:
        """A request is over. Its connection, if it got so far as to have one, is free or to be closed."""
        if self._turns is not None:
            self._turns.release()
        if connection is None:
            return
        now = time.monotonic()
        closing: list[_Connection] = []
        if keep and connection in self._busy:
            connection.kept_until = now + self._keepalive
            self._idle.append(connection)
        else:
            closing.append(connection)
        self._busy.discard(connection)
        while self._idle and (len(self._idle) > self._most_idle or (self._idle[0].kept_until or now) < now):
            closing.append(self._idle.pop(0))
        for each in closing:
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

    async def _take(self) -> _Connection | None:
        """The idle connection that was used last, so that those that are not needed expire."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_expired():
                connection.kept_until = None
                return connection
            await connection.stream.aclose()
        return None

    async def _open(self, request: httpcore2.Request) -> _Connection:
        host, port = request.url.origin.host.decode("ascii"), request.url.origin.port
        timeout = request.extensions.get("timeout", {}).get("connect")
        stream = await self._wire.connect_tcp(host, port, timeout, self._local_address, self._socket_options)
        if self._ssl_context is not None:
            self._ssl_context.set_alpn_protocols(["http/1.1"])
            stream = await stream.start_tls(self._ssl_context, request.extensions.get("sni_hostname") or host, timeout)
        return _Connection(stream)


class _Flow(BaseProtocol):
    """What aiohttp's parser would hold back. But it is only given what was asked for, and nothing more is read."""

    def pause_reading(self) -> None:
        pass

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        pass


class _Answer(AsyncIterator[bytes]):
    """A response: its head, then the pieces of its body as they come.

    Attributes:
        is_last: whether its connection serves no request after it.
    """

    _payload: StreamReader

    def __init__(self, pool: AiohttpPool, connection: _Connection, timeout: float | None, *, is_last: bool) -> None:
        self.is_last = is_last
        self._pool = pool
        self._connection = connection
        self._timeout = timeout
        self._error: httpcore2.RemoteProtocolError | None = None
        self._is_open = True
        loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(
            _Flow(loop),
            loop,
            READ_SIZE,
            max_line_size=MOST_OF_HEAD,
            max_field_size=MOST_OF_HEAD,
            max_headers=MOST_OF_HEAD,
            read_until_eof=True,
            auto_decompress=False,
        )

    async def begin(self) -> RawResponseMessage:
        """Read the head, passing over those that only inform."""
        raw, size = bytearray(), 0
        while size <= MOST_OF_HEAD:
            data = await self._connection.stream.read(READ_SIZE, self._timeout)
            if not data:
                raise httpcore2.RemoteProtocolError("Server disconnected without sending a response.")
            size += len(data)
            start = max(0, len(raw) - 2)
            raw += data
            if not raw.startswith(b"HTTP/"[: len(raw)]):
                raise httpcore2.RemoteProtocolError("The response is not HTTP.")
            # Each head is parsed on its own: with something wrong behind it, the parser would not tell of it.
            while blank := _BLANK_LINE.search(raw, start):
                head, raw, start = bytes(raw[: blank.end()]), raw[blank.end() :], 0
                messages = self._parse(head)
                if self._error is not None:
                    raise self._error
                if messages:
                    message, self._payload = messages[0]
                    codings = message.headers.getall("transfer-encoding", ())
                    if message.code < 100 or any(coding.strip().lower() != "chunked" for coding in codings):
                        raise httpcore2.RemoteProtocolError("The response is not HTTP/1.1 as we understand it.")
                    if message.code >= 200 or message.code == 101:
                        self.is_last |= bool(message.should_close) or message.code == 101
                        if raw:
                            self._feed(bytes(raw))
                        return message
        raise httpcore2.RemoteProtocolError("The head of the response is too large.")

    async def __anext__(self) -> bytes:
        while not (piece := self._payload.read_nowait()):
            if self._payload.is_eof():
                raise StopAsyncIteration
            try:
                await self._go_on()
            except BaseException:
                await self.aclose()
                raise
        return piece

    async def aclose(self) -> None:
        """Be done with the connection. Closing twice is harmless."""
        if self._is_open:
            self._is_open = False
            await self._pool.give_back(self._connection, keep=self._payload.is_eof() and not self.is_last)

    async def _go_on(self) -> None:
        """Read and parse some more."""
        if self._error is not None:
            raise self._error
        if data := await self._connection.stream.read(READ_SIZE, self._timeout):
            self._feed(data)
            return
        # The server closed the connection. Where it gave no length, that is the end of the body.
        self.is_last = True
        with contextlib.suppress(Exception):  # whatever it says, what counts is whether the body is whole
            self._parser.feed_eof()
        if not self._payload.is_eof():
            self._error = httpcore2.RemoteProtocolError("The response was cut short.")

    def _feed(self, data: bytes) -> None:
        if self._parse(data):
            self.is_last = True  # another response, for which nobody asked

    def _parse(self, data: bytes) -> Sequence[tuple[RawResponseMessage, StreamReader]]:
        try:
            return self._parser.feed_data(data)[0]
        except Exception as error:
            # Without its text, which may quote the answer.
            self._error = httpcore2.RemoteProtocolError(f"The response is not HTTP/1.1: {type(error).__name__}.")
            self.is_last = True
            return ()


def _message(request: httpcore2.Request, body: bytes) -> tuple[bytes, bytes, bool]:
    """A request's head and its body as they are sent, and whether the connection is to be closed after it.

    Raises:
        httpcore2.LocalProtocolError: the headers cannot be sent, or belong to another body.
    """
    line = b"%b %b HTTP/1.1\r\n" % (request.method, request.url.target)
    hosts: list[bytes] = []
    fields: list[bytes] = []
    sound = _LINE.fullmatch(line) is not None
    length, is_chunked, is_last = 0, False, False
    for name, value in request.headers:
        field = b"%b: %b\r\n" % (name, value)
        sound = sound and _FIELD.fullmatch(field) is not None
        lower = name.lower()
        (hosts if lower == b"host" else fields).append(field)
        if lower == b"content-length":
            length = int(value) if value.isdigit() else -1
        elif lower == b"transfer-encoding":
            is_chunked = value.lower() == b"chunked"
        elif lower == b"connection":
            is_last = b"close" in value.lower()
    if not sound or len(hosts) != 1:
        raise httpcore2.LocalProtocolError("The request has headers that cannot be sent.")
    if is_chunked:
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    elif length != len(body):
        raise httpcore2.LocalProtocolError("The request's Content-Length is not the length of its body.")
    return b"".join((line, *hosts, *fields, b"\r\n")), body, is_last
