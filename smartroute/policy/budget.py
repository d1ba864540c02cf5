"""Token buckets: what may be sent twice, so that smartroute never feeds an outage.

After Finagle's retry budget and gRPC A6: a share of the traffic, plus a trickle for quiet processes.
"""

from dataclasses import dataclass, field

__all__ = ["Budget", "hedges", "replays"]

CAPACITY = 10.0
PER_REQUEST = 0.1
PER_SECOND = 0.1

HEDGE_CAPACITY = 5.0
HEDGES_PER_REQUEST = 0.02
HEDGES_PER_MINUTE = 1.0


@dataclass(slots=True, eq=False)
class Budget:
    """A bucket of tokens, full at first. `now` is monotonic seconds.

    Args:
        capacity: tokens that it holds at the most.
        per_request: tokens that each request pays in; `per_second`: those that come by themselves.
    """

    now: float
    capacity: float
    per_request: float
    per_second: float
    tokens: float = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = self.capacity

    def deposit(self) -> None:
        """A request came in."""
        self.tokens = min(self.tokens + self.per_request, self.capacity)

    def left(self, now: float) -> float:
        """How many tokens it has."""
        self.tokens = min(self.tokens + max(now - self.now, 0.0) * self.per_second, self.capacity)
        self.now = max(self.now, now)  # threads may come in another order than they looked at the clock
        return self.tokens

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        if self.left(now) < 1.0:
            return False
        self.tokens -= 1.0
        return True


def replays(now: float) -> Budget:
    """For requests that have failed: a tenth of the traffic."""
    return Budget(now, CAPACITY, PER_REQUEST, PER_SECOND)


def hedges(now: float) -> Budget:
    """For requests that are only slow: a fiftieth of the traffic."""
    return Budget(now, HEDGE_CAPACITY, HEDGES_PER_REQUEST, HEDGES_PER_MINUTE / 60)
