"""Ranking the routes: who is asked first, and why.

Pure functions from what is known of the routes to a choice. The incumbent is left only for a clearly
better challenger (FoundationDB's and Cassandra's lesson: a ranking without damping oscillates), what is too
much for it spills over, and what nobody knows is explored now and then.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import exp, hypot, inf
from typing import NamedTuple

from smartroute.policy.breaker import State
from smartroute.route import Route

__all__ = [
    "Candidate",
    "Choice",
    "Field",
    "Score",
    "Standing",
    "candidate",
    "choose",
    "draw_up",
    "in_order",
    "left_out",
]

LEAST_GAIN = 0.010
"""Seconds by which a challenger must be better at least."""
ERRORS = 1.0
"""... and so many standard errors of the difference."""
OPTIMISM = 1.5
"""Standard errors by which a route may be better than it is believed to be, for it to be worth a look."""
MOST_WASTED = 0.5
"""Seconds that a look may cost the request that takes it, if the route is as bad as it is believed to be."""
IMPATIENCE = 0.02
"""Seconds more that it may cost for each second that a look at a route that was left is due."""
RELUCTANT = ("busy", "cooldown", "quarantine")
"""Obstacles that give way when there is nobody else to ask."""


@dataclass(slots=True, eq=False)
class Standing:
    """What the ranking needs to know of a route; kept up to date in place, so that choosing only has to read.

    Attributes:
        state: the breaker's.
        round_trip: seconds; infinite while unmeasured.
        factor: how many times longer than usual it takes to answer; `error`: the standard error of its logarithm.
        load: by what factor it would be slower for its load; infinite: it may get no further request now.
        silent: whether it has failed a verification, and not been heard of since.
        left: whether it was left for being slow, which may have passed.
        look_at: when one request may see whether it has become better, in monotonic seconds; `pause`: seconds
            until the look after that.
    """

    route: Route
    state: State = State.CLOSED
    round_trip: float = inf
    factor: float = 1.0
    error: float = 0.0
    load: float = 1.0
    silent: bool = False
    left: bool = False
    look_at: float = 0.0
    pause: float = 0.0

    def score(self, usual: float) -> float:
        """The expected seconds to first token of a request with this usual service time; lower is better."""
        return self.round_trip + usual * self.factor


class Field(NamedTuple):
    """Who may run, for requests of one kind. Made anew only when something has changed.

    Attributes:
        runners: the routes that compete: healthy, of the best tier that has any; `names`: theirs.
        eligible: the names of all routes that such requests may go to, whatever their state.
        trials: routes on trial that are of no worse tier, and free.
        others: the routes that come after them, in groups; then `suspects`, who owe an answer and say nothing.
        fallback: the global endpoint, if these requests may go to it.
        shut: open routes, the one that opened first in front: better than nobody.
        refused: routes that are not asked, and why.
    """

    runners: tuple[Standing, ...]
    names: frozenset[str]
    eligible: frozenset[str] = frozenset()
    trials: tuple[Standing, ...] = ()
    others: tuple[tuple[Standing, ...], ...] = ()
    suspects: tuple[Standing, ...] = ()
    fallback: Route | None = None
    shut: tuple[Standing, ...] = ()
    refused: tuple[tuple[Standing, str], ...] = ()


def draw_up(
    standings: Iterable[tuple[Standing, str | None]], fallback: Route | None, since: Callable[[Standing], float]
) -> Field:
    """Sort the routes into those that compete and those that do not.

    Args:
        standings: the routes in the order of the configuration, and what stands in the way of each: nothing,
            or `suspect`, `open`, `busy`, `cooldown`, `quarantine`, `drained`, `region`.
        fallback: the global endpoint, if there is one.
        since: since when a route has been in its state.
    """
    standings = tuple(standings)
    free: dict[int, list[Standing]] = {}
    trials: list[Standing] = []
    suspects: list[Standing] = []
    shut: list[Standing] = []
    refused: list[tuple[Standing, str]] = []
    for standing, obstacle in standings:
        if obstacle == "open":
            shut.append(standing)
        elif obstacle == "suspect":
            suspects.append(standing)
        elif obstacle is not None:
            refused.append((standing, obstacle))
        elif standing.state is State.HALF_OPEN:
            trials.append(standing)
        else:
            free.setdefault(standing.route.tier, []).append(standing)
    shut.sort(key=since)
    best = min(free, default=None)
    if best is None:  # nobody healthy is left: who is on trial, or says nothing at the moment, is better than nobody
        pool, trials, suspects = trials or suspects, [], suspects if trials else []
        best = min((s.route.tier for s in pool), default=0)
        free = {}
        for standing in pool:
            free.setdefault(standing.route.tier, []).append(standing)
    runners = tuple(free.pop(best, ()))
    for standing in trials:
        if standing.route.tier > best:
            free.setdefault(standing.route.tier, []).append(standing)
    return Field(
        runners,
        frozenset(s.route.name for s in runners),
        frozenset(s.route.name for s, obstacle in standings if obstacle != "region"),
        tuple(s for s in trials if s.route.tier <= best),
        tuple(tuple(free[tier]) for tier in sorted(free)),
        tuple(suspects),
        fallback,
        tuple(shut),
        tuple(refused),
    )


class Choice(NamedTuple):
    """Who is asked first.

    Attributes:
        first: the route; None: none of them.
        reason: `best`, `incumbent`, `affinity` (its conversation is there), `size` (better for a request of
            this size), `detour` (the incumbent is suspect), `spill` (it is busy), `explore` (a look at it),
            `trial`, or `unmeasured`.
        incumbent: the incumbent from now on.
        moved: whether it was left for a better score (one that was lost, or that nobody had measured yet,
            was not).
    """

    first: Standing | None
    reason: str
    incumbent: Standing | None
    moved: bool = False


def choose(
    field: Field,
    usual: float,
    *,
    incumbent: Standing | None,
    typical: float,
    home: Standing | None,
    saving: float,
    spare: bool | None,
    now: float,
) -> Choice:
    """Choose the route that a request is sent to first.

    Args:
        field: who may run.
        usual: the usual service time of such a request in seconds; `typical`: of all requests.
        incumbent: the route that requests go to by default.
        home: the route that this request's conversation is on, if any.
        saving: seconds that the conversation's warm prompt cache may save there.
        spare: whether this request may explore (False: only a route that was left; None: not at all).
    """
    if not field.runners:
        return Choice(None, "", incumbent)
    moved = False
    first, reason, challenger = _race(field, usual, incumbent)
    if reason == "challenger":
        current, first = first, challenger
        if _is_better(first, current, typical):
            reason, incumbent, moved = "best", first, current.round_trip < inf
        elif _is_better(first, current, usual):
            reason = "size"
        else:
            first, reason = current, "incumbent"
    elif reason == "best":
        incumbent = first
    if first.state is State.HALF_OPEN:
        return Choice(first, "trial", None if incumbent is first else incumbent)
    if home is not None:
        if home is not first and _stays(home, first, field, usual, saving):
            return Choice(home, "affinity", incumbent, moved)
        return Choice(first, reason, incumbent, moved)
    for trial in field.trials:
        if trial.route.tier < first.route.tier or first.score(usual) - _at_best(trial, usual) > LEAST_GAIN:
            return Choice(trial, "trial", incumbent, moved)
    if spare is not None and reason == "incumbent":
        hopes = [s for s in field.runners if (spare or s.left) and _is_hope(s, first, usual, now)]
        if hopes:
            return Choice(min(hopes, key=lambda s: _at_best(s, usual)), "explore", incumbent, moved)
    return Choice(first, reason, incumbent, moved)


def _race(field: Field, usual: float, incumbent: Standing | None) -> tuple[Standing, str, Standing]:
    """Who leads, why, and the best by score: `challenger` if that is another one than an incumbent who can run."""
    scores = [(s.round_trip + usual * s.factor) * s.load for s in field.runners]
    best = field.runners[scores.index(min(scores))]
    if best is incumbent:
        return best, "incumbent", best
    if incumbent is not None:
        if incumbent.route.name in field.names:
            return (best, "spill", best) if incumbent.load > 1.0 else (incumbent, "challenger", best)
        if incumbent in field.suspects:
            return best, "detour", best  # that may be over soon
    return best, "best" if best.round_trip < inf else "unmeasured", best


def _stays(home: Standing, first: Standing, field: Field, usual: float, saving: float) -> bool:
    """Whether a conversation stays on its route. One overdue answer there is no reason to go, nor is a busy hour."""
    runs = home.route.name in field.names or (home in field.suspects and not home.silent)
    there = home.score(usual)
    lost = there - first.score(usual)
    return runs and home.load < inf and home.route.tier <= first.route.tier and lost <= max(saving, LEAST_GAIN)


def _is_better(challenger: Standing, current: Standing, usual: float) -> bool:
    """Whether a challenger is better beyond doubt: by more than what is worth a move, and than our own error."""
    error = usual * hypot(current.factor * current.error, challenger.factor * challenger.error)
    return current.score(usual) - challenger.score(usual) > max(LEAST_GAIN, ERRORS * error)


def _at_best(standing: Standing, usual: float) -> float:
    """Its score if it is as good as it may be. One that was slow may be healed, however sure we were of it."""
    factor = standing.factor * exp(-OPTIMISM * standing.error)
    return standing.round_trip + usual * (min(factor, 1.0) if standing.left else factor)


def _is_hope(standing: Standing, first: Standing, usual: float, now: float) -> bool:
    """Whether a route may have become the better one, and a look at it does not cost too much."""
    if standing is first or now < standing.look_at:
        return False
    current = first.score(usual)
    most = MOST_WASTED + (IMPATIENCE * (now - standing.look_at) if standing.left else 0.0)
    return _at_best(standing, usual) < current and standing.score(usual) - current < most


# --- The whole order: for failover, for rivals, and for those who ask why ------------------------------


class Score(NamedTuple):
    """Of what a route's score is made: `(round_trip + service) * load`, in seconds.

    Attributes:
        round_trip: the way there and back.
        service: the usual time from request to first token of such a request, times the route's factor.
        error: the standard error of `service` in seconds.
        load: by what factor it would be slower because of what it has in flight.
    """

    round_trip: float
    service: float
    error: float
    load: float


class Candidate(NamedTuple):
    """Where a route stands in a ranking, and why.

    Attributes:
        route: the route.
        score: expected seconds to first token, lower is better; None while unmeasured. `parts`: what of.
        state: the breaker's state.
        reason: why it stands where it stands: what `Choice.reason` says of the first; `next`, `suspect` (it owes an
            answer and says nothing), `fallback` (global), `last_resort` (an open route), `pinned`, or why it
            is not asked: `busy` (its trial is under way), `cooldown`, `quarantine`, `drained`, `region`.
        note: what stands in its way, since when or for how long, in words.
    """

    route: Route
    score: float | None
    state: str
    reason: str
    parts: Score | None = None
    note: str = ""

    def __str__(self) -> str:
        """All of it in a line, for people."""
        said = f"{self.route.name}: {self.reason}, {self.state}" + (f" {self.note}" if self.note else "")
        if self.score is None or self.parts is None:
            return said
        near, service, error, load = (self.parts.round_trip, self.parts.service, self.parts.error, self.parts.load)
        sum_of = f"{near * 1e3:.0f} round trip + {service * 1e3:.0f} ± {error * 1e3:.0f} service"
        sum_of = sum_of if load == 1.0 else f"({sum_of}) x {load:.2f} load"
        return f"{said}, {self.score * 1e3:.0f} ms = {sum_of}"


def in_order(field: Field, usual: float, choice: Choice) -> list[Candidate]:
    """Who is asked in turn; the global endpoint is where the race ends, open routes come after it."""
    first = choice.first

    def rest(group: Iterable[Standing], reason: str = "next") -> list[Candidate]:
        ranked = sorted((s for s in group if s is not first), key=lambda s: s.score(usual) * s.load)
        return [candidate(s, usual, reason) for s in ranked]

    order = [candidate(first, usual, choice.reason)] if first is not None else []
    order += rest((*field.runners, *field.trials))
    for group in (*field.others, field.suspects):
        order += rest(group, "suspect" if group is field.suspects else "next")
    if field.fallback is not None:
        order.append(Candidate(field.fallback, None, State.CLOSED, "fallback"))
    order += [candidate(s, usual, "last_resort") for s in field.shut]
    # Somebody must be asked, even one that asked to be left alone.
    return order or [candidate(s, usual, "last_resort") for s, why in field.refused if why in RELUCTANT]


def candidate(standing: Standing, usual: float, reason: str) -> Candidate:
    """A route's place in a ranking."""
    if standing.round_trip == inf:
        return Candidate(standing.route, None, standing.state, reason)
    service = usual * standing.factor
    parts = Score(standing.round_trip, service, service * standing.error, standing.load)
    return Candidate(standing.route, (standing.round_trip + service) * standing.load, standing.state, reason, parts)


def left_out(field: Field, usual: float, order: Sequence[Candidate]) -> list[Candidate]:
    """Who is not asked, and why."""
    asked = {each.route.name for each in order}
    return [candidate(s, usual, why) for s, why in field.refused if s.route.name not in asked]
