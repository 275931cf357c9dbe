"""Corruption: never wrong data, never forgotten, healed only on request."""

import random

import pytest

from raykv.errors import CorruptData, StoreClosed
from raykv.storage import sstable
from raykv.storage.damage import CorruptBlock, Damage, intact
from raykv.storage.frame import decode_frame
from raykv.storage.inspected_files import Limit, inspect_table


def corrupt_table(drive, disk, count=300, at=0.5):
    """An engine in one run, whose first table has a corrupt block. Returns engine, model, path."""
    engine = drive.open(disk, compression="none", block_cache_bytes=0)
    model = drive.fill(engine, count)
    drive.flush(engine)
    path = drive.files(disk, ".sst")[0]
    disk.flip_bit(path, int(disk.size(path) * at), 2)
    return engine, model, path


def read_all(engine, model):
    """Read every key; return those refused. Nothing else may be wrong."""
    refused = []
    for key, record in model.items():
        try:
            assert engine.get(key).record == record
        except CorruptData:
            refused.append(key)
    return refused


def test_a_corrupt_block_costs_its_range_only(drive, disk):
    engine, model, path = corrupt_table(drive, disk)
    refused = read_all(engine, model)
    assert 1 <= len(refused) < 20
    (damage,) = engine.damaged
    assert path.endswith(damage.file)
    assert all(damage.start <= key < damage.end for key in refused)
    assert read_all(engine, model) == refused
    assert engine.stats().damaged == 1
    assert damage.file in str(damage)


def test_scans_stop_at_it(drive, disk):
    engine, model, _ = corrupt_table(drive, disk)
    for _ in range(2):  # once when it is found, once when it is known
        for reverse in (False, True):
            seen = []

            def read(seen=seen, reverse=reverse):
                for key, found in engine.scan(b"", None, reverse=reverse):
                    seen.append(key)
                    assert found.record == model[key]

            with pytest.raises(CorruptData):
                read()
            assert seen == sorted(model, reverse=reverse)[: len(seen)]
    (damage,) = engine.damaged
    below = [key for key, _ in engine.scan(b"", damage.start)]
    above = [key for key, _ in engine.scan(damage.end, None, reverse=True)]
    assert below == [key for key in model if key < damage.start]
    assert above == [key for key in reversed(model) if key >= damage.end]
    assert below
    assert above


@pytest.mark.parametrize("found_by", ["read", "compaction"])
def test_compaction_and_restart_do_not_launder_it(drive, disk, found_by):
    engine, model, path = corrupt_table(drive, disk)
    refused = read_all(engine, model) if found_by == "read" else None
    drive.flush(engine)  # merges the corrupt run into a new one
    assert not disk.exists(path)
    assert disk.exists(path + ".rotten")
    assert read_all(engine, model) == (refused or read_all(engine, model))
    assert 1 <= len(read_all(engine, model)) < 20
    refused = read_all(engine, model)
    for _ in range(2):
        disk = disk.crash(random.Random(1), "drop")
        engine = drive.open(disk, compression="none", block_cache_bytes=0)
        assert len(engine.damaged) == 1
        assert read_all(engine, model) == refused


def test_writes_are_taken_and_stay_unread_until_healed(drive, disk):
    engine, model, path = corrupt_table(drive, disk)
    refused = read_all(engine, model)
    for key in refused:
        model[key] = engine.update(key, b"99999999").record
        assert model[key] == b"99999999"
    assert read_all(engine, model) == refused
    drive.sync(engine)
    (damage,) = engine.damaged
    engine.heal(damage)
    assert engine.damaged == ()
    assert read_all(engine, model) == []
    assert drive.content(engine) == model
    for _ in range(2):
        engine = drive.open(disk, compression="none", block_cache_bytes=0)
        assert engine.damaged == (), "its block still lies there, and reads as empty"
        assert drive.content(engine) == model
    drive.flush(engine)
    assert engine.damaged == ()
    assert drive.content(engine) == model
    assert not disk.exists(path)
    assert drive.content(drive.open(disk.crash(random.Random(1), "drop"))) == model


def test_what_was_found_before_its_block_was_corrupted_is_given_back_and_logged(drive, disk):
    """A record that was kept from a table must not stand for one that no file has any more."""
    engine = drive.open(disk, compression="none", block_cache_bytes=1 << 20)
    model = drive.fill(engine, 300)
    drive.flush(engine)
    assert read_all(engine, model) == []
    path = drive.files(disk, ".sst")[0]
    disk.flip_bit(path, disk.size(path) // 2, 2)
    drive.flush(engine)  # a compaction meets the corruption
    (damage,) = engine.damaged
    lost = read_all(engine, model)
    assert lost
    before = engine.appended_position
    assert all(engine.update(key, model[key]).position > before for key in lost)
    drive.sync(engine)
    engine.heal(damage)
    for _ in range(2):
        assert read_all(engine, model) == []
        drive.flush(engine)
    assert drive.content(drive.open(disk)) == model


def test_a_block_that_was_cached_before_it_was_corrupted_is_given_back_and_logged(drive, disk):
    """A scan reads past the cache, and finds on the disk what a cached block hides from updates."""
    engine = drive.open(disk, compression="none", table_bytes=1 << 20, block_cache_bytes=1 << 20)
    model = drive.fill(engine, 600)
    drive.flush(engine)
    path = drive.files(disk, ".sst")[0]
    hot = sorted(model)[500]
    assert engine.get(hot).record == model[hot]
    disk.flip_bit(path, disk.read_file(path, 1 << 20).index(model[hot]) + 2, 2)
    around = {key for key, _ in engine.scan(b"", None, around_damage=True)}
    (damage,) = engine.damaged
    lost = model.keys() - around
    assert hot in lost
    before = engine.appended_position
    assert all(engine.update(key, model[key]).position > before for key in lost)
    drive.sync(engine)
    engine.heal(damage)
    assert read_all(engine, model) == []
    engine.close()
    again = drive.open(disk)
    assert again.damaged == ()
    assert drive.content(again) == model


def filter_of(disk, path):
    """Return where the frame of a table's filter lies."""
    data = disk.read_file(path, 1 << 20)
    meta_offset, meta_length, *_ = sstable.FOOTER.unpack(data[-sstable.FOOTER.size :])
    meta = sstable._decode_meta(decode_frame(data[meta_offset : meta_offset + meta_length], meta_offset, 1 << 20))
    return range(meta.filter_offset, meta.filter_offset + meta.filter_length)


def test_a_corrupt_filter_costs_no_key_and_is_written_anew(drive, disk, caplog):
    engine = drive.open(disk, compression="none")
    model = drive.fill(engine, 300)
    drive.flush(engine)
    engine.close()
    path, *_ = drive.files(disk, ".sst")
    place = filter_of(disk, path)
    for at in (place[0], place[len(place) // 2], place[-1]):
        disk.flip_bit(path, at, 2)
        directory, _, name = path.rpartition("/")
        report = inspect_table(disk, directory, name, info=None, healed=set(), limit=Limit(9), progress=lambda _: None)
        assert [finding.offset for finding in report.findings] == [place[0]]
        engine = drive.open(disk, compression="none")
        assert "filter is unreadable" in caplog.text
        assert engine.damaged == ()
        assert read_all(engine, model) == []
        assert engine.get(b"absent") is None
        assert drive.content(engine) == model
        engine.close()
        disk.flip_bit(path, at, 2)
        caplog.clear()
    disk.flip_bit(path, place[0], 2)
    engine = drive.open(disk, compression="none", max_marker_age_s=1e6)
    drive.flush(engine)
    assert not any(table.filter_lost for run in engine._runs for table in run.tables)
    assert drive.content(engine) == model


def test_an_erasure_over_a_marker_that_was_corrupted_is_written(drive, disk):
    engine = drive.open(
        disk,
        compression="none",
        block_cache_bytes=1 << 20,
        runs_per_level=50,
        memtable_bytes=1 << 20,
        block_bytes=1 << 14,
    )

    def flush():
        engine._seal()
        drive.sync(engine)
        drive.work(engine)

    engine.update(b"k", b"1:old")
    flush()
    engine.erase(b"k")
    engine.update(b"other", b"1:" + bytes(500))
    flush()
    assert engine.get(b"k") is None
    engine._cache._blocks.clear()
    disk.flip_bit("/node/data/" + engine._runs[0].tables[0].name, 60, 2)
    with pytest.raises(CorruptData):
        engine.get(b"other")
    (damage,) = engine.damaged
    assert [key for key, _ in engine.scan_what_is_left(damage.start, damage.end)] == [b"k"]
    assert engine.erase(b"k") > 0
    drive.sync(engine)
    engine.heal(damage)
    flush()
    assert engine.get(b"k") is None


def test_an_update_that_meets_corruption_merges_with_what_is_left(drive, disk):
    engine, model, _ = corrupt_table(drive, disk)
    for key in model:
        assert engine.update(key, b"99999999").record == b"99999999"
    assert len(engine.damaged) == 1


@pytest.mark.parametrize("met_by", ["a read", "the update", "an erasure"])
def test_corruption_is_known_after_a_crash_though_what_was_written_since_hides_it(drive, disk, met_by):
    """A merge with the remaining records must not pass for the complete outcome."""
    engine, model, _ = corrupt_table(drive, disk)
    if met_by == "a read":
        assert read_all(engine, model)
    for key in model:
        if met_by == "an erasure":
            engine.erase(key)
        else:
            engine.update(key, b"99999999")
    drive.sync(engine)
    (damage,) = engine.damaged
    for fate in ("drop", "keep"):
        again = drive.open(disk.crash(random.Random(1), fate))
        assert again.damaged == (damage,)
        with pytest.raises(CorruptData):
            again.get(damage.start)


def test_an_unreadable_table_is_set_aside_and_its_range_refused(drive, disk):
    engine, model, path = corrupt_table(drive, disk, at=0.9999)
    engine.close()
    for _ in range(2):
        engine = drive.open(disk)
        (damage,) = engine.damaged
        assert len(read_all(engine, model)) == len([key for key in model if damage.start <= key < damage.end]) > 0
        assert disk.exists(path + ".rotten")
        assert not disk.exists(path)
        engine.close()
    engine = drive.open(disk)
    engine.heal(engine.damaged[0])
    assert not disk.exists(path + ".rotten")
    assert drive.open(disk).damaged == ()


def test_a_lost_table_is_damage(drive, disk):
    engine, model, path = corrupt_table(drive, disk)
    engine.close()
    disk.unlink(path)
    engine = drive.open(disk)
    assert len(engine.damaged) == 1
    assert read_all(engine, model)


def test_a_read_error_is_damage_and_not_a_crash(drive, disk):
    engine = drive.open(disk, block_cache_bytes=0)
    model = drive.fill(engine, 100)
    drive.flush(engine)
    disk.fail("pread", ".sst")
    assert len(read_all(engine, model)) > 0


def test_corruption_in_the_log_is_reported_and_stays_reported(drive, disk):
    engine = drive.open(disk, memtable_bytes=1 << 20, max_unflushed_bytes=1 << 20)
    for number in range(50):
        engine.update(b"%02d" % number, b"r" * 20)
        drive.sync(engine)
    engine.close()
    (path,) = drive.files(disk, ".wal")
    disk.flip_bit(path, disk.size(path) // 2)
    engine = drive.open(disk)
    (damage,) = engine.damaged
    assert damage.start is None
    assert damage.file == path.rpartition("/")[2]
    assert len(drive.content(engine)) == 49, "the chunks behind it count"
    drive.flush(engine)
    assert not disk.exists(path)
    assert drive.open(disk.crash(random.Random(1), "drop")).damaged == (damage,), "though the segment is gone"
    engine.heal(damage)
    assert drive.open(disk.crash(random.Random(1), "drop")).damaged == ()


def test_healed_corruption_in_a_log_that_is_still_there_stays_healed(drive, disk):
    engine = drive.open(disk, memtable_bytes=1 << 20, max_unflushed_bytes=1 << 20)
    for number in range(9):
        engine.update(b"%02d" % number, b"r" * 20)
        drive.sync(engine)
    engine.close()
    (path,) = drive.files(disk, ".wal")
    disk.flip_bit(path, 300)
    engine = drive.open(disk)
    engine.heal(engine.damaged[0])
    engine.close()
    assert drive.open(disk).damaged == ()


def test_a_missing_segment_is_damage(drive, disk):
    engine = drive.open(disk)
    for number in range(200):
        engine.update(b"%05d" % number, bytes(60))
    drive.sync(engine)
    segments = drive.files(disk, ".wal")
    assert len(segments) > 3
    disk.unlink(segments[1])
    engine = drive.open(disk)
    (damage,) = engine.damaged
    assert "missing" in damage.reason
    assert 100 < len(drive.content(engine)) < 200


@pytest.mark.parametrize("seed", range(40))
def test_any_flipped_bit(drive, disk, seed):
    """Anywhere in any file but the log's last chunk: refused, reported or harmless; never wrong, never silent."""
    rng = random.Random(seed)
    engine = drive.open(disk)
    model = drive.fill(engine, 200)
    for number in range(20):
        key = b"k%05d" % number
        model[key] = engine.update(key, b"99999999").record
        drive.sync(engine)
    engine.close()
    path = rng.choice(drive.files(disk, ".sst") + drive.files(disk, ".wal") * 3)
    mark_bytes = 40 if path.endswith(".wal") else 0
    disk.flip_bit(path, rng.randrange(disk.size(path) - mark_bytes), rng.randrange(8))
    engine = drive.open(disk)
    refused = []
    for key, record in model.items():
        try:
            found = engine.get(key)
            if found is None or found.record != record:
                assert any(damage.start is None for damage in engine.damaged), "silently lost"
        except CorruptData:
            refused.append(key)
    if path.endswith(".wal") or refused:
        assert engine.damaged


def test_the_witness_of_corruption_may_be_cut_off_and_is_not_forgotten(drive, disk):
    """Chunks a, b are written, then synced together; c is torn, d behind it is intact and alone shows that a was safe.

    Recovery cuts c and d off. A second one must still see a as corruption, and b as safe.
    """
    engine = drive.open(disk)
    ends = []
    for key in (b"a", b"b"):
        engine.update(key, b"1" * 50)
        drive.sync(engine, sync=False)
        ends.append(disk.size("/node/data/00000001.wal"))
    drive.sync(engine)
    for key in (b"c", b"d"):
        engine.update(key, b"1" * 50)
        drive.sync(engine, sync=False)
    disk.flip_bit("/node/data/00000001.wal", ends[0] - 9)
    disk.flip_bit("/node/data/00000001.wal", ends[1] + 60)
    for _ in range(3):
        disk = disk.crash(random.Random(1), "keep")
        engine = drive.open(disk)
        assert drive.content(engine) == {b"b": b"1" * 50}
        assert len(engine.damaged) == 1
        assert disk.size("/node/data/00000001.wal") == ends[1]


# ---- scans around it ------------------------------------------------------------------------------------------


def around(engine, start=b"", end=None, *, reverse=False):
    return [key for key, _ in engine.scan(start, end, reverse=reverse, around_damage=True)]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_search_for_the_first_of_a_range_meets_it_too(drive, disk, reverse):
    engine, model, _ = corrupt_table(drive, disk)
    keys = sorted(model, reverse=reverse)

    def walk(start=b"", end=b"\xff"):
        seen = []
        while (pair := engine.first(start, end, reverse=reverse)) is not None:
            seen.append(pair[0])
            start, end = (start, pair[0]) if reverse else (pair[0] + b"\x00", end)
        return seen

    for _ in range(2):  # once when it is found, once when it is known
        with pytest.raises(CorruptData):
            walk()
    (damage,) = engine.damaged
    assert walk(end=damage.start) == [key for key in keys if key < damage.start]
    assert walk(start=damage.end) == [key for key in keys if key >= damage.end]
    with pytest.raises(CorruptData):
        engine.first(damage.start, damage.end, reverse=reverse)
    engine.heal(damage)
    assert walk() == [key for key, _ in engine.scan(b"", None, reverse=reverse)], "the block reads as empty"
    assert len(walk()) < len(keys)


@pytest.mark.parametrize("least", [1, 7, 10_000])
@pytest.mark.parametrize("reverse", [False, True])
def test_windows_show_what_lies_before_damage_and_nothing_beyond_it(drive, disk, reverse, least):
    engine, model, _ = corrupt_table(drive, disk)
    keys = sorted(model)

    def walk(start=b"", end=b"\xff"):
        seen = []
        while True:
            window = engine.window(start, end, least, enough_bytes=10_000, reverse=reverse)
            seen += reversed(window.keys) if reverse else window.keys
            if window.reached is None:
                return seen, True
            start, end = (start, window.reached) if reverse else (window.reached + b"\x00", end)
            try:
                engine.window(start, end, least, enough_bytes=10_000, reverse=reverse)
            except CorruptData:
                return seen, False

    for _ in range(2):  # once when it is found, once when it is known
        seen, whole = walk()
        (damage,) = engine.damaged
        before = [key for key in reversed(keys) if key >= damage.end] if reverse else []
        before = before or [key for key in keys if key < damage.start]
        assert (seen, whole) == (before, False)
    with pytest.raises(CorruptData):
        engine.window(damage.start, damage.end, least, enough_bytes=10_000, reverse=reverse)
    engine.heal(damage)
    seen, whole = walk()
    assert whole
    assert seen == [key for key, _ in engine.scan(b"", None, reverse=reverse)], "the block reads as empty"


def test_corruption_beside_a_range_does_not_hide_that_it_is_empty(drive, disk):
    """To find its first key the block behind it may be looked at."""
    engine, model, _ = corrupt_table(drive, disk)
    keys = sorted(model)
    table = engine._runs[0].tables[0]
    damages = []
    for index in range(table.blocks):
        try:
            table.block(index)
        except CorruptBlock as corrupt:
            damages.append(corrupt.damage)
    (damage,) = damages
    last = max(key for key in keys if key < damage.start)
    assert engine.first(last + b"\x00", last + b"\x01") is None
    assert engine.first(last, last + b"\x00")[0] == last


def outside(engine, keys, reverse=False):
    """Return those of ``keys`` in no range that is known to be damaged."""
    ranges = [(damage.start, damage.end) for damage in engine.damaged if damage.start is not None]
    left = [key for key in keys if not any(low <= key and (high is None or key < high) for low, high in ranges)]
    return sorted(left, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("at", [[0.0005], [0.5], [0.9], [0.2, 0.25, 0.6]])
def test_a_scan_around_damage_leaves_out_no_more_than_its_ranges(drive, disk, reverse, at):
    engine = drive.open(disk, compression="none", block_cache_bytes=0)
    model = drive.fill(engine, 200)
    drive.flush(engine)
    path = drive.files(disk, ".sst")[0]
    for part in at:
        disk.flip_bit(path, 20 + int(disk.size(path) * part * 0.9))
    assert not engine.damaged
    for _ in range(2):  # it comes to light on the way; it is known
        seen = around(engine, reverse=reverse)
        assert len(engine.damaged) == len(at)
        assert seen == outside(engine, model, reverse)
        assert 0 < len(model) - len(seen) < 15 * len(at)
    for damage in engine.damaged:
        inner = [key for key in model if damage.start <= key < damage.end]
        assert around(engine, inner[0], inner[-1] + b"\x00", reverse=reverse) == []
        assert around(engine, b"", inner[-1], reverse=reverse) == outside(
            engine, [key for key in model if key < inner[0]], reverse
        )
        assert around(engine, inner[-1], None, reverse=reverse) == outside(
            engine, [key for key in model if key > inner[-1]], reverse
        )
    for damage in engine.damaged:
        engine.heal(damage)
    left = around(engine, reverse=reverse)
    assert left == [key for key, _ in engine.scan(b"", None, reverse=reverse)], "healed: the range is read again"


@pytest.mark.parametrize("reverse", [False, True])
def test_what_was_written_into_a_damaged_range_since_is_left_out_until_it_is_healed(drive, disk, reverse):
    engine, model, _ = corrupt_table(drive, disk)
    refused = read_all(engine, model)
    for key in model:
        engine.update(key, b"99999999")
    engine.erase(b"k00000")
    assert around(engine, reverse=reverse) == sorted({*model} - {*refused} - {b"k00000"}, reverse=reverse)
    engine.heal(engine.damaged[0])
    assert around(engine, reverse=reverse) == sorted({*model} - {b"k00000"}, reverse=reverse)


@pytest.mark.parametrize("seed", range(30))
def test_scans_around_any_damage(drive, disk, seed):
    """Several runs of several tables, corruption anywhere in them, tables that cannot be opened, bounds anywhere."""
    rng = random.Random(seed)
    engine = drive.open(disk, block_cache_bytes=0, compression="none")
    model = drive.fill(engine, 500)
    drive.flush(engine)
    model |= drive.fill(engine, 300, version=2, prefix=rng.choice(("k", "k00", "l")))
    for key in rng.sample(sorted(model), 50):
        engine.erase(key)
        del model[key]
    engine.close()
    paths = drive.files(disk, ".sst")
    for _ in range(rng.randrange(1, 5)):
        path = rng.choice(paths)
        disk.flip_bit(path, rng.randrange(disk.size(path)), rng.randrange(8))
    engine = drive.open(disk, block_cache_bytes=0, compression="none")
    for _ in range(8):
        reverse = rng.random() < 0.5
        low, high = sorted(rng.choices(sorted(model), k=2))
        start, end = rng.choice((b"", low)), rng.choice((None, high))
        seen = []
        current = {key: {record} for key, record in model.items()}  # since the scan began
        for key, found in engine.scan(start, end, reverse=reverse, around_damage=True):
            seen.append(key)
            assert found.record in current[key]
            if rng.random() < 0.01:
                changed = rng.choice(sorted(model))
                model[changed] = engine.replace(changed, b"%08d" % rng.randrange(10**8)).record
                current[changed].add(model[changed])
            if rng.random() < 0.003:
                drive.flush(engine)
        wanted = [key for key in model if start <= key and (end is None or key < end)]
        assert set(outside(engine, wanted)) <= set(seen)
        assert seen == sorted(set(seen), reverse=reverse)
        drive.sync(engine)
        again = around(engine, start, end, reverse=reverse)
        assert again == outside(engine, wanted, reverse)
    for key in model:
        assert engine.damaged_in(key, key + b"\x00") == (key not in outside(engine, model))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_around_damage_ends_with_the_engine(drive, disk, reverse):
    engine, model, _ = corrupt_table(drive, disk)
    read_all(engine, model)
    scan = engine.scan(b"", None, reverse=reverse, around_damage=True)
    next(scan)
    late = engine.scan(b"", None, reverse=reverse)
    engine.close()
    with pytest.raises(StoreClosed):
        list(scan)
    with pytest.raises(StoreClosed):
        next(late)


@pytest.mark.parametrize("healed", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_corruption_that_others_meet_while_a_scan_is_under_way(drive, disk, reverse, healed):
    """From then on its block reads as empty, and what it covers in an older run must not come to light."""
    engine = drive.open(disk, compression="none", block_cache_bytes=0)
    drive.fill(engine, 1000)
    drive.flush(engine)
    old = {*drive.files(disk, ".sst")}
    model = {}
    for number in range(1000):
        key = b"k%05d" % number
        model[key] = engine.update(key, b"%08d" % 2 * 5).record
    drive.sync(engine)
    while type(job := engine.next_job()).__name__ == "FlushJob":
        job.run()
        engine.finish(job)
    new = sorted({*drive.files(disk, ".sst")} - old)
    path = new[len(new) // 2]
    disk.flip_bit(path, disk.size(path) // 2)
    scans = [engine.scan(b"", None, reverse=reverse, around_damage=around) for around in (False, True)]
    seen = [[next(scan)] for scan in scans]
    for key in model:
        engine.update(key, b"%08d" % 0)  # it is older than all that is there
    (damage,) = engine.damaged
    if healed:
        engine.compact_fully()
        for key in model:
            if damage.start <= key < damage.end:
                engine.update(key, model[key])
        engine.heal(damage)
    with pytest.raises(CorruptData):
        seen[0].extend(scans[0])
    seen[1].extend(scans[1])
    for items in seen:
        assert all(found.record == model[key] for key, found in items)
    keys = [[key for key, _ in items] for items in seen]
    assert keys[0] == sorted(model, reverse=reverse)[: len(keys[0])]
    assert keys[1] == outside(engine, model, reverse)
    assert (len(keys[1]) == len(model)) == healed


@pytest.mark.parametrize("reverse", [False, True])
def test_corruption_that_others_meet_in_the_last_block_of_all(drive, disk, reverse, monkeypatch):
    """To a scan under way it would look like the end."""
    monkeypatch.setattr(sstable, "_READ_AHEAD_BYTES", 1)  # a scan that has read it already has lost nothing
    engine = drive.open(disk, compression="none", block_cache_bytes=0)
    model = drive.fill(engine, 100)
    drive.flush(engine)
    (path,) = drive.files(disk, ".sst")
    keys = sorted(model, reverse=reverse)
    under_way = []
    for taken in range(80, 100):
        for around_damage in (False, True):
            scan = engine.scan(b"", None, reverse=reverse, around_damage=around_damage)
            under_way.append((scan, [next(scan)[0] for _ in range(taken)], around_damage))
    disk.flip_bit(path, disk.read_file(path, 1 << 20).index(model[keys[-1]]))
    with pytest.raises(CorruptData):
        engine.get(keys[-1])
    left = outside(engine, keys, reverse)
    assert 85 < len(left) < 99
    for scan, seen, around_damage in under_way:
        if len(seen) > len(left):  # the block was read before
            assert seen + [key for key, _ in scan] == keys
        elif around_damage:
            assert seen + [key for key, _ in scan] == left
        else:
            with pytest.raises(CorruptData):
                seen.extend(key for key, _ in scan)
            assert seen == keys[: len(seen)]


@pytest.mark.parametrize("reverse", [False, True])
def test_corruption_that_others_meet_behind_a_scan_under_way(drive, disk, reverse):
    """The part that it has passed is unchanged."""
    engine = drive.open(disk, compression="none", block_cache_bytes=0)
    model = drive.fill(engine, 100)
    drive.flush(engine)
    (path,) = drive.files(disk, ".sst")
    keys = sorted(model, reverse=reverse)
    scan = engine.scan(b"", None, reverse=reverse)
    seen = [next(scan)[0] for _ in range(50)]
    disk.flip_bit(path, disk.read_file(path, 1 << 20).index(model[keys[0]]))
    with pytest.raises(CorruptData):
        engine.get(keys[0])
    assert seen + [key for key, _ in scan] == keys


def test_intact_stretches():
    rng = random.Random(2)
    for _ in range(500):
        ranges = sorted(
            (low, low + rng.randrange(1, 6)) for low in (rng.randrange(20) for _ in range(rng.randrange(4)))
        )
        pairs = [(b"%02d" % low, b"%02d" % high) for low, high in ranges]
        start, end = rng.randrange(25), rng.randrange(25)
        stretches = intact(pairs, b"%02d" % start, b"%02d" % end)
        numbers = [number for low, high in stretches for number in range(int(low), int(high))]
        assert numbers == [n for n in range(start, end) if not any(low <= n < high for low, high in ranges)]
        assert all(low < high for low, high in stretches)
    assert intact([(b"b", b"c")], b"a", None) == [(b"a", b"b"), (b"c", None)]
    assert intact([(b"b", None)], b"a", None) == [(b"a", b"b")]
    assert intact([(b"b", None), (b"c", b"d")], b"c", None) == []


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (b"a", b"c", False), (b"a", b"c\x00", True), (b"a", None, True), (b"c", b"d", True), (b"d", b"dd", True),
        (b"e", b"f", False), (b"e", None, False), (b"dz", None, True),
    ],
)  # fmt: skip
def test_damaged_in(drive, disk, start, end, expected):
    engine = drive.open(disk)
    assert not engine.damaged_in(start, end)
    engine._damaged = [Damage("1.sst", 0, b"c", b"e", "")]
    assert engine.damaged_in(start, end) is expected
    engine._damaged = [Damage("1.wal", 0, None, None, "")]
    assert engine.damaged_in(start, end), "it may be anything"
    engine._damaged = [Damage("1.sst", 0, b"c", None, "")]
    assert engine.damaged_in(start, end) is (end is None or end > b"c")


# ---- erasures in it -------------------------------------------------------------------------------------------


def test_an_erasure_that_meets_corruption_is_written_down_once(drive, disk):
    engine, model, _ = corrupt_table(drive, disk)
    refused = read_all(engine, model)
    for key in refused:
        position = engine.erase(key)
        assert position == engine.appended_position > engine.durable_position
        assert engine.erase(key) == position == engine.appended_position
    drive.sync(engine)
    assert engine.erase(b"elsewhere") == 0
    engine.heal(engine.damaged[0])
    assert drive.content(engine) == {key: record for key, record in model.items() if key not in refused}


def test_an_erasure_finds_the_corruption_itself(drive, disk):
    engine, model, _ = corrupt_table(drive, disk)
    for key in model:
        assert engine.erase(key) > 0
    assert len(engine.damaged) == 1
    engine.heal(engine.damaged[0])
    assert drive.content(engine) == {}


def test_what_a_bad_read_hid_stays_erased_when_it_can_be_read_again(drive, disk):
    engine = drive.open(disk, memtable_bytes=1 << 20, max_unflushed_bytes=1 << 20)
    for key in (b"a", b"b", b"c"):
        engine.update(key, b"r" * 20)
        drive.sync(engine)
    engine.close()
    (path,) = drive.files(disk, ".wal")
    place = disk.size(path) // 2
    disk.flip_bit(path, place)
    engine = drive.open(disk, memtable_bytes=1 << 20, max_unflushed_bytes=1 << 20)
    assert engine.damaged
    (lost,) = {b"a", b"b", b"c"} - {*drive.content(engine)}
    assert engine.erase(lost) == 1
    engine.close()
    disk.flip_bit(path, place)
    engine = drive.open(disk, memtable_bytes=1 << 20, max_unflushed_bytes=1 << 20)
    assert {*drive.content(engine)} == {b"a", b"b", b"c"} - {lost}
