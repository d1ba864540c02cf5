"""`python -m benchmarks NAME`: a command for every figure that the docs quote."""

import argparse

from benchmarks import acceptance, choosing, outage, side_by_side, soak, tracing
from benchmarks.chaos import command as chaos
from benchmarks.selection import command as selection
from benchmarks.wan import command as wan


def main() -> int:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    commands = parser.add_subparsers(dest="name", metavar="NAME")
    command = commands.add_parser("acceptance", help="300 calls over three routes, an outage, the return (about 70 s)")
    command.add_argument("--calls", type=int, default=300, help="streamed calls in steady state (default: 300)")
    chaos.add_arguments(
        commands.add_parser("chaos", help="every fault under every client, on real sockets (about 6 minutes)")
    )
    command = commands.add_parser("outage", help="first token of each call through an outage (about 30 s)")
    command.add_argument("--svg", metavar="PATH", help="draw it (needs matplotlib: pip install --group bench)")
    side_by_side.add_parsers(commands)
    commands.add_parser("choosing", help="microseconds to choose among 1 to 1,000 routes (about 30 s)")
    selection.add_arguments(commands.add_parser("selection", help="choosing the route, simulated (about 5 minutes)"))
    command = commands.add_parser(
        "soak", help="100,000 calls through every fault: is anything lost or left? (15 minutes)"
    )
    command.add_argument("--calls", type=int, default=100_000, help="how many (default: 100,000)")
    commands.add_parser("tracing", help="microseconds that spans and metrics take (about 10 s)")
    wan.add_arguments(commands.add_parser("wan", help="first token across a WAN, against others (about 14 minutes)"))
    given = parser.parse_args()
    if given.name == "acceptance":
        return 0 if acceptance.main(calls=given.calls, as_json=given.json) else 1
    if given.name == "outage":
        outage.main(svg=given.svg, as_json=given.json)
        return 0
    if given.name == "chaos":
        return chaos.main(given)
    if given.name == "choosing":
        return 0 if choosing.main(as_json=given.json) else 1
    if given.name == "tracing":
        return 0 if tracing.main(as_json=given.json) else 1
    if given.name == "selection":
        return selection.main(given)
    if given.name == "wan":
        return wan.main(given)
    if given.name == "soak":
        return 0 if soak.main(calls=given.calls, as_json=given.json) else 1
    if given.name is None:
        parser.print_help()
        return 0
    return side_by_side.main(given)


if __name__ == "__main__":
    raise SystemExit(main())
