"""How the baselines choose: the rules that are in use elsewhere, each with its own memory.

All of them leave a route out for a while after it failed, as their originals do in one form or another.
"""
# ruff: noqa: ARG002 - rules are told the same things, and not all of them listen to all

from collections import deque
from collections.abc import Callable, Sequence
from math import exp, inf
from random import Random

__all__ = ["RULES", "Rule"]

LEFT_OUT = 5.0
"""Seconds for which a route is left out that failed (LiteLLM's cooldown)."""
PROBE_INTERVAL = 10.0


class Rule:
    """Chooses among routes that are numbered by their round trip, the nearest first.

    Attributes:
        probes: whether it wants the round trip of each route every 10 seconds.
    """

    probes = False
    left_out = LEFT_OUT

    def __init__(self, routes: int, random: Random) -> None:
        self.routes = range(routes)
        self.random = random
        self.out_until = [-inf] * routes

    def choose(self, tried: Sequence[int], now: float) -> int | None:
        """Which route is to get the request; None: all were tried. Routes left out come last."""
        fresh = [route for route in self.routes if route not in tried]
        healthy = [route for route in fresh if self.out_until[route] <= now]
        among = healthy or fresh
        return self.pick(among, now) if among else None

    def pick(self, among: Sequence[int], now: float) -> int:
        """The rule itself."""
        raise NotImplementedError

    def sent(self, route: int, now: float) -> None:
        """A request is on its way."""

    def answered(self, route: int, seconds: float, now: float) -> None:
        """Its first token came after so long, connecting included."""

    def failed(self, route: int, seconds: float, now: float, *, timed_out: bool) -> None:
        """It failed after so long."""
        self.out_until[route] = now + self.left_out

    def ended(self, route: int, now: float) -> None:
        """It is not in flight any more."""

    def probed(self, route: int, seconds: float | None, now: float) -> None:
        """A probe's round trip; None: it failed."""


class StaticBest(Rule):
    """The nearest route, always; the next one while it is left out."""

    def pick(self, among: Sequence[int], now: float) -> int:
        return among[0]


class AtRandom(Rule):
    """Any route."""

    def pick(self, among: Sequence[int], now: float) -> int:
        return self.random.choice(among)


class RoundRobin(Rule):
    """One after the other."""

    _last = -1

    def pick(self, among: Sequence[int], now: float) -> int:
        self._last = min(among, key=lambda route: (route - self._last - 1) % len(self.routes))
        return self._last


class LowestMean(Rule):
    """The lowest mean time to first token of the last ten (LiteLLM's latency-based routing).

    As there, a route without samples comes first, a timeout counts as 1,000 s, and samples are forgotten
    after an hour without new ones.
    """

    buffer = 10
    penalty = 1_000.0
    forgotten = 3_600.0

    def __init__(self, routes: int, random: Random) -> None:
        super().__init__(routes, random)
        self._last: list[deque[float]] = [deque(maxlen=self.buffer) for _ in self.routes]
        self._learned = [-inf] * routes

    def pick(self, among: Sequence[int], now: float) -> int:
        return min(among, key=lambda route: (self._mean(route, now), self.random.random()))

    def _mean(self, route: int, now: float) -> float:
        last = self._last[route]
        if now - self._learned[route] > self.forgotten:
            last.clear()
        return sum(last) / len(last) if last else 0.0

    def answered(self, route: int, seconds: float, now: float) -> None:
        self._last[route].append(seconds)
        self._learned[route] = now

    def failed(self, route: int, seconds: float, now: float, *, timed_out: bool) -> None:
        super().failed(route, seconds, now, timed_out=timed_out)
        if timed_out:
            self.answered(route, self.penalty, now)


class EpsilonGreedy(Rule):
    """The lowest moving average (gain 0.3), and one request in twenty anywhere. A failure counts its time."""

    gain, epsilon = 0.3, 0.05

    def __init__(self, routes: int, random: Random) -> None:
        super().__init__(routes, random)
        self._average: list[float | None] = [None] * routes

    def pick(self, among: Sequence[int], now: float) -> int:
        if self.random.random() < self.epsilon:
            return self.random.choice(among)
        return min(among, key=lambda route: self._average[route] or 0.0)

    def answered(self, route: int, seconds: float, now: float) -> None:
        average = self._average[route]
        self._average[route] = seconds if average is None else average + self.gain * (seconds - average)

    def failed(self, route: int, seconds: float, now: float, *, timed_out: bool) -> None:
        super().failed(route, seconds, now, timed_out=timed_out)
        self.answered(route, seconds, now)


class PeakEwma(Rule):
    """The better of two at random, by peak-sensitive average times requests in flight (Finagle's P2C PeakEWMA).

    The average jumps up to a higher sample at once and decays towards lower ones over 10 s; with nothing
    sent it decays towards zero. A failure counts as its elapsed time.
    """

    decay = 10.0
    unknown = 1e9
    """The cost of a route with requests in flight of which none was answered yet."""

    def __init__(self, routes: int, random: Random) -> None:
        super().__init__(routes, random)
        self._cost = [0.0] * routes
        self._at = [0.0] * routes
        self._flying = [0] * routes

    def pick(self, among: Sequence[int], now: float) -> int:
        if len(among) == 1:
            return among[0]
        one, other = self.random.sample(among, 2)
        return one if self._load(one, now) <= self._load(other, now) else other

    def _load(self, route: int, now: float) -> float:
        self._observe(route, 0.0, now)
        if self._cost[route] == 0.0 and self._flying[route]:
            return self.unknown + self._flying[route]
        return self._cost[route] * (self._flying[route] + 1)

    def _observe(self, route: int, seconds: float, now: float) -> None:
        old = self._cost[route]
        kept = exp(-(now - self._at[route]) / self.decay)
        self._cost[route] = seconds if seconds > old else old * kept + seconds * (1 - kept)
        self._at[route] = now

    def sent(self, route: int, now: float) -> None:
        self._flying[route] += 1

    def answered(self, route: int, seconds: float, now: float) -> None:
        self._observe(route, seconds, now)

    def failed(self, route: int, seconds: float, now: float, *, timed_out: bool) -> None:
        super().failed(route, seconds, now, timed_out=timed_out)
        self._observe(route, seconds, now)

    def ended(self, route: int, now: float) -> None:
        self._flying[route] -= 1


class Nearest(Rule):
    """Any route within 15 ms of the nearest by its probes' moving average (MongoDB's `nearest`).

    A route that failed is unknown until its next good probe, for 30 s at the most.
    """

    probes = True
    left_out = 30.0
    gain, window = 0.2, 0.015

    def __init__(self, routes: int, random: Random) -> None:
        super().__init__(routes, random)
        self._round_trip: list[float | None] = [None] * routes

    def pick(self, among: Sequence[int], now: float) -> int:
        measured = [(seconds, route) for route in among if (seconds := self._round_trip[route]) is not None]
        if not measured:
            return self.random.choice(among)
        nearest = min(measured)[0]
        return self.random.choice([route for seconds, route in measured if seconds <= nearest + self.window])

    def probed(self, route: int, seconds: float | None, now: float) -> None:
        if seconds is None:
            self.out_until[route] = now + self.left_out
            return
        self.out_until[route] = now
        average = self._round_trip[route]
        self._round_trip[route] = seconds if average is None else average + self.gain * (seconds - average)


RULES: dict[str, Callable[[int, Random], Rule]] = {
    "static best route": StaticBest,
    "random": AtRandom,
    "round robin": RoundRobin,
    "lowest mean of ten": LowestMean,
    "EWMA, 5 % anywhere": EpsilonGreedy,
    "P2C PeakEWMA": PeakEwma,
    "MongoDB nearest": Nearest,
}
"""The baselines, by the names that tables and `--contender` use."""
