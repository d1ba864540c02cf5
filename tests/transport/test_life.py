"""Whatever becomes of a caller in whatever phase of its request: nothing stays behind, and the client goes on."""

import asyncio
import contextlib
import gc
import os
import pickle
import signal
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import anyio
import openai
import pytest
import trustme

from smartroute.events import Event, ExchangeEnded
from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import Attempt
from smartroute.probe import AsyncProber, SyncProber
from smartroute.router import Router
from smartroute.testing import Cut, ErrorEvent, Fault, Region, Reset, Silence, Slow, Stall, Status
from smartroute.transport.driver import Flight
from tests.environments import ROOT
from tests.policy.driving import STREAM as LIKE_THIS
from tests.transport.kit import ASYNC, CHAT, STREAM, AsyncCaller, Caller, World, eventually, measure, posts

HUGE = {**STREAM, "messages": [{"role": "user", "content": "x" * 8_000_000}]}
"""More than the kernel's buffers take of a server that does not read."""


def in_flight(client: Any) -> int:
    return sum(status.in_flight for status in client.router.status())


def what_is_kept() -> Counter[str]:
    """The objects of requests that are still there."""
    gc.collect()
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in (Exchange, Attempt, Flight))


# --- Given up by the caller ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """What a request is in the middle of."""

    prepare: Callable[[World], object]
    reached: Callable[[World], bool]
    body: dict[str, Any]
    hedge: bool = False


def everywhere(*faults: Fault) -> Callable[[World], object]:
    def prepare(world: World) -> None:
        for region in world.all:
            region.set(*faults)
            region.disconnect()

    return prepare


def drop(world: World) -> None:
    for region in world.all:
        region.stop(silently=True)


def slow_down(world: World) -> None:
    for region in (world.near, world.far):
        region.latency = 0.01
        region.set(Slow(only="post", factor=3_000))


def fail_over(world: World) -> None:
    world.near.set(Reset(only="post"))
    world.far.set(Silence(only="post"))


def accepted(world: World) -> bool:
    return world.near.open_connections == 1


def asked(world: World) -> bool:
    return posts(world.near) == 1


PHASES = {
    "connect": Phase(drop, lambda world: not eventually(lambda: False, 0.3), STREAM),
    "write": Phase(everywhere(Silence(at="accept")), accepted, HUGE),
    "headers": Phase(everywhere(Silence(only="post")), asked, STREAM),
    "held": Phase(everywhere(Stall(1, only="post")), asked, STREAM),
    "held whole": Phase(everywhere(Stall(1, only="post")), asked, CHAT),
    "hedge": Phase(slow_down, lambda world: asked(world) and posts(world.far) == 1, STREAM, hedge=True),
    "failover": Phase(fail_over, lambda world: posts(world.far) == 1, STREAM),
}


async def within(seconds: float, function: Callable[..., Any], *args: Any, **options: Any) -> None:
    async with asyncio.timeout(seconds):
        await function(*args, **options)


async def moving_on(seconds: float, function: Callable[..., Any], *args: Any, **options: Any) -> None:
    with anyio.move_on_after(seconds):
        await function(*args, **options)
    raise TimeoutError


GIVEN_UP = [
    *(pytest.param(phase, "cancel", id=f"{name}-cancel") for name, phase in PHASES.items()),
    pytest.param(PHASES["headers"], "asyncio.timeout", id="headers-asyncio.timeout"),
    pytest.param(PHASES["held"], "anyio", id="held-anyio"),
]


@ASYNC
@pytest.mark.parametrize(("phase", "how"), GIVEN_UP)
def test_a_call_given_up_leaves_nothing(caller: AsyncCaller, world: World, phase: Phase, how: str) -> None:
    client = measure(caller.client(world.config(hedge=phase.hedge)))
    for _ in range(5):
        client.router._patience.baseline.learn(LIKE_THIS.model, 100, 0.05, 0.0, 0.0)
    phase.prepare(world)
    ask = (client.post, f"{world.globe.url}/chat/completions")
    if how == "cancel":
        call = caller.submit(*ask, json=phase.body, timeout=30)
        assert eventually(lambda: phase.reached(world))
        call.cancel()
    else:
        call = caller.submit(within if how == "asyncio.timeout" else moving_on, 0.5, *ask, json=phase.body, timeout=30)
        assert eventually(lambda: phase.reached(world))
        with pytest.raises(TimeoutError):
            call.result(20)
    assert eventually(lambda: in_flight(client) == 0)
    assert [status.failures for status in client.router.status()] == [0, int(phase.prepare is fail_over)]
    for region in world.all:
        region.heal()
        region.start()
        region.set()
    assert caller.ask(caller.sdk(client, world.globe.url), timeout=20).route in ("near", "far")


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


@ASYNC
def test_a_call_given_up_while_it_shakes_hands_leaves_nothing(
    caller: AsyncCaller, world: World, tls: ssl.SSLContext
) -> None:
    with Region("near", tls=tls) as near:
        near.set(Silence(at="accept"))
        client = measure(caller.client(world.config(near, global_url=None), verify=False))
        call = caller.submit(client.post, f"{near.url}/chat/completions", json=STREAM)
        assert eventually(lambda: near.open_connections == 1)
        call.cancel()
        assert eventually(lambda: in_flight(client) == 0)
        near.heal()
        assert eventually(lambda: near.open_connections == 0)
        assert caller.do(client.post, f"{near.url}/chat/completions", json=CHAT).status_code == 200


# --- Closed under the reader -----------------------------------------------------------------------------


def test_a_client_is_closed_while_others_read(caller: Caller, world: World) -> None:
    """Each of them has an error of its family, none is left waiting."""
    world.near.set(Stall(3))
    client = measure(caller.client(world.config()))
    responses = [caller.send(client, "POST", f"{world.globe.url}/chat/completions", json=STREAM) for _ in range(3)]
    errors: list[Exception] = []

    def read(response: Any) -> None:
        try:
            list(caller.chunks(response))
        except Exception as error:  # noqa: BLE001 - for the test to look at
            errors.append(error)

    readers = [threading.Thread(target=read, args=[response], daemon=True) for response in responses]
    for reader in readers:
        reader.start()
    assert eventually(lambda: all(response.num_bytes_downloaded for response in responses))
    caller.close(client)
    for reader in readers:
        reader.join(20)
    assert len(errors) == 3
    assert all(isinstance(error, caller.family.TransportError) for error in errors)
    assert in_flight(client) == 0
    for response in responses:
        caller.close(response)


# --- Nothing is kept -------------------------------------------------------------------------------------


def test_nothing_is_kept_of_a_request_that_is_over(caller: Caller, world: World) -> None:
    before = what_is_kept()  # other tests may have some of their own
    world.near.set(Status(503, every=5), Cut(3, only="stream", every=7), Reset(every=11, only="post"))
    world.far.set(ErrorEvent(only="stream", every=3))
    client = measure(caller.client(world.config(hedge=True)))
    sdk = caller.sdk(client, world.globe.url)

    def ask(number: int) -> None:
        """Some are read whole, some are closed in the middle, some forgotten."""
        if number % 2:
            caller.do(sdk.chat.completions.create, **CHAT)
            return
        stream = caller.do(sdk.chat.completions.create, **STREAM)
        for _ in zip(caller.iterate(stream), range(100 if number % 3 else 2), strict=False):
            pass
        if number % 4:
            caller.close(stream)

    for number in range(60):
        with contextlib.suppress(openai.APIError):
            ask(number)
    assert eventually(lambda: caller.forget() and not what_is_kept() - before), what_is_kept()
    assert in_flight(client) == 0
    assert not client.transport._driver.open_streams


# --- Other processes -------------------------------------------------------------------------------------


def environment_of(world: World, backend: str = "httptools") -> dict[str, str]:
    return {
        "SMARTROUTE_ROUTES": f"near={world.near.url} far={world.far.url}",
        "SMARTROUTE_API_KEY_NEAR": "fake-near-key",
        "SMARTROUTE_API_KEY_FAR": "fake-far-key",
        "SMARTROUTE_GLOBAL_URL": world.globe.url,
        "SMARTROUTE_PROBE_INTERVAL": "0.1",
        "SMARTROUTE_BACKEND": backend,
        "OPENAI_BASE_URL": world.globe.url,
        "OPENAI_API_KEY": "fake-console-key",
        "PYTHONPATH": str(ROOT),
    }


def run(script: str, world: World, backend: str = "httptools") -> tuple[str, str, int]:
    """What a script writes to stdout and to stderr, and its exit status."""
    done = subprocess.run(
        [sys.executable, "-c", SETTING + script],
        capture_output=True,
        text=True,
        timeout=50,
        env=environment_of(world, backend),
        check=False,
    )
    return done.stdout.strip(), done.stderr, done.returncode


SETTING = """
import asyncio, concurrent.futures, multiprocessing, operator, os, signal, sys, threading, time
from openai import AsyncOpenAI, OpenAI
import smartroute

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
"""

INTERRUPTED = """
client = smartroute.Client()
sdk = OpenAI(http_client=client, max_retries=0, timeout=30)

def read(body):
    for _ in sdk.chat.completions.create(**body):
        pass

lost = sys.unraisablehook
sys.unraisablehook = lambda what: None if what.exc_type is KeyboardInterrupt else lost(what)
signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(3):
    signal.setitimer(signal.ITIMER_REAL, 0.2, 2.0)  # again: Python loses one that comes within a callback
    try:
        read(BODY)
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
print("interrupted", flush=True)
sys.stdin.readline()  # healed by now
read(STREAM)
print([status.in_flight for status in client.router.status()])
sdk.close()
"""
BIG = "{**STREAM, 'messages': [{'role': 'user', 'content': 'x' * 8_000_000}]}"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timer")
@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (Silence(at="accept"), BIG),
        (Silence(only="post"), "STREAM"),
        (Stall(1, only="post"), "STREAM"),
        (Stall(3, only="post"), "STREAM"),
    ],
    ids=["write", "headers", "held", "streaming"],
)
def test_ctrl_c_leaves_a_client_that_works(world: World, fault: Fault, body: str) -> None:
    for region in world.all:
        region.set(fault)
    with subprocess.Popen(
        [sys.executable, "-c", SETTING + INTERRUPTED.replace("BODY", body)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment_of(world),
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("there are no pipes")
        assert process.stdout.readline() == "interrupted\n"
        for region in world.all:
            region.heal()
        said, noise = process.communicate("go on\n", timeout=30)
    assert (said, noise, process.returncode) == ("[0, 0]\n", "", 0)


FORKING = """
client, other = smartroute.Client(), smartroute.AsyncClient()
sdk = OpenAI(http_client=client, max_retries=0, timeout=20)
stop = threading.Event()

def read():
    text = "".join(chunk.choices[0].delta.content or "" for chunk in sdk.chat.completions.create(**STREAM))
    assert text.endswith("5"), text

async def read_async():
    sdk = AsyncOpenAI(http_client=other, max_retries=0, timeout=20)
    async for _ in await sdk.chat.completions.create(**STREAM):
        pass

def be_busy():
    while not stop.is_set():
        read()

asyncio.run(read_async())
with concurrent.futures.ThreadPoolExecutor(3) as pool:
    busy = [pool.submit(be_busy) for _ in range(3)]
    for _ in range(8):
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                read()
                asyncio.run(read_async())
                assert [status.in_flight for status in client.router.status()] == [0, 0]
                client.close()
                asyncio.run(other.aclose())
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for each in busy:
        each.result(20)
read()
client.close()
asyncio.run(other.aclose())
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_in_the_middle_of_other_threads_requests(world: World) -> None:
    for region in (world.near, world.far):
        region.token_interval = 0.002
    assert run(FORKING, world) == ("fine", "", 0)


SPAWNING = """
config = smartroute.Config.from_env()
with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
    routes = pool.submit(operator.attrgetter("routes"), config).result()
    assert [list(route.keys) for route in routes] == [["fake-near-key"], ["fake-far-key"]]
    shown = pool.submit(repr, config).result() + pool.submit(repr, routes[0]).result()
    assert "near" in shown and "fake" not in shown, shown
with smartroute.Client(smartroute.Config(routes, global_url=config.global_url)) as client:
    OpenAI(http_client=client, max_retries=0).chat.completions.create(**CHAT)
print("fine")
"""


def test_a_configuration_goes_to_another_process_and_back(world: World) -> None:
    assert run(SPAWNING, world) == ("fine", "", 0)


def test_what_belongs_to_a_process_says_what_may_leave_it(caller: Caller, world: World) -> None:
    client = caller.client(world.config())
    for thing in (client, client.router):
        with pytest.raises(TypeError, match="pickle the Config"):
            pickle.dumps(thing)


LEFT_OPEN = {
    "in a variable": "stream = OpenAI(http_client=smartroute.Client()).chat.completions.create(**STREAM)\nnext(stream)",
    "by sys.exit": "for _ in OpenAI(http_client=smartroute.Client()).chat.completions.create(**STREAM): sys.exit()",
    "in a thread": """
def read():
    for _ in OpenAI(http_client=smartroute.Client(), max_retries=0).chat.completions.create(**STREAM):
        begun.set()
begun = threading.Event()
threading.Thread(target=read, daemon=True).start()
begun.wait(20)
""",
    "in a task": """
async def read():
    async for _ in await AsyncOpenAI(http_client=smartroute.AsyncClient()).chat.completions.create(**STREAM):
        begun.set()
async def main():
    global begun, task
    begun = asyncio.Event()
    task = asyncio.create_task(read())
    await begun.wait()
asyncio.run(main())
""",
    "by a loop": """
async def main():
    global stream
    stream = await AsyncOpenAI(http_client=smartroute.AsyncClient()).chat.completions.create(**STREAM)
    await anext(stream)
asyncio.run(main())
""",
}


@pytest.mark.parametrize("backend", ["httptools", "httpcore", "aiohttp"])
@pytest.mark.parametrize("script", LEFT_OPEN.values(), ids=LEFT_OPEN)
def test_the_interpreter_may_end_with_streams_open(world: World, script: str, backend: str) -> None:
    for region in (world.near, world.far):
        region.token_interval = 30
    if backend == "aiohttp" and "Async" not in script:
        pytest.skip("sync clients have no such backend")
    assert run(script, world, backend) == ("", "", 0)


@pytest.mark.parametrize("caller", ["sync-httpx2", "async-httpx2"], indirect=True)
def test_what_ends_a_request_before_it_sets_out_is_told(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the first request starts the prober's thread, for one."""
    client, heard = measure(caller.client(world.config())), list[Event]()
    client.router.subscribe(heard.append)

    def interrupt(prober: object) -> None:
        raise asyncio.CancelledError

    for prober in (SyncProber, AsyncProber):
        monkeypatch.setattr(prober, "wake", interrupt)
    with pytest.raises((asyncio.CancelledError, CancelledError)):
        caller.do(client.post, f"{world.globe.url}/chat/completions", json={**CHAT, "prompt_cache_key": "talk"})
    assert [event.outcome for event in heard if isinstance(event, ExchangeEnded)] == ["cancelled"]
    assert client.router._selector.conversations.join("m", "talk").in_flight == 1


@pytest.mark.parametrize("caller", ["sync-httpx2", "sync-httpx"], indirect=True)
def test_ctrl_c_while_a_head_is_taken_note_of_leaves_no_connection(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = measure(caller.client(world.config()))

    def interrupt(router: Router, attempt: Attempt) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Router, "secured", interrupt)
        with pytest.raises(KeyboardInterrupt):
            client.post(f"{world.globe.url}/chat/completions", json=CHAT)
    for pool, _ in client.transport._driver._pools._routes.values():
        assert all(connection.is_idle() for connection in pool.connections)


# --- Not asyncio -----------------------------------------------------------------------------------------


@ASYNC
def test_another_event_loop_is_refused(caller: AsyncCaller, world: World) -> None:
    """As under trio: no loop of asyncio runs where the coroutine does."""
    client = caller.client(world.config())
    coroutine = client.post(f"{world.globe.url}/chat/completions", json=CHAT)
    for each in (coroutine, client.aclose()):
        with pytest.raises(RuntimeError, match="need asyncio; trio is not supported"):
            each.send(None)
    assert in_flight(client) == 0


@pytest.mark.parametrize("caller", ["sync-httpx2", "async-httpx2", "async-aiohttp"], indirect=True)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_request_leaves_nothing_to_the_garbage_collector(caller: Caller, world: World, stream: bool) -> None:
    """What only the collector can free makes it run: as pauses, in a big application, that nobody can explain.

    (The responses of legacy httpx are cycles of their own.)
    """
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    caller.ask(sdk, stream=stream)

    def ours() -> list[str]:
        return [
            type(each).__name__ for each in gc.garbage if type(each).__module__.startswith(("smartroute", "httptools"))
        ]

    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(5):
            caller.ask(sdk, stream=stream)
        gc.collect()
        assert ours() == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
