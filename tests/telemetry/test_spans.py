"""The span tree: names, attributes, events and statuses."""

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from smartroute.events import AttemptOverdue, BreakerChanged, Cooled, PassedThrough, Quarantined
from smartroute.policy.outcome import Failure
from smartroute.policy.selection import Candidate
from tests.telemetry.kit import (
    ARIZONA,
    FRANKFURT,
    GLOBAL,
    Backend,
    at,
    done,
    ended,
    refused,
    sent,
    started,
    traceparent,
    verified,
    verifying,
)


def test_a_healthy_call(backend: Backend) -> None:
    backend.feed(started(), sent(), ended(headers=(("x-request-id", "r1"), ("via", "a"), ("via", "b"))), done())

    attempt, route = backend.spans
    assert (route.name, route.kind, route.parent) == ("smartroute.route", SpanKind.INTERNAL, None)
    assert (attempt.name, attempt.kind, attempt.parent) == ("POST", SpanKind.CLIENT, route.get_span_context())
    assert dict(route.attributes or {}) == {
        "gen_ai.request.model": "llama",
        "smartroute.exchange": 1,
        "smartroute.path": "/chat/completions",
        "smartroute.streaming": True,
        "smartroute.candidates": (
            "us-arizona-1",
            "frankfurt",
            "global",
        ),
        "smartroute.outcome": "answered",
        "smartroute.endpoint.name": "us-arizona-1",
        "smartroute.fallback": False,
        "smartroute.attempts": 1,
        "smartroute.delivered.attempt": 1,
        "smartroute.time_to_first_token": 0.6,
    }
    assert dict(attempt.attributes or {}) == {
        "http.request.method": "POST",
        "server.address": "acme-abcd1234.us-arizona-1.direct.fireworks.ai",
        "server.port": 443,
        "url.full": "https://acme-abcd1234.us-arizona-1.direct.fireworks.ai/v1/chat/completions",
        "http.response.status_code": 200,
        "http.response.header.x-request-id": ("r1",),
        "http.response.header.via": ("a", "b"),
        "smartroute.model": "llama-sent",
        "smartroute.attempt": 1,
        "smartroute.reason": "best",
        "smartroute.explanation": str(started().candidates[0]),
        "smartroute.connection.reused": False,
        "smartroute.time_to_send": 0.125,
        "smartroute.endpoint.name": "us-arizona-1",
        "smartroute.endpoint.kind": "direct",
        "smartroute.endpoint.region": "US_ARIZONA_1",
        "smartroute.time_to_first_byte": 0.25,
        "smartroute.time_to_first_token": 0.5,
        "smartroute.stream.outcome": "complete",
        "smartroute.stream.size": 321,
        "smartroute.stream.chunks": 7,
    }
    assert [(event.name, dict(event.attributes or {})) for event in route.events] == [
        (
            "smartroute.decision",
            {
                "smartroute.reason": "best",
                "smartroute.endpoint.name": "us-arizona-1",
                "smartroute.explanation": tuple(str(each) for each in started().candidates),
            },
        )
    ]
    assert [span.status.status_code for span in backend.spans] == [StatusCode.UNSET, StatusCode.UNSET]


def test_a_failover(backend: Backend) -> None:
    backend.feed(
        started(),
        sent(),
        refused(),
        BreakerChanged(ARIZONA, "closed", "open", "connect", exchange=1),
        sent(2, FRANKFURT, reason="failover"),
        ended(2, FRANKFURT, status=503, failure=Failure.STATUS, stream="discarded"),
        sent(3, GLOBAL, reason="failover"),
        ended(3, GLOBAL),
        done(endpoint=GLOBAL, attempts=3, fallback=True),
    )

    first, second, third = (dict(span.attributes or {}) for span in backend.attempts)
    assert "http.request.resend_count" not in first
    assert "http.response.status_code" not in first
    assert (first["error.type"], first["smartroute.failure.class"]) == ("connect", "connect")
    assert (second["error.type"], second["smartroute.failure.class"]) == ("503", "status")
    assert (second["server.address"], second["server.port"]) == ("127.0.0.1", 8080)
    assert (second["http.request.resend_count"], third["http.request.resend_count"]) == (1, 2)
    assert (third["smartroute.reason"], third["smartroute.endpoint.kind"]) == ("failover", "global")
    assert [(span.status.status_code, span.status.description) for span in backend.spans] == [
        (StatusCode.ERROR, "the connection was refused"),
        (StatusCode.ERROR, None),
        (StatusCode.UNSET, None),
        (StatusCode.UNSET, None),  # the caller got an answer
    ]
    decision, transition = backend.route.events
    assert decision.name == "smartroute.decision"
    assert transition.name == "smartroute.breaker.transition"
    assert dict(transition.attributes or {}) == {
        "smartroute.endpoint.name": "us-arizona-1",
        "smartroute.breaker.before": "closed",
        "smartroute.breaker.after": "open",
        "smartroute.breaker.cause": "connect",
    }


def test_a_failed_call(backend: Backend) -> None:
    backend.feed(started(), sent(), refused(), done("failed", None))

    assert backend.route.status.status_code is StatusCode.ERROR
    assert backend.route.status.description == "failed: connect"
    assert (backend.route.attributes or {})["error.type"] == "connect"
    assert "smartroute.endpoint.name" not in (backend.route.attributes or {})


def test_a_failed_call_without_any_attempt(backend: Backend) -> None:
    backend.feed(started(model=None), done("failed", None, attempts=0))

    assert (backend.route.attributes or {})["error.type"] == "_OTHER"
    assert "gen_ai.request.model" not in (backend.route.attributes or {})


def test_the_callers_own_mistake_is_an_error_of_the_attempt_alone(backend: Backend) -> None:
    backend.feed(started(), sent(), ended(status=400), done())

    (attempt,) = backend.attempts
    assert attempt.status.status_code is StatusCode.ERROR
    assert (attempt.attributes or {})["error.type"] == "400"
    assert backend.route.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("status", [None, 200, 503])
def test_cancelled_by_the_caller_is_no_error(backend: Backend, status: int | None) -> None:
    cancelled = ended(status=status, failure=Failure.CANCELLED, detail="cancelled", stream="closed" if status else None)
    backend.feed(started(), sent(), cancelled, done("cancelled", None))

    for span in backend.spans:
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in (span.attributes or {})
    assert (backend.attempts[0].attributes or {})["smartroute.failure.class"] == "cancelled"


def test_an_interrupted_stream(backend: Backend) -> None:
    cut = ended(failure=Failure.TRUNCATED, detail="the stream ended early", stream="interrupted")
    backend.feed(started(), sent(), cut, done("interrupted"))

    (attempt,) = backend.attempts
    assert (attempt.attributes or {})["http.response.status_code"] == 200
    assert (attempt.attributes or {})["smartroute.stream.outcome"] == "interrupted"
    assert (attempt.attributes or {})["error.type"] == "truncated"
    assert attempt.status.description == "the stream ended early"
    assert backend.route.status.status_code is StatusCode.ERROR
    assert (backend.route.attributes or {})["error.type"] == "truncated"


def test_an_answer_that_is_not_streamed_has_no_first_token(backend: Backend) -> None:
    backend.feed(started(streaming=False), sent(), ended(), done())

    assert "smartroute.time_to_first_token" not in (backend.attempts[0].attributes or {})
    assert backend.metric("smartroute.time_to_first_token") == []


def test_a_breaker_moved_by_a_probe_or_by_an_exchange_long_over_is_on_no_span(backend: Backend) -> None:
    backend.feed(started(), BreakerChanged(FRANKFURT, "open", "half_open", "probe", None), done(attempts=0))
    backend.feed(BreakerChanged(FRANKFURT, "half_open", "closed", "trial", 1))

    assert [event.name for event in backend.route.events] == ["smartroute.decision"]
    assert sum(total for _, total in backend.metric("smartroute.breaker.transitions")) == 2


def test_each_attempt_says_what_was_known_of_its_endpoint_when_it_was_chosen(backend: Backend) -> None:
    later = Candidate(FRANKFURT, 0.09, "closed", "next")
    backend.feed(started(), sent(), refused(), sent(2, FRANKFURT, reason="failover", candidate=later), ended(2), done())

    first, second = (dict(span.attributes or {}) for span in backend.attempts)
    assert first["smartroute.explanation"] == str(started().candidates[0])
    assert second["smartroute.explanation"] == str(later)


def test_a_hedge_and_what_it_beat_are_told_apart(backend: Backend) -> None:
    beaten, won = ended(status=None, stream="superseded"), ended(2, FRANKFURT)
    backend.feed(started(), sent(), sent(2, FRANKFURT, reason="hedge"), beaten, won, done(attempts=2))

    loser, winner = (dict(span.attributes or {}) for span in backend.attempts)
    assert loser["smartroute.stream.outcome"] == "superseded"
    assert (winner["smartroute.stream.outcome"], winner["smartroute.reason"]) == ("complete", "hedge")
    assert (backend.route.attributes or {})["smartroute.delivered.attempt"] == winner["smartroute.attempt"] == 2


def test_the_error_of_a_failed_call_is_that_of_the_answer_which_the_caller_got(backend: Backend) -> None:
    saturated = ended(status=429, failure=Failure.STATUS, stream="discarded")
    worse = ended(2, FRANKFURT, status=503, failure=Failure.STATUS, stream="discarded")
    over = done("failed", ARIZONA, attempts=2, delivered=1)
    backend.feed(started(), sent(), saturated, sent(2, FRANKFURT), worse, over)

    assert (backend.route.attributes or {})["error.type"] == "429"
    assert backend.route.status.description == "failed: 429"


def test_a_failed_call_says_why_nobody_else_was_asked(backend: Backend) -> None:
    stopped = done("failed", ARIZONA)._replace(stopped="budget")
    backend.feed(started(), sent(), refused(), stopped)

    assert (backend.route.attributes or {})["smartroute.stopped"] == "budget"


def test_a_route_that_is_left_alone_is_an_event_of_what_caused_it(backend: Backend) -> None:
    backend.feed(started(), Cooled(ARIZONA, 429, 5.0, 1), Quarantined(FRANKFURT, 401, None, 300.0, 1), done())
    backend.feed(Cooled(ARIZONA, 429, 5.0, None))

    told = [dict(event.attributes or {}) for event in backend.route.events if event.name == "smartroute.route.avoided"]
    assert told == [
        {
            "smartroute.endpoint.name": "us-arizona-1",
            "smartroute.reason": "cooldown",
            "smartroute.seconds": 5.0,
            "http.response.status_code": 429,
        },
        {
            "smartroute.endpoint.name": "frankfurt",
            "smartroute.reason": "quarantine",
            "smartroute.seconds": 300.0,
            "http.response.status_code": 401,
        },
    ]


def test_an_attempt_that_is_overdue_says_so_in_its_span(backend: Backend) -> None:
    overdue = AttemptOverdue(1, 1, ARIZONA, 0.5)
    backend.feed(overdue, started(), sent(), overdue, ended(), overdue, done())

    (event,) = backend.attempts[0].events
    assert (event.name, dict(event.attributes or {})) == ("smartroute.overdue", {"smartroute.waited": 0.5})


def test_a_verification_is_in_the_tree_of_the_exchange_that_asked_for_it(backend: Backend) -> None:
    headers: list[tuple[bytes, bytes]] = []
    failed = verified(failure="read_timeout", detail="read_timeout", status=None)
    opening = BreakerChanged(ARIZONA, "closed", "open", "silence: 2 verifications failed", None, verification=1)
    backend.feed(started(), sent(), verifying(headers=headers), opening, failed, ended(), done())

    span = backend.named("GET")
    assert (span.kind, span.parent, span.links) == (SpanKind.CLIENT, backend.route.get_span_context(), ())
    assert headers == [(b"traceparent", traceparent(span))]
    assert dict(span.attributes or {}) == {
        "http.request.method": "GET",
        "server.address": "acme-abcd1234.us-arizona-1.direct.fireworks.ai",
        "server.port": 443,
        "url.full": "https://acme-abcd1234.us-arizona-1.direct.fireworks.ai/v1/models",
        "smartroute.reason": "verification",
        "smartroute.endpoint.name": "us-arizona-1",
        "smartroute.endpoint.kind": "direct",
        "smartroute.endpoint.region": "US_ARIZONA_1",
        "error.type": "read_timeout",
        "smartroute.failure.class": "read_timeout",
    }
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "read_timeout")
    (event,) = span.events
    assert event.name == "smartroute.breaker.transition"


def test_a_verification_that_was_answered(backend: Backend) -> None:
    backend.feed(started(), verifying(), verified(), done())

    attributes = backend.named("GET").attributes or {}
    assert (attributes["http.response.status_code"], attributes["smartroute.round_trip"]) == (200, 0.04)
    assert backend.named("GET").status.status_code is StatusCode.UNSET


def test_a_verification_that_was_answered_by_an_error(backend: Backend) -> None:
    backend.feed(started(), verifying(), verified(failure="503", status=503), done())

    attributes = backend.named("GET").attributes or {}
    assert (attributes["error.type"], attributes["smartroute.failure.class"]) == ("503", "status")
    assert backend.named("GET").status.description == "status 503"


def test_others_that_wait_for_a_verification_are_linked(backend: Backend) -> None:
    backend.feed(started(1), started(2), started(3), verifying(exchanges=(1, 2)), done(exchange=2))
    backend.feed(verified(exchanges=(1, 2, 3)), done(exchange=1), done(exchange=3))

    first, third = (
        span for span in backend.spans if span.name == "smartroute.route" and at(span) != at(backend.spans[0])
    )
    span = backend.named("GET")
    assert span.parent == first.get_span_context()
    assert [link.context for link in span.links] == [third.get_span_context()]


def test_a_verification_outlives_its_exchange(backend: Backend) -> None:
    backend.feed(started(), verifying(), done())
    assert [span.name for span in backend.spans] == ["smartroute.route"]
    backend.feed(verified(), verified())
    assert [span.name for span in backend.spans] == ["smartroute.route", "GET"]


def test_a_verification_of_exchanges_that_are_over_makes_no_span(backend: Backend) -> None:
    backend.feed(verifying(exchanges=(8, 9)), verified(exchanges=(8, 9)))
    assert backend.spans == ()


def test_a_verification_that_was_given_up_is_no_error(backend: Backend) -> None:
    backend.feed(started(), verifying(), verified(failure="cancelled", status=None), done())

    assert backend.named("GET").status.status_code is StatusCode.UNSET
    assert "error.type" not in (backend.named("GET").attributes or {})
    assert backend.metric("smartroute.probe.failures") == []


def test_a_url_shows_no_user_name_password_query_or_fragment(backend: Backend) -> None:
    backend.feed(started(), sent(url="https://user:hunter2@[2001:db8::1]:8443/v1/chat?key=hunter2#hunter2"), done())

    attributes = backend.attempts[0].attributes or {}
    assert attributes["url.full"] == "https://[2001:db8::1]:8443/v1/chat"
    assert (attributes["server.address"], attributes["server.port"]) == ("2001:db8::1", 8443)


def test_what_passes_through_is_an_event_of_the_callers_own_span(backend: Backend) -> None:
    passed = PassedThrough("/chat/completions", "its body cannot be sent again")
    backend.feed(passed)  # there is no span
    with backend.tracers.get_tracer("app").start_as_current_span("the caller's"):
        backend.feed(passed)
    (span,) = backend.spans
    (event,) = span.events
    assert (event.name, dict(event.attributes or {})) == (
        "smartroute.passed_through",
        {"url.path": "/chat/completions", "smartroute.reason": "its body cannot be sent again"},
    )
