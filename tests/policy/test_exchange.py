"""One request's journey: each rule of the policy's tables, played by hand over a plain fleet and the real router."""

from typing import Any

import pytest

from smartroute.policy.messages import (
    Answered,
    Attempt,
    Deliver,
    Gate,
    Hold,
    Send,
    Spoiled,
)
from smartroute.policy.outcome import TOO_LONG, Failure
from tests.policy.driving import (
    PLAIN,
    STREAM,
    Build,
    Flight,
    Outcome,
    PlainFleet,
    broke,
    call,
    fly,
    lost,
    route,
    says,
    spoils,
    streams,
    unsent,
)

# --- an answer -----------------------------------------------------------------------------------------


def test_a_stream_is_held_up_to_its_first_content(build: Build) -> None:
    end, flight = fly(build(), STREAM, a=streams())
    assert isinstance(end, Deliver)
    assert not end.final
    assert (flight.path, flight.gates) == (["a"], [Gate.FIRST_CONTENT])
    assert flight.exchange.delivered is end.attempt
    assert end.attempt.content_at is not None


def test_any_other_body_is_held_whole(build: Build) -> None:
    end, flight = fly(build(), PLAIN, a=says(200))
    assert isinstance(end, Deliver)
    assert (flight.path, flight.gates) == (["a"], [Gate.WHOLE])


def test_an_encoded_stream_cannot_be_looked_into(build: Build) -> None:
    end, flight = fly(build(), STREAM, a=streams(encoded=True))
    assert isinstance(end, Deliver)
    assert flight.gates == []


@pytest.mark.parametrize("status", [200, 204, 302])
def test_what_global_answers_is_handed_on_as_it_is(build: Build, status: int) -> None:
    end, flight = fly(build("a"), STREAM, a=unsent(), worldwide=says(status))
    assert isinstance(end, Deliver)
    assert (end.attempt.status, flight.path, flight.gates) == (status, ["a", "global"], [])


def test_the_reasons_are_told(build: Build) -> None:
    end, flight = fly(build(), STREAM, a=[lost(reused=True), says(503)], b=[says(401)], worldwide=streams())
    assert isinstance(end, Deliver)
    assert flight.reasons[1:] == ["stale_connection", "failover", "failover"]
    records = flight.exchange.records(flight.clock())
    assert [(r.endpoint, r.status, r.failure) for r in records] == [
        ("a", None, "reset"),
        ("a", 503, "status"),
        ("b", 401, "status"),
        ("global", 200, None),
    ]
    assert all(record.seconds > 0 for record in records)


def test_nobody_is_ranked_while_the_first_choice_will_do() -> None:
    fleet = PlainFleet([route("a"), route("b")])
    exchange = fleet.begin(STREAM)
    command = exchange.start(1.0)
    assert isinstance(command, Send)
    head, content = streams()(command.attempt)
    assert isinstance(exchange.feed(head, 2.0), Hold)
    assert isinstance(exchange.feed(content, 2.0), Deliver)
    exchange.settle(command.attempt, "complete", 3.0)
    assert fleet.rankings == 0


# --- what may be sent again ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [Failure.DNS, Failure.CONNECT, Failure.CONNECT_TIMEOUT, Failure.TLS, Failure.CERTIFICATE]
)
def test_what_was_never_sent_goes_elsewhere_without_budget(build: Build, failure: Failure) -> None:
    world = build("a", "b", "c")
    broke(world)
    end, flight = fly(world, STREAM, a=unsent(failure), b=unsent(failure), c=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b", "c"]
    assert world.opened("a")
    assert world.opened("b")
    assert not world.opened("c")


def test_our_own_limit_is_not_the_routes_fault(build: Build) -> None:
    world = build()
    end, flight = fly(world, STREAM, a=unsent(Failure.POOL_TIMEOUT), b=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b"]
    assert world.failures("a") == 0


@pytest.mark.parametrize(
    "outcome",
    [
        lost(Failure.RESET),
        lost(Failure.READ_TIMEOUT),
        lost(Failure.PROTOCOL),
        lost(Failure.WRITE),
        says(302),
        says(502),
        says(503),
        says(504),
        says(520),
        says(529),
        spoils(Failure.TRUNCATED),
        spoils(Failure.EMPTY),
        spoils(Failure.GARBLED),
        spoils(Failure.RESET),
        spoils(Failure.READ_TIMEOUT),
        spoils(Failure.ERROR_EVENT),
        spoils(Failure.ERROR_EVENT, 503),
        spoils(Failure.CONTENT_TYPE, event_stream=False),
    ],
)
def test_what_failed_before_content_goes_elsewhere_and_counts(build: Build, outcome: Outcome) -> None:
    world = build()
    end, flight = fly(world, STREAM, a=outcome, b=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b"]
    assert (world.failures("a"), world.failures("b")) == (1, 0)


def test_a_body_that_ends_short_goes_elsewhere(build: Build) -> None:
    def short(attempt: Attempt) -> list[Answered | Spoiled]:
        attempt.sent = True
        head = Answered(attempt, 200, None, event_stream=False, encoded=False)
        return [head, Spoiled(attempt, Failure.TRUNCATED, "short")]

    world = build()
    end, flight = fly(world, PLAIN, a=short, b=says(200))
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b"]
    assert world.failures("a") == 1


def test_a_stale_connection_is_replaced_once_and_is_nobodys_fault(build: Build) -> None:
    world = build()
    broke(world)
    end, flight = fly(world, STREAM, a=[lost(reused=True), streams()])
    assert isinstance(end, Deliver)
    assert (flight.path, flight.reasons[1]) == (["a", "a"], "stale_connection")
    assert [send.attempt.fresh for send in flight.sends] == [False, True]  # its siblings are as old
    assert world.failures("a") == 0


def test_a_second_stale_connection_is_not(build: Build) -> None:
    world = build()
    end, flight = fly(world, STREAM, a=lost(reused=True), b=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "a", "b"]


def test_a_new_connection_that_is_reset_is_not_stale(build: Build) -> None:
    world = build()
    _, flight = fly(world, STREAM, a=[lost(reused=False), streams()], b=streams())
    assert flight.path == ["a", "b"]
    assert world.failures("a") == 1


def test_a_kept_connection_that_only_times_out_is_not_stale(build: Build) -> None:
    _, flight = fly(build(), STREAM, a=lost(Failure.READ_TIMEOUT, reused=True), b=streams())
    assert flight.path == ["a", "b"]


def test_global_may_have_a_stale_connection_too(build: Build) -> None:
    _, flight = fly(build("a"), STREAM, a=unsent(), worldwide=[lost(reused=True), streams()])
    assert flight.path == ["a", "global", "global"]


def test_after_the_first_content_nothing_is_sent_again(build: Build) -> None:
    world = build()
    flight = Flight(world.begin(STREAM), world.clock, {"a": streams()})
    end = flight.fly()
    assert isinstance(end, Deliver)
    flight.exchange.settle(end.attempt, "interrupted", world.clock(), detail="reset")
    assert flight.path == ["a"]
    assert world.failures("a") == 1
    assert end.attempt.failure is Failure.TRUNCATED
    assert world.in_flight() == 0
    flight.exchange.settle(end.attempt, "complete", world.clock())  # once is enough
    assert world.in_flight() == 0


@pytest.mark.parametrize("how", ["complete", "closed"])
def test_a_stream_that_the_caller_closes_is_no_failure(build: Build, how: str) -> None:
    world = build()
    flight = Flight(world.begin(STREAM), world.clock, {"a": streams()})
    end = flight.fly()
    assert world.in_flight() == 1  # until it is read or closed
    flight.exchange.settle(end.attempt, how, world.clock())
    assert world.failures("a") == 0
    assert end.attempt.failure is None


# --- statuses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 405, 413, 422])
@pytest.mark.parametrize("streaming", [True, False])
def test_the_callers_mistakes_are_returned(build: Build, status: int, streaming: bool) -> None:
    world = build()
    end, flight = fly(world, call(streaming=streaming), a=says(status))
    assert isinstance(end, Deliver)
    assert (end.attempt.status, end.final, flight.path, flight.gates) == (status, False, ["a"], [Gate.ERROR])
    assert world.failures("a") == 0


def test_a_mistake_told_in_the_stream_is_handed_on(build: Build) -> None:
    world = build()
    end, flight = fly(world, STREAM, a=spoils(Failure.ERROR_EVENT, 400))
    assert isinstance(end, Deliver)
    assert flight.path == ["a"]
    assert end.attempt.failure is None
    assert world.failures("a") == 0


@pytest.mark.parametrize("status", [401, 402, 403, 412])
def test_a_refused_key_goes_to_an_endpoint_with_another(build: Build, status: int) -> None:
    world = build("a", "b")  # they have the same key
    end, flight = fly(world, STREAM, a=says(status), worldwide=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "global"]
    assert world.failures("a") == 0


@pytest.mark.parametrize("status", [401, 402, 403, 412])
def test_to_one_endpoint_only(build: Build, status: int) -> None:
    world = build(routes=[route("a", keys="k-a"), route("b", keys="k-b"), route("c", keys="k-c")])
    end, flight = fly(world, STREAM, a=says(status), b=says(500))
    assert isinstance(end, Deliver)
    assert (end.attempt.status, flight.path) == (status, ["a", "b"])


def test_keys_are_tried_in_turn(build: Build) -> None:
    world = build(routes=[route("a", keys="k1,k2,k3"), route("b", keys="k4")])
    broke(world)
    end, flight = fly(world, STREAM, a=[says(401), says(403), streams()])
    assert isinstance(end, Deliver)
    assert [send.attempt.key for send in flight.sends] == [0, 1, 2]
    assert flight.reasons[1:] == ["next_key", "next_key"]
    assert not world.quarantined("a")


@pytest.mark.parametrize("status", [402, 412])
def test_an_account_problem_is_the_same_with_every_key(build: Build, status: int) -> None:
    world = build(routes=[route("a", keys="k1,k2")])
    _, flight = fly(world, STREAM, a=says(status), worldwide=streams())
    assert flight.path == ["a", "global"]
    assert not world.quarantined("a")


def test_a_prompt_that_is_too_long_goes_to_one_endpoint_with_another_model(build: Build) -> None:
    """The routes have a model of their own; the global endpoint is asked for what the caller asked for."""
    large, small = {"m": "m-128k"}, {"m": "m-8k"}
    world = build(routes=[route("a", model=small), route("b", model=small), route("c", model=large)])
    end, flight = fly(world, STREAM, a=says(400, code=TOO_LONG), c=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "c"]
    end, flight = fly(world, STREAM, a=says(400, code=TOO_LONG), c=says(400, code=TOO_LONG))
    assert isinstance(end, Deliver)
    assert (end.attempt.status, end.attempt.endpoint.name, flight.path) == (400, "a", ["a", "c"])
    assert [world.failures(name) for name in "abc"] == [0, 0, 0]


def test_where_all_have_the_same_model_it_is_the_answer(build: Build) -> None:
    end, flight = fly(build(), STREAM, a=says(400, code=TOO_LONG))
    assert isinstance(end, Deliver)
    assert (end.attempt.status, end.final, flight.path) == (400, False, ["a"])


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_refused_in_the_stream_is_a_refused_key(build: Build, status: int) -> None:
    """The table is for statuses of a response, or named by a first error event."""
    world = build(routes=[route("a", keys="k1,k2"), route("b", keys="k1,k2")])
    end, flight = fly(world, STREAM, a=spoils(Failure.ERROR_EVENT, status), worldwide=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "a", "global"]


def test_a_route_that_refuses_a_key_in_the_stream_is_avoided_too(build: Build) -> None:
    world = build()
    fly(world, STREAM, a=spoils(Failure.ERROR_EVENT, 401), worldwide=streams())
    assert world.quarantined("a")


def test_a_model_not_found_told_in_the_stream_is_avoided_too(build: Build) -> None:
    world = build()
    fly(world, STREAM, a=spoils(Failure.ERROR_EVENT, 404), b=streams())
    assert world.quarantined("a")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_route_that_refuses_what_another_accepts_is_avoided(build: Build, status: int) -> None:
    world = build(routes=[route("a", keys="k-a"), route("b", keys="k-b")])
    fly(world, STREAM, a=says(status), b=streams())
    assert world.quarantined("a")
    assert not world.quarantined("b")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_if_all_agree_the_original_is_the_answer(build: Build, status: int) -> None:
    world = build(routes=[route("a", keys="k-a"), route("b", keys="k-b")])
    end, flight = fly(world, STREAM, a=says(status), b=says(status), worldwide=says(status))
    assert isinstance(end, Deliver)
    assert (end.attempt.endpoint.name, end.attempt.status, flight.path) == ("a", status, ["a", "b", "global"])
    assert not world.quarantined("a")
    assert not world.quarantined("b")


@pytest.mark.parametrize("status", [401, 402, 403, 404, 412])
def test_routes_that_are_mistaken_alike_do_not_keep_a_request_from_global(build: Build, status: int) -> None:
    """A model name or a key that is wrong for all of them: the likeliest mistake."""
    world = build(routes=[route(name, keys=f"k-{name}") for name in "abc"])
    wrong = dict.fromkeys("abc", says(status))
    end, flight = fly(world, STREAM, **wrong, worldwide=streams())
    assert isinstance(end, Deliver)
    assert (end.attempt.status, flight.path) == (200, ["a", "b", "global"])
    assert world.quarantined("a") == world.quarantined("b") == (status not in (402, 412))


@pytest.mark.parametrize("status", [408, 409, 425])
def test_where_second_opinions_have_just_been_the_same_another_costs_a_token(build: Build, status: int) -> None:
    world = build("a", "b", "c")
    alike = {"a": says(status), "b": says(status)}
    world.budget.tokens = 5.0
    assert fly(world, STREAM, **alike)[1].path == ["a", "b"]
    assert world.budget.tokens >= 5.0
    assert fly(world, STREAM, **alike)[1].path == ["a", "b"]
    assert world.budget.tokens < 5.0
    broke(world)
    end, flight = fly(world, STREAM, **alike)
    assert isinstance(end, Deliver)
    assert (end.final, flight.path) == (False, ["a"])  # the SDK's own retries may help
    broke(world)
    other = says(409 if status == 408 else 408)
    assert fly(world, STREAM, a=other, b=streams())[1].path == ["a", "b"]  # of that nothing is known
    world.budget.tokens = 1.5
    assert fly(world, STREAM, a=says(status), b=streams())[1].path == ["a", "b"]
    broke(world)
    assert fly(world, STREAM, a=says(status), b=streams())[1].path == ["a", "b"]  # opinions differ
    assert fly(world, STREAM, **alike)[1].path == ["a", "b"]
    world.clock.advance(10.0)
    broke(world)
    assert fly(world, STREAM, **alike)[1].path == ["a", "b"]


@pytest.mark.parametrize("status", [408, 409, 425, 500])
def test_once_elsewhere(build: Build, status: int) -> None:
    world = build("a", "b", "c")
    end, flight = fly(world, STREAM, a=says(status), b=says(status))
    assert isinstance(end, Deliver)
    assert (end.attempt.status, flight.path) == (status, ["a", "b"])
    assert world.failures("a") == 0


@pytest.mark.parametrize("status", [404, 408, 409, 425, 500])
@pytest.mark.parametrize("sick", [says(503), lost(), spoils(Failure.EMPTY)])
def test_once_elsewhere_is_not_used_up_by_an_endpoint_that_is_plainly_sick(
    build: Build, status: int, sick: Outcome
) -> None:
    world = build("a", "b", "c")
    end, flight = fly(world, STREAM, a=says(status), b=sick, c=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b", "c"]


def test_once_elsewhere_is_not_used_up_by_an_endpoint_that_was_not_reached(build: Build) -> None:
    world = build("a", "b", "c")
    end, flight = fly(world, STREAM, a=says(500), b=unsent(), c=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b", "c"]


@pytest.mark.parametrize("status", [408, 409, 425])
def test_no_effect_on_health(build: Build, status: int) -> None:
    world = build()
    fly(world, STREAM, a=says(status), b=streams())
    assert world.failures("a") == 0
    assert world.cooldown("a") == 0.0


def test_a_500_counts_when_another_endpoint_answers(build: Build) -> None:
    world = build()
    end, _ = fly(world, STREAM, a=says(500), b=streams())
    assert isinstance(end, Deliver)
    assert (world.failures("a"), world.failures("b")) == (1, 0)


def test_a_poison_request_is_nobodys_fault(build: Build) -> None:
    world = build("a", "b", "c")
    poisoned = {"a": says(500), "b": says(500), "c": says(500), "worldwide": says(500)}
    asked: list[str] = []
    for _ in range(5):
        end, flight = fly(world, STREAM, **poisoned)
        assert isinstance(end, Deliver)
        assert (end.attempt.status, flight.path[0], len(flight.path)) == (500, "a", 2)
        asked.append(flight.path[1])
    assert asked == ["b", "c", "global", "b", "b"]  # each once, before anybody is asked again
    assert [world.failures(name) for name in "abc"] == [0, 0, 0]


def test_two_sick_routes_do_not_acquit_each_other(build: Build) -> None:
    """The second opinion about a 500 is that of somebody who has not just said the same."""
    world = build("a", "b", "c")
    sick = {"a": says(500), "b": says(500), "c": streams()}
    assert fly(world, STREAM, **sick)[1].path == ["a", "b"]
    for failures in (1, 2):
        end, flight = fly(world, STREAM, **sick)
        assert isinstance(end, Deliver)
        assert (end.attempt.status, flight.path) == (200, ["a", "c"])
        assert world.failures("a") == failures


def test_a_500_counts_when_global_answers(build: Build) -> None:
    world = build("a")
    fly(world, STREAM, a=says(500), worldwide=streams())
    assert world.failures("a") == 1


@pytest.mark.parametrize(("wait", "cooldown"), [(None, 1.0), (0.0, 0.0), (0.3, 0.3), (60.0, 60.0)])
def test_a_saturated_route_is_left_alone(build: Build, wait: float | None, cooldown: float) -> None:
    world = build("a", "b", "c")
    end, flight = fly(world, STREAM, a=says(429, wait), b=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b"]
    assert world.cooldown("a") == pytest.approx(cooldown, abs=0.02)
    assert world.failures("a") == 0


def test_when_all_are_saturated_the_shortest_wait_is_the_answer(build: Build) -> None:
    end, flight = fly(
        build("a", "b", "c"), STREAM, a=says(429, 20.0), b=says(429, 3.0), c=says(429), worldwide=says(429, 7.0)
    )
    assert isinstance(end, Deliver)
    assert (end.attempt.endpoint.name, end.attempt.wait) == ("b", 3.0)
    assert flight.path == ["a", "b", "c", "global"]
    assert not end.final  # waiting does help


def test_a_503_with_a_wait_is_left_alone_for_so_long(build: Build) -> None:
    world = build()
    fly(world, STREAM, a=says(503, 12.0), b=streams())
    assert world.cooldown("a") == pytest.approx(12.0, abs=0.02)
    assert world.failures("a") == 1
    other = build()
    fly(other, STREAM, a=says(503), b=streams())
    assert other.cooldown("a") == 0.0


# --- limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [says(503), lost(), says(429, 1.0), spoils(Failure.EMPTY)])
def test_three_attempts_on_routes_and_one_on_global(build: Build, outcome: Outcome) -> None:
    world = build("a", "b", "c", "d")
    _, flight = fly(world, STREAM, a=outcome, b=outcome, c=outcome, d=outcome, worldwide=outcome)
    assert flight.path == ["a", "b", "c", "global"]


def test_what_was_never_sent_counts_towards_no_limit(build: Build) -> None:
    world = build("a", "b", "c", "d", "e", fallback=False)
    refused = {name: unsent() for name in "abcd"}
    _, flight = fly(world, call(retry=1), **refused, e=streams())
    assert flight.path == ["a", "b", "c", "d", "e"]


def test_a_routes_keys_count_as_one_route(build: Build) -> None:
    world = build(routes=[route("a", keys="k1,k2,k3"), route("b", keys="k4")], fallback=False)
    broke(world)
    end, flight = fly(world, STREAM, a=says(401), b=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "a", "a", "b"]


def test_the_callers_own_refused_key_is_the_answer(build: Build) -> None:
    """Another route's key must not stand in for it, and the route is not to blame."""
    world = build(routes=[route("a", keys="k1"), route("b", keys="k2")])
    end, flight = fly(world, call(addressed="a"), a=says(401), b=streams(), worldwide=streams())
    assert isinstance(end, Deliver)
    assert (end.attempt.status, flight.path) == (401, ["a"])
    assert not world.quarantined("a")


def test_when_every_stream_begins_with_an_error_the_caller_gets_the_error(build: Build) -> None:
    world = build("a", "b", fallback=False)
    end, flight = fly(world, STREAM, a=spoils(Failure.ERROR_EVENT, 503), b=spoils(Failure.ERROR_EVENT, 503))
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b"]


@pytest.mark.parametrize("outcome", [says(503), lost(), says(429, 1.0)])
def test_the_sdks_own_retry_makes_two_attempts_at_most(build: Build, outcome: Outcome) -> None:
    world = build("a", "b", "c")
    _, flight = fly(world, call(retry=1), a=outcome, b=outcome, c=outcome, worldwide=outcome)
    assert flight.path == ["a", "global"]  # where the plain SDK would have sent it
    world = build("a", "b", "c", fallback=False)
    _, flight = fly(world, call(retry=1), a=outcome, b=outcome, c=outcome)
    assert flight.path == ["a", "b"]


def test_what_was_stale_does_not_use_up_the_sdks_own_retry(build: Build) -> None:
    end, flight = fly(build(), call(retry=1), a=[lost(reused=True), says(503)], worldwide=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "a", "global"]


def test_who_is_plainly_sick_has_no_opinion(build: Build) -> None:
    world = build("a", "b", fallback=False)
    assert fly(world, STREAM, a=says(500), b=says(503))[1].path == ["a", "b"]
    broke(world)
    assert len(fly(world, STREAM, a=says(500), b=says(500))[1].path) == 2


def test_global_costs_the_sdks_own_retry_nothing(build: Build) -> None:
    world = build("a", "b", "c")
    broke(world)
    end, flight = fly(world, call(retry=2), a=says(429, 1.0), worldwide=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "global"]


def test_the_sdks_own_retries_of_one_call_count_once(build: Build) -> None:
    world = build("a", "b", fallback=False)
    fly(world, call(retry=0), a=says(503), b=streams())
    fly(world, call(retry=1), a=says(503), b=streams())
    fly(world, call(retry=2), a=says(503), b=streams())
    assert world.failures("a") == 1
    fly(world, call(retry=1), a=unsent(), b=streams())
    assert world.opened("a")


def test_the_first_move_is_free_and_each_later_one_costs_a_token(build: Build) -> None:
    for attempts in (1, 2, 3):
        world = build("a", "b", "c")
        world.budget.tokens = 5.0
        script: list[Outcome] = [says(503)] * (attempts - 1) + [streams()] * 3
        _, flight = fly(world, STREAM, a=script[0], b=script[1], c=script[2])
        assert len(flight.path) == attempts
        assert 5.0 - world.budget.tokens == pytest.approx(max(attempts - 2, 0), abs=0.2)  # requests and time pay in


def test_a_stale_connection_is_an_attempt_too(build: Build) -> None:
    stale = [lost(reused=True), lost()]
    for place, path in enumerate((["a", "a", "b", "global"], ["a", "b", "b", "global"], ["a", "b", "c", "global"])):
        world = build("a", "b", "c")
        script: dict[str, Any] = dict.fromkeys("abc", lost())
        _, flight = fly(world, STREAM, **script | {"abc"[place]: stale}, worldwide=streams())
        assert flight.path == path


def test_global_is_asked_once_more_over_a_fresh_connection(build: Build) -> None:
    """It is the last resort: a connection that was closed in the meantime is no answer of its."""
    down = dict.fromkeys("abc", lost())
    end, flight = fly(build("a", "b", "c"), STREAM, **down, worldwide=[lost(reused=True), streams()])
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b", "c", "global", "global"]


def test_without_tokens_global_is_next(build: Build) -> None:
    world = build("a", "b", "c")
    world.begin(STREAM).cancel(0.0)
    broke(world)
    end, flight = fly(world, STREAM, a=says(503), b=says(503), c=streams(), worldwide=streams())
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b", "global"]


def test_without_tokens_the_sdk_is_told_that_retrying_cannot_help(build: Build) -> None:
    world = build("a", "b", "c", fallback=False)
    broke(world)
    end, flight = fly(world, STREAM, a=says(503), b=says(502), c=streams())
    assert isinstance(end, Deliver)
    assert (end.final, end.attempt.status, flight.path) == (True, 502, ["a", "b"])


@pytest.mark.parametrize("outcome", [says(429), says(429, 1.0), says(503, 1.0)])
def test_but_not_if_it_is_asked_to_wait(build: Build, outcome: Outcome) -> None:
    world = build("a", "b", "c", fallback=False)
    broke(world)
    end, flight = fly(world, STREAM, a=outcome, b=outcome, c=streams())
    assert isinstance(end, Deliver)
    assert (end.final, flight.path) == (False, ["a", "b"])


def test_nor_where_it_is_global_that_fails(build: Build) -> None:
    """What global says goes to the SDK as it is: its retries may get through, as they would without routes."""
    world = build("a", "b", "c")
    broke(world)
    end, flight = fly(world, STREAM, a=says(503), b=says(503), c=streams(), worldwide=says(503))
    assert isinstance(end, Deliver)
    assert (end.final, flight.path) == (False, ["a", "b", "global"])


def test_a_race_is_no_way_around_the_limits(build: Build) -> None:
    """What was passed over for want of a token, or as the fourth route, is no rival of global's connection."""
    world = build("a", "b", "c", "d")
    _, flight = fly(world, STREAM, a=says(503), b=says(503), c=says(503), worldwide=streams())
    assert flight.path[-1] == "global"
    assert flight.rivals[-1] == ()
    world = build("a", "b", "c")
    broke(world)
    _, flight = fly(world, STREAM, a=says(503), b=says(503), worldwide=streams())
    assert flight.path == ["a", "b", "global"]
    assert flight.rivals[-1] == ()


def test_a_race_is_no_way_back_to_a_refused_key(build: Build) -> None:
    world = build(routes=[route("a", keys="k1"), route("b", keys="k2"), route("c", keys="k1")])
    _, flight = fly(world, STREAM, a=says(401), b=streams())
    assert "c" not in flight.rivals[-1]
