"""The spans of one routed call, in a tracing backend: with a provider and an exporter as an application has them.

Needs the extra `otlp` (the OpenTelemetry SDK and its exporter), and a backend that takes OTLP over HTTP at
OTEL_EXPORTER_OTLP_ENDPOINT (http://localhost:4318 by default). Regions on localhost stand in for real ones; the nearer
is sick.
"""

from openai import OpenAI
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import smartroute
from smartroute.testing import Region, Status

provider = TracerProvider(resource=Resource.create({"service.name": "otlp-example"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)

with Region("near", latency=0.01) as near, Region("far", latency=0.05) as far:
    config = smartroute.Config(
        routes=[smartroute.Route(near.url, name="near"), smartroute.Route(far.url, name="far")],
        api_key="fake-direct-key",
        global_url="off",
    )
    http_client = smartroute.Client(config)
    with OpenAI(base_url=near.url, api_key="fake-direct-key", http_client=http_client) as client:
        hello = {"model": "any", "messages": [{"role": "user", "content": "Hello!"}]}
        to_near = {"x-smartroute-route": "near"}  # where requests go from then on
        client.chat.completions.create(**hello, extra_headers=to_near)

        near.set(Status(503, only="post"))
        with trace.get_tracer("my.application").start_as_current_span("hello") as mine:
            answer = client.chat.completions.with_raw_response.create(**hello)
        who, attempts = answer.headers["x-smartroute-route"], answer.headers["x-smartroute-attempts"]
        print(f"answered by {who}, attempts: {attempts}")
        print(f"trace {mine.get_span_context().trace_id:032x}")

provider.shutdown()  # what has not been sent yet is sent now
