from __future__ import annotations

from typing import Any

import pytest

from raykv.cli.demo_report import Sample, latencies, percentile, phase_of, problems, report


def figures(**changed: Any) -> dict[str, Any]:
    phases = latencies([Sample(0.0, 0.001), Sample(10.0, 10.2), Sample(15.0, 15.005)], 10.0, 12.0)
    listing = {"prefix": "city:NL:", "expected": 401, "listed": 401, "wrong": 0}
    return {
        "records": 34_006, "acknowledged": 36_123, "lost": 0, "failed": 0, "stale": 0, "node_killed": "n1",
        "node_back_s": 2.0, "latency_ms": phases, "listing": listing, "load_per_s": 8000.0, "read_per_s": 9000.0,
    } | changed  # fmt: skip


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([7.0], 0.0, 7.0),
        ([7.0], 0.99, 7.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 102)], 0.99, 100.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[float], share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected


@pytest.mark.parametrize(
    ("due_s", "end_s", "back_s", "phase"),
    [
        (1.0, 9.9, 12.0, "before"),
        (9.0, 10.0, 12.0, "during"),  # the kill was under it
        (9.0, 13.0, 12.0, "during"),
        (11.0, 11.1, 12.0, "during"),
        (11.9, 20.0, 12.0, "during"),
        (12.0, 12.1, 12.0, "after"),
        (50.0, 50.1, None, "during"),  # it never came back
    ],
)
def test_phases(due_s: float, end_s: float, back_s: float | None, phase: str) -> None:
    assert phase_of(Sample(due_s, end_s), 10.0, back_s) == phase


def test_latencies_are_in_milliseconds_and_by_phase() -> None:
    found = latencies([Sample(1.0, 1.002), Sample(2.0, 2.004), Sample(10.0, 10.5)], 10.0, 11.0)
    assert found["before"] == {"operations": 2, "p50": 2.0, "p99": 4.0, "max": 4.0}
    assert found["during"]["max"] == 500.0
    assert found["after"] == {"operations": 0, "p50": None, "p99": None, "max": None}


def test_nothing_wrong_is_no_problem() -> None:
    assert problems(figures()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lost": 2}, "2 acknowledged writes are lost"),
        ({"stale": 1}, "1 reads missed"),
        ({"failed": 3}, "3 operations failed"),
        ({"node_back_s": None}, "n1 did not come back"),
        ({"listing": {"prefix": "city:NL:", "expected": 3, "listed": 2, "wrong": 1}}, "1 pairs of the listing"),
    ],
)
def test_each_problem_is_said(changed: dict[str, Any], said: str) -> None:
    (problem,) = problems(figures(**changed))
    assert said in problem


def test_the_report_has_every_figure() -> None:
    text = report(figures())
    for part in ("36,123", "city:NL: 401 of 401, 0 wrong", "2.0 s", "8,000 records/s", "9,000 records/s", "200.0"):
        assert part in text


def test_the_report_of_a_node_that_stayed_away() -> None:
    phases = latencies([Sample(0.0, 0.001)], 10.0, None)
    text = report(figures(node_back_s=None, latency_ms=phases))
    assert "never" in text
    assert "-" in text.splitlines()[-1]
