"""The dashboard and its alerts against a real Prometheus, on a bad day.

    python -m tests.backends.prometheus

The OpenAI SDK calls through smartroute while regions go down, become slow and come back; a Prometheus scrapes that
every second. Then it is asked every query of docs/dashboard.json and every expression of docs/alerts.yml: each has to
give data, alerts in their act and never in health, and where the application has counted or measured the same, the
same. The dashboard itself has to be one that Grafana's own models take in. `make dashboard-proof` sets everything up
first. What listens does so on loopback alone. Exit code: 0 if all is as it must be.
"""

import argparse
import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import (  # type: ignore[import-not-found,unused-ignore]
    PrometheusMetricReader,
)
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server  # type: ignore[import-not-found,unused-ignore]

from smartroute.demo.regions import BEST, GLOBAL
from tests.backends.bad_day import Act, Day, day
from tests.backends.dashboard import ALERTS, Query, load, panels, queries
from tests.backends.drawing import Series, draw
from tests.backends.grafana import unheeded
from tests.backends.serving import free_ports, get, serving

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
JOB = "chat"
SCRAPES = 1
"""Seconds from one scrape to the next."""
WINDOW = "5s"
"""What stands for `$__rate_interval`, and for the minutes and hours of the alerts."""
SETTLED = 6.0
"""Seconds into an act after which no window reaches back before it."""
START_UP = 60.0
"""Seconds that Prometheus may take until it answers."""
IN_THEIR_ACT = {
    "SmartrouteCallsFailing": "everything fails",
    "SmartrouteAllRoutesDown": "no region is left",
    "SmartrouteReplayBudgetDry": "everything fails",
    "SmartrouteRouteDown": "the best region dies",
    "SmartrouteRouteRefusesKey": "a key is refused",
    "SmartrouteFallbackShareHigh": "no region is left",
}
ALIKE = 3.0
"""By what factor a quantile may differ from what was measured: a bucket's end is up to 2.5 times its beginning."""
HEALTHY, OPEN = "closed (healthy)", "open (not used)"
"""What the dashboard calls a route that is up, and one that is down."""
NAME = "smartroute_endpoint_name"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proof; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--prometheus", type=Path, required=True, metavar="PATH", help="promtool stands beside it")
    parser.add_argument("--picture", type=Path, metavar="PATH", help="draw what the dashboard shows, as PNG or SVG")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `finally`: no server stays behind
    logging.getLogger("smartroute").addHandler(logging.NullHandler())  # the day is bad on purpose
    try:
        checked, wrong = _prove(options.prometheus, options.picture)
    except (RuntimeError, OSError) as error:
        checked, wrong = "", [str(error)]
    for problem in wrong:
        print(f"  WRONG: {problem}", file=sys.stderr)
    if wrong:
        print(f"\nThe dashboard proof failed: {len(wrong)} things are wrong.", file=sys.stderr)
        return 1
    print(f"\nChecked: {checked}.")
    return 0


def _prove(prometheus: Path, picture: Path | None) -> tuple[str, list[str]]:
    """What was checked, and what is wrong with it.

    Raises:
        RuntimeError: it did not come to that.
    """
    _promtool(prometheus.with_name("promtool"))
    if lost := unheeded(load()):
        raise RuntimeError("\n  ".join(["Grafana does not take it in:", *lost]))
    with _exporter() as metrics_port, _prometheus(prometheus, metrics_port) as url, day() as played:
        print("A bad day for three regions: about two minutes", flush=True)
        played.play()
        time.sleep(3 * SCRAPES)  # until Prometheus has seen its end
        print("Prometheus is asked for everything on the dashboard", flush=True)
        answers, asked = Answers(url, played), queries(load())
        wrong = [*_queries(answers, asked), *_alerts(answers), *_right(answers)]
        if picture:
            draw(picture, list(played.acts.values()), load(), answers.over)
    return f"{len(asked)} queries and {len(IN_THEIR_ACT)} alerts, on {len(played.calls)} calls", wrong


@contextmanager
def _exporter() -> Generator[int]:
    """Metrics as an application sets them up: the port on which they can be scraped."""
    server, thread = start_http_server(0, "127.0.0.1")
    provider = MeterProvider([PrometheusMetricReader()])
    metrics.set_meter_provider(provider)
    try:
        yield server.server_port
    finally:
        provider.shutdown()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _prometheus(program: Path, target: int) -> Generator[str]:
    """A Prometheus with nothing in it, which begins to scrape a port: its URL."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    settings = {
        "global": {"scrape_interval": f"{SCRAPES}s", "evaluation_interval": f"{SCRAPES}s"},
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
        "rule_files": [str(ALERTS)],
    }

    def command(folder: Path) -> list[str]:
        (folder / "prometheus.yml").write_text(json.dumps(settings), "utf-8")  # JSON is YAML
        listening = f"--web.listen-address=127.0.0.1:{port}"
        return [str(program.resolve()), "--config.file=prometheus.yml", "--storage.tsdb.path=data", listening]

    print("Prometheus starts, with nothing in it", flush=True)
    with serving("Prometheus", command, f"{url}/-/ready", patience=START_UP):
        while not get(f"{url}/api/v1/query?query=up")["data"]["result"]:  # it takes its time to begin
            time.sleep(0.25)
        yield url


class Answers:
    """What Prometheus says of the day."""

    def __init__(self, url: str, played: Day) -> None:
        self._url = url
        self._queries = queries(load())
        self.day = played
        acts = list(played.acts.values())
        self._began, self._ended = acts[0].began, time.time()

    def over(self, expression: str) -> list[Series]:
        """What a query gives for each second of the day."""
        asked = {"query": _short(expression), "start": self._began, "end": self._ended, "step": SCRAPES}
        told = get(f"{self._url}/api/v1/query_range?{urlencode(asked)}")["data"]["result"]
        return [(one["metric"], {float(at): float(value) for at, value in one["values"]}) for one in told]

    def shown(self, title: str, letter: str = "A") -> list[Series]:
        """What a panel shows of the day."""
        (query,) = (query for query in self._queries if (query.panel, query.letter) == (title, letter))
        return self.over(query.expression)

    def now(self, expression: str) -> dict[str, float]:
        """What a query gives now, by the values of its labels."""
        told = get(f"{self._url}/api/v1/query?{urlencode({'query': expression})}")["data"]["result"]
        return {",".join(one["metric"].values()): float(one["value"][1]) for one in told}

    def rules(self) -> dict[str, str]:
        """The alerts and their expressions, as Prometheus has read them."""
        (group,) = get(f"{self._url}/api/v1/rules?type=alert")["data"]["groups"]
        return {rule["name"]: rule["query"] for rule in group["rules"]}

    def jobs(self) -> list[str]:
        """What the dashboard's variable lets one choose from."""
        told: list[str] = get(
            f"{self._url}/api/v1/label/job/values?{urlencode({'match[]': 'smartroute_route_state'})}"
        )["data"]
        return told


def _queries(answers: Answers, asked: Sequence[Query]) -> Iterator[str]:
    """Each query gives numbers, with the labels that its legend shows."""
    if (jobs := answers.jobs()) != [JOB]:
        yield f"the jobs to choose from are {jobs}"
    for query in asked:
        given = [labels for labels, values in answers.over(query.expression) if any(v == v for v in values.values())]
        if not given:
            yield f"{query}: no data: {query.expression}"
        elif missing := {label for label in query.labels if not any(labels.get(label) for labels in given)}:
            yield f"{query}: its legend shows {', '.join(missing)}, which no series has"


def _alerts(answers: Answers) -> Iterator[str]:
    """Each alert's expression holds in its act, and never in health."""
    rules = answers.rules()
    if rules.keys() != IN_THEIR_ACT.keys():
        yield f"there are the alerts {sorted(rules)}"
    health = answers.day.acts["health"]
    for name, expression in rules.items():
        times = {at for _, values in answers.over(expression) for at in values}
        act = answers.day.acts[IN_THEIR_ACT[name]]
        if not any(act.began <= at <= act.ended for at in times):
            yield f"{name} does not hold when {act.name}: {_short(expression)}"
        if any(health.began <= at <= health.ended for at in times):
            yield f"{name} holds in health"


def _right(answers: Answers) -> Iterator[str]:
    """Where the application knows the answer, Prometheus gives the same."""
    for check in (_states, _shares, _first_tokens, _events, _counts):
        yield from check(answers)


def _states(answers: Answers) -> Iterator[str]:
    """The best region is shown in health as healthy and dead as not used, and who was offline as offline."""
    acts = answers.day.acts
    (timeline,) = (panel for panel in panels(load()) if panel["type"] == "state-timeline")
    (mapping,) = timeline["fieldConfig"]["defaults"]["mappings"]
    words = {float(number): told["text"] for number, told in mapping["options"].items()}
    best = next(values for labels, values in answers.shown(timeline["title"]) if BEST in labels.values())
    if healthy := {words[number] for number in _during(best, acts["health"])} - {HEALTHY}:
        yield f"{BEST} is shown in health as {healthy}"
    if (dead := words[_during(best, acts["the best region dies"])[-1]]) != OPEN:
        yield f"{BEST} is shown dead as {dead}"
    ((_, offline),) = answers.shown("Processes offline")
    for name in ("health", "this machine is cut off"):
        if (most := max(_during(offline, acts[name]))) != (name != "health"):
            yield f"{most} processes are shown as offline when {name}"


def _shares(answers: Answers) -> Iterator[str]:
    """At each moment the shares sum to 1."""
    sums: dict[float, float] = defaultdict(float)
    for _, values in answers.shown("Share of answered calls"):
        for at, share in values.items():
            sums[at] += share
    if any(abs(total - 1) > 1e-9 for total in sums.values() if total == total):
        yield f"shares sum to {sorted(set(sums.values()))}"


def _first_tokens(answers: Answers) -> Iterator[str]:
    """What callers wait for is what the application measured: in health, and beside a silent region."""
    acts = answers.day.acts
    measured = acts["health"].first_token(BEST)
    for panel in ("First token of each endpoint, p50", "First token, as callers wait for it"):
        found = (values for labels, values in answers.shown(panel) if labels.get(NAME, BEST) == BEST)
        shown = _during(next(found), acts["health"])[-1]
        print(f"  {panel}, in health: {shown * 1000:.0f} ms; the application measured {measured * 1000:.0f} ms")
        if not measured / ALIKE < shown < measured * ALIKE:
            yield f"{panel} shows {shown:.4f} s in health, the application measured {measured:.4f} s"
    slowest = max(call.first_token or 0.0 for call in acts["silence"].calls)
    ((_, p99),) = answers.shown("First token, as callers wait for it", "B")
    shown = max(_during(p99, acts["silence"], settled=False))
    print(f"  p99 for callers, beside a silent region: {shown * 1000:.0f} ms; the slowest was {slowest * 1000:.0f} ms")
    if not slowest / ALIKE < shown < slowest * ALIKE:
        yield f"for callers p99 was {shown:.4f} s beside a silent region, and the slowest call {slowest:.4f} s"


def _events(answers: Answers) -> Iterator[str]:
    """Nothing that happened is lost, though it happened once."""
    for panel in ("Failed attempts", "Breaker transitions", "Default route changes", "Probe failures"):
        for labels, values in answers.shown(panel):
            if not max(values.values()) > 0:
                yield f"{panel}: {', '.join(labels.values())} never rises"
    died = answers.day.acts["the best region dies"]
    reasons = answers.shown("Second attempts, and what global answered")
    if not any(max(_during(values, died, settled=False), default=0) > 0 for _, values in reasons):
        yield f"{BEST} died, and no second attempt is shown"


def _counts(answers: Answers) -> Iterator[str]:
    """Calls, failed ones and fallbacks are as many as the application counts; and nothing is left in flight."""
    calls = answers.day.calls
    counts = answers.now("sum by (smartroute_outcome) (smartroute_route_duration_seconds_count)")
    told = (sum(counts.values()), counts.get("failed", 0) + counts.get("interrupted", 0))
    if told != (made := (len(calls), sum(call.failed for call in calls))):
        yield f"calls made and failed: {made}; counted are {counts}"
    fallbacks = sum(call.route == GLOBAL and not call.failed for call in calls)
    counted = answers.now("sum(smartroute_fallbacks_total)")
    if counted != {"": fallbacks}:
        yield f"global answered {fallbacks} calls; counted are {counted}"
    if any((left := answers.now("sum by (smartroute_endpoint_name) (smartroute_attempts_in_flight)")).values()):
        yield f"nothing is in flight any more, but {left}"


def _during(values: dict[float, float], act: Act, *, settled: bool = True) -> list[float]:
    """The values of an act. `settled`: from when windows do not reach back before it."""
    began = act.began + (SETTLED if settled else 0.0)
    return [value for at, value in values.items() if began <= at <= act.ended]


def _promtool(promtool: Path) -> None:
    """The rules are well formed, and their unit tests pass."""
    for what, rules in (("check", ALERTS), ("test", HERE / "alerts.yml")):
        print(f"promtool {what} rules {rules.relative_to(ROOT)}", flush=True)
        done = subprocess.run([promtool, what, "rules", rules], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{done.stdout}{done.stderr}")


def _short(expression: str) -> str:
    """A query as it is asked here: of the last seconds, and of every application."""
    return re.sub(r"\[\d+[mh]\]", f"[{WINDOW}]", expression.replace("$__rate_interval", WINDOW)).replace("$job", ".*")


if __name__ == "__main__":
    sys.exit(main())
