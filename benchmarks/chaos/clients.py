"""The clients: the real OpenAI SDK, its own retries off, on each kind of client that smartroute has."""

import asyncio
import ssl
import time
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import openai

from smartroute import Config, ConfigError

__all__ = ["KINDS", "Call", "Caller", "Kind"]

MESSAGES: list[Any] = [{"role": "user", "content": "Where are you?"}]
PATIENCE = 30.0
"""The caller's read timeout, in seconds. What uses it up is a failed call."""
CONNECT = 5.0
"""The caller's connect timeout, in seconds: the SDK's own."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of client: the family of its HTTP library, sync or async, and what it sends with."""

    name: str
    family: str
    synchronous: bool
    backend: str = "httpcore"

    @property
    def available(self) -> bool:
        """Whether this version of smartroute has such a client, and what it needs is installed."""
        try:
            Config(backend=self.backend)
        except ConfigError:
            return False
        return all(find_spec(name) is not None for name in (self.family, self.backend) if name != "httpcore")

    @property
    def transport_error(self) -> type[Exception]:
        """What every error of its HTTP library's transport is."""
        found: type[Exception] = import_module(self.family).TransportError
        return found

    def client(self, config: Config, trust: ssl.SSLContext) -> Any:
        """A routing client."""
        module = import_module(f"smartroute.{self.family}")
        return (module.Client if self.synchronous else module.AsyncClient)(config, verify=trust)

    def plain(self, trust: ssl.SSLContext) -> Any:
        """The HTTP library's own client."""
        module = import_module(self.family)
        make = module.Client if self.synchronous else module.AsyncClient
        return make(verify=trust, trust_env=False, follow_redirects=True)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("sync httpx2", "httpx2", synchronous=True),
        Kind("async httpx2", "httpx2", synchronous=False),
        Kind("sync httpx", "httpx", synchronous=True),
        Kind("async httpx", "httpx", synchronous=False),
        Kind("async aiohttp", "httpx2", synchronous=False, backend="aiohttp"),
    )
}


@dataclass(slots=True)
class Call:
    """One call of the SDK, and what the caller got.

    Attributes:
        name: unique; servers see it as the request's idempotency key.
        first: seconds to the first token, or to the whole answer if it was not streamed.
        seconds: how long it took, whatever came of it.
        route, attempts: what the answer says of its way.
        text: the completion, if one was given as complete.
        error: what was raised instead.
    """

    name: str
    first: float | None = None
    seconds: float = 0.0
    route: str = ""
    attempts: int = 0
    text: str | None = None
    error: Exception | None = None


class Caller:
    """The SDK on one HTTP client. Sync calls are made in threads, so that calls may be made side by side."""

    def __init__(self, kind: Kind, http_client: Any, base_url: str, api_key: str) -> None:
        make: Any = openai.OpenAI if kind.synchronous else openai.AsyncOpenAI
        self.http_client = http_client
        self.kind = kind
        self._sdk = make(base_url=base_url, api_key=api_key, http_client=http_client, max_retries=0)

    async def ask(self, name: str, *, streamed: bool, patience: float = PATIENCE) -> Call:
        """Make a call. Never raises what the SDK raises: that is what came of it."""
        call = Call(name)
        options = {
            "model": "m",
            "messages": MESSAGES,
            "stream": streamed,
            "extra_headers": {"idempotency-key": name},
            "timeout": openai.Timeout(patience, connect=CONNECT),
        }
        began = time.perf_counter()
        try:
            if self.kind.synchronous:
                await asyncio.to_thread(self._ask, call, options, began)
            else:
                await self._ask_async(call, options, began)
        except Exception as error:  # noqa: BLE001 - whatever the SDK lets out is the outcome
            call.error, call.text = error, None
        call.seconds = time.perf_counter() - began
        return call

    async def close(self) -> None:
        """Close the SDK's client, and so ours."""
        if self.kind.synchronous:
            await asyncio.to_thread(self._sdk.close)
        else:
            await self._sdk.close()

    def _ask(self, call: Call, options: dict[str, Any], began: float) -> None:
        raw = self._sdk.chat.completions.with_raw_response.create(**options)
        _note_way(call, raw.headers)
        if not options["stream"]:
            _note_whole(call, raw.parse(), began)
            return
        pieces = []
        for chunk in raw.parse():
            pieces.append(_content(chunk))
            _note_first(call, pieces, began)
        call.text = "".join(pieces)

    async def _ask_async(self, call: Call, options: dict[str, Any], began: float) -> None:
        raw = await self._sdk.chat.completions.with_raw_response.create(**options)
        _note_way(call, raw.headers)
        if not options["stream"]:
            _note_whole(call, raw.parse(), began)
            return
        pieces = []
        async for chunk in raw.parse():
            pieces.append(_content(chunk))
            _note_first(call, pieces, began)
        call.text = "".join(pieces)


def _note_way(call: Call, headers: Any) -> None:
    call.route = headers.get("x-smartroute-route", "")
    call.attempts = int(headers.get("x-smartroute-attempts", 1))


def _note_whole(call: Call, completion: Any, began: float) -> None:
    call.first = time.perf_counter() - began
    call.text = completion.choices[0].message.content


def _note_first(call: Call, pieces: list[str], began: float) -> None:
    if call.first is None and pieces[-1]:
        call.first = time.perf_counter() - began


def _content(chunk: Any) -> str:
    return "".join(choice.delta.content or "" for choice in chunk.choices)
