"""A route that says nothing: verified, avoided, opened, or waited for."""

from collections.abc import Iterator

import pytest

from smartroute.events import BreakerChanged, Event, ProbeEnded
from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import Answered, Attempt, Call, Command, Content, Diverted, Quiet, Send, Wait, Whole
from smartroute.policy.outcome import Failure
from smartroute.policy.patience import LAST_UNKNOWN_RESCUE, LOOK
from smartroute.policy.schedule import Claim
from smartroute.policy.silence import DEAD_AFTER, PAUSE
from smartroute.router import QUIET, Router
from smartroute.testing import Clock
from tests.policy.driving import PLAIN, STREAM, measured, says, slowly, streams, unsent
from tests.router.kit import Make, Prober, begin, call, each, names, probe, reasons, send, set_out, status

USUAL = 0.3
"""Seconds that a region usually takes to answer here."""


@pytest.fixture
def router(make: Make, clock: Clock) -> Router:
    """A router that knows what to expect of its routes, of which a is so much nearer that none is explored."""
    router = make("a", "b", "c", warm=False)
    for known, round_trip in zip(router.config.routes, (0.010, 0.300, 0.600), strict=True):
        measured(router, known, round_trip)
    for _ in range(30):
        assert send(router, a=slowly(USUAL, clock, streams())) == ["a"]
        clock.advance(1.0)
    return router


class Waiting:
    """A request of which nothing has come yet."""

    def __init__(self, router: Router, of: Call = STREAM) -> None:
        exchange = router.begin(of)
        assert exchange is not None
        self.router = router
        self.exchange: Exchange = exchange
        self.first = set_out(exchange, router.clock())
        self.first.depart(router.clock(), reused=False)

    def look(self, attempt: Attempt | None = None) -> Command:
        """Nothing has come by the time that somebody looks."""
        attempt = attempt or self.first
        clock = self.router.clock
        assert isinstance(clock, Clock)
        assert attempt.check_at is not None
        clock.advance(max(attempt.check_at - clock(), 0.0))
        return self.exchange.feed(Quiet(attempt), clock())

    def grow_overdue(self) -> None:
        for _ in range(9):
            if not self.first.overdue:
                assert self.look() == Wait()
        assert self.first.overdue

    def answer(self, attempt: Attempt | None = None) -> None:
        attempt, now = attempt or self.first, self.router.clock()
        streaming = self.exchange.call.streaming
        self.exchange.feed(Answered(attempt, 200, None, event_stream=streaming, encoded=False), now)
        self.exchange.feed(Content(attempt) if streaming else Whole(attempt), now)
        self.exchange.settle(attempt, "complete", now)
        self.router.finish(self.exchange, "answered")

    def cancel(self) -> None:
        self.exchange.cancel(self.router.clock())
        self.router.finish(self.exchange, "cancelled")


@pytest.fixture
def waiting(router: Router) -> Iterator[Waiting]:
    waiting = Waiting(router)
    yield waiting
    waiting.cancel()
    assert [each.in_flight for each in router.status()] == [0] * 3


def verifications(router: Router, prober: object) -> list[Claim]:
    return [claim for claim in router.claim_probes(prober)[0] if claim.fresh]


def fails(router: Router, name: str, started: float | None = None) -> None:
    """A verification of the route fails."""
    probe(router, name, failure=Failure.READ_TIMEOUT, fresh=True, started=started)


def opens(router: Router, name: str) -> None:
    for _ in range(DEAD_AFTER):
        fails(router, name)


# --- wanted --------------------------------------------------------------------------------------------


def test_an_overdue_attempt_has_its_route_verified_on_a_fresh_connection(router: Router, waiting: Waiting) -> None:
    prober, other = Prober(), Prober()
    assert verifications(router, prober) == []
    waiting.grow_overdue()
    limit = router._known["a"].latency.verification_limit
    (claim,) = verifications(router, prober)
    assert claim == Claim(each(router, "a"), fresh=True, limit=limit, number=claim.number)
    assert verifications(router, prober) == []
    assert verifications(router, other) == []


def test_without_ordinary_probes_too(make: Make) -> None:
    router = make("a", "b", "c", probe_interval=0)
    waiting = Waiting(router)
    assert verifications(router, Prober()) == []
    assert waiting.look() == Wait()
    assert [claim.route.name for claim in verifications(router, Prober())] == ["a"]
    waiting.cancel()


def test_a_long_wait_is_reason_enough_whatever_is_expected(router: Router) -> None:
    """Nothing is known of how long a whole answer takes. Whether its route is alive can be known all the same."""
    waiting = Waiting(router, PLAIN)
    began = router.clock()
    assert waiting.look() == Wait()
    assert router.clock() - began == pytest.approx(LOOK)
    assert not waiting.first.overdue
    assert not status(router, "a").suspect
    assert [claim.route.name for claim in verifications(router, Prober())] == ["a"]
    waiting.cancel()


def test_not_before_it_is_due(router: Router, clock: Clock) -> None:
    assert send(router, a=slowly(2 * USUAL, clock, streams())) == ["a"]
    assert verifications(router, Prober()) == []


def test_one_that_was_given_up_is_claimed_by_another(router: Router, waiting: Waiting) -> None:
    waiting.grow_overdue()
    (claim,) = verifications(router, Prober())
    router.unprobed(claim)
    assert verifications(router, Prober()) == [claim._replace(number=claim.number + 1)]


def test_one_that_was_late_itself_says_nothing(router: Router, waiting: Waiting) -> None:
    waiting.grow_overdue()
    for _ in range(DEAD_AFTER):
        (claim,) = verifications(router, Prober())
        probe(router, "a", failure=Failure.READ_TIMEOUT, fresh=claim.fresh, late=True)
    assert status(router, "a").state == "closed"
    assert len(verifications(router, Prober())) == 1


def test_one_that_was_answered_and_heard_late_proves_life_and_measures_nothing(
    router: Router, waiting: Waiting
) -> None:
    waiting.grow_overdue()
    fails(router, "a")
    (claim,) = verifications(router, Prober())
    measured = status(router, "a").round_trip
    probe(router, "a", seconds=0.8, fresh=claim.fresh, late=True)
    assert status(router, "a").round_trip == measured
    assert verifications(router, Prober()) == []
    fails(router, "a")  # the first since it was heard
    assert status(router, "a").state == "closed"


def test_an_ordinary_probe_without_an_answer_wants_one(router: Router) -> None:
    probe(router, "a", failure=Failure.READ_TIMEOUT)
    assert status(router, "a").state == "closed"
    assert [claim.route.name for claim in verifications(router, Prober())] == ["a"]


def test_a_connection_that_is_long_in_coming_wants_one(router: Router, clock: Clock) -> None:
    exchange = begin(router)
    command = exchange.start(clock())
    assert isinstance(command, Send)
    rival = command.rivals()[0]
    exchange.feed(Diverted(command.attempt, rival.name), clock())
    assert names(router)[0] == rival.name  # nobody else waits for that connection
    assert [claim.route.name for claim in verifications(router, Prober())] == ["a"]
    fails(router, "a")
    assert names(router)[0] == rival.name
    probe(router, "a", fresh=True)
    assert names(router)[0] == "a"
    exchange.cancel(clock())
    router.finish(exchange, "cancelled")


def test_not_where_nothing_is_known_of_the_way(make: Make, clock: Clock) -> None:
    router = make("a", "b", warm=False)
    exchange = begin(router)
    command = exchange.start(clock())
    assert isinstance(command, Send)
    exchange.feed(Diverted(command.attempt, command.rivals()[0].name), clock())
    assert verifications(router, Prober()) == []
    exchange.cancel(clock())
    router.finish(exchange, "cancelled")


# --- alive ---------------------------------------------------------------------------------------------


def test_a_route_that_is_alive_is_not_opened_and_not_asked_again_for_a_while(
    router: Router, clock: Clock, waiting: Waiting
) -> None:
    waiting.grow_overdue()
    prober = Prober()
    assert len(verifications(router, prober)) == 1
    probe(router, "a", fresh=True)
    answered = clock()
    assert status(router, "a").state == "closed"
    while clock() < answered + PAUSE - 2 * LOOK:
        waiting.look()
        assert verifications(router, prober) == []
    clock.advance(3 * LOOK)
    waiting.look()
    assert len(verifications(router, prober)) == 1


def test_one_failed_verification_alone_opens_nothing(router: Router, waiting: Waiting) -> None:
    waiting.grow_overdue()
    for _ in range(3):
        fails(router, "a")
        assert len(verifications(router, Prober())) == 1  # it wants another
        probe(router, "a", fresh=True)
    assert status(router, "a").state == "closed"


def test_verifications_of_different_routers_have_different_numbers(make: Make) -> None:
    """One listener may hear of both."""
    numbers: list[int] = []
    for router in (make(), make()):
        exchange = begin(router)
        router.diverted(exchange, set_out(exchange, 0.0))
        numbers += [claim.number for claim in router.claim_probes(Prober())[0] if claim.fresh]
        exchange.cancel(0.0)
    assert len(set(numbers)) == 2


# --- dead ----------------------------------------------------------------------------------------------


def test_two_failed_verifications_open_the_route(router: Router, waiting: Waiting) -> None:
    heard: list[Event] = []
    router.subscribe(heard.append)
    waiting.grow_overdue()
    opens(router, "a")
    assert status(router, "a").state == "open"
    (changed,) = [event for event in heard if isinstance(event, BreakerChanged)]
    assert (changed.before, changed.after, changed.exchange) == ("closed", "open", None)
    assert "verification" in changed.cause
    probed = [event for event in heard if isinstance(event, ProbeEnded)]
    assert [(event.failure, event.fresh) for event in probed] == [(Failure.READ_TIMEOUT, True)] * DEAD_AFTER
    assert verifications(router, Prober()) == []


def test_half_of_the_proof_is_enough_for_a_rescue(router: Router, waiting: Waiting) -> None:
    waiting.grow_overdue()
    fails(router, "a")
    command = waiting.look()
    assert isinstance(command, Send)
    assert (command.attempt.endpoint.name, command.attempt.reason, command.beside) == ("b", "rescue", True)


def test_all_that_wait_on_a_dead_route_are_moved(router: Router) -> None:
    crowd = [Waiting(router, of) for of in (STREAM, STREAM, PLAIN)]
    opens(router, "a")
    for waiting in crowd:
        command = waiting.look()
        assert isinstance(command, Send)
        assert command.attempt.endpoint.name == "b"
        waiting.cancel()


def test_what_queued_for_a_connection_until_its_route_was_open_is_moved(router: Router, clock: Clock) -> None:
    exchange = begin(router)
    first = set_out(exchange, clock())
    clock.advance(1.0)
    opens(router, "a")
    clock.advance(1.0)
    first.depart(clock(), reused=False)
    command: Command = Wait()
    while isinstance(command, Wait):
        assert first.check_at is not None
        assert first.check_at < clock() + 2 * LOOK
        clock.advance(max(first.check_at - clock(), 0.0))
        command = exchange.feed(Quiet(first), clock())
        assert clock() - first.departed < 2 * LOOK
    assert isinstance(command, Send)
    assert command.attempt.endpoint.name == "b"
    exchange.cancel(clock())
    router.finish(exchange, "cancelled")


def test_what_was_sent_after_the_verification_is_not_moved(router: Router, clock: Clock) -> None:
    fails(router, "a", started=clock() - 0.1)
    waiting = Waiting(router, call(pinned="a"))
    assert waiting.look() == Wait()
    waiting.cancel()


def test_what_stopped_in_the_middle_on_an_open_route_has_it_verified_too(router: Router, clock: Clock) -> None:
    exchange = router.begin(Call("/chat/completions", None, streaming=True, size=100))
    assert exchange is not None
    attempt = Attempt(1, each(router, "a"), 0, "best", clock(), None)
    since = clock()
    for _ in range(3):
        send(router, a=says(503), b=streams())
    assert status(router, "a").state == "open"
    clock.advance(5.0)
    assert not router.stalled(exchange, attempt, since + 5.0)
    assert [claim.route.name for claim in verifications(router, Prober())] == ["a"]
    opens(router, "a")
    assert router.stalled(exchange, attempt, clock())


def test_so_has_what_waits_longer_than_anybody_has_asked(router: Router, waiting: Waiting, clock: Clock) -> None:
    clock.advance(2 * QUIET)
    assert router.claim_probes(Prober()) == ([], None)
    waiting.look()
    assert [claim.route.name for claim in verifications(router, Prober())] == ["a"]


def test_after_an_outage_of_this_machine_nobody_stays_suspect(router: Router, clock: Clock) -> None:
    for name in "abc" * (2 * DEAD_AFTER):
        probe(router, name, failure=Failure.CONNECT_TIMEOUT, fresh=True)
    send(router, a=unsent(), b=unsent(), c=unsent(), worldwide=unsent())
    for name in "abc":
        for _ in range(DEAD_AFTER):
            probe(router, name, failure=Failure.CONNECT_TIMEOUT, fresh=True)
    clock.advance(5.0)
    prober = Prober()
    for _ in range(5):  # back again: whatever is asked is answered
        for claim in router.claim_probes(prober)[0]:
            probe(router, claim.route.name, fresh=claim.fresh)
        send(router, a=streams(), b=streams(), c=streams())
        clock.advance(10.0)
    assert [each.suspect for each in router.status()] == [False] * 3


# --- suspects ------------------------------------------------------------------------------------------


def test_a_suspect_is_avoided_until_its_answer_comes(router: Router, waiting: Waiting) -> None:
    waiting.grow_overdue()
    assert status(router, "a").suspect
    assert names(router) == ["b", "c", "a", "global"]
    assert reasons(router)[0] == "detour"
    assert send(router, b=streams()) == ["b"]
    waiting.answer()
    assert not status(router, "a").suspect
    assert names(router)[0] == "a"
    assert [each.incumbent for each in router.status()] == [True, False, False]  # it has never been another


def test_it_comes_back_when_something_that_was_sent_later_is_answered(
    router: Router, clock: Clock, waiting: Waiting
) -> None:
    earlier = Waiting(router)
    waiting.grow_overdue()
    clock.advance(0.1)
    later = Waiting(router, call(pinned="a"))
    clock.advance(0.1)
    later.answer()
    assert not status(router, "a").suspect
    assert send(router, a=streams()) == ["a"]
    earlier.cancel()


def test_what_was_sent_earlier_clears_nothing(router: Router, clock: Clock) -> None:
    earlier = Waiting(router)
    clock.advance(0.1)
    later = Waiting(router)
    later.grow_overdue()
    earlier.answer()
    assert status(router, "a").suspect
    later.cancel()
    assert not status(router, "a").suspect


def test_it_comes_back_when_nobody_waits_any_more(router: Router, waiting: Waiting) -> None:
    waiting.grow_overdue()
    waiting.cancel()
    assert not status(router, "a").suspect
    assert send(router, a=streams()) == ["a"]


def test_a_suspect_is_better_than_nobody(router: Router, waiting: Waiting) -> None:
    waiting.grow_overdue()
    router.drain("b")
    router.drain("c")
    assert names(router)[:2] == ["a", "global"]


def test_a_failed_verification_makes_a_suspect(router: Router) -> None:
    fails(router, "a")
    assert status(router, "a").suspect
    assert names(router)[0] == "b"
    probe(router, "a", fresh=True)
    assert not status(router, "a").suspect
    assert names(router)[0] == "a"


# --- alive, and no answer ------------------------------------------------------------------------------


def test_a_streamed_answer_that_is_late_beyond_measure_is_asked_for_elsewhere(
    router: Router, clock: Clock, waiting: Waiting
) -> None:
    """The way is alive, the model behind it seems not to be."""
    departed = clock()
    command: Command = Wait()
    while isinstance(command, Wait):
        probe(router, "a", fresh=True)
        command = waiting.look()
        assert clock() - departed < 60.0
    assert isinstance(command, Send)
    assert (command.attempt.reason, command.beside) == ("rescue", True)
    assert clock() - departed > waiting.first.overdue_after


def test_not_without_a_token(router: Router, clock: Clock, waiting: Waiting) -> None:
    departed = clock()
    while clock() - departed < 60.0:
        router._replays.tokens = 0.0
        router._replays.now = clock() + 10.0
        probe(router, "a", fresh=True)
        assert waiting.look() == Wait()


def test_a_whole_answer_is_waited_for(router: Router, clock: Clock) -> None:
    waiting = Waiting(router, PLAIN)
    departed = clock()
    while clock() - departed < 300.0:
        probe(router, "a", fresh=True)
        assert waiting.look() == Wait()
    waiting.answer()
    assert status(router, "a").failures == 0


def test_of_a_prompt_that_was_never_seen_little_is_expected(router: Router, clock: Clock) -> None:
    """It may be long: the first of a process often are. Nobody is avoided for it, but after a while a token is paid."""
    waiting = Waiting(router, call(model="new", size=500_000))
    departed = clock()
    command: Command = Wait()
    while isinstance(command, Wait):
        probe(router, "a", fresh=True)
        assert clock() - departed < 1.5 * LAST_UNKNOWN_RESCUE
        command = waiting.look()
    assert isinstance(command, Send)
    assert clock() - departed > 0.9 * LAST_UNKNOWN_RESCUE
    assert not status(router, "a").suspect
    waiting.answer()
