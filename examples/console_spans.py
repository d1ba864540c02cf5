"""The spans of one routed call, on the console: what any OpenTelemetry provider gets to see.

Needs the extra `otlp` (the OpenTelemetry SDK). Regions on localhost stand in for real ones; the nearer is sick.
"""

from openai import OpenAI
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

import smartroute
from smartroute.testing import Region, Status

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)

with Region("near", latency=0.01) as near, Region("far", latency=0.05) as far:
    near.set(Status(503, only="post"))
    config = smartroute.Config(
        routes=[smartroute.Route(near.url, name="near"), smartroute.Route(far.url, name="far")],
        api_key="fake-direct-key",
        global_url="off",
    )
    with OpenAI(base_url=near.url, api_key="fake-direct-key", http_client=smartroute.Client(config)) as client:
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Hello!"}])
