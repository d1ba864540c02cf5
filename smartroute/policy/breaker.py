"""A route's health as a state machine: closed (healthy), open (not used), half-open (on trial).

    closed ──────── cannot be reached, 3 failures in a row, half of the last 10 ───────▶ open
    open ────────── two good probes (or, where nobody probes, time) ────────────────▶ half_open
    half_open ───── one real request answered ──────────────────────────────────────▶ closed
    half_open ───── a failure ──────────────────────────────────────────────────────▶ open

Only failures that are the route's own reach a breaker; who is to blame is decided in `outcome`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Breaker", "State"]

FAILURES_IN_A_ROW = 3
WINDOW = 10
LEAST_OUTCOMES = 5
WINDOW_AGE = 600.0
"""Outcomes older than this many seconds say nothing any more."""
FIRST_BACKOFF = 1.0
LAST_BACKOFF = 10.0
"""Seconds between probes of an open route at the most, as for a healthy one: a healed region is soon back in use."""
LAST_TRIAL_BACKOFF = 60.0
"""The same where probes are answered and requests are not: then every look costs a request."""
JITTER = 0.2
GOOD_PROBES = 2
UNPROBED = 10.0
"""An open route whose probe is late by this many seconds is tried by a request: nobody probes."""


class State(StrEnum):
    """Where a breaker stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(slots=True, eq=False)
class Breaker:
    """The health of one route.

    Args:
        since: when it began, in monotonic seconds.
        random: gives numbers in [0, 1), to spread the probes of many processes.

    Attributes:
        state: where it stands, `since` when.
        retry_at: when an open route is to be probed next.
        cause: what opened it last.
    """

    since: float
    random: Callable[[], float]
    state: State = State.CLOSED
    retry_at: float = 0.0
    cause: str = ""
    _backoff: float = FIRST_BACKOFF
    _good_probes: int = 0
    _in_a_row: int = 0
    _outcomes: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def succeeded(self, now: float) -> None:
        """A real request was answered."""
        if self.state is State.HALF_OPEN:
            self._backoff = max(self._backoff / 2, FIRST_BACKOFF)  # halved, not reset: flapping is damped
            self._enter(State.CLOSED, now)
        elif self.state is State.CLOSED:
            self._in_a_row = 0
            self._outcomes.append((now, True))

    def failed(self, now: float, cause: str, *, unreachable: bool, started: float) -> None:
        """A request or a probe failed through the route's fault.

        Args:
            unreachable: it could not even be connected to: one such failure is enough.
            started: when the request was sent; what was sent before the last transition is old news.
        """
        if self.state is State.OPEN or started < self.since:
            return
        if self.state is State.HALF_OPEN:
            self._backoff = min(self._backoff * 2, LAST_TRIAL_BACKOFF)
            self._open(now, cause)
            return
        self._in_a_row += 1
        self._outcomes.append((now, False))
        recent = [good for at, good in self._outcomes if now - at <= WINDOW_AGE]
        mostly_bad = len(recent) >= LEAST_OUTCOMES and recent.count(False) * 2 >= len(recent)
        if unreachable or self._in_a_row >= FAILURES_IN_A_ROW or mostly_bad:
            self._open(now, cause)

    def probed(self, now: float, *, good: bool) -> None:
        """A probe of an open route is over."""
        if self.state is not State.OPEN:
            return
        if not good:
            self._good_probes = 0
            self._backoff = max(self._backoff, min(self._backoff * 2, LAST_BACKOFF))
            self.retry_at = now + self._spread(self._backoff)
            return
        self._good_probes += 1
        self.retry_at = now + self._spread(FIRST_BACKOFF)
        if self._good_probes >= GOOD_PROBES:
            self._enter(State.HALF_OPEN, now)

    def give_up_waiting(self, now: float, probed_since: float | None) -> None:
        """Put an open route on trial whose probe is overdue, or that nobody is going to probe.

        Args:
            probed_since: since when probes have been made, in monotonic seconds; None: nobody makes any.
        """
        due = self.retry_at if probed_since is None else max(self.retry_at, probed_since) + UNPROBED
        if self.state is State.OPEN and now >= due:
            self._enter(State.HALF_OPEN, now)

    def restore(self, now: float, within: float) -> bool:
        """Take back an opening of so many seconds ago at the most: it was not the route's fault."""
        if self.state is not State.OPEN or now - self.since > within:
            return False
        self._enter(State.CLOSED, now)
        return True

    def _open(self, now: float, cause: str) -> None:
        self.cause = cause
        self._good_probes = 0
        self.retry_at = now + self._spread(self._backoff)
        self._enter(State.OPEN, now)

    def _enter(self, state: State, now: float) -> None:
        self.state, self.since = state, now
        self._in_a_row = 0
        self._outcomes.clear()

    def _spread(self, seconds: float) -> float:
        return seconds * (1 + JITTER * (2 * self.random() - 1))
