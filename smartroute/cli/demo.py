"""`smartroute demo`: an outage that no caller notices."""

import os
import sys
from typing import Annotated

import typer

from smartroute.cli.options import NoColor

__all__ = ["demo"]


def demo(
    *,
    calls: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="N", help="Calls in an act; where one waits, it takes its time.")
    ] = 20,
    otlp: Annotated[
        str | None, typer.Option(metavar="URL", help="Send the spans to this OTLP/HTTP backend too, at the end.")
    ] = None,
    no_color: NoColor = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary alone, as JSON.")] = False,
) -> None:
    """Watch an outage that no caller notices.

    Three regions and a global endpoint on localhost answer the real OpenAI SDK through smartroute. The
    best region goes down, comes back, becomes slow; then all of them go down, and come back. It takes
    half a minute, and needs no network and no keys.

    \b
    smartroute demo                                     the whole show
    smartroute demo --calls 100                         more calls, steadier percentiles
    smartroute demo --no-color > demo.txt               plain lines for a file
    smartroute demo --json | jq .first_token_ms         the summary for a program
    smartroute demo --otlp http://localhost:4318        the traces in Jaeger, Phoenix, ...

    An OTLP backend that wants headers finds them in OTEL_EXPORTER_OTLP_HEADERS, as usual.

    Exit code: 0 if no call failed, 1 if one did, 2 for wrong usage, 130 after Ctrl-C.
    """  # noqa: D301 - \b keeps the lines of a paragraph as they are
    try:
        from rich.console import Console  # noqa: PLC0415 - see `options`

        from smartroute.demo import outage, trace  # noqa: PLC0415 - what they need is an extra, and slow to load
    except ModuleNotFoundError as missing:
        print(
            f"smartroute: {missing.name} is missing; in a clone: pip install '.[demo]'",
            file=sys.stderr,
        )
        raise typer.Exit(2) from None
    try:
        endpoint = otlp and trace.endpoint(otlp)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--otlp") from None
    plain = no_color or bool(os.environ.get("NO_COLOR"))
    console = Console(color_system=None if plain else "auto", highlight=False, markup=False, quiet=as_json)
    try:
        account, tracing = outage.run(console, calls)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(account.json())
    if endpoint and (why := tracing.send(endpoint)):
        print(f"The spans could not be sent to {endpoint}: {why}", file=sys.stderr)
    elif endpoint:
        account.remark(f"\nThe spans were sent to {endpoint}")
    raise typer.Exit(account.failures > 0)
