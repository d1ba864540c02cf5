"""A process that plays cells: each line that it reads names one, each line that it prints tells what came of it."""

import asyncio
import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict

from benchmarks.chaos.clients import KINDS
from benchmarks.chaos.engine import play
from benchmarks.chaos.faults import CASES
from benchmarks.chaos.network import Network

__all__ = ["MOST_AT_ONCE"]

MOST_AT_ONCE = 64
"""Calls of sync clients that are made at once: each needs a thread."""


async def _work(network: Network | None) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(MOST_AT_ONCE))
    while line := await asyncio.to_thread(sys.stdin.readline):
        cell = json.loads(line)
        case, kind = CASES[cell.pop("case")], KINDS[cell.pop("kind")]
        result = await play(case, kind, network=network, **cell)
        print(json.dumps(asdict(result)), flush=True)


def main() -> None:
    """Play until there is nothing more to play. With the argument `isolated` it has a network of its own."""
    logging.getLogger("smartroute").setLevel(logging.ERROR)  # of what is done to it here it warns, and rightly
    with ExitStack() as stack:
        network = stack.enter_context(Network()) if "isolated" in sys.argv[1:] else None
        asyncio.run(_work(network))


if __name__ == "__main__":
    main()
    os._exit(0)  # not waiting for threads in which a resolver hangs
