"""What differs between httpx and httpx2: the names of classes, and where certificates come from.

Both families are served by one code path, over pools of our own or httpcore2's (legacy httpcore 1.0 can be
poisoned by concurrent cancellations). The rest of the package is typed against httpx2; legacy httpx has the same
classes under the same names, which `Family.of` relies on and a test pins.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import httpcore2

if TYPE_CHECKING:
    import httpx2

__all__ = ["Family"]

_ERRORS = (
    "ConnectTimeout",
    "ReadTimeout",
    "WriteTimeout",
    "PoolTimeout",
    "TimeoutException",
    "ConnectError",
    "ReadError",
    "WriteError",
    "NetworkError",
    "ProxyError",
    "UnsupportedProtocol",
    "LocalProtocolError",
    "RemoteProtocolError",
    "ProtocolError",
)
"""The most specific first: the first that fits is the one."""


class Family(NamedTuple):
    """An HTTP library, as far as the drivers need to know it."""

    name: str
    Response: type[httpx2.Response]
    ByteStream: type[httpx2.ByteStream]
    SyncByteStream: type[httpx2.SyncByteStream]
    AsyncByteStream: type[httpx2.AsyncByteStream]
    ConnectError: type[httpx2.ConnectError]
    RemoteProtocolError: type[httpx2.RemoteProtocolError]
    Proxy: type[httpx2.Proxy]
    URL: type[httpx2.URL]
    HTTPTransport: type[httpx2.HTTPTransport]
    AsyncHTTPTransport: type[httpx2.AsyncHTTPTransport]
    default_timeout: httpx2.Timeout
    default_limits: httpx2.Limits
    create_ssl_context: Callable[..., ssl.SSLContext]
    environment_proxies: Callable[[], Mapping[str, str | None]]
    pattern: Callable[[str], _Pattern]
    errors: tuple[tuple[type[Exception], type[httpx2.RequestError]], ...]

    @classmethod
    def of(cls, module: ModuleType) -> Family:
        """The family of `httpx` or `httpx2`."""
        return cls(
            name=module.__name__,
            Response=module.Response,
            ByteStream=module.ByteStream,
            SyncByteStream=module.SyncByteStream,
            AsyncByteStream=module.AsyncByteStream,
            ConnectError=module.ConnectError,
            RemoteProtocolError=module.RemoteProtocolError,
            Proxy=module.Proxy,
            URL=module.URL,
            HTTPTransport=module.HTTPTransport,
            AsyncHTTPTransport=module.AsyncHTTPTransport,
            default_timeout=module.Timeout(600.0, connect=5.0),  # the OpenAI SDK's own, as these limits
            default_limits=module.Limits(max_connections=1000, max_keepalive_connections=100),
            create_ssl_context=module.create_ssl_context,
            # Private, and used all the same: NO_PROXY must mean to us exactly what it means to the family.
            environment_proxies=module._utils.get_environment_proxies,  # noqa: SLF001
            pattern=module._utils.URLPattern,  # noqa: SLF001
            errors=tuple((getattr(httpcore2, name), getattr(module, name)) for name in _ERRORS),
        )

    def error(self, error: Exception, request: httpx2.Request) -> Exception:
        """The family's exception for one of httpcore's; any other exception is itself."""
        for theirs, ours in self.errors:
            if isinstance(error, theirs):
                return ours(text_of(error), request=request)
        return error


def text_of(error: Exception) -> str:
    """What one of httpcore's exceptions says, but for what it quotes: a line that is no HTTP, a proxy's own words.

    They may be anything, also a piece of an answer.
    """
    text = str(error)
    if isinstance(error, httpcore2.ProxyError) and text[:3].isdecimal():
        return f"the proxy answered {text[:3]}"
    quotes = isinstance(error, httpcore2.RemoteProtocolError) and ("b'" in text or 'b"' in text)
    return "the answer breaks the protocol" if quotes else text


if TYPE_CHECKING:
    from typing import Protocol

    class _Pattern(Protocol):
        def matches(self, other: httpx2.URL, /) -> bool: ...

        def __lt__(self, other: _Pattern, /) -> bool: ...
