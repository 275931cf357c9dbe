"""The record of a linearizable bucket: one value of one key, in an order that one leader gives it (L6), as bytes.

::

    kind        1 byte    3
    term       16 bytes   the leader's (L1): number, then 64 random bits, big-endian
    seq         8 bytes   counted over the term, big-endian
    the rest              msgpack: [time, origin, fence, payload, receipts]

Term and seq are the *stamp*: where and as long as that of a last-writer-wins record (``record``), and compared as it is, so
hints, streams and trees need not know the difference. Two records of one stamp are the same bytes.

``time`` is the hybrid time of the write by its leader's clock: it says how old a delete is, and orders nothing. ``origin``
is the stamp under which the value was written first, empty if it is this one: a leader that only confirms a value under
its own term does not make a new version of it (L5). ``fence`` is the highest fencing token that the key has seen.
``payload`` is the value, None where it is deleted. ``receipts`` are the results of the last call of each lane (L10): with
the value, or a new leader has the one without the other.
"""

from __future__ import annotations

import struct

import msgspec

from raykv.config import MAX_PAIR_BYTES, MIB
from raykv.errors import CorruptData

KIND_LINEAR = 3
TERM_BYTES = 16
STAMP_BYTES = TERM_BYTES + 8
LANE_BYTES = 8
MAX_RECEIPTS = 1024
MAX_RECEIPTS_BYTES = 1 * MIB
"""What lanes were answered may take as much before another answer is added."""
MAX_LINEAR_RECORD_BYTES = 4 * MIB
"""A value, what the other lanes were answered, another answer as large as a value, and the rest of 1,024 receipts."""
MAX_FENCE = (1 << 62) - 1
NO_TERM = bytes(TERM_BYTES)
"""Below every term."""
_HEAD = struct.Struct(">B16sQ")
_TERM_AT = 1
_SEQ_AT = _TERM_AT + TERM_BYTES
_REST_AT = _HEAD.size


class Receipt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a lane's call was answered: its number, and the answer (``protocol.nodes.Settled``)."""

    lane: bytes
    number: int
    status: int
    version: bytes = b""
    payload: bytes | None = None


class _Rest(msgspec.Struct, frozen=True, array_like=True, gc=False):
    time: int
    origin: bytes
    fence: int
    payload: bytes | None
    receipts: tuple[Receipt, ...] = ()


class _Shown(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The beginning of ``_Rest``: what is shown of it."""

    time: int
    origin: bytes
    fence: int
    payload: bytes | None


class LinearRecord(msgspec.Struct, frozen=True, gc=False):
    """A record taken apart."""

    term: bytes
    seq: int
    time: int
    payload: bytes | None
    """None: deleted."""
    origin: bytes = b""
    fence: int = 0
    receipts: tuple[Receipt, ...] = ()

    @property
    def version(self) -> bytes:
        """The stamp under which the value was written first."""
        return self.origin or self.term + self.seq.to_bytes(8)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Rest).decode
_decode_shown = msgspec.msgpack.Decoder(_Shown).decode


def pack_term(number: int, bits: int) -> bytes:
    """Return a term (L1): of two, the one with the greater number is later."""
    return number.to_bytes(8) + bits.to_bytes(8)


def term_number(term: bytes) -> int:
    """Return the number of a term."""
    return int.from_bytes(term[:8])


def encode(record: LinearRecord) -> bytes:
    """Return the bytes."""
    rest = _Rest(record.time, record.origin, record.fence, record.payload, record.receipts)
    return _HEAD.pack(KIND_LINEAR, record.term, record.seq) + _encode(rest)


def decode(record: bytes) -> LinearRecord:
    """Take a record apart. Raises ``CorruptData`` if it cannot be one."""
    if len(record) <= _REST_AT or record[0] != KIND_LINEAR:
        raise CorruptData("not the record of a linearizable bucket")
    try:
        rest = _decode(record[_REST_AT:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptData(f"not the record of a linearizable bucket: {error}") from None
    return LinearRecord(
        record[_TERM_AT:_SEQ_AT], int.from_bytes(record[_SEQ_AT:_REST_AT]), rest.time, rest.payload, rest.origin,
        rest.fence, rest.receipts,
    )  # fmt: skip


def shown(record: bytes) -> tuple[bytes, bytes | None]:
    """Return the version and the payload of a record, as ``decode`` does; its receipts are passed over."""
    if len(record) <= _REST_AT or record[0] != KIND_LINEAR:
        raise CorruptData("not the record of a linearizable bucket")
    try:
        rest = _decode_shown(record[_REST_AT:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptData(f"not the record of a linearizable bucket: {error}") from None
    return rest.origin or record[_TERM_AT:_REST_AT], rest.payload


def check(record: bytes) -> LinearRecord:
    """Take a record apart. Raises ``CorruptData`` unless it is as above. O(size)."""
    if len(record) > MAX_LINEAR_RECORD_BYTES:
        raise CorruptData(f"the record of a linearizable bucket has {len(record)} bytes")
    taken = decode(record)
    if len(taken.origin) not in {0, STAMP_BYTES} or not 0 <= taken.time < 1 << 64 or not 0 <= taken.fence <= MAX_FENCE:
        raise CorruptData("the record of a linearizable bucket has no possible origin, time or fence")
    if taken.payload is not None and not 0 < len(taken.payload) <= MAX_PAIR_BYTES + 1:
        raise CorruptData(f"the record of a linearizable bucket holds a value of {len(taken.payload)} bytes")
    if len(taken.receipts) > MAX_RECEIPTS or len({each.lane for each in taken.receipts}) < len(taken.receipts):
        raise CorruptData("the record of a linearizable bucket has too many receipts, or two of one lane")
    if any(len(each.lane) != LANE_BYTES or each.number < 0 for each in taken.receipts):
        raise CorruptData("the record of a linearizable bucket has the receipt of no lane")
    if encode(taken) != record:  # else copies of one stamp may differ for ever
        raise CorruptData("the record of a linearizable bucket is not in its one form")
    return taken


def renewed(record: bytes, bits: int) -> bytes:
    """Return the record for another store: the same value and version, below every term that a leader takes there.

    ``bits``: 64 random ones, the same for all of a store. Receipts stay behind: no call is sent again to another store.
    Leaders number their terms from 1, so what they write is above it; the version that a client holds goes on to name this
    value alone.
    """
    taken = decode(record)
    return encode(LinearRecord(pack_term(0, bits), taken.seq, taken.time, taken.payload, taken.version, taken.fence))


def is_restored(record: bytes) -> bool:
    """Return whether a record of any kind is a ``renewed`` one: no leader of this store has written it."""
    return record[0] == KIND_LINEAR and term_number(term_of(record)) == 0


def term_of(record: bytes) -> bytes:
    """Return the term of a record."""
    return record[_TERM_AT:_SEQ_AT]


def header(record: bytes) -> bytes:
    """Return the record without its value and receipts: enough to know stamp, age, and whether it is deleted."""
    taken = decode(record)
    payload = None if taken.payload is None else b""
    return encode(LinearRecord(taken.term, taken.seq, taken.time, payload, taken.origin, taken.fence))
