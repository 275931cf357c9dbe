"""raykv: a Dynamo-style key-value store that lives inside a Ray cluster.

    import raykv

    store = raykv.start(nodes=3)
    store.put("user:1", {"name": "Ada"})
    store.get("user:1")

**How it all fits.** A key is hashed to a 64-bit token; the ring of tokens is cut into equal *partitions*, and each
partition has N owners among the storage *nodes* (``raykv.ring``). A client packs a value into a record once
(``raykv.records``, ``raykv.client``) and hands it to a *coordinator*: its own, or the store's actor. That gets a *dot*
for it, the write's own name, from an owner, adds what the writer had seen (``raykv.versions``), and sends it to all N
owners; W durable acknowledgements make a success. A read asks R owners, merges what they say, and writes back what some
of them lacked (``raykv.coordinator``); who missed a write gets it by a hint, or when copies are compared
(``raykv.repair``). Each node keeps its records in a log-structured merge tree on its own disk: write-ahead log, memtable,
SSTables (``raykv.storage``). Nodes gossip heartbeats and suspect who falls silent (``raykv.membership``); a *supervisor*
weighs their words and starts dead and frozen nodes again on their directories; it keeps the ring and the buckets as one
register on the nodes' disks (``raykv.supervision``). All of this is code without Ray, clock or disk; ``raykv.actors``
runs it as Ray actors, and a simulation can run the very same.

**What it promises.** An acknowledged write is on W disks. With strict quorums, W+R > N and 2W > N, a read that begins
after an acknowledgement sees that write or a later one, with any minority of the replicas dead. Of two concurrent writes
that carry their contexts none is lost: both stand, until somebody who has seen both merges them (``versioning="vector"``,
the default; with ``"lww"`` the one with the later stamp stands).

**What it does not.** It is not linearizable and has no compare-and-set; no transactions over keys; scans are no
snapshots. With a cut, the side that cannot reach a quorum refuses; a bucket made with ``sloppy=True`` answers on both
sides, and sorts it out later. No store can do both.

Importing this package does not import Ray; starting or connecting does.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

import raykv.coordinator  # noqa: F401 - first: imported later, the package would take the name of the function below
from raykv.client.aio import AsyncBucket, AsyncStore
from raykv.client.elastic import RebalanceAction, ScalingLimits
from raykv.client.reads import Versions
from raykv.client.repairs import RepairReport
from raykv.client.store import Bucket, Store
from raykv.client.views import NodeLoad, NodeStatus, RingMember, RingView, ScalingView, Status
from raykv.client.writes import WriteResult
from raykv.config import (
    MAX_COORDINATORS,
    MAX_NODES,
    BucketConfig,
    Codec,
    Durability,
    Level,
    NodeConfig,
    Routing,
    StoreConfig,
    Versioning,
    check_count,
    check_routing,
    check_store_name,
    check_weight,
    check_zone,
    shown,
)
from raykv.errors import (
    BatchError,
    BucketMismatch,
    CorruptData,
    InvalidContext,
    InvalidKey,
    InvalidOption,
    NotEnoughNodes,
    Overloaded,
    PairTooLarge,
    QuorumNotMet,
    RaykvError,
    SiblingsFound,
    StoreClosed,
    StoreNotFound,
    StoreUnavailable,
    WriteOutcomeUnknown,
    from_callers_code,
)
from raykv.records.keys import Key
from raykv.versions.context import Context
from raykv.versions.resolvers import Resolver

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

__version__ = "0.1.0"

__all__ = [
    "start", "connect", "shutdown", "destroy", "coordinator", "Store", "Bucket", "AsyncStore", "AsyncBucket",
    "Versions", "WriteResult", "Context", "Status", "NodeStatus", "RingView", "RingMember", "RepairReport",
    "ScalingView", "NodeLoad", "ScalingLimits", "RebalanceAction",
    "NodeConfig", "StoreConfig", "BucketConfig", "Key", "Level", "Codec", "Durability", "Routing", "Versioning", "Resolver",
    "RaykvError", "InvalidKey", "PairTooLarge", "InvalidOption", "InvalidContext", "StoreNotFound", "BucketMismatch",
    "NotEnoughNodes", "StoreUnavailable", "QuorumNotMet", "WriteOutcomeUnknown", "Overloaded", "CorruptData",
    "SiblingsFound", "StoreClosed", "BatchError",
]  # fmt: skip


def start(
    name: str = "default",
    *,
    nodes: int = 3,
    path: str | None = None,
    n: int | None = None,
    zones: Iterable[str] | None = None,
    weights: Iterable[float] | Literal["auto"] = "auto",
    durability: Durability | None = None,
    partitions: int | None = None,
    replace_after: float = 600.0,
    config: NodeConfig | None = None,
    routing: Routing = "auto",
    coordinators: int = 1,
) -> Store:
    """Start a store in this Ray cluster, or attach to the running one of that name, and return a handle.

    Without a Ray cluster a local one is started, which ends with this process; the data stays, and the next ``start``
    on the same ``path`` has it again.

    ``nodes``, ``path`` (a directory of the store's own on every host), ``zones``, ``weights``, ``config`` and
    ``replace_after`` (seconds after which a node is replaced whose host is gone) matter at creation only. The nodes are
    dealt out over the hosts of the Ray cluster.
    ``n`` is the number of copies (default: 3, or the number of nodes if fewer), ``partitions`` a power of two (default
    256), ``durability`` "group", "interval" or "always"; all must agree on these, so another value for a store that
    exists is refused.

    ``routing`` is the handle's, see ``connect``. ``coordinators``: how many coordinator actors there are to be, for clients
    that leave it to them; a store that runs gets those that it lacks.

    Raises ``InvalidOption``, ``NotEnoughNodes`` (n above nodes), ``StoreUnavailable`` (the store did not come up).
    """
    check_store_name(name)
    check_routing(routing)
    _require_supported_platform()
    nodes = check_count("nodes", nodes, 1, MAX_NODES)
    coordinators = check_count("coordinators", coordinators, 1, MAX_COORDINATORS)
    n = None if n is None else check_count("n", n, 1, MAX_NODES)
    if n is not None and n > nodes:
        raise NotEnoughNodes(f"n={n} copies need at least {n} nodes; got nodes={nodes}")
    _check_path(path)
    wanted = StoreConfig(
        name=name,
        copies=min(3, nodes) if n is None else n,
        partitions=256 if partitions is None else partitions,
        durability="group" if durability is None else durability,
        replace_after_s=replace_after,
    )
    from raykv.actors import lifecycle
    from raykv.actors.marker import check_agreed
    from raykv.supervision.founding import Plan

    plan = Plan(store=wanted, nodes=nodes, zones=_zones(zones), weights=_weights(weights, nodes))
    given = {
        "n": n,
        "partitions": None if partitions is None else wanted.partitions,
        "durability": None if durability is None else wanted.durability,
    }
    lifecycle.found_or_join(plan, path, config or NodeConfig(), given, coordinators)
    # Ray may still be starting the coordinator's process, on a busy machine for longer than an operation may take.
    store = Store(name, lifecycle.join(name, routing), timeout_s=lifecycle.ANSWER_TIMEOUT_S, routing=routing)
    check_agreed(msgspec.convert(store.status(timeout=lifecycle.ANSWER_TIMEOUT_S)["config"], StoreConfig), given)
    return store


def connect(name: str = "default", *, routing: Routing = "auto") -> Store:
    """Return a handle of a running store, from any task, actor or job. Raises ``StoreNotFound``.

    ``routing``: who coordinates this handle's operations. ``"direct"``: this process, which talks to the storage nodes
    itself; ``"coordinator"``: the store's coordinator actor, a call of which costs some milliseconds; ``"auto"``: this
    process where it can reach the nodes. What an operation promises is the same. Handles of one process share their
    connections; the last one that is closed ends them.
    """
    check_store_name(name)
    check_routing(routing)
    from raykv.actors import lifecycle

    return Store(name, lifecycle.join(name, routing), routing=routing)


def coordinator(name: str = "default") -> Any:
    """Return a coordinator's Ray actor handle, for those who want an ``ObjectRef``. Raises ``StoreNotFound``.

    It has ``get``, ``put``, ``delete``, ``get_many`` and ``put_many``; decode with ``store.decode(ray.get(ref))``.
    """
    check_store_name(name)
    from raykv.actors import lifecycle

    return lifecycle.coordinator_handle(name)


def shutdown(name: str = "default") -> None:
    """Stop the store's actors, cleanly; the data stays, and so does Ray. Raises ``StoreNotFound``."""
    check_store_name(name)
    from raykv.actors import lifecycle

    lifecycle.stop(name)


def destroy(name: str = "default", *, path: str | None = None, confirm: str | None = None) -> None:
    """Stop the store if it runs, and delete its data for good.

    ``confirm`` must be the store's name; without it the name is asked for at the terminal. ``path`` is needed only for
    a store that does not run and was not started at the default path. Raises ``StoreNotFound``.
    """
    check_store_name(name)
    if confirm is None:
        if not sys.stdin.isatty():
            raise InvalidOption(f"destroy() deletes all data of store {name!r}; pass confirm={name!r} to confirm")
        confirm = input(f"This deletes all data of store {name!r}. Type its name to confirm: ")
    if confirm != name:
        raise InvalidOption(f"nothing was deleted: {confirm!r} is not the name of store {name!r}")
    from raykv.actors import deletion, lifecycle

    with contextlib.suppress(StoreNotFound):  # one that does not run can be deleted all the same
        stopped = lifecycle.stop(name)
        if stopped is None and path is None:
            raise StoreUnavailable(
                f"nothing was deleted: store {name!r} did not report where its data is; pass its path"
            )
        path = stopped or path
    deletion.delete(name, path)


def _require_supported_platform() -> None:
    if sys.platform == "win32":
        raise InvalidOption("raykv runs on Linux and macOS; on Windows, run it inside WSL2")


def _check_path(path: object) -> None:
    if path is not None and (not isinstance(path, str) or not path or "\0" in path):
        raise InvalidOption(f"path must be the name of a directory; got {shown(path)}")


def _zones(zones: Iterable[str] | None) -> tuple[str, ...]:
    if zones is None:
        return ()
    if isinstance(zones, str):
        raise InvalidOption(f"zones must be a list of names; got one str: {shown(zones)}")
    return tuple(check_zone(zone) for zone in _iterated("zones", zones))


def _iterated(what: str, several: Iterable[T]) -> Iterator[T]:
    """Return its iterator. Raises ``InvalidOption`` if it has none; what its own code raises is passed on."""
    try:
        return iter(several)
    except TypeError as error:
        if from_callers_code(error):
            raise
        raise InvalidOption(f"{what} must be an iterable, such as a list; got {shown(several)}") from None


def _weights(weights: Iterable[float] | Literal["auto"], nodes: int) -> tuple[float, ...] | Literal["auto"]:
    if isinstance(weights, str) and weights == "auto":
        return "auto"
    given: tuple[Any, ...] = tuple(itertools.islice(_iterated("weights", weights), nodes + 1))  # some have no end
    if len(given) != nodes:
        raise InvalidOption(f"weights must be 'auto' or one number for each of the {nodes} nodes; got {shown(weights)}")
    return tuple(check_weight(weight) for weight in given)
