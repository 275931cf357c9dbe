"""How fast background work may go: a rate that gives way to clients.

Hand-off, repair and healing send and fetch records while clients wait for answers. They take their bytes here. The rate
is halved while answers to clients take more than twice their usual time, and grows back step by step when they do not
(additive increase would be too slow after an idle hour; multiplicative both ways, as the times are noisy anyway).

What is usual is learned slowly, what is now quickly: two moving averages of the same times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raykv.ports import Clock

ADAPT_EVERY_S = 0.5
_SLOW = 2.0
_SLACK_S = 0.002
"""Less than this above the usual is noise."""
_FLOOR = 64
"""The rate never falls below this part of the most: what is behind must be mended in the end."""
_NOW_WEIGHT = 0.1
_USUAL_WEIGHT = 0.005
_GROWTH = 1.25


class Throttle:
    """Bytes a second for everything that takes from it together."""

    def __init__(self, clock: Clock, bytes_per_s: int) -> None:
        self._clock = clock
        self._most = float(bytes_per_s)
        self.bytes_per_s = self._most
        """The present rate."""
        self._free_at_s = clock.monotonic_s()
        self._adapted_s = self._free_at_s
        self._now_s: float | None = None
        self._usual_s = 0.0
        self.slowed = 0
        """How often the rate was halved."""

    def note(self, taken_s: float) -> None:
        """Take note of how long an answer to a client's request took."""
        if self._now_s is None:
            self._now_s = self._usual_s = taken_s
        self._now_s += _NOW_WEIGHT * (taken_s - self._now_s)
        self._usual_s += _USUAL_WEIGHT * (taken_s - self._usual_s)
        self._adapt()

    async def take(self, size_bytes: int) -> None:
        """Wait until ``size_bytes`` more may be sent or fetched."""
        self._adapt()
        now_s = self._clock.monotonic_s()
        begins_s = max(now_s, self._free_at_s)
        self._free_at_s = begins_s + size_bytes / self.bytes_per_s
        if begins_s > now_s:
            await self._clock.sleep(begins_s - now_s)

    def _adapt(self) -> None:
        now_s = self._clock.monotonic_s()
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
