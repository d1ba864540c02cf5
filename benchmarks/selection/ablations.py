"""What each mechanism is worth: smartroute without it, in the cells where it should be missed."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.selection.matches import SMART, Match, Result
from benchmarks.selection.overrides import Overridden, parse
from benchmarks.tables import table

__all__ = ["ABLATIONS", "Ablation", "matches_of", "show"]


@dataclass(frozen=True)
class Ablation:
    """A mechanism taken away.

    Attributes:
        title: what is missing.
        settings: the constants that take it away (`policy.selection.ERRORS=0`).
        cells: where it should be missed.
    """

    title: str
    settings: tuple[str, ...]
    cells: tuple[str, ...]

    @property
    def overridden(self) -> Overridden:
        """The constants and their values."""
        return tuple(map(parse, self.settings))


STEADY = ("steady 1/min", "steady 1/s", "steady 20/s")
BROWNOUT = ("brownout 1/min", "brownout 1/s", "brownout 20/s")
BLACKHOLE = ("blackhole 1/min", "blackhole 1/s", "blackhole 20/s")
TWINS = ("twins 1/s", "twins 20/s")
DRIFT = ("drift 1/s", "drift 20/s")
UNDAMPED = ("policy.selection.LEAST_GAIN=0.0", "policy.selection.ERRORS=0.0")
NEVER_OVERDUE = ("policy.patience.OVERDUE=1e9", "policy.patience.LEAST_RESCUE=1e9")

ABLATIONS = (
    Ablation("least gain (10 ms)", ("policy.selection.LEAST_GAIN=0.0",), (*STEADY, *TWINS)),
    Ablation("standard errors", ("policy.selection.ERRORS=0.0",), (*STEADY, *TWINS)),
    Ablation("any damping", UNDAMPED, (*STEADY, *TWINS, "flapping 1/s")),
    Ablation("fading of what was learned", ("policy.latency.MEMORY=1e12",), (*STEADY, *DRIFT)),
    Ablation("prior: few samples count little", ("policy.latency.SPREAD_OF_ROUTES=3.0",), STEADY),
    Ablation("cutting outliers", ("policy.latency.CLIP=1e9",), (*STEADY, "brownout 1/s")),
    Ablation("cutting long round trips", ("policy.latency.MOST_DEVIATIONS=1e9",), STEADY),
    Ablation("change detection", ("policy.latency.TRIP=1e9",), (*STEADY, *BROWNOUT)),
    Ablation("a change lasts a second", ("policy.latency.LEAST_RUN=0.0",), ("steady 20/s", "brownout 20/s")),
    Ablation("looks at any route", ("policy.exploration.SHARE=0.0",), (*STEADY, *DRIFT)),
    Ablation("looks at routes that were left", ("policy.exploration.FIRST_PAUSE=1e9",), BROWNOUT),
    Ablation("looks, of any kind", ("policy.exploration.BREATH=1e9",), (*STEADY, *BROWNOUT)),
    Ablation("bound on what a look costs", ("policy.selection.MOST_WASTED=1e9",), (*STEADY, *BROWNOUT)),
    Ablation("suspects and rescues", NEVER_OVERDUE, (*BLACKHOLE, *BROWNOUT, "only streaming 1/s")),
    Ablation("rescue where the way is alive", ("policy.patience.LEAST_RESCUE=1e9",), (*BROWNOUT, "only streaming 1/s")),
    Ablation("asking after a second", ("policy.patience.LOOK=1e9",), (*BLACKHOLE,)),
    Ablation("verifications", ("policy.silence.DEAD_AFTER=1_000_000",), BLACKHOLE),
    Ablation("spill-over", ("policy.load.FIRST_LIMIT=1e9",), ("steady 20/s", "recovery 20/s")),
    Ablation("learned limit", ("policy.load.CUT=1.0", "policy.load.RISE=1.0"), ("saturation 20 20/s", "steady 20/s")),
    Ablation("ramp after recovery", ("policy.load.RAMP_FROM=1.0",), ("recovery 20/s",)),
    Ablation("affinity", ("policy.affinity.MOST_IN_FLIGHT=0",), ("conversations 1/s",)),
    Ablation("backoff of trials", ("policy.breaker.LAST_TRIAL_BACKOFF=1.0",), ("only streaming 1/s", "flapping 1/s")),
)


def matches_of(seeds: Sequence[int], *, shorter: float) -> list[Match]:
    """What has to be played: each cell as shipped, and without each mechanism."""
    cells = dict.fromkeys(cell for ablation in ABLATIONS for cell in ablation.cells)
    plans: list[tuple[str, Overridden]] = [(cell, ()) for cell in cells]
    plans += [(cell, ablation.overridden) for ablation in ABLATIONS for cell in ablation.cells]
    return [Match(cell, seed, (SMART,), shorter, settings) for cell, settings in dict.fromkeys(plans) for seed in seeds]


def show(results: Sequence[Result]) -> str:
    """Each ablation beside smartroute as it is shipped: medians of the seeds."""
    rows: list[tuple[str, ...]] = [
        ("without", "cell", "regret, ms", "shipped", "> 2 s, %", "shipped", "moves/h", "shipped", "stay, %", "shipped")
    ]
    for ablation in ABLATIONS:
        for cell in ablation.cells:
            pair = [
                [r for r in results if (r.cell, r.contender, r.settings) == (cell, SMART, settings) and r.requests]
                for settings in (ablation.overridden, ())
            ]
            rows.append(
                (
                    ablation.title if cell == ablation.cells[0] else "",
                    cell,
                    *(_middle([r.regret * 1e3 for r in mine], 1) for mine in pair),
                    *(_middle([r.much_worse * 1e2 for r in mine], 3) for mine in pair),
                    *(_middle([r.moves for r in mine if r.moves is not None], 1) for mine in pair),
                    *(_middle([r.stays * 1e2 for r in mine if r.stays is not None], 1) for mine in pair),
                )
            )
    return table(rows)


def _middle(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f}" if values else "-"
