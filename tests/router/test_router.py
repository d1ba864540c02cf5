"""The router: what it remembers, whom it ranks, what it tells."""

import json
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from smartroute.errors import ClosedError, NoRouteError, UnknownRouteError
from smartroute.events import (
    AttemptEnded,
    AttemptStarted,
    BreakerChanged,
    Event,
    ExchangeEnded,
    ExchangeStarted,
    IncumbentChanged,
    ProbeEnded,
    Quarantined,
)
from smartroute.policy.messages import Send
from smartroute.policy.selection import LEAST_GAIN
from smartroute.router import QUARANTINE, Router
from smartroute.testing import Clock
from tests.policy.driving import STREAM, Flight, Outcome, lost, measured, route, says, streams, unsent
from tests.router.kit import Make, begin, call, each, names, probe, reasons, send, set_out, status

# --- status --------------------------------------------------------------------------------------------


def test_the_status_of_a_new_router(make: Make, clock: Clock) -> None:
    router = make("b", "a", warm=False)
    clock.advance(5.0)
    first, second = router.status()
    assert (first.name, second.name) == ("b", "a")  # as configured
    assert (first.state, first.since, first.url) == ("closed", 5.0, "https://b.example/v1")
    assert (first.round_trip, first.first_token, first.last_failure, first.next_probe) == (None, None, None, None)
    assert (first.in_flight, first.requests, first.failures, first.cooldown) == (0, 0, 0, 0.0)
    assert (first.quarantine, first.incumbent, first.drained) == (None, False, False)


def test_the_status_tells_what_happened(make: Make, clock: Clock) -> None:
    router = make()
    send(router, a=says(503, 20.0), b=streams())
    clock.advance(2.0)
    a, b = router.status()
    assert (a.requests, a.failures, a.in_flight, b.requests, b.failures) == (1, 1, 0, 1, 0)
    assert a.last_failure is not None
    assert a.last_failure[0] == "status 503"
    assert a.last_failure[1] == pytest.approx(2.0, abs=0.01)
    assert a.cooldown == pytest.approx(18.0, abs=0.01)
    assert a.round_trip == pytest.approx(0.010)
    assert a.next_probe is not None
    exchange = begin(router)
    exchange.start(clock())
    assert status(router, "b").in_flight == 1
    exchange.cancel(clock())
    assert status(router, "b").in_flight == 0


def test_the_status_names_the_incumbent(make: Make) -> None:
    router = make()
    assert not any(each.incumbent for each in router.status())
    send(router, a=streams())
    assert [each.incumbent for each in router.status()] == [True, False]


def test_a_status_shows_no_key(make: Make) -> None:
    assert "fake-direct-key" not in repr(make().status())


# --- rank and pick -------------------------------------------------------------------------------------


def test_rank_shows_everybody_and_why(make: Make) -> None:
    router = make("a", "b", "c", "d")
    router.drain("a")
    probe(router, "c", failure="connect")
    assert names(router) == ["b", "d", "global", "c", "a"]
    assert reasons(router) == ["best", "next", "fallback", "last_resort", "drained"]
    picked = router.pick()
    assert picked is not None
    assert picked.name == "b"


def test_a_ranking_shows_no_key(make: Make) -> None:
    ranked = make().rank()
    assert [candidate.route.name for candidate in ranked] == ["a", "b", "global"]
    assert "fake-direct-key" not in json.dumps([candidate._asdict() for candidate in ranked], default=str)


def test_looking_changes_nothing(make: Make, clock: Clock) -> None:
    router = make()
    before = router.status()
    for _ in range(3):
        router.rank(conversation="c1")
        router.pick()
    assert router.status() == before


def test_pick_says_that_there_is_none(make: Make) -> None:
    router = make(global_url="off")
    assert router.pick() is not None
    router.drain("a")
    router.drain("b")
    assert router.pick() is None
    assert make(routes=[], global_url="off").pick() is None


def test_pick_never_names_a_route_in_a_region_that_is_not_allowed(make: Make) -> None:
    router = regional(make, regions=["EU_*"])
    router.drain("eu")
    assert reasons(router) == ["region", "drained"]
    assert router.pick() is None


def test_the_first_requests_race_because_nothing_is_known(make: Make, clock: Clock) -> None:
    router = make("a", "b", warm=False)
    patience = []
    for seconds in (0.0, 0.5, 1.0):
        clock.advance(seconds)
        exchange = begin(router)
        command = exchange.start(clock())
        assert isinstance(command, Send)
        patience.append(command.patience)
        exchange.cancel(clock())
    assert patience == [0.0, 0.25, 0.0]  # not every one of a burst: they would open connections by the hundred


@pytest.mark.parametrize(
    ("tiers", "rivals", "patience"),
    [
        ({"a": 0, "b": 0, "c": 1}, ["b"], 0.0),
        ({"a": 1, "b": 0, "c": 1}, ["a", "c", "global"], 0.25),  # it goes there if the connection is slow to come
        ({"a": 1, "b": 1, "c": 1}, ["b", "c"], 0.0),
    ],
)
def test_the_first_requests_race_within_the_best_tier(
    make: Make, clock: Clock, tiers: dict[str, int], rivals: list[str], patience: float
) -> None:
    router = make(routes=[route(name, tier=tier) for name, tier in tiers.items()], warm=False)
    exchange = begin(router)
    command = exchange.start(clock())
    assert isinstance(command, Send)
    assert ([rival.name for rival in command.rivals()], command.patience) == (rivals, patience)
    exchange.cancel(clock())


def far_now(router: Router, name: str, seconds: float) -> None:
    """Probes have taken so long for a while."""
    for _ in range(200):
        measured(router, each(router, name), seconds)


def test_stickiness(make: Make, clock: Clock) -> None:
    router = make("a", "b")
    send(router, a=streams())
    far_now(router, "a", 20 * LEAST_GAIN)
    far_now(router, "b", 19.1 * LEAST_GAIN)  # better, but not worth a move
    assert set_out(begin(router), clock()).endpoint.name == "a"
    far_now(router, "b", 18.9 * LEAST_GAIN)
    assert set_out(begin(router), clock()).endpoint.name == "b"
    assert [status.incumbent for status in router.status()] == [False, True]
    far_now(router, "b", 20.9 * LEAST_GAIN)
    assert set_out(begin(router), clock()).endpoint.name == "b"
    far_now(router, "b", 21.1 * LEAST_GAIN)
    assert set_out(begin(router), clock()).endpoint.name == "a"


# --- drain and resume ----------------------------------------------------------------------------------


def test_a_drained_route_gets_no_requests_until_it_is_resumed(make: Make) -> None:
    router = make()
    flying = begin(router)
    attempt = set_out(flying, router.clock())
    router.drain("a")
    assert status(router, "a").drained
    assert send(router, b=streams()) == ["b"]
    assert attempt.ended is None  # what is on its way is not disturbed
    flying.cancel(router.clock())
    router.resume("a")
    assert send(router, a=streams(), b=streams()) == ["a"]


def test_resuming_ends_a_cooldown_and_a_quarantine(make: Make) -> None:
    router = make(routes=[route("a", keys="k1"), route("b", keys="k2")])
    send(router, a=says(401), b=streams())
    assert status(router, "a").quarantine
    send(router, b=says(429, 60.0), worldwide=streams())
    router.resume("a")
    router.resume("b")
    assert [(each.quarantine, each.cooldown) for each in router.status()] == [(None, 0.0)] * 2
    assert names(router)[:2] == ["a", "b"]


def test_no_such_route(make: Make) -> None:
    for act in (make().drain, make().resume):
        with pytest.raises(UnknownRouteError, match=r"'c'.*a, b"):
            act("c")


# --- events --------------------------------------------------------------------------------------------


def test_a_listener_hears_the_whole_story(make: Make) -> None:
    router, heard = make(), list[Event]()
    unsubscribe = router.subscribe(heard.append)
    send(router, a=unsent(), b=streams())
    assert [type(event) for event in heard] == [
        IncumbentChanged,
        ExchangeStarted,
        AttemptStarted,
        BreakerChanged,
        AttemptEnded,
        AttemptStarted,
        AttemptEnded,
        ExchangeEnded,
    ]
    numbers = {
        event.exchange
        for event in heard
        if isinstance(event, ExchangeStarted | AttemptStarted | AttemptEnded | ExchangeEnded | BreakerChanged)
    }
    assert len(numbers) == 1
    last = heard[-1]
    assert isinstance(last, ExchangeEnded)
    assert last.endpoint is not None
    assert (last.outcome, last.endpoint.name, last.attempts, last.fallback) == ("answered", "b", 2, False)
    unsubscribe()
    unsubscribe()
    told = len(heard)
    send(router, b=streams())
    assert len(heard) == told
    assert "fake-direct-key" not in repr(heard)


def test_events_show_no_key_to_whoever_walks_over_them(make: Make) -> None:
    router, heard = make(), list[Event]()
    router.subscribe(heard.append)
    send(router, a=unsent(), b=streams())
    probe(router, "b", failure="tls")
    kinds = {ExchangeStarted, AttemptStarted, AttemptEnded, ExchangeEnded, BreakerChanged, ProbeEnded, IncumbentChanged}
    assert {type(event) for event in heard} == kinds
    assert "fake-direct-key" not in json.dumps([event._asdict() for event in heard], default=str)


@pytest.mark.parametrize(("outcome", "resends"), [(unsent(), 0), (lost(), 1), (says(503), 1)])
def test_only_what_was_sent_is_sent_again(make: Make, outcome: Outcome, resends: int) -> None:
    router, heard = make(), list[Event]()
    router.subscribe(heard.append)
    assert send(router, a=outcome, b=streams()) == ["a", "b"]
    assert [event.resends for event in heard if isinstance(event, AttemptStarted)] == [0, resends]


def test_probes_are_told_of(make: Make) -> None:
    router, heard = make(), list[Event]()
    router.subscribe(heard.append)
    probe(router, "a", failure="tls")
    assert [type(event) for event in heard] == [BreakerChanged, ProbeEnded]
    changed, ended = heard
    assert isinstance(changed, BreakerChanged)
    assert (changed.before, changed.after, changed.cause, changed.exchange) == ("closed", "open", "tls", None)
    assert isinstance(ended, ProbeEnded)
    assert (ended.round_trip, ended.failure) == (None, "tls")


def test_every_change_of_health_is_told_of(make: Make, clock: Clock) -> None:
    router, heard = make("a", probe_interval=0), list[Event]()
    router.subscribe(heard.append)
    send(router, a=unsent(), worldwide=streams())
    clock.advance(60.0)
    send(router, a=streams())  # nobody probes: time has put it on trial
    changes = [(event.before, event.after) for event in heard if isinstance(event, BreakerChanged)]
    assert changes == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


def test_a_broken_listener_costs_nothing_and_is_logged_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    router, heard = make(), list[Event]()

    def broken(event: Event) -> None:
        raise RuntimeError("no collector")

    router.subscribe(broken)
    router.subscribe(heard.append)
    for _ in range(3):
        assert send(router, a=streams()) == ["a"]
    assert len(heard) == 1 + 3 * 4
    assert [record.getMessage().split(".")[0] for record in caplog.records] == ["A listener failed; requests go on"]
    assert all(each.in_flight == 0 for each in router.status())


def test_a_listener_may_fail_where_the_log_fails_too(make: Make) -> None:
    class Full(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the disk is full")

    def broken(event: Event) -> None:
        raise RuntimeError("no collector")

    router, full, logger = make(), Full(), logging.getLogger("smartroute")
    router.subscribe(broken)
    logger.addHandler(full)
    try:
        assert send(router, a=streams()) == ["a"]
    finally:
        logger.removeHandler(full)


def test_listeners_come_and_go_in_any_thread(make: Make) -> None:
    router, stay, all_here = make(), [list[Event]() for _ in range(20)], threading.Barrier(3)

    def come_and_go(_: int) -> None:
        all_here.wait(20)
        for _ in range(15_000):
            router.subscribe(lambda _: None)()

    often = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            for heard in stay:
                router.subscribe(heard.append)
            list(pool.map(come_and_go, range(3), timeout=60))
    finally:
        sys.setswitchinterval(often)
    assert router._listeners._all == tuple(heard.append for heard in stay)


@pytest.mark.parametrize("model", ["m\nWARNING All routes are down", "\x1b[2J", "\ud800", "m" * 100_000])
def test_a_model_is_told_as_text_that_can_be_shown(make: Make, model: str) -> None:
    """A line break would forge a line of the log, and the OTLP exporter cannot encode half a character."""
    router, heard = make(), list[Event]()
    router.subscribe(heard.append)
    send(router, call(model=model), a=streams())
    told = [event.model for event in heard if isinstance(event, ExchangeStarted | AttemptStarted)]
    assert len(told) == 2
    for name in told:
        assert name is not None
        assert name.encode().isascii()
        assert name.isprintable()
        assert len(name) <= 2_000
        assert name[:1] in ("m", "\\")


def test_a_listener_that_cannot_say_whether_it_is_active_costs_nothing(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        @property
        def active(self) -> bool:
            raise RuntimeError("no collector")

        def __call__(self, event: Event) -> None:
            raise RuntimeError("no collector")

    router, heard = make(), list[Event]()
    router.subscribe(Broken())
    assert send(router, a=streams()) == ["a"]  # with nobody else to listen
    router.subscribe(heard.append)
    for _ in range(3):
        assert send(router, a=streams()) == ["a"]
    assert len(heard) == 3 * 4
    assert [record.getMessage().split(".")[0] for record in caplog.records] == ["A listener failed; requests go on"]
    assert all(each.in_flight == 0 for each in router.status())


def test_where_nobody_is_active_no_events_are_made(make: Make) -> None:
    class Sleeper:
        active = False

        def __call__(self, event: Event) -> None:
            raise AssertionError

    router = make()
    router.subscribe(Sleeper())
    assert begin(router).number == 0


def test_a_listener_may_ask_the_router(make: Make) -> None:
    """No lock is held while it is told."""
    router = make()
    asked: list[int] = []
    router.subscribe(lambda _: asked.append(len(router.status() + router.rank())))
    send(router, a=unsent(), b=streams())
    assert len(asked) == 8


# --- sharing -------------------------------------------------------------------------------------------


def test_a_closed_router_takes_no_requests(make: Make) -> None:
    router = make()
    flying = begin(router)
    router.close()
    router.close()
    with pytest.raises(ClosedError):
        router.begin(STREAM)
    flying.start(router.clock())
    flying.cancel(router.clock())
    assert router.claim_probes(router) == ([], None)


# --- quarantine ----------------------------------------------------------------------------------------


def test_a_refused_key_is_avoided_for_five_minutes(make: Make, clock: Clock) -> None:
    router = make(routes=[route("a", keys="k1"), route("b", keys="k2")])
    send(router, a=says(401), b=streams())
    assert status(router, "a").quarantine == "key refused"
    assert reasons(router, model="other")[-1] == "quarantine"  # whatever the model
    clock.advance(QUARANTINE - 1.0)
    assert send(router, b=streams()) == ["b"]
    clock.advance(2.0)
    assert status(router, "a").quarantine is None
    assert send(router, a=streams(), b=streams())


def test_a_model_that_is_not_found_is_avoided_for_itself_alone(make: Make) -> None:
    router = make()
    send(router, a=says(404), b=streams())
    assert names(router, model="m")[0] == "b"
    assert names(router, model="other")[0] == "a"


@pytest.mark.parametrize(("code", "model"), [(401, None), (403, None), (404, "m")])
def test_a_quarantine_is_told(make: Make, code: int, model: str | None) -> None:
    router = make(routes=[route("a", keys="fake-1"), route("b", keys="fake-2")])
    told = quarantines(router)
    send(router, a=says(code), b=streams())
    assert [(event.route.name, event.status, event.model) for event in told] == [("a", code, model)]


def test_a_quarantine_is_told_once_for_a_route_with_two_bad_keys(make: Make) -> None:
    router = make(routes=[route("a", keys="fake-1,fake-2"), route("b", keys="fake-3")])
    told = quarantines(router)
    send(router, a=says(401), b=streams())
    assert len(told) == 1


def test_a_quarantine_is_told_once_for_requests_that_were_under_way_together(make: Make, clock: Clock) -> None:
    router = make(routes=[route("a", keys="fake-1"), route("b", keys="fake-2")])
    told = quarantines(router)
    flights = [Flight(begin(router), clock, {"a": says(401), "b": streams()}) for _ in range(5)]
    for flight in flights:
        flight.finish()
    assert len(told) == 1
    clock.advance(QUARANTINE + 1.0)
    Flight(begin(router), clock, {"a": says(401), "b": streams()}).finish()
    assert len(told) == 2  # another episode


def test_a_quarantine_tells_a_model_as_text_that_can_be_shown(make: Make) -> None:
    router = make()
    told = quarantines(router)
    send(router, call(model="m\n" * 10_000), a=says(404), b=streams())
    (event,) = told
    for name in (event.model, event.sent):
        assert name is not None
        assert name.isprintable()
        assert len(name) <= 2_000


def quarantines(router: Router) -> list[Quarantined]:
    told: list[Quarantined] = []
    router.subscribe(lambda event: told.append(event) if isinstance(event, Quarantined) else None)
    return told


# --- regions -------------------------------------------------------------------------------------------

EU, US = "EU_FRANKFURT_1", "US_OHIO_1"


def regional(make: Make, **options: Any) -> Router:
    unknown = [] if "regions" in options else [route("nowhere")]  # such a configuration is refused
    return make(routes=[route("us", region=US), route("eu", region=EU), *unknown], **options)


def test_regions_bind_selection_failover_and_global(make: Make) -> None:
    router = regional(make, regions=["eu-*"])
    assert send(router, eu=says(503)) == ["eu"]
    exchange = begin(router)
    command = exchange.start(router.clock())
    assert isinstance(command, Send)
    assert command.rivals() == ()
    exchange.cancel(router.clock())


def test_global_may_be_allowed_by_its_name(make: Make) -> None:
    router = regional(make, regions=["EU_*", "GLOBAL"])
    assert send(router, eu=says(503), worldwide=streams()) == ["eu", "global"]


def test_a_requests_own_regions_bind_it_further(make: Make) -> None:
    router = regional(make)
    assert send(router, us=says(503), eu=says(503), nowhere=streams()) == ["us", "eu", "nowhere"]
    assert send(router, call(regions=("eu-frankfurt-1",)), eu=says(503)) == ["eu"]
    strict = regional(make, regions=["EU_*"])
    with pytest.raises(NoRouteError):
        strict.begin(call(regions=("US_*",)))  # not less


@pytest.mark.parametrize("name", ["us", "nowhere", "global"])
def test_regions_bind_a_pinned_request(make: Make, name: str) -> None:
    router = regional(make, regions=["EU_*"])
    with pytest.raises(UnknownRouteError):
        router.begin(call(pinned=name))
    assert set_out(begin(router, pinned="eu"), 1.0).endpoint.name == "eu"
    with pytest.raises(UnknownRouteError):
        regional(make).begin(call(pinned=name, regions=("EU_*",)))


def test_regions_bind_a_conversation(make: Make) -> None:
    router = regional(make)
    assert send(router, call(conversation="c"), us=streams()) == ["us"]
    assert send(router, call(conversation="c", regions=("EU_*",)), eu=streams()) == ["eu"]


def test_no_route_says_why(make: Make) -> None:
    router = regional(make, global_url="off")
    router.drain("eu")
    with pytest.raises(NoRouteError) as caught:
        router.begin(call(regions=("EU_*",)))
    assert caught.value.reasons == (
        "us: its region US_OHIO_1 is not allowed (SMARTROUTE_REGIONS, x-smartroute-regions)",
        "eu: drained, until Router.resume",
        "nowhere: its region (unknown) is not allowed (SMARTROUTE_REGIONS, x-smartroute-regions)",
        "global: switched off (SMARTROUTE_GLOBAL_URL)",
    )
    with pytest.raises(NoRouteError, match=r"; global: its region GLOBAL is not allowed \(SMARTROUTE_REGIONS"):
        regional(make).begin(call(regions=("AP_*",)))


# --- models, keys, pins --------------------------------------------------------------------------------


def test_only_routes_that_serve_the_model_are_asked(make: Make) -> None:
    router = make(routes=[route("a", model={"m": "x"}), route("b", model={"n": "y"}), route("c")])
    assert names(router, model="m") == ["a", "c", "global"]
    assert names(router, model="n") == ["b", "c", "global"]
    assert names(router, model="o") == ["c", "global"]


def test_a_model_that_no_route_serves_passes_through(make: Make) -> None:
    router = make(routes=[route("a", model={"m": "x"})])
    assert router.begin(call(model="other")) is None
    assert router.begin(call(model=None)) is None
    assert make(routes=[]).begin(STREAM) is None


def test_a_pin_is_obeyed(make: Make) -> None:
    router = make()
    router.drain("b")
    assert send(router, call(pinned="b"), b=says(503)) == ["b"]
    assert send(router, call(pinned="global"), worldwide=streams()) == ["global"]
    with pytest.raises(UnknownRouteError, match=r"a, b, global"):
        router.begin(call(pinned="c"))


def test_the_callers_key_stays_with_the_route_it_was_for(make: Make) -> None:
    router = make()
    assert router.ranking(call(addressed="a"), 1_000.0)[-1].route.name == "b"  # global has no key of its own
    with pytest.raises(UnknownRouteError):
        router.begin(call(addressed="a", pinned="global"))
    keyed = make(global_api_key="fake-console-key")
    assert keyed.ranking(call(addressed="a"), 1_000.0)[-1].route.name == "global"


def test_keys(make: Make) -> None:
    router = make(routes=[route("a", keys="k1,k2"), route("b", keys="k1,k2"), route("c", keys="k3")])
    a, b, c = router.config.routes
    worldwide = router.config.global_route
    assert worldwide is not None
    assert [router.keys(call(), each) for each in (a, c, worldwide)] == [(2, 0), (1, 0), (1, 0)]
    assert router.key_order(a) == [0, 1]
    assert router.keys(call(addressed="a"), a) == (1, 0)  # the caller's own
    assert router.same_key(call(), a, b)
    assert not router.same_key(call(), a, c)
    assert not router.same_key(call(), a, worldwide)
    assert not router.same_key(call(addressed="a"), a, b)


def test_a_recovered_route_is_not_kept_waiting(make: Make, clock: Clock) -> None:
    router = make("near", "far", warm=False)
    near, far = router.config.routes
    measured(router, far, 0.060)
    assert send(router, far=streams()) == ["far"]
    measured(router, near, 0.035)  # better: a move
    assert send(router, near=streams()) == ["near"]
    probe(router, "near", failure="connect")
    assert send(router, far=streams()) == ["far"]
    for _ in range(2):
        clock.advance(1.5)
        probe(router, "near", seconds=0.035)
    assert send(router, near=streams()) == ["near"]
