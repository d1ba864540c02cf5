"""The worked example of docs/selection.md prints what stands under it, but for the measured times."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "selection.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n.*?^```text\n(.*?)^```", re.MULTILINE | re.DOTALL)


WIDER = {
    "latency=0.015": "latency=0.04",
    "latency=0.045": "latency=0.3",
    "latency=0.120": "latency=0.7",
    "(5, 2.5, 1.5)": "(2, 1.2, 1.2)",
    "range(15)": "range(8)",
    "global_url=world.url,": "global_url=world.url, probe_interval=0.3,",
}
"""Routes so far apart that no noise of a busy machine changes their order: the numbers are masked anyway."""
UNHURRIED = """
from smartroute.policy import latency, patience
from smartroute.router import Router
from smartroute.transport import driver

driver.LATE = 10.0  # a verification is judged, however busy the machine is
patience.LEAST_RESCUE = 30.0  # and that it fails is what has the request sent elsewhere
probed = Router.probed

def first_of_two(router, claim, found):
    if claim.fresh and found.failure:
        latency.Latency.verification_limit = 30.0  # the second one is under way when the page looks
    probed(router, claim, found)

Router.probed = first_of_two
"""


def masked(printed: str) -> list[str]:
    """What is printed, without the numbers."""
    return re.sub(r"\d+(\.\d+)?", "N", printed).strip().splitlines()


@pytest.mark.timeout(120)
def test_the_example_prints_what_the_page_says() -> None:
    found = EXAMPLE.search(PAGE.read_text("utf-8"))
    assert found
    script, told = found.groups()
    for narrow, wide in WIDER.items():
        assert narrow in script
        script = script.replace(narrow, wide)
    command = [sys.executable, "-c", UNHURRIED + script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert masked(done.stdout) == masked(told)


def test_every_reason_is_explained() -> None:
    page = PAGE.read_text("utf-8")
    reasons = ("best", "incumbent", "size", "detour", "spill", "affinity", "explore", "trial", "unmeasured", "pinned")
    assert [reason for reason in (*reasons, "fallback", "last_resort") if f"`{reason}`" not in page] == []
