"""Ranking the routes: who is asked first, and why.

A pure function from what is known of the routes to an order. The incumbent is left only for a clearly
better challenger (FoundationDB's and Cassandra's lesson: a ranking without damping oscillates).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from smartroute.policy.breaker import State
from smartroute.route import Route

__all__ = ["Candidate", "Choice", "Standing", "choose"]

LEAST_GAIN = 0.010
"""Seconds by which a challenger must be better at least."""
LEAST_SHARE = 0.20
"""... and the share of the incumbent's score."""
HOLD = 30.0
"""Seconds between two moves for a better score."""
RELUCTANT = ("busy", "cooldown", "quarantine")
"""Obstacles that give way when there is nobody else to ask."""
INTOLERABLE = 2.0
"""An incumbent worse than the best by this factor is left at once."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Where a route stands in a ranking, and why.

    Attributes:
        route: the route.
        score: expected seconds to first token, lower is better; None while unmeasured.
        state: the breaker's state.
        reason: why it stands where it stands: `best`, `incumbent`, `affinity`, `pinned`, `trial`,
            `next`, `unmeasured`, `fallback` (global), `last_resort` (an open route), or why it is not
            asked: `busy` (its trial is under way), `cooldown`, `quarantine`, `drained`, `region`.
    """

    route: Route
    score: float | None
    state: str
    reason: str


@dataclass(slots=True)
class Standing:
    """What the ranking needs to know of a route.

    `obstacle` says why it must not be asked (`open`, `busy`, `cooldown`, `quarantine`,
    `drained`, `region`).
    """

    route: Route
    score: float | None
    state: State
    since: float
    obstacle: str | None


@dataclass(frozen=True, slots=True)
class Choice:
    """A ranking.

    Attributes:
        order: who is asked, in turn; the global endpoint is where it ends, open routes come after it.
        refused: the routes that are not asked.
        incumbent: the name of the incumbent from now on.
        moved: whether it was left for a better score (this starts the hold; an incumbent that was lost, or
            that nobody had measured yet, was not left for a score).
    """

    order: tuple[Candidate, ...]
    refused: tuple[Candidate, ...]
    incumbent: str | None
    moved: bool


def choose(
    standings: Sequence[Standing],
    fallback: Route | None,
    *,
    incumbent: str | None,
    held_until: float,
    conversation: str | None,
    now: float,
) -> Choice:
    """Rank the routes.

    Args:
        standings: what is known of each route, in the order of the configuration.
        fallback: the global endpoint, if there is one.
        incumbent: the name of the route that requests go to by default.
        held_until: until when the incumbent is not left for a better score, in monotonic seconds.
        conversation: the name of the route that this conversation is on, if any.
    """
    usable = [s for s in standings if s.obstacle is None]
    usable.sort(key=_by_score)
    first, reason, moved = None, "best", False
    if usable:
        best = usable[0]
        current = next((s for s in usable if s.route.name == incumbent and s.state is State.CLOSED), None)
        first = best if current is None or _leaves(current, best, held_until, now) else current
        if first.state is State.HALF_OPEN:
            reason = "trial"
        elif first is current:
            reason = "incumbent"
        elif first.score is None:
            reason = "unmeasured"
        else:
            moved = current is not None and current.score is not None
            incumbent = first.route.name
        if conversation is not None and conversation != first.route.name:
            kept = next((s for s in usable if s.route.name == conversation and s.state is State.CLOSED), None)
            first, reason = (kept, "affinity") if kept else (first, reason)
    order = [Candidate(first.route, first.score, first.state, reason)] if first else []
    order += [Candidate(s.route, s.score, s.state, "next") for s in usable if s is not first]
    if fallback is not None:
        order.append(Candidate(fallback, None, State.CLOSED, "fallback"))
    shut = sorted((s for s in standings if s.obstacle == "open"), key=lambda s: s.since)
    order += [Candidate(s.route, s.score, s.state, "last_resort") for s in shut]
    if not order:  # somebody must be asked, even one that asked to be left alone
        order = [Candidate(s.route, s.score, s.state, "last_resort") for s in standings if s.obstacle in RELUCTANT]
    asked = {c.route.name for c in order}
    refused = tuple(
        Candidate(s.route, s.score, s.state, s.obstacle or "") for s in standings if s.route.name not in asked
    )
    return Choice(tuple(order), refused, incumbent, moved)


def _by_score(standing: Standing) -> float:
    return float("inf") if standing.score is None else standing.score


def _leaves(current: Standing, best: Standing, held_until: float, now: float) -> bool:
    if best is current or best.score is None:
        return False
    if current.score is None:
        return True
    if current.score > INTOLERABLE * best.score and current.score - best.score > LEAST_GAIN:
        return True
    return now >= held_until and current.score - best.score > max(LEAST_GAIN, LEAST_SHARE * current.score)
