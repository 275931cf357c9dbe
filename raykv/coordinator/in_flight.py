"""A write that was sent to its owners at once, and what is still owed to those that have not said that they hold it.

An acknowledgement that comes after W is not waited for, but heard (``heard``). Where none comes, replication is completed
(``complete``): the owners that lack the write are sent it again, and those that are away get a hint (P11). Once is enough,
so the first to take a write over keeps it: the operation itself where too few have acknowledged it in time, or
``complete``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raykv.cluster.fanout import CALL_TIMEOUT_S
from raykv.coordinator.judgements import acknowledges_all, is_write
from raykv.coordinator.write_fanout import leave_hint

if TYPE_CHECKING:
    from collections.abc import Collection

    from raykv.cluster.state import BucketEntry
    from raykv.coordinator.judgements import Quorum
    from raykv.coordinator.steps import Steps
    from raykv.coordinator.writes import Put, Writes
    from raykv.errors import RaykvError
    from raykv.versions.causality import Causality


@dataclass(slots=True, eq=False)
class InFlightWrite:
    """Writes of one request that have their stamps or their dots, and are sent under them: one write has one (P8)."""

    writes: Writes
    entry: BucketEntry
    w: int
    deadline_s: float
    made_ms: int
    unreachable: frozenset[str]
    """Owners that do not answer. They are sent nothing; once all others have it, hints are left for them (P11)."""
    puts: list[Put] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    causalities: list[Causality] = field(default_factory=list)
    owners: list[tuple[str, ...]] = field(default_factory=list)
    refused: dict[int, RaykvError] = field(default_factory=dict)
    """Place in the request -> why that one could not be stamped. All others are here, in order."""
    acks: list[str] = field(default_factory=list)
    """Who is known to hold all that it was sent."""
    taken_over: bool = False
    """Whether somebody completes it."""

    def sent_to(self) -> dict[str, list[int]]:
        """Return node id -> which of the writes it is sent, all at once."""
        sent: dict[str, list[int]] = {}
        for index, owners in enumerate(self.owners):
            for node_id in owners:
                if node_id not in self.unreachable:
                    sent.setdefault(node_id, []).append(index)
        return sent

    @property
    def quorums(self) -> tuple[Quorum, ...]:
        """What must be met for all of them to be acknowledged."""
        return tuple((owners, self.w) for owners in dict.fromkeys(self.owners))

    def holders(self) -> list[list[str]]:
        """Return of each who is known to hold it."""
        known = {owners: [node_id for node_id in self.acks if node_id in owners] for owners in {*self.owners}}
        return [known[owners] for owners in self.owners]

    def note(self, node_id: str, frame: bytes | None) -> bool:
        """Take a node's answer: whether it holds all that it was sent."""
        answer = self.writes.peers.plain(node_id, frame)
        items = sum(count for owners, count in Counter(self.owners).items() if node_id in owners)
        if not is_write(answer, items) or not acknowledges_all(answer.newer):
            return False
        self.acks.append(node_id)
        return True

    def heard(self, node_id: str, frame: bytes | None) -> bool:
        """Take an answer that nobody waits for; None: there will be none. Whether ``complete`` is due because of it."""
        if self.taken_over:
            return False
        if not self.note(node_id, frame):
            return True
        return bool(self.unreachable) and {*self.sent_to()} <= {*self.acks}

    def is_owed(self, sent: Collection[str], outstanding: Collection[str]) -> bool:
        """Whether ``complete`` is due after its round. ``outstanding``: who of those it was ``sent`` may still answer."""
        if self.taken_over:
            return False
        if not {*sent} <= {*self.acks, *outstanding}:
            return True
        return bool(self.unreachable) and {*sent} <= {*self.acks}

    def complete(self) -> Steps[None]:
        """Bring writes that have their W to the owners that do not say that they hold them, or leave hints."""
        if self.taken_over:
            return
        self.taken_over = True
        self.writes.metrics.count("fast_path_writes_completed", len(self.puts))
        keys = [put.key for put in self.puts]
        if self.unreachable and {*self.sent_to()} <= {*self.acks}:  # what to ask of these is known: nothing
            for key, record, owners, holders in zip(keys, self.records, self.owners, self.holders(), strict=True):
                missed = [node_id for node_id in owners if node_id in self.unreachable]
                leave_hint(self.writes.routing, self.entry, (key, record, missed), holders, self.made_ms)
            return
        yield from self.writes.complete(self.entry, keys, self.records, self.holders(), self.made_ms, CALL_TIMEOUT_S)
