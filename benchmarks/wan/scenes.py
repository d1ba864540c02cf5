"""What is played: calls at several paces, first calls of processes, faults of the best region."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

from benchmarks.wan.worker import CONTENDERS, FLOOR, Call, Urls
from benchmarks.wan.world import BEST, PATIENCE, SECOND, World

__all__ = ["FAULTS", "ORDERS", "PACES", "Fault", "Series", "first_calls", "in_fault", "steady"]

PACES = {"1 per 12 s": 1 / 12, "1 per s": 1.0, "5 per s": 5.0, "20 per s": 20.0}
"""Calls per second of one contender."""
ORDERS = {
    "best first": ("near", "middle", "far"),
    "best second": ("far", "near", "middle"),
    "best last": ("far", "middle", "near"),
}
"""In which order the regions are configured."""
WORST = ORDERS["best last"]
WARM_UP, WARM_UP_PACE = 6, 3.0
"""Calls before those that count, and how many of them a second."""
LEAST_GAP = 0.020
"""Seconds between calls of different contenders. Where the pace leaves less, each makes some of its calls in a row."""
SLOT, SLICE = 0.5, 0.4
"""Seconds that a contender then has for itself, and makes calls in."""
FAULT_PACE = 2.0
LEAD = 1.0
"""Seconds of calls before a fault strikes."""


@dataclass
class Series:
    """The calls of one contender in one scene.

    Attributes:
        made: seconds that making its client took, for each process.
        connections: how many it began meanwhile, and `probes`: how many it sent.
        late: the share of packets that the network delivered more than 1 ms late.
        load: the machine's load average.
    """

    scene: str
    contender: str
    calls: list[Call] = field(default_factory=list)
    made: list[float] = field(default_factory=list)
    seconds: float = 0.0
    connections: int = 0
    probes: int = 0
    late: float = 0.0
    load: float = 0.0

    def first_tokens(self, *, with_client: bool = False) -> list[float]:
        """Milliseconds to each call's first token, in ascending order; a call that failed never got one.

        Args:
            with_client: count from when its client was made.
        """
        made = self.made if with_client else [0.0] * len(self.calls)
        pairs = zip(self.calls, made, strict=True)
        return sorted(float("inf") if c.first is None else (c.first + m) * 1e3 for c, m in pairs)


def _strike(command: str) -> Callable[[World], object]:
    return lambda world: world.tell(BEST, command)


def _filter_connections(world: World) -> None:
    world.host(BEST).leave_unanswered()
    world.tell(BEST, "hang-up")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong with the best region.

    Attributes:
        most: milliseconds that a call that meets it may be late, beside one to the second-best region; None: there is
            no figure.
    """

    strike: Callable[[World], object]
    most: float | None = None


FAULTS = {
    "refused": Fault(_strike("refuse"), 145.0),
    "SYN dropped": Fault(_filter_connections, 500.0),
    "silent": Fault(_strike("silent"), 3_000.0),
    "all packets dropped": Fault(lambda world: world.host(BEST).cut_off(), 3_000.0),
    "brownout x10": Fault(_strike("slow 10")),
}
"""145: a connection to the second-best region is two round trips, and 5 ms; the others as in docs/chaos.md."""


class _Cast:
    """Contenders that play together."""

    def __init__(self, world: World, names: Sequence[str], urls: Callable[[str], Urls]) -> None:
        self.names = names
        self._world = world
        self._stack = ExitStack()
        with ExitStack() as stack:
            # Each keeps its host in all scenes: what has been seen of it before is taken off.
            hosts = [list(CONTENDERS).index(name) for name in names]
            self._hosts = dict(zip(names, hosts, strict=True))
            self._processes = {
                name: stack.enter_context(world.contender(name, host, urls(name))) for name, host in self._hosts.items()
            }
            for process in self._processes.values():
                process.hear()
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def warm_up(self) -> None:
        """Let all make calls that do not count."""
        start = time.monotonic() + 0.1
        self.play("", {name: [start + at for at in self.offsets(name, WARM_UP_PACE, WARM_UP)] for name in self.names})

    def offsets(self, name: str, pace: float, calls: int) -> Iterator[float]:
        """When a contender makes its calls, in seconds: spread so that they take turns."""
        place, of = self.names.index(name), len(self.names)
        if 1 / pace / of >= LEAST_GAP:
            yield from ((call + place / of) / pace for call in range(calls))
            return
        row = round(SLICE * pace)
        for call in range(calls):
            turn, number = divmod(call, row)
            yield (turn * of + place) * SLOT + number / pace

    def play(
        self, scene: str, moments: Mapping[str, Sequence[float]], meanwhile: Callable[[], object] = lambda: None
    ) -> list[Series]:
        """Let those that are named make calls at these moments, and do something meanwhile."""
        connections, probes = self._world.connections(), self._world.probes()
        before, began = self._world.traffic(), time.monotonic()
        for name, when in moments.items():
            self._processes[name].tell(json.dumps(when))
        meanwhile()
        last = max(max(when) for when in moments.values())
        told = {name: self._processes[name].hear(max(0.0, last - time.monotonic()) + PATIENCE) for name in moments}
        seconds, after = time.monotonic() - began, self._world.traffic()
        packets = after["packets"] - before["packets"]
        more, asked = self._world.connections(), self._world.probes()
        return [
            Series(
                scene,
                name,
                [Call(**call) for call in told[name]["calls"]],
                [told[name]["made"]],
                seconds,
                more[host] - connections[host],
                asked[host] - probes[host],
                (after["late"] - before["late"]) / packets if packets else 0.0,
                os.getloadavg()[0],
            )
            for name, host in self._hosts.items()
            if name in moments
        ]


def steady(world: World, names: Sequence[str], pace: str, calls: int) -> list[Series]:
    """So many calls of each at this pace, everything well."""
    with _Cast(world, names, lambda _: world.urls(WORST)) as cast:
        cast.warm_up()
        rate = PACES[pace]
        start = time.monotonic() + max(1.0, 0.5 / rate)
        return cast.play(pace, {name: [start + at for at in cast.offsets(name, rate, calls)] for name in names})


def first_calls(world: World, names: Sequence[str], order: str, processes: int) -> list[Series]:
    """The first call of so many processes of each, with the regions in this order."""
    series = {name: Series(f"first call, {order}", name) for name in names}
    for _ in range(processes):
        with _Cast(world, names, lambda _: world.urls(ORDERS[order], cold=True)) as cast:
            for name in names:
                [now] = cast.play(name, {name: [0.0]})
                series[name].calls += now.calls
                series[name].made += now.made
                series[name].connections += now.connections
                series[name].late = max(series[name].late, now.late)
                series[name].load = max(series[name].load, now.load)
    return list(series.values())


def in_fault(world: World, names: Sequence[str], fault: str, seconds: float) -> list[Series]:
    """Calls of each while the best region has this fault, those included that it strikes in the middle.

    The floor is that of the second-best region then.
    """
    struck = 0.0

    def urls(name: str) -> Urls:
        return world.urls(WORST, best=SECOND if name == FLOOR else BEST)

    def strike() -> None:
        nonlocal struck
        time.sleep(max(0.0, start + LEAD - time.monotonic()))
        struck = time.monotonic()
        FAULTS[fault].strike(world)
        time.sleep(max(0.0, struck + seconds - time.monotonic()))
        world.heal(BEST)

    with _Cast(world, names, urls) as cast:
        cast.warm_up()
        start = time.monotonic() + 0.2
        calls = int((LEAD + seconds) * FAULT_PACE)
        moments = {name: [start + at for at in cast.offsets(name, FAULT_PACE, calls)] for name in names}
        try:
            played = cast.play(fault, moments, strike)
        finally:
            world.heal(BEST)
    for series in played:
        series.calls = [call for call in series.calls if call.end > struck]
    return played
