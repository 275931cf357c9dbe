"""A node's own records, for background work: trees over them, and records out and in.

No record leaves before the log holds it (P3), as with answers to clients. Anything that walks over many records pauses
every few dozen of them (``throttle``), so that clients do not wait for a tree.

A tree is cached for a while: it stays as good as a new one while nothing changes in its partition, and several owners
ask for it one after the other.
"""

from __future__ import annotations

import logging
from itertools import islice, starmap
from typing import TYPE_CHECKING, NamedTuple

from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.records.keys import STORAGE_PREFIX_BYTES, is_key, storage_bucket, storage_prefix
from raykv.records.kinds import check, public
from raykv.repair.merkle import Entry, Tree, depth_for, digest
from raykv.storage import CHANGES_PREFIX_BYTES
from raykv.versions import dead_since_ms, time_to_ms

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from raykv.ports import Clock
    from raykv.repair.throttle import Throttle
    from raykv.replica.handlers import Replica
    from raykv.storage import Engine

logger = logging.getLogger("raykv.node")

REST_EVERY = 24
"""Records between two pauses: some tenths of a millisecond of work."""
KEEP_TREE_S = 20.0
MAX_TREE_RECORDS = 200_000
"""The most records under all cached trees together, with what else they take (``Tree.weight``); one alone may be larger."""
TREE_WEIGHT = 20
"""The records that a tree itself counts as: the trees of short-lived buckets are many, and empty."""
OVERLOADED_WAIT_S = 0.1


class _Kept(NamedTuple):
    made_s: float
    changes: tuple[int, int]
    """The partition's change counters before the first record was read."""
    tree: Tree


class LocalCopy:
    """See the module. ``durable(position)`` waits until the log is durable up to that position."""

    def __init__(
        self,
        engine: Engine,
        replica: Replica,
        partitions: int,
        clock: Clock,
        throttle: Throttle,
        durable: Callable[[int], Awaitable[None]],
    ) -> None:
        self._engine = engine
        self._replica = replica
        self._partitions = partitions
        self._clock = clock
        self._throttle = throttle
        self._durable = durable
        self.taken = 0
        """The records that this run got from others."""
        self._trees: dict[tuple[int, tuple[int, ...], bool], _Kept] = {}
        self._tombstones: dict[tuple[int, int], int] = {}
        """(Partition, bucket id) -> the records without a live value, by the last look for what may be forgotten."""

    def tombstones(self) -> list[list[int]]:
        """Return for each bucket id the number of records without a live value, in the partitions looked through here."""
        total: dict[int, int] = {}
        for place in [place for place in self._tombstones if self._replica.config_of(place[1]) is None]:
            del self._tombstones[place]  # its bucket was dropped
        for (_, bucket_id), count in self._tombstones.items():
            total[bucket_id] = total.get(bucket_id, 0) + count
        return [[bucket_id, total[bucket_id]] for bucket_id in sorted(total)]

    @property
    def grace_ms(self) -> float:
        """How long what is dead is remembered."""
        return self._replica.grace_ms

    def complete(self, partition: int) -> bool:
        """Whether this node has all that it acknowledged in the partition (P1)."""
        return self._replica.complete_for(partition)

    async def promise(self, partition: int, items: Sequence[tuple[int, bytes, str]]) -> None:
        """Promise these (n, term, leader), as far as they are above what is promised, and wait until that is durable."""
        position = 0
        for n, term, leader in items:
            position = max(position, self._replica.promises.keep(partition, n, term, leader).position)
        await self._durable(position)

    async def tree(
        self, partition: int, buckets: Sequence[int], depth: int | None = None, *, anew: bool, own: bool = False
    ) -> Tree:
        """Return a tree over the partition's records in these buckets; without ``anew`` one of some seconds ago will do.

        ``depth``: None for one that suits the number of records. Corrupt ranges are left out. ``own``: this node keeps
        the tree to itself, so it includes what corruption may have uncovered: what is the same elsewhere need not be
        fetched again.
        """
        # Corruption of unknown keys may have uncovered what all have forgotten: no other node sees it.
        hidden = not own and any(damage.start is None for damage in self._engine.damaged)
        place = (partition, tuple(buckets), hidden)
        kept = self._trees.pop(place, None)
        now_s, changes = self._clock.monotonic_s(), self._changes(partition)
        same = kept is not None and kept.changes == changes and not hidden  # what to hide depends on the time
        if kept is None or not (same or (not anew and now_s - kept.made_s <= KEEP_TREE_S)):
            entries = await self._entries(partition, buckets, hidden=hidden)
            kept = _Kept(now_s, changes, Tree(entries, depth_for(len(entries)) if depth is None else depth))
        elif depth is not None:
            kept = kept._replace(tree=kept.tree.deeper(depth))
        self._trees[place] = kept
        while len(self._trees) > 1 and sum(starmap(_weight, self._trees.items())) > MAX_TREE_RECORDS:
            del self._trees[next(iter(self._trees))]
        return kept.tree

    def _changes(self, partition: int) -> tuple[int, int]:
        return self._engine.changes(_bounds(partition)[0][:CHANGES_PREFIX_BYTES])

    async def _entries(self, partition: int, buckets: Sequence[int], *, hidden: bool) -> list[Entry]:
        entries: list[Entry] = []
        strays: list[bytes] = []
        before_ms = self._clock.wall_ms() - self._replica.grace_ms if hidden else 0.0
        since_s = self._clock.monotonic_s()
        for bucket_id in buckets:
            prefix = storage_prefix(partition, bucket_id)
            end = storage_prefix(partition, bucket_id + 1)
            for count, (key, found) in enumerate(self._engine.scan(prefix, end, around_damage=True), start=1):
                encoded = key[STORAGE_PREFIX_BYTES:]
                if not is_key(encoded):
                    strays.append(key)
                elif not (hidden and _before(found.record, before_ms)):
                    entries.append((bucket_id, encoded, digest(bucket_id, encoded, public(found.record))))
                if count % REST_EVERY == 0:
                    since_s = await self._throttle.rest(since_s)
            since_s = await self._throttle.rest(since_s)  # there may be thousands of buckets, with a few records each
        self._erase_strays(strays)
        return entries

    def _erase_strays(self, places: list[bytes]) -> None:
        """Delete records whose key is invalid: an earlier version accepted them, and no client can name them."""
        for place in places:
            logger.error("a record under %r, which is no key, is deleted", place[STORAGE_PREFIX_BYTES:])
            self._engine.erase(place)

    async def uncovered(self, partition: int, buckets: Sequence[int], before_ms: float) -> list[Entry]:
        """Return the records from before ``before_ms`` over which corruption may have taken something newer (P10).

        For example, both a deletion and the fact that it was forgotten: a value that all owners agreed to forget is then
        uncovered.
        """
        found: dict[tuple[int, bytes], Entry] = {}
        since_s = self._clock.monotonic_s()
        for damage in self._engine.damaged:
            for bucket_id in buckets:
                low, high = storage_prefix(partition, bucket_id), storage_prefix(partition, bucket_id + 1)
                if damage.start is not None:
                    low, high = max(low, damage.start), high if damage.end is None else min(high, damage.end)
                for count, (place, kept) in enumerate(self._engine.scan_what_is_left(low, high), start=1):
                    key = place[STORAGE_PREFIX_BYTES:]
                    if is_key(key) and _before(kept.record, before_ms):
                        found[bucket_id, key] = (bucket_id, key, digest(bucket_id, key, public(kept.record)))
                    if count % REST_EVERY == 0:
                        since_s = await self._throttle.rest(since_s)
                since_s = await self._throttle.rest(since_s)
        return [*found.values()]

    async def forget(self, entries: Sequence[Entry]) -> None:
        """Forget these records where they are unchanged, and wait until that is durable."""
        position = 0
        for bucket_id, key, value in entries:
            place = self._place(bucket_id, key)
            for _, kept in self._engine.scan_what_is_left(place, place + b"\x00"):
                if digest(bucket_id, key, public(kept.record)) == value:
                    position = max(position, self._engine.erase(place))
        await self._durable(position)

    async def dead(self, partition: int, buckets: Sequence[int], before_ms: float) -> list[Entry]:
        """Return the records in which nothing has lived since ``before_ms`` (wall clock); corrupt ranges are left out.

        It erases what lies under invalid keys: where there is no other owner, no tree does.
        """
        found: list[Entry] = []
        strays: list[bytes] = []
        since_s, now_ms = self._clock.monotonic_s(), self._clock.wall_ms()
        for bucket_id in buckets:
            low, high = storage_prefix(partition, bucket_id), storage_prefix(partition, bucket_id + 1)
            dead = 0
            for count, (place, kept) in enumerate(self._engine.scan(low, high, around_damage=True), start=1):
                since_ms = dead_since_ms(kept.record)
                key = place[STORAGE_PREFIX_BYTES:]
                dead += since_ms is not None and since_ms <= now_ms
                if not is_key(key):
                    strays.append(place)
                elif since_ms is not None and since_ms < before_ms:
                    found.append((bucket_id, key, digest(bucket_id, key, public(kept.record))))
                if count % REST_EVERY == 0:
                    since_s = await self._throttle.rest(since_s)
            since_s = await self._throttle.rest(since_s)
            self._tombstones.pop((partition, bucket_id), None)
            if dead:
                self._tombstones[partition, bucket_id] = dead
        self._erase_strays(strays)
        return found

    async def clear(self, partitions: Sequence[int] | None = None) -> int:
        """Drop what this node holds and does not own by the present state; return the number of records.

        Of these partitions (None: of all); ``CorruptData`` for one that cannot exist. Durable when it returns. It goes
        bucket by bucket: of a bucket with fewer copies a node may own less than its place in the ring says.
        """
        position = count = 0
        since_s = self._clock.monotonic_s()
        for partition in range(self._partitions) if partitions is None else partitions:
            for bucket_id in self._buckets_here(partition):
                low, high = storage_prefix(partition, bucket_id), storage_prefix(partition, bucket_id + 1)
                while not self._replica.holds(partition, bucket_id):
                    self._tombstones.pop((partition, bucket_id), None)
                    places = [place for place, _ in islice(self._engine.scan_what_is_left(low, high), REST_EVERY)]
                    for place in places:
                        position = max(position, self._engine.erase(place))
                    count += len(places)
                    if len(places) < REST_EVERY:
                        break
                    low = places[-1] + b"\x00"
                    since_s = await self._throttle.rest(since_s)
            since_s = await self._throttle.rest(since_s)
        await self._durable(position)
        return count

    def _buckets_here(self, partition: int) -> list[int]:
        """Return the ids of the buckets that have anything here in a partition."""
        found: list[int] = []
        low, high = _bounds(partition)
        while (first := next(iter(self._engine.scan_what_is_left(low, high)), None)) is not None:
            found.append(storage_bucket(first[0]))
            low = storage_prefix(partition, found[-1] + 1)
        return found

    def held(self, bucket_id: int, keys: Sequence[bytes]) -> tuple[f.ReadDone, int]:
        """Return the record of each key as sent to others, and the log position that they depend on."""
        founds, unreadable = self._engine.get_many([self._place(bucket_id, key) for key in keys])
        records = [None if found is None else public(found.record) for found in founds]
        return f.ReadDone(records, unreadable), max([0, *[found.position for found in founds if found is not None]])

    async def all_durable(self) -> None:
        """Wait until everything here is durable.

        A tree also covers what another owner sent a moment ago, and a comparison that finds nothing missing relies on it.
        """
        await self._durable(self._engine.appended_position)

    async def read(self, bucket_id: int, keys: Sequence[bytes]) -> f.ReadDone:
        """Return the record of each key, once the log holds it."""
        records: list[bytes | None] = []
        unreadable: list[int] = []
        position, since_s = 0, self._clock.monotonic_s()
        for at in range(0, len(keys), REST_EVERY):
            done, there = self.held(bucket_id, keys[at : at + REST_EVERY])
            records += done.records
            unreadable += [at + index for index in done.unreadable]
            position = max(position, there)
            since_s = await self._throttle.rest(since_s)
        await self._durable(position)
        return f.ReadDone(records, unreadable)

    async def fetch(self, bucket_id: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the record of each key, once the log holds it; None also for an unreadable one."""
        return (await self.read(bucket_id, keys)).records

    def partition_of(self, bucket_id: int, key: bytes) -> int:
        """Return the partition of an encoded key of a bucket."""
        return self._replica.partition_of(bucket_id, key)

    def owns(self, bucket_id: int, key: bytes) -> bool:
        """Return whether this node owns an encoded key of a bucket, by the latest state that it knows."""
        return self._replica.holds(self.partition_of(bucket_id, key), bucket_id)

    async def write(self, bucket_id: int, items: list[tuple[bytes, bytes]], made_ms: int) -> bool:
        """Merge records in, and wait until they are durable. False if the node refuses some of them.

        Malformed records are skipped. ``made_ms``: when they were requested (see ``frames.Write``).
        """
        position, taken, since_s = 0, True, self._clock.monotonic_s()
        for at in range(0, len(items), REST_EVERY):
            some = items[at : at + REST_EVERY]
            if not self.owns(bucket_id, some[0][0]):
                taken = False  # the move was postponed meanwhile, and what is here of it dropped
                break
            answer, there = self._replica.handle(f.Write(bucket_id, some, made_ms, stored=True))
            while isinstance(answer, f.NodeRefused) and answer.reason == "overloaded":
                await self._clock.sleep(OVERLOADED_WAIT_S)
                answer, there = self._replica.handle(f.Write(bucket_id, some, made_ms, stored=True))
            self.taken += len(some)
            if isinstance(answer, f.NodeRefused) and answer.reason == "corrupt" and len(some) == 1:
                logger.error("what another owner holds under %r is no record: %s", some[0][0], answer.message)
            elif isinstance(answer, f.NodeRefused) and answer.reason == "corrupt":
                each = [await self.write(bucket_id, [item], made_ms) for item in some]
                taken = taken and all(each)
            else:
                taken = taken and isinstance(answer, f.WriteDone) and f.NO_ROOM not in answer.newer
                position = max(position, there)
            since_s = await self._throttle.rest(since_s)
        await self._durable(position)
        return taken

    def erase(self, bucket_id: int, key: bytes, value: int, before_ms: float) -> bool:
        """Forget the record if it is still the one with that digest. False if it is another, or lived after that time."""
        place = self._place(bucket_id, key)
        try:
            found = self._engine.get(place)
        except CorruptData:
            return False
        if found is None:
            return True
        if digest(bucket_id, key, public(found.record)) != value:
            return False
        since_ms = dead_since_ms(found.record)
        if since_ms is None or since_ms > before_ms:
            return False
        self._engine.erase(place)
        place_of = self.partition_of(bucket_id, key), bucket_id
        if self._tombstones.get(place_of):
            self._tombstones[place_of] -= 1
        return True

    def _place(self, bucket_id: int, key: bytes) -> bytes:
        return storage_prefix(self.partition_of(bucket_id, key), bucket_id) + key


def _before(record: bytes, before_ms: float) -> bool:
    """Whether all that a record holds was written before that time."""
    return time_to_ms(check(public(record))) < before_ms


def _weight(place: tuple[int, tuple[int, ...], bool], kept: _Kept) -> int:
    return kept.tree.weight + len(place[1]) // 4 + TREE_WEIGHT


def _bounds(partition: int) -> tuple[bytes, bytes]:
    return storage_prefix(partition, 0), storage_prefix(partition + 1, 0)
