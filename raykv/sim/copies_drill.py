"""Three copies, one coordinator, no clients and no supervisor: differences that last until somebody reads or heals.

In a run of a whole cluster hints and repairs level the copies within moments, and what a read or a scan does about copies
that differ is seldom seen. Here records are put on whatever copies the drill likes, nodes are killed, wiped and rot, and
in half of the drills nothing mends by itself. One thing after the other, so it is known at every moment what a quorum has
acknowledged or shown: no read and no scan may show less from then on. ``Promises`` watches each node as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import random as random_module
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from raykv.config import BucketConfig, NodeConfig, StoreConfig
from raykv.errors import CorruptData, RaykvError, StoreUnavailable
from raykv.ports import Host as HostFacts
from raykv.ports import Known, PeerFailure
from raykv.records import frames as f
from raykv.records.keys import encode_key
from raykv.records.record import pack_body, pack_tombstone_body, stamp, stamp_of
from raykv.replication.cluster_state import BucketEntry, encode_state
from raykv.replication.coordinator import Coordinator
from raykv.replication.merkle import digest
from raykv.replication.node import NodeSpec
from raykv.replication.peers import node_address
from raykv.replication.writing import Put
from raykv.sim.cluster import SimProbe
from raykv.sim.disk import SimDisk
from raykv.sim.history import Violation
from raykv.sim.host import EPOCH_MS, Host, SimClock
from raykv.sim.kernel import Process, run_virtual
from raykv.sim.nemesis import flip_a_bit
from raykv.sim.network import Network, NetworkOdds, SimTransport
from raykv.sim.nodes import open_node
from raykv.sim.promises import Promises
from raykv.sim.trace import Trace
from raykv.supervision.founding import Plan, first_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.replication.node import StorageNode
    from raykv.sim.kernel import VirtualLoop
    from raykv.storage import Damage

PATH = "/data"
COPIES = 3
STEPS = 60
_ALL_KEYS = (b"\x00", b"\xff")


def copies_drill(seed: int, number: int = 0) -> tuple[list[Violation], str]:
    """Run one drill; return what was wrong, and the hash of its trace."""
    runner, loop = run_virtual(lambda loop: _Drill(loop, f"copies drill {seed}.{number}").go())
    found = runner.violations + runner.promises.broken
    found += [Violation("not handled", "", text, loop.now_s) for text in loop.failures]
    return found, runner.trace.hexdigest()


class _Drill:
    def __init__(self, loop: VirtualLoop, seed: str) -> None:
        self.loop = loop
        self.rng = rng = random_module.Random(seed)
        self.trace = Trace(loop)
        self.network = Network(loop, random_module.Random(f"{seed}/network"), self.trace)
        self.network.odds = NetworkOdds(delay_s=(0.0002, rng.choice((0.002, 0.01))))
        self.violations: list[Violation] = []
        self.node_ids = [f"n{number + 1}" for number in range(COPIES)]
        self.hosts = {
            name: Host(name, loop, random_module.Random(f"{seed}/{name}"), self.trace)
            for name in [*self.node_ids, "coordinator"]
        }
        grace_s = rng.choice((1.0, 1.0, 600.0))  # with the last an old directory may be believed, as far as it goes
        self.store = StoreConfig(name="drill", copies=COPIES, partitions=8, durability="group", grace_s=grace_s)
        self.promises = Promises(loop, self.store, set(), 0.0)
        self.mends = rng.random() < 0.5
        """Whether nodes make themselves whole."""
        self.all_get_all = rng.random() < 0.3
        """Whether all writes are put on all copies (W=3, R=1): then two of them may be lost at once."""
        self.scan_bytes = rng.choice((1 << 20, 1000, 3000))
        """How much fits into one answer of a node to a scan."""
        self.r, self.w = (1, COPIES) if self.all_get_all else (2, 2)
        self.repair_every_s = rng.choice((86_400.0, 1.0))
        self.slow_disk_s = rng.choice((0.0, 0.02, 0.1))
        plan = Plan(store=self.store, nodes=COPIES, weights=(1.0,) * COPIES)
        facts = [HostFacts(name=node_id) for node_id in self.node_ids]
        config = BucketConfig(name="default", n=COPIES, r=self.r, w=self.w, versioning="lww")
        self.state = msgspec.structs.replace(first_state(plan, "drill", facts), buckets=(BucketEntry(1, config),))
        self.entry = self.state.buckets[0]
        self.bucket_id = self.entry.bucket_id
        self.nodes: dict[str, StorageNode] = {}
        self.processes: dict[str, Process] = {}
        self.client = Process(loop, "client")
        self.transport = SimTransport(self.network, self.client)
        self.keys = [f"k{number:03}" for number in range(rng.choice((6, 40, 40)))]
        self.time = EPOCH_MS << 16
        self.floor: dict[str, int] = {}
        """Key -> the time of the newest record that a quorum has acknowledged or shown."""
        self.deleted: dict[str, int] = {}
        """Key -> the time of its last delete: repairs may purge it, and then nothing is what is to be shown."""
        self.forgotten: dict[str, int] = {}
        """Key -> the time of the delete that all copies have forgotten."""
        self.refused: set[bytes] = set()
        """The operations of which the client was told that nothing was written."""
        self.old_disks: dict[str, SimDisk] = {}
        self.puts: list[asyncio.Task[None]] = []
        self.faults = 0
        self.lossy: set[str] = set()
        """Nodes that may lack what they acknowledged: never more than one, unless all copies have everything."""
        self.sequence = 0
        self.coordinator_process = process = Process(loop, "coordinator")
        clock, transport = SimClock(self.hosts["coordinator"], process), SimTransport(self.network, process)
        self.coordinator = process.run(
            lambda: Coordinator(transport, clock, SimProbe(Counter()), random_module.Random(seed))
        )

    async def go(self) -> _Drill:
        for node_id in self.node_ids:
            self._start(node_id, fresh=True)
            await self._tell(node_id)
        rng = self.rng
        self.kinds = rng.sample(("kill", "wipe", "rot", "wait", "old copy"), 4)
        steps = (
            self._put, self._put_beside, self._read_some, self._scan, self._fault, self._start_all, self._forget,
            self._put_in_vain,
        )  # fmt: skip
        for _ in range(STEPS):
            if self.violations or self.promises.broken:
                break
            (step,) = rng.choices(steps, (7, 4, 4, 2, 4, 4, 2, 1))
            await step()
        await self._start_all()
        await asyncio.sleep(rng.choice((0.0, 2.0)))
        for _ in range(2):  # other copies are asked, or in another order
            await self._read(self.keys)
            await self._scan()
        for process in [self.coordinator_process, self.client, *self.processes.values()]:
            process.kill()
        await asyncio.sleep(3.0)
        return self

    # ---- nodes ----

    def _start(self, node_id: str, *, fresh: bool = False) -> None:
        process, host = Process(self.loop, node_address(node_id)), self.hosts[node_id]
        host.slow_disk_s = self.slow_disk_s
        last = self.nodes.get(node_id)
        known = Known()
        if last is not None:
            known = Known(last.incarnation, last._life, last._engine.durable_end)  # noqa: SLF001
        spec = NodeSpec(
            store_id="drill", node_id=node_id, path=PATH, store=self.store, fresh=fresh, known=known,
            node=NodeConfig(
                memtable_bytes=4096, block_bytes=256, block_cache_bytes=0, runs_per_level=2,
                repair_every_s=self.repair_every_s,
            ),
        )  # fmt: skip
        transport = SimTransport(self.network, process) if self.mends else None
        try:
            node = open_node(spec, host, process, self.rng, transport)
        except CorruptData:
            process.kill()
            return  # it stays away, and says so
        node._replica.scan_bytes = self.scan_bytes  # noqa: SLF001
        self.nodes[node_id], self.processes[node_id] = node, process
        process.run(node.begin)
        self._look_when_whole(node_id, node)
        self.trace.note(f"runs as incarnation {node.incarnation}", node_id)
        self.promises.audit(node_id, node)

        async def serve(frame: bytes) -> bytes:
            before = self.promises.before(node_id)
            answer = await node.serve(frame)
            self.promises.answered(node_id, frame, answer, before, host.wall_ms())
            return answer

        self.network.register(process, serve)
        self._publish()

    async def _start_all(self) -> None:
        for node_id in self.node_ids:
            if not self._runs(node_id):
                self._start(node_id)
                await self._tell(node_id)

    def _runs(self, node_id: str) -> bool:
        return self.processes[node_id].alive

    def _end(self, node_id: str) -> None:
        self.processes[node_id].kill()
        self._publish()

    def _publish(self) -> None:
        self.sequence += 1
        down = {node_id: "ended" for node_id, process in self.processes.items() if not process.alive}
        incarnations = {node_id: node.incarnation for node_id, node in self.nodes.items()}
        self.coordinator.routing.learn(f.Publish(self.sequence, encode_state(self.state), down, incarnations))

    async def _tell(self, node_id: str) -> None:
        """Tell a node the cluster's state, with its vote."""
        held = await self._ask(node_id, f.ReadRegister())
        if isinstance(held, f.RegisterAnswer):
            state = self.state
            data = encode_state(state)
            await self._ask(node_id, f.AcceptRegister(state.generation, state.version, data, True, [held.life]))

    async def _ask(self, node_id: str, body: f.NodeRequestBody) -> f.NodeAnswerBody | None:
        frame = f.node_requests.encode(f.NodeRequest(0, body))
        with contextlib.suppress(PeerFailure):
            return f.node_answers.decode(await self.transport.call(node_address(node_id), frame, 1.0)).body
        return None

    def _look_when_whole(self, node_id: str, node: StorageNode) -> None:
        """See it when a node has made itself whole; at that moment its power may go."""
        made_whole = node._replica.made_whole  # noqa: SLF001 - the very moment matters

        def watched(damages: Sequence[Damage]) -> None:
            made_whole(damages)
            if node.whole:
                self.loop.call_soon(self._whole, node_id, node)

        node._replica.made_whole = watched  # type: ignore[method-assign]  # noqa: SLF001

    def _whole(self, node_id: str, node: StorageNode) -> None:
        if self.nodes[node_id] is not node or not self._runs(node_id):
            return
        self.lossy.discard(node_id)
        self.promises.renew(node_id, node)
        if self.rng.random() < 0.6:
            self._power(node_id)

    def _power(self, node_id: str) -> None:
        self.trace.note("its power goes", node_id)
        self._end(node_id)
        self.hosts[node_id].replace_disk(self.hosts[node_id].disk.crash(self.rng, "drop"))

    # ---- what is done ----

    async def _put(self) -> None:
        """Put a few records on all copies or on some; acknowledged is what is on a majority of whole ones or more."""
        rng, faults = self.rng, self.faults
        targets = self.node_ids if self.all_get_all else rng.sample(self.node_ids, rng.choice((1, 2, 2, 3)))
        items = []
        for key in rng.sample(self.keys, rng.randint(1, 3)):
            self.time += 1
            payload = rng.randbytes(rng.choice((10, 300)))
            items.append((encode_key(key), stamp(pack_body(rng.randbytes(16), payload), self.time)))
        asked = [asyncio.ensure_future(self._ask(node_id, f.Write(self.bucket_id, items))) for node_id in targets]
        done = [isinstance(answer, f.WriteDone) for answer in await asyncio.gather(*asked)]
        if sum(done) >= self.w and self.faults == faults:  # else one may have said so before it was wiped
            for encoded, record in items:
                self._raise(encoded[1:].decode(), int.from_bytes(record[1:9], "big"))

    async def _put_beside(self) -> None:
        """Begin a put, and do not wait for it."""
        self.puts.append(self.client.spawn(self._put()))

    async def _put_in_vain(self) -> None:
        """Put a record with only one node left, whose disk fails; what the client is told must be so."""
        rng = self.rng
        alone = rng.choice(self.node_ids)
        if not self._runs(alone) or self.lossy - {alone}:
            return
        for node_id in self.node_ids:
            if node_id != alone:
                self._end(node_id)
        operation = rng.randbytes(16)
        items = [Put(encode_key(rng.choice(self.keys)), pack_body(operation, rng.randbytes(10)), None)]
        self.hosts[alone].disk.fail(rng.choice(("sync", "sync", "append")))
        try:
            (outcome,) = await self.coordinator._writes.write(  # noqa: SLF001 - and not by way of a frame
                self.entry, items, self.w, 0, self.loop.now_s + 0.3
            )
        except StoreUnavailable as error:
            outcome = error
        if isinstance(outcome, StoreUnavailable):
            self.refused.add(operation)
        self._end(alone)
        self.hosts[alone].disk.stop_failing()
        await self._start_all()

    async def _read_some(self) -> None:
        await self._read(self.rng.sample(self.keys, 3))

    async def _forget(self) -> None:
        """Delete a key on all copies, and let all of them forget it, as a purge does."""
        if self.store.grace_s > 1.0:
            return
        await asyncio.gather(*self.puts, return_exceptions=True)  # or one would come after it that was made before
        await asyncio.sleep(max(0.0, self.store.grace_s - self.loop.now_s))  # all records are of the beginning
        if not all(self._runs(node_id) and self.nodes[node_id].whole for node_id in self.node_ids):
            return
        self.old_disks.clear()  # no directory comes back from before a purge: it would be too old for that (P10)
        key, faults = self.rng.choice(sorted(self.floor) or self.keys), self.faults
        beneath = self.rng.random() < 0.7
        if beneath:  # what is deleted is in a table, and the delete in the log
            for node in self.nodes.values():
                node._engine.compact_fully()  # noqa: SLF001
            await self._read([key])
            await asyncio.sleep(0.3)
        self.time += 1
        self.deleted[key] = self.time
        encoded, tombstone = encode_key(key), stamp(pack_tombstone_body(self.rng.randbytes(16)), self.time)
        write = f.Write(self.bucket_id, [(encoded, tombstone)])
        done = await asyncio.gather(*(self._ask(node_id, write) for node_id in self.node_ids))
        if not all(isinstance(answer, f.WriteDone) for answer in done):
            return
        purge = f.Purge([(self.bucket_id, encoded, digest(self.bucket_id, encoded, tombstone))], sure=True)
        self.promises.forget(self.bucket_id, encoded)
        self.floor.pop(key, None)
        purged = await asyncio.gather(*(self._ask(node_id, purge) for node_id in self.node_ids))
        if all(isinstance(answer, f.Purged) and answer.indexes for answer in purged) and faults == self.faults:
            self.forgotten[key] = self.time
            if beneath:
                await self._rot_of_the_log(self.rng.choice(self.node_ids))

    async def _rot_of_the_log(self, node_id: str) -> None:
        """Let most of what a node has logged lately rot, deletes and what was forgotten among it; start it again."""
        if self.lossy - {node_id} or "rot" not in self.kinds:
            return
        for _ in range(3):  # rot in what nothing was logged after looks like a torn tail
            await self._put()
        self.faults += 1
        self.lossy.add(node_id)
        self._end(node_id)
        for _ in range(3):
            flip_a_bit(self.hosts[node_id].disk, self.rng, ".wal", times=20)
        self._start(node_id)
        await self._tell(node_id)
        await asyncio.sleep(self.rng.choice((0.0, 3.0)))

    async def _read(self, keys: list[str]) -> None:
        floor = dict(self.floor)
        try:
            records = await self.coordinator._reads.records(  # noqa: SLF001 - whole records, not what clients see
                self.entry, [encode_key(key) for key in keys], self.r, self.loop.now_s + 1.0
            )
        except RaykvError:
            return
        for key, record in zip(keys, records, strict=True):
            if not isinstance(record, RaykvError):
                self._compare(key, record, "read", floor)

    async def _scan(self) -> None:
        rng, limit, reverse = self.rng, self.rng.choice((3, 7, 1000)), self.rng.random() < 0.5
        start, end = _ALL_KEYS
        shown: dict[str, bytes] = {}
        floor = dict(self.floor)
        if rng.random() < 0.3:
            for node_id in rng.sample(self.node_ids, 2):
                if self._runs(node_id):
                    self.loop.later(rng.uniform(0.0, 0.02), self._end, node_id)
        while True:
            request = f.ScanPage(self.bucket_id, start, end, limit, reverse, False, self.r, 0.5)
            try:
                pairs, resume = await self.coordinator._scans.page(  # noqa: SLF001
                    self.entry, request, self.loop.now_s + 0.5
                )
            except RaykvError:
                return
            shown |= {key[1:].decode(): record for key, record in pairs}
            if resume is None:
                break
            start, end = (start, resume) if reverse else (resume, end)
        for key in self.keys:
            self._compare(key, shown.get(key), "scan", floor)

    def _compare(self, key: str, record: bytes | None, what: str, floor: dict[str, int]) -> None:
        """Compare what was shown with what stood on a quorum, or had been shown, when it was asked for."""
        time, least = 0 if record is None else int.from_bytes(record[1:9], "big"), floor.get(key, 0)
        if record is not None and stamp_of(record)[8:] in self.refused:
            text = f"in a drill with three copies: a {what} of {key} shows a write of which nothing was to have been written"
            self.violations.append(Violation("refused and written", key, text, self.loop.now_s))
        if 0 < time < self.forgotten.get(key, 0):
            text = f"in a drill with three copies: a {what} of {key} shows what all copies had deleted and forgotten"
            self.violations.append(Violation("came back", key, text, self.loop.now_s))
        if time < least and not (record is None and least <= self.deleted.get(key, 0)):
            found = "nothing" if record is None else "an older record"
            text = f"in a drill with three copies: a {what} of {key} shows {found}, and a newer one was on a quorum or shown"
            self.violations.append(Violation("copies passed over", key, text, self.loop.now_s))
        if 2 * self.r > COPIES:
            self._raise(key, time)

    def _raise(self, key: str, time: int) -> None:
        self.floor[key] = max(time, self.floor.get(key, 0))

    # ---- faults ----

    async def _fault(self) -> None:
        rng, kind = self.rng, self.rng.choice(self.kinds)
        node_id = rng.choice(self.node_ids)
        self.faults += 1
        self.trace.note(f"fault: {kind}", node_id)
        may_lose = not self.lossy - {node_id}
        match kind:
            case "kill" if self._runs(node_id):
                self._end(node_id)
            case "wipe" if may_lose:
                await self._wipe(node_id)
            case "old copy":
                await self._old_copy(node_id, may_lose=may_lose)
            case "rot" if may_lose and self._runs(node_id):
                self.lossy.add(node_id)
                for _ in range(6):
                    flip_a_bit(self.hosts[node_id].disk, rng)
            case _:
                await asyncio.sleep(rng.choice((0.01, 0.3, 3.0)))

    async def _wipe(self, node_id: str) -> None:
        rng, victims = self.rng, [node_id]
        self.lossy.add(node_id)
        if self.all_get_all:  # and the third is away, from whom all could be had
            victims.append(rng.choice([other for other in self.node_ids if other != node_id]))
            self.lossy.update(victims)
            for other in self.node_ids:
                self._end(other)
        for victim in victims:
            self._end(victim)
            self.hosts[victim].replace_disk(SimDisk())
            self._start(victim)
            await self._tell(victim)
        if rng.random() < 0.5:  # of one that gives, or one that takes
            self.loop.later(rng.uniform(0.0, 0.3), self._power, rng.choice(self.node_ids))
        for _ in range(rng.choice((0, 3))):
            await self._put_beside()
        await asyncio.sleep(rng.choice((0.0, 3.0)))

    async def _old_copy(self, node_id: str, *, may_lose: bool) -> None:
        """Make a copy of a node's directory, or put the one back that was made before."""
        if node_id not in self.old_disks or self.rng.random() < 0.3:
            self.old_disks[node_id] = self.hosts[node_id].disk.crash(self.rng, "keep")
        elif may_lose:
            self.lossy.add(node_id)
            self._end(node_id)
            self.hosts[node_id].replace_disk(self.old_disks.pop(node_id))
            self._start(node_id)
            await self._tell(node_id)
            await asyncio.sleep(self.rng.choice((0.0, 3.0)))
