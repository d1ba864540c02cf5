"""The budgets of replays and hedges: never negative, never more than is paid for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.budget import CAPACITY, HEDGE_CAPACITY, Budget, hedges, replays


def drain(budget: Budget, now: float) -> int:
    taken = 0
    while budget.take(now):
        taken += 1
        assert taken < 1_000
    return taken


def holding(tokens: float, now: float) -> Budget:
    budget = replays(now)
    budget.tokens = tokens
    return budget


def test_it_starts_full() -> None:
    assert drain(replays(50.0), 50.0) == 10
    assert CAPACITY == 10.0


def test_a_replay_takes_a_whole_token() -> None:
    budget = holding(0.999, 0.0)
    assert not budget.take(0.0)
    assert budget.tokens == 0.999


@pytest.mark.parametrize(("requests", "tokens"), [(9, 0), (11, 1), (55, 5), (10_000, 10)])
def test_ten_requests_pay_for_a_replay(requests: int, tokens: int) -> None:
    budget = holding(0.0, 0.0)
    for _ in range(requests):
        budget.deposit()
    assert drain(budget, 0.0) == tokens


@pytest.mark.parametrize(("seconds", "tokens"), [(9.9, 0), (10.1, 1), (35.0, 3), (1e9, 10)])
def test_ten_seconds_pay_for_a_replay(seconds: float, tokens: int) -> None:
    budget = holding(0.0, 100.0)
    assert drain(budget, 100.0 + seconds) == tokens


def test_a_second_is_paid_for_once() -> None:
    budget = holding(0.0, 0.0)
    assert sum(budget.take(tick / 10) for tick in range(1_000)) == 9


def test_a_thread_that_looked_at_the_clock_before_another_mints_nothing() -> None:
    budget = holding(0.0, 100.0)
    assert not any(budget.take(now) for now in (105.0, 100.0) * 50)


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e6)), max_size=200),
    st.floats(-1e6, 1e6),
)
def test_its_bounds(steps: list[float | None], begin: float) -> None:
    """None is a request, a number an attempt to take a token so many seconds after the beginning."""
    budget = replays(begin)
    taken = 0
    for step in steps:
        if step is None:
            budget.deposit()
        else:
            taken += budget.take(begin + step)
        assert 0.0 <= budget.tokens <= CAPACITY
    seconds = max((step for step in steps if step is not None), default=0.0)
    assert taken <= CAPACITY + 0.1 * steps.count(None) + 0.1 * seconds + 1e-3


def test_hedges_have_a_smaller_budget_of_their_own() -> None:
    budget = hedges(0.0)
    assert drain(budget, 0.0) == HEDGE_CAPACITY == 5.0
    for _ in range(101):
        budget.deposit()
    assert drain(budget, 0.0) == 2
    assert drain(budget, 61.0) == 1
