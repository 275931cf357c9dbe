"""Deletion markers: what is erased stays so, wherever its older records lie, and goes when none is left. And ``replace``."""

import random

import pytest

from raykv.records.dropped import DroppedBuckets
from raykv.records.keys import storage_prefix
from raykv.sim.disk import SimDisk
from raykv.storage import Engine, Found
from raykv.storage.engine import MAX_KEY_BYTES
from raykv.storage.jobs import CompactionJob, FlushJob


def fill_up(engine, seed=None):
    """Seal the memtable, with ``~``, a key that nobody asks for. With a seed it will not compress."""
    body = bytes(4200) if seed is None else random.Random(seed).randbytes(4200)
    engine.replace(b"~", b"%08d" % engine.appended_position + body)


def spill(drive, engine, seed=None):
    """Bring what there is to a run of its own."""
    fill_up(engine, seed)
    drive.sync(engine)
    do_job(engine, FlushJob)


def do_job(engine, kind):
    job = engine.next_job()
    assert type(job) is kind
    job.run()
    engine.finish(job)


def merge_the_newest_three(drive, engine):
    """Compact three runs and leave the oldest alone: it counts as larger."""
    while engine.stats().runs < 4:
        spill(drive, engine)
    do_job(engine, CompactionJob)
    assert engine.stats().runs == 2


def with_an_old_record(drive, disk, key=b"k"):
    """An engine with one run, large for its tier, that has ``key``."""
    engine = drive.open(disk)
    engine.update(key, b"9")
    spill(drive, engine, seed=1)
    return engine


def assert_gone(drive, engine, key=b"k"):
    assert engine.get(key) is None
    for reverse in (False, True):
        assert key not in [found for found, _ in engine.scan(b"", None, reverse=reverse)]


def all_after_a_restart(drive, disk, mode="drop"):
    content = drive.content(drive.open(disk.crash(random.Random(1), mode)))
    content.pop(b"~", None)
    return content


def test_a_marker_in_the_memtable_covers_a_table(drive, disk):
    engine = with_an_old_record(drive, disk)
    assert engine.get(b"k") == Found(b"9", 0)
    position = engine.erase(b"k")
    assert position == engine.appended_position > engine.durable_position
    assert_gone(drive, engine)
    assert all_after_a_restart(drive, disk) == {b"k": b"9"}, "it was not synced"
    drive.sync(engine)
    assert all_after_a_restart(drive, disk) == {}
    engine.close()
    assert all_after_a_restart(drive, disk) == {}


def test_a_sealed_marker_covers_a_table_and_a_sealed_record(drive, disk):
    engine = with_an_old_record(drive, disk)
    engine.update(b"l", b"8")
    fill_up(engine)
    engine.erase(b"k")
    engine.erase(b"l")
    fill_up(engine)
    assert engine.stats().sealed_memtables == 2
    assert_gone(drive, engine, b"k")
    assert_gone(drive, engine, b"l")
    drive.sync(engine)
    assert all_after_a_restart(drive, disk) == {}


def test_a_marker_survives_its_flush(drive, disk):
    engine = with_an_old_record(drive, disk)
    engine.erase(b"k")
    spill(drive, engine)
    assert_gone(drive, engine)
    assert engine.stats().table_records == 4, "k and ~ twice"
    assert all_after_a_restart(drive, disk) == {}


def test_a_marker_survives_a_compaction_that_leaves_an_older_run_alone(drive, disk):
    engine = with_an_old_record(drive, disk)
    engine.erase(b"k")
    merge_the_newest_three(drive, engine)
    assert engine.stats().table_records == 4
    assert_gone(drive, engine)
    assert all_after_a_restart(drive, disk) == {}


def test_a_marker_goes_in_a_compaction_of_all(drive, disk):
    engine = with_an_old_record(drive, disk)
    engine.erase(b"k")
    spill(drive, engine)
    drive.flush(engine)
    assert engine.stats().table_records == 1
    assert_gone(drive, engine)
    assert all_after_a_restart(drive, disk) == {}


def test_a_marker_goes_in_any_compaction_that_takes_the_oldest_run_in(drive, disk):
    engine = drive.open(disk)
    engine.update(b"k", b"9")
    spill(drive, engine)
    engine.erase(b"k")
    spill(drive, engine)
    spill(drive, engine)
    do_job(engine, CompactionJob)
    assert engine.stats().runs == engine.stats().table_records == 1
    assert_gone(drive, engine)


def test_the_first_flush_writes_no_markers_and_the_next_does(drive, disk):
    engine = drive.open(disk)
    engine.update(b"k", b"9")
    engine.update(b"l", b"9")
    engine.erase(b"l")
    fill_up(engine)
    engine.erase(b"k")
    fill_up(engine)
    drive.sync(engine)
    do_job(engine, FlushJob)
    assert engine.stats().table_records == 2
    assert_gone(drive, engine)
    do_job(engine, FlushJob)
    assert engine.stats().table_records == 4, "what the first brought to a table has to be covered"
    assert_gone(drive, engine)
    assert all_after_a_restart(drive, disk) == {}


def test_of_a_store_in_which_all_is_erased_nothing_is_left(drive, disk):
    engine = drive.open(disk)
    for key in (b"k", b"l"):
        engine.update(key, b"9")
        engine.erase(key)
    drive.flush(engine)
    assert (engine.stats().tables, engine.stats().runs) == (0, 0)
    model = drive.fill(engine, 300)
    drive.flush(engine)
    for key in model:
        engine.erase(key)
    drive.flush(engine)
    assert drive.files(disk, ".sst") == []
    assert drive.content(engine) == {}
    assert all_after_a_restart(drive, disk) == {}


def test_a_run_of_nothing_but_markers(drive, disk):
    engine = drive.open(disk)
    model = drive.fill(engine, 300)
    drive.flush(engine)
    for key in model:
        engine.erase(key)
    fill_up(engine)
    engine.erase(b"~")
    fill_up(engine)
    engine.erase(b"~")
    drive.sync(engine)
    drive.work(engine)
    assert engine.stats().table_records > 300
    assert drive.content(engine) == {}
    assert all(engine.get(key) is None for key in model)
    assert all_after_a_restart(drive, disk) == {}


def test_an_update_after_an_erasure_begins_anew(drive, disk):
    engine = with_an_old_record(drive, disk)
    engine.erase(b"k")
    assert engine.update(b"k", b"1").record == b"1", "not merged with the 9 that lies in the table"
    assert engine.get(b"k").record == b"1"
    drive.sync(engine)
    assert all_after_a_restart(drive, disk) == {b"k": b"1"}
    engine.erase(b"k")
    spill(drive, engine)
    assert engine.update(b"k", b"2").record == b"2", "nor where the marker lies in a table too"
    drive.sync(engine)
    merge_the_newest_three(drive, engine)
    assert engine.get(b"k").record == b"2"
    drive.flush(engine)
    assert all_after_a_restart(drive, disk) == {b"k": b"2"}


def test_an_update_after_an_erasure_is_merged_with_none(drive, disk):
    """A marker counts as no record in a merge."""
    engine = Engine.open(disk, "/x", drive.config, lambda stored, new: b"first " + new if stored is None else b"more")
    assert engine.update(b"k", b"1").record == b"first 1"
    assert engine.update(b"k", b"2").record == b"more"
    engine.erase(b"k")
    assert engine.update(b"k", b"3").record == b"first 3"


@pytest.mark.parametrize("mode", ["drop", "keep"])
def test_an_update_after_an_erasure_that_a_crash_may_take(drive, disk, mode):
    engine = with_an_old_record(drive, disk)
    engine.erase(b"k")
    drive.sync(engine)
    engine.update(b"k", b"1")
    drive.sync(engine, sync=False)
    assert all_after_a_restart(drive, disk, mode) == ({} if mode == "drop" else {b"k": b"1"})


def test_what_is_not_there_is_not_erased(drive, disk):
    engine = drive.open(disk)
    assert engine.erase(b"k") == 0
    assert engine.appended_position == 0
    assert engine.next_sync() is None
    engine = with_an_old_record(drive, disk)
    before = engine.appended_position
    assert engine.erase(b"other") == 0
    assert engine.appended_position == before


def test_an_erasure_asked_for_again_is_as_safe_as_the_first(drive, disk):
    """The second caller may not hear that it is done before it is (P3)."""
    engine = with_an_old_record(drive, disk)
    position = engine.erase(b"k")
    assert position > engine.durable_position
    assert engine.erase(b"k") == position == engine.appended_position
    spill(drive, engine)
    before = engine.appended_position
    assert engine.erase(b"k") == 0
    assert engine.appended_position == before


@pytest.mark.parametrize("key", [b"", b"\x00", b"\xff" * MAX_KEY_BYTES])
def test_odd_keys(drive, disk, key):
    engine = drive.open(disk)
    engine.update(key, b"9")
    spill(drive, engine)
    assert engine.erase(key) > 0
    spill(drive, engine)
    assert_gone(drive, engine, key)
    assert all_after_a_restart(drive, disk) == {}


def test_limits(drive, disk):
    engine = drive.open(disk)
    for call in (lambda: engine.erase(bytes(MAX_KEY_BYTES + 1)), lambda: engine.replace(b"k", b"")):
        with pytest.raises(ValueError, match="limits"):
            call()
    assert engine.appended_position == 0


def test_a_dropped_key_may_have_been_erased(drive, disk):
    key = storage_prefix(0, 1) + b"\x02k"
    engine = with_an_old_record(drive, disk, key)
    engine.erase(key)
    engine.drop = DroppedBuckets(2, frozenset())
    drive.flush(engine)
    assert engine.stats().table_records == 1
    assert_gone(drive, engine, key)


def test_an_erasure_is_seen_by_a_scan_under_way(drive, disk):
    for reverse in (False, True):
        engine = drive.open(SimDisk())
        model = drive.fill(engine, 900)
        keys = sorted(model, reverse=reverse)
        scan = engine.scan(b"", None, reverse=reverse)
        seen = [next(scan)[0]]
        for key in keys[::2]:
            engine.erase(key)
        drive.sync(engine)
        drive.work(engine)
        seen += [key for key, _ in scan]
        assert seen == sorted(set(seen), reverse=reverse)
        assert set(keys[1::2]) <= set(seen), "what was not touched comes"
        assert [key for key, _ in engine.scan(b"", None, reverse=reverse)] == keys[1::2]


def test_replace_keeps_exactly_what_it_is_given(drive, disk):
    engine = drive.open(disk)
    assert engine.replace(b"k", b"5") == Found(b"5", 1)
    assert engine.replace(b"k", b"3") == Found(b"3", 2), "which an update would not have kept"
    assert engine.replace(b"k", b"3") == Found(b"3", 2), "nothing changed: no log write, the stored position"
    assert engine.appended_position == 2
    assert engine.update(b"k", b"2") == Found(b"3", 2)
    spill(drive, engine)
    before = engine.appended_position
    assert engine.replace(b"k", b"3") == Found(b"3", 0)
    assert engine.appended_position == before
    assert engine.replace(b"k", b"1") == Found(b"1", before + 1)
    drive.sync(engine)
    assert all_after_a_restart(drive, disk) == {b"k": b"1"}
    drive.flush(engine)
    assert engine.get(b"k") == Found(b"1", 0)


def test_replace_after_an_erasure(drive, disk):
    engine = with_an_old_record(drive, disk)
    engine.erase(b"k")
    assert engine.replace(b"k", b"9").position == engine.appended_position > engine.erase(b"l")
    drive.sync(engine)
    assert all_after_a_restart(drive, disk) == {b"k": b"9"}
