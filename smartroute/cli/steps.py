"""A connection taken apart: the library's own wire, with the time of each step noted."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import httpcore2

from smartroute.transport.connect import cause_of
from smartroute.transport.sync_wire import SyncWire

__all__ = ["Certificate", "Marks", "Wire", "certificate_of", "reason_of"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """Whose word an endpoint's certificate rests on, and when it `ends`, as a Unix timestamp."""

    issuer: str
    ends: float


@dataclass(slots=True)
class Marks:
    """What is noted on the way. `step`: where it is now."""

    clock: Callable[[], float]
    step: str = "connect"
    addresses: list[str] = field(default_factory=list[str])
    dns: float | None = None
    connect: float | None = None
    tls: float | None = None
    certificate: Certificate | None = None
    sent_at: float = 0.0
    sent: bool = False
    began: float = 0.0

    def begin(self, now: float) -> None:
        """A request begins."""
        self.sent, self.sent_at = False, now

    def depart(self) -> None:
        """Its first byte goes out now."""
        self.step = "request"
        if not self.sent:
            self.sent, self.sent_at = True, self.clock()

    def trace(self, name: str, _: object) -> None:
        """What httpcore does."""
        event = name.partition(".")[2]
        if event.endswith(".started"):
            self.began = self.clock()
        took = self.clock() - self.began
        match event:
            case "connect_tcp.started":
                self.step = "connect"
            case "connect_tcp.complete":
                self.connect = took
            case "start_tls.started":
                self.step = "tls"
            case "start_tls.complete":
                self.tls = took
            case "send_request_headers.started" if name.startswith("http11"):
                self.sent = False  # the last one is ours, those before it are the proxy's
                self.depart()
            case _:
                pass


class Wire(SyncWire):
    """The library's wire, with its steps noted."""

    def __init__(self, clock: Callable[[], float], marks: Marks, limit: float) -> None:
        super().__init__(clock)
        self._marks = marks
        self._limit = limit

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - it is `limit` here, for each step
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        marks, started = self._marks, self._marks.clock()
        marks.step = "dns"
        marks.addresses = _resolve(host, port, self._limit)
        marks.dns = marks.clock() - started
        marks.step, started = "connect", marks.clock()
        options = tuple(socket_options or ())
        for last, address in enumerate(marks.addresses, 1 - len(marks.addresses)):
            left = started + self._limit - marks.clock()
            try:
                stream = super().connect_tcp(address, port, max(left / (1 - last), 0.1), local_address, options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if not last:
                    raise
            else:
                marks.connect = marks.clock() - started
                return _Stopwatch(stream, marks, self._limit)
        raise httpcore2.ConnectError("the name has no address")


class _Stopwatch(httpcore2.NetworkStream):
    """A connection of the library's, with its steps noted."""

    def __init__(self, stream: httpcore2.NetworkStream, marks: Marks, limit: float) -> None:
        self._stream = stream
        self._marks = marks
        self._limit = limit

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        marks, started = self._marks, self._marks.clock()
        marks.step = "tls"
        self._stream = self._stream.start_tls(ssl_context, server_hostname, timeout)
        marks.tls = marks.clock() - started
        marks.certificate = certificate_of(self._stream.get_extra_info("ssl_object"))
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - see `Wire`
        left = self._marks.sent_at + self._limit - self._marks.clock()  # the whole answer has so long, also if it drips
        if left <= 0:
            raise httpcore2.ReadTimeout("the answer is not over")
        return self._stream.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._marks.depart()
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _resolve(host: str, port: int, limit: float) -> list[str]:
    """The addresses of a host. Nothing ends a wait for the resolver: a thread waits for it, and is left behind."""
    answers: SimpleQueue[list[str] | OSError] = SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(address[0]) for *_, address in found)))
        except OSError as error:
            answers.put(error)
        except UnicodeError as error:  # no name that could be asked for
            answers.put(socket.gaierror(socket.EAI_NONAME, str(error)))

    threading.Thread(target=ask, name="smartroute-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=limit)
    except Empty:
        answer = socket.gaierror(socket.EAI_AGAIN, f"no answer in {limit:g} s")
    if isinstance(answer, OSError):
        raise httpcore2.ConnectError(str(answer)) from answer
    return answer


def certificate_of(secured: ssl.SSLSocket | ssl.SSLObject | None) -> Certificate | None:
    """The certificate of the other end; None: nobody has verified it, or there is none."""
    found: Any = secured.getpeercert() if secured is not None else None
    if not found:
        return None
    issuer = {name: value for part in found.get("issuer", ()) for name, value in part}
    names = [issuer[name] for name in ("organizationName", "commonName") if issuer.get(name)]
    return Certificate(" ".join(names) or "unnamed", ssl.cert_time_to_seconds(str(found["notAfter"])))


def reason_of(error: BaseException) -> str:
    """What OpenSSL calls what went wrong, if it was that."""
    match cause := cause_of(error):
        case ssl.SSLCertVerificationError():
            return str(cause.verify_code)
        case ssl.SSLError():
            return cause.reason or ""
        case _:
            return ""
