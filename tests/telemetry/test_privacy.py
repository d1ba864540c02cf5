"""No prompt, completion, key or affinity value leaves by any signal.

They are fed everywhere, in all that a client and a server can say, and every byte of every signal is searched for them.
Signals are what others get to see without having asked for the call's content: exported spans and metrics, log records,
events and all else that shows itself, warnings, and the exceptions that smartroute raises.
"""

import base64
import json
import logging
import socket
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import baggage
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

from benchmarks.chaos.world import server_certificate, trust
from smartroute import Config, Route
from smartroute.events import AttemptStarted, Event, VerificationStarted
from smartroute.fireworks import NOTED_HEADERS
from smartroute.policy.latency import Latency
from smartroute.policy.selection import Candidate
from smartroute.route import RouteStatus
from smartroute.testing import Region, Reset, Silence, Status
from tests.telemetry.kit import Backend, current
from tests.transport.kit import CALLERS, AsyncCaller, Caller, eventually, measure

HOST = "127.0.0.1"
CORES = {
    "first key": "Jq7FirstRouteKey4Vx",
    "second key": "Wd3SecondRouteKey8Kz",
    "far key": "Yb5FarRouteKey2Qn",
    "global key": "Tg9GlobalConfigKey6Hw",
    "console key": "Pz4CallersConsoleKey7Lc",
    "api-key": "Xk8AzureStyleKey3Rv",
    "cookie": "Mv2SessionCookie9Jd",
    "prompt": "Qf6PatientHasGout5Bt",
    "completion": "Hn3TakeColchicine8Wy",
    "arguments": "Rc7ToolArguments2Zk",
    "cache key": "Dw5PromptCacheKey4Gx",
    "user": "Lt8EndUserName6Pq",
    "affinity": "Vj2SessionAffinity7Nc",
    "query": "Kx9QueryParameter3Fm",
    "password": "Bz6ProxyPassword5Td",
    "baggage": "Gq4BaggageEntry8Xs",
}
"""What is secret, and what stands in it that stands nowhere else."""


OWN = {"near": "first key", "far": "far key", "globe": "global key"}
"""The key that each region knows, called or not."""


@dataclass(frozen=True)
class Secrets:
    """A value for each secret. What is before and after its core varies.

    Attributes:
        around: what keys, header values and the like have around it: visible ASCII characters.
        amid: what stands around it in texts.
    """

    around: tuple[str, str] = ("sk-", "==")
    amid: tuple[str, str] = ('Hello, "', "\n…")

    def __getitem__(self, name: str) -> str:
        return CORES[name].join(self.around)

    def text(self, name: str) -> str:
        return CORES[name].join(self.amid)


def forms(core: str) -> Iterator[bytes]:
    """How it may look on its way out: as it is, in capitals or none, in hexadecimal digits, in base64."""
    raw = core.encode()
    yield from (raw, raw.lower(), raw.upper(), raw.hex().encode(), raw.hex().upper().encode())
    for before in range(3):  # it may begin anywhere in what is encoded
        encoded = base64.b64encode(b"\0" * before + raw)
        yield encoded[4 if before else 0 : (before + len(raw)) // 3 * 4]


OF_ANSWERS = (openai.APIError, httpx.HTTPStatusError, httpx2.HTTPStatusError)
"""What the SDK makes of an answer that tells of an error."""
FORMS = {name: tuple(forms(core)) for name, core in CORES.items()}


def leaks(signals: dict[str, list[bytes]]) -> list[str]:
    """Which secrets are found where."""
    return [
        f"{secret} in {place}: {found!r}"
        for place, pieces in signals.items()
        for found in pieces
        for secret, looks in FORMS.items()
        if any(look in found for look in looks)
    ]


class Ears(logging.Handler):
    """Everything that is signalled, as bytes."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(logging.DEBUG)
        self.backend = backend
        self.heard: dict[str, list[bytes]] = {}
        self.warned: list[warnings.WarningMessage] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.note("log", logging.Formatter().format(record), json.dumps(record.__dict__, default=repr))

    def event(self, event: Event) -> None:
        self.show("events", event)

    def note(self, place: str, *pieces: str | bytes) -> None:
        found = self.heard.setdefault(place, [])
        found += [piece if isinstance(piece, bytes) else piece.encode(errors="surrogateescape") for piece in pieces]

    def show(self, place: str, *values: Any) -> None:
        """Note all that these values show of themselves."""
        for value in values:
            self.note(place, repr(value), str(value))
            if isinstance(value, Route | RouteStatus | Candidate | Event):
                fields = asdict(value) if isinstance(value, Route) else value._asdict()
                if isinstance(value, AttemptStarted | VerificationStarted):
                    fields.pop("headers", None)  # what other listeners want to send along: baggage, for one
                self.note(place, json.dumps(fields, default=repr))

    def raised(self, error: BaseException | None) -> None:
        """Note an exception and what led to it, but for what the SDK makes of an answer: that is the answer."""
        while error is not None:
            if not isinstance(error, OF_ANSWERS) or isinstance(error, openai.APIConnectionError):
                self.show("exceptions", error, error.args)
                self.note("exceptions", *traceback.format_exception_only(error))  # with its notes
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    def exported(self) -> None:
        """Note the bytes that OTLP exporters would send."""
        self.note("spans", encode_spans(self.backend.spans).SerializeToString())
        data = self.backend.reader.get_metrics_data()
        if data is not None:
            self.note("metrics", encode_metrics(data).SerializeToString())


@dataclass
class Scene:
    """Where a call is made. The servers take every key, and say all they know to whoever asks.

    Attributes:
        streamed: whether the call is.
        speaking: the region that is told what to say.
        https: the regions that are called by such a URL.
        options: of the client.
    """

    secrets: Secrets
    streamed: bool
    near: Region
    far: Region
    globe: Region
    speaking: Region
    https: tuple[Region, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def let(self, region: Region, make: Callable[["Scene"], Any]) -> None:
        """Let a region do this from now on."""
        self.speaking = region
        region.set(make(self))

    def url(self, region: Region) -> str:
        return region.url.replace("http://", "https://") if region in self.https else region.url

    @property
    def all(self) -> tuple[Region, Region, Region]:
        return self.near, self.far, self.globe

    @property
    def blabbing(self) -> dict[str, str]:
        """Response headers that repeat what the server was told, or its own key."""
        names = cycle((OWN[self.speaking.name], "affinity", "cache key", "console key", "api-key", "cookie"))
        headers = {name: self.secrets[secret] for name, secret in zip(sorted(NOTED_HEADERS), names, strict=False)}
        return headers | {"server": self.secrets["prompt"], "set-cookie": f"session={self.secrets['cookie']}"}

    @property
    def told(self) -> str:
        """What a server knows, in a sentence."""
        return " ".join(self.secrets.text(name) for name in CORES)

    @property
    def error(self) -> dict[str, Any]:
        """An error that quotes all there is to quote."""
        return {"message": self.told, "type": self.secrets["first key"], "code": self.secrets["console key"]}

    def refusal(self, status: int, **headers: str) -> Status:
        return Status(status, self.blabbing | headers, {"error": self.error})

    def events(self, *events: Any) -> Status:
        """A stream that ends after these events."""
        data = (event if isinstance(event, str) else json.dumps(event) for event in events)
        body = "".join(f"data: {event}\n\n" for event in data)
        return Status(200, self.blabbing | {"content-type": "text/event-stream"}, body.encode())

    @property
    def chunk(self) -> dict[str, Any]:
        function = {"name": "f", "arguments": self.secrets.text("arguments")}
        call = {"index": 0, "id": "c", "type": "function", "function": function}
        delta = {"role": "assistant", "content": self.secrets.text("completion"), "tool_calls": [call]}
        choice = {"index": 0, "delta": delta, "message": delta, "finish_reason": None}
        return {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}

    @property
    def answer(self) -> Status:
        """A healthy answer."""
        if self.streamed:
            last = {**self.chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            return self.events(self.chunk, last, "[DONE]")
        return Status(200, self.blabbing | {"content-type": "application/json"}, self.chunk)


Fault = Callable[[Scene], object]


def near_does(make: Callable[[Scene], Any]) -> Fault:
    return lambda scene: scene.let(scene.near, make)


def all_do(make: Callable[[Scene], Any]) -> Fault:
    def strike(scene: Scene) -> None:
        for region in scene.all:
            scene.let(region, make)

    return strike


def second_key_fits(scene: Scene) -> None:
    scene.near.api_keys = [scene.secrets["second key"]]
    scene.near.set(Status(401, scene.blabbing, {"error": scene.error}, times=1))


def all_refuse(scene: Scene) -> None:
    for region in scene.all:
        region.stop()


def another_certificate(scene: Scene) -> None:
    scene.near.stop()
    scene.near._tls = server_certificate("wrong host")
    scene.near.start()
    scene.options["verify"] = trust()


def behind_a_proxy(scene: Scene) -> None:
    """What stands where the global endpoint was is the proxy."""
    scene.globe.stop()
    password = quote(scene.secrets["password"], safe="")
    address = f"user:{password}@{HOST}:{urlsplit(scene.globe.url).port}"
    scene.options["proxy"] = f"http://{address}"


def behind_a_proxy_and_tls(scene: Scene) -> None:
    behind_a_proxy(scene)
    scene.https = scene.all


FAULTS: dict[str, Fault] = {
    "none": lambda _: None,
    "keys refused": near_does(lambda scene: scene.refusal(401)),
    "first key refused": second_key_fits,
    "model not found": near_does(lambda scene: scene.refusal(404)),
    "no answer but an error": near_does(lambda scene: scene.refusal(500)),
    "overloaded": near_does(lambda scene: scene.refusal(503, **{"retry-after": scene.secrets["query"]})),
    "saturated": near_does(lambda scene: scene.refusal(429)),
    "redirected": near_does(lambda scene: scene.refusal(302, location=f"/v1?key={scene.secrets['query']}")),
    "a page": near_does(
        lambda scene: Status(200, scene.blabbing | {"content-type": f"text/html; {scene.secrets['query']}"}, b"<html>")
    ),
    "an error event": near_does(lambda scene: scene.events({"error": {**scene.error, "status": 503}})),
    "an error event without a status": near_does(lambda scene: scene.events({"error": scene.error})),
    "an error event after content": near_does(lambda scene: scene.events(scene.chunk, {"error": scene.error})),
    "an error event that says little": near_does(lambda scene: scene.events({"error": scene.told})),
    "a garbled event": near_does(lambda scene: scene.events(scene.told)),
    "an event that is cut": near_does(lambda scene: scene.events(scene.chunk, json.dumps(scene.chunk)[:-9])),
    "a stream that is cut": near_does(lambda scene: scene.events(scene.chunk)),
    "reset": near_does(lambda _: Reset()),
    "refused": lambda scene: scene.near.stop(),
    "the caller's mistake": all_do(lambda scene: scene.refusal(400)),
    "all overloaded": all_do(lambda scene: scene.refusal(503)),
    "all keys refused": all_do(lambda scene: scene.refusal(403)),
    "all tell an error": all_do(lambda scene: scene.events({"error": scene.error})),
    "all garble": all_do(lambda scene: Status(200, scene.blabbing, scene.told.encode())),
    "all reset": all_do(lambda _: Reset()),
    "all refuse": all_refuse,
    "another certificate": another_certificate,
    "no TLS": lambda scene: setattr(scene, "https", scene.all),
    "a proxy that is not there": behind_a_proxy,
}


@contextmanager
def babbling(*regions: Region, saying: bytes) -> Iterator[None]:
    """What stands where these regions were says this to everybody, whether it is HTTP or not."""

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):  # it was shut down
            while True:
                with listener.accept()[0] as connection:
                    connection.recv(65_536)
                    connection.sendall(saying)

    with ExitStack() as stack:
        for region in regions:
            region.stop()
            listener = stack.enter_context(socket.create_server((HOST, urlsplit(region.url).port or 0)))
            thread = threading.Thread(target=serve, args=(listener,))
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            thread.start()
        yield


def options(scene: Scene) -> dict[str, Any]:
    """All that a call can hold."""
    secrets = scene.secrets
    used = {"id": "c", "type": "function", "function": {"name": "f", "arguments": secrets.text("arguments")}}
    return {
        "model": "m",
        "stream": scene.streamed,
        "messages": [
            {"role": "user", "content": secrets.text("prompt")},
            {"role": "assistant", "tool_calls": [used]},
            {"role": "tool", "tool_call_id": "c", "content": secrets.text("prompt")},
        ],
        "prompt_cache_key": secrets["cache key"],
        "user": secrets.text("user"),
        "extra_query": {"key": secrets["query"], "api-version": secrets["query"]},
        "extra_headers": {
            "cookie": secrets["cookie"],
            "x-session-affinity": secrets["affinity"],
            "x-multi-turn-session-id": secrets["affinity"],
            "api-key": secrets["api-key"],
            "x-api-key": secrets["api-key"],
            "proxy-authorization": f"Bearer {secrets['api-key']}",
        },
    }


def ask(caller: Caller, sdk: Any, scene: Scene) -> None:
    """A call, read to its end."""
    caller.ask(sdk, **options(scene))


def leave(caller: Caller, sdk: Any, scene: Scene) -> None:
    """A call that is closed at its first word."""
    stream = caller.do(sdk.chat.completions.create, **options(scene))
    next(caller.iterate(stream))
    caller.close(stream)


def cancel(caller: Caller, sdk: Any, scene: Scene) -> None:
    """A call that is cancelled before its answer."""
    assert isinstance(caller, AsyncCaller)
    call = caller.submit(sdk.chat.completions.create, **options(scene))
    assert eventually(lambda: scene.near.requests)
    call.cancel()


def not_json(caller: Caller, sdk: Any, scene: Scene) -> None:
    """A request that passes through."""
    url = f"{scene.globe.url}/chat/completions"
    caller.do(
        sdk._client.post, url, params={"key": scene.secrets["query"]}, content=scene.secrets.text("prompt").encode()
    )


def elsewhere(caller: Caller, sdk: Any, scene: Scene) -> None:
    """A request that would be routed, were it not for its URL."""
    user = f"user:{quote(scene.secrets['password'], safe='')}@"
    url = scene.far.url.replace("127.0.0.1", f"{user}localhost") + f"/chat/completions?key={scene.secrets['query']}"
    caller.do(sdk._client.post, url, json={"model": "m", "messages": scene.secrets.text("prompt")})


def play(
    backend: Backend,
    kind: str,
    fault: Fault,
    *,
    secrets: Secrets,
    streamed: bool,
    addressed: bool,
    saying: str = "",
    asking: Callable[[Caller, Any, Scene], None] = ask,
    calls: int = 1,
) -> tuple[Ears, bytes]:
    """Make calls with secrets in them. Returns all that was signalled, and all that servers were told.

    Args:
        addressed: to a route, not to the global endpoint.
        saying: what all servers say to everybody, `{}` standing for all that they know.
    """
    ears, log = Ears(backend), logging.getLogger("smartroute")
    make, family = CALLERS[kind]
    caller: Caller = make(family)
    with ExitStack() as stack:
        ears.warned = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        stack.enter_context(logged_by(ears, log))
        stack.callback(caller.finish)
        near, far = (stack.enter_context(Region(name)) for name in ("near", "far"))
        globe = stack.enter_context(Region("globe", prefix="/inference/v1"))
        scene = Scene(secrets, streamed, near, far, globe, near)
        all_do(lambda scene: scene.answer)(scene)
        fault(scene)
        config = Config(
            [
                Route(scene.url(near), name="near", api_key=[secrets["first key"], secrets["second key"]]),
                Route(scene.url(far), name="far", api_key=[secrets["far key"]]),
            ],
            global_url=scene.url(globe),
            global_api_key=secrets["global key"],
            probe_interval=0,
        )
        if saying:
            said = " ".join(scene.told.split()).encode("ascii", "replace")
            stack.enter_context(babbling(*scene.all, saying=saying.encode().replace(b"{}", said)))
        client = measure(caller.client(config, **scene.options))
        client.router.subscribe(backend.telemetry)
        client.router.subscribe(ears.event)
        sdk = caller.sdk(client, scene.url(near if addressed else globe), secrets["console key"])
        for _ in range(calls):
            try:
                with current(baggage.set_baggage("tenant", secrets["baggage"])):
                    asking(caller, sdk, scene)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is searched
                ears.raised(error)
        router = client.router
        ears.show("status", *router.status(), router, client, router.pick(conversation=secrets["affinity"]))
        ears.show("candidates", *router.rank(conversation=secrets["affinity"]))
        ears.show("config", config, config.global_route, *config.routes)
        caller.close(client)
        assert eventually(lambda: not backend.telemetry._spans._verifications)  # those under way end by themselves
        ears.exported()
        received = b"".join(
            b"".join((seen.body, seen.target.encode(), *(value for _, value in seen.headers)))
            for region in scene.all
            for seen in region.requests
        )
    ears.note("warnings", *(f"{warning.message}" for warning in ears.warned))
    return ears, received


@contextmanager
def logged_by(handler: logging.Handler, log: logging.Logger) -> Iterator[None]:
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@pytest.fixture(scope="module", autouse=True)
def _unhurried() -> Iterator[None]:
    """On a busy machine it may take long to connect: no reason here to be answered by another route."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Latency, "patience", 5.0)
        yield


MATRIX = [
    pytest.param(
        kind, fault, streamed, bool(number // 2 % 2), id=f"{fault}-{kind}-{'streamed' if streamed else 'whole'}"
    )
    for number, (kind, (fault, streamed)) in enumerate(
        zip(cycle(CALLERS), ((fault, streamed) for fault in FAULTS for streamed in (True, False)), strict=False)
    )
]


SIGNALS = {"log", "events", "status", "candidates", "config", "spans", "metrics"}


@pytest.mark.parametrize(("kind", "fault", "streamed", "addressed"), MATRIX)
def test_no_signal_tells_a_secret(backend: Backend, kind: str, fault: str, streamed: bool, addressed: bool) -> None:
    ears, _ = play(backend, kind, FAULTS[fault], secrets=Secrets(), streamed=streamed, addressed=addressed, calls=2)
    assert leaks(ears.heard) == []
    assert set(ears.heard) >= SIGNALS


@pytest.mark.parametrize("kind", ["sync-httpx2", "async-httpx", "async-aiohttp"])
@pytest.mark.parametrize(
    ("fault", "saying"),
    [
        (FAULTS["none"], "{}\r\n\r\n"),
        (FAULTS["none"], "HTTP/1.1 200 {}\r\n{}\r\n\r\n"),
        (FAULTS["none"], "HTTP/1.1 200 OK\r\n{}: {}\r\n\r\n"),
        (FAULTS["none"], "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n"),
        (FAULTS["none"], "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}\r\n"),
        (behind_a_proxy, "HTTP/1.1 407 {}\r\nserver: {}\r\n\r\n"),
        (behind_a_proxy_and_tls, "HTTP/1.1 407 {}\r\nserver: {}\r\n\r\n"),
    ],
    ids=["status line", "header", "header name", "length", "chunk", "proxy", "tunnel"],
)
def test_what_breaks_the_protocol_is_not_quoted(backend: Backend, kind: str, fault: Fault, saying: str) -> None:
    ears, _ = play(backend, kind, fault, secrets=Secrets(), streamed=True, addressed=False, saying=saying)
    assert leaks(ears.heard) == []
    assert ears.heard["spans"]


@pytest.mark.parametrize("kind", ["sync-httpx", "async-aiohttp"])  # it takes its time
def test_a_silent_region_and_its_verification_tell_nothing(backend: Backend, kind: str) -> None:
    ears, received = play(
        backend, kind, near_does(lambda _: Silence()), secrets=Secrets(), streamed=True, addressed=False
    )
    assert leaks(ears.heard) == []
    assert [span.name for span in backend.spans if span.name == "GET"]
    assert CORES["first key"].encode() in received


@pytest.mark.parametrize("asking", [leave, not_json, elsewhere])
@pytest.mark.parametrize("kind", CALLERS)
def test_nor_does_what_is_no_usual_call(backend: Backend, kind: str, asking: Callable[..., None]) -> None:
    ears, received = play(
        backend, kind, FAULTS["none"], secrets=Secrets(), streamed=True, addressed=False, asking=asking
    )
    assert leaks(ears.heard) == []
    assert CORES["prompt"].encode() in received
    assert "exceptions" not in ears.heard


@pytest.mark.parametrize("kind", [name for name in CALLERS if name.startswith("async")])
def test_nor_does_what_is_cancelled(backend: Backend, kind: str) -> None:
    hangs = near_does(lambda _: Silence())
    ears, _ = play(backend, kind, hangs, secrets=Secrets(), streamed=True, addressed=False, asking=cancel)
    assert leaks(ears.heard) == []
    assert "cancelled" in backend.everything()


VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=40)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=15)
@given(
    kind=st.sampled_from(list(CALLERS)),
    fault=st.sampled_from(list(FAULTS)),
    secrets=st.builds(Secrets, st.tuples(VISIBLE, VISIBLE), st.tuples(WORDS, WORDS)),
    streamed=st.booleans(),
    addressed=st.booleans(),
)
def test_no_signal_tells_a_secret_whatever_it_looks_like(
    kind: str, fault: str, secrets: Secrets, streamed: bool, addressed: bool
) -> None:
    backend = Backend()
    ears, _ = play(backend, kind, FAULTS[fault], secrets=secrets, streamed=streamed, addressed=addressed)
    assert leaks(ears.heard) == []
    backend.close()


# Whether a leak would be found


@pytest.mark.parametrize(
    ("fault", "addressed", "fed"),
    [
        (
            "all overloaded",
            False,
            "first key, far key, console key, api-key, cookie, prompt, arguments, cache key, user, affinity, query",
        ),
        ("all overloaded", True, "console key, far key, global key, prompt, query"),
        ("first key refused", False, "first key, second key, prompt"),
    ],
)
def test_the_secrets_are_there_to_be_told(backend: Backend, fault: str, addressed: bool, fed: str) -> None:
    _, received = play(backend, "sync-httpx2", FAULTS[fault], secrets=Secrets(), streamed=True, addressed=addressed)
    assert {name for name in fed.split(", ") if CORES[name].encode() not in received} == set()
    assert CORES["baggage"].encode() not in received


@pytest.mark.parametrize(
    "shape",
    [
        "{}",
        "%(_{}_)s",
        '{{"a": "{}"}}',
        "user:{}",
    ],
)
@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        lambda text: text.lower().encode(),
        lambda text: text.encode().hex().encode(),
        lambda text: quote(text, safe="").encode(),
        lambda text: base64.b64encode(text.encode()),
        lambda text: base64.urlsafe_b64encode(text.encode()),
    ],
)
def test_a_secret_is_found_however_it_is_written(shape: str, encode: Callable[[str], bytes]) -> None:
    for name, core in CORES.items():
        written = b"before " + encode(shape.format(core)) + b" after"
        assert [leak.partition(" in ")[0] for leak in leaks({"here": [written]})] == [name]


def test_a_leak_is_noticed(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartroute.transport.driver.NOTED_HEADERS", {"server"})  # which repeats the prompt here
    ears, _ = play(backend, "sync-httpx2", FAULTS["none"], secrets=Secrets(), streamed=True, addressed=False)
    assert {leak.partition(":")[0] for leak in leaks(ears.heard)} == {"prompt in events", "prompt in spans"}
