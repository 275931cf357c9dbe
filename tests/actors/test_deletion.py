"""Deleting a store's data deletes nothing else."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from raykv.actors import deletion
from raykv.actors.deletion import delete
from raykv.actors.marker import claim_path, read_marker
from raykv.actors.naming import node_directory
from raykv.actors.path_lock import PathLock
from raykv.config import StoreConfig
from raykv.errors import CorruptData, InvalidOption, StoreNotFound, StoreUnavailable
from raykv.storage import NodeDirectory
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from pathlib import Path

FS = OsFileSystem()


def node_there(directory: str, store_id: str, node_id: str) -> None:
    NodeDirectory.open(
        FS, directory, store_id=store_id, node_id=node_id, random=random.Random(1), complete_if_new=True
    ).close()
    FS.make_directories(f"{directory}/data")
    FS.create(f"{directory}/data/000001.wal").close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A store of two nodes, one of them set aside."""
    made = str(tmp_path / "store")
    store_id, _ = claim_path(FS, made, StoreConfig(name="shop", copies=1), {})
    for node_id in ("n1", "n2"):
        node_there(node_directory(made, node_id), store_id, node_id)
    os.rename(node_directory(made, "n2"), node_directory(made, "n2.left-0"))
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    made = tmp_path / "victim"
    made.mkdir()
    (made / "f").write_text("precious")
    return made


def test_all_of_a_store_goes(path: str) -> None:
    FS.make_directories(node_directory(path, "n3"))
    FS.lock(f"{node_directory(path, 'n3')}/lock").release()
    FS.create(f"{path}/store.json.4711").close()
    with open(f"{node_directory(path, 'n1')}/identity", "wb") as file:
        file.write(b"corruption")
    assert delete("shop", path) == path
    assert not os.path.lexists(path)
    with pytest.raises(StoreNotFound, match="no data"):
        delete("shop", path)


def test_what_is_not_the_stores_stays(path: str, victim: Path) -> None:
    """A user who founds a store in their home directory still has that directory after a deletion."""
    with open(f"{path}/thesis.txt", "w") as file:
        file.write("precious")
    os.mkdir(f"{path}/store.json.d")
    os.mkdir(f"{path}/nodes/photos")
    with open(f"{path}/nodes/photos/1.jpg", "w") as file:
        file.write("precious")
    node_there(node_directory(path, "n7"), "another store's", "n7")
    os.symlink(victim, f"{path}/nodes/link")
    os.symlink(victim, f"{node_directory(path, 'n1')}/data/link")
    delete("shop", path)
    assert sorted(os.listdir(path)) == ["nodes", "store.json.d", "thesis.txt"]
    assert sorted(os.listdir(f"{path}/nodes")) == ["link", "n7", "photos"]
    assert os.path.exists(f"{path}/nodes/n7/data/000001.wal")
    assert (victim / "f").read_text() == "precious"


def test_a_marker_of_another_store_or_none_protects(path: str) -> None:
    with pytest.raises(StoreNotFound, match="holds store 'shop', not 'other'"):
        delete("other", path)
    before = sorted(os.walk(path))
    for crafted in (b"", b"{", b"[" * 4000, b'{"x":' * 700, b"\xff", b"x" * 5000):
        with open(f"{path}/store.json", "wb") as file:
            file.write(crafted)
        with pytest.raises((CorruptData, InvalidOption)):
            delete("shop", path)
    assert sorted(os.walk(path)) == before
    os.unlink(f"{path}/store.json")
    for kind in (lambda: os.mkfifo(f"{path}/store.json"), lambda: os.symlink("/dev/zero", f"{path}/store.json")):
        kind()
        with pytest.raises(InvalidOption, match="cannot be read"):
            delete("shop", path)
        os.unlink(f"{path}/store.json")
    assert os.path.exists(f"{node_directory(path, 'n1')}/data/000001.wal")


def test_a_store_that_runs_somewhere_is_not_deleted(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another Ray cluster, perhaps: no actor of it is seen here."""
    monkeypatch.setattr(deletion, "LOCK_WAIT_S", 0.1)
    held = FS.lock(f"{node_directory(path, 'n2.left-0')}/lock")
    with pytest.raises(StoreUnavailable, match=r"still holds .*nothing was deleted"):
        delete("shop", path)
    assert os.path.exists(f"{node_directory(path, 'n1')}/data/000001.wal")
    held.release()
    delete("shop", path)


def test_what_is_mounted_inside_of_it_stops_it(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = f"{node_directory(path, 'n1')}/data/backup"
    os.mkdir(inside)
    monkeypatch.setattr(os.path, "ismount", lambda found: found == inside)
    with pytest.raises(InvalidOption, match="is mounted inside"):
        delete("shop", path)
    monkeypatch.setattr(os.path, "ismount", lambda _: False)
    monkeypatch.setattr(deletion, "_mounts", lambda: ["/", os.path.realpath(inside)])
    with pytest.raises(InvalidOption, match="is mounted inside"):
        delete("shop", path)
    assert os.path.exists(f"{node_directory(path, 'n1')}/data/000001.wal")
    assert read_marker(FS, path).store.name == "shop"


def test_a_disk_of_a_nodes_own_is_emptied_and_stays(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda found: found == node_directory(path, "n1"))
    delete("shop", path)
    assert os.listdir(f"{path}/nodes") == ["n1"]
    assert os.listdir(node_directory(path, "n1")) == []


def test_a_link_at_the_path_goes_with_what_it_led_to(path: str, victim: Path) -> None:
    os.symlink(path, f"{path}-link")
    delete("shop", f"{path}-link")
    assert not os.path.lexists(path)
    assert not os.path.lexists(f"{path}-link")


def test_links_of_nodes_are_unlinked_only(path: str, tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    os.rename(node_directory(path, "n1"), elsewhere)
    os.symlink(elsewhere, node_directory(path, "n1"))
    delete("shop", path)
    assert not os.path.lexists(path)
    assert os.path.exists(f"{elsewhere}/data/000001.wal")


def test_a_link_in_place_of_the_folder_of_nodes_stops_it(path: str, tmp_path: Path) -> None:
    os.rename(f"{path}/nodes", tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", f"{path}/nodes")
    with pytest.raises(InvalidOption, match="symbolic link"):
        delete("shop", path)
    assert os.path.exists(tmp_path / "elsewhere" / "n1" / "data" / "000001.wal")
    assert os.path.exists(f"{path}/store.json")


def test_a_path_that_others_may_write_to_is_not_believed(path: str) -> None:
    os.chmod(path, 0o777)
    with pytest.raises(InvalidOption, match="open to all"):
        delete("shop", path)
    assert os.path.exists(f"{node_directory(path, 'n1')}/data/000001.wal")


def test_what_is_being_restored_is_not_deleted(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "LOCK_WAIT_S", 0.1)
    lock = PathLock(FS, path)
    with pytest.raises(InvalidOption, match="being restored"):
        delete("shop", path)
    assert os.path.exists(f"{node_directory(path, 'n1')}/data/000001.wal")
    delete("shop", path, lock)
    assert not os.path.lexists(path)
    lock.release()


def test_mount_points_are_read_as_they_are_written() -> None:
    assert deletion._unescaped("/a\\040b\\134c\\011\\012") == "/a b\\c\t\n"
    assert "/" in deletion._mounts() or not os.path.exists("/proc/self/mountinfo")
