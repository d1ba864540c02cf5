"""Config: environment, TOML file, arguments -> one validated, frozen value.

However a setting was written, it takes one way: a mapping from its name to the raw value and to where
that stands (`SMARTROUTE_REGIONS`, `regions in smartroute.toml`, `regions=`). So the three ways in
understand the same values, and a message names the setting as its writer knows it. Every problem is
reported, not the first only; and no message quotes a refused value, for it may be a misplaced key.
"""

import functools
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self, TypedDict, TypeVar, cast
from urllib.parse import urlsplit

from smartroute.errors import Problem
from smartroute.fireworks import GATEWAY_HOSTS, GLOBAL_HOST, GLOBAL_KEY_VARIABLE, GLOBAL_URL
from smartroute.route import (
    GLOBAL,
    Checks,
    Kind,
    Models,
    Route,
    canonical_region,
    read_keys,
    read_models,
    refusal,
)
from smartroute.settings import (
    KEY_OF,
    PATHS,
    PREFIX,
    SETTINGS,
    key_variable,
    read_global_key,
    read_global_route,
    read_global_url,
    read_items,
    read_switch,
    slug,
)

__all__ = ["Config", "unknown_variables", "written"]

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True, init=False)
class Config:
    """Everything a router needs to know, checked. Equal configurations are equal values.

    Attributes:
        routes: the routes, each with its final keys, models and paths: a route without keys of its own got
            `api_key` (one behind the vendor's gateway `FIREWORKS_API_KEY`, if that is set), one without a
            model name of its own `model`, one without paths `paths`. None: everything passes through.
        global_url: the base URL of the global endpoint; None (argument also: `off`): no fallback.
        global_api_key: its key, for requests that were addressed to a route. Never shown.
        global_model: its model name, for such requests: a name or (asked, sent) pairs.
        regions: patterns of the regions that requests may go to (`EU_*`); empty: all. They bind the
            global endpoint too, whose region is `GLOBAL`.
        forward_headers: patterns, in lower case, of further request headers that routes may receive.
        paths: the paths below the base URL that routes serve, if they do not say otherwise.
        probe_interval: seconds between probes of a route while there is traffic, 0.1 to 3600; 0: off.
        probe_path: what a probe GETs below a route's base URL.
        deadline: seconds for a whole exchange, up to commit, 0.1 to 86400; None: the caller's timeouts.
        hedge: whether a second route is asked where the first one is slow for its own measure.
        affinity: whether the requests of one conversation stay on one route.
        backend: what routed requests are read with: `httptools`, `httpcore`, or for async clients `aiohttp` (an extra).
        log: the level to give the `smartroute` logger: `debug`, `info` or `warning`; None: untouched.
        disabled: pass everything through. Nothing else is validated or kept then.

    The arguments are the attributes, and two defaults that end up in the routes: `api_key` (a key, or
    several) and `model` (a name, or a mapping from what is asked to what is sent). Routes may be given
    as handles or URLs, `name=` before them. Text means what it means in the environment.

    Raises:
        ConfigError: with everything that is wrong with the settings.
    """

    routes: tuple[Route, ...]
    global_url: str | None
    global_api_key: str | None = field(repr=False)
    global_model: Models
    regions: tuple[str, ...]
    forward_headers: tuple[str, ...]
    paths: tuple[str, ...]
    probe_interval: float
    probe_path: str
    deadline: float | None
    hedge: bool
    affinity: bool
    backend: str
    log: str | None
    disabled: bool

    def __init__(
        self,
        routes: Sequence[Route | str] = (),
        *,
        api_key: str | Sequence[str] | None = None,
        model: str | Mapping[str, str] | None = None,
        global_url: str | None = GLOBAL_URL,
        global_api_key: str | None = None,
        global_model: str | Mapping[str, str] | Models = None,
        regions: Sequence[str] = (),
        forward_headers: Sequence[str] = (),
        paths: Sequence[str] = PATHS,
        probe_interval: float = 10.0,
        probe_path: str = "/models",
        deadline: float | None = None,
        hedge: bool = False,
        affinity: bool = True,
        backend: str = "httptools",
        log: str | None = None,
        disabled: bool = False,
    ) -> None:
        arguments: dict[str, object] = {
            "routes": routes,
            "api_key": api_key,
            "model": model,
            "global_url": "off" if global_url is None else global_url,
            "global_api_key": global_api_key,
            "global_model": global_model,
            "regions": regions,
            "forward_headers": forward_headers,
            "paths": paths,
            "probe_interval": probe_interval,
            "probe_path": probe_path,
            "deadline": deadline,
            "hedge": hedge,
            "affinity": affinity,
            "backend": backend,
            "log": log,
            "disabled": disabled,
        }
        self._settle({name: _Given(value, f"{name}=") for name, value in arguments.items() if value is not None})

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The configuration that the `SMARTROUTE_*` variables describe, and the file that `SMARTROUTE_CONFIG` names.

        An empty variable is an unset one. Unknown `SMARTROUTE_*` variables are one warning in the log.
        """
        return cls._load(environ.get(f"{PREFIX}CONFIG", "").strip() or None, f"{PREFIX}CONFIG", environ)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], environ: Mapping[str, str] = MappingProxyType({})) -> Self:
        """The configuration that a TOML file describes: the settings in lower case, and `[[route]]` tables.

        Args:
            path: the file.
            environ: variables that win over the file, as in `from_env`; by default there are none.
        """
        return cls._load(path, f"{path}", environ)

    @property
    def global_route(self) -> Route | None:
        """The global endpoint as a route of kind `global`, named `global`; None without a fallback."""
        if self.global_url is None:
            return None
        return read_global_route(self.global_url).replace(
            keys=(self.global_api_key,) if self.global_api_key else (), models=self.global_model
        )

    def allows(self, region: str | None) -> bool:
        """Whether requests may go to a region; to an unknown one (None) only if they may go to all."""
        return not self.regions or _allows(self.regions, region)

    @classmethod
    def _load(cls, path: str | os.PathLike[str] | None, source: str, environ: Mapping[str, str]) -> Self:
        checks = Checks()
        given = _gather(path, source, environ, checks)
        if not _is_disabled(given, Checks()):
            _warn_of("; ".join(f"{each.setting} ({each.remedy})" for each in unknown_variables(environ)))
        config = object.__new__(cls)
        config._settle(given, checks)
        return config

    def _settle(self, given: Mapping[str, "_Given"], checks: Checks | None = None) -> None:
        for attribute, value in _resolve(given, checks or Checks()).items():
            object.__setattr__(self, attribute, value)


# --- What was written where ------------------------------------------------------------------------


_IN_ENVIRON = tuple(setting.variable for setting in SETTINGS if "<" not in setting.name)
_IN_FILE = tuple(each.name for each in SETTINGS if "<" not in each.name and each.name != "config")
_IN_TABLE = (
    *("address", "name", "region", "kind", "api_key", "model", "tier", "allow_http"),
    *("server_name", "ca_file", "client_cert", "client_key", "headers", "key_header", "query", "paths"),
)


class _Given(NamedTuple):
    """A raw value and where it was written."""

    value: object
    source: str

    def __repr__(self) -> str:
        return self.source  # the value may be a key


class _Table(TypedDict, total=False):
    """A `[[route]]` table but for its address; its types are promises that `Route` checks."""

    name: str
    region: str
    kind: str
    api_key: str | list[str]
    model: str | dict[str, str]
    tier: int
    allow_http: bool
    server_name: str
    ca_file: str
    client_cert: str
    client_key: str
    headers: dict[str, str]
    key_header: str
    query: dict[str, str]
    paths: list[str]


def written(environ: Mapping[str, str], path: str | os.PathLike[str] | None = None) -> Mapping[str, tuple[object, str]]:
    """What is set, by the names of the settings: the raw value, and where it was written; unread and unchecked.

    Keys are among the values. `route`: the `[[route]]` tables.

    Args:
        environ: variables that win over the file.
        path: the file; by default the one that `SMARTROUTE_CONFIG` names.
    """
    path = path or environ.get(f"{PREFIX}CONFIG", "").strip() or None
    given = _gather(path, f"{PREFIX}CONFIG", environ, Checks())
    return {name: (entry.value, entry.source) for name, entry in given.items()}


def unknown_variables(environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """The `SMARTROUTE_*` variables that mean nothing, each with the near name if there is one."""
    return tuple(
        Problem(name, "there is no such variable", _near(name, _IN_ENVIRON, PREFIX) or "remove it")
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in _IN_ENVIRON and not _is_key_variable(name)
    )


def _is_key_variable(name: str) -> bool:
    return name.startswith(PREFIX + KEY_OF.upper())


def _near(name: str, known: Iterable[str], prefix: str = "") -> str:
    import difflib  # noqa: PLC0415 - needed where there is a mistake, which is seldom

    bare = {each.removeprefix(prefix): each for each in known}
    match = difflib.get_close_matches(name.removeprefix(prefix), bare, 1, 0.7)
    return f"did you mean {bare[match[0]]}?" if match else ""


@functools.cache  # a client per request must not mean a warning per request
def _warn_of(unknown: str) -> None:
    if unknown:
        logging.getLogger("smartroute").warning("unknown variables are ignored: %s", unknown)


def _gather(
    path: str | os.PathLike[str] | None, source: str, environ: Mapping[str, str], checks: Checks
) -> dict[str, _Given]:
    """What the environment says, and of the file what it leaves open."""
    given = _from_environ(environ)
    if path is None or _is_disabled(given, Checks()):
        return given
    in_file = _from_file(Path(path), source, checks)
    if "routes" in given:  # the environment's routes replace the file's, however it wrote them
        in_file.pop("route", None)
    return in_file | given


def _from_environ(environ: Mapping[str, str]) -> dict[str, _Given]:
    given = {
        name.removeprefix(PREFIX).lower(): _Given(value.strip(), name)
        for name, value in environ.items()
        if value.strip() and (name in _IN_ENVIRON or _is_key_variable(name))
    }
    if key := environ.get(GLOBAL_KEY_VARIABLE, "").strip():
        given[GLOBAL_KEY_VARIABLE] = _Given(key, GLOBAL_KEY_VARIABLE)
    return given


def _from_file(path: Path, source: str, checks: Checks) -> dict[str, _Given]:
    import tomllib  # noqa: PLC0415 - 2 ms that only who has a file need wait for

    try:
        document: dict[str, object] = tomllib.loads(path.expanduser().read_text("utf-8"))
    except OSError as error:
        checks.add(source, f"the file cannot be read ({error.strerror})", "name a readable TOML file by its full path")
        return {}
    except (ValueError, RuntimeError) as error:  # tomllib may quote what it stumbled over: say only where
        place = re.search(r"\(at [a-z0-9 ,]+\)\Z", str(error))
        checks.add(source, f"the file is not valid TOML {place[0] if place else ''}".rstrip(), "see https://toml.io")
        return {}
    given: dict[str, _Given] = {}
    for key, value in document.items():
        if key == "route":
            given[key] = _Given(value, f"[[route]] in {path.name}")
        elif key in _IN_FILE:
            given[key] = _Given(value, f"{key} in {path.name}")
        else:
            remedy = _near(key, (*_IN_FILE, "route")) or "remove it"
            checks.add(f"{key} in {path.name}", "there is no such setting", remedy)
    return given


# --- From what was written to what it means ----------------------------------------------------------


def _is_disabled(given: Mapping[str, _Given], checks: Checks) -> bool:
    entry = given.get("disabled")
    return entry is not None and checks.read(entry.source, read_switch, entry.value, default=False)


def _resolve(given: Mapping[str, _Given], checks: Checks) -> dict[str, object]:
    """The attributes of a `Config`."""
    values: dict[str, object] = {}
    disabled = _is_disabled(given, checks)
    if disabled:
        given, checks = {}, Checks()
    reading = _Reading(given, checks)
    for setting in SETTINGS:
        if setting.read:
            values[setting.name] = reading.read(setting.name, setting.read, setting.read(setting.default))
    endpoint = reading.read("global_url", read_global_url, read_global_route(GLOBAL_URL))
    key = "global_api_key"
    if key not in given and endpoint and urlsplit(endpoint.url).hostname == GLOBAL_HOST:
        key = GLOBAL_KEY_VARIABLE
    values |= {
        "routes": reading.routes(
            endpoint, cast("tuple[str, ...]", values["regions"]), cast("tuple[str, ...]", values["paths"])
        ),
        "global_url": endpoint and endpoint.url,
        "global_api_key": reading.read(key, read_global_key, None),
        "global_model": reading.read("global_model", read_models, None),
        "disabled": disabled,
    }
    checks.finish()
    return values


class _Reading:
    """What was written, while its values are read and seen together."""

    def __init__(self, given: Mapping[str, _Given], checks: Checks) -> None:
        self.given = given
        self.checks = checks
        self.complete = not checks.problems  # nothing of it was lost on the way here
        self.unread: list[str] = []  # the names of routes that could not be read; empty if unknown

    def read(self, name: str, reader: Callable[[object], T], default: D) -> T | D:
        entry = self.given.get(name)
        return default if entry is None else self.checks.read(entry.source, reader, entry.value, default)

    def routes(self, endpoint: Route | None, regions: tuple[str, ...], paths: tuple[str, ...]) -> tuple[Route, ...]:
        """The routes with their final keys, models and paths, checked against each other and all else."""
        found = [*self._listed("routes"), *self._listed("route")]
        for number, (route, source) in enumerate(found):
            self._compare(route, source, [other for other, _ in found[:number]], endpoint)
            self._look_at_files(route, source)
            if regions and route.region is None:
                self.checks.add(
                    source,
                    f"the region of route {route.name!r} is unknown, and requests may go to certain regions only",
                    "say where it is: Route(..., region=...), or region in its [[route]] table",
                )
        reachable = {GLOBAL.upper(), *(route.region for route, _ in found)}
        if found and regions and None not in reachable and not any(_allows(regions, region) for region in reachable):
            self.checks.add(
                self.given["regions"].source,
                "no route is in these regions, so no request could go anywhere",
                "use the regions of the routes, with GLOBAL if the global endpoint may serve too",
            )
        return self._completed(found, paths)

    def _listed(self, setting: str) -> list[tuple[Route, str]]:
        found: list[tuple[Route, str]] = []
        for number, item in enumerate(self.read(setting, read_items, ()), 1):
            source = self.given[setting].source
            table = _split_name(item) if isinstance(item, str) else item
            route = self.checks.read(source, _route, table, None, f"route {number}: ")
            if route:
                found.append((route, source))
            else:
                name = cast("Mapping[str, object]", table).get("name") if isinstance(table, Mapping) else None
                self.unread.append(slug(name) if isinstance(name, str) else "")
        return found

    def _compare(self, route: Route, source: str, others: Sequence[Route], endpoint: Route | None) -> None:
        for other in others:
            alike = None in (route.models, other.models) or route.models == other.models
            if _place(route) == _place(other) and alike:
                self.checks.add(
                    source,
                    f"route {other.name!r} is there twice: the URL is the same",
                    "take one out; deployments behind one URL need models of their own",
                )
            elif slug(route.name) == slug(other.name):
                self.checks.add(
                    source,
                    f"two routes are named {route.name!r} (capitals, '-', '.' and '_' make no difference)",
                    "give one another name: name=address, or name in its [[route]] table",
                )
        is_behind_global = endpoint and endpoint.url == route.url and route.models is not None  # a gateway's deployment
        if endpoint and f"{endpoint.url}/".startswith(f"{route.url}/") and not is_behind_global:
            entry = self.given.get("global_url")
            self.checks.add(
                entry.source if entry else source,
                f"the global endpoint lies below the URL of route {route.name!r}",
                "give the route the URL of its deployment, or set another global_url (off: no fallback)",
            )

    def _look_at_files(self, route: Route, source: str) -> None:
        if route.has_own_tls:
            from smartroute.tls import own_context  # noqa: PLC0415 - ssl is slow to import, and few need it here

            self.checks.read(source, lambda _: own_context(route), None, None, f"route {route.name!r}: ")

    def _completed(self, found: Sequence[tuple[Route, str]], paths: tuple[str, ...]) -> tuple[Route, ...]:
        keys = self.read("api_key", read_keys, None)
        models = self.read("model", read_models, None)
        named = {name.removeprefix(KEY_OF): each for name, each in self.given.items() if name.startswith(KEY_OF)}
        # Is a missing key missing? Not if it was refused, or if the file that may hold it could not be read.
        certain = self.complete and (keys is not None or "api_key" not in self.given)
        completed: list[Route] = []
        for route, source in found:
            own = named.pop(slug(route.name), None)
            theirs = route.keys or self._gateway_keys(route) or keys or ()
            if own:
                theirs = self.checks.read(own.source, read_keys, own.value, ())
            completed.append(route.replace(keys=theirs, models=route.models or models, paths=route.paths or paths))
            if not theirs and not own and certain and route.kind is Kind.DIRECT:
                self.checks.add(
                    source,
                    f"route {route.name!r} has no key",
                    f"set api_key ({PREFIX}API_KEY) for all routes or {key_variable(route.name)} for this one; "
                    "a route of kind private may have none",
                )
        for name, entry in named.items():
            if name not in self.unread and "" not in self.unread:
                self.checks.add(entry.source, "there is no such route", self._remedy_for_key(name, entry, completed))
        return tuple(completed)

    def _gateway_keys(self, route: Route) -> tuple[str, ...]:
        """The vendor's gateway takes the console key: the key of the direct routes does not belong there."""
        entry = self.given.get(GLOBAL_KEY_VARIABLE)
        if entry is None or urlsplit(route.url).hostname not in GATEWAY_HOSTS:
            return ()
        return Checks().read("", read_keys, entry.value, ())

    def _remedy_for_key(self, name: str, entry: _Given, routes: Sequence[Route]) -> str:
        if name == GLOBAL:
            return f"the global endpoint's key is {PREFIX}GLOBAL_API_KEY"
        near = _near(entry.source, (key_variable(route.name) for route in routes), PREFIX + KEY_OF.upper())
        return near or f"the routes are: {', '.join(route.name for route in routes) or 'none'}"


def _split_name(text: str) -> Mapping[str, object]:
    name, separator, address = text.partition("=")
    named = separator and "/" not in name
    return {"address": address.strip(), "name": name.strip()} if named else {"address": text}


def _route(item: object) -> Route:
    if isinstance(item, Route):
        route = item
    elif isinstance(item, Mapping):
        table = dict(cast("Mapping[str, object]", item))
        checks = Checks()
        for key in sorted(set(table) - set(_IN_TABLE)):
            checks.add("", f"there is no setting {key!r} of a route", _near(key, _IN_TABLE) or "remove it")
        checks.finish()
        if not (address := table.pop("address", "")):
            raise refusal("there is no address", "write a handle, or a URL (https://host/v1), as its address")
        route = Route(cast("str", address), **cast("_Table", cast("object", table)))
    else:
        raise refusal("is neither a route, a handle nor a URL", "write a handle, a URL or a [[route]] table")
    if route.kind is Kind.GLOBAL:
        raise refusal("a route cannot be of kind global", "set global_url for it, or use 'direct' or 'private'")
    return route


def _place(route: Route) -> tuple[object, ...]:
    """Where a request for the route ends up: behind one address, a name or a header may tell several apart."""
    return route.url, route.server_name, route.headers, route.query


def _allows(regions: Sequence[str], region: str | None) -> bool:
    return region is not None and any(fnmatchcase(canonical_region(region), pattern) for pattern in regions)
