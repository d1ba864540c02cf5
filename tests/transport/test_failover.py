"""What goes wrong before the first content costs the caller nothing while any endpoint is healthy."""

import re
import time
from typing import Any

import httpx
import openai
import pytest

from smartroute import Config
from smartroute.testing import (
    Cut,
    Drip,
    EmptyStream,
    EndWithoutDone,
    ErrorEvent,
    Fault,
    GarbledEvent,
    Region,
    Reset,
    Stall,
    Status,
)
from tests.transport.kit import CHAT, STREAM, TEXT, Caller, World, measure, posts

REFUSED = "refused"
HTML = Status(200, {"content-type": "text/html"}, b"<html>Please log in</html>")
ANYHOW: dict[str, Fault | str] = {
    "refused": REFUSED,
    "reset on accept": Reset(at="accept"),
    "reset while sent": Reset(at="request"),
    "reset before the answer": Reset(),
    "closed before the answer": Cut(-1),
    "502": Status(502),
    "503": Status(503),
    "503 scaling up": Status(503, {"retry-after": "7"}, {"error": {"code": "DEPLOYMENT_SCALING_UP"}}),
    "504": Status(504, {}, b"<html>gateway timeout</html>"),
    "520": Status(520),
    "583": Status(583),
    "429": Status(429),
    "429 with its wait": Status(429, {"retry-after": "7"}),
    "redirect": Status(302, {"location": "/login"}),
    "redirect that keeps the method": Status(307, {"location": "https://elsewhere.example/v1/chat/completions"}),
}
STREAMED: dict[str, Fault | str] = {
    "wrong type": HTML,
    "JSON for a stream": Status(200, {}, {"choices": []}),
    "error as the first event": ErrorEvent(),
    "error after the role": ErrorEvent(1),
    "saturation as the first event": ErrorEvent(0, {"message": "busy", "type": "rate_limit_error"}),
    "garbled": GarbledEvent(),
    "garbled after the role": GarbledEvent(1),
    "empty": EmptyStream(),
    "done at once": EmptyStream(done=True),
    "cut after the head": Cut(),
    "cut after the role": Cut(1),
    "reset after the role": Cut(1, reset=True),
}
WHOLE: dict[str, Fault | str] = {
    "cut after the head": Cut(),
    "short body": Cut(1),
    "short body, reset": Cut(1, reset=True),
    "empty body": Status(200, {"content-type": "application/json"}, b""),
}
CASES = [
    *(pytest.param(fault, stream, id=f"{name}-{stream}") for name, fault in ANYHOW.items() for stream in (False, True)),
    *(pytest.param(fault, True, id=f"{name}-True") for name, fault in STREAMED.items()),
    *(pytest.param(fault, False, id=f"{name}-False") for name, fault in WHOLE.items()),
]
ONCE_ELSEWHERE = [
    pytest.param(Status(code), stream, id=f"{code}-{stream}")
    for code in (401, 403, 404, 408, 409, 425, 500)
    for stream in (False, True)
]


def afflict(region: Region, fault: Fault | str) -> None:
    if isinstance(fault, str):
        region.stop()
    else:
        region.set(fault)


@pytest.mark.parametrize(("fault", "stream"), CASES + ONCE_ELSEWHERE)
def test_the_next_route_answers(caller: Caller, world: World, fault: Fault | str, stream: bool) -> None:
    afflict(world.near, fault)
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    replies = [caller.ask(sdk, stream=stream) for _ in range(3)]
    assert [(reply.route, reply.text) for reply in replies] == [("far", "far" + TEXT)] * 3
    assert replies[0].attempts == "2"
    assert posts(world.globe) == 0


@pytest.mark.parametrize(("fault", "stream"), CASES)
def test_the_global_endpoint_answers_when_no_route_does(
    caller: Caller, world: World, fault: Fault | str, stream: bool
) -> None:
    afflict(world.near, fault)
    afflict(world.far, fault)
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    replies = [caller.ask(sdk, stream=stream) for _ in range(3)]
    assert [(reply.route, reply.text) for reply in replies] == [("global", "globe" + TEXT)] * 3
    assert replies[0].attempts == "3"


def test_a_model_name_that_is_wrong_for_every_route_does_not_keep_anybody_from_global(
    caller: Caller, world: World
) -> None:
    world.near.set(Status(404))
    world.far.set(Status(404))
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    assert [caller.ask(sdk, stream=stream).route for stream in (True, False)] == ["global"] * 2
    assert (posts(world.near), posts(world.far)) == (1, 1)  # and no more: they are avoided for this model
    assert {status.quarantine for status in client.router.status()} == {"model not found"}


@pytest.mark.parametrize("fault", [Status(408), Status(500)], ids=["408", "500"])
def test_what_may_be_the_requests_own_fault_is_tried_once_elsewhere(
    caller: Caller, world: World, fault: Status
) -> None:
    world.near.set(fault)
    world.far.set(fault)
    client = measure(caller.client(world.config()))
    response = caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT)
    assert (response.status_code, response.headers["x-smartroute-route"]) == (fault.status, "near")
    assert (posts(world.near), posts(world.far), posts(world.globe)) == (1, 1, 0)
    world.far.set(Status(503))  # a plain failure says nothing about the request: it goes on
    world.globe.api_keys = ()
    response = caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT)
    assert (response.status_code, response.headers["x-smartroute-route"]) == (200, "global")


def test_a_prompt_too_long_for_one_model_is_answered_by_another(caller: Caller, world: World) -> None:
    world.near.set(Status(400, body={"error": {"code": "context_length_exceeded", "message": "scripted"}}))
    routes = [world.route(world.far, model="m-128k"), world.route(world.near, model="m-8k")]
    client = measure(caller.client(Config(routes, global_url=world.globe.url, probe_interval=0)))
    reply = caller.ask(caller.sdk(client, world.globe.url), stream=True)
    assert (reply.route, reply.attempts) == ("far", "2")
    assert world.far.requests[0].json()["model"] == "m-128k"


def test_a_deployment_that_is_scaling_up_is_left_alone(caller: Caller, world: World) -> None:
    world.near.set(Status(503, body={"error": {"code": "DEPLOYMENT_SCALING_UP", "message": "scripted"}}))
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    assert [caller.ask(sdk, stream=stream).route for stream in (True, False, True)] == ["far"] * 3
    assert posts(world.near) == 1
    (near,) = (each for each in client.router.status() if each.name == "near")
    assert 50 < near.cooldown <= 60


@pytest.mark.parametrize("status", [400, 413, 422])
def test_the_callers_own_mistake_is_told_at_once(caller: Caller, world: World, status: int) -> None:
    world.near.set(Status(status))
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    for stream in (False, True):
        with pytest.raises(openai.APIStatusError, match=f"scripted to answer {status}") as caught:
            caller.ask(sdk, stream=stream)
        assert caught.value.status_code == status
    assert (posts(world.near), posts(world.far), posts(world.globe)) == (2, 0, 0)


def test_a_refused_key_is_followed_by_the_next(caller: Caller, world: World) -> None:
    keys = ["fake-revoked-key", "fake-near-key"]
    config = world.config(routes=[world.route(world.near, api_key=keys), world.route(world.far)])
    sdk = caller.sdk(measure(caller.client(config)), world.globe.url)
    assert caller.ask(sdk).route == "near"
    assert [seen.header("authorization") for seen in world.near.requests] == [f"Bearer {key}" for key in keys]


# Everything bad: the caller's own exceptions


def everywhere(world: World, fault: Fault | str) -> None:
    for region in world.all:
        afflict(region, fault)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (REFUSED, openai.APIConnectionError),
        (Reset(), openai.APIConnectionError),
        (Reset(at="accept"), openai.APIConnectionError),
        (Status(401), openai.AuthenticationError),
        (Status(403), openai.PermissionDeniedError),
        (Status(404), openai.NotFoundError),
        (Status(409), openai.ConflictError),
        (Status(429), openai.RateLimitError),
        (Status(500), openai.InternalServerError),
        (Status(503), openai.InternalServerError),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_when_everything_fails_the_sdk_raises_what_it_always_did(
    caller: Caller, world: World, fault: Fault | str, expected: type[openai.APIError], stream: bool
) -> None:
    everywhere(world, fault)
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    with pytest.raises(expected) as caught:
        caller.ask(sdk, stream=stream)
    assert type(caught.value) is expected
    if isinstance(fault, Status) and isinstance(caught.value, openai.APIStatusError):
        assert caught.value.status_code == fault.status
        assert "scripted" in caught.value.message  # the body came along
    assert max(map(posts, world.all)) <= 1  # nobody was asked twice


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (REFUSED, "ConnectError"),
        (Reset(), "ReadError"),
        (Cut(1), "RemoteProtocolError"),
    ],
    ids=["refused", "reset", "short"],
)
def test_when_everything_fails_the_exception_is_the_familys(
    caller: Caller, world: World, fault: Fault | str, name: str
) -> None:
    everywhere(world, fault)
    client = measure(caller.client(world.config()))
    plain = caller.plain()
    url = f"{world.globe.url}/chat/completions"
    auth = {"Authorization": "Bearer fake-console-key"}
    with pytest.raises(caller.family.TransportError) as expected:
        caller.do(plain.post, url, json=CHAT, headers=auth)
    with pytest.raises(caller.family.TransportError) as caught:
        caller.do(client.post, url, json=CHAT, headers=auth)
    assert type(caught.value) is type(expected.value) is getattr(caller.family, name)
    assert str(caught.value.request.url) == url


def test_an_exception_notes_what_was_tried(caller: Caller, world: World) -> None:
    world.near.stop()
    world.far.set(Reset(only="post"))
    world.globe.stop()
    client = measure(caller.client(world.config()))
    with pytest.raises(caller.family.TransportError) as caught:
        caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT, headers={"authorization": "fake"})
    (note,) = caught.value.__notes__
    assert re.fullmatch(r"smartroute tried near \(connect: .+\), far \(reset.*\), global \(connect: .+\)", note)


def test_no_global_endpoint_no_fallback(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config(global_url=None)))
    sdk = caller.sdk(client, world.near.url, "fake-near-key")
    assert caller.ask(sdk).route == "near"
    world.near.stop()
    world.far.stop()
    with pytest.raises(openai.APIConnectionError):
        caller.ask(sdk)
    assert world.globe.requests == []


def test_of_many_saturated_endpoints_the_shortest_wait_is_told(caller: Caller, world: World) -> None:
    for region, wait in zip(world.all, ("9", "5", "7"), strict=True):
        region.set(Status(429, {"retry-after": wait}))
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    with pytest.raises(openai.RateLimitError) as caught:
        caller.ask(sdk)
    assert caught.value.response.headers["retry-after"] == "5"
    assert caught.value.response.headers["x-smartroute-route"] == "far"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_fallbacks_own_refusal_does_not_hide_the_failure(caller: Caller, world: World, status: int) -> None:
    world.near.stop()
    world.far.stop()
    world.globe.set(Status(status))
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    with pytest.raises(openai.APIConnectionError):
        caller.ask(sdk)
    assert posts(world.globe) == 1


def test_the_global_endpoints_stream_is_handed_on_as_it_is(caller: Caller, world: World) -> None:
    """With every route down the caller gets what the plain SDK would have given, an empty stream too."""
    world.near.stop()
    world.far.stop()
    world.globe.set(EmptyStream(done=True))
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    assert caller.ask(sdk, stream=True).text == ""
    world.globe.set(EndWithoutDone(finish=False))
    assert caller.ask(sdk, stream=True).text == "globe" + TEXT
    world.globe.set(ErrorEvent(3))
    with pytest.raises(openai.APIError, match="the replica failed"):
        caller.ask(sdk, stream=True)


def test_the_global_endpoints_redirect_is_followed_as_ever(caller: Caller, world: World) -> None:
    """By the client, which sends the same body again: to a URL that is routed once more."""
    target = f"{world.globe.url}/chat/completions?again=1"
    world.globe.set(Status(307, {"location": target}, times=1))
    world.near.stop()
    world.far.stop()
    client = measure(caller.client(world.config()))
    headers = {"Authorization": "Bearer fake-console-key"}
    response = caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT, headers=headers)
    assert [each.status_code for each in response.history] == [307]
    assert response.json()["system_fingerprint"] == "globe"
    assert [seen.json() for seen in world.globe.requests] == [CHAT, CHAT]
    assert str(response.url) == target


def test_an_outage_is_not_fed(caller: Caller, world: World) -> None:
    """Replays are budgeted: with everything down, many calls make few more attempts than calls."""
    everywhere(world, Status(503))
    client = measure(caller.client(world.config()))
    url = f"{world.globe.url}/chat/completions"
    responses = [caller.do(client.post, url, json=STREAM) for _ in range(30)]
    assert {response.status_code for response in responses} == {503}
    assert sum(map(posts, world.all)) <= 30 * 1.2 + 20


def test_a_sick_route_is_left_alone(caller: Caller, world: World) -> None:
    world.near.set(Status(503))
    client = measure(caller.client(world.config()))
    client.router._known["near"].breaker._backoff = 60.0  # a second may be over before ten calls are
    sdk = caller.sdk(client, world.globe.url)
    assert [caller.ask(sdk).route for _ in range(10)] == ["far"] * 10
    assert posts(world.near) == 3
    status = {each.name: each for each in client.router.status()}
    assert (status["near"].state, status["near"].failures, status["far"].state) == ("open", 3, "closed")


def test_errors_name_no_key(caller: Caller, world: World) -> None:
    """Neither an exception nor its notes, causes or representation holds a key, a prompt or a URL with one."""
    everywhere(world, REFUSED)
    client = measure(caller.client(world.config(global_api_key="fake-console-key")))
    with pytest.raises(caller.family.TransportError) as caught:
        caller.do(
            client.post,
            f"{world.globe.url}/chat/completions?token=fake-query-secret",
            json={**CHAT, "messages": [{"role": "user", "content": "fake-prompt"}]},
            headers={"Authorization": "Bearer fake-console-key"},
        )
    error: Any = caught.value
    while error is not None:
        text = f"{error!s} {error!r} {getattr(error, '__notes__', '')}"
        assert "fake-" not in text
        error = error.__cause__ or error.__context__


def test_the_map_of_exceptions_is_complete(caller: Caller) -> None:
    """Whatever httpcore can raise becomes an exception of the family, the most specific one."""
    import httpcore2

    client = caller.client()
    request = httpx.Request("GET", "https://h.example/")
    family = client.transport._driver.family
    names = [n for n in httpcore2.__all__ if isinstance(e := getattr(httpcore2, n), type) and issubclass(e, Exception)]
    assert len(names) > 10
    for name in names:
        if not hasattr(caller.family, name):
            continue
        assert type(family.error(getattr(httpcore2, name)("x"), request)) is getattr(caller.family, name)


ONE_FAMILY = pytest.mark.parametrize("caller", ["sync-httpx2", "async-httpx2"], indirect=True)  # they take their time


@ONE_FAMILY
def test_an_error_that_is_the_answer_may_take_its_time(caller: Caller, world: World) -> None:
    world.near.stop()
    world.far.stop()
    world.globe.set(Status(400, {}, b'{"error": 1}'), Drip(0.11))  # 1.2 s
    client = measure(caller.client(world.config()))
    headers = {"authorization": "Bearer fake-console-key"}
    began = time.monotonic()
    response = caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT, headers=headers)
    assert time.monotonic() - began > 1.1
    assert (response.status_code, response.headers["x-smartroute-route"]) == (400, "global")
    assert response.content == b'{"error": 1}'


@ONE_FAMILY
def test_nobody_waits_long_for_the_body_of_an_error_that_is_not_the_answer(caller: Caller, world: World) -> None:
    world.near.set(Status(503), Stall(1))
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    began = time.monotonic()
    reply = caller.ask(sdk)
    assert time.monotonic() - began < 10
    assert (reply.route, reply.attempts) == ("far", "2")
