"""Bit rot: never wrong data, never forgotten, healed only on request."""

import random

import pytest

from raykv.errors import CorruptData


def rotten_table(drive, disk, count=300, at=0.5):
    """An engine in one run, whose first table has a rotten block. Returns engine, model, path."""
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


def test_a_rotten_block_costs_its_range_only(drive, disk):
    engine, model, path = rotten_table(drive, disk)
    refused = read_all(engine, model)
    assert 1 <= len(refused) < 20
    (damage,) = engine.damaged
    assert path.endswith(damage.file)
    assert all(damage.start <= key < damage.end for key in refused)
    assert read_all(engine, model) == refused
    assert engine.stats().damaged == 1
    assert damage.file in str(damage)


def test_scans_stop_at_it(drive, disk):
    engine, model, _ = rotten_table(drive, disk)
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
    engine, model, path = rotten_table(drive, disk)
    refused = read_all(engine, model) if found_by == "read" else None
    drive.flush(engine)  # merges the rotten run into a new one
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
    engine, model, path = rotten_table(drive, disk)
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


def test_an_update_that_meets_rot_merges_with_what_is_left(drive, disk):
    engine, model, _ = rotten_table(drive, disk)
    for key in model:
        assert engine.update(key, b"99999999").record == b"99999999"
    assert len(engine.damaged) == 1


def test_an_unreadable_table_is_set_aside_and_its_range_refused(drive, disk):
    engine, model, path = rotten_table(drive, disk, at=0.9999)
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
    engine, model, path = rotten_table(drive, disk)
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


def test_rot_in_the_log_is_reported_and_stays_reported(drive, disk):
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


def test_healed_rot_in_a_log_that_is_still_there_stays_healed(drive, disk):
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


def test_the_witness_of_rot_may_be_cut_off_and_is_not_forgotten(drive, disk):
    """Chunks a, b are written, then synced together; c is torn, d behind it is whole and alone tells that a was safe.

    Recovery cuts c and d off. A second one must still see a as rot, and b as safe.
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
