"""Whether it is this machine that is cut off: then no route is to blame, and none is opened.

A laptop that wakes up in a train, a container that loses its network: every endpoint is unreachable at once.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from smartroute.policy.outcome import Failure

__all__ = ["CUT_OFF", "WITHIN", "Offline"]

WITHIN = 1.0
"""If every endpoint turns out to be unreachable within so many seconds, it is not they."""
CUT_OFF = frozenset((Failure.DNS, Failure.CONNECT, Failure.CONNECT_TIMEOUT))
"""Failures that a machine has which is cut off."""


@dataclass(slots=True, eq=False)
class Offline:
    """Watches all endpoints, the global one too.

    Args:
        endpoints: their names. With one alone nothing can be told.

    Attributes:
        now: whether this machine is taken for cut off now.
    """

    endpoints: Collection[str]
    now: bool = False
    _lost: dict[str, float] = field(default_factory=dict)

    def lost(self, endpoint: str, at: float) -> bool:
        """An endpoint could not be reached (monotonic seconds). Returns whether that was the last one."""
        self._lost[endpoint] = at
        if self.now or len(self.endpoints) < 2 or len(self._lost) < len(self.endpoints):
            return False
        self.now = at - min(self._lost.values()) <= WITHIN
        return self.now

    def is_missing(self, endpoint: str) -> bool:
        """Whether an endpoint could not be reached the last time."""
        return self.now or endpoint in self._lost

    def reached(self, endpoint: str) -> bool:
        """An endpoint was reached. Returns whether that ends it."""
        self._lost.pop(endpoint, None)
        ended, self.now = self.now, False
        return ended
