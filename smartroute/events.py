"""What happened, as frozen values, and who wants to know.

The router tells its listeners of everything it decides and sees. Telemetry is one listener; an
application may subscribe its own with `Router.subscribe`. Events never carry a key, a prompt or a
completion, and no query string. Durations are in seconds.
"""

from dataclasses import dataclass
from typing import Protocol

from smartroute.policy.outcome import Failure
from smartroute.policy.selection import Candidate
from smartroute.route import Route

__all__ = [
    "AttemptEnded",
    "AttemptStarted",
    "BreakerChanged",
    "Event",
    "ExchangeEnded",
    "ExchangeStarted",
    "IncumbentChanged",
    "Listener",
    "PassedThrough",
    "ProbeEnded",
]


@dataclass(frozen=True, slots=True)
class ExchangeStarted:
    """A request was accepted for routing.

    Emitted in the thread or task of the caller, so that a listener finds the caller's context.

    Attributes:
        exchange: a number that the events of one exchange share; unique in the process.
        path: the path below the base URL (`/chat/completions`).
        candidates: the ranking, best first; after it who is not asked.
        reason: why the first is the first (`Candidate.reason`).
    """

    exchange: int
    path: str
    model: str | None
    streaming: bool
    candidates: tuple[Candidate, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """The request is about to be sent to an endpoint.

    Attributes:
        attempt: 1 for the first attempt of the exchange.
        url: where to, without a query string.
        reason: why this endpoint: that of the exchange, or `failover`, `next_key`, `stale_connection`,
            `connection_race`, `rescue` (beside an attempt whose route is silent).
        headers: raw header pairs that a listener may add to (`traceparent`); they are sent along.
        resends: how often the request was sent before, in this exchange.
    """

    exchange: int
    attempt: int
    endpoint: Route
    method: str
    url: str
    reason: str
    headers: list[tuple[bytes, bytes]]
    resends: int = 0


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt is over: it failed, or its response was read to the end or closed.

    Attributes:
        status: the status code, if a response came.
        failure: why it failed; None if it did not.
        detail: the failure in words, for people.
        first_byte: from the start of the attempt to the response's headers.
        first_content: from the start of the attempt to the first content handed to the caller.
        stream: how the body ended: `complete`, `closed` (by the caller, before its end),
            `interrupted`, `discarded`; None without a body. `diverted`: nothing was sent, because the
            connection to another endpoint was ready first. `superseded`: another attempt of the exchange
            brought content first.
        size: bytes of the body that the caller received.
        headers: response headers worth keeping (request id, vendor timings), names in lower case.
    """

    exchange: int
    attempt: int
    endpoint: Route
    status: int | None
    failure: Failure | None
    detail: str
    first_byte: float | None
    first_content: float | None
    stream: str | None
    size: int
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ExchangeEnded:
    """The whole journey is over, the response's body included.

    Attributes:
        outcome: `answered`, `failed` (the caller got an error), `interrupted` (after the first
            content) or `cancelled`.
        endpoint: which endpoint's answer the caller got, if any.
        attempts: how many attempts were made.
        fallback: whether the answer came from the global endpoint though direct routes are configured.
        duration: from accepting the request to the end of the body.
    """

    exchange: int
    outcome: str
    endpoint: Route | None
    attempts: int
    fallback: bool
    duration: float


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """A route's health changed. `exchange` is the one that caused it, None for a probe."""

    route: Route
    before: str
    after: str
    cause: str
    exchange: int | None


@dataclass(frozen=True, slots=True)
class ProbeEnded:
    """A background probe is over. `round_trip` is None if the route did not answer in health.

    `fresh`: it was a verification, on a connection of its own, because the route owed an answer.
    """

    route: Route
    round_trip: float | None
    failure: str | None
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class IncumbentChanged:
    """Requests go to another route by default from now on; None: there was none."""

    before: Route | None
    after: Route


@dataclass(frozen=True, slots=True)
class PassedThrough:
    """A request to a routed path went to where it was addressed, as it was, and is never sent again.

    Attributes:
        path: the path below the base URL.
        reason: why no route gets it: `its body cannot be sent again` (a stream, a file, a form), `its body is no JSON
            object`, `no route serves its model`.
    """

    path: str
    reason: str


Event = (
    ExchangeStarted
    | AttemptStarted
    | AttemptEnded
    | ExchangeEnded
    | BreakerChanged
    | ProbeEnded
    | IncumbentChanged
    | PassedThrough
)


class Listener(Protocol):
    """Anything that can be told of an event.

    It may have an attribute `active`: while it is false for every listener, no events of exchanges are
    made.

    It is called in the thread or task where the event happened, never under a lock, and should be
    quick. An exception it raises is logged once and costs no request.
    """

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""
