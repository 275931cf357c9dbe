"""Scans: a bucket page by page in encoded-key order (P15).

Keys are spread over all partitions, so a page asks R primaries of every partition. Each node gets one request for all of
its partitions, and answers with its next records in key order and how far that answer is complete. The page reaches as
far as the least of these; beyond it some node may hold keys that it has not sent yet.

**Deleted and expired records are passed once.** A page that shows too few, or nothing, says where to go on; the caller
then asks for more each time, and *passing* (``client.paging``): dead records do not count. A node looks for as many
pairs as are wanted, and sends what it passes on the way, since another node may hold a value there. The first pair
behind thousands of tombstones thus takes a few pages of thousands each; where nothing is dead, no node checks for it.
Each request bounds what it passes.

A key on which its R answers agree is done. A key on which they differ (or that one of them lacks) goes through an
ordinary quorum read, which merges and repairs; a scan therefore sees what reads see. The cursor is a key, and nothing is
kept between pages: it survives restarts of nodes and coordinators and changes of the ring. No snapshot is promised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.cluster.fanout import Fanout, gather
from raykv.coordinator.rounds import AskRound
from raykv.errors import QuorumNotMet, RaykvError
from raykv.protocol import frames as f
from raykv.records.keys import is_key
from raykv.records.kinds import header_of
from raykv.versions import shows_nothing

if TYPE_CHECKING:
    from raykv.cluster.fanout import Outcome
    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.reads import Reads
    from raykv.coordinator.rounds import Asks
    from raykv.coordinator.routing import Routing
    from raykv.coordinator.steps import Steps

MAX_PAGE_ITEMS = 2000
_HEDGE_FLOOR_S = 0.2


class ScanCoordinator:
    """Pages of scans."""

    def __init__(self, routing: Routing, reads: Reads) -> None:
        self._routing = routing
        self._reads = reads

    def page(
        self, entry: BucketEntry, request: f.ScanPage, deadline_s: float, now_ms: int
    ) -> Steps[tuple[list[tuple[bytes, bytes]], bytes | None]]:
        """Return records (tombstones among them) in order, and where the next page begins (None: there is none).

        ``now_ms``: the time of judging. A record that had expired by then may come without its payload.

        Raises ``QuorumNotMet`` if a partition does not get R complete answers in time.
        """
        limit = max(1, min(request.limit, MAX_PAGE_ITEMS))
        n, peers = entry.config.n, self._routing.peers
        answers: list[f.ScanDone] | None = None
        while answers is None:
            self._routing.check_there(entry.bucket_id)
            state = self._routing.present
            sets = [state.read_set(partition, n) for partition in range(state.ring.partitions)]
            in_order = {nodes: peers.in_order(nodes) for nodes in dict.fromkeys(sets)}  # there are far fewer of them
            orders = [in_order[nodes] for nodes in sets]
            judged_ms = now_ms if request.passing else 0
            answers = yield from self._gather(entry, request, orders, limit, judged_ms, deadline_s)
        bound = _covered([answer.covered for answer in answers if answer.covered is not None], reverse=request.reverse)
        seen: dict[bytes, list[bytes]] = {}
        for answer in answers:
            for key, record in answer.items:
                if bound is None or (key >= bound if request.reverse else key <= bound):
                    seen.setdefault(key, []).append(record)
        keys = sorted(seen, reverse=request.reverse)
        keys, last = _page_of(keys, seen, request.r, limit, now_ms if request.passing else 0)
        if last is not None:
            bound = last
        records = yield from self._settle(entry, request, keys, seen, deadline_s)
        if bound is None:
            return records, None
        return records, bound if request.reverse else bound + b"\x00"

    def _gather(
        self,
        entry: BucketEntry,
        request: f.ScanPage,
        orders: list[list[str]],
        limit: int,
        judged_ms: int,
        deadline_s: float,
    ) -> Steps[list[f.ScanDone] | None]:
        """Collect answers until every partition has R. A partition counts here as a key does in a read.

        None if other owners came to light meanwhile: ask them.
        """
        routing = self._routing
        round_: AskRound[None] = AskRound(orders, request.r)
        fan: Fanout[list[int]] = Fanout(routing.peers, deadline_s, routing.epoch)
        answers: list[f.ScanDone] = []

        def send(asks: Asks) -> None:
            for node_id, partitions in asks.items():
                body = f.Scan(
                    entry.bucket_id,
                    request.start,
                    request.end,
                    limit,
                    request.reverse,
                    request.keys_only,
                    partitions,
                    now_ms=judged_ms,
                )
                fan.send(node_id, body, limit, partitions)

        def take(outcome: Outcome[list[int]]) -> Asks:
            if not isinstance(outcome.answer, f.ScanDone):
                return round_.failed(outcome.node_id, outcome.about)
            round_.answered(outcome.node_id, outcome.about, [None] * len(outcome.about))
            answers.append(outcome.answer)
            return {}

        usual_s = routing.peers.hedge_delay_s("Scan", limit, sorted({order[0] for order in orders}))
        send(round_.start())
        hedge_s = max(_HEDGE_FLOOR_S, usual_s)
        yield from gather(round_, fan, routing.clock, send=send, take=take, hedge_s=hedge_s, deadline_s=deadline_s)
        if round_.open and fan.moved and routing.clock.monotonic_s() < deadline_s:
            return None
        if round_.open:
            lacking = next(index for index in range(len(orders)) if not round_.settled(index))
            raise QuorumNotMet(
                f"the scan needs {request.r} of nodes {', '.join(orders[lacking])} for partition {lacking}; "
                f"{len(round_.answers(lacking))} answered in time"
            )
        return answers

    def _settle(
        self,
        entry: BucketEntry,
        request: f.ScanPage,
        keys: list[bytes],
        seen: dict[bytes, list[bytes]],
        deadline_s: float,
    ) -> Steps[list[tuple[bytes, bytes]]]:
        """Return the record of each key: as seen where R answers agree, else by a quorum read."""
        differing = [key for key in keys if len(seen[key]) < request.r or len(set(seen[key])) > 1]
        # An invalid key cannot be read; it passes as seen, and the caller of the scan gets the error.
        differing = [key for key in differing if is_key(key)]
        settled: dict[bytes, bytes] = {}
        if differing:
            records = yield from self._reads.records(entry, differing, request.r, deadline_s)
            for key, record in zip(differing, records, strict=True):
                if isinstance(record, RaykvError):
                    raise record
                if record is not None:
                    settled[key] = header_of(record) if request.keys_only else record
        gone = set(differing) - settled.keys()
        agreed = {key: seen[key][0] for key in keys} | settled
        return [(key, agreed[key]) for key in keys if key not in gone]


def _page_of(
    keys: list[bytes], seen: dict[bytes, list[bytes]], r: int, limit: int, judged_ms: int
) -> tuple[list[bytes], bytes | None]:
    """Return the first ``limit`` keys, and the last key that the page reaches to; None: to the end of these keys.

    With ``judged_ms``, keys for which all answers say that nothing lives there by then are left out and not counted.
    """
    if not judged_ms:
        return (keys, None) if len(keys) <= limit else (keys[:limit], keys[limit - 1])
    taken: list[bytes] = []
    for key in keys:
        if len(taken) >= limit:
            return taken, taken[-1]
        first, *others = seen[key]
        agreed = len(others) >= r - 1 and others.count(first) == len(others)
        if not (agreed and shows_nothing(first, judged_ms)):
            taken.append(key)
    return taken, None


def _covered(bounds: list[bytes], *, reverse: bool) -> bytes | None:
    if not bounds:
        return None
    return max(bounds) if reverse else min(bounds)
