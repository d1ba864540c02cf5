import typing

import pytest
from fireworks.types.placement import Placement

from smartroute.fireworks import (
    DIRECT_REGIONS,
    GATEWAY_HOSTS,
    GLOBAL_HOST,
    GLOBAL_URL,
    NOT_ON_DIRECT_ROUTES,
    REGIONS,
    Handle,
    direct_models,
    is_handle_host,
    looks_like_console_key,
    parse_handle,
    parse_model,
    remedy_for_model,
)
from smartroute.settings import PATHS

BASE = "accounts/fireworks/models/llama-v3p1-8b-instruct"
NAME = "accounts/my-account/deployments/abcd1234"


def test_the_global_url_is_on_the_global_host() -> None:
    assert GLOBAL_URL.startswith(f"https://{GLOBAL_HOST}/")
    assert not any(map(is_handle_host, GATEWAY_HOSTS))
    assert GLOBAL_HOST in GATEWAY_HOSTS


def test_the_regions_are_those_of_the_vendors_sdk() -> None:
    (literal,) = (
        each for each in typing.get_args(Placement.model_fields["region"].annotation) if each is not type(None)
    )
    assert set(REGIONS) == set(typing.get_args(literal)) - {"REGION_UNSPECIFIED"}
    assert len(REGIONS) == len(set(REGIONS)) == 36
    assert len(set(DIRECT_REGIONS)) == 10


def test_no_path_is_routed_that_direct_routes_do_not_serve() -> None:
    assert not set(PATHS) & set(NOT_ON_DIRECT_ROUTES)


@pytest.mark.parametrize("region", REGIONS)
def test_the_handle_of_every_region(region: str) -> None:
    host = f"my-account-abcd1234.{region.lower().replace('_', '-')}.direct.fireworks.ai"
    handle = parse_handle(host)
    assert handle == Handle(host, "my-account-abcd1234", region)
    assert handle.url == f"https://{host}/v1"


def test_a_region_that_nobody_has_heard_of() -> None:
    assert parse_handle("a-b.sa-lima-7.direct.fireworks.ai").region == "SA_LIMA_7"


def test_a_handle_without_a_region() -> None:
    assert parse_handle("my-account-abcd1234.direct.fireworks.ai").region is None


def test_capitals_and_the_dot_of_the_root_make_no_difference() -> None:
    assert parse_handle("A-B.US-Iowa-1.Direct.Fireworks.AI.") == parse_handle("a-b.us-iowa-1.direct.fireworks.ai")


@pytest.mark.parametrize("deployment", ["audio-prod", "audio-turbo", "audio-streaming-v2"])
@pytest.mark.parametrize("region", [".us-virginia-1", ""])
def test_audio_hosts_are_not_deployments(deployment: str, region: str) -> None:
    with pytest.raises(ValueError, match="shared audio host"):
        parse_handle(f"{deployment}{region}.direct.fireworks.ai")


@pytest.mark.parametrize(
    "host",
    [
        "direct.fireworks.ai",
        ".direct.fireworks.ai",
        "a-b..direct.fireworks.ai",
        ".us-iowa-1.direct.fireworks.ai",
        "a-b.us-iowa-1.more.direct.fireworks.ai",
        "api.fireworks.ai",
        "a-b.us-iowa-1.direct.fireworks.ai.evil.example",
        "https://a-b.us-iowa-1.direct.fireworks.ai",
        "evil-host.example/us-iowa-1.direct.fireworks.ai",
        "a-b:1/.us-iowa-1.direct.fireworks.ai",
        "a-b.us iowa.direct.fireworks.ai",
        "a-b.us-iowa-1.direct.fireworks.ai\n",
    ],
)
def test_what_is_not_of_the_form_of_a_handle(host: str) -> None:
    with pytest.raises(ValueError, match="not of the form account-deployment"):
        parse_handle(host)


@pytest.mark.parametrize("deployment", ["abcd1234", "-abcd1234", "abcd1234-"])
def test_a_handle_names_account_and_deployment(deployment: str) -> None:
    with pytest.raises(ValueError, match="no '-' between account and deployment"):
        parse_handle(f"{deployment}.us-iowa-1.direct.fireworks.ai")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("a-b.us-iowa-1.direct.fireworks.ai", True),
        ("A-B.DIRECT.FIREWORKS.AI.", True),
        ("direct.fireworks.ai", True),
        ("indirect.fireworks.ai", False),
        ("a-b.direct.fireworks.ai.evil.example", False),
        ("", False),
    ],
)
def test_which_hosts_are_the_vendors_direct_hosts(host: str, expected: bool) -> None:
    assert is_handle_host(host) is expected


@pytest.mark.parametrize(
    ("name", "base", "deployment"),
    [
        (BASE, BASE, None),
        (NAME, None, NAME),
        (f"{BASE}#{NAME}", BASE, NAME),
        ("accounts/my-account/models/my-lora#" + NAME, "accounts/my-account/models/my-lora", NAME),
        ("fireworks/llama-v3p1-8b-instruct", BASE, None),
        ("fireworks/llama-v3p1-8b-instruct#my-account/abcd1234", BASE, NAME),
        (f"  {NAME} ", None, NAME),
    ],
)
def test_the_forms_of_a_model_name(name: str, base: str | None, deployment: str | None) -> None:
    assert parse_model(name) == (base, deployment)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "#",
        "gpt-4o",
        "accounts/a/routers/r",
        f"{BASE}#",
        f"#{NAME}",
        f"{NAME}#{BASE}#",
        f"{NAME}#{NAME}x/y",
        "accounts/a/models/m m",
        'accounts/a/models/"$(m)"',
    ],
)
def test_what_is_no_model_name_of_the_vendors(name: str) -> None:
    assert parse_model(name) is None


def test_what_is_asked_of_global_and_what_direct_routes_expect() -> None:
    other = "accounts/my-account/deployments/efgh5678"
    assert direct_models(BASE, [NAME, other]) == dict.fromkeys([NAME, f"{BASE}#{NAME}", other, f"{BASE}#{other}"], BASE)
    assert BASE not in direct_models(BASE, [NAME])  # on global that is the serverless one


@pytest.mark.parametrize(
    ("model", "direct", "remedy"),
    [
        (BASE, True, "this deployment's base model"),
        (f"{BASE}#{NAME}", True, f"one side of the #: {BASE}, or {NAME}"),
        (NAME, True, "also takes the base model"),
        (BASE, False, "means the serverless one"),
        (NAME, False, "look whether the deployment is there"),
        (f"{BASE}#{NAME}", False, "look whether the deployment is there"),
    ],
)
def test_the_remedy_for_a_model_that_was_not_found(model: str, direct: bool, remedy: str) -> None:
    assert remedy in remedy_for_model(model, direct=direct)


def test_names_of_other_vendors_have_no_remedy() -> None:
    assert remedy_for_model("gpt-4o", direct=True) == remedy_for_model("gpt-4o", direct=False) == ""


def test_keys_of_the_console_are_known_by_their_look() -> None:
    assert looks_like_console_key("fw_FakeConsoleKey00000000")
    assert not looks_like_console_key("FakeDirectRouteKey1111")
