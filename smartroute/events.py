"""What happened, as frozen values, and who wants to know.

The router tells its listeners of everything it decides and sees. Telemetry is one listener; an
application may subscribe its own with `Router.subscribe`. Events never carry a key, a prompt or a
completion, and no query string. Durations are in seconds.
"""

from typing import NamedTuple, Protocol

from smartroute.policy.outcome import Failure
from smartroute.policy.selection import Candidate
from smartroute.route import Route

__all__ = [
    "AttemptEnded",
    "AttemptOverdue",
    "AttemptStarted",
    "BreakerChanged",
    "CertificateExpiring",
    "CertificateRefused",
    "ConnectivityChanged",
    "Cooled",
    "Event",
    "ExchangeEnded",
    "ExchangeStarted",
    "IncumbentChanged",
    "KeyRefused",
    "Listener",
    "PassedThrough",
    "ProbeEnded",
    "Quarantined",
    "VerificationStarted",
]


class ExchangeStarted(NamedTuple):
    """A request was accepted for routing.

    Emitted in the thread or task of the caller, so that a listener finds the caller's context.

    Attributes:
        exchange: a number that the events of one exchange share; unique in the process.
        path: the path below the base URL (`/chat/completions`).
        candidates: the ranking, best first; after it who is not asked. Of many the first eight.
        reason: why the first is the first (`Candidate.reason`).
    """

    exchange: int
    path: str
    model: str | None
    streaming: bool
    candidates: tuple[Candidate, ...]
    reason: str


class AttemptStarted(NamedTuple):
    """The request is about to be sent to an endpoint.

    Attributes:
        attempt: 1 for the first attempt of the exchange.
        url: where to, without a query string.
        reason: why this endpoint: that of the exchange, or `failover`, `next_key`, `stale_connection`,
            `connection_race`, `rescue` (beside an attempt whose route is silent), `hedge` (beside one that is slow).
        headers: raw header pairs that a listener may add to (`traceparent`); those that may travel are sent along.
        candidate: what was known of the endpoint when it was chosen, where that is not what the exchange began with.
        model: the model that it is asked for.
        resends: how often the request was sent before, in this exchange.
    """

    exchange: int
    attempt: int
    endpoint: Route
    method: str
    url: str
    reason: str
    headers: list[tuple[bytes, bytes]]
    candidate: Candidate | None = None
    model: str | None = None
    resends: int = 0

    def __repr__(self) -> str:
        return _without_headers(self)


class AttemptOverdue(NamedTuple):
    """Nothing has come of an attempt in the time that it should have taken. `waited`: how long that is."""

    exchange: int
    attempt: int
    endpoint: Route
    waited: float


class AttemptEnded(NamedTuple):
    """An attempt is over: it failed, or its response was read to the end or closed.

    Attributes:
        status: the status code, if a response came.
        failure: why it failed; None if it did not.
        detail: the failure in words, for people.
        duration: from the start of the attempt to its end.
        reused: whether it went over a connection that had served before.
        departed: from the start of the attempt to its first byte (a new connection takes its round trips here).
        first_byte: from the start of the attempt to the response's headers.
        first_content: from the start of the attempt to the first content handed to the caller.
        stream: how the body ended: `complete`, `closed` (by the caller, before its end),
            `interrupted`, `discarded`; None without a body. `diverted`: nothing was sent, because the
            connection to another endpoint was ready first. `superseded`: another attempt of the exchange
            brought content first.
        size: bytes of the body that the caller received, in so many `chunks`.
        headers: response headers worth keeping (request id, vendor timings), names in lower case.
    """

    exchange: int
    attempt: int
    endpoint: Route
    status: int | None
    failure: Failure | None
    detail: str
    duration: float
    reused: bool
    departed: float | None
    first_byte: float | None
    first_content: float | None
    stream: str | None
    size: int
    chunks: int
    headers: tuple[tuple[str, str], ...]


class ExchangeEnded(NamedTuple):
    """The whole journey is over, the response's body included.

    Attributes:
        outcome: `answered`, `failed` (the caller got an error), `interrupted` (after the first
            content) or `cancelled`.
        endpoint: which endpoint's answer the caller got, if any. `delivered`: by which attempt.
        attempts: how many attempts were made.
        first_content: from accepting the request to the first content handed to the caller.
        stopped: why no further attempt was made, where it failed: `answer` (nobody else's would be another),
            `second_opinion` (somebody else said the same), `budget`, `deadline`, `sdk_retry` (the SDK's own retries
            must not multiply ours), `pinned`, `exhausted` (nobody was left).
        fallback: whether the answer came from the global endpoint though direct routes are configured.
        duration: from accepting the request to the end of the body.
    """

    exchange: int
    outcome: str
    endpoint: Route | None
    attempts: int
    fallback: bool
    duration: float
    delivered: int | None = None
    first_content: float | None = None
    stopped: str | None = None


class BreakerChanged(NamedTuple):
    """A route's health changed. `exchange` or `verification` is the one that caused it; None for other probes."""

    route: Route
    before: str
    after: str
    cause: str
    exchange: int | None
    verification: int | None = None


class VerificationStarted(NamedTuple):
    """A probe on a fresh connection is on its way, because exchanges wait for its route.

    Attributes:
        verification: its number, unique in the process.
        url: what it GETs.
        headers: raw header pairs that a listener may add to; those that may travel are sent along.
        exchanges: the numbers of the exchanges that asked for it, the first in front.
    """

    verification: int
    route: Route
    url: str
    headers: list[tuple[bytes, bytes]]
    exchanges: tuple[int, ...]

    def __repr__(self) -> str:
        return _without_headers(self)


class ProbeEnded(NamedTuple):
    """A probe is over.

    Attributes:
        round_trip: None if the route did not answer in health.
        failure: the class of the failure, or the status code; None if it did not fail. `detail`: in words.
        fresh: it was a verification, on a connection of its own, because the route owed an answer.
        verification: the number under which it was begun; None if nobody was told.
        exchanges: the numbers of the exchanges that waited for it.
    """

    route: Route
    round_trip: float | None
    failure: str | None
    fresh: bool = False
    status: int | None = None
    detail: str = ""
    verification: int | None = None
    exchanges: tuple[int, ...] = ()


class IncumbentChanged(NamedTuple):
    """Requests go to another route by default from now on; None: there was none."""

    before: Route | None
    after: Route


class PassedThrough(NamedTuple):
    """A request to a routed path went to where it was addressed, as it was, and is never sent again.

    Attributes:
        path: the path below the base URL.
        reason: why no route gets it: `its body cannot be sent again` (a stream, a file, a form), `its body is no JSON
            object`, `no route serves its model`.
    """

    path: str
    reason: str


class Quarantined(NamedTuple):
    """A route refused what another endpoint accepted, and is avoided for so many `seconds`.

    Attributes:
        status: what it answered.
        model: the model asked for that it does not have; None: a key was refused, and no model gets there.
        sent: what the model was called there.
    """

    route: Route
    status: int | None
    model: str | None
    seconds: float
    exchange: int | None
    sent: str | None = None


class Cooled(NamedTuple):
    """A route asked to be left alone for so many `seconds`, with this `status`."""

    route: Route
    status: int | None
    seconds: float
    exchange: int | None


class KeyRefused(NamedTuple):
    """A key of a route was refused, and another of its keys accepted. Keys are counted from 1."""

    route: Route
    refused: int
    accepted: int


class CertificateRefused(NamedTuple):
    """An endpoint's certificate was not accepted.

    Attributes:
        detail: why not, in words.
        ours: it is the other way round: the endpoint did not accept the client's certificate, or wants one.
    """

    endpoint: Route
    detail: str
    ours: bool = False


class CertificateExpiring(NamedTuple):
    """An endpoint's certificate will be refused in so many seconds, unless it is renewed."""

    endpoint: Route
    seconds: float


class ConnectivityChanged(NamedTuple):
    """No endpoint at all can be reached any more, or one can be again: this machine is offline, or online."""

    online: bool


Event = (
    ExchangeStarted
    | AttemptStarted
    | AttemptOverdue
    | AttemptEnded
    | ExchangeEnded
    | BreakerChanged
    | VerificationStarted
    | ProbeEnded
    | IncumbentChanged
    | PassedThrough
    | Cooled
    | Quarantined
    | KeyRefused
    | CertificateRefused
    | CertificateExpiring
    | ConnectivityChanged
)


def _without_headers(event: AttemptStarted | VerificationStarted) -> str:
    """A repr: baggage may be among the headers."""
    fields = (f"{name}={value!r}" for name, value in event._asdict().items() if name != "headers")
    return f"{type(event).__name__}({', '.join(fields)})"


class Listener(Protocol):
    """Anything that can be told of an event.

    It may have an attribute `active`: while it is false for every listener, no events of exchanges are
    made.

    It is called in the thread or task where the event happened, never under a lock, and should be
    quick. An exception it raises is logged once and costs no request.
    """

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""
