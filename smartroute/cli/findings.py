"""What `smartroute discover` found, and how it is written down: as settings, as JSON, as a table."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from smartroute.fireworks import (
    GLOBAL_KEY_VARIABLE,
    GLOBAL_URL,
    INTERNET,
    PRIVATE,
    Deployment,
    direct_models,
    is_handle_host,
    parse_handle,
)
from smartroute.route import GLOBAL
from smartroute.settings import key_variable

__all__ = ["Findings", "Named", "as_env", "as_json", "as_table", "as_toml", "findings"]


@dataclass(frozen=True, slots=True)
class Named:
    """A route to write down.

    Attributes:
        name: the route's name; `named`: whether its address alone would give another.
        models: what is asked, and what is sent to this route; empty if unknown.
    """

    name: str
    address: str
    deployment: Deployment
    models: Mapping[str, str] = field(default_factory=dict[str, str])
    named: bool = False


@dataclass(frozen=True, slots=True)
class Findings:
    """What an account has.

    Attributes:
        deployments: those with a direct route of any type, and those that became routes otherwise.
        routes: the routes that can be written down.
        unrouted: how many deployments have no direct route.
        notes: what a person should know, a sentence each.
    """

    deployments: tuple[Deployment, ...]
    routes: tuple[Named, ...]
    unrouted: int
    notes: tuple[str, ...]

    @property
    def same_models(self) -> bool:
        """Whether one setting can say for all routes which models they serve, as the environment has to."""
        return all(_host(route.deployment) and route.models == self.routes[0].models for route in self.routes)


def findings(deployments: Iterable[Deployment], *, gateway: bool = False) -> Findings:
    """What these deployments are as routes.

    Args:
        deployments: as the control plane or `firectl` shows them.
        gateway: make routes of those without a direct route too, at the vendor's gateway.
    """
    known = sorted(deployments, key=lambda each: (each.region or "~", each.name))
    through_gateway = [each for each in known if gateway and each.type is None and each.name and not each.gone]
    shown = [each for each in known if each.type is not None or each in through_gateway]
    notes = [note for each in shown for note in _notes_on(each)]
    usable = [each for each in shown if not each.gone and (each in through_gateway or _host(each))]
    routes = tuple(_named(usable))
    unrouted = sum(each.type is None for each in known)
    if unrouted > len(through_gateway):
        notes.append(
            f"{_count(unrouted, 'deployment')} without a direct route left out: the global endpoint serves such ones, "
            "and --gateway makes routes of them"
        )
    return Findings(tuple(shown), routes, unrouted, tuple(notes))


def _notes_on(deployment: Deployment) -> Iterable[str]:
    who = deployment.id
    host = _host(deployment)
    there = parse_handle(host).region if host else None
    if deployment.gone:
        yield f"{who} is {deployment.state}, and left out"
        return
    if deployment.type in PRIVATE:
        what = "a service attachment" if deployment.type == PRIVATE[0] else "a VPC endpoint service"
        yield (
            f"{who} is private ({deployment.type}): its handle names {what}, not a host. Make an endpoint for it in "
            "your own network, and give that as a route of kind private (--format toml writes what it needs)"
        )
    elif deployment.type is not None and not host:
        yield f"{who} has no handle that can be read (yet), and is left out"
    if there and deployment.region not in (None, there):
        yield (
            f"{who} is in {deployment.region} by the control plane and in {there} by its handle: "
            "ask the vendor before you rely on regions"
        )
    elif host and deployment.region and not there:
        yield f"{who}'s handle names no region: where regions matter, only a file can say {deployment.region}"
    if deployment.ready == 0:
        yield f"{who} has no ready replica: it is scaled to zero, or starting"


def _host(deployment: Deployment) -> str | None:
    """The host that a deployment is reached at directly over the internet."""
    handle = deployment.handle
    if deployment.type != INTERNET or not handle or not is_handle_host(handle):
        return None
    return parse_handle(handle).host


def _named(deployments: Sequence[Deployment]) -> Iterable[Named]:
    labels = [_label(each) for each in deployments]
    counted = Counter(labels)
    for each, label in zip(deployments, labels, strict=True):
        host = _host(each)
        taken = counted[label] > 1 or label.lower() == GLOBAL
        name = f"{label}-{each.id}" if taken else label
        family = [other.name for other in deployments if other.base == each.base and other.name]
        models = dict[str, str]()
        if each.base and family:
            models = direct_models(each.base, family)
        if host is None:  # the gateway knows it by its name
            models = dict.fromkeys(models or (each.name,), each.name)
        yield Named(name, host or GLOBAL_URL, each, models, named=taken or host is None)


def _label(deployment: Deployment) -> str:
    """What a route is called, if nothing else is: as `Route` does it."""
    if host := _host(deployment):
        handle = parse_handle(host)
        return handle.region.lower().replace("_", "-") if handle.region else handle.deployment
    return deployment.id


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- How it is written -----------------------------------------------------------------------------


def as_json(found: Findings, account: str | None) -> str:
    """The findings for a program; docs/fireworks.md describes the shape."""
    names = {route.deployment: route.name for route in found.routes}
    document = {
        "account": account,
        "deployments": [
            {
                "name": each.name or None,
                "state": each.state,
                "region": each.region,
                "ready_replicas": each.ready,
                "type": each.type,
                "handle": each.handle,
                "base_model": each.base,
                "route": names.get(each),
            }
            for each in found.deployments
        ],
        "routes": [
            {
                "name": route.name,
                "address": route.address,
                "region": route.deployment.region,
                "model": dict(route.models),
                "key_variable": key_variable(route.name),
            }
            for route in found.routes
        ],
        "without_direct_route": found.unrouted,
        "notes": list(found.notes),
    }
    return json.dumps(document, indent=2)


def as_env(found: Findings) -> str:
    """The routes as a shell's environment: comments and `export`, for `eval` or a file."""
    addresses = [f"{route.name}={route.address}" if route.named else route.address for route in found.routes]
    models = [f"{asked}={sent}" for asked, sent in found.routes[0].models.items()]
    lines = [_variable("SMARTROUTE_ROUTES", addresses, "")]
    if models:
        lines += ["# Requests for these models are routed (asked=sent); all others go where they went before."]
        lines += [_variable("SMARTROUTE_MODEL", models, ",")]
        lines += _addressed(found.routes, "# export SMARTROUTE_MODEL=", "# export SMARTROUTE_GLOBAL_MODEL=")
    else:
        lines += ["# The base model is unknown: set SMARTROUTE_MODEL if the routes expect another name than is asked."]
    return "\n".join(lines + _keys(found, "# export SMARTROUTE_API_KEY=...")) + "\n"


def _variable(name: str, items: Sequence[str], separator: str) -> str:
    start = f'export {name}="'
    return start + f"{separator}\n{' ' * len(start)}".join(items) + '"'


def as_toml(found: Findings) -> str:
    """The routes as a configuration file, for `SMARTROUTE_CONFIG`."""
    lines = ["# Routes for smartroute: export SMARTROUTE_CONFIG=<this file>", *_keys(found, "")]
    shared = found.same_models and found.routes[0].models
    if shared:
        lines += ["", "# Requests for these models are routed (asked = sent); all others go where they went before."]
        lines += [*_addressed(found.routes, "# model = ", "# global_model = "), "[model]", *_pairs(shared)]
    for route in found.routes:
        lines += ["", "[[route]]", f"address = {_quoted(route.address)}", f"name = {_quoted(route.name)}"]
        if route.deployment.region:
            lines.append(f"region = {_quoted(route.deployment.region)}")
        if route.models and not shared:
            lines += ["[route.model]", *_pairs(route.models)]
    for each in found.deployments:
        if each.type in PRIVATE and not each.gone:
            lines += ["", *_private_template(each)]
    return "\n".join(lines) + "\n"


def _private_template(deployment: Deployment) -> list[str]:
    region = [f"# region = {_quoted(deployment.region)}"] if deployment.region else []
    return [
        f"# {deployment.id}: {deployment.type}, {deployment.handle or 'no handle yet'}",
        "# [[route]]",
        '# address = "https://<the name or address of the endpoint in your network>/v1"',
        f"# name = {_quoted(deployment.id)}",
        '# kind = "private"',
        *region,
        '# server_name = "<the name in its certificate: ask the vendor>"',
    ]


def _addressed(routes: Sequence[Named], model: str, global_model: str) -> list[str]:
    """For callers that name the base model: a request that leaves the routes needs another name then."""
    deployment = max((route.deployment for route in routes), key=lambda each: each.ready or 0)
    if not deployment.base or not deployment.name:
        return []
    return [
        "# Code that calls a handle with the base model, as the vendor's page does, wants these instead:",
        model + _quoted(deployment.base),
        global_model + _quoted(deployment.name),
    ]


def _keys(found: Findings, example: str) -> list[str]:
    """What is to be said of keys. None is written anywhere."""
    direct = [route for route in found.routes if _host(route.deployment)]
    lines: list[str] = []
    if direct:
        lines = [
            "# No key is written here. Set the direct routes' own, as they were given to firectl in",
            "# --direct-route-api-keys (the console's is another), in SMARTROUTE_API_KEY; where they differ, one each:",
            *(f"#   {key_variable(route.name)}" for route in direct),
            *([example] if example else []),
        ]
    if len(direct) < len(found.routes):
        lines.append(f"# The routes at {GLOBAL_URL} take the console key, in {GLOBAL_KEY_VARIABLE}.")
    return lines


def _pairs(models: Mapping[str, str]) -> list[str]:
    return [f"{_quoted(asked)} = {_quoted(sent)}" for asked, sent in models.items()]


def _quoted(text: str) -> str:
    """Text as a string of TOML and of a shell: what comes here has no character that either would read."""
    return f'"{text}"'


def as_table(deployments: Sequence[Deployment]) -> str:
    """The deployments, a line each, no cell cut."""
    rows = [("DEPLOYMENT", "STATE", "REGION", "READY", "TYPE", "MODEL")]
    rows += [
        (
            each.id or "-",
            each.state or "-",
            each.region or "-",
            "-" if each.ready is None else str(each.ready),
            each.type or "-",
            (each.base or "-").removeprefix("accounts/fireworks/models/"),
        )
        for each in deployments
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
