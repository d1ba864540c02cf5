"""The request as an endpoint receives it: its own URL, key and model, allowed headers, and nothing else changed."""

import json
from typing import Any

import pytest

from smartroute.events import AttemptStarted, Event
from smartroute.testing import Seen
from tests.transport.kit import CHAT, STREAM, TEXT, Caller, World, measure, posts

# A body as no SDK would write it: what is not the model's name must arrive as it was written.
BODY = (
    b'{ "messages":[{"role":"user","content":"\\"model\\": \\"m\\", \xe2\x80\xa6\\u00e9"}],\n'
    b'\t"model" : "m" , "temperature":0.10, "metadata":{"model":"m"}, "stream":false }\n'
)


def post(caller: Caller, client: Any, url: str, body: bytes = BODY, headers: dict[str, str] | None = None) -> Any:
    headers = (headers or {}) | {"Content-Type": "application/json", "Authorization": "Bearer fake-console-key"}
    return caller.do(client.post, f"{url}/chat/completions", content=body, headers=headers)


def only(seen: list[Seen]) -> Seen:
    (one,) = seen
    return one


def renamed(name: bytes) -> bytes:
    return BODY.replace(b'"model" : "m"', b'"model" : ' + name)


def test_nothing_is_renamed_unasked(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config()))
    assert post(caller, client, world.globe.url).status_code == 200
    assert only(world.near.requests).body == BODY


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("accounts/fireworks/models/llama", b'"accounts/fireworks/models/llama"'),
        ("m", b'"m"'),
        ('say "hi" \u00e9', '"say \\"hi\\" \u00e9"'.encode()),
    ],
    ids=["another", "the same", "quotes"],
)
def test_one_name_for_whatever_was_asked(caller: Caller, world: World, name: str, written: bytes) -> None:
    client = measure(caller.client(world.config(model=name)))
    assert post(caller, client, world.globe.url).status_code == 200
    seen = only(world.near.requests)
    assert seen.body == renamed(written)
    assert seen.header("content-length") == str(len(seen.body))
    assert seen.json()["model"] == name


def test_pairs_of_names(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config(model={"m": "accounts/a/deployments/d", "n": "short"})))
    post(caller, client, world.globe.url)
    post(caller, client, world.globe.url, BODY.replace(b'"model" : "m"', b'"model" : "n"'))
    assert [seen.body for seen in world.near.requests] == [renamed(b'"accounts/a/deployments/d"'), renamed(b'"short"')]
    response = post(caller, client, world.globe.url, renamed(b'"not-served"'))
    assert only(world.globe.requests).body == renamed(b'"not-served"')
    assert "x-smartroute-route" not in response.headers


def test_each_route_has_its_own_name(caller: Caller, world: World) -> None:
    routes = [world.route(world.near, model="at-near"), world.route(world.far, model={"m": "at-far"})]
    client = measure(caller.client(world.config(routes=routes)))
    world.near.stop()
    post(caller, client, world.globe.url)
    assert only(world.far.requests).body == renamed(b'"at-far"')
    world.far.stop()
    world.near.start()
    post(caller, client, world.globe.url, headers={"x-smartroute-route": "near"})
    assert only(world.near.requests).body == renamed(b'"at-near"')


def test_only_routes_that_serve_the_model_are_asked(caller: Caller, world: World) -> None:
    routes = [world.route(world.near, model={"other": "other"}), world.route(world.far, model={"m": "at-far"})]
    client = measure(caller.client(world.config(routes=routes)))
    assert post(caller, client, world.globe.url).headers["x-smartroute-route"] == "far"
    world.far.stop()
    assert post(caller, client, world.globe.url).headers["x-smartroute-route"] == "global"
    assert posts(world.near) == 0


def test_global_gets_the_request_exactly_as_it_was_made(caller: Caller, world: World) -> None:
    """After two routes failed, too: with their keys, hosts and models nowhere in it."""
    client = measure(caller.client(world.config(model="at-routes", global_model="for-handles")))
    world.near.stop()
    world.far.stop()
    headers = {"X-Tenant": "t1", "x-tenant": "t2", "Cookie": "a=b"}
    response = post(caller, client, world.globe.url, headers=headers)
    assert response.headers["x-smartroute-route"] == "global"
    plain = caller.plain()
    post(caller, plain, world.globe.url, headers=headers)
    ours, theirs = world.globe.requests
    assert (ours.method, ours.target, ours.headers, ours.body) == (
        theirs.method,
        theirs.target,
        theirs.headers,
        theirs.body,
    )


def test_only_allowed_headers_travel_to_a_route(caller: Caller, world: World) -> None:
    allowed = {
        "Accept": "application/json",
        "Accept-Language": "fr",
        "User-Agent": "OpenAI/Python",
        "X-Stainless-Lang": "python",
        "X-Session-Affinity": "s1",
        "X-Multi-Turn-Session-Id": "t1",
        "X-Prompt-Cache-Isolation-Key": "p1",
        "Idempotency-Key": "i1",
        "TraceState": "a=b",
        "Content-Language": "en",
    }
    kept = {
        "Authorization": "Bearer fake-console-key",
        "Proxy-Authorization": "Basic fake",
        "api-key": "fake-azure-key",
        "x-api-key": "fake-other-key",
        "Cookie": "a=b",
        "X-Forwarded-For": "10.0.0.1",
        "OpenAI-Organization": "org",
        "OpenAI-Project": "proj",
        "X-Tenant": "t1",
    }
    client = measure(caller.client(world.config()))
    caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT, headers=allowed | kept)
    seen = only(world.near.requests)
    assert {name: seen.header(name) for name in allowed} == allowed
    assert {name: seen.header(name) for name in kept} == dict.fromkeys(kept) | {"Authorization": "Bearer fake-near-key"}


def test_further_headers_may_be_forwarded(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config(forward_headers=("x-tenant-*", "openai-organization"))))
    headers = [("X-Tenant-A", "1"), ("x-tenant-a", "2"), ("X-Tenant", "no"), ("OpenAI-Organization", "org")]
    caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT, headers=headers)
    seen = only(world.near.requests)
    assert [pair for pair in seen.headers if pair[0].lower().startswith((b"x-tenant", b"openai"))] == [
        (b"X-Tenant-A", b"1"),
        (b"x-tenant-a", b"2"),
        (b"OpenAI-Organization", b"org"),
    ]


def test_streams_are_asked_for_uncompressed(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config()))
    for body in (STREAM, CHAT):
        caller.do(
            client.post, f"{world.globe.url}/chat/completions", json=body, headers={"Accept-Encoding": "gzip, br"}
        )
    assert [seen.header("accept-encoding") for seen in world.near.requests] == ["identity", "gzip, br"]
    world.near.stop()
    world.far.stop()
    caller.do(
        client.post,
        f"{world.globe.url}/chat/completions",
        json=STREAM,
        headers={"Accept-Encoding": "gzip", "Authorization": "Bearer fake-console-key"},
    )
    assert only(world.globe.requests).header("accept-encoding") == "gzip"


def test_each_endpoint_hears_its_own_host(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config()))
    url = f"{world.globe.url}/chat/completions"
    for region, pin in ((world.near, "near"), (world.far, "far"), (world.globe, "global")):
        caller.do(client.post, url, json=CHAT, headers={"x-smartroute-route": pin})
        seen = only(region.requests)
        hosts = [value for name, value in seen.headers if name.lower() == b"host"]
        assert hosts == [region.url.split("/")[2].encode()]


def test_of_a_query_only_the_api_version_goes_along(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config()))
    query = "?key=fake-secret&api-version=2024-10-21&x=%7E%20y&empty="
    caller.do(client.post, f"{world.globe.url}/chat/completions{query}", json=CHAT)
    assert only(world.near.requests).target == "/v1/chat/completions?api-version=2024-10-21"


OWN: dict[str, Any] = {
    "server_name": "near.private.example",
    "headers": {"x-tenant": "ours", "user-agent": "a gateway's", "x-token": "fake-token"},
    "key_header": "x-key",
    "query": {"api-version": "2024-10-21", "area": "e u&x"},
}


def headers_of(seen: Seen, *names: str) -> list[tuple[str, str]]:
    found = ((name.decode().lower(), value.decode()) for name, value in seen.headers)
    return sorted(pair for pair in found if pair[0] in names)


def test_what_a_route_is_always_sent(caller: Caller, world: World) -> None:
    """In place of what the caller sends under the same names, though it may be forwarded."""
    world.near.api_keys = []
    routes = [world.route(world.near, **OWN), world.route(world.far)]
    forwarded = ("x-tenant", "x-key", "x-o*", "x-token")
    client = measure(caller.client(world.config(routes=routes, forward_headers=forwarded)))
    headers = {"X-Tenant": "theirs", "X-Key": "fake-callers-key", "User-Agent": "OpenAI/Python", "X-Other": "1"}
    headers |= {"Authorization": "Bearer fake-console-key"}
    url = f"{world.globe.url}/chat/completions?api-version=1&key=fake"
    for pin in ("near", "far"):
        caller.do(client.post, url, json=CHAT, headers=headers | {"x-smartroute-route": pin})
    names = ("x-tenant", "x-key", "user-agent", "x-other", "x-token", "authorization")
    near, far = only(world.near.requests), only(world.far.requests)
    assert headers_of(near, *names) == [
        ("user-agent", "a gateway's"),
        ("x-key", "fake-near-key"),
        ("x-other", "1"),
        ("x-tenant", "ours"),
        ("x-token", "fake-token"),
    ]
    assert near.target == "/v1/chat/completions?api-version=2024-10-21&area=e%20u%26x"
    port = world.near.url.split(":")[2].split("/")[0]
    assert headers_of(near, "host") == [("host", f"near.private.example:{port}")]
    assert headers_of(far, *names) == [
        ("authorization", "Bearer fake-far-key"),
        ("user-agent", "OpenAI/Python"),
        ("x-other", "1"),
        ("x-tenant", "theirs"),
    ]
    assert far.target == "/v1/chat/completions?api-version=1"


def test_a_route_that_was_addressed_gets_the_callers_own_key_where_it_wants_it(caller: Caller, world: World) -> None:
    world.near.api_keys = []
    client = measure(caller.client(world.config(world.near, routes=[world.route(world.near, **OWN)])))
    headers = {"X-Key": "fake-callers-key", "api-key": "fake-other", "Cookie": "a=b"}
    caller.do(client.post, f"{world.near.url}/chat/completions?area=1&x=2", json=CHAT, headers=headers)
    seen = only(world.near.requests)
    assert headers_of(seen, "x-key", "api-key", "cookie", "authorization") == [("x-key", "fake-callers-key")]
    assert seen.target == "/v1/chat/completions?x=2&api-version=2024-10-21&area=e%20u%26x"


def test_nothing_of_one_route_reaches_another_endpoint(caller: Caller, world: World) -> None:
    routes = [world.route(world.near, **OWN)]
    client = measure(caller.client(world.config(routes=routes)))
    world.near.stop()
    post(caller, client, world.globe.url)
    post(caller, caller.plain(), world.globe.url)
    ours, theirs = world.globe.requests
    assert (ours.target, ours.headers, ours.body) == (theirs.target, theirs.headers, theirs.body)


def test_a_body_may_be_large_and_of_any_form(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config(model="at-routes")))
    body = {"messages": [{"role": "user", "content": '\\"' * 400_000}], "model": "m"}
    content = json.dumps(body).encode()
    assert post(caller, client, world.globe.url, content).status_code == 200
    assert only(world.near.requests).body == content[:-4] + b'"at-routes"}'
    assert TEXT in post(caller, client, world.globe.url).text


@pytest.mark.parametrize(
    "pair",
    [
        ("traceparent", "fake"),
        (b"traceparent", "fake"),
        (b"traceparent", b"fake\r\nX-Smuggled: fake"),
        (b"traceparent", b" fake"),
        (b"trace parent", b"fake"),
        (b"content-length", b"5"),
        (b"traceparent",),
        b"traceparent",
        None,
    ],
)
@pytest.mark.parametrize("caller", ["sync-httpx2"], indirect=True)
def test_a_listeners_mistake_fails_no_request(caller: Caller, world: World, pair: Any) -> None:
    client = measure(caller.client(world.config()))

    def add(event: Event) -> None:
        if isinstance(event, AttemptStarted):
            event.headers[:] = [pair, (b"tracestate", b"fake=1")]

    client.router.subscribe(add)
    assert post(caller, client, world.globe.url).status_code == 200
    seen = only(world.near.requests)
    assert (seen.header("tracestate"), seen.header("traceparent"), seen.body) == ("fake=1", None, BODY)
