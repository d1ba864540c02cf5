"""What every contender is: something that requests are handed to, in a world of its own."""

from dataclasses import dataclass
from typing import Protocol

from benchmarks.selection.engine import Engine
from benchmarks.selection.journal import Journal
from benchmarks.selection.network import Network
from benchmarks.selection.world import Request, World

__all__ = ["SILENCE", "Contender", "Stage"]

SILENCE = 600.0
"""Seconds without a byte after which a caller's own read timeout ends a stream (the OpenAI SDK's default)."""


@dataclass(frozen=True)
class Stage:
    """Where one contender plays one cell with one seed."""

    world: World
    engine: Engine
    network: Network
    journal: Journal

    @property
    def now(self) -> float:
        """The time."""
        return self.engine.clock.now


class Contender(Protocol):
    """A way to choose."""

    def arrive(self, request: Request) -> None:
        """A request is made. What becomes of it is told to the journal."""
        ...

    def close(self) -> None:
        """Everything is over: tell the journal what should not be left behind."""
        ...
