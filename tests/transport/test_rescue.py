"""A route that falls silent with a request in its hands: verified over the wire, and the request sent elsewhere too."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Any

import pytest

from smartroute.testing import Silence, Stall
from tests.transport.kit import ASYNC, STREAM, TEXT, AsyncCaller, Caller, World, eventually, measure, posts

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a second until somebody looks."""
    monkeypatch.setattr("smartroute.router.LOOK", 0.1)


def under_way(function: Callable[..., Any], /, *args: Any, **options: Any) -> "Future[Any]":
    """A call that goes on while the test does."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **options))
        except BaseException as error:  # noqa: BLE001  to be seen by the test
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def state(client: Any, name: str) -> str:
    return next(str(status.state) for status in client.router.status() if status.name == name)


@BOTH
def test_a_request_on_a_route_that_falls_silent_is_answered_elsewhere(
    caller: Caller, world: World, stream: bool
) -> None:
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    assert caller.ask(sdk).route == "near"
    world.near.set(Silence())
    reply = caller.ask(sdk, stream=stream, timeout=10)
    assert (reply.route, reply.attempts, reply.text) == ("far", "2", "far" + TEXT)
    assert (posts(world.near), posts(world.far)) == (2, 1)
    assert eventually(lambda: state(client, "near") == "open")
    assert eventually(lambda: world.near.open_connections == 0)  # what lost is closed, and no verification is left
    assert caller.ask(sdk, stream=stream).attempts == "1"


def test_so_is_one_whose_stream_stalls_before_its_first_content(caller: Caller, world: World) -> None:
    world.near.set(Stall(1, only="stream"), Silence(only="get"))
    client = measure(caller.client(world.config()))
    reply = caller.ask(caller.sdk(client, world.globe.url), stream=True, timeout=10)
    assert (reply.route, reply.attempts, reply.text) == ("far", "2", "far" + TEXT)
    assert eventually(lambda: world.near.open_connections == 0)


def test_a_long_wait_on_a_route_that_is_alive_is_waited_out(caller: Caller, world: World) -> None:
    world.near.set(Silence(only="post"))
    client = measure(caller.client(world.config()))
    reply = under_way(caller.ask, caller.sdk(client, world.globe.url), stream=True, timeout=20)
    assert eventually(lambda: posts(world.near) == 1)
    assert eventually(lambda: any(seen.method == "GET" for seen in world.near.requests))  # the verification
    eventually(lambda: False, 0.5)
    assert not reply.done()
    world.near.heal()
    assert (reply.result(20).route, reply.result().attempts) == ("near", "1")
    assert posts(world.far) == 0
    assert state(client, "near") == "closed"


def test_the_first_may_answer_while_the_rescue_waits(caller: Caller, world: World) -> None:
    world.near.set(Silence())
    world.far.set(Silence(only="post"))
    client = measure(caller.client(world.config()))
    reply = under_way(caller.ask, caller.sdk(client, world.globe.url), stream=True, timeout=20)
    assert eventually(lambda: posts(world.far) == 1)
    world.near.heal()
    answered = eventually(reply.done)
    world.far.heal()
    assert (reply.result(20).route, reply.result().text) == ("near", "near" + TEXT)
    assert answered
    assert eventually(lambda: world.far.open_connections == 0)


def test_a_rescue_that_finds_its_route_dead_too_ends_at_global(caller: Caller, world: World) -> None:
    world.near.set(Silence())
    world.far.set(Silence())
    client = measure(caller.client(world.config()))
    reply = caller.ask(caller.sdk(client, world.globe.url), stream=True, timeout=20)
    assert (reply.route, reply.attempts) == ("global", "3")
    assert eventually(lambda: world.near.open_connections == world.far.open_connections == 0)


def test_a_rescue_that_fails_leaves_the_first(caller: Caller, world: World) -> None:
    world.near.set(Silence())
    client = measure(caller.client(world.config(global_url="off")))
    world.far.stop()
    sdk = caller.sdk(client, world.near.url, "fake-near-key")
    reply = under_way(caller.ask, sdk, stream=True, timeout=20)
    assert eventually(lambda: posts(world.near) == 1)
    assert eventually(lambda: any(each.failures for each in client.router.status() if each.name == "far"))
    assert not reply.done()
    world.near.heal()
    assert reply.result(20).route == "near"


@ASYNC
def test_a_call_cancelled_during_its_rescue_leaves_nothing(caller: AsyncCaller, world: World) -> None:
    world.near.set(Silence())
    world.far.set(Silence())
    client = measure(caller.client(world.config()))
    call = caller.submit(client.post, f"{world.globe.url}/chat/completions", json=STREAM)
    assert eventually(lambda: posts(world.far) == 1)
    call.cancel()
    assert eventually(lambda: sum(status.in_flight for status in client.router.status()) == 0)
    caller.close(client)
    assert eventually(lambda: not caller.tasks())
    assert eventually(lambda: world.near.open_connections == world.far.open_connections == 0)


def test_a_client_closed_during_a_rescue_leaves_nothing(caller: Caller, world: World) -> None:
    world.near.set(Silence())
    world.far.set(Silence(only="post"))
    client = measure(caller.client(world.config()))
    reply = under_way(caller.ask, caller.sdk(client, world.globe.url), timeout=5)
    assert eventually(lambda: posts(world.far) == 1)
    caller.close(client)
    assert reply.exception(20) is not None
    assert eventually(lambda: world.near.open_connections == world.far.open_connections == 0)
    assert posts(world.globe) == 0
