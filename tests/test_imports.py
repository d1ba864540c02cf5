"""What importing costs, and which module may import which."""

import subprocess
import sys
from pathlib import Path

from smartroute.testing import Region
from tests.environments import ROOT

HTTP_LIBRARIES = {"aiohttp", "anyio", "httpcore", "httpcore2", "httpx", "httpx2", "openai", "requests", "urllib3"}


def loaded_by(statement: str) -> set[str]:
    script = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_smartroute_loads_no_http_library_and_no_telemetry() -> None:
    packages = {name.partition(".")[0] for name in loaded_by("import smartroute")}
    assert "smartroute" in packages
    assert not packages & (HTTP_LIBRARIES | {"opentelemetry"})


def test_a_configuration_can_be_made_without_an_http_library() -> None:
    packages = {name.partition(".")[0] for name in loaded_by("import smartroute; smartroute.Config; smartroute.Router")}
    assert not packages & (HTTP_LIBRARIES | {"opentelemetry"})


def test_opentelemetry_is_loaded_once_somebody_else_has_loaded_it() -> None:
    script = """
import sys, httpx2, smartroute
with smartroute.Client(smartroute.Config([f"near={sys.argv[1]}"], api_key="fake-key", global_url=None)) as client:
    def call():
        response = client.post(f"{sys.argv[1]}/chat/completions", json={"model": "m", "messages": []})
        assert response.headers["x-smartroute-route"] == "near", response
    call()
    assert "opentelemetry" not in sys.modules
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter = InMemorySpanExporter()
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    call()
    print(*(span.name for span in exporter.get_finished_spans()))
"""
    with Region("near", api_keys=["fake-key"]) as region:
        command = [sys.executable, "-W", "error", "-c", script, region.url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.stderr == ""
    assert done.stdout.split() == ["POST", "smartroute.route"]


def test_opentelemetry_is_loaded_at_once_where_the_environment_configures_it() -> None:
    made = "import os; os.environ['OTEL_PYTHON_TRACER_PROVIDER'] = 'default_tracer_provider'; import smartroute; "
    made += "smartroute.Client(smartroute.Config()).close()"
    assert "smartroute.telemetry" in loaded_by(made)
    assert "smartroute.telemetry" not in loaded_by("import smartroute; smartroute.Client(smartroute.Config()).close()")


def test_every_public_name_can_be_had() -> None:
    loaded_by("import smartroute; [getattr(smartroute, name) for name in smartroute.__all__]")


def test_a_family_can_be_had_without_importing_its_module() -> None:
    for family, other in (("httpx", "httpx2"), ("httpx2", "httpx")):
        modules = loaded_by(f"import smartroute; smartroute.{family}.Client, smartroute.{family}.AsyncClient")
        assert f"smartroute.{family}" in modules
        assert f"smartroute.{other}" not in modules


def test_the_arrows_point_one_way() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([lint, "--no-cache"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
