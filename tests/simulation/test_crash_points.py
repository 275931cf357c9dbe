"""Every crash of one node's storage, and the proof that the harness would notice.

The long run is ``scripts/crash_points --states 300000``.
"""

import itertools
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from raykv.storage import directory, engine, manifest, pruning, recovery, wal
from raykv.storage.blob import write_blob
from raykv.storage.damage import Damage
from raykv.storage.jobs import CompactionJob, FlushJob, Workshop
from raykv.storage.snapshot import TableCopier
from raykv.storage.sstable_writer import TableWriter
from raykv.storage.wal import segment_name
from simulation import storage_load
from simulation.crash_points import PROCESS_DEATH, Figures, Violation, explore, replay
from simulation.storage_load import StorageLoad
from simulation.storage_promise import BACKUPS

SCRIPT = Path(__file__).parents[2] / "scripts" / "crash_points.py"


@pytest.fixture(autouse=True)
def silence(caplog):
    """Every second disk has a torn tail."""
    caplog.set_level(logging.CRITICAL, "raykv.storage")


@pytest.mark.crash
def test_twenty_thousand_states():
    total = Figures(0, 0, 0)
    for seed in itertools.count(1):
        total = Figures(*map(sum, zip(total, explore(seed, states=20_000 - total.states), strict=True)))
        if total.states == 20_000:
            break
    assert total.recoveries > 40_000


def test_the_same_seed_is_the_same_run():
    first, second = explore(5, states=200), explore(5, states=200)
    assert first == second
    assert first.states == 200


def test_every_kind_of_operation_comes_up():
    seen = set()
    for seed in range(1, 10):
        StorageLoad(seed, lambda operation, _path: seen.add(operation)).run(400)
    assert seen == {"append", "create", "link", "rename", "sync", "sync_directory", "truncate", "unlink"}


class Without:
    """A file system, or a file of it, that leaves one operation out."""

    def __init__(self, inner, operation):
        self._inner = inner
        self._operation = operation

    def __getattr__(self, name):
        return (lambda *_: None) if name == self._operation else getattr(self._inner, name)

    def create(self, path):
        return Without(self._inner.create(path), self._operation)


def blobs_without(operation):
    def plant(monkeypatch):
        def write(fs, *arguments):
            write_blob(Without(fs, operation), *arguments)

        monkeypatch.setattr(manifest, "write_blob", write)
        monkeypatch.setattr(directory, "write_blob", write)

    return plant


def method_without(owner, name, attribute, operation):
    """Let a method do without an operation of the file system (or file) that ``self.attribute`` is."""

    def plant(monkeypatch):
        method = getattr(owner, name)

        def lazy(self, *arguments):
            inner = getattr(self, attribute)
            setattr(self, attribute, Without(inner, operation))
            try:
                return method(self, *arguments)
            finally:
                setattr(self, attribute, inner)

        monkeypatch.setattr(owner, name, lazy)

    return plant


def segments_unlinked_before_the_manifest_is_saved(monkeypatch):
    save = engine.Engine._save_manifest

    def early(self):
        oldest = min(memtable.first_segment for memtable in [self._memtable, *self._sealed])
        for number in range(self._manifest.oldest_segment, oldest):
            path = f"{self._directory}/{segment_name(number)}"
            if self._fs.exists(path):
                self._fs.unlink(path)
        save(self)

    monkeypatch.setattr(engine.Engine, "_save_manifest", early)


def a_sync_reported_that_was_none(monkeypatch):
    def lie(self):
        self.synced_up_to = self.length

    monkeypatch.setattr(wal._Writer, "sync", lie)


def what_the_kernel_holds_shown_unsynced(monkeypatch):
    make_safe = recovery._make_safe

    def lazy(fs, path, number, length, size, log):
        if log is not None:
            make_safe(fs, path, number, length, size, log)

    monkeypatch.setattr(recovery, "_make_safe", lazy)


def a_torn_tail_taken_for_corruption(monkeypatch):
    replay_segment = recovery.replay_segment

    def strict(*arguments, **named):
        found = replay_segment(*arguments, **named)
        if found.length < found.size:
            found.damages.append(Damage("segment", found.length, None, None, "makes no sense"))
        return found

    monkeypatch.setattr(recovery, "replay_segment", strict)


def a_torn_tail_cut_off_before_the_next_segment_bears_witness(monkeypatch):
    make_safe = recovery._make_safe

    def hasty(fs, path, number, length, size, log):
        if length < size:
            fs.truncate(f"{path}/{segment_name(number)}", length)
        make_safe(fs, path, number, length, length, log)

    monkeypatch.setattr(recovery, "_make_safe", hasty)


def a_segment_cut_short_counted_as_a_witness(monkeypatch):
    def all_of_them(fs, path, oldest):
        numbers = {recovery.number_of(name, ".wal") for name in fs.list_directory(path)}
        return frozenset(number for number in numbers if number is not None and number >= oldest)

    monkeypatch.setattr(recovery, "_segments", all_of_them)


def clean_left_standing(monkeypatch):
    following = directory._next_identity

    def lazy(fs, path, previous, *arguments):
        identity = following(fs, path, previous, *arguments)
        return msgspec.structs.replace(identity, clean=previous is not None and previous.clean)

    monkeypatch.setattr(directory, "_next_identity", lazy)


def markers_left_out_by_every(job):
    """In the newer runs too, though an older one has a record for them to cover."""

    def plant(monkeypatch):
        step = job.step

        def lazy(self):
            self._older = []
            return step(self)

        monkeypatch.setattr(job, "step", lazy)

    return plant


def markers_not_logged(monkeypatch):
    put = engine.Engine._put

    def lazy(self, key, kept):
        return put(self, key, kept) if kept else self._memtable.put(key, kept, self._log.appended_position)

    monkeypatch.setattr(engine.Engine, "_put", lazy)


def markers_not_replayed(monkeypatch):
    replay_segment = recovery.replay_segment

    def lazy(*arguments, **named):
        found = replay_segment(*arguments, **named)
        pairs = [[pair for pair in zip(*block, strict=True) if pair[1]] for block in found.blocks]
        return found._replace(blocks=[([key for key, _ in part], [record for _, record in part]) for part in pairs])

    monkeypatch.setattr(recovery, "replay_segment", lazy)


def replacements_merged(monkeypatch):
    monkeypatch.setattr(engine.Engine, "replace", engine.Engine.update)


def names_in_a_pool_unsynced(monkeypatch):
    write_part = TableCopier.write_part

    class Lazy(Without):
        def sync_directory(self, path):
            if path != f"{BACKUPS}/tables/n1":
                self._inner.sync_directory(path)

    def lazy(self, part):
        self._fs = Lazy(self._fs, "")
        return write_part(self, part)

    monkeypatch.setattr(TableCopier, "write_part", lazy)


def parts_without_their_flush(monkeypatch):
    monkeypatch.setattr(engine.Engine, "flushed", lambda *_: True)


def an_old_backups_tables_removed_before_its_manifest(monkeypatch):
    retire, unlink = pruning._retire, pruning._unlink

    def hasty(fs, directory, manifest):
        name = directory.split("/")[-1]
        others = [other for other in fs.list_directory(f"{BACKUPS}/snapshots") if other != name]
        wanted = {table for other in others for table in pruning._named(fs, BACKUPS, other, "n1")}
        for table in pruning._named(fs, BACKUPS, name, "n1"):
            if table not in wanted:
                unlink(fs, f"{BACKUPS}/tables/n1/{table}")
        retire(fs, directory, manifest)

    monkeypatch.setattr(pruning, "_retire", hasty)


def an_old_backups_manifest_not_surely_gone(monkeypatch):
    prune = storage_load.prune
    monkeypatch.setattr(storage_load, "prune", lambda fs, *words: prune(Without(fs, "sync_directory"), *words))


def tables_that_a_later_backup_names_removed(monkeypatch):
    named = pruning._named
    monkeypatch.setattr(pruning, "_named", lambda fs, path, name, node: [*named(fs, path, name, node)][1:])


FAULTS = {
    "tables of an old backup removed before its manifest": an_old_backups_tables_removed_before_its_manifest,
    "manifest of an old backup not surely gone": an_old_backups_manifest_not_surely_gone,
    "tables that a later backup names removed": tables_that_a_later_backup_names_removed,
    "names in a pool unsynced": names_in_a_pool_unsynced,
    "copies in a pool unsynced": method_without(TableCopier, "_write", "_fs", "sync"),
    "parts without their flush": parts_without_their_flush,
    "blobs without sync": blobs_without("sync"),
    "blobs without sync_directory": blobs_without("sync_directory"),
    "segments begun without sync_directory": method_without(wal._Writer, "begin", "_fs", "sync_directory"),
    "tables without sync": method_without(TableWriter, "finish", "_file", "sync"),
    "tables without sync_directory": method_without(Workshop, "open", "fs", "sync_directory"),
    "unlinked first": segments_unlinked_before_the_manifest_is_saved,
    "no sync": a_sync_reported_that_was_none,
    "shown unsynced": what_the_kernel_holds_shown_unsynced,
    "taken for corruption": a_torn_tail_taken_for_corruption,
    "cut off first": a_torn_tail_cut_off_before_the_next_segment_bears_witness,
    "cut short": a_segment_cut_short_counted_as_a_witness,
    "clean": clean_left_standing,
    "markers not flushed": markers_left_out_by_every(FlushJob),
    "markers not compacted": markers_left_out_by_every(CompactionJob),
    "markers not logged": markers_not_logged,
    "markers not replayed": markers_not_replayed,
    "replacements merged": replacements_merged,
}


LIKELY = {
    "tables of an old backup removed before its manifest": 4,
    "manifest of an old backup not surely gone": 4,
    "tables that a later backup names removed": 3,
    "copies in a pool unsynced": 4,
    "parts without their flush": 4,
    "markers not compacted": 2,
}
"""Fault -> the seed that saw it last: it is tried first, which saves the search as long as it still does."""


def find_violation(likely=1):
    for seed in (likely, *range(1, 30)):
        try:
            explore(seed)
        except Violation as violation:
            return violation
    pytest.fail("nobody noticed")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_found_again(fault, monkeypatch):
    FAULTS[fault](monkeypatch)
    violation = find_violation(LIKELY.get(fault, 1))
    with pytest.raises(Violation) as again:
        replay(violation.seed, violation.point, violation.choice)
    assert str(again.value) == str(violation)


def test_a_violation_says_where_and_what(monkeypatch):
    blobs_without("sync_directory")(monkeypatch)
    violation = find_violation()
    name = f"{violation.seed}:{violation.point}:{violation.choice}: a crash before {violation.operation} /node/"
    assert str(violation).startswith(name)
    assert violation.crashes
    assert violation.expected != violation.found
    assert str(pickle.loads(pickle.dumps(violation))) == str(violation)


def test_there_is_no_such_point():
    with pytest.raises(ValueError, match="points only"):
        replay(1, 100_000, PROCESS_DEATH)
    with pytest.raises(ValueError, match="choices 1 to"):
        replay(1, 3, 10**30)


def script(*words):
    return subprocess.run([sys.executable, SCRIPT, *words], check=False, capture_output=True, text=True, timeout=240)


def test_the_script():
    done = script("--states", "60", "--jobs", "1", "--seed", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n60 states at " in f"\n{done.stdout}"
    assert done.stdout.endswith("no promise was broken\n")
    assert script("--replay", "3:2:1").stdout == "no promise was broken\n"
    assert script("--replay", "3:2:99999").returncode == 2
    assert "SEED:POINT:CHOICE" in script("--help").stdout
