"""How far a route is, and how long it takes to answer: two estimates that fail separately.

The *round trip* is measured by probes. The *time to first token* is measured by streamed requests,
after taking out what the prompt's size explains: a baseline shared by all routes, and per route a
residual, so that a long prompt is not taken for a slow region.
"""

from dataclasses import dataclass, field
from math import exp, log, log2

__all__ = ["Baseline", "Latency"]

ROUND_TRIP_GAIN = 0.2
"""The least weight of a new round trip (RFC 6298 uses 1/8 for streams of samples; probes are rare)."""
ROUND_TRIP_MEMORY = 30.0
"""Seconds after which an old round trip has lost 63 % of its weight."""
RESIDUAL_GAIN = 0.02
RESIDUAL_MEMORY = 120.0
CONFIDENCE_HALF_LIFE = 240.0
"""Seconds in which half of what is known of a route's residual stops counting."""
SHRINKAGE = 4.0
"""So many samples weigh as much as the belief that all routes answer alike."""
LEAST_SERVICE = 0.001
"""Seconds below which a service time is noise."""
BASELINE_GAIN = 0.05
MOST_BUCKETS = 256
"""Bounds the memory for model names that callers make up."""


@dataclass(slots=True)
class Baseline:
    """`G(size)`: the usual service time of a request, per model and half-octave of its bytes."""

    _logs: dict[tuple[str | None, int], tuple[float, int]] = field(default_factory=dict)

    def expect(self, model: str | None, size: int) -> float | None:
        """The usual time from request to first token in seconds, the way there and back excluded.

        A size never seen borrows from the nearest size seen for the model; None if there is none.
        """
        bucket = _bucket(size)
        known = self._logs.get((model, bucket))
        if known is None:
            near = [(abs(other - bucket), value) for (name, other), value in self._logs.items() if name == model]
            if not near:
                return None
            known = min(near)[1]
        return exp(known[0])

    def knows(self, model: str | None, size: int) -> bool:
        """Whether requests of this size have been seen, so that nothing has to be borrowed."""
        return (model, _bucket(size)) in self._logs

    def learn(self, model: str | None, size: int, service: float, residual: float) -> None:
        """Take a service time into account, freed of what is known of its route."""
        key = (model, _bucket(size))
        mean, count = self._logs.pop(key, (0.0, 0))  # and put in again at the end: the oldest goes first
        sample = log(max(service, LEAST_SERVICE)) - residual
        mean += (sample - mean) * max(1 / (count + 1), BASELINE_GAIN)
        if count == 0 and len(self._logs) >= MOST_BUCKETS:
            del self._logs[next(iter(self._logs))]
        self._logs[key] = (mean, count + 1)


def _bucket(size: int) -> int:
    return round(2 * log2(max(size, 1)))


@dataclass(slots=True)
class Latency:
    """What is known of one route's speed. All times are in seconds; `now` is monotonic."""

    round_trip: float | None = None
    deviation: float = 0.0
    _measured: float = 0.0
    _residual: float = 0.0
    _samples: float = 0.0
    _learned: float = 0.0
    _faded: float = 0.0

    def saw_round_trip(self, seconds: float, now: float) -> None:
        """Learn from a probe (never from a failed one: a fast error must not look fast)."""
        if self.round_trip is None:
            self.round_trip, self.deviation = seconds, seconds / 2
        else:
            gain = max(ROUND_TRIP_GAIN, 1 - exp(-(now - self._measured) / ROUND_TRIP_MEMORY))
            self.deviation += (abs(seconds - self.round_trip) - self.deviation) / 4
            self.round_trip += (seconds - self.round_trip) * gain
        self._measured = now

    def saw_first_token(self, seconds: float, baseline: Baseline, model: str | None, size: int, now: float) -> None:
        """Learn from a streamed request's first content, timed from the moment it was sent."""
        service = max(seconds - (self.round_trip or 0.0), LEAST_SERVICE)
        usual = baseline.expect(model, size) if baseline.knows(model, size) else None
        self._fade(now)
        baseline.learn(model, size, service, self._weight * self._residual)
        if usual is None:  # compared with what another size takes, a long prompt would look like a slow route
            return
        gain = max(1 / (self._samples + 1), 1 - exp(-(now - self._learned) / RESIDUAL_MEMORY), RESIDUAL_GAIN)
        self._residual += (log(service / usual) - self._residual) * gain
        self._samples += 1
        self._learned = now

    def expected(self, baseline: Baseline, model: str | None, size: int, now: float) -> float | None:
        """The expected time to first token over a warm connection; None while the way is unmeasured."""
        if self.round_trip is None:
            return None
        usual = baseline.expect(model, size)
        if usual is None:
            return self.round_trip
        self._fade(now)
        return self.round_trip + usual * exp(self._weight * self._residual)

    def forget(self) -> None:
        """Forget everything: what comes after an outage is not what was before it."""
        self.round_trip = None
        self.deviation = self._residual = self._samples = 0.0

    @property
    def patience(self) -> float:
        """How long to wait for this route's connection before trying another one's too, in seconds.

        The retransmission timeout of RFC 6298, kept well under the kernel's one second.
        """
        if self.round_trip is None:
            return 0.25
        return min(max(self.round_trip + 4 * self.deviation, 0.1), 0.5)

    @property
    def _weight(self) -> float:
        return self._samples / (self._samples + SHRINKAGE)

    def _fade(self, now: float) -> None:
        if now > self._faded:
            self._samples *= 0.5 ** ((now - self._faded) / CONFIDENCE_HALF_LIFE)
            self._faded = now
