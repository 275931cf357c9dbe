"""The lanes of a client: call slots whose number and count name each change of a linearizable bucket for ever (L10).

After RIFL (Lee et al. 2015): a lane has one call at a time, so the number of its present call says that all former ones
are settled, and what is remembered of a lane is one answer. That takes more than an answer: nobody may be about to ask for
the former call any more. Where a sending of it has brought no answer, it may still arrive, at a node that does not know how
far the lane is since; so a call that was sent twice, or whose outcome stays unknown, is the last one of its name.
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

    __slots__ = ("_random_bytes", "last", "name", "settled")

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self.name = random_bytes(LANE_BYTES)
        self.last = 0
        """The number of its last call."""
        self.settled = True
        """Whether nobody asks for the last call any more, now or later; else the lane goes on under another name."""

    def next(self) -> int:
        """Begin another call; return its number."""
        if not self.settled:
            self.name, self.last = self._random_bytes(LANE_BYTES), 0
        self.settled = False  # an exception may end the call at any point
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
            return Lane(self._random_bytes)

    def give_back(self, lane: Lane) -> None:
        """Take back a lane that has no call under way."""
        if len(self._free) < MAX_FREE and self._pid == os.getpid():
            self._free.append(lane)
