"""The vector record: all concurrent versions of one key, and the writes that they supersede, as bytes.

::

    kind        1 byte    2
    own size    1 byte    0, or 16: what follows is the node's own and never leaves it
    [own       16 bytes   the run in which the node drew an actor id for this record, and that id (P2)]
    the rest              msgpack: [seen, siblings]

``seen`` is the record's causal history: the dots of all writes that it has taken in, as *spans* ``(actor, low, high)``
of counters, sorted, disjoint and not adjacent. A version vector is the case in which every span begins at 1; spans are
exact even for a write that overtook another one (see ``raykv.versions.causality``). ``siblings`` are the writes that none
of these has superseded, by dot: ``[actor, counter, hybrid time, body]``, the body as the client packed it (``record``). A
tombstone is a sibling like any other.

The encoding is canonical: equal states are equal bytes, so replicas compare by bytes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import msgspec

from raykv.config import MIB
from raykv.errors import CorruptData
from raykv.records.record import Record, body_header, check_body, stamp, unpack

KIND_VECTOR = 2
ACTOR_BYTES = 8
OWN_BYTES = 2 * ACTOR_BYTES
MAX_VECTOR_RECORD_BYTES = 15 * MIB
MAX_SPANS = 10_000
_OWN_AT = 2
_PUBLIC = bytes([KIND_VECTOR, 0])
_BEHIND_OWN = {_PUBLIC: _OWN_AT, bytes([KIND_VECTOR, OWN_BYTES]): _OWN_AT + OWN_BYTES}
"""The first bytes of a record -> where the rest begins."""

Span: TypeAlias = tuple[bytes, int, int]
"""(actor, low, high): the dots of that actor with these counters, both included."""
Dot: TypeAlias = tuple[bytes, int]
"""(actor, counter): names one write of one key for ever."""
Seen: TypeAlias = tuple[Span, ...]


class Sibling(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One version: its dot, the hybrid time of its write, and the body."""

    actor: bytes
    counter: int
    time: int
    body: bytes

    @property
    def dot(self) -> Dot:
        """The dot of its write."""
        return self.actor, self.counter

    @property
    def record(self) -> Record:
        """The version decoded, as a record by itself."""
        return unpack(stamp(self.body, self.time))


class VersionSet(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A decoded record: its causal history and the current versions. Operations: ``raykv.versions.dvvset``."""

    seen: Seen = ()
    siblings: tuple[Sibling, ...] = ()


_decode = msgspec.msgpack.Decoder(VersionSet).decode
_decode_seen = msgspec.msgpack.Decoder(tuple[Seen, msgspec.Raw]).decode
_encode = msgspec.msgpack.Encoder().encode


def encode(versions: VersionSet, own: bytes = b"") -> bytes:
    """Return the record. ``own``: the node's own part, ``OWN_BYTES`` or empty."""
    assert len(own) in {0, OWN_BYTES}
    return bytes([KIND_VECTOR, len(own)]) + own + _encode(versions)


def decode(record: bytes) -> VersionSet:
    """Decode a record that was checked before. Raises ``CorruptData`` if it is malformed."""
    start = _BEHIND_OWN.get(record[:_OWN_AT])  # as ``_behind_own``, inlined: nothing runs more often
    if start is None:
        raise CorruptData("not a vector record")
    try:
        return _decode(record[start:])  # two memoryviews cost more than a copy of most records
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptData(f"not a vector record: {error}") from None


def seen_of(record: bytes) -> Seen:
    """Return the causal history of a record that was checked before, without decoding its versions.

    Raises ``CorruptData`` if it is malformed.
    """
    try:
        return _decode_seen(record[_behind_own(record) :])[0]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptData(f"not a vector record: {error}") from None


def own_of(record: bytes) -> bytes:
    """Return the node's own part of a record; empty if there is none."""
    return record[_OWN_AT : _behind_own(record)]


def _behind_own(record: bytes) -> int:
    start = _BEHIND_OWN.get(record[:_OWN_AT])
    if start is None:
        raise CorruptData("not a vector record")
    return start


def with_own(record: bytes, own: bytes) -> bytes:
    """Return the record with another own part; ``b""`` removes it, so that the record may leave the node."""
    if record[1] == len(own) == 0:
        return record
    return bytes([KIND_VECTOR, len(own)]) + own + record[_behind_own(record) :]


def check(record: bytes) -> VersionSet:
    """Decode a record. Raises ``CorruptData`` unless it is as above, canonical and without an own part. O(size)."""
    if len(record) > MAX_VECTOR_RECORD_BYTES or record[:_OWN_AT] != _PUBLIC:
        raise CorruptData("a vector record is too long, of another kind, or has a part that must not travel")
    versions = decode(record)
    check_seen(versions.seen)
    for sibling in versions.siblings:
        check_body(sibling.body)
        if not 0 <= sibling.time < 1 << 64:
            raise CorruptData("a version has no possible time")
        if not in_spans(versions.seen, sibling.actor, sibling.counter):
            raise CorruptData("a record holds a version that it has not taken in")
    if len(versions.siblings) > 1 and any(one.dot >= other.dot for one, other in pairwise(versions.siblings)):
        raise CorruptData("versions are out of order")
    if encode(versions) != record:
        raise CorruptData("a vector record is not in the one form that equal records have")
    return versions


def in_spans(seen: Seen, actor: bytes, counter: int) -> bool:
    """Return whether a causal history has that dot. O(spans)."""
    for one, low, high in seen:  # noqa: SIM110 - a generator costs three times as much, several times for each write
        if one == actor and low <= counter <= high:
            return True
    return False


def check_seen(seen: Seen) -> None:
    """Raise ``CorruptData`` unless these are sorted, disjoint spans that are not adjacent."""
    if len(seen) > MAX_SPANS:
        raise CorruptData(f"a causal history has {len(seen)} spans; at most {MAX_SPANS} are taken")
    for actor, low, high in seen:
        if len(actor) != ACTOR_BYTES or not 1 <= low <= high < 1 << 63:
            raise CorruptData("a causal history names an impossible dot")
    if len(seen) > 1 and any(
        one[0] > other[0] or (one[0] == other[0] and one[2] + 1 >= other[1]) for one, other in pairwise(seen)
    ):
        raise CorruptData("the spans of a causal history are out of order")


def header(record: bytes) -> bytes:
    """Return the record without its versions' payloads: enough to know which versions stand and whether they expired."""
    versions = decode(record)
    bare = [Sibling(each.actor, each.counter, each.time, body_header(each.body)) for each in versions.siblings]
    return _PUBLIC + _encode(VersionSet(versions.seen, tuple(bare)))
