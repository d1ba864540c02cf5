"""Probing in the background: measures routes, keeps connections warm, notices recovery.

A daemon thread for sync clients, a timer and short tasks in the running loop for async ones. Both start
with the first request, rest five minutes after the last, and end with their client. What to probe is
the router's decision; how to probe is the driver's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextvars import Context
from queue import Empty, SimpleQueue

from smartroute.policy.schedule import Claim
from smartroute.router import Router

__all__ = ["AsyncProber", "SyncProber"]

logger = logging.getLogger("smartroute")

FIRST_LOOK = 0.05
"""Seconds after the first request before anything is probed: that request goes first."""
LONGEST_WAIT = 1.0
"""Seconds between two looks at what is due: a breaker may open in between."""


class SyncProber:
    """Probes for one sync client. Its thread also does the client's chores, as they come."""

    def __init__(
        self, router: Router, probe: Callable[[Claim], None], chores: SimpleQueue[Callable[[], object]]
    ) -> None:
        self._router = router
        self._probe = weakref.WeakMethod(probe)
        self._chores = chores
        self._lock = threading.Lock()
        self._running = False
        self._closed = False

    def wake(self) -> None:
        """A request was accepted: probe from now on, and be there for the chores."""
        with self._lock:
            if self._running or self._closed:
                return
            self._running = True
        if not self._start(_watch, weakref.ref(self), self._chores):
            self._running = False

    def hurry(self) -> None:
        """Something may be due at once: start it, in whatever thread this is."""
        self._start_due()

    def close(self) -> None:
        """Stop. Probes under way end by themselves; nobody waits for them."""
        self._closed = True
        self._chores.put(lambda: None)  # wakes the thread

    def round(self) -> float | None:
        """Start the probes that are due.

        Returns:
            the seconds until the next round; None: there is nothing more to do for now.
        """
        wait = self._start_due()
        if wait is None:
            with self._lock:
                self._running = False
        return wait

    def _start_due(self) -> float | None:
        claims, wait = self._router.claim_probes(self) if not self._closed else ([], None)
        for claim in claims:
            if not self._start(self._probe_one, claim):
                self._router.unprobed(claim)
        return wait

    def _probe_one(self, claim: Claim) -> None:
        probe = self._probe()
        try:
            if probe is None or self._closed:
                self._router.unprobed(claim)
                return
            probe(claim)
        except Exception:  # never into the application
            self._router.unprobed(claim)
            logger.debug("A probe of route %s failed within smartroute.", claim.route.name, exc_info=True)
        else:
            self.hurry()  # a route that said nothing has to be verified, or verified again

    def _start(self, target: Callable[..., None], *args: object) -> bool:
        try:
            threading.Thread(target=target, args=args, name="smartroute-probe", daemon=True).start()
        except RuntimeError:  # no more threads, or the interpreter is going down
            return False
        return True


def _watch(prober_ref: weakref.ref[SyncProber], chores: SimpleQueue[Callable[[], object]]) -> None:
    """The thread: holds its prober weakly, so that a forgotten client can be collected."""
    wait: float | None = FIRST_LOOK
    while wait is not None:
        try:
            chores.get(timeout=min(wait, LONGEST_WAIT))()
        except Empty:
            pass
        except Exception:  # the thread is needed
            logger.debug("A chore failed within smartroute.", exc_info=True)
        if (prober := prober_ref()) is None:
            return
        wait = prober.round()
        del prober


class AsyncProber:
    """Probes for one async client in one event loop: in an empty context, not in that of some request."""

    def __init__(
        self, router: Router, probe: Callable[[Claim], Awaitable[None]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._router = router
        self._probe = weakref.WeakMethod(probe)
        self._ref: weakref.ref[AsyncProber] = weakref.ref(self)
        self._loop = loop
        self._timer: asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def wake(self) -> None:
        """A request was accepted: probe from now on."""
        if self._timer is None and not self._closed and self._router.config.probe_interval:
            self._timer = self._loop.call_later(FIRST_LOOK, _look, self._ref, context=Context())

    def hurry(self) -> None:
        """Something may be due at once."""
        if not self._closed:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_soon(_look, self._ref, context=Context())

    async def close(self) -> None:
        """Stop, and wait until the probes under way have been cancelled."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def round(self) -> None:
        """Start the probes that are due."""
        self._timer = None
        if self._closed:
            return
        claims, wait = self._router.claim_probes(self)
        for claim in claims:
            task = self._loop.create_task(self._probe_one(claim), name="smartroute-probe", context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if wait is not None:
            self._timer = self._loop.call_later(min(wait, LONGEST_WAIT), _look, self._ref, context=Context())

    async def _probe_one(self, claim: Claim) -> None:
        try:
            if (probe := self._probe()) is None:
                self._router.unprobed(claim)
                return
            await probe(claim)
        except asyncio.CancelledError:
            self._router.unprobed(claim)
            raise
        except Exception:  # never into the application
            self._router.unprobed(claim)
            logger.debug("A probe of route %s failed within smartroute.", claim.route.name, exc_info=True)
        else:
            self.hurry()  # a route that said nothing has to be verified, or verified again


def _look(prober_ref: weakref.ref[AsyncProber]) -> None:
    """The timer: holds its prober weakly, so that a forgotten client can be collected."""
    if (prober := prober_ref()) is not None:
        prober.round()
