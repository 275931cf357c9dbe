"""An SSTable: a sorted, immutable file of keys and records.

::

    header   magic 8 | version 4
    blocks   each a frame; about ``block_bytes`` of keys and records, as msgpack [[keys], [records]]
    index    a frame; msgpack [[first keys], [offsets]]
    filter   a frame; see raykv.storage.bloom
    meta     a frame; msgpack: number, count, smallest and largest key, where index and filter lie
    footer   meta offset 8 | meta length 4 | version 4 | crc32c 4 | magic 8

    frame    crc32c 4 | raw length 4 | kind 1 (0 = plain, 1 = lz4) | data

After LevelDB's table, with two changes that suit the interpreter: a block decodes in one call into C, and a search in it
is a ``bisect``. A "first key" in the index is the shortest key that still separates a block from the one before.

A frame's checksum covers its offset too, so that a block read from the wrong place fails. Checksums are checked on
every read from the file; the decompressed length is checked against the data's before memory is taken.

A block that fails raises ``CorruptBlock`` with its key range; ``skipped`` blocks, whose keys the peers have restored,
read as empty. Files are read with ``pread``: a mapping would turn a truncated file into a SIGBUS.

Invariants: keys ascend strictly through the whole file; the index finds every key's block; the filter holds every
key. Omitted: prefix compression within a block (lz4 does most of it), a partitioned index (the index stays in memory:
about 100 bytes a block).
"""

from __future__ import annotations

import errno
import struct
from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate, islice
from operator import add, lt
from typing import TYPE_CHECKING, Any, NamedTuple

import lz4.block  # type: ignore[import-untyped]
import msgspec
from crc32c import crc32c

from raykv.errors import CorruptData
from raykv.storage.blob import UNREADABLE
from raykv.storage.bloom import Bloom, BloomBuilder
from raykv.storage.cache import first_name
from raykv.storage.damage import CorruptBlock, Damage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raykv.config import NodeConfig
    from raykv.ports import AppendFile, FileSystem, ReadFile
    from raykv.storage.cache import Block, BlockCache
    from raykv.storage.damage import CorruptionHandler

MAGIC = b"RAYKVSST"
VERSION = 2
HEADER = struct.Struct("<8sI")
FOOTER = struct.Struct("<QIII8s")
_FRAME = struct.Struct("<IIB")
_FRAME_COVERED = struct.Struct("<QIB")
_PLAIN, _LZ4 = 0, 1
_LZ4_MOST = 255
"""lz4 cannot shrink data by more than this factor."""
MAX_BLOCK_BYTES = 32 << 20
MAX_META_BYTES = 1 << 30
_META_GROWTH = 64
_META_ROOM_BYTES = 16 << 20
"""An index never exceeds this multiple of its table plus this constant: a small file's claims are not trusted."""
_WRITE_BYTES = 256 << 10
_READ_AHEAD_BYTES = 256 << 10

_encode = msgspec.msgpack.Encoder().encode
_decode_block = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes]]).decode
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


class _Meta(msgspec.Struct, frozen=True, array_like=True):
    number: int
    count: int
    smallest: bytes
    largest: bytes
    index_offset: int
    index_length: int
    filter_offset: int
    filter_length: int
    digest: int = 0


_decode_meta = msgspec.msgpack.Decoder(_Meta).decode


def encode_frame(payload: bytes, offset: int, *, compress: bool) -> bytes:
    """Frame ``payload`` for ``offset``; compressed if that makes it smaller."""
    kind, data = _PLAIN, payload
    if compress:
        packed = lz4.block.compress(payload, store_size=False)
        if len(packed) < len(payload):
            kind, data = _LZ4, packed
    covered = _FRAME_COVERED.pack(offset, len(payload), kind)
    return _FRAME.pack(crc32c(data, crc32c(covered)), len(payload), kind) + data


def decode_frame(frame: bytes, offset: int, max_bytes: int) -> bytes:
    """Return the payload of the frame read at ``offset``; ``ValueError`` if it is invalid or above ``max_bytes``."""
    if len(frame) < _FRAME.size:
        raise ValueError("cut short")
    checksum, length, kind = _FRAME.unpack_from(frame)
    data = frame[_FRAME.size :]
    if checksum != crc32c(data, crc32c(_FRAME_COVERED.pack(offset, length, kind))):
        raise ValueError("its checksum does not hold")
    if length > max_bytes or length > _LZ4_MOST * len(data):
        raise ValueError(f"it claims {length} bytes")
    if kind == _PLAIN:
        return data
    try:
        payload: bytes = lz4.block.decompress(data, uncompressed_size=length)
    except lz4.block.LZ4BlockError as error:
        raise ValueError(str(error)) from None
    if kind != _LZ4 or len(payload) != length:
        raise ValueError("its length does not hold")
    return payload


def _separator(before: bytes, first: bytes) -> bytes:
    """Return the shortest prefix of ``first`` that is above ``before``."""
    for at, (left, right) in enumerate(zip(before, first, strict=False)):
        if left != right:
            return first[: at + 1]
    return first[: len(before) + 1]


class TableWriter:
    """Builds one table from ascending batches. ``finish`` syncs the file; the caller syncs the directory."""

    def __init__(self, fs: FileSystem, directory: str, number: int, config: NodeConfig) -> None:
        self._file: AppendFile = fs.create(f"{directory}/{table_name(number)}")
        self._number = number
        self._block_bytes = config.block_bytes
        self._compress = config.compression == "lz4"
        self._bits_per_key = config.bloom_bits_per_key
        self._filter = BloomBuilder()
        self._firsts: list[bytes] = []
        self._offsets: list[int] = []
        self._keys: list[bytes] = []
        self._records: list[bytes] = []
        self._room = self._block_bytes
        self._smallest = self._largest = self._last_of_block = b""
        self._count = 0
        self._parts: list[bytes] = [HEADER.pack(MAGIC, VERSION)]
        self._parts_bytes = HEADER.size
        self._digest = 0
        self.bytes = HEADER.size
        """Bytes of finished blocks so far."""

    def add(self, keys: Sequence[bytes], records: Sequence[bytes]) -> None:
        """Add entries whose keys are above all earlier ones. O(bytes)."""
        if not keys:
            return
        assert not self._count or keys[0] > self._largest, "keys ascend through a table"
        if not self._count:
            self._smallest = keys[0]
        # A search in the running total of sizes cuts the blocks: one step a block, not one an entry.
        ends = list(accumulate(map(add, map(len, keys), map(len, records))))
        at = done = 0
        while at < len(keys):
            cut = min(bisect_left(ends, done + self._room) + 1, len(keys))
            self._keys += keys[at:cut]
            self._records += records[at:cut]
            self._room -= ends[cut - 1] - done
            at, done = cut, ends[cut - 1]
            if self._room <= 0:
                self._end_block()
        self._largest = keys[-1]
        self._count += len(keys)
        self._filter.add(keys)

    def finish(self) -> TableInfo:
        """Write the rest, sync and close the file."""
        assert self._count, "a table is never empty"
        if self._keys:
            self._end_block()
        self._offsets.append(self.bytes)  # where the last block ends
        index_offset = self.bytes
        index_length = self._put(_encode((self._firsts, self._offsets)), compress=self._compress)
        filter_offset = self.bytes
        filter_length = self._put(self._filter.build(self._bits_per_key).to_bytes(), compress=False)
        meta_offset = self.bytes
        meta = _Meta(
            self._number, self._count, self._smallest, self._largest,
            index_offset, index_length, filter_offset, filter_length, self._digest,
        )  # fmt: skip
        meta_length = self._put(_encode(meta), compress=False)
        checksum = crc32c(FOOTER.pack(meta_offset, meta_length, VERSION, 0, MAGIC))
        self._parts.append(FOOTER.pack(meta_offset, meta_length, VERSION, checksum, MAGIC))
        self.bytes += FOOTER.size
        self._file.append(b"".join(self._parts))
        self._file.sync()
        self._file.close()
        return TableInfo(self._number, self._count, self.bytes, self._smallest, self._largest, meta.digest)

    def abandon(self) -> None:
        """Close the unfinished file."""
        self._file.close()

    def _end_block(self) -> None:
        keys = self._keys
        self._firsts.append(_separator(self._last_of_block, keys[0]) if self._firsts else keys[0])
        self._last_of_block = keys[-1]
        self._offsets.append(self.bytes)
        self._put(_encode((keys, self._records)), compress=self._compress)
        self._keys, self._records = [], []
        self._room = self._block_bytes

    def _put(self, payload: bytes, *, compress: bool) -> int:
        frame = encode_frame(payload, self.bytes, compress=compress)
        self._digest = crc32c(frame[: _FRAME.size], self._digest)
        self._parts.append(frame)
        self.bytes += len(frame)
        self._parts_bytes += len(frame)
        if self._parts_bytes >= _WRITE_BYTES:
            self._file.append(b"".join(self._parts))
            self._parts, self._parts_bytes = [], 0
        return len(frame)


class Table:
    """An open table. ``find`` and ``batches`` belong to one thread (they use the cache); ``stream`` to any.

    Counted references keep the file open while anything reads it: the engine holds one, every scan another.
    """

    __slots__ = (
        "_cache",
        "_file",
        "_first_name",
        "_firsts",
        "_offsets",
        "_references",
        "filter",
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
        except CorruptData:
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
        most_bytes = min(MAX_META_BYTES, _META_GROWTH * size + _META_ROOM_BYTES)
        meta = _decode_meta(self._frame(meta_offset, meta_length, most_bytes))
        info = self.info
        if (meta.number, meta.count, meta.smallest, meta.largest) != (
            info.number, info.count, info.smallest, info.largest,
        ):  # fmt: skip
            raise ValueError("it is another table")
        if info.digest not in (0, meta.digest):
            raise ValueError("it is another table of this name")
        firsts, offsets = _decode_index(self._frame(meta.index_offset, meta.index_length, most_bytes))
        if len(offsets) != len(firsts) + 1 or not firsts or offsets[0] < HEADER.size or offsets[-1] > size:
            raise ValueError("the index does not fit together")
        if not (_ascend(offsets) and _ascend(firsts)):
            raise ValueError("the index is not in order")
        self._firsts = firsts
        self._offsets = array("Q", offsets)
        self.filter = Bloom.from_bytes(self._frame(meta.filter_offset, meta.filter_length, most_bytes))

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

    def find(self, key: bytes) -> bytes | None:
        """Return the record of ``key``, or None. O(log n), and at most one read. ``CorruptBlock`` if that fails."""
        index = bisect_right(self._firsts, key) - 1
        if index < 0:
            return None
        keys, records = self._cache.get(self._first_name + index) or self._read_block(index)
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
        """Return a block from the cache or the file."""
        return self._cache.get(self._first_name + index) or self._read_block(index)

    def _read_block(self, index: int) -> Block:
        offset = self._offsets[index]
        if offset in self.skipped:
            return _EMPTY
        try:
            payload = self._frame(offset, self._offsets[index + 1] - offset, MAX_BLOCK_BYTES)
            block = _block_of(payload)
        except (OSError, *UNREADABLE) as error:
            _pass_on_shortage(error)
            raise self._corrupt_block(index, str(error)) from None
        self._cache.put(self._first_name + index, block, len(payload))
        return block

    def batches(self, start: bytes, end: bytes | None, *, reverse: bool) -> Iterator[Block]:
        """Yield the entries of ``[start, end)``, a block at a time; with ``reverse`` the last block comes first."""
        first = max(bisect_right(self._firsts, start) - 1, 0)
        last = len(self._firsts) if end is None else bisect_left(self._firsts, end)
        for index in reversed(range(first, last)) if reverse else range(first, last):
            keys, records = self.block(index)
            low = bisect_left(keys, start) if index == first else 0
            high = len(keys) if end is None or index < last - 1 else bisect_left(keys, end)
            yield (keys, records) if high - low == len(keys) else (keys[low:high], records[low:high])

    def stream(self, on_corruption: CorruptionHandler) -> Iterator[Block]:
        """Yield all entries in batches of about 256 KiB on disk, past the cache; corrupt blocks go to ``on_corruption``."""
        offsets = self._offsets
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
                    block = _block_of(decode_frame(frame, begin, MAX_BLOCK_BYTES))
                    if not block[0] or (last and block[0][0] <= last) or not _ascend(block[0]):
                        raise ValueError("its keys are not in order")
                except (OSError, *UNREADABLE) as error:
                    _pass_on_shortage(error)
                    on_corruption(self._corrupt_block(at, str(error)))
                    continue
                last = block[0][-1]
                keys += block[0]
                records += block[1]
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

    def _frame(self, offset: int, length: int, max_bytes: int) -> bytes:
        if not (offset >= 0 and 0 <= length <= max_bytes and offset + length <= self.info.size_bytes):
            raise ValueError("it points outside the file")
        return decode_frame(self._file.pread(offset, length), offset, max_bytes)

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


def _block_of(payload: bytes) -> Block:
    block = _decode_block(payload)
    if len(block[0]) != len(block[1]):
        raise ValueError("it has a key without a record, or a record without a key")
    return block


def _pass_on_shortage(error: Exception) -> None:
    """Raise ``error`` again if the process is short of a resource: that is no corruption, and a retry may succeed."""
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        raise error
