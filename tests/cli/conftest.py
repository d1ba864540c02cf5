"""Fixtures for the commands' tests."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from smartroute.testing import Region
from tests.cli.kit import CONSOLE, DEPLOYMENT, DIRECT, MODEL
from tests.transport.test_proxies import proxy

__all__ = ["globe", "near", "no_names", "proxy", "slow_names"]


@pytest.fixture
def near() -> Iterator[Region]:
    with Region("near", api_keys=[DIRECT], models=[MODEL]) as region:
        yield region


@pytest.fixture
def globe() -> Iterator[Region]:
    with Region("global", api_keys=[CONSOLE], prefix="/inference/v1", models=[DEPLOYMENT]) as region:
        yield region


@pytest.fixture
def no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that knows no name."""

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A resolver that does not answer."""
    over = threading.Event()
    real = socket.getaddrinfo

    def hang(host: str, *arguments: Any, **options: Any) -> Any:
        over.wait()
        return real("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield
    over.set()
