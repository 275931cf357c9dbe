"""A node's answers: plain functions over its storage engine.

A handler runs to its end, so none sees another's half-done work. It returns the answer and the log position that the
answer depends on; the shell (``node``) releases the answer once the log is durable up to there (P3). That holds for
reads too: a value that a power loss could still take must not be seen, or a read repair would spread a write that
its own node then forgets.

A node that may lack something it acknowledged is *incomplete* (P1): it takes writes, but answers reads with
``Incomplete``. "Absent" from it would be a lie: with v acknowledged by A and B, and A wiped and recreated, a read of
{A, C} would find nothing.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from raykv.cluster.acceptor import Acceptor
from raykv.cluster.state import decode_state
from raykv.errors import CorruptData, InvalidKey
from raykv.protocol import frames as f
from raykv.protocol.requests import NODE, handled
from raykv.records import vector_record as vector
from raykv.records.keys import (
    check_keys,
    is_key,
    storage_partition,
    storage_prefix,
)
from raykv.records.kinds import OWNED, check, is_linear, is_vector, public
from raykv.records.linear_record import is_restored
from raykv.records.record import stamp_of, time_of
from raykv.replica.dot_allocator import DotAllocator
from raykv.replica.groups import GroupSizes
from raykv.replica.hints import HintsFull
from raykv.replica.promises import Promises
from raykv.replica.scanning import Scanner
from raykv.replica.voting import Voter
from raykv.ring import partition_in, partitions_in
from raykv.versions import (
    ClockTooFarAhead,
    TooManyVersions,
    check_not_ahead,
    dead_since_ms,
    dvvset,
    merge,
    merge_bounded,
)
from raykv.versions.causality import NOTHING_SEEN, pack_causality

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import Callable, Sequence

    from raykv.cluster.state import ClusterState
    from raykv.config import BucketConfig, StoreConfig
    from raykv.records.vector_record import VersionSet
    from raykv.replica.hints import HintStore
    from raykv.storage import Damage, Engine, NodeDirectory
    from raykv.storage.memtable import Found

logger = logging.getLogger("raykv.replica")

MAX_READ_BYTES = 16 << 20
LOOK_UP = 32
"""Records that are looked up between two checks of the answer's size."""
MAX_PREFIXES = 1 << 16
"""Storage prefixes kept ready, over all buckets."""
_SLACK_MS = 1000

Answer = tuple[f.NodeAnswerBody, int]


class Replica:
    """One node's handlers. Shares the engine with the shell, which does the waiting and the long disk work."""

    def __init__(
        self,
        engine: Engine,
        directory: NodeDirectory,
        store: StoreConfig,
        hints: HintStore,
        wall_ms: Callable[[], int],
        random: random_module.Random,
        scan_cache_bytes: int,
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._partitions = store.partitions
        self.grace_ms = store.gc_grace_s * 1000
        self._max_age_ms = round(self.grace_ms / 2)
        self.scanner = Scanner(engine, scan_cache_bytes)
        self.groups = GroupSizes(engine, self.config_of)
        self._hints = hints
        self.wall_ms = wall_ms
        """Milliseconds since 1970 by this host's clock."""
        self.known: tuple[ClusterState, bytes] | None = None
        """The latest decided state that this node received, and its bytes."""
        self._changed: dict[int, int] = {}
        """Partition -> the epoch since which it has its present owners, as far as this run knows; else ``_since``."""
        self._since = 0
        self._buckets: dict[int, BucketConfig] = {}
        """The existing buckets, by id."""
        self._prefixes: dict[int, list[bytes]] = {}
        """Bucket id -> for each partition, the prefix of its keys in the storage."""
        self.no_room = ""
        """Why writes are refused: the node's disk is full. Empty if it is not."""
        self.why_behind = ""
        """Why flushes or compactions fail; empty if they do not."""
        self.room_for_deletes = True
        """Whether enough space is left to accept deletes even so: nothing else makes room."""
        self.times_incomplete = 0
        """How often this run found that the node lacks what it acknowledged."""
        self.times_restored = 0
        """How often this run took records under which a term may have begun that knew nothing of them."""
        self.end_terms: Callable[[int], None] = lambda _: None
        """``end_terms(partition)``: see ``raykv.replica.leader``."""
        self._dot_allocator = DotAllocator(random)
        self._acceptor = Acceptor(directory)
        self.promises = Promises(engine)
        self.voter = Voter(self, engine, self.promises, directory.identity.node_id, self._max_age_ms)
        self.handlers: dict[type[f.Message], Callable[[Any], Answer]] = dict(
            (
                handled(f.Read, self._read),
                handled(f.ReserveDots, self._reserve),
                handled(f.Write, self._write),
                handled(f.Hint, self._hint),
                handled(f.Scan, self._scan),
                handled(f.ReadState, lambda _: (self._acceptor.read(), 0)),
                handled(f.PrepareState, lambda request: (self._acceptor.prepare(request), 0)),
                handled(f.AcceptState, self._accept),
            )
        )
        """The requests answered here."""
        self.handlers |= self.voter.handlers
        self._note_damage()

    def handle(self, body: f.NodeRequestBody) -> Answer:
        """Answer one request. Never raises for what a peer sent or the disk holds; that comes back as an answer."""
        try:
            return self.handlers[type(body)](body)
        except CorruptData as error:
            self._note_damage()
            return f.NodeRefused("corrupt", str(error)), 0
        except InvalidKey as error:
            return f.NodeRefused("corrupt", str(error)), 0
        except ClockTooFarAhead as error:
            return f.NodeRefused("clock", str(error)), 0

    @property
    def state(self) -> ClusterState | None:
        """The latest decided state that this node received."""
        return self.known[0] if self.known is not None else None

    def outdated(self, epoch: int, body: f.NodeRequestBody) -> f.NodeAnswerBody | None:
        """Return the answer to a request addressed by a state other than the present one (P4), else None.

        A node that is behind must not answer, nor one without a vote: it has forgotten what it knew, and would believe a
        coordinator that has not heard of the change either.
        """
        if not self._acceptor.votes:
            return f.NodeRefused("not yet", "this node has lost its memory, and waits for the supervisor")
        if self.known is None or epoch > self.known[0].epoch:
            return f.NodeRefused("behind", f"this node does not know epoch {epoch} yet")
        state, data = self.known
        if epoch < state.epoch and any(self._changed.get(at, self._since) > epoch for at in self._concerned(body)):
            return f.NotOwner(data)
        bucket = NODE[type(body)].bucket
        if bucket is not None and bucket(body) not in self._buckets and state.dropped(bucket(body)):
            return f.NotOwner(data)  # an embedded coordinator may not have heard of it
        return None

    def _concerned(self, body: f.NodeRequestBody) -> set[int]:
        """Return the partitions that a request is about."""
        concerns = NODE[type(body)].concerns
        if concerns.everything:
            return {*range(self._partitions)}
        return {
            *concerns.named(body),
            *(self.partition_of(bucket_id, key) for bucket_id, key in concerns.keys_in_buckets(body)),
        }

    def partition_of(self, bucket_id: int, key: bytes) -> int:
        """Return the partition of an encoded key of a bucket. O(len(key))."""
        return partition_in(self._buckets.get(bucket_id), key, self._partitions)

    def holds(self, partition: int, bucket_id: int) -> bool:
        """Whether this node holds a bucket's records in a partition, by the latest state. Unknown buckets: it does."""
        state, node_id = self.state, self._directory.identity.node_id
        if state is None:
            return True
        entry = next((entry for entry in state.buckets if entry.bucket_id == bucket_id), None)
        return entry is None or node_id in state.holders(partition, entry.config.n)

    def _accept(self, request: f.AcceptState) -> Answer:
        answer = self._acceptor.accept(request)
        if answer.granted and request.decided:
            self._learn(request.state)
        return answer, 0

    @property
    def votes(self) -> bool:
        """Whether this node has its register: what it knows of the cluster is what a majority knows (P5)."""
        return self._acceptor.votes

    @property
    def ballot(self) -> tuple[int, int]:
        """Number of the latest decided state that this node received; (0, 0) as long as it has no vote."""
        return (0, 0) if self.state is None or not self._acceptor.votes else self.state.ballot

    @property
    def complete(self) -> bool:
        """Whether this node may answer reads."""
        return self._directory.identity.complete

    def complete_for(self, partition: int) -> bool:
        """Whether this node has all that it acknowledged and promised in a partition (P1, L3)."""
        if not self._engine.damaged:
            return self.complete
        start, end = storage_prefix(partition, 0), storage_prefix(partition + 1, 0)
        return self.complete and not self._engine.damaged_in(start, end) and self.promises.intact

    @property
    def directory_id(self) -> int:
        """The id of the directory: drawn when it was made, gone with it."""
        return self._directory.directory_id

    def config_of(self, bucket_id: int) -> BucketConfig | None:
        """Return the policy of a bucket; None if this node knows of none of that id."""
        return self._buckets.get(bucket_id)

    def mark_incomplete(self, *, stale: bool = False) -> None:
        """Be incomplete from now on: this directory lacks something that the node acknowledged (P1).

        ``stale``: and what it holds must not be trusted either.
        """
        try:
            self._directory.mark_incomplete(stale=stale)
        finally:  # a full disk too: see there
            self._acceptor.forget()
            self.times_incomplete += 1

    def mark_complete(self, damages: Sequence[Damage]) -> None:
        """Answer reads again: the peers have given back all that this node, or these damaged ranges, may lack (P1)."""
        for damage in damages:
            if damage in self._engine.damaged:
                self._engine.heal(damage)
        if all(damage.start is not None for damage in self._engine.damaged):
            self._directory.set_complete(True)

    def storage_place(self, partition: int, bucket_id: int, key: bytes) -> bytes:
        """Return a key as stored, for a caller that knows its partition. Raises ``InvalidKey``, ``CorruptData``."""
        check_keys([key])
        prefixes = self._prefixes.get(bucket_id)
        return (storage_prefix(partition, bucket_id) if prefixes is None else prefixes[partition]) + key

    def storage_keys(self, bucket_id: int, keys: Sequence[bytes]) -> list[bytes]:
        """Return the keys as stored. Raises ``InvalidKey``, ``CorruptData`` if there is no such bucket."""
        partitions, prefixes = self._partitions, self._prefixes.get(bucket_id)
        if prefixes is None and bucket_id in self._buckets and len(self._prefixes) * partitions < MAX_PREFIXES:
            prefixes = [storage_prefix(partition, bucket_id) for partition in range(partitions)]
            self._prefixes[bucket_id] = prefixes
        if prefixes is not None and len(keys) == 1 and is_key(keys[0]):  # the usual case, where each call counts
            return [prefixes[partition_in(self._buckets[bucket_id], keys[0], partitions)] + keys[0]]
        check_keys(keys)
        places = partitions_in(self._buckets.get(bucket_id), keys, partitions)
        if prefixes is None:
            return [storage_prefix(partition, bucket_id) + key for partition, key in zip(places, keys, strict=True)]
        return [prefixes[partition] + key for partition, key in zip(places, keys, strict=True)]

    def _read(self, request: f.Read) -> Answer:
        if not self.complete:
            return self.incomplete()
        if len(request.keys) == 1 and not request.hints:
            return self._read_one(request)
        records: list[bytes | None] = []
        unreadable: list[int] = []
        size_bytes = position = 0
        keys = self.storage_keys(request.bucket_id, request.keys)
        for at in range(0, len(keys), LOOK_UP):
            founds, corrupt = self._engine.get_many(keys[at : at + LOOK_UP])
            unreadable += [at + index for index in corrupt]
            if request.hints:
                self._leave_out_strangers(request, at, founds)
            some = [
                None if found is None else found.record if found.record[:2] != OWNED else public(found.record)
                for found in founds
            ]
            position = max([position, *[found.position for found in founds if found is not None]])
            if request.hints:
                for index, record in enumerate(some):
                    some[index], position = self._with_hints(
                        request.bucket_id, request.keys[at + index], record, position
                    )
            records += some
            size_bytes += sum([len(record) for record in some if record is not None])
            if size_bytes > MAX_READ_BYTES:
                return _cut(records, unreadable, len(keys)), position
        if unreadable:
            self._note_damage()
        return f.ReadDone(records, unreadable), position

    def _read_one(self, request: f.Read) -> Answer:
        """As ``_read``, of one key, the usual case: a process that was just woken pays for every call."""
        (key,) = self.storage_keys(request.bucket_id, request.keys)
        try:
            found = self._engine.get(key)
        except CorruptData:
            self._note_damage()
            return f.ReadDone([None], [0]), 0
        record = None if found is None else public(found.record)
        return f.ReadDone([record]), 0 if found is None else found.position

    def _leave_out_strangers(self, request: f.Read, at: int, founds: list[Found | None]) -> None:
        """Remove records that this node no longer owns: a delete above them may have been forgotten."""
        for index, key in enumerate(request.keys[at : at + len(founds)]):
            if not self.holds(self.partition_of(request.bucket_id, key), request.bucket_id):
                founds[index] = None

    def _reserve(self, request: f.ReserveDots) -> Answer:
        """Show the stored record of each key, and give a dot where one is wanted. An incomplete node stamps nothing (P1)."""
        if not self.complete:
            return self.incomplete()
        if self._engine.overloaded:
            return self.overloaded()
        items: list[f.Reserved | None] = []
        position = 0
        storage_keys = self.storage_keys(request.bucket_id, request.keys)
        for key, storage_key, operation_id in zip(request.keys, storage_keys, request.operation_ids, strict=True):
            try:
                found = self._engine.get(storage_key)
            except CorruptData:
                items.append(None)
                continue
            if request.hints and not self.holds(self.partition_of(request.bucket_id, key), request.bucket_id):
                found = None
            record = None if found is None else found.record
            if found is not None and found.position > position:
                position = found.position
            if request.hints:
                record, position = self._with_hints(request.bucket_id, key, record, position)
            versions = dvvset.EMPTY if record is None else vector.decode(record)
            actor, counter = b"", 0
            if operation_id:
                actor, counter = self._dot_allocator.reserve(storage_key, record, operation_id, versions.seen)
            seen = NOTHING_SEEN if record is None else pack_causality(dvvset.join(versions))
            items.append(f.Reserved(actor, counter, seen, dvvset.size(versions), len(record or b"")))
        if None in items:
            self._note_damage()
        return f.DotsReserved(items), position

    def _with_hints(self, bucket_id: int, key: bytes, record: bytes | None, position: int) -> tuple[bytes | None, int]:
        """Return the stored record of a key merged with the hints for it."""
        hinted, at = self._hints.of(bucket_id, key)
        return (record if hinted is None else merge(record, hinted)), max(position, at)

    def _write(self, request: f.Write) -> Answer:
        if self._engine.overloaded:
            return self.overloaded()
        now_ms = self.wall_ms()
        if request.made_ms and now_ms - request.made_ms > self._max_age_ms:
            return self.old(now_ms - request.made_ms)
        if self.no_room and not (self.room_for_deletes and _all_dead([record for _, record in request.items], now_ms)):
            return f.NodeRefused("overloaded", self.no_room), 0
        latest_ms = None if request.stored else now_ms
        checked = [_check(record, latest_ms) for _, record in request.items]  # all of them before the first is kept
        keys = self.storage_keys(request.bucket_id, [key for key, _ in request.items])
        newer: list[int] = []
        position = 0
        if checked.count(None) == len(checked):
            return self._write_newest(keys, [record for _, record in request.items])
        for key, (_, record), versions in zip(keys, request.items, checked, strict=True):
            if versions is not None:
                signed = self._dot_allocator.sign(key, record)
                try:
                    kept = self._engine.update(key, signed, partial(merge_bounded, taken=versions))
                except TooManyVersions:
                    newer.append(f.NO_ROOM)
                    continue
                self._dot_allocator.kept(key, kept.record, versions.seen if kept.record is signed else None)
                newer.append(0)
            else:
                kept = self._engine.update(key, record)
                newer.append(_newer(kept.record, record))
            position = max(position, kept.position)
        return f.WriteDone(newer), position

    def _write_newest(self, keys: list[bytes], records: list[bytes]) -> Answer:
        """Keep records of which only the newest stands: no dots, no siblings."""
        kept = self._engine.update_many(keys, records)
        for partition in {
            storage_partition(key) for key, record in zip(keys, records, strict=True) if is_restored(record)
        }:
            self.times_restored += 1
            self.end_terms(partition)
        newer = [_newer(found.record, record) for found, record in zip(kept, records, strict=True)]
        return f.WriteDone(newer), max([0, *[found.position for found in kept]])

    def _hint(self, request: f.Hint) -> Answer:
        """Keep writes for nodes that missed them (P11)."""
        if self._engine.overloaded:
            return self.overloaded()
        if self.no_room:
            return f.NodeRefused("overloaded", self.no_room), 0
        now_ms = self.wall_ms()
        if now_ms - request.made_ms > self._max_age_ms:
            return self.old(now_ms - request.made_ms)
        self.storage_keys(request.bucket_id, [key for key, _, _ in request.items])
        for _, record, _ in request.items:
            if record:
                _check(record, now_ms)
        newer: list[int] = []
        position = 0
        for key, record, targets in request.items:
            held = 0
            for target in targets:
                try:
                    time, at = self._hints.keep(
                        target, request.bucket_id, key, record, request.made_ms, counted=request.counted
                    )
                except HintsFull:
                    held = f.FULL
                except TooManyVersions:
                    held = f.NO_ROOM
                else:
                    held, position = held or time, max(position, at)
            newer.append(held)
        return f.WriteDone(newer), position

    @staticmethod
    def old(age_ms: int) -> Answer:
        """Return the answer to what was made too long ago (P10)."""
        return f.NodeRefused("old", f"it was made {age_ms // 1000} s ago: what deletes it may be forgotten by now"), 0

    def _scan(self, request: f.Scan) -> Answer:
        if not self.complete:
            return self.incomplete()
        return self.scanner.scan(request)

    def overloaded(self) -> Answer:
        """Return the answer of a node whose disk is behind."""
        why = f": {self.why_behind}" if self.why_behind else ""
        return f.NodeRefused("overloaded", f"the node's unflushed writes have reached their bound{why}"), 0

    def incomplete(self) -> Answer:
        """Return the answer of a node that may lack something (P1)."""
        return f.Incomplete("this node may lack writes that it acknowledged, until its peers have restored it"), 0

    def _note_damage(self) -> None:
        """Corruption of known keys makes those keys unreadable here; of unknown keys, the whole node."""
        unknown = next((damage for damage in self._engine.damaged if damage.start is None), None)
        if unknown is not None and self.complete:
            self._directory.set_complete(False)
            logger.error("node %s is incomplete from now on: %s", self._directory.identity.node_id, unknown)

    def learn(self, data: bytes) -> None:
        """Take a decided state that another node knows, as if the supervisor had sent it."""
        state = decode_state(data)
        self._accept(f.AcceptState(state.generation, state.version, data, decided=True))

    def _learn(self, data: bytes) -> None:
        """Act on a decided state only, since any other may yet be undone. Compactions drop the data of dropped buckets."""
        state, before = decode_state(data), self.state
        if before is not None and before.ballot >= state.ballot:
            return
        self.known = (state, data)
        self._buckets = {entry.bucket_id: entry.config for entry in state.buckets}
        self._prefixes = {bucket_id: kept for bucket_id, kept in self._prefixes.items() if bucket_id in self._buckets}
        if before is None:
            self._since = state.epoch
        else:
            for partition in range(state.ring.partitions):
                if state.differs(before, partition):
                    self._changed[partition] = state.epoch
        self._engine.drop = state.dropped_buckets


def _cut(records: list[bytes | None], unreadable: list[int], wanted: int) -> f.ReadDone:
    """Return the answer with the first of these records, up to the one that reaches ``MAX_READ_BYTES``."""
    kept = size_bytes = 0
    while kept < len(records) and size_bytes <= MAX_READ_BYTES:
        size_bytes += len(records[kept] or b"")
        kept += 1
    nothing: list[bytes | None] = [None] * (wanted - kept)
    return f.ReadDone(records[:kept] + nothing, [at for at in unreadable if at < kept], [*range(kept, wanted)])


def _all_dead(records: Sequence[bytes], now_ms: int) -> bool:
    """Whether all of these are deletes, or have expired."""
    since = [dead_since_ms(record) for record in records]
    return all(at_ms is not None and at_ms <= now_ms + _SLACK_MS for at_ms in since)


def _newer(kept: bytes, record: bytes) -> int:
    """Return the time of a record that shadows this write, which then is no acknowledgement (P7); 0 if none does."""
    return 0 if stamp_of(kept) == stamp_of(record) else time_of(kept)


def _check(record: bytes, now_ms: int | None) -> VersionSet | None:
    """Return a vector record decoded, None for another. Raises ``CorruptData``, ``ClockTooFarAhead``.

    ``now_ms``: None for a copy of a stored record, of any time. *Schedule without: all clocks are two hours ahead, writes
    are acknowledged, and the clocks are set right. For two hours no node is given back what it lost of them, nor can their
    partition move: copies are refused.*
    """
    versions = vector.check(record) if is_vector(record) else None
    time = check(record) if versions is None else dvvset.newest_time(versions)
    if now_ms is not None and not is_linear(record):  # of those the time orders nothing, and a leader's clock may jump
        check_not_ahead(time, now_ms)
    return versions
