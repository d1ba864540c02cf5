"""A server's end of a connection: h11 reads it, and what is written may be what h11 would refuse to write."""

import asyncio
import socket
import ssl
import struct
from contextlib import suppress
from typing import cast

import h11

from smartroute.testing.answers import Answer

__all__ = ["Wire"]

_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, zero seconds
_GOODBYE = 0.1  # seconds for the client's half of closing TLS; asyncio would wait for 30


class Wire(asyncio.Protocol):
    """One connection, as the task that serves it sees it; the task is cancelled when the connection is lost."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._task: asyncio.Task[object] | None = None
        self._handed_over = False  # whether the socket is asyncio's to close
        self._transport: asyncio.Transport | None = None
        self._parser = h11.Connection(h11.SERVER)
        self._arrived = asyncio.Event()

    async def open(self, tls: ssl.SSLContext | None) -> None:
        """Begin to read, after the TLS handshake if there is one."""
        self._task = asyncio.current_task()
        self._handed_over = True
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: self, self._sock, ssl=tls, ssl_shutdown_timeout=_GOODBYE if tls else None
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.receive_data(data)
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._task:
            self._task.cancel()

    async def head(self) -> h11.Request:
        """The next request's head.

        Raises:
            h11.RemoteProtocolError: what arrived is no HTTP.
        """
        unread, _ = self._parser.trailing_data
        self._parser = h11.Connection(h11.SERVER)
        if unread:
            self._parser.receive_data(unread)
        return cast("h11.Request", await self._event())

    async def body(self) -> bytes:
        """The rest of the request."""
        pieces: list[bytes] = []
        while isinstance(event := await self._event(), h11.Data):
            pieces.append(event.data)
        return b"".join(pieces)

    async def _event(self) -> object:
        while (event := self._parser.next_event()) is h11.NEED_DATA:
            self._arrived.clear()
            await self._arrived.wait()
        return event

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow the one just read."""
        return self._parser.their_state is h11.DONE

    async def send(self, answer: Answer, healed: asyncio.Event) -> None:
        """Send the answer at its pace; parts with nothing between them in one write."""
        await asyncio.sleep(answer.delay)
        pending: list[bytes] = []
        for index, part in enumerate(answer.parts()):
            if index == answer.stall:
                self._write(pending)
                await healed.wait()
            elif index in answer.paced:
                self._write(pending)
                await asyncio.sleep(answer.pause)
            pending.append(part)
        self._write(pending)

    def _write(self, pending: list[bytes]) -> None:
        if pending and self._transport:
            self._transport.write(b"".join(pending))
            pending.clear()

    async def close(self) -> None:
        """Close in good order. The wait for that ends as the loss of a connection ends everything: cancelled."""
        if self._transport:
            self._transport.close()
        await asyncio.get_running_loop().create_future()

    def reset(self, _: object = None) -> None:
        """Close with a RST, if it is still open."""
        with suppress(OSError):  # already closed
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        if self._transport:
            self._transport.abort()
        elif not self._handed_over:
            self._sock.close()
