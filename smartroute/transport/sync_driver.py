"""The sync driver: carries an exchange out with blocking I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, assert_never, cast

from smartroute.errors import NoRouteError
from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import (
    Attempt,
    Command,
    Deliver,
    Diverted,
    Event,
    Gate,
    Hold,
    Quiet,
    Raise,
    Send,
    Spoiled,
    Wait,
)
from smartroute.probe import SyncProber
from smartroute.transport.connect import failure_of, has_surplus
from smartroute.transport.core import SyncCorePool
from smartroute.transport.driver import (
    DRAIN_BYTES,
    DRAIN_LIMIT,
    PROBE_BYTES,
    BodyBase,
    DriverBase,
    Flight,
    Trip,
    collector,
    describe,
)
from smartroute.transport.http1 import Outgoing
from smartroute.transport.pools import Passages, Pools, SyncPool, TransportOptions, sync_pool
from smartroute.transport.stream import holder
from smartroute.transport.sync_wire import SyncWire
from smartroute.transport.watch import Overtaken, RaceLost, Superseded, Unwinding

if TYPE_CHECKING:
    import httpx2

    from smartroute.policy.schedule import Claim
    from smartroute.router import Router
    from smartroute.transport.family import Family

__all__ = ["SyncDriver"]

Make: TypeAlias = "Callable[..., httpx2.SyncByteStream]"


class SyncDriver(DriverBase):
    """One sync client's way to its endpoints. Thread-safe."""

    def __init__(self, family: Family, router: Router, options: TransportOptions) -> None:
        super().__init__(family, router, options)
        self._pool_of_route = sync_pool(router.config.backend, options)
        self._inherited: list[object] = []
        self._connect()
        # The family's client insists on subclasses of its own stream class.
        own = family.SyncByteStream
        self._body: Make = cast("Make", type("RoutedStream", (SyncBody, own), {}))

    def _connect(self) -> None:
        self._pools = Pools[SyncPool](self.pool_options, SyncCorePool, self._pool_of_route, SyncWire(self.clock))
        self._passages = Passages(self.pool_options, self.family.HTTPTransport)
        self._prober = SyncProber(self.router, self.probe, self.chores)

    def after_fork(self) -> None:
        super().after_fork()
        self._inherited.append((self._pools, self._passages))
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
            self._tell_passed(request, intake)
            return self._passages.to(request.url).handle_request(self.rewriter.passed(request))
        trip = Trip(exchange, intake, {})
        try:
            self._prober.wake()
            command = self._obey(exchange.start(self.clock()), trip)
            return self._deliver(trip, command)
        except BaseException as error:
            exchange.cancel(self.clock())
            for flight in trip.flights.values():
                _discard(flight)
            self.router.finish(exchange, "failed" if isinstance(error, Exception) else "cancelled")
            raise

    def close(self) -> None:
        """Close every connection."""
        self.closed = True
        self.do_chores()
        self.settle_streams()
        self._prober.close()
        self._pools.wire.close()
        for pool in self._pools.drain():
            pool.close()
        for passage in self._passages.drain():
            passage.close()

    def probe(self, claim: Claim) -> None:
        """Measure a route by a small GET, trying its keys in turn: over a kept connection, or over a fresh one."""
        self._pools.wire.spares.sweep()
        if not claim.fresh:
            self._probe(claim, *self._pools.of(claim.route))
            return
        wire = self._pools.wire.fresh()
        pool, proxied = self._pools.fresh(claim.route, wire)
        with contextlib.closing(wire), contextlib.closing(pool):
            self._probe(claim, pool, proxied)

    def _probe(self, claim: Claim, pool: SyncPool, proxied: bool) -> None:  # noqa: FBT001
        added = self.router.probing(claim)
        for key in (keys := self.router.key_order(claim.route)):
            watch = self._probe_watch(claim, key)
            extensions = self._probe_extensions(watch, claim, proxied=proxied)
            request = self.rewriter.probe(claim.route, key, added, extensions)
            try:
                response = pool.handle_request(request)
            except Exception as error:
                self._report(claim, watch, proxied=proxied, error=error)
                return
            watch.attempt.first_byte = self.clock()
            with contextlib.suppress(Exception), contextlib.closing(response):  # the way is known by now
                _read_away(response.iter_stream(), PROBE_BYTES)
            if response.status not in (401, 403) or key == keys[-1]:
                self._report(claim, watch, proxied=proxied, status=response.status)
                return

    def forget(self, flight: Flight) -> None:
        """Close a stream that nobody holds any more."""
        self.settle_stream(flight, "closed")
        _discard(flight)

    def _obey(self, command: Command, trip: Trip) -> Deliver | Raise | Wait:
        """Do what the exchange says until it has nothing more to do."""
        exchange = trip.exchange
        while True:
            try:
                match command:
                    case Send():
                        if not command.beside:
                            for other in trip.flights.values():
                                _discard(other)
                        flight, pool, request = self._board(command, trip.intake, self._pools)
                        if self.looks_after:
                            flight.watch.quiet = partial(self._look_after, trip, command.attempt)
                        trip.board(flight, beside=command.beside)
                        event = self._send(flight, pool, request, exchange, trip.intake.request)
                    case Hold():
                        event = self._hold(trip.flights[command.attempt.number], command, trip.intake.request)
                    case Deliver() | Raise() | Wait():
                        return command
                    case _:
                        assert_never(command)
            except Superseded as superseded:
                return superseded.command
            command = trip.feed(event, self.clock())
            if isinstance(event, Diverted):
                self._prober.hurry()  # its route may have to be verified

    def _look_after(self, trip: Trip, attempt: Attempt) -> None:
        """Nothing has come of an attempt; called while it is read from. What else is sent is sent from here."""
        command = trip.exchange.feed(Quiet(attempt), self.clock())
        self._prober.hurry()  # the route may have to be verified
        if isinstance(command, Wait):
            return
        try:
            command = self._obey(command, trip)
        except Overtaken as overtaken:
            if overtaken.attempt is not attempt:
                raise
            attempt.late |= not overtaken.timely
            trip.drop_after(attempt, self.clock())
            return
        attempt.late = True  # nobody noted when it was answered
        if not isinstance(command, Wait):
            raise Superseded(command)

    def _send(
        self,
        flight: Flight,
        pool: SyncPool,
        request: Outgoing,
        exchange: Exchange,
        asked: httpx2.Request,
    ) -> Event:
        try:
            response = pool.handle_request(request)
        except RaceLost as lost:
            return Diverted(flight.watch.attempt, lost.winner)
        except Unwinding:
            raise
        except Exception as error:
            return self._failed(flight, error, asked)
        flight.source = iter(response.iter_stream())
        return self._answered(flight, response, exchange, asked)

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
        except Unwinding:
            raise
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

    def _deliver(self, trip: Trip, command: Deliver | Raise | Wait) -> httpx2.Response:
        exchange, request = trip.exchange, trip.intake.request
        match command:
            case Raise():
                raise self._exception(trip, command.attempt)
            case Wait():
                raise AssertionError("there is nothing to wait for")
            case Deliver():
                pass
        flight = trip.flights.pop(command.attempt.number)
        self._commit(flight, exchange, self._prober)
        for other in trip.flights.values():
            _discard(other)
        if flight.whole:
            content = b"".join(flight.chunks)
            command.attempt.size, command.attempt.chunks = len(content), len(flight.chunks)
            self.settle(exchange, flight, "complete")
            return self._response(flight, exchange, self.family.ByteStream(content), final=command.final)
        body = self._body(self, exchange, flight, request)
        return self._response(flight, exchange, body, final=command.final)


def _discard(flight: Flight) -> None:
    """Close a response that is not delivered (or that is in hand), before anything else is sent."""
    if flight.open and flight.response is not None:
        flight.open = False
        with contextlib.suppress(Exception):  # it is not needed any more
            if has_surplus(flight.response):
                flight.response.extensions["network_stream"].close()
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
            self._closed()
        _discard(self._flight)

    def __del__(self) -> None:
        if not self._over:
            self._put_off()

    def _put_off(self) -> None:
        """Leave the closing to another moment, and another thread."""
        self._over = True
        self._driver.chores.put(partial(self._driver.forget, self._flight))

    def _drain(self) -> None:
        """Read to the end of file, which the SDK does not: it is the price of keeping the connection."""
        self._flight.watch.hasten(DRAIN_LIMIT)
        with contextlib.suppress(Exception):  # then the connection is lost, as it would have been anyway
            _read_away(self._flight.source, DRAIN_BYTES)
