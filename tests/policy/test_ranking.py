"""Who may run, and who is asked in turn."""

import re
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.breaker import State
from smartroute.policy.selection import (
    RELUCTANT,
    Choice,
    Field,
    Standing,
    candidate,
    in_order,
    left_out,
)
from tests.policy.driving import WORLDWIDE
from tests.policy.standings import NOW, Entry, pick, standing, up

# --- who may run ---------------------------------------------------------------------------------------


def order(field: Field, *, usual: float = 0.0, incumbent: Standing | None = None) -> list[tuple[str, str]]:
    ranked = in_order(field, usual, pick(field, usual=usual, incumbent=incumbent))
    return [(c.route.name, c.reason) for c in ranked]


def test_the_healthy_run_and_global_is_where_the_race_ends() -> None:
    a, b, c = standing("a", 0.08), standing("b", 0.02), standing("c", 0.16)
    field = up((a, None), (b, None), (c, None))
    assert (field.runners, field.names) == ((a, b, c), frozenset("abc"))
    assert order(field) == [("b", "best"), ("a", "next"), ("c", "next"), ("global", "fallback")]
    assert order(up((a, None), fallback=None)) == [("a", "best")]


def test_those_that_follow_stand_in_the_order_of_what_they_would_take() -> None:
    a, b, c = standing("a", 0.08), standing("b", 0.10, load=3.0), standing("c", 0.16)
    assert [name for name, _ in order(up((a, None), (b, None), (c, None)))] == ["a", "c", "b", "global"]


def test_routes_of_a_better_tier_come_first_whatever_their_latency() -> None:
    far, near, last = standing("far", 0.5, tier=1), standing("near", 0.01, tier=2), standing("last", 0.001, tier=9)
    field = up((near, None), (last, None), (far, None))
    assert field.runners == (far,)
    assert [name for name, _ in order(field)] == ["far", "near", "last", "global"]


def test_the_next_tier_runs_when_nobody_of_the_better_one_can() -> None:
    preferred, other = standing("a", 0.01, tier=0), standing("b", 0.5, tier=1)
    for obstacle in ("open", "busy", "cooldown", "quarantine", "drained", "region", "suspect"):
        assert up((preferred, obstacle), (other, None)).runners == (other,)


def test_trials_of_a_worse_tier_wait_until_they_are_needed() -> None:
    current = standing("a", 0.5, tier=0)
    same = standing("b", 0.1, tier=0, state=State.HALF_OPEN)
    worse = standing("c", 0.1, tier=1, state=State.HALF_OPEN)
    field = up((current, None), (same, None), (worse, None))
    assert field.trials == (same,)
    assert [name for name, _ in order(field, incumbent=current)] == ["b", "a", "c", "global"]


@pytest.mark.parametrize("round_trip", [0.1, 0.9])
def test_a_trial_may_win_a_better_tier_back(round_trip: float) -> None:
    """It is of the tier that is preferred, whatever its latency: let it show that it is well."""
    current, healed = standing("b", 0.5, tier=1), standing("a", round_trip, tier=0, state=State.HALF_OPEN)
    field = up((current, None), (healed, None))
    assert (field.runners, field.trials) == ((current,), (healed,))
    choice = pick(field, incumbent=current)
    assert (choice.first, choice.reason, choice.incumbent) == (healed, "trial", current)


def test_who_is_on_trial_runs_when_nobody_is_healthy() -> None:
    near, far = standing("a", 0.1, state=State.HALF_OPEN), standing("b", 0.2, state=State.HALF_OPEN)
    silent = standing("c", 0.01)
    field = up((far, None), (near, None), (silent, "suspect"))
    assert (field.runners, field.trials) == ((far, near), ())
    assert [name for name, _ in order(field)] == ["a", "b", "c", "global"]


def test_suspects_are_avoided_but_better_than_global() -> None:
    silent, far = standing("a", 0.01), standing("b", 0.9)
    field = up((silent, "suspect"), (far, None))
    assert field.runners == (far,)
    assert [name for name, _ in order(field, incumbent=silent)] == ["b", "a", "global"]


def test_suspects_run_when_there_is_nobody_else() -> None:
    far, near = standing("a", 0.9), standing("b", 0.1)
    assert [name for name, _ in order(up((far, "suspect"), (near, "suspect")))] == ["b", "a", "global"]


def test_the_suspects_of_a_better_tier_are_no_better_than_the_healthy_of_a_worse() -> None:
    silent, healthy = standing("a", 0.01, tier=0), standing("b", 0.9, tier=5)
    assert [name for name, _ in order(up((silent, "suspect"), (healthy, None)))] == ["b", "a", "global"]


# --- the last resort -----------------------------------------------------------------------------------


def test_when_all_are_open_global_is_asked_then_the_one_that_opened_first() -> None:
    shut = [(standing(name, 0.01, state=State.OPEN), "open") for name in "abc"]
    field = up(*shut, since={"a": 30.0, "b": 10.0, "c": 20.0})
    assert order(field) == [("global", "fallback"), *((name, "last_resort") for name in "bca")]


def test_without_global_open_routes_are_the_last_resort() -> None:
    field = up((standing("a", 0.01, state=State.OPEN), "open"), (standing("b", 0.02), None), fallback=None)
    assert order(field) == [("b", "best"), ("a", "last_resort")]


@pytest.mark.parametrize("obstacle", RELUCTANT)
def test_a_reluctant_route_is_asked_when_there_is_nobody_else(obstacle: str) -> None:
    reluctant, other = standing("a", 0.01), standing("b", 0.9)
    assert order(up((reluctant, obstacle))) == [("global", "fallback")]
    assert order(up((reluctant, obstacle), (other, None), fallback=None)) == [("b", "best")]
    alone = up((reluctant, obstacle), fallback=None)
    assert order(alone) == [("a", "last_resort")]
    assert left_out(alone, 0.0, in_order(alone, 0.0, pick(alone))) == []


@pytest.mark.parametrize("obstacle", ["drained", "region"])
def test_what_is_forbidden_is_never_asked(obstacle: str) -> None:
    field = up((standing("a", 0.01), obstacle), fallback=None)
    assert order(field) == []
    assert [(c.route.name, c.reason) for c in left_out(field, 0.0, [])] == [("a", obstacle)]


def test_no_routes() -> None:
    assert order(up()) == [("global", "fallback")]
    assert order(up(fallback=None)) == []


# --- what is told --------------------------------------------------------------------------------------


def test_a_place_in_the_ranking_says_what_its_score_is_made_of() -> None:
    place = candidate(standing("a", 0.1, factor=2.0, error=0.25, load=1.5), 0.4, "next")
    assert place.parts is not None
    assert (place.parts.round_trip, place.parts.service, place.parts.error, place.parts.load) == (0.1, 0.8, 0.2, 1.5)
    assert place.score == pytest.approx((0.1 + 0.8) * 1.5)
    unmeasured = candidate(standing("a"), 0.4, "next")
    assert (unmeasured.score, unmeasured.parts) == (None, None)


def test_a_place_in_the_ranking_can_be_read() -> None:
    said = str(candidate(standing("a", 0.1, factor=2.0, error=0.25, load=1.5), 0.4, "next"))
    assert said.startswith("a: next, closed")
    assert {"1350", "100", "800", "200", "1.50"} <= set(re.findall(r"[\d.]+", said))
    assert str(candidate(standing("a"), 0.4, "unmeasured")) == "a: unmeasured, closed"


# --- properties ----------------------------------------------------------------------------------------

OBSTACLES = ("suspect", "open", "busy", "cooldown", "quarantine", "drained", "region")


@st.composite
def all_entries(draw: st.DrawFn) -> list[Entry]:
    return [
        (
            standing(
                name,
                draw(st.just(inf) | st.floats(0.0, 10.0)),
                tier=draw(st.integers(0, 2)),
                state=draw(st.sampled_from([State.CLOSED, State.HALF_OPEN])),
                factor=draw(st.floats(0.1, 10.0)),
                error=draw(st.floats(0.0, 2.0)),
                load=draw(st.just(1.0) | st.just(inf) | st.floats(1.0, 9.0)),
                left=draw(st.booleans()),
                look_at=draw(st.floats(NOW - 50, NOW + 50)),
            ),
            draw(st.none() | st.sampled_from(OBSTACLES)),
        )
        for name in "abcdef"[: draw(st.integers(0, 6))]
    ]


@given(all_entries(), st.booleans(), st.data(), st.floats(0.0, 10.0))
def test_every_ranking(entries: list[Entry], with_global: bool, data: st.DataObject, usual: float) -> None:
    anybody = st.sampled_from([None, standing("gone", 0.01), *(s for s, _ in entries)])
    incumbent, home = data.draw(anybody, "incumbent"), data.draw(anybody, "home")
    spare = data.draw(st.sampled_from([None, False, True]), "spare")
    field = up(*entries, fallback=WORLDWIDE if with_global else None)

    def again() -> Choice:
        return pick(field, usual=usual, incumbent=incumbent, home=home, spare=spare)

    choice = again()
    assert choice == again()  # deterministic
    asked = in_order(field, usual, choice)
    order = [c.route.name for c in asked]
    of = {s.route.name: obstacle for s, obstacle in entries}
    usable = {name for name, obstacle in of.items() if obstacle in (None, "suspect")}
    shut = {name for name, obstacle in of.items() if obstacle == "open"}
    others = left_out(field, usual, asked)
    assert sorted([*order, *(c.route.name for c in others)]) == sorted([*of, *["global"] * with_global])
    assert set(order[: len(usable)]) == usable
    assert order[len(usable) : len(usable) + with_global] == ["global"] * with_global
    if usable or shut or with_global:
        assert set(order[len(usable) + with_global :]) == shut
    assert all(c.reason in OBSTACLES for c in others)
    forbidden = {name for name, obstacle in of.items() if obstacle in ("drained", "region")}
    assert not forbidden & set(order)
    assert order or forbidden == set(of)  # whoever may be asked is asked in the end
    if choice.first is not None:
        assert order[0] == choice.first.route.name
        assert choice.first in (*field.runners, *field.trials, *field.suspects)
        assert choice.first not in field.suspects or choice.reason == "affinity"
        tiers = {s.route.tier for s, obstacle in entries if obstacle is None and s.state is State.CLOSED}
        assert not tiers or choice.first.route.tier <= min(tiers)
    assert choice.incumbent in (None, incumbent, *field.runners)
    if choice.moved:
        assert incumbent is not None
        assert incumbent in field.runners
        assert choice.incumbent is not incumbent


@given(all_entries(), st.data(), st.floats(0.0, 10.0))
def test_a_move_is_not_taken_back_at_once(entries: list[Entry], data: st.DataObject, usual: float) -> None:
    incumbent = data.draw(st.sampled_from([None, *(s for s, _ in entries)]), "incumbent")
    field = up(*entries)
    first = pick(field, usual=usual, incumbent=incumbent)
    second = pick(field, usual=usual, incumbent=first.incumbent)
    assert not second.moved
    assert second.incumbent is first.incumbent
