"""Ranges of keys, read from all sources of the engine at once: scans, windows, the first record, a sample.

A scan is lazy, may pause while updates, flushes and compactions go on, and stops at damaged ranges or goes around them.
"""

from __future__ import annotations

import itertools
from itertools import chain, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from raykv.errors import CorruptData
from raykv.storage.damage import CorruptBlock, intact
from raykv.storage.lookups import Lookups, corrupt
from raykv.storage.memtable import Found
from raykv.storage.merge import merge
from raykv.storage.window import Window, window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.storage.merge import Batch
    from raykv.storage.sstable import Table

_record_of = attrgetter("record")
_MARKERS_PASSED = 8


class _Beside(Protocol):
    def beside(self, key: bytes, *, reverse: bool) -> tuple[bytes, Found | bytes] | None: ...


class Scans(Lookups):
    """Reads of ranges, beside those of single keys. All methods belong to the engine's thread."""

    def first(
        self, start: bytes, end: bytes, *, reverse: bool = False, erased: bool = False
    ) -> tuple[bytes, Found] | None:
        """Return the first ``(key, Found)`` of ``[start, end)``, the last with ``reverse``; None if there is none.

        The first record of the scan, cheaper to get than a scan is to begin: for a few records from many places.
        ``CorruptData`` and ``erased`` as in ``scan``. O(log n) a source, about one block a run; the same again for each
        of the first few deletion markers.
        """
        self._check()
        sources: list[_Beside] = [self._memtable, *self._sealed, *self._runs]
        try:
            for _ in range(0 if self._ranges else _MARKERS_PASSED):
                best: tuple[bytes, Found | bytes] | None = None
                for source in sources:
                    pair = source.beside(end if reverse else start, reverse=reverse)
                    # Among equal keys, the first source's is the newest.
                    if pair is not None and (best is None or (pair[0] > best[0] if reverse else pair[0] < best[0])):
                        best = pair
                if best is None or not start <= best[0] < end:
                    return None
                key, kept = best
                found = kept if isinstance(kept, Found) else Found(kept, 0)
                if found.record or erased:
                    return key, found
                start, end = (start, key) if reverse else (key + b"\x00", end)
        except CorruptBlock as block:
            self._note(block.damage)  # it may lie outside the range; a scan decides
        return next(self.scan(start, end, reverse=reverse, erased=erased), None)

    def scan(
        self,
        start: bytes,
        end: bytes | None,
        *,
        reverse: bool = False,
        around_damage: bool = False,
        erased: bool = False,
    ) -> Iterator[tuple[bytes, Found]]:
        """Yield ``(key, Found)`` of ``[start, end)`` in key order (``end=None``: to the last), lazily.

        May pause between steps while updates, flushes and compactions go on: each key comes at most once; a key present at
        the first step and untouched since comes exactly once, with a record that was current at some time since.
        ``CorruptData`` at a damaged range, or sooner if the damage was found after the first step. O(sources) to begin,
        O(log sources) a record and a deletion marker. With ``erased`` deletion markers are yielded too, as empty records,
        so that one step never passes many of them.

        With ``around_damage`` every key in a damaged range is left out instead, readable ones (written since) included.
        Corruption whose keys are unknown (``damaged_in``) leaves out what it took. Such a scan restarts behind each range;
        once the engine is closed it ends there with ``StoreClosed``.
        """
        self._check()
        if around_damage:
            return self._scan_around(start, end, reverse)
        return chain.from_iterable(self._scan(start, end, reverse, erased))

    def window(self, start: bytes, end: bytes, least: int, *, enough_bytes: int, reverse: bool = False) -> Window:
        """Return the first entries of ``[start, end)``, deletion markers among them: see ``raykv.storage.window``.

        For a few records from each of many ranges, and for who keeps them. There may be fewer than ``least``, at least
        one if there is any. ``CorruptData`` if the first one lies in a damaged range.
        """
        self._check()
        if start >= end:
            return Window([], [], None)
        if not self._ranges:
            try:
                return window(
                    [self._memtable, *self._sealed], self._runs, start, end,
                    least=least, enough_bytes=enough_bytes, reverse=reverse,
                )  # fmt: skip
            except CorruptBlock as block:
                self._note(block.damage)
        return self._window_before_damage(start, end, least, reverse=reverse)

    def _window_before_damage(self, start: bytes, end: bytes, least: int, *, reverse: bool) -> Window:
        keys: list[bytes] = []
        found: list[Found | bytes] = []
        reached = None
        try:
            for key, each in itertools.islice(self.scan(start, end, reverse=reverse, erased=True), least):
                keys.append(key)
                found.append(each)
            if len(keys) >= least:
                reached = keys[-1]
        except CorruptData:
            if not keys:
                raise
            reached = keys[-1]
        if reverse:
            keys.reverse()
            found.reverse()
        return Window(keys, found, reached)

    def scan_what_is_left(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, Found]]:
        """Yield ``(key, Found)`` of ``[start, end)`` as they will read once all damage is healed.

        Records in a damaged range may be older than those that were lost there: compare them, never answer with them.
        """
        self._check()
        return chain.from_iterable(self._windows(start, end, reverse=False))

    def sample(self, count: int) -> list[tuple[bytes, int]]:
        """Return about ``count`` keys spread evenly over what is stored, each with the bytes for which it stands.

        Keys from tables are those that begin blocks, as short as sets them apart from the one before. What was overwritten
        or erased counts until compactions have removed it. O(tables + count).
        """
        memtables = [memtable for memtable in [self._memtable, *self._sealed] if memtable.entries]
        tables = [table for run in self._runs for table in run.tables]
        step = 1 + sum(table.blocks for table in tables) // count
        found = [
            (key, step * table.info.size_bytes // table.blocks) for table in tables for key in table.block_keys(step)
        ]
        step = 1 + sum(len(memtable.entries) for memtable in memtables) // count
        for memtable in memtables:
            stands_for = step * memtable.bytes // len(memtable.entries)
            found += [(key, stands_for) for key in itertools.islice(memtable.entries, 0, None, step)]
        return found

    def _scan_around(self, start: bytes, end: bytes | None, reverse: bool) -> Iterator[tuple[bytes, Found]]:
        """Scan one intact stretch after another; ``[start, end)`` is what is left."""
        while stretches := intact(self._ranges, start, end):
            low, high = stretches[-1] if reverse else stretches[0]
            try:
                for key, found in chain.from_iterable(self._windows(low, high, reverse=reverse)):
                    yield key, found
                    if reverse:
                        end = key
                    else:
                        start = key + b"\x00"
            except CorruptData:
                continue  # noted: the next turn skips it
            if reverse:
                end = low
            elif high is None:
                return
            else:
                start = high

    def _scan(
        self, start: bytes, end: bytes | None, reverse: bool, erased: bool
    ) -> Iterator[Iterator[tuple[bytes, Found]]]:
        """Scan up to the first damaged range, and raise there."""
        within = [
            (low, high) for low, high in self._ranges if (end is None or low < end) and (high is None or start < high)
        ]
        if within and reverse:
            edge = max(within, key=lambda pair: (pair[1] is None, pair[1] or b""))[1]
            yield from self._windows(edge, end, reverse=True, erased=erased) if edge is not None else ()
        elif within:
            yield from self._windows(start, within[0][0], reverse=False, erased=erased)
        else:
            yield from self._windows(start, end, reverse=reverse, erased=erased)
        if within:
            at = within[-1] if reverse else within[0]
            raise corrupt(next(d for d in self._damaged if d.start is not None and (d.start, d.end) == at))

    def _windows(
        self, start: bytes, end: bytes | None, *, reverse: bool, erased: bool = False
    ) -> Iterator[Iterator[tuple[bytes, Found]]]:
        if end is not None and start >= end:
            return
        self._check()  # a scan may begin late, or anew: its tables must still be open
        memtables = [self._memtable, *self._sealed]
        tables = [run.overlapping(start, end) for run in self._runs]
        noted = len(self._noted)
        for table in chain.from_iterable(tables):
            table.retain()
        try:
            sources = [memtable.batches(start, end, reverse=reverse) for memtable in memtables]
            sources += [_table_batches(part, start, end, reverse) for part in tables if part]
            for keys, found in merge(sources, reverse=reverse):
                self._check_since(noted, start, end)
                pairs = zip(reversed(keys), reversed(found), strict=True) if reverse else zip(keys, found, strict=True)
                marked = not erased and not all(map(_record_of, found))
                yield (pair for pair in pairs if pair[1].record) if marked else pairs
                if reverse:
                    end = keys[0]
                else:
                    start = keys[-1] + b"\x00"
            self._check_since(noted, start, end)
        except CorruptBlock as block:
            self._note(block.damage)
            raise corrupt(block.damage) from None
        finally:
            for table in chain.from_iterable(tables):
                table.release()

    def _check_since(self, noted: int, start: bytes, end: bytes | None) -> None:
        """Raise if other reads have found corruption in ``[start, end)``: this scan would read the block as empty."""
        for damage in self._noted[noted:]:
            if damage.touches(start, end):
                raise corrupt(damage)


def _table_batches(tables: list[Table], start: bytes, end: bytes | None, reverse: bool) -> Iterator[Batch[Found]]:
    for table in reversed(tables) if reverse else tables:
        for keys, records in table.batches(start, end, reverse=reverse):
            yield keys, [*map(Found, records, repeat(0))]
