"""Everything that is known of one route."""

from dataclasses import dataclass, field
from math import inf

from smartroute.policy.breaker import Breaker, State
from smartroute.policy.latency import Latency
from smartroute.policy.load import Load
from smartroute.policy.messages import Attempt
from smartroute.policy.selection import Standing
from smartroute.policy.silence import Silence
from smartroute.route import Route, RouteStatus

__all__ = ["TYPICAL_SIZE", "Known"]

TYPICAL_SIZE = 2_000
"""Bytes of a request, if nobody says how many."""
MOST_ASKERS = 16
"""Exchanges that are remembered for having asked for a verification."""


@dataclass(slots=True, eq=False)
class Known:
    """What is known of one route: plain state, guarded by the router's lock. `now` is monotonic seconds."""

    route: Route
    breaker: Breaker
    standing: Standing = field(init=False)
    latency: Latency = field(default_factory=Latency)
    load: Load = field(default_factory=Load)
    silence: Silence = field(default_factory=Silence)
    requests: int = 0
    failures: int = 0
    last_failure: tuple[str, float] | None = None
    probe_at: float = 0.0
    probed_at: float = -inf
    probing_until: float = 0.0
    verifying_until: float = 0.0
    askers: tuple[int, ...] = ()
    trial: Attempt | None = None
    cooldown_until: float = 0.0
    quarantine: dict[str | None, tuple[str, float]] = field(default_factory=dict)
    drained: bool = False
    key: int = 0

    def __post_init__(self) -> None:
        self.standing = Standing(self.route)

    def refresh(self, now: float) -> None:
        """Bring what the ranking reads up to date."""
        self.latency.fade(now)
        standing, latency = self.standing, self.latency
        standing.state = self.breaker.state
        standing.round_trip = inf if latency.round_trip is None else latency.round_trip
        standing.factor, standing.error = latency.factor, latency.error
        standing.load = self.load.penalty(now)

    def obstacle(self, model: str | None, now: float) -> tuple[str | None, float]:
        """Why it must not be asked, if it must not, and until when, if that is known."""
        if self.drained:
            return "drained", inf
        if self.quarantine:
            for key in (None, model):
                if key in self.quarantine:
                    if now < self.quarantine[key][1]:
                        return "quarantine", self.quarantine[key][1]
                    del self.quarantine[key]
        if now < self.cooldown_until:
            return "cooldown", self.cooldown_until
        if self.breaker.state is State.OPEN:
            return "open", inf
        if self._on_trial:
            return "busy", inf
        return "suspect" if self.silence.suspect else None, inf

    def trouble(self, now: float) -> str:
        """What stands in its way, and since when or for how long, in words; nothing: nothing does."""
        words: list[str] = []
        if self.breaker.state is not State.CLOSED:
            words.append(f"for {now - self.breaker.since:.0f} s")
            if self.last_failure is not None:
                words.append(f"({self.last_failure[0]})")
        for why, until in self.quarantine.values():
            if now < until:
                words.append(f"({why}, {until - now:.0f} s left)")
                break
        if now < self.cooldown_until:
            words.append(f"(asked to be left alone, {self.cooldown_until - now:.1f} s left)")
        return " ".join(words)

    def asked_by(self, exchange: int) -> None:
        """An exchange waits for a verification."""
        if exchange and exchange not in self.askers and len(self.askers) < MOST_ASKERS:
            self.askers += (exchange,)

    def is_dead_to(self, attempt: Attempt) -> bool:
        """Whether there is proof, or half of it, that this attempt waits in vain."""
        opened = self.breaker.state is State.OPEN and self.breaker.since >= attempt.started
        return opened or self.silence.failed_since(attempt.departed)

    @property
    def _on_trial(self) -> bool:
        """Whether its trial is under way (a request that has hung since before the outage is none)."""
        trial = self.trial
        if self.breaker.state is not State.HALF_OPEN or trial is None:
            return False
        return trial.ended is None and trial.started >= self.breaker.since

    @property
    def due(self) -> float:
        """When it is to be probed next."""
        return self.breaker.retry_at if self.breaker.state is State.OPEN else self.probe_at

    def status(self, usual: float, now: float, *, probing: bool, incumbent: bool) -> RouteStatus:
        """What is known, as a value.

        Args:
            usual: the usual service time of a typical request in seconds.
            probing: whether probes are being made at all.
        """
        near = self.latency.round_trip
        quarantine = next((why for why, until in self.quarantine.values() if now < until), None)
        return RouteStatus(
            name=self.route.name,
            kind=self.route.kind,
            region=self.route.region,
            url=self.route.url,
            state=self.breaker.state,
            since=now - self.breaker.since,
            round_trip=near,
            first_token=None if near is None else near + usual * self.latency.factor,
            in_flight=self.load.in_flight,
            limit=int(self.load.limit),
            factor=self.latency.factor,
            requests=self.requests,
            failures=self.failures,
            last_failure=self.last_failure and (self.last_failure[0], now - self.last_failure[1]),
            next_probe=max(self.due - now, 0.0) if probing else None,
            cooldown=max(self.cooldown_until - now, 0.0),
            quarantine=quarantine,
            suspect=self.silence.suspect,
            incumbent=incumbent,
            drained=self.drained,
        )
