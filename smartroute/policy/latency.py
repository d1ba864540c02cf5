"""How far a route is, and how long it takes to answer: two estimates that fail separately.

The *round trip* is measured by probes. The *time to first token* is measured by streamed requests,
after taking out what the prompt's size explains: a baseline shared by all routes, and per route a
factor, so that a long prompt is not taken for a slow region.
"""

from dataclasses import dataclass, field
from math import exp, log, log2, sqrt

__all__ = ["Baseline", "Cusum", "Latency"]

ROUND_TRIP_GAIN = 0.2
"""The least weight of a new round trip (RFC 6298 uses 1/8 for streams of samples; probes are rare)."""
ROUND_TRIP_MEMORY = 30.0
"""Seconds after which an old round trip has lost 63 % of its weight."""
MOST_DEVIATIONS = 4.0
"""A round trip that is more deviations too long counts as so long: a lost packet is no distance."""
LEAST_DEVIATION = 0.05
"""The share of a round trip that counts as its deviation at least."""
SPREAD_OF_ROUTES = 0.3
"""How differently routes answer the same prompt, before any is known: a standard deviation of logarithms."""
MEMORY = 3600.0
"""Seconds after which what was learned of a route's factor has lost 63 % of its weight."""
SPREAD_OF_ANSWERS = 0.35
"""How much the answers of one route scatter, before it is known; a standard deviation of logarithms."""
LEAST_SPREAD = 0.05
MOST_SPREAD = 1.0
SPREAD_GAIN = 0.01
"""The weight of one answer in that."""
CLIP = 4.0
"""Standard deviations at which an outlier is cut: one slow answer must not move a route."""
DRIFT = 0.75
"""Standard deviations per sample that the change detector lets go (Page 1954)."""
TRIP = 6.5
"""The sum of standard deviations that is a change: two samples that are cut."""
LEAST_RUN = 1.0
"""Seconds that a change has lasted at least: in heavy traffic two outliers in a row are nothing rare."""
LEAST_SERVICE = 0.001
"""Seconds below which a service time is noise."""
BASELINE_MEMORY = 3600.0
"""Seconds after which an old service time has lost 63 % of its weight: slow, so that a route's drift stays its own."""
MOST_BUCKETS = 256
"""Bounds the memory for model names that callers make up."""
LEAST_HANDSHAKE = 1.0
"""Seconds that a TLS handshake is given at least: a busy server takes its time."""
P99 = 2.326
"""Standard deviations up to the 99th percentile of a normal distribution."""


@dataclass(slots=True, eq=False)
class Baseline:
    """`G(size)`: the usual service time of a request, per model and half-octave of its bytes.

    Attributes:
        spread: how much answers scatter around what is expected of them, a standard deviation of logarithms.
    """

    spread: float = SPREAD_OF_ANSWERS
    _variance: float = SPREAD_OF_ANSWERS**2
    _logs: dict[tuple[str | None, int], tuple[float, int, float]] = field(default_factory=dict)

    def expect(self, model: str | None, size: int) -> float | None:
        """The usual time from request to first token in seconds, the way there and back excluded.

        A size never seen borrows from the nearest size seen for the model; None if there is none.
        """
        bucket = round(2 * log2(size or 1))
        known = self._logs.get((model, bucket))
        if known is None:
            near = [(abs(other - bucket), value) for (name, other), value in self._logs.items() if name == model]
            if not near:
                return None
            known = min(near)[1]
        return exp(known[0])

    def knows(self, model: str | None, size: int) -> bool:
        """Whether requests of this size have been seen, so that nothing has to be borrowed."""
        return (model, round(2 * log2(size or 1))) in self._logs

    def learn(self, model: str | None, size: int, service: float, factor: float, now: float) -> None:
        """Take a service time into account, freed of its route's factor (a logarithm)."""
        key = (model, round(2 * log2(size or 1)))
        mean, count, at = self._logs.pop(key, (0.0, 0, now))  # and put in again at the end: the oldest goes first
        sample = log(max(service, LEAST_SERVICE)) - factor
        if count:
            sample = min(max(sample, mean - CLIP * self.spread), mean + CLIP * self.spread)
        mean += (sample - mean) * max(1 / (count + 1), 1 - exp(-(now - at) / BASELINE_MEMORY))
        if count == 0 and len(self._logs) >= MOST_BUCKETS:
            del self._logs[next(iter(self._logs))]
        self._logs[key] = (mean, count + 1, now)

    def scattered(self, surprise: float, known: float) -> None:
        """An answer came so far from what was expected (a logarithm), of which `known` is the variance's other part."""
        sample = min(surprise * surprise - known, CLIP * CLIP * self._variance)
        self._variance += (sample - self._variance) * SPREAD_GAIN
        self._variance = min(max(self._variance, LEAST_SPREAD**2), MOST_SPREAD**2)
        self.spread = sqrt(self._variance)

    def saving(self, model: str | None, size: int) -> float:
        """What a warm prompt cache may save at the most, in seconds: this prompt against the smallest seen."""
        sizes = [value[0] for (name, _), value in self._logs.items() if name == model]
        usual = self.expect(model, size)
        return max(usual - exp(min(sizes)), 0.0) if usual is not None and sizes else 0.0

    @property
    def slowest(self) -> float:
        """By what factor one answer in a hundred takes longer than expected."""
        return exp(P99 * self.spread)


class Cusum:
    """Page's test: sums up surprises in one direction, and tells when they are a change and no chance."""

    __slots__ = ("_count", "_direction", "_since", "_sum", "_total")

    def __init__(self, direction: int) -> None:
        self._direction = direction
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._sum = self._total = self._since = 0.0
        self._count = 0

    def saw(self, sample: float, surprise: float, now: float) -> tuple[float, int] | None:
        """Take a sample that came as such a surprise (in standard deviations).

        Returns:
            the mean and the number of the samples since the change, if there was one.
        """
        self._sum += self._direction * surprise - DRIFT
        if self._sum <= 0:
            self.reset()
            return None
        if not self._count:
            self._since = now
        self._total += sample
        self._count += 1
        if self._sum < TRIP or now - self._since < LEAST_RUN:
            return None
        change = self._total / self._count, self._count
        self.reset()
        return change


@dataclass(slots=True, eq=False)
class Latency:
    """What is known of one route's speed. All times are in seconds; `now` is monotonic.

    The logarithm of the route's factor is tracked by a scalar Kalman filter whose state returns to that
    of an average route when nothing is heard (an Ornstein-Uhlenbeck process): so few samples count
    little, old ones fade, and the error of the estimate is known. Outliers are clipped; a CUSUM detector
    takes a run of them for a change.

    Attributes:
        round_trip: None while unmeasured.
        factor: how many times longer than usual it takes to answer.
        error: the standard error of the factor's logarithm.
    """

    round_trip: float | None = None
    deviation: float = 0.0
    factor: float = 1.0
    error: float = SPREAD_OF_ROUTES
    _confirmed: bool = False
    _interrupted: bool = False
    _measured: float = 0.0
    _mean: float = 0.0
    _variance: float = SPREAD_OF_ROUTES**2
    _faded: float = 0.0
    _slower: Cusum = field(default_factory=lambda: Cusum(+1))
    _faster: Cusum = field(default_factory=lambda: Cusum(-1))

    def saw_round_trip(self, seconds: float, now: float) -> None:
        """Learn from a probe (never from a failed one: a fast error must not look fast)."""
        if self.round_trip is None or self._interrupted or (not self._confirmed and seconds < self.round_trip):
            # Of the first two the shorter one: what is measured right after an outage has waited for its end.
            self._confirmed = self.round_trip is not None and not self._interrupted
            self._interrupted = False
            self.round_trip, self.deviation = seconds, seconds / 2
        else:
            self._confirmed = True
            most = self.round_trip + MOST_DEVIATIONS * max(self.deviation, LEAST_DEVIATION * self.round_trip)
            seconds = min(seconds, most)
            gain = max(ROUND_TRIP_GAIN, 1 - exp(-(now - self._measured) / ROUND_TRIP_MEMORY))
            self.deviation += (abs(seconds - self.round_trip) - self.deviation) / 4
            self.round_trip += (seconds - self.round_trip) * gain
        self._measured = now

    def saw_first_token(self, seconds: float, baseline: Baseline, model: str | None, size: int, now: float) -> float:
        """Learn from a streamed request's first content, timed from the moment it was sent.

        Returns:
            by what factor it took longer than expected of this route.
        """
        service = max(seconds - (self.round_trip or 0.0), LEAST_SERVICE)
        usual = baseline.expect(model, size) if baseline.knows(model, size) else None
        self.fade(now)
        baseline.learn(model, size, service, self._mean, now)
        if usual is None:  # compared with what another size takes, a long prompt would look like a slow route
            return 1.0
        sample = log(service / usual)
        surprise = sample - self._mean
        noise = baseline.spread**2
        expected = self._variance + noise
        baseline.scattered(surprise, self._variance)
        deviation = sqrt(expected)
        surprises = min(max(surprise / deviation, -CLIP), CLIP)
        changed = self._slower.saw(sample, surprises, now) or self._faster.saw(sample, surprises, now)
        if changed is None:
            gain = self._variance / expected
            self._set(self._mean + surprises * deviation * gain, self._variance * (1 - gain))
        else:
            mean, count = changed
            self._set(mean, noise / count)
        return exp(surprise)

    def slower(self, seconds: float, baseline: Baseline, model: str | None, size: int) -> float:
        """By what factor a first token took longer than expected; nothing is learned."""
        usual = baseline.expect(model, size)
        return 1.0 if usual is None else (seconds - (self.round_trip or 0.0)) / (usual * self.factor)

    def expected(self, baseline: Baseline, model: str | None, size: int, now: float) -> float | None:
        """The expected time to first token over a warm connection; None while the way is unmeasured."""
        if self.round_trip is None:
            return None
        usual = baseline.expect(model, size)
        if usual is None:
            return self.round_trip
        self.fade(now)
        return self.round_trip + usual * self.factor

    def fade(self, now: float) -> None:
        """Forget a little of what was learned: what is old says less."""
        if now > self._faded:
            kept = exp((self._faded - now) / MEMORY)
            prior = SPREAD_OF_ROUTES**2
            self._set(self._mean * kept, prior - (prior - self._variance) * kept * kept)
            self._faded = now

    def interrupt(self) -> None:
        """An outage: the way after it may be another one than before it. Of the factor nothing better is known."""
        self._interrupted = True
        self._slower.reset()
        self._faster.reset()

    @property
    def patience(self) -> float:
        """How long to wait for this route's connection before trying another one's too, in seconds.

        The retransmission timeout of RFC 6298, kept well under the kernel's one second.
        """
        if self.round_trip is None:
            return 0.25
        return min(max(self.round_trip + 4 * self.deviation, 0.1), 0.5)

    @property
    def verification_limit(self) -> float:
        """How long a TCP and a TLS handshake and a GET may take, in seconds: three round trips, and as much again."""
        if self.round_trip is None:
            return 1.5
        return max(0.5, 2 * (3 * self.round_trip + 4 * self.deviation))

    @property
    def handshake(self) -> float:
        """How long a TLS handshake may take before a request goes elsewhere, in seconds: mostly the server's work."""
        return max(LEAST_HANDSHAKE, self.verification_limit)

    def _set(self, mean: float, variance: float) -> None:
        self._mean, self._variance = mean, variance
        self.factor, self.error = exp(mean), sqrt(variance)
