"""Every span ends once, nothing is kept, no key is told."""

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import StatusCode

from smartroute.events import (
    BreakerChanged,
    Event,
    ProbeEnded,
)
from smartroute.policy.outcome import Failure
from tests.telemetry.kit import ARIZONA, FRANKFURT, Backend, at, done, ended, refused, sent, started


class Ledger(SpanProcessor):
    """Counts beginnings and ends."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()

    def on_start(self, span: ReadableSpan, parent_context: Context | None = None) -> None:
        self.begun[at(span).span_id] += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.ended[at(span).span_id] += 1


class Complaints(logging.Handler):
    """What the SDK has to say about us: that a span was ended or changed after its end."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


STORY: tuple[Event, ...] = (
    started(),
    sent(),
    refused(),
    BreakerChanged(ARIZONA, "closed", "open", "connect", exchange=1),
    sent(2, FRANKFURT, reason="failover"),
    ended(2, FRANKFURT),
    done(endpoint=FRANKFURT, attempts=2),
)


@given(events=st.lists(st.sampled_from(STORY), max_size=20))
def test_every_span_ends_once_whatever_the_order_of_events(events: list[Event]) -> None:
    complaints, backend, ledger = Complaints(), Backend(), Ledger()
    backend.tracers.add_span_processor(ledger)
    logging.getLogger("opentelemetry").addHandler(complaints)
    try:
        backend.feed(*events, done())
    finally:
        logging.getLogger("opentelemetry").removeHandler(complaints)
        backend.close()

    assert ledger.begun == ledger.ended
    assert set(ledger.ended.values()) <= {1}
    assert not backend.telemetry._spans._exchanges
    assert not complaints.records


def test_attempts_left_open_end_with_their_exchange(backend: Backend) -> None:
    backend.feed(
        started(), sent(), sent(2, FRANKFURT), done("cancelled", None, attempts=2), ended(), ended(2, FRANKFURT)
    )

    assert [span.name for span in backend.spans] == ["POST", "POST", "smartroute.route"]
    assert all(span.status.status_code is StatusCode.UNSET for span in backend.spans)


def test_an_attempt_begun_while_its_exchange_ends_is_ended_too(backend: Backend) -> None:
    class Meddler(SpanProcessor):
        """Ends the exchange at the worst moment: as another thread would."""

        def on_start(self, span: ReadableSpan, parent_context: Context | None = None) -> None:
            if span.name == "POST":
                backend.telemetry(done("cancelled", None))

    backend.tracers.add_span_processor(Meddler())
    backend.feed(started(), sent())

    assert sorted(span.name for span in backend.spans) == ["POST", "smartroute.route"]


def test_spans_end_once_when_threads_race(backend: Backend) -> None:
    ledger = Ledger()
    backend.tracers.add_span_processor(ledger)
    with ThreadPoolExecutor(8) as threads:
        for exchange in range(200):
            backend.feed(started(exchange), sent(exchange=exchange))
            race = [sent(2, exchange=exchange), ended(exchange=exchange), ended(exchange=exchange)]
            race += [done(exchange=exchange), done(exchange=exchange), ended(2, exchange=exchange)]
            list(threads.map(backend.telemetry, race))

    assert ledger.begun == ledger.ended
    assert set(ledger.ended.values()) == {1}


def test_no_key_leaves_by_telemetry(backend: Backend) -> None:
    secrets = [(b"authorization", b"Bearer console-key-3Zp8"), (b"cookie", b"session=cookie-5Rt1")]
    backend.feed(
        started(),
        sent(headers=list(secrets), url=f"{ARIZONA.url}/chat/completions?api_key=query-key-1Bn6"),
        refused(),
        sent(2, FRANKFURT, headers=list(secrets)),
        ended(2, FRANKFURT, status=401, failure=Failure.STATUS, stream="discarded"),
        BreakerChanged(ARIZONA, "closed", "open", "connect", 1),
        ProbeEnded(ARIZONA, None, "connect"),
        done("failed", FRANKFURT, attempts=2),
    )

    exported = backend.everything()
    assert "us-arizona-1" in exported
    for secret in ("direct-key", "console-key", "cookie-5Rt1", "query-key", "authorization"):
        assert secret not in exported.lower()
