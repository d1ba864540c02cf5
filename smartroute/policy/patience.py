"""How long an answer may take: when its route is looked after, and when it is overdue.

Counted from what is expected of the route for such a request, never from a fixed timeout: long prompts and
whole answers are slow on healthy routes.
"""

from dataclasses import dataclass, field
from math import inf, log

from smartroute.policy.latency import Baseline, Latency
from smartroute.policy.messages import Attempt, Call

__all__ = ["LATE", "LOOK", "TICK", "Patience"]

LOOK = 1.0
"""Seconds without content after which it is asked whether the route is alive, however long the prompt; and again."""
LEAST = 0.5
"""Seconds before which no streamed attempt is overdue."""
LEAST_WHOLE = 1.0
"""The same of one that is not streamed."""
OVERDUE = 3.0
"""An attempt is overdue after this many times its expected time, or after its 99th percentile if that is later."""
RESCUE = 2.0
"""A streamed attempt is rescued, from the budget, after so many times what made it overdue: the way is alive, the
model behind it seems not to be."""
LEAST_RESCUE = 1.5
"""Seconds before which none is rescued whose route's verifications are answered."""
UNKNOWN_RESCUE = 2.0
"""Seconds after which a streamed attempt is rescued of whose kind nothing is known yet, beside its round trip..."""
PREFILL = 10_000.0
"""... and a second more for so many bytes of the prompt: a slow prefill, 2,500 tokens a second..."""
LAST_UNKNOWN_RESCUE = 10.0
"""... up to this."""
LATE = 0.05
"""Seconds by which a thread or an event loop may wake too late before it is not to be trusted."""
TICK = 0.02
"""Seconds by which a look may come too early, and after which what is awaited should be there."""


@dataclass(slots=True, eq=False)
class Patience:
    """Knows how long answers usually take, streamed ones up to their first token.

    Attributes:
        baseline: of streamed requests.
    """

    baseline: Baseline = field(default_factory=Baseline)
    _whole: Baseline = field(default_factory=Baseline)

    def overdue_after(self, call: Call, latency: Latency) -> float:
        """Seconds after its departure from which on an answer is overdue."""
        baseline, least = (self.baseline, LEAST) if call.streaming else (self._whole, LEAST_WHOLE)
        usual = baseline.expect(call.model, call.size)
        if usual is None:
            return inf  # nothing is known of how long that takes
        expected = usual * latency.factor
        return max(least, (latency.round_trip or 0.0) + expected * max(OVERDUE, baseline.slowest))

    def hedge_after(self, call: Call, latency: Latency) -> float:
        """Seconds after the departure of a streamed request by which 99 of 100 of the route's answers have come."""
        usual = self.baseline.expect(call.model, call.size)
        if usual is None or latency.round_trip is None:
            return inf
        return latency.round_trip + usual * latency.factor * self.baseline.slowest

    def rescue_after(self, call: Call, attempt: Attempt, latency: Latency) -> float:
        """Seconds after its departure from which on a streamed attempt is worth another one."""
        if attempt.overdue_after == inf:
            way = latency.round_trip or 0.0
            return min(way + UNKNOWN_RESCUE + call.size / PREFILL, LAST_UNKNOWN_RESCUE)
        return max(LEAST_RESCUE, RESCUE * attempt.overdue_after)

    def learn(self, call: Call, seconds: float, latency: Latency, now: float, *, busy: bool) -> float:
        """Learn from an answer that took so long from its departure. `busy`: it tells of a queue, not of the route.

        Returns:
            by what factor it took longer than expected of the route.
        """
        if not call.streaming:  # its length is the answer's: good for patience, no measure of a route
            self._whole.learn(call.model, call.size, seconds, log(latency.factor), now)
            return 1.0
        if busy:
            return latency.slower(seconds, self.baseline, call.model, call.size)
        return latency.saw_first_token(seconds, self.baseline, call.model, call.size, now)
