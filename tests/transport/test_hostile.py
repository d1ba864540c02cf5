"""Servers, callers and a garbage collector that do their worst."""

import gc
import json
import socket
import threading
import time
from contextlib import suppress

import httpx
import httpx2
import openai
import pytest

from smartroute import Config, Route
from smartroute.testing import ExtraHeaders, Silence, Stall, Status
from tests.transport.kit import (
    ASYNC,
    CALLERS,
    CHAT,
    STREAM,
    SYNC,
    AsyncCaller,
    Caller,
    World,
    eventually,
    measure,
    posts,
)
from tests.transport.test_connections import in_flight

HOST = "127.0.0.1"


@SYNC
def test_the_collector_may_close_a_stream_while_a_lock_is_held(caller: Caller, world: World) -> None:
    """An abandoned loop leaves the SDK's generator in a cycle; its `finally` closes our stream."""
    world.near.set(Stall(3))
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    stream = sdk.chat.completions.create(model="m", messages=CHAT["messages"], stream=True)
    for _ in stream:
        break
    gc.disable()
    try:
        stream.cycle = stream
        del stream
        with client.router._lock:
            gc.collect()
    finally:
        gc.enable()
    assert eventually(lambda: in_flight(client) == 0)


@SYNC
def test_closing_a_client_under_its_requests_sends_none_of_them_again(caller: Caller, world: World) -> None:
    world.near.set(Silence(only="post"))
    client = measure(caller.client(world.config()))
    errors: list[Exception] = []

    def call() -> None:
        try:
            client.post(f"{world.globe.url}/chat/completions", json=CHAT)
        except (httpx.HTTPError, httpx2.HTTPError) as error:
            errors.append(error)

    callers = [threading.Thread(target=call) for _ in range(8)]
    for each in callers:
        each.start()
    assert eventually(lambda: posts(world.near) == 8)
    router = client.router
    client.close()
    for each in callers:
        each.join(20)
        assert not each.is_alive()
    assert len(errors) == 8
    assert (posts(world.far), posts(world.globe)) == (0, 0)
    assert [status.failures for status in router.status()] == [0, 0]
    assert eventually(lambda: world.near.open_connections == world.far.open_connections == 0)


@pytest.mark.parametrize("body", [b"<html>Be right back</html>", b'{"choices": [{"mess', b"null", b"\xff\xfe"])
def test_a_200_that_is_no_answer_fails_over(caller: Caller, world: World, body: bytes) -> None:
    world.near.set(Status(200, {"content-type": "application/json"}, body))
    client = measure(caller.client(world.config()))
    assert caller.ask(caller.sdk(client, world.globe.url)).route == "far"
    assert client.router.status()[1].failures == 1


def test_a_cookie_of_the_global_endpoint_stays_away_from_the_route_that_was_addressed(
    caller: Caller, world: World
) -> None:
    world.near.set(Status(503, only="post"))
    world.far.set(Status(503, only="post"))
    world.globe.set(ExtraHeaders({"set-cookie": "session=of-global; Path=/"}))
    client = measure(caller.client(world.config(global_api_key="fake-console-key")))
    response = caller.do(client.post, f"{world.near.url}/chat/completions", json=CHAT)
    assert response.headers["x-smartroute-route"] == "global"
    caller.do(client.get, f"{world.near.url}/models")
    assert world.near.requests[-1].header("cookie") is None


@ASYNC
def test_a_cancelled_drain_leaves_nothing(caller: AsyncCaller, world: World) -> None:
    world.near.set(Stall(8))  # after [DONE], before the end of the body
    client = measure(caller.client(world.config()))
    response = caller.send(client, "POST", f"{world.globe.url}/chat/completions", json=STREAM)
    for chunk in caller.chunks(response):
        if b"[DONE]" in chunk:
            break
    closing = caller.submit(response.aclose)
    time.sleep(0.01)
    closing.cancel()
    assert eventually(lambda: in_flight(client) == 0)


@pytest.mark.parametrize(
    "headers", [{"x-stainless-retry-count": "9" * 5000}, {"transfer-encoding": "chunked"}, {"content-length": "5"}]
)
def test_odd_headers_do_no_harm(caller: Caller, world: World, headers: dict[str, str]) -> None:
    client = measure(caller.client(world.config()))
    body = json.dumps(CHAT).encode()
    response = caller.do(client.post, f"{world.globe.url}/chat/completions", content=body, headers=headers)
    assert (response.status_code, response.headers["x-smartroute-route"]) == (200, "near")
    assert world.near.requests[-1].body == body


def test_a_key_that_was_refused_is_not_tried_first_for_ever(
    caller: Caller, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.near.api_keys = ["fake-new-key"]
    route = world.route(world.near, api_key=["fake-old-key", "fake-new-key"])
    client = measure(caller.client(world.config(routes=[route])))
    sdk = caller.sdk(client, world.globe.url)
    assert [caller.ask(sdk).attempts for _ in range(4)] == ["2", "1", "1", "1"]
    (said,) = [record.getMessage() for record in caplog.records if record.name == "smartroute"]
    assert "key 1 of 2" in said
    assert "fake" not in said


def test_a_request_that_misses_every_base_url_is_said_once(
    caller: Caller, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    client = caller.client(world.config(global_url="http://127.0.0.1:9/v1"))
    for _ in range(2):
        response = caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT)
        assert "x-smartroute-route" not in response.headers
    (said,) = [record.getMessage() for record in caplog.records if record.name == "smartroute"]
    assert "SMARTROUTE_GLOBAL_URL" in said


def test_a_deadline_that_a_silent_route_uses_up_counts_against_it(caller: Caller, world: World) -> None:
    world.near.set(Silence(only="post"))
    client = measure(caller.client(world.config(deadline=0.6)))
    sdk = caller.sdk(client, world.globe.url)
    assert [caller.ask(sdk).route for _ in range(4)] == ["global", "global", "global", "far"]
    world.far.set(Silence(only="post"))
    world.globe.set(Silence(only="post"))
    with pytest.raises(openai.APITimeoutError):
        caller.ask(caller.sdk(client, world.globe.url))


def test_a_path_that_no_route_serves_is_no_reason_for_a_warning(
    caller: Caller, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    client = caller.client(world.config(paths=("/completions",)))
    caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT)
    assert [record for record in caplog.records if record.name == "smartroute"] == []


@pytest.mark.parametrize("caller", [name for name in CALLERS if "aiohttp" not in name], indirect=True)
def test_informational_responses_without_end_are_no_answer(caller: Caller, world: World) -> None:
    """Each of them is read at once: no read timeout would ever end it."""
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            with suppress(OSError), listener.accept()[0] as sock:
                sock.recv(65536)
                while True:
                    sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

        threading.Thread(target=serve, daemon=True).start()
        hostile = Route(f"http://{HOST}:{listener.getsockname()[1]}/v1", name="near", api_key="fake-near-key")
        config = Config([hostile, world.route(world.far)], global_url=world.globe.url, probe_interval=0)
        client = measure(caller.client(config))
        assert caller.ask(caller.sdk(client, world.globe.url), timeout=10).route == "far"
