"""A copied directory gets another identity, and nothing of what it holds is lost or doubted."""

from __future__ import annotations

import random

import pytest

from raykv.config import NodeConfig
from raykv.errors import CorruptData, InvalidOption
from raykv.sim.disk import SimDisk
from raykv.storage import DirectoryForeign, Engine, NodeDirectory
from raykv.storage.adoption import Adopted, adopt, register_data

PATH = "/copy/nodes/n1"
NEW = Adopted("new", "n1", "ab" * 16)
CONFIG = NodeConfig(memtable_bytes=4096, table_bytes=16384, max_unflushed_bytes=8192, block_cache_bytes=0)


def newest(stored, incoming):
    return incoming if stored is None else max(stored, incoming)


def open_directory(disk, store_id, seed=1):
    return NodeDirectory.open(
        disk, PATH, store_id=store_id, node_id="n1", random=random.Random(seed), complete_if_new=True
    )


def open_engine(disk, directory):
    identity = directory.identity
    return Engine.open(
        disk, f"{PATH}/{identity.data}", CONFIG, newest, mark=identity.mark, run=directory.last_run,
        owner=directory.owner,
    )  # fmt: skip


def left_by_a_node(disk, *, clean=True, register=b"old state"):
    """A directory as a stopped node leaves it, with records in tables and in the log."""
    directory = open_directory(disk, "old")
    engine = open_engine(disk, directory)
    directory.note_data(engine.begin_run(directory.identity.incarnation))
    for number in range(200):
        engine.update(b"k%03d" % number, b"%03d" % number * 20)
    job = engine.next_sync()
    job.run()
    engine.finish_sync(job)
    while (work := engine.next_job()) is not None:
        work.run()
        engine.finish(work)
    if register is not None:
        directory.save_register(register)
    engine.close()
    if clean:
        directory.mark_clean(engine.mark())
    directory.close()


def check_new(disk):
    with pytest.raises(DirectoryForeign):
        open_directory(disk, "old")
    directory = open_directory(disk, "new")
    assert directory.identity.directory_id == NEW.directory_id
    assert directory.previous.clean
    engine = open_engine(disk, directory)
    assert not engine.doubt
    assert not engine.damaged
    assert not directory.doubt_about_register()
    assert directory.load_register() == b"new state"
    assert {key: found.record for key, found in engine.scan(b"", None)} == {
        b"k%03d" % number: b"%03d" % number * 20 for number in range(200)
    }
    directory.note_data(engine.begin_run(directory.identity.incarnation))
    engine.update(b"k000", b"999" * 20)
    engine.close()
    directory.mark_clean(engine.mark())
    directory.close()


def renewed(data):
    assert data == b"old state"
    return b"new state"


def test_it_opens_as_the_new_store_s_with_all_that_it_held():
    disk = SimDisk()
    left_by_a_node(disk)
    assert register_data(disk, PATH) == b"old state"
    adopt(disk, PATH, "old", NEW, renewed)
    adopt(disk, PATH, "old", NEW, renewed)
    check_new(disk)


def test_one_without_a_register_is_adopted_too():
    disk = SimDisk()
    left_by_a_node(disk, register=None)
    assert register_data(disk, PATH) is None
    adopt(disk, PATH, "old", NEW, renewed)
    directory = open_directory(disk, "new")
    assert directory.load_register() is None
    assert not directory.doubt_about_register()


def test_after_a_power_cut_at_any_moment_another_attempt_finishes_it():
    disk = SimDisk()
    left_by_a_node(disk)
    disk = disk.crash(random.Random(1), "keep")
    cuts = []
    disk.on_operation = lambda *_: cuts.extend(
        disk.crash(random.Random(len(cuts)), mode) for mode in ("drop", "keep", "random")
    )
    adopt(disk, PATH, "old", NEW, renewed)
    assert len(cuts) > 20
    for cut in cuts:
        adopt(cut, PATH, "old", NEW, renewed)
        check_new(cut)


def test_one_that_was_not_left_by_a_clean_stop_is_refused_and_unchanged():
    disk = SimDisk()
    left_by_a_node(disk, clean=False)
    before = {path: disk.read_file(path, 1 << 30) for path in disk.files()}
    with pytest.raises(InvalidOption, match="clean stop"):
        adopt(disk, PATH, "old", NEW, renewed)
    assert {path: disk.read_file(path, 1 << 30) for path in disk.files()} == before


def test_one_that_runs_is_refused():
    disk = SimDisk()
    left_by_a_node(disk)
    lock = disk.lock(f"{PATH}/lock")
    with pytest.raises(InvalidOption, match="running node"):
        adopt(disk, PATH, "old", NEW, renewed)
    lock.release()
    adopt(disk, PATH, "old", NEW, renewed)


@pytest.mark.parametrize(("store_id", "node_id"), [("other", "n1"), ("old", "n2")])
def test_another_s_directory_is_refused(store_id, node_id):
    disk = SimDisk()
    left_by_a_node(disk)
    with pytest.raises(InvalidOption, match="belongs to node"):
        adopt(disk, PATH, store_id, Adopted("new", node_id, "ab" * 16), renewed)


def test_a_missing_register_is_no_reason_to_go_on():
    disk = SimDisk()
    left_by_a_node(disk)
    disk.unlink(f"{PATH}/register")
    with pytest.raises(CorruptData, match="missing"):
        adopt(disk, PATH, "old", NEW, renewed)


def test_what_is_no_node_s_directory_is_refused():
    disk = SimDisk()
    disk.make_directories(PATH)
    with pytest.raises(InvalidOption, match="no node's directory"):
        adopt(disk, PATH, "old", NEW, renewed)
