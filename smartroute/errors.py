"""What smartroute raises of its own.

    SmartrouteError
    ├── ConfigError (also a ValueError)     settings that cannot be used, all of them at once
    ├── UnknownRouteError (also a LookupError)  a request or a call names a route that is not there
    ├── NoRouteError                        no endpoint may take a request; a caller sees it as its
    │                                       HTTP family's ConnectError
    └── ClosedError (also a RuntimeError)   a router used after its last client was closed

What can happen to a request on its way is raised as an exception of the caller's own HTTP family
(`httpx.ConnectError`, `httpx2.ReadTimeout`, ...), because that is what its SDK understands. A mistake in
the calling code (a pin to an unknown route, a closed client) is raised as it stands here: no SDK should
try that again.

No message ever contains a key, a prompt or a completion.
"""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["ClosedError", "ConfigError", "NoRouteError", "Problem", "SmartrouteError", "UnknownRouteError"]


class SmartrouteError(Exception):
    """The root of smartroute's own exceptions."""


class Problem(NamedTuple):
    """One thing wrong with the configuration.

    Attributes:
        setting: the environment variable, TOML key or argument, as the user wrote it.
        problem: what is wrong with its value; never the value of a key.
        remedy: what would be right.
    """

    setting: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}; {self.remedy}"


class ConfigError(SmartrouteError, ValueError):
    """The configuration cannot be used. `problems` holds every reason, not the first only."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        return f"{len(self.problems)} problems in the configuration:{lines}"


class UnknownRouteError(SmartrouteError, LookupError):
    """A name that is no route's, or that of one that may not be used. The message lists those that may be."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        self.name = name
        self.known = tuple(known)
        super().__init__(name, self.known)

    def __str__(self) -> str:
        can = ", ".join(self.known) or "none"
        return f"there is no route {self.name!r}, or it may not be used here (its region); those that may be: {can}"


class NoRouteError(SmartrouteError):
    """No endpoint may take the request. The message says why for each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__(self.reasons)

    def __str__(self) -> str:
        return f"no endpoint may take this request: {'; '.join(self.reasons)}"


class ClosedError(SmartrouteError, RuntimeError):
    """The router, or the client, was closed; make a new client."""
