"""docs/cli.md shows what the commands say."""

import json
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from smartroute.cli import COMMANDS
from tests.cli.kit import python, run
from tests.cli.page import BLOCK, PAGE, likeness, said, setting
from tests.environments import ROOT

TEXT = PAGE.read_text("utf-8")
BLOCKS = [(block["arguments"], block["output"]) for block in BLOCK.finditer(TEXT)]
REFRESH = "python -m tests.cli.page writes the page anew"


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Path, dict[str, str]]]:
    with setting() as endpoints:
        yield endpoints


def names_in(value: Any) -> set[str]:
    """The names of all members of an object."""
    if isinstance(value, list):
        return set[str]().union(*map(names_in, value))
    return set(value).union(*map(names_in, value.values())) if isinstance(value, dict) else set()


@pytest.mark.parametrize("arguments", [a for a, _ in BLOCKS if "--help" in a])
def test_each_help_is_in_the_page(arguments: str) -> None:
    assert dict(BLOCKS)[arguments] == said(arguments, ROOT, {}).output, REFRESH


def test_no_command_is_missing() -> None:
    helped = {arguments.partition(" ")[0] for arguments, _ in BLOCKS if "--help" in arguments}
    assert {command.__name__ for command in COMMANDS} <= helped


@pytest.mark.parametrize("arguments", [a for a, _ in BLOCKS if "--help" not in a])
def test_each_output_is_like_a_real_one(arguments: str, world: tuple[Path, dict[str, str]]) -> None:
    ordered = not arguments.startswith("watch")  # probes are answered in any order
    shown, output = dict(BLOCKS)[arguments], said(arguments, *world).output
    assert likeness(shown, ordered=ordered) == likeness(output, ordered=ordered), REFRESH


@pytest.mark.parametrize("arguments", ["check --live", "probe -n 1", "explain", "env", "watch --for 1 --interval 0.2"])
def test_each_member_of_the_json_is_explained(arguments: str, world: tuple[Path, dict[str, str]]) -> None:
    output = said(f"{arguments} --json", *world).output
    shown: Any = [json.loads(line) for line in output.splitlines()] if "watch" in arguments else json.loads(output)
    if "settings" in shown:
        shown["settings"] = list(shown["settings"].values())
    section = TEXT.partition(f"## {arguments.partition(' ')[0]}\n")[2].partition("\n## ")[0]
    assert {name for name in names_in(shown) if not re.search(rf"`{name}`", section)} == set()


def test_the_help_is_there_at_once() -> None:
    """It loads no HTTP library, and of rich nothing that is slow."""
    script = (
        "import sys; sys.argv[1:] = ['--help']; import atexit; from smartroute.cli import main; "
        "atexit.register(lambda: print(*sys.modules)); main()"
    )
    loaded = set(python("-c", script).output.split())
    assert not loaded & {"httpx", "httpx2", "httpcore2", "rich.console", "rich.table", "opentelemetry"}


def test_help_of_the_whole() -> None:
    done = run("-h")
    assert done.status == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command.__name__} .*[a-z]\.$", done.output, re.MULTILINE)


def test_the_version_is_said() -> None:
    done = said("--version", ROOT, {})
    assert (done.status, done.output) == (0, f"smartroute {metadata.version('smartroute')}\n")
