"""What every test of the transport starts from, and what none may leave behind."""

import os
from collections.abc import Iterator

import pytest

from smartroute.policy.latency import Latency
from smartroute.testing import Region
from tests.transport.kit import CALLERS, Caller, World, deserted, eventually, threads

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that the machine happens to have is not what is tested."""
    for name in tuple(os.environ):
        if name.lower() in PROXIES or name.startswith(("SMARTROUTE_", "OPENAI_", "FIREWORKS_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine it may take long to connect: no reason here to be answered by another route."""
    monkeypatch.setattr(Latency, "patience", 5.0)


@pytest.fixture(scope="package", autouse=True)
def _regions_thread() -> Iterator[None]:
    """One region that is always up keeps the thread that all of them run in."""
    with Region("keeper"):
        yield
    # Which test takes how long to end its threads is for some tests to say; in the end there are none.
    assert eventually(lambda: not threads()), f"threads were left behind: {threads()}"


@pytest.fixture
def world() -> Iterator[World]:
    """Regions that are up, and take their own keys only."""
    regions = {name: Region(name, api_keys=[f"fake-{name}-key"]) for name in ("near", "far")}
    globe = Region("globe", api_keys=["fake-console-key"], prefix="/inference/v1")
    with regions["near"] as near, regions["far"] as far, globe:
        yield World(near, far, globe)


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest, world: World) -> Iterator[Caller]:
    """Each kind of client in turn. Of what the test did, nothing may be left once the clients are closed."""
    kind, family = CALLERS[request.param]
    made: Caller = kind(family)
    yield made
    routers = [client.router for client in made.clients if hasattr(client, "router")]
    made.finish()
    for router in routers:
        assert [status.name for status in router.status() if status.in_flight] == []
    for region in world.all:
        assert deserted(region), f"{region} still has connections; it was asked {region.requests}"
