"""Measuring endpoints, with the library's own pieces: its pools, its requests, its keys, its TLS.

`Meter.look` goes the way to an endpoint, on a fresh connection: name, connection, TLS, an authenticated GET for each
key. It returns a value; what that means for a person is said in `remedies`.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from urllib.parse import urlsplit

import smartroute
from smartroute.cli.output import endpoint_of
from smartroute.cli.steps import Certificate, Marks, Wire, certificate_of, reason_of
from smartroute.config import Config
from smartroute.policy.messages import Attempt
from smartroute.policy.outcome import Failure
from smartroute.policy.schedule import Claim, Finding
from smartroute.policy.selection import Candidate
from smartroute.route import Kind, Route
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
    "ANOTHER_NAME",
    "MOST_READ",
    "Answer",
    "Look",
    "Meter",
    "code_of",
    "family",
    "in_parallel",
    "read_json",
    "served",
    "why",
]

T = TypeVar("T")
R = TypeVar("R")

LIMIT = 5.0
"""Seconds that each step may take."""
MOST_READ = 256 * 1024
"""Bytes of an answer that are read."""
MOST_MODELS = 100
"""Names of models that are remembered of an answer."""
WORKERS = 32
"""Endpoints that are measured at a time."""
ANOTHER_NAME = ("62", "64")
"""OpenSSL's codes of a certificate for another name, or another address (X509_V_ERR_*)."""
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
"""What an error may be called, so that no sentence and no key fits in."""


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
        names: those that the certificate is for, if it is for others than the one asked for.
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
    names: tuple[str, ...] = ()

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


def family() -> Family:
    """The HTTP family that `smartroute.Client` is of."""
    found: Family = import_module(smartroute.Client.__module__).FAMILY
    return found


def why(candidate: Candidate) -> str:
    """Why a route stands where it stands, for one of the router's rankings that looks have made."""
    return "key_refused" if candidate.reason == "drained" else candidate.reason


def served(route: Route, config: Config) -> tuple[str, ...]:
    """The paths below its base URL that a route serves."""
    return route.paths or config.paths


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
        self._options = PoolOptions(own, {})
        self._rewriter = Rewriter(config, own)
        self._pools = Pools[SyncPool](self._options, SyncCorePool, sync_pool(config.backend, {}), SyncWire(clock))

    def look(self, route: Route) -> Look:
        """Go the way to an endpoint, and send it a GET for each of its keys."""
        started = self._clock()
        marks = Marks(self._clock)
        answers: list[Answer] = []
        models: list[str] = []
        step, failure, detail, reason = "", None, "", ""
        proxy = self._options.proxy_for_text(route.url)
        wire = Wire(self._clock, marks, self._limit)
        pool, proxied = self._pools.fresh(route, wire)
        with contextlib.closing(wire), contextlib.closing(pool):
            for key in range(len(route.keys)) or (None,):
                watch = Watch(Attempt(1, route, key or 0, "check", self._clock(), None), self._clock)
                try:
                    answer, listed = self._get(pool, route, watch, marks, key=key, proxied=proxied)
                except Exception as error:  # noqa: BLE001 - whatever the wire raises is what was found out
                    failure = failure_of(error, watch)
                    detail = describe(failure, error).removeprefix(f"{failure}: ").removesuffix(".")
                    step, reason = marks.step, reason_of(error)
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
            self._names(route) if reason in ANOTHER_NAME and proxy is None else (),
        )

    def _names(self, route: Route) -> tuple[str, ...]:
        """The names in the certificate of a route, if it can be had: verified but for its name, and nothing is sent."""
        options = PoolOptions(family(), {})  # not `self._options`: others are verified with its context
        context = options.context_for(route) or options.ssl_context
        context.check_hostname = False
        url = urlsplit(route.url)
        host = url.hostname or ""
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host, url.port or 443), self._limit) as sock,
            context.wrap_socket(sock, server_hostname=route.server_name or host) as secured,
        ):
            found: Any = secured.getpeercert() or {}
            return tuple(str(name) for _, name in found.get("subjectAltName", ()) if str(name).isprintable())
        return ()

    def _get(
        self, pool: SyncPool, route: Route, watch: Watch, marks: Marks, *, key: int | None, proxied: bool
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
                marks.certificate = certificate_of(response.extensions["network_stream"].get_extra_info("ssl_object"))
            body = _read(response, self._clock, marks.sent_at + self._limit)
        secrets, (parsed, is_json) = route.secrets, read_json(body)
        headers = {name.lower(): value for name, value in response.headers}
        location = _place(headers.get(b"location", b"").decode("latin-1"), route.url)
        seconds = arrived - marks.sent_at
        if any(secret.lower() in location.lower() for secret in secrets):
            location = "an address that cannot be shown"
        answer = Answer(key, response.status, seconds, is_json, code_of(parsed, secrets), location)
        return answer, [name for name in _models(parsed) if not any(secret in name for secret in secrets)]


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


def read_json(body: bytes) -> tuple[Any, bool]:
    """A body as JSON, and whether it is. A long one that begins like JSON is taken for it."""
    try:
        return json.loads(body), True
    except (ValueError, RecursionError):
        return None, len(body) > MOST_READ and body.lstrip()[:1] in (b"{", b"[")


def _models(parsed: Any) -> list[str]:
    data = parsed.get("data") if isinstance(parsed, dict) else None
    names = [each.get("id") for each in data if isinstance(each, dict)] if isinstance(data, list) else []
    return [name for name in names if isinstance(name, str) and name.isprintable()][:MOST_MODELS]


def code_of(parsed: Any, secrets: Iterable[str]) -> str:
    """What the body of an error calls it, if that is a name: its message may quote anything, a key too."""
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
