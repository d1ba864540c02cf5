"""What is printed for people: in a terminal as wide as it is, and in a pipe."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from tests.cli.kit import environment
from tests.environments import ROOT

TABLE = """
from smartroute.cli.output import Screen
Screen().table(
    ("", "endpoint", "region", "connect p50", "round trip", "why", ""),
    [
        ("1", "us-arizona-1", "US_ARIZONA_1", "1.3 ms", "120.5 ms", "asked if those before it fail", "ok"),
        ("", "eu-frankfurt-1", "", "0.1 ms", "-", "not asked: its key is refused", "3 failed"),
    ],
    right=("", "connect p50", "round trip"),
    wrap=("why",),
)
"""


def printed(columns: int) -> list[str]:
    """The lines of the table in a terminal of so many columns."""
    terminal, other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", TABLE],
        env=environment(PYTHONPATH=f"{ROOT}", TERM="xterm", NO_COLOR="1"),
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
    )
    os.close(other_end)
    said = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            break
        if not data:
            break
        said += data
    os.close(terminal)
    assert child.wait(timeout=20) == 0, said
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode()).splitlines()]


@pytest.mark.parametrize(("columns", "height"), [(200, 3), (85, 5)])
def test_a_table_where_there_is_room(columns: int, height: int) -> None:
    lines = printed(columns)
    assert lines[0].split() == ["endpoint", "region", "connect", "p50", "round", "trip", "why"]
    assert len(lines) == height  # what may be folded is folded, and nothing else
    assert re.match(r"1  us-arizona-1 +US_ARIZONA_1 +1.3 ms +120.5 ms  asked if", lines[1])


@pytest.mark.parametrize("columns", [30, 40, 60, 70])
def test_no_word_is_broken_where_there_is_none(columns: int) -> None:
    lines = printed(columns)
    assert max(map(len, lines)) <= columns
    assert lines[0] == "1  us-arizona-1  ok"
    assert "eu-frankfurt-1  3 failed" in lines
    said = " ".join(line.strip() for line in lines)
    assert "region US_ARIZONA_1; connect p50 1.3 ms; round trip 120.5 ms; why asked if those before it fail" in said
    assert "round trip -" not in said
    assert any("round trip 120.5 ms" in line for line in lines)  # a name and its number stay on one line
