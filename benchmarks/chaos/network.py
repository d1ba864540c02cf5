"""A network of one's own: packets that vanish, connections that die unnoticed, names that nobody resolves.

For processes that `isolated()` has started: they have namespaces of their own (Linux), so that none of this
touches the machine they run on.
"""

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, Self

__all__ = ["Network", "isolated", "why_not"]

RULES = """
table inet chaos {
    set ports { type inet_service; }
    chain arriving {
        type filter hook input priority 0;
        tcp dport @ports drop
        tcp sport @ports drop
    }
}
"""
FILES = {"/etc/resolv.conf": "nameserver 127.0.0.1\n", "/etc/nsswitch.conf": "hosts: files dns\n"}
"""What our processes read instead, so that they ask our resolver."""
ESTABLISHED = "01"
"""As /proc/net/tcp spells it."""

Answer = Literal["answer", "nxdomain", "hang"]


def isolated(command: Sequence[str]) -> list[str]:
    """The same command, in a network and a tree of mounts of its own."""
    mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--net", "--mount", *mapped, "--", *command]


@cache
def why_not() -> str | None:
    """What this machine lacks for `isolated`; None: nothing."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    for tool in ("unshare", "ip", "nft", "mount"):
        if shutil.which(tool) is None:
            return f"`{tool}` is not installed (Debian: util-linux, iproute2, nftables, mount)"
    mounts = " && ".join(f"mount --bind {path} {path}" for path in FILES)
    script = f"ip link set lo up && nft add table inet chaos && {mounts}"
    tried = subprocess.run(isolated(["sh", "-c", script]), capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"this machine does not allow it: {tried.stderr.strip()}"


class Network:
    """The network of this process, which must have been started by `isolated`."""

    def __init__(self) -> None:
        self.names: dict[str, Answer] = {}
        """What becomes of a question for a name. A name that is answered is 127.0.0.1."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._answering = threading.Thread(target=self._answer, name="chaos-dns", daemon=True)
        self._folder = tempfile.TemporaryDirectory(prefix="chaos-")

    def __enter__(self) -> Self:
        _run("ip", "link", "set", "lo", "up")
        self._nft(RULES)
        for path, text in FILES.items():
            ours = Path(self._folder.name, Path(path).name)
            ours.write_text(text)
            _run("mount", "--bind", str(ours), path)
        self._socket.bind(("127.0.0.1", 53))
        self._answering.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", 53))
        self._answering.join()
        self._socket.close()
        self._folder.cleanup()

    def drop(self, *ports: int) -> None:
        """From now on all packets from and to these TCP ports vanish."""
        self._nft(f"add element inet chaos ports {{ {', '.join(map(str, ports))} }}")

    def kill_connections(self, port: int) -> None:
        """Let the connections that are open to this port die unnoticed; others may be made."""
        if clients := [local for local, remote in self._established() if remote == port]:
            self.drop(*clients)

    def heal(self) -> None:
        """Let nothing vanish any more, and answer all questions."""
        self._nft("flush set inet chaos ports")
        self.names.clear()

    def connections(self, port: int) -> int:
        """How many connections to this port are open on the client's side."""
        return sum(remote == port for _, remote in self._established())

    def _established(self) -> list[tuple[int, int]]:
        """Local and remote port of each connection over IPv4."""
        found = []
        for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            if state == ESTABLISHED:
                found.append((int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16)))
        return found

    def _nft(self, script: str) -> None:
        _run("nft", "-f", "-", told=script)

    def _answer(self) -> None:
        """Answer questions for addresses, each with one packet or none."""
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:  # the end
                return
            labels, end = [], 12
            while length := query[end]:
                labels.append(query[end + 1 : end + 1 + length].decode("latin-1"))
                end += 1 + length
            question = query[12 : end + 5]
            asked_for_ipv4 = question[-4:-2] == b"\x00\x01"
            answer = self.names.get(".".join(labels).lower(), "answer")
            if answer == "hang":
                continue
            found = answer == "answer" and asked_for_ipv4
            flags = 0x8183 if answer == "nxdomain" else 0x8180
            head = query[:2] + struct.pack("!5H", flags, 1, int(found), 0, 0)
            address = struct.pack("!HHHIH4B", 0xC00C, 1, 1, 0, 4, 127, 0, 0, 1) if found else b""
            self._socket.sendto(head + question + address, client)


def _run(*command: str, told: str = "") -> None:
    subprocess.run(command, input=told, text=True, check=True)
