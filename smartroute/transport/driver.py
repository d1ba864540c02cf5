"""What the sync and the async driver share: everything but the waiting.

A driver obeys an `Exchange`; it makes no decisions of its own.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import methodcaller
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from weakref import WeakSet

import httpcore2

from smartroute.errors import ClosedError
from smartroute.fireworks import NOTED_HEADERS
from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import Answered, Attempt, Command, Event, Failed, Record, Send, Wait
from smartroute.policy.outcome import Failure, retry_after
from smartroute.policy.patience import LATE
from smartroute.policy.schedule import Finding
from smartroute.route import LEAST_SECRET, NEVER_FORWARDED, Kind
from smartroute.settings import is_switched_off
from smartroute.transport.connect import cause_of, failure_of, is_refused_stream
from smartroute.transport.family import text_of
from smartroute.transport.http1 import Outgoing
from smartroute.transport.pools import PoolOptions, Pools, Response, TransportOptions
from smartroute.transport.rewrite import OWN_PREFIX, Intake, Rewriter
from smartroute.transport.stream import Tail, begins
from smartroute.transport.watch import RegionDied, Rival, Watch, timeouts

if TYPE_CHECKING:
    import httpx2

    from smartroute.policy.schedule import Claim
    from smartroute.probe import AsyncProber, SyncProber
    from smartroute.router import Router
    from smartroute.transport.family import Family

__all__ = ["UNSENT", "BodyBase", "DriverBase", "Flight", "Journey", "Trip", "collector"]

PROBE_BYTES = 256 * 1024
"""Bytes of a probe's answer that are read to keep its connection."""
DRAIN_LIMIT = 0.05
"""Seconds and bytes that may be spent after `[DONE]` to keep the connection."""
DRAIN_BYTES = 16 * 1024
SECRET_HEADERS = ({*NEVER_FORWARDED} - {"host"}) | {"x-session-affinity", "x-multi-turn-session-id"}
"""Headers of the caller's of which nothing is told."""
_WORD = re.compile(r"[ ;,=]+")
_NOTE = re.compile(r"[\x21-\x7e]{1,128}")
"""A response header's value worth keeping: nobody needs more to name a request, and no sentence fits in."""
UNSENT = frozenset(
    (
        Failure.DNS,
        Failure.CONNECT,
        Failure.CONNECT_TIMEOUT,
        Failure.TLS,
        Failure.CERTIFICATE,
        Failure.CLIENT_CERTIFICATE,
        Failure.POOL_TIMEOUT,
    )
)
"""Failures that come before the first byte of a request, or (`CLIENT_CERTIFICATE`) before it is read."""


class Journey(NamedTuple):
    """How a response was routed: `response.extensions["smartroute"]`.

    Attributes:
        route: the name of the endpoint that answered.
        attempts: every attempt, in order, the answered one included.
    """

    route: str
    attempts: tuple[Record, ...]


@dataclass(slots=True, eq=False)
class Flight:
    """What a driver keeps of an attempt.

    Attributes:
        response: the response, once its head has come; `open` until it has been closed.
        source: the iterator over its body; `chunks`: what of it is in hand, `whole`: all of it.
        error: what ended the attempt, if an exception did.
        dropped: whether it was given up, because one in whose stead it was made is answered.
    """

    watch: Watch
    proxied: bool = False
    response: Any = None
    open: bool = False
    source: Any = None
    chunks: list[bytes] = field(default_factory=list, repr=False)
    event_stream: bool = False
    encoded: bool = False
    whole: bool = False
    error: Exception | None = None
    dropped: bool = False


class Trip(NamedTuple):
    """One request on its way: its exchange, what came in, and its flights by their attempts' numbers."""

    exchange: Exchange
    intake: Intake
    flights: dict[int, Flight]

    def board(self, flight: Flight, *, beside: bool) -> None:
        """Another flight begins. Those that stay on their way are heard though nobody reads from them."""
        attempt, streaming = flight.watch.attempt, self.exchange.call.streaming
        flight.watch.begins = partial(begins, attempt=attempt, streaming=streaming)
        if beside:
            flight.watch.earlier = [other.watch for other in self._waiting()]
        self.flights[attempt.number] = flight

    def drop_after(self, attempt: Attempt, now: float) -> None:
        """Give up the flights that were begun beside this attempt: it is being answered."""
        self.exchange.begins(attempt, now)
        for flight in self._waiting():
            flight.dropped = flight.dropped or flight.watch.attempt.number > attempt.number

    def feed(self, event: Event, now: float) -> Command:
        """Tell the exchange. It does not wait for what was given up, should the earlier attempt have failed too."""
        command = self.exchange.feed(event, now)
        for flight in self._waiting() if isinstance(command, Wait) else ():
            if flight.dropped and isinstance(command, Wait):
                lost = Failed(flight.watch.attempt, Failure.OVERTAKEN, "given up for an earlier attempt")
                command = self.exchange.feed(lost, now)
        return command

    def _waiting(self) -> list[Flight]:
        return [flight for flight in self.flights.values() if flight.watch.attempt.ended is None]


class DriverBase:
    """One client's way to its endpoints."""

    def __init__(self, family: Family, router: Router, options: TransportOptions) -> None:
        self.family = family
        self.router = router
        self.clock = router.clock
        self.pool_options = PoolOptions(family, options)
        self.rewriter = Rewriter(router.config, family)
        # Open streams are held here as well as by their readers: were one collected with its reader, each
        # of the generators below it would be closed on its own, all at the same time.
        self.open_streams: dict[Flight, Exchange] = {}
        self.closed = False
        # Over HTTP/2 one request may read for many: none of them can be left waiting for another endpoint.
        self.looks_after = not options.get("http2")
        self.chores: SimpleQueue[Callable[[], object]] = SimpleQueue()
        _drivers.add(self)
        self._routing = bool(router.config.routes) and not router.config.disabled and not is_switched_off(os.environ)
        # Certificates are loaded now, as the libraries do: later it would stop an event loop.
        for route in router.config.routes if self._routing else ():
            self.pool_options.context_for(route)
        if "verify" in options or (router.config.global_url or "").startswith("https:"):
            _ = self.pool_options.ssl_context

    def after_fork(self) -> None:
        """In a child process: connections are the parent's. They are left alone, also by the collector."""
        for flight in self.open_streams:
            flight.open = False  # or its pool's lock is waited for, which a thread may have held that is not here
        self.chores, self.open_streams = SimpleQueue(), {}

    def do_chores(self) -> None:
        """Tidy up after forgotten streams.

        The garbage collector may find them at any moment, also in a thread that holds one of our locks
        or a pool's. So their `__del__` does nothing but leave a note (`SimpleQueue.put` is reentrant).
        """
        while not self.chores.empty():
            with contextlib.suppress(Empty):  # another thread was quicker
                self.chores.get_nowait()()

    def _intake(self, request: httpx2.Request) -> Intake | None:
        return self.rewriter.intake(request) if self._routing else None

    def _tell_passed(self, request: httpx2.Request, intake: Intake | None) -> None:
        """Say why a request to a routed path is not routed."""
        if intake is not None:
            self.router.passed_through(intake.call.path, "no route serves its model")
        elif self._routing and (found := self.rewriter.why_not(request)):
            self.router.passed_through(*found)

    def _board(self, command: Send, intake: Intake, pools: Pools[Any]) -> tuple[Flight, Any, Outgoing]:
        """Prepare an attempt: what to keep of it, its pool, its request."""
        attempt = command.attempt
        if self.closed:
            raise ClosedError("the client was closed while it sent this request")
        pool, proxied = pools.of(attempt.endpoint)
        watch = Watch(attempt, self.clock, until=attempt.until)
        if attempt.fresh and (address := pools.address(attempt.endpoint)) is not None:
            pools.wire.retirement.doubt(address)
            pools.wire.spares.drop(address)
        given: dict[str, float | None] = intake.request.extensions.get("timeout", {})
        if command.beside:  # nobody hears the others while this one connects
            given = given | {"connect": min(command.handshake, given.get("connect") or command.handshake)}
        limits = dict(given) if proxied else timeouts(given, watch)  # httpcore's own streams take plain timeouts
        if attempt.until is not None:
            left = max(attempt.until - self.clock(), 0.001)
            for phase in ("pool", "read") if proxied else ("pool",):
                limits[phase] = min(left, given.get(phase) or left)
        if command.beside:  # nobody hears the others while this one queues
            limits["pool"] = min(command.patience, limits.get("pool") or command.patience)
        if not proxied:
            watch.rivals = partial(self._rivals, command, pools)
            watch.patience, watch.handshake = command.patience, command.handshake
        extensions = intake.request.extensions | {"timeout": limits}
        return Flight(watch, proxied), pool, self.rewriter.request(intake, attempt, extensions)

    def _rivals(self, command: Send, pools: Pools[Any]) -> Sequence[Rival]:
        """The rivals that can be connected to directly: behind a proxy there is nothing to race."""
        addresses = ((route, pools.address(route)) for route in command.rivals())
        return [Rival(route.name, *address, partial(pools.idle, route)) for route, address in addresses if address]

    def _failed(self, flight: Flight, error: Exception, request: httpx2.Request) -> Failed:
        """Take note of an exception that ended an attempt before its response.

        Raises:
            Exception: where it is the request's fault or a bug: no other endpoint would help.
        """
        if isinstance(error, OSError):  # the SDK would not catch it
            error = _with_cause(httpcore2.NetworkError(str(error)), error)
        failure = failure_of(error, flight.watch)
        if self.closed:  # by the caller, under a request: nobody is to blame, and nothing is sent again
            self.refuse(error, request)
        if failure is Failure.PROTOCOL and not isinstance(error, httpcore2.RemoteProtocolError):
            self.refuse(error, request)
        attempt = flight.watch.attempt
        if failure is Failure.CONNECT_TIMEOUT and flight.watch.earlier:
            failure = Failure.POOL_TIMEOUT  # a limit of our own, too: nobody is to blame
        if flight.proxied or failure is Failure.CLIENT_CERTIFICATE:
            attempt.sent = failure not in UNSENT
        if is_refused_stream(error):
            attempt.sent = False
        flight.error = error
        return Failed(attempt, failure, describe(failure, error))

    def _answered(self, flight: Flight, response: Response, exchange: Exchange, asked: httpx2.Request) -> Answered:
        """Take note of a response's head."""
        flight.response, flight.open = response, True  # first: from now on somebody will close it
        attempt = flight.watch.attempt
        attempt.first_byte = self.clock()
        self.router.secured(attempt)
        if flight.proxied:
            attempt.sent, attempt.sent_at = True, attempt.started
        event_stream = encoded = False
        for name, value in response.headers:
            lower = name.lower()
            if lower == b"content-type":
                event_stream = value.lower().startswith(b"text/event-stream")
            elif lower == b"content-encoding":
                encoded = value.strip().lower() not in (b"", b"identity")
        # What is encoded cannot be watched; a stream under another name can.
        flight.event_stream = not encoded and (event_stream or exchange.call.streaming)
        flight.encoded = encoded
        wait = retry_after(response.headers, self.router.wall()) if response.status in (429, 503) else None
        if exchange.number:
            attempt.notes = self._notes(response.headers, exchange, attempt, asked)
        return Answered(attempt, response.status, wait, event_stream, encoded)

    def _notes(
        self, headers: Sequence[tuple[bytes, bytes]], exchange: Exchange, attempt: Attempt, asked: httpx2.Request
    ) -> tuple[tuple[str, str], ...]:
        """The response headers worth keeping, but none that repeats a secret: a server may echo anything."""
        found = [
            (lower, value.decode("latin-1"))
            for name, value in headers
            if (lower := name.decode("latin-1").lower()) in NOTED_HEADERS
        ]
        if not found:
            return ()
        secrets = {*attempt.endpoint.secrets, self.router.config.global_api_key, exchange.call.conversation}
        words = (word for name in SECRET_HEADERS for word in _WORD.split(asked.headers.get(name, "")))
        known = [*filter(None, secrets), *(word for word in words if len(word) >= LEAST_SECRET)]
        return tuple(
            (name, value)
            for name, value in found
            if _NOTE.fullmatch(value) and not any(secret in value for secret in known)
        )

    def _response(
        self, flight: Flight, exchange: Exchange, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream, *, final: bool
    ) -> httpx2.Response:
        """The caller's response, in its own family's words."""
        core = flight.response
        if core is None:
            raise AssertionError("only an attempt with a response is delivered")
        attempt = flight.watch.attempt
        headers = [h for h in core.headers if not h[0].lower().startswith(OWN_PREFIX)]
        if attempt.endpoint.kind is not Kind.GLOBAL or exchange.call.addressed is not None:
            # The client would store it under the host it knows, and send it to every route.
            headers = [h for h in headers if h[0].lower() != b"set-cookie"]
        headers.append((b"x-smartroute-route", attempt.endpoint.name.encode()))
        headers.append((b"x-smartroute-attempts", b"%d" % len(exchange.attempts)))
        if final:
            headers = [h for h in headers if h[0].lower() != b"x-should-retry"] + [(b"x-should-retry", b"false")]
        journey = Journey(attempt.endpoint.name, exchange.records(self.clock()))
        return self.family.Response(
            core.status, headers=headers, stream=stream, extensions={**core.extensions, "smartroute": journey}
        )

    def _exception(self, trip: Trip, attempt: Attempt) -> Exception:
        """The caller's exception, in its own family's words, with a note of what was tried."""
        request, error = trip.intake.request, trip.flights[attempt.number].error
        if error is None:
            raised: Exception = self.family.RemoteProtocolError(
                f"{attempt.endpoint.name}: {attempt.detail}", request=request
            )
        else:
            raised = self.mapped(error, request)
        tried = (f"{r.endpoint} ({r.detail or f'status {r.status}'})" for r in trip.exchange.records(self.clock()))
        raised.add_note(f"smartroute tried {', '.join(tried)}")
        return raised

    def mapped(self, error: Exception, request: httpx2.Request) -> Exception:
        """The caller's exception for one of the wire's."""
        raised = self.family.error(error, request)
        if raised is not error and text_of(error) != str(error):
            raised.__cause__ = None  # what is quoted is not to be read there either
            return raised
        return _with_cause(raised, error)

    def refuse(self, error: Exception, request: httpx2.Request) -> NoReturn:
        """Raise the caller's exception for one of the wire's."""
        raise self.mapped(error, request)

    def settle(
        self,
        exchange: Exchange,
        flight: Flight,
        how: str,
        *,
        failure: Failure = Failure.TRUNCATED,
        detail: str = "",
        status: int | None = None,
    ) -> None:
        """The delivered body is over: `complete`, `closed` or `interrupted`, by which `failure`."""
        attempt = flight.watch.attempt
        exchange.settle(attempt, how, self.clock(), failure=failure, detail=detail, status=status)
        failed = attempt.failure is not None or (attempt.status or 0) >= 400
        outcome = "interrupted" if how == "interrupted" else "failed" if failed else "answered"
        self.router.finish(exchange, outcome)

    def settle_stream(
        self,
        flight: Flight,
        how: str,
        *,
        failure: Failure = Failure.TRUNCATED,
        detail: str = "",
        status: int | None = None,
    ) -> None:
        """A stream is over. Who says so first is heard."""
        if exchange := self.open_streams.pop(flight, None):
            self.settle(exchange, flight, how, failure=failure, detail=detail, status=status)

    def settle_streams(self) -> None:
        """The client is closed, and with it its streams: of one forgotten later nobody would read the note."""
        for flight in tuple(self.open_streams):
            self.settle_stream(flight, "closed")

    def _commit(self, flight: Flight, exchange: Exchange, prober: SyncProber | AsyncProber) -> None:
        """From here on no limit of ours applies: what is left of the answer comes, or its route proves dead."""
        watch = flight.watch
        watch.until = watch.quiet = None
        if self.looks_after and not flight.proxied:
            watch.hush = partial(self._hush, exchange, watch.attempt, prober)

    def _hush(self, exchange: Exchange, attempt: Attempt, prober: SyncProber | AsyncProber, since: float) -> None:
        if self.router.stalled(exchange, attempt, since):
            raise RegionDied
        prober.hurry()

    def _report(
        self,
        claim: Claim,
        watch: Watch,
        *,
        proxied: bool,
        status: int | None = None,
        error: Exception | None = None,
    ) -> None:
        """Tell the router what a probe found: an answer's status, or an error."""
        if self.closed:  # and so perhaps broken off
            self.router.unprobed(claim)
            return
        attempt = watch.attempt
        now = self.clock()
        failure = None if error is None else failure_of(error, watch)
        sent = failure not in UNSENT and (proxied or attempt.sent)
        self.router.secured(attempt)
        sick = failure or (str(status) if status is not None and status >= 500 else None)
        sent_at = attempt.sent_at or attempt.started
        detail = f"status {status}" if failure is None and sick else ""
        if failure is not None and error is not None:
            detail = describe(failure, error)
        if failure is Failure.DEADLINE:
            detail = f"{failure}: no answer in {claim.limit * 1000:.0f} ms"
        self.router.probed(
            claim,
            Finding(
                attempt.started,
                status,
                None if attempt.first_byte is None else attempt.first_byte - sent_at,
                failure=sick,
                detail=detail,
                unreachable=failure not in (None, Failure.POOL_TIMEOUT) and not sent,
                late=watch.until is not None and (attempt.first_byte or now) > watch.until + LATE,
            ),
        )

    def _probe_watch(self, claim: Claim, key: int) -> Watch:
        now = self.clock()
        return Watch(Attempt(1, claim.route, key, "probe", now, None), self.clock, until=now + claim.limit)

    def _probe_extensions(self, watch: Watch, claim: Claim, *, proxied: bool) -> dict[str, object]:
        given: dict[str, float | None] = dict.fromkeys(("connect", "read", "write", "pool"), claim.limit)
        return {"timeout": given if proxied else timeouts(given, watch)}


def _after_fork() -> None:
    for driver in tuple(_drivers):
        driver.after_fork()


_drivers: WeakSet[DriverBase] = WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Collector(threading.local):
    """Whether the garbage collector is at work in this thread.

    It closes the generators it finds, and with them our streams, at any moment: also in a thread that
    holds one of our locks, or a pool's, or OpenTelemetry's. What is closed by it is put off.
    """

    at_work = False
    # Nothing that the collector calls is written in Python: if Ctrl-C or another signal came meanwhile, Python code
    # would raise what the signal's handler raises, and the collector passes over that.
    start = property(methodcaller("__setattr__", "at_work", True))  # noqa: FBT003
    stop = property(methodcaller("__setattr__", "at_work", False))  # noqa: FBT003


collector = _Collector()
gc.callbacks.append(partial(getattr, collector))


class BodyBase:
    """A delivered event stream, until it is closed: all but the reading.

    Owns the bookkeeping: however the stream ends (read to its end, closed, broken off, forgotten), the
    exchange is told exactly once.
    """

    _over = True

    def __init__(self, driver: DriverBase, exchange: Exchange, flight: Flight, request: httpx2.Request) -> None:
        self._driver = driver
        self._flight = flight
        self._request = request
        self._held = iter(flight.chunks)
        self._tail = Tail() if flight.event_stream else None
        self._attempt = flight.watch.attempt
        self._over = False  # from here on there is something to close
        driver.open_streams[flight] = exchange

    @property
    def _may_drain(self) -> bool:
        """Whether only the end of file is left to read (through a proxy, nothing would limit the wait)."""
        return self._tail is not None and self._tail.done and not self._flight.proxied

    def _pass(self, chunk: bytes) -> bytes:
        self._attempt.size += len(chunk)
        self._attempt.chunks += 1
        if self._tail is not None:
            self._tail.feed(chunk)
        return chunk

    def _at_end(self) -> Exception | None:
        """The server ended the body. Returns what is wrong with that, if anything."""
        attempt = self._flight.watch.attempt
        if self._tail is None or attempt.endpoint.kind is Kind.GLOBAL or self._tail.complete:
            self._settle("complete")
            return None
        detail = "the stream ended before it was complete"
        self._settle("interrupted", detail=detail)
        error = self._driver.family.RemoteProtocolError(f"{attempt.endpoint.name}: {detail}", request=self._request)
        return self._noted(error, detail)

    def _broken(self, error: Exception) -> Exception:
        """Reading failed. Returns the exception for the caller."""
        if isinstance(error, OSError):
            error = _with_cause(httpcore2.ReadError(str(error)), error)
        failure = failure_of(error, self._flight.watch)
        detail = describe(failure, error)
        self._settle("interrupted", failure=failure, detail=detail)
        return self._noted(self._driver.mapped(error, self._request), detail)

    def _closed(self) -> None:
        """The caller closed it. After an error event that was no choice of the caller's."""
        failed, status = (False, None) if self._tail is None else self._tail.error
        if failed:
            detail = f"an error event ({status or 'no status'})"
            self._settle("interrupted", failure=Failure.ERROR_EVENT, detail=detail, status=status)
        else:
            self._settle("closed")

    def _settle(
        self, how: str, *, failure: Failure = Failure.TRUNCATED, detail: str = "", status: int | None = None
    ) -> None:
        if not self._over:
            self._over = True
            self._driver.settle_stream(self._flight, how, failure=failure, detail=detail, status=status)

    def _noted(self, error: Exception, detail: str) -> Exception:
        """The caller's exception, with a note of who broke off."""
        attempt = self._attempt
        error.add_note(f"smartroute: {attempt.endpoint.name} broke off after {attempt.chunks} chunks ({detail})")
        return error


_WORDS = {
    Failure.CONNECT_TIMEOUT: "no connection in time",
    Failure.POOL_TIMEOUT: "no connection was free in time",
    Failure.READ_TIMEOUT: "nothing came in time",
    Failure.DEADLINE: "no answer by the deadline",
    Failure.RESET: "the connection was closed before an answer",
    Failure.PROTOCOL: "the answer breaks the protocol",
}
"""What failures mean that have no cause to name."""


def describe(failure: Failure, error: BaseException) -> str:
    """A failure in words that cannot hold a secret: never an exception's own text, but what the system calls it."""
    cause = cause_of(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"{failure}: {cause.verify_message.removesuffix('.')}"
    if failure is Failure.CLIENT_CERTIFICATE and isinstance(cause, ssl.SSLError):
        return f"{failure}: it was refused, or is missing ({words_of(cause)})"
    if failure is Failure.TLS and isinstance(cause, ssl.SSLError) and cause.reason:
        return f"{failure}: {words_of(cause)}"
    if isinstance(cause, socket.gaierror):
        return f"{failure}: {cause.strerror}"
    if (
        isinstance(cause, OSError)
        and cause.errno is not None
        and cause.errno > 0
        and not isinstance(cause, ssl.SSLError)
    ):
        return f"{failure}: {os.strerror(cause.errno)}"
    if isinstance(error, httpcore2.RemoteProtocolError) and "incomplete" in str(error):
        return f"{failure}: the connection was closed in the middle of the answer"
    return f"{failure}: {_WORDS[failure]}" if failure in _WORDS else str(failure)


def words_of(error: ssl.SSLError) -> str:
    """What OpenSSL calls it, which is one of its constants."""
    return (error.reason or "").lower().replace("_", " ")


def _with_cause(error: Exception, cause: BaseException) -> Exception:
    if error is not cause:
        error.__cause__ = cause
    return error
