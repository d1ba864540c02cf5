"""The WAN benchmark, in small: its network keeps its promise, nothing of it stays behind, and it can lose."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.wan.network import why_not
from benchmarks.wan.report import percentile, report
from benchmarks.wan.scenes import Series, steady
from benchmarks.wan.worker import CONTENDERS, FLOOR, SMART, Call
from benchmarks.wan.world import SERVICE, TRIPS, World

STATIC = "SDK to best, sync"
ROOT = Path(__file__).parent.parent
ours_alone = pytest.mark.skipif(why_not() is not None, reason=f"no network of its own: {why_not()}")


def _descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


@ours_alone
def test_a_few_calls() -> None:
    interfaces, descriptors = socket.if_nameindex(), _descriptors()
    with World(len(CONTENDERS)) as world:
        floor, static, smart = steady(world, [FLOOR, STATIC, SMART[0]], "5 per s", 6)
    assert [series.first_tokens().count(float("inf")) for series in (floor, static, smart)] == [0, 0, 0]
    least = (TRIPS["near"] + SERVICE) * 1e3
    assert least <= floor.first_tokens()[0]
    assert least <= smart.first_tokens()[0]
    assert (floor.connections, static.connections, smart.connections) == (0, 6, 0)
    assert {call.region for call in smart.calls} == {"near"}
    assert percentile(smart.first_tokens(), 0.5) < percentile(static.first_tokens(), 0.5)
    assert socket.if_nameindex() == interfaces
    assert _descriptors() == descriptors


def _alive(folder: Path) -> list[str]:
    """The commands of all processes that were told of this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = f"{folder}".encode() in (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if told and command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def _wait(seconds: float, until: Sequence[str] | None, folder: Path) -> list[str]:
    """What is alive when all of these are, or (None) when nothing is, or after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        alive = _alive(folder)
        if all(any(name in command for command in alive) for name in until) if until is not None else not alive:
            break
        time.sleep(0.05)
    return _alive(folder)


@ours_alone
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_it_however_it_ends(end: signal.Signals, tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "wan", "--only", "silent"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": f"{tmp_path}"},
        stderr=subprocess.DEVNULL,
    )
    try:
        up = _wait(30, ["wan.forwarder", "wan.server", "wan.worker smartroute, async"], tmp_path)
        assert len(up) > 8, up
    finally:
        running.send_signal(end)
        running.wait(30)
    assert running.returncode != 0
    assert _wait(10, None, tmp_path) == []
    if end is not signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []


def _series(contender: str, *first: float | None, scene: str = "1 per s") -> Series:
    calls = [Call(float(at), value, at + 0.9, "near") for at, value in enumerate(first)]
    return Series(scene, contender, calls, [0.0])


@pytest.mark.parametrize(
    ("first", "missed"),
    [
        ((0.121, 0.122, 0.123), ()),
        ((0.126, 0.126, 0.126), ("p50 above the floor",)),
        ((0.121, 0.122, 0.140), ("p99 above the floor's",)),
        ((0.121, 0.122, None), ("p99 above the floor's",)),
        ((0.165, 0.165, 0.165), ("p50 above the floor", "p99 above the floor's", "p50 after the SDK's")),
    ],
)
def test_a_figure_that_is_missed_is_told(
    first: tuple[float | None, ...], missed: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    floor = _series(FLOOR, 0.120, 0.121, 0.122)
    static = _series(STATIC, 0.165, 0.166, 0.167)
    assert report([floor, static, _series(SMART[0], *first)]) is (not missed)
    told = [line for line in capsys.readouterr().out.splitlines() if line.endswith("MISSED")]
    assert [any(what in line for line in told) for what in missed] == [True] * len(missed)
    assert len(told) == len(missed)


def test_percentiles_are_measured_values() -> None:
    values = [float(value) for value in range(1, 101)]
    shares = [percentile(values, share) for share in (0.0, 0.5, 0.9, 0.99, 1.0)]
    assert shares == [1, 50, 90, 99, 100]
    assert percentile([7.0], 0.99) == 7
