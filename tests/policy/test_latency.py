"""How far a route is and how long it takes to answer: two estimates that must not be mixed up."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.latency import LEAST_SERVICE, MOST_BUCKETS, SHRINKAGE, Baseline, Latency

MODEL = "m"
SMALL, LARGE = 1_000, 500_000


def measured(round_trip: float, now: float = 0.0) -> Latency:
    latency = Latency()
    latency.saw_round_trip(round_trip, now)
    return latency


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


def test_nothing_is_known_of_a_route_that_was_never_reached() -> None:
    latency, baseline = Latency(), Baseline()
    baseline.learn(MODEL, SMALL, 0.3, 0.0)
    assert latency.round_trip is None
    assert latency.expected(baseline, MODEL, SMALL, 5.0) is None
    assert latency.patience == 0.25


@pytest.mark.parametrize(
    ("gap", "gain"), [(0.0, 0.2), (1.0, 0.2), (6.0, 0.2), (10.0, 1 - exp(-1 / 3)), (30.0, 1 - exp(-1)), (1e6, 1.0)]
)
def test_a_new_sample_weighs_more_the_older_the_last_is(gap: float, gain: float) -> None:
    latency = measured(0.100, 50.0)
    latency.saw_round_trip(0.200, 50.0 + gap)
    assert latency.round_trip == pytest.approx(0.100 + 0.100 * gain)


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


def test_patience_grows_with_distance_and_with_doubt() -> None:
    steady = measured(0.080)
    for now in range(1, 100):
        steady.saw_round_trip(0.080, float(now))
    assert steady.patience == pytest.approx(0.1)
    far, doubtful = measured(0.1), measured(0.1)
    for now in range(1, 100):
        far.saw_round_trip(0.200, float(now))
        doubtful.saw_round_trip(0.200 + 0.08 * (-1) ** now, float(now))
    assert steady.patience < far.patience == pytest.approx(0.200, abs=0.001)
    assert far.patience < doubtful.patience <= 0.5


# --- baseline ------------------------------------------------------------------------------------------


def test_the_baseline_knows_each_size_of_its_own() -> None:
    baseline = Baseline()
    assert baseline.expect(MODEL, SMALL) is None
    baseline.learn(MODEL, SMALL, 0.2, 0.0)
    baseline.learn(MODEL, LARGE, 3.0, 0.0)
    assert baseline.expect(MODEL, SMALL) == pytest.approx(0.2)
    assert baseline.expect(MODEL, LARGE) == pytest.approx(3.0)


def test_sizes_within_a_half_octave_are_one() -> None:
    baseline = Baseline()
    baseline.learn(MODEL, 1_000, 0.2, 0.0)
    baseline.learn(MODEL, 1_010, 0.4, 0.0)
    assert baseline.expect(MODEL, 1_005) == pytest.approx((0.2 * 0.4) ** 0.5)


def test_an_unseen_size_borrows_from_the_nearest() -> None:
    baseline = Baseline()
    baseline.learn(MODEL, 1_000, 0.2, 0.0)
    baseline.learn(MODEL, 100_000, 2.0, 0.0)
    assert baseline.expect(MODEL, 2_000) == pytest.approx(0.2)
    assert baseline.expect(MODEL, 60_000) == pytest.approx(2.0)
    assert baseline.expect(MODEL, 0) == pytest.approx(0.2)


def test_models_do_not_borrow_from_each_other() -> None:
    baseline = Baseline()
    baseline.learn("large", SMALL, 5.0, 0.0)
    assert baseline.expect("small", SMALL) is None
    assert baseline.expect(None, SMALL) is None


def test_the_baseline_follows() -> None:
    baseline = Baseline()
    for _ in range(100):
        baseline.learn(MODEL, SMALL, 0.2, 0.0)
    for _ in range(100):
        baseline.learn(MODEL, SMALL, 0.8, 0.0)
    assert baseline.expect(MODEL, SMALL) == pytest.approx(0.8, rel=0.02)


def test_made_up_model_names_take_no_memory() -> None:
    baseline = Baseline()
    for number in range(2 * MOST_BUCKETS):
        baseline.learn(f"made-up-{number}", SMALL, 0.2, 0.0)
    assert len(baseline._logs) == MOST_BUCKETS
    assert baseline.expect(f"made-up-{2 * MOST_BUCKETS - 1}", SMALL) == pytest.approx(0.2)


@given(st.integers(0, 10**9), st.floats(0.0, 1e4), st.floats(-5, 5))
def test_any_service_time_can_be_learned(size: int, service: float, residual: float) -> None:
    baseline = Baseline()
    baseline.learn(MODEL, size, service, residual)
    assert baseline.expect(MODEL, size) == pytest.approx(max(service, LEAST_SERVICE) / exp(residual))


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
    now = serve(latency, baseline, 0.2, 20, size=SMALL)
    serve(latency, baseline, 6.0, 1, size=LARGE, now=now)
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


def test_few_samples_move_little_many_move_much() -> None:
    """Shrinkage: after n samples of a factor e the estimate has moved by n / (n + 4) of it."""
    moved = []
    for times in (1, 4, 40):
        baseline, latency = Baseline(), measured(0.0)
        for _ in range(10_000):
            baseline.learn(MODEL, SMALL, 0.100, 0.0)
        steady = baseline.expect(MODEL, SMALL)
        assert steady is not None
        now = serve(latency, baseline, 0.100 * exp(1.0), times, gap=0.0)
        baseline._logs = {(MODEL, 20): (-2.302585, 10_000)}  # 100 ms: only the residual is looked at here
        expected = latency.expected(baseline, MODEL, SMALL, now)
        assert expected is not None
        moved.append(expected / 0.100)
    assert moved[0] == pytest.approx(exp(1 / (1 + SHRINKAGE)), rel=0.01)
    assert moved[0] < moved[1] < moved[2] < exp(1.0)


def test_what_is_known_fades_in_silence() -> None:
    baseline, latency = Baseline(), measured(0.010)
    for _ in range(1_000):
        baseline.learn(MODEL, SMALL, 0.1, 0.0)
    now = serve(latency, baseline, 1.0, 20, gap=0.1)
    usual = baseline.expect(MODEL, SMALL)
    assert usual is not None
    scores = [latency.expected(baseline, MODEL, SMALL, now + later) for later in (0, 240, 480, 960, 4_800)]
    residuals = [0.0 if score is None else (score - 0.010) / usual for score in scores]
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[0] > 2.0
    assert residuals[-1] == pytest.approx(1.0, abs=0.01)


def test_looking_does_not_make_it_fade_faster() -> None:
    baseline, looked_at, left_alone = Baseline(), measured(0.010), measured(0.010)
    baseline.learn(MODEL, SMALL, 0.1, 0.0)
    for _ in range(10):
        for latency in (looked_at, left_alone):
            latency.saw_first_token(1.0, baseline, MODEL, SMALL, 0.0)
    left_alone._residual = looked_at._residual  # the baseline was another at its turns
    for now in range(1, 240):
        looked_at.expected(baseline, MODEL, SMALL, float(now))
    assert looked_at.expected(baseline, MODEL, SMALL, 240.0) == pytest.approx(
        left_alone.expected(baseline, MODEL, SMALL, 240.0)
    )
    assert looked_at._samples == pytest.approx(5.0)


@pytest.mark.parametrize("looking", [False, True])
def test_an_old_residual_gives_way_to_a_new_sample(looking: bool) -> None:
    """Gain 1 - exp(-dt / 120 s): after two minutes of silence 63 % of what comes next is believed."""
    baseline, latency = Baseline(), measured(0.0)
    now = serve(latency, baseline, 0.100, 200, gap=0.01)
    assert latency._residual == pytest.approx(0.0, abs=0.01)
    if looking:
        latency.expected(baseline, MODEL, SMALL, now + 60)
    latency.saw_first_token(0.100 * exp(1.0), baseline, MODEL, SMALL, now + 120.0)
    assert latency._residual == pytest.approx(1 - exp(-1), abs=0.02)


def test_an_outage_makes_it_forget_the_way_and_the_service() -> None:
    baseline, latency = Baseline(), measured(0.010)
    for _ in range(1_000):
        baseline.learn(MODEL, SMALL, 0.1, 0.0)
    now = serve(latency, baseline, 5.0, 20)
    latency.forget()
    assert latency.expected(baseline, MODEL, SMALL, now) is None
    latency.saw_round_trip(0.070, now)
    usual = baseline.expect(MODEL, SMALL)  # what all routes have taught stays
    assert usual is not None
    assert latency.expected(baseline, MODEL, SMALL, now) == pytest.approx(0.070 + usual)


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
        assert 0.050 <= expected < 1e6
