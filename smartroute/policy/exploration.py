"""Looking at routes that get no requests: how often, and at whose expense.

Probes measure the way, not the model behind it. So now and then one request, of no conversation, goes to a route
that may have become the better one. Never at random (an epsilon-greedy rule pays the worst region's price on a
schedule): only where the optimistic estimate wins, and the loss is bounded. A route that was left for being slow
is looked at after 10, 20, 40 ... seconds.
"""

from dataclasses import dataclass

from smartroute.policy.selection import Standing

__all__ = ["Explorer"]

SHARE = 0.02
"""Looks per request at the most, those at routes that were left aside."""
PAUSE = 60.0
"""Seconds between two looks at one route."""
FIRST_PAUSE = 10.0
"""Seconds until the first look at a route that was left; doubled each time."""
LAST_PAUSE = 640.0
BREATH = 1.0
"""Seconds between two looks at any route."""
SURPRISINGLY_FAST = 0.5
"""An answer this much faster than expected of its route (a factor) is worth another look at once."""


@dataclass(slots=True, eq=False)
class Explorer:
    """Decides when a request may have a look. `now` is monotonic seconds."""

    _tokens: float = 1.0
    _next: float = 0.0

    def may_look(self, now: float) -> bool | None:
        """Whether the next request may have a look: True: anywhere; False: at a route that was left; None: nowhere."""
        self._tokens = min(self._tokens + SHARE, 1.0)
        if now < self._next:
            return None
        self._next = now + BREATH
        return self._tokens >= 1.0

    def looks(self, standing: Standing, now: float) -> None:
        """A request goes to see."""
        if standing.left:
            standing.look_at = now + standing.pause
            standing.pause = min(standing.pause * 2, LAST_PAUSE)
        else:
            self._tokens -= 1.0
            standing.look_at = now + PAUSE

    def leaves(self, standing: Standing, now: float) -> None:
        """The incumbent was left for being slow: it may recover."""
        standing.left, standing.pause, standing.look_at = True, FIRST_PAUSE * 2, now + FIRST_PAUSE

    def settles(self, standing: Standing) -> None:
        """The route is the incumbent again."""
        standing.left = False

    def sees(self, standing: Standing, slower: float, now: float) -> None:
        """A look was answered, so many times slower than was expected of the route."""
        if standing.left and slower < SURPRISINGLY_FAST:
            standing.look_at = self._next = now
            standing.pause = FIRST_PAUSE
