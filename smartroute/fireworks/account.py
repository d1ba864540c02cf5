"""The vendor's control plane: which deployments an account has, and how they are reached.

What to ask and what the answers mean, the pasted output of `firectl` among them; no I/O. Sources: the
vendor's page "List Deployments" and the types of its SDK (fireworks-ai 1.2, November 2026).
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from smartroute.fireworks import GLOBAL_HOST, PART, is_handle_host, parse_handle, parse_model

__all__ = [
    "ACCOUNT_VARIABLE",
    "API_URL",
    "API_URL_VARIABLE",
    "INTERNET",
    "PAGE_SIZE",
    "PRIVATE",
    "READ_MASKS",
    "Deployment",
    "Page",
    "account_id",
    "api_base",
    "deployments_path",
    "read_page",
    "read_text",
]

API_URL = f"https://{GLOBAL_HOST}"
API_URL_VARIABLE = "FIREWORKS_BASE_URL"
ACCOUNT_VARIABLE = "FIREWORKS_ACCOUNT_ID"
PAGE_SIZE = 200
"""Deployments on a page: the most that the control plane gives."""
READ_MASKS = (
    "name,state,region,placement,baseModel,directRouteType,directRouteHandle,replicaStats",
    "name,state,region,placement,base_model,direct_route_type,direct_route_handle,replica_stats",
)
"""The fields to ask for: all that is needed, and no keys. The vendor does not say which spelling it expects."""

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


class Page(NamedTuple):
    """A page of deployments, and the token of the next one; None: it was the last."""

    deployments: tuple[Deployment, ...]
    next: str | None

    @property
    def understood(self) -> bool:
        """Whether the read mask was understood. Every deployment has a base model: none on a page means no."""
        return not self.deployments or any(each.base for each in self.deployments)


def account_id(text: str) -> str:
    """The account that `my-account` or `accounts/my-account` names.

    Raises:
        ValueError: it names none.
    """
    account = text.strip().removeprefix("accounts/")
    if not re.fullmatch(PART, account):
        raise ValueError("it is not the id of an account")
    return account


def api_base(url: str) -> str:
    """The control plane that belongs to a base URL: people keep the one for inference in the same variable."""
    return re.sub(r"(/inference)?(/v1)?/*$", "", url)


def deployments_path(account: str) -> str:
    """Where an account's deployments are listed, below the control plane's URL."""
    return f"/v1/accounts/{account}/deployments"


def read_page(document: object) -> Page:
    """The deployments in JSON: a page of the control plane, or what `firectl ... -o json` prints (one, or a list).

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
    return Page(tuple(map(_deployment, records)), token if isinstance(token, str) and token else None)


def read_text(text: str) -> tuple[Deployment, ...]:
    """The deployments in what `firectl get deployment ID` prints, or several of them one after another.

    It is `Name: value` by line, with what belongs to a name indented below it. Lines of other forms are
    passed over.

    Raises:
        ValueError: there is no deployment in it. The message quotes nothing.
    """
    records: list[dict[str, object]] = []
    group: dict[str, object] = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(\s*)([A-Za-z][A-Za-z ]*):\s*(.*?)\s*", line)
        if match is None:
            continue
        indent, name, value = match[1], _field(match[2]), match[3]
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
        name=_text(fields, "name", rf"accounts/{PART}/deployments/{PART}") or "",
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
