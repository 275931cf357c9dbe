"""A cluster in one event loop: real nodes and coordinators, a network and clocks that the test holds in its hands.

Time is virtual: when nothing is left to do the loop's clock jumps to the next timer, so a test of ten seconds takes
milliseconds and runs the same every time. A test in which nothing is left to happen fails at once.

Nodes are real ``StorageNode``s on a ``SimDisk`` each. ``kill`` ends a process (its disk keeps what was synced, or all),
``freeze`` stops it, ``thaw`` lets it go on; ``cut`` holds up frames in one direction. A frozen process that is replaced
(``replace``) is still there, and its late answers still arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

from raykv.client.codecs import pickle_plainly
from raykv.cluster.state import ClusterState, encode_state
from raykv.config import BucketConfig, NodeConfig, StoreConfig
from raykv.coordinator.coordinator import Coordinator
from raykv.coordinator.service import CoordinatorService
from raykv.node.node import NodeSpec, StorageNode
from raykv.ports import Host, Known, Launched, LaunchFailed, PeerAbsent, PeerDead, PeerSilent
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.keys import LAST_TAG_END, encode_key, storage_prefix
from raykv.records.record import pack_body, pack_tombstone_body, stamp
from raykv.ring import Member, claim
from raykv.sim.disk import SimDisk
from raykv.sim.kernel import VirtualLoop
from raykv.versions import time_from_ms
from raykv.versions.dvvset import event

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

WALL_MS = 1_700_000_000_000
STORE_ID = "store-1"
BUCKET = 1
TELLS = True
"""Whether a started node gets the cluster's state at once, as from a supervisor."""


def run(story: Coroutine[Any, Any, Any]) -> Any:
    """Run a test in virtual time; what it leaves behind is cancelled."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)


class Clock:
    """A host's clock: the loop's time, off by ``skew_ms``."""

    def __init__(self, skew_ms: int = 0) -> None:
        self.skew_ms = skew_ms

    def wall_ms(self) -> int:
        return WALL_MS + int(self.monotonic_s() * 1000) + self.skew_ms

    def monotonic_s(self) -> float:
        try:
            return asyncio.get_running_loop().time()
        except RuntimeError:  # a node may be opened before there is a loop
            return 0.0

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)

    def timeout(self, delay_s: float) -> AbstractAsyncContextManager[object]:
        return asyncio.timeout(delay_s)


class Metrics(Counter[str]):
    def count(self, name: str, amount: int = 1) -> None:
        self[name] += amount

    def counted(self) -> dict[str, int]:
        return dict(self)


class Executor:
    """Runs work in the loop, after ``delay_s``, and not before ``gate`` is open."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.runs = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def run(self, work: Callable[[], Any]) -> Any:
        self.runs += 1
        await self.gate.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        return work()


class Process:
    """Something that answers frames, until it is killed."""

    def __init__(self, serve: Callable[[bytes], Coroutine[Any, Any, bytes]]) -> None:
        self.serve = serve
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.running = asyncio.Event()
        self.running.set()
        self.node: StorageNode | None = None
        self.executor: Executor | None = None

    async def answer(self, frame: bytes) -> bytes:
        await self.running.wait()
        answer = await self.serve(frame)
        await self.running.wait()
        return answer


class Network:
    """Carries frames. Times in seconds; ``cuts`` and ``delays`` by (from, to)."""

    def __init__(self) -> None:
        self.processes: dict[str, Process] = {}
        self.cuts: set[tuple[str, str]] = set()
        self.delays: dict[tuple[str, str], float] = {}
        self.default_delay_s = 0.0005
        self.frames: list[tuple[str, str, bytes]] = []
        self._tasks: set[asyncio.Task[bytes]] = set()

    def transport(self, source: str) -> Transport:
        return Transport(self, source)

    async def call(self, source: str, peer: str, frame: bytes, timeout_s: float) -> bytes:
        self.frames.append((source, peer, frame))
        try:
            async with asyncio.timeout(timeout_s):
                await self._travel(source, peer)
                process = self.processes.get(peer)
                if process is None or process.ended.done():
                    raise PeerAbsent("no such process runs")
                # A peer finishes what it has begun, even if nobody waits for the answer any more.
                task = asyncio.get_running_loop().create_task(process.answer(frame))
                self._tasks.add(task)
                task.add_done_callback(self._done)
                await asyncio.wait({task, process.ended}, return_when=asyncio.FIRST_COMPLETED)
                if process.ended.done():
                    raise PeerDead("its process has ended")
                await self._travel(peer, source)
                return task.result()
        except TimeoutError:
            raise PeerSilent(f"no answer within {timeout_s:.3g} s") from None

    async def _travel(self, source: str, target: str) -> None:
        if (source, target) in self.cuts:
            await asyncio.Event().wait()
        delay_s = self.delays.get((source, target), self.delays.get(("*", target), self.default_delay_s))
        await asyncio.sleep(delay_s)

    def _done(self, task: asyncio.Task[bytes]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()


class Transport:
    """One process's end of the network."""

    def __init__(self, network: Network, source: str) -> None:
        self._network = network
        self._source = source

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        return await self._network.call(self._source, peer, frame, timeout_s)


class NodeTransport(Transport):
    """A storage node's end: a process that is frozen sends nothing, and takes note of nothing."""

    process: Process

    async def call(self, peer: str, frame: bytes, timeout_s: float) -> bytes:
        await self.process.running.wait()
        try:
            return await super().call(peer, frame, timeout_s)
        finally:
            await self.process.running.wait()


class Peer:
    """A coordinator with its front, and short words for what clients ask."""

    def __init__(self, cluster: Cluster, name: str, skew_ms: int) -> None:
        self.cluster = cluster
        self.name = name
        self.clock = Clock(skew_ms)
        self.metrics = Metrics()
        transport = cluster.network.transport(name)
        cluster.coordinators += 1
        self.core = Coordinator(transport, self.clock, self.metrics, random.Random(f"{name} {cluster.coordinators}"))
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


class Cluster:
    """Nodes n1..nN, their disks, and the state that a supervisor would hand out."""

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
        self.network = Network()
        self.random = random.Random(7)
        self.ids = [f"n{number + 1}" for number in range(nodes)]
        self.store = StoreConfig(
            name="test", copies=copies, partitions=partitions, durability=durability, gc_grace_s=gc_grace_s
        )
        self.maintenance = maintenance
        self.config = config or NodeConfig(block_cache_bytes=0)
        self.disks = {node_id: SimDisk() for node_id in self.ids}
        self.clocks = {node_id: Clock() for node_id in self.ids}
        self.failures: list[tuple[str, str]] = []
        self.down: dict[str, str] = {}
        self.sequence = 0
        self.coordinators = self.clients = 0
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
        self.network.processes["supervisor"] = Process(self._supervise)

    def start(self, *nodes: str, fresh: bool = True) -> Cluster:
        for node_id in nodes or self.ids:
            self.open(node_id, fresh=fresh)
        return self

    def open(self, node_id: str, *, fresh: bool = False) -> Process:
        """Start the node's process on its disk."""
        executor = Executor()
        spec = NodeSpec(
            store_id=STORE_ID, node_id=node_id, path="/data", store=self.store, node=self.config, fresh=fresh
        )
        process: Process

        def failed(cause: str) -> None:
            self.failures.append((node_id, cause))

        node = StorageNode(
            spec,
            fs=self.disks[node_id],
            clock=self.clocks[node_id],
            executor=executor,
            random=self.random,
            on_failure=failed,
            transport=NodeTransport(self.network, f"node/{node_id}") if self.maintenance else None,
        )
        process = Process(node.serve)
        process.node, process.executor = node, executor
        self.network.processes[f"node/{node_id}"] = process
        if self.maintenance:
            node._maintenance.peers._transport.process = process
            node.begin()
        if TELLS:
            self.tell(node_id)
        return process

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
        process = self.network.processes.get(f"node/{node_id}")
        return process is not None and not process.ended.done()

    def process(self, node_id: str) -> Process:
        return self.network.processes[f"node/{node_id}"]

    def node(self, node_id: str) -> StorageNode:
        node = self.process(node_id).node
        assert node is not None
        return node

    def kill(self, node_id: str, mode: Literal["keep", "drop", "random"] = "drop") -> None:
        """End the process; the disk keeps what ``mode`` says."""
        process = self.process(node_id)
        if not process.ended.done():
            process.ended.set_result("killed")
        for task in process.node._loops:
            task.cancel()
        self.disks[node_id] = self.disks[node_id].crash(self.random, mode)

    def freeze(self, node_id: str) -> None:
        self.process(node_id).running.clear()

    def thaw(self, process: Process) -> None:
        process.running.set()

    def revive(self, node_id: str) -> Process:
        """Start a killed node again."""
        return self.open(node_id)

    def replace(self, node_id: str) -> Process:
        """Start another process of the node on what a process crash leaves of its disk; return the former one."""
        former = self.process(node_id)
        self.disks[node_id] = self.disks[node_id].crash(self.random, "keep")
        self.open(node_id)
        return former

    def wipe(self, node_id: str) -> None:
        """End the process and lose the disk."""
        self.kill(node_id)
        self.disks[node_id] = SimDisk()

    def cut(self, source: str, target: str) -> None:
        self.network.cuts.add((source, target))

    def mend(self) -> None:
        self.network.cuts.clear()

    def cluster_update(self) -> f.ClusterUpdate:
        incarnations = {node_id: self.node(node_id).incarnation for node_id in self.ids}
        return f.ClusterUpdate(self.sequence, encode_state(self.state), dict(self.down), incarnations)

    def publish(self, *peers: Peer) -> None:
        self.sequence += 1
        for peer in peers:
            peer.core.routing.learn(self.cluster_update())

    def coordinator(self, name: str = "coordinator", *, skew_ms: int = 0) -> Peer:
        """Return a coordinator that has the latest cluster update."""
        peer = Peer(self, name, skew_ms)
        self.network.processes[name] = Process(peer.front.serve)
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
        frames = [frame for frame in self.network.frames if frame[0].startswith("node/")]
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
        self._name = name
        self._transport = cluster.network.transport(name)
        self._peer = peer
        self._clock = Clock()
        self._random = random.Random(f"{name} {cluster.clients}")

    async def call(self, request: f.CoordinatorRequest, timeout_s: float) -> f.CoordinatorAnswer:
        frame = f.coordinator_requests.encode(request)
        return f.coordinator_answers.decode(await self._transport.call(self._peer, frame, timeout_s))

    def monotonic_s(self) -> float:
        return self._clock.monotonic_s()

    async def sleep(self, delay_s: float) -> None:
        await self._clock.sleep(delay_s)

    def lacks(self) -> str:
        """See ``client.driver.Link``."""
        return ""

    def place(self) -> str:
        return self._name

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

    async def directories(self, *, everywhere: bool = False) -> dict[str, str]:
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
        await asyncio.sleep(0.05)
        self.attempts.append((node_id, asyncio.get_running_loop().time()))
        if node_id in self.failing:
            raise self.failing[node_id]
        empty_is_complete = await fresh()
        self.launched.append((node_id, host, empty_is_complete, take_over))
        if node_id not in self.cluster.disks:
            self.cluster.disks[node_id] = SimDisk()
            self.cluster.clocks[node_id] = Clock()
        former = self.cluster.network.processes.get(f"node/{node_id}")
        if former is not None and not former.ended.done():
            if not take_over:
                raise LaunchFailed("in use", "another process holds the directory")
            self.cluster.kill(node_id, "keep")
        process = self.cluster.open(node_id, fresh=empty_is_complete)
        if node_id not in self.found:
            self.found.append(node_id)
        assert process.node is not None
        return Launched(process.node.incarnation, 4000 + len(self.launched))

    async def hosts(self) -> list[Host]:
        return [Host(name=name, cpus=4.0, memory_bytes=8 << 30, disk_bytes=100 << 30) for name in ("h1", "h2")]

    async def retire(self, node_id: str, host: str) -> None:
        self.retired.append(node_id)
        if node_id in self.found:
            self.found.remove(node_id)
        process = self.cluster.network.processes.pop(f"node/{node_id}", None)
        if process is not None and not process.ended.done():
            process.ended.set_result("retired")

    async def adopt(self, node_id: str, timeout_s: float) -> Launched | None:
        process = self.cluster.network.processes.get(f"node/{node_id}")
        if process is None or process.ended.done():
            return None
        try:
            async with asyncio.timeout(timeout_s):
                await process.running.wait()
        except TimeoutError:
            return None
        return Launched(process.node.incarnation, 4000)

    async def ended(self, node_id: str) -> str:
        process = self.cluster.network.processes.get(f"node/{node_id}")
        if process is None:
            return "no process of it runs"
        with contextlib.suppress(asyncio.CancelledError):
            return await asyncio.shield(process.ended)
        raise asyncio.CancelledError
