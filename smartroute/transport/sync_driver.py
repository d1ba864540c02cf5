"""The sync driver: carries an exchange out with blocking I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, assert_never, cast

import httpcore2

from smartroute.errors import NoRouteError
from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import Deliver, Diverted, Event, Gate, Hold, Raise, Send, Spoiled
from smartroute.probe import SyncProber
from smartroute.transport import connect
from smartroute.transport.connect import failure_of
from smartroute.transport.driver import (
    DRAIN_BYTES,
    DRAIN_LIMIT,
    PROBE_BYTES,
    BodyBase,
    DriverBase,
    Flight,
    collector,
    describe,
)
from smartroute.transport.pools import Pools, TransportOptions
from smartroute.transport.rewrite import Intake
from smartroute.transport.stream import holder
from smartroute.transport.sync_wire import SyncWire

if TYPE_CHECKING:
    import httpx2

    from smartroute.route import Route
    from smartroute.router import Router
    from smartroute.transport.family import Family

__all__ = ["SyncDriver"]

Make: TypeAlias = "Callable[..., httpx2.SyncByteStream]"


class SyncDriver(DriverBase):
    """One sync client's way to its endpoints. Thread-safe."""

    def __init__(self, family: Family, router: Router, options: TransportOptions) -> None:
        super().__init__(family, router, options)
        self._inherited: list[Pools[httpcore2.ConnectionPool]] = []
        self._connect()
        # The family's client insists on subclasses of its own stream class.
        own = family.SyncByteStream
        self._body: Make = cast("Make", type("RoutedStream", (SyncBody, own), {}))
        self._plain_body: Make = cast("Make", type("PlainStream", (SyncPlainBody, own), {}))

    def _connect(self) -> None:
        self._pools = Pools(self.pool_options, httpcore2.ConnectionPool, SyncWire(self.clock))
        self._prober = SyncProber(self.router, self.probe, self.chores)

    def after_fork(self) -> None:
        super().after_fork()
        self._inherited.append(self._pools)
        self._connect()

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the whole of the transport's `handle_request`."""
        self.do_chores()
        intake = self._intake(request)
        try:
            exchange = self.router.begin(intake.call) if intake is not None else None
        except NoRouteError as error:
            raise self.family.ConnectError(str(error), request=request) from error
        if intake is None or exchange is None:
            return self._pass_through(request)
        self._prober.wake()
        flights: dict[int, Flight] = {}
        try:
            return self._fly(exchange, intake, flights)
        except BaseException as error:
            exchange.cancel(self.clock())
            for flight in flights.values():
                _discard(flight)
            self.router.finish(exchange, "failed" if isinstance(error, Exception) else "cancelled")
            raise

    def close(self) -> None:
        """Close every connection."""
        self.closed = True
        self.do_chores()
        self._prober.close()
        self._pools.wire.close()
        for pool in self._pools.drain():
            pool.close()

    def probe(self, route: Route) -> None:
        """Measure a route by a small GET over its own connections, trying its keys in turn."""
        self._pools.wire.spares.sweep()
        pool, proxied = self._pools.of(route)
        for key in (keys := self.router.key_order(route)):
            watch = self._probe_watch(route, key)
            request = self.rewriter.probe(route, key, self._probe_extensions(watch, proxied=proxied))
            try:
                response = pool.handle_request(request)
            except Exception as error:
                self._report(route, watch, None, failure_of(error, watch), proxied=proxied)
                return
            watch.attempt.first_byte = self.clock()
            with contextlib.suppress(Exception), contextlib.closing(response):  # the way is known by now
                _read_away(response.iter_stream(), PROBE_BYTES)
            if response.status not in (401, 403) or key == keys[-1]:
                self._report(route, watch, response.status, None, proxied=proxied)
                return

    def forget(self, exchange: Exchange, flight: Flight, size: int) -> None:
        """Close a stream that nobody holds any more."""
        self.settle(exchange, flight, "closed", size)
        _discard(flight)

    def _fly(self, exchange: Exchange, intake: Intake, flights: dict[int, Flight]) -> httpx2.Response:
        command = exchange.start(self.clock())
        while True:
            match command:
                case Send():
                    for other in flights.values():
                        _discard(other)
                    flight, pool, request = self._board(command, intake, self._pools)
                    flights[command.attempt.number] = flight
                    event = self._send(flight, pool, request, exchange, intake.request)
                case Hold():
                    event = self._hold(flights[command.attempt.number], command, intake.request)
                case Deliver():
                    flight = flights[command.attempt.number]
                    return self._deliver(exchange, flight, intake.request, final=command.final)
                case Raise():
                    raise self._exception(flights[command.attempt.number], intake.request)
                case _:
                    assert_never(command)
            command = exchange.feed(event, self.clock())

    def _send(
        self,
        flight: Flight,
        pool: httpcore2.ConnectionPool,
        request: httpcore2.Request,
        exchange: Exchange,
        asked: httpx2.Request,
    ) -> Event:
        try:
            response = pool.handle_request(request)
        except connect.Diverted as diverted:
            return Diverted(flight.watch.attempt, diverted.winner)
        except Exception as error:
            return self._failed(flight, error, asked)
        flight.source = iter(response.iter_stream())
        return self._answered(flight, response, exchange)

    def _hold(self, flight: Flight, command: Hold, asked: httpx2.Request) -> Event:
        held = holder(command.gate, command.attempt, encoded=flight.encoded)
        flight.chunks = held.chunks
        if command.limit is not None:
            flight.watch.hasten(command.limit)
        verdict = None
        try:
            for chunk in flight.source:
                if verdict := held.feed(chunk):
                    break
        except Exception as error:
            if self.closed:
                self.refuse(error, asked)
            flight.whole = command.gate is Gate.ERROR  # an error cut short is an error all the same
            if not flight.whole:
                flight.error = error
                failure = failure_of(error, flight.watch)
                return Spoiled(command.attempt, failure, describe(failure, error))
        if verdict is None:
            flight.whole = True
            verdict = held.end()
        elif isinstance(verdict, Spoiled):
            flight.whole = True  # what is in hand is all that anybody will want of it
        if flight.whole:
            _discard(flight)
        return verdict

    def _deliver(self, exchange: Exchange, flight: Flight, request: httpx2.Request, *, final: bool) -> httpx2.Response:
        flight.watch.until = None
        if flight.whole:
            content = b"".join(flight.chunks)
            self.settle(exchange, flight, "complete", len(content))
            return self._response(flight, exchange, self.family.ByteStream(content), final=final)
        body = self._body(self, exchange, flight, request)
        return self._response(flight, exchange, body, final=final)

    def _pass_through(self, request: httpx2.Request) -> httpx2.Response:
        """The request exactly as the SDK made it, over the caller's own limits."""
        try:
            response = self._pools.plain(request.url).handle_request(self.rewriter.passed(request))
        except Exception as error:
            self.refuse(error, request)
        stream = self._plain_body(self, response, request)
        return self.family.Response(
            response.status, headers=response.headers, stream=stream, extensions=response.extensions
        )


def _discard(flight: Flight) -> None:
    """Close a response that is not delivered (or that is in hand), before anything else is sent."""
    if flight.open and flight.response is not None:
        flight.open = False
        with contextlib.suppress(Exception):  # it is not needed any more
            flight.response.close()


def _read_away(source: Iterator[bytes], most: int) -> None:
    """Read to the end of a body that is not longer than that: then its connection can be kept."""
    for chunk in source:
        most -= len(chunk)
        if most < 0:
            return


class SyncBody(BodyBase):
    """The stream that a sync caller reads."""

    _driver: SyncDriver

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        for chunk in self._held:
            return self._pass(chunk)
        try:
            return self._pass(next(self._flight.source))
        except StopIteration:
            error = self._at_end()
        except Exception as broken:
            error = self._broken(broken)
        _discard(self._flight)
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Close the stream; closing twice is harmless."""
        if self._over:
            return
        if collector.at_work:
            self._put_off()
            return
        if self._may_drain:
            self._drain()
            self._settle("complete")
        else:
            self._settle("closed")
        _discard(self._flight)

    def __del__(self) -> None:
        if not self._over:
            self._put_off()

    def _put_off(self) -> None:
        """Leave the closing to another moment, and another thread."""
        self._over = True
        self._driver.chores.put(partial(self._driver.forget, self._exchange, self._flight, self._size))

    def _drain(self) -> None:
        """Read to the end of file, which the SDK does not: it is the price of keeping the connection."""
        self._flight.watch.hasten(DRAIN_LIMIT)
        with contextlib.suppress(Exception):  # then the connection is lost, as it would have been anyway
            _read_away(self._flight.source, DRAIN_BYTES)


class SyncPlainBody:
    """The stream of a request that passed through."""

    def __init__(self, driver: SyncDriver, response: httpcore2.Response, request: httpx2.Request) -> None:
        self._driver = driver
        self._response = response
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._response.iter_stream()
        except Exception as error:
            self._driver.refuse(error, self._request)

    def close(self) -> None:
        """Close the response."""
        self._response.close()
