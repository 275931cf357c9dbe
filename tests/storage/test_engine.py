"""The engine against a dict, its jobs, its order of operations, its failures."""

import errno
import random

import pytest

from raykv.errors import StoreClosed
from raykv.records.dropped import DroppedBuckets
from raykv.sim.disk import SimDisk
from raykv.storage import DiskFull, Engine, EngineFailed, Found
from raykv.storage.engine import MAX_KEY_BYTES


def walk(engine, start, end, *, reverse):
    """Return the results of one look after the other."""
    seen = []
    while (pair := engine.first(start, end, reverse=reverse)) is not None:
        seen.append((pair[0], pair[1].record))
        start, end = (start, pair[0]) if reverse else (pair[0] + b"\x00", end)
    return seen


def windows(engine, start, end, least, *, reverse):
    """Return what the windows of a range hold, one after the other; empty records are deletion markers."""
    seen = []
    while True:
        window = engine.window(start, end, least, enough_bytes=100, reverse=reverse)
        assert window.keys == sorted({*window.keys})
        assert all(start <= key < end for key in window.keys)
        records = [each if isinstance(each, bytes) else each.record for each in window.found]
        pairs = [*zip(window.keys, records, strict=True)]
        seen += pairs[::-1] if reverse else pairs
        if window.reached is None:
            return seen
        assert window.keys, "each window goes on by one key at least"
        assert window.reached == window.keys[0 if reverse else -1]
        start, end = (start, window.reached) if reverse else (window.reached + b"\x00", end)


def test_update_merges_with_what_is_stored(drive, disk):
    engine = drive.open(disk)
    assert engine.get(b"k") is None
    assert engine.update(b"k", b"2") == Found(b"2", 1)
    assert engine.update(b"k", b"3") == Found(b"3", 2)
    assert engine.update(b"k", b"1") == Found(b"3", 2), "nothing changed: no log write, the stored position"
    assert engine.appended_position == 2
    assert engine.get(b"k") == Found(b"3", 2)
    drive.flush(engine)
    assert engine.get(b"k") == Found(b"3", 0)
    assert engine.update(b"k", b"1") == Found(b"3", 0)
    assert engine.appended_position == 2
    assert engine.update(b"k", b"4") == Found(b"4", 3)


def test_a_record_that_was_found_twice_in_a_table_is_found_again_without_a_search_until_a_flush(drive, disk):
    engine = drive.open(disk)
    engine.update(b"k", b"1")
    drive.flush(engine)
    assert engine.get(b"k") is not engine.get(b"k"), "what is asked for once would only push out what is hot"
    assert engine.stats().cache_hits == 1
    assert engine.get(b"k") is engine.get(b"k")
    assert engine.stats().cache_hits == 3
    engine.update(b"k", b"2")
    drive.flush(engine)
    assert engine.get(b"k") == Found(b"2", 0)
    engine.erase(b"k")
    drive.flush(engine)
    assert engine.get(b"k") is None
    assert engine.get_many([b"k", b"l"]) == ([None, None], [])


def test_the_position_of_a_sealed_record_stays_until_it_is_in_a_table(drive, disk):
    engine = drive.open(disk)
    engine.update(b"k", b"1")
    engine.compact_fully()
    assert engine.get(b"k") == Found(b"1", 1)
    assert engine.next_job() is None, "a memtable is not flushed before its segment is safe"
    drive.sync(engine)
    job = engine.next_job()
    job.run()
    assert engine.get(b"k") == Found(b"1", 1)
    engine.finish(job)
    assert engine.get(b"k") == Found(b"1", 0)


@pytest.mark.parametrize("seed", range(6))
def test_against_a_dict(drive, disk, seed):
    rng = random.Random(seed)
    engine, model = drive.open(disk), {}
    running = []
    for step in range(2500):
        what = rng.random()
        key = b"%03d" % rng.randrange(300) * rng.choice((1, 1, 1, 20))
        if what < 0.45:
            record = b"%03d" % rng.randrange(1000) + bytes(rng.randrange(60))
            kept = drive.merge(model.get(key), record)
            assert engine.update(key, record).record == kept
            model[key] = kept
        elif what < 0.5:
            record = b"%03d" % rng.randrange(1000)
            before = engine.appended_position
            assert engine.replace(key, record).record == record
            assert (engine.appended_position > before) == (model.get(key) != record)
            model[key] = record
        elif what < 0.6:
            before = engine.appended_position
            position = engine.erase(key)
            assert position <= engine.appended_position
            assert (engine.appended_position > before) == (key in model)
            model.pop(key, None)
        elif what < 0.8:
            found = engine.get(key)
            assert (found and found.record) == model.get(key)
            keys = [key, *(b"%03d" % rng.randrange(300) for _ in range(rng.randrange(9)))]
            several, unreadable = engine.get_many(keys)
            assert [each and each.record for each in several] == [model.get(each) for each in keys]
            assert several == [engine.get(each) for each in keys]
            assert unreadable == []
        elif what < 0.82:
            low, high = sorted((b"%03d" % rng.randrange(300), b"%03d" % rng.randrange(300)))
            end = rng.choice((high, None))
            reverse = rng.random() < 0.5
            want = sorted(((k, v) for k, v in model.items() if k >= low and (end is None or k < end)), reverse=reverse)
            around = rng.random() < 0.5  # there is no damage, so it is all one
            scan = engine.scan(low, end, reverse=reverse, around_damage=around)
            assert [(k, f.record) for k, f in scan] == want
            if end is not None:
                assert engine.first(low, end, reverse=reverse) == next(engine.scan(low, end, reverse=reverse), None)
                assert walk(engine, low, end, reverse=reverse) == want
                all_of_it = [(k, f.record) for k, f in engine.scan(low, end, reverse=reverse, erased=True)]
                assert windows(engine, low, end, rng.choice((1, 3, 50)), reverse=reverse) == all_of_it
        elif what < 0.9:
            drive.sync(engine, sync=rng.random() < 0.7)
        elif what < 0.97:
            if running and rng.random() < 0.6:
                job = running.pop(rng.randrange(len(running)))
                job.run()
                engine.finish(job) if rng.random() < 0.9 else engine.abandon(job)
            elif (job := engine.next_job()) is not None:
                running.append(job)
                assert len(running) <= 2
        elif what < 0.98:
            engine.compact_fully()
        elif step % 3 == 0:
            while running:
                engine.abandon(running.pop())
            engine.close()
            engine = drive.open(disk)
            assert not engine.damaged
    assert drive.content(engine) == model
    while running:
        engine.abandon(running.pop())
    drive.flush(engine)
    assert drive.content(engine) == model
    stats = engine.stats()
    assert stats.table_records == len(model), "a full compaction leaves neither overwritten records nor markers"
    assert stats.damaged == 0
    engine.close()


def test_the_number_of_runs_stays_small_and_overwrites_go(drive, disk):
    engine = drive.open(disk)
    for version in range(30):
        model = drive.fill(engine, 200, version=version)
    stats = engine.stats()
    assert stats.flushes > 30
    assert stats.runs <= 2 * 5
    assert drive.content(engine) == model
    drive.flush(engine)
    assert engine.stats().table_records == 200
    assert engine.stats().runs == 1


def test_files_that_are_not_needed_are_gone(drive, disk):
    engine = drive.open(disk)
    drive.fill(engine, 500)
    drive.flush(engine)
    assert len(drive.files(disk, ".sst")) == engine.stats().tables
    drive.sync(engine)
    assert len(drive.files(disk, ".wal")) == 0
    engine.close()
    (orphan_table, orphan_log) = ("/node/data/00099999.sst", "/node/data/00000001.wal")
    for path in (orphan_table, orphan_log, "/node/data/manifest.tmp"):
        disk.create(path).append(b"rubbish")
    engine = drive.open(disk)
    assert not engine.damaged
    assert not any(map(disk.exists, (orphan_table, orphan_log, "/node/data/manifest.tmp")))


def test_output_is_split_into_tables(drive, disk):
    engine = drive.open(disk, compression="none")
    model = drive.fill(engine, 1000)
    drive.flush(engine)
    stats = engine.stats()
    assert (stats.runs, stats.tables) == (1, pytest.approx(stats.table_bytes / 16384, abs=1.5))
    assert stats.tables > 2
    assert drive.content(engine) == model
    assert drive.content(drive.open(disk)) == model


def test_hot_keys_do_not_grow_the_log_without_end(drive, disk):
    engine = drive.open(disk)
    for number in range(3000):
        engine.update(b"hot", b"%08d" % number * 4)
        if number % 10 == 0:
            drive.sync(engine)
            drive.work(engine)
    assert engine.stats().flushes > 2
    assert sum(map(disk.size, drive.files(disk, ".wal"))) < 8 * 4096 * 2


def test_drop_takes_keys_out(drive, disk):
    engine = drive.open(disk)
    drive.fill(engine, 100, prefix="\0\0\0\0\0\1")
    model = drive.fill(engine, 100, prefix="\0\0\0\0\0\2")
    engine.drop = DroppedBuckets(2, frozenset())
    drive.flush(engine)
    assert drive.content(engine) == model
    engine.drop = DroppedBuckets(3, frozenset())
    drive.flush(engine)
    assert drive.content(engine) == {}
    assert drive.files(disk, ".sst") == []
    assert drive.content(drive.open(disk)) == {}


@pytest.mark.parametrize("reverse", [False, True])
def test_the_first_of_a_range_wherever_it_stands(drive, disk, reverse):
    """At the ends of blocks, of tables, of runs; in the memtable, sealed or not; behind deletion markers."""
    engine = drive.open(disk, table_bytes=16384, block_bytes=256, compression="none")
    keys = [b"k%04d" % number for number in range(0, 600, 2)]
    for key in keys:
        engine.update(key, b"1" + bytes(200))
    drive.flush(engine)
    assert len(drive.files(disk, ".sst")) > 3
    gone = {*keys[::5], *keys[100:150]}  # more in a row than it looks behind one by one
    for key in gone:
        engine.erase(key)
    engine.update(b"k0301", b"2")
    live = sorted({*keys} - gone | {b"k0301"}, reverse=reverse)
    for _ in range(2):
        for number in range(0, 610, 3):
            low, high = (b"", b"k%04d" % number) if reverse else (b"k%04d" % number, b"z")
            found = engine.first(low, high, reverse=reverse)
            assert (found and found[0]) == next((key for key in live if low <= key < high), None)
            found = engine.first(low, high, reverse=reverse, erased=True)
            among = sorted({*keys, b"k0301"}, reverse=reverse)
            assert (found and found[0]) == next((key for key in among if low <= key < high), None)
            assert not found or bool(found[1].record) == (found[0] in live)
        assert [key for key, _ in walk(engine, b"", b"z", reverse=reverse)] == live
        all_of_them = [*engine.scan(b"", b"z", reverse=reverse, erased=True)]
        assert [key for key, _ in all_of_them] == sorted({*keys, b"k0301"}, reverse=reverse)
        assert [key for key, found in all_of_them if found.record] == live
        assert engine.first(b"k0001", b"k0002", reverse=reverse) is None
        assert engine.first(b"b", b"a", reverse=reverse) is None
        engine.compact_fully()  # seals the memtable


def test_a_scan_survives_what_happens_between_its_steps(drive, disk):
    for reverse in (False, True):
        engine = drive.open(disk)
        model = drive.fill(engine, 600)
        seen = []
        for number, (key, found) in enumerate(engine.scan(b"k", b"l", reverse=reverse)):
            seen.append(key)
            assert found.record >= model.get(key, b"")
            if number % 50 == 10:
                drive.fill(engine, 100, version=2 + number, prefix="k00")
                drive.fill(engine, 200, version=2 + number)
                drive.flush(engine)
        ours = [key for key in seen if key in model]
        assert ours == sorted(model, reverse=reverse)
        assert seen == sorted(set(seen), reverse=reverse)
        engine.close()


def test_a_scan_left_lying_outlives_its_tables_and_the_engine(drive, disk):
    engine = drive.open(disk)
    drive.fill(engine, 300)
    drive.flush(engine)
    scan = engine.scan(b"", None)
    first = next(scan)[0]
    drive.fill(engine, 300, version=9)
    drive.flush(engine)
    engine.close()
    rest = [key for key, _ in scan]
    assert len({first, *rest}) == 300
    abandoned = drive.open(disk).scan(b"", None)
    next(abandoned)
    del abandoned


def test_order_of_operations(drive, disk):
    """A manifest names a table only after the table and its name are safe; old files go only after the manifest is."""
    engine = drive.open(disk)
    drive.fill(engine, 600)
    drive.flush(engine)
    safe, unsynced_names = set(), set()
    for operation, path in disk.trace:
        if operation == "create":
            unsynced_names.add(path)
        elif operation == "append":
            safe.discard(path)
        elif operation == "sync":
            safe.add(path)
        elif operation == "sync_directory":
            unsynced_names.clear()
        elif operation == "rename":
            assert path.endswith("manifest")
            assert path + ".tmp" in safe
            tables = {name for name in unsynced_names if name.endswith(".sst")}
            assert not tables, f"the manifest may name {tables}, whose names are not safe"
            unsynced_names = {path}
        elif operation == "unlink":
            assert not any(name.endswith("manifest") for name in unsynced_names), "the new manifest is not safe yet"
    for path in drive.files(disk, ".sst"):
        assert path in safe


def test_a_flush_under_way_and_a_compaction_under_way(drive, disk):
    engine = drive.open(disk)
    model = {}
    for number in range(2000):
        key = b"%05d" % (number * 7919 % 1000)
        model[key] = engine.update(key, b"%05d" % number * 5).record
    drive.sync(engine)
    assert engine.stats().sealed_memtables > 6
    for _ in range(3):
        job = engine.next_job()
        job.run()
        engine.finish(job)
    flush, compaction = engine.next_job(), engine.next_job()
    assert type(flush).__name__ == "FlushJob"
    assert type(compaction).__name__ == "CompactionJob"
    assert engine.next_job() is None
    compaction.run()
    flush.run()
    engine.finish(flush)
    assert drive.content(engine) == model
    engine.finish(compaction)
    assert drive.content(engine) == model
    assert drive.content(drive.open(disk.crash(random.Random(1), "drop"))) == model


def test_overloaded(drive, disk):
    engine = drive.open(disk, max_unflushed_bytes=10_000)
    while not engine.overloaded:
        engine.update(b"%d" % engine.appended_position, bytes(100))
    assert 8_000 < engine.stats().memtable_bytes < 12_000
    drive.sync(engine)
    drive.work(engine)
    assert not engine.overloaded


def test_a_node_that_comes_back_to_a_log_of_overwrites_is_not_overloaded(drive, disk):
    """Else it would refuse all writes for ever: nothing is due that would make it less."""
    engine = drive.open(disk, max_unflushed_bytes=5000)
    for number in range(150):
        engine.update(b"key", b"%03d:" % number + bytes(90))
        drive.sync(engine)
    assert not engine.overloaded
    again = drive.open(disk.crash(random.Random(1), "drop"), max_unflushed_bytes=5000)
    assert again.stats().sealed_memtables == 0
    assert not again.overloaded


@pytest.mark.parametrize("operation", ["append", "sync"])
def test_a_failing_log_ends_the_engine(drive, disk, operation):
    engine = drive.open(disk)
    model = drive.fill(engine, 10)
    engine.update(b"new", b"9")
    disk.fail(operation, ".wal", error=errno.EIO)
    job = engine.next_sync()
    with pytest.raises(EngineFailed):
        job.run()
    calls = [
        lambda: engine.get(b"k"), lambda: engine.update(b"k", b"1"), lambda: engine.scan(b"", None), engine.next_sync,
        engine.next_job, lambda: engine.finish_sync(job),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(EngineFailed):
            call()
    before = len(disk.trace)
    engine.close()
    assert len(disk.trace) == before, "no fsync is tried again"
    kept = drive.content(drive.open(disk.crash(random.Random(1), "drop")))
    assert kept == model


def test_a_full_disk_in_the_log(drive, disk):
    engine = drive.open(disk)
    model = drive.fill(engine, 30)
    durable = engine.durable_position
    engine.update(b"new", b"x" * 500)
    disk.space_bytes = 100
    job = engine.next_sync()
    with pytest.raises(DiskFull):
        job.run()
    assert engine.durable_position == durable
    disk.space_bytes = None
    engine = drive.open(disk.crash(random.Random(1), "keep"))
    assert not engine.damaged, "a short write is a torn tail"
    assert drive.content(engine) == model


@pytest.mark.parametrize("space", [0, 10, 700, 1500])
def test_a_full_disk_in_a_flush_or_compaction_costs_nothing(drive, disk, space):
    engine = drive.open(disk, compression="none")
    model = {}
    for number in range(400):
        key = b"%05d" % number
        model[key] = engine.update(key, bytes(50)).record
    drive.sync(engine)
    drive.work(engine, 3)
    for _ in range(2):
        job = engine.next_job()
        disk.space_bytes = space
        with pytest.raises(OSError, match="No space"):
            job.run()
        engine.abandon(job)
        assert len(drive.files(disk, ".sst")) == engine.stats().tables
        assert drive.content(engine) == model
    disk.space_bytes = None
    drive.work(engine)
    assert drive.content(engine) == model
    assert drive.content(drive.open(disk.crash(random.Random(1), "drop"))) == model


@pytest.mark.parametrize("operation", ["sync", "append", "rename", "sync_directory"])
def test_a_manifest_that_cannot_be_written_ends_the_engine(drive, disk, operation):
    engine = drive.open(disk)
    model = drive.fill(engine, 20)
    engine.compact_fully()
    drive.sync(engine)
    job = engine.next_job()
    job.run()
    disk.fail(operation)
    with pytest.raises(EngineFailed):
        engine.finish(job)
    with pytest.raises(EngineFailed):
        engine.get(b"k")
    assert drive.content(drive.open(disk.crash(random.Random(1)))) == model


def test_limits_and_closing(drive, disk):
    engine = drive.open(disk)
    with pytest.raises(ValueError, match="limits"):
        engine.update(bytes(MAX_KEY_BYTES + 1), b"")
    with pytest.raises(ValueError, match="limits"):
        engine.update(b"k", b"")
    engine.update(b"", b"x")
    engine.update(b"\xff" * 1100, b"x" * 1_100_000)
    engine.close()
    engine.close()
    for call in (lambda: engine.get(b""), lambda: engine.update(b"", b"x"), lambda: engine.scan(b"", None)):
        with pytest.raises(StoreClosed):
            call()
    engine = drive.open(disk)
    assert engine.get(b"") == Found(b"x", 0)
    assert len(engine.get(b"\xff" * 1100).record) == 1_100_000
    drive.flush(engine)
    assert len(engine.get(b"\xff" * 1100).record) == 1_100_000
    assert list(engine.scan(b"b", b"a")) == []


def test_sync_off_and_on(drive, disk):
    engine = drive.open(disk)
    engine.update(b"k", b"1")
    drive.sync(engine, sync=False)
    assert engine.durable_position == 1
    assert drive.content(drive.open(disk.crash(random.Random(1), "drop"))) == {}
    assert drive.content(drive.open(disk.crash(random.Random(1), "keep"))) == {b"k": b"1"}
    drive.sync(engine)
    assert drive.content(drive.open(disk.crash(random.Random(1), "drop"))) == {b"k": b"1"}


def test_what_recovery_shows_is_safe(drive, disk):
    """The process dies with bytes in the kernel only; recovery sees them, shows them; then the host dies."""
    engine = drive.open(disk)
    engine.update(b"k", b"1")
    drive.sync(engine, sync=False)
    again = disk.crash(random.Random(1), "keep")
    engine = drive.open(again)
    assert engine.get(b"k") == Found(b"1", 0)
    assert drive.content(drive.open(again.crash(random.Random(1), "drop"))) == {b"k": b"1"}


def test_a_lost_manifest_is_refused(drive, disk):
    from raykv.errors import CorruptData

    engine = drive.open(disk)
    drive.fill(engine, 10)
    engine.close()
    disk.unlink("/node/data/manifest")
    with pytest.raises(CorruptData, match="no manifest"):
        drive.open(disk)


def test_merge_is_all_it_knows_of_records(disk, drive):
    engine = Engine.open(disk, "/x", drive.config, lambda stored, incoming: (stored or b"") + incoming)
    engine.update(b"k", b"a")
    engine.update(b"k", b"b")
    assert engine.get(b"k").record == b"ab"


def test_a_later_run_can_be_asked_whether_it_found_all_that_was_durable(drive):
    """Corruption in the log's last chunk looks like a torn tail; a copy from an earlier time like a store that did less."""
    disk = SimDisk()
    engine = drive.open(disk, memtable_bytes=1 << 16)
    ends = [engine.durable_end]
    copies = []
    for number in range(6):
        copies.append(disk.crash(random.Random(1), "keep"))
        engine.update(b"%d" % number, b"%08d" % number)
        drive.sync(engine)
        ends.append(engine.durable_end)
        if number == 3:
            engine.compact_fully()
            drive.work(engine)
    assert ends == sorted(ends)
    assert len(set(ends)) == len(ends)
    for cut, copy in enumerate(copies):
        old = drive.open(copy, memtable_bytes=1 << 16)
        assert [old.recovered(end) for end in ends] == [number <= cut for number in range(len(ends))]
        old.update(b"new", b"%08d" % 9)
        drive.sync(old)
        assert not old.recovered(ends[-1]), "what it has done since does not make up for it"
    crashed = disk.crash(random.Random(1), "drop")
    whole = drive.open(crashed, memtable_bytes=1 << 16)
    assert all(map(whole.recovered, ends))
    path = drive.files(disk, ".wal")[-1]
    disk.flip_bit(path, disk.size(path) - 3)
    for _ in range(3):  # also by a recovery of what a first one has cut
        corrupt = drive.open(disk, memtable_bytes=1 << 16)
        assert not corrupt.damaged
        assert corrupt.recovered(ends[-2])
        assert not corrupt.recovered(ends[-1])
        disk = disk.crash(random.Random(1), "random")
