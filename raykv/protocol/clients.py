"""Requests to coordinators, and their answers.

Every operation is a batch; a single one is a batch of one. An embedded coordinator gets the same messages, without
encoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from raykv.protocol.changes import Change, Settled
from raykv.protocol.codec import Failed, Message
from raykv.protocol.supervisor import (
    BucketOpened,
    ClusterUpdate,
    DropBucket,
    ElasticRequest,
    GetInfo,
    Info,
    OpenBucket,
    Refused,
)
from raykv.records import limits as lim

if TYPE_CHECKING:
    from collections.abc import Callable


class GetMany(Message, frozen=True):
    """Quorum reads of ``keys`` (encoded). Answer: ``GotMany``. ``causality``: whether to return it too."""

    bucket_id: lim.BucketId
    keys: lim.Keys
    r: int
    timeout_s: float
    causality: bool = False


class WriteMany(Message, frozen=True):
    """Quorum writes of (encoded key, body, causality or None). A key stands at most once.

    Answer: ``WroteMany``, ``DeadlinePassed``.

    The causality is what the writer has seen of the key, packed; None: it has not read it. ``after``: the newest hybrid
    time that the client has seen. ``run`` and ``expires_s``: the deadline for the coordinator to begin, by the monotonic
    clock of its run ``run`` (P8); without them it may begin whenever the request arrives.
    """

    bucket_id: lim.BucketId
    items: Annotated[list[tuple[lim.EncodedKey, lim.Bytes, lim.Bytes | None]], lim.ITEMS]
    w: int
    timeout_s: float
    after: int = 0
    run: int = 0
    expires_s: float = 0.0


class ChangeMany(Message, frozen=True):
    """Changes of a linearizable bucket, those of one key in this order. Answer: ``ChangedMany``, ``DeadlinePassed``.

    ``run``, ``expires_s``: as in ``WriteMany``. A change may be sent again, marked as resent, under its lane and number.
    ``left_s``: for how long its sender may still go on with it, here or elsewhere, as of its sending (L12); 0: not said.
    """

    bucket_id: lim.BucketId
    items: Annotated[list[Change], lim.ITEMS]
    timeout_s: float
    run: int = 0
    expires_s: float = 0.0
    left_s: float = 0.0


class ScanPage(Message, frozen=True):
    """The next records of a bucket with ``start <= key < end``, in key order or its reverse. Answer: ``Page``.

    ``limit``: of records, and with ``passing`` of pairs that are shown, since most are not. A page may have
    fewer, or none, before the end: see ``Page.resume``. A long page may have more, up to twice as many. ``partitions``:
    only the keys of these; none named: of all.
    """

    bucket_id: lim.BucketId
    start: lim.Bound
    end: lim.Bound
    limit: int
    reverse: bool
    keys_only: bool
    r: int
    timeout_s: float
    passing: bool = False
    partitions: lim.Partitions = []


class IndirectProbe(Message, frozen=True):
    """The supervisor asks for a second opinion (P12): do you reach this node? Answer: ``Info`` with a bool."""

    node_id: lim.NodeId
    timeout_s: float


class RepairPartitions(Message, frozen=True):
    """Compare these partitions' owners now, and repair differences. Answer: ``Info`` with a list of figures.

    An entry has "partition", and "failed" with the reason if it was not compared with all its owners.
    """

    partitions: Annotated[list[int], lim.LOOKED_AT]
    timeout_s: float


class TakeSnapshot(Message, frozen=True):
    """Have each node copy its tables into a backup directory of its host. Answer: ``Info`` with a ``SnapshotReport``.

    ``keep``: how many snapshots stay there, this one among them; 0: all.
    """

    path: lim.BackupPath
    timeout_s: float
    keep: lim.Number = 0


class LoadRecords(Message, frozen=True):
    """Records of a backup, as they are, for all owners: (encoded key, record). Answer: ``Info`` with their number.

    They are merged with what is there, so a request may be repeated. Done once every owner holds them, durably.
    """

    bucket_id: lim.BucketId
    items: Annotated[list[tuple[lim.EncodedKey, lim.Bytes]], lim.ITEMS]
    timeout_s: float


class ExplainOperation(Message, frozen=True):
    """Carry out another request, and explain how. Answer: ``OperationExplained``.

    ``frame``: that of a ``GetMany``, ``WriteMany``, ``ChangeMany`` or ``ScanPage``; any other is refused.
    """

    frame: lim.Frame
    timeout_s: float


CoordinatorRequest: TypeAlias = (
    GetMany
    | WriteMany
    | ChangeMany
    | ScanPage
    | OpenBucket
    | DropBucket
    | ElasticRequest
    | GetInfo
    | ClusterUpdate
    | IndirectProbe
    | RepairPartitions
    | TakeSnapshot
    | LoadRecords
    | ExplainOperation
)


class OperationExplained(Message, frozen=True):
    """The frame of the other request's answer, and how it came about: see ``raykv.coordinator.explaining``."""

    frame: lim.Frame
    figures: lim.Figures


class Acked(Message, frozen=True, gc=False):
    """A write's W is met: its operation id, the nodes that had acknowledged durably by then, what it superseded."""

    operation_id: lim.OperationId
    nodes: lim.NodeIds
    causality: lim.Bytes
    """Packed (``raykv.versions.causality``), its own dot and time included."""


class KeyVersions(Message, frozen=True, gc=False):
    """The versions of a key: payloads, the newest first; none if it is absent. ``causality``: if requested.

    ``gone``: a delete that has not seen these is newer than all of them (or a version that has expired).
    """

    payloads: lim.Payloads
    gone: bool = False
    causality: lim.Bytes = b""


def whole(item: bytes | KeyVersions) -> KeyVersions:
    """Return an entry of ``GotMany`` in full."""
    return KeyVersions([item]) if isinstance(item, bytes) else item


class GotMany(Message, frozen=True, gc=False):
    """One entry a key, in the order asked. ``time``: the newest hybrid time among them.

    A single payload without anything else, the usual case, is the entry itself (see ``whole``).
    """

    items: Annotated[list[lim.Bytes | KeyVersions | Failed], lim.ENTRIES]
    time: int = 0


class WroteMany(Message, frozen=True, gc=False):
    """One entry an item, in the order sent. ``time``: the newest hybrid time among them."""

    items: Annotated[list[Acked | Failed], lim.ENTRIES]
    time: int = 0


class ChangedMany(Message, frozen=True, gc=False):
    """One entry a change, in the order sent: what became of it (one of ``changes.FINAL``), or its error."""

    items: Annotated[list[Settled | Failed], lim.ITEMS]


class DeadlinePassed(Message, frozen=True):
    """The request came after its deadline, or was meant for another run of the coordinator: nothing was done."""

    run: int
    now_s: float


class Page(Message, frozen=True):
    """What stands, in order: (encoded key, payloads, gone) as in ``KeyVersions``; ``resume``: where the next page begins."""

    items: Annotated[list[tuple[lim.Bound, lim.Payloads, bool]], lim.ENTRIES]
    resume: lim.Bound | None


CoordinatorAnswer: TypeAlias = (
    GotMany | WroteMany | ChangedMany | DeadlinePassed | Page | BucketOpened | Info | OperationExplained | Refused
)


Meanwhile: TypeAlias = "Callable[[int, CoordinatorAnswer], None]"
"""``meanwhile(index, answer)``: called with the answer to a request while others are in flight, so that its processing
costs no time of its own. It neither waits nor runs user code."""


class HandleAnswer(Message, frozen=True):
    """What a plain call of the coordinator's actor handle returns: an answer, and how to decode its contents."""

    single: bool
    codec: lim.Name
    answer: CoordinatorAnswer
    places: Annotated[list[lim.Place], lim.ENTRIES] = []
    """Of the keys written, for their contexts (see ``raykv.versions.context``)."""


class HandleVersioned(Message, frozen=True):
    """As ``HandleAnswer``, of the read of a value with its version."""

    codec: lim.Name
    answer: CoordinatorAnswer


class HandleChanges(Message, frozen=True):
    """As ``HandleAnswer``, of changes: what became of each, what each was (without its value), and the call's name."""

    single: bool
    codec: lim.Name
    items: Annotated[list[Settled | Failed], lim.ENTRIES]
    changes: Annotated[list[Change], lim.ENTRIES]
    call: lim.Name


Handed: TypeAlias = HandleAnswer | HandleVersioned | HandleChanges
