"""Token buckets: what may be sent again, so that smartroute never feeds an outage.

After Finagle's retry budget and gRPC A6: a share of the traffic, plus a trickle for quiet processes.
"""

from dataclasses import dataclass

__all__ = ["Budget"]

CAPACITY = 10.0
PER_REQUEST = 0.1
PER_SECOND = 0.1


@dataclass(slots=True)
class Budget:
    """A bucket of replay tokens, full at first. `now` is monotonic seconds."""

    now: float
    tokens: float = CAPACITY

    def deposit(self) -> None:
        """A request came in: it pays for a tenth of a replay."""
        self.tokens = min(self.tokens + PER_REQUEST, CAPACITY)

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self.tokens = min(self.tokens + max(now - self.now, 0.0) * PER_SECOND, CAPACITY)
        self.now = max(self.now, now)  # threads may come in another order than they looked at the clock
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True
