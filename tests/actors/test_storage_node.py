"""A storage actor in front of its directory, without Ray."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from raykv.actors import storage_node
from raykv.actors.naming import node_directory
from raykv.actors.storage_node import StorageNodeActor
from raykv.config import NodeConfig, StoreConfig
from raykv.node.node import NodeSpec
from raykv.ports import Known
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StorageNodeActor:
    """The actor of node n1, at a path that is not there yet."""
    monkeypatch.setattr(storage_node, "this_host", lambda: "h")
    monkeypatch.setattr(storage_node, "LOCK_WAIT_S", 1.0)
    monkeypatch.setattr(storage_node, "KILL_AFTER_S", 0.05)
    made = StorageNodeActor.__new__(StorageNodeActor)
    made._spec = NodeSpec(
        store_id="s", node_id="n1", path=node_directory(str(tmp_path / "store"), "n1"),
        store=StoreConfig(name="t", copies=1), node=NodeConfig(), fresh=True, known=Known(),
    )  # fmt: skip
    made._node = None
    return made


def opened(node: StorageNodeActor, *, take_over: bool = True) -> dict[str, Any]:
    """Open it as ``open`` does, up to where its node would begin to run."""

    async def story() -> dict[str, Any]:
        node._opening = asyncio.Lock()
        answer = await node.open(take_over=take_over, founded=False)
        if node._node is not None:
            await node._node.stop()
            node._node = None
        return answer

    return asyncio.run(story())


def test_a_host_that_the_store_comes_to_has_no_path_yet(node: StorageNodeActor, tmp_path: Path) -> None:
    assert opened(node)["incarnation"] == 1
    assert (tmp_path / "store" / "store.json").exists()
    assert opened(node)["incarnation"] == 2


@pytest.mark.parametrize(
    "note", [b'{"pid":%d,"host":"h"}', b'{"pid":%d}', b'{"pid":-1}', b'{"pid":1,"host":"h"}', b"["]
)
def test_the_holder_of_a_directory_is_not_ended_on_the_word_of_a_file(node: StorageNodeActor, note: bytes) -> None:
    """The number may be another process's by now, or of another container, or anything."""
    directory = node._spec.path
    bystander = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        OsFileSystem().make_directories(directory)
        held = OsFileSystem().lock(f"{directory}/lock", note % bystander.pid if b"%" in note else note)
        answer = opened(node)
        assert answer["failed"] == "in use"
        assert "is not ended" in answer["message"]
        assert "end it by hand" in answer["message"]
        assert bystander.poll() is None
        held.release()
        assert opened(node)["incarnation"] == 1
    finally:
        bystander.communicate(b"\n")


def test_a_path_that_is_not_to_be_relied_on_is_not_written_to(node: StorageNodeActor, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    os.chmod(tmp_path / "store", 0o777)
    answer = opened(node)
    assert answer["failed"] == "foreign"
    assert "open to all" in answer["message"]
    assert os.listdir(tmp_path / "store") == []
    os.chmod(tmp_path / "store", 0o700)
    (tmp_path / "victim").mkdir()
    (tmp_path / "store" / "nodes").mkdir()
    os.symlink(tmp_path / "victim", node._spec.path)
    assert "symbolic link" in opened(node)["message"]
    assert os.listdir(tmp_path / "victim") == []


def test_a_link_in_the_place_of_a_lock_is_not_written_through(node: StorageNodeActor, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    os.makedirs(node._spec.path, mode=0o700)
    os.symlink(tmp_path / "victim", f"{node._spec.path}/lock")
    answer = opened(node)
    assert answer["failed"] == "unusable"
    assert "symbolic link" in answer["message"]
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_directory_is_set_aside_under_a_name_that_is_free(node: StorageNodeActor, tmp_path: Path) -> None:
    assert opened(node)["incarnation"] == 1
    os.symlink("nowhere", f"{node._spec.path}.left-0")
    node._rename()
    assert sorted(os.listdir(tmp_path / "store" / "nodes")) == ["n1.left-0", "n1.left-1"]
