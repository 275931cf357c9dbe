"""The newest records, in memory, each with the log position that makes it safe.

LevelDB keeps its memtable in a skip list because every write must leave it sorted. Here a write goes to a dict, which
is all that ``get`` and ``update`` need, and scans restore the order: new keys wait in a list, and a scan first adds them
to a sorted list. Adding them one by one costs as much as an eager order; adding many at once costs far less. A flush
runs on another thread, so it sorts the dict by itself and leaves both lists alone.

Invariants: the sorted keys and the waiting keys together are the dict's keys, each once. A sealed memtable does not
change any more. A key never leaves (a delete is a record like any other).
"""

from __future__ import annotations

from itertools import count, islice
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec
from sortedcontainers import SortedList

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ENTRY_OVERHEAD_BYTES = 128
"""The approximate overhead of an entry: dict slot, tuple, object headers."""
_FIRST_CHUNK, _SCAN_CHUNK = 16, 256
"""The sizes of a scan's first and largest batch: short scans stay cheap, and each batch is twice the one before."""


_record_of = attrgetter("record")


class Found(msgspec.Struct, frozen=True, gc=False):
    """A record, and the log position that must be durable before anyone may see it; 0: it is durable already.

    A memtable has hundreds of thousands: garbage collection of them would delay every request.
    """

    record: bytes
    position: int


class Memtable:
    """A sorted map of key to ``Found``. ``first_segment`` .. ``last_segment`` of the log hold all of it."""

    __slots__ = ("_order", "_waiting", "bytes", "entries", "first_segment", "last_segment", "replaced_bytes")

    def __init__(self, first_segment: int) -> None:
        self.entries: dict[bytes, Found] = {}
        self.bytes = 0
        self.first_segment = first_segment
        self.last_segment: int | None = None  # known once sealed
        self.replaced_bytes = 0
        """Records that it no longer holds, since the engine last took a sync job: the log has them until it is written."""
        self._order: SortedList[bytes] = SortedList()
        self._waiting: list[bytes] = []

    def put(self, key: bytes, record: bytes, position: int) -> Found:
        """Keep ``record`` as the newest of ``key``. O(1)."""
        found = Found(record, position)
        old = self.entries.get(key)
        self.entries[key] = found
        if old is None:
            self._waiting.append(key)
            self.bytes += len(key) + len(record) + ENTRY_OVERHEAD_BYTES
        else:
            self.bytes += len(record) - len(old.record)
            self.replaced_bytes += len(old.record)
        return found

    def put_many(self, keys: Sequence[bytes], records: Sequence[bytes], first: int) -> list[Found]:
        """``put`` of each, at positions from ``first`` on. The keys differ. O(entries), in C where they are new."""
        entries = self.entries
        founds = [*map(Found, records, count(first))]
        if entries.keys().isdisjoint(keys):
            self._waiting += keys
            self.bytes += sum(map(len, keys)) + sum(map(len, records)) + ENTRY_OVERHEAD_BYTES * len(keys)
            entries.update(zip(keys, founds, strict=True))
            return founds
        return [self.put(key, record, first + at) for at, (key, record) in enumerate(zip(keys, records, strict=True))]

    def beside(self, key: bytes, *, reverse: bool) -> tuple[bytes, Found] | None:
        """Return the first entry from ``key`` on, or with ``reverse`` the last one before it. O(log n)."""
        order = self._caught_up()
        at = order.bisect_left(key) - reverse
        if not 0 <= at < len(order):
            return None
        found = order[at]
        return found, self.entries[found]

    def _caught_up(self) -> SortedList[bytes]:
        if self._waiting:
            self._order.update(self._waiting)
            self._waiting.clear()
        return self._order

    def first(self, start: bytes, end: bytes, count: int, *, reverse: bool) -> tuple[list[bytes], list[Found]]:
        """Return the first ``count`` entries of ``[start, end)``, with ``reverse`` the last ones, ascending all the same.

        O(log n + count), once the order is restored.
        """
        keys = [*islice(self._caught_up().irange(start, end, (True, False), reverse=reverse), count)]
        if reverse:
            keys.reverse()
        return keys, [*map(self.entries.__getitem__, keys)]

    def batches(self, start: bytes, end: bytes | None, *, reverse: bool) -> Iterator[tuple[list[bytes], list[Found]]]:
        """Yield the entries of ``[start, end)`` in sorted batches; with ``reverse`` the last batch comes first.

        ``put`` may be called in between: each key comes at most once, and all that were there at the start come.
        O(log n) a batch and O(1) an entry, once the order is restored.
        """
        low, high, low_in, high_in = start, end, True, False
        count = _FIRST_CHUNK
        while True:
            keys = list(islice(self._caught_up().irange(low, high, (low_in, high_in), reverse=reverse), count))
            if not keys:
                return
            count = min(2 * count, _SCAN_CHUNK)
            if reverse:
                high, high_in = keys[-1], False
                keys.reverse()
            else:
                low, low_in = keys[-1], False
            entries = self.entries
            yield keys, [entries[key] for key in keys]

    def sorted_batches(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Yield all keys and records in order, for a flush. It changes nothing, so any thread may. O(n log n)."""
        keys = sorted(self.entries)
        entries = self.entries
        for at in range(0, len(keys), 4 * _SCAN_CHUNK):
            part = keys[at : at + 4 * _SCAN_CHUNK]
            yield part, [*map(_record_of, map(entries.__getitem__, part))]

    def check(self) -> None:
        """Assert the invariants. O(n log n); for tests."""
        known = list(self._order) + self._waiting
        assert len(known) == len(set(known)) == len(self.entries)
        assert all(key in self.entries for key in known)
        assert self.bytes == sum(
            len(key) + len(found.record) + ENTRY_OVERHEAD_BYTES for key, found in self.entries.items()
        )
