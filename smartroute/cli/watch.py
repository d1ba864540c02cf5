"""`smartroute watch`: the routes as a router with its probes sees them, until Ctrl-C."""

import contextlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from smartroute.cli.check import model_for
from smartroute.cli.options import ConfigFile, NoColor, need_routes, read_config, warn_of_unknown
from smartroute.cli.output import Screen, milliseconds, orderly_end, table_of
from smartroute.config import Config
from smartroute.errors import NoRouteError
from smartroute.events import (
    BreakerChanged,
    CertificateExpiring,
    ConnectivityChanged,
    Event,
    ProbeEnded,
)
from smartroute.policy.known import TYPICAL_SIZE
from smartroute.policy.messages import Call
from smartroute.route import RouteStatus
from smartroute.router import Router

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["Change", "Watcher", "watch"]

ANSWERED = "answered"
KEY_REFUSED = "key refused"
DAY = 86_400.0
TICK = 0.25
"""Seconds between two looks at what is known."""
PATIENCE = 2.0
"""Seconds for which the first answers of all routes are waited for, before it is said where requests go."""
IMAGINED = 1.0
"""Seconds between two requests that are imagined and not sent, so that the router goes on choosing and probing."""
GAP = 2
"""Columns between two cells."""
MOST_REMEMBERED = 200
"""Changes that are kept for the screen."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something changed.

    Attributes:
        at: when, as a Unix timestamp.
        what: `state` (of a route's breaker), `answer` (to its probes), `preferred` (where requests go), `certificate`
            or `connectivity` (of this machine).
        route: its name; None where it is no route's.
        before: what it was; None: nothing was known. `after`: what it is.
        cause: why, in words, if that is known.
    """

    at: float
    what: str
    route: str | None
    before: str | None
    after: str
    cause: str = ""

    def __str__(self) -> str:
        when = datetime.fromtimestamp(self.at).astimezone().strftime("%H:%M:%S")
        cause = f" ({self.cause})" if self.cause else ""
        match self.what:
            case "preferred":
                told = f"requests go to {self.after}" + (f", no longer to {self.before}" if self.before else "")
            case "connectivity":
                told = "an endpoint can be reached again" if self.after == "online" else "no endpoint can be reached"
            case "answer":
                told = f"{self.route}: probes: {self.after}" + (f" (before: {self.before})" if self.before else "")
            case _:
                told = f"{self.route}: {self.before} -> {self.after}" if self.before else f"{self.route}: {self.after}"
        return f"{when} {told}{cause}"

    def json(self) -> str:
        """The same for a program, in a line."""
        at = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds")
        return json.dumps(
            {
                "at": at,
                "change": self.what,
                "route": self.route,
                "before": self.before,
                "after": self.after,
                "cause": self.cause or None,
            }
        )


@dataclass(slots=True)
class Watcher:
    """Listens to a router, and says what changed.

    Args:
        changed: called with each change, in whatever thread it happened.
        wall: the time of day as a Unix timestamp.

    Attributes:
        answers: what the last probe of each route was answered, in words.
        expiring: the routes whose certificates are about to expire.
        preferred: where the next request would go.
    """

    changed: Callable[[Change], object]
    wall: Callable[[], float] = time.time
    answers: dict[str, str] = field(default_factory=dict[str, str])
    expiring: set[str] = field(default_factory=set[str])
    preferred: str | None = None
    active = False  # imagined requests are no news
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, event: Event, /) -> None:
        """Take note of an event."""
        match event:
            case BreakerChanged():
                self._tell("state", event.route.name, event.before, event.after, event.cause)
            case ProbeEnded():
                self._probed(event)
            case CertificateExpiring():
                if event.endpoint.name not in self.expiring:
                    self.expiring.add(event.endpoint.name)
                    self._tell("certificate", event.endpoint.name, None, f"expires in {event.seconds / DAY:.0f} days")
            case ConnectivityChanged():
                before, after = ("offline", "online") if event.online else ("online", "offline")
                self._tell("connectivity", None, before, after)
            case _:
                pass  # of the incumbent `goes_to` tells more: trials, open routes and the global endpoint too

    def goes_to(self, name: str | None, reason: str) -> None:
        """The next request would go there."""
        before, self.preferred = self.preferred, name
        if name is not None and before != name:
            self._tell("preferred", name, before, name, reason)

    def _probed(self, event: ProbeEnded) -> None:
        name = event.route.name
        answer = (event.detail or event.failure or ANSWERED).removesuffix(".")
        if event.status in (401, 403):
            answer = f"{KEY_REFUSED} ({event.status})"
        with self._lock:
            before = self.answers.get(name)
            self.answers[name] = answer
        if before != answer:
            cause = milliseconds(event.round_trip) if before is None and event.round_trip is not None else ""
            self._tell("answer", name, before, answer, cause)

    def _tell(self, what: str, route: str | None, before: str | None, after: str, cause: str = "") -> None:
        self.changed(Change(self.wall(), what, route, before, str(after), cause))


def watch(
    *,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Watch for requests of this model; default: the configured one."),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Between probes of a route; default: 2."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", min=0.1, metavar="SECONDS", help="Stop by itself after so long.")
    ] = None,
    config: ConfigFile = None,
    no_color: NoColor = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object per change, one a line.")] = False,
) -> None:
    """Watch the routes live: their state, and where requests would go.

    The library's own router and prober, as in a process that serves requests; none are sent to a model. A route
    that comes back is `half_open` until a real request has been answered, and no request is made here.
    In a terminal a table; in a pipe a line per change.

    \b
    smartroute watch                        until Ctrl-C
    smartroute watch --interval 0.5         a closer look
    smartroute watch --for 60 > watch.txt   the changes of a minute
    smartroute watch --json | jq -c 'select(.change == "state")'

    Exit code: 130 after Ctrl-C; with --for 0 if at the end all routes are healthy, 1 if one is not; 2 for wrong
    usage or configuration.
    """  # noqa: D301 - \b keeps the lines of a paragraph as they are
    environ = os.environ | {"SMARTROUTE_PROBE_INTERVAL": f"{interval or 2.0}"}
    given = read_config(config, environ)
    need_routes(given)
    warn_of_unknown()
    screen = Screen(no_color=no_color, quiet=as_json)
    with orderly_end():
        if screen.is_terminal and not as_json:
            well = _live(given, screen, model, seconds)
        else:
            well = _lines(given, screen, model, seconds, as_json=as_json)
    raise typer.Exit(not well)


@contextlib.contextmanager
def watching(config: Config, watcher: Watcher) -> Generator[Router]:
    """A router that is probed as by a client of the library."""
    from smartroute.cli.measure import family  # noqa: PLC0415 - see `options`
    from smartroute.probe import SyncProber  # noqa: PLC0415
    from smartroute.transport.sync_driver import SyncDriver  # noqa: PLC0415

    router = Router(config)
    router.subscribe(watcher)
    driver = SyncDriver(family(), router, {})
    prober = SyncProber(router, driver.probe, SimpleQueue())
    try:
        _imagine(router, None)
        prober.wake()
        yield router
    finally:
        prober.close()
        driver.close()
        router.close()


def _imagine(router: Router, model: str | None) -> None:
    """Let the router choose for a request that is not sent: so it keeps probing, and its choice is as steady."""
    call = Call("", model, streaming=False, size=TYPICAL_SIZE)  # to no path: one that every route serves
    with contextlib.suppress(NoRouteError):
        exchange = router.begin(call)
        if exchange is not None:
            router.finish(exchange, "cancelled")


def _follow(router: Router, watcher: Watcher, model: str | None, seconds: float | None) -> Generator[None]:
    """A step every `TICK`, for so many seconds, and one at the end."""
    imagined, began = 0.0, time.monotonic()
    all_by, until = began + PATIENCE, inf if seconds is None else began + seconds
    used = [route for route in router.config.routes if router.config.allows(route.region)]
    while True:
        now = time.monotonic()
        if now - imagined >= IMAGINED:
            imagined = now
            _imagine(router, model)
        if len(watcher.answers) == len(used) or (watcher.answers and now >= all_by):
            _heed_refusals(router, watcher)
            first = next(iter(router.rank(model=model)), None)
            watcher.goes_to(first.route.name if first else None, first.reason if first else "")
        yield
        if now >= until:
            return
        time.sleep(min(TICK, until - now))


def _heed_refusals(router: Router, watcher: Watcher) -> None:
    """A route whose key is refused gets no requests, as where the router finds that out by one."""
    drained = {status.name for status in router.status() if status.drained}
    for name, answer in tuple(watcher.answers.items()):
        refused = answer.startswith(KEY_REFUSED)
        if refused and name not in drained:
            router.drain(name)
        elif not refused and name in drained:
            router.resume(name)


def _asked(config: Config, model: str | None) -> str | None:
    return model or next((name for route in config.routes if (name := model_for(route, config, None))), None)


def _well(router: Router, watcher: Watcher) -> bool:
    """Whether all routes that may be used are healthy now."""
    used = [status for status in router.status() if router.config.allows(status.region)]
    return all(status.state == "closed" and watcher.answers.get(status.name) == ANSWERED for status in used)


def _lines(config: Config, screen: Screen, model: str | None, seconds: float | None, *, as_json: bool) -> bool:
    """A line for each change."""
    changes: SimpleQueue[Change] = SimpleQueue()
    watcher = Watcher(changes.put)
    asked = _asked(config, model)
    with watching(config, watcher) as router:
        for _ in _follow(router, watcher, asked, seconds):
            while not changes.empty():
                change = changes.get()
                if as_json:
                    print(change.json(), flush=True)
                else:
                    screen.line(str(change))
                    screen.console.file.flush()
        return _well(router, watcher)


def _live(config: Config, screen: Screen, model: str | None, seconds: float | None) -> bool:
    """A table that stays in its place, on a screen of its own; what it showed last remains."""
    from rich.live import Live  # noqa: PLC0415 - see `options`

    changes: deque[Change] = deque(maxlen=MOST_REMEMBERED)
    watcher = Watcher(changes.append)
    asked = _asked(config, model)
    with watching(config, watcher) as router:
        try:
            with Live(console=screen.console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
                for _ in _follow(router, watcher, asked, seconds):
                    height = max(screen.console.height - len(config.routes) - 5, 0)
                    live.update(
                        _view(router, watcher, tuple(changes.copy()), height, screen.console.width), refresh=True
                    )
        finally:
            screen.console.print(_view(router, watcher, tuple(changes.copy()), 10, screen.console.width))
        return _well(router, watcher)


def _view(router: Router, watcher: Watcher, changes: Sequence[Change], most: int, width: int) -> "Group":
    """The routes in the order of the configuration, and the latest changes below."""
    from rich.console import Group  # noqa: PLC0415 - see `options`
    from rich.text import Text  # noqa: PLC0415

    columns = ("", "route", "region", "state", "since", "round trip", "last probe")
    rows = [_row(status, watcher) for status in router.status()]
    room = width - sum(max(len(row[n]) for row in (columns, *rows)) + GAP for n in range(len(columns) - 1))
    table = table_of(
        columns, [(*row[:-1], _cut(row[-1], max(room, 10))) for row in rows], right=("since", "round trip")
    )
    lines = [Text(str(change), "dim", no_wrap=True, overflow="ellipsis") for change in changes[::-1][:most]]
    title = Text(f"smartroute watch: probes every {router.config.probe_interval:g} s, Ctrl-C ends it", "bold")
    preferred = Text(f"requests go to: {watcher.preferred or '-'}")
    return Group(title, table, preferred, *([Text()] if lines else []), *lines)


def _row(status: RouteStatus, watcher: Watcher) -> tuple[str, ...]:
    return (
        ">" if status.name == watcher.preferred else "",
        status.name,
        status.region or "",
        KEY_REFUSED if status.drained else str(status.state) + (" (suspect)" if status.suspect else ""),
        f"{status.since:.0f} s",
        milliseconds(status.round_trip),
        watcher.answers.get(status.name, "-"),
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
