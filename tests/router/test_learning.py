"""What the router learns from answers, and what follows: load, recovery, looks at other routes, the incumbent."""

import pytest

from smartroute.events import Event, IncumbentChanged
from smartroute.policy.exploration import BREATH, PAUSE
from smartroute.policy.load import CUT, FIRST_LIMIT, RAMP, RAMP_FROM
from smartroute.policy.messages import Attempt
from smartroute.policy.messages import Event as Happening
from smartroute.policy.outcome import Failure
from smartroute.router import Router
from smartroute.testing import Clock
from tests.policy.driving import PLAIN, Outcome, measured, says, slowly, streams, unsent
from tests.router.kit import Make, begin, call, names, probe, reasons, send, set_out, status

USUAL = 0.3
WAYS = {"a": 0.010, "b": 0.150, "c": 0.040}
"""The round trips."""


def near(make: Make, *names: str) -> Router:
    router = make(*names, warm=False)
    for each in router.config.routes:
        measured(router, each, WAYS[each.name])
    return router


def answers(clock: Clock, service: float = USUAL) -> Outcome:
    """An answer that took so long beyond the way."""
    return lambda attempt: slowly(WAYS[attempt.endpoint.name] + service, clock, streams())(attempt)


def busy(router: Router, clock: Clock, count: int) -> None:
    """So many requests are sent, and not answered yet."""
    for _ in range(count):
        begin(router).start(clock())


@pytest.fixture
def router(make: Make, clock: Clock) -> Router:
    """A router that has sent some requests to each of its two routes, which answer alike."""
    router = near(make, "a", "b")
    for _ in range(20):
        for name in "ab":
            assert send(router, call(pinned=name), **{name: answers(clock)}) == [name]
            clock.advance(1.0)
    return router


# --- samples -------------------------------------------------------------------------------------------


def test_slow_answers_are_learned(router: Router, clock: Clock) -> None:
    assert status(router, "a").factor == pytest.approx(1.0, abs=0.2)
    assert names(router, model="m")[0] == "a"
    for _ in range(20):
        send(router, call(pinned="a"), a=answers(clock, 3 * USUAL))
        clock.advance(1.0)
    assert status(router, "a").factor > 2.0
    assert status(router, "b").factor == pytest.approx(1.0, abs=0.2)
    assert names(router, model="m")[0] == "b"


def test_a_sample_that_came_late_is_not_learned(router: Router, clock: Clock) -> None:
    """The event loop was blocked, or the machine asleep: nothing was measured but that."""

    def late(attempt: Attempt) -> list[Happening]:
        attempt.late = True
        return list(answers(clock, 9 * USUAL)(attempt))

    before = router._known["a"].latency.factor
    for _ in range(10):
        send(router, call(pinned="a"), a=late)
    assert router._known["a"].latency.factor == pytest.approx(before, rel=0.01)
    assert status(router, "a").failures == 0


def test_whole_answers_are_not_learned(router: Router, clock: Clock) -> None:
    before = router._known["a"].latency.factor
    for _ in range(10):
        send(router, call(pinned="a", streaming=False), a=slowly(60.0, clock, says(200)))
    assert router._known["a"].latency.factor == pytest.approx(before, rel=0.3)  # but for the minutes gone by


def test_a_queue_is_no_slow_route(router: Router, clock: Clock) -> None:
    before = router._known["a"].latency.factor
    busy(router, clock, int(FIRST_LIMIT))
    assert router._known["a"].load.busy
    for _ in range(10):
        send(router, call(pinned="a"), a=answers(clock, 9 * USUAL))
    assert router._known["a"].latency.factor == pytest.approx(before, rel=0.1)


# --- load ----------------------------------------------------------------------------------------------


def test_what_is_too_much_spills_over(make: Make, clock: Clock) -> None:
    router = make("a", "b")
    assert status(router, "a").limit == FIRST_LIMIT
    busy(router, clock, 3 * int(FIRST_LIMIT))
    assert status(router, "a").in_flight >= FIRST_LIMIT / 2
    assert status(router, "b").in_flight > 0
    assert status(router, "a").incumbent
    assert reasons(router)[0] == "spill" or names(router)[0] == "a"


def test_a_refusal_cuts_the_limit(make: Make, clock: Clock) -> None:
    router = make("a", "b")
    busy(router, clock, 9)
    assert send(router, a=says(429, 1.0), b=streams()) == ["a", "b"]
    assert status(router, "a").limit == int(CUT * 10)
    assert status(router, "a").cooldown > 0


def test_another_error_does_not(make: Make) -> None:
    router = make("a", "b")
    send(router, a=says(503, 1.0), b=streams())
    assert status(router, "a").limit == FIRST_LIMIT


# --- recovery ------------------------------------------------------------------------------------------


@pytest.fixture
def healed(make: Make, clock: Clock) -> Router:
    """A route that has just been closed again, and is much the nearer one."""
    router = make("a", "b", warm=False)
    close, far = router.config.routes
    measured(router, far, 2.0)
    measured(router, close, 0.010)
    assert send(router, a=unsent(Failure.TLS), b=streams()) == ["a", "b"]
    for _ in range(2):
        clock.advance(2.0)
        probe(router, "a")
    assert send(router, a=streams()) == ["a"]
    assert status(router, "a").state == "closed"
    return router


def test_a_healed_route_is_not_overrun(healed: Router, clock: Clock) -> None:
    busy(healed, clock, int(FIRST_LIMIT))
    assert status(healed, "a").in_flight == pytest.approx(max(1.0, RAMP_FROM * FIRST_LIMIT), abs=1)
    assert status(healed, "b").in_flight == int(FIRST_LIMIT) - status(healed, "a").in_flight


def test_it_takes_more_and_more(healed: Router, clock: Clock) -> None:
    taken = []
    for _ in range(4):
        busy(healed, clock, int(FIRST_LIMIT))
        taken.append(status(healed, "a").in_flight)
        clock.advance(RAMP / 3)
    assert taken == sorted(taken)
    assert len(set(taken)) == 4


# --- looks ---------------------------------------------------------------------------------------------


@pytest.fixture
def one_known(make: Make, clock: Clock) -> Router:
    """Two routes, almost as far; only one of them is known for its answers."""
    router = near(make, "a", "c")
    for _ in range(20):
        send(router, call(conversation="talk"), a=answers(clock))
        clock.advance(1.0)
    return router


def route_of(router: Router, clock: Clock, **options: object) -> tuple[str, str]:
    exchange = begin(router, **options)
    attempt = set_out(exchange, clock())
    exchange.cancel(clock())
    return attempt.endpoint.name, attempt.reason


def test_a_route_that_is_not_known_is_looked_at_now_and_then(one_known: Router, clock: Clock) -> None:
    assert route_of(one_known, clock) == ("c", "explore")
    seen = []
    for _ in range(int(PAUSE)):
        clock.advance(0.99)
        seen.append(route_of(one_known, clock))
    assert seen == [("a", "incumbent")] * int(PAUSE)
    clock.advance(1.0 + BREATH)
    assert route_of(one_known, clock) == ("c", "explore")


def test_what_belongs_somewhere_and_whole_answers_are_not_sent_to_look(one_known: Router, clock: Clock) -> None:
    assert route_of(one_known, clock, conversation="talk")[0] == "a"
    assert route_of(one_known, clock, streaming=False)[0] == "a"
    assert route_of(one_known, clock)[0] == "c"


def test_to_ask_is_not_to_look(one_known: Router, clock: Clock) -> None:
    for _ in range(5):
        assert names(one_known)[0] == "a"
        clock.advance(1.0)
    assert route_of(one_known, clock)[0] == "c"


def test_a_look_shows_what_a_route_is_worth(one_known: Router, clock: Clock) -> None:
    for _ in range(20):
        clock.advance(PAUSE + 1.0)
        send(one_known, a=answers(clock), c=answers(clock, USUAL / 4))
        for _ in range(20):
            clock.advance(1.0)
            send(one_known, a=answers(clock), c=answers(clock, USUAL / 4))
    assert status(one_known, "c").incumbent
    assert status(one_known, "c").factor < 0.6


def test_a_route_that_was_left_for_slowness_comes_back(router: Router, clock: Clock) -> None:
    """Its probes are answered as ever: only a request can tell that it has healed."""
    moved: list[Event] = []
    router.subscribe(lambda event: moved.append(event) if isinstance(event, IncumbentChanged) else None)
    assert send(router, a=answers(clock)) == ["a"]
    path = []
    for slow in [True] * 20 + [False] * 200:
        clock.advance(1.0)
        path.append(send(router, a=answers(clock, (10 if slow else 1) * USUAL), b=answers(clock))[0])
    assert path[4:20].count("a") <= 2
    assert path[-10:] == ["a"] * 10
    # A look is due after 10 s; but one that may cost three seconds waits until it has been due for long.
    assert path[20:].index("a") <= 120
    went = [(m.before, m.after) for m in moved if isinstance(m, IncumbentChanged)]
    a, b = router.config.routes
    assert went == [(a, b), (b, a)]


# --- the incumbent -------------------------------------------------------------------------------------


def test_listeners_are_told_of_the_incumbent_and_of_each_move(make: Make, clock: Clock) -> None:
    router, heard = make("a", "b"), list[Event]()
    a, b = router.config.routes
    router.subscribe(lambda event: heard.append(event) if isinstance(event, IncumbentChanged) else None)
    for _ in range(3):
        send(router, PLAIN, a=says(200))
    assert heard == [IncumbentChanged(None, a)]
    send(router, PLAIN, a=unsent(), b=says(200))
    send(router, PLAIN, b=says(200))
    assert heard == [IncumbentChanged(None, a), IncumbentChanged(a, b)]
    for _ in range(2):
        clock.advance(2.0)
        probe(router, "a", seconds=0.01)
    send(router, PLAIN, a=says(200))  # the trial
    assert status(router, "b").incumbent
    send(router, PLAIN, a=says(200))
    assert heard[2:] == [IncumbentChanged(b, a)]


def test_where_nothing_is_measured_what_has_answered_first_is_the_incumbent(make: Make) -> None:
    router, heard = make("a", "b", warm=False), list[Event]()
    router.subscribe(lambda event: heard.append(event) if isinstance(event, IncumbentChanged) else None)
    send(router, a=unsent(Failure.TLS), b=streams())
    assert status(router, "b").incumbent
    assert heard == [IncumbentChanged(None, router.config.routes[1])]
