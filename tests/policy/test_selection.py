"""Who is asked first, and why."""

from math import hypot, inf

import pytest

from smartroute.policy.breaker import State
from smartroute.policy.selection import (
    ERRORS,
    IMPATIENCE,
    LEAST_GAIN,
    MOST_WASTED,
    OPTIMISM,
    Choice,
    Standing,
)
from tests.policy.standings import NOW, pick, running, standing, up

DOUBT = 2 / OPTIMISM
"""An error with which a route may be many times better than believed."""


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
    choice = pick(running(incumbent, measured), incumbent=incumbent)
    assert is_choice(choice, measured, "best", measured, moved=False)


def test_an_unmeasured_challenger_does_not_win() -> None:
    incumbent = standing("a", 9.0)
    assert is_choice(
        pick(running(incumbent, standing("b")), incumbent=incumbent), incumbent, "incumbent", incumbent, moved=False
    )


def test_an_incumbent_that_does_not_run_is_replaced() -> None:
    lost, other = standing("a", 0.01), standing("b", 0.30)
    choice = pick(running(other), incumbent=lost)
    assert is_choice(choice, other, "best", other, moved=False)  # it was not left for a score


@pytest.mark.parametrize("score", [2 * LEAST_GAIN, 1.0, 100.0])
@pytest.mark.parametrize(("gain", "leaves"), [(-1.0, False), (0.0, False), (0.9, False), (1.1, True)])
def test_the_incumbent_is_left_for_a_clearly_better_challenger_only(score: float, gain: float, leaves: bool) -> None:
    incumbent, challenger = standing("a", score), standing("b", score - gain * LEAST_GAIN)
    choice = pick(running(incumbent, challenger), incumbent=incumbent)
    if leaves:
        assert is_choice(choice, challenger, "best", challenger, moved=True)
    else:
        assert is_choice(choice, incumbent, "incumbent", incumbent, moved=False)


@pytest.mark.parametrize(("share", "leaves"), [(0.9, False), (1.1, True)])
def test_what_is_better_by_less_than_our_own_error_is_not_clearly_better(share: float, leaves: bool) -> None:
    doubt = 10 * LEAST_GAIN / ERRORS
    incumbent = standing("a", 1.0, error=0.6 * doubt)
    challenger = standing("b", 1.0 - share * doubt * ERRORS, error=0.8 * doubt)
    assert hypot(incumbent.error, challenger.error) == pytest.approx(doubt)
    assert pick(running(incumbent, challenger), incumbent=incumbent, usual=1.0).moved is leaves
    assert pick(running(incumbent, challenger), incumbent=incumbent, usual=0.0).moved  # the way is measured well


def test_while_the_incumbent_says_nothing_requests_make_a_detour() -> None:
    """That may be over soon: nobody is made the incumbent for it."""
    silent, near, far = standing("a", 0.01), standing("b", 0.2), standing("c", 0.3)
    choice = pick(running(far, near, suspects=(silent,)), incumbent=silent)
    assert is_choice(choice, near, "detour", silent, moved=False)


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
    near, fast = standing("near", 0.01), standing("fast", 0.01 + LEAST_GAIN, factor=0.5)
    usual = 2 * 1.9 * LEAST_GAIN
    choice = pick(running(near, fast), incumbent=near, usual=usual, typical=0.0)
    assert fast.score(usual) < near.score(usual)
    assert is_choice(choice, near, "incumbent", near, moved=False)


def test_what_is_better_for_most_requests_is_a_move() -> None:
    """Also if this one is a request of another size, that is no better off."""
    incumbent, challenger = standing("a", 0.10), standing("b", 0.12, factor=0.5)
    choice = pick(running(incumbent, challenger), incumbent=incumbent, usual=0.041, typical=1.0)
    assert is_choice(choice, challenger, "best", challenger, moved=True)


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
def test_without_a_saving_it_moves_for_what_others_move_for(loss: float, stays: bool) -> None:
    best, home = standing("a", 1.0), standing("b", 1.0 + loss * LEAST_GAIN)
    assert (pick(running(best, home), incumbent=best, home=home).first is home) is stays


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


@pytest.mark.parametrize(("gain", "tried"), [(0.9, False), (1.1, True)])
def test_a_healed_route_that_is_not_clearly_better_waits(gain: float, tried: bool) -> None:
    current = standing("b", 1.0)
    healed = standing("a", 1.0 - gain * LEAST_GAIN, state=State.HALF_OPEN)
    choice = pick(running(current, trials=(healed,)), incumbent=current)
    assert is_choice(choice, healed if tried else current, "trial" if tried else "incumbent", current, moved=False)


def test_a_healed_route_of_which_little_is_known_any_more_is_given_the_benefit_of_the_doubt() -> None:
    current = standing("b", 1.0)
    healed = standing("a", 0.5, factor=1.1, error=DOUBT, state=State.HALF_OPEN)
    sure = standing("a", 0.5, factor=1.1, state=State.HALF_OPEN)
    assert pick(running(current, trials=(healed,)), usual=5.5, incumbent=current).first is healed
    assert pick(running(current, trials=(sure,)), usual=5.5, incumbent=current).first is current


def test_where_nobody_is_healthy_a_request_is_a_trial_and_makes_no_incumbent() -> None:
    healed = standing("a", 0.1, state=State.HALF_OPEN)
    for incumbent in (None, healed):
        assert is_choice(pick(running(healed), incumbent=incumbent), healed, "trial", None, moved=False)


# --- exploration ---------------------------------------------------------------------------------------


def hopeful(
    name: str = "b", *, worse: float = 0.5 * MOST_WASTED, error: float = DOUBT, look_at: float = 0.0
) -> Standing:
    """A route that is believed to be so many seconds worse than one of score 1, and may be better."""
    return standing(name, factor=1.0 + worse, round_trip=0.0, error=error, look_at=look_at)


def explored(*others: Standing, spare: bool | None = True) -> Standing | None:
    current = standing("a", 0.0)
    choice = pick(running(current, *others), usual=1.0, incumbent=current, spare=spare)
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


def test_the_longer_a_look_is_due_the_more_it_may_cost() -> None:
    """But for that, a route that was very slow would not be seen to be healed until all is forgotten."""
    left = standing("b", -0.1, factor=1.1 + 3 * MOST_WASTED, left=True)
    left.look_at = NOW - 1.9 * MOST_WASTED / IMPATIENCE
    assert explored(left) is None
    left.look_at = NOW - 2.1 * MOST_WASTED / IMPATIENCE
    assert explored(left) is left
    left.left, left.error = False, DOUBT
    assert explored(left) is None


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
