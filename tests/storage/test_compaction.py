"""Which tables are merged: cases by hand, and months of flushes."""

import random
from typing import NamedTuple

import pytest

from raykv.config import NodeConfig
from raykv.storage import compaction
from raykv.storage.compaction import (
    Part,
    Task,
    apply,
    garbage_bytes,
    levels,
    next_due_ms,
    pick,
    space_amplification,
    tier,
)

SIZES = {"memtable_bytes": 4096, "max_unflushed_bytes": 8192, "runs_per_level": 3}  # tiers end at 4, 12, 36 KiB...
CONFIG = NodeConfig(**SIZES, max_space_amplification=1000)
BOUNDED = NodeConfig(**SIZES)
LEVELED = NodeConfig(**SIZES, compaction="leveled", level_ratio=4, max_space_amplification=1000)
KIB = 1024


class Table(NamedTuple):
    number: int
    size_bytes: int
    smallest: bytes = b"a"
    largest: bytes = b"z"
    count: int = 100
    markers: int = 0
    covers: int = 0
    since_ms: int = 0


class Run(NamedTuple):
    number: int
    tables: tuple[Table, ...]

    @property
    def size_bytes(self):
        return sum(table.size_bytes for table in self.tables)


def run(number, *tables):
    return Run(number, tables)


def runs(*sizes, **fields):
    """Newest first, sizes in KiB, numbered 10, 11, ..., each of one table that spans all keys."""
    return [run(10 + index, Table(10 + index, size * KIB, **fields)) for index, size in enumerate(sizes)]


def table(number, smallest, largest, size=1, **fields):
    return Table(number, size * KIB, smallest.encode(), largest.encode(), **fields)


def numbers(task):
    return task and [part.run for part in task.parts]


def taken(task):
    return task and [part.tables for part in task.parts]


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
def test_tiered(sizes, expected):
    task = pick(runs(*sizes), CONFIG)
    assert numbers(task) == expected
    assert taken(task) == (expected and [(number,) for number in expected]), "whole runs"


def test_while_runs_are_merged_newer_ones_are_picked_among_themselves():
    assert numbers(compaction.pick_newer(runs(4, 4, 4), CONFIG)) == [10, 11, 12]
    assert compaction.pick_newer(runs(4, 4), CONFIG) is None
    assert compaction.pick_newer([], CONFIG) is None
    assert compaction.pick_newer(runs(4, 4, 4), LEVELED) is None, "their outcome belongs to one level"


def test_levels_follow_from_the_size_of_the_last():
    assert levels(40 * KIB, LEVELED) == [40 * KIB], "the next would be smaller than three memtables"
    assert levels(48 * KIB, LEVELED) == [48 * KIB, 12 * KIB]
    assert levels(200 * KIB, LEVELED) == [200 * KIB, 50 * KIB, 12.5 * KIB]


def test_leveled_merges_fresh_runs_into_the_newest_level():
    assert pick(runs(4, 4, 40), LEVELED) is None
    assert numbers(pick(runs(4, 4, 4, 40), LEVELED)) == [10, 11, 12, 13]
    assert numbers(pick(runs(4, 4, 4, 12, 48), LEVELED)) == [10, 11, 12, 13], "the last level is not touched"


def test_leveled_takes_all_of_the_fresh_runs_and_what_lies_within_their_range():
    fresh = [run(1, table(1, "d", "e")), run(2, table(2, "h", "i"), table(3, "k", "l")), run(3, table(4, "d", "d"))]
    level = run(4, *(table(10 + at, a, b) for at, (a, b) in enumerate(["ac", "ef", "gg", "lm", "np"])))
    task = pick([*fresh, level, run(5, table(20, "a", "z", 48))], LEVELED)
    assert task.parts == (Part(1, (1,)), Part(2, (2, 3)), Part(3, (4,)), Part(4, (11, 12, 13)))


def test_leveled_gives_the_table_down_that_overlaps_least():
    level = run(1, table(1, "a", "b", 8), table(2, "c", "d", 8))
    last = run(2, table(3, "a", "a", 30), table(4, "b", "b", 10), table(5, "d", "z", 8))
    assert pick([level, last], LEVELED).parts == (Part(1, (2,)), Part(2, (5,)))
    beside = run(2, table(3, "a", "b", 40), table(5, "e", "z", 8))
    assert pick([level, beside], LEVELED).parts == (Part(1, (2,)), Part(2, ())), "it only moves"
    within = run(1, table(1, "a", "b", 4), table(2, "c", "d", 8))
    assert pick([within, last], LEVELED) is None, "12 of 12 KiB"


def test_leveled_begins_with_the_fullest_level():
    stack = [run(1, table(1, "a", "z", 20)), run(2, table(2, "a", "z", 100)), run(3, table(3, "a", "z", 256))]
    assert numbers(pick(stack, LEVELED)) == [2, 3], "100 of 64 KiB are 1.6; 20 of 16 are 1.25"


def test_what_is_covered_counts_as_garbage():
    older = table(2, "a", "z", 100, count=1000)
    assert space_amplification([]) == 1.0
    assert space_amplification([run(1, older)]) == 1.0
    assert garbage_bytes([run(1, table(1, "a", "z", 10, count=100, covers=50)), run(2, older)]) == 5 * KIB
    assert garbage_bytes([run(1, table(1, "a", "z", 10, count=100, covers=-1)), run(2, older)]) == 10 * KIB, "unknown"
    assert garbage_bytes([run(2, table(2, "a", "z", 100, covers=70))]) == 0, "there is nothing below"
    huge = table(1, "a", "z", 10, count=10**6, covers=-1)
    assert garbage_bytes([run(1, huge), run(2, older)]) == 100 * KIB, "no more than there is below"


def test_deletion_markers_count_as_garbage_by_the_length_of_their_keys():
    marked = Table(1, 10 * KIB, b"a" * 10, b"b" * 30, count=100, markers=20)
    assert garbage_bytes([run(1, marked)]) == 20 * 20
    assert garbage_bytes([run(1, marked._replace(size_bytes=1000))]) == 200, "no more than their share"


def test_past_the_bound_on_garbage_everything_is_merged():
    def stack(covers):
        newer = table(1, "a", "z", 30, count=300, covers=covers)
        return [run(1, newer), run(2, table(2, "a", "z", 60, count=600))]

    assert pick(stack(290), BOUNDED) is None, "90 over 61"
    task = pick(stack(300), NodeConfig(**SIZES, max_space_amplification=1.4))
    assert numbers(task) == [1, 2]
    assert task.reason == "garbage"
    assert pick(stack(300), CONFIG) is None


def test_little_garbage_is_let_be():
    small = [run(1, Table(1, 4096, covers=100)), run(2, Table(2, 4096))]
    assert space_amplification(small) == 2.0
    assert pick(small, BOUNDED) is None, "less than a memtable"


def test_old_deletion_markers_are_merged_down_with_what_lies_within_their_range():
    age = round(CONFIG.max_marker_age_s * 1000)
    stack = [
        run(1, table(1, "a", "z", 1)),
        run(2, table(2, "a", "b", 2), table(3, "e", "f", 2, markers=1, since_ms=500), table(4, "x", "z", 2)),
        run(3, table(5, "a", "c", 4), table(6, "d", "e", 4), table(7, "g", "h", 4)),
        run(4, table(8, "a", "b", 10), table(9, "d", "d", 10), table(10, "f", "f", 10), table(11, "g", "z", 10)),
    ]
    assert next_due_ms(stack, CONFIG) == 500 + age
    assert pick(stack, CONFIG, now_ms=499 + age) is None
    task = pick(stack, CONFIG, now_ms=500 + age)
    assert task.parts == (Part(2, (3,)), Part(3, (6,)), Part(4, (9, 10)))
    assert pick(stack, CONFIG) is None, "the time is not known"
    assert next_due_ms(stack[:1], CONFIG) is None


def test_deletion_markers_in_the_oldest_run_are_taken_with_all_between_them():
    marked = {"markers": 1, "since_ms": 1}
    oldest = run(1, table(1, "a", "b", **marked), table(2, "c", "d"), table(3, "e", "f", **marked), table(4, "g", "h"))
    assert pick([oldest], CONFIG, now_ms=10**12).parts == (Part(1, (1, 2, 3)),)


def test_apply_keeps_the_order_of_age_and_the_number_of_the_oldest():
    old = runs(1, 2, 3, 4)
    merged = Table(99, 5)
    task = Task((Part(11, (11,)), Part(12, (12,))), "")
    assert apply(old, task, [merged], Run) == [old[0], run(12, merged), old[3]]
    everything = compaction.everything(old)
    assert apply(old, everything, [], Run) == []
    newer = [run(50, Table(50, 1)), *old]  # a flush came in between
    assert apply(newer, task, [merged], Run) == [newer[0], newer[1], run(12, merged), old[3]]


def test_apply_replaces_a_part_of_a_run():
    newer = run(1, table(1, "a", "c"), table(2, "d", "f"))
    older = run(2, table(3, "a", "b"), table(4, "e", "e"), table(5, "g", "h"))
    task = Task((Part(1, (2,)), Part(2, (4,))), "")
    merged = [table(9, "d", "d"), table(10, "e", "f")]
    assert apply([newer, older], task, merged, Run) == [
        run(1, newer.tables[0]),
        run(2, older.tables[0], *merged, older.tables[2]),
    ]
    moved = Task((Part(1, (1, 2)), Part(2, ())), "")
    beside = run(2, table(3, "g", "h"))
    assert apply([newer, beside], moved, list(newer.tables), Run) == [run(2, *newer.tables, beside.tables[0])]


@pytest.mark.parametrize(
    "task",
    [
        Task((Part(10, (10,)), Part(12, (12,))), "not neighbours"),
        Task((Part(11, (11,)), Part(10, (10,))), "the wrong way round"),
        Task((Part(13, (13,)), Part(14, (14,))), "one is gone"),
        Task((Part(10, (77,)), Part(11, (11,))), "a table is gone"),
    ],
)
def test_apply_refuses_what_is_not_there(task):
    with pytest.raises((ValueError, StopIteration)):
        apply(runs(1, 2, 3, 4), task, [], Run)


def test_apply_refuses_an_outcome_that_overlaps_what_stays():
    stack = [run(1, table(1, "c", "d")), run(2, table(2, "a", "b"), table(3, "d", "f"))]
    with pytest.raises(ValueError, match="disjoint"):
        apply(stack, Task((Part(1, (1,)), Part(2, ())), ""), [table(9, "c", "d")], Run)


@pytest.mark.parametrize("overlap", [0.0, 0.3])
def test_years_of_flushes_keep_runs_few_and_writes_low(overlap):
    rng = random.Random(1)
    live, number, written, flushed, most = [], 0, 0, 0, 0
    for _ in range(5000):
        number += 1
        live.insert(0, run(number, Table(number, 4096)))
        flushed += 4096
        while (task := pick(live, CONFIG)) is not None:
            chosen = numbers(task)
            size = int(sum(each.size_bytes for each in live if each.number in chosen) * (1 - overlap * rng.random()))
            number += 1
            written += size
            live = apply(live, task, [Table(number, size)], Run)
        most = max(most, len(live))
    assert most <= 2 * 9  # (T-1) runs a tier, log_3(5000) tiers
    assert written / flushed < 10


class Model:
    """Runs of dicts, merged as pick and apply say. Every table knows its records."""

    def __init__(self, config):
        self.config, self.runs, self.records, self.number = config, [], {}, 0

    def make(self, records, older, since_ms):
        items = sorted((key, value) for key, value in records.items() if older or value is not None)
        made = []
        for at in range(0, len(items), 20):
            part = dict(items[at : at + 20])
            self.number += 1
            self.records[self.number] = part
            below = {key for each in older for one in each.tables for key in self.records[one.number]}
            made.append(
                Table(
                    self.number, 200 * len(part), min(part), max(part), len(part),
                    sum(value is None for value in part.values()), len(below & part.keys()), since_ms,
                )
            )  # fmt: skip
        return made

    def flush(self, records, now_ms):
        made = self.make(records, self.runs, now_ms)
        if made:
            self.runs.insert(0, run(made[0].number, *made))
        while (task := pick(self.runs, self.config, now_ms)) is not None:
            newest, inputs = {}, []
            for part in reversed(task.parts):
                for number in part.tables:
                    newest |= self.records[number]
                    inputs += [each for one in self.runs for each in one.tables if each.number == number]
            at = [each.number for each in self.runs].index(task.parts[-1].run)
            since_ms = min((each.since_ms for each in inputs if each.markers), default=0)
            self.runs = apply(self.runs, task, self.make(newest, self.runs[at + 1 :], since_ms), Run)

    def content(self):
        found = {}
        for each in reversed(self.runs):
            for one in each.tables:
                found |= self.records[one.number]
        return {key: value for key, value in found.items() if value is not None}


@pytest.mark.parametrize("policy", ["tiered", "leveled"])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_picked_the_newest_record_stands_and_garbage_is_bounded(policy, seed):
    rng = random.Random(f"{policy} {seed}")
    config = NodeConfig(**SIZES, compaction=policy, level_ratio=rng.choice((2, 4)), max_marker_age_s=1)
    model, expected = Model(config), {}
    keys = [b"%04d" % number for number in range(rng.choice((60, 600)))]
    for step in range(250):
        first = rng.randrange(len(keys))
        among = keys[first : first + 30] if rng.random() < 0.3 else keys
        memtable = {key: None if rng.random() < 0.2 else step for key in rng.choices(among, k=20)}
        expected |= memtable
        expected = {key: value for key, value in expected.items() if value is not None}
        now_ms = 100 * (step + 1)
        model.flush(memtable, now_ms)
        assert model.content() == expected
        stored = sum(each.size_bytes for each in model.runs)
        assert stored <= 1.5 * 200 * len(expected) + 4096 + 200 * 20
        markers = [one.since_ms for each in model.runs for one in each.tables if one.markers]
        assert all(now_ms - since_ms < 1000 for since_ms in markers)
