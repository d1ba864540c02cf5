"""The command line of what is measured side by side: `python -m benchmarks overhead`, `throughput` and so on."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import footprint, growth, overhead, plots, streams, throughput
from benchmarks.machine import describe

__all__ = ["BENCHMARKS", "add_parsers", "main"]


class Benchmark(NamedTuple):
    """One of them.

    Attributes:
        options: the keyword arguments of `measure` that the command line can give, besides `quick`.
        measure: gives a result, which JSON can hold.
        tables: that for people.
        draw: a result and a path; None: there is no plot.
    """

    help: str
    options: tuple[str, ...]
    measure: Callable[..., dict[str, Any]]
    tables: Callable[[dict[str, Any]], str]
    draw: Callable[[dict[str, Any], str], None] | None = None


BENCHMARKS = {
    "overhead": Benchmark(
        "what a call costs beside the bare SDK, and beside others (about 8 minutes)",
        ("rounds", "sessions"),
        overhead.measure,
        overhead.tables,
        plots.overhead,
    ),
    "throughput": Benchmark(
        "requests a second, 1 to 1,024 in flight, on each backend (about 6 minutes)",
        ("rounds", "sessions"),
        throughput.measure,
        throughput.tables,
        plots.throughput,
    ),
    "streams": Benchmark(
        "connections made, and memory of 1,000 open streams (about 3 minutes)",
        ("rounds", "streams"),
        streams.measure,
        streams.tables,
    ),
    "footprint": Benchmark(
        "importing, making a client, bytes, probing (about 2 minutes)",
        ("rounds",),
        footprint.measure,
        footprint.tables,
    ),
    "growth": Benchmark(
        "how costs grow, with everything that can grow (about 6 minutes)",
        ("rounds", "sessions"),
        growth.measure,
        growth.tables,
        plots.growth,
    ),
}


def add_parsers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """A command for each."""
    for name, benchmark in BENCHMARKS.items():
        command = commands.add_parser(name, help=benchmark.help)
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON instead")
        command.add_argument("--quick", action="store_true", help="a few calls of each kind: does it run?")
        for option in benchmark.options:
            command.add_argument(f"--{option}", type=int, metavar="N", help="how many; by default as the docs have it")
        command.add_argument("--read", metavar="FILE", help="show what --json printed earlier; measure nothing")
        if benchmark.draw is not None:
            command.add_argument("--svg", metavar="PATH", help="draw it (needs matplotlib: pip install --group bench)")


def main(given: argparse.Namespace) -> int:
    """Measure and show."""
    benchmark = BENCHMARKS[given.name]
    if given.read is not None:
        result = json.loads(Path(given.read).read_text("utf-8"))
    else:
        options = dict.fromkeys({"rounds", "sessions"} & {*benchmark.options}, 1) if given.quick else {}
        options |= {name: getattr(given, name) for name in benchmark.options if getattr(given, name) is not None}
        result = benchmark.measure(quick=given.quick, **options)
    print(json.dumps(result) if given.json else f"{describe(result['machine'])}\n\n{benchmark.tables(result)}")
    if benchmark.draw is not None and given.svg is not None:
        benchmark.draw(result, given.svg)
    return 0
