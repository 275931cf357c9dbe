"""Which directories are relied on: this user's, and not open to all."""

from __future__ import annotations

import os
import random
import stat
from typing import TYPE_CHECKING

import pytest

from raykv.actors import ownership
from raykv.actors.hosts import look_here
from raykv.actors.marker import claim_path, read_marker
from raykv.actors.naming import node_directory
from raykv.actors.ownership import check_directory, check_node_directory
from raykv.config import StoreConfig
from raykv.errors import InvalidOption
from raykv.storage import NodeDirectory
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from pathlib import Path

STORE = StoreConfig(name="t", copies=1)


@pytest.fixture
def path(tmp_path: Path) -> str:
    made = tmp_path / "store"
    made.mkdir(mode=0o700)
    return str(made)


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Paths that belong to user 4711, as far as ``stat`` tells."""
    paths: set[str] = set()

    def telling(real):  # type: ignore[no-untyped-def]
        def tell(path, *more, **options):  # type: ignore[no-untyped-def]
            found = real(path, *more, **options)
            if os.fspath(path) not in paths:
                return found
            values = list(found)
            values[stat.ST_UID] = 4711
            return os.stat_result(values)

        return tell

    monkeypatch.setattr(os, "stat", telling(os.stat))
    monkeypatch.setattr(os, "lstat", telling(os.lstat))
    return paths


def node_there(directory: str, store_id: str = "s", node_id: str = "n1") -> None:
    NodeDirectory.open(
        OsFileSystem(), directory, store_id=store_id, node_id=node_id, random=random.Random(1), complete_if_new=True
    ).close()


@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o700, ""), (0o755, ""), (0o750, ""), (0o775, "the group"), (0o770, "the group"), (0o1777, "anybody")],
)
def test_what_a_group_may_write_to_is_warned_of(path: str, mode: int, said: str) -> None:
    os.chmod(path, mode)
    warning = check_directory(path)
    assert (said in warning) if said else warning == ""
    assert ("chmod" in warning) is bool(said)


@pytest.mark.parametrize("mode", [0o777, 0o707, 0o702])
def test_what_is_open_to_all_is_refused(path: str, mode: int) -> None:
    os.chmod(path, mode)
    with pytest.raises(InvalidOption, match=f"open to all .mode {mode:o}"):
        claim_path(OsFileSystem(), path, STORE, {})
    assert os.listdir(path) == []
    os.chmod(path, 0o700)
    claim_path(OsFileSystem(), path, STORE, {})
    os.mkdir(f"{path}/nodes")
    os.chmod(f"{path}/nodes", mode)
    with pytest.raises(InvalidOption, match="open to all"):
        claim_path(OsFileSystem(), path, STORE, {})
    with pytest.raises(InvalidOption, match="open to all"):
        check_node_directory(OsFileSystem(), path, "s", "n1")
    os.chmod(f"{path}/nodes", 0o700)
    node_there(node_directory(path, "n1"))
    os.chmod(node_directory(path, "n1"), mode)
    with pytest.raises(InvalidOption, match="open to all"):
        check_node_directory(OsFileSystem(), path, "s", "n1")


def test_what_belongs_to_another_is_refused_and_not_believed(path: str, strangers: set[str]) -> None:
    fs = OsFileSystem()
    claim_path(fs, path, STORE, {})
    strangers.add(path)
    # A file that is made there is this user's, so the file system does tell users apart.
    with pytest.raises(InvalidOption, match=r"belongs to user 4711.*chown"):
        claim_path(fs, path, STORE, {})
    with pytest.raises(InvalidOption, match="belongs to user 4711"):
        check_node_directory(fs, path, "s", "n1")
    look = look_here(fs, path)
    assert look.marker is None, "else another user could say whose data this is"
    assert "4711" in look.trouble
    assert os.listdir(path) == ["store.json"], "nothing is left of the look"
    strangers.clear()
    node_there(node_directory(path, "n1"))
    strangers.add(node_directory(path, "n1"))
    with pytest.raises(InvalidOption, match=r"nodes/n1 belongs to user 4711"):
        check_node_directory(fs, path, "s", "n1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_that_was_given_away_really(path: str) -> None:
    os.chown(path, 4711, -1)
    with pytest.raises(InvalidOption, match="belongs to user 4711"):
        check_directory(path)
    os.symlink(path, f"{path}-link")
    os.chown(path, 0, -1)
    os.chown(f"{path}-link", 4711, -1, follow_symlinks=False)
    with pytest.raises(InvalidOption, match="symbolic link that user 4711"):
        check_directory(f"{path}-link")


def test_where_all_files_are_one_users_that_user_counts_as_this_one(
    path: str, strangers: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers.add(path)
    monkeypatch.setattr(ownership, "_owner_of_new_files", lambda _: 4711)
    assert check_directory(path) == ""
    monkeypatch.setattr(ownership, "_owner_of_new_files", lambda _: None)
    with pytest.raises(InvalidOption, match="belongs to user 4711"):
        check_directory(path)


def test_roots_directories_are_relied_on(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_ROOT", os.geteuid())
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert check_directory(path) == ""


def test_a_link_at_the_path_is_its_owners_right(path: str) -> None:
    os.symlink(path, f"{path}-link")
    fs = OsFileSystem()
    store_id, _ = claim_path(fs, f"{path}-link", STORE, {})
    assert read_marker(fs, path).store_id == store_id
    os.chmod(path, 0o777)
    with pytest.raises(InvalidOption, match="open to all"):
        check_directory(f"{path}-link")
    os.symlink("/dev/null", f"{path}-device")
    with pytest.raises(InvalidOption, match="not a directory"):
        check_directory(f"{path}-device")


def test_a_link_to_nobodys_directory_is_not_followed(path: str, tmp_path: Path) -> None:
    """Else the node would make its files there, and lock what another uses."""
    fs, victim = OsFileSystem(), tmp_path / "victim"
    victim.mkdir()
    os.mkdir(f"{path}/nodes")
    os.symlink(victim, node_directory(path, "n1"))
    with pytest.raises(InvalidOption, match="symbolic link, and where it leads"):
        check_node_directory(fs, path, "s", "n1")
    assert list(victim.iterdir()) == []
    node_there(str(victim))
    assert check_node_directory(fs, path, "s", "n1") == [], "its owner has moved it to another disk"
    for store_id, node_id in (("s", "n2"), ("t", "n1")):
        os.symlink(victim, node_directory(path, "n2")) if node_id == "n2" else None
        with pytest.raises(InvalidOption, match="symbolic link"):
            check_node_directory(fs, path, store_id, node_id)


def test_a_link_in_place_of_the_folder_of_nodes(path: str, tmp_path: Path) -> None:
    fs, victim = OsFileSystem(), tmp_path / "victim"
    victim.mkdir()
    os.symlink(victim, f"{path}/nodes")
    with pytest.raises(InvalidOption, match="symbolic link"):
        check_node_directory(fs, path, "s", "n1")
    node_there(f"{victim}/n1")
    assert check_node_directory(fs, path, "s", "n1") == []
