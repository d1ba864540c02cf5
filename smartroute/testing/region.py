"""A region of one's own: an OpenAI-compatible server on 127.0.0.1 whose failures are scripted."""

import asyncio
import json
import random
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self

import h11

from smartroute.testing import answers
from smartroute.testing.answers import Answer
from smartroute.testing.faults import Fault, Reset, Script
from smartroute.testing.thread import LoopThread
from smartroute.testing.wire import Wire

__all__ = ["Region", "Seen"]

_BACKLOG = 1024
_MOST_QUEUED = 16
"""More than any system queues for a listener that asked for no queue."""
_SOON = 0.05
"""Seconds after which a connection on this machine will not come any more."""

_thread = LoopThread()  # one for all regions


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived.

    Attributes:
        target: path and query.
        headers: names and values in their order and spelling.
        body: empty if the connection was reset before it was read.
        connection: which of the region's connections it came on, from 1.
        at: when it had arrived, by `time.monotonic`.
    """

    method: str
    target: str
    headers: list[tuple[bytes, bytes]] = field(repr=False)
    body: bytes = field(repr=False)
    connection: int
    at: float

    def header(self, name: str) -> str | None:
        """The value of the first header of this name, in any spelling."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), None)

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Region:
    """An OpenAI-compatible region, served from a background thread while it is started.

        with Region("frankfurt", latency=0.020, api_keys=["fake-direct-key"]) as region:
            client = OpenAI(base_url=region.url, api_key="fake-direct-key")

    It serves `GET /models`, and `POST /chat/completions`, `/completions` (both streamed or not) and
    `/embeddings`. The answer's text starts with the region's name. Attributes may be changed, and all
    methods called, from any thread at any time.

    Args:
        name: what it calls itself in its answers.
        latency: seconds before each answer's first byte, probes included: the round trip.
        jitter: up to so many seconds more; which, is the same in each run.
        tokens: how many tokens a completion has.
        token_interval: seconds between tokens; an answer that is not streamed waits for all of them.
        api_keys: the keys it accepts, as a bearer token or in the header `api-key`; others get a 401. By default it
            asks for none.
        models: the models it has; others get a 404. By default it has them all.
        prefix: the path of its base URL.
        responses: further answers (status, headers, body) by path, for any method.
        capacity: how many POSTs it serves at once; those above get a 429. By default any number.
        tls: serve HTTPS.
        port: by default a free one, and the same again after `stop` and `start`.
    """

    def __init__(
        self,
        name: str,
        *,
        latency: float = 0.0,
        jitter: float = 0.0,
        tokens: int = 5,
        token_interval: float = 0.0,
        api_keys: Collection[str] = (),
        models: Sequence[str] | None = None,
        prefix: str = "/v1",
        responses: Mapping[str, tuple[int, Mapping[str, str], bytes]] | None = None,
        capacity: int | None = None,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.name: Final = name
        self.latency = latency
        self.jitter = jitter
        self.tokens = tokens
        self.token_interval = token_interval
        self.api_keys = api_keys
        self.models = models
        self.responses = responses or {}
        self.capacity = capacity
        self._prefix = prefix.rstrip("/")
        self._tls = tls
        self._port = port
        self._random = random.Random(name)
        self._seen: list[Seen] = []
        self._accepted = 0
        self._serving = 0
        self._open: set[asyncio.Task[None]] = set()  # one task for each connection
        self._script = Script((), asyncio.Event())
        self._lock = threading.Lock()  # start, stop, set and heal: one at a time
        self._listener: socket.socket | None = None
        self._silent = False  # stopped silently
        self._held: list[socket.socket] = []  # what has the port while the region is stopped
        weakref.finalize(self, _close, self._held)

    @property
    def url(self) -> str:
        """The base URL.

        Raises:
            RuntimeError: the region was never started, so that it has no port.
        """
        if not self._port:
            raise RuntimeError(f"region {self.name} was not started")
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}{self._prefix}"

    @property
    def requests(self) -> list[Seen]:
        """Every request so far, in the order they arrived."""
        return self._seen.copy()

    @property
    def connections(self) -> int:
        """How many TCP connections were accepted so far."""
        return self._accepted

    @property
    def open_connections(self) -> int:
        """How many TCP connections are open now."""
        return len(self._open)

    def set(self, *faults: Fault) -> None:
        """From now on do these things wrong, and no others. All faults that concern a request do their part, in order.

        What hangs already goes on hanging until `heal`.
        """
        with self._lock:
            self._script = Script(faults, self._script.healed)

    def heal(self) -> None:
        """Do nothing wrong any more, and go on with what hangs."""
        with self._lock:
            healed = self._script.healed
            self._script = Script((), asyncio.Event())
            if self._listener:
                _thread.call(healed.set)

    def start(self) -> Self:
        """Listen."""
        with self._lock:
            if not self._listener:
                _close(self._held)
                self._silent = False
                self._listener = socket.create_server(("127.0.0.1", self._port), backlog=_BACKLOG)
                self._listener.settimeout(0)
                self._port = self._listener.getsockname()[1]
                self._script.healed = asyncio.Event()  # whose loop may be another one than before
                _thread.enter()
                _thread.run(self._listen(self._listener))
        return self

    def stop(self, *, silently: bool = False) -> None:
        """Refuse connections, and reset those that are open. The port remains the region's own until its `with` ends.

        Args:
            silently: who connects is not refused, but gets no answer at all, as from behind a firewall that
                drops packets. It can be done once the region has been started, and lasts until it is
                stopped otherwise or started again.

        Raises:
            RuntimeError: the region was never started, so that it has no port.
            OSError: this system answers however many wait to be accepted.
        """
        with self._lock:
            if silently and not self._port:
                raise RuntimeError(f"region {self.name} was not started")
            if not (silently or self._listener or self._silent):
                return  # it does refuse, or whoever was started on its port
            if self._listener:
                _thread.run(self._hang_up(self._listener))
                _thread.leave()
                self._listener = None
            _close(self._held)
            self._held += _blocking(self._port) if silently else [_bound(self._port)]
            self._silent = silently

    def disconnect(self) -> None:
        """Reset the connections that are open now, and go on accepting others."""
        with self._lock:
            if self._listener:
                _thread.run(self._reset())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        with self._lock:
            _close(self._held)
            self._silent = False

    def __repr__(self) -> str:
        return f"<Region {self.name} on port {self._port}, {'up' if self._listener else 'down'}>"

    # All that follows runs in the background thread.

    async def _listen(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def _hang_up(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()
        await self._reset()

    async def _reset(self) -> None:
        tasks = tuple(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:  # gone again
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._accepted += 1
        wire = Wire(sock)
        task = asyncio.create_task(self._serve(wire, self._accepted))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        task.add_done_callback(wire.reset)  # not in the task: it may be cancelled before it begins

    async def _serve(self, wire: Wire, number: int) -> None:
        """Serve one connection. When this ends, whatever the reason, a connection still open is reset."""
        script = self._script
        for fault in script.due("accept"):
            if isinstance(fault, Reset):
                return
            await script.healed.wait()
        with suppress(OSError, h11.RemoteProtocolError):  # a failed handshake, or what is no HTTP
            await wire.open(self._tls)
            await self._converse(wire, number)

    async def _converse(self, wire: Wire, number: int) -> None:
        """Answer one request after the other."""
        reused = False
        while True:
            head = await wire.head()
            script = self._script
            method, target = head.method.decode(), head.target.decode()
            headers = head.headers.raw_items()
            if script.due("request", method) or (reused and script.due("reuse", method)):
                self._seen.append(Seen(method, target, headers, b"", number, time.monotonic()))
                return
            body = await wire.body()
            script = self._script
            seen = Seen(method, target, headers, body, number, time.monotonic())
            self._seen.append(seen)
            generating = method == "POST"
            self._serving += generating
            try:
                answer = self._answer(seen, script)
                if not wire.keeps_alive:
                    answer = replace(answer, headers=(*answer.headers, ("connection", "close")))
                await wire.send(answer, script.healed)
            finally:
                self._serving -= generating
            if answer.ending == "reset":
                return
            if answer.ending == "close" or not wire.keeps_alive:
                await wire.close()
            reused = True

    def _answer(self, seen: Seen, script: Script) -> Answer:
        """The healthy answer, and what the faults then make of it."""
        request: Any = None
        with suppress(ValueError):
            request = json.loads(seen.body or b"{}")
        streaming = isinstance(request, dict) and request.get("stream") is True
        answer = self._healthy(seen, request)
        answer = replace(answer, delay=answer.delay + self.latency + self._random.uniform(0, self.jitter))
        for fault in script.due("answer", seen.method, streaming=streaming):
            answer = answers.apply(fault, answer)
        if seen.method == "HEAD":
            answer = replace(answer, pieces=())
        return replace(answer, headers=(*answer.headers, ("x-request-id", f"{self.name}-{len(self._seen)}")))

    def _healthy(self, seen: Seen, request: Any) -> Answer:
        bearer = (seen.header("authorization") or "").removeprefix("Bearer ")
        if self.api_keys and not {bearer, seen.header("api-key")} & {*self.api_keys}:
            return answers.error(401, "Incorrect API key provided.", "invalid_api_key")
        if seen.method == "POST" and self.capacity is not None and self._serving > self.capacity:
            return answers.error(429, f"{self.capacity} requests are being served.", "rate_limit_exceeded")
        target = seen.target.partition("?")[0]
        if target in self.responses:
            return answers.fixed(*self.responses[target])
        path = target.removeprefix(self._prefix) if target.startswith(self._prefix) else None
        match seen.method, path:
            case "GET", "/models":
                return answers.models(tuple(self.models or ("test-model",)))
            case "POST", "/chat/completions" | "/completions" | "/embeddings":
                if not isinstance(request, dict) or not isinstance(request.get("model"), str):
                    return answers.error(400, "The body must be a JSON object with a model.")
                if self.models is not None and request["model"] not in self.models:
                    return answers.error(404, f"The model {request['model']!r} does not exist.", "model_not_found")
                return self._generated(path, request)
            case _:
                return answers.error(404, f"Unknown request URL: {seen.method} {target}.", "unknown_url")

    def _generated(self, path: str, request: Mapping[str, Any]) -> Answer:
        model = request["model"]
        if path == "/embeddings":
            asked = request.get("input")
            count = len(asked) if isinstance(asked, list) and asked and not isinstance(asked[0], int) else 1
            return answers.embeddings(model, count, encoded=request.get("encoding_format") == "base64")
        chat = path == "/chat/completions"
        if request.get("stream") is not True:
            answer = answers.completion(self.name, model, self.tokens, chat=chat)
            return replace(answer, delay=self.token_interval * max(0, self.tokens - 1))
        usage = bool((request.get("stream_options") or {}).get("include_usage"))
        answer = answers.stream(self.name, model, self.tokens, chat=chat, usage=usage)
        return replace(answer, pause=self.token_interval) if self.token_interval else replace(answer, paced=range(0))


def _bound(port: int) -> socket.socket:
    """A socket that has the port and does not listen: who connects is refused, and no other process is given it."""
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
    except OSError:
        sock.close()
        raise
    return sock


def _blocking(port: int) -> list[socket.socket]:
    """A listener that accepts nothing, and enough that wait for it: the system drops what comes after them."""
    with ExitStack() as undo:
        held = [undo.enter_context(_bound(port))]
        held[0].listen(0)
        while len(held) <= _MOST_QUEUED:
            held.append(undo.enter_context(socket.socket()))
            held[-1].settimeout(0)
            held[-1].connect_ex(held[0].getsockname())
            if not select.select([], held[-1:], [], _SOON)[1]:
                undo.pop_all()
                return held
    raise OSError("this system answers however many wait to be accepted")


def _close(sockets: list[socket.socket]) -> None:
    while sockets:
        sockets.pop().close()
