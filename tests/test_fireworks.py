import pytest

from smartroute.fireworks import GLOBAL_HOST, GLOBAL_URL, REGIONS, Handle, is_handle_host, parse_handle


def test_the_global_url_is_on_the_global_host() -> None:
    assert GLOBAL_URL.startswith(f"https://{GLOBAL_HOST}/")
    assert not is_handle_host(GLOBAL_HOST)


def test_there_are_ten_documented_regions() -> None:
    assert len(set(REGIONS)) == 10


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
