"""Frames: requests and answers as bytes.

A frame is one byte of format version and one msgpack value. Its type is declared here and checked by msgspec on the way
in: a frame that does not fit its type is ``CorruptData`` at the door, never an ``AttributeError`` further in. Nothing in
a frame is ever unpickled.

Two conversations use them: client to coordinator (``coordinator_requests`` below) and coordinator or supervisor to
storage node (``NodeRequest``). All of them are batches; a single operation is a batch of one.
"""

from __future__ import annotations

from typing import Any, Generic, TypeAlias, TypeVar

import msgspec

from raykv.config import MAX_FRAME_BYTES
from raykv.errors import CorruptData, RaykvError, from_data, to_data

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

    name: str
    message: str
    details: dict[str, Any]

    @classmethod
    def of(cls, error: RaykvError) -> Failed:
        """Take an error apart."""
        return cls(*to_data(error))

    def error(self) -> RaykvError:
        """Return the error, ready to be raised."""
        return from_data(self.name, self.message, self.details)


class Acked(_Message, frozen=True, gc=False):
    """A write's W is met: its operation id, the nodes that had acknowledged durably by then, what it superseded."""

    operation_id: bytes
    nodes: list[str]
    causality: bytes
    """Packed (``raykv.versions.causality``), its own dot and time included."""


# ---- client -> coordinator ----------------------------------------------------------------------------------------


class GetMany(_Message, frozen=True):
    """Quorum reads of ``keys`` (encoded). Answer: ``GotMany``. ``causality``: whether it is wanted too."""

    bucket_id: int
    keys: list[bytes]
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
    items: list[tuple[bytes, bytes, bytes | None]]
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
    start: bytes
    end: bytes
    limit: int
    reverse: bool
    keys_only: bool
    r: int
    timeout_s: float
    passing: bool = False


class OpenBucket(_Message, frozen=True):
    """Find the bucket, or create it with ``options`` (fields of BucketConfig). Answer: ``BucketOpened``."""

    name: str
    options: dict[str, Any]
    timeout_s: float


class DropBucket(_Message, frozen=True):
    """Drop the bucket and all in it. Answer: ``Told``."""

    name: str
    timeout_s: float


class Tell(_Message, frozen=True):
    """Ask for plain data to show: "status", "ring", "buckets". Answer: ``Told``."""

    what: str
    timeout_s: float


class Publish(_Message, frozen=True):
    """The supervisor's news: the cluster's state (encoded), who is down and why, who runs. Answer: ``Told``.

    ``sequence`` orders the news of one generation; older news is ignored.
    """

    sequence: int
    state: bytes
    down: dict[str, str]
    incarnations: dict[str, int]


class AddNode(_Message, frozen=True):
    """Let one more storage node join. Answer: ``Told`` with its id.

    ``weight``: 0 for what its host can carry. ``host``, ``zone``: empty for where there is most room.
    """

    weight: float
    zone: str
    host: str
    timeout_s: float


class RemoveNode(_Message, frozen=True):
    """Let a node give away all that it holds, and leave. Answer: ``Told``."""

    node_id: str
    timeout_s: float


class ReplaceNode(_Message, frozen=True):
    """Let a new node take the place of one that is lost. Answer: ``Told`` with its id. ``host``: as in ``AddNode``."""

    node_id: str
    host: str
    timeout_s: float


class SetWeight(_Message, frozen=True):
    """Let a node carry more or less than it does. Answer: ``Told``."""

    node_id: str
    weight: float
    timeout_s: float


class Rebalance(_Message, frozen=True):
    """Hold the moves of partitions ("pause"), go on with them ("resume"), or take them back ("abort"). Answer: ``Told``."""

    action: str
    timeout_s: float


class Autoscale(_Message, frozen=True):
    """Tell what the autoscaler sees and would do; with ``limits`` (fields of ScalingConfig) set it going by them first.

    ``dry_run``: only try these limits. ``off``: let it rest. Answer: ``Told``.
    """

    limits: dict[str, Any] | None
    dry_run: bool
    off: bool
    timeout_s: float


class GetNews(_Message, frozen=True):
    """A coordinator asks the supervisor for its news. Answer: ``Publish``."""


class Reach(_Message, frozen=True):
    """The supervisor asks for a second opinion (P12): do you reach this node? Answer: ``Told`` with a bool."""

    node_id: str
    timeout_s: float


class RepairPartitions(_Message, frozen=True):
    """Compare these partitions' owners now, and mend what differs. Answer: ``Told`` with a list of figures.

    An entry has "partition", and "failed" with the reason if it was not compared with all its owners.
    """

    partitions: list[int]
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

    payloads: list[bytes]
    gone: bool = False
    causality: bytes = b""


def whole(item: bytes | Found) -> Found:
    """Return an entry of ``GotMany`` in full."""
    return Found([item]) if isinstance(item, bytes) else item


class GotMany(_Message, frozen=True, gc=False):
    """One entry a key, in the order asked. ``time``: the newest hybrid time among them.

    Where there is one payload and nothing else to say, as nearly always, it stands there by itself (see ``whole``).
    """

    items: list[bytes | Found | Failed]
    time: int = 0


class WroteMany(_Message, frozen=True, gc=False):
    """One entry an item, in the order sent. ``time``: the newest hybrid time among them."""

    items: list[Acked | Failed]
    time: int = 0


class Late(_Message, frozen=True):
    """The request came when its time was over, or was meant for another run of the coordinator: nothing was done."""

    run: int
    now_s: float


class Page(_Message, frozen=True):
    """What stands, in order: (encoded key, payloads, gone) as in ``Found``; ``resume``: where the next page begins."""

    items: list[tuple[bytes, list[bytes], bool]]
    resume: bytes | None


class BucketOpened(_Message, frozen=True):
    """The bucket's id and its policy (fields of BucketConfig), and whose it is. ``run``, ``now_s``: the coordinator's."""

    bucket_id: int
    config: dict[str, Any]
    store_id: str = ""
    run: int = 0
    now_s: float = 0.0


class Told(_Message, frozen=True):
    """Plain data."""

    data: Any


class Refused(_Message, frozen=True):
    """The whole request failed, with nothing done."""

    failed: Failed


CoordinatorAnswer: TypeAlias = GotMany | WroteMany | Late | Page | BucketOpened | Told | Refused


class Handed(_Message, frozen=True):
    """What a plain call of the coordinator's actor handle returns: an answer, and how to decode what is in it."""

    single: bool
    codec: str
    answer: CoordinatorAnswer
    places: list[bytes] = []
    """Of the keys written, for their contexts (see ``raykv.versions.context``)."""


SupervisorAnswer: TypeAlias = Publish | BucketOpened | Told | Refused


# ---- coordinator, supervisor -> storage node ----------------------------------------------------------------------


class Read(_Message, frozen=True):
    """The node's records of ``keys``. Answer: ``ReadDone``, or ``Incomplete``.

    ``hints``: what it keeps for others counts too (a sloppy bucket).
    """

    bucket_id: int
    keys: list[bytes]
    hints: bool = False


class Reserve(_Message, frozen=True):
    """What is there of ``keys``, and a dot for each that has an operation id: the first half of a vector write.

    Nothing is kept under the dot until the write comes with it, and it comes only from whoever got this answer; an answer
    that is lost costs a dot. Answer: ``ReserveDone``, or ``Incomplete``.
    """

    bucket_id: int
    keys: list[bytes]
    operation_ids: list[bytes]
    """One a key; empty where no dot is wanted."""
    hints: bool = False


class Write(_Message, frozen=True):
    """Keep these (encoded key, record). Answer, once durable: ``WriteDone``.

    ``made_ms``: when its sender took the records up, by the sender's wall clock. What is older than half the grace is
    refused as "old": the delete that stands above it may be forgotten by now (P10). 0: no matter.
    """

    bucket_id: int
    items: list[tuple[bytes, bytes]]
    made_ms: int = 0


class Hint(_Message, frozen=True):
    """Keep (encoded key, record, nodes that miss it) until these nodes have it (P11). Answer: ``WriteDone``.

    An empty record: what the node itself holds under the key.
    """

    bucket_id: int
    items: list[tuple[bytes, bytes, list[str]]]
    made_ms: int
    counted: bool = False
    """Whether the coordinator counts it as an acknowledgement (a sloppy bucket): then it is kept for longer."""


class Scan(_Message, frozen=True):
    """Records of a bucket in ``start <= key < end`` of the listed partitions. Answer: ``ScanDone``, ``Incomplete``.

    ``background``: no client waits for it. ``now_ms``: of what is deleted, or expired by then (the coordinator's clock),
    the answer may have more beyond ``limit``, without payloads; 0: all records count.
    """

    bucket_id: int
    start: bytes
    end: bytes
    limit: int
    reverse: bool
    keys_only: bool
    partitions: list[int]
    background: bool = False
    now_ms: int = 0


class Ping(_Message, frozen=True):
    """Are you there? Answer: ``Pong``."""

    with_stats: bool = False


class ReadRegister(_Message, frozen=True):
    """The node's copy of the cluster's state. Answer: ``RegisterAnswer``."""


class PromiseRegister(_Message, frozen=True):
    """Accept nothing from generations below this one any more (P5). Answer: ``RegisterAnswer``."""

    generation: int


class AcceptRegister(_Message, frozen=True):
    """Keep this state, durably, unless a later generation was promised. Answer: ``RegisterAnswer``."""

    generation: int
    version: int
    state: bytes
    decided: bool = False
    """Whether a majority holds this state by now, so that it may be acted on."""
    lives: list[int] = []
    """Of the nodes without a vote that were seen before this state was first sent to anybody: they may vote again."""


class Stop(_Message, frozen=True):
    """Close the directory cleanly; answer nothing more. Answer: ``Pong``."""


class Gossip(_Message, frozen=True):
    """Heartbeats: node id -> (incarnation, counter), as far as the sender has heard. Answer: ``Gossip``."""

    sender: str
    table: dict[str, tuple[int, int]]


class Tree(_Message, frozen=True):
    """Digests of a partition's Merkle tree: the children of these nodes of ``level``. Answer: ``TreeDone``.

    The tree is over these buckets and ``16 ** depth`` leaves (see ``raykv.replication.merkle``); level 0 is the root, and
    level -1 asks for the root itself.
    """

    partition: int
    buckets: list[int]
    depth: int
    level: int
    indexes: list[int]


class Leaves(_Message, frozen=True):
    """What is in these leaves of a partition's tree. Answer: ``LeavesDone``."""

    partition: int
    buckets: list[int]
    depth: int
    indexes: list[int]


class Fetch(_Message, frozen=True):
    """Records for another owner, whether or not this one is complete. Answer: ``ReadDone``."""

    bucket_id: int
    keys: list[bytes]


class Purge(_Message, frozen=True):
    """Forget these (bucket id, encoded key, digest), all of them dead. Answer: ``Purged``.

    Without ``sure`` nothing is forgotten yet: the answer says which records the node holds, durably, exactly so.
    """

    items: list[tuple[int, bytes, int]]
    sure: bool


class Clear(_Message, frozen=True):
    """Forget what you hold and are not to hold by the state of the request's epoch. Answer: ``Cleared``.

    ``partitions``: of these only; None: of all.
    """

    partitions: list[int] | None = None


class TakeOver(_Message, frozen=True):
    """Take over what you are to hold of a partition that moves to you. Answer: ``Repaired``, once you have everything.

    ``lost``: old owners that are to leave and are gone for good: nothing can be had of them.
    """

    partition: int
    timeout_s: float
    lost: list[str] = []


class Repair(_Message, frozen=True):
    """Compare this partition with its other owners now, and mend what differs. Answer: ``Repaired``.

    ``purge``: and forget what all may forget.
    """

    partition: int
    timeout_s: float
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

    records: list[bytes | None]
    unreadable: list[int] = []
    """Indexes of the keys that lie in a damaged range here: no answer, like ``Incomplete``."""
    left: list[int] = []
    """Indexes of the keys that the answer had no room for: ask again."""


class Reserved(_Message, frozen=True):
    """A dot (none if it was not wanted: counter 0), and what the node holds of the key."""

    actor: bytes
    counter: int
    causality: bytes
    siblings: int
    record_bytes: int


class ReserveDone(_Message, frozen=True):
    """One entry a key, in the order asked; None for one that lies in a damaged range."""

    items: list[Reserved | None]


class WriteDone(_Message, frozen=True):
    """One entry an item: 0 if the record is now held durably, else the newer time held (P7), ``NO_ROOM`` or ``FULL``."""

    newer: list[int]


class ScanDone(_Message, frozen=True):
    """Records in order. ``covered`` is how far the answer is whole: None means to the end of the range asked."""

    items: list[tuple[bytes, bytes]]
    covered: bytes | None


class Incomplete(_Message, frozen=True):
    """The node may lack what it acknowledged and answers no reads (P1)."""

    reason: str


class Pong(_Message, frozen=True):
    """The node is there, and suspects these others (P12).

    ``ballot``: of the latest decided state that it was told, if it votes.
    """

    stats: dict[str, Any] | None = None
    suspects: list[str] = []
    ballot: tuple[int, int] = (0, 0)


class TreeDone(_Message, frozen=True):
    """The digests asked for, in their order; how many records the tree is over; whether the node lacks nothing here."""

    digests: list[int]
    records: int
    whole: bool


class LeavesDone(_Message, frozen=True):
    """The records of the leaves asked for: (bucket id, encoded key, digest)."""

    entries: list[tuple[int, bytes, int]]
    whole: bool
    left: list[int] = []
    """Leaves that the answer had no room for: ask again."""


class Purged(_Message, frozen=True):
    """Indexes of the records that the node holds exactly so, or has forgotten now."""

    indexes: list[int]


class Cleared(_Message, frozen=True):
    """So many records were forgotten."""

    records: int


class Repaired(_Message, frozen=True):
    """What a repair did, as figures."""

    figures: dict[str, Any]


class RegisterAnswer(_Message, frozen=True):
    """Whether the request was granted, what is promised, and what is kept (None: nothing).

    ``voter``: whether the node counts toward a majority. One that lost its directory has forgotten what it promised and
    accepted, and does not, until it was given a decided state that a majority of the others accepted after it had begun its
    present ``life`` (of its directory, the first 64 bits).
    """

    granted: bool
    promised: int
    generation: int
    version: int
    state: bytes | None
    voter: bool = True
    life: int = 0


class Moved(_Message, frozen=True):
    """What the request is about has other owners by now, or is on its way: this is the state that the node knows (P4).

    It did nothing.
    """

    state: bytes


class NodeRefused(_Message, frozen=True):
    """The node will not.

    It did nothing with the reasons "moved" (another incarnation runs), "overloaded", "corrupt", "clock", "old", "stopping",
    "not yet" (it does not know enough of the cluster, or a peer is needed that is away), "behind" (it does not know the
    request's epoch: tell it the state); with "failed" (its disk did) it
    may have carried the request out.
    """

    reason: str
    message: str


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

    def __init__(self, kind: Any, what: str) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._what = what

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
        try:
            return self._decoder.decode(memoryview(frame)[1:])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptData(f"not a {self._what}: {error}") from None


_ENCODER = msgspec.msgpack.Encoder()

coordinator_requests: FrameType[CoordinatorRequest] = FrameType(CoordinatorRequest, "coordinator request")
coordinator_answers: FrameType[CoordinatorAnswer] = FrameType(CoordinatorAnswer, "coordinator answer")
supervisor_requests: FrameType[SupervisorRequest] = FrameType(SupervisorRequest, "supervisor request")
supervisor_answers: FrameType[SupervisorAnswer] = FrameType(SupervisorAnswer, "supervisor answer")
handed_answers: FrameType[Handed] = FrameType(Handed, "coordinator's answer")
node_requests: FrameType[NodeRequest] = FrameType(NodeRequest, "node request")
node_answers: FrameType[NodeAnswer] = FrameType(NodeAnswer, "node answer")


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
