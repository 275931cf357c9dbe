"""A node's page of a scan: the records of some partitions, in key order.

Partitions are stored one after the other, so a page is the merge of what each has next. **A page costs what it shows**:
what was read of a partition beyond the page (blocks have more than one record) is kept as a *stretch* and begins the next
page, or the same page asked for again. A stretch serves as long as nothing in its partition has changed: the engine counts
changes by partition, so a look at a counter replaces a look for the record.

How much to read of each partition is settled by a bound: with as many records in hand as the page wants, the last of
these is a key beyond which nothing is needed, and only the partitions that have not been read that far are read on.

Only the headers of dead records travel, and a page ends by its bytes or by the records that it has passed, not by its
limit alone (``covered`` says how far it is complete).
"""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter
from typing import TYPE_CHECKING

from raykv.protocol import frames as f
from raykv.records.keys import STORAGE_PREFIX_BYTES, storage_prefix
from raykv.records.kinds import OWNED, header_of, public
from raykv.storage import CHANGES_PREFIX_BYTES
from raykv.versions import shows_nothing

if TYPE_CHECKING:
    from typing import TypeAlias

    from raykv.storage import Engine
    from raykv.storage.memtable import Found

MAX_SCAN_ITEMS = 2000
MAX_SCAN_BYTES = 1 << 20
PLENTY = 1000
"""A passing scan with this limit or more gets as many records as fit; only large records are judged."""
BARE_BYTES = 256
"""Only the header of a dead record above this size travels, and of any record where keys alone are wanted."""
AHEAD = 4
"""A partition that is read on is read this many times as far as the page needs."""
MOST_AHEAD = 256
MAX_STRETCH = 512
"""Records in one stretch; what follows begins another."""
STRETCHES = 4
"""Stretches kept of a partition of a bucket: scans of different ranges may take turns."""
OVERHEAD_BYTES = 150
"""Of a record that is kept, beside its own bytes: objects and list slots."""
_KEY = itemgetter(0)

Pairs: TypeAlias = "list[tuple[bytes, Found | bytes]]"


class _Stretch:
    """All records of a partition with ``low <= key < high``, as of ``changes``."""

    __slots__ = ("changes", "found", "high", "keys", "low", "size_bytes")

    def __init__(
        self,
        low: bytes,
        high: bytes,
        keys: list[bytes],
        found: list[Found | bytes],
        changes: tuple[int, int],
        size_bytes: int,
    ) -> None:
        self.low, self.high = low, high
        self.keys, self.found = keys, found
        self.changes = changes
        self.size_bytes = size_bytes

    def joined(self, later: _Stretch) -> _Stretch:
        """Return this and the one that begins where it ends as one."""
        assert self.high == later.low
        keys, found = self.keys + later.keys, self.found + later.found
        return _Stretch(self.low, later.high, keys, found, later.changes, self.size_bytes + later.size_bytes)


class Stretches:
    """What was read of partitions and is kept for the next page, within ``max_bytes``; those read longest ago go first."""

    def __init__(self, engine: Engine, max_bytes: int) -> None:
        self._engine = engine
        self._max_bytes = max_bytes
        self._kept: dict[bytes, list[_Stretch]] = {}
        """Storage prefix -> its stretches, the last one first."""
        self.used_bytes = 0

    def at(self, prefix: bytes, low: bytes, high: bytes, least: int, *, reverse: bool) -> _Stretch:
        """Return a stretch that begins at ``low`` or before and goes beyond it; ``reverse``: that ends so at ``high``.

        It need not reach the other bound. If it is read now, it has ``least`` records, if there are as many before a bound
        in bytes. Raises ``CorruptData``.
        """
        changes = self._engine.changes(prefix[:CHANGES_PREFIX_BYTES])
        kept = self._kept.get(prefix, ())
        beside = None
        for stretch in kept:
            if stretch.changes == changes:
                if stretch.low < high <= stretch.high if reverse else stretch.low <= low < stretch.high:
                    return stretch
                if high == stretch.low if reverse else low == stretch.high:
                    beside = stretch
        if beside is not None:
            least = max(least, min(AHEAD * least, MOST_AHEAD))
        window = self._engine.window(prefix + low, prefix + high, least, reverse=reverse)
        keys = [key[STORAGE_PREFIX_BYTES:] for key in window.keys]
        if window.reached is not None:
            reached = window.reached[STORAGE_PREFIX_BYTES:]
            low, high = (reached, high) if reverse else (low, reached + b"\x00")
        records = sum([len(each) if isinstance(each, bytes) else len(each.record) for each in window.found])
        stretch = _Stretch(low, high, keys, window.found, changes, records + len(keys) * OVERHEAD_BYTES)
        if beside is not None and len(beside.keys) + len(keys) <= MAX_STRETCH:
            stretch = stretch.joined(beside) if reverse else beside.joined(stretch)
        return self._keep(prefix, stretch)

    def _keep(self, prefix: bytes, stretch: _Stretch) -> _Stretch:
        before = self._kept.pop(prefix, [])
        others = [
            each
            for each in before
            if each.changes == stretch.changes and not (stretch.low <= each.low and each.high <= stretch.high)
        ][: STRETCHES - 1]
        self.used_bytes += stretch.size_bytes + sum(each.size_bytes for each in others)
        self.used_bytes -= sum(each.size_bytes for each in before)
        self._kept[prefix] = [stretch, *others]
        while self.used_bytes > self._max_bytes and self._kept:
            oldest = next(iter(self._kept))
            self.used_bytes -= sum(each.size_bytes for each in self._kept.pop(oldest))
        return stretch


class _Reader:
    """One partition's part in a page: everything between the page's beginning and ``reached`` has been given out."""

    __slots__ = ("_prefix", "_stretches", "open", "reached")

    def __init__(self, stretches: Stretches, prefix: bytes, reached: bytes) -> None:
        self._stretches = stretches
        self._prefix = prefix
        self.reached = reached
        self.open = True

    def read(self, pairs: Pairs, end: bytes, count: int) -> None:
        """Add the next ``count`` records before ``end`` to the pairs, or fewer: those of one stretch."""
        stretch = self._stretches.at(self._prefix, self.reached, end, count, reverse=False)
        keys = stretch.keys
        first = bisect_left(keys, self.reached)
        most = bisect_left(keys, end) if stretch.high > end else len(keys)
        after = min(first + count, most)
        pairs += zip(keys[first:after], stretch.found[first:after], strict=True)
        self.reached = keys[after] if after < most else min(stretch.high, end)
        self.open = self.reached < end

    def read_back(self, pairs: Pairs, start: bytes, count: int) -> None:
        """As ``read``, from the end: the last records from ``start`` on."""
        stretch = self._stretches.at(self._prefix, start, self.reached, count, reverse=True)
        keys = stretch.keys
        after = bisect_left(keys, self.reached)
        least = bisect_left(keys, start) if stretch.low < start else 0
        first = max(after - count, least)
        pairs += zip(keys[first:after], stretch.found[first:after], strict=True)
        self.reached = keys[first] if first > least else max(stretch.low, start)
        self.open = self.reached > start


class Scanner:
    """Scans over one engine."""

    def __init__(self, engine: Engine, max_bytes: int) -> None:
        """``max_bytes``: of what is kept between pages."""
        self._engine = engine
        self.stretches = Stretches(engine, max_bytes)
        self.page_bytes = MAX_SCAN_BYTES
        """A page ends behind the record with which it reaches this size."""

    def scan(self, request: f.Scan) -> tuple[f.ScanDone, int]:
        """Return the answer, and the log position that it depends on. Raises ``CorruptData``.

        O(records passed) and O(1) a partition, and one window for each partition that has changed or was not read so far.
        """
        # Else a reader of the first item of a queue would ask once for each item that was taken out of it.
        tells_apart = request.now_ms and request.limit < PLENTY
        all_may_be = request.now_ms and not tells_apart
        limit = MAX_SCAN_ITEMS if all_may_be else max(1, min(request.limit, MAX_SCAN_ITEMS))
        judged = bool(tells_apart or all_may_be)
        items: list[tuple[bytes, bytes]] = []
        counted = passed = size_bytes = position = 0
        last = b""
        self._engine.check_open()
        start, end, wanted = request.start, request.end, limit + 1  # one more, to know whether anything follows
        while True:
            pairs, more = self._next(request, start, end, wanted)
            for key, found in pairs:
                if counted >= limit or passed >= MAX_SCAN_ITEMS or size_bytes >= self.page_bytes:
                    return f.ScanDone(items, last), position
                passed, last = passed + 1, key
                if isinstance(found, bytes):
                    record = found
                else:
                    record = found.record
                    position = max(position, found.position)
                if not record:
                    continue  # an erased record has nothing to show, but took time
                if record[:2] == OWNED:
                    record = public(record)
                large = len(record) > BARE_BYTES
                if judged and (tells_apart or large) and shows_nothing(record, request.now_ms):
                    record = header_of(record) if large else record
                else:
                    counted += 1
                    if large and request.keys_only:
                        record = header_of(record)
                items.append((key, record))
                size_bytes += len(key) + len(record)
            if not more:
                return f.ScanDone(items, None), position
            start, end = (start, last) if request.reverse else (last + b"\x00", end)
            wanted = min(2 * wanted, MAX_SCAN_ITEMS)

    def _next(self, request: f.Scan, start: bytes, end: bytes, wanted: int) -> tuple[Pairs, bool]:
        """Return the first ``wanted`` records of the range in the order of the scan, and whether more may follow.

        Those that were erased come too, with empty records.
        """
        reverse, pairs = request.reverse, list[tuple[bytes, "Found | bytes"]]()
        if start >= end:
            return pairs, False
        readers = [
            _Reader(self.stretches, storage_prefix(partition, request.bucket_id), end if reverse else start)
            for partition in request.partitions
        ]
        count = 1 + -(-wanted // max(1, len(readers)))
        behind = readers
        while behind:
            for reader in behind:
                if reverse:
                    reader.read_back(pairs, start, count)
                else:
                    reader.read(pairs, end, count)
            pairs.sort(key=_KEY, reverse=reverse)
            behind = [reader for reader in readers if reader.open]
            if len(pairs) >= wanted:
                bound = pairs[wanted - 1][0]
                behind = [r for r in behind if (r.reached > bound if reverse else r.reached <= bound)]
            else:
                count *= 2
        more = len(pairs) > wanted or any(reader.open for reader in readers)
        return pairs[:wanted], more
