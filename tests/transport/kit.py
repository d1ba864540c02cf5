"""One way to call every client, so that a test is written once.

A test is plain code that calls `caller.do(client.post, ...)`. For a sync client that is the call itself; for
an async one it is carried to an event loop in a thread of its own, which goes on running between the calls.
"""

import asyncio
import gc
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
from openai import AsyncOpenAI, OpenAI

import smartroute.httpx
import smartroute.httpx2
from smartroute import Config, Route, Router
from smartroute.testing import Region
from tests.policy.driving import measured

__all__ = [
    "ASYNC",
    "CALLERS",
    "CHAT",
    "STREAM",
    "SYNC",
    "TEXT",
    "AsyncCaller",
    "Caller",
    "Reply",
    "SyncCaller",
    "World",
    "deserted",
    "eventually",
    "measure",
    "posts",
    "threads",
]

PROMPT = [{"role": "user", "content": "Where are you?"}]
CHAT = {"model": "m", "messages": PROMPT}
STREAM = {**CHAT, "stream": True}
TEXT = " 2 3 4 5"
"""What a region says after its name."""
ROUND_TRIPS = {"near": 0.020, "far": 0.060, "third": 0.140}

_END = object()


@dataclass(frozen=True)
class Reply:
    """A completion, as the SDK gave it, and how it was routed."""

    route: str
    attempts: str
    text: str


class Caller:
    """Clients of one family, sync or async, and how to use them."""

    is_async: bool
    backend = "httptools"

    def __init__(self, family: ModuleType) -> None:
        self.family = family
        self.smart: ModuleType = {httpx: smartroute.httpx, httpx2: smartroute.httpx2}[family]
        self.clients: list[Any] = []

    def do(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """What the function returns; if it must be awaited, that."""
        raise NotImplementedError

    def iterate(self, stream: Any) -> Iterator[Any]:
        """The items of an iterable that is sync or async."""
        raise NotImplementedError

    def client(self, config: Config | None = None, **options: Any) -> Any:
        """A routing client. It is closed after the test, which then looks for what it left behind."""
        if config is not None:
            settings = {each.name: getattr(config, each.name) for each in fields(config)}
            config = Config(**(settings | {"backend": self.backend}))
        made = self._named(self.smart, "Client")(config, **options)
        self.clients.append(made)
        return made

    def plain(self, **options: Any) -> Any:
        """The family's own client, with the OpenAI SDK's defaults."""
        defaults = {"timeout": self.family.Timeout(600.0, connect=5.0), "follow_redirects": True}
        made = self._named(self.family, "Client")(**(defaults | options))
        self.clients.append(made)
        return made

    def sdk(self, client: Any, base_url: str, api_key: str = "fake-console-key", **options: Any) -> Any:
        """The OpenAI SDK on a client, its own retries turned off."""
        make: Any = AsyncOpenAI if self.is_async else OpenAI
        return make(base_url=base_url, api_key=api_key, http_client=client, max_retries=0, **options)

    def ask(self, sdk: Any, *, stream: bool = False, **options: Any) -> Reply:
        """One chat completion, read to its end."""
        raw = self.do(sdk.chat.completions.with_raw_response.create, **{**CHAT, "stream": stream, **options})
        parsed = self.do(raw.parse)
        if stream:
            text = "".join(
                choice.delta.content or "" for chunk in self.iterate(parsed) for choice in chunk.choices if choice.delta
            )
        else:
            text = parsed.choices[0].message.content
        return Reply(raw.headers["x-smartroute-route"], raw.headers["x-smartroute-attempts"], text)

    def send(self, client: Any, method: str, url: str, **options: Any) -> Any:
        """A response whose body is still to be read."""
        return self.do(client.send, client.build_request(method, url, **options), stream=True)

    def close(self, thing: Any) -> None:
        """Close a client, a stream or a response."""
        self.do(thing.aclose if self.is_async and hasattr(thing, "aclose") else thing.close)

    def chunks(self, response: Any) -> Iterator[bytes]:
        """The body as it arrives."""
        return self.iterate(response.aiter_raw() if self.is_async else response.iter_raw())

    def forget(self) -> bool:
        """Collect what nobody refers to any more, where the clients run."""
        self.do(gc.collect)
        self.do(int)  # a round of the loop, for what the collected objects left to be done
        return True

    def finish(self) -> None:
        """Close all clients."""
        for client in self.clients:
            self.close(client)

    def _named(self, module: ModuleType, name: str) -> Any:
        return getattr(module, f"Async{name}" if self.is_async else name)


class SyncCaller(Caller):
    is_async = False

    def do(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        return function(*args, **options)

    def iterate(self, stream: Iterable[Any]) -> Iterator[Any]:
        return iter(stream)


class AsyncCaller(Caller):
    is_async = True

    def __init__(self, family: ModuleType) -> None:
        super().__init__(family)
        self.loop = asyncio.new_event_loop()
        self.forgot = False
        self.complaints: list[str] = []  # of the loop: what it would have written to the log
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(f"{context}"))
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-loop", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> "Future[Any]":
        """The same as `do`, under way; `cancel()` cancels its task."""

        async def call() -> Any:
            result = function(*args, **options)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self.loop)

    def do(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        return self.submit(function, *args, **options).result(timeout=30)

    def iterate(self, stream: Any) -> Iterator[Any]:
        source = aiter(stream)
        while (item := self.do(anext, source, _END)) is not _END:
            yield item

    def forget(self) -> bool:
        self.forgot = True  # a loop complains of a failed task when the task is collected
        return super().forget()

    def tasks(self) -> list[str]:
        """The names of the tasks in the loop, but for the one that asks."""

        async def names() -> list[str]:
            return [t.get_name() for t in asyncio.all_tasks() if t is not asyncio.current_task()]

        found: list[str] = self.do(names)
        return found

    def finish(self) -> None:
        super().finish()
        assert eventually(lambda: not self.tasks()), f"tasks were left behind: {self.tasks()}"
        self.do(self.loop.shutdown_asyncgens)
        if self.forgot:
            self.do(gc.collect)
        assert self.complaints == []
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class AiohttpCaller(AsyncCaller):
    backend = "aiohttp"


CALLERS = {
    "sync-httpx2": (SyncCaller, httpx2),
    "async-httpx2": (AsyncCaller, httpx2),
    "sync-httpx": (SyncCaller, httpx),
    "async-httpx": (AsyncCaller, httpx),
    "async-aiohttp": (AiohttpCaller, httpx2),
}


ASYNC = pytest.mark.parametrize("caller", [name for name in CALLERS if name.startswith("async")], indirect=True)
SYNC = pytest.mark.parametrize("caller", [name for name in CALLERS if name.startswith("sync")], indirect=True)


@dataclass(frozen=True)
class World:
    """Two routes and a global endpoint, each of which takes its own key only."""

    near: Region
    far: Region
    globe: Region

    @property
    def all(self) -> tuple[Region, Region, Region]:
        return self.near, self.far, self.globe

    def config(self, *regions: Region, **settings: Any) -> Config:
        """A configuration for these regions (else near and far, the nearer one last), without probes."""
        routes = [self.route(region) for region in regions or (self.far, self.near)]
        return Config(**{"routes": routes, "global_url": self.globe.url, "probe_interval": 0, **settings})

    def route(self, region: Region, /, **options: Any) -> Route:
        """A route to a region, with its key."""
        return Route(region.url, **{"name": region.name, "api_key": f"fake-{region.name}-key", **options})


def measure(client: Any) -> Any:
    """Let the client's router know the round trips, as if it had probed its routes."""
    router: Router = client.router
    for route in router.config.routes:
        measured(router, route, ROUND_TRIPS[route.name])
    return client


def posts(region: Region) -> int:
    """How many requests came that were no probes."""
    return sum(seen.method != "GET" for seen in region.requests)


def deserted(region: Region) -> bool:
    """Whether nobody is connected to a region (soon, if not now)."""
    return eventually(lambda: region.open_connections == 0)


def threads() -> list[str]:
    """The names of smartroute's own threads (but not of the regions')."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("smartroute-")]


def eventually(true: Callable[[], object], seconds: float = 20.0) -> bool:
    """Whether it becomes true in time: by default a long one, for who waits in vain has failed anyway."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True
