"""Over HTTP/2, which is the caller's to turn on: the same answers, and a refused stream was never sent."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest

from smartroute import Config, Route
from tests.transport.kit import CALLERS, CHAT, ROUND_TRIPS, Caller, World, eventually, measure

SPEAKS = pytest.mark.parametrize("caller", [name for name in CALLERS if "aiohttp" not in name], indirect=True)
ANSWER = {"id": "1", "object": "chat.completion", "model": "m", "created": 1, "choices": []}


class Server:
    """A server that speaks HTTP/2 without TLS. Refuses so many streams, then answers each of them."""

    def __init__(self, refuses: int = 0) -> None:
        self.refuses = refuses
        self.seen: list[dict[bytes, bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._socks = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for sock in self._socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._socks.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        with suppress(OSError):
            while True:
                sock.sendall(connection.data_to_send())
                data = sock.recv(65536)
                if not data:
                    return
                for event in connection.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self.seen.append({bytes(name): bytes(value) for name, value in event.headers})
                    if isinstance(event, h2.events.StreamEnded):
                        self._answer(connection, event.stream_id)

    def _answer(self, connection: h2.connection.H2Connection, stream: int) -> None:
        if self.refuses:
            self.refuses -= 1
            connection.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
            return
        connection.send_headers(stream, [(":status", "200"), ("content-type", "application/json")])
        connection.send_data(stream, json.dumps(ANSWER).encode(), end_stream=True)


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server, Server]]:
    three = Server(refuses=1), Server(refuses=1), Server()
    yield three
    for server in three:
        server.close()


def client_of(caller: Caller, *servers: Server) -> Any:
    routes = [
        Route(server.url, name=name, api_key="fake-key") for name, server in zip(ROUND_TRIPS, servers, strict=False)
    ]
    config = Config(routes, global_url="http://127.0.0.1:9/v1", probe_interval=0)
    return measure(caller.client(config, http1=False, http2=True))


@SPEAKS
def test_a_refused_stream_was_never_sent_and_costs_nothing(
    caller: Caller, servers: tuple[Server, Server, Server], world: World
) -> None:
    client = client_of(caller, *servers)
    client.router._replays.tokens = 0.0  # the first move is free, the second one would cost one
    response = caller.do(client.post, "http://127.0.0.1:9/v1/chat/completions", json=CHAT)
    assert (response.http_version, response.headers["x-smartroute-route"]) == ("HTTP/2", "third")
    assert [attempt.endpoint for attempt in response.extensions["smartroute"].attempts] == [*ROUND_TRIPS]
    assert [len(server.seen) for server in servers] == [1, 1, 1]


@SPEAKS
def test_many_requests_share_a_connection(caller: Caller, servers: tuple[Server, Server, Server], world: World) -> None:
    client = client_of(caller, servers[2])
    for _ in range(3):
        response = caller.do(client.post, "http://127.0.0.1:9/v1/chat/completions", json=CHAT)
        assert response.json() == ANSWER
    assert len(servers[2]._socks) == 2  # the listener, and one connection
    assert [seen[b"authorization"] for seen in servers[2].seen] == [b"Bearer fake-key"] * 3
    assert eventually(lambda: [each.in_flight for each in client.router.status()] == [0])
