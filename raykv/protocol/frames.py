"""Frames: requests and answers as bytes.

A frame is one byte of format version and one msgpack value. Its type is declared here and checked by msgspec on the way
in: a frame that does not fit its type is ``CorruptData`` at the door, never an ``AttributeError`` further in. Nothing in
a frame is ever unpickled. How much a message may carry stands with its fields (``raykv.records.limits``).

Two conversations use them: client to coordinator (``coordinator_requests`` below) and coordinator or supervisor to
storage node (``NodeRequest``). All of them are batches; a single operation is a batch of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeAlias, TypeVar

import msgspec

from raykv.config import MAX_FRAME_BYTES
from raykv.errors import CorruptData, RaykvError, from_data, to_data
from raykv.records import limits as lim

if TYPE_CHECKING:
    from collections.abc import Callable

FRAME_VERSION = 1
NO_ROOM = -1
"""Nothing was kept, for too many versions of the key stand that nobody merged."""
FULL = -2
"""Nothing was kept, for the node keeps as many hints as it may."""

T = TypeVar("T")
_VERSION = bytes([FRAME_VERSION])


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What all messages share: immutable, positional on the wire, opened by the class's name.

    Those of which there is one for each key of a batch are not looked at by the collector (``gc=False``): they hold bytes
    and lists of them, so no cycle goes through them, and thousands of them made a batch a third slower.
    """


class Failed(_Message, frozen=True):
    """An error as data: class name, message, details (see raykv.errors.to_data)."""

    name: lim.Name
    message: lim.Text
    details: lim.Figures

    @classmethod
    def of(cls, error: RaykvError) -> Failed:
        """Take an error apart. A message that is too long for an answer is cut."""
        name, message, details = to_data(error)
        return cls(name, message[: lim.MAX_TEXT_CHARS], details)

    def error(self) -> RaykvError:
        """Return the error, ready to be raised."""
        return from_data(self.name, self.message, self.details)


class Acked(_Message, frozen=True, gc=False):
    """A write's W is met: its operation id, the nodes that had acknowledged durably by then, what it superseded."""

    operation_id: lim.OperationId
    nodes: lim.NodeIds
    causality: lim.Bytes
    """Packed (``raykv.versions.causality``), its own dot and time included."""


# ---- client -> coordinator ----------------------------------------------------------------------------------------


class GetMany(_Message, frozen=True):
    """Quorum reads of ``keys`` (encoded). Answer: ``GotMany``. ``causality``: whether it is wanted too."""

    bucket_id: int
    keys: lim.Keys
    r: int
    timeout_s: float
    causality: bool = False


class WriteMany(_Message, frozen=True):
    """Quorum writes of (encoded key, body, causality or None). A key stands at most once. Answer: ``WroteMany``, ``Late``.

    The causality is what the writer has seen of the key, packed; None: it has not looked. ``after``: the newest hybrid
    time that the client has seen. ``run`` and ``expires_s``: until when the coordinator may begin with it, by its own
    monotonic clock as its run ``run`` told it (P8); without them it may begin whenever the request reaches it.
    """

    bucket_id: int
    items: Annotated[list[tuple[lim.EncodedKey, lim.Bytes, lim.Bytes | None]], lim.ITEMS]
    w: int
    timeout_s: float
    after: int = 0
    run: int = 0
    expires_s: float = 0.0


class ScanPage(_Message, frozen=True):
    """The next records of a bucket with ``start <= key < end``, in key order or its reverse. Answer: ``Page``.

    ``limit``: of records, and with ``passing`` of pairs that are shown, for there is much that is not. A page may have
    fewer, or none, before the end: see ``Page.resume``.
    """

    bucket_id: int
    start: lim.Bound
    end: lim.Bound
    limit: int
    reverse: bool
    keys_only: bool
    r: int
    timeout_s: float
    passing: bool = False


class OpenBucket(_Message, frozen=True):
    """Find the bucket, or create it with ``options`` (fields of BucketConfig). Answer: ``BucketOpened``."""

    name: lim.Name
    options: lim.Settings
    timeout_s: float


class DropBucket(_Message, frozen=True):
    """Drop the bucket and all in it. Answer: ``Told``."""

    name: lim.Name
    timeout_s: float


class Tell(_Message, frozen=True):
    """Ask for plain data to show: "status", "ring", "buckets". Answer: ``Told``."""

    what: lim.Name
    timeout_s: float


class Publish(_Message, frozen=True):
    """The supervisor's news: the cluster's state (encoded), who is down and why, who runs. Answer: ``Told``.

    ``sequence`` orders the news of one generation; older news is ignored.
    """

    sequence: lim.Number
    state: lim.State
    down: Annotated[dict[lim.NodeId, lim.Text], lim.NODES]
    incarnations: Annotated[dict[lim.NodeId, lim.Number], lim.NODES]


class AddNode(_Message, frozen=True):
    """Let one more storage node join. Answer: ``Told`` with its id.

    ``weight``: 0 for what its host can carry. ``host``, ``zone``: empty for where there is most room.
    """

    weight: float
    zone: lim.Name
    host: lim.Name
    timeout_s: float


class RemoveNode(_Message, frozen=True):
    """Let a node give away all that it holds, and leave. Answer: ``Told``."""

    node_id: lim.NodeId
    timeout_s: float


class ReplaceNode(_Message, frozen=True):
    """Let a new node take the place of one that is lost. Answer: ``Told`` with its id. ``host``: as in ``AddNode``."""

    node_id: lim.NodeId
    host: lim.Name
    timeout_s: float


class SetWeight(_Message, frozen=True):
    """Let a node carry more or less than it does. Answer: ``Told``."""

    node_id: lim.NodeId
    weight: float
    timeout_s: float


class Rebalance(_Message, frozen=True):
    """Hold the moves of partitions ("pause"), go on with them ("resume"), or take them back ("abort"). Answer: ``Told``."""

    action: lim.Name
    timeout_s: float


class Autoscale(_Message, frozen=True):
    """Tell what the autoscaler sees and would do; with ``limits`` (fields of ScalingConfig) set it going by them first.

    ``dry_run``: only try these limits. ``off``: let it rest. Answer: ``Told``.
    """

    limits: lim.Settings | None
    dry_run: bool
    off: bool
    timeout_s: float


class GetNews(_Message, frozen=True):
    """A coordinator asks the supervisor for its news. Answer: ``Publish``."""


class Reach(_Message, frozen=True):
    """The supervisor asks for a second opinion (P12): do you reach this node? Answer: ``Told`` with a bool."""

    node_id: lim.NodeId
    timeout_s: float


class RepairPartitions(_Message, frozen=True):
    """Compare these partitions' owners now, and mend what differs. Answer: ``Told`` with a list of figures.

    An entry has "partition", and "failed" with the reason if it was not compared with all its owners.
    """

    partitions: Annotated[list[int], lim.LOOKED_AT]
    timeout_s: float


CoordinatorRequest: TypeAlias = (
    GetMany
    | WriteMany
    | ScanPage
    | OpenBucket
    | DropBucket
    | AddNode
    | RemoveNode
    | ReplaceNode
    | SetWeight
    | Rebalance
    | Autoscale
    | Tell
    | Publish
    | Reach
    | RepairPartitions
)
ElasticRequest: TypeAlias = AddNode | RemoveNode | ReplaceNode | SetWeight | Rebalance | Autoscale
SupervisorRequest: TypeAlias = GetNews | OpenBucket | DropBucket | ElasticRequest | Tell


class Found(_Message, frozen=True, gc=False):
    """What stands under a key: payloads, the newest first; none if it is absent. ``causality``: if it was wanted.

    ``gone``: a delete that has not seen these is newer than all of them (or a version that has expired).
    """

    payloads: lim.Payloads
    gone: bool = False
    causality: lim.Bytes = b""


def whole(item: bytes | Found) -> Found:
    """Return an entry of ``GotMany`` in full."""
    return Found([item]) if isinstance(item, bytes) else item


class GotMany(_Message, frozen=True, gc=False):
    """One entry a key, in the order asked. ``time``: the newest hybrid time among them.

    Where there is one payload and nothing else to say, as nearly always, it stands there by itself (see ``whole``).
    """

    items: Annotated[list[lim.Bytes | Found | Failed], lim.TOLD]
    time: int = 0


class WroteMany(_Message, frozen=True, gc=False):
    """One entry an item, in the order sent. ``time``: the newest hybrid time among them."""

    items: Annotated[list[Acked | Failed], lim.TOLD]
    time: int = 0


class Late(_Message, frozen=True):
    """The request came when its time was over, or was meant for another run of the coordinator: nothing was done."""

    run: int
    now_s: float


class Page(_Message, frozen=True):
    """What stands, in order: (encoded key, payloads, gone) as in ``Found``; ``resume``: where the next page begins."""

    items: Annotated[list[tuple[lim.Bound, lim.Payloads, bool]], lim.TOLD]
    resume: lim.Bound | None


class BucketOpened(_Message, frozen=True):
    """The bucket's id and its policy (fields of BucketConfig), and whose it is. ``run``, ``now_s``: the coordinator's."""

    bucket_id: int
    config: lim.Settings
    store_id: lim.Name = ""
    run: int = 0
    now_s: float = 0.0


class Told(_Message, frozen=True):
    """Plain data."""

    data: Any


class Refused(_Message, frozen=True):
    """The whole request failed, with nothing done."""

    failed: Failed


CoordinatorAnswer: TypeAlias = GotMany | WroteMany | Late | Page | BucketOpened | Told | Refused


Meanwhile: TypeAlias = "Callable[[int, CoordinatorAnswer], None]"
"""``meanwhile(index, answer)``: may be called with the answer to a request while others are under way, so that taking it
apart costs no time of its own. It neither waits nor runs what is not ours."""


class Handed(_Message, frozen=True):
    """What a plain call of the coordinator's actor handle returns: an answer, and how to decode what is in it."""

    single: bool
    codec: lim.Name
    answer: CoordinatorAnswer
    places: Annotated[list[lim.Place], lim.TOLD] = []
    """Of the keys written, for their contexts (see ``raykv.versions.context``)."""


SupervisorAnswer: TypeAlias = Publish | BucketOpened | Told | Refused


# ---- coordinator, supervisor -> storage node ----------------------------------------------------------------------


class Read(_Message, frozen=True):
    """The node's records of ``keys``. Answer: ``ReadDone``, or ``Incomplete``.

    ``hints``: what it keeps for others counts too (a sloppy bucket).
    """

    bucket_id: int
    keys: lim.Keys
    hints: bool = False


class Reserve(_Message, frozen=True):
    """What is there of ``keys``, and a dot for each that has an operation id: the first half of a vector write.

    Nothing is kept under the dot until the write comes with it, and it comes only from whoever got this answer; an answer
    that is lost costs a dot. Answer: ``ReserveDone``, or ``Incomplete``.
    """

    bucket_id: int
    keys: lim.Keys
    operation_ids: Annotated[list[lim.OperationId], lim.ITEMS]
    """One a key; empty where no dot is wanted."""
    hints: bool = False


class Write(_Message, frozen=True):
    """Keep these (encoded key, record). Answer, once durable: ``WriteDone``.

    ``made_ms``: when its sender took the records up, by the sender's wall clock. What is older than half the grace is
    refused as "old": the delete that stands above it may be forgotten by now (P10). 0: no matter.
    """

    bucket_id: int
    items: Annotated[list[tuple[lim.EncodedKey, lim.Bytes]], lim.ITEMS]
    made_ms: int = 0


class Hint(_Message, frozen=True):
    """Keep (encoded key, record, nodes that miss it) until these nodes have it (P11). Answer: ``WriteDone``.

    An empty record: what the node itself holds under the key.
    """

    bucket_id: int
    items: Annotated[list[tuple[lim.EncodedKey, lim.Bytes, lim.Targets]], lim.ITEMS]
    made_ms: int
    counted: bool = False
    """Whether the coordinator counts it as an acknowledgement (a sloppy bucket): then it is kept for longer."""


class Scan(_Message, frozen=True):
    """Records of a bucket in ``start <= key < end`` of the listed partitions. Answer: ``ScanDone``, ``Incomplete``.

    ``background``: no client waits for it. ``now_ms``: of what is deleted, or expired by then (the coordinator's clock),
    the answer may have more beyond ``limit``, without payloads; 0: all records count.
    """

    bucket_id: int
    start: lim.Bound
    end: lim.Bound
    limit: int
    reverse: bool
    keys_only: bool
    partitions: lim.Partitions
    background: bool = False
    now_ms: int = 0


class Ping(_Message, frozen=True):
    """Are you there? Answer: ``Pong``."""

    with_stats: bool = False


class ReadRegister(_Message, frozen=True):
    """The node's copy of the cluster's state. Answer: ``RegisterAnswer``."""


class PromiseRegister(_Message, frozen=True):
    """Accept nothing from generations below this one any more (P5). Answer: ``RegisterAnswer``."""

    generation: lim.Number


class AcceptRegister(_Message, frozen=True):
    """Keep this state, durably, unless a later generation was promised. Answer: ``RegisterAnswer``."""

    generation: lim.Number
    version: lim.Number
    state: lim.State
    decided: bool = False
    """Whether a majority holds this state by now, so that it may be acted on."""
    lives: Annotated[list[int], lim.NODES] = []
    """Of the nodes without a vote that were seen before this state was first sent to anybody: they may vote again."""


class Stop(_Message, frozen=True):
    """Close the directory cleanly; answer nothing more. Answer: ``Pong``."""


class Gossip(_Message, frozen=True):
    """Heartbeats: node id -> (incarnation, counter), as far as the sender has heard. Answer: ``Gossip``."""

    sender: lim.NodeId
    table: Annotated[dict[lim.NodeId, tuple[lim.Number, lim.Number]], lim.NODES]


class Tree(_Message, frozen=True):
    """Digests of a partition's Merkle tree: the children of these nodes of ``level``. Answer: ``TreeDone``.

    The tree is over these buckets and ``16 ** depth`` leaves (see ``raykv.repair.merkle``); level 0 is the root, and
    level -1 asks for the root itself.
    """

    partition: int
    buckets: lim.BucketIds
    depth: int
    level: int
    indexes: lim.Indexes


class Leaves(_Message, frozen=True):
    """What is in these leaves of a partition's tree. Answer: ``LeavesDone``."""

    partition: int
    buckets: lim.BucketIds
    depth: int
    indexes: lim.Indexes


class Fetch(_Message, frozen=True):
    """Records for another owner, whether or not this one is complete. Answer: ``ReadDone``."""

    bucket_id: int
    keys: Annotated[list[lim.EncodedKey], lim.LOOKED_AT]


class Purge(_Message, frozen=True):
    """Forget these (bucket id, encoded key, digest), all of them dead. Answer: ``Purged``.

    Without ``sure`` nothing is forgotten yet: the answer says which records the node holds, durably, exactly so.
    """

    items: Annotated[list[tuple[int, lim.EncodedKey, int]], lim.LOOKED_AT]
    sure: bool


class Clear(_Message, frozen=True):
    """Forget what you hold and are not to hold by the state of the request's epoch. Answer: ``Cleared``.

    ``partitions``: of these only; None: of all.
    """

    partitions: lim.Partitions | None = None


class TakeOver(_Message, frozen=True):
    """Take over what you are to hold of a partition that moves to you. Answer: ``Repaired``, once you have everything.

    ``lost``: old owners that are to leave and are gone for good: nothing can be had of them.
    """

    partition: int
    timeout_s: lim.Timeout
    lost: lim.NodeIds = []


class Repair(_Message, frozen=True):
    """Compare this partition with its other owners now, and mend what differs. Answer: ``Repaired``.

    ``purge``: and forget what all may forget.
    """

    partition: int
    timeout_s: lim.Timeout
    purge: bool = True


NodeRequestBody: TypeAlias = (
    Read
    | Reserve
    | Write
    | Hint
    | Scan
    | Ping
    | ReadRegister
    | PromiseRegister
    | AcceptRegister
    | Stop
    | Gossip
    | Tree
    | Leaves
    | Fetch
    | Purge
    | Clear
    | TakeOver
    | Repair
)


class LogEnd(_Message, frozen=True):
    """How far a node's log was durable when it said so, in which life of its directory and which incarnation."""

    life: int
    incarnation: int
    position: int


class NodeRequest(_Message, frozen=True):
    """A request with the incarnation of the node that it is meant for; 0 means whichever runs (P6).

    ``log_end``: the furthest that the sender has heard of from this node, in any run: a node that falls short of it has
    lost what it acknowledged.
    """

    incarnation: int
    body: NodeRequestBody
    log_end: LogEnd | None = None
    epoch: int = 0
    """Of the cluster's state by which the node was chosen; 0: it does not matter who owns what (P4)."""


class ReadDone(_Message, frozen=True):
    """One record (or None: absent) a key, in the order asked."""

    records: Annotated[list[lim.Bytes | None], lim.ITEMS]
    unreadable: Annotated[list[int], lim.ITEMS] = []
    """Indexes of the keys that lie in a damaged range here: no answer, like ``Incomplete``."""
    left: Annotated[list[int], lim.ITEMS] = []
    """Indexes of the keys that the answer had no room for: ask again."""


class Reserved(_Message, frozen=True):
    """A dot (none if it was not wanted: counter 0), and what the node holds of the key."""

    actor: lim.Actor
    counter: int
    causality: lim.Bytes
    siblings: int
    record_bytes: int


class ReserveDone(_Message, frozen=True):
    """One entry a key, in the order asked; None for one that lies in a damaged range."""

    items: Annotated[list[Reserved | None], lim.ITEMS]


class WriteDone(_Message, frozen=True):
    """One entry an item: 0 if the record is now held durably, else the newer time held (P7), ``NO_ROOM`` or ``FULL``."""

    newer: Annotated[list[int], lim.ITEMS]


class ScanDone(_Message, frozen=True):
    """Records in order. ``covered`` is how far the answer is whole: None means to the end of the range asked."""

    items: Annotated[list[tuple[lim.Bound, lim.Bytes]], lim.TOLD]
    covered: lim.Bound | None


class Incomplete(_Message, frozen=True):
    """The node may lack what it acknowledged and answers no reads (P1)."""

    reason: lim.Text


class Pong(_Message, frozen=True):
    """The node is there, and suspects these others (P12).

    ``ballot``: of the latest decided state that it was told, if it votes.
    """

    stats: lim.Figures | None = None
    suspects: lim.NodeIds = []
    ballot: tuple[int, int] = (0, 0)


class TreeDone(_Message, frozen=True):
    """The digests asked for, in their order; how many records the tree is over; whether the node lacks nothing here."""

    digests: Annotated[list[int], lim.TOLD]
    records: int
    whole: bool


class LeavesDone(_Message, frozen=True):
    """The records of the leaves asked for: (bucket id, encoded key, digest)."""

    entries: Annotated[list[tuple[int, lim.Bound, int]], lim.TOLD]
    whole: bool
    left: lim.Indexes = []
    """Leaves that the answer had no room for: ask again."""


class Purged(_Message, frozen=True):
    """Indexes of the records that the node holds exactly so, or has forgotten now."""

    indexes: Annotated[list[int], lim.LOOKED_AT]


class Cleared(_Message, frozen=True):
    """So many records were forgotten."""

    records: int


class Repaired(_Message, frozen=True):
    """What a repair did, as figures."""

    figures: lim.Figures


class RegisterAnswer(_Message, frozen=True):
    """Whether the request was granted, what is promised, and what is kept (None: nothing).

    ``voter``: whether the node counts toward a majority. One that lost its directory has forgotten what it promised and
    accepted, and does not, until it was given a decided state that a majority of the others accepted after it had begun its
    present ``life`` (of its directory, the first 64 bits).
    """

    granted: bool
    promised: lim.Number
    generation: lim.Number
    version: lim.Number
    state: lim.State | None
    voter: bool = True
    life: int = 0


class Moved(_Message, frozen=True):
    """What the request is about has other owners by now, or is on its way: this is the state that the node knows (P4).

    It did nothing.
    """

    state: lim.State


class NodeRefused(_Message, frozen=True):
    """The node will not.

    It did nothing with the reasons "moved" (another incarnation runs), "overloaded", "corrupt", "clock", "old", "stopping",
    "not yet" (it does not know enough of the cluster, or a peer is needed that is away), "behind" (it does not know the
    request's epoch: tell it the state); with "failed" (its disk did) it
    may have carried the request out.
    """

    reason: lim.Name
    message: lim.Text


NodeAnswerBody: TypeAlias = (
    ReadDone
    | ReserveDone
    | WriteDone
    | ScanDone
    | Incomplete
    | Pong
    | RegisterAnswer
    | Moved
    | NodeRefused
    | Gossip
    | TreeDone
    | LeavesDone
    | Purged
    | Cleared
    | Repaired
)


class NodeAnswer(_Message, frozen=True):
    """An answer with the incarnation that gave it, and how far its log was durable by then."""

    incarnation: int
    body: NodeAnswerBody
    log_end: LogEnd | None = None


class FrameType(Generic[T]):
    """Encodes and decodes frames of one type."""

    def __init__(self, kind: Any, what: str, kind_of: Callable[[bytes], bytes] | None = None) -> None:
        """``kind_of(frame)``: the name of the message in it; without it any frame may be as large as ``MAX_FRAME_BYTES``."""
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._what = what
        self._kind_of = kind_of

    def encode(self, message: T) -> bytes:
        """Return the frame. Raises ``CorruptData`` if it would exceed ``MAX_FRAME_BYTES``."""
        buffer = bytearray(_VERSION)
        _ENCODER.encode_into(message, buffer, 1)
        if len(buffer) > MAX_FRAME_BYTES:
            raise CorruptData(f"a {self._what} of {len(buffer)} bytes exceeds the bound of {MAX_FRAME_BYTES}")
        return bytes(buffer)

    def decode(self, frame: bytes) -> T:
        """Return the message. Raises ``CorruptData`` for anything that is not a frame of this type."""
        if not 1 < len(frame) <= MAX_FRAME_BYTES:
            raise CorruptData(f"not a {self._what}: {len(frame)} bytes")
        if frame[0] != FRAME_VERSION:
            raise CorruptData(f"a {self._what} of format version {frame[0]}; this raykv speaks {FRAME_VERSION}")
        if len(frame) > lim.SMALL_FRAME_BYTES and self._kind_of is not None:
            kind = self._kind_of(frame)
            if len(frame) > (most := lim.frame_bytes(kind)):
                raise CorruptData(
                    f"not a {self._what}: {kind.decode(errors='replace')!r} of {len(frame)} bytes; at most {most}"
                )
        try:
            return self._decoder.decode(memoryview(frame)[1:])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptData(f"not a {self._what}: {error}") from None


_OPENING = 3 + len(NodeRequest.__name__)
"""The version, the head of the array, and the name, before the incarnation."""
_INTEGER_BYTES = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}
"""First byte of an integer -> its length, where it is not one."""


def kind_of_request(frame: bytes) -> bytes:
    """Return the name of what a node is asked for (``b"Read"``), without decoding it. What is no request has none."""
    try:
        at = _OPENING + _INTEGER_BYTES.get(frame[_OPENING], 1) + 1
        length = frame[at] & 0x1F
    except IndexError:
        return b""
    return frame[at + 1 : at + 1 + length]


def kind_of_message(frame: bytes) -> bytes:
    """Return the name of what a coordinator or the supervisor is asked for (``b"GetMany"``), without decoding it."""
    length = frame[2] & 0x1F
    return frame[3 : 3 + length]


_ENCODER = msgspec.msgpack.Encoder()

coordinator_requests: FrameType[CoordinatorRequest] = FrameType(
    CoordinatorRequest, "coordinator request", kind_of_message
)
coordinator_answers: FrameType[CoordinatorAnswer] = FrameType(CoordinatorAnswer, "coordinator answer")
supervisor_requests: FrameType[SupervisorRequest] = FrameType(SupervisorRequest, "supervisor request", kind_of_message)
supervisor_answers: FrameType[SupervisorAnswer] = FrameType(SupervisorAnswer, "supervisor answer")
handed_answers: FrameType[Handed] = FrameType(Handed, "coordinator's answer")
node_requests: FrameType[NodeRequest] = FrameType(NodeRequest, "node request", kind_of_request)
node_answers: FrameType[NodeAnswer] = FrameType(NodeAnswer, "node answer")
