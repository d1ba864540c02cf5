"""What breaks: each fault says what it does to a stretch of traffic of its route, from one time to another.

A fault lasts from `start` up to `until`, in seconds. Stretches are judged one by one: a TCP or TLS
handshake, a probe, a request up to its first token, the generation after it.
"""
# ruff: noqa: ARG002 - faults are asked the same questions, and not all of them need to know all

from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import ClassVar, NamedTuple

__all__ = [
    "Blackhole",
    "Blow",
    "Brownout",
    "ClockJump",
    "ColdStart",
    "Errors",
    "Fault",
    "Offline",
    "OnlyStreamingSick",
    "Refuse",
    "Reset",
    "ScaledToZero",
    "SlowNetwork",
    "Stretch",
    "What",
]

AT_ONCE = 0.001
"""Seconds until a machine without a network tells so."""


class What(Enum):
    """What a route is asked for."""

    HANDSHAKE = auto()
    PROBE = auto()
    REQUEST = auto()
    GENERATION = auto()


class Stretch(NamedTuple):
    """What would happen on a route from one time to another.

    Attributes:
        way: the round trip in seconds.
        lot: the request's own number in [0, 1).
    """

    what: What
    begins: float
    ends: float
    way: float
    lot: float = 0.0


class Blow(NamedTuple):
    """How a stretch ends instead.

    Attributes:
        at: when; infinite: never, and nothing is heard.
        how: `silent`, `refused`, `reset`, `dns` or `status`.
        status: the status code of an answer that is an error.
        wait: what its Retry-After says, in seconds.
    """

    at: float
    how: str
    status: int = 0
    wait: float | None = None


SILENT = Blow(inf, "silent")


@dataclass(frozen=True)
class Fault:
    """A window in which something is wrong; by itself, nothing is."""

    start: float
    until: float
    kills: ClassVar[bool] = False
    """Whether connections that are open when it starts are dead from then on."""
    slower: ClassVar[float] = 1.0
    """The factor on service time and generation of what begins while it lasts."""
    farther: ClassVar[float] = 1.0
    """The factor on the round trip."""

    def strikes(self, stretch: Stretch) -> Blow | None:
        """What becomes of a stretch that the fault's time touches; None: nothing special."""
        return None

    def knee(self, now: float, knee: float) -> float:
        """How many requests at once the route stands, instead of the usual number."""
        return knee


@dataclass(frozen=True)
class Blackhole(Fault):
    """Packets are accepted and nothing is ever heard; what is under way stays silent for ever."""

    def strikes(self, stretch: Stretch) -> Blow | None:
        return SILENT


@dataclass(frozen=True)
class Refuse(Fault):
    """Nobody listens: connections are refused, open ones die."""

    kills: ClassVar[bool] = True

    def strikes(self, stretch: Stretch) -> Blow | None:
        if stretch.begins < self.start:
            return Blow(self.start + stretch.way / 2, "reset")
        return Blow(stretch.begins + stretch.way, "refused" if stretch.what is What.HANDSHAKE else "reset")


@dataclass(frozen=True)
class Reset(Fault):
    """At one moment every connection is reset; a new one works. `until` is a moment after `start`."""

    kills: ClassVar[bool] = True

    def strikes(self, stretch: Stretch) -> Blow | None:
        return Blow(self.start + stretch.way / 2, "reset") if stretch.begins < self.start else None


@dataclass(frozen=True)
class Brownout(Fault):
    """The model answers ten times slower; the way there is as short as ever."""

    slower: ClassVar[float] = 10.0


@dataclass(frozen=True)
class SlowNetwork(Fault):
    """The way is ten times longer."""

    farther: ClassVar[float] = 10.0


@dataclass(frozen=True)
class Errors(Fault):
    """A share of the requests gets an error at once; what `wait` says goes with a 429 or a 503."""

    share: float = 1.0
    status: int = 503
    wait: float | None = None

    def strikes(self, stretch: Stretch) -> Blow | None:
        if stretch.what is What.REQUEST and stretch.begins >= self.start and stretch.lot < self.share:
            return Blow(stretch.begins + stretch.way, "status", self.status, self.wait)
        return None


@dataclass(frozen=True)
class ScaledToZero(Fault):
    """No replica is up: a 503 says when to come again. Probes, which need none, are answered."""

    wait: float = 30.0

    def strikes(self, stretch: Stretch) -> Blow | None:
        if stretch.what is What.REQUEST and stretch.begins >= self.start:
            return Blow(stretch.begins + stretch.way, "status", 503, self.wait)
        return None


@dataclass(frozen=True)
class OnlyStreamingSick(Fault):
    """Handshakes and probes are answered, completions stay silent."""

    def strikes(self, stretch: Stretch) -> Blow | None:
        return SILENT if stretch.what in (What.REQUEST, What.GENERATION) else None


@dataclass(frozen=True)
class Offline(Fault):
    """This machine has no network: names do not resolve, open connections die."""

    kills: ClassVar[bool] = True

    def strikes(self, stretch: Stretch) -> Blow | None:
        if stretch.begins < self.start:
            return Blow(self.start, "reset")
        return Blow(stretch.begins + AT_ONCE, "dns" if stretch.what is What.HANDSHAKE else "reset")


@dataclass(frozen=True)
class ColdStart(Fault):
    """A region that has just come back: it stands little load at first, all of it at the end."""

    least: ClassVar[float] = 0.05

    def knee(self, now: float, knee: float) -> float:
        share = (now - self.start) / (self.until - self.start)
        return knee * max(share, self.least)


@dataclass(frozen=True)
class ClockJump(Fault):
    """The wall clock (not the monotonic one) is wrong by so many seconds while it lasts."""

    seconds: float = 3_600.0
