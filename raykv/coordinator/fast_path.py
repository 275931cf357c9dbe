"""The fast path: an operation in the healthy case.

Nearly every operation meets only healthy replicas that agree, and needs none of a quorum's machinery: accumulators,
timers, hedges, repairs. An operation therefore first sends the frames of a round at once, waits for as many answers as
it needs, and is done if each of them is plain. A plain answer comes from a trusted node that knows the same owners, is
complete, and did what was asked; and all records read are the same.

Otherwise the operation continues on the quorum path: a read from the beginning, and a read of many keys only for those
that are not plain (``PartialRead``); a write under the stamp or dot that it already has (``InFlightWrite``, P8).

The judgements are those of the quorum path (``judgements``, ``cluster.health``, ``cluster.peers``). The code here
duplicates only control flow, for the case that a benchmark pays for: one round, with a variant for a single key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import msgspec

from raykv.cluster.health import LEARNS_EVERY
from raykv.coordinator.in_flight import InFlightWrite
from raykv.coordinator.judgements import first_to_reserve, got, is_read, is_reserve, shown_needed
from raykv.coordinator.steps import Round
from raykv.errors import RaykvError
from raykv.protocol import frames as f
from raykv.records.record import body_operation_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.cluster.peers import Said
    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.routing import Routing
    from raykv.coordinator.steps import Steps
    from raykv.coordinator.writes import Put, Writes

WRITE_PATIENCE_S = 0.1
"""How long to wait for a plain answer to one write before the operation continues; longer for many."""

Reservation: TypeAlias = "tuple[f.Reserved, list[f.Reserved]]"
"""A dot, and the causality of all shown records."""


class PartialRead(NamedTuple):
    """A read of many keys, some of them not plain: the quorum path reads ``rest``, the keys at ``places``."""

    items: list[bytes | f.KeyVersions | f.Failed]
    """The records found; the quorum path fills in those at ``places``."""
    time: int
    places: list[int]
    rest: f.GetMany


class FastPath:
    """The fast path of one coordinator."""

    def __init__(self, routing: Routing, writes: Writes) -> None:
        self._routing = routing
        self._writes = writes
        self._reads_of_one = 0

    # ---- reads ----

    def read(self, entry: BucketEntry, request: f.GetMany) -> Steps[f.GotMany | PartialRead | None]:
        """Read each key from R of its owners. None: no cluster state is known yet."""
        return self._read_one(entry, request) if len(request.keys) == 1 else self._read_many(entry, request)

    def _read_one(self, entry: BucketEntry, request: f.GetMany) -> Steps[f.GotMany | PartialRead | None]:
        """As ``_read_many``, for one key: without what divides many among the nodes."""
        routing = self._routing
        peers = routing.peers
        (witnesses,) = routing.owners_in_both_rings(entry.config, request.keys)
        asked = peers.first_available(witnesses, request.r)
        if len(asked) < request.r:
            return None
        patience_s = min(request.timeout_s, peers.hedge_delay_s("Read", 1, asked))
        body, epoch = f.Read(request.bucket_id, request.keys), routing.epoch
        said: Said = {}
        frames = {node_id: peers.request(node_id, body, epoch, said) for node_id in asked}
        began_s = routing.clock.monotonic_s()
        answers = yield Round(frames, ((asked, request.r),), patience_s)
        self._reads_of_one += 1
        samples = not self._reads_of_one % LEARNS_EVERY
        if len(answers) < request.r:
            if samples:
                peers.record_timeout("Read", {node_id: 1 for node_id in asked if node_id not in answers})
            peers.spend_hedges(1)
            return None
        if samples:
            peers.record_latency("Read", dict.fromkeys(asked, 1), routing.clock.monotonic_s() - began_s)
        records: list[bytes | None] = []
        for node_id in asked:
            answer = peers.plain(node_id, answers[node_id], said)
            if not is_read(answer, 1) or answer.unreadable or answer.left:
                return None
            records.append(answer.records[0])
        if records.count(records[0]) != len(records):
            return None
        return self._got(request, records[:1], [])

    def _read_many(self, entry: BucketEntry, request: f.GetMany) -> Steps[f.GotMany | PartialRead | None]:
        routing, keys = self._routing, request.keys
        together: dict[tuple[str, ...], list[int]] = {}
        for index, witnesses in enumerate(routing.owners_in_both_rings(entry.config, keys)):
            together.setdefault(witnesses, []).append(index)
        wanted: dict[str, list[bytes]] = {}
        shares: list[tuple[list[int], list[tuple[str, int]]]] = []
        for witnesses, indexes in together.items():
            asked = routing.peers.first_available(witnesses, request.r)
            if len(asked) < request.r:
                return None
            shares.append((indexes, [(node_id, len(wanted.get(node_id, ()))) for node_id in asked]))
            for node_id in asked:
                wanted.setdefault(node_id, []).extend([keys[index] for index in indexes])
        answers = yield from self._ask_to_read(request, wanted)
        if answers is None:
            return None
        records: list[bytes | None] = [None] * len(keys)
        unlike: list[int] = []
        for indexes, asked_at in shares:
            (first, *others) = (answers[node_id][at : at + len(indexes)] for node_id, at in asked_at)
            for position, index in enumerate(indexes):
                records[index] = first[position]
            if others.count(first) != len(others):
                unlike += [at for same, at in zip(zip(first, *others, strict=True), indexes, strict=True)
                           if same.count(same[0]) != len(same)]  # fmt: skip
        return self._got(request, records, unlike)

    def _ask_to_read(
        self, request: f.GetMany, wanted: dict[str, list[bytes]]
    ) -> Steps[dict[str, list[bytes | None]] | None]:
        """Return each node's records of the keys it is asked for; None if any node's answer is not plain."""
        peers, clock = self._routing.peers, self._routing.clock
        asked = {node_id: len(keys) for node_id, keys in wanted.items()}
        patience_s = min(request.timeout_s, peers.hedge_delay_s("Read", max(asked.values()), [*asked]))
        said: Said = {}
        frames = {
            node_id: peers.request(node_id, f.Read(request.bucket_id, keys), self._routing.epoch, said)
            for node_id, keys in wanted.items()
        }
        began_s = clock.monotonic_s()
        heard = yield Round(frames, ((tuple(frames), len(frames)),), patience_s)
        if len(heard) < len(asked):
            peers.record_timeout("Read", {node_id: items for node_id, items in asked.items() if node_id not in heard})
            peers.spend_hedges(len(request.keys))
            return None
        answers: dict[str, list[bytes | None]] = {}
        for node_id, items in asked.items():
            answer = peers.plain(node_id, heard[node_id], said)
            if is_read(answer, items) and not answer.unreadable and not answer.left:
                answers[node_id] = answer.records
        if len(answers) < len(asked):
            return None
        peers.record_latency("Read", asked, clock.monotonic_s() - began_s)
        return answers

    def _got(self, request: f.GetMany, records: list[bytes | None], unlike: list[int]) -> f.GotMany | PartialRead:
        answer, siblings = got(records, self._routing.clock.wall_ms(), causality=request.causality)
        metrics = self._routing.metrics
        metrics.count("fast_path_reads", len(records) - len(unlike))
        if siblings:
            metrics.count("siblings_read", siblings)
        if not unlike:
            return answer
        metrics.count("fast_path_reads_left", len(unlike))
        rest = msgspec.structs.replace(request, keys=[request.keys[index] for index in unlike])
        return PartialRead(answer.items, answer.time, unlike, rest)

    # ---- writes ----

    def write(self, entry: BucketEntry, puts: list[Put], w: int, deadline_s: float) -> Steps[InFlightWrite | None]:
        """Write to all reachable owners. None: nothing was written yet.

        The returned write is acknowledged if its quorums are met; else the quorum path continues it.
        """
        routing = self._routing
        # Both rounds go out under the epoch that named the owners: others may learn a later one in between (P4).
        owners, epoch = [routing.settled_owners(entry.config, put.key) for put in puts], routing.epoch
        settled = [nodes for nodes in owners if nodes is not None]
        if len(settled) < len(owners):
            return None
        # A slow owner gets the write too, but the round does not wait for it.
        unreachable = routing.peers.unreachable_of({node_id for nodes in {*settled} for node_id in nodes})
        if unreachable is None or (unreachable and any(len({*nodes} - unreachable) < w for nodes in {*settled})):
            return None
        reserved: list[Reservation] | None = None
        if entry.config.versioning == "vector":
            reserved = yield from self._reserve(entry, puts, w, settled, unreachable, epoch)
            if reserved is None:
                return None
        write = InFlightWrite(self._writes, entry, w, deadline_s, routing.clock.wall_ms(), unreachable)
        self._stamp(write, puts, settled, reserved)
        if not write.puts:
            return write
        if routing.clock.monotonic_s() >= deadline_s:
            return None  # this process stood still meanwhile; nothing was written (P8)
        yield from self._send(write, epoch)
        return write

    def _send(self, write: InFlightWrite, epoch: int) -> Steps[None]:
        peers, bucket_id = self._routing.peers, write.entry.bucket_id
        items = [(put.key, record) for put, record in zip(write.puts, write.records, strict=True)]
        frames = {}
        for node_id, sent in write.sent_to().items():
            body = f.Write(bucket_id, [items[at] for at in sent], write.made_ms)
            frames[node_id] = peers.request(node_id, body, epoch, write.said)
        round_ = Round(frames, write.quorums, _patience_s(write.puts), write)
        for node_id, frame in (yield round_).items():
            write.note(node_id, frame)
        if round_.met(write.acks):
            self._routing.metrics.count("fast_path_writes", len(write.puts))
        else:
            self._routing.metrics.count("fast_path_writes_left", len(write.puts))
            write.taken_over = True

    def _stamp(
        self,
        write: InFlightWrite,
        puts: list[Put],
        owners: list[tuple[str, ...]],
        reserved: Sequence[Reservation] | None,
    ) -> None:
        """Stamp each write; a write that cannot be stamped does not hinder the others."""
        for place, put in enumerate(puts):
            try:
                record, causality = (
                    self._writes.stamped_lww(put) if reserved is None else self._writes.stamped(put, *reserved[place])
                )
            except RaykvError as error:
                write.refused[place] = error
                continue
            write.puts.append(put)
            write.records.append(record)
            write.causalities.append(causality)
            write.owners.append(owners[place])

    def _reserve(
        self,
        entry: BucketEntry,
        puts: list[Put],
        w: int,
        owners: list[tuple[str, ...]],
        unreachable: frozenset[str],
        epoch: int,
    ) -> Steps[list[Reservation] | None]:
        """Get a dot for each write, and what the owners hold. None: too few show it."""
        peers = self._routing.peers
        order = {
            nodes: peers.in_order([node for node in self._routing.nearest_first(nodes) if node not in unreachable])
            for nodes in dict.fromkeys(owners)
        }
        asked: list[list[tuple[str, bool]]] = []
        first: dict[tuple[tuple[str, ...], int], list[tuple[str, bool]]] = {}
        for put, nodes in zip(puts, owners, strict=True):
            needed = shown_needed(entry, put.seen, w)
            if len(order[nodes]) < needed:
                return None
            share = nodes, needed
            asked.append(first.get(share) or first.setdefault(share, first_to_reserve(order[nodes], needed)))
        wanted: dict[str, tuple[list[bytes], list[bytes]]] = {}
        for put, nodes_asked in zip(puts, asked, strict=True):
            for node_id, with_dot in nodes_asked:
                keys, ids = wanted.setdefault(node_id, ([], []))
                keys.append(put.key)
                ids.append(body_operation_id(put.body) if with_dot else b"")
        said: Said = {}
        frames = {
            node_id: peers.request(node_id, f.ReserveDots(entry.bucket_id, keys, ids), epoch, said)
            for node_id, (keys, ids) in wanted.items()
        }
        answers = yield Round(frames, ((tuple(frames), len(frames)),), _patience_s(puts))
        given = {}
        for node_id, (keys, _) in wanted.items():
            answer = peers.plain(node_id, answers.get(node_id), said)
            if not is_reserve(answer, len(keys)):
                return None
            given[node_id] = iter(answer.items)
        reserved: list[Reservation] = []
        for nodes_asked in asked:
            shown = [item for node_id, _ in nodes_asked if (item := next(given[node_id])) is not None]
            if len(shown) < len(nodes_asked):
                return None
            reserved.append((shown[0], shown))
        return reserved


def _patience_s(puts: list[Put]) -> float:
    """Return how long to wait for a plain answer to writes."""
    return WRITE_PATIENCE_S * (1 + len(puts) / 100)
