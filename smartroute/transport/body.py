"""A look into a JSON body: the few top-level values that routing needs, and where they stand.

The body is walked member by member with the standard library's C decoder; parsing is the quickest way
there is to skip a value, and what cannot be parsed is none of ours. A long body is not even parsed: what
is looked for stands before or behind what makes it long.
"""

import json
import re
from collections.abc import Collection
from typing import Any, NamedTuple

__all__ = ["Value", "peek", "with_model"]

_decode = json.JSONDecoder().raw_decode
_space = re.compile(r"[ \t\n\r]*").match

LONG = 16 * 1024
"""Bytes from which on a body is not parsed as a whole."""
FRONT = 1024
"""Bytes of a long body's beginning that are looked at."""


class Value(NamedTuple):
    """A top-level value: what it is, and where it stands in the body (`body[start:end]`)."""

    value: Any
    start: int
    end: int

    def __repr__(self) -> str:
        return f"Value(start={self.start}, end={self.end})"  # what it is, is the user's


def peek(body: bytes, names: Collection[str]) -> dict[str, Value] | None:
    """The top-level values of these names, as far as they are there; None: not a JSON object.

    Where a name stands twice the last one counts, as it does for Python's and most other parsers. Of a long body it is
    taken on trust that what was not parsed is JSON, and that its names are written without escapes.
    """
    try:
        if len(body) >= LONG and (found := _skim(body, names)) is not None:
            return found
        members = _Members(body, 0, names)
        members.open()
        return members.found if members.walk() else None
    except (ValueError, IndexError, RecursionError):
        return None


def with_model(body: bytes, model: Value, name: str) -> bytes:
    """The body with another model name in that place and all other bytes unchanged."""
    view = memoryview(body)  # a long body is copied once
    return b"".join((view[: model.start], json.dumps(name, ensure_ascii=False).encode(), view[model.end :]))


class _Members:
    """The members of an object, from some place in it on.

    Attributes:
        found: the values of the names that were passed.
        place: where in the body the member stands that comes next.
    """

    def __init__(self, body: bytes, start: int, names: Collection[str], *, most: int | None = None) -> None:
        end = None if most is None else start + most
        self._text = body[start:end].decode(errors="strict" if most is None else "ignore")
        self._is_ascii = self._text.isascii()
        self._start = start
        self._names = names
        self._at = 0
        self.found: dict[str, Value] = {}

    @property
    def place(self) -> int:
        return self._byte(self._at)

    def open(self) -> None:
        """Pass the brace that opens the object."""
        self._at = _after_space(self._text, 0)
        if self._text[self._at] != "{":
            raise ValueError
        self._at = _after_space(self._text, self._at + 1)

    def walk(self, *, up_to_containers: bool = False) -> bool:
        """Pass members: all, up to the end of the body, or those before a value that may be long.

        Returns:
            whether it came so far.
        """
        text, at = self._text, self._at
        while text[at] != "}":
            self._at = at
            name, at = _decode(text, at)
            at = _after_space(text, at)
            if not isinstance(name, str) or text[at] != ":":
                return False
            start = _after_space(text, at + 1)
            if up_to_containers and text[start] in "[{":
                return True
            value, end = _decode(text, start)
            if name in self._names:
                self.found[name] = Value(value, self._byte(start), self._byte(end))
            at = _after_space(text, end)
            if text[at] == ",":
                at = _after_space(text, at + 1)
                if text[at] == "}":
                    return False
            elif text[at] != "}":
                return False
        return _after_space(text, at + 1) == len(text)

    def _byte(self, at: int) -> int:
        return self._start + (at if self._is_ascii else len(self._text[:at].encode()))


def _skim(body: bytes, names: Collection[str]) -> dict[str, Value] | None:
    """The same of a long body, from its first and its last members; None: it cannot be told from those.

    From the first of the places where the names stand last: if nothing but members follows up to the body's last
    brace, and all of the names are among them, they are top-level ones. For within a string no quote stands unescaped:
    one that is escaped begins no name.
    """
    front = _Members(body, 0, names, most=FRONT)
    try:
        front.open()
        if not front.walk(up_to_containers=True):
            return None
    except (ValueError, IndexError):  # cut off within a value
        pass
    # Backwards, for there they stand; and each by itself: within prose that is faster than one search for all of them.
    places = {name: at for name in names if (at := body.rfind(b'"%b"' % name.encode(), front.place)) >= 0}
    if not places:
        return front.found if body.rstrip()[-1:] == b"}" else None
    first = min(places.values())
    if body[first - 1 : first] == b"\\":
        return None
    back = _Members(body, first, names)
    is_told = back.walk() and back.found.keys() == places.keys()  # else one of them stands within something
    return front.found | back.found if is_told else None


def _after_space(text: str, at: int) -> int:
    match = _space(text, at)
    return match.end() if match else at
