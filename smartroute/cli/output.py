"""What a command prints: tables and lines for people, JSON for programs, progress on stderr.

In a pipe it is plain text: no colours, no wrapped or shortened cells, no spaces at the end of a line.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from textwrap import wrap as fold
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "Screen",
    "endpoint_of",
    "milliseconds",
    "orderly_end",
    "print_json",
    "progress",
    "redacted",
    "redacted_keys",
    "rounded",
]

SHORTEST_SHOWN = 12
"""Characters below which nothing of a key is shown."""
GAP = 2
"""Columns between those of a table."""
UNBROKEN = "\N{NO-BREAK SPACE}"
WIDE = 10_000
"""Columns of a pipe."""


def redacted(key: str) -> str:
    """A key as it may be shown: its last four characters, or nothing of a short one."""
    return f"...{key[-4:]}" if len(key) >= SHORTEST_SHOWN else "..."


def redacted_keys(keys: Iterable[str]) -> str:
    """The same for several."""
    return ", ".join(map(redacted, keys))


def endpoint_of(url: str) -> str:
    """Scheme, host and port of a URL that may have a user name and a password."""
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2].rstrip("/")


def milliseconds(seconds: float | None) -> str:
    """A duration for people: one place is enough, and more than a probe can tell."""
    return "-" if seconds is None else f"{seconds * 1e3:.1f} ms"


def rounded(seconds: float | None) -> float | None:
    """A duration for programs, in milliseconds."""
    return None if seconds is None else round(seconds * 1e3, 3)


def print_json(value: Mapping[str, object]) -> None:
    """Print an object, readable too."""
    print(json.dumps(value, indent=2))


class Screen:
    """Standard output, for people.

    Args:
        no_color: plain text, also in a terminal.
        quiet: print nothing (the command prints JSON).
    """

    def __init__(self, *, no_color: bool = False, quiet: bool = False) -> None:
        from rich.console import Console  # noqa: PLC0415 - see `options`

        plain = no_color or bool(os.environ.get("NO_COLOR"))
        is_terminal = sys.stdout.isatty()
        self.is_terminal = is_terminal
        self.console = Console(
            color_system=None if plain or not is_terminal else "auto",
            width=None if is_terminal else WIDE,
            highlight=False,
            markup=False,
            emoji=False,
            quiet=quiet,
        )

    def line(self, text: str = "", style: str = "") -> None:
        """A line; a long one is wrapped between words in a terminal, and nowhere else."""
        self.console.print(text, style=style or None, soft_wrap=not self.is_terminal)

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        right: Iterable[str] = (),
        wrap: Collection[str] = (),
        indent: int = 0,
        header: bool = True,
    ) -> None:
        """A table; `right`: the columns of numbers, `wrap`: those whose words may be folded in a narrow terminal.

        Where the others do not fit in, each row is a paragraph.
        """
        from rich.padding import Padding  # noqa: PLC0415 - see `options`

        rows = list(rows)
        if self.is_terminal and _narrowest(columns, rows, wrap) + indent > self.console.width:
            self._paragraphs(columns, rows, wrap)
            return
        table = table_of(columns, rows, right=right, wrap=wrap)
        table.show_header = header
        if self.is_terminal:
            self.console.print(Padding(table, (0, 0, 0, indent), expand=False))
            return
        with self.console.capture() as printed:
            self.console.print(table)
        for line in printed.get().splitlines():
            self.line(" " * indent + line.rstrip())

    def _paragraphs(self, columns: Sequence[str], rows: Iterable[Sequence[str]], wrap: Collection[str]) -> None:
        """What stands in the first column that has a name, and in those without one; below it the others by name."""
        first = next((column for column in columns if column), "")
        for row in rows:
            cells = list(zip(columns, row, strict=True))
            self.line("  ".join(cell for column, cell in cells if cell and column in ("", first)), "bold")
            named = [
                f"{column} {cell}" if column in wrap else f"{column} {cell}".replace(" ", UNBROKEN)
                for column, cell in cells
                if column not in ("", first) and cell not in ("", "-")
            ]
            for line in fold("; ".join(named), self.console.width - 3, break_long_words=False, break_on_hyphens=False):
                self.line("   " + line.replace(UNBROKEN, " "))


def _narrowest(columns: Sequence[str], rows: Sequence[Sequence[str]], wrap: Collection[str]) -> int:
    """How many columns of a terminal a table takes at least."""
    widths = [
        max((len(word) for cell in cells for word in (cell.split() if column in wrap else [cell])), default=0)
        for column, *cells in zip(columns, columns, *rows, strict=True)
    ]
    return sum(widths) + GAP * (len(widths) - 1)


def table_of(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Iterable[str] = (),
    wrap: Collection[str] | None = None,
) -> "Table":
    """A table without lines, whose cells are folded rather than cut; those of `wrap` first, if it is given."""
    from rich.table import Table  # noqa: PLC0415 - see `options`

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    for column in columns:
        table.add_column(
            column,
            overflow="fold",
            justify="right" if column in right else "left",
            no_wrap=wrap is not None and column not in wrap,
        )
    for row in rows:
        table.add_row(*row)
    return table


@contextmanager
def orderly_end() -> Generator[None]:
    """SIGTERM ends the block as Ctrl-C does: the terminal is left as it was found."""

    def end(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def progress(what: str, total: int, *, no_color: bool = False) -> Generator[Callable[[], None]]:
    """A progress bar on stderr while the block runs, if that is a terminal. Gives what is called for each step."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415 - see `options`
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    plain = no_color or bool(os.environ.get("NO_COLOR"))
    console = Console(stderr=True, color_system=None if plain else "auto")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with orderly_end(), ExitStack() as undo:
        undo.callback(console.show_cursor)  # also where the bar has hidden it, and not come to its block
        bar = undo.enter_context(Progress(*columns, console=console, transient=True))
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
