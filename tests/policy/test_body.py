"""A look into a JSON body: as json.loads would see it, and never an exception."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smartroute.transport.body import LONG, peek, with_model

NAMES = ("model", "stream", "prompt_cache_key")

TEXT = st.text(max_size=12) | st.sampled_from(
    [
        '"model"',
        '\\"model\\": \\"no\\"',
        '{"model": "no"}',
        "\\",
        '\\\\"',
        '"',
        "}]",
        ',"stream":true,',
        "model",
        "é\u2028😀",
    ]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
MEMBERS = st.lists(st.tuples(TEXT | st.sampled_from(NAMES), JSON), max_size=8)
STYLES = st.fixed_dictionaries(
    {
        "ensure_ascii": st.booleans(),
        "indent": st.sampled_from([None, None, 0, 2, "\t"]),
        "separators": st.sampled_from([None, (",", ":"), (", ", ": "), (" ,\n", " \t: ")]),
    }
)
SPACE = st.text(" \t\r\n", max_size=3)


def write(members: list[tuple[str, Any]], style: dict[str, Any]) -> bytes:
    """An object with its members in this order; a name may stand in it more than once."""
    comma, colon = style["separators"] or (", ", ": ")
    text = comma.join(json.dumps(name, **style) + colon + json.dumps(value, **style) for name, value in members)
    return f"{{{text}}}".encode("utf-8", "surrogatepass")


@given(MEMBERS, STYLES, SPACE, SPACE)
@example(
    [("messages", [{"content": '"model": "no"'}]), ("model", "yes"), ("stream", True)], {"separators": None}, "", ""
)
@example([("model", "first"), ("model", "last")], {"separators": (",", ":")}, "\n", " ")
@example([("text", "model"), ("list", ["model", {"model": 1}]), ("stream", None)], {"separators": None}, "", "")
@example([("a", "ends with a backslash\\"), ("model", 'quo"te\\'), ("b", "\\\\")], {"separators": None}, "", "")
def test_peek_sees_what_json_sees(
    members: list[tuple[str, Any]], style: dict[str, Any], before: str, after: str
) -> None:
    body = before.encode() + write(members, style) + after.encode()
    truth = json.loads(body.decode("utf-8", "surrogatepass"))
    found = peek(body, NAMES)
    if any(0xD800 <= ord(c) < 0xE000 for name in NAMES for c in json.dumps(truth.get(name), ensure_ascii=False)):
        return  # half a character: no SDK writes it, and no parser of bytes reads it
    assert found is not None
    assert {name: value.value for name, value in found.items()} == {n: truth[n] for n in NAMES if n in truth}
    for name, value in found.items():
        written = body[value.start : value.end].decode()
        assert json.loads(written) == truth[name]
        assert written == written.strip()


@given(MEMBERS, STYLES, TEXT)
def test_with_model_changes_the_model_and_nothing_else(
    members: list[tuple[str, Any]], style: dict[str, Any], name: str
) -> None:
    body = write([*members, ("model", "asked"), *[m for m in members if m[0] != "model"]], style)
    found = peek(body, ["model"])
    assert found is not None
    value = found["model"]
    changed = with_model(body, value, name)
    assert changed[: value.start] == body[: value.start]
    assert changed[len(changed) - (len(body) - value.end) :] == body[value.end :]
    truth = json.loads(body.decode("utf-8", "surrogatepass"))
    assert json.loads(changed.decode("utf-8", "surrogatepass")) == truth | {"model": name}


@given(MEMBERS, MEMBERS, MEMBERS, STYLES, TEXT, SPACE)
@example([("model", "m")], [], [("stream", True)], {"separators": None}, '"model": "no", ', "")
@example([], [("x", {"model": "no"})], [], {"separators": None}, "", "")
@example([("model", "m")], [], [('say "model', "no")], {"separators": None}, "", "")
@example([], [("type", "model")], [("model", "m"), ("x", {"stream": 1})], {"separators": None}, "é", "\n")
def test_a_long_body_is_seen_as_a_short_one(
    before: list[tuple[str, Any]],
    within: list[tuple[str, Any]],
    after: list[tuple[str, Any]],
    style: dict[str, Any],
    text: str,
    end: str,
) -> None:
    """Whatever stands before, in and behind what makes it long, and wherever that is."""
    long = ("messages", [{"role": "user", "content": (text or "x") * 20_000}, dict(within)])
    body = write([*before, long, *after], style) + end.encode()
    if "\\ud" in repr(body):
        return  # half a character, as above
    truth = json.loads(body.decode("utf-8", "surrogatepass"))
    found = peek(body, NAMES)
    try:
        body.decode()
    except UnicodeDecodeError:
        return
    assert found is not None
    assert {name: value.value for name, value in found.items()} == {n: truth[n] for n in NAMES if n in truth}
    for name, value in found.items():
        assert json.loads(body[value.start : value.end]) == truth[name]


def test_a_long_body_is_not_parsed() -> None:
    """What makes it long is no JSON here, which nobody notices but the server."""
    long = b'{"model": "m", "messages": [' + b"?" * LONG + b'], "stream": true, "tools": [{"name": 1}]}'
    found = peek(long, NAMES)
    assert found is not None
    assert {name: value.value for name, value in found.items()} == {"model": "m", "stream": True}
    assert peek(long[:-1], NAMES) is None


FRAGMENTS = st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b'"', b"\\", b":", b",", b" ", b'"model"', b'"stream"', b"1", b"null", b"\xff", b"\0"]
    )
).map(b"".join)


@given(st.binary() | FRAGMENTS | FRAGMENTS.map(lambda inside: b"{" + inside + b"}"))
def test_no_bytes_raise(body: bytes) -> None:
    found = peek(body, NAMES)
    assert found is None or set(found) <= set(NAMES)
    for value in (found or {}).values():
        assert 0 <= value.start < value.end <= len(body)


@pytest.mark.parametrize(
    "body", [b"", b" ", b"[]", b'"model"', b"null", b'{"model": "m"', b'"model": "m"}', b"\xef\xbb\xbf{}"]
)
def test_what_is_no_object_is_none(body: bytes) -> None:
    assert peek(body, NAMES) is None


@pytest.mark.parametrize("body", [b"{}", b" { } ", b'{"models": 1}', b'{"x": "model"}', b'{"x": {"model": "m"}}'])
def test_an_object_without_the_names_is_empty(body: bytes) -> None:
    assert peek(body, NAMES) == {}


def test_what_cannot_be_read_is_none() -> None:
    assert peek(b'{"model": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", NAMES) is None
    assert peek(b'{"model": ' + b"9" * 10_000 + b"}", NAMES) is None
    assert peek(b'{"model": nonsense}', NAMES) is None


def test_a_megabyte_of_escaped_quotes() -> None:
    prompt = '\\"model": "no", ' * 60_000
    body = json.dumps({"messages": [{"content": prompt}], "model": "m", "stream": True}).encode()
    found = peek(body, NAMES)
    assert found is not None
    assert (found["model"].value, found["stream"].value) == ("m", True)
    assert with_model(body, found["model"], "n") == body.replace(b'"m", "stream"', b'"n", "stream"')
