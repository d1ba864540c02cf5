"""Hedging over the wire: what is slow for its route is asked of a second one, and the first content wins."""

import time
from typing import Any

import pytest

from smartroute.testing import Silence
from tests.policy.driving import STREAM
from tests.transport.kit import TEXT, Caller, World, eventually, measure, posts


def learned(caller: Caller, world: World, *, hedge: bool = True) -> tuple[Any, Any]:
    """A client that has measured its routes and knows what to expect of them, and the SDK on it."""
    client = measure(caller.client(world.config(hedge=hedge)))
    sdk = caller.sdk(client, world.globe.url)
    patience = client.router._patience
    for baseline in (patience.baseline, patience._whole):
        for _ in range(5):
            baseline.learn(STREAM.model, 100, 0.05, 0.0, 0.0)
    return client, sdk


def test_a_slow_answer_is_overtaken_by_another_routes(caller: Caller, world: World) -> None:
    client, sdk = learned(caller, world)
    world.near.latency = 3.0
    tokens = client.router._hedges.tokens
    reply = caller.ask(sdk, stream=True)
    assert (reply.route, reply.attempts, reply.text) == ("far", "2", "far" + TEXT)
    assert (posts(world.near), posts(world.far), posts(world.globe)) == (1, 1, 0)
    assert client.router._hedges.tokens < tokens
    assert [each.in_flight for each in client.router.status()] == [0, 0]
    assert [each.failures for each in client.router.status()] == [0, 0]
    assert eventually(lambda: world.near.open_connections == 0)  # the loser's is closed


def test_the_first_may_win_after_all(caller: Caller, world: World) -> None:
    client, sdk = learned(caller, world)
    world.near.latency = 0.6
    world.far.set(Silence())
    reply = caller.ask(sdk, stream=True)
    assert (reply.route, reply.attempts, reply.text) == ("near", "2", "near" + TEXT)
    assert eventually(lambda: world.far.open_connections == 0)
    assert [each.in_flight for each in client.router.status()] == [0, 0]
    world.near.latency = 0.0
    assert caller.ask(sdk, stream=True).route == "near"  # its connection serves the next one
    assert len({seen.connection for seen in world.near.requests if seen.method == "POST"}) == 1


def test_what_is_not_streamed_is_waited_for(caller: Caller, world: World) -> None:
    _, sdk = learned(caller, world)
    world.near.latency = 0.4
    assert caller.ask(sdk).attempts == "1"


def test_the_first_is_heard_though_the_second_cannot_be_connected_to(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartroute.policy.latency.LEAST_HANDSHAKE", 0.2)
    _, sdk = learned(caller, world)
    world.near.latency = 0.6
    world.far.stop(silently=True)
    began = time.monotonic()
    assert caller.ask(sdk, stream=True).route == "near"
    assert time.monotonic() - began < 4  # not the caller's connect timeout of five


def test_without_hedging_it_is_waited_for(caller: Caller, world: World) -> None:
    _, sdk = learned(caller, world, hedge=False)
    world.near.latency = 0.4
    reply = caller.ask(sdk, stream=True)
    assert (reply.route, reply.attempts) == ("near", "1")
    assert posts(world.far) == 0
