"""Turns: who of those that read a key, compute, and write it back conditionally is to be next.

Without, of 32 clients that update one key 31 lose each round, and the slow ones always. A turn lasts until its lane's next
change of the key, at most ``TURN_S``. It is advice: it blocks no other change, and is lost with the leader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raykv.ports import Clock
    from raykv.replica.tenure import Name

TURN_S = 0.05
MOST_S = 0.5
"""The longest wait for a turn: the coordinator that asks takes longer silence for a leader that is gone."""
MAX_QUEUES = 10_000
MAX_WAITING = 1024
"""Lanes that wait for a turn of one key; more do not wait."""


@dataclass(slots=True)
class _Queue:
    holder: bytes = b""
    until_s: float = 0.0
    waiting: deque[tuple[bytes, asyncio.Future[None]]] = field(default_factory=deque)


class Turns:
    """The turns of all keys that one node leads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queues: dict[Name, _Queue] = {}

    async def wait(self, name: Name, lane: bytes, until_s: float) -> None:
        """Wait for the lane's turn, until ``until_s`` at most, and no longer than ``MOST_S``."""
        until_s = min(until_s, self._clock.monotonic_s() + MOST_S)
        queue = self._queues.get(name)
        if queue is None:
            self._make_room()
            queue = self._queues[name] = _Queue()
        if not queue.waiting and (not queue.holder or self._clock.monotonic_s() >= queue.until_s):
            self._give(queue, lane)
            return
        if len(queue.waiting) >= MAX_WAITING:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (lane, future)
        queue.waiting.append(entry)
        try:
            while not future.done():
                now_s = self._clock.monotonic_s()
                if now_s >= until_s:
                    return
                if now_s >= queue.until_s:
                    self._next(name, queue)
                    continue
                try:
                    async with self._clock.timeout(max(0.001, min(queue.until_s, until_s) - now_s)):
                        await asyncio.shield(future)
                except TimeoutError:
                    continue
        finally:
            if not future.done() and entry in queue.waiting:
                queue.waiting.remove(entry)

    def _make_room(self) -> None:
        """Forget the turns of keys that nobody waits for, once there are many."""
        if len(self._queues) >= MAX_QUEUES:
            now_s = self._clock.monotonic_s()
            idle = [name for name, queue in self._queues.items() if not queue.waiting and now_s >= queue.until_s]
            for name in idle:
                del self._queues[name]

    def over(self, name: Name, lane: bytes) -> None:
        """End the lane's turn, if it has it: the next is woken."""
        queue = self._queues.get(name)
        if queue is not None and queue.holder == lane:
            self._next(name, queue)

    def _give(self, queue: _Queue, lane: bytes) -> None:
        queue.holder, queue.until_s = lane, self._clock.monotonic_s() + TURN_S

    def _next(self, name: Name, queue: _Queue) -> None:
        while queue.waiting:
            lane, future = queue.waiting.popleft()
            if not future.done():
                self._give(queue, lane)
                future.set_result(None)
                return
        self._queues.pop(name, None)
        queue.holder = b""
