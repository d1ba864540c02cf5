"""What the docs show: pages, snippets, the commands that they name; and a stand-in for the world in them."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from smartroute.testing import Region
from tests.environments import ROOT

__all__ = ["PAGES", "StandIn", "commands", "fenced", "stand_in"]

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
HOST = "https://api.fireworks.ai"
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^(?:    (?![*-] )\S.*\n)+", re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
COMMAND = re.compile(r"(?:\$ )?((?:smartroute|python3? -m) [^()]+|make(?: .+)?)")


def fenced(text: str, language: str) -> list[str]:
    """The contents of the fenced blocks in a language."""
    return [block for name, block in FENCE.findall(text) if name == language]


def commands(text: str) -> list[str]:
    """The commands of a page that this project answers for: in blocks and in the text, without comments."""
    shell = "\n".join(block for name, block in FENCE.findall(text) if name in ("sh", "bash", "console"))
    rest = FENCE.sub("", text)
    lines = [*shell.splitlines(), *"".join(INDENTED.findall(rest)).splitlines(), *SPAN.findall(rest)]
    parts = (part.strip() for line in lines for part in line.partition(" #")[0].split(" | "))
    found = (COMMAND.fullmatch(part) for part in parts)
    return [match[1] for match in found if match]


@dataclass(frozen=True)
class StandIn:
    """Two regions and a global endpoint on this machine, and an environment that names them."""

    near: Region
    far: Region
    world: Region
    environ: dict[str, str]

    def run(self, code: str, python: Path | str = sys.executable) -> "subprocess.CompletedProcess[str]":
        """Run a snippet, which takes the global endpoint for the vendor's."""
        return subprocess.run(
            [python, "-c", code.replace(HOST, self.world.url.removesuffix("/inference/v1"))],
            env={**{k: v for k, v in os.environ.items() if not k.startswith("SMARTROUTE_")}, **self.environ},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """What the snippets of the docs talk to."""
    with ExitStack() as stack:
        near, far = (stack.enter_context(Region(name, api_keys=["fake-direct-key"])) for name in ("near", "far"))
        world = stack.enter_context(Region("global", prefix="/inference/v1", api_keys=["fake-console-key"]))
        environ = {
            "SMARTROUTE_ROUTES": f"us-arizona-1={near.url} eu-frankfurt-1={far.url}",
            "SMARTROUTE_API_KEY": "fake-direct-key",
            "SMARTROUTE_GLOBAL_URL": world.url,
            "FIREWORKS_API_KEY": "fake-console-key",
            "FIREWORKS_BASE_URL": world.url.removesuffix("/v1"),
            "OPENAI_API_KEY": "fake-console-key",
        }
        yield StandIn(near, far, world, environ)
