"""Brings the ring to its goal: partition by partition, in waves, across any number of supervisors (P4).

The next step follows from the cluster's state alone, so a supervisor that takes over continues where the last one
stopped. Each turn looks at the state and advances it by one step:

* no wave is under way, partitions are left: the gaining nodes first drop what they may hold of them from an earlier time
  (a value whose deletion all others have forgotten would come back), then the partitions enter step 1 together;
* step 1: once enough owners know of it, the new ones pull the partitions; once all have, step 2 begins;
* step 2: once enough owners know of it, step 3 begins, and the old owners drop what they held;
* no partition is left: the goal becomes the ring, and nodes that are not its members have left.

Moves do not wait for a new owner that goes down before step 2: the wave is postponed and retried without that node. An
old owner that is down is not needed as long as enough of the others are available.
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
    from raykv.ring import Ring
    from raykv.supervision.chronicle import Chronicle

logger = logging.getLogger("raykv.supervisor")

LOOK_EVERY_S = 0.5
CONFIRM_EVERY_S = 0.05
AT_ONCE = 1
"""Partitions that a node pulls or compares concurrently. Two would double the load on clients at a time."""
CONFIRM_TIMEOUT_S = 5.0
CLEAR_TIMEOUT_S = 30.0
TAKE_OVER_TIMEOUT_S = 10.0
"""A new owner pulls for this long before it reports its progress; it continues on the next request."""
SPREAD_TIMEOUT_S = 10.0
HINTS_TIMEOUT_S = 120.0
"""Time that a leaving node gets to deliver its hints."""
AWAY_S = 30.0
"""Time that a wave waits for an unresponsive new owner before it is postponed."""
SHUN_S = 30.0
"""Time during which nothing is moved to such a node."""


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
        chronicle: Chronicle,
    ) -> None:
        """``change(fn)`` makes ``fn(state)`` the state. Raises ``StoreUnavailable``.

        ``knows(node_id, ballot)``: whether the node durably knows that state or a later one. ``left(nodes)``: these are
        no longer members. ``away()``: the nodes that have been down too long to be waited for.
        """
        self._name = name
        self._clock = clock
        self._state = state
        self._change = change
        self._knows = knows
        self._left = left
        self._away = away
        self._chronicle = chronicle
        self._unclear: dict[str, set[int] | None] = {}
        """Nodes that may hold records they no longer own, with the partitions; None: any partition."""
        self._hints_until: tuple[tuple[str, ...], Ring | None, float] | None = None
        """The leaving nodes that still keep hints, the goal without them, and when their time ends."""
        self._peers = Peers(transport, clock, NoMetrics(), state=self._known)
        self._shunned: dict[str, float] = {}
        self.figures: dict[str, int] = {"waves": 0, "partitions": 0, "records": 0, "bytes": 0, "postponed": 0}
        """Totals of this supervisor."""
        self.waits_for = ""
        """What it is waiting for, to be shown."""

    def _known(self) -> tuple[ClusterState, bytes]:
        state = self._state()
        return state, encode_state(state)

    def look_into(self, node_id: str) -> None:
        """Let a restarted node drop what it does not own: its directory may be an old copy."""
        self._unclear[node_id] = None

    def _lost(self) -> list[str]:
        """Return the leaving nodes that are unavailable: what only they hold is given up."""
        goal = self._state().goal
        return [] if goal is None else [node_id for node_id in self._away() if not goal.has_member(node_id)]

    def progress(self) -> dict[str, Any] | None:
        """Return the progress as plain data; None if there is nothing to move."""
        state = self._state()
        if state.goal is None:
            return None
        step = "" if not state.moves else "read by the new owners" if state.moves[0].reads_new else "being taken over"
        return {
            "partitions_left": moves.left(state),
            "why": self._chronicle.moves_for or moves.reason(state),
            "moving": [move.partition for move in state.moves],
            "step": step,
            "paused": state.paused,
            "waits_for": self.waits_for,
            **self.figures,
        }

    async def run(self) -> None:
        """Take step after step while there is work."""
        for member in self._state().ring.members:  # a former supervisor may have left them unclean
            self.look_into(member.node_id)
        while True:
            state = self._state()
            if self._unclear and not state.moves:
                away = {*self._away()}
                asked, self._unclear = self._unclear, {}
                there = {node_id: partitions for node_id, partitions in asked.items() if node_id not in away}
                still = await self._clear(there, "records of moved partitions are not dropped yet")
                members = {member.node_id for member in self._state().ring.members}
                for node_id in sorted(away & {*asked}) + still:
                    if node_id in members:
                        _add(self._unclear, node_id, asked[node_id])
            idle = state.goal is None or (state.paused and not state.moves)
            try:
                if idle or not await self._step(state):
                    await self._clock.sleep(LOOK_EVERY_S)
            except StoreUnavailable as error:
                self.waits_for = str(error)
                await self._clock.sleep(LOOK_EVERY_S)

    async def _step(self, state: ClusterState) -> bool:
        """Advance the state by one step. False if that is not possible now."""
        if not state.moves:
            if not moves.left(state):
                return await self._arrive(state)
            return await self._begin(state)
        for move in state.moves:  # new owners too: the wave may be postponed; staying owners may lose a smaller bucket
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
        """Let an old owner hand over what it alone may hold: writes that asked for fewer than the bucket's W."""
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
            self.waits_for = f"{', '.join(sorted(shunned))} did not answer; retrying soon"
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
            "store %s: %d partitions begin to move to %s; %d left",
            self._name, len(wave), ", ".join(sorted(gaining)) or "another order", moves.left(state),
        )  # fmt: skip
        return True

    async def _take_over(self, state: ClusterState) -> bool:
        """Let the new owners pull the partitions of step 1; once all have, reads go to them."""
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
        """Postpone the wave if a new owner is missing; the wait for an old one can as well follow later."""
        away = [node_id for node_id in sorted(gaining) if not await self._knows(node_id, state.ballot)]
        self._shun(away)
        self.figures["postponed"] += 1
        await self._advance(state, moves.postpone)
        return not away

    async def _give(self, state: ClusterState, node_id: str, partitions: list[int]) -> bool:
        """Let a node pull these partitions, a few at a time. False if it does not finish."""
        left = iter(partitions)
        done = await asyncio.gather(*(self._give_in_turn(state, node_id, left) for _ in range(AT_ONCE)))
        return all(done)

    async def _give_in_turn(self, state: ClusterState, node_id: str, left: Iterator[int]) -> bool:
        for partition in left:
            patience_s = self._clock.monotonic_s() + AWAY_S
            while True:
                body = f.PullPartition(partition, TAKE_OVER_TIMEOUT_S, self._lost())
                try:
                    answer = await self._peers.call(node_id, body, 1, TAKE_OVER_TIMEOUT_S + 1.0, state.epoch)
                    assert isinstance(answer, f.Repaired), "a node sent an answer of the wrong type"
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
        logger.info("store %s: the ring has reached its goal, epoch %d", self._name, self._state().ring.epoch)
        self._chronicle.moves_for = ""
        self._chronicle.note(
            "good", "all partitions have moved", f"the ring has reached its goal, epoch {self._state().ring.epoch}"
        )
        await self._left(gone)
        return True

    async def _hints_delivered(self, leaving: list[str]) -> bool:
        """Return whether the leaving nodes keep no hints any more, or have had their time."""
        waiting = []
        for node_id in leaving:
            try:
                answer = await self._peers.call(node_id, f.Ping(with_stats=True), 1, CONFIRM_TIMEOUT_S)
            except PeerFailure:
                continue
            if isinstance(answer, f.Pong) and answer.stats and answer.stats.get("hints"):
                waiting.append(node_id)
        if waiting:
            now_s, goal, given = self._clock.monotonic_s(), self._state().goal, self._hints_until
            if given is None or given[:2] != (tuple(leaving), goal):  # those of a goal that was called off say nothing
                given = self._hints_until = (tuple(leaving), goal, now_s + HINTS_TIMEOUT_S)
            if now_s < given[2]:
                self.waits_for = f"{', '.join(waiting)} still keep hints for others"
                return False
        self._hints_until = None
        return True

    async def _advance(self, state: ClusterState, step: Callable[[ClusterState], ClusterState]) -> None:
        """Make ``step(state)`` the state unless the ownership has changed in the meantime."""

        def change(now: ClusterState) -> ClusterState:
            if now.epoch != state.epoch:
                raise StoreUnavailable("the ring has changed in the meantime")
            return step(now)

        await self._change(change)

    async def _clear(self, nodes: Mapping[str, set[int] | None], why: str) -> list[str]:
        """Let these nodes drop what they do not own of these partitions. Returns those that did not confirm it."""
        epoch = self._state().epoch

        async def one(node_id: str) -> bool:
            partitions = nodes[node_id]
            body = f.DropUnowned(None if partitions is None else sorted(partitions))
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
        """Wait until enough owners of the moving partitions durably know the state. False on time-out."""
        deadline_s = self._clock.monotonic_s() + timeout_s
        knowing: set[str] = set()
        while missing := moves.lacking(state, knowing, self._lost()):
            ordered = sorted(missing)
            answers = await asyncio.gather(*(self._knows(node_id, state.ballot) for node_id in ordered))
            knowing.update(node_id for node_id, known in zip(ordered, answers, strict=True) if known)
            if self._clock.monotonic_s() > deadline_s:
                self.waits_for = f"too few owners know the last step; missing: {', '.join(sorted(missing - knowing))}"
                return not moves.lacking(state, knowing, self._lost())
            if moves.lacking(state, knowing, self._lost()):
                await self._clock.sleep(CONFIRM_EVERY_S)
        self.waits_for = ""
        return True

    def _shun(self, nodes: Iterable[str]) -> None:
        until_s = self._clock.monotonic_s() + SHUN_S
        self._shunned.update((node_id, until_s) for node_id in nodes)


def _add(nodes: dict[str, set[int] | None], node_id: str, partitions: set[int] | None) -> None:
    """Add partitions to those of a node; None means all."""
    known = nodes.get(node_id, set())
    nodes[node_id] = None if known is None or partitions is None else known | partitions
