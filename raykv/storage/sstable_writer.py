"""Writes a table from ascending batches; ``raykv.storage.sstable`` has the format.

With zstd the first blocks wait until there are enough of them to train the table's dictionary on.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING

import msgspec
from crc32c import crc32c

from raykv.storage import block
from raykv.storage.bloom import BloomBuilder
from raykv.storage.compression import SAMPLE_BYTES, Packer, train
from raykv.storage.frame import FRAME, encode_frame
from raykv.storage.sstable import FOOTER, HEADER, MAGIC, VERSION, Meta, TableInfo, table_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.config import NodeConfig
    from raykv.ports import AppendFile, FileSystem

_WRITE_BYTES = 256 << 10

_encode = msgspec.msgpack.Encoder().encode


def _separator(before: bytes, first: bytes) -> bytes:
    """Return the shortest prefix of ``first`` that is above ``before``."""
    shorter = min(len(before), len(first))
    # As numbers: the highest bit in which they differ lies in the first byte in which they differ.
    differ = int.from_bytes(before[:shorter]) ^ int.from_bytes(first[:shorter])
    return first[: shorter + 1 - (differ.bit_length() + 7) // 8]


class TableWriter:
    """Builds one table from ascending batches. ``finish`` syncs the file; the caller syncs the directory."""

    def __init__(self, fs: FileSystem, directory: str, number: int, config: NodeConfig) -> None:
        self._file: AppendFile = fs.create(f"{directory}/{table_name(number)}")
        self._number = number
        self._block_bytes = config.block_bytes
        self._compression = config.compression
        self._plain = Packer("none")
        self._meta = Packer("none" if config.compression == "none" else "lz4")
        """For what is read once, when the table is opened."""
        self._packer: Packer | None = None if config.compression == "zstd" else self._meta
        """For blocks; None as long as the first ones wait for their dictionary."""
        self._dictionary = b""
        self._waiting: list[bytes] = []
        self._bits_per_key = config.bloom_bits_per_key
        self._filter = BloomBuilder()
        self._firsts: list[bytes] = []
        self._offsets: list[int] = []
        self._keys: list[bytes] = []
        self._records: list[bytes] = []
        self._marks: list[bytes] = []
        self._room = self._block_bytes
        self._smallest = self._largest = self._last_of_block = b""
        self._count = 0
        self._parts: list[bytes] = [HEADER.pack(MAGIC, VERSION)]
        self._parts_bytes = HEADER.size
        self._digest = 0
        self._written_bytes = HEADER.size
        self.bytes = HEADER.size
        """Bytes of finished blocks so far; those that wait for a dictionary count before compression."""

    def add(self, keys: Sequence[bytes], records: Sequence[bytes]) -> None:
        """Add entries whose keys are above all earlier ones; ``ValueError`` if the first is not. O(bytes)."""
        if not keys:
            return
        if self._count and keys[0] <= self._largest:
            raise ValueError("keys ascend through a table")
        if not self._count:
            self._smallest = keys[0]
        # A search in the running total of sizes cuts the blocks: one step a block, not one an entry.
        ends = list(accumulate(map(add, map(len, keys), map(len, records))))
        marks = self._filter.add(keys)
        at = done = 0
        while at < len(keys):
            cut = min(bisect_left(ends, done + self._room) + 1, len(keys))
            self._keys += keys[at:cut]
            self._records += records[at:cut]
            self._marks.append(marks[at:cut])
            self._room -= ends[cut - 1] - done
            at, done = cut, ends[cut - 1]
            if self._room <= 0:
                self._end_block()
        self._largest = keys[-1]
        self._count += len(keys)

    def finish(self) -> TableInfo:
        """Write the rest, sync and close the file."""
        assert self._count, "a table is never empty"
        if self._keys:
            self._end_block()
        if self._packer is None:
            self._begin_packing()
        self._offsets.append(self._written_bytes)  # where the last block ends
        dictionary_offset = self._written_bytes
        dictionary_length = self._put(self._dictionary, self._plain) if self._dictionary else 0
        index_offset = self._written_bytes
        index_length = self._put(_encode((self._firsts, self._offsets)), self._meta)
        filter_offset = self._written_bytes
        filter_length = self._put(self._filter.build(self._bits_per_key).to_bytes(), self._plain)
        meta_offset = self._written_bytes
        meta = Meta(
            self._number, self._count, self._smallest, self._largest,
            index_offset, index_length, filter_offset, filter_length, self._digest,
            self._compression, dictionary_offset, dictionary_length,
        )  # fmt: skip
        meta_length = self._put(_encode(meta), self._plain)
        checksum = crc32c(FOOTER.pack(meta_offset, meta_length, VERSION, 0, MAGIC))
        self._parts.append(FOOTER.pack(meta_offset, meta_length, VERSION, checksum, MAGIC))
        self._written_bytes += FOOTER.size
        self._file.append(b"".join(self._parts))
        self._file.sync()
        self._file.close()
        return TableInfo(self._number, self._count, self._written_bytes, self._smallest, self._largest, meta.digest)

    def abandon(self) -> None:
        """Close the unfinished file."""
        self._file.close()

    def _end_block(self) -> None:
        keys = self._keys
        self._firsts.append(_separator(self._last_of_block, keys[0]) if self._firsts else keys[0])
        self._last_of_block = keys[-1]
        payload = block.encode(keys, self._records, b"".join(self._marks))
        self._keys, self._records, self._marks = [], [], []
        self._room = self._block_bytes
        if self._packer is None:
            self._waiting.append(payload)
            self.bytes += len(payload)
            if self.bytes >= SAMPLE_BYTES:
                self._begin_packing()
        else:
            self._put_block(payload, self._packer)

    def _begin_packing(self) -> None:
        """Make the dictionary of the blocks so far, and write them."""
        self._dictionary = train(self._waiting)
        self._packer = Packer(self._compression, self._dictionary)
        waiting, self._waiting = self._waiting, []
        self.bytes = self._written_bytes
        for payload in waiting:
            self._put_block(payload, self._packer)

    def _put_block(self, payload: bytes, packer: Packer) -> None:
        self._offsets.append(self._written_bytes)
        self._put(payload, packer)

    def _put(self, payload: bytes, packer: Packer) -> int:
        frame = encode_frame(payload, self._written_bytes, packer)
        self._digest = crc32c(frame[: FRAME.size], self._digest)
        self._parts.append(frame)
        self._written_bytes += len(frame)
        self.bytes += len(frame)
        self._parts_bytes += len(frame)
        if self._parts_bytes >= _WRITE_BYTES:
            self._file.append(b"".join(self._parts))
            self._parts, self._parts_bytes = [], 0
        return len(frame)
