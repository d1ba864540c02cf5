"""What is written to the log, when, and what is in it."""

import logging
from collections.abc import Iterator

import pytest

from smartroute.events import (
    AttemptEnded,
    AttemptOverdue,
    AttemptStarted,
    BreakerChanged,
    CertificateExpiring,
    CertificateRefused,
    ConnectivityChanged,
    Cooled,
    Event,
    ExchangeEnded,
    ExchangeStarted,
    IncumbentChanged,
    KeyRefused,
    PassedThrough,
    ProbeEnded,
    Quarantined,
    VerificationStarted,
)
from smartroute.log import PAUSE, RENEWAL_PAUSE, Log
from smartroute.policy.outcome import Failure
from smartroute.policy.selection import Candidate
from smartroute.route import Kind, Route
from smartroute.testing import Clock

IOWA = Route("https://iowa.example/v1", name="iowa", api_key=["fake-iowa-key", "fake-other-iowa-key"])
TOKYO = Route("https://tokyo.example/v1", name="tokyo", api_key="fake-tokyo-key")
GLOBAL = Route("https://api.fireworks.ai/inference/v1", kind=Kind.GLOBAL)
DAY = 86_400.0


class Diary:
    """A log, its clock, and what it wrote: levels and messages."""

    def __init__(self, caplog: pytest.LogCaptureFixture, *, fallback: bool = True) -> None:
        self.clock = Clock()
        self.log = Log((IOWA, TOKYO), fallback=fallback, clock=self.clock)
        self._caplog = caplog

    def tell(self, *events: Event) -> None:
        for event in events:
            self.log(event)

    @property
    def records(self) -> list[logging.LogRecord]:
        return [record for record in self._caplog.records if record.name == "smartroute"]

    @property
    def warnings(self) -> list[str]:
        return [record.getMessage() for record in self.records if record.levelno >= logging.WARNING]


@pytest.fixture
def diary(caplog: pytest.LogCaptureFixture) -> Diary:
    return Diary(caplog)


@pytest.fixture
def debug(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, "smartroute"):
        yield


def opened(route: Route, cause: str = "connect: Connection refused") -> BreakerChanged:
    return BreakerChanged(route, "closed", "open", cause, None)


def closed(route: Route, before: str = "half_open") -> BreakerChanged:
    return BreakerChanged(route, before, "closed", "a request was answered", None)


# --- what a person has to do something about -----------------------------------------------------------


def test_routes_that_come_and_go_one_by_one_are_nobodys_business(diary: Diary) -> None:
    diary.tell(opened(IOWA), closed(IOWA), opened(TOKYO), closed(TOKYO), IncumbentChanged(IOWA, TOKYO))
    assert diary.warnings == []


def test_all_routes_down_and_back_up_is_said_once_each(diary: Diary) -> None:
    on_trial = BreakerChanged(IOWA, "open", "half_open", "probes answered", None)
    diary.tell(opened(IOWA), opened(TOKYO, "silence: 2 verifications failed"))
    assert diary.warnings == [
        (
            "All routes are down: iowa (connect: Connection refused), tokyo (silence: 2 verifications failed). "
            "Requests go to the global endpoint. Remedy: see to them for the reasons given; they are probed until they "
            "answer."
        )
    ]
    diary.tell(on_trial)
    assert len(diary.warnings) == 1, "a trial is no recovery"
    diary.tell(closed(IOWA), closed(TOKYO))
    assert diary.warnings[1:] == ["Route iowa is back up."]


def test_without_a_global_endpoint_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    diary = Diary(caplog, fallback=False)
    diary.tell(opened(IOWA), opened(TOKYO))
    assert "There is no global endpoint." in diary.warnings[0]


def test_an_outage_that_comes_and_goes_is_said_once_a_minute(diary: Diary) -> None:
    for _ in range(10):
        diary.tell(opened(IOWA), opened(TOKYO), closed(IOWA), closed(TOKYO))
        diary.clock.advance(1.0)
    assert [said.split(":")[0] for said in diary.warnings] == ["All routes are down", "Route iowa is back up."]
    diary.clock.advance(PAUSE)
    diary.tell(opened(IOWA), opened(TOKYO))
    assert len(diary.warnings) == 3


def test_the_log_does_not_end_on_a_false_all_clear(diary: Diary) -> None:
    """What goes down again within the pause is said when the pause is over."""
    diary.tell(opened(IOWA), opened(TOKYO), closed(IOWA), opened(IOWA), ProbeEnded(IOWA, None, "connect"))
    assert [said.split(":")[0] for said in diary.warnings] == ["All routes are down", "Route iowa is back up."]
    diary.clock.advance(PAUSE)
    diary.tell(*[ProbeEnded(IOWA, None, "connect")] * 3)
    assert [said.split(":")[0] for said in diary.warnings][2:] == ["All routes are down"]


def test_offline_and_online_again_are_said_once_each(diary: Diary) -> None:
    for online in (False, True) * 5:
        diary.tell(ConnectivityChanged(online))
    assert len(diary.warnings) == 2
    assert "offline" in diary.warnings[0]
    assert "again" in diary.warnings[1]


def test_what_seemed_to_be_down_while_this_machine_was_offline_is_not_back_up(diary: Diary) -> None:
    diary.tell(opened(IOWA), opened(TOKYO), ConnectivityChanged(online=False), closed(IOWA, "open"))
    assert [said.split(":")[0] for said in diary.warnings] == [
        "All routes are down",
        "No endpoint can be reached, not even the global one",
    ]


def test_a_refused_key_and_a_refused_model_name_their_remedy(diary: Diary) -> None:
    diary.tell(Quarantined(TOKYO, 401, None, 300.0, 1), Quarantined(IOWA, 404, "llama", 300.0, None, "typo"))
    key, model = diary.warnings
    assert key.startswith("Route tokyo: key refused (status 401)")
    assert "Remedy: set the route's own key in SMARTROUTE_API_KEY_TOKYO" in key
    assert model.startswith("Route iowa: model not found: 'typo', asked for as 'llama' (status 404)")
    assert "Remedy: correct this route's model, or SMARTROUTE_MODEL; or the path of its URL." in model
    assert vars(diary.records[0])["smartroute.endpoint.name"] == "tokyo"
    assert vars(diary.records[0])["http.response.status_code"] == 401


def test_one_of_several_keys_refused_is_said_once(diary: Diary) -> None:
    diary.tell(*[KeyRefused(IOWA, 1, 2)] * 3)
    assert diary.warnings == [
        (
            "Route iowa: key 1 of 2 was refused; key 2 is accepted and used from now on. Remedy: take out the refused "
            "key, or renew it."
        )
    ]


EXPIRED = "certificate: certificate has expired"
MISMATCH = "certificate: IP address mismatch, certificate is not valid for '10.0.0.5'"
UNKNOWN = "client_certificate: it was refused, or is missing (tlsv1 alert unknown ca)"
PRIVATE = "https://10.0.0.5/v1"


@pytest.mark.parametrize(
    ("refused", "who", "remedy"),
    [
        (
            CertificateRefused(IOWA, EXPIRED),
            f"Route iowa: its certificate is not accepted ({EXPIRED})",
            "have it renewed, or name its authority: in this route's ca_file, or to the client (verify=)",
        ),
        (
            CertificateRefused(GLOBAL, EXPIRED),
            f"Endpoint global: its certificate is not accepted ({EXPIRED})",
            "have it renewed, or name its authority to the client (verify=)",
        ),
        (
            CertificateRefused(Route(PRIVATE, name="psc", ca_file="ca.pem"), EXPIRED),
            f"Route psc: its certificate is not accepted ({EXPIRED})",
            "have it renewed, or add its authority to this route's ca_file",
        ),
        (
            CertificateRefused(Route(PRIVATE, name="psc", ca_file="ca.pem"), MISMATCH),
            f"Route psc: its certificate is not accepted ({MISMATCH})",
            "name the host that it is for (by server_name, if the URL must have another), or have it issued anew",
        ),
        (
            CertificateRefused(Route(PRIVATE, name="psc"), UNKNOWN, ours=True),
            f"Route psc: it does not accept us ({UNKNOWN})",
            "show it one: name client_cert (and client_key) of this route",
        ),
        (
            CertificateRefused(Route(PRIVATE, name="psc", client_cert="c.pem"), UNKNOWN, ours=True),
            f"Route psc: it does not accept us ({UNKNOWN})",
            "have this route's client_cert renewed, or issued by an authority that it trusts",
        ),
    ],
)
def test_a_refused_certificate_is_said_once_with_the_reason(
    diary: Diary, refused: CertificateRefused, who: str, remedy: str
) -> None:
    diary.tell(*[refused] * 3)
    assert diary.warnings == [f"{who}. Remedy: {remedy}."]


def test_a_certificate_that_expires_is_said_once_a_day(diary: Diary) -> None:
    for _ in range(48):
        diary.tell(CertificateExpiring(IOWA, 3.25 * DAY))
        diary.clock.advance(RENEWAL_PAUSE / 24)
    assert len(diary.warnings) == 2
    assert diary.warnings[0].startswith("Route iowa: its certificate expires in 3.2 days. Remedy:")


# --- the story of a request ------------------------------------------------------------------------------

STORY: tuple[Event, ...] = (
    ExchangeStarted(
        7,
        "/chat/completions",
        "llama",
        True,
        (
            Candidate(IOWA, 0.077, "closed", "incumbent"),
            Candidate(TOKYO, 0.115, "closed", "next"),
            Candidate(GLOBAL, None, "closed", "fallback"),
        ),
        "incumbent",
    ),
    AttemptStarted(7, 1, IOWA, "POST", f"{IOWA.url}/chat/completions", "incumbent", []),
    AttemptOverdue(7, 1, IOWA, 0.5),
    VerificationStarted(1, IOWA, f"{IOWA.url}/models", [], (7,)),
    ProbeEnded(IOWA, None, "read_timeout", fresh=True, detail="read_timeout", verification=1, exchanges=(7,)),
    AttemptStarted(7, 2, TOKYO, "POST", f"{TOKYO.url}/chat/completions", "rescue", []),
    AttemptEnded(
        7,
        1,
        IOWA,
        None,
        Failure.SILENCE,
        "no answer came",
        duration=1.2,
        reused=True,
        departed=0.0,
        first_byte=None,
        first_content=None,
        stream="superseded",
        size=0,
        chunks=0,
        headers=(),
    ),
    AttemptEnded(
        7,
        2,
        TOKYO,
        200,
        None,
        "",
        duration=0.4,
        reused=True,
        departed=0.0,
        first_byte=0.1,
        first_content=0.12,
        stream="complete",
        size=100,
        chunks=5,
        headers=(),
    ),
    ExchangeEnded(7, "answered", TOKYO, 2, False, 1.5),
)


def test_debug_tells_the_story_of_a_request(diary: Diary, debug: None) -> None:
    diary.tell(*STORY)
    assert [record.getMessage() for record in diary.records] == [
        (
            f"Exchange 7: /chat/completions, model llama: {Candidate(IOWA, 0.077, 'closed', 'incumbent')}; "
            f"{Candidate(TOKYO, 0.115, 'closed', 'next')}; {Candidate(GLOBAL, None, 'closed', 'fallback')}"
        ),
        "Exchange 7: attempt 1 to iowa (incumbent)",
        "Exchange 7: attempt 1 to iowa is overdue after 500.0 ms",
        "Route iowa is verified, on a fresh connection",
        "Route iowa: verification: read_timeout",
        "Exchange 7: attempt 2 to tokyo (rescue)",
        "Exchange 7: attempt 1 to iowa: no answer came, superseded after 1.20 s",
        (
            "Exchange 7: attempt 2 to tokyo: status 200, first byte after 100.0 ms, first content after 120.0 ms, "
            "complete after 400.0 ms"
        ),
        "Exchange 7: answered, the answer is tokyo's, in 1.50 s, attempts: 2",
    ]
    assert vars(diary.records[-1])["smartroute.endpoint.name"] == "tokyo"
    assert vars(diary.records[-1])["smartroute.outcome"] == "answered"


def test_the_story_tells_of_those_that_something_is_wrong_with(diary: Diary, debug: None) -> None:
    well = [Candidate(TOKYO, 0.1, "closed", "next")] * 4
    sick = Candidate(IOWA, None, "open", "last_resort", note="for 12 s (connect: Connection refused)")
    diary.tell(ExchangeStarted(1, "/embeddings", None, False, (*well, sick), "best"))
    line = diary.records[0].getMessage()
    assert "iowa: last_resort, open for 12 s (connect: Connection refused)" in line
    assert line.endswith("; 2 more")


def test_many_candidates_are_not_all_told(diary: Diary, debug: None) -> None:
    candidates = tuple(Candidate(IOWA, 0.077, "closed", "next") for _ in range(100))
    diary.tell(ExchangeStarted(1, "/embeddings", None, False, candidates, "best"))
    assert diary.records[0].getMessage().endswith("; 97 more")


def test_without_debug_the_story_is_not_told_and_not_asked_for(diary: Diary) -> None:
    assert not diary.log.active
    diary.tell(*STORY, PassedThrough("/embeddings", "no route serves its model"))
    assert diary.records == []


def test_with_debug_it_is_asked_for(diary: Diary, debug: None) -> None:
    assert diary.log.active
    diary.tell(PassedThrough("/embeddings", "no route serves its model"))
    assert [record.getMessage() for record in diary.records] == [
        "A request to /embeddings is not routed: no route serves its model"
    ]


def test_info_tells_what_changed(diary: Diary, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "smartroute"):
        diary.tell(opened(IOWA), IncumbentChanged(IOWA, TOKYO))
    opening, moving = diary.records
    assert opening.getMessage() == "Route iowa: closed -> open (connect: Connection refused)"
    assert vars(opening)["smartroute.breaker.after"] == "open"
    assert moving.getMessage() == "Requests go to route tokyo by default (before: iowa)."


WARNED: tuple[Event, ...] = (
    opened(IOWA),
    opened(TOKYO),
    closed(IOWA),
    ConnectivityChanged(online=False),
    ConnectivityChanged(online=True),
    Quarantined(TOKYO, 401, None, 300.0, 1),
    Quarantined(IOWA, 404, "llama", 300.0, None),
    KeyRefused(IOWA, 1, 2),
    CertificateRefused(IOWA, "certificate: certificate has expired"),
    CertificateRefused(TOKYO, UNKNOWN, ours=True),
    CertificateExpiring(IOWA, 3.25 * DAY),
    IncumbentChanged(IOWA, TOKYO),
    Cooled(IOWA, 429, 5.0, 7),
    PassedThrough("/embeddings", "no route serves its model"),
    ProbeEnded(IOWA, 0.02, None),
)
"""One of each kind, with the story above."""
