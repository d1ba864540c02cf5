"""`smartroute explain`: where the next request would go, and why."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from smartroute.cli.check import model_for
from smartroute.cli.options import AsJson, ConfigFile, NoColor, StepLimit, need_routes, read_config, warn_of_unknown
from smartroute.cli.output import Screen, milliseconds, print_json, progress, rounded
from smartroute.config import Config
from smartroute.policy.known import TYPICAL_SIZE
from smartroute.policy.selection import Candidate
from smartroute.route import Kind, Route
from smartroute.router import Router

__all__ = ["Explained", "Explanation", "explain", "explanation_of"]

REASONS = {
    "best": "the best score",
    "busy": "not asked: its trial is under way",
    "cooldown": "not asked: it asked to be left alone",
    "fallback": "the global endpoint, where the race ends",
    "incumbent": "in use, and no other is clearly better",
    "key_refused": "not asked: its key is refused",
    "last_resort": "asked only when nobody else is left",
    "model": "not asked: it does not serve this model",
    "next": "asked if those before it fail",
    "path": "not asked: it does not serve this path",
    "quarantine": "not asked: it refused what others accepted",
    "region": "not asked: its region is not allowed",
    "suspect": "it does not answer: asked after the others",
    "trial": "on trial after an outage",
    "unmeasured": "nothing is measured yet",
}
NOT_ASKED = ("busy", "cooldown", "key_refused", "model", "path", "quarantine", "region")


@dataclass(frozen=True, slots=True)
class Explained:
    """An endpoint's place in the ranking.

    Attributes:
        place: from 1; None: it is not asked.
        candidate: the router's word on it; None: the router did not consider it.
        reason: `Candidate.reason`; or `model` or `path` (it does not serve that), or `key_refused`.
        model: the name under which it would be asked for the model.
        note: what its probe met, if it was not answered well.
    """

    route: Route
    place: int | None
    candidate: Candidate | None
    reason: str
    model: str | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a request would go.

    Attributes:
        passes_through: why it would not be routed at all; empty: it would.
        endpoints: in the order in which they would be asked; then those that would not.
    """

    passes_through: str
    endpoints: tuple[Explained, ...]


def explain(
    *,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model that the application asks for; default: the configured one."),
    ] = None,
    path: Annotated[
        str, typer.Option(metavar="PATH", help="The path below the base URL that the request goes to.")
    ] = "/chat/completions",
    conversation: Annotated[
        str | None, typer.Option(metavar="KEY", help="Its prompt_cache_key or x-session-affinity.")
    ] = None,
    size: Annotated[int, typer.Option(min=0, metavar="BYTES", help="The size of its body.")] = TYPICAL_SIZE,
    config: ConfigFile = None,
    limit: StepLimit = 5.0,
    no_color: NoColor = False,
    as_json: AsJson = False,
) -> None:
    """Say where the next request would go, and why.

    The endpoints are probed first; then the router ranks them as it would for this request, from what the probes
    found. A process that has served requests knows more: Router.rank() tells there.

    \b
    smartroute explain
    smartroute explain --model llama --size 120000
    smartroute explain --path /responses
    smartroute explain --json | jq '.endpoints[0].name'

    Exit code: 0 if a route would be asked first, 1 if not (the global endpoint, or nobody), 2 for wrong usage
    or configuration, 130 after Ctrl-C.
    """  # noqa: D301 - \b keeps the lines of a paragraph as they are
    given = read_config(config)
    need_routes(given)
    warn_of_unknown()
    used = [route for route in given.routes if given.allows(route.region)]
    with progress("probing", len(used), no_color=no_color) as step:
        found = explanation_of(
            given, model=model, path=path, conversation=conversation, size=size, limit=limit, done=step
        )
    if as_json:
        print_json(_as_json(found))
    else:
        _print(Screen(no_color=no_color), found, conversation)
    first = next(iter(found.endpoints), None)
    routed = not found.passes_through and first is not None and first.reason not in ("fallback", "last_resort")
    raise typer.Exit(not (routed and first is not None and first.place == 1))


def explanation_of(
    config: Config,
    *,
    model: str | None = None,
    path: str = "/chat/completions",
    conversation: str | None = None,
    size: int = TYPICAL_SIZE,
    limit: float = 5.0,
    done: Callable[[], None] = lambda: None,
) -> Explanation:
    """Probe the endpoints, and rank them for a request.

    Args:
        model: the model asked for; by default the configured one.
        conversation: its affinity key.
        size: bytes of its body.
        limit: seconds that each step of a probe may take.
        done: called when an endpoint has been probed.
    """
    from smartroute.cli.measure import Meter, in_parallel, served, why  # noqa: PLC0415 - see `options`

    path = f"/{path.lstrip('/')}"
    asked = model or next((name for route in config.routes if (name := model_for(route, config, None))), None)
    router, meter = Router(config), Meter(config, limit=limit)
    try:
        used = [route for route in config.routes if config.allows(route.region)]
        looks = in_parallel(meter.look, used, done)
        looks += in_parallel(meter.look, [look.route for look in looks if look.silent])  # one is no proof, two are
        for look in looks:
            look.tell(router)
        ranking = router.rank(model=asked, path=path, size=size, conversation=conversation)
    finally:
        router.close()
    notes = {look.route.name: f"its probe: {look.trouble}" for look in looks if not look.good}
    endpoints: list[Explained] = []
    for candidate in ranking:
        route, reason = candidate.route, why(candidate)
        place = None if reason in NOT_ASKED else len(endpoints) + 1
        name = asked if route.kind is Kind.GLOBAL else route.model_for(asked)
        endpoints.append(Explained(route, place, candidate, reason, name, notes.get(route.name, "")))
    ranked = {each.route.name for each in endpoints}
    for route in config.routes:
        if route.name not in ranked:  # the router does not even consider it
            serves = {"region": config.allows(route.region), "path": path in served(route, config), "model": False}
            reason = next(reason for reason, is_so in serves.items() if not is_so)
            endpoints.append(Explained(route, None, None, reason, None, notes.get(route.name, "")))
    return Explanation(_why_not(config, path, asked), tuple(endpoints))


def _why_not(config: Config, path: str, model: str | None) -> str:
    from smartroute.cli.measure import served  # noqa: PLC0415 - see `options`

    if not any(path in served(route, config) for route in config.routes):
        return f"{path} is not among the paths that routes serve (SMARTROUTE_PATHS)"
    if not any(route.serves(model) for route in config.routes):
        return f"no route serves {f'the model {model}' if model else 'a request without a known model (--model)'}"
    return ""


def _print(screen: Screen, found: Explanation, conversation: str | None) -> None:
    if found.passes_through:
        screen.line(f"It would pass through to where it is addressed, as it is: {found.passes_through}.", "yellow")
        screen.line()
    rows: list[list[str]] = []
    for each in found.endpoints:
        parts = each.candidate.parts if each.candidate else None
        rows.append(
            [
                "" if each.place is None else str(each.place),
                each.route.name,
                each.route.region or "",
                milliseconds(each.candidate.score if each.candidate else None),
                milliseconds(parts.round_trip if parts else None),
                "-" if parts is None else f"{parts.service * 1e3:.1f} ms ± {parts.error * 1e3:.1f}",
                "-" if parts is None else f"x {parts.load:.2f}",
                each.candidate.state if each.candidate and each.reason != "fallback" else "",
                REASONS.get(each.reason, each.reason),
            ]
        )
    columns = ["", "endpoint", "region", "score", "round trip", "service", "load", "state", "why"]
    screen.table(columns, rows, right=("", "score", "round trip", "service", "load"), wrap=("why",))
    screen.line()
    for each in found.endpoints:
        if each.note:
            screen.line(f"{each.route.name}: {each.note}", "red")
    screen.line(
        "score = (round trip + service) x load. The service time is learned from requests: none were made here."
    )
    if conversation is not None:
        screen.line("A conversation stays where it was answered first: a new one goes to the route in the first place.")


def _as_json(found: Explanation) -> dict[str, object]:
    return {"passes_through": found.passes_through or None, "endpoints": [_endpoint_json(e) for e in found.endpoints]}


def _endpoint_json(each: Explained) -> dict[str, object]:
    parts = each.candidate.parts if each.candidate else None
    return {
        "place": each.place,
        "name": each.route.name,
        "kind": str(each.route.kind),
        "region": each.route.region,
        "model": each.model,
        "reason": each.reason,
        "state": str(each.candidate.state) if each.candidate else None,
        "score_ms": rounded(each.candidate.score if each.candidate else None),
        "parts": parts
        and {
            "round_trip_ms": rounded(parts.round_trip),
            "service_ms": rounded(parts.service),
            "error_ms": rounded(parts.error),
            "load": parts.load,
        },
        "note": each.note or None,
    }
