"""The gates that hold a response until it is clear that it is an answer, and what watches it after.

All of it is fed bytes and does no I/O, so that the sync and the async driver share it.
"""

import json
import re
from contextlib import suppress
from typing import Any, Protocol, assert_never

from smartroute.fireworks import WAITS
from smartroute.policy.messages import Attempt, Content, Gate, Spoiled, Whole
from smartroute.policy.outcome import Failure, status_of_error

__all__ = ["Holder", "Tail", "begins", "holder"]

MOST_HELD_BEFORE_CONTENT = 256 * 1024
"""Bytes of a stream that may go by without content before it is handed on as it is."""
MOST_EVENTS_BEFORE_CONTENT = 1_000
MOST_HELD_WHOLE = 32 * 1024 * 1024
"""Bytes up to which a body is held whole, so that one that ends short still fails over."""
MOST_HELD_OF_ERROR = 1024 * 1024
CHUNK_OVERHEAD = 48
"""Bytes that a chunk in hand costs beside its own: what comes in tiny chunks must not hold many times its size."""
MOST_CHUNKS, TINY = 256, 1024
"""So many chunks of a body become one if they are smaller than that in the mean (bytes), for the same reason."""
_DONE = re.compile(rb"[\r\n]data: ?\[DONE\]")
_FAILED = re.compile(rb'(?P<name>[\r\n]data: ?)\{\s*"error"\s*:\s*[{"]')
_LINE_END = re.compile(rb"[\r\n]")
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"[^"]')
TAIL = 4096
"""Bytes of a stream's end in which its last words must stand."""

Verdict = Content | Whole | Spoiled


def begins(raw: bytes, attempt: Attempt, *, streaming: bool) -> bool:
    """Whether an answer begins in these bytes of a connection. Its head and its framing may be among them."""
    if not streaming:
        if attempt.status is None:
            head, _, body = raw.partition(b"\r\n\r\n")
            return head.startswith(b"HTTP/1.1 2") and b"{" in body
        return attempt.status < 300 and b"{" in raw
    return any(_is_content(line[5:]) for line in raw.splitlines() if line.startswith(b"data:"))


def _is_content(data: bytes) -> bool:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(event, dict) and not event.get("error") and _has_content(event)


class Holder(Protocol):
    """Takes a response's chunks until it can say what they are."""

    chunks: list[bytes]

    def feed(self, chunk: bytes) -> Verdict | None:
        """Take a chunk; a verdict ends the holding."""
        ...

    def end(self) -> Verdict:
        """The body is over."""
        ...


def holder(gate: Gate, attempt: Attempt, *, encoded: bool = False) -> Holder:
    """What holds a response at this gate. `encoded`: its content cannot be looked at."""
    match gate:
        case Gate.FIRST_CONTENT:
            return _FirstContent(attempt)
        case Gate.WHOLE:
            return (_Whole if encoded else _Answer)(attempt, MOST_HELD_WHOLE)
        case Gate.ERROR:
            return _Error(attempt, MOST_HELD_OF_ERROR)
        case _:
            assert_never(gate)


class _Whole:
    """Holds a body until it is complete, or longer than may be held."""

    def __init__(self, attempt: Attempt, most: int) -> None:
        self.chunks: list[bytes] = []
        self._attempt = attempt
        self._left = most
        self._packed = 0

    def feed(self, chunk: bytes) -> Verdict | None:
        self.chunks.append(chunk)
        if len(self.chunks) - self._packed > MOST_CHUNKS:
            loose = self.chunks[self._packed :]
            if sum(map(len, loose)) < MOST_CHUNKS * TINY:
                self.chunks[self._packed :] = [b"".join(loose)]
            self._packed = len(self.chunks)
        self._left -= len(chunk)
        return Content(self._attempt) if self._left < 0 else None

    def end(self) -> Verdict:
        return Whole(self._attempt)


class _Answer(_Whole):
    """Holds an answer, which has to be a JSON object."""

    def end(self) -> Verdict:
        first = next((chunk for chunk in self.chunks if chunk.strip()), b"").lstrip()
        last = next((chunk for chunk in reversed(self.chunks) if chunk.strip()), b"").rstrip()
        if not first:
            return Spoiled(self._attempt, Failure.EMPTY, "an empty body")
        if not first.startswith(b"{"):
            return Spoiled(self._attempt, Failure.GARBLED, "a body that is not a JSON object")
        if not last.endswith(b"}"):
            return Spoiled(self._attempt, Failure.TRUNCATED, "a body that ends within its JSON")
        return Whole(self._attempt)


class _Error(_Whole):
    """Holds an error, and notes what its body calls it: that may say more than its status code."""

    def end(self) -> Verdict:
        with suppress(ValueError, RecursionError):
            body = json.loads(b"".join(self.chunks))
            error = body.get("error") if isinstance(body, dict) else None
            code = error.get("code") if isinstance(error, dict) else None
            if isinstance(code, str):
                self._attempt.error_code = code
                if self._attempt.wait is None:
                    self._attempt.wait = WAITS.get(code)
        return Whole(self._attempt)


class _FirstContent:
    """Holds an event stream (HTML standard, 9.2) until its first content.

    A delta that only names the role, a comment, a keep-alive and a usage report are not content; text,
    reasoning, a refusal, a tool call, log probabilities and a finish reason are.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.chunks: list[bytes] = []
        self._attempt = attempt
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._held = 0
        self._events = 0
        self._after_return = False

    def feed(self, chunk: bytes) -> Verdict | None:
        self.chunks.append(chunk)
        if not chunk:
            return None
        self._held += len(chunk) + CHUNK_OVERHEAD
        if self._after_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_return = chunk.endswith(b"\r")
        self._line.append(chunk)
        if _LINE_END.search(chunk):
            lines = b"".join(self._line).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
            self._line = [lines.pop()]
            for line in lines:
                if verdict := self._take(line):
                    return verdict
        if self._held > MOST_HELD_BEFORE_CONTENT or self._events > MOST_EVENTS_BEFORE_CONTENT:
            return Content(self._attempt)
        return None

    def end(self) -> Verdict:
        if any(self._line) or self._data:
            return self._spoiled(Failure.TRUNCATED, "the stream ended within its first events")
        if self._events:
            return self._spoiled(Failure.TRUNCATED, "the stream ended before any content")
        return self._spoiled(Failure.EMPTY, "an empty stream")

    def _take(self, line: bytes) -> Verdict | None:
        if line:
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            return None
        data, self._data = b"\n".join(self._data), []
        if not data:
            return None
        self._events += 1
        if data.startswith(b"[DONE]"):
            return self._spoiled(Failure.EMPTY, "the stream was done before any content")
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            return self._spoiled(Failure.GARBLED, "an event that is not JSON")
        if not isinstance(event, dict):
            return self._spoiled(Failure.GARBLED, "an event that is not a JSON object")
        if event.get("error"):
            status = status_of_error(event["error"])
            return Spoiled(self._attempt, Failure.ERROR_EVENT, f"an error event ({status or 'no status'})", status)
        return Content(self._attempt) if _has_content(event) else None

    def _spoiled(self, failure: Failure, detail: str) -> Spoiled:
        return Spoiled(self._attempt, failure, detail)


def _has_content(event: dict[str, Any]) -> bool:
    choices = event.get("choices")
    if not isinstance(choices, list):
        return True  # a dialect of its own: not ours to hold back
    return any(not isinstance(choice, dict) or _says_something(choice) for choice in choices)


def _says_something(choice: dict[str, Any]) -> bool:
    if choice.get("finish_reason") or choice.get("text") or choice.get("logprobs"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")


class Tail:
    """Remembers how a stream ended, without parsing it."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = b"\n"  # a stream begins at a line's start; what is left of a long one may not

    def feed(self, chunk: bytes) -> None:
        """Take note of a chunk that was handed on."""
        self._bytes = (self._bytes + chunk)[-TAIL:] if len(chunk) < TAIL else chunk[-TAIL:]

    @property
    def done(self) -> bool:
        """Whether the stream has said its last word: `[DONE]`, which JSON cannot hold at a line's start."""
        return _DONE.search(self._bytes) is not None

    @property
    def error(self) -> tuple[bool, int | None]:
        """Whether it has come to an error event, of which the SDK makes an exception; and the status that it names."""
        found = _FAILED.search(self._bytes)
        if found is None:
            return False, None
        line = _LINE_END.split(self._bytes[found.end("name") :], 1)[0]
        try:
            return True, status_of_error(json.loads(line)["error"])
        except (ValueError, KeyError, TypeError):
            return True, None

    @property
    def complete(self) -> bool:
        """Whether a stream that ends here is whole: done, or after a finish reason and between events.

        Within JSON's strings a quote is escaped, so model output cannot fake a finish reason. Of several choices
        the one that says something last has to have finished.
        """
        if self.done:
            return True
        ended = self._bytes.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
        last = self._bytes.rfind(b'"finish_reason"')
        return ended and last >= 0 and _FINISHED.match(self._bytes, last) is not None
