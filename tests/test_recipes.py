"""The recipes, run as they are written but for the hosts: each answers, fails over and keeps keys where they belong."""

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from smartroute import Config
from smartroute.testing import Region

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "examples" / "recipes"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def written(tmp_path: Path, name: str, **stand_ins: str) -> Path:
    """A recipe with other hosts and files in it."""
    text = (RECIPES / name).read_text("utf-8")
    for real, stand_in in stand_ins.items():
        assert real in text
        text = text.replace(real, stand_in)
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return path


def run(script: str, config: Path, *arguments: str, **environ: str) -> str:
    """What the example prints."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("SMARTROUTE_", "OPENAI_"))}
    done = subprocess.run(
        [sys.executable, RECIPES / script, config, *arguments],
        env={**others, **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    said = done.stderr.removeprefix("All routes are down: ")
    assert done.returncode == 0, done.stderr
    assert not said or said != done.stderr, done.stderr  # that is told, and nothing else
    return done.stdout


@pytest.mark.parametrize("page", ["recipes.md", "private-routes.md"])
def test_the_pages_show_what_is_run(page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    shown = re.findall(r"^```\w+ title=\"(.*?)\"\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert shown
    for name, block in shown:
        assert block == (ROOT / name).read_text("utf-8")


def test_every_recipe_is_on_a_page() -> None:
    pages = "".join((ROOT / "docs" / page).read_text("utf-8") for page in ("recipes.md", "private-routes.md"))
    assert [path.name for path in RECIPES.glob("*.*") if f"examples/recipes/{path.name}" not in pages] == []


def test_vllm_in_two_regions(tmp_path: Path, stack: ExitStack) -> None:
    near, far = (stack.enter_context(Region(name, api_keys=["fake-key"], models=["qwen3"])) for name in ("near", "far"))
    stand_ins = {"https://vllm.eu.example.net/v1": near.url, "https://vllm.us.example.net/v1": far.url}
    path = written(tmp_path, "vllm.toml", **stand_ins)
    assert "answered by " in run("ask.py", path, "qwen3", SMARTROUTE_API_KEY="fake-key")
    near.stop()
    assert "answered by virginia" in run("ask.py", path, "qwen3", SMARTROUTE_API_KEY="fake-key")


AZURE = {"SMARTROUTE_API_KEY_SWEDEN": "fake-sweden-key", "SMARTROUTE_API_KEY_FRANCE": "fake-france-key"}


@pytest.mark.parametrize("fails", [False, True], ids=["", "failover"])
def test_azure_with_its_own_client(tmp_path: Path, stack: ExitStack, fails: bool) -> None:
    sweden, france = (
        stack.enter_context(Region(name, api_keys=[f"fake-{name}-key"], prefix=f"/openai/deployments/{deployment}"))
        for name, deployment in (("sweden", "gpt-4o"), ("france", "gpt-4o-eu"))
    )
    stand_ins = {
        f"https://contoso-{region.name}.openai.azure.com": region.url.partition("/openai")[0]
        for region in (sweden, france)
    }
    path = written(tmp_path, "azure.toml", **stand_ins)
    (sweden if fails else france).stop()
    printed = run("ask_azure.py", path, **AZURE)
    assert f"answered by {'france' if fails else 'sweden'}" in printed
    seen = [seen for region in (sweden, france) for seen in region.requests if seen.method == "POST"]
    region, deployment = ("france", "gpt-4o-eu") if fails else ("sweden", "gpt-4o")
    assert [(each.target, each.header("api-key"), each.header("authorization")) for each in seen] == [
        (f"/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21", f"fake-{region}-key", None)
    ]


def test_azure_by_its_v1_api(tmp_path: Path, stack: ExitStack) -> None:
    sweden = stack.enter_context(Region("sweden", api_keys=["fake-sweden-key"], models=["gpt-4o"], prefix="/openai/v1"))
    france = stack.enter_context(
        Region("france", api_keys=["fake-france-key"], models=["gpt-4o-eu"], prefix="/openai/v1")
    )
    stand_ins = {f"https://contoso-{region.name}.openai.azure.com/openai/v1": region.url for region in (sweden, france)}
    path = written(tmp_path, "azure_v1.toml", **stand_ins)
    assert "answered by " in run("ask.py", path, **AZURE)
    sweden.stop()
    assert "answered by france" in run("ask.py", path, **AZURE)


def test_azure_beside_openai(tmp_path: Path, stack: ExitStack) -> None:
    deployment = Region("sweden", api_keys=["fake-azure-key"], prefix="/openai/deployments/gpt-4o")
    azure, openai = stack.enter_context(deployment), stack.enter_context(Region("openai", api_keys=["fake-openai-key"]))
    origin = azure.url.partition("/openai")[0]
    path = written(
        tmp_path,
        "azure_beside_openai.toml",
        **{"https://contoso-sweden.openai.azure.com": origin, "https://api.openai.com/v1": openai.url},
    )
    keys = {"SMARTROUTE_API_KEY": "fake-azure-key", "OPENAI_API_KEY": "fake-openai-key"}
    assert "answered by sweden," in run("ask.py", path, **keys)
    (seen,) = (seen for seen in azure.requests if seen.method == "POST")
    assert (seen.header("api-key"), seen.header("authorization")) == ("fake-azure-key", None)
    azure.stop()
    assert "answered by global" in run("ask.py", path, **keys)
    (seen,) = (seen for seen in openai.requests if seen.method == "POST")
    assert (seen.header("api-key"), seen.header("authorization")) == (None, "Bearer fake-openai-key")
    paths = {route.name: route.paths for route in Config.from_toml(path, keys).routes}
    assert paths == {"sweden": ("/chat/completions",), "sweden-embeddings": ("/embeddings",)}


def test_openais_regional_hosts(tmp_path: Path, stack: ExitStack) -> None:
    us, eu, globe = (stack.enter_context(Region(name, api_keys=[f"fake-{name}-key"])) for name in ("us", "eu", "globe"))
    hosts = {"us.api": us, "eu.api": eu, "api": globe}
    path = written(
        tmp_path, "openai.toml", **{f"https://{host}.openai.com/v1": region.url for host, region in hosts.items()}
    )
    keys = {
        "SMARTROUTE_API_KEY_US": "fake-us-key",
        "SMARTROUTE_API_KEY_EU": "fake-eu-key",
        "OPENAI_API_KEY": "fake-globe-key",
    }
    assert "answered by eu" in run("ask.py", path, SMARTROUTE_REGIONS="EU", **keys)
    eu.stop()
    assert "answered by us" in run("ask.py", path, **keys)
    us.stop()
    assert "answered by global" in run("ask.py", path, **keys)


def test_a_private_route_with_the_internet_behind_it(tmp_path: Path, stack: ExitStack) -> None:
    authority, vendor = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("llm.vendor.example").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    vendor.configure_trust(context)
    private = stack.enter_context(Region("private", tls=context, api_keys=["fake-key"]))
    internet = stack.enter_context(Region("internet", api_keys=["fake-key"]))
    client = vendor.issue_cert("client@example.org")
    authority.cert_pem.write_to_path(tmp_path / "vendor-ca.pem")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    client.private_key_pem.write_to_path(tmp_path / "client-key.pem")
    path = written(
        tmp_path,
        "private.toml",
        **{
            "https://10.20.0.5/v1": private.url,
            "https://my-account-abcd1234.us-iowa-1.direct.fireworks.ai/v1": internet.url,
            "# ca_file": "ca_file",
            "# client_": "client_",
            "/etc/smartroute": str(tmp_path),
        },
    )
    keys = {"SMARTROUTE_API_KEY": "fake-key", "OPENAI_API_KEY": "fake-console-key"}
    assert "answered by private" in run("ask.py", path, **keys)
    private.stop()
    assert "answered by internet" in run("ask.py", path, **keys)
