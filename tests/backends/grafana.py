"""The dashboard as Grafana's own models read it: what they do not know, Grafana would not heed."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from grafana_foundation_sdk.cog.encoder import (  # type: ignore[import-not-found,unused-ignore]
    JSONEncoder,
)
from grafana_foundation_sdk.cog.plugins import (  # type: ignore[import-not-found,unused-ignore]
    register_default_plugins,
)
from grafana_foundation_sdk.models.dashboard import (  # type: ignore[import-not-found,unused-ignore]
    Dashboard,
)

__all__ = ["unheeded"]


def unheeded(dashboard: Mapping[str, Any]) -> list[str]:
    """Where the dashboard says what Grafana's models do not take in, or take otherwise."""
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    return list(_differences(dashboard, read, "dashboard"))


def _differences(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    match ours, theirs:
        case dict(), dict():
            for name, value in ours.items():
                yield from _differences(value, theirs.get(name), f"{path}.{name}")
        case list(), list() if len(ours) == len(theirs):
            for number, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
                yield from _differences(mine, its, f"{path}[{number}]")
        case _ if ours != theirs:
            yield f"{path}: {json.dumps(ours)} is read as {json.dumps(theirs)}"
