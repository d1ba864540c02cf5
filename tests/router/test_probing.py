"""What the router has probed, and when; how routes come back."""

import random
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smartroute.config import Config
from smartroute.policy.messages import Attempt
from smartroute.policy.messages import Event as Happening
from smartroute.policy.schedule import JITTER, KEEP_WARM
from smartroute.policy.silence import DEAD_AFTER
from smartroute.router import QUIET, Router
from smartroute.testing import Clock
from tests.policy.driving import PLAIN, measured, route, says, streams, unsent
from tests.router.kit import INTERVAL, Make, Prober, begin, probe, send, set_out, status

# --- probes --------------------------------------------------------------------------------------------


def claim(router: Router, prober: object, *, healthy: bool = True) -> list[str]:
    claims, _ = router.claim_probes(prober)
    for each in claims:
        probe(router, each.route.name, failure=None if healthy else "connect", fresh=each.fresh)
    return [each.route.name for each in claims]


def test_before_the_first_request_nothing_is_probed(make: Make) -> None:
    assert make().claim_probes(Prober()) == ([], None)


def test_probes_are_claimed_once_each_interval(make: Make, clock: Clock) -> None:
    router, prober = make(), Prober()
    begin(router).cancel(0.0)
    assert claim(router, prober) == ["a", "b"]
    assert claim(router, prober) == []
    _, wait = router.claim_probes(prober)
    assert wait == pytest.approx(INTERVAL)
    clock.advance(INTERVAL - 0.01)
    assert claim(router, prober) == []
    clock.advance(0.02)
    assert claim(router, prober) == ["a", "b"]


def test_probing_is_shared_by_the_clients_of_a_router(make: Make, clock: Clock) -> None:
    router, probers = make(), [Prober() for _ in range(50)]
    begin(router).cancel(0.0)
    claimed = 0
    for _ in range(40):  # 40 s
        claimed += sum(len(claim(router, prober)) for prober in probers)
        clock.advance(1.0)
    assert claimed == 2 * 4


def test_each_client_keeps_its_own_connections_warm(make: Make, clock: Clock) -> None:
    router, busy, idle = make(), Prober(), Prober()
    visits: dict[int, list[float]] = {id(busy): [], id(idle): []}
    for _ in range(280):
        begin(router).cancel(0.0)
        for prober in (busy, idle):
            if "a" in claim(router, prober):
                visits[id(prober)].append(clock())
        clock.advance(1.0)
    for times in visits.values():
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps
        assert max(gaps) <= KEEP_WARM + 1.0


def test_a_forgotten_prober_is_forgotten(make: Make) -> None:
    router = make()
    begin(router).cancel(0.0)
    claim(router, Prober())
    assert len(router._schedule._visits) == 0


def test_probes_rest_when_the_traffic_does(make: Make, clock: Clock) -> None:
    router, prober = make(), Prober()
    begin(router).cancel(0.0)
    clock.advance(QUIET)
    assert claim(router, prober) == ["a", "b"]
    assert status(router, "a").next_probe is not None
    clock.advance(0.1)
    assert router.claim_probes(prober) == ([], None)
    assert status(router, "a").next_probe is None
    begin(router).cancel(0.0)
    clock.advance(INTERVAL)
    assert claim(router, prober) == ["a", "b"]


def test_without_an_interval_there_are_no_probes(make: Make) -> None:
    router = make(probe_interval=0)
    begin(router).cancel(0.0)
    assert router.claim_probes(Prober())[0] == []


@given(st.floats(0.0, 0.999), st.floats(0.1, 3_600.0))
def test_probes_are_jittered(number: float, interval: float) -> None:
    clock = Clock()
    router = Router(Config([route("a")], probe_interval=interval), clock=clock, random=lambda: number)
    begin(router).cancel(0.0)
    claim(router, prober := Prober())
    _, wait = router.claim_probes(prober)
    due = router._known["a"].probe_at - clock()
    assert interval * (1 - JITTER) - 1e-6 <= due <= interval * (1 + JITTER) + 1e-6
    assert wait is not None
    assert 0 < wait <= due


def test_open_routes_are_probed_at_the_pace_of_their_backoff(make: Make, clock: Clock) -> None:
    router, prober = make("a"), Prober()
    begin(router).cancel(0.0)
    probe(router, "a", failure="connect")
    opened, times = clock(), list[float]()
    while clock() < opened + 60.0:
        begin(router).cancel(0.0)
        if claim(router, prober, healthy=False):
            times.append(clock() - opened)
        clock.advance(0.25)
    assert times == pytest.approx([1.0, 3.0, 7.0, 15.0, 25.0, 35.0, 45.0, 55.0], abs=0.25)


def test_a_claimed_probe_is_not_claimed_again_until_it_is_over(make: Make, clock: Clock) -> None:
    router, prober = make("a"), Prober()
    begin(router).cancel(0.0)
    (claimed,), _ = router.claim_probes(prober)
    clock.advance(INTERVAL)
    assert router.claim_probes(prober)[0] == []
    router.unprobed(claimed)
    assert claim(router, prober) == ["a"]


def test_a_probe_of_which_nothing_is_heard_is_claimed_by_another(make: Make, clock: Clock) -> None:
    """Its event loop may have been closed by hand."""
    router, lost, prober = make("a"), Prober(), Prober()
    begin(router).cancel(0.0)
    assert [each.route.name for each in router.claim_probes(lost)[0]] == ["a"]
    clock.advance(2 * INTERVAL)
    assert claim(router, prober) == ["a"]


def test_while_a_probe_is_under_way_nobody_spins(make: Make, clock: Clock) -> None:
    """A probe of a route that is silent takes seconds, and asking a hundred times a second makes it no shorter."""
    router, prober = make("a"), Prober()
    begin(router).cancel(0.0)
    probe(router, "a", failure="connect")
    clock.advance(1.5)
    assert [each.route.name for each in router.claim_probes(prober)[0]] == ["a"]
    clock.advance(0.5)
    _, wait = router.claim_probes(prober)
    assert wait is not None
    assert wait >= 0.25


@pytest.mark.parametrize(("code", "good"), [(200, True), (404, True), (429, True), (401, False), (403, False)])
def test_a_good_probe_is_any_answer_but_a_refused_key(make: Make, clock: Clock, code: int, good: bool) -> None:
    router = make("a")
    probe(router, "a", failure="connect")
    for _ in range(2):
        clock.advance(30.0)
        probe(router, "a", code=code)
    assert status(router, "a").state == ("half_open" if good else "open")


def test_a_probe_that_failed_measures_nothing(make: Make) -> None:
    router = make("a")
    probe(router, "a", failure="503", seconds=0.000_1)
    assert status(router, "a").round_trip == pytest.approx(0.010)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    outage=st.floats(0.0, 300.0),
    slowness=st.floats(0.0, 5.0),
    seed=st.integers(0, 2**32),
)
def test_traffic_is_back_within_thirty_seconds(outage: float, slowness: float, seed: int) -> None:
    """With a prober that looks once a second, and probes that take their time to fail."""
    clock, prober = Clock(), Prober()
    each = route("a")
    router = Router(Config([each]), clock=clock, random=random.Random(seed).random)
    measured(router, each, 0.010)
    send(router, a=unsent(), worldwide=streams())
    healed = clock() + outage
    under_way: tuple[float, float] | None = None
    while True:
        if under_way is not None and clock() >= under_way[1]:
            probe(router, "a", failure=None if under_way[0] >= healed else "read_timeout")
            under_way = None
        if router.claim_probes(prober)[0]:
            under_way = (clock(), clock() + (0.01 if clock() >= healed else slowness))
        if (
            send(router, a=streams() if clock() >= healed else unsent(), worldwide=streams()) == ["a"]
            and clock() > healed
        ):
            break
        clock.advance(1.0)
        assert clock() - healed <= 30.0
    assert status(router, "a").state == "closed"


def test_a_request_lost_in_the_outage_does_not_stand_in_the_way_of_the_trial(make: Make, clock: Clock) -> None:
    """Its caller may wait for minutes yet, while the route has healed long ago."""
    router = make("a")
    forgotten = begin(router)
    forgotten.start(clock())  # the route falls silent: nothing comes back, ever
    for _ in range(DEAD_AFTER):
        clock.advance(1.0)
        probe(router, "a", failure="read_timeout", fresh=True)
    for _ in range(2):
        clock.advance(2.0)
        probe(router, "a")
    assert status(router, "a").state == "half_open"
    assert send(router, a=streams(), worldwide=streams()) == ["a"]
    forgotten.cancel(clock())


def test_an_open_route_nobody_probes_is_put_on_trial_by_time(make: Make, clock: Clock) -> None:
    router = make("a", probe_interval=0)
    send(router, a=unsent(), worldwide=streams())
    assert send(router, worldwide=streams()) == ["global"]
    clock.advance(1.0)
    assert send(router, a=streams()) == ["a"]
    assert status(router, "a").state == "closed"


def test_one_trial_at_a_time(make: Make, clock: Clock) -> None:
    router = make("a", "b")
    probe(router, "a", failure="connect")
    for _ in range(2):
        clock.advance(2.0)
        probe(router, "a")
    trial = begin(router)
    assert set_out(trial, clock()).reason == "trial"
    assert send(router, b=streams()) == ["b"]
    trial.cancel(clock())
    assert send(router, a=streams()) == ["a"]


def test_without_probes_a_handshake_is_a_round_trip(make: Make) -> None:
    router = make("a", warm=False, probe_interval=0)

    def connects(attempt: Attempt) -> list[Happening]:
        attempt.connect = 0.025
        return list(streams()(attempt))

    send(router, a=connects)
    assert status(router, "a").round_trip == 0.025


@pytest.mark.parametrize("outage", [1, 3, 10])
def test_without_probes_a_route_that_failed_comes_back(make: Make, clock: Clock, outage: int) -> None:
    router = make("near", "far", warm=False, probe_interval=0)
    handshakes = {"near": 0.010, "far": 0.060}

    def connects(attempt: Attempt) -> list[Happening]:
        attempt.connect = handshakes[attempt.endpoint.name]
        return list(streams()(attempt))

    assert send(router, near=connects) == ["near"]
    for _ in range(outage):
        assert send(router, near=unsent(), far=connects)[-1] == "far"
        clock.advance(1.0)
    used = []
    for _ in range(60):  # a minute with a request each second: the backoff is half a minute at most
        used += send(router, near=connects, far=connects)
        clock.advance(1.0)
    assert used[-1] == "near"
    assert used == sorted(used)  # once it is back, it stays
    assert status(router, "near").state == "closed"


def test_only_streamed_answers_time_the_first_token(make: Make, clock: Clock) -> None:
    router = make("a")

    def slow(attempt: Attempt) -> list[Happening]:
        clock.advance(3.0)
        return list(says(200)(attempt))

    send(router, PLAIN, a=slow)
    assert status(router, "a").first_token == status(router, "a").round_trip
