"""What users install: the wheel, from nothing but the files in it and the run-time dependencies."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.environments import ROOT, WHEELS, prepared

pytestmark = pytest.mark.timeout(180)


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (wheel,) = dist.glob("smartroute-*-py3-none-any.whl")
    return wheel


def test_the_wheel_has_the_package_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "smartroute/__init__.py" in names
    assert "smartroute/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"smartroute"}
    assert not [name for name in names if name.startswith("smartroute/tests")]


def test_the_wheel_tells_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    run_time = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not [line for line in run_time if line.startswith("opentelemetry-sdk")]


def test_the_sdist_builds_and_tests_itself(dist: Path) -> None:
    (sdist,) = dist.glob("smartroute-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "smartroute/py.typed", "tests/test_packaging.py"} <= names
    assert not [name for name in names if name.startswith((".venv", ".wheels", ".ci"))]


def test_the_wheel_installs_into_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    wheels = prepared(WHEELS)
    venv.create(tmp_path / "empty", with_pip=True)
    python = tmp_path / "empty" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", wheels, wheel)
    script = "import smartroute; smartroute.Client; print(smartroute.__version__, smartroute.__file__)"
    version, file = run(python, "-I", "-W", "error", "-c", script).split()
    assert wheel.name.startswith(f"smartroute-{version}-")
    assert file.startswith(str(tmp_path))
