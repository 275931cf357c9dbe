"""Reports on one table and on one segment of the log."""

from __future__ import annotations

import pytest

from raykv.storage.bloom import probe
from raykv.storage.inspected_files import MAX_FINDINGS, Finding, Limit
from raykv.storage.inspection import inspect

DIRECTORY = "/node/data"


def made(drive, disk, model, **changes):
    """Return the path of the one table of an engine that holds these records."""
    engine = drive.open(disk, memtable_bytes=1 << 20, max_unflushed_bytes=4 << 20, table_bytes=1 << 24, **changes)
    engine.update(b"a0", b"below, so that markers stay")
    engine._seal()
    drive.sync(engine)
    drive.work(engine)
    for key, record in model.items():
        engine.replace(key, record) if record else engine._put(key, b"")
    engine._seal()
    drive.sync(engine)
    drive.work(engine)
    return drive.files(disk, ".sst")[-1]


@pytest.fixture
def table(drive, disk):
    """The path of a table, and the entries in it."""
    model = {b"k%04d" % number: b"" if number % 50 == 0 else b"r%d" % number * 9 for number in range(500)}
    return made(drive, disk, model, block_bytes=512), model


def test_a_table_block_by_block(disk, table):
    path, model = table
    report = inspect(disk, path, most=None)
    assert report.findings == ()
    assert (report.number, report.count, report.smallest, report.largest) == (2, 500, min(model), max(model))
    assert report.size_bytes == disk.size(path)
    assert report.erased == 10
    assert report.raw_bytes == sum(len(key) + len(record) for key, record in model.items())
    assert len(report.listed) == report.blocks > 10
    assert sum(block.count for block in report.listed) == 500
    assert sum(block.size_bytes for block in report.listed) + report.index_bytes == report.size_bytes
    assert all(block.first <= block.last for block in report.listed)
    short = inspect(disk, path, most=3)
    assert short.listed == report.listed[:3]
    assert short.raw_bytes == report.raw_bytes, "all of it is read, whatever is listed"


def test_a_damaged_block_and_a_damaged_index(disk, table):
    path, _ = table
    report = inspect(disk, path, most=None)
    third = report.listed[2]
    disk.flip_bit(path, third.offset + 20)
    (finding,) = inspect(disk, path).findings
    assert finding.offset == third.offset
    assert finding.start <= third.first <= third.last < finding.end
    assert inspect(disk, path, most=None).listed == report.listed[:2] + report.listed[3:]
    disk.flip_bit(path, report.size_bytes - report.index_bytes + 30)
    (finding,) = inspect(disk, path).findings
    assert (finding.offset, finding.start) == (-1, b"k0000")
    disk.flip_bit(path, report.size_bytes - 1)
    (finding,) = inspect(disk, path).findings
    assert (finding.offset, finding.start) == (-1, None)
    assert "footer" in finding.text


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([[b"b", b"a"], [b"c", b"d"]], "do not ascend"),
        ([[b"a", b"c"], [b"b", b"d"]], "not above the last one"),
        ([[b"a", b"b"], [b"c", b"c0", b"d"]], "records where it says"),
    ],
)
def test_what_no_checksum_shows(drive, disk, monkeypatch, lists, expected):
    """A table whose writer was wrong: every checksum holds."""
    path = made(drive, disk, {b"a": b"1" * 300, b"d": b"2" * 300}, block_bytes=256)
    blocks = iter(lists)
    monkeypatch.setattr("raykv.storage.block.decode", lambda _: (keys := next(blocks), [b"r"] * len(keys)))
    assert any(expected in finding.text for finding in inspect(disk, path).findings)


def test_a_filter_that_does_not_know_a_key(drive, disk, monkeypatch):
    path = made(drive, disk, {b"%05d" % number: b"r" for number in range(100)})
    assert inspect(disk, path).findings == ()
    wrong = {b"00003": b"another key"}
    monkeypatch.setattr("raykv.storage.inspected_files.probe", lambda key: probe(wrong.get(key, key)))
    (finding,) = inspect(disk, path).findings
    assert "does not know 1 of its keys" in finding.text


def test_findings_are_bounded(drive, disk):
    path = made(drive, disk, {b"%05d" % number: b"r" * 300 for number in range(2 * MAX_FINDINGS)}, block_bytes=256)
    for block in inspect(disk, path, most=None).listed:
        disk.flip_bit(path, block.offset)
    findings = inspect(disk, path).findings
    assert len(findings) == MAX_FINDINGS + 1
    assert findings[-1].text == f"{MAX_FINDINGS} more of them"


def test_a_segment_chunk_by_chunk(drive, disk):
    engine = drive.open(disk, memtable_bytes=1 << 20)
    model = {}
    for number in range(40):
        key = b"k%d" % number
        model[key] = engine.update(key, b"%08d" % number).record
        if number % 4 == 3:
            drive.sync(engine)
    engine.erase(b"k0")
    engine.close()
    path = f"{DIRECTORY}/00000001.wal"
    report = inspect(disk, path, most=None)
    assert report.findings == report.notes == ()
    assert report.ended
    assert not report.sealed
    assert (report.count, report.erased, report.size_bytes) == (41, 1, disk.size(path))
    assert report.length == report.size_bytes
    assert len(report.listed) == report.chunks == 12, "ten, the last one, and the mark"
    assert [chunk.count for chunk in report.listed] == [4] * 10 + [1, 0]
    assert {entry.key: entry.record for entry in report.records} == {**model, b"k0": b""}
    assert all(
        one.offset + one.size_bytes == two.offset for one, two in zip(report.listed, report.listed[1:], strict=False)
    )
    short = inspect(disk, path, most=3)
    assert short.listed == report.listed[:3]
    assert short.records == report.records[:3]
    assert (short.count, short.digest) == (report.count, report.digest)


def test_the_next_segment_vouches_for_this_one(drive, disk):
    engine = drive.open(disk, memtable_bytes=4096)
    number = 0
    while len(drive.files(disk, ".wal")) < 2:
        engine.update(b"%05d" % number, b"r" * 50)
        drive.sync(engine)
        number += 1
    path, later = drive.files(disk, ".wal")
    report = inspect(disk, path)
    assert report.sealed
    assert report.ended
    assert inspect(disk, later).previous_length == report.length
    disk.truncate(path, disk.size(path) - 60)
    assert "make no sense" in str(inspect(disk, path).findings)


def test_a_finding_names_its_directory():
    assert Finding("f", 1, "x").within("data").file == "data/f"


def test_limits():
    limit = Limit(2)
    other = limit.copy()
    assert [limit.take() for _ in range(3)] == [True, True, False]
    assert other.take()
    assert all(Limit(None).take() for _ in range(100))
