"""`smartroute probe`: how far the endpoints are, over fresh connections, in the order of the router's choice."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from smartroute.cli.check import endpoints_of, model_for
from smartroute.cli.options import (
    AsJson,
    AskedModel,
    ConfigFile,
    NoColor,
    StepLimit,
    fail,
    need_routes,
    read_config,
    warn_of_unknown,
)
from smartroute.cli.output import Screen, milliseconds, print_json, progress, rounded
from smartroute.config import Config
from smartroute.route import Kind, Route
from smartroute.router import Router

if TYPE_CHECKING:
    from smartroute.cli.live import Completion
    from smartroute.cli.measure import Look

__all__ = ["Probed", "percentile", "probe", "rounds_of"]

SHARES = (0.50, 0.99)
MEASURES = ("connect", "tls", "round_trip", "first_token")


@dataclass(frozen=True, slots=True)
class Probed:
    """What all rounds found of an endpoint.

    Attributes:
        place: where it stands in the router's ranking, from 1; None: it is not asked.
        reason: why it stands there (`Candidate.reason`; `key_refused`; `model`: it does not serve the model).
        state: its breaker's.
        looks: a look for each round; `completions`: likewise, if tokens were asked for.
    """

    route: Route
    place: int | None
    reason: str
    state: str
    looks: "tuple[Look, ...]"
    completions: "tuple[Completion, ...]" = ()

    @property
    def failures(self) -> int:
        """How many rounds brought no good answer."""
        return sum(not look.good for look in self.looks) + sum(not completion.good for completion in self.completions)

    @property
    def last_failure(self) -> str:
        """What the last failure was, in words."""
        for completion in reversed(self.completions):
            if not completion.good:
                return f"completion: {completion.detail or completion.status}"
        return next((look.trouble for look in reversed(self.looks) if not look.good), "")

    def values(self, measure: str) -> list[float]:
        """All that was measured of `connect`, `tls`, `round_trip` (in good answers) or `first_token`, in seconds."""
        if measure == "first_token":
            return [c.first_token for c in self.completions if c.first_token is not None]
        seen = {
            "connect": (look.connect for look in self.looks),
            "tls": (look.tls for look in self.looks),
            "round_trip": (look.round_trip for look in self.looks if look.good),
        }
        return [value for value in seen[measure] if value is not None]


def probe(
    *,
    config: ConfigFile = None,
    rounds: Annotated[int, typer.Option("-n", "--rounds", min=1, max=1000, metavar="ROUNDS", help="How often.")] = 5,
    live: Annotated[
        bool, typer.Option("--live", help="Ask for one token in each round too: time to first token.")
    ] = False,
    model: AskedModel = None,
    limit: StepLimit = 5.0,
    no_color: NoColor = False,
    as_json: AsJson = False,
) -> None:
    """Measure the way to each endpoint, in the order of the router.

    In each round every endpoint gets a fresh connection (TCP, TLS) and an authenticated GET; the router learns
    from them as from its own probes. The table stands in the order in which it would ask.

    \b
    smartroute probe                        five rounds
    smartroute probe -n 50                  steadier percentiles
    smartroute probe --live                 with a one-token completion per round: time to first token
    smartroute probe --json | jq '.endpoints[] | [.name, .round_trip_ms.p50]'

    Exit code: 0 if every round was answered well, 1 if one was not, 2 for wrong usage or configuration,
    130 after Ctrl-C.
    """  # noqa: D301 - \b keeps the lines of a paragraph as they are
    given = read_config(config)
    need_routes(given)
    warn_of_unknown()
    used = [route for route in endpoints_of(given) if given.allows(route.region)]
    if live and not any(model_for(route, given, model) for route in used):
        fail("no model is configured; say which: --live --model NAME")
    with progress("probing", rounds * len(used), no_color=no_color) as step:
        found = rounds_of(given, rounds, live=live, model=model, limit=limit, done=step)
    if as_json:
        print_json({"rounds": rounds, "healthy": not _failures(found), "endpoints": [_as_json(each) for each in found]})
    else:
        _print(Screen(no_color=no_color), found, live=live)
    raise typer.Exit(_failures(found) > 0)


def rounds_of(
    config: Config,
    rounds: int,
    *,
    live: bool = False,
    model: str | None = None,
    limit: float = 5.0,
    done: Callable[[], None] = lambda: None,
) -> tuple[Probed, ...]:
    """Measure all endpoints that may be used, some rounds long. Gives them in the order of the router's choice.

    Args:
        live: ask each of them for one token in each round.
        model: the model to ask for; by default the configured one.
        limit: seconds that each step may take.
        done: called when an endpoint has been measured.
    """
    from smartroute.cli.live import LIVE_LIMIT, Asker, live_path  # noqa: PLC0415 - see `options`
    from smartroute.cli.measure import Meter, in_parallel, why  # noqa: PLC0415

    router = Router(config)
    used = [route for route in endpoints_of(config) if config.allows(route.region)]
    meter = Meter(config, limit=limit)
    asker = Asker(config, router, limit=max(limit, LIVE_LIMIT)) if live else None
    looks: dict[str, list[Look]] = {route.name: [] for route in used}
    completions: dict[str, list[Completion]] = {route.name: [] for route in used}

    def measure(route: Route) -> None:
        look = meter.look(route)
        look.tell(router)
        looks[route.name].append(look)
        name, path = model_for(route, config, model), live_path(route, config)
        askable = name is not None and path is not None and (route.keys or route.kind is not Kind.GLOBAL)
        if asker is not None and askable and look.failure is None:
            completions[route.name].append(asker.ask(route, name or "", path or ""))

    try:
        for _ in range(rounds):
            in_parallel(measure, used, done)
        ranking = router.rank(model=model or next((name for r in used if (name := model_for(r, config, None))), None))
    finally:
        if asker is not None:
            asker.close()
        router.close()
    places = {candidate.route.name: (place, candidate) for place, candidate in enumerate(ranking, 1)}
    probed: list[Probed] = []
    for route in used:
        place, candidate = places.get(route.name, (None, None))
        reason, state = (why(candidate), candidate.state) if candidate else ("model", "")
        probed.append(
            Probed(route, place, reason, str(state), tuple(looks[route.name]), tuple(completions[route.name]))
        )
    return tuple(sorted(probed, key=lambda each: each.place or math.inf))


def percentile(values: Iterable[float], share: float) -> float | None:
    """The value that this share of them does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else None


def _failures(found: Sequence[Probed]) -> int:
    return sum(each.failures for each in found)


def _print(screen: Screen, found: Sequence[Probed], *, live: bool) -> None:
    names = {"connect": "connect", "tls": "TLS", "round_trip": "round trip", "first_token": "first token"}
    measures = MEASURES if live else MEASURES[:3]
    numbers = [f"{names[measure]} p{share * 100:.0f}" for measure in measures for share in SHARES]
    rows: list[list[str]] = []
    for each in found:
        cells = [milliseconds(percentile(each.values(measure), share)) for measure in measures for share in SHARES]
        failed = f"{each.failures} failed" if each.failures else "ok"
        place = "" if each.place is None else str(each.place)
        rows.append([place, each.route.name, each.route.region or "", *cells, each.reason, failed])
    screen.table(["", "endpoint", "region", *numbers, "why", ""], rows, right=["", *numbers])
    troubled = [each for each in found if each.failures]
    if troubled:
        screen.line()
    for each in troubled:
        screen.line(f"{each.route.name}: {each.last_failure}", "red")
    if troubled:
        screen.line("smartroute check names the remedies.")


def _as_json(each: Probed) -> dict[str, object]:
    measured: dict[str, object] = {}
    for measure in MEASURES:
        values = each.values(measure)
        measured[f"{measure}_ms"] = {f"p{share * 100:.0f}": rounded(percentile(values, share)) for share in SHARES}
    return {
        "place": each.place,
        "name": each.route.name,
        "kind": str(each.route.kind),
        "region": each.route.region,
        "url": each.route.url,
        "reason": each.reason,
        "state": each.state or None,
        "failures": each.failures,
        "last_failure": each.last_failure or None,
        **measured,
    }
