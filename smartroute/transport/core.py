"""httpcore's pools, for what they alone can do, proxies and HTTP/2; and for `SMARTROUTE_BACKEND=httpcore`."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import httpcore2

from smartroute.transport.http1 import Outgoing

__all__ = ["AsyncCorePool", "SyncCorePool"]


class _Body:
    """A request body, for sync and async pools alike."""

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self.content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.content


def _request(request: Outgoing) -> httpcore2.Request:
    content = _Body(request.content) if request.content else None
    return httpcore2.Request(
        request.method, request.url, headers=request.headers, content=content, extensions=request.extensions
    )


class SyncCorePool:
    """`httpcore2.ConnectionPool`, which see for the arguments."""

    def __init__(self, **options: Any) -> None:
        self._pool = httpcore2.ConnectionPool(**options)

    @property
    def connections(self) -> Sequence[httpcore2.ConnectionInterface]:
        """Those that are open."""
        return self._pool.connections

    def handle_request(self, request: Outgoing) -> httpcore2.Response:
        """Send a request and read the head of its response. The response has to be closed."""
        return self._pool.handle_request(_request(request))

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


class AsyncCorePool:
    """`httpcore2.AsyncConnectionPool`, which see for the arguments."""

    def __init__(self, **options: Any) -> None:
        self._pool = httpcore2.AsyncConnectionPool(**options)

    @property
    def connections(self) -> Sequence[httpcore2.AsyncConnectionInterface]:
        """Those that are open."""
        return self._pool.connections

    async def handle_async_request(self, request: Outgoing) -> httpcore2.Response:
        """Send a request and read the head of its response. The response has to be closed."""
        return await self._pool.handle_async_request(_request(request))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()
