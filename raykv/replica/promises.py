"""The terms that a node has promised to leaders of linearizable buckets, in its engine (L2).

One promise for each partition and number of copies n. It never expires and never goes back: who leads under a lower term
gets nothing done here. The promises of a node lie in its engine, behind the records of all partitions: one log, so a
directory that was rolled back or has lost the end of its log is known for what it is (P2, P6), and P3 holds for both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raykv.errors import CorruptData
from raykv.records.keys import PROMISES
from raykv.records.limits import MAX_BALLOT_STEP
from raykv.records.linear_record import NO_TERM, term_number

if TYPE_CHECKING:
    from raykv.storage import Engine

KIND_PROMISE = 5
PROMISES_END = PROMISES[:-1] + bytes([PROMISES[-1] + 1])


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    term: bytes
    leader: str


class Promised(NamedTuple):
    """A promise, and the log position that makes it durable."""

    term: bytes = NO_TERM
    leader: str = ""
    position: int = 0


_decoder = msgspec.msgpack.Decoder(_Kept)
_encode = msgspec.msgpack.Encoder().encode
NOTHING = Promised()


class Promises:
    """The promises of one node."""

    def __init__(self, engine: Engine) -> None:
        """Load them. O(promises)."""
        self._engine = engine
        self._known: dict[tuple[int, int], Promised] = {}
        for place, found in engine.scan(PROMISES, PROMISES_END, around_damage=True):
            kept = _decoder.decode(found.record[1:])
            at = len(PROMISES)
            self._known[int.from_bytes(place[at : at + 2]), place[at + 2]] = Promised(
                kept.term, kept.leader, found.position
            )

    @property
    def intact(self) -> bool:
        """Whether no corruption may have cost one: else this node must not vote (L3)."""
        return not self._engine.damaged_in(PROMISES, PROMISES_END)

    def of(self, partition: int, n: int) -> Promised:
        """Return what is promised."""
        return self._known.get((partition, n), NOTHING)

    def of_partition(self, partition: int) -> dict[int, Promised]:
        """Return what is promised for a partition, by n."""
        return {n: kept for (at, n), kept in sorted(self._known.items()) if at == partition}

    def keep(self, partition: int, n: int, term: bytes, leader: str) -> Promised:
        """Promise a term above what is promised; return what is promised now.

        Raises ``CorruptData`` if it jumps too far: one mad number would be the last.
        """
        known = self.of(partition, n)
        if term <= known.term:
            return known
        if term_number(term) > term_number(known.term) + MAX_BALLOT_STEP:
            raise CorruptData(f"a term jumps from number {term_number(known.term)} to {term_number(term)}")
        stored = bytes([KIND_PROMISE]) + _encode(_Kept(term, leader))
        position = self._engine.replace(_place(partition, n), stored).position
        kept = self._known[partition, n] = Promised(term, leader, position)
        return kept


def _place(partition: int, n: int) -> bytes:
    return PROMISES + partition.to_bytes(2) + n.to_bytes(1)
