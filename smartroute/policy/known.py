"""Everything that is known of one route."""

from dataclasses import dataclass, field

from smartroute.policy.breaker import Breaker, State
from smartroute.policy.latency import Baseline, Latency
from smartroute.policy.messages import Attempt
from smartroute.route import Route, RouteStatus

__all__ = ["TYPICAL_SIZE", "Known"]

TYPICAL_SIZE = 2_000
"""Bytes of the request that `RouteStatus.first_token` speaks of."""


@dataclass(slots=True)
class Known:
    """What is known of one route: plain state, guarded by the router's lock. `now` is monotonic seconds."""

    route: Route
    breaker: Breaker
    latency: Latency = field(default_factory=Latency)
    in_flight: int = 0
    requests: int = 0
    failures: int = 0
    last_failure: tuple[str, float] | None = None
    probe_at: float = 0.0
    probing_until: float = 0.0
    trial: Attempt | None = None
    cooldown_until: float = 0.0
    quarantine: dict[str | None, tuple[str, float]] = field(default_factory=dict)
    drained: bool = False
    key: int = 0

    def obstacle(self, model: str | None, now: float) -> str | None:
        """Why it must not be asked, if it must not."""
        if self.drained:
            return "drained"
        if self.quarantine:
            for key in (None, model):
                if key in self.quarantine:
                    if now < self.quarantine[key][1]:
                        return "quarantine"
                    del self.quarantine[key]
        if now < self.cooldown_until:
            return "cooldown"
        if self.breaker.state is State.OPEN:
            return "open"
        return "busy" if self._on_trial else None

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

    def status(self, baseline: Baseline, now: float, *, probing: bool, incumbent: bool) -> RouteStatus:
        """What is known, as a value. `probing`: whether probes are being made at all."""
        quarantine = next((why for why, until in self.quarantine.values() if now < until), None)
        return RouteStatus(
            name=self.route.name,
            kind=self.route.kind,
            region=self.route.region,
            url=self.route.url,
            state=self.breaker.state,
            since=now - self.breaker.since,
            round_trip=self.latency.round_trip,
            first_token=self.latency.expected(baseline, None, TYPICAL_SIZE, now),
            in_flight=self.in_flight,
            requests=self.requests,
            failures=self.failures,
            last_failure=self.last_failure and (self.last_failure[0], now - self.last_failure[1]),
            next_probe=max(self.due - now, 0.0) if probing else None,
            cooldown=max(self.cooldown_until - now, 0.0),
            quarantine=quarantine,
            incumbent=incumbent,
            drained=self.drained,
        )
