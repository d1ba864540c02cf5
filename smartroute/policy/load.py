"""How busy a route is: requests in flight against a limit that is learned, so that what is too much spills over.

The limit is raised and cut as in TCP (additive increase, multiplicative decrease); the penalty for a busy
route is cubic in its load (C3, Suresh et al., NSDI 2015). After an outage the limit ramps up.
"""

from dataclasses import dataclass
from math import inf

__all__ = ["Load"]

FIRST_LIMIT = 32.0
LEAST_LIMIT = 2.0
PERIOD = 2.0
"""Seconds between two looks at the limit."""
INFLATED = 1.5
"""Answers that take this much longer than they would on an idle route are a queue's fault, if most do."""
CUT = 0.8
RISE = 1.05
EXPONENT = 3
RAMP = 30.0
"""Seconds from a route's recovery until it may be given all that it can take."""
RAMP_FROM = 0.1


@dataclass(slots=True, eq=False)
class Load:
    """The requests in flight on one route. `now` is monotonic seconds.

    Attributes:
        in_flight: requests sent whose answers are not over.
        limit: how many of them the route takes before it becomes slower.
    """

    in_flight: int = 0
    limit: float = FIRST_LIMIT
    _peak: int = 0
    _slow: int = 0
    _fast: int = 0
    _looked: float = 0.0
    _recovered: float = -inf

    def departed(self, now: float) -> None:
        """A request was sent."""
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)
        if now - self._looked >= PERIOD:
            self._look(now)

    def arrived(self) -> None:
        """A request is over (it may have been the parent process's)."""
        self.in_flight = max(self.in_flight - 1, 0)

    def answered(self, slower: float) -> None:
        """A request was answered while the route was busy, so many times slower than when it is idle."""
        if slower > INFLATED:
            self._slow += 1
        else:
            self._fast += 1

    def refused(self) -> None:
        """The route says that this is too much (429)."""
        self.limit = max(CUT * min(self.limit, self.in_flight), LEAST_LIMIT)

    def recovered(self, now: float) -> None:
        """The route is back after an outage: take care."""
        self._recovered = now
        self.limit = min(self.limit, FIRST_LIMIT)

    @property
    def busy(self) -> bool:
        """Whether half of the limit is in flight: what is measured now measures a queue as well."""
        return self.in_flight * 2 >= self.limit

    def penalty(self, now: float) -> float:
        """By what factor another request would be slower than on an idle route; infinite: it may get none now."""
        if now - self._recovered < RAMP:
            share = RAMP_FROM + (1 - RAMP_FROM) * (now - self._recovered) / RAMP
            if self.in_flight >= max(1.0, share * self.limit):
                return inf
        if not self.busy:
            return 1.0
        return 1.0 + ((self.in_flight + 1) / self.limit) ** EXPONENT

    def _look(self, now: float) -> None:
        if self._slow > self._fast:
            self.limit = max(CUT * min(self.limit, self._peak), LEAST_LIMIT)
        elif self._peak * 2 >= self.limit:  # what is not used proves nothing
            self.limit = self.limit * RISE + 1
        self._slow = self._fast = 0
        self._peak = self.in_flight
        self._looked = now

    def after_fork(self) -> None:
        """In a child process: what was under way is the parent's."""
        self.in_flight = self._peak = 0
