"""The async wire: an asyncio protocol under the async pools, ours and httpcore's.

One object is both asyncio's protocol and the pool's stream: no task, no lock and no wrapper between the
event loop and the HTTP parser.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from math import inf
from typing import Any, cast

import aiohappyeyeballs
import httpcore2

from smartroute.policy.patience import LATE
from smartroute.transport.connect import LONGEST_DIAL, Retirement, Spares, is_dead, is_readable, prepare
from smartroute.transport.watch import (
    ConnectionDied,
    Limit,
    RaceLost,
    Rival,
    allowance,
    deadline,
    handshake_limit,
    listening,
    note_certificate,
    note_write,
)

__all__ = ["AsyncWire"]

Dial = Callable[[str, int], Coroutine[Any, Any, socket.socket]]

MOST_BUFFERED = 256 * 1024
"""Bytes read ahead of the caller before the socket is left to fill up."""
HAPPY_EYEBALLS_DELAY = 0.25
"""Seconds between the addresses of one host (RFC 8305)."""


class Pulse:
    """Beats while somebody waits, to notice that the event loop was blocked: then a beat comes late.

    What came in the meantime was there sooner, nobody knows since when.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting = 0
        self._due: float | None = None
        self._late_at = -inf

    def __enter__(self) -> None:
        self._waiting += 1
        if self._due is None:
            self._go_on()

    def __exit__(self, *_: object) -> None:
        self._waiting -= 1

    @property
    def is_late(self) -> bool:
        """Whether the loop has just come back from somewhere else."""
        return self._clock() - self._late_at < LATE

    def _beat(self) -> None:
        if self._due is not None and self._clock() > self._due + LATE:
            self._late_at = self._clock()
        self._due = None
        if self._waiting:
            self._go_on()

    def _go_on(self) -> None:
        self._due = self._clock() + LATE
        asyncio.get_running_loop().call_later(LATE, self._beat)


class AsyncStream(httpcore2.AsyncNetworkStream, asyncio.Protocol):
    """One connection. Counts the requests it serves and notes their first bytes."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pulse: Pulse,
        address: tuple[str, int],
        retirement: Retirement,
        born: float,
    ) -> None:
        self._loop = loop
        self._pulse = pulse
        self._address = address
        self._retirement = retirement
        self._born = born
        self._served = 0
        self._transport: asyncio.Transport
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._reading = True
        self._ended = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[bool] | None = None
        self._writable: asyncio.Future[bool] | None = None

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(True)
        elif self._buffered > MOST_BUFFERED and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(True)
        self._writable = None

    def _end(self, error: Exception | None) -> None:
        self._ended = True
        self._error = self._error or error
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(True)
        self.resume_writing()

    # The pool's side

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            if type(timeout) is Limit and timeout.watch.looked_after:
                await self._look_after(timeout)
            elif not self._heard():
                if type(timeout) is Limit and (hush := timeout.watch.hush):
                    await self._listen(timeout, hush)
                else:
                    await self._wait(allowance(timeout))
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        if not self._chunks:
            if self._error is not None:
                broken = httpcore2.ReadError(str(self._error))
                broken.__context__ = self._error  # httpcore's pool takes the cause away
                raise broken from self._error
            return b""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        if len(data) > max_bytes:
            self._chunks.append(data[max_bytes:])
            data = data[:max_bytes]
        self._buffered -= len(data)
        if not self._reading and self._buffered <= MOST_BUFFERED:
            self._reading = True
            self._transport.resume_reading()
        return data

    async def _wait(self, seconds: float | None) -> None:
        self._reader = self._loop.create_future()
        try:
            await _within(self._loop, self._reader, seconds)
        finally:
            self._reader = None

    async def _look_after(self, timeout: Limit) -> None:
        """Wait, and do what is to be done while nothing comes."""
        watch = timeout.watch
        watch.ahead = partial(b"".join, self._chunks)
        ends = inf if self._heard() else deadline(timeout)
        with self._pulse:
            while not self._heard():
                with contextlib.suppress(TimeoutError):
                    await self._wait(watch.turn(ends))
                if self._heard():
                    break
                if watch.clock() >= ends:
                    raise TimeoutError("the server did not answer in time")
                if watch.look_due and watch.quiet is not None:
                    if watch.attempt.reused and is_dead(self._transport.get_extra_info("socket")):
                        raise ConnectionDied
                    await watch.quiet()
        watch.heard(self._buffered)
        watch.attempt.late |= self._pulse.is_late

    async def _listen(self, timeout: Limit, hush: Callable[[float], None]) -> None:
        """Wait for more of an answer. If nothing comes for long, find out whether its route is alive."""
        for seconds in listening(timeout, hush):
            with contextlib.suppress(TimeoutError):  # how long to go on is said by `listening`
                await self._wait(seconds)
                return

    def _heard(self) -> bool:
        """Whether there is something to read, be it the end."""
        return bool(self._chunks) or self._ended

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._ended:
            raise httpcore2.WriteError("the connection is closed") from self._error
        self._served += note_write(timeout, self._served)
        self._transport.write(buffer)
        if self._writable is not None:
            try:
                await _within(self._loop, self._writable, allowance(timeout))
            except TimeoutError as error:
                raise httpcore2.WriteTimeout(str(error)) from error

    async def aclose(self) -> None:
        # Without an await: when a loop ends, all the generators that lead here are closed at the same time.
        self._ended = True  # at once, though the loop closes the socket a round later
        self._transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        winner = None
        try:
            seconds, winner = handshake_limit(timeout)
            async with asyncio.timeout(seconds):
                transport = await self._loop.start_tls(
                    self._transport, self, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError as error:
            self._transport.abort()
            if winner is not None:
                raise RaceLost(winner) from error
            raise httpcore2.ConnectTimeout("the TLS handshake took too long") from error
        except OSError as error:
            self._transport.abort()
            raise httpcore2.ConnectError(str(error)) from error
        except BaseException:
            self._transport.abort()
            raise
        if transport is None:  # closed while shaking hands
            raise httpcore2.ConnectError("the connection was closed during the TLS handshake")
        self._transport = transport
        note_certificate(timeout, transport.get_extra_info("ssl_object"))
        if self._retirement.closed:
            transport.abort()
            raise httpcore2.ConnectError("the client was closed")
        return self

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "is_readable":
                if self._ended or self._chunks or self._retirement.due(self._address, self._born):
                    return True
                return is_readable(self._transport.get_extra_info("socket"))
            case "client_addr":
                return self._transport.get_extra_info("sockname")
            case "server_addr":
                return self._transport.get_extra_info("peername")
            case _:
                return self._transport.get_extra_info(info)


async def _within(loop: asyncio.AbstractEventLoop, future: asyncio.Future[bool], seconds: float | None) -> None:
    """Wait for a future. Cheaper than `asyncio.timeout`: this is every read of every stream."""
    if seconds is None:
        await future
        return
    timer = loop.call_later(seconds, _expire, future)
    try:
        if not await future:
            raise TimeoutError("the server did not answer in time")
    finally:
        timer.cancel()


def _expire(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


class AsyncWire(httpcore2.AsyncNetworkBackend):
    """Opens connections, racing those of rival routes when the first is slow to come.

    Belongs to one event loop.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.spares = Spares(clock)
        self.retirement = Retirement(clock)
        self._pulse = Pulse(clock)
        self._dialling: set[asyncio.Task[socket.socket]] = set()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        dial = partial(_dial, local_address=local_address, options=tuple(socket_options or ()))
        sock = self.spares.take((host, port))
        if sock is None:
            started = self._clock()
            watch = timeout.watch if type(timeout) is Limit else None
            try:
                seconds = allowance(timeout)
                async with asyncio.timeout(seconds):
                    if watch is not None and (rivals := watch.rivals()):
                        sock = await self._race(dial, (host, port), seconds, rivals, watch.patience)
                    else:
                        sock = await dial(host, port)
            except TimeoutError as error:
                raise httpcore2.ConnectTimeout(f"no connection to {host} in time") from error
            except OSError as error:
                raise httpcore2.ConnectError(str(error)) from error
            if self.retirement.closed:  # meanwhile: no pool has it, nobody would close it
                sock.close()
                raise httpcore2.ConnectError("the client was closed")
            if watch is not None:
                watch.attempt.connect = self._clock() - started
        try:
            born = self._clock()
            _, stream = await loop.create_connection(
                lambda: AsyncStream(loop, self._pulse, (host, port), self.retirement, born), sock=sock
            )
        except BaseException:
            sock.close()
            raise
        if self.retirement.closed:  # meanwhile
            await stream.aclose()
            raise httpcore2.ConnectError("the client was closed")
        return stream

    async def aclose(self) -> None:
        """Close the connections that no pool holds."""
        self.retirement.closed = True
        self.spares.close()
        for task in tuple(self._dialling):
            task.cancel()
        await asyncio.gather(*self._dialling, return_exceptions=True)

    async def _race(
        self, dial: Dial, address: tuple[str, int], seconds: float | None, rivals: Sequence[Rival], patience: float
    ) -> socket.socket:
        """Connect, or find that a rival is ready sooner. What is ready too late becomes a spare."""
        addresses: dict[Rival | None, tuple[str, int]] = {None: address} | {r: (r.host, r.port) for r in rivals}
        tasks: dict[asyncio.Task[socket.socket], Rival | None] = {}
        taken: asyncio.Task[socket.socket] | None = None

        def start(rival: Rival | None) -> None:
            task = asyncio.create_task(_limited(dial(*addresses[rival]), seconds), name="smartroute-connect")
            tasks[task] = rival
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)

        waiting = list(rivals)
        start(None)
        try:
            while True:
                done, _ = await asyncio.wait(
                    [task for task in tasks if not task.done()],
                    timeout=patience if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in sorted(done, key=lambda task: tasks[task] is not None):  # the first choice first
                    rival = tasks[task]
                    if task.cancelled():
                        raise ConnectionAbortedError("the client was closed")
                    if rival is None:
                        taken = task
                        return task.result()
                    if task.exception() is None:
                        raise RaceLost(rival.name)
                if not done and waiting:
                    rival = waiting.pop(0)
                    if rival.idle():
                        raise RaceLost(rival.name)
                    start(rival)
        finally:
            for task, rival in tasks.items():
                if task is not taken:
                    self._save(addresses[rival], task)

    def _save(self, address: tuple[str, int], task: asyncio.Task[socket.socket]) -> None:
        """Make a spare of what a task has connected, or will have."""
        if not task.done():
            task.add_done_callback(lambda task: self._save(address, task))
        elif not task.cancelled() and task.exception() is None:
            self.spares.put(address, task.result())


async def _limited(dialling: Coroutine[Any, Any, socket.socket], seconds: float | None) -> socket.socket:
    """Connect in a time that does not depend on whether anybody still waits."""
    async with asyncio.timeout(LONGEST_DIAL if seconds is None else seconds):
        return await dialling


async def _dial(
    host: str, port: int, *, local_address: str | None, options: tuple[httpcore2.SOCKET_OPTION, ...]
) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    local: list[Any] | None = None
    if local_address is not None:
        local = await loop.getaddrinfo(local_address, 0, type=socket.SOCK_STREAM)
    sock = await aiohappyeyeballs.start_connection(
        found, local_addr_infos=local, happy_eyeballs_delay=HAPPY_EYEBALLS_DELAY
    )
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        prepare(sock, options)
        undo.pop_all()
    return sock
