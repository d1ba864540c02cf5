import dataclasses
import inspect
import logging
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute import config as module
from smartroute.config import Config, unknown_variables, written
from smartroute.errors import ConfigError
from smartroute.fireworks import GLOBAL_URL, REGIONS
from smartroute.route import Keys, Kind, Route
from smartroute.settings import PATHS, SETTINGS

ARIZONA = "my-account-abcd1234.us-arizona-1.direct.fireworks.ai"
FRANKFURT = "my-account-abcd1234.eu-frankfurt-1.direct.fireworks.ai"
URL = "https://llm.example.com/v1"


@pytest.fixture(autouse=True)
def _every_warning_is_the_first() -> None:
    module._warn_of.cache_clear()


def env(**variables: str) -> dict[str, str]:
    return {f"SMARTROUTE_{name}": value for name, value in variables.items()}


def refused(make: Callable[[], Config]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        make()
    return caught.value


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "smartroute.toml"
        path.write_text(text, "utf-8")
        return path

    return write


# --- Happy paths -------------------------------------------------------------------------------------


def test_nothing_configured_is_fine() -> None:
    config = Config()
    assert config == Config.from_env({}) == Config.from_env(dict.fromkeys(module._IN_ENVIRON, " "))
    assert config.routes == ()
    assert config.global_route == Route(GLOBAL_URL, kind=Kind.GLOBAL)


def test_the_documented_defaults_are_the_defaults() -> None:
    said = {setting.name: setting.default for setting in SETTINGS if setting.default}
    assert Config.from_env(env(**{name.upper(): value for name, value in said.items()})) == Config()


def test_the_table_of_settings_is_the_signature() -> None:
    names = {setting.name for setting in SETTINGS}
    assert names - {"api_key_<name>", "config"} == set(inspect.signature(Config).parameters)
    assert {each.name for each in dataclasses.fields(Config)} == names - {
        *("api_key_<name>", "config", "api_key", "model")
    }


@pytest.mark.parametrize(
    ("variables", "attribute", "value"),
    [
        ({"GLOBAL_URL": "https://Gateway.example/v1/"}, "global_url", "https://gateway.example/v1"),
        ({"GLOBAL_URL": "http://gateway.example/v1"}, "global_url", "http://gateway.example/v1"),
        ({"GLOBAL_URL": "Off"}, "global_url", None),
        ({"GLOBAL_API_KEY": " key "}, "global_api_key", "key"),
        ({"GLOBAL_MODEL": "m#accounts/a/deployments/d"}, "global_model", "m#accounts/a/deployments/d"),
        ({"GLOBAL_MODEL": "b=c,a=d"}, "global_model", (("a", "d"), ("b", "c"))),
        ({"REGIONS": "eu-*, us_iowa_1 GLOBAL"}, "regions", ("EU_*", "US_IOWA_1", "GLOBAL")),
        ({"FORWARD_HEADERS": "X-Tenant, x-trace-*"}, "forward_headers", ("x-tenant", "x-trace-*")),
        ({"PATHS": "/chat/completions/ /rerank"}, "paths", ("/chat/completions", "/rerank")),
        ({"PROBE_INTERVAL": "0"}, "probe_interval", 0.0),
        ({"PROBE_INTERVAL": "0.0"}, "probe_interval", 0.0),
        ({"PROBE_INTERVAL": "0.1"}, "probe_interval", 0.1),
        ({"PROBE_INTERVAL": "3600"}, "probe_interval", 3600.0),
        ({"PROBE_PATH": "/health"}, "probe_path", "/health"),
        ({"DEADLINE": "2.5"}, "deadline", 2.5),
        ({"DEADLINE": "86400"}, "deadline", 86400.0),
        ({"HEDGE": "off"}, "hedge", False),
        ({"HEDGE": "on"}, "hedge", True),
        ({"AFFINITY": "off"}, "affinity", False),
        ({"AFFINITY": "TRUE"}, "affinity", True),
        ({"BACKEND": "httpcore"}, "backend", "httpcore"),
        ({"BACKEND": "AIOHTTP"}, "backend", "aiohttp"),
        ({"LOG": "DEBUG"}, "log", "debug"),
        ({"DISABLED": "0"}, "disabled", False),
        ({"DISABLED": "1"}, "disabled", True),
    ],
)
def test_one_variable(variables: dict[str, str], attribute: str, value: Any) -> None:
    config = Config.from_env(env(**variables))
    assert getattr(config, attribute) == value
    assert config == dataclasses.replace(Config(), **{attribute: value})


def test_routes_by_commas_and_white_space() -> None:
    config = Config.from_env(env(ROUTES=f"{ARIZONA},\n\tspare={URL} ,vllm=http://[::1]:8000/v1/", API_KEY="one, two"))
    assert config.routes == (
        Route(ARIZONA, api_key=["one", "two"], paths=PATHS),
        Route(URL, name="spare", api_key=["one", "two"], paths=PATHS),
        Route("http://[::1]:8000/v1", name="vllm", api_key=["one", "two"], paths=PATHS),
    )


@pytest.mark.parametrize("region", REGIONS)
def test_the_key_of_one_route(region: str) -> None:
    handle = f"a-b.{region.lower().replace('_', '-')}.direct.fireworks.ai"
    routes = Config.from_env(env(ROUTES=f"{handle} other.one={URL}", API_KEY="all", **{f"API_KEY_{region}": "own,2nd"}))
    assert [route.keys for route in routes.routes] == [("own", "2nd"), ("all",)]


def test_no_default_key_is_needed_where_every_route_has_its_own() -> None:
    config = Config.from_env(env(ROUTES=f"a.b-c={URL} d={ARIZONA}", API_KEY_A_B_C="1", API_KEY_D="2"))
    assert [route.keys for route in config.routes] == [("1",), ("2",)]


@pytest.mark.parametrize(
    ("model", "models"), [("base", "base"), ("gpt=m, mini=n", (("gpt", "m"), ("mini", "n"))), ("", None)]
)
def test_the_model_of_the_routes(model: str, models: object) -> None:
    config = Config.from_env(env(ROUTES=ARIZONA, API_KEY="k", MODEL=model))
    assert [route.models for route in config.routes] == [models]


def test_the_global_key_is_the_vendors_at_the_vendors_host_alone() -> None:
    console = {"FIREWORKS_API_KEY": "console\n"}
    assert Config.from_env(console).global_api_key == "console"
    assert Config.from_env(console | env(GLOBAL_API_KEY="own")).global_api_key == "own"
    assert Config.from_env(console | env(GLOBAL_URL="https://gateway.example/v1")).global_api_key is None
    assert Config.from_env(console | env(GLOBAL_URL="https://api.fireworks.ai.evil.example/v1")).global_api_key is None
    assert Config.from_env(console | env(GLOBAL_URL="off")).global_api_key is None


def test_arguments_say_the_same_as_variables() -> None:
    arguments = Config(
        [ARIZONA, Route(URL, name="own", api_key="k3", model="n"), "vllm=http://localhost:8000/v1"],
        api_key=["k1", "k2"],
        model={"gpt": "m"},
        global_api_key="g",
        global_model={"m": "m#d"},
        regions=(),
        forward_headers=["X-A"],
        paths=["/completions"],
        probe_interval=5,
        deadline=30,
        log="info",
    )
    assert arguments.routes == (
        Route(ARIZONA, api_key=["k1", "k2"], model={"gpt": "m"}, paths=["/completions"]),
        Route(URL, name="own", api_key="k3", model="n", paths=["/completions"]),
        Route(
            "http://localhost:8000/v1", name="vllm", api_key=["k1", "k2"], model={"gpt": "m"}, paths=["/completions"]
        ),
    )
    assert arguments.forward_headers == ("x-a",)
    assert (arguments.probe_interval, arguments.deadline) == (5.0, 30.0)
    assert arguments.global_route == Route(GLOBAL_URL, kind=Kind.GLOBAL, api_key="g", model={"m": "m#d"})
    assert Config([ARIZONA], api_key="k") == Config.from_env(env(ROUTES=ARIZONA, API_KEY="k"))


def test_arguments_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTROUTE_DEADLINE", "5")
    monkeypatch.setenv("FIREWORKS_API_KEY", "console")
    assert (Config().deadline, Config().global_api_key) == (None, None)
    assert (Config.from_env().deadline, Config.from_env().global_api_key) == (5.0, "console")


def test_without_a_fallback() -> None:
    assert Config(global_url=None) == Config(global_url="off")
    assert Config(global_url=None).global_route is None


def test_a_private_route_may_have_no_key() -> None:
    assert Config([Route(URL, kind="private")]).routes[0].keys == ()
    assert Config([Route(URL, kind="private")], api_key="k").routes[0].keys == ("k",)


@pytest.mark.parametrize(
    ("regions", "region", "allowed"),
    [
        ([], None, True),
        ([], "EU_FRANKFURT_1", True),
        ([], "GLOBAL", True),
        (["EU_*"], "eu-frankfurt-1", True),
        (["EU_*"], "US_IOWA_1", False),
        (["EU_*"], "GLOBAL", False),
        (["EU_*"], None, False),
        (["*"], "GLOBAL", True),
        (["*"], None, False),
        (["eu_*", "global"], "GLOBAL", True),
        (["US_ILLINOIS_?"], "US_ILLINOIS_2", True),
        (["US_ILLINOIS"], "US_ILLINOIS_2", False),
    ],
)
def test_which_regions_are_allowed(regions: list[str], region: str | None, allowed: bool) -> None:
    assert Config(regions=regions).allows(region) is allowed


# --- A configuration is a value ----------------------------------------------------------------------


def full() -> Config:
    return Config(
        [ARIZONA, FRANKFURT], api_key="key-1,key-2", model={"a": "b"}, global_api_key="key-3", global_model="g"
    )


def test_equal_configurations_are_equal() -> None:
    assert full() == full()
    assert len({full(), full(), Config(), Config()}) == 2
    assert full() != dataclasses.replace(full(), global_api_key="other")
    assert dataclasses.replace(full()) == full()


def test_a_configuration_can_be_pickled() -> None:
    copy = pickle.loads(pickle.dumps(full()))
    assert copy == full()
    assert copy.routes[0].keys == ("key-1", "key-2")
    assert copy.global_api_key == "key-3"


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(AttributeError):
        full().deadline = 1.0  # type: ignore[misc]


def test_importing_it_loads_no_http_library() -> None:
    script = "import sys, smartroute.config; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert "smartroute.config" in loaded
    assert {"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "http.client", "pydantic"}.isdisjoint(loaded)


# --- Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "setting", "phrase"),
    [
        ({"ROUTES": "llm.example.com"}, "ROUTES", "write a handle"),
        ({"ROUTES": "https:///v1"}, "ROUTES", "no host"),
        ({"ROUTES": "ftp://llm.example.com/v1"}, "ROUTES", "https://host/v1"),
        ({"ROUTES": "https://me:pw@llm.example.com/v1"}, "ROUTES", "keys belong in an api_key setting"),
        ({"ROUTES": "http://llm.example.com/v1"}, "ROUTES", "use https://"),
        ({"ROUTES": "https://llm.example.com/v1?a=b"}, "ROUTES", "end it with the path"),
        ({"ROUTES": "audio-prod.us-virginia-1.direct.fireworks.ai"}, "ROUTES", "shared audio host"),
        ({"ROUTES": f"={ARIZONA}"}, "ROUTES", "the name is empty"),
        ({"ROUTES": f"global={ARIZONA}"}, "ROUTES", "not 'global'"),
        ({"ROUTES": f"{ARIZONA} {ARIZONA}"}, "ROUTES", "take one out"),
        ({"ROUTES": f"a={URL} b=https://LLM.example.com:443/v1/"}, "ROUTES", "the URL is the same"),
        ({"ROUTES": f"{ARIZONA} {ARIZONA.replace('abcd', 'bcde')}"}, "ROUTES", "name=address"),
        ({"ROUTES": f"a-b={ARIZONA} A.B={FRANKFURT}"}, "ROUTES", "make no difference"),
        ({"ROUTES": ARIZONA, "API_KEY": ""}, "ROUTES", "SMARTROUTE_API_KEY_US_ARIZONA_1"),
        ({"ROUTES": URL, "GLOBAL_URL": URL}, "GLOBAL_URL", "URL of its deployment"),
        ({"ROUTES": URL, "GLOBAL_URL": f"{URL}/below/"}, "GLOBAL_URL", "lies below the URL of route"),
        ({"ROUTES": GLOBAL_URL}, "ROUTES", "lies below the URL of route"),
        ({"API_KEY": "a b"}, "API_KEY", "without quotes or spaces"),
        ({"API_KEY": "a,,b"}, "API_KEY", "a key is empty"),
        ({"ROUTES": ARIZONA, "API_KEY_US_ARIZONA_1": "a b"}, "API_KEY_US_ARIZONA_1", "without quotes"),
        ({"ROUTES": ARIZONA, "API_KEY_US_ARISONA_1": "x"}, "API_KEY_US_ARISONA_1", "API_KEY_US_ARIZONA_1"),
        ({"ROUTES": ARIZONA, "API_KEY_XYZ": "x"}, "API_KEY_XYZ", "the routes are: us-arizona-1"),
        ({"API_KEY_XYZ": "x"}, "API_KEY_XYZ", "the routes are: none"),
        ({"API_KEY_": "x"}, "API_KEY_", "there is no such route"),
        ({"API_KEY_GLOBAL": "x"}, "API_KEY_GLOBAL", "SMARTROUTE_GLOBAL_API_KEY"),
        ({"MODEL": "a,b"}, "MODEL", "asked=sent"),
        ({"MODEL": "a=b,c"}, "MODEL", "asked=sent"),
        ({"GLOBAL_MODEL": "=b"}, "GLOBAL_MODEL", "asked=sent"),
        ({"GLOBAL_URL": "gateway.example"}, "GLOBAL_URL", "https://host/v1"),
        ({"GLOBAL_URL": "https://k@gateway.example"}, "GLOBAL_URL", "take it out"),
        ({"GLOBAL_API_KEY": "a b"}, "GLOBAL_API_KEY", "copy the key again"),
        ({"REGIONS": "EU/*"}, "REGIONS", "EU_*"),
        ({"REGIONS": ","}, "REGIONS", "leave it out to allow all"),
        ({"ROUTES": ARIZONA, "REGIONS": "EU_*"}, "REGIONS", "no request could go anywhere"),
        ({"ROUTES": URL, "REGIONS": "EU_*"}, "ROUTES", "say where it is"),
        ({"FORWARD_HEADERS": "x tenant:"}, "FORWARD_HEADERS", "x-tenant"),
        ({"FORWARD_HEADERS": "x-a,*"}, "FORWARD_HEADERS", "name the headers"),
        ({"FORWARD_HEADERS": "Cookie"}, "FORWARD_HEADERS", "key or cookies"),
        ({"FORWARD_HEADERS": "auth*"}, "FORWARD_HEADERS", "key or cookies"),
        ({"PATHS": "/completions,embeddings"}, "PATHS", "does not start with '/'"),
        ({"PATHS": "/"}, "PATHS", "/chat/completions"),
        ({"PATHS": "/a?b"}, "PATHS", "/chat/completions"),
        ({"PROBE_PATH": "models"}, "PROBE_PATH", "does not start with '/'"),
        ({"PROBE_INTERVAL": "-1"}, "PROBE_INTERVAL", "between 0.1 and 3600"),
        ({"PROBE_INTERVAL": "0.05"}, "PROBE_INTERVAL", "0 to turn probes off"),
        ({"PROBE_INTERVAL": "3601"}, "PROBE_INTERVAL", "out of range"),
        ({"PROBE_INTERVAL": "10s"}, "PROBE_INTERVAL", "not a number"),
        ({"PROBE_INTERVAL": "nan"}, "PROBE_INTERVAL", "not a number"),
        ({"DEADLINE": "inf"}, "DEADLINE", "out of range"),
        ({"DEADLINE": "0"}, "DEADLINE", "between 0.1 and 86400"),
        ({"DEADLINE": "soon"}, "DEADLINE", "not a number"),
        ({"HEDGE": "maybe"}, "HEDGE", "write on"),
        ({"AFFINITY": "2"}, "AFFINITY", "write on"),
        ({"BACKEND": "curl"}, "BACKEND", "use httptools, httpcore or aiohttp"),
        ({"LOG": "loud"}, "LOG", "debug, info or warning"),
        ({"DISABLED": "maybe"}, "DISABLED", "write on"),
        ({"CONFIG": "/nowhere/smartroute.toml"}, "CONFIG", "full path"),
        ({"CONFIG": "/"}, "CONFIG", "cannot be read"),
        ({"CONFIG": "~nobody-here/smartroute.toml"}, "CONFIG", "toml"),
        ({"CONFIG": "\0"}, "CONFIG", "toml"),
    ],
)
def test_one_mistake(variables: dict[str, str], setting: str, phrase: str) -> None:
    variables = {"API_KEY": "key"} | variables
    problems = refused(lambda: Config.from_env(env(**variables))).problems
    assert [problem.setting for problem in problems] == [f"SMARTROUTE_{setting}"]
    assert phrase in str(problems[0])


@pytest.mark.parametrize(
    ("arguments", "setting", "phrase"),
    [
        ({"routes": [5]}, "routes=", "neither a route"),
        ({"routes": 5}, "routes=", "a list of handles or URLs"),
        ({"routes": [Route(GLOBAL_URL, kind="global")]}, "routes=", "cannot be of kind global"),
        ({"routes": [URL]}, "routes=", "has no key"),
        ({"api_key": ""}, "api_key=", "a key is empty"),
        ({"global_url": ""}, "global_url=", "no host"),
        ({"global_url": 5}, "global_url=", "not text"),
        ({"global_api_key": 5}, "global_api_key=", "copy the key again"),
        ({"regions": [""]}, "regions=", "non-empty"),
        ({"regions": 5}, "regions=", "not a list"),
        ({"paths": ["models"]}, "paths=", "start with '/'"),
        ({"probe_path": 5}, "probe_path=", "not text"),
        ({"probe_interval": True}, "probe_interval=", "not a number"),
        ({"probe_interval": False}, "probe_interval=", "not a number"),
        ({"deadline": float("nan")}, "deadline=", "not a number"),
        ({"deadline": 10**400}, "deadline=", "not a number"),
        ({"hedge": "perhaps"}, "hedge=", "neither on nor off"),
        ({"affinity": 2}, "affinity=", "neither on nor off"),
        ({"affinity": 1.0}, "affinity=", "neither on nor off"),
        ({"backend": "curl"}, "backend=", "use httptools, httpcore or aiohttp"),
        ({"log": "loud"}, "log=", "debug"),
    ],
)
def test_one_wrong_argument(arguments: dict[str, Any], setting: str, phrase: str) -> None:
    problems = refused(lambda: Config(**arguments)).problems
    assert [problem.setting for problem in problems] == [setting]
    assert phrase in str(problems[0])


def test_everything_wrong_is_said_at_once() -> None:
    variables = {
        "ROUTES": f"a={ARIZONA} b=ftp://x c={FRANKFURT} =https://y.example http://8.8.8.8/v1",
        "API_KEY_A": "a b",
        "API_KEY_B": "fine, though its route could not be read",
        "GLOBAL_URL": "nowhere",
        "PROBE_INTERVAL": "-1",
        "DEADLINE": "nan",
        "PATHS": "x",
        "CONFIG": "/nowhere",
    }
    error = refused(lambda: Config.from_env(env(**variables)))
    assert sorted(problem.setting.removeprefix("SMARTROUTE_") for problem in error.problems) == [
        *("API_KEY_A", "CONFIG", "DEADLINE", "GLOBAL_URL", "PATHS", "PROBE_INTERVAL", "ROUTES", "ROUTES", "ROUTES")
    ]
    assert [f"route {number}" in str(error) for number in range(1, 6)] == [False, True, False, True, True]
    assert "no key" not in str(error), "the file that cannot be read may have it"
    assert str(error).startswith("9 problems in the configuration:\n  - SMARTROUTE_CONFIG: ")


def test_a_refused_key_is_not_also_a_missing_one() -> None:
    problems = refused(lambda: Config.from_env(env(ROUTES=ARIZONA, API_KEY="a b"))).problems
    assert [problem.setting for problem in problems] == ["SMARTROUTE_API_KEY"]


# --- Disabled ----------------------------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from([*module._IN_ENVIRON, "SMARTROUTE_API_KEY_X", "FIREWORKS_API_KEY"]), st.text()))
def test_disabled_validates_nothing(environ: dict[str, str]) -> None:
    assert Config.from_env(environ | env(DISABLED="1")) == Config(disabled=True)


def test_disabled_by_argument_and_by_file(toml: Callable[[str], Path]) -> None:
    assert Config(["nonsense"], deadline=-1, disabled=True) == Config(disabled=True)
    path = toml("disabled = true\nnonsense = 1")
    assert Config.from_toml(path) == Config(disabled=True)
    assert "nonsense" in str(refused(lambda: Config.from_toml(path, env(DISABLED="0"))))


def test_disabled_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Config.from_env(env(DISABLED="yes", NONSENSE="1"))
    assert caplog.records == []


# --- Unknown variables -------------------------------------------------------------------------------


def test_unknown_variables_are_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    environ = {**env(ROUTE="x", PORT="tcp://10.0.0.1:80", SERVICE_HOST="10.0.0.1", DEADLINE="5"), "PATH": "/bin"}
    assert Config.from_env(environ) == Config.from_env(environ) == Config(deadline=5)
    assert [(record.name, record.levelno) for record in caplog.records] == [("smartroute", logging.WARNING)]
    message = caplog.records[0].getMessage()
    assert all(f"SMARTROUTE_{name}" in message for name in ("ROUTE", "PORT", "SERVICE_HOST"))
    assert "10.0.0.1" not in message


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ROUTE", "ROUTES"),
        ("APIKEY", "API_KEY"),
        ("PROBE_INTERVALL", "PROBE_INTERVAL"),
        ("DISABLE", "DISABLED"),
        ("PROT", None),
        ("SERVICE_HOST", None),
    ],
)
def test_the_near_name_of_an_unknown_variable(name: str, near: str | None) -> None:
    (problem,) = unknown_variables(env(**{name: "1"}))
    assert problem.setting == f"SMARTROUTE_{name}"
    assert problem.remedy == (f"did you mean SMARTROUTE_{near}?" if near else "remove it")


def test_known_variables() -> None:
    assert unknown_variables(env(ROUTES="", API_KEY_X="", CONFIG="", DISABLED="")) == ()


# --- TOML --------------------------------------------------------------------------------------------

EXAMPLE = f"""
routes = ["{ARIZONA}", "spare={URL}"]
api_key = ["one", "two"]
model = {{ gpt = "m" }}
global_url = "https://gateway.example/v1"
global_api_key = "three"
global_model = "gpt=g"
forward_headers = ["x-tenant"]
paths = ["/chat/completions"]
probe_interval = 5
probe_path = "/health"
deadline = 30.5
hedge = "off"
affinity = false
backend = "httpcore"
log = "info"
disabled = 0

[[route]]
address = "{FRANKFURT}"
api_key = "four"
model = "base"

[[route]]
address = "http://vllm.example:8000/v1"
name = "vllm"
region = "eu-paris-1"
kind = "private"
tier = 1
allow_http = true
server_name = "vllm.internal"
key_header = "x-key"
headers = {{ x-tenant = "a" }}
query = {{ api-version = "2024-10-21" }}
paths = ["/chat/completions", "/rerank"]
"""


def test_a_file_with_everything(toml: Callable[[str], Path]) -> None:
    assert Config.from_toml(toml(EXAMPLE)) == Config(
        [
            ARIZONA,
            f"spare={URL}",
            Route(FRANKFURT, api_key="four", model="base"),
            Route(
                "http://vllm.example:8000/v1",
                name="vllm",
                region="EU_PARIS_1",
                kind=Kind.PRIVATE,
                tier=1,
                allow_http=True,
                server_name="vllm.internal",
                key_header="x-key",
                headers={"x-tenant": "a"},
                query={"api-version": "2024-10-21"},
                paths=["/chat/completions", "/rerank"],
            ),
        ],
        api_key=["one", "two"],
        model={"gpt": "m"},
        global_url="https://gateway.example/v1",
        global_api_key="three",
        global_model={"gpt": "g"},
        forward_headers=["x-tenant"],
        paths=["/chat/completions"],
        probe_interval=5,
        probe_path="/health",
        deadline=30.5,
        affinity=False,
        backend="httpcore",
        log="info",
    )


def test_a_route_without_paths_serves_those_of_the_configuration() -> None:
    config = Config([Route(ARIZONA, paths=["/rerank"]), f"spare={URL}"], api_key="k", paths=["/chat/completions"])
    assert [route.paths for route in config.routes] == [("/rerank",), ("/chat/completions",)]


def test_behind_one_address_a_name_a_header_or_a_parameter_tells_routes_apart() -> None:
    ways: list[dict[str, Any]] = [{}, {"server_name": "a"}, {"headers": {"x-a": "1"}}, {"query": {"a": "1"}}]
    routes = [Route(URL, name=f"r{number}", **way) for number, way in enumerate(ways)]
    assert len(Config(routes, api_key="k").routes) == 4
    assert "is there twice" in str(refused(lambda: Config([*routes, Route(URL, name="r", **ways[1])], api_key="k")))


def test_files_are_looked_at_with_all_else(toml: Callable[[str], Path], tmp_path: Path) -> None:
    written = toml(f"""
probe_interval = -1
[[route]]
address = "https://10.0.0.5/v1"
name = "psc"
kind = "private"
ca_file = "{tmp_path}/fw_fake.pem"
client_cert = "{tmp_path}/smartroute.toml"
client_key = "{tmp_path}"
""")
    found = refused(lambda: Config.from_toml(written)).problems
    assert [(each.setting, each.problem) for each in found] == [
        ("probe_interval in smartroute.toml", "is out of range"),
        *(
            ("[[route]] in smartroute.toml", f"route 'psc': {problem}")
            for problem in (
                "ca_file cannot be read (No such file or directory)",
                "client_cert has no certificate as PEM has them",
                "client_key cannot be read (Is a directory)",
            )
        ),
    ]
    assert all("fw_" not in str(each) and each.remedy for each in found)
    assert Config.from_toml(written, env(DISABLED="1")).routes == ()


def test_a_file_alone_reads_no_environment(toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTROUTE_DEADLINE", "5")
    monkeypatch.setenv("FIREWORKS_API_KEY", "console")
    assert Config.from_toml(toml("")) == Config()
    assert Config.from_toml(str(toml("")), {"FIREWORKS_API_KEY": "console"}).global_api_key == "console"


def test_the_environment_wins_over_the_file(toml: Callable[[str], Path]) -> None:
    path = toml(EXAMPLE)
    environ = env(CONFIG=f" {path} ", DEADLINE="5", API_KEY_VLLM="five", API_KEY_EU_FRANKFURT_1="six")
    config = Config.from_env(environ)
    assert config == Config.from_toml(path, environ)
    assert (config.deadline, config.probe_interval) == (5.0, 5.0)
    assert [route.keys for route in config.routes] == [("one", "two"), ("one", "two"), ("six",), ("five",)]


def test_the_environments_routes_replace_all_of_the_files(toml: Callable[[str], Path]) -> None:
    config = Config.from_env(env(CONFIG=str(toml(EXAMPLE)), ROUTES=f"only={ARIZONA}"))
    assert [(route.name, route.keys) for route in config.routes] == [("only", Keys(("one", "two")))]


@pytest.mark.parametrize(
    ("text", "setting", "phrase"),
    [
        ("probe_interval = -1", "probe_interval in smartroute.toml", "between 0.1 and 3600"),
        ("probe_interval = true", "probe_interval in smartroute.toml", "not a number"),
        ("probe_intervall = 1", "probe_intervall in smartroute.toml", "did you mean probe_interval?"),
        ("config = 'x'", "config in smartroute.toml", "there is no such setting"),
        ("xyz = 1", "xyz in smartroute.toml", "remove it"),
        ("routes = [5]", "routes in smartroute.toml", "route 1: is neither"),
        ("route = 5", "[[route]] in smartroute.toml", "[[route]] tables"),
        ("[route]\naddress = 'x'", "[[route]] in smartroute.toml", "[[route]] tables"),
        ("[[route]]\nname = 'x'", "[[route]] in smartroute.toml", "route 1: there is no address"),
        (f"[[route]]\naddress = '{URL}'", "[[route]] in smartroute.toml", "has no key"),
        (f"[[route]]\naddress = '{URL}'\nkind = 'global'", "[[route]] in smartroute.toml", "kind global"),
        (f"[[route]]\naddress = '{URL}'\nadress = 1", "[[route]] in smartroute.toml", "did you mean address?"),
        (f"[[route]]\naddress = '{URL}'\nkind = 'privat'", "[[route]] in smartroute.toml", "'private'"),
        (f"[[route]]\naddress = '{URL}'\ntier = 'first'", "[[route]] in smartroute.toml", "0 to 9"),
        (f"[[route]]\naddress = '{URL}'\nallow_http = 'no'", "[[route]] in smartroute.toml", "true or false"),
        ("[model]\nasked = 5", "model in smartroute.toml", "asked=sent"),
    ],
)
def test_one_mistake_in_a_file(toml: Callable[[str], Path], text: str, setting: str, phrase: str) -> None:
    problems = refused(lambda: Config.from_toml(toml(text))).problems
    assert [problem.setting for problem in problems] == [setting]
    assert phrase in str(problems[0])


@pytest.mark.parametrize(
    "text", ["api_key = fw_secret-key", "'fw_secret-key' = 1\n'fw_secret-key' = 2", "fw_secret-key"]
)
def test_a_file_that_is_not_toml(toml: Callable[[str], Path], text: str) -> None:
    path = toml(text)
    error = refused(lambda: Config.from_toml(path))
    assert error.problems[0].setting == str(path)
    assert "not valid TOML (at " in str(error)
    assert "fw_secret-key" not in said(error)
    path.write_bytes(b"\xff")
    assert "not valid TOML" in str(refused(lambda: Config.from_toml(path)))


# --- No key is ever shown ----------------------------------------------------------------------------


def said(error: ConfigError) -> str:
    """All that an error says, its traceback and what it was raised from included."""
    return str(error) + repr(error) + "".join(traceback.format_exception(error))


KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=9).map(
    "fw_".__add__
)
PLACES = [
    *("{}", "https://{}@host.example/v1", "https://user:{}@host.example/v1", "https://host.example/v1?key={}"),
    *("https://host.example:{}/v1", "https://host.example/v1#{}", "eu={}", "eu=https://{}@host.example/v1"),
    *("{}@" + ARIZONA, "{}=", "[{}]", "a b {}", "{}\x00"),
]
SECRET = ("API_KEY", "API_KEY_EU", "API_KEY_NONE", "GLOBAL_API_KEY")
NAMES = [*SECRET, *(each.removeprefix("SMARTROUTE_") for each in module._IN_ENVIRON if "DISABLED" not in each)]


@given(KEYS, st.dictionaries(st.sampled_from(NAMES), st.sampled_from(PLACES), min_size=1))
def test_no_error_quotes_a_key_wherever_it_was_put(key: str, places: dict[str, str]) -> None:
    variables = {"ROUTES": f"eu={FRANKFURT}"} | {name: place.format(key) for name, place in places.items()}
    try:
        Config.from_env(env(**variables))
    except ConfigError as error:
        assert key not in said(error)  # noqa: PT017


@given(KEYS)
def test_no_representation_shows_a_key(key: str) -> None:
    config = Config.from_env(
        env(ROUTES=f"eu={FRANKFURT} us={ARIZONA}", API_KEY=key, API_KEY_EU=key, GLOBAL_API_KEY=key)
    )
    assert {config.global_api_key, *config.routes[0].keys, *config.routes[1].keys} == {key}
    for value in (config, config.global_route, *config.routes):
        assert key not in repr(value) + str(value)


# --- Deployments behind a gateway --------------------------------------------------------------------

CONSOLE = {"FIREWORKS_API_KEY": "fw_FakeConsoleKey"}
GATEWAY = """
[[route]]
address = "https://api.fireworks.ai/inference/v1"
name = "tokyo"
region = "AP_TOKYO_1"
model = { "accounts/a/deployments/one" = "accounts/a/deployments/two" }

[[route]]
address = "https://api.fireworks.ai/inference/v1"
name = "paris"
region = "EU_PARIS_1"
model = "accounts/a/deployments/one"

[[route]]
address = "a-b.us-iowa-1.direct.fireworks.ai"
"""


def test_deployments_behind_one_url_are_routes_by_their_models(toml: Callable[[str], Path]) -> None:
    environ = CONSOLE | env(API_KEY="FakeDirectKey")
    config = Config.from_toml(toml(GATEWAY), environ)
    assert [route.url == config.global_url for route in config.routes] == [True, True, False]
    # Who has the key of the direct routes has no business at the gateway, and the other way round.
    assert [route.keys for route in config.routes] == [("fw_FakeConsoleKey",)] * 2 + [("FakeDirectKey",)]


def test_a_gateways_route_may_have_a_key_of_its_own(toml: Callable[[str], Path]) -> None:
    own = CONSOLE | env(API_KEY="d", API_KEY_PARIS="fw_FakeParisKey")
    assert Config.from_toml(toml(GATEWAY), own).routes[1].keys == ("fw_FakeParisKey",)
    assert Config.from_toml(toml(GATEWAY), env(API_KEY="d")).routes[1].keys == ("d",)  # nothing else was said


def test_one_url_twice_needs_two_models() -> None:
    for models in (["m", "m"], ["m", None], [None, "m"], [None, None]):
        routes = [Route("https://gw.example/v1", name=f"r{i}", api_key="k", model=m) for i, m in enumerate(models)]
        assert "models of their own" in str(refused(lambda routes=routes: Config(routes)))  # type: ignore[misc]


def test_the_global_endpoint_itself_is_no_route_without_a_model() -> None:
    assert "the global endpoint lies below" in str(refused(lambda: Config([Route(GLOBAL_URL, api_key="k")])))


def test_what_is_written_where(tmp_path: Path) -> None:
    path = tmp_path / "smartroute.toml"
    path.write_text('regions = ["EU_*"]\nhedge = true\n[[route]]\naddress = "https://a.example/v1"\n')
    environ = {"SMARTROUTE_CONFIG": f"{path}", "SMARTROUTE_HEDGE": "off", "SMARTROUTE_NONSENSE": "x"}
    found = written(environ)
    assert found["hedge"] == ("off", "SMARTROUTE_HEDGE")
    assert found["regions"] == (["EU_*"], "regions in smartroute.toml")
    assert found["route"] == ([{"address": "https://a.example/v1"}], "[[route]] in smartroute.toml")
    assert set(found) == {"config", "hedge", "regions", "route"}
    assert "route" not in written({**environ, "SMARTROUTE_ROUTES": "https://b.example/v1"})
    assert set(written({}, path)) == {"hedge", "regions", "route"}
    assert set(written({**environ, "SMARTROUTE_DISABLED": "1"})) == {"config", "hedge", "disabled"}
