"""The shell around a replica: it waits for the log in place of the handlers.

Handlers run one after another on the event loop. Their answers are held until the log is durable up to the position that
each depends on (``group_commit``). Long disk work (sync, flush, compaction) runs through the Executor port. When the disk
fails the node stops; recovery reads what is really there.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.config import VERSION, NodeConfig, StoreConfig
from raykv.errors import CorruptData, StoreClosed
from raykv.node.explaining import Explaining
from raykv.node.group_commit import GroupCommit
from raykv.node.opening import open_data
from raykv.node.pace import Pace
from raykv.node.snapshots import Snapshots
from raykv.ports import Known
from raykv.protocol import frames as f
from raykv.protocol.requests import NODE, check_handlers, handled, misfit
from raykv.records.durations import new_histogram
from raykv.repair.maintenance import Maintenance
from raykv.replica.handlers import Replica
from raykv.replica.hints import HintStore
from raykv.replica.leader import Leaders
from raykv.replica.load import LoadMeter
from raykv.storage import DiskFull, EngineFailed, NumbersUsedUp

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Coroutine

    from raykv.ports import Clock, Executor, FileSystem, Helper, Metrics, Transport
    from raykv.storage import Job

logger = logging.getLogger("raykv.node")

JOB_RETRY_S = 1.0
GIVE_WAY_S = 0.02
"""How often a compaction looks whether the newer and smaller one that it waits for is done."""
REMOVED_AT_ONCE = 8
"""So many of the tables that a compaction has replaced are unlinked by one piece of work."""
ROOM_EVERY_S = 0.5
"""How often the node checks its free disk space."""
SMALLEST_SHARE = 16
"""At most this fraction (one part in this many) of a small disk stays reserved."""
ALIVE_EVERY_S = 600.0
BALANCE_EVERY_S = 1.0
"""How often the node looks for partitions of which it is first owner and another one leads."""


class NoMetrics:
    """``ports.Metrics`` that counts nothing."""

    def count(self, name: str, amount: int = 1) -> None:
        """See ``ports.Metrics``."""

    def counted(self) -> dict[str, int]:
        """See ``ports.Metrics``."""
        return {}

    def histogram(self, name: str) -> list[float]:
        """See ``ports.Metrics``."""
        del name
        return new_histogram()

    def histograms(self) -> dict[str, list[int]]:
        """See ``ports.Metrics``."""
        return {}


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The launch parameters of a storage node."""

    store_id: str
    node_id: str
    path: str
    """The node's data directory."""
    store: StoreConfig
    node: NodeConfig = NodeConfig()
    fresh: bool = False
    """The store is being created: an empty directory lacks nothing."""
    known: Known = Known()
    """The last known state of this node."""


class StorageNode:
    """One run (incarnation) of a node: its directory, held under its lock, its engine, its replica."""

    _free_bytes = 0
    """Space left on its disk, as of the last look."""

    def __init__(
        self,
        spec: NodeSpec,
        *,
        fs: FileSystem,
        clock: Clock,
        executor: Executor,
        random: random.Random,
        on_failure: Callable[[str], None],
        lock_note: bytes = b"{}",
        transport: Transport | None = None,
        metrics: Metrics | None = None,
        helper: Helper | None = None,
    ) -> None:
        """Open the directory and recover. Raises ``DirectoryInUse``, ``DirectoryForeign``, ``OSError``, ``CorruptData``.

        ``on_failure(cause)`` is called once when the node can no longer be trusted and must be recreated. ``transport``:
        how it reaches the other nodes; without one it only answers. ``helper``: does large flushes and compactions; without
        one a thread does.
        """
        self.spec = spec
        self._clock = clock
        self._executor = executor
        self._on_failure = on_failure
        self._fs, self._helper = fs, helper
        self._directory, self._engine, self._old = open_data(spec, fs, clock, random, lock_note, helper)
        self.incarnation = self._directory.identity.incarnation
        """The number of this run; grows with every start."""
        self._told_end = f.LogEnd(self._directory.directory_id, self.incarnation, self._engine.durable_end)
        self._told_of = self._directory.identity
        self._hints = HintStore(self._engine, spec.node.max_hint_bytes)
        self._replica = Replica(
            self._engine, self._directory, spec.store, self._hints, clock.wall_ms, random, spec.node.scan_cache_bytes
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._commit = GroupCommit(
            self._engine,
            self,
            clock=clock,
            executor=executor,
            durability=spec.store.durability,
            sync_interval_s=spec.node.sync_interval_s,
        )
        self._load = LoadMeter(
            self._replica.partition_of,
            clock.monotonic_s(),
            lambda bucket_id: self._replica.config_of(bucket_id) is not None,
        )
        self._stopped: str | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._metrics = metrics or NoMetrics()
        self._maintenance: Maintenance | None = None
        self._leaders: Leaders | None = None
        self._snapshots = Snapshots(
            spec,
            self.incarnation,
            engine=self._engine,
            replica=self._replica,
            fs=fs,
            clock=clock,
            executor=executor,
            flush=self._flush_soon,
            stopped=lambda: self.stopped,
        )
        self._pace = Pace(clock, spec.node.compaction_share, lambda: self._engine.pressure, self._ease)
        self._handlers: dict[type[f.Message], Callable[[Any], Awaitable[f.NodeAnswerBody]]] = dict(
            (
                handled(f.Ping, self._pong),
                handled(f.Stop, self._stop_when_asked),
                handled(f.Apply, self._alone),
                handled(f.HandOver, self._alone),
                handled(f.Lead, self._alone),
                handled(f.CopyTables, self._snapshots.copy),
                handled(f.KeepManifest, self._snapshots.keep),
                handled(
                    f.ExplainRequest,
                    Explaining(self.take, self._engine, self._replica, clock, spec.store.partitions).explain,
                ),
            )
        )
        self.look_for_room()
        if transport is not None:
            self._join(transport, random)

    def _join(self, transport: Transport, random: random.Random) -> None:
        """Build what reaches other nodes."""
        maintenance = self._maintenance = Maintenance(
            self.spec.node_id,
            self.incarnation,
            self.spec.node,
            engine=self._engine,
            replica=self._replica,
            hints=self._hints,
            partitions=self.spec.store.partitions,
            transport=transport,
            clock=self._clock,
            metrics=self._metrics,
            random=random,
            durable=self._commit.until_durable,
            superseded=self.fail,
        )
        leaders = self._leaders = Leaders(
            self.spec.node_id,
            self.incarnation,
            replica=self._replica,
            hints=self._hints,
            peers=maintenance.peers,
            clock=self._clock,
            metrics=self._metrics,
            random=random,
            durable=self._commit.until_durable,
            spawn=self.spawn,
        )
        self._handlers |= dict(
            (
                handled(f.Apply, leaders.apply),
                handled(f.HandOver, leaders.hand_over),
                handled(f.Lead, leaders.lead),
            )
        )
        check_handlers(NODE, self._replica.handlers, maintenance.handlers, self._handlers)

    def begin(self) -> None:
        """Start the background work. Call once, on the event loop that serves."""
        assert not self._loops
        loops = [self._watch_room()]
        if self._maintenance is not None:
            loops += [*self._maintenance.loops(), self._note_alive(), self._balance()]
        for work in loops:
            task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
            task.add_done_callback(self._loop_ended)
            self._loops.append(task)

    async def _note_alive(self) -> None:
        while True:
            await self._clock.sleep(min(ALIVE_EVERY_S, self.spec.store.gc_grace_s / 8))
            self._directory.note_alive(self._clock.wall_ms())

    async def _balance(self) -> None:
        while True:
            await self._clock.sleep(BALANCE_EVERY_S)
            if self._leaders is not None and self._stopped is None:
                try:
                    await self._leaders.balance()
                except (CorruptData, DiskFull) as error:
                    logger.error("node %s: %s", self.spec.node_id, error)

    async def _watch_room(self) -> None:
        while True:
            await self._clock.sleep(ROOM_EVERY_S)
            self.look_for_room()
            if self._stopped is None and self._engine.failure is None:
                self.work()  # also without requests: old deletion markers, and what had no room

    def _ease(self) -> float:
        """Return how much of its share background work may take by the present latencies."""
        if self._maintenance is None:
            return 1.0
        return self._maintenance.throttle.bytes_per_s / self.spec.node.background_bytes_per_s

    def look_for_room(self) -> None:
        """Refuse writes while little space is left, not when none is: a flush, a compaction and a delete need room too.

        *Schedule without: three nodes on one disk fill it; each has an update in memory that its log has no room for, and
        none of them may show that key, nor an older record of it, before other files on the disk make room.*
        """
        self._engine.now_ms = self._clock.wall_ms()
        try:
            room = self._fs.room(self.spec.path)
        except OSError as error:
            logger.warning("store %s: node %s: %s", self.spec.store.name, self.spec.node_id, error)
            return
        self._free_bytes = self._engine.room_bytes = room.free_bytes
        kept_bytes = min(self.spec.node.min_free_bytes, room.total_bytes // SMALLEST_SHARE)
        lacking_bytes = kept_bytes - room.free_bytes
        full = lacking_bytes > 0 or self._commit.full is not None
        before = self._replica.no_room
        self._replica.room_for_deletes = self._commit.full is None and room.free_bytes >= kept_bytes // 2
        if self._commit.full is not None and self._commit.full.of_descriptors:
            self._replica.no_room = f"node {self.spec.node_id} has no file descriptor left for {self.spec.path}"
            return
        if isinstance(self._commit.full, NumbersUsedUp):
            self._replica.no_room = (
                f"the log of node {self.spec.node_id} in {self.spec.path} has used up its numbers; replace the node "
                f"(raykv replace-node {self.spec.node_id}): a new one begins anew"
            )
            return
        self._replica.no_room = (
            f"the disk of {self.spec.path} on node {self.spec.node_id} is full: {room.free_bytes} bytes are left, and "
            f"{max(lacking_bytes, 1)} more must be for it to take writes"
            if full
            else ""
        )
        if full and not before:
            logger.error("store %s: %s; it goes on reading", self.spec.store.name, self._replica.no_room)
        elif before and not full:
            logger.info("store %s: node %s has room again", self.spec.store.name, self.spec.node_id)

    @property
    def stopped(self) -> bool:
        """See ``group_commit.Shell``."""
        return self._stopped is not None

    def without_room(self) -> DiskFull:
        """See ``group_commit.Shell``."""
        return DiskFull(errno.ENOSPC, self._replica.no_room or "the disk is full", self.spec.path)

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(f"its maintenance failed with {error!r}")

    @property
    def complete(self) -> bool:
        """Whether it has all that it acknowledged, as far as it knows (P1)."""
        return self._replica.complete and not self._engine.damaged

    @property
    def known(self) -> Known:
        """What others know of this run, if they have received all that it has sent."""
        end = self._log_end()
        return Known(end.incarnation, end.directory_id, end.position)

    @property
    def hints_waiting(self) -> dict[str, int]:
        """Node id -> the number of hints kept for it."""
        return dict(sorted(self._hints.counts.items()))

    @property
    def mended(self) -> dict[str, Any]:
        """Figures of the repairs that it led in this run."""
        return self._maintenance.mended.figures() if self._maintenance is not None else {}

    @property
    def identity(self) -> dict[str, Any]:
        """The directory's identity, as plain data."""
        data: dict[str, Any] = msgspec.to_builtins(self._directory.identity)
        return data

    async def serve(self, frame: bytes) -> bytes:
        """Answer one request frame with an answer frame, once the log holds what the answer depends on."""
        answer = self.take(frame)
        return answer if isinstance(answer, bytes) else await answer

    def take(self, frame: bytes) -> bytes | Coroutine[Any, Any, bytes]:
        """Answer a request frame at once, or return an awaitable of the answer.

        Most client requests wait for nothing; a coroutine and a turn of the event loop would cost more than the answer.
        """
        try:
            request = f.node_requests.decode(frame)
        except CorruptData as error:
            reason = "unknown" if "unknown" in error.details else "corrupt"
            return self._answer(f.NodeRefused(reason, str(error)), heard=False)
        if self._stopped is not None:
            return self._answer(f.NodeRefused("stopping", self._stopped), heard=False)
        heard = False
        try:
            # Before any refusal: a peer that hears from this run replaces its record of the log's end by this run's, and no
            # longer reports the earlier one. *Schedule without: n1 acknowledges writes, and restarts on an old copy of its
            # directory; its first request names the former run, is refused, and n1 stamps the next one.*
            self._compare(request.log_end)
            heard = True
            refusal = self._refusal(request)
            if refusal is not None:
                return self._answer(refusal)
            if wrong := misfit(request.body, self.spec.store.partitions):
                return self._answer(f.NodeRefused("corrupt", wrong))
            traits = NODE[type(request.body)]
            if not traits.client_waits(request.body):
                return self._answer_in_background(request.body)
            began_s = self._clock.monotonic_s()
            if type(request.body) in self._handlers:  # it waits for more than the log
                return self._answer_later(request.body, began_s)
            body, position = self._replica.handle(request.body)
            if position > self._engine.durable_position and not self._commit.safe_now(position):
                return self._answer_when_durable(request.body, body, self._commit.enqueue(position), began_s)
            self._note(request.body, began_s)
            if type(request.body) is f.Write and (held_s := self._pace.held_back_s()):
                return self._answer_held_back(body, held_s)
        except (StoreClosed, EngineFailed, OSError) as error:
            body = self._failed(error)
        return self._answer(body, heard=heard)

    async def _answer_when_durable(
        self, request: f.NodeRequestBody, body: f.NodeAnswerBody, durable: asyncio.Future[None], began_s: float
    ) -> bytes:
        try:
            await durable
            self._note(request, began_s)
            if type(request) is f.Write and (held_s := self._pace.held_back_s()):
                return await self._answer_held_back(body, held_s)
        except (StoreClosed, EngineFailed, OSError) as error:
            body = self._failed(error)
        return self._answer(body)

    async def _answer_held_back(self, body: f.NodeAnswerBody, held_s: float) -> bytes:
        """Answer a write late: flushes or compactions are behind, and its caller is to bring less."""
        await self._clock.sleep(held_s)
        return self._answer(body)

    async def _answer_later(self, request: f.NodeRequestBody, began_s: float) -> bytes:
        """Answer a request for which a client waits, and this node for others."""
        try:
            body = await self._handlers[type(request)](request)
            if self._stopped is None:
                self._note(request, began_s)
            if type(request) is f.Apply and (held_s := self._pace.held_back_s()):
                return await self._answer_held_back(body, held_s)
        except (StoreClosed, EngineFailed, OSError) as error:
            body = self._failed(error)
        return self._answer(body)

    async def _answer_in_background(self, request: f.NodeRequestBody) -> bytes:
        """Answer a request that no client waits for."""
        try:
            kind = type(request)
            if kind in self._replica.handlers:
                body, position = self._replica.handle(request)
                await self._commit.until_durable(position)
            elif kind in self._handlers:
                body = await self._handlers[kind](request)
            elif self._maintenance is not None:
                body = await self._maintenance.answer(request)
            else:
                body = await self._alone(request)
            if self._stopped is None:
                self.work()
        except (StoreClosed, EngineFailed, OSError) as error:
            body = self._failed(error)
        return self._answer(body)

    async def _alone(self, _: f.Message) -> f.NodeAnswerBody:
        return f.NodeRefused("not yet", "this run of the node has no way to reach others")

    async def _pong(self, request: f.Ping) -> f.NodeAnswerBody:
        suspects = [] if self._maintenance is None else self._maintenance.suspects()
        return f.Pong(self._stats() if request.with_stats else None, suspects, self._replica.ballot)

    async def _stop_when_asked(self, _: f.Stop) -> f.NodeAnswerBody:
        await self.stop()
        return f.Pong()

    def _note(self, request: f.NodeRequestBody, began_s: float) -> None:
        """Record an answer to a client, and start the work that it has made due."""
        if self._maintenance is not None:
            now_s = self._clock.monotonic_s()
            self._pace.note(now_s)
            self._maintenance.throttle.note(now_s - began_s, now_s)
            self._load.note(request, now_s - began_s, now_s)
        if NODE[type(request)].work_due:
            self.work()

    def _failed(self, error: Exception) -> f.NodeAnswerBody:
        if isinstance(error, DiskFull):
            return f.NodeRefused("failed", self._replica.no_room or str(error))
        if not isinstance(error, StoreClosed):  # else it was stopped while it was at work
            self.fail(f"its disk failed: {error}")
        return f.NodeRefused("failed", str(error))

    async def stop(self) -> None:
        """Stop cleanly: accept nothing new, finish what is in progress, end the log with its last mark.

        Raises ``EngineFailed``, ``OSError`` if the disk failed on the way. The node has then stopped as well and released
        its directory, which does not record a clean stop: the next run begins a new line (P2).
        """
        if self._stopped is not None:
            return
        self._stopped = "stopped"
        if self._leaders is not None:
            self._leaders.stop()
        for task in self._loops:
            task.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        while self._tasks or self._commit.waiting:
            await asyncio.wait(self._tasks) if self._tasks else await self._clock.sleep(0.001)
        try:
            self._engine.close()
            if self._engine.failure is not None:  # the disk failed while answers waited for the log
                raise EngineFailed(self._engine.failure.message)
            self._directory.mark_clean(self._engine.mark())
        finally:
            if self._helper is not None:
                self._helper.close()  # it holds the directory's lock, too
            self._directory.close()
        logger.info("store %s: node %s stopped", self.spec.store.name, self.spec.node_id)

    def _answer(self, body: f.NodeAnswerBody, *, heard: bool = True) -> bytes:
        """``heard``: whether the request's log end was compared with the log; else the answer carries none either."""
        try:
            return f.node_answers.encode(f.NodeAnswer(self.incarnation, body, self._log_end() if heard else None))
        except CorruptData as error:  # larger than a frame may be
            return f.node_answers.encode(f.NodeAnswer(self.incarnation, f.NodeRefused("corrupt", str(error))))

    def _log_end(self) -> f.LogEnd:
        """Return how far the log is durable, in the form that peers get."""
        end = self._engine.durable_end
        if end != self._told_end.position or self._directory.identity is not self._told_of:  # or in another directory
            self._told_end = f.LogEnd(self._directory.directory_id, self.incarnation, end)
            self._told_of = self._directory.identity
        return self._told_end

    def _compare(self, log_end: f.LogEnd | None) -> None:
        """Compare with what a peer knows of earlier runs of this node: it may have lost what it acknowledged.

        Possible causes: the host lost power, with durability "interval"; the directory is a copy from an earlier time; or
        the last chunk of the log is corrupt, which by itself looks like a torn tail.
        """
        if log_end is None or log_end.directory_id != (own := self._log_end()).directory_id:
            return
        if log_end.incarnation == own.incarnation and log_end.position > own.position:
            # This very run once was further: the machine, memory and all, was set back to an earlier moment (P2).
            self.fail("its machine was rolled back")
        if log_end.incarnation >= own.incarnation:
            return
        if not self._engine.recovered(log_end.position):
            if self._replica.complete:
                logger.error(
                    "store %s: node %s is incomplete: it has lost the end of its log",
                    self.spec.store.name,
                    self.spec.node_id,
                )
            try:
                self._replica.mark_incomplete(stale=self._old)
            finally:
                if self._old:
                    self.fail("its directory is an old copy, and what it holds may be deleted and forgotten elsewhere")

    def _refusal(self, request: f.NodeRequest) -> f.NodeAnswerBody | None:
        if self._stopped is not None:
            return f.NodeRefused("stopping", self._stopped)
        if request.incarnation > self.incarnation:
            # A later run of this node is known. This one must have been frozen and given up (P6).
            self.fail(f"incarnation {request.incarnation} has taken its place")
            return f.NodeRefused("stopping", "superseded")
        if 0 < request.incarnation < self.incarnation:
            return f.NodeRefused("moved", f"incarnation {self.incarnation} runs here")
        return self._replica.outdated(request.epoch, request.body) if request.epoch else None

    def _flush_soon(self) -> None:
        """Start the flush of what is sealed, which waits for the log's sync."""
        self._commit.sync_soon()
        self.work()

    def work(self) -> None:
        """Start the flushes and compactions that are due."""
        if self._engine.overloaded:
            self._commit.sync_soon()
        while (job := self._engine.next_job()) is not None:
            self.spawn(self._run_job(job))

    async def _run_job(self, job: Job) -> None:
        try:
            if not await self._all_steps(job):
                return
        except OSError as error:
            # A full disk. Nothing is lost: the log has it. Meanwhile writes run into max_unflushed_bytes.
            try:
                self._engine.abandon(job)
            except EngineFailed as failed:  # the log has found no room either
                self.fail(str(failed))
                return
            if not self._replica.why_behind:
                logger.error("store %s: node %s: %s", self.spec.store.name, self.spec.node_id, error)
            self._replica.why_behind = f"a flush or compaction fails and is tried again: {error}"
            await self._clock.sleep(JOB_RETRY_S)
        else:
            self._replica.why_behind = ""
            while not await self._finished(job):
                if self._stopped is not None:
                    return
        if self._stopped is None:
            self.work()

    async def _all_steps(self, job: Job) -> bool:
        """Take a job to its end. False if the node stops: a compaction is given up, a flush goes on without rests."""
        began_s = self._clock.monotonic_s()
        while not await self._executor.run(job.step):
            if self._stopped is None:
                began_s = await self._pace.rest(began_s)
            while self._stopped is None and not job.urgent and not self._engine.newest_compaction(job):
                await self._clock.sleep(GIVE_WAY_S)
                began_s = self._clock.monotonic_s()
            if self._stopped is not None and not job.urgent:
                with contextlib.suppress(EngineFailed, StoreClosed):
                    self._engine.abandon(job)
                return False
        return True

    async def _finished(self, job: Job) -> bool:
        """Install the outcome of a job. False to retry it: there was no room for the manifest."""
        replaced: list[str] = []
        try:
            self._engine.finish(job, replaced)
        except DiskFull:
            self.look_for_room()
            await self._clock.sleep(JOB_RETRY_S)
            return False
        except (EngineFailed, OSError, StoreClosed) as error:
            self.fail(f"a flush or compaction could not be installed: {error}")
        for at in range(0, len(replaced), REMOVED_AT_ONCE):
            await self._executor.run(partial(self._engine.remove, replaced[at : at + REMOVED_AT_ONCE]))
        return True

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """See ``group_commit.Shell``."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._work_ended)

    def _work_ended(self, task: asyncio.Task[None]) -> None:
        """Fail with what ends work unforeseen, such as a thread that cannot be started: what it was for never comes.

        *Schedule without: a flush ends so and stays under way, no other begins, and the node refuses writes for good.*
        """
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self.fail(f"its work in the background failed with {error!r}")
            task.get_loop().call_exception_handler(
                {"message": "work of a node in the background failed", "exception": error, "task": task}
            )

    def fail(self, cause: str) -> None:
        """Stop, and have this run recreated: it can no longer be trusted."""
        if self._stopped is None:
            self._stopped = cause
            logger.error("store %s: node %s stops: %s", self.spec.store.name, self.spec.node_id, cause)
            self._on_failure(cause)

    def _stats(self) -> dict[str, Any]:
        stats = self._engine.stats()
        return {
            "node_id": self.spec.node_id,
            "raykv": VERSION,
            "incarnation": self.incarnation,
            "complete": self._replica.complete,
            "disk": {
                "path": self.spec.path,
                "free_bytes": self._free_bytes,
                "full": self._replica.no_room,
                "failing": self._replica.why_behind,
            },
            "damage": [str(damage) for damage in self._engine.damaged],
            "backup": self._snapshots.copied,
            **(self._maintenance.figures() if self._maintenance is not None else {}),
            "load": self._load.figures(self._clock.monotonic_s()),
            "latencies": self._load.latencies(),
            "large": self._load.largest(),
            "leading": self._leaders.leading if self._leaders is not None else 0,
            "counters": self._metrics.counted(),
            "groups": self._replica.groups.figures(self._clock.monotonic_s()),
            "records": stats.memtable_records + stats.table_records,
            "disk_bytes": stats.table_bytes + stats.memtable_bytes,
            **msgspec.to_builtins(stats),
        }
