"""What a call costs through smartroute, beside the bare SDK, on loopback.

Interleaved: each round measures every contender in turn, so that a drift of the machine hits all alike.
"""

import asyncio
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import openai

import smartroute

MESSAGES: list[Any] = [{"role": "user", "content": "Say ok."}]


@contextmanager
def fast_server() -> Iterator[str]:
    """A fast server in a process of its own; gives its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fast_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.communicate()


def config(url: str, routes: int) -> smartroute.Config:
    """So many routes to the same server, which does not look at the path."""
    origin = url.removesuffix("/v1")
    return smartroute.Config(
        routes=[smartroute.Route(f"{origin}/r{n}/v1", name=f"r{n}") for n in range(routes)],
        api_key="fake-direct-key",
        global_url=url,
        probe_interval=0,
    )


class Contender(NamedTuple):
    """One way to call, sync and async."""

    name: str
    client: openai.OpenAI
    async_client: openai.AsyncOpenAI


def contenders(url: str) -> list[Contender]:
    """The bare SDK twice (how far two equals differ is the measurement's error), and smartroute."""
    options: dict[str, Any] = {"base_url": url, "api_key": "fake-console-key", "max_retries": 0}
    found = [
        Contender(name, openai.OpenAI(**options), openai.AsyncOpenAI(**options)) for name in ("bare", "bare again")
    ]
    for routes in (3, 100):
        settings = config(url, routes)
        client = openai.OpenAI(**options, http_client=smartroute.Client(settings))
        async_client = openai.AsyncOpenAI(**options, http_client=smartroute.AsyncClient(settings))
        found.append(Contender(f"smartroute, {routes} routes", client, async_client))
    return found


def time_sync(client: openai.OpenAI, times: int, *, stream: bool) -> float:
    """Microseconds per call."""
    start = time.perf_counter()
    for _ in range(times):
        answer: Any = client.chat.completions.create(model="fixed", messages=MESSAGES, stream=stream)
        if stream:
            for _ in answer:
                pass
    return (time.perf_counter() - start) / times * 1e6


async def time_async(client: openai.AsyncOpenAI, times: int, *, stream: bool) -> float:
    """Microseconds per call."""
    start = time.perf_counter()
    for _ in range(times):
        answer: Any = await client.chat.completions.create(model="fixed", messages=MESSAGES, stream=stream)
        if stream:
            async for _ in answer:
                pass
    return (time.perf_counter() - start) / times * 1e6


async def measure(url: str, *, rounds: int, calls: int) -> dict[str, list[float]]:
    """Microseconds per call, by what is measured: one figure per round."""
    samples: dict[str, list[float]] = {}
    competing = contenders(url)
    for contender in competing[2:]:  # what is measured is a routed call
        answer = contender.client.chat.completions.with_raw_response.create(model="fixed", messages=MESSAGES)
        assert answer.headers["x-smartroute-route"] != "global"
    for round_ in range(rounds + 1):  # the first warms up
        for stream, what in ((False, "completion"), (True, "stream of 200 chunks")):
            times = max(calls // 10, 1) if stream else calls
            for contender in competing:
                figures = {
                    f"sync {what}: {contender.name}": time_sync(contender.client, times, stream=stream),
                    f"async {what}: {contender.name}": await time_async(contender.async_client, times, stream=stream),
                }
                for name, figure in figures.items():
                    samples.setdefault(name, []).extend([figure] if round_ else [])
        print(f"\rround {round_} of {rounds}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for contender in competing:
        contender.client.close()
        await contender.async_client.close()
    return samples


def main(*, rounds: int = 15, calls: int = 150, as_json: bool = False) -> None:
    """Print microseconds per call and the ratio to the bare SDK."""
    with fast_server() as url:
        samples = asyncio.run(measure(url, rounds=rounds, calls=calls))
    if as_json:
        print(json.dumps(samples))
        return
    print(f"Python {platform.python_version()}, openai {openai.__version__}")
    print(f"{rounds} rounds of {calls} calls, interleaved")
    print(f"{'':45} {'median us':>10} {'ratio to bare, median (min .. max of the rounds)':>50}")
    for name, figures in sorted(samples.items(), reverse=True):
        bare = samples[name.split(":")[0] + ": bare"]
        ratios = sorted(mine / theirs for mine, theirs in zip(figures, bare, strict=True))
        spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} .. {ratios[-1]:.3f})"
        print(f"{name:45} {statistics.median(figures):10.0f} {spread:>50}")
