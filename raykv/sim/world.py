"""A simulated store for the tests of those who use raykv: a real ``Store`` over a whole cluster in this process.

>>> import raykv.sim
>>> with raykv.sim.start(seed=7) as world:
...     world.store["job:1"] = "queued"
...     world.kill("n2")
...     world.store["job:1"] = "done"
...     world.sleep(600)
...     world.store["job:1"]
'done'

No Ray, no disk, no waiting: ten minutes pass in a second. The store is the same code, client included, that runs on
Ray; only time, network, processes and disks are simulated. The same seed gives the same run, so a test that fails once
fails again.

With ``faults=True`` the seed also decides what goes wrong meanwhile, within what raykv promises: a node at a time is
killed, frozen, cut off or slow, its disk fills up or fails, messages are late, lost or repeated. A program that is right
must bear with that: an operation may raise ``WriteOutcomeUnknown`` or ``QuorumNotMet``. Or break things by hand.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from raykv.client.store import Store
from raykv.config import KIB, Durability, NodeConfig, StoreConfig, check_count, check_seconds, quorum
from raykv.errors import InvalidOption
from raykv.sim.cluster import COORDINATOR, DIRECT, SUPERVISOR, Cluster, ClusterSpec
from raykv.sim.kernel import Process, VirtualLoop
from raykv.sim.nemesis import Nemesis
from raykv.sim.scenario import Fault, FaultKind, draw_faults, draw_odds

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from raykv.client.aio import AsyncStore

T = TypeVar("T")

MAX_NODES = 15
MAX_COORDINATORS = 5
MAX_SLEEP_S = 30 * 86_400.0
FAULTS_FOR_S = 600.0


SMALL_NODE = NodeConfig(memtable_bytes=64 * KIB, max_unflushed_bytes=512 * KIB, block_cache_bytes=256 * KIB)
"""What a node of a simulated store is given unless its user says otherwise."""


def start(
    seed: int = 0,
    *,
    nodes: int = 3,
    n: int | None = None,
    coordinators: int = 1,
    faults: bool = False,
    durability: Durability = "group",
    partitions: int = 32,
    grace_s: float | None = None,
    replace_after: float = 600.0,
    node: NodeConfig | None = None,
) -> World:
    """Start a simulated store; use it in a ``with`` block.

    ``nodes``, ``n`` (copies), ``durability``, ``partitions``, ``replace_after``: as in ``raykv.start``.
    ``coordinators``: how many; a client asks one of them. ``faults``: things go wrong, as the seed will have it, for the
    first ten minutes of virtual time. ``grace_s``: how long deletes are remembered (``StoreConfig.grace_s``); ``node``:
    settings of the storage nodes. Raises ``InvalidOption``.
    """
    nodes = check_count("nodes", nodes, 1, MAX_NODES)
    copies = check_count("n", min(3, nodes) if n is None else n, 1, nodes)
    store = StoreConfig(
        name="simulated", copies=copies, partitions=partitions, durability=durability, replace_after_s=replace_after
    )
    if grace_s is not None:
        store = StoreConfig(**msgspec.structs.asdict(store) | {"grace_s": grace_s})
    coordinators = check_count("coordinators", coordinators, 1, MAX_COORDINATORS)
    return World(seed, store, nodes, coordinators, faults=faults, config=node or SMALL_NODE)


class World:
    """A simulated cluster and a store on it. Made by ``raykv.sim.start``."""

    def __init__(
        self,
        seed: int,
        store: StoreConfig,
        nodes: int,
        coordinators: int,
        *,
        faults: bool,
        config: NodeConfig,
    ) -> None:
        self._loop = VirtualLoop()
        spec = ClusterSpec(store=store, nodes=nodes, coordinators=coordinators, config=config)
        self._cluster = Cluster(self._loop, spec, f"world {seed}")
        self._clients = 0
        self._closed = False
        self._stores: list[Store] = []
        self._places: dict[Store, str] = {}
        self.nodes = tuple(self._cluster.node_ids)
        """The ids of the storage nodes."""
        self.coordinators = tuple(self._cluster.coordinator_names)
        """The names of the coordinators."""
        self.faults: tuple[Fault, ...] = ()
        """What goes wrong by itself, in order."""
        self._cluster.start()
        self.store = self.connect()
        """A handle of the store; its calls let the virtual time pass."""
        if faults:  # they begin once the store serves
            rng = random.Random(f"world {seed}")
            drawn = draw_faults(rng, self._cluster.spec, FAULTS_FOR_S, store.copies - quorum(store.copies))
            self.faults = tuple(msgspec.structs.replace(fault, at_s=fault.at_s + self.now_s) for fault in drawn)
            self._cluster.network.odds = draw_odds(rng)
        self._nemesis = Nemesis(self._cluster, self.faults)
        self._fate = self._loop.create_task(self._nemesis.run())

    # ---- handles and time ----

    def connect(self, coordinator: str = COORDINATOR) -> Store:
        """Return another handle, of a client of its own that asks that coordinator, or is one itself ("direct")."""
        self._check_known(coordinator, (*self.coordinators, DIRECT))
        client = self._client()
        store = Store(self._cluster.spec.store.name, self._cluster.link(client, coordinator))
        self._stores.append(store)
        self._places[store] = client.name if coordinator == DIRECT else coordinator
        return store

    def place_of(self, store: Store) -> str:
        """Return where a handle's operations are coordinated: a coordinator's name, or a client's own."""
        return self._places[store]

    async def connect_aio(self) -> AsyncStore:
        """Return another handle for use within ``run``, of a client of its own."""
        return await self._cluster.connect(self._client())

    def _client(self) -> Process:
        self._clients += 1
        return Process(self._loop, f"client{self._clients}")

    @property
    def now_s(self) -> float:
        """The virtual time, in seconds since the start."""
        return self._loop.now_s

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` of virtual time pass, up to thirty days."""
        self._loop.run_until_complete(asyncio.sleep(check_seconds("seconds", seconds, MAX_SLEEP_S)))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in virtual time: several clients at once, by ``world.store.aio`` and ``asyncio.gather``."""
        return self._loop.run_until_complete(work)

    # ---- breaking things ----

    def kill(self, node_id: str) -> None:
        """End the node's process (SIGKILL). The supervisor starts it again."""
        self._do("kill", node_id)

    def power_cut(self, node_id: str, for_s: float = 1.0) -> None:
        """Cut the power of the node's host: what was not synced is lost or torn."""
        self._do("power", node_id, for_s)

    def freeze(self, node_id: str, for_s: float) -> None:
        """Stop the node's process (SIGSTOP), and let it go on after ``for_s`` seconds."""
        self._do("freeze", node_id, for_s)

    def cut(self, node_id: str, for_s: float) -> None:
        """Cut the node off from everybody for ``for_s`` seconds."""
        self._do("cut", node_id, for_s, detail="both all")

    def split(self, side: Sequence[str], for_s: float) -> None:
        """Cut the network in two for ``for_s`` seconds: these nodes and coordinators on one side, the rest on the other.

        A client stays with its coordinator; one that coordinates for itself is named by ``place_of`` its handle.
        """
        places = tuple(dict.fromkeys((*self.nodes, *self.coordinators, *self._places.values())))
        for name in side:
            self._check_known(name, places)
        rest = [name for name in (*places, SUPERVISOR) if name not in side]
        for here in side:
            for there in rest:
                node, other = (here, there) if here in self.nodes else (there, here)
                if node in self.nodes:
                    self._do("cut", node, for_s, detail=f"both {other}")

    def slow(self, node_id: str, by_s: float, for_s: float) -> None:
        """Let all that the node says and hears take ``by_s`` seconds longer."""
        self._do("slow node", node_id, for_s, by_s)

    def fill_disk(self, node_id: str, for_s: float) -> None:
        """Leave no space on the node's disk for ``for_s`` seconds."""
        self._do("disk full", node_id, for_s)

    def wipe(self, node_id: str) -> None:
        """End the node's process and lose its directory."""
        self._do("wipe", node_id)

    def kill_coordinator(self) -> None:
        """End the coordinator's process. It is started again."""
        self._do("kill coordinator", COORDINATOR)

    def kill_supervisor(self) -> None:
        """End the supervisor's process. It is started again."""
        self._do("kill supervisor", SUPERVISOR)

    def heal(self) -> None:
        """End every fault, and let none begin any more."""
        self._fate.cancel()
        self._nemesis.heal()

    def told(self) -> list[str]:
        """Return what happened to processes and disks so far, a line each, with the virtual time."""
        return [
            f"{event.at_s:10.3f}  {event.source} {event.what} {event.target}".rstrip()
            for event in self._cluster.trace.notable
        ]

    def _do(self, kind: FaultKind, target: str, for_s: float = 0.0, amount: float = 0.0, detail: str = "") -> None:
        self._check_known(target, (*self.nodes, COORDINATOR, SUPERVISOR))
        self._nemesis.begin(Fault(self.now_s, kind, target, for_s, amount, detail))

    def _check_known(self, name: str, known: Sequence[str]) -> None:
        if name not in known:
            raise InvalidOption(f"there is no {name!r}; there are {', '.join(known)}")

    # ---- the end ----

    def close(self) -> None:
        """End the world. Idempotent."""
        if not self._closed:
            self._closed = True
            for store in self._stores:
                store.close()
            self._fate.cancel()
            self._cluster.kill()
            self._loop.run_until_complete(asyncio.sleep(1))  # what was cancelled comes to its end
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
