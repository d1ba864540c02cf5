"""What the dashboard shows of a bad day, as a picture: drawn from Prometheus' answers, and not by Grafana."""

from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import matplotlib as mpl  # type: ignore[import-not-found,unused-ignore]

from tests.backends.bad_day import Act
from tests.backends.dashboard import panels, queries

__all__ = ["Series", "draw"]

Series = tuple[dict[str, str], dict[float, float]]
"""Labels, and values by time."""
Shown = Sequence[tuple[str, dict[float, float]]]
"""Legends, and values by seconds since the beginning."""

TIMELINE = "State of each route"
SHARES = "Share of answered calls"
DRAWN = (
    TIMELINE,
    SHARES,
    "First token, as callers wait for it",
    "Calls by outcome",
    "Failed attempts",
    "Second attempts, and what global answered",
    "Breaker transitions",
    "Budget",
)
"""The panels that tell most of such a day."""
LANES = ("tokyo", "virginia", "frankfurt")
"""The routes of the timeline, from below."""
COLOURS = {
    "frankfurt": "#2a9d5c",
    "virginia": "#4895d1",
    "tokyo": "#8d6cab",
    "global": "#e09f3e",
    "answered": "#2a9d5c",
    "interrupted truncated": "#e09f3e",
    "failed 500": "#d1495b",
    "failed connect": "#7b1e3a",
}
GRAFANAS = {"green": "#73bf69", "yellow": "#fade2a", "red": "#e24d42", "blue": "#5794f2", "purple": "#b877d9"}
UNITS = {"s": "seconds", "reqps": "a second", "percentunit": "share"}


def draw(path: Path, acts: Sequence[Act], dashboard: dict[str, Any], ask: Callable[[str], list[Series]]) -> None:
    """Draw the panels into a file. `ask`: what an expression gives for each second of the day."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    began, ended = acts[0].began, acts[-1].ended
    figure, axes = plt.subplots(len(DRAWN), 1, sharex=True, figsize=(11, 15), dpi=90, layout="constrained")
    for axis, title in zip(axes, DRAWN, strict=True):
        (panel,) = (panel for panel in panels(dashboard) if panel["title"] == title)
        shown = [
            (query.named(labels), {at - began: value for at, value in values.items()})
            for query in queries(dashboard)
            if query.panel == title
            for labels, values in ask(query.expression)
        ]
        look = panel["fieldConfig"]["defaults"]
        if title == TIMELINE:
            _timeline(axis, shown, look["mappings"][0]["options"])
        elif look["custom"]["stacking"]["mode"] == "none":
            for legend, values in shown:
                axis.plot(list(values), list(values.values()), label=legend, color=COLOURS.get(legend), lw=1.4)
        else:
            _stack(axis, shown, step=look["custom"]["drawStyle"] == "bars")
        axis.set_title(title, loc="left", fontsize=10, fontweight="bold")
        axis.set_ylabel(UNITS.get(look["unit"], ""), fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
        for act in acts[1:]:
            axis.axvline(act.began - began, color="#00000030", lw=0.7)
    for number, act in enumerate(acts[1:]):
        height = len(LANES) - 0.4 + 0.5 * (number % 3)
        late = act.began - began > 0.85 * (ended - began)
        left, side = (act.ended - began, "right") if late else (act.began - began + 0.3, "left")
        axes[0].text(left, height, act.name, ha=side, fontsize=7, color="#555555")
    axes[0].set_ylim(-0.5, len(LANES) + 1.1)
    axes[-1].set_xlim(0, ended - began)
    axes[-1].set_xlabel(
        "seconds. Drawn from Prometheus' answers to the dashboard's queries, not by Grafana", fontsize=8
    )
    figure.savefig(path)
    plt.close(figure)


def _timeline(axis: Any, shown: Shown, words: dict[str, dict[str, Any]]) -> None:
    named: set[str] = set()
    for lane, name in enumerate(LANES):
        for at, number in dict(shown)[name].items():
            text, colour = words[f"{number:.0f}"]["text"], words[f"{number:.0f}"]["color"]
            label = None if text in named else text
            named.add(text)
            axis.broken_barh([(at, 1.02)], (lane - 0.35, 0.7), color=GRAFANAS.get(colour, colour), label=label, lw=0)
    axis.set_yticks(range(len(LANES)), LANES)


def _stack(axis: Any, shown: Shown, *, step: bool) -> None:
    times = sorted({at for _, values in shown for at in values})
    rows = [[0.0 if isnan(values.get(at, 0.0)) else values.get(at, 0.0) for at in times] for _, values in shown]
    names = [legend for legend, _ in shown]
    colours = [COLOURS.get(name, mpl.colormaps["tab20"](number)) for number, name in enumerate(names)]
    axis.stackplot(times, rows, labels=names, colors=colours, step="mid" if step else None, lw=0, alpha=0.85)
