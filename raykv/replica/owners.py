"""The owners of a leader's partitions, as it asks them: the node itself is one of them, and is asked the same way."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from raykv.cluster.fanout import CALL_TIMEOUT_S
from raykv.errors import CorruptData, StoreClosed
from raykv.ports import PeerFailure
from raykv.protocol import frames as f
from raykv.storage import EngineFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from raykv.cluster.peers import Peers
    from raykv.ports import Clock
    from raykv.replica.handlers import Replica

PING_TIMEOUT_S = 0.3
SUSPECTED_PING_S = 0.1
"""The same where this node has evidence of its own already: a process that has ended answers no ping at once."""
SILENT_S = 1.0
"""How long a node that did not answer a ping is taken for gone."""


class Owners:
    """The nodes that one node asks as a leader."""

    def __init__(
        self,
        node_id: str,
        *,
        replica: Replica,
        peers: Peers,
        clock: Clock,
        durable: Callable[[int], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """See ``leader.Leaders``."""
        self._node_id = node_id
        self._replica = replica
        self._peers = peers
        self._clock = clock
        self._durable = durable
        self._spawn = spawn
        self._silent_s: dict[str, float] = {}
        """Node -> until when it is taken for gone."""

    async def ask(
        self,
        bodies: dict[str, Any],
        take: Callable[[str, f.NodeAnswerBody], None],
        enough: Callable[[], bool],
        epoch: int,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        """Ask nodes at once; return when it is enough, or all have answered."""
        waiting = {
            asyncio.get_running_loop().create_task(self._ask(node_id, body, take, epoch, timeout_s))
            for node_id, body in bodies.items()
        }
        while waiting and not enough():
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            self._spawn(_ended(task))

    async def _ask(
        self, node_id: str, body: Any, take: Callable[[str, f.NodeAnswerBody], None], epoch: int, timeout_s: float
    ) -> None:
        answer = await self.ask_one(node_id, body, 1, epoch, timeout_s)
        if answer is not None:
            take(node_id, answer)

    async def ask_one(
        self, node_id: str, body: Any, items: int, epoch: int, timeout_s: float = CALL_TIMEOUT_S
    ) -> f.NodeAnswerBody | None:
        """Return the answer of one node, durable where it is this one; None if there is none."""
        if node_id == self._node_id:
            with contextlib.suppress(StoreClosed, EngineFailed, OSError):
                answer, position = self._replica.handle(body)
                await self._durable(position)
                return answer
            return None
        # An answer may name a later state of the cluster, which this node then stores: its own disk may fail as well.
        with contextlib.suppress(PeerFailure, StoreClosed, EngineFailed, OSError):
            return await self._peers.call(node_id, body, items, timeout_s, epoch)
        return None

    async def accept_here(self, body: f.Accept) -> f.NodeAnswerBody | None:
        """Return this node's own answer to its own records, once it is durable; None if its disk failed."""
        with contextlib.suppress(StoreClosed, EngineFailed, OSError, CorruptData):
            answer, position = self._replica.voter.accept(body.n, body.leader, body.groups)
            await self._durable(position)
            return answer
        return None

    def first_available(self, nodes: Sequence[str]) -> str:
        """Return the first node against which there is no evidence; empty if there is none."""
        return next(iter(self._peers.first_available(tuple(nodes), 1)), "")

    async def is_alive(self, node_id: str) -> bool:
        """Whether a node answers a ping (L14)."""
        now_s = self._clock.monotonic_s()
        if now_s < self._silent_s.get(node_id, 0.0):
            return False
        timeout_s = SUSPECTED_PING_S if self._peers.unreachable(node_id, now_s) else PING_TIMEOUT_S
        try:
            await self._peers.call(node_id, f.Ping(), 1, timeout_s)
        except (PeerFailure, StoreClosed, EngineFailed, OSError):
            self._silent_s[node_id] = self._clock.monotonic_s() + SILENT_S
            return False
        return True


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
