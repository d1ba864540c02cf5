"""A region: a fast server over TLS 1.3 that takes a fixed time for each answer.

Given its name, its address, a certificate with its key, and the seconds to its first token. Each line on its standard
input is a command, and answered with a line of JSON; it ends when that is closed.
"""

import asyncio
import json
import selectors
import ssl
import sys
from collections import Counter
from contextlib import suppress

__all__ = ["PORT", "PROBE", "TOKENS"]

PORT = 443
PROBE = 0.001
"""Seconds that a GET takes."""
TOKENS = 5
REST = 0.010
"""Seconds from the first token to the others, which come together."""
OK = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b\r\n\r\n"
MODELS = b'{"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "wan"}]}'


class Server:
    """One region."""

    def __init__(self, name: str, service: float) -> None:
        self.service = service
        self.factor = 1.0
        self.speaks = asyncio.Event()
        self.speaks.set()
        self.seen: Counter[str] = Counter()
        self.open: set[asyncio.StreamWriter] = set()
        events = [
            _event({"role": "assistant", "content": ""}),
            *(_event({"content": f"{name} "}) for _ in range(TOKENS)),
        ]
        self.first = OK % (b"text/event-stream", b"Transfer-Encoding: chunked") + b"".join(events[:2])
        self.rest = b"".join((*events[2:], _event({}, "stop"), _chunk(b"data: [DONE]\n\n")))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection."""
        self.open.add(writer)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    await self._answer(reader, writer)
        finally:
            self.open.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        """Reset all connections."""
        for writer in self.open:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        at = head.find(b"content-length:")
        await reader.readexactly(int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0)
        began = asyncio.get_running_loop().time()
        is_call = head.startswith(b"post")
        self.seen[f"{writer.get_extra_info('peername')[0]} {'calls' if is_call else 'probes'}"] += 1
        await self.speaks.wait()
        await _until(began + (self.service if is_call else PROBE) * self.factor)
        if not is_call:
            writer.write(OK % (b"application/json", b"Content-Length: %d" % len(MODELS)) + MODELS)
            return
        writer.write(self.first)
        await asyncio.sleep(REST)
        writer.write(self.rest)
        writer.write(b"0\r\n\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return _chunk(b"data: %b\n\n" % json.dumps(event).encode())


async def _until(when: float) -> None:
    await asyncio.sleep(max(0.0, when - asyncio.get_running_loop().time()))


async def main(name: str, host: str, certificate: str, service: float) -> None:
    """Serve until standard input ends."""
    region = Server(name, service)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.load_cert_chain(certificate)
    listener: asyncio.Server | None = None

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(region.serve, host, PORT, ssl=tls, backlog=256)

    listener = await listen()
    print(json.dumps("listening"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        match line.split():
            case ["refuse"]:
                listener.close()
                region.hang_up()
            case ["hang-up"]:
                region.hang_up()
            case ["silent"]:
                region.speaks.clear()
            case ["slow", factor]:
                region.factor = float(factor)
            case ["heal"]:
                region.speaks.set()
                region.factor = 1.0
                if not listener.is_serving():
                    listener = await listen()
            case _:
                pass  # it asks only what was seen
        print(json.dumps(region.seen), flush=True)
    listener.close()
    region.hang_up()


if __name__ == "__main__":
    _name, _host, _certificate, _service = sys.argv[1:]
    with asyncio.Runner(  # select's timeouts are exact, epoll's are whole milliseconds
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        runner.run(main(_name, _host, _certificate, float(_service)))
