"""How a client comes by its router, and gives it back."""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from smartroute.config import Config
from smartroute.events import Event
from smartroute.log import Log
from smartroute.router import Router
from smartroute.settings import log_level
from smartroute.transport.driver import collector

if TYPE_CHECKING:
    from smartroute.telemetry import Telemetry

__all__ = ["acquire", "release"]

logger = logging.getLogger("smartroute")
_observed: weakref.WeakSet[Router] = weakref.WeakSet()
_releases: weakref.WeakKeyDictionary[object, Callable[[], object]] = weakref.WeakKeyDictionary()
_shared: dict[Config, tuple[Router, int]] = {}
_given_back: SimpleQueue[Router] = SimpleQueue()
_lock = threading.Lock()
_is_cut_off = False
"""Whether a thread that a fork has left behind was loading OpenTelemetry."""

_PROVIDERS = frozenset(("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER"))
"""Variables that set OpenTelemetry up in a process that has not imported it."""
LOADING = 1.0
"""Seconds for which an exchange waits while another thread loads the telemetry."""


def acquire(user: object, config: Config | None, router: Router | None) -> Router:
    """The router for a transport: the one given, or that of all with an equal configuration.

    A shared router is given back by `release`, or when its user is forgotten: whichever comes first.

    Raises:
        ConfigError: no configuration is given and the environment's cannot be used.
        TypeError: both are given.
    """
    if router is not None and config is not None:
        raise TypeError("pass either a config or a router: a router has its configuration already")
    if not isinstance(config, Config | None):
        raise TypeError(f"config must be a smartroute.Config, not {type(config).__name__}")
    if router is None:
        router = _share(Config.from_env() if config is None else config)
        # The garbage collector may call this anywhere, in a thread that holds the lock too: leave a note.
        _releases[user] = weakref.finalize(user, _given_back.put, router)
    _set_log_level(router.config.log or log_level(os.environ))
    with _lock:
        if router in _observed:
            return router
        _observed.add(router)
    router.subscribe(Log(router.config.routes, fallback=router.config.global_route is not None))
    router.subscribe(_Telemetry(router))
    return router


def release(user: object) -> None:
    """A transport is closed. A router that its user made stays open: the user closes it."""
    if (give_back := _releases.pop(user, None)) is not None:
        give_back()
    if not collector.at_work:  # it may be in a thread that holds the lock: the note is read by who comes next
        _settle()


class _Telemetry:
    """The telemetry of a router, from the moment on that somebody can have set up OpenTelemetry.

    Whoever does not use it does not wait for it to be imported. Of a closed router there is nothing to say.
    """

    def __init__(self, router: Router) -> None:
        self._router = weakref.ref(router)
        self._telemetry: Telemetry | _Deaf | None = None
        self._is_configured = not _PROVIDERS.isdisjoint(os.environ)
        self._loading = threading.RLock()
        self._loader: int | None = None
        self._look()

    @property
    def active(self) -> bool:
        self._look()  # asked for each exchange, in its thread: the application's imports are not in the way there
        return self._telemetry is not None and self._telemetry.active

    def __call__(self, event: Event) -> None:
        if self._telemetry is not None:
            self._telemetry(event)

    def after_fork(self) -> None:
        """In a child process: a thread that is not here may have been loading it.

        What it was importing can then never be imported here: whoever tries waits for it, for ever.
        """
        global _is_cut_off  # noqa: PLW0603 - it is so for the whole process
        self._loading = threading.RLock()
        if self._loader not in (None, threading.get_ident()) and not _is_cut_off:
            _is_cut_off = True
            logger.warning("The process was forked while OpenTelemetry was loaded; it has no spans and no metrics.")
        if self._telemetry is not None:
            self._telemetry.after_fork()

    def _look(self) -> None:
        """Load it, if there is a reason to and nobody else is about it."""
        if self._telemetry is not None or not (self._is_configured or "opentelemetry" in sys.modules):
            return
        # Who comes while another thread loads it waits, but not for ever: a deadlock is worse than a missing span.
        if self._loading.acquire(timeout=LOADING):
            self._loader = threading.get_ident()
            try:
                if self._telemetry is None:
                    self._telemetry = _Deaf() if _is_cut_off else self._load()
            finally:
                self._loader = None
                self._loading.release()

    def _load(self) -> Telemetry | _Deaf:
        try:
            from smartroute.telemetry import Telemetry  # noqa: PLC0415 - see above

            return Telemetry(
                status=lambda: alive.status() if (alive := self._alive()) else (),
                budgets=lambda: alive.budgets() if (alive := self._alive()) else {},
            )
        except Exception:  # a broken installation of OpenTelemetry must not break the client
            logger.warning("OpenTelemetry cannot be used; there will be no spans and no metrics.", exc_info=True)
            return _Deaf()

    def _alive(self) -> Router | None:
        return None if (router := self._router()) is None or router.closed else router


class _Deaf:
    """Takes the place of a telemetry that cannot be used."""

    active = False

    def __call__(self, event: Event) -> None:
        pass

    def after_fork(self) -> None:
        pass


def _share(config: Config) -> Router:
    _settle()
    with _lock:
        router, users = _shared.get(config, (None, 0))
        if router is None or router.closed:
            router, users = Router(config), 0
        _shared[config] = (router, users + 1)
        return router


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - there is no other way to replace it
    _lock = threading.Lock()  # a thread that is not here may have held it
    for router in tuple(_observed):
        router.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _settle() -> None:
    """Take note of the users that are gone; a router is closed with its last."""
    while True:
        try:
            router = _given_back.get_nowait()
        except Empty:
            return
        with _lock:
            shared, users = _shared.get(router.config, (None, 0))
            if shared is not router:
                continue
            if users > 1:
                _shared[router.config] = (router, users - 1)
                continue
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
