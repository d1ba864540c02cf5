"""The tables: the figures to reach, and every contender in every cell."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median

from benchmarks.selection.figures import Reached, behind, reached
from benchmarks.selection.matches import CONTENDERS, ORACLE, Result
from benchmarks.selection.overrides import PACKAGE
from benchmarks.selection.scenarios import CELLS
from benchmarks.tables import table

__all__ = ["as_json", "as_text", "problems"]


def as_text(results: Sequence[Result]) -> str:
    """Everything, for a terminal."""
    parts = [headline(reached(results)), "", everybody(results)]
    if told := behind(results):
        parts += [
            "",
            "Behind the best baseline by more than 5 % (median of the seeds):",
            *(f"  {line}" for line in told),
        ]
    if told := worst(results):
        parts += ["", "Worst off beside the oracle:", *told]
    if told := problems(results):
        parts += ["", *told]
    return "\n".join(parts)


def as_json(results: Sequence[Result]) -> str:
    """The same for programs."""
    figures = [
        {
            "figure": f"{each.figure.title} {each.figure.column}",
            "median": each.median,
            "worst": each.worst,
            "target": each.target,
            "reached": not each.misses(each.median),
        }
        for each in reached(results)
    ]
    document = {
        "figures": figures,
        "behind": behind(results),
        "problems": problems(results),
        "results": [asdict(result) for result in results],
    }
    return json.dumps(document, indent=1)


def headline(figures: Sequence[Reached]) -> str:
    """Median and worst of the seeds beside what is to be reached."""
    rows: list[tuple[str, ...]] = [("smartroute", "at", "median", "worst", "to reach", "")]
    title = ""
    for each in figures:
        figure = each.figure
        values = [f"{value * figure.scale:.{figure.digits}f}" for value in (each.median, each.worst, each.target)]
        mark = "MISSED" if each.misses(each.median) else "the worst seed misses" if each.misses(each.worst) else ""
        named = f"{figure.title}, {figure.unit}" if figure.unit else figure.title
        sign = ">=" if figure.least else "<="
        rows.append(("" if named == title else named, figure.column, *values[:2], f"{sign} {values[2]}", mark))
        title = named
    return table(rows)


def everybody(results: Sequence[Result]) -> str:
    """Regret, and requests more than 2 s worse than the oracle's: each contender in each cell."""
    present = {result.contender for result in results}
    names = [name for name in CONTENDERS if name in present]
    seen = {result.cell for result in results}
    cells = [cell for cell in CELLS if cell in seen]
    parts = []
    measures: list[tuple[str, Callable[[Result], float], int]] = [
        ("mean regret, ms", lambda r: r.regret * 1e3, 1),
        ("> 2 s worse than the oracle, %", lambda r: r.much_worse * 1e2, 3),
        ("failed, %", lambda r: r.failed / r.requests * 1e2, 2),
    ]
    for title, read, digits in measures:
        rows: list[tuple[str, ...]] = [(title, ORACLE, *names)]
        for cell in cells:
            here = [result for result in results if result.cell == cell and result.requests]
            values = [[read(result) for result in here if result.contender == name] for name in (ORACLE, *names)]
            if title.startswith("failed") and not any(map(any, values)):
                continue
            rows.append((cell, *(f"{median(mine):.{digits}f}" if mine else "-" for mine in values)))
        if len(rows) > 1:
            parts.append(table(rows))
    return "\n\n".join(parts)


def worst(results: Sequence[Result]) -> list[str]:
    """What happened to the requests that were worst off, where that was asked for."""
    return [f"  {each.contender}, {each.cell}, seed {each.seed}: {story}" for each in results for story in each.worst]


def problems(results: Sequence[Result]) -> list[str]:
    """What must never happen and did, with the command that does it again."""
    told = []
    for result in results:
        for problem in result.problems:
            command = f"python -m benchmarks selection --only {shlex.quote(result.cell)} --seed {result.seed}"
            command += f" --contender {shlex.quote(result.contender)}"
            for name, value in result.settings:
                setting = f"{name.removeprefix(f'{PACKAGE}.')}={value}"
                command += f" --set {shlex.quote(setting)}"
            told.append(
                f"PROBLEM: {result.contender}, {result.cell}, seed {result.seed}: {problem}\n  again: {command}"
            )
    return told
