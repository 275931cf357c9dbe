"""An explained look-up asks what a get asks, in the same order, and leaves the caches as a get does."""

from __future__ import annotations

import random

import pytest

from raykv.errors import CorruptData
from raykv.storage.explaining import MEMTABLE, RECORD_CACHE, RUN, SEALED


def clock():
    at = [0.0]

    def now_s():
        at[0] += 1e-6
        return at[0]

    return now_s


def told(looks):
    return [(look.source, look.filter, look.block, look.found) for look in looks]


def test_each_source_in_turn(drive, disk):
    engine = drive.open(disk, compaction="tiered", runs_per_level=9)
    for number in range(3):
        engine.update(b"k%d" % number, b"1:" + b"x" * 30)
        drive.flush(engine)
    engine.update(b"sealed", b"1:s")
    engine.begin_snapshot()
    engine.update(b"fresh", b"1:f")
    runs = [run.number for run in engine._runs]
    assert told(engine.explain(b"fresh", clock())) == [(MEMTABLE, "", "", True)]
    assert told(engine.explain(b"sealed", clock())) == [(MEMTABLE, "", "", False), (SEALED, "", "", True)]
    oldest = told(engine.explain(b"k0", clock()))
    assert oldest[:2] == [(MEMTABLE, "", "", False), (SEALED, "", "", False)]
    assert oldest[-1] == (f"{RUN} {runs[-1]}", "maybe", "read", True)
    assert told(engine.explain(b"k0", clock()))[-1] == (f"{RUN} {runs[-1]}", "maybe", "cached", True)
    assert told(engine.explain(b"k0", clock()))[-1] == (RECORD_CACHE, "", "", True), "as the second get keeps it"
    looks = engine.explain(b"absent", clock())
    assert [look.source for look in looks[2:]] == [f"{RUN} {number}" for number in runs]
    assert not any(look.found for look in looks)
    assert all(look.us > 0 for look in looks)


def test_it_is_true_to_what_a_get_counts(drive, disk):
    """The other way to know: the engine's counters of blocks read, hits and filters, for the same keys."""
    engine, twin = drive.open(disk), drive.open(type(disk)())
    keys = sorted(drive.fill(engine, 400))
    assert keys == sorted(drive.fill(twin, 400))
    for each in (engine, twin):
        drive.flush(each)
    draw = random.Random(4)
    for _ in range(300):
        key = draw.choice(keys) if draw.random() < 0.7 else b"absent%d" % draw.randrange(50)
        before = twin.stats()
        found = twin.get(key)
        after = twin.stats()
        looks = engine.explain(key, clock())
        assert any(look.found for look in looks) == (found is not None)
        assert sum(look.filter == "no" for look in looks) == after.bloom_negatives - before.bloom_negatives
        assert sum(look.block == "read" for look in looks) == after.cache_misses - before.cache_misses
        hits = sum(look.block == "cached" or look.source == RECORD_CACHE for look in looks)
        assert hits == after.cache_hits - before.cache_hits
        if found is not None:
            assert looks[-1].record_bytes == len(found.record)


def test_a_false_positive_is_seen_as_one(drive, disk):
    engine = drive.open(disk, bloom_bits_per_key=1)
    drive.fill(engine, 400)
    drive.flush(engine)
    looks = [look for number in range(400) for look in engine.explain(b"absent%d" % number, clock())]
    false = [look for look in looks if look.filter == "maybe" and not look.found]
    assert false
    assert all(look.table.endswith(".sst") for look in false)


def test_damage_is_reported_as_a_get_reports_it(drive, disk):
    engine = drive.open(disk)
    drive.fill(engine, 100)
    drive.flush(engine)
    (table,) = drive.files(disk, ".sst")[:1]
    disk.flip_bit(table, 60)
    keys = [b"k%05d" % number for number in range(100)] + [b"k-%05d" % number for number in range(100)]

    def all_of_them():
        for key in keys:
            engine.explain(key, clock())

    with pytest.raises(CorruptData):
        all_of_them()
    assert engine.damaged
