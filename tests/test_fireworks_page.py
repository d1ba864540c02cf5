"""docs/fireworks.md, run as it stands: handles and certificates are real, only their names lead to this machine."""

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
import typer.main

from smartroute import Config
from smartroute.cli import app
from smartroute.fireworks import GATEWAY_HOSTS, GLOBAL_HOST
from smartroute.testing import Region
from tests.control_plane import CONSOLE_KEY, ControlPlane, control_plane, deployment
from tests.environments import ROOT
from tests.firectl import as_text

PAGE = (ROOT / "docs" / "fireworks.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ARIZONA = "my-account-abcd1234.us-arizona-1.direct.fireworks.ai"
FRANKFURT = "my-account-efgh5678.eu-frankfurt-1.direct.fireworks.ai"
BASE = "accounts/fireworks/models/llama-v3p1-8b-instruct"

COMMANDS = getattr(typer.main.get_command(app), "commands", {})

SITECUSTOMIZE = """
import json, os, socket

PORTS = json.loads(os.environ["STAND_INS"])
ADDRESSES = {host: f"127.0.0.{number}" for number, host in enumerate(PORTS, 10)}
LISTENING = {(address, 443): ("127.0.0.1", PORTS[host]) for host, address in ADDRESSES.items()}
resolve = socket.getaddrinfo

def getaddrinfo(host, *arguments, **options):
    name = host.decode() if isinstance(host, bytes) else host
    assert name in ADDRESSES or name.startswith("127.0.0."), f"{name} is asked for: tests use no network"
    return resolve(ADDRESSES.get(name, name), *arguments, **options)

class Socket(socket.socket):
    def connect(self, address):
        super().connect(LISTENING.get(address, address))

    def connect_ex(self, address):
        return super().connect_ex(LISTENING.get(address, address))

socket.getaddrinfo, socket.socket = getaddrinfo, Socket
"""
FIRECTL = """#!/bin/sh
echo "$*" >> "$FIRECTL_LOG"
case "$1 $2" in
"deployment create") echo "State: CREATING" ;;
"deployment get") cat "$(dirname "$0")/$3.txt" ;;
*) exit 1 ;;
esac
"""


@dataclass
class Reader:
    """Someone who does what the page says, in one shell."""

    folder: Path
    environ: dict[str, str]
    regions: dict[str, Region]
    vendor: ControlPlane
    errors: str = field(default="")

    def shell(self, block: str) -> str:
        """What a block prints. The environment that it leaves is that of the next one."""
        path = self.folder / "environ.json"
        keep = f'{sys.executable} -c \'import json, os; json.dump(dict(os.environ), open("{path}", "w"))\''
        output = self._run(["/bin/sh", "-euc", f"{block}\n{keep}"])
        self.environ = dict(json.loads(path.read_text()))
        return output

    def python(self, block: str) -> str:
        """What a snippet prints."""
        return self._run([sys.executable, "-W", "error", "-c", block])

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command, env=self.environ, cwd=self.folder, capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.errors = done.stderr
        assert CONSOLE_KEY not in done.stdout + done.stderr
        return done.stdout

    def program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    for program in ("curl", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing: the page uses it")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    deployments = (deployment("abcd1234"), deployment("efgh5678", "EU_FRANKFURT_1"))
    plain = [deployment(name, region, directRouteType=None, directRouteHandle=None) for name, region in
             (("ijkl9012", "EU_PARIS_1"), ("mnop3456", "AP_TOKYO_1"))]  # fmt: skip
    with ExitStack() as stack:
        regions: dict[str, Region] = {}
        for host in (ARIZONA, FRANKFURT, GLOBAL_HOST):
            tls = ssl_context(authority, host)
            prefix = "/inference/v1" if host == GLOBAL_HOST else "/v1"
            keys = [CONSOLE_KEY] if host == GLOBAL_HOST else []
            models = None if host == GLOBAL_HOST else [BASE]
            name = host.partition(".")[0]
            regions[host] = stack.enter_context(Region(name, tls=tls, prefix=prefix, api_keys=keys, models=models))
        ports = {host: int(region.url.rpartition(":")[2].partition("/")[0]) for host, region in regions.items()}
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "sitecustomize.py").write_text(SITECUSTOMIZE)
        curlrc = [f'connect-to = "{host}:443:127.0.0.1:{port}"' for host, port in ports.items()]
        (tmp_path / ".curlrc").write_text("\n".join([*curlrc, f'cacert = "{tmp_path / "authority.pem"}"', ""]))
        vendor = stack.enter_context(control_plane(*deployments, *plain))
        environ = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": f"{tmp_path / 'bin'}:{ROOT}",
            "HOME": str(tmp_path),
            "CURL_HOME": str(tmp_path),
            "SSL_CERT_FILE": str(tmp_path / "authority.pem"),
            "STAND_INS": json.dumps(ports),
            "FIRECTL_LOG": str(tmp_path / "firectl.log"),
            "FIREWORKS_API_KEY": CONSOLE_KEY,
            "FIREWORKS_BASE_URL": vendor.url,
        }
        reader = Reader(tmp_path, environ, regions, vendor)
        reader.program("firectl", FIRECTL)
        reader.program("smartroute", f'#!/bin/sh\nexec {sys.executable} -W error -m smartroute.cli "$@"\n')
        (tmp_path / "bin" / "abcd1234.txt").write_text(as_text(deployments[0]))
        yield reader


def ssl_context(authority: trustme.CA, host: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


def block(language: str, holding: str) -> str:
    """The one block of the page that holds these words."""
    found: list[str] = [text for name, text in BLOCKS if name == language and holding in text]
    assert len(found) == 1
    return found[0]


@pytest.mark.timeout(180)
def test_the_page_from_its_top_to_its_end(reader: Reader) -> None:
    # 1. The deployments
    reader.shell(block("sh", "openssl rand"))
    key = reader.environ["SMARTROUTE_API_KEY"]
    assert re.fullmatch("[0-9a-f]{48}", key)
    created = (reader.folder / "firectl.log").read_text().splitlines()
    assert [re.findall("--region ([A-Z0-9_]+)", line) for line in created] == [["US_ARIZONA_1"], ["EU_FRANKFURT_1"]]
    assert all(f"--direct-route-type INTERNET --direct-route-api-keys {key}" in line for line in created)
    for host in (ARIZONA, FRANKFURT):
        reader.regions[host].api_keys = [key]

    # 2. and 3. One of them, by hand and with the SDK
    assert "my-account-abcd1234" in reader.shell(block("sh", "curl "))
    on_one_handle = block("py", "OpenAI(")
    assert "my-account-abcd1234" in reader.python(on_one_handle)

    # 4. All of them
    shown = reader.shell(block("sh", "FIREWORKS_ACCOUNT_ID="))
    for line in block("text", "export SMARTROUTE_ROUTES").partition("...")[0].strip().splitlines():
        assert line in reader.errors + shown
    reader.shell(block("sh", "eval "))
    by_env = Config.from_env(reader.environ)
    assert ARIZONA in reader.environ["SMARTROUTE_ROUTES"]
    reader.shell(block("sh", "--write smartroute.toml"))
    assert "SMARTROUTE_ROUTES" not in reader.environ
    assert Config.from_env(reader.environ) == by_env
    assert ARIZONA in reader.shell(block("sh", "| smartroute"))
    assert key not in (reader.folder / "smartroute.toml").read_text()

    # 5. Each way to them
    if "check" in COMMANDS:
        checked = reader.shell(block("sh", "check --live"))
        assert all(name in checked for name in ("us-arizona-1", "eu-frankfurt-1", "global"))

    # 6. The one argument; and what it is for
    routed = block("python", "smartroute.Client()")
    assert reader.python(routed).startswith(("us-arizona-1 my-account-abcd1234", "eu-frankfurt-1 my-account-efgh5678"))
    reader.regions[FRANKFURT].stop()
    assert reader.python(routed).startswith("us-arizona-1 my-account-abcd1234")
    reader.regions[ARIZONA].stop()
    assert reader.python(routed).startswith("global api ")
    posted = [seen for seen in reader.regions[GLOBAL_HOST].requests if seen.method == "POST"]
    assert posted[-1].json()["model"] == "accounts/my-account/deployments/abcd1234"
    for seen in reader.regions[ARIZONA].requests + reader.regions[FRANKFURT].requests:
        assert seen.header("authorization") == f"Bearer {key}"

    # The other way to call, with the settings of the comment
    other_way = on_one_handle.replace("    api_key=", "    http_client=smartroute.Client(),\n    api_key=")
    comment = re.findall("^# export (SMARTROUTE_(?:GLOBAL_)?MODEL=.*)$", shown, re.MULTILINE)
    assert len(comment) == 2
    reader.shell("unset SMARTROUTE_CONFIG\n" + shown + "export " + " ".join(comment))
    assert "api 2" in reader.python("import smartroute\n" + other_way)

    # Behind the gateway
    reader.shell(block("sh", "--gateway"))
    names = [route["name"] for route in tomllib.loads((reader.folder / "gateway.toml").read_text())["route"]]
    assert sorted(names) == ["eu-frankfurt-1", "ijkl9012", "mnop3456", "us-arizona-1"]


def test_no_block_is_left_out() -> None:
    """Those above, the sample of a handle, and the file below."""
    assert [name for name, _ in BLOCKS].count("sh") == 8
    assert [name for name, _ in BLOCKS if name != "sh"] == ["text", "py", "text", "python", "toml"]


def test_the_gateways_file_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(block("toml", "[[route]]"))
    config = Config.from_toml(path, {"FIREWORKS_API_KEY": CONSOLE_KEY, "SMARTROUTE_API_KEY": "FakeDirectKey"})
    assert {route.url for route in config.routes} == {config.global_url}
    assert [route.keys for route in config.routes] == [(CONSOLE_KEY,)] * 2
    assert all(host in PAGE for host in GATEWAY_HOSTS)


def test_the_shape_for_programs_is_described() -> None:
    shape = PAGE.partition("for programs\n")[2]
    with control_plane(deployment("abcd1234")) as vendor:
        done = subprocess.run(
            [sys.executable, "-m", "smartroute.cli", "discover", "--json", "--account", "my-account"],
            env={**os.environ, "FIREWORKS_API_KEY": CONSOLE_KEY, "FIREWORKS_BASE_URL": vendor.url},
            capture_output=True,
            text=True,
            check=True,
        )
    document = json.loads(done.stdout)
    described = set(re.findall(r"`(\w+)`", shape))
    named = {*document, *document["deployments"][0], *document["routes"][0]}
    assert named <= described
