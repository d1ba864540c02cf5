"""What can go wrong with a region, as values: `region.set(Status(503, times=2), Slow(only="get"))`.

An answer is its head and then its *pieces*, and faults that strike in the middle count pieces. The
pieces of a stream are its events: in a chat the role-only delta, one delta for each token, the one
with the finish reason, the usage if asked for, `[DONE]`; a text completion has no role-only delta.
Any other answer has two pieces, the halves of its body.

Connections are refused by `region.stop()`, not answered at all by `region.stop(silently=True)`, and
those that are open are reset by `region.disconnect()`.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "CloseAfterAnswer",
    "Cut",
    "Drip",
    "EmptyStream",
    "EndWithoutDone",
    "ErrorEvent",
    "ExtraHeaders",
    "Fault",
    "GarbledEvent",
    "Gzip",
    "Moment",
    "Reset",
    "Script",
    "Silence",
    "Slow",
    "Stall",
    "Status",
    "TruncatedEvent",
]

Moment = Literal["accept", "request", "reuse", "answer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """Which requests a fault strikes; by default all of them.

    Attributes:
        only: those with this method (a probe is a GET), or those that ask for a stream.
        skip: of these, leave the first ones alone.
        every: of the others, strike every second, third, ...
        times: strike this often, then never again.
    """

    only: Literal["get", "post", "stream"] | None = None
    skip: int = 0
    every: int = 1
    times: int | None = None

    def concerns(self, method: str, *, streaming: bool) -> bool:
        """Whether `only` lets it strike such a request."""
        return streaming if self.only == "stream" else self.only in (None, method.lower())

    def strikes(self, nth: int) -> bool:
        """Whether it strikes the `nth` (from 1) of the requests that concern it."""
        turn, rest = divmod(nth - self.skip, self.every)
        return turn > 0 and not rest and (self.times is None or turn <= self.times)


@dataclass(frozen=True, slots=True)
class Reset(_Scope):
    """The connection is reset (a real RST).

    Attributes:
        at: `accept`: before a byte is read, or TLS begins (the client may still be connecting);
            `request`: when the request's head has arrived, its body unread; `reuse`: the same, but
            never for a connection's first request; `answer`: after the whole request was read,
            instead of an answer.
    """

    at: Moment = "answer"

    def __post_init__(self) -> None:
        _refuse_unknowable(self, self.at)


@dataclass(frozen=True, slots=True)
class Silence(_Scope):
    """Nothing is answered until the region is healed; then everything is, late.

    Attributes:
        at: `answer`: the request is accepted and read; `accept`: not a byte is read, and TLS hangs.
    """

    at: Literal["accept", "answer"] = "answer"

    def __post_init__(self) -> None:
        _refuse_unknowable(self, self.at)


@dataclass(frozen=True, slots=True)
class Slow(_Scope):
    """A brownout: everything takes `factor` times as long."""

    factor: float = 10.0


@dataclass(frozen=True, slots=True)
class Status(_Scope):
    """Another answer: an error, a redirect (`Status(302, {"location": ...})`), a page of a wrong type.

    Attributes:
        body: as it is, or a mapping sent as JSON; by default an OpenAI-style error, or nothing below 400.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Stall(_Scope):
    """After the head and so many pieces nothing more is sent, until the region is healed."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Cut(_Scope):
    """After the head and so many pieces the connection is closed, or reset: the answer is incomplete."""

    after: int = 0
    reset: bool = False


@dataclass(frozen=True, slots=True)
class ErrorEvent(_Scope):
    """A stream's event after so many pieces, and its last, is an error: a failure behind a 200."""

    after: int = 0
    error: Mapping[str, object] = field(
        default_factory=lambda: {"message": "the replica failed", "type": "server_error", "code": 503}
    )


@dataclass(frozen=True, slots=True)
class GarbledEvent(_Scope):
    """A stream's event after so many pieces is no JSON; the others are sent as if nothing had happened."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class TruncatedEvent(_Scope):
    """A stream ends in good order in the middle of the event after so many pieces."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class EmptyStream(_Scope):
    """A stream ends in good order without an event, or with `[DONE]` alone."""

    done: bool = False


@dataclass(frozen=True, slots=True)
class EndWithoutDone(_Scope):
    """A stream ends in good order after its last token, with or without a finish reason, without `[DONE]`."""

    finish: bool = True


@dataclass(frozen=True, slots=True)
class Drip(_Scope):
    """The body comes byte by byte, each in a chunk and a segment of its own, `interval` seconds apart."""

    interval: float = 0.0


@dataclass(frozen=True, slots=True)
class CloseAfterAnswer(_Scope):
    """The kept-alive connection is closed after the answer, without a `connection: close` to say so."""


@dataclass(frozen=True, slots=True)
class ExtraHeaders(_Scope):
    """The answer carries these headers too: `ExtraHeaders({"set-cookie": "a=b"})`."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Gzip(_Scope):
    """The body is compressed, whether asked for or not; a stream event by event."""


Fault = (
    Reset
    | Silence
    | Slow
    | Status
    | Stall
    | Cut
    | ErrorEvent
    | GarbledEvent
    | EmptyStream
    | EndWithoutDone
    | Drip
    | CloseAfterAnswer
    | ExtraHeaders
    | Gzip
    | TruncatedEvent
)


def _refuse_unknowable(fault: _Scope, at: Moment) -> None:
    """A method is known once the head has arrived, and whether a stream is wanted once the body has."""
    if (at == "accept" and fault.only) or (at != "answer" and fault.only == "stream"):
        raise ValueError(f"only={fault.only!r} cannot be known at {at!r}")


class Script:
    """The faults set on a region, and how many requests each has seen.

    Attributes:
        healed: set when the region is healed, for those that wait.
    """

    def __init__(self, faults: Iterable[Fault], healed: asyncio.Event) -> None:
        self._faults = [(fault, fault.at if isinstance(fault, Reset | Silence) else "answer") for fault in faults]
        self._counts = [0] * len(self._faults)
        self.healed = healed

    def due(self, moment: Moment, method: str = "", *, streaming: bool = False) -> list[Fault]:
        """The faults that strike now, in the order they were set. Each call counts as one request."""
        struck: list[Fault] = []
        for index, (fault, at) in enumerate(self._faults):
            if at == moment and fault.concerns(method, streaming=streaming):
                self._counts[index] += 1
                if fault.strikes(self._counts[index]):
                    struck.append(fault)
        return struck
