"""The benchmarks run, in their smallest form; and their arithmetic lets smartroute lose."""

import json
from typing import Any

import pytest

from benchmarks.figures import ratio, summary
from benchmarks.side_by_side import BENCHMARKS
from benchmarks.workers import AGAIN, Case, Contender, interleaved

EXPECTED = {
    "overhead": ("sync, stream of 200", "smartroute", "SDK again"),
    "throughput": ("32 in flight", "smartroute, httptools", "SDK again"),
    "streams": ("connections made", "held open"),
    "footprint": ("import openai and smartroute", "a conversation", "probes/s made"),
    "growth": ("sync, routes", "async, in flight", "async, chunks"),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_runs(name: str) -> None:
    benchmark = BENCHMARKS[name]
    once: dict[str, Any] = dict.fromkeys({"rounds", "sessions"} & {*benchmark.options}, 1)
    result = json.loads(json.dumps(benchmark.measure(quick=True, **once)))
    shown = benchmark.tables(result)
    assert [part for part in EXPECTED[name] if part not in shown] == []
    assert not [remark for remark in result.get("remarks", ()) if "smartroute" in remark]  # nothing of ours left out
    assert result["machine"]["cores"] >= 1


def test_a_plot_is_drawn(tmp_path: Any) -> None:
    pytest.importorskip("matplotlib")
    rounds = {"wall": [1.0, 1.1], "cpu": [1.0, 1.2], "rate": [9.0, 8.0], "p50": [0.1, 0.1], "p99": [0.2, 0.3]}
    found = {"SDK": rounds, "smartroute": rounds}
    points = [{"x": x, "sdk": 1.0, "ours": 1.0 + x / 1e6, "ratio": [1.0, 0.9, 1.1]} for x in (1, 10)]
    results: dict[str, dict[str, Any]] = {
        "overhead": {"samples": {"async, 1 kB": found}},
        "throughput": {"samples": {"1 in flight": found, "1,024 in flight": found}},
        "growth": {"curves": {"sync, routes": points}},
    }
    for name, result in results.items():
        draw = BENCHMARKS[name].draw
        assert draw is not None
        draw(result, str(tmp_path / f"{name}.svg"))
        assert "<svg" in (tmp_path / f"{name}.svg").read_text("utf-8")


def test_a_median_has_an_interval_that_narrows() -> None:
    few, many = summary([1.0, 2.0, 3.0]), summary([1.0, 2.0, 3.0] * 40)
    assert few == (2.0, 1.0, 3.0)
    assert many.median == 2.0
    assert many.high - many.low <= few.high - few.low


def test_a_ratio_is_that_of_each_round() -> None:
    drifting = [1.0, 5.0, 25.0]
    assert ratio([1.1 * each for each in drifting], drifting).percent() == "+10.0 % (+10.0 .. +10.0)"
    assert ratio([0.5 * each for each in drifting], drifting).times() == "0.50 (0.50 .. 0.50)"


def test_whoever_cannot_run_is_left_out_and_named(capfd: pytest.CaptureFixture[str]) -> None:
    absent = Contender("not installed", {"kind": "bare"}, "no-such-environment")
    broken = Contender("broken", {"kind": "no such kind"})
    case = Case(
        "nobody answers",
        {"do": "sync", "origin": "http://127.0.0.1:9", "times": 1},
        [AGAIN.name, "not installed", "broken"],
    )
    samples, left_out = interleaved([AGAIN, absent, broken], [case], rounds=1, sessions=1)
    assert samples == {"nobody answers": {}}
    assert "make bench-environments" in left_out["not installed"]
    assert "KeyError" in left_out["broken"]
    assert "APIConnectionError" in left_out[AGAIN.name]
    assert "LEFT OUT: not installed" in capfd.readouterr().err
