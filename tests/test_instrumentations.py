"""Beside the instrumentations of others: the real ones, the real SDK, real sockets, an application's own provider."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx2
import pytest
from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInferenceInstrumentor
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import suppress_http_instrumentation, suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from smartroute.testing import Fault, Region, Seen, Silence, Stall, Status
from tests.transport import conftest
from tests.transport.kit import ASYNC, CHAT, STREAM, SYNC, AsyncCaller, Caller, World, eventually, measure, posts

environment, unhurried = conftest.environment, conftest._unhurried
world, caller = conftest.world, conftest.caller

Instrumentor = Callable[[], Any]

HTTP: dict[Any, Any] = {httpx: HTTPXClientInstrumentor, httpx2: HTTPX2ClientInstrumentor}
SDKS = pytest.mark.parametrize("sdks", [OpenAIInstrumentor, OpenInferenceInstrumentor], ids=["genai", "openinference"])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
SUPPRESSORS = pytest.mark.parametrize("suppressed", [suppress_instrumentation, suppress_http_instrumentation])
SECRET = "fake-customer-number"


class Backend(SpanProcessor):
    """What an application sets up for its traces, and what has come of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._exporter = InMemorySpanExporter()
        self.begun: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self.provide()

    def provide(self, sampler: Sampler = ParentBased(ALWAYS_ON), ids: RandomIdGenerator | None = None) -> None:  # noqa: B008 - it has no state
        """Make another provider the process's own. Clients and instrumentations that are there already keep theirs."""
        provider = TracerProvider(sampler=sampler, id_generator=ids, shutdown_on_exit=False)
        provider.add_span_processor(self)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        # `set_tracer_provider` would do so once only, and for all other tests too.
        self._monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)

    def on_start(self, span: ReadableSpan, parent_context: Context | None = None) -> None:
        self.begun[at(span).span_id] += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.ended[at(span).span_id] += 1

    @property
    def balanced(self) -> bool:
        """Whether every span that began has ended, and once."""
        return self.begun == self.ended

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended, in the order in which they began."""
        order = {number: place for place, number in enumerate(list(self.begun))}
        return sorted(self._exporter.get_finished_spans(), key=lambda span: order[at(span).span_id])

    @property
    def attempts(self) -> list[ReadableSpan]:
        return [span for span in self.spans if scope(span) == "smartroute" and span.kind is SpanKind.CLIENT]

    @property
    def routes(self) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == "smartroute.route"]

    def clear(self) -> None:
        self._exporter.clear()

    def tree(self) -> list[str]:
        """Whose spans, of what name, indented below their parents. The SDK's go by many names."""
        spans = {at(span).span_id: span for span in self.spans}
        below: dict[int | None, list[ReadableSpan]] = {}
        for span in spans.values():
            parent = span.parent.span_id if span.parent and span.parent.span_id in spans else None
            below.setdefault(parent, []).append(span)
            assert parent is None or at(spans[parent]).trace_id == at(span).trace_id

        def lines(parent: int | None, depth: int) -> Iterator[str]:
            for span in below.get(parent, ()):
                words = scope(span) if scope(span) == "openai" else f"{scope(span)}: {span.name}"
                yield "  " * depth + words
                yield from lines(at(span).span_id, depth + 1)

        return list(lines(None, 0))


def scope(span: ReadableSpan) -> str:
    """Whose span it is."""
    assert span.instrumentation_scope
    return span.instrumentation_scope.name.rpartition(".")[2]


def at(span: ReadableSpan | trace.Span) -> SpanContext:
    found = span.get_span_context()
    assert found is not None
    return found


def traceparent(span: ReadableSpan | trace.Span) -> str:
    return f"00-{at(span).trace_id:032x}-{at(span).span_id:016x}-{at(span).trace_flags:02x}"


def sent(region: Region, name: str = "traceparent") -> list[str | None]:
    """A header of each request that has come."""
    return [seen.header(name) for seen in region.requests]


@contextlib.contextmanager
def installed(*instrumentors: Instrumentor) -> Generator[None]:
    """As an application installs them, for the process."""
    with contextlib.ExitStack() as stack:
        for each in instrumentors:
            instrumentor = each()
            instrumentor.instrument()
            stack.callback(instrumentor.uninstrument)
            assert instrumentor.is_instrumented_by_opentelemetry, "it does not fit what is installed"
        yield


@contextlib.contextmanager
def current(here: Context) -> Generator[None]:
    token = context.attach(here)
    try:
        yield
    finally:
        context.detach(token)


@contextlib.contextmanager
def span(name: str = "app") -> Generator[trace.Span]:
    """A span of the application's."""
    with trace.get_tracer("app").start_as_current_span(name) as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def _regions_thread() -> Iterator[None]:
    """One region that is always up keeps the thread that all of them run in."""
    with Region("keeper"):
        yield


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Backend]:
    """Autouse, so that it is there before the clients are, and sees what becomes of their spans when they close."""
    made = Backend(monkeypatch)
    yield made
    assert made.balanced
    assert set(made.ended.values()) <= {1}
    # Here the SDK says that a span was ended or changed after its end, or a context detached where it was not attached.
    records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
    assert [each.getMessage() for each in records if each.name.startswith("opentelemetry")] == []


def ready(caller: Caller, world: World, **settings: Any) -> Any:
    """A client that asks near first, then far."""
    return measure(caller.client(world.config(**settings)))


def answer(caller: Caller, sdk: Any, *, stream: bool, **options: Any) -> Any:
    """One chat completion by the SDK's plainest call, read to its end."""
    answer = caller.do(sdk.chat.completions.create, **{**CHAT, "stream": stream, **options})
    return list(caller.iterate(answer)) if stream else answer


# --- Under the SDK's instrumentation -------------------------------------------------------------------


@SDKS
@STREAMED
def test_our_spans_stand_below_the_sdks(
    caller: Caller, world: World, backend: Backend, sdks: Instrumentor, stream: bool
) -> None:
    world.near.set(Status(503))
    with installed(sdks):
        answer(caller, caller.sdk(ready(caller, world), world.globe.url), stream=stream)

    first, second = backend.attempts
    assert backend.tree() == [
        "openai",
        "  smartroute: smartroute.route",
        "    smartroute: POST",
        "    smartroute: POST",
    ]
    assert (sent(world.near), sent(world.far)) == ([traceparent(first)], [traceparent(second)])


@SDKS
def test_each_retry_of_the_sdk_is_an_exchange_below_the_same_span(
    caller: Caller, world: World, backend: Backend, sdks: Instrumentor
) -> None:
    for region in world.all:
        region.set(Status(503, {"retry-after-ms": "1"}, times=1))
    with installed(sdks):
        sdk = caller.sdk(ready(caller, world), world.globe.url).with_options(max_retries=1)
        answer(caller, sdk, stream=False)

    theirs, first, *rest = backend.tree()
    assert (theirs, first) == ("openai", "  smartroute: smartroute.route")
    assert rest.count(first) == 1
    assert len(set(rest)) == 2


@SDKS
def test_embeddings_are_one_tree_too(caller: Caller, world: World, backend: Backend, sdks: Instrumentor) -> None:
    with installed(sdks):
        sdk = caller.sdk(ready(caller, world), world.globe.url)
        caller.do(sdk.embeddings.create, model="m", input="Where are you?", encoding_format="float")
    assert backend.tree() == ["openai", "  smartroute: smartroute.route", "    smartroute: POST"]


@SDKS
def test_a_stream_given_up_ends_their_span_and_ours(
    caller: Caller, world: World, backend: Backend, sdks: Instrumentor
) -> None:
    world.near.set(Stall(3))
    with installed(sdks):
        sdk = caller.sdk(ready(caller, world), world.globe.url)
        stream = caller.do(sdk.chat.completions.create, **STREAM)
        next(caller.iterate(stream))
        caller.close(stream)
    assert eventually(lambda: backend.balanced)
    assert backend.tree() == ["openai", "  smartroute: smartroute.route", "    smartroute: POST"]


# --- Beside the HTTP library's instrumentation ---------------------------------------------------------


@STREAMED
@pytest.mark.parametrize("when", ["before the client is made", "after"])
def test_one_client_span_for_each_attempt(
    caller: Caller, world: World, backend: Backend, when: str, stream: bool
) -> None:
    world.near.set(Status(503))
    with contextlib.ExitStack() as stack:
        if when == "after":
            client = ready(caller, world)
            stack.enter_context(installed(*HTTP.values()))
        else:
            stack.enter_context(installed(*HTTP.values()))
            client = ready(caller, world)
        sdk = caller.sdk(client, world.globe.url)
        answer(caller, sdk, stream=stream)

    first, second = backend.attempts
    assert backend.tree() == ["smartroute: smartroute.route", "  smartroute: POST", "  smartroute: POST"]
    assert (sent(world.near), sent(world.far)) == ([traceparent(first)], [traceparent(second)])


def test_one_client_span_where_the_global_endpoint_answers(caller: Caller, world: World, backend: Backend) -> None:
    world.near.set(Status(503))
    world.far.set(Status(503))
    with installed(*HTTP.values()):
        answer(caller, caller.sdk(ready(caller, world), world.globe.url), stream=True)
    assert backend.tree() == ["smartroute: smartroute.route", *["  smartroute: POST"] * 3]
    assert sent(world.globe) == [traceparent(backend.attempts[2])]


def test_with_all_of_them_a_call_is_one_tree(caller: Caller, world: World, backend: Backend) -> None:
    with installed(*HTTP.values(), OpenAIInstrumentor):
        sdk = caller.sdk(ready(caller, world), world.globe.url)
        with span():
            answer(caller, sdk, stream=True)
    assert backend.tree() == [
        "app: app",
        "  openai",
        "    smartroute: smartroute.route",
        "      smartroute: POST",
    ]


def test_probes_make_no_spans(caller: Caller, world: World, backend: Backend) -> None:
    with installed(*HTTP.values()):
        client = ready(caller, world, probe_interval=0.1)
        answer(caller, caller.sdk(client, world.globe.url), stream=False)
        assert eventually(lambda: all(len(region.requests) - posts(region) > 2 for region in (world.near, world.far)))
    assert backend.tree() == ["smartroute: smartroute.route", "  smartroute: POST"]
    assert {seen.header("traceparent") for seen in world.far.requests} == {None}


@STREAMED
def test_an_instrumented_client_has_a_span_above_ours(
    caller: Caller, world: World, backend: Backend, stream: bool
) -> None:
    """Who asks for one around this very client gets it. It is no attempt: what reached the server is ours."""
    client = ready(caller, world)
    HTTP[caller.family].instrument_client(client)
    answer(caller, caller.sdk(client, world.globe.url), stream=stream)

    assert backend.tree() == ["httpx: POST", "  smartroute: smartroute.route", "    smartroute: POST"]
    assert sent(world.near) == [traceparent(backend.attempts[0])]


# --- What passes through is traced as with the plain client --------------------------------------------


OUR_WORD = "smartroute.passed_through"
"""Why it is not routed: told to whatever span is current."""


def told(spans: list[ReadableSpan]) -> list[Any]:
    """What spans say, but for when and which."""
    return [
        (
            scope(each),
            each.name,
            each.kind,
            {name: value for name, value in (each.attributes or {}).items() if not name.endswith("peer.port")},
            each.status.status_code,
            [event.name for event in each.events if event.name != OUR_WORD],
        )
        for each in spans
    ]


def without_trace(seen: Seen) -> Any:
    """A request as it arrived, but for the trace it belongs to."""
    headers = [(name, b"" if name.lower() == b"traceparent" else value) for name, value in seen.headers]
    return seen.method, seen.target, headers, seen.body


PASSED: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "models": ("GET", "/models", {}, {}),
    "a file": ("POST", "/files", {"content": b"a file"}, {}),
    "another model": ("POST", "/chat/completions", {"json": CHAT}, {"model": {"served": "sent"}}),
    "no routes": ("POST", "/chat/completions", {"json": STREAM}, {"routes": []}),
    "disabled": ("POST", "/chat/completions", {"json": STREAM}, {"disabled": True}),
}


@pytest.mark.parametrize("what", PASSED)
@pytest.mark.parametrize("how", ["not at all", "before the client is made", "after", "this client"])
def test_what_passes_through_is_traced_as_with_the_plain_client(
    caller: Caller, world: World, backend: Backend, what: str, how: str
) -> None:
    method, target, options, settings = PASSED[what]
    makers: list[Callable[[], Any]] = [caller.plain, lambda: caller.client(world.config(**settings))]
    found = []
    for make in makers:
        backend.clear()
        before = len(world.globe.requests)
        with contextlib.ExitStack() as stack:
            if how == "before the client is made":
                stack.enter_context(installed(*HTTP.values()))
            client = make()
            if how == "after":
                stack.enter_context(installed(*HTTP.values()))
            if how == "this client":
                HTTP[caller.family].instrument_client(client)
            url = world.globe.url + target
            here = baggage.set_baggage("customer", SECRET)  # theirs to hand on, as they are told
            with current(here), span():
                caller.do(client.request, method, url, headers={"authorization": "Bearer fake-console-key"}, **options)
        (seen,) = world.globe.requests[before:]
        theirs = [each for each in backend.spans if scope(each) != "app"]
        assert [seen.header("traceparent")] == [traceparent(each) for each in theirs] or [None]
        assert backend.tree() == ["app: app", *["  httpx: " + method] * (how != "not at all")]
        found.append((told(theirs), without_trace(seen)))
    assert found[1] == found[0]
    assert posts(world.near) == posts(world.far) == 0


def test_another_host_is_traced_as_with_the_plain_client(caller: Caller, world: World, backend: Backend) -> None:
    client = ready(caller, world)
    with Region("elsewhere") as elsewhere:
        with installed(*HTTP.values()):
            caller.do(client.get, f"{elsewhere.url}/models")
        assert backend.tree() == ["httpx: GET"]
        assert sent(elsewhere) == [traceparent(backend.spans[0])]
        caller.close(client)  # before its server goes


# --- Suppression and sampling --------------------------------------------------------------------------


@SUPPRESSORS
@STREAMED
def test_what_is_suppressed_leaves_no_trace(
    caller: Caller, world: World, backend: Backend, suppressed: Any, stream: bool
) -> None:
    with installed(*HTTP.values()):
        sdk = caller.sdk(ready(caller, world), world.globe.url)
        with span():
            with suppressed():
                answer(caller, sdk, stream=stream)
                caller.do(sdk.models.list)
            assert backend.tree() == []
            assert {header for region in world.all for header in sent(region)} == {None}
            answer(caller, sdk, stream=stream)
    assert backend.tree() == ["app: app", "  smartroute: smartroute.route", "    smartroute: POST"]


@SUPPRESSORS
def test_suppression_is_asked_for_where_a_call_begins(
    caller: Caller, world: World, backend: Backend, suppressed: Any
) -> None:
    sdk = caller.sdk(ready(caller, world), world.globe.url)
    with suppressed():
        silent = caller.do(sdk.chat.completions.create, **STREAM)
    heard = caller.do(sdk.chat.completions.create, **STREAM)
    with suppressed():
        list(caller.iterate(heard))
    list(caller.iterate(silent))
    assert backend.tree() == ["smartroute: smartroute.route", "  smartroute: POST"]
    assert sent(world.near) == [None, traceparent(backend.attempts[0])]


@SUPPRESSORS
def test_what_passes_through_is_told_to_nobody_if_that_is_suppressed(
    caller: Caller, world: World, backend: Backend, suppressed: Any
) -> None:
    client, url = ready(caller, world), f"{world.globe.url}/chat/completions"
    with span("heard"):
        caller.do(client.post, url, content=b"no JSON")
    with span("silent"), suppressed():
        caller.do(client.post, url, content=b"no JSON")
    assert [(each.name, [event.name for event in each.events]) for each in backend.spans] == [
        ("heard", [OUR_WORD]),
        ("silent", []),
    ]


def test_a_trace_that_is_not_sampled_says_so(caller: Caller, world: World, backend: Backend) -> None:
    backend.provide(ALWAYS_OFF)
    world.near.set(Status(503))
    answer(caller, caller.sdk(ready(caller, world), world.globe.url), stream=True)
    (first,), (second,) = ([header or "" for header in sent(region)] for region in (world.near, world.far))
    assert backend.spans == []
    assert [flags(header) & TraceFlags.SAMPLED for header in (first, second)] == [0, 0]
    assert first.split("-")[1] == second.split("-")[1]


def test_a_trace_given_by_hand_is_replaced_as_a_whole(caller: Caller, world: World, backend: Backend) -> None:
    """As the instrumentation of an HTTP library does. A `tracestate` belongs to its `traceparent`."""
    given = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=theirs"}
    sdk = caller.sdk(ready(caller, world), world.globe.url)
    answer(caller, sdk, stream=False, extra_headers=given)
    with suppress_instrumentation():
        answer(caller, sdk, stream=False, extra_headers=given)
    assert sent(world.near) == [traceparent(backend.attempts[0]), given["traceparent"]]
    assert sent(world.near, "tracestate") == [None, given["tracestate"]]


def flags(header: str) -> int:
    return int(header.rpartition("-")[2], 16)


class Alternating(RandomIdGenerator):
    """Every second trace is one that a ratio of a half keeps."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def generate_trace_id(self) -> int:
        number = super().generate_trace_id() >> 1
        return number & ~(1 << 63) if next(self._numbers) % 2 == 0 else number | (1 << 63)


def test_a_share_of_the_traces_is_sampled_end_to_end(caller: Caller, world: World, backend: Backend) -> None:
    backend.provide(ParentBased(TraceIdRatioBased(0.5)), Alternating())
    sdk = caller.sdk(ready(caller, world), world.globe.url)
    for number in range(6):
        answer(caller, sdk, stream=number < 3)
    assert [flags(header or "") & TraceFlags.SAMPLED for header in sent(world.near)] == [1, 0, 1, 0, 1, 0]
    assert [traceparent(each) for each in backend.attempts] == sent(world.near)[::2]
    assert len(backend.routes) == 3


@pytest.mark.parametrize("sampled", [False, True], ids=["not sampled", "sampled"])
def test_whoever_called_the_application_decides(caller: Caller, world: World, backend: Backend, sampled: bool) -> None:
    backend.provide(ParentBased(ALWAYS_OFF if sampled else ALWAYS_ON))
    state = TraceState([("vendor", "opaque")])
    remote = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True, TraceFlags(sampled), state)
    with current(trace.set_span_in_context(NonRecordingSpan(remote))):
        answer(caller, caller.sdk(ready(caller, world), world.globe.url), stream=True)

    (header,) = sent(world.near)
    assert header is not None
    assert header.startswith("00-0af7651916cd43dd8448eb211c80319c-")
    assert flags(header) & TraceFlags.SAMPLED == sampled
    assert sent(world.near, "tracestate") == ["vendor=opaque"]
    assert backend.tree() == ["smartroute: smartroute.route", "  smartroute: POST"] * sampled
    assert [each.parent for each in backend.routes] == [remote] * sampled


# --- The caller's context stays the caller's -----------------------------------------------------------

BESIDE = pytest.mark.parametrize(
    "beside",
    [(), tuple(HTTP.values()), (OpenInferenceInstrumentor,), (OpenAIInstrumentor,)],
    ids=["alone", "http", "openinference", "genai"],
)


@SYNC
@BESIDE
def test_no_context_is_left_in_the_callers_code(
    caller: Caller, world: World, backend: Backend, beside: tuple[Instrumentor, ...]
) -> None:
    world.near.set(Status(503, times=1))
    with installed(*beside), span() as app:
        sdk = caller.sdk(ready(caller, world), world.globe.url)
        here = context.get_current()
        sdk.chat.completions.create(**CHAT)
        assert context.get_current() is here
        stream = sdk.chat.completions.create(**STREAM)
        assert context.get_current() is here
        steps = 0
        for _ in stream:
            steps += 1
            assert context.get_current() is here
            assert trace.get_current_span() is app
        assert context.get_current() is here
    assert steps > 2
    assert {at(each).trace_id for each in backend.spans} == {at(app).trace_id}


@ASYNC
@BESIDE
def test_no_context_is_left_in_the_callers_task(
    caller: AsyncCaller, world: World, backend: Backend, beside: tuple[Instrumentor, ...]
) -> None:
    world.near.set(Status(503, times=1))
    sdk = caller.sdk(ready(caller, world), world.globe.url)

    async def read() -> tuple[int, trace.Span]:
        with span() as app:
            here = context.get_current()
            await sdk.chat.completions.create(**CHAT)
            assert context.get_current() is here
            stream = await sdk.chat.completions.create(**STREAM)
            assert context.get_current() is here
            steps = 0
            async for _ in stream:
                steps += 1
                assert context.get_current() is here
                assert trace.get_current_span() is app
            assert context.get_current() is here
        return steps, app

    with installed(*beside):
        steps, app = caller.do(read)
    assert steps > 2
    assert {at(each).trace_id for each in backend.spans} == {at(app).trace_id}


@ASYNC
def test_tasks_that_take_turns_keep_their_own_spans(caller: AsyncCaller, world: World, backend: Backend) -> None:
    world.near.token_interval = 0.005
    sdk = caller.sdk(ready(caller, world), world.globe.url)

    async def relay() -> Any:
        """An async generator, as a web framework would have it."""
        async for chunk in await sdk.chat.completions.create(**STREAM):
            yield chunk

    async def read(name: str) -> None:
        with span(name) as own:
            async for _ in relay():
                assert trace.get_current_span() is own
                await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*(read(f"task {number}") for number in range(5)))

    caller.do(all_of_them)
    assert backend.tree() == [
        line
        for number in range(5)
        for line in (f"app: task {number}", "  smartroute: smartroute.route", "    smartroute: POST")
    ]


def test_a_stream_may_be_read_wherever_the_caller_likes(caller: Caller, world: World, backend: Backend) -> None:
    """Begun here, read in another thread (of an async one, each piece in another task), closed in a third."""
    sdk = caller.sdk(ready(caller, world), world.globe.url)

    def begin() -> Any:
        with span("begun"):
            return caller.do(sdk.chat.completions.create, **STREAM)

    def read(stream: Any) -> int:
        with span("read") as own:
            steps = 0
            for _ in caller.iterate(stream):
                steps += 1
                assert trace.get_current_span() is own
            return steps

    def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(function, *args).result(30)

    stream = elsewhere(begin)
    assert elsewhere(read, stream) > 2
    elsewhere(caller.close, stream)
    assert backend.tree() == ["app: begun", "  smartroute: smartroute.route", "    smartroute: POST", "app: read"]


def test_threads_keep_their_own_spans(caller: Caller, world: World, backend: Backend) -> None:
    sdk = caller.sdk(ready(caller, world), world.globe.url)

    def call(number: int) -> None:
        with span(f"thread {number}") as own:
            answer(caller, sdk, stream=bool(number % 2))
            assert trace.get_current_span() is own

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(call, range(8)))
    assert sorted(backend.tree()) == sorted(
        line
        for number in range(8)
        for line in (f"app: thread {number}", "  smartroute: smartroute.route", "    smartroute: POST")
    )
    parents = {each.name: at(each).span_id for each in backend.spans if scope(each) == "app"}
    assert sorted(each.parent.span_id for each in backend.routes if each.parent) == sorted(parents.values())


# --- However a stream ends, its spans end once (the fixture counts) ------------------------------------


@pytest.mark.parametrize("beside", [(), (OpenAIInstrumentor,)], ids=["alone", "genai"])
@pytest.mark.parametrize("way", ["closed", "closed after a piece", "forgotten", "forgotten after a piece", "left open"])
def test_the_spans_of_a_stream_given_up_end(
    caller: Caller, world: World, backend: Backend, way: str, beside: tuple[Instrumentor, ...]
) -> None:
    world.near.set(Stall(3))
    client = ready(caller, world)
    with installed(*beside), span():
        sdk = caller.sdk(client, world.globe.url)
        stream: Any = caller.do(sdk.chat.completions.create, **STREAM)
        pieces = caller.iterate(stream)
        if "piece" in way:
            next(pieces)
        if "closed" in way:
            caller.close(stream)
        if "forgotten" in way:
            del stream, pieces
            caller.forget()
    if way == "left open":
        caller.close(client)
        del stream, pieces
        caller.forget()
    else:  # the next request tidies up, if nothing did before
        caller.do(client.get, f"{world.globe.url}/models")
    assert eventually(lambda: caller.forget() and backend.balanced)
    (attempt,) = backend.attempts
    assert (attempt.attributes or {})["smartroute.stream.outcome"] == "closed"
    assert len(backend.routes) == 1


@ASYNC
@STREAMED
@pytest.mark.parametrize("fault", [Silence(), Stall(1)], ids=["before the head", "before content"])
def test_the_spans_of_a_cancelled_call_end(
    caller: AsyncCaller, world: World, backend: Backend, fault: Fault, stream: bool
) -> None:
    world.near.set(fault)
    client = ready(caller, world)
    with installed(*HTTP.values()), span():
        url = f"{world.globe.url}/chat/completions"
        call = caller.submit(client.post, url, json={**CHAT, "stream": stream})
        assert eventually(lambda: posts(world.near) == 1)
        call.cancel()
        assert eventually(lambda: not caller.tasks())
    assert backend.balanced
    assert backend.tree() == ["app: app", "  smartroute: smartroute.route", "    smartroute: POST"]
    (route,) = backend.routes
    assert (route.attributes or {})["smartroute.outcome"] == "cancelled"


@ASYNC
def test_the_spans_of_a_stream_end_whose_reader_is_cancelled(
    caller: AsyncCaller, world: World, backend: Backend
) -> None:
    world.near.set(Stall(3))
    client = ready(caller, world)
    sdk = caller.sdk(client, world.globe.url)
    pieces: list[Any] = []

    async def read() -> None:
        with span():
            async with await sdk.chat.completions.create(**STREAM) as stream:
                async for piece in stream:
                    pieces.append(piece)  # noqa: PERF401 - what has come is wanted when the task is cancelled

    reading = caller.submit(read)
    assert eventually(lambda: pieces)
    reading.cancel()
    assert eventually(lambda: not caller.tasks())
    assert backend.tree() == ["app: app", "  smartroute: smartroute.route", "    smartroute: POST"]


@pytest.mark.parametrize("status", [200, 400, 503])
def test_the_spans_of_a_call_end_whatever_comes_of_it(
    caller: Caller, world: World, backend: Backend, status: int
) -> None:
    if status != 200:
        for region in world.all:
            region.set(Status(status))
    client = ready(caller, world)
    with installed(*HTTP.values()):
        for body in (CHAT, STREAM):
            response = caller.do(client.post, f"{world.globe.url}/chat/completions", json=body)
            assert response.status_code in (status, 401)
    assert backend.balanced
    assert len(backend.routes) == 2
    assert len(backend.attempts) == sum(map(posts, world.all))
    arrived = sorted(header or "" for region in world.all for header in sent(region))
    assert sorted(map(traceparent, backend.attempts)) == arrived


# --- Baggage -------------------------------------------------------------------------------------------


@STREAMED
@pytest.mark.parametrize("endpoint", ["near", "globe"])
@pytest.mark.parametrize("beside", [(), tuple(HTTP.values())], ids=["alone", "http"])
def test_baggage_stays_in_the_process(
    caller: Caller, world: World, endpoint: str, stream: bool, beside: tuple[Instrumentor, ...]
) -> None:
    if endpoint == "globe":
        world.near.set(Status(503))
        world.far.set(Status(503))
    with installed(*beside), current(baggage.set_baggage("customer", SECRET)), span():
        answer(caller, caller.sdk(ready(caller, world), world.globe.url), stream=stream)
    seen = [each for region in world.all for each in region.requests]
    assert {each.header("baggage") for each in seen} == {None}
    assert None not in {each.header("traceparent") for each in seen}
    assert SECRET not in str([(each.headers, each.body) for each in seen])


@STREAMED
def test_baggage_travels_where_the_configuration_says_so(caller: Caller, world: World, stream: bool) -> None:
    world.near.set(Status(503))
    with current(baggage.set_baggage("customer", SECRET)), span():
        sdk = caller.sdk(ready(caller, world, forward_headers=("baggage",)), world.globe.url)
        answer(caller, sdk, stream=stream)
    baggages = [sent(region, "baggage") for region in (world.near, world.far)]
    assert baggages == [[f"customer={SECRET}"]] * 2
