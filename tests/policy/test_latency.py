"""How far a route is and how long it takes to answer: two estimates that must not be mixed up."""

from math import exp, inf, log, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.latency import (
    BASELINE_MEMORY,
    CLIP,
    DRIFT,
    LEAST_DEVIATION,
    LEAST_RUN,
    LEAST_SERVICE,
    LEAST_SPREAD,
    MEMORY,
    MOST_BUCKETS,
    MOST_DEVIATIONS,
    MOST_SPREAD,
    P99,
    ROUND_TRIP_GAIN,
    ROUND_TRIP_MEMORY,
    SPREAD_OF_ANSWERS,
    SPREAD_OF_ROUTES,
    TRIP,
    Baseline,
    Cusum,
    Latency,
)

MODEL = "m"
SMALL, LARGE = 1_000, 500_000
USUAL = 0.1
"""Seconds that a small prompt takes everywhere, where `usual` was learned."""


def measured(round_trip: float, now: float = 0.0) -> Latency:
    latency = Latency()
    latency.saw_round_trip(round_trip, now)
    return latency


def learned() -> Baseline:
    """A baseline that one answer more or less does not move."""
    baseline = Baseline()
    for _ in range(10_000):
        baseline.learn(MODEL, SMALL, USUAL, 0.0, 0.0)
    return baseline


def serve(
    latency: Latency,
    baseline: Baseline,
    service: float,
    times: int,
    *,
    size: int = SMALL,
    now: float = 0.0,
    gap: float = 1.0,
) -> float:
    """So many answers that took `service` beyond the round trip. Returns the time of the last."""
    for _ in range(times):
        now += gap
        latency.saw_first_token((latency.round_trip or 0.0) + service, baseline, MODEL, size, now)
    return now


# --- round trip ----------------------------------------------------------------------------------------


def test_the_first_sample_seeds() -> None:
    latency = measured(0.035)
    assert (latency.round_trip, latency.deviation) == (0.035, 0.0175)


def test_of_the_first_two_the_shorter_one_is_believed() -> None:
    """What is measured right after an outage has waited for its end."""
    latency = measured(1.0)
    latency.saw_round_trip(0.035, 0.0)
    assert (latency.round_trip, latency.deviation) == (0.035, 0.0175)
    latency.saw_round_trip(0.020, 0.0)
    assert latency.round_trip == pytest.approx(0.035 - ROUND_TRIP_GAIN * 0.015)  # the third is a sample like any other


def test_nothing_is_known_of_a_route_that_was_never_reached() -> None:
    latency, baseline = Latency(), Baseline()
    baseline.learn(MODEL, SMALL, 0.3, 0.0, 0.0)
    assert latency.round_trip is None
    assert latency.expected(baseline, MODEL, SMALL, 5.0) is None
    assert latency.patience == 0.25
    assert latency.verification_limit >= 0.5


@pytest.mark.parametrize("gap", [0.0, 1.0, 6.0, 10.0, 30.0, 1e6])
def test_a_new_sample_weighs_more_the_older_the_last_is(gap: float) -> None:
    latency = measured(0.100, 50.0)
    latency.saw_round_trip(0.110, 50.0 + gap)
    gain = max(ROUND_TRIP_GAIN, 1 - exp(-gap / ROUND_TRIP_MEMORY))
    assert latency.round_trip == pytest.approx(0.100 + 0.010 * gain)


def test_a_lost_packet_is_no_distance() -> None:
    latency = measured(0.100)
    for _ in range(200):
        latency.saw_round_trip(0.100, 0.0)
    assert latency.deviation == pytest.approx(0.0)
    latency.saw_round_trip(3.0, 0.0)
    most = MOST_DEVIATIONS * LEAST_DEVIATION * 0.100
    assert latency.round_trip == pytest.approx(0.100 + ROUND_TRIP_GAIN * most)


def test_but_a_longer_way_is_believed_in_the_end() -> None:
    latency = measured(0.020)
    for now in range(100):
        latency.saw_round_trip(0.200, now * 10.0)
    assert latency.round_trip == pytest.approx(0.200, rel=0.02)


@given(st.lists(st.tuples(st.floats(0.001, 10.0), st.floats(0.0, 100.0)), min_size=1))
def test_the_estimate_stays_among_its_samples(samples: list[tuple[float, float]]) -> None:
    latency, now = Latency(), 0.0
    for seconds, gap in samples:
        now += gap
        latency.saw_round_trip(seconds, now)
    assert latency.round_trip is not None
    assert min(s for s, _ in samples) * 0.999 <= latency.round_trip <= max(s for s, _ in samples) * 1.001
    assert latency.deviation >= 0.0
    assert 0.1 <= latency.patience <= 0.5
    assert latency.verification_limit > 3 * latency.round_trip


def test_patience_grows_with_distance_and_with_doubt() -> None:
    steady, far, doubtful = measured(0.080), measured(0.2), measured(0.2)
    for now in range(1, 100):
        steady.saw_round_trip(0.080, float(now))
        far.saw_round_trip(0.200, float(now))
        doubtful.saw_round_trip(0.200 + 0.08 * (-1) ** now, float(now))
    assert steady.patience == pytest.approx(0.1)
    assert steady.patience < far.patience == pytest.approx(0.200, abs=0.001)
    assert far.patience < doubtful.patience <= 0.5
    assert far.verification_limit < doubtful.verification_limit


# --- baseline ------------------------------------------------------------------------------------------


def test_the_baseline_knows_each_size_of_its_own() -> None:
    baseline = Baseline()
    assert baseline.expect(MODEL, SMALL) is None
    baseline.learn(MODEL, SMALL, 0.2, 0.0, 0.0)
    assert baseline.knows(MODEL, SMALL)
    assert not baseline.knows(MODEL, LARGE)
    baseline.learn(MODEL, LARGE, 3.0, 0.0, 0.0)
    assert baseline.expect(MODEL, SMALL) == pytest.approx(0.2)
    assert baseline.expect(MODEL, LARGE) == pytest.approx(3.0)


def test_sizes_within_a_half_octave_are_one() -> None:
    baseline = Baseline()
    baseline.learn(MODEL, 1_000, 0.20, 0.0, 0.0)
    baseline.learn(MODEL, 1_010, 0.25, 0.0, 0.0)
    assert baseline.expect(MODEL, 1_005) == pytest.approx((0.20 * 0.25) ** 0.5)


def test_an_unseen_size_borrows_from_the_nearest() -> None:
    baseline = Baseline()
    baseline.learn(MODEL, 1_000, 0.2, 0.0, 0.0)
    baseline.learn(MODEL, 100_000, 2.0, 0.0, 0.0)
    assert baseline.expect(MODEL, 2_000) == pytest.approx(0.2)
    assert baseline.expect(MODEL, 60_000) == pytest.approx(2.0)
    assert baseline.expect(MODEL, 0) == pytest.approx(0.2)


def test_models_do_not_borrow_from_each_other() -> None:
    baseline = Baseline()
    baseline.learn("large", SMALL, 5.0, 0.0, 0.0)
    assert baseline.expect("small", SMALL) is None
    assert baseline.expect(None, SMALL) is None
    assert baseline.saving("small", LARGE) == 0.0


def test_the_baseline_follows() -> None:
    baseline = Baseline()
    for number in range(200):
        baseline.learn(MODEL, SMALL, 0.2 if number < 100 else 0.8, 0.0, number * BASELINE_MEMORY / 10)
    assert baseline.expect(MODEL, SMALL) == pytest.approx(0.8, rel=0.02)


def test_one_slow_answer_hardly_moves_it() -> None:
    baseline = Baseline()
    baseline.learn(MODEL, SMALL, 0.2, 0.0, 0.0)
    baseline.learn(MODEL, SMALL, 599.0, 0.0, 0.0)
    assert baseline.expect(MODEL, SMALL) == pytest.approx(0.2 * exp(CLIP * baseline.spread / 2))


def test_what_the_route_explains_is_taken_out() -> None:
    baseline = Baseline()
    baseline.learn(MODEL, SMALL, 0.6, log(3.0), 0.0)
    assert baseline.expect(MODEL, SMALL) == pytest.approx(0.2)


def test_made_up_model_names_take_no_memory() -> None:
    baseline = Baseline()
    for number in range(2 * MOST_BUCKETS):
        baseline.learn(f"made-up-{number}", SMALL, 0.2, 0.0, 0.0)
        baseline.learn("in use", SMALL, 0.3, 0.0, 0.0)
    assert len(baseline._logs) == MOST_BUCKETS
    assert baseline.expect(f"made-up-{2 * MOST_BUCKETS - 1}", SMALL) == pytest.approx(0.2)
    assert baseline.expect("made-up-0", SMALL) is None
    assert baseline.expect("in use", SMALL) == pytest.approx(0.3)  # who was asked for long ago is forgotten first


@given(st.integers(0, 10**9), st.floats(0.0, 1e4), st.floats(-5, 5))
def test_any_service_time_can_be_learned(size: int, service: float, factor: float) -> None:
    baseline = Baseline()
    baseline.learn(MODEL, size, service, factor, 0.0)
    assert baseline.expect(MODEL, size) == pytest.approx(max(service, LEAST_SERVICE) / exp(factor))


def test_a_warm_cache_may_save_what_the_prompt_costs() -> None:
    baseline = Baseline()
    baseline.learn(MODEL, SMALL, 0.2, 0.0, 0.0)
    baseline.learn(MODEL, LARGE, 3.0, 0.0, 0.0)
    assert baseline.saving(MODEL, LARGE) == pytest.approx(2.8)
    assert baseline.saving(MODEL, SMALL) == 0.0


def test_how_much_answers_scatter_is_learned() -> None:
    steady, wild = Baseline(), Baseline()
    assert steady.spread == SPREAD_OF_ANSWERS
    for number in range(5_000):
        steady.scattered(0.1 * (-1) ** number, 0.0)
        wild.scattered(0.9 * (-1) ** number, 0.0)
    assert steady.spread == pytest.approx(0.1, rel=0.01)
    assert wild.spread == pytest.approx(0.9, rel=0.01)
    assert steady.slowest == pytest.approx(exp(P99 * steady.spread))
    assert steady.slowest < wild.slowest


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(0.0, 1.0)), max_size=300))
def test_the_scatter_stays_in_its_bounds(samples: list[tuple[float, float]]) -> None:
    baseline = Baseline()
    for surprise, known in samples:
        baseline.scattered(surprise, known)
        assert LEAST_SPREAD * 0.999 <= baseline.spread <= MOST_SPREAD * 1.001


# --- time to first token -------------------------------------------------------------------------------


def test_before_any_answer_the_round_trip_is_all_there_is() -> None:
    assert measured(0.035).expected(Baseline(), MODEL, SMALL, 9.0) == 0.035


def test_a_route_without_answers_of_its_own_is_expected_to_answer_as_the_others_do() -> None:
    baseline, known, new = Baseline(), measured(0.015), measured(0.080)
    now = serve(known, baseline, 0.300, 10)
    assert new.expected(baseline, MODEL, SMALL, now) == pytest.approx(0.380, abs=0.001)


def test_a_long_prompt_is_not_taken_for_a_slow_region() -> None:
    """One route gets the long prompts, another the short ones; both serve alike."""
    baseline, long, short = Baseline(), measured(0.015), measured(0.035)
    now = 0.0
    for _ in range(50):
        now = serve(long, baseline, 3.0, 1, size=LARGE, now=now)
        now = serve(short, baseline, 0.2, 1, size=SMALL, now=now)
    for size in (SMALL, LARGE):
        nearer, farther = (each.expected(baseline, MODEL, size, now) for each in (long, short))
        assert nearer is not None
        assert farther is not None
        assert farther - nearer == pytest.approx(0.020, abs=0.002)


def test_a_prompt_of_a_size_never_seen_says_nothing_of_its_route() -> None:
    baseline, latency = Baseline(), measured(0.015)
    now = serve(latency, baseline, 0.200, 20)
    assert latency.saw_first_token(6.015, baseline, MODEL, LARGE, now + 1) == 1.0
    assert latency.expected(baseline, MODEL, SMALL, now + 1) == pytest.approx(0.215, abs=0.001)
    assert latency.expected(baseline, MODEL, LARGE, now + 1) == pytest.approx(6.015, abs=0.001)


def test_a_slow_region_shows_at_every_size() -> None:
    baseline, slow, normal = Baseline(), measured(0.015), measured(0.035)
    now = 0.0
    for _ in range(50):
        for size, usual in ((SMALL, 0.2), (LARGE, 3.0)):
            now = serve(slow, baseline, 4 * usual, 1, size=size, now=now)
            now = serve(normal, baseline, usual, 1, size=size, now=now)
    for size in (SMALL, LARGE):
        bad, good = (each.expected(baseline, MODEL, size, now) for each in (slow, normal))
        assert bad is not None
        assert good is not None
        assert bad > 1.5 * good


def test_one_answer_is_weighed_by_what_is_known_and_by_how_much_answers_scatter() -> None:
    latency = measured(0.0)
    latency.saw_first_token(USUAL * exp(0.1), learned(), MODEL, SMALL, 1.0)
    gain = SPREAD_OF_ROUTES**2 / (SPREAD_OF_ROUTES**2 + SPREAD_OF_ANSWERS**2)
    assert latency.factor == pytest.approx(exp(0.1 * gain), rel=0.001)
    assert latency.error == pytest.approx(SPREAD_OF_ROUTES * sqrt(1 - gain), rel=0.001)


def test_few_samples_move_little_many_move_much_and_make_sure() -> None:
    factors, errors = [1.0], [SPREAD_OF_ROUTES]
    for times in (1, 4, 40):
        latency = measured(0.0)
        serve(latency, learned(), USUAL * 1.2, times, gap=0.0)
        factors.append(latency.factor)
        errors.append(latency.error)
    assert factors == sorted(factors)
    assert len(set(factors)) == 4
    assert factors[-1] == pytest.approx(1.2, rel=0.05)
    assert errors == sorted(errors, reverse=True)


def test_an_outlier_counts_as_a_slow_answer_and_no_more() -> None:
    slow, slower = measured(0.0), measured(0.0)
    slow.saw_first_token(USUAL * exp(9.0), learned(), MODEL, SMALL, 1.0)
    slower.saw_first_token(USUAL * exp(12.0), learned(), MODEL, SMALL, 1.0)
    assert slow.factor == pytest.approx(slower.factor)


def test_one_slow_answer_among_many_does_not_move_a_route() -> None:
    latency, baseline = measured(0.0), learned()
    now = serve(latency, baseline, USUAL, 100)
    now = serve(latency, baseline, 100 * USUAL, 1, now=now)
    serve(latency, baseline, USUAL, 1, now=now)
    assert latency.factor < 1.2


def test_a_run_of_slow_answers_is_a_change_and_so_is_their_end() -> None:
    latency, baseline = measured(0.0), learned()
    now = serve(latency, baseline, USUAL, 100)
    now = serve(latency, baseline, 10 * USUAL, 10, now=now, gap=LEAST_RUN)
    assert latency.factor == pytest.approx(10.0, rel=0.3)
    serve(latency, baseline, USUAL, 10, now=now, gap=LEAST_RUN)
    assert latency.factor == pytest.approx(1.0, rel=0.3)


def test_a_surprise_is_told() -> None:
    latency, baseline = measured(0.010), learned()
    assert latency.saw_first_token(0.010 + 3 * USUAL, baseline, MODEL, SMALL, 1.0) == pytest.approx(3.0)
    expected = latency.factor
    told = latency.saw_first_token(0.010 + 3 * USUAL, baseline, MODEL, SMALL, 1.0)
    assert told == pytest.approx(3.0 / expected, rel=0.001)  # of this route it was expected by now


def test_to_look_at_an_answer_is_not_to_learn_from_it() -> None:
    latency, baseline = measured(0.010), learned()
    assert latency.slower(0.010 + 3 * USUAL, baseline, MODEL, SMALL) == pytest.approx(3.0, rel=0.001)
    assert (latency.factor, latency.error) == (1.0, SPREAD_OF_ROUTES)
    assert latency.slower(9.0, baseline, "other", SMALL) == 1.0  # nothing to compare it with


def test_what_is_known_fades_in_silence() -> None:
    latency, baseline = measured(0.010), learned()
    now = serve(latency, baseline, 2 * USUAL, 20, gap=0.1)
    mean, error = log(latency.factor), latency.error
    for later in (0.1, 1.0, 3.0):
        latency.fade(now + later * MEMORY)
        assert log(latency.factor) == pytest.approx(mean * exp(-later))
        assert error < latency.error < SPREAD_OF_ROUTES
        error = latency.error
    latency.fade(now + 50 * MEMORY)
    assert latency.factor == pytest.approx(1.0)
    assert latency.error == pytest.approx(SPREAD_OF_ROUTES)


def test_looking_does_not_make_it_fade_faster() -> None:
    baseline, looked_at, left_alone = learned(), measured(0.010), measured(0.010)
    now = serve(looked_at, baseline, 2 * USUAL, 10)
    serve(left_alone, baseline, 2 * USUAL, 10)
    for step in range(1, 100):
        looked_at.expected(baseline, MODEL, SMALL, now + step * MEMORY / 100)
    for latency in (looked_at, left_alone):
        latency.fade(now + MEMORY)
        latency.fade(now)  # threads may come in another order than they looked at the clock
    assert looked_at.error == pytest.approx(left_alone.error, rel=0.01)
    assert log(looked_at.factor) == pytest.approx(log(left_alone.factor), rel=0.05)


def test_what_comes_after_long_silence_is_believed() -> None:
    """What was known is as little as before the first answer: so is the weight of what comes next."""
    baseline, old, new = learned(), measured(0.0), measured(0.0)
    now = serve(old, baseline, USUAL, 200, gap=0.01)
    for latency in (old, new):
        latency.saw_first_token(1.2 * USUAL, learned(), MODEL, SMALL, now + 50 * MEMORY)
    assert old.factor == pytest.approx(new.factor)


def test_after_an_outage_the_way_is_measured_anew() -> None:
    latency, baseline = measured(0.010), learned()
    for _ in range(10):
        latency.saw_round_trip(0.010, 0.0)
    now = serve(latency, baseline, 1.2 * USUAL, 20)
    factor = latency.factor
    latency.interrupt()
    assert latency.round_trip == 0.010  # the best guess there is
    latency.saw_round_trip(0.370, now)
    assert (latency.round_trip, latency.deviation) == (0.370, 0.185)
    latency.saw_round_trip(0.070, now)  # and of the first two the shorter one is believed
    assert latency.round_trip == 0.070
    assert latency.factor == factor  # of that nothing better is known


def test_what_was_surprising_before_an_outage_is_no_part_of_a_change_after_it() -> None:
    latency, baseline = measured(0.0), learned()
    now = serve(latency, baseline, USUAL, 100)
    now = serve(latency, baseline, 10 * USUAL, 1, now=now)
    latency.interrupt()
    serve(latency, baseline, 10 * USUAL, 1, now=now, gap=2 * LEAST_RUN)
    assert latency.factor < 2.0


def test_a_first_token_faster_than_the_round_trip_breaks_nothing() -> None:
    baseline, latency = Baseline(), measured(0.500)
    latency.saw_first_token(0.020, baseline, MODEL, SMALL, 1.0)
    assert latency.expected(baseline, MODEL, SMALL, 1.0) == pytest.approx(0.501, abs=0.001)


@given(st.lists(st.tuples(st.floats(0.0, 600.0), st.integers(0, 10**6), st.floats(0.0, 1e4)), max_size=40))
def test_an_expectation_is_never_less_than_the_way(samples: list[tuple[float, int, float]]) -> None:
    baseline, latency, now = Baseline(), measured(0.050), 0.0
    for seconds, size, gap in samples:
        now += gap
        latency.saw_first_token(seconds, baseline, MODEL, size, now)
        expected = latency.expected(baseline, MODEL, size, now)
        assert expected is not None
        assert 0.050 <= expected < inf
        assert 0.0 < latency.error <= max(SPREAD_OF_ROUTES, MOST_SPREAD) * 1.001


# --- the change detector -------------------------------------------------------------------------------

JUMP = TRIP / 2 + DRIFT
"""Two such surprises are a change."""


@pytest.mark.parametrize("direction", [+1, -1])
def test_a_run_of_surprises_is_a_change(direction: int) -> None:
    detector = Cusum(direction)
    assert detector.saw(direction * 1.0, direction * JUMP, 0.0) is None
    assert detector.saw(direction * 2.0, direction * JUMP, LEAST_RUN) == (direction * 1.5, 2)
    assert detector.saw(direction * 1.0, direction * JUMP, LEAST_RUN) is None  # it begins anew


def test_a_change_has_lasted_a_while() -> None:
    """In heavy traffic two outliers in a row are nothing rare."""
    detector = Cusum(+1)
    for tenth in range(10):
        assert detector.saw(1.0, JUMP, tenth / 10 * LEAST_RUN) is None
    assert detector.saw(1.0, JUMP, LEAST_RUN) == (1.0, 11)


def test_surprises_the_other_way_are_none_of_its_business() -> None:
    detector = Cusum(+1)
    for now in range(100):
        assert detector.saw(-1.0, -JUMP, now * LEAST_RUN) is None
    assert detector.saw(1.0, JUMP, 100 * LEAST_RUN) is None
    assert detector.saw(1.0, JUMP, 101 * LEAST_RUN) == (1.0, 2)  # what was before it does not count


def test_little_surprises_are_let_go() -> None:
    detector = Cusum(+1)
    for now in range(1_000):
        assert detector.saw(1.0, 0.99 * DRIFT, now * LEAST_RUN) is None


def test_what_was_before_a_reset_does_not_count() -> None:
    detector = Cusum(+1)
    detector.saw(5.0, JUMP, 0.0)
    detector.reset()
    assert detector.saw(1.0, JUMP, LEAST_RUN) is None
    assert detector.saw(1.0, JUMP, 2 * LEAST_RUN) == (1.0, 2)
