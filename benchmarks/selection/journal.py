"""What became of each request, as its caller sees it."""

from array import array

from benchmarks.selection.world import World

__all__ = ["LOST", "Journal"]

LOST = 10.0
"""Seconds that a request counts which failed, on top of those it took to fail."""


class Journal:
    """A contender's results.

    Attributes:
        costs: the seconds to each request's first token; a failed one costs `LOST` more.
        lucks: the seconds of it that were chance, where it was answered; no choice could have known them.
        endpoints: who answered each; -1: nobody.
        stories: how it came that a request took long, for some of those that did.
        problems: what must never happen, and did.
    """

    def __init__(self, world: World) -> None:
        count = len(world.requests)
        self._world = world
        self.costs = array("d", [-1.0]) * count
        self.lucks = array("d", [0.0]) * count
        self.endpoints = array("b", [-1]) * count
        self.stories: dict[int, str] = {}
        self.problems: list[str] = []

    def answered(self, number: int, endpoint: int, now: float, luck: float) -> None:
        """The first token is there, so many seconds later than was to be expected there."""
        self.lucks[number] = luck
        self._note(number, endpoint, now - self._world.requests[number].at)

    def failed(self, number: int, now: float) -> None:
        """The caller got an error."""
        self._note(number, -1, now - self._world.requests[number].at + LOST)

    def net(self) -> list[float]:
        """The costs without what was mere luck at the endpoint that answered."""
        return [cost - luck for cost, luck in zip(self.costs, self.lucks, strict=True)]

    def close(self) -> None:
        """Nothing more is to come."""
        lost = sum(cost < 0 for cost in self.costs)
        if lost:
            self.problems.append(f"{lost} requests were lost without an answer or an error")

    def _note(self, number: int, endpoint: int, cost: float) -> None:
        if self.costs[number] >= 0:
            self.problems.append(f"request {number} was answered twice")
        self.costs[number] = cost
        self.endpoints[number] = endpoint
