"""What a call costs through smartroute, beside the bare SDK and beside others that do this job in process.

Whole answers come from nginx, streams from `benchmarks.fast_server`; both on loopback.
"""

from contextlib import ExitStack
from typing import Any

from benchmarks import machine
from benchmarks.figures import ratio, summary
from benchmarks.servers import fast_server, nginx
from benchmarks.tables import table
from benchmarks.workers import AGAIN, BARE, KEPT, Case, Contender, interleaved, say

__all__ = ["measure", "tables"]

OURS = Contender("smartroute", {"kind": "smartroute"})
HUNDRED = Contender("smartroute, 100 routes", {"kind": "smartroute", "routes": 100})
SPANS = Contender("smartroute, spans", {"kind": "smartroute", "spans": True})
METRICS = Contender("smartroute, spans and metrics", {"kind": "smartroute", "spans": True, "metrics": True})
INSTRUMENTED = Contender("SDK, httpx instrumented", {"kind": "bare", "instrumented": True, "spans": True})
LITELLM_SDK = Contender("SDK of LiteLLM's environment", {"kind": "bare"}, "litellm")
LITELLM = Contender("LiteLLM Router", {"kind": "litellm"}, "litellm")
PRIORITY_SDK = Contender("SDK of the load balancer's environment", {"kind": "bare"}, "priority")
PRIORITY = Contender("openai-priority-loadbalancer", {"kind": "priority"}, "priority")
CONTENDERS = (
    *(BARE, AGAIN, KEPT, OURS, HUNDRED, SPANS, METRICS, INSTRUMENTED),
    *(LITELLM_SDK, LITELLM, PRIORITY_SDK, PRIORITY),
)

EVERYBODY = [each.name for each in CONTENDERS if each is not KEPT]
FEW = [each.name for each in (BARE, AGAIN, OURS)]
STREAMING = [each.name for each in (BARE, AGAIN, OURS, SPANS, METRICS, INSTRUMENTED)]
OTHERS = [each.name for each in (LITELLM_SDK, LITELLM, PRIORITY_SDK, PRIORITY)]
BASES = {LITELLM.name: LITELLM_SDK.name, PRIORITY.name: PRIORITY_SDK.name}
"""Who is not compared with the first of a case: a peer has its own environment, and an older SDK there."""


def cases(whole: str, streams: str, *, quick: bool) -> list[Case]:
    """What is measured; `quick`: the smallest of it."""
    found: list[Case] = []
    for mode in ("sync", "async"):
        few = [KEPT.name, *FEW] if mode == "sync" else FEW
        many = [KEPT.name, *STREAMING] if mode == "sync" else STREAMING
        call = {"do": mode, "origin": whole}
        stream = {"do": mode, "origin": streams}
        found += [
            Case(f"{mode}, 1 kB", call | {"times": 30}, EVERYBODY),
            Case(f"{mode}, 100 kB", call | {"size": 100_000, "times": 20}, FEW),
            Case(f"{mode}, 1 MB", call | {"size": 1_000_000, "times": 8}, FEW),
            Case(f"{mode}, stream of 200", stream | {"chunks": 200, "times": 3}, [*many, *OTHERS]),
            Case(f"{mode}, stream of 2,000", stream | {"chunks": 2_000, "times": 1}, few),
            Case(f"{mode}, stream of 200, paced", stream | {"chunks": 200, "times": 1, "model": "paced"}, few),
        ]
    if quick:
        found = [case._replace(order=case.order | {"times": 1}, contenders=FEW) for case in found]
        return [case for case in found if "1 kB" in case.name or case.name.endswith("200")]
    return found


def measure(*, rounds: int = 10, sessions: int = 3, quick: bool = False) -> dict[str, Any]:
    """Seconds per call, by the clock and of CPU, for each round."""
    about = machine.note()
    remarks = []
    with ExitStack() as stack:
        streams = stack.enter_context(fast_server())
        whole = stack.enter_context(nginx())
        if whole is None:
            remarks.append("There is no nginx (make bench-environments): whole answers come from a server in Python.")
            say(f"NOTE: {remarks[0]}\n")
        measured = cases(whole or streams, streams, quick=quick)
        wanted = {name for case in measured for name in case.contenders}
        contenders = [each for each in CONTENDERS if each.name in wanted]
        samples, left_out = interleaved(contenders, measured, rounds=rounds, sessions=sessions)
    remarks += [f"Left out: {name}: {why}" for name, why in left_out.items()]
    chunks = {case.name: case.order.get("chunks", 0) for case in measured}
    return {
        "machine": about,
        "remarks": remarks,
        "rounds": rounds,
        "sessions": sessions,
        "chunks": chunks,
        "samples": samples,
    }


def tables(result: dict[str, Any]) -> str:
    """A table for each case: medians, and what each adds to the one it is compared with."""
    parts = [f"{result['sessions']} sessions of {result['rounds']} rounds, interleaved", *result["remarks"]]
    for case, found in result["samples"].items():
        base = next(iter(BASES.get(name, name) for name in _first(case) if name in found), None)
        rows = [(case, "us", "beside the SDK", "CPU us", "beside the SDK")]
        for name, figures in sorted(
            found.items(), key=lambda pair: EVERYBODY.index(pair[0]) if pair[0] in EVERYBODY else -1
        ):
            theirs = found.get(BASES.get(name) or (base or name))
            cells = []
            for measured in ("wall", "cpu"):
                cells.append(f"{summary(figures[measured]).median * 1e6:,.0f}")
                apart = theirs is None or theirs is figures
                cells.append("" if apart or theirs is None else ratio(figures[measured], theirs[measured]).percent())
            rows.append((name, *cells))
        parts.append(table(rows))
    return "\n\n".join(parts)


def _first(case: str) -> tuple[str, str]:
    return (KEPT.name, BARE.name) if case.startswith("sync, stream") else (BARE.name, BARE.name)
