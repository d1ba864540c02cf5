"""A route: one way to reach the deployment. And what is known of it.

A message about a refused value never quotes it: a key may have landed in the wrong place.
"""

import copy
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from ipaddress import IPv6Address, ip_address
from typing import ClassVar, Generic, NamedTuple, Self, TypeVar, cast, overload
from urllib.parse import urlsplit

from smartroute.errors import ConfigError, Problem
from smartroute.fireworks import is_handle_host, parse_handle

__all__ = [
    "GLOBAL",
    "LEAST_SECRET",
    "NEVER_FORWARDED",
    "Checks",
    "Keys",
    "Kind",
    "Models",
    "Pairs",
    "Route",
    "RouteStatus",
    "canonical_region",
    "read_keys",
    "read_models",
    "read_path",
    "read_paths",
    "read_words",
    "refusal",
]

GLOBAL = "global"
"""The name, and in capitals the region, of the global endpoint."""

Models = str | tuple[tuple[str, str], ...] | None
"""The model name that an endpoint expects: one for whatever was asked, pairs (asked, sent), or as asked."""

NEVER_FORWARDED = ("authorization", "proxy-authorization", "api-key", "x-api-key", "cookie", "host")
"""Request headers that no setting lets through to a route: they are the caller's, or set by the rewriting."""
NOT_FIXED = (
    *("content-*", "transfer-encoding", "accept-encoding", "connection", "keep-alive", "proxy-*", "te", "trailer"),
    *("upgrade", "expect", "traceparent", "tracestate", "x-smartroute-*"),
)
"""Patterns of request headers that belong to the single request, or to its connection."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
D = TypeVar("D")

LEAST_SECRET = 8
"""Characters below which the value of a header or a parameter is taken for no secret: a tenant's name, a version."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REGION = re.compile(r"[A-Z0-9][A-Z0-9_]*")
_QUOTES = "\"'"
_KEY = re.compile(r"[\x21-\x7e]+")  # what may stand in a header after "Bearer "
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[!-~]+( +[!-~]+)*")
_LABEL = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?|[0-9a-f:.]*:[0-9a-f:.]*")
PATH = re.compile(r"(/[!\"$-.0->@-\[\]-~]+)*")
_PORTS = {"http": 80, "https": 443}
_ADDRESS = "write a handle (account-deployment.region.direct.fireworks.ai) or a URL (https://host/v1)"


class Kind(StrEnum):
    """How a route reaches the deployment."""

    DIRECT = "direct"
    """An internet direct route."""
    PRIVATE = "private"
    """Private Service Connect, PrivateLink, or a network of one's own."""
    GLOBAL = "global"
    """Where the request was going anyway: the last resort."""


class Unshown(Sequence[T_co], Generic[T_co]):
    """Values that nothing shows: no repr, no str, no walk over the fields of what holds them.

    Not a tuple, because `dataclasses.asdict` and those who log with it take tuples apart.
    """

    __slots__ = ("_values",)
    _noun: ClassVar[str] = "values"

    def __init__(self, values: Iterable[T_co] = ()) -> None:
        self._values = tuple(values)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T_co, ...]: ...
    def __getitem__(self, index: int | slice) -> T_co | tuple[T_co, ...]:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, Unshown) else other)

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        return f"<{len(self)} {self._noun}>"

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[T_co, ...]]]:
        return type(self), (self._values,)


class Keys(Unshown[str]):
    """API keys."""

    __slots__ = ()
    _noun = "keys"


class Pairs(Unshown[tuple[str, str]]):
    """Names and values, of which the values may be secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{', '.join(name for name, _ in self)}>"


class Checks:
    """Reads values and collects what is wrong with them, so that all of it is said at once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def read(self, setting: str, reader: Callable[[object], T], value: object, default: D, of: str = "") -> T | D:
        """What `reader` makes of the value; or the default, and a problem with the setting (`of` one part of it)."""
        try:
            return reader(value)
        except ConfigError as error:
            self.problems += [Problem(setting, of + each.problem, each.remedy) for each in error.problems]
            return default

    def add(self, setting: str, problem: str, remedy: str) -> None:
        """Note a problem that shows only when several values are seen together."""
        self.problems.append(Problem(setting, problem, remedy))

    def finish(self) -> None:
        """Raise what was collected, if anything was."""
        if self.problems:
            raise ConfigError(self.problems)


def refusal(problem: str, remedy: str) -> ConfigError:
    """What a reader raises: `Checks` knows the setting's name and puts it in."""
    return ConfigError([Problem("", problem, remedy)])


@dataclass(frozen=True, slots=True, init=False)
class Route:
    """One way to reach the deployment.

        Route("my-account-abcd1234.us-arizona-1.direct.fireworks.ai", api_key="...")
        Route("https://llm.eu.example/v1", name="frankfurt", region="EU_FRANKFURT_1", api_key="...")

    Attributes:
        url: the base URL in its normal form: scheme and host in lower case, no default port, no slash
            at its end. Requests go to `url` + path.
        name: its name in headers, logs and spans; by default the region label of a handle, else the
            host. Letters, digits, `.`, `_` and `-`, at most 100.
        region: where it is, in the vendor's spelling (`US_ARIZONA_1`); None if unknown.
        kind: `direct` unless said otherwise.
        keys: its own API keys, tried in turn when one is refused. Never shown. The argument is a
            sequence, or a string with commas between the keys.
        models: the model name that the route expects: one name for whatever was asked, or pairs of
            what was asked and what is sent (other models are then not served); None: as asked. The
            argument is a name, a mapping, or a string of `asked=sent` pairs by commas.
        tier: routes of a lower number are preferred, whatever their latency, as long as one of them is
            healthy; 0 unless said otherwise, 9 at the most.
        allow_http: allow `http://` to a public address (keys and prompts travel in the clear).
        server_name: the name that TLS asks for and verifies, and that `Host` carries, instead of the URL's
            host (which may then be an address, or the name of a VPC endpoint); None: the URL's host.
        ca_file: a PEM file of the certificate authorities that the route's certificate is verified with,
            and no others; None: those of the client.
        client_cert: a PEM file of the certificate that the route is shown, with what stands between it and its
            authority. `client_key`: the PEM file of its key; None: it is in the same file.
        headers: request headers that are always sent, in place of the caller's; names in lower case. Never shown
            with their values. The argument is a mapping; credentials belong in `api_key`.
        key_header: the header that carries the key, in lower case: `authorization` (`Bearer KEY`), or another
            one (the key alone).
        query: query parameters that are always sent, in place of the caller's. The argument is a mapping.
        paths: the paths below the base URL that it serves; empty: those of the configuration.

    The files are read when a `Config` is made, and when a client is.

    Raises:
        ConfigError: with everything that is wrong with the arguments.
    """

    url: str
    name: str
    region: str | None
    kind: Kind
    keys: Keys = field(repr=False)
    models: Models
    tier: int
    allow_http: bool
    server_name: str | None
    ca_file: str | None
    client_cert: str | None
    client_key: str | None
    headers: Pairs
    key_header: str
    query: Pairs
    paths: tuple[str, ...]

    def __init__(
        self,
        handle_or_url: str,
        *,
        name: str | None = None,
        region: str | None = None,
        kind: Kind | str | None = None,
        api_key: str | Sequence[str] | None = None,
        model: str | Mapping[str, str] | None = None,
        tier: int = 0,
        allow_http: bool = False,
        server_name: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        client_cert: str | os.PathLike[str] | None = None,
        client_key: str | os.PathLike[str] | None = None,
        headers: Mapping[str, str] | None = None,
        key_header: str = "authorization",
        query: Mapping[str, str] | None = None,
        paths: Sequence[str] = (),
    ) -> None:
        checks = Checks()
        address = checks.read("handle_or_url=", _read_address, handle_or_url, _Address("", "", "unknown", None))
        values: dict[str, object] = {
            "url": address.url,
            "name": address.label,
            "region": address.region if region is None else checks.read("region=", _read_region, region, None),
            "kind": Kind.DIRECT if kind is None else checks.read("kind=", _read_kind, kind, Kind.DIRECT),
            "keys": Keys(() if api_key is None else checks.read("api_key=", read_keys, api_key, ())),
            "models": None if model is None else checks.read("model=", read_models, model, None),
            "tier": checks.read("tier=", _read_tier, tier, 0),
            "allow_http": checks.read("allow_http=", _read_bool, allow_http, default=True),
            "server_name": None if server_name is None else checks.read("server_name=", _read_host, server_name, None),
            "headers": Pairs(() if headers is None else checks.read("headers=", _read_headers, headers, ())),
            "key_header": checks.read("key_header=", _read_key_header, key_header, "authorization"),
            "query": Pairs(() if query is None else checks.read("query=", _read_query, query, ())),
            "paths": checks.read("paths=", read_paths, paths, ()),
        }
        files = {"ca_file": ca_file, "client_cert": client_cert, "client_key": client_key}
        for setting, file in files.items():
            values[setting] = None if file is None else checks.read(f"{setting}=", _read_file, file, None, setting)
            if file is not None and address.url.startswith("http:"):
                checks.add(f"{setting}=", f"{setting} is of no use to an http:// URL", "use https://, or leave it out")
        if values["kind"] is Kind.GLOBAL:  # made by Config alone
            values |= {"name": GLOBAL, "region": GLOBAL.upper()}
        else:
            values["name"] = checks.read("name=", _read_name, address.label if name is None else name, "")
        # The global endpoint is where the caller's requests went before: refusing http:// there would help nobody.
        trusted = values["allow_http"] or values["kind"] is Kind.GLOBAL
        if address.url.startswith("http:") and not trusted and not _is_local(address.host):
            checks.add(
                "handle_or_url=",
                "plain http:// to a public host would send the key and the prompt in the clear",
                "use https://, or say allow_http = true in Route(...) or in its [[route]] table",
            )
        if client_key is not None and client_cert is None:
            checks.add("client_key=", "there is a client_key without a client_cert", "name the certificate's file too")
        if any(values["key_header"] == name for name, _ in cast("Pairs", values["headers"])):
            checks.add("headers=", "the header of the key is among the headers", "leave it to api_key and key_header")
        checks.finish()
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)

    def __str__(self) -> str:
        return self.name

    def replace(
        self, *, keys: Sequence[str] | None = None, models: Models = None, paths: Sequence[str] | None = None
    ) -> "Route":
        """The same route with other keys, models or paths; what is None stays.

        Raises:
            ConfigError: with everything that is wrong with the arguments.
        """
        checks, made = Checks(), copy.copy(self)
        values: dict[str, object] = {
            "keys": None if keys is None else Keys(checks.read("keys=", read_keys, keys, ())),
            "models": None if models is None else checks.read("models=", read_models, models, None),
            "paths": None if paths is None else checks.read("paths=", read_paths, paths, ()),
        }
        checks.finish()
        for attribute, value in values.items():
            if value is not None:
                object.__setattr__(made, attribute, value)
        return made

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nothing may show: its keys, and the values of its headers and parameters, but for short ones."""
        values = (value for _, value in (*self.headers, *self.query))
        return (*self.keys, *(value for value in values if len(value) >= LEAST_SECRET))

    @property
    def has_own_tls(self) -> bool:
        """Whether its certificate is verified, or it is shown one, in another way than the client's."""
        return self.ca_file is not None or self.client_cert is not None

    def serves(self, model: str | None, path: str = "") -> bool:
        """Whether a request for `model` may be sent here; and to `path`, unless that is empty."""
        if path and self.paths and path not in self.paths:
            return False
        return not isinstance(self.models, tuple) or any(asked == model for asked, _ in self.models)

    def model_for(self, model: str | None) -> str | None:
        """The name under which this route knows `model`."""
        if isinstance(self.models, tuple):
            return dict(self.models).get(model or "", model)
        return self.models or model


def canonical_region(region: str) -> str:
    """A region in the one spelling used for comparing: `us-arizona-1` is `US_ARIZONA_1`."""
    return region.strip().replace("-", "_").upper()


def read_keys(value: object) -> tuple[str, ...]:
    """API keys: a sequence of them, or a string with commas between them."""
    keys = value.split(",") if isinstance(value, str) else value
    remedy = "copy the key again, without quotes or spaces; several keys go by commas"
    if not isinstance(keys, Sequence):
        raise refusal("is neither a key nor a list of keys", remedy)
    found: list[str] = []
    for key in cast("Sequence[object]", keys):
        if not isinstance(key, str) or not _KEY.fullmatch(key.strip()):
            raise refusal("a key is empty or has a character that cannot stand in a header", remedy)
        if key.strip()[0] in _QUOTES:  # as `docker run --env-file` keeps them
            raise refusal("a key has quotes around it", remedy)
        found.append(key.strip())
    return tuple(dict.fromkeys(found))


def read_models(value: object) -> str | tuple[tuple[str, str], ...]:
    """Model names: one, or pairs of what is asked and what is sent, as a mapping, as pairs or as text."""
    remedy = "write one model name, or asked=sent pairs with commas between them"
    pairs: Iterable[object] = ()
    if isinstance(value, str):
        if _is_model_name(value) and not re.search("[=,]", value):
            return value.strip()
        pairs = [tuple(pair.split("=")) for pair in value.split(",")]
    elif isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
    elif isinstance(value, tuple):
        pairs = cast("tuple[object, ...]", value)
    models: dict[str, str] = {}
    for pair in pairs:
        names = cast("tuple[object, ...]", pair) if isinstance(pair, tuple) else ()
        match names:
            case (str(asked), str(sent)) if (
                _is_model_name(asked) and _is_model_name(sent) and asked.strip() not in models
            ):
                models[asked.strip()] = sent.strip()
            case _:
                raise refusal("a model name is missing, unreadable or mapped twice", remedy)
    if not models:
        raise refusal("there is no model name", remedy)
    return tuple(sorted(models.items()))


def read_words(value: object) -> tuple[str, ...]:
    """A list of texts, or a text with commas or white space between them."""
    if isinstance(value, str):
        return tuple(value.replace(",", " ").split())
    if isinstance(value, Sequence):
        words = [word for word in cast("Sequence[object]", value) if isinstance(word, str) and word.strip()]
        if len(words) == len(value):
            return tuple(word.strip() for word in words)
    raise refusal("is not a list of non-empty texts", "write a list, or text with commas between the items")


def read_path(value: object) -> str:
    """A path below a base URL."""
    if not isinstance(value, str):
        raise refusal("is not text", "write it as text, in quotes")
    path = value.strip().rstrip("/")
    if not path or not PATH.fullmatch(path):
        raise refusal("a path does not start with '/' or cannot be read", "write paths as in /chat/completions")
    return path


def read_paths(value: object) -> tuple[str, ...]:
    """Paths below a base URL."""
    return tuple(map(read_path, read_words(value)))


def _is_model_name(text: str) -> bool:
    return bool(text.strip()) and text.strip().isprintable()


class _Address(NamedTuple):
    """A route's address, read. `label` is the default name."""

    url: str
    host: str
    label: str
    region: str | None


def _read_address(value: object) -> _Address:
    if not isinstance(value, str):
        raise refusal("the address is not text", _ADDRESS)
    scheme, host, port, path = _split(value.strip())
    region = None
    label = re.sub(":+", "-", f"ipv6:{host}" if ":" in host else host) + (f"-{port}" if port else "")
    if is_handle_host(host):
        try:
            handle = parse_handle(host)
        except ValueError as error:
            raise refusal(str(error), _ADDRESS) from None
        host, region, path = handle.host, handle.region, path or "/v1"
        label = region.lower().replace("_", "-") if region else handle.deployment
    elif "://" not in value:
        raise refusal("the address is neither a handle nor a URL with a scheme", _ADDRESS)
    if path.endswith("/completions"):
        raise refusal("the URL is that of a request, not the base", "take off /chat/completions: https://host/v1")
    netloc = (f"[{host}]" if ":" in host else host) + (f":{port}" if port and port != _PORTS[scheme] else "")
    return _Address(f"{scheme}://{netloc}{path}", host, label, region)


def _split(given: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and path of a URL; without a scheme, of the handle it may be."""
    if "@" in given:
        raise refusal("there is a user name or a password in the URL", "take it out; keys belong in an api_key setting")
    try:
        url = urlsplit(given if "://" in given else f"https://{given}")
        host, port, path = url.hostname or "", url.port, url.path.rstrip("/")
    except ValueError:  # its message may quote anything
        raise refusal("the host or the port of the address cannot be read", _ADDRESS) from None
    if url.scheme not in _PORTS:
        raise refusal("the scheme of the URL is not http or https", _ADDRESS)
    if not host:
        raise refusal("the URL has no host", _ADDRESS)
    if not _HOST.fullmatch(host):
        raise refusal("the host is not a host name", "write it in ASCII (xn--...), its parts 1 to 63 characters long")
    if "?" in given or "#" in given:
        raise refusal("there is a query or a fragment in the base URL", "end it with the path, as in https://host/v1")
    if not PATH.fullmatch(path):
        raise refusal("the path of the base URL cannot be read", _ADDRESS)
    return url.scheme, host, port, path


def _read_name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value.lower() == GLOBAL:
        raise refusal(
            "the name is empty, too long, reserved or has a character that a name cannot have",
            "use letters, digits, '.', '_' and '-', starting with a letter or digit, at most 100; not 'global'",
        )
    return value


def _read_region(value: object) -> str:
    region = canonical_region(value) if isinstance(value, str) else ""
    if not _REGION.fullmatch(region):
        raise refusal("the region is not the name of a region", "use letters, digits and '_', as in US_ARIZONA_1")
    return region


def _read_kind(value: object) -> Kind:
    try:
        return Kind(str(value))
    except ValueError:
        raise refusal("there is no such kind of route", "use 'direct' or 'private'") from None


def _read_tier(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 9:
        raise refusal("the tier is not a whole number from 0 to 9", "write 0 for the routes to prefer, 1 for the next")
    return value


def _read_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise refusal("allow_http is neither true nor false", "use true or false, without quotes")
    return value


def _read_host(value: object) -> str:
    host = value.strip().lower().rstrip(".") if isinstance(value, str) else ""
    if not _HOST.fullmatch(host):
        raise refusal(
            "the server_name is not a host name",
            "write the name in the certificate, without https:// and without a port",
        )
    return host


def _read_file(value: object) -> str:
    if not isinstance(value, str | os.PathLike) or not str(value).strip() or "\n" in str(value) or "\0" in str(value):
        raise refusal(" is not the path of a file", "write the path of a PEM file, not what is in it")
    return os.path.abspath(os.path.expanduser(os.fspath(value)))  # noqa: PTH100, PTH111 - no links are followed


def _read_headers(value: object) -> tuple[tuple[str, str], ...]:
    pairs = tuple((name.lower(), text) for name, text in _read_pairs(value, "the headers"))
    if not all(_TOKEN.fullmatch(name) and _HEADER_VALUE.fullmatch(text) for name, text in pairs):
        raise refusal(
            "there is a header with a character that cannot be sent", 'write them as in { "x-tenant" = "a" }, in ASCII'
        )
    if len({name for name, _ in pairs}) < len(pairs):
        raise refusal("a header is there twice (capitals make no difference)", "take one out")
    if any(name in NEVER_FORWARDED for name, _ in pairs):
        raise refusal(
            "there is a credential, a cookie or Host among the headers",
            "a key goes into api_key (key_header names its header), a name into server_name",
        )
    if any(_is_not_fixed(name) for name, _ in pairs):
        raise refusal("a header belongs to the single request or its connection", "take it out: it is set as needed")
    return tuple(sorted(pairs))


def _read_key_header(value: object) -> str:
    name = value.strip().lower() if isinstance(value, str) else ""
    if not _TOKEN.fullmatch(name) or name in ("host", "cookie") or _is_not_fixed(name):
        raise refusal("the key_header is not a header that can carry a key", "write authorization, api-key or the like")
    return name


def _is_not_fixed(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in NOT_FIXED)


def _read_query(value: object) -> tuple[tuple[str, str], ...]:
    pairs = _read_pairs(value, "the query")
    try:
        "".join(name + text for name, text in pairs).encode()
    except UnicodeEncodeError:
        raise refusal("there is half a character in the query, which cannot be sent", "write it in Unicode") from None
    return tuple(sorted(pairs))


def _read_pairs(value: object, what: str) -> list[tuple[str, str]]:
    found = cast("Mapping[object, object]", value).items() if isinstance(value, Mapping) else (("", ""),)
    pairs = [(name, text) for name, text in found if isinstance(name, str) and isinstance(text, str)]
    if len(pairs) < len(found) or not all(name for name, _ in pairs):
        raise refusal(f"{what} are not names with texts", 'write a table or a mapping, as in { "name" = "value" }')
    return pairs


def _is_local(host: str) -> bool:
    """Whether a host is on this machine or a private network, as far as its name tells."""
    try:
        address = ip_address(host)
    except ValueError:
        # A name without a dot is never public (`vllm` in a compose file), unless it is a number in disguise.
        return ("." not in host and host[0].isalpha()) or host.endswith((".localhost", ".local", ".internal"))
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    return not address.is_global


class RouteStatus(NamedTuple):
    """What is known of a route now. Times are in seconds.

    Attributes:
        state: the breaker's state: `closed` (healthy), `half_open` (on trial) or `open` (not used).
        since: how long it has been in that state.
        round_trip: the estimated round trip; None while unmeasured.
        first_token: the expected time to first token of a streamed request of typical size; None
            while unmeasured.
        factor: how many times longer than usual it takes to answer a prompt.
        in_flight: requests on their way now. `limit`: how many it seems to take without becoming slower.
        requests: attempts made since the router was made.
        failures: how many of them failed through the route's fault.
        last_failure: what the last failure was, in words, and how many seconds ago.
        next_probe: seconds until the next probe; None while probing rests.
        cooldown: seconds for which the route has asked to be left alone; 0 if it has not.
        quarantine: why requests avoid it although it answers (a key refused); None if they do not.
        suspect: whether it owes an answer and says nothing, so that new requests avoid it.
        incumbent: whether it is the route that requests go to by default now.
        drained: whether `Router.drain` has taken it out.
    """

    name: str
    kind: Kind
    region: str | None
    url: str
    state: str
    since: float
    round_trip: float | None
    first_token: float | None
    factor: float
    in_flight: int
    limit: int
    requests: int
    failures: int
    last_failure: tuple[str, float] | None
    next_probe: float | None
    cooldown: float
    quarantine: str | None
    suspect: bool
    incumbent: bool
    drained: bool
