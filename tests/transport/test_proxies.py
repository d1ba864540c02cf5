"""Proxies of the environment are honoured, as the family's own client honours them."""

import http.client
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from smartroute.testing import Stall, Status
from tests.transport.kit import TEXT, Caller, World, eventually, measure, posts


class Proxy(ThreadingHTTPServer):
    """A forward proxy that notes what passes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.targets: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def forward(self) -> None:
        self.server.targets.append((self.command, self.path))
        _, _, host, path = self.path.split("/", 3)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        connection = http.client.HTTPConnection(host, timeout=10)
        try:
            connection.request(self.command, f"/{path}", body, dict(self.headers.items()))
            answer = connection.getresponse()
            self.pass_on(answer)
        except OSError:
            self.send_error(502)
        finally:
            connection.close()

    def pass_on(self, answer: http.client.HTTPResponse) -> None:
        """The answer as it comes."""
        length = answer.headers["content-length"]
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers["content-type"])
        self.send_header(*(("transfer-encoding", "chunked") if length is None else ("content-length", length)))
        self.end_headers()
        while content := answer.read1():
            self.wfile.write(content if length else b"%x\r\n%b\r\n" % (len(content), content))
        if length is None:
            self.wfile.write(b"0\r\n\r\n")

    def tunnel(self) -> None:
        """What is sealed passes as it is, both ways."""
        self.server.targets.append((self.command, self.path))
        host, port = self.path.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as far:
            self.send_response(200)
            self.end_headers()
            others = {self.connection: far, far: self.connection}
            heard = set(others)
            with suppress(OSError):
                while heard:
                    for end in select.select(list(heard), [], [])[0]:
                        if data := end.recv(65536):
                            others[end].sendall(data)
                        else:
                            heard.discard(end)
                            others[end].shutdown(socket.SHUT_WR)
        self.close_connection = True

    do_GET = do_POST = forward  # noqa: N815 - http.server's names
    do_CONNECT = tunnel  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Not to stderr."""


@contextmanager
def serving() -> Iterator[Proxy]:
    with Proxy() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with serving() as server:
        yield server


@pytest.fixture
def proxied(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    return proxy


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_routes_are_reached_through_the_proxy(proxied: Proxy, caller: Caller, world: World, stream: bool) -> None:
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    reply = caller.ask(sdk, stream=stream)
    assert (reply.route, reply.text) == ("near", "near" + TEXT)
    assert proxied.targets == [("POST", f"{world.near.url}/chat/completions")]


def test_failover_through_the_proxy(proxied: Proxy, caller: Caller, world: World) -> None:
    world.near.stop()
    world.far.set(Status(503))
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    assert [caller.ask(sdk, stream=True).route for _ in range(3)] == ["global"] * 3
    urls = [region.url + "/chat/completions" for region in (world.near, world.far, world.globe)]
    assert [target for _, target in proxied.targets[:3]] == urls


def test_a_stream_that_is_done_is_closed_at_once(proxied: Proxy, caller: Caller, world: World) -> None:
    """Nothing would limit the wait for the end of a body that the server leaves open."""
    world.near.set(Stall(8))  # all of its events, `[DONE]` the last of them
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url, timeout=20)
    began = time.monotonic()
    reply = caller.ask(sdk, stream=True)
    assert time.monotonic() - began < 10
    assert (reply.route, reply.text) == ("near", "near" + TEXT)
    world.near.heal()  # the proxy would wait on
    status = client.router.status()[1]
    assert (status.failures, status.in_flight) == (0, 0)


def test_probes_go_through_the_proxy(proxied: Proxy, caller: Caller, world: World) -> None:
    sdk = caller.sdk(caller.client(world.config(probe_interval=10)), world.globe.url)
    caller.ask(sdk)
    expected = {("GET", f"{world.near.url}/models"), ("GET", f"{world.far.url}/models")}
    assert eventually(lambda: expected <= set(proxied.targets))


def test_no_proxy_is_respected(proxied: Proxy, caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    client = measure(caller.client(world.config()))
    assert caller.ask(caller.sdk(client, world.globe.url)).route == "near"
    caller.do(client.get, f"{world.globe.url}/models")
    assert proxied.targets == []
    assert posts(world.near) == 1


def test_pass_through_uses_the_proxy_as_the_bare_client_does(proxied: Proxy, caller: Caller, world: World) -> None:
    for client in (caller.plain(), caller.client(world.config())):
        response = caller.do(client.get, f"{world.globe.url}/models?a=%7E", headers={"Authorization": "Bearer fake"})
        assert response.status_code == 401
    one, other = world.globe.requests
    assert one.headers == other.headers
    assert proxied.targets == [("GET", f"{world.globe.url}/models?a=%7E")] * 2


def test_a_client_may_ignore_the_environment(proxied: Proxy, caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config(), trust_env=False))
    assert caller.ask(caller.sdk(client, world.globe.url)).route == "near"
    assert proxied.targets == []


def test_a_proxy_may_be_given(proxy: Proxy, caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config(), proxy=proxy.url))
    assert caller.ask(caller.sdk(client, world.globe.url)).route == "near"
    assert proxy.targets == [("POST", f"{world.near.url}/chat/completions")]


def test_a_dead_proxy_is_the_familys_error(caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    errors = []
    for client in (caller.plain(), caller.client(world.config())):
        with pytest.raises(caller.family.TransportError) as caught:
            caller.do(client.post, f"{world.globe.url}/chat/completions", json={"model": "m", "messages": []})
        errors.append(type(caught.value))
    assert errors[0] is errors[1]
