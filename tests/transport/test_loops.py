"""Event loops one after the other and at once, threads, and the end of the interpreter."""

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
from openai import AsyncOpenAI

import smartroute.httpx
import smartroute.httpx2
from tests.environments import ROOT
from tests.transport.kit import CHAT, STREAM, SYNC, Caller, World, deserted, eventually, measure, posts, threads

FAMILIES = pytest.mark.parametrize(
    ("family", "backend"),
    [(smartroute.httpx2, "httptools"), (smartroute.httpx, "httptools"), (smartroute.httpx2, "aiohttp")],
    ids=["httpx2", "httpx", "aiohttp"],
)
BACKENDS = pytest.mark.parametrize("backend", ["httptools", "httpcore", "aiohttp"])


async def call(client: Any, world: World, *, stream: bool) -> str:
    """A call by the SDK, read to its end: the route that answered."""
    sdk = AsyncOpenAI(
        base_url=world.globe.url, api_key="fake-console-key", http_client=client, max_retries=0, timeout=10
    )
    options: Any = {**CHAT, "stream": stream}
    raw: Any = await sdk.chat.completions.with_raw_response.create(**options)
    parsed = raw.parse()
    if stream:
        async for _ in parsed:
            pass
    return str(raw.headers["x-smartroute-route"])


@FAMILIES
@pytest.mark.parametrize("probe_interval", [0, 0.1])
def test_one_client_serves_loops_one_after_the_other(
    world: World, family: ModuleType, backend: str, probe_interval: float
) -> None:
    client = family.AsyncClient(world.config(backend=backend, probe_interval=probe_interval))

    async def run(*, last: bool) -> list[str]:
        routes = [await call(client, world, stream=stream) for stream in (True, False, True)]
        routes += await asyncio.gather(*(call(client, world, stream=True) for _ in range(5)))
        if last:
            await client.aclose()
        return routes

    for number in range(4):
        assert set(asyncio.run(run(last=number == 3))) <= {"near", "far"}
        assert posts(world.globe) == 0
        # What was made in a loop ends with it.
        assert eventually(lambda: world.near.open_connections == world.far.open_connections == 0)
    gc.collect()
    assert [status.in_flight for status in client.router.status()] == [0, 0]


@FAMILIES
def test_a_loop_may_end_in_the_middle_of_a_stream(
    world: World, family: ModuleType, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.near.token_interval = 5
    client = measure(family.AsyncClient(world.config(backend=backend)))

    async def begin() -> None:
        request = client.build_request("POST", f"{world.globe.url}/chat/completions", json=STREAM)
        response = await client.send(request, stream=True)
        await anext(response.aiter_raw())

    asyncio.run(begin())
    gc.collect()
    assert deserted(world.near)
    world.near.token_interval = 0

    async def again() -> str:
        try:
            return await call(client, world, stream=True)
        finally:
            await client.aclose()

    assert asyncio.run(again()) == "near"
    assert [status.in_flight for status in client.router.status()] == [0, 0]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


@FAMILIES
def test_loops_that_have_ended_are_not_remembered(world: World, family: ModuleType, backend: str) -> None:
    client = family.AsyncClient(world.config(backend=backend, probe_interval=10))
    loops = []

    async def run() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await call(client, world, stream=False)

    for _ in range(30):
        asyncio.run(run())
    assert dict(client.transport._driver._homes) == {}
    gc.collect()
    assert [loop() for loop in loops] == [None] * 30
    asyncio.run(client.aclose())


@FAMILIES
def test_one_client_serves_two_loops_at_once(world: World, family: ModuleType, backend: str) -> None:
    client = family.AsyncClient(world.config(backend=backend, probe_interval=0.2))
    barrier = threading.Barrier(2)

    async def work() -> list[str]:
        await asyncio.to_thread(barrier.wait, 5)
        return [await call(client, world, stream=bool(n % 2)) for n in range(10)]

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(asyncio.run, work()) for _ in range(2)]
        routes = [route for future in futures for route in future.result(30)]
    assert len(routes) == 20
    assert set(routes) <= {"near", "far"}
    assert [status.in_flight for status in client.router.status()] == [0, 0]
    asyncio.run(client.aclose())
    assert eventually(lambda: world.near.open_connections == world.far.open_connections == 0)


@SYNC
def test_threads_share_a_client(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config(probe_interval=0.2)))
    sdk = caller.sdk(client, world.globe.url)

    def work(number: int) -> list[str]:
        return [caller.ask(sdk, stream=bool(n + number & 1)).route for n in range(10)]

    with ThreadPoolExecutor(8) as pool:
        routes = [route for found in pool.map(work, range(8)) for route in found]
    assert len(routes) == 80
    assert set(routes) <= {"near", "far"}
    assert world.near.connections <= 20  # of 80 requests
    assert [status.in_flight for status in client.router.status()] == [0, 0]


def test_clients_of_both_families_share_what_they_learn(world: World) -> None:
    one, other = smartroute.httpx.Client(world.config()), smartroute.httpx2.Client(world.config())
    assert isinstance(one, httpx.Client)
    assert isinstance(other, httpx2.Client)
    assert one.router is other.router
    with measure(one), other:
        world.near.stop()
        response: Any = None
        for client in (one, other):
            response = client.post(f"{world.globe.url}/chat/completions", json=CHAT)
            assert response.headers["x-smartroute-route"] == "far"
        assert response.headers["x-smartroute-attempts"] == "1"  # the other family knew
    assert eventually(lambda: not threads())


STRICT = """
import asyncio, gc, logging
from openai import AsyncOpenAI, OpenAI
import smartroute

logging.getLogger("asyncio").addFilter(lambda record: "Executing" not in record.msg)  # a slow machine is no fault
PROMPT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

with OpenAI(http_client=smartroute.Client(), max_retries=0) as sdk:
    for _ in range(3):
        sdk.chat.completions.create(**PROMPT)
        list(sdk.chat.completions.create(**PROMPT, stream=True))

client = smartroute.AsyncClient()
sdk = AsyncOpenAI(http_client=client, max_retries=0)

async def main(last):
    for _ in range(3):
        await sdk.chat.completions.create(**PROMPT)
        async for _ in await sdk.chat.completions.create(**PROMPT, stream=True):
            pass
    await asyncio.sleep(0.15)  # for a probe or two
    if last:
        await sdk.close()

for last in (False, False, True):
    asyncio.run(main(last))
    gc.collect()
print("fine")
"""

FORGETFUL = """
import smartroute
from openai import OpenAI

sdk = OpenAI(http_client=smartroute.Client(), max_retries=0)
for chunk in sdk.chat.completions.create(
    model="m", messages=[{"role": "user", "content": "hi"}], stream=True
):
    pass
print("fine")
"""


def run_script(
    script: str, world: World, *flags: str, backend: str = "httptools"
) -> "subprocess.CompletedProcess[str]":
    environ = {
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
    return subprocess.run(
        [sys.executable, *flags, "-c", script], capture_output=True, text=True, timeout=100, env=environ, check=False
    )


@BACKENDS
@pytest.mark.timeout(120)
def test_strict_python_finds_nothing_to_complain_of(world: World, backend: str) -> None:
    """Under `-X dev -W error` an unclosed socket or loop, or a task left behind, is written to stderr."""
    done = run_script(STRICT, world, "-X", "dev", "-W", "error", backend=backend)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("fine", "", 0)
    assert posts(world.globe) == 0


@pytest.mark.timeout(120)
def test_a_forgotten_client_makes_no_noise_at_exit(world: World) -> None:
    world.far.latency = 1.0  # a probe is under way when the interpreter goes down
    done = run_script(FORGETFUL, world)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("fine", "", 0)
