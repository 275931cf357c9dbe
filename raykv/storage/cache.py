"""The node's hot data: blocks, decoded where a scan came by, and records found in them.

Both are bounded in bytes (an estimate of what the data occupies in memory, not of its size on disk). Blocks are keyed by
table and block, and the least recently used go first; tables are immutable, so a block never goes stale and is dropped
only with its table, or when that turns out to be corrupt on the disk.

A cached record is the newest of its key in all tables, which saves the filter and two searches for each run. A flush or
newly found corruption may change which record that is, and so invalidates the records cached before (``RecordCache``).

Omitted: admission policy (a long scan does push out hot blocks; compaction reads past the cache). One thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from raykv.storage.memtable import Found

Block: TypeAlias = tuple[list[bytes], list[bytes]]
"""Keys, sorted, and their records."""
Kept: TypeAlias = Block | bytes
"""A block as it is cached: decoded, or as it came out of its frame (``raykv.storage.block``)."""

OBJECT_BYTES = 33 + 8
"""What CPython adds to a bytes object in a list."""
RECORD_OVERHEAD_BYTES = 350
"""The approximate overhead of a cached record: two slots and a link of the map, tuple, object headers."""


def first_name(table: int) -> int:
    """Return the name of a table's first block; that of block i is i more. Tables have less than 2**32 blocks."""
    return table << 32


class BlockCache:
    """An LRU map of block names (``first_name``) to blocks. All operations O(1)."""

    __slots__ = ("_blocks", "_capacity_bytes", "_touch", "hits", "misses", "used_bytes")

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._blocks: OrderedDict[int, tuple[Kept, int]] = OrderedDict()
        self._touch = self._blocks.move_to_end
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, name: int) -> Kept | None:
        """Return the block and make it the most recently used, or None."""
        entry = self._blocks.get(name)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._touch(name)
        return entry[0]

    def put(self, name: int, block: Kept, raw_bytes: int) -> None:
        """Cache the block of ``raw_bytes``; evict the oldest until it fits. A block too big is not cached."""
        size = raw_bytes + 200 if isinstance(block, bytes) else raw_bytes + 2 * OBJECT_BYTES * len(block[0]) + 200
        if size > self._capacity_bytes:
            return
        old = self._blocks.pop(name, None)
        if old is not None:
            self.used_bytes -= old[1]
        self._blocks[name] = block, size
        self.used_bytes += size
        while self.used_bytes > self._capacity_bytes:
            _, (_, freed) = self._blocks.popitem(last=False)
            self.used_bytes -= freed
        assert self.used_bytes >= 0

    def discard_table(self, table: int, blocks: int) -> None:
        """Forget all blocks of a table that is removed or corrupt. O(blocks of the table)."""
        for index in range(blocks):
            entry = self._blocks.pop(first_name(table) + index, None)
            if entry is not None:
                self.used_bytes -= entry[1]


class RecordCache:
    """A map of keys to what the tables hold of them. The oldest go first, used or not: a use costs one look-up. O(1).

    *Schedule without ``age``: a record is found in a table and cached; the key is written, flushed, and read: the cached
    record is older than that of the new table.*
    """

    __slots__ = ("_capacity_bytes", "_records", "used_bytes")

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._records: OrderedDict[bytes, tuple[Found, int]] = OrderedDict()
        self.used_bytes = 0

    def get(self, key: bytes, age: int) -> Found | None:
        """Return what was cached at the same age of the tables."""
        kept = self._records.get(key)
        return kept[0] if kept is not None and kept[1] == age else None

    def put(self, key: bytes, found: Found, age: int) -> None:
        """Cache what the tables hold of a key; evict the oldest until it fits. A record too large is not cached."""
        size = _kept_bytes(key, found)
        if size > self._capacity_bytes:
            return
        old = self._records.pop(key, None)
        if old is not None:
            self.used_bytes -= _kept_bytes(key, old[0])
        self._records[key] = found, age
        self.used_bytes += size
        while self.used_bytes > self._capacity_bytes:
            oldest, (gone, _) = self._records.popitem(last=False)
            self.used_bytes -= _kept_bytes(oldest, gone)
        assert self.used_bytes >= 0


def _kept_bytes(key: bytes, found: Found) -> int:
    return len(key) + len(found.record) + RECORD_OVERHEAD_BYTES
