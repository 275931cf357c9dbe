"""Brings the ring to its goal: partition by partition, in waves, over any number of supervisors (P4).

What is to be done next follows from the cluster's state alone, so that a supervisor which takes over goes on where the last
one was. Each turn looks at the state and takes it one step further:

* nothing is under way, partitions are left: whoever gains some first clears away what it may hold of them from an earlier
  time (a value whose deletion all others have forgotten would come back), then they go to step 1 together;
* at step 1: once enough owners know of it, the new ones take over; once all have, to step 2;
* at step 2: once enough owners know of it, to step 3, and the old owners clear away what they held;
* nothing is left: the goal is the ring, and who is no member of it has left.

A new owner that goes down before step 2 is not waited for: the wave is put off, and tried again without that node. An old
one that is down is not needed, as long as enough of the others are there.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from raykv.cluster import moves
from raykv.cluster.peers import Peers
from raykv.cluster.state import ClusterState, encode_state
from raykv.errors import StoreUnavailable
from raykv.node.node import NoMetrics
from raykv.ports import PeerFailure
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping

    from raykv.ports import Clock, Transport

logger = logging.getLogger("raykv.supervisor")

LOOK_EVERY_S = 0.5
CONFIRM_EVERY_S = 0.05
AT_ONCE = 1
"""So many partitions a node takes over, or compares, at the same time. Two would cost clients twice as much at a time."""
CONFIRM_TIMEOUT_S = 5.0
CLEAR_TIMEOUT_S = 30.0
TAKE_OVER_TIMEOUT_S = 10.0
"""So long a new owner takes over before it says how far it is; it goes on when it is asked again."""
SPREAD_TIMEOUT_S = 10.0
HINTS_TIMEOUT_S = 120.0
"""So long a node that is to leave may take to deliver what it keeps for others."""
AWAY_S = 30.0
"""So long a wave waits for a new owner that does not answer, before it is put off."""
SHUN_S = 30.0
"""So long nothing is moved to such a node."""


class Rebalancing:
    """One supervisor's work on the ring. ``run`` it for ever."""

    def __init__(
        self,
        name: str,
        *,
        transport: Transport,
        clock: Clock,
        state: Callable[[], ClusterState],
        change: Callable[[Callable[[ClusterState], ClusterState]], Coroutine[Any, Any, None]],
        knows: Callable[[str, tuple[int, int]], Coroutine[Any, Any, bool]],
        left: Callable[[list[str]], Coroutine[Any, Any, None]],
        away: Callable[[], list[str]],
    ) -> None:
        """``change(fn)`` makes ``fn(state)`` the state. Raises ``StoreUnavailable``.

        ``knows(node_id, ballot)``: whether the node knows, durably, of that state or a later one. ``left(nodes)``: these
        are no members any more. ``away()``: those that have been down for so long that nobody waits for them.
        """
        self._name = name
        self._clock = clock
        self._state = state
        self._change = change
        self._knows = knows
        self._left = left
        self._away = away
        self._unclear: dict[str, set[int] | None] = {}
        """Nodes that may hold what they are not to hold any more, and in which partitions: None, in any."""
        self._hints_until_s: float | None = None
        self._peers = Peers(transport, clock, NoMetrics(), state=self._told)
        self._shunned: dict[str, float] = {}
        self.paused = False
        self.figures: dict[str, int] = {"waves": 0, "partitions": 0, "records": 0, "bytes": 0, "postponed": 0}
        """What was done by this supervisor."""
        self.waits_for = ""
        """Why it does not go on just now, to be shown."""

    def _told(self) -> tuple[ClusterState, bytes]:
        state = self._state()
        return state, encode_state(state)

    def look_into(self, node_id: str) -> None:
        """Let a node that runs anew clear away what it is not to hold: its directory may be an old copy."""
        self._unclear[node_id] = None

    def _lost(self) -> list[str]:
        """Return the nodes that are to leave and are away: what only they hold is given up."""
        goal = self._state().goal
        return [] if goal is None else [node_id for node_id in self._away() if not goal.has_member(node_id)]

    def progress(self) -> dict[str, Any] | None:
        """Return what is going on, as plain data; None if nothing is to be moved."""
        state = self._state()
        if state.goal is None:
            return None
        step = "" if not state.moves else "read by the new owners" if state.moves[0].reads_new else "being taken over"
        return {
            "partitions_left": moves.left(state),
            "moving": [move.partition for move in state.moves],
            "step": step,
            "paused": self.paused,
            "waits_for": self.waits_for,
            **self.figures,
        }

    async def run(self) -> None:
        """Take one step after the other, whenever there is something to do."""
        for member in self._state().ring.members:  # left so by a supervisor that has ended
            self.look_into(member.node_id)
        while True:
            state = self._state()
            if self._unclear and not state.moves:
                away = {*self._away()}
                asked, self._unclear = self._unclear, {}
                there = {node_id: partitions for node_id, partitions in asked.items() if node_id not in away}
                still = await self._clear(there, "what was given away waits to be cleared")
                members = {member.node_id for member in self._state().ring.members}
                for node_id in sorted(away & {*asked}) + still:
                    if node_id in members:
                        _add(self._unclear, node_id, asked[node_id])
            idle = state.goal is None or (self.paused and not state.moves)
            try:
                if idle or not await self._step(state):
                    await self._clock.sleep(LOOK_EVERY_S)
            except StoreUnavailable as error:
                self.waits_for = str(error)
                await self._clock.sleep(LOOK_EVERY_S)

    async def _step(self, state: ClusterState) -> bool:
        """Take the state one step further. False if that is not possible now."""
        if not state.moves:
            if not moves.left(state):
                return await self._arrive(state)
            return await self._begin(state)
        for move in state.moves:  # also who gains: the wave may be put off. Who stays may lose a bucket of fewer copies
            for node_id in sorted({*state.ring.owners(move.partition), *move.owners}):
                _add(self._unclear, node_id, {move.partition})
        if not state.moves[0].reads_new:
            return await self._take_over(state)
        if not await self._enough_know(state):
            return False
        losing: dict[str, list[int]] = {}
        for move in state.moves:
            for node_id in state.ring.owners(move.partition):
                if node_id not in move.owners:
                    losing.setdefault(node_id, []).append(move.partition)
        there = sorted({*losing} - {*self._away()})
        await asyncio.gather(*(self._spread(state, node_id, losing[node_id]) for node_id in there))
        await self._advance(state, moves.ended)
        self.figures["partitions"] += len(state.moves)
        self.waits_for = ""
        return True

    async def _spread(self, state: ClusterState, node_id: str, partitions: list[int]) -> None:
        """Let an old owner give the others what it alone may hold: a write that asked for fewer than the bucket's W."""
        left = iter(partitions)
        await asyncio.gather(*(self._spread_in_turn(state, node_id, left) for _ in range(AT_ONCE)))

    async def _spread_in_turn(self, state: ClusterState, node_id: str, left: Iterator[int]) -> None:
        for partition in left:
            body = f.Repair(partition, SPREAD_TIMEOUT_S, purge=False)
            try:
                await self._peers.call(node_id, body, 1, SPREAD_TIMEOUT_S + 1.0, state.epoch)
            except PeerFailure as failure:
                logger.info(
                    "store %s: node %s did not compare partition %d: %s", self._name, node_id, partition, failure
                )

    async def _begin(self, state: ClusterState) -> bool:
        now_s = self._clock.monotonic_s()
        shunned = {node_id for node_id, until_s in self._shunned.items() if now_s < until_s} | {*self._away()}
        wave = moves.next_wave(state, shunned)
        if not wave:
            self.waits_for = f"{', '.join(sorted(shunned))} did not answer; tried again soon"
            return False
        gaining: dict[str, set[int] | None] = {}
        for move in wave:
            for node_id in moves.gains(state, move):
                _add(gaining, node_id, {move.partition})
        if unclear := await self._clear(gaining, "a new owner does not answer"):
            self._shun(unclear)
            return False
        await self._advance(state, lambda now: moves.begun(now, wave))
        self.figures["waves"] += 1
        logger.info(
            "store %s: %d partitions begin to move to %s; %d are left",
            self._name, len(wave), ", ".join(sorted(gaining)) or "another order", moves.left(state),
        )  # fmt: skip
        return True

    async def _take_over(self, state: ClusterState) -> bool:
        """Let the new owners take over what is at step 1; once all have, reads ask them."""
        gaining: dict[str, list[int]] = {}
        for move in state.moves:
            for node_id in moves.gains(state, move):
                gaining.setdefault(node_id, []).append(move.partition)
        if not await self._enough_know(state, AWAY_S):
            return await self._postpone(state, gaining)
        done = await asyncio.gather(*(self._give(state, node_id, gaining[node_id]) for node_id in sorted(gaining)))
        late = [node_id for node_id, well in zip(sorted(gaining), done, strict=True) if not well]
        if late:
            self._shun(late)
            self.figures["postponed"] += 1
            await self._advance(state, moves.postpone)
            return True
        await self._advance(state, moves.reading_new)
        return True

    async def _postpone(self, state: ClusterState, gaining: Iterable[str]) -> bool:
        """Take the wave back if it is a new owner that is missing; an old one may be waited for as well before as after."""
        away = [node_id for node_id in sorted(gaining) if not await self._knows(node_id, state.ballot)]
        self._shun(away)
        self.figures["postponed"] += 1
        await self._advance(state, moves.postpone)
        return not away

    async def _give(self, state: ClusterState, node_id: str, partitions: list[int]) -> bool:
        """Let a node take over these partitions, a few at a time. False if it does not come to an end."""
        left = iter(partitions)
        done = await asyncio.gather(*(self._give_in_turn(state, node_id, left) for _ in range(AT_ONCE)))
        return all(done)

    async def _give_in_turn(self, state: ClusterState, node_id: str, left: Iterator[int]) -> bool:
        for partition in left:
            patience_s = self._clock.monotonic_s() + AWAY_S
            while True:
                body = f.TakeOver(partition, TAKE_OVER_TIMEOUT_S, self._lost())
                try:
                    answer = await self._peers.call(node_id, body, 1, TAKE_OVER_TIMEOUT_S + 1.0, state.epoch)
                    assert isinstance(answer, f.Repaired), "a node gave an answer that does not fit"
                except PeerFailure as failure:
                    self.waits_for = f"node {node_id} has not taken over partition {partition}: {failure}"
                    if self._clock.monotonic_s() > patience_s:
                        return False
                    await self._clock.sleep(CONFIRM_EVERY_S * 4)
                    continue
                self.figures["records"] += int(answer.figures.get("fetched", 0))
                self.figures["bytes"] += int(answer.figures.get("bytes", 0))
                patience_s = self._clock.monotonic_s() + AWAY_S
                if not answer.figures.get("partial"):
                    break
        return True

    async def _arrive(self, state: ClusterState) -> bool:
        assert state.goal is not None
        gone = [member.node_id for member in state.ring.members if not state.goal.has_member(member.node_id)]
        if not await self._hints_delivered(gone):
            return False
        if len(gone) > 1:  # members change one at a time (P5)
            await self._advance(state, lambda now: moves.without_member(now, gone[0]))
            await self._left(gone[:1])
            return True
        await self._advance(state, moves.arrived)
        self.waits_for = ""
        logger.info("store %s: the ring is as it is to be, epoch %d", self._name, self._state().ring.epoch)
        await self._left(gone)
        return True

    async def _hints_delivered(self, leaving: list[str]) -> bool:
        """Whether those that are to leave keep nothing for others any more, or have had their time."""
        waiting = []
        for node_id in leaving:
            try:
                answer = await self._peers.call(node_id, f.Ping(with_stats=True), 1, CONFIRM_TIMEOUT_S)
            except PeerFailure:
                continue
            if isinstance(answer, f.Pong) and answer.stats and answer.stats.get("hints"):
                waiting.append(node_id)
        now_s = self._clock.monotonic_s()
        if waiting and self._hints_until_s is None:
            self._hints_until_s = now_s + HINTS_TIMEOUT_S
        if waiting and self._hints_until_s is not None and now_s < self._hints_until_s:
            self.waits_for = f"{', '.join(waiting)} still keep writes for others"
            return False
        self._hints_until_s = None
        return True

    async def _advance(self, state: ClusterState, step: Callable[[ClusterState], ClusterState]) -> None:
        """Make ``step(state)`` the state, unless somebody has changed who owns what meanwhile."""

        def change(now: ClusterState) -> ClusterState:
            if now.epoch != state.epoch:
                raise StoreUnavailable("the ring was changed by somebody else meanwhile")
            return step(now)

        await self._change(change)

    async def _clear(self, nodes: Mapping[str, set[int] | None], why: str) -> list[str]:
        """Let these nodes forget what they are not to hold of these partitions. Returns those that did not say they have."""
        epoch = self._state().epoch

        async def one(node_id: str) -> bool:
            partitions = nodes[node_id]
            body = f.Clear(None if partitions is None else sorted(partitions))
            try:
                answer = await self._peers.call(node_id, body, 1, CLEAR_TIMEOUT_S, epoch)
            except PeerFailure as failure:
                self.waits_for = f"{why}: {failure}"
                return False
            return isinstance(answer, f.Cleared)

        asked = sorted(nodes)
        done = await asyncio.gather(*(one(node_id) for node_id in asked))
        return [node_id for node_id, well in zip(asked, done, strict=True) if not well]

    async def _enough_know(self, state: ClusterState, timeout_s: float = CONFIRM_TIMEOUT_S) -> bool:
        """Wait until enough owners of what moves know of the state, durably. False if they do not in time."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        knowing: set[str] = set()
        while missing := moves.lacking(state, knowing, self._lost()):
            ordered = sorted(missing)
            told = await asyncio.gather(*(self._knows(node_id, state.ballot) for node_id in ordered))
            knowing.update(node_id for node_id, known in zip(ordered, told, strict=True) if known)
            if self._clock.monotonic_s() > deadline_s:
                self.waits_for = f"too few owners know of the last step: without {', '.join(sorted(missing - knowing))}"
                return not moves.lacking(state, knowing, self._lost())
            if moves.lacking(state, knowing, self._lost()):
                await self._clock.sleep(CONFIRM_EVERY_S)
        self.waits_for = ""
        return True

    def _shun(self, nodes: Iterable[str]) -> None:
        until_s = self._clock.monotonic_s() + SHUN_S
        self._shunned.update((node_id, until_s) for node_id in nodes)


def _add(nodes: dict[str, set[int] | None], node_id: str, partitions: set[int] | None) -> None:
    """Add partitions to those of a node; None are all that there are."""
    known = nodes.get(node_id, set())
    nodes[node_id] = None if known is None or partitions is None else known | partitions
