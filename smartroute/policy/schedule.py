"""When routes are probed: each route often enough to be known, each client's connections often enough to be warm."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import NamedTuple
from weakref import WeakKeyDictionary

from smartroute.policy.breaker import State
from smartroute.policy.known import Known
from smartroute.route import Route

__all__ = ["Claim", "Finding", "Schedule"]

KEEP_WARM = 45.0
"""Seconds after which a client probes a route for its own connections' sake (they are kept for 55)."""
JITTER = 0.1
LEASE = 15.0
"""Seconds after which a claimed probe of which nothing was heard is anybody's (its loop may have gone)."""
OFFLINE_INTERVAL = 1.0
"""Seconds between probes while nothing can be reached from this machine: it costs nobody anything."""
MOST_AT_ONCE = 32
"""Probes begun in one go: with a thousand routes the rest waits its turn."""
TURN = 0.05
"""Seconds until then."""
PROBE_LIMIT = 5.0
"""Seconds that the first probe of a route may take; later ones as long as a verification."""


class Claim(NamedTuple):
    """A probe that is to be made.

    Attributes:
        fresh: whether on a connection of its own: a verification.
        limit: seconds that it may take.
        number: that of a verification, for events; `exchanges`: those that asked for it.
    """

    route: Route
    fresh: bool
    limit: float
    number: int = 0
    exchanges: tuple[int, ...] = ()


class Finding(NamedTuple):
    """What came of a probe.

    Attributes:
        started: when it set out, in monotonic seconds.
        status: the status code, if it was answered.
        round_trip: seconds from the request's first byte to the response's headers; None if none came.
        failure: the failure's class or the status code; None for an answer below 500. `detail`: in words.
        unreachable: whether no connection could be made.
        late: whether this process itself was late, so that nothing was measured but that.
    """

    started: float
    status: int | None = None
    round_trip: float | None = None
    failure: str | None = None
    detail: str = ""
    unreachable: bool = False
    late: bool = False


@dataclass(slots=True, eq=False)
class Schedule:
    """Shares the probing among the clients of one router. `now` is monotonic seconds.

    Args:
        interval: seconds between probes of a route; 0: only verifications.
        random: numbers in [0, 1), to spread the probes of many processes.
        numbers: those of verifications.
    """

    interval: float
    random: Callable[[], float]
    numbers: Iterator[int] = field(default_factory=partial(count, 1))
    _visits: WeakKeyDictionary[object, dict[str, float]] = field(default_factory=WeakKeyDictionary)

    def claim(
        self, prober: object, routes: Iterable[Known], now: float, *, offline: bool
    ) -> tuple[list[Claim], float | None]:
        """What the prober is to probe now, and in how many seconds to ask again (None: no sooner than for ever)."""
        claimed: list[Claim] = []
        wait = self.interval or None
        visits = self._visits.setdefault(prober, {})
        for known in routes:
            if len(claimed) >= MOST_AT_ONCE:
                wait = TURN
                break
            if known.silence.wanted and now >= known.verifying_until:
                known.verifying_until = now + LEASE
                limit, number = known.latency.verification_limit, next(self.numbers)
                claimed.append(Claim(known.route, fresh=True, limit=limit, number=number, exchanges=known.askers))
            if not self.interval or now < known.probing_until:
                continue
            name = known.route.name
            due = known.due
            if offline:
                due = min(due, known.probed_at + OFFLINE_INTERVAL)
            if known.breaker.state is not State.OPEN:
                due = min(due, visits.setdefault(name, now) + KEEP_WARM)
            if due > now:
                wait = min(wait or due - now, due - now)
                continue
            known.probing_until = now + LEASE
            known.probed_at = visits[name] = now
            known.probe_at = now + self.interval * (1 + JITTER * (2 * self.random() - 1))
            limit = PROBE_LIMIT if known.latency.round_trip is None else known.latency.verification_limit
            claimed.append(Claim(known.route, fresh=False, limit=limit))
        return claimed, wait if wait is None else max(wait, 0.01)
