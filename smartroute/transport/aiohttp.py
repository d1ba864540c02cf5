"""`SMARTROUTE_BACKEND=aiohttp`: responses are read by aiohttp's parser.

The connections and the pool are those of every other backend: aiohttp's own client and connector do not tell whether a
request was sent, let nothing be done while an answer is overdue, and change what goes over the wire.
"""

import asyncio
import contextlib
import re

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser, RawResponseMessage
from aiohttp.streams import StreamReader

from smartroute.transport.direct import READ_SIZE, AsyncDirectPool
from smartroute.transport.http1 import MOST_OF_HEAD, Incoming

__all__ = ["AiohttpPool"]

_BLANK_LINE = re.compile(rb"\n\r?\n")


class _Flow(BaseProtocol):
    """What aiohttp's parser would hold back. But it is only given what was asked for, and nothing more is read."""

    def pause_reading(self) -> None:
        pass

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        pass


class AiohttpIncoming(Incoming):
    """A response as aiohttp's parser reads it."""

    __slots__ = ("_payload", "_raw", "_reader", "_start")

    def __init__(self) -> None:
        super().__init__()
        self.release()
        loop = asyncio.get_running_loop()
        self._reader = HttpResponseParser(
            _Flow(loop),
            loop,
            READ_SIZE,
            max_line_size=MOST_OF_HEAD,
            max_field_size=MOST_OF_HEAD,
            max_headers=MOST_OF_HEAD,
            read_until_eof=True,
            auto_decompress=False,
        )
        self._payload: StreamReader | None = None
        self._raw, self._start = bytearray(), 0

    def feed(self, data: bytes) -> None:
        if not data:
            self._end()
        elif self._payload is not None:
            self._feed_body(data)
        else:
            self._feed_head(data)
        self._count(data)

    def _feed_head(self, data: bytes) -> None:
        self._start = max(0, len(self._raw) - 2)
        self._raw += data
        if not self._raw.startswith(b"HTTP/"[: len(self._raw)]):
            self._refuse("The response is not HTTP.")
        # Each head is parsed on its own: with something wrong behind it, the parser would not tell of it.
        while self.error is None and (blank := _BLANK_LINE.search(self._raw, self._start)):
            head, self._raw, self._start = bytes(self._raw[: blank.end()]), self._raw[blank.end() :], 0
            if not head.startswith(b"HTTP/"):  # the body of an informational response, which has none
                self._refuse("The response is not HTTP.")
                break
            for message, payload in self._parse(head):
                codings = message.headers.getall("transfer-encoding", ())
                if (
                    message.code < 100
                    or message.code == 101
                    or any(coding.strip().lower() != "chunked" for coding in codings)
                ):
                    self._refuse("The response is not HTTP/1.1 as we understand it.")
                elif message.code >= 200:
                    self.status, self._payload = message.code, payload
                    self.version = b"%d.%d" % message.version
                    self.reason = (message.reason or "").encode(errors="surrogateescape")
                    self.headers = [(name, value.strip(b" \t")) for name, value in message.raw_headers]
                    self.reusable = not message.should_close
                    self._feed_body(bytes(self._raw))
                    return

    def _feed_body(self, data: bytes) -> None:
        payload = self._payload
        if payload is None:
            return
        if data and self._parse(data):
            self.reusable = False  # another response, for which nobody asked
        if piece := payload.read_nowait():
            self.pieces.append(piece)
        self.over = payload.is_eof()

    def _end(self) -> None:
        if self._payload is not None and not self.over:
            with contextlib.suppress(Exception):  # whatever it says, what counts is whether the body is whole
                self._reader.feed_eof()
            self._feed_body(b"")
            self._framed = not self.over
        super()._end()

    def _parse(self, data: bytes) -> list[tuple[RawResponseMessage, StreamReader]]:
        try:
            return list(self._reader.feed_data(data)[0])
        except Exception as error:
            if self._payload is None or not self._payload.is_eof():  # without its text, which may quote the answer
                self._refuse(f"The response is not HTTP/1.1: {type(error).__name__}.")
            self.reusable = False
            return []


class AiohttpPool(AsyncDirectPool):
    """A pool whose responses are read by aiohttp's parser."""

    reader = AiohttpIncoming
