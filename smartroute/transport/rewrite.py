"""The request as a given endpoint must receive it: URL, key, model, headers.

What is read off the caller's request once (`Intake`), and what is sent to each endpoint
(`Rewriter.request`). The promise kept here: a key only ever reaches the host it belongs to.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import httpcore2

from smartroute.policy.messages import Attempt, Call
from smartroute.route import NEVER_FORWARDED, Route
from smartroute.transport.body import Value, peek, with_model
from smartroute.transport.http1 import Header, Outgoing, is_header

if TYPE_CHECKING:
    import httpx2

    from smartroute.config import Config
    from smartroute.transport.family import Family

__all__ = ["OWN_PREFIX", "Intake", "Rewriter"]

OWN_PREFIX = b"x-smartroute-"
PIN = b"x-smartroute-route"
REGIONS = b"x-smartroute-regions"

ALLOWED = (
    "content-*",
    "accept",
    "accept-*",
    "user-agent",
    "x-stainless-*",
    "x-session-affinity",
    "x-multi-turn-session-id",
    "x-prompt-cache-*",
    "idempotency-key",
    "traceparent",
    "tracestate",
)
"""The request headers that travel to a route. The caller's credentials and cookies are not among them."""
ALLOWED_QUERY = (b"api-version",)
"""The query parameters that travel to a route: a query may hold a key, as a header may."""
FRAMING = (b"content-length", b"transfer-encoding", b"connection")
"""Request headers that are made with the request's body."""
NO_REGION = ("-",)
"""A pattern that no region fits."""
MOST_REMEMBERED = 1_000
MOST_MISSED = 10
"""Origins that a warning is given for at the most."""
logger = logging.getLogger("smartroute")


class _Form(NamedTuple):
    """How an endpoint wants all of its requests.

    Attributes:
        authority: what `Host` says.
        server_name: the name that TLS asks for, if it is not the URL's host.
        key_header: the name of the header with the key, and what comes before the key.
        headers: those that are always sent.
        replaced: the names, in lower case, of the caller's headers that those are sent instead of.
        query: the query parameters that are always sent; `names`: what they are called.
    """

    authority: bytes
    server_name: str | None
    key_header: tuple[bytes, bytes]
    headers: tuple[Header, ...]
    replaced: frozenset[bytes]
    query: bytes
    names: frozenset[bytes]

    @classmethod
    def of(cls, route: Route) -> _Form:
        url = urlsplit(route.url)
        name = route.server_name
        authority = url.netloc if name is None else f"[{name}]" if ":" in name else name
        if name is not None and url.port is not None:
            authority += f":{url.port}"
        bearer = route.key_header == "authorization"
        return cls(
            authority.encode(),
            name,
            (b"Authorization", b"Bearer ") if bearer else (route.key_header.encode(), b""),
            tuple((name.encode(), value.encode()) for name, value in route.headers),
            frozenset(name.encode() for name, _ in route.headers) | (set() if bearer else {route.key_header.encode()}),
            urlencode(route.query[:], quote_via=quote).encode(),
            frozenset(quote(name).encode() for name, _ in route.query),
        )

    def key(self, key: str) -> Header:
        """The header with a key."""
        name, before = self.key_header
        return name, before + key.encode()

    def merged(self, query: bytes) -> bytes:
        """The caller's query, with the endpoint's own parameters in place of any of the same names."""
        if not self.query:
            return query
        kept = [pair for pair in query.split(b"&") if pair and pair.partition(b"=")[0] not in self.names]
        return b"&".join([*kept, self.query])


class Intake(NamedTuple):
    """A request that routes may serve: what the policy needs to know, and what is needed to rewrite it."""

    call: Call
    request: httpx2.Request
    query: bytes
    model: Value | None


class Rewriter:
    """Reads requests and rewrites them, by one configuration. Thread-safe; remembers what repeats."""

    def __init__(self, config: Config, family: Family) -> None:
        self._config = config
        self._family = family
        self._allowed = ALLOWED + config.forward_headers
        self._never = {*NEVER_FORWARDED, *(route.key_header for route in config.routes)}  # one's key is no other's
        self._paths = frozenset(path for route in config.routes for path in route.paths)
        self._bases: dict[tuple[bytes, bytes, int | None], list[tuple[bytes, str | None, frozenset[str]]]] = {}
        for route in config.routes:
            if route.url != config.global_url:  # a deployment behind the global endpoint: that is who was addressed
                self._add_base(route.url, route.name, frozenset(route.paths))
        if config.global_url is not None:
            self._add_base(config.global_url, None, self._paths)
        for bases in self._bases.values():  # a base may lie below another: the longest that fits is meant
            bases.sort(key=lambda base: len(base[0]), reverse=True)
        self._matches: dict[tuple[bytes, bytes, int | None, bytes], tuple[str, str | None] | None] = {}
        self._missed: set[bytes] = set()
        self._travels: dict[bytes, bool] = {}
        self._urls: dict[tuple[str, str, bytes], httpcore2.URL] = {}
        self._forms: dict[str, _Form] = {}
        self._wanted = ("model", "stream", "prompt_cache_key") if config.affinity else ("model", "stream")

    def intake(self, request: httpx2.Request) -> Intake | None:
        """What routing needs of a request; None: no route may serve it."""
        if request.method != "POST" or not isinstance(request.stream, self._family.ByteStream):
            return None
        url = request.url
        target, _, query = url.raw_path.partition(b"?")
        match = self._matched(url, target)
        if match is None:
            return None
        path, addressed = match
        body = request.read()  # in memory already: it is a ByteStream
        values = peek(body, self._wanted)
        if values is None:
            return None
        model = values.get("model")
        name = model.value if model and isinstance(model.value, str) else None
        stream = values.get("stream")
        pinned: str | None = None
        regions: tuple[str, ...] = ()
        conversation: str | None = None
        retry = 0
        if (cache_key := values.get("prompt_cache_key")) and isinstance(cache_key.value, str):
            conversation = cache_key.value
        for header, value in request.headers.raw:
            lower = header.lower()
            if lower == PIN:
                pinned = value.decode("latin-1").strip()
            elif lower == REGIONS:
                # A list that names nothing is more likely a template gone wrong than a wish for every region.
                regions = tuple(value.decode("latin-1").replace(",", " ").split()) or NO_REGION
            elif lower == b"x-stainless-retry-count":
                retry = int(value[:4]) if value.isdigit() else 0
            elif lower == b"x-session-affinity" and conversation is None and self._config.affinity:
                conversation = value.decode("latin-1")
        call = Call(
            path,
            name,
            streaming=stream is not None and stream.value is True,
            size=len(body),
            conversation=conversation,
            addressed=addressed,
            pinned=pinned,
            regions=regions,
            retry=retry,
            patience=request.extensions.get("timeout", {}).get("read"),
        )
        return Intake(call, request, query, model)

    def why_not(self, request: httpx2.Request) -> tuple[str, str] | None:
        """The path of a request that has no `Intake`, and why not; None: because it is none of our business."""
        if request.method != "POST":
            return None
        match = self._matched(request.url, request.url.raw_path.partition(b"?")[0])
        if match is None:
            return None
        sendable = isinstance(request.stream, self._family.ByteStream)
        return match[0], "its body is no JSON object" if sendable else "its body cannot be sent again"

    def request(self, intake: Intake, attempt: Attempt, extensions: Mapping[str, object]) -> Outgoing:
        """The request for one attempt."""
        route, call = attempt.endpoint, intake.call
        as_made = call.addressed is None if attempt.on_global else call.addressed == route.name
        form, sent = self._form(route), dict(extensions)
        headers: list[Header]
        if attempt.on_global and as_made:
            url = _core_url(intake.request.url)
            headers = without_own_headers(intake.request.headers.raw)
            body = intake.request.content
        else:
            query = intake.query if as_made else _allowed_query(intake.query)
            url = self._url(route, call.path, form.merged(query))
            sent.pop("sni_hostname", None)  # the caller's host's
            if form.server_name is not None:
                sent["sni_hostname"] = form.server_name
            body = intake.request.content
            name = route.model_for(call.model)
            if name is not None and intake.model is not None and name != call.model:
                body = with_model(body, intake.model, name)
            headers = self._headers(intake, form, len(body))
            if as_made:
                credentials = (b"authorization", form.key_header[0])
                headers += [h for h in intake.request.headers.raw if h[0].lower() in credentials]
            else:
                key = self._key(attempt)
                if key is not None:
                    headers.append(form.key(key))
        if added := self._allowed_of(attempt.headers, form):
            names = {name.lower() for name, _ in added}
            if b"traceparent" in names:
                names.add(b"tracestate")  # the caller's belongs to the caller's traceparent
            headers = [h for h in headers if h[0].lower() not in names] + added
        return Outgoing(b"POST", url, headers, body, sent)

    def passed(self, request: httpx2.Request) -> httpx2.Request:
        """The request exactly as the SDK made it: itself, unless it has headers that are for us."""
        headers = without_own_headers(request.headers.raw)
        if len(headers) == len(request.headers.raw):
            return request
        return type(request)(
            request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
        )

    def probe(self, route: Route, key: int, added: Sequence[Header], extensions: Mapping[str, object]) -> Outgoing:
        """The small authenticated GET that measures a route. `added`: headers to send along, if they may travel."""
        form, sent = self._form(route), dict(extensions)
        headers = [(b"Host", form.authority)]
        own = ((b"Accept", b"application/json"), (b"User-Agent", b"smartroute"))
        headers += [header for header in own if header[0].lower() not in form.replaced]
        headers += form.headers
        if route.keys:
            headers.append(form.key(route.keys[key]))
        headers += self._allowed_of(added, form)
        if form.server_name is not None:
            sent["sni_hostname"] = form.server_name
        url = self._url(route, self._config.probe_path, form.query)
        return Outgoing(b"GET", url, headers, extensions=sent)

    def _matched(self, url: httpx2.URL, target: bytes) -> tuple[str, str | None] | None:
        key = (url.raw_scheme, url.raw_host, url.port, target)
        try:
            return self._matches[key]
        except KeyError:
            return self._match(key)

    def _match(self, key: tuple[bytes, bytes, int | None, bytes]) -> tuple[str, str | None] | None:
        """The routed path that a URL names, and the route whose base it lies below (None: global's)."""
        scheme, host, port, target = key
        match = None
        below = [base for base in self._bases.get((scheme, host, port), ()) if target.startswith(base[0] + b"/")]
        for base, name, paths in below:
            if (path := target[len(base) :].decode("latin-1")) in paths:
                match = (path, name)
                break
        if not below and any(target.endswith(path.encode()) for path in self._paths):
            self._say_missed(scheme, host, port)
        if len(self._matches) < MOST_REMEMBERED:
            self._matches[key] = match
        return match

    def _say_missed(self, scheme: bytes, host: bytes, port: int | None) -> None:
        """Somebody set up routes, and this request would be for them but for its URL."""
        origin = b"%b://%b" % (scheme, host) + (b":%d" % port if port else b"")
        if origin not in self._missed and len(self._missed) < MOST_MISSED:
            self._missed.add(origin)
            logger.warning(
                "Requests to %s are not routed: their URL is neither below SMARTROUTE_GLOBAL_URL (%s) nor below a "
                "route's. Remedy: set SMARTROUTE_GLOBAL_URL to the client's base_url.",
                origin.decode("latin-1"),
                self._config.global_url or "off",
            )

    def _add_base(self, url: str, name: str | None, paths: frozenset[str]) -> None:
        parts = urlsplit(url)
        port = None if parts.port == {"http": 80, "https": 443}[parts.scheme] else parts.port
        origin = (parts.scheme.encode(), (parts.hostname or "").encode("idna"), port)
        self._bases.setdefault(origin, []).append((parts.path.rstrip("/").encode(), name, paths))

    def _headers(self, intake: Intake, form: _Form, length: int) -> list[Header]:
        headers = [(b"Host", form.authority)]
        for name, value in intake.request.headers.raw:
            lower = name.lower()
            if not self._is_allowed(lower) or lower == b"content-length" or lower in form.replaced:
                continue
            if lower == b"accept-encoding" and intake.call.streaming:
                value = b"identity"
            headers.append((name, value))
        headers += form.headers
        headers.append((b"Content-Length", b"%d" % length))
        return headers

    def _allowed_of(self, added: Sequence[Header], form: _Form) -> list[Header]:
        """Which headers of a listener's may leave: the trace's, and those that the configuration names (baggage)."""
        added = [header for header in added if is_header(header)]  # or a listener's mistake would be the request's
        named = ((header, header[0].lower()) for header in added)
        others = [pair for pair in named if pair[1] not in FRAMING and pair[1] not in form.replaced]
        return [header for header, lower in others if self._is_allowed(lower)]

    def _is_allowed(self, lower: bytes) -> bool:
        travels = self._travels.get(lower)
        if travels is None:
            travels = self._travels[lower] = self._may_travel(lower.decode("latin-1"))
        return travels

    def _may_travel(self, name: str) -> bool:
        if len(self._travels) >= MOST_REMEMBERED:
            self._travels.clear()
        return (
            name not in self._never
            and not name.startswith(OWN_PREFIX.decode())
            and any(fnmatchcase(name, pattern) for pattern in self._allowed)
        )

    def _key(self, attempt: Attempt) -> str | None:
        if attempt.on_global:
            return self._config.global_api_key
        keys = attempt.endpoint.keys
        return keys[attempt.key] if keys else None

    def _url(self, route: Route, path: str, query: bytes) -> httpcore2.URL:
        key = (route.name, path, query)
        url = self._urls.get(key)
        if url is None:
            parts = urlsplit(route.url)
            target = parts.path.encode() + path.encode() + (b"?" + query if query else b"")
            url = httpcore2.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=target)
            if len(self._urls) < MOST_REMEMBERED:
                self._urls[key] = url
        return url

    def _form(self, route: Route) -> _Form:
        found = self._forms.get(route.name)
        if found is None:
            found = self._forms[route.name] = _Form.of(route)
        return found


def _allowed_query(query: bytes) -> bytes:
    return b"&".join(pair for pair in query.split(b"&") if pair.partition(b"=")[0] in ALLOWED_QUERY)


def _core_url(url: httpx2.URL) -> httpcore2.URL:
    return httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


def without_own_headers(headers: list[Header]) -> list[Header]:
    """A request's headers as they leave the process: smartroute's own stay."""
    return [header for header in headers if not header[0].lower().startswith(OWN_PREFIX)]
