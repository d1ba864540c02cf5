"""The replay budget: never negative, never more than it is paid for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.budget import CAPACITY, Budget


def drain(budget: Budget, now: float) -> int:
    taken = 0
    while budget.take(now):
        taken += 1
        assert taken < 1_000
    return taken


def test_it_starts_full() -> None:
    assert drain(Budget(50.0), 50.0) == 10
    assert CAPACITY == 10.0


def test_a_replay_takes_a_whole_token() -> None:
    budget = Budget(0.0, tokens=0.999)
    assert not budget.take(0.0)
    assert budget.tokens == 0.999


@pytest.mark.parametrize(("requests", "replays"), [(9, 0), (11, 1), (55, 5), (10_000, 10)])
def test_ten_requests_pay_for_a_replay(requests: int, replays: int) -> None:
    budget = Budget(0.0, tokens=0.0)
    for _ in range(requests):
        budget.deposit()
    assert drain(budget, 0.0) == replays


@pytest.mark.parametrize(("seconds", "replays"), [(9.9, 0), (10.1, 1), (35.0, 3), (1e9, 10)])
def test_ten_seconds_pay_for_a_replay(seconds: float, replays: int) -> None:
    budget = Budget(100.0, tokens=0.0)
    assert drain(budget, 100.0 + seconds) == replays


def test_a_second_is_paid_for_once() -> None:
    budget = Budget(0.0, tokens=0.0)
    assert sum(budget.take(tick / 10) for tick in range(1_000)) == 9


def test_a_thread_that_looked_at_the_clock_before_another_mints_nothing() -> None:
    budget = Budget(100.0, tokens=0.0)
    assert not any(budget.take(now) for now in (105.0, 100.0) * 50)


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1e6)), max_size=200),
    st.floats(-1e6, 1e6),
)
def test_its_bounds(steps: list[float | None], begin: float) -> None:
    """None is a request, a number an attempt to take a token so many seconds after the beginning."""
    budget = Budget(begin)
    taken = 0
    for step in steps:
        if step is None:
            budget.deposit()
        else:
            taken += budget.take(begin + step)
        assert 0.0 <= budget.tokens <= CAPACITY
    seconds = max((step for step in steps if step is not None), default=0.0)
    assert taken <= CAPACITY + 0.1 * steps.count(None) + 0.1 * seconds + 1e-3
