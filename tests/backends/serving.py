"""Servers as processes of their own, on loopback."""

import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

__all__ = ["free_ports", "get", "serving"]

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # no proxy to localhost


@contextmanager
def serving(
    name: str,
    command: Callable[[Path], Sequence[str | Path]],
    ready: str,
    *,
    patience: float,
    env: Mapping[str, str] | None = None,
) -> Generator[Path]:
    """A server that answers: the folder it runs in. When the block is left it is gone, and its folder with it.

    Args:
        command: what runs it, given its folder.
        ready: the URL that it answers with 200 once it is up; `patience`: seconds that this may take.

    Raises:
        RuntimeError: it does not answer; with its last words.
    """
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix=f"smartroute-{name}-", ignore_cleanup_errors=True))
        )
        log = stack.enter_context((folder / "log").open("wb"))
        began = time.monotonic()
        server = subprocess.Popen(
            command(folder), env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        stack.callback(_end, server)
        while not _answers(ready):
            if server.poll() is not None or time.monotonic() - began > patience:
                tail = (folder / "log").read_text("utf-8", "replace")[-3000:]
                raise RuntimeError(f"{name} does not answer after {time.monotonic() - began:.0f} s:\n{tail}")
            time.sleep(0.25)
        yield folder


def free_ports(number: int) -> list[int]:
    """Ports on loopback that nobody listens on now."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(number)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


def get(url: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        OSError: it is not answered, or with an error.
    """
    with _open(url, timeout=30) as response:
        told: dict[str, Any] = json.load(response)
        return told


def _answers(url: str) -> bool:
    try:
        with _open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
