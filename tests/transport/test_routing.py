"""Which endpoint a request goes to, and what its answer says about that."""

from collections.abc import Callable
from typing import Any

import pytest

from smartroute import Config
from smartroute.errors import UnknownRouteError
from smartroute.testing import ExtraHeaders, Status
from tests.transport.kit import CHAT, STREAM, TEXT, Caller, Reply, World, measure, posts

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@BOTH
def test_a_chat_goes_to_the_nearest_route(caller: Caller, world: World, stream: bool) -> None:
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    assert caller.ask(sdk, stream=stream) == Reply("near", "1", "near" + TEXT)
    assert (posts(world.near), posts(world.far), posts(world.globe)) == (1, 0, 0)
    assert world.near.requests[0].target == "/v1/chat/completions"


@BOTH
def test_a_completion_goes_to_the_nearest_route(caller: Caller, world: World, stream: bool) -> None:
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    raw = caller.do(sdk.completions.with_raw_response.create, model="m", prompt="Where?", stream=stream)
    parsed = caller.do(raw.parse)
    texts = [choice.text for chunk in caller.iterate(parsed) for choice in chunk.choices] if stream else ""
    assert ("".join(texts) or parsed.choices[0].text) == "near" + TEXT
    assert raw.headers["x-smartroute-route"] == "near"
    assert world.near.requests[0].target == "/v1/completions"


def test_embeddings_come_from_the_nearest_route(caller: Caller, world: World) -> None:
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    raw = caller.do(sdk.embeddings.with_raw_response.create, model="m", input=["one", "two"])
    assert [each.embedding for each in raw.parse().data] == [[0.25, -0.5, 0.75, -1.0]] * 2
    assert raw.headers["x-smartroute-route"] == "near"
    assert world.near.requests[0].target == "/v1/embeddings"


def test_a_response_tells_its_journey(caller: Caller, world: World) -> None:
    world.near.set(Status(503))
    client = measure(caller.client(world.config()))
    response = caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT)
    journey = response.extensions["smartroute"]
    assert journey.route == response.headers["x-smartroute-route"] == "far"
    assert response.headers["x-smartroute-attempts"] == "2"
    assert [(record.endpoint, record.status) for record in journey.attempts] == [("near", 503), ("far", 200)]
    assert str(response.request.url) == f"{world.globe.url}/chat/completions"


def test_each_route_is_asked_for_the_paths_that_it_serves(caller: Caller, world: World) -> None:
    routes = [world.route(world.near, paths=["/embeddings", "/rerank"]), world.route(world.far)]
    client = measure(caller.client(world.config(routes=routes)))

    def answers(url: str, path: str) -> str | None:
        headers = {"Authorization": "Bearer fake-far-key"}
        response = caller.do(client.post, url + path, json={**CHAT, "input": "a"}, headers=headers)
        found: str | None = response.headers.get("x-smartroute-route")
        return found

    assert answers(world.globe.url, "/embeddings") == "near"
    assert answers(world.globe.url, "/chat/completions") == "far"
    assert posts(world.near) == 1
    assert answers(world.far.url, "/embeddings") == "near"  # both serve it
    assert answers(world.near.url, "/chat/completions") is None  # as if there were nothing but the plain client
    assert answers(world.globe.url, "/elsewhere") is None
    world.near.stop()
    assert answers(world.globe.url, "/embeddings") == "far"
    assert answers(world.globe.url, "/rerank") == "global"  # nobody else serves it
    assert {candidate.route.name for candidate in client.router.rank(path="/rerank")} == {"near", "global"}


@BOTH
@pytest.mark.parametrize(("pin", "answers"), [("far", "far"), ("near", "near"), ("global", "globe")])
def test_a_request_may_be_pinned(caller: Caller, world: World, pin: str, answers: str, stream: bool) -> None:
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    reply = caller.ask(sdk, stream=stream, extra_headers={"x-smartroute-route": pin})
    assert reply == Reply(pin, "1", answers + TEXT)


def test_a_pinned_request_goes_nowhere_else(caller: Caller, world: World) -> None:
    world.near.set(Status(503))
    client = measure(caller.client(world.config()))
    url = f"{world.globe.url}/chat/completions"
    response = caller.do(client.post, url, json=CHAT, headers={"x-smartroute-route": "near"})
    assert response.status_code == 503
    assert (posts(world.near), posts(world.far), posts(world.globe)) == (1, 0, 0)
    world.near.stop()
    with pytest.raises(caller.family.ConnectError):
        caller.do(client.post, url, json=CHAT, headers={"x-smartroute-route": "near"})


def test_an_unknown_pin_is_a_clear_error(caller: Caller, world: World) -> None:
    client = caller.client(world.config())
    calls: list[Callable[[], Any]] = [
        lambda: caller.do(
            client.post, f"{world.globe.url}/chat/completions", json=CHAT, headers={"X-SmartRoute-Route": "nowhere"}
        ),
        lambda: caller.ask(caller.sdk(client, world.globe.url), extra_headers={"x-smartroute-route": "nowhere"}),
    ]
    for call in calls:
        with pytest.raises(UnknownRouteError, match=r"no route 'nowhere'.*far.*near.*global"):
            call()
    assert [region.requests for region in world.all] == [[], [], []]


@pytest.mark.parametrize("to", ["near", "far", "global", "elsewhere", "disabled"])
def test_smartroutes_headers_never_leave_the_process(caller: Caller, world: World, to: str) -> None:
    client = measure(caller.client(Config(disabled=True) if to == "disabled" else world.config()))
    headers = {"X-SmartRoute-Note": "1", "x-smartroute-regions": "*", "x-stainless-lang": "python"}
    if to not in ("elsewhere", "disabled"):
        headers["x-smartroute-route"] = to
    path = "/models/m" if to == "elsewhere" else "/chat/completions"
    caller.do(client.post, world.globe.url + path, json=STREAM, headers=headers)
    (seen,) = [seen for region in world.all for seen in region.requests]
    assert [name for name, _ in seen.headers if name.lower().startswith(b"x-smartroute")] == []
    assert seen.header("x-stainless-lang") == "python"


def test_an_endpoint_cannot_speak_in_smartroutes_name(caller: Caller, world: World) -> None:
    world.near.set(ExtraHeaders({"X-SmartRoute-Route": "mars"}))
    client = measure(caller.client(world.config()))
    response = caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT)
    assert response.headers.get_list("x-smartroute-route") == ["near"]


def test_routes_neither_set_cookies_nor_get_them(caller: Caller, world: World) -> None:
    for region in world.all:
        region.set(ExtraHeaders({"Set-Cookie": f"from={region.name}"}))
    client = measure(caller.client(world.config()))
    client.cookies.set("session", "fake-session")
    url = f"{world.globe.url}/chat/completions"
    for body in (CHAT, STREAM):
        response = caller.do(client.post, url, json=body, headers={"Cookie": "by=hand"})
        assert "set-cookie" not in response.headers
    world.near.stop()
    world.far.stop()
    auth = {"Authorization": "Bearer fake-console-key"}
    response = caller.do(client.post, url, json=CHAT, headers=auth)
    assert response.headers["set-cookie"] == "from=globe"
    caller.do(client.post, url, json=CHAT, headers=auth)
    assert [seen.header("cookie") for seen in world.near.requests] == [None, None]
    cookies = [set((seen.header("cookie") or "").split("; ")) for seen in world.globe.requests]
    assert cookies == [{"session=fake-session"}, {"session=fake-session", "from=globe"}]


def test_a_drained_route_is_not_asked(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    client.router.drain("near")
    assert caller.ask(sdk).route == "far"
    client.router.resume("near")
    assert caller.ask(sdk).route in ("near", "far")  # the incumbent may be kept
    assert client.router.status()[1].drained is False


def test_a_request_may_name_its_regions(caller: Caller, world: World) -> None:
    near, far = (world.route(world.near, region="US_IOWA_1"), world.route(world.far, region="EU_FRANKFURT_1"))
    config = world.config(routes=[near, far])
    client = measure(caller.client(config))
    sdk = caller.sdk(client, world.globe.url)
    only_eu = {"x-smartroute-regions": "eu-*"}
    assert caller.ask(sdk, extra_headers=only_eu).route == "far"
    world.far.stop()
    with pytest.raises(Exception, match="Connection error"):
        caller.ask(sdk, extra_headers=only_eu)
    assert (posts(world.near), posts(world.globe)) == (0, 0)


@pytest.mark.parametrize("regions", ["", ",", " , "])
def test_a_list_of_regions_that_names_none_allows_none(caller: Caller, world: World, regions: str) -> None:
    """More likely a template gone wrong than a wish for every region."""
    client = measure(caller.client(world.config(routes=[world.route(world.near, region="US_IOWA_1")])))
    with pytest.raises(caller.family.ConnectError):
        caller.do(
            client.post,
            f"{world.globe.url}/chat/completions",
            json=CHAT,
            headers={"x-smartroute-regions": regions, "authorization": "Bearer fake-console-key"},
        )
    assert [region.requests for region in world.all] == [[], [], []]
