"""Requests in flight against a limit that is learned: what is too much spills over."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.load import (
    CUT,
    EXPONENT,
    FIRST_LIMIT,
    INFLATED,
    LEAST_LIMIT,
    PERIOD,
    RAMP,
    RAMP_FROM,
    RISE,
    Load,
)

HALF = int(FIRST_LIMIT // 2)


def flying(count: int, now: float = 0.0) -> Load:
    load = Load()
    for _ in range(count):
        load.departed(now)
    return load


def test_what_departs_arrives() -> None:
    load = flying(3)
    assert load.in_flight == 3
    load.arrived()
    assert load.in_flight == 2


# --- the penalty ---------------------------------------------------------------------------------------


def test_below_half_of_the_limit_load_costs_nothing() -> None:
    load = flying(HALF - 1)
    assert not load.busy
    assert load.penalty(0.0) == 1.0


def test_a_busy_route_costs_more_and_more() -> None:
    load = flying(HALF)
    assert load.busy
    penalties = []
    for in_flight in (HALF, HALF + 1, int(FIRST_LIMIT), 2 * int(FIRST_LIMIT)):
        load.in_flight = in_flight
        penalties.append(load.penalty(0.0))
        assert penalties[-1] == pytest.approx(1 + ((in_flight + 1) / FIRST_LIMIT) ** EXPONENT)
    assert penalties == sorted(penalties)
    assert penalties[0] > 1.0


# --- the limit -----------------------------------------------------------------------------------------


def test_it_rises_while_it_is_used_and_answers_come_in_time() -> None:
    load = flying(HALF)
    load.answered(1.0)
    load.departed(PERIOD)
    assert load.limit == FIRST_LIMIT * RISE + 1


def test_it_is_looked_at_once_in_a_while() -> None:
    load = flying(HALF)
    load.departed(PERIOD * 0.9)
    assert load.limit == FIRST_LIMIT
    load.departed(PERIOD)
    raised = load.limit
    load.departed(PERIOD * 1.9)
    assert load.limit == raised


def test_what_is_not_used_proves_nothing() -> None:
    load = flying(HALF - 2)
    load.answered(1.0)
    load.departed(PERIOD)
    assert load.limit == FIRST_LIMIT


def test_it_is_cut_below_what_was_too_much_when_most_answers_are_slow() -> None:
    load = flying(HALF)
    for slower in (2 * INFLATED, 2 * INFLATED, 1.0):
        load.answered(slower)
    load.departed(PERIOD)
    assert load.limit == CUT * (HALF + 1)


def test_a_few_slow_answers_do_not_cut_it() -> None:
    load = flying(HALF)
    for slower in (2 * INFLATED, 1.0, INFLATED):
        load.answered(slower)
    load.departed(PERIOD)
    assert load.limit > FIRST_LIMIT


def test_each_look_counts_its_own_answers() -> None:
    load = flying(HALF)
    load.answered(2 * INFLATED)
    load.departed(PERIOD)
    cut = load.limit
    load.answered(1.0)
    load.departed(2 * PERIOD)
    assert load.limit > cut


def test_a_refusal_cuts_it_at_once() -> None:
    load = flying(10)
    load.refused()
    assert load.limit == CUT * 10


def test_a_route_is_never_shut_by_its_load() -> None:
    load = flying(1)
    for _ in range(50):
        load.refused()
    assert load.limit == LEAST_LIMIT


@given(st.lists(st.tuples(st.sampled_from("dafsrR"), st.floats(0.0, 5.0)), max_size=200))
def test_whatever_happens_the_limit_stays_sane(history: list[tuple[str, float]]) -> None:
    load, now = Load(), 0.0
    for what, later in history:
        now += later
        match what:
            case "d":
                load.departed(now)
            case "a" if load.in_flight:
                load.arrived()
            case "f":
                load.answered(1.0)
            case "s":
                load.answered(9.0)
            case "r":
                load.refused()
            case "R":
                load.recovered(now)
            case _:
                pass
        assert LEAST_LIMIT <= load.limit < inf
        assert load.penalty(now) >= 1.0
        assert load.in_flight or load.penalty(now) < inf  # an idle route may always be asked


# --- the ramp ------------------------------------------------------------------------------------------


def test_a_recovered_route_gets_its_requests_little_by_little() -> None:
    load = Load()
    load.recovered(100.0)
    allowed = []
    for seconds in (0.0, RAMP / 2, RAMP * 0.999):
        load.in_flight = 0
        while load.penalty(100.0 + seconds) < inf:
            load.in_flight += 1
        allowed.append(load.in_flight)
    shares = [RAMP_FROM, (1 + RAMP_FROM) / 2, 1.0]
    assert allowed == pytest.approx([max(share * FIRST_LIMIT, 1) for share in shares], abs=1)
    load.in_flight = 2 * int(FIRST_LIMIT)
    assert load.penalty(100.0 + RAMP) < inf


def test_one_request_at_least_is_allowed() -> None:
    load = flying(1)
    for _ in range(50):
        load.refused()
    load.arrived()
    load.recovered(100.0)
    assert load.penalty(100.0) == 1.0
    load.departed(100.0)
    assert load.penalty(100.0) == inf


def test_in_a_child_process_nothing_is_under_way() -> None:
    load = flying(5)
    load.after_fork()
    assert load.in_flight == 0
