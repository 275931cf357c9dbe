"""The simulation's cluster without a supervisor, with short words for what tests do to it and ask of it.

Everything that is not a word for tests is ``raykv.sim``: time that jumps to the next timer, hosts with disks, processes
that are killed (their disk keeps what was synced, or all) and frozen, and the network, here with one delay for all
messages, and cuts that lose what meets them. ``simulation.bare_cluster`` puts it together. Nodes are real
``StorageNode``s; coordinators have a process each, and what a test asks of one directly is done outside of it.

A run fails if a task of it ended with an error that nobody has taken, or a process raised one as it served.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Literal

from raykv.client.codecs import pickle_plainly
from raykv.cluster.peers import node_address
from raykv.cluster.state import ClusterState, encode_state
from raykv.config import BucketConfig, NodeConfig, StoreConfig
from raykv.coordinator.coordinator import Coordinator
from raykv.coordinator.nearness import NOWHERE, Place
from raykv.coordinator.service import CoordinatorService
from raykv.ports import Host as HostFacts
from raykv.ports import Known, Launched, LaunchFailed
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.durations import new_histogram, sendable
from raykv.records.keys import LAST_TAG_END, encode_key, storage_prefix
from raykv.records.record import pack_body, pack_tombstone_body, stamp
from raykv.ring import Member, claim
from raykv.sim.disk import SimDisk
from raykv.sim.host import EPOCH_MS as WALL_MS
from raykv.sim.host import Host, SimClock, SimExecutor
from raykv.sim.kernel import Process, VirtualLoop, run_virtual
from raykv.sim.network import NetworkOdds, SimTransport
from raykv.sim.trace import Trace
from raykv.versions import time_from_ms
from raykv.versions.dvvset import event
from simulation.bare_cluster import BareCluster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence

    from raykv.node.node import StorageNode

STORE_ID = "store-1"
BUCKET = 1
DELAY_S = 0.0005
TELLS = True
"""Whether a started node gets the cluster's state at once, as from a supervisor."""


def run(story: Coroutine[Any, Any, Any]) -> Any:
    """Run a test in virtual time; what it leaves behind is cancelled, and its processes end."""

    async def whole() -> Any:
        try:
            return await story
        finally:
            while _processes:
                _processes.pop().kill()
            await asyncio.sleep(0)

    result, loop = run_virtual(lambda _: whole())
    assert not loop.failures, "\n".join(loop.failures)
    return result


_processes: list[Process] = []
"""Those of the test that runs."""


def started(name: str) -> Process:
    """A process that ends with the test."""
    loop: Any = asyncio.get_running_loop()
    _processes.append(Process(loop, name))
    return _processes[-1]


class Clock(SimClock):
    """The clock of a process on a host of its own, off by ``skew_ms``."""

    def __init__(self, skew_ms: int = 0, process: Process | None = None) -> None:
        try:
            loop: Any = asyncio.get_running_loop()
        except RuntimeError:  # a node may be opened before there is a loop
            loop = VirtualLoop()
        process = process or Process(loop, "clock")
        super().__init__(Host(process.name, loop, random.Random(1), Trace(loop)), process)
        self.skew_ms = skew_ms

    @property
    def skew_ms(self) -> float:
        return self._host.skew_ms

    @skew_ms.setter
    def skew_ms(self, skew_ms: float) -> None:
        self._host.skew_ms = skew_ms


class Metrics(Counter[str]):
    def __init__(self) -> None:
        super().__init__()
        self.measured: dict[str, list[float]] = {}

    def histogram(self, name: str) -> list[float]:
        return self.measured.setdefault(name, new_histogram())

    def histograms(self) -> dict[str, list[int]]:
        return {name: counts for name, each in self.measured.items() if (counts := sendable(each))}

    def count(self, name: str, amount: int = 1) -> None:
        self[name] += amount

    def counted(self) -> dict[str, int]:
        return dict(self)


class Executor(SimExecutor):
    """A node's, which works slower by ``delay_s``, and not before ``gate`` is open."""

    def __init__(self, host: Host, process: Process) -> None:
        super().__init__(host, process)
        self.delay_s = 0.0
        self.runs = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, work: Callable[[], Any]) -> Any:
        self.runs += 1
        await self.gate.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return await super().run(work)


class NodeProcess:
    """A run of a node. A test may put something else in the place of ``serve``."""

    def __init__(self, node: StorageNode, process: Process, executor: Executor) -> None:
        self.node = node
        self.process = process
        self.executor = executor
        self.serve: Callable[[bytes], Awaitable[bytes]] = node.serve

    async def answer(self, frame: bytes) -> bytes:
        return await self.serve(frame)


class Disks(MutableMapping[str, SimDisk]):
    """Node id -> the disk of its host."""

    def __init__(self, hosts: dict[str, Host]) -> None:
        self._hosts = hosts

    def __getitem__(self, node_id: str) -> SimDisk:
        return self._hosts[node_id].disk

    def __setitem__(self, node_id: str, disk: SimDisk) -> None:
        self._hosts[node_id].replace_disk(disk)

    def __delitem__(self, node_id: str) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)


class Peer:
    """A coordinator with its front, and short words for what clients ask."""

    def __init__(self, cluster: Cluster, name: str, skew_ms: int, here: Place = NOWHERE) -> None:
        self.cluster = cluster
        self.name = name
        self.process = started(name)
        self.clock = Clock(skew_ms, self.process)
        self.metrics = Metrics()
        transport = SimTransport(cluster.network, self.process)
        cluster.coordinators += 1
        rng = random.Random(f"{name} {cluster.coordinators}")
        self.core = Coordinator(transport, self.clock, self.metrics, rng, here=here)
        self.front = CoordinatorService(self.core, transport, self.clock)
        self._operations = random.Random(name)

    def operation(self) -> bytes:
        return self._operations.randbytes(16)

    async def send(
        self,
        items: Sequence[tuple[str, bytes, bytes | None]],
        *,
        w: int = 2,
        timeout_s: float = 5.0,
        bucket: int = BUCKET,
        after: int = 0,
    ) -> list[Any]:
        """Write (key, body, causality or None) items; return the ``Acked`` or the error of each."""
        encoded = [(encode_key(key), body, seen) for key, body, seen in items]
        wrote = await self.front.carry_out(f.WriteMany(bucket, encoded, w, timeout_s, after))
        assert isinstance(wrote, f.WroteMany), wrote
        assert len(wrote.items) == len(items)
        return [item.error() if isinstance(item, f.Failed) else item for item in wrote.items]

    async def write(self, items: Sequence[tuple[str, bytes]], **options: Any) -> list[Any]:
        """Write (key, body) pairs; return who acknowledged, or the error of each."""
        sent = await self.send([(key, body, None) for key, body in items], **options)
        return [item.nodes if isinstance(item, f.Acked) else item for item in sent]

    async def store(
        self,
        key: str,
        value: str | None,
        *,
        context: bytes | None = None,
        operation: bytes | None = None,
        ttl_ms: int | None = None,
        **options: Any,
    ) -> f.Acked:
        """Put (or, with None, delete) with a context or without one; return all that is answered, or raise."""
        operation = operation or self.operation()
        body = pack_tombstone_body(operation) if value is None else pack_body(operation, value.encode(), ttl_ms)
        (result,) = await self.send([(key, body, context)], **options)
        if isinstance(result, Exception):
            raise result
        assert result.operation_id == operation
        return result

    async def put(self, key: str, value: str, **options: Any) -> list[str]:
        """Put and return the acknowledging nodes, or raise."""
        return (await self.store(key, value, **options)).nodes

    async def delete(self, key: str, **options: Any) -> list[str]:
        return (await self.store(key, None, **options)).nodes

    async def find(
        self, keys: Sequence[str], *, r: int = 2, timeout_s: float = 5.0, bucket: int = BUCKET
    ) -> list[tuple[list[str], bytes] | Exception]:
        """Return what stands under each key, the newest first, with the causality; or its error."""
        request = f.GetMany(bucket, [encode_key(key) for key in keys], r, timeout_s, causality=True)
        got = await self.front.carry_out(request)
        assert len(got.items) == len(keys)
        return [
            item.error()
            if isinstance(item, f.Failed)
            else ([payload.decode() for payload in f.whole(item).payloads], f.whole(item).causality)
            for item in got.items
        ]

    async def get_many(self, keys: Sequence[str], **options: Any) -> list[Any]:
        found = await self.find(keys, **options)
        return [item if isinstance(item, Exception) else next(iter(item[0]), None) for item in found]

    async def get(self, key: str, **options: Any) -> Any:
        """Get the (newest) value or None, or raise."""
        (item,) = await self.get_many([key], **options)
        if isinstance(item, Exception):
            raise item
        return item

    async def versions(self, key: str, **options: Any) -> tuple[list[str], bytes]:
        """Get all that stands, the newest first, and the causality; or raise."""
        (item,) = await self.find([key], **options)
        if isinstance(item, Exception):
            raise item
        return item

    async def page(
        self,
        start: bytes = b"",
        end: bytes = LAST_TAG_END,
        *,
        limit: int = 1000,
        reverse: bool = False,
        keys_only: bool = False,
        r: int = 2,
        timeout_s: float = 5.0,
        passing: bool = False,
    ) -> f.Page:
        request = f.ScanPage(BUCKET, start, end, limit, reverse, keys_only, r, timeout_s, passing)
        return await self.front.carry_out(request)

    async def scan(
        self, *, limits: Sequence[int] = (1000,), reverse: bool = False, **options: Any
    ) -> list[tuple[str, str]]:
        """Scan to the end, page after page, with these limits in turn."""
        found: list[tuple[str, str]] = []
        start, end = b"", LAST_TAG_END
        for turn in range(10_000):
            page = await self.page(start, end, limit=limits[turn % len(limits)], reverse=reverse, **options)
            found += [(key[1:].decode(), payload.decode()) for key, (payload,), _ in page.items]
            if page.resume is None:
                return found
            start, end = (start, page.resume) if reverse else (page.resume, end)
        raise AssertionError("the scan does not come to its end")

    async def ask(self, request: f.CoordinatorRequest) -> Any:
        """Through the front, as frames."""
        return f.coordinator_answers.decode(await self.front.serve(f.coordinator_requests.encode(request)))

    async def rest(self) -> None:
        """Wait until nothing is under way."""
        while self.front.busy:  # noqa: ASYNC110 - in virtual time
            await asyncio.sleep(0.001)


class Cluster(BareCluster):
    """Nodes n1..nN, their hosts, and the state that a supervisor would hand out."""

    store_id = STORE_ID

    def __init__(
        self,
        nodes: int = 3,
        *,
        copies: int = 3,
        partitions: int = 8,
        durability: Literal["group", "interval", "always"] = "group",
        config: NodeConfig | None = None,
        versioning: Literal["vector", "lww", "linearizable"] = "lww",
        sloppy: bool = False,
        gc_grace_s: float = 10 * 86_400.0,
        maintenance: bool = False,
        r: int | None = None,
        w: int | None = None,
    ) -> None:
        """``versioning``, ``sloppy``, ``r``, ``w`` (a majority) are those of the bucket "default".

        ``maintenance``: the nodes work by themselves, and reach each other.
        """
        self.ids = [f"n{number + 1}" for number in range(nodes)]
        store = StoreConfig(
            name="test", copies=copies, partitions=partitions, durability=durability, gc_grace_s=gc_grace_s
        )
        loop: Any = asyncio.get_running_loop()
        super().__init__(loop, "test", store, self.ids)
        self.all_delay(DELAY_S)
        self.network.notice_s = (0.0, 0.0)
        self.network.sent = lambda *sent: self.frames.append(sent)
        self.frames: list[tuple[str, str, bytes]] = []
        """What was sent: (from, to, request)."""
        self.clock = Clock()
        self.random = random.Random(7)
        self.maintenance = maintenance
        self.config = config or NodeConfig(block_cache_bytes=0)
        self.disks = Disks(self.hosts)
        self.failures: list[tuple[str, str]] = []
        self.down: dict[str, str] = {}
        self.sequence = 0
        self.coordinators = self.clients = 0
        self._runs: dict[str, NodeProcess] = {}
        self._executors: dict[Process, Executor] = {}
        quorum = copies // 2 + 1
        state = ClusterState(
            store_id=STORE_ID,
            generation=1,
            version=0,
            config=self.store,
            ring=claim([Member(node_id) for node_id in self.ids], partitions, copies),
        )
        self.state = state.with_bucket(
            BucketConfig(name="default", n=copies, r=r or quorum, w=w or quorum, versioning=versioning, sloppy=sloppy)
        )
        self.answer_as("supervisor", self._supervise)

    @property
    def clocks(self) -> dict[str, Host]:
        """The nodes' hosts: their clocks are off by ``skew_ms``."""
        return self.hosts

    def all_delay(self, delay_s: float) -> None:
        """Let every message take so long that has no delay of its own."""
        self.network.odds = NetworkOdds(delay_s=(delay_s, delay_s), kept=0.0)

    def transport(self, name: str) -> SimTransport:
        """The network's end of a process that answers nothing."""
        return SimTransport(self.network, started(name))

    def answer_as(self, name: str, serve: Callable[[bytes], Awaitable[bytes]]) -> Process:
        """Start a process that answers frames under a name, in place of any other."""
        process = started(name)
        self.network.register(process, serve)
        return process

    def start(self, *nodes: str, fresh: bool = True) -> Cluster:
        for node_id in nodes or self.ids:
            self.start_node(node_id, fresh=fresh)
        return self

    def start_node(self, node_id: str, *, fresh: bool = False) -> NodeProcess:
        """Start the node's process on its disk."""
        node = self.open(node_id, self.config, self.random, fresh=fresh, known=Known(), reaches_others=self.maintenance)
        process = self.processes[node_id]
        _processes.append(process)
        made = self._runs[node_id] = NodeProcess(node, process, self._executors[process])
        self.network.register(process, made.answer)
        if self.maintenance:
            process.run(node.begin)
        if TELLS:
            self.tell(node_id)
        return made

    def executor(self, host: Host, process: Process) -> Executor:
        made = self._executors[process] = Executor(host, process)
        return made

    def failed(self, node_id: str, process: Process, cause: str) -> None:
        """Note it; the process goes on, as until its shell has ended it."""
        self.failures.append((node_id, cause))

    def tell(self, *nodes: str) -> None:
        """Tell these nodes, or all that run, the decided state."""
        state = self.state
        for node_id in nodes or [node_id for node_id in self.ids if self.runs(node_id)]:
            directory_ids = [
                self.node(node_id)._directory.directory_id
            ]  # as a supervisor does, after it has seen that a register is lost
            data = encode_state(state)
            body = f.AcceptState(state.generation, state.version, data, decided=True, directory_ids=directory_ids)
            answer, _ = self.node(node_id)._replica.handle(body)
            assert isinstance(answer, f.AcceptorAnswer)
            assert answer.granted

    def change(self, state: ClusterState, *peers: Peer) -> None:
        """Decide another state, and tell it to all that run and to these coordinators."""
        self.state = state
        self.tell()
        self.publish(*peers)

    def runs(self, node_id: str) -> bool:
        return node_id in self._runs and self._runs[node_id].process.alive

    def process(self, node_id: str) -> NodeProcess:
        return self._runs[node_id]

    def node(self, node_id: str) -> StorageNode:
        return self.process(node_id).node

    def kill(self, node_id: str, mode: Literal["keep", "drop", "random"] = "drop") -> None:
        """End the process; the disk keeps what ``mode`` says."""
        self.process(node_id).process.kill()
        self.disks[node_id] = self.disks[node_id].crash(self.random, mode)

    def freeze(self, node_id: str) -> None:
        self.process(node_id).process.freeze()

    def thaw(self, process: NodeProcess) -> None:
        process.process.thaw()

    def revive(self, node_id: str) -> NodeProcess:
        """Start a killed node again."""
        return self.start_node(node_id)

    def replace(self, node_id: str) -> NodeProcess:
        """Start another process of the node on what a process crash leaves of its disk; return the former one.

        The former one keeps its own disk, whatever it still does.
        """
        former, host = self.process(node_id), self.hosts[node_id]
        self.add_host(node_id).replace_disk(host.disk.crash(self.random, "keep"))
        self.hosts[node_id].skew_ms = host.skew_ms
        self.start_node(node_id)
        return former

    def add_host(self, node_id: str) -> Host:
        """A host for the node, in place of any other."""
        host = self.hosts[node_id] = Host(node_id, self.loop, self.rng_for(node_id), self.trace)
        return host

    def wipe(self, node_id: str) -> None:
        """End the process and lose the disk."""
        self.kill(node_id)
        self.disks[node_id] = SimDisk()

    def cut(self, source: str, target: str) -> None:
        self.network.cut(source, target)

    def mend(self) -> None:
        self.network.cuts.clear()

    def cluster_update(self) -> f.ClusterUpdate:
        incarnations = {node_id: self.node(node_id).incarnation for node_id in self.ids}
        return f.ClusterUpdate(self.sequence, encode_state(self.state), dict(self.down), incarnations)

    def publish(self, *peers: Peer) -> None:
        self.sequence += 1
        for peer in peers:
            peer.core.routing.learn(self.cluster_update())

    def coordinator(self, name: str = "coordinator", *, skew_ms: int = 0, here: Place = NOWHERE) -> Peer:
        """Return a coordinator that has the latest cluster update."""
        peer = Peer(self, name, skew_ms, here)
        self.network.register(peer.process, peer.front.serve)
        self.publish(peer)
        return peer

    async def _supervise(self, frame: bytes) -> bytes:
        f.supervisor_requests.decode(frame)
        return f.supervisor_answers.encode(self.cluster_update())

    # ---- straight to one node ----

    async def ask(self, node_id: str, body: f.NodeRequestBody, incarnation: int = 0) -> Any:
        frame = await self.process(node_id).serve(f.node_requests.encode(f.NodeRequest(incarnation, body)))
        return f.node_answers.decode(frame).body

    async def held(self, node_id: str, key: str, bucket: int = BUCKET) -> bytes | None:
        """The record that one node has."""
        answer = await self.ask(node_id, f.Read(bucket, [encode_key(key)]))
        assert isinstance(answer, f.ReadDone), answer
        return answer.records[0]

    def stored(self, node_id: str, key: str, bucket: int = BUCKET) -> bytes | None:
        """The record as the node keeps it, with the part that never leaves it, also if it answers no reads."""
        encoded = encode_key(key)
        partition = self.state.ring.partition_of(encoded)
        found = self.node(node_id)._engine.get(storage_prefix(partition, bucket) + encoded)
        return None if found is None else found.record

    async def give(self, node_id: str, key: str, record: bytes, bucket: int = BUCKET) -> None:
        """Write a record to one node only."""
        answer = await self.ask(node_id, f.Write(bucket, [(encode_key(key), record)]))
        assert isinstance(answer, f.WriteDone), answer

    def owners(self, key: str) -> tuple[str, ...]:
        return self.state.ring.owners(self.partition(key))

    def partition(self, key: str) -> int:
        return self.state.ring.partition_of(encode_key(key))

    def place(self, key: str, bucket: int = BUCKET) -> bytes:
        """Where a node's engine keeps the key."""
        return storage_prefix(self.partition(key), bucket) + encode_key(key)

    def flush(self, node_id: str) -> list[str]:
        """Bring all that the node holds into a table; return the tables that are new."""
        engine, disk = self.node(node_id)._engine, self.disks[node_id]
        before = disk.files()
        for seal in (True, False):
            if (sync := engine.next_sync()) is not None:
                sync.run(True)
                engine.finish_sync(sync)
            if seal:
                engine._seal()
        while (job := engine.next_job()) is not None:
            job.run()
            engine.finish(job)
        return [path for path in disk.files() if path.endswith(".sst") and path not in before]

    def between_nodes(self, kind: type[Any]) -> list[tuple[str, str, Any]]:
        """The requests of one kind that nodes sent each other: (from, to, request)."""
        frames = [frame for frame in self.frames if frame[0].startswith("node/")]
        bodies = [(source[5:], target[5:], f.node_requests.decode(frame).body) for source, target, frame in frames]
        return [sent for sent in bodies if isinstance(sent[2], kind)]


def put_record(value: str, at_ms: int = 0, *, operation: int = 1, ttl_ms: int | None = None) -> bytes:
    """A record stamped ``at_ms`` after the test's beginning."""
    return stamp(pack_body(bytes([operation]) * 16, value.encode(), ttl_ms), time_from_ms(WALL_MS + at_ms))


def delete_record(at_ms: int = 0, *, operation: int = 1) -> bytes:
    return stamp(pack_tombstone_body(bytes([operation]) * 16), time_from_ms(WALL_MS + at_ms))


def vector_record(writer: int, value: str, *, at_ms: int = 0) -> bytes:
    """The record of a write that has seen nothing, under a dot of its own."""
    body = pack_body(bytes([writer]) * 16, value.encode())
    return vector.encode(event((bytes([writer]) * 8, 1), (), time_from_ms(WALL_MS + at_ms), body))


class ClientLink:
    """``client.driver.Link`` of a client in the same loop: awaiting only."""

    def __init__(self, cluster: Cluster, peer: str = "coordinator", name: str = "client") -> None:
        cluster.clients += 1
        self._transport = cluster.transport(name)
        self._peer = peer
        self._clock = Clock()
        self._random = random.Random(f"{name} {cluster.clients}")

    async def call(self, request: f.CoordinatorRequest, timeout_s: float) -> f.CoordinatorAnswer:
        frame = f.coordinator_requests.encode(request)
        return f.coordinator_answers.decode(await self._transport.call(self._peer, frame, timeout_s))

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    def wall_ms(self) -> int:
        return WALL_MS + round(1000 * self._clock.monotonic_s())

    async def sleep(self, delay_s: float) -> None:
        await self._clock.sleep(delay_s)

    def lacks(self) -> str:
        """See ``client.driver.Link``."""
        return ""

    def place(self) -> str:
        return self._name

    def took(self, request: Any, requests: int, began_s: float) -> None:
        pass

    def count(self, name: str, amount: int) -> None:
        pass

    def random_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def pickled(self, value: Any) -> bytes:
        return pickle_plainly(value)

    def close(self) -> None:
        """See ``client.driver.Link``."""


class Launcher:
    """``ports.Launcher`` over a cluster's disks."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.found: list[str] = []
        self.surveys = 0
        self.was_founded = False
        self.failing: dict[str, LaunchFailed] = {}
        self.launched: list[tuple[str, str, bool, bool]] = []
        self.retired: list[str] = []
        self.attempts: list[tuple[str, float]] = []
        self.needs_s: dict[str, float] = {}
        """Node id -> how long its process needs to start."""

    async def directories(
        self, *, everywhere: bool = False, preferred: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        self.surveys += everywhere
        return dict.fromkeys(sorted(self.found), "h1")

    async def room(self, timeout_s: float) -> str:
        assert timeout_s > 0
        return ""

    async def founded(self) -> bool:
        return self.was_founded

    async def note_founded(self) -> None:
        self.was_founded = True

    async def launch(
        self,
        node_id: str,
        host: str,
        *,
        fresh: Callable[[], Awaitable[bool]],
        take_over: bool,
        known: Known,
        timeout_s: float,
    ) -> Launched:
        assert timeout_s > 0
        needs_s = self.needs_s.get(node_id, 0.05)
        await asyncio.sleep(min(timeout_s, needs_s))
        self.attempts.append((node_id, asyncio.get_running_loop().time()))
        if needs_s > timeout_s:
            raise LaunchFailed("slow", f"its process did not answer within {timeout_s:g} s")
        if node_id in self.failing:
            raise self.failing[node_id]
        empty_is_complete = await fresh()
        self.launched.append((node_id, host, empty_is_complete, take_over))
        if node_id not in self.cluster.hosts:
            self.cluster.add_host(node_id)
        if self.cluster.runs(node_id):
            if not take_over:
                raise LaunchFailed("in use", "another process holds the directory")
            self.cluster.kill(node_id, "keep")
        process = self.cluster.start_node(node_id, fresh=empty_is_complete)
        if node_id not in self.found:
            self.found.append(node_id)
        return Launched(process.node.incarnation, 4000 + len(self.launched))

    async def hosts(self) -> list[HostFacts]:
        return [HostFacts(name=name, cpus=4.0, memory_bytes=8 << 30, disk_bytes=100 << 30) for name in ("h1", "h2")]

    async def running(self) -> list[str]:
        return [node_id for node_id in sorted(self.cluster.hosts) if self.cluster.runs(node_id)]

    async def retire(self, node_id: str, host: str) -> None:
        self.retired.append(node_id)
        if node_id in self.found:
            self.found.remove(node_id)
        if self.cluster.runs(node_id):
            self.cluster.process(node_id).process.kill()
        self.cluster.network.endpoints.pop(node_address(node_id), None)

    async def adopt(self, node_id: str, timeout_s: float) -> Launched | None:
        process = self.cluster.network.living(node_address(node_id))
        if process is None:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                while process.frozen:  # noqa: ASYNC110 - in virtual time
                    await asyncio.sleep(0.01)
        except TimeoutError:
            return None
        node = self.cluster.node(node_id)
        return None if node.stopped else Launched(node.incarnation, 4000)

    async def ended(self, node_id: str) -> str:
        process = self.cluster.network.living(node_address(node_id))
        if process is None:
            return "no process of it runs"
        gone = asyncio.Event()
        process.on_kill.append(gone.set)
        await gone.wait()
        return "its process ended"
