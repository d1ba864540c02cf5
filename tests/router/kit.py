"""What the tests of the router share."""

from collections.abc import Callable
from typing import Any

from smartroute.policy.exchange import Exchange
from smartroute.policy.messages import Attempt, Call, Deliver, Send
from smartroute.policy.schedule import PROBE_LIMIT, Claim, Finding
from smartroute.route import Route, RouteStatus
from smartroute.router import Router
from smartroute.testing import Clock
from smartroute.transport.driver import UNSENT
from tests.policy.driving import STREAM, Flight, Outcome

INTERVAL = 10.0

Make = Callable[..., Router]


class Prober:
    """Something that probes for a client, and sees every probe answered."""


def call(**options: Any) -> Call:
    return STREAM._replace(**options)


def begin(router: Router, **options: Any) -> Exchange:
    exchange = router.begin(call(**options))
    assert exchange is not None
    return exchange


def set_out(exchange: Exchange, now: float) -> Attempt:
    """The first attempt of an exchange that begins now."""
    command = exchange.start(now)
    assert isinstance(command, Send)
    return command.attempt


def send(router: Router, of: Call = STREAM, **script: Outcome) -> list[str]:
    """One request, from its start to its end. Returns the endpoints that were sent it."""
    exchange = router.begin(of)
    assert exchange is not None
    clock = router.clock
    assert isinstance(clock, Clock)
    if "worldwide" in script:
        script["global"] = script.pop("worldwide")
    flight = Flight(exchange, clock, script)
    end = flight.finish()
    router.finish(exchange, "answered" if isinstance(end, Deliver) else "failed")
    return flight.path


def status(router: Router, name: str) -> RouteStatus:
    return next(each for each in router.status() if each.name == name)


def each(router: Router, name: str) -> Route:
    return next(route for route in router.config.routes if route.name == name)


def probe(
    router: Router,
    name: str,
    *,
    failure: str | None = None,
    code: int | None = 200,
    seconds: float = 0.01,
    fresh: bool = False,
    started: float | None = None,
    late: bool = False,
) -> None:
    """A probe of the route is over. `fresh`: it was a verification."""
    found = Finding(
        router.clock() if started is None else started,
        None if failure else code,
        seconds,
        failure,
        unreachable=failure in UNSENT,
        late=late,
    )
    router.probed(Claim(each(router, name), fresh=fresh, limit=PROBE_LIMIT), found)


def names(router: Router, **options: Any) -> list[str]:
    return [candidate.route.name for candidate in router.rank(**options)]


def reasons(router: Router, **options: Any) -> list[str]:
    return [candidate.reason for candidate in router.rank(**options)]
