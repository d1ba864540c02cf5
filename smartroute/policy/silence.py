"""What is made of a route that says nothing: is the answer long in coming, or is the route dead?

No timeout tells. So an attempt that is overdue has its route *verified*, by a probe on a fresh connection: a
TCP handshake, a TLS handshake and a GET, of which the limit is known. Until something is heard, new requests
avoid the route; two verifications that fail in a row are the proof (`Breaker` opens).
"""

from dataclasses import dataclass
from math import inf

__all__ = ["DEAD_AFTER", "PAUSE", "Silence"]

DEAD_AFTER = 2
"""Verifications in a row that have to fail."""
PAUSE = 10.0
"""Seconds after a verification that was answered before the next may be asked for."""


@dataclass(slots=True, eq=False)
class Silence:
    """What was not heard from one route. `now` and times of departure are monotonic seconds.

    Attributes:
        failures: verifications that failed in a row.
        wanted: whether a verification is to be made.
    """

    failures: int = 0
    wanted: bool = False
    _failed_at: float = -inf
    _answered_at: float = -inf
    _heard: float = -inf
    _overdue: int = 0
    _latest: float = -inf
    _unconnected: bool = False
    _first_failed_at: float = -inf
    _dead_from: float = -inf

    def look(self, departed: float, now: float) -> None:
        """An attempt of this departure has waited long enough to ask whether its route is alive."""
        if departed > self._heard and now - self._answered_at >= PAUSE:
            self.wanted = True

    def overdue(self, departed: float) -> None:
        """An attempt of this departure is overdue. Told once for each."""
        self._overdue += 1
        self._latest = max(self._latest, departed)

    def over(self) -> None:
        """An attempt that was overdue has ended, however it did."""
        self._overdue -= 1

    def heard(self, departed: float) -> None:
        """A request of this departure was answered."""
        self._heard = max(self._heard, departed)
        self._unconnected = False
        if self._heard >= self._failed_at:
            self.failures = 0

    def doubt(self) -> None:
        """A probe over a kept connection got no answer: it may be the connection, it may be the route."""
        self.wanted = True

    def unconnected(self) -> None:
        """A connection is long in coming: nobody else is to wait for it, until the route was heard of."""
        self.wanted = self._unconnected = True

    def connected(self) -> None:
        """A probe was answered. If a verification has failed before, another one is to tell."""
        self._unconnected = False
        self.wanted |= self.failures > 0

    def verified(self, started: float, now: float, *, alive: bool) -> None:
        """A verification is over."""
        self.wanted = self._unconnected = False
        if alive:
            self.failures, self._answered_at = 0, now
            return
        if self.failures == 0:
            self._first_failed_at = started
        self.failures += 1
        self._failed_at = started
        self.wanted = self.failures < DEAD_AFTER
        if not self.wanted:
            self._dead_from = self._first_failed_at

    def dead_since(self, moment: float) -> bool:
        """Whether there has been proof that what had not come by then comes no more."""
        return self._dead_from >= moment

    def failed_since(self, departed: float) -> bool:
        """Whether the route has failed a verification that was begun after this departure."""
        return self.failures > 0 and self._failed_at >= departed

    @property
    def suspect(self) -> bool:
        """Whether new requests had better avoid the route: it owes a connection or an answer, and gave none since."""
        return self.failures > 0 or self._unconnected or (self._overdue > 0 and self._latest > self._heard)

    def forget(self) -> None:
        """The route was opened, or this is a child process: what is overdue says no more."""
        self.failures, self.wanted, self._unconnected = 0, False, False
        self._latest = -inf
