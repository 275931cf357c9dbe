"""A node's page of a scan: the records of some partitions, in key order.

Partitions are stored one after the other, so their records are merged. Where few records of each partition are wanted,
they are looked up one by one instead. Only the headers of dead records travel, and a page ends by its bytes or by the
records that it has passed, not by its limit alone (``covered`` says how far it is complete).
"""

from __future__ import annotations

import heapq
from bisect import insort
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec

from raykv.protocol import frames as f
from raykv.records.keys import STORAGE_PREFIX_BYTES, storage_prefix
from raykv.records.kinds import header_of, public
from raykv.versions import shows_nothing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.storage import Engine
    from raykv.storage.memtable import Found

MAX_SCAN_ITEMS = 2000
MAX_SCAN_BYTES = 1 << 20
PLENTY = 1000
"""A passing scan with this limit or more gets as many records as fit; only large records are judged."""
PASSED_SINGLY = 64
"""After this many dead records more are likely, and the rest comes from a scan of all partitions."""
BARE_BYTES = 256
"""Only the header of a dead record above this size travels."""
FEW_A_PARTITION = 4
"""Below this average number of records per partition, look-ups are cheaper than a scan: starting a scan took as long as
six look-ups (60 us, against 8-10 us each)."""
_KEY = itemgetter(0)


class Scanner:
    """Scans over one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.page_bytes = MAX_SCAN_BYTES
        """A page ends behind the record with which it reaches this size."""

    def scan(self, request: f.Scan) -> tuple[f.ScanDone, int]:
        """Return the answer, and the log position that it depends on. Raises ``CorruptData``. O(records passed)."""
        # Else a reader of the first item of a queue would ask once for each item that was taken out of it.
        tells_apart = request.now_ms and request.limit < PLENTY
        all_may_be = request.now_ms and not tells_apart
        limit = MAX_SCAN_ITEMS if all_may_be else max(1, min(request.limit, MAX_SCAN_ITEMS))
        items: list[tuple[bytes, bytes]] = []
        counted = passed = size_bytes = position = 0
        last = b""
        for key, record, at in self._found(request, limit):
            if counted >= limit or passed >= MAX_SCAN_ITEMS or size_bytes >= self.page_bytes:
                return f.ScanDone(items, last), position
            passed, last = passed + 1, key
            if not record:
                continue  # an erased record has nothing to show, but took time
            large = all_may_be and len(record) > BARE_BYTES
            dead = (tells_apart or large) and shows_nothing(record, request.now_ms)
            counted += not dead
            kept = header_of(record) if request.keys_only or (dead and len(record) > BARE_BYTES) else record
            items.append((key, kept))
            size_bytes += len(key) + len(kept)
            position = max(position, at)
        return f.ScanDone(items, None), position

    def _found(self, request: f.Scan, limit: int) -> Iterator[tuple[bytes, bytes, int]]:
        """Return key, record and position of each record in key order; erased ones with empty records."""
        much_is_dead = request.now_ms and limit >= PASSED_SINGLY  # such a window grew over what was passed before
        if much_is_dead or limit >= FEW_A_PARTITION * len(request.partitions):
            return self._merged(request)
        return self._first_in_order(request, limit + PASSED_SINGLY) if request.now_ms else self._in_order(request)

    def _first_in_order(self, request: f.Scan, count: int) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield the first ``count`` ``_in_order``, and the rest ``_merged``."""
        last = None
        for last in islice(self._in_order(request), count):
            yield last
        if last is not None:
            start, end = (request.start, last[0]) if request.reverse else (last[0] + b"\x00", request.end)
            yield from self._merged(msgspec.structs.replace(request, start=start, end=end))

    def _merged(self, request: f.Scan) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield key, record and position in key order: scans of all partitions, merged."""
        runs = [self._scan_partition(request, partition) for partition in request.partitions]
        return heapq.merge(*runs, key=_KEY, reverse=request.reverse)

    def _scan_partition(self, request: f.Scan, partition: int) -> Iterator[tuple[bytes, bytes, int]]:
        prefix = storage_prefix(partition, request.bucket_id)
        start, end = prefix + request.start, prefix + request.end
        for key, found in self._engine.scan(start, end, reverse=request.reverse, erased=True):
            yield key[STORAGE_PREFIX_BYTES:], public(found.record), found.position

    def _in_order(self, request: f.Scan) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield the same by look-ups, where few records of each partition are wanted.

        Scans of all partitions would mostly fetch records that are never shown, and starting one costs several times as much
        as a look-up.
        """
        first, reverse = self._engine.first, request.reverse
        heads: list[tuple[bytes, bytes, Found]] = []
        for partition in request.partitions:
            prefix = storage_prefix(partition, request.bucket_id)
            pair = first(prefix + request.start, prefix + request.end, reverse=reverse, erased=True)
            if pair is not None:
                heads.append((pair[0][STORAGE_PREFIX_BYTES:], prefix, pair[1]))
        heads.sort(key=_KEY)
        while heads:
            key, prefix, found = heads.pop(-1 if reverse else 0)
            yield key, public(found.record), found.position
            start, end = (request.start, key) if reverse else (key + b"\x00", request.end)
            pair = first(prefix + start, prefix + end, reverse=reverse, erased=True)
            if pair is not None:
                insort(heads, (pair[0][STORAGE_PREFIX_BYTES:], prefix, pair[1]), key=_KEY)
