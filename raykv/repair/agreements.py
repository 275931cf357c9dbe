"""Which dead records all owners were found to hold, and since when: what a purge needs between its two steps (P10).

In memory only, by the monotonic clock: a wall clock that jumps brings the two steps no closer together. A restarted node
asks all owners anew.

The number is bounded, and no partition or bucket takes all of it: half of the room is kept for those that have less than
an equal share, so that many deletes in one place, or an owner that is away for long, do not stop the purge elsewhere.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from raykv.repair.merkle import Entry

logger = logging.getLogger("raykv.node")

MAX_AGREED = 1_000_000
"""The most dead records that a node remembers as held by all owners; others wait for a later repair."""


class Agreements:
    """See the module. A place is (partition, bucket id)."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._since_s: dict[tuple[int, int], dict[Entry, float]] = {}
        self._count = 0
        self._told = False

    def __len__(self) -> int:
        return self._count

    def since_s(self, partition: int, entry: Entry, now_s: float) -> float | None:
        """Return since when all owners have held the entry; None where that was not known. O(1).

        Then it is noted, as far as there is room.
        """
        place = partition, entry[0]
        there = self._since_s.get(place)
        since_s = None if there is None else there.get(entry)
        if since_s is None and self._has_room(place):
            self._since_s.setdefault(place, {})[entry] = now_s
            self._count += 1
        return since_s

    def _has_room(self, place: tuple[int, int]) -> bool:
        common = MAX_AGREED // 2
        if self._count < common:
            return True
        if not self._told:
            self._told = True
            logger.warning(
                "node %s: %d deleted or expired records wait to be forgotten; the rest of them is taken up as these go",
                self._node_id, self._count,
            )  # fmt: skip
        there = self._since_s.get(place, ())
        places = len(self._since_s) + (place not in self._since_s)
        return self._count < MAX_AGREED and len(there) < common // places

    def of(self, partition: int, bucket_id: int) -> list[Entry]:
        """Return what is noted of a place. O(result)."""
        return [*self._since_s.get((partition, bucket_id), ())]

    def forget(self, partition: int, entries: Iterable[Entry]) -> None:
        """Forget these, as far as they are noted."""
        for entry in entries:
            place = partition, entry[0]
            there = self._since_s.get(place, {})
            if there.pop(entry, None) is not None:
                self._count -= 1
                if not there:
                    del self._since_s[place]
        self._told = self._told and self._count >= MAX_AGREED // 2

    def retain(self, held: Callable[[int, int], bool]) -> None:
        """Forget all of the places that are not ``held``: the bucket was dropped, or the partition moved away. O(places)."""
        for place in [place for place in self._since_s if not held(*place)]:
            self._count -= len(self._since_s.pop(place))
