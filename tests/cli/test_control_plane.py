"""What the control plane is asked, and what becomes of each of its answers."""

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import trustme

from smartroute.cli.control_plane import ATTEMPTS, MOST_PAGES, MOST_READ, ControlPlaneError, list_deployments
from smartroute.fireworks import Deployment
from smartroute.testing import Region
from tests.control_plane import CONSOLE_KEY, DIRECT_KEY, ControlPlane, control_plane, deployment


@pytest.fixture
def server() -> Iterator[ControlPlane]:
    with control_plane(deployment("abcd1234"), deployment("efgh5678", "EU_FRANKFURT_1")) as server:
        yield server


class Asking:
    """Asks it, waiting in no time."""

    def __init__(self, server: ControlPlane) -> None:
        self.server = server
        self.waits: list[float] = []
        self.said: list[str] = []

    def __call__(self, key: str = CONSOLE_KEY, account: str = "my-account") -> tuple[Deployment, ...]:
        return list_deployments(self.server.url, account, key, say=self.said.append, sleep=self.waits.append)

    def refused(self, key: str = CONSOLE_KEY, account: str = "my-account") -> ControlPlaneError:
        with pytest.raises(ControlPlaneError) as caught:
            self(key, account)
        assert key not in str(caught.value)
        assert DIRECT_KEY not in str(caught.value)
        assert caught.value.remedy
        return caught.value


@pytest.fixture
def ask(server: ControlPlane) -> Asking:
    return Asking(server)


def test_the_deployments_without_their_keys(ask: Asking) -> None:
    arizona, frankfurt = ask()
    assert arizona == Deployment(
        "accounts/my-account/deployments/abcd1234",
        "READY",
        "US_ARIZONA_1",
        2,
        "INTERNET",
        "my-account-abcd1234.us-arizona-1.direct.fireworks.ai",
        "accounts/fireworks/models/llama-v3p1-8b-instruct",
    )
    assert frankfurt.region == "EU_FRANKFURT_1"
    ((path, query),) = ask.server.asked
    assert path == "/v1/accounts/my-account/deployments"
    assert "key" not in query["readMask"].lower()
    assert "*" not in query["readMask"]
    assert query["pageSize"] == "200"
    assert not ask.waits


def test_an_account_without_deployments(ask: Asking) -> None:
    ask.server.deployments = []
    assert ask() == ()


def test_every_page_is_asked_for_with_the_same_mask(ask: Asking) -> None:
    ask.server.deployments = [deployment(f"d{number}") for number in range(7)]
    ask.server.page = 3
    assert [each.id for each in ask()] == [f"d{number}" for number in range(7)]
    assert [query.get("pageToken") for _, query in ask.server.asked] == [None, "3", "6"]
    assert len({query["readMask"] for _, query in ask.server.asked}) == 1


@pytest.mark.parametrize("strict", [False, True])
def test_the_other_spelling_of_the_read_mask(ask: Asking, strict: bool) -> None:
    ask.server.snake_case, ask.server.strict = True, strict
    assert [each.handle is None for each in ask()] == [False, False]
    first, second = (query["readMask"] for _, query in ask.server.asked)
    assert "directRouteHandle" in first
    assert "direct_route_handle" in second
    assert "key" not in second


def test_never_without_a_mask(ask: Asking) -> None:
    ask.server.answers = [ask.server.error(400, "invalid field mask")] * 2
    assert "read masks" in ask.refused().problem
    assert len(ask.server.asked) == 2


def test_a_list_that_goes_in_a_circle(ask: Asking) -> None:
    body = b'{"deployments": [{"name": "accounts/a/deployments/d", "baseModel": "a/m"}], "nextPageToken": "again"}'
    ask.server.answers = [(200, {}, body)] * (MOST_PAGES + 1)
    assert "no end" in ask.refused().problem
    assert len(ask.server.asked) == 2


def test_a_list_without_an_end(ask: Asking) -> None:
    ask.server.deployments = [deployment(f"d{number}") for number in range(MOST_PAGES + 1)]
    ask.server.page = 1
    assert "no end" in ask.refused().problem
    assert len(ask.server.asked) == MOST_PAGES


def test_a_wrong_key(ask: Asking) -> None:
    error = ask.refused(key="fw_AnotherFakeKey000000")
    assert error.usage
    assert "401" in error.problem
    assert "FIREWORKS_API_KEY" in error.problem
    assert "console" in error.remedy


def test_another_account(ask: Asking) -> None:
    error = ask.refused(account="nobody")
    assert error.usage
    assert "nobody" in error.problem
    assert "--account" in error.remedy


@pytest.mark.parametrize(
    ("status", "usage", "problem"),
    [
        (307, True, "redirect"),
        (402, False, "402: see the words"),
        (403, True, "may not list the deployments of my-account"),
        (412, False, "412: see the words"),
    ],
)
def test_what_asking_again_does_not_help(ask: Asking, status: int, usage: bool, problem: str) -> None:
    code, headers, body = ask.server.error(status, "see the words")
    ask.server.answers = [(code, {**headers, "Location": "https://evil.example/"}, body)]
    error = ask.refused()
    assert error.usage is usage
    assert problem in error.problem
    assert len(ask.server.asked) == 1
    assert not ask.waits


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 520])
def test_what_asking_again_helps(ask: Asking, status: int) -> None:
    ask.server.answers = [ask.server.error(status, "")] * (ATTEMPTS - 1)
    assert len(ask()) == 2
    assert len(ask.waits) == len(ask.said) == ATTEMPTS - 1
    assert all(0 <= wait <= 8 for wait in ask.waits)


@pytest.mark.parametrize("status", [429, 503])
def test_it_is_given_up_in_the_end(ask: Asking, status: int) -> None:
    ask.server.answers = [ask.server.error(status, "")] * (ATTEMPTS + 1)
    error = ask.refused()
    assert not error.usage
    assert str(status) in error.problem
    assert len(ask.server.asked) == ATTEMPTS
    assert len(ask.said) == ATTEMPTS - 1


def test_a_page_in_the_middle_is_asked_for_again(ask: Asking) -> None:
    ask.server.page = 1
    good = ask.server.answer
    ask.server.answers = [
        good("/v1/accounts/my-account/deployments", {"pageSize": "1"}, f"Bearer {CONSOLE_KEY}"),
        ask.server.error(503, ""),
    ]
    assert [each.id for each in ask()] == ["abcd1234", "efgh5678"]
    assert [query.get("pageToken") for _, query in ask.server.asked] == [None, "1", "1"]


def test_the_wait_that_is_asked_for(ask: Asking) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    ask.server.answers = [(429, {"Retry-After": "7"}, b""), (503, {"Retry-After": soon}, b"")]
    assert len(ask()) == 2
    assert ask.waits[0] == 7.0
    assert 5 < ask.waits[1] <= 20
    assert "trying again in 7.0 s" in ask.said[0]


def test_a_long_wait_is_the_callers_to_make(ask: Asking) -> None:
    ask.server.answers = [(429, {"Retry-After": "45"}, b"")]
    assert "45 s" in ask.refused().problem
    assert not ask.waits


@pytest.mark.parametrize(
    "body", [b"", b"<html>Sign in</html>", b'"text"', b"[1]", b'{"code": 5}', b'{"deployments": 7}', b"[" * 100_000]
)
def test_what_is_no_list_of_deployments(ask: Asking, body: bytes) -> None:
    ask.server.answers = [(200, {"Content-Type": "text/html"}, body)]
    error = ask.refused()
    assert "did not answer with a list" in error.problem
    assert "firectl" in error.remedy


def test_a_body_that_cannot_be_decoded(ask: Asking) -> None:
    ask.server.answers = [(200, {"Content-Encoding": "gzip"}, b"no gzip")]
    assert "did not answer with a list" in ask.refused().problem


def test_a_page_that_is_larger_than_any(ask: Asking) -> None:
    ask.server.answers = [(200, {}, b" " * (MOST_READ + 1) + b"{}")]
    assert "did not answer with a list" in ask.refused().problem


def test_an_answer_that_is_no_http_is_not_quoted(ask: Asking) -> None:
    ask.server.answers += [(200, {f"no header {CONSOLE_KEY}": ""}, b"")] * ATTEMPTS
    assert "RemoteProtocolError" in ask.refused().problem
    assert not [said for said in ask.said if CONSOLE_KEY in said]


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("HTTPS_PROXY", "what://user:fake-password@127.0.0.1", "HTTPS_PROXY"),
        ("ALL_PROXY", "socks5://user:fake-password@127.0.0.1", "ALL_PROXY"),
        ("SSL_CERT_FILE", "/nowhere/ca.pem", "SSL_CERT_FILE"),
    ],
)
def test_an_environment_that_allows_no_request(
    ask: Asking, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    error = ask.refused()
    assert error.usage
    assert told in f"{error}"
    assert "fake-password" not in f"{error}"


def test_the_words_of_an_error_are_made_one_line_and_hold_no_key(ask: Asking) -> None:
    ask.server.answers = [ask.server.error(412, "see\nto \x1b[31mit" + "x" * 1000)]
    told = ask.refused().problem
    assert told.isprintable()
    assert len(told) < 300
    ask.server.answers = [ask.server.error(412, f"the key {CONSOLE_KEY} is of a suspended account")]
    ask.refused()


def test_nobody_is_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    waits: list[float] = []
    with pytest.raises(ControlPlaneError, match="cannot be reached") as caught:
        list_deployments(url, "my-account", CONSOLE_KEY, sleep=waits.append)
    assert len(waits) == ATTEMPTS - 1
    assert "network" in caught.value.remedy


def test_a_certificate_that_is_not_trusted() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    waits: list[float] = []
    with (
        Region("vendor", tls=context, prefix="") as region,
        pytest.raises(ControlPlaneError, match="is not trusted") as caught,
    ):
        list_deployments(region.url, "my-account", CONSOLE_KEY, sleep=waits.append)
    assert "SSL_CERT_FILE" in caught.value.remedy
    assert not waits
    assert not region.requests
