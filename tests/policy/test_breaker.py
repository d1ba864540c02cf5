"""The breaker: each transition, each rule that leads to it, and how soon a healed route is back."""

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.breaker import (
    FIRST_BACKOFF,
    JITTER,
    LAST_BACKOFF,
    LAST_TRIAL_BACKOFF,
    UNPROBED,
    WINDOW_AGE,
    Breaker,
    State,
)

HEALED_WITHIN = 30.0


def breaker(random: Callable[[], float] = lambda: 0.5) -> Breaker:
    return Breaker(100.0, random)


def fail(breaker: Breaker, now: float, *, unreachable: bool = False, started: float | None = None) -> State:
    breaker.failed(now, "reset", unreachable=unreachable, started=now if started is None else started)
    return breaker.state


def opened(now: float = 100.0, random: Callable[[], float] = lambda: 0.5) -> Breaker:
    each = breaker(random)
    assert fail(each, now, unreachable=True) is State.OPEN
    return each


def on_trial(now: float = 110.0) -> Breaker:
    each = opened(now - 10.0)
    each.probed(now - 1.0, good=True)
    each.probed(now, good=True)
    assert each.state is State.HALF_OPEN
    return each


# --- closed -> open ------------------------------------------------------------------------------------


def test_it_begins_closed() -> None:
    assert breaker().state is State.CLOSED


def test_one_failure_to_connect_opens() -> None:
    each = breaker()
    each.failed(101.0, "connect", unreachable=True, started=101.0)
    assert (each.state, each.since, each.cause) == (State.OPEN, 101.0, "connect")


def test_three_failures_in_a_row_open() -> None:
    each = breaker()
    assert [fail(each, now) for now in (101.0, 102.0, 103.0)] == [State.CLOSED, State.CLOSED, State.OPEN]


def test_an_answer_breaks_the_row() -> None:
    each = breaker()
    for now in (101.0, 105.0):
        for _ in range(4):  # enough answers that the share of failures says nothing
            each.succeeded(now)
        assert fail(each, now + 1) is State.CLOSED
        assert fail(each, now + 2) is State.CLOSED


def test_half_of_the_last_outcomes_open() -> None:
    each = breaker()
    outcomes = [True, False, True, False, True, False]
    states = []
    for now, good in enumerate(outcomes, 101):
        each.succeeded(float(now)) if good else fail(each, float(now))
        states.append(each.state)
    assert states == [State.CLOSED] * 5 + [State.OPEN]


def test_half_of_fewer_than_five_outcomes_says_nothing() -> None:
    each = breaker()
    fail(each, 101.0)
    each.succeeded(102.0)
    fail(each, 103.0)
    assert fail(each, 104.0) is State.CLOSED


def test_only_the_last_ten_outcomes_count() -> None:
    each = breaker()
    for now in range(100):
        each.succeeded(101.0 + now)
    states = [fail(each, 210.0), fail(each, 211.0)]
    each.succeeded(212.0)
    states += [fail(each, 213.0), fail(each, 214.0)]
    each.succeeded(215.0)
    assert states == [State.CLOSED] * 4
    assert fail(each, 216.0) is State.OPEN  # five of the last ten, though never three in a row


def test_a_minority_of_failures_is_borne() -> None:
    each = breaker()
    for now in range(101, 1_000):
        if now % 3:
            each.succeeded(float(now))
        else:
            assert fail(each, float(now)) is State.CLOSED


def test_old_outcomes_say_nothing() -> None:
    each = breaker()
    for now in (101.0, 103.0):
        fail(each, now)
        each.succeeded(now + 1)
    later = 104.0 + WINDOW_AGE + 1
    assert fail(each, later) is State.CLOSED  # 3 of 5, were the old ones counted


def test_a_failure_from_before_the_last_transition_is_old_news() -> None:
    each = on_trial(110.0)
    assert fail(each, 111.0, unreachable=True, started=109.9) is State.HALF_OPEN
    each.succeeded(112.0)
    for _ in range(10):
        assert fail(each, 113.0, unreachable=True, started=111.9) is State.CLOSED
    assert fail(each, 114.0, unreachable=True, started=113.0) is State.OPEN


def test_failures_of_an_open_route_change_nothing() -> None:
    each = opened(100.0)
    before = (each.since, each.retry_at, each.cause)
    each.failed(105.0, "tls", unreachable=True, started=104.0)
    each.succeeded(105.0)
    assert (each.state, each.since, each.retry_at, each.cause) == (State.OPEN, *before)


# --- open -> half-open ---------------------------------------------------------------------------------


def test_two_good_probes_put_it_on_trial() -> None:
    each = opened(100.0)
    each.probed(101.0, good=True)
    assert each.state is State.OPEN
    assert each.retry_at == 101.0 + FIRST_BACKOFF  # the second follows soon, however long the outage was
    each.probed(102.0, good=True)
    assert (each.state, each.since) == (State.HALF_OPEN, 102.0)


def test_the_two_must_follow_one_another() -> None:
    each = opened(100.0)
    for now in range(101, 111, 2):
        each.probed(float(now), good=True)
        each.probed(now + 1.0, good=False)
    assert each.state is State.OPEN


def test_probes_of_a_route_that_is_not_open_change_nothing() -> None:
    for each in (breaker(), on_trial()):
        state = each.state
        each.probed(120.0, good=True)
        each.probed(121.0, good=False)
        assert each.state is state


def test_the_backoff_doubles_up_to_its_end() -> None:
    each = opened(100.0)
    now, waits = 100.0, [each.retry_at - 100.0]
    for _ in range(8):
        now = each.retry_at
        each.probed(now, good=False)
        waits.append(each.retry_at - now)
    assert waits[:5] == pytest.approx([1.0, 2.0, 4.0, 8.0, 10.0])
    assert waits[5:] == pytest.approx([LAST_BACKOFF] * 4)


@given(st.integers(0, 2**32).map(Random), st.integers(0, 20))
def test_the_jitter_stays_in_its_bounds(random: Random, failures: int) -> None:
    each = opened(100.0, random.random)
    backoff, now = FIRST_BACKOFF, 100.0
    for _ in range(failures):
        assert backoff * (1 - JITTER) - 1e-9 <= each.retry_at - now <= backoff * (1 + JITTER) + 1e-9
        now = each.retry_at
        each.probed(now, good=False)
        backoff = min(backoff * 2, LAST_BACKOFF)


def test_the_jitter_spreads() -> None:
    random = Random(1)
    assert len({opened(random=random.random).retry_at for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("probed_since", "trial_at"),
    [
        (None, 101.0),  # nobody probes: when a probe would have been due
        (0.0, 101.0 + UNPROBED),  # somebody should have
        (100.5, 101.0 + UNPROBED),
        (500.0, 500.0 + UNPROBED),  # probing has only begun: it gets its chance first
    ],
)
def test_where_nobody_probes_time_puts_it_on_trial(probed_since: float | None, trial_at: float) -> None:
    each = opened(100.0)
    assert each.retry_at == 101.0
    states = []
    for now in (trial_at - 0.01, trial_at):
        each.give_up_waiting(now, probed_since)
        states.append(each.state)
    assert states == [State.OPEN, State.HALF_OPEN]


def test_waiting_is_given_up_for_open_routes_alone() -> None:
    each = breaker()
    each.give_up_waiting(1e9, None)
    assert each.state is State.CLOSED


# --- half-open -----------------------------------------------------------------------------------------


def test_one_answer_closes() -> None:
    each = on_trial(110.0)
    each.succeeded(111.0)
    assert (each.state, each.since) == (State.CLOSED, 111.0)


@pytest.mark.parametrize("unreachable", [True, False])
def test_one_failure_opens_again_and_for_longer(unreachable: bool) -> None:
    each = on_trial(110.0)
    assert fail(each, 111.0, unreachable=unreachable) is State.OPEN
    assert each.retry_at - 111.0 == 2 * FIRST_BACKOFF


def test_what_was_before_an_outage_does_not_count_after_it() -> None:
    each = breaker()
    for now in (101.0, 102.0, 103.0):
        fail(each, now)
    each.probed(105.0, good=True)
    each.probed(106.0, good=True)
    each.succeeded(107.0)
    assert [fail(each, now) for now in (108.0, 109.0)] == [State.CLOSED] * 2


def test_flapping_is_damped() -> None:
    """A route that answers probes and fails its trials is put on trial ever more seldom."""
    each = opened(100.0)
    trials = []
    for _ in range(12):
        each.probed(now := each.retry_at, good=True)
        each.probed(now := each.retry_at, good=True)
        assert each.state.value == "half_open"
        trials.append(now)
        fail(each, now)
    gaps = [later - earlier for earlier, later in pairwise(trials)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= LAST_TRIAL_BACKOFF > 3 * gaps[0]


def test_a_failed_probe_does_not_shorten_what_failed_trials_have_made_long() -> None:
    each = opened(100.0)
    for _ in range(12):
        each.probed(each.retry_at, good=True)
        each.probed(now := each.retry_at, good=True)
        fail(each, now)
    for _ in range(3):
        each.probed(now := each.retry_at, good=False)
        assert each.retry_at - now == LAST_TRIAL_BACKOFF


# --- taken back ----------------------------------------------------------------------------------------


def test_an_opening_that_was_not_the_routes_fault_is_taken_back() -> None:
    each = opened(100.0)
    assert each.restore(101.0, within=1.0)
    assert (each.state, each.since) == (State.CLOSED, 101.0)
    assert fail(each, 102.0, unreachable=True, started=100.5) is State.CLOSED  # nor is what was sent before
    assert [fail(each, now) for now in (102.0, 103.0)] == [State.CLOSED] * 2


def test_an_opening_of_long_ago_is_not_taken_back() -> None:
    each = opened(100.0)
    assert not each.restore(101.1, within=1.0)
    assert each.state is State.OPEN


def test_there_is_nothing_to_take_back_from_a_route_that_is_not_open() -> None:
    for each in (breaker(), on_trial(110.0)):
        state = each.state
        assert not each.restore(110.5, within=99.0)
        assert each.state is state


def test_a_good_trial_halves_the_backoff_and_does_not_reset_it() -> None:
    each = opened(100.0)
    for _ in range(3):
        each.probed(each.retry_at, good=False)  # 2, 4, 8
    waits = []
    for _ in range(5):
        each.probed(each.retry_at, good=True)
        each.probed(now := each.retry_at, good=True)
        each.succeeded(now)
        fail(each, now, unreachable=True)
        waits.append(each.retry_at - now)
    assert waits == pytest.approx([4.0, 2.0, 1.0, 1.0, 1.0])


# --- recovery ------------------------------------------------------------------------------------------


@given(
    outage=st.floats(0.0, 100_000.0),
    earlier=st.lists(st.floats(0.0, 300.0), max_size=3),
    seed=st.integers(0, 2**32),
    late=st.floats(0.0, 1.0),
)
def test_a_healed_route_is_on_trial_within_thirty_seconds(
    outage: float, earlier: list[float], seed: int, late: float
) -> None:
    """Whatever the outage's length, the outages before it, and luck; each probe up to a second late."""
    each = Breaker(0.0, Random(seed).random)
    now = 0.0
    for length in [*earlier, outage]:
        fail(each, now, unreachable=True)
        healed = now + length
        while each.state is State.OPEN:
            now = each.retry_at + late
            each.probed(now, good=now >= healed)
        assert now - healed < HEALED_WITHIN
        each.succeeded(now)
        assert each.state.value == "closed"


@given(trials=st.integers(1, 20), outage=st.floats(0.0, 1_000.0), seed=st.integers(0, 2**32))
def test_a_route_that_failed_its_trials_is_on_trial_again_in_time(trials: int, outage: float, seed: int) -> None:
    """It answers probes and no requests: then every look costs a request."""
    each = Breaker(0.0, Random(seed).random)
    fail(each, now := 0.0, unreachable=True)
    for _ in range(trials):
        while each.state is State.OPEN:
            each.probed(now := each.retry_at, good=True)
        fail(each, now)
    healed = now + outage
    while each.state is State.OPEN:
        each.probed(now := each.retry_at, good=now >= healed)
    assert now - healed <= (LAST_TRIAL_BACKOFF + 2 * FIRST_BACKOFF) * (1 + JITTER)
