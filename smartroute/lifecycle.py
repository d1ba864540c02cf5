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
_shared: dict[Config, tuple[Router, int]] = {}
_lock = threading.RLock()  # a finalizer may run in a thread that holds it


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
        router = _share(Config.from_env() if config is None else config)
        _releases[user] = weakref.finalize(user, _unshare, router)
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


def _share(config: Config) -> Router:
    with _lock:
        router, users = _shared.get(config, (None, 0))
        if router is None or router.closed:
            router, users = Router(config), 0
        _shared[config] = (router, users + 1)
        return router


def _unshare(router: Router) -> None:
    """One user less; the router is closed with its last."""
    with _lock:
        shared, users = _shared.get(router.config, (None, 0))
        if shared is not router:
            return
        if users > 1:
            _shared[router.config] = (router, users - 1)
            return
        del _shared[router.config]
    router.close()


def _set_log_level(level: str | None) -> None:
    if level is None:
        return
    logger.setLevel(level.upper())
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
