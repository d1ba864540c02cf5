"""Which clients share a router, and how long it lives."""

import gc

import pytest

from smartroute.config import Config
from smartroute.lifecycle import acquire, release
from smartroute.route import Route
from smartroute.router import Router


class User:
    """Stands for a transport."""


def is_closed(router: Router) -> bool:
    return router.closed


def config(name: str) -> Config:
    return Config([Route(f"https://{name}.example/v1", name=name, api_key="fake-key")])


def test_equal_configurations_share_a_router_until_the_last_user_goes() -> None:
    one, two, three = User(), User(), User()
    router = acquire(one, config("a"), None)
    assert acquire(two, config("a"), None) is router
    assert acquire(three, config("b"), None) is not router
    release(one)
    release(one)  # once too often takes nothing from the others
    assert not is_closed(router)
    release(two)
    assert is_closed(router)
    release(three)


def test_after_the_last_user_a_new_router_is_made() -> None:
    first, second = User(), User()
    router = acquire(first, config("a"), None)
    release(first)
    again = acquire(second, config("a"), None)
    assert again is not router
    release(second)


def test_a_forgotten_user_counts_as_gone() -> None:
    user = User()
    router = acquire(user, config("a"), None)
    del user
    gc.collect()
    release(User())  # anybody who comes or goes next sees to it
    assert is_closed(router)


def test_a_shared_router_that_was_closed_by_hand_is_replaced() -> None:
    first, second = User(), User()
    router = acquire(first, config("a"), None)
    router.close()
    again = acquire(second, config("a"), None)
    assert again is not router
    release(first)
    assert not is_closed(again)
    release(second)


def test_a_router_of_ones_own_stays_open() -> None:
    user, router = User(), Router(config("a"))
    assert acquire(user, None, router) is router
    release(user)
    assert not is_closed(router)
    router.close()


def test_a_config_and_a_router_are_one_too_many() -> None:
    with pytest.raises(TypeError, match="either a config or a router"):
        acquire(User(), config("a"), Router(config("a")))
