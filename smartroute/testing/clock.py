"""A clock that a test turns by hand."""

__all__ = ["Clock"]


class Clock:
    """A monotonic clock that moves only when told to: pass it wherever `time.monotonic` is the default.

    It starts at some time other than zero, because monotonic clocks do.
    """

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = start

    def __call__(self) -> float:
        """The time now, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass.

        Raises:
            ValueError: if they are negative; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back {-seconds} seconds")
        self._now += seconds

    def __repr__(self) -> str:
        return f"Clock({self._now!r})"
