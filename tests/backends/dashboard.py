"""The Grafana dashboard in docs, as data."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ALERTS", "DASHBOARD", "Query", "load", "metrics_in", "panels", "queries", "variables_in"]

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
DASHBOARD = DOCS / "dashboard.json"
ALERTS = DOCS / "alerts.yml"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel."""

    panel: str
    letter: str
    expression: str
    legend: str

    @property
    def labels(self) -> set[str]:
        """The labels that its legend shows."""
        return set(re.findall(r"{{(\w+)}}", self.legend))

    def named(self, labels: Mapping[str, str]) -> str:
        """What its legend calls a series."""
        return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), self.legend).strip()

    def __str__(self) -> str:
        return f"{self.panel}, {self.letter}"


def load() -> dict[str, Any]:
    """The whole dashboard."""
    told: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
    return told


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Its panels, without the rows they stand in."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(dashboard: Mapping[str, Any]) -> list[Query]:
    """The queries of all panels, as they stand there."""
    return [
        Query(panel["title"], target["refId"], target["expr"], target["legendFormat"])
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def metrics_in(text: str) -> set[str]:
    """The metrics that expressions name: each has its selector or its window right behind it."""
    return set(re.findall(r"\b([a-z_]+)(?=[{[])", text))


def variables_in(text: str) -> set[str]:
    """Grafana's variables in an expression."""
    return set(re.findall(r"\$(\w+)", text))
