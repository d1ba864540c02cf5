"""How long an answer may take: counted from what is expected, never from a fixed timeout."""

from math import inf

import pytest

from smartroute.policy.latency import Latency
from smartroute.policy.messages import Attempt, Call
from smartroute.policy.patience import (
    LAST_UNKNOWN_RESCUE,
    LEAST,
    LEAST_RESCUE,
    LEAST_WHOLE,
    OVERDUE,
    RESCUE,
    UNKNOWN_RESCUE,
    Patience,
)
from tests.policy.driving import PLAIN, STREAM, route


def measured(round_trip: float = 0.050) -> Latency:
    latency = Latency()
    latency.saw_round_trip(round_trip, 0.0)
    return latency


def learned(call: Call, seconds: float, latency: Latency) -> Patience:
    patience = Patience()
    for now in range(1, 51):
        patience.learn(call, seconds, latency, now * 0.001, busy=False)
    return patience


def test_of_a_kind_of_request_never_seen_nothing_is_expected() -> None:
    patience = Patience()
    for call in (STREAM, PLAIN):  # it may be a long prompt: no timeout tells
        assert patience.overdue_after(call, measured()) == inf


def test_a_streamed_answer_is_overdue_long_after_it_was_expected() -> None:
    latency = measured()
    patience = learned(STREAM, 2.05, latency)
    slowest = patience.baseline.slowest
    overdue = patience.overdue_after(STREAM, latency)
    assert overdue == pytest.approx(0.050 + 2.0 * latency.factor * max(OVERDUE, slowest), rel=0.01)
    latency.factor = 2.0
    assert patience.overdue_after(STREAM, latency) > 1.5 * overdue


def test_a_fast_answer_is_not_overdue_at_once() -> None:
    latency = measured(0.001)
    assert learned(STREAM, 0.002, latency).overdue_after(STREAM, latency) == LEAST
    assert learned(PLAIN, 0.002, latency).overdue_after(PLAIN, latency) == LEAST_WHOLE


def test_only_what_is_overdue_for_long_is_worth_another_attempt() -> None:
    attempt = Attempt(1, route("a"), 0, "best", 0.0, None)
    for overdue in (0.01, 1.0, 10.0):
        attempt.overdue_after = overdue
        assert Patience().rescue_after(STREAM, attempt, measured()) == max(LEAST_RESCUE, RESCUE * overdue) > overdue
    attempt.overdue_after = inf
    assert Patience().rescue_after(STREAM, attempt, measured(0.1)) == pytest.approx(0.1 + UNKNOWN_RESCUE + 0.2)
    assert Patience().rescue_after(STREAM._replace(size=500_000), attempt, measured()) == LAST_UNKNOWN_RESCUE


def test_whole_answers_are_counted_on_their_own() -> None:
    latency = measured()
    patience = learned(PLAIN, 30.0, latency)
    assert patience.overdue_after(PLAIN, latency) >= OVERDUE * 30.0 * 0.99
    assert patience.overdue_after(STREAM, latency) == inf
    assert patience.baseline.expect(STREAM.model, STREAM.size) is None


def test_a_whole_answer_is_no_measure_of_its_route() -> None:
    latency = measured()
    patience = learned(PLAIN, 1.0, latency)
    assert patience.learn(PLAIN, 60.0, latency, 1.0, busy=False) == 1.0
    assert latency.factor == 1.0


def test_a_queue_is_no_measure_of_its_route() -> None:
    latency = measured()
    patience = learned(STREAM, 1.05, latency)
    factor = latency.factor
    assert patience.learn(STREAM, 4.05, latency, 1.0, busy=True) == pytest.approx(4.0, rel=0.01)
    assert latency.factor == factor
    assert patience.learn(STREAM, 4.05, latency, 1.0, busy=False) == pytest.approx(4.0, rel=0.01)
    assert latency.factor > factor
