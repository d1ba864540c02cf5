"""Fireworks: the one file that knows a vendor.

Handles, regions, model names, the control plane and error codes as the vendor documents them
(docs.fireworks.ai: "Direct routing", "List Deployments", firectl; the types of its SDK, fireworks-ai 1.2).
All of it is pure: what to ask and what an answer means, no I/O. Enumerations are open: a region, a state
or a type that is not listed here works just as well.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, cast

__all__ = [
    "ACCOUNT_VARIABLE",
    "API_URL",
    "API_URL_VARIABLE",
    "DIRECT_REGIONS",
    "GATEWAY_HOSTS",
    "GLOBAL_HOST",
    "GLOBAL_KEY_VARIABLE",
    "GLOBAL_URL",
    "INTERNET",
    "NOT_ON_DIRECT_ROUTES",
    "PAGE_SIZE",
    "PRIVATE",
    "READ_MASKS",
    "REGIONS",
    "Deployment",
    "Handle",
    "account_id",
    "api_base",
    "deployments_path",
    "direct_models",
    "is_handle_host",
    "looks_like_console_key",
    "parse_handle",
    "parse_model",
    "read_page",
    "read_text",
    "remedy_for_model",
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


class Handle(NamedTuple):
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
    well_formed = all(re.fullmatch("[a-z0-9_-]+", label) for label in labels)  # and is no part of a URL
    if not host.endswith(HANDLE_SUFFIX) or not well_formed or len(labels) > 2:
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

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"


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
    match = re.fullmatch(rf"(?:accounts/){optional}({_PART})/(?:{collection}/){optional}({_PART})", name)
    return f"accounts/{match[1]}/{collection}/{match[2]}" if match else None


def direct_models(base: str, deployments: Iterable[str]) -> dict[str, str]:
    """What is asked of the global endpoint for these deployments of one model, and what their direct routes expect.

    The global endpoint knows a deployment by its name or by `base#name`; there the base model alone
    means the vendor's serverless one. A direct route, whichever of them, knows the base model.
    """
    return {asked: base for name in deployments for asked in (name, f"{base}#{name}")}


# --- The control plane -----------------------------------------------------------------------------

API_URL = f"https://{GLOBAL_HOST}"
API_URL_VARIABLE = "FIREWORKS_BASE_URL"
ACCOUNT_VARIABLE = "FIREWORKS_ACCOUNT_ID"
PAGE_SIZE = 200
"""Deployments on a page: the most that the control plane gives."""
READ_MASKS = (
    "name,state,region,placement,baseModel,directRouteType,directRouteHandle,replicaStats",
    "name,state,region,placement,base_model,direct_route_type,direct_route_handle,replica_stats",
)
"""The fields to ask for: all that is needed, and no keys. The vendor does not say which spelling it expects. Which one
it has understood shows: every deployment has a base model."""

INTERNET = "INTERNET"
PRIVATE = ("GCP_PRIVATE_SERVICE_CONNECT", "AWS_PRIVATELINK")
"""Types of direct routes whose handle is no host: it is what an endpoint in one's own network is made from."""
GONE = ("DELETING", "DELETED", "FAILED")
"""States of deployments that do not come back."""


class Deployment(NamedTuple):
    """A deployment as the control plane or `firectl` shows it, but for its keys.

    Attributes:
        name: `accounts/A/deployments/D`; empty if it was not shown.
        state: `READY`, `CREATING`, ...; None if unknown, as everything below.
        region: where it is, in the vendor's spelling.
        ready: how many replicas are ready; after `READY` too that may be none.
        type: `INTERNET`, or one of `PRIVATE`; None: it has no direct route.
        handle: a host name for `INTERNET`; else what the endpoint in one's own network is made from.
        base: the base model, `accounts/fireworks/models/M`.
    """

    name: str
    state: str | None = None
    region: str | None = None
    ready: int | None = None
    type: str | None = None
    handle: str | None = None
    base: str | None = None

    @property
    def id(self) -> str:
        """The last part of its name; of one without a name, its handle's first label."""
        return self.name.rpartition("/")[2] or (self.handle or "").partition(".")[0]

    @property
    def gone(self) -> bool:
        """Whether it is on its way out, or never came."""
        return self.state in GONE


def account_id(text: str) -> str:
    """The account that `my-account` or `accounts/my-account` names.

    Raises:
        ValueError: it names none.
    """
    account = text.strip().removeprefix("accounts/")
    if not re.fullmatch(_PART, account):
        raise ValueError("it is not the id of an account")
    return account


def api_base(url: str) -> str:
    """The control plane that belongs to a base URL: people keep the one for inference in the same variable."""
    return re.sub(r"(/inference)?(/v1)?/*$", "", url)


def deployments_path(account: str) -> str:
    """Where an account's deployments are listed, below the control plane's URL."""
    return f"/v1/accounts/{account}/deployments"


def read_page(document: object) -> tuple[tuple[Deployment, ...], str | None]:
    """The deployments in JSON, and the token of the next page; None: this was the last.

    It is a page of the control plane, or what `firectl ... -o json` prints: a deployment, or a list of them.

    Raises:
        ValueError: there is no such thing in it. The message quotes nothing.
    """
    token: object = None
    found: object = document
    if isinstance(document, Mapping):
        fields = _fields(cast("Mapping[object, object]", document))
        token = fields.get("nextpagetoken")
        alone = [document] if "name" in fields else [] if fields.keys() <= {"nextpagetoken", "totalsize"} else None
        found = fields.get("deployments", alone)
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise ValueError("there are no deployments in it")  # noqa: TRY004 - of the text that it was
    records = [_fields(cast("Mapping[object, object]", each)) for each in found if isinstance(each, Mapping)]
    if len(records) < len(found):
        raise ValueError("there are no deployments in it")
    return tuple(map(_deployment, records)), token if isinstance(token, str) and token else None


def read_text(text: str) -> tuple[Deployment, ...]:
    """The deployments in what `firectl deployment get ID` prints, or several of them one after another.

    It is `Name: value` by line, with what belongs to a name indented below it. Lines of other forms are
    passed over.

    Raises:
        ValueError: there is no deployment in it. The message quotes nothing.
    """
    records: list[dict[str, object]] = []
    group: dict[str, object] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\s*)([A-Za-z][A-Za-z ]*):(.*)", line)
        if match is None:
            continue
        indent, name, value = match[1], _field(match[2]), match[3].strip()
        if indent:
            group.setdefault(name, value)
            continue
        if not records or name in records[-1]:
            records.append({})
        group = {}
        records[-1][name] = value or group
    found = tuple(_deployment(record) for record in records if "directroutehandle" in record or _is_deployment(record))
    if not found:
        raise ValueError("there are no deployments in it")
    return found


def _is_deployment(record: Mapping[str, object]) -> bool:
    return "/deployments/" in str(record.get("name"))


def _field(name: object) -> str:
    """A field's name in the one spelling used here: `Base Model`, `base_model` and `baseModel` are `basemodel`."""
    return re.sub(r"[ _-]", "", str(name)).lower()


def _fields(record: Mapping[object, object]) -> dict[str, object]:
    return {_field(name): value for name, value in record.items()}


def _deployment(fields: Mapping[str, object]) -> Deployment:
    """A deployment from fields of any origin. What is read goes to terminals and shells: nothing odd is let through."""
    stats, placement = _within(fields, "replicastats"), _within(fields, "placement")
    named = parse_model(_text(fields, "basemodel", r"\S+") or "")
    handle = _text(fields, "directroutehandle", r"[\w./:-]+")
    kind = _text(fields, "directroutetype")
    region = _text(fields, "region") or _text(placement, "region")
    if handle and is_handle_host(handle):
        kind = kind or INTERNET
        try:
            there = parse_handle(handle).region
        except ValueError:
            handle = None
        else:
            region = region or there
    ready = str(stats.get("readyreplicacount", fields.get("readyreplicacount")))
    return Deployment(
        name=_text(fields, "name", rf"accounts/{_PART}/deployments/{_PART}") or "",
        state=_text(fields, "state"),
        region=region,
        # The control plane leaves out what is zero; where nothing was said of replicas at all, nothing is known.
        ready=int(ready) if re.fullmatch("[0-9]{1,6}", ready) else 0 if "replicastats" in fields else None,
        type=kind,
        handle=handle,
        base=named[0] if named else None,
    )


def _within(fields: Mapping[str, object], name: str) -> dict[str, object]:
    value = fields.get(name)
    return _fields(cast("Mapping[object, object]", value)) if isinstance(value, Mapping) else {}


def _text(fields: Mapping[str, object], name: str, pattern: str = "[A-Z][A-Z0-9_]*") -> str | None:
    """A field's value if it is of the form: by default a value of an enumeration that says something."""
    value = fields.get(name)
    if not isinstance(value, str) or value.endswith("_UNSPECIFIED") or not re.fullmatch(pattern, value, re.ASCII):
        return None
    return value


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
