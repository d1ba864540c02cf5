"""Requests that may go to some regions only choose among themselves: they move nobody else's traffic."""

from typing import Any

import pytest

from smartroute.config import Config
from smartroute.events import Event, IncumbentChanged
from smartroute.router import Router
from smartroute.testing import Clock
from tests.policy.driving import route
from tests.router.kit import Prober, begin, probe, status

NEAR, FAR = 0.030, 0.033


def test_requests_of_one_region_leave_the_others_where_they_are(clock: Clock) -> None:
    router = Router(Config([route("near", region="US_A_1"), route("far", region="EU_A_1")]), clock=clock)
    changes: list[IncumbentChanged] = []

    def listen(event: Event) -> None:
        if isinstance(event, IncumbentChanged):
            changes.append(event)

    router.subscribe(listen)
    begin(router)
    for name, seconds in (("near", NEAR), ("far", FAR)):
        probe(router, name, seconds=seconds)
    first: list[str] = []
    for _ in range(20):
        clock.advance(1.0)
        for regions in ((), ("EU_*",), ("US_*",)):
            exchange = begin(router, regions=regions)
            first.append(exchange.start(clock()).attempt.endpoint.name)  # type: ignore[union-attr]
            exchange.cancel(clock())
    assert first == ["near", "far", "near"] * 20
    assert len(changes) <= 1
    assert (status(router, "near").incumbent, status(router, "far").incumbent) == (True, False)


def test_what_may_not_be_used_is_not_probed(clock: Clock) -> None:
    config = Config([route("near", region="US_A_1"), route("far", region="EU_A_1")], regions=("EU_*",))
    router = Router(config, clock=clock)
    begin(router)
    assert [claim.route.name for claim in router.claim_probes(Prober())[0]] == ["far"]


@pytest.mark.parametrize("size", [-1, float("nan"), "x", None])
def test_a_size_that_is_none_is_refused(clock: Clock, size: Any) -> None:
    router = Router(Config([route("near")]), clock=clock)
    with pytest.raises(ValueError, match="is no number of bytes"):
        router.rank(size=size)
    with pytest.raises(ValueError, match="is no number of bytes"):
        router.pick(size=size)
