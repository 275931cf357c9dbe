"""Calls to several nodes at once, their outcomes in the order of arrival."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from raykv.cluster.peers import MOVED, PeerRefused
from raykv.ports import PeerAbsent, PeerFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.cluster.peers import Peers
    from raykv.ports import Clock
    from raykv.protocol import frames as f

T = TypeVar("T")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

RETRY_S = 0.05

CALL_TIMEOUT_S = 2.0
"""A node that takes longer is suspected. Longer than any healthy answer, shorter than an operation's time."""


class Outcome(NamedTuple, Generic[T]):
    """What became of a call: its answer, or its failure."""

    node_id: str
    about: T
    answer: f.NodeAnswerBody | None
    failure: PeerFailure | None


class Fanout(Generic[T]):
    """The calls of one operation. ``about`` goes with each call and comes back with its outcome.

    Calls still under way when the operation is done go on in ``tasks``: a write is wanted on all N, not on W only.
    """

    def __init__(
        self, peers: Peers, clock: Clock, deadline_s: float, tasks: set[asyncio.Task[None]], epoch: int = 0
    ) -> None:
        """``epoch``: of the state by which the nodes are chosen."""
        self.moved = False
        """Whether a node knows of other owners: what is asked of whom is to be thought over anew (P4)."""
        self._epoch = epoch
        self._peers = peers
        self._clock = clock
        self._deadline_s = deadline_s
        self._tasks = tasks
        self._outcomes: asyncio.Queue[Outcome[T]] = asyncio.Queue()
        self._waiting: list[tuple[str, int]] = []
        """(Node id, how many items) of the calls under way."""
        self._late: Callable[[Outcome[T] | None], None] | None = None

    def send(self, node_id: str, body: f.NodeRequestBody, items: int, about: T) -> None:
        """Start a call."""
        self._waiting.append((node_id, items))
        task = asyncio.get_running_loop().create_task(self._call(node_id, body, items, about))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def next(self, timeout_s: float) -> Outcome[T] | None:
        """Return the next outcome; None if none came in time."""
        if not self._outcomes.empty():
            return self._outcomes.get_nowait()
        try:
            async with self._clock.timeout(max(0.0, timeout_s)):
                return await self._outcomes.get()
        except TimeoutError:
            return None

    async def _call(self, node_id: str, body: f.NodeRequestBody, items: int, about: T) -> None:
        left_s = self._deadline_s - self._clock.monotonic_s()
        timeout_s = min(CALL_TIMEOUT_S, left_s)
        try:
            if left_s <= 0:
                # The process was frozen before this task began. Its client has been told that the outcome is unknown, and
                # may have written over it since (P8).
                raise PeerAbsent(f"time was up before anything was sent to node {node_id}")
            answer: f.NodeAnswerBody | None = await self._peers.call(node_id, body, items, timeout_s, self._epoch)
            outcome = Outcome(node_id, about, answer, None)
        except PeerFailure as failure:
            self.moved = self.moved or (isinstance(failure, PeerRefused) and failure.reason == MOVED)
            outcome = Outcome(node_id, about, None, failure)
        finally:
            self._waiting.remove((node_id, items))
        if self._late is None:
            self._outcomes.put_nowait(outcome)
            return
        self._late(outcome)
        if not self._waiting:
            self._late(None)

    def leave(self, late: Callable[[Outcome[T] | None], None]) -> None:
        """Wait no more: from now on each outcome goes to ``late``; None when the last one has come."""
        self._late = late
        while not self._outcomes.empty():
            late(self._outcomes.get_nowait())
        if not self._waiting:
            late(None)

    def note_slow(self) -> None:
        """Take note of the nodes that have not answered yet: others are about to be asked."""
        if not self._peers.spend_hedges(sum(items for _, items in self._waiting)):
            return
        for node_id in dict.fromkeys(node_id for node_id, _ in self._waiting):
            self._peers.note_slow(node_id)


class Round(Protocol[A_co]):
    """An accumulator that says whom to ask next."""

    @property
    def open(self) -> bool:
        """Whether answers are still missing."""
        ...

    def more(self) -> A_co:
        """Time has passed: say whom to ask in addition."""
        ...


async def gather(
    round_: Round[A],
    fan: Fanout[T],
    clock: Clock,
    *,
    send: Callable[[A], None],
    take: Callable[[Outcome[T]], A],
    hedge_s: float,
    deadline_s: float,
) -> None:
    """Take outcomes, and ask others where the round wants it, until it is settled, ``fan.moved``, or time is up.

    What is slow is raced after ``hedge_s``, and again after as long (at least ``RETRY_S``).
    """
    hedge_at_s = clock.monotonic_s() + hedge_s
    while round_.open and (now_s := clock.monotonic_s()) < deadline_s:
        outcome = await fan.next(min(hedge_at_s, deadline_s) - now_s)
        if fan.moved:
            return
        if outcome is not None:
            send(take(outcome))
            continue
        if hedge_at_s < deadline_s:
            fan.note_slow()
            send(round_.more())
        hedge_at_s = clock.monotonic_s() + max(hedge_s, RETRY_S)
