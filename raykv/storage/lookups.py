"""The reading side of the engine: how the newest record of a key is found, and what corruption does to that.

Reads ask the memtable, the sealed memtables, then the runs from newest to oldest, each behind its Bloom filter. The first
source that has a key has the answer. Corruption that a read meets is noted; its block counts as empty from then on, and its
key range as damaged. ``Scans`` reads ranges, ``Engine`` writes.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from raykv.errors import CorruptData, StoreClosed
from raykv.storage.bloom import probe
from raykv.storage.cache import RecordCache
from raykv.storage.damage import CorruptBlock, Damage, EngineFailed, damaged_ranges, report
from raykv.storage.explaining import look_up
from raykv.storage.memtable import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.config import NodeConfig
    from raykv.storage.cache import BlockCache
    from raykv.storage.explaining import Look
    from raykv.storage.recovery import Recovered
    from raykv.storage.run import Run

FEW = 8
"""Fewer keys than this are looked up one by one."""
RECORDS_SHARE = 4
"""This fraction of the cache (1/4) is for single records; the rest is for blocks."""


class Lookups:
    """The sources of an engine, and the records of single keys. All methods belong to the engine's thread."""

    def __init__(self, config: NodeConfig, recovered: Recovered, cache: BlockCache) -> None:
        """``cache``: that of the blocks; single records get a share of their own."""
        self._age = 0
        """Grows whenever the newest record of a key in the tables may have changed: by a flush, or by corruption found.

        *Schedule without the latter: a record is found and kept, its block is corrupted, and a compaction leaves it
        out; a peer gives it back, and it seems to be there already; the damage is healed, and the next flush shows that
        it is gone.*
        """
        self._hot = RecordCache(config.block_cache_bytes // RECORDS_SHARE)
        self._cache = cache
        self._log = recovered.log
        self._memtable = recovered.memtable
        self._entries = recovered.memtable.entries
        self._sealed = recovered.sealed
        self._runs: list[Run] = recovered.runs
        """Newest first. The list is never changed, only replaced."""
        self._damaged = list(recovered.manifest.damaged)
        self._healed = list(recovered.manifest.healed)
        self._noted: list[Damage] = []
        """All that this run has found, also what is healed by now."""
        self._ranges = damaged_ranges(self._damaged)
        self._unsaved_damage = False
        self._corruption_changes = 0
        self._bloom_negatives = self._hot_hits = 0
        self._closed = False

    def get(self, key: bytes) -> Found | None:
        """Return the record of ``key``. O(1) in the memtable, else O(runs) filters and about one block.

        ``CorruptData`` if the key lies in a damaged range.
        """
        if self._closed or self._log.failure is not None:
            self._refuse()
        if self._ranges:
            self._check_intact(key)
        found = self._entries.get(key)
        if found is None:
            try:
                found = self._find_below(key)
            except CorruptBlock as block:
                self._note(block.damage)
                raise corrupt(block.damage) from None
        return found if found is not None and found.record else None

    def explain(self, key: bytes, now_s: Callable[[], float]) -> list[Look]:
        """Look a key up as ``get`` does; return which sources were asked, and how long each took by the clock ``now_s``.

        ``CorruptData`` if the key lies in a damaged range.
        """
        self._check()
        self._check_intact(key)
        try:
            return look_up(
                key,
                memtable=self._entries,
                sealed=self._sealed,
                kept=lambda key: self._hot.get(key, self._age),
                keep=lambda key, found: self._hot.put(key, found, self._age),
                runs=self._runs,
                cache=self._cache,
                now_s=now_s,
            )
        except CorruptBlock as block:
            self._note(block.damage)
            raise corrupt(block.damage) from None

    def get_many(self, keys: Sequence[bytes]) -> tuple[list[Found | None], list[int]]:
        """Return ``get`` of each key, and the indexes of the keys in damaged ranges."""
        if not self._ranges:
            if self._closed or self._log.failure is not None:
                self._refuse()
            try:
                found: list[Found | None] = self._find_many(keys)
                for index, each in enumerate(found):
                    if each is not None and not each.record:
                        found[index] = None
            except CorruptBlock as block:
                self._note(block.damage)
            else:
                return found, []
        found, unreadable = [None] * len(keys), []
        for index, key in enumerate(keys):
            try:
                found[index] = self.get(key)
            except CorruptData:
                unreadable.append(index)
        return found, unreadable

    def _newest(self, key: bytes) -> Found | None:
        """Return the newest readable record of a key, deletion markers included."""
        found = self._entries.get(key)
        while found is None:
            try:
                return self._find_below(key)
            except CorruptBlock as block:
                self._note(block.damage)  # the block reads as empty from now on, so this ends
        return found

    def _newest_many(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Return ``_newest`` of each."""
        while True:
            try:
                return self._find_many(keys)
            except CorruptBlock as block:
                self._note(block.damage)  # the block reads as empty from now on, so this ends

    def _find_below(self, key: bytes) -> Found | None:
        """Look for ``key`` in everything older than the memtable."""
        for memtable in self._sealed:
            found = memtable.entries.get(key)
            if found is not None:
                return found
        if not self._runs:
            return None
        kept = self._hot.get(key, self._age)
        if kept is not None:
            self._hot_hits += 1
            return kept
        place, mask = probe(key)
        for run in self._runs:
            table = run.only or run.table_for(key)
            if table is None:
                continue
            # ``Bloom.passes``, without a call: an absent key costs little else
            if table.filter_blocks[place * table.filter_count >> 64] & mask != mask:
                self._bloom_negatives += 1
                continue
            misses = self._cache.misses
            record = table.find(key, place)
            if record is not None:
                found = Found(record, 0)
                if self._cache.misses == misses:  # its block was asked for before: it is not cold
                    self._hot.put(key, found, self._age)
                return found
        return None

    def _find_many(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Return the newest record of each key, deletion markers included.

        Sorted, the keys come to each table's blocks in order, and neighbours share one; their filters are asked run by run.
        """
        found: list[Found | None] = [*map(self._entries.get, keys)]
        missing = [index for index, each in enumerate(found) if each is None]
        if len(missing) < FEW:
            for index in missing:
                found[index] = self._find_below(keys[index])
            return found
        for memtable in self._sealed:
            for index in missing:
                found[index] = memtable.entries.get(keys[index])
            missing = [index for index in missing if found[index] is None]
        if not self._runs:
            return found
        missing.sort(key=keys.__getitem__)
        age, hot = self._age, self._hot.get
        left = []
        for index in missing:
            kept = found[index] = hot(key := keys[index], age)
            if kept is None:
                left.append((key, *probe(key), index))
        self._hot_hits += len(missing) - len(left)
        for run in self._runs:
            left = self._find_in_run(run, left, found)
        return found

    def _find_in_run(
        self, run: Run, asked: list[tuple[bytes, int, int, int]], found: list[Found | None]
    ) -> list[tuple[bytes, int, int, int]]:
        """Note the records of the keys asked for (key, probe, index) that this run has; return the others."""
        left = []
        for entry in asked:
            key, place, mask, index = entry
            table = run.only or run.table_for(key)
            if table is not None and table.filter_blocks[place * table.filter_count >> 64] & mask == mask:
                misses = self._cache.misses
                record = table.find(key, place)
                if record is not None:
                    kept = found[index] = Found(record, 0)
                    if self._cache.misses == misses:
                        self._hot.put(key, kept, self._age)
                    continue
            elif table is not None:
                self._bloom_negatives += 1
            left.append(entry)
        return left

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """Unhealed corruption found by recovery, reads and compactions."""
        return tuple(self._damaged)

    def damaged_in(self, start: bytes, end: bytes | None) -> bool:
        """Return whether known corruption may have cost a key in ``[start, end)``. O(damages)."""
        return any(damage.touches(start, end) for damage in self._damaged)

    def check_open(self) -> None:
        """Raise what a read would raise, if the engine has failed or is closed: for who kept what was read."""
        self._check()

    def _note(self, damage: Damage) -> None:
        """Record corruption just found; its block is skipped from now on. Saved before anything overwrites it.

        *Schedule if the cache kept the block: the peers give its records back, all seem to be there already, and nothing
        is written; the damage is healed, the block leaves the cache, and its keys are gone.*
        """
        self._corruption_changes += 1
        self._age += 1
        for table in chain.from_iterable(run.tables for run in self._runs):
            if table.name == damage.file:
                table.skipped |= {damage.offset}
                self._cache.discard_table(table.info.number, table.blocks)
        if any(map(damage.same_place, [*self._damaged, *self._healed])):
            return
        report(damage)
        self._damaged.append(damage)
        self._noted.append(damage)
        self._ranges = damaged_ranges(self._damaged)
        self._unsaved_damage = True

    def _check_intact(self, key: bytes) -> None:
        for damage in self._damaged:
            if damage.start is not None and damage.start <= key and (damage.end is None or key < damage.end):
                raise corrupt(damage)

    def _check(self) -> None:
        if self._closed or self._log.failure is not None:
            self._refuse()

    def _refuse(self) -> None:
        if self._log.failure is not None:
            raise EngineFailed(self._log.failure.message)
        raise StoreClosed("the engine is closed")


def corrupt(damage: Damage) -> CorruptData:
    """Return what a read of a damaged range raises."""
    return CorruptData(f"corrupt data: {damage}", file=damage.file, offset=damage.offset)
