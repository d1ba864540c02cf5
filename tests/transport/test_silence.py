"""Silence on the wire, at its worst: nothing hangs, nobody is condemned without proof, and nothing is left behind."""

import asyncio
import os
import signal
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import trustme

from smartroute import Route
from smartroute.events import AttemptEnded, AttemptStarted, BreakerChanged, Event, ProbeEnded
from smartroute.policy.latency import Latency
from smartroute.policy.messages import Attempt
from smartroute.testing import Cut, Fault, Region, Silence, Slow, Stall, Status
from smartroute.transport import async_wire, sync_wire
from smartroute.transport.driver import DriverBase
from smartroute.transport.stream import begins
from tests.transport.kit import (
    CHAT,
    STREAM,
    TEXT,
    AsyncCaller,
    Caller,
    World,
    eventually,
    measure,
    posts,
    threads,
)
from tests.transport.test_connections import in_flight
from tests.transport.test_proxies import Proxy

ONE_FAMILY = pytest.mark.parametrize("caller", ["sync-httpx2", "async-httpx2"], indirect=True)  # they take their time
ONE_SYNC = pytest.mark.parametrize("caller", ["sync-httpx2"], indirect=True)
ONE_ASYNC = pytest.mark.parametrize("caller", ["async-httpx2", "async-aiohttp"], indirect=True)
VERIFYING, RESCUING = "while it is verified", "while it is rescued"
MOMENTS = pytest.mark.parametrize("moment", [VERIFYING, RESCUING])
LIMIT = 0.2
"""Seconds that a verification may take here."""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody looks soon, and a verification that gets no answer is soon over: waits, and nothing but waits."""
    monkeypatch.setattr("smartroute.router.LOOK", 0.1)
    monkeypatch.setattr(Latency, "verification_limit", LIMIT)


SOON = pytest.mark.usefixtures("soon")


def under_way(function: Callable[..., Any], /, *args: Any, **options: Any) -> "Future[Any]":
    """A call that goes on while the test does."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args, **options))
        except BaseException as error:  # noqa: BLE001 - for the test to look at
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def gets(region: Region) -> int:
    return sum(seen.method == "GET" for seen in region.requests)


def listen(client: Any) -> list[Event]:
    heard: list[Event] = []
    client.router.subscribe(heard.append)
    return heard


def reasons(heard: list[Event]) -> list[tuple[str, str]]:
    """Where the attempts went, and why."""
    return [(event.endpoint.name, event.reason) for event in heard if isinstance(event, AttemptStarted)]


def status_of(client: Any, name: str) -> Any:
    return next(status for status in client.router.status() if status.name == name)


def reach(moment: str, world: World) -> bool:
    """Wait until a silent request is at this moment."""
    return eventually(lambda: gets(world.near) >= 1 if moment == VERIFYING else posts(world.far) == 1)


def left_nothing(world: World) -> bool:
    regions = (world.near, world.far, world.globe)
    return eventually(lambda: not any(region.open_connections for region in regions) and not threads())


# --- It is answered elsewhere ----------------------------------------------------------------------------


@ONE_FAMILY
def test_a_call_costs_little_where_its_route_falls_silent(caller: Caller, world: World) -> None:
    """With every constant as it is shipped."""
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    for _ in range(3):
        assert caller.ask(sdk, stream=True).route == "near"
    world.near.set(Silence())
    heard = listen(client)
    began = time.monotonic()
    reply = caller.ask(sdk, stream=True)
    assert time.monotonic() - began < 8  # and not the SDK's ten minutes
    assert (reply.route, reply.attempts, reply.text) == ("far", "2", "far" + TEXT)
    assert reasons(heard)[1:] == [("far", "rescue")]
    assert gets(world.near) >= 1
    asked = posts(world.near)
    assert caller.ask(sdk, stream=True).route == "far"
    assert posts(world.near) == asked  # who comes after it is not told to wait


@SOON
@pytest.mark.parametrize(
    ("caller", "fault", "stream"),
    [("sync-httpx2", Stall(1), True), ("async-httpx2", Stall(1), True), ("async-httpx2", Stall(), False)],
    indirect=["caller"],
)
def test_a_head_is_no_answer(caller: Caller, world: World, fault: Fault, stream: bool) -> None:
    world.near.set(fault, Silence(only="get"))
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    reply = caller.ask(sdk, stream=stream, timeout=10)
    assert (reply.route, reply.attempts, reply.text) == ("far", "2", "far" + TEXT)


@SOON
@pytest.mark.parametrize(
    ("caller", "fault"),
    [("sync-httpx2", Status(503)), ("async-httpx2", None)],
    indirect=["caller"],
)
def test_a_rescue_that_fails_is_followed_by_another(caller: Caller, world: World, fault: Fault | None) -> None:
    world.near.set(Silence())
    if fault is None:
        world.far.stop()
    else:
        world.far.set(fault)
    client = measure(caller.client(world.config()))
    heard = listen(client)
    reply = caller.ask(caller.sdk(client, world.globe.url), stream=True, timeout=10)
    assert (reply.route, reply.text) == ("global", "globe" + TEXT)
    assert reasons(heard)[1:] == [("far", "rescue"), ("global", "failover")]


@SOON
@ONE_FAMILY
def test_a_rescue_does_not_queue_for_a_connection(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait as long as those before it please, and what it is sent for would be waited for by nobody."""
    monkeypatch.setattr(Latency, "patience", 0.2)
    world.far.set(Stall(3))
    client = measure(caller.client(world.config(), limits=caller.family.Limits(max_connections=1)))
    url = f"{world.globe.url}/chat/completions"
    holding = caller.send(client, "POST", url, json=STREAM, headers={"x-smartroute-route": "far"})
    world.near.set(Silence())
    reply = caller.ask(caller.sdk(client, world.globe.url), stream=True, timeout=10)
    assert reply.route == "global"
    assert posts(world.far) == 1
    caller.close(holding)


@SOON
@ONE_FAMILY
def test_many_at_once_are_all_rescued_after_one_verification(caller: Caller, world: World) -> None:
    world.near.set(Silence())
    client = measure(caller.client(world.config()))
    heard = listen(client)
    sdk = caller.sdk(client, world.globe.url)
    calls = [under_way(caller.ask, sdk, stream=bool(n % 2), timeout=20) for n in range(50)]
    replies = [call.result(20) for call in calls]
    assert {reply.text for reply in replies} == {"far" + TEXT}
    fresh = [event for event in heard if isinstance(event, ProbeEnded) and event.route.name == "near"]
    assert 1 <= len(fresh) <= 2
    assert gets(world.near) <= 5  # one after the other, not one for each call
    assert eventually(lambda: in_flight(client) == 0)
    assert eventually(lambda: world.near.open_connections == 0)


@SOON
@ONE_FAMILY
def test_silence_behind_tls(caller: Caller, world: World) -> None:
    """A TLS 1.3 server sends tickets before anything else: bytes that are no answer."""
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Region("near", tls=context) as near, Region("far", tls=context) as far:
        near.set(Silence())
        client = measure(caller.client(world.config(near, far), verify=trust))
        sdk = caller.sdk(client, world.globe.url)
        reply = caller.ask(sdk, stream=True, timeout=10)
        assert (reply.route, reply.attempts, reply.text) == ("far", "2", "far" + TEXT)
        assert eventually(lambda: near.open_connections == 0)
        far.set(Slow(only="post", factor=10))
        far.latency = 0.03
        assert caller.ask(sdk, stream=True, timeout=10).route == "far"
        assert gets(far) >= 1  # looked after, and found alive
        caller.close(client)


# --- The first is answered after all ---------------------------------------------------------------------


@SOON
@pytest.mark.parametrize(
    ("caller", "stream"),
    [("sync-httpx2", True), ("async-httpx2", True), ("async-httpx2", False)],
    indirect=["caller"],
)
def test_the_first_is_heard_while_a_silent_endpoint_is_waited_for(caller: Caller, world: World, stream: bool) -> None:
    """Nobody looks after the global endpoint: it would be waited for as long as the caller's patience lasts."""
    world.near.set(Silence())
    world.globe.set(Silence())
    client = measure(caller.client(world.config(world.near)))
    heard = listen(client)
    reply = under_way(caller.ask, caller.sdk(client, world.globe.url), stream=stream, timeout=20)
    assert eventually(lambda: posts(world.globe) == 1)
    world.near.heal()
    answer = reply.result(20)
    assert (answer.route, answer.attempts, answer.text) == ("near", "2", "near" + TEXT)
    ended = [(event.endpoint.name, event.stream) for event in heard if isinstance(event, AttemptEnded)]
    assert ended == [("global", "superseded"), ("near", "complete")]
    assert eventually(lambda: world.globe.open_connections == 0)


@SOON
@pytest.mark.parametrize(
    ("caller", "fault"),
    [("sync-httpx2", Stall(1)), ("async-httpx2", Status(503))],
    indirect=["caller"],
)
def test_a_rescue_goes_on_while_the_first_says_nothing_of_worth(caller: Caller, world: World, fault: Fault) -> None:
    world.near.set(fault, Silence())
    world.far.latency = 0.02
    world.far.set(Slow(only="post", factor=12))
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    reply = under_way(caller.ask, sdk, stream=True, timeout=20)
    assert eventually(lambda: posts(world.far) == 1)
    if isinstance(fault, Status):
        world.near.heal()
    assert (reply.result(20).route, reply.result().attempts) == ("far", "2")


@SOON
@ONE_FAMILY
def test_a_first_that_fails_after_all_is_followed_by_another(caller: Caller, world: World) -> None:
    """It had begun to answer, and so its rescue was given up."""
    world.near.set(Cut(1), Silence())
    world.far.set(Silence(only="post"))
    client = measure(caller.client(world.config()))
    reply = under_way(caller.ask, caller.sdk(client, world.globe.url), timeout=20)
    assert eventually(lambda: posts(world.far) == 1)
    world.near.heal()
    assert (reply.result(20).route, reply.result().attempts) == ("global", "3")
    assert status_of(client, "far").failures == 0  # it was given no time


@pytest.mark.parametrize(
    ("raw", "streaming", "expected"),
    [
        (b"", True, False),
        (b"HTTP/1.1 200 OK\r\n\r\n5\r\n: hi\r\n", True, False),
        (b'data: {"choices": [{"delta": {"role": "assistant"}}]}\r\n\r\n', True, False),
        (b'HTTP/1.1 200 OK\r\n\r\n32\r\ndata: {"choices": [{"delta": {"content": "a"}}]}\n\n\r\n', True, True),
        (b'nt": "a"}}]}\n\ndata: {"choices": [{"text": "b"}]}\n\n', True, True),
        (b'data: {"error": {"code": 503}}\n\n', True, False),
        (b"data: [DONE]\n\ndata: [" + b"[" * 100_000, True, False),
        (b'HTTP/1.1 503 No\r\n\r\n{"error": 1}', False, False),
        (b"HTTP/1.1 200 OK\r\n\r\n", False, False),
        (b'HTTP/1.1 200 OK\r\n\r\n{"choices"', False, True),
    ],
)
def test_what_is_the_beginning_of_an_answer(raw: bytes, streaming: bool, expected: bool) -> None:
    attempt = Attempt(1, Route("https://near.example/v1"), 0, "best", 0.0, None)
    assert begins(raw, attempt, streaming=streaming) is expected


# --- It is waited for ------------------------------------------------------------------------------------


@ONE_FAMILY
def test_a_long_prompt_on_a_healthy_route_is_never_cut(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartroute.router.LOOK", 0.1)
    world.near.set(Silence(only="post"))
    client = measure(caller.client(world.config()))
    heard = listen(client)
    sdk = caller.sdk(client, world.globe.url)
    calls = [under_way(caller.ask, sdk, stream=stream, timeout=20) for stream in (False, True)]
    assert eventually(lambda: posts(world.near) == 2 and any(isinstance(event, ProbeEnded) for event in heard))
    eventually(lambda: False, 0.3)
    world.near.heal()
    assert [(call.result(20).route, call.result().attempts) for call in calls] == [("near", "1")] * 2
    probed = [(event.failure, event.fresh) for event in heard if isinstance(event, ProbeEnded)]
    assert probed == [(None, True)]  # once is enough for both, for a while
    assert (status_of(client, "near").state, status_of(client, "near").failures) == ("closed", 0)
    assert eventually(lambda: world.near.open_connections == 2)  # those of the requests: the verification's is closed
    assert posts(world.far) == 0


@SOON
@ONE_FAMILY
def test_where_probes_are_answered_and_nothing_else_a_stream_is_rescued_once(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is paid for. A whole answer may be as long as it likes."""
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    assert [caller.ask(sdk, stream=stream).route for stream in (True, True, False)] == ["near"] * 3
    monkeypatch.setattr("smartroute.policy.patience.LEAST", 0.2)
    monkeypatch.setattr("smartroute.policy.patience.LEAST_RESCUE", 0.4)
    world.near.set(Silence(only="post"))
    heard = listen(client)
    tokens = client.router._replays.tokens
    whole = under_way(caller.ask, sdk, timeout=20)
    reply = caller.ask(sdk, stream=True, timeout=10)
    assert (reply.route, reply.attempts) == ("far", "2")
    assert reasons(heard).count(("far", "rescue")) == 1
    assert tokens - 1 <= client.router._replays.tokens < tokens - 0.5
    assert not whole.done()
    world.near.heal()
    assert whole.result(20).route == "near"
    assert status_of(client, "near").state == "closed"


@SOON
@ONE_FAMILY
def test_a_pinned_request_waits_for_its_route(caller: Caller, world: World) -> None:
    world.near.set(Silence())
    client = measure(caller.client(world.config()))
    heard = listen(client)
    sdk = caller.sdk(client, world.globe.url)
    reply = under_way(caller.ask, sdk, stream=True, timeout=20, extra_headers={"x-smartroute-route": "near"})
    assert eventually(lambda: any(isinstance(event, ProbeEnded) for event in heard))  # there is every reason to go
    eventually(lambda: False, 0.15)
    assert not reply.done()
    assert posts(world.far) + posts(world.globe) == 0
    world.near.heal()
    assert (reply.result(20).route, reply.result().attempts) == ("near", "1")


@SOON
@ONE_FAMILY
def test_what_goes_through_a_proxy_is_left_alone(caller: Caller, world: World) -> None:
    """The connections are not ours there."""
    with Proxy() as proxy:
        serving = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        world.near.set(Silence(only="post"))
        client = measure(caller.client(world.config(), proxy=proxy.url))
        reply = under_way(caller.ask, caller.sdk(client, world.globe.url), stream=True, timeout=20)
        assert eventually(lambda: posts(world.near) == 1)
        eventually(lambda: False, 0.3)
        assert (reply.done(), posts(world.far), gets(world.near)) == (False, 0, 0)
        world.near.heal()
        assert (reply.result(20).route, reply.result().attempts) == ("near", "1")
        proxy.shutdown()
        serving.join()


@SOON
@ONE_FAMILY
def test_what_may_share_a_connection_is_left_alone(caller: Caller, world: World) -> None:
    """Over HTTP/2 one request reads for all of them: it must not be kept from that."""
    world.near.set(Silence(only="post"))
    client = measure(caller.client(world.config(), http2=True))
    reply = under_way(caller.ask, caller.sdk(client, world.globe.url), stream=True, timeout=20)
    assert eventually(lambda: posts(world.near) == 1)
    eventually(lambda: False, 0.3)
    assert (reply.done(), posts(world.far), gets(world.near)) == (False, 0, 0)
    world.near.heal()
    assert (reply.result(20).route, reply.result().attempts) == ("near", "1")


# --- The process itself is late --------------------------------------------------------------------------


@contextmanager
def blocked(caller: AsyncCaller) -> Iterator[None]:
    """In the block the event loop does nothing."""
    begun, over = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        over.wait(20)

    blocking = caller.submit(block)
    assert begun.wait(20)
    try:
        yield
    finally:
        over.set()
    blocking.result(20)


@ONE_ASYNC
@pytest.mark.parametrize("seconds", [0.3, 0.7], ids=["not yet overdue", "overdue"])
def test_a_blocked_event_loop_condemns_nobody(
    caller: AsyncCaller, world: World, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Whatever is late then is late because of us: nothing is learned from it."""
    monkeypatch.setattr("smartroute.policy.patience.LEAST_RESCUE", 20.0)  # not while the block is prepared
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    for _ in range(5):
        assert caller.ask(sdk, stream=True).route == "near"
    heard = listen(client)
    latency, baseline = client.router._known["near"].latency, client.router._patience.baseline
    factor, error, usual = latency.factor, latency.error, baseline._logs.copy()
    world.near.set(Silence(only="post"))
    calls = [caller.submit(sdk.chat.completions.create, **STREAM) for _ in range(10)]
    assert eventually(lambda: posts(world.near) == 15)
    with blocked(caller):
        world.near.heal()
        httpx2.get(f"{world.near.url}/models", trust_env=False)  # its turn comes after theirs
        time.sleep(seconds)
    for call in calls:
        list(caller.iterate(call.result(20)))
    assert reasons(heard) == [("near", "incumbent")] * 10
    near = status_of(client, "near")
    assert (near.state, near.suspect, near.failures) == ("closed", False, 0)
    assert not any(isinstance(event, BreakerChanged) for event in heard)
    assert baseline._logs == usual
    assert (latency.factor, latency.error) == (pytest.approx(factor, 1e-2), pytest.approx(error, 1e-2))


@ONE_ASYNC
def test_a_blocked_event_loop_fails_no_verification_and_measures_nothing(
    caller: AsyncCaller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartroute.router.LOOK", 0.1)
    client = measure(caller.client(world.config()))
    world.near.latency = 0.1
    world.near.set(Slow(only="post", factor=10))
    heard = listen(client)
    reply = under_way(caller.ask, caller.sdk(client, world.globe.url), stream=True, timeout=20)
    assert eventually(lambda: gets(world.near) == 1)
    caller.do(time.sleep, 0.8)
    assert (reply.result(20).route, reply.result().attempts) == ("near", "1")
    assert not any(isinstance(event, BreakerChanged) for event in heard)
    assert status_of(client, "near").failures == 0
    # It was answered, if late, and so the route is alive; or another one was made, in time.
    assert eventually(lambda: not client.router._known["near"].silence.wanted)
    measured = [event.round_trip or 0.0 for event in heard if isinstance(event, ProbeEnded)]
    assert max(measured, default=0.0) < 0.5


@SOON
@ONE_FAMILY
def test_what_came_while_nobody_read_is_no_measure(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody glances at what the first says while its rescue is under way: it has answered, nobody knows when."""
    monkeypatch.setattr("smartroute.transport.watch.GLANCE", 10.0)
    client = measure(caller.client(world.config(global_url=None)))
    sdk = caller.sdk(client, world.near.url, "fake-near-key")
    for _ in range(3):
        caller.ask(sdk, stream=True)
    learned = client.router._patience.baseline._logs.copy()
    world.near.set(Silence())
    world.far.latency = 0.02
    world.far.set(Status(503, only="post"), Slow(only="post", factor=15))
    reply = under_way(caller.ask, sdk, stream=True, timeout=20)
    assert eventually(lambda: posts(world.far) == 1)
    world.near.heal()
    assert reply.result(20).route == "near"
    assert client.router._patience.baseline._logs == learned


@SOON
@ONE_FAMILY
def test_what_came_in_time_is_read_though_the_time_is_over(caller: Caller, world: World) -> None:
    """The caller's read timeout passes while nobody reads from the first: a rescue is under way, and fails."""
    client = measure(caller.client(world.config(global_url=None)))
    sdk = caller.sdk(client, world.near.url, "fake-near-key")
    world.near.set(Silence())
    world.far.latency = 0.02
    world.far.set(Status(503, only="post"), Slow(only="post", factor=75))
    reply = under_way(caller.ask, sdk, stream=True, timeout=1.5)
    assert eventually(lambda: posts(world.far) == 1)
    world.near.heal()
    assert reply.result(20).route == "near"


# --- It is given up --------------------------------------------------------------------------------------


@SOON
@MOMENTS
@ONE_ASYNC
def test_a_cancelled_call_leaves_nothing(caller: AsyncCaller, world: World, moment: str) -> None:
    for region in (world.near, world.far):
        region.set(Silence())
    client = measure(caller.client(world.config()))
    call = caller.submit(client.post, f"{world.globe.url}/chat/completions", json=STREAM)
    assert reach(moment, world)
    call.cancel()
    assert eventually(lambda: in_flight(client) == 0)
    assert eventually(lambda: posts(world.near) == 1 and world.far.open_connections == 0)
    assert [status.failures for status in client.router.status()] == [0, 0]
    assert posts(world.globe) == 0
    assert eventually(lambda: world.near.open_connections == 0)  # the verification ends too, by itself


@SOON
@MOMENTS
@ONE_FAMILY
def test_a_closed_client_leaves_nothing(
    caller: Caller, world: World, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prolong(event: Event | None) -> None:
        """The verification that the client is closed under would go on for long."""
        if event is None or isinstance(event, ProbeEnded):
            monkeypatch.setattr(Latency, "verification_limit", 10.0)

    assert eventually(lambda: not threads())  # of earlier tests
    if moment == VERIFYING:
        prolong(None)
    for region in (world.near, world.far):
        region.set(Silence())
    config = world.config()
    client, sister = measure(caller.client(config)), caller.client(config)
    client.router.subscribe(prolong)
    url = f"{world.globe.url}/chat/completions"
    call = under_way(caller.do, client.post, url, json=CHAT)
    assert reach(moment, world)
    began = time.monotonic()
    caller.close(client)
    error = call.exception(20)
    assert isinstance(error, caller.family.TransportError)
    assert left_nothing(world)
    assert time.monotonic() - began < 8  # nobody waits for what is verified
    assert posts(world.globe) == 0
    near = status_of(sister, "near")
    assert (near.state, near.failures, near.in_flight) == ("closed", 0, 0)
    assert sister.router._known["near"].breaker._in_a_row == 0  # closing is nobody's fault


@ONE_FAMILY
@pytest.mark.parametrize("raced", [False, True], ids=["alone", "raced"])
def test_a_client_closed_while_it_connects_sends_nothing(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch, raced: bool
) -> None:
    async def dial_later(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(0.1)
        return await async_dial(*args, **options)

    def dial_late(*args: Any, **options: Any) -> Any:
        time.sleep(0.1)
        return sync_dial(*args, **options)

    async_dial, sync_dial = async_wire._dial, sync_wire._dial
    monkeypatch.setattr(async_wire, "_dial", dial_later)
    monkeypatch.setattr(sync_wire, "_dial", dial_late)
    client = measure(caller.client(world.config() if raced else world.config(world.near, global_url=None)))
    call = under_way(caller.do, client.post, f"{world.near.url}/chat/completions", json=CHAT)
    assert eventually(lambda: in_flight(client) == 1)
    caller.close(client)
    assert isinstance(call.exception(20), caller.family.TransportError)
    assert left_nothing(world)
    assert posts(world.near) + posts(world.far) + posts(world.globe) == 0


@ONE_FAMILY
def test_a_client_closed_while_it_shakes_hands_sends_nothing(caller: Caller, world: World) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with Region("near", tls=context) as near:
        near.set(Silence(at="accept"))
        client = measure(caller.client(world.config(near), verify=False))
        call = under_way(caller.do, client.post, f"{near.url}/chat/completions", json=CHAT)
        assert eventually(lambda: near.connections == 1)
        caller.close(client)
        near.heal()
        assert isinstance(call.exception(20), caller.family.TransportError)
        assert eventually(lambda: near.open_connections == 0)
        assert (near.requests, posts(world.globe)) == ([], 0)


@ONE_SYNC
def test_closing_a_client_under_its_probe_is_nobodys_fault(caller: Caller, world: World) -> None:
    world.near.set(Silence(only="get"))
    config = world.config(probe_interval=10)
    client, sister = measure(caller.client(config)), caller.client(config)
    caller.ask(caller.sdk(client, world.globe.url))
    heard = listen(sister)
    assert eventually(lambda: gets(world.near) == 1)
    caller.close(client)
    assert eventually(lambda: not threads())
    assert not any(isinstance(event, ProbeEnded) and event.failure for event in heard)
    assert status_of(sister, "near").last_failure is None


class Interrupted(BaseException):
    """As KeyboardInterrupt, for this test alone."""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs a signal of its own")
@SOON
@MOMENTS
@ONE_SYNC
def test_an_interrupted_thread_leaves_nothing(caller: Caller, world: World, moment: str) -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    def strike() -> None:
        reach(moment, world)
        os.kill(os.getpid(), signal.SIGUSR1)

    for region in (world.near, world.far):
        region.set(Silence())
    client = measure(caller.client(world.config()))
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        striking = threading.Thread(target=strike)
        striking.start()
        with pytest.raises(Interrupted):
            client.post(f"{world.globe.url}/chat/completions", json=STREAM, timeout=10)
        striking.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert in_flight(client) == 0
    assert world.far.open_connections == 0 or eventually(lambda: world.far.open_connections == 0)
    assert eventually(lambda: world.near.open_connections == 0)
    assert [status.failures for status in client.router.status()] == [0, 0]
    assert posts(world.globe) == 0


@SOON
@pytest.mark.parametrize("caller", ["sync-httpx2", "async-httpx"], indirect=True)
def test_silence_everywhere_is_the_familys_timeout(caller: Caller, world: World) -> None:
    for region in (world.near, world.far):
        region.set(Silence())
    client = measure(caller.client(world.config(global_url=None)))
    url = f"{world.near.url}/chat/completions"
    with pytest.raises(caller.family.ReadTimeout) as caught:
        caller.do(client.post, url, json=STREAM, timeout=caller.family.Timeout(5, read=0.6))
    assert str(caught.value.request.url) == url
    assert posts(world.near) == 1
    assert in_flight(client) == 0


# --- Probes that fail within smartroute ------------------------------------------------------------------


@ONE_FAMILY
def test_a_probe_that_cannot_be_made_is_not_tried_all_the_time(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []

    def fail(driver: DriverBase, *args: object) -> None:
        tried.append(args)
        raise ValueError("a bug")

    monkeypatch.setattr(DriverBase, "_probe_watch", fail)
    client = caller.client(world.config(probe_interval=10))
    caller.ask(caller.sdk(client, world.globe.url))
    assert eventually(lambda: tried)
    eventually(lambda: False, 0.3)
    assert len(tried) <= 10
