"""Which route each conversation is on."""

import tracemalloc

import pytest

from smartroute.policy.affinity import MEMORY, MOST, MOST_IN_FLIGHT, Conversations
from smartroute.policy.selection import Standing
from smartroute.testing import Clock
from tests.policy.driving import route


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def conversations(clock: Clock) -> Conversations:
    return Conversations(clock)


HOME = Standing(route("a"))


def settled(conversations: Conversations, key: str = "c") -> None:
    """A conversation with a request that is over."""
    talk = conversations.join("m", key)
    talk.home = HOME
    talk.in_flight -= 1


def test_a_conversation_is_where_it_was_answered(conversations: Conversations) -> None:
    assert conversations.home("m", "c") is None
    settled(conversations)
    assert conversations.home("m", "c") is HOME


def test_another_model_is_another_conversation(conversations: Conversations) -> None:
    settled(conversations)
    assert conversations.home("other", "c") is None
    assert conversations.home(None, "c") is None


def test_it_is_remembered_for_a_while_after_its_last_request(conversations: Conversations, clock: Clock) -> None:
    for _ in range(3):
        settled(conversations)
        clock.advance(MEMORY - 1.0)
        assert conversations.home("m", "c") is HOME
    clock.advance(2.0)
    assert conversations.home("m", "c") is None


def test_looking_is_no_request(conversations: Conversations, clock: Clock) -> None:
    settled(conversations)
    for _ in range(4):
        conversations.home("m", "c")
        clock.advance(MEMORY / 3)
    assert conversations.home("m", "c") is None


def test_a_key_with_many_requests_in_flight_is_no_conversation(conversations: Conversations) -> None:
    settled(conversations)
    talks = []
    for number in range(MOST_IN_FLIGHT):
        assert conversations.home("m", "c") is HOME, number
        talks.append(conversations.join("m", "c"))
    assert conversations.home("m", "c") is None
    talks[0].in_flight -= 1
    assert conversations.home("m", "c") is HOME


def test_its_requests_share_what_is_known(conversations: Conversations) -> None:
    first, second = conversations.join("m", "c"), conversations.join("m", "c")
    assert first is second
    assert first.in_flight == 2


def test_a_conversation_outlives_its_entry(conversations: Conversations, clock: Clock) -> None:
    """A request may take longer than a conversation is remembered."""
    talk = conversations.join("m", "c")
    clock.advance(MEMORY + 1.0)
    assert conversations.join("m", "c") is not talk
    talk.in_flight -= 1
    assert talk.in_flight == 0


def test_the_least_recent_is_forgotten_first(conversations: Conversations) -> None:
    settled(conversations, "first")
    settled(conversations, "second")
    for number in range(MOST - 1):
        settled(conversations, f"c{number}")
        if number == MOST // 2:
            settled(conversations, "second")
    assert conversations.home("m", "first") is None
    assert conversations.home("m", "second") is HOME


def test_in_a_child_process_nothing_is_under_way(conversations: Conversations) -> None:
    for _ in range(MOST_IN_FLIGHT):
        conversations.join("m", "c").home = HOME
    conversations.after_fork()
    assert conversations.home("m", "c") is HOME


def test_names_of_any_length_are_remembered_in_little_memory(conversations: Conversations) -> None:
    """Callers make them up: without a limit ten thousand of them would be any number of gigabytes."""
    long, like_it = "k" * 1_000_000, "k" * 999_999 + "\ud800"
    tracemalloc.start()
    try:
        for number in range(20):
            for key in (long, like_it):
                talk = conversations.join(f"{key}{number}", f"{number}{key}")
                talk.home = HOME
                talk.in_flight -= 1
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    assert conversations.home(f"{long}7", f"7{long}") is HOME
    assert conversations.home(f"{like_it}7", f"8{like_it}") is None
    assert conversations.home(f"{long}", f"{long}7") is None
