import errno
import random

import pytest

from raykv.sim.disk import SimDisk


@pytest.fixture
def disk():
    disk = SimDisk()
    disk.make_directories("/a/b")
    return disk


def write(disk, path, safe=b"", unsafe=b""):
    file = disk.create(path)
    file.append(safe)
    file.sync()
    file.append(unsafe)
    return file


def crash(disk, mode="random", seed=1):
    return disk.crash(random.Random(seed), mode)


def test_reads_what_was_written(disk):
    write(disk, "/a/b/f", b"abc", b"def")
    assert disk.read_file("/a/b/f", 6) == b"abcdef"
    assert disk.open_read("/a/b/f").pread(2, 3) == b"cde"
    assert disk.open_read("/a/b/f").pread(5, 30) == b"f"
    assert disk.list_directory("/a/b") == ["f"]
    assert disk.list_directory("/a") == ["b"]
    with pytest.raises(OSError, match="at most 5"):
        disk.read_file("/a/b/f", 5)
    with pytest.raises(FileExistsError):
        disk.create("/a/b/f")
    for call in (disk.open_read, disk.unlink, disk.list_directory, lambda p: disk.truncate(p, 0)):
        with pytest.raises(FileNotFoundError):
            call("/a/b/none")
    with pytest.raises(FileNotFoundError):
        disk.create("/none/f")


def test_names_are_safe_after_sync_directory_only(disk):
    write(disk, "/a/b/f", b"abc")
    assert not crash(disk, "drop").exists("/a/b/f")
    assert crash(disk, "keep").exists("/a/b/f")
    disk.sync_directory("/a")
    assert not crash(disk, "drop").exists("/a/b/f"), "another directory"
    disk.sync_directory("/a/b")
    assert crash(disk, "drop").read_file("/a/b/f", 9) == b"abc"
    disk.unlink("/a/b/f")
    assert crash(disk, "drop").exists("/a/b/f")
    assert not crash(disk, "keep").exists("/a/b/f")
    assert {crash(disk, seed=seed).exists("/a/b/f") for seed in range(20)} == {True, False}


def test_bytes_are_safe_after_sync_only(disk):
    write(disk, "/a/b/f", b"safe", b"not safe at all")
    disk.sync_directory("/a/b")
    assert crash(disk, "drop").read_file("/a/b/f", 99) == b"safe"
    assert crash(disk, "keep").read_file("/a/b/f", 99) == b"safenot safe at all"
    seen = {crash(disk, seed=seed).read_file("/a/b/f", 99) for seed in range(200)}
    assert all(data.startswith(b"safe") for data in seen)
    assert {b"safe", b"safenot safe at all"} < seen
    assert any(len(data) == 19 and data != b"safenot safe at all" for data in seen), "torn, with other bytes in it"
    assert any(4 < len(data) < 19 for data in seen), "cut"


def test_a_rename_happens_or_not(disk):
    write(disk, "/a/b/f", b"old")
    disk.sync_directory("/a/b")
    write(disk, "/a/b/f.tmp", b"new")
    disk.rename("/a/b/f.tmp", "/a/b/f")
    assert disk.list_directory("/a/b") == ["f"]
    assert {crash(disk, seed=seed).read_file("/a/b/f", 9) for seed in range(30)} == {b"old", b"new"}
    assert crash(disk, "drop").read_file("/a/b/f", 9) == b"old"
    disk.sync_directory("/a/b")
    assert {crash(disk, seed=seed).read_file("/a/b/f", 9) for seed in range(30)} == {b"new"}


def test_after_the_death_of_the_process_alone_the_kernel_still_owes_the_rest(disk):
    write(disk, "/a/b/f", b"abc")
    disk.sync_directory("/a/b")
    write(disk, "/a/b/g", b"abc", b"def")
    file = disk.open_read("/a/b/f")
    del file
    kept = crash(disk, "keep")
    assert kept.read_file("/a/b/g", 9) == b"abcdef"
    assert kept.synced_size("/a/b/g") == 3
    assert not crash(kept, "drop").exists("/a/b/g")
    kept.sync_directory("/a/b")
    assert crash(kept, "drop").read_file("/a/b/g", 9) == b"abc"
    kept.truncate("/a/b/g", 6)
    assert crash(kept, "drop").read_file("/a/b/g", 9) == b"abcdef", "truncate syncs"


def test_a_crash_leaves_the_old_disk_to_its_ghosts(disk):
    file = write(disk, "/a/b/f", b"abc")
    disk.sync_directory("/a/b")
    after = crash(disk)
    file.append(b"ghost")
    file.sync()
    disk.flip_bit("/a/b/f", 0)
    assert after.read_file("/a/b/f", 9) == b"abc"


def test_same_seed_same_disk(disk):
    for number in range(10):
        write(disk, f"/a/b/{number}", b"x", b"y" * 100)
    disks = [crash(disk, seed=7) for _ in range(2)]
    names = disks[0].list_directory("/a/b")
    assert names == disks[1].list_directory("/a/b")
    assert len({tuple(one.read_file(f"/a/b/{name}", 999) for name in names) for one in disks}) == 1


def test_a_full_disk_shows_as_a_short_write(disk):
    file = write(disk, "/a/b/f", b"abc")
    disk.space_bytes = 5
    file.append(b"12")
    with pytest.raises(OSError, match="No space") as caught:
        file.append(b"3456")
    assert caught.value.errno == errno.ENOSPC
    assert disk.read_file("/a/b/f", 99) == b"abc12345"


def test_faults(disk):
    file = write(disk, "/a/b/f", b"abc")
    disk.fail("sync", "/f", after=1)
    file.append(b"1")
    file.sync()
    file.append(b"2")
    with pytest.raises(OSError, match="injected"):
        file.sync()
    assert disk.synced_size("/a/b/f") == 4
    disk.sync_directory("/a/b")
    assert crash(disk, "drop").read_file("/a/b/f", 9) == b"abc1"
    disk.fail("pread", "/f", error=errno.EIO)
    with pytest.raises(OSError, match="injected"):
        disk.read_file("/a/b/f", 9)
    disk.flip_bit("/a/b/f", 0, 1)
    assert disk.read_file("/a/b/f", 9) == b"cbc12"


def test_a_test_can_crash_before_any_operation(disk):
    class Stop(Exception):
        pass

    def stop(operation, path):
        assert (operation, path) == ("create", "/a/b/f")
        raise Stop

    disk.on_operation = stop
    with pytest.raises(Stop):
        disk.create("/a/b/f")
    assert not disk.exists("/a/b/f")


def test_locks_end_with_the_process(disk):
    lock = disk.lock("/a/b/lock", b"note")
    assert disk.read_file("/a/b/lock", 9) == b"note"
    with pytest.raises(BlockingIOError):
        disk.lock("/a/b/lock")
    crash(disk).lock("/a/b/lock")
    lock.release()
    again = disk.lock("/a/b/lock")
    lock.release()
    with pytest.raises(BlockingIOError):
        disk.lock("/a/b/lock")
    again.release()


def test_open_files_outlive_their_names(disk):
    write(disk, "/a/b/f", b"abc")
    reader = disk.open_read("/a/b/f")
    disk.unlink("/a/b/f")
    assert reader.pread(0, 3) == b"abc"
    reader.close()
    with pytest.raises(OSError, match="descriptor"):
        reader.pread(0, 3)


def test_remove_tree(disk):
    write(disk, "/a/b/f", b"abc")
    disk.make_directories("/a/b2")
    disk.remove_tree("/a/b")
    disk.remove_tree("/a/none")
    assert not disk.exists("/a/b")
    assert disk.list_directory("/a") == ["b2"]
    assert not crash(disk, "keep").exists("/a/b/f")


def test_a_second_name_is_of_the_same_file_and_takes_no_space():
    disk = SimDisk()
    disk.make_directories("/d/e")
    file = disk.create("/d/a")
    file.append(b"xyz")
    file.sync()
    disk.sync_directory("/d")
    disk.space_bytes = 0
    disk.link("/d/a", "/d/e/b")
    assert disk.read_file("/d/e/b", 9) == b"xyz"
    disk.unlink("/d/a")
    assert disk.space_bytes == 0, "another name keeps it"
    assert disk.crash(random.Random(1), "drop").files() == ["/d/a"], "neither change was synced"
    disk.sync_directory("/d/e")
    assert disk.crash(random.Random(1), "drop").files() == ["/d/a", "/d/e/b"]
    disk.unlink("/d/e/b")
    assert disk.space_bytes == 3
    with pytest.raises(FileNotFoundError):
        disk.link("/d/a", "/d/c")
    disk.create("/d/f")
    with pytest.raises(FileExistsError):
        disk.link("/d/f", "/d/e")
    assert disk.is_directory("/d/e")
    assert not disk.is_directory("/d/f")
