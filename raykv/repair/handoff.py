"""Hinted handoff: a node that was unavailable gets what others have kept for it (P11).

The holder tries every node that hints wait for and that it does not suspect, about once a second; replay thus begins as
soon as the node answers, even a replaced one. A hint is sent as an ordinary write under the present ring: to the node
itself if it is still an owner, else to the present owners. It is forgotten once it is durable there. The bytes go
through the node's throttle.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from raykv.config import KIB
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.records.keys import is_key
from raykv.ring import partition_in

if TYPE_CHECKING:
    from collections.abc import Collection

    from raykv.cluster.peers import Peers
    from raykv.cluster.state import ClusterState
    from raykv.ports import Clock
    from raykv.repair.local_copy import LocalCopy
    from raykv.repair.throttle import Throttle
    from raykv.replica.hints import Hint, HintStore

logger = logging.getLogger("raykv.node")

CALL_TIMEOUT_S = 2.0
BATCH_BYTES = 256 * KIB
BATCH_ITEMS = 500
BATCHES_A_SECOND = 4
"""A batch is at most this fraction of what may be sent in a second."""


class Handoff:
    """One node's replay of the hints that it keeps."""

    def __init__(
        self,
        node_id: str,
        hints: HintStore,
        local: LocalCopy,
        peers: Peers,
        clock: Clock,
        throttle: Throttle,
        max_age_s: float,
    ) -> None:
        self._node_id = node_id
        self._hints = hints
        self._local = local
        self._peers = peers
        self._clock = clock
        self._throttle = throttle
        self._max_age_ms = round(max_age_s * 1000)
        self.replayed = 0
        """The number of hints delivered."""
        self.expired = 0
        """The number of hints forgotten for their age."""

    async def run(self, state: ClusterState, suspects: Collection[str]) -> None:
        """Deliver the hints of every node that is not suspected."""
        leaving = state.goal is not None and not state.goal.has_member(self._node_id)
        for target in sorted(self._hints.counts):
            if target not in suspects or leaving:
                await self._replay(state, target, suspects if leaving else None)

    async def _replay(self, state: ClusterState, target: str, suspects: Collection[str] | None) -> None:
        """Deliver a node's hints. ``suspects``: this node is leaving, and its hints go to unsuspected owners."""
        after, before = b"", self.replayed
        while batch := self._batch(target, after):
            after = batch[-1].place
            fresh = [hint for hint in batch if not self._too_old(state, hint)]
            if not await self._deliver(state, target, fresh, suspects):
                break
        else:
            self._hints.recount(target)
        if self.replayed > before:
            logger.info("node %s: %d hints replayed to node %s", self._node_id, self.replayed - before, target)

    def _batch(self, target: str, after: bytes) -> list[Hint]:
        batch: list[Hint] = []
        size_bytes = 0
        for hint in self._hints.waiting(target, after):
            batch.append(hint)
            size_bytes += hint.size_bytes
            if len(batch) >= BATCH_ITEMS or size_bytes >= BATCH_BYTES:
                break
        return batch

    def _too_old(self, state: ClusterState, hint: Hint) -> bool:
        age_ms = self._clock.wall_ms() - hint.made_ms
        half_grace_ms = round(state.config.gc_grace_s * 500)
        most_ms = half_grace_ms if hint.counted else min(self._max_age_ms, half_grace_ms)
        if age_ms <= most_ms:
            return False
        self.expired += 1
        self._hints.forget(hint)
        if hint.counted:
            logger.error(
                "node %s: a write kept for node %s was not delivered within %d s and is dropped",
                self._node_id,
                hint.target,
                age_ms // 1000,
            )
        return True

    async def _deliver(
        self, state: ClusterState, target: str, hints: list[Hint], suspects: Collection[str] | None
    ) -> bool:
        """Deliver a batch. Return False if its node cannot be reached now."""
        n_of = {entry.bucket_id: entry.config.n for entry in state.buckets}
        for bucket_id in dict.fromkeys(hint.bucket_id for hint in hints):
            if bucket_id not in n_of and not state.dropped(bucket_id):
                continue  # not heard of yet
            of_bucket = [hint for hint in hints if hint.bucket_id == bucket_id]
            if bucket_id not in n_of:
                for hint in of_bucket:
                    self._hints.forget(hint)
                continue
            groups: dict[tuple[str, ...], list[Hint]] = {}
            for hint in of_bucket:
                partition = partition_in(state.config_of(bucket_id), hint.key, state.ring.partitions)
                owners = state.holders(partition, n_of[bucket_id])
                # While the partition moves the target may be about to lose it, so all owners get it (P4).
                moving = len(state.write_sets(partition, n_of[bucket_id])) > 1
                alone = target in owners and not moving and suspects is None
                those = tuple(node_id for node_id in owners if suspects is None or node_id not in suspects)
                groups.setdefault((target,) if alone else those or owners, []).append(hint)
            for recipients, group in groups.items():
                if not await self._give(state.epoch, bucket_id, recipients, group):
                    return False
        return True

    async def _give(self, epoch: int, bucket_id: int, recipients: tuple[str, ...], hints: list[Hint]) -> bool:
        """Write the hints' records to all of ``recipients``, then forget the hints.

        What is here of a partition that has moved away is sent to nobody. *Schedule without: A holds v, B lacks it, and A is
        cut off while the partition moves away from A and v is deleted and the delete forgotten. A is back, hears who owns
        what, and gives v to B before it has dropped it: an owner's record, as of now (P10).*
        """
        now_ms = self._clock.wall_ms()
        for hint in hints:
            if not hint.record and not self._local.owns(bucket_id, hint.key):
                self._hints.forget(hint)
        hints = [hint for hint in hints if hint.record or self._local.owns(bucket_id, hint.key)]
        keys = [hint.key for hint in hints if not hint.record]
        own = await self._local.read(bucket_id, keys)
        held = {key: own.records[at] for at, key in enumerate(keys) if at not in own.unreadable}
        records = [(hint, hint.record or held[hint.key]) for hint in hints if hint.record or hint.key in held]
        while records:
            some, size_bytes = 0, 0
            for _, record in records:
                size_bytes += len(record or b"")
                some += 1
                if size_bytes >= min(BATCH_BYTES, self._throttle.bytes_per_s / BATCHES_A_SECOND):
                    break
            if not await self._write(epoch, bucket_id, recipients, records[:some], now_ms):
                return False
            records = records[some:]
        return True

    async def _write(
        self,
        epoch: int,
        bucket_id: int,
        recipients: tuple[str, ...],
        records: list[tuple[Hint, bytes | None]],
        now_ms: int,
    ) -> bool:
        items = [(hint.key, record) for hint, record in records if record and is_key(hint.key)]
        # A record that this node holds as an owner is of now; one that it keeps for another is as old as the hint.
        made_ms = min((hint.made_ms for hint, _ in records if hint.record), default=now_ms)
        refused: set[bytes] = set()
        for node_id in recipients if items else ():
            await self._throttle.take(sum(len(key) + len(record) for key, record in items))
            if node_id == self._node_id:
                if not await self._local.write(bucket_id, items, made_ms):
                    return False
                continue
            try:
                write = f.Write(bucket_id, items, made_ms, stored=True)
                answer = await self._peers.call(node_id, write, len(items), CALL_TIMEOUT_S, epoch)
            except PeerFailure as failure:
                logger.debug("node %s: hints for node %s wait: %s", self._node_id, node_id, failure)
                return False
            if not isinstance(answer, f.WriteDone) or len(answer.newer) != len(items):
                return False
            refused.update(key for (key, _), newer in zip(items, answer.newer, strict=True) if newer < 0)
        for hint, _ in records:
            if hint.key not in refused:  # a node without room now may have room later
                self._hints.forget(hint)
                self.replayed += 1
        return True
