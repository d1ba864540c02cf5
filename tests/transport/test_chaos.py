"""The chaos suite in short: every fault once, the kinds of clients taking turns. `make chaos` plays all with all."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import httpx2
import pytest

from benchmarks.chaos.clients import KINDS, Call
from benchmarks.chaos.command import Cell, cells, play_all
from benchmarks.chaos.engine import Result, judge, play
from benchmarks.chaos.faults import CASES
from benchmarks.chaos.network import why_not
from benchmarks.chaos.report import report
from benchmarks.chaos.stage import Case, Stage
from benchmarks.chaos.worker import MOST_AT_ONCE
from benchmarks.chaos.world import World, trust
from tests.transport.kit import CHAT

AVAILABLE = [name for name, kind in KINDS.items() if kind.available]
CELLS_AT_ONCE = 10
SHORT = [
    Cell(case.name, kind, bool(number % 2) if case.streamed is None else case.streamed)
    for number, (case, kind) in enumerate(zip(CASES.values(), cycle(AVAILABLE), strict=False))
]
OF_A_NETWORK = [cell for cell in SHORT if CASES[cell.case].network]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", ["sync", "async"])
async def test_every_promise_is_kept(way: str, caplog: pytest.LogCaptureFixture) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MOST_AT_ONCE))
    turn = asyncio.Semaphore(CELLS_AT_ONCE)

    async def take_turn(cell: Cell) -> Result:
        async with turn:
            return await play(CASES[cell.case], KINDS[cell.kind], streamed=cell.streamed, calls=2, rounds=1)

    playing = [cell for cell in SHORT if cell.kind.startswith(way) and cell not in OF_A_NETWORK]
    playing.sort(key=lambda cell: not CASES[cell.case].is_slow)
    results = await asyncio.gather(*map(take_turn, playing))
    assert {result.case: result.broken for result in results if result.broken} == {}
    assert len(results) > len(CASES) / 4
    complaints = [record.getMessage() for record in caplog.records if record.name.startswith("opentelemetry")]
    assert complaints == []  # of spans that are changed after their end, or ended twice


@pytest.mark.timeout(120)
async def test_every_promise_is_kept_on_a_sick_network() -> None:
    if (lacking := why_not()) is not None:
        pytest.skip(f"{len(OF_A_NETWORK)} cells need a network of their own: {lacking}")
    results = await play_all(OF_A_NETWORK, 2, len(OF_A_NETWORK), alone=True)
    assert {result.case: result.broken for result in results if result.broken} == {}
    assert len(results) == len(OF_A_NETWORK) == 4


def test_all_kinds_and_both_ways_take_their_turns() -> None:
    assert len(AVAILABLE) >= 4
    assert {cell.kind for cell in SHORT} == set(AVAILABLE)
    assert {cell.case for cell in SHORT} == set(CASES) == {cell.case for cell in cells()}
    for kind in AVAILABLE:
        assert {cell.streamed for cell in SHORT if cell.kind == kind} == {False, True}


async def test_a_broken_promise_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    """The judge, shown servers and callers that did what they must not."""
    case = Case("made up", lambda _: None, again=False)
    with World() as world:
        stage = Stage(case, KINDS["sync httpx2"], streamed=True, world=world, wanted=1, rounds=1)
        stage.calls = [
            Call("whole", route="second", text="second 2 3 4 5"),
            Call("cut", route="second", text="second 2 3"),
            Call("lost", error=httpx2.ReadTimeout("it took too long")),
        ]
        stage.left = 1
        for region, name, key in (
            (world.second, "whole", "fake-second-key"),
            (world.third, "whole", "fake-third-key"),
            (world.third, "cut", "fake-second-key"),
        ):
            headers = {"authorization": f"Bearer {key}", "idempotency-key": name}
            httpx2.post(f"{region.url}/chat/completions", json=CHAT, headers=headers, verify=trust(), trust_env=False)
        httpx2.get(f"{world.elsewhere.url}/models", trust_env=False)
        result = Result("refused", "sync httpx2", streamed=True)
        result.left = stage.left
        judge(stage, None, result)
    assert result.broken == [
        "1 failed: ReadTimeout('it took too long')",
        "1 truncated successes",
        "1 requests to third with another's key or none",
        "GET /v1/models to a stranger",
        "1 seen by two servers",
        "1 connections left",
    ]
    assert not report([result], {"a reason": 7})
    printed = capsys.readouterr().out
    assert "BROKEN   1 failed calls" in printed
    assert "SKIPPED  7 cells: a reason" in printed
    assert report([Result("refused", "sync httpx2", streamed=True, calls=1)], {})
