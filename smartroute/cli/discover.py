"""`smartroute discover`: routes from an account, ready to paste."""

import json
import os
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from smartroute.cli.findings import Findings, as_env, as_json, as_table, as_toml, findings
from smartroute.cli.options import unusable_environment
from smartroute.errors import ConfigError
from smartroute.fireworks import (
    ACCOUNT_VARIABLE,
    API_URL,
    API_URL_VARIABLE,
    GLOBAL_KEY_VARIABLE,
    Deployment,
    account_id,
    api_base,
    is_handle_host,
    read_page,
    read_text,
)
from smartroute.route import Route, read_keys

__all__ = ["Format", "discover", "read_pasted"]


class Format(StrEnum):
    """How the routes are written."""

    ENV = "env"
    TOML = "toml"


def discover(
    source: Annotated[
        str | None, typer.Argument(metavar="-", help="Read what firectl printed from stdin; else the vendor is asked.")
    ] = None,
    *,
    account: Annotated[
        str | None, typer.Option(metavar="ID", help=f"The account; else {ACCOUNT_VARIABLE} names it.")
    ] = None,
    deployment: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this deployment; may be given several times.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Only deployments of this base model.")] = None,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="Deployments without a direct route too, through the vendor's gateway.")
    ] = False,
    form: Annotated[
        Format | None, typer.Option("--format", help="How to write the routes.", show_default="env if it can say it")
    ] = None,
    write: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them to a file, without keys.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file without asking.")] = False,
    as_object: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    api_url: Annotated[
        str | None, typer.Option(metavar="URL", help=f"The control plane; else {API_URL_VARIABLE} names it.")
    ] = None,
) -> None:
    """Find the direct routes of a Fireworks account.

    Lists the deployments that have direct routes and prints them as settings, ready to paste. Asks the
    vendor's control plane with the console key in FIREWORKS_API_KEY, or reads what firectl prints. Keys
    of direct routes are neither asked for nor written. The settings go to stdout, all else to stderr.

    \b
    smartroute discover --account my-account            what there is, and the environment for it
    eval "$(smartroute discover)"                       into this shell
    smartroute discover --write smartroute.toml         into a file, for SMARTROUTE_CONFIG
    smartroute discover --model llama-v3p1-8b-instruct  one of several models
    smartroute discover --json | jq .routes             for a program
    firectl deployment get abcd1234 | smartroute discover -

    Exit code: 0 if there are routes, 1 if there are none or the vendor does not answer, 2 for wrong
    usage, account or key.
    """  # noqa: D301 - \b keeps the lines of a paragraph as they are
    if source not in (None, "-"):
        _fail(f"there is nothing to read from {source!r}", "write - and pipe firectl's output in", 2)
    overwrite = write is not None and _may_overwrite(write, force=force, may_ask=source is None)
    if source == "-":
        owner = None
        known = _piped()
    else:
        owner = _account(account)
        known = _asked(owner, api_url)
    found = findings(_chosen(known, deployment or [], model), gateway=gateway)
    if found.deployments and not as_object:
        print(as_table(found.deployments), file=sys.stderr)
    for note in () if as_object else found.notes:
        print(f"- {note}", file=sys.stderr)
    text = _written(found, form, write) if found.routes and (write or not as_object) else ""
    if as_object:
        print(as_json(found, owner))
    if not found.routes:
        _fail(
            "no deployment can be written down as a route",
            "create one with --direct-route-type INTERNET, or see --gateway and the docs, fireworks.md",
            1,
        )
    if write:
        _save(write, text, overwrite=overwrite)
    elif not as_object:
        print(file=sys.stderr)
        print(text, end="")


def read_pasted(text: str) -> tuple[Deployment, ...]:
    """The deployments in what `firectl` printed, as text or as JSON, one or several.

    Raises:
        ValueError: there is none in it.
    """
    start = re.search(r"^[ \t]*[\[{]", text, re.MULTILINE)
    if start is None:
        return read_text(text)
    try:
        return _read_documents(text[start.start() :])
    except json.JSONDecodeError:  # a line of text may begin so too
        return read_text(text)


def _read_documents(text: str) -> tuple[Deployment, ...]:
    found: list[Deployment] = []
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest.startswith(("{", "[")):
        document, end = decoder.raw_decode(rest)
        found += read_page(document)[0]
        rest = rest[end:].strip()
    return tuple(found)


def _piped() -> tuple[Deployment, ...]:
    if sys.stdin.isatty():
        print("Paste what firectl printed, then press Ctrl-D.", file=sys.stderr)
    try:
        return read_pasted(sys.stdin.buffer.read().decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        _fail(
            "there is no deployment in what was piped in",
            "pipe in firectl deployment get ID, or firectl deployment list -o json",
            2,
        )


def _account(given: str | None) -> str:
    origin = "--account" if given is not None else ACCOUNT_VARIABLE
    text = given if given is not None else os.environ.get(ACCOUNT_VARIABLE, "")
    if not text.strip():
        _fail("the account is unknown", f"set {ACCOUNT_VARIABLE}, or give --account; firectl whoami shows its id", 2)
    try:
        return account_id(text)
    except ValueError as error:
        _fail(f"{origin}: {error}", "give it as in my-account, as firectl whoami shows it", 2)


def _asked(account: str, api_url: str | None) -> tuple[Deployment, ...]:
    try:
        from smartroute.cli import control_plane  # noqa: PLC0415 - HTTP is slow to load, tenacity is an extra
    except ModuleNotFoundError as missing:
        _fail(f"{missing.name} is missing", "in a clone: pip install '.[cli]'", 2)
    key = os.environ.get(GLOBAL_KEY_VARIABLE, "").strip()
    if not key:
        _fail(
            f"{GLOBAL_KEY_VARIABLE} is not set",
            "set it to a key of the console (app.fireworks.ai), or pipe firectl's output in: smartroute discover -",
            2,
        )
    try:
        (key,) = read_keys([key])
    except ConfigError as error:
        _fail(f"{GLOBAL_KEY_VARIABLE}: {error.problems[0].problem}", error.problems[0].remedy, 2)
    for unusable in unusable_environment():
        _fail(f"{unusable.setting}: {unusable.problem}", unusable.remedy, 2)
    url = _api_url(api_url)
    if url != API_URL:
        print(f"Asking {url}", file=sys.stderr)
    try:
        return control_plane.list_deployments(url, account, key, say=lambda text: print(text, file=sys.stderr))
    except control_plane.ControlPlaneError as error:
        _fail(error.problem, error.remedy, 2 if error.usage else 1)


def _api_url(given: str | None) -> str:
    origin = "--api-url" if given is not None else API_URL_VARIABLE
    text = (given if given is not None else os.environ.get(API_URL_VARIABLE, "")).strip()
    if not text:
        return API_URL
    try:
        url = Route(api_base(text)).url  # a route's checks are right here too: no http:// to strangers, no user name
    except ConfigError as error:
        _fail(f"{origin}: {error.problems[0].problem}", f"write it as in {API_URL}", 2)
    if not is_handle_host(url.split("/")[2]):
        return url
    if given is not None:
        _fail(f"{origin}: a direct route is no control plane", f"leave it out, or write it as in {API_URL}", 2)
    print(f"{API_URL_VARIABLE} names a direct route: asking {API_URL} instead.", file=sys.stderr)
    return API_URL


def _chosen(known: Sequence[Deployment], ids: Sequence[str], model: str | None) -> list[Deployment]:
    """Those that the options choose."""
    for wanted in ids:
        if not any(wanted in (each.id, each.name) for each in known):
            there = ", ".join(each.id for each in known[:20]) or "none"
            _fail(f"--deployment: there is no deployment {wanted!r}", f"these are there: {there}", 2)
    if model is not None and not any(_is_of(each, model) for each in known):
        there = ", ".join(sorted({each.base for each in known if each.base})[:20]) or "none"
        _fail(f"--model: no deployment is of model {model!r}", f"these are there: {there}", 2)
    return [
        each
        for each in known
        if (not ids or each.id in ids or each.name in ids) and (model is None or _is_of(each, model))
    ]


def _is_of(deployment: Deployment, model: str) -> bool:
    base = deployment.base or ""
    return model in (base, base.rpartition("/")[2])


def _written(found: Findings, form: Format | None, target: Path | None) -> str:
    if form is None:
        form = Format.TOML if (target and target.suffix == ".toml") or not found.same_models else Format.ENV
    if form is Format.TOML:
        return as_toml(found)
    if not found.same_models:
        _fail(
            "the environment cannot say which model each of the routes serves",
            "use --format toml, or choose one model with --model, and no --gateway",
            2,
        )
    return as_env(found)


def _may_overwrite(path: Path, *, force: bool, may_ask: bool) -> bool:
    """Whether what is in the file may go. Asked before the vendor is: nobody waits for a refusal."""
    try:
        there = path.exists()
    except OSError as error:
        _unwritable(path, error)
    if force or not there:
        return force
    if not may_ask or not sys.stdin.isatty():
        _fail(f"{path} exists", "use --force to overwrite it, or another name", 2)
    if not typer.confirm(f"{path} exists. Overwrite it?", err=True):
        _fail("nothing was written", "give another name with --write", 1)
    return True


def _save(path: Path, text: str, *, overwrite: bool) -> None:
    try:
        with path.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        _unwritable(path, error)
    print(f"Written to {path}. Next: the keys it names, and smartroute check.", file=sys.stderr)


def _unwritable(path: Path, error: OSError) -> NoReturn:
    _fail(f"{path} cannot be written ({error.strerror})", "name a file in a folder that is there", 2)


def _fail(problem: str, remedy: str, code: int) -> NoReturn:
    print(f"smartroute: {problem}.\n  Remedy: {remedy}.", file=sys.stderr)
    raise typer.Exit(code)
