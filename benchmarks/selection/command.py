"""`python -m benchmarks selection`: the arguments, and what is done with them."""

import argparse
import os
import sys

from benchmarks.selection import ablations, report
from benchmarks.selection.matches import CONTENDERS, Match
from benchmarks.selection.overrides import parse
from benchmarks.selection.runs import run
from benchmarks.selection.scenarios import CELLS, RATES

__all__ = ["add_arguments", "main"]

QUICK = 0.25
"""The share of the usual time that `--quick` plays."""

EPILOG = """\
examples:
  python -m benchmarks selection                                  everything (about 5 minutes on two cores)
  python -m benchmarks selection --quick                          a rough picture in half a minute
  python -m benchmarks selection --only headline                  the cells that the figures to reach speak of
  python -m benchmarks selection --only blackhole --rate 1/s      one cell
  python -m benchmarks selection --only 'flapping 1/s' --seed 7   one seed again, exactly
  python -m benchmarks selection --contender smartroute           without the baselines
  python -m benchmarks selection --contender smartroute --only 'blackhole 1/s' --worst 3
                                                                  and why it lost time
  python -m benchmarks selection --set policy.latency.MEMORY=600.0
                                                                  with another value of a constant
  python -m benchmarks selection ablate                           what each mechanism is worth
  python -m benchmarks selection --svg docs                       the pictures of the docs (needs matplotlib)

cells:
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG + "\n".join(f"  {cell.key:22} {cell.title}" for cell in CELLS.values())
    add = parser.add_argument
    names = "one of: " + ", ".join(CONTENDERS).replace("%", "%%") + "; repeatable"
    add("what", nargs="?", choices=["table", "ablate"], default="table", help="the tables, or the ablations")
    add("--seeds", type=int, default=10, metavar="N", help="seeds 1 to N (default: 10)")
    add("--seed", type=int, metavar="N", help="this seed only")
    add("--only", action="append", metavar="CELL", help="a cell, a kind of cell, or 'headline'; repeatable")
    add("--rate", choices=RATES, help="cells of this rate only")
    add("--contender", action="append", choices=CONTENDERS, metavar="NAME", help=names)
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="another value for a constant of smartroute")
    add("--quick", action="store_true", help="three seeds, a quarter of the time")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one for each core)")
    add("--worst", type=int, default=0, metavar="N", help="tell what happened to the N requests that were worst off")
    add("--svg", metavar="DIR", help="draw the pictures of the docs there instead")
    add("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON instead of tables")


def main(given: argparse.Namespace) -> int:
    """Do what was asked; 1 if something happened that must never happen, 2 for a mistake in the arguments."""
    seeds = [given.seed] if given.seed is not None else range(1, (3 if given.quick else given.seeds) + 1)
    shorter = QUICK if given.quick else 1.0
    try:
        settings = tuple(map(parse, given.set))
        if given.what == "ablate":
            matches = ablations.matches_of(seeds, shorter=shorter)
        else:
            contenders = tuple(given.contender or CONTENDERS)
            cells = _cells(given.only, given.rate)
            matches = [
                Match(cell, seed, contenders, shorter, settings, given.worst) for cell in cells for seed in seeds
            ]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if given.svg is not None:
        from benchmarks.selection import plots  # noqa: PLC0415 - matplotlib is wanted for pictures only

        plots.draw_all(given.svg, seed=given.seed or 1, settings=settings)
        return 0
    results = run(matches, jobs=given.jobs)
    if given.json:
        print(report.as_json(results))
    else:
        print(ablations.show(results) if given.what == "ablate" else report.as_text(results))
    problems = report.problems(results)
    if given.what == "ablate" and problems and not given.json:
        print("", *problems, sep="\n")
    return 1 if problems else 0


def _cells(only: list[str] | None, rate: str | None) -> list[str]:
    chosen = [
        cell
        for cell in CELLS.values()
        if rate in (None, cell.rate)
        and (only is None or cell.name in only or cell.key in only or (cell.headline and "headline" in only))
    ]
    if not chosen:
        raise ValueError(f"no such cell; there are: {', '.join(CELLS)}")
    return [cell.key for cell in chosen]
