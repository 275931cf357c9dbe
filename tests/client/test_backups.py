"""Snapshots as clients take them, of a whole simulated store: while partitions move, and of every kind of bucket."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import msgspec
import pytest

import raykv
import raykv.sim
from raykv.client.backups import RestoreReport, SnapshotReport, check_backup_path
from raykv.client.exchange import ask
from raykv.errors import InvalidOption, StoreUnavailable
from raykv.protocol import frames as f
from raykv.repair.restoring import Backup, listed
from raykv.sim.disk import SimDisk

PATH = "/backups/shop"


def gathered(world: raykv.sim.World) -> SimDisk:
    """Return a disk with what all hosts have of the backup, as an operator would copy it to one place."""
    files = {
        path: host.disk.read_file(path, 1 << 30)
        for host in world._cluster.hosts.values()
        for path in host.disk.files()
        if path.startswith(f"{PATH}/")
    }
    directories = {path[:at] for path in files for at in range(1, len(path)) if path[at] == "/"}
    return SimDisk.holding(files, directories)


def restored(world: raykv.sim.World, backup: Backup) -> None:
    """Load a backup into a new simulated store, as ``raykv.restore`` does into a real one."""
    ids = {}
    for entry in backup.state.buckets:
        options = {what: value for what, value in msgspec.to_builtins(entry.config).items() if value is not None}
        if entry.config.name != "default":
            answer: Any = world.store._session.run(ask(f.OpenBucket(options.pop("name"), options, 30.0), 30.0))
            ids[entry.bucket_id] = answer.bucket_id
        else:
            ids[entry.bucket_id] = 1
    for batch in backup.batches(77):
        world.store._session.run(ask(f.LoadRecords(ids[batch.bucket_id], batch.items, 60.0), 60.0))
    assert not backup.lacking()


@pytest.mark.parametrize("seed", range(3))
def test_a_snapshot_while_partitions_move_is_whole_or_an_error(seed: int) -> None:
    with raykv.sim.start(seed=seed, partitions=16) as world:
        model = {f"k{number}": number for number in range(300)}
        world.store.put_many(model)
        added = world.store.add_node(wait=False)
        taken = 0
        for _ in range(10):
            with contextlib.suppress(StoreUnavailable):
                world.store.snapshot(PATH, timeout=5)
                taken += 1
            world.sleep(0.2)
        world.store.snapshot(PATH, timeout=60)
        assert added in {member["node_id"] for member in world.store.ring()["members"]}
        disk = gathered(world)
    found = listed(disk, PATH)
    assert len(found) == taken + 1
    for each in found:
        backup = Backup.open(disk, PATH, each.snapshot)
        assert len({key for batch in backup.batches(1) for key, _ in batch.items}) == len(model)
        assert not backup.lacking()
    with raykv.sim.start(seed=seed + 10, nodes=1, partitions=16) as other:
        restored(other, Backup.open(disk, PATH, found[0].snapshot))
        assert dict(other.store.items()) == model


@pytest.mark.parametrize("nodes", [3, 5])
def test_linearizable_buckets_go_on_above_what_was_restored(nodes: int) -> None:
    """Schedule: the store that was backed up goes on too; neither names two values alike, and no write is hidden."""
    with raykv.sim.start(seed=4) as world:
        jobs = world.store.bucket("jobs", versioning="linearizable")
        for number in range(40):
            jobs.put(f"k{number}", number)
        for node_id in world.nodes:  # later terms, which have touched nothing yet
            world.kill(node_id)
        world.sleep(20)
        jobs.put("k0", "later", fence=7)
        jobs.delete("k1")
        for _ in range(5):
            jobs.add("hits", 1)
        versions = {f"k{number}": jobs.get_versioned(f"k{number}").version for number in range(40) if number != 1}
        world.store.snapshot(PATH)
        with raykv.sim.start(seed=5, nodes=nodes) as other:
            restored(other, Backup.open(gathered(world), PATH))
            again = other.store.bucket("jobs", versioning="linearizable")
            assert {key: again.get_versioned(key).version for key in versions} == versions
            assert again.get("k0") == "later"
            assert again.get("k1") is None
            assert again.add("hits", 1) == 6
            with pytest.raises(raykv.Conflict):
                again.put("k0", "with an older token", fence=6)
            with pytest.raises(raykv.Conflict):
                again.put("k2", "x", if_version=versions["k3"])
            mine = again.put("k2", "here", if_version=versions["k2"]).version
            there = jobs.put("k2", "there", if_version=versions["k2"]).version
            assert len({mine, there, versions["k2"]}) == 3
            for node_id in other.nodes:
                other.kill(node_id)
            other.sleep(20)
            assert again.get("k2") == "here"
            assert again.get_versioned("k2").version == mine
            assert again.put("k1", "anew", if_absent=True).version
            for number in range(3, 40):
                assert again.get(f"k{number}") == number


def test_siblings_deletes_and_times_come_back() -> None:
    with raykv.sim.start(seed=6) as world:
        store = world.store
        brief = store.bucket("brief", ttl=100)
        brief.put("a", 1)
        store.put("k", "before")
        seen = store.get_versions("k").context
        store.put("k", "one", context=seen)
        store.put("k", "other", context=seen)
        store.put("gone", 1)
        store.delete("gone")
        store.snapshot(PATH)
        disk = gathered(world)
    with raykv.sim.start(seed=7) as other:
        restored(other, Backup.open(disk, PATH))
        assert sorted(other.store.get_versions("k").values) == ["one", "other"]
        assert other.store.get("gone") is None
        other.store.put("k", "merged", context=other.store.get_versions("k").context)
        assert other.store.get_versions("k").values == ["merged"]
        assert other.store.bucket("brief", ttl=100).get("a") == 1
        other.sleep(200)
        assert other.store.bucket("brief", ttl=100).get("a") is None


def test_both_faces_take_one_and_say_what_it_is() -> None:
    with raykv.sim.start(seed=8) as world:
        world.store.put("a", 1)
        report = world.store.snapshot(PATH)
        assert isinstance(report, SnapshotReport)
        assert report["nodes"].keys() == {*world.nodes}
        assert report["snapshot"] in repr(report)

        async def story() -> SnapshotReport:
            store = await world.connect_aio()
            return await store.snapshot(PATH)

        again = world.run(story())
        assert again["new_tables"] == 0
        world.freeze(world.nodes[0], 60)
        third = world.store.snapshot(PATH, timeout=20)
        assert f"no part of {world.nodes[0]}" in repr(third)
    assert asyncio.iscoroutinefunction(raykv.AsyncStore.snapshot)


@pytest.mark.parametrize("path", ["backups", "", "/", None, 5, "/a\nb", "/" + "a" * 300, b"/backups", "/a\0", "/" * 5])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(InvalidOption, match="path must"):
        check_backup_path(path)


@pytest.mark.parametrize("path", ["/a/b", "/a/b/", "//a//b", "/a/./b", "/a/c/../b"])
def test_a_path_is_brought_to_one_form(path: str) -> None:
    assert check_backup_path(path) == "/a/b"

    class Path(os.PathLike[str]):
        def __fspath__(self) -> str:
            return path

    assert check_backup_path(Path()) == "/a/b"


def test_a_report_of_a_restore_prints_what_may_be_missing() -> None:
    report = RestoreReport(
        store="again", path="/p", snapshot="s", of="shop", nodes=3, records=5, buckets={"default": 5}, seconds=2.0,
        start_seconds=1.0, resumed=False, lacking=["one partition"],
    )  # fmt: skip
    assert "may lack: one partition" in repr(report)
    assert "5 records" in repr(report)
