"""Flushes and compactions: long disk work, separate from the engine so that it can run on another thread.

A job is made on the event-loop thread from immutable input: a sealed memtable, or sorted runs. ``run`` reads and writes
files, syncs each, then syncs the directory. It touches nothing of the engine. ``Engine.finish`` then names the new tables
in the manifest; until that is safe, they are orphans that a recovery removes.

A job whose outcome will be the oldest run leaves deletion markers (empty records) out: there is nothing older to cover.
A compaction leaves dropped keys out and skips corrupt blocks; their ranges are in ``damages`` and go into the same
manifest as its outcome. The tables with corrupt blocks are set aside under another name, not unlinked.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, TypeAlias

from raykv.storage.damage import CorruptBlock
from raykv.storage.merge import merge
from raykv.storage.sstable import Table, table_name
from raykv.storage.sstable_writer import TableWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from raykv.config import NodeConfig
    from raykv.ports import FileSystem
    from raykv.storage.cache import Block, BlockCache
    from raykv.storage.damage import Damage
    from raykv.storage.memtable import Memtable
    from raykv.storage.run import Run

Drop: TypeAlias = "Callable[[bytes], bool]"


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

    def build(self, batches: Iterable[Block], created: list[int]) -> list[Table]:
        """Write ascending batches to new tables of about ``table_bytes``, all safe and open for reading.

        Numbers are noted in ``created`` before their files exist.
        """
        infos = []
        writer: TableWriter | None = None
        try:
            for keys, records in batches:
                if not keys:
                    continue
                if writer is None:
                    created.append(next(self.numbers))
                    writer = TableWriter(self.fs, self.directory, created[-1], self.config)
                writer.add(keys, records)
                if writer.bytes >= self.config.table_bytes:
                    infos.append(writer.finish())
                    writer = None
            if writer is not None:
                infos.append(writer.finish())
                writer = None
        finally:
            if writer is not None:
                writer.abandon()
        if infos:
            self.fs.sync_directory(self.directory)
        try:
            return [Table(self.fs, self.directory, info, self.cache) for info in infos]
        except CorruptBlock as corrupt:  # a new table does not read back: the disk failed, and nothing is lost yet
            raise OSError(errno.EIO, str(corrupt.damage)) from None

    def remove(self, created: list[int]) -> None:
        """Unlink the tables of an abandoned job; one that cannot be unlinked is an orphan for the next recovery."""
        for number in created:
            with contextlib.suppress(OSError):
                self.fs.unlink(f"{self.directory}/{table_name(number)}")


class FlushJob:
    """Turn a sealed memtable into a sorted run."""

    __slots__ = ("_lowest", "_workshop", "created", "memtable", "tables")

    def __init__(self, workshop: Workshop, memtable: Memtable, *, lowest: bool = False) -> None:
        """``lowest``: there is no run yet."""
        assert memtable.last_segment is not None, "only a sealed memtable is flushed"
        self._workshop = workshop
        self._lowest = lowest
        self.memtable = memtable
        self.created: list[int] = []
        self.tables: list[Table] | None = None

    def run(self) -> None:
        """Write the tables. Any thread; raises ``OSError``."""
        batches = self.memtable.sorted_batches()
        self.tables = self._workshop.build(_without_markers(batches) if self._lowest else batches, self.created)


class CompactionJob:
    """Merge neighbouring sorted runs (newest first) into one."""

    __slots__ = ("_drop", "_lowest", "_workshop", "created", "damages", "runs", "tables")

    def __init__(self, workshop: Workshop, runs: list[Run], drop: Drop | None, *, lowest: bool = False) -> None:
        """``lowest``: the oldest run is among them."""
        assert runs
        self._workshop = workshop
        self._drop = drop
        self._lowest = lowest
        self.runs = runs
        self.created: list[int] = []
        self.damages: list[Damage] = []
        self.tables: list[Table] | None = None

    def run(self) -> None:
        """Read, merge, write. Any thread; raises ``OSError``. Memory: some batches of each run."""
        batches = merge([run.stream(self._on_corruption) for run in self.runs])
        if self._drop is not None:
            batches = _without(batches, self._drop)
        if self._lowest:
            batches = _without_markers(batches)
        self.tables = self._workshop.build(batches, self.created)

    def _on_corruption(self, corrupt: CorruptBlock) -> None:
        self.damages.append(corrupt.damage)


def _without(batches: Iterable[Block], drop: Drop) -> Iterator[Block]:
    for keys, records in batches:
        kept = [at for at, key in enumerate(keys) if not drop(key)]
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
