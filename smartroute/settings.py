"""The table of settings: what each is called, what it means, how its value is read.

A reader takes a raw value of whatever origin (text of the environment, a value of a TOML file, an
argument) and says what it means, or refuses it with a remedy.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import NamedTuple, cast

from smartroute.errors import ConfigError
from smartroute.fireworks import GLOBAL_HOST, GLOBAL_KEY_VARIABLE, GLOBAL_URL
from smartroute.route import (
    NEVER_FORWARDED,
    Kind,
    Route,
    canonical_region,
    read_keys,
    read_path,
    read_paths,
    read_words,
    refusal,
)

__all__ = [
    "KEY_OF",
    "PATHS",
    "PREFIX",
    "SETTINGS",
    "Setting",
    "is_switched_off",
    "key_variable",
    "log_level",
    "read_global_key",
    "read_global_route",
    "read_global_url",
    "read_items",
    "read_switch",
    "slug",
]

PREFIX = "SMARTROUTE_"
PATHS = ("/chat/completions", "/completions", "/embeddings")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise refusal("is not text", "write it as text, in quotes")
    return value.strip()


def read_items(value: object) -> tuple[object, ...]:
    """A list of routes, as text or as items that `Route` understands."""
    if isinstance(value, str):
        return read_words(value)
    if isinstance(value, Sequence):
        return tuple(cast("Sequence[object]", value))
    raise refusal("is not a list of routes", "write a list of handles or URLs, or [[route]] tables")


def _regions(value: object) -> tuple[str, ...]:
    patterns = tuple(map(canonical_region, read_words(value)))
    if value and not patterns:  # "," is more likely a template gone wrong than a wish for every region
        raise refusal("there is no region in it", "write them as in US_ARIZONA_1, EU_*, or leave it out to allow all")
    if not all(re.fullmatch(r"[A-Z0-9_*?]+", pattern) for pattern in patterns):
        raise refusal("a pattern has a character that no region has", "write them as in US_ARIZONA_1, EU_*")
    return patterns


def _headers(value: object) -> tuple[str, ...]:
    patterns = tuple(word.lower() for word in read_words(value))
    if not all(re.fullmatch(r"[a-z0-9!#$%&'*+.^_`|~?-]+", pattern) for pattern in patterns):
        raise refusal("a pattern has a character that no header has", "write them as in x-tenant, x-trace-*")
    if any(fnmatchcase(name, pattern) for name in NEVER_FORWARDED for pattern in patterns):
        raise refusal("a pattern would hand the caller's key or cookies to routes", "name the headers they need")
    return patterns


def _seconds(value: object, low: float, high: float, remedy: str) -> float:
    try:
        seconds = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if math.isnan(seconds):
        raise refusal("is not a number", remedy)
    if not low <= seconds <= high:
        raise refusal("is out of range", remedy)
    return seconds


def _probe_interval(value: object) -> float:
    remedy = "write seconds between 0.1 and 3600, or 0 to turn probes off"
    return _seconds(value, 0.1, 3600.0, remedy) if _seconds(value, 0.0, math.inf, remedy) else 0.0


def _deadline(value: object) -> float | None:
    return None if value == "" else _seconds(value, 0.1, 86400.0, "write seconds between 0.1 and 86400")


def is_switched_off(environ: Mapping[str, str]) -> bool:
    """Whether `SMARTROUTE_DISABLED` says so: it is heard whatever the configuration came from."""
    try:
        return read_switch(environ.get(f"{PREFIX}DISABLED") or "off")
    except ConfigError:
        return False  # who reads the environment for the configuration is told of it


def log_level(environ: Mapping[str, str]) -> str | None:
    """The level that `SMARTROUTE_LOG` names, whatever the configuration came from."""
    try:
        return _log(environ.get(f"{PREFIX}LOG", ""))
    except ConfigError:
        return None


def read_switch(value: object) -> bool:
    """On or off."""
    words = {"1": True, "on": True, "true": True, "yes": True, "0": False, "off": False, "false": False, "no": False}
    switch = words.get(str(value).strip().lower()) if isinstance(value, str | int) else None
    if switch is None:
        raise refusal("is neither on nor off", "write on (or 1, true, yes) or off (or 0, false, no)")
    return switch


def _backend(value: object) -> str:
    backend = _text(value).lower()
    if backend not in ("httptools", "aiohttp", "httpcore"):
        raise refusal("there is no such backend", "use httptools, httpcore or aiohttp")
    if backend == "aiohttp" and find_spec("aiohttp") is None:
        raise refusal("aiohttp is not installed", "run pip install 'aiohttp>=3.10,<4', or use httptools")
    return backend


def _log(value: object) -> str | None:
    level = _text(value).lower()
    if level not in ("", "debug", "info", "warning"):
        raise refusal("is not a level that can be set here", "use debug, info or warning, or leave it out")
    return level or None


def read_global_key(value: object) -> str:
    """The key of the global endpoint."""
    return read_keys([value])[0]


def read_global_route(value: object) -> Route:
    """The global endpoint, as a route."""
    return Route(cast("str", value), kind=Kind.GLOBAL)


def read_global_url(value: object) -> Route | None:
    """The global endpoint, as a route; None for `off`."""
    return None if isinstance(value, str) and value.strip().lower() == "off" else read_global_route(value)


# --- The table of settings --------------------------------------------------------------------------


class Setting(NamedTuple):
    """One line of the table of settings.

    Attributes:
        name: the TOML key and the argument; `SMARTROUTE_` and its capitals are the variable.
        meaning: what it means, with its units.
        default: what it is when left out, as the environment would say it; empty: as `meaning` tells.
        read: reads the value, where no other setting has a say in it.
    """

    name: str
    meaning: str
    default: str = ""
    read: Callable[[object], object] | None = None

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + self.name.upper()


SETTINGS = (
    Setting("routes", "handles or base URLs, by commas or white space, `name=` before each; none: pass all through"),
    Setting("api_key", "the key of every route without its own; several, by commas, are tried in turn on 401/403"),
    Setting("api_key_<name>", "the key or keys of one route (name upper-cased, `-` and `.` as `_`); environment only"),
    Setting("model", "the model name that routes expect, or `asked=sent` pairs by commas; none: as the caller sent it"),
    Setting("global_url", "the global endpoint; requests below it are routed; `off`: no fallback", GLOBAL_URL),
    Setting("global_api_key", f"the global endpoint's key; none: {GLOBAL_KEY_VARIABLE}, if the host is {GLOBAL_HOST}"),
    Setting("global_model", "the global endpoint's model name, or `asked=sent` pairs, for requests to a route's URL"),
    Setting("regions", "regions that requests may go to, global (`GLOBAL`) too; patterns; none: all", "", _regions),
    Setting("forward_headers", "further request headers that routes may receive; patterns", "", _headers),
    Setting("paths", "the paths below the base URL that routes serve", ", ".join(PATHS), read_paths),
    Setting(
        "probe_interval", "seconds between probes of a route while there is traffic; `0`: off", "10", _probe_interval
    ),
    Setting("probe_path", "what a probe GETs below the route's base URL", "/models", read_path),
    Setting("deadline", "seconds for the whole exchange, up to commit; none: the caller's timeouts", "", _deadline),
    Setting(
        "hedge",
        "ask a second route where the first is slow, for at most 2 % of the requests: `on`, `off`",
        "off",
        read_switch,
    ),
    Setting("affinity", "keep a conversation on one route: `on`, `off`", "on", read_switch),
    Setting(
        "backend",
        "what routed requests are read with: `httptools`; `httpcore`; `aiohttp` (an extra; async clients only)",
        "httptools",
        _backend,
    ),
    Setting("config", "a TOML file with these settings and a `[[route]]` table per route; environment only"),
    Setting("log", "level of the `smartroute` logger: `debug`, `info`, `warning`; none: untouched", "", _log),
    Setting("disabled", "`1`: pass everything through, validate nothing", "0"),
)
"""Every setting there is."""

KEY_OF = "api_key_"
"""What the name of a setting begins with that holds the keys of one route."""


def slug(name: str) -> str:
    """A route's name as it is written in a variable's, in lower case."""
    return name.lower().replace("-", "_").replace(".", "_")


def key_variable(name: str) -> str:
    """The environment variable with the keys of the route of this name."""
    return f"{PREFIX}{KEY_OF}{slug(name)}".upper()
