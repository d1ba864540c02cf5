"""The options that commands share, the configuration they name, and what happens to errors.

Nothing slow is imported here: `smartroute --help` must not wait for an HTTP library.
"""

import errno
import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from smartroute.config import Config, unknown_variables, written
from smartroute.errors import ConfigError, Problem
from smartroute.settings import PREFIX

__all__ = [
    "SWITCHED_OFF",
    "AsJson",
    "AskedModel",
    "ConfigFile",
    "NoColor",
    "StepLimit",
    "fail",
    "guarded",
    "need_routes",
    "read_config",
    "say",
    "unusable_environment",
    "warn_of_unknown",
]

SWITCHED_OFF = f"switched off ({PREFIX}DISABLED, or disabled in its file)"
AUTHORITIES = "SSL_CERT_FILE"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="The TOML file, in place of SMARTROUTE_CONFIG.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; its shape is in docs/cli.md.")]
AskedModel = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The model to ask for, as the application does; default: the configured one."),
]
StepLimit = Annotated[float, typer.Option(min=0.1, max=300, metavar="SECONDS", help="What each step may take.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="Plain text, as with NO_COLOR and in a pipe.")]


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with its errors as exit codes: 2 for the configuration, 130 for Ctrl-C."""

    @functools.wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        # Warnings that the library logs are for services; a command says in its own words what it found.
        logging.getLogger("smartroute").addHandler(logging.NullHandler())
        if os.environ.get(f"{PREFIX}LOG"):
            logging.basicConfig(format="%(levelname)s %(message)s")
        for stream in (sys.stdout, sys.stderr):
            if reconfigure := getattr(stream, "reconfigure", None):
                reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to fail
        try:
            command(*args, **kwargs)
        except ConfigError as error:
            for problem in error.problems:
                say(problem)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            say(f"the output cannot be written ({error.strerror})")
            with suppress(OSError):  # or the same is tried again, and told again, at the very end
                sys.stdout.close()
            raise typer.Exit(2) from None
        except typer.Abort as abort:  # Ctrl-C or Ctrl-D where something was asked
            raise typer.Exit(130 if isinstance(abort.__context__, KeyboardInterrupt) else 1) from None

    return run


def read_config(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of the environment and of the file named by `--config`, or else by `SMARTROUTE_CONFIG`.

    Says so if the environment's routes replace the file's.

    Raises:
        ConfigError: with everything that is wrong with it.
    """
    given = Config.from_env(environ) if path is None else Config.from_toml(path, environ)
    file = path or environ.get(f"{PREFIX}CONFIG", "").strip()
    replaced = file and environ.get(f"{PREFIX}ROUTES", "").strip() and not given.disabled
    if replaced and not {"route", "routes"}.isdisjoint(written({}, file)):
        say(f"the routes of {file} are not used: {PREFIX}ROUTES is set, and wins; unset it to use them")
    return given


def warn_of_unknown(environ: Mapping[str, str] = os.environ) -> None:
    """Say which variables are ignored because they mean nothing."""
    for problem in unknown_variables(environ):
        say(f"ignored: {problem}")


def unusable_environment(environ: Mapping[str, str] = os.environ) -> tuple[Problem, ...]:
    """What the environment says to HTTP clients and cannot be used: the library's could not be made."""
    found: list[Problem] = []
    if file := environ.get(AUTHORITIES):
        import ssl  # noqa: PLC0415 - seldom needed

        try:
            ssl.create_default_context(cafile=file)
        except OSError as error:
            unread = f"the file cannot be read ({error.strerror})"
            problem = "the file has no certificate that can be read" if isinstance(error, ssl.SSLError) else unread
            found.append(Problem(AUTHORITIES, problem, "name a readable PEM file of authorities, or unset it"))
    for name in PROXIES:
        scheme, separator, _ = environ.get(name, "").lower().partition("://")
        if not separator or scheme in ("http", "https"):
            continue
        if scheme not in ("socks5", "socks5h"):
            problem = f"a proxy cannot be spoken to by {scheme}" if scheme.isalnum() else "this is no URL of a proxy"
            found.append(Problem(name, problem, "write http://host:port, or unset it"))
        elif find_spec("socksio") is None:
            problem = "a SOCKS proxy needs the package socksio, which is missing"
            found.append(Problem(name, problem, "pip install socksio, or unset it"))
    return tuple(found)


def need_routes(config: Config) -> None:
    """Stop where there is nothing to measure, or no way to do it."""
    if config.disabled:
        fail(f"{SWITCHED_OFF}: requests pass through; take it out to go on")
    if not config.routes:
        fail(f"no routes are configured; set {PREFIX}ROUTES, or name a file with --config")
    if problems := unusable_environment():
        raise ConfigError(problems)


def say(words: str | Problem) -> None:
    """A line on stderr."""
    print(f"smartroute: {words}", file=sys.stderr)


def fail(words: str) -> NoReturn:
    """Say what is wrong with the usage, and stop."""
    say(words)
    raise typer.Exit(2)
