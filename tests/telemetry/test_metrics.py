"""Metrics."""

import pytest

from smartroute.events import (
    BreakerChanged,
    ProbeEnded,
)
from smartroute.policy.outcome import Failure
from tests.telemetry.kit import ARIZONA, FRANKFURT, GLOBAL, Backend, done, ended, refused, sent, started


def test_metrics_of_a_failover(backend: Backend) -> None:
    backend.feed(
        started(),
        sent(),
        refused(),
        BreakerChanged(ARIZONA, "closed", "open", "connect", exchange=1),
        sent(2, GLOBAL, reason="failover"),
        ended(2, GLOBAL),
        done(endpoint=GLOBAL, attempts=2, fallback=True),
    )

    direct, fallback = (labels for labels, _ in backend.metric("http.client.request.duration"))
    assert direct == {
        "http.request.method": "POST",
        "server.address": "acme-abcd1234.us-arizona-1.direct.fireworks.ai",
        "server.port": 443,
        "smartroute.endpoint.name": "us-arizona-1",
        "error.type": "connect",
    }
    assert fallback == {
        "http.request.method": "POST",
        "server.address": "api.fireworks.ai",
        "server.port": 443,
        "smartroute.endpoint.name": "global",
        "http.response.status_code": 200,
    }
    exchange = {
        "smartroute.outcome": "answered",
        "smartroute.endpoint.name": "global",
        "smartroute.fallback": True,
        "smartroute.streaming": True,
    }
    transition = {
        "smartroute.endpoint.name": "us-arizona-1",
        "smartroute.breaker.before": "closed",
        "smartroute.breaker.after": "open",
    }
    assert backend.metric("smartroute.route.duration") == [(exchange, 1.5)]
    assert backend.metric("smartroute.time_to_first_token") == [({"smartroute.endpoint.name": "global"}, 0.5)]
    assert backend.metric("smartroute.attempts") == [
        ({"smartroute.endpoint.name": "us-arizona-1", "smartroute.outcome": "failed", "error.type": "connect"}, 1),
        ({"smartroute.endpoint.name": "global", "smartroute.outcome": "answered"}, 1),
    ]
    assert backend.metric("smartroute.fallbacks") == [({}, 1)]
    assert backend.metric("smartroute.breaker.transitions") == [(transition, 1)]


@pytest.mark.parametrize(
    ("failure", "stream", "outcome"),
    [
        (None, "closed", "answered"),
        (Failure.CANCELLED, None, "cancelled"),
        (Failure.TRUNCATED, "interrupted", "interrupted"),
        (Failure.EMPTY, "discarded", "failed"),
    ],
)
def test_outcomes_of_attempts(backend: Backend, failure: Failure | None, stream: str | None, outcome: str) -> None:
    backend.feed(started(), sent(), ended(failure=failure, stream=stream), done())

    ((labels, count),) = backend.metric("smartroute.attempts")
    assert (labels["smartroute.outcome"], count) == (outcome, 1)


def test_an_attempt_that_was_diverted_is_in_no_metric(backend: Backend) -> None:
    """Nothing was sent: another route's connection was ready first."""
    diverted = ended(status=None, stream="diverted")
    race = sent(2, FRANKFURT, reason="connection_race")
    backend.feed(started(), sent(), diverted, race, ended(2, FRANKFURT), done(endpoint=FRANKFURT))

    ((labels, count),) = backend.metric("smartroute.attempts")
    assert (labels["smartroute.endpoint.name"], count) == ("frankfurt", 1)
    ((labels, _),) = backend.metric("http.client.request.duration")
    assert labels["smartroute.endpoint.name"] == "frankfurt"
    assert [(span.attributes or {})["smartroute.stream.outcome"] for span in backend.attempts] == [
        "diverted",
        "complete",
    ]


def test_probes_are_measured_and_make_no_spans(backend: Backend) -> None:
    backend.feed(ProbeEnded(ARIZONA, 0.04, None), ProbeEnded(FRANKFURT, None, "connect"))

    assert backend.metric("smartroute.probe.duration") == [({"smartroute.endpoint.name": "us-arizona-1"}, 0.04)]
    assert backend.metric("smartroute.probe.failures") == [
        ({"smartroute.endpoint.name": "frankfurt", "error.type": "connect"}, 1)
    ]
    assert backend.spans == ()
