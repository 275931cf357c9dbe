"""A sorted run: open tables with ascending, disjoint ranges, the outcome of one flush or one merge. Immutable."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from raykv.storage.manifest import RunInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raykv.storage.cache import Block
    from raykv.storage.damage import CorruptionHandler
    from raykv.storage.sstable import Table


class Run:
    """Finds the one table of a run that may hold a key.

    ``number`` names the run: that of the first table of its flush. A compaction's outcome keeps the name of the oldest.

    ``only`` is the table of a run that has no other.
    """

    __slots__ = ("_largest", "number", "only", "size_bytes", "tables")

    def __init__(self, number: int, tables: Sequence[Table]) -> None:
        assert tables, "a run is never empty"
        self.number = number
        self.tables = tuple(tables)
        self.only = self.tables[0] if len(self.tables) == 1 else None
        self._largest = [table.info.largest for table in tables]
        self.size_bytes = sum(table.info.size_bytes for table in tables)

    def table_for(self, key: bytes) -> Table | None:
        """Return the only table that may hold ``key``; its filter may still rule it out. O(log tables)."""
        at = bisect_left(self._largest, key)
        return self.tables[at] if at < len(self.tables) else None

    def beside(self, key: bytes, *, reverse: bool) -> tuple[bytes, bytes] | None:
        """Return the first entry from ``key`` on, or with ``reverse`` the last one before it. O(log n), about one block."""
        at = bisect_left(self._largest, key)
        if reverse and at == len(self.tables):
            at -= 1
        while 0 <= at < len(self.tables):  # the next table only if this one is corrupt there
            found = self.tables[at].beside(key, reverse=reverse)
            if found is not None:
                return found
            at += -1 if reverse else 1
        return None

    def overlapping(self, start: bytes, end: bytes | None) -> list[Table]:
        """Return the tables that may hold keys of ``[start, end)``, ascending."""
        first = bisect_left(self._largest, start)
        return [table for table in self.tables[first:] if end is None or table.info.smallest < end]

    def stream(self, on_corruption: CorruptionHandler) -> Iterator[Block]:
        """Yield all entries, for a compaction; any thread may."""
        for table in self.tables:
            yield from table.stream(on_corruption)

    def info(self) -> RunInfo:
        """Return the manifest's entry of this run."""
        return RunInfo(self.number, tuple(table.info for table in self.tables))
