"""`smartroute env`: what is in effect, and where it comes from."""

from pathlib import Path

import pytest

from smartroute.cli.env import effective
from smartroute.config import Config
from tests.cli.kit import CONSOLE, DIRECT, OTHER, run

FILE = f"""
global_url = "https://llm.example/v1"
probe_interval = 5
regions = ["EU_*", "GLOBAL"]

[[route]]
address = "https://llm.eu.example/v1"
name = "frankfurt"
region = "EU_FRANKFURT_1"
model = "llama"
api_key = "{OTHER}"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "smartroute.toml"
    path.write_text(FILE)
    return path


def test_each_value_has_its_source(file: Path) -> None:
    shown = run(
        "env", "--json", SMARTROUTE_CONFIG=f"{file}", SMARTROUTE_PROBE_INTERVAL="7", FIREWORKS_API_KEY=CONSOLE
    ).json()
    settings = shown["settings"]
    assert settings["probe_interval"] == {"value": "7", "source": "SMARTROUTE_PROBE_INTERVAL"}
    assert settings["regions"] == {"value": "EU_*, GLOBAL", "source": "regions in smartroute.toml"}
    assert settings["hedge"] == {"value": "off", "source": "default"}
    assert settings["config"] == {"value": f"{file}", "source": "SMARTROUTE_CONFIG"}
    assert settings["routes"] == {"value": "frankfurt", "source": "[[route]] in smartroute.toml"}
    assert settings["global_api_key"]["value"] == ""  # FIREWORKS_API_KEY belongs to another host
    (route,) = shown["routes"]
    assert route["name"] == "frankfurt"
    assert route["model"] == "llama"
    assert route["keys"] == "...o1o2"
    assert route["keys_from"] == "[[route]] in smartroute.toml"
    assert shown["unknown_variables"] == []


def test_a_key_has_its_source_too(file: Path) -> None:
    def keys(**variables: str) -> tuple[str, str]:
        (route,) = run("env", "--json", "--config", f"{file}", **variables).json()["routes"]
        return route["keys"], route["keys_from"]

    assert keys(SMARTROUTE_API_KEY=DIRECT) == ("...o1o2", "[[route]] in smartroute.toml")
    assert keys(SMARTROUTE_API_KEY_FRANKFURT=DIRECT) == ("...d1d2", "SMARTROUTE_API_KEY_FRANKFURT")
    environ = {
        "SMARTROUTE_ROUTES": "https://llm.example/v1",
        "SMARTROUTE_API_KEY": f"{DIRECT},short",
        "FIREWORKS_API_KEY": CONSOLE,
    }
    config = Config.from_env(environ)
    values, (route,) = effective(config, environ)
    assert (route.settings["keys"], route.keys_from) == ("...d1d2, ...", "SMARTROUTE_API_KEY")
    (key,) = [each for each in values if each.setting == "global_api_key"]
    assert (key.value, key.source) == ("...c1c2", "FIREWORKS_API_KEY")


def test_for_people() -> None:
    done = run(
        "env",
        SMARTROUTE_ROUTES="https://llm.example/v1",
        SMARTROUTE_API_KEY=DIRECT,
        SMARTROUTE_HEGDE="on",
        SMARTROUTE_MODEL="small=llama-8b, large=llama-70b",
    )
    assert done.status == 0
    lines = [line.split() for line in done.output.splitlines()]
    assert ["api_key", "...d1d2", "SMARTROUTE_API_KEY"] in lines
    assert ["deadline", "default"] in lines
    assert ["model", "large=llama-70b,", "small=llama-8b"] in lines
    assert "\x1b" not in done.output
    assert not any(line.endswith(" ") for line in done.output.splitlines())
    assert (
        done.errors
        == "smartroute: ignored: SMARTROUTE_HEGDE: there is no such variable; did you mean SMARTROUTE_HEDGE?\n"
    )


def test_a_configuration_that_cannot_be_used() -> None:
    done = run("env", SMARTROUTE_ROUTES=f"https://{DIRECT}@llm.example/v1", SMARTROUTE_HEDGE=DIRECT)
    assert done.status == 2
    assert not done.output
    assert len(done.errors.splitlines()) == 2
    assert "SMARTROUTE_HEDGE: is neither on nor off" in done.errors


def test_switched_off() -> None:
    done = run("env", SMARTROUTE_ROUTES="nonsense", SMARTROUTE_DISABLED="1")
    assert done.status == 0
    assert "every request passes through" in done.errors
