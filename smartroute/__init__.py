"""Smart routing with regional failover for OpenAI-compatible inference, in process.

    client = OpenAI(http_client=smartroute.Client())

`Client` and `AsyncClient` are those of the HTTP family that the installed OpenAI SDK speaks: httpx2 from
openai 3 on, httpx before. `smartroute.httpx` and `smartroute.httpx2` have them by name.
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from smartroute.config import Config
from smartroute.errors import ClosedError, ConfigError, NoRouteError, SmartrouteError, UnknownRouteError
from smartroute.route import Kind, Route, RouteStatus
from smartroute.router import Router

if TYPE_CHECKING:
    from smartroute.httpx2 import AsyncClient, Client

    __version__: str

__all__ = [
    "AsyncClient",
    "Client",
    "ClosedError",
    "Config",
    "ConfigError",
    "Kind",
    "NoRouteError",
    "Route",
    "RouteStatus",
    "Router",
    "SmartrouteError",
    "UnknownRouteError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Load what needs an HTTP library, or a look at the installation, when it is asked for."""
    if name in ("Client", "AsyncClient"):
        return getattr(import_module(f"smartroute.{_family()}"), name)
    if name in ("httpx", "httpx2"):
        return import_module(f"smartroute.{name}")
    if name == "__version__":
        return version("smartroute")
    raise AttributeError(f"module 'smartroute' has no attribute {name!r}")


def _family() -> str:
    try:
        # Who has it imported need not wait until its metadata are found and read.
        major = int((getattr(sys.modules.get("openai"), "__version__", None) or version("openai")).split(".")[0])
    except (PackageNotFoundError, ValueError):
        return "httpx2"
    return "httpx2" if major >= 3 else "httpx"
