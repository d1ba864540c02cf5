"""docs/telemetry.md lists what there is, and nothing else; docs/tracing.md shows what is printed."""

import ast
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

import smartroute
from smartroute.log import Log
from smartroute.policy.outcome import Failure
from smartroute.telemetry.instruments import STATES
from smartroute.telemetry.metrics import SECOND_ATTEMPTS
from tests.test_log import IOWA, STORY, TOKYO, WARNED

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "telemetry.md").read_text("utf-8")
TRACING = (ROOT / "docs" / "tracing.md").read_text("utf-8")
PACKAGE = Path(smartroute.__file__).parent
SOURCES = [*(PACKAGE / "telemetry").glob("*.py"), PACKAGE / "log.py"]
NAME = re.compile(r"(?:smartroute|http|server|url|error|gen_ai)(?:\.[a-z_]+)+\.?")


def names_in_code() -> set[str]:
    """The names that stand in the sources as strings of their own; imports and docstrings do not."""
    found: set[str] = set()
    for source in SOURCES:
        tree = ast.parse(source.read_text("utf-8"))
        strings = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
        found |= {string for string in strings if NAME.fullmatch(string)}
    return {"http.response.header.<name>" if name.endswith(".") else name for name in found}


def test_every_name_is_in_the_reference_and_every_name_there_exists() -> None:
    documented = set(re.findall(r"`((?:smartroute|http|server|url|error|gen_ai)\.[a-z_.<>]+)`", PAGE))
    assert documented - {"smartroute.events"} == names_in_code()


def test_every_metric_has_a_row_with_its_kind() -> None:
    section = PAGE.split("## Metrics")[1].split("## Log records")[0]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([\w-]+(?: counter)?)", section, re.MULTILINE))
    kinds = {"counter": "counter", "up_down_counter": "up-down counter", "seconds": "histogram"}
    kinds |= {"create_observable_gauge": "gauge", "create_observable_up_down_counter": "up-down counter"}
    source = ast.parse((PACKAGE / "telemetry" / "instruments.py").read_text("utf-8"))
    calls = [n for n in ast.walk(source) if isinstance(n, ast.Call) and n.args and isinstance(n.args[0], ast.Constant)]
    expected = {}
    for call in calls:
        maker = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if maker in kinds and isinstance(call.args[0], ast.Constant):
            expected[call.args[0].value] = kinds[maker]
    assert rows == expected


@pytest.mark.parametrize(
    "words", [list(Failure), sorted(SECOND_ATTEMPTS), list(STATES)], ids=["failures", "reasons", "states"]
)
def test_every_word_is_explained(words: list[str]) -> None:
    assert [str(word) for word in words if f"`{word}`" not in PAGE] == []


def test_every_record_is_in_the_reference(caplog: pytest.LogCaptureFixture) -> None:
    log = Log((IOWA, TOKYO), fallback=True)
    with caplog.at_level(logging.DEBUG, "smartroute"):
        for event in (*STORY, *WARNED):
            log(event)
    rows = re.findall(r"^\| (warning|info|debug) \| (.*?) \|", PAGE, re.MULTILINE)
    patterns = [(level, pattern(text)) for level, cell in rows for text in re.findall(r"`(.*?)`", cell)]
    seen: set[str] = set()
    for record in caplog.records:
        fitting = [p for level, p in patterns if level.upper() == record.levelname and re.match(p, record.getMessage())]
        assert fitting, record.getMessage()
        seen.update(fitting)
    assert {p for _, p in patterns} == seen


def pattern(documented: str) -> str:
    """A record's text as a regular expression: `<...>` and `...` stand for anything."""
    return re.sub(r"(?:\\\.){3}|<\w+>", ".*", re.escape(documented))


@pytest.mark.timeout(120)
def test_the_traces_on_the_page_are_those_that_the_example_prints() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "reading_traces.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    shown = re.findall(r"^    (call \d.*?)\n\n", TRACING, re.MULTILINE | re.DOTALL)
    printed = re.findall(r"^(call \d.*?)\n\n", done.stdout, re.MULTILINE | re.DOTALL)
    assert [shape(tree) for tree in shown] == [shape(tree) for tree in printed]
    assert len(shown) == 3


def shape(tree: str) -> list[str]:
    """A tree without numbers and spaces, which differ; nor what may be another reason of the first choice."""
    lines = [re.sub(r"[\d.]+ ms|\d+", "#", " ".join(line.split())) for line in tree.splitlines()]
    return [re.sub(r"reason: (?:incumbent|best)", "reason: first", line) for line in lines]
