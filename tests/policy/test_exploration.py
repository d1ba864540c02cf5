"""When a request may have a look at a route that gets none."""

from smartroute.policy.exploration import (
    BREATH,
    FIRST_PAUSE,
    LAST_PAUSE,
    PAUSE,
    SHARE,
    SURPRISINGLY_FAST,
    Explorer,
)
from smartroute.policy.selection import Standing
from tests.policy.driving import route

NOW = 1_000.0


def standing() -> Standing:
    return Standing(route("a"))


def left() -> tuple[Explorer, Standing]:
    explorer, each = Explorer(), standing()
    explorer.leaves(each, NOW)
    return explorer, each


def test_the_first_request_may_look() -> None:
    assert Explorer().may_look(NOW) is True


def test_between_two_looks_there_is_a_breath() -> None:
    explorer = Explorer()
    explorer.may_look(NOW)
    assert explorer.may_look(NOW + 0.9 * BREATH) is None
    assert explorer.may_look(NOW + BREATH) is True


def test_looks_are_a_small_share_of_the_requests() -> None:
    explorer, looks, requests = Explorer(), 0, 10_000
    for number in range(requests):
        if explorer.may_look(NOW + number * BREATH):
            looks += 1
            explorer.looks(standing(), NOW)
    assert looks <= SHARE * requests + 1
    assert looks >= 0.9 * SHARE * requests


def test_looks_are_not_saved_up() -> None:
    explorer = Explorer()
    for number in range(1_000):
        explorer.may_look(NOW + number)
    explorer.looks(standing(), NOW + 1_000)
    assert explorer.may_look(NOW + 1_001) is False


def test_a_route_is_looked_at_once_in_a_while() -> None:
    each = standing()
    Explorer().looks(each, NOW)
    assert each.look_at == NOW + PAUSE


# --- routes that were left -----------------------------------------------------------------------------


def test_a_route_that_was_left_is_looked_at_soon_and_then_ever_more_seldom() -> None:
    explorer, each = left()
    assert each.left
    looks = [each.look_at]
    for _ in range(12):
        explorer.looks(each, each.look_at)
        looks.append(each.look_at)
    pauses = [later - earlier for earlier, later in zip([NOW, *looks], looks, strict=False)]
    expected = [min(FIRST_PAUSE * 2**number, LAST_PAUSE) for number in range(13)]
    assert pauses == expected


def test_its_looks_are_not_of_the_others_share() -> None:
    explorer, each = left()
    explorer.looks(each, NOW)
    assert explorer.may_look(NOW) is True
    explorer.looks(standing(), NOW)
    assert explorer.may_look(NOW + BREATH) is False  # only there


def test_who_is_the_incumbent_again_is_not_looked_at_as_one_that_was_left() -> None:
    explorer, each = left()
    explorer.settles(each)
    assert not each.left


def test_who_is_left_again_begins_anew() -> None:
    explorer, each = left()
    for _ in range(5):
        explorer.looks(each, NOW)
    explorer.settles(each)
    explorer.leaves(each, NOW + 100)
    assert each.look_at == NOW + 100 + FIRST_PAUSE


def test_a_surprisingly_fast_answer_is_worth_another_look_at_once() -> None:
    explorer, each = left()
    explorer.may_look(NOW)
    explorer.looks(each, NOW)
    explorer.sees(each, 0.9 * SURPRISINGLY_FAST, NOW + 0.1)
    assert each.look_at == NOW + 0.1
    assert explorer.may_look(NOW + 0.1) is not None


def test_an_answer_as_slow_as_expected_changes_nothing() -> None:
    explorer, each = left()
    explorer.looks(each, NOW)
    before = each.look_at, each.pause
    explorer.sees(each, 1.0, NOW + 0.1)
    assert (each.look_at, each.pause) == before
    other = standing()
    explorer.sees(other, 0.1, NOW)  # nor does a fast one of a route that was not left
    assert (other.look_at, other.pause) == (0.0, 0.0)
