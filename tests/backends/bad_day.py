"""A bad day of three regions in two minutes: everything that smartroute counts happens."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from statistics import median

import openai

import smartroute
from smartroute.demo.regions import BEST, GLOBAL, Setting, key_of, setting
from smartroute.testing import Cut, Region, Silence, Slow, Status

__all__ = ["Act", "Call", "Day", "day"]

PACE = 0.1
"""Seconds from the start of one call to that of the next."""
SCENE = 8.0
"""Seconds of an act: longer than the windows that are looked at."""
PATIENCE = 30.0
"""Seconds that is waited for traffic to move, at the most."""
BIG = 10.0
"""A brownout's factor."""


@dataclass(frozen=True, slots=True)
class Call:
    """How a call went for the one who made it: who answered, with an error perhaps, and seconds to the first token."""

    route: str | None
    first_token: float | None
    failed: bool


@dataclass(slots=True)
class Act:
    """What was done, when (by the wall clock), and the calls meanwhile."""

    name: str
    began: float
    ended: float = 0.0
    calls: list[Call] = field(default_factory=list[Call])

    def first_token(self, route: str) -> float:
        """The median of the calls that a route answered."""
        return median(call.first_token for call in self.calls if call.first_token and call.route == route)


class Day:
    """The acts, as they are played."""

    def __init__(self, scene: Setting, client: openai.OpenAI) -> None:
        self._scene = scene
        self._client = client
        self.acts: dict[str, Act] = {}

    @property
    def calls(self) -> list[Call]:
        """All calls."""
        return [call for act in self.acts.values() for call in act.calls]

    def play(self) -> None:
        """Play all acts."""
        regions, best, world = self._scene.regions.values(), self._scene.regions[BEST], self._scene.endpoint
        with self._act("all is well"):
            self._until(BEST)
        with self._act("health"):
            self._calls(SCENE)
        with self._act("the best region dies"):
            _with_a_request(best)
            self._calls(SCENE)
        with self._act("it is back"):
            best.heal()
            best.start()
            self._until(BEST)
        with self._act("brownout"):
            best.set(Slow(factor=BIG))
            self._calls(SCENE)
        with self._act("the brownout is over"):
            best.heal()
            self._until(BEST)
        with self._act("silence"):
            best.set(Silence())
            self._calls(SCENE)
        with self._act("streams are cut"):
            best.heal()
            for region in regions:
                region.set(Cut(after=3, only="post"))
            self._calls(1.0)
        with self._act("everything fails"):
            for region in (*regions, world):
                region.set(Status(500, only="post"))
            self._calls(2 * SCENE)
        with self._act("no region is left"):
            world.heal()
            for region in regions:
                region.stop()
            self._calls(SCENE)
        with self._act("all are healed"):
            for region in regions:
                region.heal()
                region.start()
            self._until(BEST)
        with self._act("this machine is cut off"):
            for region in (*regions, world):
                region.stop()
            self._calls(SCENE)
        with self._act("it is online again"):
            for region in (*regions, world):
                region.start()
            self._until(BEST)
        with self._act("a key is refused"):
            best.api_keys = ["another-key"]
            self._calls(SCENE / 2)

    @contextmanager
    def _act(self, name: str) -> Generator[None]:
        act = self.acts[name] = Act(name, time.time())
        yield
        act.ended = time.time()
        failed = sum(call.failed for call in act.calls)
        print(f"  {name}: {act.ended - act.began:.0f} s, {len(act.calls)} calls, {failed} failed", flush=True)

    def _calls(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self._call()

    def _until(self, route: str) -> None:
        ends = time.monotonic() + PATIENCE
        while self._call().route != route:
            if time.monotonic() > ends:
                raise RuntimeError(f"traffic did not move to {route} within {PATIENCE:.0f} s")

    def _call(self) -> Call:
        began = time.monotonic()
        route, first_token, failed = None, None, False
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model="demo-model", messages=[{"role": "user", "content": "Where are you?"}], stream=True
            )
            route = response.headers.get("x-smartroute-route")
            with response.parse() as stream:
                for chunk in stream:
                    if chunk.choices and chunk.choices[0].delta.content:
                        first_token = first_token or time.monotonic() - began
        except openai.OpenAIError as error:
            failed = True
            if isinstance(error, openai.APIStatusError):
                route = error.response.headers.get("x-smartroute-route")
        call = Call(route, first_token, failed)
        list(self.acts.values())[-1].calls.append(call)
        time.sleep(max(began + PACE - time.monotonic(), 0.0))
        return call


@contextmanager
def day() -> Generator[Day]:
    """The setting of the demo, and an SDK whose calls go through smartroute. Hedging is on: it has a budget too."""
    with ExitStack() as stack:
        scene = stack.enter_context(setting())
        http = stack.enter_context(smartroute.Client(replace(scene.config, hedge=True), trust_env=False))
        yield Day(
            scene, openai.OpenAI(base_url=scene.endpoint.url, api_key=key_of(GLOBAL), http_client=http, max_retries=0)
        )


def _with_a_request(region: Region) -> None:
    """Have a region die with the next request in its hands."""
    region.set(Silence(only="post"))
    taken = len(region.requests)
    _soon(lambda: any(seen.method == "POST" for seen in region.requests[taken:]), region.stop)


def _soon(due: Callable[[], bool], act: Callable[[], object]) -> None:
    def wait() -> None:
        while not due():
            time.sleep(0.005)
        time.sleep(0.05)
        act()

    threading.Thread(target=wait, daemon=True).start()
