"""Taking a snapshot of a cluster: what was acknowledged before is in it, and nothing half-made is taken for one."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from backed_up import BACKUPS, gathered
from world import Cluster, run

from raykv.cluster.backup import read_manifest
from raykv.cluster.state import Move
from raykv.errors import StoreUnavailable
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.repair.restoring import Backup, listed
from raykv.versions import shown


async def take(peer, timeout_s=20.0):
    return (await peer.front.carry_out(f.TakeSnapshot(BACKUPS, timeout_s))).data


def values_in(disk, snapshot=""):
    """Return key -> the values that a snapshot shows, of all buckets."""
    backup = Backup.open(disk, BACKUPS, snapshot)
    found = {}
    for batch in backup.batches(5):
        for key, record in batch.items:
            found[key] = [payload.decode() for payload in shown(record, 0).payloads]
    assert not backup.lacking()
    return found


@pytest.mark.parametrize("versioning", ["lww", "vector"])
@pytest.mark.parametrize("durability", ["group", "interval", "always"])
def test_each_write_acknowledged_before_it_began_is_in_it(versioning, durability):
    """Under load: clients go on writing, and note what was acknowledged before the snapshot was asked for."""

    async def story():
        cluster = Cluster(3, versioning=versioning, durability=durability).start()
        peer, other = cluster.coordinator(), cluster.coordinator("other")
        for number in range(40):
            await peer.put(f"k{number}", "old")
        written = {}
        ended = False

        async def load(name):
            turn = 0
            while not ended:
                turn += 1
                key = f"{name}{turn % 20}"
                await other.put(key, f"{turn}")
                written[key] = turn

        clients = [asyncio.create_task(load(name)) for name in "abc"]
        await asyncio.sleep(0.2)
        before = dict(written)
        report = await take(peer)
        ended = True
        await asyncio.gather(*clients)
        assert before
        assert report["nodes"].keys() == {"n1", "n2", "n3"}
        assert not report["missing"]
        found = values_in(gathered(cluster))
        for number in range(40):
            assert found[encode_key(f"k{number}")] == ["old"]
        for key, turn in before.items():
            assert int(found[encode_key(key)][0]) >= turn, key

    run(story())


def test_each_host_has_the_manifest():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        await peer.put("a", "1")
        report = await take(peer)
        manifests = [read_manifest(cluster.disks[node_id], BACKUPS, report["snapshot"]) for node_id in cluster.ids]
        assert manifests[0] == manifests[1] == manifests[2]
        assert manifests[0].cluster == cluster.state
        assert [part.node_id for part in manifests[0].parts] == cluster.ids
        assert report["without_manifest"] == {}

    run(story())


def test_one_of_three_may_be_missing_and_is_named():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        await peer.put("a", "1")
        cluster.kill("n2")
        report = await take(peer)
        assert report["missing"].keys() == {"n2"}
        assert values_in(gathered(cluster)) == {encode_key("a"): ["1"]}
        backup = Backup.open(gathered(cluster), BACKUPS)
        assert backup.manifest.missing.keys() == {"n2"}

    run(story())


def test_too_few_parts_are_an_error_and_no_snapshot():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        await peer.put("a", "1")
        cluster.kill("n2")
        cluster.kill("n3")
        with pytest.raises(StoreUnavailable, match=r"no snapshot was taken.*n2"):
            await take(peer, 3.0)
        assert listed(gathered(cluster, ["n1"]), BACKUPS) == []

    run(story())


def test_a_node_that_lacks_something_does_not_count():
    """Schedule: v acknowledged by n1 and n2; n1 is wiped; parts of n1 and n3 would lack v."""

    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        cluster.cut("coordinator", "node/n3")
        assert await peer.put("a", "1", w=2)
        cluster.mend()
        cluster.wipe("n1")
        cluster.start_node("n1")
        cluster.publish(peer)
        cluster.kill("n2")
        with pytest.raises(StoreUnavailable, match="no snapshot was taken"):
            await take(peer, 3.0)

    run(story())


def test_parts_are_of_one_epoch():
    """Schedule: partition 0 moves on while the parts are taken; they are taken again under the new state."""

    async def story():
        cluster = Cluster(4).start()
        peer = cluster.coordinator()
        for number in range(20):
            await peer.put(f"k{number}", "1")
        state = cluster.state
        owners = state.ring.owners(0)
        (other,) = {*cluster.ids} - {*owners}
        moved = msgspec.structs.replace(
            state, version=state.version + 1, epoch=state.epoch + 1, moves=(Move(0, (other, *owners[:2])),)
        )
        asked = 0
        node = cluster.node("n2")
        flushed = node._snapshots._flushed

        async def slow(deadline_s):
            nonlocal asked
            asked += 1
            if asked == 1:
                await asyncio.sleep(0.3)
            await flushed(deadline_s)

        node._snapshots._flushed = slow
        task = asyncio.create_task(take(peer))
        await asyncio.sleep(0.1)
        cluster.state = moved
        cluster.tell()
        report = await task
        assert asked == 2
        assert report["epoch"] == moved.epoch
        assert Backup.open(gathered(cluster), BACKUPS).state == moved

    run(story())


def test_a_store_whose_partitions_never_rest_has_to_wait():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()

        def keep_moving(node_id):
            snapshots = cluster.node(node_id)._snapshots
            flushed = snapshots._flushed

            async def moving(deadline_s):
                state = cluster.state
                cluster.state = msgspec.structs.replace(state, version=state.version + 1, epoch=state.epoch + 1)
                cluster.tell(node_id)
                await flushed(deadline_s)

            snapshots._flushed = moving

        for node_id in cluster.ids:
            keep_moving(node_id)
        with pytest.raises(StoreUnavailable, match="kept moving"):
            await take(peer, 3.0)
        assert not any(disk.exists(f"{BACKUPS}/snapshots/x/manifest") for disk in cluster.disks.values())
        assert listed(gathered(cluster), BACKUPS) == []

    run(story())


def test_a_manifest_that_one_host_could_not_keep_is_said():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        await peer.put("a", "1")
        cluster.disks["n3"].fail("rename", "manifest.n3")
        report = await take(peer)
        assert report["without_manifest"].keys() == {"n3"}
        assert len(listed(gathered(cluster, ["n1"]), BACKUPS)) == 1
        for node_id in cluster.ids:
            cluster.disks[node_id].fail("rename", f"manifest.{node_id}")
        with pytest.raises(StoreUnavailable, match="no node could keep the manifest"):
            await take(peer)

    run(story())


def test_a_directory_of_somebody_else_is_an_error_that_names_it():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        for node_id in cluster.ids:
            cluster.disks[node_id].make_directories(BACKUPS)
            cluster.disks[node_id].create(f"{BACKUPS}/thesis.txt")
        answer = await peer.ask(f.TakeSnapshot(BACKUPS, 3.0))
        assert isinstance(answer, f.Refused)
        assert "thesis.txt" in answer.failed.message

    run(story())


def test_two_snapshots_stand_side_by_side():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        await peer.put("a", "1")
        first = await take(peer)
        await asyncio.sleep(2)
        await peer.put("a", "2")
        second = await take(peer)
        assert second["new_tables"] == 3
        disk = gathered(cluster)
        assert [each.snapshot for each in listed(disk, BACKUPS)] == [first["snapshot"], second["snapshot"]]
        assert values_in(disk, first["snapshot"]) == {encode_key("a"): ["1"]}
        assert values_in(disk) == {encode_key("a"): ["2"]}

    run(story())


def test_with_keep_the_older_ones_go_with_the_tables_that_only_they_name():
    async def story():
        cluster = Cluster(3, versioning="lww").start()
        peer = cluster.coordinator()
        names = []
        for turn in range(4):
            for number in range(30):
                await peer.put(f"k{number}", f"{turn}")
            for node_id in cluster.ids:
                cluster.node(node_id)._engine.compact_fully()  # so that no table of an older snapshot is in a later one
            await asyncio.sleep(5)
            report = (await peer.front.carry_out(f.TakeSnapshot(BACKUPS, 20.0, 2))).data
            names.append(report["snapshot"])
            assert report["removed"] == (turn >= 2)
            assert not report["not_removed"]
        disk = gathered(cluster)
        assert [each.snapshot for each in listed(disk, BACKUPS)] == names[2:]
        assert report["removed_bytes"] > 0
        assert [*values_in(disk, names[2]).values()] == [["2"]] * 30
        assert [*values_in(disk).values()] == [["3"]] * 30

    run(story())


def test_what_cannot_be_removed_is_reported_and_the_snapshot_stands():
    async def story():
        cluster = Cluster(3, versioning="lww").start()
        peer = cluster.coordinator()
        await peer.put("k", "v")
        for _ in range(2):
            await take(peer)
            await asyncio.sleep(2)
        cluster.disks["n2"].fail("unlink", "n2.part", lasting=True)
        report = (await peer.front.carry_out(f.TakeSnapshot(BACKUPS, 20.0, 1))).data
        assert [*report["not_removed"]] == ["n2"]
        assert report["removed"] == 2
        assert encode_key("k") in values_in(gathered(cluster, ["n1", "n2", "n3"]))

    run(story())
