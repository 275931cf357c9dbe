"""Storage processes of the simulated world: the part of Ray and the storage actor's shell in the real one.

``SimLauncher`` is ``ports.Launcher``. A process outlives the supervisor that launched it. One that finds its directory
locked waits, and with ``take_over`` ends the holder by the process id in the lock, because Ray's own request to end does
not reach a frozen process. A process that gives itself up is gone a moment later.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from raykv import ports
from raykv.cluster.peers import node_address
from raykv.errors import CorruptData
from raykv.node.node import NodeSpec, StorageNode
from raykv.ports import Known, Launched, LaunchFailed, PeerUnreachable
from raykv.sim.disk import SimDisk
from raykv.sim.host import Host, SimClock, SimExecutor
from raykv.sim.kernel import Process, ProcessEnded
from raykv.sim.network import SimTransport
from raykv.storage.damage import EngineFailed
from raykv.storage.directory import DirectoryForeign, DirectoryInUse, read_identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from raykv.config import NodeConfig, StoreConfig
    from raykv.ports import Metrics
    from raykv.sim.kernel import VirtualLoop
    from raykv.sim.network import Network
    from raykv.sim.trace import Trace

Serve: TypeAlias = "Callable[[StorageNode, bytes], Awaitable[bytes]]"
PATH = "/data"
LOCK_WAIT_S = 5.0
NAME_WAIT_S = 5.0
KILL_AFTER_S = 0.3
EXIT_AFTER_S = 0.1
START_S = (0.05, 0.4)
CPUS, MEMORY_BYTES, DISK_BYTES = 4.0, 16 << 30, 200 << 30
"""A host's resources: a node alone on it weighs 1 (``ring.auto_weight``), as do those that found the store."""
POWER_NOTICE_S = (1.0, 15.0)
"""The time until Ray reports the processes of a lost host as ended."""


def storage_node(
    spec: NodeSpec,
    host: Host,
    process: Process,
    network: Network | None,
    *,
    random: random.Random,
    on_failure: Callable[[str], None],
    lock_note: bytes = b"{}",
    executor: ports.Executor | None = None,
    metrics: Metrics | None = None,
) -> StorageNode:
    """Open a node on a host, as a process of it; without a network it only answers. Raises what ``StorageNode`` raises."""
    return StorageNode(
        spec,
        fs=host.files(process),
        clock=SimClock(host, process),
        executor=executor or SimExecutor(host, process),
        random=random,
        on_failure=on_failure,
        lock_note=lock_note,
        metrics=metrics,
        transport=None if network is None else SimTransport(network, process),
    )


class NodeProcess:
    """One storage process: its kernel process, and the node once its directory is open."""

    def __init__(self, process: Process, pid: int, watched: Serve) -> None:
        self.process = process
        self.pid = pid
        self.watched = watched
        self.node: StorageNode | None = None
        self.opening: asyncio.Task[Launched] | None = None
        self.forgotten = False
        """Whether Ray was asked to end it, and has released its name."""

    @property
    def known(self) -> bool:
        """Return whether Ray has the process under its name."""
        return self.process.alive and not self.forgotten

    def end(self) -> None:
        """End the process as Ray ends an actor: a frozen process does not notice."""
        self.forgotten = True
        if not self.process.frozen:
            self.process.kill()

    async def serve(self, frame: bytes) -> bytes:
        """Answer a frame; before the directory is open the actor's method raises."""
        if self.node is None:
            raise PeerUnreachable("the node is not open")
        return await self.watched(self.node, frame)


class NodeWorld:
    """All storage processes of a world, dead and alive, by node and by process id."""

    def __init__(
        self,
        loop: VirtualLoop,
        network: Network,
        rng: random.Random,
        trace: Trace,
        hosts: dict[str, Host],
        store_id: str,
        store: StoreConfig,
        config: NodeConfig,
    ) -> None:
        self.loop = loop
        self.network = network
        self.rng = rng
        self.trace = trace
        self.hosts = hosts
        self.store_id = store_id
        self.store = store
        self.config = config
        self.current: dict[str, NodeProcess] = {}
        """Node -> the process that Ray knows under its name."""
        self.by_pid: dict[int, NodeProcess] = {}
        self.founded = False
        self._pids = itertools.count(4001)
        self.serve: Serve = lambda node, frame: node.serve(frame)
        """The function by which a node answers a frame; a run that watches the answers replaces it."""
        self.opened: Callable[[StorageNode], None] = lambda _: None
        """Called with every node that has opened its directory."""
        self.metrics: Metrics | None = None
        """Where nodes count what they do in the background, and as leaders; None: nowhere."""
        self.joined: Callable[[str, Host], None] = lambda _, __: None
        """Called with every new node, and its host."""
        self.left: Callable[[str], None] = lambda _: None
        """Called with every node that is no longer a member."""

    def create(self, node_id: str) -> NodeProcess:
        """Start a process for the node, in place of the one that Ray knew; a new node gets a host of its own."""
        if node_id not in self.hosts:
            self.hosts[node_id] = Host(node_id, self.loop, random.Random(self.rng.getrandbits(64)), self.trace)
            self.joined(node_id, self.hosts[node_id])
        process = Process(self.loop, node_address(node_id))
        created = NodeProcess(process, next(self._pids), self.serve)
        self.by_pid[created.pid] = created
        self.current[node_id] = created
        self.network.register(process, created.serve)
        return created

    async def open(self, created: NodeProcess, node_id: str, *, fresh: bool, known: Known, take_over: bool) -> Launched:
        """Open the directory as the storage actor does: wait for its lock, with ``take_over`` end the holder."""
        process, host = created.process, self.hosts[node_id]
        spec = NodeSpec(
            store_id=self.store_id,
            node_id=node_id,
            path=PATH,
            store=self.store,
            node=self.config,
            fresh=fresh,
            known=known,
        )
        waited_s, killed = 0.0, False
        while True:
            process.check()
            try:
                created.node = storage_node(
                    spec,
                    host,
                    process,
                    self.network,
                    random=self.rng,
                    on_failure=lambda cause: self._exit(process, cause),
                    lock_note=msgspec.json.encode({"pid": created.pid}),
                    metrics=self.metrics,
                )
                created.node.begin()
            except DirectoryInUse as error:
                if waited_s == 0.0:
                    self.trace.note("waits for its directory", process.name)
                if waited_s > LOCK_WAIT_S:
                    raise LaunchFailed("in use", str(error)) from None
                if take_over and not killed and waited_s > KILL_AFTER_S:
                    self.trace.note("is ended, for it holds the directory", process.name)
                    if (holder := self._holder(error.note)) is not None:
                        holder.kill()
                    killed = True
            except DirectoryForeign as error:
                raise LaunchFailed("foreign", str(error)) from None
            except (OSError, EngineFailed) as error:
                raise LaunchFailed("unusable", str(error)) from None
            except CorruptData as error:
                raise LaunchFailed("damaged", str(error)) from None
            else:
                self.trace.note(f"runs as incarnation {created.node.incarnation}", process.name)
                self.opened(created.node)
                return Launched(created.node.incarnation, created.pid)
            await asyncio.sleep(0.05)
            waited_s += 0.05

    def _holder(self, note: bytes) -> Process | None:
        """Return the process that holds a directory; None if the note in its lock cannot be read."""
        try:
            return self.by_pid[msgspec.json.decode(note, type=dict[str, int])["pid"]].process
        except (msgspec.MsgspecError, KeyError):
            return None

    def _exit(self, process: Process, cause: str) -> None:
        self.trace.note(f"gives up: {cause}", process.name)
        self.loop.later(EXIT_AFTER_S, process.kill)

    def kill(self, node_id: str) -> None:
        """Send SIGKILL to the process that Ray knows under the node's name."""
        if node_id in self.current:
            self.current[node_id].process.kill()

    def kill_all(self, node_id: str) -> None:
        """End every process of the node, also those that Ray has forgotten."""
        for created in self.by_pid.values():
            if created.process.name == node_address(node_id):
                created.process.kill()

    def living(self, node_id: str) -> StorageNode | None:
        """Return the node, if its process runs and its directory is open."""
        created = self.current.get(node_id)
        return created.node if created is not None and created.process.alive else None


class SimLauncher:
    """``ports.Launcher`` over a ``NodeWorld``, for one supervisor."""

    def __init__(self, world: NodeWorld, supervisor: Process) -> None:
        self._world = world
        self._supervisor = supervisor

    async def directories(
        self, *, everywhere: bool = False, preferred: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """See ``ports.Launcher``. All directories on hosts that are up are found in any case."""
        del everywhere, preferred
        found = {}
        for node_id, host in sorted(self._world.hosts.items()):
            if not host.up:
                continue
            try:
                identity = read_identity(host.files(self._supervisor), PATH)
            except CorruptData:
                identity = None  # its owner is unknown
            if identity is not None and identity.store_id == self._world.store_id:
                found[node_id] = node_id  # each has a host of its own, of the same name
        return found

    async def founded(self) -> bool:
        """See ``ports.Launcher``."""
        return self._world.founded

    async def note_founded(self) -> None:
        """See ``ports.Launcher``."""
        self._supervisor.check()
        self._world.founded = True

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
        """See ``ports.Launcher``."""
        del host  # each node has a host of its own here
        world = self._world
        self._supervisor.check()
        if world.network.is_cut(self._supervisor.name, node_address(node_id)):
            raise LaunchFailed("no host", f"the host of node {node_id} is out of reach")
        former = world.current.get(node_id)
        ours = former is not None and former.known
        if former is not None:
            former.end()
        await asyncio.sleep(world.rng.uniform(*START_S))
        waited_s = 0.0
        while (other := world.current.get(node_id)) is not None and other.known:
            # Another supervisor was faster. Names are unique: wait until it is free.
            waited_s += 0.1
            if waited_s > NAME_WAIT_S:
                raise LaunchFailed("slow", "another process has its name")
            await asyncio.sleep(0.1)
        empty_is_complete = await fresh()
        self._supervisor.check()
        if node_id in world.hosts and not world.hosts[node_id].up:
            raise LaunchFailed("no host", f"the host of node {node_id} is down")
        created = world.create(node_id)
        created.opening = created.process.spawn(
            world.open(created, node_id, fresh=empty_is_complete, known=known, take_over=take_over or ours)
        )
        created.opening.add_done_callback(_look_at)  # possibly, nobody awaits it any more
        try:
            async with asyncio.timeout(timeout_s):
                return await self._opened(created)
        except TimeoutError:
            created.end()
            raise LaunchFailed("slow", f"its process did not answer within {timeout_s:g} s") from None
        except LaunchFailed:
            created.end()
            raise

    async def hosts(self) -> list[ports.Host]:
        """See ``ports.Launcher``."""
        self._supervisor.check()
        name = f"spare-{len(self._world.hosts)}"  # each node has a host of its own here
        return [ports.Host(name=name, cpus=CPUS, memory_bytes=MEMORY_BYTES, disk_bytes=DISK_BYTES)]

    async def room(self, timeout_s: float) -> str:
        """See ``ports.Launcher``."""
        del timeout_s
        self._supervisor.check()
        return ""

    async def running(self) -> list[str]:
        """See ``ports.Launcher``."""
        self._supervisor.check()
        return [node_id for node_id, made in sorted(self._world.current.items()) if made.known and made.process.alive]

    async def retire(self, node_id: str, host: str) -> None:
        """See ``ports.Launcher``."""
        del host
        self._supervisor.check()
        current = self._world.current.get(node_id)
        if current is not None:
            current.process.kill()
            current.end()
        if node_id in self._world.hosts:
            self._world.kill_all(node_id)
            self._world.hosts[node_id].replace_disk(SimDisk())
        self._world.left(node_id)

    async def adopt(self, node_id: str, timeout_s: float) -> Launched | None:
        """See ``ports.Launcher``."""
        self._supervisor.check()
        current = self._world.current.get(node_id)
        if current is None or not current.known:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                launched = await self._opened(current)
        except (TimeoutError, LaunchFailed):
            return None
        return None if current.node is None or current.node.stopped else launched

    async def ended(self, node_id: str) -> str:
        """See ``ports.Launcher``."""
        self._supervisor.check()
        current = self._world.current.get(node_id)
        if current is None:
            return "no process of it runs"
        if current.known:
            gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def notice_later() -> None:
                slow = not self._world.hosts[node_id].up
                notice_s = self._world.rng.uniform(*(POWER_NOTICE_S if slow else (0.02, 0.2)))
                self._world.loop.later(notice_s, _settle, gone)

            current.process.on_kill.append(notice_later)
            await gone
        return "its process ended"

    @staticmethod
    async def _opened(created: NodeProcess) -> Launched:
        assert created.opening is not None
        try:
            while created.process.frozen:  # noqa: ASYNC110 - as a caller without notice of it
                await asyncio.sleep(0.1)
            return await asyncio.shield(created.opening)
        except (ProcessEnded, asyncio.CancelledError):
            if created.opening.done():
                raise LaunchFailed("crashed", "its process ended while it opened its directory") from None
            raise


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _look_at(opening: asyncio.Task[Launched]) -> None:
    if not opening.cancelled():
        opening.exception()
