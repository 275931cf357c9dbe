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
of them lacked (``raykv.coordinator``); a node that missed a write gets it by a hint, or when copies are compared
(``raykv.repair``). A node answers by plain functions (``raykv.replica``, ``raykv.node``) over a log-structured merge
tree on its own disk: write-ahead log, memtable, SSTables (``raykv.storage``). Nodes gossip heartbeats and suspect one
that falls silent (``raykv.membership``); a *supervisor* weighs their words, starts dead and frozen nodes again on their
directories, and moves partitions when nodes come and go (``raykv.supervision``). What all must agree on, the ring and
the buckets, is one replicated register on the nodes' disks (``raykv.cluster``). All of this is code without Ray,
socket, clock or disk, and reaches them through ``raykv.ports``: ``raykv.actors``, ``raykv.transport`` and
``raykv.system`` run it in Ray, ``raykv.sim`` runs the very same in a world of virtual time, where a seed breaks it. The
rules that keep data are P1 to P15 in ``raykv.protocol.invariants``.

**What it promises.** An acknowledged write is on W disks. With strict quorums, W+R > N and 2W > N, a read that begins
after an acknowledgement sees that write or a later one, with any minority of the replicas dead. Of two concurrent
writes that carry their contexts none is lost: both stand, until somebody who has seen both merges them
(``versioning="vector"``, the default; with ``"lww"`` the one with the later stamp stands).

In a bucket with ``versioning="linearizable"`` all that is done to one key has one order, which agrees with real time:
compare-and-set, insert if absent, atomic counts, ``update``, and on top of these ``store.counter``, ``store.lock`` and
``store.queue``. A call that has to be repeated counts once. One owner of each partition *leads*, under a *term* that a
majority promised durably; another takes over when it does not answer.

**What it does not.** No transactions over keys; scans are no snapshots. Vector and lww buckets are not linearizable.
With a cut, the side that cannot reach a quorum refuses; a bucket made with ``sloppy=True`` answers on both sides, and
sorts it out later. No store can do both: a linearizable bucket refuses reads and writes where no majority is.

**The journey of a get**, ``store.get("user:1")``, from file to file::

    client/store.py                   the blocking face, generated from client/aio.py
    client/handle.py                  the session that all handles of one connect share
    client/requests.py                the key is checked and encoded (records/keys.py)
    client/reads.py                   the operation, a generator: one request, one answer
    client/driver.py                  runs it over a link to the coordinator
    coordinator/steps.py              an operation, here too, is a generator: rounds out, answers in
    actors/embedded_coordinator.py    that link: this process coordinates for itself
    actors/embedded_loop.py           a coordinator belongs to one thread at a time: the caller acquires it
    coordinator/fast_path.py          R owners are asked at once; are all answers plain, and equal?
    coordinator/judgements.py         what both paths judge alike: when it is enough, what a dot stands for (pure)
    coordinator/routing.py            key, partition, owners (cluster/state.py, ring/ring.py)
    cluster/health.py                 who is asked first
    cluster/peers.py                  frames for one run of a node; which answers are believed
    transport/blocking.py             the caller's own sockets (transport/wire.py), no task, no change of threads

    transport/server.py               in the node's process: overload is refused here (transport/admission.py)
    node/node.py                      is it meant for this run, and for these owners (protocol/requests.py)?
    replica/handlers.py               the handler, a plain function
    storage/lookups.py                memtable, caches, Bloom filters, SSTables (storage/sstable.py)
    node/group_commit.py              the answer leaves once what it shows is durable (P3)

    versions/merging.py               what the record shows a reader
    client/codecs.py                  the value

    Where an answer is late, different or unavailable, the quorum path begins:

    coordinator/coordinator.py        admits the operation; owns what is known of the cluster
    coordinator/reads.py              R complete answers are merged, what they lacked is written back
    coordinator/rounds.py             counts: who is asked next, when it is enough (pure)
    cluster/fanout.py                 calls to several nodes, their outcomes as they come
    coordinator/write_fanout.py       the repair, until R replicas hold what is returned (P9)

    With ``routing="coordinator"``: actors/link.py, actors/coordinator.py, coordinator/service.py, then the same.
    Awaited operations that begin together leave together: coordinator/batcher.py.

**The journey of a put**, ``store.put("user:1", value)``. The way is that of the get; on it::

    client/writes.py                  key and value are packed, once (client/codecs.py, records/record.py)
    client/session_clock.py           until when it may begin (P8); above which time it is stamped (P7)
    coordinator/fast_path.py          first round: an owner gives a dot, N - W + 1 show what they hold
    replica/dot_allocator.py          the dot: given once (P2)
    coordinator/writes.py             what the write supersedes, and its stamp
    coordinator/fast_path.py          second round: all N owners get the record; W acknowledgements are awaited
    replica/handlers.py               the record is merged with what is there
    versions/merging.py               a newer one, siblings (versions/dvvset.py) or the last writer (versions/lww.py)
    storage/engine.py                 log (storage/wal.py) and memtable; later a table (storage/jobs.py)
    node/group_commit.py              one fdatasync for all that wait, then the acknowledgement
    coordinator/write_fanout.py       on the quorum path: until W of each set of owners hold it
    coordinator/in_flight.py          the write, until all owners have acknowledged or missed it
    coordinator/hint_sender.py        an owner that acknowledged is asked to remember one that did not (P11)
    replica/hints.py                  the hint waits
    repair/handoff.py                 and is delivered

**The journey of an add**, ``store.counter("hits").add(1)``::

    client/primitives.py              generated from client/aio_primitives.py; client/counters.py: a key of a bucket
    client/atomic.py                  a change: key, kind, amount; checked and sent, again where no answer comes
    client/lanes.py                   lane and number name the call for ever, however often it is sent (L10)
    coordinator/changes.py            to the partition's leader, or who is believed to be; else to the next owner (L14)

    node/node.py                      in the leader's process: answered when it is settled, not in the turn it came in
    replica/leader.py                 is it led here? is the lane's call new?
    replica/takeover.py               if nobody leads: a term, promised by a majority and confirmed (L1, L4)
    replica/looking.py                a key's first touch in a term: what a majority holds of it (L5)
    replica/applying.py               the sum, beside the results of the last calls of other lanes (pure)
    replica/tenure.py                 a round: all that came meanwhile, one record a key (L6)
    replica/owners.py                 to all owners, the leader itself among them
    replica/voting.py                 an owner takes it, unless it has promised a later term (L2, replica/promises.py)
    records/linear_record.py          term, seq, value, receipts: one record
    node/group_commit.py              leader and followers sync at once; a majority settles it

    A get asks a majority directly (coordinator/changes.py, L8), and the leader where they do not show the last value.
    A lock is compare-and-set on one key: client/locks.py, renewed by client/renewals.py. A queue's jobs lie in slots, and a
    book for each shard says what has become of them: client/shards.py, client/queues.py.

**The journey of a moving partition**, after ``store.add_node()``::

    client/elastic.py                 the request, and the wait until it is done
    supervision/members.py            the new node is started, then a member
    ring/claim.py                     the ring that is wanted (ring/targets.py, ring/flow.py; P13)
    cluster/moves.py                  the states that lead there, each safe to act on (P4)
    cluster/register.py               a majority accepts each (cluster/acceptor.py) before it is handed out (P5)
    supervision/rebalancing.py        waves: step 1, 2, 3, as enough owners know of the one before
    supervision/supervisor.py         coordinators hear of it
    cluster/state.py                  whom writes need and whom reads ask at each step
    coordinator/routing.py            the coordinator's view; a node that knows better answers with its own
    replica/handlers.py               is the request meant for the owners of today?
    repair/maintenance.py             the new owner fetches the partition
    repair/anti_entropy.py            from enough old owners (repair/merkle.py, repair/local_copy.py, repair/throttle.py)
    repair/local_copy.py              at the end the old owner drops what it held

**The words**, for readers of the papers on Dynamo and of Cassandra's manual:

=====================  ===============================================================================================
bucket                 a named set of keys with one policy (Riak's bucket; near to a Cassandra table's settings)
context                what a read has seen, opaque; the client returns it with a write (Dynamo's context)
coordinator            runs one operation over the replicas; usually a part of the client's own process
dot                    (actor, counter), the name of one write; a set of dots is a causal history
epoch                  the number of who owns what; grows with every step of a move
fallback               a node that stands in for an owner in a sloppy bucket
fast, quorum path      one round while all is well; the way with hedges, repairs and hints
fencing token          a lock's, greater with each holder; ``put(fence=)`` refuses an older one than the key has seen
gc grace               how long a delete is remembered (``gc_grace_s``; Cassandra's gc_grace_seconds)
hedged read            the next replica races a slow one (Cassandra: speculative retry)
hint, hinted handoff   a write kept for an owner that missed it; its delivery
incarnation            one run of a node; its *directory id* is drawn when the directory is made
incomplete             of a node that may lack what it acknowledged: it takes writes and answers no reads
lane                   a call slot of a client; with a number it names a change for ever (RIFL's session)
leader, term           the owner that orders a partition's changes; its tenure, promised by a majority (Raft's senses)
node                   a storage actor and its directory (Ray's nodes are called hosts here)
owner, primary         one of the N nodes that a partition's records belong on
partition              one of the ring's equal arcs (vnode, Dynamo's strategy 3); a network's partition is a *cut*
receipt                the result of a lane's last call, kept in the record: a repeated call gets it again
sibling                a value beside another, both concurrent
strict, sloppy         only owners count toward a quorum; fallbacks count too
suspect, down          one node's opinion; the cluster's verdict, by proof or two reporters
tombstone              a delete, replicated like any write
=====================  ===============================================================================================

Reading order: ``records``, ``ring``, ``versions``, ``storage``, ``membership``; then ``protocol``, ``cluster``,
``coordinator``, ``replica``, ``repair``, ``node``, ``supervision``; then ``client``, ``metrics``, ``dashboard``,
``portable``, ``transport``, ``system``, ``actors``, ``data``, ``sim``. Each package's docstring has its idea, invariants,
reading order and omissions: ``help("raykv.ring")``.

Importing this package does not import Ray; starting or connecting does.
"""

from __future__ import annotations

import itertools
import os
import sys
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

import raykv.actors.forks
import raykv.coordinator  # noqa: F401 - first: imported later, the package would take the name of the function below
from raykv.client.aio import AsyncBucket, AsyncStore
from raykv.client.aio_primitives import AsyncCounter, AsyncLock
from raykv.client.aio_queue import AsyncQueue
from raykv.client.backups import RestoreReport, SnapshotReport
from raykv.client.elastic import RebalanceAction, ScalingLimits
from raykv.client.primitives import Counter, Lock
from raykv.client.queues import Job, QueueStats
from raykv.client.reads import Versions
from raykv.client.repairs import RepairReport
from raykv.client.splits import AsyncSplit, Split
from raykv.client.store import Bucket, Store
from raykv.client.task_queue import Queue
from raykv.client.version import Version, Versioned
from raykv.client.views import NodeLoad, NodeStatus, RingMember, RingView, ScalingView, Status
from raykv.client.writes import WriteResult
from raykv.config import (
    MAX_COORDINATORS,
    MAX_NODES,
    VERSION,
    BucketConfig,
    Codec,
    Durability,
    Level,
    NodeConfig,
    Routing,
    StoreConfig,
    Versioning,
    check_count,
    check_node_config,
    check_routing,
    check_store_name,
    check_weight,
    check_zone,
    shown,
)
from raykv.errors import (
    BatchError,
    BucketMismatch,
    Conflict,
    CorruptData,
    Empty,
    Full,
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
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

__version__ = VERSION

__all__ = [
    "start", "connect", "shutdown", "destroy", "restore", "coordinator", "Store", "Bucket", "AsyncStore", "AsyncBucket",
    "Counter", "Lock", "AsyncCounter", "AsyncLock", "Queue", "AsyncQueue", "Job", "QueueStats", "Split", "AsyncSplit",
    "Versions", "Versioned", "Version", "WriteResult", "Context", "Status", "NodeStatus", "RingView", "RingMember",
    "RepairReport", "SnapshotReport", "RestoreReport", "ScalingView", "NodeLoad", "ScalingLimits", "RebalanceAction",
    "NodeConfig", "StoreConfig", "BucketConfig", "Key", "Level", "Codec", "Durability", "Routing", "Versioning", "Resolver",
    "RaykvError", "InvalidKey", "PairTooLarge", "InvalidOption", "InvalidContext", "StoreNotFound", "BucketMismatch",
    "NotEnoughNodes", "StoreUnavailable", "QuorumNotMet", "WriteOutcomeUnknown", "Overloaded", "CorruptData",
    "SiblingsFound", "Conflict", "Empty", "Full", "StoreClosed", "BatchError",
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
    adopt: bool = False,
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

    ``adopt``: ``path`` holds a copy, made by ``cp -r``, of another store that was stopped: make it this store, with an
    identity of its own, so that both may run. All of its nodes' directories must be there.

    ``routing`` is the handle's, see ``connect``. ``coordinators``: the number of coordinator actors, for clients that leave
    coordination to them; a running store gets those that it lacks.

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
    config = check_node_config("config", config)
    if not isinstance(adopt, bool):
        raise InvalidOption(f"adopt must be True or False; got {shown(adopt)}")
    if adopt and path is None:
        raise InvalidOption("adopt=True needs the path of the copy")
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
    if adopt and path is not None:  # the handle would be that of the original, and the copy stay one
        lifecycle.check_not_elsewhere(name, path)
    lifecycle.found_or_join(plan, path, config or NodeConfig(), given, coordinators, adopt=adopt)
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

    It has ``get``, ``put``, ``delete``, ``get_many`` and ``put_many``, and for linearizable buckets ``get_versioned``,
    ``add``, ``max``, ``min`` and ``swap``, each with ``bucket=name``; decode with ``store.decode(ray.get(ref))``.
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
    """Stop the store if it runs, and delete its data for good, on all hosts of this Ray cluster.

    What is left on a host that does not answer, or is not in the cluster, would bring the store back: ``StoreUnavailable``
    names such hosts. Call it again when they are there; without a Ray cluster only this host's data is deleted.

    ``confirm`` must be the store's name; without it the name is asked for at the terminal. ``path`` is needed only for
    a store that does not run and was not started at the default path; what lies there is deleted, and a store of that name
    that runs elsewhere goes on. Raises ``StoreNotFound``, ``StoreUnavailable``.
    """
    check_store_name(name)
    _check_path(path)
    if confirm is None:
        if not sys.stdin.isatty():
            raise InvalidOption(f"destroy() deletes all data of store {name!r}; pass confirm={name!r} to confirm")
        confirm = input(f"This deletes all data of store {name!r}. Type its name to confirm: ")
    if confirm != name:
        raise InvalidOption(f"nothing was deleted: {shown(confirm)} is not the name of store {name!r}")
    from raykv.actors import destroying

    destroying.destroy(name, path)


def restore(
    backup: str | os.PathLike[str],
    name: str,
    *,
    nodes: int | None = None,
    path: str | None = None,
    snapshot: str | None = None,
    partial: bool = False,
    config: NodeConfig | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> RestoreReport:
    """Make a new store of a snapshot (``store.snapshot``) and return a report, a dict of figures.

    ``backup``: the directory, on this host, with the parts of all nodes. ``name``: of the new store. ``nodes``: their
    number, by default as many as were backed up; with fewer than its copies, it keeps fewer copies. ``path``, ``config``:
    as in ``start``. ``snapshot``: its name; the latest by default. ``progress(done, all)`` receives numbers of partitions.

    Buckets come back with their settings, keys with all their versions, deletes that are still remembered, and times at
    which values expire; in linearizable buckets versions and fencing tokens too. Contexts of the former store are refused
    (``InvalidContext``): read again. Memory does not grow with the store; time: about that of loading the records anew.

    ``partial``: make a store of what is left where parts are missing or damaged; the report says what it may lack.
    Nothing is unpickled here, but clients will unpickle the values: restore only backups that you trust.

    Raises ``InvalidOption`` (no such snapshot, a store of that name, another process restores there), ``CorruptData`` (the
    backup is damaged, or lacks what was acknowledged), ``StoreUnavailable``. If it fails or is interrupted, the
    new store is deleted. If its process is killed, the same call loads everything once more into the store that it had
    begun.
    """
    check_store_name(name)
    _require_supported_platform()
    _check_path(path)
    where = os.fspath(backup) if isinstance(backup, os.PathLike) else backup
    _check_path(where)
    if where is None:
        raise InvalidOption("backup must be the name of a directory; got None")
    if not isinstance(snapshot, str | None):
        raise InvalidOption(f"snapshot must be the name of a snapshot; got {shown(snapshot)}")
    if not isinstance(partial, bool):
        raise InvalidOption(f"partial must be True or False; got {shown(partial)}")
    config = check_node_config("config", config)
    from raykv.actors import backups

    return backups.restore(
        where, name, nodes=nodes, path=path, snapshot=snapshot or "", partial=partial, config=config, progress=progress
    )


def _require_supported_platform() -> None:
    if sys.platform == "win32":
        raise InvalidOption("raykv runs on Linux and macOS; on Windows, run it inside WSL2")


def _check_path(path: object) -> None:
    if path is None:
        return
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidOption(f"path must be the name of a directory; got {shown(path)}")
    try:
        path.encode()
    except (
        UnicodeEncodeError
    ):  # Python's stand-ins for a file name's bytes that are not UTF-8; messages hold only UTF-8
        raise InvalidOption(f"path must be valid in UTF-8; got {shown(path)}") from None


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
