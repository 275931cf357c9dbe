"""What a host says of itself, where it can be seen without a cluster."""

from __future__ import annotations

import os

import pytest

from raykv.actors import examination


def test_a_host_tells_its_disk_and_what_nodes_have_left(tmp_path):
    for name in ("n1", "n2.left-1", "n3.left-2"):
        (tmp_path / "nodes" / name).mkdir(parents=True)
    said = examination.examine_here(str(tmp_path))
    assert [os.path.basename(each) for each in said.aside] == ["n2.left-1", "n3.left-2"]
    assert 0 <= said.files_free_share <= 1
    assert 0 < said.free_bytes <= said.disk_bytes
    missing = examination.examine_here(str(tmp_path / "not" / "there"))
    assert (missing.aside, missing.disk_bytes) == ([], said.disk_bytes), "the disk on which it would be"


def test_the_file_system_of_a_path_is_that_of_the_longest_mount_above_it():
    if not os.path.exists("/proc/mounts"):
        pytest.skip("this system has no /proc/mounts")
    with open("/proc/mounts", encoding="utf-8") as mounts:
        kinds = {line.split()[1]: line.split()[2] for line in mounts}
    assert examination._file_system_of("/proc/self/status") == kinds["/proc"]
    assert examination._file_system_of("/") == kinds["/"]
    assert examination._file_system_of("/procession") == kinds["/"], "a longer name is another directory"
