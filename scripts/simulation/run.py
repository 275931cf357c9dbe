"""One run of a scenario: faults first, then everything heals, and what is left is compared.

**Phase one**: clients run their programs while the nemesis is at work. All answers to them must be true.
**Phase two**: nothing fails any more. In bounded virtual time every node must be up that can be, every operation must
have come to its end, incomplete nodes must have become complete, no hint may wait, a repair must leave all copies
equal though nobody reads them, and every key must be readable from all of them.
Then the store is stopped; no task may be left behind, and no exception that nobody handled.

Beside the history (``checkers``) these are watched: no two runs of a node change its disk at once (P6), every state of
the cluster that is handed out is on a majority of disks and the only one of its number (P5).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.cluster.state import DEFAULT_BUCKET, decode_state
from raykv.config import quorum
from raykv.errors import RaykvError, StoreClosed
from raykv.protocol import frames as f
from raykv.protocol.requests import NODE, name_of
from raykv.records.keys import encode_key, is_private
from raykv.records.record import stamp_of
from raykv.ring import partition_in
from raykv.sim.cluster import COORDINATOR, DIRECT, SUPERVISOR, Cluster, SimMetrics
from raykv.sim.kernel import Process, run_virtual
from raykv.sim.trace import Event
from raykv.storage import EngineFailed
from raykv.versions import dead_since_ms
from simulation.batching import BatchingCluster
from simulation.blocking_link import BLOCKING, blocking_session
from simulation.change_checker import check_changes
from simulation.change_workload import LINEAR_BUCKET, ChangeClient
from simulation.checkers import check_buckets, check_history
from simulation.disk_state import ballot_on_disk
from simulation.fleeting import check_fleeting, lasting_keys
from simulation.health import EVERY_S, Health
from simulation.history import History, Violation
from simulation.leader_nemesis import LeaderNemesis
from simulation.leader_watch import LeaderWatch
from simulation.lock_checker import check_locks
from simulation.promises import Promises
from simulation.rig_faults import RigFaults
from simulation.scenario import Scenario
from simulation.workload import LOOSE_BUCKET, PLAIN_BUCKET, TTL_PREFIX, Buckets, Client, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.client.aio import AsyncBucket
    from raykv.cluster.state import ClusterState
    from raykv.config import BucketConfig
    from raykv.node.node import StorageNode
    from raykv.sim.kernel import VirtualLoop
    from raykv.versions.context import Context

AFTERWARDS_S = 3.0
"""How long clients go on after all has healed."""
CLIENTS_DONE_S = 120.0
UP_AGAIN_S = 90.0
READABLE_S = 30.0
SETTLED_S = 200.0
MENDED_S = 120.0
REPAIRED_S = 60.0
LONG_GRACE_S = 3600.0
"""With a grace longer than this nothing is purged in a run."""
DRAINED_S = 30.0
MOST_SENT = 150
"""More often than an operation that takes all of its time repeats a write to one node: every 50 ms."""
_LOSSY = (
    "log: node %s answers again, though too few others are intact: acknowledged writes of %d partitions may be lost"
)
_COMPLETE_AGAIN = "node %s is complete again"
_FORGOTTEN = "log: store %s: nothing can be read or decided any more: %s"
_WHATEVER_IS_LOST = {
    "client failed", "copies differ", "handed out too early", "hints left", "left behind", "never served", "not done",
    "not completed", "not repaired", "not replaced", "not settled", "not up again", "two states", "two writers",
    "unreadable", "unwritable",
}  # fmt: skip
_WRITE, _HINT = f.Write.__name__.encode(), f.Hint.__name__.encode()
_CLEAR, _RESERVE = f.DropUnowned.__name__.encode(), f.ReserveDots.__name__.encode()
_SENT_BY = {
    sender: {name_of(kind) for kind, traits in NODE.items() if sender in traits.senders}
    for sender in ("coordinator", "node", "supervisor")
}
"""Sender -> the names of its possible requests to a node."""
_WRITE_WITHIN = 40
"""Where a request says what it is: not every frame is decoded to find the writes."""


class Outcome(msgspec.Struct, kw_only=True):
    """What became of a run."""

    seed: int
    violations: list[Violation]
    trace_hash: str
    virtual_s: float
    operations: int
    events: int
    counts: dict[str, int]
    history: History | None = None
    trace: list[Event] = []
    scenario: Scenario | None = None


def run(scenario: Scenario, *, keep: bool = False, strict: bool = True) -> Outcome:
    """Run a scenario to its end. ``keep``: keep history and trace, for those who want to look.

    ``strict=False``: demand of any levels what strict quorums promise (see ``checkers``).
    """
    heard = _LogCounter()
    logger = logging.getLogger("raykv")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(heard)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        runner, loop = run_virtual(lambda loop: _Run(loop, scenario, strict, heard).go())
    finally:
        logger.removeHandler(heard)
        logger.setLevel(level)
        logger.propagate = propagate
    violations = runner.violations + [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    cluster = runner.cluster
    return Outcome(
        seed=scenario.seed,
        violations=violations,
        trace_hash=cluster.trace.hexdigest(),
        virtual_s=loop.now_s,
        operations=len(runner.history.ops) + len(runner.history.changes),
        events=cluster.trace.count,
        counts=dict(sorted((cluster.counts + heard.counts).items())),
        history=runner.history if keep else None,
        trace=list(cluster.trace.events) if keep else [],
        scenario=scenario if keep else None,
    )


class _LogCounter(logging.Handler):
    """Counts what the core says, by the text before its arguments are filled in."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.counts: Counter[str] = Counter()
        self.runs: Callable[[str], bool] = lambda _: False
        """Says whether a node's process runs, and is not frozen."""
        self.complete_again: Callable[[str], None] = lambda _: None
        """Called with the id of a node that has become complete again."""

    def emit(self, record: logging.LogRecord) -> None:
        """Count."""
        self.counts[f"log: {record.msg}"] += 1
        if record.msg.startswith("node %s suspected") and isinstance(record.args, tuple):
            self.counts["false suspicions"] += self.runs(str(record.args[0]))
        if record.msg == _COMPLETE_AGAIN and isinstance(record.args, tuple):
            self.complete_again(str(record.args[0]))


class _OfLeaders(SimMetrics):
    """Counts what nodes do as leaders: what they ask each other beside that would hide what coordinators count."""

    def count(self, name: str, amount: int = 1) -> None:
        """Count, if it is about a leader."""
        if name.startswith("leader_"):
            super().count(name, amount)


class _Run:
    def __init__(self, loop: VirtualLoop, scenario: Scenario, strict: bool, heard: _LogCounter) -> None:
        self.loop = loop
        self.scenario = scenario
        self.strict = strict
        self.cluster = (BatchingCluster if scenario.batching else Cluster)(
            loop, scenario.cluster, f"run {scenario.seed}"
        )
        self.history = History()
        self.given: dict[str, list[Context]] = {}
        self.nemesis = LeaderNemesis(self.cluster, scenario.faults)
        self.rig_faults = RigFaults(self.cluster, self.nemesis, scenario.rig_faults)
        self.health = Health(self.cluster, self.nemesis, scenario)
        self.violations: list[Violation] = []
        self._states: dict[tuple[int, int], bytes] = {}
        self._sent_writes: Counter[tuple[object, ...]] = Counter()
        direct = {program.client for program in scenario.programs if program.coordinator in {DIRECT, BLOCKING}}
        self._coordinators = {*self.cluster.coordinator_names} | direct
        for client in sorted(direct):
            self.cluster.host_of_client(client)
        self.cluster.network.heard = self._hear
        self.cluster.network.sent = self._sent
        self.history.acknowledged = self._check_held
        heard.runs = self._runs
        heard.complete_again = self._complete_again
        self.heard = heard
        # That a directory is an old copy its node may learn only from the first who asks it.
        old = {fault.target for fault in scenario.faults if fault.kind == "roll back"}
        self.promises = Promises(loop, scenario.cluster.store, old, scenario.skew_ms)
        self.promises.config_of = self._config_of
        self._configs: dict[int, BucketConfig] = {}
        self._latest: ClusterState | None = None
        """The latest state that a node has known."""
        self.promises.was_dropped = lambda bucket_id: self._latest is not None and self._latest.dropped(bucket_id)
        self.leaders = LeaderWatch(loop)
        self.cluster.nodes.serve = self._serve
        self.cluster.nodes.opened = self._opened
        self.cluster.nodes.metrics = _OfLeaders(self.cluster.counts)
        self._founders = frozenset(self.cluster.node_ids)
        forget = self.cluster.nodes.left

        def left(node_id: str) -> None:
            forget(node_id)
            self.promises.left(node_id)

        self.cluster.nodes.left = left
        self.late: set[str] = set()
        """Nodes that first ran when the founder was gone: nobody knew that they had never run, so they are incomplete."""
        for name, host in self.cluster.hosts.items():
            host.skew_ms = scenario.skews_ms.get(name, 0.0)
            host.drift = scenario.drifts.get(name, 1.0)
            host.slow_disk_s = scenario.disk_s

    async def go(self) -> _Run:
        cluster = self.cluster
        cluster.network.odds = self.scenario.odds
        cluster.start()
        clients = [Process(self.loop, program.client) for program in self.scenario.programs]
        stopped = {fault.target for fault in self.scenario.faults if fault.kind == "freeze coordinator"}
        stopped |= {fault.target for fault in self.scenario.rig_faults}
        cluster.actors |= {process.name: process for process in clients if process.name in stopped}
        self.rig_faults.start()
        running = [process.spawn(self._client(process, index)) for index, process in enumerate(clients)]
        for process, program in zip(clients, self.scenario.programs, strict=True):
            if program.dies_s:
                self.loop.later(program.dies_s, process.kill)
        nemesis = self.loop.create_task(self.nemesis.run())
        watch = self.loop.create_task(self._watch())
        await asyncio.sleep(self.scenario.duration_s)
        await nemesis
        self.nemesis.heal()
        self.rig_faults.heal()
        _, late = await asyncio.wait(running, timeout=CLIENTS_DONE_S)
        for task in late:
            self._report("not done", f"{task.get_coro()} is still waiting {CLIENTS_DONE_S:g} s after all healed")
            task.cancel()
        for task in running:
            if task.done() and not task.cancelled() and task.exception() is not None:
                self._report("client failed", repr(task.exception()))
        watch.cancel()
        if self.scenario.within:
            self.violations += self.health.judge(self.history)
        if await self._converge():
            await self._forget()
        self._look_into_nodes()
        await cluster.stop()
        await self._drain()
        copies, skew_ms = self.scenario.cluster.store.copies, self.scenario.skew_ms
        plain = self.scenario.plain
        found = check_history(self.history, copies, skew_ms, plain=plain, strict=self.strict)
        self.violations += [violation for violation in found if not self._excused(violation)]
        self.violations += check_changes(self.history.changes) + self.leaders.broken
        self.violations += check_locks(self.history.holdings)
        self.violations += check_buckets(self.history) + check_fleeting(self.history)
        self.violations += self.promises.broken
        self._judge_losses()
        cluster.counts["gaps"] += len(self.promises.dots - self.history.stamps.dots)
        for host in cluster.hosts.values():
            self.violations += [Violation("two writers", "", text) for text in host.two_writers[:1]]
        return self

    def _judge_losses(self) -> None:
        """Nodes that were left with too few intact others have said so: within the promises none may have to.

        Beyond them what was acknowledged may be gone then, and nothing can be demanded of what is read.
        """
        if self.heard.counts[_LOSSY]:
            if self.scenario.within:
                self._report("lost within the promises", _LOSSY)
            else:
                self.violations = [violation for violation in self.violations if violation.rule in _WHATEVER_IS_LOST]

    def _excused(self, violation: Violation) -> bool:
        """Whether P1 and P7 are at odds here: a node that lost its directory counts toward W, and cannot know what stood.

        With clocks that differ, the acknowledged write may then be below one that only the lost directory had held of
        those that answered.
        """
        incomplete = self.scenario.lasting and self.scenario.skew_ms > 0
        return violation.rule == "acknowledged and shadowed" and bool(incomplete)

    async def _client(self, process: Process, index: int) -> None:
        program = self.scenario.programs[index]
        try:
            if program.changes:
                store = await self.cluster.connect(process, program.coordinator, attempts=10)
                changing = ChangeClient(program, store, self.loop, self.history, grouped=self.scenario.grouped)
                await changing.run(self.scenario.duration_s + AFTERWARDS_S)
                return
            if program.coordinator == BLOCKING:
                store = await self.cluster.connect(
                    process, attempts=10, session_of=blocking_session(self.cluster, process)
                )
            else:
                store = await self.cluster.connect(process, program.coordinator, attempts=10)
            buckets = await Buckets.open(
                store, self.scenario.plain, self.scenario.loose, attempts=8, grouped=self.scenario.grouped
            )
        except RaykvError:
            return  # whether the store serves at last, the reads of phase two say
        levels = self.scenario.r, self.scenario.w
        client = Client(program, buckets, store, self.loop, self.history, levels, self.given)
        await client.run(self.scenario.duration_s + AFTERWARDS_S)

    async def _watch(self) -> None:
        doubted: set[str] = set()
        while True:
            self.health.sample()
            for node_id in self.cluster.node_ids:
                node = self.cluster.nodes.living(node_id)
                doubtful = node_id in self.impaired | doubted or node_id not in self._founders
                if node is not None and not node.complete and not doubtful:
                    doubted.add(node_id)
                    self._report(
                        "not complete", f"nothing happened to {node_id} that would cost it what it acknowledged"
                    )
            await asyncio.sleep(EVERY_S)

    def _report(self, rule: str, text: str, key: str = "") -> None:
        self.violations.append(Violation(rule, key, text, self.loop.now_s))

    # ---- phase two ----

    async def _converge(self) -> bool:
        """Wait until all that can be up is up; then read everything, and compare the copies. True if all is well."""
        down = await self._wait_for_nodes()
        # What cannot be opened at all stays down until it can be replaced: a corrupt identity or manifest.
        if lost := [node_id for node_id in down if node_id not in self.impaired]:
            self._report("not up again", f"{', '.join(lost)} not up {UP_AGAIN_S:g} s after all healed")
        await self._wait_until_settled([node_id for node_id in down if node_id not in self.scenario.gone])
        if self.promised and (kept := sorted(self.scenario.gone & self._members())):
            self._report("not replaced", f"{', '.join(kept)} still a member when all had long healed")
        down = [node_id for node_id in down if node_id in self.cluster.node_ids]
        await self._wait_until_mended(down)
        process = Process(self.loop, "client-last")
        if self.history.changes:
            await process.spawn(self._change_all(process))
        if not down and self.promised and await process.spawn(self._repair_all(process)):
            self._compare("a repair")
        if not await process.spawn(self._read_all(process)) or down or self.violations:
            return False
        if self.promised:  # else only R were read, and nothing was compared
            self._compare("a read of all copies")
        return self.promised and not self.violations

    async def _forget(self) -> None:
        """Let the grace pass, and what is dead be forgotten: it must be gone, and no other value be there than before."""
        gc_grace_s = self.scenario.cluster.store.gc_grace_s
        if gc_grace_s > LONG_GRACE_S:
            return
        process = Process(self.loop, "client-late")
        try:
            before = await process.spawn(self._values(process, delete=True))
        except RaykvError as error:
            self._report("unwritable", f"after all healed: {error}")
            return
        # The clock of the record may be ahead of those that look at it.
        await asyncio.sleep(gc_grace_s + 2 * self.scenario.skew_ms / 1000 + 1)
        for _ in range(2):
            if not await process.spawn(self._repair_all(process)):
                return
            await asyncio.sleep(gc_grace_s / 2 + 2 * self.scenario.skew_ms / 1000 + 1)
        if await process.spawn(self._repair_all(process)):
            after = await process.spawn(self._values(process))
            for key in sorted(key for key in before if before[key] != after[key]):
                self._report(
                    "back or gone", f"{key}: {before[key]} before what is dead was forgotten, {after[key]} after", key
                )
            self._check_purged()

    async def _values(self, process: Process, *, delete: bool = False) -> dict[str, str | None]:
        """Return what every key holds, but those that expire. ``delete``: after every other one has been deleted."""
        buckets = await Buckets.open(
            await self.cluster.connect(process, attempts=60),
            self.scenario.plain,
            self.scenario.loose,
            60,
            grouped=self.scenario.grouped,
        )
        keys = [key for key in lasting_keys(self.history) if not key.startswith(TTL_PREFIX)]
        for key in keys[::2] if delete else ():
            await buckets.of(key).delete(key, timeout=10)
        return {key: await buckets.of(key).get(key, timeout=10) for key in keys}

    def _check_purged(self) -> None:
        """Compare the nodes' clocks with what they still hold: nothing that was dead when the last repair but one began."""
        grace_ms = self.scenario.cluster.store.gc_grace_s * 1000
        for node_id in self.cluster.node_ids:
            node = self.cluster.nodes.living(node_id)
            records = [] if node is None else [item for item in node._engine.scan(b"", None) if not is_private(item[0])]  # noqa: SLF001
            for key, found in records:
                since_ms = dead_since_ms(found.record)
                now_ms = self.cluster.hosts[node_id].wall_ms()
                if since_ms is not None and now_ms - since_ms > 2 * grace_ms + 4 * self.scenario.skew_ms:
                    self._report("not forgotten", f"{node_id} still holds {key!r}, dead for {now_ms - since_ms:.0f} ms")
                    return

    async def _wait_until_settled(self, down: list[str]) -> None:
        """Wait until no partition is on its way. With nodes that stay down that may never be."""
        deadline_s = self.loop.now_s + (10.0 if down else SETTLED_S)
        while (state := self._state()) is not None and (
            state.goal is not None or self.nemesis.asking or self.scenario.gone & self._members()
        ):
            if self.loop.now_s > deadline_s:
                if not down and self.promised and self.cluster.supervisor is not None:
                    progress = self.cluster.supervisor._rebalancing.progress()  # noqa: SLF001
                    self._report("not settled", f"{SETTLED_S:g} s after all healed: {progress}")
                return
            await asyncio.sleep(0.5)

    async def _wait_until_mended(self, down: list[str]) -> None:
        """Wait until all nodes are complete and all hints are delivered. With nodes that stay down that may never happen."""
        deadline_s = self.loop.now_s + (10.0 if down else MENDED_S)
        while True:
            living = {node_id: self.cluster.nodes.living(node_id) for node_id in self.cluster.node_ids}
            waiting = [
                node_id
                for node_id, node in living.items()
                if node is not None and not node.complete and self._is_wanted(node_id)
            ]
            hints = {node_id: counts for node_id, node in living.items() if node and (counts := node.hints_waiting)}
            if not waiting and not hints:
                return
            if self.loop.now_s > deadline_s:
                if self.cluster.supervisor is None or self._is_forgotten():
                    return  # too few have kept the cluster's state: that it does not serve is reported elsewhere
                if waiting and not down:
                    self._report("not completed", f"{', '.join(waiting)} incomplete {MENDED_S:g} s after all healed")
                elif hints and not down:
                    self._report("hints left", f"{hints} {MENDED_S:g} s after all healed")
                return
            await asyncio.sleep(0.5)

    def _is_forgotten(self) -> bool:
        """Whether faults have cost every member its directory, and the supervisor has said that the store is gone.

        Nobody then knows what was promised, and a node that called itself complete would answer "absent" for all that was
        acknowledged (P1, P5).
        """
        living = [self.cluster.nodes.living(node_id) for node_id in sorted(self._members())]
        voters = [node for node in living if node is None or node.identity["votes"]]
        said = self.heard.counts[_FORGOTTEN]
        return bool(said) and not self.scenario.within and self._members() <= self.scenario.lasting and not voters

    async def _repair_all(self, process: Process) -> bool:
        """Let all copies be compared, as ``store.repair()`` does. False if that could not be done."""
        deadline_s = self.loop.now_s + REPAIRED_S
        while True:
            try:
                store = await self.cluster.connect(process, attempts=60)
                report = await store.repair(timeout=10)
            except RaykvError as error:
                if self.loop.now_s > deadline_s:
                    self._report("not repaired", f"after all healed: {error}")
                    return False
                await asyncio.sleep(0.5)
            else:
                for what in ("fetched", "sent", "purged"):
                    self.cluster.counts[f"repair: {what}"] += report[what]
                return True

    async def _wait_for_nodes(self) -> list[str]:
        cluster = self.cluster
        deadline_s = self.loop.now_s + UP_AGAIN_S
        while True:
            down = [
                node_id
                for node_id in cluster.node_ids
                if cluster.nodes.living(node_id) is None and self._is_wanted(node_id)
            ]
            waiting = [node_id for node_id in down if node_id not in self.impaired]
            serving = cluster.actors[SUPERVISOR].alive and cluster.supervisor is not None
            given_up = self.loop.now_s > deadline_s - UP_AGAIN_S / 2  # those that a fault did for may come up, or not
            if (serving and not waiting and (not down or given_up)) or self.loop.now_s > deadline_s:
                return down
            await asyncio.sleep(0.5)

    def _members(self) -> set[str]:
        """Return the present members; while nobody can say, those of old."""
        state = self._state()
        return {*self._founders} if state is None else {member.node_id for member in state.ring.members}

    def _is_wanted(self, node_id: str) -> bool:
        """Return whether a node must be up: not if it never became a member."""
        state = self._state()
        return node_id in self._founders or state is None or state.ring.has_member(node_id)

    async def _read_all(self, process: Process) -> bool:
        """Read every key, by quorum and from all copies. False if they could not be read."""
        scenario, cluster = self.scenario, self.cluster
        try:
            attempts = 60 if self.promised else 1
            buckets = await Buckets.open(
                await cluster.connect(process, attempts=attempts),
                scenario.plain,
                scenario.loose,
                attempts,
                grouped=scenario.grouped,
            )
        except RaykvError as error:
            if self.promised:
                self._report("never served", f"after all healed: {error}")
            return False
        keys = lasting_keys(self.history)
        if self.promised and not any(fault.kind == "clock far off" for fault in scenario.faults):
            await self._write_all(buckets, keys)
        deadline_s = self.loop.now_s + READABLE_S
        levels = [scenario.r] if self.impaired & self._members() else [scenario.r, scenario.cluster.store.copies]
        for level in levels:
            for key in keys:
                if not await self._read_until(buckets.of(key), key, level, deadline_s):
                    return False
        return True

    async def _write_all(self, buckets: Buckets, keys: list[str]) -> None:
        """Write every key once more: what serves must also take writes."""
        deadline_s = self.loop.now_s + READABLE_S
        for key in keys:
            value, began_s = f"last@{key}", self.loop.now_s
            while True:
                try:
                    result = await buckets.of(key).put(key, value, w=self.scenario.w, timeout=2)
                except RaykvError as error:
                    operation_id = str(error.details.get("operation_id", ""))
                    self.history.add(
                        "last", "put", key, began_s, self.loop.now_s, "unknown",
                        value=value, operation_id=operation_id, error=str(error), level=0, blind=True,
                    )  # fmt: skip
                    if self.loop.now_s > deadline_s:
                        self._report("unwritable", f"{key} after all healed: {error}", key)
                        return
                    await asyncio.sleep(0.5)
                    value, began_s = f"{value}+", self.loop.now_s
                else:
                    judged = 0 if key[0] in self.scenario.loose else self.scenario.w
                    self.history.add(
                        "last", "put", key, began_s, self.loop.now_s, "ok",
                        value=value, operation_id=result.operation_id, level=judged, blind=True,
                    )  # fmt: skip
                    break

    async def _change_all(self, process: Process) -> None:
        """Change each key of the linearizable bucket once more, and read it: what serves must take changes."""
        last = Program("last", COORDINATOR, (), changes=True)
        deadline_s = self.loop.now_s + (READABLE_S if self.promised else 0.0)
        try:
            store = await self.cluster.connect(process, attempts=60 if self.promised else 1)
            client = await ChangeClient.opened(
                last, store, self.loop, self.history, deadline_s, grouped=self.scenario.grouped
            )
        except RaykvError as error:
            if self.promised:
                self._report("never served", f"after all healed, of the linearizable bucket: {error}")
            return
        for key in sorted({op.key for op in self.history.changes}):
            while (failure := await client.last(key)) is not None:
                if self.loop.now_s > deadline_s:
                    if self.promised:
                        self._report("unwritable", f"{key} after all healed: {failure}", key)
                    break
                await asyncio.sleep(0.5)

    async def _read_until(self, bucket: AsyncBucket[Any, Any], key: str, level: int, deadline_s: float) -> bool:
        while True:
            began_s = self.loop.now_s
            try:
                value = await bucket.get(key, r=level, timeout=2)
            except RaykvError as error:
                if not self.promised:
                    return False
                if self.loop.now_s > deadline_s:
                    self._report("unreadable", f"{key} with r={level} after all healed: {error}", key)
                    return False
                await asyncio.sleep(0.5)
            else:
                judged = self._judged_by(key, level)
                self.history.add("last", "get", key, began_s, self.loop.now_s, "ok", value=value, level=judged)
                return True

    def _judged_by(self, key: str, level: int) -> int:
        """Return the level by which a read of the last client is judged: of a sloppy bucket, only all copies count."""
        return level if key[0] not in self.scenario.loose or level == self.scenario.cluster.store.copies else 0

    def _compare(self, after: str) -> None:
        """Compare what the owners of each key hold."""
        state = self._state()
        if state is None:
            return
        ring, n = state.ring, self.scenario.cluster.store.copies
        changed = {op.key for op in self.history.changes}
        for key in sorted({*lasting_keys(self.history)} | changed):
            encoded = encode_key(key)
            name = LINEAR_BUCKET if key in changed else DEFAULT_BUCKET
            if key[0] in self.scenario.plain + self.scenario.loose:
                name = PLAIN_BUCKET if key[0] in self.scenario.plain else LOOSE_BUCKET
            entry = state.bucket(name)
            bucket_id = 0 if entry is None else entry.bucket_id
            config = None if entry is None else entry.config
            owners = state.holders(partition_in(config, encoded, ring.partitions), n)
            held: dict[str, Any] = {}
            for node_id in owners:
                node = self.cluster.nodes.living(node_id)
                answer = None if node is None else node._replica.handle(f.Read(bucket_id, [encoded]))[0]  # noqa: SLF001
                held[node_id] = answer.records[0] if isinstance(answer, f.ReadDone) else None
            if len(set(held.values())) > 1:
                shown = {node_id: record and record.hex()[:48] for node_id, record in held.items()}
                self._report("copies differ", f"after {after}, of {key}: {shown}", key)

    def _config_of(self, bucket_id: int) -> BucketConfig | None:
        """Return a bucket's policy as the first knows it that is asked; it never changes."""
        if bucket_id not in self._configs:
            nodes = [self.cluster.nodes.living(node_id) for node_id in self.cluster.node_ids]
            states = [self._state(), *(node._replica.state for node in nodes if node is not None)]  # noqa: SLF001
            found = [config for state in states if state is not None and (config := state.config_of(bucket_id))]
            if not found:
                return None
            self._configs[bucket_id] = found[0]
        return self._configs[bucket_id]

    def _state(self) -> ClusterState | None:
        supervisor = self.cluster.supervisor
        return supervisor.state if supervisor is not None else None

    async def _drain(self) -> None:
        """Let what is under way come to its end; nothing may be left."""
        deadline_s = self.loop.now_s + DRAINED_S
        while (left := self.cluster.unfinished()) and self.loop.now_s < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        for name in left:
            self._report("left behind", name)

    def _runs(self, node_id: str) -> bool:
        node = self.cluster.nodes.living(node_id)
        return node is not None and not self.cluster.nodes.current[node_id].process.frozen

    def _check_held(self, key: str, operation_id: str, nodes: Sequence[str]) -> None:
        if key[0] in self.scenario.plain and (mark := self.history.stamps.last(operation_id, self.loop.now_s)):
            encoded = encode_key(key)

            def holds(node_id: str) -> bool:
                node = self.cluster.nodes.living(node_id)
                if node is None:
                    return False
                entry = None if node._replica.state is None else node._replica.state.bucket(PLAIN_BUCKET)  # noqa: SLF001
                if entry is None:
                    return False
                try:
                    said, _ = node._replica.handle(f.Read(entry.bucket_id, [encoded]))  # noqa: SLF001
                except (EngineFailed, StoreClosed, OSError):
                    return False
                record = said.records[0] if isinstance(said, f.ReadDone) else None
                return record is not None and stamp_of(record) >= mark

            self.promises.check_held(encoded, mark, nodes, holds)

    def _complete_again(self, node_id: str) -> None:
        if (node := self.cluster.nodes.living(node_id)) is not None:
            self.promises.renew(node_id, node)
            self.leaders.forget(node_id)
            self.nemesis.complete_again(node_id)

    def _opened(self, node: StorageNode) -> None:
        founding = node.spec.node_id in self._founders
        if founding and node.incarnation == 1 and self.loop.now_s > self.cluster.founder_ended_s:
            self.late.add(node.spec.node_id)
        self.promises.audit(node.spec.node_id, node)

    @property
    def impaired(self) -> set[str]:
        """The nodes of which it cannot be asked that they have everything."""
        return self.scenario.lasting | self.late

    @property
    def promised(self) -> bool:
        """Whether all must be readable and writable in the end."""
        scenario = self.scenario
        spare = scenario.cluster.store.copies - max(scenario.r, scenario.w)
        return not self.impaired or (scenario.within and len(self.impaired) <= spare)

    async def _serve(self, node: StorageNode, frame: bytes) -> bytes:
        node_id = node.spec.node_id
        if (refusal := self.rig_faults.refusal(node, frame)) is not None:
            return refusal
        state = node._replica.state  # noqa: SLF001
        for entry in () if state is None else state.buckets:  # now: after the end of all there is nobody to ask
            self._configs.setdefault(entry.bucket_id, entry.config)
        if state is not None and (self._latest is None or state.ballot > self._latest.ballot):
            self._latest = state
        before, host = self.promises.before(node_id), self.cluster.hosts[node_id]
        voted = self.leaders.before(node_id)
        began_ms = host.wall_ms()
        kind = f.kind_of_request(frame)
        if kind == _CLEAR:  # it may die while it is at it
            self.promises.given_away(node_id, node)
        answer = await node.serve(frame)
        if kind == _CLEAR:
            self.promises.given_away(node_id, node)
        elif kind == _RESERVE and self.scenario.loose:
            # As a fallback it shows only what it keeps for others, not what it held while it was an owner (P11).
            self.promises.given_away(node_id, node)
            still = self.promises.before(node_id)
            before = {place: record for place, record in before.items() if place in still}
        self.promises.answered(node_id, frame, answer, before, max(began_ms, host.wall_ms()))
        self.leaders.answered(node_id, frame, answer, voted)
        return answer

    def _look_into_nodes(self) -> None:
        """Compare what the nodes hold in the end with what they promised, and add what their engines counted."""
        for node_id in self.cluster.node_ids:
            node = self.cluster.nodes.living(node_id)
            if node is not None:
                self.promises.audit(node_id, node)
                for name, amount in msgspec.to_builtins(node._engine.stats()).items():  # noqa: SLF001
                    if name in {"flushes", "compactions", "bloom_negatives", "cache_hits"}:
                        self.cluster.counts[f"engine: {name}"] += amount
                for name, amount in node.mended.items():
                    self.cluster.counts[f"mended: {name}"] += int(amount)

    # ---- what is heard on the way ----

    def _sent(self, source: str, target: str, frame: bytes) -> None:
        if target.startswith("node/") and (kind := f.kind_of_request(frame)) not in _SENT_BY[self._role(source)]:
            self._report("not its to send", f"{source} sent {kind.decode(errors='replace')} to {target}")
        if target.startswith("node/") and source in self._coordinators and (write := _write_in(frame)) is not None:
            self.history.stamps.send(self.loop.now_s, write)
            self._check_repeated(source, target, write)
        if target.startswith("node/"):
            self.rig_faults.sent(source)

    def _check_repeated(self, source: str, target: str, write: f.Write) -> None:
        """Report a coordinator that sends one write to a node over and over, without a pause."""
        sent = self._sent_writes
        place = source, target, write.made_ms, *write.items[:1]
        sent[place] += 1
        if sent[place] == MOST_SENT:
            self._report("sent over and over", f"{source} has sent {target} one write {MOST_SENT} times")

    def _role(self, source: str) -> str:
        if source in self._coordinators:
            return "coordinator"
        return "node" if source.startswith("node/") else "supervisor"

    def _hear(self, what: str, source: str, target: str, frame: bytes) -> None:
        if what == "asks" and target.startswith("node/"):
            if (write := _write_in(frame)) is not None:
                self.history.stamps.hear(self.loop.now_s, write)
                self.leaders.hear_write(write)
            self.leaders.hear(frame)
        elif source == SUPERVISOR and not target.startswith("node/"):
            update: Any = (f.coordinator_requests if what == "asks" else f.supervisor_answers).decode(frame)
            if isinstance(update, f.ClusterUpdate):
                self._hear_state(update.state)

    def _hear_state(self, data: bytes) -> None:
        state = decode_state(data)
        known = self._states.get(state.ballot)
        if known is None:
            self._states[state.ballot] = data
            members = [member.node_id for member in state.ring.members]
            holding = [node_id for node_id in members if self._ballot_on_disk(node_id) >= state.ballot]
            if len(holding) < quorum(len(members)):
                self._report("handed out too early", f"state {state.ballot} is on {holding} of {members} only")
        elif known != data:
            self._report("two states", f"two states of the cluster bear the number {state.ballot}")

    def _ballot_on_disk(self, node_id: str) -> tuple[int, int]:
        if node_id in self.impaired:
            return 1 << 30, 0  # it may have held it
        return ballot_on_disk(self.cluster.hosts[node_id].disk)


def _write_in(frame: bytes) -> f.Write | None:
    """Return the write that a request carries, also to a fallback; None if it carries none."""
    if _WRITE not in frame[:_WRITE_WITHIN] and _HINT not in frame[:_WRITE_WITHIN]:
        return None
    body = f.node_requests.decode(frame).body
    if isinstance(body, f.Hint):
        return f.Write(body.bucket_id, [(key, record) for key, record, _ in body.items if record])
    return body if isinstance(body, f.Write) else None
