"""A key only ever reaches the host it belongs to: whatever the configuration, and whatever goes wrong."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smartroute import Config, Route
from smartroute.events import AttemptEnded
from smartroute.testing import (
    CloseAfterAnswer,
    Cut,
    EmptyStream,
    ErrorEvent,
    ExtraHeaders,
    Fault,
    Region,
    Reset,
    Status,
)
from tests.transport.kit import CHAT, Caller, World, eventually, measure

OWN = {"near": ("fake-near-1", "fake-near-2"), "far": ("fake-far-1", "fake-far-2")}
SHARED = "fake-shared"
CONSOLE = "fake-console"
CALLER = {"near": "fake-caller-near", "far": "fake-caller-far", "globe": CONSOLE}
BELONG = {
    "near": {*OWN["near"], SHARED, CALLER["near"], "fake-near-token", "fake-near-sign"},
    "far": {*OWN["far"], SHARED, CALLER["far"], "fake-far-token", "fake-far-sign"},
    "globe": {CONSOLE, "fake-global"},
}
EVERY = {key for keys in BELONG.values() for key in keys}

FAULTS: list[Fault | str | None] = [
    None,
    Status(401),
    Status(403, times=1),
    Status(404),
    Status(429),
    Status(500),
    Status(503, times=1),
    Status(307, {"location": "/v1/chat/completions"}),
    "redirect to near",
    "redirect to globe",
    Reset(),
    Reset(at="request", times=1),
    Reset(at="reuse"),
    Reset(at="accept", times=2),
    CloseAfterAnswer(),
    Cut(1),
    EmptyStream(),
    ErrorEvent(),
    ExtraHeaders({"set-cookie": "key=fake-cookie"}),
]


@dataclass(frozen=True)
class Scene:
    """A configuration, a caller, and how the regions are doing."""

    own_keys: dict[str, tuple[str, ...]]
    shared_key: bool
    global_key: bool
    fallback: bool
    addressed: str
    model: bool
    probes: bool
    key_headers: dict[str, str]
    headers: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[bool, str | None]] = field(default_factory=list)
    faults: dict[str, Fault | str | None] = field(default_factory=dict)
    accepted: dict[str, bool] = field(default_factory=dict)


def of_regions(value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(dict.fromkeys(BELONG, value))


SCENES = st.builds(
    Scene,
    own_keys=st.fixed_dictionaries(
        {name: st.lists(st.sampled_from(keys), max_size=2, unique=True).map(tuple) for name, keys in OWN.items()}
    ),
    shared_key=st.just(value=True),
    global_key=st.booleans(),
    fallback=st.booleans(),
    addressed=st.sampled_from(sorted(BELONG)),
    model=st.booleans(),
    probes=st.booleans(),
    key_headers=st.fixed_dictionaries(dict.fromkeys(OWN, st.sampled_from(["authorization", "api-key", "x-api-key"]))),
    headers=st.fixed_dictionaries(
        {},
        optional={
            "Cookie": st.just("session=fake-cookie"),
            "api-key": st.just("fake-azure"),
            "X-Api-Key": st.just("fake-other"),
            "Proxy-Authorization": st.just("fake-proxy"),
            "OpenAI-Organization": st.just("fake-organization"),
        },
    ),
    calls=st.lists(st.tuples(st.booleans(), st.sampled_from([None, "near", "far", "global"])), min_size=1, max_size=3),
    faults=of_regions(st.sampled_from(FAULTS)),
    accepted=of_regions(st.booleans()),
)


@pytest.fixture(scope="module")
def regions() -> Iterator[dict[str, Region]]:
    prefixes = {"near": "/v1", "far": "/v1", "globe": "/inference/v1"}
    made = {name: Region(name, prefix=prefix) for name, prefix in prefixes.items()}
    with made["near"], made["far"], made["globe"]:
        yield made


def config_of(scene: Scene, regions: dict[str, Region]) -> Config:
    routes = [
        Route(
            regions[name].url,
            name=name,
            api_key=scene.own_keys[name] or None,
            key_header=scene.key_headers[name],
            headers={"x-token": f"fake-{name}-token"},
            query={"sign": f"fake-{name}-sign"},
        )
        for name in OWN
    ]
    return Config(
        routes,
        api_key=SHARED,
        model="routed" if scene.model else None,
        global_url=regions["globe"].url if scene.fallback else None,
        global_api_key="fake-global" if scene.global_key else None,
        forward_headers=("openai-*",),
        probe_interval=10 if scene.probes else 0,
    )


@given(scene=SCENES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_server_sees_its_own_keys_only(caller: Caller, regions: dict[str, Region], scene: Scene) -> None:
    for name, region in regions.items():
        region.api_keys = sorted(BELONG[name]) if scene.accepted[name] else [OWN.get(name, ("fake-global",))[-1]]
        fault = scene.faults[name]
        if isinstance(fault, str):
            fault = Status(307, {"location": f"{regions[fault.split()[-1]].url}/chat/completions"})
        region.set(*([fault] if fault else []))
    seen_before = {name: len(region.requests) for name, region in regions.items()}

    client = measure(caller.client(config_of(scene, regions)))
    headers = {**scene.headers, "Authorization": f"Bearer {CALLER[scene.addressed]}"}
    for stream, pin in scene.calls:
        with suppress(caller.family.RequestError, LookupError):  # a failure is no excuse
            caller.do(
                client.post,
                f"{regions[scene.addressed].url}/chat/completions",
                json={**CHAT, "stream": stream},
                headers=headers | ({"x-smartroute-route": pin} if pin else {}),
                timeout=5,
            )
    caller.close(client)

    for name, region in regions.items():
        strangers = EVERY - BELONG[name]
        for seen in region.requests[seen_before[name] :]:
            text = b"\n".join((seen.target.encode(), *(b": ".join(pair) for pair in seen.headers), seen.body)).decode()
            assert [key for key in strangers if key in text] == [], f"at {name}: {seen}"
            addressed_here = scene.addressed == name == "globe" or (not scene.fallback and scene.addressed == "globe")
            if not addressed_here and seen.method == "POST":
                secrets = {"fake-cookie", "fake-azure", "fake-other", "fake-proxy"}
                if scene.addressed == name:  # the caller's own key, where this route wants it
                    secrets.discard(
                        {"api-key": "fake-azure", "x-api-key": "fake-other"}.get(scene.key_headers[name], "")
                    )
                assert [secret for secret in secrets if secret in text] == [], f"at {name}"
            if seen.method == "GET" and name == "globe":
                pytest.fail("the global endpoint was probed")


def test_no_event_shows_a_key(caller: Caller, world: World) -> None:
    """Not even to a listener that logs all there is."""
    world.near.set(Status(401, only="post"))
    world.far.set(Status(503, only="post"))
    client = caller.client(world.config(probe_interval=0.1))
    shown: list[str] = []
    client.router.subscribe(lambda event: shown.append(type(event).__name__ + json.dumps(event._asdict(), default=str)))
    assert caller.ask(caller.sdk(client, world.globe.url), stream=True).route == "global"
    kinds = ("ExchangeStarted", "AttemptStarted", "AttemptEnded", "ExchangeEnded", "ProbeEnded")
    assert eventually(lambda: all(any(text.startswith(kind) for text in shown) for kind in kinds))
    assert [text for text in shown if "fake-" in text] == []


def test_of_what_a_route_is_always_sent_only_the_long_is_a_secret(caller: Caller, world: World) -> None:
    """A tenant's name or a version stands in many a request's id, and hides none."""
    secret = "fake-tenant-secret"
    routes = [world.route(world.near, headers={"x-tenant": "n"}, query={"version": "1", "sig": secret})]
    client = caller.client(world.config(routes=routes))
    noted: list[tuple[tuple[str, str], ...]] = []
    client.router.subscribe(lambda event: noted.append(event.headers) if isinstance(event, AttemptEnded) else None)
    sdk = caller.sdk(client, world.globe.url)
    assert caller.ask(sdk).route == "near"
    world.near.set(ExtraHeaders({"fireworks-deployment": f"of-{secret}"}))
    assert caller.ask(sdk).route == "near"
    assert [[name for name, _ in headers] for headers in noted] == [["x-request-id"], ["x-request-id"]]


def test_a_key_under_a_header_of_one_routes_own_is_not_forwarded_to_another(caller: Caller, world: World) -> None:
    world.near.set(Status(500))
    routes = [world.route(world.near, key_header="x-near-key"), world.route(world.far)]
    client = measure(caller.client(world.config(routes=routes, forward_headers=["x-n*", "x-t*"])))
    caller.do(
        client.post,
        f"{world.near.url}/chat/completions",
        json=CHAT,
        headers={"x-near-key": "fake-caller-key", "x-tenant": "a"},
    )
    assert [seen.header("x-near-key") for seen in world.near.requests] == ["fake-caller-key"]
    (seen,) = world.far.requests
    assert (seen.header("x-tenant"), seen.header("x-near-key")) == ("a", None)
