"""The operations on a record of any kind: one dispatch on its first byte."""

from __future__ import annotations

from raykv.errors import CorruptData
from raykv.records import linear_record as linear
from raykv.records import record as lww
from raykv.records import vector_record as vector

VECTOR = bytes([vector.KIND_VECTOR])
"""The beginning of a vector record."""
OWNED = bytes([vector.KIND_VECTOR, vector.OWN_BYTES])
"""How a record opens of which a part is the node's own."""
LINEAR = bytes([linear.KIND_LINEAR])
"""How the record of a linearizable bucket begins."""


def is_vector(record: bytes) -> bool:
    """Return whether the record is of a vector bucket."""
    return record[:1] == VECTOR


def is_linear(record: bytes) -> bool:
    """Whether the record is of a linearizable bucket."""
    return record[:1] == LINEAR


def check(record: bytes) -> int:
    """Return the newest hybrid time in ``record``. Raises ``CorruptData`` unless it has the layout of its kind.

    It must not have a part of the node's own: that does not travel.
    """
    if is_vector(record):
        return max((sibling.time for sibling in vector.check(record).siblings), default=0)
    if is_linear(record):
        return linear.check(record).time
    lww.check(record)
    return lww.time_of(record)


def header_of(record: bytes) -> bytes:
    """Return the record without payloads."""
    if is_linear(record):
        return linear.header(record)
    return vector.header(record) if is_vector(record) else lww.header_of(record)


def public(record: bytes) -> bytes:
    """Return the part of ``record`` that may leave its node."""
    return vector.with_own(record, b"") if record[:2] == OWNED else record


def check_same(one: bytes, other: bytes) -> None:
    """Raise ``CorruptData`` if two records of a key are of different kinds: a bucket keeps its kind for ever."""
    if one[:1] != other[:1]:
        raise CorruptData("two records of one key are of different kinds")
