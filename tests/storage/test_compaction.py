import random
from typing import NamedTuple

import pytest

from raykv.config import NodeConfig
from raykv.storage.compaction import apply, pick, tier

CONFIG = NodeConfig(memtable_bytes=4096, max_unflushed_bytes=8192, runs_per_level=3)  # tiers end at 4, 12, 36 KiB...


class Run(NamedTuple):
    number: int
    size_bytes: int


def runs(*sizes):
    """Newest first, sizes in KiB, numbered 10, 11, ..."""
    return [Run(10 + index, size * 1024) for index, size in enumerate(sizes)]


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (4096, 0), (4097, 1), (3 * 4096, 1), (3 * 4096 + 1, 2)])
def test_tiers(size, expected):
    assert tier(size, CONFIG) == expected


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((), None),
        ((4,), None),
        ((4, 4), None),
        ((4, 4, 4), [10, 11, 12]),
        ((4, 4, 4, 4), [10, 11, 12, 13]),
        ((4, 4, 12, 12), None),
        ((4, 12, 12, 12), [11, 12, 13]),
        ((4, 4, 12, 12, 36, 36), None),
        ((4, 4, 4, 12, 12, 12), [10, 11, 12]),  # the cheaper one first
        ((4, 12, 1, 12, 36), [11, 12, 13]),  # a small run behind a large one counts as large
        ((4, 12, 1, 36), None),
        ((12, 4, 4), [10, 11, 12]),
    ],
)
def test_pick(sizes, expected):
    assert pick(runs(*sizes), CONFIG) == expected


def test_apply_keeps_the_order_of_age():
    old = runs(1, 2, 3, 4)
    merged = Run(99, 5)
    assert apply(old, [11, 12], merged) == [old[0], merged, old[3]]
    assert apply(old, [10, 11, 12, 13], None) == []
    newer = [Run(50, 1), *old]  # a flush came in between
    assert apply(newer, [10, 11], merged) == [newer[0], merged, *old[2:]]


@pytest.mark.parametrize("numbers", [[10, 12], [11, 10], [13, 14]])
def test_apply_refuses_what_are_not_neighbours(numbers):
    with pytest.raises((AssertionError, StopIteration)):
        apply(runs(1, 2, 3, 4), numbers, None)


@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_years_of_flushes_keep_runs_few_and_writes_low(overlap):
    rng = random.Random(1)
    live, number, written, flushed, most = [], 0, 0, 0, 0
    for _ in range(5000):
        number += 1
        live.insert(0, Run(number, 4096))
        flushed += 4096
        while (chosen := pick(live, CONFIG)) is not None:
            size = int(sum(run.size_bytes for run in live if run.number in chosen) * (1 - overlap * rng.random()))
            number += 1
            written += size
            live = apply(live, chosen, Run(number, size))
        most = max(most, len(live))
    assert most <= 2 * 9  # (T-1) runs a tier, log_3(5000) tiers
    assert written / flushed < 10
