"""A look into a JSON body: the few top-level values that routing needs, and where they stand.

The body is walked member by member with the standard library's C decoder; parsing is the quickest way
there is to skip a value, and what cannot be parsed is none of ours.
"""

import json
import re
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Value", "peek", "with_model"]

_decode = json.JSONDecoder().raw_decode
_space = re.compile(r"[ \t\n\r]*").match


@dataclass(frozen=True, slots=True)
class Value:
    """A top-level value: what it is, and where it stands in the decoded body (`text[start:end]`)."""

    value: Any = field(repr=False)
    start: int
    end: int


def peek(body: bytes, names: Container[str]) -> dict[str, Value] | None:
    """The top-level values of these names, as far as they are there; None: not a JSON object.

    Where a name stands twice the last one counts, as it does for Python's and most other parsers.
    """
    found: dict[str, Value] = {}
    try:
        text = body.decode()
        at = _after_space(text, 0)
        if text[at] != "{":
            return None
        at = _after_space(text, at + 1)
        while text[at] != "}":
            name, at = _decode(text, at)
            at = _after_space(text, at)
            if not isinstance(name, str) or text[at] != ":":
                return None
            start = _after_space(text, at + 1)
            value, end = _decode(text, start)
            if name in names:
                found[name] = Value(value, start, end)
            at = _after_space(text, end)
            if text[at] == ",":
                at = _after_space(text, at + 1)
                if text[at] == "}":
                    return None
            elif text[at] != "}":
                return None
        return found if _after_space(text, at + 1) == len(text) else None
    except (ValueError, IndexError, RecursionError):
        return None


def with_model(body: bytes, model: Value, name: str) -> bytes:
    """The body with another model name in that place and all other bytes unchanged."""
    text = body.decode()
    return f"{text[: model.start]}{json.dumps(name, ensure_ascii=False)}{text[model.end :]}".encode()


def _after_space(text: str, at: int) -> int:
    match = _space(text, at)
    return match.end() if match else at
