"""The record: one version of one key, as bytes.

::

    kind        1 byte    1 = last writer wins. Vector records will be another kind.
    time        8 bytes   hybrid time of the write, big-endian (see raykv.versions.hybrid_clock)
    ---- the body: packed once by the client -------------------------------------------------
    operation  16 bytes   random; names the write in retries, errors and histories
    flags       1 byte    1 = tombstone, 2 = has a time to live
    [ttl        8 bytes   milliseconds after ``time``, big-endian]
    [payload              codec tag and encoded value; none in a tombstone]

The *stamp* of a record is ``time`` and ``operation``: 24 bytes whose byte order is the order of the writes. Two records
of the same stamp are the same record. Expiry counts from the record's own time, so all replicas agree on it whatever
their clocks.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from raykv.config import MAX_PAIR_BYTES
from raykv.errors import CorruptData

KIND_LWW = 1

OPERATION_ID_BYTES = 16
_TIME = struct.Struct(">Q")
_STAMP_START = 1
_BODY_START = _STAMP_START + _TIME.size
_STAMP_END = _BODY_START + OPERATION_ID_BYTES
_FLAGS_AT = _STAMP_END
_TTL_AT = _FLAGS_AT + 1
HEADER_BYTES = _TTL_AT
MAX_RECORD_BYTES = MAX_PAIR_BYTES + HEADER_BYTES + 16  # 16: the time to live and the codec's tag

_TOMBSTONE = 1
_HAS_TTL = 2
_TOMBSTONE_FLAGS = bytes([_TOMBSTONE])
TIME_COUNTER_BITS = 16


class Record(NamedTuple):
    """A decoded record; its payload is not decoded."""

    time: int
    operation_id: bytes
    tombstone: bool
    ttl_ms: int | None
    payload: bytes

    def live(self, now_ms: int) -> bool:
        """Return whether a reader at ``now_ms`` sees a value: neither deleted nor expired."""
        if self.tombstone:
            return False
        return self.ttl_ms is None or now_ms < (self.time >> TIME_COUNTER_BITS) + self.ttl_ms

    @property
    def dead_since_ms(self) -> int | None:
        """Return when it was deleted, or expires; None for a value without a time to live."""
        at_ms = self.time >> TIME_COUNTER_BITS
        if self.tombstone:
            return at_ms
        return None if self.ttl_ms is None else at_ms + self.ttl_ms


def pack_body(operation_id: bytes, payload: bytes, ttl_ms: int | None = None) -> bytes:
    """Return the body of a put."""
    if ttl_ms is None:
        return operation_id + b"\x00" + payload
    return operation_id + bytes([_HAS_TTL]) + _TIME.pack(ttl_ms) + payload


def pack_tombstone_body(operation_id: bytes) -> bytes:
    """Return the body of a delete."""
    return operation_id + bytes([_TOMBSTONE])


def stamp(body: bytes, time: int) -> bytes:
    """Return the record of a body at a hybrid time."""
    return b"\x01" + _TIME.pack(time) + body


def restamp(record: bytes, time: int) -> bytes:
    """Return the same write under another hybrid time."""
    return stamp(record[_BODY_START:], time)


def plain_payload(body: bytes) -> bytes | None:
    """Return the payload of a put that never expires (most records). None for any other: ``unpack`` that."""
    if len(body) <= OPERATION_ID_BYTES or body[OPERATION_ID_BYTES]:
        return None
    return body[OPERATION_ID_BYTES + 1 :]


def is_tombstone(body: bytes) -> bool:
    """Return whether a body is that of a delete."""
    return body[OPERATION_ID_BYTES:] == _TOMBSTONE_FLAGS


def body_operation_id(body: bytes) -> bytes:
    """Return the operation id of a body."""
    return body[:OPERATION_ID_BYTES]


def stamp_of(record: bytes) -> bytes:
    """Return the 24 bytes by which records of a key are ordered."""
    return record[_STAMP_START:_STAMP_END]


def time_of(record: bytes) -> int:
    """Return the hybrid time of a record."""
    return int(_TIME.unpack_from(record, _STAMP_START)[0])


def header_of(record: bytes) -> bytes:
    """Return the record without its payload: enough to know stamp, tombstone and expiry."""
    has_ttl = record[_FLAGS_AT] & _HAS_TTL
    return record[: _TTL_AT + 8] if has_ttl else record[:_TTL_AT]


def body_header(body: bytes) -> bytes:
    """Return a body without its payload."""
    return body[: OPERATION_ID_BYTES + 9] if body[OPERATION_ID_BYTES] & _HAS_TTL else body[: OPERATION_ID_BYTES + 1]


def check_body(body: bytes) -> None:
    """Raise ``CorruptData`` unless ``body`` has the layout above. O(1)."""
    if not OPERATION_ID_BYTES < len(body) <= MAX_RECORD_BYTES - _BODY_START:
        raise CorruptData("a write is shorter than its header, or longer than a record can be")
    _check_flags(body[OPERATION_ID_BYTES], len(body) + _BODY_START)


def check(record: bytes) -> None:
    """Raise ``CorruptData`` unless ``record`` has the layout above. O(1)."""
    if not HEADER_BYTES <= len(record) <= MAX_RECORD_BYTES or record[0] != KIND_LWW:
        raise CorruptData("a record is shorter than its header, longer than a record can be, or of an unknown kind")
    _check_flags(record[_FLAGS_AT], len(record))


def _check_flags(flags: int, record_bytes: int) -> None:
    if flags and (
        flags & ~(_TOMBSTONE | _HAS_TTL)
        or (flags & _HAS_TTL and record_bytes < _TTL_AT + 8)
        or (flags & _TOMBSTONE and record_bytes != HEADER_BYTES)
    ):
        raise CorruptData("a record's flags do not fit its bytes")


def plain(record: bytes) -> tuple[int, bytes] | None:
    """Return hybrid time and payload of a value that never expires (most records); None for any other. O(1)."""
    if not HEADER_BYTES <= len(record) <= MAX_RECORD_BYTES or record[0] != KIND_LWW or record[_FLAGS_AT]:
        return None
    return _TIME.unpack_from(record, _STAMP_START)[0], record[_TTL_AT:]


def unpack(record: bytes) -> Record:
    """Decode a record. Raises ``CorruptData``."""
    check(record)
    flags = record[_FLAGS_AT]
    ttl_ms = int(_TIME.unpack_from(record, _TTL_AT)[0]) if flags & _HAS_TTL else None
    payload = record[_TTL_AT + 8 :] if flags & _HAS_TTL else record[_TTL_AT:]
    return Record(time_of(record), record[_BODY_START:_STAMP_END], bool(flags & _TOMBSTONE), ttl_ms, payload)
