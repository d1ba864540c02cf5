import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.errors import ConfigError
from smartroute.fireworks import REGIONS
from smartroute.route import Keys, Kind, Route, canonical_region

HANDLE = "my-account-abcd1234.us-arizona-1.direct.fireworks.ai"


@pytest.mark.parametrize("region", REGIONS)
def test_a_handle_tells_url_name_and_region(region: str) -> None:
    label = region.lower().replace("_", "-")
    route = Route(f"acct-dep1.{label}.direct.fireworks.ai", api_key="key")
    assert (route.url, route.name, route.region) == (f"https://acct-dep1.{label}.direct.fireworks.ai/v1", label, region)
    assert (route.kind, route.keys, route.models, route.allow_http) == (Kind.DIRECT, Keys(["key"]), None, False)
    assert route.tier == 0
    assert str(route) == label


def test_a_handle_without_a_region_is_named_after_its_deployment() -> None:
    route = Route("acct-dep1.direct.fireworks.ai")
    assert (route.name, route.region) == ("acct-dep1", None)


@pytest.mark.parametrize(
    ("given_url", "url", "name"),
    [
        (HANDLE, f"https://{HANDLE}/v1", "us-arizona-1"),
        (f"  {HANDLE}/ ", f"https://{HANDLE}/v1", "us-arizona-1"),
        (f"https://{HANDLE}", f"https://{HANDLE}/v1", "us-arizona-1"),
        (f"https://{HANDLE.upper()}.:443/v1//", f"https://{HANDLE}/v1", "us-arizona-1"),
        (f"{HANDLE}:8443", f"https://{HANDLE}:8443/v1", "us-arizona-1"),
        ("HTTPS://LLM.Example.COM/V1/", "https://llm.example.com/V1", "llm.example.com"),
        ("https://llm.example.com", "https://llm.example.com", "llm.example.com"),
        ("https://llm.example.com:443/v1", "https://llm.example.com/v1", "llm.example.com-443"),
        ("https://llm.example.com:8443/v1", "https://llm.example.com:8443/v1", "llm.example.com-8443"),
        ("https://xn--bcher-kva.example/v1", "https://xn--bcher-kva.example/v1", "xn--bcher-kva.example"),
        ("https://10.0.0.1/a%20b/~c", "https://10.0.0.1/a%20b/~c", "10.0.0.1"),
        (f"https://{'x' * 63}.example/v1", f"https://{'x' * 63}.example/v1", f"{'x' * 63}.example"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1", "ipv6-1-8000"),
        ("https://[2001:DB8::5]/v1", "https://[2001:db8::5]/v1", "ipv6-2001-db8-5"),
    ],
)
def test_addresses_in_their_normal_form(given_url: str, url: str, name: str) -> None:
    route = Route(given_url)
    assert (route.url, route.name) == (url, name)
    assert Route(route.url, name=name) == route, "the normal form is its own normal form"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("", "no host"),
        ("llm.example.com", "neither a handle nor a URL with a scheme"),
        ("localhost:8000/v1", "neither a handle nor a URL with a scheme"),
        ("ftp://llm.example.com", "not http or https"),
        ("://llm.example.com", "not http or https"),
        ("https:///v1", "no host"),
        ("https://:443/v1", "no host"),
        ("https://host:port/v1", "cannot be read"),
        ("https://host:99999/v1", "cannot be read"),
        ("https://[zz]/v1", "cannot be read"),
        ("https://ho st/v1", "not a host name"),
        ("https://bücher.example/v1", "not a host name"),
        ("https://-.example/v1", "not a host name"),
        ("https://llm..example/v1", "not a host name"),
        ("https://.example/v1", "not a host name"),
        (f"https://{'x' * 64}.example/v1", "not a host name"),
        ("https://user:pw@host.example/v1", "user name or a password"),
        ("https://pw@host.example/v1", "user name or a password"),
        (f"user:pw@{HANDLE}", "user name or a password"),
        (f"https://u:12/pw@{HANDLE}", "user name or a password"),
        ("https://host.example/v1?key=1", "query or a fragment"),
        (f"https://{HANDLE}/v1?key=1", "query or a fragment"),
        ("https://host.example/v1#x", "query or a fragment"),
        ("https://host.example/v 1", "path of the base URL"),
        ("https://host.example//v1", "path of the base URL"),
        ("https://host.example/v1/chat/completions", "not the base"),
        ("audio-prod.us-virginia-1.direct.fireworks.ai", "audio host"),
        ("https://Audio-Turbo.us-virginia-1.direct.fireworks.ai/v1", "audio host"),
        ("dep.us-virginia-1.direct.fireworks.ai", "no '-' between account and deployment"),
        ("direct.fireworks.ai", "not of the form"),
        (None, "not text"),
    ],
)
def test_addresses_that_are_refused(address: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        Route(address)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].setting == "handle_or_url="


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "api.localhost", "127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.1.1", "100.64.0.1"),
        *("[::1]", "[fd00::1]", "[fe80::1]", "vllm", "llm.default.svc.cluster.local", "llm.corp.internal"),
    ],
)
def test_plain_http_within_reach(host: str) -> None:
    assert Route(f"http://{host}:8000/v1").url == f"http://{host}:8000/v1"


@pytest.mark.parametrize(
    "host",
    ["8.8.8.8", "llm.example.com", HANDLE, "[2600::1]", "[::ffff:8.8.8.8]", "134744072", "0x08080808", "localhost.com"],
)
def test_plain_http_in_public(host: str) -> None:
    with pytest.raises(ConfigError, match=r"in the clear.*allow_http = true"):
        Route(f"http://{host}/v1")
    assert Route(f"http://{host}/v1", allow_http=True).allow_http


@pytest.mark.parametrize(
    ("arguments", "setting", "problem"),
    [
        ({"name": ""}, "name=", "empty"),
        ({"name": "a b"}, "name=", "character"),
        ({"name": "-a"}, "name=", "letter or digit"),
        ({"name": "x" * 101}, "name=", "too long"),
        ({"name": "Global"}, "name=", "not 'global'"),
        ({"name": 5}, "name=", "name"),
        ({"region": ""}, "region=", "US_ARIZONA_1"),
        ({"region": "EU_*"}, "region=", "US_ARIZONA_1"),
        ({"region": 5}, "region=", "US_ARIZONA_1"),
        ({"kind": "public"}, "kind=", "'direct' or 'private'"),
        ({"api_key": ""}, "api_key=", "empty"),
        ({"api_key": "a,"}, "api_key=", "empty"),
        ({"api_key": ["a", ""]}, "api_key=", "empty"),
        ({"api_key": "a b"}, "api_key=", "without quotes or spaces"),
        ({"api_key": "a\nb"}, "api_key=", "cannot stand in a header"),
        ({"api_key": "schlüssel"}, "api_key=", "cannot stand in a header"),
        ({"api_key": '"fake-key"'}, "api_key=", "quotes around it"),
        ({"api_key": ["fake-key", " 'other' "]}, "api_key=", "quotes around it"),
        ({"api_key": [5]}, "api_key=", "empty"),
        ({"api_key": 5}, "api_key=", "neither a key nor a list"),
        ({"model": ""}, "model=", "model name"),
        ({"model": "a=b,c"}, "model=", "missing"),
        ({"model": "a,b"}, "model=", "asked=sent"),
        ({"model": "a=b=c"}, "model=", "asked=sent"),
        ({"model": "a=b,a=c"}, "model=", "mapped twice"),
        ({"model": "=b"}, "model=", "missing"),
        ({"model": "a\x00"}, "model=", "unreadable"),
        ({"model": {}}, "model=", "no model name"),
        ({"model": {"a": ""}}, "model=", "missing"),
        ({"model": ("ab", "cd")}, "model=", "missing"),
        ({"model": 5}, "model=", "no model name"),
        *(({"tier": tier}, "tier=", "whole number from 0 to 9") for tier in (-1, 10, 1.0, "1", True, None)),
        ({"allow_http": "no"}, "allow_http=", "true or false"),
        *(
            ({"server_name": name}, "server_name=", "not a host name")
            for name in ("", "https://llm.internal", "llm.internal:443", "l m", 5)
        ),
        ({"ca_file": ""}, "ca_file=", "ca_file is not the path of a file"),
        ({"ca_file": 5}, "ca_file=", "ca_file is not the path of a file"),
        ({"ca_file": "-----BEGIN CERTIFICATE-----\nMII"}, "ca_file=", "not what is in it"),
        ({"client_cert": " "}, "client_cert=", "client_cert is not the path of a file"),
        ({"client_key": "key.pem"}, "client_key=", "a client_key without a client_cert"),
        ({"client_cert": "cert.pem", "client_key": "a\0b"}, "client_key=", "client_key is not the path of a file"),
        ({"headers": "x-tenant: a"}, "headers=", "not names with texts"),
        ({"headers": {"x-tenant": 5}}, "headers=", "not names with texts"),
        ({"headers": {"": "a"}}, "headers=", "not names with texts"),
        ({"headers": {"x tenant": "a"}}, "headers=", "cannot be sent"),
        ({"headers": {"x-tenant": "a\r\nb: c"}}, "headers=", "cannot be sent"),
        ({"headers": {"x-tenant": "\u00e9"}}, "headers=", "cannot be sent"),
        ({"headers": {"x-tenant": ""}}, "headers=", "cannot be sent"),
        ({"headers": {"x-tenant": "a", "X-Tenant": "b"}}, "headers=", "there twice"),
        *(
            ({"headers": {name: "fake"}}, "headers=", "credential, a cookie or Host")
            for name in ("Authorization", "Proxy-Authorization", "api-key", "X-Api-Key", "Cookie", "Host")
        ),
        *(
            ({"headers": {name: "a"}}, "headers=", "belongs to the single request")
            for name in ("Content-Length", "Content-Type", "Transfer-Encoding", "Connection", "traceparent")
        ),
        ({"headers": {"x-smartroute-route": "a"}}, "headers=", "belongs to the single request"),
        ({"headers": {"x-key": "a"}, "key_header": "X-Key"}, "headers=", "the header of the key is among the headers"),
        *(
            ({"key_header": name}, "key_header=", "not a header that can carry a key")
            for name in ("", "api key", "Host", "cookie", "content-type", "x-smartroute-key", 5)
        ),
        ({"query": "api-version=1"}, "query=", "not names with texts"),
        ({"query": {"api-version": 2024}}, "query=", "not names with texts"),
        ({"query": {"a": "\ud800"}}, "query=", "cannot be sent"),
        ({"query": {"\udcff": "a"}}, "query=", "cannot be sent"),
        ({"paths": "chat/completions"}, "paths=", "does not start with '/'"),
        ({"paths": ["/a?b"]}, "paths=", "cannot be read"),
        ({"paths": 5}, "paths=", "not a list"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], setting: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        Route(HANDLE, **arguments)
    assert [each.setting for each in caught.value.problems] == [setting]


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Route("ftp://host", name="", region="", kind="x", api_key="", model="", tier=-1, allow_http=1)  # type: ignore[arg-type]
    assert {each.setting for each in caught.value.problems} == {
        *("handle_or_url=", "name=", "region=", "kind=", "api_key=", "model=", "tier=", "allow_http=")
    }


@pytest.mark.parametrize("setting", ["ca_file", "client_cert"])
def test_no_files_for_what_is_reached_without_tls(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is of no use to an http:// URL") as caught:
        Route("http://10.0.0.5/v1", **{setting: "file.pem"})  # type: ignore[arg-type]
    assert [each.setting for each in caught.value.problems] == [f"{setting}="]


def test_a_route_of_ones_own_network_in_its_normal_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    route = Route(
        "https://10.0.0.5/v1",
        server_name=" LLM.Private.Example. ",
        ca_file="ca.pem",
        client_cert=Path("tls/../client.pem"),
        client_key="~/key.pem",
        headers={"X-Tenant": "a b", "x-area": "1"},
        key_header="API-Key",
        query={"b": "2 3", "a": "1"},
        paths="/chat/completions/, /rerank",
    )
    assert (route.server_name, route.key_header) == ("llm.private.example", "api-key")
    assert (route.ca_file, route.client_cert) == (str(tmp_path / "ca.pem"), str(tmp_path / "client.pem"))
    assert route.client_key == "/home/somebody/key.pem"
    assert route.headers == (("x-area", "1"), ("x-tenant", "a b"))
    assert route.query == (("a", "1"), ("b", "2 3"))
    assert route.paths == ("/chat/completions", "/rerank")
    assert route.has_own_tls
    assert not Route("https://10.0.0.5/v1", server_name="llm.private.example").has_own_tls
    assert route.replace(keys=["k"]).replace(keys=()) == route == pickle.loads(pickle.dumps(route))
    assert route.replace(paths=["/rerank"]).paths == ("/rerank",)
    with pytest.raises(ConfigError, match="keys=: a key is empty"):
        route.replace(keys=[""])
    for changed in ({"headers": {"x-tenant": "b"}}, {"query": {"a": "2"}}, {"server_name": "x"}, {"ca_file": "o.pem"}):
        assert Route("https://10.0.0.5/v1", **changed) != Route("https://10.0.0.5/v1")


def test_paths_say_what_is_served() -> None:
    route = Route(HANDLE, paths=["/embeddings"], model={"a": "b"})
    assert [route.serves("a", path) for path in ("/embeddings", "/chat/completions", "")] == [True, False, True]
    assert not route.serves("other", "/embeddings")
    assert Route(HANDLE).serves("a", "/anything")


def test_values_of_headers_and_parameters_are_not_shown() -> None:
    route = Route(HANDLE, headers={"x-token": "fake-secret"}, query={"sig": "fake-secret"})
    for shown in (repr(route), f"{route.headers}", json.dumps(asdict(route), default=str)):
        assert "fake" not in shown
    assert repr(route.headers) == "<x-token>"


def test_keys_are_a_sequence_or_text_with_commas() -> None:
    assert Route(HANDLE, api_key="one, two,one").keys == Route(HANDLE, api_key=["one", "two"]).keys == ("one", "two")


def test_one_model_name_serves_whatever_was_asked() -> None:
    route = Route(HANDLE, model="accounts/fireworks/models/m#accounts/a/deployments/d")
    assert route.serves("gpt")
    assert route.serves(None)
    assert route.model_for("gpt") == route.model_for(None) == "accounts/fireworks/models/m#accounts/a/deployments/d"


def test_no_model_name_leaves_what_was_asked() -> None:
    route = Route(HANDLE)
    assert route.serves("gpt")
    assert route.model_for("gpt") == "gpt"
    assert route.model_for(None) is None


@pytest.mark.parametrize("model", ["gpt=m , mini=n", {"mini": "n", "gpt": "m"}, (("gpt", "m"), ("mini", "n"))])
def test_a_mapping_serves_what_it_names(model: Any) -> None:
    route = Route(HANDLE, model=model)
    assert route.models == (("gpt", "m"), ("mini", "n"))
    assert [route.serves(asked) for asked in ("gpt", "mini", "other", None)] == [True, True, False, False]
    assert [route.model_for(asked) for asked in ("gpt", "mini", "other", None)] == ["m", "n", "other", None]


def test_replace_keeps_what_it_is_not_told() -> None:
    address = "http://vllm.example/v1"
    route = Route(address, name="a", region="eu-1", kind="private", api_key="k", tier=2, allow_http=True)
    assert route.replace() == route
    other = route.replace(keys=(), models=(("gpt", "m"),))
    assert (other.keys, other.models) == (Keys(), (("gpt", "m"),))
    assert other.replace(keys=("k",)).models == (("gpt", "m"),)
    assert (other.url, other.name, other.region, other.kind) == (route.url, "a", "EU_1", Kind.PRIVATE)
    assert (other.tier, other.allow_http) == (2, True)


def test_the_global_endpoint_has_its_own_name_and_region() -> None:
    route = Route("https://api.fireworks.ai/inference/v1", kind=Kind.GLOBAL)
    assert (route.name, route.region) == ("global", "GLOBAL")
    assert route.replace(keys=("k",)).replace(keys=()) == route


@pytest.mark.parametrize("copy", [lambda route: pickle.loads(pickle.dumps(route)), lambda route: route.replace()])
def test_routes_are_values(copy: Callable[[Route], Route]) -> None:
    route = Route(HANDLE, api_key="key", model={"a": "b"})
    assert copy(route) == route
    assert hash(copy(route)) == hash(route)
    assert route != route.replace(keys=("other",))
    with pytest.raises(AttributeError):
        route.name = "x"  # type: ignore[misc]


@pytest.mark.parametrize("tier", range(10))
def test_a_tier_is_a_digit(tier: int) -> None:
    route = Route(HANDLE, tier=tier)
    assert route.tier == tier
    assert (route == Route(HANDLE)) is (tier == 0)


def test_canonical_region() -> None:
    assert canonical_region(" us-arizona-1 ") == "US_ARIZONA_1" == canonical_region("US_ARIZONA_1")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=",")).map("fw_".__add__))
def test_a_key_is_never_shown(key: str) -> None:
    route = Route(HANDLE, api_key=key)
    assert route.keys == (key,)
    assert key not in repr(route) + str(route)


def test_keys_are_shown_by_nothing_that_walks_over_them() -> None:
    route = Route(HANDLE, api_key=["fake-1", "fake-2"])
    for shown in (repr(route.keys), str(route.keys), f"{route.keys}", json.dumps(asdict(route), default=str)):
        assert "fake" not in shown


def test_keys_are_values() -> None:
    keys = Keys(["fake-1", "fake-2"])
    assert keys == Keys(("fake-1", "fake-2")) == ("fake-1", "fake-2")
    assert keys != Keys(["fake-1"])
    assert hash(keys) == hash(Keys(["fake-1", "fake-2"]))
    assert (len(keys), keys[1], keys[-1], keys[:1], list(keys)) == (
        2,
        "fake-2",
        "fake-2",
        ("fake-1",),
        ["fake-1", "fake-2"],
    )
    assert not Keys()
    for other in (copy.copy(keys), copy.deepcopy(keys), pickle.loads(pickle.dumps(keys))):
        assert isinstance(other, Keys)
        assert other == keys


ADDRESSES = ("{}", "https://{}", "http://{}.example/v1", "{}.direct.fireworks.ai", "https://host.example/{}")


@given(st.text(), st.sampled_from(ADDRESSES))
def test_any_text_is_an_address_or_refused_without_being_quoted(text: str, place: str) -> None:
    message = ""
    try:
        route = Route(place.format(f"fw_{text}"))
    except ConfigError as error:
        message = str(error)
    else:
        assert Route(route.url, name=route.name).url == route.url
    assert "fw_" not in message
