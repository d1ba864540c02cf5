"""What the docs show has been run, and what they list is what there is."""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from smartroute.cli import app
from smartroute.config import Config, unknown_variables
from smartroute.settings import SETTINGS
from tests.collector import collecting
from tests.documents import PAGES, StandIn, commands, fenced, stand_in
from tests.environments import ROOT

TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text("utf-8") for page in PAGES}
SNIPPETS = [
    pytest.param(block, id=f"{Path(page).name}-{number}")
    for page, text in TEXTS.items()
    for number, block in enumerate(fenced(text, "python"), 1)
]
LINK = re.compile(r"\]\(([^)#\s]*)#?([^)\s]*)\)")
OTHER_THAN_EXPORTS = re.compile(r"\$\(|^(?!export |#|\s|$)", re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(name="world")
def _world() -> Iterator[StandIn]:
    with stand_in() as world:
        yield world


@pytest.mark.parametrize("snippet", SNIPPETS)
@pytest.mark.timeout(120)
def test_snippets_run(snippet: str, world: StandIn) -> None:
    missing = [name for name in sorted(imported(snippet)) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} would be needed: `make frameworks` runs it")
    done = world.run(snippet)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def imported(snippet: str) -> set[str]:
    """The packages that a snippet needs."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.Import):
            names |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_what_is_skipped_is_what_make_frameworks_runs() -> None:
    """So that no snippet is left out by everybody."""
    for page, text in TEXTS.items():
        needed = {name for block in fenced(text, "python") for name in imported(block)}
        missing = [name for name in needed if importlib.util.find_spec(name) is None]
        assert not missing or page == "docs/frameworks.md"


# --- Commands --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_commands_exist(page: str) -> None:
    for command in commands(TEXTS[page]):
        program, *arguments = shlex.split(command)
        if program == "make":
            assert set(targets(arguments)) <= make_targets(), f"{page}: {command}"
        elif program == "smartroute":
            if arguments[0] in ("--help", "-h"):
                continue
            assert arguments[0] in options_of_commands(), f"{page}: {command}"
            options = {each.partition("=")[0] for each in arguments[1:] if each.startswith("-") and each != "-"}
            assert options <= options_of_commands()[arguments[0]] | {"--help", "-h"}, f"{page}: {command}"
        else:
            module = arguments[1]
            assert importlib.util.find_spec(module) is not None, f"{page}: {command}"


def test_commands_are_found_wherever_they_stand() -> None:
    shell = "```sh\ncat x | smartroute demo --calls 5\nexport A=1\n```\n"
    text = f"Run `make demo`:\n\n    make bench ARGS=wan   # a comment\n\n{shell}"
    assert commands(text) == ["smartroute demo --calls 5", "make bench ARGS=wan", "make demo"]
    assert any(commands(page) for page in TEXTS.values())


def targets(arguments: list[str]) -> list[str]:
    return [each for each in arguments if "=" not in each and not each.startswith("-")]


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


@cache
def options_of_commands() -> dict[str, set[str]]:
    group = typer.main.get_command(app)
    found: dict[str, set[str]] = {}
    for name, command in getattr(group, "commands").items():  # noqa: B009 - a group's, if it is one
        found[name] = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    return found


@pytest.mark.parametrize("page", TEXTS)
def test_settings_that_are_shown_can_be_used(page: str, tmp_path: Path) -> None:
    """Each block of exports, and each TOML file; what stands in angle brackets is for the reader to fill in."""
    key = {"SMARTROUTE_API_KEY": "fake"}
    for block in fenced(TEXTS[page], "sh"):
        if "export SMARTROUTE_" in block and not OTHER_THAN_EXPORTS.search(block):
            script = re.sub(r"<[^<>]+>", "fake", block) + "\nenv -0"
            said = subprocess.run(["sh", "-euc", script], env=key, capture_output=True, text=True, check=True).stdout
            assert Config.from_env(dict(line.split("=", 1) for line in said.split("\0") if line)).routes
    for number, block in enumerate(fenced(TEXTS[page], "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(block, "utf-8")
        assert Config.from_toml(path, key).routes


@pytest.mark.parametrize("page", TEXTS)
def test_variables_exist(page: str) -> None:
    named = re.findall(r"\bSMARTROUTE_[A-Z0-9_]*[A-Z0-9]\b", TEXTS[page])
    meant_to_be_wrong = {"SMARTROUTE_PORT", "SMARTROUTE_ROUTE"} if page == "docs/troubleshooting.md" else set()
    unknown = {each.setting for each in unknown_variables(dict.fromkeys(named, "x"))}
    assert unknown == meant_to_be_wrong


def test_every_setting_is_in_the_reference() -> None:
    page = TEXTS["docs/configuration.md"]
    rows = [f"| `{s.variable}` | {s.meaning} | {f'`{s.default}`' if s.default else ''} |" for s in SETTINGS]
    assert [row for row in rows if row not in page] == []


@pytest.mark.parametrize("page", TEXTS)
def test_tests_that_are_named_exist(page: str) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.\w+)(?:::(\w+))?`", TEXTS[page]):
        assert (ROOT / path).is_file(), f"{page}: {path}"
        assert not name or re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE), name


# --- Links, as GitHub follows them -----------------------------------------------------------------


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page
    for target, anchor in LINK.findall(FENCED.sub("", TEXTS[page])):
        if ":" in target:
            continue
        path = here.parent / target if target else here
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}#{anchor}"


@cache
def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(FENCED.sub("", path.read_text("utf-8"))):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if number == 0 else f"{slug}-{number}" for slug, last in found.items() for number in range(last + 1)}


# --- Examples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
@pytest.mark.timeout(120)
def test_examples_run(script: Path, world: StandIn) -> None:
    with collecting() as collector:
        done = subprocess.run(
            [sys.executable, script],
            env={**os.environ, **world.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
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
