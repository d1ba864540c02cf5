"""An outage as the caller feels it: the time to first token of each call, and who answered.

Three routes at 20, 60 and 140 ms and a global endpoint at 90 ms on localhost. The best route dies, and
comes back. Every call through smartroute is followed by one of the plain SDK to the best route alone.
"""

import json
import time
from contextlib import ExitStack
from typing import Any, NamedTuple

import openai

import smartroute
from benchmarks.acceptance import LATENCIES, MESSAGES
from smartroute.testing import Region

HEALTHY, DEAD, HEALED = 6.0, 8.0, 12.0
"""Seconds of each act."""
COLOURS = {"near": "#2a9d5c", "middle": "#e09f3e", "far": "#9e2a2b", "global": "#335c8d"}


class Point(NamedTuple):
    """One call: when it began (seconds), its time to first token (milliseconds), who answered; None: lost."""

    at: float
    first_token: float | None
    route: str


def first_token(client: openai.OpenAI) -> tuple[float | None, str]:
    """Make a streamed call; its time to first token in milliseconds, and the route that answered."""
    began, first = time.perf_counter(), None
    try:
        answer = client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, stream=True)
        for chunk in answer.parse():
            if first is None and chunk.choices and chunk.choices[0].delta.content:
                first = (time.perf_counter() - began) * 1e3
    except openai.OpenAIError:
        return None, "lost"
    return first, answer.headers.get("x-smartroute-route", "plain")


def measure() -> dict[str, list[Point]]:
    """Play the outage."""
    with ExitStack() as stack:
        regions = {name: stack.enter_context(Region(name, latency=s)) for name, s in LATENCIES.items()}
        world = stack.enter_context(Region("global", latency=0.090, prefix="/inference/v1"))
        routed = smartroute.Client(
            smartroute.Config(
                routes=[smartroute.Route(region.url, name=name) for name, region in regions.items()],
                api_key="fake-direct-key",
                global_url=world.url,
            )
        )
        options: dict[str, Any] = {"api_key": "fake-key", "max_retries": 0}
        smart = stack.enter_context(openai.OpenAI(base_url=world.url, http_client=routed, **options))
        plain = stack.enter_context(openai.OpenAI(base_url=regions["near"].url, **options))
        points: dict[str, list[Point]] = {"smartroute": [], "plain SDK on the best route": []}
        began, dead, healed = time.monotonic(), False, False
        while (now := time.monotonic() - began) < HEALTHY + DEAD + HEALED:
            if not dead and now >= HEALTHY:
                regions["near"].stop()
                dead = True
            if not healed and now >= HEALTHY + DEAD:
                regions["near"].start()
                healed = True
            for series, client in zip(points.values(), (smart, plain), strict=True):
                series.append(Point(time.monotonic() - began, *first_token(client)))
            time.sleep(0.03)
    return points


def draw(points: dict[str, list[Point]], path: str) -> None:
    """Draw both series into an SVG file. Needs matplotlib."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - wanted for a picture only

    figure, panes = plt.subplots(2, 1, sharex=True, sharey=True, figsize=(9, 4.6), layout="constrained")
    for pane, (name, series) in zip(panes, points.items(), strict=True):
        pane.axvspan(HEALTHY, HEALTHY + DEAD, color="#00000012", lw=0)
        lost = [point.at for point in series if point.first_token is None]
        for route in ("near", "middle", "far", "global", "plain"):
            mine = [point for point in series if point.route == route and point.first_token is not None]
            if mine:
                label = None if route == "plain" else route
                colour = COLOURS.get(route, COLOURS["near"])
                pane.scatter([p.at for p in mine], [p.first_token for p in mine], s=8, color=colour, label=label)
        if lost:
            pane.scatter(lost, [5] * len(lost), s=14, marker="x", color="#c1121f", label="call lost")
        pane.set_title(f"{name}: {len(series)} calls, {len(lost)} lost", loc="left", fontsize=10)
        pane.set_ylabel("first token (ms)")
        pane.spines[["top", "right"]].set_visible(False)
        pane.legend(loc="upper right", fontsize=8, frameon=False, ncols=4)
    panes[0].set_ylim(0, 110)
    panes[1].set_xlabel("seconds; grey: the best route is down")
    figure.savefig(path, metadata={"Date": None})


def main(*, svg: str | None = None, as_json: bool = False) -> None:
    """Print what was lost and where the calls went; draw it where asked to."""
    points = measure()
    if as_json:
        print(json.dumps(points))
    else:
        for name, series in points.items():
            lost = sum(point.first_token is None for point in series)
            shares = {route: sum(p.route == route for p in series) for route in dict.fromkeys(p.route for p in series)}
            print(f"{name}: {len(series)} calls, {lost} lost, answered by {shares}")
    if svg is not None:
        draw(points, svg)
