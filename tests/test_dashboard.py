"""The Grafana dashboard and the alerts in docs: well formed, and about the metrics that there are.

That their queries give the right answers is `make dashboard-proof`'s to tell, with a real Prometheus.
"""

import re
from collections import Counter
from itertools import combinations, pairwise
from typing import Any

from opentelemetry import metrics

from smartroute.telemetry.instruments import STATES, Instruments
from tests.backends.dashboard import ALERTS, load, metrics_in, panels, queries, variables_in

DASHBOARD = load()
QUERIES = queries(DASHBOARD)
LEFT_OUT = {
    "http_client_request_duration_seconds",  # for dashboards of all HTTP clients; the attempts tell more of ours
}


class Catalogue(metrics.NoOpMeter):
    """Takes note of the instruments that are made, by their names in Prometheus."""

    def __init__(self) -> None:
        super().__init__("smartroute")
        self.names: set[str] = set()

    def _note(self, name: str, unit: str, suffix: str = "") -> None:
        # Some ways to Prometheus call a gauge of the unit "1" a ratio, some do not.
        assert unit == "s" or re.fullmatch(r"{\w+}", unit), f"{name} has the unit {unit}"
        self.names.add(name.replace(".", "_") + ("_seconds" if unit == "s" else "") + suffix)

    def create_histogram(self, name: str, unit: str = "", *args: Any, **options: Any) -> metrics.Histogram:
        self._note(name, unit)
        return super().create_histogram(name, unit)

    def create_observable_counter(
        self, name: str, callbacks: Any = None, unit: str = "", description: str = ""
    ) -> metrics.ObservableCounter:
        self._note(name, unit, "_total")
        return super().create_observable_counter(name, callbacks, unit)

    def create_observable_up_down_counter(
        self, name: str, callbacks: Any = None, unit: str = "", description: str = ""
    ) -> metrics.ObservableUpDownCounter:
        self._note(name, unit)
        return super().create_observable_up_down_counter(name, callbacks, unit)

    def create_observable_gauge(
        self, name: str, callbacks: Any = None, unit: str = "", description: str = ""
    ) -> metrics.ObservableGauge:
        self._note(name, unit)
        return super().create_observable_gauge(name, callbacks, unit)


def made() -> set[str]:
    catalogue = Catalogue()
    Instruments(catalogue)
    return catalogue.names


def shown(text: str) -> set[str]:
    """The metrics in expressions, histograms by their own name."""
    return {re.sub(r"(?<=_seconds)_(bucket|count|sum)$", "", name) for name in metrics_in(text)}


def test_every_metric_is_on_the_dashboard_or_left_out() -> None:
    assert set().union(*(shown(query.expression) for query in QUERIES)) == made() - LEFT_OUT
    assert made() >= LEFT_OUT


def test_the_alerts_are_about_metrics_that_there_are() -> None:
    text = ALERTS.read_text("utf-8")
    assert shown(text) <= made()
    titles = {panel["title"] for panel in panels(DASHBOARD)}
    assert {
        name for line in text.splitlines() if "description:" in line for name in re.findall('"(.+?)"', line)
    } <= titles


def test_each_alert_says_how_urgent_it_is_and_what_to_do() -> None:
    text = ALERTS.read_text("utf-8")
    number = text.count("- alert:")
    lines = Counter(re.findall(r"^ +(for|severity|summary|description):", text, re.MULTILINE))
    assert lines == {"for": number, "severity": number, "summary": number, "description": number}
    assert set(re.findall(r"^ +severity: (\w+)$", text, re.MULTILINE)) == {"page", "ticket"}


def test_panels_have_places_of_their_own() -> None:
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = [(p["x"], p["y"], p["w"], p["h"]) for p in (panel["gridPos"] for panel in everything)]
    assert all(0 <= x < x + w <= 24 and y >= 0 and h > 0 for x, y, w, h in places)
    for (x, y, w, h), (left, top, width, height) in combinations(places, 2):
        assert x + w <= left or left + width <= x or y + h <= top or top + height <= y
    reading = [(y, x) for x, y, _, _ in places]
    assert all(before < after for before, after in pairwise(reading))


def test_panels_explain_themselves() -> None:
    titles = [panel["title"] for panel in panels(DASHBOARD)]
    assert len(set(titles)) == len(titles)
    for panel in panels(DASHBOARD):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters)) != [], panel["title"]
    assert all(query.legend for query in QUERIES)


def test_it_can_be_imported_for_any_prometheus() -> None:
    assert DASHBOARD.keys() >= {"uid", "title"}
    assert "id" not in DASHBOARD  # which is for Grafana to give
    assert DASHBOARD["schemaVersion"] >= 36  # from then on a datasource is a type and a uid
    source = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert variables["job"]["datasource"] == source
    for panel in panels(DASHBOARD):
        assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [
            source for _ in (panel, *panel["targets"])
        ], panel["title"]
    for query in QUERIES:
        assert variables_in(query.expression) <= {"job", "__rate_interval"}, query
        assert set(re.findall(r"\[(.+?)]", query.expression)) <= {"$__rate_interval"}, query
        assert all(selector.startswith('job=~"$job"') for selector in re.findall("{(.*?)}", query.expression)), query


def test_every_state_has_its_number_and_its_word() -> None:
    """A state timeline shows numbers as words: both are in its panel."""
    (panel,) = (panel for panel in panels(DASHBOARD) if panel["type"] == "state-timeline")
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    words = {number: told["text"] for number, told in mapping["options"].items()}
    expression = panel["targets"][0]["expr"]
    numbers = re.findall(r'(\d+) \* \(smartroute_route_state{[^}]*smartroute_state="(\w+)"} == 1\)', expression)
    assert {state for _, state in numbers} == set(STATES)
    assert words.keys() == {number for number, _ in numbers}
    for number, state in numbers:
        assert words[number].startswith(state.replace("_", " "))
