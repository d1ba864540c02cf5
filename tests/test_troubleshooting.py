"""Each symptom of docs/troubleshooting.md, brought about; and each message there, as the library words it.

A scene is named after its section. What is said meanwhile (the log at debug level, and the tracebacks of what is
raised) must have in it each of the section's `text` blocks, in which `...` stands for anything. White space does not
count: blocks are wrapped.
"""

import asyncio
import logging
import pickle
import re
import ssl
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import fireworks
import httpx2
import pytest
import trustme
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, OpenAI

import smartroute.httpx
import smartroute.httpx2
from smartroute import ClosedError, Config, ConfigError, Route, UnknownRouteError
from smartroute.policy.latency import Latency
from smartroute.testing import Cut, Region, Silence, Status
from tests.environments import ROOT
from tests.policy.driving import measured
from tests.transport.kit import eventually

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTIONS = {re.sub(r"\W+", "_", title.lower()): BLOCK.findall(body) for title, body in SECTION.findall(PAGE)}

ARIZONA, FRANKFURT = "us-arizona-1", "eu-frankfurt-1"
DIRECT, CONSOLE = "fake-direct-key", "fake-console-key"
MODEL = "accounts/my-account/deployments/abcd1234"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Where are you?"}]}


class Stage:
    """Two regions, Arizona the nearer one, a global endpoint, and all that is said."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.heard: list[str] = []
        self.arizona = stack.enter_context(Region(ARIZONA, api_keys=[DIRECT]))
        self.frankfurt = stack.enter_context(Region(FRANKFURT, api_keys=[DIRECT]))
        self.world = stack.enter_context(Region("global", api_keys=[CONSOLE], prefix="/inference/v1"))
        self.everybody = (self.arizona, self.frankfurt, self.world)
        self.environ = {
            "SMARTROUTE_ROUTES": f"{ARIZONA}={self.arizona.url} {FRANKFURT}={self.frankfurt.url}",
            "SMARTROUTE_API_KEY": DIRECT,
            "SMARTROUTE_GLOBAL_URL": self.world.url,
            "SMARTROUTE_PROBE_INTERVAL": "0",
        }

    def config(self, **changes: str) -> Config:
        """The configuration of this environment, with changes to it."""
        return Config.from_env(self.environ | {f"SMARTROUTE_{name.upper()}": value for name, value in changes.items()})

    def client(self, config: Config | None = None, **options: Any) -> smartroute.httpx2.Client:
        """A client whose router knows that Arizona is nearer."""
        client = self.stack.enter_context(smartroute.httpx2.Client(config or self.config(), **options))
        for route, round_trip in zip(client.router.config.routes, (0.02, 0.06), strict=False):
            measured(client.router, route, round_trip)
        return client

    def sdk(self, client: smartroute.httpx2.Client) -> OpenAI:
        return OpenAI(base_url=self.world.url, api_key=CONSOLE, http_client=client, max_retries=0, timeout=20)

    def ask(self, client: smartroute.httpx2.Client, **options: Any) -> str | None:
        """Which route answers; None: the response does not say, because it was not routed."""
        response = self.sdk(client).chat.completions.with_raw_response.create(**{**CHAT, **options})
        route: str | None = response.headers.get("x-smartroute-route")
        return route

    def refused(self, error: type[Exception], action: Callable[..., object], *args: Any, **options: Any) -> None:
        """Hear what an error says, with all that caused it."""
        with pytest.raises(error) as raised:
            action(*args, **options)
        self.heard += traceback.format_exception(raised.value)

    @property
    def said(self) -> str:
        """All of it, the global endpoint by the name that it has on the page."""
        return "\n".join(self.heard).replace(self.world.url.removesuffix("/inference/v1"), "https://api.fireworks.ai")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(Latency, "patience", 5.0)  # on a busy machine it may take long to connect
    logger = logging.getLogger("smartroute")
    level = logger.level
    with ExitStack() as stack:
        stage = Stage(stack)
        listener = logging.Handler()
        monkeypatch.setattr(listener, "emit", lambda record: stage.heard.append(record.getMessage()))
        logger.addHandler(listener)
        logger.setLevel(logging.DEBUG)
        stack.callback(logger.setLevel, level)
        stack.callback(logger.removeHandler, listener)
        yield stage


def test_white_space_does_not_count_and_dots_stand_for_anything() -> None:
    assert fits("one\n  two ... four", "zero one two\nthree four")
    assert not fits("one two", "one, two")


def fits(block: str, said: str) -> bool:
    pattern = re.escape(" ".join(block.split())).replace(re.escape("..."), ".*?")
    return re.search(pattern, " ".join(said.split())) is not None


# --- The scenes ------------------------------------------------------------------------------------


def the_client_cannot_be_made(stage: Stage) -> None:
    routes = "us-arizona-1=https://host.example/v1/chat/completions ftp://host.example"
    stage.refused(ConfigError, stage.config, routes=routes, deadline="soon")
    handle = "my-account-abcd1234.us-arizona-1.direct.fireworks.ai"
    stage.refused(ConfigError, Config.from_env, {"SMARTROUTE_ROUTES": handle})
    stage.config(port="tcp://10.0.0.1:80", route="misspelled")


def the_sdk_refuses_the_client(stage: Stage) -> None:
    client = stage.client()
    stage.refused(TypeError, fireworks.Fireworks, api_key=CONSOLE, http_client=client)
    stage.refused(TypeError, AsyncOpenAI, api_key=CONSOLE, http_client=client)
    with (
        smartroute.httpx.Client(client.router.config) as legacy,
        fireworks.Fireworks(api_key=CONSOLE, base_url=stage.world.url.removesuffix("/v1"), http_client=legacy) as sdk,
    ):
        sdk.chat.completions.create(**CHAT)
    stage.refused(TypeError, smartroute.httpx2.Client, transport=httpx2.HTTPTransport())


def nothing_is_routed(stage: Stage) -> None:
    empty = stage.client(stage.config(routes=""))
    assert stage.ask(empty) is None
    assert empty.router.config.routes == ()
    off = stage.client(stage.config(disabled="1"))
    assert stage.ask(off) is None
    assert off.router.config.disabled
    assert stage.heard == []
    assert stage.ask(stage.client(stage.config(global_url="https://llm.example/v1"))) is None


def some_calls_are_not_routed(stage: Stage) -> None:
    client = stage.client(stage.config(model="another=base"))
    assert stage.ask(client) is None
    assert stage.ask(client, model="another") == ARIZONA
    for body in (iter([b"{}"]), b"[]"):
        client.post(f"{stage.world.url}/chat/completions", content=body)
    before = len(stage.heard)
    stage.sdk(client).models.list()
    assert stage.heard[before:] == []


def a_key_is_refused(stage: Stage) -> None:
    client = stage.client(stage.config(api_key_us_arizona_1=CONSOLE))
    assert [stage.ask(client) for _ in range(3)] == [FRANKFURT] * 3
    assert client.router.status()[0].quarantine is not None
    assert stage.ask(stage.client(stage.config(api_key=f"fake-old-key, {DIRECT}"))) == ARIZONA


def a_model_is_not_found(stage: Stage) -> None:
    stage.arizona.models = ["accounts/fireworks/models/base"]
    assert [stage.ask(stage.client()) for _ in range(3)] == [FRANKFURT] * 3
    assert stage.ask(stage.client(stage.config(model="accounts/fireworks/models/base"))) == ARIZONA


def the_global_endpoint_answers(stage: Stage) -> None:
    for region in (stage.arizona, stage.frankfurt):
        region.set(Status(429, {"retry-after": "20"}))
    busy = stage.client()
    assert [stage.ask(busy) for _ in range(3)] == ["global"] * 3
    stage.heard += map(str, busy.router.rank(model=MODEL))
    for region in (stage.arizona, stage.frankfurt):
        region.heal()
        region.stop()
    down = stage.client(stage.config(probe_interval="0.1"))
    assert [stage.ask(down) for _ in range(3)] == ["global"] * 3
    stage.arizona.start()
    assert eventually(lambda: stage.ask(down) == ARIZONA)


def this_machine_is_offline(stage: Stage) -> None:
    client = stage.client(stage.config(probe_interval="0.1"))
    for region in stage.everybody:
        region.stop()
    with pytest.raises(APIConnectionError):
        stage.ask(client)
    assert [each.state for each in client.router.status()] == ["closed"] * 2
    for region in stage.everybody:
        region.start()
    assert eventually(lambda: "An endpoint can be reached again." in stage.heard)


def a_certificate_is_not_accepted(stage: Stage) -> None:
    authority, stranger, now = trustme.CA(), trustme.CA(), datetime.now(UTC)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    soon = authority.issue_cert("127.0.0.1", not_before=now - timedelta(80), not_after=now + timedelta(10))
    for certificate, answers in ((stranger.issue_cert("127.0.0.1"), "global"), (soon, ARIZONA)):
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(tls)
        with Region(ARIZONA, tls=tls, api_keys=[DIRECT]) as region:
            client = stage.client(stage.config(routes=f"{ARIZONA}={region.url}"), verify=trust)
            assert stage.ask(client) == answers
            assert bool(region.requests) is (answers == ARIZONA)
            client.close()


def no_endpoint_may_take_the_request(stage: Stage) -> None:
    routes = [Route(stage.arizona.url, name=ARIZONA, region="US_ARIZONA_1", api_key=DIRECT)]
    client = stage.client(Config(routes, global_url=stage.world.url, regions=["US_*"], probe_interval=0))
    stage.refused(APIConnectionError, stage.ask, client, extra_headers={"x-smartroute-regions": "EU_*"})
    stage.refused(UnknownRouteError, stage.ask, client, extra_headers={"x-smartroute-route": "arizona"})
    assert [region.requests for region in stage.everybody] == [[], [], []]


def a_call_fails(stage: Stage) -> None:
    for region in stage.everybody:
        region.set(Status(503))
    with pytest.raises(APIStatusError) as raised:
        stage.ask(stage.client())
    assert raised.value.response.headers["x-smartroute-route"] == "global"
    assert raised.value.response.headers["x-smartroute-attempts"] == "3"
    for region in stage.everybody:
        region.stop()
    stage.refused(APIConnectionError, stage.ask, stage.client())


def a_stream_breaks_off(stage: Stage) -> None:
    stage.arizona.set(Cut(3))
    stream = stage.sdk(stage.client()).chat.completions.create(**CHAT, stream=True)
    stage.refused(APIConnectionError, list, stream)


def a_call_takes_very_long(stage: Stage) -> None:
    stage.world.set(Silence())
    pin = {"x-smartroute-route": "global"}
    stage.refused(APITimeoutError, stage.ask, stage.client(), extra_headers=pin, timeout=0.5)


def a_proxy_is_in_the_way(stage: Stage) -> None:
    gone = Region("proxy")
    with gone:
        proxy = gone.url.removesuffix("/v1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTP_PROXY", proxy)
        stage.refused(APIConnectionError, stage.ask, stage.client())
        assert stage.ask(stage.client(trust_env=False)) == ARIZONA
        patch.setenv("NO_PROXY", "127.0.0.1")
        assert stage.ask(stage.client()) == ARIZONA


def threads_processes_and_event_loops(stage: Stage) -> None:
    client = stage.client()
    stage.refused(TypeError, pickle.dumps, client)
    assert pickle.loads(pickle.dumps(client.router.config)) == client.router.config

    shared = smartroute.httpx2.AsyncClient(client.router.config)

    async def ask() -> None:
        sdk = AsyncOpenAI(base_url=stage.world.url, api_key=CONSOLE, http_client=shared, max_retries=0)
        await sdk.chat.completions.create(**CHAT)

    for _ in range(2):
        asyncio.run(ask())
    without_asyncio = shared.post(f"{stage.world.url}/chat/completions", json=CHAT)
    stage.refused(RuntimeError, without_asyncio.send, None)
    asyncio.run(shared.aclose())

    with stage.sdk(client):
        pass
    stage.refused(RuntimeError, stage.ask, client)
    closed = stage.client(stage.config(hedge="on"))
    closed.router.close()
    stage.refused(ClosedError, stage.ask, closed)


SCENES = (
    the_client_cannot_be_made,
    the_sdk_refuses_the_client,
    nothing_is_routed,
    some_calls_are_not_routed,
    a_key_is_refused,
    a_model_is_not_found,
    the_global_endpoint_answers,
    this_machine_is_offline,
    a_certificate_is_not_accepted,
    no_endpoint_may_take_the_request,
    a_call_fails,
    a_stream_breaks_off,
    a_call_takes_very_long,
    a_proxy_is_in_the_way,
    threads_processes_and_event_loops,
)


def test_each_symptom_has_its_scene() -> None:
    assert list(SECTIONS) == [scene.__name__ for scene in SCENES]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_the_page_says_what_the_library_says(stage: Stage, scene: Callable[[Stage], None]) -> None:
    scene(stage)
    blocks = SECTIONS[scene.__name__]
    missing = [block for block in blocks if not fits(block, stage.said)]
    assert blocks
    assert not missing, f"{missing[0]}\nwas not said, but:\n{stage.said}"
