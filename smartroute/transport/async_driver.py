"""The async driver: carries an exchange out on asyncio.

Connections belong to the event loop they were made in, so each running loop has a home of its own:
pools, spares and prober. It is shut when the client is closed, or when `asyncio.run` ends its loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never, cast
from weakref import WeakKeyDictionary

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
from smartroute.probe import AsyncProber
from smartroute.transport.async_wire import AsyncWire
from smartroute.transport.connect import failure_of, has_surplus
from smartroute.transport.core import AsyncCorePool
from smartroute.transport.driver import (
    DRAIN_BYTES,
    DRAIN_LIMIT,
    PROBE_BYTES,
    BodyBase,
    DriverBase,
    Flight,
    Trip,
    describe,
)
from smartroute.transport.http1 import Outgoing
from smartroute.transport.pools import AsyncPool, Passages, Pools, TransportOptions, async_pool
from smartroute.transport.stream import holder
from smartroute.transport.watch import Overtaken, RaceLost, Superseded, Unwinding

if TYPE_CHECKING:
    import httpx2

    from smartroute.policy.schedule import Claim
    from smartroute.router import Router
    from smartroute.transport.family import Family

__all__ = ["AsyncDriver"]

Make: TypeAlias = "Callable[..., httpx2.AsyncByteStream]"


class AsyncDriver(DriverBase):
    """One async client's way to its endpoints, in any number of event loops."""

    def __init__(self, family: Family, router: Router, options: TransportOptions) -> None:
        super().__init__(family, router, options)
        self.pool_of_route = async_pool(router.config.backend, options)
        self._homes: WeakKeyDictionary[asyncio.AbstractEventLoop, Home] = WeakKeyDictionary()
        self._inherited: list[object] = []
        self._closing: set[asyncio.Task[None]] = set()
        # The family's client insists on subclasses of its own stream class.
        own = family.AsyncByteStream
        self._body: Make = cast("Make", type("RoutedStream", (AsyncBody, own), {}))

    def after_fork(self) -> None:
        super().after_fork()
        self._inherited.append(tuple(self._homes.items()))
        self._homes = WeakKeyDictionary()

    async def handle(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; the whole of the transport's `handle_async_request`."""
        home = await self._home()
        self.do_chores()
        intake = self._intake(request)
        try:
            exchange = self.router.begin(intake.call) if intake is not None else None
        except NoRouteError as error:
            raise self.family.ConnectError(str(error), request=request) from error
        if intake is None or exchange is None:
            self._tell_passed(request, intake)
            return await home.passages.to(request.url).handle_async_request(self.rewriter.passed(request))
        trip = Trip(exchange, intake, {})
        try:
            home.prober.wake()
            command = await self._obey(exchange.start(self.clock()), trip, home)
            return await self._deliver(trip, command, home)
        except BaseException as error:
            exchange.cancel(self.clock())
            self.router.finish(exchange, "failed" if isinstance(error, Exception) else "cancelled")
            for flight in trip.flights.values():
                await _discard(flight)
            raise

    async def close(self) -> None:
        """Close every connection, in whatever loop it was made."""
        self.closed = True
        self.do_chores()
        self.settle_streams()
        here = _running_loop()
        for loop, home in tuple(self._homes.items()):
            if loop is here:
                await home.close()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(home.close(), loop)
            else:
                home.pools.wire.spares.close()
        self._homes.clear()

    async def probe(self, claim: Claim, pools: Pools[AsyncPool]) -> None:
        """Measure a route by a small GET, trying its keys in turn: over a kept connection, or over a fresh one."""
        pools.wire.spares.sweep()
        if not claim.fresh:
            await self._probe(claim, *pools.of(claim.route))
            return
        wire = AsyncWire(self.clock)
        pool, proxied = pools.fresh(claim.route, wire)
        try:
            await self._probe(claim, pool, proxied)
        finally:
            await wire.aclose()
            await pool.aclose()

    async def _probe(self, claim: Claim, pool: AsyncPool, proxied: bool) -> None:  # noqa: FBT001
        added = self.router.probing(claim)
        for key in (keys := self.router.key_order(claim.route)):
            watch = self._probe_watch(claim, key)
            extensions = self._probe_extensions(watch, claim, proxied=proxied)
            request = self.rewriter.probe(claim.route, key, added, extensions)
            try:
                response = await pool.handle_async_request(request)
            except Exception as error:
                self._report(claim, watch, proxied=proxied, error=error)
                return
            watch.attempt.first_byte = self.clock()
            with contextlib.suppress(Exception):  # the way is known by now
                body: Any = response.aiter_stream()
                async with contextlib.aclosing(response), contextlib.aclosing(body) as source:
                    await _read_away(source, PROBE_BYTES)
            if response.status not in (401, 403) or key == keys[-1]:
                self._report(claim, watch, proxied=proxied, status=response.status)
                return

    def forget(self, flight: Flight) -> None:
        """Close a stream that nobody holds any more."""
        self.settle_stream(flight, "closed")
        with contextlib.suppress(RuntimeError):  # no loop: its connections went with it
            loop = asyncio.get_running_loop()
            task = loop.create_task(_discard(flight))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def forget_home(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop has ended. Should it go on nevertheless, it gets a new home."""
        self._homes.pop(loop, None)

    async def _home(self) -> Home:
        loop = _running_loop()
        home = self._homes.get(loop)
        if home is None:
            for ended in [other for other in self._homes if other.is_closed()]:  # by hand, without a word
                self.forget_home(ended)
            home = self._homes[loop] = Home(self, loop)
            await home.open()
        return home

    async def _obey(self, command: Command, trip: Trip, home: Home) -> Deliver | Raise | Wait:
        """Do what the exchange says until it has nothing more to do."""
        exchange = trip.exchange
        while True:
            match command:
                case Send():
                    if not command.beside:
                        for other in trip.flights.values():
                            await _discard(other)
                    flight, pool, request = self._board(command, trip.intake, home.pools)
                    if self.looks_after:
                        flight.watch.quiet = partial(self._look_after, trip, command.attempt, home)
                    trip.board(flight, beside=command.beside)
                    flying = self._send(flight, pool, request, exchange, trip.intake.request)
                case Hold():
                    flying = self._hold(trip.flights[command.attempt.number], command, trip.intake.request)
                case Deliver() | Raise() | Wait():
                    return command
                case _:
                    assert_never(command)
            try:
                event = await flying
            except Superseded as superseded:
                return superseded.command
            command = trip.feed(event, self.clock())
            if isinstance(event, Diverted):
                home.prober.hurry()  # its route may have to be verified

    async def _look_after(self, trip: Trip, attempt: Attempt, home: Home) -> None:
        """Nothing has come of an attempt; called while it is read from. What else is sent is sent from here."""
        command = trip.exchange.feed(Quiet(attempt), self.clock())
        home.prober.hurry()  # the route may have to be verified
        if isinstance(command, Wait):
            return
        try:
            command = await self._obey(command, trip, home)
        except Overtaken as overtaken:
            if overtaken.attempt is not attempt:
                raise
            attempt.late |= not overtaken.timely
            trip.drop_after(attempt, self.clock())
            return
        attempt.late = True  # nobody noted when it was answered
        if not isinstance(command, Wait):
            raise Superseded(command)

    async def _send(
        self,
        flight: Flight,
        pool: AsyncPool,
        request: Outgoing,
        exchange: Exchange,
        asked: httpx2.Request,
    ) -> Event:
        try:
            response = await pool.handle_async_request(request)
        except RaceLost as lost:
            return Diverted(flight.watch.attempt, lost.winner)
        except Unwinding:
            raise
        except Exception as error:
            return self._failed(flight, error, asked)
        flight.source = aiter(response.aiter_stream())
        return self._answered(flight, response, exchange, asked)

    async def _hold(self, flight: Flight, command: Hold, asked: httpx2.Request) -> Event:
        held = holder(command.gate, command.attempt, encoded=flight.encoded)
        flight.chunks = held.chunks
        if command.limit is not None:
            flight.watch.hasten(command.limit)
        verdict = None
        try:
            async for chunk in flight.source:
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
            await _discard(flight)
        return verdict

    async def _deliver(self, trip: Trip, command: Deliver | Raise | Wait, home: Home) -> httpx2.Response:
        exchange, request = trip.exchange, trip.intake.request
        match command:
            case Raise():
                raise self._exception(trip, command.attempt)
            case Wait():
                raise AssertionError("there is nothing to wait for")
            case Deliver():
                pass
        flight = trip.flights.pop(command.attempt.number)
        self._commit(flight, exchange, home.prober)
        for other in trip.flights.values():
            await _discard(other)
        if flight.whole:
            content = b"".join(flight.chunks)
            command.attempt.size, command.attempt.chunks = len(content), len(flight.chunks)
            self.settle(exchange, flight, "complete")
            return self._response(flight, exchange, self.family.ByteStream(content), final=command.final)
        body = self._body(self, exchange, flight, request)
        return self._response(flight, exchange, body, final=command.final)


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError("smartroute's async clients need asyncio; trio is not supported") from None


class Home:
    """What one client has in one event loop."""

    def __init__(self, driver: AsyncDriver, loop: asyncio.AbstractEventLoop) -> None:
        self._driver = driver
        self._loop = loop
        self.pools = Pools[AsyncPool](driver.pool_options, AsyncCorePool, driver.pool_of_route, AsyncWire(driver.clock))
        self.passages = Passages(driver.pool_options, driver.family.AsyncHTTPTransport)
        self.prober = AsyncProber(driver.router, self.probe, loop)
        self._lifeline = self._live()

    async def open(self) -> None:
        """Make the loop's end known: `asyncio.run` closes the async generators that began in its loop."""
        await anext(self._lifeline)

    async def close(self) -> None:
        """Close every connection. Closing twice is harmless."""
        await self._lifeline.aclose()

    async def probe(self, claim: Claim) -> None:
        """Probe a route over this loop's connections."""
        await self._driver.probe(claim, self.pools)

    async def _live(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self.prober.close()
            await self.pools.wire.aclose()
            for pool in self.pools.drain():
                await pool.aclose()
            for passage in self.passages.drain():
                await passage.aclose()
            self._driver.forget_home(self._loop)


async def _discard(flight: Flight) -> None:
    """Close a response that is not delivered (or that is in hand), before anything else is sent."""
    if flight.open and flight.response is not None:
        flight.open = False
        with contextlib.suppress(Exception):  # it is not needed any more
            if has_surplus(flight.response):
                await flight.response.extensions["network_stream"].aclose()
            await flight.source.aclose()
            await flight.response.aclose()


async def _read_away(source: AsyncIterator[bytes], most: int) -> None:
    """Read to the end of a body that is not longer than that: then its connection can be kept."""
    async for chunk in source:
        most -= len(chunk)
        if most < 0:
            return


class AsyncBody(BodyBase):
    """The stream that an async caller reads. Iteration resumes where it stopped: the SDK relies on it."""

    _driver: AsyncDriver

    def __init__(self, driver: AsyncDriver, exchange: Exchange, flight: Flight, request: httpx2.Request) -> None:
        super().__init__(driver, exchange, flight, request)
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        for chunk in self._held:
            return self._pass(chunk)
        try:
            return self._pass(await anext(self._flight.source))
        except StopAsyncIteration:
            error = self._at_end()
        except Exception as broken:
            error = self._broken(broken)
        await _discard(self._flight)
        if error is not None:
            raise error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the stream; closing twice is harmless."""
        if self._over:
            return
        done = self._may_drain
        try:
            if done:
                await self._drain()
        finally:  # also when that was cancelled
            if done:
                self._settle("complete")
            else:
                self._closed()
            await _discard(self._flight)

    def __del__(self) -> None:
        if self._over:
            return
        chore = partial(self._driver.forget, self._flight)
        try:
            self._loop.call_soon_threadsafe(chore)
        except RuntimeError:  # the loop is closed, its connections went with it
            self._driver.chores.put(chore)

    async def _drain(self) -> None:
        """Read to the end of file: it is the price of keeping the connection."""
        self._flight.watch.hasten(DRAIN_LIMIT)
        with contextlib.suppress(Exception):  # then the connection is lost, as it would have been anyway
            await _read_away(self._flight.source, DRAIN_BYTES)
