"""What a node answers: plain functions over its storage engine.

A handler runs to its end, so none sees another's half-done work. It returns the answer and the log position that the
answer depends on; the shell (``node``) lets the answer out once the log is durable up to there (P3). That holds for
reads too: a value that could still be lost with the power must not be seen, or a read repair would spread a write that
its own node then forgets.

A node that may lack something it acknowledged is *incomplete* (P1): it takes writes, but answers reads with
``Incomplete``. "Absent" from it would be a lie: of v acknowledged by A and B, with A wiped and recreated, a read of
{A, C} would find nothing.
"""

from __future__ import annotations

import heapq
import logging
from bisect import insort
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.cluster.state import decode_state
from raykv.errors import CorruptData, InvalidKey
from raykv.protocol import frames as f
from raykv.protocol.requests import NODE, handled
from raykv.records import vector_record as vector
from raykv.records.keys import (
    STORAGE_PREFIX_BYTES,
    check_keys,
    is_key,
    is_private,
    storage_bucket,
    storage_prefix,
)
from raykv.records.kinds import OWNED, check, header_of, is_vector, public
from raykv.records.limits import MAX_BALLOT_STEP
from raykv.records.record import stamp_of, time_of
from raykv.replica.dot_allocator import Stamper
from raykv.replica.hints import HintsFull
from raykv.ring import partition_of_key, partitions_of_keys
from raykv.versions import (
    ClockTooFarAhead,
    TooManyVersions,
    check_not_ahead,
    dead_since_ms,
    dvvset,
    merge,
    merge_bounded,
    shows_nothing,
)
from raykv.versions.causality import pack_causality

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import Callable, Iterator, Sequence

    from raykv.cluster.state import ClusterState
    from raykv.config import StoreConfig
    from raykv.records.vector_record import VersionSet
    from raykv.replica.hints import HintStore
    from raykv.storage import Damage, Engine, NodeDirectory
    from raykv.storage.memtable import Found

logger = logging.getLogger("raykv.replica")

MAX_SCAN_ITEMS = 2000
MAX_SCAN_BYTES = 1 << 20
MAX_READ_BYTES = 16 << 20
LOOK_UP = 32
"""So many records are looked up before it is asked whether the answer has room for them."""
MAX_PREFIXES = 1 << 16
"""So many are kept ready for all buckets together."""
PLENTY = 1000
"""Who passes what is dead and asks for so many is sent as many as may be, and looked at are the large ones only."""
PASSED_SINGLY = 64
"""After so many dead records more are expected, and a scan of all partitions is begun for the rest."""
BARE_BYTES = 256
"""Of a dead record above this only the header travels."""
FEW_A_PARTITION = 4
"""Fewer records of a partition, on average, are looked for one after the other; for more a scan of it is begun. To begin one
took as long as some six looks (60 us and 8-10, each partition)."""
_SLACK_MS = 1000
_KEY = itemgetter(0)

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
    ) -> None:
        self._engine = engine
        self._directory = directory
        self._partitions = store.partitions
        self.grace_ms = store.grace_s * 1000
        self._max_age_ms = round(self.grace_ms / 2)
        self.scan_bytes = MAX_SCAN_BYTES
        """An answer to a scan ends behind the record with which it has so many."""
        self._hints = hints
        self._wall_ms = wall_ms
        self.known: tuple[ClusterState, bytes] | None = None
        """The latest decided state that this node was told, and its bytes."""
        self._changed: dict[int, int] = {}
        """Partition -> the epoch since which its owners are what they are, as far as this run knows; else ``_since``."""
        self._since = 0
        self._buckets: set[int] = set()
        """The ids of those that there are."""
        self._prefixes: dict[int, list[bytes]] = {}
        """Bucket id -> for each partition, what stands before its keys in the storage."""
        self.no_room = ""
        """Why no write is taken: the node's disk is full. Empty if it is not."""
        self.room_for_deletes = True
        """Whether that much is left that what deletes is taken all the same: nothing else makes room."""
        self.distrusted = 0
        """How often it was found, in this run, that the node lacks what it acknowledged."""
        self._stamper = Stamper(random)
        self._register = _Register(directory)
        self.handlers: dict[type[f.Message], Callable[[Any], Answer]] = dict(
            (
                handled(f.Read, self._read),
                handled(f.Reserve, self._reserve),
                handled(f.Write, self._write),
                handled(f.Hint, self._hint),
                handled(f.Scan, self._scan),
                handled(f.ReadRegister, lambda _: (self._register.read(), 0)),
                handled(f.PromiseRegister, lambda request: (self._register.promise(request), 0)),
                handled(f.AcceptRegister, self._accept),
            )
        )
        """What is answered here."""
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
        """The latest decided state that this node was told."""
        return self.known[0] if self.known is not None else None

    def outdated(self, epoch: int, body: f.NodeRequestBody) -> f.NodeAnswerBody | None:
        """Return the answer to a request that was addressed by a state other than the present one (P4), else None.

        One that is behind must not answer, nor one that has no vote: it has forgotten what it knew, and would believe a
        coordinator that has not heard of anything either.
        """
        if not self._register.votes:
            return f.NodeRefused("not yet", "this node has lost its memory, and waits for the supervisor")
        if self.known is None or epoch > self.known[0].epoch:
            return f.NodeRefused("behind", f"this node does not know epoch {epoch} yet")
        state, data = self.known
        if epoch < state.epoch and any(self._changed.get(at, self._since) > epoch for at in self._concerned(body)):
            return f.Moved(data)
        bucket = NODE[type(body)].bucket
        if bucket is not None and bucket(body) not in self._buckets and state.dropped(bucket(body)):
            return f.Moved(data)  # a client that coordinates for itself may not have heard of it
        return None

    def _concerned(self, body: f.NodeRequestBody) -> set[int]:
        """Return the partitions that a request is about."""
        concerns = NODE[type(body)].concerns
        if concerns.everything:
            return {*range(self._partitions)}
        return {*concerns.named(body), *(partition_of_key(key, self._partitions) for key in concerns.keys(body))}

    def holds(self, partition: int, bucket_id: int) -> bool:
        """Whether this node is to hold a bucket's records in a partition, by the latest state. Unknown buckets: it is."""
        state, node_id = self.state, self._directory.identity.node_id
        if state is None:
            return True
        entry = next((entry for entry in state.buckets if entry.bucket_id == bucket_id), None)
        return entry is None or node_id in state.holders(partition, entry.config.n)

    def _accept(self, request: f.AcceptRegister) -> Answer:
        answer = self._register.accept(request)
        if answer.granted and request.decided:
            self._learn(request.state)
        return answer, 0

    @property
    def votes(self) -> bool:
        """Whether this node has its register: what it knows of the cluster is what a majority knows (P5)."""
        return self._register.votes

    @property
    def ballot(self) -> tuple[int, int]:
        """Number of the latest decided state that this node was told; (0, 0) for as long as it has no vote."""
        return (0, 0) if self.state is None or not self._register.votes else self.state.ballot

    @property
    def complete(self) -> bool:
        """Whether this node may answer reads."""
        return self._directory.identity.complete

    def distrust(self, *, stale: bool = False) -> None:
        """Be incomplete from now on: this directory lacks something that the node acknowledged (P1).

        ``stale``: and what it holds must not be believed either.
        """
        self._directory.distrust(stale=stale)
        self._register.forget()
        self.distrusted += 1

    def made_whole(self, damages: Sequence[Damage]) -> None:
        """Answer reads again: the peers have given back all that this node, or these damaged ranges, may lack (P1)."""
        for damage in damages:
            if damage in self._engine.damaged:
                self._engine.heal(damage)
        if all(damage.start is not None for damage in self._engine.damaged):
            self._directory.set_complete(True)

    def _storage_keys(self, bucket_id: int, keys: Sequence[bytes]) -> list[bytes]:
        """Return them as they stand in the storage. Raises ``InvalidKey``, ``CorruptData`` if there is no such bucket."""
        partitions, prefixes = self._partitions, self._prefixes.get(bucket_id)
        if prefixes is None and bucket_id in self._buckets and len(self._prefixes) * partitions < MAX_PREFIXES:
            prefixes = [storage_prefix(partition, bucket_id) for partition in range(partitions)]
            self._prefixes[bucket_id] = prefixes
        if prefixes is not None and len(keys) == 1 and is_key(keys[0]):  # as mostly, and each call more is felt
            return [prefixes[partition_of_key(keys[0], partitions)] + keys[0]]
        check_keys(keys)
        places = partitions_of_keys(keys, partitions)
        if prefixes is None:
            return [storage_prefix(partition, bucket_id) + key for partition, key in zip(places, keys, strict=True)]
        return [prefixes[partition] + key for partition, key in zip(places, keys, strict=True)]

    def _read(self, request: f.Read) -> Answer:
        if not self.complete:
            return self._incomplete()
        if len(request.keys) == 1 and not request.hints:
            return self._read_one(request)
        records: list[bytes | None] = []
        unreadable: list[int] = []
        size_bytes = position = 0
        keys = self._storage_keys(request.bucket_id, request.keys)
        for at in range(0, len(keys), LOOK_UP):
            founds, rotten = self._engine.get_many(keys[at : at + LOOK_UP])
            unreadable += [at + index for index in rotten]
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
        """As ``_read``, of one key, as most reads are: a process that was just woken pays for every call."""
        (key,) = self._storage_keys(request.bucket_id, request.keys)
        try:
            found = self._engine.get(key)
        except CorruptData:
            self._note_damage()
            return f.ReadDone([None], [0]), 0
        record = None if found is None else public(found.record)
        return f.ReadDone([record]), 0 if found is None else found.position

    def _leave_out_strangers(self, request: f.Read, at: int, founds: list[Found | None]) -> None:
        """Take out what this node is not to hold: of a time when it was an owner, and what deletes it may be forgotten."""
        for index, key in enumerate(request.keys[at : at + len(founds)]):
            if not self.holds(partition_of_key(key, self._partitions), request.bucket_id):
                founds[index] = None

    def _reserve(self, request: f.Reserve) -> Answer:
        """Show what is here of each key, and give a dot where one is wanted. An incomplete node stamps nothing (P1)."""
        if not self.complete:
            return self._incomplete()
        if self._engine.overloaded:
            return self._overloaded()
        items: list[f.Reserved | None] = []
        position = 0
        storage_keys = self._storage_keys(request.bucket_id, request.keys)
        for key, storage_key, operation_id in zip(request.keys, storage_keys, request.operation_ids, strict=True):
            try:
                found = self._engine.get(storage_key)
            except CorruptData:
                items.append(None)
                continue
            if request.hints and not self.holds(partition_of_key(key, self._partitions), request.bucket_id):
                found = None
            record = None if found is None else found.record
            position = position if found is None else max(position, found.position)
            if request.hints:
                record, position = self._with_hints(request.bucket_id, key, record, position)
            versions = dvvset.EMPTY if record is None else vector.decode(record)
            actor, counter = b"", 0
            if operation_id:
                actor, counter = self._stamper.reserve(storage_key, record, operation_id, versions.seen)
            seen = pack_causality(dvvset.join(versions))
            items.append(f.Reserved(actor, counter, seen, dvvset.size(versions), len(record or b"")))
        if None in items:
            self._note_damage()
        return f.ReserveDone(items), position

    def _with_hints(self, bucket_id: int, key: bytes, record: bytes | None, position: int) -> tuple[bytes | None, int]:
        """Return what is here of a key with what is kept of it for others."""
        hinted, at = self._hints.of(bucket_id, key)
        return (record if hinted is None else merge(record, hinted)), max(position, at)

    def _write(self, request: f.Write) -> Answer:
        if self._engine.overloaded:
            return self._overloaded()
        now_ms = self._wall_ms()
        if request.made_ms and now_ms - request.made_ms > self._max_age_ms:
            return self._old(now_ms - request.made_ms)
        if self.no_room and not (self.room_for_deletes and _all_dead([record for _, record in request.items], now_ms)):
            return f.NodeRefused("overloaded", self.no_room), 0
        checked = [_check(record, now_ms) for _, record in request.items]  # all of them before the first is kept
        keys = self._storage_keys(request.bucket_id, [key for key, _ in request.items])
        newer: list[int] = []
        position = 0
        for key, (_, record), versions in zip(keys, request.items, checked, strict=True):
            if versions is not None:
                signed = self._stamper.sign(key, record)
                try:
                    kept = self._engine.update(key, signed, partial(merge_bounded, taken=versions))
                except TooManyVersions:
                    newer.append(f.NO_ROOM)
                    continue
                self._stamper.kept(key, kept.record, versions.seen if kept.record is signed else None)
                newer.append(0)
            else:
                kept = self._engine.update(key, record)
                # A newer record shadows this write: it must not count as an acknowledgement (P7).
                newer.append(0 if stamp_of(kept.record) == stamp_of(record) else time_of(kept.record))
            position = max(position, kept.position)
        return f.WriteDone(newer), position

    def _hint(self, request: f.Hint) -> Answer:
        """Keep writes for nodes that missed them (P11)."""
        if self._engine.overloaded:
            return self._overloaded()
        if self.no_room:
            return f.NodeRefused("overloaded", self.no_room), 0
        now_ms = self._wall_ms()
        if now_ms - request.made_ms > self._max_age_ms:
            return self._old(now_ms - request.made_ms)
        self._storage_keys(request.bucket_id, [key for key, _, _ in request.items])
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
    def _old(age_ms: int) -> Answer:
        return f.NodeRefused("old", f"it was made {age_ms // 1000} s ago: what deletes it may be forgotten by now"), 0

    def _scan(self, request: f.Scan) -> Answer:
        if not self.complete:
            return self._incomplete()
        # Who looks for the first of a queue would else ask once for each pair that was taken out of it.
        tells_apart = request.now_ms and request.limit < PLENTY
        all_may_be = request.now_ms and not tells_apart
        limit = MAX_SCAN_ITEMS if all_may_be else max(1, min(request.limit, MAX_SCAN_ITEMS))
        items: list[tuple[bytes, bytes]] = []
        counted = passed = size_bytes = position = 0
        last = b""
        for key, record, at in self._found(request, limit):
            if counted >= limit or passed >= MAX_SCAN_ITEMS or size_bytes >= self.scan_bytes:
                return f.ScanDone(items, last), position
            passed, last = passed + 1, key
            if not record:
                continue  # it was erased: nothing to be told of, but time was taken
            large = all_may_be and len(record) > BARE_BYTES
            dead = (tells_apart or large) and shows_nothing(record, request.now_ms)
            counted += not dead
            kept = header_of(record) if request.keys_only or (dead and len(record) > BARE_BYTES) else record
            items.append((key, kept))
            size_bytes += len(key) + len(kept)
            position = max(position, at)
        return f.ScanDone(items, None), position

    def _found(self, request: f.Scan, limit: int) -> Iterator[tuple[bytes, bytes, int]]:
        """Return key, record and position of each record in the order of keys; those that were erased with empty ones."""
        much_is_dead = request.now_ms and limit >= PASSED_SINGLY  # such a window grew over what was passed before
        if much_is_dead or limit >= FEW_A_PARTITION * len(request.partitions):
            return self._merged(request)
        return self._first_in_order(request, limit + PASSED_SINGLY) if request.now_ms else self._in_order(request)

    def _first_in_order(self, request: f.Scan, count: int) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield so many ``_in_order``, and the rest ``_merged``."""
        last = None
        for last in islice(self._in_order(request), count):
            yield last
        if last is not None:
            start, end = (request.start, last[0]) if request.reverse else (last[0] + b"\x00", request.end)
            yield from self._merged(msgspec.structs.replace(request, start=start, end=end))

    def _merged(self, request: f.Scan) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield key, record and position in the order of keys: scans of all partitions, merged."""
        runs = [self._scan_partition(request, partition) for partition in request.partitions]
        return heapq.merge(*runs, key=_KEY, reverse=request.reverse)

    def _scan_partition(self, request: f.Scan, partition: int) -> Iterator[tuple[bytes, bytes, int]]:
        prefix = storage_prefix(partition, request.bucket_id)
        start, end = prefix + request.start, prefix + request.end
        for key, found in self._engine.scan(start, end, reverse=request.reverse, erased=True):
            yield key[STORAGE_PREFIX_BYTES:], public(found.record), found.position

    def _in_order(self, request: f.Scan) -> Iterator[tuple[bytes, bytes, int]]:
        """Yield the same, where few are wanted of each partition: one after the other, as they come in the whole.

        Most of what scans of all partitions would bring up is never shown, and to begin one costs several times as much as
        to look for one key.
        """
        first, reverse = self._engine.first, request.reverse
        heads: list[tuple[bytes, bytes, Found]] = []
        for partition in request.partitions:
            prefix = storage_prefix(partition, request.bucket_id)
            pair = first(prefix + request.start, prefix + request.end, reverse=reverse, erased=True)
            if pair is not None:
                heads.append((pair[0][STORAGE_PREFIX_BYTES:], prefix, pair[1]))
        heads.sort(key=_KEY)
        while heads:
            key, prefix, found = heads.pop(-1 if reverse else 0)
            yield key, public(found.record), found.position
            start, end = (request.start, key) if reverse else (key + b"\x00", request.end)
            pair = first(prefix + start, prefix + end, reverse=reverse, erased=True)
            if pair is not None:
                insort(heads, (pair[0][STORAGE_PREFIX_BYTES:], prefix, pair[1]), key=_KEY)

    @staticmethod
    def _overloaded() -> Answer:
        return f.NodeRefused("overloaded", "the node's unflushed writes have reached their bound"), 0

    def _incomplete(self) -> Answer:
        return f.Incomplete("this node may lack writes that it acknowledged, until its peers have made it whole"), 0

    def _note_damage(self) -> None:
        """Rot whose keys are known makes those keys unreadable here; of which keys are not known, the whole node."""
        unknown = next((damage for damage in self._engine.damaged if damage.start is None), None)
        if unknown is not None and self.complete:
            self._directory.set_complete(False)
            logger.error("node %s is incomplete from now on: %s", self._directory.identity.node_id, unknown)

    def learn(self, data: bytes) -> None:
        """Take a decided state that another node knows, as if the supervisor had told it."""
        state = decode_state(data)
        self._accept(f.AcceptRegister(state.generation, state.version, data, decided=True))

    def _learn(self, data: bytes) -> None:
        """Act on a decided state only, for any other may yet be undone. Compactions leave out what was dropped."""
        state, before = decode_state(data), self.state
        if before is not None and before.ballot >= state.ballot:
            return
        self.known = (state, data)
        self._buckets = {entry.bucket_id for entry in state.buckets}
        self._prefixes = {bucket_id: kept for bucket_id, kept in self._prefixes.items() if bucket_id in self._buckets}
        if before is None:
            self._since = state.epoch
        else:
            for partition in range(state.ring.partitions):
                if state.differs(before, partition):
                    self._changed[partition] = state.epoch
        self._engine.drop = lambda key: (
            not is_private(key) and (state.dropped(storage_bucket(key)) or not is_key(key[STORAGE_PREFIX_BYTES:]))
        )


def _cut(records: list[bytes | None], unreadable: list[int], wanted: int) -> f.ReadDone:
    """Return the answer that has the first of these records, up to the one with which it has ``MAX_READ_BYTES``."""
    kept = size_bytes = 0
    while kept < len(records) and size_bytes <= MAX_READ_BYTES:
        size_bytes += len(records[kept] or b"")
        kept += 1
    nothing: list[bytes | None] = [None] * (wanted - kept)
    return f.ReadDone(records[:kept] + nothing, [at for at in unreadable if at < kept], [*range(kept, wanted)])


def _all_dead(records: Sequence[bytes], now_ms: int) -> bool:
    """Whether these are deletes, or have expired."""
    since = [dead_since_ms(record) for record in records]
    return all(at_ms is not None and at_ms <= now_ms + _SLACK_MS for at_ms in since)


def _check(record: bytes, now_ms: int) -> VersionSet | None:
    """Return a vector record taken apart, None for another. Raises ``CorruptData``, ``ClockTooFarAhead``."""
    if is_vector(record):
        versions = vector.check(record)
        check_not_ahead(dvvset.newest_time(versions), now_ms)
        return versions
    check_not_ahead(check(record), now_ms)
    return None


class _Register:
    """A node's copy of the cluster's state, with what it promised (P5). The acceptor of Paxos, one value for ever.

    A node that lost its register has no vote: it may have promised itself to somebody who still counts on it. A decided
    state gives it a new one only if a majority of the others accepted that state after the loss. Every promise of its
    former life was part of a majority too, so one of those others knew of it, and would have refused. *Schedule without
    this: S3 is promised A and C; A is wiped; S2, of an earlier generation, tells A what was decided long ago; A and B
    accept a change of S2; S3 stores what it read of A and C before, and the change is gone.*
    """

    def __init__(self, directory: NodeDirectory) -> None:
        self._directory = directory
        data = directory.load_register()
        kept = f.node_answers.decode(data).body if data is not None else None
        self._kept = kept if isinstance(kept, f.RegisterAnswer) else f.RegisterAnswer(True, 0, 0, 0, None)

    def forget(self) -> None:
        """Begin anew: what was promised and held belongs to a life that is over."""
        self._kept = f.RegisterAnswer(True, 0, 0, 0, None)

    def read(self) -> f.RegisterAnswer:
        return self._answer(granted=True)

    def promise(self, request: f.PromiseRegister) -> f.RegisterAnswer:
        granted = self._is_near(request) and request.generation > self._kept.promised
        if granted:
            self._keep(msgspec.structs.replace(self._kept, promised=request.generation))
        return self._answer(granted=granted)

    def accept(self, request: f.AcceptRegister) -> f.RegisterAnswer:
        kept = self._kept
        ballot, held = (request.generation, request.version), (kept.generation, kept.version)
        later = ballot > held or (ballot == held and request.state == kept.state)  # one ballot, one state
        granted = request.generation >= kept.promised and later and self._is_near(request)
        if granted and ballot > held and (self.votes or self._may_vote_again(request)):
            decode_state(request.state)  # nothing that cannot be read back is kept
            self._keep(f.RegisterAnswer(True, request.generation, *ballot, request.state))
            self._directory.enfranchise()
        return self._answer(granted=granted)

    @property
    def votes(self) -> bool:
        return self._directory.identity.votes

    def _is_near(self, request: f.PromiseRegister | f.AcceptRegister) -> bool:
        """Whether the generation is one that a supervisor may have come to from what is promised here.

        Each goes one above what it hears. *Schedule without this: one frame lets a node promise itself to the last number
        that there is, and no supervisor comes after that one, for ever.* A node that was away for long, or beside one that
        was pushed ahead, is led up step by step (``supervision.register``): to promise is to refuse what is earlier, so a
        promise to a generation that nobody has does no harm.
        """
        return request.generation - self._kept.promised <= MAX_BALLOT_STEP

    def _may_vote_again(self, request: f.AcceptRegister) -> bool:
        return request.decided and self._directory.life in request.lives

    def _answer(self, *, granted: bool) -> f.RegisterAnswer:
        return msgspec.structs.replace(self._kept, granted=granted, voter=self.votes, life=self._directory.life)

    def _keep(self, kept: f.RegisterAnswer) -> None:
        self._directory.save_register(f.node_answers.encode(f.NodeAnswer(0, kept)))
        self._kept = kept
