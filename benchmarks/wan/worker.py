"""A contender in a process of its own, on a host of its own: makes streamed calls when it is told to.

Given its name and, as JSON, the URLs. Imports before it says that it is ready; makes its client when the first line
comes. Each line on its standard input is a list of moments (monotonic seconds) at which calls are to begin, whatever
became of those before; it is answered with a line of JSON when all are done.
"""

import asyncio
import json
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["CONTENDERS", "FLOOR", "LITELLM", "SMART", "Call", "Urls"]

PATIENCE, CONNECT = 30.0, 5.0
"""Every contender's read and connect timeouts, in seconds."""
MOST_AT_ONCE = 64
WARM = 4
"""Connections that the floor has ready."""
MESSAGES: list[Any] = [{"role": "user", "content": "Where are you?"}]
FLOOR, LITELLM, SMART = "floor", "LiteLLM Router, async", ("smartroute, sync", "smartroute, async")


@dataclass(frozen=True, slots=True)
class Urls:
    """Where the contenders may call.

    Attributes:
        regions: the base URL of each, in the order in which they are configured.
        best: the region that the static handle names, and the floor is measured at.
        cold: whether the floor is to make a connection first.
    """

    regions: dict[str, str]
    globe: str
    best: str
    cold: bool = False


@dataclass(slots=True)
class Call:
    """One call.

    Attributes:
        at: when it began, in monotonic seconds.
        first: seconds to its first token; None: it failed.
        end: when it was over.
        region: who answered.
        error: what was raised.
    """

    at: float
    first: float | None = None
    end: float = 0.0
    region: str = ""
    error: str = ""

    def note(self, text: str | None) -> None:
        """Note a piece of the answer."""
        if self.first is None and text:
            self.first = time.monotonic() - self.at
            self.region = text.strip()


SyncAsk = Callable[[], Iterator[str | None]]
AsyncAsk = Callable[[], Awaitable[AsyncIterator[str | None]]]


# --- The contenders: each gives a way to make a call, as an iterator over the texts of its chunks ----------------


def floor(urls: Urls) -> SyncAsk:
    """A socket: what no client can be faster than."""
    best = urlsplit(urls.regions[urls.best])
    body = json.dumps({"model": "m", "messages": MESSAGES, "stream": True}).encode()
    head = f"POST {best.path}/chat/completions HTTP/1.1\r\nHost: {best.hostname}\r\nContent-Length: {len(body)}\r\n\r\n"
    trust = ssl.create_default_context()

    def connect() -> ssl.SSLSocket:
        plain = socket.create_connection((best.hostname, 443))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return trust.wrap_socket(plain, server_hostname=best.hostname)

    idle = [] if urls.cold else [connect() for _ in range(WARM)]

    def ask() -> Iterator[str]:
        connection = idle.pop() if idle else connect()
        connection.sendall(head.encode() + body)
        received = b""
        while b'"content": "%b' % urls.best.encode() not in received:
            received += connection.recv(65536)
        yield urls.best
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)
        idle.append(connection)

    return ask


def _text(chunk: Any) -> str | None:
    return chunk.choices[0].delta.content if chunk.choices else None


def _sync_sdk(base_url: str, **options: Any) -> SyncAsk:
    import openai  # noqa: PLC0415 - the floor needs none

    client = openai.OpenAI(
        base_url=base_url, api_key="fake-console-key", timeout=openai.Timeout(PATIENCE, connect=CONNECT), **options
    )
    return lambda: map(_text, client.chat.completions.create(model="m", messages=MESSAGES, stream=True))


def _async_sdk(base_url: str, **options: Any) -> AsyncAsk:
    import openai  # noqa: PLC0415

    client = openai.AsyncOpenAI(
        base_url=base_url, api_key="fake-console-key", timeout=openai.Timeout(PATIENCE, connect=CONNECT), **options
    )

    async def ask() -> AsyncIterator[str | None]:
        return _texts(await client.chat.completions.create(model="m", messages=MESSAGES, stream=True))

    return ask


async def _texts(stream: Any) -> AsyncIterator[str | None]:
    async for chunk in stream:
        yield _text(chunk)


def _config(urls: Urls) -> Any:
    import smartroute  # noqa: PLC0415

    routes = [smartroute.Route(url, name=name) for name, url in urls.regions.items()]
    return smartroute.Config(routes=routes, api_key="fake-direct-key", global_url=urls.globe)


def smart_sync(urls: Urls) -> SyncAsk:
    """The sync SDK with smartroute."""
    import smartroute  # noqa: PLC0415

    return _sync_sdk(urls.globe, http_client=smartroute.Client(_config(urls)))


def smart_async(urls: Urls) -> AsyncAsk:
    """The async SDK with smartroute."""
    import smartroute  # noqa: PLC0415

    return _async_sdk(urls.globe, http_client=smartroute.AsyncClient(_config(urls)))


def litellm_router(urls: Urls) -> AsyncAsk:
    """LiteLLM's Router with its latency-based routing over the regions, the global endpoint its fallback."""
    import litellm  # type: ignore[import-not-found, unused-ignore] # noqa: PLC0415 - not in our environment

    def deployment(group: str, base_url: str) -> dict[str, Any]:
        return {
            "model_name": group,
            "litellm_params": {"model": "openai/m", "api_base": base_url, "api_key": "fake-direct-key"},
        }

    router = litellm.Router(
        model_list=[*(deployment("m", url) for url in urls.regions.values()), deployment("global", urls.globe)],
        routing_strategy="latency-based-routing",
        fallbacks=[{"m": ["global"]}],
        timeout=PATIENCE,
    )

    async def ask() -> AsyncIterator[str | None]:
        return _texts(await router.acompletion(model="m", messages=MESSAGES, stream=True))

    return ask


CONTENDERS: dict[str, tuple[str, Callable[[Urls], Any]]] = {
    FLOOR: ("", floor),
    "SDK to global, sync": ("openai", lambda urls: _sync_sdk(urls.globe)),
    "SDK to global, async": ("openai", lambda urls: _async_sdk(urls.globe)),
    "SDK to best, sync": ("openai", lambda urls: _sync_sdk(urls.regions[urls.best])),
    "SDK to best, async": ("openai", lambda urls: _async_sdk(urls.regions[urls.best])),
    LITELLM: ("litellm", litellm_router),
    SMART[0]: ("smartroute.httpx2", smart_sync),
    SMART[1]: ("smartroute.httpx2", smart_async),
}
"""What each imports before it is ready, and how its client is made."""


# --- Making calls ---------------------------------------------------------------------------------------------


def _ask(ask: SyncAsk) -> Call:
    call = Call(time.monotonic())
    try:
        for text in ask():
            call.note(text)
    except Exception as error:  # noqa: BLE001 - whatever is raised is what came of it
        call.first, call.error = None, type(error).__name__
    call.end = time.monotonic()
    return call


async def _ask_async(ask: AsyncAsk) -> Call:
    call = Call(time.monotonic())
    try:
        async for text in await ask():
            call.note(text)
    except Exception as error:  # noqa: BLE001
        call.first, call.error = None, type(error).__name__
    call.end = time.monotonic()
    return call


def _in_threads(ask: SyncAsk, pool: ThreadPoolExecutor, moments: Sequence[float]) -> list[Call]:
    calls: list[Future[Call]] = []
    for moment in moments:
        time.sleep(max(0.0, moment - time.monotonic()))
        calls.append(pool.submit(_ask, ask))
    return [call.result() for call in calls]


async def _in_tasks(ask: AsyncAsk, moments: Sequence[float]) -> list[Call]:
    calls: list[asyncio.Task[Call]] = []
    for moment in moments:
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        calls.append(asyncio.create_task(_ask_async(ask)))
    return [await call for call in calls]


async def main(name: str, urls: Urls) -> None:
    """Make calls until standard input ends."""
    needs, make = CONTENDERS[name]
    if needs:
        __import__(needs)
        __import__("openai")
    _say("ready")
    pool, ask, made = ThreadPoolExecutor(MOST_AT_ONCE), None, 0.0
    while line := await asyncio.to_thread(sys.stdin.readline):
        if ask is None:
            began = time.monotonic()
            ask = make(urls)
            made = time.monotonic() - began
        moments = json.loads(line)
        if name.endswith(", async"):
            calls = await _in_tasks(ask, moments)
        else:
            calls = await asyncio.to_thread(_in_threads, ask, pool, moments)
        _say({"made": made, "calls": [asdict(call) for call in calls]})


def _say(what: object) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Urls(**json.loads(sys.argv[2]))))
    os._exit(0)  # whoever still waits for an answer waits in vain
