"""When it is this machine that is cut off, no route is to blame."""

import pytest

from smartroute.events import BreakerChanged, ConnectivityChanged, Event
from smartroute.policy.offline import WITHIN
from smartroute.policy.outcome import Failure
from smartroute.policy.schedule import OFFLINE_INTERVAL
from smartroute.router import Router
from smartroute.testing import Clock
from tests.policy.driving import slowly, streams, unsent
from tests.router.kit import INTERVAL, Make, Prober, begin, probe, send, status


def cut_off(router: Router, failure: Failure = Failure.CONNECT) -> None:
    """A request that reaches nobody."""
    gone = unsent(failure)
    send(router, a=gone, b=gone, worldwide=gone)


def states(router: Router) -> list[str]:
    return [each.state for each in router.status()]


def times(router: Router) -> list[tuple[float | None, float]]:
    return [(each.round_trip, each.factor) for each in router.status()]


def claimed(router: Router, prober: Prober, failure: str | None = "connect") -> list[str]:
    claims, _ = router.claim_probes(prober)
    for each in claims:
        probe(router, each.route.name, failure=failure, fresh=each.fresh)
    return [each.route.name for each in claims]


@pytest.mark.parametrize("failure", [Failure.DNS, Failure.CONNECT, Failure.CONNECT_TIMEOUT])
def test_if_nobody_can_be_reached_no_route_is_opened(make: Make, failure: Failure) -> None:
    router = make()
    before = times(router)
    cut_off(router, failure)
    assert states(router) == ["closed", "closed"]
    assert times(router) == before  # the way is as long as it was
    cut_off(router, failure)
    assert states(router) == ["closed", "closed"]


def test_listeners_learn_that_an_opening_was_taken_back(make: Make) -> None:
    router, heard = make(), list[Event]()
    router.subscribe(heard.append)
    cut_off(router)
    for name in "ab":
        changes = [event for event in heard if isinstance(event, BreakerChanged) and event.route.name == name]
        assert not changes or (changes[0].before, changes[-1].after) == ("closed", "closed")


def test_without_global_the_routes_alone_tell(make: Make) -> None:
    router = make(global_url="off")
    send(router, a=unsent(), b=unsent())
    assert states(router) == ["closed", "closed"]


def test_while_global_can_be_reached_the_routes_are_down(make: Make) -> None:
    router = make()
    send(router, a=unsent(), b=unsent(), worldwide=streams())
    assert states(router) == ["open", "open"]


def test_if_they_go_one_after_the_other_they_are_down(make: Make, clock: Clock) -> None:
    router = make()
    late = slowly(WITHIN + 0.1, clock, unsent())
    send(router, a=unsent(), b=late, worldwide=unsent())
    assert states(router) == ["open", "open"]


def test_what_was_refused_by_a_server_was_reached(make: Make) -> None:
    router = make()
    send(router, a=unsent(Failure.CERTIFICATE), b=unsent(), worldwide=unsent())
    assert states(router) == ["open", "open"]


@pytest.mark.parametrize("failure", ["connect", "dns", "connect_timeout"])
def test_probes_that_fail_meanwhile_open_nothing(make: Make, clock: Clock, failure: str) -> None:
    router, prober = make(), Prober()
    cut_off(router)
    for _ in range(20):
        clock.advance(OFFLINE_INTERVAL)
        claimed(router, prober, failure)
    assert states(router) == ["closed", "closed"]


def test_probes_are_frequent_meanwhile(make: Make, clock: Clock) -> None:
    router, prober = make(), Prober()
    cut_off(router)
    claimed(router, prober)
    clock.advance(OFFLINE_INTERVAL)
    assert claimed(router, prober) == ["a", "b"]
    _, wait = router.claim_probes(prober)
    assert wait is not None
    assert wait <= OFFLINE_INTERVAL


def test_one_answer_is_enough_and_all_are_probed_at_once(make: Make) -> None:
    router, prober = make(), Prober()
    cut_off(router)
    claimed(router, prober)
    assert claimed(router, prober) == []
    probe(router, "b")
    assert claimed(router, prober, None) == ["a", "b"]
    _, wait = router.claim_probes(prober)
    assert wait == pytest.approx(INTERVAL)


def test_a_request_that_is_answered_is_enough_too(make: Make) -> None:
    router, prober = make(), Prober()
    cut_off(router)
    claimed(router, prober)
    assert send(router, a=streams()) == ["a"]
    assert claimed(router, prober, None) == ["a", "b"]


def test_afterwards_a_route_that_cannot_be_reached_is_opened_as_ever(make: Make, clock: Clock) -> None:
    router = make()
    cut_off(router)
    clock.advance(60.0)
    assert send(router, a=streams()) == ["a"]
    assert send(router, a=unsent(), b=streams()) == ["a", "b"]
    assert states(router) == ["open", "closed"]


def test_probes_alone_may_notice_it(make: Make, clock: Clock) -> None:
    router, prober = make(global_url="off"), Prober()
    begin(router).cancel(0.0)
    assert claimed(router, prober) == ["a", "b"]
    assert states(router) == ["closed", "closed"]
    assert status(router, "a").round_trip is not None


def test_it_is_told_when_it_begins_and_when_it_ends(make: Make, clock: Clock) -> None:
    router = make()
    told: list[bool] = []
    router.subscribe(lambda event: told.append(event.online) if isinstance(event, ConnectivityChanged) else None)
    for _ in range(3):
        cut_off(router)
        clock.advance(1.0)
    for _ in range(3):
        send(router, a=streams())
    assert told == [False, True]
