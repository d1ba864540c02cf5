"""`smartroute check`: everything that can be known to be wrong before the first request."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from smartroute.cli.options import (
    SWITCHED_OFF,
    AsJson,
    AskedModel,
    ConfigFile,
    NoColor,
    StepLimit,
    read_config,
    say,
    unusable_environment,
)
from smartroute.cli.output import Screen, milliseconds, print_json, progress, redacted, rounded
from smartroute.config import Config, unknown_variables
from smartroute.errors import ConfigError, Problem
from smartroute.route import Kind, Route

if TYPE_CHECKING:
    from smartroute.cli.live import Completion
    from smartroute.cli.measure import Answer, Look
    from smartroute.cli.remedies import Trouble

__all__ = ["Inspected", "check", "endpoints_of", "inspect", "model_for", "problems_of"]

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Inspected:
    """An endpoint, and what was found.

    Attributes:
        look: the way to it; None: it was not looked at, because its region is not allowed.
        completion: what came of asking for a token, if it was asked.
        troubles: what is wrong with it.
    """

    route: Route
    look: "Look | None" = None
    completion: "Completion | None" = None
    troubles: "tuple[Trouble, ...]" = ()

    @property
    def healthy(self) -> bool:
        """Whether it can serve, as far as was found out."""
        return not any(trouble.severe for trouble in self.troubles)


def check(
    *,
    config: ConfigFile = None,
    live: Annotated[bool, typer.Option("--live", help="Ask each endpoint for one token.")] = False,
    model: AskedModel = None,
    limit: StepLimit = 5.0,
    no_color: NoColor = False,
    as_json: AsJson = False,
) -> None:
    """Check the configuration, and the way to each endpoint.

    The name, the connection, TLS and the keys of each: every problem is told at once, with its remedy. Nothing is
    sent to a model unless you say --live.

    \b
    smartroute check                                    before a deployment, or when something is odd
    smartroute check --live                             with a one-token completion at each endpoint
    smartroute check --config smartroute.toml           a file that is not in use yet
    smartroute check --json | jq .endpoints             for a program

    Exit code: 0 if all is well (there may be warnings), 1 if an endpoint cannot serve, 2 if the
    configuration cannot be used or a SMARTROUTE_ variable is misspelt, 130 after Ctrl-C.
    """  # noqa: D301 - \b keeps the lines of a paragraph as they are
    given, problems = problems_of(lambda: read_config(config), os.environ)
    found: Sequence[Inspected] = ()
    if given is not None and not given.disabled:
        if live and model is None and not any(model_for(route, given, None) for route in endpoints_of(given)):
            raise typer.BadParameter("no model is configured; say which: --live --model NAME", param_hint="--live")
        if live and model and given.routes and not any(route.serves(model) for route in given.routes):
            say(f"no route serves the model {model}: requests for it pass through; add it to SMARTROUTE_MODEL")
        total = len(endpoints_of(given)) * (2 if live else 1)
        with progress("checking", total, no_color=no_color) as step:
            found = inspect(given, os.environ, live=live, model=model, limit=limit, done=step)
    if as_json:
        print_json(_as_json(given, problems, found))
    else:
        _print(Screen(no_color=no_color), given, problems, found, live=live)
    if problems:
        raise typer.Exit(2)
    raise typer.Exit(not all(each.healthy for each in found))


def problems_of(read: Callable[[], Config], environ: Mapping[str, str]) -> tuple[Config | None, tuple[Problem, ...]]:
    """The configuration, if it can be used, and everything that is wrong with it; misspelt variables too."""
    unusable, unknown = unusable_environment(environ), unknown_variables(environ)
    try:
        given = read()
    except ConfigError as error:
        return None, (*error.problems, *unusable, *unknown)
    if unusable and not given.disabled:
        return None, (*unusable, *unknown)
    return given, unknown


def model_for(route: Route, config: Config, asked: str | None) -> str | None:
    """The model to ask an endpoint for, as an application would; None: there is none to know of.

    Args:
        asked: what the application asks for, if that is known.
    """
    if route.kind is Kind.GLOBAL:
        if asked or config.global_model is None:
            return asked or next((name for each in config.routes if (name := model_for(each, config, None))), None)
        return config.global_model if isinstance(config.global_model, str) else config.global_model[0][1]
    if asked is not None and route.serves(asked):
        return asked
    if isinstance(route.models, tuple):
        return route.models[0][0]
    return route.models or asked or (config.global_model if isinstance(config.global_model, str) else None)


def inspect(
    config: Config,
    environ: Mapping[str, str],
    *,
    live: bool = False,
    model: str | None = None,
    limit: float = 5.0,
    done: Callable[[], None] = lambda: None,
    wall: Callable[[], float] = time.time,
) -> tuple[Inspected, ...]:
    """Look at all endpoints, several at a time.

    Args:
        environ: the variables, for the keys among them.
        live: ask each of them for one token.
        model: the model to ask for; by default the configured one.
        limit: seconds that each step may take.
        done: called when an endpoint has been looked at, and when it has been asked.
        wall: the time of day as a Unix timestamp.
    """
    from smartroute.cli import remedies  # noqa: PLC0415 - see `options`
    from smartroute.cli.live import LIVE_LIMIT, Asker, live_path  # noqa: PLC0415
    from smartroute.cli.measure import Meter, in_parallel  # noqa: PLC0415
    from smartroute.router import Router  # noqa: PLC0415

    meter = Meter(config, limit=limit)
    endpoints = endpoints_of(config)
    used = [route for route in endpoints if config.allows(route.region)]
    looks = {look.route.name: look for look in in_parallel(meter.look, used, done)}
    found = {
        name: remedies.of_configuration(look.route, config) + remedies.of_look(look, config, environ, wall())
        for name, look in looks.items()
    }
    completions: dict[str, Completion] = {}
    if live:
        router = Router(config)
        asker = Asker(config, router, limit=max(limit, LIVE_LIMIT))

        def ask(route: Route) -> "Completion | None":
            name, path = model_for(route, config, model), live_path(route, config)
            if name is None or path is None or looks[route.name].failure is not None:
                return None
            return asker.ask(route, name, path) if route.keys or route.kind is not Kind.GLOBAL else None

        try:
            asked = in_parallel(ask, used, done)
        finally:
            asker.close()
            router.close()
        completions = {each.route.name: each for each in asked if each is not None}
    for name, completion in completions.items():
        further = remedies.of_completion(completion, looks[name], config, environ)
        if completion.good:  # whatever the probe's path was answered, the endpoint serves
            found[name] = [replace(each, severe=each.severe and each.step != "request") for each in found[name]]
        elif (answer := looks[name].answer) is not None and completion.status in (None, answer.status):  # say it once
            said = remedies.of_answer(looks[name])
            if any(each.severe for each in said):
                continue
            if completion.status is not None:
                found[name] = [each for each in found[name] if each not in said]
        found[name] += [each for each in further if each.problem not in {other.problem for other in found[name]}]
    return tuple(
        Inspected(route, looks.get(route.name), completions.get(route.name), tuple(found.get(route.name, ())))
        for route in endpoints
    )


def endpoints_of(config: Config) -> tuple[Route, ...]:
    """The routes, and the global endpoint if there is one."""
    return config.routes if config.global_route is None else (*config.routes, config.global_route)


# --- For people --------------------------------------------------------------------------------------


def _print(
    screen: Screen, config: Config | None, problems: Sequence[Problem], found: Sequence[Inspected], *, live: bool
) -> None:
    if found:
        columns = ["endpoint", "region", "DNS", "connect", "TLS", "certificate", "answer", "round trip"]
        columns += ["first token"] if live else []
        rows = [_row(each, live=live) for each in found]
        screen.table(
            [*columns, ""], rows, right=("DNS", "connect", "TLS", "round trip", "first token"), wrap=("certificate",)
        )
        screen.line()
    for problem in problems:
        screen.line(f"{problem}", "red")
    if config is None:
        screen.line(f"The configuration cannot be used: {_count(len(problems), 'problem')}.", "bold red")
        return
    if config.disabled:
        screen.line(f"smartroute is {SWITCHED_OFF}: every request passes through as it is.")
        return
    if not config.routes:
        screen.line("No routes are configured: every request passes through as it is. Set SMARTROUTE_ROUTES.", "yellow")
    for each in found:
        for trouble in each.troubles:
            screen.line(f"{'' if trouble.severe else 'warning: '}{trouble}", "red" if trouble.severe else "yellow")
        for note in _notes(each, live=live):
            screen.line(note)
    used = [each for each in found if each.look is not None]
    well = sum(each.healthy for each in used)
    if used:
        verdict = f"{well} of {_count(len(used), 'endpoint')} can serve."
        screen.line(verdict, "bold green" if well == len(used) else "bold red")


def _row(each: Inspected, *, live: bool) -> list[str]:
    route, look = each.route, each.look
    if look is None:
        return [route.name, route.region or "", *[""] * (7 if live else 6), "not used"]
    steps = {"dns": look.dns, "connect": look.connect, "tls": look.tls, "request": look.round_trip}
    cells = {step: "failed" if look.step == step else milliseconds(took) for step, took in steps.items()}
    answer = look.answer
    said = "" if answer is None else f"{answer.status}{_with_key(route, answer)}"
    row = [route.name, route.region or "", cells["dns"], cells["connect"], cells["tls"], _certificate(look)]
    row += [said, cells["request"]]
    if live:
        row.append("-" if each.completion is None else _first_token(each.completion))
    if not each.healthy:
        return [*row, "FAILED"]
    return [*row, "warning" if each.troubles else "ok"]


def _with_key(route: Route, answer: "Answer") -> str:
    return "" if answer.key is None or not route.keys else f" {redacted(route.keys[answer.key])}"


def _first_token(completion: "Completion") -> str:
    return milliseconds(completion.first_token) if completion.good else "failed"


def _certificate(look: "Look") -> str:
    if look.certificate is None:
        return ""
    return f"{look.certificate.issuer}, {_count(int((look.certificate.ends - time.time()) / DAY), 'day')}"


def _notes(each: Inspected, *, live: bool) -> list[str]:
    """What is no trouble, and worth knowing."""
    name, look = each.route.name, each.look
    if look is None:
        return [f"{name}: not used, its region {each.route.region} is not among SMARTROUTE_REGIONS."]
    notes: list[str] = []
    if look.proxy is not None and look.failure is None:
        notes.append(
            f"{name}: the way leads through the proxy {look.proxy} (the environment's); NO_PROXY takes it out."
        )
    if each.route.kind is Kind.GLOBAL and not each.route.keys:
        notes.append(f"{name}: its key is not checked, the callers bring theirs. SMARTROUTE_GLOBAL_API_KEY names one.")
    elif live and each.completion is None and look.failure is None:
        notes.append(f"{name}: asked for no token, as no model for it, or no path for completions, is configured.")
    return notes


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


# --- For programs ------------------------------------------------------------------------------------


def _as_json(config: Config | None, problems: Sequence[Problem], found: Sequence[Inspected]) -> dict[str, object]:
    return {
        "healthy": not problems and all(each.healthy for each in found),
        "disabled": config is not None and config.disabled,
        "problems": [{"setting": p.setting, "problem": p.problem, "remedy": p.remedy} for p in problems],
        "endpoints": [_endpoint_json(each) for each in found],
    }


def _endpoint_json(each: Inspected) -> dict[str, object]:
    route, look, completion = each.route, each.look, each.completion
    value: dict[str, object] = {
        "name": route.name,
        "kind": str(route.kind),
        "region": route.region,
        "url": route.url,
        "used": look is not None,
        "healthy": each.healthy,
        "troubles": [
            {"step": t.step, "severe": t.severe, "problem": t.problem, "remedy": t.remedy} for t in each.troubles
        ],
    }
    if look is None:
        return value
    certificate = look.certificate
    value |= {
        "proxy": look.proxy,
        "addresses": list(look.addresses),
        "dns_ms": rounded(look.dns),
        "connect_ms": rounded(look.connect),
        "tls_ms": rounded(look.tls),
        "certificate": certificate
        and {
            "issuer": certificate.issuer,
            "expires": datetime.fromtimestamp(certificate.ends, UTC).isoformat(),
            "days_left": round((certificate.ends - time.time()) / DAY, 1),
        },
        "keys": [
            {
                "key": None if answer.key is None else redacted(route.keys[answer.key]),
                "status": answer.status,
                "round_trip_ms": rounded(answer.seconds),
            }
            for answer in look.answers
        ],
        "round_trip_ms": rounded(look.round_trip),
        "failed_step": look.step or None,
        "live": completion
        and {
            "model": completion.model,
            "status": completion.status,
            "first_token_ms": rounded(completion.first_token),
            "total_ms": rounded(completion.seconds),
        },
    }
    return value
