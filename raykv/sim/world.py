"""A simulated store for the tests of raykv's users: a real ``Store`` over a complete cluster in this process.

>>> import raykv.sim
>>> with raykv.sim.start(seed=7) as world:
...     world.store["job:1"] = "queued"
...     world.kill("n2")
...     world.store["job:1"] = "done"
...     world.sleep(600)
...     world.store["job:1"]
'done'

No Ray, no disk, no waiting: ten minutes pass in a few seconds. The store is the same code, client included, that runs on
Ray; only time, network, processes and disks are simulated. The same seed gives the same run: a test that fails once fails
again, and an exception that leaves the ``with`` block carries the line that reruns it. (For a world in a fixture, pytest
shows that line in the captured stderr.)

With ``faults=True`` the seed also injects faults, within what raykv promises: one node at a time is killed, frozen, cut off
or slow, its disk fills up or fails, messages are late, lost or repeated. A correct program must cope: any operation may
raise ``Overloaded``, ``QuorumNotMet`` or ``StoreUnavailable`` (nothing was written: retry), and any write
``WriteOutcomeUnknown`` (retry if writing twice is harmless). Faults can also be injected by hand. ``raykv.sim.seeds`` makes
a test of each of many seeds.

Time passes during an operation, in ``world.sleep`` and in ``world.run``, and nowhere else: ``time.sleep`` blocks the test,
not the world. The world cannot await anything real, least of all threads and sockets.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import random
import sys
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypedDict, TypeVar, Unpack, cast, get_args

import msgspec

from raykv.client.handle import Session
from raykv.client.store import Store
from raykv.cluster.peers import node_address
from raykv.config import (
    KIB,
    Durability,
    NodeConfig,
    Routing,
    StoreConfig,
    check_choice,
    check_count,
    check_node_config,
    check_seconds,
    quorum,
    shown,
)
from raykv.errors import InvalidOption, RaykvError, StoreClosed
from raykv.sim.cluster import COORDINATOR, DIRECT, SUPERVISOR, Cluster, ClusterSpec
from raykv.sim.faults import Fault, FaultKind, draw_faults, draw_odds
from raykv.sim.kernel import Process, VirtualLoop
from raykv.sim.nemesis import Nemesis

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from raykv.client.aio import AsyncStore
    from raykv.client.driver import Link

T = TypeVar("T")
Direction: TypeAlias = Literal["to", "from", "both"]

logger = logging.getLogger(__name__)

MAX_NODES = 15
MAX_COORDINATORS = 5
MAX_SEED = 2**63
MAX_SLEEP_S = 30 * 86_400.0
MAX_LOST = 10_000
RUN_TIMEOUT_S = 3600.0
"""The default time-out of a coroutine, in virtual time."""
FAULTS_FOR_S = 600.0


SMALL_NODE = NodeConfig(memtable_bytes=64 * KIB, max_unflushed_bytes=512 * KIB, block_cache_bytes=256 * KIB)
"""The default settings of a simulated store's nodes."""


class Options(TypedDict, total=False):
    """The options of a world; see ``start``."""

    nodes: int
    n: int | None
    coordinators: int
    faults: bool
    durability: Durability
    partitions: int
    gc_grace_s: float | None
    replace_after: float
    node: NodeConfig | None


def start(
    seed: int = 0,
    *,
    nodes: int = 3,
    n: int | None = None,
    coordinators: int = 1,
    faults: bool = False,
    durability: Durability = "group",
    partitions: int = 32,
    gc_grace_s: float | None = None,
    replace_after: float = 600.0,
    node: NodeConfig | None = None,
) -> World:
    """Start a simulated store; use it in a ``with`` block.

    ``nodes``, ``n`` (copies), ``durability``, ``partitions``, ``replace_after``: as in ``raykv.start``.
    ``coordinators``: their number; a client asks one of them. ``faults``: inject faults drawn from the seed for the first
    ten minutes of virtual time. ``gc_grace_s``: how long deletes are remembered (``StoreConfig``); ``node``: settings of
    the storage nodes. Raises ``InvalidOption``.
    """
    seed = check_count("seed", seed, -MAX_SEED, MAX_SEED)
    if not isinstance(faults, bool):
        raise InvalidOption(f"faults must be True or False; got {shown(faults)}")
    node = check_node_config("node", node)
    given: Options = {
        "nodes": nodes, "n": n, "coordinators": coordinators, "faults": faults, "durability": durability,
        "partitions": partitions, "gc_grace_s": gc_grace_s, "replace_after": replace_after, "node": node,
    }  # fmt: skip
    nodes = check_count("nodes", nodes, 1, MAX_NODES)
    copies = check_count("n", min(3, nodes) if n is None else n, 1, nodes)
    store = StoreConfig(
        name="simulated", copies=copies, partitions=partitions, durability=durability, replace_after_s=replace_after
    )
    if gc_grace_s is not None:
        store = StoreConfig(**msgspec.structs.asdict(store) | {"gc_grace_s": gc_grace_s})
    coordinators = check_count("coordinators", coordinators, 1, MAX_COORDINATORS)
    line = replay_line(seed, **given)
    if (
        "PYTEST_CURRENT_TEST" in os.environ
    ):  # it shows this for a test that fails, be the world's block in a fixture of it
        sys.stderr.write(f"{line}  # raykv {version()}\n")
    return World(seed, store, nodes, coordinators, faults=faults, config=node or SMALL_NODE, replay=line)


def replay_line(seed: int, **options: Unpack[Options]) -> str:
    """Return the Python expression that starts this world again, without options at their defaults."""
    defaults = inspect.signature(start).parameters
    given = {name: value for name, value in options.items() if value != defaults[name].default}
    return _called("raykv.sim.start", {"seed": seed, **given})


def _called(what: str, arguments: Mapping[str, object]) -> str:
    return f"{what}({', '.join(f'{name}={_written(value)}' for name, value in arguments.items())})"


def _written(value: object) -> str:
    if not isinstance(value, NodeConfig):
        return repr(value)
    own = msgspec.structs.asdict(value).items() - msgspec.structs.asdict(NodeConfig()).items()
    return _called("raykv.NodeConfig", dict(sorted(own)))


class WorldSession(Session):
    """The session of a simulated store's handle: it ends with its world, and cannot leave it."""

    def __init__(self, name: str, link: Link, routing: Routing = "auto") -> None:
        super().__init__(name, link, routing)
        self.world_ended = False

    @property
    def link(self) -> Link:
        """See ``Session``."""
        if self.world_ended:
            raise StoreClosed(ENDED)
        return super().link

    def sent(self) -> Session:
        """Return this session: a copy of a handle is a handle of the same world."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a simulated store lives in this process alone: its handles cannot be pickled, nor sent to Ray")


ENDED = "this simulated world has ended; raykv.sim.start(...) makes another"


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
        replay: str,
    ) -> None:
        self.replay = replay
        """The Python expression that starts this world again."""
        self._loop = VirtualLoop()
        spec = ClusterSpec(store=store, nodes=nodes, coordinators=coordinators, config=config)
        self._cluster = Cluster(self._loop, spec, f"world {seed}")
        self._clients: dict[str, Process] = {}
        self._undo: list[Callable[[], object]] = []
        """What ends the faults that the nemesis does not know."""
        self._closed = False
        self._sessions: list[WorldSession] = []
        self._places: dict[Store, str] = {}
        self.nodes = tuple(self._cluster.node_ids)
        """The ids of the storage nodes."""
        self.coordinators = tuple(self._cluster.coordinator_names)
        """The names of the coordinators."""
        self.faults: tuple[Fault, ...] = ()
        """The faults that the seed injects, in order."""
        try:
            self._begin(seed, faults=faults)
        except BaseException:
            self._loop.close()
            raise

    def _begin(self, seed: int, *, faults: bool) -> None:
        self._cluster.start()
        self.store = self.connect()
        """A handle of the store; its calls let the virtual time pass."""
        if faults:  # once the store serves
            rng = random.Random(f"world {seed}")
            copies = self._cluster.spec.store.copies
            drawn = draw_faults(rng, self._cluster.spec, FAULTS_FOR_S, copies - quorum(copies))
            self.faults = tuple(msgspec.structs.replace(fault, at_s=fault.at_s + self.now_s) for fault in drawn)
            self._cluster.network.odds = draw_odds(rng)
        self._nemesis = Nemesis(self._cluster, self.faults)
        self._fate = self._loop.create_task(self._nemesis.run())

    # ---- handles and time ----

    def connect(self, coordinator: str = COORDINATOR) -> Store:
        """Return another handle, with its own client that uses that coordinator, or is one itself ("direct")."""
        self._check_known(coordinator, (*self.coordinators, DIRECT))
        self._check_goes_on()
        client = self._client()
        link = self._cluster.link(client, coordinator)
        store = Store(self._cluster.spec.store.name, link, session_of=self._session)
        self._places[store] = client.name if coordinator == DIRECT else coordinator
        return store

    def place_of(self, store: Store) -> str:
        """Return the name of the coordinator of a handle's operations, or of its client if that is its own."""
        return self._places[store]

    async def connect_aio(self) -> AsyncStore:
        """Return another handle for use within ``run``, with its own client."""
        self._check_goes_on()
        return await self._cluster.connect(self._client(), session_of=self._session)

    def _session(self, name: str, link: Link, routing: Routing) -> WorldSession:
        session = WorldSession(name, link, routing)
        self._sessions.append(session)
        return session

    def _client(self) -> Process:
        name = f"client{len(self._clients) + 1}"
        self._clients[name] = Process(self._loop, name)
        return self._clients[name]

    @property
    def now_s(self) -> float:
        """The virtual time, in seconds since the start."""
        return self._loop.now_s

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` of virtual time pass, up to thirty days."""
        self._check_goes_on()
        self._loop.run_until_complete(asyncio.sleep(check_seconds("seconds", seconds, MAX_SLEEP_S)))

    def run(self, work: Coroutine[Any, Any, T], *, timeout: float = RUN_TIMEOUT_S) -> T:
        """Run a coroutine in virtual time: several clients at once, by ``world.store.aio`` and ``asyncio.gather``.

        Raises ``TimeoutError`` after ``timeout`` seconds of virtual time: it may await an event that never comes.
        Raises ``RuntimeError`` for a blocking call inside it, with advice on what to do instead.
        """
        if not inspect.iscoroutine(work):
            raise InvalidOption(f"world.run takes a coroutine, as world.run(work()) has it; got {shown(work)}")
        try:
            timeout_s = check_seconds("timeout", timeout, MAX_SLEEP_S)
            self._check_goes_on()
            self._loop.check_free()
        except (RaykvError, RuntimeError):
            work.close()
            raise
        result: T = self._loop.run_until_complete(self._bounded(work, timeout_s))
        return result

    async def _bounded(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        task: asyncio.Task[T] = self._loop.create_task(work)
        try:
            await asyncio.wait({task}, timeout=timeout_s)
        finally:
            late = not task.done()
            if late:
                task.cancel()
        if late:
            await asyncio.wait({task}, timeout=1)
            raise TimeoutError(
                f"world.run was not done after {timeout_s:g} s of virtual time: does it wait for what never comes? "
                "timeout= says how long it may take"
            )
        return task.result()

    # ---- breaking things ----

    def kill(self, node_id: str) -> None:
        """End the node's process (SIGKILL). The supervisor starts it again."""
        self._check_node(node_id)
        self._do("kill", node_id)

    def power_cut(self, node_id: str, for_s: float = 1.0) -> None:
        """Cut the power of the node's host: unsynced data is lost or torn."""
        self._check_node(node_id)
        self._do("power", node_id, _time("for_s", for_s))

    def freeze(self, name: str, for_s: float) -> None:
        """Stop a process (SIGSTOP), and resume it after ``for_s`` seconds.

        ``name``: a node, a coordinator, the "supervisor", or a client that coordinates for itself (``place_of``). Nothing
        that a frozen client awaits returns before it is resumed.
        """
        self._check_known(name, self._names)
        for_s = _time("for_s", for_s)
        if name in self.nodes:
            self._do("freeze", name, for_s)
        elif name in (*self.coordinators, SUPERVISOR):
            self._do("freeze supervisor" if name == SUPERVISOR else "freeze coordinator", name, for_s)
        else:
            self._check_goes_on()
            self._clients[name].freeze()
            self._later(for_s, self._clients[name].thaw)

    def cut(self, node_id: str, for_s: float, *, direction: Direction = "both", peer: str = "") -> None:
        """Cut the node off from all other processes for ``for_s`` seconds, or only from ``peer``.

        ``direction``: "to": nothing reaches the node; "from": nothing that it says arrives; or "both".
        """
        self._check_node(node_id)
        for_s = _time("for_s", for_s)
        direction = cast("Direction", check_choice("direction", direction, get_args(Direction)))
        if peer != "":
            self._pair(node_id, peer)
        self._do("cut", node_id, for_s, detail=f"{direction} {peer or 'all'}")

    def delay(self, source: str, target: str, by_s: float, for_s: float) -> None:
        """Let every message from one process to another take ``by_s`` seconds, for ``for_s`` seconds.

        Names as in ``freeze``. The answer to a message is one of its own, from ``target`` to ``source``.
        """
        pair = self._pair(source, target)
        by_s, for_s = _time("by_s", by_s), _time("for_s", for_s)
        self._check_goes_on()
        delays = self._cluster.network.delays
        delays[pair] = by_s
        self._later(for_s, lambda: delays.pop(pair, None))

    def lose(self, source: str, target: str, messages: int = 1) -> None:
        """Lose the next messages from one process to another: requests and answers. Names as in ``freeze``."""
        pair = self._pair(source, target)
        messages = check_count("messages", messages, 1, MAX_LOST)
        self._check_goes_on()
        for _ in range(messages):
            self._cluster.network.lose_next(*pair)

    def split(self, side: Iterable[str], for_s: float) -> None:
        """Cut the network in two for ``for_s`` seconds: these nodes and coordinators on one side, the rest on the other.

        A client stays with its coordinator; name a client that coordinates for itself by ``place_of`` its handle.
        """
        if isinstance(side, str) or not hasattr(side, "__iter__") or not (names := [*side]):
            raise InvalidOption(f"side is a list of nodes and coordinators, one at least; got {shown(side)}")
        places = [name for name in self._names if name != SUPERVISOR]
        for name in names:
            self._check_known(name, places)
        for_s = _time("for_s", for_s)
        rest = [name for name in self._names if name not in names]
        for here in dict.fromkeys(names):
            for there in rest:
                node, other = (here, there) if here in self.nodes else (there, here)
                if node in self.nodes:
                    self._do("cut", node, for_s, detail=f"both {other}")

    def slow(self, node_id: str, by_s: float, for_s: float) -> None:
        """Delay all messages to and from the node by ``by_s`` seconds."""
        self._check_node(node_id)
        self._do("slow node", node_id, _time("for_s", for_s), _time("by_s", by_s))

    def fill_disk(self, node_id: str, for_s: float) -> None:
        """Leave no space on the node's disk for ``for_s`` seconds."""
        self._check_node(node_id)
        self._do("disk full", node_id, _time("for_s", for_s))

    def wipe(self, node_id: str) -> None:
        """End the node's process and lose its directory."""
        self._check_node(node_id)
        self._do("wipe", node_id)

    def kill_coordinator(self) -> None:
        """End the coordinator's process. It restarts."""
        self._do("kill coordinator", COORDINATOR)

    def kill_supervisor(self) -> None:
        """End the supervisor's process. It restarts."""
        self._do("kill supervisor", SUPERVISOR)

    def heal(self) -> None:
        """End every fault, and start no more."""
        self._check_goes_on()
        self._fate.cancel()
        self._nemesis.heal()
        for undo in [*self._undo]:
            undo()
        self._cluster.network.lose_no_more()

    def _later(self, for_s: float, undo: Callable[[], object]) -> None:
        """End a fault after its time, or when everything heals; once."""

        def end() -> None:
            if end in self._undo:
                self._undo.remove(end)
                undo()

        self._undo.append(end)
        self._loop.later(for_s, end)

    def events(self) -> list[str]:
        """Return the events of processes and disks until now, a line each, with the virtual time."""
        return [
            f"{event.at_s:10.3f}  {event.source} {event.what} {event.target}".rstrip()
            for event in self._cluster.trace.notable
        ]

    def _do(self, kind: FaultKind, target: str, for_s: float = 0.0, amount: float = 0.0, detail: str = "") -> None:
        self._check_goes_on()
        self._nemesis.begin(Fault(self.now_s, kind, target, for_s, amount, detail))

    @property
    def _names(self) -> list[str]:
        """All that can be named: nodes, coordinators, clients that coordinate for themselves, the supervisor."""
        return [*dict.fromkeys((*self.nodes, *self.coordinators, *self._places.values())), SUPERVISOR]

    def _pair(self, source: str, target: str) -> tuple[str, str]:
        """Return the addresses of two processes."""
        for name in (source, target):
            self._check_known(name, self._names)
        if source == target:
            raise InvalidOption(f"two processes are needed; got {shown(source)} twice")
        first, second = (node_address(name) if name in self.nodes else name for name in (source, target))
        return first, second

    def _check_node(self, node_id: object) -> None:
        """Refuse all but nodes: where there is nothing to break, a test would survive what never happened."""
        if isinstance(node_id, str) and node_id in self._names and node_id not in self.nodes:
            raise InvalidOption(
                f"this fault is for nodes: {', '.join(self.nodes)}; got {shown(node_id)}. For a coordinator or the "
                "supervisor there are kill_coordinator(), kill_supervisor(), freeze() and split(), for messages between any "
                "two processes delay() and lose()"
            )
        self._check_known(node_id, self.nodes)

    def _check_known(self, name: object, known: Sequence[str]) -> None:
        if not isinstance(name, str) or name not in known:
            raise InvalidOption(f"there is no {shown(name)}; there are {', '.join(known)}")

    # ---- the end ----

    def _check_goes_on(self) -> None:
        if self._closed:
            raise StoreClosed(ENDED)

    def close(self) -> None:
        """End the world. Idempotent."""
        if self._closed:
            return
        self._loop.check_free()
        self._closed = True
        for session in self._sessions:
            session.close()
            session.world_ended = True
        self._fate.cancel()
        self._cluster.kill()
        for task in list(self._loop.tasks):  # including leftovers of a user's coroutine
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(1))  # cancelled tasks finish
        self._loop.close()
        for failure in self._loop.failures:
            logger.error("in a simulated world, %s: %s", self.replay, failure)
        self._loop.set_exception_handler(None)  # for errors found later, asyncio's own report is enough

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and not isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            error.add_note(
                f"after {self.now_s:.3f} s in a simulated world (raykv {version()}); the same again: {self.replay}"
            )
        self.close()


def _time(what: str, value: object) -> float:
    return check_seconds(what, value, MAX_SLEEP_S)


def version() -> str:
    """Return raykv's version: another version may make another world of the same seed."""
    import raykv

    return raykv.__version__
