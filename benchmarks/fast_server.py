"""The fastest OpenAI-compatible answers there are in Python: fixed bytes from an asyncio protocol.

Run as a process of its own, so that it does not share an interpreter with what is measured.
Prints the port it listens on; lives until its standard input closes.

A request says what it wants: `stream`, `max_tokens` (so many chunks), and as its model `fixed` (all chunks are written
at once), `paced` (one a millisecond) or `held` (the first two, and then nothing more). `GET /connections` says how many
connections have been made.
"""

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from typing import cast

__all__ = ["COMPLETION", "PACE"]

PACE = 0.001
"""Seconds between two chunks of a paced stream."""
LOOKED_AT = 400
"""Bytes at either end of a body in which to look for what it asks for: the prompt is in between."""
MODEL = re.compile(rb'"model": ?"([^"]*)"')
CHUNKS = re.compile(rb'"max_tokens": ?([0-9]+)')

COMPLETION = json.dumps(
    {
        "id": "chatcmpl-fixed",
        "object": "chat.completion",
        "created": 1,
        "model": "fixed",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def answer(body: bytes) -> bytes:
    """A whole response with this body."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def event(delta: dict[str, str], finish: str | None = None) -> bytes:
    """One chunk of a completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    data = {
        "id": "chatcmpl-fixed",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fixed",
        "choices": [choice],
    }
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@cache
def events(chunks: int) -> tuple[bytes, ...]:
    """A completion in so many chunks, each a chunk of HTTP too."""
    words = [event({"role": "assistant", "content": ""}), *(event({"content": f" word{n}"}) for n in range(chunks - 2))]
    parts = [*words, event({}, "stop"), b"data: [DONE]\n\n"]
    return tuple(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


@cache
def stream(chunks: int) -> bytes:
    """All of it at once."""
    return STREAM_HEAD + b"".join(events(chunks)) + STREAM_END


class Server(asyncio.Protocol):
    """Answers a request as soon as its last byte is there."""

    connections = 0
    fixed = answer(COMPLETION)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Server.connections += 1
        self.transport = cast("asyncio.Transport", transport)
        self.buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = bytes(self.buffer[end + 4 : end + 4 + length])
            del self.buffer[: end + 4 + length]
            if head.startswith(b"get /connections "):
                self.transport.write(answer(b"%d" % Server.connections))
            else:
                self.answer(body[:LOOKED_AT] + body[-LOOKED_AT:])

    def answer(self, asked: bytes) -> None:
        if b'"stream":true' not in asked and b'"stream": true' not in asked:
            self.transport.write(self.fixed)
            return
        model, chunks = MODEL.search(asked), CHUNKS.search(asked)
        count = int(chunks[1]) if chunks else 200
        kind = model[1] if model else b"fixed"
        if kind == b"held":
            self.transport.write(STREAM_HEAD + b"".join(events(count)[:2]))
        elif kind == b"paced":
            self.transport.write(STREAM_HEAD)
            self.step(iter((*events(count), STREAM_END)))
        else:
            self.transport.write(stream(count))

    def step(self, parts: Iterator[bytes]) -> None:
        if (part := next(parts, None)) is not None and not self.transport.is_closing():
            self.transport.write(part)
            asyncio.get_running_loop().call_later(PACE, self.step, parts)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
