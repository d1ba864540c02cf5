"""The show: the real OpenAI SDK calls through smartroute, while regions go down, become slow and come back."""

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import httpx2
import openai
from rich.console import Console

import smartroute
from smartroute.demo.account import Account, Call
from smartroute.demo.regions import BEST, GLOBAL, LATENCIES, PROBE_INTERVAL, TOKENS, Setting, key_of, setting
from smartroute.demo.trace import Tracing
from smartroute.policy.messages import Record
from smartroute.testing import Region, Silence, Slow

__all__ = ["run"]

PACE = 0.12
"""Seconds from the start of one call to that of the next: what eyes can follow."""
WAITING_PACE = 0.25
"""The same while waiting for traffic to move."""
PATIENCE = 30.0
"""Seconds that an act waits for traffic to move, at the most."""
ENCORE = 3
"""Calls after traffic has moved, to see that it stays."""
MID_REQUEST = 0.05
"""Seconds for which a region holds a request before it dies."""


def run(console: Console, calls: int) -> tuple[Account, Tracing]:
    """Play all acts, with so many calls in each that does not wait for something, and print the summary."""
    account, tracing = Account(console), Tracing()
    with ExitStack() as stack:
        stack.enter_context(_log_lines(account))
        scene = stack.enter_context(setting())
        routed = stack.enter_context(smartroute.Client(scene.config, trust_env=False))  # no proxy to localhost
        plain = stack.enter_context(openai.DefaultHttpxClient(trust_env=False))
        show = Show(account, tracing, *(stack.enter_context(_sdk(scene, http)) for http in (routed, plain)))
        show.warm_up()
        _play(show, scene, calls)
    example = next((call for call in account.calls if call.failed_over), None)
    tree = tracing.tree(example.number, ascii_only=console.options.ascii_only) if example else []
    account.summarize(tree)
    return account, tracing


class _LogLine(logging.Handler):
    """Shows what smartroute writes to the log among the calls."""

    def __init__(self, account: Account) -> None:
        super().__init__(logging.WARNING)
        self._account = account

    def emit(self, record: logging.LogRecord) -> None:
        self._account.remark(f"   in the log: {record.getMessage()}")


@contextmanager
def _log_lines(account: Account) -> Generator[None]:
    logger, handler = logging.getLogger("smartroute"), _LogLine(account)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _sdk(scene: Setting, http_client: httpx2.Client) -> openai.OpenAI:
    """The SDK as any application has it, but for its own retries: what is survived here, smartroute survives."""
    return openai.OpenAI(base_url=scene.endpoint.url, api_key=key_of(GLOBAL), http_client=http_client, max_retries=0)


class Show:
    """Makes the calls, at a pace that can be followed.

    Args:
        routed: the SDK through smartroute.
        plain: the SDK alone.
    """

    def __init__(self, account: Account, tracing: Tracing, routed: openai.OpenAI, plain: openai.OpenAI) -> None:
        self.account = account
        self._tracing = tracing
        self._routed = routed
        self._plain = plain
        self._next = self._cue = time.monotonic()

    def warm_up(self) -> None:
        """Have the SDK load what it loads with its first call, which is nobody's time to first token."""
        _ask(self._plain, 0)

    def act(self, title: str, done: str) -> None:
        """Begin an act. `done`: what is done to the regions."""
        self.account.act(title, done)
        self._cue = time.monotonic()

    def call(self, *, beside_plain: bool = False) -> Call:
        """Call through smartroute; and right after it, by the plain SDK, the global endpoint."""
        time.sleep(max(self._next - time.monotonic(), 0.0))
        self._next = time.monotonic() + PACE
        number = len(self.account.calls) + 1
        with self._tracing.call(number):
            call = _ask(self._routed, number)
        remark = ""
        if beside_plain:
            direct = _ask(self._plain, number)
            self.account.healthy.append(call)
            self.account.direct.append(direct)
            remark = (
                f"global alone: {direct.first_token * 1000:.0f} ms" if direct.first_token else "global alone failed"
            )
        self.account.tell(call, remark)
        return call

    def calls(self, number: int, *, beside_plain: bool = False) -> None:
        """Make so many calls."""
        for _ in range(number):
            self.call(beside_plain=beside_plain)

    def until(self, what: str, reached: Callable[[str | None], bool]) -> None:
        """Call until the route that answers is the one awaited; tell how long into the act that was."""
        while not reached(self.call().route):
            if time.monotonic() - self._cue > PATIENCE:
                self.account.waited(what, None)
                return
            self._next += WAITING_PACE - PACE
        self.account.waited(what, time.monotonic() - self._cue)


def _play(show: Show, scene: Setting, calls: int) -> None:
    account, best = show.account, scene.regions[BEST]
    routes = ", ".join(f"{name} {latency * 1000:.0f} ms" for name, latency in LATENCIES.items())
    account.remark("The OpenAI SDK, its own retries turned off, streams through smartroute, on localhost.")
    account.remark(f"Round trips: {routes}. Probes: every {PROBE_INTERVAL:g} s (by default 10).")

    show.act("All regions are healthy", f"Once traffic is on {BEST}: beside each call, the global endpoint alone.")
    show.until(f"traffic is on {BEST}", lambda route: route == BEST)
    show.calls(calls, beside_plain=True)

    show.act(f"{BEST} is taken down", "It dies with a request in its hands, and refuses connections from then on.")
    death = _dies_with_a_request(best)
    while death.is_alive():  # a call may happen to go elsewhere
        show.call()
    show.calls(calls - 1)

    show.act(f"{BEST} comes back", "No request is sacrificed to find out: probes notice.")
    best.heal()
    best.start()
    show.until(f"traffic is back on {BEST}", lambda route: route == BEST)
    show.calls(ENCORE)

    show.act(f"{BEST} has a brownout", "All it does takes ten times as long. Nothing fails.")
    best.set(Slow(factor=10))
    show.until(f"traffic has left {BEST}", lambda route: route != BEST)
    show.calls(ENCORE)

    show.act("All regions are taken down", "The global endpoint is what is left.")
    for region in scene.regions.values():
        region.stop()
    show.calls(calls)

    show.act("All regions are healed", "They come back at the same moment, as fast as in the beginning.")
    for region in scene.regions.values():
        region.heal()
        region.start()
    show.until("traffic is back on a region", lambda route: route != GLOBAL)
    show.until(f"traffic is back on {BEST}", lambda route: route == BEST)
    show.calls(ENCORE)


def _dies_with_a_request(region: Region) -> threading.Thread:
    """Let a region take the next request and never answer it, but go down."""
    region.set(Silence(only="post"))
    taken = _posts(region)

    def die() -> None:
        patience = time.monotonic() + PATIENCE
        while _posts(region) == taken and time.monotonic() < patience:
            time.sleep(MID_REQUEST / 10)
        time.sleep(MID_REQUEST)
        region.stop()

    death = threading.Thread(target=die, daemon=True)
    death.start()
    return death


def _posts(region: Region) -> int:
    return sum(seen.method == "POST" for seen in region.requests)


def _ask(client: openai.OpenAI, number: int) -> Call:
    """One streamed chat completion, read to its end."""
    began = time.perf_counter()
    route, first_token, pieces, error = None, None, 0, None
    attempts: tuple[Record, ...] = ()
    try:
        response = client.chat.completions.with_raw_response.create(
            model="demo-model", messages=[{"role": "user", "content": "Where are you?"}], stream=True
        )
        if journey := response.http_response.extensions.get("smartroute"):
            route, attempts = journey.route, journey.attempts
        with response.parse() as stream:
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    first_token = first_token or time.perf_counter() - began
                    pieces += 1
        if pieces != TOKENS:
            error = f"{pieces} of {TOKENS} tokens came"
    except Exception as failure:  # noqa: BLE001 - whatever reaches the caller is a failed call
        error = f"{type(failure).__name__}: {failure}"
    return Call(number, route, first_token, attempts, error)
