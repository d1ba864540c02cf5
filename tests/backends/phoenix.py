"""The demo's outage in a real tracing backend: Phoenix is asked for the spans, and photographed.

    python -m tests.backends.phoenix

runs the demo in its own environment; Phoenix and Playwright have one of theirs. `make trace-proof` sets both up first.
What listens does so on loopback alone. Exit code: 0 if every call's tree is as it must be and the picture, where there
is a browser to take it, shows what it should.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.backends.calls import Call, Span, example, problems, read
from tests.backends.serving import free_ports, get, serving

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PICTURE = ROOT / ".venvs" / "trace-failover.png"
"""Where the picture goes by default; that of the docs is `--picture docs/trace-failover.png`."""
PROJECT = "default"
START_UP = 180.0
"""Seconds that Phoenix may take until it answers."""
SHOW = 600.0
"""Seconds that the demo may take."""
INGESTION = 60.0
"""Seconds until all spans that were sent can be read."""
PAGE = 1000
"""Spans asked for at once."""
BROWSERS = ("chromium", "google-chrome")
PHOTOGRAPH = 180.0
"""Seconds that taking the picture may take."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the proof; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--phoenix-python", type=Path, default=ROOT / ".venvs/phoenix/bin/python", metavar="PATH")
    parser.add_argument("--calls", type=int, default=5, metavar="N", help="calls in an act of the demo")
    parser.add_argument("--picture", type=Path, default=PICTURE, metavar="PATH", help="where the picture goes")
    options = parser.parse_args(arguments)
    if not options.phoenix_python.exists():
        parser.error(f"{options.phoenix_python} is missing: run `make trace-proof`")
    signal.signal(signal.SIGTERM, _leave)
    try:
        checked, missing = _prove(options.phoenix_python, options.calls, options.picture)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        print(f"\nThe trace proof failed: {error}", file=sys.stderr)
        return 1
    if missing:
        print(f"\n{missing}", file=sys.stderr)
        print(f"Checked, without a picture: {checked}.")
    else:
        size = options.picture.stat().st_size / 1000
        print(f"\nChecked: {checked}. The picture, {size:.0f} kB: {os.path.relpath(options.picture)}")
    return 0


def _prove(python: Path, calls_in_an_act: int, picture: Path) -> tuple[str, str | None]:
    """What was checked, and why there is no picture, if there is none.

    Raises:
        RuntimeError: something is not as it must be.
    """
    with _phoenix(python) as url:
        summary = _demo(calls_in_an_act, url)
        spans = _spans(url, summary["calls"])
        if found := list(problems(spans, summary)):
            raise RuntimeError("\n  ".join([f"of {len(spans)} spans, what is wrong is:", *found]))
        print("  all is as it must be", flush=True)
        calls, _ = read(spans)
        checked = _account(calls, len(spans))
        browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
        if browser is None:
            return checked, (
                f"NO PICTURE was taken: there is no {' and no '.join(BROWSERS)} on the PATH.\n"
                "Install one (Debian: apt-get install chromium), and run `make trace-proof` again."
            )
        call = example(calls)
        print(f"{call.root.name} is photographed, its first failed attempt selected", flush=True)
        _photograph(python, browser, _page(url, call), call, picture)
    return checked, None


@contextmanager
def _phoenix(python: Path) -> Generator[str]:
    """A Phoenix with a new database: its URL. Gone, and its files with it, when the block is left."""
    port, grpc_port = free_ports(2)
    url = f"http://127.0.0.1:{port}"
    settings = {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc_port),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
        "PHOENIX_ENABLE_MCP_SERVER": "false",
        "PHOENIX_ALLOWED_SANDBOX_PROVIDERS": "NONE",
    }

    def command(folder: Path) -> list[str | Path]:
        return ["env", f"PHOENIX_WORKING_DIR={folder}", python, "-P", HERE / "serve_phoenix.py", "serve"]

    print("Phoenix starts, with a new database", flush=True)
    began = time.monotonic()
    with serving("phoenix", command, f"{url}/healthz", patience=START_UP, env=_environment() | settings):
        print(f"  it answers at {url} after {time.monotonic() - began:.1f} s")
        yield url


def _demo(calls: int, url: str) -> dict[str, Any]:
    """Run the demo with its spans going to Phoenix. Its own summary."""
    print("The demo's outage runs: about half a minute", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "smartroute.cli", "demo", "--json", "--calls", str(calls), "--otlp", url],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SHOW,
        check=False,
    )
    if done.returncode or "could not be sent" in done.stderr:
        raise RuntimeError(f"the demo ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    summary: dict[str, Any] = json.loads(done.stdout)
    print(f"  {summary['calls']} calls, failures: {summary['failures']}, failed over: {summary['failed_over']}")
    return summary


def _spans(url: str, calls: int) -> list[Span]:
    """All spans that Phoenix has, once it has taken in what it was sent."""
    print("Phoenix is asked for the spans", flush=True)
    patience = time.monotonic() + INGESTION
    before: list[Span] = []
    while time.monotonic() < patience:
        spans = _read_all(url)
        if len(spans) == len(before) and sum(span.parent is None for span in spans) >= calls:
            break
        before = spans
        time.sleep(1)
    print(f"  it has {len(before)}")
    return before


def _read_all(url: str) -> list[Span]:
    spans: list[Span] = []
    cursor: str | None = ""
    while cursor is not None:
        query = urlencode({"limit": PAGE} | ({"cursor": cursor} if cursor else {}))
        told = get(f"{url}/v1/projects/{PROJECT}/spans?{query}")
        spans += map(Span.from_rest, told["data"])
        cursor = told["next_cursor"]
    return spans


def _account(calls: Sequence[Call], spans: int) -> str:
    failed = [attempt for call in calls for attempt in call.failed_attempts]
    over = [call for call in calls if call.failed_over]
    to_global = sum(call.route["fallback"] for call in over)
    verifications = sum(len(call.verifications) for call in calls)
    classes = ", ".join(sorted({attempt["failure.class"] for attempt in failed}))
    return (
        f"{spans} spans, of {len(calls)} calls with {sum(len(call.attempts) for call in calls)} attempts and "
        f"{verifications} verifications; attempts that failed: {len(failed)} ({classes}); calls that failed over: "
        f"{len(over) - to_global} to a region, {to_global} to global"
    )


def _page(url: str, call: Call) -> str:
    """Where Phoenix shows this call, with its first failed attempt selected."""
    project = get(f"{url}/v1/projects/{PROJECT}")["data"]["id"]
    selected = urlencode({"selectedSpanNodeId": call.failed_attempts[0].node})
    return f"{url}/projects/{project}/traces/{call.root.trace}?{selected}"


def _photograph(python: Path, browser: str, url: str, call: Call, target: Path) -> None:
    """Have Phoenix's page show what it knows of a call, see that it does, and keep a picture of that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shown = call.failed_attempts[0]
    texts = [call.root.name, call.route.name, shown.message, *shown.attributes]
    done = subprocess.run(
        [python, "-P", HERE / "photograph.py", browser, url, target, *texts],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PHOTOGRAPH,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{browser} did not show the trace:\n{done.stdout}{done.stderr}")


def _environment() -> dict[str, str]:
    """Ours, without settings that would change what is proved, and without proxies."""
    foreign = ("PHOENIX_", "OTEL_", "SMARTROUTE_", "OPENAI_", "FIREWORKS_")
    return {k: v for k, v in os.environ.items() if not k.startswith(foreign) and not k.lower().endswith("_proxy")}


def _leave(*_: object) -> None:
    sys.exit(143)  # through the `finally` of everything, so that no server stays behind


if __name__ == "__main__":
    sys.exit(main())
