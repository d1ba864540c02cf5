"""The checks of `make trace-proof` find what they are there to find."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from smartroute.demo.regions import LATENCIES
from tests.backends.calls import Event, Span, example, problems, read

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SUMMARY = {"calls": 3, "failed_over": 2, "routes": {"frankfurt": 1, "virginia": 1, "global": 1}}

Spans = dict[str, Span]


def span(call: int, its_id: str, parent: str | None, name: str, within: tuple[float, float], **attributes: Any) -> Span:
    """`within`: milliseconds. Attributes are smartroute's, with `__` for dots."""
    named = {f"smartroute.{key.replace('__', '.')}": value for key, value in attributes.items()}
    begin, end = (NOON + timedelta(seconds=call, milliseconds=each) for each in within)
    return Span(f"node-{its_id}", f"trace-{call}", its_id, parent, name, begin, end, "UNSET", "", named)


def attempt(call: int, number: int, where: str, reason: str, within: tuple[float, float], **attributes: Any) -> Span:
    general = {"attempt": number, "endpoint__name": where, "endpoint__kind": "direct", "reason": reason}
    explanation = f"{where}: {reason}, closed"
    made = span(
        call, f"{call}-{number}", f"{call}-route", "POST", within, explanation=explanation, **general, **attributes
    )
    server = {"server.address": "127.0.0.1", "server.port": 1, "url.full": "http://127.0.0.1:1/v1/chat/completions"}
    return replace(made, attributes={**made.attributes, **server})


def failed(made: Span, failure: str) -> Span:
    attributes = {**made.attributes, "error.type": failure, "smartroute.failure.class": failure}
    return replace(made, status="ERROR", message=f"{failure}: in words", attributes=attributes)


def answered(call: int, number: int, where: str, reason: str, within: tuple[float, float]) -> Span:
    times = {"time_to_send": 0.001, "time_to_first_byte": 0.002, "time_to_first_token": 0.003}
    stream = {"stream__outcome": "complete", "stream__size": 900, "stream__chunks": 9}
    made = attempt(call, number, where, reason, within, connection__reused=True, **times, **stream)
    return replace(made, attributes={**made.attributes, "http.response.status_code": 200})


def exchange(call: int, first: tuple[str, str], by: str, *attempts: Span) -> list[Span]:
    """The application's span, smartroute's, and the attempts."""
    root = span(call, f"{call}-root", None, f"call {call}", (0, 100))
    outcome = {"outcome": "answered", "endpoint__name": by, "fallback": by == "global", "attempts": len(attempts)}
    delivered = {"delivered__attempt": len(attempts), "time_to_first_token": 0.05}
    decision = {
        "smartroute.endpoint.name": first[0],
        "smartroute.reason": first[1],
        "smartroute.explanation": [f"{name}: why" for name in LATENCIES],
    }
    route = span(call, f"{call}-route", f"{call}-root", "smartroute.route", (1, 99), **outcome, **delivered)
    return [
        replace(root, attributes={"demo.call": call}),
        replace(route, events=(Event("smartroute.decision", decision),)),
        *attempts,
    ]


def told() -> Spans:
    """Three calls that went well: without a failure, failed over to a region, failed over to global."""
    frankfurt, virginia = ("frankfurt", "incumbent"), ("virginia", "best")
    spans = [
        *exchange(1, frankfurt, "frankfurt", answered(1, 1, *frankfurt, (2, 90))),
        *exchange(
            2,
            frankfurt,
            "virginia",
            failed(attempt(2, 1, *frankfurt, (2, 30), time_to_send=0.001), "reset"),
            failed(attempt(2, 2, "frankfurt", "stale_connection", (31, 32)), "connect"),
            answered(2, 3, "virginia", "failover", (33, 90)),
        ),
        *exchange(
            3,
            virginia,
            "global",
            failed(attempt(3, 1, *virginia, (2, 3)), "connect"),
            answered(3, 2, "global", "failover", (4, 90)),
        ),
    ]
    named = {each.id: each for each in spans}
    change = {
        "endpoint.name": "frankfurt",
        "breaker.before": "closed",
        "breaker.after": "open",
        "breaker.cause": "reset",
    }
    transition = Event("smartroute.breaker.transition", {f"smartroute.{name}": value for name, value in change.items()})
    named["2-route"] = replace(named["2-route"], events=(*named["2-route"].events, transition))
    return named


def changed(which: str, **attributes: Any) -> Callable[[Spans], None]:
    """Give a span other attributes; None takes one away."""

    def change(spans: Spans) -> None:
        others: Mapping[str, Any] = {key.replace("__", "."): value for key, value in attributes.items()}
        merged = {**spans[which].attributes, **others}
        spans[which] = replace(spans[which], attributes={k: v for k, v in merged.items() if v is not None})

    return change


def replaced(which: str, **fields: Any) -> Callable[[Spans], None]:
    def change(spans: Spans) -> None:
        spans[which] = replace(spans[which], **fields)

    return change


def without(which: str) -> Callable[[Spans], None]:
    def change(spans: Spans) -> None:
        del spans[which]

    return change


def added(*new: Span) -> Callable[[Spans], None]:
    def change(spans: Spans) -> None:
        spans.update({each.id: each for each in new})

    return change


def verification(**attributes: Any) -> Span:
    said = {"reason": "verification", "endpoint__name": "frankfurt", **attributes}
    return span(1, "1-get", "1-route", "GET", (3, 4), **said)


def test_what_went_well_is_not_complained_of() -> None:
    spans = list(told().values())
    assert list(problems(spans, SUMMARY)) == []
    calls, _ = read(spans)
    assert example(calls).root.name == "call 2"


def test_an_attempt_that_was_set_aside_is_no_failure() -> None:
    spans = told()
    frankfurt = ("frankfurt", "incumbent")
    diverted = attempt(1, 1, *frankfurt, (2, 3), stream__outcome="diverted")
    race = exchange(1, frankfurt, "tokyo", diverted, answered(1, 2, "tokyo", "connection_race", (3, 90)))
    spans.update({each.id: each for each in race})
    changed("1-route", smartroute__attempts=1)(spans)  # nothing was sent by the first
    assert list(problems(list(spans.values()), {**SUMMARY, "routes": {"tokyo": 1, "virginia": 1, "global": 1}})) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without("1-root"), "have no place"),
        (without("1-route"), "below it is nothing"),
        (added(span(1, "other", "1-root", "smartroute.route", (5, 6))), "not one smartroute.route"),
        (added(span(1, "other", "1-1", "POST", (5, 6))), "1 of 13 spans have no place"),
        (replaced("1-1", trace="another"), "in several traces"),
        (without("2-2"), "call 2: it says 3 attempts and has 2"),
        (without("2-2"), "call 2: its attempts have the numbers [1, 3]"),
        (replaced("2-1", status="UNSET"), "attempt 1, at frankfurt, failed with status UNSET"),
        (replaced("2-1", message=""), "attempt 1, at frankfurt, failed with status ERROR"),
        (changed("2-1", smartroute__failure__class=None), "failed and does not say of what class"),
        (changed("2-1", error__type=None), "failed and does not say of what class"),
        (changed("2-1", smartroute__time_to_send=None), "reset, and sent after None"),
        (changed("2-2", smartroute__time_to_send=0.1), "connect, and sent after 0.1"),
        (changed("2-1", smartroute__explanation=None), "does not say what was known of it"),
        (changed("2-1", url__full=None), "attempt 1, at frankfurt, lacks url.full"),
        (replaced("2-2", start=NOON, end=NOON), "POST is not within smartroute.route"),
        (replaced("2-3", start=NOON + timedelta(seconds=2, milliseconds=10)), "failover, before any other had failed"),
        (replaced("1-route", end=NOON + timedelta(seconds=2)), "smartroute.route is not within call 1"),
        (changed("2-route", smartroute__delivered__attempt=None), "call 2: delivered was attempt None of 3"),
        (changed("2-route", smartroute__delivered__attempt=1), "call 2: delivered was attempt 1 of 3"),
        (replaced("2-3", status="ERROR"), "the answering attempt has the status ERROR"),
        (changed("2-3", smartroute__endpoint__name="tokyo"), "tokyo answered; smartroute.route says virginia"),
        (changed("2-3", smartroute__stream__outcome="interrupted"), "the answer's stream: interrupted"),
        (changed("2-3", smartroute__connection__reused=None), "whether its connection was a kept one"),
        (changed("2-3", smartroute__time_to_first_byte=0.0), "sent, first byte, first token after [0.001, 0.0, 0.003]"),
        (changed("2-3", smartroute__time_to_first_token=None), "sent, first byte, first token after"),
        (changed("2-route", smartroute__time_to_first_token=0.002), "the first token after 0.002 s, of the answering"),
        (changed("2-route", smartroute__time_to_first_token=None), "the first token after 0 s, of the answering"),
        (changed("2-route", smartroute__outcome="failed"), "call 2: it was failed"),
        (changed("3-route", smartroute__fallback=False), "answered by global, and fallback is False"),
        (replaced("1-route", events=()), "call 1: 0 decisions"),
        (replaced("1-route", events=(Event("smartroute.decision", {}),)), "its decision explains []"),
        (replaced("2-route", events=told()["2-route"].events[:1]), "no span says which route a call found broken"),
        (changed("1-1", smartroute__reason="explore"), "and the first attempt was ('frankfurt', 'explore')"),
        (added(verification(round_trip=0.02)), "a verification, and no attempt was overdue"),
        (added(failed(verification(round_trip=0.02), "connect")), "a verification: 0.02 s, connect, status ERROR"),
        (added(verification(failure__class="connect")), "a verification: None s, connect, status UNSET"),
        (added(verification(reason="probe")), "for the reason probe"),
        (changed("1-1", url__full="http://key-of-frankfurt@127.0.0.1"), "'key-of-' is in what was exported"),
    ],
)
def test_what_is_wrong_is_found(change: Callable[[Spans], None], complaint: str) -> None:
    spans = told()
    change(spans)
    found = list(problems(list(spans.values()), SUMMARY))
    assert any(complaint in each for each in found), found


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ({"calls": 4}, "the demo made 4 calls; there are trees of 3"),
        ({"failed_over": 1}, "the demo counts 1 calls that failed over, the spans 2"),
        ({"routes": {"frankfurt": 3}}, "the demo was answered by {'frankfurt': 3}"),
    ],
)
def test_the_spans_tell_what_the_application_saw(other: Mapping[str, Any], complaint: str) -> None:
    found = list(problems(list(told().values()), {**SUMMARY, **other}))
    assert any(complaint in each for each in found), found


@pytest.mark.parametrize(("call", "complaint"), [(2, "to another region"), (3, "to the global endpoint")])
def test_failovers_of_both_kinds_are_expected(call: int, complaint: str) -> None:
    spans = [each for each in told().values() if each.trace != f"trace-{call}"]
    assert any(complaint in each for each in problems(spans, SUMMARY))
