"""A complete raykv cluster in one process: hosts with disks, storage processes, supervisor, coordinators, clients.

All of it is the code that runs on Ray; ``nodes`` and this module stand in for ``actors``: Ray restarts a supervisor or
coordinator that ended, the next request retries a failed start of the supervisor, and only the supervisor starts storage
processes.
Each process has its own network address; each node has its own host.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.client.aio import AsyncStore
from raykv.client.codecs import pickle_plainly
from raykv.client.driver import run_async
from raykv.client.exchange import DEFAULT_TIMEOUT_S
from raykv.client.handle import DEFAULT_BUCKET, Session
from raykv.client.renewals import LoopRenewals
from raykv.config import MAX_TIMEOUT_S, NodeConfig, StoreConfig
from raykv.coordinator.coordinator import Coordinator
from raykv.coordinator.latencies import Latencies
from raykv.coordinator.nearness import Place
from raykv.coordinator.service import CoordinatorService
from raykv.errors import RaykvError
from raykv.ports import Host as HostFacts
from raykv.ports import PeerSilent, PeerUnreachable
from raykv.protocol import frames as f
from raykv.records.durations import new_histogram, sendable
from raykv.sim.host import Host, SimClock
from raykv.sim.kernel import Process, ProcessEnded
from raykv.sim.network import Network, SimTransport
from raykv.sim.nodes import NodeWorld, SimLauncher
from raykv.sim.trace import Trace
from raykv.supervision.founding import Plan
from raykv.supervision.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.client.driver import Beside, Link, Repeated
    from raykv.config import Routing
    from raykv.sim.kernel import VirtualLoop

STORE_ID = "simulated"
RESTART_S = (0.3, 2.0)
COORDINATOR = "coordinator"
DIRECT = "direct"
"""Instead of a coordinator's name: the client coordinates for itself."""
SUPERVISOR = "supervisor"


class ClusterSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The make-up of a simulated cluster."""

    store: StoreConfig
    nodes: int = 3
    coordinators: int = 1
    config: NodeConfig = NodeConfig()

    @property
    def node_ids(self) -> list[str]:
        """The nodes that found the store."""
        return [f"n{number + 1}" for number in range(self.nodes)]

    @property
    def coordinator_names(self) -> list[str]:
        """The coordinators' names."""
        return [COORDINATOR, *(f"{COORDINATOR}{number}" for number in range(2, self.coordinators + 1))]


class SimMetrics:
    """``ports.Metrics`` that adds to the run's counters."""

    def __init__(self, total: Counter[str]) -> None:
        self._total = total
        self._own: Counter[str] = Counter()
        self._histograms: dict[str, list[float]] = {}

    def count(self, name: str, amount: int = 1) -> None:
        """See ``ports.Metrics``."""
        self._own[name] += amount
        self._total[name] += amount

    def counted(self) -> dict[str, int]:
        """See ``ports.Metrics``."""
        return dict(sorted(self._own.items()))

    def histogram(self, name: str) -> list[float]:
        """See ``ports.Metrics``."""
        return self._histograms.setdefault(name, new_histogram())

    def histograms(self) -> dict[str, list[int]]:
        """See ``ports.Metrics``."""
        return {name: counts for name, each in sorted(self._histograms.items()) if (counts := sendable(each))}


class Cluster:
    """See the module. ``start`` it in a ``VirtualLoop``."""

    def __init__(self, loop: VirtualLoop, spec: ClusterSpec, seed: str) -> None:
        self.loop = loop
        self.spec = spec
        self.seed = seed
        self.trace = Trace(loop)
        self.counts: Counter[str] = Counter()
        self.network = Network(loop, self.rng("network"), self.trace)
        self.node_ids = spec.node_ids
        self.coordinator_names = spec.coordinator_names
        self.hosts = {
            name: Host(name, loop, self.rng(f"host {name}"), self.trace)
            for name in [*self.node_ids, *self.coordinator_names, SUPERVISOR]
        }
        self.nodes = NodeWorld(
            loop,
            self.network,
            self.rng("nodes"),
            self.trace,
            {node_id: self.hosts[node_id] for node_id in self.node_ids},
            STORE_ID,
            spec.store,
            spec.config,
        )
        self.nodes.joined, self.nodes.left = self._joined, self._left
        self.actors: dict[str, Process] = {}
        """The running processes of supervisor and coordinators, by name."""
        self.founder_ended_s = math.inf
        """When the first supervisor ended, or another took its place."""
        self.former: list[Process] = []
        """Supervisors that still run although another was started."""
        self.supervisor: Supervisor | None = None
        self.coordinators: dict[str, Coordinator] = {}
        self._restarts = self.rng("restarts")
        self._stopping = False

    def _joined(self, node_id: str, host: Host) -> None:
        self.hosts[node_id] = host
        self.node_ids.append(node_id)

    def _left(self, node_id: str) -> None:
        if node_id in self.node_ids:
            self.node_ids.remove(node_id)

    def rng(self, purpose: str) -> random.Random:
        """Return a separate generator for ``purpose``: draws from one do not affect the others."""
        return random.Random(f"{self.seed}/{purpose}")

    # ---- supervisor and coordinators ----

    def start(self) -> None:
        """Start supervisor and coordinators; the supervisor founds the store."""
        self._start_supervisor()
        for name in self.coordinator_names:
            self._start_coordinator(name)

    def _start_supervisor(self) -> None:
        process = self._actor(SUPERVISOR)
        shell = _SupervisorShell(self, process)
        self.network.register(process, shell.serve)
        process.spawn(shell.start())

    def _start_coordinator(self, name: str) -> None:
        process = self._actor(name)
        clock = SimClock(self.hosts[name], process)
        transport = SimTransport(self.network, process)
        rng = self._restarts
        coordinator = process.run(lambda: Coordinator(transport, clock, SimMetrics(self.counts), rng))
        front = CoordinatorService(coordinator, transport, clock, for_others=True)
        self.coordinators[name] = coordinator
        self.network.register(process, front.serve)
        process.spawn(front.keep_up_to_date())

    def start_another_supervisor(self) -> None:
        """Start a supervisor in place of the present one, which keeps running."""
        self.former.append(self.actors[SUPERVISOR])
        self.founder_ended_s = min(self.founder_ended_s, self.loop.now_s)
        self.supervisor = None
        self._start_supervisor()

    def end_former_supervisors(self) -> None:
        """End the former supervisors: Ray has found their hosts again."""
        for process in self.former:
            process.kill()

    def _actor(self, name: str) -> Process:
        """Create a process that Ray restarts when it ends."""
        process = self.actors[name] = Process(self.loop, name)
        self.trace.note("starts", name)

        def restart() -> None:
            if self.actors[name] is not process:
                return  # another one has already taken its place
            if name == SUPERVISOR:
                self.supervisor = None
                self.founder_ended_s = min(self.founder_ended_s, self.loop.now_s)
            if not self._stopping:
                self.loop.later(self._restarts.uniform(*RESTART_S), self._start_again, name)

        process.on_kill.append(restart)
        return process

    def _start_again(self, name: str) -> None:
        if self._stopping:
            return  # a restart was cancelled meanwhile
        if name == SUPERVISOR:
            self._start_supervisor()
        else:
            self._start_coordinator(name)

    # ---- clients ----

    def link(self, process: Process, coordinator: str = COORDINATOR) -> SimLink:
        """Return a client process's link to that coordinator, or to its own (``DIRECT``)."""
        return SimDirectLink(self, process) if coordinator == DIRECT else SimLink(self, process, coordinator)

    def host_of_client(self, name: str) -> Host:
        """Return a client's host, created on first use."""
        if name not in self.hosts:
            self.hosts[name] = Host(name, self.loop, self.rng(f"host {name}"), self.trace)
        return self.hosts[name]

    async def connect(
        self,
        process: Process,
        coordinator: str = COORDINATOR,
        attempts: int = 60,
        session_of: Callable[[str, Link, Routing], Session] = Session,
    ) -> AsyncStore:
        """Return a handle for a client process once the store serves. ``RaykvError`` if it never does.

        ``coordinator``: the client's coordinator; ``DIRECT``: it coordinates for itself.
        """
        session = session_of(self.spec.store.name, self.link(process, coordinator), "auto")
        for attempt in itertools.count(1):
            try:
                steps = session.open_bucket(DEFAULT_BUCKET, {}, DEFAULT_TIMEOUT_S)
                return AsyncStore(session, await run_async(steps, session.link))
            except RaykvError:
                if attempt == attempts:
                    raise
                await asyncio.sleep(0.5)
        raise AssertionError

    # ---- the end ----

    async def stop(self) -> None:
        """Stop the store cleanly, as ``raykv.shutdown`` does."""
        self._stopping = True
        if self.supervisor is not None and self.actors[SUPERVISOR].alive:
            with contextlib.suppress(ProcessEnded):
                await self.actors[SUPERVISOR].spawn(self.supervisor.stop())
        for process in [*self.actors.values(), *(created.process for created in self.nodes.by_pid.values())]:
            process.kill()

    def kill(self) -> None:
        """End all processes at once."""
        self._stopping = True
        for process in [
            *self.actors.values(),
            *self.former,
            *(created.process for created in self.nodes.by_pid.values()),
        ]:
            process.kill()

    def unfinished(self) -> list[str]:
        """Return the unfinished tasks of running and ended processes."""
        processes = [*self.actors.values(), *self.former, *(created.process for created in self.nodes.by_pid.values())]
        return [f"{process.name}: {task.get_coro()}" for process in processes for task in process.tasks]


class _SupervisorShell:
    """The supervisor actor's shell: starts the supervisor, and starts it again on the next request."""

    def __init__(self, cluster: Cluster, process: Process) -> None:
        self._cluster = cluster
        self._process = process
        self._supervisor: Supervisor | None = None
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the store, or wait for the start that is under way."""
        if self._starting is None or (self._starting.done() and self._supervisor is None):
            self._starting = self._process.spawn(self._start())
        await asyncio.shield(self._starting)

    async def serve(self, frame: bytes) -> bytes:
        """Answer a frame."""
        await self.start()
        if self._supervisor is None:
            raise PeerUnreachable("the store did not start")
        return await self._supervisor.serve(frame)

    async def _start(self) -> None:
        cluster, process = self._cluster, self._process
        spec = cluster.spec
        supervisor = Supervisor(
            STORE_ID,
            Plan(store=spec.store, nodes=spec.nodes, weights=(1.0,) * spec.nodes),
            [HostFacts(name=node_id) for node_id in cluster.node_ids],
            transport=SimTransport(cluster.network, process),
            clock=SimClock(cluster.hosts[SUPERVISOR], process),
            launcher=SimLauncher(cluster.nodes, process),
            on_failure=self._exit,
        )
        try:
            await supervisor.start()
        except RaykvError as error:
            cluster.trace.note(f"could not start the store: {error}", SUPERVISOR)
            return
        self._supervisor = supervisor
        if cluster.actors[SUPERVISOR] is process:
            cluster.supervisor = supervisor
        cluster.trace.note(f"serves generation {supervisor.state.generation}", SUPERVISOR)

    def _exit(self, cause: str) -> None:
        self._cluster.trace.note(f"gives up: {cause}", SUPERVISOR)
        self._cluster.loop.later(0.1, self._process.kill)


class SimLink:
    """``client.driver.Link`` of a client process to one coordinator.

    The blocking half runs the world until the answer arrives; it is for callers outside the loop.
    """

    def __init__(self, cluster: Cluster, process: Process, coordinator: str) -> None:
        self._cluster = cluster
        self._process = process
        self._coordinator = coordinator
        self._rng = cluster.rng(f"operation ids of {process.name}")

    def submit(
        self, requests: Sequence[f.CoordinatorRequest], meanwhile: f.Meanwhile | None = None
    ) -> list[asyncio.Task[f.CoordinatorAnswer]]:
        """See ``client.driver.Link``."""
        del meanwhile  # virtual time gains nothing from it
        self._cluster.loop.check_free()  # before anything is sent
        return [self._process.spawn(self._answer(request)) for request in requests]

    async def _answer(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        return await self.call(request, MAX_TIMEOUT_S)

    def result(self, ticket: asyncio.Task[f.CoordinatorAnswer], timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``."""
        self._cluster.loop.run_until_complete(asyncio.wait({ticket}, timeout=timeout_s))
        if not ticket.done():
            ticket.cancel()
            raise PeerSilent(f"no answer within {timeout_s:.3g} s")
        return ticket.result()

    async def call(self, request: f.CoordinatorRequest, timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``."""
        self._cluster.loop.check_running_here()
        frame = f.coordinator_requests.encode(request)
        answer = await self._cluster.network.call(self._process, self._coordinator, frame, timeout_s)
        return f.coordinator_answers.decode(answer)

    def monotonic_s(self) -> float:
        """See ``client.driver.Link``."""
        return self._cluster.loop.now_s

    def took(self, request: f.CoordinatorRequest, requests: int, began_s: float) -> None:
        """See ``client.driver.Link``."""

    def count(self, name: str, amount: int) -> None:
        """See ``client.driver.Link``."""

    def wall_ms(self) -> int:
        """See ``client.driver.Link``."""
        return self._cluster.host_of_client(self._process.name).wall_ms()

    def pause(self, delay_s: float) -> None:
        """See ``client.driver.Link``."""
        self._cluster.loop.run_until_complete(asyncio.sleep(delay_s))

    async def sleep(self, delay_s: float) -> None:
        """See ``client.driver.Link``."""
        self._cluster.loop.check_running_here()
        await asyncio.sleep(delay_s)

    def lacks(self) -> str:
        """See ``client.driver.Link``."""
        return ""

    def random_bytes(self, count: int) -> bytes:
        """See ``client.driver.Link``."""
        return self._rng.randbytes(count)

    def pickled(self, value: Any) -> bytes:
        """See ``client.driver.Link``."""
        return pickle_plainly(value)

    def place(self) -> str:
        """See ``client.driver.Link``."""
        return self._process.name

    def beside(self, repeated: Repeated, delay_s: float, user: object) -> Beside:
        """See ``client.driver.Link``: tasks of the client's process, while the world runs."""
        del user  # the steps end with it, at the next moment at which they are due
        loop = self._cluster.loop
        return self._process.run(lambda: _SimBeside(repeated, self, delay_s, loop))

    def close(self) -> None:
        """See ``client.driver.Link``."""


class _SimBeside(LoopRenewals):
    """Steps in the background of a program that lets virtual time pass by blocking calls."""

    def join(self, timeout_s: float) -> None:
        """See ``client.driver.Beside``."""
        del timeout_s  # a cancelled task ends at once
        self._loop.run_until_complete(self.stopped())


class SimDirectLink(SimLink):
    """``client.driver.Link`` of a client process that coordinates for itself: a ``SimLink`` that sends no message."""

    def __init__(self, cluster: Cluster, process: Process) -> None:
        super().__init__(cluster, process, DIRECT)
        transport = SimTransport(cluster.network, process)
        clock = SimClock(cluster.host_of_client(process.name), process)
        rng = cluster.rng(f"coordinator of {process.name}")
        metrics = SimMetrics(cluster.counts)
        self.took = Latencies(metrics, self.monotonic_s).note  # type: ignore[method-assign]  # one call less
        self.count = metrics.count  # type: ignore[method-assign]
        here = Place(host=cluster.rng(f"place of {process.name}").choice(("", *cluster.node_ids)))
        made = process.run(lambda: Coordinator(transport, clock, metrics, rng, asks=True, here=here))
        self._service = CoordinatorService(made, transport, clock)
        cluster.counts["direct clients"] += 1

    async def _answer(self, request: f.CoordinatorRequest) -> f.CoordinatorAnswer:
        return await self._service.answer_together(request)

    async def call(self, request: f.CoordinatorRequest, timeout_s: float) -> f.CoordinatorAnswer:
        """See ``client.driver.Link``."""
        self._cluster.loop.check_running_here()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._process.spawn(self._answer(request)))
        except TimeoutError:
            raise PeerSilent(f"no answer within {timeout_s:.3g} s") from None
