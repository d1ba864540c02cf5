"""How much is sent when much is broken, what the SDK's own retries make of it, and what the caller is told."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from typing import Any

import openai
import pytest

from smartroute.events import Event, PassedThrough
from smartroute.testing import Fault, Region, Reset, Silence, Status
from tests.transport.kit import CHAT, STREAM, Caller, World, measure, posts

REFUSED = "refused"
SOON = {"retry-after-ms": "1"}
"""Nobody waits half a second for the SDK's retries."""


def afflict(region: Region, fault: Fault | str) -> None:
    if isinstance(fault, str):
        region.stop()
    else:
        region.set(fault)


def url_of(region: Region) -> str:
    return f"{region.url}/chat/completions"


def all_posts(world: World) -> int:
    return sum(map(posts, world.all))


def spend(client: Any) -> None:
    """The budget is empty, and no request or second pays in."""
    budget = client.router._replays
    budget.tokens = budget.per_request = budget.per_second = 0.0


def failure(caller: Caller, sdk: Any, **options: Any) -> Exception:
    """What the SDK raises."""
    with pytest.raises(openai.OpenAIError) as caught:
        caller.do(sdk.chat.completions.create, **{**CHAT, **options})
    return caught.value


# --- A full outage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    "fault",
    [
        REFUSED,
        Reset(),
        Status(429, {"retry-after": "60"}),
        *(Status(code) for code in (401, 402, 404, 408, 500, 502, 503, 529)),
    ],
    ids=lambda fault: str(getattr(fault, "status", None) or getattr(fault, "at", fault)),
)
def test_a_full_outage_is_fed_little(caller: Caller, world: World, fault: Fault | str, stream: bool) -> None:
    """At most four attempts of a call, and when the budget has run dry 1.2 of each."""
    client = measure(caller.client(world.config()))
    for known in client.router._known.values():
        known.breaker._backoff = 60.0  # no trial while this test lasts
    for region in world.all:
        afflict(region, fault)
    sdk = caller.sdk(client, world.globe.url)
    attempts: list[int] = []
    began = time.monotonic()
    for _ in range(40):
        before = all_posts(world)
        failure(caller, sdk, stream=stream)
        attempts.append(all_posts(world) - before)
    seconds = time.monotonic() - began
    assert max(attempts) <= 4
    assert sum(attempts[20:]) <= 20 * 1.2 + seconds / 10 + 1


def test_a_mixed_outage_is_the_last_real_answer_within_the_deadline(caller: Caller, world: World) -> None:
    """What a route did say tells more than the time that ran out."""
    client = measure(caller.client(world.config(deadline=0.8)))
    world.near.stop()
    world.far.set(Status(429, {"retry-after": "7"}))
    world.globe.set(Silence())
    began = time.monotonic()
    error = failure(caller, caller.sdk(client, world.globe.url, timeout=60), stream=True)
    assert time.monotonic() - began < 20
    assert isinstance(error, openai.RateLimitError)
    assert error.response.headers["retry-after"] == "7"
    assert (posts(world.far), posts(world.globe)) == (1, 1)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_silent_outage_ends_with_the_deadline(caller: Caller, world: World, stream: bool) -> None:
    """Global had its part of it."""
    for region in world.all:
        region.set(Silence())
    client = measure(caller.client(world.config(deadline=0.8)))
    began = time.monotonic()
    error = failure(caller, caller.sdk(client, world.globe.url, timeout=60), stream=stream)
    assert 0.7 < time.monotonic() - began < 20
    assert isinstance(error, openai.APITimeoutError)
    assert posts(world.globe) == 1
    assert [status.in_flight for status in client.router.status()] == [0, 0]


@pytest.mark.parametrize(
    "fault",
    [REFUSED, Reset(), *(Status(code, SOON) for code in (400, 401, 403, 404, 409, 429, 500, 503))],
    ids=lambda fault: str(getattr(fault, "status", None) or getattr(fault, "at", fault)),
)
def test_an_outage_looks_as_it_does_to_the_plain_sdk(caller: Caller, world: World, fault: Fault | str) -> None:
    """With its own retries on: the same class of exception, the same status, and no endpoint is asked more often."""
    for region in world.all:
        afflict(region, fault)
    plain = caller.sdk(caller.plain(), world.globe.url).with_options(max_retries=1)
    expected = failure(caller, plain)
    asked = posts(world.globe)
    smart = caller.sdk(measure(caller.client(world.config())), world.globe.url).with_options(max_retries=1)
    found = failure(caller, smart)
    assert type(found) is type(expected)
    assert getattr(found, "status_code", None) == getattr(expected, "status_code", None)
    assert posts(world.globe) - asked <= asked
    assert max(posts(world.near), posts(world.far)) <= asked


# --- One owner of retries --------------------------------------------------------------------------------


def test_the_sdks_retries_of_what_global_said_go_on(caller: Caller, world: World) -> None:
    """Every route is down for long, the budget is empty, and global sheds load: the SDK copes with that alone too."""
    client = measure(caller.client(world.config()))
    spend(client)
    for region in (world.near, world.far):
        region.set(Status(503))
    world.globe.set(Status(503, SOON, every=2))
    sdk = caller.sdk(client, world.globe.url).with_options(max_retries=2)
    assert [caller.do(sdk.chat.completions.create, **CHAT).system_fingerprint for _ in range(6)] == ["globe"] * 6


@pytest.mark.parametrize("tokens", [0.0, 10.0], ids=["no tokens", "tokens"])
def test_a_retry_of_the_sdk_ends_at_global(caller: Caller, world: World, tokens: float) -> None:
    client = measure(caller.client(world.config()))
    spend(client)
    client.router._replays.tokens = tokens
    for region in (world.near, world.far):
        region.set(Status(429))
    headers = {"authorization": "Bearer fake-console-key", "x-stainless-retry-count": "1"}
    response = caller.do(client.post, url_of(world.globe), json=CHAT, headers=headers)
    assert (response.status_code, response.headers["x-smartroute-route"]) == (200, "global")
    assert (posts(world.near), posts(world.far), posts(world.globe)) == (1, 0, 1)


@pytest.mark.parametrize("status", [502, 503])
def test_where_the_budget_is_empty_the_sdk_does_not_retry(caller: Caller, world: World, status: int) -> None:
    """There is nobody but routes: waiting half a second would not help."""
    client = measure(caller.client(world.config(global_url=None)))
    spend(client)
    for region in (world.near, world.far):
        region.set(Status(status))
    sdk = caller.sdk(client, world.near.url, "fake-near-key").with_options(max_retries=2)
    headers = {"x-stainless-retry-count": "1"}
    error = failure(caller, sdk, extra_headers=headers)
    assert isinstance(error, openai.InternalServerError)
    assert error.response.headers["x-should-retry"] == "false"
    assert (posts(world.near), posts(world.far)) == (1, 0)


def test_who_asks_to_wait_is_waited_for(caller: Caller, world: World) -> None:
    client = measure(caller.client(world.config(global_url=None)))
    spend(client)
    for region in (world.near, world.far):
        region.set(Status(429, SOON, times=2))
    sdk = caller.sdk(client, world.near.url, "fake-near-key").with_options(max_retries=5)
    assert caller.do(sdk.chat.completions.create, **CHAT).system_fingerprint in ("near", "far")


# --- Cooldowns -------------------------------------------------------------------------------------------


def in_half_a_minute() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)


SCALING = {"error": {"code": "DEPLOYMENT_SCALING_UP", "message": "no replica is ready"}}


@pytest.mark.parametrize(
    ("status", "headers", "body", "wait"),
    [
        (429, dict, None, 1.0),
        (429, lambda: {"retry-after": "7"}, None, 7.0),
        (429, lambda: {"retry-after": "7.25"}, None, 7.25),
        (429, lambda: {"retry-after": "3600"}, None, 60.0),
        (429, lambda: {"retry-after": "7", "retry-after-ms": "2500"}, None, 2.5),
        (429, lambda: {"retry-after": in_half_a_minute()}, None, 30.0),
        (429, lambda: {"retry-after": "soon"}, None, 1.0),
        (503, lambda: {"retry-after": "7"}, None, 7.0),
        (503, dict, SCALING, 60.0),
        (503, lambda: {"retry-after": "9"}, SCALING, 9.0),
    ],
    ids=["nothing", "seconds", "decimals", "an hour", "ms", "date", "nonsense", "503", "scaling", "scaling, seconds"],
)
def test_a_route_is_left_alone_as_long_as_it_asks(
    caller: Caller, world: World, status: int, headers: Callable[[], dict[str, str]], body: Any, wait: float
) -> None:
    world.near.set(Status(status, headers(), body, times=1))
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    clock = client.router.clock
    began = clock()
    assert caller.ask(sdk).route == "far"
    asked = client.router._known["near"].cooldown_until
    rounded = 1.0 if "GMT" in str(headers()) else 0.0  # a date has whole seconds
    assert began + wait - rounded <= asked <= clock() + wait
    client.router._known["near"].cooldown_until = clock() + 60.0
    client.router._selector.changed()
    assert [caller.ask(sdk).route for _ in range(3)] == ["far"] * 3
    assert posts(world.near) == 1


# --- Keys, models, accounts ------------------------------------------------------------------------------


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "smartroute" and r.levelno >= logging.WARNING]


def test_keys_are_tried_in_turn_and_the_good_one_is_remembered(
    caller: Caller, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    keys = ["fake-old-key", "fake-older-key", "fake-near-key"]
    config = world.config(routes=[world.route(world.near, api_key=keys), world.route(world.far)])
    sdk = caller.sdk(measure(caller.client(config)), world.globe.url)
    assert [(reply.route, reply.attempts) for reply in (caller.ask(sdk) for _ in range(3))] == [
        ("near", "3"),
        ("near", "1"),
        ("near", "1"),
    ]
    assert [seen.header("authorization") for seen in world.near.requests] == [
        f"Bearer {key}" for key in (*keys, keys[2], keys[2])
    ]
    (said,) = warnings(caplog)
    assert "near: key 1 of 3 was refused; key 3 is accepted" in said
    world.near.api_keys = [keys[0]]  # rotated: the last comes round to the first
    assert [caller.ask(sdk).attempts for _ in range(2)] == ["2", "1"]
    assert len(warnings(caplog)) == 2
    assert "fake-" not in "".join(warnings(caplog))


@pytest.mark.parametrize("status", [401, 403])
def test_a_quarantine_is_said_once_for_each_episode(
    caller: Caller, world: World, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    world.near.set(Status(status))
    client = measure(caller.client(world.config()))
    sdk = caller.sdk(client, world.globe.url)
    for episode in (1, 2):
        assert [caller.ask(sdk).route for _ in range(4)] == ["far"] * 4
        assert (posts(world.near), len(warnings(caplog))) == (episode, episode)
        assert "Remedy: set the route's own key in SMARTROUTE_API_KEY_NEAR" in warnings(caplog)[-1]
        client.router.resume("near")


def test_a_model_that_is_not_found_is_avoided_there_and_no_other(
    caller: Caller, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.near.models = ["m"]
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    assert [caller.ask(sdk, model="other").route for _ in range(3)] == ["far"] * 3
    assert [caller.ask(sdk).route for _ in range(3)] == ["near"] * 3
    assert posts(world.near) == 4
    (said,) = warnings(caplog)
    assert "near: model not found" in said


@pytest.mark.parametrize("mistake", ["keys", "model"])
def test_routes_that_are_all_mistaken_keep_nobody_from_global(
    caller: Caller, world: World, caplog: pytest.LogCaptureFixture, mistake: str
) -> None:
    """A mistyped SMARTROUTE_MODEL, or keys that were never valid: loud, and no failed call."""
    for region in (world.near, world.far):
        if mistake == "keys":
            region.api_keys = ["fake-another-key"]
        else:
            region.models = ["another"]
    sdk = caller.sdk(measure(caller.client(world.config())), world.globe.url)
    assert [caller.ask(sdk).route for _ in range(5)] == ["global"] * 5
    assert (posts(world.near), posts(world.far)) == (1, 1)
    assert sorted(said.partition(":")[0] for said in warnings(caplog)) == ["Route far", "Route near"]


@pytest.mark.parametrize("status", [402, 412])
@pytest.mark.parametrize("shared", [False, True], ids=["own keys", "one key"])
def test_an_account_problem_goes_to_another_account(caller: Caller, world: World, status: int, shared: bool) -> None:
    world.near.set(Status(status))
    world.far.api_keys = ["fake-near-key"] if shared else ["fake-far-key"]
    far = world.route(world.far, api_key="fake-near-key") if shared else world.route(world.far)
    client = measure(caller.client(world.config(routes=[world.route(world.near), far])))
    sdk = caller.sdk(client, world.globe.url)
    assert caller.ask(sdk).route == ("global" if shared else "far")
    assert posts(world.far) == (0 if shared else 1)
    for region in (world.far, world.globe):
        region.set(Status(status))
    error = failure(caller, sdk)
    assert isinstance(error, openai.APIStatusError)
    assert (error.status_code, error.response.headers["x-smartroute-route"]) == (status, "near")
    assert {each.name: each.quarantine for each in client.router.status()}["near"] is None


@pytest.mark.parametrize("larger", [True, False], ids=["a larger model", "the same model"])
def test_a_prompt_that_is_too_long_goes_to_another_model(caller: Caller, world: World, larger: bool) -> None:
    error = {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}
    world.near.set(Status(400, body=error))
    models = {world.near: "m-8k", world.far: "m-128k" if larger else "m-8k", world.globe: "m-8k"}
    routes = [world.route(region, model=models[region]) for region in (world.near, world.far)]
    client = measure(caller.client(world.config(routes=routes)))
    sdk = caller.sdk(client, world.globe.url)
    if larger:
        assert caller.ask(sdk, model="m-8k").route == "far"
        assert [seen.json()["model"] for seen in world.far.requests] == ["m-128k"]
    else:
        told = failure(caller, sdk, model="m-8k")
        assert isinstance(told, openai.BadRequestError)
        assert told.code == "context_length_exceeded"
        assert all_posts(world) == 1
    assert [status.failures for status in client.router.status()] == [0, 0]


# --- Bodies that cannot be sent again --------------------------------------------------------------------

BODY = b'{"model": "m", "messages": []}'


def in_parts(caller: Caller) -> Any:
    async def parts() -> Any:
        yield BODY

    return parts() if caller.is_async else iter([BODY])


@pytest.mark.parametrize(
    "body",
    [
        lambda caller: {"content": in_parts(caller)},
        lambda caller: {"files": {"file": ("name", BytesIO(BODY))}, "data": {"model": "m"}},
        lambda caller: {"files": {"file": BODY}},
    ],
    ids=["generator", "file", "multipart"],
)
def test_a_body_that_cannot_be_sent_again_is_sent_once(
    caller: Caller, world: World, body: Callable[[Caller], dict[str, Any]]
) -> None:
    for region in world.all:
        region.set(Status(503))
    client = measure(caller.client(world.config()))
    heard: list[Event] = []
    client.router.subscribe(heard.append)
    headers = {"authorization": "Bearer fake-console-key"}
    response = caller.do(client.post, url_of(world.globe), headers=headers, **body(caller))
    assert response.status_code == 503
    assert heard == [PassedThrough("/chat/completions", "its body cannot be sent again")]
    assert (posts(world.near), posts(world.far), posts(world.globe)) == (0, 0, 1)


def test_a_request_is_sent_again_byte_for_byte(caller: Caller, world: World) -> None:
    """Whatever the first route had read of it."""
    world.near.set(Reset(at="request"))
    client = measure(caller.client(world.config()))
    big = {**STREAM, "messages": [{"role": "user", "content": "words " * 200_000}]}
    response = caller.do(client.post, url_of(world.globe), json=big)
    assert response.headers["x-smartroute-route"] == "far"
    assert [seen.json() for seen in world.far.requests] == [big]
