"""Scans: a bucket page by page in encoded-key order (P15).

Keys are spread over all partitions, so a page asks, for every partition, R of its primaries; each node is asked once,
for all the partitions that fell to it, and answers with its next records in key order and how far that answer is whole.
The page reaches as far as the least of these; beyond it some node may hold keys that it has not sent yet.

A key on which its R answers agree is done. One on which they differ (or that one of them lacks) goes through an
ordinary quorum read, which merges and repairs; so a scan sees what reads see. The cursor is a key, nothing is kept
between pages: it survives restarts of nodes and coordinators and changes of the ring. No snapshot is promised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from raykv.errors import QuorumNotMet, RaykvError
from raykv.records import frames as f
from raykv.records.record import header_of
from raykv.replication.fanout import Fanout
from raykv.replication.quorum import ReadRound

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from raykv.ports import Clock
    from raykv.replication.cluster_state import BucketEntry, ClusterState
    from raykv.replication.peers import Peers
    from raykv.replication.quorum import Asks

MAX_PAGE_ITEMS = 2000
_HEDGE_FLOOR_S = 0.2


class Reader(Protocol):
    """What a scan needs of the coordinator."""

    tasks: set[asyncio.Task[None]]

    async def state(self, timeout_s: float) -> ClusterState:
        """Return the cluster's state."""
        ...

    async def read_records(
        self, entry: BucketEntry, keys: Sequence[bytes], r: int, deadline_s: float
    ) -> list[bytes | RaykvError | None]:
        """Read records by quorum, with repair."""
        ...


class ScanCoordinator:
    """Pages of scans."""

    def __init__(self, reader: Reader, peers: Peers, clock: Clock) -> None:
        self._reader = reader
        self._peers = peers
        self._clock = clock

    async def page(
        self, entry: BucketEntry, request: f.ScanPage, deadline_s: float
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Return records (tombstones too) in order, and where the next page begins (None: there is none).

        Raises ``QuorumNotMet`` if a partition does not get R complete answers in time.
        """
        limit = max(1, min(request.limit, MAX_PAGE_ITEMS))
        state = await self._reader.state(request.timeout_s)
        n = entry.config.n
        orders = [self._peers.in_order(state.ring.preference_list(p, n)[:n]) for p in range(state.ring.partitions)]
        answers = await self._gather(entry, request, orders, limit, deadline_s)
        bound = _covered([answer.covered for answer in answers if answer.covered is not None], reverse=request.reverse)
        seen: dict[bytes, list[bytes]] = {}
        for answer in answers:
            for key, record in answer.items:
                if bound is None or (key >= bound if request.reverse else key <= bound):
                    seen.setdefault(key, []).append(record)
        keys = sorted(seen, reverse=request.reverse)
        if len(keys) > limit:
            keys, bound = keys[:limit], keys[limit - 1]
        records = await self._settle(entry, request, keys, seen, deadline_s)
        if bound is None:
            return records, None
        return records, bound if request.reverse else bound + b"\x00"

    async def _gather(
        self, entry: BucketEntry, request: f.ScanPage, orders: list[list[str]], limit: int, deadline_s: float
    ) -> list[f.ScanDone]:
        """Get answers until every partition has R. A partition counts here as a key does in a read."""
        round_ = ReadRound(orders, request.r)
        fan: Fanout[list[int]] = Fanout(self._peers, self._clock, deadline_s, self._reader.tasks)
        answers: list[f.ScanDone] = []

        def send(asks: Asks) -> None:
            for node_id, partitions in asks.items():
                body = f.Scan(
                    entry.bucket_id, request.start, request.end, limit, request.reverse, request.keys_only, partitions
                )
                fan.send(node_id, body, limit, partitions)

        hedge_s = max(_HEDGE_FLOOR_S, self._peers.hedge_delay_s("Scan", limit, sorted({order[0] for order in orders})))
        send(round_.start())
        hedge_at_s = self._clock.monotonic_s() + hedge_s
        while round_.open:
            now_s = self._clock.monotonic_s()
            if now_s >= deadline_s:
                lacking = next(index for index in range(len(orders)) if not round_.settled(index))
                raise QuorumNotMet(
                    f"the scan needs {request.r} of nodes {', '.join(orders[lacking])} for partition {lacking}; "
                    f"{len(round_.answers(lacking))} answered in time"
                )
            outcome = await fan.next(min(hedge_at_s, deadline_s) - now_s)
            if outcome is None:
                if hedge_at_s < deadline_s:
                    send(round_.more())
                hedge_at_s = self._clock.monotonic_s() + hedge_s
            elif isinstance(outcome.answer, f.ScanDone):
                round_.answered(outcome.node_id, outcome.about, [None] * len(outcome.about))
                answers.append(outcome.answer)
            else:
                send(round_.failed(outcome.node_id, outcome.about))
        return answers

    async def _settle(
        self,
        entry: BucketEntry,
        request: f.ScanPage,
        keys: list[bytes],
        seen: dict[bytes, list[bytes]],
        deadline_s: float,
    ) -> list[tuple[bytes, bytes]]:
        """Return the record of each key: as seen where R answers agree, else by a quorum read."""
        differing = [key for key in keys if len(seen[key]) < request.r or len(set(seen[key])) > 1]
        settled: dict[bytes, bytes] = {}
        if differing:
            for key, record in zip(
                differing, await self._reader.read_records(entry, differing, request.r, deadline_s), strict=True
            ):
                if isinstance(record, RaykvError):
                    raise record
                if record is not None:
                    settled[key] = header_of(record) if request.keys_only else record
        gone = set(differing) - settled.keys()
        agreed = {key: seen[key][0] for key in keys} | settled
        return [(key, agreed[key]) for key in keys if key not in gone]


def _covered(bounds: list[bytes], *, reverse: bool) -> bytes | None:
    if not bounds:
        return None
    return max(bounds) if reverse else min(bounds)
