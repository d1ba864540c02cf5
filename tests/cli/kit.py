"""The command line as its users run it, and regions that something is wrong with."""

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme

from smartroute.testing import Region
from tests.environments import ROOT

__all__ = [
    "CONSOLE",
    "DEPLOYMENT",
    "DIRECT",
    "HOST",
    "MODEL",
    "OTHER",
    "Done",
    "assert_no_key",
    "bad_certificate",
    "environment",
    "free_port",
    "python",
    "python_in",
    "routes",
    "run",
    "secured",
]

HOST = "127.0.0.1"
DIRECT = "fake-direct-key-d1d2"
OTHER = "fake-other-key-o1o2"
CONSOLE = "fake-console-key-c1c2"
SECRETS = (DIRECT, OTHER, CONSOLE)
DEPLOYMENT = "accounts/fake-account/deployments/fake-deployment"
MODEL = "accounts/fireworks/models/fake-base"


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    output: str
    errors: str

    def json(self) -> Any:
        """Its output, which is one object."""
        return json.loads(self.output)


def environment(**variables: str) -> dict[str, str]:
    """The environment of a command: nothing of whoever runs the tests, nor the size of their terminal."""
    theirs = ("SMARTROUTE_", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if not name.startswith(theirs)} | variables


def python(*arguments: str, **variables: str) -> Done:
    """What a Python that was started so says."""
    return python_in(ROOT, arguments, variables)


def python_in(folder: Path, arguments: Sequence[str], variables: Mapping[str, str]) -> Done:
    """The same, started in this folder. Warnings are errors, and no key is ever said."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=environment(PYTHONPATH=f"{ROOT}", **variables),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert_no_key(done.stdout + done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def run(*arguments: str, **variables: str) -> Done:
    """What `smartroute` says."""
    return python("-m", "smartroute.cli", *arguments, **variables)


def assert_no_key(said: str) -> None:
    """Of a key nobody sees more than its last four characters."""
    for secret in SECRETS:
        assert secret[:-4] not in said


@contextmanager
def secured(certificate: trustme.LeafCert, name: str, **options: Any) -> Iterator[Region]:
    """A region with this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    with Region(name, tls=context, **options) as region:
        yield region


def bad_certificate(kind: str, authority: trustme.CA) -> trustme.LeafCert:
    """A certificate that is not accepted, or not for long any more."""
    now = datetime.now(UTC)
    match kind:
        case "another name":
            return authority.issue_cert("elsewhere.example")
        case "unknown issuer":
            return trustme.CA().issue_cert(HOST)
        case "expired":
            return authority.issue_cert(HOST, not_before=now - timedelta(9), not_after=now - timedelta(1))
        case "expires soon":
            return authority.issue_cert(HOST, not_before=now - timedelta(9), not_after=now + timedelta(3))
        case _:
            raise AssertionError(kind)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def routes(regions: Mapping[str, Region | str]) -> str:
    """The value of SMARTROUTE_ROUTES."""
    return " ".join(f"{name}={region if isinstance(region, str) else region.url}" for name, region in regions.items())
