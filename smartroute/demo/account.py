"""What the demo prints: a line for each call as it is made, and the summary."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from smartroute.demo.regions import LATENCIES
from smartroute.policy.messages import Record

__all__ = ["Account", "Call", "percentile"]

STYLES = dict(zip(LATENCIES, ("green", "cyan", "magenta", "yellow"), strict=True))
BAR = 0.0125  # seconds that one character of a bar stands for
LONGEST_BAR = 18
EIGHTHS = "▏▎▍▌▋▊▉█"

FAILURES = {
    "connect": "refused the connection",
    "connect_timeout": "took too long to connect",
    "read_timeout": "took too long to answer",
    "reset": "reset the connection",
}
REASONS = {
    "best": "the fastest now",
    "connection_race": "the first to connect",
    "trial": "its probes are answered again: on trial",
    "unmeasured": "nothing is measured yet",
}


@dataclass(frozen=True, slots=True)
class Call:
    """How one call went.

    Attributes:
        route: who answered; None: nobody.
        first_token: seconds from asking to the first token, as the caller sees it.
        attempts: what smartroute did; empty for a call that did not go through it.
        error: why it failed, if it did.
    """

    number: int
    route: str | None
    first_token: float | None
    attempts: Sequence[Record] = ()
    error: str | None = None

    @property
    def failed_over(self) -> bool:
        """Whether an endpoint failed and another one answered."""
        return self.error is None and any(attempt.endpoint != self.route for attempt in self.attempts)

    @property
    def story(self) -> str:
        """Why it was answered by whom it was, where that is worth a word."""
        if self.error is not None:
            return f"FAILED: {self.error}"
        if len(self.attempts) == 1:
            return REASONS.get(self.attempts[0].reason, "")
        struck: dict[str, str] = {}  # what struck the request at each endpoint; what it met there when sent again
        for attempt in self.attempts[:-1]:  # is in the trace
            struck.setdefault(attempt.endpoint, _what_happened(attempt))
        alike = {words: [name for name in struck if struck[name] == words] for words in struck.values()}
        happened = [f"{', '.join(names)} {words}" for words, names in alike.items()]
        return f"{', '.join(happened)} -> {self.route}" if happened else ""


def _what_happened(attempt: Record) -> str:
    if attempt.status is not None and attempt.status >= 400:
        return f"answered {attempt.status}"
    return FAILURES.get(str(attempt.failure), f"failed ({attempt.failure})")


@dataclass(slots=True)
class Account:
    """All calls, and what there is to say about them.

    Attributes:
        calls: those through smartroute.
        healthy: those of them that were made when everything was up and warm, and `direct`: as many, made at
            the same time by the plain SDK to the global endpoint alone.
        waits: the act, what was waited for in it, and how many seconds that took.
    """

    console: Console
    calls: list[Call] = field(default_factory=list[Call])
    healthy: list[Call] = field(default_factory=list[Call])
    direct: list[Call] = field(default_factory=list[Call])
    waits: list[tuple[int, str, float]] = field(default_factory=list[tuple[int, str, float]])
    acts: int = 0

    @property
    def failures(self) -> int:
        """How many calls failed."""
        return sum(call.error is not None for call in self.calls)

    def act(self, title: str, done: str) -> None:
        """Begin an act. `done`: what was done to the regions."""
        self.acts += 1
        self._print()
        self._print(Text(f"{self.acts}. {title}", "bold"))
        self._print(Text(f"   {done}", "dim"))

    def tell(self, call: Call, remark: str = "") -> None:
        """Take note of a call, and print its line."""
        self.calls.append(call)
        style = STYLES.get(call.route or "", "bold red")
        line = Text(f"{call.number:>5}  ")
        line.append(f"{call.route or '-':<10}", style)
        line.append(f"{_milliseconds(call.first_token):>7}  ")
        line.append(f"{self._bar(call.first_token or 0.0):<12}", style)
        if call.story:
            line.append(f"  {call.story}", "bold red" if call.error else "bold yellow" if call.failed_over else "bold")
        if remark:
            line.append(f"  {remark}", "dim")
        line.rstrip()
        self._print(line)

    def waited(self, what: str, seconds: float | None) -> None:
        """Tell how long it took until something happened; None: it did not."""
        if seconds is None:
            self._print(Text(f"   {what}: not yet", "bold red"))
        else:
            self.waits.append((self.acts, what, seconds))
            self._print(Text(f"   {what}: after {seconds:.1f} s", "bold green"))

    def remark(self, words: str) -> None:
        """Print a line that belongs to no call."""
        self._print(Text(words, "dim"))

    def summarize(self, tree: Sequence[str]) -> None:
        """Print the summary. `tree`: the spans of a call."""
        shares = Counter(call.route for call in self.calls if call.error is None)
        rescued = sum(call.failed_over for call in self.calls)
        self._print()
        self._print(Text("Summary", "bold"))
        verdict = (
            f"   {len(self.calls)} calls, failures: {self.failures}, answered elsewhere after a failure: {rescued}"
        )
        self._print(Text(verdict, "bold red" if self.failures else "bold green"))
        for name, style in STYLES.items():
            share = shares[name] / len(self.calls)
            line = f"   {name:<10}{shares[name]:>5}{share:>7.0%}  {self._bar(share * BAR * LONGEST_BAR)}"
            self._print(Text(line.rstrip(), style))
        self._print()
        self._print(Text(f"   {'Time to first token':<42}{'p50':>9}{'p99':>9}", "bold"))
        for label, calls in (
            (f"smartroute, healthy and warm ({len(self.healthy)} calls)", self.healthy),
            (f"global endpoint alone, beside them ({len(self.direct)})", self.direct),
            (f"smartroute, with all outages ({len(self.calls)})", self.calls),
        ):
            numbers = "".join(f"{_milliseconds(percentile(calls, share)):>9}" for share in (0.50, 0.99))
            self._print(Text(f"   {label:<42}{numbers}"))
        if tree:
            self._print()
            self._print(Text("A call that failed over, as its OpenTelemetry spans tell it", "bold"))
            for line in tree:
                self._print(Text(f"   {line}"))

    def json(self) -> str:
        """The summary for a program. Percentiles are in milliseconds."""
        measured = {"smartroute": self.healthy, "global_only": self.direct, "smartroute_with_outages": self.calls}
        return json.dumps(
            {
                "calls": len(self.calls),
                "failures": self.failures,
                "failed_over": sum(call.failed_over for call in self.calls),
                "routes": Counter(call.route for call in self.calls if call.error is None),
                "first_token_ms": {
                    name: {f"p{share}": _rounded(percentile(calls, share / 100)) for share in (50, 99)}
                    for name, calls in measured.items()
                },
                "waits": [
                    {"act": act, "until": what, "seconds": round(seconds, 1)} for act, what, seconds in self.waits
                ],
            },
            indent=2,
        )

    def _bar(self, seconds: float) -> str:
        eighths = math.ceil(min(seconds / BAR, LONGEST_BAR) * 8)
        if self.console.options.ascii_only:
            return "#" * math.ceil(eighths / 8)
        whole, rest = divmod(eighths, 8)
        return "█" * whole + (EIGHTHS[rest - 1] if rest else "")

    def _print(self, line: Text | str = "") -> None:
        self.console.print(line, soft_wrap=not self.console.is_terminal)  # a file need not wrap what is long


def percentile(calls: Iterable[Call], share: float) -> float | None:
    """The time to first token that this share of the calls did not exceed (nearest rank)."""
    times = sorted(call.first_token for call in calls if call.first_token is not None)
    return times[math.ceil(share * len(times)) - 1] if times else None


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
