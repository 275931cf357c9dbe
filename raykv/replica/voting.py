"""An owner's part under a leader of linearizable buckets: what it promises, shows and accepts (L2, L3, L5, L6).

Plain functions over the engine and the promises, as all handlers. A node votes on a partition only while it lacks nothing
there: with an incomplete one among F, a write or a promise of the others could be passed over (L3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.config import MIB
from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.protocol.requests import handled
from raykv.records import linear_record as linear
from raykv.records.keys import storage_bucket, storage_partition, storage_prefix

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from raykv.replica.handlers import Answer, Replica
    from raykv.replica.promises import Promised, Promises
    from raykv.storage import Engine

MAX_LOOK_BYTES = 8 * MIB
"""The answer to a look ends with the record that reaches it: its leader asks again for the rest."""
LOOK_UP = 8
"""Records that are looked up between two checks of the answer's size."""


class Voter:
    """The handlers of one node."""

    def __init__(self, replica: Replica, engine: Engine, promises: Promises, node_id: str, max_age_ms: int) -> None:
        self._replica = replica
        self._engine = engine
        self._promises = promises
        self._node_id = node_id
        self._max_age_ms = max_age_ms
        self.is_head: Callable[[int, int, tuple[int, bytes], bytes | None], bool] = lambda *_: False
        """``is_head(partition, n, (bucket id, key), record)``: see ``raykv.replica.leader``."""
        self.handlers: dict[type[f.Message], Callable[[Any], Answer]] = dict(
            (
                handled(f.Promise, self._promise),
                handled(f.ReadPromises, self._read_promises),
                handled(f.Look, self._look),
                handled(f.Accept, self._accept),
                handled(f.ReadHeads, self._read_heads),
            )
        )

    def _promise(self, request: f.Promise) -> Answer:
        if not self._replica.complete_for(request.partition):
            return self._replica.incomplete()
        known = self._promises.of(request.partition, request.n)
        if not request.again and request.term > known.term:
            if self._replica.no_room and not self._replica.room_for_deletes:
                return f.NodeRefused("overloaded", self._replica.no_room), 0
            known = self._promises.keep(request.partition, request.n, request.term, request.leader)
        granted = known.term == request.term
        buckets = self.buckets_here(request.partition) if granted and request.again else []
        return f.Promised(granted, known.term, known.leader, self._replica.directory_id, buckets), known.position

    def buckets_here(self, partition: int) -> list[int]:
        """Return the ids of the buckets of which this node holds anything in a partition. One seek a bucket."""
        found: list[int] = []
        low, high = storage_prefix(partition, 0), storage_prefix(partition + 1, 0)
        while (first := next(iter(self._engine.scan(low, high)), None)) is not None:
            found.append(storage_bucket(first[0]))
            low = storage_prefix(partition, found[-1] + 1)
        return found

    def _read_promises(self, request: f.ReadPromises) -> Answer:
        kept = self._promises.of_partition(request.partition)
        position = max((each.position for each in kept.values()), default=0)
        items = [(n, each.term, each.leader) for n, each in kept.items()]
        return f.PromisesRead(items, self._replica.complete_for(request.partition)), position

    def _raise(self, partition: int, n: int, term: bytes, leader: str) -> Promised | None:
        """Promise a term that asks for something under it; None if a later one is promised (L2).

        *Schedule without: C looks at A, which promised it nothing; B, which C supersedes, then writes with A.*
        """
        known = self._promises.keep(partition, n, term, leader)
        return known if known.term == term else None

    def _look(self, request: f.Look) -> Answer:
        found: list[tuple[bytes, str, list[bytes | None]]] = []
        position = size_bytes = 0
        for partition, term, keys in request.groups:
            if not self._replica.complete_for(partition):
                return self._replica.incomplete()
            self._check_place(partition, request.bucket_id, keys)
            promised = self._raise(partition, request.n, term, request.leader)
            if promised is None:
                later = self._promises.of(partition, request.n)
                found.append((later.term, later.leader, []))
                position = max(position, later.position)
                continue
            records: list[bytes | None] = []
            places = self._replica.storage_keys(request.bucket_id, keys)
            while len(records) < len(places) and size_bytes < MAX_LOOK_BYTES:
                founds, unreadable = self._engine.get_many(places[len(records) : len(records) + LOOK_UP])
                if unreadable:
                    return self._replica.incomplete()
                position = max([position, promised.position, *[each.position for each in founds if each is not None]])
                records += [None if each is None else each.record for each in founds]
                size_bytes += sum([len(each.record) for each in founds if each is not None])
            found.append((b"", "", records))
        return f.Looked(found), position

    def _accept(self, request: f.Accept) -> Answer:
        """Check a round, and keep it. What is older than half the grace is refused: its delete may be forgotten (L12)."""
        now_ms = self._replica.wall_ms()
        if request.made_ms and now_ms - request.made_ms > self._max_age_ms:
            return self._replica.old(now_ms - request.made_ms)
        for partition, term, items in request.groups:  # all of it before the first is kept
            if not self._replica.complete_for(partition):
                return self._replica.incomplete()
            for bucket_id, key, record in items:
                if self._replica.partition_of(bucket_id, key) != partition:
                    raise _strange(partition)
                linear.check(record)
                if linear.term_of(record) != term:
                    raise CorruptData("a leader sent a record of another term than its own")
        return self.accept(request.n, request.leader, request.groups)

    def accept(self, n: int, leader: str, groups: list[tuple[int, bytes, list[tuple[int, bytes, bytes]]]]) -> Answer:
        """Accept groups that are known to be well formed: those of the leader on this node itself."""
        if any(items for _, _, items in groups):
            if self._engine.overloaded:
                return self._replica.overloaded()
            if self._replica.no_room:
                return f.NodeRefused("overloaded", self._replica.no_room), 0
        outcomes: list[tuple[bytes, str]] = []
        position = 0
        for partition, term, items in groups:
            if not self._replica.complete_for(partition):
                return self._replica.incomplete()
            outcome, at = self._accept_group(partition, n, term, leader, items)
            outcomes.append(outcome)
            position = max(position, at)
        return f.Accepted(outcomes), position

    def _accept_group(
        self, partition: int, n: int, term: bytes, leader: str, items: list[tuple[int, bytes, bytes]]
    ) -> tuple[tuple[bytes, str], int]:
        promised = self._raise(partition, n, term, leader)
        if promised is None:
            later = self._promises.of(partition, n)
            return (later.term, later.leader), later.position
        position, above = promised.position, b""
        for bucket_id, key, record in items:
            kept = self._engine.update(self._replica.storage_place(partition, bucket_id, key), record)
            position = max(position, kept.position)
            # What hints or a repair have brought of a later term is not this one's, and this node does not hold it.
            if kept.record is not record and (stands := linear.term_of(kept.record)) != term:
                above = max(above, stands)
        return (above, ""), position

    def _read_heads(self, request: f.ReadHeads) -> Answer:
        """Show what a plain read needs to know that it shows the last (L8)."""
        config = self._replica.config_of(request.bucket_id)
        if config is None or config.versioning != "linearizable":
            return f.NodeRefused("not yet", f"this node knows of no linearizable bucket {request.bucket_id}"), 0
        if not self._replica.complete:
            return self._replica.incomplete()
        if len(request.keys) == 1:
            return self._read_head(request, config.n)
        founds, unreadable = self._engine.get_many(self._replica.storage_keys(request.bucket_id, request.keys))
        records = [None if each is None else each.record for each in founds]
        position = max([0, *[each.position for each in founds if each is not None]])
        terms: list[bytes] = []
        heads: list[int] = []
        for index, (key, record) in enumerate(zip(request.keys, records, strict=True)):
            partition = self._replica.partition_of(request.bucket_id, key)
            promised = self._promises.of(partition, config.n)
            terms.append(promised.term)
            position = max(position, promised.position)
            if self._must_say_so(promised, partition, config.n, (request.bucket_id, key), record):
                heads.append(index)
        return f.HeadsRead(records, terms, heads, unreadable), position

    def _read_head(self, request: f.ReadHeads, n: int) -> Answer:
        """As ``_read_heads``, of one key, the usual case: a process that was just woken pays for every call."""
        (place,) = self._replica.storage_keys(request.bucket_id, request.keys)
        partition = storage_partition(place)
        promised = self._promises.of(partition, n)
        try:
            found = self._engine.get(place)
        except CorruptData:
            return f.HeadsRead([None], [promised.term], [], [0]), promised.position
        if found is None:
            return f.HeadsRead([None], [promised.term]), promised.position
        says_so = self._must_say_so(promised, partition, n, (request.bucket_id, request.keys[0]), found.record)
        position = max(found.position, promised.position)
        return f.HeadsRead([found.record], [promised.term], [0] if says_so else []), position

    def _must_say_so(
        self, promised: Promised, partition: int, n: int, name: tuple[int, bytes], record: bytes | None
    ) -> bool:
        """Whether to say "my head": this node leads, and the term of the record does not show that it is the last (L8)."""
        if promised.leader != self._node_id or record is None or linear.term_of(record) == promised.term:
            return False
        return self.is_head(partition, n, name, record)

    def _check_place(self, partition: int, bucket_id: int, keys: list[bytes]) -> None:
        if any(self._replica.partition_of(bucket_id, key) != partition for key in keys):
            raise _strange(partition)


def _strange(partition: int) -> CorruptData:
    return CorruptData(f"a leader named a key that is not in partition {partition}")
