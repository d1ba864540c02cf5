"""The fastest OpenAI-compatible answer there is on loopback: fixed bytes from an asyncio protocol.

Run as a process of its own, so that it does not share an interpreter with what is measured.
Prints the port it listens on; lives until its standard input closes.
"""

import asyncio
import json
import sys
from typing import cast


def completion() -> bytes:
    body = json.dumps(
        {
            "id": "chatcmpl-fixed",
            "object": "chat.completion",
            "created": 1,
            "model": "fixed",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
    ).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


def stream(chunks: int) -> bytes:
    def event(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        data = {
            "id": "chatcmpl-fixed",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "fixed",
            "choices": [choice],
        }
        return b"data: " + json.dumps(data).encode() + b"\n\n"

    events = [
        event({"role": "assistant"}),
        *(event({"content": f" word{n}"}) for n in range(chunks)),
        event({}, "stop"),
    ]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*events, b"data: [DONE]\n\n"])
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        + framed
        + b"0\r\n\r\n"
    )


class Server(asyncio.Protocol):
    """Answers a request as soon as its last byte is there."""

    fixed = completion()
    streamed = stream(200)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
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
            wants_stream = b'"stream":true' in body[-200:] or b'"stream": true' in body[-200:]
            self.transport.write(self.streamed if wants_stream else self.fixed)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
