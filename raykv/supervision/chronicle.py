"""What has happened to a store, each with its cause: deaths, returns, members, moves, buckets. For people.

The supervisor notes it where it decides it, so that also what begins and ends between two looks at the status is there. Kept
in memory: a supervisor that takes over begins anew, and says so. The log has the same lines, for longer.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from raykv.ports import Clock

MOST = 60
"""What is older is forgotten: the status carries them all."""
MAX_CHARS = 500
Kind: TypeAlias = Literal["bad", "good", "note"]


class Chronicle:
    """The latest events of one supervisor."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._events: deque[dict[str, Any]] = deque(maxlen=MOST)
        self._noted = 0
        self.moves_for = ""
        """Why partitions move at present, if this supervisor has begun it."""

    def note(self, kind: Kind, what: str, cause: str = "") -> None:
        """Note what has happened, and why. O(1)."""
        self._noted += 1
        self._events.append(
            {
                "number": self._noted,
                "at_ms": self._clock.wall_ms(),
                "kind": kind,
                "what": what[:MAX_CHARS],
                "cause": cause[:MAX_CHARS],
            }
        )

    def figures(self) -> list[dict[str, Any]]:
        """Return the events as plain data, the oldest first. ``number`` counts those of this supervisor from 1 on."""
        return [*self._events]
