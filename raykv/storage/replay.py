"""Reads a segment of the log back, and distinguishes corruption from a torn tail.

``replay_segment`` walks the chunks in order. Where bytes form no chunk it searches for the sentinel of the next valid
one; the bytes in between are a *gap*. At the end of the segment the highest witness is known (see
``raykv.storage.wal``), and each gap is judged: one that begins below it is corruption, is reported, and the chunks
behind it still count; the first that begins at or above it is a torn tail, and nothing from there on counts, because it
was never acknowledged.

A segment is *sealed* if there is a later one whose creation was not cut short: then all of it was synced, up to the
length in the later one's header, or to its end if there is none.

Memory: the records of one segment, which the memtable holds afterwards. Every length is checked before use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from crc32c import crc32c

from raykv.errors import CorruptData
from raykv.storage.blob import UNREADABLE
from raykv.storage.damage import Damage
from raykv.storage.wal import (
    CHECKSUM,
    CHUNK,
    CHUNK_HEAD_BYTES,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    MAX_CHUNK_BYTES,
    SENTINEL,
    VERSION,
    digest_with,
    segment_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.ports import FileSystem, ReadFile
    from raykv.storage.cache import Block

_WINDOW_BYTES = 1 << 20
MAX_DAMAGES = 16
"""The most damages reported for a segment: the lost keys are unknown, and one gap says as much as a million."""
_decode = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes]]).decode


class SegmentHeader(NamedTuple):
    """What a segment records about itself and the one before."""

    number: int
    previous: int
    previous_length: int


class Replayed(NamedTuple):
    """A segment read back. ``length``: of the part that counts; a torn tail may follow."""

    size: int
    length: int
    blocks: list[Block]
    damages: list[Damage]
    empty: bool
    """Nothing in it was ever synced and nothing in it counts: its creation was cut short."""
    digest: int
    """The digest of the chunks that count (``raykv.storage.mark``)."""


class Chunk(NamedTuple):
    """A valid chunk. ``block``: its updates; None in a mark."""

    offset: int
    end: int
    synced_up_to: int
    block: Block | None
    head: bytes


class Gap(NamedTuple):
    """Bytes that form no chunk."""

    start: int
    end: int


class Verdict(NamedTuple):
    """``length``: of the part of a segment that counts; ``damaged``: the gaps in it, which were synced once."""

    length: int
    damaged: list[Gap]


class _Head(NamedTuple):
    """The valid head of a chunk: its length can be trusted, whatever the state of its payload."""

    data: bytes
    offset: int
    end: int
    synced_up_to: int
    payload_crc: int


def read_header(fs: FileSystem, directory: str, number: int) -> SegmentHeader | None:
    """Return the segment's header, or None if it is torn or corrupt. ``CorruptData`` for a format of the future."""
    file = fs.open_read(f"{directory}/{segment_name(number)}")
    try:
        return header_in(file, number)
    finally:
        file.close()


def header_in(file: ReadFile, number: int) -> SegmentHeader | None:
    """``read_header`` of an open file."""
    return _parse_header(file.pread(0, HEADER_BYTES), number, segment_name(number))


def _parse_header(data: bytes, number: int, name: str) -> SegmentHeader | None:
    if len(data) < HEADER_BYTES:
        return None
    magic, version, found, previous, previous_length = HEADER.unpack_from(data)
    (checksum,) = CHECKSUM.unpack_from(data, HEADER.size)
    if magic != MAGIC or checksum != crc32c(data[: HEADER.size]) or found != number:
        return None
    if version > VERSION:
        raise CorruptData(f"{name}: log format {version}; this raykv reads up to {VERSION}", file=name)
    return SegmentHeader(found, previous, previous_length)


def replay_segment(
    fs: FileSystem, directory: str, number: int, sealed_length: int | None, sealed: bool, promised_length: int = 0
) -> Replayed:
    """Read segment ``number``. ``sealed``: a later segment exists; ``sealed_length``: the length that it vouches for.

    ``promised_length``: the length that others know to be synced. O(size of the segment), whatever its contents.

    Raises ``OSError`` and, for a format of the future, ``CorruptData``.
    """
    name = segment_name(number)
    file = fs.open_read(f"{directory}/{name}")
    try:
        size = file.size()
        chunks: list[Chunk] = []
        gaps: list[Gap] = []
        for piece in walk(file, size, number):
            if isinstance(piece, Chunk):
                chunks.append(piece)
            else:
                add_gap(gaps, piece)
    finally:
        file.close()
    synced_up_to = max((chunk.synced_up_to for chunk in chunks), default=0)
    torn_at, damaged = judge(size, synced_up_to, gaps, sealed_length, sealed, promised_length)
    damages = [Damage(name, gap.start, None, None, said_of(gap)) for gap in damaged]
    counted = [chunk for chunk in chunks if chunk.offset < torn_at]
    blocks = [chunk.block for chunk in counted if chunk.block is not None]
    digest = 0
    for chunk in counted:
        digest = digest_with(chunk.head, digest)
    empty = torn_at < HEADER_BYTES and not damages
    return Replayed(size, torn_at, blocks, damages[:MAX_DAMAGES], empty, digest)


def judge(
    size: int, synced_up_to: int, gaps: list[Gap], sealed_length: int | None, sealed: bool, promised_length: int
) -> Verdict:
    """Judge the gaps of a segment of ``size`` bytes, the highest mark in whose chunks is ``synced_up_to``.

    ``gaps`` grows by what is missing at the end. ``sealed_length``, ``sealed``, ``promised_length``: as ``replay_segment``.
    """
    witness = max(promised_length, synced_up_to)
    if sealed:
        sealed_length = max(size if sealed_length is None else sealed_length, HEADER_BYTES)
        witness = max(witness, sealed_length)
    add_gap(gaps, Gap(size, max(promised_length, sealed_length or 0)))
    torn_at = min([size, *(start for start, _ in gaps if start >= witness)])
    if sealed_length is not None:
        torn_at = min(torn_at, sealed_length)
    return Verdict(torn_at, [gap for gap in gaps if gap.start < witness])


def said_of(gap: Gap) -> str:
    """Return the reason of a damage."""
    return f"{gap.end - gap.start} bytes of the log, once synced, make no sense"


def walk(file: ReadFile, size: int, number: int) -> Iterator[Chunk | Gap]:
    """Yield all valid chunks of a segment in order, and the gaps between and behind them. Memory: one chunk and a window.

    Reads at most twice the segment, whatever is in it.
    """
    read = _Window(file)
    at = HEADER_BYTES
    if header_in(file, number) is None:
        at = _next_head(read, size, number, 0)
        yield Gap(0, at)
    while at < size:
        head = _read_head(read, size, number, at)
        chunk = _read_chunk(read, head) if head is not None else None
        if chunk is not None:
            yield chunk
            at = chunk.end
            continue
        # After a valid head the search for the next chunk continues behind the payload: every byte is read once, not once
        # for each forged head before it.
        resumed = head.end if head is not None else _next_head(read, size, number, at + 1)
        yield Gap(at, resumed)
        at = resumed


def add_gap(gaps: list[Gap], gap: Gap) -> None:
    """Add a gap; one that begins where the last one ends extends that."""
    if gap.start >= gap.end:
        return
    gaps.append(Gap(gaps.pop().start, gap.end) if gaps and gaps[-1].end == gap.start else gap)


class _Window:
    """A file that is read from its start to its end, in large steps: what lies close together is read once."""

    def __init__(self, file: ReadFile) -> None:
        self._file = file
        self._start = 0
        self._data = b""

    def pread(self, at: int, count: int) -> bytes:
        """Return ``count`` bytes at offset ``at``, fewer at the end of the file."""
        if count > _WINDOW_BYTES:
            return self._file.pread(at, count)
        self._cover(at, count)
        return self._data[at - self._start : at - self._start + count]

    def find(self, mark: bytes, at: int) -> int:
        """Return the offset of the first ``mark`` at or behind ``at``; -1 if there is none."""
        while True:
            self._cover(at, len(mark))
            found = self._data.find(mark, at - self._start)
            if found >= 0:
                return self._start + found
            if len(self._data) < _WINDOW_BYTES:
                return -1
            at = self._start + len(self._data) - len(mark) + 1

    def _cover(self, at: int, count: int) -> None:
        """Have the ``count`` bytes at ``at``, or as many as there are."""
        end = self._start + len(self._data)
        is_last = 0 < len(self._data) < _WINDOW_BYTES  # the file ends in it
        if not self._start <= at <= end or (at + count > end and not is_last):
            self._start, self._data = at, self._file.pread(at, _WINDOW_BYTES)


def _read_head(file: _Window, size: int, number: int, at: int) -> _Head | None:
    """Return the head at offset ``at`` if it is valid and its chunk lies within the file."""
    data = file.pread(at, CHUNK_HEAD_BYTES)
    if len(data) < CHUNK_HEAD_BYTES:
        return None
    sentinel, length, segment, offset, synced_up_to, payload_crc = CHUNK.unpack_from(data)
    (head_crc,) = CHECKSUM.unpack_from(data, CHUNK.size)
    end = at + CHUNK_HEAD_BYTES + length
    if sentinel != SENTINEL or head_crc != crc32c(data[: CHUNK.size]) or segment != number or offset != at:
        return None
    if length > MAX_CHUNK_BYTES or end > size or synced_up_to > at:
        return None
    return _Head(data, at, end, synced_up_to, payload_crc)


def _read_chunk(file: _Window, head: _Head) -> Chunk | None:
    """Return the chunk behind a valid head, or None if its payload has changed."""
    at, end, payload_crc = head.offset, head.end, head.payload_crc
    length = end - at - CHUNK_HEAD_BYTES
    if length == 0:
        return Chunk(at, end, head.synced_up_to, None, head.data)
    payload = file.pread(at + CHUNK_HEAD_BYTES, length)
    if len(payload) != length or crc32c(payload) != payload_crc:
        return None
    try:
        keys, records = _decode(payload)
    except UNREADABLE:
        return None
    return Chunk(at, end, head.synced_up_to, (keys, records), head.data) if len(keys) == len(records) else None


def _next_head(file: _Window, size: int, number: int, start: int) -> int:
    """Return the offset of the first valid head at or behind ``start``; ``size`` if there is none."""
    at = file.find(SENTINEL, start)
    while 0 <= at < size:
        if _read_head(file, size, number, at) is not None:
            return at
        at = file.find(SENTINEL, at + 1)
    return size
