"""A few copies, a coordinator or two, no clients and no supervisor: the world of tests about copies that differ.

Records are put on any of the copies, nodes are killed and wiped. One thing after the other, so it is known at
every moment what a quorum has acknowledged or shown: no read may show less from then on. ``Promises`` watches each node
as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import random as random_module
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import msgspec

from raykv.cluster.peers import node_address
from raykv.cluster.state import BucketEntry, encode_state
from raykv.config import BucketConfig, NodeConfig, StoreConfig
from raykv.coordinator.coordinator import Coordinator
from raykv.coordinator.driver import Driver, posting
from raykv.coordinator.writes import Done, Put
from raykv.errors import CorruptData, RaykvError
from raykv.ports import Host as HostFacts
from raykv.ports import Known, PeerFailure
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, pack_tombstone_body, stamp, stamp_of, time_of
from raykv.sim.cluster import SimMetrics
from raykv.sim.disk import SimDisk
from raykv.sim.host import EPOCH_MS, SimClock
from raykv.sim.kernel import Process
from raykv.sim.network import NetworkOdds, SimTransport
from raykv.storage import DiskFull
from raykv.storage.inspection import inspect_node
from raykv.supervision.founding import Plan, first_state
from simulation.bare_cluster import BareCluster
from simulation.leader_watch import LeaderWatch
from simulation.promises import Promises

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.cluster.state import ClusterState
    from raykv.coordinator.steps import Steps
    from raykv.coordinator.writes import Written
    from raykv.node.node import StorageNode
    from raykv.sim.kernel import VirtualLoop
    from raykv.storage import Damage

T = TypeVar("T")

COPIES = 3


class Settings(NamedTuple):
    """The kind of a world."""

    nodes: int = COPIES
    r: int = 2
    w: int = 2
    copies: int = COPIES
    versioning: Literal["lww", "vector", "linearizable"] = "lww"
    sloppy: bool = False
    mends: bool = False
    """Whether nodes become complete again, hand hints over and so on."""
    gc_grace_s: float = 600.0
    repair_every_s: float = 86_400.0
    slow_disk_s: float = 0.0
    delay_s: tuple[float, float] = (0.0002, 0.002)
    scan_bytes: int = 1 << 20
    """How much fits into one answer of a node to a scan."""
    keys: int = 6


class CopiesWorld(BareCluster):
    """One world; ``settings`` may be drawn from ``rng``, which is the world's own."""

    store_id = "drill"
    about = "with three copies"

    def __init__(self, loop: VirtualLoop, seed: str, rng: random_module.Random, settings: Settings) -> None:
        store = StoreConfig(
            name="drill", copies=settings.copies, partitions=8, durability="group", gc_grace_s=settings.gc_grace_s
        )
        super().__init__(loop, seed, store, [f"n{number + 1}" for number in range(settings.nodes)], ["coordinator"])
        self.rng = rng
        self.settings = settings
        self.network.odds = NetworkOdds(delay_s=settings.delay_s)
        self.promises = Promises(loop, self.store, set(), 0.0)
        self.leaders = LeaderWatch(loop)
        self.r, self.w = settings.r, settings.w
        plan = Plan(store=self.store, nodes=settings.nodes, weights=(1.0,) * settings.nodes)
        facts = [HostFacts(name=node_id) for node_id in self.node_ids]
        config = BucketConfig(
            name="default",
            n=settings.copies,
            r=self.r,
            w=self.w,
            versioning=settings.versioning,
            sloppy=settings.sloppy,
        )
        self.state = msgspec.structs.replace(first_state(plan, self.store_id, facts), buckets=(BucketEntry(1, config),))
        self.entry = self.state.buckets[0]
        self.bucket_id = self.entry.bucket_id
        self.client = Process(loop, "client")
        self.transport = SimTransport(self.network, self.client)
        self.keys = [f"k{number:03}" for number in range(settings.keys)]
        self.time = EPOCH_MS << 16
        self.floor: dict[str, int] = {}
        """Key -> the time of the newest record that a quorum has acknowledged or shown."""
        self.deleted: dict[str, int] = {}
        """Key -> the time of its last delete: repairs may purge it, and then nothing must be shown."""
        self.forgotten: dict[str, int] = {}
        """Key -> the time of the delete that all copies have forgotten."""
        self.refused: set[bytes] = set()
        """The operations that were reported to the client as not written."""
        self.lossy: set[str] = set()
        """Nodes that may lack what they acknowledged: never more than one, unless all copies have everything."""
        self.corrupted: set[str] = set()
        """Nodes whose disks have had bits flipped: they may become complete before they have met that."""
        self.power_when_complete = 0.6
        """The probability that a node's power goes at the moment when it has become complete."""
        self.sequence = 0
        self.drivers: dict[Coordinator, Driver] = {}
        self.coordinator_process, self.coordinator = self.start_coordinator("coordinator")

    def start_coordinator(self, name: str) -> tuple[Process, Coordinator]:
        """Start a coordinator, which has heard of nothing yet."""
        process = Process(self.loop, name)
        clock, transport = SimClock(self.hosts["coordinator"], process), SimTransport(self.network, process)
        coordinator = process.run(
            lambda: Coordinator(transport, clock, SimMetrics(Counter()), random_module.Random(self.seed))
        )
        post = posting(transport, clock, coordinator.routing.tasks)
        self.drivers[coordinator] = Driver(coordinator.routing, post, clock)
        return process, coordinator

    async def carry_out(self, steps: Steps[T], coordinator: Coordinator | None = None) -> T:
        """Drive the steps of a coordinator's operation, or of a part of it. Raises what they raise."""
        return await self.drivers[coordinator or self.coordinator].run(steps)

    async def begin(self) -> None:
        """Start all nodes, and send them the cluster's state."""
        for node_id in self.node_ids:
            self.start(node_id, fresh=True)
            await self.send_state(node_id)

    async def end_all(self) -> None:
        """End all processes."""
        for process in [self.coordinator_process, self.client, *self.processes.values()]:
            process.kill()
        await asyncio.sleep(3.0)

    # ---- nodes ----

    def start(self, node_id: str, *, fresh: bool = False, known: Known | None = None) -> None:
        """Start a node with all that was ever heard of it; or with ``known``, and then it need not find out at once."""
        host, last, audited = self.hosts[node_id], self.nodes.get(node_id), known is None
        host.slow_disk_s = self.settings.slow_disk_s
        if known is None:
            known = Known() if last is None else last.known
        config = NodeConfig(
            memtable_bytes=4096, block_bytes=256, block_cache_bytes=0, runs_per_level=2,
            repair_every_s=self.settings.repair_every_s,
        )  # fmt: skip
        try:
            node = self.open(node_id, config, self.rng, fresh=fresh, known=known, reaches_others=self.settings.mends)
        except (CorruptData, DiskFull):
            return  # it stays away, and says so
        process = self.processes[node_id]
        node._replica.scanner.page_bytes = self.settings.scan_bytes  # noqa: SLF001
        process.run(node.begin)
        self._look_when_complete(node_id, node)
        if audited:
            self.promises.audit(node_id, node)

        async def serve(frame: bytes) -> bytes:
            before, voted = self.promises.before(node_id), self.leaders.before(node_id)
            answer = await node.serve(frame)
            self.promises.answered(node_id, frame, answer, before, host.wall_ms())
            self.leaders.answered(node_id, frame, answer, voted)
            return answer

        self.network.register(process, serve)
        self.publish()

    async def start_all(self) -> None:
        """Start all nodes that do not run."""
        for node_id in self.node_ids:
            if not self.runs(node_id):
                self.start(node_id)
                await self.send_state(node_id)

    def end(self, node_id: str) -> None:
        """End a node's process."""
        self.processes[node_id].kill()
        self.publish()

    def publish(self, coordinator: Coordinator | None = None, state: ClusterState | None = None) -> None:
        """Send a coordinator a cluster update, of the world's state or of ``state``."""
        (coordinator or self.coordinator).routing.learn(self.cluster_update(state))

    def cluster_update(self, state: ClusterState | None = None) -> f.ClusterUpdate:
        """Return what the supervisor would say: the state, who runs and who does not."""
        self.sequence += 1
        down = {node_id: "ended" for node_id, process in self.processes.items() if not process.alive}
        incarnations = {node_id: node.incarnation for node_id, node in self.nodes.items()}
        return f.ClusterUpdate(self.sequence, encode_state(state or self.state), down, incarnations)

    async def send_state(self, node_id: str, state: ClusterState | None = None) -> None:
        """Send a node the cluster's state, with its vote."""
        held = await self.ask(node_id, f.ReadState())
        if isinstance(held, f.AcceptorAnswer):
            state = state or self.state
            data = encode_state(state)
            await self.ask(node_id, f.AcceptState(state.generation, state.version, data, True, [held.directory_id]))

    async def ask(self, node_id: str, body: f.NodeRequestBody, within_s: float = 1.0) -> f.NodeAnswerBody | None:
        """Ask a node something, by no state of the cluster; None if it does not answer."""
        frame = f.node_requests.encode(f.NodeRequest(0, body))
        with contextlib.suppress(PeerFailure):
            return f.node_answers.decode(await self.transport.call(node_address(node_id), frame, within_s)).body
        return None

    def _look_when_complete(self, node_id: str, node: StorageNode) -> None:
        """Notice when a node has become complete; at that moment its power may go."""
        mark_complete = node._replica.mark_complete  # noqa: SLF001 - the very moment matters

        def watched(damages: Sequence[Damage]) -> None:
            mark_complete(damages)
            if node.complete:
                self.loop.call_soon(self._completed, node_id, node)

        node._replica.mark_complete = watched  # type: ignore[method-assign]  # noqa: SLF001

    def _completed(self, node_id: str, node: StorageNode) -> None:
        if self.nodes[node_id] is not node or not self.runs(node_id):
            return
        if node_id not in self.corrupted or not self._may_meet_more(node_id, node):
            self.lossy.discard(node_id)
        self.promises.renew(node_id, node)
        self.leaders.forget(node_id)
        if self.rng.random() < self.power_when_complete:
            self.power(node_id)

    def _may_meet_more(self, node_id: str, node: StorageNode) -> bool:
        """Return whether its disk has corruption that it has not met yet."""
        engine = node._engine  # noqa: SLF001 - no run says what it has healed
        met = {(each.file, each.offset) for each in (*engine._noted, *engine._healed, *engine._damaged)}  # noqa: SLF001
        found = inspect_node(self.hosts[node_id].disk, node.spec.path).findings
        return any((each.file.rpartition("/")[2], each.offset) not in met for each in found)

    def wipe(self, node_id: str) -> None:
        """End a node, and empty its disk."""
        self.end(node_id)
        self.lossy.add(node_id)
        self.hosts[node_id].replace_disk(SimDisk())

    def put_back(self, node_id: str, disk: SimDisk, known: Known | None = None) -> None:
        """Put an earlier disk of a node back, and start it. ``known``: see ``start``."""
        self.end(node_id)
        self.lossy.add(node_id)
        self.hosts[node_id].replace_disk(disk)
        self.start(node_id, known=known)

    def power(self, node_id: str) -> None:
        """Let a node's host lose its power, and all that was not synced."""
        self.trace.note("its power goes", node_id)
        self.end(node_id)
        self.hosts[node_id].replace_disk(self.hosts[node_id].disk.crash(self.rng, "drop"))

    # ---- what is written and shown ----

    def record(self, *, deletes: bool = False) -> bytes:
        """Return a record that is new, and newer than all before it; ``deletes``: a tombstone."""
        self.time += 1
        if deletes:
            return stamp(pack_tombstone_body(self.rng.randbytes(16)), self.time)
        return stamp(pack_body(self.rng.randbytes(16), self.rng.randbytes(self.rng.choice((10, 300)))), self.time)

    async def put(self, key: str, record: bytes, targets: Sequence[str]) -> int:
        """Put a record on these nodes; return how many acknowledge it. On W complete ones it is acknowledged."""
        write = f.Write(self.bucket_id, [(encode_key(key), record)])
        done = await asyncio.gather(*(self.ask(node_id, write) for node_id in targets))
        acks = sum(isinstance(answer, f.WriteDone) for answer in done)
        if acks >= self.w:
            self.raise_floor(key, time_of(record))
        return acks

    async def write(self, key: str, within_s: float = 1.0, coordinator: Coordinator | None = None) -> Written:
        """Let a coordinator write a value that is new; return what it says."""
        item = Put(encode_key(key), pack_body(self.rng.randbytes(16), self.rng.randbytes(10)), None)
        try:
            writes = (coordinator or self.coordinator)._writes  # noqa: SLF001 - not by way of a frame
            steps = writes.write(self.entry, [item], self.w, self.loop.now_s + within_s)
            (done,) = await self.carry_out(steps, coordinator)
        except RaykvError as error:
            return error
        if isinstance(done, Done):
            self.raise_floor(key, done.causality.time)
        return done

    async def read(self, keys: list[str], coordinator: Coordinator | None = None) -> None:
        """Let a coordinator read, and compare what it shows with what was acknowledged or shown before."""
        floor = dict(self.floor)
        try:
            reads = (coordinator or self.coordinator)._reads  # noqa: SLF001 - complete records
            steps = reads.records(self.entry, [encode_key(key) for key in keys], self.r, self.loop.now_s + 1.0)
            records = await self.carry_out(steps, coordinator)
        except RaykvError:
            return
        for key, record in zip(keys, records, strict=True):
            if not isinstance(record, RaykvError):
                self.compare(key, record, "read", floor)

    def compare(self, key: str, record: bytes | None, what: str, floor: dict[str, int]) -> None:
        """Compare what was shown with what stood on a quorum, or had been shown, when it was asked for."""
        time, least = 0 if record is None else time_of(record), floor.get(key, 0)
        if record is not None and stamp_of(record)[8:] in self.refused:
            self.report(
                "refused and written", f"a {what} of {key} shows a write of which nothing was to have been written", key
            )
        if 0 < time < self.forgotten.get(key, 0):
            self.report("came back", f"a {what} of {key} shows what all copies had deleted and forgotten", key)
        if time < least and not (record is None and least <= self.deleted.get(key, 0)):
            found = "nothing" if record is None else "an older record"
            self.report(
                "copies passed over", f"a {what} of {key} shows {found}, and a newer one was on a quorum or shown", key
            )
        if 2 * self.r > COPIES:
            self.raise_floor(key, time)

    def raise_floor(self, key: str, time: int) -> None:
        """Note that what was written at ``time`` was acknowledged or shown."""
        self.floor[key] = max(time, self.floor.get(key, 0))
