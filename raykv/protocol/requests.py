"""The table of requests to a node, a coordinator and the supervisor, each with its traits.

Whatever depends on the kind of a request reads it here: the check of ownership (P4), checks beyond the type, refusal
under overload, whether a client waits for the answer, metering, maximum frame size. No trait has a default,
so the type checker names a missing one; a request without a row stops the import, one without a handler stops
its server (``check_handlers``). A forgotten trait would otherwise pass silently: former owners answer a request
that concerns nothing.

To add a request: its message with the others of its kind (``nodes``, ``clients``, ``supervisor``), its row here, and its
handler.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, get_args

from raykv.config import MAX_BATCH_ITEMS, MAX_FRAME_BYTES, MAX_PAIR_BYTES
from raykv.protocol import clients as c
from raykv.protocol import nodes as n
from raykv.protocol import supervisor as s
from raykv.protocol.changes import PUT, READ, SWAP
from raykv.protocol.codec import Message
from raykv.records.limits import KEYS_FRAME_BYTES, SMALL_FRAME_BYTES, STATE_FRAME_BYTES
from raykv.records.linear_record import LANE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

Q = TypeVar("Q", bound=Message)
R = TypeVar("R")

Sender = Literal["client", "coordinator", "node", "supervisor"]
"""An embedded coordinator sends what coordinators send."""


class Metered(Enum):
    """How a node's load counts a request."""

    NOT = "not"
    ONCE = "as one operation"
    BY_KEY = "as one operation a key"


@dataclass(frozen=True, kw_only=True)
class Traits(Generic[Q]):
    """Traits of a request to any process."""

    answers: tuple[type[Message], ...]
    """Besides a refusal, which any request may get."""
    senders: tuple[Sender, ...]
    frame_bytes: int
    """The maximum size of its frame."""


@dataclass(frozen=True, kw_only=True)
class CoordinatorTraits(Traits[Q]):
    """Traits of a request to a coordinator."""

    passed_on: bool
    """Whether the supervisor answers it, asked by the coordinator with the same message."""
    writes: Callable[[Q], Iterable[tuple[int, bytes]]] | None
    """What a client writes with it, (bucket id, key): a later write of a key waits for one that its caller has given up.
    None if nothing."""


@dataclass(frozen=True, kw_only=True)
class SupervisorTraits(Traits[Q]):
    """Traits of a request to the supervisor."""

    repeatable: bool
    """Whether it may be asked again while the first is under way: the two do and answer what one does."""


class _OfABucket(Protocol):
    @property
    def bucket_id(self) -> int: ...


class Concern(Generic[Q]):
    """The keys and partitions that a request is about.

    A node answers only while these have the owners by which the sender chose it (P4).
    """

    def __init__(
        self,
        items: Callable[[Q], Sequence[Any]] | None,
        key: Callable[[Any], bytes],
        partitions: Callable[[Q], Sequence[int]] | None,
        *,
        bucket: Callable[[Q, Any], int],
        everything: bool,
    ) -> None:
        self.items = items
        """The items that it lists by key; None if there are none."""
        self.key = key
        """The key of an item."""
        self.bucket = bucket
        """``bucket(body, item)``: the id of the bucket of an item's key."""
        self.partitions = partitions
        """The partitions that it names, to be checked against the store's; None if it names none."""
        self.everything = everything
        """Whether it is about all partitions, regardless of those that it names."""

    def keys(self, body: Q) -> Iterator[bytes]:
        """Yield the keys."""
        return iter(()) if self.items is None else map(self.key, self.items(body))

    def keys_in_buckets(self, body: Q) -> Iterator[tuple[int, bytes]]:
        """Yield the keys, each with the id of its bucket: both decide where it lies."""
        for item in () if self.items is None else self.items(body):
            yield self.bucket(body, item), self.key(item)

    def named(self, body: Q) -> Sequence[int]:
        """Return the partitions that it names."""
        return () if self.partitions is None else self.partitions(body)


def _itself(key: bytes) -> bytes:
    return key


def _of_the_body(body: Any, _: Any) -> int:
    bucket_id: int = body.bucket_id
    return bucket_id


def _of_no_item(_: Any, __: Any) -> int:
    raise AssertionError("a request that lists no items")


def _keys(keys: Callable[[Q], Sequence[bytes]]) -> Concern[Q]:
    return Concern(keys, _itself, None, bucket=_of_the_body, everything=False)


def _items(items: Callable[[Q], Sequence[tuple[Any, ...]]], key_at: int) -> Concern[Q]:
    return Concern(items, itemgetter(key_at), None, bucket=_of_the_body, everything=False)


def _partitions(partitions: Callable[[Q], Sequence[int]]) -> Concern[Q]:
    return Concern(None, _itself, partitions, bucket=_of_no_item, everything=False)


_NOTHING: Concern[Any] = Concern(None, _itself, None, bucket=_of_no_item, everything=False)
"""No key and no partition: it may be answered under any ring."""


@dataclass(frozen=True, kw_only=True)
class NodeTraits(Traits[Q]):
    """Traits of a request to a storage node."""

    concerns: Concern[Q]
    bucket: Callable[[Q], int] | None
    """The id of the bucket that it needs: refused once that is dropped. None if it needs none."""
    misfit: Callable[[Q], str] | None
    """What is wrong with a request beyond its type and partitions, empty if nothing; None if that cannot be."""
    client_waits: Callable[[Q], bool]
    """Whether a client waits for the answer: then it is answered at once, and its time steers the background work."""
    shed: bool
    """Whether overload refuses it: the beginning of a client's operation, which the client tries again."""
    metered: Metered
    work_due: bool
    """Whether a flush or a compaction may be due after it."""


_bucket_id: Callable[[_OfABucket], int] = attrgetter("bucket_id")


def _always(_: Message) -> bool:
    return True


def _never(_: Message) -> bool:
    return False


def _one_operation_id_a_key(body: n.ReserveDots) -> str:
    return "" if len(body.keys) == len(body.operation_ids) else "a reservation has one operation id a key"


def _each_bucket_once(body: n.Tree | n.Leaves) -> str:
    return "a bucket is named twice" if len(set(body.buckets)) < len(body.buckets) else ""


def _no_more_than_a_batch(body: n.Look | n.Accept) -> str:
    most = sum(len(items) for *_, items in body.groups)
    return f"{most} items; at most {MAX_BATCH_ITEMS} are taken" if most > MAX_BATCH_ITEMS else ""


def _changes_fit(body: n.Apply) -> str:
    """Judge what a record could not hold: one such change would stand in the way of all after it."""
    for change in body.items:
        if change.kind == READ:
            continue
        if len(change.lane) != LANE_BYTES:
            return "a change without a lane"
        if change.kind in {PUT, SWAP} and not 0 < len(change.payload) <= MAX_PAIR_BYTES + 1:
            return f"a value of {len(change.payload)} bytes"
    return ""


def _background(
    kind: type[Q],
    *,
    answers: tuple[type[Message], ...],
    senders: tuple[Sender, ...],
    frame_bytes: int,
    concerns: Concern[Q],
    misfit: Callable[[Q], str] | None,
) -> NodeTraits[Q]:
    """Return the row of a request for which no client waits: never shed, not metered."""
    del kind  # it binds the type of the row
    return NodeTraits(
        answers=answers, senders=senders, frame_bytes=frame_bytes, concerns=concerns, bucket=None, misfit=misfit,
        client_waits=_never, shed=False, metered=Metered.NOT, work_due=True,
    )  # fmt: skip


def _for_a_leader(
    kind: type[Q],
    *,
    answers: tuple[type[Message], ...],
    frame_bytes: int,
    concerns: Concern[Q],
    misfit: Callable[[Q], str] | None,
) -> NodeTraits[Q]:
    """Return the row of a leader's request to another owner: a client waits for both.

    The leader has taken the operation in: it meters it, and overload sheds it there and nowhere else. Owners that shed
    their part would look like a lost majority, and the round would be sent again.
    """
    del kind  # it binds the type of the row
    return NodeTraits(
        answers=answers, senders=("node",), frame_bytes=frame_bytes, concerns=concerns, bucket=None, misfit=misfit,
        client_waits=_always, shed=False, metered=Metered.NOT, work_due=True,
    )  # fmt: skip


NODE: Mapping[type[Message], NodeTraits[Any]] = {
    n.Read: NodeTraits[n.Read](
        answers=(n.ReadDone, n.Incomplete), senders=("coordinator",), frame_bytes=KEYS_FRAME_BYTES,
        concerns=_keys(lambda body: body.keys), bucket=_bucket_id, misfit=None,
        client_waits=_always, shed=True, metered=Metered.BY_KEY, work_due=False,
    ),
    n.ReserveDots: NodeTraits[n.ReserveDots](
        answers=(n.DotsReserved, n.Incomplete), senders=("coordinator",), frame_bytes=KEYS_FRAME_BYTES,
        concerns=_keys(lambda body: body.keys), bucket=_bucket_id, misfit=_one_operation_id_a_key,
        client_waits=_always, shed=True, metered=Metered.NOT,  # the write that follows it is
        work_due=True,
    ),
    n.Write: NodeTraits[n.Write](
        answers=(n.WriteDone,), senders=("coordinator", "node"), frame_bytes=MAX_FRAME_BYTES,
        concerns=_items(lambda body: body.items, 0), bucket=_bucket_id, misfit=None,
        client_waits=_always, shed=True, metered=Metered.BY_KEY, work_due=True,
    ),
    n.Scan: NodeTraits[n.Scan](
        answers=(n.ScanDone, n.Incomplete), senders=("coordinator", "node"), frame_bytes=KEYS_FRAME_BYTES,
        concerns=_partitions(lambda body: body.partitions), bucket=_bucket_id, misfit=None,
        client_waits=lambda body: not body.background, shed=True, metered=Metered.ONCE, work_due=True,
    ),
    n.Hint: _background(
        n.Hint,
        answers=(n.WriteDone,), senders=("coordinator",), frame_bytes=MAX_FRAME_BYTES,
        concerns=_items(lambda body: body.items, 0), misfit=None,
    ),
    n.Ping: _background(
        n.Ping,
        answers=(n.Pong,), senders=("coordinator", "node", "supervisor"), frame_bytes=SMALL_FRAME_BYTES,
        concerns=_NOTHING, misfit=None,
    ),
    n.ReadState: _background(
        n.ReadState,
        answers=(n.AcceptorAnswer,), senders=("supervisor",), frame_bytes=SMALL_FRAME_BYTES,
        concerns=_NOTHING, misfit=None,
    ),
    n.PrepareState: _background(
        n.PrepareState,
        answers=(n.AcceptorAnswer,), senders=("supervisor",), frame_bytes=SMALL_FRAME_BYTES,
        concerns=_NOTHING, misfit=None,
    ),
    n.AcceptState: _background(
        n.AcceptState,
        # Coordinators and nodes send a node that is behind what was decided.
        answers=(n.AcceptorAnswer,), senders=("coordinator", "node", "supervisor"), frame_bytes=STATE_FRAME_BYTES,
        concerns=_NOTHING, misfit=None,
    ),
    n.Stop: _background(
        n.Stop,
        answers=(n.Pong,), senders=("supervisor",), frame_bytes=SMALL_FRAME_BYTES,
        concerns=_NOTHING, misfit=None,
    ),
    n.Gossip: _background(
        n.Gossip,
        answers=(n.Gossip,), senders=("node",), frame_bytes=KEYS_FRAME_BYTES,
        concerns=_NOTHING, misfit=None,
    ),
    n.Tree: _background(
        n.Tree,
        answers=(n.TreeDone,), senders=("node",), frame_bytes=KEYS_FRAME_BYTES,
        concerns=_partitions(lambda body: (body.partition,)), misfit=_each_bucket_once,
    ),
    n.Leaves: _background(
        n.Leaves,
        answers=(n.LeavesDone,), senders=("node",), frame_bytes=KEYS_FRAME_BYTES,
        concerns=_partitions(lambda body: (body.partition,)), misfit=_each_bucket_once,
    ),
    n.Fetch: _background(
        n.Fetch,
        answers=(n.ReadDone,), senders=("node",), frame_bytes=KEYS_FRAME_BYTES,
        concerns=_keys(lambda body: body.keys), misfit=None,
    ),
    n.Purge: _background(
        n.Purge,
        answers=(n.Purged,), senders=("node",), frame_bytes=KEYS_FRAME_BYTES,
        concerns=Concern(
            lambda body: body.items, itemgetter(1), None, bucket=lambda _, item: int(item[0]), everything=False
        ),
        misfit=None,
    ),
    n.DropUnowned: _background(
        n.DropUnowned,
        answers=(n.Cleared,), senders=("supervisor",), frame_bytes=KEYS_FRAME_BYTES,
        concerns=Concern(None, _itself, lambda body: body.partitions or (), bucket=_of_no_item, everything=True),
        misfit=None,
    ),
    n.PullPartition: _background(
        n.PullPartition,
        answers=(n.Repaired,), senders=("supervisor",), frame_bytes=KEYS_FRAME_BYTES,
        concerns=_partitions(lambda body: (body.partition,)), misfit=None,
    ),
    n.Repair: _background(
        n.Repair,
        answers=(n.Repaired,), senders=("coordinator", "supervisor"), frame_bytes=SMALL_FRAME_BYTES,
        concerns=_partitions(lambda body: (body.partition,)), misfit=None,
    ),
    n.Apply: NodeTraits[n.Apply](
        answers=(n.Applied, n.Incomplete), senders=("coordinator",), frame_bytes=MAX_FRAME_BYTES,
        concerns=Concern(lambda body: body.items, attrgetter("key"), None, bucket=_of_the_body, everything=False),
        bucket=_bucket_id, misfit=_changes_fit,
        client_waits=_always, shed=True, metered=Metered.BY_KEY, work_due=True,
    ),
    n.ReadHeads: NodeTraits[n.ReadHeads](
        answers=(n.HeadsRead, n.Incomplete), senders=("coordinator",), frame_bytes=KEYS_FRAME_BYTES,
        concerns=_keys(lambda body: body.keys), bucket=_bucket_id, misfit=None,
        client_waits=_always, shed=True, metered=Metered.BY_KEY, work_due=False,
    ),
    n.Promise: _for_a_leader(
        n.Promise,
        answers=(n.Promised, n.Incomplete), frame_bytes=SMALL_FRAME_BYTES,
        concerns=_partitions(lambda body: (body.partition,)), misfit=None,
    ),
    n.Look: _for_a_leader(
        n.Look,
        answers=(n.Looked, n.Incomplete), frame_bytes=KEYS_FRAME_BYTES,
        concerns=_partitions(lambda body: [at for at, *_ in body.groups]), misfit=_no_more_than_a_batch,
    ),
    n.Accept: _for_a_leader(
        n.Accept,
        answers=(n.Accepted, n.Incomplete), frame_bytes=MAX_FRAME_BYTES,
        concerns=_partitions(lambda body: [at for at, *_ in body.groups]), misfit=_no_more_than_a_batch,
    ),
    n.HandOver: _background(
        n.HandOver,
        answers=(n.HandedOver,), senders=("supervisor",), frame_bytes=SMALL_FRAME_BYTES,
        concerns=_NOTHING, misfit=None,
    ),
    n.Lead: _background(
        n.Lead,
        answers=(n.HandedOver,), senders=("node",), frame_bytes=SMALL_FRAME_BYTES,
        # Whose turn it is the receiver judges by the owners that it knows: nothing depends on the sender's state.
        concerns=_partitions(lambda body: body.partitions), misfit=None,
    ),
    n.ReadPromises: _background(
        n.ReadPromises,
        answers=(n.PromisesRead,), senders=("node",), frame_bytes=SMALL_FRAME_BYTES,
        concerns=_partitions(lambda body: (body.partition,)), misfit=None,
    ),
    n.CopyTables: _background(
        n.CopyTables,
        answers=(n.TablesCopied,), senders=("coordinator",), frame_bytes=SMALL_FRAME_BYTES,
        # Which nodes must be asked depends on the owners: the states in the answers are compared.
        concerns=_NOTHING, misfit=None,
    ),
    n.ExplainRequest: NodeTraits[n.ExplainRequest](
        # The other request is checked and metered when it is taken out.
        answers=(n.RequestExplained,), senders=("coordinator",), frame_bytes=MAX_FRAME_BYTES,
        concerns=_NOTHING, bucket=None, misfit=None,
        client_waits=_always, shed=True, metered=Metered.NOT, work_due=False,
    ),
    n.KeepManifest: _background(
        n.KeepManifest,
        answers=(n.ManifestKept,), senders=("coordinator",), frame_bytes=STATE_FRAME_BYTES,
        concerns=_NOTHING, misfit=None,
    ),
}  # fmt: skip


def _for_the_store(answer: type[Message]) -> CoordinatorTraits[Any]:
    """Return the row of a client's request about the store as a whole."""
    return CoordinatorTraits(
        answers=(answer,), senders=("client",), frame_bytes=SMALL_FRAME_BYTES, passed_on=True, writes=None
    )


COORDINATOR: Mapping[type[Message], CoordinatorTraits[Any]] = {
    c.GetMany: CoordinatorTraits[c.GetMany](
        answers=(c.GotMany,), senders=("client",), frame_bytes=KEYS_FRAME_BYTES, passed_on=False, writes=None
    ),
    c.WriteMany: CoordinatorTraits[c.WriteMany](
        answers=(c.WroteMany, c.DeadlinePassed),
        senders=("client",),
        frame_bytes=MAX_FRAME_BYTES,
        passed_on=False,
        writes=lambda body: ((body.bucket_id, key) for key, _, _ in body.items),
    ),
    c.ChangeMany: CoordinatorTraits[c.ChangeMany](
        answers=(c.ChangedMany, c.DeadlinePassed),
        senders=("client",),
        frame_bytes=MAX_FRAME_BYTES,
        passed_on=False,
        writes=lambda body: ((body.bucket_id, change.key) for change in body.items),
    ),
    c.ScanPage: CoordinatorTraits[c.ScanPage](
        answers=(c.Page,),
        senders=("client",),
        frame_bytes=KEYS_FRAME_BYTES,  # it may name all partitions
        passed_on=False,
        writes=None,
    ),
    c.RepairPartitions: CoordinatorTraits[c.RepairPartitions](
        answers=(s.Info,), senders=("client",), frame_bytes=SMALL_FRAME_BYTES, passed_on=False, writes=None
    ),
    c.TakeSnapshot: CoordinatorTraits[c.TakeSnapshot](
        answers=(s.Info,), senders=("client",), frame_bytes=SMALL_FRAME_BYTES, passed_on=False, writes=None
    ),
    c.ExplainOperation: CoordinatorTraits[c.ExplainOperation](
        answers=(c.OperationExplained,),
        senders=("client",),
        frame_bytes=MAX_FRAME_BYTES,
        passed_on=False,
        writes=None,  # what it explains may (``coordinator.abandoned``)
    ),
    c.LoadRecords: CoordinatorTraits[c.LoadRecords](
        answers=(s.Info,), senders=("client",), frame_bytes=MAX_FRAME_BYTES, passed_on=False, writes=None
    ),
    c.IndirectProbe: CoordinatorTraits[c.IndirectProbe](
        answers=(s.Info,), senders=("supervisor",), frame_bytes=SMALL_FRAME_BYTES, passed_on=False, writes=None
    ),
    s.ClusterUpdate: CoordinatorTraits[s.ClusterUpdate](
        answers=(s.Info,), senders=("supervisor",), frame_bytes=STATE_FRAME_BYTES, passed_on=False, writes=None
    ),
    s.OpenBucket: CoordinatorTraits[s.OpenBucket](
        answers=(s.BucketOpened,), senders=("client",), frame_bytes=SMALL_FRAME_BYTES, passed_on=False, writes=None
    ),
    s.GetInfo: CoordinatorTraits[s.GetInfo](
        answers=(s.Info,), senders=("client",), frame_bytes=SMALL_FRAME_BYTES, passed_on=False, writes=None
    ),
    s.DropBucket: _for_the_store(s.Info),
    s.AddNode: _for_the_store(s.Info),
    s.RemoveNode: _for_the_store(s.Info),
    s.ReplaceNode: _for_the_store(s.Info),
    s.RestartNode: _for_the_store(s.Info),
    s.SetWeight: _for_the_store(s.Info),
    s.Rebalance: _for_the_store(s.Info),
    s.Autoscale: _for_the_store(s.Info),
}


def _from_coordinators(answer: type[Message], *, repeatable: bool = False) -> SupervisorTraits[Any]:
    return SupervisorTraits(
        answers=(answer,), senders=("coordinator",), frame_bytes=SMALL_FRAME_BYTES, repeatable=repeatable
    )


SUPERVISOR: Mapping[type[Message], SupervisorTraits[Any]] = {
    s.GetClusterUpdate: _from_coordinators(s.ClusterUpdate, repeatable=True),
    s.OpenBucket: _from_coordinators(s.BucketOpened, repeatable=True),
    s.GetInfo: _from_coordinators(s.Info, repeatable=True),
    s.DropBucket: _from_coordinators(s.Info),
    s.AddNode: _from_coordinators(s.Info),
    s.RemoveNode: _from_coordinators(s.Info),
    s.ReplaceNode: _from_coordinators(s.Info),
    s.RestartNode: _from_coordinators(s.Info),
    s.SetWeight: _from_coordinators(s.Info),
    s.Rebalance: _from_coordinators(s.Info),
    s.Autoscale: _from_coordinators(s.Info),
}


def name_of(kind: type[Message]) -> bytes:
    """Return the name of a message on the wire."""
    name = kind.__struct_config__.tag
    assert isinstance(name, str)
    return name.encode()


def frame_bytes_of(table: Mapping[type[Message], Traits[Any]]) -> dict[bytes, int]:
    """Return name on the wire -> the maximum size of its frame."""
    return {name_of(kind): traits.frame_bytes for kind, traits in table.items()}


SHED = frozenset(name_of(kind) for kind, traits in NODE.items() if traits.shed)
"""Names of requests that overload refuses: an overloaded node need not decode them."""
_FIT_BY_TYPE = frozenset(
    kind for kind, traits in NODE.items() if traits.misfit is None and traits.concerns.partitions is None
)


def misfit(body: Message, partitions: int) -> str:
    """Return what is wrong with a request to a node, beyond what its type says; empty if nothing is.

    ``partitions``: how many the store has. Each partition and bucket may be named once: each is gone through. O(items)
    for a request that lists some.
    """
    if type(body) in _FIT_BY_TYPE:  # most requests pay for no more than this
        return ""
    traits = NODE[type(body)]
    named = traits.concerns.named(body)
    if named and not (min(named) >= 0 and max(named) < partitions):
        return f"the store has partitions 0 to {partitions - 1}"
    if len(named) > 1 and len(set(named)) < len(named):
        return "a partition is named twice"
    return "" if traits.misfit is None else traits.misfit(body)


def handled(kind: type[Q], by: Callable[[Q], R]) -> tuple[type[Message], Callable[[Any], R]]:
    """Return an entry for a dict of handlers, in which the handler fits the request by its type."""
    return kind, by


def check_handlers(table: Mapping[type[Message], Any], *handlers: Mapping[type[Message], Any]) -> None:
    """Raise ``TypeError`` unless each request of the table has one handler, and only those have."""
    found = [kind for some in handlers for kind in some]
    wrong = [kind.__name__ for kind in table if found.count(kind) != 1]
    wrong += [kind.__name__ for kind in found if kind not in table]
    if wrong:
        raise TypeError(f"requests without a handler of their own: {', '.join(sorted(wrong))}")


def _check_rows(table: Mapping[type[Message], Any], union: Any) -> None:
    if odd := table.keys() ^ {*get_args(union)}:
        names = ", ".join(sorted(kind.__name__ for kind in odd))
        raise TypeError(f"requests without a row in the table, or rows without a request: {names}")


_check_rows(NODE, n.NodeRequestBody)
_check_rows(COORDINATOR, c.CoordinatorRequest)
_check_rows(SUPERVISOR, s.SupervisorRequest)
