"""A write sent to its owners at once, and what is outstanding to those that have not confirmed that they hold it.

Acknowledgements after the W-th are not waited for, but recorded (``heard``). Where one is missing, ``complete`` finishes
the replication: it resends the write to owners that lack it, and leaves hints for unreachable ones (P11). Once is
enough, so the first to take a write over keeps it: the operation itself if too few have acknowledged it in time, else
``complete``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raykv.cluster.fanout import CALL_TIMEOUT_S
from raykv.coordinator.judgements import acknowledges_all, is_write
from raykv.coordinator.write_fanout import leave_hint

if TYPE_CHECKING:
    from collections.abc import Collection

    from raykv.cluster.peers import Said
    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.judgements import Quorum
    from raykv.coordinator.steps import Steps
    from raykv.coordinator.writes import Put, Writes
    from raykv.errors import RaykvError
    from raykv.versions.causality import Causality


@dataclass(slots=True, eq=False)
class InFlightWrite:
    """Writes of one request, sent under the stamps or dots that they have: one write has one (P8)."""

    writes: Writes
    entry: BucketEntry
    w: int
    deadline_s: float
    made_ms: int
    unreachable: frozenset[str]
    """Owners that do not answer. They are sent nothing; they get hints once all others hold the write (P11)."""
    puts: list[Put] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    causalities: list[Causality] = field(default_factory=list)
    owners: list[tuple[str, ...]] = field(default_factory=list)
    refused: dict[int, RaykvError] = field(default_factory=dict)
    """Place in the request -> why that write could not be stamped. All others are here, in order."""
    acks: list[str] = field(default_factory=list)
    """The nodes known to hold all that they were sent."""
    said: Said = field(default_factory=dict)
    """What the requests have said of the nodes' logs."""
    taken_over: bool = False
    """Whether something already completes the write."""
    _sent: dict[str, list[int]] = field(default_factory=dict)

    def sent_to(self) -> dict[str, list[int]]:
        """Return node id -> the indexes of the writes sent to it, all at once. Call it once all are stamped."""
        sent = self._sent
        if sent:
            return sent
        for index, owners in enumerate(self.owners):
            for node_id in owners:
                if node_id not in self.unreachable:
                    sent.setdefault(node_id, []).append(index)
        return sent

    @property
    def quorums(self) -> tuple[Quorum, ...]:
        """The quorums that acknowledge all of the writes."""
        return tuple((owners, self.w) for owners in dict.fromkeys(self.owners))

    def holders(self) -> list[list[str]]:
        """Return for each write the nodes known to hold it."""
        known = {owners: [node_id for node_id in self.acks if node_id in owners] for owners in {*self.owners}}
        return [known[owners] for owners in self.owners]

    def note(self, node_id: str, frame: bytes | None) -> bool:
        """Record a node's answer; return whether it holds all that it was sent."""
        answer = self.writes.routing.peers.plain(node_id, frame, self.said)
        items = len(self.sent_to().get(node_id, ()))
        if not is_write(answer, items) or not acknowledges_all(answer.newer):
            return False
        self.acks.append(node_id)
        return True

    def heard(self, node_id: str, frame: bytes | None) -> bool:
        """Record an answer without a waiter (None: none will come). Return whether ``complete`` is now due."""
        if self.taken_over:
            return False
        if not self.note(node_id, frame):
            return True
        return bool(self.unreachable) and {*self.sent_to()} <= {*self.acks}

    def needs_completion(self, sent: Collection[str], outstanding: Collection[str]) -> bool:
        """Whether ``complete`` is due after its round. ``outstanding``: those of ``sent`` that may still answer."""
        if self.taken_over:
            return False
        if not {*sent} <= {*self.acks, *outstanding}:
            return True
        return bool(self.unreachable) and {*sent} <= {*self.acks}

    def complete(self) -> Steps[None]:
        """Bring acknowledged writes to the owners that do not confirm them, or leave hints."""
        if self.taken_over:
            return
        self.taken_over = True
        self.writes.metrics.count("fast_path_writes_completed", len(self.puts))
        keys = [put.key for put in self.puts]
        if self.unreachable and {*self.sent_to()} <= {*self.acks}:  # no round is needed: all answers are known
            for key, record, owners, holders in zip(keys, self.records, self.owners, self.holders(), strict=True):
                missed = [node_id for node_id in owners if node_id in self.unreachable]
                leave_hint(self.writes.routing, self.entry, (key, record, missed), holders, self.made_ms)
            return
        yield from self.writes.complete(self.entry, keys, self.records, self.holders(), self.made_ms, CALL_TIMEOUT_S)
