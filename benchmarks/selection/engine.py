"""The queue of events, and the clock: time passes from one event to the next, without waiting."""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Protocol, TypeVar

__all__ = ["Clock", "Engine"]


class Timed(Protocol):
    """Anything that happens at a known time."""

    @property
    def at(self) -> float:
        """When, in seconds."""
        ...


Arrival = TypeVar("Arrival", bound=Timed)


class Clock:
    """Virtual seconds; called, it gives the time, as `time.monotonic` does."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Engine:
    """Calls what is due, in order of time; what is due at the same time, in the order it was asked for."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._queue: list[tuple[float, int, Callable[..., object], tuple[object, ...]]] = []
        self._asked = 0

    def at(self, when: float, act: Callable[..., object], *given: object) -> None:
        """Call `act` at a time that is not in the past."""
        self._asked += 1
        heappush(self._queue, (when, self._asked, act, given))

    def run(self, arrivals: Sequence[Arrival], arrive: Callable[[Arrival], object]) -> None:
        """Let everything arrive in its time, then go on until nothing more is to happen."""
        queue, clock = self._queue, self.clock
        for arrival in arrivals:
            while queue and queue[0][0] <= arrival.at:
                clock.now, _, act, given = heappop(queue)
                act(*given)
            clock.now = arrival.at
            arrive(arrival)
        while queue:
            clock.now, _, act, given = heappop(queue)
            act(*given)
