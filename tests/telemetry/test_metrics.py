"""Metrics."""

import gc
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import smartroute.policy.exchange
from smartroute.config import Config
from smartroute.events import BreakerChanged, ConnectivityChanged, IncumbentChanged, ProbeEnded
from smartroute.policy.outcome import Failure
from smartroute.route import Kind, RouteStatus
from smartroute.router import Router
from smartroute.telemetry.instruments import STATES
from smartroute.telemetry.metrics import SECOND_ATTEMPTS, Metrics
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
    assert backend.metric("smartroute.route.time_to_first_token") == [
        ({"smartroute.endpoint.name": "global", "smartroute.fallback": True}, 0.6)
    ]
    assert backend.metric("smartroute.fallbacks") == [({}, 1)]
    assert backend.metric("smartroute.breaker.transitions") == [(transition, 1)]


def test_what_is_in_flight(backend: Backend) -> None:
    def in_flight() -> dict[str, float]:
        return {
            labels["smartroute.endpoint.name"]: total
            for labels, total in backend.metric("smartroute.attempts.in_flight")
        }

    backend.feed(started(), sent(), sent(2, FRANKFURT), started(2), sent(exchange=2))
    assert in_flight() == {"us-arizona-1": 2, "frankfurt": 1}
    backend.feed(ended(), ended())
    assert in_flight() == {"us-arizona-1": 1, "frankfurt": 1}
    backend.feed(done(), done(exchange=2))  # nobody saw the end of the others
    assert in_flight() == {"us-arizona-1": 0, "frankfurt": 0}


def test_attempts_that_were_made_because_of_another_are_counted_by_their_reason(backend: Backend) -> None:
    backend.feed(started(), sent(), sent(2, FRANKFURT, reason="rescue"), sent(3, GLOBAL, reason="failover"), done())

    assert backend.metric("smartroute.failovers") == [
        ({"smartroute.endpoint.name": "frankfurt", "smartroute.reason": "rescue"}, 1),
        ({"smartroute.endpoint.name": "global", "smartroute.reason": "failover"}, 1),
    ]


def test_every_reason_is_one_of_a_first_attempt_or_of_a_second() -> None:
    """The policy's words, read off its source: a new one must be counted, or be known to be a first attempt's."""
    source = Path(smartroute.policy.exchange.__file__).read_text()
    sent_for = set(re.findall(r'self\._send\([^\n]*?"(\w+)"', source)) | {"rescue", "failover"}
    assert sent_for == SECOND_ATTEMPTS | {"connection_race"}  # before which nothing was sent


def test_moves_of_the_default_route_are_counted(backend: Backend) -> None:
    backend.feed(IncumbentChanged(None, ARIZONA), IncumbentChanged(ARIZONA, FRANKFURT))

    assert backend.metric("smartroute.incumbent.changes") == [
        ({"smartroute.endpoint.name": "us-arizona-1"}, 1),
        ({"smartroute.endpoint.name": "frankfurt"}, 1),
    ]


def test_an_error_of_the_global_endpoint_is_no_fallback(backend: Backend) -> None:
    failed = ended(endpoint=GLOBAL, status=503, failure=Failure.STATUS, stream="discarded")
    backend.feed(started(), sent(endpoint=GLOBAL), failed, done("failed", GLOBAL, fallback=True))

    assert backend.metric("smartroute.fallbacks") == [({}, 0)]


def test_a_failed_call_says_by_what(backend: Backend) -> None:
    backend.feed(started(), sent(), refused(), done("failed", None))

    ((labels, _),) = backend.metric("smartroute.route.duration")
    assert (labels["smartroute.outcome"], labels["error.type"]) == ("failed", "connect")


def test_offline_is_a_state_and_starts_at_none(backend: Backend) -> None:
    offline, online = ConnectivityChanged(online=False), ConnectivityChanged(online=True)
    backend.status = (known(),)
    counts = []
    for event in (online, offline, offline, online, online, offline):
        backend.feed(event)
        ((_, count),) = backend.metric("smartroute.offline")
        counts.append(count)
    assert counts == [0, 1, 1, 0, 0, 1]
    backend.status = ()  # the router was closed
    ((_, count),) = backend.metric("smartroute.offline")
    assert count == 0


# --- Gauges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "closed"),
        ({"state": "open"}, "open"),
        ({"state": "half_open"}, "half_open"),
        ({"suspect": True}, "suspect"),
        ({"suspect": True, "state": "open"}, "open"),
        ({"cooldown": 3.0}, "cooldown"),
        ({"quarantine": "key refused"}, "quarantine"),
        ({"quarantine": "model not found", "cooldown": 3.0, "state": "open"}, "open"),
        ({"drained": True, "quarantine": "key refused"}, "drained"),
    ],
)
def test_a_route_is_in_one_state(backend: Backend, facts: dict[str, Any], state: str) -> None:
    backend.status = (known(**facts),)
    backend.feed(started(), done())  # the first event makes the instruments

    series = {labels["smartroute.state"]: value for labels, value in backend.metric("smartroute.route.state")}
    assert series == {each: int(each == state) for each in STATES}


def test_what_is_known_of_a_route(backend: Backend) -> None:
    backend.status = known(), known(name="frankfurt", round_trip=None, first_token=None)
    backend.budgets = {"replay": 9.5}
    backend.feed(started(), done())

    name = {"smartroute.endpoint.name": "us-arizona-1"}
    assert backend.metric("smartroute.route.round_trip") == [(name, 0.02)]
    assert backend.metric("smartroute.route.first_token") == [(name, 0.2)]
    assert backend.metric("smartroute.budget.tokens") == [({"smartroute.budget": "replay"}, 9.5)]


def test_a_real_router_is_seen(backend: Backend) -> None:
    router = Router(Config([ARIZONA, FRANKFURT], hedge=True))
    metrics = Metrics(backend.meters, router.status, router.budgets)
    metrics.incumbent_changed(IncumbentChanged(None, ARIZONA))

    states = {labels["smartroute.endpoint.name"] for labels, _ in backend.metric("smartroute.route.state")}
    assert states == {"us-arizona-1", "frankfurt"}
    assert {labels["smartroute.budget"] for labels, _ in backend.metric("smartroute.budget.tokens")} == {
        "replay",
        "hedge",
    }


def test_several_routers_share_the_instruments_of_a_provider_and_none_is_kept_alive(backend: Backend) -> None:
    move = IncumbentChanged(None, ARIZONA)
    one, other = (Metrics(backend.meters, partial(tuple, [known(name=name)]), dict) for name in ("one", "other"))
    one.incumbent_changed(move)
    other.incumbent_changed(move)
    both = {labels["smartroute.endpoint.name"] for labels, _ in backend.metric("smartroute.route.round_trip")}
    assert both == {"one", "other"}
    del other
    gc.collect()
    assert [labels for labels, _ in backend.metric("smartroute.route.round_trip")] == [
        {"smartroute.endpoint.name": "one"}
    ]


def test_of_equal_names_in_several_routers_the_worst_is_shown(backend: Backend) -> None:
    ill, well = known(state="open"), known()
    routers = [Metrics(backend.meters, partial(tuple, [each]), dict) for each in (well, ill, well)]
    for metrics, tokens in zip(routers, (9.0, 1.0, 9.0), strict=True):
        metrics.budgets = partial(dict, replay=tokens)
        metrics.incumbent_changed(IncumbentChanged(None, ARIZONA))
    series = {labels["smartroute.state"]: value for labels, value in backend.metric("smartroute.route.state")}
    assert (series["open"], series["closed"]) == (1, 0)
    assert backend.metric("smartroute.budget.tokens") == [({"smartroute.budget": "replay"}, 1.0)]


def known(**facts: Any) -> RouteStatus:
    healthy: dict[str, Any] = {
        "name": "us-arizona-1",
        "kind": Kind.DIRECT,
        "region": "US_ARIZONA_1",
        "url": ARIZONA.url,
        "state": "closed",
        "since": 60.0,
        "round_trip": 0.02,
        "first_token": 0.2,
        "in_flight": 0,
        "limit": 10,
        "factor": 1.0,
        "requests": 5,
        "failures": 0,
        "last_failure": None,
        "next_probe": 3.0,
        "cooldown": 0.0,
        "quarantine": None,
        "suspect": False,
        "incumbent": True,
        "drained": False,
    }
    return RouteStatus(**healthy | facts)


@pytest.mark.parametrize(
    ("failure", "stream", "outcome"),
    [
        (None, "closed", "answered"),
        (Failure.CANCELLED, None, "cancelled"),
        (Failure.TRUNCATED, "interrupted", "interrupted"),
        (Failure.EMPTY, "discarded", "failed"),
        (None, "superseded", "superseded"),
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
