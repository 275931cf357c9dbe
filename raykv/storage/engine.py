"""One node's store: a log-structured merge tree (O'Neil et al. 1996, in the shape that LevelDB gave it).

Writes go to the log and the memtable. A full memtable is sealed, a flush makes a sorted run of it, compactions merge
runs. Reads ask the memtable, the sealed memtables, then the runs from newest to oldest, each behind its Bloom filter.

**The newest record covers the older ones.** ``update`` merges the incoming record with the stored one, by a function
passed in, and keeps the result. The first source that has a key therefore has the answer, and a compaction keeps only
the newest record. The engine knows no versions: a client's delete is a record like any other.

**Deletion markers** are the engine's own: ``erase`` writes an empty record, which covers the older ones and reads as
nothing. It goes once no older record can resurface: with a compaction that reaches the oldest run, or with a flush
when there is no run yet. Erasing is for the node's own use: other nodes may bring the key back.

**Threads.** All methods belong to one thread, the event loop's. Only cold reads, ``finish`` and ``heal`` (a small
manifest) and ``close`` wait for the disk. Long work comes as jobs, whose ``run`` may be called on any thread:

* ``next_sync() -> SyncJob``: one write and one fdatasync for everything appended so far; then ``finish_sync``. Jobs run
  in the order taken, one at a time.
* ``next_job() -> Job``: a flush or a compaction; one flush and a few compactions may be under way. Then ``finish``, or
  ``abandon`` if a step raised.

**Nothing unsynced is seen (P3).** Every answer carries the log position that must be durable before the answer may leave
the node; ``durable_position`` is how far the log is. Records in tables have position 0, and so do records that recovery
replayed and synced.

**Failures.** A failed write or sync of the log, or of the manifest, ends the engine: ``EngineFailed`` from then on.
Corruption costs a key range: reads of it raise ``CorruptData``, writes to it are taken, and it stays in ``damaged`` across
compactions and restarts until ``heal`` reports that the peers have restored everything (P1).

``begin_snapshot`` and ``hold_tables`` serve a backup (``raykv.storage.snapshot``).

Omitted: snapshots to read from, transactions, column families, range deletes (compactions leave out the key ranges that
``drop`` names). How fast jobs go is the caller's: it may pause between their steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from itertools import chain, count, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import msgspec

from raykv.errors import CorruptData, StoreClosed
from raykv.storage import compaction
from raykv.storage import manifest as manifests
from raykv.storage.bloom import probe
from raykv.storage.cache import BlockCache, RecordCache
from raykv.storage.compression import check_available
from raykv.storage.damage import CorruptBlock, Damage, DiskFull, EngineFailed, damaged_ranges, intact, logger, report
from raykv.storage.explaining import look_up
from raykv.storage.jobs import CompactionJob, Drop, FlushJob, Job, Workshop
from raykv.storage.manifest import Manifest, RunInfo, number_of
from raykv.storage.mark import Mark, apart, log_digest
from raykv.storage.memtable import Found, Memtable
from raykv.storage.merge import merge
from raykv.storage.recovery import CORRUPT_SUFFIX, recover, set_aside
from raykv.storage.remote import WORTH_BYTES, HelpedWorkshop
from raykv.storage.run import Run
from raykv.storage.window import Window, window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raykv.config import NodeConfig
    from raykv.ports import FileSystem, Helper
    from raykv.storage.explaining import Look
    from raykv.storage.merge import Batch
    from raykv.storage.sstable import Table
    from raykv.storage.wal import SyncJob


class _Beside(Protocol):
    def beside(self, key: bytes, *, reverse: bool) -> tuple[bytes, Found | bytes] | None: ...


Merge: TypeAlias = Callable[[bytes | None, bytes], bytes]
"""(stored or None, incoming) -> what to keep. Idempotent; never less than what was stored."""

_record_of = attrgetter("record")
MARKER = b""
"""The record of a key that was erased."""
MAX_KEY_BYTES = 4 << 10
MAX_RECORD_BYTES = 16 << 20
CHANGES_PREFIX_BYTES = 2
"""Length of the key prefixes by which ``changes`` are tracked."""
_MARKERS_PASSED = 8
_FEW = 8
"""Fewer keys than this are looked up one by one."""
RECORDS_SHARE = 4
"""This fraction of the cache (1/4) is for single records; the rest is for blocks."""
MAX_COMPACTIONS = 3
"""Compactions under way at once, each of newer and smaller runs than the one before: a large one may take minutes."""
_SEGMENT_FACTOR = 4
"""Updates of few keys fill the log but not the memtable: seal once the segment is this many times the memtable's size."""


class EngineStats(msgspec.Struct, frozen=True):
    """Present sizes, and counts since the engine was opened.

    ``table_records`` includes overwritten records and deletion markers; ``garbage_bytes`` estimates what of ``table_bytes``
    is such; ``wal_bytes`` is what was written to the log, ``bytes_written`` includes the tables.
    """

    memtable_records: int
    memtable_bytes: int
    sealed_memtables: int
    table_records: int
    table_bytes: int
    tables: int
    runs: int
    garbage_bytes: int
    wal_bytes: int
    cache_bytes: int
    cache_hits: int
    cache_misses: int
    bloom_negatives: int
    flushes: int
    compactions: int
    bytes_written: int
    damaged: int
    markers: int = 0
    """Deletion markers in tables."""
    compaction_debt_bytes: int = 0
    """Bytes of tables that are due to be merged next, or being merged."""


class HeldTables(NamedTuple):
    """The tables of an engine at one moment, held open. On the engine's thread, but for the reading of their files."""

    manifest: Manifest
    """Names them: by runs, newest first."""
    tables: tuple[Table, ...]
    directory: str
    """Where their files are."""
    log_end: int
    """How far the log was safe on the disk by then."""

    def release(self) -> None:
        """Let go of them."""
        for table in self.tables:
            table.release()


class Engine:
    """An open store. Use ``Engine.open``. See the module for threads and failures."""

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        config: NodeConfig,
        merge: Merge,
        mark: Mark | None = None,
        run: int = 0,
        owner: str = "",
    ) -> None:
        check_available(config.compression)
        self._fs = fs
        self._directory = directory
        self._config = config
        self._merge = merge
        self._age = 0
        """Grows whenever the newest record of a key in the tables may have changed: by a flush, or by corruption found.

        *Schedule without the latter: a record is found and kept, its block is corrupted, and a compaction leaves it
        out; a peer gives it back, and it seems to be there already; the damage is healed, and the next flush shows that
        it is gone.*
        """
        self._hot = RecordCache(config.block_cache_bytes // RECORDS_SHARE)
        self._cache = BlockCache(config.block_cache_bytes - config.block_cache_bytes // RECORDS_SHARE)
        recovered = recover(fs, directory, config, self._cache, mark, run, owner)
        self._manifest = recovered.manifest
        self._run, self._owner = recovered.manifest.run, owner or recovered.manifest.owner
        self.doubt = recovered.doubt
        """Why this is not the directory that the last run left; empty if it is."""
        self._runs = recovered.runs
        self._log = recovered.log
        self._recovered_ends = recovered.ends
        self._oldest_recovered = recovered.manifest.oldest_segment
        self._memtable = recovered.memtable
        self._entries = recovered.memtable.entries
        self._sealed = recovered.sealed
        for memtable in [self._memtable, *self._sealed]:
            memtable.replaced_bytes = 0  # the log has all of it
        self._workshop = Workshop(fs, directory, config, self._cache, itertools.count(recovered.manifest.next_number))
        self._flush: FlushJob | None = None
        self._merging: list[CompactionJob] = []
        """Compactions under way. Each later one is of runs newer than all of the one before it."""
        self._full_compaction = False
        self._fresh_runs = 0
        self._replaced_bytes = 0
        self._settled: list[Run] | None = None
        """The runs, once it is known that none needs compaction. The list is never changed, only replaced."""
        self._due_ms: int | None = None
        """When that must be asked again all the same."""
        self._damaged = list(recovered.manifest.damaged)
        self._healed = list(recovered.manifest.healed)
        self._unsaved_damage = False
        self._changed: dict[bytes, int] = {}
        self._corruption_changes = 0
        self._noted: list[Damage] = []  # since the engine was opened, also what is healed by now
        self._ranges = damaged_ranges(self._damaged)
        self._closed = False
        self._bloom_negatives = self._hot_hits = self._flushes = self._compactions = self._job_bytes = 0
        self.room_bytes: int | None = None
        """Free space on the disk as far as the node knows: a compaction needs as much as it merges."""
        self.now_ms = 0
        """The wall clock as far as the node has said: deletion markers are merged down at a certain age. 0: unknown."""
        self.drop: Drop | None = None
        """Decides which keys compactions leave out. Called on other threads. Such a key must never be read again: until a
        compaction reaches the oldest run, an older record of it may resurface."""

    @classmethod
    def open(
        cls,
        fs: FileSystem,
        directory: str,
        config: NodeConfig,
        merge: Merge,
        *,
        mark: Mark | None = None,
        run: int = 0,
        owner: str = "",
    ) -> Engine:
        """Recover the store in ``directory`` (made if missing). One engine a directory: hold its lock.

        ``mark``: what an earlier run recorded; ``run``: the last known run; ``owner``: whose data it must be. Where the
        directory falls short of these, ``damaged`` or ``doubt`` says so.

        Raises ``OSError``; ``CorruptData`` if the manifest cannot be read, other corruption is in ``damaged``;
        ``CompressionMissing`` if the configuration or a table needs a package that is not installed.
        """
        return cls(fs, directory, config, merge, mark, run, owner)

    def use_helper(self, helper: Helper, worth_bytes: int = WORTH_BYTES) -> None:
        """Let a process do the work of jobs from ``worth_bytes`` on (``raykv.storage.remote``)."""
        self._workshop = HelpedWorkshop(self._workshop, helper, worth_bytes)

    def begin_run(self, run: int) -> Mark:
        """Record that this run has examined the directory; return what it found, to be kept elsewhere. Two syncs.

        Call it once any doubt has been acted upon: its cause is overwritten.
        """
        self._run = run
        self._save_manifest()
        return self._mark(exact=False)

    def mark(self) -> Mark:
        """Return what a clean stop left. After ``close``."""
        assert self._closed
        return self._mark(exact=True)

    def _mark(self, *, exact: bool) -> Mark:
        start, end = self._manifest.oldest_segment, self._log.synced_end
        through = apart(end)[0] if exact else min(apart(end)[0], self._log.segment - 1)
        return Mark(
            run=self._run,
            exact=exact,
            generation=self._manifest.generation,
            manifest=manifests.checksum(self._manifest),
            log_start=start,
            log_end=end,
            log=log_digest(self._log.digests, start, through),
            log_through=through,
        )

    # ---- records -----------------------------------------------------------------------------------------------

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
            except CorruptBlock as corrupt:
                self._note(corrupt.damage)
                raise _corrupt(corrupt.damage) from None
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
        except CorruptBlock as corrupt:
            self._note(corrupt.damage)
            raise _corrupt(corrupt.damage) from None

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
            except CorruptBlock as corrupt:
                self._note(corrupt.damage)
            else:
                return found, []
        found, unreadable = [None] * len(keys), []
        for index, key in enumerate(keys):
            try:
                found[index] = self.get(key)
            except CorruptData:
                unreadable.append(index)
        return found, unreadable

    def update(self, key: bytes, record: bytes, merge: Merge | None = None) -> Found:
        """Merge ``record`` with the stored one and keep the result if it differs. Costs a ``get``.

        Returns what is kept, with the log position that makes it durable. In a damaged range it merges with what is left.
        ``merge`` replaces the engine's function; the result must be the same (a caller may know more of the record).
        """
        self._check_update(key, record)
        merge = merge or self._merge
        found = self._newest(key)
        if found is None or not found.record:
            kept = merge(None, record)
        else:
            kept = merge(found.record, record)
            if kept == found.record:
                return found
        return self._put(key, kept)

    def update_many(self, keys: Sequence[bytes], records: Sequence[bytes]) -> list[Found]:
        """``update`` of each pair in turn; a batch costs about half. All are checked before the first is kept."""
        for key, record in zip(keys, records, strict=True):
            self._check_update(key, record)
        size_bytes = sum(map(len, keys)) + sum(map(len, records))
        if len(keys) < _FEW or size_bytes > self._config.memtable_bytes // 4 or len({*keys}) < len(keys):
            return [self.update(key, record) for key, record in zip(keys, records, strict=True)]
        merge = self._merge
        result: list[Found | None] = self._newest_many(keys)
        changed: list[int] = []
        kept_records: list[bytes] = []
        for index, (found, record) in enumerate(zip(result, records, strict=True)):
            if found is None or not found.record:
                kept = merge(None, record)
            else:
                kept = merge(found.record, record)
                if kept == found.record:
                    continue
            changed.append(index)
            kept_records.append(kept)
        whole = len(changed) == len(keys)
        stored = self._put_many(keys if whole else [keys[index] for index in changed], kept_records)
        if whole:
            return stored
        for index, kept_found in zip(changed, stored, strict=True):
            result[index] = kept_found
        return [found for found in result if found is not None]

    def replace(self, key: bytes, record: bytes) -> Found:
        """Store ``record`` without merging. Returns what is kept, as ``update`` does. Costs a ``get``."""
        self._check_update(key, record)
        found = self._newest(key)
        return found if found is not None and found.record == record else self._put(key, record)

    def erase(self, key: bytes) -> int:
        """Forget the key. Returns the log position that makes it durable; 0 if it already is. Costs a ``get``.

        Reads show nothing from then on. An absence carries no position, so a reader that must not see it early waits for
        this one. Nothing is written if nothing is stored, except in a damaged range: a record there may become readable
        again.
        """
        self._check()
        if len(key) > MAX_KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes is beyond the engine's limits")
        found = self._newest(key)
        if found is None:
            return self._put(key, MARKER).position if self.damaged_in(key, key + b"\x00") else 0
        return self._put(key, MARKER).position if found.record else found.position

    def _check_update(self, key: bytes, record: bytes) -> None:
        if self._closed or self._log.failure is not None:
            self._refuse()
        if not record or len(key) > MAX_KEY_BYTES or len(record) > MAX_RECORD_BYTES:
            raise ValueError(f"a key of {len(key)} bytes or a record of {len(record)} is beyond the engine's limits")

    def _newest(self, key: bytes) -> Found | None:
        """Return the newest readable record of a key, deletion markers included."""
        found = self._entries.get(key)
        while found is None:
            try:
                return self._find_below(key)
            except CorruptBlock as corrupt:
                self._note(corrupt.damage)  # the block reads as empty from now on, so this ends
        return found

    def _newest_many(self, keys: Sequence[bytes]) -> list[Found | None]:
        """Return ``_newest`` of each."""
        while True:
            try:
                return self._find_many(keys)
            except CorruptBlock as corrupt:
                self._note(corrupt.damage)  # the block reads as empty from now on, so this ends

    def _put(self, key: bytes, kept: bytes) -> Found:
        if self._unsaved_damage:
            # *Schedule without: a write is merged with what is left below a corrupt block, and the node ends before the next
            # manifest. The next run finds that write first and never looks at the block: it takes itself for complete,
            # and shows less than it acknowledged.*
            self._save_manifest()
        log, memtable = self._log, self._memtable
        found = memtable.put(key, kept, log.append(key, kept))
        self._changed[key[:CHANGES_PREFIX_BYTES]] = found.position
        limit = self._config.memtable_bytes
        if memtable.bytes >= limit or log.segment_bytes >= _SEGMENT_FACTOR * limit:
            self._seal()
        return found

    def _put_many(self, keys: Sequence[bytes], kept: list[bytes]) -> list[Found]:
        """``_put`` of each; the keys differ, and together they are far smaller than a memtable."""
        if not keys:
            return []
        if self._unsaved_damage:
            self._save_manifest()
        log, memtable = self._log, self._memtable
        first = log.append_many(keys, kept)
        found = memtable.put_many(keys, kept, first)
        self._changed.update(zip([key[:CHANGES_PREFIX_BYTES] for key in keys], count(first)))
        self._seal_if_full()
        return found

    def _seal_if_full(self) -> None:
        limit = self._config.memtable_bytes
        if self._memtable.bytes >= limit or self._log.segment_bytes >= _SEGMENT_FACTOR * limit:
            self._seal()

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
        except CorruptBlock as corrupt:
            self._note(corrupt.damage)  # it may lie outside the range; a scan decides
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
            except CorruptBlock as corrupt:
                self._note(corrupt.damage)
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
            raise _corrupt(next(d for d in self._damaged if d.start is not None and (d.start, d.end) == at))

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
        except CorruptBlock as corrupt:
            self._note(corrupt.damage)
            raise _corrupt(corrupt.damage) from None
        finally:
            for table in chain.from_iterable(tables):
                table.release()

    def _check_since(self, noted: int, start: bytes, end: bytes | None) -> None:
        """Raise if other reads have found corruption in ``[start, end)``: this scan would read the block as empty."""
        for damage in self._noted[noted:]:
            if damage.touches(start, end):
                raise _corrupt(damage)

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
        if len(missing) < _FEW:
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

    # ---- the log -----------------------------------------------------------------------------------------------

    @property
    def appended_position(self) -> int:
        """The position of the newest update; 0 before the first. Grows for as long as the engine is open."""
        return self._log.appended_position

    @property
    def durable_position(self) -> int:
        """Position up to which finished sync jobs have written the log (to disk, or to the kernel with ``sync=False``)."""
        return self._log.durable_position

    @property
    def durable_end(self) -> int:
        """Where the durable part of the log ends, as a number that grows over all runs of this store.

        Peers keep it, and ask a later run whether it has ``recovered`` everything up to there.
        """
        return self._log.durable_end

    def recovered(self, end: int) -> bool:
        """Return whether recovery found everything that was durable when an earlier run's ``durable_end`` was ``end``.

        It did not if this directory is an older copy, or if the end of the log was lost in a way that looks like a torn
        tail: a power cut before the sync, corruption in the last chunk.
        """
        segment, length = apart(end)
        return segment < self._oldest_recovered or 0 < length <= self._recovered_ends.get(segment, -1)

    def next_sync(self, *, sync: bool = True) -> SyncJob | None:
        """Return a job for everything appended so far; None if nothing waits.

        With ``sync`` (the job will sync), written but unsynced data counts as waiting.
        """
        self._check()
        job = self._log.take(sync=sync)
        if job is not None:
            for memtable in [self._memtable, *self._sealed]:
                job.replaced_bytes += memtable.replaced_bytes
                memtable.replaced_bytes = 0
            self._replaced_bytes += job.replaced_bytes
        return job

    def finish_sync(self, job: SyncJob) -> None:
        """Record a job that has run; ``durable_position`` advances."""
        self._check()
        self._log.finish(job)
        self._replaced_bytes -= job.replaced_bytes

    # ---- flush and compaction ----------------------------------------------------------------------------------

    @property
    def failure(self) -> EngineFailed | None:
        """The failure that ended the engine, or None."""
        return self._log.failure

    def give_up(self, error: DiskFull) -> None:
        """End the engine: the records that found no room in the log are not retried. They were never acknowledged."""
        self._log.failure = EngineFailed(f"the log found no room: {error}")

    @property
    def overloaded(self) -> bool:
        """Whether more than ``max_unflushed_bytes`` wait for a flush. Refuse writes until there is less."""
        return self.unflushed_bytes > self._config.max_unflushed_bytes

    @property
    def unflushed_bytes(self) -> int:
        """Memory that waits for the disk: memtables, and what the log has not written of records that they replaced."""
        memtable = self._memtable
        waiting_bytes = memtable.bytes + memtable.replaced_bytes + self._replaced_bytes
        if self._sealed:
            waiting_bytes += sum(table.bytes + table.replaced_bytes for table in self._sealed)
        return waiting_bytes

    @property
    def pressure(self) -> float:
        """How far flushes and compactions are behind, from 0.0 (not at all) to 1.0.

        The greater of two: memory, from half of ``max_unflushed_bytes`` to all of it, beyond the two memtables that there
        always may be; fresh runs, from twice to six times ``runs_per_level``.
        """
        most = self._config.max_unflushed_bytes
        usual = min(most, max(most // 2, 2 * self._config.memtable_bytes))
        beyond = self.unflushed_bytes - usual
        pressure = beyond / (most - usual) if beyond > 0 and most > usual else 0.0
        if self._fresh_runs > 2 * self._config.runs_per_level:
            pressure = max(pressure, (self._fresh_runs / self._config.runs_per_level - 2) / 4)
        return min(1.0, pressure)

    def newest_compaction(self, job: Job) -> bool:
        """Return whether no compaction of newer runs is under way: those are smaller, and go first."""
        return not self._merging or job is self._merging[-1]

    def next_job(self) -> Job | None:
        """Return a flush or a compaction that is due, or None. O(runs) after they have changed, else O(1).

        A compaction without enough room (``room_bytes``) is not due.
        """
        self._check()
        if self._flush is None and self._sealed:
            oldest = self._sealed[-1]
            assert oldest.last_segment is not None
            if oldest.last_segment <= self._log.sealed_through:  # else its segment is still being written
                self._flush = FlushJob(self._workshop, oldest, self._runs, self.now_ms)
                return self._flush
        if not self._runs:
            return None
        job = self._next_compaction() if not self._merging else self._next_newer_compaction()
        if job is not None:
            self._merging.append(job)
        return job

    def _next_compaction(self) -> CompactionJob | None:
        fully = self._full_compaction and not self._sealed
        if not fully and self._runs is self._settled and (self._due_ms is None or self.now_ms < self._due_ms):
            return None
        infos = [run.info() for run in self._runs]
        if fully:
            task = compaction.everything(infos)
        else:
            task = compaction.pick(infos, self._config, self.now_ms)
            self._settled = self._runs if task is None else None
            self._due_ms = compaction.next_due_ms(infos, self._config)
        return self._job_of(task, fully=fully)

    def _next_newer_compaction(self) -> CompactionJob | None:
        """Return a compaction of runs that have come since the last one under way began: reads ask them all."""
        if self._runs is self._settled or self._full_compaction or len(self._merging) >= MAX_COMPACTIONS:
            return None
        oldest = self._merging[-1].task.parts[0].run
        infos = [run.info() for run in itertools.takewhile(lambda run: run.number != oldest, self._runs)]
        task = compaction.pick_newer(infos, self._config)
        self._settled = self._runs if task is None else None
        return self._job_of(task)

    def _job_of(self, task: compaction.Task | None, *, fully: bool = False) -> CompactionJob | None:
        """Return the job of a task; None if there is no room for its outcome."""
        if task is None:
            return None
        open_tables = {table.info.number: table for run in self._runs for table in run.tables}
        sources = [[open_tables[number] for number in part.tables] for part in task.parts]
        if self.room_bytes is not None and self.room_bytes < sum(
            table.info.size_bytes for table in chain.from_iterable(sources)
        ):
            self._settled = None
            return None
        if fully:
            self._full_compaction = False
        at = next(index for index, run in enumerate(self._runs) if run.number == task.parts[-1].run)
        return CompactionJob(self._workshop, task, sources, self._runs[at + 1 :], self.drop)

    def finish(self, job: Job) -> None:
        """Install the result of a job that has run: add it to the manifest, then remove what it replaced. Two syncs.

        ``DiskFull``: nothing has changed; call it again when there is room.
        """
        self._check()
        tables = job.tables
        assert tables is not None, "finish a job after it has run"
        before = self._runs, self._sealed, self._flush, [*self._merging]
        try:
            if isinstance(job, FlushJob):
                self._finish_flush(job, Run(tables[0].info.number, tables) if tables else None)
            else:
                self._finish_compaction(job, tables)
        except DiskFull:  # no room for the manifest: restore the memory to what the old one says
            self._runs, self._sealed, self._flush, self._merging = before
            raise
        self._job_bytes += sum(table.info.size_bytes for table in tables if table.info.number in job.created)
        self._fresh_runs = sum(1 for run in self._runs if run.size_bytes <= self._config.memtable_bytes)

    def _finish_flush(self, job: FlushJob, outcome: Run | None) -> None:
        assert job is self._flush
        assert job.memtable is self._sealed[-1], "memtables are flushed oldest first"
        self._flush = None
        if outcome is not None:
            self._runs = [outcome, *self._runs]
        self._sealed = self._sealed[:-1]
        self._flushes += 1
        self._age += 1
        before = self._manifest.oldest_segment
        self._save_manifest()
        self._unlink_segments(before, self._manifest.oldest_segment)

    def _unlink_segments(self, first: int, end: int) -> None:
        try:
            names = self._fs.list_directory(self._directory)
        except OSError as error:
            logger.warning("%s: flushed segments are left for the next start: %s", self._directory, error)
            return
        for name in names:
            number = number_of(name, ".wal")
            if number is not None and first <= number < end:
                self._log.digests.pop(number, None)
                self._remove(name)

    def _remove(self, name: str, *, keep: bool = False) -> None:
        """Unlink a file that no longer counts, or with ``keep`` set it aside.

        The manifest that does without it is safe. A file that cannot be removed costs its space until the next start.
        """
        try:
            if keep:
                set_aside(self._fs, self._directory, name)
            else:
                self._fs.unlink(f"{self._directory}/{name}")
        except OSError as error:
            logger.warning("%s/%s is no longer needed, and could not be removed: %s", self._directory, name, error)

    def _finish_compaction(self, job: CompactionJob, outcome: list[Table]) -> None:
        self._merging.remove(job)
        self._runs = self._after(job.task, outcome)
        self._settled = None
        self._compactions += 1
        for damage in job.damages:
            self._note(damage)
        self._save_manifest()
        damaged = [damage.file for damage in self._damaged]
        for table in job.replaced:
            self._cache.discard_table(table.info.number, table.blocks)
            table.release()
            self._remove(table.name, keep=table.name in damaged)

    def _after(self, task: compaction.Task, outcome: list[Table]) -> list[Run]:
        """Return the runs after a compaction. Runs that it does not touch stay the same objects."""
        infos = compaction.apply([run.info() for run in self._runs], task, [table.info for table in outcome], RunInfo)
        tables = {table.info.number: table for table in chain(*(run.tables for run in self._runs), outcome)}
        touched = {part.run for part in task.parts}
        untouched = {run.number: run for run in self._runs if run.number not in touched}
        return [
            untouched.get(info.number) or Run(info.number, [tables[table.number] for table in info.tables])
            for info in infos
        ]

    def abandon(self, job: Job) -> None:
        """Discard a job that raised (a full disk) or is not wanted to its end, and remove its files.

        ``next_job`` offers it again. No step of it may be running.
        """
        self._check()
        assert job is self._flush or job in self._merging
        job.discard()
        if isinstance(job, FlushJob):
            self._flush = None
        else:
            self._merging.remove(job)
            self._settled = None

    def compact_fully(self) -> None:
        """Seal the memtable; once it is flushed, the next compaction merges all runs. For dropped buckets."""
        self._check()
        if self._entries:
            self._seal()
        self._full_compaction = True

    # ---- snapshots ---------------------------------------------------------------------------------------------

    def begin_snapshot(self) -> int:
        """Seal the memtable: once ``flushed`` up to the number returned, the tables hold all updates so far."""
        self._check()
        if self._entries:
            self._seal()
        return self._sealed[0].last_segment or 0 if self._sealed else 0

    def flushed(self, through: int) -> bool:
        """Return whether all memtables up to this number are in tables."""
        self._check()
        return all((memtable.last_segment or 0) > through for memtable in self._sealed)

    def hold_tables(self) -> HeldTables:
        """Return the tables as they are now. Compactions may unlink them meanwhile: their files stay open until released.

        ``StoreClosed``, ``EngineFailed``. O(tables).
        """
        self._check()
        tables = tuple(chain.from_iterable(run.tables for run in self._runs))
        for table in tables:
            table.retain()
        return HeldTables(self._manifest, tables, self._directory, self._log.synced_end)

    def _seal(self) -> None:
        """Set the memtable aside for its flush and begin a new one with a new segment."""
        self._memtable.last_segment = self._log.rotate()
        self._sealed = [self._memtable, *self._sealed]
        self._memtable = Memtable(self._log.segment)
        self._entries = self._memtable.entries

    # ---- damage ------------------------------------------------------------------------------------------------

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """Unhealed corruption found by recovery, reads and compactions."""
        return tuple(self._damaged)

    def damaged_in(self, start: bytes, end: bytes | None) -> bool:
        """Return whether known corruption may have cost a key in ``[start, end)``. O(damages)."""
        return any(damage.touches(start, end) for damage in self._damaged)

    def heal(self, damage: Damage) -> None:
        """Forget ``damage``: the peers have restored all its keys (P1). Its range is readable again.

        Call it once the updates that restored them are durable. Two syncs.
        """
        self._check()
        self._damaged.remove(damage)
        self._corruption_changes += 1
        self._healed.append(damage)
        self._ranges = damaged_ranges(self._damaged)
        try:
            self._save_manifest()
        except DiskFull:
            self._healed.remove(damage)
            self._damaged.append(damage)
            self._ranges = damaged_ranges(self._damaged)
            raise
        aside = damage.file + CORRUPT_SUFFIX
        if self._fs.exists(f"{self._directory}/{aside}") and all(other.file != damage.file for other in self._damaged):
            self._remove(aside)

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

    def check_open(self) -> None:
        """Raise what a read would raise, if the engine has failed or is closed: for who kept what was read."""
        self._check()

    def changes(self, prefix: bytes) -> tuple[int, int]:
        """Return a value that differs after any change in this run under a prefix of ``CHANGES_PREFIX_BYTES``. O(1).

        Records that compactions leave out because they were dropped do not count.
        """
        return self._changed.get(prefix, 0), self._corruption_changes

    def _note(self, damage: Damage) -> None:
        """Record corruption just found; its block is skipped from now on. Saved before anything overwrites it."""
        self._corruption_changes += 1
        self._age += 1
        for table in chain.from_iterable(run.tables for run in self._runs):
            if table.name == damage.file:
                table.skipped |= {damage.offset}
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
                raise _corrupt(damage)

    def _save_manifest(self) -> None:
        """Write the state of the files. A failure ends the engine: it is unknown which manifest is on the disk."""
        infos = tuple(run.info() for run in self._runs)
        numbers = [table.number for run in infos for table in run.tables]
        oldest = min(memtable.first_segment for memtable in [self._memtable, *self._sealed])
        live = {table.name for run in self._runs for table in run.tables}
        self._healed = [
            damage
            for damage in self._healed
            if damage.file in live or oldest <= (number_of(damage.file, ".wal") or 0) <= self._log.segment
        ]
        manifest = Manifest(
            next_number=max([self._manifest.next_number, *(number + 1 for number in numbers)]),
            oldest_segment=oldest,
            runs=infos,
            damaged=tuple(self._damaged),
            healed=tuple(self._healed),
            generation=self._manifest.generation + 1,
            run=self._run,
            log_end=self._log.synced_end,
            owner=self._owner,
        )
        try:
            manifests.save(self._fs, self._directory, manifest)
        except DiskFull:
            raise  # the old manifest stands, and all its files exist
        except OSError as error:
            self._log.failure = EngineFailed(f"the manifest could not be written: {error!r}")
            raise EngineFailed(self._log.failure.message) from error
        self._manifest = manifest
        self._unsaved_damage = False

    # ---- the end -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop cleanly: write and sync everything, and end the log with its last mark. Idempotent. No job may be running."""
        if self._closed:
            return
        try:
            if self._log.failure is None and self._unsaved_damage:
                self._save_manifest()
            self._log.close()
        finally:
            self._closed = True
            for run in self._runs:
                for table in run.tables:
                    table.release()

    def stats(self) -> EngineStats:
        """Return sizes and counts. O(tables)."""
        memtables = [self._memtable, *self._sealed]
        infos = [table.info for run in self._runs for table in run.tables]
        return EngineStats(
            memtable_records=sum(len(memtable.entries) for memtable in memtables),
            memtable_bytes=sum(memtable.bytes for memtable in memtables),
            sealed_memtables=len(self._sealed),
            table_records=sum(info.count for info in infos),
            table_bytes=sum(info.size_bytes for info in infos),
            tables=len(infos),
            runs=len(self._runs),
            garbage_bytes=compaction.garbage_bytes([run.info() for run in self._runs]),
            wal_bytes=self._log.bytes_written,
            cache_bytes=self._cache.used_bytes + self._hot.used_bytes,
            cache_hits=self._cache.hits + self._hot_hits,
            cache_misses=self._cache.misses,
            bloom_negatives=self._bloom_negatives,
            flushes=self._flushes,
            compactions=self._compactions,
            bytes_written=self._log.bytes_written + self._job_bytes,
            damaged=len(self._damaged),
            markers=sum(info.markers for info in infos),
            compaction_debt_bytes=self._compaction_debt_bytes(),
        )

    def _compaction_debt_bytes(self) -> int:
        if self._runs is self._settled:
            return 0
        task = compaction.pick([run.info() for run in self._runs], self._config)
        taken = {number for part in task.parts for number in part.tables} if task is not None else ()
        return sum(table.info.size_bytes for run in self._runs for table in run.tables if table.info.number in taken)

    def _check(self) -> None:
        if self._closed or self._log.failure is not None:
            self._refuse()

    def _refuse(self) -> None:
        if self._log.failure is not None:
            raise EngineFailed(self._log.failure.message)
        raise StoreClosed("the engine is closed")


def _corrupt(damage: Damage) -> CorruptData:
    return CorruptData(f"corrupt data: {damage}", file=damage.file, offset=damage.offset)


def _table_batches(tables: list[Table], start: bytes, end: bytes | None, reverse: bool) -> Iterator[Batch[Found]]:
    for table in reversed(tables) if reverse else tables:
        for keys, records in table.batches(start, end, reverse=reverse):
            yield keys, [*map(Found, records, repeat(0))]
