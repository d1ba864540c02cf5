"""Conversations: which route they are on, and what moves them."""

import pytest

from smartroute.policy.affinity import MEMORY, MOST, MOST_IN_FLIGHT
from smartroute.router import Router
from smartroute.testing import Clock
from tests.policy.driving import Outcome, measured, route, says, slowly, streams, unsent
from tests.router.kit import Make, begin, call, names, probe, send, set_out

NEAR, FAR = 0.1, 2.0
"""Round trips: farther by more than is worth a move, and by less than a warm cache saves."""
SMALL, LARGE = 1_000, 500_000
TALK = call(conversation="c", size=LARGE)


def answers(clock: Clock, service: float = 3.0) -> Outcome:
    """An answer that takes as long as such a prompt does."""
    return lambda attempt: slowly((NEAR if attempt.endpoint.name == "a" else FAR) + service, clock, streams())(attempt)


@pytest.fixture
def router(make: Make, clock: Clock) -> Router:
    """A router that knows what a long prompt costs."""
    router = make("a", "b", warm=False)
    for each, round_trip in zip(router.config.routes, (NEAR, FAR), strict=True):
        measured(router, each, round_trip)
    for size, service in ((SMALL, 0.2), (LARGE, 3.0)):
        assert send(router, call(pinned="a", size=size), a=answers(clock, service)) == ["a"]
    return router


def settle(router: Router, clock: Clock, name: str) -> None:
    """The conversation is on this route; all routes are well."""
    other = "b" if name == "a" else "a"
    router.drain(other)
    assert send(router, TALK, **{name: answers(clock)}) == [name]
    router.resume(other)
    clock.advance(1.0)


def test_a_conversation_stays_on_its_route(router: Router, clock: Clock) -> None:
    settle(router, clock, "b")
    assert names(router)[0] == "a"
    for _ in range(5):
        clock.advance(MEMORY - 30.0)  # each request gives it as long again
        assert send(router, TALK, a=answers(clock), b=answers(clock)) == ["b"]
    assert send(router, call(conversation="c", size=LARGE, model="other"), a=answers(clock)) == ["a"]
    clock.advance(MEMORY + 1.0)
    assert send(router, TALK, a=answers(clock)) == ["a"]


def test_with_little_to_save_it_goes_where_it_is_answered_soonest(router: Router, clock: Clock) -> None:
    settle(router, clock, "b")
    assert send(router, call(conversation="c", size=SMALL), a=answers(clock, 0.2)) == ["a"]


def test_a_conversation_is_where_its_first_request_was_answered(router: Router, clock: Clock) -> None:
    assert send(router, TALK, a=says(503, 1.0), b=answers(clock)) == ["a", "b"]
    clock.advance(5.0)
    assert names(router)[0] == "a"
    assert send(router, TALK, a=answers(clock), b=answers(clock)) == ["b"]


def test_a_detour_does_not_move_it(router: Router, clock: Clock) -> None:
    settle(router, clock, "b")
    assert send(router, TALK, a=answers(clock), b=says(503, 30.0)) == ["b", "a"]
    assert send(router, TALK, a=answers(clock)) == ["a"]
    clock.advance(30.0)
    assert send(router, TALK, a=answers(clock), b=answers(clock)) == ["b"]


def test_it_moves_for_good_when_its_route_is_opened(router: Router, clock: Clock) -> None:
    settle(router, clock, "b")
    assert send(router, TALK, a=answers(clock), b=unsent()) == ["b", "a"]
    assert send(router, TALK, a=answers(clock)) == ["a"]
    for _ in range(2):
        clock.advance(2.0)
        probe(router, "b", seconds=FAR)
    assert send(router, call(pinned="b"), b=answers(clock)) == ["b"]
    assert names(router) == ["a", "b", "global"]
    assert send(router, TALK, a=answers(clock), b=answers(clock)) == ["a"]


def test_many_requests_at_a_time_are_no_conversation_and_do_not_move_it(router: Router, clock: Clock) -> None:
    settle(router, clock, "b")
    flying = [begin(router, conversation="c", size=LARGE) for _ in range(MOST_IN_FLIGHT + 1)]
    went = [set_out(exchange, clock()).endpoint.name for exchange in flying]
    assert went == ["b"] * MOST_IN_FLIGHT + ["a"]
    for exchange in flying:
        exchange.cancel(clock())
        router.finish(exchange, "cancelled")
    assert send(router, TALK, a=answers(clock), b=answers(clock)) == ["b"]


def test_conversations_take_a_bounded_memory(make: Make) -> None:
    router = make()
    for number in range(MOST + 100):
        router.begin(call(conversation=f"c{number}"))
    assert len(router._selector.conversations._talks) == MOST


def test_a_conversation_is_no_guinea_pig(make: Make, clock: Clock) -> None:
    """Not for a route on trial; another request is."""
    router = make(routes=[route("a"), route("b")])
    assert send(router, TALK, a=streams()) == ["a"]
    router.drain("a")
    assert send(router, TALK, b=streams()) == ["b"]
    router.resume("a")
    probe(router, "a", failure="connect")
    for _ in range(2):
        clock.advance(2.0)
        probe(router, "a")
    assert send(router, TALK, b=streams()) == ["b"]
    assert send(router, a=streams()) == ["a"]
