"""Quorum reads with repair (P9).

The read asks R primaries, races a slow one with the next (hedging: Dean & Barroso 2013, "The Tail at Scale"), merges R
complete answers, writes back what those R lacked, and returns once R hold the merged record. That last step keeps reads
of one key from going backward when 2R > N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.cluster.fanout import Fanout, gather
from raykv.cluster.peers import is_overloaded
from raykv.config import MIB
from raykv.coordinator.judgements import counted, is_read
from raykv.coordinator.rounds import Asks, ReadRound, WriteRound
from raykv.coordinator.steps import Spawn
from raykv.coordinator.write_fanout import WriteFanout
from raykv.errors import Overloaded, QuorumNotMet
from raykv.protocol import frames as f
from raykv.records.durations import count_into
from raykv.versions import causality_of, time_to_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.cluster.fanout import Outcome
    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.judgements import Read
    from raykv.coordinator.routing import Routing
    from raykv.coordinator.steps import Steps

MAX_ANSWER_BYTES = 8 * MIB
"""The size of answer that limits the keys requested from a node at once."""


class Reads:
    """Reads of records, tombstones too."""

    def __init__(self, routing: Routing) -> None:
        self._routing = routing

    def records(self, entry: BucketEntry, keys: Sequence[bytes], r: int, deadline_s: float) -> Steps[list[Read]]:
        """Return the record, None, or the error of each key."""
        clock = self._routing.clock
        while True:
            results, moved = yield from self._once(entry, keys, r, deadline_s)
            if not moved or clock.monotonic_s() >= deadline_s:
                return results
            self._routing.check_there(entry.bucket_id)

    def _once(
        self, entry: BucketEntry, keys: Sequence[bytes], r: int, deadline_s: float
    ) -> Steps[tuple[list[Read], bool]]:
        """Read by the current ring. Also returns whether other owners came to light: then ask them."""
        routing = self._routing
        began_ms = routing.clock.wall_ms()
        sloppy = entry.config.sloppy
        round_ = ReadRound(routing.orders(entry.config, keys, sloppy=sloppy), r)
        fan: Fanout[list[int]] = Fanout(routing.peers, deadline_s, routing.epoch)

        def send(asks: Asks) -> None:
            at_once = max(1, MAX_ANSWER_BYTES // entry.config.pair_bytes)
            for node_id, wanted in asks.items():
                for at in range(0, len(wanted), at_once):
                    indexes = wanted[at : at + at_once]
                    body = f.Read(entry.bucket_id, [keys[index] for index in indexes], sloppy)
                    fan.send(node_id, body, len(indexes), indexes)

        def take(outcome: Outcome[list[int]]) -> Asks:
            if is_read(outcome.answer, len(outcome.about)):
                return _note_read(outcome.node_id, outcome.about, outcome.answer, round_)
            if is_overloaded(outcome.failure):
                return round_.overloaded(outcome.node_id, outcome.about)
            return round_.failed(outcome.node_id, outcome.about)

        first = round_.start()
        send(first)
        hedge_s = routing.peers.hedge_delay_s("Read", max(map(len, first.values()), default=0), list(first))
        yield from gather(round_, fan, routing.clock, send=send, take=take, hedge_s=hedge_s, deadline_s=deadline_s)
        routing.metrics.count("hedges", round_.hedges)
        routing.metrics.count("hedges_won", round_.hedges_won)
        if fan.moved and round_.open:
            return [QuorumNotMet("the owners changed while they were asked")] * len(keys), True
        return (yield from self._repair(entry, keys, r, round_, began_ms, deadline_s))

    def _repair(
        self, entry: BucketEntry, keys: Sequence[bytes], r: int, round_: ReadRound, began_ms: int, deadline_s: float
    ) -> Steps[tuple[list[Read], bool]]:
        results: list[Read] = []
        behind: list[tuple[int, bytes, list[str]]] = []
        for index, key in enumerate(keys):
            if round_.given_up(index):
                results.append(Overloaded("too many of the nodes that hold the key have more to do than they can"))
                continue
            if not round_.settled(index):
                primaries = self._routing.primaries(entry.config, key)
                results.append(quorum_not_met(r, primaries, round_.answers(index)))
                continue
            merged = round_.merged(index)
            results.append(merged)
            if merged is not None:
                holders = round_.holders(index, merged)
                sets = self._routing.write_sets(entry.config, key)
                # While the partition moves, the next read asks the other set: it must not show less (P9).
                known = len(holders) if len(sets) == 1 else min(counted(owners, holders) for owners in sets)
                if known < r:
                    behind.append((index, merged, holders))
        if not behind:
            return results, False
        self._routing.metrics.count("read_repairs", len(behind))
        self._note_staleness(round_, behind)
        records = [merged for _, merged, _ in behind]
        lacking = [keys[index] for index, _, _ in behind]
        primaries_of = [self._routing.primaries(entry.config, key) for key in lacking]
        sets_of = [self._routing.write_sets(entry.config, key) for key in lacking]
        repair = WriteRound(sets_of, r, newer_counts=True)
        for position, (_, _, holders) in enumerate(behind):
            repair.already(position, holders)
        fanout = WriteFanout(self._routing, entry, records, lacking, repair, made_ms=began_ms)
        if (
            entry.config.sloppy
        ):  # a network partition may keep the primaries out of reach, and the answer is still wanted
            yield Spawn(fanout.run(deadline_s))
            return results, False
        yield from fanout.run(deadline_s)
        for position, (index, _, _) in enumerate(behind):
            if not repair.settled(position):
                results[index] = quorum_not_met(
                    r, primaries_of[position], repair.acks(position), what="hold what was read"
                )
        return results, fanout.moved

    def _note_staleness(self, round_: ReadRound, behind: Sequence[tuple[int, bytes, list[str]]]) -> None:
        """Count the copies that were behind what was read: those that had nothing, and by how much the others were older."""
        metrics = self._routing.metrics
        for index, merged, holders in behind:
            newest_ms = time_to_ms(causality_of(merged).time)
            for held in round_.others(index, holders):
                if held is None:
                    metrics.count("copies_missing")
                    continue
                metrics.count("copies_behind")
                lag_ms = newest_ms - time_to_ms(causality_of(held).time)  # 0 for one that lacks a sibling
                count_into(metrics.histogram("staleness"), max(0, lag_ms) / 1000)


def _note_read(node_id: str, indexes: Sequence[int], answer: f.ReadDone, round_: ReadRound) -> Asks:
    """Record a node's answer; return whom to ask for the keys that it could not read or had no room for."""
    unreadable, left = set(answer.unreadable), set(answer.left)
    fine = [at for at in range(len(indexes)) if at not in unreadable and at not in left]
    round_.answered(node_id, [indexes[at] for at in fine], [answer.records[at] for at in fine])
    asks = round_.failed(node_id, [indexes[at] for at in sorted(unreadable) if at < len(indexes)])
    if left:
        asks.setdefault(node_id, []).extend(indexes[at] for at in sorted(left) if at < len(indexes))
    return asks


def quorum_not_met(r: int, primaries: Sequence[str], have: Sequence[str], what: str = "answered") -> QuorumNotMet:
    """Return the error of a read without its quorum."""
    missing = [node_id for node_id in primaries if node_id not in have]
    return QuorumNotMet(
        f"the read needs {r} of nodes {', '.join(primaries)}; {len(have)} {what} in time; without: {', '.join(missing)}",
        needed=r,
        have=list(have),
        missing=missing,
    )
