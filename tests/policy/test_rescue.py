"""An attempt of which nothing comes: it is waited for, and sent elsewhere too if its route is dead."""

import pytest

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
    Raise,
    Send,
    Wait,
    Whole,
)
from smartroute.policy.outcome import Failure
from tests.policy.driving import PLAIN, SPAN, STREAM, Build, PlainFleet, World, broke, call, route


class Journey:
    """One exchange, played by hand."""

    def __init__(self, world: World, of: Call = STREAM) -> None:
        self.world = world
        self.call = of
        self.exchange = world.begin(of)
        self.first = self.departs(self.exchange.start(world.clock()))

    def departs(self, command: Command) -> Attempt:
        """It is sent."""
        assert isinstance(command, Send)
        assert command.beside == (len(self.live()) > 1)
        command.attempt.depart(self.world.clock(), reused=False)
        return command.attempt

    def is_quiet(self, attempt: Attempt) -> Command:
        """Nothing has come of it when somebody looks."""
        assert attempt.check_at is not None
        self.world.clock.advance(max(attempt.check_at - self.world.clock(), 0.0))
        return self.exchange.feed(Quiet(attempt), self.world.clock())

    def is_dead(self, attempt: Attempt) -> Command:
        """The same, and its route has not stood a verification."""
        self.world.dies(attempt.endpoint.name)
        return self.is_quiet(attempt)

    def rescued(self) -> Attempt:
        """The first attempt is dead, and another one is under way in its stead."""
        return self.departs(self.is_dead(self.first))

    def answers(self, attempt: Attempt, status: int = 200) -> Command:
        self.world.clock.advance(SPAN)
        now = self.world.clock()
        attempt.first_byte = now
        streams = self.call.streaming and status == 200
        command = self.exchange.feed(Answered(attempt, status, None, event_stream=streams, encoded=False), now)
        if isinstance(command, Hold):
            command = self.exchange.feed(Content(attempt) if streams else Whole(attempt), now)
        if isinstance(command, Deliver):
            self.exchange.settle(command.attempt, "complete", now)
        return command

    def fails(self, attempt: Attempt, failure: Failure = Failure.RESET) -> Command:
        self.world.clock.advance(SPAN)
        return self.exchange.feed(Failed(attempt, failure, str(failure)), self.world.clock())

    def live(self) -> list[Attempt]:
        return [attempt for attempt in self.exchange.attempts if attempt.ended is None]

    def path(self) -> list[tuple[str, str]]:
        return [(attempt.endpoint.name, attempt.reason) for attempt in self.exchange.attempts[1:]]


# --- waiting -------------------------------------------------------------------------------------------


def test_a_slow_answer_is_waited_for(build: Build) -> None:
    journey = Journey(build("a", "b", "c"), PLAIN)
    for _ in range(5):
        asked_at = journey.first.check_at
        assert asked_at is not None
        assert journey.is_quiet(journey.first) == Wait()
        assert journey.first.check_at is not None
        assert journey.first.check_at > asked_at
    assert isinstance(journey.answers(journey.first), Deliver)
    assert journey.path() == []
    assert journey.world.failures("a") == 0


def test_global_is_not_looked_after(build: Build) -> None:
    journey = Journey(build("a"))
    command = journey.fails(journey.first)
    last = journey.departs(command)
    assert (last.on_global, last.check_at) == (True, None)
    journey.answers(last)


@pytest.mark.parametrize("what", ["answered", "ended"])
def test_a_look_that_comes_too_late_changes_nothing(build: Build, what: str) -> None:
    journey = Journey(build("a", "b", "c"))
    journey.world.dies("a")
    if what == "answered":
        journey.answers(journey.first)
    else:
        journey.departs(journey.fails(journey.first))
    before = len(journey.exchange.attempts)
    assert journey.exchange.feed(Quiet(journey.first), journey.world.clock()) == Wait()
    assert len(journey.exchange.attempts) == before
    journey.exchange.cancel(journey.world.clock())


# --- the rescue ----------------------------------------------------------------------------------------


def test_what_waits_on_a_dead_route_is_sent_elsewhere_too(build: Build) -> None:
    journey = Journey(build("a", "b", "c"))
    command = journey.is_dead(journey.first)
    assert isinstance(command, Send)
    assert command.beside
    assert (command.attempt.endpoint.name, command.attempt.reason) == ("b", "rescue")
    assert journey.first.ended is None
    assert journey.world.in_flight() == 2
    journey.departs(command)
    journey.answers(command.attempt)


@pytest.mark.parametrize("of", [STREAM, PLAIN], ids=["streamed", "whole"])
def test_the_rescue_may_win_and_then_the_first_is_to_blame(build: Build, of: Call) -> None:
    world = build("a", "b", "c")
    journey = Journey(world, of)
    rescue = journey.rescued()
    command = journey.answers(rescue)
    assert isinstance(command, Deliver)
    assert command.attempt is rescue
    assert journey.first.ended is not None
    assert journey.first.failure is Failure.SILENCE
    assert [world.failures(name) for name in "abc"] == [1, 0, 0]
    if isinstance(world, PlainFleet):
        assert world.blames == [("a", Failure.SILENCE)]
        assert world.endings == [("a", "superseded"), ("b", "complete")]
        assert world.learned == ["b"]


@pytest.mark.parametrize("of", [STREAM, PLAIN], ids=["streamed", "whole"])
def test_the_first_may_win_after_all_and_nobody_is_to_blame(build: Build, of: Call) -> None:
    world = build("a", "b", "c")
    journey = Journey(world, of)
    rescue = journey.rescued()
    command = journey.answers(journey.first)
    assert isinstance(command, Deliver)
    assert command.attempt is journey.first
    assert (rescue.ended is not None, rescue.failure) == (True, None)
    assert [world.failures(name) for name in "abc"] == [0, 0, 0]
    if isinstance(world, PlainFleet):
        assert world.endings == [("b", "superseded"), ("a", "complete")]
        assert world.learned == ["a"]


def test_while_the_rescue_is_under_way_the_failure_of_the_first_is_waited_out(build: Build) -> None:
    world = build("a", "b", "c")
    journey = Journey(world)
    rescue = journey.rescued()
    assert journey.fails(journey.first) == Wait()
    assert isinstance(journey.answers(rescue), Deliver)
    assert world.failures("a") == 1  # for what it did, and not for its silence as well
    assert journey.first.failure is Failure.RESET


def test_a_rescue_that_fails_is_followed_by_another_move(build: Build) -> None:
    journey = Journey(build("a", "b", "c"))
    rescue = journey.rescued()
    third = journey.departs(journey.fails(rescue))
    assert journey.path() == [("b", "rescue"), ("c", "failover")]
    assert journey.first.ended is None  # it may answer yet
    assert isinstance(journey.answers(third), Deliver)
    assert [journey.world.failures(name) for name in "abc"] == [1, 1, 0]


def test_a_rescue_that_fails_with_nowhere_else_to_go_leaves_the_first(build: Build) -> None:
    journey = Journey(build("a", "b", fallback=False))
    rescue = journey.rescued()
    assert journey.fails(rescue) == Wait()
    assert journey.live() == [journey.first]
    assert isinstance(journey.answers(journey.first), Deliver)


@pytest.mark.parametrize("failure", [Failure.POOL_TIMEOUT, Failure.CONNECT])
def test_a_rescue_that_never_left_is_sent_again_when_there_is_somewhere_to_go(failure: Failure) -> None:
    fleet = PlainFleet([route("a"), route("b")], None)
    journey = Journey(fleet)
    command = journey.is_dead(journey.first)
    assert isinstance(command, Send)
    assert journey.fails(command.attempt, failure) == Wait()
    before = fleet.clock()
    rescue = journey.departs(journey.is_quiet(journey.first))
    assert 0.5 < fleet.clock() - before < 2.0
    assert journey.path() == [("b", "rescue")] * 2
    assert isinstance(journey.answers(rescue), Deliver)


def test_what_was_given_up_for_an_earlier_attempt_is_asked_again_if_that_fails_too() -> None:
    fleet = PlainFleet([route("a"), route("b")], None)
    journey = Journey(fleet)
    rescue = journey.rescued()
    assert journey.fails(journey.first) == Wait()  # it had begun to answer
    again = journey.departs(journey.fails(rescue, Failure.OVERTAKEN))
    assert journey.path() == [("b", "rescue"), ("b", "failover")]
    command = journey.fails(again, Failure.TRUNCATED)
    assert isinstance(command, Raise)
    assert command.attempt is again
    journey = Journey(PlainFleet([route("a")], None))
    assert isinstance(journey.fails(journey.first), Raise)


def test_after_a_rescue_that_was_sent_and_failed_another_endpoint_may_turn_up() -> None:
    fleet = PlainFleet([route("a"), route("b"), route("c")], None)
    away = fleet.order.pop()
    journey = Journey(fleet)
    assert journey.fails(journey.rescued()) == Wait()
    assert journey.is_quiet(journey.first) == Wait()  # b had its chance
    fleet.order.append(away)
    rescue = journey.departs(journey.is_quiet(journey.first))
    assert journey.path() == [("b", "rescue"), ("c", "rescue")]
    assert isinstance(journey.answers(rescue), Deliver)


def test_when_both_have_failed_the_caller_is_told(build: Build) -> None:
    journey = Journey(build("a", "b", fallback=False))
    rescue = journey.rescued()
    assert journey.answers(rescue, status=503) == Wait()
    command = journey.fails(journey.first)
    assert isinstance(command, Deliver)
    assert command.attempt.status == 503  # an answer tells more than an exception
    journey = Journey(build("a", "b", fallback=False))
    rescue = journey.rescued()
    assert journey.fails(rescue) == Wait()
    assert isinstance(journey.fails(journey.first), Raise)


def test_a_rescue_may_need_one_itself(build: Build) -> None:
    world = build("a", "b", "c")
    journey = Journey(world)
    second = journey.rescued()
    third = journey.departs(journey.is_dead(second))
    assert journey.path() == [("b", "rescue"), ("c", "rescue")]
    assert len(journey.live()) == 3
    assert isinstance(journey.answers(third), Deliver)
    assert [world.failures(name) for name in "abc"] == [1, 1, 0]


def test_global_may_be_the_rescue(build: Build) -> None:
    journey = Journey(build("a"))
    rescue = journey.rescued()
    assert rescue.on_global
    assert isinstance(journey.answers(rescue), Deliver)
    assert journey.world.failures("a") == 1


def test_one_rescue_is_enough(build: Build) -> None:
    journey = Journey(build("a", "b", "c"))
    rescue = journey.rescued()
    assert journey.first.check_at is None  # nobody looks again
    assert journey.is_quiet(rescue) == Wait()
    assert len(journey.live()) == 2
    journey.answers(rescue)


# --- an error is an answer too -------------------------------------------------------------------------


def test_the_callers_own_mistake_is_handed_on_whoever_says_so(build: Build) -> None:
    world = build("a", "b", "c")
    for winner in ("first", "rescue"):
        journey = Journey(world)
        rescue = journey.rescued()
        command = journey.answers(journey.first if winner == "first" else rescue, status=400)
        assert isinstance(command, Deliver)
        assert command.attempt.status == 400
        assert journey.live() == []
    assert [world.failures(name) for name in "ab"] == [0, 0]  # it was no answer to measure the others by


# --- where there is no rescue --------------------------------------------------------------------------


def test_a_pinned_request_is_never_rescued(build: Build) -> None:
    journey = Journey(build("a", "b", "c"), call(pinned="a"))
    assert journey.is_dead(journey.first) == Wait()
    assert journey.live() == [journey.first]
    assert isinstance(journey.answers(journey.first), Deliver)
    assert journey.path() == []


def test_with_nowhere_to_go_it_is_looked_after_again(build: Build) -> None:
    journey = Journey(build("a", fallback=False))
    for _ in range(3):
        assert journey.is_dead(journey.first) == Wait()
        assert journey.first.check_at is not None
        assert journey.first.check_at > journey.world.clock()
    assert not journey.first.rescued
    assert isinstance(journey.answers(journey.first), Deliver)
    assert journey.world.failures("a") == 0


def test_where_to_go_may_turn_up_later() -> None:
    fleet = PlainFleet([route("a"), route("b")], None)
    away = fleet.order.pop()
    journey = Journey(fleet)
    assert journey.is_dead(journey.first) == Wait()
    fleet.order.append(away)
    rescue = journey.departs(journey.is_quiet(journey.first))
    assert journey.path() == [("b", "rescue")]
    journey.answers(rescue)


def test_the_first_rescue_is_free_and_the_next_costs_a_token(build: Build) -> None:
    world = build("a", "b", "c")
    journey = Journey(world)
    broke(world)
    second = journey.rescued()
    third = journey.departs(journey.is_dead(second))
    assert journey.path() == [("b", "rescue"), ("global", "rescue")]  # which is the last resort: it is free
    journey.answers(third)


def test_the_sdks_own_retry_is_rescued_once(build: Build) -> None:
    world = build("a", "b", "c")
    world.budget.tokens = 5.0
    journey = Journey(world, call(retry=1))
    rescue = journey.rescued()
    assert rescue.on_global  # where the plain SDK would have sent its retry
    assert journey.fails(journey.first) == Wait()
    assert len(journey.exchange.attempts) == 2
    journey.answers(rescue)


def test_nobody_is_rescued_whose_caller_waits_no_longer(build: Build) -> None:
    world = build("a", "b", "c")
    journey = Journey(world, call(patience=3.0))
    world.clock.advance(3.0)
    assert journey.is_dead(journey.first) == Wait()
    assert journey.path() == []
    journey.exchange.cancel(world.clock())


# --- a route that is alive and does not answer ---------------------------------------------------------


def slow() -> tuple[PlainFleet, Journey]:
    fleet = PlainFleet([route("a"), route("b")], None)
    fleet.slow = {"a"}
    return fleet, Journey(fleet)


def test_what_is_slow_beyond_measure_is_rescued_for_a_token() -> None:
    fleet, journey = slow()
    tokens = fleet.budget.tokens
    rescue = journey.departs(journey.is_quiet(journey.first))
    assert journey.path() == [("b", "rescue")]
    assert fleet.budget.tokens == tokens - 1
    assert journey.is_quiet(journey.first) == Wait()  # once
    assert isinstance(journey.answers(rescue), Deliver)
    assert fleet.blames == [("a", Failure.SILENCE)]


def test_without_a_token_it_is_waited_for() -> None:
    fleet, journey = slow()
    fleet.budget.tokens = -10.0
    for _ in range(3):
        assert journey.is_quiet(journey.first) == Wait()
    assert isinstance(journey.answers(journey.first), Deliver)


def test_no_token_is_paid_where_there_is_nowhere_to_go() -> None:
    fleet, journey = slow()
    fleet.order.pop()
    tokens = fleet.budget.tokens
    for _ in range(3):
        assert journey.is_quiet(journey.first) == Wait()
    assert fleet.budget.tokens == tokens
    assert isinstance(journey.answers(journey.first), Deliver)


# --- cancellation --------------------------------------------------------------------------------------


def test_cancellation_ends_both(build: Build) -> None:
    world = build("a", "b", "c")
    journey = Journey(world)
    rescue = journey.rescued()
    for _ in range(2):  # twice is harmless
        journey.exchange.cancel(world.clock())
        assert journey.live() == []
        assert world.in_flight() == 0
    assert {journey.first.failure, rescue.failure} == {Failure.CANCELLED}
    assert [world.failures(name) for name in "ab"] == [0, 0]  # nothing is learned
    if isinstance(world, PlainFleet):
        assert sorted(world.endings) == [("a", "discarded"), ("b", "discarded")]


def test_what_was_superseded_is_over_once(build: Build) -> None:
    world = build("a", "b", "c")
    journey = Journey(world)
    rescue = journey.rescued()
    journey.answers(rescue)
    ended = journey.first.ended
    world.clock.advance(1.0)
    journey.exchange.cancel(world.clock())
    assert journey.first.ended == ended
    assert world.in_flight() == 0
