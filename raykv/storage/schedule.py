"""Which compaction is due, and when to ask again: one at a time in age, and up to a few of ever newer runs beside it."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from raykv.storage import compaction

if TYPE_CHECKING:
    from collections.abc import Collection

    from raykv.config import NodeConfig
    from raykv.storage.jobs import CompactionJob
    from raykv.storage.run import Run

MAX_COMPACTIONS = 3
"""Compactions under way at once, each of newer and smaller runs than the one before: a large one may take minutes."""


class CompactionSchedule:
    """What is under way, and what comes next. It looks at runs, and touches no file."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self.under_way: list[CompactionJob] = []
        """Each later one is of runs newer than all of the one before it."""
        self.fully = False
        """Whether the next one is to merge all runs."""
        self._settled: list[Run] | None = None
        """The runs, once it is known that none needs compaction. The list is never changed, only replaced."""
        self._due_ms: int | None = None
        """When that must be asked again all the same."""
        self._too_large: tuple[list[Run], bool, int] | None = None
        """The runs whose next task found no room, whether it was to merge all of them, and the bytes that it needs.

        Every write asks for the next task: choosing the same one each time costs O(tables).
        """

    def next(self, runs: list[Run], now_ms: int, room_bytes: int | None, *, flushed: bool) -> compaction.Task | None:
        """Return the task that is due, if there is room for its outcome. O(runs) after they have changed, else O(1).

        ``flushed``: whether nothing waits for a flush, as for a compaction of everything.
        """
        fully = self.fully and flushed and not self.under_way
        if self._lacks_room(runs, room_bytes, fully=fully):
            return None
        task = self._next_newer(runs) if self.under_way else self._next(runs, now_ms, fully=fully)
        if task is None:
            return None
        if room_bytes is not None and room_bytes < (needed_bytes := _size_bytes(runs, task)):
            self._too_large = runs, fully, needed_bytes
            return None
        self._too_large = None
        if fully:
            self.fully = False
        return task

    def _lacks_room(self, runs: list[Run], room_bytes: int | None, *, fully: bool) -> bool:
        """Return whether the task that is due was too large for the room when it was chosen, and still is."""
        if self._too_large is None or room_bytes is None:
            return False
        of, of_all, needed_bytes = self._too_large
        return of is runs and of_all == fully and room_bytes < needed_bytes

    def _next(self, runs: list[Run], now_ms: int, *, fully: bool) -> compaction.Task | None:
        if not fully and runs is self._settled and (self._due_ms is None or now_ms < self._due_ms):
            return None
        infos = [run.info() for run in runs]
        if fully:
            return compaction.everything(infos)
        task = compaction.pick(infos, self._config, now_ms)
        self._settled = runs if task is None else None
        self._due_ms = compaction.next_due_ms(infos, self._config)
        return task

    def _next_newer(self, runs: list[Run]) -> compaction.Task | None:
        """Return a compaction of runs that have come since the last one under way began: reads ask them all."""
        if runs is self._settled or self.fully or len(self.under_way) >= MAX_COMPACTIONS:
            return None
        oldest = self.under_way[-1].task.parts[0].run
        task = compaction.pick_newer(
            [run.info() for run in takewhile(lambda run: run.number != oldest, runs)], self._config
        )
        self._settled = runs if task is None else None
        return task

    def end(self, job: CompactionJob) -> None:
        """Take a job off that is done."""
        self.under_way.remove(job)
        self._settled = self._too_large = None

    def abandon(self, job: CompactionJob) -> None:
        """Take a job off that was not done: it is due again."""
        self.end(job)
        if job.task.reason == compaction.ASKED_FOR:
            self.fully = True

    def is_newest(self, job: object) -> bool:
        """Return whether no compaction of newer runs is under way: those are smaller, and go first."""
        return not self.under_way or job is self.under_way[-1]

    def debt_bytes(self, runs: list[Run]) -> int:
        """Return the size of the tables that are due to be merged next, or being merged."""
        if runs is self._settled:
            return 0
        task = compaction.pick([run.info() for run in runs], self._config)
        return 0 if task is None else _size_bytes(runs, task)


def _size_bytes(runs: list[Run], task: compaction.Task) -> int:
    taken: Collection[int] = {number for part in task.parts for number in part.tables}
    return sum(table.info.size_bytes for run in runs for table in run.tables if table.info.number in taken)
