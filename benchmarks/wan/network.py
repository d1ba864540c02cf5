"""Hosts of their own, and the devices that join them: network namespaces and TUN devices (Linux, root).

Nothing of it has a name outside the process that made it, so that nothing can stay behind: a namespace is gone with
the last process and descriptor in it, a device with its descriptor.
"""

import ctypes
import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

__all__ = ["Host", "address", "why_not"]

CLONE_NEWNET = 0x40000000
"""<sched.h>"""
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
"""<linux/if_tun.h>: packets of IP, bare."""
HERE = "/proc/thread-self/ns/net"
DEVICE = "/dev/net/tun"
RULES = """
table inet wan {
    set unanswered { type ifname; }
    set cut { type ifname; }
    chain arriving {
        type filter hook input priority 0;
        iifname @unanswered tcp flags & (syn | ack) == syn drop
        iifname @cut drop
    }
}
"""


def address(number: int) -> str:
    """The address of the host with this number (1 to 254)."""
    return f"10.77.0.{number}"


@cache
def why_not() -> str | None:
    """What this machine lacks; None: nothing."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    for tool in ("chrt", "ip", "nft", "setpriv"):
        if shutil.which(tool) is None:
            return f"`{tool}` is not installed (Debian: iproute2, nftables, util-linux)"
    if not Path(DEVICE).exists():
        return f"there is no {DEVICE}"
    if os.geteuid() != 0:
        return "root is needed"
    try:
        Host(1).close()
        _run("chrt", "--rr", "1", "true")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"this machine does not allow it: {error}"
    return None


class Host:
    """A network namespace with one TUN device.

    Attributes:
        number: the last part of its address.
        device: the descriptor that its packets are read from, and written to.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        before = os.open(HERE, os.O_RDONLY)
        try:
            _demand(_libc().unshare(CLONE_NEWNET))
            self._namespace = os.open(HERE, os.O_RDONLY)
            _demand(_libc().setns(before, CLONE_NEWNET))
        finally:
            os.close(before)
        with ExitStack() as undo:
            undo.callback(os.close, self._namespace)
            with self.entered():  # where it is opened is where the device will be
                self.device = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK)
                undo.callback(os.close, self.device)
                fcntl.ioctl(self.device, TUNSETIFF, struct.pack("16sH22x", b"wan", IFF_TUN | IFF_NO_PI))
                for command in (f"addr add {address(number)}/24 dev wan", "link set wan up", "link set lo up"):
                    _run("ip", *command.split())
                _run("nft", RULES)
            undo.pop_all()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What this thread starts meanwhile runs on this host."""
        before = os.open(HERE, os.O_RDONLY)
        try:
            _demand(_libc().setns(self._namespace, CLONE_NEWNET))
            yield
        finally:
            _demand(_libc().setns(before, CLONE_NEWNET))
            os.close(before)

    def leave_unanswered(self) -> None:
        """Drop every SYN that arrives from now on: connections that are open stay open."""
        self._rule("add element inet wan unanswered { wan }")

    def cut_off(self) -> None:
        """Drop everything that arrives from now on."""
        self._rule("add element inet wan cut { wan }")

    def heal(self) -> None:
        """Drop nothing any more."""
        self._rule("flush set inet wan unanswered; flush set inet wan cut")

    def close(self) -> None:
        """Give it up. It is gone when its processes are."""
        os.close(self.device)
        os.close(self._namespace)

    def _rule(self, script: str) -> None:
        with self.entered():
            _run("nft", script)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _demand(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
