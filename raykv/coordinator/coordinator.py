"""The coordinator: runs one client operation over the replicas.

It lets operations in (``_admit``), and shares what it knows of the cluster (``routing``) among those who do the work:
``reading``, ``writing``, ``scan``. Any number of coordinators may run side by side; they share nothing but the replicas.

Quorums are strict: primaries only. With a cut, the side that cannot reach W or R of them refuses (CP). Neither reads nor
writes ask the supervisor for anything; it only brings news.

**A write that comes too late is not begun** (P8). Clients say until when, in this coordinator's own time: a coordinator
that was frozen would else carry out, after its thaw, what its clients were told is unknown and have long written over.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from raykv.config import MAX_BATCH_ITEMS, check_count, check_timeout
from raykv.coordinator.fast_path import Straight
from raykv.coordinator.reads import Reads, found_in, most_keys
from raykv.coordinator.routing import Routing
from raykv.coordinator.scans import ScanCoordinator
from raykv.coordinator.writes import Done, Put, Writes
from raykv.errors import InvalidOption, Overloaded
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.records.keys import check_keys
from raykv.records.record import body_operation_id, check_body
from raykv.versions import shown
from raykv.versions.causality import pack_causality, unpack_causality

if TYPE_CHECKING:
    import random as random_module

    from raykv.cluster.state import BucketEntry
    from raykv.ports import Clock, Metrics, Transport

MAX_REPAIRS_AT_ONCE = 64
MAX_ITEMS_UNDER_WAY = 50_000
"""Items of all batches that a coordinator works on at once; past it a batch is ``Overloaded``."""


class Coordinator:
    """Quorum operations on one store."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        metrics: Metrics,
        random: random_module.Random,
        *,
        asks: bool = False,
        run: int = 0,
    ) -> None:
        """``asks``: it runs inside a client; nobody brings it news (see ``routing``). ``run``: drawn if it is 0."""
        self.routing = Routing(transport, clock, metrics, asks=asks)
        self.run = run or random.getrandbits(62) + 1
        """Names this run, so that a client's word on time is not taken for a word on another run's clock."""
        self._clock = clock
        self._metrics = metrics
        self._items_under_way = 0
        self._reads = Reads(self.routing)
        self._writes = Writes(self.routing)
        self._scans = ScanCoordinator(self.routing, self._reads)
        self.straight = Straight(self.routing, self._writes, self.get_many, self.run)

    def figures(self) -> dict[str, Any]:
        """Return what this coordinator counts, as plain data."""
        return {
            "items_under_way": self._items_under_way,
            "calls_under_way": len(self.routing.tasks),
            **self._metrics.counted(),
        }

    def most_keys(self, bucket_id: int) -> int:
        """Return of how many keys of that bucket one request may be."""
        return most_keys(self.routing.known_bucket(bucket_id))

    # ---- client operations ----

    async def get_many(self, request: f.GetMany) -> f.GotMany:
        """Return what stands under each key, or its error, in the order asked."""
        deadline_s = self._clock.monotonic_s() + check_timeout(request.timeout_s)
        entry = await self._admit(request.bucket_id, len(request.keys), request.timeout_s)
        if len(request.keys) > (most := most_keys(entry)):
            raise InvalidOption(
                f"one read of bucket {entry.config.name!r} has at most {most} keys; got {len(request.keys)}"
            )
        _check_replicas("r", request.r, entry.config.n)
        check_keys(request.keys)
        self._items_under_way += len(request.keys)
        try:
            records = await self._reads.records(entry, request.keys, request.r, deadline_s)
        finally:
            self._items_under_way -= len(request.keys)
        items, newest, siblings = found_in(records, self._clock.wall_ms(), request.causality)
        self._metrics.count("siblings_read", siblings)
        return f.GotMany(items, newest)

    async def write_many(self, request: f.WriteMany) -> f.WroteMany | f.Late:
        """Write each item; return who acknowledged, or the error, in the order sent."""
        now_s = self._clock.monotonic_s()
        if request.run and (request.run != self.run or now_s > request.expires_s):
            self._metrics.count("late_requests")
            return f.Late(self.run, now_s)
        deadline_s = now_s + check_timeout(request.timeout_s)
        if request.run:
            deadline_s = min(deadline_s, request.expires_s)
        entry = await self._admit(request.bucket_id, len(request.items), request.timeout_s)
        _check_replicas("w", request.w, entry.config.n)
        check_keys([key for key, _, _ in request.items])
        puts = []
        for key, body, seen in request.items:
            check_body(body)
            puts.append(Put(key, body, None if seen is None else unpack_causality(seen)))
        self._items_under_way += len(puts)
        try:
            written = await self._writes.write(entry, puts, request.w, request.after, deadline_s)
        finally:
            self._items_under_way -= len(puts)
        newest = max((done.causality.time for done in written if isinstance(done, Done)), default=0)
        return f.WroteMany(
            [
                f.Acked(body_operation_id(put.body), done.nodes, pack_causality(done.causality))
                if isinstance(done, Done)
                else f.Failed.of(done)
                for put, done in zip(puts, written, strict=True)
            ],
            newest,
        )

    async def scan_page(self, request: f.ScanPage) -> f.Page:
        """Return the next live records of a bucket in key order (P15). See ``raykv.coordinator.scans``."""
        deadline_s = self._clock.monotonic_s() + check_timeout(request.timeout_s)
        entry = await self._admit(request.bucket_id, 1, request.timeout_s)
        _check_replicas("r", request.r, entry.config.n)
        now_ms = self._clock.wall_ms()
        records, resume = await self._scans.page(entry, request, deadline_s, now_ms)
        found = ((key, shown(record, now_ms)) for key, record in records)
        return f.Page([(key, item.payloads, item.gone) for key, item in found if item.payloads], resume)

    async def repair_partitions(self, request: f.RepairPartitions) -> list[dict[str, Any]]:
        """Let an owner of each partition compare it with the others, and mend what differs. Returns figures of each."""
        deadline_s = self._clock.monotonic_s() + check_timeout(request.timeout_s)
        state = await self.routing.state(request.timeout_s)
        check_count("partitions asked for at once", len(request.partitions), 0, MAX_REPAIRS_AT_ONCE)
        for partition in request.partitions:
            check_count("partition", partition, 0, state.ring.partitions - 1)
        return await asyncio.gather(*(self._repair(partition, deadline_s) for partition in request.partitions))

    async def _repair(self, partition: int, deadline_s: float) -> dict[str, Any]:
        said: dict[str, str] = {}
        for node_id in self.routing.owners(partition):
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                break
            try:
                answer = await self.routing.peers.call(node_id, f.Repair(partition, left_s), 1, left_s)
            except PeerFailure as failure:
                said[node_id] = str(failure)
                continue
            if isinstance(answer, f.Repaired):
                return {**answer.figures, "partition": partition, "node_id": node_id}
        reasons = "; ".join(f"{node_id}: {cause}" for node_id, cause in sorted(said.items())) or "no answer in time"
        return {"partition": partition, "failed": reasons}

    async def _admit(self, bucket_id: int, items: int, timeout_s: float) -> BucketEntry:
        if items > MAX_BATCH_ITEMS:
            raise InvalidOption(f"a request has at most {MAX_BATCH_ITEMS} items; got {items}")
        if self._items_under_way + items > MAX_ITEMS_UNDER_WAY:
            raise Overloaded(f"the coordinator works on {self._items_under_way} items already; try again", items=items)
        return await self.routing.bucket(bucket_id, timeout_s)


def _check_replicas(what: str, value: int, n: int) -> None:
    if not 1 <= value <= n:
        raise InvalidOption(f"{what} must be 1 to {n}; got {value}")
