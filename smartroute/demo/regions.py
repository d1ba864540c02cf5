"""The setting of the demo: three regions and a global endpoint on localhost, each with a key of its own."""

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from smartroute.config import Config
from smartroute.route import GLOBAL, Route
from smartroute.testing import Region

__all__ = ["BEST", "GLOBAL", "LATENCIES", "PROBE_INTERVAL", "TOKENS", "Setting", "setting"]

LATENCIES = {"frankfurt": 0.020, "virginia": 0.060, "tokyo": 0.140, GLOBAL: 0.090}
"""Seconds from a request to its answer's first byte."""
BEST = "frankfurt"
JITTER = 0.004
TOKENS = 8
TOKEN_INTERVAL = 0.004
PROBE_INTERVAL = 1.0
"""Seconds. The default of 10 does the same, but the acts that wait for traffic to move would take minutes."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The regions, by name, and the global endpoint. All are up."""

    regions: Mapping[str, Region]
    endpoint: Region

    @property
    def config(self) -> Config:
        """The configuration that goes with it."""
        return Config(
            [Route(region.url, name=name, api_key=key_of(name)) for name, region in self.regions.items()],
            global_url=self.endpoint.url,
            probe_interval=PROBE_INTERVAL,
        )


@contextmanager
def setting() -> Generator[Setting]:
    """Start everything; stop it when the block is left."""
    with ExitStack() as stack:
        up = {
            name: stack.enter_context(
                Region(
                    name,
                    latency=latency,
                    jitter=JITTER,
                    tokens=TOKENS,
                    token_interval=TOKEN_INTERVAL,
                    api_keys=[key_of(name)],
                    prefix="/inference/v1" if name == GLOBAL else "/v1",
                )
            )
            for name, latency in LATENCIES.items()
        }
        endpoint = up.pop(GLOBAL)
        yield Setting(up, endpoint)


def key_of(name: str) -> str:
    """The one key that this endpoint accepts."""
    return f"key-of-{name}"
