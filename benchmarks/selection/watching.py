"""What is counted of a router from outside: the incumbent's moves, and the probes of closed routes."""

from smartroute.events import BreakerChanged, Event, IncumbentChanged
from smartroute.router import Router

__all__ = ["Watcher"]


class Watcher:
    """Listens to a router without being active: exchanges make no events for it.

    Attributes:
        moves: when the incumbent was left, and for which route.
        probes: how many probes each route got while it was closed, verifications included.
        closed: for how many seconds each route was closed since the beginning.
    """

    active = False

    def __init__(self, router: Router, numbers: dict[str, int]) -> None:
        self._router = router
        self._numbers = numbers
        self.moves: list[tuple[float, int]] = []
        self._closed_since: dict[int, float | None] = dict.fromkeys(range(len(numbers) - 1), 0.0)
        self.probes = [0] * (len(numbers) - 1)
        self.closed = [0.0] * (len(numbers) - 1)
        router.subscribe(self)

    def __call__(self, event: Event, /) -> None:
        """A breaker or the incumbent changed, or a probe ended."""
        now = self._router.clock()
        if isinstance(event, IncumbentChanged):
            if event.before is not None:
                self.moves.append((now, self._numbers[event.after.name]))
        elif isinstance(event, BreakerChanged):
            number = self._numbers[event.route.name]
            since = self._closed_since[number]
            if event.after == "closed":
                self._closed_since[number] = now
            elif since is not None:
                self.closed[number] += now - since
                self._closed_since[number] = None

    def probing(self, number: int) -> None:
        """A probe sets out."""
        if self._closed_since[number] is not None:
            self.probes[number] += 1

    def close(self, now: float) -> None:
        """Everything is over."""
        for number, since in self._closed_since.items():
            if since is not None:
                self.closed[number] += now - since
