"""Flushes and compactions as jobs: in steps, some at once, without rewriting what need not be, with little garbage left."""

import random

import msgspec
import pytest

from raykv.config import NodeConfig
from raykv.records.dropped import DroppedBuckets
from raykv.records.keys import storage_prefix
from raykv.storage.jobs import STEP_BYTES, CompactionJob, FlushJob

BOUND = {"max_space_amplification": 1.5}


def large_memtable(config):
    return msgspec.structs.replace(config, memtable_bytes=1 << 30, max_unflushed_bytes=1 << 30)


def seal(drive, engine):
    engine.compact_fully()
    engine._schedule.fully = False
    drive.sync(engine)


def flush(drive, engine, keys, version=1, size=60):
    """Bring these keys to a run of their own; return what it holds."""
    rng = random.Random(version)
    model = {}
    usual, engine._config = engine._config, large_memtable(engine._config)
    for key in keys:
        record = b"%08d:" % version + rng.randbytes(size)
        model[key] = engine.replace(key, record).record
    engine._config = usual
    seal(drive, engine)
    job = engine.next_job()
    assert type(job) is FlushJob
    job.run()
    engine.finish(job)
    return model


def names(first, count):
    return [b"k%05d" % number for number in range(first, first + count)]


def numbers(engine):
    return [[table.info.number for table in run.tables] for run in engine._runs]


def after_a_crash(drive, disk, **changes):
    return drive.content(drive.open(disk.crash(random.Random(1), "drop"), **changes))


# ---- steps ----


def large(drive, disk):
    """An engine with three runs, and so much in each that a merge takes steps."""
    engine = drive.open(disk, memtable_bytes=1 << 20, table_bytes=1 << 18, runs_per_level=3)
    model = {}
    for version in (1, 2, 3):
        model |= flush(drive, engine, names(100 * version, 1500), version, 200)
    return engine, model


def test_a_job_goes_in_steps_and_ends_as_if_it_had_not(drive, disk):
    engine, model = large(drive, disk)
    job = engine.next_job()
    assert type(job) is CompactionJob
    steps = 1
    while not job.step():
        steps += 1
        assert engine.get(names(100, 1)[0]) is not None, "reads go on"
        assert job.tables is None
    assert steps >= sum(table.info.size_bytes for table in job.tables) // STEP_BYTES
    assert job.step(), "it stays done"
    engine.finish(job)
    assert engine.stats().runs == 1
    assert drive.content(engine) == model
    assert len(drive.files(disk, ".sst")) == engine.stats().tables


@pytest.mark.parametrize("steps", [0, 1, 3, 1000])
def test_a_job_given_up_at_any_step_leaves_nothing_and_is_offered_again(drive, disk, steps):
    engine, model = large(drive, disk)
    before, files = numbers(engine), drive.files(disk, ".sst")
    job = engine.next_job()
    for _ in range(steps):
        if job.step():
            break
    engine.abandon(job)
    assert numbers(engine) == before
    assert drive.files(disk, ".sst") == files
    assert drive.content(engine) == model
    assert drive.work(engine) == 1
    assert engine.stats().runs == 1
    assert drive.content(engine) == model == after_a_crash(drive, disk)


# ---- several at once ----


def test_while_a_large_merge_is_under_way_new_runs_are_merged_among_themselves(drive, disk):
    engine = drive.open(disk)
    model = {}
    for version in range(1, 4):
        model |= flush(drive, engine, names(50 * version, 60), version)
    large = engine.next_job()
    assert type(large) is CompactionJob
    assert engine.next_job() is None
    for version in range(4, 7):
        model |= flush(drive, engine, names(30 * version, 40), version)
    small = engine.next_job()
    assert type(small) is CompactionJob
    assert (engine.newest_compaction(small), engine.newest_compaction(large)) == (True, False)
    assert not {table for part in small.task.parts for table in part.tables} & {
        table for part in large.task.parts for table in part.tables
    }
    large.run()
    small.run()
    engine.finish(large)
    assert engine.newest_compaction(small)
    assert drive.content(engine) == model == after_a_crash(drive, disk)
    engine.finish(small)
    assert engine.stats().runs == 2
    assert drive.content(engine) == model == after_a_crash(drive, disk)


def test_a_full_compaction_waits_for_those_under_way_and_takes_everything(drive, disk):
    engine = drive.open(disk)
    for version in range(1, 4):
        flush(drive, engine, names(50 * version, 60), version)
    job = engine.next_job()
    flush(drive, engine, names(0, 40), 9)
    engine.compact_fully()
    assert engine.next_job() is None
    job.run()
    engine.finish(job)
    full = engine.next_job()
    assert len(full.task.parts) == engine.stats().runs == 2
    full.run()
    engine.finish(full)
    assert engine.stats().runs == 1


# ---- what need not be rewritten ----


def test_tables_that_overlap_no_other_stay_the_same_files(drive, disk):
    engine = drive.open(disk, memtable_bytes=1 << 15)
    model = {}
    for at in range(3):
        model |= flush(drive, engine, names(200 * at, 100), at + 1)
    before, files = numbers(engine), drive.files(disk, ".sst")
    written = engine.stats().bytes_written
    assert drive.work(engine) == 1
    assert numbers(engine) == [[*before[2], *before[1], *before[0]]]
    assert drive.files(disk, ".sst") == files
    assert engine.stats().bytes_written == written, "only the manifest"
    assert drive.content(engine) == model == after_a_crash(drive, disk)
    engine.compact_fully()
    drive.work(engine)
    assert drive.files(disk, ".sst") != files, "on request all is written anew"
    assert drive.content(engine) == model == after_a_crash(drive, disk)


def test_between_tables_that_stay_the_others_are_merged(drive, disk):
    engine = drive.open(disk, memtable_bytes=1 << 15)
    model = flush(drive, engine, names(0, 100), 1)
    model |= flush(drive, engine, [*names(200, 100), *names(400, 100)], 2)
    model |= flush(drive, engine, [*names(450, 20), *names(600, 100)], 3)
    (first,) = numbers(engine)[-1]
    assert drive.work(engine) == 1
    (tables,) = numbers(engine)
    assert tables[0] == first
    assert len(tables) > 1
    engine._runs[0].info()
    assert drive.content(engine) == model == after_a_crash(drive, disk)


def test_a_table_whose_filter_was_lost_is_written_anew(drive, disk):
    engine = drive.open(disk, memtable_bytes=1 << 15)
    model = {}
    for at in range(3):
        model |= flush(drive, engine, names(200 * at, 100), at + 1)
    before = numbers(engine)
    engine._runs[1].only.filter_lost = 1
    assert drive.work(engine) == 1
    ((first, middle, last),) = numbers(engine)
    assert [[last], [first]] == [before[0], before[2]]
    assert middle not in before[1]
    assert drive.content(engine) == model == after_a_crash(drive, disk)


def test_small_tables_are_merged_even_so(drive, disk):
    engine = drive.open(disk)
    model = {}
    for at in range(3):
        model |= flush(drive, engine, names(100 * at, 10), at + 1)
    assert drive.work(engine) == 1
    assert engine.stats().tables == 1
    assert drive.content(engine) == model


def test_with_a_filter_of_keys_to_leave_out_every_table_is_read(drive, disk):
    engine = drive.open(disk, memtable_bytes=1 << 15)
    dropped = storage_prefix(0, 1) + b"k"
    keep = [storage_prefix(partition, 2) + name for partition in range(3) for name in names(0, 100)]
    for at in range(3):
        flush(drive, engine, [*keep[100 * at :][:100], *[dropped] * (at == 0)], at + 1)
    engine.drop = DroppedBuckets(3, frozenset([2]))
    assert drive.work(engine) == 1
    assert [*drive.content(engine)] == keep


def test_a_table_with_a_corrupt_block_is_written_anew(drive, disk):
    """Else its damage would stay for as long as nothing overlaps it."""
    engine = drive.open(disk, memtable_bytes=1 << 15)
    flush(drive, engine, names(0, 100), 1)
    path = drive.files(disk, ".sst")[0]
    disk.flip_bit(path, 40)
    with pytest.raises(Exception, match="corrupt"):
        engine.get(names(0, 1)[0])
    for at in (1, 2):
        flush(drive, engine, names(200 * at, 100), at + 1)
    assert drive.work(engine) == 1
    assert path not in drive.files(disk, ".sst")
    assert engine.damaged, "it is not forgotten"


# ---- leveled ----


@pytest.mark.parametrize("seed", range(4))
def test_leveled_holds_what_was_written_in_few_runs(drive, disk, seed):
    rng = random.Random(seed)
    engine = drive.open(disk, compaction="leveled", level_ratio=2)
    model, keys = {}, names(0, rng.choice((40, 1500)))
    for step in range(1, 40):
        for key in rng.sample(keys, 30):
            if rng.random() < 0.2:
                engine.erase(key)
                model.pop(key, None)
            else:
                model[key] = engine.replace(key, b"%08d:" % step + rng.randbytes(100)).record
        drive.sync(engine)
        drive.work(engine)
        if step % 10 == 0:
            assert drive.content(engine) == model == after_a_crash(drive, disk, compaction="leveled")
    drive.sync(engine)
    drive.work(engine)
    assert engine.stats().runs <= 3 + 6
    tables = {number for run in numbers(engine) for number in run}
    assert len(drive.files(disk, ".sst")) == len(tables)


def test_the_policy_may_change_at_a_start(drive, disk):
    engine = drive.open(disk)
    model = drive.fill(engine, 600)
    engine.close()
    for policy in ("leveled", "tiered", "leveled"):
        engine = drive.open(disk, compaction=policy, level_ratio=2)
        model |= drive.fill(engine, 300, version=2 if policy == "tiered" else 3)
        assert drive.content(engine) == {**model, **drive.content(engine)}
        assert drive.content(engine).keys() == model.keys()
        engine.close()


# ---- garbage ----


def test_overwritten_records_leave_also_where_nothing_new_is_written(drive, disk):
    engine = drive.open(disk, **BOUND)
    model = flush(drive, engine, names(0, 300), 1)
    one = engine.stats().table_bytes
    for version in (2, 3):
        model |= flush(drive, engine, names(0, 150), version)
        if version == 2:
            assert engine.next_job() is None, "not yet too much"
    assert engine.stats().garbage_bytes == pytest.approx(one, rel=0.3)
    assert drive.work(engine) == 1
    assert engine.stats().runs == 1
    assert engine.stats().garbage_bytes == 0
    assert engine.stats().table_bytes < 1.1 * one
    assert drive.content(engine) == model == after_a_crash(drive, disk)


def test_new_keys_are_no_garbage(drive, disk):
    engine = drive.open(disk, **BOUND, memtable_bytes=1 << 15)
    for at in range(2):
        flush(drive, engine, names(at, 600)[:: at + 1], 1)
        flush(drive, engine, [b"m%d" % at + key for key in names(0, 300)], 2)
        if at == 0:
            assert engine.stats().garbage_bytes < 0.1 * engine.stats().table_bytes
            assert engine.next_job() is None


def test_what_is_known_of_garbage_outlives_a_restart(drive, disk):
    engine = drive.open(disk, **BOUND)
    flush(drive, engine, names(0, 300), 1)
    flush(drive, engine, names(0, 150), 2)
    known = engine.stats().garbage_bytes
    assert known > 0
    engine.close()
    assert drive.open(disk, **BOUND).stats().garbage_bytes == known


def test_what_was_erased_leaves_the_disk_in_time(drive, disk):
    engine = drive.open(disk, max_marker_age_s=10)
    model = flush(drive, engine, names(0, 300), 1)
    engine.now_ms = 5_000
    for key in names(10, 3):
        engine.erase(key)
        del model[key]
    seal(drive, engine)
    assert drive.work(engine) == 1
    engine.now_ms = 14_999
    assert engine.next_job() is None
    assert engine.stats().table_records == 303
    engine.now_ms = 15_000
    assert drive.work(engine) == 1
    assert engine.stats().table_records == 297
    assert engine.next_job() is None
    assert drive.content(engine) == model == after_a_crash(drive, disk)


def test_the_age_of_deletion_markers_outlives_merges_and_restarts(drive, disk):
    engine = drive.open(disk, max_marker_age_s=10)
    flush(drive, engine, names(0, 2000), 1, 200)
    engine.now_ms = 5_000
    engine.erase(names(0, 1)[0])
    for version in (2, 3, 4):
        flush(drive, engine, [b"a%d" % version], version)
    assert drive.work(engine) == 1
    assert engine.stats().runs == 2
    engine.now_ms = 12_000
    engine.close()
    again = drive.open(disk, max_marker_age_s=10)
    again.now_ms = 14_999
    assert again.next_job() is None
    again.now_ms = 15_000
    assert drive.work(again) == 1
    assert again.stats().runs == 1


def test_without_room_garbage_waits(drive, disk):
    engine = drive.open(disk, **BOUND)
    for version in (1, 2, 3):
        flush(drive, engine, names(0, 100), version)
    engine.room_bytes = 100
    assert engine.next_job() is None
    engine.room_bytes = 1 << 20
    assert drive.work(engine) == 1


def test_the_estimate_follows_the_share_of_keys_that_are_below(drive, disk):
    engine = drive.open(disk, memtable_bytes=1 << 20)
    flush(drive, engine, names(0, 4000), 1)
    for version, share in enumerate((0.0, 0.1, 0.5, 1.0), start=2):
        known = int(1000 * share)
        flush(
            drive, engine, [*names(1000, known), *[b"z%.1f" % share + key for key in names(0, 1000 - known)]], version
        )
        infos = [table.info for table in engine._runs[0].tables]
        assert sum(info.count for info in infos) == 1000
        assert sum(info.covers for info in infos) == pytest.approx(known, abs=80)


# ---- memory ----


def test_pressure_grows_with_memory_that_waits_and_falls_with_a_flush(drive, disk):
    engine = drive.open(disk, max_unflushed_bytes=1 << 16)
    seen = []
    number = 0
    while not engine.overloaded:
        number += 1
        engine.replace(b"k%05d" % number, bytes(100))
        if number % 50 == 0:
            drive.sync(engine)
        seen.append(engine.pressure)
    assert seen == sorted(seen) or max(seen) == 1.0
    assert seen[0] == 0.0
    assert seen[-1] == 1.0
    drive.sync(engine)
    drive.work(engine)
    assert engine.pressure == 0.0


def test_updates_of_one_key_that_the_log_has_not_taken_count_as_memory(drive, disk):
    """The memtable holds one record; the log all that it has not written."""
    engine = drive.open(disk, max_unflushed_bytes=1 << 16)
    for version in range(1000):
        engine.replace(b"k", b"%08d" % version + bytes(100))
        if engine.overloaded:
            break
    assert engine.overloaded
    job = engine.next_sync()
    job.run()
    engine.finish_sync(job)
    assert not engine.overloaded
    assert engine.unflushed_bytes == engine.stats().memtable_bytes


def test_many_fresh_runs_are_pressure(drive, disk):
    engine = drive.open(disk)
    for version in range(1, 19):
        flush(drive, engine, names(0, 5), version)
        if engine.stats().runs == 6:
            assert engine.pressure == 0.0
    assert engine.pressure == 1.0
    drive.work(engine)
    assert engine.pressure == 0.0


def test_the_settings_are_validated():
    for wrong in (
        {"compaction": "fifo"},
        {"level_ratio": 1},
        {"max_space_amplification": 1.0},
        {"max_marker_age_s": 0},
        {"compaction_share": 0},
        {"compaction_share": 1.1},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            NodeConfig(**wrong)
