"""One process at a time restores or deletes what lies at a path."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from raykv.actors.path_lock import PATH_LOCK, PathLock
from raykv.errors import InvalidOption
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from pathlib import Path

FS = OsFileSystem()


def test_a_second_call_is_told_who_holds_it_and_nothing_is_left(tmp_path: Path) -> None:
    lock = PathLock(FS, str(tmp_path))
    with pytest.raises(InvalidOption, match=f"being restored, adopted or deleted by process {os.getpid()} "):
        PathLock(FS, str(tmp_path))
    lock.release()
    lock.release()
    assert os.listdir(tmp_path) == []
    PathLock(FS, str(tmp_path)).release()


def test_a_holder_removes_no_file_of_a_later_one(tmp_path: Path) -> None:
    lock = PathLock(FS, str(tmp_path))
    lock.remove()
    later = PathLock(FS, str(tmp_path))
    lock.release()
    assert os.listdir(tmp_path) == [PATH_LOCK]
    later.release()


def test_a_process_that_was_killed_holds_it_no_longer(tmp_path: Path) -> None:
    script = """
        import os, sys
        from raykv.actors.path_lock import PathLock
        from raykv.system.files import OsFileSystem
        lock = PathLock(OsFileSystem(), sys.argv[1])
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", "if True:" + script, str(tmp_path)], check=False, timeout=120)
    assert os.listdir(tmp_path) == [PATH_LOCK]
    PathLock(FS, str(tmp_path)).release()
    assert os.listdir(tmp_path) == []


def test_a_lock_that_cannot_be_made_is_the_disks_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PathLock(FS, str(tmp_path / "not there"))
