"""What streams take: connections made for 100 of them, and memory while 1,000 are held open."""

import urllib.request
from collections.abc import Sequence
from typing import Any

from benchmarks import machine
from benchmarks.figures import summary
from benchmarks.overhead import LITELLM, OURS, PRIORITY
from benchmarks.servers import fast_server
from benchmarks.tables import table
from benchmarks.throughput import BACKENDS, ON_AIOHTTP
from benchmarks.workers import BARE, KEPT, Contender, FailedError, Worker, say

__all__ = ["held", "measure", "tables"]

CALLS = 100
CALLING = (BARE, KEPT, OURS, LITELLM, PRIORITY)
HOLDING = (BARE, ON_AIOHTTP, *BACKENDS)


def connections(contender: Contender, mode: str, calls: int) -> int:
    """How many connections the server saw while so many streams were read, one after the other."""
    with fast_server() as origin:
        worker = Worker(contender)
        try:
            worker.do({"do": mode, "origin": origin, "chunks": 20, "times": calls - 1})  # it makes one more to warm up
        finally:
            worker.close()
        with urllib.request.urlopen(f"{origin}/connections") as answer:  # noqa: S310 - ours
            return int(answer.read()) - 1


def held(contender: Contender, count: int, *, traced: bool) -> float:
    """Bytes for each of so many open streams, in a fresh process; see `benchmarks.contender`."""
    with fast_server() as origin:
        worker = Worker(contender)
        try:
            return worker.do({"do": "hold", "origin": origin, "count": count, "traced": traced})["bytes"]
        finally:
            worker.close()


def measure(*, rounds: int = 5, streams: int = 1_000, quick: bool = False) -> dict[str, Any]:
    """Connections by contender, sync and async; bytes per stream, of the process and of Python's objects."""
    about, remarks = machine.note(), []
    made: dict[str, dict[str, int]] = {}
    memory: dict[str, dict[str, list[float]]] = {}
    calling: Sequence[Contender] = CALLING
    holding: Sequence[Contender] = HOLDING
    calls = CALLS
    if quick:
        calling, holding, calls, rounds, streams = (OURS,), (BARE, BACKENDS[0]), 5, 1, 20
    for each in calling:
        for mode in ("sync", "async"):
            if each.python.exists():
                made.setdefault(each.name, {})[mode] = connections(each, mode, calls)
            elif mode == "sync":
                remarks.append(f"Left out: {each.name}: .venvs/{each.environment} is missing")
    for round_ in range(rounds):
        for each in holding:
            try:
                found = memory.setdefault(each.name, {"process": [], "objects": []})
                found["process"].append(held(each, streams, traced=False))
                if round_ == 0:
                    found["objects"].append(held(each, streams, traced=True))
            except FailedError as error:
                memory.pop(each.name)
                remarks.append(f"Left out: {each.name}: {error}")
        say(f"\rround {round_ + 1} of {rounds} ")
    say("".join(f"\n{remark}" for remark in remarks) + "\n")
    return {
        "machine": about,
        "remarks": remarks,
        "calls": calls,
        "connections": made,
        "streams": streams,
        "memory": memory,
    }


def tables(result: dict[str, Any]) -> str:
    """One for each part."""
    first = [(f"connections made for {result['calls']} streamed calls", "sync", "async")]
    first += [(name, str(by["sync"]), str(by["async"])) for name, by in result["connections"].items()]
    second = [(f"{result['streams']:,} streams held open, kB each", "process", "more", "Python's objects", "more")]
    bare = result["memory"][BARE.name]
    for name, by in result["memory"].items():
        row = [name]
        for key in ("process", "objects"):
            mine, theirs = summary(by[key]).median, summary(bare[key]).median
            row += [f"{mine / 1e3:.1f}", "" if name == BARE.name else f"{(mine - theirs) / 1e3:+.1f}"]
        second.append((row[0], row[1], row[2], row[3], row[4]))
    return "\n\n".join([*result["remarks"], table(first), table(second)])
