"""HTTP/1.1 without any I/O: a request as bytes, and a response from bytes.

Reading is llhttp's (Node.js' parser, by httptools), as strict as h11, which reads for the plain SDK, or stricter. What
is ours is what a client needs around it: where a head ends, what a connection is good for afterwards, and that nothing
behind an answer answers anybody.
"""

import re
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import httpcore2
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

__all__ = ["MOST_OF_HEAD", "Header", "Incoming", "Outgoing", "is_header"]

Header = tuple[bytes, bytes]

MOST_OF_HEAD = 100 * 1024
"""Bytes in which the head of a response must have come; and that may come later without a piece of its body or its end
(trailers, extensions of chunks). httpcore's limit."""
_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_LINE = rb"%b: (?:[^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?\r\n" % _TOKEN
_HEAD = re.compile(rb"%b [!-~]+ HTTP/1\.1\r\n(?:%b)*\r\n" % (_TOKEN, _LINE))
"""A request's head as h11 lets it pass, and RFC 9110 (5.1, 5.5)."""
_is_line = re.compile(_LINE).fullmatch


def is_header(pair: object) -> bool:
    """Whether a request with this header, whoever made it up, can be sent."""
    try:
        return _is_line(b"%b: %b\r\n" % cast("Header", pair)) is not None
    except TypeError:
        return False


class Incoming:
    """A response as it comes in.

    Attributes:
        status: its status code; 0 until its head is whole. Informational responses are passed over (RFC 9110, 15.2).
        headers: as they came; so are `reason`, its phrase, and `version`, that of HTTP.
        pieces: what has come of its body and was not taken yet.
        over: whether it is whole.
        reusable: whether its connection may serve another request, once it is over.
        error: what is wrong with it. Pieces that came before are good.
    """

    __slots__ = (
        "_framed",
        "_informs",
        "_parser",
        "_size",
        "error",
        "headers",
        "over",
        "pieces",
        "reason",
        "reusable",
        "status",
        "version",
    )

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        self.version = b"1.1"
        self.headers: list[Header] = []
        self.pieces: deque[bytes] = deque()
        self.over = False
        self.reusable = False
        self.error: httpcore2.RemoteProtocolError | None = None
        parser = HttpResponseParser(self)
        # What h11 reads too, and reads alike:
        parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_spaces_after_chunk_size=True)
        self._parser: HttpResponseParser | None = parser
        self._framed = False
        self._informs = False
        self._size = 0

    def has_begun(self) -> bool:
        """Whether the head is whole.

        Raises:
            RemoteProtocolError: it is no response.
        """
        if self.status == 0 and self.error is not None:
            raise self.error
        return self.status != 0

    def take(self) -> bytes | None:
        """The next piece of the body; None: none has come, and if it is not over, more has to be read.

        Raises:
            RemoteProtocolError: the body went bad, and what was good of it has been taken.
        """
        if self.pieces:
            return self.pieces.popleft()
        if self.error is not None:
            raise self.error
        return None

    def feed(self, data: bytes) -> None:
        """Take in what was read; no bytes: the server has closed the connection."""
        if not data:
            self._end()
            return
        if self._parser is None:
            self.reusable = False  # something behind the answer
            return
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError as error:  # not the answer's fault: Ctrl-C, or what a signal's handler raised
            raise error.__context__ or error from None
        except (HttpParserError, HttpParserUpgrade) as error:
            if self.over:
                self.reusable = False  # what comes behind it is not its fault
            else:  # without its text, which may quote the answer
                self._refuse(f"The response is not HTTP/1.1: {type(error).__name__}.")
        self._count(data)
        if self.over or self.error is not None:
            self.release()

    def release(self) -> None:
        """Nothing more will be read: part with the parser, which holds this object as this one holds the parser."""
        self._parser = None

    def _count(self, data: bytes) -> None:
        """Take note of how much came without bringing anything: no timeout ends what comes without end."""
        if self.pieces or self.over:
            self._size = 0
        else:
            self._size += len(data)
            if self._size > MOST_OF_HEAD:
                self._refuse("The head of the response, or what frames its body, is too large.")

    def _end(self) -> None:
        self.reusable = False
        if self.over or self.error is not None:
            return
        if self.status == 0:
            self._refuse("Server disconnected without sending a response.")
        elif self._framed:
            self._refuse("The response was cut short: it is incomplete.")
        else:  # where no length was given, that is the end of the body
            self.over = True

    def _refuse(self, why: str) -> None:
        self.error = self.error or httpcore2.RemoteProtocolError(why)
        self.reusable = False

    # The parser's side

    def on_message_begin(self) -> None:
        """A head begins."""
        if self.over:
            self.reusable = False  # another response, for which nobody asked

    def on_status(self, reason: bytes) -> None:
        """(A part of) the reason phrase."""
        if not self.over:
            self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer of the body, which nobody wants."""
        if self.status == 0 and not self.over:
            self.headers.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        parser = self._parser
        if self.over or parser is None:
            return
        status = parser.get_status_code()
        self._informs = 100 <= status < 200 and status != 101  # which nobody asked for
        if self._informs:
            return
        self.reusable = parser.should_keep_alive()
        for name, value in self.headers:
            lower = name.lower()
            if lower in (b"transfer-encoding", b"content-length"):
                self.reusable &= not self._framed  # told twice, and perhaps understood otherwise on the way
                self._framed = True
                if lower == b"transfer-encoding" and value.lower() != b"chunked":
                    self._refuse("The response has a transfer coding that nobody asked for.")
        self.version = parser.get_http_version().encode()
        if status < 200 or not self.version.startswith(b"1."):
            self._refuse("The response is not HTTP/1.1 as we understand it.")
        if self.error is None:
            self.status = status

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if self.status and not self.over:  # informational responses have none, whatever they say
            self.pieces.append(piece)

    def on_message_complete(self) -> None:
        """The response is whole."""
        if self._informs:
            self._informs = False
            self.headers.clear()
            self.reason = b""
        else:
            self.over = True


@dataclass(slots=True, eq=False)
class Outgoing:
    """A request as it goes out.

    Attributes:
        extensions: httpcore's: `timeout`, `sni_hostname`.
    """

    method: bytes
    url: httpcore2.URL
    headers: list[Header]
    content: bytes = b""
    extensions: dict[str, object] = field(default_factory=dict[str, object])

    def to_bytes(self) -> tuple[bytes, bytes, bool]:
        """Its head and its body as they are sent, and whether the connection is to be closed after it.

        Raises:
            httpcore2.LocalProtocolError: the headers cannot be sent, or belong to another body.
        """
        hosts, lines = 0, [b"%b %b HTTP/1.1" % (self.method, self.url.target)]
        body, lengths, codings, is_last = self.content, set[bytes](), list[bytes](), False
        for name, value in self.headers:
            line = b"%b: %b" % (name, value)
            lower = name.lower()
            if lower == b"host":  # it goes first, as RFC 9110 (7.2) would have it
                hosts += 1
                lines.insert(1, line)
                continue
            lines.append(line)
            if lower == b"content-length":
                lengths.add(value)
            elif lower == b"transfer-encoding":
                codings.append(value.lower())
            elif lower == b"connection":
                is_last |= b"close" in value.lower()
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        # As many lines as were meant: none of them has brought along another one.
        if hosts != 1 or head.count(b"\n") != len(lines) + 1 or _HEAD.fullmatch(head) is None:
            raise httpcore2.LocalProtocolError("The request has headers that cannot be sent.")
        if codings:  # any other is read otherwise than it is meant: what is behind it may pass for a request
            if codings != [b"chunked"]:
                raise httpcore2.LocalProtocolError("The request has a transfer coding that cannot be sent.")
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        elif (lengths or {b"0"}) != {b"%d" % len(body)}:
            raise httpcore2.LocalProtocolError("The request's Content-Length is not the length of its body.")
        return head, body, is_last
