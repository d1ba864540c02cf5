"""Fireworks: the one package that knows a vendor. `account` knows its control plane.

Handles, regions, model names and error codes as the vendor documents them (docs.fireworks.ai, "Direct
routing", and the types of its SDK). All of it is pure: what to ask and what an answer means, no I/O.
Enumerations are open: a region that is not listed here works just as well.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "DIRECT_REGIONS",
    "GATEWAY_HOSTS",
    "GLOBAL_HOST",
    "GLOBAL_KEY_VARIABLE",
    "GLOBAL_URL",
    "NOT_ON_DIRECT_ROUTES",
    "REGIONS",
    "Handle",
    "direct_models",
    "is_handle_host",
    "looks_like_console_key",
    "model_remedy",
    "parse_handle",
    "parse_model",
]

GLOBAL_HOST = "api.fireworks.ai"
GLOBAL_URL = f"https://{GLOBAL_HOST}/inference/v1"
GLOBAL_KEY_VARIABLE = "FIREWORKS_API_KEY"
HANDLE_SUFFIX = ".direct.fireworks.ai"
GATEWAY_HOSTS = (GLOBAL_HOST, "aws.api.fireworks.ai", "gcp.api.fireworks.ai")
"""Where the vendor's gateway is reached: from anywhere, within AWS, within Google Cloud."""

DIRECT_REGIONS = (
    "US_IOWA_1",
    "US_VIRGINIA_1",
    "US_ARIZONA_1",
    "US_ILLINOIS_1",
    "US_TEXAS_1",
    "US_ILLINOIS_2",
    "EU_FRANKFURT_1",
    "US_WASHINGTON_3",
    "US_WASHINGTON_1",
    "AP_TOKYO_1",
)
"""The regions that the vendor's page on direct routing lists."""
REGIONS = (
    *DIRECT_REGIONS,
    "AP_TOKYO_2",
    "EU_HELSINKI_1",
    "EU_ICELAND_1",
    "EU_ICELAND_2",
    "EU_ICELAND_3",
    "EU_ICELAND_DEV_1",
    "EU_LONDON_1",
    "EU_PARIS_1",
    "NA_BRITISHCOLUMBIA_1",
    "US_ARIZONA_2",
    "US_ARIZONA_3",
    "US_CALIFORNIA_1",
    "US_GEORGIA_1",
    "US_GEORGIA_2",
    "US_GEORGIA_3",
    "US_GEORGIA_4",
    "US_MISSOURI_1",
    "US_NEVADA_1",
    "US_NEWYORK_1",
    "US_OHIO_1",
    "US_TEXAS_2",
    "US_TEXAS_3",
    "US_UTAH_1",
    "US_VIRGINIA_2",
    "US_WASHINGTON_2",
    "US_WASHINGTON_4",
)
"""Those, and all others that the types of the vendor's SDK know (fireworks-ai 1.2, November 2026)."""

NOT_ON_DIRECT_ROUTES = ("/messages", "/responses")
"""Paths of the global endpoint that direct routes do not serve: another API, and one that keeps state."""


# --- Handles ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Handle:
    """A direct route handle, taken apart.

    `my-account-abcd1234.us-arizona-1.direct.fireworks.ai` has the deployment label
    `my-account-abcd1234` (account and deployment, which nothing separates) and the region
    `US_ARIZONA_1`. Handles without a region label exist: `region` is then None.
    """

    host: str
    deployment: str
    region: str | None

    @property
    def url(self) -> str:
        """The base URL of the deployment's OpenAI-compatible API."""
        return f"https://{self.host}/v1"


def is_handle_host(host: str) -> bool:
    """Whether a host name is one of the vendor's direct hosts: a handle, or meant to be one."""
    return f".{host.lower().rstrip('.')}".endswith(HANDLE_SUFFIX)


def parse_handle(host: str) -> Handle:
    """Take a handle apart.

    Raises:
        ValueError: it is not a deployment's handle; the message says why, and does not quote it.
    """
    host = host.lower().rstrip(".")
    labels = host.removesuffix(HANDLE_SUFFIX).split(".")
    if not host.endswith(HANDLE_SUFFIX) or not all(labels) or len(labels) > 2:
        raise ValueError(f"the host is not of the form account-deployment.region{HANDLE_SUFFIX}")
    deployment, region = labels[0], labels[1] if len(labels) == 2 else None
    if deployment.startswith("audio-"):
        raise ValueError("the host is one of the vendor's shared audio hosts, not a deployment")
    if "-" not in deployment.strip("-"):
        raise ValueError("the handle has no '-' between account and deployment")
    return Handle(host, deployment, region.replace("-", "_").upper() if region else None)


def looks_like_console_key(key: str) -> bool:
    """Whether a key looks like one of the console's, which no direct route accepts.

    A direct route's keys are alphanumeric, whatever its owner chose; the console's begin with `fw_`.
    """
    return key.startswith("fw_")


# --- Models ----------------------------------------------------------------------------------------

PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""The id of an account, a model or a deployment, as a pattern."""


def parse_model(name: str) -> tuple[str | None, str | None] | None:
    """The base model and the deployment that a model name names; None: it is of none of the vendor's forms.

    `accounts/fireworks/models/M` names a base model, `accounts/A/deployments/D` a deployment, and
    `accounts/X/models/M#accounts/A/deployments/D` both. Short forms (`X/M`, `X/M#A/D`) are written out.
    """
    first, separator, second = name.strip().partition("#")
    if not separator and (deployment := _in_full("deployments", first, short=False)):
        return None, deployment
    base, deployment = _in_full("models", first), _in_full("deployments", second) if separator else None
    return (base, deployment) if base and bool(deployment) == bool(separator) else None


def _in_full(collection: str, name: str, *, short: bool = True) -> str | None:
    optional = "?" if short else ""
    match = re.fullmatch(rf"(?:accounts/){optional}({PART})/(?:{collection}/){optional}({PART})", name)
    return f"accounts/{match[1]}/{collection}/{match[2]}" if match else None


def direct_models(base: str, deployments: Iterable[str]) -> dict[str, str]:
    """What is asked of the global endpoint for these deployments of one model, and what their direct routes expect.

    The global endpoint knows a deployment by its name or by `base#name`; there the base model alone
    means the vendor's serverless one. A direct route, whichever of them, knows the base model.
    """
    return {asked: base for name in deployments for asked in (name, f"{base}#{name}")}


def model_remedy(model: str, *, direct: bool) -> str | None:
    """What is likely wrong with a model name that an endpoint has not found, as a remedy; None: nothing to be seen.

    Args:
        model: the name that was sent.
        direct: whether the endpoint is a direct route; else it is the global endpoint.
    """
    found = parse_model(model)
    if "/routers/" in model:
        return "a router is known to the global endpoint alone" if direct else None
    if found is None:
        return "write it in full: accounts/ACCOUNT/deployments/DEPLOYMENT, or accounts/fireworks/models/MODEL"
    base, deployment = found
    if direct and base is None:
        return "a direct route knows its base model (accounts/fireworks/models/...) and its own deployment's name only"
    if not direct and deployment is None:
        return "the global endpoint takes a base model for a serverless one: ask for accounts/ACCOUNT/deployments/ID"
    return None


# --- Its dialect -----------------------------------------------------------------------------------

WAITS = {"DEPLOYMENT_SCALING_UP": 60.0}
"""Seconds for which an error of this code says to leave a route alone: its first replica is ready after minutes."""
NOTED_HEADERS = frozenset(
    (
        "x-request-id",
        "fireworks-deployment",
        "fireworks-server-time-to-first-token",
        "fireworks-server-processing-time",
        "fireworks-prompt-tokens",
        "fireworks-cached-prompt-tokens",
        "fireworks-num-concurrent-requests",
    )
)
"""Response headers worth keeping in a trace. Times are in seconds."""
