"""The sync wire: plain sockets under the sync pools, ours and httpcore's."""

import contextlib
import errno
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any
from weakref import WeakSet

import httpcore2

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

__all__ = ["SyncWire"]

Dial = Callable[[str, int], socket.socket]

MOST_AHEAD = 64 * 1024
"""Bytes read for those who do not read at the moment."""


class SyncStream(httpcore2.NetworkStream):
    """One connection. Counts the requests it serves and notes their first bytes."""

    def __init__(self, sock: socket.socket, address: tuple[str, int], retirement: Retirement, born: float) -> None:
        self._sock = sock
        self._address = address
        self._retirement = retirement
        self._born = born
        self._served = 0
        self._ahead = b""
        self._process = os.getpid()
        self._in_use = self._closed = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._ahead:
            return self._take_ahead(max_bytes)
        self._in_use = True
        try:
            if self._closed:
                return b""
            if type(timeout) is Limit and timeout.watch.looked_after:
                return self._look_after(max_bytes, timeout)
            if type(timeout) is Limit and (hush := timeout.watch.hush):
                return self._listen(max_bytes, timeout, hush)
            self._sock.settimeout(allowance(timeout))
            return self._sock.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error
        finally:
            self._in_use = False
            if self._closed:
                self._sock.close()

    def _look_after(self, max_bytes: int, timeout: Limit) -> bytes:
        """Read, and do what is to be done while nothing comes."""
        watch, ends = timeout.watch, deadline(timeout)
        watch.ahead = self._read_ahead
        while True:
            self._sock.settimeout(watch.turn(ends))
            try:
                data = self._sock.recv(max_bytes)
            except TimeoutError:
                if watch.clock() >= ends:
                    raise
            else:
                watch.heard(len(data))
                return data
            if watch.look_due and watch.quiet is not None:
                if watch.attempt.reused and is_dead(self._sock):
                    raise ConnectionDied
                watch.quiet()
                if self._ahead:
                    return self._take_ahead(max_bytes)

    def _listen(self, max_bytes: int, timeout: Limit, hush: Callable[[float], None]) -> bytes:
        """Read more of an answer. If nothing comes for long, find out whether its route is alive."""
        for seconds in listening(timeout, hush):
            self._sock.settimeout(seconds)
            with contextlib.suppress(TimeoutError):  # how long to go on is said by `listening`
                return self._sock.recv(max_bytes)
        raise AssertionError("it goes on until something comes, or an exception")

    def _read_ahead(self) -> bytes:
        """What has come since nobody reads; it is kept for whoever does."""
        with contextlib.suppress(OSError):  # nothing more for now, or never: who reads will find out
            self._sock.settimeout(0)
            while len(self._ahead) < MOST_AHEAD and (data := self._sock.recv(MOST_AHEAD)):
                self._ahead += data
        return self._ahead

    def _take_ahead(self, max_bytes: int) -> bytes:
        data, self._ahead = self._ahead[:max_bytes], self._ahead[max_bytes:]
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._served += note_write(timeout, self._served)
        view = memoryview(buffer)
        self._in_use = True
        try:
            self._insist_on_open()
            while view:
                self._sock.settimeout(allowance(timeout))
                view = view[self._sock.send(view) :]
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error
        finally:
            self._in_use = False
            if self._closed:
                self._sock.close()

    def close(self) -> None:
        self._closed = True
        if is_ours := os.getpid() == self._process:  # in a child process the connection is the parent's
            with contextlib.suppress(OSError):  # not connected any more
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # wakes a thread that reads, and leaves it its TLS
        # Under another thread's hands its number might be that of a new connection before the thread looks, and what
        # comes there be taken for what should come here. That thread closes it.
        if not (is_ours and self._in_use):
            self._sock.close()

    def _insist_on_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        winner = None
        try:
            seconds, winner = handshake_limit(timeout)
            self._sock.settimeout(seconds)
            secured = ssl_context.wrap_socket(self._sock, server_hostname=server_hostname)
            self._sock = secured
            note_certificate(timeout, secured)
        except TimeoutError as error:
            self.close()
            if winner is not None:
                raise RaceLost(winner) from error
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            self.close()
            raise httpcore2.ConnectError(str(error)) from error
        except BaseException:
            self.close()
            raise
        if self._retirement.closed:
            self.close()
            raise httpcore2.ConnectError("the client was closed")
        return self

    def get_extra_info(self, info: str) -> Any:
        match info:
            case "is_readable":
                return bool(self._ahead) or self._retirement.due(self._address, self._born) or is_readable(self._sock)
            case "socket":
                return self._sock
            case "ssl_object":
                return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
            case "client_addr":
                return self._sock.getsockname()
            case "server_addr":
                return self._sock.getpeername()
            case _:
                return None


class SyncWire(httpcore2.NetworkBackend):
    """Opens connections, racing those of rival routes when the first is slow to come.

    Knows all that it has made: between its being made and a pool's taking it, nobody else could close it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.spares = Spares(clock)
        self.retirement = Retirement(clock)
        self._lock = threading.Lock()
        self._made: WeakSet[SyncStream | SyncWire] = WeakSet()

    def fresh(self) -> "SyncWire":
        """A wire that has nothing yet, for a connection that must be new. It is closed with this one at the latest."""
        wire = SyncWire(self._clock)
        self._keep(wire)
        return wire

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        sock = self.spares.take((host, port))
        if sock is None:
            started = self._clock()
            try:
                seconds = allowance(timeout)
                source = None if local_address is None else (local_address, 0)
                dial = partial(_dial, source=source, options=tuple(socket_options or ()))
                watch = timeout.watch if type(timeout) is Limit else None
                if watch is not None and (rivals := watch.rivals()):
                    limited = partial(dial, seconds=LONGEST_DIAL if seconds is None else seconds)
                    sock = self._race(limited, (host, port), seconds, rivals, watch.patience)
                else:
                    sock = dial(host, port, seconds=seconds)
            except TimeoutError as error:
                raise httpcore2.ConnectTimeout(str(error)) from error
            except OSError as error:
                raise httpcore2.ConnectError(str(error)) from error
            if watch is not None:
                watch.attempt.connect = self._clock() - started
        stream = SyncStream(sock, (host, port), self.retirement, self._clock())
        if not self._keep(stream):  # closed meanwhile
            raise httpcore2.ConnectError("the client was closed")
        return stream

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self.retirement.closed = True
            made = list(self._made)
        self.spares.close()
        for each in made:
            each.close()

    def _keep(self, made: "SyncStream | SyncWire") -> bool:
        with self._lock:
            if not self.retirement.closed:
                self._made.add(made)
                return True
        made.close()
        return False

    def _race(
        self, dial: Dial, address: tuple[str, int], seconds: float | None, rivals: Sequence[Rival], patience: float
    ) -> socket.socket:
        """Connect, or find that a rival is ready sooner.

        Each connection is made by a thread of its own: nothing else ends a wait for the resolver. It
        is paid once per connection, not per request. What is ready too late becomes a spare.
        """
        waiting = list(rivals)
        until = None if seconds is None else self._clock() + seconds
        race = _Race(dial, self.spares)
        race.start(None, address)
        try:
            while True:
                wait = None if until is None else max(until - self._clock(), 0.0)
                if waiting:
                    wait = patience if wait is None else min(wait, patience)
                try:
                    rival, made = race.ready.get(timeout=wait)
                except Empty:
                    if not waiting:
                        raise TimeoutError(f"no connection to {address[0]} in time") from None
                    rival = waiting.pop(0)
                    if rival.idle():
                        raise RaceLost(rival.name) from None
                    race.start(rival, (rival.host, rival.port))
                    continue
                if rival is not None and isinstance(made, socket.socket):
                    self.spares.put((rival.host, rival.port), made)
                    raise RaceLost(rival.name)
                if rival is None:
                    if isinstance(made, OSError):
                        raise made
                    return made
        finally:
            race.end()


class _Race:
    """Connections being made at the same time, each by a thread that may outlive the race."""

    def __init__(self, dial: Dial, spares: Spares) -> None:
        self.ready: SimpleQueue[tuple[Rival | None, socket.socket | OSError]] = SimpleQueue()
        self._dial = dial
        self._spares = spares
        self._lock = threading.Lock()
        self._addresses: dict[Rival | None, tuple[str, int]] = {}
        self._over = False

    def start(self, rival: Rival | None, address: tuple[str, int]) -> None:
        """Connect to an address; the result comes to `ready`."""
        self._addresses[rival] = address
        thread = threading.Thread(target=self._run, args=(rival, address), name="smartroute-connect", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is going down
            if rival is None:
                self._run(rival, address)

    def end(self) -> None:
        """Nobody waits any more: what comes now, or came unseen, is a spare."""
        with self._lock:
            self._over = True
        while not self.ready.empty():
            rival, made = self.ready.get()
            if isinstance(made, socket.socket):
                self._spares.put(self._addresses[rival], made)

    def _run(self, rival: Rival | None, address: tuple[str, int]) -> None:
        try:
            made: socket.socket | OSError = self._dial(*address)
        except OSError as error:
            made = error
        with self._lock:
            if not self._over:
                self.ready.put((rival, made))
                return
        if isinstance(made, socket.socket):
            self._spares.put(address, made)


def _dial(
    host: str,
    port: int,
    *,
    seconds: float | None,
    source: tuple[str, int] | None,
    options: tuple[httpcore2.SOCKET_OPTION, ...],
) -> socket.socket:
    sock = socket.create_connection((host, port), seconds, source_address=source)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        prepare(sock, options)
        undo.pop_all()
    return sock
