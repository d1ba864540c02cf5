"""A look into a JSON body without parsing it.

Routing needs two or three top-level values of a body that can be a megabyte of prompt; parsing it would
take milliseconds. Strings are skipped by searching for their closing quote, from the end of the body
backwards, because SDKs write the prompt first and the small things after it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Value", "peek", "with_model"]


@dataclass(frozen=True, slots=True)
class Value:
    """A top-level value: what it is, and where in the body it stands (`body[start:end]`)."""

    value: Any
    start: int
    end: int


def peek(body: bytes, names: Iterable[str]) -> dict[str, Value] | None:
    """The top-level values of these names, as far as they are there; None: not a JSON object.

    Where a name stands twice the last one counts, as it does for Python's and most other parsers. The
    body is not validated: of one that is not JSON anything may be returned, but nothing is raised.
    """
    wanted = {name.encode() for name in names if b'"%b"' % name.encode() in body}
    start, end = _trim(body)
    if body[start : start + 1] != b"{" or body[end - 1 : end] != b"}":
        return None
    found: dict[str, Value] = {}
    if not wanted:
        return found
    depth = 0
    value_end = end - 1  # of the top-level value that is being walked over
    position = end
    try:
        while position > start and wanted:
            quote = body.rfind(b'"', start, position)
            depth, value_end = _walk_back(body, quote + 1, position, depth, value_end)
            if quote < 0:
                break
            opening = _opening_quote(body, quote, start)
            if opening < 0:
                return None
            if depth == 1 and body[opening + 1 : quote] in wanted:
                after = _skip_space(body, quote + 1)
                if body[after : after + 1] == b":":
                    first = _skip_space(body, after + 1)
                    last = len(body[:value_end].rstrip())
                    name = body[opening + 1 : quote]
                    wanted.discard(name)
                    found[name.decode()] = Value(json.loads(body[first:last]), first, last)
            position = opening
    except (ValueError, RecursionError):
        return None
    return found


def with_model(body: bytes, model: Value, name: str) -> bytes:
    """The body with another model name in that place and all other bytes unchanged."""
    return b"".join((body[: model.start], json.dumps(name, ensure_ascii=False).encode(), body[model.end :]))


def _trim(body: bytes) -> tuple[int, int]:
    return len(body) - len(body.lstrip()), len(body.rstrip())


def _skip_space(body: bytes, at: int) -> int:
    while body[at : at + 1].isspace():
        at += 1
    return at


def _opening_quote(body: bytes, closing: int, start: int) -> int:
    """Where the string begins that ends at `closing`: the nearest quote before it that is not escaped."""
    at = closing
    while (at := body.rfind(b'"', start, at)) >= 0:
        backslashes = at
        while body[backslashes - 1 : backslashes] == b"\\":
            backslashes -= 1
        if (at - backslashes) % 2 == 0:
            return at
    return -1


def _walk_back(body: bytes, start: int, end: int, depth: int, value_end: int) -> tuple[int, int]:
    """Walk over what stands between two strings, from its end; keeps count of the depth."""
    for at in range(end - 1, start - 1, -1):
        character = body[at]
        if character in b"}]":
            depth += 1
        elif character in b"{[":
            depth -= 1
        elif character == 0x2C and depth == 1:  # a comma between two members of the top-level object
            value_end = at
    return depth, value_end
