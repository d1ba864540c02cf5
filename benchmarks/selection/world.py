"""The truth of a cell: who asks what and when, and how fast each endpoint would answer at any moment.

Nothing here depends on who chooses. Every number is drawn before the first request from generators that
are seeded with the cell's seed, so each contender meets the same requests with the same luck.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, inf, pi, sin, sqrt
from random import Random
from typing import NamedTuple

from benchmarks.selection.faults import Fault

__all__ = ["DAY", "ROUND_TRIPS", "TYPICAL", "Day", "Request", "World"]

ROUND_TRIPS = (0.015, 0.035, 0.080, 0.160)
"""Seconds to each route and back."""
WORLDWIDE = 0.060
"""Seconds to the global endpoint and back."""
JITTER = 0.05
"""The mean of what is added to each round trip, as a share of it (exponential)."""
RETRANSMITTED, RETRANSMISSION = 0.001, 0.200
"""The share of round trips with a lost packet, and the seconds it costs."""

TYPICAL = 2_000
"""The median of a request's bytes."""
SPREAD_OF_SIZES = 1.0
LEAST_SIZE, MOST_SIZE = 200, 400_000
LONG_SHARE, LONG_SIZE = 0.005, 120_000
"""The share of prompts of 30,000 tokens, and their bytes."""

OVERHEAD, PER_BYTE = 0.040, 0.000_02
"""Seconds to the first token: of any request, and of each of its bytes."""
SPREAD_OF_SERVICE = 0.25
TAILED, TAIL_FROM, TAIL_MOST = 0.01, 2.0, 20.0
"""The share of service times with a heavy tail: times a Pareto variable (alpha 2) between these two."""
MEAN_NOISE = exp(SPREAD_OF_SERVICE**2 / 2) * (1 + TAILED * (2 * TAIL_FROM - TAIL_FROM**2 / TAIL_MOST - 1))

SPREAD_OF_ROUTES = 0.15
WANDER, WANDER_TIME = 0.05, 1_200.0
"""The standard deviation of a route's slow wandering (in logarithms), and the seconds it remembers."""
GRAIN = 10.0
"""Seconds for which the factor of a route stays the same."""

TOKENS, SPREAD_OF_TOKENS, TOKENS_PER_SECOND = 150.0, 0.8, 80.0
"""How long an answer is, and how fast it comes after the first token."""

CACHED, CACHE_TIME = 0.1, 600.0
"""What a byte of the prompt costs that the endpoint served in the turn before, and the seconds it remembers."""
ALLOWED = (0, 2)
"""The regions that bound requests may go to."""
TURNS, THINKING = 8.0, 20.0
"""Turns of a conversation and seconds before the next one, both in the mean (exponential)."""


class Day(NamedTuple):
    """How far a route's speed swings (in logarithms) in how many seconds."""

    swing: float
    seconds: float


DAY = Day(0.20, 86_400.0)


class Request(NamedTuple):
    """A request: when it comes, how many bytes it has, for how many seconds its answer is generated.

    `conversation` is its affinity key; `allowed` are the only endpoints that it may go to.
    """

    number: int
    at: float
    size: int
    generation: float
    conversation: str | None = None
    allowed: tuple[int, ...] | None = None


@dataclass(frozen=True)
class World:
    """A cell's truth. Endpoints are numbered: the routes from 0 by their round trip, then the global one.

    Args:
        seed: of everything that is drawn.
        rate: requests a second (in conversations: their turns).
        seconds: for how long requests come.
        knee: requests at once that a route serves at full speed.
        conversations: whether requests are turns of conversations.
        bound: whether every third request may go to two of the regions only.
        round_trips: seconds to each route and back, the shortest first.
        day: how the routes' speed swings.
    """

    seed: int
    rate: float
    seconds: float
    knee: float = inf
    conversations: bool = False
    bound: bool = False
    round_trips: tuple[float, ...] = ROUND_TRIPS
    day: Day = DAY

    @property
    def routes(self) -> int:
        """How many routes there are; also the number of the global endpoint."""
        return len(self.round_trips)

    def round_trip(self, endpoint: int) -> float:
        """The least seconds there and back."""
        return self.round_trips[endpoint] if endpoint < self.routes else WORLDWIDE

    def factor(self, endpoint: int, now: float) -> float:
        """How slow the endpoint's model is at that time; 1 is usual."""
        factors = self.factors[endpoint]
        return factors[min(int(now / GRAIN), len(factors) - 1)]

    def first_token(self, endpoint: int, size: float, now: float) -> float:
        """The expected seconds to the first token over a warm connection, without load and faults."""
        return self.round_trip(endpoint) * (1 + JITTER) + service(size) * self.factor(endpoint, now) * MEAN_NOISE

    def best(self, now: float) -> list[int]:
        """The routes by their expected first token for a typical request, the best one first."""
        return sorted(range(self.routes), key=lambda route: self.first_token(route, TYPICAL, now))

    @cached_property
    def requests(self) -> Sequence[Request]:
        """Everything that is asked, in order."""
        requests = self._turns() if self.conversations else self._singles()
        if self.bound:
            return [each._replace(allowed=ALLOWED) if each.number % 3 == 0 else each for each in requests]
        return requests

    @cached_property
    def factors(self) -> Sequence[Sequence[float]]:
        """Each endpoint's factor in steps of `GRAIN`; the global one is as good as the best route."""
        steps = int((self.seconds + 1_200) / GRAIN) + 1
        routes = [self._wandering(self._random("factor", route), steps) for route in range(self.routes)]
        return [*routes, [min(factors) for factors in zip(*routes, strict=True)]]

    @cached_property
    def ways(self) -> Sequence[Sequence[float]]:
        """The round trip of each request to each endpoint."""
        random = [self._random("way", endpoint) for endpoint in self._endpoints]
        return [[way(self.round_trip(end), random[end]) for _ in self.requests] for end in self._endpoints]

    @cached_property
    def noises(self) -> Sequence[Sequence[float]]:
        """The factor of chance on the service time of each request at each endpoint."""
        random = [self._random("noise", endpoint) for endpoint in self._endpoints]
        return [[_noise(random[endpoint]) for _ in self.requests] for endpoint in self._endpoints]

    def lot(self, endpoint: int, number: int) -> float:
        """A request's own number in [0, 1) at an endpoint: whether it is one of a share that fails."""
        return Random(f"{self.seed}/lot/{endpoint}/{number}").random()

    @property
    def _endpoints(self) -> range:
        return range(self.routes + 1)

    def _random(self, *what: object) -> Random:
        return Random("/".join(map(str, (self.seed, *what))))

    def _singles(self) -> list[Request]:
        arrivals, sizes, tokens = self._random("arrivals"), self._random("sizes"), self._random("tokens")
        requests: list[Request] = []
        now = arrivals.expovariate(self.rate)
        while now < self.seconds:
            requests.append(Request(len(requests), now, _size(sizes), _generation(tokens)))
            now += arrivals.expovariate(self.rate)
        return requests

    def _turns(self) -> list[Request]:
        """Conversations begin at random; each turn's prompt holds all that was said before."""
        random = self._random("conversations")
        turns: list[Request] = []
        begins, conversation = random.expovariate(self.rate / TURNS), 0
        while begins < self.seconds:
            now, size = begins, _size(random)
            while now < self.seconds:
                generation = _generation(random)
                turns.append(Request(0, now, min(size, MOST_SIZE), generation, f"conversation-{conversation}"))
                if random.random() < 1 / TURNS:
                    break
                now += generation + random.expovariate(1 / THINKING)
                size += int(generation * TOKENS_PER_SECOND * 4) + _size(random) // 4
            begins += random.expovariate(self.rate / TURNS)
            conversation += 1
        turns.sort(key=lambda request: request.at)
        return [request._replace(number=number) for number, request in enumerate(turns)]

    def _wandering(self, random: Random, steps: int) -> list[float]:
        """A route's own speed, the time of day there, and a slow wandering (Ornstein-Uhlenbeck)."""
        level, phase = random.gauss(0, SPREAD_OF_ROUTES), random.uniform(0, 2 * pi)
        kept = exp(-GRAIN / WANDER_TIME)
        moved, strayed = WANDER * sqrt(1 - kept**2), random.gauss(0, WANDER)
        factors = []
        for step in range(steps):
            factors.append(
                exp(level + self.day.swing * sin(2 * pi * step * GRAIN / self.day.seconds + phase) + strayed)
            )
            strayed = strayed * kept + random.gauss(0, moved)
        return factors


Faults = Mapping[int, Sequence[Fault]]
"""What breaks at each endpoint, in order of time."""


def service(size: float) -> float:
    """The usual seconds from a request's arrival at an endpoint to its first token."""
    return OVERHEAD + PER_BYTE * size


def way(shortest: float, random: Random) -> float:
    """A round trip as it happens."""
    lost = RETRANSMISSION if random.random() < RETRANSMITTED else 0.0
    return shortest * (1 + random.expovariate(1 / JITTER)) + lost


def _size(random: Random) -> int:
    if random.random() < LONG_SHARE:
        return LONG_SIZE
    return min(max(round(TYPICAL * exp(random.gauss(0, SPREAD_OF_SIZES))), LEAST_SIZE), MOST_SIZE)


def _generation(random: Random) -> float:
    return TOKENS * exp(random.gauss(0, SPREAD_OF_TOKENS)) / TOKENS_PER_SECOND


def _noise(random: Random) -> float:
    noise = exp(random.gauss(0, SPREAD_OF_SERVICE))
    if random.random() < TAILED:
        noise *= min(TAIL_FROM / sqrt(1 - random.random()), TAIL_MOST)
    return noise
