"""Tasks that nobody awaits."""

from __future__ import annotations

import asyncio
from typing import Any


class Background(set[asyncio.Task[Any]]):
    """Those of one event loop that are under way; each is kept from being collected meanwhile.

    Whoever forgets a loop ends them, and that is all right: asyncio need not print a line for each in a user's program.
    """

    def add(self, task: asyncio.Task[Any]) -> None:
        """Keep a task until it is done (which is for its callback to say)."""
        task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 - asyncio does so for its own
        super().add(task)
