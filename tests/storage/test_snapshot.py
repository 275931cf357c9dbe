"""A node's tables in a backup directory: each copied once, whole, and into no directory of anybody else's."""

from __future__ import annotations

import errno
import os

import msgspec
import pytest
from storage_parts import FIRST, PATH, contents, flushed, take

from raykv.errors import CorruptData, InvalidOption
from raykv.sim.disk import SimDisk
from raykv.storage import snapshot
from raykv.storage.snapshot import (
    MARKER,
    Part,
    PartReader,
    TableCopier,
    pooled_table,
    prepare,
    read_part,
    snapshot_directory,
)
from raykv.storage.sstable import table_name
from raykv.system.files import OsFileSystem

SECOND = "20261129T180000Z-00000002"


def test_a_part_has_all_that_the_engine_had(drive, disk):
    engine = drive.open(disk)
    model = drive.fill(engine, 300)
    flushed(drive, engine)
    drive.fill(engine, 50, prefix="later")
    part, size_bytes, checksum, new = take(disk, engine)
    assert new == len(part.checksums) > 0
    read = read_part(disk, PATH, FIRST, "n1", size_bytes, checksum)
    assert read == part
    found, damages = contents(disk, read)
    assert {key: record for key, record in found.items() if key in model} == model
    assert not damages


def test_what_was_sealed_is_not_flushed_before_it_is(drive, disk):
    engine = drive.open(disk)
    engine.update(b"k", b"1")
    through = engine.begin_snapshot()
    assert not engine.flushed(through)
    engine.update(b"k", b"2")
    drive.sync(engine)
    drive.work(engine)
    assert engine.flushed(through)
    assert engine.begin_snapshot() > through
    assert drive.open(SimDisk()).begin_snapshot() == 0


def test_an_erased_key_is_not_in_it_and_the_newest_record_is(drive, disk):
    engine = drive.open(disk)
    engine.update(b"a", b"1")
    engine.update(b"b", b"1")
    flushed(drive, engine)
    engine.update(b"a", b"2")
    engine.erase(b"b")
    flushed(drive, engine)
    part, *_ = take(disk, engine)
    assert contents(disk, part)[0] == {b"a": b"2"}
    engine.erase(b"a")
    flushed(drive, engine)
    part, *_ = take(disk, engine, SECOND)
    assert [*PartReader(disk, PATH, part).batches()] == []


def test_a_second_snapshot_copies_only_what_is_new(drive, disk):
    engine = drive.open(disk, runs_per_level=8)
    drive.fill(engine, 100)
    flushed(drive, engine)
    first, *_, new = take(disk, engine)
    assert new
    again, *_, new = take(disk, engine, SECOND)
    assert (again.checksums, new) == (first.checksums, 0)
    engine.update(b"z", b"9")
    flushed(drive, engine)
    *_, new = take(disk, engine, SECOND)
    assert new == 1


def test_tables_that_are_compacted_away_meanwhile_are_copied(drive, disk):
    """Schedule: the node holds its tables; a compaction unlinks them; the copy begins."""
    engine = drive.open(disk)
    model = drive.fill(engine, 200)
    flushed(drive, engine)
    prepare(disk, PATH, "s", "n1", FIRST)
    held = engine.hold_tables()
    drive.fill(engine, 200, version=2)
    engine.compact_fully()
    drive.sync(engine)
    drive.work(engine)
    assert not {table.name for table in held.tables} & {path.rpartition("/")[2] for path in disk.files()}
    copier = TableCopier(disk, held.directory, PATH, "n1")
    copied = [copier.copy(table) for table in held.tables]
    held.release()
    part = Part(
        store_id="s", node_id="n1", snapshot=FIRST, manifest=held.manifest,
        checksums=tuple(each.checksum for each in copied),
    )  # fmt: skip
    assert contents(disk, part) == (model, [])


@pytest.mark.parametrize("error", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP])
def test_where_there_are_no_links_tables_are_copied(drive, disk, error):
    engine = drive.open(disk)
    model = drive.fill(engine, 100)
    flushed(drive, engine)
    disk.fail("link", error=error)
    part, *_ = take(disk, engine)
    assert contents(disk, part) == (model, [])


def test_a_link_that_fails_otherwise_is_an_error(drive, disk):
    engine = drive.open(disk)
    drive.fill(engine, 100)
    flushed(drive, engine)
    disk.fail("link", error=errno.EIO)
    with pytest.raises(OSError, match="injected"):
        take(disk, engine)


def test_a_copy_that_fails_leaves_nothing_under_the_table_s_name(drive, disk):
    engine = drive.open(disk)
    model = drive.fill(engine, 100)
    flushed(drive, engine)
    disk.fail("link", error=errno.EXDEV)
    disk.fail("append", PATH + "/tables", error=errno.ENOSPC)
    with pytest.raises(OSError, match="injected"):
        take(disk, engine)
    assert not [path for path in disk.files() if path.startswith(f"{PATH}/tables")]
    part, *_ = take(disk, engine)
    assert contents(disk, part) == (model, [])


def test_a_pooled_table_of_another_size_is_replaced(drive, disk):
    engine = drive.open(disk)
    model = drive.fill(engine, 100)
    flushed(drive, engine)
    part, *_ = take(disk, engine)
    info, checksum = next(iter(part.tables()))
    where = pooled_table(PATH, "n1", info, checksum)
    disk.unlink(where)
    disk.create(where).append(b"short")
    part, *_, new = take(disk, engine, SECOND)
    assert new == 1
    assert contents(disk, part) == (model, [])


def test_damage_is_left_out_and_named(drive, disk):
    engine = drive.open(disk)
    drive.fill(engine, 300)
    flushed(drive, engine)
    for error in (errno.EXDEV,) * 9:
        disk.fail("link", error=error)  # a copy: what befalls it does not befall the node
    part, *_ = take(disk, engine)
    reader = PartReader(disk, PATH, part)
    assert not any(reader.check(info, checksum) for info, checksum in part.tables())
    info, checksum = next(iter(part.tables()))
    where = pooled_table(PATH, "n1", info, checksum)
    disk.flip_bit(where, 100)
    assert "checksum" in reader.check(info, checksum)
    found, damages = contents(disk, part)
    assert len(damages) == 1
    assert damages[0].start == info.smallest
    assert info.smallest not in found
    assert found
    disk.unlink(where)
    assert "No such file" in reader.check(info, checksum)
    found, damages = contents(disk, part)
    assert damages[0].start == info.smallest


GOLDEN_MARKER = "5241594b56424452010000000c000000c07775ab81a873746f72655f6964a173"
GOLDEN_PART = (
    "5241594b565052540100000093000000389ba1fd85a873746f72655f6964a173a76e6f64655f6964a26e31a8736e617073686f74b93230"
    "323631313239543137303030305a2d3030303030303031a86d616e696665737499080391920791990702cd0384c40161c401620500ff0090"
    "9195ac30303030303030372e7373740cc40161c40162a1780402cf0000030000000000a4732f6e31a9636865636b73756d7391ce00abcdef"
)


def test_files_of_version_1_are_read(disk):
    """Every later raykv reads them, whatever the engine's own manifest has got since."""
    disk.make_directories(f"{PATH}/tables/n1")
    disk.make_directories(snapshot_directory(PATH, FIRST))
    disk.create(f"{PATH}/{MARKER}").append(bytes.fromhex(GOLDEN_MARKER))
    disk.create(f"{snapshot_directory(PATH, FIRST)}/n1.part").append(bytes.fromhex(GOLDEN_PART))
    assert snapshot.check_marker(disk, PATH) == "s"
    part = read_part(disk, PATH, FIRST, "n1", 147, 2161714373)
    ((info, checksum),) = part.tables()
    assert (info.number, info.count, info.size_bytes, info.digest, checksum) == (7, 2, 900, 5, 0xABCDEF)
    assert (info.smallest, info.largest) == (b"a", b"b")
    (healed,) = part.manifest.healed
    assert (healed.file, healed.offset) == ("00000007.sst", 12)
    assert pooled_table(PATH, "n1", info, checksum) == f"{PATH}/tables/n1/00000007-900-00000005-00abcdef.sst"


def test_every_bit_of_a_part_and_every_truncation_is_refused(drive, disk):
    engine = drive.open(disk)
    drive.fill(engine, 30)
    flushed(drive, engine)
    _, size_bytes, checksum, _ = take(disk, engine)
    where = f"{snapshot_directory(PATH, FIRST)}/n1.part"
    data = disk.read_file(where, 1 << 20)
    read_part(disk, PATH, FIRST, "n1", size_bytes, checksum)
    for bit in range(8 * len(data)):
        disk.flip_bit(where, bit // 8, bit % 8)
        with pytest.raises(CorruptData):
            read_part(disk, PATH, FIRST, "n1", size_bytes, checksum)
        disk.flip_bit(where, bit // 8, bit % 8)
    for length in range(len(data) - 1, -1, -1):
        disk.truncate(where, length)
        with pytest.raises(CorruptData):
            read_part(disk, PATH, FIRST, "n1", size_bytes, checksum)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"checksums": (1,)}, "one checksum a table"),
        ({"node_id": "n2"}, "part of"),
        ({"snapshot": SECOND}, "part of"),
        ({"checksums": (1 << 32,)}, "impossible checksum"),
        ({"checksums": (-1,)}, "impossible checksum"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused_whatever_its_checksum_says(drive, disk, change, match):
    engine = drive.open(disk)
    if match != "one checksum a table":
        engine.update(b"k", b"1")
    flushed(drive, engine)
    part, *_ = take(disk, engine)
    prepare(disk, PATH, "s", "n1", SECOND)
    forged = msgspec.structs.replace(part, **change)
    copier = TableCopier(disk, "", PATH, "n1")
    size_bytes, checksum = copier.write_part(forged)
    where, name = snapshot_directory(PATH, forged.snapshot), f"{forged.node_id}.part"
    if (forged.node_id, forged.snapshot) != ("n1", FIRST):
        data = disk.read_file(f"{where}/{name}", 1 << 20)
        disk.unlink(f"{snapshot_directory(PATH, FIRST)}/n1.part")
        disk.create(f"{snapshot_directory(PATH, FIRST)}/n1.part").append(data)
    with pytest.raises(CorruptData, match=match):
        read_part(disk, PATH, FIRST, "n1", size_bytes, checksum)


def test_a_directory_with_anything_else_in_it_is_not_written_to(disk):
    disk.make_directories("/home/ada")
    disk.create("/home/ada/thesis.txt").append(b"precious")
    with pytest.raises(InvalidOption, match=r"thesis\.txt"):
        prepare(disk, "/home/ada", "s", "n1", FIRST)
    assert disk.files() == ["/home/ada/thesis.txt"]
    assert disk.list_directory("/home/ada") == ["thesis.txt"]


def test_each_store_has_a_directory_of_its_own(disk):
    prepare(disk, PATH, "s", "n1", FIRST)
    prepare(disk, PATH, "s", "n2", FIRST)
    prepare(disk, PATH, "s", "n1", SECOND)
    with pytest.raises(InvalidOption, match="another store"):
        prepare(disk, PATH, "t", "n1", FIRST)
    disk.flip_bit(f"{PATH}/{MARKER}", 9)
    with pytest.raises(CorruptData):
        prepare(disk, PATH, "s", "n1", FIRST)


def test_what_other_nodes_are_making_is_no_stranger_s(disk):
    disk.make_directories(f"{PATH}/tables/n2")
    disk.create(f"{PATH}/{MARKER}.n2.tmp").append(b"half")
    prepare(disk, PATH, "s", "n1", FIRST)


@pytest.mark.parametrize("below", ["", "/tables", "/tables/n1", "/snapshots", f"/snapshots/{FIRST}"])
def test_no_symbolic_link_is_followed(tmp_path, below):
    victim = tmp_path / "victim"
    victim.mkdir()
    path = f"{tmp_path}/backups"
    fs = OsFileSystem()
    if below:
        prepare(fs, path, "s", "n2", SECOND)
        fs.make_directories(os.path.dirname(f"{path}{below}"))
        fs.remove_tree(f"{path}{below}")
    os.symlink(victim, f"{path}{below}")
    with pytest.raises(InvalidOption, match="symbolic link"):
        prepare(fs, path, "s", "n1", FIRST)
    assert not [*victim.iterdir()]


def test_on_a_real_disk_a_table_in_the_pool_is_the_same_file(tmp_path, drive):
    fs = OsFileSystem()
    directory = f"{tmp_path}/data"
    engine = type(drive.open(SimDisk())).open(fs, directory, drive.config, drive.merge)
    model = drive.fill(engine, 100)
    flushed(drive, engine)
    part, *_ = take(fs, engine, path=f"{tmp_path}/backups")
    info, checksum = next(iter(part.tables()))
    where = pooled_table(f"{tmp_path}/backups", "n1", info, checksum)
    assert os.path.samefile(where, f"{directory}/{table_name(info.number)}")
    engine.close()
    assert contents(fs, part, f"{tmp_path}/backups") == (model, [])


def test_a_name_that_is_no_entry_s_is_passed_over(drive, disk):
    engine = drive.open(disk)
    engine.update(b"k", b"1")
    flushed(drive, engine)
    held = engine.hold_tables()
    prepare(disk, PATH, "s", "n1", FIRST)
    prefix = snapshot._name_prefix(held.tables[0].info)
    for name in ("zz.sst", "", "1.sst", "0000000000000001.sst", "00000001", "00000001.sst.tmp"):
        disk.create(f"{PATH}/tables/n1/{prefix}{name}").append(bytes(held.tables[0].info.size_bytes))
    part, *_, new = take(disk, engine)
    assert new == 1
    assert contents(disk, part)[0] == {b"k": b"1"}
