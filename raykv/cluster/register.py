"""The cluster's state as one replicated register on the nodes' disks: the proposer's side (P5).

It is Paxos for a single value that only its owner changes: the supervisor's *generation* is the ballot. A new supervisor
*prepares*: a majority promises its generation. It takes the latest state among their answers, has a majority *accept*
that under its own generation, and only then goes on. A supervisor of an earlier generation that still runs finds its
proposals refused.

Why not "the state that a majority holds"? Epoch 7 is on {1, 2, 3} of five; 1 and 3 die; of {2, 4, 5} a majority holds
epoch 6, and a second epoch 7 would arise. The latest among a majority's answers is 7, since any two majorities meet.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from raykv.cluster.background import first_of
from raykv.cluster.peers import node_address
from raykv.cluster.state import ClusterState, decode_state, encode_state
from raykv.config import quorum
from raykv.errors import CorruptData, StoreUnavailable
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.records.limits import MAX_BALLOT_STEP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from raykv.ports import Clock, Transport

    _Asked = asyncio.Task[f.AcceptorAnswer | None]

CALL_TIMEOUT_S = 2.0
LINGER_S = 0.2
"""How long to wait for the others once a majority has answered: a dead host would cost the whole time-out."""


class Superseded(Exception):
    """A later generation was promised: another supervisor has taken over. Stop."""


def latest(answers: Mapping[str, f.AcceptorAnswer]) -> ClusterState | None:
    """Return the latest state among the answers; None if none of them holds one."""
    held = [answer for answer in answers.values() if answer.state is not None]
    if not held:
        return None
    newest = max(held, key=lambda answer: (answer.generation, answer.version))
    assert newest.state is not None
    return decode_state(newest.state)


def missing_for_majority(state: ClusterState, answers: Mapping[str, f.AcceptorAnswer]) -> list[str]:
    """Return the members without an answer, if the others are no majority; else an empty list."""
    members = [member.node_id for member in state.ring.members]
    absent = [node_id for node_id in members if node_id not in answers or not answers[node_id].voter]
    return absent if len(members) - len(absent) < quorum(len(members)) else []


class Register:
    """The supervisor's side: the proposer."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self.state: ClusterState | None = None
        self._tried = 0
        self._voteless: dict[str, int] = {}
        """Nodes that have lost their register, each with its present directory id."""
        self._directory_ids: list[int] = []
        """Those of them that may vote again: the present state was sent out after they had been seen."""
        self.lost = False
        """Whether no member has kept its register: the promises are unknown, and nothing can be decided."""

    async def read(self, nodes: Sequence[str]) -> dict[str, f.AcceptorAnswer]:
        """Read the nodes' copies; return the answers."""
        return await self._ask(nodes, f.ReadState())

    async def take_over(self, answers: Mapping[str, f.AcceptorAnswer]) -> ClusterState:
        """Become the owner of the state that ``answers`` (of a majority) hold: prepare, then accept.

        Raises ``StoreUnavailable`` without a majority, ``Superseded`` if another supervisor takes over at the same time.
        """
        state = latest(answers)
        if state is None:
            raise StoreUnavailable("no node holds a cluster state")
        members = [member.node_id for member in state.ring.members]
        generation = 1 + max([answer.promised for answer in answers.values()] + [state.generation])
        granted = await self._prepare(members, generation)
        # A state that only one of the nodes read before held may be missing here; taking it does no harm.
        newest = max(latest(granted) or state, state, key=lambda found: found.ballot)
        await self.accept(msgspec.structs.replace(newest, generation=generation))
        assert self.state is not None
        return self.state

    async def found(self, state: ClusterState, answers: Mapping[str, f.AcceptorAnswer]) -> None:
        """Store the first state of a store, under a generation that no other supervisor was promised.

        ``answers``: from the nodes as first found. If a node holds a state by now, another founder was here: that state
        stands. Two concurrent founders would otherwise both believe that they own the store. Raises as ``take_over``
        does.
        """
        generation = 1 + max((answer.promised for answer in answers.values()), default=0)
        granted = await self._prepare([member.node_id for member in state.ring.members], generation)
        await self.accept(msgspec.structs.replace(latest(granted) or state, generation=generation))

    async def _prepare(self, members: Sequence[str], generation: int) -> dict[str, f.AcceptorAnswer]:
        """Get the promise of a majority to ``generation``; return the answers of those that gave it."""
        promises = await self._ask(members, f.PrepareState(generation))
        granted = {node_id: answer for node_id, answer in promises.items() if answer.granted and answer.voter}
        if len(granted) >= quorum(len(members)):
            # One of them may have lost its register before the last of them promised, and vote again for another supervisor
            # that knew nothing of this round. The members with unchanged registers make a majority at one moment.
            again = await self._ask([*granted], f.ReadState())
            granted = {
                node_id: answer
                for node_id, answer in granted.items()
                if (now := again.get(node_id)) is not None
                and now.voter
                and (now.directory_id, now.promised) == (answer.directory_id, generation)
            }
        if len(granted) < quorum(len(members)):
            if any(not answer.granted for answer in promises.values()):
                raise Superseded(f"generation {generation} or a later one was promised to another supervisor")
            raise StoreUnavailable(f"only {len(granted)} of {len(members)} nodes answer; a majority is needed")
        return granted

    async def accept(self, state: ClusterState) -> None:
        """Have a majority of its members accept ``state``, under a version of its own; only then is it ``self.state``.

        Raises ``StoreUnavailable`` (a minority may hold it: the next supervisor may find it; or the register is
        ``lost``) or ``Superseded``.
        """
        if state.version <= self._tried:
            # A failed change may remain on a minority under this number; no other change may use it.
            state = msgspec.structs.replace(state, version=self._tried + 1)
        self._tried = state.version
        directory_ids = sorted(self._voteless.values())
        members = [member.node_id for member in state.ring.members]
        answers = await self._ask(members, f.AcceptState(state.generation, state.version, encode_state(state)))
        granted = [node_id for node_id, answer in answers.items() if answer.granted and answer.voter]
        # If a majority has lost its register, its promises are unknown. All remaining members together, with none
        # away, are the most that can be required; without it no change would ever be possible again.
        without = [answer.directory_id for answer in answers.values() if not answer.voter]
        all_of_them = (
            bool(granted)
            and len(answers) == len(members)
            and all(answer.granted for answer in answers.values())
            and {*without} <= {*directory_ids}
        )
        self.lost = len(without) == len(members) or (self.lost and len(without) == len(answers))
        if len(granted) >= quorum(len(members)) or all_of_them:
            self.state, self._directory_ids = state, directory_ids
            decided = await self._send_decided(members)
            holding = sum((each.generation, each.version) == state.ballot and each.voter for each in decided.values())
            if len(granted) < quorum(len(members)) and holding < quorum(len(members)):
                raise StoreUnavailable(
                    f"the cluster's state is on {holding} of {len(members)} nodes; a majority is needed"
                )
            return
        if any(answer.promised > state.generation for answer in answers.values()):
            raise Superseded(f"generation {state.generation} is no longer the latest")
        if self.lost:
            raise StoreUnavailable(
                f"the directories of all {len(members)} nodes are gone or old copies, and with them what was decided and "
                "acknowledged: bring them back, or destroy the store"
            )
        raise StoreUnavailable(
            f"the cluster's state could not be changed: {len(granted)} of {len(members)} nodes hold it, a majority is needed"
        )

    async def owned(self) -> bool:
        """Whether a majority of the members has made no later promise.

        Raises ``StoreUnavailable`` if too few answer.
        """
        assert self.state is not None
        members = [member.node_id for member in self.state.ring.members]
        answers = (await self._ask(members, f.ReadState())).values()
        if any(answer.promised > self.state.generation for answer in answers):
            return False
        if sum(answer.voter for answer in answers) < quorum(len(members)):
            raise StoreUnavailable(f"only {len(answers)} of {len(members)} nodes report their promises")
        return True

    async def bring_up_to_date(self, node_id: str) -> bool:
        """Give the present state to a node that was away. A failure to reach it does no harm: its next pong will show.

        False if it keeps a later one (of a failed change, left on a minority), or has lost its vote since the present state
        was sent out. It then takes, or votes with, the present state only under a later number (``store``).
        Raises ``Superseded`` if it has promised a later supervisor.
        """
        answers = (await self._send_decided([node_id])).values()
        if self.state is None:
            return True
        if any(answer.promised > self.state.generation for answer in answers):
            raise Superseded(f"generation {self.state.generation} is no longer the latest")
        return all(answer.voter and (answer.generation, answer.version) <= self.state.ballot for answer in answers)

    async def _send_decided(self, nodes: Sequence[str]) -> dict[str, f.AcceptorAnswer]:
        """Announce that the present state is decided: only now may nodes act on it, and ``_directory_ids`` vote again."""
        state = self.state
        if state is None:
            return {}
        return await self._ask(
            nodes,
            f.AcceptState(
                state.generation, state.version, encode_state(state), decided=True, directory_ids=self._directory_ids
            ),
        )

    async def _ask(self, nodes: Sequence[str], body: f.NodeRequestBody) -> dict[str, f.AcceptorAnswer]:
        """Ask these nodes at once. One that is too far behind for such a generation catches up first (``_is_near``)."""

        async def one(node_id: str) -> f.AcceptorAnswer | None:
            answer = await self._ask_one(node_id, body)
            if isinstance(body, f.PrepareState | f.AcceptState):
                while answer is not None and body.generation - answer.promised > MAX_BALLOT_STEP:
                    led = await self._ask_one(node_id, f.PrepareState(answer.promised + MAX_BALLOT_STEP))
                    if led is None or led.promised <= answer.promised:
                        return led
                    answer = await self._ask_one(node_id, body)
            return answer

        loop = asyncio.get_running_loop()
        asked = {loop.create_task(one(node_id)): node_id for node_id in nodes}
        answers: dict[str, f.AcceptorAnswer] = {}
        waiting = set(asked)
        deadline_s = self._clock.monotonic_s() + CALL_TIMEOUT_S
        try:
            while waiting and (left_s := deadline_s - self._clock.monotonic_s()) > 0:
                done = await first_of(waiting, self._clock, left_s)
                waiting -= done
                answers |= {asked[task]: answer for task in done if (answer := task.result()) is not None}
                if sum(answer.granted and answer.voter for answer in answers.values()) >= quorum(len(nodes)):
                    deadline_s = min(deadline_s, self._clock.monotonic_s() + LINGER_S)
        finally:
            for task in asked:
                task.cancel()
        for node_id, answer in answers.items():
            self._voteless.pop(node_id, None)
            if not answer.voter:
                self._voteless[node_id] = answer.directory_id
        return {node_id: answers[node_id] for node_id in nodes if node_id in answers}

    async def _ask_one(self, node_id: str, body: f.NodeRequestBody) -> f.AcceptorAnswer | None:
        frame = f.node_requests.encode(f.NodeRequest(0, body))
        try:
            answer = f.node_answers.decode(await self._transport.call(node_address(node_id), frame, CALL_TIMEOUT_S))
        except (PeerFailure, CorruptData):
            return None
        return answer.body if isinstance(answer.body, f.AcceptorAnswer) else None
