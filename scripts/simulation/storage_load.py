"""A load on one node's storage, drawn from a seed, and what the storage must hold at every moment of it.

``StorageLoad`` holds a ``NodeDirectory`` and an ``Engine`` on a ``SimDisk``, and does what a storage process does: updates,
replacements, erasures, syncs with and without force, flushes, compactions, full ones, parts of backups, the register, the
promise of completeness, clean stops. Its threads are simulated too: before any operation on the disk another thread may
get its turn. The event loop's goes on while a job is at work; a job goes on while the loop's installs another. Now and then
the process dies or the host loses power: ``before`` says so by raising ``Crashed``, and the next process goes on with what
is left.

Every seed takes its own sizes and its own mixture of steps (swarm testing: Groce et al., ISSTA 2012). Omitted: faults of
the disk and corruption (tests/storage has those), damage and its healing.
"""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import msgspec

from raykv.config import NodeConfig
from raykv.sim.disk import SimDisk
from raykv.storage.pruning import prune
from raykv.storage.snapshot import (
    PART_MAGIC,
    PART_VERSION,
    Part,
    TableCopier,
    prepare,
    publish,
    snapshot_directory,
)
from simulation.legal_disks import seeded
from simulation.storage_promise import (
    BACKUPS,
    DROPPED,
    SNAPSHOT_MANIFEST,
    Promise,
    bare,
    following,
    look,
    merge,
    open_directory,
    open_engine,
    shown_by,
    stamped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raykv.ports import FileSystem
    from raykv.storage import Engine, Job, NodeDirectory, SyncJob

_SHAPES = (*2 * ((6, 500, 4096), (28, 60, 1024), (30, 120, 2048)), (40, 1300, 4096))
"""(keys, bytes of a record at most, bytes of a block): little, so that a recovery is quick; the last makes runs of more
than one table."""
_DROPPED_SHARES = (0.0, 0.0, 0.1, 1.0)
"""The share of updates to dropped keys, for a while: with 1 there will be runs of which a compaction leaves nothing."""
_ERASED_SHARES = (0.0, 0.1, 0.3, 0.9)
"""The share of erasures in the writes, for a while: the last makes runs of little but deletion markers, and empty stores."""
_BATCH_SHARE = 0.15
_REPLACED_SHARE = 0.1
_OLD_SHARE = 0.05
_OLD = 0
"""The version of records that a merge gives up for any other: a replacement keeps them, an update where nothing is."""
_ON_SHARE = 0.7
"""The share of a job's steps that the next one follows at once."""
_PRUNED_SHARE = 0.5
"""The share of snapshots that remove those before."""
_SHARED_SHARE = 0.5
"""The share of snapshots in which another node has a part, so that their directories stay."""
_MAX_SNAPSHOTS = 3
"""Of one load: every recovery reads all parts."""
_MAX_DEPTH = 3
"""How many threads are in the midst of something at once."""


class Crashed(Exception):
    """Ends the process in the midst of what it does; the next finds ``disk``, and ``promise`` is what it must show."""

    def __init__(self, disk: SimDisk, promise: Promise) -> None:
        super().__init__("the process ends here")
        self.disk = disk
        self.promise = promise


class _WithoutLinks:
    """A disk as if the backups stood on another one: tables are copied there."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def link(self, source: str, target: str) -> None:
        """Refuse."""
        raise OSError(errno.EXDEV, "Invalid cross-device link", source, None, target)


class StorageLoad:
    """See the module. ``before(operation, path)`` is called before every operation that changes the disk.

    It sees ``disk`` and ``promise`` as they are then, and may raise ``Crashed``.
    """

    def __init__(self, seed: int, before: Callable[[str, str], None]) -> None:
        self._rng = rng = seeded("load", seed)
        self._before = before
        self._keys, self._record_bytes, block_bytes = rng.choice(_SHAPES)
        self.config = NodeConfig(
            memtable_bytes=4096, table_bytes=16384, max_unflushed_bytes=8192, block_cache_bytes=1 << 16,
            block_bytes=block_bytes, runs_per_level=rng.choice((2, 2, 3)), compression=rng.choice(("lz4", "none")),
            compaction=rng.choice(("tiered", "tiered", "leveled")), level_ratio=rng.choice((2, 4)),
            max_space_amplification=rng.choice((1.1, 1.5, 1000.0)), max_marker_age_s=rng.choice((0.01, 1.0)),
            helper_process=rng.random() < 0.4,
        )  # fmt: skip
        self._weights = [
            weight * rng.choice((0.3, 1, 1, 3))
            for weight in (12, 6, 3, 5, 5, 5, 0.4, 0.8, 1, 1, 0.4, 0.4)
        ]  # fmt: skip
        self._steps = (
            self._write, self._sync, self._take_sync, self._take_job, self._run_job, self._finish_job, self._abandon_job,
            self._compact_fully, self._snapshot, self._save_register, self._save_complete, self._stop,
        )  # fmt: skip
        self._version = 0
        self._snapshots = 0
        self.disk = SimDisk()
        self.promise = Promise({0: {}}, 0, 0, 0, 0, (None,), (None,), {})
        self._begin(self.disk)

    def _begin(self, disk: SimDisk) -> None:
        """Forget the process that was, and let the next begin on ``disk``."""
        self.disk = disk
        disk.on_operation = self._on_operation
        self._directory: NodeDirectory | None = None
        self._engine: Engine | None = None
        self._taken: deque[tuple[SyncJob, bool]] = deque()
        self._syncing = False
        self._synced: tuple[SyncJob, bool] | None = None
        self._due: list[Job] = []
        self._ran: list[Job] = []
        self._positions: list[tuple[int, int]] = []
        self._asked: tuple[int, list[dict[bytes, bytes]]] | None = None
        """A snapshot that waits for its flush: up to which segment, and all contents since it was asked for."""
        self._copying = False
        self._depth = 0
        self._loop_at_work = False
        self._change_mixture()

    def _change_mixture(self) -> None:
        self._dropped_share = self._rng.choice(_DROPPED_SHARES)
        self._erased_share = self._rng.choice(_ERASED_SHARES)

    def run(self, steps: int) -> None:
        """Take this many steps, over as many processes as needed."""
        while steps > 0:
            try:
                if self._engine is None:
                    self._open()
                while steps > 0:
                    steps -= 1
                    self._step(stop_too=True)
            except Crashed as crashed:
                self.promise = crashed.promise
                self._begin(crashed.disk)

    def _step(self, *, stop_too: bool) -> None:
        end = None if stop_too else -1
        self._finish_sync()
        (step,) = self._rng.choices(self._steps[:end], self._weights[:end])
        step()

    # ---- threads ----

    def _on_operation(self, operation: str, path: str) -> None:
        """Give another thread its turn, perhaps; then it is the moment before the operation."""
        if self._engine is not None and self._depth < _MAX_DEPTH and self._rng.random() < 0.2:
            if not self._loop_at_work:
                self._step(stop_too=False)
            elif self._due and self._rng.random() < 0.5:
                self._run_job()
            else:
                self._run_sync()
        self._before(operation, path)

    @contextlib.contextmanager
    def _in_the_midst(self, *, loop: bool) -> Iterator[None]:
        """Others may come in between, but the event loop's thread does one thing at a time."""
        before = self._loop_at_work
        self._loop_at_work = before or loop
        self._depth += 1
        yield  # not in a try: after a crash nothing goes on
        self._depth -= 1
        self._loop_at_work = before

    # ---- steps ----

    @property
    def _running(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def _open(self) -> None:
        promise = self.promise
        identities = (*promise.identities, *map(following, promise.identities))
        self.promise = promise._replace(identities=identities)
        with self._in_the_midst(loop=True):
            directory = open_directory(self.disk)
            self.promise = self.promise._replace(identities=(bare(directory.identity),))
            engine = open_engine(self.disk, self.config, directory)
        found = look(directory, engine, self.disk)
        assert promise.broken_by(found, kernel_lived=True) is None, "the crash points before it would have shown it"
        self.promise = shown_by(found)._replace(identities=(bare(directory.identity),), parts=promise.parts)
        self._directory, self._engine = directory, engine

    def _write(self) -> None:
        rng, engine = self._rng, self._running
        if engine.overloaded:
            self._work()
            return
        if rng.random() < _BATCH_SHARE:
            self._write_batch()
            return
        for _ in range(rng.choice((1, 1, 1, 3, 8))):
            size = rng.randrange(self._record_bytes)
            body = rng.randbytes(size) if rng.random() < 0.9 else bytes(size)
            if rng.random() < self._dropped_share:
                engine.update(DROPPED + b"%03d" % rng.randrange(self._keys), stamped(self._version, body))
                continue
            key = b"%03d" % rng.randrange(self._keys)
            content = self.promise.states[max(self.promise.states)]
            after = dict(content)
            if rng.random() < self._erased_share:
                after.pop(key, None)
                position = engine.erase(key)
            elif rng.random() < _REPLACED_SHARE:
                after[key] = stamped(_OLD, body)
                position = engine.replace(key, after[key]).position
            else:
                record = stamped(_OLD if rng.random() < _OLD_SHARE else self._version + 1, body)
                after[key] = merge(content.get(key), record)
                position = engine.update(key, record).position
            if after != content:  # else nothing was written, and the position is an older one
                self._version += 1
                self.promise.states[self._version] = after
                if self._asked is not None:
                    self._asked[1].append(after)
                self._positions.append((position, self._version))

    def _write_batch(self) -> None:
        rng = self._rng
        numbers = rng.sample(range(self._keys), min(self._keys, rng.choice((4, 9, 12))))
        first = self._version + 1
        keys = [b"%03d" % number for number in numbers]
        records = [
            stamped(_OLD if rng.random() < _OLD_SHARE else first + at, rng.randbytes(rng.randrange(self._record_bytes)))
            for at in range(len(keys))
        ]
        content = self.promise.states[max(self.promise.states)]
        for key, record, found in zip(keys, records, self._running.update_many(keys, records), strict=True):
            after = {**content, key: merge(content.get(key), record)}
            if after != content:
                self._version += 1
                self.promise.states[self._version] = content = after
                if self._asked is not None:
                    self._asked[1].append(after)
                self._positions.append((found.position, self._version))

    def _take_sync(self) -> None:
        sync = self._rng.random() < 0.75
        job = self._running.next_sync(sync=sync)
        if job is not None:
            self._taken.append((job, sync))

    def _sync(self) -> None:
        if not self._taken:
            self._take_sync()
        self._run_sync()

    def _run_sync(self) -> None:
        """Run the job that was taken first; they are run one at a time. The event loop takes note when it is free."""
        if self._syncing or not self._taken:
            return
        self._syncing = True
        job, sync = self._taken.popleft()
        with self._in_the_midst(loop=False):
            job.run(sync)
        self._synced = job, sync
        if not self._loop_at_work:
            self._finish_sync()

    def _finish_sync(self) -> None:
        if self._synced is not None:
            job, sync = self._synced
            self._running.finish_sync(job)
            self._synced, self._syncing = None, False
            self._note_written(job.position, synced=sync)

    def _note_written(self, position: int, *, synced: bool) -> None:
        """All writes up to ``position`` are reported to be in the kernel, or on the disk."""
        end = self._running.durable_end
        written = max([self.promise.written, *(version for at, version in self._positions if at <= position)])
        self.promise = self.promise._replace(written=written, written_end=end)
        if synced:
            states = {version: state for version, state in self.promise.states.items() if version >= written}
            self.promise = self.promise._replace(states=states, durable=written, durable_end=end)
            self._positions = [entry for entry in self._positions if entry[0] > position]

    def _take_job(self) -> None:
        self._running.now_ms += self._rng.choice((1, 1, 10))
        job = self._running.next_job()
        if job is not None:
            self._due.append(job)

    def _run_job(self) -> None:
        if self._due:
            job = self._due.pop(self._rng.randrange(len(self._due)))
            with self._in_the_midst(loop=False):
                done = job.step()
                while not done and self._rng.random() < _ON_SHARE:
                    done = job.step()
            (self._ran if done else self._due).append(job)

    def _finish_job(self) -> None:
        if self._ran:
            job = self._ran.pop(self._rng.randrange(len(self._ran)))
            with self._in_the_midst(loop=True):
                self._running.finish(job)

    def _abandon_job(self) -> None:
        """Give up a job that is done, or under way, or not begun."""
        jobs = self._ran or self._due
        if jobs:
            with self._in_the_midst(loop=True):
                self._running.abandon(jobs.pop())

    def _work(self) -> None:
        """Let the jobs catch up a little."""
        for step in (self._sync, self._take_job, self._run_job, self._finish_job):
            step()

    def _compact_fully(self) -> None:
        if self._running.stats().sealed_memtables > 1:
            self._work()
            return
        self._running.compact_fully()
        self._change_mixture()

    def _snapshot(self) -> None:
        """Seal for a snapshot; once that is flushed, copy the tables aside, on a thread, and sometimes remove older ones."""
        engine = self._running
        if self._asked is None:
            if not self._copying and self._snapshots < _MAX_SNAPSHOTS and engine.stats().sealed_memtables < 2:
                self._asked = engine.begin_snapshot(), [self.promise.states[max(self.promise.states)]]
            return
        through, contents = self._asked
        if not engine.flushed(through):
            self._work()
            return
        self._asked, self._copying = None, True
        self._snapshots += 1
        name = f"20261129T170000Z-{self._snapshots:08x}"
        held = engine.hold_tables()
        fs = cast("FileSystem", _WithoutLinks(self.disk)) if self._rng.random() < 0.5 else self.disk
        with self._in_the_midst(loop=False):
            prepare(fs, BACKUPS, "s", "n1", name)
            copier = TableCopier(fs, held.directory, BACKUPS, "n1")
            checksums = tuple(copier.copy(table).checksum for table in held.tables)
            copier.write_part(
                Part(store_id="s", node_id="n1", snapshot=name, manifest=held.manifest, checksums=checksums)
            )
            if self._rng.random() < _SHARED_SHARE:
                publish(fs, BACKUPS, name, "n2.part", "n2", PART_MAGIC, PART_VERSION, b"")
            self._give_up_unfinished()
            publish(fs, BACKUPS, name, SNAPSHOT_MANIFEST, "n1", PART_MAGIC, PART_VERSION, b"")
        held.release()
        self.promise = self.promise._replace(parts={**self.promise.parts, name: tuple(contents)})
        if self._rng.random() < _PRUNED_SHARE:
            self.promise = self.promise._replace(parts={name: tuple(contents)})
            with self._in_the_midst(loop=False):
                prune(fs, BACKUPS, SNAPSHOT_MANIFEST, name, 1, "n1", ["n1"])
        self._copying = False

    def _give_up_unfinished(self) -> None:
        """Expect no more of snapshots that a crash has cut short: one that is finished after them takes their place."""
        parts = {
            name: contents
            for name, contents in self.promise.parts.items()
            if self.disk.exists(f"{snapshot_directory(BACKUPS, name)}/{SNAPSHOT_MANIFEST}")
        }
        self.promise = self.promise._replace(parts=parts)

    def _save_register(self) -> None:
        assert self._directory is not None
        data = b"register %08d" % self._rng.randrange(10**8) + self._rng.randbytes(self._rng.choice((0, 50)))
        self.promise = self.promise._replace(registers=(*self.promise.registers, data))
        with self._in_the_midst(loop=True):
            self._directory.save_register(data)
        self.promise = self.promise._replace(registers=(data,))

    def _save_complete(self) -> None:
        directory = self._directory
        assert directory is not None
        complete = not directory.identity.complete
        saving = bare(msgspec.structs.replace(directory.identity, complete=complete))
        self.promise = self.promise._replace(identities=(*self.promise.identities, saving))
        with self._in_the_midst(loop=True):
            directory.set_complete(complete)
        self.promise = self.promise._replace(identities=(saving,))

    def _stop(self) -> None:
        """Stop cleanly, as a storage process does, and open again."""
        directory, engine = self._directory, self._running
        assert directory is not None
        with self._in_the_midst(loop=True):
            while self._syncing or self._taken or self._due or self._ran:
                self._run_sync()
                self._finish_sync()
                self._run_job()
                self._finish_job()
            engine.close()
            self._note_written(engine.appended_position, synced=True)
            stopped = bare(msgspec.structs.replace(directory.identity, clean=True))
            self.promise = self.promise._replace(identities=(*self.promise.identities, stopped))
            directory.mark_clean(engine.mark())
            self.promise = self.promise._replace(identities=(stopped,))
        directory.close()
        self._begin(self.disk)
        self._open()
