"""What a status, an error, a first event means: who is to blame, and what may be sent again.

The tables of the policy, as data. Sources: RFC 9110 (status codes, Retry-After), the vendor's error
reference, gRPC A6 and Finagle (what may be replayed).
"""

from collections.abc import Iterable
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum, StrEnum, auto
from math import isnan
from typing import Any, NamedTuple

__all__ = [
    "MAX_RETRY_AFTER",
    "TOO_LONG",
    "Again",
    "Blame",
    "Failure",
    "Rule",
    "retry_after",
    "rule_for_failure",
    "rule_for_status",
    "status_of_error",
]

MAX_RETRY_AFTER = 60.0
"""A route that asks to be left alone longer than this (seconds) is asked again after this."""


class Failure(StrEnum):
    """Why an attempt brought no answer. The values appear in spans and logs."""

    DNS = "dns"
    CONNECT = "connect"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS = "tls"
    CERTIFICATE = "certificate"
    CLIENT_CERTIFICATE = "client_certificate"
    POOL_TIMEOUT = "pool_timeout"
    WRITE = "write"
    RESET = "reset"
    READ_TIMEOUT = "read_timeout"
    SILENCE = "silence"
    PROTOCOL = "protocol"
    STATUS = "status"
    REDIRECT = "redirect"
    CONTENT_TYPE = "content_type"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    GARBLED = "garbled"
    ERROR_EVENT = "error_event"
    DEADLINE = "deadline"
    OVERTAKEN = "overtaken"
    CANCELLED = "cancelled"


class Again(Enum):
    """Where a request that failed may be sent next."""

    NOWHERE = auto()
    """It is the answer: hand it to the caller."""
    OTHER_KEY = auto()
    """The same route with its next key, then one endpoint with another key."""
    ONE_OTHER = auto()
    """One other endpoint; if that fails too, this is the answer."""
    OTHER_MODEL = auto()
    """One endpoint that is asked for another model; if that fails too, this is the answer."""
    ELSEWHERE = auto()
    """Other endpoints, as far as limits and budget reach."""


class Blame(Enum):
    """What a failure says about the health of the route."""

    NONE = auto()
    IF_OTHERS_ANSWER = auto()
    """Counted only when the same request succeeds elsewhere: a poison request must not open every route."""
    COUNT = auto()
    OPEN = auto()
    """The route cannot be reached: it leaves the race at once."""


class Rule(NamedTuple):
    """What follows from a failure."""

    again: Again
    blame: Blame


TOO_LONG = "context_length_exceeded"
"""The code of an error that says: the prompt is too long for this model (OpenAI's, and that of those who follow it)."""

_ANSWER = Rule(Again.NOWHERE, Blame.NONE)
_SICK = Rule(Again.ELSEWHERE, Blame.COUNT)
_UNREACHABLE = Rule(Again.ELSEWHERE, Blame.OPEN)

_BY_STATUS = {
    401: Rule(Again.OTHER_KEY, Blame.NONE),
    402: Rule(Again.OTHER_KEY, Blame.NONE),
    403: Rule(Again.OTHER_KEY, Blame.NONE),
    404: Rule(Again.ONE_OTHER, Blame.NONE),
    408: Rule(Again.ONE_OTHER, Blame.NONE),
    409: Rule(Again.ONE_OTHER, Blame.NONE),
    412: Rule(Again.OTHER_KEY, Blame.NONE),
    425: Rule(Again.ONE_OTHER, Blame.NONE),
    429: Rule(Again.ELSEWHERE, Blame.NONE),  # saturation, not sickness: a cooldown
    500: Rule(Again.ONE_OTHER, Blame.IF_OTHERS_ANSWER),
}

_BY_FAILURE = {
    Failure.DNS: _UNREACHABLE,
    Failure.CONNECT: _UNREACHABLE,
    Failure.CONNECT_TIMEOUT: _UNREACHABLE,
    Failure.TLS: _UNREACHABLE,
    Failure.CERTIFICATE: _UNREACHABLE,
    Failure.CLIENT_CERTIFICATE: _UNREACHABLE,
    Failure.SILENCE: Rule(Again.ELSEWHERE, Blame.COUNT),
    Failure.POOL_TIMEOUT: Rule(Again.ELSEWHERE, Blame.NONE),  # our own limit
    Failure.OVERTAKEN: Rule(Again.ELSEWHERE, Blame.NONE),  # by an attempt in whose stead it was made
    Failure.CANCELLED: _ANSWER,
}


def rule_for_status(status: int, code: str | None = None) -> Rule:
    """What follows from an answer with this status code. `code`: what its body calls the error."""
    if code == TOO_LONG and status in (400, 413, 422):
        return Rule(Again.OTHER_MODEL, Blame.NONE)
    if status < 300:
        return _ANSWER
    if status < 400 or status > 500:
        return _BY_STATUS.get(status, _ANSWER if 400 <= status < 500 else _SICK)
    return _BY_STATUS.get(status, _ANSWER)


def rule_for_failure(failure: Failure) -> Rule:
    """What follows from a failure that has no status code."""
    return _BY_FAILURE.get(failure, _SICK)


def status_of_error(error: Any) -> int | None:
    """The status code that an error object in a stream's event names, if it names one.

    Servers put it in `code` or `status` (a number, or its digits), some only name a type.
    """
    if not isinstance(error, dict):
        return None
    for key in ("status_code", "status", "code"):
        value = error.get(key)
        if isinstance(value, str) and value.isdecimal() and len(value) == 3:
            value = int(value)
        if isinstance(value, int) and 400 <= value < 600:
            return value
    return {
        "invalid_request_error": 400,
        "authentication_error": 401,
        "permission_error": 403,
        "not_found_error": 404,
        "rate_limit_error": 429,
    }.get(str(error.get("type", "")))


def retry_after(headers: Iterable[tuple[bytes, bytes]], wall: float) -> float | None:
    """How many seconds an answer asks to wait: between 0 and `MAX_RETRY_AFTER`, or None.

    Reads `retry-after-ms` (milliseconds; it wins where it is a number) and `Retry-After` as whole
    seconds, decimals or a date (RFC 9110, 10.2.3).

    Args:
        headers: the answer's raw header pairs.
        wall: the time of day as a Unix timestamp, for dates.
    """
    wait: float | None = None
    precise: float | None = None
    for name, value in headers:
        name = name.lower()
        if name == b"retry-after-ms":
            precise = _number(value, 0.001)
        elif name == b"retry-after" and wait is None:
            wait = _number(value, 1.0)
            if wait is None:
                wait = _until(value, wall)
    wait = wait if precise is None else precise
    return None if wait is None else min(max(wait, 0.0), MAX_RETRY_AFTER)


def _number(value: bytes, unit: float) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return None if isnan(number) else number * unit


def _until(date: bytes, wall: float) -> float | None:
    try:
        then = parsedate_to_datetime(date.decode("latin-1"))
        if then.tzinfo is None:  # asctime's form names no zone: it is GMT, not where this process runs
            then = then.replace(tzinfo=UTC)
        return then.timestamp() - wall
    except (ValueError, OverflowError):
        return None
