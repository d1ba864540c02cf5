"""Connections: what both the sync and the async wire know of them."""

import select
import socket
import ssl
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from math import inf
from typing import Any

import httpcore2

from smartroute.policy.outcome import Failure
from smartroute.transport.watch import RegionDied, Watch

__all__ = [
    "LONGEST_DIAL",
    "Retirement",
    "Spares",
    "cause_of",
    "failure_of",
    "has_surplus",
    "is_dead",
    "is_readable",
    "is_refused_stream",
    "prepare",
]

RETIREMENT = 600.0
"""Seconds after which a connection serves no further request, or a vendor's DNS change is never seen."""
KEEP_ALIVE_AFTER = 10
"""Seconds without a segment after which the kernel asks whether the other end is there; and again every
`KEEP_ALIVE_EVERY`."""
KEEP_ALIVE_EVERY = 5
UNACKNOWLEDGED = 30
"""Seconds after which the kernel gives up a connection whose other end acknowledges nothing (TCP_USER_TIMEOUT): by then
four such questions went unanswered."""
MOST_RETRANSMISSIONS = 2
"""Times in a row that the kernel sends a request's bytes again in vain before their connection is taken for dead."""
REFUSED_STREAM = 7
OURS_REFUSED = (
    *("ALERT_CERTIFICATE_REQUIRED", "ALERT_BAD_CERTIFICATE", "ALERT_UNSUPPORTED_CERTIFICATE"),
    *("ALERT_CERTIFICATE_REVOKED", "ALERT_CERTIFICATE_EXPIRED", "ALERT_CERTIFICATE_UNKNOWN", "ALERT_UNKNOWN_CA"),
)
"""What a server says of a client's certificate, in OpenSSL's words (RFC 8446, 6.2)."""
LONGEST_DIAL = 30.0
"""Seconds for which a connection is tried that nobody waits for any more, where the caller set no limit."""
SPARE_TIME = 20.0
"""Seconds for which a connection is kept that was opened and not used."""


class Retirement:
    """Which connections should serve no further request: the old ones, and those fallen into doubt.

    Attributes:
        closed: none should, not even those that are being made: the client was closed.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.closed = False
        self._clock = clock
        self._doubted: dict[tuple[str, int], float] = {}

    def doubt(self, address: tuple[str, int]) -> None:
        """One kept connection to this address turned out to be dead: the others most likely are too."""
        self._doubted[address] = self._clock()

    def due(self, address: tuple[str, int], born: float) -> bool:
        """Whether a connection to this address that was made then has had its time."""
        return self._clock() - born > RETIREMENT or born <= self._doubted.get(address, -inf)


def is_dead(sock: Any) -> bool:
    """Whether the kernel has sent the same bytes again and again, and nothing was acknowledged (Linux only)."""
    if _TCP_INFO is None:
        return False
    retransmissions: int = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 8)[2]  # tcpi_retransmits
    return retransmissions >= MOST_RETRANSMISSIONS


def has_surplus(response: Any) -> bool:
    """Whether more came than a response of httpcore's, which would answer the connection's next request with it.

    Only a private attribute tells; a test notices should it be gone.
    """
    connection = getattr(getattr(getattr(response, "stream", None), "_stream", None), "_connection", None)
    state = getattr(connection, "_h11_state", None)
    return state is not None and bool(state.trailing_data[0])


def is_readable(sock: socket.socket | None) -> bool:
    """Whether reading would return at once: on an idle connection that means the server closed it."""
    fd = -1 if sock is None else sock.fileno()
    if fd < 0:
        return True
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([fd], [], [], 0)[0])
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def failure_of(error: BaseException, watch: Watch) -> Failure:
    """Name what went wrong, from httpcore's exception and what it was caused by."""
    cause = cause_of(error)
    if watch.expired:
        return Failure.DEADLINE
    if isinstance(cause, ssl.SSLError) and (cause.reason or "").endswith(OURS_REFUSED):
        return Failure.CLIENT_CERTIFICATE  # with TLS 1.3 that is read where the answer should be
    match error:
        case httpcore2.ConnectTimeout():
            return Failure.CONNECT_TIMEOUT
        case httpcore2.ConnectError() | httpcore2.ProxyError():
            if isinstance(cause, socket.gaierror):
                return Failure.DNS
            if isinstance(cause, ssl.SSLCertVerificationError):
                return Failure.CERTIFICATE
            return Failure.TLS if isinstance(cause, ssl.SSLError) else Failure.CONNECT
        case httpcore2.PoolTimeout():
            return Failure.POOL_TIMEOUT
        case httpcore2.TimeoutException():
            return Failure.READ_TIMEOUT
        case RegionDied():
            return Failure.SILENCE
        case httpcore2.NetworkError():
            return Failure.RESET
        case httpcore2.RemoteProtocolError() if watch.attempt.first_byte is None and "disconnected" in str(error):
            return Failure.RESET  # a reset too, where TLS hides it
        case _:
            return Failure.PROTOCOL


def cause_of(error: BaseException) -> BaseException | None:
    """What the system said; httpcore's own streams let what TLS says pass as it is."""
    return error if isinstance(error, ssl.SSLError) else error.__cause__ or error.__context__


def is_refused_stream(error: BaseException) -> bool:
    """Whether an HTTP/2 server says that it has not even looked at the request (RFC 9113, 8.7: REFUSED_STREAM)."""
    event = error.args[0] if isinstance(error, httpcore2.RemoteProtocolError) and error.args else None
    return getattr(event, "error_code", None) == REFUSED_STREAM


class Spares:
    """TCP connections that are open and unused: the losers of races, waiting for their next request.

    Not yet TLS: a TLS 1.3 server sends tickets at once, which would make a spare look closed.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._sockets: dict[tuple[str, int], list[tuple[socket.socket, float]]] = {}
        self._closed = False
        weakref.finalize(self, _close_all, self._sockets)  # a client may be forgotten instead of closed

    def put(self, address: tuple[str, int], sock: socket.socket) -> None:
        """Keep a connection; once closed, close it."""
        with self._lock:
            if not self._closed:
                self._sockets.setdefault(address, []).append((sock, self._clock()))
                return
        sock.close()

    def take(self, address: tuple[str, int]) -> socket.socket | None:
        """A connection that is still good, if there is one: the latest."""
        while self._sockets:
            with self._lock:
                kept = self._sockets.get(address)
                sock, since = kept.pop() if kept else (None, 0.0)
                if not kept:
                    self._sockets.pop(address, None)
            if sock is None or self._is_good(sock, since):
                return sock
            sock.close()
        return None

    def drop(self, address: tuple[str, int]) -> None:
        """Close those to an address: they may be as dead as a connection that was made with them."""
        with self._lock:
            kept = self._sockets.pop(address, [])
        for sock, _ in kept:
            sock.close()

    def sweep(self) -> None:
        """Close the connections that nobody wanted in time."""
        with self._lock:
            for address, kept in tuple(self._sockets.items()):
                good: list[tuple[socket.socket, float]] = []
                for sock, since in kept:
                    if self._is_good(sock, since):
                        good.append((sock, since))
                    else:
                        sock.close()
                if good:
                    self._sockets[address] = good
                else:
                    del self._sockets[address]

    def _is_good(self, sock: socket.socket, since: float) -> bool:
        return self._clock() - since < SPARE_TIME and not is_readable(sock)

    def close(self) -> None:
        """Close them all, and those still to come."""
        with self._lock:
            self._closed = True
            _close_all(self._sockets)


def _close_all(sockets: dict[tuple[str, int], list[tuple[socket.socket, float]]]) -> None:
    for kept in sockets.values():
        for sock, _ in kept:
            sock.close()
    sockets.clear()


_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_KERNEL_HELP = [
    (getattr(socket, name), value)
    for name, value in (
        ("TCP_KEEPIDLE", KEEP_ALIVE_AFTER),
        ("TCP_KEEPINTVL", KEEP_ALIVE_EVERY),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED * 1000),
    )
    if hasattr(socket, name)
]


def prepare(sock: socket.socket, options: Iterable[httpcore2.SOCKET_OPTION]) -> None:
    """Set the options every connection gets, and the caller's own.

    Between two requests a network may forget a connection, and in the middle of an answer a host may vanish: the kernel
    finds out (RFC 9293, 3.8.4; RFC 5482), as far as the platform can be told to.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KERNEL_HELP:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    set_option: Callable[..., None] = sock.setsockopt  # its overloads do not fit a union of tuples
    for option in options:
        set_option(*option)
