"""A long run through everything that can go wrong: is a call lost, does anything stay behind?

Threads and tasks call through the real OpenAI SDK, its own retries off, streamed and not, over httpx2 and httpx,
all with one router. Four regions in a process of their own: the best one flaps through every act of a play, the second
best breaks some answers all the time, the third and the global endpoint are well. So every call can be answered;
only a stream that breaks off after its first content may end in an error.
"""

import asyncio
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle
from typing import Any, NamedTuple

import openai

import smartroute
import smartroute.httpx
import smartroute.httpx2
from benchmarks.tables import table
from smartroute.policy.budget import CAPACITY
from smartroute.testing import (
    CloseAfterAnswer,
    Cut,
    EmptyStream,
    EndWithoutDone,
    ErrorEvent,
    Fault,
    GarbledEvent,
    Gzip,
    Region,
    Reset,
    Silence,
    Status,
)

LATENCIES = {"near": 0.001, "middle": 0.003, "far": 0.006, "global": 0.008}
THREADS, TASKS = 8, 32
ACT = 4.0
"""Seconds of each act."""
ACTS: Sequence[Sequence[Fault] | None] = (  # of the best region; None: it is down
    (),
    None,
    (),
    (Status(503),),
    (),
    (Silence(only="post"),),
    (),
    (Status(429, {"retry-after": "1"}, only="post"),),
    (),
    (Reset(every=2),),
    (),
    (Cut(1, only="post"),),
    (Gzip(every=2, only="post"),),
    (ErrorEvent(1, every=3),),
)
ALWAYS: Sequence[Fault] = (  # of the second best
    Reset(every=353),
    Reset(at="reuse", every=359),
    CloseAfterAnswer(every=31),
    Status(503, only="post", every=337),
    Status(520, only="post", every=367),
    Cut(0, only="post", every=241),
    Cut(1, only="post", reset=True, every=243),
    EmptyStream(every=247),
    ErrorEvent(1, every=271),
    GarbledEvent(1, every=273),
    EndWithoutDone(every=29),
    EndWithoutDone(finish=False, every=401),
    Cut(4, only="stream", every=403),
)
LEAVES = 41
"""Every so many-th caller of a stream leaves after the first content."""
TEXT = " 2 3 4 5"
"""What a region says after its name."""
MESSAGES: list[Any] = [{"role": "user", "content": "Where are you?"}]

LONG_ENOUGH = 10_000
"""Calls from which on memory is judged: what caches and allocators take at first is no leak."""
MOST_PER_CALL = 40.0
"""Bytes of resident memory per call, over the second half. A dictionary or a response left behind would be more."""
SETTLING = 15.0
"""Seconds after which threads and descriptors must be where they began."""


class Level(NamedTuple):
    """How much of everything this process has."""

    resident: int
    blocks: int
    threads: int
    descriptors: int


def level() -> Level:
    """What there is now: bytes, allocated blocks, threads, descriptors."""
    try:
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - each second
            resident = int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:  # no Linux: the most there ever was
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    descriptors = len(os.listdir("/dev/fd"))  # noqa: PTH208 - names are enough
    return Level(resident, sys.getallocatedblocks(), threading.active_count(), descriptors)


class Sample(NamedTuple):
    """The state of things after so many calls."""

    calls: int
    seconds: float
    resident: int
    blocks: int
    threads: int
    descriptors: int
    tasks: int
    in_flight: int
    tokens: float


class Tally:
    """What became of the calls of one thread or task: `answered`, `left`, `interrupted`, `lost` or `wrong`."""

    def __init__(self) -> None:
        self.outcomes = Counter[str]()
        self.routes = Counter[str]()
        self.attempts = Counter[str]()
        self.errors: list[str] = []
        self.slowest: tuple[float, str] = (0.0, "")

    def answered(self, response: Any, text: str | None, seconds: float) -> None:
        """An answer was read to its end. None: the caller left before."""
        journey = response.extensions["smartroute"]
        route = journey.route
        self.routes[route] += 1
        self.attempts[str(len(journey.attempts))] += 1
        if seconds > self.slowest[0]:
            told = (f"{a.endpoint}: {a.detail or a.status} ({a.seconds:.2f} s, {a.reason})" for a in journey.attempts)
            self.slowest = round(seconds, 2), ", ".join(told)
        self.outcomes["left" if text is None else "answered" if text == route + TEXT else "wrong"] += 1

    def failed(self, error: Exception, said: list[str]) -> None:
        """A call ended in an error; once something was said, nobody else could say the rest."""
        interrupted = bool(said) and isinstance(error, openai.APIConnectionError)
        self.outcomes["interrupted" if interrupted else "lost"] += 1
        if not interrupted:
            self.errors.append(repr(error))


class Run:
    """The calls of all threads and tasks."""

    def __init__(self, calls: int) -> None:
        self.turns = iter(range(calls))  # `next` is atomic
        self.seconds = array("d", bytes(8 * calls))
        self.tallies: list[Tally] = []

    @property
    def done(self) -> int:
        """How many calls are over."""
        return sum(tally.outcomes.total() for tally in self.tallies)

    def total(self, what: str) -> Counter[str]:
        """The sum of a counter over all tallies."""
        return sum((getattr(tally, what) for tally in self.tallies), Counter())

    def call(self, sdk: openai.OpenAI) -> None:
        """Call until there are no turns left."""
        tally = Tally()
        self.tallies.append(tally)
        for turn in self.turns:
            began, said = time.perf_counter(), list[str]()
            try:
                raw = sdk.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, stream=turn % 2 == 0)
                answer: Any = raw.parse()
                if turn % 2:
                    said.append(answer.choices[0].message.content)
                else:
                    with answer:
                        for chunk in answer:
                            said += words(chunk)
                            if said and turn % LEAVES == 0:
                                break
                self.seconds[turn] = time.perf_counter() - began
                left = turn % 2 == 0 and turn % LEAVES == 0
                tally.answered(raw.http_response, None if left else "".join(said), self.seconds[turn])
            except Exception as error:  # noqa: BLE001 - whatever it is, it is noted
                self.seconds[turn] = time.perf_counter() - began
                tally.failed(error, said)

    async def acall(self, sdk: openai.AsyncOpenAI) -> None:
        """The same in a task."""
        tally = Tally()
        self.tallies.append(tally)
        for turn in self.turns:
            began, said = time.perf_counter(), list[str]()
            try:
                create = sdk.chat.completions.with_raw_response.create
                raw = await create(model="m", messages=MESSAGES, stream=turn % 2 == 0)
                answer: Any = raw.parse()
                if turn % 2:
                    said.append(answer.choices[0].message.content)
                else:
                    async with answer:
                        async for chunk in answer:
                            said += words(chunk)
                            if said and turn % LEAVES == 0:
                                break
                self.seconds[turn] = time.perf_counter() - began
                left = turn % 2 == 0 and turn % LEAVES == 0
                tally.answered(raw.http_response, None if left else "".join(said), self.seconds[turn])
            except Exception as error:  # noqa: BLE001 - whatever it is, it is noted
                self.seconds[turn] = time.perf_counter() - began
                tally.failed(error, said)


def words(chunk: Any) -> list[str]:
    """What a chunk of a stream says."""
    return [choice.delta.content for choice in chunk.choices if choice.delta.content]


async def soak(calls: int, urls: dict[str, str]) -> tuple[Run, list[Sample], list[str]]:
    """Make all calls; also what was found wrong with the clients' state at the end."""
    run, samples = Run(calls), list[Sample]()
    config = smartroute.Config(
        routes=[smartroute.Route(url, name=name) for name, url in urls.items() if name != "global"],
        api_key="fake-direct-key",
        global_url=urls["global"],
    )
    options: dict[str, Any] = {"base_url": urls["global"], "api_key": "fake-console-key"}
    options |= {"max_retries": 0, "timeout": 30}
    clients: list[Any] = [smartroute.httpx2.Client(config), smartroute.httpx.Client(config)]
    aclients: list[Any] = [smartroute.httpx2.AsyncClient(config), smartroute.httpx.AsyncClient(config)]
    router = clients[0].router  # of all four: their configurations are equal
    began = time.monotonic()

    def sample() -> None:
        now, in_flight = level(), sum(route.in_flight for route in router.status())
        tokens = round(router._replays.tokens, 1)  # noqa: SLF001 - nobody else needs to know
        tasks = len(asyncio.all_tasks())
        samples.append(Sample(run.done, round(time.monotonic() - began, 1), *now, tasks, in_flight, tokens))

    sdks = [openai.OpenAI(http_client=client, **options) for client in clients]
    asdks = [openai.AsyncOpenAI(http_client=client, **options) for client in aclients]
    threads = [threading.Thread(target=run.call, args=(sdks[n % 2],), name=f"soak-{n}") for n in range(THREADS)]
    for thread in threads:
        thread.start()
    tasks = [asyncio.create_task(run.acall(asdks[n % 2])) for n in range(TASKS)]
    while any(thread.is_alive() for thread in threads) or not all(task.done() for task in tasks):
        if not samples or run.done - samples[-1].calls >= calls / 200 or run.done == calls:
            sample()
            pace = run.done / max(time.monotonic() - began, 1)
            print(f"\r{run.done:,} of {calls:,} calls, {pace:.0f}/s ", end="", file=sys.stderr, flush=True)
        await asyncio.sleep(0.2)
    print(file=sys.stderr)
    await asyncio.gather(*tasks)
    wrong = [f"{route.name} has {route.in_flight} in flight" for route in router.status() if route.in_flight]
    for client in clients:
        client.close()
    for aclient in aclients:
        await aclient.aclose()
    until = time.monotonic() + SETTLING
    while len(left := asyncio.all_tasks()) > 1 and time.monotonic() < until:  # noqa: ASYNC110 - who could set it?
        await asyncio.sleep(0.05)
    return run, samples, wrong + [f"left: {task}" for task in left if task is not asyncio.current_task()]


def slope(samples: Sequence[Sample], what: str) -> float:
    """How much of it each call of the second half added."""
    half = [sample for sample in samples if sample.calls >= samples[-1].calls / 2]
    return statistics.linear_regression([s.calls for s in half], [getattr(s, what) for s in half]).slope


def judge(calls: int, outcomes: Counter[str], samples: Sequence[Sample], before: Level, after: Level) -> list[str]:
    """What is not as it should be."""
    problems = [f"{outcomes[what]} calls {what}" for what in ("lost", "wrong") if outcomes[what]]
    if outcomes.total() != calls:
        problems.append(f"{outcomes.total()} of {calls} calls came to an end")
    if calls >= LONG_ENOUGH and (growth := slope(samples, "resident")) > MOST_PER_CALL:
        problems.append(f"memory grows by {growth:.0f} bytes per call")
    if (before.threads, before.descriptors) != (after.threads, after.descriptors):
        problems.append(f"threads, descriptors: {before[2:]} before, {after[2:]} after")
    if not all(0 <= sample.tokens <= CAPACITY for sample in samples):
        problems.append("the budget was overdrawn")
    return problems


def measure(calls: int) -> dict[str, Any]:
    """Make a run and judge it: `problems` is empty if it was good."""
    gc.collect()
    before = level()
    with regions() as urls:
        began = time.monotonic()
        run, samples, problems = asyncio.run(soak(calls, urls))
        took = time.monotonic() - began
    gc.collect()
    until = time.monotonic() + SETTLING
    while (after := level())[2:] != before[2:] and time.monotonic() < until:
        time.sleep(0.05)
    outcomes, ordered = run.total("outcomes"), sorted(run.seconds)
    return {
        "calls": calls,
        "seconds": round(took, 1),
        "outcomes": dict(outcomes.most_common()),
        "routes": dict(run.total("routes").most_common()),
        "attempts": dict(sorted(run.total("attempts").items())),
        "milliseconds": {
            name: round(ordered[min(int(share * calls), calls - 1)] * 1e3, 1)
            for name, share in {"median": 0.5, "99 %": 0.99, "99.9 %": 0.999, "slowest": 1.0}.items()
        },
        "per_call": {what: round(slope(samples, what), 2) for what in ("resident", "blocks") if calls >= LONG_ENOUGH},
        "before": before._asdict(),
        "after": after._asdict(),
        "samples": [sample._asdict() for sample in samples],
        "slowest": sorted((tally.slowest for tally in run.tallies), reverse=True)[:5],
        "errors": [error for tally in run.tallies for error in tally.errors][:20],
        "problems": problems + judge(calls, outcomes, samples, before, after),
    }


def show(result: dict[str, Any]) -> None:
    """Print what was measured."""
    print(f"{result['calls']:,} calls in {result['seconds']:.0f} s, {THREADS} threads and {TASKS} tasks")
    for what in ("outcomes", "routes", "attempts", "milliseconds"):
        print(f"{what}: " + ", ".join(f"{name} {count:,}" for name, count in result[what].items()))
    samples = result["samples"]
    rows = [["calls", "seconds", "resident MB", "blocks", "threads", "descriptors", "tasks", "in flight", "tokens"]]
    for each in [samples[len(samples) * n // 10] for n in range(min(10, len(samples)))] + samples[-1:]:
        cells = [f"{each['calls']:,}", f"{each['seconds']:.0f}", f"{each['resident'] / 1e6:.1f}", f"{each['blocks']:,}"]
        rows.append(cells + [str(each[name]) for name in ("threads", "descriptors", "tasks", "in_flight", "tokens")])
    print(table(rows))
    for seconds, journey in result["slowest"]:
        print(f"{seconds:.2f} s: {journey}")
    for what, value in result["per_call"].items():
        print(f"each call of the second half added {value} to {what}")
    for when in ("before", "after"):
        print(f"{when}: {result[when]['threads']} threads, {result[when]['descriptors']} descriptors")
    for problem in (*result["problems"], *result["errors"]):
        print(f"PROBLEM: {problem}")
    if result["calls"] < LONG_ENOUGH:
        print(f"Memory is judged from {LONG_ENOUGH:,} calls on; a whole round of the acts takes a minute.")
    if not result["problems"]:
        print("Nothing was lost, nothing was wrong, nothing stayed behind.")


def main(*, calls: int = 100_000, as_json: bool = False) -> bool:
    """Make a run and print it; True if nothing was lost and nothing stayed behind."""
    result = measure(calls)
    if as_json:
        print(json.dumps(result))
    else:
        show(result)
    return not result["problems"]


# --- the regions' process ------------------------------------------------------------------------------


@contextmanager
def regions() -> Iterator[dict[str, str]]:
    """The regions, while they are needed; gives their base URLs."""
    command = [sys.executable, "-m", "benchmarks.soak"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()


def perform() -> None:
    """Play the acts, one after the other, until standard input closes."""
    over = threading.Event()
    with ExitStack() as stack:
        each = {
            name: stack.enter_context(
                Region(name, latency=seconds, prefix="/inference/v1" if name == "global" else "/v1")
            )
            for name, seconds in LATENCIES.items()
        }
        print(json.dumps({name: region.url for name, region in each.items()}), flush=True)

        def wait_for_the_end() -> None:
            sys.stdin.read()
            over.set()

        threading.Thread(target=wait_for_the_end, daemon=True).start()
        each["middle"].set(*ALWAYS)
        near = each["near"]
        for act in cycle(ACTS):
            near.heal()
            if act is None:
                near.stop()
            else:
                near.start()
                near.set(*act)
            for region in each.values():
                region._seen.clear()  # noqa: SLF001 - they remember every request
            if over.wait(ACT):
                break


if __name__ == "__main__":
    perform()
