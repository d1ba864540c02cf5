"""Events as log records, of the logger `smartroute`.

    WARNING   what a person has to do something about: once per episode, and no more than once a minute
    INFO      what changed: a route's health, where requests go by default
    DEBUG     the story of each request, in a few lines

Each record carries its facts in `extra`, under the names that they have in spans.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import assert_never

from cachetools import TTLCache

from smartroute.events import (
    AttemptEnded,
    AttemptOverdue,
    AttemptStarted,
    BreakerChanged,
    CertificateExpiring,
    CertificateRefused,
    ConnectivityChanged,
    Cooled,
    Event,
    ExchangeEnded,
    ExchangeStarted,
    IncumbentChanged,
    KeyRefused,
    PassedThrough,
    ProbeEnded,
    Quarantined,
    VerificationStarted,
)
from smartroute.route import Kind, Route
from smartroute.settings import key_variable

__all__ = ["Log"]

logger = logging.getLogger("smartroute")

PAUSE = 60.0
"""Seconds for which the same warning is not given again."""
CERTIFICATE_PAUSE = 3_600.0
"""The same for a certificate that is not accepted."""
RENEWAL_PAUSE = 86_400.0
"""The same for one that is about to expire."""
MOST_REMEMBERED = 1_000
"""Warnings that are remembered for having been given."""
SHOWN = 3
"""Candidates that the story of a request tells of: the first, then those that something is wrong with."""


class Log:
    """A listener that writes events to the log. It may be called from any thread or task.

    Args:
        routes: those of the configuration, to know when all are down.
        fallback: whether there is a global endpoint to fall back to.
        clock: monotonic seconds.
    """

    def __init__(self, routes: Sequence[Route], *, fallback: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._count = len(routes)
        self._fallback = fallback
        self._lock = threading.Lock()
        self._given: TTLCache[tuple[object, ...], bool] = TTLCache(MOST_REMEMBERED, PAUSE, clock)
        self._refusals: TTLCache[str, bool] = TTLCache(MOST_REMEMBERED, CERTIFICATE_PAUSE, clock)
        self._renewals: TTLCache[str, bool] = TTLCache(MOST_REMEMBERED, RENEWAL_PAUSE, clock)
        self._open: dict[str, str] = {}
        self._all_down = self._offline = False

    def after_fork(self) -> None:
        """In a child process: a thread that is not here may have held the lock."""
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        """Whether the story of each request is wanted."""
        return logger.isEnabledFor(logging.DEBUG)

    def __call__(self, event: Event, /) -> None:  # noqa: C901 - one case for each kind of event
        """Write it down, if it is worth a line."""
        match event:
            case ExchangeStarted() | AttemptStarted() | AttemptOverdue() | AttemptEnded() | ExchangeEnded():
                if self.active:
                    _tell(event)
            case PassedThrough():
                logger.debug("A request to %s is not routed: %s", event.path, event.reason)
            case VerificationStarted():
                logger.debug("Route %s is verified, on a fresh connection", event.route)
            case ProbeEnded():
                self._say_all_down()
                if self.active:
                    _tell_probe(event)
            case BreakerChanged():
                self._breaker_changed(event)
            case IncumbentChanged():
                logger.info(
                    "Requests go to route %s by default (before: %s).",
                    event.after,
                    event.before,
                    extra={"smartroute.endpoint.name": event.after.name},
                )
            case Cooled():
                logger.info(
                    "Route %s asked to be left alone for %.1f s (status %s).",
                    event.route,
                    event.seconds,
                    event.status,
                    extra={"smartroute.endpoint.name": event.route.name, "smartroute.seconds": event.seconds},
                )
            case Quarantined():
                _warn(_quarantined(event), {"http.response.status_code": event.status}, event.route)
            case KeyRefused():
                self._once(
                    event.route,
                    f"key {event.refused} of {len(event.route.keys)} was refused; key {event.accepted} is accepted and "
                    "used from now on. Remedy: take out the refused key, or renew it.",
                    event.refused,
                )
            case CertificateRefused():
                if self._is_new(self._refusals, event.endpoint):
                    _warn(_certificate_refused(event), {}, event.endpoint)
            case CertificateExpiring():
                self._expiring(event)
            case ConnectivityChanged():
                self._connectivity_changed(online=event.online)
            case _:
                assert_never(event)

    def _breaker_changed(self, event: BreakerChanged) -> None:
        logger.info(
            "Route %s: %s -> %s (%s)",
            event.route,
            event.before,
            event.after,
            event.cause,
            extra={
                "smartroute.endpoint.name": event.route.name,
                "smartroute.breaker.before": event.before,
                "smartroute.breaker.after": event.after,
                "smartroute.breaker.cause": event.cause,
            },
        )
        up = False
        with self._lock:
            if event.after == "open":
                self._open[event.route.name] = event.cause
            else:
                self._open.pop(event.route.name, None)
                up = event.after == "closed" and self._all_down
                self._all_down &= not up
        if up:
            logger.warning("Route %s is back up.", event.route, extra={"smartroute.endpoint.name": event.route.name})
        self._say_all_down()

    def _say_all_down(self) -> None:
        """Say so, if it is so and was not said: also of what came back and went again, as soon as the pause is over."""
        with self._lock:
            down = len(self._open) == self._count and not self._all_down and self._is_due("all down")
            self._all_down |= down
            causes = dict(self._open)
        if down:
            told = ", ".join(f"{name} ({cause})" for name, cause in causes.items())
            meanwhile = "Requests go to the global endpoint." if self._fallback else "There is no global endpoint."
            remedy = "Remedy: see to them for the reasons given; they are probed until they answer."
            facts = {"smartroute.candidates": list(causes)}
            logger.warning("All routes are down: %s. %s %s", told, meanwhile, remedy, extra=facts)

    def _connectivity_changed(self, *, online: bool) -> None:
        with self._lock:
            tell = self._offline if online else self._is_due("offline")
            self._offline = tell and not online
            if not online:  # the routes that were opened are closed again: they were never down
                self._open.clear()
                self._all_down = False
        if tell and online:
            logger.warning("An endpoint can be reached again.")
        elif tell:
            logger.warning(
                "No endpoint can be reached, not even the global one: this machine seems to be offline, or all of them "
                "are down at once. Remedy: see to its network first; no route is taken for down because of it."
            )

    def _expiring(self, event: CertificateExpiring) -> None:
        if not self._is_new(self._renewals, event.endpoint):
            return
        days = event.seconds / 86_400
        _warn(
            f"its certificate expires in {days:.1f} days. Remedy: have it renewed; it will be refused from then on.",
            {"smartroute.certificate.remaining": event.seconds},
            event.endpoint,
        )

    def _once(self, endpoint: Route, message: str, *what: object) -> None:
        """Give a warning, unless the same was given just now."""
        with self._lock:
            due = self._is_due(endpoint.name, *what)
        if due:
            _warn(message, {}, endpoint)

    def _is_new(self, told: "TTLCache[str, bool]", endpoint: Route) -> bool:
        with self._lock:
            if endpoint.name in told:
                return False
            told[endpoint.name] = True
            return True

    def _is_due(self, *what: object) -> bool:
        if what in self._given:
            return False
        self._given[what] = True
        return True


def _warn(message: str, facts: dict[str, object], endpoint: Route) -> None:
    kind = "Endpoint" if endpoint.kind is Kind.GLOBAL else "Route"
    logger.warning("%s %s: %s", kind, endpoint, message, extra={"smartroute.endpoint.name": endpoint.name, **facts})


def _certificate_refused(event: CertificateRefused) -> str:
    route = event.endpoint
    if event.ours:
        remedy = (
            "show it one: name client_cert (and client_key) of this route"
            if route.client_cert is None
            else "have this route's client_cert renewed, or issued by an authority that it trusts"
        )
        return f"it does not accept us ({event.detail}). Remedy: {remedy}."
    if "mismatch" in event.detail:
        remedy = "name the host that it is for (by server_name, if the URL must have another), or have it issued anew"
    elif route.ca_file is not None:
        remedy = "have it renewed, or add its authority to this route's ca_file"
    elif route.kind is Kind.GLOBAL:
        remedy = "have it renewed, or name its authority to the client (verify=)"
    else:
        remedy = "have it renewed, or name its authority: in this route's ca_file, or to the client (verify=)"
    return f"its certificate is not accepted ({event.detail}). Remedy: {remedy}."


def _quarantined(event: Quarantined) -> str:
    wrong_model = event.model is not None
    what = f"model not found: {event.sent!r}, asked for as {event.model!r}" if wrong_model else "key refused"
    remedy = (
        "correct this route's model, or SMARTROUTE_MODEL; or the path of its URL"
        if wrong_model
        else f"set the route's own key in {key_variable(event.route.name)}, or in SMARTROUTE_API_KEY if it is every "
        "route's (the global endpoint's key is another one)"
    )
    return (
        f"{what} (status {event.status}) though another endpoint accepted the same request. It is not used for "
        f"{event.seconds:.0f} s. Remedy: {remedy}."
    )


def _tell(event: ExchangeStarted | AttemptStarted | AttemptOverdue | AttemptEnded | ExchangeEnded) -> None:
    """The story of a request."""
    facts: dict[str, object] = {"smartroute.exchange": event.exchange}
    if not isinstance(event, ExchangeStarted) and event.endpoint is not None:
        facts["smartroute.endpoint.name"] = event.endpoint.name
    match event:
        case ExchangeStarted():
            facts["smartroute.reason"] = event.reason
            line = f"{event.path}, model {event.model}: {_candidates(event)}"
        case AttemptStarted():
            facts["smartroute.reason"] = event.reason
            line = f"attempt {event.attempt} to {event.endpoint} ({event.reason})"
        case AttemptOverdue():
            line = f"attempt {event.attempt} to {event.endpoint} is overdue after {_seconds(event.waited)}"
        case AttemptEnded():
            facts["http.response.status_code"] = event.status
            line = f"attempt {event.attempt} to {event.endpoint}: {_outcome(event)}"
        case ExchangeEnded():
            facts["smartroute.outcome"] = event.outcome
            by = f", the answer is {event.endpoint}'s" if event.endpoint else ""
            why = f", no further attempt: {event.stopped}" if event.stopped else ""
            line = f"{event.outcome}{by}, in {_seconds(event.duration)}, attempts: {event.attempts}{why}"
        case _:
            assert_never(event)
    logger.debug("Exchange %d: %s", event.exchange, line, extra=facts)


def _candidates(event: ExchangeStarted) -> str:
    first, *others = event.candidates or [None]
    sick = [candidate for candidate in others if candidate and (candidate.state != "closed" or candidate.note)]
    shown = [first, *(sick + [each for each in others if each not in sick])[: SHOWN - 1]]
    more = len(event.candidates) - len(shown)
    return "; ".join([str(each) for each in shown if each] + ([f"{more} more"] if more > 0 else []))


def _outcome(event: AttemptEnded) -> str:
    words = [] if event.status is None else [f"status {event.status}"]
    if event.failure and event.detail not in words:
        words.append(event.detail or event.failure)
    for name, seconds in (("first byte", event.first_byte), ("first content", event.first_content)):
        if seconds is not None:
            words.append(f"{name} after {_seconds(seconds)}")
    words.append(f"{event.stream or 'over'} after {_seconds(event.duration)}")
    return ", ".join(words)


def _tell_probe(event: ProbeEnded) -> None:
    what = "verification" if event.fresh else "probe"
    came = event.detail or event.failure or ("-" if event.round_trip is None else _seconds(event.round_trip))
    facts = {"smartroute.endpoint.name": event.route.name, "http.response.status_code": event.status}
    logger.debug("Route %s: %s: %s", event.route, what, came, extra=facts)


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
