"""Which route each conversation is on: a warm prompt cache can be worth a round trip."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from cachetools import TTLCache

from smartroute.policy.selection import Standing

__all__ = ["MOST_IN_FLIGHT", "Conversations", "Talk"]

MEMORY = 600.0
"""Seconds after its last request for which a conversation is remembered."""
MOST = 10_000
"""Conversations remembered, the least recent is forgotten first."""
LONGEST = 512
"""Characters of a model and an affinity key above which a digest of them is remembered."""
MOST_IN_FLIGHT = 4
"""A key with more requests in flight than this is no conversation but a constant."""


@dataclass(slots=True, eq=False)
class Talk:
    """One conversation: the route it is on, and its requests in flight."""

    home: Standing | None = None
    in_flight: int = 0


class Conversations:
    """The conversations of late, by model and affinity key. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._talks: TTLCache[tuple[str | None, str], Talk] = TTLCache(MOST, MEMORY, clock)

    def home(self, model: str | None, key: str) -> Standing | None:
        """The route that this conversation is on, if it is one."""
        talk = self._talks.get(_brief(model, key))
        return talk.home if talk is not None and talk.in_flight < MOST_IN_FLIGHT else None

    def join(self, model: str | None, key: str) -> Talk:
        """Another request of this conversation; `in_flight` is for the caller to take back when it is over."""
        brief = _brief(model, key)
        talk = self._talks.get(brief) or Talk()
        self._talks[brief] = talk  # from now on it is remembered as long again
        talk.in_flight += 1
        return talk

    def after_fork(self) -> None:
        """In a child process: what was under way is the parent's."""
        for talk in self._talks.values():
            talk.in_flight = 0


def _brief(model: str | None, key: str) -> tuple[str | None, str]:
    """What a conversation is remembered by: its names come from callers, and may be of any length."""
    if len(model or "") + len(key) <= LONGEST:
        return model, key
    return None, sha256(f"{len(key)} {key} {model}".encode(errors="surrogatepass")).hexdigest()
