"""How a client comes by its router, and gives it back."""

import logging
import threading
from weakref import WeakSet

from smartroute.config import Config
from smartroute.router import Router
from smartroute.telemetry import Telemetry

__all__ = ["acquire", "release"]

logger = logging.getLogger("smartroute")
_observed: WeakSet[Router] = WeakSet()
_lock = threading.Lock()


def acquire(config: Config | None, router: Router | None) -> Router:
    """The router for a client: the one given, or that of all clients with an equal configuration.

    Raises:
        ConfigError: no configuration is given and the environment's cannot be used.
        TypeError: both are given.
    """
    if router is not None and config is not None:
        raise TypeError("pass either a config or a router: a router has its configuration already")
    if router is None:
        router = Router.shared(Config.from_env() if config is None else config)
    _set_log_level(router.config.log)
    with _lock:
        if router not in _observed:
            _observed.add(router)
            router.subscribe(Telemetry())
    return router


def release(router: Router) -> None:
    """A client is closed. A router that its user made stays open; the user closes it."""
    Router.release(router)


def _set_log_level(level: str | None) -> None:
    if level is None:
        return
    logger.setLevel(level.upper())
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
