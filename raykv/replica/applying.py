"""What a change makes of the value that stands: pure, and without a look at any value but a cell's.

One head is one key as its leader sees it: the last value, acknowledged or not, and the receipts of the lanes that made it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from raykv.protocol import changes as c
from raykv.records.linear_record import MAX_RECEIPTS, MAX_RECEIPTS_BYTES, LinearRecord, Receipt, decode
from raykv.records.linear_record import encode as encode_record
from raykv.records.record import stamp_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.protocol.changes import Change


class Kept(NamedTuple):
    """A lane's receipt (L10), and until when it is kept, by the leader's monotonic clock (L12)."""

    receipt: Receipt
    until_s: float


@dataclass(slots=True)
class Head:
    """One key, as its leader sees it."""

    payload: bytes | None = None
    version: bytes = b""
    """Of the value or the delete; empty if there never was one."""
    stamp: bytes = b""
    """Term and seq of the record."""
    time: int = 0
    fence: int = 0
    receipts: dict[bytes, Kept] = field(default_factory=dict)
    """Lane -> the answer to its last call (L10)."""
    receipts_bytes: int = 0
    dirty: bool = False
    """Whether F owners may not hold it yet: its record goes out with the next round."""
    awaited: int = 0
    """Rounds that have to confirm it."""

    @classmethod
    def of(cls, record: bytes | None, until_s: float) -> Head:
        """Return the head that a record makes; its receipts are kept until ``until_s``."""
        if record is None:
            return cls()
        taken = decode(record)
        head = cls(taken.payload, taken.version, stamp_of(record), taken.time, taken.fence)
        for receipt in taken.receipts:
            head.keep(receipt, until_s)
        return head

    def record(self, term: bytes, seq: int) -> bytes:
        """Return the record of what stands. Without receipts whose time is over: see ``forget``."""
        stamp = term + seq.to_bytes(8)
        origin = b"" if self.version == stamp else self.version
        receipts = tuple(kept.receipt for kept in self.receipts.values())
        return encode_record(LinearRecord(term, seq, self.time, self.payload, origin, self.fence, receipts))

    def keep(self, receipt: Receipt, until_s: float) -> None:
        """Keep a receipt, in place of the lane's former one."""
        self._drop(receipt.lane)
        self.receipts[receipt.lane] = Kept(receipt, until_s)
        self.receipts_bytes += len(receipt.payload or b"")

    def forget(self, lanes: Iterator[bytes] | list[bytes]) -> None:
        """Drop the receipts of these lanes."""
        for lane in lanes:
            self._drop(lane)

    def _drop(self, lane: bytes) -> None:
        if (former := self.receipts.pop(lane, None)) is not None:
            self.receipts_bytes -= len(former.receipt.payload or b"")

    @property
    def has_room(self) -> bool:
        """Whether it may take one receipt more."""
        return len(self.receipts) < MAX_RECEIPTS and self.receipts_bytes < MAX_RECEIPTS_BYTES

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        return 300 + len(self.payload or b"") + 150 * len(self.receipts) + self.receipts_bytes


class Effect(NamedTuple):
    """What a change does: its answer, and the value after it, if that is another write."""

    status: int
    answer: bytes | None = None
    writes: bool = False
    payload: bytes | None = None


def effect(change: Change, head: Head) -> Effect:
    """Return what a change does to what stands. O(size of the value)."""
    stands = head.payload
    if change.kind == c.READ:
        return Effect(c.DONE, stands)
    if change.fence and change.fence < head.fence:
        return Effect(c.FENCED, stands)
    condition = change.condition
    if condition is not None and (stands is not None if not condition else condition != head.version):
        return Effect(c.CONFLICT, stands)
    if change.kind == c.PUT:
        return Effect(c.DONE, None, True, change.payload)
    if change.kind == c.DELETE:
        return Effect(c.DONE, None, stands is not None or change.fence > head.fence, None)
    if change.kind == c.SWAP:
        return Effect(c.DONE, stands, True, change.payload)
    return _counted(change, head)


def _counted(change: Change, head: Head) -> Effect:
    """Return what an ``ADD``, ``MAXIMUM`` or ``MINIMUM`` does. Absence is 0 to an ``ADD``, and gives way to the others."""
    given, stands = c.number_of(change.payload), head.payload
    known = None if stands is None else c.number_of(stands)
    if given is None or (stands is not None and known is None):
        return Effect(c.NO_NUMBER, stands)
    if change.kind == c.ADD:
        result = (known or 0) + given
        if not c.LEAST <= result <= c.MOST:
            return Effect(c.OUT_OF_RANGE, stands)
    elif known is None:
        result = given
    else:
        result = max(known, given) if change.kind == c.MAXIMUM else min(known, given)
    payload = c.cell(result)
    writes = payload != stands or change.kind == c.ADD or change.fence > head.fence
    return Effect(c.DONE, payload, writes, payload)
