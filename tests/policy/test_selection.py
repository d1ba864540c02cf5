"""The ranking: who may run, who is asked first and why, and who after that."""

from math import hypot, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.breaker import State
from smartroute.policy.selection import (
    ERRORS,
    INTOLERABLE,
    LEAST_GAIN,
    LEAST_SHARE,
    MOST_WASTED,
    OPTIMISM,
    RELUCTANT,
    WORTH_STAYING,
    Choice,
    Field,
    Standing,
    candidate,
    choose,
    draw_up,
    in_order,
    left_out,
)
from smartroute.route import Route
from tests.policy.driving import WORLDWIDE, route

NOW = 1_000.0
PLENTY = 10 * LEAST_GAIN / LEAST_SHARE
"""Seconds of a score at which the share is more than the least gain."""
LITTLE = LEAST_GAIN / LEAST_SHARE / 2
"""... and at which it is less."""


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
    held_until: float = 0.0,
    home: Standing | None = None,
    saving: float = 0.0,
    spare: bool | None = None,
) -> Choice:
    return choose(
        field,
        usual,
        incumbent=incumbent,
        typical=usual if typical is None else typical,
        held_until=held_until,
        home=home,
        saving=saving,
        spare=spare,
        now=NOW,
    )


def is_choice(choice: Choice, first: Standing | None, reason: str, incumbent: Standing | None, moved: bool) -> bool:
    return (choice.first, choice.reason, choice.incumbent, choice.moved) == (first, reason, incumbent, moved)


# --- the incumbent -------------------------------------------------------------------------------------


def test_the_lowest_score_is_first() -> None:
    near, far = standing("near", 0.02), standing("far", 0.08)
    assert is_choice(pick(running(far, near)), near, "best", near, moved=False)


def test_a_score_is_the_way_and_the_service() -> None:
    near, fast = standing("near", 0.02, factor=2.0), standing("fast", 0.12)
    assert near.score(1.0) == pytest.approx(2.02)
    assert pick(running(near, fast), usual=1.0).first is fast
    assert pick(running(near, fast), usual=0.01).first is near


def test_nobody_runs() -> None:
    assert is_choice(pick(running()), None, "", None, moved=False)


def test_without_measurements_the_configuration_decides() -> None:
    first, second = standing("c"), standing("a")
    choice = pick(running(first, second))
    assert is_choice(choice, first, "unmeasured", None, moved=False)  # chance is not to be stuck to


def test_a_measured_route_comes_before_one_that_is_not() -> None:
    unmeasured, measured = standing("a"), standing("b", 0.3)
    assert is_choice(pick(running(unmeasured, measured)), measured, "best", measured, moved=False)


def test_an_unmeasured_incumbent_is_left_for_a_measured_route_but_not_for_its_score() -> None:
    incumbent, measured = standing("a"), standing("b", 0.3)
    choice = pick(running(incumbent, measured), incumbent=incumbent, held_until=NOW + 1)
    assert is_choice(choice, measured, "best", measured, moved=False)


def test_an_unmeasured_challenger_does_not_win() -> None:
    incumbent = standing("a", 9.0)
    assert is_choice(
        pick(running(incumbent, standing("b")), incumbent=incumbent), incumbent, "incumbent", incumbent, moved=False
    )


def test_an_incumbent_that_does_not_run_is_replaced_whatever_the_hold() -> None:
    lost, other = standing("a", 0.01), standing("b", 0.30)
    choice = pick(running(other), incumbent=lost, held_until=NOW + 99)
    assert is_choice(choice, other, "best", other, moved=False)  # no move for a score: it starts no hold


@pytest.mark.parametrize(
    ("score", "gain", "leaves"),
    [
        (LITTLE, 0.0, False),
        (LITTLE, 0.9 * LEAST_GAIN, False),
        (LITTLE, 1.1 * LEAST_GAIN, True),
        (PLENTY, 0.9 * LEAST_SHARE * PLENTY, False),
        (PLENTY, 1.1 * LEAST_SHARE * PLENTY, True),
        (PLENTY, -0.5 * PLENTY, False),
    ],
)
def test_the_incumbent_is_left_for_a_clearly_better_challenger_only(score: float, gain: float, leaves: bool) -> None:
    incumbent, challenger = standing("a", score), standing("b", score - gain)
    choice = pick(running(incumbent, challenger), incumbent=incumbent)
    if leaves:
        assert is_choice(choice, challenger, "best", challenger, moved=True)
    else:
        assert is_choice(choice, incumbent, "incumbent", incumbent, moved=False)


@pytest.mark.parametrize(("share", "leaves"), [(0.9, False), (1.1, True)])
def test_what_is_better_by_less_than_our_own_error_is_not_clearly_better(share: float, leaves: bool) -> None:
    round_trip, usual = PLENTY, 1.0
    doubt = 2 * LEAST_SHARE * (round_trip + usual) / ERRORS  # more than the share that is asked for anyway
    incumbent = standing("a", round_trip, error=0.6 * doubt)
    challenger = standing("b", round_trip - share * doubt * ERRORS, error=0.8 * doubt)
    assert hypot(incumbent.error, challenger.error) == pytest.approx(doubt)
    assert pick(running(incumbent, challenger), incumbent=incumbent, usual=usual).moved is leaves
    assert pick(running(incumbent, challenger), incumbent=incumbent, usual=0.0).moved  # the way is measured well


def test_while_the_incumbent_says_nothing_requests_make_a_detour() -> None:
    """That may be over soon: nobody is made the incumbent for it."""
    silent, near, far = standing("a", 0.01), standing("b", 0.2), standing("c", 0.3)
    choice = pick(running(far, near, suspects=(silent,)), incumbent=silent)
    assert is_choice(choice, near, "detour", silent, moved=False)


# --- the hold ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("worse", "held_until", "leaves"),
    [
        (0.9 * INTOLERABLE, NOW + 0.1, False),  # better, but too soon
        (0.9 * INTOLERABLE, NOW, True),
        (1.1 * INTOLERABLE, NOW + 0.1, True),
    ],
)
def test_not_soon_after_the_last_move_unless_it_is_intolerable(worse: float, held_until: float, leaves: bool) -> None:
    incumbent, challenger = standing("a", worse * PLENTY), standing("b", PLENTY)
    choice = pick(running(incumbent, challenger), incumbent=incumbent, held_until=held_until)
    assert choice.moved is leaves
    assert choice.first is (challenger if leaves else incumbent)


def test_many_times_next_to_nothing_is_tolerable() -> None:
    incumbent, challenger = standing("a", 0.9 * LEAST_GAIN), standing("b", 0.01 * LEAST_GAIN)
    assert not pick(running(incumbent, challenger), incumbent=incumbent, held_until=NOW + 1).moved


# --- size ----------------------------------------------------------------------------------------------


def test_a_request_of_another_size_may_be_better_off_elsewhere() -> None:
    """The near route is slow with long prompts; most prompts are short."""
    near, fast = standing("near", 0.01, factor=2.0), standing("fast", 0.41)
    long, short = 50.0, 0.01
    choice = pick(running(near, fast), incumbent=near, usual=long, typical=short)
    assert is_choice(choice, fast, "size", near, moved=False)
    choice = pick(running(near, fast), incumbent=near, usual=short, typical=short)
    assert is_choice(choice, near, "incumbent", near, moved=False)


def test_not_if_it_is_hardly_better_off() -> None:
    near, fast = standing("near", 0.01, factor=1.0 + LEAST_SHARE / 2), standing("fast", 0.41)
    choice = pick(running(near, fast), incumbent=near, usual=50.0, typical=0.01)
    assert is_choice(choice, near, "incumbent", near, moved=False)


def test_what_is_better_for_all_requests_is_a_move_and_waits_for_the_holds_end() -> None:
    incumbent, challenger = standing("a", PLENTY * INTOLERABLE * 0.9), standing("b", PLENTY)
    choice = pick(running(incumbent, challenger), incumbent=incumbent, typical=0.001, held_until=NOW + 1)
    assert is_choice(choice, incumbent, "incumbent", incumbent, moved=False)


# --- spill-over ----------------------------------------------------------------------------------------


def test_what_is_too_much_for_the_incumbent_spills_over() -> None:
    busy, idle = standing("a", 0.10, load=2.0), standing("b", 0.19)
    assert is_choice(pick(running(busy, idle), incumbent=busy), idle, "spill", busy, moved=False)


def test_a_busy_incumbent_that_is_still_the_best_is_kept() -> None:
    busy, idle = standing("a", 0.10, load=1.8), standing("b", 0.19)
    assert is_choice(pick(running(busy, idle), incumbent=busy), busy, "incumbent", busy, moved=False)


def test_a_route_that_may_get_nothing_now_gets_nothing() -> None:
    full, far = standing("a", 0.01, load=inf), standing("b", 9.0)
    assert pick(running(full, far), incumbent=full).first is far
    assert pick(running(full, far)).first is far


def test_where_all_are_full_somebody_is_asked() -> None:
    full = standing("a", 0.01, load=inf)
    assert pick(running(full, standing("b", 0.02, load=inf)), incumbent=full).first is not None


# --- affinity ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "stays"), [(0.9, True), (1.1, False)])
def test_a_conversation_stays_while_the_warm_cache_is_worth_it(loss: float, stays: bool) -> None:
    best, home, saving = standing("a", 0.01), standing("b", 0.01 + loss * 5.0), 5.0
    choice = pick(running(best, home), incumbent=best, home=home, saving=saving)
    assert is_choice(choice, home if stays else best, "affinity" if stays else "incumbent", best, moved=False)


@pytest.mark.parametrize(("loss", "stays"), [(0.9, True), (1.1, False)])
def test_where_the_saving_is_not_known_a_share_is_worth_staying_for(loss: float, stays: bool) -> None:
    near = standing("a", 0.0)
    home = standing("b", 0.9 * LEAST_GAIN)  # next to nothing
    assert pick(running(near, home), incumbent=near, home=home).first is home
    far = standing("c", PLENTY)
    near = standing("d", PLENTY * (1 - loss * WORTH_STAYING))
    assert (pick(running(near, far), incumbent=near, home=far).first is far) is stays


def test_a_conversation_on_the_best_route_changes_nothing() -> None:
    best = standing("a", 0.01)
    choice = pick(running(best, standing("b", 0.3)), incumbent=best, home=best, saving=9.0)
    assert is_choice(choice, best, "incumbent", best, moved=False)


def test_a_conversation_does_not_keep_the_incumbent_from_moving() -> None:
    home, better = standing("a", 1.0), standing("b", 0.5)
    choice = pick(running(home, better), incumbent=home, home=home, saving=9.0)
    assert is_choice(choice, home, "affinity", better, moved=True)


def test_a_conversation_leaves_a_route_that_does_not_run_or_may_get_nothing_now() -> None:
    best, lost = standing("a", 0.10), standing("b", 0.11)
    assert pick(running(best), incumbent=best, home=lost, saving=9.0).first is best
    full = standing("c", 0.11, load=inf)
    assert pick(running(best, full), incumbent=best, home=full, saving=9.0).first is best


def test_a_conversation_stays_on_a_busy_route() -> None:
    best, home = standing("a", 0.10), standing("b", 0.11, load=5.0)
    assert pick(running(best, home), incumbent=best, home=home, saving=1.0).first is home


def test_a_conversation_does_not_leave_a_route_for_one_overdue_answer() -> None:
    best, home = standing("a", 0.10), standing("b", 0.11)
    assert pick(running(best, suspects=(home,)), incumbent=best, home=home, saving=1.0).first is home
    silent = standing("b", 0.11, silent=True)  # but for a verification that has failed
    assert pick(running(best, suspects=(silent,)), incumbent=best, home=silent, saving=1.0).first is best


@pytest.mark.parametrize("obstacle", [None, "suspect"])
def test_a_conversation_leaves_a_route_of_a_worse_tier(obstacle: str | None) -> None:
    best, home = standing("a", 0.10, tier=0), standing("b", 0.10, tier=1)
    field = up((best, None), (home, obstacle))
    assert pick(field, incumbent=best, home=home, saving=1.0).first is best


def test_a_conversation_is_no_guinea_pig() -> None:
    best, doubtful = standing("a", 1.0), standing("b", 1.1, error=2 / OPTIMISM)
    trial = standing("c", 0.1, state=State.HALF_OPEN)
    choice = pick(running(best, doubtful, trials=(trial,)), usual=1.0, incumbent=best, home=best, spare=True)
    assert is_choice(choice, best, "incumbent", best, moved=False)


# --- trials --------------------------------------------------------------------------------------------


def test_a_healed_route_that_is_better_gets_its_trial() -> None:
    current, healed = standing("b", 0.5), standing("a", 0.1, state=State.HALF_OPEN)
    assert is_choice(pick(running(current, trials=(healed,)), incumbent=current), healed, "trial", current, moved=False)


def test_a_healed_route_that_is_not_clearly_better_waits() -> None:
    current = standing("b", LITTLE)
    healed = standing("a", LITTLE - 0.9 * LEAST_GAIN, state=State.HALF_OPEN)
    choice = pick(running(current, trials=(healed,)), incumbent=current)
    assert is_choice(choice, current, "incumbent", current, moved=False)


def test_where_nobody_is_healthy_a_request_is_a_trial_and_makes_no_incumbent() -> None:
    healed = standing("a", 0.1, state=State.HALF_OPEN)
    for incumbent in (None, healed):
        assert is_choice(pick(running(healed), incumbent=incumbent), healed, "trial", None, moved=False)


# --- exploration ---------------------------------------------------------------------------------------

DOUBT = 2 / OPTIMISM
"""An error with which a route may be many times better than believed."""


def hopeful(
    name: str = "b", *, worse: float = 0.5 * MOST_WASTED, error: float = DOUBT, look_at: float = 0.0
) -> Standing:
    """A route that is believed to be so many seconds worse than one of score 1, and may be better."""
    return standing(name, factor=1.0 + worse, round_trip=0.0, error=error, look_at=look_at)


def explored(*others: Standing, spare: bool | None = True) -> Standing | None:
    current = standing("a", 0.0)
    choice = pick(running(current, *others), usual=1.0, incumbent=current, spare=spare, held_until=NOW + 1)
    assert choice.reason == ("incumbent" if choice.first is current else "explore")
    assert (choice.incumbent, choice.moved) == (current, False)
    return None if choice.first is current else choice.first


def test_a_route_that_may_be_better_is_looked_at() -> None:
    other = hopeful()
    assert explored(other) is other


def test_not_if_this_request_may_not() -> None:
    assert explored(hopeful(), spare=None) is None
    assert explored(hopeful(), spare=False) is None


def test_not_if_even_the_optimist_sees_no_gain() -> None:
    assert explored(hopeful(error=0.0)) is None
    assert explored(standing("b", 2.0, error=DOUBT)) is None  # the way alone is longer


def test_not_if_it_might_cost_too_much() -> None:
    assert explored(hopeful(worse=1.1 * MOST_WASTED, error=5 * DOUBT)) is None


def test_not_before_its_time() -> None:
    assert explored(hopeful(look_at=NOW + 0.1)) is None
    assert explored(hopeful(look_at=NOW)) is not None


def test_the_most_hopeful_is_looked_at_first() -> None:
    best = hopeful("d", error=1.2 * DOUBT)
    assert explored(hopeful("b"), best, hopeful("c")) is best


@pytest.mark.parametrize("spare", [True, False])
def test_a_route_that_was_left_may_be_healed_however_sure_we_were(spare: bool) -> None:
    left = standing("b", -0.1, factor=1.0 + 0.5 * MOST_WASTED, left=True)
    assert explored(left, spare=spare) is left
    left.look_at = NOW + 1
    assert explored(left, spare=spare) is None
    left.look_at, left.left = 0.0, False
    assert explored(left, spare=spare) is None


def test_only_the_incumbents_requests_explore() -> None:
    """What spills over, or moves, is surprise enough."""
    busy, idle, doubtful = standing("a", 0.0, load=9.0), standing("b", 0.1), hopeful("c", worse=0.9 * MOST_WASTED)
    assert pick(running(busy, idle, doubtful), usual=1.0, incumbent=busy, spare=True).reason == "spill"
    assert pick(running(idle, doubtful), usual=1.0, spare=True).reason == "best"


def test_a_trial_goes_before_a_look() -> None:
    current, healed = standing("a", 1.0), standing("b", 0.1, state=State.HALF_OPEN)
    doubtful = standing("c", 1.0, error=DOUBT)
    choice = pick(running(current, doubtful, trials=(healed,)), usual=1.0, incumbent=current, spare=True)
    assert choice.first is healed


# --- who may run ---------------------------------------------------------------------------------------

Entry = tuple[Standing, str | None]


def up(*entries: Entry, fallback: Route | None = WORLDWIDE, since: dict[str, float] | None = None) -> Field:
    return draw_up(entries, fallback, lambda s: (since or {}).get(s.route.name, 0.0))


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
    assert is_choice(pick(field, incumbent=current), healed, "trial", current, moved=False)


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


@given(all_entries(), st.booleans(), st.data(), st.floats(0.0, 10.0), st.floats(NOW - 50, NOW + 50))
def test_every_ranking(
    entries: list[Entry], with_global: bool, data: st.DataObject, usual: float, held_until: float
) -> None:
    anybody = st.sampled_from([None, standing("gone", 0.01), *(s for s, _ in entries)])
    incumbent, home = data.draw(anybody, "incumbent"), data.draw(anybody, "home")
    spare = data.draw(st.sampled_from([None, False, True]), "spare")
    field = up(*entries, fallback=WORLDWIDE if with_global else None)

    def again() -> Choice:
        return pick(field, usual=usual, incumbent=incumbent, held_until=held_until, home=home, spare=spare)

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
