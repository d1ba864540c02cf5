"""What is not routed arrives byte for byte as the family's own client sends it, and so does what comes back."""

import io
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smartroute import Config
from smartroute.events import Event, PassedThrough
from smartroute.testing import Cut, ExtraHeaders, Fault, Gzip, Region, Reset, Status
from tests.transport.kit import CHAT, Caller, World, eventually, posts

SERVED = "served-model"
TRUST = ssl.create_default_context()  # making one takes longer than a request


def pieces(*, is_async: bool, body: bytes) -> Iterator[bytes] | AsyncIterator[bytes]:
    """A body that can be sent once only."""
    parts = [b'{"model": "served-model"', b"}", body]

    async def send() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return send() if is_async else iter(parts)


@dataclass(frozen=True)
class Sent:
    """A request, and why no route may serve it."""

    why: str
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    kind: str
    body: bytes
    fault: Fault | None

    def options(self, *, is_async: bool) -> dict[str, Any]:
        """What it is sent with; made anew each time, for some bodies can be sent once only."""
        found: dict[str, Any] = {"headers": list(self.headers)}
        match self.kind:
            case "content":
                found["content"] = self.body
            case "json":
                found["json"] = {"model": SERVED, "messages": [], "text": self.body.hex()}
            case "stream":
                found["content"] = pieces(is_async=is_async, body=self.body)
            case "form":
                found["data"] = {"model": SERVED, "body": self.body.hex()}
            case "file":
                found["files"] = {"file": ("f.jsonl", io.BytesIO(self.body), "application/jsonl")}
                found["headers"] = [*self.headers, ("content-type", "multipart/form-data; boundary=fake-boundary")]
            case _:
                pass
        return found


TEXT = st.text(st.characters(codec="ascii", categories=("L", "N")), max_size=8)
NAMES = st.one_of(
    st.sampled_from(["Authorization", "Cookie", "X-Api-Key", "Accept-Encoding", "accept", "X-Stainless-Retry-Count"]),
    TEXT.map(lambda text: f"X-{text}-Header"),
)
SEGMENTS = st.sampled_from(
    ["models", "files", "responses", "chat", "a%20b", "%7E", "x;y=1", "\u00e9", "..", "", "messages"]
)
OTHER_TARGETS = st.builds(
    lambda segments, query: "/" + "/".join(segments) + query,
    st.lists(SEGMENTS, min_size=1, max_size=3),
    st.sampled_from(["", "?a=1&b=%20&a=2", "?q=%7E~", "?", "?x=\u00e9"]),
)
ROUTED_TARGET = "/chat/completions"
FAULTS: list[Fault | None] = [
    None,
    None,
    Gzip(),
    ExtraHeaders({"Set-Cookie": "a=b; Path=/", "X-SmartRoute-Route": "mine", "X-Should-Retry": "true"}),
    Status(204),
    Status(301, {"location": "/inference/v1/models"}),
    Status(307, {"location": "../files?moved=1"}),
    Status(401),
    Status(429, {"retry-after": "3"}),
    Status(500),
    Status(503, {"x-should-retry": "true"}, b"<html>"),
    Reset(),
    Reset(at="accept"),
    Reset(at="request"),
    Cut(1),
    Cut(1, reset=True),
]


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    why = draw(st.sampled_from(["path", "method", "host", "body", "model", "no model", "disabled", "no routes"]))
    kinds = ["content", "json", "form", "file", "stream", "none"]
    method, target = "POST", ROUTED_TARGET
    if why == "path":
        method = draw(st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]))
        target = draw(OTHER_TARGETS)
    elif why == "method":
        method = draw(st.sampled_from(["GET", "PUT", "DELETE", "HEAD"]))
    elif why == "body":
        kinds = ["stream", "form", "file", "none"]
    elif why in ("model", "no model"):
        kinds = ["content"]
    kind = draw(st.sampled_from(kinds)) if method != "GET" else "none"
    body = draw(st.binary(max_size=200))
    if why == "model":
        body = json.dumps({"messages": [], "model": draw(st.sampled_from(["other", "", "Served-model"]))}).encode()
    elif why == "no model":
        body = draw(st.sampled_from([b"{}", b'{"model": 1}', b"[]", b"", b'{"model": null}']))
    headers = draw(st.lists(st.tuples(NAMES, TEXT), max_size=5))
    return Sent(why, method, target, tuple(headers), kind, body, draw(st.sampled_from(FAULTS)))


@pytest.fixture(scope="module")
def other() -> Iterator[Region]:
    with Region("other", prefix="/inference/v1") as region:
        yield region


@given(sent=requests())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_it_arrives_and_returns_as_with_the_bare_client(
    caller: Caller, world: World, other: Region, sent: Sent
) -> None:
    match sent.why:
        case "disabled":
            config = world.config(disabled=True)
        case "no routes":
            config = world.config(routes=[])
        case _:
            config = world.config(model={SERVED: "sent"})
    server = other if sent.why == "host" else world.globe
    server.api_keys = []
    server.set(*([sent.fault] if sent.fault else []))
    outcomes, arrived = [], []
    for client in (caller.plain(verify=TRUST), caller.client(config, verify=TRUST)):
        before = len(server.requests)
        outcomes.append(outcome(caller, client, sent, server))
        caller.close(client)
        caller.clients.remove(client)
        arrived.append([(seen.method, seen.target, seen.headers, seen.body) for seen in server.requests[before:]])
    assert arrived[1] == arrived[0]
    assert outcomes[1] == outcomes[0]
    assert (world.near.requests, world.far.requests) == ([], [])


def outcome(caller: Caller, client: Any, sent: Sent, server: Region) -> Any:
    """Everything the caller sees of an answer or of a failure."""
    try:
        response = caller.send(client, sent.method, server.url + sent.target, **sent.options(is_async=caller.is_async))
        content = b"".join(caller.chunks(response))
        caller.close(response)
    except (caller.family.NetworkError, caller.family.RemoteProtocolError) as error:
        # Which of these it is when a connection is reset while it is written to, is the kernel's whim.
        kind = "lost" if isinstance(sent.fault, Reset) and sent.fault.at != "answer" else type(error)
        return kind, str(error.request.url)
    except (caller.family.HTTPError, caller.family.StreamError) as error:
        return type(error), str(error)
    finally:
        cookies = sorted((cookie.name, cookie.value) for cookie in client.cookies.jar)
    return (
        response.status_code,
        [pair for pair in response.headers.raw if pair[0] != b"x-request-id"],
        content,
        response.http_version,
        response.reason_phrase,
        str(response.url),
        [each.status_code for each in response.history],
        "smartroute" in response.extensions,
        "network_stream" in response.extensions,
        cookies,
    )


def test_refused_connections_and_names_are_told_alike(caller: Caller, world: World) -> None:
    world.globe.stop()
    plain, client = caller.plain(), caller.client(world.config())
    for url in (f"{world.globe.url}/models", "http://127.0.0.1:1/", "foo://h/", "http://no-such-host.invalid/"):
        errors = []
        for each in (plain, client):
            with pytest.raises(caller.family.HTTPError) as caught:
                caller.do(each.get, url)
            errors.append(type(caught.value))
        assert errors[0] is errors[1]


def test_timeouts_are_told_alike(caller: Caller, world: World) -> None:
    world.globe.latency = 2.0
    plain, client = caller.plain(), caller.client(world.config())
    for each in (plain, client):
        with pytest.raises(caller.family.ReadTimeout):
            caller.do(each.get, f"{world.globe.url}/models", timeout=caller.family.Timeout(5, read=0.05))


def test_timeouts_of_routed_requests_are_the_familys(caller: Caller, world: World) -> None:
    for region in world.all:
        region.latency = 2.0
    client = caller.client(world.config())
    timeout = caller.family.Timeout(5, read=0.05)
    with pytest.raises(caller.family.ReadTimeout):
        caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT, timeout=timeout)


def test_a_passed_through_connection_is_kept_as_long_as_with_the_bare_client(caller: Caller, world: World) -> None:
    client = caller.client(world.config(), limits=caller.family.Limits(keepalive_expiry=0.05))
    auth = {"Authorization": "Bearer fake-console-key"}
    for _ in range(2):
        caller.do(client.get, f"{world.globe.url}/models", headers=auth)
    assert world.globe.connections <= 2
    before = world.globe.connections
    assert eventually(lambda: expired(caller, client, world, auth, before))


def expired(caller: Caller, client: Any, world: World, auth: dict[str, str], before: int) -> bool:
    """Whether a request after a pause needs a new connection."""
    eventually(lambda: False, 0.1)
    caller.do(client.get, f"{world.globe.url}/models", headers=auth)
    return world.globe.connections > before


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("a generator", "its body cannot be sent again"),
        ("a form", "its body is no JSON object"),
        ("no JSON", "its body is no JSON object"),
        ("another model", "no route serves its model"),
    ],
)
def test_what_is_not_routed_says_why(caller: Caller, world: World, what: str, reason: str) -> None:
    routes = [world.route(region, model={"m": "m"}) for region in (world.near, world.far)]
    client = caller.client(Config(routes, global_url=world.globe.url, probe_interval=0))
    heard: list[Event] = []
    client.router.subscribe(heard.append)
    bodies: dict[str, dict[str, Any]] = {
        "a generator": {"content": pieces(is_async=caller.is_async, body=b"")},
        "a form": {"data": {"model": "m"}},
        "no JSON": {"content": b"hello"},
        "another model": {"json": {**CHAT, "model": "another"}},
    }
    world.globe.api_keys = ()
    world.globe.set(Status(503))
    response = caller.do(client.post, f"{world.globe.url}/chat/completions", **bodies[what])
    assert (response.status_code, posts(world.globe)) == (503, 1)  # sent once, whatever comes of it
    assert posts(world.near) == posts(world.far) == 0
    assert heard == [PassedThrough("/chat/completions", reason)]


def test_what_is_none_of_our_business_is_not_told(caller: Caller, world: World) -> None:
    client = caller.client(world.config())
    heard: list[Event] = []
    client.router.subscribe(heard.append)
    caller.do(client.get, f"{world.globe.url}/models")
    caller.do(client.post, f"{world.globe.url}/files", content=b"file")
    assert heard == []


@pytest.mark.parametrize(("value", "route"), [("1", None), ("off", "near"), ("perhaps", "near")])
def test_the_environment_switches_off_whatever_the_configuration_came_from(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch, value: str, route: str | None
) -> None:
    monkeypatch.setenv("SMARTROUTE_DISABLED", value)
    client = caller.client(world.config(world.near))
    headers = {"Authorization": "Bearer fake-console-key"}
    response = caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT, headers=headers)
    assert response.headers.get("x-smartroute-route") == route
