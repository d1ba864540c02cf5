"""The ranking: stickiness, affinity, trials, obstacles, the fallback and the last resort."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.breaker import State
from smartroute.policy.selection import Choice, Standing, choose
from smartroute.route import Route
from tests.policy.driving import WORLDWIDE, route

NOW = 1_000.0
ROUTES = {name: route(name) for name in "abcdef"}
STATES = {"open": State.OPEN, "busy": State.HALF_OPEN}


def standing(
    name: str, score: float | None, *, obstacle: str | None = None, state: State = State.CLOSED, since: float = 0.0
) -> Standing:
    return Standing(ROUTES[name], score, STATES.get(obstacle or "", state), since, obstacle)


def rank(
    *standings: Standing,
    fallback: Route | None = WORLDWIDE,
    incumbent: str | None = None,
    held_until: float = 0.0,
    conversation: str | None = None,
) -> Choice:
    return choose(standings, fallback, incumbent=incumbent, held_until=held_until, conversation=conversation, now=NOW)


def names(choice: Choice) -> list[str]:
    return [candidate.route.name for candidate in choice.order]


def reasons(choice: Choice) -> list[str]:
    return [candidate.reason for candidate in choice.order]


# --- score and stickiness ------------------------------------------------------------------------------


def test_the_lowest_score_is_first_and_global_is_last() -> None:
    choice = rank(standing("a", 0.08), standing("b", 0.02), standing("c", 0.16))
    assert names(choice) == ["b", "a", "c", "global"]
    assert reasons(choice) == ["best", "next", "next", "fallback"]
    assert (choice.incumbent, choice.moved, choice.refused) == ("b", False, ())


def test_without_measurements_the_configuration_decides() -> None:
    choice = rank(standing("c", None), standing("a", None))
    assert names(choice) == ["c", "a", "global"]
    assert reasons(choice) == ["unmeasured", "next", "fallback"]
    assert choice.incumbent is None  # chance is not to be stuck to


def test_a_measured_route_comes_before_one_that_is_not() -> None:
    choice = rank(standing("a", None), standing("b", 0.3))
    assert names(choice) == ["b", "a", "global"]
    assert reasons(choice)[0] == "best"


@pytest.mark.parametrize(
    ("incumbent", "challenger", "leaves"),
    [
        (0.100, 0.100, False),
        (0.100, 0.081, False),  # 19 %
        (0.100, 0.079, True),  # 21 %
        (0.020, 0.011, False),  # 45 %, but 9 ms
        (0.020, 0.009, True),  # 11 ms
        (1.000, 0.810, False),
        (1.000, 0.790, True),
        (0.100, 0.200, False),
    ],
)
def test_the_incumbent_is_left_for_a_clearly_better_challenger_only(
    incumbent: float, challenger: float, leaves: bool
) -> None:
    choice = rank(standing("a", incumbent), standing("b", challenger), incumbent="a")
    assert names(choice) == (["b", "a", "global"] if leaves else ["a", "b", "global"])
    assert reasons(choice)[0] == ("best" if leaves else "incumbent")
    assert choice.incumbent == ("b" if leaves else "a")
    assert choice.moved is leaves


@pytest.mark.parametrize(
    ("score", "held_until", "leaves"),
    [
        (0.190, NOW + 0.1, False),  # better, but too soon
        (0.190, NOW, True),
        (0.210, NOW + 0.1, True),  # more than twice as bad: intolerable
        (0.019, NOW + 0.1, False),
    ],
)
def test_not_soon_after_the_last_move(score: float, held_until: float, leaves: bool) -> None:
    choice = rank(standing("a", score), standing("b", 0.100), incumbent="a", held_until=held_until)
    assert choice.moved is leaves


def test_twice_of_next_to_nothing_is_tolerable() -> None:
    assert not rank(standing("a", 0.009), standing("b", 0.001), incumbent="a", held_until=NOW + 1).moved


def test_an_incumbent_that_cannot_be_asked_is_replaced_whatever_the_hold() -> None:
    for obstacle in ("open", "cooldown", "quarantine", "drained", "region"):
        choice = rank(standing("a", 0.01, obstacle=obstacle), standing("b", 0.30), incumbent="a", held_until=NOW + 99)
        assert names(choice)[0] == "b"
        assert (choice.incumbent, choice.moved) == ("b", False)  # no move for a score: it starts no hold


def test_an_unmeasured_challenger_does_not_win() -> None:
    assert names(rank(standing("a", 9.0), standing("b", None), incumbent="a"))[0] == "a"


def test_an_incumbent_of_long_ago_is_nothing_to_stick_to() -> None:
    assert names(rank(standing("a", 0.02), standing("b", 0.01), incumbent="gone"))[0] == "b"


# --- trials --------------------------------------------------------------------------------------------


def test_a_healed_route_that_is_the_best_gets_its_trial() -> None:
    choice = rank(standing("a", 0.01, state=State.HALF_OPEN), standing("b", 0.10), incumbent="b")
    assert names(choice) == ["a", "b", "global"]
    assert reasons(choice)[0] == "trial"
    assert (choice.incumbent, choice.moved) == ("b", False)


def test_a_healed_route_that_is_not_the_best_waits() -> None:
    choice = rank(standing("a", 0.20, state=State.HALF_OPEN), standing("b", 0.10), incumbent="b")
    assert names(choice) == ["b", "a", "global"]


def test_one_trial_at_a_time() -> None:
    choice = rank(standing("a", 0.01, obstacle="busy"), standing("b", 0.10), incumbent="b")
    assert names(choice) == ["b", "global"]
    assert [c.reason for c in choice.refused] == ["busy"]


# --- affinity ------------------------------------------------------------------------------------------


def test_a_conversation_stays_where_it_is() -> None:
    choice = rank(standing("a", 0.01), standing("b", 0.30), incumbent="a", conversation="b")
    assert names(choice) == ["b", "a", "global"]
    assert reasons(choice)[0] == "affinity"
    assert (choice.incumbent, choice.moved) == ("a", False)


def test_a_conversation_on_the_best_route_changes_nothing() -> None:
    assert reasons(rank(standing("a", 0.01), standing("b", 0.3), incumbent="a", conversation="a"))[0] == "incumbent"


@pytest.mark.parametrize("obstacle", ["open", "busy", "cooldown", "quarantine", "drained", "region"])
def test_a_conversation_leaves_a_route_that_cannot_be_asked(obstacle: str) -> None:
    choice = rank(standing("a", 0.01), standing("b", 0.3, obstacle=obstacle), conversation="b")
    assert names(choice)[0] == "a"


def test_a_conversation_is_no_guinea_pig() -> None:
    choice = rank(standing("a", 0.01), standing("b", 0.3, state=State.HALF_OPEN), conversation="b")
    assert (names(choice)[0], reasons(choice)[0]) == ("a", "best")


def test_a_conversation_on_a_route_that_is_gone() -> None:
    assert names(rank(standing("a", 0.01), conversation="gone")) == ["a", "global"]


# --- fallback, last resort, obstacles ------------------------------------------------------------------


def test_when_all_are_open_global_is_asked_then_the_one_that_opened_first() -> None:
    choice = rank(
        standing("a", 0.01, obstacle="open", since=30.0),
        standing("b", 0.02, obstacle="open", since=10.0),
        standing("c", 0.03, obstacle="open", since=20.0),
    )
    assert names(choice) == ["global", "b", "c", "a"]
    assert reasons(choice) == ["fallback", "last_resort", "last_resort", "last_resort"]


def test_without_global_open_routes_are_the_last_resort() -> None:
    choice = rank(standing("a", 0.01, obstacle="open"), standing("b", 0.02), fallback=None)
    assert names(choice) == ["b", "a"]


@pytest.mark.parametrize("obstacle", ["busy", "cooldown", "quarantine"])
def test_a_reluctant_route_is_asked_when_there_is_nobody_else(obstacle: str) -> None:
    reluctant = standing("a", 0.01, obstacle=obstacle)
    assert names(rank(reluctant)) == ["global"]
    assert names(rank(reluctant, standing("b", 0.9), fallback=None)) == ["b"]
    alone = rank(reluctant, fallback=None)
    assert names(alone) == ["a"]
    assert reasons(alone) == ["last_resort"]
    assert alone.refused == ()


@pytest.mark.parametrize("obstacle", ["drained", "region"])
def test_what_is_forbidden_is_never_asked(obstacle: str) -> None:
    choice = rank(standing("a", 0.01, obstacle=obstacle), fallback=None)
    assert choice.order == ()
    assert [(c.route.name, c.reason) for c in choice.refused] == [("a", obstacle)]


def test_no_routes() -> None:
    assert names(rank()) == ["global"]
    assert rank(fallback=None).order == ()


# --- properties ----------------------------------------------------------------------------------------

OBSTACLES = ("open", "busy", "cooldown", "quarantine", "drained", "region")


@st.composite
def all_standings(draw: st.DrawFn) -> list[Standing]:
    return [
        standing(
            name,
            draw(st.none() | st.floats(0.0, 10.0)),
            obstacle=draw(st.none() | st.sampled_from(OBSTACLES)),
            state=draw(st.sampled_from([State.CLOSED, State.HALF_OPEN])),
            since=draw(st.floats(0.0, NOW)),
        )
        for name in draw(st.permutations(sorted(ROUTES)))[: draw(st.integers(0, 6))]
    ]


NAME = st.none() | st.sampled_from([*sorted(ROUTES), "gone"])


@given(all_standings(), st.booleans(), NAME, NAME, st.floats(NOW - 50, NOW + 50))
def test_every_ranking(
    standings: list[Standing], with_global: bool, incumbent: str | None, conversation: str | None, held_until: float
) -> None:
    fallback = WORLDWIDE if with_global else None

    def again() -> Choice:
        return rank(
            *standings, fallback=fallback, incumbent=incumbent, conversation=conversation, held_until=held_until
        )

    choice = again()
    assert choice == again()  # deterministic
    usable = {s.route.name for s in standings if s.obstacle is None}
    shut = {s.route.name for s in standings if s.obstacle == "open"}
    order = names(choice)
    everybody = order + [c.route.name for c in choice.refused]
    assert sorted(everybody) == sorted([s.route.name for s in standings] + ["global"] * with_global)
    assert set(order[: len(usable)]) == usable
    if with_global:
        assert order[len(usable)] == "global"
    assert order.count("global") == with_global
    if usable or shut or with_global:
        assert set(order[len(usable) + with_global :]) == shut
    forbidden = {s.route.name for s in standings if s.obstacle in ("drained", "region")}
    assert not forbidden & set(order)
    assert order or len(forbidden) == len(standings)  # whoever may be asked is asked in the end
    assert all(c.reason in OBSTACLES for c in choice.refused)
    assert choice.incumbent == incumbent or choice.incumbent in usable
    if choice.moved:
        assert choice.incumbent == (order[0] if reasons(choice)[0] == "best" else choice.incumbent)
        assert incumbent in usable


@given(all_standings(), NAME)
def test_a_move_is_not_taken_back_at_once(standings: list[Standing], incumbent: str | None) -> None:
    first = rank(*standings, incumbent=incumbent)
    second = rank(*standings, incumbent=first.incumbent)
    assert not second.moved
    assert second.incumbent == first.incumbent
