"""The soak run, in small: nothing is lost, nothing stays behind, and a run that was not good says so."""

from collections import Counter

import pytest

from benchmarks import soak


def test_a_short_run(capsys: pytest.CaptureFixture[str]) -> None:
    result = soak.measure(300)
    assert result["problems"] == [], result["errors"]
    assert sum(result["outcomes"].values()) == 300
    assert set(result["outcomes"]) <= {"answered", "left", "interrupted"}
    soak.show(result)
    assert "300 calls in" in capsys.readouterr().out


def samples(*resident: int, tokens: float = 10.0) -> list[soak.Sample]:
    """Samples, one after each hundred calls."""
    return [soak.Sample(n * 100, n, size, 0, 1, 1, 1, 0, tokens) for n, size in enumerate(resident)]


FLAT = samples(*range(10_000, 60_000, 1_000), *[60_000] * 51)
GROWING = samples(*range(0, 101 * 10_000, 10_000))
LEVEL = soak.Level(0, 0, threads=1, descriptors=6)


def test_growth_is_told_from_a_start() -> None:
    assert abs(soak.slope(FLAT, "resident")) < 1
    assert soak.slope(GROWING, "resident") == pytest.approx(100)


@pytest.mark.parametrize(
    ("outcomes", "taken", "after", "problem"),
    [
        ({"answered": 9_990, "left": 7, "interrupted": 3}, FLAT, LEVEL, None),
        ({"answered": 9_999, "lost": 1}, FLAT, LEVEL, "1 calls lost"),
        ({"answered": 9_998, "wrong": 2}, FLAT, LEVEL, "2 calls wrong"),
        ({"answered": 9_999}, FLAT, LEVEL, "9999 of 10000 calls came to an end"),
        ({"answered": 10_000}, GROWING, LEVEL, "memory grows by 100 bytes per call"),
        ({"answered": 10_000}, FLAT, LEVEL._replace(threads=2), "threads, descriptors: (1, 6) before, (2, 6) after"),
        (
            {"answered": 10_000},
            FLAT,
            LEVEL._replace(descriptors=9),
            "threads, descriptors: (1, 6) before, (1, 9) after",
        ),
        ({"answered": 10_000}, samples(*[0] * 101, tokens=-1.0), LEVEL, "the budget was overdrawn"),
    ],
)
def test_what_is_not_good_is_a_problem(
    outcomes: dict[str, int], taken: list[soak.Sample], after: soak.Level, problem: str | None
) -> None:
    found = soak.judge(10_000, Counter(outcomes), taken, LEVEL, after)
    assert found == ([] if problem is None else [problem])
