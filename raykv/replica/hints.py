"""Hints: writes that a node keeps for another one that missed them (Dynamo, section 4.6; P11).

Every acknowledgement that a write's coordinator waited for in vain earns a hint, whatever the health record of the
missing node says. There are two kinds:

* In a strict bucket a primary that has acknowledged keeps it. It has the record, so the hint is a key only: *node B
  lacks what I hold under k*. Replay sends what the primary holds at that time. (P11 would have a fallback keep a copy
  where there is one. It would be no safer: W primaries hold the write, and anti-entropy is behind them.)
* In a sloppy bucket a fallback stands in for the primary: it keeps the record itself, and its acknowledgement counts
  toward W. Readers get it while the primary is away (``of``).

A hint is keyed by node, bucket and key, so a key that is written repeatedly while a node is away is one hint, and
the space is bounded by the keys; ``max_bytes`` bounds it as well. Records of a key merge as they do everywhere, so the
order in which hints are replayed does not matter; they go in key order. Nor does it matter which directory of the
node missed them: a record that is merged twice is held once.

**Age.** A hint of a strict bucket is an optimization, and forgotten after ``max_age_s``, or half the grace if that is
less: from then on it is cheaper to compare trees. One that counts is kept for half the grace: after that a delete above
it may have been purged (P10). A record that replaces another in its hint brings its own age; what merges is as old as
its oldest part.

The hints of a node lie in its engine, behind the records of all partitions: one log, one sync, and P3 for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raykv.errors import CorruptData
from raykv.records.keys import HINTS
from raykv.records.kinds import is_vector
from raykv.records.record import stamp_of, time_of
from raykv.versions import merge, merge_bounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.storage import Engine

KIND_HINT = 3
MAX_NODE_ID_BYTES = 255
_BUCKET_BYTES = 4


class HintsFull(Exception):
    """The node keeps as many hints as it may."""


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    made_ms: int
    counted: bool
    record: bytes


class Hint(NamedTuple):
    """A waiting hint: its place in the store, its target node, its content, and its time."""

    place: bytes
    target: str
    bucket_id: int
    key: bytes
    made_ms: int
    counted: bool
    record: bytes
    """Empty: what the node itself holds."""
    stored: bytes

    @property
    def size_bytes(self) -> int:
        """Its size in the store."""
        return len(self.place) + len(self.stored)


_decoder = msgspec.msgpack.Decoder(_Kept)
_encode = msgspec.msgpack.Encoder().encode


class HintStore:
    """The hints of one node, in its engine."""

    def __init__(self, engine: Engine, max_bytes: int) -> None:
        """Count the stored hints. O(hints)."""
        self._engine = engine
        self._max_bytes = max_bytes
        self.bytes = 0
        self.counts: dict[str, int] = {}
        """Node -> the number of hints that wait for it; no entry for none."""
        for hint in self._scan(HINTS, _after(HINTS)):
            self._count(hint, 1)

    def keep(
        self, target: str, bucket_id: int, key: bytes, record: bytes, made_ms: int, *, counted: bool
    ) -> tuple[int, int]:
        """Keep a hint. Returns the newer time held, if a newer record is (lww), else 0; and the log position.

        ``record``: empty, or what ``target`` lacks. Raises ``HintsFull``, ``TooManyVersions``, ``CorruptData``.
        """
        place = _place(target, bucket_id, key)
        found = self._engine.get(place)
        newer = 0
        if found is not None:
            known = _decoder.decode(found.record[1:])
            merged = record or known.record
            if known.record and record:
                merged = merge_bounded(known.record, record)
                newer = 0 if is_vector(merged) or stamp_of(merged) == stamp_of(record) else time_of(merged)
            made_ms, counted = _since_ms(known, record, merged, made_ms), counted or known.counted
            record = merged
            self._count(hint_of(place, found.record), -1)
        stored = bytes([KIND_HINT]) + _encode(_Kept(made_ms, counted, record))
        hint = hint_of(place, stored)
        if self.bytes + hint.size_bytes > self._max_bytes:
            if found is not None:
                self._count(hint_of(place, found.record), 1)
            raise HintsFull(f"{self.bytes} bytes of hints are kept")
        self._count(hint, 1)
        return newer, self._engine.replace(place, stored).position

    def of(self, bucket_id: int, key: bytes) -> tuple[bytes | None, int]:
        """Return what is kept of a key for any node, merged, and the position that it depends on. O(nodes with hints)."""
        record: bytes | None = None
        position = 0
        for target in sorted(self.counts):
            found = self._engine.get(_place(target, bucket_id, key))
            if found is None:
                continue
            position = max(position, found.position)
            if kept := _decoder.decode(found.record[1:]).record:
                record = merge(record, kept)
        return record, position

    def waiting(self, target: str, after: bytes = b"") -> Iterator[Hint]:
        """Yield the hints for a node lazily, in key order, beginning behind the place ``after``."""
        first = _place(target, 0, b"")[:-_BUCKET_BYTES]
        yield from self._scan(max(first, after + b"\x00") if after else first, _after(first))

    def forget(self, hint: Hint) -> None:
        """Drop a hint that has been delivered, or is of no use; one that has changed since stays."""
        try:
            found = self._engine.get(hint.place)
        except CorruptData:
            return  # ``recount`` will miss it
        if found is not None and found.record == hint.stored:
            self._count(hint, -1)
            self._engine.erase(hint.place)

    def recount(self, target: str) -> None:
        """Count the hints for a node anew: corruption may have taken some."""
        if target in self.counts and not any(self.waiting(target)):
            del self.counts[target]
            self.bytes = sum(hint.size_bytes for hint in self._scan(HINTS, _after(HINTS)))

    def _scan(self, start: bytes, end: bytes) -> Iterator[Hint]:
        for place, found in self._engine.scan(start, end, around_damage=True):
            yield hint_of(place, found.record)

    def _count(self, hint: Hint, change: int) -> None:
        self.bytes += change * hint.size_bytes
        count = self.counts.get(hint.target, 0) + change
        if count:
            self.counts[hint.target] = count
        else:
            del self.counts[hint.target]


def _since_ms(known: _Kept, record: bytes, merged: bytes, made_ms: int) -> int:
    """Return the time of a known hint that is kept again with ``record``: that of the oldest write that is left in it.

    *Schedule for what is replaced: B is away, and D stands in for it whenever k is written. Half a grace after the first of
    these writes D drops the last one, which it acknowledged a moment ago (P11).*
    """
    if not merged:  # what the node holds is of the day on which it is sent
        return max(made_ms, known.made_ms)
    if merged == record != known.record:
        return made_ms
    if record and merged == known.record != record:
        return known.made_ms
    return min(made_ms, known.made_ms)


def _place(target: str, bucket_id: int, key: bytes) -> bytes:
    name = target.encode()
    if not 0 < len(name) <= MAX_NODE_ID_BYTES:
        raise CorruptData("a hint names no possible node")
    return HINTS + bytes([len(name)]) + name + bucket_id.to_bytes(_BUCKET_BYTES) + key


def hint_of(place: bytes, stored: bytes) -> Hint:
    """Decode a hint from the store, or from a backup. ``CorruptData`` if it is none, whatever its checksums say."""
    try:
        return _taken_apart(place, stored)
    except (msgspec.MsgspecError, ValueError, IndexError, RecursionError) as error:
        raise CorruptData(f"what should be a hint is none: {error}") from None


def _taken_apart(place: bytes, stored: bytes) -> Hint:
    at = len(HINTS)
    name_end = at + 1 + place[at]
    bucket_end = name_end + _BUCKET_BYTES
    kept = _decoder.decode(stored[1:])
    return Hint(
        place,
        place[at + 1 : name_end].decode(),
        int.from_bytes(place[name_end:bucket_end]),
        place[bucket_end:],
        kept.made_ms,
        kept.counted,
        kept.record,
        stored,
    )


def _after(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix[-1] < 0xFF else prefix + b"\xff"
