"""Requests to storage nodes, from coordinators, the supervisor and one another, and their answers.

Every request travels in a ``NodeRequest``, which names the run of the node it is meant for (P6) and the epoch of the
cluster's state by which the node was chosen (P4). Their traits are in ``raykv.protocol.requests``.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from raykv.protocol.changes import Change, Settled
from raykv.protocol.codec import Message
from raykv.records import limits as lim

NO_ROOM = -1
"""Nothing was kept: the key has too many unmerged versions."""
FULL = -2
"""Nothing was kept: the node keeps as many hints as it may."""


class Read(Message, frozen=True):
    """The node's records of ``keys``. Answer: ``ReadDone``, or ``Incomplete``.

    ``hints``: what it keeps for others counts too (a sloppy bucket).
    """

    bucket_id: lim.BucketId
    keys: lim.Keys
    hints: bool = False


class ReserveDots(Message, frozen=True):
    """Return the stored versions of ``keys``, and a dot for each with an operation id: the first half of a vector write.

    Nothing is kept under the dot until the write comes with it, and only the receiver of this answer sends that; a lost
    answer costs a dot. Answer: ``DotsReserved``, or ``Incomplete``.
    """

    bucket_id: lim.BucketId
    keys: lim.Keys
    operation_ids: Annotated[list[lim.OperationId], lim.ITEMS]
    """One a key; empty where no dot is wanted."""
    hints: bool = False


class Write(Message, frozen=True):
    """Keep these (encoded key, record). Answer, once durable: ``WriteDone``.

    ``made_ms``: when its sender picked up the records, by the sender's wall clock. Records older than half the grace are
    refused as "old": the delete above them may be forgotten by now (P10). 0: not checked.

    ``stored``: they are copies of what nodes hold, or a backup. A time too far ahead was refused when they were new; now the
    copies have to be kept (P1, P4, P9, P11), and whoever writes over them is refused instead (P7).
    """

    bucket_id: lim.BucketId
    items: Annotated[list[tuple[lim.EncodedKey, lim.Bytes]], lim.ITEMS]
    made_ms: int = 0
    stored: bool = False


class Hint(Message, frozen=True):
    """Keep (encoded key, record, nodes that miss it) until these nodes have it (P11). Answer: ``WriteDone``.

    An empty record: what the node itself holds under the key.
    """

    bucket_id: lim.BucketId
    items: Annotated[list[tuple[lim.EncodedKey, lim.Bytes, lim.Targets]], lim.ITEMS]
    made_ms: int
    counted: bool = False
    """Whether the coordinator counts it as an acknowledgement (a sloppy bucket): then it is kept for longer."""


class Scan(Message, frozen=True):
    """Records of a bucket in ``start <= key < end`` of the listed partitions. Answer: ``ScanDone``, ``Incomplete``.

    ``background``: no client waits for it. ``now_ms``: of what is deleted, or expired by then (the coordinator's clock),
    the answer may have more beyond ``limit``, without payloads; 0: all records count.
    """

    bucket_id: lim.BucketId
    start: lim.Bound
    end: lim.Bound
    limit: int
    reverse: bool
    keys_only: bool
    partitions: lim.Partitions
    background: bool = False
    now_ms: int = 0


class Ping(Message, frozen=True):
    """Check that the node is alive. Answer: ``Pong``."""

    with_stats: bool = False


class ReadState(Message, frozen=True):
    """The node's copy of the cluster's state. Answer: ``AcceptorAnswer``."""


class PrepareState(Message, frozen=True):
    """Accept nothing from generations below this one any more (P5). Answer: ``AcceptorAnswer``."""

    generation: lim.Number


class AcceptState(Message, frozen=True):
    """Keep this state, durably, unless a later generation was promised. Answer: ``AcceptorAnswer``."""

    generation: lim.Number
    version: lim.Number
    state: lim.State
    decided: bool = False
    """Whether a majority holds this state by now, so that nodes may act on it."""
    directory_ids: Annotated[list[int], lim.NODES] = []
    """Of the nodes without a vote that were seen before this state was first sent out: they may vote again."""


class Stop(Message, frozen=True):
    """Close the directory cleanly; answer nothing more. Answer: ``Pong``."""


class Gossip(Message, frozen=True):
    """Heartbeats: node id -> (incarnation, counter), as far as the sender has heard. Answer: ``Gossip``."""

    sender: lim.NodeId
    table: Annotated[dict[lim.NodeId, tuple[lim.Number, lim.Number]], lim.NODES]


class Tree(Message, frozen=True):
    """Digests of a partition's Merkle tree: the children of these nodes of ``level``. Answer: ``TreeDone``.

    The tree is over these buckets and ``16 ** depth`` leaves (see ``raykv.repair.merkle``); level 0 is the root, and
    level -1 asks for the root itself.
    """

    partition: int
    buckets: lim.BucketIds
    depth: int
    level: int
    indexes: lim.Indexes


class Leaves(Message, frozen=True):
    """What is in these leaves of a partition's tree. Answer: ``LeavesDone``."""

    partition: int
    buckets: lim.BucketIds
    depth: int
    indexes: lim.Indexes


class Fetch(Message, frozen=True):
    """Records for another owner, whether or not this one is complete. Answer: ``ReadDone``."""

    bucket_id: lim.BucketId
    keys: Annotated[list[lim.EncodedKey], lim.LOOKED_AT]


class Purge(Message, frozen=True):
    """Forget these (bucket id, encoded key, digest), all of them dead. Answer: ``Purged``.

    Without ``sure`` nothing is forgotten yet: the answer says which records the node holds, durably, exactly so. Either way
    it leaves out what is not dead for long enough by the node's own clock (P10).
    """

    items: Annotated[list[tuple[lim.BucketId, lim.EncodedKey, int]], lim.LOOKED_AT]
    sure: bool
    also_living: bool = False
    """Without ``sure``: only what is held is asked for, dead or not."""


class DropUnowned(Message, frozen=True):
    """Drop the records that the node does not own by the state of the request's epoch. Answer: ``Cleared``.

    ``partitions``: of these only; None: of all.
    """

    partitions: lim.Partitions | None = None


class PullPartition(Message, frozen=True):
    """Pull what the node gains of a partition that moves to it. Answer: ``Repaired``, once it has everything.

    ``lost``: leaving owners that are gone for good and cannot be a source.
    """

    partition: int
    timeout_s: lim.Timeout
    lost: lim.NodeIds = []


class Repair(Message, frozen=True):
    """Compare this partition with its other owners now, and repair differences. Answer: ``Repaired``.

    ``purge``: also forget what all may forget.
    """

    partition: int
    timeout_s: lim.Timeout
    purge: bool = True


class Apply(Message, frozen=True):
    """Changes of a linearizable bucket, for those who lead their partitions. Answer: ``Applied``.

    ``run``, ``expires_s``: until when it may be carried out, by the monotonic clock of that run of the node (P8, L12).
    ``silent``: nodes that did not answer the sender; ``unable``: nodes that said that they cannot lead (L14). ``left_s``:
    for how long its sender may still go on with it, here or elsewhere, as of its sending (L12); 0: not said.
    """

    bucket_id: lim.BucketId
    items: Annotated[list[Change], lim.ITEMS]
    run: lim.Number
    expires_s: float
    silent: lim.NodeIds = []
    unable: lim.NodeIds = []
    left_s: float = 0.0


class ReadHeads(Message, frozen=True):
    """Records of a linearizable bucket, with what the node has promised: a plain read (L8). Answer: ``HeadsRead``."""

    bucket_id: lim.BucketId
    keys: lim.Keys


class Promise(Message, frozen=True):
    """Promise the term of a partition's leader, for buckets of ``n`` copies (L2). Answer: ``Promised``.

    ``again``: tell only whether that is what is promised still (L4).
    """

    partition: int
    n: lim.Copies
    term: lim.Term
    leader: lim.NodeId
    again: bool = False


class HandOver(Message, frozen=True):
    """Lead nothing for ``for_s`` seconds, and have other owners lead what the node leads: it is to be stopped (L14).

    Answer: ``HandedOver``.
    """

    for_s: lim.Timeout


class Lead(Message, frozen=True):
    """Lead these partitions in the sender's place, which is to be stopped (L14). Answer: ``HandedOver``."""

    n: lim.Copies
    partitions: lim.Partitions


class ReadPromises(Message, frozen=True):
    """What the node has promised for a partition, for another owner that heals (L3). Answer: ``PromisesRead``."""

    partition: int


class Look(Message, frozen=True):
    """The node's records of these keys, for a leader in a new term (L5). Answer: ``Looked``.

    ``groups``: (partition, term, its encoded keys).
    """

    bucket_id: lim.BucketId
    n: lim.Copies
    leader: lim.NodeId
    groups: Annotated[list[tuple[int, lim.Term, lim.Keys]], lim.ITEMS]


class Accept(Message, frozen=True):
    """Keep these records of the term, or just acknowledge it, if there are none (L6, L7). Answer: ``Accepted``.

    ``groups``: (partition, term, its (bucket id, encoded key, record)). ``made_ms``: as in ``Write`` (P10, L12).
    """

    n: lim.Copies
    leader: lim.NodeId
    made_ms: int
    groups: Annotated[
        list[tuple[int, lim.Term, Annotated[list[tuple[int, lim.EncodedKey, lim.Bytes]], lim.ITEMS]]], lim.ITEMS
    ]


class CopyTables(Message, frozen=True):
    """Flush, and copy the tables into a backup directory on the node's host. Answer: ``TablesCopied``.

    ``path``: see ``raykv.storage.snapshot``. Refused as "path" if that is no directory of this store's backups, or cannot be
    written.
    """

    path: lim.BackupPath
    snapshot: lim.SnapshotName
    timeout_s: lim.Timeout


class KeepManifest(Message, frozen=True):
    """Keep the manifest of a snapshot beside the node's part: the snapshot counts from now on. Answer: ``ManifestKept``.

    ``keep``: how many snapshots stay, this one among them; older ones are removed. 0: all.

    Refused as "path" as ``CopyTables`` is.
    """

    path: lim.BackupPath
    snapshot: lim.SnapshotName
    manifest: lim.State
    keep: lim.Number = 0


class ExplainRequest(Message, frozen=True):
    """Answer another request, and explain how: what was looked into, and how long it took. Answer: ``RequestExplained``.

    ``frame``: that of the other request, which is checked and carried out as if it had come alone.
    """

    frame: lim.Frame


NodeRequestBody: TypeAlias = (
    Read
    | ReserveDots
    | Write
    | Hint
    | Scan
    | Ping
    | ReadState
    | PrepareState
    | AcceptState
    | Stop
    | Gossip
    | Tree
    | Leaves
    | Fetch
    | Purge
    | DropUnowned
    | PullPartition
    | Repair
    | Apply
    | ReadHeads
    | Promise
    | HandOver
    | Lead
    | ReadPromises
    | Look
    | Accept
    | CopyTables
    | KeepManifest
    | ExplainRequest
)


class LogEnd(Message, frozen=True):
    """How far a node's log was durable when it said so, in which directory and which incarnation."""

    directory_id: int
    incarnation: int
    position: int


class NodeRequest(Message, frozen=True):
    """A request with the incarnation of the node that it is meant for; 0 means any (P6).

    ``log_end``: the furthest that the sender knows of this node, in any run: a node that falls short of it has
    lost what it acknowledged.
    """

    incarnation: int
    body: NodeRequestBody
    log_end: LogEnd | None = None
    epoch: int = 0
    """Of the cluster's state by which the node was chosen; 0: ownership does not matter (P4)."""


class ReadDone(Message, frozen=True):
    """One record (or None: absent) a key, in the order asked."""

    records: Annotated[list[lim.Bytes | None], lim.ITEMS]
    unreadable: Annotated[list[int], lim.ITEMS] = []
    """Indexes of the keys that lie in a damaged range here: no answer, like ``Incomplete``."""
    left: Annotated[list[int], lim.ITEMS] = []
    """Indexes of the keys that the answer had no room for: ask again."""


class Reserved(Message, frozen=True):
    """A dot (none if it was not wanted: counter 0), and what the node holds of the key."""

    actor: lim.Actor
    counter: int
    causality: lim.Bytes
    siblings: int
    record_bytes: int


class DotsReserved(Message, frozen=True):
    """One entry a key, in the order asked; None for one that lies in a damaged range."""

    items: Annotated[list[Reserved | None], lim.ITEMS]


class WriteDone(Message, frozen=True):
    """One entry an item: 0 if the record is now held durably, else the newer time held (P7), ``NO_ROOM`` or ``FULL``."""

    newer: Annotated[list[int], lim.ITEMS]


class ScanDone(Message, frozen=True):
    """Records in order. ``covered`` is how far the answer is complete: None means to the end of the range asked."""

    items: Annotated[list[tuple[lim.Bound, lim.Bytes]], lim.ENTRIES]
    covered: lim.Bound | None


class Incomplete(Message, frozen=True):
    """The node may lack what it acknowledged and answers no reads (P1)."""

    reason: lim.Text


class Pong(Message, frozen=True):
    """The node is alive, and suspects these others (P12).

    ``ballot``: of the latest decided state that it received, if it votes.
    """

    stats: lim.Figures | None = None
    suspects: lim.NodeIds = []
    ballot: tuple[int, int] = (0, 0)


class TreeDone(Message, frozen=True):
    """The digests asked for, in their order; how many records the tree is over; whether the node lacks nothing here."""

    digests: Annotated[list[int], lim.ENTRIES]
    records: int
    complete: bool


class LeavesDone(Message, frozen=True):
    """The records of the leaves asked for: (bucket id, encoded key, digest)."""

    entries: Annotated[list[tuple[lim.BucketId, lim.Bound, int]], lim.ENTRIES]
    complete: bool
    left: lim.Indexes = []
    """Leaves that the answer had no room for: ask again."""


class Purged(Message, frozen=True):
    """Indexes of the records that the node holds exactly so, or has forgotten now."""

    indexes: Annotated[list[int], lim.LOOKED_AT]


class Cleared(Message, frozen=True):
    """The number of records that were forgotten."""

    records: int


class Repaired(Message, frozen=True):
    """What a repair did, as figures."""

    figures: lim.Figures


class Applied(Message, frozen=True):
    """One entry a change, in the order sent. ``now_s``: the node's monotonic clock, of its run ``run``."""

    items: Annotated[list[Settled], lim.ITEMS]
    run: lim.Number
    now_s: float


class HeadsRead(Message, frozen=True):
    """The node's records of the keys, each with the term promised for it (empty: none).

    ``heads``: indexes of the keys whose leader under that term the node is, and whose record it knows to be the last one.
    ``unreadable``, ``left``: as in ``ReadDone``.
    """

    records: Annotated[list[lim.Bytes | None], lim.ITEMS]
    terms: Annotated[list[lim.Version], lim.ITEMS]
    heads: Annotated[list[int], lim.ITEMS] = []
    unreadable: Annotated[list[int], lim.ITEMS] = []
    left: Annotated[list[int], lim.ITEMS] = []


class Promised(Message, frozen=True):
    """Whether the term is promised, and what is (empty: nothing). ``directory_id``: in which directory (L4).

    ``buckets``: if asked again, the buckets of which the node holds anything in the partition: F owners without any record
    of a bucket are as good as a look at all of its keys (L5).
    """

    granted: bool
    term: lim.Version
    leader: lim.Name
    directory_id: int
    buckets: lim.BucketIds = []


class HandedOver(Message, frozen=True):
    """The number of partitions for which it did not work out: each has its leader still, or gets one when it is asked."""

    left: lim.Number


class PromisesRead(Message, frozen=True):
    """(n, term, leader) for each n of which the node has promised something; whether it lacks nothing here."""

    items: Annotated[list[tuple[lim.Copies, lim.Term, lim.NodeId]], lim.NODES]
    complete: bool


class Looked(Message, frozen=True):
    """One entry a group: its records, or the later term that is promised (and then no record).

    Fewer records than keys are those of the first keys: the answer had no room for more.
    """

    groups: Annotated[list[tuple[lim.Version, lim.Name, Annotated[list[lim.Bytes | None], lim.ITEMS]]], lim.ITEMS]


class Accepted(Message, frozen=True):
    """One entry a group: empty if all of it is held durably, else the later term that stands, and its leader."""

    groups: Annotated[list[tuple[lim.Version, lim.Name]], lim.ITEMS]


class TablesCopied(Message, frozen=True):
    """The node's part of a snapshot stands in the backup directory, durably.

    ``state``: the cluster's state as the node knew it when it took its tables. ``log_end``: how far its log was synced then.
    ``part_bytes``, ``part_checksum``: of the file that lists its tables. ``new_tables``, ``new_bytes``: those that the
    directory had not yet.
    """

    state: lim.State
    directory_id: int
    incarnation: lim.Number
    log_end: int
    part_bytes: lim.Number
    part_checksum: lim.Number
    tables: lim.Number
    records: lim.Number
    table_bytes: lim.Number
    new_tables: lim.Number
    new_bytes: lim.Number


class ManifestKept(Message, frozen=True):
    """The manifest is kept, durably. What was removed of older snapshots; ``trouble``: why some of it was not."""

    removed: lim.Number = 0
    removed_bytes: lim.Number = 0
    trouble: lim.Text = ""


class RequestExplained(Message, frozen=True):
    """The frame of the other request's answer, and how it came about: see ``raykv.node.explaining``."""

    frame: lim.Frame
    figures: lim.Figures


class AcceptorAnswer(Message, frozen=True):
    """Whether the request was granted, what is promised, and what is kept (None: nothing).

    ``voter``: whether the node counts toward a majority. A node that lost its directory has forgotten its promises, and
    does not count until it receives a decided state that a majority of the others accepted after it had begun its
    present ``directory_id`` (its first 64 bits).
    """

    granted: bool
    promised: lim.Number
    generation: lim.Number
    version: lim.Number
    state: lim.State | None
    voter: bool = True
    directory_id: int = 0


class NotOwner(Message, frozen=True):
    """The request's keys have other owners by now, or are moving: this is the state that the node knows (P4).

    It did nothing.
    """

    state: lim.State


class NodeRefused(Message, frozen=True):
    """The node refuses.

    It did nothing with the reasons "moved" (another incarnation runs), "overloaded", "corrupt", "unknown" (it is of another
    version, and knows no such request), "clock", "old", "stopping",
    "not yet" (it does not know enough of the cluster, or needs a peer that is away), "behind" (it does not know the
    request's epoch: send it the state), "path" (a backup directory cannot be used); with "failed" (its disk did) it
    may have carried the request out.
    """

    reason: lim.Name
    message: lim.Text


NodeAnswerBody: TypeAlias = (
    ReadDone
    | DotsReserved
    | WriteDone
    | ScanDone
    | Incomplete
    | Pong
    | AcceptorAnswer
    | NotOwner
    | NodeRefused
    | Gossip
    | TreeDone
    | LeavesDone
    | Purged
    | Cleared
    | Repaired
    | Applied
    | HeadsRead
    | Promised
    | HandedOver
    | PromisesRead
    | Looked
    | Accepted
    | TablesCopied
    | ManifestKept
    | RequestExplained
)


class NodeAnswer(Message, frozen=True):
    """An answer with the incarnation that gave it, and how far its log was durable by then."""

    incarnation: int
    body: NodeAnswerBody
    log_end: LogEnd | None = None


_OPENING = 3 + len(NodeRequest.__name__)
"""The version, the head of the array, and the name, before the incarnation."""
_INTEGER_BYTES = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
"""First byte of an integer -> its length, where it is not one."""


def kind_of_request(frame: bytes) -> bytes:
    """Return the name of a request to a node (``b"Read"``), without decoding it; of anything else, some other name.

    Empty if it is cut off.
    """
    try:
        at = _OPENING + _INTEGER_BYTES.get(frame[_OPENING], 1) + 1
        length = frame[at] & 0x1F
    except IndexError:
        return b""
    return frame[at + 1 : at + 1 + length] if len(frame) > at + length else b""
