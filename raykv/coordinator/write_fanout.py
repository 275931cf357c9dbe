"""Sending records to their primaries until enough hold them: for client writes and for read repair.

In a sloppy bucket a fallback stands in for a primary that fails or stays silent for a while; it keeps the record as a
hint, and counts. A primary that never acknowledges earns a hint in any bucket (P11): once all calls have ended, perhaps
long after the client has its answer, a node that holds the write learns who lacks it. If this coordinator ends before
that, anti-entropy finds the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from raykv.cluster.fanout import RETRY_S, Fanout
from raykv.cluster.peers import PeerRefused
from raykv.coordinator.judgements import is_write
from raykv.ports import PeerAbsent
from raykv.protocol import frames as f
from raykv.versions import ClockTooFarAhead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.cluster.fanout import Outcome
    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.rounds import Asks, WriteRound
    from raykv.coordinator.routing import Routing
    from raykv.coordinator.steps import Steps

RETRY_CEILING_S = 0.25
SILENT_S = 0.2
"""After this time a fallback stands in for a primary that has not answered."""


class Restamper(Protocol):
    """Stamps a record again, above what the replicas hold."""

    def restamp(self, record: bytes, above: int) -> bytes:
        """Return the same write with a time above ``above``. Raises ``ClockTooFarAhead``."""
        ...


class WriteFanout:
    """One write fan-out: records, keys and their round."""

    def __init__(
        self,
        routing: Routing,
        entry: BucketEntry,
        records: list[bytes],
        keys: Sequence[bytes],
        round_: WriteRound,
        restamper: Restamper | None = None,
        made_ms: int | None = None,
        *,
        hints: bool = False,
    ) -> None:
        """Make one; a ``restamper``, if given, restamps ``records`` in place. Without one they are stored somewhere already.

        ``hints``: whether nodes that miss a record get one; always with a ``restamper``, which makes it a client's write.
        ``made_ms``: since when the records may exist elsewhere (see ``frames.Write``); None: they are new.
        """
        self._routing = routing
        self._entry = entry
        self._records = records
        self._keys = keys
        self._round = round_
        self._restamper = restamper
        self._hints = hints or restamper is not None
        self._made_ms = routing.clock.wall_ms() if made_ms is None else made_ms
        self._epoch = routing.epoch
        self.moved = False
        """Whether the owners have changed meanwhile: the round must continue elsewhere."""
        self.failures: dict[str, str] = {}
        """Each failing node's last reason."""

    def run(self, deadline_s: float) -> Steps[None]:
        """Send until the round is met, ``moved``, or time is up."""
        routing, round_, clock = self._routing, self._round, self._routing.clock
        fan: Fanout[list[tuple[int, int]]] = Fanout(routing.peers, deadline_s, self._epoch)
        self._send(fan, round_.start(round_.waiting))
        silent_at_s = clock.monotonic_s() + SILENT_S
        retry_s = RETRY_S
        retry_at_s = clock.monotonic_s() + retry_s
        while round_.open and not fan.moved and clock.monotonic_s() < deadline_s:
            outcome = yield from fan.next(min(retry_at_s, deadline_s))
            if outcome is None:
                if retry_at_s < deadline_s:  # no write goes out whose outcome would come too late
                    self._send(fan, round_.more())
                    self._stand_in(fan, silent=retry_at_s >= silent_at_s)
                if retry_at_s > silent_at_s:  # by then it takes what a node needs to come back
                    retry_s = min(2 * retry_s, RETRY_CEILING_S)
                retry_at_s = clock.monotonic_s() + retry_s
                continue
            self._note(outcome)
            if clock.monotonic_s() < deadline_s and not fan.moved:
                if due := round_.to_restamp():
                    self._send(fan, round_.start(self._restamp(due)))
                self._stand_in(fan, silent=False)
        self.moved = fan.moved and round_.open
        if self._hints:
            fan.leave(self._late)

    def _send(self, fan: Fanout[list[tuple[int, int]]], asks: Asks) -> None:
        for node_id, indexes in asks.items():
            items = [(self._keys[index], self._records[index]) for index in indexes]
            body = f.Write(self._entry.bucket_id, items, self._made_ms, stored=self._restamper is None)
            fan.send(node_id, body, len(indexes), [(index, self._round.attempt(index)) for index in indexes])

    def _stand_in(self, fan: Fanout[list[tuple[int, int]]], *, silent: bool) -> None:
        if not self._entry.config.sloppy:
            return  # no fallback is allowed, and to find that out for each item after each answer would double the cost
        for node_id, pairs in self._round.fallbacks_in_use(silent=silent).items():
            hints = [(self._keys[index], self._records[index], [primary]) for index, primary in pairs]
            body = f.Hint(self._entry.bucket_id, hints, self._made_ms, counted=True)
            fan.send(node_id, body, len(hints), [(index, self._round.attempt(index)) for index, _ in pairs])
            self._routing.metrics.count("fallbacks_in_use", len(pairs))

    def _late(self, outcome: Outcome[list[tuple[int, int]]] | None) -> None:
        """Record an outcome without a waiter; after the last one, leave the hints."""
        if outcome is not None:
            self._note(outcome)
            return
        if self.moved:
            return  # the round that continues elsewhere leaves the hints
        for index, key in enumerate(self._keys):
            holders, missed = self._round.missed(index)
            leave_hint(self._routing, self._entry, (key, self._records[index], missed), holders, self._made_ms)

    def _note(self, outcome: Outcome[list[tuple[int, int]]]) -> None:
        answer = outcome.answer
        if is_write(answer, len(outcome.about)):
            self._round.answered(outcome.node_id, outcome.about, answer.newer)
            return
        failure = outcome.failure
        self.failures[outcome.node_id] = str(failure) if failure is not None else "gave an answer that does not fit"
        refused = failure.reason if isinstance(failure, PeerRefused) else None
        if isinstance(failure, PeerAbsent):
            refused = "absent"  # nothing was sent
        self._round.failed(outcome.node_id, outcome.about, refused)

    def _restamp(self, due: dict[int, int]) -> list[int]:
        """Restamp these writes above what the replicas hold; return those for which that is possible."""
        assert self._restamper is not None, "where newer counts nothing is stamped again"
        again: list[int] = []
        for index, time in due.items():
            try:
                self._records[index] = self._restamper.restamp(self._records[index], time)
            except ClockTooFarAhead as error:
                self.failures["coordinator"] = f"a write cannot be stamped above what is stored: {error}"
                self._round.give_up(index)
                continue
            again.append(index)
            self._round.restamped(index)
            self._routing.metrics.count("restamps")
        return again


def leave_hint(
    routing: Routing, entry: BucketEntry, item: tuple[bytes, bytes, list[str]], holders: list[str], made_ms: int
) -> None:
    """Leave a hint with a node that holds a write, for owners that missed it (P11). ``item``: see ``frames.Hint``."""
    key, _, missed = item
    if not holders or not missed:
        return
    owners = tuple(node_id for nodes in routing.write_sets(entry.config, key) for node_id in nodes)
    in_order = sorted(holders, key=lambda node_id: node_id not in owners)  # owners need no copy of what they hold
    routing.hint_sender.take(tuple(in_order), owners, entry.bucket_id, item, made_ms)
