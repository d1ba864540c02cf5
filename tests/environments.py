"""What `make test` prepares for tests that need more than their own environment.

Tests never use the network. Under `make test` whatever is missing is a failure; under plain pytest it
is a skip that says what to do.
"""

import os
from pathlib import Path

import pytest

__all__ = ["ROOT", "WHEELS", "prepared", "python_with"]

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / ".wheels"


def prepared(path: Path) -> Path:
    """`path`, if the set-up has made it."""
    if path.exists():
        return path
    message = f"{path.relative_to(ROOT)} is missing: run `make test-environments`"
    if os.environ.get("SETUP_REQUIRED"):
        pytest.fail(message)
    pytest.skip(message)


def python_with(name: str) -> Path:
    """The interpreter of the environment `name` (`openai1`, `openai2`), which has smartroute too."""
    prepared(ROOT / ".venvs" / name / ".installed")
    return ROOT / ".venvs" / name / "bin" / "python"
