"""smartroute on httpx: what the OpenAI SDK spoke before its version 3, and the Fireworks SDK still does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack, cast

import httpx

from smartroute.config import Config
from smartroute.lifecycle import acquire, release
from smartroute.router import Router
from smartroute.transport.async_driver import AsyncDriver
from smartroute.transport.family import Family
from smartroute.transport.pools import TransportOptions, split_options
from smartroute.transport.sync_driver import SyncDriver

if TYPE_CHECKING:
    import httpx2  # the drivers are typed against it: httpx has the same classes under the same names

__all__ = ["AsyncClient", "AsyncTransport", "Client", "Transport"]

FAMILY = Family.of(httpx)


class Transport(httpx.BaseTransport):
    """Routes the requests of a sync client. Takes what `httpx.HTTPTransport` takes, beside the router."""

    def __init__(
        self, config: Config | None = None, *, router: Router | None = None, **options: Unpack[TransportOptions]
    ) -> None:
        self.router = acquire(self, config, router)
        self._driver = SyncDriver(FAMILY, self.router, options)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return cast("httpx.Response", self._driver.handle(cast("httpx2.Request", request)))

    def close(self) -> None:
        self._driver.close()
        release(self)


class AsyncTransport(httpx.AsyncBaseTransport):
    """Routes the requests of an async client. Takes what `httpx.AsyncHTTPTransport` takes."""

    def __init__(
        self, config: Config | None = None, *, router: Router | None = None, **options: Unpack[TransportOptions]
    ) -> None:
        self.router = acquire(self, config, router)
        self._driver = AsyncDriver(FAMILY, self.router, options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return cast("httpx.Response", await self._driver.handle(cast("httpx2.Request", request)))

    async def aclose(self) -> None:
        await self._driver.close()
        release(self)


class Client(httpx.Client):
    """An `httpx.Client` that routes, with the defaults of the OpenAI SDK's own client.

        client = OpenAI(http_client=smartroute.httpx.Client())

    Args:
        config: the configuration; by default that of the environment (`Config.from_env()`).
        router: a router to share; instead of a configuration.
        options: anything else `httpx.Client` takes, but for `transport`.

    Raises:
        ConfigError: with every problem of the configuration.
    """

    def __init__(self, config: Config | None = None, *, router: Router | None = None, **options: object) -> None:
        transport_options, client_options = split_options(FAMILY, options)
        self.transport = Transport(config, router=router, **transport_options)
        super().__init__(transport=self.transport, **client_options)

    @property
    def router(self) -> Router:
        """The router: `client.router.status()`."""
        return self.transport.router


class AsyncClient(httpx.AsyncClient):
    """An `httpx.AsyncClient` that routes; see `Client`. One client may serve several event loops."""

    def __init__(self, config: Config | None = None, *, router: Router | None = None, **options: object) -> None:
        transport_options, client_options = split_options(FAMILY, options)
        self.transport = AsyncTransport(config, router=router, **transport_options)
        super().__init__(transport=self.transport, **client_options)

    @property
    def router(self) -> Router:
        """The router: `client.router.status()`."""
        return self.transport.router
