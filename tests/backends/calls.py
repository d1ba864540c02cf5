"""The demo's calls as a tracing backend gives them back, and what must be true of each."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from smartroute.demo.regions import GLOBAL, LATENCIES

__all__ = ["Call", "Event", "Span", "example", "problems", "read"]

ROUTE = "smartroute.route"
SET_ASIDE = ("diverted", "superseded")
"""Outcomes of attempts that did not fail: another endpoint was ready, or brought content, first."""
AFTER_A_FAILURE = ("failover", "next_key", "stale_connection")
"""Reasons of attempts that are made because one has failed."""
NEVER_EXPORTED = ("key-of-", "Where are you?")
"""The demo's keys and its prompt."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a span."""

    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """A span, as Phoenix's REST API tells it.

    Attributes:
        node: what Phoenix's pages call it.
        status: `UNSET`, `OK` or `ERROR`.
    """

    node: str
    trace: str
    id: str
    parent: str | None
    name: str
    start: datetime
    end: datetime
    status: str
    message: str
    attributes: Mapping[str, Any]
    events: tuple[Event, ...] = ()

    @classmethod
    def from_rest(cls, told: Mapping[str, Any]) -> Self:
        """Read an item of `/v1/projects/{project}/spans`."""
        return cls(
            node=told["id"],
            trace=told["context"]["trace_id"],
            id=told["context"]["span_id"],
            parent=told["parent_id"],
            name=told["name"],
            start=datetime.fromisoformat(told["start_time"]),
            end=datetime.fromisoformat(told["end_time"]),
            status=told["status_code"],
            message=told["status_message"],
            attributes=told["attributes"],
            events=tuple(Event(event["name"], event["attributes"]) for event in told["events"]),
        )

    def __getitem__(self, name: str) -> Any:
        """An attribute of ours, without its `smartroute.`; None: it is not there."""
        return self.attributes.get(f"smartroute.{name}")

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.start).total_seconds()

    @property
    def failed(self) -> bool:
        """Whether it says anywhere that it failed."""
        return self.status == "ERROR" or "error.type" in self.attributes or self["failure.class"] is not None


@dataclass(frozen=True, slots=True)
class Call:
    """A call whose tree has the right shape: the application's span, smartroute's, one for each request sent."""

    root: Span
    route: Span
    attempts: tuple[Span, ...]
    verifications: tuple[Span, ...]

    @property
    def failed_attempts(self) -> list[Span]:
        """In the order of time."""
        return [attempt for attempt in self.attempts if attempt.failed]

    @property
    def answer(self) -> Span | None:
        """The attempt whose answer the caller got, as the span of the exchange says."""
        number = self.route["delivered.attempt"]
        return next((attempt for attempt in self.attempts if attempt["attempt"] == number), None)

    @property
    def failed_over(self) -> bool:
        """Whether an endpoint failed and another one answered."""
        return self.route["outcome"] == "answered" and any(
            attempt["endpoint.name"] != self.route["endpoint.name"] for attempt in self.failed_attempts
        )


def read(spans: Sequence[Span]) -> tuple[list[Call], list[str]]:
    """The calls whose tree has the right shape, and what is wrong with the shape of all else."""
    below: dict[str | None, list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start):
        below[span.parent].append(span)
    calls, wrong, placed = [], [], 0
    for root in below[None]:
        match below[root.id]:
            case [Span(name="smartroute.route") as route] if root.name == f"call {root.attributes.get('demo.call')}":
                sent = below[route.id]
                attempts = tuple(span for span in sent if span.name == "POST")
                verifications = tuple(span for span in sent if span.name == "GET")
                calls.append(Call(root, route, attempts, verifications))
                placed += 2 + len(attempts) + len(verifications)
                if any(span.trace != root.trace for span in (route, *sent)):
                    wrong.append(f"{root.name}: its spans are in several traces")
            case children:
                names = ", ".join(span.name for span in children) or "nothing"
                wrong.append(f"{root.name}: below it is {names}, and not one {ROUTE}")
                placed += 1 + len(children)
    if placed != len(spans):
        wrong.append(f"{len(spans) - placed} of {len(spans)} spans have no place in the tree of a call")
    return calls, wrong


def problems(spans: Sequence[Span], summary: Mapping[str, Any]) -> Iterator[str]:
    """All that is wrong with the spans of a demo, a sentence each.

    Args:
        summary: what the demo itself says of its calls (`smartroute demo --json`).
    """
    calls, wrong = read(spans)
    yield from wrong
    for call in calls:
        for sentence in (*_route(call), *_attempts(call), *_answer(call), *_verifications(call), *_times(call)):
            yield f"{call.root.name}: {sentence}"
    yield from _all(calls, summary)
    everything = "\n".join(map(repr, spans))
    yield from (f"{secret!r} is in what was exported" for secret in NEVER_EXPORTED if secret in everything)


def example(calls: Sequence[Call]) -> Call:
    """The call worth a picture: answered by another region, after the longest time lost with failed attempts."""
    return max(
        (call for call in calls if call.failed_over and not call.route["fallback"]),
        key=lambda call: sum(attempt.seconds for attempt in call.failed_attempts),
    )


def _all(calls: Sequence[Call], summary: Mapping[str, Any]) -> Iterator[str]:
    """What must be true of the calls together: the spans tell what the application saw."""
    numbers = sorted(call.root.attributes["demo.call"] for call in calls)
    if numbers != list(range(1, summary["calls"] + 1)):
        yield f"the demo made {summary['calls']} calls; there are trees of {len(numbers)}: {numbers}"
    answered = Counter(call.route["endpoint.name"] for call in calls)
    if answered != Counter(summary["routes"]):
        yield f"the demo was answered by {summary['routes']}, by the spans {dict(answered)}"
    over = [call for call in calls if call.failed_over]
    if len(over) != summary["failed_over"]:
        yield f"the demo counts {summary['failed_over']} calls that failed over, the spans {len(over)}"
    if not any(call.route["fallback"] for call in over):
        yield "no call failed over to the global endpoint"
    if all(call.route["fallback"] for call in over):
        yield "no call failed over to another region"
    transitions = [event.attributes for call in calls for event in _events(call.route, "breaker.transition")]
    if not any(
        (each.get("smartroute.breaker.before"), each.get("smartroute.breaker.after")) == ("closed", "open")
        and each.get("smartroute.endpoint.name")
        and each.get("smartroute.breaker.cause")
        for each in transitions
    ):
        yield "no span says which route a call found broken, and by what"


def _route(call: Call) -> Iterator[str]:
    """What the span of the exchange must say: what was decided and how it ended."""
    route = call.route
    if (outcome := route["outcome"]) != "answered" or route.failed:
        yield f"it was {outcome}, status {route.status} {route.message}".rstrip()
    made = sum(attempt["stream.outcome"] != "diverted" for attempt in call.attempts)  # a diverted one sent nothing
    if route["attempts"] != made:
        yield f"it says {route['attempts']} attempts and has {made}"
    if route["fallback"] != (route["endpoint.name"] == GLOBAL):
        yield f"answered by {route['endpoint.name']}, and fallback is {route['fallback']}"
    decisions = _events(route, "decision")
    if len(decisions) != 1:
        yield f"{len(decisions)} decisions"
        return
    decision = decisions[0].attributes
    explained = {line.partition(":")[0] for line in decision.get("smartroute.explanation", ())}
    if explained != set(LATENCIES):
        yield f"its decision explains {sorted(explained)}, not each endpoint"
    if call.attempts:
        decided = (decision.get("smartroute.endpoint.name"), decision.get("smartroute.reason"))
        done = (call.attempts[0]["endpoint.name"], call.attempts[0]["reason"])
        if decided != done:
            yield f"it decided for {decided}, and the first attempt was {done}"


def _attempts(call: Call) -> Iterator[str]:
    """What each attempt must say: where to, why there, what was known, and why it failed if it did."""
    if (numbers := [attempt["attempt"] for attempt in call.attempts]) != list(range(1, len(numbers) + 1)):
        yield f"its attempts have the numbers {numbers}"
    for attempt in call.attempts:
        name = attempt["endpoint.name"]
        which = f"attempt {attempt['attempt']}, at {name}"
        required = {"server.address", "server.port", "url.full", "smartroute.endpoint.kind", "smartroute.reason"}
        if missing := required.difference(attempt.attributes):
            yield f"{which}, lacks {', '.join(sorted(missing))}"
        if not str(attempt["explanation"]).startswith(f"{name}: "):
            yield f"{which}, does not say what was known of it: {attempt['explanation']}"
        if attempt.failed:
            if attempt.status != "ERROR" or not attempt.message:
                yield f"{which}, failed with status {attempt.status} {attempt.message}".rstrip()
            if not attempt["failure.class"] or "error.type" not in attempt.attributes:
                yield f"{which}, failed and does not say of what class"
            if (attempt["failure.class"] == "connect") != (attempt["time_to_send"] is None):
                yield f"{which}: {attempt['failure.class']}, and sent after {attempt['time_to_send']}"
        elif attempt is not call.answer and attempt["stream.outcome"] not in SET_ASIDE:
            yield f"{which}, neither failed nor answered, and was not set aside: {attempt['stream.outcome']}"


def _answer(call: Call) -> Iterator[str]:
    """The attempt whose answer the caller got: the last but for those set aside, and it says how it went."""
    answer = call.answer
    in_earnest = [attempt for attempt in call.attempts if attempt["stream.outcome"] not in SET_ASIDE]
    if answer is None or [answer] != in_earnest[-1:]:
        yield f"delivered was attempt {call.route['delivered.attempt']} of {len(call.attempts)}"
        return
    if answer.failed or answer.status != "UNSET" or answer.attributes.get("http.response.status_code") != 200:
        yield f"the answering attempt has the status {answer.status} {answer.message}".rstrip()
    if answer["endpoint.name"] != call.route["endpoint.name"]:
        yield f"{answer['endpoint.name']} answered; {ROUTE} says {call.route['endpoint.name']}"
    if answer["stream.outcome"] != "complete" or not answer["stream.size"] or not answer["stream.chunks"]:
        outcome = f"{answer['stream.outcome']}, {answer['stream.size']} bytes, {answer['stream.chunks']} chunks"
        yield f"the answer's stream: {outcome}"
    if not isinstance(answer["connection.reused"], bool):
        yield "the answering attempt does not say whether its connection was a kept one"
    marks = [answer[name] for name in ("time_to_send", "time_to_first_byte", "time_to_first_token")]
    if None in marks or [0, *marks] != sorted([0, *marks]) or marks[-1] > answer.seconds:
        yield f"sent, first byte, first token after {marks} of {answer.seconds} s"
    elif not marks[-1] <= (seen := call.route["time_to_first_token"] or 0) <= call.route.seconds:
        yield f"the first token after {seen} s, of the answering attempt after {marks[-1]} s"


def _verifications(call: Call) -> Iterator[str]:
    """A verification says whom it asks and what came of it, and an attempt of the same call was overdue."""
    for each in call.verifications:
        if each["reason"] != "verification" or each["endpoint.name"] not in LATENCIES:
            yield f"a GET to {each['endpoint.name']} for the reason {each['reason']}"
        if each.failed and (each["round_trip"] is not None or each.status != "ERROR" or not each["failure.class"]):
            yield f"a verification: {each['round_trip']} s, {each['failure.class']}, status {each.status}"
        if not any(_events(attempt, "overdue") for attempt in call.attempts):
            yield "a verification, and no attempt was overdue"


def _times(call: Call) -> Iterator[str]:
    """Each span lies within its parent; what is done after a failure begins after one."""
    nested = [(call.root, call.route), *((call.route, attempt) for attempt in call.attempts)]
    for outer, inner in nested:
        if not outer.start <= inner.start <= inner.end <= outer.end:
            yield f"{inner.name} is not within {outer.name}"
    for attempt in call.attempts:
        ends = [failed.end for failed in call.failed_attempts if failed is not attempt]
        if attempt["reason"] in AFTER_A_FAILURE and (not ends or attempt.start < min(ends)):
            yield f"attempt {attempt['attempt']}: {attempt['reason']}, before any other had failed"


def _events(span: Span, name: str) -> list[Event]:
    return [event for event in span.events if event.name == f"smartroute.{name}"]
