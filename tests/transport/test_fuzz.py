"""Servers that send whatever hypothesis thinks of: a caller gets one answer as it was sent, or an error.

`FUZZ_EXAMPLES=3000 pytest -o timeout=0 tests/transport/test_fuzz.py` looks longer, and elsewhere each time.
"""

import asyncio
import gzip
import json
import os
import re
import socket
import struct
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice, pairwise, repeat
from typing import Any, Literal, cast

import h11
import openai
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from smartroute import Config, Route
from smartroute.policy.messages import Attempt, Content, Gate, Spoiled, Whole
from smartroute.policy.outcome import Failure
from smartroute.testing.thread import LoopThread
from smartroute.transport.stream import (
    MOST_HELD_BEFORE_CONTENT,
    MOST_HELD_OF_ERROR,
    MOST_HELD_WHOLE,
    TAIL,
    Tail,
    Verdict,
    begins,
    holder,
)
from tests.policy.driving import route
from tests.transport.kit import CHAT, STREAM, AsyncCaller, Caller, eventually, measure, threads

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a failing example

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")


def fuzz(examples: int) -> settings:
    """The same examples in each run, unless more are asked for."""
    return settings(
        max_examples=int(EXAMPLES or examples),
        derandomize=EXAMPLES is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# --- a server that sends bytes -------------------------------------------------------------------------


@dataclass(frozen=True)
class Script:
    """What a server sends to whoever posts, and what becomes of the connection then.

    Attributes:
        segments: the bytes, in separate writes; possibly without an end.
        early: sent as soon as somebody connects.
    """

    segments: Iterable[bytes] = field(repr=False)
    ending: Literal["keep", "close", "reset"] = "keep"
    early: bool = False


class Connection(asyncio.Protocol):
    """Reads requests, and sends as fast as they are taken what the script has for them."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._buffer = b""
        self._writable = True
        self._left: Iterator[bytes] = iter(())
        self._sending = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.open.add(self)
        if self._server.script.early:
            self._answer()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n") + 4) > 3:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            end += int(head[at + 15 :].split(b"\r\n", 1)[0]) if at > 0 else 0
            if len(self._buffer) < end:
                return
            self._buffer = self._buffer[end:]
            if head.startswith(b"get"):
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")  # the way is open
                continue
            self._server.posts += 1
            if not self._server.script.early:
                self._answer()

    def _answer(self) -> None:
        self._left = iter(self._server.script.segments)
        self._go_on()

    def _go_on(self) -> None:
        self._sending = self._writable
        if not self._writable or self._transport.is_closing():
            return
        segment = next(self._left, None)
        if segment is not None:
            self._transport.write(segment)
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        self._sending = False
        match self._server.script.ending:
            case "close":
                self._transport.close()
            case "reset":
                sock = self._transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._transport.abort()
            case "keep":
                pass

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if not self._sending:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open.discard(self)


class Server:
    """A raw server on loopback."""

    def __init__(self, name: str, thread: LoopThread) -> None:
        self.name = name
        self.open: set[Connection] = set()
        self.posts = 0
        self.script = Script(())
        self._thread = thread
        self._server = thread.run(self._listen())
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: Connection(self), "127.0.0.1", 0)

    def play(self, script: Script) -> None:
        """From now on, send this."""
        self.script, self.posts = script, 0

    def close(self) -> None:
        """Stop listening."""
        self._thread.call(self._server.close)
        self._thread.run(self._server.wait_closed())


@dataclass(frozen=True)
class Pair:
    """Two regions: the near one is the best route, and sends anything; the far one is healthy."""

    near: Server
    far: Server

    def config(self, *, alone: bool) -> Config:
        """The near region is the only endpoint, or one of two."""
        servers = [self.near] if alone else [self.near, self.far]
        routes = [Route(server.url, name=server.name, api_key="fake-direct-key") for server in servers]
        return Config(routes=routes, global_url="off", probe_interval=0)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    thread = LoopThread()
    thread.enter()
    made = Pair(Server("near", thread), Server("far", thread))
    yield made
    made.near.close()
    made.far.close()
    thread.leave()


# --- what may be heard ---------------------------------------------------------------------------------


def chunk(**choice: Any) -> bytes:
    """An event of a chat."""
    return b"data: %b\n\n" % json.dumps({"choices": [{"index": 0, "finish_reason": None, **choice}]}).encode()


def said(*words: str) -> bytes:
    """A whole chat, streamed."""
    deltas = [chunk(delta={"content": word}) for word in words]
    return b"".join((ROLE, *deltas, chunk(delta={}, finish_reason="stop"), DONE))


def whole(word: str) -> bytes:
    """A whole chat, not streamed."""
    message = {"role": "assistant", "content": word}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


def http(body: bytes, kind: str, status: int = 200) -> bytes:
    """A response in good order."""
    return b"HTTP/1.1 %d x\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        kind.encode(),
        len(body),
        body,
    )


ROLE = chunk(delta={"role": "assistant", "content": ""})
DONE = b"data: [DONE]\n\n"
SSE, JSON = "text/event-stream", "application/json"
HEALTHY = {True: said("far", " away"), False: whole("far away")}
"""What the far region answers, to a request for a stream and to any other."""

EVENTS = st.sampled_from(
    [
        ROLE,
        chunk(delta={"content": "near"}),
        chunk(delta={"content": " by"}),
        chunk(delta={"content": "data: [DONE]\n\n"}),
        chunk(delta={"content": "é\u2028😀"}),
        chunk(delta={"content": "x" * 70_000}),
        chunk(delta={}, finish_reason="stop"),
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n',
        b'data: {"choices": [], "usage": {"prompt_tokens": 7}}\n\n',
        b'data: {"error": {"message": "fake", "code": 503}}\n\n',
        b'data: {"error": {"message": "fake", "type": "invalid_request_error"}}\n\n',
        b"data: {}\n\n",
        b"data: null\n\n",
        b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n',
        b"data: " + b"[" * 2_000 + b"\n\n",
        b"data: nonsense\n\n",
        b"data: {\ndata: }\n\n",
        b": keep-alive\n\n",
        b":" + b"x" * 100_000 + b"\n",
        b"event: error\nid: 7\nretry: 1\n",
        b"data: ",
        b"\r\n\r\n",
        b"\n",
        DONE,
        b"data:[DONE]\r\n\r\n",
    ]
)
STREAMS = (
    st.lists(EVENTS, max_size=3).map(lambda events: b"".join([ROLE, chunk(delta={"content": "near"}), *events]))
    | st.integers(1, len(said("near", " by"))).map(lambda length: said("near", " by")[:length])
    | st.lists(EVENTS, max_size=4).map(lambda events: said("near", " by").replace(DONE, b"".join(events)))
    | st.lists(EVENTS, max_size=4).map(lambda events: b"".join([ROLE, *events, said("near", " by")]))
    | st.sampled_from([said("near"), said("near", " by").replace(b"\n", b"\r\n")])
    | st.lists(EVENTS, max_size=6).map(b"".join)
)
WHOLES = st.sampled_from([whole("near by"), b"\n" + whole("near") + b"\r\n", b"{}", b"{}{}", b'{"choices": "\xff"}'])
NONSENSE = st.sampled_from([b"", b" ", b"[]", b"<html>", whole("near")[:-9]]) | st.binary(max_size=300)
HEADERS = st.sampled_from(
    [
        b"content-encoding: gzip",
        b"content-encoding: identity",
        b"content-encoding: br, zstd",
        b"content-encoding: nonsense",
        b"retry-after: 0",
        b"retry-after: Fri, 31 Dec 9999 23:59:59 -9999",
        b"retry-after: \xff",
        b"retry-after-ms: -1e400",
        b"x-should-retry: true",
        b"x-smartroute-route: elsewhere",
        b"x-request-id: \xe9",
        b"set-cookie: a=b; Path=/",
        b"location: http://127.0.0.1:1/elsewhere",
        b"connection: close",
        b"upgrade: websocket",
        b"x-long: " + b"y" * 60_000,
        b"x-too-long: " + b"y" * 200_000,
        b"x: folded\r\n line",
        b"no colon",
        b": no name",
        b"content-length: 3",
        b"content-length: -1",
        b"transfer-encoding: gzip",
    ]
)
KINDS = st.sampled_from([SSE, JSON, "text/plain; charset=\xff", "text/html", ""])
STATUSES = st.sampled_from([201, 204, 206, 304, 307, 400, 401, 404, 429, 500, 503, 599, 600, 999, 99])
HINTS = st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n"])
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """The same bytes in pieces."""
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(ends)]


PLACES = st.lists(st.integers(0, 200) | st.integers(0, 3_000), max_size=5)


def rarely(draw: st.DrawFn, one_in: int) -> bool:
    """Whether something odd is to happen here: most of an answer must be in order for the rest to matter."""
    return draw(st.integers(1, one_in)) == one_in


@st.composite
def answers(draw: st.DrawFn, *, stream: bool) -> bytes:
    """A response, well-formed but for what its headers may do to it."""
    fitting, other = (STREAMS, WHOLES) if stream else (WHOLES, STREAMS)
    body = draw(other | NONSENSE if rarely(draw, 5) else fitting)
    headers = draw(st.lists(HEADERS, min_size=1, max_size=2)) if rarely(draw, 4) else []
    if b"content-encoding: gzip" in headers and draw(st.booleans()):
        body = gzip.compress(body, mtime=0)
    match draw(st.sampled_from(["chunked"] * 4 + ["length"] * 4 + ["close", "close", "wrong length", "both"])):
        case "chunked":
            pieces = [piece for piece in cut(body, draw(PLACES)) if piece]
            odd = [b"0\r\nx: y\r\n\r\n", b"", b"0\r\n", b"g\r\n\r\n"]
            end = draw(st.sampled_from(odd)) if rarely(draw, 5) else b"0\r\n\r\n"
            extension = b";x=y" if rarely(draw, 5) else b""
            body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + end
            headers.append(b"transfer-encoding: chunked")
        case "length":
            headers.append(b"content-length: %d" % len(body))
        case "wrong length":
            headers.append(b"content-length: %d" % max(len(body) + draw(st.sampled_from([-7, -1, 1, 500])), 0))
        case "both":
            headers += [b"content-length: %d" % len(body), b"transfer-encoding: chunked"]
        case _:
            pass
    if kind := draw(KINDS) if rarely(draw, 5) else SSE if stream else JSON:
        headers.append(b"content-type: " + kind.encode("latin-1"))
    before = b"".join(draw(st.lists(HINTS, max_size=2))) if rarely(draw, 6) else b""
    version = draw(st.sampled_from([b"1.0", b"2"])) if rarely(draw, 8) else b"1.1"
    status = draw(STATUSES) if rarely(draw, 4) else 200
    return b"%bHTTP/%b %03d x\r\n%b\r\n\r\n%b" % (before, version, status, b"\r\n".join(headers), body)


@st.composite
def damaged(draw: st.DrawFn, *, stream: bool) -> bytes:
    """A response to which something happened on its way."""
    data = draw(answers(stream=stream))
    at = draw(st.integers(0, len(data)))
    match draw(st.sampled_from(["cut", "cut", "inserted", "overwritten"])):
        case "cut":
            return data[:at]
        case "inserted":
            return data[:at] + draw(st.binary(max_size=8)) + data[at:]
        case _:
            return data[:at] + draw(st.binary(max_size=8)) + data[at + 8 :]


WIRES = {flag: answers(stream=flag) | damaged(stream=flag) for flag in (True, False)}


@dataclass(frozen=True)
class Heard:
    """What a script says to one who knows HTTP: computed by h11 alone, without a socket.

    Attributes:
        end: of the response: in good order (`whole`), against the rules or too early (`broken`), or never (`none`).
        lossy: a reset may overtake what was sent before it: one on purpose, or for a request that nobody read.
        surplus: whether anything was sent after the end.
    """

    status: int | None
    headers: list[tuple[bytes, bytes]]
    body: bytes
    end: Literal["whole", "broken", "none"]
    lossy: bool
    surplus: bool


def heard(wire: bytes, ending: str, *, early: bool = False) -> Heard:
    """Listen to a script as if it answered a POST."""
    # The limit, and the size of what is read at once, are httpcore's.
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * 1024)
    peer.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
    peer.send(h11.EndOfMessage())
    reads = [wire[at : at + 65_536] for at in range(0, len(wire), 65_536)]
    if ending != "keep":
        reads.append(b"")
    status, headers, body = None, list[tuple[bytes, bytes]](), list[bytes]()
    end: Literal["whole", "broken", "none"] = "none"
    with suppress(h11.RemoteProtocolError):
        while end == "none":
            match peer.next_event():
                case h11.NEED_DATA if reads:
                    end = "broken"  # if this fails
                    if reads[0] == b"" and status is None:
                        break
                    peer.receive_data(reads.pop(0))
                    end = "none"
                case h11.Response() as response:
                    status, headers = response.status_code, response.headers.raw_items()
                case h11.Data() as data:
                    body.append(bytes(data.data))
                case h11.EndOfMessage():
                    end = "whole"
                case h11.NEED_DATA | h11.PAUSED | h11.ConnectionClosed():
                    break
                case _:
                    pass
    if peer.their_state is h11.ERROR:
        end = "broken"
    surplus = end == "whole" and bool(peer.trailing_data[0] or any(reads))
    return Heard(status, headers, b"".join(body), end, ending == "reset" or (early and ending == "close"), surplus)


@dataclass(frozen=True)
class Scene:
    """One call, and what it meets at the near region."""

    wire: bytes
    script: Script
    heard: Heard
    stream: bool

    @property
    def timeout(self) -> float:
        """The caller's read timeout: short where it will be used up."""
        return 0.15 if self.heard.end == "none" and not self.heard.lossy else 5.0


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    stream = draw(st.booleans())
    wire = draw(st.binary(max_size=80) | st.just(SWITCH) if rarely(draw, 16) else WIRES[stream])
    ending: Any = draw(st.sampled_from(["keep"] * 5 + ["close"] * 4 + ["reset"]))
    early = rarely(draw, 16)
    found = heard(wire, ending, early=early)
    if found.end == "none" and ending == "keep" and not rarely(draw, 4):  # such an example takes its time
        ending = "close"
        found = heard(wire, ending, early=early)
    script = Script(cut(wire, draw(PLACES)), ending, early)
    return Scene(wire, script, found, stream)


# --- what a caller sees --------------------------------------------------------------------------------


@dataclass
class Seen:
    """What became of one call.

    Attributes:
        where: the route that answered, if any did.
        left: whether the caller left before the end.
    """

    where: str | None = None
    status: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    error: Exception | None = None
    left: bool = False


def look(caller: Caller, client: Any, url: str, scene: Scene, patience: int | None) -> Seen:
    """Call, and read so many chunks of the answer (None: all), as they are on the wire."""
    seen = Seen()
    body = STREAM if scene.stream else CHAT
    response = None
    try:
        response = caller.send(client, "POST", f"{url}/chat/completions", json=body, timeout=scene.timeout)
        seen.where, seen.status = response.headers["x-smartroute-route"], response.status_code
        seen.headers = response.headers.raw
        for number, data in enumerate(caller.chunks(response)):
            seen.body += data
            if number == patience:
                seen.left = True
                break
    except Exception as error:  # noqa: BLE001 - which, is looked at later
        seen.error = error
    if response is not None:
        caller.close(response)
    return seen


def events_of(stream: bytes) -> tuple[list[bytes], bool]:
    """The data of a stream's events, by the HTML standard, and whether it ends between two of them."""
    events, data = list[bytes](), list[bytes]()
    *lines, rest = re.split(rb"\r\n|\r|\n", stream)
    for line in lines:
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line:
            events += [b"\n".join(data)] if any(data) or len(data) > 1 else []
            data.clear()
    return events, not data and not rest


def end_of(stream: bytes) -> Literal["done", "finished", "cut"]:
    """How an event stream ended."""
    if any(re.match(rb"data: ?\[DONE\]", line) for line in re.split(rb"\r\n|\r|\n", stream)):
        return "done"
    finished = False
    for data in events_of(stream)[0]:
        with suppress(ValueError, RecursionError, TypeError, LookupError):
            finished = bool(json.loads(data)["choices"][-1]["finish_reason"])
    return "finished" if finished and stream.endswith((b"\n\n", b"\r\r", b"\r\n\r\n")) else "cut"


def is_garbled(stream: bytes) -> bool:
    """Whether there is a line of no known field, or an event that is no JSON object: how it ends is anybody's guess."""
    lines = re.split(rb"\r\n|\r|\n", stream)
    known = all(re.match(rb"(data|event|id|retry)?(:|$)", line) for line in lines)
    return not known or None in map(parsed, events_of(stream)[0])


def check(caller: Caller, scene: Scene, seen: Seen, *, alone: bool) -> None:
    """One answer, as it was sent, or an error; an error only where nobody could answer."""
    near = scene.heard
    if seen.error is not None:
        assert isinstance(seen.error, caller.family.TransportError), repr(seen.error)
    if seen.where == "far":
        assert not alone
        assert (seen.status, seen.error) == (200, None)
        assert HEALTHY[scene.stream].startswith(seen.body) if seen.left else seen.body == HEALTHY[scene.stream]
        return
    if caller.backend == "aiohttp" and near.end == "broken":  # its parser makes sense of some of that
        assert b"far" not in seen.body
        return
    assert near.body.startswith(seen.body), "bytes that the server did not send, or not here"
    if seen.where is None:
        assert seen.error is not None
        assert alone or near.end == "none" or near.lossy, f"lost, though the far region is healthy: {seen.error!r}"
        return
    assert seen.status == near.status
    own = (b"x-smartroute", b"x-should-retry", b"set-cookie")
    assert [h for h in seen.headers if not h[0].lower().startswith(own)] == [
        h for h in near.headers if not h[0].lower().startswith(own)
    ]
    encoded = any(k.lower() == b"content-encoding" and v.strip() not in (b"", b"identity") for k, v in near.headers)
    garbled = is_garbled(near.body)
    too_long = len(near.body) > MOST_HELD_BEFORE_CONTENT // 2  # then it may be handed on as it is
    verdict, failure = judge(seen.body) if scene.stream and not too_long else (Content, None)
    if near.status is not None and near.status >= 400:
        assert seen.error is None  # one that is cut short is an error all the same
    elif failure is Failure.ERROR_EVENT:  # what was in hand with it is enough
        assert alone or encoded or b"invalid_request_error" in seen.body
    elif seen.error is not None:
        assert garbled or encoded or near.lossy or near.end != "whole" or end_of(near.body[-TAIL:]) == "cut"
        assert scene.stream, "handed on before it was whole"
        assert encoded or verdict is Content, "handed on before its first content"
    elif not seen.left:
        assert near.end == "whole", "a broken answer, taken for a whole one"
        assert seen.body == near.body
        assert encoded or verdict is Content, "no answer at all"
        ended = garbled or end_of(near.body) != "cut"
        assert encoded or not scene.stream or ended, "a truncated answer, taken for a whole one"


def in_use(caller: Caller, client: Any) -> list[object]:
    """What answers that are over still hold."""
    driver = client.transport._driver
    pools = [home.pools for home in driver._homes.values()] if caller.is_async else [driver._pools]
    each = [pool for them in pools for pool, _ in them._routes.values()]
    return [
        *(connection for pool in each for connection in pool.connections if not connection.is_idle()),
        *(status.name for status in client.router.status() if status.in_flight),
        *driver.open_streams,
    ]


@contextmanager
def using(caller: Caller, pair: Pair, *, alone: bool) -> Iterator[Any]:
    """A client, of which nothing may be left once it is closed."""
    client = measure(caller.client(pair.config(alone=alone)))
    try:
        yield client
        assert eventually(lambda: not in_use(caller, client)), in_use(caller, client)
    finally:
        caller.close(client)
        caller.clients.remove(client)
    assert eventually(lambda: not (pair.near.open or pair.far.open)), "connections are left"
    assert eventually(lambda: not threads()), threads()
    if isinstance(caller, AsyncCaller):
        assert eventually(lambda: not caller.tasks()), caller.tasks()


def play(pair: Pair, scene: Scene) -> None:
    """Let the near region send what it sends, and the far one be well."""
    pair.near.play(scene.script)
    pair.far.play(Script([http(HEALTHY[scene.stream], SSE if scene.stream else JSON)]))


PATIENCE = st.sampled_from([None, None, None, None, 0, 2])


@given(scene=scenes(), patience=PATIENCE, alone=st.booleans())
@fuzz(80)
def test_whatever_a_server_sends(caller: Caller, pair: Pair, scene: Scene, patience: int | None, alone: bool) -> None:
    play(pair, scene)
    with using(caller, pair, alone=alone) as client:
        began = time.monotonic()
        seen = look(caller, client, pair.near.url, scene, patience)
        assert time.monotonic() - began < 15, "it hung"
        event(f"{seen.where}, {type(seen.error).__name__}")
        check(caller, scene, seen, alone=alone)
        assert pair.near.posts <= 1, "sent again to the same place"
        assert pair.far.posts <= 1


@given(calls=st.lists(st.tuples(scenes(), PATIENCE), min_size=2, max_size=4))
@fuzz(15)
def test_no_answer_spills_into_the_next(caller: Caller, pair: Pair, calls: list[tuple[Scene, int | None]]) -> None:
    """Calls that share their connections."""
    with using(caller, pair, alone=False) as client:
        for scene, patience in calls:
            if scene.script.early or scene.heard.surplus:
                continue
            play(pair, scene)
            seen = look(caller, client, pair.near.url, scene, patience)
            check(caller, scene, seen, alone=False)
            assert pair.near.posts <= 2  # again, where a kept connection was closed without a byte
            assert pair.far.posts <= 1
            assert eventually(lambda: not in_use(caller, client)), in_use(caller, client)


def test_what_comes_behind_an_answer_answers_nobody(caller: Caller, pair: Pair) -> None:
    """A connection on which more came than was asked for serves no further request."""
    ghost = http(whole("ghost"), JSON)
    with using(caller, pair, alone=True) as client:
        for script in ([http(whole("near"), JSON) + ghost], [http(whole("near"), JSON)]):
            pair.near.play(Script(script))
            response = caller.do(client.post, f"{pair.near.url}/chat/completions", json=CHAT)
            assert response.content == whole("near")


# --- what the SDK makes of it --------------------------------------------------------------------------


def ask(caller: Caller, http_client: Any, url: str, scene: Scene) -> tuple[str, Exception | None]:
    """What a call through the OpenAI SDK says, and how it ends."""
    words: list[str] = []
    try:
        sdk = caller.sdk(http_client, url, timeout=scene.timeout)
        answer = caller.do(sdk.chat.completions.create, **{**CHAT, "stream": scene.stream})
        if not scene.stream:
            choices = getattr(answer, "choices", None) or []
            return "".join(str(getattr(choice, "message", "")) for choice in choices), None
        try:
            for each in caller.iterate(answer):
                words.extend(getattr(choice.delta, "content", "") or "" for choice in each.choices or [])
        finally:
            caller.close(answer)
    except Exception as error:  # noqa: BLE001 - which, is looked at later
        return "".join(words), error
    return "".join(words), None


@given(scene=scenes(), alone=st.booleans())
@fuzz(40)
def test_the_sdk_gets_an_answer_or_raises_an_error_of_its_own(
    caller: Caller, pair: Pair, scene: Scene, alone: bool
) -> None:
    play(pair, scene)
    near = scene.heard
    with using(caller, pair, alone=alone) as client:
        text, error = ask(caller, client, pair.near.url, scene)
        event(f"{pair.far.posts}, {type(error).__name__}")
        lenient = caller.backend == "aiohttp" and near.end == "broken"
        if pair.far.posts and not near.lossy and near.end != "none":
            assert error is None
        if error is None and pair.far.posts:
            assert "far away" in text
            assert "near" not in text
        else:
            assert "far" not in text
        if error is None and not (pair.far.posts or lenient or b"content-encoding" in scene.wire):
            assert near.end == "whole" or end_of(near.body) == "done"
            assert not scene.stream or is_garbled(near.body) or end_of(near.body) != "cut"
    if error is None or isinstance(error, openai.OpenAIError) or near.lossy:
        return
    # What is none of the SDK's errors was raised by it: it is what the plain SDK raises.
    pair.near.play(scene.script)
    plain = caller.plain()
    _, expected = ask(caller, plain, pair.near.url, scene)
    caller.close(plain)
    caller.clients.remove(plain)
    assert type(error) is type(expected), repr(error)


# --- servers that never end ----------------------------------------------------------------------------

FOREVER = {
    "comments": (True, 200, b": keep-alive\n\n" * 1_000, MOST_HELD_BEFORE_CONTENT),
    "a line": (True, 200, b"data: " + b"x" * 10_000, MOST_HELD_BEFORE_CONTENT),
    "a line of chunks": (True, 200, b"4\r\nxxxx\r\n" * 1_000, MOST_HELD_BEFORE_CONTENT),
    "roles": (True, 200, ROLE, MOST_HELD_BEFORE_CONTENT),
    "whole": (False, 200, b"{" + b" " * 65_535, MOST_HELD_WHOLE),
    "an error": (False, 503, b"{" + b" " * 65_535, MOST_HELD_OF_ERROR),
}
ASIDE = 3 * 1024 * 1024
"""Bytes that everything else may take: buffers of both sides, the client, the test."""


@pytest.mark.parametrize("name", FOREVER)
def test_what_never_ends_is_handed_on(caller: Caller, pair: Pair, name: str) -> None:
    stream, status, data, most = FOREVER[name]
    kind, chunked = SSE if stream else JSON, "transfer-encoding: chunked\r\n" if name.endswith("chunks") else ""
    head = f"HTTP/1.1 {status} x\r\n{chunked}content-type: {kind}\r\n\r\n".encode()
    pair.near.play(Script(chain([head], repeat(data))))
    with using(caller, pair, alone=True) as client:
        tracemalloc.start()
        try:
            response = caller.send(
                client, "POST", f"{pair.near.url}/chat/completions", json=STREAM if stream else CHAT, timeout=5
            )
            (flight,) = client.transport._driver.open_streams
            assert sum(map(len, flight.chunks)) <= most + 64 * 1024  # the most that is read at once
            assert all(islice(caller.chunks(response), 10))
            assert tracemalloc.get_traced_memory()[1] < 2 * most + ASIDE
        finally:
            tracemalloc.stop()
        caller.close(response)


def test_hints_that_never_end_are_no_answer(caller: Caller, pair: Pair) -> None:
    """Each of them comes in time: no timeout would ever end that."""
    pair.near.play(Script(repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)))
    pair.far.play(Script([http(HEALTHY[False], JSON)]))
    with using(caller, pair, alone=False) as client:
        response = caller.do(client.post, f"{pair.near.url}/chat/completions", json=CHAT, timeout=5)
        assert response.content == HEALTHY[False]


# --- the gates alone -----------------------------------------------------------------------------------

ATTEMPT = Attempt(1, route("a"), 0, "best", 0.0, None)
TEXTS = st.lists(EVENTS, max_size=8).map(b"".join) | STREAMS | WHOLES | NONSENSE
SHORT = TEXTS.filter(lambda text: len(text) < 9_000)


def listen(gate: Gate, chunks: Iterable[bytes]) -> tuple[Verdict, bytes]:
    """The verdict on these chunks, and what was held for it."""
    held = holder(gate, ATTEMPT)
    verdict = next((verdict for chunk in chunks if (verdict := held.feed(chunk))), None)
    return verdict or held.end(), b"".join(held.chunks)


def parsed(data: bytes) -> dict[str, Any] | None:
    """The JSON object of an event; None: it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def says_something(event: dict[str, Any]) -> bool:
    """Whether an event is content: any field of a choice but its index and its role is neither empty nor missing."""
    choices = event.get("choices")
    if not isinstance(choices, list):
        return True
    flat = [{**choice, **(choice.get("delta") or {})} for choice in choices]
    return any(value for choice in flat for name, value in choice.items() if name not in ("index", "role", "delta"))


def judge(stream: bytes) -> tuple[type, Failure | None]:
    """What the first telling event of a stream makes of it."""
    events, between = events_of(stream)
    for data in events:
        if data.startswith(b"[DONE]"):
            return Spoiled, Failure.EMPTY
        if (value := parsed(data)) is None:
            return Spoiled, Failure.GARBLED
        if value.get("error"):
            return Spoiled, Failure.ERROR_EVENT
        if says_something(value):
            return Content, None
    return Spoiled, Failure.TRUNCATED if events or not between else Failure.EMPTY


@given(stream=SHORT, places=PLACES)
@fuzz(200)
def test_the_gates_say_the_same_however_the_bytes_are_cut(stream: bytes, places: list[int]) -> None:
    for gate in Gate:
        once, _ = listen(gate, [stream])
        for pieces in (cut(stream, places), [stream[at : at + 1] for at in range(len(stream))]):
            verdict, held = listen(gate, pieces)
            assert verdict == once or len(pieces) * 50 > MOST_HELD_BEFORE_CONTENT
            assert stream.startswith(held)
            assert held == stream or not isinstance(verdict, Whole)


@given(stream=SHORT)
@fuzz(200)
def test_the_gate_says_what_the_standard_says(stream: bytes) -> None:
    verdict, held = listen(Gate.FIRST_CONTENT, [stream])
    assert (type(verdict), getattr(verdict, "failure", None)) == judge(stream)
    if isinstance(verdict, Content) and not re.search(rb"data:[^\r\n]*[\r\n]+data", held):
        assert begins(held, ATTEMPT, streaming=True)


@given(stream=SHORT, rest=st.binary(max_size=20), places=PLACES)
@fuzz(200)
def test_a_stream_is_complete_if_a_parser_says_so(stream: bytes, rest: bytes, places: list[int]) -> None:
    for each in (stream, stream + rest, stream[: -len(rest)]):
        tail, end = Tail(), end_of(each[-TAIL:])
        for piece in cut(each, places):
            tail.feed(piece)
        assert tail.done == (end == "done")
        if not is_garbled(each):
            assert tail.complete == (end != "cut")


@given(raw=SHORT | st.binary(max_size=300), stream=st.booleans())
@fuzz(200)
def test_looking_at_raw_bytes_never_fails(raw: bytes, stream: bool) -> None:
    assert begins(raw, ATTEMPT, streaming=stream) in (True, False)
    assert not begins(b"", ATTEMPT, streaming=stream)


@given(pieces=st.lists(EVENTS | st.binary(min_size=1, max_size=9), min_size=1, max_size=5))
@fuzz(20)
def test_a_gate_holds_no_more_than_it_may(pieces: list[bytes]) -> None:
    for gate, most in ((Gate.FIRST_CONTENT, MOST_HELD_BEFORE_CONTENT), (Gate.ERROR, MOST_HELD_OF_ERROR)):
        verdict, held = listen(gate, chain.from_iterable(repeat(pieces)))
        assert len(held) <= most + max(map(len, pieces))
        assert isinstance(verdict, Content | Spoiled)
