"""The test kit: does each fault do on the wire what it says?"""

import contextlib
import gzip
import json
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import httpx2
import openai
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from smartroute.testing import (
    Clock,
    CloseAfterAnswer,
    Cut,
    Drip,
    EmptyStream,
    EndWithoutDone,
    ErrorEvent,
    ExtraHeaders,
    Fault,
    GarbledEvent,
    Gzip,
    Region,
    Reset,
    Silence,
    Slow,
    Stall,
    Status,
)
from smartroute.testing.answers import stream

KEY = "fake-direct-key"
PROMPT = ChatCompletionUserMessageParam(role="user", content="Where are you?")
CHAT = {"model": "m", "messages": [PROMPT]}
STREAM = {**CHAT, "stream": True}
TEXT = "frankfurt 2 3 4 5"
DONE = "data: [DONE]"


@pytest.fixture
def region() -> Iterator[Region]:
    with Region("frankfurt") as region:
        yield region


@pytest.fixture
def http(region: Region) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=region.url, trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def sdk(region: Region) -> Iterator[OpenAI]:
    with OpenAI(base_url=region.url, api_key=KEY, max_retries=0, timeout=10) as client:
        yield client


@contextlib.contextmanager
def connected(region: Region) -> Iterator[socket.socket]:
    host, port = region.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        yield sock


def send(sock: socket.socket, body: object = CHAT, *, missing: int = 0) -> None:
    """Send a POST, its last `missing` bytes excepted."""
    content = json.dumps(body).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (len(content) + missing)
    sock.sendall(head + content)


def read(sock: socket.socket) -> tuple[bytes, str]:
    """All there is to read, and how it ended: `closed`, `reset`, or `silence` after the last byte."""
    data = b""
    sock.settimeout(10)
    try:
        while piece := sock.recv(65536):
            data += piece
            sock.settimeout(0.25)
    except TimeoutError:
        return data, "silence"
    except ConnectionResetError:
        return data, "reset"
    return data, "closed"


def silent(sock: socket.socket) -> bool:
    """Whether 20 ms pass and nothing happens."""
    return not select.select([sock], [], [], 0.020)[0]


def exchange(region: Region, body: object = CHAT) -> tuple[bytes, str]:
    """What answers to a POST, below HTTP."""
    with connected(region) as sock:
        send(sock, body)
        return read(sock)


def events(answer: bytes | str) -> list[str]:
    text = answer.decode("latin-1") if isinstance(answer, bytes) else answer
    return [line for line in text.splitlines() if line.startswith("data: ")]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# --- A healthy region --------------------------------------------------------------------------------


def test_the_sdk_understands_it(region: Region, sdk: OpenAI) -> None:
    chat = sdk.chat.completions.create(model="m", messages=[PROMPT])
    assert (chat.choices[0].message.content, chat.choices[0].finish_reason, chat.model) == (TEXT, "stop", "m")
    assert chat.usage
    assert chat.usage.completion_tokens == 5
    assert chat._request_id == "frankfurt-1"
    assert sdk.completions.create(model="m", prompt="Hello").choices[0].text == TEXT
    assert [model.id for model in sdk.models.list()] == ["test-model"]
    deltas = [
        chunk.choices[0].delta for chunk in sdk.chat.completions.create(model="m", messages=[PROMPT], stream=True)
    ]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(delta.content or "" for delta in deltas) == TEXT
    chunks = list(sdk.completions.create(model="m", prompt="", stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == TEXT
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage
    assert region.requests[0].header("Authorization") == f"Bearer {KEY}"


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(sdk: OpenAI, http: httpx2.Client, encoding: str) -> None:
    assert len(sdk.embeddings.create(model="m", input="one").data) == 1
    assert len(sdk.embeddings.create(model="m", input=[1, 2, 3]).data) == 1
    assert sdk.embeddings.create(model="m", input=["one", "two"]).data[1].embedding == [0.25, -0.5, 0.75, -1.0]
    answer = http.post("/embeddings", json={"model": "m", "input": "one", "encoding_format": encoding}).json()
    assert isinstance(answer["data"][0]["embedding"], str if encoding == "base64" else list)


async def test_the_async_sdk_understands_it(region: Region) -> None:
    async with AsyncOpenAI(base_url=region.url, api_key=KEY) as client:
        chat = await client.chat.completions.create(model="m", messages=[PROMPT])
        assert chat.choices[0].message.content == TEXT
        chunks = await client.chat.completions.create(model="m", messages=[PROMPT], stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]) == TEXT
    assert len(region.requests) == 2


@pytest.fixture
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a server and of a client that trusts it."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


def test_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    with Region("frankfurt", tls=server) as region, httpx2.Client(base_url=region.url, verify=client) as http:
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx2.get(region.url + "/models", verify=ssl.create_default_context())
        for fault in (Drip(), Gzip(), CloseAfterAnswer()):
            region.set(fault)
            assert http.post("/chat/completions", json=STREAM).text.endswith(DONE + "\n\n")
        eventually(lambda: region.open_connections == 0)
        assert region.connections == 2


def test_a_reset_within_tls(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    with Region("frankfurt", tls=server) as region, connected(region) as tcp:
        region.set(Reset())
        with client.wrap_socket(tcp, server_hostname="127.0.0.1") as sock:
            send(sock)
            with socket.socket(fileno=os.dup(sock.fileno())) as below:  # ssl would call the reset an end of file
                assert read(below)[1] == "reset"


@pytest.mark.parametrize("fault", [ExtraHeaders({}), Silence("accept")], ids=["up", "silent"])
def test_a_handshake_that_never_ends(tls: tuple[ssl.SSLContext, ssl.SSLContext], fault: Fault) -> None:
    region = Region("frankfurt", tls=tls[0])
    region.set(fault)
    with region, connected(region) as sock:
        eventually(lambda: region.open_connections == 1)
        assert silent(sock)
        region.stop()
        assert read(sock)[1] in ("closed", "reset")


def test_what_is_seen(region: Region) -> None:
    with connected(region) as sock:
        for _ in range(2):  # pipelined
            sock.sendall(
                b"POST /v1/nowhere?a=b HTTP/1.1\r\nHost: h\r\nX-oDD:  one \r\nx-Odd: two\r\nContent-Length: 2\r\n\r\n{}"
            )
        eventually(lambda: len(region.requests) == 2)
        assert (region.connections, region.open_connections) == (1, 1)
    with connected(region) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        assert read(sock)[1] == "closed"
    first, second, third = region.requests
    assert (first.method, first.target, first.body, first.json()) == ("POST", "/v1/nowhere?a=b", b"{}", {})
    assert first.headers == [(b"Host", b"h"), (b"X-oDD", b"one"), (b"x-Odd", b"two"), (b"Content-Length", b"2")]
    assert (first.header("x-odd"), first.header("x-even")) == ("one", None)
    assert (first.connection, second.connection, third.connection) == (1, 1, 2)
    assert first.at <= second.at <= third.at <= time.monotonic()
    eventually(lambda: region.open_connections == 0)


def test_no_key_in_a_repr(region: Region, http: httpx2.Client) -> None:
    http.get("/models", headers={"authorization": f"Bearer {KEY}"})
    assert KEY not in f"{region.requests} {region}"


def test_keys_models_and_other_paths() -> None:
    files = {"/v1/files": (200, {"content-type": "text/plain"}, b"a file")}
    with Region("arizona", api_keys=[KEY], models=["big"], responses=files, prefix="/inference/v1") as region:
        with OpenAI(base_url=region.url, api_key="console-key", max_retries=0) as sdk:
            with pytest.raises(openai.AuthenticationError):
                sdk.chat.completions.create(model="big", messages=[PROMPT])
            sdk.api_key = KEY
            with pytest.raises(openai.NotFoundError, match="'small' does not exist"):
                sdk.chat.completions.create(model="small", messages=[PROMPT])
            assert [model.id for model in sdk.models.list()] == ["big"]
            assert sdk.chat.completions.create(model="big", messages=[PROMPT]).model == "big"
            with pytest.raises(openai.NotFoundError, match="Unknown request URL: GET /inference/v1/files"):
                sdk.files.list()
        with httpx2.Client(headers={"authorization": f"Bearer {KEY}"}) as http:
            url = region.url.replace("/inference", "")
            assert http.delete(f"{url}/files?limit=1").text == "a file"
            assert http.head(f"{url}/files").headers["content-length"] == "6"
            for body in (b"", b"[]", b"\xff", b'{"model": 1}'):
                assert http.post(f"{region.url}/embeddings", content=body).status_code == 400
        assert len(region.requests) == 11


def test_what_is_no_http_is_reset(region: Region) -> None:
    with connected(region) as sock:
        sock.sendall(b"\x16\x03\x01 a TLS hello\r\n\r\n")
        assert read(sock) == (b"", "reset")


def test_a_client_that_leaves_is_noticed(region: Region) -> None:
    region.set(Silence())
    with connected(region) as sock:
        send(sock)
        eventually(lambda: len(region.requests) == 1)
    eventually(lambda: region.open_connections == 0)


def test_pace() -> None:
    region = Region("frankfurt", latency=0.005, jitter=0.001, tokens=3, token_interval=0.005)
    with region, httpx2.Client(base_url=region.url) as http:
        start = time.monotonic()
        http.get("/models")
        assert time.monotonic() - start >= 0.005
        start = time.monotonic()
        with http.stream("POST", "/chat/completions", json=STREAM) as response:
            role, one, two, three, *_ = (time.monotonic() - start for line in response.iter_lines() if line)
        assert 0.005 <= role <= one
        assert two >= 0.010
        assert three >= 0.015
        region.set(Slow(3, only="post"))
        start = time.monotonic()
        http.post("/chat/completions", json=CHAT)
        assert time.monotonic() - start >= 3 * (0.005 + 2 * 0.005)


@pytest.mark.parametrize("chat", [True, False])
def test_every_token_but_the_first_waits(chat: bool) -> None:
    answer = stream("frankfurt", "m", 3, chat=chat, usage=True)
    waiting = [part for index, part in enumerate(answer.parts()) if index in answer.paced]
    assert [token in part for token, part in zip((b'" 2"', b'" 3"'), waiting, strict=True)] == [True, True]


# --- Up and down -------------------------------------------------------------------------------------


def test_stop_refuses_and_resets_and_start_listens_on_the_same_port(region: Region) -> None:
    url = region.url
    with connected(region) as sock:
        eventually(lambda: region.open_connections == 1)
        region.stop()
        assert read(sock) == (b"", "reset")
    assert region.open_connections == 0
    with pytest.raises(ConnectionRefusedError), connected(region):
        pass
    region.stop()  # once more does nothing
    region.set(Silence())
    region.start().start()
    assert region.url == url
    with connected(region) as sock:
        send(sock)
        assert silent(sock)
        region.heal()
        assert read(sock)[0].startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_stopped_region_keeps_its_port() -> None:
    """Else whoever asks for a free one meanwhile, as a test in another process, would answer in its place."""

    def bind() -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", port))

    with Region("frankfurt") as region:
        port = int(region.url.split(":")[2].partition("/")[0])
        for silently in (False, True, False):
            region.stop(silently=silently)
            with pytest.raises(OSError, match="in use"):
                bind()
    bind()


def test_the_thread_ends_with_the_last_region() -> None:
    def threads() -> int:
        return sum(thread.name == "smartroute.testing" for thread in threading.enumerate())

    with pytest.raises(RuntimeError, match="frankfurt was not started"):
        _ = Region("frankfurt").url
    with Region("frankfurt"):
        with Region("arizona"):
            assert threads() == 1
        assert threads() == 1
    assert threads() == 0


def test_stopping_under_load_leaves_nothing_behind() -> None:
    for _ in range(20):
        with Region("frankfurt") as region, contextlib.ExitStack() as stack:
            for _ in range(8):
                send(stack.enter_context(connected(region)), STREAM)
            region.stop()
            assert region.open_connections == 0


# --- Faults of connections ---------------------------------------------------------------------------


def test_reset_at_accept(region: Region) -> None:
    region.set(Reset("accept", times=1))
    with pytest.raises(ConnectionResetError), connected(region) as sock:  # perhaps while connecting
        sock.recv(1)
    assert (region.connections, region.requests) == (1, [])
    assert exchange(region)[1] == "silence"


def test_reset_while_the_request_is_received(region: Region) -> None:
    region.set(Reset("request", only="post"))
    with connected(region) as sock:
        send(sock, missing=1)
        assert read(sock) == (b"", "reset")
    assert [(seen.method, seen.body) for seen in region.requests] == [("POST", b"")]


def test_reset_instead_of_an_answer(region: Region, sdk: OpenAI) -> None:
    region.set(Reset())
    assert exchange(region) == (b"", "reset")
    assert region.requests[0].json() == CHAT
    with pytest.raises(openai.APIConnectionError):
        sdk.chat.completions.create(model="m", messages=[PROMPT])


def test_reset_of_a_reused_connection(region: Region) -> None:
    region.set(Reset("reuse"))
    with connected(region) as sock:
        send(sock)
        answer, end = read(sock)
        assert (answer[:15], end) == (b"HTTP/1.1 200 OK", "silence")
        send(sock)
        assert read(sock) == (b"", "reset")


@pytest.mark.parametrize("at", ["accept", "answer"])
def test_silence_lasts_until_healed(region: Region, at: str) -> None:
    region.set(Silence("accept") if at == "accept" else Silence())
    with connected(region) as sock:
        send(sock)
        assert silent(sock)
        assert len(region.requests) == (at == "answer")
        region.set(Status(503))  # another fault is no cure for what hangs
        assert silent(sock)
        region.heal()
        assert TEXT.encode() in read(sock)[0]


def test_close_after_answer(region: Region) -> None:
    region.set(CloseAfterAnswer())
    answer, end = exchange(region)
    assert TEXT.encode() in answer
    assert b"connection: close" not in answer
    assert end == "closed"


# --- Faults of answers -------------------------------------------------------------------------------


def test_a_status(region: Region, http: httpx2.Client, sdk: OpenAI) -> None:
    region.set(Status(429, {"retry-after": "3"}))
    with pytest.raises(openai.RateLimitError) as caught:
        sdk.chat.completions.create(model="m", messages=[PROMPT])
    assert caught.value.response.headers["retry-after"] == "3"
    region.set(Status(503, body={"error": {"code": "DEPLOYMENT_SCALING_UP", "message": "wait"}}))
    with pytest.raises(openai.InternalServerError) as scaling:
        sdk.chat.completions.create(model="m", messages=[PROMPT])
    assert scaling.value.code == "DEPLOYMENT_SCALING_UP"
    region.set(Status(302, {"location": "https://elsewhere.example/v1"}))
    redirect = http.get("/models")
    assert (redirect.status_code, redirect.headers["location"]) == (302, "https://elsewhere.example/v1")
    region.set(Status(200, {"content-type": "text/html"}, b"<h1>Sign in</h1>"))
    page = http.post("/chat/completions", json=STREAM)
    assert (page.text, page.headers.get_list("content-type")) == ("<h1>Sign in</h1>", ["text/html"])
    region.set(Status(583, {"Content-Type": "application/problem+json"}))
    assert http.get("/models").headers.get_list("content-type") == ["application/problem+json"]


@pytest.mark.parametrize(("after", "tokens"), [(0, 0), (1, 0), (3, 2)])
def test_stall_and_cut(region: Region, after: int, tokens: int) -> None:
    for fault, ending in ((Stall(after), "silence"), (Cut(after), "closed"), (Cut(after, reset=True), "reset")):
        region.set(fault)
        answer, end = exchange(region, STREAM)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(events(answer)) == after
        assert [f'"content": "{token}"' in str(events(answer)) for token in ("frankfurt", " 2", " 3")].count(
            True
        ) == tokens
        assert not answer.endswith(b"0\r\n\r\n")
        assert end == ending


def test_a_stalled_stream_goes_on_when_healed(region: Region, http: httpx2.Client) -> None:
    region.set(Stall(2))
    with http.stream("POST", "/chat/completions", json=STREAM) as response:
        lines = (line for line in response.iter_lines() if line)
        assert "frankfurt" in [next(lines), next(lines)][1]
        region.heal()
        assert list(lines)[-1] == DONE


@pytest.mark.parametrize("after", [0, 1])
def test_a_body_shorter_than_its_length(region: Region, http: httpx2.Client, after: int) -> None:
    region.set(Cut(after))
    answer, end = exchange(region)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.rpartition(b"content-length: ")[2])
    assert (len(body), end) == (after * (length // 2), "closed")
    with pytest.raises(httpx2.RemoteProtocolError, match="without sending complete message body"):
        http.post("/chat/completions", json=CHAT)


def test_an_error_as_the_first_event(region: Region, http: httpx2.Client, sdk: OpenAI) -> None:
    region.set(ErrorEvent())
    assert events(http.post("/chat/completions", json=STREAM).text) == [
        'data: {"error": {"message": "the replica failed", "type": "server_error", "code": 503}}'
    ]
    with pytest.raises(openai.APIError, match="the replica failed"):
        list(sdk.chat.completions.create(model="m", messages=[PROMPT], stream=True))
    region.set(ErrorEvent(2, {"message": "later"}))
    assert len(events(http.post("/chat/completions", json=STREAM).text)) == 3


def test_a_garbled_event(region: Region, http: httpx2.Client, sdk: OpenAI) -> None:
    region.set(GarbledEvent())
    with pytest.raises(json.JSONDecodeError):
        json.loads(events(http.post("/chat/completions", json=STREAM).content)[0].removeprefix("data: "))
    with pytest.raises(ValueError):
        list(sdk.chat.completions.create(model="m", messages=[PROMPT], stream=True))


def test_an_empty_stream(region: Region, http: httpx2.Client) -> None:
    for fault, text in ((EmptyStream(), ""), (EmptyStream(done=True), DONE + "\n\n")):
        region.set(fault)
        answer = http.post("/chat/completions", json=STREAM)
        assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, "text/event-stream", text)


def test_an_end_without_done(region: Region, sdk: OpenAI) -> None:
    for finish in (True, False):
        region.set(EndWithoutDone(finish=finish))
        chunks = list(sdk.chat.completions.create(model="m", messages=[PROMPT], stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
        assert chunks[-1].choices[0].finish_reason == ("stop" if finish else None)
        answer = exchange(region, STREAM)[0]
        assert DONE.encode() not in answer
        assert answer.endswith(b"0\r\n\r\n")


def test_faults_of_streams_leave_other_answers_alone(region: Region, http: httpx2.Client) -> None:
    region.set(EmptyStream(), ErrorEvent(), GarbledEvent(), EndWithoutDone())
    assert http.post("/chat/completions", json=CHAT).json()["choices"][0]["message"]["content"] == TEXT


@pytest.mark.parametrize("fault", [Drip(), Gzip(), ExtraHeaders({"x-more": "1"})], ids=repr)
def test_faults_that_change_no_content(region: Region, http: httpx2.Client, sdk: OpenAI, fault: Fault) -> None:
    plain, streamed = (http.post("/chat/completions", json=body).text for body in (CHAT, STREAM))
    region.set(fault)
    assert http.post("/chat/completions", json=CHAT).text == plain
    assert http.post("/chat/completions", json=STREAM).text == streamed
    assert sdk.chat.completions.create(model="m", messages=[PROMPT]).choices[0].message.content == TEXT


def test_drip_is_byte_by_byte(region: Region) -> None:
    region.set(Drip())
    assert b"\r\n\r\n1\r\nd\r\n1\r\na\r\n1\r\nt\r\n" in exchange(region, STREAM)[0]


def test_gzip_is_compressed_event_by_event(region: Region, http: httpx2.Client) -> None:
    region.set(Gzip(), Stall(2))
    with http.stream("POST", "/chat/completions", json=STREAM) as response:
        assert response.headers["content-encoding"] == "gzip"
        text = ""
        for piece in response.iter_text():
            text += piece
            if len(events(text)) == 2:
                break
    region.set(Gzip())
    body = exchange(region)[0].partition(b"\r\n\r\n")[2]
    assert TEXT in gzip.decompress(body).decode()


def test_a_cookie(region: Region, http: httpx2.Client) -> None:
    region.set(ExtraHeaders({"set-cookie": "session=1"}), Status(503))
    assert "set-cookie" not in http.get("/models").headers  # in order: the second fault answers something else
    region.set(Status(503), ExtraHeaders({"set-cookie": "session=1"}))
    assert http.get("/models").cookies["session"] == "1"


# --- Which requests ----------------------------------------------------------------------------------


def test_only(region: Region, http: httpx2.Client) -> None:
    def statuses() -> list[int]:
        answers = (
            http.get("/models"),
            http.post("/chat/completions", json=CHAT),
            http.post("/chat/completions", json=STREAM),
        )
        return [answer.status_code for answer in answers]

    region.set(Status(502, only="get"))
    assert statuses() == [502, 200, 200]
    region.set(Status(502, only="post"))
    assert statuses() == [200, 502, 502]
    region.set(Status(502, only="stream"))
    assert statuses() == [200, 200, 502]
    region.set(Status(502, only="get"), Status(503, only="post"))
    assert statuses() == [502, 503, 503]
    region.heal()
    assert statuses() == [200, 200, 200]


def test_what_cannot_be_known_yet_is_refused() -> None:
    for make in (lambda: Reset("accept", only="post"), lambda: Silence("accept", only="get")):
        with pytest.raises(ValueError, match="cannot be known at 'accept'"):
            make()
    with pytest.raises(ValueError, match="cannot be known at 'reuse'"):
        Reset("reuse", only="stream")


def test_times_and_every(region: Region, http: httpx2.Client) -> None:
    def statuses(fault: Fault) -> list[int]:
        region.set(fault)
        return [http.get("/models").status_code for _ in range(6)]

    assert statuses(Status(503, times=2)) == [503, 503, 200, 200, 200, 200]
    assert statuses(Status(503, every=2)) == [200, 503, 200, 503, 200, 503]
    assert statuses(Status(503, skip=1, times=1)) == [200, 503, 200, 200, 200, 200]
    assert statuses(Status(503, skip=1, every=2, times=2)) == [200, 200, 503, 200, 503, 200]


@given(skip=st.integers(0, 9), every=st.integers(1, 5), times=st.none() | st.integers(0, 9))
def test_turns_come_as_often_as_said(skip: int, every: int, times: int | None) -> None:
    fault = Reset(skip=skip, every=every, times=times)
    struck = [nth for nth in range(1, 100) if fault.strikes(nth)]
    assert struck == [skip + every * turn for turn in range(1, 100) if skip + every * turn < 100][:times]


# --- The clock ---------------------------------------------------------------------------------------


def test_the_clock_moves_only_when_told_to() -> None:
    clock = Clock()
    start = clock()
    assert start > 0
    assert clock() == start
    clock.advance(0.25)
    assert clock() - start == 0.25
    with pytest.raises(ValueError, match="cannot go back 1 seconds"):
        clock.advance(-1)
