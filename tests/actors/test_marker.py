"""The file that says whose a path is."""

from __future__ import annotations

import pytest

from raykv.actors.marker import claim_path, note_founded, read_marker
from raykv.config import StoreConfig
from raykv.errors import InvalidOption
from raykv.system.files import OsFileSystem

SMALL = StoreConfig(name="s", copies=3, partitions=8)
LARGE = StoreConfig(name="s", copies=3, partitions=64)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s")


def test_a_path_keeps_its_store(path):
    fs = OsFileSystem()
    store_id, store = claim_path(fs, path, SMALL, {})
    assert store == SMALL
    assert claim_path(fs, path, SMALL, {}) == (store_id, SMALL)
    with pytest.raises(InvalidOption, match="in use by store 's'"):
        claim_path(fs, path, StoreConfig(name="t", copies=3), {})


def test_a_first_start_that_came_to_nothing_binds_nobody(path):
    fs = OsFileSystem()
    store_id, _ = claim_path(fs, path, SMALL, {})
    assert claim_path(fs, path, LARGE, {}) == (store_id, LARGE)


def test_a_founded_store_keeps_its_settings_though_its_directories_are_gone(path):
    fs = OsFileSystem()
    store_id, _ = claim_path(fs, path, SMALL, {})
    note_founded(fs, path)
    note_founded(fs, path)
    assert read_marker(fs, path).founded
    assert claim_path(fs, path, LARGE, {}) == (store_id, SMALL)
    with pytest.raises(InvalidOption, match="partitions is 8, asked 64"):
        claim_path(fs, path, LARGE, {"partitions": 64})
