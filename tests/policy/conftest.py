"""The fleets over which exchanges are tested."""

from collections.abc import Iterator, Sequence

import pytest

from smartroute.route import Route
from tests.policy.driving import WORLDWIDE, Build, PlainFleet, RealFleet, World, route


@pytest.fixture(params=["plain fleet", "real router"])
def build(request: pytest.FixtureRequest) -> Iterator[Build]:
    """Makes fleets; when the test is over nothing may be in flight in any of them."""
    made: list[World] = []

    def make(*names: str, fallback: bool = True, routes: Sequence[Route] = ()) -> World:
        every = routes or [route(name) for name in names or ("a", "b")]
        last = WORLDWIDE if fallback else None
        made.append(PlainFleet(every, last) if request.param == "plain fleet" else RealFleet(every, last))
        return made[-1]

    yield make
    for world in made:
        assert world.in_flight() == 0
        assert 0.0 <= world.budget.tokens <= 10.0
