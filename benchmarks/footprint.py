"""What smartroute takes besides requests: importing it, making a client, memory, probing."""

import asyncio
import gc
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import smartroute
from benchmarks import machine
from benchmarks.choosing import CALL, measured_router
from benchmarks.figures import summary
from benchmarks.overhead import LITELLM
from benchmarks.servers import ROOT, fast_server, nginx
from benchmarks.tables import table
from benchmarks.workers import say
from smartroute import events
from smartroute.policy.messages import Answered, Call, Send
from smartroute.router import Router

__all__ = ["measure", "tables"]

OPENAI = "import openai"
CLIENT = "openai.OpenAI(api_key='fake', base_url='https://global.example/v1')"
OURS = "openai.OpenAI(api_key='fake', base_url='https://global.example/v1', http_client=smartroute.Client())"
ENVIRONMENT = {
    "SMARTROUTE_ROUTES": "a=https://a.example/v1 b=https://b.example/v1 c=https://c.example/v1",
    "SMARTROUTE_API_KEY": "fake-direct-key",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
IMPORTED, MADE = "import openai", "import openai, make a client"
STARTS = {
    IMPORTED: OPENAI,
    "import openai, again": OPENAI,
    "import openai and smartroute": f"{OPENAI}, smartroute",
    MADE: f"{OPENAI}; {CLIENT}",
    "import both, make a client of smartroute's": f"{OPENAI}, smartroute; {OURS}",
    "the same, and load the certificates": f"{OPENAI}, smartroute; {OURS}; import httpx2; httpx2.create_ssl_context()",
}
"""The SDK's own client loads the certificates when it is made, ours with the first route that has a certificate."""
BASES = {
    "import openai, again": IMPORTED,
    "import openai and smartroute": IMPORTED,
    "import both, make a client of smartroute's": MADE,
    "the same, and load the certificates": MADE,
    "import litellm (its environment)": IMPORTED,
}
TIMED = """
import time
wall, cpu = time.perf_counter(), time.process_time()
{}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def start(code: str, python: str = sys.executable) -> tuple[float, float]:
    """Seconds that a fresh interpreter takes for this: by the clock, and of CPU."""
    theirs = ("SMARTROUTE_", "PYTHONDONTWRITEBYTECODE")  # compiling each time would be all that is measured
    environ = {key: value for key, value in os.environ.items() if not key.startswith(theirs)} | ENVIRONMENT
    command = [python, "-c", TIMED.format(code)]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True)
    wall, cpu = done.stdout.split()[-2:]
    return float(wall), float(cpu)


def starts(rounds: int, *, quick: bool = False) -> dict[str, dict[str, list[float]]]:
    """Every way to start, interleaved; `quick`: the first three."""
    codes = {name: (code, sys.executable) for name, code in STARTS.items()}
    if quick:
        codes = dict([*codes.items()][:3])
    elif LITELLM.python.exists():
        codes["import litellm (its environment)"] = ("import litellm", str(LITELLM.python))
    order, chance = list(codes), random.Random(1)
    found: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in codes}
    for round_ in range(rounds + 1):  # the first compiles what is not compiled yet
        chance.shuffle(order)
        for name in order:
            wall, cpu = start(*codes[name])
            if round_:
                found[name]["wall"].append(wall)
                found[name]["cpu"].append(cpu)
        say(f"\rstarting, round {round_} of {rounds} ")
    say("\n")
    return found


@contextmanager
def weighed(what: list[int]) -> Iterator[None]:
    """Appends the bytes of Python's objects that are made meanwhile and stay."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        gc.collect()
        what.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()


def converse(router: Router, number: int) -> None:
    """A request of a conversation of its own, answered."""
    exchange = router.begin(Call(CALL.path, CALL.model, streaming=False, size=2_000, conversation=f"talk-{number}"))
    assert exchange is not None
    now = router.clock()
    command = exchange.start(now)
    attempt = command.attempt if isinstance(command, Send) else exchange.attempts[0]
    attempt.depart(now, reused=True)
    exchange.feed(Answered(attempt, 200, None, event_stream=False, encoded=False), now + 0.05)
    exchange.settle(attempt, "complete", now + 0.06)
    router.finish(exchange, "answered")


def memory(routes: int, conversations: int) -> dict[str, float]:
    """Bytes per route that is known, and per conversation that is remembered."""
    measured_router(3)  # what is made once is made
    sizes: list[int] = []
    for count in (10, 10 + routes):
        with weighed(sizes):
            kept = measured_router(count)
        del kept
    router = measured_router(3)
    converse(router, -1)
    with weighed(sizes):
        for number in range(conversations):
            converse(router, number)
    return {"route": (sizes[1] - sizes[0]) / routes, "conversation": sizes[2] / conversations}


class Count:
    """A listener that counts probes."""

    def __init__(self) -> None:
        self.answered = self.failed = 0

    def __call__(self, event: events.Event, /) -> None:
        if isinstance(event, events.ProbeEnded):
            if event.failure is None:
                self.answered += 1
            else:
                self.failed += 1


def probing(origin: str, routes: int, seconds: float, *, is_async: bool) -> dict[str, float]:
    """Probes per second, and seconds of CPU for each, of a client that does nothing else.

    So many routes, each to be probed every 0.1 s: what is asked for is ten times their number a second.
    """
    config = smartroute.Config(
        routes=[smartroute.Route(f"{origin}/r{n}/v1", name=f"r{n}") for n in range(routes)],
        api_key="fake-direct-key",
        probe_interval=0.1,
    )
    router, count = Router(config), Count()
    path, asked = f"{origin}/r0/v1/chat/completions", {"model": "fixed", "messages": []}

    async def probe_async() -> tuple[float, float]:
        async with smartroute.AsyncClient(router=router) as client:
            await client.post(path, json=asked)
            await asyncio.sleep(1)
            router.subscribe(count)
            began = time.perf_counter(), time.process_time()
            await asyncio.sleep(seconds)
            return time.perf_counter() - began[0], time.process_time() - began[1]

    def probe() -> tuple[float, float]:
        with smartroute.Client(router=router) as client:
            client.post(path, json=asked)
            time.sleep(1)
            router.subscribe(count)
            began = time.perf_counter(), time.process_time()
            time.sleep(seconds)
            return time.perf_counter() - began[0], time.process_time() - began[1]

    try:
        wall, cpu = asyncio.run(probe_async()) if is_async else probe()
        done = count.answered
    finally:
        router.close()
    return {"asked": routes * 10, "rate": done / wall, "cpu": cpu / max(done, 1), "failed": count.failed}


def measure(*, rounds: int = 15, quick: bool = False) -> dict[str, Any]:
    """Everything."""
    about = machine.note()
    sizes = memory(100, 100) if quick else memory(1_000, 5_000)
    probes: dict[str, dict[str, float]] = {}
    with nginx() as web, fast_server() as other:
        origin = web or other
        for routes in (3,) if quick else (3, 30, 100):
            for is_async in (False, True):
                name = f"{'async' if is_async else 'sync'}, {routes} routes"
                probes[name] = probing(origin, routes, 0.5 if quick else 3.0, is_async=is_async)
    return {
        "machine": about,
        "rounds": rounds,
        "starts": starts(rounds, quick=quick),
        "memory": sizes,
        "probing": probes,
    }


def tables(result: dict[str, Any]) -> str:
    """One for each part."""
    first = [(f"fresh interpreters, {result['rounds']} rounds", "ms", "more", "CPU ms", "more")]
    for name, found in result["starts"].items():
        base = result["starts"].get(BASES.get(name, ""))
        cells: list[str] = []
        for key in ("wall", "cpu"):
            cells.append(f"{summary(found[key]).median * 1e3:.0f}")
            cells.append("" if base is None else _more(found[key], base[key]))
        first.append((name, cells[0], cells[1], cells[2], cells[3]))
    sizes = result["memory"]
    second = [("remembered", "bytes each")]
    second += [(f"a {name}", f"{sizes[name]:,.0f}") for name in ("route", "conversation")]
    third = [("probing every 0.1 s", "probes/s asked for", "probes/s made", "failed", "CPU us each")]
    for name, found in result["probing"].items():
        rate, cpu = f"{found['rate']:,.0f}", f"{found['cpu'] * 1e6:,.0f}"
        third.append((name, f"{found['asked']:,}", rate, f"{found['failed']:.0f}", cpu))
    return "\n\n".join(table(rows) for rows in (first, second, third))


def _more(mine: list[float], theirs: list[float]) -> str:
    more = summary([(one - other) * 1e3 for one, other in zip(mine, theirs, strict=True)])
    return f"{more.median:+.1f} ({more.low:+.1f} .. {more.high:+.1f})"
