"""The servers that benchmarks call, each in a process of its own, on loopback only."""

import contextlib
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fast_server import COMPLETION

__all__ = ["ROOT", "fast_server", "many_files", "nginx"]

ROOT = Path(__file__).resolve().parent.parent

NGINX = """\
daemon off;
master_process off;
error_log stderr crit;
pid {folder}/pid;
worker_rlimit_nofile {files};
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ default_type application/json; return 200 '{answer}'; }}
    }}
}}
"""


def many_files() -> int:
    """Allow this process and its children as many open files as the system lets them. Gives the number."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 65_536
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@contextmanager
def fast_server() -> Iterator[str]:
    """Whole answers and streams, from `benchmarks.fast_server`. Gives the origin."""
    many_files()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.fast_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.communicate()


@contextmanager
def nginx() -> Iterator[str | None]:
    """A fixed completion from nginx, whatever is asked. Gives the origin; None: there is no nginx."""
    unpacked = ROOT / ".venvs/nginx/usr/sbin/nginx"
    program = shutil.which("nginx") or (str(unpacked) if unpacked.exists() else None)
    if program is None:
        yield None
        return
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(NGINX.format(folder=folder, files=many_files(), port=port, answer=COMPLETION.decode()))
        process = subprocess.Popen(
            [program, "-p", folder, "-e", "stderr", "-c", str(configuration)], stdin=subprocess.DEVNULL
        )
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nginx does not answer; it ended with {process.poll()}")
