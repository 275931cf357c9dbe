"""Anti-entropy: two owners of a partition compare their Merkle trees and exchange what differs (P1, P10).

One owner leads: it walks down both trees, requests the keys of the leaves that differ, fetches and merges what the
other holds of these, and sends what the other then lacks. Both ends merge as with any write: concurrent writes, a
repeated message or two owners that lead at once do no harm.

``repair`` does that with every other owner, for one partition. After it, all owners hold at least what the leader held
when it began to compare, which makes it the moment at which deletes can be forgotten:

**Purge** (P10). A record in which nothing lives any more (tombstones, expired values) goes once its grace is over and
*every* owner has said, twice and half a grace apart, that it holds exactly that record, durably. The leader asks all of
them; at a repair half a grace later it asks again, and then has them forget it. Between the two no owner held anything
older, so whatever could still bring something older (a hint, a repair, a write long under way) was made before, and its
receiver refuses it for its age. Each owner agrees by its own wall clock, give or take the skew allowed: one clock far
ahead takes no value from the others before its time. An owner that the last message does not reach keeps the tombstone:
at the next repair it flows back, and goes once more. Trees therefore need not leave out what is purgeable as of some
time (as P10 has it): no node purges alone.

``heal`` makes an incomplete owner complete (P1): it compares with enough others that any write that W acknowledged is
on one of them: N - W + 1 intact ones, or all others if fewer are intact. Corruption that took both a deletion and the
fact that all had forgotten it may have uncovered an older value. A record that is older than the grace, and that none of
those others holds in any version, is therefore forgotten once more, and sent to nobody: no W owners had acknowledged it,
or one of the others would have it. (In a sloppy bucket fallbacks may have acknowledged it: there it stays.)
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from raykv.config import KIB, MAX_BATCH_ITEMS, MAX_CLOCK_SKEW_MS, MAX_FRAME_BYTES
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.records.keys import LAST_TAG_END
from raykv.records.limits import MAX_LOOKED_AT
from raykv.repair.agreements import Agreements
from raykv.repair.merkle import MAX_DEPTH, Tree, depth_for, differing, digest
from raykv.versions import dead_since_ms, merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raykv.cluster.peers import Peers
    from raykv.cluster.state import ClusterState
    from raykv.ports import Clock
    from raykv.repair.local_copy import LocalCopy
    from raykv.repair.merkle import Entry
    from raykv.repair.throttle import Throttle

logger = logging.getLogger("raykv.node")

T = TypeVar("T")

CALL_TIMEOUT_S = 5.0
INDEXES_AT_ONCE = MAX_LOOKED_AT
KEYS_AT_ONCE = MAX_LOOKED_AT
PAGE_RECORDS = 24
"""Records in one page of a partition that is copied: between two pages its source answers clients."""
MAX_ROUNDS = 3
"""The most rounds of comparing with all others in one repair, under concurrent writes."""
BATCH_BYTES = 256 * KIB
LEAVES_BYTES = MAX_FRAME_BYTES // 4
_ENTRY_OVERHEAD_BYTES = 24
_AGREED_AT_ONCE = 1024
"""The agreements that are looked through between two pauses."""


class Healed(Enum):
    """The outcome of a node's attempt to become complete."""

    FULLY = "fully"
    AS_FAR_AS_CAN_BE = "as far as can be"
    """All other owners were asked, and too few of them are intact: the copies cannot make good all that was lost."""
    NOT_YET = "not yet"


class PeerLacks(Exception):
    """The peer did not answer, or its answer does not fit the request."""


@dataclass(slots=True)
class Mended:
    """What one or more exchanges did."""

    compared: int = 0
    """This node's records that were compared."""
    fetched: int = 0
    sent: int = 0
    bytes: int = 0
    """The size of frames sent and received."""
    purged: int = 0
    exchanges: int = 0
    complete: bool = True
    """Whether the other owner was complete, as far as it knew, from beginning to end."""
    epoch: int = 0
    """The epoch of the state by which the other owner was chosen."""

    def add(self, other: Mended) -> None:
        """Add another's figures."""
        self.compared += other.compared
        self.fetched += other.fetched
        self.sent += other.sent
        self.bytes += other.bytes
        self.purged += other.purged
        self.exchanges += other.exchanges
        self.complete = self.complete and other.complete

    def figures(self) -> dict[str, Any]:
        """Return them as plain data."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "epoch"}


class Share(NamedTuple):
    """Buckets of a partition that have the same owners."""

    owners: tuple[str, ...]
    """All nodes that must hold it: both old and new owners while it moves."""
    buckets: tuple[int, ...]
    intact_needed: int
    """The number of intact other owners from which a node must have taken everything to be complete (P1): N - W + 1."""
    sloppy: frozenset[int] = frozenset()
    """Those of the buckets in which fallbacks may have acknowledged writes in an owner's place."""
    asked: tuple[str, ...] = ()
    """Those of the owners that reads ask: W of these hold every acknowledged write."""
    epoch: int = 0
    """The epoch of the state that says so; a peer that knows of other owners refuses (P4)."""


def shares(state: ClusterState, partition: int) -> list[Share]:
    """Return a partition's owners for each group of buckets with the same n."""
    found = []
    for n in sorted({entry.config.n for entry in state.buckets}):
        entries = [entry for entry in state.buckets if entry.config.n == n]
        least = min(entry.config.w for entry in entries)
        sloppy = frozenset(entry.bucket_id for entry in entries if entry.config.sloppy)
        buckets = tuple(entry.bucket_id for entry in entries)
        owners, asked = state.holders(partition, n), state.read_set(partition, n)
        found.append(Share(owners, buckets, n - least + 1, sloppy, asked, state.epoch))
    return found


class AntiEntropy:
    """One node's part in it, leading and answering."""

    def __init__(self, node_id: str, local: LocalCopy, peers: Peers, clock: Clock, throttle: Throttle) -> None:
        self._node_id = node_id
        self._local = local
        self._peers = peers
        self._clock = clock
        self._throttle = throttle
        self._agreed = Agreements(node_id)
        self._agreed_by = (0, 0)
        """The ballot of the state by which the agreements were last cleared of what this node does not hold."""

    # ---- answering ----

    async def tree(self, request: f.Tree) -> f.NodeAnswerBody:
        """Answer ``Tree``."""
        complete = self._local.complete(request.partition)
        if not 0 <= request.depth <= MAX_DEPTH or len(request.indexes) > INDEXES_AT_ONCE:
            return f.NodeRefused("corrupt", "a peer requested a tree of impossible shape")
        tree = await self._local.tree(request.partition, request.buckets, request.depth, anew=request.level == -1)
        try:
            digests = tree.children(request.level, request.indexes)
        except IndexError:
            return f.NodeRefused("corrupt", "a peer requested a node that its tree does not have")
        return f.TreeDone(digests, tree.records, complete and self._local.complete(request.partition))

    async def leaves(self, request: f.Leaves) -> f.NodeAnswerBody:
        """Answer ``Leaves``."""
        if not 0 <= request.depth <= MAX_DEPTH or len(request.indexes) > INDEXES_AT_ONCE:
            return f.NodeRefused("corrupt", "a peer requested a tree of impossible shape")
        tree = await self._local.tree(request.partition, request.buckets, request.depth, anew=False)
        found: list[Entry] = []
        left: list[int] = []
        size_bytes = 0
        for index, entries in tree.leaves(request.indexes).items():
            leaf_bytes = sum(len(key) + _ENTRY_OVERHEAD_BYTES for _, key, _ in entries)
            if found and size_bytes + leaf_bytes > LEAVES_BYTES:
                left.append(index)
                continue
            size_bytes += leaf_bytes
            found += entries
        return f.LeavesDone(found, self._local.complete(request.partition), left)

    async def fetch(self, request: f.Fetch) -> f.NodeAnswerBody:
        """Answer ``Fetch``."""
        if len(request.keys) > KEYS_AT_ONCE:
            return f.NodeRefused("corrupt", "a peer requested too many records at once")
        done = await self._local.read(request.bucket_id, request.keys)
        records, size_bytes = done.records, 0
        for index, record in enumerate(records):
            size_bytes += len(record or b"")
            if index and size_bytes > MAX_FRAME_BYTES // 2:
                rest = [*range(index, len(records))]
                return f.ReadDone(
                    records[:index] + [None] * len(rest), [at for at in done.unreadable if at < index], rest
                )
        return done

    async def purge(self, request: f.Purge) -> f.NodeAnswerBody:
        """Answer ``Purge``."""
        if len(request.items) > KEYS_AT_ONCE:
            return f.NodeRefused("corrupt", "a peer asked to forget too much at once")
        indexes = []
        grace_ms = self._local.grace_ms if request.sure else self._local.grace_ms / 2
        before_ms = self._clock.wall_ms() - max(0.0, grace_ms - MAX_CLOCK_SKEW_MS)
        for index, (bucket_id, key, value) in enumerate(request.items):
            if request.sure:
                if self._local.erase(bucket_id, key, value, before_ms):
                    indexes.append(index)
            else:
                (record,) = await self._local.fetch(bucket_id, [key])
                if record is not None and digest(bucket_id, key, record) == value:
                    since_ms = 0 if request.also_living else dead_since_ms(record)
                    if since_ms is not None and since_ms <= before_ms:
                        indexes.append(index)
        return f.Purged(indexes)

    # ---- leading ----

    async def repair(self, state: ClusterState, partition: int, *, purge: bool = True) -> Mended:
        """Compare the partition with all its other owners, repair what differs, and ``purge`` what all may forget.

        Raises ``PeerLacks`` if an owner cannot be reached; what was repaired by then stays.
        """
        total = Mended()
        failures: list[PeerLacks] = []
        if state.ballot != self._agreed_by:
            self._agreed_by = state.ballot
            self._agreed.retain(partial(self._holds, state))
        for share in shares(state, partition):
            others = [node_id for node_id in share.owners if node_id != self._node_id]
            if self._node_id not in share.owners:
                continue
            try:
                done = await self._mend_all(partition, share, others)
                total.add(done)
                if purge and done.complete and self._local.complete(partition):
                    grace_ms = round(state.config.gc_grace_s * 1000)
                    total.purged += await self._purge(partition, share, others, grace_ms)
            except PeerLacks as lack:
                failures.append(lack)
        if failures:
            raise failures[0]
        return total

    def _holds(self, state: ClusterState, partition: int, bucket_id: int) -> bool:
        config = state.config_of(bucket_id)
        return config is not None and self._node_id in state.holders(partition, config.n)

    async def _mend_all(self, partition: int, share: Share, others: Sequence[str]) -> Mended:
        """Compare with all others until a round fetches nothing that earlier peers may lack. Raises ``PeerLacks``."""
        total = Mended()
        failure: PeerLacks | None = None
        for _ in range(MAX_ROUNDS):
            fetched = total.fetched
            for peer in others:
                try:
                    total.add(await self.exchange(partition, share.buckets, peer, epoch=share.epoch))
                except PeerLacks as lack:
                    failure = lack
            if failure is not None:
                raise failure
            if total.fetched == fetched or len(others) == 1:
                break
        return total

    async def take_over(self, state: ClusterState, partition: int, lost: Sequence[str] = ()) -> Mended:
        """Take over a partition that this node must hold and did not own, from the owners that reads ask (P4).

        From N - W + 1 that lack nothing; of those that are ``lost`` nothing can be had any more. Raises ``PeerLacks`` for as
        long as fewer answer. Their promises too (L9): whom F of them have superseded finds no majority among the new owners.
        """
        is_led = any(entry.config.versioning == "linearizable" for entry in state.buckets)
        total = Mended()
        for share in shares(state, partition):
            if self._node_id not in share.owners or self._node_id in share.asked:
                continue
            complete, said = 0, []
            there = [peer for peer in share.asked if peer not in lost]
            if there:
                total.add(await self._stream(partition, share, there[partition % len(there)]))
            for peer in there:
                if complete >= share.intact_needed:
                    break
                try:
                    if is_led:
                        await self._take_promises(peer, partition, share.epoch)
                    done = await self.exchange(partition, share.buckets, peer, epoch=share.epoch)
                except PeerLacks as lack:
                    said.append(str(lack))
                    continue
                total.add(done)
                complete += done.complete
                if not done.complete:
                    said.append(f"node {peer} may lack something")
            if complete < min(share.intact_needed, len(there)):
                raise PeerLacks("; ".join(said))
            if complete < share.intact_needed:
                logger.error(
                    "node %s takes partition %d over from %d intact nodes, not %d: acknowledged writes may be lost",
                    self._node_id, partition, complete, share.intact_needed,
                )  # fmt: skip
        return total

    async def _stream(self, partition: int, share: Share, peer: str) -> Mended:
        """Copy a partition of which nothing is here yet from a peer, without comparing keys and digests first.

        It may end early, and its source may lack something: the comparison with all owners, which follows, finds that.
        """
        done = Mended(epoch=share.epoch)
        for bucket_id in share.buckets:
            if (await self._local.tree(partition, [bucket_id], anew=True, own=True)).records:
                continue
            start = b""
            while True:
                made_ms = self._clock.wall_ms()
                page = f.Scan(bucket_id, start, LAST_TAG_END, PAGE_RECORDS, False, False, [partition], background=True)
                try:
                    answer = await self._ask(peer, page, done)
                except PeerLacks:
                    return done
                if not isinstance(answer, f.ScanDone) or (answer.items and not start <= answer.items[0][0]):
                    return done
                if answer.covered is not None and not start <= answer.covered:
                    return done
                if answer.items and not await self._local.write(bucket_id, answer.items, made_ms):
                    return done
                done.fetched += len(answer.items)
                if answer.covered is None:
                    break
                start = answer.covered + b"\x00"
        return done

    async def heal(self, state: ClusterState, partition: int) -> Healed:
        """Take over what this node may lack of the partition."""
        healed = Healed.FULLY
        before_ms = self._clock.wall_ms() - state.config.gc_grace_s * 1000
        for share in shares(state, partition):
            if self._node_id not in share.owners:
                continue
            others = [node_id for node_id in share.owners if node_id != self._node_id]
            intact: set[str] = set()
            asked: set[str] = set()
            orphans = await self._local.uncovered(partition, share.buckets, before_ms)
            for peer in others:
                try:
                    orphans = await self._not_at(peer, orphans, share.epoch)
                    await self._take_promises(peer, partition, share.epoch)
                    mended = await self.exchange(partition, share.buckets, peer, hold_back=orphans, epoch=share.epoch)
                except PeerLacks as lack:
                    logger.debug("node %s: partition %d not taken over: %s", self._node_id, partition, lack)
                    continue
                asked.add(peer)
                if mended.complete:
                    intact.add(peer)
            known = len(intact.intersection(share.asked))
            if known < share.intact_needed:
                if len(asked) < len(others):
                    return Healed.NOT_YET
                healed = Healed.AS_FAR_AS_CAN_BE
            else:
                # Whatever W acknowledged is on an intact one. The rest was forgotten by all, or never acknowledged by W.
                await self._local.forget([entry for entry in orphans if entry[0] not in share.sloppy])
        return healed

    async def _take_promises(self, peer: str, partition: int, epoch: int) -> None:
        """Promise what another owner has promised, where that is more (L3, L9). Raises ``PeerLacks``.

        No term that is promised after this counts on this node: a node that heals does not vote until it is complete, and
        where a partition moves, the other owner knows of that by now and asks for the votes of both sets.
        """
        done = Mended(epoch=epoch)
        answer = await self._ask(peer, f.ReadPromises(partition), done)
        if not isinstance(answer, f.PromisesRead):
            raise PeerLacks(f"node {peer} did not tell its promises")
        await self._local.promise(partition, answer.items)

    async def _not_at(self, peer: str, entries: list[Entry], epoch: int) -> list[Entry]:
        """Return the entries of which the peer holds no version at all. Raises ``PeerLacks``."""
        left: list[Entry] = []
        done = Mended(epoch=epoch)
        for some in _chunks(entries, KEYS_AT_ONCE):
            answer = await self._ask(
                peer, f.Purge(some, sure=False, also_living=True), done
            )  # cheaper than the records
            same = {*answer.indexes} if isinstance(answer, f.Purged) else set()
            other = [entry for index, entry in enumerate(some) if index not in same]
            for bucket_id in dict.fromkeys(entry[0] for entry in other):
                here = [entry for entry in other if entry[0] == bucket_id]
                answer = await self._ask(peer, f.Fetch(bucket_id, [key for _, key, _ in here]), done)
                if not isinstance(answer, f.ReadDone) or len(answer.records) != len(here):
                    raise PeerLacks(f"node {peer} gave records that do not fit")
                held = {*answer.unreadable, *answer.left}  # the peer may have something of these
                left += [e for at, e in enumerate(here) if answer.records[at] is None and at not in held]
        return left

    async def exchange(
        self, partition: int, buckets: Sequence[int], peer: str, hold_back: Sequence[Entry] = (), *, epoch: int = 0
    ) -> Mended:
        """Compare with one other owner, and repair what differs on both sides. Raises ``PeerLacks``.

        ``hold_back``: records not to be sent to the peer. ``epoch``: of the state by which the peer was chosen.
        """
        done = Mended(exchanges=1, epoch=epoch)
        local = await self._local.tree(partition, buckets, anew=True, own=True)
        depth = local.depth
        root = await self._tree(peer, f.Tree(partition, [*buckets], depth, -1, []), done)
        if (better := depth_for(root.records)) > depth:
            depth, local = better, local.deeper(better)
            root = await self._tree(peer, f.Tree(partition, [*buckets], depth, -1, []), done)
        done.compared = local.records
        if root.digests == [local.root]:
            return done
        frontier = [0]
        for level in range(depth):
            below: list[int] = []
            for some in _chunks(frontier, INDEXES_AT_ONCE):
                theirs = await self._tree(peer, f.Tree(partition, [*buckets], depth, level, some), done)
                mine = local.children(level, some)
                if len(theirs.digests) != len(mine):
                    raise PeerLacks(f"node {peer} gave digests that do not fit")
                below += differing(some, mine, theirs.digests)
            frontier = below
        for some in _chunks(frontier, INDEXES_AT_ONCE):
            await self._mend_leaves(partition, buckets, peer, local, some, done, {*hold_back})
        return done

    async def _mend_leaves(
        self,
        partition: int,
        buckets: Sequence[int],
        peer: str,
        local: Tree,
        indexes: list[int],
        done: Mended,
        hold_back: set[Entry],
    ) -> None:
        wanted = indexes
        while wanted:
            answer = await self._ask(peer, f.Leaves(partition, [*buckets], local.depth, wanted), done)
            if not isinstance(answer, f.LeavesDone) or not set(answer.left) < {*wanted}:
                raise PeerLacks(f"node {peer} gave leaves that do not fit")
            done.complete = done.complete and answer.complete
            had = [index for index in wanted if index not in answer.left]
            mine = {entry for entries in local.leaves(had).values() for entry in entries}
            theirs = {entry for entry in answer.entries if entry[0] in buckets}
            fetch = sorted((bucket_id, key) for bucket_id, key, _ in theirs - mine)
            give = sorted({(bucket_id, key) for bucket_id, key, _ in mine - theirs - hold_back} - {*fetch})
            await self._mend(peer, fetch, done, fetch=True)
            await self._mend(peer, give, done, fetch=False)
            wanted = answer.left

    async def _mend(self, peer: str, pairs: list[tuple[int, bytes]], done: Mended, *, fetch: bool) -> None:
        """Make both hold the same under these (bucket id, key). ``fetch``: the peer holds something there."""
        for bucket_id in dict.fromkeys(bucket_id for bucket_id, _ in pairs):
            keys = [key for bucket, key in pairs if bucket == bucket_id]
            for some in _chunks(keys, KEYS_AT_ONCE):
                made_ms = self._clock.wall_ms()
                theirs = await self._fetch(peer, bucket_id, some, done) if fetch else [None] * len(some)
                taken = [(key, record) for key, record in zip(some, theirs, strict=True) if record is not None]
                if taken:
                    done.fetched += len(taken)
                    if not await self._local.write(bucket_id, taken, made_ms):
                        raise PeerLacks("this node refused some of the records")
                mine = await self._local.fetch(bucket_id, some)
                lacking = [
                    (key, record)
                    for key, record, their in zip(some, mine, theirs, strict=True)
                    if record is not None and (their is None or merge(their, record) != their)
                ]
                await self._send(peer, f.Write(bucket_id, lacking, made_ms, stored=True), done)

    async def _fetch(self, peer: str, bucket_id: int, keys: list[bytes], done: Mended) -> list[bytes | None]:
        records: list[bytes | None] = []
        while len(records) < len(keys):
            wanted = keys[len(records) :]
            answer = await self._ask(peer, f.Fetch(bucket_id, wanted), done)
            if not isinstance(answer, f.ReadDone) or len(answer.records) != len(wanted):
                raise PeerLacks(f"node {peer} gave records that do not fit")
            got = answer.records[: len(wanted) - len(answer.left)]
            if not got:
                raise PeerLacks(f"node {peer} gave no records")
            records += got
        return records

    async def _send(self, peer: str, write: f.Write, done: Mended) -> None:
        for some in _batches(write.items):
            answer = await self._ask(peer, msgspec.structs.replace(write, items=some), done)
            if not isinstance(answer, f.WriteDone):
                raise PeerLacks(f"node {peer} gave an answer that does not fit")
            done.sent += len(some)

    async def _purge(self, partition: int, share: Share, others: Sequence[str], grace_ms: int) -> int:
        """Forget what has been dead for longer than the grace and long held by all owners. Return the number."""
        now_ms, purged, done = self._clock.wall_ms(), 0, Mended(epoch=share.epoch)
        began_s = self._clock.monotonic_s()
        present = await self._local.dead(partition, share.buckets, now_ms - grace_ms // 2)
        await self._disagree(partition, share.buckets, {*present})
        for some in _chunks(present, KEYS_AT_ONCE):
            dead = some
            for peer in others:
                if dead:
                    answer = await self._ask(peer, f.Purge(dead, sure=False), done)
                    agreed = answer.indexes if isinstance(answer, f.Purged) else []
                    dead = [dead[index] for index in agreed if 0 <= index < len(dead)]
            for bucket_id, key, _ in dead:
                await self._local.fetch(bucket_id, [key])  # it must be durable here too
            due = [e for e in dead if self._long_agreed(partition, e, began_s, grace_ms, now_ms - grace_ms)]
            for peer in others if due else ():
                await self._ask(peer, f.Purge(due, sure=True), done)
            purged += sum(self._local.erase(*entry, now_ms - grace_ms) for entry in due)
            self._agreed.forget(partition, due)
        return purged

    async def _disagree(self, partition: int, buckets: Sequence[int], still: set[Entry]) -> None:
        """Forget the agreements on what is not there any more."""
        since_s = self._clock.monotonic_s()
        for bucket_id in buckets:
            for some in _chunks(self._agreed.of(partition, bucket_id), _AGREED_AT_ONCE):
                self._agreed.forget(partition, [entry for entry in some if entry not in still])
                since_s = await self._throttle.rest(since_s)

    def _long_agreed(self, partition: int, entry: Entry, began_s: float, grace_ms: int, before_ms: int) -> bool:
        """Return whether all owners held exactly this half a grace before ``began_s``; record that they do now.

        ``before_ms``: until when, by the wall clock, it must have died.
        """
        since_s = self._agreed.since_s(partition, entry, self._clock.monotonic_s())
        return since_s is not None and began_s - since_s > grace_ms / 2000 and self._dead(entry, before_ms)

    def _dead(self, entry: Entry, before_ms: int) -> bool:
        bucket_id, key, value = entry
        done, _ = self._local.held(bucket_id, [key])
        record = done.records[0]
        if record is None or digest(bucket_id, key, record) != value:
            return False
        since_ms = dead_since_ms(record)
        return since_ms is not None and since_ms < before_ms

    async def _tree(self, peer: str, request: f.Tree, done: Mended) -> f.TreeDone:
        answer = await self._ask(peer, request, done)
        if not isinstance(answer, f.TreeDone):
            raise PeerLacks(f"node {peer} gave an answer that does not fit")
        done.complete = done.complete and answer.complete
        return answer

    async def _ask(self, peer: str, body: f.NodeRequestBody, done: Mended) -> f.NodeAnswerBody:
        size_bytes = len(msgspec.msgpack.encode(body))
        try:
            answer = await self._peers.call(peer, body, 1, CALL_TIMEOUT_S, done.epoch)
        except PeerFailure as failure:
            raise PeerLacks(f"node {peer}: {failure}") from None
        size_bytes += len(msgspec.msgpack.encode(answer))
        done.bytes += size_bytes
        await self._throttle.take(size_bytes)
        return answer


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    for at in range(0, len(items), size):
        yield list(items[at : at + size])


def _batches(items: list[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Cut into batches of about ``BATCH_BYTES``."""
    batch: list[tuple[bytes, bytes]] = []
    size_bytes = 0
    for key, record in items:
        batch.append((key, record))
        size_bytes += len(key) + len(record)
        if size_bytes >= BATCH_BYTES or len(batch) >= MAX_BATCH_ITEMS:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
