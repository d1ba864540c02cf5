"""The cells: which world, for how long, and what breaks when. Data, and how it becomes windows of faults."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

from benchmarks.selection.faults import (
    Blackhole,
    Brownout,
    ClockJump,
    ColdStart,
    Errors,
    Fault,
    Offline,
    OnlyStreamingSick,
    Refuse,
    Reset,
    ScaledToZero,
    SlowNetwork,
)
from benchmarks.selection.world import DAY, ROUND_TRIPS, Day, Faults, World

__all__ = ["CELLS", "RATES", "Cell", "Outages"]

RATES = {"1/min": 1 / 60, "1/s": 1.0, "20/s": 20.0, "50/s": 50.0}
"""Requests a second, as they are called."""
LENGTHS = {"1/min": 24 * 3_600.0, "1/s": 2 * 3_600.0, "20/s": 1_800.0, "50/s": 600.0}
"""Seconds that a cell of that rate lasts."""
FIRST = {"1/min": 1_800.0, "1/s": 900.0, "20/s": 300.0, "50/s": 150.0}
"""When something breaks first, in seconds; early enough to break twice."""
GAPS = {"1/min": 3_600.0, "1/s": 1_200.0, "20/s": 1_200.0, "50/s": 1_200.0}
"""From one outage's start to the next one's, in seconds."""
OUTAGE = 300.0
"""Seconds that an outage lasts."""

Make = Callable[[float, float], "list[Fault]"]


@dataclass(frozen=True)
class Outages:
    """What breaks, again and again.

    Attributes:
        make: the faults of an outage from its start and its end.
        routes: how many routes it hits: the best ones at that moment; None: all of them.
        worldwide: whether it hits the global endpoint as well.
        always: it is one outage, as long as the cell.
    """

    make: Make
    routes: int | None = 1
    worldwide: bool = False
    always: bool = False

    def plan(self, world: World, rate: str) -> Faults:
        """When it hits which endpoint."""
        faults: dict[int, list[Fault]] = {}
        start, until = (0.0, inf) if self.always else (FIRST[rate], FIRST[rate] + OUTAGE)
        while start < world.seconds:
            hit = world.best(min((start + until) / 2, world.seconds))[: self.routes]
            for endpoint in [*hit, world.routes] if self.worldwide else hit:
                faults.setdefault(endpoint, []).extend(self.make(start, until))
            start += inf if self.always else GAPS[rate]
            until = start + OUTAGE
        return faults


@dataclass(frozen=True)
class Cell:
    """A kind of weather at a rate of requests.

    Attributes:
        name: what it is called, without the rate.
        rate: the name of its rate.
        title: what happens, in a few words.
        outages: what breaks, if anything.
        knee: requests at once that a route serves at full speed.
        conversations: whether requests are turns of conversations.
        bound: whether every third request may go to two of the regions only.
        day: how the routes' speed swings; `round_trips`: seconds to each route and back.
        headline: whether the figures to reach speak of it.
    """

    name: str
    rate: str
    title: str
    outages: Outages | None = None
    knee: float = inf
    conversations: bool = False
    bound: bool = False
    day: Day = DAY
    round_trips: tuple[float, ...] = ROUND_TRIPS
    headline: bool = False

    @property
    def key(self) -> str:
        """Its name among all cells."""
        return f"{self.name} {self.rate}"

    def world(self, seed: int, *, shorter: float = 1.0) -> World:
        """Its world; `shorter`: a share of the usual time, for a quick look."""
        seconds = LENGTHS[self.rate] * shorter
        return World(
            seed,
            RATES[self.rate],
            seconds,
            self.knee,
            self.conversations,
            self.bound,
            self.round_trips,
            self.day,
        )

    def faults(self, world: World) -> Faults:
        """What breaks in that world."""
        return self.outages.plan(world, self.rate) if self.outages else {}


def _one(kind: Callable[[float, float], Fault]) -> Make:
    return lambda start, until: [kind(start, until)]


def _flapping(start: float, until: float, period: float = 20.0) -> list[Fault]:
    """Refuses for 20 s, works for 20 s, and so on."""
    return [Refuse(start + at, start + at + period) for at in range(0, int(until - start), int(2 * period))]


def _back_cold(start: float, until: float) -> list[Fault]:
    return [Refuse(start, until), ColdStart(until, until + 60)]


def _resets(start: float, until: float) -> list[Fault]:
    """Once a minute."""
    return [Reset(start + at, start + at + 0.001) for at in range(0, int(until - start), 60)]


def _some_errors(start: float, until: float) -> list[Fault]:
    return [Errors(start, until, share=0.01, status=503)]


def _half_errors(start: float, until: float) -> list[Fault]:
    return [Errors(start, until, share=0.5, status=503)]


def _too_many(start: float, until: float) -> list[Fault]:
    return [Errors(start, until, share=0.5, status=429, wait=2.0)]


BLACKHOLE = Outages(_one(Blackhole))
BROWNOUT = Outages(_one(Brownout))

_OTHERS: Mapping[str, tuple[str, Outages]] = {
    "flapping": ("the best region refuses every other 20 s", Outages(_flapping)),
    "two regions": ("the two best regions fall silent at once", Outages(_one(Blackhole), routes=2)),
    "all down": ("every region refuses, global stays", Outages(_one(Refuse), routes=None)),
    "offline": ("this machine has no network", Outages(_one(Offline), routes=None, worldwide=True)),
    "errors 1 %": ("1 % of all answers are a 503", Outages(_some_errors, routes=None, always=True)),
    "errors 50 %": ("half of the best region's answers are a fast 503", Outages(_half_errors)),
    "too many": ("half of the best region's answers are a 429", Outages(_too_many)),
    "refused": ("the best region refuses", Outages(_one(Refuse))),
    "resets": ("the best region's connections are reset every minute", Outages(_resets)),
    "slow network": ("the way to the best region is ten times longer", Outages(_one(SlowNetwork))),
    "only streaming": ("the best region answers probes, not completions", Outages(_one(OnlyStreamingSick))),
    "scaled to zero": ("the best region has no replica: 503 with Retry-After", Outages(_one(ScaledToZero))),
    "clock jumps": ("the wall clock is an hour ahead", Outages(_one(ClockJump), routes=None)),
}

_HEADLINE = [
    *(Cell("steady", rate, "nothing breaks", headline=True) for rate in ("1/min", "1/s", "20/s")),
    *(
        Cell("blackhole", rate, "the best region falls silent", BLACKHOLE, headline=True)
        for rate in ("1/min", "1/s", "20/s")
    ),
    *(
        Cell("brownout", rate, "the best region answers ten times slower", BROWNOUT, headline=True)
        for rate in ("1/min", "1/s", "20/s")
    ),
    Cell("saturation", "50/s", "60 requests at once are enough for a region", knee=60, headline=True),
    Cell("conversations", "1/s", "turns of conversations, with an affinity key", conversations=True, headline=True),
]
_MORE = [
    Cell(
        "saturation 20", "20/s", "20 requests at once are enough for a region", knee=20
    ),  # at 50/s nothing and nobody could help
    Cell("saturation 200", "50/s", "200 requests at once are enough for a region", knee=200),
    *(
        Cell("drift", rate, "each region becomes twice as slow and fast again, every two hours", day=Day(0.35, 7_200.0))
        for rate in ("1/s", "20/s")
    ),
    *(
        Cell("twins", rate, "two best regions, two milliseconds apart", round_trips=(0.030, 0.032, 0.080, 0.160))
        for rate in ("1/s", "20/s")
    ),
    Cell("recovery", "20/s", "the best region comes back cold under load", Outages(_back_cold), knee=60),
    Cell(
        "allowed regions", "1/s", "a third may use two regions only; the best one falls silent", BLACKHOLE, bound=True
    ),
    *(Cell(name, "1/s", title, outages) for name, (title, outages) in _OTHERS.items()),
]

CELLS = {cell.key: cell for cell in (*_HEADLINE, *_MORE)}
"""Every cell by its key."""
