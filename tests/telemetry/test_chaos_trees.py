"""The trace of each call of the chaos suite tells all of it; and that is noticed where it does not.

What the trees have to tell stands in `benchmarks.chaos.traces`; every call that `tests/transport/test_chaos.py` and
`make chaos` play is held to it. Here are the outcomes that no fault of theirs has, and trees with something wrong.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from benchmarks.chaos.clients import Call
from benchmarks.chaos.traces import Received, Traces, Tree, flaws
from smartroute import Config, Route, Router
from smartroute.events import AttemptEnded, AttemptStarted, BreakerChanged, Event
from smartroute.policy.outcome import Failure
from smartroute.testing import Region, Seen, Silence, Stall
from tests.policy.driving import STREAM as ASKED
from tests.telemetry.kit import (
    ARIZONA,
    FRANKFURT,
    Backend,
    done,
    ended,
    refused,
    sent,
    started,
    verified,
    verifying,
)
from tests.transport.kit import ASYNC, CALLERS, STREAM, AsyncCaller, Caller, eventually, measure

# Outcomes that the chaos suite does not have


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest) -> Iterator[Caller]:
    kind, family = CALLERS[request.param]
    made: Caller = kind(family)
    yield made
    made.finish()


@contextmanager
def near_and_far(backend: Backend, caller: Caller, **settings: Any) -> Iterator[tuple[Region, Region, Any]]:
    """Two regions, and a client that has measured them; what it does is exported to the backend."""
    with Region("near") as near, Region("far") as far:
        routes = [Route(region.url, name=region.name, api_key="fake-key") for region in (near, far)]
        client = measure(caller.client(Config(routes, global_url="off", probe_interval=0, **settings)))
        client.router.subscribe(backend.telemetry)
        yield near, far, client
        caller.close(client)


def told(span: ReadableSpan, *names: str) -> list[Any]:
    return [(span.attributes or {}).get(f"smartroute.{name}") for name in names]


@pytest.mark.parametrize("winner", ["near", "far"])
def test_of_two_that_race_it_is_told_which_one_won(backend: Backend, caller: Caller, winner: str) -> None:
    with near_and_far(backend, caller, hedge=True) as (near, far, client):
        patience = client.router._patience
        for baseline in (patience.baseline, patience._whole):
            for _ in range(5):
                baseline.learn(ASKED.model, 100, 0.05, 0.0, 0.0)
        if winner == "near":
            near.latency = 0.6
            far.set(Silence())
        else:
            near.set(Silence())
        reply = caller.ask(caller.sdk(client, near.url, api_key="fake-key"), stream=True)
        assert (reply.route, reply.attempts) == (winner, "2")
        assert eventually(lambda: len(backend.spans) == 3)

    first, second = sorted(backend.attempts, key=lambda span: span.start_time or 0)
    won, lost = (first, second) if winner == "near" else (second, first)
    assert told(second, "reason", "endpoint.name") == ["hedge", "far"]
    assert told(won, "stream.outcome") == ["complete"]
    assert told(lost, "stream.outcome") == ["superseded"]
    assert told(backend.route, "outcome", "endpoint.name") == ["answered", winner]
    assert told(backend.route, "delivered.attempt") == told(won, "attempt")
    assert {span.status.status_code for span in backend.spans} == {StatusCode.UNSET}  # nobody is to blame


@ASYNC
def test_a_call_that_is_cancelled_is_no_error(backend: Backend, caller: AsyncCaller) -> None:
    with near_and_far(backend, caller) as (near, _, client):
        near.set(Silence())
        sdk = caller.sdk(client, near.url, api_key="fake-key")
        call = caller.submit(sdk.chat.completions.create, **STREAM)
        assert eventually(lambda: near.requests)
        call.cancel()
        assert eventually(lambda: len(backend.spans) == 2)

    (attempt,) = backend.attempts
    assert told(backend.route, "outcome", "attempts", "delivered.attempt") == ["cancelled", 1, None]
    assert told(attempt, "failure.class") == ["cancelled"]
    for span in backend.spans:
        assert (span.status.status_code, (span.attributes or {}).get("error.type")) == (StatusCode.UNSET, None)


def test_a_stream_that_is_forgotten_ends_its_spans_once(backend: Backend, caller: Caller) -> None:
    with near_and_far(backend, caller) as (near, _, client):
        near.set(Stall(3))
        response = caller.send(client, "POST", f"{near.url}/chat/completions", json=STREAM)
        chunks = caller.chunks(response)
        assert next(chunks)
        assert list(backend.spans) == []
        del response, chunks
        assert eventually(lambda: caller.forget() and len(backend.spans) == 2)

    (attempt,) = backend.attempts
    assert told(attempt, "stream.outcome", "failure.class") == ["closed", None]
    assert told(backend.route, "outcome", "delivered.attempt") == ["answered", 1]
    assert {span.status.status_code for span in backend.spans} == {StatusCode.UNSET}


# Trees with something wrong

ANSWERED = Call("call", first=0.1, route="frankfurt", attempts=2, text="an answer")
CUT = Call("call", first=0.1, route="us-arizona-1", attempts=1, error=httpx2.ReadError("cut"))
FAILED = Call("call", error=httpx2.ConnectError("refused"))
Change = Callable[[list[Event]], object]


def failed_over() -> list[Event]:
    return [
        started(),
        sent(),
        refused(),
        sent(2, FRANKFURT, reason="failover"),
        ended(2, FRANKFURT),
        done(endpoint=FRANKFURT, attempts=2),
    ]


def rescued() -> list[Event]:
    return [
        started(),
        sent(),
        verifying(),
        verified(failure="deadline", detail="deadline: no answer in 250 ms", status=None),
        sent(2, FRANKFURT, reason="rescue"),
        ended(status=None, failure=Failure.SILENCE, detail="no answer came", stream="superseded"),
        ended(2, FRANKFURT),
        done(endpoint=FRANKFURT, attempts=2),
    ]


def interrupted() -> list[Event]:
    cut = ended(failure=Failure.TRUNCATED, detail="the stream ended before it was complete", stream="interrupted")
    return [started(), sent(), cut, done("interrupted")]


def failed() -> list[Event]:
    return [started(), sent(), refused(), done("failed", None)]


def told_of(backend: Backend, call: Call, events: list[Event], *, lost: bool = False, stray: bool = False) -> list[str]:
    """What is found wrong when these things have happened.

    Args:
        lost: the servers saw no traceparent. `stray`: they saw somebody else's.
    """
    backend.feed(*events)
    answered = [event.attempt for event in events if isinstance(event, AttemptEnded) and event.status]
    received: list[Received] = []
    for event in events:
        if isinstance(event, AttemptStarted) and event.attempt in answered:
            headers = [] if lost else [(b"traceparent", b"00-1-2-01")] if stray else event.headers
            received.append((event.endpoint.name, Seen("POST", "/v1", headers, b"", 1, 0.0)))
    spans = sorted(backend.spans, key=lambda span: span.start_time or 0)
    tree = Tree(*([span for span in spans if span.name == name] for name in ("smartroute.route", "POST", "GET")))
    return list(flaws(call, tree, received))


@pytest.mark.parametrize(
    ("call", "story"), [(ANSWERED, failed_over), (ANSWERED, rescued), (CUT, interrupted), (FAILED, failed)]
)
def test_a_tree_that_tells_all_has_no_flaw(backend: Backend, call: Call, story: Callable[[], list[Event]]) -> None:
    assert told_of(backend, call, story()) == []


def put(place: int, **values: Any) -> Change:
    """Let something else have happened there."""

    def change(events: list[Event]) -> None:
        events[place] = events[place]._replace(**values)

    return change


def drop(*places: int) -> Change:
    """Let something not have happened."""

    def change(events: list[Event]) -> None:
        for place in sorted(places, reverse=True):
            del events[place]

    return change


@pytest.mark.parametrize(
    ("call", "story", "change", "flaw"),
    [
        (ANSWERED, failed_over, put(-1, outcome="failed"), "failed, but the caller saw it answered"),
        (ANSWERED, failed_over, put(-1, attempts=3), "3 attempts, 2 spans, the caller was told of 2"),
        (ANSWERED, failed_over, put(-1, endpoint=ARIZONA), "answered by us-arizona-1, but the caller was told"),
        (ANSWERED, failed_over, put(-1, delivered=1), "attempt 1 delivered, but the caller was told frankfurt"),
        (ANSWERED, failed_over, put(-1, delivered=None), "attempt None delivered"),
        (ANSWERED, failed_over, put(-1, fallback=True), "fallback: True, answered by frankfurt"),
        (ANSWERED, failed_over, put(2, detail=""), "connect is told in the words None"),
        (ANSWERED, failed_over, put(2, detail="connect"), "connect is told in the words 'connect'"),
        (ANSWERED, failed_over, put(2, failure=None), "neither delivered nor failed: None"),
        (ANSWERED, failed_over, drop(2), "neither delivered nor failed: None"),
        (ANSWERED, failed_over, put(3, reason="best"), "has the reason best, and nothing before it says why"),
        (ANSWERED, failed_over, put(3, reason="rescue"), "has the reason rescue, and nothing"),
        (ANSWERED, failed_over, put(3, reason="stale_connection"), "has the reason stale_connection, and nothing"),
        (ANSWERED, failed_over, put(3, reason="connection_race"), "has the reason connection_race, and nothing"),
        (ANSWERED, failed_over, put(3, reason="next_key"), "has the reason next_key, and nothing"),
        (ANSWERED, failed_over, put(3, attempt=3), "attempt 3 begins as number 2"),
        (ANSWERED, failed_over, put(3, candidate=started().candidates[0]), "frankfurt is explained by us-arizona-1"),
        (ANSWERED, failed_over, put(4, first_byte=0.1), "times that cannot be"),
        (ANSWERED, failed_over, put(0, candidates=started().candidates[:1]), "not each that was tried"),
        (ANSWERED, failed_over, put(0, reason="affinity"), "the first attempt is not what was decided"),
        (ANSWERED, failed_over, drop(0), "0 spans smartroute.route"),
        (ANSWERED, rescued, drop(2, 3), "has the reason rescue, and nothing before it says why"),
        (ANSWERED, rescued, put(5, failure=None, stream=None), "neither delivered nor failed: None"),
        (ANSWERED, rescued, put(3, failure=None), "neither answered nor failed"),
        (ANSWERED, rescued, put(3, detail=""), "deadline is told in the words None"),
        (CUT, interrupted, put(-1, outcome="answered"), "answered, but the caller saw it interrupted"),
        (CUT, interrupted, put(2, failure=None), "interrupted, but no error"),
        (FAILED, failed, put(-1, outcome="cancelled"), "failed with status StatusCode.UNSET and error type None"),
    ],
)
def test_a_flaw_is_found(
    backend: Backend, call: Call, story: Callable[[], list[Event]], change: Change, flaw: str
) -> None:
    events = story()
    change(events)
    assert any(flaw in found for found in told_of(backend, call, events))


def test_servers_have_to_see_the_attempts_that_reach_them(backend: Backend) -> None:
    found = told_of(backend, ANSWERED, failed_over(), lost=True)
    assert any("saw a POST of another trace (None)" in flaw for flaw in found)
    assert any("frankfurt saw a POST with its traceparent 0 times" in flaw for flaw in found)


def test_no_server_may_see_an_attempt_of_another_trace(backend: Backend) -> None:
    found = told_of(backend, ANSWERED, failed_over(), stray=True)
    assert any("frankfurt saw a POST of another trace (00-1-2-01)" in flaw for flaw in found)


def test_a_span_without_an_end_and_a_change_that_no_span_tells_of_are_flaws() -> None:
    traces = Traces()
    router = Router(Config([ARIZONA], global_url="off"))
    traces.watch(router)
    for event in (started(), sent(), BreakerChanged(ARIZONA, "closed", "open", "connect", exchange=99)):
        router._listeners.emit(event)
    move = ("us-arizona-1", "closed", "open", "connect")
    assert traces.flaws([]) == [f"no span tells of {move}", "2 spans have no end"]
    router._listeners.emit(done("cancelled", None))
    assert traces.open == 0
    router.close()
