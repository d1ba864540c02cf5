"""What importing costs, and which module may import which."""

import subprocess
import sys
from pathlib import Path

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
