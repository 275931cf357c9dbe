"""The coordinator: runs one client operation over the replicas.

An operation is one generator (``steps``): it validates the request, takes the fast path where it may, and continues on
the quorum path where an answer is not plain. It has no loop and does no I/O, so the same lines serve a blocking call
over its own sockets, an event loop, an actor and the simulation; it cannot tell which of them drives it.

Operations share the view of the cluster (``routing``). Any number of coordinators may run side by side; they share
nothing but the replicas. Quorums are strict: primaries only. In a network partition, the side that cannot reach W or R
of them refuses (CP). Reads and writes of a known bucket never contact the supervisor; it only sends cluster updates.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.config import check_count, check_timeout
from raykv.coordinator.changes import Changes
from raykv.coordinator.fast_path import FastPath
from raykv.coordinator.judgements import (
    check_items,
    check_most_keys,
    check_replicas,
    got,
    is_too_late,
    most_keys,
    wrote,
)
from raykv.coordinator.loading import Loading
from raykv.coordinator.nearness import NOWHERE, Place
from raykv.coordinator.reads import Reads
from raykv.coordinator.routing import Routing
from raykv.coordinator.scans import ScanCoordinator
from raykv.coordinator.snapshots import Snapshots
from raykv.coordinator.steps import Learn
from raykv.coordinator.writes import Put, Writes
from raykv.errors import InvalidOption, Overloaded, RaykvError
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.protocol.changes import READ
from raykv.records.keys import check_keys
from raykv.records.linear_record import LANE_BYTES
from raykv.records.record import check_body
from raykv.versions import only_value, shown
from raykv.versions.causality import unpack_causality

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import Iterator, Sequence

    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.in_flight import InFlightWrite
    from raykv.coordinator.steps import Steps
    from raykv.ports import Clock, Metrics, Transport
    from raykv.versions.causality import Causality

MAX_REPAIRS_AT_ONCE = 64
MAX_ITEMS_UNDER_WAY = 50_000
"""Items that all batches of a coordinator may have in flight; past it a batch is ``Overloaded``."""


class _Shared(NamedTuple):
    """What two views of one coordinator have in common, below other transports."""

    routing: Routing
    writes: Writes
    changes: Changes


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
        reports_as: int = 0,
        here: Place = NOWHERE,
        shared: _Shared | None = None,
    ) -> None:
        """``asks``: it runs inside a client and polls for cluster updates (see ``routing``). ``run``: drawn if 0.

        ``reports_as``: the number of these ``metrics``, if another coordinator may report them, too; else ``run``.
        ``here``: where it runs; reads prefer nodes nearby. ``shared``: from the coordinator whose knowledge, health of nodes
        and clocks it has, too.
        """
        self._random = random
        self.run = run or random.getrandbits(62) + 1
        """Names this run, so that a client's deadline is not compared with another run's clock."""
        self._clock = clock
        self._metrics = metrics
        self._items_under_way = 0
        if shared is None:
            routing = Routing(transport, clock, metrics, asks=asks, run=reports_as or self.run, here=here)
            shared = _Shared(routing, Writes(routing), Changes(routing, self._room_for))
        self.routing, self._writes, self._changes = shared
        self._reads = Reads(self.routing)
        self._scans = ScanCoordinator(self.routing, self._reads)
        self._fast_path = FastPath(self.routing, self._writes)
        self.snapshots = Snapshots(self.routing, random)
        self.loading = Loading(self.routing)

    def beside(self, transport: Transport) -> Coordinator:
        """Return this coordinator as it would be with another transport, for an operation of its own (``explaining``)."""
        routing = self.routing.beside(transport)
        shared = _Shared(routing, self._writes.beside(routing), self._changes.beside(routing))
        return Coordinator(
            transport, self._clock, self._metrics, self._random, asks=routing.asks, run=self.run, shared=shared
        )

    def leader_of(self, place: tuple[int, int]) -> str | None:
        """Return the node that leads a place of a linearizable bucket, as far as this coordinator knows."""
        return self._changes.leader_of(place)

    def figures(self) -> dict[str, Any]:
        """Return this coordinator's counters, as plain data."""
        return {
            "items_under_way": self._items_under_way,
            "calls_under_way": len(self.routing.tasks),
            **self._metrics.counted(),
        }

    def most_keys(self, bucket_id: int) -> int:
        """Return the largest number of keys of that bucket that one request may hold."""
        return most_keys(self.routing.known_bucket(bucket_id))

    # ---- client operations ----

    def operation(
        self, request: f.CoordinatorRequest, *, fast: bool | None = None
    ) -> Steps[f.CoordinatorAnswer] | None:
        """Return the steps of a read, a write or a scan, or None for any other request. They raise ``RaykvError``.

        ``fast``: whether to try the fast path first; the default is yes for a client's embedded coordinator. A
        coordinator that serves many clients learns much of what nodes say from the quorum path, and can afford a
        millisecond.
        """
        fast = self.routing.asks if fast is None else fast
        match request:
            case f.GetMany():
                return self._get(request, fast=fast)
            case f.WriteMany():
                return self._write(request, fast=fast)
            case f.ChangeMany():
                return self._change(request)
            case f.ScanPage():
                return self._scan(request, fast=fast)
        return None

    def _get(self, request: f.GetMany, *, fast: bool) -> Steps[f.GotMany]:
        """Read each key's value, or its error, in the order asked."""
        deadline_s = self._clock.monotonic_s() + check_timeout(request.timeout_s)
        entry = self.routing.known_bucket(request.bucket_id)
        if entry is None:
            entry = yield from self._learn(request.bucket_id, request.timeout_s)
        check_most_keys(entry, len(request.keys))
        check_replicas("r", request.r, entry.config.n)
        check_keys(request.keys)
        if entry.config.versioning == "linearizable":
            return (yield from self._changes.read(entry, request, deadline_s))
        if not fast or not request.keys or entry.config.sloppy:
            return (yield from self._get_by_quorum(entry, request, deadline_s))
        found = yield from self._fast_path.read(entry, request)
        if isinstance(found, f.GotMany):
            return found
        if found is None:
            return (yield from self._get_by_quorum(entry, request, deadline_s))
        try:
            rest = yield from self._get_by_quorum(entry, found.rest, deadline_s)
        except RaykvError as error:  # the plain answers stay valid
            rest = f.GotMany([f.Failed.of(error)] * len(found.places), 0)
        for place, item in zip(found.places, rest.items, strict=True):
            found.items[place] = item
        return f.GotMany(found.items, max(found.time, rest.time))

    def _get_by_quorum(self, entry: BucketEntry, request: f.GetMany, deadline_s: float) -> Steps[f.GotMany]:
        with self._room_for(len(request.keys)):
            records = yield from self._reads.records(entry, request.keys, request.r, deadline_s)
        self._count_errors(records)
        answer, siblings = got(records, self._clock.wall_ms(), causality=request.causality)
        self._metrics.count("siblings_read", siblings)
        return answer

    def _write(self, request: f.WriteMany, *, fast: bool) -> Steps[f.WroteMany | f.DeadlinePassed]:
        """Write each item; return who acknowledged it, or its error, in the order sent."""
        deadline_s = self._deadline_s(request)
        if isinstance(deadline_s, f.DeadlinePassed):
            return deadline_s
        entry = self.routing.known_bucket(request.bucket_id)
        if entry is None:
            entry = yield from self._learn(request.bucket_id, request.timeout_s)
        if entry.config.versioning == "linearizable":
            raise InvalidOption(f"bucket {entry.config.name!r} is linearizable: it takes changes, not blind writes")
        check_replicas("w", request.w, entry.config.n)
        check_keys([key for key, _, _ in request.items])
        puts = []
        for key, body, seen in request.items:
            check_body(body)
            puts.append(Put(key, body, None if seen is None else unpack_causality(seen)))
        self._writes.observe(request.after)
        if fast and puts and not entry.config.sloppy:
            begun = yield from self._fast_path.write(entry, puts, request.w, deadline_s)
            if begun is not None:
                return (yield from self._finish(puts, begun))
        with self._room_for(len(puts)):
            written = yield from self._writes.write(entry, puts, request.w, deadline_s)
        self._count_errors(written)
        return wrote([put.body for put in puts], written)

    def _count_errors(self, outcomes: Sequence[object]) -> None:
        """Count those that are errors, by class."""
        for outcome in outcomes:
            if isinstance(outcome, RaykvError):
                self.count_error(outcome)

    def count_error(self, error: RaykvError) -> None:
        """Count an operation, or a key of one, that has failed."""
        self._metrics.count(f"errors.{type(error).__name__}")

    def _deadline_s(self, request: f.WriteMany | f.ChangeMany) -> float | f.DeadlinePassed:
        """Return until when a write may take; or that it must not begin (P8)."""
        now_s = self._clock.monotonic_s()
        if is_too_late(request, self.run, now_s):
            self._metrics.count("late_requests")
            return f.DeadlinePassed(self.run, now_s)
        check_items(len(request.items))
        deadline_s = now_s + check_timeout(request.timeout_s)
        return min(deadline_s, request.expires_s) if request.run else deadline_s

    def _change(self, request: f.ChangeMany) -> Steps[f.ChangedMany | f.DeadlinePassed]:
        """Have each change carried out once; return what became of it, or its error, in the order sent."""
        over_s = self._clock.monotonic_s() + (request.left_s or request.timeout_s)
        deadline_s = self._deadline_s(request)
        if isinstance(deadline_s, f.DeadlinePassed):
            return deadline_s
        entry = self.routing.known_bucket(request.bucket_id)
        if entry is None:
            entry = yield from self._learn(request.bucket_id, request.timeout_s)
        if entry.config.versioning != "linearizable":
            raise InvalidOption(f"bucket {entry.config.name!r} is not linearizable: it takes no such change")
        keys = [change.key for change in request.items]
        check_keys(keys)
        if any(len(change.lane) != LANE_BYTES for change in request.items if change.kind != READ):
            raise InvalidOption("a change needs the lane of its client")
        with self._room_for(len(request.items)):
            outcomes = yield from self._changes.change(entry, request.items, deadline_s, over_s)
        self._count_errors(outcomes)
        items = [f.Failed.of(each) if isinstance(each, RaykvError) else each for each in outcomes]
        return f.ChangedMany(items)

    def _finish(self, puts: Sequence[Put], begun: InFlightWrite) -> Steps[f.WroteMany]:
        """Answer with what a write has by now, or continue it where too few have acknowledged it (P8)."""
        written: list[tuple[list[str], Causality] | RaykvError]
        if begun.taken_over:
            outcomes = yield from self._writes.finish(begun)
            written = [
                outcome if isinstance(outcome, RaykvError) else (outcome, causality)
                for outcome, causality in zip(outcomes, begun.causalities, strict=True)
            ]
        else:
            written = [*zip(begun.holders(), begun.causalities, strict=True)]
        for place, error in begun.refused.items():
            written.insert(place, error)
        return wrote([put.body for put in puts], written)

    def _scan(self, request: f.ScanPage, *, fast: bool) -> Steps[f.Page]:
        """Return the next live records of a bucket in key order (P15). See ``raykv.coordinator.scans``."""
        deadline_s = self._clock.monotonic_s() + check_timeout(request.timeout_s)
        entry = self.routing.known_bucket(request.bucket_id)
        if entry is None:
            entry = yield from self._learn(request.bucket_id, request.timeout_s)
        self._check_room(1)
        check_replicas("r", request.r, entry.config.n)
        now_ms = self._clock.wall_ms()
        records, resume = yield from self._scans.page(entry, request, deadline_s, now_ms, fast=fast)
        items: list[tuple[bytes, list[bytes], bool]] = []
        for key, record in records:
            value = only_value(record)
            if value is not None:  # most records
                items.append((key, [b"" if request.keys_only else value[1]], False))
            elif (item := shown(record, now_ms)).payloads:
                items.append((key, [b""] * len(item.payloads) if request.keys_only else item.payloads, item.gone))
        return f.Page(items, resume)

    def _learn(self, bucket_id: int, timeout_s: float) -> Steps[BucketEntry]:
        yield Learn(timeout_s, bucket_id)
        return self.routing.bucket(bucket_id)

    @contextlib.contextmanager
    def _room_for(self, items: int) -> Iterator[None]:
        """Bound the items in flight on the quorum path. Raises ``Overloaded``."""
        self._check_room(items)
        self._items_under_way += items
        try:
            yield
        finally:
            self._items_under_way -= items

    def _check_room(self, items: int) -> None:
        if self._items_under_way + items > MAX_ITEMS_UNDER_WAY:
            raise Overloaded(f"the coordinator works on {self._items_under_way} items already; try again", items=items)

    # ---- administration ----

    async def repair_partitions(self, request: f.RepairPartitions) -> list[dict[str, Any]]:
        """Make an owner of each partition compare it with the others and repair differences. Returns figures of each."""
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
