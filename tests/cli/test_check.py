"""`smartroute check`: each kind of misconfiguration, on real sockets and with real TLS; each names its remedy."""

import os
import pty
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
import trustme

import smartroute
from smartroute import Config, Route, Router
from smartroute.cli.check import Inspected, inspect
from smartroute.cli.live import Asker
from smartroute.cli.remedies import of_configuration
from smartroute.testing import CloseAfterAnswer, Region, Reset, Silence, Status
from tests.cli.kit import (
    CONSOLE,
    DEPLOYMENT,
    DIRECT,
    HOST,
    MODEL,
    OTHER,
    assert_no_key,
    bad_certificate,
    environment,
    free_port,
    routes,
    run,
    secured,
)
from tests.environments import ROOT
from tests.transport.test_proxies import Proxy


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file with the authority's certificate, which this process trusts too."""
    path = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(f"{path}")
    monkeypatch.setenv("SSL_CERT_FILE", f"{path}")
    return f"{path}"


def look_at(
    address: str | Region,
    *,
    live: bool = False,
    model: str | None = None,
    limit: float = 5.0,
    key: str = DIRECT,
    **environ: str,
) -> Inspected:
    """What is found of one route."""
    url = address.url if isinstance(address, Region) else address
    config = Config([Route(url, name="near", api_key=key, model=model)], global_url=None)
    (found,) = inspect(config, environ, live=live, limit=limit)
    return found


def the_trouble(found: Inspected) -> tuple[str, str]:
    """The one thing that is wrong: where it showed, and what is said of it."""
    (trouble,) = found.troubles
    assert not found.healthy
    return trouble.step, f"{trouble}"


# --- The way there -----------------------------------------------------------------------------------


def test_a_name_that_is_not_found(no_names: None) -> None:
    step, said = the_trouble(look_at("https://llm.example/v1"))
    assert step == "dns"
    assert "the name llm.example was not found" in said
    assert "spelling" in said


def test_a_handle_that_is_not_found(no_names: None) -> None:
    config = Config(["fake-account-abcd.us-nowhere-1.direct.fireworks.ai"], api_key=DIRECT, global_url=None)
    (found,) = inspect(config, {})
    assert "copy the handle again" in the_trouble(found)[1]


def test_a_private_name_that_is_not_found(no_names: None) -> None:
    config = Config([Route("https://llm.internal.example/v1", kind="private")], global_url=None)
    (found,) = inspect(config, {})
    assert "private DNS zone" in the_trouble(found)[1]


def test_a_resolver_that_does_not_answer(slow_names: None) -> None:
    step, said = the_trouble(look_at("https://llm.example/v1", limit=0.2))
    assert step == "dns"
    assert "no answer in 0.2 s" in said


def test_refused() -> None:
    found = look_at(f"http://{HOST}:{free_port()}/v1")
    step, said = the_trouble(found)
    assert step == "connect"
    assert "refuses connections" in said
    assert "check the port" in said
    assert found.look is not None
    assert found.look.dns is not None
    assert found.look.connect is None


def test_dropped(near: Region) -> None:
    near.stop(silently=True)
    step, said = the_trouble(look_at(near, limit=0.3))
    assert step == "connect"
    assert "packets are dropped" in said
    assert "firewall" in said


def test_accepted_and_never_answered(near: Region) -> None:
    near.set(Silence())
    step, said = the_trouble(look_at(near, limit=0.3))
    assert step == "request"
    assert "no answer came" in said


def test_tls_that_is_never_answered(authority: trustme.CA, trusted: str) -> None:
    with secured(authority.issue_cert(HOST), "near") as near:
        near.set(Silence(at="accept"))
        step, said = the_trouble(look_at(near, limit=0.3))
        near.heal()
    assert step == "tls"
    assert "TLS is not answered" in said


@contextmanager
def dripping(head: bytes, drop: bytes) -> Iterator[str]:
    """A server whose answers never end, and never pause for long."""
    over = threading.Event()

    def answer(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.recv(65536)
            sock.sendall(head)
            while not over.wait(0.05):
                sock.sendall(drop)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://{HOST}:{listener.getsockname()[1]}/v1"
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


HEAD = b"HTTP/1.1 200 OK\r\n"
STREAM = HEAD + b"Content-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "drop", "expected"),
    [
        (HEAD, b"X-More: 1\r\n", "no answer came"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", "no answer came"),
        (HEAD + b"\r\n", b" ", "the body is no JSON"),
    ],
    ids=["headers", "informational", "body"],
)
def test_an_answer_that_never_ends(head: bytes, drop: bytes, expected: str) -> None:
    with dripping(head, drop) as url:
        step, said = the_trouble(look_at(url, limit=0.3))
    assert step == "request"
    assert expected in said


@pytest.mark.parametrize(
    ("head", "drop"),
    [(HEAD, b"X-More: 1\r\n"), (STREAM, b": wait\n\n"), (STREAM + b'data: {"choices": []}\n\n', b": wait\n\n")],
    ids=["headers", "stream", "after an event"],
)
def test_a_completion_that_never_ends(head: bytes, drop: bytes) -> None:
    with dripping(head, drop) as url:
        config = Config([Route(url, name="near", api_key=DIRECT)], global_url=None)
        with closing(Router(config)) as router, closing(Asker(config, router, limit=0.3)) as asker:
            completion = asker.ask(config.routes[0], MODEL, "/chat/completions")
    assert not completion.good
    assert completion.detail == "it is not over after 0.3 s"


def test_closed_without_an_answer(authority: trustme.CA, trusted: str) -> None:
    with secured(authority.issue_cert(HOST), "near") as near:
        near.set(Reset())
        step, said = the_trouble(look_at(near))
    assert step == "request"
    assert "closed the connection" in said


@pytest.mark.parametrize(
    ("kind", "problem", "remedy"),
    [
        ("another name", "its certificate is for elsewhere.example, not for 127.0.0.1", "server_name"),
        ("unknown issuer", "issuer is not known here", "ca_file"),
        ("expired", "has expired", "renewed"),
    ],
)
def test_a_certificate_that_is_not_accepted(
    authority: trustme.CA, trusted: str, kind: str, problem: str, remedy: str
) -> None:
    with secured(bad_certificate(kind, authority), "near") as near:
        step, said = the_trouble(look_at(near))
    assert step == "tls"
    assert problem in said
    assert remedy in said.partition("Remedy")[2]


@pytest.mark.parametrize(
    ("kind", "own", "problem", "remedy"),
    [
        ("another name", {"server_name": "llm.vendor.example"}, "not for llm.vendor.example", "correct server_name"),
        ("unknown issuer", {"ca_file": "trusted"}, "not in its ca_file", "ca_file"),
    ],
)
def test_of_a_setting_that_is_there_nobody_is_told_to_make_it(
    authority: trustme.CA, trusted: str, kind: str, own: dict[str, str], problem: str, remedy: str
) -> None:
    own = {name: trusted if value == "trusted" else value for name, value in own.items()}
    with secured(bad_certificate(kind, authority), "near") as near:
        route = Route(near.url, name="near", api_key=DIRECT, **own)  # type: ignore[arg-type]
        (found,) = inspect(Config([route], global_url=None), {})
    _, said = the_trouble(found)
    assert problem in said
    assert remedy in said
    assert "SSL_CERT_FILE" not in said
    assert "set server_name" not in said


def test_a_client_certificate_that_is_not_accepted(authority: trustme.CA, trusted: str, tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    path = tmp_path / "client.pem"
    trustme.CA().issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(f"{path}")
    authority.issue_cert(HOST).configure_cert(context)
    with Region("near", tls=context) as near:
        route = Route(near.url, name="near", api_key=DIRECT, client_cert=f"{path}")
        (found,) = inspect(Config([route], global_url=None), {})
    assert "accept" in the_trouble(found)[1].partition("Remedy")[2]


def test_of_the_days_that_are_left_those_that_are_whole(authority: trustme.CA, trusted: str) -> None:
    now = datetime.now(UTC)
    certificate = authority.issue_cert(HOST, not_before=now - timedelta(9), not_after=now + timedelta(1.9))
    with secured(certificate, "near", api_keys=[DIRECT]) as near, Region("global") as globe:
        done = run("check", **variables(near, globe, SSL_CERT_FILE=trusted))
    assert ", 1 day  " in done.output


def test_a_certificate_that_expires_soon_is_a_warning(authority: trustme.CA, trusted: str) -> None:
    with secured(bad_certificate("expires soon", authority), "near", api_keys=[DIRECT]) as near:
        found = look_at(near)
    (trouble,) = found.troubles
    assert found.healthy
    assert not trouble.severe
    assert "expires in 3.0 days" in trouble.problem


def test_a_client_certificate_is_asked_for(authority: trustme.CA, trusted: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server((HOST, 0)) as listener:

        def serve_to_the_end() -> None:
            """The alert is sent, and what has come is read: or the connection would be reset, and the alert lost."""
            connection, _ = listener.accept()
            with connection:
                encrypted = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                with suppress(OSError):
                    encrypted.do_handshake()
                with suppress(OSError):
                    while socket.socket.recv(encrypted, 65536):
                        pass
                encrypted.close()

        thread = threading.Thread(target=serve_to_the_end)
        thread.start()
        _, said = the_trouble(look_at(f"https://{HOST}:{listener.getsockname()[1]}/v1"))
        thread.join()
    assert "this client's certificate" in said
    assert "client_cert and client_key" in said


def test_a_private_endpoint_is_reached_by_its_address(authority: trustme.CA, tmp_path: Path) -> None:
    """It presents its private name, by an authority of its own."""
    authority.cert_pem.write_to_path(f"{tmp_path / 'ca.pem'}")
    with secured(authority.issue_cert("llm.private.example"), "near", api_keys=[DIRECT], models=[MODEL]) as near:

        def look(server_name: str | None = None, ca_file: str | None = f"{tmp_path / 'ca.pem'}") -> Inspected:
            route = Route(
                near.url, kind="private", api_key=DIRECT, model=MODEL, server_name=server_name, ca_file=ca_file
            )
            (found,) = inspect(Config([route], global_url=None), {}, live=True)
            return found

        found = look("llm.private.example")
        assert found.healthy
        assert found.completion is not None
        assert found.completion.good
        assert near.requests[0].header("host") == f"llm.private.example:{near.url.split(':')[2].split('/')[0]}"
        said = the_trouble(look())[1]
        assert "is for llm.private.example, not for 127.0.0.1" in said
        assert "set server_name" in said
        said = the_trouble(look("other.example"))[1]
        assert "is for llm.private.example, not for other.example" in said
        assert "ca_file" in the_trouble(look("llm.private.example", ca_file=None))[1]


def test_a_key_in_a_header_of_its_own(near: Region) -> None:
    near.api_keys = ()
    route = Route(near.url, api_key=DIRECT, model=MODEL, key_header="api-key", query={"api-version": "1"})
    (found,) = inspect(Config([route], global_url=None), {}, live=True)
    assert found.healthy
    for seen in near.requests:
        assert seen.header("api-key") == DIRECT
        assert seen.header("authorization") is None
        assert seen.target.endswith("?api-version=1")


def test_https_where_plain_http_is_spoken() -> None:
    """A server that answers a handshake with an error in plain text, as nginx does."""
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        step, said = the_trouble(look_at(f"https://{HOST}:{listener.getsockname()[1]}/v1"))
        thread.join()
    assert step == "tls"
    assert "does not speak TLS" in said
    assert "http://" in said


def test_https_where_the_handshake_is_broken_off(near: Region) -> None:
    step, said = the_trouble(look_at(near.url.replace("http:", "https:")))
    assert step == "tls"
    assert "http:" in said


def test_plain_http_where_tls_is_spoken(authority: trustme.CA) -> None:
    with secured(authority.issue_cert(HOST), "near") as near:
        step, said = the_trouble(look_at(near.url.replace("https:", "http:")))
    assert step == "request"
    assert "write https://" in said


def test_a_proxy_in_the_way(proxy: Proxy, near: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//fake-user:fake-password@"))
    found = look_at(near)
    assert found.healthy
    assert found.look is not None
    assert found.look.proxy == proxy.url
    assert found.look.connect is not None
    assert found.look.round_trip is not None
    near.stop()
    found = look_at(near)
    assert "status 502" in the_trouble(found)[1]
    monkeypatch.setenv("HTTP_PROXY", f"http://fake-user:fake-password@{HOST}:{free_port()}")
    step, said = the_trouble(look_at(near))
    assert step == "connect"
    assert "the proxy http://127.0.0.1:" in said
    assert "is not reached (Connection refused)" in said
    assert "HTTP_PROXY" in said
    assert "NO_PROXY" in said
    assert "allow" not in said  # nobody is there who could
    assert "fake-password" not in said


@contextmanager
def tunnel(*, refuses: bool = False) -> Iterator[str]:
    """A proxy for HTTPS: it is told where to (CONNECT), and passes bytes both ways. Gives its URL."""
    open_now = True

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve(caller: socket.socket) -> None:
        with caller:
            head = b""
            while b"\r\n\r\n" not in head and (data := caller.recv(65536)):
                head += data
            if not head or refuses:
                caller.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
                return
            host, _, port = head.split()[1].decode().partition(":")
            with socket.create_connection((host, int(port))) as called:
                caller.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=pump, args=(called, caller))
                back.start()
                pump(caller, called)
                back.join()

    def accept() -> None:
        while True:
            caller, _ = listener.accept()
            if not open_now:
                caller.close()
                return
            serve(caller)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://{HOST}:{listener.getsockname()[1]}"
        open_now = False
        socket.create_connection(listener.getsockname()).close()
        thread.join()


def test_a_tunnel_through_a_proxy(authority: trustme.CA, trusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with secured(authority.issue_cert(HOST), "near", api_keys=[DIRECT]) as near:
        with tunnel() as url:
            monkeypatch.setenv("HTTPS_PROXY", url)
            found = look_at(near)
        assert found.healthy
        assert found.look is not None
        assert found.look.proxy == url
        assert all(took is not None for took in (found.look.connect, found.look.tls, found.look.round_trip))
        assert found.look.certificate is not None
        assert found.look.certificate.issuer.startswith("trustme")
        with tunnel(refuses=True) as url:
            monkeypatch.setenv("HTTPS_PROXY", url)
            _, said = the_trouble(look_at(near))
    assert "through the proxy" in said
    assert "(connect)" not in said
    assert "allow 127.0.0.1:" in said


# --- The answer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused(near: Region, status: int) -> None:
    near.set(Status(status))
    step, said = the_trouble(look_at(near))
    assert step == "request"
    assert f"its key ...d1d2 is refused (status {status})" in said
    assert "SMARTROUTE_API_KEY_NEAR" in said


def test_the_console_key_on_a_direct_route(near: Region) -> None:
    _, said = the_trouble(look_at(near, key=CONSOLE, FIREWORKS_API_KEY=CONSOLE))
    assert "a console key is no direct key" in said
    assert "SMARTROUTE_API_KEY_NEAR" in said


def test_a_key_that_looks_like_the_consoles(near: Region) -> None:
    _, said = the_trouble(look_at(near, key="fw_fake_console_key"))
    assert "looks like a console key" in said


def test_a_deployment_behind_the_gateway_takes_the_console_key(globe: Region) -> None:
    """That it is the global endpoint's key too says nothing against it."""
    route = Route(f"{globe.url}/behind", name="near")
    config = Config([route], api_key=OTHER, global_url=globe.url, global_api_key=OTHER)
    found, world = inspect(config, {})
    assert "set the key that the deployment was given" in the_trouble(found)[1]
    assert "set the right key" in the_trouble(world)[1]


def test_a_direct_key_on_the_global_endpoint(near: Region, globe: Region) -> None:
    config = Config([Route(near.url, name="near")], api_key=DIRECT, global_url=globe.url, global_api_key=DIRECT)
    route, world = inspect(config, {})
    assert route.healthy
    _, said = the_trouble(world)
    assert "a direct key is no console key" in said
    assert "SMARTROUTE_GLOBAL_API_KEY" in said


def test_one_of_two_keys_is_refused(near: Region) -> None:
    found = look_at(near, key=f"{OTHER},{DIRECT}")
    (trouble,) = found.troubles
    assert found.healthy
    assert "key 1 of 2, ...o1o2, is refused" in trouble.problem
    assert found.look is not None
    assert [answer.status for answer in found.look.answers] == [401, 200]


def test_a_private_route_that_asks_for_a_key(near: Region) -> None:
    (found,) = inspect(Config([Route(near.url, name="near", kind="private")], global_url=None), {})
    _, said = the_trouble(found)
    assert "none is configured" in said
    assert "SMARTROUTE_API_KEY_NEAR" in said


def test_the_global_endpoint_may_have_no_key(near: Region, globe: Region) -> None:
    """The callers bring theirs: that it asks for one is no trouble."""
    _, world = inspect(Config([near.url], api_key=DIRECT, global_url=globe.url), {}, live=True)
    assert world.healthy
    assert world.completion is None


def test_a_login_page_or_a_wrong_base_path(near: Region) -> None:
    near.set(Status(200, {"content-type": "text/html"}, b"<html>Log in</html>"))
    _, said = the_trouble(look_at(near))
    assert "no JSON" in said
    assert "login page" in said
    assert "/v1" in said


def test_a_base_path_that_is_not_there(near: Region) -> None:
    found = look_at(near.url.replace("/v1", "/v2"))
    (trouble,) = found.troubles
    assert found.healthy  # the way is open: probes ask for no more
    assert "check the path" in trouble.remedy


def test_a_redirect_says_where_to_and_no_more(near: Region) -> None:
    near.set(Status(302, {"location": "https://login.example/start?token=fake-token"}))
    _, said = the_trouble(look_at(near))
    assert "redirects to https://login.example (status 302)" in said
    assert "fake-token" not in said


def test_scaled_to_zero(near: Region) -> None:
    error = {"error": {"code": "DEPLOYMENT_SCALING_UP", "message": f"{DIRECT} is starting"}}
    near.set(Status(503, {}, error))
    _, said = the_trouble(look_at(near))
    assert "scaled to zero" in said
    assert "wait some minutes" in said
    assert_no_key(said)


def test_an_overloaded_region(near: Region) -> None:
    near.set(Status(583))
    assert "status 583" in the_trouble(look_at(near))[1]


def test_a_busy_one_is_a_warning(near: Region) -> None:
    near.set(Status(429))
    found = look_at(near)
    assert found.healthy
    assert "busy" in found.troubles[0].problem


def test_no_error_names_a_key_that_a_server_repeats(near: Region) -> None:
    near.set(Status(500, {}, {"error": {"code": DIRECT, "message": f"no such key: {DIRECT}"}}))
    assert_no_key(the_trouble(look_at(near))[1])


def test_no_model_and_no_place_names_a_key_that_a_server_repeats(near: Region) -> None:
    near.models = [f"key-{DIRECT}", "other"]
    near.set(Status(404, only="post"))
    assert_no_key(repr(look_at(near, live=True, model="m")).replace("Keys", ""))
    near.set(Status(307, {"location": f"https://{DIRECT}.example/"}))
    assert_no_key(repr(look_at(near)))


def test_a_short_value_of_a_header_or_of_the_query_hides_nothing(near: Region) -> None:
    near.set(Status(503, {}, {"error": {"code": "DEPLOYMENT_SCALING_UP"}}))
    route = Route(near.url, name="near", api_key=DIRECT, headers={"x-tenant": "A"}, query={"debug": ""})
    (found,) = inspect(Config([route], global_url=None), {}, limit=5.0)
    assert "scaled to zero" in the_trouble(found)[1]


def test_a_region_that_is_not_the_handles() -> None:
    handle = "fake-account-abcd.us-arizona-1.direct.fireworks.ai"
    config = Config([Route(handle, region="EU_FRANKFURT_1", api_key=DIRECT)], global_url=None)
    (trouble,) = of_configuration(config.routes[0], config)
    assert "US_ARIZONA_1" in trouble.problem
    assert "EU_FRANKFURT_1" in trouble.problem
    assert not trouble.severe
    bound = Config([Route(handle, region="EU_FRANKFURT_1", api_key=DIRECT)], global_url=None, regions=["EU_*"])
    assert of_configuration(bound.routes[0], bound)[0].severe


def test_a_path_that_direct_routes_do_not_serve() -> None:
    paths = ["/chat/completions", "/responses"]
    handle, other = Route("acme-abcd1234.us-arizona-1.direct.fireworks.ai"), Route(f"http://{HOST}:9/v1")
    config = Config([handle, other], api_key=DIRECT, global_url=None, paths=paths)
    (trouble,) = of_configuration(config.routes[0], config)
    assert (trouble.problem, trouble.severe) == ("a direct route does not serve /responses", False)
    assert "SMARTROUTE_PATHS" in trouble.remedy
    assert of_configuration(config.routes[1], config) == []


def test_a_route_outside_the_allowed_regions_is_left_alone(near: Region, globe: Region) -> None:
    config = Config(
        [Route(near.url, name="near", region="US_IOWA_1"), Route(globe.url, name="far", region="EU_FRANKFURT_1")],
        api_key=CONSOLE,
        global_url=None,
        regions=["EU_*"],
    )
    left, used = inspect(config, {}, live=True)
    assert left.look is None
    assert not near.connections
    assert used.look is not None


# --- One token ---------------------------------------------------------------------------------------


def test_a_token_comes(near: Region, globe: Region) -> None:
    config = Config(
        [Route(near.url, name="near")],
        api_key=DIRECT,
        model=MODEL,
        global_url=globe.url,
        global_api_key=CONSOLE,
        global_model=DEPLOYMENT,
    )
    steps: list[None] = []
    route, world = inspect(config, {}, live=True, done=lambda: steps.append(None))
    assert len(steps) == 4
    for found, model in ((route, MODEL), (world, DEPLOYMENT)):
        assert found.healthy
        assert found.completion is not None
        assert found.completion.model == model
        assert found.completion.first_token is not None
    (asked,) = [seen for seen in near.requests if seen.method == "POST"]
    assert asked.json()["max_tokens"] == 1
    assert asked.header("authorization") == f"Bearer {DIRECT}"


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
@pytest.mark.parametrize("backend", ["httptools", "httpcore"])
def test_with_either_family_and_backend(
    near: Region, monkeypatch: pytest.MonkeyPatch, family: str, backend: str
) -> None:
    monkeypatch.setattr(smartroute, "_family", lambda: family)
    config = Config([Route(near.url)], api_key=DIRECT, model=MODEL, global_url=None, backend=backend)
    (found,) = inspect(config, {}, live=True)
    assert found.healthy
    assert found.look is not None
    assert None not in (found.look.dns, found.look.connect, found.look.round_trip)
    assert found.completion is not None
    assert found.completion.good


def test_the_global_endpoint_may_be_left_out(near: Region) -> None:
    config = Config([near.url], api_key=DIRECT, global_url=f"http://{HOST}:{free_port()}/v1")
    _, world = inspect(config, {})
    assert "SMARTROUTE_GLOBAL_URL=off" in the_trouble(world)[1]


def test_what_the_application_asks_for_is_translated(near: Region) -> None:
    found = look_at(near, live=True, model=f"mine={MODEL}")
    assert found.healthy
    assert found.completion is not None
    assert found.completion.model == MODEL


def test_the_model_name_of_the_other_endpoint(near: Region, globe: Region) -> None:
    config = Config(
        [Route(near.url, name="near")],
        api_key=DIRECT,
        model=DEPLOYMENT,
        global_url=globe.url,
        global_api_key=CONSOLE,
        global_model=MODEL,
    )
    route, world = inspect(config, {}, live=True)
    step, said = the_trouble(route)
    assert step == "live"
    assert f"no model {DEPLOYMENT}" in said
    assert "base model" in said
    assert f"it lists: {MODEL}" in said
    assert "SMARTROUTE_MODEL" in said
    step, said = the_trouble(world)
    assert step == "live"
    assert "accounts/ACCOUNT/deployments/DEPLOYMENT" in said
    assert "SMARTROUTE_GLOBAL_MODEL" in said


def test_the_serverless_model_answers_on_the_global_endpoint(near: Region, globe: Region) -> None:
    globe.models = None
    config = Config(
        [Route(near.url, name="near")], api_key=DIRECT, model=MODEL, global_url=globe.url, global_api_key=CONSOLE
    )
    _, world = inspect(config, {}, live=True)
    (trouble,) = world.troubles
    assert not trouble.severe
    assert "serverless" in trouble.problem
    assert "#accounts/" in trouble.remedy


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Status(429, only="post"), "too busy"),
        (Status(503, {}, {"error": {"code": "DEPLOYMENT_SCALING_UP"}}, only="post"), "scaled to zero"),
        (Status(402, only="post"), "the account"),
        (Status(400, only="post"), "chat completions"),
        (Status(500, only="post"), "status 500"),
        (Status(200, {"content-type": "text/html"}, b"<html>", only="post"), "no token"),
        (Reset(only="post"), "no token"),
        (Status(401, only="post"), "is refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_token_does_not_come(near: Region, fault: Status | Reset, expected: str) -> None:
    near.set(fault)
    step, said = the_trouble(look_at(near, live=True, model=MODEL))
    assert step in ("live", "request")
    assert expected in said


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Status(503), "it is not well (status 503"),
        (Status(200, {"content-type": "text/html"}, b"<html>"), "login page"),
        (Status(302, {"location": "https://login.example/"}), "it redirects to https://login.example"),
        (Status(429), "too busy for one more request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_probe_and_completion_say_alike_is_told_once(near: Region, fault: Status, expected: str) -> None:
    near.set(fault)
    assert expected in the_trouble(look_at(near, live=True, model=MODEL))[1]


def test_a_base_path_that_is_not_there_is_no_missing_model(near: Region) -> None:
    _, said = the_trouble(look_at(near.url.replace("/v1", "/v2"), live=True, model=MODEL))
    assert "status 404" in said
    assert "no model" not in said
    assert "check the path of its base URL" in said


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (Status(200, {"content-type": "text/html"}, b"<html>", only="post"), "login page"),
        (Status(302, {"location": "https://login.example/"}, only="post"), "the URL that it leads to"),
    ],
    ids=["login page", "redirect"],
)
def test_something_else_instead_of_a_completion(near: Region, fault: Status, remedy: str) -> None:
    near.set(fault)
    assert remedy in the_trouble(look_at(near, live=True, model=MODEL))[1]


def test_an_endpoint_that_serves_need_not_list_its_models(near: Region) -> None:
    near.set(Status(403, only="get"), CloseAfterAnswer())
    found = look_at(near, live=True, model=MODEL)
    assert found.healthy
    assert [trouble.severe for trouble in found.troubles] == [False]


# --- The command -------------------------------------------------------------------------------------


def variables(near: Region | str, globe: Region, **more: str) -> dict[str, str]:
    return {
        "SMARTROUTE_ROUTES": routes({"near": near}),
        "SMARTROUTE_API_KEY": DIRECT,
        "SMARTROUTE_GLOBAL_URL": globe.url,
        "SMARTROUTE_GLOBAL_API_KEY": CONSOLE,
        **more,
    }


def test_all_is_well(near: Region, globe: Region) -> None:
    done = run("check", "--live", **variables(near, globe, SMARTROUTE_MODEL=MODEL, SMARTROUTE_GLOBAL_MODEL=DEPLOYMENT))
    assert done.status == 0, done.output
    assert done.output.splitlines()[-1] == "2 of 2 endpoints can serve."
    assert "200 ...d1d2" in done.output
    assert done.errors == ""
    assert "\x1b" not in done.output
    assert not any(line.endswith(" ") for line in done.output.splitlines())


def test_every_problem_of_the_configuration_at_once() -> None:
    done = run(
        "check",
        SMARTROUTE_ROUTES="not-a-handle, https://llm.example/v1/chat/completions",
        SMARTROUTE_HEDGE="perhaps",
        SMARTROUTE_RUOTES="x",
        SMARTROUTE_API_KEY=DIRECT,
    )
    assert done.status == 2
    assert "SMARTROUTE_ROUTES: route 1: " in done.output
    assert "SMARTROUTE_ROUTES: route 2: " in done.output
    assert "SMARTROUTE_HEDGE: is neither on nor off" in done.output
    assert "SMARTROUTE_RUOTES: there is no such variable; did you mean SMARTROUTE_ROUTES?" in done.output
    assert done.output.splitlines()[-1] == "The configuration cannot be used: 4 problems."


def test_a_misspelt_variable_does_not_hide_the_rest(near: Region, globe: Region) -> None:
    near.stop()
    done = run("check", "--json", **variables(near, globe, SMARTROUTE_HEGDE="on"))
    assert done.status == 2
    shown = done.json()
    assert shown["healthy"] is False
    assert shown["problems"][0]["remedy"] == "did you mean SMARTROUTE_HEDGE?"
    assert [each["healthy"] for each in shown["endpoints"]] == [False, True]


def test_the_shape_of_the_json(authority: trustme.CA, trusted: str, globe: Region) -> None:
    with secured(authority.issue_cert(HOST), "near", api_keys=[DIRECT]) as near:
        done = run("check", "--json", "--live", "--model", DEPLOYMENT, **variables(near, globe, SSL_CERT_FILE=trusted))
    assert done.status == 0
    shown = done.json()
    assert set(shown) == {"healthy", "disabled", "problems", "endpoints"}
    route, world = shown["endpoints"]
    assert set(route) == set(world)
    assert route["name"] == "near"
    assert route["kind"] == "direct"
    assert route["addresses"] == [HOST]
    assert route["failed_step"] is None
    assert route["troubles"] == []
    assert route["keys"][0]["key"] == "...d1d2"
    assert route["keys"][0]["status"] == 200
    assert route["certificate"]["issuer"].startswith("trustme")
    assert route["certificate"]["days_left"] > 14
    assert all(route[name] > 0 for name in ("dns_ms", "connect_ms", "tls_ms", "round_trip_ms"))
    assert route["live"]["status"] == 200
    assert route["live"]["first_token_ms"] > 0
    assert world["region"] == "GLOBAL"
    assert world["tls_ms"] is None


def test_the_json_of_a_configuration_that_cannot_be_used() -> None:
    done = run("check", "--json", SMARTROUTE_ROUTES="nonsense")
    assert done.status == 2
    shown = done.json()
    assert (shown["healthy"], shown["endpoints"]) == (False, [])
    assert shown["problems"][0]["setting"] == "SMARTROUTE_ROUTES"


@pytest.mark.parametrize(
    "command", [("check",), ("probe",), ("explain",), ("watch", "--for", "1"), ("discover", "--account", "my-account")]
)
@pytest.mark.parametrize("there", [True, False])
def test_authorities_that_cannot_be_read(
    command: tuple[str, ...], there: bool, near: Region, globe: Region, tmp_path: Path
) -> None:
    path = tmp_path / "authorities.pem"
    if there:
        path.write_text("no certificate")
    done = run(*command, **variables(near, globe, SSL_CERT_FILE=f"{path}", FIREWORKS_API_KEY=CONSOLE))
    assert done.status == 2
    said = done.output + done.errors
    assert ("has no certificate" if there else "No such file or directory") in said
    assert "SSL_CERT_FILE" in said
    assert "name a readable PEM file" in said


@pytest.mark.parametrize(
    ("proxy", "problem"),
    [("ftp://fake-user:fake-password@proxy.example", "ftp"), ("socks5://proxy.example", "socksio")],
)
def test_a_proxy_of_another_kind(near: Region, globe: Region, proxy: str, problem: str) -> None:
    if problem == "socksio" and find_spec("socksio"):
        pytest.skip("it is installed")
    done = run("check", **variables(near, globe, ALL_PROXY=proxy))
    assert done.status == 2
    assert "ALL_PROXY: " in done.output
    assert problem in done.output
    assert "fake-password" not in done.output


def test_of_a_proxy_that_is_in_the_way_is_told_once(near: Region, globe: Region, proxy: Proxy) -> None:
    told = "the way leads through the proxy"
    assert run("check", **variables(near, globe, HTTP_PROXY=proxy.url)).output.count(told) == 2  # the endpoints
    done = run("check", **variables(near, globe, HTTP_PROXY=f"http://{HOST}:{free_port()}"))
    assert done.status == 1
    assert told not in done.output
    assert done.output.count("the proxy") == 2


def test_authorities_that_cannot_be_read_are_in_the_json(near: Region, globe: Region) -> None:
    shown = run("check", "--json", **variables(near, globe, SSL_CERT_FILE="/none.pem")).json()
    assert (shown["healthy"], shown["endpoints"]) == (False, [])
    assert [each["setting"] for each in shown["problems"]] == ["SSL_CERT_FILE"]


def test_something_cannot_serve(near: Region, globe: Region) -> None:
    globe.set(Status(503))
    done = run("check", "--limit", "2", **variables(near, globe))
    assert done.status == 1
    assert "global: it is not well (status 503" in done.output
    assert done.output.splitlines()[-1] == "1 of 2 endpoints can serve."


def test_switched_off(globe: Region) -> None:
    done = run("check", **variables("nonsense", globe, SMARTROUTE_DISABLED="1"))
    assert done.status == 0
    assert "switched off" in done.output


def test_without_routes(globe: Region) -> None:
    done = run("check", SMARTROUTE_GLOBAL_URL=globe.url)
    assert done.status == 0
    assert "Set SMARTROUTE_ROUTES" in done.output
    assert "SMARTROUTE_GLOBAL_API_KEY" in done.output


def test_wrong_usage(near: Region, globe: Region, tmp_path: Path) -> None:
    assert run("check", "--no-such-option").status == 2
    done = run("check", "--live", **variables(near, globe))
    assert done.status == 2
    assert "--live --model NAME" in done.errors
    done = run("check", "--config", f"{tmp_path / 'none.toml'}")
    assert done.status == 2
    assert "the file cannot be read" in done.output


def test_a_file_of_ones_own(near: Region, globe: Region, tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(f'global_url = "off"\n[[route]]\naddress = "{near.url}"\nname = "filed"\n')
    done = run("check", "--json", "--config", f"{path}", SMARTROUTE_API_KEY=DIRECT)
    assert [each["name"] for each in done.json()["endpoints"]] == ["filed"]


@pytest.mark.parametrize("command", ["check", "env", "probe"])
def test_routes_of_a_file_that_the_environment_replaces(
    command: str, near: Region, globe: Region, tmp_path: Path
) -> None:
    path = tmp_path / "other.toml"
    path.write_text(f'[[route]]\naddress = "{globe.url}"\nname = "filed"\n')
    done = run(command, "--config", f"{path}", **variables(near, globe))
    assert "other.toml are not used: SMARTROUTE_ROUTES" in done.errors
    assert "filed" not in done.output
    without = {name: value for name, value in variables(near, globe).items() if name != "SMARTROUTE_ROUTES"}
    assert "not used" not in run("env", "--config", f"{path}", **without).errors
    assert "not used" not in run("env", **variables(near, globe)).errors
    assert "not used" not in run("env", "--config", f"{path}", **variables(near, globe, SMARTROUTE_DISABLED="1")).errors


def test_a_model_that_no_route_serves(near: Region, globe: Region) -> None:
    environ = variables(near, globe, SMARTROUTE_MODEL=f"mine={MODEL}")
    assert "no route serves the model theirs" in run("check", "--live", "--model", "theirs", **environ).errors
    assert not run("check", "--live", "--model", "mine", **environ).errors


def read_all(terminal: int) -> str:
    """What a terminal showed until it was closed."""
    said = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # how Linux says that nobody has the other end any more
            break
        if not data:
            break
        said += data
    return said.decode()


def test_a_progress_bar_goes_to_a_terminal_and_the_table_to_the_pipe(near: Region, globe: Region) -> None:
    terminal, other_end = pty.openpty()
    globe.latency = 0.5  # or it is over before it is seen
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "smartroute.cli", "check"],
        env=environment(**variables(near, globe), TERM="xterm"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=other_end,
    )
    os.close(other_end)
    shown = read_all(terminal)
    os.close(terminal)
    output, _ = child.communicate()
    assert child.returncode == 0
    assert "checking" in shown
    assert "2 of 2 endpoints can serve." not in shown
    assert b"\x1b" not in output
    assert b"2 of 2 endpoints can serve." in output


def test_interrupted(near: Region, globe: Region) -> None:
    near.set(Silence())
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "smartroute.cli", "check", "--limit", "300"],
        env=environment(**variables(near, globe)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not near.requests:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    output, errors = child.communicate(timeout=20)
    assert child.returncode == 130
    assert output == errors == ""


@pytest.mark.parametrize("command", ["check", "probe -n 1", "explain", "watch --for 0.1", "env"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_nothing(command: str, closed: str, near: Region) -> None:
    shell = f"exec {sys.executable} -m smartroute.cli {command} {closed}"
    given = environment(SMARTROUTE_ROUTES=near.url, SMARTROUTE_API_KEY=DIRECT, SMARTROUTE_GLOBAL_URL="off")
    done = subprocess.run(
        ["/bin/sh", "-c", shell], env=given, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_cannot_be_written(near: Region) -> None:
    given = environment(SMARTROUTE_ROUTES=near.url, SMARTROUTE_API_KEY=DIRECT, SMARTROUTE_GLOBAL_URL="off")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "smartroute.cli", "check", "--json"],
            env=given,
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )
    assert (done.returncode, done.stderr) == (2, "smartroute: the output cannot be written (No space left on device)\n")


@pytest.mark.parametrize("command", ["check", "probe", "explain", "watch"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [("HTTPS_PROXY", "what://user:fake-password@127.0.0.1"), ("SSL_CERT_FILE", "/nowhere/ca.pem")],
)
def test_an_environment_that_allows_no_request(command: str, variable: str, value: str) -> None:
    url = f"https://{HOST}:{free_port()}/v1"
    done = run(
        command, SMARTROUTE_ROUTES=url, SMARTROUTE_API_KEY=DIRECT, SMARTROUTE_GLOBAL_URL="off", **{variable: value}
    )
    assert done.status == 2
    assert f"{variable}: " in done.output + done.errors
    assert "fake-password" not in done.output + done.errors


@pytest.mark.parametrize(("end", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_terminal_is_left_as_it_was_found(near: Region, end: signal.Signals, status: int) -> None:
    near.set(Silence())
    ours, theirs = pty.openpty()
    given = environment(
        SMARTROUTE_ROUTES=near.url, SMARTROUTE_API_KEY=DIRECT, SMARTROUTE_GLOBAL_URL="off", TERM="xterm"
    )
    command = [sys.executable, "-m", "smartroute.cli", "check", "--limit", "60"]
    with subprocess.Popen(
        command, env=given | {"TERM": "xterm"}, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs
    ) as running:
        os.close(theirs)
        said = b""
        while b"\x1b[?25l" not in said:  # the cursor is hidden
            said += os.read(ours, 1000)
        running.send_signal(end)
        assert "\x1b[?25h" in read_all(ours), said
    assert running.returncode == status
