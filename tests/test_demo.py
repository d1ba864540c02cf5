"""`smartroute demo`: one short show as a user starts it, and what needs no show."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from rich.console import Console

from smartroute.demo.account import Account, Call, percentile
from smartroute.policy.messages import Record
from tests.collector import collecting
from tests.environments import ROOT

pytestmark = pytest.mark.timeout(180)  # the show waits for traffic to move, up to half a minute each time

CALLS = 3
HURRIED = """
from smartroute.demo import regions
regions.PROBE_INTERVAL = 0.2  # the acts that wait for traffic to move wait for probes
from smartroute.cli import main
main()
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )


@dataclass
class Shown:
    status: int
    output: str
    errors: str
    posted: list[tuple[str, str, bytes]]

    def act(self, title: str) -> str:
        """What was printed below this title."""
        return self.output.partition(title)[2].partition("\n\n")[0]


@pytest.fixture(scope="module")
def shown() -> Shown:
    with collecting() as collector:
        done = python("-c", HURRIED, "demo", "--no-color", "--calls", str(CALLS), "--otlp", collector.url)
    return Shown(done.returncode, done.stdout, done.stderr, collector.posted)


def test_no_call_fails(shown: Shown) -> None:
    assert shown.status == 0, shown.output + shown.errors
    assert "failures: 0," in shown.output
    assert "FAILED" not in shown.output
    assert "not yet" not in shown.output


def test_plain_output_is_plain(shown: Shown) -> None:
    assert "\x1b" not in shown.output
    assert "\r" not in shown.output
    assert shown.errors == ""


def test_each_act_goes_as_announced(shown: Shown) -> None:
    healthy = shown.act("All regions are healthy\n")
    assert "traffic is on frankfurt: after" in healthy
    assert healthy.count("global alone: ") == CALLS
    assert "frankfurt reset the connection -> " in shown.act("frankfurt is taken down\n")
    assert "traffic is back on frankfurt: after" in shown.act("frankfurt comes back\n")
    assert "traffic has left frankfurt: after" in shown.act("frankfurt has a brownout\n")
    outage = shown.act("All regions are taken down\n")
    assert outage.count("global  ") == CALLS  # after a failover, unless the probes were there first
    assert "traffic is back on frankfurt: after" in shown.act("All regions are healed\n")


def test_it_ends_with_numbers_and_a_trace(shown: Shown) -> None:
    assert "global endpoint alone" in shown.act("Time to first token")
    tree = shown.act("as its OpenTelemetry spans tell it\n")
    assert "└─ smartroute.route" in tree
    assert "├─ POST frankfurt" in tree
    assert re.search(r"[├└]─ POST (virginia|tokyo|global) .*\(reason: failover\)", tree)


def test_the_spans_reach_a_real_backend(shown: Shown) -> None:
    ((path, content_type, body),) = shown.posted
    assert (path, content_type) == ("/v1/traces", "application/x-protobuf")
    assert b"smartroute-demo" in body
    assert b"smartroute.route" in body
    assert "The spans were sent to" in shown.output


def test_a_backend_that_is_not_there_is_a_line() -> None:
    script = "trace.SEND_LIMIT = 1.5; print(trace.Tracing().send('http://127.0.0.1:1/v1/traces'))"
    done = python("-c", f"from smartroute.demo import trace; {script}")
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert "Connection refused" in done.stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("http://localhost:4318/", "http://localhost:4318/v1/traces"),
        ("https://otel.example/base", "https://otel.example/base/v1/traces"),
        ("http://localhost:4318/v1/traces", "http://localhost:4318/v1/traces"),
    ],
)
def test_the_backend_is_named_by_its_base_or_in_full(given: str, expected: str) -> None:
    from smartroute.demo.trace import endpoint

    assert endpoint(given) == expected


def test_help_teaches_by_example() -> None:
    done = python("-m", "smartroute.cli", "demo", "--help")
    assert done.returncode == 0
    assert "smartroute demo --otlp http://localhost:4318" in done.stdout


def test_wrong_usage() -> None:
    done = python("-m", "smartroute.cli", "demo", "--otlp", "localhost:4318")
    assert done.returncode == 2
    assert "http://localhost:4318" in done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_the_command_line_says_what_to_install(missing: str) -> None:
    done = python("-c", f"import sys; sys.modules[{missing!r}] = None; import smartroute.cli")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"smartroute: {missing}")
    assert line.endswith("is missing; in a clone: pip install '.[cli]'")


def record(endpoint: str, failure: str | None = None, status: int | None = None, reason: str = "failover") -> Record:
    return Record(endpoint, reason, status, failure, failure or "", 0.01)


@pytest.mark.parametrize(
    ("attempts", "story"),
    [
        ([record("c", status=200, reason="incumbent")], ""),
        ([record("c", status=200, reason="best")], "the fastest now"),
        ([record("a", "connect"), record("c", status=200)], "a refused the connection -> c"),
        ([record("a", "connect"), record("b", "connect"), record("c")], "a, b refused the connection -> c"),
        (
            [record("a", "status", 503), record("b", "reset"), record("c")],
            "a answered 503, b reset the connection -> c",
        ),
        ([record("a", "reset"), record("a", "connect"), record("c")], "a reset the connection -> c"),
        ([record("a", "empty", 200), record("c", status=200)], "a failed (empty) -> c"),
    ],
)
def test_the_story_of_a_call(attempts: list[Record], story: str) -> None:
    assert Call(1, "c", 0.02, attempts).story == story


def test_percentiles_are_of_the_nearest_rank() -> None:
    calls = [Call(number, "a", number / 1000) for number in range(1, 101)]
    assert percentile(calls, 0.50) == 0.050
    assert percentile(calls, 0.99) == 0.099
    assert percentile([Call(1, None, None, error="it broke")], 0.5) is None


def test_a_failed_call_counts_and_is_told() -> None:
    console = Console(color_system=None, highlight=False, width=80)
    account = Account(console)
    with console.capture() as printed:
        account.tell(Call(1, "a", 0.02))
        account.tell(Call(2, None, None, error="APIConnectionError: Connection error."))
    assert "FAILED: APIConnectionError" in printed.get()
    assert account.failures == 1
    summary = json.loads(account.json())
    assert summary["failures"] == 1
    assert summary["routes"] == {"a": 1}
    assert summary["first_token_ms"]["smartroute_with_outages"] == {"p50": 20.0, "p99": 20.0}
