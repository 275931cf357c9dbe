"""Old snapshots go, in an order in which a cut between any two steps costs no snapshot that still counts."""

from __future__ import annotations

import random

import pytest
from storage_parts import PATH, contents, flushed, take

from raykv.storage.pruning import RETIRED_SUFFIX, is_retired, prune
from raykv.storage.snapshot import PART_MAGIC, TABLES, publish, read_part, snapshot_directory

MANIFEST = "manifest"
NAMES = [f"20261129T1{hour}0000Z-0000000{hour}" for hour in range(6)]


def finish(fs, name):
    publish(fs, PATH, name, MANIFEST, "n1", PART_MAGIC, 1, b"")


@pytest.fixture
def backed_up(drive, disk):
    """Four finished snapshots of a node whose tables a compaction replaces in between; name -> its part and contents."""
    engine = drive.open(disk)
    model, parts = {}, {}
    for name in NAMES[:4]:
        model.update(drive.fill(engine, 60, prefix=f"k{random.Random(name).randrange(3)}-", version=len(parts) + 1))
        flushed(drive, engine)
        engine.compact_fully()
        drive.work(engine)
        part, size_bytes, checksum, _ = take(disk, engine, name=name)
        finish(disk, name)
        parts[name] = size_bytes, checksum, contents(disk, part)[0]
    return parts


def left(fs):
    base = f"{PATH}/snapshots"
    return [name for name in fs.list_directory(base) if fs.exists(f"{base}/{name}/{MANIFEST}")]


def check(fs, backed_up, names):
    for name in names:
        size_bytes, checksum, content = backed_up[name]
        assert contents(fs, read_part(fs, PATH, name, "n1", size_bytes, checksum)) == (content, [])


def pruned(fs, newest, keep, members=("n1",)):
    return prune(fs, PATH, MANIFEST, newest, keep, "n1", members)


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 9])
def test_the_latest_stay_whole_and_the_others_leave_nothing(backed_up, disk, keep):
    before = len(disk.list_directory(f"{PATH}/{TABLES}/n1"))
    report = pruned(disk, NAMES[3], keep)
    stay = NAMES[:4][-keep:]
    assert left(disk) == stay == disk.list_directory(f"{PATH}/snapshots")
    check(disk, backed_up, stay)
    assert report.snapshots == max(0, 4 - keep)
    assert not report.trouble
    assert (len(disk.list_directory(f"{PATH}/{TABLES}/n1")) < before) == (keep < 4) == (report.table_bytes > 0)
    assert pruned(disk, NAMES[3], keep) == (0, 0, "")


def test_the_snapshot_just_made_stays_also_if_its_name_is_not_the_latest(backed_up, disk):
    """Two clocks may differ by more than the time between two snapshots."""
    pruned(disk, NAMES[1], 2)
    assert left(disk) == [NAMES[1], NAMES[3]]
    check(disk, backed_up, left(disk))


def test_what_was_interrupted_long_ago_goes_and_what_may_be_under_way_stays(backed_up, drive, disk):
    engine = drive.open(disk)
    for name in ("20261129T093000Z-0000000a", NAMES[4]):
        drive.fill(engine, 5, prefix=name)
        flushed(drive, engine)
        take(disk, engine, name=name)
    pruned(disk, NAMES[3], 1)
    assert disk.list_directory(f"{PATH}/snapshots") == [NAMES[3], NAMES[4]]
    check(disk, backed_up, [NAMES[3]])
    finish(disk, NAMES[4])
    part = disk.read_file(f"{snapshot_directory(PATH, NAMES[4])}/n1.part", 1 << 30)
    assert part


def test_a_part_that_cannot_be_read_keeps_all_tables_of_its_node(backed_up, disk):
    disk.flip_bit(f"{snapshot_directory(PATH, NAMES[3])}/n1.part", 60)
    before = disk.list_directory(f"{PATH}/{TABLES}/n1")
    report = pruned(disk, NAMES[3], 1)
    assert "n1.part" in report.trouble
    assert disk.list_directory(f"{PATH}/{TABLES}/n1") == before
    assert report.table_bytes == 0


def test_members_remove_their_own_and_those_that_left_are_tidied_by_any(backed_up, disk):
    for node_id in ("n2", "n9"):
        disk.make_directories(f"{PATH}/{TABLES}/{node_id}")
        disk.create(f"{PATH}/{TABLES}/{node_id}/00000001-1-00000000-00000000.sst").close()
    pruned(disk, NAMES[3], 1, members=("n1", "n2"))
    assert disk.list_directory(f"{PATH}/{TABLES}/n2")
    assert not disk.list_directory(f"{PATH}/{TABLES}/n9")


class Cut(Exception):
    pass


class UpTo:
    """A disk on which the process ends before its n-th change of a name."""

    def __init__(self, disk, changes):
        self._disk = disk
        self._left = changes

    def __getattr__(self, name):
        def called(*arguments):
            if name in ("unlink", "remove_tree", "rename", "sync_directory"):
                if not self._left:
                    raise Cut
                self._left -= 1
            return getattr(self._disk, name)(*arguments)

        return called


@pytest.mark.parametrize("mode", ["drop", "random", "keep"])
def test_a_cut_anywhere_costs_no_snapshot_that_still_counts(backed_up, disk, mode):
    files = {name: disk.read_file(name, 1 << 30) for name in disk.files()}
    directories = {name.rpartition("/")[0] for name in files} | {
        f"{PATH}/snapshots",
        f"{PATH}/{TABLES}",
        PATH,
        "/backups",
    }
    cuts = 0
    while True:
        fresh = type(disk).holding(files, directories)
        try:
            pruned(UpTo(fresh, cuts), NAMES[3], 2)
        except Cut:
            after = fresh.crash(random.Random(cuts), mode)
            check(after, backed_up, left(after))
            assert {*NAMES[2:4]} <= {*left(after)}
            pruned(after, NAMES[3], 2)
            assert left(after) == NAMES[2:4] == after.list_directory(f"{PATH}/snapshots")
            check(after, backed_up, NAMES[2:4])
            cuts += 1
            continue
        break
    assert cuts > 8


class Meanwhile:
    """A disk on which something else happens just before the n-th operation."""

    def __init__(self, disk, operations, happens):
        self._disk = disk
        self._left = operations
        self._happens = happens

    def __getattr__(self, name):
        def called(*arguments):
            if not self._left:
                self._happens()
            self._left -= 1
            return getattr(self._disk, name)(*arguments)

        return called

    @property
    def happened(self):
        return self._left < 0


def copied_for(disk, node_id):
    """Make the same parts and tables for another node. Only their names matter to it."""
    for name in disk.list_directory(f"{PATH}/snapshots"):
        disk.create(f"{snapshot_directory(PATH, name)}/{node_id}.part").close()
    disk.make_directories(f"{PATH}/{TABLES}/{node_id}")


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("members", [("n1", "n2"), ("n2", "n3"), ()])
def test_another_node_prunes_at_any_moment(backed_up, disk, keep, members):
    """Both are done, whichever of them was first: nothing is left for want of whom to remove it."""
    stay = NAMES[4 - keep : 4]
    for node_id in {*members} - {"n1"}:
        copied_for(disk, node_id)
    disk.make_directories(f"{PATH}/{TABLES}/gone")
    disk.create(f"{PATH}/{TABLES}/gone/00000001-1-00000000-00000000.sst").close()
    files = {name: disk.read_file(name, 1 << 30) for name in disk.files()}
    directories = {f"{PATH}/{TABLES}/{each}" for each in disk.list_directory(f"{PATH}/{TABLES}")}
    directories |= {snapshot_directory(PATH, name) for name in NAMES[:4]}
    directories |= {f"{PATH}/snapshots", f"{PATH}/{TABLES}", PATH, "/backups"}
    moments = 0
    while True:
        fresh = type(disk).holding(files, directories)
        reports = []

        def all_others(fresh=fresh, reports=reports):
            for node_id in members or ("n4",):
                if node_id != "n1":
                    reports.append(prune(fresh, PATH, MANIFEST, NAMES[3], keep, node_id, members))

        at = Meanwhile(fresh, moments, all_others)
        reports.append(prune(at, PATH, MANIFEST, NAMES[3], keep, "n1", members))
        if not at.happened:
            break
        assert fresh.list_directory(f"{PATH}/snapshots") == stay == left(fresh)
        assert max(report.snapshots for report in reports) == 4 - keep
        assert not any("No such file" in report.trouble for report in reports)
        assert not fresh.list_directory(f"{PATH}/{TABLES}/gone")
        check(fresh, backed_up, stay)
        moments += 1
    assert moments > 20


def test_a_part_of_a_node_that_is_down_is_removed_when_it_is_back(backed_up, disk):
    copied_for(disk, "n2")
    pruned(disk, NAMES[3], 1, members=("n1", "n2"))
    assert disk.list_directory(snapshot_directory(PATH, NAMES[0])) == [MANIFEST + RETIRED_SUFFIX, "n2.part"]
    assert is_retired(disk, PATH, NAMES[0], MANIFEST)
    assert left(disk) == [NAMES[3]]
    prune(disk, PATH, MANIFEST, NAMES[3], 1, "n2", ("n1", "n2"))
    assert disk.list_directory(f"{PATH}/snapshots") == [NAMES[3]]
    check(disk, backed_up, [NAMES[3]])
