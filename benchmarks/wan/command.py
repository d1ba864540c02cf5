"""`python -m benchmarks wan`."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from benchmarks.machine import describe, note
from benchmarks.wan.network import why_not
from benchmarks.wan.report import draw, report
from benchmarks.wan.scenes import FAULTS, ORDERS, PACES, Series, first_calls, in_fault, steady
from benchmarks.wan.worker import CONTENDERS, LITELLM
from benchmarks.wan.world import LITELLM_PYTHON, World

__all__ = ["add_arguments", "main"]

CALLS = {"1 per 12 s": 15, "1 per s": 200, "5 per s": 200, "20 per s": 200}
QUICK_CALLS = {"1 per 12 s": 3, "1 per s": 20, "5 per s": 40, "20 per s": 40}
PROCESSES, QUICK_PROCESSES = 6, 2
"""Whose first calls are timed, for each order of the regions."""
FAULT, QUICK_FAULT = 20.0, 8.0
"""Seconds that a fault lasts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    scenes = [*PACES, *(f"first call, {order}" for order in ORDERS), *FAULTS]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "scenes:\n" + "\n".join(f"  {name}" for name in scenes)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer calls: about 3 minutes, and percentiles to match")
    add("--only", action="append", metavar="TEXT", help="scenes with this in their name; repeatable")
    add("--json", dest="file", metavar="FILE", help="write every call there")
    add("--svg", metavar="PATH", help="draw it (needs matplotlib: pip install --group bench)")


def main(given: argparse.Namespace) -> int:
    """Play what was asked for; 1 if a figure was missed, 2 for a mistake in the arguments."""
    if lacking := why_not():
        print(f"SKIPPED, nothing was measured: {lacking}", file=sys.stderr)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # like Ctrl-C: nothing is left behind
    names, machine = list(CONTENDERS), note()
    if not LITELLM_PYTHON.exists():
        print("SKIPPED: LiteLLM; `make .venvs/litellm/.installed` installs it", file=sys.stderr)
        names.remove(LITELLM)
    with World(len(CONTENDERS)) as world:
        if not world.has_envoy:
            print("NO ENVOY: the global endpoint answers itself; `make .venvs/envoy/.installed`", file=sys.stderr)
        played = _play(world, names, given)
    if not played:
        print("no such scene; --help lists them", file=sys.stderr)
        return 2
    if given.file:
        found = {"machine": machine, "series": [asdict(series) for series in played]}
        Path(given.file).write_text(json.dumps(found, indent=1) + "\n")
    print(describe(machine))
    reached = report(played)
    if given.svg:
        draw(played, given.svg)
    return 0 if reached else 1


def _play(world: World, names: list[str], given: argparse.Namespace) -> list[Series]:
    calls = QUICK_CALLS if given.quick else CALLS
    processes = QUICK_PROCESSES if given.quick else PROCESSES
    seconds = QUICK_FAULT if given.quick else FAULT
    scenes: dict[str, Callable[[], list[Series]]] = {
        **{pace: partial(steady, world, names, pace, calls[pace]) for pace in PACES},
        **{f"first call, {order}": partial(first_calls, world, names, order, processes) for order in ORDERS},
        **{fault: partial(in_fault, world, names, fault, seconds) for fault in FAULTS},
    }
    played: list[Series] = []
    for scene, play in scenes.items():
        if not given.only or any(text in scene for text in given.only):
            began = time.monotonic()
            played += play()
            print(f"{scene}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return played
