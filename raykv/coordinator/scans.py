"""Scans: a bucket page by page in encoded-key order (P15).

Keys are spread over all partitions, so a page asks R primaries of every partition; in a grouped bucket, of the one
partition of a group if the range lies within it (``records.keys.group_of_range``). A *split* of a bucket
(``client.splits``) names its partitions: a key's partition never changes, wherever that moves. Each node gets one request
for all of its partitions, and answers with its next records in key order and how far that answer is complete. The page
reaches as far as the least of these; beyond it some node may hold keys that it has not sent yet.

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

from bisect import bisect_left, bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from raykv.cluster.fanout import Fanout, gather
from raykv.coordinator.rounds import AskRound
from raykv.coordinator.steps import Round
from raykv.errors import InvalidOption, QuorumNotMet, RaykvError
from raykv.protocol import frames as f
from raykv.records.keys import group_of_range, is_key
from raykv.records.kinds import header_of
from raykv.versions import shows_nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.cluster.fanout import Outcome
    from raykv.cluster.peers import Said
    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.reads import Reads
    from raykv.coordinator.rounds import Asks
    from raykv.coordinator.routing import Routing, Share
    from raykv.coordinator.steps import Steps

Items: TypeAlias = "list[tuple[bytes, bytes]]"

MAX_PAGE_ITEMS = 2000
LONG_PAGE = 500
"""A page of so many pairs may hold up to twice as many, if its answers do."""
_KEY = itemgetter(0)
_HEDGE_FLOOR_S = 0.2


class ScanCoordinator:
    """Pages of scans."""

    def __init__(self, routing: Routing, reads: Reads) -> None:
        self._routing = routing
        self._reads = reads

    def page(
        self, entry: BucketEntry, request: f.ScanPage, deadline_s: float, now_ms: int, *, fast: bool
    ) -> Steps[tuple[list[tuple[bytes, bytes]], bytes | None]]:
        """Return records (tombstones among them) in order, and where the next page begins (None: there is none).

        ``now_ms``: the time of judging. A record that had expired by then may come without its payload. ``fast``: whether to
        try one round of frames first.

        Raises ``QuorumNotMet`` if a partition does not get R complete answers in time; ``InvalidOption`` if the ring has no
        such partition.
        """
        self._check_partitions(request)
        if request.partitions and not self._shares(entry, request):
            return [], None
        limit = max(1, min(request.limit, MAX_PAGE_ITEMS))
        judged_ms = now_ms if request.passing else 0
        answers: list[f.ScanDone] | None = None
        if fast:
            answers = yield from self._at_once(entry, request, limit, judged_ms, deadline_s)
        plain = answers is not None  # then each share has exactly R answers
        while answers is None:
            self._routing.check_there(entry.bucket_id)
            answers = yield from self._gather(
                entry, request, self._shares(entry, request), limit, judged_ms, deadline_s
            )
        bound = _covered([answer.covered for answer in answers if answer.covered is not None], reverse=request.reverse)
        parts = [_within(answer.items, bound, reverse=request.reverse) for answer in answers]
        agreed = _agreed(parts, request.r) if plain else None
        if agreed is not None:
            records = agreed

            def hidden(key: bytes) -> bool:
                return shows_nothing(records[key], judged_ms)

            # Nodes that hold a part of the partitions reach further together than each for itself: nothing is sent twice.
            most = limit if limit < LONG_PAGE or judged_ms else 2 * limit
            keys, last = _page_of(sorted(agreed, reverse=request.reverse), most, hidden if judged_ms else None)
            found = [(key, agreed[key]) for key in keys]
        else:
            seen: dict[bytes, list[bytes]] = {}
            for part in parts:
                for key, record in part:
                    seen.setdefault(key, []).append(record)

            def hidden_by_all(key: bytes) -> bool:
                first, *others = seen[key]
                agree = len(others) >= request.r - 1 and others.count(first) == len(others)
                return agree and shows_nothing(first, judged_ms)

            keys, last = _page_of(sorted(seen, reverse=request.reverse), limit, hidden_by_all if judged_ms else None)
            found = yield from self._settle(entry, request, keys, seen, deadline_s)
        if last is not None:
            bound = last
        if bound is None:
            return found, None
        return found, bound if request.reverse else bound + b"\x00"

    def _at_once(
        self, entry: BucketEntry, request: f.ScanPage, limit: int, judged_ms: int, deadline_s: float
    ) -> Steps[list[f.ScanDone] | None]:
        """Ask R owners of each share by one round of frames. None if any answer is not plain: see ``fast_path``."""
        routing, peers = self._routing, self._routing.peers
        wanted: dict[str, list[int]] = {}
        for nodes, partitions in self._shares(entry, request):
            asked = peers.first_available(nodes, request.r)
            if len(asked) < request.r:
                return None
            for node_id in asked:
                wanted.setdefault(node_id, []).extend(partitions)
        items = dict.fromkeys(wanted, limit)
        began_s = routing.clock.monotonic_s()
        patience_s = min(
            max(0.001, deadline_s - began_s), max(_HEDGE_FLOOR_S, peers.hedge_delay_s("Scan", limit, [*wanted]))
        )
        said: Said = {}
        frames = {
            node_id: peers.request(
                node_id, _scan_of(entry, request, limit, sorted(partitions), judged_ms), routing.epoch, said
            )
            for node_id, partitions in wanted.items()
        }
        heard = yield Round(frames, ((tuple(frames), len(frames)),), patience_s)
        if len(heard) < len(frames):
            peers.record_timeout("Scan", {node_id: limit for node_id in frames if node_id not in heard})
            peers.spend_hedges(1)
            return None
        answers = []
        for node_id, frame in heard.items():
            answer = peers.plain(node_id, frame, said)
            if isinstance(answer, f.ScanDone):
                answers.append(answer)
        if len(answers) < len(frames):
            return None
        peers.record_latency("Scan", items, routing.clock.monotonic_s() - began_s)
        routing.metrics.count("fast_path_scans")
        return answers

    def _shares(self, entry: BucketEntry, request: f.ScanPage) -> list[Share]:
        """Return whom to ask for which partitions: those named, else all, and never but one for a range within a group."""
        routing, config = self._routing, entry.config
        named = set(request.partitions)
        if config.group is not None:
            group = group_of_range(request.start, request.end, config.group)
            if group is not None:
                place = routing.place(config, group)
                there = not named or place[0] in named
                return [(routing.read_set(*place), [place[0]])] if there else []
        if not named:
            return routing.shares(config.n)
        # Any R of a partition's owners will do: those of the first serve all that have the same, which saves records.
        together: dict[tuple[str, ...], Share] = {}
        for partition in sorted(named):
            nodes = routing.read_set(partition, config.n)
            together.setdefault(tuple(sorted(nodes)), (nodes, []))[1].append(partition)
        return [*together.values()]

    def _check_partitions(self, request: f.ScanPage) -> None:
        if not request.partitions:
            return
        there, low, high = self._routing.present.ring.partitions, min(request.partitions), max(request.partitions)
        if low < 0 or high >= there:
            raise InvalidOption(
                f"the scan names partition {low if low < 0 else high}, and the ring has {there}, from 0 on: it is of "
                "another store; call splits() again"
            )

    def _gather(
        self,
        entry: BucketEntry,
        request: f.ScanPage,
        shares: list[Share],
        limit: int,
        judged_ms: int,
        deadline_s: float,
    ) -> Steps[list[f.ScanDone] | None]:
        """Collect answers until every share of the partitions has R. A share counts here as a key does in a read.

        None if other owners came to light meanwhile: ask them.
        """
        routing = self._routing
        orders = [routing.peers.in_order(nodes) for nodes, _ in shares]
        round_: AskRound[None] = AskRound(orders, request.r)
        fan: Fanout[list[int]] = Fanout(routing.peers, deadline_s, routing.epoch)
        answers: list[f.ScanDone] = []

        def send(asks: Asks) -> None:
            for node_id, indexes in asks.items():
                partitions = sorted(partition for index in indexes for partition in shares[index][1])
                fan.send(node_id, _scan_of(entry, request, limit, partitions, judged_ms), limit, indexes)

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
                f"the scan needs {request.r} of nodes {', '.join(orders[lacking])} for partition {shares[lacking][1][0]}; "
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


def _scan_of(entry: BucketEntry, request: f.ScanPage, limit: int, partitions: list[int], judged_ms: int) -> f.Scan:
    return f.Scan(
        entry.bucket_id,
        request.start,
        request.end,
        limit,
        request.reverse,
        request.keys_only,
        partitions,
        now_ms=judged_ms,
    )


def _within(items: Items, bound: bytes | None, *, reverse: bool) -> Items:
    """Return the part of a node's answer as far as the bound, which is that of the least answer."""
    if bound is None or not items:
        return items
    if not reverse:
        return items[: bisect_right(items, bound, key=_KEY)]
    backwards = items[::-1]
    return backwards[bisect_left(backwards, bound, key=_KEY) :]


def _agreed(parts: list[Items], r: int) -> dict[bytes, bytes] | None:
    """Return the record of each key if exactly ``r`` answers have it, all of them the same; else None.

    For answers of which each key may be in ``r``, not in more: as many pairs as ``r`` times the keys leave none that is in
    fewer. All of it in C, where nearly all pages are done.
    """
    agreed: dict[bytes, bytes] = {}
    for part in parts:
        agreed.update(part)
    if len(agreed) * r != sum(map(len, parts)):
        return None
    known = agreed.items()
    return agreed if all(dict(part).items() <= known for part in parts[:-1]) else None


def _page_of(keys: list[bytes], limit: int, hidden: Callable[[bytes], bool] | None) -> tuple[list[bytes], bytes | None]:
    """Return the first ``limit`` keys, and the last key that the page reaches to; None: to the end of these keys.

    Keys that are ``hidden``, because nothing lives there, are left out and not counted.
    """
    if hidden is None:
        return (keys, None) if len(keys) <= limit else (keys[:limit], keys[limit - 1])
    taken: list[bytes] = []
    for key in keys:
        if len(taken) >= limit:
            return taken, taken[-1]
        if not hidden(key):
            taken.append(key)
    return taken, None


def _covered(bounds: list[bytes], *, reverse: bool) -> bytes | None:
    if not bounds:
        return None
    return max(bounds) if reverse else min(bounds)
