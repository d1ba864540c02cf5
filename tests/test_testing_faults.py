"""The test kit's ways to be out of reach, to be full, and to break off in good order."""

import socket
from collections.abc import Iterator

import httpx2
import pytest

from smartroute.testing import Region, Stall, TruncatedEvent
from tests.test_testing import CHAT, STREAM, TEXT, connected, events, eventually, exchange, read, send


@pytest.fixture
def region() -> Iterator[Region]:
    with Region("frankfurt") as region:
        yield region


def connects(region: Region, seconds: float) -> bool:
    """Whether it can be connected to within so many seconds.

    Raises:
        ConnectionRefusedError: it says that it cannot.
    """
    host, port = region.url.split("/")[2].split(":")
    try:
        socket.create_connection((host, int(port)), timeout=seconds).close()
    except TimeoutError:
        return False
    return True


def test_stopped_silently_it_neither_accepts_nor_refuses(region: Region) -> None:
    with connected(region) as before:
        region.stop(silently=True)
        assert read(before) == (b"", "reset")
        assert not connects(region, 0.3)
        assert not connects(region, 0.1)  # however often one tries
        region.stop(silently=True)
        assert not connects(region, 0.1)
        region.start()
        assert connects(region, 2)
        assert b" 200 " in exchange(region)[0]


def test_from_silence_to_refusal(region: Region) -> None:
    region.stop(silently=True)
    region.stop()
    with pytest.raises(ConnectionRefusedError):
        connects(region, 2)


def test_a_region_without_a_port_cannot_be_stopped_silently() -> None:
    with pytest.raises(RuntimeError, match="frankfurt was not started"):
        Region("frankfurt").stop(silently=True)


def test_those_connected_are_reset_and_others_accepted(region: Region) -> None:
    with connected(region) as idle, connected(region) as waiting:
        region.set(Stall(1))
        send(waiting)
        assert waiting.recv(65536)
        region.disconnect()
        assert read(idle) == read(waiting) == (b"", "reset")
    assert region.open_connections == 0
    region.heal()
    assert b" 200 " in exchange(region)[0]
    region.stop()
    region.disconnect()  # of a region that is down nothing is left to be reset


def test_a_full_region_turns_away(region: Region) -> None:
    region.capacity = 2
    region.set(Stall(1))
    with connected(region) as one, connected(region) as two, connected(region) as probe:
        for sock in (one, two):
            send(sock)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
        region.set()  # for those that come now
        assert exchange(region)[0].startswith(b"HTTP/1.1 429 ")
        probe.sendall(b"GET /v1/models HTTP/1.1\r\nHost: h\r\n\r\n")
        assert probe.recv(65536).startswith(b"HTTP/1.1 200 ")
    eventually(lambda: region.open_connections == 0)
    assert exchange(region)[0].startswith(b"HTTP/1.1 200 ")


def test_one_after_the_other_is_not_too_many() -> None:
    with Region("frankfurt", capacity=1) as region, httpx2.Client(trust_env=False) as http:
        url = f"{region.url}/chat/completions"
        assert [http.post(url, json=CHAT).status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_stream_that_breaks_off_in_good_order(region: Region, after: int) -> None:
    whole = events(exchange(region, STREAM)[0])
    region.set(TruncatedEvent(after))
    answer = exchange(region, STREAM)[0]
    assert answer.endswith(b"\r\n0\r\n\r\n")
    told = events(answer)
    assert told[:after] == whole[:after]
    assert len(told) == after + 1
    assert whole[after].startswith(told[after])
    assert 6 < len(told[after]) < len(whole[after])


def test_a_truncated_event_leaves_other_answers_alone(region: Region) -> None:
    region.set(TruncatedEvent())
    assert TEXT.encode() in exchange(region)[0]
    region.set(TruncatedEvent(99))
    assert len(events(exchange(region, STREAM)[0])) == 8
