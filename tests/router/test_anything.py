"""Nothing the router counts is ever lost: eight threads, and whatever hypothesis thinks of."""

import random
import threading
from math import inf
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from smartroute.config import Config
from smartroute.errors import NoRouteError, UnknownRouteError
from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import (
    Attempt,
    Command,
    Deliver,
    Diverted,
    Failed,
    Gate,
    Hold,
    Quiet,
    Raise,
    Send,
    Spoiled,
    Wait,
    Whole,
)
from smartroute.policy.messages import Event as Happening
from smartroute.policy.outcome import Failure
from smartroute.route import Route
from smartroute.router import Router
from smartroute.testing import Clock
from smartroute.transport.driver import UNSENT
from tests.policy.driving import Flight, Outcome, lost, route, says, spoils, streams, unsent
from tests.router.kit import Prober, begin, call, probe

# --- threads -------------------------------------------------------------------------------------------


def test_eight_threads() -> None:
    """No lost count, no negative budget, whoever is interrupted where."""
    routes = [route(name) for name in "abcd"]
    router = Router(Config(routes), random=lambda: 0.5)
    started, errors = threading.Barrier(8), list[BaseException]()
    lowest: list[float] = []

    def hammer(seed: int) -> None:
        dice = random.Random(seed)
        try:
            started.wait()
            for _ in range(150):
                exchange = router.begin(call(conversation=dice.choice([None, "c1", "c2"])))
                assert exchange is not None
                outcomes: list[Outcome] = [unsent(), lost(), says(503), says(429, 0.0), says(500), streams(), streams()]
                script = {name: dice.choice(outcomes) for name in ("a", "b", "c", "d", "global")}
                flight = Flight(exchange, Clock(router.clock()), script)
                if dice.random() < 0.2:
                    exchange.start(router.clock())
                    exchange.cancel(router.clock())
                else:
                    flight.finish()
                for claim in router.claim_probes(hammer)[0]:
                    probe(router, claim.route.name, failure=dice.choice([None, "connect"]), fresh=claim.fresh)
                if dice.random() < 0.05:
                    router.drain(name := dice.choice("abcd"))
                    router.resume(name)
                router.status()
                lowest.append(router._replays.tokens)
        except BaseException as error:  # noqa: BLE001  to be seen by the test
            errors.append(error)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [each.in_flight for each in router.status()] == [0] * 4
    assert min(lowest) >= 0.0
    assert sum(each.requests for each in router.status()) > 0
    assert all(router.rank())


# --- anything may happen -------------------------------------------------------------------------------

CHANCES: list[Outcome] = [
    unsent(),
    unsent(Failure.DNS),
    unsent(Failure.POOL_TIMEOUT),
    lost(),
    lost(reused=True),
    lost(Failure.READ_TIMEOUT),
    lost(Failure.DEADLINE),
    streams(),
    streams(encoded=True),
    says(200),
    says(302),
    *(says(code) for code in (400, 401, 402, 403, 404, 408, 409, 429, 500, 503)),
    says(429, 30.0),
    says(503, 5.0),
    spoils(Failure.EMPTY),
    spoils(Failure.ERROR_EVENT),
    *(spoils(Failure.ERROR_EVENT, code) for code in (400, 401, 404, 429, 500)),
    spoils(Failure.CONTENT_TYPE, event_stream=False),
]
ASIDE = ("next_key", "stale_connection")


class Anything(RuleBasedStateMachine):
    """Requests, probes, outages, drains and cancellations in any order, over one router."""

    @initialize(
        with_global=st.booleans(),
        regions=st.sampled_from([(), ("EU_*",), ("EU_*", "GLOBAL")]),
        interval=st.sampled_from([0.0, 10.0]),
        deadline=st.sampled_from([None, 2.0]),
        seed=st.integers(0, 2**32),
    )
    def build(
        self, with_global: bool, regions: tuple[str, ...], interval: float, deadline: float | None, seed: int
    ) -> None:
        self.clock = Clock()
        self.config = Config(
            [
                route("a", region="EU_A_1", keys="k1,k2"),
                route("b", region="EU_B_1"),
                route("c", region="US_C_1"),
                route("d", region="EU_D_1", keys="k3"),
                route("e", region="EU_E_1"),
            ],
            global_url="https://global.example/v1" if with_global else "off",
            global_api_key="fake-console-key",
            regions=regions,
            probe_interval=interval,
            deadline=deadline,
        )
        self.router = Router(self.config, clock=self.clock, random=random.Random(seed).random)
        self.router.subscribe(lambda _: None)
        self.prober = Prober()
        self.flying: list[tuple[Exchange, Send | Hold, list[Happening]]] = []
        self.delivered: list[tuple[Exchange, Attempt]] = []

    # What may happen

    @rule(
        streaming=st.booleans(),
        retry=st.sampled_from([0, 0, 0, 1]),
        pinned=st.sampled_from([None, None, None, "a", "c", "global"]),
        regions=st.sampled_from([(), (), ("EU_*", "GLOBAL"), ("US_*",)]),
        conversation=st.sampled_from([None, "c1", "c2"]),
        addressed=st.sampled_from([None, None, "a"]),
    )
    def request(self, **options: Any) -> None:
        try:
            exchange = begin(self.router, **options)
        except NoRouteError:
            assert not any(self._may(r.region, options["regions"]) for r in self._undrained())
            return
        except UnknownRouteError:
            assert options["pinned"] is not None
            return
        self._obey(exchange, exchange.start(self.clock()), [])

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 99), outcome=st.sampled_from(CHANCES), race=st.booleans(), rival=st.integers(0, 9))
    def goes_on(self, which: int, outcome: Outcome, race: bool, rival: int) -> None:
        exchange, command, events = self.flying.pop(which % len(self.flying))
        attempt = command.attempt
        if isinstance(command, Send):
            rivals = command.rivals()
            if race and rivals and not attempt.sent:
                events = [Diverted(attempt, rivals[rival % len(rivals)].name)]
            else:
                events = list(outcome(attempt))
                if attempt.sent and isinstance(events[0], Failed) and events[0].failure in UNSENT:
                    events = list(lost()(attempt))
        elif not events or (command.gate is Gate.ERROR and isinstance(events[0], Spoiled)):
            events = [Whole(attempt)]
        event = events.pop(0)
        self._obey(exchange, exchange.feed(event, self.clock()), events)

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 99), dead=st.booleans())
    def says_nothing(self, which: int, dead: bool) -> None:
        exchange, command, _ = self.flying[which % len(self.flying)]
        attempt = command.attempt
        if not attempt.sent:
            attempt.depart(self.clock(), reused=False)
        if attempt.check_at is None or attempt.check_at == inf:  # nobody looks after it
            return
        self.clock.advance(max(attempt.check_at - self.clock(), 0.0))
        if dead:
            probe(self.router, attempt.endpoint.name, failure="read_timeout", fresh=True)
        answer = exchange.feed(Quiet(attempt), self.clock())
        assert attempt.ended is None
        assert isinstance(answer, Wait | Send)
        assert not (attempt.on_global and isinstance(answer, Send))
        if isinstance(answer, Send):
            assert (answer.beside, answer.attempt.reason) == (True, "rescue")
        elif attempt.check_at is not None:
            assert attempt.check_at > self.clock()
        self._obey(exchange, answer, [])

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 99))
    def cancelled(self, which: int) -> None:
        exchange, _, _ = self.flying[which % len(self.flying)]
        exchange.cancel(self.clock())
        self._land(exchange)
        self.router.finish(exchange, "cancelled")

    @precondition(lambda self: self.delivered)
    @rule(which=st.integers(0, 99), how=st.sampled_from(["complete", "closed", "interrupted"]))
    def read(self, which: int, how: str) -> None:
        exchange, attempt = self.delivered.pop(which % len(self.delivered))
        exchange.settle(attempt, how, self.clock())
        self.router.finish(exchange, "answered")

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.5, 11.0, 31.0, 301.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(
        failure=st.sampled_from([None, None, "connect", "503", "read_timeout", "deadline"]),
        given_up=st.booleans(),
        late=st.booleans(),
    )
    def probes(self, failure: str | None, given_up: bool, late: bool) -> None:
        claims, wait = self.router.claim_probes(self.prober)
        assert wait is None or wait > 0
        for each in claims:
            if given_up:
                self.router.unprobed(each)
            else:
                probe(self.router, each.route.name, failure=failure, fresh=each.fresh, late=late)

    @rule(name=st.sampled_from("abcde"))
    def drain(self, name: str) -> None:
        self.router.drain(name)

    @rule(name=st.sampled_from("abcde"))
    def resume(self, name: str) -> None:
        self.router.resume(name)

    # What must hold

    @invariant()
    def counts_are_right(self) -> None:
        exchanges = {id(exchange): exchange for exchange, _, _ in self.flying}.values()
        under_way = [a for exchange in exchanges for a in exchange.attempts if a.ended is None]
        assert len(under_way) == len(self.flying)
        under_way += [attempt for _, attempt in self.delivered if attempt.ended is None]
        for each in self.router.status():
            assert each.in_flight == sum(a.endpoint.name == each.name for a in under_way)
        assert 0.0 <= self.router._replays.tokens <= 10.0

    @invariant()
    def somebody_can_be_asked(self) -> None:
        order = self.router.ranking(call(), self.clock())
        assert len({c.route.name for c in order}) == len(order)
        assert all(self._may(c.route.region, ()) for c in order)
        allowed = [r for r in self._undrained() if self._may(r.region, ())]
        if allowed or (self.config.global_url is not None and self.config.allows("GLOBAL")):
            assert order

    def teardown(self) -> None:
        if not hasattr(self, "router"):
            return
        for exchange, _, _ in self.flying:
            exchange.cancel(self.clock())
        for exchange, attempt in self.delivered:
            exchange.settle(attempt, "closed", self.clock())
        assert [each.in_flight for each in self.router.status()] == [0] * 5

    def _obey(self, exchange: Exchange, command: Command, events: list[Happening]) -> None:
        live = [attempt for attempt in exchange.attempts if attempt.ended is None]
        if isinstance(command, Wait):
            assert live  # there is something to wait for
            assert {id(c.attempt) for e, c, _ in self.flying if e is exchange} == {id(attempt) for attempt in live}
            return
        attempt = command.attempt
        assert self._may(attempt.endpoint.region, exchange.call.regions)
        match command:
            case Send():
                assert exchange.delivered is None
                assert exchange.attempts[-1] is attempt
                assert command.beside == (len(live) > 1)  # else one after the other
                assert all(self._may(rival.region, exchange.call.regions) for rival in command.rivals())
                counted = [a for a in exchange.attempts if a.reason not in ASIDE and (a.sent or a is attempt)]
                assert sum(a.on_global for a in counted) <= 1
                assert sum(not a.on_global for a in counted) <= (2 if exchange.call.retry else 3)
                assert len(counted) <= (2 if exchange.call.retry else 4)
                assert len({a.endpoint.name for a in counted}) == len(counted)
                if exchange.call.pinned is not None:
                    assert {a.endpoint.name for a in exchange.attempts} == {exchange.call.pinned}
                    assert len(live) == 1
                self.flying.append((exchange, command, events))
            case Hold():
                self.flying.append((exchange, command, events))
            case Deliver():
                assert exchange.delivered is attempt
                assert attempt.status is not None
                assert all(other is attempt for other in live)
                self._land(exchange)
                self.delivered.append((exchange, attempt))
            case Raise():
                assert exchange.delivered is None
                assert live == []
                self._land(exchange)
                self.router.finish(exchange, "failed")

    def _land(self, exchange: Exchange) -> None:
        """Nothing more comes of what it has in flight."""
        self.flying = [flight for flight in self.flying if flight[0] is not exchange]

    def _may(self, region: str | None, asked: tuple[str, ...]) -> bool:
        region = region or ""
        own = self.config.regions
        return all(not ps or any(region.startswith(p.rstrip("*")) for p in ps) for ps in (own, asked))

    def _undrained(self) -> list[Route]:
        drained = {each.name for each in self.router.status() if each.drained}
        return [each for each in self.config.routes if each.name not in drained]


TestAnything = Anything.TestCase
TestAnything.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
