"""An attempt that is slow for its route: another one is raced against it, where hedging is on."""

import pytest

from smartroute.config import Config
from smartroute.policy.breaker import State
from smartroute.policy.messages import (
    Answered,
    Attempt,
    Call,
    Command,
    Content,
    Deliver,
    Failed,
    Hold,
    Quiet,
    Send,
    Wait,
    Whole,
)
from smartroute.policy.outcome import Failure
from smartroute.policy.selection import Candidate
from smartroute.router import Router
from smartroute.testing import Clock
from tests.policy.driving import PLAIN, STREAM, PlainFleet, call, measured, route, slowly, streams
from tests.router.kit import Prober, send, status

EXPECTED = 0.3
"""Seconds in which each route is expected to answer."""


class SlowFleet(PlainFleet):
    """Routes of which it is known what to expect. All that waits is found slow for its route at the first look."""

    def __init__(self, *names: str, fallback: bool = True) -> None:
        super().__init__([route(name) for name in names])
        if not fallback:
            self.order.pop()
        self.order = [
            Candidate(c.route, EXPECTED if c.reason == "next" else None, c.state, c.reason) for c in self.order
        ]

    def quiet(self, exchange: object, attempt: Attempt, now: float) -> float | None:
        attempt.hedge_due = True
        return None if attempt.endpoint.name in self.dead else now + 1.0


def begin(fleet: PlainFleet, of: Call = STREAM) -> "Journey":
    return Journey(fleet, of)


class Journey:
    """One exchange whose first attempt has departed."""

    def __init__(self, fleet: PlainFleet, of: Call) -> None:
        self.fleet = fleet
        self.streaming = of.streaming
        self.exchange = fleet.begin(of)
        self.first = self.departs(self.exchange.start(fleet.clock()))
        fleet.clock.advance(1.0)

    def departs(self, command: Command) -> Attempt:
        assert isinstance(command, Send)
        command.attempt.depart(self.fleet.clock(), reused=False)
        return command.attempt

    def look(self) -> Command:
        return self.exchange.feed(Quiet(self.first), self.fleet.clock())

    def answers(self, attempt: Attempt, status: int = 200) -> Command:
        now = self.fleet.clock()
        command = self.exchange.feed(Answered(attempt, status, None, event_stream=self.streaming, encoded=False), now)
        if isinstance(command, Hold):
            command = self.exchange.feed(Content(attempt) if self.streaming else Whole(attempt), now)
        return command

    def fails(self, attempt: Attempt) -> Command:
        return self.exchange.feed(Failed(attempt, Failure.RESET, "reset"), self.fleet.clock())


@pytest.mark.parametrize("of", [STREAM, PLAIN], ids=["streamed", "whole"])
def test_the_first_content_wins_and_nobody_is_to_blame(of: Call) -> None:
    for winner in (0, 1):
        fleet = SlowFleet("a", "b", "c")
        journey = begin(fleet, of)
        command = journey.look()
        assert isinstance(command, Send)
        assert (command.beside, command.attempt.endpoint.name, command.attempt.reason) == (True, "b", "hedge")
        hedge = journey.departs(command)
        both = [journey.first, hedge]
        delivered = journey.answers(both[winner])
        assert delivered == Deliver(both[winner])
        journey.exchange.settle(both[winner], "complete", fleet.clock())
        assert fleet.blames == []
        assert fleet.outpaces == ["a"] * winner  # it has taken that long at least
        assert fleet.endings == [("ba"[winner], "superseded"), ("ab"[winner], "complete")]
        assert fleet.in_flight() == 0


def test_it_costs_a_token_of_its_own() -> None:
    fleet = SlowFleet("a", "b")
    fleet.hedges.tokens = 1.0
    replays = fleet.budget.tokens
    assert isinstance(begin(fleet).look(), Send)
    assert begin(fleet).look() == Wait()
    assert fleet.budget.tokens == replays


def test_one_is_enough() -> None:
    journey = begin(SlowFleet("a", "b", "c"))
    journey.departs(journey.look())
    assert [journey.look() for _ in range(3)] == [Wait()] * 3


@pytest.mark.parametrize("of", [call(pinned="a"), call(retry=1)], ids=["pinned", "a retry of the SDK's"])
def test_what_is_not_hedged(of: Call) -> None:
    assert begin(SlowFleet("a", "b"), of).look() == Wait()


def test_neither_is_what_has_failed_over_already() -> None:
    journey = begin(SlowFleet("a", "b", "c"))
    journey.first = journey.departs(journey.fails(journey.first))
    assert journey.look() == Wait()


def test_only_a_healthy_route_is_asked() -> None:
    b = route("b")
    for other in (
        Candidate(b, EXPECTED, State.CLOSED, "suspect"),
        Candidate(b, EXPECTED, State.OPEN, "last_resort"),
        Candidate(b, EXPECTED, State.CLOSED, "last_resort"),
        Candidate(b, EXPECTED, State.HALF_OPEN, "next"),
        Candidate(b, None, State.CLOSED, "next"),
    ):
        fleet = SlowFleet("a", "b")
        fleet.order[1] = other
        tokens = fleet.hedges.tokens
        assert begin(fleet).look() == Wait()
        assert fleet.hedges.tokens == tokens
    assert begin(SlowFleet("a")).look() == Wait()  # nor is global


def test_not_before_the_other_would_have_answered() -> None:
    fleet = SlowFleet("a", "b")
    fleet.order[1] = Candidate(fleet.order[1].route, 1.5, State.CLOSED, "next")
    journey = begin(fleet)
    assert journey.look() == Wait()
    assert journey.first.check_at == pytest.approx(journey.first.departed + 1.5)
    fleet.clock.advance(0.5)
    assert isinstance(journey.look(), Send)


def test_when_one_of_the_two_fails_the_other_is_waited_for() -> None:
    for loser in (0, 1):
        fleet = SlowFleet("a", "b", "c")
        journey = begin(fleet)
        both = [journey.first, journey.departs(journey.look())]
        assert journey.fails(both[loser]) == Wait()
        assert isinstance(journey.answers(both[1 - loser]), Deliver)
        assert fleet.blames == [("ab"[loser], Failure.RESET)]


def test_when_both_fail_it_goes_elsewhere() -> None:
    journey = begin(SlowFleet("a", "b", "c"))
    hedge = journey.departs(journey.look())
    assert journey.fails(hedge) == Wait()
    third = journey.departs(journey.fails(journey.first))
    assert (third.endpoint.name, third.reason) == ("c", "failover")


def test_what_was_sent_after_the_hedge_that_answers_has_not_been_outpaced() -> None:
    fleet = SlowFleet("a", "b", "c")
    journey = begin(fleet)
    hedge = journey.departs(journey.look())
    fleet.dies("b")
    rescue = journey.departs(journey.exchange.feed(Quiet(hedge), fleet.clock()))
    assert isinstance(journey.answers(hedge), Deliver)
    assert rescue.ended is not None
    assert fleet.outpaces == ["a"]


def test_when_the_rescue_of_a_hedge_fails_the_hedge_is_looked_after_again() -> None:
    fleet = SlowFleet("a", "b", "c")
    journey = begin(fleet)
    hedge = journey.departs(journey.look())
    fleet.dies("b")
    rescue = journey.departs(journey.exchange.feed(Quiet(hedge), fleet.clock()))
    assert journey.fails(rescue) == Wait()
    assert hedge.check_at is not None
    fleet.clock.advance(hedge.check_at - fleet.clock())
    last = journey.departs(journey.exchange.feed(Quiet(hedge), fleet.clock()))
    assert last.on_global


def test_a_dead_route_makes_it_a_rescue() -> None:
    fleet = SlowFleet("a", "b")
    journey = begin(fleet)
    fleet.dies("a")
    command = journey.look()
    assert isinstance(command, Send)
    assert command.attempt.reason == "rescue"
    assert fleet.hedges.tokens == 5.0


# --- what the router makes of it ------------------------------------------------------------------------


def warm(*, hedge: bool) -> Router:
    """A router that knows what to expect: of a and of b the same."""
    clock = Clock()
    router = Router(Config([route("a"), route("b")], global_url=None, hedge=hedge), clock=clock, random=lambda: 0.5)
    for each in router.config.routes:
        measured(router, each, 0.010)
    for _ in range(100):
        send(router, a=slowly(EXPECTED, clock, streams()), b=slowly(EXPECTED, clock, streams()))
        clock.advance(1.0)
    return router


def hedged_after(router: Router) -> float | None:
    """Seconds after which a request of which nothing comes is hedged; None: it is not."""
    clock = router.clock
    assert isinstance(clock, Clock)
    exchange = router.begin(STREAM)
    assert exchange is not None
    command = exchange.start(clock())
    assert isinstance(command, Send)
    attempt = command.attempt
    attempt.depart(clock(), reused=False)
    began = clock()
    try:
        while clock() - began < 0.5:
            assert attempt.check_at is not None
            clock.advance(max(attempt.check_at - clock(), 0.0))
            command = exchange.feed(Quiet(attempt), clock())
            if isinstance(command, Send):
                return clock() - began
        return None
    finally:
        exchange.cancel(clock())
        router.finish(exchange, "cancelled")


def test_it_is_due_when_99_of_100_answers_of_the_route_would_have_come() -> None:
    router = warm(hedge=True)
    slowest = router._patience.baseline.slowest
    after = hedged_after(router)
    assert after is not None
    assert after == pytest.approx(0.010 + (EXPECTED - 0.010) * slowest, rel=0.05)
    assert EXPECTED < after < 0.5  # long before anybody would look after it for other reasons
    assert not any(each.suspect for each in router.status())
    assert [claim for claim in router.claim_probes(Prober())[0] if claim.fresh] == []  # slow is not silent


def test_by_default_it_is_waited_for() -> None:
    assert hedged_after(warm(hedge=False)) is None


def test_in_the_long_run_two_requests_of_a_hundred_are_hedged_at_the_most() -> None:
    router = warm(hedge=True)
    clock = router.clock
    assert isinstance(clock, Clock)
    hedged = sum(hedged_after(router) is not None for _ in range(1_000))
    assert hedged <= 5 + 0.02 * 1_000 + clock() / 60
    assert hedged >= 20
    assert status(router, "a").in_flight == status(router, "b").in_flight == 0


def test_of_a_request_of_unknown_size_nothing_is_slow() -> None:
    clock = Clock()
    router = Router(Config([route("a"), route("b")], global_url=None, hedge=True), clock=clock)
    assert hedged_after(router) is None


def test_a_route_that_becomes_slow_is_found_out_though_its_requests_are_hedged() -> None:
    router = warm(hedge=True)
    clock = router.clock
    assert isinstance(clock, Clock)
    on_the_slow_one = 0
    for _ in range(60):
        clock.advance(60.0)
        exchange = router.begin(STREAM)
        assert exchange is not None
        command = exchange.start(clock())
        assert isinstance(command, Send)
        answering = command.attempt
        answering.depart(clock(), reused=False)
        if answering.endpoint.name == "a":
            on_the_slow_one += 1
            while not isinstance(command := exchange.feed(Quiet(answering), clock()), Send):
                assert answering.check_at is not None
                clock.advance(max(answering.check_at - clock(), 0.0))
            answering = command.attempt
            answering.depart(clock(), reused=False)
        clock.advance(EXPECTED)
        exchange.feed(Answered(answering, 200, None, event_stream=True, encoded=False), clock())
        exchange.feed(Content(answering), clock())
        exchange.settle(answering, "complete", clock())
        router.finish(exchange, "answered")
    assert on_the_slow_one < 20  # it is left, and looked at now and then
    assert status(router, "a").factor > 1.2
