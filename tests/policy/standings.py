"""Routes as the ranking sees them, and how to choose among them."""

from collections.abc import Mapping
from math import inf

from smartroute.policy.breaker import State
from smartroute.policy.selection import Choice, Field, Standing, choose, draw_up
from smartroute.route import Route
from tests.policy.driving import WORLDWIDE, route

NOW = 1_000.0
Entry = tuple[Standing, str | None]
"""A route, and what stands in its way."""


def standing(
    name: str,
    round_trip: float = inf,
    *,
    tier: int = 0,
    state: State = State.CLOSED,
    factor: float = 1.0,
    error: float = 0.0,
    load: float = 1.0,
    silent: bool = False,
    left: bool = False,
    look_at: float = 0.0,
) -> Standing:
    return Standing(
        route(name, tier=tier),
        state=state,
        round_trip=round_trip,
        factor=factor,
        error=error,
        load=load,
        silent=silent,
        left=left,
        look_at=look_at,
    )


def running(*runners: Standing, trials: tuple[Standing, ...] = (), suspects: tuple[Standing, ...] = ()) -> Field:
    return Field(runners, frozenset(s.route.name for s in runners), trials=trials, suspects=suspects)


def pick(
    field: Field,
    *,
    usual: float = 0.0,
    incumbent: Standing | None = None,
    typical: float | None = None,
    home: Standing | None = None,
    saving: float = 0.0,
    spare: bool | None = None,
) -> Choice:
    return choose(
        field,
        usual,
        incumbent=incumbent,
        typical=usual if typical is None else typical,
        home=home,
        saving=saving,
        spare=spare,
        now=NOW,
    )


def up(*entries: Entry, fallback: Route | None = WORLDWIDE, since: Mapping[str, float] | None = None) -> Field:
    return draw_up(entries, fallback, lambda s: (since or {}).get(s.route.name, 0.0))
