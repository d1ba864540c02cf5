"""`smartroute watch`: what changes, as it changes; in a pipe, and in a terminal that changes its size."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from smartroute import Route
from smartroute.cli.watch import Change, Watcher
from smartroute.events import BreakerChanged, CertificateExpiring, ConnectivityChanged, ProbeEnded
from smartroute.testing import Region, Status
from tests.cli.kit import CONSOLE, DIRECT, assert_no_key, environment, routes, run
from tests.environments import ROOT

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def variables(near: Region, globe: Region) -> dict[str, str]:
    return {
        "SMARTROUTE_ROUTES": routes({"near": near}),
        "SMARTROUTE_API_KEY": DIRECT,
        "SMARTROUTE_GLOBAL_URL": globe.url,
        "SMARTROUTE_GLOBAL_API_KEY": CONSOLE,
    }


@contextmanager
def watching(near: Region, globe: Region, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`smartroute watch` into a pipe."""
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "smartroute.cli", "watch", "--interval", "0.2", *arguments],
        env=environment(**variables(near, globe)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def lines_until(child: subprocess.Popen[str], *wanted: str) -> list[str]:
    """What it says until all of these words were said, in any order; the test's own time limit ends the wait."""
    lines: list[str] = []
    assert child.stdout is not None
    for line in child.stdout:
        lines.append(line.rstrip("\n"))
        if all(any(words in said for said in lines) for words in wanted):
            return lines
    raise AssertionError(f"{wanted!r} was never said: {lines}")


def test_a_line_for_each_change(near: Region, globe: Region) -> None:
    with watching(near, globe) as child:
        lines_until(child, "near: probes: answered (", "requests go to near (")
        near.stop()
        lines_until(
            child,
            "near: closed -> open (connect: Connection refused)",
            "near: probes: connect: Connection refused (before: ",
            "requests go to global, no longer to near (fallback)",
        )
        near.start()
        lines_until(child, "near: open -> half_open", "requests go to near, no longer to global (trial)")
        near.set(Status(401))
        lines_until(child, "key refused (401)", "requests go to global")
        near.heal()
        lines_until(child, "requests go to near")
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert errors == ""
    assert not [seen for seen in near.requests + globe.requests if seen.method != "GET"]  # no tokens


def test_a_json_object_for_each_change(near: Region, globe: Region) -> None:
    with watching(near, globe, "--json") as child:
        first, *_ = [json.loads(line) for line in lines_until(child, '"preferred"')]
        near.stop()
        changes = [json.loads(line) for line in lines_until(child, '"state"')]
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=20)
    assert child.returncode == 143
    assert set(first) == {"at", "change", "route", "before", "after", "cause"}
    assert (first["change"], first["route"], first["before"], first["after"]) == ("answer", "near", None, "answered")
    state = changes[-1]
    assert (state["route"], state["before"], state["after"]) == ("near", "closed", "open")
    assert state["cause"] == "connect: Connection refused"


def test_for_some_time(near: Region, globe: Region) -> None:
    done = run("watch", "--for", "3", "--interval", "0.2", **variables(near, globe))
    assert done.status == 0
    assert "near: probes: answered" in done.output
    near.stop()
    done = run("watch", "--for", "3", "--interval", "0.2", **variables(near, globe))
    assert done.status == 1


def test_wrong_usage() -> None:
    assert run("watch").status == 2
    assert run("watch", "--interval", "0").status == 2


def resize(terminal: int, lines: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


def read_until(terminal: int, wanted: str, said: str = "") -> str:
    """What a terminal is told, up to these words and a little more."""
    while wanted not in said:
        said += os.read(terminal, 65536).decode()
    return said


def frames(said: str) -> list[list[str]]:
    """What was on the screen, time after time: its lines without what only colours them."""
    drawn = said.split("\x1b[H")[1:-1]  # the last one may not be whole
    return [ESCAPE.sub("", frame).replace("\r", "").split("\n") for frame in drawn]


def fitting(said: str, lines: int, columns: int) -> list[list[str]]:
    """The frames that such a screen holds."""
    return [frame for frame in frames(said) if len(frame) <= lines and max(map(len, frame)) <= columns]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_in_a_terminal(near: Region, globe: Region, ending: signal.Signals) -> None:
    terminal, other_end = pty.openpty()
    resize(terminal, 24, 100)
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "smartroute.cli", "watch", "--interval", "0.2"],
        env=environment(**variables(near, globe), TERM="xterm-256color"),
        cwd=ROOT,
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
    )
    os.close(other_end)
    said = read_until(terminal, "requests go to near (")
    assert "\x1b[?1049h" in said  # a screen of its own
    resize(terminal, 9, 60)
    near.stop()
    narrow = read_until(terminal, "requests go to global")
    while not fitting(narrow, 9, 60):  # a frame may have been under way when the screen became small
        narrow += os.read(terminal, 65536).decode()
    child.send_signal(ending)
    rest = ""
    while True:
        try:
            rest += (data := os.read(terminal, 65536)).decode()
        except OSError:
            break
        if not data:
            break
    os.close(terminal)
    assert child.wait(timeout=20) == (130 if ending == signal.SIGINT else 143)
    assert "Traceback" not in said + narrow + rest
    assert_no_key(said + narrow + rest)
    assert "\x1b[2J" not in narrow  # nothing is wiped between two frames: no flicker
    assert any("near" in line and "open" in line for line in fitting(narrow, 9, 60)[-1])
    assert rest.rfind("\x1b[?1049l") > rest.rfind("\x1b[?1049h")  # the screen is given back
    assert rest.rfind("\x1b[?25h") > rest.rfind("\x1b[?25l")  # and the cursor
    after = ESCAPE.sub("", rest.partition("\x1b[?1049l")[2])
    assert "requests go to: global" in after  # what was last known remains


# --- What a change is --------------------------------------------------------------------------------

ROUTE = Route("https://llm.example/v1", name="near", api_key=DIRECT)


def changes_of(*events: ProbeEnded | BreakerChanged | CertificateExpiring | ConnectivityChanged) -> list[Change]:
    changes: list[Change] = []
    watcher = Watcher(changes.append, wall=lambda: 1_800_000_000.0)
    for event in events:
        watcher(event)
    return changes


def test_the_same_answer_is_no_change() -> None:
    good, bad = (
        ProbeEnded(ROUTE, 0.02, None, status=200),
        ProbeEnded(ROUTE, None, "503", status=503, detail="status 503"),
    )
    found = changes_of(good, good, bad, bad, good)
    assert [(change.before, change.after) for change in found] == [
        (None, "answered"),
        ("answered", "status 503"),
        ("status 503", "answered"),
    ]


def test_a_certificate_is_told_of_once() -> None:
    (change,) = changes_of(CertificateExpiring(ROUTE, 3 * 86_400.0), CertificateExpiring(ROUTE, 3 * 86_400.0))
    assert str(change).endswith(" near: expires in 3 days")


def test_words_for_each_kind() -> None:
    offline, online, opened = changes_of(
        ConnectivityChanged(online=False),
        ConnectivityChanged(online=True),
        BreakerChanged(ROUTE, "closed", "open", "reset", None),
    )
    assert str(offline).endswith(" no endpoint can be reached")
    assert str(online).endswith(" an endpoint can be reached again")
    assert str(opened).endswith(" near: closed -> open (reset)")
    assert str(opened).startswith(time.strftime("%H:%M:%S", time.localtime(1_800_000_000)))
    assert json.loads(offline.json())["route"] is None
    assert json.loads(opened.json())["at"] == "2027-01-15T08:00:00.000+00:00"
