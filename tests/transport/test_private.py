"""Private routes: reached by an address, known by a name, with authorities and certificates of their own."""

import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import trustme

from smartroute import Config, Route, Router
from smartroute.errors import ConfigError
from smartroute.events import CertificateRefused, Event, ProbeEnded
from smartroute.policy.latency import Latency
from smartroute.testing import Region, Silence
from smartroute.testing.region import _blocking
from tests.transport.kit import CALLERS, CHAT, TEXT, Caller, World, eventually, measure, posts
from tests.transport.test_proxies import serving
from tests.transport.test_silence import under_way

NAME = "llm.private.example"
"""The name of all private regions. It resolves nowhere: they are reached by address only."""
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
BACKENDS = pytest.mark.parametrize("backend", ["own", "httpcore"])
ONE_FAMILY = pytest.mark.parametrize("caller", [name for name in CALLERS if not name.endswith("httpx")], indirect=True)


class Gate:
    """TLS in front of a region, as a load balancer has it: who shows no good certificate is told so."""

    def __init__(self, region: Region, context: ssl.SSLContext) -> None:
        self.name, self.region = region.name, region
        self._far = ("127.0.0.1", int(region.url.split(":")[2].split("/")[0]))
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(sock,), daemon=True))
                self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            sock.settimeout(10)
            secured = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            with secured, socket.create_connection(self._far) as far:
                try:
                    secured.do_handshake()
                except ssl.SSLError:
                    secured.shutdown(socket.SHUT_WR)
                    while socket.socket.recv(secured, 65536):  # what is not read would have the alert lost with a reset
                        pass
                    return
                carry(secured, far)


def carry(one: ssl.SSLSocket, other: socket.socket) -> None:
    """Between the two, until one of them ends."""
    ends: dict[socket.socket, socket.socket] = {one: other, other: one}
    while True:
        ready = [one] if one.pending() else select.select(list(ends), [], [])[0]
        for end in ready:
            if not (data := end.recv(65536)):
                return
            ends[end].sendall(data)


@dataclass(frozen=True)
class Estate:
    """A private network: its authorities as files, and regions with certificates of theirs."""

    folder: Path
    authority: trustme.CA
    vendor: trustme.CA
    stack: ExitStack
    asked: dict[str, list[str | None]] = field(default_factory=dict)
    """The names that were asked for in TLS, by region."""

    @cached_property
    def ca_file(self) -> Path:
        """What the regions' certificates are to be verified with."""
        return self.file("ca.pem", self.authority.cert_pem)

    def identity(self, authority: trustme.CA | None = None, name: str = "client") -> Path:
        """A client's certificate and key, issued by the vendor's authority unless by another."""
        issued = (authority or self.vendor).issue_cert(f"{name}@example.org", common_name=name)
        return self.file(f"{name}.pem", issued.private_key_and_cert_chain_pem)

    def file(self, name: str, blob: trustme.Blob) -> Path:
        path = self.folder / name
        blob.write_to_path(str(path))
        return path

    def context(self, name: str, *names: str, asks: trustme.CA | None = None, **tls: Any) -> ssl.SSLContext:
        """What a region needs that has a certificate for these names, else for its private one.

        Args:
            asks: whose certificates it demands of clients.
            tls: attributes of the context.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*(names or (NAME,))).configure_cert(context)
        heard = self.asked.setdefault(name, [])
        context.sni_callback = lambda _socket, server_name, _context: heard.append(server_name)
        if asks is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            asks.configure_trust(context)
        for attribute, value in tls.items():
            setattr(context, attribute, value)
        return context

    def region(self, name: str, *names: str, **options: Any) -> Region:
        """A region with such a context."""
        context = self.context(name, *names, **options)
        return self.stack.enter_context(Region(name, tls=context, api_keys=[f"fake-{name}-key"]))

    def gated(self, name: str, **tls: Any) -> Gate:
        """A region behind a gate that demands a certificate of the vendor's."""
        region = self.stack.enter_context(Region(name, api_keys=[f"fake-{name}-key"]))
        gate = Gate(region, self.context(name, asks=self.vendor, **tls))
        self.stack.callback(gate.close)
        return gate

    def route(self, region: "Region | Gate", /, **options: Any) -> Route:
        """A route to a region as its owner would write it, but for `options`."""
        name = region.name
        given = {"name": name, "api_key": f"fake-{name}-key", "kind": "private"}
        return Route(region.url, **{**given, "server_name": NAME, "ca_file": self.ca_file, **options})


@pytest.fixture(scope="module")
def authorities() -> tuple[trustme.CA, trustme.CA]:
    return trustme.CA(), trustme.CA()


@pytest.fixture
def estate(world: World, tmp_path: Path, authorities: tuple[trustme.CA, trustme.CA]) -> Iterator[Estate]:
    with ExitStack() as stack:
        yield Estate(tmp_path, *authorities, stack)


@pytest.fixture
def asking(caller: Caller, world: World) -> Callable[..., Any]:
    """Makes a client for these routes, which is closed before its regions are, and the SDK on it."""

    def make(*routes: Route, probe_interval: float = 0, **options: Any) -> Any:
        config = Config(routes, global_url=world.globe.url, probe_interval=probe_interval)
        client = caller.client(config, **options)
        return caller.sdk(client if probe_interval else measure(client), world.globe.url)

    return make


def router_of(sdk: Any) -> Any:
    return sdk._client.router


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "smartroute"]


@contextmanager
def open_client(caller: Caller, sdk: Any) -> Iterator[Any]:
    """The client, closed before the regions are."""
    yield sdk
    caller.close(sdk._client)


@BACKENDS
@BOTH
def test_a_route_is_reached_by_address_and_known_by_name(
    caller: Caller, world: World, estate: Estate, asking: Callable[..., Any], stream: bool, backend: str
) -> None:
    if backend == "httpcore":
        caller.backend = backend
    near = estate.region("near")
    with open_client(caller, asking(estate.route(near), world.route(world.far))) as sdk:
        assert [caller.ask(sdk, stream=stream).text for _ in range(3)] == ["near" + TEXT] * 3
        assert near.connections == 1
        assert estate.asked["near"] == [NAME]
        port = near.url.split(":")[2].split("/")[0]
        assert {seen.header("host") for seen in near.requests} == {f"{NAME}:{port}"}
        assert router_of(sdk).status()[0].failures == 0


@pytest.mark.parametrize(
    ("kind", "why", "remedy"),
    [
        ("wrong name", "Hostname mismatch", "name the host that it is for (by server_name"),
        ("no name", "IP address mismatch", "name the host that it is for (by server_name"),
        ("wrong authority", "unable to get local issuer certificate", "add its authority to this route's ca_file"),
        ("no authority", "unable to get local issuer certificate", "name its authority: in this route's ca_file"),
    ],
)
@pytest.mark.parametrize("verify", [True, False], ids=["", "unverified client"])
def test_a_certificate_that_is_not_the_routes_is_refused(
    caller: Caller,
    world: World,
    estate: Estate,
    asking: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    kind: str,
    why: str,
    remedy: str,
    verify: bool,
) -> None:
    near = estate.region("near")
    options: dict[str, dict[str, Any]] = {
        "wrong name": {"server_name": "other.private.example"},
        "no name": {"server_name": None},
        "wrong authority": {"ca_file": estate.file("other.pem", trustme.CA().cert_pem)},
        "no authority": {"ca_file": None, "client_cert": estate.identity()},  # so the system's
    }
    sdk = asking(estate.route(near, **options[kind]), **({} if verify else {"verify": False}))
    with open_client(caller, sdk):
        assert [caller.ask(sdk, stream=True).route for _ in range(2)] == ["global"] * 2
        assert near.requests == []
        assert router_of(sdk).status()[0].state == "open"
    (refused,) = [line for line in warnings(caplog) if "is not accepted" in line]
    assert refused.startswith("Route near: its certificate is not accepted (certificate: ")
    assert why in refused
    assert ".)" not in refused  # OpenSSL ends some of its sentences, and not others
    assert remedy in refused


def test_the_systems_authorities_are_not_trusted_beside_its_own(
    caller: Caller, estate: Estate, asking: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    near = estate.region("near")
    monkeypatch.setenv("SSL_CERT_FILE", str(estate.ca_file))
    other = estate.file("other.pem", trustme.CA().cert_pem)
    with open_client(caller, asking(estate.route(near, ca_file=other))) as sdk:
        assert caller.ask(sdk).route == "global"
    with open_client(caller, asking(estate.route(near, ca_file=None, client_cert=estate.identity()))) as sdk:
        assert caller.ask(sdk).route == "near"


@BACKENDS
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_certificate_of_ones_own_is_shown(
    caller: Caller, estate: Estate, asking: Callable[..., Any], version: ssl.TLSVersion, backend: str
) -> None:
    if backend == "httpcore":
        caller.backend = backend
    near = estate.region("near", asks=estate.vendor, maximum_version=version)
    with open_client(caller, asking(estate.route(near, client_cert=estate.identity()))) as sdk:
        assert [caller.ask(sdk, stream=stream).route for stream in (False, True)] == ["near"] * 2
        assert near.connections == 1


@BACKENDS
@pytest.mark.parametrize(
    ("kind", "version"),
    [("missing", ssl.TLSVersion.TLSv1_3), ("wrong", ssl.TLSVersion.TLSv1_3), ("wrong", ssl.TLSVersion.TLSv1_2)],
    ids=["missing", "wrong", "wrong with TLS 1.2"],
)
def test_a_route_that_does_not_accept_us_is_left_at_once_and_a_person_is_told(
    caller: Caller,
    estate: Estate,
    asking: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    kind: str,
    version: ssl.TLSVersion,
    backend: str,
) -> None:
    """With TLS 1.3 it says so only where the answer should be."""
    if backend == "httpcore":
        caller.backend = backend
    near, far = estate.gated("near", maximum_version=version), estate.region("far")
    shown: dict[str, Any] = {} if kind == "missing" else {"client_cert": estate.identity(trustme.CA())}
    sdk = asking(estate.route(near, **shown), estate.route(far))
    heard: list[Event] = []
    router_of(sdk).subscribe(heard.append)
    with open_client(caller, sdk):
        assert [caller.ask(sdk, stream=stream).route for stream in (False, True)] == ["far"] * 2
        assert near.region.requests == []
        status = router_of(sdk).status()[0]
        assert status.state == "open"
        assert status.last_failure is not None
        assert status.last_failure[0].startswith("client_certificate: it was refused, or is missing (")
    (refused,) = {event for event in heard if isinstance(event, CertificateRefused)}
    assert (refused.endpoint.name, refused.ours) == ("near", True)
    (said,) = [line for line in warnings(caplog) if "does not accept us" in line]
    assert ("show it one" if kind == "missing" else "have this route's client_cert renewed") in said


def test_with_tls_1_2_a_missing_certificate_is_a_failed_handshake(
    caller: Caller, estate: Estate, asking: Callable[..., Any]
) -> None:
    near = estate.gated("near", maximum_version=ssl.TLSVersion.TLSv1_2)
    with open_client(caller, asking(estate.route(near))) as sdk:
        assert caller.ask(sdk).route == "global"
        assert router_of(sdk).status()[0].last_failure[0] == "tls: sslv3 alert handshake failure"
    assert near.region.requests == []


def test_a_routes_certificate_is_shown_to_no_other_host(
    caller: Caller, world: World, estate: Estate, asking: Callable[..., Any]
) -> None:
    """Both want one that the same authority has issued; the one that is given none has none to show."""
    near, far = estate.region("near", asks=estate.vendor), estate.gated("far")
    identity = estate.identity()
    with open_client(caller, asking(estate.route(near, client_cert=identity), estate.route(far))) as sdk:
        assert caller.ask(sdk).route == "near"
        near.stop()
        assert caller.ask(sdk).route == "global"
        assert "client_certificate" in router_of(sdk).status()[1].last_failure[0]
    assert far.region.requests == []


def test_the_clients_own_certificate_does_not_take_its_place(
    caller: Caller, estate: Estate, asking: Callable[..., Any]
) -> None:
    other = trustme.CA()
    near = estate.region("near", asks=estate.vendor)
    far = estate.region("far", asks=other)
    clients = ssl.create_default_context(cafile=estate.ca_file)
    clients.load_cert_chain(estate.identity(other, "the-clients"))
    routes = estate.route(near, client_cert=estate.identity()), estate.route(far, ca_file=None)
    with open_client(caller, asking(*routes, verify=clients)) as sdk:
        for name in ("near", "far"):
            assert caller.ask(sdk, extra_headers={"x-smartroute-route": name}).route == name


@ONE_FAMILY
def test_probes_ask_as_requests_do(
    caller: Caller, estate: Estate, asking: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    near = estate.region("near", asks=estate.vendor)
    own = {"headers": {"x-tenant": "a"}, "key_header": "api-key", "query": {"api-version": "2024-10-21"}}
    sdk = asking(estate.route(near, client_cert=estate.identity(), **own), probe_interval=0.1)
    heard: list[Event] = []
    router_of(sdk).subscribe(heard.append)
    with open_client(caller, sdk):
        assert caller.ask(sdk).route == "near"
        assert eventually(lambda: sum(seen.method == "GET" for seen in near.requests) >= 2)
        probes = [seen for seen in near.requests if seen.method == "GET"]
        assert {
            (seen.target, seen.header("api-key"), seen.header("authorization"), seen.header("x-tenant"))
            for seen in near.requests
        } == {
            ("/v1/models?api-version=2024-10-21", "fake-near-key", None, "a"),
            ("/v1/chat/completions?api-version=2024-10-21", "fake-near-key", None, "a"),
        }
        assert {seen.header("host") for seen in probes} == {seen.header("host") for seen in near.requests}
        assert eventually(lambda: any(isinstance(event, ProbeEnded) for event in heard))
        assert {event.failure for event in heard if isinstance(event, ProbeEnded)} == {None}
        assert router_of(sdk).status()[0].failures == 0
    assert set(estate.asked["near"]) == {NAME}


@ONE_FAMILY
def test_a_verification_asks_as_requests_do_on_a_fresh_connection(
    caller: Caller, estate: Estate, asking: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartroute.router.LOOK", 0.1)
    monkeypatch.setattr(Latency, "verification_limit", 5.0)
    near = estate.region("near", asks=estate.vendor)
    sdk = asking(estate.route(near, client_cert=estate.identity()))
    heard: list[Event] = []
    router_of(sdk).subscribe(heard.append)
    with open_client(caller, sdk):
        near.set(Silence(only="post", times=1))

        def verified() -> bool:
            found = [event for event in heard if isinstance(event, ProbeEnded) and event.fresh]
            return bool(found) and found[0].failure is None

        with ExitStack() as stack:
            pending = under_way(caller.ask, sdk)
            stack.callback(pending.result, 30)
            stack.callback(near.heal)
            assert eventually(verified)
    assert near.connections >= 2
    assert set(estate.asked["near"]) == {NAME}


@ONE_FAMILY
def test_a_private_route_may_stand_behind_a_proxy(
    caller: Caller, estate: Estate, asking: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    near = estate.gated("near")
    with serving() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with open_client(caller, asking(estate.route(near, client_cert=estate.identity()))) as sdk:
            assert [caller.ask(sdk, stream=stream).route for stream in (True, False)] == ["near"] * 2
        with open_client(caller, asking(estate.route(near))) as sdk:
            assert caller.ask(sdk).route == "global"
            assert router_of(sdk).status()[0].state == "open"
            assert "client_certificate" in router_of(sdk).status()[0].last_failure[0]
        address = near.url.split("/")[2]
        assert set(proxy.targets) == {("CONNECT", address)}
    assert set(estate.asked["near"]) == {NAME}


@ONE_FAMILY
def test_connections_of_private_routes_are_raced(
    caller: Caller, world: World, estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known yet, and the first drops what is sent to it: the second, behind its own name, is as good."""
    monkeypatch.setattr(Latency, "patience", 0.2)
    far = estate.region("far", "far.private.example")
    held = [estate.stack.enter_context(sock) for sock in _blocking(0)]
    port = held[0].getsockname()[1]
    mute = Route(f"https://127.0.0.1:{port}/v1", name="near", kind="private", ca_file=estate.ca_file)
    routes = [mute, estate.route(far, server_name="far.private.example")]
    client = caller.client(Config(routes, global_url=world.globe.url, probe_interval=0))
    with open_client(caller, caller.sdk(client, world.globe.url)) as sdk:
        assert caller.ask(sdk, timeout=5).route == "far"
        assert estate.asked["far"] == ["far.private.example"]


@ONE_FAMILY
def test_one_address_may_be_several_routes_told_apart_by_name(
    caller: Caller, estate: Estate, asking: Callable[..., Any]
) -> None:
    names = ("eu.private.example", "us.private.example")
    gateway = estate.region("near", *names)
    routes = [estate.route(gateway, server_name=name, name=name[:2]) for name in names]
    config = Config(routes, global_url=None, probe_interval=0)
    client = caller.client(config)
    port = gateway.url.split(":")[2].split("/")[0]
    with open_client(caller, caller.sdk(client, gateway.url, "fake-near-key")) as sdk:
        for name in ("us", "eu"):
            assert caller.ask(sdk, extra_headers={"x-smartroute-route": name}).route == name
            assert gateway.requests[-1].header("host") == f"{name}.private.example:{port}"
    assert estate.asked["near"] == ["us.private.example", "eu.private.example"]


def test_a_file_that_went_away_is_said_when_the_client_is_made(caller: Caller, estate: Estate) -> None:
    near = estate.region("near")
    config = Config([estate.route(near)])
    estate.file("ca.pem", trustme.Blob(b"no PEM"))
    with pytest.raises(ConfigError, match="route 'near': ca_file has no certificate as PEM has them"):
        caller.client(router=Router(config))


def test_files_of_routes_that_are_switched_off_are_not_read(
    caller: Caller, world: World, estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = estate.region("near")
    config = Config([estate.route(near)], global_url=world.globe.url)
    estate.file("ca.pem", trustme.Blob(b"no PEM"))
    monkeypatch.setenv("SMARTROUTE_DISABLED", "1")
    response = caller.do(caller.client(router=Router(config)).post, f"{world.globe.url}/chat/completions", json=CHAT)
    assert response.status_code == 401
    assert posts(world.globe) == 1
