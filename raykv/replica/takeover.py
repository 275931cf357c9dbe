"""How a node comes to lead a partition: when it is its turn (L14), and a term that F of the owners promise (L1, L4, L9)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from raykv.errors import CorruptData, StoreClosed
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.records.linear_record import NO_TERM, pack_term, term_number
from raykv.replica.tenure import Tenure, held_by_majorities
from raykv.storage import EngineFailed

if TYPE_CHECKING:
    import random as random_module
    from collections.abc import Awaitable, Callable, Sequence

    from raykv.ports import Clock
    from raykv.replica.handlers import Replica
    from raykv.replica.owners import Owners
    from raykv.replica.tenure import Place

logger = logging.getLogger("raykv.node")

TAKEOVER_EVERY_S = 1.0
PROMISE_TIMEOUT_S = 1.0
BALANCE_AFTER_S = 10.0
BALANCED_AT_ONCE = 4
TAKEN_AT_ONCE = 8
_CANNOT = f.Settled(c.UNABLE)


class _Vote:
    """What the owners say to one term, asked twice."""

    def __init__(
        self, term: bytes, sets: tuple[tuple[str, ...], ...], node_id: str, directory_id: int, buckets: Sequence[int]
    ) -> None:
        """``node_id``, ``directory_id``: the candidate's, which has promised it; ``buckets``: which it holds any of."""
        self._term = term
        self._sets = sets
        self.granted = {node_id: directory_id}
        """Node that has promised it -> in which directory."""
        self._confirmed = {node_id: directory_id}
        """The same, asked once more."""
        self._filled = {node_id: frozenset(buckets)}
        """Node -> the buckets of which it holds anything."""
        self.refused: tuple[bytes, str] | None = None
        """The latest later term that is promised somewhere, and its leader."""

    def take_grant(self, node_id: str, said: f.NodeAnswerBody) -> None:
        """Take an owner's first answer."""
        self._take(self.granted, node_id, said)

    def take_confirmation(self, node_id: str, said: f.NodeAnswerBody) -> None:
        """Take an owner's second answer."""
        self._take(self._confirmed, node_id, said)
        if isinstance(said, f.Promised):
            self._filled[node_id] = frozenset(said.buckets)

    def _take(self, into: dict[str, int], node_id: str, said: f.NodeAnswerBody) -> None:
        if isinstance(said, f.Promised) and said.granted and said.term == self._term:
            into[node_id] = said.directory_id
        elif isinstance(said, f.Promised) and said.term > self._term:
            self.refused = max((said.term, said.leader), self.refused or (b"", ""))

    @property
    def is_granted(self) -> bool:
        """Whether F of each set have promised it."""
        return self.refused is None and held_by_majorities(self._sets, self.granted)

    @property
    def is_confirmed(self) -> bool:
        """Whether F of each set still promise it, in the same directory as before (L4)."""
        return self.refused is None and held_by_majorities(self._sets, self._same())

    def _same(self) -> list[str]:
        return [at for at, directory_id in self._confirmed.items() if self.granted.get(at) == directory_id]

    @property
    def filled(self) -> frozenset[int]:
        """The buckets of which any of those who confirmed it holds anything."""
        return frozenset().union(*(self._filled.get(node_id, frozenset()) for node_id in self._same()))


class Takeovers:
    """What one node knows of leaders, and its attempts to lead."""

    def __init__(
        self,
        node_id: str,
        *,
        replica: Replica,
        owners: Owners,
        clock: Clock,
        random: random_module.Random,
        durable: Callable[[int], Awaitable[None]],
        leads: Callable[[Place], bool],
        begin: Callable[[Tenure], None],
    ) -> None:
        """``leads(place)``: whether this node leads. ``begin(tenure)`` has it lead. The rest: ``leader.Leaders``."""
        self._node_id = node_id
        self._replica = replica
        self._owners = owners
        self._clock = clock
        self._random = random
        self._durable = durable
        self._leads = leads
        self._begin = begin
        self._began_s = clock.monotonic_s()
        self._resting_until_s = 0.0
        self._running: dict[Place, asyncio.Task[f.Settled | None]] = {}
        self._refused_s: dict[Place, float] = {}
        """Place -> until when no other takeover of it is tried."""
        self._elsewhere: dict[Place, tuple[bytes, str]] = {}
        """Place -> the latest term that was heard of, and its leader."""

    # ---- who leads ----

    def believed(self, place: Place) -> tuple[bytes, str]:
        """Return the latest known term, and its leader."""
        promised = self._replica.promises.of(*place)
        return max((promised.term, promised.leader), self.heard(place))

    def heard(self, place: Place) -> tuple[bytes, str]:
        """Return the latest term that others have named, and its leader."""
        return self._elsewhere.get(place, (b"", ""))

    def hear(self, place: Place, term: bytes, leader: str) -> None:
        """Remember a term that others have promised."""
        self._elsewhere[place] = max((term, leader), self.heard(place))

    def pointer(self, place: Place) -> f.Settled:
        """Return where to go instead."""
        leader = self.believed(place)[1]
        state = self._replica.state
        if state is not None and leader not in (owners := state.read_set(*place)):
            leader = owners[0]
        return f.Settled(c.ELSEWHERE, leader=leader) if leader and leader != self._node_id else f.Settled(c.NO_QUORUM)

    # ---- whose turn it is ----

    async def lead(self, place: Place, silent: Sequence[str], unable: Sequence[str]) -> f.Settled | None:
        """Lead the partition, if this node is to. None: it does; else where to go instead."""
        state = self._replica.state
        if state is None:
            return f.Settled(c.UNABLE)
        owners = state.read_set(*place)
        if self._node_id not in owners:
            return f.Settled(c.ELSEWHERE, leader=owners[0])
        if not self._able(place):
            return f.Settled(c.UNABLE)
        running = self._running.get(place)
        if running is None:
            leader = self.believed(place)[1] or owners[0]
            if leader not in owners:
                leader = self._node_id
            if leader != self._node_id and leader not in unable:
                if leader not in silent:
                    return f.Settled(c.ELSEWHERE, leader=leader)
                if await self._owners.is_alive(leader):
                    return f.Settled(c.ELSEWHERE, leader=leader)
            if self._rests:
                return f.Settled(c.UNABLE)
            running = self._running.get(place) or self._start(place)
        return await asyncio.shield(running)

    async def balance(self) -> None:
        """Take back, some at a time, what this node led as first owner before it was away (L14)."""
        state = self._replica.state
        if state is None or self._clock.monotonic_s() - self._began_s < BALANCE_AFTER_S or self._rests:
            return
        taken = 0
        for n in sorted({entry.config.n for entry in state.buckets if entry.config.versioning == "linearizable"}):
            for partition in state.ring.first_partitions_of(self._node_id):
                place = partition, n
                leader = self.believed(place)[1]
                if not leader or leader == self._node_id or state.read_set(*place)[0] != self._node_id:
                    continue
                if not self._able(place):
                    continue
                await (self._running.get(place) or self._start(place))
                taken += 1
                if taken >= BALANCED_AT_ONCE:
                    return

    # ---- a leader that is to be stopped ----

    def rest(self, for_s: float) -> None:
        """Lead nothing more for a while: this node is to be stopped. For a while only, in case it is not."""
        self._resting_until_s = self._clock.monotonic_s() + for_s

    @property
    def _rests(self) -> bool:
        return self._clock.monotonic_s() < self._resting_until_s

    async def take(self, places: Sequence[Place]) -> int:
        """Lead partitions whose leader is to be stopped; return of how many that has failed."""
        waiting = [*places]
        left = 0

        async def some() -> None:
            nonlocal left
            while waiting:
                place = waiting.pop()
                state = self._replica.state
                owns = state is not None and self._node_id in state.read_set(*place)
                may = owns and self._able(place) and not self._rests
                outcome = await asyncio.shield(self._running.get(place) or self._start(place)) if may else _CANNOT
                left += outcome is not None

        await asyncio.gather(*(some() for _ in range(TAKEN_AT_ONCE)))
        return left

    def _able(self, place: Place) -> bool:
        """Whether this node can lead a partition of which it is an owner."""
        return self._replica.complete_for(place[0]) and not self._replica.no_room

    # ---- a new term ----

    def _start(self, place: Place) -> asyncio.Task[f.Settled | None]:
        task = asyncio.get_running_loop().create_task(self._take_over(place))
        self._running[place] = task
        task.add_done_callback(lambda _: self._running.pop(place, None))
        return task

    async def _take_over(self, place: Place) -> f.Settled | None:
        """Have a new term promised (L1, L2, L4). None if this node leads now."""
        if self._leads(place):
            return None
        if self._clock.monotonic_s() < self._refused_s.get(place, 0.0):
            return self.pointer(place)
        state = self._replica.state
        assert state is not None
        number = term_number(self.believed(place)[0] or NO_TERM) + 1
        term = pack_term(number, self._random.getrandbits(64))
        sets = state.write_sets(*place)
        restored = self._replica.times_restored
        try:
            vote = await self._vote(place, term, sets, state.epoch)
        except (StoreClosed, EngineFailed, OSError, CorruptData) as error:
            logger.debug("node %s cannot take partition %d: %s", self._node_id, place[0], error)
            return f.Settled(c.UNABLE)
        if vote is None:
            jitter = 0.5 + self._random.random()
            self._refused_s[place] = self._clock.monotonic_s() + TAKEOVER_EVERY_S * jitter
            return self.pointer(place)
        self._refused_s.pop(place, None)
        # What was restored meanwhile may have come to others after they had said what they hold.
        filled = vote.filled if self._replica.times_restored == restored else None
        self._begin(Tenure(place, term, sets, filled))
        return None

    async def promised(self, place: Place, term: bytes, sets: tuple[tuple[str, ...], ...], epoch: int) -> bool:
        """Have F of each set promise a term; return whether they do."""
        return await self._vote(place, term, sets, epoch) is not None

    async def _vote(self, place: Place, term: bytes, sets: tuple[tuple[str, ...], ...], epoch: int) -> _Vote | None:
        """Have F of each set promise a term, this node first (L1), then ask them once more (L4). None if they do not."""
        partition, n = place
        answer, position = self._replica.handle(f.Promise(partition, n, term, self._node_id))
        if not isinstance(answer, f.Promised) or not answer.granted:
            return None
        await self._durable(position)
        others = [node_id for node_id in dict.fromkeys(node_id for nodes in sets for node_id in nodes)
                  if node_id != self._node_id]  # fmt: skip
        here = self._replica.voter.buckets_here(partition)
        vote = _Vote(term, sets, self._node_id, answer.directory_id, here)
        await self._owners.ask(
            dict.fromkeys(others, f.Promise(partition, n, term, self._node_id)), vote.take_grant,
            lambda: vote.refused is not None or vote.is_granted, epoch, PROMISE_TIMEOUT_S,
        )  # fmt: skip
        if vote.is_granted:
            again = f.Promise(partition, n, term, self._node_id, again=True)
            await self._owners.ask(
                {node_id: again for node_id in others if node_id in vote.granted}, vote.take_confirmation,
                lambda: vote.refused is not None or vote.is_confirmed, epoch, PROMISE_TIMEOUT_S,
            )  # fmt: skip
            if vote.is_confirmed:
                return vote if self._replica.promises.of(partition, n).term == term else None
        if vote.refused is not None:
            self.hear(place, *vote.refused)
        return None
