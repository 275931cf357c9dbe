"""The speed of background work: a rate that gives way to clients.

Hand-off, repair and healing send and fetch records while clients wait for answers; they take their bytes here. The rate
is halved while answers to clients take more than twice their usual time, and grows back step by step when they do not
(additive increase would be too slow after an idle hour; both ways are multiplicative, as the times are noisy anyway).

Two moving averages of the same times, a slow and a fast one, are the usual time and the present one.

Work that costs the node's own time (trees, merging records) runs in stretches of about half a millisecond, with a
``rest`` after each: while clients use this node, one long enough that only a small share of its time goes into the work.
A node without requests goes on at once. Where copies are missing, and must be restored before more are lost, the share
is larger (``hurry``). A rate in bytes alone would not do: at 8 MiB/s, small records keep a node busy all the time, and
clients then wait for the processor.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.ports import Clock

ADAPT_EVERY_S = 0.5
_SLOW = 2.0
_SLACK_S = 0.002
"""A smaller excess over the usual time is noise."""
_FLOOR = 64
"""The rate never falls below this fraction of the maximum: copies that lag must catch up in the end."""
CLIENTS_S = 1.0
"""Clients count as present for this long after a request."""
STRETCH_S = 0.0004
"""Shorter stretches are not worth a timer: timers are no finer than a millisecond."""
HURRY = 5
"""The factor on the share of work that restores lost copies."""
_NOW_WEIGHT = 0.1
_USUAL_WEIGHT = 0.005
_GROWTH = 1.25


class Throttle:
    """The bytes a second of all background work together."""

    def __init__(self, clock: Clock, bytes_per_s: int, share: float) -> None:
        """``share``: of the node's time, for background work while clients use the node."""
        self._clock = clock
        self._share = share
        self._hurried = 0
        self._most = float(bytes_per_s)
        self.bytes_per_s = self._most
        """The present rate."""
        self._free_at_s = clock.monotonic_s()
        self._adapted_s = self._free_at_s
        self._now_s: float | None = None
        self._usual_s = 0.0
        self._asked_s = -math.inf
        self._rested_s = self._free_at_s
        """When the rest that work so far has earned ends."""
        self.slowed = 0
        """The number of times that the rate was halved."""

    def note(self, taken_s: float, now_s: float) -> None:
        """Record how long an answer to a client took; it goes out now (``now_s``, monotonic)."""
        self._asked_s = now_s
        if self._now_s is None:
            self._now_s = self._usual_s = taken_s
        self._now_s += _NOW_WEIGHT * (taken_s - self._now_s)
        self._usual_s += _USUAL_WEIGHT * (taken_s - self._usual_s)
        if now_s - self._adapted_s >= ADAPT_EVERY_S:
            self._adapt(now_s)

    async def take(self, size_bytes: int) -> None:
        """Wait until ``size_bytes`` more may be sent or fetched."""
        now_s = self._clock.monotonic_s()
        self._adapt(now_s)
        begins_s = max(now_s, self._free_at_s)
        self._free_at_s = begins_s + size_bytes / self.bytes_per_s
        if begins_s > now_s:
            await self._clock.sleep(begins_s - now_s)

    @property
    def share(self) -> float:
        """The present share of the node's time."""
        return min(1.0, self._share * HURRY) if self._hurried else self._share

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Take more of the node's time meanwhile, to restore missing copies."""
        self._hurried += 1
        try:
            yield
        finally:
            self._hurried -= 1

    async def rest(self, since_s: float) -> float:
        """Let others run after work that began at ``since_s`` (monotonic). Return when the next stretch begins.

        After less than ``STRETCH_S`` it only yields; that work then counts toward the next stretch.
        """
        now_s = self._clock.monotonic_s()
        worked_s = now_s - since_s
        clients = now_s - self._asked_s <= CLIENTS_S
        if not clients or worked_s < STRETCH_S:
            await self._clock.sleep(0)
            return self._clock.monotonic_s() - (worked_s if clients else 0.0)
        self._rested_s = max(now_s, self._rested_s) + worked_s * (1 / self.share - 1)
        await self._clock.sleep(self._rested_s - now_s)
        return self._clock.monotonic_s()

    def _adapt(self, now_s: float) -> None:
        steps = int((now_s - self._adapted_s) / ADAPT_EVERY_S)
        if steps < 1:
            return
        self._adapted_s = now_s
        if self._now_s is not None and self._now_s > _SLOW * self._usual_s + _SLACK_S:
            self.bytes_per_s = max(self._most / _FLOOR, self.bytes_per_s / 2)
            self.slowed += 1
        else:
            self.bytes_per_s = min(self._most, self.bytes_per_s * _GROWTH ** min(steps, 50))
        if steps > 1:  # no requests for a while: the last times say nothing about now
            self._now_s = None if self._now_s is None else self._usual_s
