"""What clients did and were told, as data: the ground on which the checkers stand.

One ``Op`` is one operation on one key, as one client saw it: when it was asked, when the answer came, what it was. A
batch or a scan is recorded as one op a key, all with the same times. Every written value is unique, so a value read
names the write that it came from; with repeated values a checker would miss half of all stale reads.

Stamps (hybrid time, then operation id: what decides which write stands) are not told to clients. They are heard on the
way from coordinators to nodes (``Stamps``), by operation id and by value: a write may have several, if it had to be
stamped again (P7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from raykv.client.codecs import decode_value
from raykv.errors import CorruptData
from raykv.records.record import stamp_of, unpack

if TYPE_CHECKING:
    from raykv.records import frames as f

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

    def told(self) -> str:
        """Return a line for the story of a key."""
        value = (
            ""
            if self.kind == "delete"
            else f" {shown(self.value)}"
            if self.kind == "put"
            else f" -> {shown(self.value)}"
        )
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
    """A client was told that a bucket has this id."""

    client: str
    name: str
    bucket_id: int
    at_s: float


class Stamps:
    """The stamps that writes were given, heard on the network."""

    def __init__(self) -> None:
        self.of_operation: dict[str, list[tuple[float, bytes]]] = {}
        """Operation id -> (when it was first heard, stamp), in that order."""
        self.operation_of_value: dict[str, str] = {}
        self._seen: set[bytes] = set()

    def hear(self, at_s: float, request: f.Write) -> None:
        """Take note of a request that carries records to a node."""
        for _, record in request.items:
            mark = stamp_of(record)
            if mark in self._seen:
                continue
            self._seen.add(mark)
            taken = unpack(record)
            operation_id = taken.operation_id.hex()
            self.of_operation.setdefault(operation_id, []).append((at_s, mark))
            if taken.payload is not None:
                try:
                    self.operation_of_value.setdefault(str(decode_value(taken.payload, "auto")), operation_id)
                except CorruptData:
                    continue

    def last(self, operation_id: str, before_s: float) -> bytes:
        """Return the last stamp that the operation was given before that moment; empty if none."""
        return max((mark for at_s, mark in self.of_operation.get(operation_id, ()) if at_s <= before_s), default=b"")

    def first(self, operation_id: str) -> bytes:
        """Return the first stamp that the operation was given; empty if it was never sent to a node."""
        marks = self.of_operation.get(operation_id)
        return marks[0][1] if marks else b""


class History:
    """All that happened to the clients of one run."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.scans: list[ScanSeen] = []
        self.buckets: list[BucketSeen] = []
        self.stamps = Stamps()

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
