"""Measuring endpoints, with the library's own pieces: its pools, its requests, its keys, its TLS.

`Meter.look` takes the way to an endpoint apart, on a fresh connection: name, connection, TLS, an authenticated GET for
each key. `Asker.ask` sends a one-token completion through the library's own client. Both return values; what they mean
for a person is said in `remedies`.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpcore2

import smartroute
from smartroute.cli.output import endpoint_of
from smartroute.config import Config
from smartroute.events import AttemptEnded, Event
from smartroute.fireworks import GLOBAL_URL
from smartroute.policy.messages import Attempt
from smartroute.policy.outcome import Failure
from smartroute.policy.schedule import Claim, Finding
from smartroute.policy.selection import Candidate
from smartroute.route import Checks, Kind, Route
from smartroute.router import SILENT, Router
from smartroute.transport.connect import failure_of
from smartroute.transport.core import SyncCorePool
from smartroute.transport.driver import describe
from smartroute.transport.family import Family
from smartroute.transport.pools import PoolOptions, Pools, SyncPool, SyncResponse, sync_pool
from smartroute.transport.rewrite import Rewriter
from smartroute.transport.sync_wire import SyncWire
from smartroute.transport.watch import Watch

__all__ = [
    "Answer",
    "Asker",
    "Certificate",
    "Completion",
    "Look",
    "Meter",
    "family",
    "in_parallel",
    "live_path",
    "options_of_environment",
    "secrets_of",
    "served",
    "why",
]

T = TypeVar("T")
R = TypeVar("R")

LIMIT = 5.0
"""Seconds that each step may take."""
LIVE_LIMIT = 60.0
"""Seconds that a completion may take: a long queue is no failure."""
MOST_READ = 256 * 1024
"""Bytes of an answer that are read."""
MOST_MODELS = 100
"""Names of models that are remembered of an answer."""
SHORTEST_SECRET = 8
"""Characters below which the value of a header, or in a query, is none: a tenant's name, a version."""
WORKERS = 32
"""Endpoints that are measured at a time."""
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
"""What an error may be called, so that no sentence and no key fits in."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Whose word an endpoint's certificate rests on, and when it `ends`, as a Unix timestamp."""

    issuer: str
    ends: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a GET was answered.

    Attributes:
        key: which of the endpoint's keys it carried; None: none.
        status: the status code; None: no answer came.
        seconds: from the request's first byte to the answer's head: the round trip.
        is_json: whether the body is JSON.
        code: what the body of an error calls it.
        location: of a redirect, where to: scheme, host and port.
    """

    key: int | None
    status: int | None = None
    seconds: float | None = None
    is_json: bool = False
    code: str = ""
    location: str = ""

    @property
    def refuses_key(self) -> bool:
        """Whether it says that the key is wrong, or missing."""
        return self.status in (401, 403)


@dataclass(frozen=True, slots=True)
class Look:
    """The way to an endpoint, step by step. What was not reached is None; durations are in seconds.

    Attributes:
        started: when it began, in monotonic seconds.
        proxy: the proxy in the way (scheme, host, port), if there is one. The name and the connection are then the
            proxy's business, or its own.
        addresses: what the name means.
        answers: one for each key; fewer if one of them failed.
        models: the names that the endpoint gives its models, if it was asked for them.
        step: where it ended if something failed: `dns`, `connect`, `tls` or `request`.
        failure: what failed; `detail`: in words; `reason`: what OpenSSL calls it.
    """

    route: Route
    started: float
    proxy: str | None = None
    addresses: tuple[str, ...] = ()
    dns: float | None = None
    connect: float | None = None
    tls: float | None = None
    certificate: Certificate | None = None
    answers: tuple[Answer, ...] = ()
    models: tuple[str, ...] = ()
    step: str = ""
    failure: Failure | None = None
    detail: str = ""
    reason: str = ""

    @property
    def answer(self) -> Answer | None:
        """The answer that the library would go by: that of the first key which is accepted, or else the last one."""
        return next((each for each in self.answers if not each.refuses_key), self.answers[-1] if self.answers else None)

    @property
    def round_trip(self) -> float | None:
        """From a request's first byte to the answer's head."""
        return None if self.answer is None else self.answer.seconds

    @property
    def silent(self) -> bool:
        """Whether nothing was heard: one such look is no proof that an endpoint is down, two are."""
        return self.failure in SILENT

    @property
    def good(self) -> bool:
        """Whether it was answered as the router takes for health."""
        answer = self.answer
        return self.failure is None and answer is not None and not answer.refuses_key and (answer.status or 0) < 500

    @property
    def trouble(self) -> str:
        """What is not good, in a few words."""
        if self.failure is not None:
            return f"{self.step}: {self.detail}"
        return f"status {self.answer.status}" if self.answer is not None and not self.good else ""

    def tell(self, router: Router) -> None:
        """Let the router learn from it, as from a probe of its own.

        A route whose keys are refused is drained: where the router finds that out by a request, it avoids it as well.
        """
        route, answer = self.route, self.answer
        if route.kind is Kind.GLOBAL:
            return
        status = answer.status if answer else None
        sick = self.failure or (str(status) if status is not None and status >= 500 else None)
        router.probed(
            Claim(route, fresh=self.silent, limit=LIMIT),
            Finding(
                self.started,
                status,
                self.round_trip,
                failure=sick,
                detail=f"{self.failure}: {self.detail}" if self.failure else f"status {status}" if sick else "",
                unreachable=self.step in ("dns", "connect", "tls"),
            ),
        )
        if answer is not None and answer.refuses_key:
            router.drain(route.name)
        elif answer is not None:
            router.resume(route.name)


@dataclass(frozen=True, slots=True)
class Completion:
    """What came of a one-token completion.

    Attributes:
        model: the name under which the endpoint was asked for it.
        seconds: the whole call; `first_token`: from the request's first byte to the first content.
        status: the status code; None: no answer came.
        code: what the body of an error calls it.
        failure: what failed, if no good answer came; `detail`: in words.
    """

    route: Route
    model: str
    seconds: float
    first_token: float | None = None
    status: int | None = None
    code: str = ""
    failure: str | None = None
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether a token came."""
        return self.status == 200 and self.failure is None


def family() -> Family:
    """The HTTP family that `smartroute.Client` is of."""
    found: Family = import_module(smartroute.Client.__module__).FAMILY
    return found


def options_of_environment() -> PoolOptions:
    """How connections are made here: what the environment says of proxies and authorities.

    Raises:
        ConfigError: it says what cannot be used.
    """
    options, checks = PoolOptions(family(), {}), Checks()
    try:
        options.proxy_for_text(GLOBAL_URL)
    except Exception:  # noqa: BLE001 - its text may quote a password
        remedy = "write it as in http://proxy.example:3128"
        checks.add("HTTPS_PROXY, HTTP_PROXY or ALL_PROXY", "is not the URL of a proxy", remedy)
    try:
        _ = options.ssl_context
    except OSError:
        remedy = "name readable PEM files of certificates, or unset them"
        checks.add("SSL_CERT_FILE or SSL_CERT_DIR", "the certificates cannot be read", remedy)
    checks.finish()
    return options


def why(candidate: Candidate) -> str:
    """Why a route stands where it stands, for one of the router's rankings that looks have made."""
    return "key_refused" if candidate.reason == "drained" else candidate.reason


def secrets_of(route: Route) -> list[str]:
    """What nobody must see of a route: its keys, and the values of its headers and of its query parameters."""
    pairs = (*getattr(route, "headers", ()), *getattr(route, "query", ()))
    return [*route.keys, *(value for _, value in pairs if len(value) >= SHORTEST_SECRET)]


def served(route: Route, config: Config) -> tuple[str, ...]:
    """The paths below its base URL that a route serves."""
    return getattr(route, "paths", ()) or config.paths


def live_path(route: Route, config: Config) -> str | None:
    """A path that the route serves and that a completion may be asked for at; None: there is none."""
    return next((path for path in ("/chat/completions", "/completions") if path in served(route, config)), None)


class Meter:
    """Looks at endpoints, each time over a fresh connection. Thread-safe.

    Args:
        limit: seconds that each step may take.
        clock: monotonic seconds.
    """

    def __init__(self, config: Config, *, limit: float = LIMIT, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._limit = limit
        self._clock = clock
        own = family()
        self._options = options_of_environment()
        self._rewriter = Rewriter(config, own)
        self._pools = Pools[SyncPool](self._options, SyncCorePool, sync_pool(config.backend, {}), SyncWire(clock))

    def look(self, route: Route) -> Look:
        """Go the way to an endpoint, and send it a GET for each of its keys."""
        started = self._clock()
        marks = _Marks(self._clock)
        answers: list[Answer] = []
        models: list[str] = []
        step, failure, detail, reason = "", None, "", ""
        proxy = self._options.proxy_for_text(route.url)
        wire = _Wire(self._clock, marks, self._limit)
        pool, proxied = self._pools.fresh(route, wire)
        with contextlib.closing(wire), contextlib.closing(pool):
            for key in range(len(route.keys)) or (None,):
                watch = Watch(Attempt(1, route, key or 0, "check", self._clock(), None), self._clock)
                try:
                    answer, listed = self._get(pool, route, watch, marks, key=key, proxied=proxied)
                except Exception as error:  # noqa: BLE001 - whatever the wire raises is what was found out
                    failure = failure_of(error, watch)
                    detail = describe(failure, error).removeprefix(f"{failure}: ").removesuffix(".")
                    step, reason = marks.step, _reason(error)
                    break
                answers.append(answer)
                models += listed
        return Look(
            route,
            started,
            None if proxy is None else endpoint_of(str(proxy.url)),
            tuple(marks.addresses),
            marks.dns,
            marks.connect,
            marks.tls,
            marks.certificate,
            tuple(answers),
            tuple(models),
            step,
            failure,
            detail,
            reason,
        )

    def _get(
        self, pool: SyncPool, route: Route, watch: Watch, marks: _Marks, *, key: int | None, proxied: bool
    ) -> tuple[Answer, list[str]]:
        """Send a GET. Returns its answer, and the models that it names."""
        extensions: dict[str, object] = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._limit)}
        if proxied:  # httpcore's own pool: it has no wire of ours, and tells what it does
            extensions["trace"] = marks.trace
        marks.begin(self._clock())
        response = pool.handle_request(self._rewriter.probe(route, key or 0, (), extensions))
        watch.attempt.first_byte = arrived = self._clock()
        with contextlib.closing(response):
            if proxied:
                marks.certificate = _certificate(response.extensions["network_stream"].get_extra_info("ssl_object"))
            body = _read(response, self._clock, marks.sent_at + self._limit)
        secrets, (parsed, is_json) = secrets_of(route), _parsed(body)
        headers = {name.lower(): value for name, value in response.headers}
        location = _place(headers.get(b"location", b"").decode("latin-1"), route.url)
        seconds = arrived - marks.sent_at
        if any(secret.lower() in location.lower() for secret in secrets):
            location = "an address that cannot be shown"
        answer = Answer(key, response.status, seconds, is_json, _code(parsed, secrets), location)
        return answer, [name for name in _models(parsed) if not any(secret in name for secret in secrets)]


class Asker:
    """Asks endpoints for one token, through the library's own client: nothing else goes elsewhere or is sent twice.

    Args:
        router: learns from what comes.
        limit: seconds that an answer may take.
    """

    def __init__(self, config: Config, router: Router, *, limit: float = LIVE_LIMIT) -> None:
        self._config = config
        self._limit = limit
        self._ended: dict[str, list[AttemptEnded]] = defaultdict(list)
        self._stop = router.subscribe(self._note)
        self._client = smartroute.Client(router=router, follow_redirects=False)

    def close(self) -> None:
        """Close its connections."""
        self._stop()
        self._client.close()

    def ask(self, route: Route, model: str, path: str) -> Completion:
        """Ask one endpoint.

        Args:
            model: the model to ask for, which the endpoint may know under another name.
            path: `/chat/completions` or `/completions`.
        """
        on_global = route.kind is Kind.GLOBAL
        base = self._config.global_url or route.url
        key = self._config.global_api_key if self._config.global_url else next(iter(route.keys), None)
        said: dict[str, object] = {"prompt": "Hi"}
        if path == "/chat/completions":
            said = {"messages": [{"role": "user", "content": "Hi"}]}
        headers = {"x-smartroute-route": route.name}
        if key:  # a request to a route's own URL carries the route's key, as the route wants it
            name = "authorization" if self._config.global_url else getattr(route, "key_header", "authorization")
            headers[name] = f"Bearer {key}" if name == "authorization" else key
        sent = model if on_global else route.model_for(model) or model
        self._ended.pop(route.name, None)
        started = time.monotonic()
        status, body, detail = None, b"", f"it is not over after {self._limit:g} s"
        with contextlib.suppress(Empty):
            status, body, detail = self._answer(
                base + path, {"model": model, **said, "max_tokens": 1, "stream": True}, headers
            ).get(timeout=self._limit)
        seconds = time.monotonic() - started
        last = self._ended[route.name][-1] if self._ended[route.name] else None
        failure = last.failure if last else None
        if status == 200 and failure is None and b"data:" not in body:
            failure, detail = Failure.CONTENT_TYPE, "the answer is no event stream"
        first = None if last is None or last.first_content is None else last.first_content - (last.departed or 0.0)
        return Completion(
            route,
            sent,
            seconds,
            first if status == 200 else None,
            status,
            "" if status == 200 else _code(_parsed(body)[0], [*secrets_of(route), *filter(None, (key,))]),
            failure or (None if status else "error"),
            (last.detail if last else "") or detail,
        )

    def _answer(
        self, url: str, content: dict[str, object], headers: dict[str, str]
    ) -> SimpleQueue[tuple[int | None, bytes, str]]:
        """Where status, body and error of the answer will come. No timeout ends what drips: `close` does."""
        answers: SimpleQueue[tuple[int | None, bytes, str]] = SimpleQueue()

        def send() -> None:
            status, body, detail = None, b"", ""
            try:
                with self._client.stream("POST", url, json=content, headers=headers, timeout=self._limit) as response:
                    status = response.status_code
                    for chunk in response.iter_raw():
                        body += chunk
                        if len(body) > MOST_READ:
                            break
            except Exception as error:  # noqa: BLE001 - whatever it is, it is what was found out
                detail = type(error).__name__
            answers.put((status, body, detail))

        threading.Thread(target=send, name="smartroute-ask", daemon=True).start()
        return answers

    def _note(self, event: Event) -> None:
        if isinstance(event, AttemptEnded):
            self._ended[event.endpoint.name].append(event)


def in_parallel(work: Callable[[T], R], items: Sequence[T], done: Callable[[], None] = lambda: None) -> list[R]:
    """What `work` makes of each item, several at a time, in the order of the items. `done` is called after each.

    The threads are daemons: Ctrl-C does not wait for a name server.
    """
    waiting: SimpleQueue[tuple[int, T]] = SimpleQueue()
    results: SimpleQueue[tuple[int, R | BaseException]] = SimpleQueue()
    for numbered in enumerate(items):
        waiting.put(numbered)

    def run() -> None:
        while True:
            try:
                number, item = waiting.get_nowait()
            except Empty:
                return
            try:
                results.put((number, work(item)))
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                results.put((number, error))

    for _ in range(min(len(items), WORKERS)):
        threading.Thread(target=run, name="smartroute-measure", daemon=True).start()
    found: dict[int, R] = {}
    while len(found) < len(items):
        number, result = results.get()
        if isinstance(result, BaseException):
            raise result
        found[number] = result
        done()
    return [found[number] for number in range(len(items))]


# --- The steps of a connection -----------------------------------------------------------------------


@dataclass(slots=True)
class _Marks:
    """What is noted on the way. `step`: where it is now."""

    clock: Callable[[], float]
    step: str = "connect"
    addresses: list[str] = field(default_factory=list[str])
    dns: float | None = None
    connect: float | None = None
    tls: float | None = None
    certificate: Certificate | None = None
    sent_at: float = 0.0
    sent: bool = False
    began: float = 0.0

    def begin(self, now: float) -> None:
        """A request begins."""
        self.sent, self.sent_at = False, now

    def depart(self) -> None:
        """Its first byte goes out now."""
        self.step = "request"
        if not self.sent:
            self.sent, self.sent_at = True, self.clock()

    def trace(self, name: str, _: object) -> None:
        """What httpcore does."""
        event = name.partition(".")[2]
        if event.endswith(".started"):
            self.began = self.clock()
        took = self.clock() - self.began
        match event:
            case "connect_tcp.started":
                self.step = "connect"
            case "connect_tcp.complete":
                self.connect = took
            case "start_tls.started":
                self.step = "tls"
            case "start_tls.complete":
                self.tls = took
            case "send_request_headers.started" if name.startswith("http11"):
                self.sent = False  # the last one is ours, those before it are the proxy's
                self.depart()
            case _:
                pass


class _Wire(SyncWire):
    """The library's wire, with its steps noted."""

    def __init__(self, clock: Callable[[], float], marks: _Marks, limit: float) -> None:
        super().__init__(clock)
        self._marks = marks
        self._limit = limit

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - it is `limit` here, for each step
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        marks, started = self._marks, self._marks.clock()
        marks.step = "dns"
        marks.addresses = _resolve(host, port, self._limit)
        marks.dns = marks.clock() - started
        marks.step, started = "connect", marks.clock()
        options = tuple(socket_options or ())
        for last, address in enumerate(marks.addresses, 1 - len(marks.addresses)):
            left = started + self._limit - marks.clock()
            try:
                stream = super().connect_tcp(address, port, max(left / (1 - last), 0.1), local_address, options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if not last:
                    raise
            else:
                marks.connect = marks.clock() - started
                return _Stopwatch(stream, marks, self._limit)
        raise httpcore2.ConnectError("the name has no address")


class _Stopwatch(httpcore2.NetworkStream):
    """A connection of the library's, with its steps noted."""

    def __init__(self, stream: httpcore2.NetworkStream, marks: _Marks, limit: float) -> None:
        self._stream = stream
        self._marks = marks
        self._limit = limit

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        marks, started = self._marks, self._marks.clock()
        marks.step = "tls"
        self._stream = self._stream.start_tls(ssl_context, server_hostname, timeout)
        marks.tls = marks.clock() - started
        marks.certificate = _certificate(self._stream.get_extra_info("ssl_object"))
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - see `_Wire`
        left = self._marks.sent_at + self._limit - self._marks.clock()  # the whole answer has so long, also if it drips
        if left <= 0:
            raise httpcore2.ReadTimeout("the answer is not over")
        return self._stream.read(max_bytes, left)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._marks.depart()
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _resolve(host: str, port: int, limit: float) -> list[str]:
    """The addresses of a host. Nothing ends a wait for the resolver: a thread waits for it, and is left behind."""
    answers: SimpleQueue[list[str] | OSError] = SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(address[0]) for *_, address in found)))
        except OSError as error:
            answers.put(error)
        except UnicodeError as error:  # no name that could be asked for
            answers.put(socket.gaierror(socket.EAI_NONAME, str(error)))

    threading.Thread(target=ask, name="smartroute-resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=limit)
    except Empty:
        answer = socket.gaierror(socket.EAI_AGAIN, f"no answer in {limit:g} s")
    if isinstance(answer, OSError):
        raise httpcore2.ConnectError(str(answer)) from answer
    return answer


def _certificate(secured: ssl.SSLSocket | ssl.SSLObject | None) -> Certificate | None:
    found: Any = secured.getpeercert() if secured is not None else None
    if not found:
        return None
    issuer = {name: value for part in found.get("issuer", ()) for name, value in part}
    names = [issuer[name] for name in ("organizationName", "commonName") if issuer.get(name)]
    return Certificate(" ".join(names) or "unnamed", ssl.cert_time_to_seconds(str(found["notAfter"])))


def _reason(error: BaseException) -> str:
    """What OpenSSL calls what went wrong, if it was that."""
    cause = error if isinstance(error, ssl.SSLError) else error.__cause__ or error.__context__
    match cause:
        case ssl.SSLCertVerificationError():
            return str(cause.verify_code)
        case ssl.SSLError():
            return cause.reason or ""
        case _:
            return ""


# --- What is read of an answer -------------------------------------------------------------------------


def _read(response: SyncResponse, clock: Callable[[], float], until: float) -> bytes:
    """The body, as far as it is needed and came in time; what breaks off is no JSON."""
    body = b""
    with contextlib.suppress(Exception):
        for chunk in response.iter_stream():
            body += chunk
            if len(body) > MOST_READ or clock() > until:
                break
    return body


def _parsed(body: bytes) -> tuple[Any, bool]:
    """A body as JSON, and whether it is. A long one that begins like JSON is taken for it."""
    try:
        return json.loads(body), True
    except (ValueError, RecursionError):
        return None, len(body) > MOST_READ and body.lstrip()[:1] in (b"{", b"[")


def _models(parsed: Any) -> list[str]:
    data = parsed.get("data") if isinstance(parsed, dict) else None
    names = [each.get("id") for each in data if isinstance(each, dict)] if isinstance(data, list) else []
    return [name for name in names if isinstance(name, str) and name.isprintable()][:MOST_MODELS]


def _code(parsed: Any, secrets: Iterable[str]) -> str:
    """What an error is called, if that is a name: its message may quote anything, a key too."""
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else None
    for key in ("code", "type"):
        value = error.get(key) if isinstance(error, dict) else None
        if isinstance(value, str) and _CODE.fullmatch(value) and not any(secret in value for secret in secrets):
            return value
    return ""


def _place(location: str, base: str) -> str:
    """Where a redirect leads, without what may be secret of it."""
    if not location:
        return ""
    with contextlib.suppress(ValueError):
        there, here = urlsplit(location), urlsplit(base)
        host = there.hostname or here.hostname or ""
        return f"{there.scheme or here.scheme}://{host}" + (f":{there.port}" if there.port else "")
    return "an address that cannot be read"
