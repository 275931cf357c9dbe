"""How fast a node's flushes and compactions go, and how writes give way to them.

A job runs in steps of some milliseconds, on a thread of the node's own interpreter: while a step runs, every answer takes
longer. While clients use the node, each step is followed by a rest, so that jobs take a *share* of the time
(``NodeConfig.compaction_share``); half or a quarter of it where answers take longer than usual, and more as the jobs fall
behind (``Engine.pressure``): from a third of the pressure on, all of the time. Without clients they do not rest.

Where jobs that take all of the time fall behind still more, writes are slowed down: their answers are held back, at first
by a millisecond and at full pressure by a tenth of a second. Callers that wait for one answer before the next request
then bring less. Those that do not are refused (``Overloaded``) when memory reaches its bound.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.ports import Clock

CLIENTS_S = 1.0
"""Clients count as present for this long after a request."""
HELD_BACK_S = 0.1
"""How long an answer to a write is held back at most."""
_LEAST_HELD_S = 0.001
_HURRIED = 1 / 3
"""The pressure from which jobs take all of the time, and writes are held back."""
_LEAST_EASE = 0.25
_LEAST_REST_S = 0.0005


class Pace:
    """The rests of one node's jobs. ``pressure`` and ``ease`` return numbers from 0.0 to 1.0.

    ``ease``: how much of its share background work may take by the present latencies (see ``repair.throttle``).
    """

    def __init__(self, clock: Clock, share: float, pressure: Callable[[], float], ease: Callable[[], float]) -> None:
        self._clock = clock
        self._share = share
        self._pressure = pressure
        self._ease = ease
        self._asked_s = -math.inf

    def note(self, now_s: float) -> None:
        """Record a request of a client."""
        self._asked_s = now_s

    @property
    def share(self) -> float:
        """The share of the time that jobs may take at present."""
        if self._clock.monotonic_s() - self._asked_s > CLIENTS_S:
            return 1.0
        hurry = min(1.0, self._pressure() / _HURRIED)
        return hurry + (1 - hurry) * self._share * max(_LEAST_EASE, self._ease())

    async def rest(self, since_s: float) -> float:
        """Rest after a step that began at ``since_s`` (monotonic); return when the next one begins."""
        now_s = self._clock.monotonic_s()
        rest_s = (now_s - since_s) * (1 / self.share - 1)
        if rest_s >= _LEAST_REST_S:
            await self._clock.sleep(min(rest_s, CLIENTS_S))
        return self._clock.monotonic_s()

    def held_back_s(self) -> float:
        """Return how long the answer to a write is to be held back: the square of the pressure beyond ``_HURRIED``."""
        held_s = HELD_BACK_S * max(0.0, (self._pressure() - _HURRIED) / (1 - _HURRIED)) ** 2
        return held_s if held_s >= _LEAST_HELD_S else 0.0
