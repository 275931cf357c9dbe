"""The coordinator: runs one client operation over the replicas.

**A write** is stamped with a hybrid time, sent to all N primaries, and acknowledged once W of them hold it durably. A
replica that holds something newer does not count; if that keeps W from being met the write is stamped again above it,
under the same operation id (P7). A miss is *unknown*, not undone (P8). A retry to a node keeps its stamp, so it is the
same write.

**A read** asks R primaries, races a slow one with the next (hedging: Dean & Barroso 2013, "The Tail at Scale"), merges R
complete answers, writes back what those R lacked, and returns once R hold the merged record (P9). That last step is what
keeps reads of one key from going backward when 2R > N.

Quorums are strict: primaries only. With a cut, the side that cannot reach W or R of them refuses (CP). Neither reads nor
writes ask the supervisor for anything; it only brings news.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from raykv.config import MAX_BATCH_ITEMS, MAX_FRAME_BYTES, MIB, check_timeout
from raykv.errors import (
    CorruptData,
    InvalidOption,
    Overloaded,
    QuorumNotMet,
    RaykvError,
    StoreUnavailable,
    WriteOutcomeUnknown,
)
from raykv.ports import PeerAbsent, PeerFailure
from raykv.records import frames as f
from raykv.records.keys import MAX_ENCODED_KEY_BYTES
from raykv.records.record import body_operation_id, check_body, restamp, stamp, unpack
from raykv.replication.cluster_state import decode_state
from raykv.replication.fanout import Fanout, Outcome
from raykv.replication.peers import PeerRefused, Peers
from raykv.replication.quorum import Asks, ReadRound, WriteRound
from raykv.replication.scan import ScanCoordinator
from raykv.ring import partition_of_key
from raykv.versions import ClockTooFarAhead, HybridClock

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from raykv.ports import Clock, Probe, Transport
    from raykv.replication.cluster_state import BucketEntry, ClusterState

logger = logging.getLogger("raykv.coordinator")

RETRY_S = 0.05
MAX_RESTAMPS = 3
MAX_ANSWER_BYTES = 8 * MIB
"""A node is asked for no more keys at once than fit into an answer of this size."""
MAX_ITEMS_UNDER_WAY = 50_000
"""Items of all batches that a coordinator works on at once; past it a batch is ``Overloaded``."""

Read = bytes | RaykvError | None
Written = list[str] | RaykvError


class Coordinator:
    """Quorum operations on one store. Any number may run side by side; they share nothing but the replicas."""

    def __init__(self, transport: Transport, clock: Clock, probe: Probe) -> None:
        self._transport = transport
        self._clock = clock
        self._probe = probe
        self._peers = Peers(transport, clock, probe)
        self._hybrid = HybridClock()
        self._state: ClusterState | None = None
        self._buckets: dict[int, BucketEntry] = {}
        self._primaries: dict[tuple[int, int], tuple[str, ...]] = {}  # of this ring: (partition, n) -> nodes
        self._news = (0, 0)
        self._items_under_way = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self._scans = ScanCoordinator(self, self._peers, clock)

    # ---- what the supervisor says ----

    def learn(self, news: f.Publish) -> None:
        """Take the supervisor's news, unless newer news is known."""
        state = decode_state(news.state)
        if (state.generation, news.sequence) <= self._news or (self._state and state.ballot < self._state.ballot):
            return
        self._news = (state.generation, news.sequence)
        self._state = state
        self._buckets = {entry.bucket_id: entry for entry in state.buckets}
        self._primaries = {}
        self._peers.learn(news.incarnations, news.down)

    async def fetch_news(self, timeout_s: float) -> None:
        """Ask the supervisor for its news. Raises ``StoreUnavailable``."""
        try:
            frame = await self._transport.call("supervisor", f.supervisor_requests.encode(f.GetNews()), timeout_s)
            answer = f.supervisor_answers.decode(frame)
        except PeerFailure as failure:
            raise StoreUnavailable(f"the supervisor does not answer: {failure}") from None
        if isinstance(answer, f.Refused):
            raise answer.failed.error()
        if isinstance(answer, f.Publish):
            self.learn(answer)

    async def state(self, timeout_s: float) -> ClusterState:
        """Return the cluster's state as last heard; ask for it if none was heard yet."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        while self._state is None:
            try:
                await self.fetch_news(max(0.001, deadline_s - self._clock.monotonic_s()))
            except StoreUnavailable:  # coordinator and supervisor were both away: the supervisor is coming back
                if self._clock.monotonic_s() + RETRY_S >= deadline_s:
                    raise
                await self._clock.sleep(RETRY_S)
        return self._state

    async def bucket(self, bucket_id: int, timeout_s: float) -> BucketEntry:
        """Return a bucket by its id. Raises ``InvalidOption`` if it was dropped."""
        await self.state(timeout_s)
        if bucket_id not in self._buckets:
            await self.fetch_news(timeout_s)
        entry = self._buckets.get(bucket_id)
        if entry is None:
            raise InvalidOption(
                "the bucket was dropped; call store.bucket(name) again to create it anew", bucket_id=bucket_id
            )
        return entry

    def primaries(self, key: bytes, n: int) -> tuple[str, ...]:
        """Return the n nodes that are to hold a key."""
        assert self._state is not None, "asked before a state was heard"
        ring = self._state.ring
        place = (partition_of_key(key, ring.partitions), n)
        nodes = self._primaries.get(place)
        if nodes is None:
            nodes = self._primaries[place] = ring.preference_list(place[0], n)[:n]
        return nodes

    def figures(self) -> dict[str, Any]:
        """Return what this coordinator counts, as plain data."""
        return {"items_under_way": self._items_under_way, "calls_under_way": len(self.tasks), **self._probe.counted()}

    # ---- client operations ----

    async def get_many(self, request: f.GetMany) -> list[Read]:
        """Return each key's live payload, None for absent, or its error, in the order asked."""
        deadline_s = self._clock.monotonic_s() + check_timeout(request.timeout_s)
        entry = await self._admit(request.bucket_id, len(request.keys), request.timeout_s)
        if len(request.keys) * entry.config.pair_bytes > MAX_FRAME_BYTES // 2:
            most = MAX_FRAME_BYTES // 2 // entry.config.pair_bytes
            raise InvalidOption(
                f"one read of bucket {entry.config.name!r} has at most {most} keys; got {len(request.keys)}"
            )
        _check_replicas("r", request.r, entry.config.n)
        for key in request.keys:
            _check_key(key)
        self._items_under_way += len(request.keys)
        try:
            records = await self.read_records(entry, request.keys, request.r, deadline_s)
        finally:
            self._items_under_way -= len(request.keys)
        now_ms = self._clock.wall_ms()
        return [record if isinstance(record, RaykvError) else _payload(record, now_ms) for record in records]

    async def write_many(self, request: f.WriteMany) -> list[Written]:
        """Write each (key, body); return who acknowledged, or the error, in the order sent."""
        deadline_s = self._clock.monotonic_s() + check_timeout(request.timeout_s)
        entry = await self._admit(request.bucket_id, len(request.items), request.timeout_s)
        _check_replicas("w", request.w, entry.config.n)
        for key, body in request.items:
            _check_key(key)
            check_body(body)
        self._items_under_way += len(request.items)
        try:
            return await self._write(entry, request.items, request.w, deadline_s)
        finally:
            self._items_under_way -= len(request.items)

    async def scan_page(self, request: f.ScanPage) -> f.Page:
        """Return the next live records of a bucket in key order (P15). See ``raykv.replication.scan``."""
        deadline_s = self._clock.monotonic_s() + check_timeout(request.timeout_s)
        entry = await self._admit(request.bucket_id, 1, request.timeout_s)
        _check_replicas("r", request.r, entry.config.n)
        records, resume = await self._scans.page(entry, request, deadline_s)
        now_ms = self._clock.wall_ms()
        items = ((key, _payload(record, now_ms)) for key, record in records)
        return f.Page([(key, payload) for key, payload in items if payload is not None], resume)

    async def read_records(self, entry: BucketEntry, keys: Sequence[bytes], r: int, deadline_s: float) -> list[Read]:
        """Read records (tombstones too) by quorum, with repair: the record, None, or the error of each key."""
        primaries = [self.primaries(key, entry.config.n) for key in keys]
        in_order = {nodes: self._peers.in_order(nodes) for nodes in dict.fromkeys(primaries)}
        orders = [in_order[nodes] for nodes in primaries]
        round_ = ReadRound(orders, r)
        fan: Fanout[list[int]] = Fanout(self._peers, self._clock, deadline_s, self.tasks)

        def send(asks: Asks) -> None:
            at_once = max(1, MAX_ANSWER_BYTES // entry.config.pair_bytes)
            for node_id, wanted in asks.items():
                for at in range(0, len(wanted), at_once):
                    indexes = wanted[at : at + at_once]
                    body = f.Read(entry.bucket_id, [keys[index] for index in indexes])
                    fan.send(node_id, body, len(indexes), indexes)

        first = round_.start()
        send(first)
        hedge_s = self._peers.hedge_delay_s("Read", max(map(len, first.values()), default=0), list(first))
        hedge_at_s = self._clock.monotonic_s() + hedge_s
        while round_.open and (now_s := self._clock.monotonic_s()) < deadline_s:
            outcome = await fan.next(min(hedge_at_s, deadline_s) - now_s)
            if outcome is None:
                if hedge_at_s < deadline_s:
                    send(round_.more())
                hedge_at_s = self._clock.monotonic_s() + max(hedge_s, RETRY_S)
            elif isinstance(outcome.answer, f.ReadDone) and len(outcome.answer.records) == len(outcome.about):
                send(_note_read(outcome.node_id, outcome.about, outcome.answer, round_))
            else:
                send(round_.failed(outcome.node_id, outcome.about))
        self._probe.count("hedges", round_.hedges)
        self._probe.count("hedges_won", round_.hedges_won)
        return await self._repair(entry, keys, r, round_, deadline_s)

    async def _repair(
        self, entry: BucketEntry, keys: Sequence[bytes], r: int, round_: ReadRound, deadline_s: float
    ) -> list[Read]:
        results: list[Read] = []
        behind: list[tuple[int, bytes, list[str]]] = []
        for index, key in enumerate(keys):
            if not round_.settled(index):
                results.append(_quorum_not_met(r, self.primaries(key, entry.config.n), round_.answers(index)))
                continue
            merged = round_.merged(index)
            results.append(merged)
            if merged is not None and len(holders := round_.holders(index, merged)) < r:
                behind.append((index, merged, holders))
        if not behind:
            return results
        self._probe.count("read_repairs", len(behind))
        items = [(keys[index], merged) for index, merged, _ in behind]
        repair = WriteRound([self.primaries(key, entry.config.n) for key, _ in items], r, newer_counts=True)
        for position, (_, _, holders) in enumerate(behind):
            repair.already(position, holders)
        await self._spread(entry, [record for _, record in items], [key for key, _ in items], repair, deadline_s)
        for position, (index, _, _) in enumerate(behind):
            if not repair.settled(position):
                primaries = self.primaries(keys[index], entry.config.n)
                results[index] = _quorum_not_met(r, primaries, repair.acks(position), what="hold what was read")
        return results

    async def _write(
        self, entry: BucketEntry, items: Sequence[tuple[bytes, bytes]], w: int, deadline_s: float
    ) -> list[Written]:
        now_ms = self._clock.wall_ms()
        keys = [key for key, _ in items]
        records = [stamp(body, self._hybrid.next(now_ms)) for _, body in items]
        round_ = WriteRound([self.primaries(key, entry.config.n) for key in keys], w)
        failures = await self._spread(entry, records, keys, round_, deadline_s)
        results: list[Written] = []
        for index, (_, body) in enumerate(items):
            if round_.settled(index):
                results.append(round_.acks(index))
            else:
                results.append(_write_error(round_, index, body_operation_id(body), w, failures))
        return results

    async def _spread(
        self, entry: BucketEntry, records: list[bytes], keys: Sequence[bytes], round_: WriteRound, deadline_s: float
    ) -> dict[str, str]:
        """Send records to their primaries until the round is met or time is up. Restamps ``records`` in place.

        Returns what each failing node last said.
        """
        fan: Fanout[list[tuple[int, int]]] = Fanout(self._peers, self._clock, deadline_s, self.tasks)
        failures: dict[str, str] = {}

        def send(asks: Asks) -> None:
            for node_id, indexes in asks.items():
                body = f.Write(entry.bucket_id, [(keys[index], records[index]) for index in indexes])
                fan.send(node_id, body, len(indexes), [(index, round_.attempt(index)) for index in indexes])

        send(round_.start())
        retry_at_s = self._clock.monotonic_s() + RETRY_S
        while round_.open and (now_s := self._clock.monotonic_s()) < deadline_s:
            outcome = await fan.next(min(retry_at_s, deadline_s) - now_s)
            if outcome is None:
                if retry_at_s < deadline_s:  # nothing is sent whose outcome nobody would wait for
                    send(round_.more())
                retry_at_s = self._clock.monotonic_s() + RETRY_S
                continue
            self._note_write(outcome, round_, failures)
            if due := round_.to_restamp():
                send(round_.start(self._restamp(due, records, round_, failures)))
        return failures

    @staticmethod
    def _note_write(outcome: Outcome[list[tuple[int, int]]], round_: WriteRound, failures: dict[str, str]) -> None:
        answer = outcome.answer
        if isinstance(answer, f.WriteDone) and len(answer.newer) == len(outcome.about):
            round_.answered(outcome.node_id, outcome.about, answer.newer)
            return
        failure = outcome.failure
        failures[outcome.node_id] = str(failure) if failure is not None else "gave an answer that does not fit"
        refused = failure.reason if isinstance(failure, PeerRefused) else None
        if isinstance(failure, PeerAbsent):
            refused = "absent"  # nothing was sent
        round_.failed(outcome.node_id, outcome.about, refused)

    def _restamp(
        self, due: dict[int, int], records: list[bytes], round_: WriteRound, failures: dict[str, str]
    ) -> list[int]:
        """Stamp these writes again, above what the replicas hold; return those for which that may be."""
        now_ms = self._clock.wall_ms()
        again: list[int] = []
        for index, time in due.items():
            if round_.attempt(index) >= MAX_RESTAMPS:
                failures["coordinator"] = f"newer writes came in between {MAX_RESTAMPS} times"
                round_.give_up(index)
                continue
            try:
                self._hybrid.observe(time, now_ms)
            except ClockTooFarAhead as error:
                failures["coordinator"] = f"a write cannot be stamped above what is stored: {error}"
                round_.give_up(index)
                continue
            again.append(index)
            records[index] = restamp(records[index], self._hybrid.next(now_ms))
            round_.restamped(index)
            self._probe.count("restamps")
        return again

    async def _admit(self, bucket_id: int, items: int, timeout_s: float) -> BucketEntry:
        if items > MAX_BATCH_ITEMS:
            raise InvalidOption(f"a request has at most {MAX_BATCH_ITEMS} items; got {items}")
        if self._items_under_way + items > MAX_ITEMS_UNDER_WAY:
            raise Overloaded(f"the coordinator works on {self._items_under_way} items already; try again", items=items)
        return await self.bucket(bucket_id, timeout_s)


def _note_read(node_id: str, indexes: Sequence[int], answer: f.ReadDone, round_: ReadRound) -> Asks:
    """Take a node's answer; return whom to ask for the keys that it could not read."""
    unreadable = set(answer.unreadable)
    fine = [at for at in range(len(indexes)) if at not in unreadable]
    round_.answered(node_id, [indexes[at] for at in fine], [answer.records[at] for at in fine])
    return round_.failed(node_id, [indexes[at] for at in sorted(unreadable) if at < len(indexes)])


def _check_replicas(what: str, value: int, n: int) -> None:
    if not 1 <= value <= n:
        raise InvalidOption(f"{what} must be 1 to {n}; got {value}")


def _check_key(key: bytes) -> None:
    if not 1 < len(key) <= MAX_ENCODED_KEY_BYTES:
        raise CorruptData(f"a client sent an encoded key of {len(key)} bytes")


def _payload(record: bytes | None, now_ms: int) -> bytes | None:
    """Return what a reader at ``now_ms`` sees. Expiry goes by the coordinator's clock alone."""
    if record is None:
        return None
    taken = unpack(record)
    return taken.payload if taken.live(now_ms) else None


def _quorum_not_met(r: int, primaries: Sequence[str], have: Sequence[str], what: str = "answered") -> QuorumNotMet:
    missing = [node_id for node_id in primaries if node_id not in have]
    return QuorumNotMet(
        f"the read needs {r} of nodes {', '.join(primaries)}; {len(have)} {what} in time; without: {', '.join(missing)}",
        needed=r,
        have=list(have),
        missing=missing,
    )


def _write_error(round_: WriteRound, index: int, operation_id: bytes, w: int, failures: dict[str, str]) -> RaykvError:
    details: dict[str, Any] = {"operation_id": operation_id.hex(), "acks": round_.acks(index), "failures": failures}
    said = "; ".join(f"{node_id}: {cause}" for node_id, cause in sorted(failures.items())) or "no answer in time"
    if reasons := round_.untouched(index):
        kind = Overloaded if "overloaded" in reasons else StoreUnavailable
        return kind(f"nothing was written, for no replica took it: {said}", **details)
    return WriteOutcomeUnknown(
        f"the write has {len(details['acks'])} of {w} acknowledgements; it may stand and may surface later ({said})",
        needed=w,
        **details,
    )
