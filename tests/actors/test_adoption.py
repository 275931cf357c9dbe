"""A copy of a stopped store becomes a store of its own; the original stays what it was."""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import raykv
from raykv.actors.adoption import adopt_store
from raykv.actors.deletion import ADOPTING
from raykv.actors.marker import claim_path, note_founded, read_marker
from raykv.actors.naming import node_directory
from raykv.actors.path_lock import PathLock
from raykv.cluster.state import ClusterState, decode_state, encode_state
from raykv.config import NodeConfig, StoreConfig
from raykv.errors import InvalidOption
from raykv.protocol import frames as f
from raykv.ring import Member, claim
from raykv.storage import Engine, NodeDirectory, read_identity
from raykv.storage.adoption import register_data
from raykv.system.files import OsFileSystem

if TYPE_CHECKING:
    from pathlib import Path

FS = OsFileSystem()
SHOP = StoreConfig(name="shop", copies=2, partitions=8)


def stopped_node(path: str, store_id: str, node_id: str) -> None:
    directory = NodeDirectory.open(
        FS, node_directory(path, node_id), store_id=store_id, node_id=node_id, random=random.Random(node_id),
        complete_if_new=True,
    )  # fmt: skip
    engine = Engine.open(FS, f"{directory.path}/data", NodeConfig(), lambda _, new: new, owner=directory.owner)
    directory.note_data(engine.begin_run(1))
    members = [Member("n1", host="far"), Member("n2", host="away")]
    state = ClusterState(store_id=store_id, generation=3, version=5, config=SHOP, ring=claim(members, 8, 2))
    kept = f.AcceptorAnswer(True, 3, 3, 5, encode_state(state))
    directory.save_register(f.node_answers.encode(f.NodeAnswer(0, kept)))
    engine.close()
    directory.mark_clean(engine.mark())
    directory.close()


@pytest.fixture
def copy(tmp_path: Path) -> str:
    original = str(tmp_path / "shop")
    store_id, _ = claim_path(FS, original, SHOP, {})
    for node_id in ("n1", "n2"):
        stopped_node(original, store_id, node_id)
    note_founded(FS, original)
    made = str(tmp_path / "copy")
    shutil.copytree(original, made, symlinks=True)
    return made


def contents(path: str) -> dict[str, bytes]:
    return {
        os.path.join(at, name): FS.read_file(os.path.join(at, name), 1 << 30)
        for at, _, names in os.walk(path)
        for name in names
    }


def test_every_identity_is_new_and_the_original_is_as_it_was(copy: str, tmp_path: Path) -> None:
    original = str(tmp_path / "shop")
    before = contents(original)
    assert adopt_store(FS, copy, "again", "here")
    assert contents(original) == before
    old, new = read_marker(FS, original), read_marker(FS, copy)
    assert new.store_id != old.store_id
    assert (new.store.name, new.store.partitions, new.founded) == ("again", 8, True)
    seen = set()
    for node_id in ("n1", "n2"):
        was, now = (read_identity(FS, node_directory(path, node_id)) for path in (original, copy))
        assert was is not None
        assert now is not None
        assert (now.store_id, now.node_id, now.incarnation) == (new.store_id, node_id, was.incarnation)
        assert now.directory_id != was.directory_id
        seen.add(now.directory_id)
        data = register_data(FS, node_directory(copy, node_id))
        assert data is not None
        kept: Any = f.node_answers.decode(data).body
        state = decode_state(kept.state)
        assert (state.store_id, state.config.name) == (new.store_id, "again")
        assert {member.host for member in state.ring.members} == {"here"}
        assert (kept.promised, kept.generation, kept.version) == (3, 3, 5)
    assert len(seen) == 2
    assert not os.path.exists(f"{copy}/{ADOPTING}")
    assert not adopt_store(FS, copy, "again", "here"), "it is that store already"


def test_an_attempt_that_was_interrupted_goes_on(copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("raykv.actors.adoption.replace_marker", fails)
        with pytest.raises(InvalidOption, match="Input/output error"):
            adopt_store(FS, copy, "again", "here")
    with pytest.raises(InvalidOption, match="being adopted as store 'again'"):
        adopt_store(FS, copy, "other", "here")
    ids = [read_identity(FS, node_directory(copy, node_id)) for node_id in ("n1", "n2")]
    assert adopt_store(FS, copy, "again", "here")
    assert [read_identity(FS, node_directory(copy, node_id)) for node_id in ("n1", "n2")] == ids


def test_two_adoptions_at_once_are_one_too_many(copy: str) -> None:
    before = read_marker(FS, copy)
    lock = PathLock(FS, copy)
    with pytest.raises(InvalidOption, match=f"adopted or deleted by process {os.getpid()} "):
        adopt_store(FS, copy, "again", "h")
    assert read_marker(FS, copy) == before
    assert not os.path.exists(f"{copy}/{ADOPTING}")
    lock.release()
    assert adopt_store(FS, copy, "again", "h")
    assert sorted(os.listdir(copy)) == ["nodes", "store.json"]


def test_half_a_copy_is_refused(copy: str) -> None:
    shutil.rmtree(node_directory(copy, "n2"))
    before = contents(copy)
    with pytest.raises(InvalidOption, match="n2 are missing"):
        adopt_store(FS, copy, "again", "here")
    assert contents(copy) == before


def test_a_link_to_the_original_is_refused(copy: str, tmp_path: Path) -> None:
    original = node_directory(str(tmp_path / "shop"), "n2")
    shutil.rmtree(node_directory(copy, "n2"))
    os.symlink(original, node_directory(copy, "n2"))
    before = contents(original)
    with pytest.raises(InvalidOption, match="link"):
        adopt_store(FS, copy, "again", "here")
    assert contents(original) == before


def test_where_nothing_is_nothing_is_adopted(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="nothing to adopt"):
        adopt_store(FS, str(tmp_path), "again", "here")


def test_the_error_of_a_copy_names_the_way(copy: str) -> None:
    with pytest.raises(InvalidOption, match=r"in use by store 'shop'.*--adopt"):
        claim_path(FS, copy, StoreConfig(name="again", copies=2), {})


@pytest.mark.parametrize("options", [{"adopt": 1, "path": "/x"}, {"adopt": True}])
def test_wrong_options_start_nothing(options: Any) -> None:
    with pytest.raises(InvalidOption, match="adopt"):
        raykv.start("again", **options)
