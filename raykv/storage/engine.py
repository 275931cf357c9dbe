"""One node's store: a log-structured merge tree (O'Neil et al. 1996, in the shape that LevelDB gave it).

Writes go to the log and the memtable. A full memtable is sealed, a flush makes a sorted run of it, compactions merge
runs (``raykv.storage.schedule``: which). Reads are in ``raykv.storage.lookups`` and ``scans``.

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

Omitted: snapshots to read from, transactions, column families, range deletes (compactions leave out the buckets that
``drop`` names). How fast jobs go is the caller's: it may pause between their steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from itertools import chain, count
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from raykv.storage import compaction
from raykv.storage import manifest as manifests
from raykv.storage.cache import BlockCache
from raykv.storage.compression import check_available
from raykv.storage.damage import Damage, DiskFull, EngineFailed, damaged_ranges, logger
from raykv.storage.jobs import CompactionJob, FlushJob, Job, Workshop
from raykv.storage.lookups import FEW, RECORDS_SHARE
from raykv.storage.manifest import Manifest, RunInfo, number_of
from raykv.storage.mark import Mark, apart, log_digest
from raykv.storage.memtable import Found, Memtable
from raykv.storage.recovery import CORRUPT_SUFFIX, recover, set_aside
from raykv.storage.remote import WORTH_BYTES, HelpedWorkshop
from raykv.storage.run import Run
from raykv.storage.scans import Scans
from raykv.storage.schedule import CompactionSchedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.config import NodeConfig
    from raykv.ports import FileSystem, Helper
    from raykv.records.dropped import DroppedBuckets
    from raykv.storage.sstable import Table
    from raykv.storage.wal import SyncJob


Merge: TypeAlias = Callable[[bytes | None, bytes], bytes]
"""(stored or None, incoming) -> what to keep. Idempotent; never less than what was stored."""

MARKER = b""
"""The record of a key that was erased."""
MAX_KEY_BYTES = 4 << 10
MAX_RECORD_BYTES = 16 << 20
CHANGES_PREFIX_BYTES = 2
"""Length of the key prefixes by which ``changes`` are tracked."""
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


class Engine(Scans):
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
        cache = BlockCache(config.block_cache_bytes - config.block_cache_bytes // RECORDS_SHARE)
        recovered = recover(fs, directory, config, cache, mark, run, owner)
        super().__init__(config, recovered, cache)
        self._manifest = recovered.manifest
        self._run, self._owner = recovered.manifest.run, owner or recovered.manifest.owner
        self.doubt = recovered.doubt
        """Why this is not the directory that the last run left; empty if it is."""
        self._recovered_ends = recovered.ends
        self._oldest_recovered = recovered.manifest.oldest_segment
        for memtable in [self._memtable, *self._sealed]:
            memtable.replaced_bytes = 0  # the log has all of it
        self._workshop = Workshop(fs, directory, config, cache, itertools.count(recovered.manifest.next_number))
        self._flush: FlushJob | None = None
        self._schedule = CompactionSchedule(config)
        self._fresh_runs = 0
        self._replaced_bytes = 0
        self._changed: dict[bytes, int] = {}
        self._flushes = self._compactions = self._job_bytes = 0
        self.room_bytes: int | None = None
        """Free space on the disk as far as the node knows: a compaction needs as much as it merges."""
        self.now_ms = 0
        """The wall clock as far as the node has said: deletion markers are merged down at a certain age. 0: unknown."""
        self.drop: DroppedBuckets | None = None
        """The buckets whose keys compactions leave out. Such a key must never be read again: until a compaction reaches the
        oldest run, an older record of it may resurface."""

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
        if len(keys) < FEW or size_bytes > self._config.memtable_bytes // 4 or len({*keys}) < len(keys):
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

    def give_up(self, error: Exception) -> None:
        """End the engine: the records that did not get into the log are not retried. They were never acknowledged."""
        if self._log.failure is None:
            found_no_room = isinstance(error, DiskFull)
            what = f"found no room: {error}" if found_no_room else f"could not be written or synced: {error!r}"
            self._log.failure = EngineFailed(f"the log {what}")

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
        return self._schedule.is_newest(job)

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
        task = self._schedule.next(self._runs, self.now_ms, self.room_bytes, flushed=not self._sealed)
        if task is None:
            return None
        open_tables = {table.info.number: table for run in self._runs for table in run.tables}
        sources = [[open_tables[number] for number in part.tables] for part in task.parts]
        at = next(index for index, run in enumerate(self._runs) if run.number == task.parts[-1].run)
        job = CompactionJob(self._workshop, task, sources, self._runs[at + 1 :], self.drop)
        self._schedule.under_way.append(job)
        return job

    def finish(self, job: Job, replaced: list[str] | None = None) -> None:
        """Install the result of a job that has run: add it to the manifest, then remove what it replaced. Two syncs.

        ``replaced`` gets the names of the tables instead, for ``remove``: unlinking hundreds takes seconds.
        ``DiskFull``: nothing has changed; call it again when there is room.
        """
        self._check()
        tables = job.tables
        assert tables is not None, "finish a job after it has run"
        before = self._runs, self._sealed, self._flush, [*self._schedule.under_way]
        try:
            if isinstance(job, FlushJob):
                self._finish_flush(job, Run(tables[0].info.number, tables) if tables else None)
            else:
                self._finish_compaction(job, tables, replaced)
        except DiskFull:  # no room for the manifest: restore the memory to what the old one says
            self._runs, self._sealed, self._flush, self._schedule.under_way = before
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

    def remove(self, names: Sequence[str]) -> None:
        """Unlink tables that ``finish`` has replaced. Any thread; after a crash the next recovery does it."""
        for name in names:
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

    def _finish_compaction(self, job: CompactionJob, outcome: list[Table], replaced: list[str] | None) -> None:
        self._schedule.end(job)
        self._runs = self._after(job.task, outcome)
        self._compactions += 1
        for damage in job.damages:
            self._note(damage)
        self._save_manifest()
        damaged = [damage.file for damage in self._damaged]
        for table in job.replaced:
            self._cache.discard_table(table.info.number, table.blocks)
            table.release()
            if replaced is None or table.name in damaged:
                self._remove(table.name, keep=table.name in damaged)
            else:
                replaced.append(table.name)

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
        assert job is self._flush or job in self._schedule.under_way
        job.discard()
        if isinstance(job, FlushJob):
            self._flush = None
        else:
            self._schedule.abandon(job)

    def compact_fully(self) -> None:
        """Seal the memtable; once it is flushed, the next compaction merges all runs. For dropped buckets."""
        self._check()
        if self._entries:
            self._seal()
        self._schedule.fully = True

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

    def changes(self, prefix: bytes) -> tuple[int, int]:
        """Return a value that differs after any change in this run under a prefix of ``CHANGES_PREFIX_BYTES``. O(1).

        Records that compactions leave out because they were dropped do not count.
        """
        return self._changed.get(prefix, 0), self._corruption_changes

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
            compaction_debt_bytes=self._schedule.debt_bytes(self._runs),
        )
