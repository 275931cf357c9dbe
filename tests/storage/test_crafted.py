"""Crafted files, with checksums that hold: ``CorruptData`` or corruption within bounds, never another error."""

from __future__ import annotations

import random

import msgspec
import pytest
from crc32c import crc32c

from raykv.errors import CorruptData
from raykv.sim.disk import Inode
from raykv.storage import NumbersUsedUp, block, read_identity, sstable_writer, wal
from raykv.storage import manifest as manifests
from raykv.storage.blob import write_blob
from raykv.storage.mark import MAX_SEGMENT
from raykv.storage.wal import CHECKSUM, CHUNK, CHUNK_HEAD_BYTES, HEADER_BYTES, SENTINEL, segment_header, segment_name

DEEP = b"\x91" * 100_000 + b"\x01"
HUGE = b"\xcf" + b"\xff" * 8
NEGATIVE = b"\xff"


@pytest.mark.parametrize(
    "payload",
    [
        DEEP, b"\x92\x01\x01", b"\x95\x01\x01" + DEEP, b"\x99\x01\x01\x90\x90\x90\x00\x00\x00\xa1\xff",
        b"\x92\x01" + NEGATIVE, b"\x92\x01" + HUGE, b"\x92" + HUGE + b"\x01", b"\x92" + NEGATIVE + b"\x01",
        msgspec.msgpack.encode([1, 1, [[1, [[-7, 1, 10, b"a", b"b"]]]]]),
        msgspec.msgpack.encode([1, 1, [[1, [[1 << 60, 1, 10, b"a", b"b"]]]]]),
        msgspec.msgpack.encode([1, 1, [[1, [[7, 1, -1, b"a", b"b"]]]]]),
        msgspec.msgpack.encode([1, 1, [[1, [[7, 1, 10, b"b", b"a"]]]]]),
        msgspec.msgpack.encode([1, 1, [], [["../../x", 0, None, None, ""]]]),
        msgspec.msgpack.encode([1, 1, [], [], [], -1]), msgspec.msgpack.encode([1, 1, [], [], [], 0, 0, -5]),
    ],
)  # fmt: skip
def test_a_manifest(drive, disk, payload):
    disk.make_directories(drive.directory)
    write_blob(disk, drive.directory, manifests.NAME, manifests.MAGIC, manifests.VERSION, payload)
    if payload == b"\x92\x01\x01":
        drive.open(disk)
        return
    with pytest.raises(CorruptData):
        drive.open(disk)


@pytest.mark.parametrize(
    "change",
    [
        {"data": "../other"}, {"data": "/etc"}, {"data": "data-1/.."}, {"life": "zz"}, {"life": "0" * 31},
        {"incarnation": -1},
        {"incarnation": 1 << 63}, {"store_id": b"\xff"}, {"more": "deep"},
    ],
)  # fmt: skip
def test_an_identity(disk, change):
    disk.make_directories("/n")
    sound = {"store_id": "s", "node_id": "n", "life": "0" * 32, "incarnation": 1, "clean": False, "complete": True}
    payload = msgspec.msgpack.encode({**sound, **change})
    if "more" in change:
        payload = payload.replace(b"\xa4deep", DEEP)
    if "store_id" in change:
        payload = payload.replace(b"\xc4\x01\xff", b"\xa1\xff")
    write_blob(disk, "/n", "identity", b"RAYKVIDN", 2, payload)
    with pytest.raises(CorruptData):
        read_identity(disk, "/n")


@pytest.mark.parametrize("number", [MAX_SEGMENT + 1, 99_999_999, 10**15])
def test_an_absurd_segment(drive, disk, number):
    drive.open(disk).close()
    data = segment_header(number, 0, 0)
    disk._names[f"{drive.directory}/{segment_name(number)}"] = Inode(data, len(data))
    with pytest.raises(CorruptData, match=str(number)):
        drive.open(disk)


def test_a_segment_far_ahead_is_one_damage_and_is_not_gone_on_from(drive, disk):
    """It would use up the numbers of the log: ten flushes later nobody could open the directory any more."""
    engine = drive.open(disk)
    engine.update(b"a", b"00000001:x")
    engine.close()
    for number in (MAX_SEGMENT - 10, MAX_SEGMENT):
        data = segment_header(number, 0, 0)
        disk._names[f"{drive.directory}/{segment_name(number)}"] = Inode(data, len(data))
    engine = drive.open(disk)
    assert len(engine.damaged) == 1
    assert engine.get(b"a").record == b"00000001:x"
    drive.fill(engine, 200)
    engine.close()
    assert engine._log.segment < 1000
    assert drive.open(disk).damaged == engine.damaged
    assert len(drive.files(disk, ".wal.rotten")) == 2, "somebody may want to look at them"


def test_a_log_that_has_used_up_its_numbers_takes_no_more_and_all_that_it_took_is_read(drive, disk, monkeypatch):
    """Acknowledged with numbers that no recovery believes, all of it would be lost with the next start."""
    monkeypatch.setattr(wal, "LAST_SEGMENT", 3)
    engine, model = drive.open(disk), {}

    def fill():
        for number in range(10_000):
            record = engine.update(b"k%05d" % number, b"%08d:" % number + b"z" * 200).record
            drive.sync(engine)
            model[b"k%05d" % number] = record
            drive.work(engine)

    with pytest.raises(NumbersUsedUp, match="used up"):
        fill()
    assert len(model) > 10
    for _ in range(3):
        engine = drive.open(disk.crash(random.Random(1), "drop"))
        assert engine.damaged == ()
        assert {key: engine.get(key).record for key in model} == model
        engine.update(b"more", b"00000001:x")
        with pytest.raises(NumbersUsedUp):
            drive.sync(engine)


def test_the_last_segment_of_all_is_flushed_and_the_directory_opens(drive, disk, monkeypatch):
    number = MAX_SEGMENT
    engine = drive.open(disk)
    engine.close()
    manifest = msgspec.structs.replace(manifests.load(disk, drive.directory), oldest_segment=number + 1)
    manifests.save(disk, drive.directory, manifest)
    engine = drive.open(disk)
    assert not drive.content(engine)
    engine.update(b"a", b"00000001:x")
    with pytest.raises(NumbersUsedUp):
        drive.sync(engine)


@pytest.mark.parametrize("claimed", ["the rest", 1, 600_000, (1 << 20) - 50, (1 << 20) + 50])
def test_a_log_full_of_sound_heads_is_read_once(drive, disk, claimed):
    """Each claims so many bytes that are no payload: reading the rest, or a window, for each would be quadratic."""
    engine = drive.open(disk)
    engine.update(b"a", b"00000001:x")
    engine.close()
    path = f"{drive.directory}/{segment_name(1)}"
    size = HEADER_BYTES + 20_000 * (CHUNK_HEAD_BYTES + 2) + 100
    size = max(size, 8 * claimed) if isinstance(claimed, int) else size
    data = bytearray(segment_header(1, 0, 0))
    while (left := size - len(data) - CHUNK_HEAD_BYTES) > 2:
        at = len(data)
        length = min(left, claimed) if isinstance(claimed, int) else left
        head = CHUNK.pack(SENTINEL, length, 1, at, 0, 7)
        data += head + CHECKSUM.pack(crc32c(head))
        if isinstance(claimed, int):
            data += b"x" * length + b"?"  # a search begins behind each
    disk._names[path] = Inode(data, len(data))
    read = 0
    pread = type(disk.open_read(path)).pread

    def counting(self, offset, length):
        nonlocal read
        found = pread(self, offset, length)
        read += len(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(disk.open_read(path)), "pread", counting)
        drive.open(disk)
    assert read < 10 * len(data), "some of them by those who look at other things"


def test_a_chunk_whose_lists_are_not_as_long_or_that_is_too_deep(drive, disk):
    for payload in (msgspec.msgpack.encode([[b"a"], []]), b"\x92" + DEEP + b"\x90", b"\x92\x91" + DEEP + b"\x90"):
        drive.open(disk).close()
        data = segment_header(1, 0, 0)
        head = CHUNK.pack(SENTINEL, len(payload), 1, len(data), 0, crc32c(payload))
        data += head + CHECKSUM.pack(crc32c(head)) + payload
        disk._names[f"{drive.directory}/{segment_name(1)}"] = Inode(data, len(data))
        assert drive.content(drive.open(disk)) == {}


@pytest.mark.parametrize(
    "index",
    [
        ([b"a"], [-1, 50]), ([b"a"], [1 << 63, (1 << 64) - 1]), ([b"a"], [12, 12]), ([b"a"], [50, 12]),
        ([b"a", b"a"], [12, 20, 30]),
        ([b"b", b"a"], [12, 20, 30]), ([b"a"], [12, 1 << 40]), ([], [12]), "deep", "unequal",
    ],
)  # fmt: skip
def test_a_table(drive, disk, monkeypatch, index):
    """Written by a writer of ours that lies."""
    engine = drive.open(disk)
    model = {b"k%02d" % at: engine.update(b"k%02d" % at, b"00000001:x").record for at in range(5)}
    encode, encode_block = sstable_writer._encode, block.encode

    def lying(value):
        if isinstance(value, tuple) and value[1] and isinstance(value[1][0], int) and index != "unequal":
            return b"\x92" + DEEP + b"\x90" if index == "deep" else encode(index)
        return encode(value)

    with monkeypatch.context() as patch:
        patch.setattr(sstable_writer, "_encode", lying)
        if index == "unequal":
            patch.setattr(block, "encode", lambda *given: encode_block(*given)[:-5] + b"\xff\0\0\0\x02")
        engine.compact_fully()
        drive.sync(engine)
        job = engine.next_job()
        try:
            job.run()
        except OSError:
            return  # it does not even read back
        engine.finish(job)
    for key, record in model.items():
        try:
            assert engine.get(key).record == record
        except CorruptData:
            assert engine.damaged
