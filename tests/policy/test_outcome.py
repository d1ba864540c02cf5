"""What a status, a failure and a Retry-After mean: the tables of the policy, line by line."""

import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartroute.policy.outcome import (
    MAX_RETRY_AFTER,
    TOO_LONG,
    Again,
    Blame,
    Failure,
    Rule,
    retry_after,
    rule_for_failure,
    rule_for_status,
    status_of_error,
)

WALL = 1_700_000_000.0

STATUSES = {
    (Again.NOWHERE, Blame.NONE): {
        200,
        201,
        204,
        206,
        299,
        400,
        405,
        406,
        410,
        411,
        413,
        414,
        415,
        418,
        422,
        431,
        451,
        499,
    },
    (Again.OTHER_KEY, Blame.NONE): {401, 402, 403, 412},
    (Again.ONE_OTHER, Blame.NONE): {404, 408, 409, 425},
    (Again.ELSEWHERE, Blame.NONE): {429},
    (Again.ONE_OTHER, Blame.IF_OTHERS_ANSWER): {500},
    (Again.ELSEWHERE, Blame.COUNT): {300, 301, 302, 303, 304, 307, 308, 399, 502, 503, 504, *range(520, 600)},
}

FAILURES = {
    (Again.ELSEWHERE, Blame.OPEN): {
        Failure.DNS,
        Failure.CONNECT,
        Failure.CONNECT_TIMEOUT,
        Failure.TLS,
        Failure.CERTIFICATE,
        Failure.CLIENT_CERTIFICATE,
    },
    (Again.ELSEWHERE, Blame.NONE): {Failure.POOL_TIMEOUT, Failure.OVERTAKEN},
    (Again.NOWHERE, Blame.NONE): {Failure.CANCELLED},
    (Again.ELSEWHERE, Blame.COUNT): {
        Failure.WRITE,
        Failure.RESET,
        Failure.READ_TIMEOUT,
        Failure.SILENCE,
        Failure.DEADLINE,
        Failure.PROTOCOL,
        Failure.STATUS,
        Failure.REDIRECT,
        Failure.CONTENT_TYPE,
        Failure.EMPTY,
        Failure.TRUNCATED,
        Failure.GARBLED,
        Failure.ERROR_EVENT,
    },
}


@pytest.mark.parametrize(("rule", "status"), [(rule, s) for rule, group in STATUSES.items() for s in sorted(group)])
def test_what_follows_from_a_status(rule: tuple[Again, Blame], status: int) -> None:
    found = rule_for_status(status)
    assert (found.again, found.blame) == rule


def test_a_prompt_that_is_too_long_may_fit_another_model() -> None:
    for status in (400, 413, 422):
        assert rule_for_status(status, TOO_LONG) == Rule(Again.OTHER_MODEL, Blame.NONE)
        assert rule_for_status(status, "invalid_value") == rule_for_status(status)
    assert rule_for_status(503, TOO_LONG) == rule_for_status(503)


@pytest.mark.parametrize(("rule", "failure"), [(rule, f) for rule, group in FAILURES.items() for f in sorted(group)])
def test_what_follows_from_a_failure(rule: tuple[Again, Blame], failure: Failure) -> None:
    found = rule_for_failure(failure)
    assert (found.again, found.blame) == rule


def test_no_failure_is_forgotten() -> None:
    assert set().union(*FAILURES.values()) == set(Failure)


@given(st.integers(100, 999))
def test_the_callers_mistakes_never_count_against_a_route(status: int) -> None:
    rule = rule_for_status(status)
    if 400 <= status < 500:
        assert rule.blame is Blame.NONE
    if status >= 500:
        assert rule.again is not Again.NOWHERE


# --- Retry-After ---------------------------------------------------------------------------------------


def wait(*headers: tuple[str, str]) -> float | None:
    return retry_after([(name.encode(), value.encode("latin-1")) for name, value in headers], WALL)


def date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(WALL + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("59.999", 59.999),
        ("60", 60.0),
        ("61", 60.0),
        ("86400", 60.0),
        ("1e300", 60.0),
        ("9" * 5_000, 60.0),
        ("inf", 60.0),
        ("-1", 0.0),
        ("-inf", 0.0),
        ("nan", None),
        ("-nan", None),
        ("", None),
        ("soon", None),
        ("7 seconds", None),
        ("0x10", None),
        ("\xff\xfe", None),
        ("Fri, 99 Foo 2023 99:99:99 GMT", None),
        (date(30), 30.0),
        (date(3_600), 60.0),
        (date(-30), 0.0),
        ("Tue, 14 Nov 2023 23:13:50 +0100", 30.0),
        ("Tuesday, 14-Nov-23 22:13:50 GMT", 30.0),
        ("Tue Nov 14 22:13:50 2023", 30.0),
        ("Tue, 14 Nov 2023 22:13:50 -0000", 30.0),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_retry_after(value: str, seconds: float | None, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:  # dates without a zone are GMT, wherever the process runs
        patch.setenv("TZ", zone)
        time.tzset()
        found = wait(("Retry-After", value))
    time.tzset()
    assert found == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(("value", "seconds"), [("1500", 1.5), ("0", 0.0), ("-5", 0.0), ("1e9", 60.0), ("0.5", 0.0005)])
def test_milliseconds(value: str, seconds: float) -> None:
    assert wait(("retry-after-ms", value)) == pytest.approx(seconds)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("precise", "seconds"), [("250", 0.25), ("nonsense", 7.0), ("nan", 7.0), ("", 7.0)])
def test_milliseconds_win_where_they_can_be_read(precise: str, seconds: float, reverse: bool) -> None:
    headers = [("Retry-After", "7"), ("Retry-After-Ms", precise)]
    assert wait(*(reversed(headers) if reverse else headers)) == seconds


def test_the_first_that_can_be_read_counts() -> None:
    assert wait(("Retry-After", "soon"), ("Retry-After", "3"), ("Retry-After", "9")) == 3.0


def test_nothing_asked_for() -> None:
    assert wait(("content-type", "text/html"), ("x-retry-after", "7")) is None
    assert retry_after([], WALL) is None


@given(st.lists(st.tuples(st.sampled_from([b"Retry-After", b"retry-after-ms", b"date"]), st.binary(max_size=40))))
def test_garbage_never_raises(headers: list[tuple[bytes, bytes]]) -> None:
    found = retry_after(headers, WALL)
    assert found is None or 0.0 <= found <= MAX_RETRY_AFTER


@given(
    st.from_regex(
        r"[A-Z][a-z]{2}, ?[0-9]{1,3}[ -][A-Z][a-z]{2}[ -][0-9]{0,5} [0-9:.]{0,9} ?[A-Z+0-9-]{0,6}", fullmatch=True
    )
)
def test_almost_dates_never_raise(value: str) -> None:
    found = retry_after([(b"retry-after", value.encode())], WALL)
    assert found is None or 0.0 <= found <= MAX_RETRY_AFTER


# --- The status that an error event names --------------------------------------------------------------

JSON: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 503}, 503),
        ({"code": "503", "message": "overloaded"}, 503),
        ({"status": 429, "code": "rate_limited"}, 429),
        ({"status_code": 400, "code": 500}, 400),
        ({"type": "invalid_request_error"}, 400),
        ({"type": "authentication_error"}, 401),
        ({"type": "permission_error"}, 403),
        ({"type": "not_found_error", "code": "model_not_found"}, 404),
        ({"type": "rate_limit_error"}, 429),
        ({"type": "server_error"}, None),
        ({"code": 200}, None),
        ({"code": 600}, None),
        ({"code": True}, None),
        ({"code": "-503"}, None),
        ({"code": "50²"}, None),  # str.isdigit() is true of it, int() refuses it
        ({"code": "9" * 5_000}, None),
        ({"code": None, "type": None}, None),
        ({}, None),
        ("overloaded", None),
        (["overloaded"], None),
        (None, None),
    ],
)
def test_the_status_of_an_error_event(error: object, status: int | None) -> None:
    assert status_of_error(error) == status


@given(JSON | st.fixed_dictionaries({}, optional={"code": JSON, "status": JSON, "status_code": JSON, "type": JSON}))
def test_the_status_of_any_error_event(error: object) -> None:
    found = status_of_error(error)
    assert found is None or 400 <= found < 600
