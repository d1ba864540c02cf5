"""No test sees the settings of whoever runs it."""

import gc
import os

from hypothesis import HealthCheck, settings

for name in tuple(os.environ):
    if name.startswith(("SMARTROUTE_", "OPENAI_", "FIREWORKS_", "OTEL_")) or name.lower().endswith("_proxy"):
        del os.environ[name]

# A slow machine is no failure; and under `make test` each run tries the same examples.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=bool(os.environ.get("SETUP_REQUIRED")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """What is there before the first test stays: no collection of garbage needs to look at it again."""
    gc.collect()
    gc.freeze()
