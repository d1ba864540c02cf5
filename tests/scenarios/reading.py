"""The language of the scenarios: reads a TOML file, and refuses every word it does not know.

README.md, beside this file, explains the words to those who write scenarios.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from smartroute.policy.breaker import State
from smartroute.policy.outcome import Failure
from smartroute.route import GLOBAL

__all__ = ["Does", "MistakeError", "Scenario", "Step", "duration", "read"]


class MistakeError(ValueError):
    """A scenario that cannot be read. The message names the file, the step and the near word."""


@dataclass(frozen=True)
class Does:
    """What an endpoint does with a request, or with a probe.

    Attributes:
        words: as written, without the time.
        after: how many seconds it takes; None: as long as usual.
        failure: why no answer comes; None: one does.
        status: of the answer.
        wait: what its Retry-After says, in seconds.
        named: the status that an error event names.
        winner: whose connection was ready first.
    """

    words: str
    after: float | None = None
    failure: Failure | None = None
    status: int = 200
    wait: float | None = None
    named: int | None = None
    winner: str | None = None


@dataclass(frozen=True)
class Step:
    """One step: `given` by words, and what is `expected` afterwards."""

    number: int
    given: Mapping[str, Any]
    expected: Mapping[str, Any]


@dataclass(frozen=True)
class Scenario:
    """A file."""

    file: str
    title: str
    why: str
    options: Mapping[str, Any]
    routes: tuple[Mapping[str, Any], ...]
    steps: tuple[Step, ...] = field(default=())


Reader = Callable[[Any], Any]

UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3_600.0}
TIME = r"-?\d+(?:\.\d+)? (?:ms|s|min|h)"

DOES: Mapping[str, Failure | None] = {
    "answers": None,
    "answers and goes on": None,
    "answers, and the caller closes": None,
    "answers, then breaks off": None,
    "cannot be resolved": Failure.DNS,
    "refuses": Failure.CONNECT,
    "does not connect": Failure.CONNECT_TIMEOUT,
    "breaks off TLS": Failure.TLS,
    "shows a bad certificate": Failure.CERTIFICATE,
    "refuses our certificate": Failure.CLIENT_CERTIFICATE,
    "has no free connection": Failure.POOL_TIMEOUT,
    "breaks while it is sent": Failure.WRITE,
    "resets": Failure.RESET,
    "resets a kept connection": Failure.RESET,
    "times out": Failure.READ_TIMEOUT,
    "stays silent": None,
    "begins, then stays silent": None,
    "speaks no HTTP": Failure.PROTOCOL,
    "answers without a stream": Failure.CONTENT_TYPE,
    "ends without content": Failure.EMPTY,
    "breaks off before content": Failure.TRUNCATED,
    "answers garbled": Failure.GARBLED,
    "error event": Failure.ERROR_EVENT,
}
"""What may become of an attempt."""


# --- Values --------------------------------------------------------------------------------------------


def _near(word: str, known: Collection[str]) -> str:
    match = difflib.get_close_matches(word, list(known), 1, 0.4)
    return f"did you mean {match[0]!r}?" if match else f"there are: {', '.join(sorted(known))}"


def duration(value: object) -> float:
    """`10 s`, `120 ms`, `5 min` or `1 h`, in seconds."""
    if not isinstance(value, str) or not re.fullmatch(TIME, value):
        raise MistakeError(f"{value!r} is no time; write '10 s', '120 ms', '5 min' or '1 h'")
    number, unit = value.split()
    return float(number) * UNITS[unit]


def _interval(value: object) -> float:
    return 0.0 if value == "off" else duration(value)


def _kind(kind: type, words: str, value: object) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise MistakeError(f"{value!r} is not {words}")
    return value


_text = partial(_kind, str, "a text")
_number = partial(_kind, int | float, "a number")  # type: ignore[arg-type]  # isinstance knows unions
_whole = partial(_kind, int, "a whole number")
_truth = partial(_kind, bool, "true or false")


def _list(each: Reader, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise MistakeError(f"{value!r} is not a list")
    return [each(item) for item in value]


def _either(words: Collection[str], value: object) -> str:
    if value not in words:
        raise MistakeError(f"{value!r} is not known; {_near(str(value), words)}")
    return str(value)


def _range(value: object) -> tuple[float, float]:
    """`[low, high]`."""
    if not isinstance(value, list) or len(value) != 2 or not value[0] <= value[1]:
        raise MistakeError(f"{value!r} is no range; write [low, high]")
    return float(value[0]), float(value[1])


def _count(value: object) -> Any:
    return _range(value) if isinstance(value, list) else _whole(value)


def _table(words: Mapping[str, Reader], value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MistakeError(f"{value!r} is not a table")
    found = {}
    for word, given in value.items():
        if word not in words:
            raise MistakeError(f"there is no word {word!r} here; {_near(word, words)}")
        try:
            found[word] = words[word](given)
        except MistakeError as mistake:
            raise MistakeError(f"{word}: {mistake}") from None
    return found


def _must_have(table: Mapping[str, Any], *words: str) -> None:
    for word in words:
        if not table.get(word):
            raise MistakeError(f"there is no {word}")


def _does(value: object) -> Does:
    text = _text(value)
    after = None
    if timed := re.fullmatch(rf"(.*)(?<!retry) after ({TIME})", text):
        text, after = timed[1], duration(timed[2])
    if status := re.fullmatch(rf"(\d\d\d)(?:, retry after ({TIME}))?", text):
        wait = duration(status[2]) if status[2] else None
        return Does(text, after, status=int(status[1]), wait=wait)
    if event := re.fullmatch(r"error event (\d\d\d)", text):
        return Does("error event", after, Failure.ERROR_EVENT, named=int(event[1]))
    if race := re.fullmatch(r"([\w-]+) connects first", text):
        return Does("connects first", after, winner=race[1])
    if text not in DOES:
        raise MistakeError(f"nobody can do {text!r}; {_near(text, (*DOES, '503', 'error event 503'))}")
    return Does(text, after, DOES[text])


def _in_turn(value: object) -> list[Does]:
    return [_does(each) for each in (value if isinstance(value, list) else [value])]


def _answer(value: object) -> int | str:
    words = ("under way", "passes through", "no route", "unknown route", "cancelled", *Failure)
    return _either(words, value) if isinstance(value, str) else int(_whole(value))


def _change(names: Collection[str], value: object) -> str:
    """`frankfurt: closed -> open`."""
    found = re.fullmatch(r"([\w-]+): (\w+) -> (\w+)", _text(value))
    if not found:
        raise MistakeError(f"{value!r} is no change of state; write 'name: closed -> open'")
    _either(names, found[1])
    for state in found[2], found[3]:
        _either(list(State), state)
    return str(value)


def _place(names: Collection[str], value: object) -> tuple[str, str | None]:
    """`frankfurt` or `frankfurt (incumbent)`."""
    found = re.fullmatch(r"([\w-]+)(?: \((\w+)\))?", _text(value))
    if not found:
        raise MistakeError(f"{value!r} is not a name; write 'name' or 'name (reason)'")
    return _either(names, found[1]), found[2]


# --- Words ---------------------------------------------------------------------------------------------

OPTIONS: Mapping[str, Reader] = {
    "global": _truth,
    "global_key": _text,
    "regions": partial(_list, _text),
    "probe_interval": _interval,
    "deadline": duration,
    "hedge": _truth,
}
ROUTE: Mapping[str, Reader] = {
    "name": _text,
    "round_trip_ms": _number,
    "region": _text,
    "tier": _whole,
    "keys": partial(_list, _text),
    "model": partial(_kind, dict, 'a table of names, { asked = "sent" }'),
}
ACTIONS = (
    "request",
    "probe",
    "verification",
    "prober",
    "drain",
    "resume",
    "streams_end",
    "sleep",
    "wall_clock_jumps",
)


def _step_words(routes: Collection[str]) -> dict[str, Reader]:
    names = (*routes, GLOBAL)
    name, route = partial(_either, names), partial(_either, routes)
    request: dict[str, Reader] = {
        "streamed": _truth,
        "size": _whole,
        "model": _text,
        "conversation": _text,
        "pinned": _text,
        "addressed": route,
        "regions": partial(_list, _text),
        "retry": _whole,
        "patience": duration,
        "watched": duration,
        "cancelled_after": duration,
    }
    return {
        "after": duration,
        "times": _whole,
        "request": partial(_table, request),
        "meets": partial(_table, dict.fromkeys(names, _in_turn)),
        "probe": partial(_table, dict.fromkeys(routes, _does)),
        "verification": partial(_table, dict.fromkeys(routes, _does)),
        "prober": partial(_either, ["asks"]),
        "drain": route,
        "resume": route,
        "streams_end": _truth,
        "sleep": duration,
        "wall_clock_jumps": duration,
        "ranking_for": partial(_table, {word: request[word] for word in ("size", "model", "conversation")}),
        "expect": partial(_table, _expect_words(routes, names, name)),
    }


def _expect_words(routes: Collection[str], names: Collection[str], name: Reader) -> dict[str, Reader]:
    def each(reader: Reader) -> Reader:
        return partial(_table, dict.fromkeys(routes, reader))

    return {
        "asked": partial(_list, partial(_place, names)),
        "races": partial(_list, name),
        "answered_by": partial(_either, (*names, "nobody")),
        "answer": _answer,
        "do_not_retry": _truth,
        "ranking": partial(_list, partial(_place, names)),
        "incumbent": partial(_either, (*routes, "none")),
        "state": each(partial(_either, list(State))),
        "changes": partial(_list, partial(_change, routes)),
        "suspect": partial(_list, partial(_either, routes)),
        "offline": _truth,
        "failures": each(_whole),
        "in_flight": each(_count),
        "limit": each(_range),
        "cooldown_s": each(_range),
        "quarantine": each(_text),
        "round_trip_ms": each(lambda value: value if value == "unmeasured" else _range(value)),
        "first_token_ms": each(_range),
        "score_ms": each(_range),
        "next_probe_s": each(lambda value: value if value == "rests" else _range(value)),
        "probes": partial(_list, partial(_either, routes)),
        "verifications": partial(_list, partial(_either, routes)),
        "replays_left": _range,
    }


# --- Files ---------------------------------------------------------------------------------------------


def read(path: Path) -> Scenario:
    """A scenario, every word of it understood.

    Raises:
        MistakeError: if one is not.
    """
    return parse(path.read_text("utf-8"), path.name)


def parse(text: str, file: str) -> Scenario:
    """The same from the text itself."""
    try:
        written = _table(
            {"title": _text, "why": _text, "options": partial(_table, OPTIONS), "route": list, "step": list},
            tomllib.loads(text),
        )
        _must_have(written, "title", "why", "route", "step")
        routes = tuple(_route(number, each) for number, each in enumerate(written["route"], 1))
    except (MistakeError, tomllib.TOMLDecodeError) as mistake:
        raise MistakeError(f"{file}: {mistake}") from None
    steps = []
    words = _step_words([route["name"] for route in routes])
    for number, each in enumerate(written["step"], 1):
        try:
            steps.append(_step(number, _table(words, each)))
        except MistakeError as mistake:
            raise MistakeError(f"{file}, step {number}: {mistake}") from None
    if not any(step.expected for step in steps):
        raise MistakeError(f"{file}: nothing is expected")
    return Scenario(file, written["title"], written["why"], written.get("options", {}), routes, tuple(steps))


def _route(number: int, given: object) -> dict[str, Any]:
    try:
        table = _table(ROUTE, given)
        _must_have(table, "name")
    except MistakeError as mistake:
        raise MistakeError(f"route {number}: {mistake}") from None
    return table


def _step(number: int, given: dict[str, Any]) -> Step:
    acts = [word for word in ACTIONS if word in given]
    if len(acts) > 1:
        raise MistakeError(f"{' and '.join(acts)}: one thing at a time; make two steps of it")
    if "meets" in given and "request" not in given:
        raise MistakeError("'meets' says what a request meets, and there is no request; write 'request = {}'")
    expected = given.pop("expect", {})
    return Step(number, given, expected)
