"""Restarts a node that is up, once it can be spared: what a rolling restart consists of.

Who wants all nodes restarted asks for one after the other (``raykv.client.restarts``), naming the run that is to end: a
request that comes twice, or to another supervisor, restarts nothing twice, and asks in its repetitions how far it is. A
restart that has begun is carried to its end, whether or not anybody asks on; nobody begins the next one.

1. *waiting*. All nodes are up, complete and owe each other nothing, and no partition moves (P1, P4, P11). Each bucket can
   spare a copy: n - 1 copies are enough for its R and W, and a majority of n. Else it is refused, unless it is forced.
2. *draining*. Coordinators hear that they are to ask others, as they do where a node is down. The node has other owners
   lead what it leads (L14). Both take a second; whatever is late is refused by a node that stops, and goes to others.
3. *restarting*. The node stops cleanly and is started again on its directory, by the task that tends it (``watch``).
4. *settling*. The node is up and complete and knows the present state, and so are all others; hints are delivered.
5. *done*.

A node that dies meanwhile, this one or another, is brought back as ever. A supervisor that takes over knows nothing of the
restart: it finds the node's process and adopts it, or starts it.

**What is left out.** Restarting coordinators and supervisors, which keep nothing: see ``raykv.actors.services``.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from raykv.cluster.peers import node_address
from raykv.config import check_timeout, quorum
from raykv.errors import CorruptData, InvalidOption
from raykv.ports import PeerFailure
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from raykv.cluster.state import ClusterState
    from raykv.config import BucketConfig
    from raykv.ports import Clock, Transport
    from raykv.supervision.watch import Watch

logger = logging.getLogger("raykv.supervisor")

DRAIN_S = 1.5
"""A little longer than coordinators take to ask for the cluster's state again (``coordinator.service``)."""
HAND_OVER_TIMEOUT_S = 5.0
REST_S = 60.0
"""How long the node leads nothing: longer than it takes until it is stopped, unless this supervisor is lost meanwhile."""
LOOK_EVERY_S = 0.05


class Restarting:
    """The restart that is under way, if any."""

    def __init__(
        self,
        name: str,
        *,
        transport: Transport,
        clock: Clock,
        watch: Watch,
        state: Callable[[], ClusterState],
        stats: Callable[[str], Awaitable[dict[str, Any] | None]],
        changed: Callable[[], Awaitable[None]],
        spawn: Callable[[Coroutine[None, None, None]], asyncio.Task[None]],
    ) -> None:
        """``stats(node_id)``: a node's figures, None if it does not answer. ``changed()``: tell the coordinators."""
        self._name = name
        self._transport = transport
        self._clock = clock
        self._watch = watch
        self._state = state
        self._stats = stats
        self._changed = changed
        self._spawn = spawn
        self._node_id = ""
        self._phase = ""

    @property
    def under_way(self) -> str:
        """The node that is being restarted; empty if none is."""
        return self._node_id

    async def restart(self, request: f.RestartNode) -> dict[str, Any]:
        """Begin the restart of a node if it can be spared, and return how far it is.

        "phase": as above. "why": what it waits for. "blocked": whether that is no matter of a moment. "incarnation": the
        node's present run. Raises ``InvalidOption`` (no such node; a bucket that cannot spare a copy).
        """
        node_id = request.node_id
        self._state().ring.member(node_id)
        check_timeout(request.timeout_s)
        node = self._watch.nodes[node_id]
        if self._node_id == node_id:
            return self._answer(node_id, self._phase, node.cause if node.state == "down" else "")
        over = node.incarnation > request.incarnation
        if not over:
            self._check_copies(node_id, force=request.force)
        if self._node_id:
            return self._answer(node_id, "waiting", f"node {self._node_id} is being restarted")
        why, blocked = await self._unsettled()
        if meanwhile := self.under_way or ("" if over == (node.incarnation > request.incarnation) else node_id):
            return self._answer(node_id, "waiting", f"node {meanwhile} is being restarted")
        if why:
            return self._answer(node_id, "settling" if over else "waiting", why, blocked=blocked)
        if over:
            return self._answer(node_id, "done")
        self._node_id, self._phase = node_id, "draining"
        self._spawn(self._carry_out(node_id))
        return self._answer(node_id, self._phase)

    def _answer(self, node_id: str, phase: str, why: str = "", *, blocked: bool = False) -> dict[str, Any]:
        return {"phase": phase, "why": why, "blocked": blocked, "incarnation": self._watch.nodes[node_id].incarnation}

    def _check_copies(self, node_id: str, *, force: bool) -> None:
        """Raise ``InvalidOption`` if what a bucket keeps on the node cannot be read or written without it."""
        state = self._state()
        costs = [cost for entry in state.buckets if (cost := cost_of_a_copy(entry.config, len(state.ring.members)))]
        if costs and not force:
            more = f"; and {len(costs) - 1} more" if len(costs) > 1 else ""
            raise InvalidOption(
                f"node {node_id} is not restarted: {costs[0]}{more}. With force it is restarted all the same, and these "
                "operations fail until it is back; nothing is lost"
            )

    async def _unsettled(self) -> tuple[str, bool]:
        """Return what keeps a node from being spared, and whether that takes more than a moment; empty if nothing does."""
        state = self._state()
        members = [member.node_id for member in state.ring.members]
        if state.goal is not None or state.moves:
            return "partitions are moving", True
        if trouble := self._watch.trouble():
            return trouble, True
        stats = await asyncio.gather(*(self._stats(node_id) for node_id in members))
        waiting: dict[str, int] = {}
        for node_id, figures in zip(members, stats, strict=True):
            if figures is None:
                return f"node {node_id} does not answer", True
            if not figures["complete"] or figures["damage"]:
                return f"node {node_id} lacks data that it acknowledged, until its peers have restored it", True
            if figures["disk"]["full"]:
                return str(figures["disk"]["full"]), True
            for target, count in figures.get("hints", {}).items():
                waiting[target] = waiting.get(target, 0) + count
        for node_id in members:
            if (node := self._watch.nodes.get(node_id)) is None or node.ballot < state.ballot:
                return f"node {node_id} does not know the cluster's present state yet", False
            if waiting.get(node_id):
                return f"{waiting[node_id]} hints wait for node {node_id}", False
        return "", False

    async def _carry_out(self, node_id: str) -> None:
        """Drain a node and have it restarted; return when it is up again, or down."""
        watch = self._watch
        node, began_s = watch.nodes[node_id], self._clock.monotonic_s()
        former = node.incarnation
        try:
            logger.info("store %s: node %s is being restarted, as asked", self._name, node_id)
            watch.drain(node_id)
            await self._changed()
            await self._hand_over(node_id)
            await self._clock.sleep(max(0.0, began_s + DRAIN_S - self._clock.monotonic_s()))
            if self._is_drained(node_id, former):
                self._phase = "restarting"
                watch.restart(node_id)
            while self._is_drained(node_id, former):
                await self._clock.sleep(LOOK_EVERY_S)
        finally:
            self._node_id = ""

    def _is_drained(self, node_id: str, former: int) -> bool:
        """Whether the node is still the one that was drained: it may have died, be replaced or have left."""
        node = self._watch.nodes.get(node_id)
        return node is not None and node.state == "restarting" and node.incarnation == former

    async def _hand_over(self, node_id: str) -> None:
        """Have the node hand over what it leads. Where it does not, others take over when they find it gone (L14)."""
        frame = f.node_requests.encode(f.NodeRequest(0, f.HandOver(REST_S)))
        try:
            answer = f.node_answers.decode(
                await self._transport.call(node_address(node_id), frame, HAND_OVER_TIMEOUT_S)
            ).body
        except (PeerFailure, CorruptData) as failure:
            logger.info("store %s: node %s hands nothing over: %s", self._name, node_id, failure)
            return
        if isinstance(answer, f.HandedOver) and answer.left:
            logger.info("store %s: node %s still leads %d partitions", self._name, node_id, answer.left)
        elif not isinstance(answer, f.HandedOver):
            logger.info("store %s: node %s hands nothing over: it may be of another version", self._name, node_id)


def cost_of_a_copy(config: BucketConfig, nodes: int) -> str:
    """Return what fails in a bucket while one copy is away; empty if nothing does."""
    if config.versioning == "linearizable":
        wanted, there = quorum(config.n), config.n - 1
        failing = ["read", "written"] if there < wanted else []
    else:
        there = nodes - 1 if config.sloppy else config.n - 1
        failing = [what for what, wanted in (("read", config.r), ("written", config.w)) if there < wanted]
    if not failing:
        return ""
    copies = "1 copy" if config.n == 1 else f"{config.n} copies, R={config.r}, W={config.w}"
    return f"bucket {config.name!r} ({copies}) cannot be {' or '.join(failing)} there while a copy is away"
