"""What happens to a stream after its first content: never a truncated answer presented as a success."""

import gzip
from typing import Any

import openai
import pytest

from smartroute.testing import (
    Cut,
    Drip,
    EndWithoutDone,
    ErrorEvent,
    ExtraHeaders,
    Fault,
    GarbledEvent,
    Gzip,
    Status,
)
from tests.transport.kit import CHAT, STREAM, TEXT, Caller, World, measure, posts

BROKEN = {
    "closed": Cut(3),
    "reset": Cut(3, reset=True),
    "ended without a finish reason": EndWithoutDone(finish=False),
}


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
def test_a_broken_stream_is_an_error_of_the_sdk(caller: Caller, world: World, fault: Fault) -> None:
    world.near.set(fault)
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    stream = caller.do(sdk.chat.completions.create, **STREAM)
    said: list[str] = []

    def listen() -> None:
        for chunk in caller.iterate(stream):
            said.extend(choice.delta.content or "" for choice in chunk.choices)

    with pytest.raises(openai.APIConnectionError):
        listen()
    assert "".join(said).startswith("near 2")  # what had come was handed on
    assert (posts(world.near), posts(world.far), posts(world.globe)) == (1, 0, 0)  # and nothing sent again
    status = client.router.status()[1]
    assert (status.failures, status.in_flight) == (1, 0)
    caller.close(stream)


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
def test_a_broken_stream_is_an_error_of_the_family(caller: Caller, world: World, fault: Fault) -> None:
    world.near.set(fault)
    client = measure(caller.client(world.config()))
    response = caller.send(client, "POST", f"{world.globe.url}/chat/completions", json=STREAM)
    with pytest.raises(caller.family.TransportError) as caught:
        list(caller.chunks(response))
    assert caught.value.request is response.request
    caller.close(response)
    response = caller.send(client, "POST", f"{world.globe.url}/chat/completions", json=STREAM)
    with pytest.raises(caller.family.TransportError):
        caller.do(response.aread if caller.is_async else response.read)


@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
def test_a_finish_reason_without_done_is_a_success(caller: Caller, world: World, path: str) -> None:
    world.near.set(EndWithoutDone())
    client = measure(caller.client(world.config()))
    body = {**STREAM, "prompt": "Where?"}
    response = caller.do(client.post, world.globe.url + path, json=body)
    assert b'"finish_reason": "stop"' in response.content
    assert b"[DONE]" not in response.content
    assert client.router.status()[1].failures == 0


def test_a_stream_is_handed_on_byte_for_byte(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config()))
    plain = caller.plain()
    ours = caller.do(client.post, f"{world.globe.url}/chat/completions", json=STREAM)
    theirs = caller.do(
        plain.post, f"{world.near.url}/chat/completions", json=STREAM, headers={"Authorization": "Bearer fake-near-key"}
    )
    assert ours.content == theirs.content

    def telling(response: Any) -> list[tuple[bytes, bytes]]:
        ours = (b"x-smartroute", b"x-request-id")
        return [header for header in response.headers.raw if not header[0].lower().startswith(ours)]

    assert telling(ours) == telling(theirs)
    assert ours.http_version == theirs.http_version
    assert ours.reason_phrase == theirs.reason_phrase


@pytest.mark.parametrize(
    "fault",
    [Drip(), Gzip(), ExtraHeaders({"content-type": "text/event-stream; charset=utf-8"})],
    ids=["drip", "gzip", "charset"],
)
def test_any_way_of_sending_a_stream_will_do(caller: Caller, world: World, fault: Fault) -> None:
    world.near.set(fault)
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    reply = caller.ask(sdk, stream=True, stream_options={"include_usage": True})
    assert (reply.route, reply.text) == ("near", "near" + TEXT)


def test_a_compressed_answer_is_handed_on_compressed(caller: Caller, world: World) -> None:
    world.near.set(Gzip())
    client = measure(caller.client(world.config()))
    response = caller.send(client, "POST", f"{world.globe.url}/chat/completions", json=CHAT)
    assert b"near 2 3" in gzip.decompress(b"".join(caller.chunks(response)))
    caller.close(response)
    assert caller.do(client.post, f"{world.globe.url}/chat/completions", json=CHAT).json()["model"] == "m"


@pytest.mark.parametrize("fault", [ErrorEvent(3), GarbledEvent(3)], ids=["error", "garbled"])
def test_a_bad_event_after_content_is_an_error_of_the_sdk(caller: Caller, world: World, fault: Fault) -> None:
    world.near.set(fault)
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    stream = caller.do(sdk.chat.completions.create, **STREAM)
    with pytest.raises((openai.APIError, ValueError)):
        list(caller.iterate(stream))
    caller.close(stream)
    assert (posts(world.far), posts(world.globe)) == (0, 0)
    assert client.router.status()[1].in_flight == 0


def test_content_comes_as_it_is_made(caller: Caller, world: World) -> None:
    """The first token is handed on while the others are still being made."""
    world.near.token_interval = 5
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    stream = caller.do(sdk.chat.completions.create, **STREAM)
    chunks = caller.iterate(stream)
    said = ""
    while not said:
        said = next(chunks).choices[0].delta.content or ""
    assert said == "near"
    assert client.router.status()[1].in_flight == 1  # it goes on
    caller.close(stream)
    assert client.router.status()[1].in_flight == 0


EVENTS = b'data: {"choices": [{"index": 0, "delta": {"content": "%b"}, "finish_reason": %b}]}\n\n'
PLAIN = {"content-type": "text/plain; charset=utf-8"}


def test_a_stream_under_another_content_type_is_taken(caller: Caller, world: World) -> None:
    world.near.set(
        Status(200, PLAIN, EVENTS % (b"near", b"null") + EVENTS % (b" too", b'"stop"') + b"data: [DONE]\n\n")
    )
    client = measure(caller.client(world.config()))
    reply = caller.ask(caller.sdk(client, world.globe.url), stream=True)
    assert (reply.route, reply.attempts, reply.text) == ("near", "1", "near too")
    assert client.router.status()[1].failures == 0


def test_a_stream_under_another_content_type_is_watched_as_any_other(caller: Caller, world: World) -> None:
    world.near.set(Status(200, PLAIN, EVENTS % (b"near", b"null")))
    client = measure(caller.client(world.config()))
    with pytest.raises(caller.family.RemoteProtocolError):
        caller.do(client.post, f"{world.globe.url}/chat/completions", json=STREAM)
    assert client.router.status()[1].failures == 1


@pytest.mark.parametrize("kind", ["text/html", "text/plain"])
def test_what_is_no_stream_is_not_taken_for_one(caller: Caller, world: World, kind: str) -> None:
    world.near.set(Status(200, {"content-type": kind}, b"<html>Please log in</html>"))
    client = measure(caller.client(world.config()))
    reply = caller.ask(caller.sdk(client, world.globe.url), stream=True)
    assert (reply.route, reply.attempts) == ("far", "2")
    assert client.router.status()[1].last_failure[0] == "not an event stream"


@pytest.mark.parametrize(("error", "failures"), [({"code": 500}, 1), ({"message": "oh"}, 1), ({"code": 400}, 0)])
def test_an_error_event_after_content_is_the_callers_exception_and_counts_unless_it_is_his_fault(
    caller: Caller, world: World, error: dict[str, Any], failures: int
) -> None:
    world.near.set(ErrorEvent(2, error))
    client = measure(caller.client(world.config()))
    with pytest.raises(openai.APIError):
        caller.ask(caller.sdk(client, world.globe.url), stream=True)
    assert [status.failures for status in client.router.status() if status.name == "near"] == [failures]


@pytest.mark.parametrize("fault", BROKEN.values(), ids=BROKEN)
def test_the_exception_of_a_stream_that_breaks_off_says_whose_it_was(
    caller: Caller, world: World, fault: Fault
) -> None:
    world.near.set(fault)
    client = measure(caller.client(world.config()))
    with pytest.raises((caller.family.TransportError, openai.APIError)) as caught:
        caller.ask(caller.sdk(client, world.globe.url), stream=True)
    notes: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        notes += getattr(error, "__notes__", [])
        error = error.__cause__
    assert [note for note in notes if note.startswith("smartroute: near broke off after ")]
