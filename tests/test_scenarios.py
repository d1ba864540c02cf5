"""The scenarios: each rule and each transition as a file, readable by those who do not read Python.

`tests/scenarios/README.md` explains their language. Here they are played, and here it is seen to that none is
missing: what has to be covered is read from the code itself.
"""

import ast
import copy
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smartroute.policy import outcome, selection
from smartroute.policy.breaker import Breaker
from smartroute.policy.exchange import Exchange
from smartroute.policy.known import Known
from smartroute.policy.outcome import Failure
from smartroute.policy.selector import Selector
from smartroute.router import Router
from tests.scenarios import playing, reading
from tests.scenarios.playing import Met, play
from tests.scenarios.reading import MistakeError, Scenario, read

FOLDER = Path(reading.__file__).parent
FILES = sorted(FOLDER.glob("*.toml"))


def _titled(path: Path) -> Any:
    try:
        title = read(path).title
    except MistakeError:
        title = path.name  # its test tells what is wrong with it
    return pytest.param(path, id=title)


@pytest.mark.parametrize("path", [_titled(path) for path in FILES])
def test_scenario(path: Path) -> None:
    if missed := play(read(path)):
        pytest.fail("\n".join(missed), pytrace=False)


# --- that none is missing ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    return [read(path) for path in FILES]


@pytest.fixture(scope="module")
def met(scenarios: list[Scenario]) -> Met:
    """What happens to requests in all of the scenarios together."""
    everything = Met()
    for scenario in scenarios:
        play(scenario, everything)
    return everything


def _tree(of: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(of)))


def _strings(tree: ast.AST) -> set[str]:
    """The strings in a piece of code but for those that explain it."""
    explaining = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in explaining
    }


NO_REASONS = {"", "open", "challenger"}
"""What the same code says to itself: an open route stands as a last resort, a challenger as the best or not at all."""


def _reasons() -> set[str]:
    """Every reason that the code can give for where an endpoint stands, and for asking it."""
    functions = [of for _, of in inspect.getmembers(selection, inspect.isfunction)]
    helpers = [of for of in functions if of.__module__ == selection.__name__]
    given = set().union(*(_strings(_tree(each)) for each in (*helpers, Known.obstacle, Selector._field)))
    for node in ast.walk(_tree(Exchange)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_send":
            given |= set().union(*map(_strings, node.args))
    given |= _strings(_tree(Router.begin)) & {"pinned"}
    assert {"incumbent", "spill", "next", "suspect", "busy", "region", "failover", "next_key", "pinned"} <= given
    return given - NO_REASONS


def test_every_reason_is_in_a_scenario(scenarios: list[Scenario]) -> None:
    shown = {
        reason
        for scenario in scenarios
        for step in scenario.steps
        for word in ("asked", "ranking")
        for _, reason in step.expected.get(word, ())
    }
    assert shown - {None} == _reasons()


CHANCES: dict[str, tuple[Any, ...]] = {
    "now": (1_000.0,),
    "cause": ("cause",),
    "unreachable": (True, False),
    "started": (0.0, 1_000.0),
    "good": (True, False),
    "probed_since": (None, 0.0),
    "within": (1_000.0,),
}
"""What may be said to a breaker, by the names of its parameters."""


def _transitions() -> set[tuple[str, str]]:
    """Every change of state that a breaker can be brought to, by trying."""
    methods = [name for name, _ in inspect.getmembers(Breaker, inspect.isfunction) if not name.startswith("_")]
    assert methods
    found: set[tuple[str, str]] = set()
    reached = {"closed": Breaker(0.0, lambda: 0.5)}
    pending = list(reached.values())
    while pending:
        start = pending.pop()
        for method in methods:
            names = list(inspect.signature(getattr(Breaker, method)).parameters)[1:]
            for values in itertools.product(*(CHANCES[name] for name in names)):
                breaker = copy.copy(start)
                breaker._outcomes = copy.copy(start._outcomes)
                for _ in range(20):  # some things have to be said more than once
                    before = breaker.state
                    getattr(breaker, method)(**dict(zip(names, values, strict=True)))
                    if breaker.state is not before:
                        found.add((str(before), str(breaker.state)))
                        if breaker.state not in reached:
                            reached[breaker.state] = breaker
                            pending.append(breaker)
                        break
    return found


def test_every_transition_is_in_a_scenario(scenarios: list[Scenario]) -> None:
    shown = {
        tuple(change.split(": ")[1].split(" -> "))
        for scenario in scenarios
        for step in scenario.steps
        for change in step.expected.get("changes", ())
    }
    assert shown == _transitions()


def test_every_line_of_the_status_table_is_in_a_scenario(met: Met) -> None:
    assert set(outcome._BY_STATUS) <= met.statuses
    rest = {status // 100 for status in met.statuses - set(outcome._BY_STATUS)}
    assert {2, 3, 4, 5} <= rest


def test_every_failure_is_in_a_scenario(met: Met) -> None:
    of_a_driver = {Failure.OVERTAKEN}  # it gives up what it has begun beside an attempt that is answered after all
    assert met.failures == set(Failure) - of_a_driver


def test_no_two_scenarios_have_the_same_title(scenarios: list[Scenario]) -> None:
    titles = [scenario.title for scenario in scenarios]
    assert len(set(titles)) == len(titles)


def test_every_word_is_explained_and_used(scenarios: list[Scenario]) -> None:
    explained = (FOLDER / "README.md").read_text("utf-8")
    words = {*reading.OPTIONS, *reading.ROUTE, *reading.DOES}
    used = {word for each in scenarios for word in each.options}
    used |= {word for each in scenarios for route in each.routes for word in route}
    for word, reader in reading._step_words(["a"]).items():
        words |= {word}
        if word in ("request", "expect"):
            words |= set(reader.args[0])  # type: ignore[attr-defined]
    for step in (step for each in scenarios for step in each.steps):
        used |= {*step.given, *step.given.get("request", {}), *step.expected, "expect"}
        for does in itertools.chain(*step.given.get("meets", {}).values(), step.given.get("probe", {}).values()):
            used.add(does.words)
    assert [word for word in sorted(words) if f"`{word}" not in explained and f'"{word}' not in explained] == []
    assert sorted(words - used) == []


# --- that they are read with care ----------------------------------------------------------------------

GOOD = """
title = "a title"
why = "a reason"

[[route]]
name = "near"
round_trip_ms = 20

[[step]]
request = {}
meets.near = "503"
expect.asked = ["near (best)", "global (failover)"]
expect.state = { near = "closed" }
expect.in_flight.near = 0
"""


def _changed(before: str, after: str) -> str:
    assert before in GOOD
    return GOOD.replace(before, after)


def test_a_scenario_that_is_right() -> None:
    assert play(reading.parse(GOOD, "good.toml")) == []


def _wrong() -> Iterator[tuple[str, str, str]]:
    yield 'title = "a title"', "", "bad.toml: there is no title"
    yield 'title = "a title"', 'titel = "x"', "there is no word 'titel' here; did you mean 'title'?"
    yield "round_trip_ms", "round_trip", "bad.toml: route 1: there is no word 'round_trip' here; did you mean 'round_t"
    yield "request = {}", "requets = {}", "bad.toml, step 1: there is no word 'requets' here; did you mean 'request'?"
    yield "request = {}", "request.stream = true", "step 1: request: there is no word 'stream' here; did you mean 'st"
    yield "request = {}", "", "'meets' says what a request meets"
    yield "request = {}", 'request = {}\ndrain = "near"', "request and drain: one thing at a time"
    yield "request = {}", 'request = {}\nafter = "10"', "step 1: after: '10' is no time"
    yield "meets.near", "meets.far", "there is no word 'far' here"
    yield '"503"', '"resest"', "step 1: meets: near: nobody can do 'resest'; did you mean 'resets'?"
    yield "expect.asked", "expect.sent_to", "step 1: expect: there is no word 'sent_to' here"
    yield '"near (best)"', '"naer"', "'naer' is not known; did you mean 'near'?"
    yield '"closed"', '"shut"', "step 1: expect: state: near: 'shut' is not known"
    yield "[[step]]", "[[stop]]", "there is no word 'stop' here; did you mean 'step'?"
    yield "[[step]]", "[[step]", "bad.toml: "


@pytest.mark.parametrize(("before", "after", "told"), list(_wrong()))
def test_an_unknown_word_is_named_with_its_place(before: str, after: str, told: str) -> None:
    with pytest.raises(MistakeError) as caught:
        reading.parse(_changed(before, after), "bad.toml")
    assert told in str(caught.value)
    assert str(caught.value).startswith("bad.toml")


def test_a_scenario_has_to_expect_something() -> None:
    with pytest.raises(MistakeError, match=r"bad\.toml: nothing is expected"):
        reading.parse(GOOD.split("expect.", maxsplit=1)[0], "bad.toml")


def test_a_request_that_would_never_be_over_has_to_be_watched() -> None:
    written = _changed('"503"', '"stays silent"').replace("request = {}", 'request = { pinned = "near" }')
    with pytest.raises(MistakeError, match=r"bad\.toml, step 1: the request is never over"):
        play(reading.parse(written, "bad.toml"))


def test_what_disappoints_is_shown_readably() -> None:
    written = _changed("global (failover)", "global (fallback)").replace('"closed"', '"open"')
    missed = play(reading.parse(written, "bad.toml"))
    assert missed[:7] == [
        "bad.toml, step 1: a title",
        "  asked",
        "    expected: near (best), global (fallback)",
        "    found:    near (best), global (failover)",
        "  state",
        "    expected: near open",
        "    found:    near closed",
    ]
    assert missed[7] == "  at this point"
    assert "asked near (best): status 503" in missed[8]


def test_nothing_is_left_in_flight(scenarios: list[Scenario], monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last requests are cancelled, whatever the scenario."""
    stages: list[playing.Stage] = []
    original = playing.Stage.__init__

    def remember(self: playing.Stage, *args: Any) -> None:
        original(self, *args)
        stages.append(self)

    monkeypatch.setattr(playing.Stage, "__init__", remember)
    for scenario in scenarios:
        play(scenario)
    for stage in stages:
        stage.close()
        assert [each.in_flight for each in stage.router.status()] == [0] * len(stage.ways), stage.scenario.file
        assert stage.router._replays.tokens >= 0.0
