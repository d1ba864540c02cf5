"""What the docs show has been run, and what they list is what there is."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from smartroute.settings import SETTINGS
from smartroute.testing import Region
from tests.collector import collecting

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text("utf-8")), 1)
]


@pytest.fixture
def stand_in() -> Iterator[tuple[str, dict[str, str]]]:
    """Two regions and a global endpoint on this machine: its URL, and an environment that names them."""
    with ExitStack() as stack:
        near, far = (stack.enter_context(Region(name, api_keys=["fake-direct-key"])) for name in ("near", "far"))
        world = stack.enter_context(Region("global", prefix="/inference/v1", api_keys=["fake-console-key"]))
        yield (
            world.url,
            {
                "SMARTROUTE_ROUTES": f"us-arizona-1={near.url} eu-frankfurt-1={far.url}",
                "SMARTROUTE_API_KEY": "fake-direct-key",
                "SMARTROUTE_GLOBAL_URL": world.url,
                "FIREWORKS_API_KEY": "fake-console-key",
                "OPENAI_API_KEY": "fake-console-key",
            },
        )


@pytest.mark.parametrize("snippet", SNIPPETS)
@pytest.mark.timeout(120)
def test_snippets_run(snippet: str, stand_in: tuple[str, dict[str, str]]) -> None:
    url, environ = stand_in
    code = snippet.replace("https://api.fireworks.ai/inference/v1", url)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("SMARTROUTE_")}, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_every_setting_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    rows = [f"| `{s.variable}` | {s.meaning} | {f'`{s.default}`' if s.default else ''} |" for s in SETTINGS]
    assert [row for row in rows if row not in page] == []


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
@pytest.mark.timeout(120)
def test_examples_run(script: Path, stand_in: tuple[str, dict[str, str]]) -> None:
    with collecting() as collector:
        done = subprocess.run(
            [sys.executable, script],
            env={**os.environ, **stand_in[1], "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert any(name in done.stdout for name in ("near", "far", "frankfurt", "us-arizona-1"))
    if script.name == "otlp_spans.py":
        assert_failed_over(collector.spans, done.stdout)
    else:
        assert not collector.posted


def assert_failed_over(spans: list[Span], output: str) -> None:
    """They are the tree of one call that failed over, in the trace that was printed."""
    (root,) = [span for span in spans if span.name == "hello"]
    spans = [span for span in spans if span.trace_id == root.trace_id]
    (route,) = [span for span in spans if span.parent_span_id == root.span_id]
    attempts = sorted(
        (span for span in spans if span.parent_span_id == route.span_id), key=lambda span: span.start_time_unix_nano
    )
    assert [span.name for span in (root, route, *attempts)] == ["hello", "smartroute.route", "POST", "POST"]
    assert len(spans) == 4
    assert [span.status.code for span in attempts] == [Status.STATUS_CODE_ERROR, Status.STATUS_CODE_UNSET]
    assert f"trace {root.trace_id.hex()}" in output
    assert "answered by far, attempts: 2" in output
