"""Reports on single files: a table block by block, a segment of the log chunk by chunk.

Every checksum is verified, and beyond them what a checksum cannot show: that keys ascend through the whole table, that
the filter knows each of them, that there are as many as the table says, and that they lie between its bounds.

Memory: one block or chunk, and what the limit lets the report list.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from raykv.storage.blob import UNREADABLE
from raykv.storage.bloom import probe
from raykv.storage.cache import BlockCache
from raykv.storage.damage import CorruptBlock
from raykv.storage.replay import Gap, add_gap, header_in, judge, read_header, said_of, walk
from raykv.storage.sstable import Table, read_ends
from raykv.storage.wal import HEADER_BYTES, digest_with, segment_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.ports import FileSystem
    from raykv.storage.sstable import Ends, TableInfo

Progress: TypeAlias = "Callable[[int, int], None]"
MAX_FINDINGS = 100
"""The most findings listed for one file; a further one says how many there are."""


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it was written. ``offset`` in ``file``; -1: the entire file."""

    file: str
    offset: int
    text: str
    start: bytes | None = None
    """Of the keys that it may have cost, from ``start`` up to ``end``; None: not known, or none."""
    end: bytes | None = None

    def within(self, directory: str) -> Finding:
        """Return this finding with the directory before the file's name."""
        return msgspec.structs.replace(self, file=f"{directory}/{self.file}")


class Limit(msgspec.Struct):
    """How many more entries a report may list. ``left``: None for any number."""

    left: int | None = None

    def take(self) -> bool:
        """Return whether one more may be listed."""
        if self.left is None:
            return True
        if self.left < 1:
            return False
        self.left -= 1
        return True

    def copy(self) -> Limit:
        """Return the same limit for something else."""
        return Limit(self.left)


class BlockReport(msgspec.Struct, frozen=True):
    """A block of a table. ``size_bytes`` on disk; ``raw_bytes``: of its keys and records."""

    offset: int
    size_bytes: int
    raw_bytes: int
    count: int
    first: bytes
    last: bytes


class TableReport(msgspec.Struct, frozen=True):
    """A table. ``raw_bytes``: of the keys and records that could be read; ``listed``: the first blocks."""

    file: str
    number: int
    size_bytes: int
    count: int
    smallest: bytes
    largest: bytes
    version: int = 0
    """Of the format."""
    blocks: int = 0
    raw_bytes: int = 0
    erased: int = 0
    """Deletion markers among its records."""
    index_bytes: int = 0
    """What is not blocks: index, filter, footer."""
    healed: int = 0
    """Damaged blocks whose keys the peers have restored: they read as empty."""
    listed: tuple[BlockReport, ...] = ()
    findings: tuple[Finding, ...] = ()


class ChunkReport(msgspec.Struct, frozen=True):
    """A chunk of a log: one write. ``synced_up_to``: how far the segment was known to be synced then."""

    offset: int
    size_bytes: int
    synced_up_to: int
    count: int


class LogRecord(msgspec.Struct, frozen=True):
    """An update in a log. An empty ``record`` is a deletion marker."""

    offset: int
    """Of its chunk."""
    key: bytes
    record: bytes


class SegmentReport(msgspec.Struct, frozen=True):
    """A segment of the log. ``length``: of the part that counts; a torn tail may follow."""

    file: str
    number: int
    size_bytes: int
    length: int
    previous: int = 0
    """The segment before it, and its final length, as the header has it; 0: none matters any more."""
    previous_length: int = 0
    sealed: bool = False
    """Whether a later segment exists: nothing is added to this one."""
    ended: bool = False
    """Whether its last chunk is a mark: it was ended cleanly."""
    chunks: int = 0
    count: int = 0
    """Updates."""
    erased: int = 0
    digest: int = 0
    listed: tuple[ChunkReport, ...] = ()
    records: tuple[LogRecord, ...] = ()
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def inspect_table(
    fs: FileSystem,
    directory: str,
    name: str,
    *,
    info: TableInfo | None,
    healed: set[int],
    limit: Limit,
    progress: Callable[[int], None],
) -> TableReport:
    """Read a whole table. ``info``: what the manifest says of it; ``healed``: offsets of blocks that no longer count.

    A table that cannot be opened is a finding. Raises ``CorruptData`` for a format of the future.
    """
    try:
        ends = read_ends(fs, f"{directory}/{name}")
        info = info or ends.info
        table = Table(fs, directory, info, BlockCache(0), name)
    except CorruptBlock as corrupt:
        progress(info.size_bytes if info is not None else 0)
        return _unreadable(name, info, corrupt.damage.reason)
    except FileNotFoundError:
        progress(info.size_bytes if info is not None else 0)
        return _unreadable(name, info, "the table is missing")
    except UNREADABLE as error:
        progress(info.size_bytes if info is not None else 0)
        return _unreadable(name, info, f"the table cannot be read: {error}")
    try:
        return _read_table(table, ends, name, healed, limit, progress)
    finally:
        table.release()


def _unreadable(name: str, info: TableInfo | None, reason: str) -> TableReport:
    if info is None:
        return TableReport(name, 0, 0, 0, b"", b"", findings=(Finding(name, -1, reason),))
    finding = Finding(name, -1, reason, info.smallest, info.largest + b"\x00")
    return TableReport(name, info.number, info.size_bytes, info.count, info.smallest, info.largest, findings=(finding,))


def _read_table(
    table: Table, ends: Ends, name: str, healed: set[int], limit: Limit, progress: Callable[[int], None]
) -> TableReport:
    info = table.info
    found = _Findings(name)
    if not ends.header:
        found.add(0, "its first bytes are not those of a table")
    if table.filter_lost:
        found.add(table.filter_lost, "the filter is unreadable: reads look into a block of it for every key")
    listed = []
    count = raw_bytes = erased = passed_over = unread = 0
    last: bytes | None = None
    for index in range(table.blocks):
        offset, size_bytes = table.place(index)
        progress(size_bytes)
        try:
            keys, records = table.block(index)
        except CorruptBlock as corrupt:
            unread += 1
            if offset in healed:
                passed_over += 1
            else:
                damage = corrupt.damage
                found.add(offset, damage.reason, damage.start, damage.end)
            continue
        if not keys:
            found.add(offset, "a block without keys")
            continue
        wrong = _order(keys, last, info)
        if wrong:
            found.add(offset, wrong, keys[0], keys[-1] + b"\x00")
        strangers = sum(not table.filter.passes(probe(key)) for key in keys)
        if strangers:
            found.add(
                offset,
                f"the filter does not know {strangers} of its keys: reads miss them",
                keys[0],
                keys[-1] + b"\x00",
            )
        last = keys[-1]
        count += len(keys)
        erased += sum(not record for record in records)
        raw = sum(map(len, keys)) + sum(map(len, records))
        raw_bytes += raw
        if limit.take():
            listed.append(BlockReport(offset, size_bytes, raw, len(keys), keys[0], keys[-1]))
    if not unread and count != info.count:
        found.add(-1, f"{count} records where it says {info.count}")
    begin, _ = table.place(0)
    end, length = table.place(table.blocks - 1)
    return TableReport(
        name, info.number, info.size_bytes, info.count, info.smallest, info.largest, ends.version, table.blocks,
        raw_bytes, erased, info.size_bytes - (end + length - begin), passed_over, tuple(listed), found.all(),
    )  # fmt: skip


def _order(keys: list[bytes], last: bytes | None, info: TableInfo) -> str:
    """Return what is wrong with the keys of a block; empty if nothing is."""
    if any(one >= other for one, other in pairwise(keys)):
        return "its keys do not ascend"
    if last is not None and keys[0] <= last:
        return "its first key is not above the last one of the block before"
    if keys[0] < info.smallest or keys[-1] > info.largest:
        return "it has keys outside the table's bounds"
    return ""


def inspect_segment(
    fs: FileSystem,
    directory: str,
    number: int,
    *,
    sealed: bool,
    promised_length: int,
    known: set[int],
    limit: Limit,
    progress: Callable[[int], None],
) -> SegmentReport:
    """Read a whole segment. ``sealed``, ``promised_length``: as ``replay_segment``; ``known``: gaps that no longer count.

    Raises ``OSError``, and ``CorruptData`` for a format of the future.
    """
    name = segment_name(number)
    sealed_length = _sealed_length(fs, directory, number) if sealed else None
    file = fs.open_read(f"{directory}/{name}")
    found, gaps = _Findings(name), list[Gap]()
    chunks, records = list[ChunkReport](), list[LogRecord]()
    of_records = limit.copy()
    heads: list[tuple[int, bytes]] = []
    count = erased = synced_up_to = 0
    end_mark = -1
    try:
        size = file.size()
        header = header_in(file, number)
        for piece in walk(file, size, number):
            if isinstance(piece, Gap):
                progress(piece.end - piece.start)
                add_gap(gaps, piece)
                continue
            progress(piece.end - piece.offset)
            heads.append((piece.offset, piece.head))
            synced_up_to = max(synced_up_to, piece.synced_up_to)
            keys, updates = piece.block or ([], [])
            count += len(keys)
            erased += sum(not record for record in updates)
            end_mark = piece.end if piece.block is None else -1
            if limit.take():
                chunks.append(ChunkReport(piece.offset, piece.end - piece.offset, piece.synced_up_to, len(keys)))
            for key, record in zip(keys, updates, strict=True):
                if not of_records.take():
                    break
                records.append(LogRecord(piece.offset, key, record))
    finally:
        file.close()
    length, damaged = judge(size, synced_up_to, gaps, sealed_length, sealed, promised_length)
    for gap in damaged:
        if gap.start not in known:
            found.add(gap.start, said_of(gap))
    digest = 0
    for offset, head in heads:
        digest = digest_with(head, digest) if offset < length else digest
    return SegmentReport(
        name, number, size, length,
        previous=header.previous if header is not None else 0,
        previous_length=header.previous_length if header is not None else 0,
        sealed=sealed, ended=end_mark == size, chunks=len(heads), count=count, erased=erased, digest=digest,
        listed=tuple(chunks), records=tuple(records), notes=_notes(size, length, damaged, sealed, known),
        findings=found.all(),
    )  # fmt: skip


def _sealed_length(fs: FileSystem, directory: str, number: int) -> int | None:
    """Return the length that the next segment vouches for; None if it does not."""
    try:
        header = read_header(fs, directory, number + 1)
    except FileNotFoundError:
        return None
    return header.previous_length if header is not None and header.previous == number else None


def _notes(size: int, length: int, damaged: list[Gap], sealed: bool, known: set[int]) -> tuple[str, ...]:
    notes = []
    if size < HEADER_BYTES and not damaged:
        notes.append("its creation was cut short, or is under way")
    elif length < size:
        what = "behind its end" if sealed else "never synced: a torn tail, or a write under way"
        notes.append(f"{size - length} bytes at the end do not count: {what}")
    healed = sum(gap.start in known for gap in damaged)
    if healed:
        notes.append(f"{healed} damaged places, whose keys the peers have restored")
    return tuple(notes)


class _Findings:
    """Collects the findings of one file, and bounds them."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: list[Finding] = []
        self._more = 0

    def add(self, offset: int, text: str, start: bytes | None = None, end: bytes | None = None) -> None:
        """Add one."""
        if len(self._found) < MAX_FINDINGS:
            self._found.append(Finding(self._file, offset, text, start, end))
        else:
            self._more += 1

    def all(self) -> tuple[Finding, ...]:
        """Return them."""
        more = [Finding(self._file, -1, f"{self._more} more of them")] if self._more else []
        return (*self._found, *more)
