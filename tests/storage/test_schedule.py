"""Which compaction comes next: each time the schedule is asked, by what stands and by what is under way."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from raykv.config import NodeConfig
from raykv.storage import compaction
from raykv.storage.compaction import next_due_ms
from raykv.storage.manifest import RunInfo
from raykv.storage.schedule import MAX_COMPACTIONS, CompactionSchedule
from raykv.storage.sstable import TableInfo

CONFIG = NodeConfig(memtable_bytes=1 << 20, runs_per_level=4)


class Run:
    """A sorted run of one table, as far as the schedule looks."""

    def __init__(self, number: int, size_bytes: int = 1000, **markers: int) -> None:
        self.number = number
        self.tables = [SimpleNamespace(info=table(number, size_bytes, **markers))]

    def info(self) -> RunInfo:
        return RunInfo(self.number, tuple(each.info for each in self.tables))


def table(number: int, size_bytes: int, **markers: int) -> TableInfo:
    return TableInfo(number=number, count=10, size_bytes=size_bytes, smallest=b"a", largest=b"z", **markers)


def ask(
    schedule: CompactionSchedule, runs: Any, now_ms: int = 1, *, room_bytes: int | None = None, flushed: bool = True
) -> list[int]:
    """Return the runs that the next task merges; it is under way from then on."""
    task = schedule.next(runs, now_ms, room_bytes, flushed=flushed)
    if task is None:
        return []
    schedule.under_way.append(SimpleNamespace(task=task))  # type: ignore[arg-type]
    return [part.run for part in task.parts]


@pytest.fixture
def schedule() -> CompactionSchedule:
    return CompactionSchedule(CONFIG)


def test_few_runs_rest_and_that_is_remembered(schedule: CompactionSchedule) -> None:
    runs = [Run(2), Run(1)]
    assert ask(schedule, runs) == []
    runs += [
        Run(number) for number in range(3, 9)
    ]  # the list is never changed, only replaced: it is not looked at again
    assert ask(schedule, runs) == []
    assert ask(schedule, [*runs])


def test_runs_that_rest_are_asked_again_when_their_deletion_markers_are_old(schedule: CompactionSchedule) -> None:
    runs = [Run(2, markers=1, covers=0, since_ms=1000), Run(1)]
    assert ask(schedule, runs, 1000) == []
    due_ms = next_due_ms([run.info() for run in runs], CONFIG)
    assert due_ms is not None
    assert ask(schedule, runs, due_ms - 1) == []
    assert ask(schedule, runs, due_ms) == [2, 1]


def test_newer_runs_are_merged_beside_older_ones_up_to_a_bound(schedule: CompactionSchedule) -> None:
    runs = [Run(number) for number in range(8, 0, -1)]
    begun = [ask(schedule, runs)]
    number = 8
    while begun[-1]:
        for _ in range(8):
            number += 1
            runs = [Run(number), *runs]
        begun.append(ask(schedule, runs))
    assert len(begun) == MAX_COMPACTIONS + 1
    for older, newer in itertools.pairwise(begun[:-1]):
        assert min(newer) > max(older)
    assert schedule.is_newest(schedule.under_way[-1])
    assert not schedule.is_newest(schedule.under_way[0])
    schedule.end(schedule.under_way[-1])
    assert ask(schedule, runs)


def test_a_merge_of_everything_waits_for_the_flush_and_for_those_under_way(schedule: CompactionSchedule) -> None:
    runs = [Run(number) for number in range(8, 0, -1)]
    assert ask(schedule, runs)
    schedule.fully = True
    more = [Run(number) for number in range(16, 8, -1)] + runs
    assert ask(schedule, more) == [], "nothing begins beside it"
    schedule.end(schedule.under_way[0])
    assert sorted(ask(schedule, more)) == list(range(1, 17))
    assert not schedule.fully
    schedule.end(schedule.under_way[0])
    schedule.fully = True
    few = [Run(2), Run(1)]
    assert ask(schedule, few, flushed=False) == []
    assert schedule.fully
    assert sorted(ask(schedule, few)) == [1, 2]


@pytest.mark.parametrize("fully", [False, True])
def test_without_room_it_is_asked_again(schedule: CompactionSchedule, fully: bool) -> None:
    runs = [Run(number) for number in range(8, 0, -1)]
    schedule.fully = fully
    needed = schedule.debt_bytes(runs) if not fully else 8000
    assert needed
    assert ask(schedule, runs, room_bytes=needed - 1) == []
    assert schedule.fully == fully
    assert ask(schedule, runs, room_bytes=needed)


@pytest.mark.parametrize("beside", [False, True])
def test_what_has_no_room_is_chosen_once(
    schedule: CompactionSchedule, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    """Every write asks; choosing looks at all tables."""
    runs = [Run(number) for number in range(8, 0, -1)]
    if beside:
        assert ask(schedule, runs)
        runs = [Run(number) for number in range(16, 8, -1)] + runs
    chosen = []

    def counted(choose: Any) -> Any:
        return lambda *asked: chosen.append(1) or choose(*asked)

    for name in ("pick", "pick_newer"):
        monkeypatch.setattr(compaction, name, counted(getattr(compaction, name)))
    assert [ask(schedule, runs, room_bytes=1) for _ in range(100)] == [[]] * 100
    assert len(chosen) == 1
    assert ask(schedule, [*runs], room_bytes=1) == []
    assert len(chosen) == 2
    schedule.fully = not beside
    assert ask(schedule, runs, room_bytes=1) == [], "another one, of all"
    schedule.fully = False
    assert ask(schedule, runs, room_bytes=1 << 20)
