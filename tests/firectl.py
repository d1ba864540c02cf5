"""What `firectl` prints of a deployment, in a form of our own making: lines of `Name: value`, and JSON."""

import json
import re
from collections.abc import Mapping
from typing import cast

__all__ = ["as_json", "as_text"]


def as_text(deployment: Mapping[str, object]) -> str:
    """`firectl deployment get`: names in words, what belongs to a name indented below it."""
    return "\n".join(_lines(deployment, "")) + "\n"


def _lines(document: Mapping[str, object], indent: str) -> list[str]:
    lines: list[str] = []
    for name, value in document.items():
        title = re.sub("([A-Z])", r" \1", name).title()
        if isinstance(value, Mapping):
            lines += [f"{indent}{title}:", *_lines(cast("Mapping[str, object]", value), indent + "  ")]
        else:
            lines.append(f"{indent}{title}: {', '.join(value) if isinstance(value, list) else value}")
    return lines


def _snake(document: object) -> object:
    """`firectl ... -o json`: the control plane's documents, the names of their fields in snake case."""
    if isinstance(document, Mapping):
        return {re.sub("([A-Z])", r"_\1", str(key)).lower(): _snake(value) for key, value in document.items()}
    return [_snake(each) for each in document] if isinstance(document, list) else document


def as_json(*deployments: Mapping[str, object]) -> str:
    """A list of them, as `firectl deployment list -o json` prints it."""
    return json.dumps(_snake(list(deployments)), indent=2)
