"""The probes of smartroute: asks the router what is due, as the shipped probers do, and measures it."""

from math import inf
from random import Random

from benchmarks.selection.contender import Stage
from benchmarks.selection.watching import Watcher
from benchmarks.selection.world import way
from smartroute.policy.outcome import Failure
from smartroute.policy.schedule import Claim, Finding
from smartroute.probe import FIRST_LOOK, LONGEST_WAIT
from smartroute.router import Router

__all__ = ["FAILURES", "Prober"]

FAILURES = {"refused": Failure.CONNECT, "dns": Failure.DNS, "reset": Failure.RESET}
"""What the network's blows are called in smartroute."""


class Prober:
    """Probes over the same connections as the requests."""

    def __init__(self, stage: Stage, router: Router, numbers: dict[str, int], watcher: Watcher, random: Random) -> None:
        self._stage = stage
        self._router = router
        self._numbers = numbers
        self._watcher = watcher
        self._random = random
        self._next_look = inf

    def wake(self) -> None:
        """A request was accepted: probe from now on."""
        if self._next_look == inf:
            self._look_at(self._stage.now + FIRST_LOOK)

    def look(self) -> None:
        """See what is due now; the look that was planned is not needed then."""
        claims, wait = self._router.claim_probes(self)
        for claim in claims:
            self._watcher.probing(self._numbers[claim.route.name])
            self._probe(claim)
        if wait is None:
            self._next_look = inf
        else:
            self._look_at(self._stage.now + min(wait, LONGEST_WAIT))

    def _look_at(self, when: float) -> None:
        self._next_look = when
        self._stage.engine.at(when, self._look_as_planned, when)

    def _look_as_planned(self, when: float) -> None:
        if when == self._next_look:
            self.look()

    def _probe(self, claim: Claim) -> None:
        """A GET over an open connection, or over a new one. What comes of it is settled now, and told in its time."""
        network, now = self._stage.network, self._stage.now
        endpoint, latest = self._numbers[claim.route.name], self._stage.now + claim.limit
        seconds = way(self._stage.world.round_trip(endpoint), self._random)
        begins, over = now, now
        failure = None
        if claim.fresh or not network.take_idle(endpoint):
            opening = network.connect(endpoint, seconds)
            begins = over = opening.at
            failure = FAILURES.get(opening.how) if over <= latest else Failure.CONNECT_TIMEOUT
        unreachable = failure is not None
        if failure is None:
            answer = network.probe(endpoint, seconds, begins)
            over = answer.at
            failure = FAILURES.get(answer.how) if over <= latest else Failure.READ_TIMEOUT
        trip = over - begins if failure is None else None
        found = Finding(now, 200 if failure is None else None, trip, failure, unreachable=unreachable)
        self._stage.engine.at(min(over, latest), self._tell, claim, found)

    def _tell(self, claim: Claim, found: Finding) -> None:
        if found.failure is None and not claim.fresh:  # a fresh connection is for this one question
            self._stage.network.give_back(self._numbers[claim.route.name])
        self._router.probed(claim, found)
