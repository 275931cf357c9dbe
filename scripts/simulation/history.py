"""What clients did and heard, as data: the ground on which the checkers stand.

One ``Op`` is one operation on one key, as one client saw it: when it was asked, when the answer came, what it was. A
batch or a scan is recorded as one op a key, all with the same times. Every written value is unique, so a value read
names the write that it came from; with repeated values a checker would miss half of all stale reads.

Stamps (hybrid time, then operation id: what decides which write stands) are not shown to clients. They are overheard on the
way from coordinators to nodes (``Stamps``), by operation id and by value: a write may have several, if it had to be
stamped again (P7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from raykv.client.codecs import decode_value
from raykv.errors import CorruptData
from raykv.records import vector_record as vector
from raykv.records.kinds import is_linear, is_vector
from raykv.records.record import stamp_of, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raykv.protocol import frames as f
    from raykv.records.record import Record
    from raykv.records.vector_record import Dot, Seen
    from simulation.change_checker import ChangeOp
    from simulation.fleeting import Gone, Opened
    from simulation.lock_checker import Holding

Kind = Literal["put", "delete", "get", "scan"]
Outcome = Literal["ok", "unknown", "refused"]
"""ok: acknowledged, or read. unknown: it may have been carried out. refused: certain that nothing was written (or read)."""


def shown(value: str | None) -> str:
    """Return a value without its padding."""
    return "nothing" if value is None else repr(value.rstrip("."))


class Op(NamedTuple):
    """An operation on one key. Times in virtual seconds."""

    client: str
    kind: Kind
    key: str
    invoked_s: float
    returned_s: float
    outcome: Outcome
    value: str | None = None
    """What was written, or read (None: absent)."""
    operation_id: str = ""
    ttl_s: float | None = None
    error: str = ""
    level: int = 0
    """R or W."""
    values: tuple[str, ...] | None = None
    """All that a read with its context was shown, the newest first; None if it asked for one value only."""
    seen: Seen | None = None
    """The causal history in the context that was read, or given back."""
    until_s: float = 0.0
    """Until when a coordinator may begin with a write."""
    blind: bool = False
    """Whether a write had no context."""
    acks: tuple[str, ...] | None = None
    """The nodes that hold an acknowledged write, as its client heard; None if that was not recorded."""

    @property
    def reads(self) -> bool:
        """Whether it reads."""
        return self.kind in {"get", "scan"}

    def describe(self) -> str:
        """Return a line for the history of a key."""
        value = (
            ""
            if self.kind == "delete"
            else f" {shown(self.value)}"
            if self.kind == "put"
            else f" -> {' | '.join(map(shown, self.values)) or 'nothing'}"
            if self.values is not None
            else f" -> {shown(self.value)}"
        )
        value += " (with context)" if not (self.reads or self.blind) else ""
        level = f" ({'r' if self.kind in {'get', 'scan'} else 'w'}={self.level})"
        outcome = "" if self.outcome == "ok" else f": {self.outcome} ({self.error})"
        return (
            f"{self.invoked_s:10.4f} .. {self.returned_s:10.4f}  {self.client:<9} {self.kind:<6}{value}{level}{outcome}"
        )


class ScanSeen(NamedTuple):
    """A scan that came to its end: the keys in the order in which they were given."""

    client: str
    invoked_s: float
    returned_s: float
    prefix: str
    reverse: bool
    keys: list[str]
    level: int


class BucketSeen(NamedTuple):
    """A client heard that a bucket has this id."""

    client: str
    name: str
    bucket_id: int
    at_s: float


class VectorWrite(NamedTuple):
    """A write as its coordinator sent it: when, its dot, what it supersedes (with itself), its time, whether a delete."""

    at_s: float
    dot: Dot
    seen: Seen
    time: int
    tombstone: bool


class Stamps:
    """The stamps that writes were given, heard on the network."""

    def __init__(self) -> None:
        self.of_operation: dict[str, list[tuple[float, bytes]]] = {}
        """Operation id -> (when it was first heard, stamp), in that order."""
        self.operation_of_value: dict[str, str] = {}
        self.writes: dict[str, VectorWrite] = {}
        """Operation id -> what was sent to the nodes for it, of vector buckets."""
        self.broken: list[Violation] = []
        self.sent_s: dict[str, float] = {}
        """Operation id -> when a record of it was first sent to a node."""
        self._dots: dict[tuple[bytes, Dot], str] = {}
        self._seen: set[bytes] = set()

    def send(self, at_s: float, request: f.Write) -> None:
        """Take note of what a coordinator sends."""
        for _, record in request.items:
            for taken in versions_in(record):
                self.sent_s.setdefault(taken.operation_id.hex(), at_s)

    def hear(self, at_s: float, request: f.Write) -> None:
        """Take note of a request that carries records to a node."""
        for key, record in request.items:
            if is_linear(record):
                continue  # its leader stamped it (``leader_watch``)
            if is_vector(record):
                self._hear_versions(at_s, key, record)
                continue
            mark = stamp_of(record)
            if mark in self._seen:
                continue
            self._seen.add(mark)
            taken = unpack(record)
            operation_id = taken.operation_id.hex()
            self.of_operation.setdefault(operation_id, []).append((at_s, mark))
            self._note_value(taken.payload, operation_id)

    def _hear_versions(self, at_s: float, key: bytes, record: bytes) -> None:
        """Record versions. The first version of a write that is heard comes from its coordinator, which alone has it."""
        versions = vector.decode(record)
        name = key[1:].decode(errors="replace")
        for sibling in versions.siblings:
            taken = sibling.record
            operation_id = taken.operation_id.hex()
            known = self.writes.get(operation_id)
            if known is None:
                self.writes[operation_id] = VectorWrite(at_s, sibling.dot, versions.seen, taken.time, taken.tombstone)
                self._note_value(taken.payload, operation_id)
            elif known.dot != sibling.dot:
                text = f"one write of {name} has two dots: {known.dot} and {sibling.dot} (P8)"
                self.broken.append(Violation("two dots", name, text, at_s))
            if self._dots.setdefault((key, sibling.dot), operation_id) != operation_id:
                text = f"two writes of {name} have one dot, {sibling.dot} (P2)"
                self.broken.append(Violation("dot given twice", name, text, at_s))

    def _note_value(self, payload: bytes, operation_id: str) -> None:
        if payload:
            try:
                self.operation_of_value.setdefault(str(decode_value(payload, "auto")), operation_id)
            except CorruptData:
                return

    @property
    def dots(self) -> set[tuple[bytes, Dot]]:
        """All dots that something was written under, each with its key."""
        return set(self._dots)

    def last(self, operation_id: str, before_s: float) -> bytes:
        """Return the last stamp that the operation was given before that moment; empty if none."""
        return max((mark for at_s, mark in self.of_operation.get(operation_id, ()) if at_s <= before_s), default=b"")

    def first(self, operation_id: str) -> bytes:
        """Return the first stamp that the operation was given; empty if it was never sent to a node."""
        marks = self.of_operation.get(operation_id)
        return marks[0][1] if marks else b""


def versions_in(record: bytes) -> list[Record]:
    """Return the versions in a record; none in one of a linearizable bucket."""
    if is_linear(record):
        return []
    if is_vector(record):
        return [sibling.record for sibling in vector.decode(record).siblings]
    return [unpack(record)]


class History:
    """All that happened to the clients of one run."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.scans: list[ScanSeen] = []
        self.buckets: list[BucketSeen] = []
        self.changes: list[ChangeOp] = []
        self.holdings: list[Holding] = []
        """The calls on the linearizable bucket."""
        self.opened: list[Opened] = []
        self.dropped_s: list[float] = []
        """When clients asked for the bucket to be dropped."""
        self.gone: list[Gone] = []
        self.broken: list[Violation] = []
        """What clients have found out by themselves."""
        self.stamps = Stamps()
        self.acknowledged: Callable[[str, str, Sequence[str]], None] = lambda *_: None
        """Called with a write's key, operation id and nodes at the moment of its acknowledgement to the client."""

    def by_key(self) -> dict[str, list[Op]]:
        """Return the ops of each key, in the order in which they were asked."""
        keys: dict[str, list[Op]] = {}
        for op in sorted(self.ops, key=lambda op: (op.invoked_s, op.returned_s, op.client)):
            keys.setdefault(op.key, []).append(op)
        return keys

    def add(self, *args: Any, **options: Any) -> Op:
        """Record an op."""
        op = Op(*args, **options)
        self.ops.append(op)
        return op


class Violation(msgspec.Struct, frozen=True):
    """A promise that was not kept: which rule, on which key (or none), what happened, when."""

    rule: str
    key: str
    text: str
    at_s: float = 0.0
