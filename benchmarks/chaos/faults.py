"""The faults to survive, and what has to come of each."""

from collections.abc import Callable, Sequence
from functools import partial

import openai

from benchmarks.chaos import plays
from benchmarks.chaos.clients import Call
from benchmarks.chaos.stage import Case, Figure, Outcome, Stage
from benchmarks.chaos.world import World, port_of
from smartroute.testing import (
    Cut,
    Drip,
    EmptyStream,
    EndWithoutDone,
    ErrorEvent,
    Fault,
    GarbledEvent,
    Reset,
    Silence,
    Slow,
    Stall,
    Status,
    TruncatedEvent,
)

__all__ = ["CASES"]

HOST = "best.example"
"""A name for the best region, for the faults of resolvers."""
WAITS = {"best": "9", "second": "7", "third": "5", "global": "8"}
"""Seconds that each endpoint asks to wait for when all are saturated."""
SCALING_UP = {"error": {"message": "The deployment is scaling up.", "code": "DEPLOYMENT_SCALING_UP"}}
HTML = Status(200, {"content-type": "text/html"}, b"<html>Please log in.</html>")
BUSY = {"message": "busy", "type": "rate_limit_error"}

CONNECT = Figure("a connection to the second + 5 ms", 0.005, connects=1)
ROUND_TRIP = Figure("the first's round trip + 5 ms", 0.005, trips=1)
TWICE = Figure("twice the first's round trip + 5 ms", 0.005, trips=2)
"""A kept connection that ends without an answer may have been stale: the same region is asked once more."""
SYN = Figure("500 ms", 0.500)
SILENCE = Figure("3 s", 3.0)
NOTHING = Figure("nothing (5 ms)", 0.005)

Strike = Callable[[World], object]


def on_best(*faults: Fault) -> Strike:
    """The best region does this wrong from now on."""
    return lambda world: world.best.set(*faults)


def on_all(*faults: Fault) -> Strike:
    """All endpoints do."""
    return lambda world: world.set_all(*faults)


def on_two(*faults: Fault) -> Strike:
    """The best two regions do."""

    def strike(world: World) -> None:
        world.best.set(*faults)
        world.second.set(*faults)

    return strike


def afresh(*faults: Fault) -> Strike:
    """The best region does this wrong, and no connection is left from before."""

    def strike(world: World) -> None:
        world.best.set(*faults)
        world.best.disconnect()

    return strike


def usurp(certificate: str) -> Strike:
    """The best region's address answers with such a certificate."""
    return lambda world: world.usurp_best(certificate)


def redirect(status: int) -> Strike:
    """The best region sends its callers elsewhere."""
    return lambda world: world.best.set(Status(status, {"location": f"{world.elsewhere.url}/chat/completions"}))


def stop(*names: str) -> Strike:
    """These endpoints refuse connections."""

    def strike(world: World) -> None:
        for region in world.endpoints:
            if region.name in names:
                region.stop()

    return strike


def wrong_key(world: World) -> None:
    world.best.api_keys = ["fake-renewed-key"]


def wrong_keys(world: World) -> None:
    for region in world.endpoints:
        region.api_keys = ["fake-renewed-key"]


def no_model(world: World) -> None:
    world.best.models = ["another"]


def no_models(world: World) -> None:
    for region in world.endpoints:
        region.models = ["another"]


def saturated(world: World) -> None:
    for region in world.endpoints:
        region.set(Status(429, {"retry-after": WAITS[region.name]}))


def vanish(world: World) -> None:
    assert world.network is not None
    world.network.drop(port_of(world.best))


def die_unnoticed(world: World) -> None:
    assert world.network is not None
    world.network.kill_connections(port_of(world.best))


def unresolved(world: World) -> None:
    assert world.network is not None
    world.network.names[HOST] = "nxdomain"
    world.best.disconnect()


def unresolving(world: World) -> None:
    assert world.network is not None
    world.network.names[HOST] = "hang"
    world.best.disconnect()


def smallest_wait(_: Stage, calls: Sequence[Call]) -> list[str]:
    """Whether the callers were told the shortest time that any endpoint asks for."""
    waits = {
        call.error.response.headers.get("retry-after")
        for call in calls[:1]  # later ones may not ask those that they know to be saturated
        if isinstance(call.error, openai.RateLimitError)
    }
    return [] if waits <= {min(WAITS.values())} else [f"told to wait {waits} seconds"]


def answered_by(*names: str) -> Callable[[Stage, Sequence[Call]], list[str]]:
    """Whether these endpoints alone gave the answers."""

    def check(_: Stage, calls: Sequence[Call]) -> list[str]:
        others = {call.route for call in calls if call.error is None} - set(names)
        return [f"answered by {', '.join(sorted(others))}"] if others else []

    return check


def nobody_blamed(most: int) -> Callable[[Stage, Sequence[Call]], list[str]]:
    """Whether a request that is itself at fault was sent so many times at the most, and no route opened for it."""

    def check(stage: Stage, calls: Sequence[Call]) -> list[str]:
        seen = stage.world.seen()
        sent = max(seen[call.name].total() for call in calls)
        broken = [f"sent {sent} times"] if sent > most else []
        return broken + ([f"{', '.join(sorted(stage.opened))} opened for it"] if stage.opened else [])

    return check


WHOLE, STREAMED = False, True
INTERRUPTED, AS_PLAIN = Outcome.INTERRUPTION, Outcome.AS_PLAIN
_outage = partial(Case, outcome=AS_PLAIN, play=plays.outage, pace=0.1, calls=plays.EMPTYING)
_streaming_silent = partial(Case, strike=on_best(Silence(only="stream")), streamed=STREAMED)
_interrupted = partial(Case, outcome=INTERRUPTED, streamed=STREAMED, again=False)

CASES = {
    case.name: case
    for case in (
        # No connection
        Case("refused", stop("best"), again=False, figure=CONNECT),
        Case("reset before the request", afresh(Reset("accept")), again=False, figure=CONNECT),
        Case("SYN dropped", lambda world: world.best.stop(silently=True), again=False, figure=SYN),
        Case("all packets dropped", vanish, figure=SILENCE, network=True),
        Case("no such name", unresolved, again=False, figure=CONNECT, tls=False, host=HOST, network=True),
        Case("resolver hangs", unresolving, again=False, figure=SYN, tls=False, host=HOST, network=True),
        Case("certificate expired", usurp("expired"), again=False, figure=CONNECT, tls=True),
        Case("certificate of another host", usurp("wrong host"), again=False, figure=CONNECT, tls=True),
        Case("certificate of nobody", usurp("unknown authority"), again=False, figure=CONNECT, tls=True),
        Case("TLS hangs", afresh(Silence("accept")), again=False, figure=SILENCE, tls=True),
        # Pooled connections
        Case("pooled, closed while idle", afresh(), again=False, each=True),
        Case("pooled, reset when reused", on_best(Reset("reuse", times=1)), each=True),
        Case("pooled, dead unnoticed", die_unnoticed, figure=SILENCE, network=True),
        # The request was sent
        Case("reset while it is sent", on_best(Reset("request")), figure=ROUND_TRIP),
        Case("reset before the answer", on_best(Reset()), figure=TWICE),
        Case("closed before the answer", on_best(Cut(-1)), figure=TWICE),
        Case("not read", afresh(Silence("accept")), figure=SILENCE, tls=False),
        Case("accepted, then silent", on_best(Silence()), figure=SILENCE),
        Case("silent after the head", on_best(Stall(0), Silence(only="get")), figure=SILENCE),
        Case("stall before the first token", on_best(Stall(1), Silence(only="get")), figure=SILENCE),
        _streaming_silent("only streaming is silent", known=True, figure=SILENCE),
        _streaming_silent("only streaming is silent, from the start", known=False, figure=SILENCE),
        Case("only streaming is sick", on_best(Status(503, only="stream")), streamed=STREAMED, figure=ROUND_TRIP),
        Case("slow drip", on_best(Drip(0.0005)), calls=2),
        Case("brownout x10", on_best(Slow(10)), calls=12),
        Case("brownout x10, probes fine", on_best(Slow(10, only="post")), calls=12),
        # Answers that are none
        Case("503", on_best(Status(503)), figure=ROUND_TRIP),
        Case("half of the answers 503", on_best(Status(503, times=1), Status(503, skip=1, every=2)), figure=ROUND_TRIP),
        Case("500", on_best(Status(500)), figure=ROUND_TRIP),
        Case("504 in HTML", on_best(Status(504, {}, b"<html>timeout</html>")), figure=ROUND_TRIP),
        Case("429 on one", on_best(Status(429, {"retry-after": "7"})), figure=ROUND_TRIP),
        Case("429 on one, no wait told", on_best(Status(429)), figure=ROUND_TRIP),
        Case("scaled to zero", on_best(Status(503, {}, SCALING_UP)), figure=ROUND_TRIP),
        Case("scaled to zero, wait told", on_best(Status(503, {"retry-after": "60"}, SCALING_UP)), figure=ROUND_TRIP),
        Case("wrong key on one", wrong_key, figure=ROUND_TRIP),
        Case("404 on one", no_model, figure=ROUND_TRIP),
        Case("redirect", redirect(302), figure=ROUND_TRIP),
        Case("redirect that keeps the method", redirect(307), figure=ROUND_TRIP),
        Case("wrong content type", on_best(HTML), figure=ROUND_TRIP),
        # Streams that break before the first content
        Case("error as first event", on_best(ErrorEvent()), streamed=STREAMED, figure=ROUND_TRIP),
        Case("error after the role", on_best(ErrorEvent(1)), streamed=STREAMED, figure=ROUND_TRIP),
        Case("saturation as first event", on_best(ErrorEvent(0, BUSY)), streamed=STREAMED, figure=ROUND_TRIP),
        Case("empty stream", on_best(EmptyStream()), streamed=STREAMED, figure=ROUND_TRIP),
        Case("[DONE] at once", on_best(EmptyStream(done=True)), streamed=STREAMED, figure=ROUND_TRIP),
        Case("first event truncated", on_best(TruncatedEvent()), streamed=STREAMED, figure=ROUND_TRIP),
        Case("first event garbled", on_best(GarbledEvent()), streamed=STREAMED, figure=ROUND_TRIP),
        Case("cut after the role", on_best(Cut(1)), streamed=STREAMED, figure=ROUND_TRIP),
        Case("reset after the role", on_best(Cut(1, reset=True)), streamed=STREAMED, figure=ROUND_TRIP),
        # Bodies that break
        Case("body short", on_best(Cut(1)), streamed=WHOLE, figure=ROUND_TRIP),
        Case("body short, reset", on_best(Cut(1, reset=True)), streamed=WHOLE, figure=ROUND_TRIP),
        Case("no body", on_best(Status(200, {"content-type": "application/json"}, b"")), figure=ROUND_TRIP),
        # Streams that break after the first content
        _interrupted("cut after content", on_best(Cut(3))),
        _interrupted("reset after content", on_best(Cut(3, reset=True))),
        _interrupted("error event after content", on_best(ErrorEvent(3))),
        _interrupted("event truncated after content", on_best(TruncatedEvent(3))),
        _interrupted("end without a finish reason", on_best(EndWithoutDone(finish=False))),
        _interrupted("stall after content", on_best(Stall(3)), patience=1.0, calls=2),
        Case("end without [DONE]", on_best(EndWithoutDone()), streamed=STREAMED, again=False),
        # Several endpoints
        Case("two regions at once", stop("best", "second"), again=False, check=answered_by("third", "global")),
        Case("two regions 503", on_two(Status(503))),
        Case("all routes refused", stop("best", "second", "third"), again=False, check=answered_by("global")),
        Case("global down", stop("global"), again=False, check=answered_by("best", "second", "third"), figure=NOTHING),
        # Errors that are the answer
        Case("poison request, 400", on_all(Status(400)), AS_PLAIN, again=False, check=nobody_blamed(1)),
        Case("poison request, 500", on_all(Status(500)), AS_PLAIN, check=nobody_blamed(2)),
        Case("wrong key on all", wrong_keys, AS_PLAIN, check=nobody_blamed(3)),
        Case("404 on all", no_models, AS_PLAIN, check=nobody_blamed(3)),
        Case("429 on all", saturated, AS_PLAIN, check=smallest_wait),
        _outage("all 503", on_all(Status(503))),
        _outage("all reset", on_all(Reset())),
        _outage("all refused", stop("best", "second", "third", "global"), again=False),
        _outage("all silent", on_all(Silence()), patience=2.5, calls=2),
        # Stories
        Case("everything down and back", stop(), play=plays.back_again),
        Case("flapping", stop(), play=plays.flapping),
        Case("recovery under load", stop(), play=plays.recovery),
        Case("saturation", stop(), play=plays.saturation),
    )
}
