"""Connections: what both the sync and the async wire need.

httpcore hands a request's timeouts unchanged to the network stream. `Limit` is a float that carries
the attempt along, so the stream knows whose bytes it writes, and can end a wait or divert a request to
a connection that is ready sooner: without a callback, a thread or a wrapper on the healthy path.
"""

import select
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import httpcore2

from smartroute.policy.messages import Attempt, Deliver, Raise
from smartroute.policy.outcome import Failure
from smartroute.policy.patience import LATE, LOOK

__all__ = [
    "LONGEST_DIAL",
    "ConnectionDied",
    "Diverted",
    "Limit",
    "Overtaken",
    "RegionDied",
    "Retirement",
    "Rival",
    "Spares",
    "Superseded",
    "Unwinding",
    "Watch",
    "allowance",
    "deadline",
    "failure_of",
    "handshake_limit",
    "is_dead",
    "is_readable",
    "is_refused_stream",
    "listening",
    "note_write",
    "prepare",
    "timeouts",
]

RETIREMENT = 600.0
"""Seconds after which a connection serves no further request, or a vendor's DNS change is never seen."""
GLANCE = 0.02
"""Seconds between two glances at what an attempt says that another is made in the stead of."""
HUSH = 5.0
"""Seconds of silence in the middle of an answer after which it is asked whether its route is alive."""
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
MOST_BEFORE_HEAD = 256 * 1024
"""Bytes that may come before the head of a response is whole: httpcore takes 100 kB of it."""
LONGEST_DIAL = 30.0
"""Seconds for which a connection is tried that nobody waits for any more, where the caller set no limit."""
SPARE_TIME = 20.0
"""Seconds for which a connection is kept that was opened and not used."""


class Diverted(Exception):  # noqa: N818 - control flow, not an error
    """Raised from within a connect: another route's connection was ready first. Nothing was sent."""

    def __init__(self, winner: str) -> None:
        self.winner = winner
        super().__init__(winner)


@dataclass(frozen=True, slots=True)
class Rival:
    """An endpoint whose connection may be raced; `idle` tells whether it has one that is ready."""

    name: str
    host: str
    port: int
    idle: Callable[[], bool]


@dataclass(slots=True)
class Watch:
    """The wire's view of one attempt.

    Attributes:
        rivals: who else may be connected to; asked only when a new connection is needed.
        patience: seconds before the first rival, and between rivals; `handshake`: for TLS, before the first of them.
        until: when reading must have succeeded, in the clock's seconds; None: no limit of ours.
        quiet: what to do when nothing has come by the attempt's `check_at`; it may raise `Superseded`.
        hush: what to do when nothing more has come of an answer since some moment; it may raise `RegionDied`.
        earlier: attempts beside which this one is made. Nobody reads from them meanwhile; `glanced`: when somebody last
            glanced at what they say.
        before_head: bytes that came before the response's head was whole.
        ahead: what has come since nobody reads, in raw bytes; `begins`: whether that is the beginning of an answer.
    """

    attempt: Attempt
    clock: Callable[[], float]
    rivals: Callable[[], Sequence[Rival]] = tuple
    patience: float = 0.0
    handshake: float = inf
    until: float | None = None
    quiet: Callable[[], Any] | None = None
    hush: Callable[[float], None] | None = None
    earlier: "Sequence[Watch]" = ()
    ahead: Callable[[], bytes] = bytes
    begins: Callable[[bytes], bool] = bool
    glanced: float = -inf
    before_head: int = 0

    @property
    def looked_after(self) -> bool:
        """Whether something is to be done if nothing comes."""
        return self.quiet is not None and (self.attempt.check_at is not None or bool(self.earlier))

    @property
    def look_due(self) -> bool:
        """Whether it is to be done now."""
        return self.attempt.check_at is not None and self.clock() >= self.attempt.check_at

    def turn(self, ends: float) -> float | None:
        """How many seconds to wait, up to `ends` or to the next look; None: any number.

        Never none at all: what has come already is heard, however late it is.

        Raises:
            Overtaken: an earlier attempt is being answered.
        """
        now, check_at = self.clock(), self.attempt.check_at
        ends = ends if check_at is None else min(ends, check_at)
        timely, self.glanced = now - self.glanced < LATE, now
        for other in self.earlier:
            if other.begins(other.ahead()):
                raise Overtaken(other.attempt, timely=timely)
            ends = min(ends, now + GLANCE)
        return None if ends == inf else max(ends - now, 0.001)

    def heard(self, size: int) -> None:
        """So many bytes have come. If they were noticed too late, so were others: their times mean nothing.

        Raises:
            RemoteProtocolError: they are still no response: informational ones (RFC 9110, 15.2) may come without end.
        """
        check_at = self.attempt.check_at
        if check_at is not None and self.clock() > check_at + LATE:
            self.attempt.late = True
        if self.attempt.first_byte is None:
            self.before_head += size
            if self.before_head > MOST_BEFORE_HEAD:
                raise httpcore2.RemoteProtocolError("informational responses without end")

    def hasten(self, seconds: float) -> None:
        """From now on reading may take so long at the most."""
        limit = self.clock() + seconds
        self.until = limit if self.until is None else min(self.until, limit)

    @property
    def expired(self) -> bool:
        """Whether our own limit has passed."""
        return self.until is not None and self.clock() >= self.until


class ConnectionDied(httpcore2.ReadError):
    """A connection that had served before is dead: a network between the two ends has forgotten it."""

    def __init__(self) -> None:
        super().__init__("nothing of the request was acknowledged: the connection is dead")


class RegionDied(httpcore2.ReadError):
    """An answer stopped in the middle, and its route is proven dead."""

    def __init__(self) -> None:
        super().__init__("the answer stopped in the middle, and its region does not answer any more")


class Unwinding(Exception):  # noqa: N818 - control flow, not an error
    """Raised from within a read, for those below it."""


class Superseded(Unwinding):
    """While this attempt was waited for, another one brought the answer, or the end."""

    def __init__(self, command: Deliver | Raise) -> None:
        self.command = command
        super().__init__(command)


class Overtaken(Unwinding):
    """An attempt beside which this one was made is answered after all. `timely`: it was noticed at once."""

    def __init__(self, attempt: Attempt, *, timely: bool) -> None:
        self.attempt = attempt
        self.timely = timely
        super().__init__(attempt)


class Limit(float):
    """A timeout in seconds (infinite for none) that carries the attempt it belongs to."""

    __slots__ = ("watch",)
    watch: Watch


def timeouts(given: dict[str, float | None], watch: Watch) -> dict[str, float | None]:
    """The caller's timeouts, carrying the attempt."""
    limits: dict[str, float | None] = {}
    for phase in ("connect", "read", "write"):
        seconds = given.get(phase)
        limit = limits[phase] = Limit(inf if seconds is None else seconds)
        limit.watch = watch
    limits["pool"] = given.get("pool")
    return limits


def allowance(timeout: float | None) -> float | None:
    """How many seconds an operation may take now; None: any number.

    Raises:
        TimeoutError: the attempt's own time is up.
    """
    if type(timeout) is not Limit:
        return timeout
    seconds: float = timeout
    watch = timeout.watch
    if watch.until is not None:
        left = watch.until - watch.clock()
        if left <= 0:
            raise TimeoutError("the deadline of the request has passed")
        seconds = min(seconds, left)
    return None if seconds == inf else seconds


def handshake_limit(timeout: float | None) -> tuple[float | None, str | None]:
    """How many seconds a TLS handshake may take (None: any number), and to whom the request goes if it takes longer.

    Raises:
        TimeoutError: the attempt's own time is up.
    """
    seconds = allowance(timeout)
    if type(timeout) is Limit and (seconds is None or timeout.watch.handshake < seconds):
        for rival in timeout.watch.rivals():
            return timeout.watch.handshake, rival.name
    return seconds, None


def deadline(timeout: Limit) -> float:
    """When an operation that begins now must be over, in the clock's seconds."""
    seconds = allowance(timeout)
    return inf if seconds is None else timeout.watch.clock() + seconds


def listening(timeout: Limit, hush: Callable[[float], None]) -> Iterator[float | None]:
    """How long to listen for more of an answer, each time that nothing came: up to the caller's own limit.

    Yields:
        seconds; None: any number.

    Raises:
        RegionDied: nothing more will come.
        TimeoutError: the time is up.
    """
    clock = timeout.watch.clock
    since, ends, pause = clock(), deadline(timeout), HUSH
    left = ends - since
    while left > 0:
        yield min(pause, left)
        hush(since)
        pause, left = LOOK, ends - clock()
    raise TimeoutError("the server did not go on in time")


def note_write(timeout: float | None, served: int) -> bool:
    """Note on the attempt that its bytes go out over a connection that served so many requests before.

    Returns:
        whether these are the attempt's first bytes.
    """
    if type(timeout) is not Limit or timeout.watch.attempt.sent:
        return False
    timeout.watch.attempt.depart(timeout.watch.clock(), reused=served > 0)
    return True


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
    cause = error.__cause__ or error.__context__
    if watch.expired:
        return Failure.DEADLINE
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

    def put(self, address: tuple[str, int], sock: socket.socket) -> None:
        """Keep a connection; once closed, close it."""
        with self._lock:
            if not self._closed:
                self._sockets.setdefault(address, []).append((sock, self._clock()))
                return
        sock.close()

    def take(self, address: tuple[str, int]) -> socket.socket | None:
        """A connection that is still good, if there is one."""
        if not self._sockets:
            return None
        with self._lock:
            kept = self._sockets.pop(address, [])
        found: socket.socket | None = None
        for sock, since in reversed(kept):
            if found is None and self._clock() - since < SPARE_TIME and not is_readable(sock):
                found = sock
            elif found is not None:
                self.put(address, sock)
            else:
                sock.close()
        return found

    def sweep(self) -> None:
        """Close the connections that nobody wanted in time."""
        for address in tuple(self._sockets):
            sock = self.take(address)
            if sock is not None:
                self.put(address, sock)

    def close(self) -> None:
        """Close them all, and those still to come."""
        with self._lock:
            self._closed = True
            kept = [sock for socks in self._sockets.values() for sock, _ in socks]
            self._sockets.clear()
        for sock in kept:
            sock.close()


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
