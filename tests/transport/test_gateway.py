"""Deployments of several regions behind one URL, the global endpoint's too: only their models tell them apart."""

import pytest

from smartroute import Config, Route
from smartroute.testing import Region
from tests.transport.kit import Caller, World, measure

DEPLOYMENTS = {"near": "accounts/a/deployments/one", "far": "accounts/a/deployments/two"}
ONE, TWO = DEPLOYMENTS.values()


@pytest.fixture
def gateway(world: World) -> Region:
    world.globe.api_keys = ["fake-console-key", "fake-route-key"]
    return world.globe


def config(gateway: Region) -> Config:
    """Every deployment serves what is asked of any."""
    routes = [
        Route(gateway.url, name=name, api_key="fake-route-key", model=dict.fromkeys(DEPLOYMENTS.values(), model))
        for name, model in DEPLOYMENTS.items()
    ]
    return Config(routes, global_url=gateway.url, probe_interval=0)


def models(gateway: Region) -> list[str]:
    return [seen.json()["model"] for seen in gateway.requests if seen.method == "POST"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_best_deployment_is_asked_whichever_was_named(caller: Caller, gateway: Region, stream: bool) -> None:
    sdk = caller.sdk(measure(caller.client(config(gateway))), gateway.url)
    assert caller.ask(sdk, model=TWO, stream=stream).route == "near"
    assert models(gateway) == [ONE]
    assert [seen.header("authorization") for seen in gateway.requests] == ["Bearer fake-route-key"]


def test_another_deployment_answers_where_one_is_gone(caller: Caller, gateway: Region) -> None:
    gateway.models = [TWO]
    sdk = caller.sdk(measure(caller.client(config(gateway))), gateway.url)
    assert caller.ask(sdk, model=ONE).route == "far"
    assert models(gateway) == [ONE, TWO]


def test_other_models_go_to_the_global_endpoint_as_they_are(caller: Caller, gateway: Region) -> None:
    sdk = caller.sdk(measure(caller.client(config(gateway))), gateway.url)
    raw = caller.do(
        sdk.chat.completions.with_raw_response.create,
        model="accounts/fireworks/models/serverless",
        messages=[{"role": "user", "content": "Hello!"}],
    )
    assert "x-smartroute-attempts" not in raw.headers
    assert models(gateway) == ["accounts/fireworks/models/serverless"]
