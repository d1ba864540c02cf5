"""Background probes: they measure, notice a recovery, cost nothing before the first use and end with their client."""

import ssl
import time
import weakref
from typing import Any

import pytest
import trustme

from smartroute.events import BreakerChanged, Event, ProbeEnded
from smartroute.policy.latency import Latency
from smartroute.policy.schedule import PROBE_LIMIT
from smartroute.policy.silence import DEAD_AFTER
from smartroute.testing import Region, Silence, Status
from tests.transport.kit import ASYNC, CHAT, AsyncCaller, Caller, World, eventually, threads


def probes(region: Region) -> int:
    return sum(seen.method == "GET" for seen in region.requests)


def subsides(*regions: Region) -> bool:
    """Whether probes come to an end: what was on its way may still be received."""

    def rests() -> bool:
        before = sum(map(probes, regions))
        eventually(lambda: False, 0.3)
        return sum(map(probes, regions)) == before

    return eventually(rests)


def status_of(client: Any, name: str) -> Any:
    return next(status for status in client.router.status() if status.name == name)


def test_nothing_is_probed_before_the_first_use(caller: Caller, world: World) -> None:
    assert eventually(lambda: not threads())  # of earlier tests
    client = caller.client(world.config(probe_interval=0.1))
    sdk = caller.sdk(client, world.globe.url)
    caller.do(client.get, f"{world.globe.url}/models")  # passes through: no use of a route
    eventually(lambda: False, 0.25)
    assert (world.near.connections, world.far.connections) == (0, 0)
    assert threads() == []
    caller.ask(sdk)
    assert eventually(lambda: probes(world.near) and probes(world.far))


def test_probes_measure_the_round_trip(caller: Caller, world: World) -> None:
    world.near.latency, world.far.latency = 0.03, 0.12
    client = caller.client(world.config(probe_interval=0.2))
    caller.ask(caller.sdk(client, world.globe.url))
    assert eventually(lambda: probes(world.near) > 2 and probes(world.far) > 2)
    assert eventually(lambda: None not in {status.round_trip for status in client.router.status()})

    def measured() -> bool:
        near, far = (status_of(client, name).round_trip for name in ("near", "far"))
        assert near >= 0.029
        assert far >= 0.119
        return bool(near <= 0.1 and far <= 0.25)

    assert eventually(measured)
    assert eventually(lambda: client.router.pick(model="m").name == "near")


def test_a_probe_is_a_small_get_with_the_routes_own_key(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartroute.probe.FIRST_LOOK", 0.5)  # not before the request is answered
    keys = ["fake-revoked-key", "fake-near-key"]
    config = world.config(
        routes=[world.route(world.near, api_key=keys), world.route(world.far)], probe_interval=10, probe_path="/models"
    )
    client = caller.client(config)
    caller.do(
        client.post,
        f"{world.globe.url}/chat/completions",
        json=CHAT,
        headers={"Authorization": "Bearer fake-console-key", "Cookie": "a=b", "x-smartroute-route": "near"},
    )
    assert eventually(lambda: probes(world.near) == 1 and probes(world.far) == 1)
    seen = [each for each in world.near.requests if each.method == "GET"]
    assert [each.header("authorization") for each in seen] == ["Bearer fake-near-key"]  # the one that was accepted
    assert {(each.target, each.body, each.header("cookie")) for each in seen} == {("/v1/models", b"", None)}
    assert seen[0].header("host") == world.near.url.split("/")[2]
    assert probes(world.globe) == 0


def test_probes_end_with_their_client(caller: Caller, world: World) -> None:
    client = caller.client(world.config(probe_interval=0.1))
    caller.ask(caller.sdk(client, world.globe.url))
    assert eventually(lambda: probes(world.near) >= 2)
    caller.close(client)
    assert eventually(lambda: not threads())
    assert subsides(world.near, world.far)
    assert world.near.open_connections == world.far.open_connections == 0


@ASYNC
def test_forgotten_clients_are_collected_and_probe_no_more(caller: AsyncCaller, world: World) -> None:
    """In a loop that goes on; and while a client with the same configuration, and so the same router, does too."""
    config = world.config(probe_interval=0.1)
    kept = caller.client(config)
    url = f"{world.globe.url}/chat/completions"
    assert caller.do(kept.post, url, json=CHAT).status_code == 200
    drivers = []
    for _ in range(5):
        client = caller.smart.AsyncClient(kept.router.config)
        assert caller.do(client.post, url, json=CHAT).status_code == 200
        drivers.append(weakref.ref(client.transport._driver))
        del client
    assert eventually(lambda: caller.forget() and not any(driver() for driver in drivers))
    assert eventually(lambda: world.near.open_connections + world.far.open_connections <= 4)  # of the one that is kept
    caller.close(kept)
    assert subsides(world.near, world.far)


def test_a_hanging_probe_does_not_outlive_its_client(caller: Caller, world: World) -> None:
    world.far.set(Silence(only="get"))
    world.near.set(Silence(only="get"))
    client = caller.client(world.config(probe_interval=0.1))
    caller.ask(caller.sdk(client, world.globe.url))
    assert eventually(lambda: probes(world.near) and probes(world.far))
    began = time.monotonic()
    caller.close(client)
    assert eventually(lambda: not threads())
    assert eventually(lambda: world.near.open_connections == world.far.open_connections == 0)
    assert time.monotonic() - began < 0.8 * PROBE_LIMIT  # nobody waits for it


def test_probes_can_be_turned_off(caller: Caller, world: World) -> None:
    client = caller.client(world.config(probe_interval=0))
    ended: list[ProbeEnded] = []
    client.router.subscribe(lambda event: ended.append(event) if isinstance(event, ProbeEnded) else None)
    sdk = caller.sdk(client, world.globe.url)
    for _ in range(3):
        caller.ask(sdk)
    eventually(lambda: False, 0.1)
    assert eventually(lambda: probes(world.near) + probes(world.far) == len(ended))
    assert [event for event in ended if not event.fresh] == []  # a busy machine may have one verified


def test_a_probe_opens_a_sick_route_before_a_request_does(caller: Caller, world: World) -> None:
    client = caller.client(world.config(probe_interval=0.1))
    sdk = caller.sdk(client, world.globe.url)
    caller.ask(sdk)
    world.near.stop()
    assert eventually(lambda: status_of(client, "near").state == "open")
    reply = caller.ask(sdk)
    assert (reply.route, reply.attempts) == ("far", "1")


def test_a_slow_probe_or_a_refused_key_is_no_illness(caller: Caller, world: World) -> None:
    world.near.set(Status(404, only="get"))
    client = caller.client(world.config(probe_interval=0.1))
    caller.ask(caller.sdk(client, world.globe.url))
    assert eventually(lambda: probes(world.near) >= 5)
    assert status_of(client, "near").state == "closed"


def test_traffic_returns_after_a_recovery(caller: Caller, world: World) -> None:
    """Noticed by probes: no call fails, and none is sacrificed to find out."""
    world.near.latency, world.far.latency = 0.0, 0.05
    client = caller.client(world.config(probe_interval=0.1))
    sdk = caller.sdk(client, world.globe.url)
    assert eventually(lambda: caller.ask(sdk).route == "near")
    world.near.stop()
    assert [caller.ask(sdk, stream=True).route for _ in range(5)] == ["far"] * 5
    assert eventually(lambda: status_of(client, "near").state == "open")
    world.near.start()
    replies = []

    def back() -> bool:
        replies.append(caller.ask(sdk, stream=True))
        return replies[-1].route == "near"

    assert eventually(back)
    assert {reply.attempts for reply in replies} == {"1"}
    assert {reply.route for reply in replies} <= {"far", "near"}
    assert status_of(client, "near").state == "closed"


def test_a_route_that_cannot_be_got_through_to_is_opened_by_its_second_verification(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handshake that hangs until the probe's time is up: no request finds that out."""
    monkeypatch.setattr("smartroute.policy.schedule.PROBE_LIMIT", 0.1)
    monkeypatch.setattr(Latency, "verification_limit", 0.2)
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Region("near", tls=context) as near:
        near.set(Silence(at="accept"))
        client = caller.client(world.config(near, world.far, probe_interval=10), verify=False)
        heard: list[BreakerChanged | ProbeEnded] = []

        def listen(event: Event) -> None:
            if isinstance(event, BreakerChanged | ProbeEnded) and event.route.name == "near":
                heard.append(event)

        client.router.subscribe(listen)
        caller.ask(caller.sdk(client, world.globe.url), extra_headers={"x-smartroute-route": "far"})
        assert eventually(lambda: any(isinstance(event, BreakerChanged) for event in heard))
        assert eventually(lambda: len(heard) >= 2 + DEAD_AFTER)
        probed = [event for event in heard if isinstance(event, ProbeEnded)][: 1 + DEAD_AFTER]
        assert [event.fresh for event in probed] == [False] + [True] * DEAD_AFTER
        assert {event.failure for event in probed} <= {"deadline", "connect_timeout"}
        changed = heard[1 + DEAD_AFTER - 1]
        assert isinstance(changed, BreakerChanged)
        assert (changed.before, changed.after, changed.exchange) == ("closed", "open", None)
        caller.close(client)


def test_a_probe_that_got_through_and_no_answer_has_the_route_verified(
    caller: Caller, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been the connection alone: a fresh one tells."""
    monkeypatch.setattr("smartroute.policy.schedule.PROBE_LIMIT", 0.1)
    monkeypatch.setattr(Latency, "verification_limit", 10.0)
    world.near.set(Silence(only="get", times=1))
    client = caller.client(world.config(probe_interval=10))
    heard: list[Event] = []
    client.router.subscribe(heard.append)
    caller.ask(caller.sdk(client, world.globe.url), extra_headers={"x-smartroute-route": "far"})

    def probed() -> list[tuple[str | None, bool]]:
        ended = [event for event in heard if isinstance(event, ProbeEnded) and event.route.name == "near"]
        return [(event.failure, event.fresh) for event in ended]

    assert eventually(lambda: len(probed()) == 2)
    assert probed() == [("deadline", False), (None, True)]
    assert status_of(client, "near").state == "closed"
    assert not any(isinstance(event, BreakerChanged) for event in heard)
    assert eventually(lambda: world.near.open_connections == 0)  # the connection that gave no answer, and the fresh one
