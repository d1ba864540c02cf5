"""`make frameworks`: the snippets of docs/frameworks.md, each with its package in its newest version.

Not among the tests, because what others publish tomorrow is no fault of a change made today.
"""

import re
import subprocess
import sys
import venv

from tests.documents import StandIn, fenced, stand_in
from tests.environments import ROOT

PAGE = ROOT / "docs" / "frameworks.md"
SECTION = re.compile(
    r"^## ([^\n]+)\n\n`pip install '?([^`']+)'?` \(([^)]+)\)(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL
)


def main() -> int:
    """Run them all; 1 if one of them was not routed."""
    failed = 0
    for title, requirement, version, body in SECTION.findall(PAGE.read_text("utf-8")):
        with stand_in() as world:
            said, now = tried(requirement, fenced(body, "python")[0], world)
        failed += said != "routed"
        print(f"{title:15} {now:10} {said}{'' if now == version else f' (the page names {version})'}", flush=True)
    return 1 if failed else 0


def tried(requirement: str, snippet: str, world: StandIn) -> tuple[str, str]:
    """What came of a snippet, and the version that it ran with."""
    package = requirement.partition("[")[0]
    folder = ROOT / ".venvs" / "frameworks" / package
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    options = ("--quiet", "--disable-pip-version-check")
    subprocess.run([python, "-m", "pip", "install", *options, requirement, ROOT], check=True)
    script = f"from importlib.metadata import version; print(version({package!r}))"
    now = subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    done = world.run(snippet, python)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1], now
    routed = any(seen.method == "POST" for region in (world.near, world.far) for seen in region.requests)
    return ("routed" if routed and "2 3 4 5" in done.stdout else f"not routed: {done.stdout!r}"), now


if __name__ == "__main__":
    sys.exit(main())
