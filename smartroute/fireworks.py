"""Fireworks: the one file that knows a vendor.

Handles, regions and error codes as the vendor documents them (docs.fireworks.ai, "Direct routing",
and the types of its SDK). A region is an open string: one that is not listed here works just as well.
"""

from dataclasses import dataclass

__all__ = [
    "GLOBAL_HOST",
    "GLOBAL_KEY_VARIABLE",
    "GLOBAL_URL",
    "REGIONS",
    "Handle",
    "is_handle_host",
    "looks_like_console_key",
    "parse_handle",
    "remedy_for_model",
]

GLOBAL_HOST = "api.fireworks.ai"
GLOBAL_URL = f"https://{GLOBAL_HOST}/inference/v1"
GLOBAL_KEY_VARIABLE = "FIREWORKS_API_KEY"
HANDLE_SUFFIX = ".direct.fireworks.ai"

REGIONS = (
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
"""The regions that the vendor's direct routing page lists (November 2026)."""


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


def remedy_for_model(model: str, *, direct: bool) -> str:
    """What to try where an endpoint does not have a model of the vendor's naming; nothing if the name is another's.

    A direct route and the global endpoint know a deployment by different names.
    """
    if not model.startswith("accounts/"):
        return ""
    base, separator, deployment = model.partition("#")
    if direct and separator:
        return f"a direct route takes what stands on one side of the #: {base}, or {deployment}"
    if "/deployments/" in model:
        if direct:
            return "a direct route also takes the base model (accounts/fireworks/models/...): try that name"
        return "look whether the deployment is there, and spelt so: accounts/ACCOUNT/deployments/DEPLOYMENT"
    if direct:
        return "look whether it is this deployment's base model, or try accounts/ACCOUNT/deployments/DEPLOYMENT"
    return (
        "the global endpoint knows a deployment as accounts/ACCOUNT/deployments/DEPLOYMENT; "
        "a base model there means the serverless one"
    )
