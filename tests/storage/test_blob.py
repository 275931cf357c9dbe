import errno

import pytest

from raykv.errors import CorruptData
from raykv.storage.blob import read_blob, write_blob
from raykv.storage.manifest import Manifest, RunInfo, load, save
from raykv.storage.sstable import TableInfo

MAGIC = b"TESTBLOB"


@pytest.fixture
def disk(disk):
    disk.make_directories("/d")
    return disk


def read(disk):
    return read_blob(disk, "/d/b", MAGIC, 3, 100)


def test_round_trip_and_order(disk):
    write_blob(disk, "/d", "b", MAGIC, 2, b"one")
    assert read(disk) == (2, b"one")
    write_blob(disk, "/d", "b", MAGIC, 3, b"")
    assert read(disk) == (3, b"")
    assert disk.trace[:5] == [
        ("create", "/d/b.tmp"), ("append", "/d/b.tmp"), ("sync", "/d/b.tmp"), ("rename", "/d/b"), ("sync_directory", "/d"),
    ]  # fmt: skip


@pytest.mark.parametrize("offset", range(23))
def test_every_bit_counts(disk, offset):
    write_blob(disk, "/d", "b", MAGIC, 1, b"one")
    disk.flip_bit("/d/b", offset, offset % 8)
    with pytest.raises(CorruptData):
        read(disk)


def test_refusals(disk):
    with pytest.raises(FileNotFoundError):
        read(disk)
    write_blob(disk, "/d", "b", MAGIC, 4, b"one")
    with pytest.raises(CorruptData, match="format 4"):
        read(disk)
    write_blob(disk, "/d", "b", MAGIC, 1, bytes(101))
    with pytest.raises(CorruptData, match="at most"):
        read(disk)
    disk.truncate("/d/b", 7)
    with pytest.raises(CorruptData, match="too few"):
        read(disk)


@pytest.mark.parametrize("operation", ["create", "append", "sync", "rename"])
def test_a_failure_leaves_the_old_one_and_the_next_try_works(disk, operation):
    write_blob(disk, "/d", "b", MAGIC, 1, b"old")
    disk.fail(operation, error=errno.ENOSPC)
    with pytest.raises(OSError, match="injected"):
        write_blob(disk, "/d", "b", MAGIC, 1, b"new")
    assert read(disk) == (1, b"old")
    write_blob(disk, "/d", "b", MAGIC, 1, b"new")
    assert read(disk) == (1, b"new")


def test_manifest(disk):
    assert load(disk, "/d") is None
    info = TableInfo(3, 10, 1000, b"a", b"c")
    manifest = Manifest(next_number=5, oldest_segment=2, runs=(RunInfo(3, (info,)),))
    save(disk, "/d", manifest)
    assert load(disk, "/d") == manifest
    bad = Manifest(runs=(RunInfo(3, (info, TableInfo(4, 1, 1, b"c", b"d"))),))
    save(disk, "/d", bad)
    with pytest.raises(CorruptData, match="inconsistent"):
        load(disk, "/d")
    write_blob(disk, "/d", "manifest", b"RAYKVMAN", 1, b"\xc1")
    with pytest.raises(CorruptData):
        load(disk, "/d")
