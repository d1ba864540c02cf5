"""smartroute as a contender: the real `Router` and `Exchange`, carried out without a wire.

What the transports do with sockets is done here with the network of the stage; every decision is the
shipped code's. Nothing in here knows a rule.
"""

from collections.abc import Callable
from random import Random

from benchmarks.selection.contender import SILENCE, Stage
from benchmarks.selection.faults import ClockJump
from benchmarks.selection.network import Reply
from benchmarks.selection.probing import FAILURES, Prober
from benchmarks.selection.watching import Watcher
from benchmarks.selection.world import Faults, Request
from smartroute.config import Config
from smartroute.errors import NoRouteError
from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import (
    Answered,
    Attempt,
    Call,
    Command,
    Content,
    Deliver,
    Diverted,
    Event,
    Failed,
    Gate,
    Hold,
    Quiet,
    Raise,
    Send,
    Wait,
    Whole,
)
from smartroute.policy.outcome import Failure
from smartroute.route import GLOBAL, Route
from smartroute.router import Router

__all__ = ["Smart"]

CONNECT_LIMIT = 5.0
"""Seconds that a caller gives a connection (the OpenAI SDK's default)."""
MODEL = "m"
LONG = 1.0
"""Seconds after which it is worth knowing what happened."""
MOST_FLIGHTS = 10
"""No rule allows so many attempts, connection races included."""


class Flight:
    """An attempt: the request to one endpoint.

    `over`: nobody waits for it any more. `departed`: its request is on the way, with `reply` to come.
    """

    __slots__ = ("attempt", "departed", "endpoint", "over", "reply")

    def __init__(self, attempt: Attempt, endpoint: int) -> None:
        self.attempt = attempt
        self.endpoint = endpoint
        self.departed = False
        self.over = False
        self.reply: Reply | None = None


class Trip:
    """A request under way."""

    __slots__ = ("exchange", "flights", "request")

    def __init__(self, request: Request, exchange: Exchange) -> None:
        self.request = request
        self.exchange = exchange
        self.flights: dict[int, Flight] = {}


class Race:
    """Connections that are tried at the same time for one attempt; `over` when one of them is ready."""

    __slots__ = ("flight", "over", "trip")

    def __init__(self, trip: Trip, flight: Flight) -> None:
        self.trip = trip
        self.flight = flight
        self.over = False


class Smart:
    """A client of smartroute."""

    def __init__(self, stage: Stage, faults: Faults, random: Random) -> None:
        self._stage = stage
        world = stage.world
        routes = [
            Route(f"https://route-{number}.example/v1", name=f"route-{number}", region=f"R{number}", api_key="fake-key")
            for number in range(world.routes)
        ]
        clock = stage.engine.clock
        jumps = {fault for of_one in faults.values() for fault in of_one if isinstance(fault, ClockJump)}

        def wall() -> float:
            return 1.7e9 + clock.now + sum(jump.seconds for jump in jumps if jump.start <= clock.now < jump.until)

        self.router = Router(Config(routes), clock=clock, wall=wall, random=random.random)
        self._numbers = {route.name: number for number, route in enumerate(routes)}
        self._numbers[GLOBAL] = world.routes
        self.watcher = Watcher(self.router, self._numbers)
        self._prober = Prober(stage, self.router, self._numbers, self.watcher, random)

    def arrive(self, request: Request) -> None:
        """Set out."""
        call = Call(
            "/chat/completions",
            MODEL,
            streaming=True,
            size=request.size,
            conversation=request.conversation,
            regions=() if request.allowed is None else tuple(f"R{number}" for number in request.allowed),
            patience=SILENCE,
        )
        try:
            exchange = self.router.begin(call)
        except NoRouteError:
            self._stage.journal.failed(request.number, self._stage.now)
            return
        assert exchange is not None
        self._prober.wake()
        trip = Trip(request, exchange)
        self._obey(trip, exchange.start(self._stage.now))

    def close(self) -> None:
        """Nothing is left in flight, here or there."""
        problems = self._stage.journal.problems
        if any(self._stage.network.flying):
            problems.append(f"in flight at the end: {self._stage.network.flying}")
        counted = {status.name: status.in_flight for status in self.router.status() if status.in_flight}
        if counted:
            problems.append(f"the router counts in flight at the end: {counted}")
        self.watcher.close(self._stage.now)

    # What the exchange says

    def _feed(self, trip: Trip, event: Event) -> None:
        self._obey(trip, trip.exchange.feed(event, self._stage.now))

    def _obey(self, trip: Trip, command: Command) -> None:
        match command:
            case Send():
                self._send(trip, command)
            case Hold():
                whole = command.gate is Gate.ERROR
                self._feed(trip, Whole(command.attempt) if whole else Content(command.attempt))
            case Deliver():
                self._deliver(trip, command.attempt)
            case Raise():
                self._drop(trip, None)
                self._tell(trip)
                self._stage.journal.failed(trip.request.number, self._stage.now)
                self.router.finish(trip.exchange, "failed")
            case Wait():
                pass

    def _send(self, trip: Trip, command: Send) -> None:
        attempt = command.attempt
        if not command.beside:
            self._drop(trip, None)
        flight = Flight(attempt, self._numbers[attempt.endpoint.name])
        self._inspect(trip, flight)
        trip.flights[attempt.number] = flight
        if not attempt.fresh and self._stage.network.take_idle(flight.endpoint):
            self._depart(trip, flight, reused=True)
        else:
            self._race(trip, flight, command)

    def _inspect(self, trip: Trip, flight: Flight) -> None:
        """What must hold of every request that leaves: its region, its key, one delivery, no endless attempts."""
        attempt, request, problems = flight.attempt, trip.request, self._stage.journal.problems
        if request.allowed is not None and flight.endpoint not in request.allowed:
            problems.append(f"request {request.number} went to {attempt.endpoint.name}, a region it may not go to")
        if attempt.key >= max(len(attempt.endpoint.keys), 1):
            problems.append(f"request {request.number} went out with a key that {attempt.endpoint.name} does not have")
        if trip.exchange.delivered is not None:
            problems.append(f"request {request.number} was sent again after its answer")
        if len(trip.flights) > MOST_FLIGHTS:
            problems.append(f"request {request.number} was sent more than {MOST_FLIGHTS} times")

    def _deliver(self, trip: Trip, attempt: Attempt) -> None:
        stage, now = self._stage, self._stage.now
        flight = trip.flights[attempt.number]
        self._drop(trip, flight)
        self._tell(trip)
        if attempt.status != 200:
            stage.journal.failed(trip.request.number, now)
            self._end(trip, flight, "complete")
            return
        reply = flight.reply
        assert reply is not None
        stage.journal.answered(trip.request.number, flight.endpoint, now, reply.luck)
        how = "complete" if reply.ending == "complete" else "interrupted"
        stage.engine.at(min(reply.ends, now + SILENCE), self._end, trip, flight, how)

    def _tell(self, trip: Trip) -> None:
        """Keep what happened to a request that took long."""
        now = self._stage.now
        if now - trip.request.at > LONG:
            self._stage.journal.stories[trip.request.number] = ", ".join(
                f"{record.endpoint} ({record.reason}) {record.failure or record.status or 'nothing'}"
                f" after {record.seconds:.2f} s"
                for record in trip.exchange.records(now)
            )

    def _end(self, trip: Trip, flight: Flight, how: str) -> None:
        """The body that was handed over is read to its end, or has broken off."""
        flight.over = True
        self._stage.network.arrive(flight.endpoint, keep=how == "complete")
        trip.exchange.settle(flight.attempt, how, self._stage.now, detail="" if how == "complete" else "broken off")
        self.router.finish(trip.exchange, "answered" if how == "complete" else how)

    def _drop(self, trip: Trip, kept: Flight | None) -> None:
        """Give up all attempts but one."""
        for flight in trip.flights.values():
            if flight is not kept and not flight.over:
                flight.over = True
                if flight.departed:
                    self._stage.network.arrive(flight.endpoint, keep=False)

    # Connections

    def _race(self, trip: Trip, flight: Flight, command: Send) -> None:
        """Connect; rivals are tried as well, one after the other, and whoever is ready first gets the request."""
        engine, now = self._stage.engine, self._stage.now
        race = Race(trip, flight)
        if self._stage.network.take_spare(flight.endpoint):
            self._secure(race, 0.0)
            return
        for place, rival in enumerate(command.rivals(), start=1):
            engine.at(now + place * command.patience, self._try_rival, race, rival)
        self._handshake(race, flight.endpoint, lambda: self._won(race), lambda failure: self._lost(race, failure))

    def _try_rival(self, race: Race, rival: Route) -> None:
        if race.over or race.flight.over:
            return
        endpoint = self._numbers[rival.name]
        network = self._stage.network
        if network.has_idle(endpoint):
            self._divert(race, rival.name)
        elif network.take_spare(endpoint):
            network.give_spare(endpoint)
            self._divert(race, rival.name)
        else:
            self._handshake(race, endpoint, lambda: self._rival_ready(race, rival), lambda _: None)

    def _handshake(
        self, race: Race, endpoint: int, ready: Callable[[], object], failed: Callable[[Failure], object]
    ) -> None:
        """One round trip of the race's request to an endpoint."""
        stage = self._stage
        opening = stage.network.handshake(endpoint, stage.world.ways[endpoint][race.trip.request.number])
        if opening.at > stage.now + CONNECT_LIMIT:
            stage.engine.at(stage.now + CONNECT_LIMIT, failed, Failure.CONNECT_TIMEOUT)
        elif opening.how == "open":
            stage.engine.at(opening.at, ready)
        else:
            stage.engine.at(opening.at, failed, FAILURES[opening.how])

    def _won(self, race: Race) -> None:
        if race.over or race.flight.over:
            self._stage.network.give_spare(race.flight.endpoint)
        else:
            race.over = True
            self._secure(race, self._stage.now - race.flight.attempt.started)

    def _rival_ready(self, race: Race, rival: Route) -> None:
        self._stage.network.give_spare(self._numbers[rival.name])
        if not race.over and not race.flight.over:
            self._divert(race, rival.name)

    def _divert(self, race: Race, winner: str) -> None:
        race.over = race.flight.over = True
        self._feed(race.trip, Diverted(race.flight.attempt, winner))

    def _secure(self, race: Race, seconds: float) -> None:
        """TLS over the connection that won, which took so many seconds."""
        race.flight.attempt.connect = seconds
        self._handshake(
            race,
            race.flight.endpoint,
            lambda: self._secured(race),
            lambda failure: self._fail(race.trip, race.flight, failure),
        )

    def _secured(self, race: Race) -> None:
        if race.flight.over:
            self._stage.network.give_back(race.flight.endpoint)
        else:
            self._depart(race.trip, race.flight, reused=False)

    def _lost(self, race: Race, failure: Failure) -> None:
        if not race.over:
            race.over = True
            self._fail(race.trip, race.flight, failure)

    # The request itself

    def _depart(self, trip: Trip, flight: Flight, *, reused: bool) -> None:
        stage, now = self._stage, self._stage.now
        flight.attempt.depart(now, reused=reused)
        flight.departed = True
        flight.reply = reply = stage.network.depart(flight.endpoint, trip.request)
        if reply.at > now + SILENCE:
            stage.engine.at(now + SILENCE, self._fail, trip, flight, Failure.READ_TIMEOUT)
        else:
            stage.engine.at(reply.at, self._replied, trip, flight, reply)
        self._watch(trip, flight, reply)

    def _replied(self, trip: Trip, flight: Flight, reply: Reply) -> None:
        if flight.over:
            return
        if reply.how == "reset":
            self._fail(trip, flight, Failure.RESET)
            return
        flight.attempt.first_byte = self._stage.now
        event_stream = reply.how == "content"
        self._feed(trip, Answered(flight.attempt, reply.status, reply.wait, event_stream=event_stream, encoded=False))

    def _fail(self, trip: Trip, flight: Flight, failure: Failure) -> None:
        if flight.over:
            return
        flight.over = True
        if flight.departed:
            self._stage.network.arrive(flight.endpoint, keep=False)
        self._feed(trip, Failed(flight.attempt, failure, str(failure)))

    def _watch(self, trip: Trip, flight: Flight, reply: Reply) -> None:
        """Come back when the attempt has been quiet for long (if it is going to be: the reply is known here)."""
        check_at = flight.attempt.check_at
        if not flight.over and check_at is not None and check_at < reply.at:
            self._stage.engine.at(max(check_at, self._stage.now), self._check, trip, flight, reply)

    def _check(self, trip: Trip, flight: Flight, reply: Reply) -> None:
        check_at = flight.attempt.check_at
        if not flight.over and check_at is not None and check_at <= self._stage.now:
            self._feed(trip, Quiet(flight.attempt))
            self._prober.look()
        self._watch(trip, flight, reply)
