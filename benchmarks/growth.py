"""How costs grow: with routes, the prompt, chunks, requests in flight, open streams. The curves are drawn."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks import choosing, machine
from benchmarks.figures import Figure, ratio, summary
from benchmarks.overhead import OURS
from benchmarks.servers import fast_server, nginx
from benchmarks.streams import held
from benchmarks.tables import table
from benchmarks.throughput import BACKENDS, times
from benchmarks.workers import BARE, KEPT, Case, Contender, interleaved, say

__all__ = ["measure", "tables"]

ROUTES = (1, 10, 100, 1_000)
SIZES = (1_000, 10_000, 100_000, 1_000_000, 4_000_000)
CHUNKS = (10, 100, 1_000, 5_000)
WIDTHS = (1, 4, 16, 64, 256, 1_024)
STREAMS = (10, 100, 1_000)


def with_routes(count: int) -> Contender:
    """Smartroute with so many routes. Unprobed: probing is measured by itself, and would take from the others."""
    return Contender(
        f"smartroute, {count:,} routes", {"kind": "smartroute", "routes": count, "config": {"probe_interval": 0}}
    )


def cases(whole: str, streams: str, *, quick: bool) -> list[Case]:
    """Every point of every curve but that of held streams, named `what: x`."""
    found: list[Case] = []
    sizes, chunks, widths = (SIZES[:1], CHUNKS[:1], WIDTHS[:1]) if quick else (SIZES, CHUNKS, WIDTHS)
    for mode in ("sync", "async"):
        order = {"do": mode, "origin": whole, "times": 1 if quick else 20}
        names = [BARE.name, *(with_routes(count).name for count in _routes(quick=quick))]
        found.append(Case(f"{mode}, routes", order, names))
        for size in sizes:
            few = max(1, min(order["times"], 4_000_000 // size // 2))
            both = [BARE.name, OURS.name]
            found.append(Case(f"{mode}, bytes of the prompt: {size}", order | {"size": size, "times": few}, both))
        for count in chunks:
            few = max(1, min(order["times"], 500 // count))
            both = [(KEPT if mode == "sync" else BARE).name, OURS.name]
            asked = order | {"origin": streams, "chunks": count, "times": few}
            found.append(Case(f"{mode}, chunks: {count}", asked, both))
    for width in widths:
        burst = {"do": "burst", "origin": whole, "width": width, "times": 20 if quick else times(width)}
        found.append(Case(f"async, in flight: {width}", burst, [BARE.name, BACKENDS[0].name]))
    return found


def _routes(*, quick: bool) -> Sequence[int]:
    return ROUTES[:1] if quick else ROUTES


def measure(*, rounds: int = 10, sessions: int = 1, quick: bool = False) -> dict[str, Any]:
    """By curve: pairs of x, seconds per call of the SDK, of smartroute, and their ratio (of CPU)."""
    about, remarks = machine.note(), []
    counts = _routes(quick=quick)
    with ExitStack() as stack:
        streams = stack.enter_context(fast_server())
        whole = stack.enter_context(nginx())
        if whole is None:
            remarks.append("There is no nginx (make bench-environments): whole answers come from a server in Python.")
            say(f"NOTE: {remarks[0]}\n")
        contenders = (BARE, KEPT, OURS, BACKENDS[0], *(with_routes(count) for count in counts))
        measured = cases(whole or streams, streams, quick=quick)
        samples, left_out = interleaved(contenders, measured, rounds=rounds, sessions=sessions)
    remarks += [f"Left out: {name}: {why}" for name, why in left_out.items()]
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, found in samples.items():
        what, _, x = name.partition(": ")
        base, *ours = _ordered(found)
        for count, mine in zip(counts if not x else [int(x)], ours, strict=True):
            point = {
                "x": count,
                "sdk": summary(found[base]["cpu"]).median,
                "ours": summary(found[mine]["cpu"]).median,
                "ratio": ratio(found[mine]["cpu"], found[base]["cpu"]),
            }
            curves.setdefault(what, []).append(point)
    for count in () if quick else STREAMS:
        sdk, ours_ = (held(each, count, traced=False) for each in (BARE, BACKENDS[0]))
        curves.setdefault("async, open streams (bytes each)", []).append({"x": count, "sdk": sdk, "ours": ours_})
    if not quick:
        for row in choosing.measure():
            point = {"x": row.routes, "ours": row.choose / 1e6}
            curves.setdefault("choosing, routes", []).append(point)
    return {"machine": about, "remarks": remarks, "rounds": rounds, "curves": curves}


def _ordered(found: dict[str, Any]) -> list[str]:
    """The SDK first, then ours, with few routes before many."""
    return sorted(found, key=lambda name: (name.startswith("smartroute"), len(name), name))


def tables(result: dict[str, Any]) -> str:
    """A table for each curve: CPU microseconds per call, or bytes per stream."""
    parts = [f"{result['rounds']} rounds, interleaved; CPU", *result["remarks"]]
    for what, points in result["curves"].items():
        unit, factor = ("bytes", 1.0) if "bytes each" in what else ("us", 1e6)
        rows = [(what, f"SDK, {unit}", f"smartroute, {unit}", "more", "beside the SDK")]
        for point in points:
            cells = [f"{point['x']:,}"]
            sdk, ours = point.get("sdk"), point["ours"]
            cells.append("" if sdk is None else f"{sdk * factor:,.0f}")
            cells.append(f"{ours * factor:,.1f}" if ours * factor < 100 else f"{ours * factor:,.0f}")
            cells.append("" if sdk is None else f"{(ours - sdk) * factor:+,.0f}")
            cells.append(Figure(*point["ratio"]).percent() if "ratio" in point else "")
            rows.append((cells[0], cells[1], cells[2], cells[3], cells[4]))
        parts.append(table(rows))
    return "\n\n".join(parts)
