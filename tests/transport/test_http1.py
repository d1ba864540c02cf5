"""Responses read without a socket: the same however they are cut, and as h11 reads them.

h11 is the oracle because it reads for httpcore, and so for the plain SDK. `FUZZ_EXAMPLES=30000` looks longer.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Literal

import h11
import httpcore2
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from smartroute.transport.aiohttp import AiohttpIncoming
from smartroute.transport.direct import READ_SIZE
from smartroute.transport.http1 import MOST_OF_HEAD, Header, Incoming
from tests.transport.test_fuzz import PLACES, cut, fuzz

SECRET = b"fake-secret"
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 4\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
REST = LENGTH + b"\r\nbody"
END = b"0\r\n\r\n"
BODY = CHUNKED + b"\r\n4\r\nbody\r\n" + END


@dataclass
class Read:
    """What was made of a response, and of the end of its connection.

    Attributes:
        end: whether it was whole, or against the rules, or cut short; or goes on after all that was sent.
        reusable: whether its connection may serve another request.
    """

    end: Literal["whole", "broken", "open"] = "open"
    status: int = 0
    version: bytes = b""
    reason: bytes = b""
    headers: list[Header] = field(default_factory=list)
    body: bytes = b""
    reusable: bool = False

    @property
    def content(self) -> tuple[object, ...]:
        """All that a caller may see."""
        headers = [
            (name, value.lower() if name.lower() == b"transfer-encoding" else value) for name, value in self.headers
        ]
        return self.status, self.version, self.reason, headers, self.body


def read(segments: Iterable[bytes], kind: type[Incoming] = Incoming) -> Read:
    """Read as the pools do: no more than is needed."""
    incoming, body = kind(), list[bytes]()
    found, said = Read(), ""
    try:
        for data in segments:
            incoming.feed(data)
            while incoming.has_begun() and (piece := incoming.take()) is not None:
                body.append(piece)
            if incoming.over:
                found.end = "whole"
                break
    except httpcore2.RemoteProtocolError as error:
        found.end, said = "broken", f"{error!r}{error.__cause__!r}{error.__context__!r}"
    assert SECRET.decode() not in said
    if incoming.status:
        found.status, found.version, found.reason = incoming.status, incoming.version, incoming.reason
        found.headers = incoming.headers
    found.body = b"".join(body)
    found.reusable = incoming.over and incoming.reusable
    return found


def oracle(segments: Iterable[bytes]) -> Read:
    """Read by h11, as httpcore sets it up."""
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=100 * 1024)
    peer.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
    peer.send(h11.EndOfMessage())
    found, rest = Read(), iter(segments)
    try:
        while found.end == "open":
            match peer.next_event():
                case h11.NEED_DATA:
                    data = next(rest, None)
                    if data is None:
                        return found
                    peer.receive_data(data)
                case h11.Response() as head:
                    found.status, found.version, found.reason = head.status_code, head.http_version, bytes(head.reason)
                    found.headers = head.headers.raw_items()
                case h11.Data() as data:
                    found.body += bytes(data.data)
                case h11.EndOfMessage():
                    found.end = "whole"
                case _:
                    pass
    except h11.RemoteProtocolError:
        found.end = "broken"
    found.reusable = found.end == "whole" and peer.our_state is peer.their_state is h11.DONE
    return found


# --- What differs from h11 -----------------------------------------------------------------------------------

STRICTER = {
    "a length that is repeated": OK + LENGTH + REST,
    "a length that is a list": OK + b"Content-Length: 4, 4\r\n\r\nbody",
    "lines that end with a line feed": (OK + b"X: y\r\n" + REST).replace(b"\r\n", b"\n"),
    "a line feed alone at the end": OK + LENGTH + b"\nbody",
    "a trailer that ends with a line feed": OK + CHUNKED + b"\r\n0\r\nX: y\n\n",
    "a folded header": OK + b"X: a\r\n b\r\n" + REST,
    "a folded length": OK + b"Content-Length:\r\n 4\r\n\r\nbody",
    "a folded trailer": OK + CHUNKED + b"\r\n0\r\nX: a\r\n b\r\n\r\n",
    "a control character in a header": OK + b"X: a\x07b\r\n" + REST,
    "a space in a chunk's extension": OK + CHUNKED + b"\r\n4; a\r\nbody\r\n" + END,
    "an empty chunk extension": OK + CHUNKED + b"\r\n4;\r\nbody\r\n" + END,
    "a chunk extension that is no token": OK + CHUNKED + b"\r\n4;\xff\r\nbody\r\n" + END,
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n" + REST,
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\n" + REST,
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n" + REST,
    "an informational response that closes": b"HTTP/1.1 103 x\r\nConnection: close\r\n\r\n" + OK + REST,
    "an informational response of HTTP/1.0": b"HTTP/1.0 100 x\r\n\r\n" + OK + REST,
}
"""What h11 lets pass. Node.js does not, nor does its OpenAI SDK: no server that means well answers like this."""

LAXER = {
    "a length with many zeros": OK + b"Content-Length: 00000000000000000000004\r\n\r\nbody",
    "a chunk size with many zeros": OK + CHUNKED + b"\r\n000000000000000000000004\r\nbody\r\n" + END,
    "a coding that is repeated": OK + CHUNKED + BODY,
    "empty lines before the status line": b"\r\n\n" + OK + REST,
    "a null byte in the reason": b"HTTP/1.1 200 a\x00b\r\n" + REST,
    "a space before a chunk's extension": OK + CHUNKED + b"\r\n4 ;a\r\nbody\r\n" + END,
    "an informational response with a body": b"HTTP/1.1 150 x\r\nContent-Length: 4\r\n\r\nevil" + OK + REST,
}
"""What h11 refuses. None of it changes what the body is."""


@pytest.mark.parametrize("data", STRICTER.values(), ids=STRICTER)
def test_what_h11_alone_accepts(data: bytes) -> None:
    assert oracle([data, b""]).end == "whole"
    assert read([data, b""]).end == "broken"


@pytest.mark.parametrize("data", LAXER.values(), ids=LAXER)
def test_what_h11_alone_refuses(data: bytes) -> None:
    assert oracle([data, b""]).end == "broken"
    found = read([data, b""])
    assert (found.end, found.status, found.body) == ("whole", 200, b"body")


# --- What does not -------------------------------------------------------------------------------------------

ALIKE = {
    "a length and a coding": OK + LENGTH + BODY,
    "a coding and another length": OK + CHUNKED + b"Content-Length: 9\r\n\r\n4\r\nbody\r\n" + END,
    "two lengths": OK + b"Content-Length: 5\r\n" + REST + b"y",
    "a negative length": OK + b"Content-Length: -4\r\n\r\nbody",
    "a length with a sign": OK + b"Content-Length: +4\r\n\r\nbody",
    "a length with blanks": OK + b"Content-Length: \t4 \r\n\r\nbody",
    "a length of two numbers": OK + b"Content-Length: 4 4\r\n\r\nbody",
    "a length beyond 64 bits": OK + b"Content-Length: 18446744073709551620\r\n\r\nbody",
    "an empty length": OK + b"Content-Length:\r\n\r\nbody",
    "another coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n4\r\nbody\r\n" + END,
    "a coding before the last": OK + b"Transfer-Encoding: gzip\r\n" + BODY,
    "a coding in capitals": OK + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n4\r\nbody\r\n" + END,
    "a chunk size beyond 64 bits": OK + CHUNKED + b"\r\n10000000000000004\r\nbody\r\n" + END,
    "a chunk size with a sign": OK + CHUNKED + b"\r\n+4\r\nbody\r\n" + END,
    "a chunk size after a blank": OK + CHUNKED + b"\r\n 4\r\nbody\r\n" + END,
    "a chunk size before blanks": OK + CHUNKED + b"\r\n4  \t\r\nbody\r\n" + END,
    "no chunk size": OK + CHUNKED + b"\r\n\r\nbody\r\n" + END,
    "a chunk that is longer than it says": OK + CHUNKED + b"\r\n3\r\nbody\r\n" + END,
    "a chunk that is shorter than it says": OK + CHUNKED + b"\r\n5\r\nbody\r\n" + END,
    "an extension": OK + CHUNKED + b'\r\n4;a=b;c="d;\\"e"\r\nbody\r\n' + END,
    "no last chunk": OK + CHUNKED + b"\r\n4\r\nbody\r\n",
    "no last line": OK + CHUNKED + b"\r\n4\r\nbody\r\n0\r\n",
    "trailers": OK + CHUNKED + b"\r\n4\r\nbody\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n",
    "a line feed alone after a chunk": OK + CHUNKED + b"\r\n4\r\nbody\n" + END,
    "a line feed alone after a chunk's size": OK + CHUNKED + b"\r\n4\nbody\r\n" + END,
    "a carriage return alone": OK + b"X: a\rb\r\n" + REST,
    "a space before the colon": OK + b"Content-Length : 4\r\n\r\nbody",
    "no colon": OK + SECRET + b"\r\n" + REST,
    "no name": OK + b": a\r\n" + REST,
    "an empty header before chunks": OK + b"X:\r\n" + CHUNKED[:-2] + b"\r\nY:\r\n\r\n4\r\nbody\r\n" + END,
    "latin-1 in a header": OK + b"X: \xe9\r\n" + REST,
    "latin-1 in a name": OK + b"X\xe9: a\r\n" + REST,
    "a null byte": OK + b"X: a\x00b\r\n" + REST,
    "a vertical tab": OK + b"X: a\x0bb\r\n" + REST,
    "no reason": b"HTTP/1.1 200\r\n" + REST,
    "an empty reason": b"HTTP/1.1 200 \r\n" + REST,
    "latin-1 in the reason": b"HTTP/1.1 200 \xe9 \t\r\n" + REST,
    "a status of two digits": b"HTTP/1.1 20 OK\r\n" + REST,
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n" + REST,
    "status 099": b"HTTP/1.1 099 OK\r\n" + REST,
    "status 999": b"HTTP/1.1 999 OK\r\n" + REST,
    "two blanks before the status": b"HTTP/1.1  200 OK\r\n" + REST,
    "a protocol that nobody asked for": b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + SECRET,
    "an offer to upgrade": OK + b"Connection: upgrade\r\nUpgrade: h2c\r\n" + REST,
    "a length where there is no body": b"HTTP/1.1 204 x\r\n" + REST,
    "a coding where there is no body": b"HTTP/1.1 304 x\r\n" + BODY,
    "an early hint with a length": b"HTTP/1.1 103 x\r\n" + LENGTH + b"\r\n" + OK + REST,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + REST,
    "HTTP/1.0 without a length": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nbody",
    "HTTP/1.0 in chunks": b"HTTP/1.0 200 OK\r\n" + BODY,
    "a last answer": OK + b"Connection: x, Close\r\n" + REST,
    "a last answer, said later": OK + b"Connection: keep-alive\r\nConnection: close\r\n" + REST,
    "no length": OK + b"\r\nbody",
    "a second answer": (OK + REST) * 2,
    "a protocol in small letters": b"http/1.1 200 OK\r\n" + REST,
    "no protocol": b"ICY 200 OK\r\n" + REST,
    "nothing": b"",
    "half a head": OK + b"Content-Le",
    "half a body": OK + LENGTH + b"\r\nbo",
}


@pytest.mark.parametrize("data", ALIKE.values(), ids=ALIKE)
def test_what_is_read_as_h11_reads_it(data: bytes) -> None:
    ours, theirs = read([data, b""]), oracle([data, b""])
    assert ours.end == theirs.end
    if ours.end == "whole":
        assert ours.content == theirs.content
    else:
        assert theirs.body.startswith(ours.body)


@pytest.mark.parametrize("data", [OK + LENGTH + BODY, OK + CHUNKED + LENGTH + b"\r\n" + END], ids=["length", "coding"])
def test_a_connection_that_contradicted_itself_is_not_used_again(data: bytes) -> None:
    """RFC 9112, 6.3: somebody between may have understood the other half of it."""
    found = read([data])
    assert (found.end, found.reusable) == ("whole", False)


# --- However it is cut ---------------------------------------------------------------------------------------

ALL = [*STRICTER.values(), *LAXER.values(), *ALIKE.values()]


@pytest.mark.parametrize("kind", [Incoming, AiohttpIncoming])
async def test_byte_by_byte_it_reads_the_same(kind: type[Incoming]) -> None:
    for data in ALL:
        at_once = read([data, b""], kind)
        singly = read([*(bytes([byte]) for byte in data), b""], kind)
        assert (singly.end, singly.content) == (at_once.end, at_once.content)


TAKEN_AS_ONE = re.compile(
    rb"""
    ^[\r\n]+                                # empty lines before the status line
    | ^(?:RTSP|ICE)/                        # protocols like HTTP, which some versions of llhttp read
    | \ [^\r\n]*\x00                        # a null byte in the reason
    | (?i:content-length):\s*0{10}          # zeros
    | \n0{10}
    | (?i:transfer-encoding:.*transfer-encoding:)
    | [0-9a-f][ \t]+;                       # a space before a chunk's extension
    | HTTP/1\.\d\ 1                         # an informational response with a body
    """,
    re.VERBOSE | re.DOTALL,
)
"""Where one of `LAXER` may be at work."""

LINES = st.sampled_from(
    [
        b"X: y",
        b"X:",
        b"x: \xe9 \t z ",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: upgrade\r\nUpgrade: x",
        b"Content-Length: 4",
        b"content-length: 0",
        b"Content-Length: 9",
        b"Content-Length: 4, 4",
        b"Content-Length: +4",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding: Chunked",
        b"Transfer-Encoding: gzip",
        b" folded",
        b"no colon",
        b"X : y",
        b"X: a\x00b",
        b"X: a\rb",
    ]
)
FIRST = st.sampled_from(
    [OK] * 6 + [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 204 x\r\n", b"HTTP/1.1 500\r\n", b"HTTP/2 200\r\n"]
)
HINTS = st.sampled_from([b"", b"", b"", b"HTTP/1.1 100 x\r\n\r\n", b"HTTP/1.1 103 x\r\nX: y\r\n\r\n", b"\r\n"])
CHUNKS = st.sampled_from(
    [
        b"4\r\nbody\r\n",
        b"4;x=y\r\nbody\r\n",
        b"4 \r\nbody\r\n",
        b"004\r\nbody\r\n",
        b"A\r\n0123456789\r\n",
        b"0\r\n\r\n",
        b"0\r\nX: y\r\n\r\n",
        b"5\r\nbody\r\n",
        b"-4\r\nbody\r\n",
        b"4\nbody\n",
    ]
)
BODIES = st.sampled_from([b"body"] * 3 + [b"", b"body" + OK + REST]) | st.lists(CHUNKS, max_size=4).map(b"".join)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Bytes that may be a response."""
    lines = [*draw(st.lists(LINES, max_size=2)), *draw(st.sampled_from([[LENGTH[:-2]], [CHUNKED[:-2]], []]))]
    body = draw(BODIES) + (END if lines and lines[-1] == CHUNKED[:-2] and draw(st.integers(0, 3)) else b"")
    data = draw(HINTS) + draw(FIRST) + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body
    if draw(st.integers(0, 3)):
        return data
    at = draw(st.integers(0, len(data)))
    return (
        data[:at]
        + draw(st.binary(max_size=3) | st.sampled_from([b"\r", b"\n", b"0", b" "]))
        + data[at + draw(st.integers(0, 3)) :]
    )


@fuzz(400)
@given(responses(), PLACES, st.booleans())
def test_any_bytes_are_read_as_h11_reads_them_however_they_are_cut(
    data: bytes, places: list[int], closed: bool
) -> None:
    last = [b""] if closed else []
    ours, cut_up, theirs = read([data, *last]), read([*cut(data, places), *last]), oracle([data, *last])
    assert (cut_up.end, cut_up.content) == (ours.end, ours.content)
    event(f"ours {ours.end}, h11's {theirs.end}")
    if ours.end == theirs.end == "whole":
        assert ours.content == theirs.content
        assert theirs.reusable or not ours.reusable or ours.version == b"1.0"
    elif ours.end == "whole":
        assert TAKEN_AS_ONE.search(data)
    elif ours.end == "open":
        assert theirs.end == "open" or TAKEN_AS_ONE.search(data)
    else:
        assert theirs.body.startswith(ours.body) or TAKEN_AS_ONE.search(data)


@pytest.mark.parametrize("kind", [Incoming, AiohttpIncoming])
async def test_what_came_before_it_went_bad_is_good(kind: type[Incoming]) -> None:
    """Though all came at once: who stops reading at `[DONE]` has a whole answer."""
    found = read([OK + CHUNKED + b"\r\n4\r\nbody\r\n" + SECRET], kind)
    assert (found.end, found.status, found.body) == ("broken", 200, b"body")


# --- What never ends -----------------------------------------------------------------------------------------


ENDLESS = {
    "a header": (OK + b"X: ", b"y"),
    "headers": (OK, b"X: y\r\n"),
    "a reason": (b"HTTP/1.1 200 ", b"y"),
    "empty lines": (b"", b"\r\n"),
    "informational responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a chunk's extension": (OK + CHUNKED + b"\r\n4;a=", b"y"),
    "a chunk's size": (OK + CHUNKED + b"\r\n", b"0"),
    "a trailer": (OK + CHUNKED + b"\r\n0\r\nX: ", b"y"),
    "trailers": (OK + CHUNKED + b"\r\n4\r\nbody\r\n0\r\n", b"X: y\r\n"),
}


@pytest.mark.parametrize("kind", [Incoming, AiohttpIncoming])
@pytest.mark.parametrize(("start", "again"), ENDLESS.values(), ids=ENDLESS)
async def test_what_brings_nothing_does_not_go_on_for_ever(start: bytes, again: bytes, kind: type[Incoming]) -> None:
    """Each read succeeds at once: no timeout would ever end it."""
    segments = [start, *repeat(again * (READ_SIZE // len(again)), 4)]
    assert read(filter(None, segments), kind).end == "broken"


@pytest.mark.parametrize("kind", [Incoming, AiohttpIncoming])
async def test_a_long_body_behind_a_long_head_does_not_count_as_head(kind: type[Incoming]) -> None:
    head = OK + b"X: " + b"y" * (READ_SIZE - 10) + b"\r\nContent-Length: %d\r\n\r\n" % READ_SIZE
    data = head + b"b" * READ_SIZE
    assert len(head) < MOST_OF_HEAD
    found = read([data[:READ_SIZE], data[READ_SIZE : 2 * READ_SIZE], data[2 * READ_SIZE :]], kind)
    assert (found.end, len(found.body)) == ("whole", READ_SIZE)


# --- What is not the answer's fault --------------------------------------------------------------------------


class Interrupt(BaseException):
    """As Ctrl-C, but of a test."""


@pytest.mark.parametrize(
    "callback",
    ["on_message_begin", "on_status", "on_header", "on_headers_complete", "on_body", "on_message_complete"],
)
@pytest.mark.parametrize("kind", [Interrupt, TimeoutError])
def test_an_interrupt_while_the_parser_calls_back_stays_one(callback: str, kind: type[BaseException]) -> None:
    """A signal's handler runs between any two lines, and what it raises is no broken answer to be sent for again."""

    def interrupt(*_: object) -> None:
        raise kind

    incoming = type("Interrupted", (Incoming,), {callback: interrupt})()
    with pytest.raises(kind):
        incoming.feed(OK + BODY)
