"""When routes are probed, and by whom."""

import pytest

from smartroute.policy.breaker import Breaker
from smartroute.policy.known import Known
from smartroute.policy.schedule import JITTER, KEEP_WARM, LEASE, OFFLINE_INTERVAL, PROBE_LIMIT, Claim, Schedule
from tests.policy.driving import route

NOW = 1_000.0
INTERVAL = 10.0


class Prober:
    """One client's."""


def known(name: str = "a", *, opened: bool = False) -> Known:
    each = Known(route(name), Breaker(0.0, lambda: 0.5))
    if opened:
        each.breaker.failed(NOW, "connect", unreachable=True, started=NOW)
    return each


def schedule(interval: float = INTERVAL, random: float = 0.5) -> Schedule:
    return Schedule(interval, lambda: random)


def claim(
    of: Schedule, prober: object, *routes: Known, now: float = NOW, offline: bool = False, over: bool = True
) -> list[tuple[str, bool]]:
    """The claims, by name, and whether they are verifications. `over`: the probes are over at once."""
    claims, _ = of.claim(prober, routes, now, offline=offline)
    for each in routes if over else ():
        each.probing_until = each.verifying_until = now
    return [(each.route.name, each.fresh) for each in claims]


# --- ordinary probes -----------------------------------------------------------------------------------


def test_each_route_is_probed_at_once_and_then_once_each_interval() -> None:
    plan, prober, a, b = schedule(), Prober(), known("a"), known("b")
    assert claim(plan, prober, a, b) == [("a", False), ("b", False)]
    assert claim(plan, prober, a, b, now=NOW + INTERVAL - 0.1) == []
    assert claim(plan, prober, a, b, now=NOW + INTERVAL) == [("a", False), ("b", False)]


@pytest.mark.parametrize(("random", "share"), [(0.0, 1 - JITTER), (0.5, 1.0), (1.0, 1 + JITTER)])
def test_probes_are_spread(random: float, share: float) -> None:
    plan, each = schedule(random=random), known()
    claim(plan, Prober(), each)
    assert each.due == NOW + INTERVAL * share


def test_the_wait_is_until_the_first_that_is_due() -> None:
    plan, prober, a, b = schedule(), Prober(), known("a"), known("b")
    claim(plan, prober, a)
    claim(plan, prober, b, now=NOW + 4.0)
    _, wait = plan.claim(prober, [a, b], NOW + 5.0, offline=False)
    assert wait == pytest.approx(INTERVAL - 5.0)


def test_nobody_spins() -> None:
    plan, prober, each = schedule(), Prober(), known()
    claim(plan, prober, each)
    _, wait = plan.claim(prober, [each], NOW + INTERVAL - 1e-9, offline=False)
    assert wait is not None
    assert wait >= 0.01


def test_a_claimed_probe_is_not_claimed_again_until_its_lease_is_over() -> None:
    plan, each = schedule(), known()
    assert claim(plan, Prober(), each, over=False) == [("a", False)]
    assert claim(plan, Prober(), each, now=NOW + LEASE - 0.1, over=False) == []
    assert claim(plan, Prober(), each, now=NOW + LEASE, over=False) == [("a", False)]


def test_an_open_route_is_probed_at_its_breakers_pace() -> None:
    plan, prober, each = schedule(), Prober(), known(opened=True)
    retry_at = each.breaker.retry_at
    assert claim(plan, prober, each, now=retry_at - 0.1) == []
    assert claim(plan, prober, each, now=retry_at) == [("a", False)]


def test_each_client_keeps_its_own_connections_warm() -> None:
    plan, first, second, each = schedule(), Prober(), Prober(), known()
    claim(plan, first, each)
    assert claim(plan, second, each) == []
    now = NOW
    while now + INTERVAL <= NOW + KEEP_WARM - 1.0:
        now += INTERVAL
        assert claim(plan, first, each, now=now) == [("a", False)]
        assert claim(plan, second, each, now=now) == []
    assert claim(plan, second, each, now=NOW + KEEP_WARM) == [("a", False)]


def test_an_open_route_needs_no_warm_connections() -> None:
    plan, prober, each = schedule(), Prober(), known(opened=True)
    claim(plan, prober, each)
    each.breaker.retry_at = NOW + 10 * KEEP_WARM
    assert claim(plan, prober, each, now=NOW + 2 * KEEP_WARM) == []


def test_a_forgotten_prober_is_forgotten() -> None:
    plan = schedule()
    claim(plan, Prober(), known())
    assert len(plan._visits) == 0


def test_a_probe_may_take_as_long_as_its_way_is_far() -> None:
    plan, prober, new, far = schedule(), Prober(), known("new"), known("far")
    far.latency.saw_round_trip(0.2, NOW)
    claims, _ = plan.claim(prober, [new, far], NOW, offline=False)
    assert claims == [
        Claim(new.route, fresh=False, limit=PROBE_LIMIT),
        Claim(far.route, fresh=False, limit=far.latency.verification_limit),
    ]


# --- verifications -------------------------------------------------------------------------------------


def asked(each: Known) -> Known:
    each.silence.wanted = True
    return each


def test_a_verification_is_claimed_at_once_and_by_one_alone() -> None:
    plan, first, second, each = schedule(), Prober(), Prober(), known()
    claim(plan, first, each)
    asked(each)
    claims, _ = plan.claim(first, [each], NOW + 1.0, offline=False)
    assert claims == [Claim(each.route, fresh=True, limit=each.latency.verification_limit, number=1)]
    assert claim(plan, second, each, now=NOW + 1.0, over=False) == []


def test_a_probe_that_hangs_does_not_stand_in_its_way() -> None:
    """Its connection may be what is dead."""
    plan, prober, each = schedule(), Prober(), known()
    claim(plan, prober, each, over=False)
    assert claim(plan, prober, asked(each), now=NOW + 0.5) == [("a", True)]


def test_without_an_interval_there_are_verifications_alone() -> None:
    plan, prober, each = schedule(interval=0.0), Prober(), known()
    assert plan.claim(prober, [each], NOW, offline=False) == ([], None)
    assert claim(plan, prober, asked(each)) == [("a", True)]


def test_an_open_route_is_verified_too_if_something_waits_on_it() -> None:
    plan, prober, each = schedule(), Prober(), known(opened=True)
    assert claim(plan, prober, each) == []
    assert claim(plan, prober, asked(each)) == [("a", True)]


# --- offline -------------------------------------------------------------------------------------------


def test_while_nothing_can_be_reached_probes_are_frequent() -> None:
    plan, prober, healthy, shut = schedule(), Prober(), known("a"), known("b", opened=True)
    shut.breaker.retry_at = NOW
    assert len(claim(plan, prober, healthy, shut, offline=True)) == 2
    shut.breaker.retry_at = NOW + INTERVAL
    assert claim(plan, prober, healthy, shut, now=NOW + 0.9 * OFFLINE_INTERVAL, offline=True) == []
    _, wait = plan.claim(prober, [healthy, shut], NOW + 0.9 * OFFLINE_INTERVAL, offline=True)
    assert wait == pytest.approx(0.1 * OFFLINE_INTERVAL)
    assert len(claim(plan, prober, healthy, shut, now=NOW + OFFLINE_INTERVAL, offline=True)) == 2
