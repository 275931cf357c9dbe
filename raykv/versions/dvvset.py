"""Dotted version vector sets: all versions of one key that no write has superseded, and what they superseded.

After Almeida, Baquero, Gonçalves, Preguiça & Fonte 2014, "Scalable and accurate causality tracking for eventually
consistent stores" (section 5), whose operations these are; the causal history is kept as spans (``causality``), so that
a context can name what it saw exactly.

A state is ``(seen, siblings)``; every sibling's dot is in ``seen``. What is in ``seen`` and not among the siblings was
superseded. ``sync`` keeps a version that only one side has unless the other side has seen it, and so the states of a key
form a join semilattice: replicas that took in the same writes, in any order and any number of times, are equal
(Shapiro et al. 2011, "Conflict-free replicated data types", 2.2).

::

    event   a new write: its dot, its context, its body; the smallest such state (a delta)
    sync    two states become the one that has taken in both; ``update`` = ``sync`` with an ``event``
    discard the versions that a context has not seen
    join    what has been seen: the context that goes with the values
    less, size, values, dots

Two records with the same dot hold the same write, because a dot is assigned once, to one write (P2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.records.record import is_tombstone, plain_payload
from raykv.records.vector_record import Sibling, VersionSet, in_spans
from raykv.versions.causality import Causality, contains, covers, union, with_dot

if TYPE_CHECKING:
    from raykv.records.record import Record
    from raykv.records.vector_record import Dot, Seen

EMPTY = VersionSet()


def sync(one: VersionSet, other: VersionSet) -> VersionSet:
    """Return the state that has taken in both. Commutative, associative, idempotent. O(siblings x spans)."""
    if one == other:
        return one
    in_one, in_other = {sibling.dot for sibling in one.siblings}, {sibling.dot for sibling in other.siblings}
    kept = {s.dot: s for s in one.siblings if s.dot in in_other or not contains(other.seen, s.dot)}
    kept |= {s.dot: s for s in other.siblings if s.dot in in_one or not contains(one.seen, s.dot)}
    return VersionSet(union(one.seen, other.seen), tuple(kept[dot] for dot in sorted(kept)))


def replaces(new: VersionSet, seen: Seen) -> bool:
    """Return whether ``new`` covers a state with history ``seen`` and has no version of it: their ``sync`` is ``new``.

    True for most writes. False implies nothing.
    """
    for sibling in new.siblings:
        if in_spans(seen, sibling.actor, sibling.counter):
            return False
    return covers(new.seen, seen)


def event(dot: Dot, seen: Seen, time: int, body: bytes) -> VersionSet:
    """Return the state of one write: ``dot`` supersedes ``seen`` and wrote ``body`` at hybrid time ``time``."""
    actor, counter = dot
    assert not contains(seen, dot), "a write does not supersede itself"
    return VersionSet(with_dot(seen, dot), (Sibling(actor, counter, time, body),))


def update(state: VersionSet, dot: Dot, seen: Seen, time: int, body: bytes) -> VersionSet:
    """Return ``state`` with one more write: the versions in ``seen`` go, the rest stay beside it."""
    return sync(state, event(dot, seen, time, body))


def discard(state: VersionSet, seen: Seen) -> VersionSet:
    """Return ``state`` without the versions in ``seen``; they do not come back."""
    return sync(state, VersionSet(seen))


def join(state: VersionSet) -> Causality:
    """Return the context of a state: a write with it supersedes everything in the state."""
    return Causality(newest_time(state), state.seen)


def less(one: VersionSet, other: VersionSet) -> bool:
    """Return whether ``other`` has taken in all of ``one``, and more."""
    return one != other and sync(one, other) == other


def size(state: VersionSet) -> int:
    """Return the number of versions, tombstones included."""
    return len(state.siblings)


def newest_time(state: VersionSet) -> int:
    """Return the newest hybrid time of a current version; 0 if there is none."""
    if len(state.siblings) == 1:  # the usual case, and several calls for each write
        return state.siblings[0].time
    return max((sibling.time for sibling in state.siblings), default=0)


def newest_first(state: VersionSet) -> list[Record]:
    """Return the versions, tombstones too, newest first: by hybrid time, then operation id, the same on all replicas."""
    records = [sibling.record for sibling in state.siblings]
    if len(records) < 2:
        return records
    return sorted(records, key=lambda record: (record.time, record.operation_id), reverse=True)


def values(state: VersionSet, now_ms: int) -> tuple[list[bytes], bool]:
    """Return the payloads current at ``now_ms``, newest first, and whether a deleted or expired version is newer still.

    A tombstone hides only what it saw. If it is the newest version, however, a reader of the newest finds nothing: an
    older write that surfaces later does not undo an acknowledged delete (P7).
    """
    if len(state.siblings) == 1:  # the usual case
        body = state.siblings[0].body
        if (payload := plain_payload(body)) is not None:
            return [payload], False
        if is_tombstone(body):
            return [], False
    records = newest_first(state)
    payloads = [record.payload for record in records if record.live(now_ms)]
    return payloads, bool(payloads) and not records[0].live(now_ms)
