"""A note on the machine: what a reader has to know of figures before comparing them with others."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["describe", "note"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("smartroute", "openai", "httpx2", "httpcore2", "httptools", "aiohttp", "httpx-aiohttp", "opentelemetry-sdk")


def note() -> dict[str, Any]:
    """The machine, its load now, and the versions of what is measured."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "revision": _revision(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def describe(machine: dict[str, Any]) -> str:
    """The note in two lines."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = " ".join(str(each) for each in machine["load"])
    first = f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, load before {load}"
    return f"{first}\nPython {machine['python']}, {versions}, revision {machine['revision']}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str:
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
