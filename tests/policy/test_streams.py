"""The gates: what is an answer, what is held until that is clear, and how a stream's end is known."""

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.messages import Attempt, Content, Gate, Spoiled, Whole
from smartroute.policy.outcome import MAX_RETRY_AFTER, Failure
from smartroute.transport.stream import (
    CHUNK_OVERHEAD,
    MOST_EVENTS_BEFORE_CONTENT,
    MOST_HELD_BEFORE_CONTENT,
    MOST_HELD_OF_ERROR,
    MOST_HELD_WHOLE,
    TAIL,
    Holder,
    Tail,
    Verdict,
    begins,
    holder,
)
from tests.policy.driving import route

ATTEMPT = Attempt(1, route("a"), 0, "best", 0.0, None)
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 7}}
HELLO = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
DONE = b"data: [DONE]\n\n"


def sse(*events: Any, end: str = "\n") -> bytes:
    """An event stream of these JSON values; bytes stand for themselves."""
    return b"".join(e if isinstance(e, bytes) else f"data: {json.dumps(e)}{end}{end}".encode() for e in events)


def choice(**members: Any) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion.chunk", "choices": [{"index": 0, "finish_reason": None} | members]}


def delta(**members: Any) -> dict[str, Any]:
    return choice(delta=members)


def first(gate: Holder, chunks: list[bytes]) -> Verdict:
    """The verdict on these chunks: what the driver would get."""
    for chunk in chunks:
        if verdict := gate.feed(chunk):
            return verdict
    return gate.end()


def verdict(stream: bytes, gate: Gate = Gate.FIRST_CONTENT) -> Verdict:
    return first(holder(gate, ATTEMPT), [stream])


def said(found: Verdict) -> tuple[Failure, int | None] | None:
    """What a verdict says: None is content."""
    return (found.failure, found.status) if isinstance(found, Spoiled) else None


# --- what is content -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        delta(content="Hello"),
        delta(content=" "),
        delta(role="assistant", content="Hello"),
        delta(reasoning_content="Let me think"),
        delta(role="assistant", content=None, reasoning="Hm"),
        delta(refusal="No."),
        delta(tool_calls=[{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}]),
        delta(function_call={"name": "f"}),
        delta(audio={"id": "1"}),
        choice(delta={}, finish_reason="stop"),
        choice(delta={"content": ""}, finish_reason="length"),
        choice(delta={}, logprobs={"content": [{"token": "x"}]}),
        choice(text="Hello"),
        choice(text="", finish_reason="stop"),
        {"choices": [ROLE["choices"][0], {"index": 1, "delta": {"content": "Hello"}}]},
        {"choices": ["a dialect of its own"]},
        {"object": "response.created"},
        {"choices": None},
        {"error": None, "choices": [{"delta": {"content": "x"}}]},
    ],
)
def test_content(event: Any) -> None:
    gate = holder(Gate.FIRST_CONTENT, ATTEMPT)
    assert gate.feed(sse(ROLE)) is None
    assert gate.feed(sse(event)) == Content(ATTEMPT)


@pytest.mark.parametrize(
    "nothing",
    [
        sse(ROLE),
        sse(delta()),
        sse(delta(content="")),
        sse(delta(content=None, refusal=None, tool_calls=[])),
        sse(delta(role="assistant", content="", tool_calls=None)),
        sse(choice(delta=None)),
        sse(choice(text="")),
        sse(choice(delta={}, logprobs=None)),
        sse({"choices": [{"index": 0, "delta": {"role": "assistant"}}, {"index": 1, "delta": {"role": "assistant"}}]}),
        sse(USAGE),
        b": keep-alive\n\n",
        b":\n\n",
        b":\n",
        b"\n\n\n",
        b"event: ping\n\n",
        b"id: 7\nretry: 100\n\n",
        b"data\n\n",
        b"data:\n\n",
        b"database: x\n\n",
    ],
)
def test_no_content(nothing: bytes) -> None:
    gate = holder(Gate.FIRST_CONTENT, ATTEMPT)
    for _ in range(3):
        assert gate.feed(nothing) is None
    assert gate.feed(sse(HELLO)) == Content(ATTEMPT)
    assert b"".join(gate.chunks) == nothing * 3 + sse(HELLO)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_line_ends(end: str) -> None:
    assert verdict(sse(ROLE, USAGE, HELLO, end=end)) == Content(ATTEMPT)
    assert said(verdict(sse(ROLE, USAGE, end=end))) == (Failure.TRUNCATED, None)


def test_data_in_several_lines_and_without_a_space() -> None:
    assert verdict(b'data:{"choices":\ndata:[{"delta":\ndata:{"content":"x"}}]}\n\n') == Content(ATTEMPT)


# --- what is none, and why -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", (Failure.EMPTY, None)),
        (b": keep-alive\n\n", (Failure.EMPTY, None)),
        (DONE, (Failure.EMPTY, None)),
        (b"data:[DONE]\r\n\r\n", (Failure.EMPTY, None)),
        (sse(ROLE) + DONE, (Failure.EMPTY, None)),
        (sse(ROLE), (Failure.TRUNCATED, None)),
        (sse(ROLE, USAGE), (Failure.TRUNCATED, None)),
        (sse(HELLO)[:-1], (Failure.TRUNCATED, None)),
        (sse(HELLO)[:-2], (Failure.TRUNCATED, None)),
        (sse(HELLO)[:20], (Failure.TRUNCATED, None)),
        (sse(ROLE) + b"data: {", (Failure.TRUNCATED, None)),
        (b"data: {nonsense\n\n", (Failure.GARBLED, None)),
        (b"data: \xff\xfe\n\n", (Failure.GARBLED, None)),
        (b"data: " + b"[" * 100_000 + b"\n\n", (Failure.GARBLED, None)),
        (b"data: [1]\n\n", (Failure.GARBLED, None)),
        (b"data: null\n\n", (Failure.GARBLED, None)),
        (sse({"error": {"message": "overloaded", "code": 503}}), (Failure.ERROR_EVENT, 503)),
        (sse({"error": {"message": "no", "type": "invalid_request_error"}}), (Failure.ERROR_EVENT, 400)),
        (sse({"error": {"code": "429"}, "choices": HELLO["choices"]}), (Failure.ERROR_EVENT, 429)),
        (sse({"error": "overloaded"}), (Failure.ERROR_EVENT, None)),
        (sse({"error": {"code": "5²"}}), (Failure.ERROR_EVENT, None)),
        (b"event: error\n" + sse({"error": {"code": 500}}), (Failure.ERROR_EVENT, 500)),
        (sse(ROLE, {"error": {"code": 500}}), (Failure.ERROR_EVENT, 500)),
        (sse(HELLO, {"error": {"code": 500}}), None),
    ],
)
def test_what_is_wrong_with_a_stream(stream: bytes, expected: tuple[Failure, int | None] | None) -> None:
    assert said(verdict(stream)) == expected


def test_a_verdict_quotes_nothing_of_the_answer() -> None:
    for stream in (sse({"error": {"message": "secret-prompt", "code": 500}}), b"data: secret-prompt\n\n"):
        found = verdict(stream)
        assert isinstance(found, Spoiled)
        assert "secret" not in found.detail


# --- however the bytes are cut -------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        sse(ROLE),
        sse(ROLE, end="\r\n"),
        sse(ROLE, end="\r"),
        sse(USAGE),
        sse(HELLO),
        sse(HELLO, end="\r\n"),
        sse(STOP, end="\r"),
        sse({"error": {"code": 429}}),
        DONE,
        b": ping\r\n\r\n",
        b"data: {\r",
        b"\ndata: }\r\n",
        b"data: x\n\n",
        b"\n",
        b"\r",
        b"data: ",
        b'data: {"choices": []}\r\n\r\n',
    ]
)


@given(st.lists(PIECES, max_size=8).map(b"".join), st.data())
def test_the_same_bytes_give_the_same_verdict_however_they_are_cut(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12), label="cuts"))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]  # empty ones too
    gate, single = (holder(Gate.FIRST_CONTENT, ATTEMPT) for _ in range(2))
    expected = verdict(stream)
    assert first(gate, chunks) == expected
    assert first(single, [stream[at : at + 1] for at in range(len(stream))]) == expected
    for held in (gate, single):
        bytes_held = b"".join(held.chunks)
        assert stream.startswith(bytes_held)
        if isinstance(expected, Content):
            assert verdict(bytes_held) == expected
    if said(expected) in ((Failure.TRUNCATED, None), (Failure.EMPTY, None)) and b"[DONE]" not in stream:
        assert gate.chunks == chunks  # nothing is lost, nothing is added


@given(st.binary())
def test_no_bytes_raise(stream: bytes) -> None:
    gate = holder(Gate.FIRST_CONTENT, ATTEMPT)
    assert isinstance(first(gate, [stream]), Content | Spoiled)


# --- how much may be held ------------------------------------------------------------------------------


def test_a_stream_is_not_held_for_ever() -> None:
    gate = holder(Gate.FIRST_CONTENT, ATTEMPT)
    comment = b":" + b"x" * 1022 + b"\n"
    for _ in range(MOST_HELD_BEFORE_CONTENT // (1024 + CHUNK_OVERHEAD)):
        assert gate.feed(comment) is None
    assert gate.feed(comment) == Content(ATTEMPT)


@pytest.mark.parametrize(("gate", "chunk"), [(Gate.FIRST_CONTENT, b":x"), (Gate.WHOLE, b"{}")])
def test_what_comes_in_tiny_chunks_holds_no_more(gate: Gate, chunk: bytes) -> None:
    most = {Gate.FIRST_CONTENT: MOST_HELD_BEFORE_CONTENT, Gate.WHOLE: 1_000_000}[gate]
    held = holder(gate, ATTEMPT)
    tracemalloc.start()
    for _ in range(most // len(chunk)):
        if held.feed(bytes(bytearray(chunk))) is not None:
            break
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 2 * most
    assert set(b"".join(held.chunks)) == set(chunk)


def test_many_events_without_content_are_not_held_for_ever() -> None:
    gate = holder(Gate.FIRST_CONTENT, ATTEMPT)
    for _ in range(MOST_EVENTS_BEFORE_CONTENT):
        assert gate.feed(b'data: {"choices": []}\n\n') is None
    assert gate.feed(b'data: {"choices": []}\n\n') == Content(ATTEMPT)


@pytest.mark.parametrize(("gate", "most"), [(Gate.WHOLE, MOST_HELD_WHOLE), (Gate.ERROR, MOST_HELD_OF_ERROR)])
def test_a_body_is_held_up_to_its_limit(gate: Gate, most: int) -> None:
    held = holder(gate, ATTEMPT)
    assert held.feed(bytes(most)) is None
    assert held.feed(b"x") == Content(ATTEMPT)
    assert [len(chunk) for chunk in held.chunks] == [most, 1]


@pytest.mark.parametrize("gate", [Gate.WHOLE, Gate.ERROR])
def test_a_body_that_is_whole(gate: Gate) -> None:
    assert verdict(b"{}", gate) == Whole(ATTEMPT)


@pytest.mark.parametrize(
    ("body", "code", "wait"),
    [
        ({"error": {"code": "context_length_exceeded"}}, "context_length_exceeded", None),
        ({"error": {"code": "DEPLOYMENT_SCALING_UP", "message": "m"}}, "DEPLOYMENT_SCALING_UP", MAX_RETRY_AFTER),
        ({"error": {"code": 503}}, None, None),
        ({"error": "DEPLOYMENT_SCALING_UP"}, None, None),
        (["error"], None, None),
        (b"<html>", None, None),
        (b"[" * 100_000, None, None),
        (b"\xff\xfe", None, None),
        (b"", None, None),
    ],
)
def test_what_an_errors_body_calls_it(body: Any, code: str | None, wait: float | None) -> None:
    attempt = Attempt(1, route("a"), 0, "best", 0.0, None)
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert first(holder(Gate.ERROR, attempt), [raw[:7], raw[7:]]) == Whole(attempt)
    assert (attempt.error_code, attempt.wait) == (code, wait)


def test_a_servers_own_retry_after_says_more_than_a_dialect() -> None:
    attempt = Attempt(1, route("a"), 0, "best", 0.0, None, wait=20.0)
    first(holder(Gate.ERROR, attempt), [b'{"error": {"code": "DEPLOYMENT_SCALING_UP"}}'])
    assert attempt.wait == 20.0


def test_an_empty_body_is_no_answer_but_an_empty_error_is_an_error() -> None:
    assert said(verdict(b"", Gate.WHOLE)) == (Failure.EMPTY, None)
    assert verdict(b"", Gate.ERROR) == Whole(ATTEMPT)


# --- the tail ------------------------------------------------------------------------------------------


def tail(*chunks: bytes) -> Tail:
    each = Tail()
    for chunk in chunks:
        each.feed(chunk)
    return each


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("space", ["", " "])
def test_done(end: str, space: str) -> None:
    stream = sse(HELLO, STOP, end=end)
    assert not tail(stream).done
    last = tail(stream, f"data:{space}[DONE]{end}{end}".encode())
    assert last.done
    assert last.complete
    assert tail(stream, f"data:{space}[DONE]".encode()).done  # its blank line may be missing
    assert tail(f"data:{space}[DONE]".encode()).done


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_after_a_finish_reason_and_between_events_a_stream_is_complete(end: str) -> None:
    for stream in (sse(HELLO, STOP, end=end), sse(HELLO, STOP, USAGE, end=end)):
        assert tail(stream).complete
        assert tail(stream.replace(b'": ', b'":')).complete
        assert not tail(stream).done
        assert not tail(stream[: -len(end)]).complete
        assert not tail(stream[:-20]).complete
    assert not tail(sse(HELLO, end=end)).complete
    assert not tail(b"").complete


def test_an_empty_finish_reason_is_none() -> None:
    assert not tail(sse({"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": ""}]})).complete


def test_where_one_of_two_choices_has_finished_the_stream_has_not() -> None:
    more = {"choices": [{"index": 1, "delta": {"content": "and"}, "finish_reason": None}]}
    end = {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]}
    assert not tail(sse(HELLO, STOP, more)).complete
    assert tail(sse(HELLO, STOP, more, end, USAGE)).complete


FAKES = [
    "data: [DONE]",
    "\ndata: [DONE]\n\n",
    "\r\ndata: [DONE]\r\n\r\n",
    '"finish_reason": "stop"',
    '"finish_reason":"stop"}]}\n\n',
    '\\"finish_reason\\": \\"stop\\"',
    'data: {"choices": [{"finish_reason": "stop"}]}\n\n',
]


@pytest.mark.parametrize("fake", FAKES)
@pytest.mark.parametrize("compact", [False, True])
def test_model_output_cannot_fake_the_end(fake: str, compact: bool) -> None:
    event = delta(content=fake)
    stream = sse(ROLE, event)
    if compact:
        stream = b"data: " + json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
    last = tail(stream)
    assert not last.done
    assert not last.complete


@pytest.mark.parametrize("fake", FAKES)
def test_model_output_cannot_fake_the_end_wherever_the_tail_begins(fake: str) -> None:
    """The window may begin in the middle of a line, right at the words that would be the last."""
    head, middle = sse(ROLE) + b'data: {"choices": [{"delta": {"content": "', json.dumps(fake)[1:-1].encode()
    for rest in range(TAIL - len(middle) - 5, TAIL + 5):
        stream = head + middle + b"x" * (rest - len(b'"}}]}\n\n')) + b'"}}]}\n\n'
        last = tail(stream)
        assert not last.done, rest
        assert not last.complete, rest


@given(st.lists(PIECES, max_size=8).map(b"".join), st.integers(0, 2 * TAIL), st.data())
def test_the_tail_is_the_same_however_the_bytes_are_cut(stream: bytes, padding: int, data: st.DataObject) -> None:
    stream = b":" + b"x" * padding + b"\n" + stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8), label="cuts"))
    whole = tail(stream)
    cut = tail(*(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)))
    assert (cut.done, cut.complete) == (whole.done, whole.complete)


def test_an_answer_begins_in_the_body_and_not_in_a_header() -> None:
    attempt = Attempt(1, route("a"), 0, "best", 0.0, None)
    head = b'HTTP/1.1 200 OK\r\nreport-to: {"group": "x"}\r\n\r\n'
    assert not begins(head, attempt, streaming=False)
    assert begins(head + b'{"id"', attempt, streaming=False)
    assert not begins(b"HTTP/1.1 503 No\r\n\r\n{", attempt, streaming=False)
