"""Requests a second, CPU and latency of `AsyncOpenAI` with 1 to 1,024 requests in flight, on loopback."""

from contextlib import ExitStack
from typing import Any

from benchmarks import machine
from benchmarks.figures import ratio, summary
from benchmarks.servers import fast_server, nginx
from benchmarks.tables import table
from benchmarks.workers import AGAIN, BARE, Case, Contender, interleaved, say

__all__ = ["BACKENDS", "ON_AIOHTTP", "WIDTHS", "measure", "tables"]

WIDTHS = (1, 32, 256, 1_024)
ON_AIOHTTP = Contender("SDK on aiohttp", {"kind": "bare", "aiohttp": True})
BACKENDS = tuple(
    Contender(f"smartroute, {name}", {"kind": "smartroute", "async_only": True, "config": {"backend": name}})
    for name in ("httptools", "httpcore", "aiohttp")
)
CONTENDERS = (BARE, AGAIN, ON_AIOHTTP, *BACKENDS)


def times(width: int) -> int:
    """How many requests: about half a second's worth, and enough for each connection to be used again."""
    return 200 if width == 1 else max(400, 2 * width)


def measure(*, rounds: int = 7, sessions: int = 2, quick: bool = False) -> dict[str, Any]:
    """Requests per second, seconds of CPU per request, and percentiles of latency in seconds, for each round."""
    about, remarks = machine.note(), []
    contenders = (BARE, AGAIN, BACKENDS[0]) if quick else CONTENDERS
    with ExitStack() as stack:
        origin = stack.enter_context(nginx())
        if origin is None:
            remarks.append(
                "There is no nginx (make bench-environments): the server is in Python, and may be the limit."
            )
            say(f"NOTE: {remarks[0]}\n")
            origin = stack.enter_context(fast_server())
        cases = [
            Case(
                f"{width:,} in flight",
                {"do": "burst", "origin": origin, "width": width, "times": 2 * width + 10 if quick else times(width)},
                [each.name for each in contenders],
            )
            for width in (WIDTHS[:2] if quick else WIDTHS)
        ]
        samples, left_out = interleaved(contenders, cases, rounds=rounds, sessions=sessions)
    remarks += [f"Left out: {name}: {why}" for name, why in left_out.items()]
    return {"machine": about, "remarks": remarks, "rounds": rounds, "sessions": sessions, "samples": samples}


def tables(result: dict[str, Any]) -> str:
    """A table for each number in flight; ratios are to the SDK's default."""
    parts = [f"{result['sessions']} sessions of {result['rounds']} rounds, interleaved", *result["remarks"]]
    for case, found in result["samples"].items():
        rows = [(case, "requests/s", "times the SDK", "CPU us", "times the SDK", "p50 ms", "p99 ms")]
        for name in (each.name for each in CONTENDERS if each.name in found):
            figures, theirs = found[name], found.get(BARE.name)
            ratios = {
                key: "" if name == BARE.name or theirs is None else ratio(figures[key], theirs[key]).times()
                for key in ("rate", "cpu")
            }
            middle = {key: summary(samples).median for key, samples in figures.items()}
            rows.append(
                (
                    name,
                    f"{middle['rate']:,.0f}",
                    ratios["rate"],
                    f"{middle['cpu'] * 1e6:,.0f}",
                    ratios["cpu"],
                    f"{middle['p50'] * 1e3:,.2f}",
                    f"{middle['p99'] * 1e3:,.2f}",
                )
            )
        parts.append(table(rows))
    return "\n\n".join(parts)
