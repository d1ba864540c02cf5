"""The main job, measured: the best route is used, its death loses nothing, its return is noticed.

Three routes at 20, 60 and 140 ms and a global endpoint at 90 ms on localhost, sequential streamed calls
through the real OpenAI SDK with its own retries off.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from importlib import import_module
from typing import Any

import openai

import smartroute
from smartroute.testing import Region

MESSAGES: list[Any] = [{"role": "user", "content": "Say something."}]
LATENCIES = {"near": 0.020, "middle": 0.060, "far": 0.140}


async def measure(family: str, *, synchronous: bool, calls: int) -> dict[str, Any]:
    """Run the three acts with one kind of client."""
    with ExitStack() as stack:
        regions = {name: stack.enter_context(Region(name, latency=s)) for name, s in LATENCIES.items()}
        world = stack.enter_context(Region("global", latency=0.090, prefix="/inference/v1"))
        config = smartroute.Config(
            routes=[smartroute.Route(region.url, name=name) for name, region in regions.items()],
            api_key="fake-direct-key",
            global_url=world.url,
        )
        module = import_module(f"smartroute.{family}")
        options: dict[str, Any] = {"base_url": world.url, "api_key": "fake-console-key", "max_retries": 0}
        aclient: openai.AsyncOpenAI | None = None
        call: Callable[[], Awaitable[str]]
        if synchronous:
            client = openai.OpenAI(**options, http_client=module.Client(config))
            stack.callback(client.close)

            async def call() -> str:
                answer = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, stream=True)
                text = "".join(c.choices[0].delta.content or "" for c in answer.parse() if c.choices)
                return f"{answer.headers['x-smartroute-route']}|{text}"
        else:
            aclient = openai.AsyncOpenAI(**options, http_client=module.AsyncClient(config))
            completions = aclient.chat.completions

            async def call() -> str:
                answer = await completions.with_raw_response.create(model="m", messages=MESSAGES, stream=True)
                parts = [c.choices[0].delta.content or "" async for c in answer.parse() if c.choices]
                return f"{answer.headers['x-smartroute-route']}|{''.join(parts)}"

        steady, lost = Counter[str](), 0

        async def once() -> str:
            nonlocal lost
            try:
                route, _, text = (await call()).partition("|")
            except openai.OpenAIError:
                lost += 1
                return "lost"
            return route if text.startswith(route) else "mixed up"

        first = await once()
        steady[first] += 1
        for _ in range(calls - 1):
            steady[await once()] += 1
        regions["near"].stop()
        killed = Counter([await once() for _ in range(calls // 3)])
        regions["near"].start()
        healed, back = time.monotonic(), None
        while back is None and time.monotonic() - healed < 60:
            if await once() == "near":
                back = time.monotonic() - healed
        if aclient is not None:
            await aclient.close()
    return {
        "client": f"{'sync' if synchronous else 'async'} {family}",
        "first": first,
        "steady": dict(steady),
        "killed": dict(killed),
        "lost": lost,
        "back_after_seconds": back and round(back, 2),
    }


def main(*, calls: int = 300, as_json: bool = False) -> bool:
    """Print what was measured; True if every figure was reached."""
    good = True
    for family in ("httpx2", "httpx"):
        for synchronous in (True, False):
            result = asyncio.run(measure(family, synchronous=synchronous, calls=calls))
            reached = (
                result["steady"].get("near", 0) >= calls * 0.99
                and not result["lost"]
                and result["back_after_seconds"] is not None
                and result["back_after_seconds"] <= 30
            )
            good = good and reached
            if as_json:
                print(json.dumps(result))
            else:
                print(f"{'reached' if reached else 'MISSED ':8} {result}", flush=True)
    return good
