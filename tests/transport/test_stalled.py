"""An answer that stops in the middle: waited for as long as the caller likes, unless its route is proven dead."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from smartroute.router import Router
from smartroute.testing import Silence, Stall
from tests.transport.kit import CHAT, STREAM, Caller, World, eventually, measure, posts
from tests.transport.test_rescue import state, under_way

KEY = {"authorization": "Bearer fake-console-key"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for seconds until somebody looks."""
    monkeypatch.setattr("smartroute.transport.watch.HUSH", 0.1)
    monkeypatch.setattr("smartroute.transport.watch.LOOK", 0.1)


def begun(caller: Caller, world: World, timeout: float) -> tuple[Any, Router, Iterator[bytes]]:
    """An answer of the near region whose first chunk has come."""
    client = measure(caller.client(world.config()))
    url = f"{world.globe.url}/chat/completions"
    response = caller.send(client, "POST", url, json=STREAM, headers=KEY, timeout=timeout)
    chunks = caller.chunks(response)
    next(chunks)
    return response, client.router, chunks


def test_where_the_route_is_dead_the_caller_is_told_soon(caller: Caller, world: World) -> None:
    world.near.set(Stall(3), Silence(only="get"))
    response, router, chunks = begun(caller, world, timeout=60)
    with pytest.raises(caller.family.ReadError, match="region does not answer"):
        list(chunks)
    caller.close(response)
    assert next(each.state for each in router.status() if each.name == "near") == "open"
    (attempt,) = response.extensions["smartroute"].attempts
    assert (attempt.endpoint, attempt.failure) == ("near", None)  # as it was when the answer began
    assert posts(world.far) == 0  # what the caller has seen the beginning of is not asked for again
    assert eventually(lambda: world.near.open_connections == 0)


def test_where_the_route_is_alive_it_is_waited_for(caller: Caller, world: World) -> None:
    world.near.set(Stall(3))
    response, _, chunks = begun(caller, world, timeout=1)
    with pytest.raises(caller.family.ReadTimeout):
        list(chunks)
    caller.close(response)
    assert state(caller.clients[0], "near") == "closed"
    assert [seen.method for seen in world.near.requests] == ["POST", "GET"]  # one verification, and a pause after it


def test_what_goes_on_after_a_while_is_whole(caller: Caller, world: World) -> None:
    world.near.set(Stall(3))
    response, _, chunks = begun(caller, world, timeout=60)
    rest = under_way(b"".join, chunks)
    assert eventually(lambda: any(seen.method == "GET" for seen in world.near.requests))
    world.near.heal()
    assert rest.result(30).endswith(b"data: [DONE]\n\n")
    caller.close(response)


def test_the_global_endpoint_is_not_asked(caller: Caller, world: World) -> None:
    for region in (world.near, world.far):
        region.stop()
    world.globe.set(Stall(3))
    response, _, chunks = begun(caller, world, timeout=0.5)
    with pytest.raises(caller.family.ReadTimeout):
        list(chunks)
    caller.close(response)
    assert [seen.method for seen in world.globe.requests] == ["POST"]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no TCP_USER_TIMEOUT")
def test_the_kernel_watches_over_connections_and_the_callers_options_come_last(caller: Caller, world: World) -> None:
    mine = [(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 7)]
    client = measure(caller.client(world.config(), socket_options=mine))
    response = caller.send(client, "POST", f"{world.globe.url}/chat/completions", json=CHAT)
    sock = response.extensions["network_stream"].get_extra_info("socket")
    options = {
        name: sock.getsockopt(level, getattr(socket, name))
        for level, name in (
            (socket.SOL_SOCKET, "SO_KEEPALIVE"),
            (socket.IPPROTO_TCP, "TCP_NODELAY"),
            (socket.IPPROTO_TCP, "TCP_KEEPIDLE"),
            (socket.IPPROTO_TCP, "TCP_KEEPINTVL"),
            (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"),
        )
    }
    caller.close(response)
    assert options == {
        "SO_KEEPALIVE": 1,
        "TCP_NODELAY": 1,
        "TCP_KEEPIDLE": 10,
        "TCP_KEEPINTVL": 7,
        "TCP_USER_TIMEOUT": 30_000,
    }
