"""What choosing remembers from one request to the next: the incumbents, the conversations, who may run.

Requests that may go to different routes have different incumbents: those of one region move nobody else.

Guarded by the router's lock. `now` is monotonic seconds.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from math import inf
from typing import NamedTuple

from smartroute.policy.affinity import MOST_IN_FLIGHT, Conversations, Talk
from smartroute.policy.breaker import State
from smartroute.policy.exploration import Explorer
from smartroute.policy.known import Known
from smartroute.policy.latency import Baseline
from smartroute.policy.messages import Call
from smartroute.policy.selection import Candidate, Choice, Field, Standing, choose, draw_up, in_order, left_out
from smartroute.route import Route, canonical_region

__all__ = ["Selection", "Selector"]

MOST_FIELDS = 64
"""Kinds of requests (by model, path and regions) for which it is remembered who may run."""
REFRESH = 1.0
"""Seconds after which time has changed what is known of routes of which nothing was heard."""
TYPICAL_GAIN = 0.005
"""The weight of a request in what counts as a typical one: slow, or a few long prompts would move the incumbent."""


class Selection(NamedTuple):
    """Who may run, the usual service time of the request in seconds, and who is asked first."""

    field: Field
    usual: float
    choice: Choice

    @property
    def first(self) -> tuple[Route | None, str]:
        """Where the request goes first, and why."""
        if self.choice.first is not None:
            return self.choice.first.route, self.choice.reason
        order = self.order
        return (order[0].route, order[0].reason) if order else (None, "")

    @property
    def has_peers(self) -> bool:
        """Whether the first choice is as good as others of its tier, or there are no other tiers to be preferred to."""
        return len(self.field.runners) > 1 or not self.field.others

    @property
    def order(self) -> list[Candidate]:
        """Who is asked in turn."""
        return in_order(*self)

    @property
    def everybody(self) -> tuple[Candidate, ...]:
        """Who is asked in turn, and after them who is not."""
        order = self.order
        return (*order, *left_out(self.field, self.usual, order))


class Selector:
    """Chooses routes.

    Args:
        known: what is known of each route, by name, in the order of the configuration.
        baseline: what requests usually take.
        allows: whether the configuration allows a region.
        fallback: the global endpoint; `has_key`: whether it has a key of its own.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        known: Mapping[str, Known],
        baseline: Baseline,
        *,
        allows: Callable[[str | None], bool],
        fallback: Route | None,
        has_key: bool,
        clock: Callable[[], float],
    ) -> None:
        self._known = known
        self._baseline = baseline
        self._allows = allows
        self._fallback = fallback
        self._has_key = has_key
        self.explorer = Explorer()
        self.conversations = Conversations(clock)
        self._incumbents: dict[frozenset[str], Standing] = {}
        self._refresh_at = clock()
        self._typical = 0.0
        self._fields: dict[tuple[object, ...], tuple[float, Field]] = {}

    @property
    def typical(self) -> float:
        """The usual service time of a typical request, in seconds; 0 while nothing is known."""
        return self._typical

    def changed(self) -> None:
        """Who may run has changed."""
        self._fields.clear()

    def refresh(self, now: float) -> bool:
        """Let time have its effect on what is known of all routes. Returns whether it was time to."""
        if now < self._refresh_at:
            return False
        self._refresh_at = now + REFRESH
        for known in self._known.values():
            known.refresh(now)
        return True

    def select(self, call: Call, now: float, *, look: bool = False) -> Selection:
        """Choose; nothing is remembered but who may run. `look`: it may explore, unless it belongs somewhere."""
        field = self._field(call, now)
        usual = self._baseline.expect(call.model, call.size) or 0.0
        home, saving, spare = None, 0.0, None
        if call.conversation is not None:
            home = self.conversations.home(call.model, call.conversation)
            saving = self._baseline.saving(call.model, call.size) if home is not None else 0.0
        if look and home is None:
            spare = self.explorer.may_look(now)
        choice = choose(
            field,
            usual,
            incumbent=self._incumbents.get(field.eligible),
            typical=self._typical or usual,
            home=home,
            saving=saving,
            spare=spare,
            now=now,
        )
        return Selection(field, usual, choice)

    @property
    def incumbents(self) -> list[Standing]:
        """The routes that requests go to by default; those of requests that may go to fewer routes aside."""
        return [incumbent for eligible, incumbent in self._incumbents.items() if self._is_widest(eligible)]

    def greet(self, call: Call, standing: Standing, now: float) -> bool:
        """A route has answered: it is the incumbent if nothing is measured yet. Returns whether that is news."""
        eligible = self._field(call, now).eligible
        if eligible in self._incumbents:
            return False
        self._incumbents[eligible] = standing
        return self._is_widest(eligible)

    def adopt(self, selection: Selection, now: float) -> tuple[Route | None, Route] | None:
        """Remember a choice that is acted upon. Returns the incumbents before and after, if that is news."""
        field, usual, choice = selection
        if usual:
            self._typical = usual if not self._typical else self._typical * (usual / self._typical) ** TYPICAL_GAIN
        if choice.reason == "explore" and choice.first is not None:
            self.explorer.looks(choice.first, now)
        before, after = self._incumbents.get(field.eligible), choice.incumbent
        if after is before or after is None:
            return None
        if choice.moved and before is not None:
            self.explorer.leaves(before, now)
        self.explorer.settles(after)
        if len(self._incumbents) >= MOST_FIELDS:
            self._incumbents.clear()
        self._incumbents[field.eligible] = after
        return (before.route if before else None, after.route) if self._is_widest(field.eligible) else None

    def join(self, call: Call, key: str, selection: Selection) -> Talk:
        """The conversation that a request belongs to, from now on."""
        field, _, choice = selection
        talk = self.conversations.join(call.model, key)
        home = talk.home
        if home is None or home is choice.first or talk.in_flight > MOST_IN_FLIGHT:
            return talk
        # A detour around a hindrance that passes does not move a conversation.
        if home.route.name in field.names or home.state is not State.CLOSED:
            talk.home = None  # it will be where it is answered
        return talk

    def fallback(self, call: Call) -> Route | None:
        """The global endpoint, where this call may go to it."""
        if self._fallback is None or not self.allowed(self._fallback.region, call):
            return None
        if call.addressed is not None and not self._has_key:
            return None  # the caller's key belongs to the route it addressed
        return self._fallback

    def allowed(self, region: str | None, call: Call) -> bool:
        """Whether this call may go to a region."""
        if not self._allows(region):
            return False
        return not call.regions or any(fnmatchcase(region or "", canonical_region(p)) for p in call.regions)

    def _is_widest(self, eligible: frozenset[str]) -> bool:
        return not any(eligible < other for other in self._incumbents)

    def _field(self, call: Call, now: float) -> Field:
        """Who may run: looked up, unless something has changed."""
        kind = (call.model, call.path, call.regions, call.addressed is None)
        until, field = self._fields.get(kind, _NOTHING)
        if now < until:
            return field
        standings: list[tuple[Standing, str | None]] = []
        until = inf
        for known in self._known.values():
            if not known.route.serves(call.model, call.path):
                continue
            obstacle: str | None = "region"
            if self.allowed(known.route.region, call):
                obstacle, ends = known.obstacle(call.model, now)
                until = min(until, ends)
            known.standing.state = known.breaker.state
            known.standing.silent = known.silence.failures > 0
            standings.append((known.standing, obstacle))
        field = draw_up(standings, self.fallback(call), lambda s: self._known[s.route.name].breaker.since)
        if len(self._fields) >= MOST_FIELDS:
            self._fields.clear()
        self._fields[kind] = until, field
        return field


_NOTHING = (-inf, Field((), frozenset()))
