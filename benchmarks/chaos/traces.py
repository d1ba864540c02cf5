"""What the traces of a cell tell of its calls, and whether that is all that an engineer has to know.

Which endpoints were tried, why each one failed, what was known of it at the time and what it cost: all of that has to
stand in the spans of the call.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

from benchmarks.chaos.clients import Call
from smartroute import Router
from smartroute.events import BreakerChanged, Event
from smartroute.telemetry import Telemetry
from smartroute.telemetry.metrics import SECOND_ATTEMPTS
from smartroute.testing import Seen

__all__ = ["Received", "Traces", "Tree", "flaws"]

MOST_TOLD = 3
"""Flaws of one cell that are told: one cause often has many."""
TRANSITION = ("endpoint.name", "breaker.before", "breaker.after", "breaker.cause")

Received = tuple[str, Seen]
"""The name of a server, and a request as it saw it."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The spans of one call.

    Attributes:
        routes: those of its exchanges: one, if all is right.
        posts: its attempts, in the order of their beginning; `gets`: the verifications below it.
        linked: verifications in other calls' traces that this one waited for as well.
    """

    routes: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    posts: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    gets: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    linked: list[ReadableSpan] = field(default_factory=list[ReadableSpan])


class Traces(SpanProcessor):
    """Keeps the spans of all calls of a cell."""

    def __init__(self) -> None:
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(self)
        self._tracer = self._provider.get_tracer("the caller's")
        self._begun: set[int] = set()
        self._spans: list[ReadableSpan] = []
        self._calls: dict[int, Call] = {}
        self._moved: list[tuple[str, ...]] = []

    @property
    def open(self) -> int:
        """How many spans have begun and not ended."""
        return len(self._begun)

    def on_start(self, span: ReadableSpan, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Note a beginning."""
        self._begun.add(_id(span))

    def on_end(self, span: ReadableSpan) -> None:
        """Note an end."""
        self._begun.remove(_id(span))
        self._spans.append(span)

    def watch(self, router: Router) -> None:
        """Keep the spans of this router's exchanges from now on."""
        router.subscribe(Telemetry(tracer_provider=self._provider))
        router.subscribe(self._note)

    @contextmanager
    def call(self) -> Iterator[list[Call]]:
        """The caller's own span around a routed call. Append what came of it to the list."""
        made: list[Call] = []
        with self._tracer.start_as_current_span("call") as span:
            yield made
        self._calls[span.get_span_context().trace_id] = made[0]

    def trees(self) -> Iterator[tuple[Call, Tree]]:
        """Each call and its spans."""
        trees: defaultdict[int, Tree] = defaultdict(Tree)
        for span in sorted(self._spans, key=lambda span: span.start_time or 0):
            if span.parent is not None:
                tree = trees[span.parent.trace_id]
                {"smartroute.route": tree.routes, "POST": tree.posts, "GET": tree.gets}[span.name].append(span)
            for link in span.links:
                trees[link.context.trace_id].linked.append(span)
        for trace, call in self._calls.items():
            yield call, trees[trace]

    def flaws(self, received: Sequence[Received]) -> list[str]:
        """What is wrong or missing in the traces; the first of it.

        Args:
            received: all that the servers saw.
        """
        of_calls: defaultdict[str | None, list[Received]] = defaultdict(list)
        for name, request in received:
            of_calls[request.header("idempotency-key")].append((name, request))
        found = [
            f"trace of {call.name}: {flaw}"
            for call, tree in self.trees()
            for flaw in flaws(call, tree, of_calls[call.name])
        ]
        found += _of_servers([span for span in self._spans if span.name == "GET"], received, "GET")
        told = [
            tuple(_said(event, name) for name in TRANSITION)
            for span in self._spans
            for event in span.events
            if event.name == "smartroute.breaker.transition"
        ]
        found += [f"no span tells of {move}" for move in Counter(self._moved) - Counter(told)]
        found += [f"{self.open} spans have no end"] if self.open else []
        return found[:MOST_TOLD]

    def _note(self, event: Event, /) -> None:
        if isinstance(event, BreakerChanged) and (event.exchange or event.verification):
            self._moved.append((event.route.name, event.before, event.after, event.cause))


def flaws(call: Call, tree: Tree, received: Sequence[Received]) -> Iterator[str]:
    """What is wrong or missing in the trace of a call.

    Args:
        received: what the servers saw of it.
    """
    if len(tree.routes) != 1:
        yield f"{len(tree.routes)} spans smartroute.route"
        return
    yield from _of_route(call, tree.routes[0], tree.posts)
    for post in tree.posts:
        earlier = [other for other in tree.posts if (other.start_time or 0) < (post.start_time or 0)]
        yield from _of_attempt(post, tree, earlier)
    for get in tree.gets:
        yield from _of_verification(get, tree)
    yield from _of_servers(tree.posts, received, "POST")


def _of_route(call: Call, route: ReadableSpan, posts: Sequence[ReadableSpan]) -> Iterator[str]:
    outcome, endpoint, error_type = _said(route, "outcome"), _said(route, "endpoint.name"), _error(route)
    got, attempts, name, status = _what_came(call)
    if outcome != got:
        yield f"{outcome}, but the caller saw it {got}"
    made = [post for post in posts if _said(post, "stream.outcome") != "diverted"]
    if not len(made) == _said(route, "attempts") == (len(made) if attempts is None else attempts):
        yield f"{_said(route, 'attempts')} attempts, {len(made)} spans, the caller was told of {attempts}"
    if name != endpoint:
        yield f"answered by {endpoint}, but the caller was told {name}"
    delivered = _delivered(route, posts)
    if (delivered and _said(delivered, "endpoint.name")) != name:
        yield f"attempt {_said(route, 'delivered.attempt')} delivered, but the caller was told {name}"
    is_wrong = got in ("failed", "interrupted")
    if (route.status.status_code is StatusCode.ERROR) != is_wrong or (error_type is None) == is_wrong:
        yield f"{got} with status {route.status.status_code} and error type {error_type}"
    if status is not None and error_type != status:
        yield f"the caller got {status}, the span's error type is {error_type}"
    if _said(route, "fallback") != (endpoint == "global"):
        yield f"fallback: {_said(route, 'fallback')}, answered by {endpoint}"
    decisions = [event for event in route.events if event.name == "smartroute.decision"]
    if len(decisions) != 1:
        yield "not one decision"
        return
    (decision,) = decisions
    known = [line.partition(": ")[0] for line in _said(decision, "explanation") or ()]
    if len(known) != len(set(known)) or not {_said(post, "endpoint.name") for post in posts} <= set(known):
        yield f"the decision explains {known}, not each that was tried"
    if posts and any(_said(decision, each) != _said(posts[0], each) for each in ("endpoint.name", "reason")):
        yield "the first attempt is not what was decided"


def _of_attempt(post: ReadableSpan, tree: Tree, earlier: Sequence[ReadableSpan]) -> Iterator[str]:
    route, name, number = tree.routes[0], _said(post, "endpoint.name"), _said(post, "attempt")
    if post.parent is None or post.parent.span_id != _id(route) or post.kind is not SpanKind.CLIENT:
        yield f"attempt {number} is no client span below the exchange"
    if not _lies_within(post, route):
        yield f"attempt {number} lies outside of its exchange"
    if number != len(earlier) + 1:
        yield f"attempt {number} begins as number {len(earlier) + 1}"
    if not str(_said(post, "explanation")).startswith(f"{name}: "):
        yield f"attempt {number} on {name} is explained by {_said(post, 'explanation')}"
    attributes = post.attributes or {}
    url = urlsplit(str(attributes.get("url.full")))
    server = url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)
    if server != (attributes.get("server.address"), attributes.get("server.port")) or url.query or url.username:
        yield f"attempt {number} went to {server}, its URL is {url.geturl()}"
    yield from _of_end(post, f"attempt {number} ({name})", delivered=_delivered(route, [post]) is not None)
    yield from _of_times(post, f"attempt {number} ({name})")
    reason = _said(post, "reason")
    is_second = reason in SECOND_ATTEMPTS or reason == "connection_race"
    if is_second != bool(earlier) or not (reason == "hedge" or _has_cause(post, tree, earlier)):
        yield f"attempt {number} ({name}) has the reason {reason}, and nothing before it says why"


def _of_end(span: ReadableSpan, what: str, *, delivered: bool = False) -> Iterator[str]:
    """Whether a failure says what it was, and nothing else does."""
    failure, how, words = _said(span, "failure.class"), _said(span, "stream.outcome"), span.status.description
    is_error = span.status.status_code is StatusCode.ERROR
    if is_error != (_error(span) is not None) or is_error != (failure not in (None, "cancelled")):
        yield f"{what}: status {span.status.status_code}, class {failure}, error type {_error(span)}"
    if is_error and (not words or words == failure):
        yield f"{what}: {failure} is told in the words {words!r}"
    if span.name == "POST" and not failure and not delivered and how not in ("diverted", "superseded"):
        yield f"{what}: neither delivered nor failed: {how}"
    if (how == "interrupted") and not is_error:
        yield f"{what}: interrupted, but no error"


def _of_times(span: ReadableSpan, what: str) -> Iterator[str]:
    names = ("time_to_send", "time_to_first_byte", "time_to_first_token")
    times = [seconds for name in names if (seconds := _said(span, name)) is not None]
    if times != sorted(times) or min(times, default=0.0) < 0.0:
        yield f"{what}: times that cannot be: {times}"
    if _said(span, "time_to_first_byte") is None and "http.response.status_code" in (span.attributes or {}):
        yield f"{what}: a status, but no first byte"


def _of_verification(get: ReadableSpan, tree: Tree) -> Iterator[str]:
    what = f"verification of {_said(get, 'endpoint.name')}"
    if get.parent is None or get.parent.span_id != _id(tree.routes[0]) or get.kind is not SpanKind.CLIENT:
        yield f"{what} is no client span below the exchange"
    if not any(_said(post, "endpoint.name") == _said(get, "endpoint.name") for post in tree.posts):
        yield f"{what}, which was not asked"
    if _said(get, "reason") != "verification":
        yield f"{what}, because of {_said(get, 'reason')}"
    if not _said(get, "failure.class") and "http.response.status_code" not in (get.attributes or {}):
        yield f"{what}: neither answered nor failed"
    for event in get.events:
        if _said(event, "endpoint.name") != _said(get, "endpoint.name"):
            yield f"{what} tells of {_said(event, 'endpoint.name')}"
    yield from _of_end(get, what)


def _of_servers(spans: Sequence[ReadableSpan], seen: Sequence[Received], method: str) -> Iterator[str]:
    """Whether each server saw the traceparents of the attempts that reached it, once each."""
    sent = {_id(span): span for span in spans}
    saw: Counter[int] = Counter()
    for name, request in seen:
        parent = request.header("traceparent")
        if request.method != method or (method == "GET" and parent is None):  # background probes have no trace
            continue
        number = int((parent or "-0-0-").split("-")[2], 16)
        saw[number] += 1
        if number not in sent or _said(sent[number], "endpoint.name") != name:
            yield f"{name} saw a {method} of another trace ({parent})"
    for number, span in sent.items():
        answered = "http.response.status_code" in (span.attributes or {})
        if saw[number] > 1 or (answered and not saw[number]):
            yield f"{_said(span, 'endpoint.name')} saw a {method} with its traceparent {saw[number]} times"


def _what_came(call: Call) -> tuple[str, int | None, str | None, str | None]:
    """What a caller got: how it went, attempts and route as its headers say, the status code of an error."""
    error = call.error
    if isinstance(error, openai.APIStatusError):
        headers = error.response.headers
        return "failed", int(headers["x-smartroute-attempts"]), headers["x-smartroute-route"], f"{error.status_code}"
    outcome = "answered" if error is None else "failed" if call.first is None else "interrupted"
    return (outcome, call.attempts, call.route, None) if call.route else (outcome, None, None, None)


def _has_cause(post: ReadableSpan, tree: Tree, earlier: Sequence[ReadableSpan]) -> bool:
    """Whether what came before an attempt says why it was made."""
    reason, name = _said(post, "reason"), _said(post, "endpoint.name")
    same = [other for other in earlier if _said(other, "endpoint.name") == name]
    match reason:
        case "failover":
            return any(other.status.status_code is StatusCode.ERROR for other in earlier)
        case "next_key":
            return any(_error(other) in ("401", "403") for other in same)
        case "stale_connection":
            return any(_said(other, "failure.class") == "reset" and _said(other, "connection.reused") for other in same)
        case "connection_race":
            return bool(_said(earlier[-1], "stream.outcome") == "diverted")
        case "rescue":
            silent = [_said(other, "endpoint.name") for other in earlier if any(other.events)]
            return any(silent) or any(_said(get, "endpoint.name") != name for get in (*tree.gets, *tree.linked))
        case _:
            return not earlier


def _delivered(route: ReadableSpan, posts: Sequence[ReadableSpan]) -> ReadableSpan | None:
    """The attempt whose answer the caller got."""
    number = _said(route, "delivered.attempt")
    return next((post for post in posts if number and _said(post, "attempt") == number), None)


def _said(span: Any, name: str) -> Any:
    """An attribute of ours, of a span or an event."""
    return (span.attributes or {}).get(f"smartroute.{name}")


def _error(span: ReadableSpan) -> Any:
    return (span.attributes or {}).get("error.type")


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def _lies_within(span: ReadableSpan, other: ReadableSpan) -> bool:
    times = other.start_time, span.start_time, span.end_time, other.end_time
    return all((one or 0) <= (next_one or 0) for one, next_one in itertools.pairwise(times))
