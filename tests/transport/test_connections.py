"""Connections: kept where that helps, replaced where the server closed them, and never left behind."""

import gc
import threading
import time
from functools import partial
from typing import Any

import pytest

from smartroute.policy.schedule import Claim
from smartroute.testing import CloseAfterAnswer, Fault, Gzip, Region, Reset, Silence, Stall, Status
from tests.transport.kit import (
    ASYNC,
    CHAT,
    STREAM,
    SYNC,
    AsyncCaller,
    Caller,
    World,
    eventually,
    measure,
    posts,
    threads,
)


def arrived(region: Region, count: int) -> bool:
    return posts(region) == count


def begun(response: Any) -> bool:
    return bool(response.num_bytes_downloaded)


def in_flight(client: Any) -> int:
    return sum(status.in_flight for status in client.router.status())


def test_streamed_calls_share_one_connection(caller: Caller, world: World) -> None:
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    assert {caller.ask(sdk, stream=True).route for _ in range(20)} == {"near"}
    assert (world.near.connections, world.far.connections, world.globe.connections) == (1, 0, 0)


def test_with_probes_there_is_at_most_one_more(caller: Caller, world: World) -> None:
    sdk = caller.sdk(measure(caller.client(world.config(probe_interval=0.2))), world.globe.url)
    for region in (world.near, world.far):
        region.latency = 0.01
    assert {caller.ask(sdk, stream=True).route for _ in range(20)} <= {"near", "far"}
    assert world.near.connections <= 3  # of 20 requests; one more if somebody had to look after them
    assert world.far.connections <= 3
    assert world.globe.connections == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "fault", [CloseAfterAnswer(), Reset(at="reuse")], ids=["closed after the answer", "reset on reuse"]
)
def test_a_connection_that_died_in_the_pool_costs_nothing(
    caller: Caller, world: World, fault: Fault, stream: bool
) -> None:
    world.near.set(fault)
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    assert {caller.ask(sdk, stream=stream).route for _ in range(6)} == {"near"}
    status = client.router.status()[1]
    assert (status.state, status.failures) == ("closed", 0)
    assert (posts(world.far), posts(world.globe)) == (0, 0)
    assert world.near.connections == 6


def test_an_answer_in_hand_frees_its_connection_at_once(caller: Caller, world: World) -> None:
    """Also one that is not delivered: the failed attempts of a call hold nothing."""
    world.near.set(Status(503))
    world.far.set(Stall(1, times=0))
    limits = caller.family.Limits(max_connections=1)
    client = measure(caller.client(world.config(), limits=limits))
    sdk = caller.sdk(client, world.globe.url)
    assert [caller.ask(sdk, stream=bool(n % 2)).route for n in range(6)] == ["far"] * 6
    assert world.near.connections == 1


@pytest.mark.parametrize("way", ["closed", "closed after a chunk", "forgotten", "forgotten after a chunk"])
def test_streams_given_up_leave_nothing(caller: Caller, world: World, way: str) -> None:
    world.near.set(Stall(3))
    client = measure(caller.client(world.config(), limits=caller.family.Limits(max_connections=1)))
    timeout = caller.family.Timeout(20, pool=20)
    for _ in range(4):
        response = caller.send(client, "POST", f"{world.globe.url}/chat/completions", json=STREAM, timeout=timeout)
        assert response.headers["x-smartroute-route"] == "near"
        assert in_flight(client) == 1
        chunks = caller.chunks(response)
        if "chunk" in way:
            next(chunks)
        if "closed" in way:
            caller.close(response)
        del chunks, response
        if "forgotten" in way:
            assert eventually(lambda: caller.forget() and in_flight(client) == 0)
        assert in_flight(client) == 0
    assert eventually(lambda: world.near.open_connections == 0)
    assert client.router.status()[1].failures == 0
    world.near.heal()
    assert caller.ask(caller.sdk(client, world.globe.url), stream=True, timeout=timeout).route == "near"


@ASYNC
@pytest.mark.parametrize("faults", [[Stall(3)], [Gzip(), Stall(3)]], ids=["begun", "not begun"])
def test_a_stream_collected_in_another_thread_leaves_nothing(
    caller: AsyncCaller, world: World, faults: list[Fault]
) -> None:
    """The garbage collector runs where it likes. A compressed stream is handed on before any of it is read."""
    world.near.set(*faults)
    client = measure(caller.client(world.config()))
    response = caller.send(client, "POST", f"{world.globe.url}/chat/completions", json=STREAM)
    assert world.near.open_connections == 1
    del response

    def collected() -> bool:
        caller.forgot = True
        collector = threading.Thread(target=gc.collect)
        collector.start()
        collector.join()
        return in_flight(client) == 0

    assert eventually(collected)
    assert eventually(lambda: world.near.open_connections == 0)


@ASYNC
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "fault",
    [Silence(), Stall(), Stall(1), Status(503)],
    ids=["before the head", "after the head", "before content", "during failover"],
)
def test_a_cancelled_call_leaves_nothing(caller: AsyncCaller, world: World, fault: Fault, stream: bool) -> None:
    world.near.set(fault)
    if isinstance(fault, Status):
        world.far.set(Silence())
    client = measure(caller.client(world.config(), limits=caller.family.Limits(max_connections=1)))
    hanging: Region = world.far if isinstance(fault, Status) else world.near
    for count in range(1, 4):
        call = caller.submit(client.post, f"{world.globe.url}/chat/completions", json={**CHAT, "stream": stream})
        assert eventually(partial(arrived, hanging, count))
        assert in_flight(client) == 1
        call.cancel()
        assert eventually(lambda: not caller.tasks())
        assert in_flight(client) == 0
        assert eventually(lambda: world.near.open_connections <= 1 and hanging.open_connections == 0)
    hanging.heal()
    world.near.heal()
    hanging_status = client.router.status()[0 if hanging is world.far else 1]
    assert hanging_status.failures == 0  # the caller's going away is nobody's fault
    timeout = caller.family.Timeout(20, pool=20)
    response = caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT, timeout=timeout)
    assert response.status_code == 200


@ASYNC
def test_a_read_cancelled_in_the_middle_leaves_nothing(caller: AsyncCaller, world: World) -> None:
    world.near.set(Stall(3))
    client = measure(caller.client(world.config(), limits=caller.family.Limits(max_connections=1)))
    for _ in range(3):
        response = caller.send(client, "POST", f"{world.globe.url}/chat/completions", json=STREAM)
        reading = caller.submit(response.aread)
        assert eventually(partial(begun, response))
        reading.cancel()
        assert eventually(lambda: not caller.tasks())
        caller.close(response)
        assert in_flight(client) == 0
        assert eventually(lambda: world.near.open_connections == 0)


@ASYNC
@pytest.mark.parametrize("after", [0, 1, 2, 5, 10, 20])
def test_calls_cancelled_at_any_moment_leave_nothing(caller: AsyncCaller, world: World, after: int) -> None:
    """Forty at once, each cancelled some milliseconds on its way."""
    for region in (world.near, world.far):
        region.latency, region.token_interval = 0.004, 0.002
    client = measure(caller.client(world.config(), limits=caller.family.Limits(max_connections=50)))
    calls = [
        caller.submit(client.post, f"{world.globe.url}/chat/completions", json=STREAM if n % 2 else CHAT)
        for n in range(40)
    ]
    eventually(lambda: False, after / 1000)
    for call in calls:
        call.cancel()
    assert eventually(lambda: not caller.tasks())
    assert in_flight(client) == 0
    timeout = caller.family.Timeout(20, pool=20)
    again = [
        caller.submit(client.post, f"{world.globe.url}/chat/completions", json=STREAM, timeout=timeout)
        for _ in range(40)
    ]
    assert {call.result(20).status_code for call in again} == {200}
    assert in_flight(client) == 0


@SYNC
@pytest.mark.parametrize("known", [True, False], ids=["measured", "unmeasured"])
def test_where_no_thread_can_be_started_requests_go_on(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = caller.client(world.config(world.near, world.far, probe_interval=10))
    sdk = caller.sdk(measure(client) if known else client, world.globe.url)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert caller.ask(sdk).route == "near"
        world.near.stop()
        assert caller.ask(sdk).route == "far"
    assert in_flight(client) == 0
    assert caller.ask(sdk).route == "far"
    assert caller.is_async or threads() == ["smartroute-probe"]  # as soon as one can be


@pytest.mark.parametrize("globe", [False, True], ids=["routes alone", "with global"])
def test_the_deadline_bounds_the_wait_for_a_connection(caller: Caller, world: World, globe: bool) -> None:
    world.near.set(Stall(3, only="stream"))
    config = world.config(world.near, deadline=0.5, **({} if globe else {"global_url": None}))
    client = measure(caller.client(config, limits=caller.family.Limits(max_connections=1)))
    url = f"{(world.globe if globe else world.near).url}/chat/completions"
    headers = {"authorization": f"Bearer fake-{'console' if globe else 'near'}-key"}
    holding = caller.send(client, "POST", url, json=STREAM, headers=headers)
    assert holding.headers["x-smartroute-route"] == "near"
    began = time.monotonic()
    if globe:
        response = caller.do(client.post, url, json=CHAT, headers=headers, timeout=20)
        assert response.headers["x-smartroute-route"] == "global"
    else:
        with pytest.raises(caller.family.TimeoutException):
            caller.do(client.post, url, json=CHAT, headers=headers, timeout=20)
    assert 0.2 < time.monotonic() - began < 10
    assert client.router.status()[0].state == "closed"  # the pool is the client's own
    caller.close(holding)


def test_no_thread_is_left_but_the_prober(caller: Caller, world: World) -> None:
    assert eventually(lambda: not threads())  # of earlier tests
    client = caller.client(world.config(probe_interval=10))
    sdk = caller.sdk(client, world.globe.url)
    for n in range(10):
        caller.ask(sdk, stream=bool(n % 2))
    expected = [] if caller.is_async else ["smartroute-probe"]
    assert eventually(lambda: threads() == expected)


def test_a_client_closed_with_open_streams_leaves_nothing(caller: Caller, world: World) -> None:
    world.near.set(Stall(3))
    client = measure(caller.client(world.config(probe_interval=10)))
    responses = [caller.send(client, "POST", f"{world.globe.url}/chat/completions", json=STREAM) for _ in range(3)]
    caller.close(client)
    assert eventually(lambda: world.near.open_connections == 0)
    for response in responses:
        with pytest.raises(caller.family.TransportError):
            list(caller.chunks(response))
        caller.close(response)
    assert in_flight(client) == 0


def test_a_closed_client_says_so(caller: Caller, world: World) -> None:
    client = caller.client(world.config())
    caller.close(client)
    caller.close(client)
    with pytest.raises(RuntimeError, match="closed"):
        caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT)


def test_one_client_closes_and_its_sister_goes_on(caller: Caller, world: World) -> None:
    """Both have the same configuration, and so the same router."""
    one, other = caller.client(world.config()), caller.client(world.config())
    assert one.router is other.router
    caller.ask(caller.sdk(one, world.globe.url))
    caller.close(one)
    caller.close(one)
    assert caller.ask(caller.sdk(other, world.globe.url)).route in ("near", "far")
    assert not other.router.closed
    caller.close(other)
    assert other.router.closed


@SYNC
def test_a_client_that_is_closed_under_a_verification_leaves_no_socket(caller: Caller, world: World) -> None:
    """A warning that one is left is an error here. Whether the two meet is chance: there are many of them."""
    for number in range(40):
        client = caller.smart.Client(world.config())
        claim = Claim(client.router.config.routes[0], fresh=True, limit=0.5)
        probe = threading.Thread(target=client.transport._driver.probe, args=(claim,))
        probe.start()
        time.sleep(number % 20 * 0.0002)
        client.close()
        probe.join()
    gc.collect()
    assert eventually(lambda: world.far.open_connections == 0)
