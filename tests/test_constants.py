"""The table of every constant in docs/selection.md says what the code says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "smartroute"
PAGE = ROOT / "docs" / "selection.md"
COVERED = [*sorted((PACKAGE / "policy").glob("*.py")), PACKAGE / "router.py", PACKAGE / "probe.py"]
"""All of their numbers have to be in the table; of other modules some may be."""
ROW = re.compile(r"^\| `([\w.]+\.[A-Z][A-Z0-9_]*)` \| *([^|]+?) *\| *([^|]+?) *\| *([^|]+?) *\|$", re.MULTILINE)


def constants(module: Path) -> Iterator[tuple[str, float]]:
    """The constants of a module that are numbers, by their names below the package; private ones aside."""
    prefix = ".".join(module.relative_to(PACKAGE).with_suffix("").parts)
    for statement in ast.parse(module.read_text("utf-8")).body:
        match statement:
            case ast.Assign(targets=[*targets], value=value):
                pass
            case ast.AnnAssign(target=annotated, value=ast.expr() as value):
                targets = [annotated]
            case _:
                continue
        for target in targets:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            else:
                pairs = [(target, value)]
            for name, given in pairs:
                if isinstance(name, ast.Name) and name.id.isupper() and not name.id.startswith("_"):
                    number = number_of(given)
                    if number is not None:
                        yield f"{prefix}.{name.id}", number


def number_of(expression: ast.expr) -> float | None:
    """What an expression of literals comes to, if that is a number."""
    try:
        value = eval(compile(ast.Expression(expression), "", "eval"), {"__builtins__": {}})
    except (NameError, TypeError):
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


PROSE = {
    "policy.latency.ROUND_TRIP_GAIN": "gain = max({:g}, 1 - exp",
    "policy.latency.ROUND_TRIP_MEMORY": "exp(-dt / {:g} s)) Of the first two",
    "policy.latency.MEMORY": "x <- x * exp(-dt / {:g} s)",
    "policy.latency.SPREAD_OF_ROUTES": "v <- {:g}² -",
    "policy.latency.CLIP": "cut to ± {:g}",
    "policy.latency.DRIFT": "let {:g} of it go",
    "policy.latency.TRIP": "At {:g}, if it has lasted",
    "policy.selection.ERRORS": "{:g} standard error of the difference)",
    "policy.selection.OPTIMISM": "exp(-{:g} standard errors)",
    "policy.selection.MOST_WASTED": "loses less than {:g} s should",
    "policy.selection.IMPATIENCE": "grows by {:g} s for each second",
    "policy.exploration.PAUSE": "one route once in {:g} s",
    "policy.exploration.FIRST_PAUSE": "looked at after {:g}, 20, 40 s",
    "policy.exploration.LAST_PAUSE": "up to {:g} s, beyond",
    "policy.load.FIRST_LIMIT": "requests in flight, {:g} at first",
    "policy.load.PERIOD": "Every {:g} s: if most answers",
    "policy.load.INFLATED": "over {:g} times what was expected",
    "policy.load.CUT": "`L <- {:g} * min(L",
    "policy.load.RISE": "`L <- {:g} L + 1`",
    "policy.load.RAMP": "all of it after {:g} s",
    "policy.patience.LEAST": "not before {:g} s",
    "policy.patience.LEAST_WHOLE": "({:g} s if it is not streamed",
    "policy.patience.OVERDUE": "factor * max({:g}, exp(",
    "policy.patience.LEAST_RESCUE": "and for {:g} s, is rescued",
    "policy.silence.PAUSE": "nor within {:g} s of a verification",
    "policy.breaker.LAST_TRIAL_BACKOFF": "the backoff doubles, up to {:g} s",
}
"""Where the page's text names a constant's value."""
IN_CODE = {name: value for module in sorted(PACKAGE.rglob("*.py")) for name, value in constants(module)}
TO_TELL = {name for module in COVERED for name, _ in constants(module)}
TABLE = ROW.findall(PAGE.read_text("utf-8"))


def test_there_are_constants_and_a_table() -> None:
    assert len(TO_TELL) > 50
    assert len(TABLE) > 50


def test_every_constant_is_in_the_table() -> None:
    told = {name for name, *_ in TABLE}
    assert sorted(TO_TELL - told) == [], "give each a row in docs/selection.md"


def test_no_constant_is_told_of_twice() -> None:
    names = [name for name, *_ in TABLE]
    assert sorted(name for name in set(names) if names.count(name) > 1) == []


@pytest.mark.parametrize(("name", "value", "unit", "why"), TABLE, ids=[name for name, *_ in TABLE])
def test_the_table_says_what_the_code_says(name: str, value: str, unit: str, why: str) -> None:
    assert name in IN_CODE, "there is no such constant any more: take its row out"
    assert ast.literal_eval(value) == IN_CODE[name]
    assert unit
    assert why


@pytest.mark.parametrize(("name", "phrase"), PROSE.items(), ids=list(PROSE))
def test_the_text_says_what_the_code_says(name: str, phrase: str) -> None:
    assert phrase.format(IN_CODE[name]) in " ".join(PAGE.read_text("utf-8").split())


def test_what_is_shown_to_be_set_can_be_set() -> None:
    shown = re.findall(r"--set ([a-z][\w.]*)=", PAGE.read_text("utf-8"))
    assert shown
    assert [name for name in shown if name.removeprefix("smartroute.") not in IN_CODE] == []
