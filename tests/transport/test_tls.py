"""TLS: what is certified is used, what is not is a failing route; never a key for whoever has no certificate."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trustme

from smartroute import Config
from smartroute.testing import Region, Silence
from tests.transport.kit import CHAT, TEXT, Caller, World, eventually, measure, posts

HOST = "127.0.0.1"
NEAR_KEY = {"authorization": "Bearer fake-near-key"}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@contextmanager
def secured(certificate: trustme.LeafCert, name: str = "near") -> Iterator[Region]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    with Region(name, tls=context, api_keys=[f"fake-{name}-key"]) as region:
        yield region


def bad_certificate(kind: str, authority: trustme.CA) -> trustme.LeafCert:
    now = datetime.now(UTC)
    match kind:
        case "another host":
            return authority.issue_cert("elsewhere.example")
        case "unknown authority":
            return trustme.CA().issue_cert(HOST)
        case "expired":
            return authority.issue_cert(HOST, not_before=now - timedelta(9), not_after=now - timedelta(1))
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_certified_route_answers(
    caller: Caller, world: World, authority: trustme.CA, trust: ssl.SSLContext, stream: bool
) -> None:
    with secured(authority.issue_cert(HOST)) as near:
        client = measure(caller.client(world.config(near, world.far), verify=trust))
        sdk = caller.sdk(client, world.globe.url)
        assert [caller.ask(sdk, stream=stream).text for _ in range(3)] == ["near" + TEXT] * 3
        assert near.connections == 1
        assert client.router.status()[0].failures == 0
        caller.close(client)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("another host", "IP address mismatch"),
        ("unknown authority", "unable to get local issuer certificate"),
        ("expired", "certificate has expired"),
    ],
)
def test_a_route_without_a_good_certificate_is_not_told_anything_but_a_person_is(
    caller: Caller,
    world: World,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    words: str,
) -> None:
    with secured(bad_certificate(kind, authority)) as near:
        client = measure(caller.client(world.config(near), verify=trust))
        sdk = caller.sdk(client, world.globe.url)
        assert [caller.ask(sdk, stream=True).route for _ in range(3)] == ["global"] * 3
        assert near.requests == []
        status = client.router.status()[0]
        assert status.state == "open"
        assert status.last_failure is not None
        assert "certificate" in status.last_failure[0]
        caller.close(client)
    said = [record.getMessage() for record in caplog.records if record.name == "smartroute"]
    (refused,) = [line for line in said if "is not accepted" in line]
    assert refused.startswith("Route near: its certificate is not accepted (certificate: ")
    assert words in refused


def test_a_certificate_that_is_about_to_expire_is_said_once(
    caller: Caller, world: World, authority: trustme.CA, trust: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC)
    with secured(authority.issue_cert(HOST, not_before=now - timedelta(80), not_after=now + timedelta(10))) as near:
        clients = [measure(caller.client(world.config(near), verify=trust)) for _ in range(2)]
        for client in clients:  # each makes a connection of its own
            assert caller.ask(caller.sdk(client, world.globe.url)).route == "near"
        for client in clients:
            caller.close(client)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "smartroute"]
    assert said.startswith("Route near: its certificate expires in 10.0 days. Remedy:")


@pytest.mark.parametrize("kind", ["another host", "unknown authority", "expired"])
def test_a_bad_certificate_everywhere_is_the_familys_connect_error(
    caller: Caller, world: World, authority: trustme.CA, trust: ssl.SSLContext, kind: str
) -> None:
    with secured(bad_certificate(kind, authority)) as near:
        client = caller.client(world.config(near, global_url=None), verify=trust)
        plain: Any = caller.plain(verify=trust)
        for each in (plain, client):
            with pytest.raises(caller.family.ConnectError, match=r"(?i)certificate"):
                caller.do(each.post, f"{near.url}/chat/completions", json=CHAT)
        caller.close(client)
        caller.close(plain)


def test_what_is_no_tls_at_all_fails_over(caller: Caller, world: World, trust: ssl.SSLContext) -> None:
    route = world.route(world.near)
    config = world.config(
        routes=[
            world.route(world.far),
            type(route)(route.url.replace("http:", "https:"), name="near", api_key="fake-k"),
        ]
    )
    client = measure(caller.client(config, verify=trust))
    assert caller.ask(caller.sdk(client, world.globe.url)).route == "far"
    assert world.near.requests == []


def test_verification_can_be_turned_off_as_with_the_plain_client(
    caller: Caller, world: World, authority: trustme.CA
) -> None:
    with secured(bad_certificate("unknown authority", authority)) as near:
        client = caller.client(world.config(near), verify=False)
        assert caller.ask(caller.sdk(client, world.globe.url)).route == "near"
        caller.close(client)


def test_a_handshake_that_hangs_costs_a_second_and_the_next_calls_nothing(
    caller: Caller, world: World, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    with secured(authority.issue_cert(HOST)) as near:
        near.set(Silence(at="accept"))
        client = measure(caller.client(world.config(near, world.far), verify=trust))
        sdk = caller.sdk(client, world.globe.url)
        began = time.monotonic()
        assert (caller.ask(sdk, stream=True).route, posts(near)) == ("far", 0)
        assert time.monotonic() - began < 4  # not the caller's connect timeout of five
        tried = near.connections
        assert [caller.ask(sdk, stream=True).route for _ in range(3)] == ["far"] * 3
        assert near.connections <= tried + 2  # by verifications
        assert [each.in_flight for each in client.router.status()] == [0, 0]
        near.heal()  # until then it does not see that nobody is there any more
        assert eventually(lambda: near.open_connections == 0)


def test_where_nobody_else_is_left_a_handshake_may_take_its_time(
    caller: Caller, world: World, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    with secured(authority.issue_cert(HOST)) as near:
        near.set(Silence(at="accept", times=1))
        config = Config([world.route(near)], global_url=None, probe_interval=0)
        client = measure(caller.client(config, verify=trust))
        healing = threading.Timer(1.5, near.heal)
        healing.start()
        response = caller.do(client.post, f"{near.url}/chat/completions", json=CHAT, headers=NEAR_KEY)
        assert response.status_code == 200
        healing.join()
