"""The lanes of a client: call slots whose number and count name each change of a linearizable bucket for ever (L10).

After RIFL (Lee et al. 2015): a lane has one call at a time, so the number of its present call says that all former ones
are settled, and what is remembered of a lane is one answer. A call whose outcome stays unknown takes its lane with it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from raykv.records.linear_record import LANE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FREE = 256


class Lane:
    """One call slot."""

    __slots__ = ("last", "name")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.last = 0
        """The number of its last call."""

    def next(self) -> int:
        """Return the number of the next call."""
        self.last += 1
        return self.last


class Lanes:
    """The lanes of the handles of one ``connect``. Safe to share between threads: taking and giving back are atomic."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._free: list[Lane] = []
        self._pid = os.getpid()

    def take(self) -> Lane:
        """Return a lane without a call under way."""
        if self._pid != (pid := os.getpid()):  # both sides of a fork would make their calls under one name
            self._free, self._pid = [], pid
        try:
            return self._free.pop()
        except IndexError:
            return Lane(self._random_bytes(LANE_BYTES))

    def give_back(self, lane: Lane) -> None:
        """Take back a lane whose call is settled."""
        if len(self._free) < MAX_FREE and self._pid == os.getpid():
            self._free.append(lane)
