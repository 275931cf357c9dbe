"""A long list, cut down to what lies nearest to some moments, and what was left out said in its place.

Causes come first: a row before a moment counts as nearer than one as many rows behind it, and behind the last moment
there are few.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class Timed(Protocol):
    """What has a time."""

    @property
    def at_s(self) -> float:
        """When it was."""


T = TypeVar("T", bound=Timed)
_BEHIND = 4
"""How many times as far a row is that comes after the moment."""
_LAST_SHARE = 6
"""Rows behind the last moment are at most the limit divided by this."""


class Gap(NamedTuple):
    """Rows that were left out."""

    rows: int
    from_s: float
    to_s: float

    def describe(self) -> str:
        """Return a line for a person."""
        return f"... {self.rows} more, from {self.from_s:.4f} to {self.to_s:.4f} s ..."


def excerpt(rows: Sequence[T], moments: Sequence[float], limit: int) -> list[T | Gap]:
    """Return at most ``limit`` of ``rows`` (in the order of time), the nearest to any of the moments, with gaps."""
    times = [row.at_s for row in rows]
    centres = [bisect_right(times, at_s) for at_s in moments] or [len(rows)]
    eligible = range(min(len(rows), max(centres) + limit // _LAST_SHARE))
    ranked = sorted(eligible, key=lambda index: (min(_distance(index, centre) for centre in centres), index))
    chosen = sorted(ranked[:limit])
    result: list[T | Gap] = []
    last = -1
    for index in [*chosen, len(rows)]:
        if index > last + 1:
            result.append(Gap(index - last - 1, times[last + 1], times[index - 1]))
        if index < len(rows):
            result.append(rows[index])
        last = index
    return result


def _distance(index: int, centre: int) -> int:
    return centre - 1 - index if index < centre else (index - centre) * _BEHIND + 1
