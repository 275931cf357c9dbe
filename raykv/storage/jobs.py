"""Flushes and compactions: long disk work, separate from the engine so that it can run on another thread.

A job is made on the event-loop thread from immutable input: a sealed memtable, or tables of sorted runs. It goes in
*steps* of some hundred kilobytes, so that the node can pause between two of them; ``run`` takes them all. Steps read and
write files, sync each, then sync the directory. They touch nothing of the engine. ``Engine.finish`` then names the new
tables in the manifest; until that is safe, they are orphans that a recovery removes.

A job whose outcome will be part of the oldest run leaves deletion markers (empty records) out: there is nothing older to
cover. A compaction leaves the keys of dropped buckets out and skips corrupt blocks; the ranges of these are in
``damages`` and go into the same manifest as its outcome. The tables with corrupt blocks are set aside under another
name, not unlinked.

A table that overlaps no other of a compaction is not rewritten, unless it is small or holds something to leave out: it
stays the same file, and only its place in the manifest changes.

``covers`` of a new table is estimated from a sample of its keys, by the filters of the older runs.
"""

from __future__ import annotations

import contextlib
import errno
import math
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from raykv.storage.bloom import probe
from raykv.storage.compaction import ASKED_FOR
from raykv.storage.damage import CorruptBlock
from raykv.storage.merge import merge
from raykv.storage.sstable import Table, TableInfo, table_name
from raykv.storage.sstable_writer import TableWriter

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from raykv.config import NodeConfig
    from raykv.ports import FileSystem
    from raykv.records.dropped import DroppedBuckets
    from raykv.storage.cache import Block, BlockCache
    from raykv.storage.compaction import Task
    from raykv.storage.damage import Damage
    from raykv.storage.memtable import Memtable
    from raykv.storage.run import Run

STEP_BYTES = 96 << 10
"""About what a step writes: some milliseconds of work."""
_SLICE_KEYS = 512
_SAMPLE_KEYS = 256
"""Between this and half as many keys of a table are looked up to estimate what it covers."""
_MOVED_SHARE = 4
"""A table of less than this part (a quarter) of ``table_bytes`` is merged even if it overlaps no other: files are few."""
_UNSURE = 0.5
"""Filters that pass more absent keys than this tell nothing."""


class _Sample:
    """Some of the keys that went by, evenly spread."""

    __slots__ = ("_every", "keys")

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self._every = 1

    def add(self, keys: Sequence[bytes]) -> None:
        self.keys += keys[:: self._every]
        while len(self.keys) > _SAMPLE_KEYS:
            self.keys = self.keys[::2]
            self._every *= 2


def share_in(keys: Sequence[bytes], runs: Sequence[Run], bits_per_key: int) -> float:
    """Return the share of ``keys`` that one of ``runs`` holds, about; negative if the filters cannot tell.

    O(keys x runs). Any thread.
    """
    wrong = 1 - (1 - (1 - math.exp(-7 / bits_per_key)) ** 7) ** len(runs)
    if wrong > _UNSURE:
        return -1.0
    found = 0
    for key in keys:
        key_probe = probe(key)
        for run in runs:
            table = run.table_for(key)
            if table is not None and table.filter.passes(key_probe):
                found += 1
                break
    return max(0.0, (found / len(keys) - wrong) / (1 - wrong))


class Built(msgspec.Struct, frozen=True, array_like=True):
    """A new table, synced, and some of its keys."""

    info: TableInfo
    sample: list[bytes]


Building: TypeAlias = "Generator[None, None, list[Built]]"
"""Builds tables; pauses at the end of each step."""


class Workshop:
    """Builds tables for jobs; has the disk, the directory and the next numbers."""

    __slots__ = ("cache", "config", "directory", "fs", "numbers")

    def __init__(
        self, fs: FileSystem, directory: str, config: NodeConfig, cache: BlockCache, numbers: Iterator[int]
    ) -> None:
        self.fs = fs
        self.directory = directory
        self.config = config
        self.cache = cache
        self.numbers = numbers  # an itertools.count: its next() is one step, so two jobs may share it

    def flush(self, memtable: Memtable, created: list[int], *, lowest: bool, since_ms: int) -> Building:
        """Write a sealed memtable. ``lowest``, ``since_ms``: see ``build``."""
        return self.build(memtable.sorted_batches(), created, lowest=lowest, since_ms=since_ms)

    def merge(
        self,
        sources: Sequence[Sequence[Table]],
        created: list[int],
        damages: list[Damage],
        *,
        drop: DroppedBuckets | None,
        lowest: bool,
        since_ms: int,
    ) -> Building:
        """Merge tables, newest source first. Corrupt blocks are left out and noted in ``damages``."""

        def note(corrupt: CorruptBlock) -> None:
            damages.append(corrupt.damage)

        streams = [chain.from_iterable(table.stream(note) for table in tables) for tables in sources if tables]
        batches = merge(streams)
        if drop is not None:
            batches = _without(batches, drop)
        return self.build(batches, created, lowest=lowest, since_ms=since_ms)

    def build(self, batches: Iterable[Block], created: list[int], *, lowest: bool, since_ms: int) -> Building:
        """Write ascending batches to new tables of about ``table_bytes``, each synced.

        Numbers are noted in ``created`` before their files exist. ``lowest``: nothing older lies below the outcome, so
        deletion markers are left out; ``since_ms``: the age of the oldest one.
        """
        built: list[Built] = []
        writer: TableWriter | None = None
        sample, markers, done_bytes = _Sample(), 0, 0
        try:
            for keys, records in _in_slices(_without_markers(batches) if lowest else batches):
                if writer is None:
                    created.append(next(self.numbers))
                    writer = TableWriter(self.fs, self.directory, created[-1], self.config)
                    sample, markers, done_bytes = _Sample(), 0, 0
                before = writer.bytes
                writer.add(keys, records)
                sample.add(keys)
                markers += records.count(b"")
                done_bytes += writer.bytes - before
                if writer.bytes >= self.config.table_bytes:
                    built.append(_built(writer, sample, markers, since_ms))
                    writer = None
                    done_bytes = STEP_BYTES
                if done_bytes >= STEP_BYTES:
                    done_bytes = 0
                    yield
            if writer is not None:
                built.append(_built(writer, sample, markers, since_ms))
                writer = None
        finally:
            if writer is not None:
                writer.abandon()
        return built

    def open(self, built: Sequence[Built], older: Sequence[Run]) -> list[Table]:
        """Make the names of new tables safe, and open them. ``older``: the runs below them, for ``covers``."""
        if built:
            self.fs.sync_directory(self.directory)
        tables: list[Table] = []
        try:
            with contextlib.ExitStack() as unless_all:  # short of descriptors, the first ones would stay open for good
                for each in built:
                    tables.append(Table(self.fs, self.directory, self._counted(each, older), self.cache))
                    unless_all.callback(tables[-1].release)
                    if tables[-1].filter_lost:
                        raise OSError(errno.EIO, f"the filter of {tables[-1].name} does not read back")
                unless_all.pop_all()
        except CorruptBlock as corrupt:  # a new table does not read back: the disk failed, and nothing is lost yet
            raise OSError(errno.EIO, str(corrupt.damage)) from None
        return tables

    def _counted(self, built: Built, older: Sequence[Run]) -> TableInfo:
        share = share_in(built.sample, older, self.config.bloom_bits_per_key)
        covers = -1 if share < 0 else round(share * built.info.count)
        return msgspec.structs.replace(built.info, covers=covers)

    def remove(self, created: list[int]) -> None:
        """Unlink the tables of an abandoned job; one that cannot be unlinked is an orphan for the next recovery."""
        for number in created:
            with contextlib.suppress(OSError):
                self.fs.unlink(f"{self.directory}/{table_name(number)}")


def _built(writer: TableWriter, sample: _Sample, markers: int, since_ms: int) -> Built:
    info = msgspec.structs.replace(writer.finish(), markers=markers, since_ms=since_ms if markers else 0)
    return Built(info, sample.keys)


class _Stepwise:
    """Work in steps. ``created`` are the numbers of its new files; ``tables`` the outcome, once it is done."""

    __slots__ = ("_steps", "_workshop", "created", "tables")
    urgent = False
    """Whether memory waits for it."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._steps: Iterator[None] | None = None
        self.created: list[int] = []
        self.tables: list[Table] | None = None

    def step(self) -> bool:
        """Do the next part; return whether all is done. Any thread, one at a time; raises ``OSError``."""
        if self._steps is None:
            self._steps = self._work()
        if self.tables is None:
            next(self._steps, None)
        return self.tables is not None

    def run(self) -> None:
        """Do all that is left."""
        while not self.step():
            pass

    def discard(self) -> None:
        """Close and remove what it has made so far. No step may be running."""
        if self._steps is not None:
            self._steps.close()  # type: ignore[attr-defined]
        for table in self.tables or ():
            if table.info.number in self.created:
                table.release()
        self._workshop.remove(self.created)

    def _work(self) -> Iterator[None]:
        raise NotImplementedError


class FlushJob(_Stepwise):
    """Turn a sealed memtable into a sorted run."""

    __slots__ = ("_now_ms", "_older", "memtable")
    urgent = True

    def __init__(self, workshop: Workshop, memtable: Memtable, older: Sequence[Run] = (), now_ms: int = 0) -> None:
        """``older``: all runs; ``now_ms``: wall clock, 0: not known."""
        super().__init__(workshop)
        assert memtable.last_segment is not None, "only a sealed memtable is flushed"
        self._older = older
        self._now_ms = now_ms
        self.memtable = memtable

    def _work(self) -> Iterator[None]:
        built = yield from self._workshop.flush(
            self.memtable, self.created, lowest=not self._older, since_ms=self._now_ms
        )
        self.tables = self._workshop.open(built, self._older)


class CompactionJob(_Stepwise):
    """Merge tables of neighbouring sorted runs into the oldest of them. ``sources``: newest first, as in the task."""

    __slots__ = ("_drop", "_older", "damages", "sources", "task")

    def __init__(
        self,
        workshop: Workshop,
        task: Task,
        sources: list[list[Table]],
        older: Sequence[Run],
        drop: DroppedBuckets | None,
    ) -> None:
        """``older``: the runs below those of the task; none: the outcome is the end of the store."""
        super().__init__(workshop)
        assert any(sources)
        self._drop = drop
        self._older = older
        self.task = task
        self.sources = sources
        self.damages: list[Damage] = []

    @property
    def replaced(self) -> list[Table]:
        """The tables that the outcome does not contain. Once it is done."""
        kept = {table.info.number for table in self.tables or ()}
        return [table for table in chain.from_iterable(self.sources) if table.info.number not in kept]

    def _work(self) -> Iterator[None]:
        moved: list[Table] = []
        built: list[Built] = []
        markers = [table.info.since_ms for table in chain.from_iterable(self.sources) if table.info.markers]
        for stretch, unchanged in self._stretches():
            if unchanged:
                moved += stretch[0]
            else:
                built += yield from self._workshop.merge(
                    stretch, self.created, self.damages,
                    drop=self._drop, lowest=not self._older, since_ms=min(markers, default=0),
                )  # fmt: skip
        opened = self._workshop.open(built, self._older)
        self.tables = sorted([*moved, *opened], key=lambda table: table.info.smallest)

    def _stretches(self) -> Iterator[tuple[list[list[Table]], bool]]:
        """Yield the work in key order: (tables of each source, whether it is one table that stays as it is)."""
        ascending = sorted(
            ((table, source) for source, tables in enumerate(self.sources) for table in tables),
            key=lambda pair: pair[0].info.smallest,
        )
        groups: list[list[tuple[Table, int]]] = []  # each overlaps no other
        largest = b""
        for table, source in ascending:
            if groups and table.info.smallest <= largest:
                groups[-1].append((table, source))
            else:
                groups.append([(table, source)])
            largest = max(largest, table.info.largest)
        merging: list[list[Table]] = [[] for _ in self.sources]
        for group in groups:
            if len(group) == 1 and self._stays(group[0][0]):
                if any(merging):
                    yield merging, False
                    merging = [[] for _ in self.sources]
                yield [[group[0][0]]], True
            else:
                for table, source in group:
                    merging[source].append(table)
        if any(merging):
            yield merging, False

    def _stays(self, table: Table) -> bool:
        """Whether a table that overlaps no other need not be written anew."""
        return (
            self._drop is None
            and self.task.reason != ASKED_FOR
            and table.info.size_bytes >= self._workshop.config.table_bytes // _MOVED_SHARE
            and not (table.info.markers and not self._older)
            and not table.skipped
            and not table.filter_lost
        )


def _in_slices(batches: Iterable[Block]) -> Iterator[Block]:
    """Cut batches into small ones: a window of a merge may be a megabyte."""
    for keys, records in batches:
        for at in range(0, len(keys), _SLICE_KEYS):
            yield keys[at : at + _SLICE_KEYS], records[at : at + _SLICE_KEYS]


def _without(batches: Iterable[Block], drop: DroppedBuckets) -> Iterator[Block]:
    for keys, records in batches:
        kept = [at for at, key in enumerate(keys) if not drop.covers(key)]
        if len(kept) == len(keys):
            yield keys, records
        else:
            yield [keys[at] for at in kept], [records[at] for at in kept]


def _without_markers(batches: Iterable[Block]) -> Iterator[Block]:
    for keys, records in batches:
        if all(records):
            yield keys, records
        else:
            kept = [at for at, record in enumerate(records) if record]
            yield [keys[at] for at in kept], [records[at] for at in kept]


Job: TypeAlias = FlushJob | CompactionJob
