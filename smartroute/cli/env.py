"""`smartroute env`: the configuration as it is in effect, and where each value comes from."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smartroute.cli.options import SWITCHED_OFF, AsJson, ConfigFile, NoColor, read_config, say, warn_of_unknown
from smartroute.cli.output import Screen, print_json, redacted, redacted_keys
from smartroute.config import Config, unknown_variables, written
from smartroute.errors import ConfigError
from smartroute.fireworks import GLOBAL_KEY_VARIABLE
from smartroute.route import Models, Route, read_keys
from smartroute.settings import KEY_OF, SETTINGS, Setting, slug

__all__ = ["RouteSettings", "Value", "effective", "env", "settings_of"]

DEFAULT = "default"
IN_ROUTES = ("routes", "api_key", "api_key_<name>", "model", "config")
"""Settings that are no attributes of a configuration: they end up in its routes, or name a file."""
OPTIONAL = ("server_name", "ca_file", "client_cert", "client_key", "key_header", "paths")
"""Of a route, what is told only where it is set."""
SECRETIVE = ("headers", "query")
"""Of a route, mappings whose values may be secrets."""


@dataclass(frozen=True, slots=True)
class Value:
    """A setting: what it is, as text that may be shown, and where that was written."""

    setting: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class RouteSettings:
    """A route: its settings as text that may be shown, and where its keys were written."""

    name: str
    settings: Mapping[str, str]
    keys_from: str


def env(*, config: ConfigFile = None, no_color: NoColor = False, as_json: AsJson = False) -> None:
    """Show the configuration in effect, and the source of each value.

    Variables win over the file, and the file over the defaults. Of keys the last four characters are shown.

    \b
    smartroute env                              what this environment says
    smartroute env --config smartroute.toml     with this file
    smartroute env --json | jq .settings        for a program

    Exit code: 0 if the configuration can be used, 2 if not.
    """  # noqa: D301 - \b keeps the lines of a paragraph as they are
    given = read_config(config)
    values, routes = effective(given, os.environ, config)
    if as_json:
        print_json(
            {
                "settings": {each.setting: {"value": each.value, "source": each.source} for each in values},
                "routes": [
                    {"name": each.name, **each.settings, "keys_from": each.keys_from or None} for each in routes
                ],
                "unknown_variables": [problem.setting for problem in unknown_variables(os.environ)],
            }
        )
    else:
        screen = Screen(no_color=no_color)
        screen.table(
            ("setting", "value", "from"),
            [(each.setting, each.value, each.source) for each in values],
            wrap=("value", "from"),
        )
        for route in routes:
            screen.line()
            screen.line(f"route {route.name}", "bold")
            screen.table(("", ""), _lines(route), indent=2, header=False)
    if given.disabled:
        say(f"{SWITCHED_OFF}: every request passes through, and nothing else was read")
    warn_of_unknown()


def effective(
    config: Config, environ: Mapping[str, str], path: Path | None = None
) -> tuple[tuple[Value, ...], tuple[RouteSettings, ...]]:
    """The settings in the order of the documentation, and the routes.

    Args:
        config: what was read from them.
        environ: the variables.
        path: the file of `--config`.
    """
    given = written(environ, path)
    sources = {name: source for name, (_, source) in given.items()}
    values = [_value(setting, config, given) for setting in SETTINGS if setting.name != "api_key_<name>"]
    if "global_api_key" not in sources and config.global_api_key:
        values = [
            Value(each.setting, each.value, GLOBAL_KEY_VARIABLE) if each.setting == "global_api_key" else each
            for each in values
        ]
    if path is not None:
        values = [Value("config", str(path), "--config") if each.setting == "config" else each for each in values]
    return tuple(values), tuple(_route(route, config, given) for route in config.routes)


def settings_of(route: Route, config: Config) -> dict[str, str]:
    """What a route is made of, as text that may be shown; of its rarer settings those that were made."""
    shown = {
        "url": route.url,
        "kind": str(route.kind),
        "region": route.region or "",
        "tier": str(route.tier),
        "model": _models(route.models) or "as asked",
        "keys": redacted_keys(route.keys) or "none",
    }
    for name in OPTIONAL:
        found = getattr(route, name)
        if found and found not in (config.paths, "authorization"):
            shown[name] = found if isinstance(found, str) else ", ".join(map(str, found))
    for name in SECRETIVE:
        if found := getattr(route, name):
            shown[name] = ", ".join(f"{key}: {redacted(str(value))}" for key, value in dict(found).items())
    return shown


def _value(setting: Setting, config: Config, given: Mapping[str, tuple[object, str]]) -> Value:
    raw, source = given.get(setting.name, (None, DEFAULT))
    if setting.name == "routes":
        tables = given.get("route")
        sources = [each for each in (source if setting.name in given else "", tables[1] if tables else "") if each]
        return Value("routes", ", ".join(route.name for route in config.routes), " and ".join(sources) or DEFAULT)
    if setting.name == "api_key":
        return Value("api_key", "" if raw is None else redacted_keys(read_keys(raw)), source)
    if setting.name in IN_ROUTES:
        return Value(setting.name, "" if raw is None else _shown(raw), source)
    return Value(setting.name, _shown(getattr(config, setting.name), setting.name), source)


def _shown(value: object, name: str = "") -> str:
    if name == "global_api_key":
        return redacted(value) if isinstance(value, str) else ""
    if name == "global_url" and value is None:
        return "off"
    match value:
        case None:
            return ""
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case tuple() if name == "global_model":
            return _models(value)
        case tuple():
            return ", ".join(map(str, value))
        case Mapping():
            return ", ".join(f"{asked}={sent}" for asked, sent in value.items())
        case _:
            return str(value)


def _models(models: Models) -> str:
    return ", ".join(f"{asked}={sent}" for asked, sent in models) if isinstance(models, tuple) else models or ""


def _route(route: Route, config: Config, given: Mapping[str, tuple[object, str]]) -> RouteSettings:
    return RouteSettings(route.name, settings_of(route, config), _keys_from(route, given))


def _keys_from(route: Route, given: Mapping[str, tuple[object, str]]) -> str:
    if not route.keys:
        return ""
    own = given.get(KEY_OF + slug(route.name))
    if own is not None:
        return own[1]
    for name in ("api_key", GLOBAL_KEY_VARIABLE):
        value, source = given.get(name, ("", ""))
        with suppress(ConfigError):
            if value and read_keys(value) == tuple(route.keys):
                return source
    return given["route"][1] if "route" in given else ""


def _lines(route: RouteSettings) -> list[tuple[str, str]]:
    lines = [(name, value) for name, value in route.settings.items() if value]
    return [
        (name, f"{value} (from {route.keys_from})" if name == "keys" and route.keys_from else value)
        for name, value in lines
    ]
