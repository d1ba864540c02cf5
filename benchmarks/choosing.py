"""What choosing costs: microseconds to choose among 1 to 1,000 routes, and memory as requests go by."""

import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.tables import table
from smartroute.config import Config
from smartroute.policy.messages import Answered, Attempt, Call, Content, Hold, Send
from smartroute.policy.schedule import Claim, Finding
from smartroute.route import Route
from smartroute.router import Router

__all__ = ["main"]

COUNTS = (1, 3, 10, 100, 1_000)
MOST = {10: 5.0, 1_000: 500.0}
"""Microseconds that choosing may take, by the number of routes: what the project has set itself."""
BATCH = 200
ROUNDS = 25
CALL = Call("/chat/completions", "m", streaming=True, size=2_000)


class Row(NamedTuple):
    """One number of routes, in microseconds (medians).

    Attributes:
        choose: the choice alone; `pick`: `Router.pick` as a user calls it.
        exchange: a request's whole bookkeeping: begun, sent, answered, settled.
        kept: bytes that 20,000 further requests have added to what is remembered.
    """

    routes: int
    choose: float
    pick: float
    exchange: float
    kept: int


def measured_router(count: int) -> Router:
    """A router that knows all of its routes."""
    routes = [Route(f"https://route-{number}.example/v1", name=f"route-{number}") for number in range(count)]
    router = Router(Config(routes, api_key="fake-direct-key"))
    for number, route in enumerate(routes):
        claim = Claim(route, fresh=False, limit=1.0)
        seconds, now = 0.01 + 0.001 * number, time.monotonic()
        router.probed(claim, Finding(now, 200, seconds))
    for _ in range(100):
        request(router)
    return router


def request(router: Router) -> None:
    """One streamed request that is answered at once."""
    exchange = router.begin(CALL)
    if exchange is None:
        raise AssertionError("every model is served")
    now = router.clock()
    command = exchange.start(now)
    attempt: Attempt = command.attempt if isinstance(command, Send) else exchange.attempts[0]
    attempt.depart(now, reused=True)
    hold = exchange.feed(Answered(attempt, 200, None, event_stream=True, encoded=False), now + 0.05)
    if isinstance(hold, Hold):
        exchange.feed(Content(attempt), now + 0.05)
    exchange.settle(attempt, "complete", now + 0.06)
    router.finish(exchange, "answered")


def median(work: Callable[[], object]) -> float:
    """The median over rounds of the mean microseconds in a batch."""
    rounds: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(BATCH):
            work()
        rounds.append((time.perf_counter() - began) / BATCH * 1e6)
    return statistics.median(rounds)


def kept(router: Router) -> int:
    """Bytes that 20,000 requests leave behind, after as many have gone before."""
    for _ in range(20_000):
        request(router)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20_000):
        request(router)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return after - before


def measure() -> list[Row]:
    """All numbers of routes."""
    rows: list[Row] = []
    for count in COUNTS:
        router = measured_router(count)
        choose = median(lambda: router._selector.select(CALL, router.clock()))  # noqa: B023, SLF001 - used at once
        pick = median(lambda: router.pick(model="m"))  # noqa: B023 - as above
        exchange = median(lambda: request(router))  # noqa: B023 - as above
        rows.append(Row(count, choose, pick, exchange, kept(router)))
    return rows


def main(*, as_json: bool = False) -> bool:
    """Print the table. Returns whether choosing is as fast as it has to be."""
    rows = measure()
    if as_json:
        print(json.dumps([row._asdict() for row in rows]))
    else:
        lines = [("routes", "choose, us", "to reach", "Router.pick, us", "a request's bookkeeping, us", "bytes kept")]
        for row in rows:
            most = f"<= {MOST[row.routes]:.0f}" if row.routes in MOST else ""
            times = (f"{row.choose:.1f}", most, f"{row.pick:.1f}", f"{row.exchange:.1f}")
            lines.append((str(row.routes), *times, f"{row.kept:,}"))
        print(table(lines))
    return all(row.choose <= MOST.get(row.routes, row.choose) for row in rows)
