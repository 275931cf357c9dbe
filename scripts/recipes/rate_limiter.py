"""A rate limiter: at most so many calls a window, counted over all processes.

A caller's window and count are one value, replaced atomically; a call above the limit writes nothing. A call whose count is
not known is not let through, so the limit is never exceeded; where the store cannot count, nobody passes.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import raykv

if TYPE_CHECKING:
    from collections.abc import Callable


class Full(Exception):
    """The window has had its calls."""


class RateLimiter:
    """``bucket``: a linearizable one, of its own. ``now``: wall clocks that agree to a fraction of the window."""

    def __init__(
        self, bucket: raykv.AsyncBucket, limit: int, window_s: float = 1.0, now: Callable[[], float] = time.time
    ) -> None:
        self._bucket, self._limit, self._window_s, self._now = bucket, limit, window_s, now

    async def count(self, who: str) -> tuple[int, int] | None:
        """Count a call of ``who``; return its window and its number there, from 1. None: it may not go on."""
        window = int(self._now() // self._window_s)

        def count(known: list[int]) -> list[int]:
            latest, calls = known
            if window > latest:
                return [window, 1]
            if calls >= self._limit:
                raise Full
            return [latest, calls + 1]

        try:
            counted_in, number = await self._bucket.update(who, count, [window, 0])
        except (Full, raykv.RaykvError):
            return None
        return counted_in, number

    async def allows(self, who: str) -> bool:
        """Count a call of ``who``; return whether it may go on."""
        return await self.count(who) is not None


async def demo(store: raykv.AsyncStore) -> None:
    """Let three of five calls through."""
    limiter = RateLimiter(await store.bucket("limits", versioning="linearizable"), limit=3, window_s=60)
    print([await limiter.allows("ada") for _ in range(5)])


if __name__ == "__main__":
    asyncio.run(demo(raykv.start().aio))
