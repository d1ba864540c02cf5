"""The command line: `smartroute`, or `python -m smartroute.cli`.

A command is a function in a module of its own, whose docstring is its help. Here they are registered, no more: what
they need they import when they run, so that `smartroute --help` is there at once.
"""

import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

try:
    import typer

    import_module("rich")  # which is quick; what is slow of it is imported where it is needed
except ModuleNotFoundError as missing:
    print(f"smartroute: {missing.name} is missing; in a clone: pip install '.[cli]'", file=sys.stderr)
    raise SystemExit(2) from None

from smartroute.cli.check import check
from smartroute.cli.demo import demo
from smartroute.cli.discover import discover
from smartroute.cli.env import env
from smartroute.cli.explain import explain
from smartroute.cli.options import guarded
from smartroute.cli.probe import probe
from smartroute.cli.watch import watch

__all__ = ["app", "main"]

COMMANDS = (check, probe, watch, explain, discover, env, demo)
"""In the order of the help."""

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the help is plain text, the same in a terminal, a pipe and the documentation
)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"smartroute {version('smartroute')}")
        raise typer.Exit


@app.callback()
def smartroute(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Smart routing with regional failover for OpenAI-compatible inference."""


for _command in COMMANDS:
    app.command()(guarded(_command))


def main() -> None:
    """Run the command line."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed; in this order, so that no connection takes their numbers
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - until the process ends
    app(prog_name="smartroute")
