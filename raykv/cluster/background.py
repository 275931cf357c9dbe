"""Tasks without a waiter."""

from __future__ import annotations

import asyncio
from typing import Any


class Background(set[asyncio.Task[Any]]):
    """The running tasks of one event loop, kept from garbage collection meanwhile.

    Dropping a loop ends them by design: asyncio need not print a line for each in a user's program.
    """

    def add(self, task: asyncio.Task[Any]) -> None:
        """Keep a task until it is done (its callback handles the outcome)."""
        task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 - asyncio does so for its own
        super().add(task)
