"""The write-ahead log: every acknowledged update is here first (P3).

The log is a row of *segments*, ``00000001.wal`` and up, one for each memtable; a flushed memtable's segments are
unlinked. A segment is a header and *chunks*::

    header  magic 8 | version 4 | number 8 | previous number 8 | previous length 8 | crc32c 4
    chunk   sentinel 4 | payload length 4 | segment 4 | offset 8 | synced up to 8 | payload crc 4 | head crc 4 | payload

all little-endian. A payload is msgpack ``[[keys], [records]]``; a chunk without payload is a *mark*. A chunk records
its own position, so a copy of a chunk inside a value is not taken for one.

**Group commit.** Updates wait in a list; ``take`` hands all of them over as a ``SyncJob``, whose ``run`` makes one chunk
of them (more, if they are large), one write and one fdatasync, on any thread. Positions count updates, from 1, over the
engine's lifetime.

**Corruption or torn tail.** Recovery finds bytes that form no chunk. If they had been synced, they are corruption; if
not, the crash tore them. Two kinds of witness show how far a segment was synced: every chunk carries it (``synced up
to``, as of its writing), and so does every later segment, because a segment is created only after the one before was
synced for good: its header has that one's final length. Before that, the sealed segment gets a mark of its own, also
synced, so that a crash between the two leaves a witness; a clean stop does the same.

**Order.** A segment's header and the directory are synced before the first chunk is written. A failed write or sync ends
the log: nothing is retried, because the kernel may have dropped the pages that it failed to write.

Omitted: preallocation, recycling of segments, compression (records are compressed when they reach a table).
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, NoReturn

import msgspec
from crc32c import crc32c

from raykv.storage.damage import DiskFull, EngineFailed, NumbersUsedUp
from raykv.storage.mark import LAST_SEGMENT, end_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.ports import AppendFile, FileSystem

MAGIC = b"RAYKVWAL"
VERSION = 1
SENTINEL = b"\xf5RK\xc4"
HEADER = struct.Struct("<8sIQQQ")
CHUNK = struct.Struct("<4sIIQQI")
CHECKSUM = struct.Struct("<I")
HEADER_BYTES = HEADER.size + CHECKSUM.size
CHUNK_HEAD_BYTES = CHUNK.size + CHECKSUM.size
MAX_CHUNK_BYTES = 32 << 20
BRIEF_BYTES = 64 * 1024
"""The most bytes that are written to a file on the event loop's own thread."""
_CHUNK_TARGET_BYTES = 1 << 20
_ENTRY_OVERHEAD_BYTES = 10

_encode = msgspec.msgpack.Encoder().encode


def segment_name(number: int) -> str:
    """Return the file name of a segment."""
    return f"{number:08d}.wal"


def segment_header(number: int, previous: int, previous_length: int) -> bytes:
    """Return a segment's header. ``previous`` is 0 if no earlier one matters any more."""
    head = HEADER.pack(MAGIC, VERSION, number, previous, previous_length)
    return head + CHECKSUM.pack(crc32c(head))


def chunk(payload: bytes, segment: int, offset: int, synced_up_to: int) -> bytes:
    """Return a chunk for ``offset`` of ``segment``."""
    assert len(payload) <= MAX_CHUNK_BYTES
    assert synced_up_to <= offset
    head = CHUNK.pack(SENTINEL, len(payload), segment, offset, synced_up_to, crc32c(payload))
    return head + CHECKSUM.pack(crc32c(head)) + payload


def digest_with(head: bytes, digest: int) -> int:
    """Return the digest of a segment with one more chunk, which begins with ``head``."""
    return crc32c(head[CHUNK.size : CHUNK_HEAD_BYTES], digest)


class _Batch:
    """Updates for one segment, in order; ``seal``: the segment ends behind them."""

    __slots__ = ("keys", "position", "records", "seal", "segment", "written")

    def __init__(self, segment: int) -> None:
        self.segment = segment
        self.keys: list[bytes] = []
        self.records: list[bytes] = []
        self.position = 0
        self.seal = False
        self.written = False
        """Whether its updates are in the file: a job that found no room runs again."""

    @property
    def size_bytes(self) -> int:
        """The size of its keys and records."""
        return sum(map(len, self.keys)) + sum(map(len, self.records))

    def payloads(self) -> list[bytes]:
        """Return the updates, encoded, each payload of about 1 MiB or one record."""
        total = self.size_bytes
        if total <= _CHUNK_TARGET_BYTES:
            return [_encode((self.keys, self.records))] if self.keys else []
        payloads = []
        begin = size = 0
        for at, (key, record) in enumerate(zip(self.keys, self.records, strict=True), start=1):
            size += len(key) + len(record) + _ENTRY_OVERHEAD_BYTES
            if size >= _CHUNK_TARGET_BYTES or at == len(self.keys):
                payloads.append(_encode((self.keys[begin:at], self.records[begin:at])))
                begin, size = at, 0
        return payloads


class _Writer:
    """The end of the log on disk. One running job at a time uses it, on any thread."""

    def __init__(
        self, fs: FileSystem, directory: str, previous: int, previous_length: int, digests: dict[int, int]
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._digests = digests
        self._file: AppendFile | None = None
        self._digest = 0
        """The digest of the present segment's chunks."""
        self._half_written = False
        """Whether part of a write that found no room lies behind ``length``."""
        self.segment = previous
        self.length = previous_length
        self.synced_up_to = previous_length
        self.bytes_written = 0

    @property
    def is_open(self) -> bool:
        """Whether the present segment exists."""
        return self._file is not None

    @property
    def end_position(self) -> int:
        """The end of the log."""
        return end_of(self.segment, self.length)

    def begin(self, number: int) -> None:
        """Create the next segment durably, which seals the one before. ``DiskFull`` leaves nothing of it."""
        assert self._file is None
        assert number > self.segment
        assert self.synced_up_to == self.length, "a segment begins only once the one before is safe"
        before = self.segment, self.length
        path = f"{self._directory}/{segment_name(number)}"
        if self._half_written:  # an earlier attempt
            self._fs.unlink(path)
            self._half_written = False
        self._file = self._create(path)
        header = segment_header(number, self.segment, self.length)
        self.segment, self.length = number, 0
        self._digest = 0
        try:
            self._append(header)
        except DiskFull:
            self.close()
            self.segment, self.length = before
            self.synced_up_to = self.length
            raise
        self.sync()
        self._fs.sync_directory(self._directory)

    def write(self, batch: _Batch) -> None:
        """Append the batch, unsynced; with ``batch.seal`` end the segment, synced. After ``DiskFull`` call it again."""
        if batch.written:
            if batch.seal and batch.segment == self.segment:  # else another one follows already
                self.end()
            return
        if batch.keys or batch.seal:
            if self._file is None:
                if batch.segment > LAST_SEGMENT:
                    raise NumbersUsedUp(self._directory)
                self.begin(batch.segment)
            assert self.segment == batch.segment
        parts: list[bytes] = []
        at = self.length
        for payload in batch.payloads():
            parts.append(chunk(payload, self.segment, at, self.synced_up_to))
            at += len(parts[-1])
        if parts:
            self._append(b"".join(parts))
            for part in parts:
                self._digest = crc32c(part[CHUNK.size : CHUNK_HEAD_BYTES], self._digest)
        batch.written = True
        if batch.seal:
            self.end()

    def sync(self) -> None:
        """Sync everything that was appended."""
        if self._file is not None and self.synced_up_to < self.length:
            self._file.sync()
            self.synced_up_to = self.length

    def end(self) -> None:
        """Sync, append the last mark, sync that, close."""
        if self._file is None:
            return
        self.sync()
        mark = chunk(b"", self.segment, self.length, self.synced_up_to)
        self._append(mark)
        self._digests[self.segment] = digest_with(mark, self._digest)
        self.sync()
        self.close()

    def close(self) -> None:
        """Close without a last mark."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _create(self, path: str) -> AppendFile:
        try:
            return self._fs.create(path)
        except OSError as error:
            full = DiskFull.of(error)
            raise error if full is None else full from error

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        if self.length == 0:
            self.synced_up_to = 0
        if self._half_written:
            self._fs.truncate(f"{self._directory}/{segment_name(self.segment)}", self.length)
            self._half_written = False
        try:
            self._file.append(data)
        except OSError as error:
            full = DiskFull.of(error)
            if full is None:
                raise
            # The next write cuts the partial one off first: the log's tail stays as its chunks say.
            self._half_written = True
            raise full from error
        self.length += len(data)
        self.bytes_written += len(data)


class SyncJob:
    """The updates up to ``position``. Call ``run`` on any thread, then ``Engine.finish_sync`` on the loop's.

    Several may be taken; they run and finish in the order taken, one at a time.
    """

    __slots__ = ("_log", "batches", "done", "end", "position", "replaced_bytes", "sealed_through", "synced")

    def __init__(self, log: Log, batches: list[_Batch], position: int) -> None:
        self._log = log
        self.batches = batches
        self.position = position
        self.replaced_bytes = 0
        """What of its records no memtable holds any more: newer ones of the same keys came before the write."""
        self.sealed_through = 0
        for batch in batches:
            if batch.seal:
                self.sealed_through = batch.segment
        self.end = 0
        self.synced = False
        self.done = False

    @property
    def brief(self) -> bool:
        """Whether it only appends a few bytes to the open file: without ``sync`` a matter of microseconds."""
        return self._log.appends_briefly(self.batches)

    def run(self, sync: bool = True) -> None:
        """Write to the file, and with ``sync`` force it to the disk. ``EngineFailed`` ends the engine.

        ``DiskFull``: nothing is lost; this job must run again before any later one.
        """
        assert not self.done, "a job runs once"
        self.end = self._log.carry_out(self.batches, sync)
        self.synced = sync
        self.done = True


class Log:
    """The log in memory: positions and waiting updates. One thread, except for ``carry_out``."""

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        previous: int,
        previous_length: int,
        digests: dict[int, int] | None = None,
    ) -> None:
        """``digests``: of the earlier segments (``raykv.storage.mark``)."""
        self.digests: dict[int, int] = {} if digests is None else digests
        """Segment -> digest of its chunks. Complete once the log is closed."""
        self._writer = _Writer(fs, directory, previous, previous_length, self.digests)
        self._batch = _Batch(previous + 1)
        self._full: list[_Batch] = []
        self._taken: deque[SyncJob] = deque()
        self.appended_position = 0
        self.durable_position = 0
        self._synced_position = 0
        self._taken_position = 0
        self.sealed_through = previous
        """Segments up to this one are complete and synced: their memtables may be flushed."""
        self.segment_bytes = 0
        """The approximate size of the present segment, waiting updates included."""
        self.failure: EngineFailed | None = None
        self.durable_end = end_of(previous, previous_length)
        """The end of the durable part of the log, over all runs of the store: it grows, whatever crashes come between."""
        self.synced_end = self.durable_end
        """The end of the part that no power cut can take."""

    @property
    def segment(self) -> int:
        """The number of the segment for the next update."""
        return self._batch.segment

    @property
    def bytes_written(self) -> int:
        """Bytes written to all segments since the log was opened."""
        return self._writer.bytes_written

    def begin_segment(self) -> None:
        """Create the present segment now, synced: a witness for the end of the one before. Recovery only."""
        self._writer.begin(self._batch.segment)
        self.durable_end = self.synced_end = self._writer.end_position

    def append(self, key: bytes, record: bytes) -> int:
        """Add an update; return its position. O(1), no I/O."""
        batch = self._batch
        batch.keys.append(key)
        batch.records.append(record)
        self.segment_bytes += len(key) + len(record) + _ENTRY_OVERHEAD_BYTES
        self.appended_position = position = self.appended_position + 1
        return position

    def append_many(self, keys: Sequence[bytes], records: Sequence[bytes]) -> int:
        """Add updates; return the position of the first. O(updates), in C, no I/O."""
        batch = self._batch
        batch.keys += keys
        batch.records += records
        self.segment_bytes += sum(map(len, keys)) + sum(map(len, records)) + _ENTRY_OVERHEAD_BYTES * len(keys)
        first = self.appended_position + 1
        self.appended_position += len(keys)
        return first

    def rotate(self) -> int:
        """End the present segment behind all appended updates; return its number."""
        batch = self._batch
        batch.seal = True
        self._full.append(batch)
        self._batch = _Batch(batch.segment + 1)
        self.segment_bytes = 0
        return batch.segment

    def take(self, *, sync: bool) -> SyncJob | None:
        """Return a job for all updates that are not written (or, with ``sync``, not synced); None if there are none."""
        waiting = self._full or self._batch.keys
        unsynced = sync and not self._taken and self._synced_position < self._taken_position
        if not waiting and not unsynced:
            return None
        batches = self._full
        if self._batch.keys:
            batches.append(self._batch)
            self._batch = _Batch(self._batch.segment)
        self._full = []
        self._taken_position = self.appended_position
        job = SyncJob(self, batches, self.appended_position)
        self._taken.append(job)
        return job

    def appends_briefly(self, batches: list[_Batch]) -> bool:
        """Return whether these are few bytes and go to the open file."""
        if not self._writer.is_open:
            return False
        if len(batches) != 1:
            return (
                not any(batch.seal for batch in batches) and sum(batch.size_bytes for batch in batches) <= BRIEF_BYTES
            )
        return not batches[0].seal and batches[0].size_bytes <= BRIEF_BYTES

    def carry_out(self, batches: list[_Batch], sync: bool) -> int:
        """Write and sync; return the new end of the log. Any failure other than ``DiskFull`` is final."""
        if self.failure is not None:
            raise EngineFailed(self.failure.message)
        try:
            for batch in batches:
                self._writer.write(batch)
            if sync:
                self._writer.sync()
            return self._writer.end_position
        except DiskFull:
            raise
        except BaseException as error:
            self.failure = EngineFailed(f"the log could not be written or synced: {error!r}")
            self._writer.close()
            if isinstance(error, OSError):
                raise EngineFailed(self.failure.message) from error
            raise

    def finish(self, job: SyncJob) -> None:
        """Record a job that has run. ``EngineFailed`` if it has not, or is not the first of those taken."""
        if not job.done:
            self._fail("a sync was reported that was not carried out")
        if self._taken.popleft() is not job:
            self._fail("a sync was reported before an earlier one")
        if job.position < self.durable_position:
            self._fail("a sync was reported twice")
        self.durable_position = job.position
        self.durable_end = max(self.durable_end, job.end)
        if job.synced:
            self._synced_position = job.position
            self.synced_end = max(self.synced_end, job.end)
        self.sealed_through = max(self.sealed_through, job.sealed_through)

    def _fail(self, cause: str) -> NoReturn:
        self.failure = EngineFailed(cause)
        raise EngineFailed(cause)

    def close(self) -> None:
        """End the log cleanly: write and sync everything, and set the last mark. After a failure only close the file."""
        if self.failure is not None:
            self._writer.close()
            return
        assert not self._taken, "a sync is still under way"
        job = self.take(sync=True)
        if job is not None:
            job.run()
            self.finish(job)
        try:
            self._writer.end()
            self.durable_end = self.synced_end = max(self.durable_end, self._writer.end_position)
        except OSError as error:
            self.failure = EngineFailed(f"the log's last mark could not be written: {error!r}")
            self._writer.close()
            raise EngineFailed(self.failure.message) from error
