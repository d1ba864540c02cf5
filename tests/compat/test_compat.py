"""The OpenAI SDKs before version 3, which speak httpx, in environments of their own."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from smartroute.testing import Region
from tests.environments import ROOT, python_with
from tests.transport.kit import eventually

SCRIPT = Path(__file__).with_name("script.py")
TEXT = " 2 3 4 5"
SAID = ("All routes are down: ", "No endpoint can be reached, ")
"""How the warnings begin that there must be."""


class Script:
    """The script, running; each `calls()` makes it call."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.about = self._line()

    def calls(self) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._line()

    def _line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline() or "null")


@pytest.fixture
def regions() -> Iterator[dict[str, Region]]:
    with ExitStack() as stack:
        near = Region("near", api_keys=["fake-near-key"])
        far = Region("far", latency=0.1, api_keys=["fake-shared-key"])
        globe = Region("globe", api_keys=["fake-console-key"], prefix="/inference/v1")
        yield {region.name: stack.enter_context(region) for region in (near, far, globe)}


@pytest.mark.parametrize(("name", "major"), [("openai1", "1"), ("openai2", "2")])
def test_an_older_sdk_routes_and_fails_over(regions: dict[str, Region], name: str, major: str) -> None:
    near, far, globe = regions.values()
    environ = {
        "SMARTROUTE_ROUTES": f"near={near.url}, far={far.url}",
        "SMARTROUTE_API_KEY": "fake-shared-key",
        "SMARTROUTE_API_KEY_NEAR": "fake-near-key",
        "SMARTROUTE_MODEL": "accounts/fireworks/models/m",
        "SMARTROUTE_GLOBAL_URL": globe.url,
        "SMARTROUTE_PROBE_INTERVAL": "0.2",
        "OPENAI_BASE_URL": globe.url,
        "OPENAI_API_KEY": "fake-console-key",
        "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen(
        [python_with(name), SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    ) as process:
        script = Script(process)
        assert script.about["openai"].split(".")[0] == major
        assert script.about["client"].startswith("httpx.") or script.about["client"] == "httpx"

        def answers(route: str, region: str) -> dict[str, list[list[str]]]:
            return {kind: [[route, region + TEXT]] * 2 for kind in ("sync", "async")}

        assert eventually(lambda: script.calls() == answers("near", "near"))  # once it is measured
        near.stop()
        assert script.calls() == answers("far", "far")
        far.stop()
        assert script.calls() == answers("global", "globe")
        assert {seen.json()["model"] for seen in globe.requests} == {"m"}
        globe.stop()
        assert script.calls() == {"error": "APIConnectionError"}
        _, errors = process.communicate(timeout=50)
        assert process.returncode == 0
        assert [line for line in errors.splitlines() if not line.startswith(SAID)] == []
    assert {seen.json()["model"] for seen in near.requests if seen.body} == {"accounts/fireworks/models/m"}
    assert {seen.header("authorization") for seen in far.requests} == {"Bearer fake-shared-key"}
