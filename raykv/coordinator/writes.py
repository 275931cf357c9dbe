"""Quorum writes (P7, P8).

**lww** (one round): the coordinator stamps the write with a hybrid time and sends it to all N primaries. A replica that
holds something newer does not count; if that keeps W from being met the coordinator restamps the write above it, under
the same operation id. Once is enough: the new stamp is above everything acknowledged before it began, and a record that
is newer even so was written concurrently, and may follow it. A retry to a node keeps its stamp, so it is the same write.

**vector** (two rounds): first a primary gives a dot, and enough primaries show what they hold (``ReserveRound``); then
the write goes out to all N under that dot, with its context: the writer's, or, without one, all that was shown. A write
without a context must see what it supersedes before it is sent, and it does: it asks N - W + 1 primaries, and any
write that W of them acknowledged is on one of those. A write with a context needs the dot only.

Why not let the first primary keep the write, answer with its state, and stamp again where others hold more (as P7 and P8
have it)? Then a write can have two dots: two writes that meet each other and are both restamped, or a dot whose answer
was lost. Each such case needs a rule of its own. A dot without a write needs none.

W durable acknowledgements make a success. A miss is *unknown*, not undone: the write may exist, and may surface later.
In the first round nothing has been written yet, and a failure there says that to the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from raykv.cluster.fanout import Fanout, gather
from raykv.cluster.peers import is_overloaded
from raykv.config import MAX_SIBLINGS, MAX_SIBLINGS_BYTES
from raykv.coordinator.judgements import is_reserve, shown_needed
from raykv.coordinator.rounds import ReserveAsks, ReserveRound, WriteRound
from raykv.coordinator.write_fanout import WriteFanout
from raykv.errors import Overloaded, PairTooLarge, RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.record import body_operation_id, restamp, stamp, time_of
from raykv.versions import ClockTooFarAhead, HybridClock
from raykv.versions.causality import Causality, contains, covers, union, unpack_causality
from raykv.versions.dvvset import event

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.cluster.fanout import Outcome
    from raykv.cluster.peers import Peers
    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.in_flight import InFlightWrite
    from raykv.coordinator.routing import Routing
    from raykv.coordinator.steps import Steps
    from raykv.ports import Metrics

OVERLOADED = "overloaded"
RESERVE_FLOOR_S = 0.1
"""The least time for a node to give a dot before another one is asked: each wasted dot costs a few bytes."""


class Put(msgspec.Struct, frozen=True, gc=False):
    """A write as the client sent it: the body packed, the causality checked; None: the writer has not read the key."""

    key: bytes
    body: bytes
    seen: Causality | None


class Done(NamedTuple):
    """A write that W nodes hold: which nodes, and what it superseded, itself included."""

    nodes: list[str]
    causality: Causality


Written: TypeAlias = Done | RaykvError


class Writes:
    """Writes of one coordinator. Holds its hybrid clock."""

    def __init__(self, routing: Routing, hybrid: HybridClock | None = None) -> None:
        self.routing = routing
        self._hybrid = HybridClock() if hybrid is None else hybrid

    def beside(self, routing: Routing) -> Writes:
        """Return the writes of another view of the same coordinator: they have the same hybrid clock."""
        return Writes(routing, self._hybrid)

    @property
    def peers(self) -> Peers:
        """The nodes, as this coordinator knows them."""
        return self.routing.peers

    @property
    def metrics(self) -> Metrics:
        """Where writes are counted."""
        return self.routing.metrics

    def write(self, entry: BucketEntry, items: Sequence[Put], w: int, deadline_s: float) -> Steps[list[Written]]:
        """Write the items."""
        if entry.config.versioning == "vector":
            return self._write_vector(entry, items, w, deadline_s)
        return self._write_lww(entry, items, w, deadline_s)

    def finish(self, begun: InFlightWrite) -> Steps[list[list[str] | RaykvError]]:
        """Continue writes already sent, under the stamps that they have: who acknowledged each, or its error."""
        outcomes = yield from self.spread(
            begun.entry, begun.puts, begun.records, begun.w, begun.deadline_s, was_sent=True
        )
        if begun.entry.config.versioning == "lww":  # some may have been restamped above what is stored
            begun.causalities = [Causality(time_of(record)) for record in begun.records]
        return outcomes

    def observe(self, after: int) -> None:
        """Make later stamps exceed a time that a client has seen. Raises ``StoreUnavailable``."""
        try:
            self._hybrid.observe(after, self.routing.clock.wall_ms())
        except ClockTooFarAhead as error:
            raise StoreUnavailable(f"nothing was written: {error}") from None

    # ---- last writer wins ----

    def stamped_lww(self, item: Put) -> tuple[bytes, Causality]:
        """Return a write's record and its causality. Raises ``StoreUnavailable``: a clock far ahead."""
        try:
            time = self._next_time(item.seen.time if item.seen else 0)
        except ClockTooFarAhead as error:
            raise StoreUnavailable(f"nothing was written: {error}") from None
        return stamp(item.body, time), Causality(time)

    def _write_lww(self, entry: BucketEntry, items: Sequence[Put], w: int, deadline_s: float) -> Steps[list[Written]]:
        results: list[Written | None] = []
        records: list[bytes] = []
        for item in items:
            try:
                records.append(self.stamped_lww(item)[0])
                results.append(None)
            except StoreUnavailable as error:
                results.append(error)
        fine = [index for index, result in enumerate(results) if result is None]
        stamped = yield from self.spread(entry, [items[index] for index in fine], records, w, deadline_s)
        for position, index in enumerate(fine):
            outcome = stamped[position]
            time = time_of(records[position])
            results[index] = Done(outcome, Causality(time)) if isinstance(outcome, list) else outcome
        return [result for result in results if result is not None]

    def restamp(self, record: bytes, above: int) -> bytes:
        """See ``write_fanout.Restamper``."""
        return restamp(record, self._next_time(above))

    def _next_time(self, above: int) -> int:
        """Return a hybrid time above ``above``. Raises ``ClockTooFarAhead``."""
        now_ms = self.routing.clock.wall_ms()
        self._hybrid.observe(above, now_ms)
        return self._hybrid.next(now_ms)

    # ---- vector ----

    def _write_vector(
        self, entry: BucketEntry, items: Sequence[Put], w: int, deadline_s: float
    ) -> Steps[list[Written]]:
        reserved, failures = yield from self._reserve(entry, items, w, deadline_s)
        results: list[Written | None] = []
        records: list[bytes] = []
        causalities: list[Causality] = []
        for index, item in enumerate(items):
            if not reserved.settled(index):
                results.append(_nothing_written(item, failures))
                continue
            dot, shown = reserved.outcome(index)
            try:
                record, causality = self.stamped(item, dot, shown)
            except RaykvError as error:
                results.append(error)
            else:
                results.append(None)
                records.append(record)
                causalities.append(causality)
        fine = [index for index, result in enumerate(results) if result is None]
        stamped = yield from self.spread(entry, [items[index] for index in fine], records, w, deadline_s)
        for position, index in enumerate(fine):
            outcome = stamped[position]
            results[index] = Done(outcome, causalities[position]) if isinstance(outcome, list) else outcome
        return [result for result in results if result is not None]

    def stamped(self, item: Put, given: f.Reserved, shown: Sequence[f.Reserved]) -> tuple[bytes, Causality]:
        """Return a write's record, and what it supersedes, itself included.

        Raises ``PairTooLarge`` (too many unmerged versions), ``StoreUnavailable`` (a clock far ahead).
        """
        dot = (given.actor, given.counter)
        found = [*map(unpack_causality, dict.fromkeys([answer.causality for answer in shown]))]  # most show the same
        if item.seen is not None:
            seen = item.seen.seen
            _check_room(item, given, covers(seen, unpack_causality(given.causality).seen))
        else:
            seen = ()
            for causality in found:
                seen = union(seen, causality.seen)
        if contains(seen, dot):  # its giver has lost the memory of this run, or the context was made up
            raise StoreUnavailable(
                "nothing was written: the name that was given to the write was given before; try again"
            )
        above = max([causality.time for causality in found] + [item.seen.time if item.seen else 0])
        try:
            time = self._next_time(above)
        except ClockTooFarAhead as error:
            raise StoreUnavailable(f"nothing was written: {error}") from None
        new = event(dot, seen, time, item.body)
        return vector.encode(new), Causality(time, new.seen)

    def _reserve(
        self, entry: BucketEntry, items: Sequence[Put], w: int, deadline_s: float
    ) -> Steps[tuple[ReserveRound, dict[str, str]]]:
        """Get a dot and the stored versions for each item. Returns the round, and each failing node's reason."""
        routing = self.routing
        needed = [shown_needed(entry, item.seen, w) for item in items]
        while True:
            round_, failures, moved = yield from self._reserve_once(entry, items, needed, deadline_s)
            if not moved or routing.clock.monotonic_s() >= deadline_s:
                return round_, failures
            routing.check_there(entry.bucket_id)

    def _reserve_once(
        self, entry: BucketEntry, items: Sequence[Put], needed: Sequence[int], deadline_s: float
    ) -> Steps[tuple[ReserveRound, dict[str, str], bool]]:
        """Ask by the current ring. Also returns whether other owners came to light: then ask them."""
        routing, config = self.routing, entry.config
        orders = routing.orders(config, [item.key for item in items], sloppy=config.sloppy)
        round_ = ReserveRound(orders, needed)
        fan: Fanout[list[tuple[int, bool]]] = Fanout(routing.peers, deadline_s, routing.epoch)
        failures: dict[str, str] = {}

        def send(asks: ReserveAsks) -> None:
            for node_id, asked in asks.items():
                keys = [items[index].key for index, _ in asked]
                ids = [body_operation_id(items[index].body) if with_dot else b"" for index, with_dot in asked]
                fan.send(node_id, f.ReserveDots(entry.bucket_id, keys, ids, config.sloppy), len(asked), asked)

        def take(outcome: Outcome[list[tuple[int, bool]]]) -> ReserveAsks:
            answer = outcome.answer
            if is_reserve(answer, len(outcome.about)):
                pairs = list(zip(outcome.about, answer.items, strict=True))
                given = [(about, item) for about, item in pairs if item is not None]
                round_.answered(outcome.node_id, [about for about, _ in given], [item for _, item in given])
                return round_.failed(outcome.node_id, [about for about, item in pairs if item is None])
            failures[outcome.node_id] = _said(outcome)
            if is_overloaded(outcome.failure):
                failures[OVERLOADED] = "some have more to do than they can"
                return round_.overloaded(outcome.node_id, outcome.about)
            return round_.failed(outcome.node_id, outcome.about)

        first = round_.start()
        send(first)
        usual_s = routing.peers.hedge_delay_s("ReserveDots", max(map(len, first.values()), default=0), list(first))
        hedge_s = max(RESERVE_FLOOR_S, usual_s)
        yield from gather(round_, fan, routing.clock, send=send, take=take, hedge_s=hedge_s, deadline_s=deadline_s)
        routing.metrics.count("second_dots", round_.second_dots)
        return round_, failures, fan.moved and round_.open

    def spread(
        self,
        entry: BucketEntry,
        items: Sequence[Put],
        records: list[bytes],
        w: int,
        deadline_s: float,
        *,
        was_sent: bool = False,
    ) -> Steps[list[list[str] | RaykvError]]:
        """Send the records out; return who acknowledged each, or its error. Restamped ones change in ``records``.

        ``was_sent``: the fast path has sent them before, so they may exist somewhere, whatever the answers say now (P8).
        """
        keys = [item.key for item in items]
        routing, config = self.routing, entry.config

        def owners() -> tuple[list[tuple[tuple[str, ...], ...]], list[list[str]] | None]:
            fallbacks = [routing.fallbacks(config, key) for key in keys] if config.sloppy else None
            return [routing.write_sets(config, key) for key in keys], fallbacks

        sets, fallbacks = owners()
        round_ = WriteRound(sets, w, fallbacks=fallbacks, was_sent=was_sent)
        while True:
            fanout = WriteFanout(routing, entry, records, keys, round_, self)
            yield from fanout.run(deadline_s)
            if not fanout.moved or not round_.open or routing.clock.monotonic_s() >= deadline_s:
                break
            routing.check_there(entry.bucket_id)
            round_.reassign(*owners())  # under the same stamps: it is the same write (P8)
            routing.metrics.count("writes_moved")
        return [
            round_.acks(index) if round_.settled(index) else _write_error(round_, index, item, w, fanout.failures)
            for index, item in enumerate(items)
        ]

    def complete(
        self,
        entry: BucketEntry,
        keys: Sequence[bytes],
        records: Sequence[bytes],
        holders: Sequence[Sequence[str]],
        made_ms: int,
        timeout_s: float,
    ) -> Steps[None]:
        """Resend acknowledged writes to the other owners; unreachable ones get hints.

        An owner that holds something newer needs no copy. ``holders``: for each write, the nodes known to hold it.
        """
        routing, config = self.routing, entry.config
        deadline_s = routing.clock.monotonic_s() + timeout_s
        round_ = WriteRound([routing.write_sets(config, key) for key in keys], config.n, newer_counts=True)
        for index, nodes in enumerate(holders):
            round_.already(index, nodes)
        while True:
            fanout = WriteFanout(routing, entry, [*records], keys, round_, made_ms=made_ms, hints=True)
            yield from fanout.run(deadline_s)
            if not fanout.moved or not round_.open or routing.clock.monotonic_s() >= deadline_s:
                return
            if not routing.is_there(entry.bucket_id):
                return  # it was dropped: no owner takes the write any more
            round_.reassign([routing.write_sets(config, key) for key in keys], None)


def _check_room(item: Put, given: f.Reserved, seen_all: bool) -> None:
    """Refuse one more version where too many exist that the writer has not seen."""
    room = given.siblings < MAX_SIBLINGS and given.record_bytes + len(item.body) <= MAX_SIBLINGS_BYTES
    if not room and not seen_all:
        raise PairTooLarge(
            f"{given.siblings} versions of this key stand side by side, {given.record_bytes} bytes, and the context has "
            "not seen them all: read it, and write what they make together with the context of that read",
            siblings=given.siblings,
            limit=MAX_SIBLINGS,
        )


def _said(outcome: Outcome[Any]) -> str:
    if outcome.failure is not None:
        return str(outcome.failure)
    return outcome.answer.reason if isinstance(outcome.answer, f.Incomplete) else "gave an answer that does not fit"


def _nothing_written(item: Put, failures: dict[str, str]) -> RaykvError:
    said = "; ".join(f"{node_id}: {cause}" for node_id, cause in sorted(failures.items())) or "no answer in time"
    kind = Overloaded if OVERLOADED in failures else StoreUnavailable
    return kind(
        f"nothing was written, for too few replicas said what they hold: {said}",
        operation_id=body_operation_id(item.body).hex(),
        failures=failures,
    )


def _write_error(round_: WriteRound, index: int, item: Put, w: int, failures: dict[str, str]) -> RaykvError:
    operation_id = body_operation_id(item.body).hex()
    details: dict[str, Any] = {"operation_id": operation_id, "acks": round_.acks(index), "failures": failures}
    said = "; ".join(f"{node_id}: {cause}" for node_id, cause in sorted(failures.items())) or "no answer in time"
    if reasons := round_.untouched(index):
        if "no room" in reasons:
            return PairTooLarge(
                "nothing was written, for too many versions of this key stand that nobody merged", **details
            )
        kind = Overloaded if "overloaded" in reasons else StoreUnavailable
        return kind(f"nothing was written, for no replica took it: {said}", **details)
    return WriteOutcomeUnknown(
        f"the write has {len(details['acks'])} of {w} acknowledgements; it may stand and may surface later ({said})",
        needed=w,
        **details,
    )
