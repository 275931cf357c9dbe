"""The lanes that a leader has heard of: the number of the last call of each, and what it was answered (L10).

A lane has one call at a time, so a later number says that the former call was answered, or will never be asked for again.
What is here is lost with the run; what must outlive it is in the records (receipts).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raykv.ports import Clock
    from raykv.protocol import frames as f
    from raykv.replica.tenure import Name, Waiter

MAX_LANES = 100_000
SWEEP_EVERY_S = 1.0


@dataclass(slots=True)
class Lane:
    """The last call of a lane."""

    number: int
    until_s: float
    calls: dict[Name, f.Settled | Waiter] = field(default_factory=dict)
    """Its answer by key (a batch has several), refusals too, across terms (L11); until there is one, who waits for it."""


class Lanes:
    """The lanes of one run of a node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lanes: dict[bytes, Lane] = {}
        self._swept_s = clock.monotonic_s()

    def of(self, lane: bytes, number: int, until_s: float) -> Lane | None:
        """Return the lane at its call ``number``, remembered until ``until_s`` at least; None if it has gone on since."""
        known = self._lanes.get(lane)
        if known is None:
            known = self._lanes[lane] = Lane(number, until_s)
        elif number < known.number:
            return None
        elif number > known.number:
            known.number, known.calls = number, {}
        known.until_s = max(known.until_s, until_s)
        return known

    def number(self, lane: bytes) -> int:
        """Return the number of the lane's last call; -1 if it is unknown."""
        known = self._lanes.get(lane)
        return -1 if known is None else known.number

    @property
    def full(self) -> bool:
        """Whether no more lanes can be remembered. Forgets those whose time is over."""
        now_s = self._clock.monotonic_s()
        if now_s - self._swept_s >= SWEEP_EVERY_S:
            self._swept_s = now_s
            over = [lane for lane, known in self._lanes.items() if known.until_s < now_s]
            for lane in over:
                del self._lanes[lane]
        return len(self._lanes) >= MAX_LANES
