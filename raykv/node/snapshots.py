"""A node's part of a snapshot: seal, flush, copy the tables aside. See ``raykv.storage.snapshot`` for the files.

Reads and writes go on. The flush is one that would come anyway; the tables are held open while the copy is made, table after
table on another thread, so that a compaction which replaces them meanwhile takes nothing away.

The node gives a part only if it lacks nothing (P1), also when it has finished: damage that the copy found is in the copy.
What fails in the backup directory is the caller's matter, and no reason to doubt the node's own disk.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from raykv.cluster.backup import MANIFEST, MANIFEST_MAGIC, MANIFEST_VERSION, decode_manifest
from raykv.errors import CorruptData, InvalidOption, StoreClosed
from raykv.protocol import frames as f
from raykv.storage import EngineFailed
from raykv.storage.pruning import is_retired, prune
from raykv.storage.snapshot import Part, TableCopier, part_file, prepare, publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.cluster.state import ClusterState
    from raykv.node.node import NodeSpec
    from raykv.ports import Clock, Executor, FileSystem
    from raykv.replica.handlers import Replica
    from raykv.storage import Engine, HeldTables

logger = logging.getLogger("raykv.node")

LOOK_EVERY_S = 0.01
"""How often the node looks whether its memtable is flushed."""


class _Refused(Exception):
    """No part comes of it, for this reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.answer = f.NodeRefused(reason, message)


class Snapshots:
    """Makes this node's parts of snapshots, one at a time."""

    def __init__(
        self,
        spec: NodeSpec,
        incarnation: int,
        *,
        engine: Engine,
        replica: Replica,
        fs: FileSystem,
        clock: Clock,
        executor: Executor,
        flush: Callable[[], None],
        stopped: Callable[[], bool],
    ) -> None:
        """``flush()`` starts the flush of what is sealed; ``stopped()``: whether the node accepts nothing new."""
        self._spec = spec
        self._incarnation = incarnation
        self._engine = engine
        self._replica = replica
        self._fs = fs
        self._clock = clock
        self._executor = executor
        self._flush = flush
        self._stopped = stopped
        self._one_at_a_time = asyncio.Lock()
        self._at_work: set[asyncio.Task[Any]] = set()
        self.copied = 0, 0
        """Tables copied of the part under way, and how many it has; (0, 0) while there is none."""

    async def copy(self, request: f.CopyTables) -> f.NodeAnswerBody:
        """Answer ``CopyTables``. Raises ``StoreClosed``, ``EngineFailed``."""
        deadline_s = self._clock.monotonic_s() + request.timeout_s
        async with self._one_at_a_time:
            # Its thread reads the tables' files until it ends, whatever becomes of the caller.
            task = asyncio.get_running_loop().create_task(self._copy(request, deadline_s))
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)
            return await asyncio.shield(task)

    async def keep(self, request: f.KeepManifest) -> f.NodeAnswerBody:
        """Answer ``KeepManifest``."""
        try:
            manifest = decode_manifest(request.manifest, "a manifest that was sent")
            if (manifest.store_id, manifest.snapshot) != (self._spec.store_id, request.snapshot):
                return f.NodeRefused("corrupt", "it is the manifest of another snapshot")
            await self._executor.run(partial(self._publish, request))
            return await self._prune(request, manifest.cluster) if request.keep else f.ManifestKept()
        except CorruptData as error:
            return f.NodeRefused("corrupt", str(error))
        except InvalidOption as error:
            return f.NodeRefused("path", str(error))
        except OSError as error:
            return f.NodeRefused("path", _said(request.path, error))

    async def _prune(self, request: f.KeepManifest, state: ClusterState) -> f.ManifestKept:
        """Remove what is older than the snapshots to keep. What fails here costs room alone."""
        known = self._replica.known  # a later one may have members that make parts of their own by now
        states = [state, *([known[0]] if known is not None else [])]
        rings = [ring for each in states for ring in (each.ring, each.goal) if ring is not None]
        members = {member.node_id for ring in rings for member in ring.members}
        work = partial(
            prune, self._fs, request.path, MANIFEST, request.snapshot, request.keep, self._spec.node_id, members
        )
        try:
            async with self._one_at_a_time:
                if self._at_work:
                    # *Schedule without: a caller gives its snapshot up; its part is still being copied, and no file names
                    # yet the tables that are in the pool for it.*
                    await asyncio.wait(self._at_work)
                return f.ManifestKept(*await self._executor.run(work))
        except OSError as error:
            return f.ManifestKept(trouble=_said(request.path, error))

    def _publish(self, request: f.KeepManifest) -> None:
        spec, fs = self._spec, self._fs
        prepare(fs, request.path, spec.store_id, spec.node_id, request.snapshot)
        part = part_file(request.path, request.snapshot, spec.node_id)
        if not fs.exists(part) or is_retired(fs, request.path, request.snapshot, MANIFEST):
            # *Schedule without: this node freezes; later snapshots are taken, and the tables of this one go; it thaws.*
            raise InvalidOption(f"snapshot {request.snapshot} was removed meanwhile", path=request.path)
        publish(
            fs, request.path, request.snapshot, MANIFEST, spec.node_id, MANIFEST_MAGIC, MANIFEST_VERSION, request.manifest
        )  # fmt: skip

    async def _copy(self, request: f.CopyTables, deadline_s: float) -> f.NodeAnswerBody:
        try:
            self._check_complete()
            if f"{request.path}/".startswith(f"{self._spec.path}/"):
                raise _Refused("path", f"{request.path} is within the node's own directory")
            await self._on_the_backup(
                request.path,
                partial(prepare, self._fs, request.path, self._spec.store_id, self._spec.node_id, request.snapshot),
            )
            await self._flushed(deadline_s)
            self._check_complete()
            known = self._replica.known
            if known is None:
                raise _Refused("not yet", "this node knows no state of the cluster yet")
            held = self._engine.hold_tables()
            try:
                return await self._copied(request, held, known[1], deadline_s)
            finally:
                self.copied = 0, 0
                held.release()
        except _Refused as refused:
            return refused.answer

    async def _copied(
        self, request: f.CopyTables, held: HeldTables, state: bytes, deadline_s: float
    ) -> f.NodeAnswerBody:
        spec = self._spec
        copier = await self._on_the_backup(
            request.path, partial(TableCopier, self._fs, held.directory, request.path, spec.node_id)
        )
        checksums = []
        new_tables = new_bytes = 0
        for number, table in enumerate(held.tables):
            self.copied = number, len(held.tables)
            self._check_time(deadline_s, "the copy of its tables")
            copied = await self._on_the_backup(request.path, partial(copier.copy, table))
            checksums.append(copied.checksum)
            new_tables += copied.new
            new_bytes += table.info.size_bytes if copied.new else 0
        self._check_complete()
        part = Part(
            store_id=spec.store_id,
            node_id=spec.node_id,
            snapshot=request.snapshot,
            manifest=held.manifest,
            checksums=tuple(checksums),
        )
        part_bytes, part_checksum = await self._on_the_backup(request.path, partial(copier.write_part, part))
        return f.TablesCopied(
            state=state,
            directory_id=self._replica.directory_id,
            incarnation=self._incarnation,
            log_end=held.log_end,
            part_bytes=part_bytes,
            part_checksum=part_checksum,
            tables=len(held.tables),
            records=sum(table.info.count for table in held.tables),
            table_bytes=sum(table.info.size_bytes for table in held.tables),
            new_tables=new_tables,
            new_bytes=new_bytes,
        )

    async def _flushed(self, deadline_s: float) -> None:
        """Wait until the tables hold everything that the node has by now."""
        through = self._engine.begin_snapshot()
        while not self._engine.flushed(through):
            self._check_time(deadline_s, "its flush")
            self._flush()
            await self._clock.sleep(LOOK_EVERY_S)

    def _check_time(self, deadline_s: float, what: str) -> None:
        if self._stopped():
            raise _Refused("stopping", "the node stops")
        if self._clock.monotonic_s() > deadline_s:
            raise _Refused("overloaded", f"{what} took too long")

    def _check_complete(self) -> None:
        """Refuse while this node lacks anything: what it has below that may have been forgotten elsewhere."""
        if not self._replica.complete or self._engine.damaged:
            raise _Refused(
                "not yet", "this node may lack writes that it acknowledged, until its peers have restored them"
            )

    async def _on_the_backup(self, path: str, work: Callable[[], Any]) -> Any:
        """Run work on the backup directory on another thread. Its errors are refusals, not failures of the node."""
        try:
            return await self._executor.run(work)
        except (InvalidOption, CorruptData) as error:
            raise _Refused("path", str(error)) from None
        except (StoreClosed, EngineFailed):
            raise
        except OSError as error:
            raise _Refused("path", _said(path, error)) from None


def _said(path: str, error: OSError) -> str:
    return f"{error.filename or path}: {error.strerror or error}"
