"""One request's journey: where it may not go, how long it may take, and what the caller gets in the end."""

from collections.abc import Sequence

import pytest

from smartroute.policy.breaker import State
from smartroute.policy.exchange import MOST_RIVALS, Exchange
from smartroute.policy.messages import (
    Answered,
    Call,
    Content,
    Deliver,
    Diverted,
    Failed,
    Hold,
    Raise,
    Send,
    Whole,
)
from smartroute.policy.outcome import Failure
from smartroute.policy.selection import Candidate
from tests.policy.driving import (
    STREAM,
    WORLDWIDE,
    Build,
    Flight,
    Outcome,
    PlainFleet,
    World,
    broke,
    call,
    diverted,
    fly,
    lost,
    route,
    says,
    slowly,
    spoils,
    streams,
    unsent,
)

# --- pinned --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [says(503), lost(), says(429, 2.0), says(404), spoils(Failure.EMPTY)])
@pytest.mark.parametrize("name", ["b", "worldwide"])
def test_a_pinned_request_goes_nowhere_else(build: Build, outcome: Outcome, name: str) -> None:
    endpoint = "global" if name == "worldwide" else name
    _, flight = fly(build("a", "b"), call(streaming=True, pinned=endpoint), **{name: outcome})
    assert set(flight.path) == {endpoint}
    assert flight.rivals[0] == ()


def test_a_pinned_request_tries_the_keys_in_turn(build: Build) -> None:
    world = build(routes=[route("a", keys="k1"), route("b", keys="k2,k3")])
    end, flight = fly(world, call(pinned="b"), b=[says(401), streams()])
    assert isinstance(end, Deliver)
    assert (flight.path, flight.reasons[1]) == (["b", "b"], "next_key")


def test_a_pinned_request_gets_a_new_connection_for_a_stale_one(build: Build) -> None:
    _, flight = fly(build(), call(pinned="b"), b=[lost(reused=True), streams()])
    assert flight.path == ["b", "b"]


# --- deadline ------------------------------------------------------------------------------------------


def timed(world: World, deadline: float | None, call: Call = STREAM, **script: Outcome) -> Flight:
    if "worldwide" in script:
        script["global"] = script.pop("worldwide")
    flight = Flight(world.begin(call, deadline=deadline), world.clock, script)
    flight.finish()
    return flight


def test_a_second_of_the_deadline_is_kept_for_global(build: Build) -> None:
    world = build("a", "b", "c")
    late = slowly(9.0, world.clock, lost(Failure.DEADLINE))
    flight = timed(world, 10.0, a=late, b=lost(Failure.DEADLINE), c=lost(Failure.DEADLINE), worldwide=streams())
    began = flight.exchange.began
    assert flight.sends[0].attempt.until == pytest.approx(began + 9.0)
    assert flight.path == ["a", "global"]  # an attempt on b would have been over before it began
    assert flight.sends[-1].attempt.until == pytest.approx(began + 10.0)
    assert world.failures("a") == 1  # it used up all the time there was


def test_half_of_a_short_deadline_is_kept_for_global(build: Build) -> None:
    flight = timed(build("a"), 0.5, a=streams())
    assert flight.sends[0].attempt.until == pytest.approx(flight.exchange.began + 0.25)


def test_without_global_nothing_is_kept(build: Build) -> None:
    flight = timed(build("a", fallback=False), 10.0, a=streams())
    assert flight.sends[0].attempt.until == pytest.approx(flight.exchange.began + 10.0)


def test_after_the_deadline_nothing_is_sent(build: Build) -> None:
    world = build("a", "b")
    flight = timed(world, 5.0, a=slowly(5.0, world.clock, lost(Failure.READ_TIMEOUT)))
    assert flight.path == ["a"]


def test_without_a_deadline_there_is_no_limit(build: Build) -> None:
    world = build("a", "b")
    flight = timed(world, None, a=slowly(599.0, world.clock, lost(Failure.READ_TIMEOUT)), b=streams())
    assert flight.path == ["a", "b"]
    assert [send.attempt.until for send in flight.sends] == [None, None]


def test_the_callers_patience_is_not_multiplied(build: Build) -> None:
    world = build("a", "b")
    late = slowly(600.0, world.clock, lost(Failure.READ_TIMEOUT))
    assert timed(world, None, call(patience=600.0), a=late).path == ["a"]
    soon = slowly(599.0, world.clock, lost(Failure.READ_TIMEOUT))
    assert timed(world, None, call(patience=600.0), a=soon, b=streams()).path == ["a", "b"]


# --- the race ------------------------------------------------------------------------------------------


def test_other_connections_race(build: Build) -> None:
    world = build("a", "b", "c")
    end, flight = fly(world, STREAM, a=diverted("b"), b=streams())
    assert isinstance(end, Deliver)
    assert flight.rivals[0] == ("b", "c", "global")
    assert 0.1 <= flight.sends[0].patience <= 0.5
    assert flight.path == ["a", "b"]
    assert flight.reasons[1] == "connection_race"
    assert flight.rivals[1] == ()  # the winner's connection is ready
    assert [attempt.endpoint.name for attempt in flight.exchange.attempts] == ["b"]  # nothing was sent to a
    assert [record.endpoint for record in flight.exchange.records(0.0)] == ["b"]
    assert world.failures("a") == 0


def test_a_route_that_lost_the_race_may_be_asked_later(build: Build) -> None:
    world = build("a", "b")
    broke(world)
    end, flight = fly(world, STREAM, a=[diverted("b"), streams()], b=says(503))
    assert isinstance(end, Deliver)
    assert flight.path == ["a", "b", "a"]


def test_where_nothing_is_known_all_connections_are_opened_at_once() -> None:
    fleet = PlainFleet([route(f"r{number}") for number in range(12)])
    exchange = fleet.begin(STREAM, at_once=True)
    command = exchange.start(1.0)
    assert isinstance(command, Send)
    assert command.patience == 0.0
    assert len(command.rivals()) == MOST_RIVALS - 1
    assert WORLDWIDE not in command.rivals()  # it is where the race ends
    exchange.cancel(2.0)
    few = PlainFleet([route("a"), route("b")]).begin(STREAM, at_once=True).start(1.0)
    assert isinstance(few, Send)
    assert [rival.name for rival in few.rivals()] == ["b"]


def test_neither_the_tried_nor_the_last_resorts_race(build: Build) -> None:
    world = build("a", "b", "c")
    _, flight = fly(world, STREAM, a=says(503), b=streams())
    assert flight.rivals[1] == ("c", "global")
    fleet = PlainFleet([route("a"), route("b")])
    fleet.order.append(Candidate(route("z"), None, State.OPEN, "last_resort"))
    command = fleet.begin(STREAM).start(1.0)
    assert isinstance(command, Send)
    assert [rival.name for rival in command.rivals()] == ["b", "global"]


# --- the most telling failure --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "worldwide", "expected"),
    [
        (unsent(), unsent(), unsent(), ("global", "connect")),
        (unsent(), lost(), unsent(Failure.DNS), ("global", "dns")),
        (says(503), unsent(), unsent(), ("a", 503)),  # an answer tells more than an exception
        (unsent(), says(502), unsent(), ("b", 502)),
        (says(502), says(503), says(504), ("global", 504)),  # the last more than the first
        (says(503), says(503), unsent(), ("b", 503)),
        (unsent(), unsent(), says(401), ("b", "connect")),  # but not a fallback's own refusal
        (unsent(), unsent(), says(403), ("b", "connect")),
        (unsent(), unsent(), says(404), ("b", "connect")),
        (says(503), says(503), says(401), ("b", 503)),
        (says(503), says(401), says(503), ("global", 503)),
        (says(503), says(404), says(503), ("global", 503)),
        (says(503), says(403), unsent(), ("a", 503)),
        (lost(), says(401), lost(), ("global", "reset")),
        (says(401), unsent(), unsent(), ("a", 401)),
        ([lost(reused=True), says(401)], unsent(), says(503), ("a", 401)),
        (says(500), unsent(), unsent(), ("a", 500)),
        (says(429, 5.0), unsent(), unsent(), ("a", 429)),
        (says(503), says(400), streams(), ("b", 400)),
        (spoils(Failure.TRUNCATED), spoils(Failure.EMPTY), unsent(), ("global", "connect")),
        (says(503), spoils(Failure.EMPTY), unsent(), ("a", 503)),
    ],
)
def test_the_most_telling_failure(
    build: Build, a: Outcome | Sequence[Outcome], b: Outcome, worldwide: Outcome, expected: tuple[str, int | str]
) -> None:
    end, _ = fly(build("a", "b"), STREAM, a=a, b=b, worldwide=worldwide)
    attempt = end.attempt
    if isinstance(end, Raise):
        assert (attempt.endpoint.name, str(attempt.failure)) == expected
    else:
        assert (attempt.endpoint.name, attempt.status) == expected


def test_a_failure_that_nobody_can_help_with_is_raised(build: Build) -> None:
    end, flight = fly(build("a", fallback=False), STREAM, a=lost())
    assert isinstance(end, Raise)
    assert flight.path == ["a"]


# --- cancellation --------------------------------------------------------------------------------------


def steps(exchange: Exchange, script: str) -> None:
    """Bring a fresh exchange into the state that is named."""
    command = exchange.start(1_000.0)
    assert isinstance(command, Send)
    attempt = command.attempt
    if script == "sent":
        return
    attempt.sent = True
    head = Answered(attempt, 200, None, event_stream=True, encoded=False)
    match script:
        case "held":
            assert isinstance(exchange.feed(head, 1_001.0), Hold)
        case "error held":
            assert isinstance(
                exchange.feed(Answered(attempt, 500, None, event_stream=False, encoded=False), 1_001.0), Hold
            )
        case "diverted":
            assert [rival.name for rival in command.rivals()] == ["b", "global"]
            exchange.feed(Diverted(attempt, "b"), 1_001.0)
        case "elsewhere":
            exchange.feed(Failed(attempt, Failure.RESET, ""), 1_001.0)
        case "delivered":
            exchange.feed(head, 1_001.0)
            assert isinstance(exchange.feed(Content(attempt), 1_002.0), Deliver)
        case "error delivered":
            exchange.feed(Answered(attempt, 400, None, event_stream=False, encoded=False), 1_001.0)
            assert isinstance(exchange.feed(Whole(attempt), 1_002.0), Deliver)
        case "settled":
            exchange.feed(head, 1_001.0)
            exchange.feed(Content(attempt), 1_002.0)
            exchange.settle(attempt, "complete", 1_003.0)
        case _:
            raise AssertionError(script)


@pytest.mark.parametrize(
    "state", ["sent", "held", "error held", "diverted", "elsewhere", "delivered", "error delivered", "settled"]
)
def test_cancellation_leaves_nothing_behind(build: Build, state: str) -> None:
    world = build()
    exchange = world.begin(STREAM)
    steps(exchange, state)
    before = [world.failures(name) for name in "ab"]
    for now in (1_010.0, 1_011.0):  # twice is harmless
        exchange.cancel(now)
        assert world.in_flight() == 0
    assert [world.failures(name) for name in "ab"] == before  # nothing is learned
    over = [attempt for attempt in exchange.attempts if attempt.ended == 1_010.0]
    assert all(attempt.failure is Failure.CANCELLED for attempt in over)
    assert len(over) == (state not in ("error delivered", "settled"))


def test_before_it_started_there_is_nothing_to_cancel(build: Build) -> None:
    world = build()
    world.begin(STREAM).cancel(1.0)
    assert world.in_flight() == 0


def test_every_departure_has_its_arrival() -> None:
    fleet = PlainFleet([route("a"), route("b")])
    fly(fleet, STREAM, a=[lost(reused=True), says(503)], b=diverted("global"), worldwide=streams())
    assert fleet.departures == len(fleet.endings) == 4
    assert fleet.endings == [("a", None), ("a", "discarded"), ("b", "diverted"), ("global", "complete")]
    assert fleet.learned == ["global"]
