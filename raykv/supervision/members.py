"""Nodes join, leave and are replaced: on command, and when a host has been gone for long.

Each is one change of the cluster's state, which sets the goal (``moves.with_goal``); ``rebalancing`` carries it out, wave
by wave. A joining node is started before it becomes a member, so a node that cannot start never is one; a node that has
left is stopped last, and its directory is set aside (P6).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

import msgspec

from raykv.cluster import moves
from raykv.errors import InvalidOption, RaykvError, StoreUnavailable
from raykv.ports import LaunchFailed
from raykv.ring import Member
from raykv.supervision.founding import place_one
from raykv.supervision.watch import LAUNCH_TIMEOUT_S, Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from raykv.cluster.state import ClusterState
    from raykv.ports import Clock, Launcher
    from raykv.supervision.chronicle import Chronicle
    from raykv.supervision.watch import Watch

logger = logging.getLogger("raykv.supervisor")

ON_COMMAND = "on command"
REPLACE_LOOK_S = 1.0
REPLACE_RETRY_S = 10.0
SAY_SO_S = 1.0
"""The wait for a machine ends this much before the caller's time-out, so that the caller learns why no node was added."""
AWAY_AFTER_S = 20.0
"""Moves do not wait for a node that has been down for this long."""


class Members:
    """The present and future members of a store."""

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        launcher: Launcher,
        watch: Watch,
        state: Callable[[], ClusterState],
        changing: asyncio.Lock,
        change: Callable[[ClusterState], Awaitable[None]],
        changed: Callable[[], Awaitable[None]],
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
        chronicle: Chronicle,
    ) -> None:
        """``change(state)`` decides a state; ``changing`` must be held. ``changed()`` is called when a node has gone."""
        self._name = name
        self._clock = clock
        self._launcher = launcher
        self._watch = watch
        self._state = state
        self._changing = changing
        self._change = change
        self._changed = changed
        self._spawn = spawn
        self._chronicle = chronicle
        self._joining = asyncio.Lock()

    async def add_node(self, weight: float, zone: str, host: str, timeout_s: float, why: str = ON_COMMAND) -> str:
        """Add a node and begin to move its share to it. Returns its id.

        ``weight``: 0 for what its host can carry. ``why``: for people. Raises ``InvalidOption``, ``StoreUnavailable``.
        """
        deadline_s = self._clock.monotonic_s() + timeout_s
        if not host and not zone:
            host = await self._room(timeout_s)
        async with self._turn(deadline_s):
            member = await self._place(weight, zone, host)
            await self._let_join(member, lambda state: moves.with_member(state, member), timeout_s, why)
        return member.node_id

    async def replace_node(self, lost: str, host: str, timeout_s: float, why: str = ON_COMMAND) -> str:
        """Replace a lost node by a new one. Returns the new id. Raises as ``add_node``.

        The new node copies the lost node's partitions from the other owners. Then the lost one leaves, even if it has
        come back in the meantime.
        """
        deadline_s = self._clock.monotonic_s() + timeout_s
        self._weight_of_lost(lost)
        host = host or await self._room(timeout_s)
        async with self._turn(deadline_s):
            member = await self._place(self._weight_of_lost(lost), "", host, instead_of=lost)
            why = f"it takes the place of {lost}, {why}"
            await self._let_join(
                member, lambda state: moves.with_replacement(state, member, lost), timeout_s, why, instead_of=lost
            )
        logger.info("store %s: node %s takes the place of %s", self._name, member.node_id, lost)
        return member.node_id

    def _weight_of_lost(self, lost: str) -> float:
        """Return the weight that a lost node was to have. Raises ``InvalidOption`` if it is up or leaving."""
        weight = self._state().ring.member(lost).weight
        if self._watch.nodes[lost].state == "up":
            raise InvalidOption(f"node {lost} is up; remove it instead of replacing it")
        if (goal := self._state().goal) is not None:
            if not goal.has_member(lost):
                raise InvalidOption(f"node {lost} is already leaving")
            weight = goal.member(lost).weight
        return weight

    async def _room(self, timeout_s: float) -> str:
        """Wait for a host with room for one more node, without keeping other members from changing meanwhile."""
        try:
            return await self._launcher.room(timeout_s - min(SAY_SO_S, timeout_s / 10))
        except LaunchFailed as failure:
            raise StoreUnavailable(f"no node was added: {failure}") from None

    @contextlib.asynccontextmanager
    async def _turn(self, deadline_s: float) -> AsyncIterator[None]:
        """Wait until no other member joins or leaves. Raises ``StoreUnavailable`` past the deadline."""
        try:
            async with self._clock.timeout(deadline_s - self._clock.monotonic_s()):
                await self._joining.acquire()
        except TimeoutError:
            raise StoreUnavailable("another node is still joining or leaving; try again") from None
        try:
            yield
        finally:
            self._joining.release()

    async def _place(self, weight: float, zone: str, host: str, *, instead_of: str = "") -> Member:
        """Return the member to be, under an id that no other gets, whatever becomes of this one."""
        hosts, state = await self._launcher.hosts(), self._state()
        member = place_one(
            state.ring.members,
            hosts,
            moves.next_id(state),
            weight=weight,
            host=host,
            zone=zone,
            instead_of=instead_of,
        )
        async with self._changing:
            await self._change(moves.with_id_taken(self._state()))
        return member

    async def _let_join(
        self,
        member: Member,
        change: Callable[[ClusterState], ClusterState],
        timeout_s: float,
        why: str,
        *,
        instead_of: str = "",
    ) -> None:
        """Start a new node and make it a member."""
        node_id = member.node_id
        self._watch.hosts_of[node_id] = member.host
        self._watch.nodes[node_id] = Node(since_s=self._clock.monotonic_s())
        self._watch.unborn.add(node_id)
        try:
            self._watch.up(node_id, await self._watch.launch(node_id, take_over=True))
            joined = f"node {node_id} has joined on host {member.host}"
            await self._between_waves(change, timeout_s, joined, why, leaving=instead_of)
        except (LaunchFailed, RaykvError) as error:
            if not self._state().ring.has_member(node_id):
                del self._watch.nodes[node_id]
                never_named = isinstance(error, LaunchFailed)  # in no state; a process of it may run all the same
                self._spawn(self.see_off_strays([node_id]) if never_named else self._clear_away(node_id))
                raise StoreUnavailable(f"node {node_id} did not join: {error}") from None
        self._watch.tend(node_id)
        logger.info("store %s: node %s joined on host %s, weight %g", self._name, node_id, member.host, member.weight)

    async def replace_the_lost(self) -> None:
        """Replace nodes whose hosts have been gone for too long, one at a time."""
        while True:
            await self._clock.sleep(REPLACE_LOOK_S)
            patience_s, now_s = self._state().config.replace_after_s, self._clock.monotonic_s()
            wanted = {member.node_id for member in moves.wanted_members(self._state())}
            for node_id, node in sorted(self._watch.nodes.items()):
                gone = node.state == "down" and node.host_gone and now_s - node.since_s > patience_s
                if gone and node_id in wanted:
                    logger.warning(
                        "store %s: the host of node %s has been gone for %.0f s; replacing the node",
                        self._name, node_id, now_s - node.since_s,
                    )  # fmt: skip
                    why = f"whose host has been gone for {now_s - node.since_s:.0f} s"
                    try:
                        await self.replace_node(node_id, "", LAUNCH_TIMEOUT_S, why)
                    except RaykvError as error:
                        logger.warning("store %s: node %s is not replaced yet: %s", self._name, node_id, error)
                        await self._clock.sleep(REPLACE_RETRY_S)
                    break

    async def remove_node(self, node_id: str, timeout_s: float, why: str = ON_COMMAND) -> None:
        """Move a node's partitions to the others, then let it leave. Raises ``NotEnoughNodes`` if too few would remain."""
        self._state().ring.member(node_id)
        async with self._turn(self._clock.monotonic_s() + timeout_s):
            await self._between_waves(
                lambda state: moves.with_goal(
                    state, [each for each in moves.wanted_members(state) if each.node_id != node_id]
                ),
                timeout_s,
                f"node {node_id} is leaving",
                why,
                leaving=node_id,
            )
        logger.info("store %s: node %s is leaving", self._name, node_id)

    async def set_weight(self, node_id: str, weight: float, timeout_s: float) -> None:
        """Change a node's weight."""
        member = self._state().ring.member(node_id)
        weighted = Member(node_id=node_id, weight=weight, host=member.host, zone=member.zone)
        async with self._turn(self._clock.monotonic_s() + timeout_s):
            await self._between_waves(
                lambda state: moves.with_goal(
                    state,
                    [weighted if each.node_id == node_id else each for each in moves.wanted_members(state)],
                ),
                timeout_s,
                f"node {node_id} gets weight {weight:g} instead of {member.weight:g}",
                ON_COMMAND,
            )
        logger.info("store %s: node %s gets weight %g", self._name, node_id, weight)

    async def restore(self, why: str = ON_COMMAND) -> None:
        """Restore every member's share where the partitions do not match the weights."""
        await self._between_waves(
            lambda state: moves.with_goal(state, moves.wanted_members(state)),
            LAUNCH_TIMEOUT_S,
            "every node gets its share again",
            why,
        )

    async def _between_waves(
        self,
        change: Callable[[ClusterState], ClusterState],
        timeout_s: float,
        what: str,
        why: str,
        *,
        leaving: str = "",
    ) -> None:
        """Change the state while no wave is under way. Raises ``StoreUnavailable`` if none ends within ``timeout_s``.

        ``what``, ``why``: noted then, and what moves for it. ``leaving``: the node that the change takes out of the goal.
        """
        deadline_s = self._clock.monotonic_s() + timeout_s
        while True:
            async with self._changing:
                if self._may_change(leaving):
                    before, self._chronicle.moves_for = self._chronicle.moves_for, f"{what}, {why}"
                    try:
                        await self._change(change(self._state()))
                    except BaseException:
                        self._chronicle.moves_for = before
                        raise
                    self._chronicle.note("note", what, why)
                    if count := moves.left(self._state()):
                        self._chronicle.note("note", f"{count} partitions begin to move", self._chronicle.moves_for)
                    return
            if self._clock.monotonic_s() > deadline_s:
                raise StoreUnavailable("partitions are moving, and the wave did not end in time; try again")
            await self._clock.sleep(0.1)

    def _may_change(self, leaving: str) -> bool:
        """Whether the goal may change now.

        A wave at step 2 cannot be postponed, and may wait for a node that is away, for ever: only once the goal is without
        that node does step 3 begin without it (P4). It is then given up as it would be had it been leaving before.
        """
        under_way = self._state().moves
        return not under_way or (leaving in self.away() and all(move.reads_new for move in under_way))

    async def see_off(self, nodes: list[str], why: str = "all that it held is with other nodes") -> None:
        """Stop former members and set their directories aside (P6). ``why``: for people."""
        for node_id in nodes:
            self._watch.let_rest(node_id)
            await self._watch.stop_node(node_id)
            await self._launcher.retire(node_id, self._watch.hosts_of.get(node_id, ""))
            self._watch.forget(node_id)
            logger.info("store %s: node %s has left", self._name, node_id)
            self._chronicle.note("note", f"node {node_id} has left", why)
        if nodes:
            await self._changed()

    async def _clear_away(self, node_id: str) -> None:
        """Stop a node that failed to join, once no later supervisor can find it a member.

        A minority may hold the state in which it is a member; a later state must be decided first.
        """
        while True:
            async with self._joining, self._changing:
                if self._state().ring.has_member(node_id):
                    return
                with contextlib.suppress(StoreUnavailable):
                    await self._change(msgspec.structs.replace(self._state(), version=self._state().version + 1))
                    break
            await self._clock.sleep(1.0)
        await self.see_off_strays([node_id])

    async def see_off_strays(self, nodes: list[str]) -> None:
        """See off nodes whose directories were found but that are not members: they have left, or never joined."""
        async with self._joining:
            strays = [node_id for node_id in nodes if not self._state().ring.has_member(node_id)]
            await self.see_off(strays, "it is no member")

    def away(self) -> list[str]:
        """Return the nodes that have been down too long for moves to wait for them."""
        now_s = self._clock.monotonic_s()
        return [
            node_id
            for node_id, node in self._watch.nodes.items()
            if node.state == "down" and now_s - node.since_s > AWAY_AFTER_S
        ]
