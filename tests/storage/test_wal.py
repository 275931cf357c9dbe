"""The log: every write comes back; corruption and torn tails are distinguished."""

import errno

import msgspec
import pytest

from raykv.errors import CorruptData
from raykv.storage.damage import EngineFailed
from raykv.storage.replay import read_header, replay_segment
from raykv.storage.wal import (
    BRIEF_BYTES,
    CHUNK_HEAD_BYTES,
    HEADER,
    HEADER_BYTES,
    MAX_CHUNK_BYTES,
    Log,
    chunk,
    segment_header,
)

PATH = "/d/00000001.wal"


@pytest.fixture
def disk(disk):
    disk.make_directories("/d")
    return disk


def put(log, *keys, sync=True):
    for key in keys:
        log.append(key, b"record of " + key)
    job = log.take(sync=sync)
    job.run(sync)
    log.finish(job)


def replay(disk, sealed_length=None, sealed=False, number=1):
    return replay_segment(disk, "/d", number, sealed_length, sealed)


def keys(replayed):
    return [key for block in replayed.blocks for key in block[0]]


def three(disk):
    """A segment of three synced chunks: a, b, c. Returns their offsets and the end."""
    log = Log(disk, "/d", 0, 0)
    offsets = [HEADER_BYTES]
    for key in (b"a", b"b", b"c"):
        put(log, key)
        offsets.append(disk.size(PATH))
    return log, offsets


def test_round_trip_and_positions(disk):
    log = Log(disk, "/d", 0, 0)
    assert log.take(sync=True) is None
    assert [log.append(b"k%d" % n, b"r") for n in range(3)] == [1, 2, 3]
    assert (log.appended_position, log.durable_position) == (3, 0)
    job = log.take(sync=True)
    log.append(b"later", b"r")
    job.run()
    assert log.durable_position == 0
    log.finish(job)
    assert (log.appended_position, log.durable_position) == (4, 3)
    assert keys(replay(disk)) == [b"k0", b"k1", b"k2"]
    put(log)
    assert keys(replay(disk)) == [b"k0", b"k1", b"k2", b"later"]
    assert log.take(sync=True) is None


def test_many_updates_make_one_write_and_one_sync(disk):
    log = Log(disk, "/d", 0, 0)
    put(log, b"first")
    disk.trace.clear()
    put(log, *[b"%d" % n for n in range(100)])
    assert [operation for operation, _ in disk.trace] == ["append", "sync"]


def test_order_for_a_new_segment(disk):
    log = Log(disk, "/d", 0, 0)
    put(log, b"a")
    assert [operation for operation, _ in disk.trace] == [
        "create",
        "append",
        "sync",
        "sync_directory",
        "append",
        "sync",
    ]


def test_write_without_sync_then_sync(disk):
    log = Log(disk, "/d", 0, 0)
    put(log, b"a", sync=False)
    assert disk.size(PATH) > disk.synced_size(PATH) == HEADER_BYTES
    assert log.durable_position == 1, "the caller chose what durable means"
    assert log.take(sync=False) is None
    job = log.take(sync=True)
    assert job is not None
    job.run()
    log.finish(job)
    assert disk.size(PATH) == disk.synced_size(PATH)
    assert log.take(sync=True) is None


def test_a_job_is_brief_if_it_only_appends_a_little_to_an_open_file(disk):
    def taken():
        job = log.take(sync=False)
        brief = job.brief
        job.run(sync=False)
        log.finish(job)
        return brief

    log = Log(disk, "/d", 0, 0)
    log.append(b"a", b"")
    assert not taken(), "it begins a segment, and syncs for that"
    log.append(b"b", b"x" * 1000)
    assert taken()
    log.append(b"c", b"x" * BRIEF_BYTES)
    assert not taken(), "large"
    log.append(b"d", b"")
    log.rotate()
    assert not taken(), "it ends the segment, and syncs for that"


def test_jobs_run_and_finish_in_order(disk):
    log = Log(disk, "/d", 0, 0)
    log.append(b"a", b"")
    first = log.take(sync=True)
    log.append(b"b", b"")
    second = log.take(sync=True)
    assert log.take(sync=True) is None
    first.run()
    second.run()
    with pytest.raises(EngineFailed, match="before an earlier one"):
        log.finish(second)
    assert log.durable_position == 0
    assert keys(replay(disk)) == [b"a", b"b"]


def test_a_job_that_has_not_run_makes_nothing_durable(disk):
    log = Log(disk, "/d", 0, 0)
    log.append(b"a", b"")
    job = log.take(sync=True)
    with pytest.raises(EngineFailed, match="not carried out"):
        log.finish(job)
    assert log.durable_position == 0
    assert log.failure is not None


def test_rotation_seals(disk):
    log = Log(disk, "/d", 0, 0)
    log.append(b"a", b"")
    assert log.rotate() == 1
    log.append(b"b", b"")
    assert log.sealed_through == 0
    put(log)
    assert log.sealed_through == 1
    header = read_header(disk, "/d", 2)
    assert header == (2, 1, disk.size(PATH))
    first = replay(disk)
    assert keys(first) == [b"a"]
    assert keys(replay(disk, number=2)) == [b"b"]
    names = [path for _, path in disk.trace]
    begin = names.index("/d/00000002.wal")
    assert disk.trace[begin - 2 : begin] == [("append", PATH), ("sync", PATH)], "sealed, synced, and only then the next"


def test_large_batches_are_cut_into_chunks(disk):
    log = Log(disk, "/d", 0, 0)
    for number in range(30):
        log.append(b"%d" % number, b"x" * 300_000)
    put(log)
    replayed = replay(disk)
    assert len(replayed.blocks) > 5
    assert keys(replayed) == [b"%d" % number for number in range(30)]
    assert not replayed.damages


@pytest.mark.parametrize("cut", range(1, 50, 7))
def test_a_torn_tail_is_cut(disk, cut):
    _, offsets = three(disk)
    disk.truncate(PATH, offsets[3] - cut)
    replayed = replay(disk)
    assert not replayed.damages
    assert keys(replayed) == [b"a", b"b"]
    assert replayed.length == offsets[2]


def test_corruption_below_a_later_mark_is_damage_and_what_follows_counts(disk):
    log, offsets = three(disk)
    log.close()
    for at, lost in ((offsets[0] + 50, b"a"), (offsets[1] + 2, b"b"), (offsets[2] + 8, b"c"), (5, None)):
        disk.flip_bit(PATH, at, 3)
        replayed = replay(disk)
        assert keys(replayed) == [key for key in (b"a", b"b", b"c") if key != lost]
        assert len(replayed.damages) == 1
        assert replayed.damages[0].start is None
        assert replayed.length == replayed.size
        disk.flip_bit(PATH, at, 3)


def test_corruption_above_every_mark_is_a_torn_tail(disk):
    _, offsets = three(disk)
    disk.flip_bit(PATH, offsets[2] + CHUNK_HEAD_BYTES)  # chunk c is synced, but nothing written later says so
    replayed = replay(disk)
    assert (keys(replayed), replayed.damages, replayed.length) == ([b"a", b"b"], [], offsets[2])


def test_a_lost_chunk_before_a_kept_one_is_a_torn_tail(disk):
    """Neither of the two was synced; the disk wrote the later one first."""
    log = Log(disk, "/d", 0, 0)
    put(log, b"a")
    put(log, b"b", sync=False)
    begin = disk.size(PATH)
    put(log, b"c", sync=False)
    put(log, b"d", sync=False)
    disk.flip_bit(PATH, begin + CHUNK_HEAD_BYTES + 3)
    replayed = replay(disk)
    assert (keys(replayed), replayed.damages, replayed.length) == ([b"a", b"b"], [], begin)


def test_corruption_and_torn_tail_in_one_segment(disk):
    log, offsets = three(disk)
    end = disk.size(PATH)
    put(log, b"d", sync=False)
    disk.flip_bit(PATH, offsets[0] + CHUNK_HEAD_BYTES)
    disk.truncate(PATH, disk.size(PATH) - 1)
    replayed = replay(disk)
    assert keys(replayed) == [b"b", b"c"]
    assert [damage.offset for damage in replayed.damages] == [offsets[0]]
    assert replayed.length == end


def test_in_a_sealed_segment_all_damage_is_corruption(disk):
    _, offsets = three(disk)
    disk.flip_bit(PATH, offsets[2] + CHUNK_HEAD_BYTES)
    for sealed_length in (None, offsets[3]):
        replayed = replay(disk, sealed_length, sealed=True)
        assert keys(replayed) == [b"a", b"b"]
        assert [damage.offset for damage in replayed.damages] == [offsets[2]]


def test_a_sealed_segment_that_is_too_short_is_corruption(disk):
    _, offsets = three(disk)
    disk.truncate(PATH, offsets[2])
    assert not replay(disk).damages
    assert [damage.offset for damage in replay(disk, offsets[3], sealed=True).damages] == [offsets[2]]
    disk.truncate(PATH, 0)
    assert replay(disk, None, sealed=True).damages


def test_what_lies_behind_the_sealed_length_does_not_count(disk):
    _, offsets = three(disk)
    replayed = replay(disk, offsets[2], sealed=True)
    assert (keys(replayed), replayed.damages, replayed.length) == ([b"a", b"b"], [], offsets[2])


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1])
def test_a_header_torn_at_creation_is_empty(disk, length):
    log = Log(disk, "/d", 0, 0)
    put(log, b"a")
    disk.truncate(PATH, length)
    replayed = replay(disk)
    assert replayed.empty
    assert not replayed.damages
    assert not replayed.blocks


def test_a_corrupt_header_with_a_chunk_behind_it_is_corruption(disk):
    log = Log(disk, "/d", 0, 0)
    put(log, b"a")
    disk.flip_bit(PATH, 3)
    replayed = replay(disk)
    assert not replayed.empty
    assert keys(replayed) == [b"a"]
    assert [damage.offset for damage in replayed.damages] == [0]


def test_a_copy_of_a_chunk_inside_a_value_is_not_a_chunk(disk):
    log = Log(disk, "/d", 0, 0)
    put(log, b"a")
    copy = disk.read_file(PATH, 1 << 20)[HEADER_BYTES:]
    begin = disk.size(PATH)
    log.append(b"evil", copy + chunk(b"x", 1, begin, 0) + chunk(b"y", 2, begin + 99, 0))
    put(log)
    put(log, b"z")
    disk.flip_bit(PATH, begin + CHUNK_HEAD_BYTES)
    replayed = replay(disk)
    assert keys(replayed) == [b"a", b"z"]
    assert len(replayed.damages) == 1


def test_resync_across_windows(disk):
    log = Log(disk, "/d", 0, 0)
    log.append(b"big", b"\xf5RK\xc4" * 700_000)  # 2.8 MB of sentinels
    put(log)
    put(log, b"z")
    disk.flip_bit(PATH, HEADER_BYTES + 7)
    replayed = replay(disk)
    assert keys(replayed) == [b"z"]
    assert len(replayed.damages) == 1


@pytest.mark.parametrize("before_the_edge", range(5))
def test_resync_finds_a_sentinel_on_the_edge_of_a_window(disk, before_the_edge):
    window = 1 << 20  # the search begins one byte behind the damaged chunk's beginning
    empty = len(chunk(msgspec.msgpack.encode(([b"big"], [b"x" * 70_000])), 1, HEADER_BYTES, 0)) - 70_000
    log = Log(disk, "/d", 0, 0)
    log.append(b"big", b"x" * (window + 1 - before_the_edge - empty))
    put(log)
    assert disk.size(PATH) == HEADER_BYTES + 1 + window - before_the_edge
    put(log, b"z")
    disk.flip_bit(PATH, HEADER_BYTES + CHUNK_HEAD_BYTES + 50)
    assert keys(replay(disk)) == [b"z"]


def test_a_length_is_not_believed(disk):
    from crc32c import crc32c

    from raykv.storage.wal import CHECKSUM, CHUNK, SENTINEL

    file = disk.create(PATH)
    file.append(segment_header(1, 0, 0))
    payload = msgspec.msgpack.encode(([b"k"], [bytes(MAX_CHUNK_BYTES)]))
    lie = CHUNK.pack(SENTINEL, len(payload), 1, HEADER_BYTES, 0, crc32c(payload))
    file.append(lie + CHECKSUM.pack(crc32c(lie)) + payload)
    replayed = replay(disk)
    assert (replayed.blocks, replayed.length) == ([], HEADER_BYTES)


def test_a_format_of_the_future_is_refused(disk):
    from crc32c import crc32c

    from raykv.storage.wal import CHECKSUM, MAGIC, VERSION

    head = HEADER.pack(MAGIC, VERSION + 1, 1, 0, 0)
    disk.create(PATH).append(head + CHECKSUM.pack(crc32c(head)))
    with pytest.raises(CorruptData, match="format 2"):
        replay(disk)


@pytest.mark.parametrize(
    ("operation", "error"),
    [("append", errno.EIO), ("sync", errno.EIO), ("sync", errno.ENOSPC), ("create", errno.EACCES)],
)
def test_a_failure_is_final(disk, operation, error):
    log = Log(disk, "/d", 0, 0)
    log.append(b"a", b"")
    disk.fail(operation, ".wal", error=error)
    job = log.take(sync=True)
    with pytest.raises(EngineFailed):
        job.run()
    assert log.failure is not None
    log.append(b"b", b"")
    disk.trace.clear()
    with pytest.raises(EngineFailed):
        log.take(sync=True).run()
    assert not disk.trace, "nothing is tried again"
    log.close()
    assert not disk.trace


def test_close_leaves_a_mark(disk):
    log, offsets = three(disk)
    log.append(b"d", b"")
    log.close()
    assert disk.size(PATH) == disk.synced_size(PATH)
    replayed = replay(disk)
    assert keys(replayed) == [b"a", b"b", b"c", b"d"]
    disk.flip_bit(PATH, offsets[3] + CHUNK_HEAD_BYTES)
    assert replay(disk).damages, "after a clean stop even the last chunk is below a mark"
