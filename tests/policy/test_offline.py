"""Whether it is this machine that is cut off."""

from smartroute.policy.offline import WITHIN, Offline

EVERYBODY = ("a", "b", "global")


def lost(offline: Offline, *times: float) -> list[bool]:
    return [offline.lost(name, at) for name, at in zip(offline.endpoints, times, strict=False)]


def test_if_every_endpoint_is_lost_at_once_it_is_this_machine() -> None:
    offline = Offline(EVERYBODY)
    assert lost(offline, 100.0, 100.0, 100.0 + WITHIN) == [False, False, True]
    assert offline.now
    assert not offline.lost("a", 100.5)  # it is known


def test_not_while_one_can_be_reached() -> None:
    offline = Offline(EVERYBODY)
    lost(offline, 100.0, 100.0)
    assert not offline.now


def test_not_if_they_were_lost_one_after_the_other() -> None:
    offline = Offline(EVERYBODY)
    assert lost(offline, 100.0, 100.0, 100.1 + WITHIN) == [False] * 3
    assert not offline.now


def test_one_that_was_reached_in_between_is_not_lost() -> None:
    offline = Offline(EVERYBODY)
    lost(offline, 100.0, 100.0)
    offline.reached("a")
    assert not offline.lost("global", 100.0 + WITHIN / 2)
    assert offline.lost("a", 100.0 + WITHIN)


def test_with_one_endpoint_alone_nothing_can_be_told() -> None:
    offline = Offline(["a"])
    assert lost(offline, 100.0) == [False]
    assert not offline.now


def test_one_answer_ends_it() -> None:
    offline = Offline(EVERYBODY)
    assert not offline.reached("a")  # nothing to end
    lost(offline, 100.0, 100.0, 100.0)
    assert offline.reached("b")
    assert not offline.now
    assert not offline.reached("b")
