"""Which tables to merge: a pure decision, by one of two policies.

A *run* is one or more tables with disjoint ranges; runs are ordered by age, and a read asks the newest first. A *task*
takes tables of neighbouring runs and puts their merger in the place of the oldest. Two rules keep the newest record of a
key in front: runs are never skipped, and from each older run a task takes every table within the range of what it takes
from newer ones.

**tiered** (the default; RocksDB's *universal*). Runs are sorted into *tiers* by size: tier 0 up to one memtable, each
further tier ``runs_per_level`` times as large. A run counts as at least the tier of every newer run, so tiers never fall
with age and each is one stretch of neighbours. As soon as a tier has ``runs_per_level`` runs, they become one. With
T = ``runs_per_level`` and n bytes there are at most T-1 runs a tier and log_T n tiers: reads ask O(T log_T n) filters, and
a record is rewritten O(log_T n) times.

**leveled** (LevelDB's, with RocksDB's dynamic targets). The oldest run is the last level. The one before it may have
1/``level_ratio`` of its size, the one before that 1/``level_ratio``^2, down to about what ``runs_per_level`` flushes
bring; newer runs are fresh from a flush and wait until there are ``runs_per_level`` of them. A level beyond its size
gives the next one a table, the one that overlaps least. Reads ask fewer runs, little space is wasted, and a record is
rewritten O(``level_ratio`` log n) times, in small tasks. The levels follow from the sizes alone: a store may change its
policy at any start.

**Garbage**, under both. ``covers`` of a table estimates how many of its records have an older one below. Once all that
exceeds ``max_space_amplification``, everything is merged; below one memtable's worth it is let be. Deletion markers are
also merged down when they are older than ``max_marker_age_s``: what was erased leaves the disk even where little is
written.

``pick`` and ``apply`` work on descriptions: a table of cases tests them, and ``scripts/amplification`` simulates a month
in seconds.

Omitted: cutting a merge of everything into parts by key. It takes as much free space as the store, for its duration.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from raykv.config import NodeConfig


class TableLike(Protocol):
    """The properties of a table that a decision needs. See ``sstable.TableInfo``."""

    @property
    def number(self) -> int:
        """The name of the table."""
        ...

    @property
    def count(self) -> int:
        """The number of records."""
        ...

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        ...

    @property
    def smallest(self) -> bytes:
        """The first key."""
        ...

    @property
    def largest(self) -> bytes:
        """The last key."""
        ...

    @property
    def markers(self) -> int:
        """The number of deletion markers."""
        ...

    @property
    def covers(self) -> int:
        """The records that cover an older one, about; -1: unknown."""
        ...

    @property
    def since_ms(self) -> int:
        """Age of the oldest deletion marker: wall-clock milliseconds; 0: unknown."""
        ...


ASKED_FOR = "asked for"
"""The reason of a task that writes everything anew."""

T = TypeVar("T", bound=TableLike)
T_co = TypeVar("T_co", bound=TableLike, covariant=True)


class RunLike(Protocol[T_co]):
    """The properties of a run that a decision needs."""

    @property
    def number(self) -> int:
        """The name of the run."""
        ...

    @property
    def size_bytes(self) -> int:
        """The size of its tables."""
        ...

    @property
    def tables(self) -> Sequence[T_co]:
        """Its tables, ascending."""
        ...


R = TypeVar("R", bound=RunLike[TableLike])


class Part(NamedTuple):
    """What a task takes from one run: the numbers of tables, ascending by key; possibly none of the oldest run's."""

    run: int
    tables: tuple[int, ...]


class Task(NamedTuple):
    """Tables to merge, by run, newest first. The outcome becomes a part of the last run."""

    parts: tuple[Part, ...]
    reason: str


def tier(size_bytes: int, config: NodeConfig) -> int:
    """Return the tier of a run of that size: 0 up to one memtable, one more for each factor of ``runs_per_level``."""
    found, limit = 0, config.memtable_bytes
    while size_bytes > limit:
        found += 1
        limit *= config.runs_per_level
    return found


def pick(runs: Sequence[RunLike[TableLike]], config: NodeConfig, now_ms: int = 0) -> Task | None:
    """Return what to merge next, or None if all is well. ``runs`` are newest first; ``now_ms``: wall clock, 0: unknown.

    The policy's own rules go first: they keep runs few, and remove garbage on the way. O(tables).
    """
    if not runs:
        return None
    by_policy = _full_tier(runs, config) if config.compaction == "tiered" else _full_level(runs, config)
    return by_policy or _garbage(runs, config) or _old_markers(runs, config, now_ms)


def pick_newer(runs: Sequence[RunLike[TableLike]], config: NodeConfig) -> Task | None:
    """Return what to merge of ``runs``, newer than all that is being merged, or None.

    Under "leveled" tasks are small, and their outcomes belong to one level: the next one waits. O(runs).
    """
    return _full_tier(runs, config) if config.compaction == "tiered" and runs else None


def everything(runs: Sequence[RunLike[TableLike]]) -> Task | None:
    """Return the task that merges all runs; None if there are none."""
    return Task(_whole(runs), ASKED_FOR) if runs else None


def next_due_ms(runs: Sequence[RunLike[TableLike]], config: NodeConfig) -> int | None:
    """Return when the oldest deletion marker must be merged down (wall clock); None if there is none."""
    since = [table.since_ms for run in runs for table in run.tables if table.markers]
    return min(since) + round(config.max_marker_age_s * 1000) if since else None


def apply(runs: Sequence[R], task: Task, merged: Sequence[T], make: Callable[[int, tuple[T, ...]], R]) -> list[R]:
    """Return ``runs`` after the task, whose outcome is ``merged`` (ascending). ``make(number, tables)`` makes a run.

    The oldest run of the task keeps its number. A run of which nothing is left is gone. Raises if the task does not fit the
    runs (``StopIteration``, ``ValueError``): ``python -O`` must not install it either.
    """
    first = next(index for index, run in enumerate(runs) if run.number == task.parts[0].run)
    last = first + len(task.parts) - 1
    if [run.number for run in runs[first : last + 1]] != [part.run for part in task.parts]:
        raise ValueError("the runs are not neighbours, or not there any more")
    changed: list[R] = []
    for run, part in zip(runs[first : last + 1], task.parts, strict=True):
        taken = set(part.tables)
        kept = [table for table in run.tables if table.number not in taken]
        if len(kept) + len(taken) != len(run.tables):
            raise ValueError("a table is not there any more")
        tables: list[T] = [*kept, *(merged if run is runs[last] else ())]  # type: ignore[list-item]
        if tables:
            tables.sort(key=lambda table: table.smallest)
            if any(a.largest >= b.smallest for a, b in pairwise(tables)):
                raise ValueError("the tables are not disjoint")
            changed.append(make(run.number, tuple(tables)))
    return [*runs[:first], *changed, *runs[last + 1 :]]


def space_amplification(runs: Sequence[RunLike[TableLike]]) -> float:
    """Return an estimate of bytes on disk over bytes of newest records; 1.0 for an empty store. O(tables)."""
    total = sum(run.size_bytes for run in runs)
    return total / max(1, total - garbage_bytes(runs)) if total else 1.0


def garbage_bytes(runs: Sequence[RunLike[TableLike]]) -> int:
    """Return an estimate of the bytes that a merger of everything would free. O(tables)."""
    garbage = 0.0
    below_bytes = below_count = 0
    for run in reversed(runs):
        for table in run.tables:
            if below_count:
                covered = table.count if table.covers < 0 else table.covers
                garbage += min(covered, below_count) * below_bytes / below_count
            if table.markers:
                share = table.size_bytes * table.markers / table.count
                garbage += min(share, table.markers * (len(table.smallest) + len(table.largest)) / 2)
        below_bytes += run.size_bytes
        below_count += sum(table.count for table in run.tables)
    return min(below_bytes, round(garbage))


# ---- the policies --------------------------------------------------------------------------------------------------


def _full_tier(runs: Sequence[RunLike[TableLike]], config: NodeConfig) -> Task | None:
    """Return the merge of the lowest full tier: it is the cheapest, and it grows fastest."""
    stretches: list[list[RunLike[TableLike]]] = []
    highest = -1
    for run in runs:
        own = tier(run.size_bytes, config)
        if own > highest:
            highest = own
            stretches.append([])
        stretches[-1].append(run)
    full = next((stretch for stretch in stretches if len(stretch) >= config.runs_per_level), None)
    return Task(_whole(full), "full tier") if full is not None else None


def levels(last_bytes: int, config: NodeConfig) -> list[float]:
    """Return the size that each level may have, the last level (of ``last_bytes``) first."""
    least = config.memtable_bytes * config.runs_per_level
    targets = [float(last_bytes)]
    while targets[-1] / config.level_ratio >= least:
        targets.append(targets[-1] / config.level_ratio)
    return targets


def _full_level(runs: Sequence[RunLike[TableLike]], config: NodeConfig) -> Task | None:
    targets = levels(runs[-1].size_bytes, config)
    first = max(0, len(runs) - len(targets))  # the newest level; what is newer is fresh
    if first >= config.runs_per_level:
        fresh = [table for run in runs[:first] for table in run.tables]
        low, high = min(table.smallest for table in fresh), max(table.largest for table in fresh)
        below = Part(runs[first].number, tuple(table.number for table in _within(runs[first], low, high)))
        return Task((*_whole(runs[:first]), below), "fresh runs")
    fullest, fullest_by = -1, 1.0
    for index in range(first, len(runs) - 1):
        by = runs[index].size_bytes / targets[len(runs) - 1 - index]
        if by > fullest_by:
            fullest, fullest_by = index, by
    if fullest < 0:
        return None
    next_level = runs[fullest + 1]
    best = min(
        runs[fullest].tables,
        key=lambda table: (
            sum(each.size_bytes for each in _within(next_level, table.smallest, table.largest))
            / max(1, table.size_bytes),
            table.smallest,
        ),
    )
    return Task(_down(runs, fullest, fullest + 1, [best]), "full level")


def _garbage(runs: Sequence[RunLike[TableLike]], config: NodeConfig) -> Task | None:
    garbage, total = garbage_bytes(runs), sum(run.size_bytes for run in runs)
    if garbage <= config.memtable_bytes or total <= config.max_space_amplification * (total - garbage):
        return None
    return Task(_whole(runs), "garbage")


def _old_markers(runs: Sequence[RunLike[TableLike]], config: NodeConfig, now_ms: int) -> Task | None:
    oldest_ms = now_ms - config.max_marker_age_s * 1000
    for index, run in enumerate(runs):
        due = [at for at, table in enumerate(run.tables) if table.markers and table.since_ms <= oldest_ms]
        if due:
            stretch = run.tables[due[0] : due[-1] + 1]  # all of it: the outcome may be one table
            return Task(_down(runs, index, len(runs) - 1, stretch), "old deletion markers")
    return None


def _whole(runs: Iterable[RunLike[TableLike]]) -> tuple[Part, ...]:
    return tuple(Part(run.number, tuple(table.number for table in run.tables)) for run in runs)


def _down(runs: Sequence[RunLike[TableLike]], first: int, last: int, taken: Sequence[TableLike]) -> tuple[Part, ...]:
    """Take these neighbouring tables of one run, and of all older ones up to ``last`` what lies within their range.

    *Schedule without the range's growth: a table a-f of the newest run meets e-k of the next, which is taken; g-h of the
    third is not, and the merged a-k comes to lie in one run with it.*
    """
    parts = [Part(runs[first].number, tuple(table.number for table in taken))]
    low, high = taken[0].smallest, taken[-1].largest
    for run in runs[first + 1 : last + 1]:
        within = _within(run, low, high)
        if within:
            low, high = min(low, within[0].smallest), max(high, within[-1].largest)
        parts.append(Part(run.number, tuple(table.number for table in within)))
    return tuple(parts)


def _within(run: RunLike[TableLike], low: bytes, high: bytes) -> list[TableLike]:
    """Return the run's tables that may hold keys of ``low`` to ``high``, both included."""
    return [table for table in run.tables if table.smallest <= high and low <= table.largest]
