"""The pools of what is reached directly, and what reads for them: what goes over the wire, and what is made of answers.

That they keep the promises, all other tests of the transport show.
"""

import asyncio
import socket
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager, suppress
from typing import Any

import httpcore2
import pytest
import trustme

import smartroute.httpx2
from smartroute import Config, ConfigError, Route
from smartroute.testing import Region
from smartroute.transport.aiohttp import AiohttpPool
from smartroute.transport.async_wire import AsyncWire
from smartroute.transport.core import AsyncCorePool, SyncCorePool
from smartroute.transport.direct import AsyncDirectPool, Connection, Shelf, SyncAnswer, SyncDirectPool
from smartroute.transport.http1 import MOST_OF_HEAD, Outgoing
from smartroute.transport.sync_wire import SyncWire
from tests.test_imports import loaded_by
from tests.transport.kit import ASYNC, CHAT, AsyncCaller, World

SECRET = b"fake-secret"
WHOLE = b"HTTP/1.1 200 Fine\r\nContent-Length: 4\r\n\r\nbody"


class Tape:
    """A server that notes what it is sent, and answers each request with the next of its lines."""

    def __init__(self, *lines: bytes, then_close: bool = False) -> None:
        self.heard: list[bytes] = []  # of each connection
        self._lines = iter(lines)
        self._then_close = then_close
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._serving: list[threading.Thread] = []
        self._peers: list[socket.socket] = []
        self._thread.start()

    def close(self) -> None:
        for sock in (self._server, *self._peers):
            with suppress(OSError):  # the other end was quicker
                sock.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in (self._thread, *self._serving):
            thread.join(20)

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            self._peers.append(peer)
            self.heard.append(b"")
            thread = threading.Thread(target=self._serve, args=(peer, len(self.heard) - 1), daemon=True)
            self._serving.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket, number: int) -> None:
        answered = 0
        with peer:
            while data := peer.recv(65536):
                self.heard[number] += data
                ends = self.heard[number].count(b"}") + self.heard[number].count(b"GET")
                if ends > answered:
                    answered = ends
                    peer.sendall(next(self._lines))
                    if self._then_close:
                        return


@contextmanager
def tape(*lines: bytes, then_close: bool = False) -> Iterator[Tape]:
    made = Tape(*lines, then_close=then_close)
    try:
        yield made
    finally:
        made.close()


class Threaded:
    """A sync pool as an async one: each of its calls in a thread."""

    def __init__(self, **options: Any) -> None:
        self._pool = SyncDirectPool(**options)

    @property
    def connections(self) -> Any:
        return self._pool.connections

    async def handle_async_request(self, request: Outgoing) -> Any:
        return ThreadedAnswer(await asyncio.to_thread(self._pool.handle_request, request))

    async def aclose(self) -> None:
        await asyncio.to_thread(self._pool.close)


class ThreadedAnswer:
    def __init__(self, answer: SyncAnswer) -> None:
        self._answer = answer
        self.status, self.headers, self.extensions = answer.status, answer.headers, answer.extensions

    async def aiter_stream(self) -> AsyncIterator[bytes]:
        while piece := await asyncio.to_thread(next, self._answer.iter_stream(), b""):
            yield piece

    async def aclose(self) -> None:
        await asyncio.to_thread(self._answer.close)


POOLS: dict[str, tuple[type[Any], type[Any]]] = {
    "async": (AsyncDirectPool, AsyncWire),
    "aiohttp": (AiohttpPool, AsyncWire),
    "sync": (Threaded, SyncWire),
}
Make = Callable[..., AbstractAsyncContextManager[Any]]
UNLIMITED: dict[str, Any] = {
    "ssl_context": None,
    "max_connections": None,
    "max_keepalive_connections": None,
    "keepalive_expiry": None,
    "local_address": None,
    "socket_options": None,
}


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> Make:
    """Makes a pool of each kind; no connection is left behind."""
    kind, wires = POOLS[request.param]

    @asynccontextmanager
    async def make(**options: Any) -> AsyncIterator[Any]:
        wire = wires(time.monotonic)
        made = kind(**(UNLIMITED | {"network_backend": wire} | options))
        try:
            yield made
        finally:
            await made.aclose()
            if isinstance(wire, AsyncWire):
                await wire.aclose()
            else:
                wire.close()

    return make


def get(url: str, headers: list[tuple[bytes, bytes]] | None = None, **timeouts: float) -> Outgoing:
    core = httpcore2.URL(f"{url}/models")
    return Outgoing(b"GET", core, headers or [(b"Host", b"x")], extensions={"timeout": timeouts})


async def body_of(response: Any) -> bytes:
    """The body of a response, which is then closed."""
    try:
        return b"".join([piece async for piece in response.aiter_stream()])
    finally:
        await response.aclose()


async def read(pool: Any, request: Outgoing) -> bytes:
    """The body of the response to a request."""
    return await body_of(await pool.handle_async_request(request))


# --- What goes over the wire ---------------------------------------------------------------------------------

ODD = {"X-oDd": "a  b", "x-twice": "1", "accept-encoding": "gzip", "cookie": "a=b"}


@pytest.mark.parametrize("to", ["route", "global"])
@pytest.mark.parametrize("headers", [ODD, ODD | {"Transfer-Encoding": "chunked"}], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [1, 200_000])
@pytest.mark.parametrize("backend", ["httptools", "aiohttp"])
def test_the_same_bytes_are_sent_as_over_httpcore(to: str, headers: dict[str, str], size: int, backend: str) -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"choices":[]}'

    async def sent(backend: str) -> bytes:
        with tape(answer) as server:
            base = f"{server.url}/v1%7E/~a"
            routes = [Route(base if to == "route" else "http://127.0.0.1:1/v1", name="near", api_key="fake-key")]
            global_url = "off" if to == "route" else base
            config = Config(routes, global_url=global_url, probe_interval=0, backend=backend)
            async with smartroute.httpx2.AsyncClient(config) as client:
                url = f"{base}/chat/completions?api-version=%7E2~&b=c%2Fd"
                body = b'{"model": "' + b"m" * size + b'"}'
                response = await client.post(url, content=body, headers=headers)
            assert response.headers["x-smartroute-route"] == ("near" if to == "route" else "global")
        return server.heard[0].replace(server.url[7:].encode(), b"HOST")

    ours, theirs = asyncio.run(sent(backend)), asyncio.run(sent("httpcore"))
    assert ours == theirs
    assert ours.startswith(b"POST /v1%7E/~a/chat/completions?api-version=%7E2~")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Host", b"x"), (b"X-Bad", b"a\r\nX-Smuggled: " + SECRET)],
        [(b"Host", b"x"), (b"X-Bad", b"a\nb")],
        [(b"Host", b"x"), (b"X-Bad", b"\x00" + SECRET)],
        [(b"Host", b"x"), (b"X-Bad", b" " + SECRET)],
        [(b"Host", b"x"), (b"X Bad", SECRET)],
        [(b"Host", b"x"), (b"", SECRET)],
        [(b"Host", b"x"), (b"Content-Length", b"5")],
        [(b"Host", b"x"), (b"Content-Length", b"-1")],
        [(b"Host", b"x"), (b"Content-Length", b"9" * 5000)],
        [(b"Host", b"x"), (b"Content-Length", b"4"), (b"Content-Length", b"0")],
        [(b"Host", b"x"), (b"Content-Length", b"0"), (b"Transfer-Encoding", b"gzip, chunked")],
        [(b"Host", b"x"), (b"Transfer-Encoding", b"gzip"), (b"Transfer-Encoding", b"chunked")],
        [(b"Host", b"x"), (b"Content-Length", b"0"), (b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"x")],
        [(b"Host", b"x"), (b"Host", b"y")],
        [(b"Accept", b"*/*")],
    ],
)
async def test_a_request_that_cannot_be_sent_is_not_begun(pool: Make, headers: list[tuple[bytes, bytes]]) -> None:
    with tape() as server:
        async with pool() as ours:
            request = get(server.url, headers)
            with pytest.raises(httpcore2.LocalProtocolError) as caught:
                await ours.handle_async_request(request)
            assert SECRET.decode() not in repr(caught.value)
        assert server.heard == []


async def test_a_request_that_is_the_last_of_its_connection_leaves_none(pool: Make) -> None:
    with tape(WHOLE) as server:
        async with pool() as ours:
            headers = [(b"Host", b"x"), (b"Connection", b"close"), (b"Connection", b"x")]
            assert await read(ours, get(server.url, headers)) == b"body"
            assert ours.connections == []


# --- What comes back -----------------------------------------------------------------------------------------


async def test_a_response_comes_back_as_it_was_sent(pool: Make) -> None:
    head = b"HTTP/1.0 299 Quite \xe9 well\r\nX-oNe:  1 \r\nx-one: 2\r\nEmpty:\r\nContent-Length: 4\r\n\r\n"
    with tape(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + head + b"body") as server:
        async with pool() as ours, httpcore2.AsyncConnectionPool() as theirs:
            mine = await ours.handle_async_request(get(server.url))
            assert await body_of(mine) == b"body"
            with tape(head + b"body") as other:
                expected = await theirs.request("GET", f"{other.url}/models")
    assert (mine.status, mine.headers) == (expected.status, expected.headers)
    for name in ("http_version", "reason_phrase"):
        assert mine.extensions[name] == expected.extensions[name]


@pytest.mark.parametrize(
    "length", [b"Content-Length: 4\r\n\r\nbody", b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("rest", [b"", WHOLE, SECRET])
async def test_what_follows_a_response_spoils_the_connection_not_the_response(
    pool: Make, length: bytes, rest: bytes
) -> None:
    with tape(b"HTTP/1.1 200 Fine\r\n" + length + rest, WHOLE) as server:
        async with pool() as ours:
            assert await read(ours, get(server.url)) == b"body"
            assert await read(ours, get(server.url)) == b"body"
        assert len(server.heard) == (2 if rest else 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + SECRET,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n" + SECRET + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 2 * MOST_OF_HEAD + b"\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\n" + SECRET + b"\r\n\r\n",
        SECRET + b"\r\n\r\n",
    ],
)
async def test_what_is_no_whole_response_is_an_error(pool: Make, answer: bytes) -> None:
    with tape(answer, then_close=True) as server:
        async with pool() as ours:
            with pytest.raises((httpcore2.RemoteProtocolError, httpcore2.NetworkError)) as caught:
                await read(ours, get(server.url, read=20))
            assert SECRET.decode() not in f"{caught.value!r} {caught.value.__cause__!r}"
            assert ours.connections == []


async def test_what_is_not_http_is_refused_though_the_connection_stays_open(pool: Make) -> None:
    with tape(b"\x15\x03\x03") as server:  # a TLS alert
        async with pool() as ours:
            with pytest.raises(httpcore2.RemoteProtocolError):
                await read(ours, get(server.url, read=20))


async def test_a_body_without_a_length_ends_with_its_connection(pool: Make) -> None:
    with tape(b"HTTP/1.1 200 OK\r\n\r\nbody", then_close=True) as server:
        async with pool() as ours:
            assert await read(ours, get(server.url)) == b"body"
            assert ours.connections == []


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_keeps_its_connection(pool: Make, status: int) -> None:
    with tape(b"HTTP/1.1 %d x\r\n\r\n" % status, WHOLE) as server:
        async with pool() as ours:
            assert await read(ours, get(server.url)) == b""
            assert await read(ours, get(server.url)) == b"body"
        assert len(server.heard) == 1


# --- The pool ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["async", "aiohttp"], indirect=True)
async def test_a_request_waits_for_its_turn_and_no_longer(pool: Make) -> None:
    with tape(WHOLE, WHOLE, WHOLE) as server:
        async with pool(max_connections=1) as ours:
            first = await ours.handle_async_request(get(server.url))
            with pytest.raises(httpcore2.PoolTimeout):
                await ours.handle_async_request(get(server.url, pool=0.01))
            gone = asyncio.create_task(read(ours, get(server.url)))
            second = asyncio.create_task(read(ours, get(server.url, pool=20)))
            await asyncio.sleep(0)
            gone.cancel()
            await first.aclose()
            assert await second == b"body"
            assert await read(ours, get(server.url, pool=5)) == b"body"
            with pytest.raises(asyncio.CancelledError):
                await gone
        assert len(server.heard) == 1


async def test_a_thread_waits_for_its_turn_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    put_back = Shelf.put_back

    def put_back_slowly(*args: Any, **options: Any) -> Any:
        time.sleep(0.05)  # whose turn it is next finds the connection all the same
        return put_back(*args, **options)

    monkeypatch.setattr(Shelf, "put_back", put_back_slowly)
    wire = SyncWire(time.monotonic)
    ours = SyncDirectPool(network_backend=wire, **UNLIMITED | {"max_connections": 1})
    with tape(WHOLE, WHOLE) as server, closing(wire), closing(ours):
        first = ours.handle_request(get(server.url))
        with pytest.raises(httpcore2.PoolTimeout):
            ours.handle_request(get(server.url, pool=0.01))
        waiting = asyncio.create_task(asyncio.to_thread(ours.handle_request, get(server.url, pool=20)))
        await asyncio.sleep(0.1)  # it waits by now, or has not begun, which proves less
        assert list(first.iter_stream()) == [b"body"]
        first.close()
        second = await waiting
        assert list(second.iter_stream()) == [b"body"]
        second.close()
        assert len(server.heard) == 1


class Slow(socket.socket):
    """A socket of which a thread is about to read when another one closes it."""

    def wait_for(self, closing: Callable[[], object]) -> None:
        self._closing: Callable[[], object] | None = closing

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        if closing := self._closing:
            self._closing = None
            thread = threading.Thread(target=closing)
            thread.start()
            thread.join(20)
        self.number = self.fileno()
        return super().recv(buflen, flags)


@pytest.mark.parametrize("by", ["answer", "pool"])
def test_the_number_of_a_socket_is_nobody_elses_while_a_thread_reads(by: str) -> None:
    """It would wait for what comes over a connection that was opened meanwhile, and take that away from its reader."""
    wire = SyncWire(time.monotonic)
    ours = SyncDirectPool(network_backend=wire, **UNLIMITED)
    with tape(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\nbody") as server, closing(wire), closing(ours):
        answer = ours.handle_request(get(server.url, read=20))
        assert next(answer) == b"body"
        stream: Any = answer.extensions["network_stream"]
        with Slow(fileno=stream._sock.detach()) as slow:
            stream._sock = slow
            slow.wait_for({"answer": answer.close, "pool": ours.close}[by])
            with pytest.raises(httpcore2.RemoteProtocolError):
                next(answer)
            assert slow.number >= 0
            assert slow.fileno() < 0


class SlowTLS(Slow, ssl.SSLSocket):
    """The same with TLS."""


def test_what_is_closed_under_a_reader_is_not_read_in_cipher() -> None:
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    wire = SyncWire(time.monotonic)
    ours = SyncDirectPool(network_backend=wire, **UNLIMITED | {"ssl_context": trusting})

    def serve() -> None:
        with context.wrap_socket(listener.accept()[0], server_side=True) as peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\nbody")
            peer.sendall(b"more")
            sent.set()
            with suppress(OSError):
                peer.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener, closing(wire), closing(ours):
        sent = threading.Event()
        threading.Thread(target=serve, daemon=True).start()
        answer = ours.handle_request(get(f"https://127.0.0.1:{listener.getsockname()[1]}", read=20))
        assert next(answer) == b"body"
        assert sent.wait(20)
        stream: Any = answer.extensions["network_stream"]
        stream._sock.__class__ = SlowTLS
        stream._sock.wait_for(ours.close)
        assert next(answer) == b"more"
        with pytest.raises(httpcore2.RemoteProtocolError):
            next(answer)


@pytest.mark.parametrize("pool", ["async", "aiohttp"], indirect=True)
async def test_a_request_that_is_cancelled_anywhere_leaves_its_turn_and_no_connection(pool: Make) -> None:
    with Region("near") as near:
        async with pool(max_connections=1) as ours:
            for steps in range(40):
                task = asyncio.create_task(read(ours, get(near.url)))
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                assert all(connection.is_idle() for connection in ours.connections)
                if steps % 2:  # else the next one finds no connection
                    assert await read(ours, get(near.url, pool=20))


async def test_an_answer_that_comes_before_its_request_is_sent_is_one(pool: Make) -> None:
    answer = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody"

    def serve() -> None:
        with listener.accept()[0] as peer:
            peer.recv(100)
            peer.sendall(answer)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve))
        content = b"x" * 4_000_000
        async with pool() as ours:
            request = get(
                f"http://127.0.0.1:{listener.getsockname()[1]}",
                [(b"Host", b"x"), (b"Content-Length", b"%d" % len(content))],
            )
            request.content = content
            response = await ours.handle_async_request(request)
            assert (response.status, await body_of(response)) == (413, b"body")
            assert ours.connections == []
        await serving


async def test_no_more_connections_are_kept_than_may_be(pool: Make) -> None:
    with Region("near") as near:
        async with pool(max_keepalive_connections=2) as ours:
            url = near.url
            responses = [await ours.handle_async_request(get(url)) for _ in range(4)]
            assert not any(connection.is_idle() for connection in ours.connections)
            for response in responses:
                await body_of(response)
            assert [connection.is_idle() for connection in ours.connections] == [True, True]
            assert [connection.has_expired() for connection in ours.connections] == [False, False]


async def test_connections_that_are_not_needed_expire(pool: Make) -> None:
    with Region("near") as near:
        async with pool(keepalive_expiry=0.3) as ours:
            both = [await ours.handle_async_request(get(near.url)) for _ in range(2)]
            for response in both:
                await body_of(response)
            (first, last) = ours.connections
            until = time.monotonic() + 20
            while not first.has_expired() and time.monotonic() < until:
                await asyncio.sleep(0.1)
                await read(ours, get(near.url))  # each time over the same
            assert first not in ours.connections
            assert last in ours.connections or last.has_expired()


async def test_a_connection_that_comes_when_the_pool_is_being_closed_is_not_kept(
    pool: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Shelf.add

    def add_too_late(shelf: Shelf[Any], stream: Any) -> Connection[Any]:
        assert shelf.clear() == []
        return add(shelf, stream)

    monkeypatch.setattr(Shelf, "add", add_too_late)
    with tape(WHOLE) as server:
        async with pool() as ours:
            assert await read(ours, get(server.url)) == b"body"
            assert ours.connections == []


# --- What is asked of it in vain -----------------------------------------------------------------------------


def test_http2_is_refused_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"HTTP/2.*http2=True.*httpcore"):
        smartroute.httpx2.AsyncClient(Config(global_url="off", backend="aiohttp"), http2=True)
    smartroute.httpx2.Client(Config(backend="aiohttp"), http2=True).close()  # no business of a sync client


def test_where_aiohttp_is_missing_the_configuration_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigError, match="SMARTROUTE_BACKEND: aiohttp is not installed; run pip install"):
        Config.from_env({"SMARTROUTE_BACKEND": "aiohttp"})


def test_aiohttp_is_loaded_only_where_it_is_used() -> None:
    for backend, expected in (("httptools", False), ("httpcore", False), ("aiohttp", True)):
        script = f"import smartroute.httpx2 as s; s.AsyncClient(s.Config(backend={backend!r}))"
        assert ("aiohttp" in loaded_by(script)) is expected


def test_http2_and_proxies_are_httpcores_business(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with smartroute.httpx2.Client(world.config(), http2=True) as client:
        assert client.transport._driver._pool_of_route is SyncCorePool
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with smartroute.httpx2.Client(world.config()) as client:
        pools = client.transport._driver._pools
        assert {type(pools.of(route)[0]) for route in client.router.config.routes} == {SyncCorePool}


@ASYNC
def test_what_passes_through_is_sent_by_the_familys_own_transport(caller: AsyncCaller, world: World) -> None:
    """It is nobody's business how: uploads, other hosts and all that a plain client can."""
    client = caller.client(world.config())
    response = caller.do(client.get, f"{world.globe.url}/models", headers={"Authorization": "Bearer fake-console-key"})
    assert response.status_code == 200
    (home,) = client.transport._driver._homes.values()
    assert [type(each) for each in home.passages._made.values()] == [caller.family.AsyncHTTPTransport]
    caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT)
    kinds = {"httptools": AsyncDirectPool, "aiohttp": AiohttpPool, "httpcore": AsyncCorePool}
    assert {type(pool) for pool, _ in home.pools._routes.values()} == {kinds[caller.backend]}
