"""One attempt as the wire sees it: what it may wait for, and what is to be done while it waits.

Pools hand a request's timeouts unchanged to the network stream. `Limit` is a float that carries
the attempt along, so the stream knows whose bytes it writes, and can end a wait or divert a request to
a connection that is ready sooner: without a callback, a thread or a wrapper on the healthy path.
"""

import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import httpcore2

from smartroute.policy.messages import Attempt, Deliver, Raise
from smartroute.policy.patience import LATE, LOOK

__all__ = [
    "ConnectionDied",
    "Limit",
    "Overtaken",
    "RaceLost",
    "RegionDied",
    "Rival",
    "Superseded",
    "Unwinding",
    "Watch",
    "allowance",
    "deadline",
    "handshake_limit",
    "listening",
    "note_certificate",
    "note_write",
    "timeouts",
]

GLANCE = 0.02
"""Seconds between two glances at what an attempt says that another is made in the stead of."""
HUSH = 5.0
"""Seconds of silence in the middle of an answer after which it is asked whether its route is alive."""
MOST_BEFORE_HEAD = 256 * 1024
"""Bytes that may come before the head of a response is whole: httpcore takes 100 kB of it."""


class RaceLost(Exception):  # noqa: N818 - control flow, not an error
    """Raised from within a connect: another route's connection was ready first, or may be. Nothing was sent."""

    def __init__(self, winner: str) -> None:
        self.winner = winner
        super().__init__(winner)


class Rival(NamedTuple):
    """An endpoint whose connection may be raced; `idle` tells whether it has one that is ready."""

    name: str
    host: str
    port: int
    idle: Callable[[], bool]


@dataclass(slots=True, eq=False)
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
    seconds = float(timeout)  # on its own: who keeps it keeps nothing of the request
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


def listening(timeout: Limit, hush: Callable[[float], None]) -> Iterator[float]:
    """How many seconds to listen for more of an answer, each time that nothing came: up to the caller's own limit.

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


def note_certificate(timeout: float | None, secured: ssl.SSLSocket | ssl.SSLObject | None) -> None:
    """Note on the attempt how long the certificate of its new connection is valid."""
    if type(timeout) is not Limit or secured is None:
        return
    certificate = secured.getpeercert() or {}  # nothing where nobody verifies it
    begins, ends = certificate.get("notBefore"), certificate.get("notAfter")
    if isinstance(begins, str) and isinstance(ends, str):
        timeout.watch.attempt.certificate = ssl.cert_time_to_seconds(begins), ssl.cert_time_to_seconds(ends)


def note_write(timeout: float | None, served: int) -> bool:
    """Note on the attempt that its bytes go out over a connection that served so many requests before.

    Returns:
        whether these are the attempt's first bytes.
    """
    if type(timeout) is not Limit or timeout.watch.attempt.sent:
        return False
    timeout.watch.attempt.depart(timeout.watch.clock(), reused=served > 0)
    return True
