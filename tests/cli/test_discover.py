"""`smartroute discover`: a new user's way from an account to settings that work, and every way to go wrong."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smartroute import Config
from smartroute.cli import app
from smartroute.cli.discover import read_pasted
from smartroute.cli.findings import as_env, as_json, as_toml, findings
from smartroute.fireworks import read_page
from tests.control_plane import CONSOLE_KEY, DIRECT_KEY, ControlPlane, control_plane, deployment
from tests.environments import ROOT
from tests.firectl import as_json as firectl_json
from tests.firectl import as_text as firectl_text

BASE = "accounts/fireworks/models/llama-v3p1-8b-instruct"
OTHER = "accounts/fireworks/models/qwen3-8b"
NAME = "accounts/my-account/deployments/{}".format
ARIZONA = "my-account-abcd1234.us-arizona-1.direct.fireworks.ai"
FRANKFURT = "my-account-efgh5678.eu-frankfurt-1.direct.fireworks.ai"
PSC = deployment(
    "psc00001",
    "US_IOWA_1",
    directRouteType="GCP_PRIVATE_SERVICE_CONNECT",
    directRouteHandle="projects/fw/regions/us-central1/serviceAttachments/psc00001",
)
PRIVATELINK = deployment(
    "link0001",
    "US_VIRGINIA_1",
    directRouteType="AWS_PRIVATELINK",
    directRouteHandle="com.amazonaws.vpce.us-east-1.vpce-svc-0123456789abcdef0",
)
PLAIN = deployment("plain001", "EU_PARIS_1", directRouteType=None, directRouteHandle=None)


@dataclass
class Run:
    status: int
    output: str
    errors: str


def run(*arguments: str, pasted: str | bytes | None = None, **environ: str) -> Run:
    """The command in this process; nothing that it says may hold a key."""
    keep = {name: None for name in os.environ if name.startswith(("FIREWORKS_", "SMARTROUTE_"))}
    done = CliRunner().invoke(app, ["discover", *arguments], input=pasted, env={**keep, **environ})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert not re.search(f"{CONSOLE_KEY}|{DIRECT_KEY}", done.output)
    assert "\x1b" not in done.output
    return Run(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def server() -> Iterator[ControlPlane]:
    """Two regions of one model, two private ones, and one without a direct route."""
    two = (deployment("abcd1234"), deployment("efgh5678", "EU_FRANKFURT_1"))
    with control_plane(*two, PSC, PRIVATELINK, PLAIN) as server:
        yield server


def ask(server: ControlPlane, *arguments: str, **environ: str) -> Run:
    """The command, with all that it needs in the environment."""
    given = {"FIREWORKS_API_KEY": CONSOLE_KEY, "FIREWORKS_ACCOUNT_ID": "my-account", "FIREWORKS_BASE_URL": server.url}
    return run(*arguments, **{**given, **environ})


def sourced(text: str) -> dict[str, str]:
    """The environment after a shell has read what was printed."""
    script = f'{text}\nexec {sys.executable} -c "import json, os; print(json.dumps(dict(os.environ)))"'
    done = subprocess.run(["/bin/sh", "-euc", script], capture_output=True, text=True, check=True, env={})
    assert not done.stderr
    return dict(json.loads(done.stdout))


def configured(environ: Mapping[str, str]) -> Config:
    return Config.from_env({**environ, "SMARTROUTE_API_KEY": DIRECT_KEY})


def check_two_regions(config: Config, models: int = 4) -> None:
    assert [(route.url, route.region) for route in config.routes] == [
        (f"https://{FRANKFURT}/v1", "EU_FRANKFURT_1"),
        (f"https://{ARIZONA}/v1", "US_ARIZONA_1"),
    ]
    for route in config.routes:
        assert route.model_for(NAME("abcd1234")) == BASE
        assert route.model_for(f"{BASE}#{NAME('efgh5678')}") == BASE
        assert not route.serves(BASE)  # the serverless one
        assert not route.serves(OTHER)


# --- What it prints --------------------------------------------------------------------------------


def test_the_environment_that_it_prints_is_one_that_works(server: ControlPlane) -> None:
    done = ask(server)
    assert done.status == 0, done.errors
    check_two_regions(configured(sourced(done.output)))
    assert "SMARTROUTE_API_KEY_EU_FRANKFURT_1" in done.output


def test_the_other_way_to_call_is_there_in_a_comment(server: ControlPlane) -> None:
    lines = [line.removeprefix("# ") for line in ask(server).output.splitlines() if "# export SMARTROUTE_" in line]
    environ = sourced("\n".join(line for line in lines if "API_KEY" not in line))
    assert environ["SMARTROUTE_MODEL"] == BASE
    assert environ["SMARTROUTE_GLOBAL_MODEL"] == NAME("efgh5678")


def test_the_table(server: ControlPlane) -> None:
    head, *lines = ask(server).errors.partition("\n\n")[0].splitlines()[1:]
    assert head.split() == ["DEPLOYMENT", "STATE", "REGION", "READY", "TYPE", "MODEL"]
    assert [line.split()[0] for line in lines[:4]] == ["efgh5678", "abcd1234", "psc00001", "link0001"]
    assert lines[0].split() == ["efgh5678", "READY", "EU_FRANKFURT_1", "2", "INTERNET", "llama-v3p1-8b-instruct"]


def test_private_routes_are_explained(server: ControlPlane) -> None:
    done = ask(server, "--format", "toml")
    assert "psc00001 is private (GCP_PRIVATE_SERVICE_CONNECT): its handle names a service attachment" in done.errors
    assert "link0001 is private (AWS_PRIVATELINK): its handle names a VPC endpoint service" in done.errors
    template = done.output.partition("# psc00001")[2].partition("\n\n")[0]
    assert 'kind = "private"' in template
    assert "server_name" in template


def test_those_without_a_direct_route_are_counted(server: ControlPlane) -> None:
    done = ask(server)
    assert "1 deployment without a direct route left out" in done.errors
    assert "plain001" not in done.output


def test_as_a_file(server: ControlPlane, tmp_path: Path) -> None:
    path = tmp_path / "smartroute.toml"
    done = ask(server, "--write", str(path))
    assert done.status == 0, done.errors
    assert done.output == ""
    assert str(path) in done.errors
    text = path.read_text("utf-8")
    assert DIRECT_KEY not in text
    assert CONSOLE_KEY not in text
    assert not [line for line in text.splitlines() if re.match(r"#?\s*(global_)?api_key", line)]
    config = configured({"SMARTROUTE_CONFIG": str(path)})
    check_two_regions(config)
    assert [route.name for route in config.routes] == ["eu-frankfurt-1", "us-arizona-1"]


def test_both_forms_say_the_same(server: ControlPlane, tmp_path: Path) -> None:
    path = tmp_path / "smartroute.toml"
    path.write_text(ask(server, "--format", "toml").output)
    by_file, by_env = configured({"SMARTROUTE_CONFIG": str(path)}), configured(sourced(ask(server).output))
    assert by_file == by_env


def test_the_documented_shape_for_programs(server: ControlPlane) -> None:
    done = ask(server, "--json", "--deployment", "abcd1234", "--deployment", "psc00001")
    assert done.status == 0
    assert done.errors == f"Asking {server.url}\n"
    document = json.loads(done.output)
    assert document.pop("notes")[0].startswith("psc00001 is private")
    models = {NAME("abcd1234"): BASE, f"{BASE}#{NAME('abcd1234')}": BASE}
    assert document == {
        "account": "my-account",
        "deployments": [
            {
                "name": NAME("abcd1234"),
                "state": "READY",
                "region": "US_ARIZONA_1",
                "ready_replicas": 2,
                "type": "INTERNET",
                "handle": ARIZONA,
                "base_model": BASE,
                "route": "us-arizona-1",
            },
            {
                "name": NAME("psc00001"),
                "state": "READY",
                "region": "US_IOWA_1",
                "ready_replicas": 2,
                "type": "GCP_PRIVATE_SERVICE_CONNECT",
                "handle": "projects/fw/regions/us-central1/serviceAttachments/psc00001",
                "base_model": BASE,
                "route": None,
            },
        ],
        "routes": [
            {
                "name": "us-arizona-1",
                "address": ARIZONA,
                "region": "US_ARIZONA_1",
                "model": models,
                "key_variable": "SMARTROUTE_API_KEY_US_ARIZONA_1",
            }
        ],
        "without_direct_route": 0,
    }


@pytest.mark.parametrize("chosen", [["--deployment", "abcd1234"], ["--deployment", NAME("abcd1234")]])
def test_one_deployment_of_several(server: ControlPlane, chosen: list[str]) -> None:
    config = configured(sourced(ask(server, *chosen).output))
    assert [route.name for route in config.routes] == ["us-arizona-1"]
    assert not config.routes[0].serves(NAME("efgh5678"))


def test_two_in_one_region_get_names(server: ControlPlane) -> None:
    server.deployments.append(deployment("ijkl9012"))
    config = configured(sourced(ask(server).output))
    assert [route.name for route in config.routes] == [
        "eu-frankfurt-1",
        "us-arizona-1-abcd1234",
        "us-arizona-1-ijkl9012",
    ]


def test_a_handle_without_a_region(server: ControlPlane) -> None:
    server.deployments = [deployment("abcd1234", directRouteHandle="my-account-abcd1234.direct.fireworks.ai")]
    assert configured(sourced(ask(server).output)).routes[0].name == "my-account-abcd1234"
    done = ask(server, "--format", "toml")
    assert 'region = "US_ARIZONA_1"' in done.output
    assert "handle names no region" in done.errors


# --- Several models --------------------------------------------------------------------------------


@pytest.fixture
def mixed(server: ControlPlane) -> ControlPlane:
    server.deployments.append(deployment("qwen0001", "AP_TOKYO_1", model=OTHER))
    return server


def test_routes_of_several_models_know_their_own(mixed: ControlPlane, tmp_path: Path) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(ask(mixed).output)
    config = configured({"SMARTROUTE_CONFIG": str(path)})
    served = {
        route.name: route.model_for(NAME("qwen0001")) for route in config.routes if route.serves(NAME("qwen0001"))
    }
    assert served == {"ap-tokyo-1": OTHER}
    assert sum(route.serves(NAME("abcd1234")) for route in config.routes) == 2


def test_the_environment_cannot_say_it(mixed: ControlPlane) -> None:
    done = ask(mixed, "--format", "env")
    assert done.status == 2
    assert done.output == ""
    assert "--model" in done.errors


@pytest.mark.parametrize("model", [OTHER, "qwen3-8b"])
def test_one_model_of_several(mixed: ControlPlane, model: str) -> None:
    config = configured(sourced(ask(mixed, "--model", model).output))
    assert [route.name for route in config.routes] == ["ap-tokyo-1"]


def test_a_choice_that_leaves_nothing(mixed: ControlPlane) -> None:
    done = ask(mixed, "--deployment", "abcd123")
    assert done.status == 2
    assert "these are there: abcd1234, efgh5678" in done.errors
    done = ask(mixed, "--model", "llama")
    assert done.status == 2
    assert OTHER in done.errors


# --- States ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["DELETING", "DELETED", "FAILED"])
def test_what_does_not_come_back_is_left_out(server: ControlPlane, state: str) -> None:
    server.deployments[0] = deployment("abcd1234", state=state)
    done = ask(server)
    assert f"abcd1234 is {state}, and left out" in done.errors
    assert [route.name for route in configured(sourced(done.output)).routes] == ["eu-frankfurt-1"]


@pytest.mark.parametrize("stats", [{}, {"readyReplicaCount": 0}])
def test_no_ready_replica(server: ControlPlane, stats: dict[str, int]) -> None:
    server.deployments[0] = deployment("abcd1234", replicaStats=stats)
    done = ask(server)
    assert done.status == 0
    assert "abcd1234 has no ready replica" in done.errors
    assert ARIZONA in done.output


def test_a_deployment_that_is_up_is_the_one_to_fall_back_on(server: ControlPlane) -> None:
    server.deployments[1] = deployment("efgh5678", "EU_FRANKFURT_1", replicaStats={})
    assert f'SMARTROUTE_GLOBAL_MODEL="{NAME("abcd1234")}"' in ask(server).output


def test_a_region_that_its_handle_contradicts(server: ControlPlane) -> None:
    server.deployments[0] = deployment("abcd1234", region="US_TEXAS_1", directRouteHandle=ARIZONA)
    assert "abcd1234 is in US_TEXAS_1 by the control plane and in US_ARIZONA_1 by its handle" in ask(server).errors


def test_no_handle_yet(server: ControlPlane) -> None:
    server.deployments = [deployment("abcd1234", state="CREATING", directRouteHandle=None)]
    done = ask(server)
    assert done.status == 1
    assert "no handle that can be read (yet)" in done.errors
    assert done.output == ""


def test_an_account_without_direct_routes(server: ControlPlane) -> None:
    server.deployments = [PLAIN, PLAIN]
    done = ask(server)
    assert done.status == 1
    assert "2 deployments without a direct route" in done.errors
    assert "--direct-route-type INTERNET" in done.errors
    assert json.loads(ask(server, "--json").output)["routes"] == []


# --- Files -----------------------------------------------------------------------------------------


def test_a_file_is_not_overwritten_in_a_pipe(server: ControlPlane, tmp_path: Path) -> None:
    path = tmp_path / "smartroute.toml"
    path.write_text("mine")
    done = ask(server, "--write", str(path))
    assert done.status == 2
    assert "--force" in done.errors
    assert path.read_text() == "mine"
    assert ask(server, "--write", str(path), "--force").status == 0
    assert tomllib.loads(path.read_text())["route"]


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1)])
def test_in_a_terminal_it_asks(server: ControlPlane, tmp_path: Path, answer: bytes, status: int) -> None:
    path = tmp_path / "smartroute.toml"
    path.write_text("mine")
    ours, theirs = pty.openpty()
    environ = {"FIREWORKS_API_KEY": CONSOLE_KEY, "FIREWORKS_ACCOUNT_ID": "my-account", "FIREWORKS_BASE_URL": server.url}
    try:
        os.write(ours, answer)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "smartroute.cli", "discover", "--write", path],
            stdin=theirs,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env={**os.environ, **environ},
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == status, done.stderr
    assert "smartroute.toml exists. Overwrite it? [y/N]" in done.stderr
    assert (path.read_text() == "mine") is bool(status)


def test_interrupted_while_it_asks(server: ControlPlane, tmp_path: Path) -> None:
    path = tmp_path / "smartroute.toml"
    path.write_text("mine")
    ours, theirs = pty.openpty()
    environ = {"FIREWORKS_API_KEY": CONSOLE_KEY, "FIREWORKS_ACCOUNT_ID": "my-account", "FIREWORKS_BASE_URL": server.url}
    command = [sys.executable, "-m", "smartroute.cli", "discover", "--write", str(path)]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env={**os.environ, **environ}
    ) as running:
        assert running.stderr is not None
        said = b""
        while not said.endswith(b"[y/N]:"):
            said += os.read(running.stderr.fileno(), 1000)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate()
    os.close(ours)
    os.close(theirs)
    assert running.returncode == 130
    assert b"Traceback" not in errors
    assert path.read_text() == "mine"


def test_a_file_whose_name_is_too_long(server: ControlPlane, tmp_path: Path) -> None:
    done = ask(server, "--write", str(tmp_path / ("a" * 300)))
    assert done.status == 2
    assert "cannot be written" in done.errors


def test_a_folder_that_is_not_there(server: ControlPlane, tmp_path: Path) -> None:
    done = ask(server, "--write", str(tmp_path / "nowhere" / "smartroute.toml"))
    assert done.status == 2
    assert "No such file or directory" in done.errors


def test_nothing_is_written_where_there_is_nothing_to_write(server: ControlPlane, tmp_path: Path) -> None:
    server.deployments = [PLAIN]
    assert ask(server, "--write", str(tmp_path / "smartroute.toml")).status == 1
    assert list(tmp_path.iterdir()) == []


# --- What firectl prints ---------------------------------------------------------------------------

TWO = (deployment("abcd1234"), deployment("efgh5678", "EU_FRANKFURT_1"))
PASTED = {
    "text": "".join(map(firectl_text, TWO)),
    "a list": firectl_json(*TWO),
    "a page": json.dumps({"deployments": TWO}),
    "one after another": "\n".join(json.dumps(each, indent=2) for each in TWO),
    "a notice first": f"A new version is available.\n{firectl_json(*TWO)}\n",
}


@pytest.mark.parametrize("pasted", PASTED.values(), ids=PASTED.keys())
def test_firectls_output_needs_no_key_and_no_network(pasted: str) -> None:
    assert DIRECT_KEY in pasted
    done = run("-", pasted=pasted, HTTPS_PROXY="http://127.0.0.1:1")
    assert done.status == 0, done.errors
    check_two_regions(configured(sourced(done.output)))


def test_the_vendors_own_example() -> None:
    done = run("-", pasted=f"Name: {NAME('abcd1234')}\n...\nDirect Route Handle: {ARIZONA}\nRegion: US_ARIZONA_1\n")
    assert done.status == 0
    (route,) = configured(sourced(done.output)).routes
    assert (route.url, route.models) == (f"https://{ARIZONA}/v1", None)
    assert "The base model is unknown" in done.output


@pytest.mark.parametrize(
    "pasted",
    [
        "",
        "Error: rpc error: code = NotFound\n",
        '{"deployments": [',
        '{"code": 5}',
        "ID  STATE\nabcd1234  READY\n",
        b"\xff\xfe",
    ],
)
def test_what_holds_no_deployment(pasted: str | bytes) -> None:
    done = run("-", pasted=pasted)
    assert done.status == 2
    assert done.output == ""
    assert "firectl deployment get" in done.errors


@pytest.mark.parametrize("before", ["[WARN] there is a new firectl\n", "\n" * 300_000], ids=["notice", "empty lines"])
def test_what_stands_before_a_deployment_is_passed_over(before: str) -> None:
    assert read_pasted(before + PASTED["text"]) == read_pasted(PASTED["text"])


@pytest.mark.parametrize(
    "value", ["Name: a" + " " * 200_000 + "b", "Name: " + " " * 200_000 + "b"], ids=["in", "before"]
)
def test_long_lines_take_no_time(value: str) -> None:
    with pytest.raises(ValueError, match="no deployments"):
        read_pasted(value)


def test_a_file_is_not_overwritten_when_stdin_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "smartroute.toml"
    path.write_text("mine")
    assert run("-", "--write", str(path), pasted=PASTED["text"]).status == 2
    assert path.read_text() == "mine"


def test_only_a_dash_can_be_read() -> None:
    done = run("deployments.json")
    assert done.status == 2
    assert "write -" in done.errors


# --- Wrong usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"FIREWORKS_API_KEY": ""}, "FIREWORKS_API_KEY is not set"),
        ({"FIREWORKS_API_KEY": "fw_fake key"}, "FIREWORKS_API_KEY: a key is empty or has a character"),
        ({"FIREWORKS_API_KEY": "fw_AnotherFakeKey000000"}, "(401)"),
        ({"FIREWORKS_ACCOUNT_ID": ""}, "set FIREWORKS_ACCOUNT_ID, or give --account"),
        ({"FIREWORKS_ACCOUNT_ID": "../x"}, "FIREWORKS_ACCOUNT_ID: it is not the id of an account"),
        ({"FIREWORKS_ACCOUNT_ID": "nobody"}, "(404)"),
        ({"FIREWORKS_BASE_URL": "ftp://x"}, "FIREWORKS_BASE_URL: the scheme of the URL"),
        ({"FIREWORKS_BASE_URL": "http://api.example.com"}, "in the clear"),
        ({"FIREWORKS_BASE_URL": "https://user:fw_secret@api.example.com"}, "a user name or a password"),
    ],
)
def test_wrong_settings_are_told_with_their_remedies(server: ControlPlane, environ: dict[str, str], told: str) -> None:
    done = ask(server, **environ)
    assert done.status == 2
    assert done.output == ""
    assert told in done.errors
    assert "Remedy: " in done.errors
    assert not any(value in done.errors for value in environ.values() if value.startswith(("fw_", "https://user")))


def test_options_win_over_the_environment(server: ControlPlane) -> None:
    wrong = {"FIREWORKS_ACCOUNT_ID": "nobody", "FIREWORKS_BASE_URL": "http://127.0.0.1:1"}
    assert ask(server, "--account", "accounts/my-account", "--api-url", server.url, **wrong).status == 0


@pytest.mark.parametrize("suffix", ["/v1", "/inference/v1"])
def test_a_base_url_for_inference_leads_to_the_control_plane(server: ControlPlane, suffix: str) -> None:
    assert ask(server, FIREWORKS_BASE_URL=server.url + suffix).status == 0


def test_a_handle_is_no_control_plane(server: ControlPlane) -> None:
    done = ask(server, "--api-url", f"https://{ARIZONA}/v1")
    assert done.status == 2
    assert "--api-url: a direct route is no control plane" in done.errors


@pytest.mark.parametrize(("status", "code"), [(401, 2), (403, 2), (404, 2), (412, 1)])
def test_what_the_vendor_refuses(server: ControlPlane, status: int, code: int) -> None:
    server.answers = [server.error(status, f"no: {CONSOLE_KEY}")]
    done = ask(server)
    assert (done.status, done.output) == (code, "")
    assert str(status) in done.errors
    assert "Remedy: " in done.errors


@pytest.mark.parametrize("status", [429, 503])
def test_what_passes_is_waited_for_and_said(server: ControlPlane, status: int) -> None:
    server.answers = [(status, {"Retry-After": "0"}, b"")] * 2
    done = ask(server)
    assert done.status == 0
    assert done.errors.count("trying again in 0.0 s") == 2
    server.answers = [(status, {"Retry-After": "0"}, b"")] * 10
    assert ask(server).status == 1


def test_a_page_of_a_proxy(server: ControlPlane) -> None:
    server.answers = [(200, {"Content-Type": "text/html"}, b"<html>Sign in</html>")]
    done = ask(server)
    assert done.status == 1
    assert "did not answer with a list of deployments" in done.errors


# --- The gateway -----------------------------------------------------------------------------------


def test_deployments_behind_the_gateway_as_routes(server: ControlPlane) -> None:
    done = ask(server, "--gateway", "--format", "toml")
    assert done.status == 0
    document = tomllib.loads(done.output)
    (route,) = (each for each in document["route"] if each["name"] == "plain001")
    assert route["address"] == "https://api.fireworks.ai/inference/v1"
    assert route["region"] == "EU_PARIS_1"
    assert set(route["model"].values()) == {NAME("plain001")}
    assert {NAME("abcd1234"), f"{BASE}#{NAME('plain001')}"} <= set(route["model"])
    assert "left out" not in done.errors
    assert "SMARTROUTE_API_KEY_PLAIN001" not in done.output
    assert "FIREWORKS_API_KEY" in done.output


def test_they_are_routes_that_a_configuration_takes(server: ControlPlane, tmp_path: Path) -> None:
    server.deployments += [dict(PLAIN, name=NAME("global")), dict(PLAIN, name=NAME("other001"), baseModel=OTHER)]
    path = tmp_path / "routes.toml"
    assert ask(server, "--gateway", "--write", str(path)).status == 0
    config = configured({"SMARTROUTE_CONFIG": str(path), "FIREWORKS_API_KEY": CONSOLE_KEY})
    by_name = {route.name: route for route in config.routes}
    assert set(by_name) == {"eu-frankfurt-1", "us-arizona-1", "plain001", "global-global", "other001"}
    assert by_name["plain001"].url == config.global_url
    assert by_name["plain001"].keys == (CONSOLE_KEY,)
    assert by_name["plain001"].model_for(NAME("abcd1234")) == NAME("plain001")
    assert by_name["us-arizona-1"].keys == (DIRECT_KEY,)
    assert by_name["us-arizona-1"].model_for(NAME("plain001")) == BASE
    assert not by_name["other001"].serves(NAME("abcd1234"))


def test_only_those(server: ControlPlane, tmp_path: Path) -> None:
    server.deployments = [PLAIN]
    path = tmp_path / "routes.toml"
    path.write_text(ask(server, "--gateway").output)
    assert "SMARTROUTE_API_KEY" not in path.read_text()
    assert ask(server, "--gateway", "--format", "env").status == 2
    (route,) = Config.from_toml(path, {"FIREWORKS_API_KEY": CONSOLE_KEY}).routes
    assert (route.name, route.model_for(NAME("plain001"))) == ("plain001", NAME("plain001"))


# --- Purely ----------------------------------------------------------------------------------------


def test_nothing_that_a_shell_or_toml_reads_comes_through() -> None:
    odd = ["$(reboot)", '"', "\n", "`x`", "\\", "#", "'"]
    documents = [deployment(f"d{index}", model=f"accounts/x/models/m{text}") for index, text in enumerate(odd)]
    documents += [deployment(f"e{text}") for text in odd]
    documents += [deployment(f"f{index}", state=text, region="US_UTAH_1") for index, text in enumerate(odd)]
    found = findings(read_page(documents)[0])
    for each in (as_env(found), as_toml(found), as_json(found, None)):
        assert "reboot" not in each
        assert "`" not in each
    tomllib.loads(as_toml(found))


def test_the_help_teaches_by_example() -> None:
    done = run("--help")
    assert done.status == 0
    for example in (
        "smartroute discover --write smartroute.toml",
        "firectl deployment get abcd1234 | smartroute discover -",
    ):
        assert example in done.output


def test_the_command_line_does_not_wait_for_what_asks_the_vendor() -> None:
    script = "import sys, smartroute.cli.discover; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"httpx2", "httpcore2", "tenacity"} & set(done.stdout.split())
