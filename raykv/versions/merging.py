"""Merging two records of a key, and what a reader sees of a record, for every policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raykv.config import MAX_PAIR_BYTES, MAX_SIBLINGS_BYTES
from raykv.errors import CorruptData
from raykv.records import kinds
from raykv.records import linear_record as linear
from raykv.records import vector_record as vector
from raykv.records.record import plain, plain_payload, time_of, unpack
from raykv.versions import dvvset, lww
from raykv.versions.causality import Causality
from raykv.versions.hybrid_clock import time_to_ms

if TYPE_CHECKING:
    from raykv.records.vector_record import VersionSet

MAX_STORED_BYTES = MAX_SIBLINGS_BYTES + MAX_PAIR_BYTES


def merge(stored: bytes | None, incoming: bytes, taken: VersionSet | None = None) -> bytes:
    """Return the record that stands. Commutative, associative, idempotent, except for the node's own part of a record.

    ``taken``: ``incoming`` decoded, if it is a vector record and the caller has decoded it. ``CorruptData`` if the two are
    of different kinds.
    """
    if stored is None or stored == incoming:
        return incoming
    kinds.check_same(stored, incoming)
    if not kinds.is_vector(stored):
        return lww.merge(stored, incoming)
    new = vector.decode(incoming) if taken is None else taken
    own = vector.own_of(incoming)
    if dvvset.replaces(new, vector.seen_of(stored)):
        return incoming if own else vector.with_own(incoming, vector.own_of(stored))
    return vector.encode(dvvset.sync(vector.decode(stored), new), own or vector.own_of(stored))


class TooManyVersions(Exception):
    """The unmerged versions of one key together exceed the size limit."""


def merge_bounded(stored: bytes | None, incoming: bytes, taken: VersionSet | None = None) -> bytes:
    """Return what ``merge`` returns, for a node to store. Raises ``TooManyVersions`` past the size limit.

    Concurrent writes slip past the limit that their coordinators check. Replicas may still merge what they already hold:
    the limit must not block read repair.
    """
    kept = merge(stored, incoming, taken)
    if len(kept) > MAX_STORED_BYTES and kinds.is_vector(kept) and len(kept) > len(stored or b""):
        one_write = dvvset.size(vector.decode(incoming)) == 1
        if one_write or len(kept) > vector.MAX_VECTOR_RECORD_BYTES:
            raise TooManyVersions(f"the unmerged versions of this key take {len(kept)} bytes")
    return kept


def covers(stored: bytes | None, record: bytes) -> bool:
    """Return whether a replica that holds ``stored`` holds ``record`` or something newer."""
    if stored is None:
        return False
    if stored == record:
        return True
    kinds.check_same(stored, record)
    return merge(stored, record) == stored if kinds.is_vector(record) else lww.covers(stored, record)


class Shown(NamedTuple):
    """What a reader is shown: payloads, newest first (none: deleted, expired or absent).

    ``gone``: there are payloads, but the newest version, a delete or expired, is not among them: a reader of the newest
    version alone finds nothing.
    """

    payloads: list[bytes]
    gone: bool = False


def shown(record: bytes | None, now_ms: int) -> Shown:
    """Return what a record shows a reader at ``now_ms``."""
    if record is None:
        return Shown([])
    if kinds.is_vector(record):
        return Shown(*dvvset.values(vector.decode(record), now_ms))
    if kinds.is_linear(record):
        payload = linear.decode(record).payload
        return Shown([] if payload is None else [payload])
    taken = unpack(record)
    return Shown([taken.payload] if taken.live(now_ms) else [])


def shows_nothing(record: bytes, now_ms: int) -> bool:
    """Return whether a record has no live value at ``now_ms``. An unreadable one may hold anything."""
    try:
        return not shown(record, now_ms).payloads
    except CorruptData:
        return False


def causality_of(record: bytes | None) -> Causality:
    """Return what a reader of this record has seen."""
    if record is None:
        return Causality()
    if kinds.is_vector(record):
        return dvvset.join(vector.decode(record))
    return Causality(linear.decode(record).time if kinds.is_linear(record) else time_of(record))


def only_value(record: bytes) -> tuple[int, bytes] | None:
    """Return hybrid time and payload of a record with one value without expiry (most records); None for any other."""
    if record[:1] != kinds.VECTOR:
        return plain(record)  # of a linearizable bucket: None
    siblings = vector.decode(record).siblings
    if len(siblings) != 1:
        return None
    payload = plain_payload(siblings[0].body)
    return None if payload is None else (siblings[0].time, payload)


def seen_and_shown(record: bytes | None, now_ms: int) -> tuple[Causality, Shown]:
    """Return ``causality_of`` and ``shown`` of a record, decoding it once."""
    if record is None:
        return Causality(), Shown([])
    if (value := plain(record)) is not None:
        return Causality(value[0]), Shown([value[1]])
    if kinds.is_vector(record):
        state = vector.decode(record)
        return dvvset.join(state), Shown(*dvvset.values(state, now_ms))
    if kinds.is_linear(record):
        return causality_of(record), shown(record, now_ms)
    taken = unpack(record)
    return Causality(taken.time), Shown([taken.payload] if taken.live(now_ms) else [])


def dead_since_ms(record: bytes) -> int | None:
    """Return since when a record has had no live value, in ms since 1970 (may be in the future); None if it has one."""
    if kinds.is_linear(record):
        taken = linear.decode(record)
        return time_to_ms(taken.time) if taken.payload is None else None
    if kinds.is_vector(record):
        since = [taken.dead_since_ms for taken in dvvset.newest_first(vector.decode(record))]
    else:
        since = [unpack(record).dead_since_ms]
    known = [since_ms for since_ms in since if since_ms is not None]
    return max(known, default=0) if len(known) == len(since) else None
