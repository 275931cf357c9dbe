"""The ports onto this process and operating system: clocks, threads, counters."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from raykv.records.durations import new_histogram, sendable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")


class SystemClock:
    """The host's clocks, and asyncio's timers."""

    def wall_ms(self) -> int:
        """See ``ports.Clock``."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """See ``ports.Clock``."""
        return time.monotonic()

    async def sleep(self, delay_s: float) -> None:
        """See ``ports.Clock``."""
        await asyncio.sleep(delay_s)

    def timeout(self, delay_s: float) -> AbstractAsyncContextManager[object]:
        """See ``ports.Clock``."""
        return asyncio.timeout(delay_s)


class ThreadExecutor:
    """A few threads. Sync, flush and compaction each want one at a time."""

    def __init__(self, threads: int = 3) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="raykv-disk")

    async def run(self, work: Callable[[], T]) -> T:
        """See ``ports.Executor``."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


class CountingMetrics:
    """Counters and histograms in memory."""

    def __init__(self) -> None:
        self.run = random.SystemRandom().getrandbits(62) + 1
        """Names them where they are reported: whoever reports them reports the same."""
        self._counters: Counter[str] = Counter()
        self._histograms: dict[str, list[float]] = {}

    def count(self, name: str, amount: int = 1) -> None:
        """See ``ports.Metrics``."""
        self._counters[name] += amount

    def counted(self) -> dict[str, int]:
        """See ``ports.Metrics``."""
        return dict(sorted(self._counters.items()))

    def histogram(self, name: str) -> list[float]:
        """See ``ports.Metrics``."""
        return self._histograms.setdefault(name, new_histogram())

    def histograms(self) -> dict[str, list[int]]:
        """See ``ports.Metrics``."""
        return {name: counts for name, each in sorted(self._histograms.items()) if (counts := sendable(each))}


def exit_soon(cause: str) -> None:
    """End this process shortly, after the answers under way. Its supervisor starts another."""
    del cause
    asyncio.get_running_loop().call_later(0.1, os._exit, 1)
