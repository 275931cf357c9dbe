"""A node's dots: given out once each, and worth nothing until a coordinator writes under them.

A vector write has two rounds. In the first a node *reserves* a dot for it, and shows what it holds of the key; in the
second the coordinator writes the value under that dot to all owners. A node that gives a dot therefore keeps nothing, and
a coordinator without an answer may ask another node: of two dots given for one write only one is ever used, whichever
answer was lost. **One write has one dot** (P8). (Where the allocator itself keeps the write, as in Dynamo and Riak, a
write stamped at A, whose answer was lost, and again at B has two dots; a client that reads one and deletes it leaves the
other to come back.)

**A dot is given once** (P2). An actor id is 64 random bits, drawn here, for one record, in one run of the node; its
counters grow by one. A run goes on with the id of a record in two cases only:

* it has the id in memory, with the last counter that it gave out;
* the id stands in the record itself, in its own part, under the name of this run, and nothing was given out that is not
  written: the last counter is the highest that the record has taken in.

In every other case a fresh id is drawn: after a restart (the name of a run is random too), after the record was dropped,
and when memory is full, because the run then takes another name. A torn tail, a directory that was copied back, a
purged tombstone, or a fallback that handed its records over therefore cannot produce a dot a second time. An id that
arrives from elsewhere is never continued: the own part does not travel.

A dot whose write never comes leaves a gap: one more span in the histories of that record, which stays in memory as long
as the run. The dots of a bounded number of operations are remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raykv.records import vector_record as vector
from raykv.versions.causality import highest, is_gapless

if TYPE_CHECKING:
    import random as random_module

    from raykv.records.vector_record import Dot, Seen

MAX_OPEN = 50_000
"""Records with dots given out and not yet written; past it the run takes another name."""
MAX_REMEMBERED = 20_000
"""Operations whose dot is remembered, over all records; past it they are forgotten."""
_ID_BITS = 8 * vector.ACTOR_BYTES


@dataclass(slots=True)
class _Open:
    actor: bytes
    last: int
    given: dict[bytes, int] = field(default_factory=dict)
    """Operation id -> counter, so that a repeated request gets the same dot. It saves a dot, no more."""


class DotAllocator:
    """Gives dots for the records of one run of one node. O(spans of the record) each."""

    def __init__(
        self, random: random_module.Random, max_open: int = MAX_OPEN, max_remembered: int = MAX_REMEMBERED
    ) -> None:
        self._random = random
        self._max_open = max_open
        self._max_remembered = max_remembered
        self._run = self._draw()
        self._open: dict[bytes, _Open] = {}
        self._remembered = 0
        """Operations in ``given``, over all open records."""

    def reserve(self, key: bytes, stored: bytes | None, operation_id: bytes, seen: Seen | None = None) -> Dot:
        """Return a dot for an operation on the record ``stored`` (as this node keeps it) of ``key``.

        ``seen``: what that record has taken in, if the caller has already computed it.
        """
        entry = self._open.get(key)
        if entry is None:
            if len(self._open) >= self._max_open:
                self._run = self._draw()
                self._open.clear()
                self._remembered = 0
            entry = self._open[key] = self._begin(stored, seen)
        counter = entry.given.get(operation_id)
        if counter is None:
            if self._remembered >= self._max_remembered:
                self._forget_operations()
            counter = entry.last = entry.last + 1
            entry.given[operation_id] = counter
            self._remembered += 1
        return entry.actor, counter

    def _forget_operations(self) -> None:
        """Forget them: an operation that asks again gets another dot, and so leaves a gap; the counters go on.

        *Without: a record with one dot whose write never comes stays open, and remembers each later operation for ever.*
        """
        for entry in self._open.values():
            entry.given.clear()
        self._remembered = 0

    def _begin(self, stored: bytes | None, seen: Seen | None) -> _Open:
        own = vector.own_of(stored) if stored is not None else b""
        if own[: vector.ACTOR_BYTES] != self._run:
            return _Open(self._draw(), 0)
        assert stored is not None
        actor = own[vector.ACTOR_BYTES :]
        return _Open(actor, highest(vector.seen_of(stored) if seen is None else seen, actor))

    def sign(self, key: bytes, incoming: bytes) -> bytes:
        """Return ``incoming`` with this node's own part, if it gave out dots for the record."""
        entry = self._open.get(key)
        return incoming if entry is None else vector.with_own(incoming, self._run + entry.actor)

    def kept(self, key: bytes, record: bytes, seen: Seen | None = None) -> None:
        """Record what is kept now: once every dot given out is written, memory is not needed.

        ``seen``: as above.
        """
        entry = self._open.get(key)
        if entry is None:
            return
        if is_gapless(vector.seen_of(record) if seen is None else seen, entry.actor, entry.last):
            self._remembered -= len(entry.given)
            del self._open[key]

    def _draw(self) -> bytes:
        return self._random.getrandbits(_ID_BITS).to_bytes(vector.ACTOR_BYTES)
