import errno
import random

import msgspec
import pytest

from raykv.errors import CorruptData
from raykv.storage import DirectoryForeign, DirectoryInUse, NodeDirectory, read_identity
from raykv.storage.damage import DiskFull
from raykv.storage.directory import MAX_REGISTER_BYTES


def open_(disk, seed=1, **changes):
    options = {"store_id": "s", "node_id": "n1", "random": random.Random(seed), "complete_if_new": True, **changes}
    return NodeDirectory.open(disk, "/store/n1", **options)


def test_a_new_directory(disk):
    assert read_identity(disk, "/store/n1") is None
    directory = open_(disk, complete_if_new=False)
    identity = directory.identity
    assert (identity.store_id, identity.node_id, identity.incarnation) == ("s", "n1", 1)
    assert (identity.clean, identity.complete) == (False, False)
    assert len(identity.directory_id) == 32
    assert directory.previous is None
    assert read_identity(disk, "/store/n1") == identity
    assert msgspec.to_builtins(identity)["node_id"] == "n1"


def test_every_opening_is_a_new_incarnation_even_after_a_crash(disk):
    directory_id = None
    for expected in range(1, 6):
        directory = open_(disk, seed=expected)
        assert directory.identity.incarnation == expected
        assert directory_id in (None, directory.identity.directory_id), "the directory id stays"
        directory_id = directory.identity.directory_id
        disk = disk.crash(random.Random(expected), "drop")


def test_clean_is_what_the_last_run_said_and_is_cleared_durably(disk):
    first = open_(disk)
    first.mark_clean()
    first.close()
    second = open_(disk)
    assert second.previous.clean
    assert not second.identity.clean
    third = open_(disk.crash(random.Random(1), "drop"))
    assert not third.previous.clean


def test_complete_is_remembered(disk):
    directory = open_(disk)
    directory.set_complete(False)
    assert not open_(disk.crash(random.Random(1), "drop")).identity.complete
    writes = len(disk.trace)
    directory.set_complete(False)
    assert len(disk.trace) == writes
    directory.set_complete(True)
    assert open_(disk.crash(random.Random(1), "drop"), complete_if_new=False).identity.complete


def test_one_process_a_directory(disk):
    directory = open_(disk, note=b'{"pid": 7}')
    before = read_identity(disk, "/store/n1")
    with pytest.raises(DirectoryInUse) as caught:
        open_(disk)
    assert caught.value.note == b'{"pid": 7}'
    assert read_identity(disk, "/store/n1") == before, "a refused opening changes nothing"
    directory.close()
    directory.close()
    assert open_(disk).identity.incarnation == 2


def test_a_foreign_directory_is_refused_and_left_alone(disk):
    directory = open_(disk)
    directory.close()
    before = read_identity(disk, "/store/n1")
    for change in ({"store_id": "t"}, {"node_id": "n2"}, {"directory_id": "other"}):
        with pytest.raises(DirectoryForeign):
            open_(disk, **change)
    assert read_identity(disk, "/store/n1") == before
    assert open_(disk, directory_id=before.directory_id).identity.incarnation == 2, "and its lock is free"


def test_a_new_directory_is_not_an_expected_life(disk):
    with pytest.raises(DirectoryForeign, match="is new"):
        open_(disk, directory_id="expected")
    assert read_identity(disk, "/store/n1") is None


def test_data_without_identity_is_refused(disk):
    directory = open_(disk)
    directory.save_register(b"x")
    directory.close()
    disk.unlink("/store/n1/identity")
    with pytest.raises(CorruptData, match="no identity"):
        open_(disk)


def test_a_corrupt_identity_is_refused(disk):
    open_(disk).close()
    disk.flip_bit("/store/n1/identity", 30)
    with pytest.raises(CorruptData):
        open_(disk)
    with pytest.raises(CorruptData):
        read_identity(disk, "/store/n1")


def test_register(disk):
    directory = open_(disk)
    assert directory.load_register() is None
    directory.save_register(b"one")
    directory.save_register(b"two")
    directory = open_(disk.crash(random.Random(1), "drop"))
    assert directory.load_register() == b"two"
    with pytest.raises(ValueError, match="at most"):
        directory.save_register(bytes(MAX_REGISTER_BYTES + 1))
    assert directory.load_register() == b"two"


def test_the_life_comes_from_the_given_randomness(disk):
    assert open_(disk, seed=4).identity.directory_id == f"{random.Random(4).getrandbits(128):032x}"


class Stop(Exception):
    pass


def test_a_crash_anywhere_in_opening(disk):
    """Incarnations never repeat, whatever becomes of an opening that was cut short."""
    for seed in range(60):
        rng = random.Random(seed)
        open_(disk).close()
        first = read_identity(disk, "/store/n1").incarnation
        left = [rng.randrange(6)]

        def stop(_operation, _path, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stop

        disk.on_operation = stop
        try:
            seen = open_(disk).identity.incarnation
        except Stop:
            seen = first
        disk = disk.crash(rng)
        assert open_(disk).identity.incarnation > seen
        disk = disk.crash(rng, "drop")


def test_a_register_that_is_corrupted_while_the_node_runs_does_not_keep_it_from_stopping(disk):
    directory = open_(disk)
    directory.save_register(b"state")
    disk.flip_bit("/store/n1/register", 30)
    directory.mark_clean()
    directory.close()
    assert "checksum" in open_(disk).doubt_about_register()


def test_of_data_that_was_set_aside_the_latest_is_kept_and_nothing_else_is_touched(disk):
    """Whoever copies a node's data lays it beside it, under a name that begins like it."""
    theirs = ["data.before-upgrade", "data.2026-12-01", "data_export", "database", "data-1x", "data-", "Data-3"]
    directory = open_(disk)
    for present in ("data", "data-9"):
        directory._save(msgspec.structs.replace(directory.identity, data=present))
        for name in ["data", "data-2", "data-9", "data-10", *theirs]:
            disk.remove_tree(f"/store/n1/{name}")
            disk.make_directories(f"/store/n1/{name}")
            disk.create(f"/store/n1/{name}/file").close()
        directory.remove_old_data()
        left = {name for name in disk.list_directory("/store/n1") if name.lower().startswith("data")}
        assert left == {present, "data-10", *theirs}


def test_without_room_for_it_a_directory_is_incomplete_all_the_same_and_says_so_first(disk):
    """P1: else a node that finds its log cut off would answer "absent" while another fills the disk."""
    directory = open_(disk)
    directory.save_register(b"state")
    former = directory.identity
    disk.fail("create", "identity", error=errno.ENOSPC, lasting=True)
    for refused in (directory.mark_incomplete, directory.mark_incomplete, directory.mark_first):
        with pytest.raises(DiskFull):
            refused()
        assert (directory.identity.complete, directory.identity.votes) == (False, False)
    with pytest.raises(DiskFull):
        directory.set_complete(True)
    assert not directory.identity.complete
    disk.stop_failing()
    directory.set_complete(True)
    found = open_(disk.crash(random.Random(1), "drop"), complete_if_new=False).identity
    assert found.complete
    assert not found.votes
    assert found.directory_id != former.directory_id, "what it promised is void"
