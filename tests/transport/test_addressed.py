"""`base_url` is a route's own URL, as the vendor's page shows: the key belongs to that route alone."""

from typing import Any

import fireworks
import openai
import pytest

from smartroute import Config
from smartroute.testing import Region, Status
from tests.policy.driving import measured
from tests.transport.kit import CALLERS, CHAT, TEXT, Caller, World, measure, posts

HTTPX = pytest.mark.parametrize("caller", [name for name in CALLERS if name.endswith("httpx")], indirect=True)


def keys(region: Region) -> list[str | None]:
    return [seen.header("authorization") for seen in region.requests]


def bearer(*names: str) -> list[str | None]:
    return [f"Bearer {name}" for name in names]


@pytest.fixture
def called(world: World) -> World:
    """Near takes the caller's own key, too."""
    world.near.api_keys = ["fake-near-key", "fake-caller-key"]
    return world


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_callers_key_goes_to_the_route_it_addressed(caller: Caller, called: World, stream: bool) -> None:
    sdk = caller.sdk(measure(caller.client(called.config())), called.near.url, "fake-caller-key")
    reply = caller.ask(sdk, stream=stream)
    assert (reply.route, reply.text) == ("near", "near" + TEXT)
    assert keys(called.near) == bearer("fake-caller-key")


def test_other_routes_get_their_own_keys(caller: Caller, called: World) -> None:
    called.near.set(Status(503))
    sdk = caller.sdk(measure(caller.client(called.config())), called.near.url, "fake-caller-key")
    assert caller.ask(sdk).route == "far"
    assert keys(called.near) == bearer("fake-caller-key")
    assert keys(called.far) == bearer("fake-far-key")


def test_a_nearer_route_is_asked_first_with_its_own_key(caller: Caller, called: World) -> None:
    sdk = caller.sdk(measure(caller.client(called.config())), called.far.url, "fake-far-key")
    assert caller.ask(sdk).route == "near"
    assert keys(called.near) == bearer("fake-near-key")


def test_the_global_endpoint_gets_its_own_key_and_model(caller: Caller, called: World) -> None:
    called.near.stop()
    called.far.stop()
    config = called.config(
        global_api_key="fake-console-key", global_model="accounts/a/deployments/d", forward_headers=("x-tenant",)
    )
    sdk = caller.sdk(measure(caller.client(config)), called.near.url, "fake-caller-key")
    reply = caller.ask(
        sdk,
        extra_headers={"X-Tenant": "t1", "X-Secret": "fake-secret"},
        extra_query={"api-version": "1", "key": "fake-secret"},
    )
    assert (reply.route, reply.text) == ("global", "globe" + TEXT)
    (seen,) = called.globe.requests
    assert keys(called.globe) == bearer("fake-console-key")
    assert seen.json()["model"] == "accounts/a/deployments/d"
    assert seen.target == "/inference/v1/chat/completions?api-version=1"
    assert (seen.header("x-tenant"), seen.header("x-secret")) == ("t1", None)
    assert seen.header("host") == called.globe.url.split("/")[2]


def test_without_a_global_key_there_is_no_fallback(caller: Caller, called: World) -> None:
    called.near.stop()
    called.far.stop()
    sdk = caller.sdk(measure(caller.client(called.config())), called.near.url, "fake-caller-key")
    with pytest.raises(openai.APIConnectionError):
        caller.ask(sdk)
    assert called.globe.requests == []


def test_a_refused_key_of_the_caller_is_the_answer(caller: Caller, called: World) -> None:
    """The routes' own keys are not the caller's to use, and the route is not to blame."""
    client = measure(caller.client(called.config()))
    with pytest.raises(openai.AuthenticationError):
        caller.ask(caller.sdk(client, called.near.url, "fake-wrong-key"))
    assert keys(called.near) == bearer("fake-wrong-key")
    assert keys(called.far) == []
    assert [status.quarantine for status in client.router.status()] == [None, None]


def test_a_request_may_be_pinned_elsewhere(caller: Caller, called: World) -> None:
    client = measure(caller.client(called.config(global_api_key="fake-console-key")))
    sdk = caller.sdk(client, called.near.url, "fake-caller-key")
    assert caller.ask(sdk, extra_headers={"x-smartroute-route": "far"}).route == "far"
    assert caller.ask(sdk, extra_headers={"x-smartroute-route": "global"}).route == "global"
    assert keys(called.far) == bearer("fake-far-key")
    assert keys(called.globe) == bearer("fake-console-key")
    assert keys(called.near) == []


def test_what_no_route_serves_goes_where_it_was_sent(caller: Caller, called: World) -> None:
    client = measure(caller.client(called.config()))
    sdk = caller.sdk(client, called.near.url, "fake-caller-key")
    models = caller.do(sdk.models.list)
    listed = list(caller.iterate(models))
    assert [model.id for model in listed] == ["test-model"]
    assert keys(called.near) == bearer("fake-caller-key")


# The Fireworks SDK: httpx, and no /v1 in base_url


def fireworks_sdk(caller: Caller, client: Any, **options: Any) -> Any:
    make: Any = fireworks.AsyncFireworks if caller.is_async else fireworks.Fireworks
    return make(http_client=client, max_retries=0, **options)


@HTTPX
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_fireworks_sdk_at_a_handle(caller: Caller, called: World, stream: bool) -> None:
    client = measure(caller.client(called.config()))
    sdk = fireworks_sdk(caller, client, base_url=called.near.url.removesuffix("/v1"), api_key="fake-caller-key")

    def ask() -> str:
        answer = caller.do(sdk.chat.completions.create, stream=stream, **CHAT)
        if not stream:
            return str(answer.choices[0].message.content)
        return "".join(choice.delta.content or "" for chunk in caller.iterate(answer) for choice in chunk.choices)

    assert ask() == "near" + TEXT
    assert keys(called.near) == bearer("fake-caller-key")
    called.near.stop()
    assert ask() == "far" + TEXT
    assert keys(called.far) == bearer("fake-far-key")


@HTTPX
def test_the_fireworks_sdk_as_it_is(caller: Caller, called: World) -> None:
    """Without a base_url it asks the vendor's global endpoint, which is smartroute's by default."""
    config = Config(routes=[called.route(called.near)], probe_interval=0)
    client = caller.client(config)
    sdk = fireworks_sdk(caller, client, api_key="fake-console-key")
    answer = caller.do(sdk.chat.completions.create, **CHAT)
    assert answer.choices[0].message.content == "near" + TEXT
    assert keys(called.near) == bearer("fake-near-key")
    assert posts(called.globe) == 0


@pytest.mark.parametrize("credential", ["key", "token"])
@pytest.mark.parametrize("deployment", [None, "m"], ids=["by model", "by deployment"])
def test_azures_client_addresses_a_deployment(
    caller: Caller, called: World, deployment: str | None, credential: str
) -> None:
    """Its key, or its token, goes to the resource that it addresses; another one gets the route's key."""
    with (
        Region("one", prefix="/openai/deployments/m") as one,
        Region("two", prefix="/openai/deployments/n", api_keys=["fake-two-key"]) as two,
    ):
        azure: dict[str, Any] = {"key_header": "api-key", "query": {"api-version": "2024-10-21"}}
        routes = [called.route(one, **azure), called.route(two, **azure)]
        client = caller.client(Config(routes, global_url=None, probe_interval=0))
        for route, seconds in zip(client.router.config.routes, (0.01, 0.1), strict=True):
            measured(client.router, route, seconds)
        make: Any = openai.AsyncAzureOpenAI if caller.is_async else openai.AzureOpenAI
        given = {"api_key": "fake-caller-key"} if credential == "key" else {"azure_ad_token": "fake-caller-token"}
        sdk = make(
            azure_endpoint=one.url.partition("/openai")[0],
            azure_deployment=deployment,
            api_version="2024-06-01",
            http_client=client,
            max_retries=0,
            **given,
        )
        assert caller.ask(sdk).route == "one"
        one.stop()
        assert caller.ask(sdk, stream=True).route == "two"
        caller.close(client)
        seen = [
            (each.target, each.header("api-key"), each.header("authorization"))
            for each in (*one.requests, *two.requests)
        ]
        mine = ("fake-caller-key", None) if credential == "key" else (None, "Bearer fake-caller-token")
        assert seen == [
            ("/openai/deployments/m/chat/completions?api-version=2024-10-21", *mine),
            ("/openai/deployments/n/chat/completions?api-version=2024-10-21", "fake-two-key", None),
        ]
