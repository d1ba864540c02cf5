"""A virtual clock, and routers that live by it."""

from typing import Any

import pytest

from smartroute.config import Config
from smartroute.route import Route
from smartroute.router import (
    Router,
)
from smartroute.testing import Clock
from tests.policy.driving import measured, route
from tests.router.kit import Make


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Make:
    """Makes routers with measured routes: a is nearer than b, and so on."""

    def make(*names: str, warm: bool = True, routes: list[Route] | None = None, **options: Any) -> Router:
        routes = routes if routes is not None else [route(name) for name in names or ("a", "b")]
        router = Router(Config(routes, **options), clock=clock, wall=lambda: 1.7e9, random=lambda: 0.5)
        for place, each in enumerate(routes if warm else []):
            measured(router, each, 0.010 * 4**place)
        return router

    return make
