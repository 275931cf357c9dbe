"""What lies on which host."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest

from raykv.actors.hosts import Look, bound, look_here, places, read_note
from raykv.actors.marker import Marker, claim_path, leave_marker, note_founded, read_marker
from raykv.actors.naming import node_directory
from raykv.actors.os_files import OsFileSystem
from raykv.config import StoreConfig
from raykv.errors import InvalidOption
from raykv.storage import NodeDirectory

if TYPE_CHECKING:
    from pathlib import Path

STORE = StoreConfig(name="t", copies=1)


def test_a_directory_counts_once_it_says_whose_it_is(tmp_path: Path) -> None:
    """A first start may die after the directories were made: they hold nothing, and must be founded as new ones."""
    fs, path = OsFileSystem(), str(tmp_path)
    assert look_here(fs, f"{path}/not/there").nodes == {}
    for node_id in ("n1", "n2", "n3"):
        fs.make_directories(node_directory(path, node_id))
    assert look_here(fs, path).nodes == {}
    NodeDirectory.open(
        fs, node_directory(path, "n2"), store_id="s", node_id="n2", random=random.Random(1), complete_if_new=True,
        note=json.dumps({"pid": 7, "host": "h2"}).encode(),
    ).close()  # fmt: skip
    assert look_here(fs, path).nodes == {"n2": "h2"}
    with open(f"{node_directory(path, 'n3')}/identity", "wb") as file:
        file.write(b"garbage")
    found = look_here(fs, path)
    assert found.nodes == {"n2": "h2", "n3": ""}, "a damaged one is somebody's: it is not founded anew"
    assert found.marker is None
    assert found.disk_bytes > 0
    claim_path(fs, path, STORE, {})
    marker = look_here(fs, path).marker
    assert marker is not None
    assert marker.store == STORE


def test_a_directory_is_where_its_node_last_ran_if_that_host_is_there() -> None:
    shared = {"n1": "h1", "n2": "h2", "n3": ""}
    looks = {"h1": Look(nodes=shared), "h2": Look(nodes=shared)}
    assert places(looks, ["h1", "h2"]) == {"n1": "h1", "n2": "h2", "n3": "h1"}
    assert places({"h1": Look(nodes=shared)}, ["h1", "h2"])["n2"] == "h2", "seen from one of the hosts that share it"
    assert places({"h9": Look(nodes={"n2": "h2"})}, ["h9"]) == {"n2": "h9"}, "the machine has another name by now"


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_note_that_cannot_be_read_says_nothing(note: bytes) -> None:
    assert read_note(note).pid == 0
    assert read_note(b'{"pid": 5}').host == ""


def test_a_host_without_a_marker_learns_of_the_store_on_the_others(tmp_path: Path) -> None:
    fs, path = OsFileSystem(), str(tmp_path)
    marker = Marker(store_id="right", store=StoreConfig(name="t", copies=3, partitions=64), founded=True)
    looks = {"h1": Look(), "h2": Look(marker=marker), "h3": Look(marker=Marker(store_id="begun", store=STORE))}
    assert bound(looks, "h1") == {"h2": marker}, "a first start that came to nothing binds nobody"
    assert bound(looks, "h2") == {}
    assert claim_path(fs, path, STORE, {}, bound(looks, "h1")) == ("right", marker.store)
    assert read_marker(fs, path) == marker
    assert claim_path(fs, path, STORE, {}, {}) == ("right", marker.store)
    with pytest.raises(InvalidOption, match="partitions is 64, asked 8"):
        claim_path(fs, str(tmp_path / "other"), STORE, {"partitions": 8}, bound(looks, "h1"))


def test_two_stores_of_a_name_are_not_mixed(tmp_path: Path) -> None:
    fs = OsFileSystem()
    found = {host: Marker(store_id=host, store=STORE, founded=True) for host in ("h2", "h3")}
    with pytest.raises(InvalidOption, match="different stores named 't' on the hosts h2, h3"):
        claim_path(fs, str(tmp_path), STORE, {}, found)
    assert not fs.exists(str(tmp_path / "store.json"))


def test_a_node_leaves_a_marker_where_it_is(tmp_path: Path) -> None:
    fs, path = OsFileSystem(), str(tmp_path)
    marker = Marker(store_id="a", store=STORE)
    leave_marker(fs, path, marker)
    assert read_marker(fs, path) == marker
    leave_marker(fs, path, Marker(store_id="a", store=STORE, founded=True))
    leave_marker(fs, path, marker)
    assert read_marker(fs, path).founded
    note_founded(fs, path)
    with pytest.raises(InvalidOption, match="in use by store 't'"):
        leave_marker(fs, path, Marker(store_id="b", store=STORE))
    with open(tmp_path / "store.json", "wb") as file:
        file.write(b"rot")
    leave_marker(fs, path, marker)
    assert read_marker(fs, path) == marker
