"""Tiny disks, whose legal disks were worked out by hand."""

import random
from collections import Counter

import pytest

from raykv.sim.disk import SimDisk
from simulation.legal_disks import PROCESS_DEATH, LegalDisks


@pytest.fixture
def disk():
    disk = SimDisk()
    disk.make_directories("/d")
    return disk


def write(disk, path, safe=b"", unsafe=b""):
    file = disk.create(path)
    file.append(safe)
    file.sync()
    file.append(unsafe)
    return file


def contents(disk):
    return {path: disk.read_file(path, 1 << 20) for path in disk.files()}


def power_cuts(legal):
    """All disks after power cuts, as sets can hold them."""
    found = [contents(legal.disk(choice)) for choice in legal.all() if choice != PROCESS_DEATH]
    return Counter(tuple(sorted(files.items())) for files in found)


def test_a_disk_that_is_safe_has_one_legal_disk_beside_itself(disk):
    write(disk, "/d/f", b"abc")
    disk.sync_directory("/d")
    legal = LegalDisks(disk)
    assert list(legal.all()) == [PROCESS_DEATH, legal.nothing] == [0, legal.everything]
    assert contents(legal.disk(1)) == {"/d/f": b"abc"}


def test_an_unsynced_end_of_two_bytes(disk):
    write(disk, "/d/f", b"S", b"ab")
    disk.sync_directory("/d")
    legal = LegalDisks(disk, "seed")
    noise = [files["/d/f"] for files in map(contents, map(legal.disk, range(6, 8)))]
    assert noise[0][:1] == b"S"
    assert noise[1] == b"Sa" + noise[0][2:], "one noise a file, behind different prefixes"
    assert power_cuts(legal) == Counter(
        (("/d/f", data),)
        for data in [b"S", b"Sa", b"Sab", b"S\0\0", b"Sa\0", *noise, b"S\0b"]
    )  # fmt: skip
    assert legal.count == 1 + 8
    assert contents(legal.disk(legal.nothing)) == {"/d/f": b"S"}
    assert contents(legal.disk(legal.everything)) == {"/d/f": b"Sab"}


def test_a_hole_is_of_one_of_four_sizes_and_ends_before_the_end(disk):
    tail = bytes(range(1, 21))
    write(disk, "/d/f", b"", tail)
    disk.sync_directory("/d")
    found = [dict(files)["/d/f"] for files in power_cuts(LegalDisks(disk))]
    holes = {data for data in found if len(data) == 20 and data[-1:] == tail[-1:] and data != tail and b"\0" in data}
    wanted = {tail[:cut] + bytes(size) + tail[cut + size :] for size in (1, 16) for cut in range(20 - size)}
    assert wanted <= holes
    assert len(found) == 21 + 20 + 20 + 19 + 4


def test_names_are_any_subset_of_the_changes_in_order(disk):
    write(disk, "/d/f", b"old")
    disk.sync_directory("/d")
    write(disk, "/d/f.tmp", b"new")
    disk.rename("/d/f.tmp", "/d/f")
    disk.unlink("/d/f")
    old, new = ("/d/f", b"old"), ("/d/f", b"new")
    aside = ("/d/f.tmp", b"new")
    # kept:     none    create         rename  both    unlink  create, unlink  (rename, unlink: as unlink)
    assert set(power_cuts(LegalDisks(disk))) == {(old,), (old, aside), (new,), (), (aside,)}
    assert LegalDisks(disk).count == 1 + 2**3
    assert len(list(LegalDisks(disk).all())) == 1 + 5, "no disk twice"


def test_the_bytes_of_a_name_that_is_lost_make_no_difference(disk):
    write(disk, "/d/f", b"", b"x")
    legal = LegalDisks(disk)
    (noise,) = {dict(files)["/d/f"] for files in power_cuts(legal) if files} - {b"", b"x", b"\0"}
    assert power_cuts(legal) == Counter([(), *((("/d/f", data),) for data in (b"", b"x", b"\0", noise))])
    assert contents(legal.disk(legal.everything)) == {"/d/f": b"x"}
    assert contents(legal.disk(legal.nothing)) == {}


def test_two_files_are_torn_each_on_its_own(disk):
    write(disk, "/d/f", b"1", b"x")
    write(disk, "/d/g", b"2", b"y")
    disk.sync_directory("/d")
    legal = LegalDisks(disk)
    assert legal.count == 1 + 4 * 4
    found = power_cuts(legal)
    assert {(len(dict(files)["/d/f"]), len(dict(files)["/d/g"])) for files in found} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert sum(found.values()) == 16
    assert {"/d/f", "/d/g"} == {path for path in ("/d/f", "/d/g") if path in legal.words(legal.everything)}


def test_after_the_death_of_the_process_the_kernel_still_owes_the_rest(disk):
    write(disk, "/d/f", b"S", b"ab")
    after = LegalDisks(disk).disk(PROCESS_DEATH)
    assert contents(after) == {"/d/f": b"Sab"}
    assert power_cuts(LegalDisks(after)) == power_cuts(LegalDisks(disk))


def test_after_a_power_cut_all_is_safe_and_the_old_disk_is_left_alone(disk):
    file = write(disk, "/d/f", b"S", b"ab")
    after = LegalDisks(disk).disk(LegalDisks(disk).everything)
    file.append(b"cd")
    assert list(LegalDisks(after).all()) == [0, 1]
    assert contents(after) == {"/d/f": b"Sab"}
    assert after.list_directory("/d") == ["f"], "directories are safe once made"


def test_few_are_all_taken_and_of_many_the_extremes_and_some_drawn(disk):
    write(disk, "/d/f", b"S", b"ab")
    legal = LegalDisks(disk)
    assert legal.some(random.Random(1), in_full=legal.count, at_most=3) == list(legal.all())
    write(disk, "/d/g", b"", bytes(5000))
    legal = LegalDisks(disk)
    drawn = legal.some(random.Random(1), in_full=40, at_most=30)
    assert drawn[:3] == [PROCESS_DEATH, legal.nothing, legal.everything]
    assert 15 < len(drawn) == len(set(drawn)) <= 33
    assert drawn == legal.some(random.Random(1), in_full=40, at_most=30)
    assert all(0 <= choice < legal.count for choice in drawn)


def test_every_kind_of_fate_is_drawn(disk):
    write(disk, "/d/f", b"", bytes([7]) * 600)
    disk.sync_directory("/d")
    legal = LegalDisks(disk)
    rng = random.Random(3)
    words = " ".join(legal.words(legal.draw(rng)) for _ in range(300))
    wanted = ["died alone", "0 of the 600", "600 of the 600", "then zeros", "then noise"]
    wanted += ["but 1 zeros", "but 16 zeros", "but 512 zeros"]
    assert [part for part in wanted if part not in words] == []


def test_the_same_seed_gives_the_same_noise(disk):
    write(disk, "/d/f", b"", b"abcdefgh")
    disk.sync_directory("/d")
    of = [[LegalDisks(disk, seed).fingerprint(choice) for choice in range(1, 30)] for seed in (1, 1, 2)]
    assert of[0] == of[1] != of[2]


def test_a_choice_that_there_is_not(disk):
    with pytest.raises(ValueError, match="choices 1 to 1; not 2"):
        LegalDisks(disk).disk(2)
