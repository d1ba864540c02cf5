"""smartroute on httpx2: what the OpenAI SDK speaks from its version 3 on."""

from __future__ import annotations

from typing import Unpack

import httpx2

from smartroute.config import Config
from smartroute.lifecycle import acquire, release
from smartroute.router import Router
from smartroute.transport.async_driver import AsyncDriver
from smartroute.transport.family import Family
from smartroute.transport.pools import TransportOptions, split_options
from smartroute.transport.sync_driver import SyncDriver

__all__ = ["AsyncClient", "AsyncTransport", "Client", "Transport"]

FAMILY = Family.of(httpx2)


class Transport(httpx2.BaseTransport):
    """Routes the requests of a sync client. Takes what `httpx2.HTTPTransport` takes, beside the router."""

    def __init__(
        self, config: Config | None = None, *, router: Router | None = None, **options: Unpack[TransportOptions]
    ) -> None:
        self.router = acquire(self, config, router)
        self._driver = SyncDriver(FAMILY, self.router, options)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return self._driver.handle(request)

    def close(self) -> None:
        self._driver.close()
        release(self)


class AsyncTransport(httpx2.AsyncBaseTransport):
    """Routes the requests of an async client. Takes what `httpx2.AsyncHTTPTransport` takes."""

    def __init__(
        self, config: Config | None = None, *, router: Router | None = None, **options: Unpack[TransportOptions]
    ) -> None:
        self.router = acquire(self, config, router)
        self._driver = AsyncDriver(FAMILY, self.router, options)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._driver.handle(request)

    async def aclose(self) -> None:
        await self._driver.close()
        release(self)


class Client(httpx2.Client):
    """An `httpx2.Client` that routes, with the defaults of the OpenAI SDK's own client.

        client = OpenAI(http_client=smartroute.httpx2.Client())

    Args:
        config: the configuration; by default that of the environment (`Config.from_env()`).
        router: a router to share; instead of a configuration.
        options: anything else `httpx2.Client` takes, but for `transport`.

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


class AsyncClient(httpx2.AsyncClient):
    """An `httpx2.AsyncClient` that routes; see `Client`. One client may serve several event loops."""

    def __init__(self, config: Config | None = None, *, router: Router | None = None, **options: object) -> None:
        transport_options, client_options = split_options(FAMILY, options)
        self.transport = AsyncTransport(config, router=router, **transport_options)
        super().__init__(transport=self.transport, **client_options)

    @property
    def router(self) -> Router:
        """The router: `client.router.status()`."""
        return self.transport.router
