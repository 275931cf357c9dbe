"""A node's part of a snapshot: all that it had when it was asked, while it goes on."""

from __future__ import annotations

import asyncio
import errno

import pytest
from backed_up import BACKUPS, gathered
from world import Cluster, put_record, run

from raykv.cluster.backup import BackupManifest, encode_manifest
from raykv.cluster.state import decode_state, encode_state
from raykv.config import NodeConfig
from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.records.keys import STORAGE_PREFIX_BYTES, encode_key
from raykv.sim.nodes import PATH
from raykv.storage.snapshot import PartReader, read_part

NAME = "20261129T170000Z-00000001"
SMALL = NodeConfig(memtable_bytes=4096, table_bytes=16384, max_unflushed_bytes=1 << 20, block_cache_bytes=0)


async def copied(cluster, node_id="n1", name=NAME, path=BACKUPS, timeout_s=30.0):
    return await cluster.ask(node_id, f.CopyTables(path, name, timeout_s))


def keys_in(disk, answer, name=NAME, node_id="n1"):
    part = read_part(disk, BACKUPS, name, node_id, answer.part_bytes, answer.part_checksum)
    reader = PartReader(disk, BACKUPS, part)
    found = {key[STORAGE_PREFIX_BYTES:] for keys, _ in reader.batches() for key in keys}
    assert not reader.damages
    return found


def test_what_a_node_acknowledged_before_is_in_its_part():
    async def story():
        cluster = Cluster(1, copies=1).start()
        for number in range(30):
            await cluster.give("n1", f"k{number}", put_record("v"))
        answer = await copied(cluster)
        assert isinstance(answer, f.TablesCopied), answer
        assert decode_state(answer.state) == cluster.state
        assert answer.new_tables == answer.tables > 0
        assert keys_in(gathered(cluster), answer) >= {encode_key(f"k{number}") for number in range(30)}

    run(story())


def test_the_node_answers_meanwhile_and_what_it_compacts_away_is_in_the_part():
    async def story():
        cluster = Cluster(1, copies=1, config=SMALL).start()
        for number in range(300):
            await cluster.give("n1", f"k{number}", put_record("v" * 50))
        task = asyncio.create_task(copied(cluster))
        writes = 0
        while not task.done():
            await cluster.give("n1", f"k{writes % 300}", put_record("w" * 50, writes + 1))
            assert await cluster.held("n1", "k5") is not None
            writes += 1
        answer = task.result()
        assert isinstance(answer, f.TablesCopied), answer
        assert writes > 3
        assert keys_in(gathered(cluster), answer) >= {encode_key(f"k{number}") for number in range(300)}
        engine = cluster.node("n1")._engine
        engine.compact_fully()
        for number in range(300):
            await cluster.give("n1", f"k{number}", put_record("x" * 50, 10_000))
        assert all(table._references == 1 for run in engine._runs for table in run.tables), "the tables are let go of"

    run(story())


def test_a_second_snapshot_copies_what_is_new():
    async def story():
        cluster = Cluster(1, copies=1).start()
        await cluster.give("n1", "a", put_record("v"))
        first = await copied(cluster)
        again = await copied(cluster, name="20261129T170001Z-00000002")
        assert (first.new_tables, again.new_tables, again.tables) == (1, 0, 1)
        await cluster.give("n1", "b", put_record("v"))
        third = await copied(cluster, name="20261129T170002Z-00000003")
        assert third.new_tables == 1
        assert keys_in(gathered(cluster), third, "20261129T170002Z-00000003") >= {encode_key("a"), encode_key("b")}

    run(story())


def test_two_at_once_are_one_after_the_other():
    async def story():
        cluster = Cluster(1, copies=1).start()
        await cluster.give("n1", "a", put_record("v"))
        both = await asyncio.gather(copied(cluster), copied(cluster, name="20261129T170001Z-00000002"))
        assert [answer.new_tables for answer in both] == [1, 0]

    run(story())


def test_a_node_that_lacks_something_gives_no_part():
    async def story():
        cluster = Cluster(1, copies=1).start()
        await cluster.give("n1", "a", put_record("v"))
        cluster.node("n1")._replica.mark_incomplete()
        answer = await copied(cluster)
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "not yet"
        assert not cluster.disks["n1"].exists(BACKUPS)

    run(story())


def test_damage_in_a_table_is_found_before_the_part_is_given():
    async def story():
        cluster = Cluster(1, copies=1).start()
        await cluster.give("n1", "a", put_record("v" * 50))
        (table,) = cluster.flush("n1")
        cluster.disks["n1"].flip_bit(table, 40)
        with pytest.raises(CorruptData):
            cluster.node("n1")._engine.get(cluster.place("a"))
        answer = await copied(cluster)
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "not yet"

    run(story())


@pytest.mark.parametrize("path", [PATH, f"{PATH}/backup", f"{PATH}/data"])
def test_a_node_s_own_directory_is_no_place_for_backups(path):
    async def story():
        cluster = Cluster(1, copies=1).start()
        before = cluster.disks["n1"].files()
        answer = await copied(cluster, path=path)
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "path"
        assert cluster.disks["n1"].files() == before

    run(story())


@pytest.mark.parametrize(
    "path", ["backup", "/", "/a/../b", "/a//b", "/a/", "/a/.", "/a\n", "/a\0", "", "/" + "a" * 256]
)
def test_a_path_that_is_none_is_refused_where_it_is_decoded(path):
    async def story():
        cluster = Cluster(1, copies=1).start()
        for body in (f.CopyTables(path, NAME, 1.0), f.KeepManifest(path, NAME, b"")):
            answer = await cluster.ask("n1", body)
            assert isinstance(answer, f.NodeRefused)
            assert answer.reason == "corrupt"

    run(story())


@pytest.mark.parametrize("name", ["", "..", "x", "20261129T170000Z-0000000G", NAME + "\n"])
def test_a_snapshot_s_name_that_is_none_is_refused_where_it_is_decoded(name):
    async def story():
        answer = await copied(Cluster(1, copies=1).start(), name=name)
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "corrupt"

    run(story())


@pytest.mark.parametrize("operation", ["create", "link", "append", "sync", "rename", "sync_directory"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EACCES])
def test_what_fails_in_the_backup_directory_does_not_fail_the_node(operation, error):
    async def story():
        cluster = Cluster(1, copies=1).start()
        await cluster.give("n1", "a", put_record("v"))
        disk = cluster.disks["n1"]
        for _ in range(2):
            disk.fail(operation, BACKUPS, error=error)
        answer = await copied(cluster)
        if operation == "link" and error == errno.EACCES:
            assert isinstance(answer, f.TablesCopied), "it is copied then"
        else:
            assert isinstance(answer, f.NodeRefused), answer
            assert answer.reason == "path"
        assert not cluster.failures
        disk.stop_failing()
        disk._faults.clear()
        assert isinstance(await copied(cluster), f.TablesCopied)
        assert await cluster.held("n1", "a") is not None

    run(story())


def test_without_time_it_is_refused():
    async def story():
        cluster = Cluster(1, copies=1).start()
        await cluster.give("n1", "a", put_record("v"))
        answer = await copied(cluster, timeout_s=1e-9)
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "overloaded"
        assert isinstance(await copied(cluster), f.TablesCopied)

    run(story())


def test_a_power_cut_at_any_moment_leaves_a_part_whole_or_none():
    """For each operation on the disk: the host dies just before it; what stands under a part's name can be read."""

    class Cut(BaseException):
        pass

    async def story(at):
        cluster = Cluster(1, copies=1).start()
        for number in range(20):
            await cluster.give("n1", f"k{number}", put_record("v" * 50))
        disk = cluster.disks["n1"]
        count = 0
        left = []

        def before(operation, path):
            nonlocal count
            count += 1
            if count == at:
                left.extend(disk.crash(cluster.random, mode) for mode in ("drop", "keep", *("random",) * 4))

        disk.on_operation = before
        answer = await copied(cluster)
        assert isinstance(answer, f.TablesCopied), answer
        for after in left:
            where = f"{BACKUPS}/snapshots/{NAME}/n1.part"
            if after.exists(where):
                assert keys_in(after, answer) >= {encode_key(f"k{number}") for number in range(20)}
            # The next snapshot is whole, whatever this one has left.
            cluster.disks["n1"] = after
            cluster.process("n1").process.kill()
            cluster.start_node("n1")
            again = await copied(cluster)
            assert isinstance(again, f.TablesCopied), again
            assert keys_in(cluster.disks["n1"], again) >= {encode_key(f"k{number}") for number in range(20)}
        return count

    operations = run(story(0))
    assert operations > 10
    for at in range(1, operations + 1):
        run(story(at))


def manifest_for(cluster, answer, **changes):
    fields = {
        "snapshot": NAME, "store_id": cluster.store_id, "store": "test", "epoch": cluster.state.epoch, "made_ms": 1,
        "state": encode_state(cluster.state), "parts": (),
    }  # fmt: skip
    return encode_manifest(BackupManifest(**fields | changes))


def test_a_manifest_is_kept_beside_the_part():
    async def story():
        cluster = Cluster(1, copies=1).start()
        answer = await copied(cluster)
        kept = await cluster.ask("n1", f.KeepManifest(BACKUPS, NAME, manifest_for(cluster, answer)))
        assert kept == f.ManifestKept()
        assert cluster.disks["n1"].list_directory(f"{BACKUPS}/snapshots/{NAME}") == ["manifest", "n1.part"]
        again = await cluster.ask("n1", f.KeepManifest(BACKUPS, NAME, manifest_for(cluster, answer)))
        assert again == f.ManifestKept()

    run(story())


@pytest.mark.parametrize("all_gone", [True, False])
def test_a_manifest_that_comes_late_does_not_bring_a_removed_snapshot_back(all_gone):
    """The node was frozen from its part on, while another has removed the snapshot as an old one."""

    async def story():
        cluster = Cluster(1, copies=1).start()
        answer = await copied(cluster)
        directory, disk = f"{BACKUPS}/snapshots/{NAME}", cluster.disks["n1"]
        if all_gone:
            disk.remove_tree(directory)
        else:
            disk.create(f"{directory}/manifest.removed").close()
        kept = await cluster.ask("n1", f.KeepManifest(BACKUPS, NAME, manifest_for(cluster, answer)))
        assert isinstance(kept, f.NodeRefused)
        assert "removed meanwhile" in kept.message
        assert not disk.exists(f"{directory}/manifest")

    run(story())


@pytest.mark.parametrize("changes", [None, {"store_id": "other"}, {"snapshot": "20261129T170001Z-00000002"}])
def test_a_manifest_that_is_none_of_this_snapshot_is_refused(changes):
    async def story():
        cluster = Cluster(1, copies=1).start()
        answer = await copied(cluster)
        manifest = b"nonsense" if changes is None else manifest_for(cluster, answer, **changes)
        kept = await cluster.ask("n1", f.KeepManifest(BACKUPS, NAME, manifest))
        assert isinstance(kept, f.NodeRefused)
        assert kept.reason == "corrupt"
        assert not cluster.disks["n1"].exists(f"{BACKUPS}/snapshots/{NAME}/manifest")

    run(story())


def test_a_stop_ends_it():
    async def story():
        cluster = Cluster(1, copies=1, config=SMALL).start()
        for number in range(300):
            await cluster.give("n1", f"k{number}", put_record("v" * 50))
        task = asyncio.create_task(copied(cluster))
        await asyncio.sleep(0)
        await cluster.node("n1").stop()
        answer = await task
        assert isinstance(answer, f.NodeRefused | f.TablesCopied)

    run(story())


def test_old_snapshots_are_not_removed_below_a_copy_that_nobody_waits_for():
    """The caller of a second snapshot gives up; its copy goes on, and no part names its tables yet."""

    async def story():
        cluster = Cluster(1, copies=1, config=SMALL).start()
        await cluster.give("n1", "first", put_record("v"))
        first = await copied(cluster)
        for number in range(300):
            await cluster.give("n1", f"k{number}", put_record("w" * 50, number + 2))
        snapshots, later = cluster.node("n1")._snapshots, "20261129T170001Z-00000002"
        given_up = asyncio.create_task(snapshots.copy(f.CopyTables(BACKUPS, later, 30.0)))
        while not snapshots.copied[0]:
            assert not given_up.done(), "too few tables to stop in the midst of them"
            await asyncio.sleep(0.0001)
        given_up.cancel()
        (goes_on,) = snapshots._at_work
        kept = await snapshots.keep(f.KeepManifest(BACKUPS, NAME, manifest_for(cluster, first), 1))
        assert isinstance(kept, f.ManifestKept), kept
        assert not kept.trouble
        assert keys_in(gathered(cluster), await goes_on, later) >= {encode_key(f"k{number}") for number in range(300)}

    run(story())
