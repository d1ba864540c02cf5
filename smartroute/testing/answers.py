"""What a region answers, and what each fault makes of it. Values only: `region` does the sending."""

import base64
import gzip
import json
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from http.client import responses as phrases
from typing import Literal, assert_never

from smartroute.testing.faults import (
    CloseAfterAnswer,
    Cut,
    Drip,
    EmptyStream,
    EndWithoutDone,
    ErrorEvent,
    ExtraHeaders,
    Fault,
    GarbledEvent,
    Gzip,
    Reset,
    Silence,
    Slow,
    Stall,
    Status,
    TruncatedEvent,
)

__all__ = ["Answer", "apply", "completion", "embeddings", "error", "fixed", "models", "stream"]

_CREATED = 1_790_000_000
_VECTOR = (0.25, -0.5, 0.75, -1.0)
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is yet to be sent. Its *parts* are its head and its pieces, framed.

    Attributes:
        pieces: the events of a stream, or the halves of a body.
        length: what the head says of the body's length; None for a stream, which is chunked.
        delay: seconds before the first part.
        paced: the indices of parts that are sent `pause` seconds after the part before.
        stall: the index of the part that waits until the region is healed.
        cut: how many parts are sent; None: all.
        ending: what becomes of the connection.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    pieces: tuple[bytes, ...]
    length: int | None
    delay: float = 0.0
    paced: range = range(0)
    pause: float = 0.0
    stall: int | None = None
    cut: int | None = None
    ending: Literal["keep", "close", "reset"] = "keep"

    def parts(self) -> list[bytes]:
        """The bytes on the wire, in the order they are sent."""
        chunked = self.length is None
        framing = ("transfer-encoding", "chunked") if chunked else ("content-length", str(self.length))
        lines = [f"HTTP/1.1 {self.status} {phrases.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in (*self.headers, framing)]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        if not chunked:
            return [head, *self.pieces][: self.cut]
        return [head, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in self.pieces), b"0\r\n\r\n"][: self.cut]


def fixed(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """An answer with this body, whatever it is."""
    return Answer(status, tuple(headers.items()), _halves(body), len(body))


def error(status: int, message: str, code: str | None = None) -> Answer:
    """An error in the shape that OpenAI gives it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return _json({"error": {"message": message, "type": kind, "param": None, "code": code}}, status)


def models(names: tuple[str, ...]) -> Answer:
    """The list of models."""
    data = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "smartroute"} for name in names]
    return _json({"object": "list", "data": data})


@lru_cache(maxsize=256)
def completion(region: str, model: str, tokens: int, *, chat: bool) -> Answer:
    """A whole chat or text completion, `tokens` tokens long, the first of them the region's name."""
    text = "".join(_tokens(region, tokens))
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return _json(
        {
            **_preamble(region, model, "chat.completion" if chat else "text_completion"),
            "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": "stop"}],
            "usage": _usage(tokens),
        }
    )


@lru_cache(maxsize=256)
def stream(region: str, model: str, tokens: int, *, chat: bool, usage: bool) -> Answer:
    """The same as a stream of events."""
    preamble = _preamble(region, model, "chat.completion.chunk" if chat else "text_completion")

    def event(said: dict[str, object], finish: str | None = None) -> bytes:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return _event({**preamble, "choices": [choice]})

    pieces = [event({"delta": {"role": "assistant", "content": ""}})] if chat else []
    pieces += [event({"delta": {"content": token}} if chat else {"text": token}) for token in _tokens(region, tokens)]
    first = len(pieces) - tokens + 1  # the index of the first token's part: the head is part 0
    pieces.append(event({"delta": {}} if chat else {"text": ""}, "stop"))
    if usage:
        pieces.append(_event({**preamble, "choices": [], "usage": _usage(tokens)}))
    headers = (("content-type", "text/event-stream"), ("cache-control", "no-cache"))
    return Answer(200, headers, (*pieces, _DONE), None, paced=range(first + 1, first + tokens))


def embeddings(model: str, count: int, *, encoded: bool) -> Answer:
    """The same vector `count` times, as numbers or in base64 (which is what the SDK asks for)."""
    packed = base64.b64encode(struct.pack(f"<{len(_VECTOR)}f", *_VECTOR)).decode()
    vector = packed if encoded else list(_VECTOR)
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(count)]
    usage = {"prompt_tokens": count, "total_tokens": count}
    return _json({"object": "list", "model": model, "data": data, "usage": usage})


def apply(fault: Fault, answer: Answer) -> Answer:  # noqa: C901 - one case for each fault
    """What becomes of `answer` under `fault`. Faults of streams leave all other answers as they are."""
    match fault:
        case EmptyStream() | EndWithoutDone() | ErrorEvent() | GarbledEvent() | TruncatedEvent() if (
            answer.length is not None
        ):
            return answer
        case Reset():
            return replace(answer, cut=0, ending="reset")
        case Silence():
            return replace(answer, stall=0)
        case Slow(factor):
            return replace(answer, delay=answer.delay * factor, pause=answer.pause * factor)
        case Status(status, headers, body):
            return replace(_other(status, headers, body), delay=answer.delay, ending=answer.ending)
        case Stall(after):
            return replace(answer, stall=after + 1)
        case Cut(after, reset):
            return replace(answer, cut=after + 1, ending="reset" if reset else "close")
        case ErrorEvent(after, details):
            return replace(answer, pieces=(*answer.pieces[:after], _event({"error": details})))
        case GarbledEvent(after):
            garbled = b'data: {"id": "chatcm\x00\xff\n\n'
            return replace(answer, pieces=(*answer.pieces[:after], garbled, *answer.pieces[after + 1 :]))
        case TruncatedEvent(after):
            halves = (_halves(piece)[0] for piece in answer.pieces[after : after + 1])
            return replace(answer, pieces=(*answer.pieces[:after], *halves))
        case EmptyStream(done):
            return replace(answer, pieces=(_DONE,) if done else ())
        case EndWithoutDone(finish):
            unfinished = (piece for piece in answer.pieces if b'"finish_reason": null' in piece)
            return replace(answer, pieces=answer.pieces[:-1] if finish else tuple(unfinished))
        case Drip(interval):
            drops = tuple(bytes((byte,)) for piece in answer.pieces for byte in piece)
            return replace(answer, pieces=drops, paced=range(2, sys.maxsize), pause=interval)
        case CloseAfterAnswer():
            return replace(answer, ending="close")
        case ExtraHeaders(headers):
            return replace(answer, headers=(*answer.headers, *headers.items()))
        case Gzip():
            return _compressed(answer)
        case _:
            assert_never(fault)


def _other(status: int, headers: Mapping[str, str], body: bytes | Mapping[str, object] | None) -> Answer:
    if isinstance(body, Mapping):
        answer = _json(body, status)
    elif body is None and status >= 400:
        answer = error(status, f"scripted to answer {status}")
    else:
        return fixed(status, headers, body or b"")
    given = {name.lower() for name in headers}
    own = tuple(pair for pair in answer.headers if pair[0] not in given)
    return replace(answer, headers=(*own, *headers.items()))


def _compressed(answer: Answer) -> Answer:
    headers = (*answer.headers, ("content-encoding", "gzip"))
    if answer.length is not None:
        body = gzip.compress(b"".join(answer.pieces), mtime=0)
        return replace(answer, headers=headers, pieces=_halves(body), length=len(body))
    deflate = zlib.compressobj(wbits=31)
    pieces = [deflate.compress(piece) + deflate.flush(zlib.Z_SYNC_FLUSH) for piece in answer.pieces]
    return replace(answer, headers=headers, pieces=(*pieces, deflate.flush()))


def _json(value: Mapping[str, object], status: int = 200) -> Answer:
    return fixed(status, {"content-type": "application/json"}, json.dumps(value).encode())


def _event(value: Mapping[str, object]) -> bytes:
    return b"data: %b\n\n" % json.dumps(value).encode()


def _halves(body: bytes) -> tuple[bytes, bytes]:
    middle = len(body) // 2
    return body[:middle], body[middle:]


def _tokens(region: str, count: int) -> Iterator[str]:
    """Tokens that a test can tell apart: `frankfurt`, ` 2`, ` 3`, ..."""
    return (f" {number}" if number > 1 else region for number in range(1, count + 1))


def _preamble(region: str, model: str, kind: str) -> dict[str, object]:
    return {"id": f"cmpl-{region}", "object": kind, "created": _CREATED, "model": model, "system_fingerprint": region}


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
