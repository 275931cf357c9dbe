"""A node's page of a scan (P15): the records of some partitions, in key order.

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
from typing import TYPE_CHECKING, NamedTuple

from raykv.config import KIB
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
BARE_BYTES, BARE_KEY_BYTES = 256, 512
"""Only the header of a dead record above the first size travels, and of any record above the second where keys alone are
wanted. To cut it out takes longer than to send a smaller one."""
FEW = 4
"""Of a partition of which no more is wanted, one record after the other is looked up: that costs a quarter of a window.
Once so many were, more are likely."""
AHEAD = 4
"""A partition that is read on and on is read this many times as far as the page needs."""
MOST_AHEAD = 256
READ_BYTES, LEAST_BYTES = 256 * KIB, 16 * KIB
"""Of all partitions together about so much is read at a time, of each partition at least so much."""
MAX_STRETCH = 512
"""Records in one stretch; what follows begins another."""
STRETCHES = 4
"""Stretches kept of a partition of a bucket: scans of different ranges may take turns."""
OVERHEAD_BYTES = 150
"""Of a record that is kept, beside its own bytes and its key's: objects and list slots. And of a stretch, twice."""
_KEY = itemgetter(0)

Pairs: TypeAlias = "list[tuple[bytes, Found | bytes]]"


class _Stretch:
    """All records of a partition with ``low <= key < high``."""

    __slots__ = ("found", "high", "keys", "low", "records_bytes", "size_bytes")

    def __init__(
        self, low: bytes, high: bytes, keys: list[bytes], found: list[Found | bytes], records_bytes: int
    ) -> None:
        """``records_bytes``: the size of the records in ``found``."""
        self.low, self.high = low, high
        self.keys, self.found = keys, found
        self.records_bytes = records_bytes
        self.size_bytes = records_bytes + sum(map(len, keys)) + len(low) + len(high) + (2 + len(keys)) * OVERHEAD_BYTES

    def joined(self, later: _Stretch) -> _Stretch:
        """Return this and the one that begins where it ends as one."""
        assert self.high == later.low
        records_bytes = self.records_bytes + later.records_bytes
        return _Stretch(self.low, later.high, self.keys + later.keys, self.found + later.found, records_bytes)


class _Kept(NamedTuple):
    changes: tuple[int, int]
    """The partition's change counters before the first of these was read."""
    stretches: list[_Stretch]
    """The last one read first."""


class Stretches:
    """What was read of partitions and is kept for the next page, within ``max_bytes``; those read longest ago go first."""

    def __init__(self, engine: Engine, max_bytes: int) -> None:
        self._engine = engine
        self._max_bytes = max_bytes
        self._kept: dict[bytes, _Kept] = {}
        """Storage prefix -> what is kept of the bucket in the partition."""
        self.used_bytes = 0

    def at(self, prefix: bytes, low: bytes, high: bytes, least: int, enough_bytes: int, *, reverse: bool) -> _Stretch:
        """Return a stretch that begins at ``low`` or before and goes beyond it; ``reverse``: that ends so at ``high``.

        It need not reach the other bound. If it is read now, it has ``least`` records or ``enough_bytes``, if there are as
        many, or one, if few are wanted. Raises ``CorruptData``.
        """
        changes = self._engine.changes(prefix[:CHANGES_PREFIX_BYTES])
        kept, beside = self._kept.get(prefix), None
        if kept is not None and kept.changes == changes:
            for stretch in kept.stretches:
                if stretch.low < high <= stretch.high if reverse else stretch.low <= low < stretch.high:
                    return stretch
                if high == stretch.low if reverse else low == stretch.high:
                    beside = stretch
        if least <= FEW and (beside is None or len(beside.keys) < FEW):
            stretch = self._look_up(prefix, low, high, reverse=reverse)
        else:
            if beside is not None:
                least = max(least, min(AHEAD * least, MOST_AHEAD))
            stretch = self._read(prefix, low, high, least, enough_bytes, reverse=reverse)
        return self._keep(prefix, changes, stretch, beside, reverse=reverse)

    def _look_up(self, prefix: bytes, low: bytes, high: bytes, *, reverse: bool) -> _Stretch:
        pair = self._engine.first(prefix + low, prefix + high, reverse=reverse, erased=True)
        if pair is None:
            return _Stretch(low, high, [], [], 0)
        key, found = pair[0][STORAGE_PREFIX_BYTES:], pair[1]
        if reverse:
            return _Stretch(key, high, [key], [found], len(found.record))
        return _Stretch(low, key + b"\x00", [key], [found], len(found.record))

    def _read(
        self, prefix: bytes, low: bytes, high: bytes, least: int, enough_bytes: int, *, reverse: bool
    ) -> _Stretch:
        window = self._engine.window(prefix + low, prefix + high, least, enough_bytes=enough_bytes, reverse=reverse)
        if window.reached is not None:
            reached = window.reached[STORAGE_PREFIX_BYTES:]
            low, high = (reached, high) if reverse else (low, reached + b"\x00")
        keys = [key[STORAGE_PREFIX_BYTES:] for key in window.keys]
        records = sum([len(each) if isinstance(each, bytes) else len(each.record) for each in window.found])
        return _Stretch(low, high, keys, window.found, records)

    def _keep(
        self, prefix: bytes, changes: tuple[int, int], stretch: _Stretch, beside: _Stretch | None, *, reverse: bool
    ) -> _Stretch:
        kept = self._kept.pop(prefix, None)
        if kept is None or kept.changes != changes:
            if kept is not None:
                self.used_bytes -= sum([each.size_bytes for each in kept.stretches])
            kept = _Kept(changes, [])
        stretches = kept.stretches
        if beside is not None and len(beside.keys) + len(stretch.keys) <= MAX_STRETCH:
            stretches.remove(beside)
            self.used_bytes -= beside.size_bytes
            stretch = stretch.joined(beside) if reverse else beside.joined(stretch)
        elif len(stretches) >= STRETCHES:
            self.used_bytes -= stretches.pop().size_bytes
        stretches.insert(0, stretch)
        self.used_bytes += stretch.size_bytes
        self._kept[prefix] = kept
        while self.used_bytes > self._max_bytes and self._kept:
            oldest = self._kept.pop(next(iter(self._kept)))
            self.used_bytes -= sum([each.size_bytes for each in oldest.stretches])
        return stretch


class _Reader:
    """One partition's part in a page: everything between the page's beginning and ``reached`` has been given out."""

    __slots__ = ("_enough_bytes", "_prefix", "_stretches", "open", "reached")

    def __init__(self, stretches: Stretches, prefix: bytes, reached: bytes, enough_bytes: int) -> None:
        self._enough_bytes = enough_bytes
        self._stretches = stretches
        self._prefix = prefix
        self.reached = reached
        self.open = True

    def read(self, pairs: Pairs, end: bytes, count: int) -> None:
        """Add the next ``count`` records before ``end`` to the pairs, or fewer: those of one stretch."""
        stretch = self._stretches.at(self._prefix, self.reached, end, count, self._enough_bytes, reverse=False)
        keys = stretch.keys
        first = bisect_left(keys, self.reached)
        most = bisect_left(keys, end) if stretch.high > end else len(keys)
        after = min(first + count, most)
        pairs += zip(keys[first:after], stretch.found[first:after], strict=True)
        self.reached = keys[after] if after < most else min(stretch.high, end)
        self.open = self.reached < end

    def read_back(self, pairs: Pairs, start: bytes, count: int) -> None:
        """As ``read``, from the end: the last records from ``start`` on."""
        stretch = self._stretches.at(self._prefix, start, self.reached, count, self._enough_bytes, reverse=True)
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
            whole = None if judged else self._whole(pairs[: limit - counted], request.keys_only, size_bytes)
            if whole is not None and passed + len(whole[0]) <= MAX_SCAN_ITEMS:
                some, part_bytes, at = whole
                items += some
                position, size_bytes = max(position, at), size_bytes + part_bytes
                counted, passed, last = counted + len(some), passed + len(some), some[-1][0]
                pairs = pairs[len(some) :]
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
                    if request.keys_only and len(record) > BARE_KEY_BYTES:
                        record = header_of(record)
                items.append((key, record))
                size_bytes += len(key) + len(record)
            if not more:
                return f.ScanDone(items, None), position
            start, end = (start, last) if request.reverse else (last + b"\x00", end)
            wanted = min(2 * wanted, MAX_SCAN_ITEMS)

    def _whole(
        self, pairs: Pairs, keys_only: bool, size_bytes: int
    ) -> tuple[list[tuple[bytes, bytes]], int, int] | None:
        """Return these pairs as they are sent, their bytes and their log position, if nothing about them is to be judged.

        So it is with nearly all, and it takes a few steps in C. None if there are none, one was erased, one is large and
        its key alone is wanted, or they may be more than a page.
        """
        position = max([0, *[found.position for _, found in pairs if not isinstance(found, bytes)]])
        some = [
            (key, found)
            if isinstance(found, bytes) and found[:2] != OWNED
            else (key, public(found if isinstance(found, bytes) else found.record))
            for key, found in pairs
        ]
        sizes = [len(record) for _, record in some]
        part_bytes = sum(sizes) + sum([len(key) for key, _ in some])
        if not sizes or not min(sizes) or size_bytes + part_bytes >= self.page_bytes:
            return None
        return None if keys_only and max(sizes) > BARE_KEY_BYTES else (some, part_bytes, position)

    def _next(self, request: f.Scan, start: bytes, end: bytes, wanted: int) -> tuple[Pairs, bool]:
        """Return the first ``wanted`` records of the range in the order of the scan, and whether more may follow.

        Those that were erased come too, with empty records.
        """
        reverse, pairs = request.reverse, list[tuple[bytes, "Found | bytes"]]()
        if start >= end:
            return pairs, False
        bucket_id, reached = request.bucket_id, end if reverse else start
        enough_bytes = max(LEAST_BYTES, READ_BYTES // max(1, len(request.partitions)))
        readers = [
            _Reader(self.stretches, storage_prefix(partition, bucket_id), reached, enough_bytes)
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
