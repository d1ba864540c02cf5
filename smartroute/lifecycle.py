"""How a client comes by its router, and gives it back."""

import logging
import threading
import weakref
from collections.abc import Callable

from smartroute.config import Config
from smartroute.router import Router
from smartroute.telemetry import Telemetry

__all__ = ["acquire", "release"]

logger = logging.getLogger("smartroute")
_observed: weakref.WeakSet[Router] = weakref.WeakSet()
_releases: weakref.WeakKeyDictionary[object, Callable[[], object]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def acquire(user: object, config: Config | None, router: Router | None) -> Router:
    """The router for a transport: the one given, or that of all with an equal configuration.

    A shared router is given back by `release`, or when its user is forgotten: whichever comes first.

    Raises:
        ConfigError: no configuration is given and the environment's cannot be used.
        TypeError: both are given.
    """
    if router is not None and config is not None:
        raise TypeError("pass either a config or a router: a router has its configuration already")
    if router is None:
        router = Router.shared(Config.from_env() if config is None else config)
        _releases[user] = weakref.finalize(user, Router.release, router)
    _set_log_level(router.config.log)
    with _lock:
        if router not in _observed:
            _observed.add(router)
            router.subscribe(Telemetry())
    return router


def release(user: object) -> None:
    """A transport is closed. A router that its user made stays open: the user closes it."""
    if (give_back := _releases.pop(user, None)) is not None:
        give_back()


def _set_log_level(level: str | None) -> None:
    if level is None:
        return
    logger.setLevel(level.upper())
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
