"""Medians, their uncertainty, and ratios of what was measured side by side."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Figure", "ratio", "summary"]


class Figure(NamedTuple):
    """A median, and an interval that holds it with 95 % probability if the rounds are independent."""

    median: float
    low: float
    high: float

    def percent(self) -> str:
        """A ratio as what it adds: `+1.5 % (+0.9 .. +2.0)`."""
        return f"{self.median * 100 - 100:+.1f} % ({self.low * 100 - 100:+.1f} .. {self.high * 100 - 100:+.1f})"

    def times(self) -> str:
        """A ratio as a multiple: `2.10 (2.05 .. 2.16)`."""
        return f"{self.median:.2f} ({self.low:.2f} .. {self.high:.2f})"


def summary(samples: Sequence[float]) -> Figure:
    """The median of the samples; the interval is between two of them, whatever their distribution (the sign test's)."""
    ordered = sorted(samples)
    count = len(ordered)
    outside = max(0, int(count / 2 - 0.98 * count**0.5))
    return Figure(statistics.median(ordered), ordered[outside], ordered[count - 1 - outside])


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> Figure:
    """The ratio to another's samples of the same rounds: what slows down a whole round falls out."""
    return summary([one / other for one, other in zip(mine, theirs, strict=True)])
