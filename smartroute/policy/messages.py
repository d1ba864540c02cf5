"""What a driver tells an exchange, and what the exchange answers.

Values without behaviour. Attempts carry numbers, so that events of two in flight can be told apart.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf
from typing import NamedTuple

from smartroute.policy.outcome import Failure, Rule
from smartroute.route import Kind, Route

__all__ = [
    "Answered",
    "Attempt",
    "Call",
    "Command",
    "Content",
    "Deliver",
    "Diverted",
    "Event",
    "Failed",
    "Gate",
    "Hold",
    "Quiet",
    "Raise",
    "Record",
    "Send",
    "Spoiled",
    "Wait",
    "Whole",
]


class Call(NamedTuple):
    """What routing needs to know of a request.

    Attributes:
        path: the path below the base URL.
        model: the model asked for, if the body names one.
        streaming: whether the answer is to be an event stream.
        size: bytes of the body.
        conversation: the affinity key, if any.
        addressed: the name of the route whose URL the caller used; None: the global endpoint's.
        pinned: the name of the endpoint that the caller insists on.
        regions: patterns of regions the caller allows for this request; empty: as configured.
        retry: which retry of the SDK's own this is; 0 for the first sending.
        patience: seconds for which the caller waits for a byte; after that nothing is sent again. None:
            for ever.
    """

    path: str
    model: str | None
    streaming: bool
    size: int
    conversation: str | None = None
    addressed: str | None = None
    pinned: str | None = None
    regions: tuple[str, ...] = ()
    retry: int = 0
    patience: float | None = None


@dataclass(slots=True, eq=False)
class Attempt:
    """One send of the request to one endpoint, and what became of it.

    The driver sets what only the wire knows (`sent` to `notes`); all else is the exchange's.

    Attributes:
        number: 1 for the first; a connection race that another route won leaves a gap.
        key: which of the endpoint's keys is used.
        until: when it must have brought an answer, in monotonic seconds; None: no limit of ours.
        headers: raw header pairs to send along (trace context).
        fresh: whether it must not use a connection that was open before.
        look_after: seconds after its departure when somebody should ask whether its route is alive; None: never.
        hedge_after: seconds after its departure from which on it is slow for its route; `hedge_due`: whether it was
            found so.
        overdue_after: seconds after its departure from which on it is overdue.
        overdue: whether it was found overdue; `slow`: so long that another attempt is worth a token, though its route
            is alive; `rescued`: whether another attempt was made in its stead.
        late: whether this process woke too late for its times to mean anything.
        check_at: when to feed `Quiet` if nothing has come by then, in monotonic seconds.
        sent: whether a byte of the request may have reached the endpoint.
        reused: whether it went over a connection that had served before.
        sent_at: when its first byte was written.
        first_byte: when the response's headers came.
        connect: seconds that its new TCP connection took; None on a kept one.
        certificate: from when until when the certificate of its new connection is valid, as Unix timestamps.
        size: bytes of its body that the caller received, in so many `chunks`.
        notes: response headers worth keeping (request id, vendor timings), names in lower case.
        content_at: when its first content (or its whole body) was in hand.
        wait: what its Retry-After asks for, in seconds.
        event_stream: whether its response says that it is one.
        error_status: the status code of its error, of the response or named by a first error event; `error_code`:
            what the error's body calls it.
    """

    number: int
    endpoint: Route
    key: int
    reason: str
    started: float
    until: float | None
    fresh: bool = False
    look_after: float | None = None
    hedge_after: float = inf
    hedge_due: bool = False
    overdue_after: float = inf
    overdue: bool = False
    slow: bool = False
    rescued: bool = False
    late: bool = False
    check_at: float | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    sent: bool = False
    reused: bool = False
    sent_at: float | None = None
    first_byte: float | None = None
    connect: float | None = None
    certificate: tuple[float, float] | None = None
    size: int = 0
    chunks: int = 0
    notes: tuple[tuple[str, str], ...] = ()
    content_at: float | None = None
    ended: float | None = None
    status: int | None = None
    failure: Failure | None = None
    detail: str = ""
    event_stream: bool = False
    error_status: int | None = None
    error_code: str | None = None
    rule: Rule | None = None
    wait: float | None = None

    def depart(self, now: float, *, reused: bool) -> None:
        """Its first byte goes out now."""
        self.sent, self.sent_at, self.reused = True, now, reused
        if self.look_after is not None:
            self.check_at = now + self.look_after

    @property
    def departed(self) -> float:
        """When it set out: with its first byte, or with its choice as long as it waits for a connection."""
        return self.started if self.sent_at is None else self.sent_at

    @property
    def on_global(self) -> bool:
        """Whether it went to the global endpoint."""
        return self.endpoint.kind is Kind.GLOBAL

    @property
    def stale(self) -> bool:
        """Whether a kept connection turned out to be closed: that says nothing about the endpoint."""
        return self.reused and self.failure is Failure.RESET and self.first_byte is None


class Record(NamedTuple):
    """What became of an attempt, for those who ask afterwards (`response.extensions["smartroute"]`)."""

    endpoint: str
    reason: str
    status: int | None
    failure: str | None
    detail: str
    seconds: float


class Gate(Enum):
    """How much of a response must be in hand before anybody decides about it."""

    FIRST_CONTENT = auto()
    """An event stream, up to its first content."""
    WHOLE = auto()
    """A body that fails over as long as it is not complete."""
    ERROR = auto()
    """An error's body: kept in case it is the best there is."""


# What the driver tells.


class Diverted(NamedTuple):
    """Nothing was sent: the connection to another route was ready first."""

    attempt: Attempt
    winner: str


class Failed(NamedTuple):
    """No response came."""

    attempt: Attempt
    failure: Failure
    detail: str


class Answered(NamedTuple):
    """The status and the headers came. `wait` is what Retry-After asks for, in seconds."""

    attempt: Attempt
    status: int
    wait: float | None
    event_stream: bool
    encoded: bool


class Content(NamedTuple):
    """The first content of a stream is in hand (or more than may be held back)."""

    attempt: Attempt


class Whole(NamedTuple):
    """The whole body is in hand."""

    attempt: Attempt


class Spoiled(NamedTuple):
    """The response went bad before its first content. `status`: what an error event named."""

    attempt: Attempt
    failure: Failure
    detail: str
    status: int | None = None


class Quiet(NamedTuple):
    """Nothing that counts has come of this attempt by its `check_at`."""

    attempt: Attempt


Event = Diverted | Failed | Answered | Content | Whole | Spoiled | Quiet


# What the exchange answers.


class Send(NamedTuple):
    """Send the request. If it needs a new connection, race the rivals' connections against it.

    Attributes:
        rivals: gives the endpoints to which the driver may open a connection as well, each `patience`
            seconds after the one before; the first connection that is ready gets the request (`Diverted`).
        handshake: seconds that TLS may take before the request goes to the first of the rivals (`Diverted`).
        beside: whether what is in flight already stays in flight: the first content wins.
    """

    attempt: Attempt
    rivals: Callable[[], tuple[Route, ...]]
    patience: float
    handshake: float
    beside: bool = False


class Hold(NamedTuple):
    """Read the response up to where the gate decides; hand nothing to the caller yet.

    `limit`: seconds that it may take; None: as long as the caller's timeouts allow.
    """

    attempt: Attempt
    gate: Gate
    limit: float | None = None


@dataclass(frozen=True, slots=True)  # no tuple: an empty one is false
class Wait:
    """Go on waiting for what is in flight."""


class Deliver(NamedTuple):
    """Hand this attempt's response to the caller, drop all others. `final`: tell the SDK that retrying cannot help."""

    attempt: Attempt
    final: bool = False


class Raise(NamedTuple):
    """Raise this attempt's exception."""

    attempt: Attempt


Command = Send | Hold | Wait | Deliver | Raise
