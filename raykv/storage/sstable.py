"""An SSTable: a sorted, immutable file of keys and records.

::

    header       magic 8 | version 4
    blocks       each a frame; about ``block_bytes`` of keys and records, see raykv.storage.block
    dictionary   a frame, if zstd has one for the blocks; see raykv.storage.compression
    index        a frame; msgpack [[first keys], [offsets]]
    filter       a frame; see raykv.storage.bloom
    meta         a frame; msgpack: number, count, smallest and largest key, where index, filter and dictionary lie
    footer       meta offset 8 | meta length 4 | version 4 | crc32c 4 | magic 8

A frame is a piece with its checksum, compressed or not (``raykv.storage.frame``).
Version 3 added zstd, the dictionary, and blocks that a get need not decode. Versions 1 and 2 are read alike.

After LevelDB's table. A "first key" in the index is the shortest key that still separates a block from the one before.
The cache holds a block as it came out of its frame, one object, until a scan decodes it.

A block that fails raises ``CorruptBlock`` with its key range; ``skipped`` blocks, whose keys the peers have restored,
read as empty. Files are read with ``pread``: a mapping would turn a truncated file into a SIGBUS.

Invariants: keys ascend strictly through the whole file; the index finds every key's block; the filter holds every
key. Omitted: prefix compression within a block (the frame's does most of it), a partitioned index (it stays in memory:
about 100 bytes a block).
"""

from __future__ import annotations

import errno
import struct
from array import array
from bisect import bisect_left, bisect_right
from itertools import islice
from operator import lt, sub
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from crc32c import crc32c
from xxhash import xxh3_64_intdigest

from raykv.errors import CorruptData
from raykv.storage import block
from raykv.storage.blob import UNREADABLE
from raykv.storage.bloom import Bloom
from raykv.storage.cache import first_name
from raykv.storage.compression import MAX_DICTIONARY_BYTES, Unpacker, zstandard
from raykv.storage.damage import CorruptBlock, Damage, logger
from raykv.storage.frame import FRAME, decode_frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raykv.ports import FileSystem, ReadFile
    from raykv.storage.cache import Block, BlockCache
    from raykv.storage.damage import CorruptionHandler

MAGIC = b"RAYKVSST"
VERSION = 3
_WITH_MARKS = 3
"""The version from which on blocks have marks."""
HEADER = struct.Struct("<8sI")
FOOTER = struct.Struct("<QIII8s")
MAX_BLOCK_BYTES = 32 << 20
MAX_META_BYTES = 1 << 30
_META_GROWTH = 64
_META_ROOM_BYTES = 16 << 20
"""An index never exceeds this multiple of its table plus this constant: a small file's claims are not trusted."""
_READ_AHEAD_BYTES = 256 << 10
_CACHED_BLOCKS = 32
"""What a scan reads beyond so many blocks of a table is not kept in the cache."""

_decode_index = msgspec.msgpack.Decoder(tuple[list[bytes], list[int]]).decode
_EMPTY: Block = ([], [])


def table_name(number: int) -> str:
    """Return the file name of a table."""
    return f"{number:08d}.sst"


_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM, errno.EAGAIN, errno.EINTR})


class TableInfo(msgspec.Struct, frozen=True, array_like=True):
    """The manifest's entry of a table. ``size_bytes`` is the size of the file; keys are inclusive."""

    number: int
    count: int
    size_bytes: int
    smallest: bytes
    largest: bytes
    digest: int = 0
    """Of all frames: distinguishes it from another table of the same name and size; 0: not recorded (version 1)."""
    markers: int = 0
    """The number of deletion markers; 0 also where it was not counted (manifests up to version 2)."""
    covers: int = -1
    """How many of its records have an older one below, about; -1: not known."""
    since_ms: int = 0
    """When the oldest of its deletion markers was flushed (wall clock); 0: not known, or none."""


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """What a table says of itself."""

    number: int
    count: int
    smallest: bytes
    largest: bytes
    index_offset: int
    index_length: int
    filter_offset: int
    filter_length: int
    digest: int = 0
    """Of the frames' heads."""
    compression: str = ""
    dictionary_offset: int = 0
    dictionary_length: int = 0


_decode_meta = msgspec.msgpack.Decoder(Meta).decode


class Table:
    """An open table. ``find`` and ``batches`` belong to one thread (they use the cache); ``stream`` to any.

    Counted references keep the file open while anything reads it: the engine holds one, every scan another.
    """

    __slots__ = (
        "_cache",
        "_decode",
        "_dictionary",
        "_file",
        "_first_name",
        "_firsts",
        "_in_lists",
        "_offsets",
        "_references",
        "_unpacker",
        "filter",
        "filter_blocks",
        "filter_count",
        "filter_lost",
        "info",
        "name",
        "skipped",
    )

    def __init__(self, fs: FileSystem, directory: str, info: TableInfo, cache: BlockCache, name: str = "") -> None:
        """Open and read index and filter: three reads. ``CorruptBlock`` with the table's whole range if they fail.

        ``name``: of the file, where it is not that of a live table.
        """
        self.info = info
        self.name = name or table_name(info.number)
        self.skipped: frozenset[int] = frozenset()
        """Offsets of corrupt blocks that read as empty: known damage."""
        self.filter_lost = 0
        """Where the filter lies, if it is corrupt; else 0. The next compaction writes the table anew."""
        self._cache = cache
        self._first_name = first_name(info.number)
        self._references = 1
        try:
            self._file: ReadFile = fs.open_read(f"{directory}/{self.name}")
        except OSError as error:
            _pass_on_shortage(error)
            raise self._lost(f"cannot be opened: {error}") from None
        try:
            self._load()
        except (OSError, *UNREADABLE) as error:
            self._file.close()
            _pass_on_shortage(error)
            raise self._lost(f"cannot be read: {error}") from None
        except BaseException:
            self._file.close()
            raise

    def _load(self) -> None:
        size = self._file.size()
        if size != self.info.size_bytes or size < HEADER.size + FOOTER.size:
            raise ValueError(f"{size} bytes where {self.info.size_bytes} were written")
        footer = self._file.pread(size - FOOTER.size, FOOTER.size)
        meta_offset, meta_length, version, checksum, magic = FOOTER.unpack(footer)
        if checksum != crc32c(FOOTER.pack(meta_offset, meta_length, version, 0, magic)) or magic != MAGIC:
            raise ValueError("the footer's checksum does not hold")
        if version > VERSION:
            # Not damage: the file is intact and must not be set aside.
            raise CorruptData(f"{self.name}: table format {version}; this raykv reads up to {VERSION}", file=self.name)
        self._in_lists = version < _WITH_MARKS
        self._decode = block.decode_lists if self._in_lists else block.decode
        most_bytes = min(MAX_META_BYTES, _META_GROWTH * size + _META_ROOM_BYTES)
        meta = _decode_meta(self._frame(meta_offset, meta_length, most_bytes))
        info = self.info
        if (meta.number, meta.count, meta.smallest, meta.largest) != (
            info.number, info.count, info.smallest, info.largest,
        ):  # fmt: skip
            raise ValueError("it is another table")
        if info.digest not in (0, meta.digest):
            raise ValueError("it is another table of this name")
        self._dictionary = self._load_dictionary(meta)
        self._unpacker = Unpacker(self.name, self._dictionary)
        firsts, offsets = _decode_index(self._frame(meta.index_offset, meta.index_length, most_bytes))
        if len(offsets) != len(firsts) + 1 or not firsts or offsets[0] < HEADER.size or offsets[-1] > size:
            raise ValueError("the index does not fit together")
        if not (_ascend(offsets) and _ascend(firsts)):
            raise ValueError("the index is not in order")
        if max(map(sub, islice(offsets, 1, None), offsets)) > MAX_BLOCK_BYTES + FRAME.size:
            raise ValueError("a block is larger than any may be")
        self._firsts = firsts
        self._offsets = array("Q", offsets)
        self.filter = self._load_filter(meta, most_bytes)
        self.filter_blocks, self.filter_count = self.filter.blocks, len(self.filter.blocks)

    def _load_filter(self, meta: Meta, most_bytes: int) -> Bloom:
        """Return the filter; if it is corrupt, one that passes every key: reads are slower, and nothing is lost."""
        try:
            return Bloom.from_bytes(self._frame(meta.filter_offset, meta.filter_length, most_bytes))
        except (OSError, *UNREADABLE) as error:
            _pass_on_shortage(error)
            logger.error("%s at %d: the filter is unreadable: %s", self.name, meta.filter_offset, error)
            self.filter_lost = meta.filter_offset
            return Bloom.of_every_key()

    def _load_dictionary(self, meta: Meta) -> bytes | None:
        """Return the dictionary, empty if there is none; None if the table needs no zstd."""
        if meta.compression != "zstd":
            return None
        zstandard(self.name)
        if not meta.dictionary_length:
            return b""
        return self._frame(meta.dictionary_offset, meta.dictionary_length, MAX_DICTIONARY_BYTES)

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return len(self._firsts)

    def place(self, index: int) -> tuple[int, int]:
        """Return ``(offset, length)`` of a block's frame."""
        return self._offsets[index], self._offsets[index + 1] - self._offsets[index]

    def block_keys(self, step: int) -> list[bytes]:
        """Return the key that begins every ``step``-th block, as short as sets it apart from the block before."""
        return self._firsts[::step]

    def find(self, key: bytes, place: int | None = None) -> bytes | None:
        """Return the record of ``key``, or None. O(log n), and at most one read. ``CorruptBlock`` if that fails.

        ``place``: the first part of the key's probe, if it is known.
        """
        index = bisect_right(self._firsts, key) - 1
        if index < 0:
            return None
        kept = self._cache.get(self._first_name + index) or self._read_payload(index)
        if isinstance(kept, bytes):
            try:
                return block.find(kept, key, (xxh3_64_intdigest(key) if place is None else place) & 0xFF)
            except (IndexError, *UNREADABLE) as error:
                raise self._corrupt_block(index, str(error)) from None
        keys, records = kept
        at = bisect_left(keys, key)
        return records[at] if at < len(keys) and keys[at] == key else None

    def beside(self, key: bytes, *, reverse: bool) -> tuple[bytes, bytes] | None:
        """Return the first entry from ``key`` on, or with ``reverse`` the last one before it. As ``find``."""
        index = bisect_left(self._firsts, key) - 1 if reverse else max(bisect_right(self._firsts, key) - 1, 0)
        while 0 <= index < len(self._firsts):  # the next block only if this one ends before the key
            keys, records = self.block(index)
            at = bisect_left(keys, key) - reverse
            if 0 <= at < len(keys):
                return keys[at], records[at]
            index += -1 if reverse else 1
        return None

    def block(self, index: int) -> Block:
        """Return a block from the cache or the file, decoded; so it stays in the cache."""
        kept = self._cache.get(self._first_name + index) or self._read_payload(index)
        return self._decoded(index, kept) if isinstance(kept, bytes) else kept

    def _decoded(self, index: int, payload: bytes) -> Block:
        try:
            decoded = block.decode(payload)
        except UNREADABLE as error:
            raise self._corrupt_block(index, str(error)) from None
        self._cache.put(self._first_name + index, decoded, len(payload))
        return decoded

    def _read_payload(self, index: int) -> Block | bytes:
        """Read a block into the cache, checked, in the form that a get wants: decoded only in tables before version 3."""
        offset = self._offsets[index]
        if offset in self.skipped:
            return _EMPTY
        try:
            frame = self._file.pread(offset, self._offsets[index + 1] - offset)
            payload = decode_frame(frame, offset, MAX_BLOCK_BYTES, self._unpacker)
            kept: Block | bytes = payload
            if self._in_lists:
                kept = block.decode_lists(payload)
            else:
                block.check(payload)
        except (OSError, *UNREADABLE) as error:
            _pass_on_shortage(error)
            raise self._corrupt_block(index, str(error)) from None
        self._cache.put(self._first_name + index, kept, len(payload))
        return kept

    def batches(self, start: bytes, end: bytes | None, *, reverse: bool) -> Iterator[Block]:
        """Yield the entries of ``[start, end)``, some blocks at a time; with ``reverse`` the last batch comes first.

        Each read from the file fetches more blocks than the one before, up to ``_READ_AHEAD_BYTES``. The first blocks are
        kept in the cache, since short scans come again; what a long one reads later would only push out what is hot.
        """
        low = max(bisect_right(self._firsts, start) - 1, 0)
        high = len(self._firsts) if end is None else bisect_left(self._firsts, end)
        first, last = low, high - 1
        ahead, cached = 1, _CACHED_BLOCKS
        while low < high:
            index = high - 1 if reverse else low
            known = self._cache.get(self._first_name + index) if cached > 0 else None
            if known is not None:
                begin, (keys, records) = index, self._decoded(index, known) if isinstance(known, bytes) else known
                count = 1
            else:
                begin, stop = self._ahead(low, high, ahead, reverse=reverse)
                begin, count, keys, records = self._read_blocks(begin, stop, reverse=reverse, keep=cached > 0)
                ahead *= 2
            cached -= count
            if begin == first or begin + count > last:
                at = bisect_left(keys, start) if begin == first else 0
                to = bisect_left(keys, end, at) if end is not None and begin + count > last else len(keys)
                keys, records = keys[at:to], records[at:to]
            yield keys, records
            low, high = (low, begin) if reverse else (begin + count, high)

    def _ahead(self, low: int, high: int, most: int, *, reverse: bool) -> tuple[int, int]:
        """Return which of the blocks ``low`` to ``high`` to read at once: at most so many, and at least one."""
        offsets = self._offsets
        if reverse:
            begin = max(low, high - most, bisect_left(offsets, offsets[high] - _READ_AHEAD_BYTES))
            return min(begin, high - 1), high
        stop = min(high, low + most, bisect_right(offsets, offsets[low] + _READ_AHEAD_BYTES) - 1)
        return low, max(stop, low + 1)

    def _read_blocks(
        self, begin: int, stop: int, *, reverse: bool, keep: bool
    ) -> tuple[int, int, list[bytes], list[bytes]]:
        """Return where the blocks begin, how many they are, and their entries: up to the first one that is corrupt.

        ``CorruptBlock`` only if that is the one that the scan comes to first.
        """
        offsets, unpacker = self._offsets, self._unpacker
        start = offsets[begin]
        try:
            data = self._file.pread(start, offsets[stop] - start)
        except OSError as error:
            _pass_on_shortage(error)
            if stop - begin == 1:
                raise self._corrupt_block(begin, str(error)) from None
            begin, stop = (stop - 1, stop) if reverse else (begin, begin + 1)
            return self._read_blocks(begin, stop, reverse=reverse, keep=keep)
        blocks: list[Block] = []
        order = range(stop - 1, begin - 1, -1) if reverse else range(begin, stop)
        for index in order:
            at = offsets[index]
            if at in self.skipped:
                blocks.append(_EMPTY)
                continue
            try:
                frame = data[at - start : offsets[index + 1] - start]
                payload = decode_frame(frame, at, MAX_BLOCK_BYTES, unpacker)
                decoded = self._decode(payload)
            except UNREADABLE as error:
                if not blocks:
                    raise self._corrupt_block(index, str(error)) from None
                break
            if keep:
                self._cache.put(self._first_name + index, decoded, len(payload))
            blocks.append(decoded)
        count = len(blocks)
        if count == 1:
            return order[0], 1, *blocks[0]
        keys: list[bytes] = []
        records: list[bytes] = []
        for some_keys, some_records in reversed(blocks) if reverse else blocks:
            keys += some_keys
            records += some_records
        return order[count - 1] if reverse else begin, count, keys, records

    def stream(self, on_corruption: CorruptionHandler) -> Iterator[Block]:
        """Yield all entries in batches of about 256 KiB on disk, past the cache; corrupt blocks go to ``on_corruption``."""
        offsets = self._offsets
        unpacker = Unpacker(self.name, self._dictionary)  # for this thread
        index = 0
        last = b""
        while index < len(self._firsts):
            end = index + 1
            while end < len(self._firsts) and offsets[end + 1] - offsets[index] <= _READ_AHEAD_BYTES:
                end += 1
            try:
                data = self._file.pread(offsets[index], offsets[end] - offsets[index])
            except OSError as error:
                _pass_on_shortage(error)
                data = None  # each block is then read by itself, which saves the good ones
            keys: list[bytes] = []
            records: list[bytes] = []
            for at in range(index, end):
                if offsets[at] in self.skipped:
                    continue
                begin, length = offsets[at], offsets[at + 1] - offsets[at]
                try:
                    if data is None:
                        frame = self._file.pread(begin, length)
                    else:
                        frame = data[begin - offsets[index] : begin - offsets[index] + length]
                    some_keys, some_records = self._decode(decode_frame(frame, begin, MAX_BLOCK_BYTES, unpacker))
                    if not some_keys or (last and some_keys[0] <= last) or not _ascend(some_keys):
                        raise ValueError("its keys are not in order")
                except (OSError, *UNREADABLE) as error:
                    _pass_on_shortage(error)
                    on_corruption(self._corrupt_block(at, str(error)))
                    continue
                last = some_keys[-1]
                keys += some_keys
                records += some_records
            yield keys, records
            index = end

    def raw(self, offset: int, length: int) -> bytes:
        """Return bytes of the file as they are, for a copy of it. Any thread of a holder of a reference."""
        return self._file.pread(offset, length)

    def retain(self) -> None:
        """Add a reader."""
        assert self._references > 0
        self._references += 1

    def release(self) -> None:
        """Remove a reader; the last one closes the file."""
        self._references -= 1
        assert self._references >= 0
        if self._references == 0:
            self._file.close()

    def _frame(self, offset: int, length: int, max_bytes: int, unpacker: Unpacker | None = None) -> bytes:
        if not (offset >= 0 and 0 <= length <= max_bytes and offset + length <= self.info.size_bytes):
            raise ValueError("it points outside the file")
        return decode_frame(self._file.pread(offset, length), offset, max_bytes, unpacker)

    def _corrupt_block(self, index: int, reason: str) -> CorruptBlock:
        last = index + 1 == len(self._firsts)
        start = self._firsts[index]
        end = self.info.largest + b"\x00" if last else self._firsts[index + 1]
        return CorruptBlock(Damage(self.name, self._offsets[index], start, end, f"a block is unreadable: {reason}"))

    def _lost(self, reason: str) -> CorruptBlock:
        info = self.info
        return CorruptBlock(Damage(self.name, -1, info.smallest, info.largest + b"\x00", f"the table {reason}"))


class Ends(NamedTuple):
    """What the ends of a table say: the manifest's entry of it, the version of its format, whether it has a header."""

    info: TableInfo
    version: int
    header: bool


def read_ends(fs: FileSystem, path: str) -> Ends:
    """Return what a table says of itself, without a manifest.

    ``ValueError`` or another of ``UNREADABLE`` if it cannot be read, ``CorruptData`` for a format of the future.
    """
    file = fs.open_read(path)
    try:
        size = file.size()
        head, footer = file.pread(0, HEADER.size), file.pread(max(0, size - FOOTER.size), FOOTER.size)
        meta_offset, meta_length, version, checksum, magic = FOOTER.unpack(footer)
        if checksum != crc32c(FOOTER.pack(meta_offset, meta_length, version, 0, magic)) or magic != MAGIC:
            raise ValueError("the footer's checksum does not hold")
        if version > VERSION:
            raise CorruptData(f"{path}: table format {version}; this raykv reads up to {VERSION}", file=path)
        most_bytes = min(MAX_META_BYTES, _META_GROWTH * size + _META_ROOM_BYTES)
        if not (meta_length <= most_bytes and meta_offset + meta_length <= size):
            raise ValueError("it points outside the file")
        meta = _decode_meta(decode_frame(file.pread(meta_offset, meta_length), meta_offset, most_bytes))
    finally:
        file.close()
    info = TableInfo(meta.number, meta.count, size, meta.smallest, meta.largest, meta.digest)
    return Ends(info, version, head == HEADER.pack(MAGIC, version))


def _ascend(values: Sequence[Any]) -> bool:
    return all(map(lt, values, islice(values, 1, None)))


def _pass_on_shortage(error: Exception) -> None:
    """Raise ``error`` again if the process is short of a resource: that is no corruption, and a retry may succeed."""
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        raise error
