"""A storage node's background work: it gossips, hands hints over, repairs, and becomes complete again.

Each of these is a loop that fetches data, leaves the decision to another module (``membership``, ``merkle``, ``hints``)
and acts; no client waits for it. The loops begin once the node knows a decided state of the cluster, as they need to
know who owns what.

Each partition is repaired once in ``repair_every_s``, led by its first owner. The times of the last repairs are kept in
the node's engine, so that a restarted node goes on where the former run was.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from raykv.cluster.peers import Peers
from raykv.errors import CorruptData
from raykv.membership import FailureDetector
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.protocol.requests import handled
from raykv.records.keys import REPAIRS
from raykv.repair.anti_entropy import AntiEntropy, Healed, Mended, PeerLacks, shares
from raykv.repair.handoff import Handoff
from raykv.repair.local_copy import LocalCopy
from raykv.repair.throttle import Throttle
from raykv.storage import DiskFull

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from raykv.cluster.state import ClusterState
    from raykv.config import NodeConfig
    from raykv.ports import Clock, Metrics, Transport
    from raykv.replica.handlers import Replica
    from raykv.replica.hints import HintStore
    from raykv.storage import Damage, Engine

logger = logging.getLogger("raykv.node")

KIND_MARK = 4
HANDOFF_EVERY_S = 1.0
HEAL_EVERY_S = 1.0
HEALED_AT_ONCE = 8
REPAIR_LOOKS = 50
"""The number of times in ``repair_every_s`` that the node checks whether a partition is due."""
BUSY_S = 0.5
EXCHANGE_SHARE = 0.8
"""The part of a round that an exchange of heartbeats may take."""


class Maintenance:
    """The background work of one run of a node."""

    def __init__(
        self,
        node_id: str,
        incarnation: int,
        config: NodeConfig,
        *,
        engine: Engine,
        replica: Replica,
        hints: HintStore,
        partitions: int,
        transport: Transport,
        clock: Clock,
        metrics: Metrics,
        random: random_module.Random,
        durable: Callable[[int], Awaitable[None]],
        superseded: Callable[[str], None],
    ) -> None:
        """``durable(position)`` waits for the log; ``superseded(cause)``: a later run of this node is known."""
        self._node_id = node_id
        self._config = config
        self._engine = engine
        self._replica = replica
        self._clock = clock
        self._random = random
        self._superseded = superseded
        self.throttle = Throttle(clock, config.background_bytes_per_s, config.background_share)
        self.peers = Peers(transport, clock, metrics, state=lambda: replica.known, moved=replica.learn)
        self.hints = hints
        self.detector = FailureDetector(node_id, incarnation, every_s=config.gossip_every_s, random=random)
        self._local = LocalCopy(engine, replica, partitions, clock, self.throttle, durable)
        self.anti_entropy = AntiEntropy(node_id, self._local, self.peers, clock, self.throttle)
        self.handoff = Handoff(node_id, hints, self._local, self.peers, clock, self.throttle, config.max_hint_age_s)
        self._members: tuple[str, ...] = ()
        self._repaired_ms: dict[int, int] = {}
        self._repairing: set[int] = set()
        self.mended = Mended()
        """The total of all repairs of this run."""
        self._healed: set[int] = set()
        self._lossy: set[int] = set()
        self._healing: tuple[int, Sequence[Damage]] = (-1, ())
        """What is being healed: how often the node has become incomplete, and its known damage."""
        self.handlers: dict[type[f.Message], Callable[[Any], Awaitable[f.NodeAnswerBody]]] = dict(
            (
                handled(f.Gossip, self._hear),
                handled(f.Tree, self.anti_entropy.tree),
                handled(f.Leaves, self.anti_entropy.leaves),
                handled(f.Fetch, self.anti_entropy.fetch),
                handled(f.Purge, self.anti_entropy.purge),
                handled(f.Repair, self._repair_now),
                handled(f.DropUnowned, self._clear),
                handled(f.PullPartition, self._take_over),
            )
        )

    @property
    def state(self) -> ClusterState | None:
        """The latest decided state that this node knows; None while it is no member of the ring."""
        state = self._replica.state
        return state if state is not None and state.ring.has_member(self._node_id) else None

    def suspects(self) -> list[str]:
        """Return the nodes that this one suspects."""
        return self.detector.suspects(self._clock.monotonic_s())

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Return the loops; each runs for ever."""
        return [self._gossip(), *(self._for_ever(work) for work in (self._hand_over, self._heal, self._repair))]

    async def _for_ever(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop; corrupt data that it comes upon is lost, and the node goes on."""
        while True:
            try:
                await work()
            except (CorruptData, DiskFull) as error:
                logger.error("node %s: %s", self._node_id, error)
                await self._clock.sleep(HEAL_EVERY_S)

    def figures(self) -> dict[str, Any]:
        """Return the present figures, as plain data."""
        return {
            "suspects": self.suspects(),
            "hints": dict(sorted(self.hints.counts.items())),
            "hint_bytes": self.hints.bytes,
            "hints_replayed": self.handoff.replayed,
            "hints_expired": self.handoff.expired,
            "repaired": self.mended.figures(),
            "tombstones": self._local.tombstones(),
            "background_bytes_per_s": round(self.throttle.bytes_per_s),
            "healed_partitions": len(self._healed) if not self._replica.complete else None,
        }

    # ---- answering ----

    async def answer(self, body: f.NodeRequestBody) -> f.NodeAnswerBody:
        """Answer a request that needs more than one look at the records: one of ``handlers``."""
        try:
            return await self.handlers[type(body)](body)
        except CorruptData as error:
            return f.NodeRefused("corrupt", str(error))

    async def _hear(self, request: f.Gossip) -> f.NodeAnswerBody:
        self.detector.hear(request.table, self._clock.monotonic_s())
        return f.Gossip(self._node_id, self.detector.table())

    async def _clear(self, request: f.DropUnowned) -> f.NodeAnswerBody:
        return f.Cleared(await self._local.clear(request.partitions))

    async def _repair_now(self, request: f.Repair) -> f.NodeAnswerBody:
        state = self.state
        if state is None or not 0 <= request.partition < state.ring.partitions:
            return f.NodeRefused("not yet", "the node does not know the cluster's state yet")
        if not self._replica.complete:
            return f.NodeRefused(
                "not yet", "this node may lack writes that it acknowledged, until it is complete again"
            )
        try:
            async with self._clock.timeout(request.timeout_s):
                mended = await self._repair_one(state, request.partition, purge=request.purge)
        except PeerLacks as lack:
            return f.NodeRefused("not yet", str(lack))
        except TimeoutError:
            return f.NodeRefused("not yet", f"not compared within {request.timeout_s:g} s")
        return f.Repaired(mended.figures())

    async def _take_over(self, request: f.PullPartition) -> f.NodeAnswerBody:
        """Fetch a partition that moves to this node from its old owners (P4)."""
        state = self.state
        if state is None:
            return f.NodeRefused("not yet", "the node is no member yet")
        before = self._local.taken
        try:
            with self.throttle.hurry() if request.lost else nullcontext():  # copies are missing
                async with self._clock.timeout(request.timeout_s):
                    done = await self.anti_entropy.take_over(state, request.partition, request.lost)
        except PeerLacks as lack:
            return f.NodeRefused("not yet", str(lack))
        except TimeoutError:
            if self._local.taken > before:  # what is here by now need not be fetched again
                return f.Repaired({"partial": True, "fetched": self._local.taken - before, "bytes": 0})
            return f.NodeRefused("not yet", f"nothing was taken over within {request.timeout_s:g} s")
        await self._local.all_durable()
        return f.Repaired(done.figures())

    # ---- the loops ----

    async def _gossip(self) -> None:
        """Exchange heartbeats with other nodes, round after round."""
        every_s = self._config.gossip_every_s
        await self._clock.sleep(every_s * self._random.random())  # or nodes that start together stay in step
        while True:
            state, now_s = self.state, self._clock.monotonic_s()
            if state is not None:
                members = tuple(member.node_id for member in state.ring.members)
                if members != self._members:
                    self._members = members
                    self.detector.set_members(members, now_s)
                # All at once, and within the round: after a late tick this node would take itself for stalled.
                peers = self.detector.tick(now_s)
                await asyncio.gather(*(self._exchange_heartbeats(peer, EXCHANGE_SHARE * every_s) for peer in peers))
                if self.detector.superseded:
                    self._superseded("gossip knows a later run of this node")
                    return
                taken_s = self._clock.monotonic_s() - now_s
                await self._clock.sleep(max(0.0, every_s - taken_s))
            else:
                await self._clock.sleep(every_s)

    async def _exchange_heartbeats(self, peer: str, timeout_s: float) -> None:
        try:
            answer = await self.peers.call(peer, f.Gossip(self._node_id, self.detector.table()), 1, timeout_s)
        except PeerFailure:
            return
        if isinstance(answer, f.Gossip):
            self.detector.hear(answer.table, self._clock.monotonic_s())

    async def _hand_over(self) -> None:
        while True:
            await self._clock.sleep(HANDOFF_EVERY_S)
            if self.state is not None and self.hints.counts:
                await self.handoff.run(self.state, self.suspects())

    async def _heal(self) -> None:
        """Become complete again (P1), whenever this node is not."""
        while True:
            await self._clock.sleep(HEAL_EVERY_S)
            state = self.state
            if state is None or not self._replica.votes:
                continue  # its state of the cluster may come from a superseded supervisor
            if self._replica.complete and not self._engine.damaged:
                self._healed.clear()
                continue
            damages = self._engine.damaged
            if self._healing != (self._replica.times_incomplete, damages):  # later damage may lie anywhere
                self._healing = (self._replica.times_incomplete, damages)
                self._healed.clear()
                self._lossy.clear()
            lacking = [partition for partition in self._owned(state) if not self._local.complete(partition)]
            with self.throttle.hurry():
                healed = await self._heal_all(
                    state, [partition for partition in lacking if partition not in self._healed]
                )
            if healed:
                await self._local.all_durable()
                unchanged = (
                    self.state is not None and self.state.ballot == state.ballot
                )  # above all, what this node owns
                if unchanged and self._healing == (self._replica.times_incomplete, self._engine.damaged):
                    self._mark_complete(damages)
                self._healed.clear()

    def _owned(self, state: ClusterState) -> list[int]:
        return [
            partition
            for partition in range(state.ring.partitions)
            if any(self._node_id in share.owners for share in shares(state, partition))
        ]

    async def _heal_all(self, state: ClusterState, partitions: list[int]) -> bool:
        """Heal these partitions, some at once. Return False if one must wait."""
        for at in range(0, len(partitions), HEALED_AT_ONCE):
            some = partitions[at : at + HEALED_AT_ONCE]
            outcomes = await asyncio.gather(*(self.anti_entropy.heal(state, partition) for partition in some))
            for partition, outcome in zip(some, outcomes, strict=True):
                if outcome is not Healed.NOT_YET:
                    self._healed.add(partition)
                if outcome is Healed.AS_FAR_AS_CAN_BE:
                    self._lossy.add(partition)
            if Healed.NOT_YET in outcomes:
                return False
        return True

    def _mark_complete(self, damages: Sequence[Damage]) -> None:
        if self._lossy:
            logger.error(
                "node %s answers again, though too few others are intact: acknowledged writes of %d partitions may be lost",
                self._node_id,
                len(self._lossy),
            )
        self._lossy.clear()
        self._replica.mark_complete(damages)
        logger.info("node %s is complete again", self._node_id)

    # ---- repair, now and then ----

    async def _repair(self) -> None:
        every_s = self._config.repair_every_s
        while True:
            await self._clock.sleep(min(every_s / REPAIR_LOOKS, 60.0))
            state = self.state
            if state is None or not self._replica.complete:
                continue
            now_ms = self._clock.wall_ms()
            for partition in state.ring.first_partitions_of(self._node_id):
                if now_ms - self._last_ms(partition, now_ms) < every_s * 1000 or partition in self._repairing:
                    continue
                try:
                    await self._repair_one(state, partition)
                except PeerLacks as lack:
                    logger.debug("node %s: partition %d waits for its repair: %s", self._node_id, partition, lack)
                    await self._clock.sleep(BUSY_S)

    async def _repair_one(self, state: ClusterState, partition: int, *, purge: bool = True) -> Mended:
        self._repairing.add(partition)
        try:
            mended = await self.anti_entropy.repair(state, partition, purge=purge)
        finally:
            self._repairing.discard(partition)
        self.mended.add(mended)
        if purge and partition in state.ring.first_partitions_of(self._node_id):
            now_ms = self._clock.wall_ms()
            self._repaired_ms[partition] = now_ms
            self._engine.replace(_mark(partition), bytes([KIND_MARK]) + now_ms.to_bytes(8))
        return mended

    def _last_ms(self, partition: int, now_ms: int) -> int:
        """Return when the partition was last repaired; if never, a random time in the last period, to spread repairs."""
        known = self._repaired_ms.get(partition)
        if known is None:
            try:
                found = self._engine.get(_mark(partition))
            except CorruptData:
                found = None
            if found is not None:
                known = min(now_ms, int.from_bytes(found.record[1:9]))  # a clock may have been ahead
            else:
                known = now_ms - round(self._random.random() * self._config.repair_every_s * 1000)
            self._repaired_ms[partition] = known
        return min(known, now_ms)


def _mark(partition: int) -> bytes:
    return REPAIRS + partition.to_bytes(2)
