# ruff: noqa: PLC0415 - each environment has some of what is imported, and a contender shall import nothing but its own
"""One way to call, in a process of its own, so that contenders share no heap, no collector and no imports.

Runs under the interpreter of any environment that has `openai` (those of the peers have no smartroute), takes orders as
lines of JSON and answers each with one. `benchmarks.workers` is the other end.
"""

import asyncio
import gc
import json
import os
import statistics
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

Create = Callable[..., Any]
KEY = "fake-console-key"
PROSE = (
    'Whoever reads a long report asks at its end: "and what follows from that?" Its author, who has been asked the '
    "same for years, has an answer ready, and it is one that nobody has ever wanted to hear; so it is not given.\n"
)


class Way(NamedTuple):
    """How to make a call, sync and async; both take what `chat.completions.create` takes."""

    create: Create
    acreate: Callable[..., Awaitable[Any]]


def bare(spec: dict[str, Any], origin: str) -> Way:
    """The SDK on its own. `kept`: a transport reads what is behind `[DONE]`, as the sync SDK does not, and so keeps its
    connection. `aiohttp`: the SDK's own option.
    """
    import openai

    options: dict[str, Any] = {"base_url": f"{origin}/v1", "api_key": KEY, "max_retries": 0, "timeout": 300.0}
    sync_options, async_options = dict(options), dict(options)
    if spec.get("kept"):
        sync_options["http_client"] = openai.DefaultHttpxClient(transport=keeping_transport())
    if spec.get("aiohttp"):
        async_options["http_client"] = openai.DefaultAioHttpClient()
    client, async_client = openai.OpenAI(**sync_options), openai.AsyncOpenAI(**async_options)
    return Way(client.chat.completions.create, async_client.chat.completions.create)


def keeping_transport() -> Any:
    """The SDK's transport, but a response is read to its end before it is closed."""
    import httpx2

    class Keeping(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            response = super().handle_request(request)
            stream: Any = response.stream
            inner = stream._httpcore_stream  # noqa: SLF001 - what is left is read below httpx2's generator
            close = stream.close

            def read_and_close() -> None:
                for _ in inner:
                    pass
                close()

            stream.close = read_and_close
            return response

    limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
    return Keeping(limits=limits)


def routed(spec: dict[str, Any], origin: str) -> Way:
    """smartroute, as shipped but for what the order says."""
    import openai

    import smartroute

    config = smartroute.Config(
        routes=[smartroute.Route(f"{origin}/r{n}/v1", name=f"r{n}") for n in range(spec.get("routes", 3))],
        api_key="fake-direct-key",
        global_url=f"{origin}/v1",
        **spec.get("config", {}),
    )
    options: dict[str, Any] = {"base_url": f"{origin}/v1", "api_key": KEY, "max_retries": 0, "timeout": 300.0}
    client = openai.OpenAI(**options, http_client=smartroute.Client(config))
    async_client = openai.AsyncOpenAI(**options, http_client=smartroute.AsyncClient(config))
    if not spec.get("async_only"):
        prompt: Any = messages(1)
        answer = client.chat.completions.with_raw_response.create(model="fixed", messages=prompt)
        assert answer.headers["x-smartroute-route"] != "global", "what is measured is a routed call"
    return Way(client.chat.completions.create, async_client.chat.completions.create)


def record(spec: dict[str, Any]) -> None:
    """An OpenTelemetry SDK that records, and an exporter that costs nothing. `instrumented`: its spans are those of
    OpenTelemetry's own instrumentation of httpx.
    """
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            assert all(isinstance(span, ReadableSpan) for span in spans)
            return SpanExportResult.SUCCESS

    if spec.get("spans"):
        spans = TracerProvider()
        spans.add_span_processor(BatchSpanProcessor(Nowhere()))
        trace.set_tracer_provider(spans)
    if spec.get("metrics"):
        metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    if spec.get("instrumented"):
        from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor

        HTTPX2ClientInstrumentor().instrument()


def litellm_router(spec: dict[str, Any], origin: str) -> Way:
    """LiteLLM's Router, latency-based."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network when it is imported
    import litellm  # type: ignore[import-not-found,unused-ignore]

    litellm.suppress_debug_info = True
    deployments = [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}", "api_base": f"{origin}/r{n}/v1", "api_key": KEY},
        }
        for name in ("fixed", "paced")
        for n in range(spec.get("routes", 3))
    ]
    router = litellm.Router(model_list=deployments, routing_strategy="latency-based-routing", num_retries=0)
    return Way(router.completion, router.acompletion)


def priority(spec: dict[str, Any], origin: str) -> Way:
    """openai-priority-loadbalancer. It knows hosts, not ports: all of its backends are the one server."""
    import httpx
    import openai
    from openai_priority_loadbalancer import (  # type: ignore[import-not-found,unused-ignore]
        AsyncLoadBalancer,
        Backend,
        LoadBalancer,
    )

    backends = [Backend("127.0.0.1", 1, f"/r{n}") for n in range(spec.get("routes", 3))]
    options: dict[str, Any] = {"base_url": f"{origin}/v1", "api_key": KEY, "max_retries": 0, "timeout": 300.0}
    balanced: Any = httpx.Client(transport=LoadBalancer(backends))  # openai 2, which its environment has, speaks httpx
    async_balanced: Any = httpx.AsyncClient(transport=AsyncLoadBalancer(backends))
    client = openai.OpenAI(**options, http_client=balanced)
    async_client = openai.AsyncOpenAI(**options, http_client=async_balanced)
    return Way(client.chat.completions.create, async_client.chat.completions.create)


KINDS = {"bare": bare, "smartroute": routed, "litellm": litellm_router, "priority": priority}


def messages(size: int) -> list[dict[str, str]]:
    """A prompt of so many bytes."""
    return [{"role": "user", "content": (PROSE * (size // len(PROSE) + 1))[:size]}]


def request(order: dict[str, Any]) -> dict[str, Any]:
    """What to call with."""
    asked: dict[str, Any] = {"model": order.get("model", "fixed"), "messages": messages(order.get("size", 1_000))}
    if chunks := order.get("chunks"):
        asked |= {"max_tokens": chunks, "stream": True}
    return asked


def sync_calls(way: Way, order: dict[str, Any]) -> dict[str, float]:
    """Seconds per call, one after the other: by the clock, and of CPU."""
    asked, chunks, times = request(order), order.get("chunks"), order["times"]
    wall = cpu = 0.0
    for call in range(times + 1):
        if call == 1:  # the first finds its connection, and caches, cold
            wall, cpu = time.perf_counter(), time.process_time()
        answer = way.create(**asked)
        if chunks:
            count = 0
            for _ in answer:
                count += 1
            assert count >= chunks, f"{count} chunks"  # a peer adds one of its own
    return {"wall": (time.perf_counter() - wall) / times, "cpu": (time.process_time() - cpu) / times}


async def async_calls(way: Way, order: dict[str, Any]) -> dict[str, float]:
    """The same, async."""
    asked, chunks, times = request(order), order.get("chunks"), order["times"]

    async def call() -> None:
        answer = await way.acreate(**asked)
        if chunks:
            count = 0
            async for _ in answer:
                count += 1
            assert count >= chunks, f"{count} chunks"

    await call()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(times):
        await call()
    return {"wall": (time.perf_counter() - wall) / times, "cpu": (time.process_time() - cpu) / times}


async def burst(way: Way, order: dict[str, Any]) -> dict[str, float]:
    """So many requests, `width` of them in flight at any time."""
    asked, waiting = request(order), iter(range(order["times"]))
    took: list[float] = []

    async def caller() -> None:
        for _ in waiting:
            began = time.perf_counter()
            await way.acreate(**asked)
            took.append(time.perf_counter() - began)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*[caller() for _ in range(order["width"])])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    cuts = statistics.quantiles(took, n=100)
    return {"rate": len(took) / wall, "cpu": cpu / len(took), "p50": cuts[49], "p99": cuts[98]}


async def hold(way: Way, order: dict[str, Any]) -> dict[str, float]:
    """Bytes per stream, with so many of them open; `traced`: of Python's objects, else of the process."""
    asked = request({**order, "model": "held", "chunks": 200})
    ways = asyncio.Semaphore(50)

    async def begin() -> Any:
        async with ways:
            answer = await way.acreate(**asked)
            chunks = answer.__aiter__()
            await chunks.__anext__()
            return answer, chunks

    async def many(count: int) -> list[Any]:
        return await asyncio.gather(*[begin() for _ in range(count)])

    for answer, _ in await many(20):
        await answer.close()
    if order["traced"]:
        tracemalloc.start()
    gc.collect()
    before = used(traced=order["traced"])
    streams = await many(order["count"])
    gc.collect()
    after = used(traced=order["traced"])
    if order["traced"]:
        tracemalloc.stop()
    for answer, _ in streams:
        await answer.close()
    return {"bytes": (after - before) / order["count"]}


def used(*, traced: bool) -> int:
    """Bytes in use."""
    if traced:
        return tracemalloc.get_traced_memory()[0]
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


DEEDS = {"async": async_calls, "burst": burst, "hold": hold}


def main() -> None:
    """Obey."""
    spec = json.loads(sys.argv[1])
    if spec.get("spans") or spec.get("metrics"):
        record(spec)
    ways: dict[str, Way] = {}
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            order = json.loads(line)
            origin, answer = order["origin"], dict[str, Any]()
            try:
                if origin not in ways:
                    ways[origin] = KINDS[spec["kind"]](spec, origin)
                if order["do"] == "sync":
                    answer = sync_calls(ways[origin], order)
                else:
                    answer = runner.run(DEEDS[order["do"]](ways[origin], order))
            except Exception as error:  # noqa: BLE001 - it is told
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
        sys.stdout.flush()
        os._exit(0)  # connections and threads of whatever was measured need no farewell


if __name__ == "__main__":
    main()
