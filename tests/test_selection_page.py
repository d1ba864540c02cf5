"""The worked example of docs/selection.md prints what stands under it, but for the measured times."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "selection.md"
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n.*?^```text\n(.*?)^```", re.MULTILINE | re.DOTALL)


def masked(printed: str) -> list[str]:
    """What is printed, without the numbers."""
    return re.sub(r"\d+(\.\d+)?", "N", printed).strip().splitlines()


def test_the_example_prints_what_the_page_says() -> None:
    found = EXAMPLE.search(PAGE.read_text("utf-8"))
    assert found
    script, told = found.groups()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50)
    assert masked(done.stdout) == masked(told)


def test_every_reason_is_explained() -> None:
    page = PAGE.read_text("utf-8")
    reasons = ("best", "incumbent", "size", "detour", "spill", "affinity", "explore", "trial", "unmeasured", "pinned")
    assert [reason for reason in (*reasons, "fallback", "last_resort") if f"`{reason}`" not in page] == []
