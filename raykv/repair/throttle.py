"""How fast background work may go: a rate that gives way to clients.

Hand-off, repair and healing send and fetch records while clients wait for answers. They take their bytes here. The rate
is halved while answers to clients take more than twice their usual time, and grows back step by step when they do not
(additive increase would be too slow after an idle hour; multiplicative both ways, as the times are noisy anyway).

What is usual is learned slowly, what is now quickly: two moving averages of the same times.

Work that costs the node's own time (trees, records to be merged in) is done in stretches of about half a millisecond, and
after each of them ``rest`` lets go: while clients ask this node, so long that only a small share of its time goes into
it. A node that is asked nothing works on at once; where copies are missing, and must be made good before more are lost,
the share is larger (``hurry``). With little time for each, a rate in bytes alone would not do: at 8 MiB/s small records
keep a node busy all the time, and those who wait do so for the processor.
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
"""Less than this above the usual is noise."""
_FLOOR = 64
"""The rate never falls below this part of the most: what is behind must be mended in the end."""
CLIENTS_S = 1.0
"""For so long after a request clients are taken to be there."""
STRETCH_S = 0.0004
"""For less it is not worth setting a timer: they are no finer than a millisecond."""
HURRY = 5
"""So many times its share work gets that makes good what was lost."""
_NOW_WEIGHT = 0.1
_USUAL_WEIGHT = 0.005
_GROWTH = 1.25


class Throttle:
    """Bytes a second for everything that takes from it together."""

    def __init__(self, clock: Clock, bytes_per_s: int, share: float) -> None:
        """``share``: of the node's time, for work in the background while clients ask."""
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
        """Until when nothing more is to be done, for what was."""
        self.slowed = 0
        """How often the rate was halved."""

    def note(self, taken_s: float, now_s: float) -> None:
        """Take note of how long an answer to a client's request took, which goes out now (monotonic)."""
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
        """Of the node's time, as of now."""
        return min(1.0, self._share * HURRY) if self._hurried else self._share

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Have more of the node's time meanwhile, for copies that are missing."""
        self._hurried += 1
        try:
            yield
        finally:
            self._hurried -= 1

    async def rest(self, since_s: float) -> float:
        """Let others have their turn after work that began at ``since_s`` (monotonic). Returns when the next begins.

        After less than ``STRETCH_S`` only a short one; that work counts with what follows then.
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
        if steps > 1:  # nobody has asked for a while: the last times say nothing of now
            self._now_s = None if self._now_s is None else self._usual_s
