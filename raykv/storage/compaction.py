"""Which sorted runs to merge: a pure decision, in RocksDB's *universal* (size-tiered) style.

A *run* is one or more tables with disjoint ranges that came of one flush or one merge; runs are ordered by age, and a
read asks the newest first. Only neighbours in age are ever merged, so that the newest record of a key stays in front.

Runs are sorted into *tiers* by size: tier 0 up to one memtable, each further tier ``runs_per_level`` times as large. A
run counts as at least the tier of every newer run, so tiers never fall with age and each is one stretch of neighbours.
As soon as a tier has ``runs_per_level`` runs, they become one. With T = ``runs_per_level`` and n bytes there are at most
T-1 runs a tier and log_T n tiers: reads ask O(T log_T n) filters, and a record is rewritten O(log_T n) times.
(Leveled compaction reads less and writes T times as much; in Python, writing is the expensive part.)

``pick`` and ``apply`` work on any descriptions with ``number`` and ``size_bytes``: a table of cases tests them, and a
script can simulate years of flushes in a second.

Omitted: a bound on garbage. The largest tier may hold overwritten records until it fills up; ``Engine.compact_fully``
merges everything on request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.config import NodeConfig


class RunLike(Protocol):
    """The properties of a run that a decision needs."""

    @property
    def number(self) -> int:
        """The name of the run."""
        ...

    @property
    def size_bytes(self) -> int:
        """The size of its tables."""
        ...


R = TypeVar("R", bound=RunLike)


def tier(size_bytes: int, config: NodeConfig) -> int:
    """Return the tier of a run of that size: 0 up to one memtable, one more for each factor of ``runs_per_level``."""
    found, limit = 0, config.memtable_bytes
    while size_bytes > limit:
        found += 1
        limit *= config.runs_per_level
    return found


def pick(runs: Sequence[RunLike], config: NodeConfig) -> list[int] | None:
    """Return the numbers of the runs to merge (neighbours, newest first), or None if all is well.

    ``runs`` are newest first. The lowest full tier goes first: it is the cheapest, and it grows fastest.
    O(runs).
    """
    stretches: list[list[int]] = []
    highest = -1
    for run in runs:
        own = tier(run.size_bytes, config)
        if own > highest:
            highest = own
            stretches.append([])
        stretches[-1].append(run.number)
    return next((numbers for numbers in stretches if len(numbers) >= config.runs_per_level), None)


def apply(runs: Sequence[R], numbers: Sequence[int], merged: R | None) -> list[R]:
    """Return ``runs`` with those of ``numbers`` replaced, in their place, by ``merged`` (None: nothing was left)."""
    at = next(index for index, run in enumerate(runs) if run.number == numbers[0])
    replaced = runs[at : at + len(numbers)]
    assert [run.number for run in replaced] == list(numbers), "merged runs are neighbours, and still there"
    return [*runs[:at], *([] if merged is None else [merged]), *runs[at + len(numbers) :]]
