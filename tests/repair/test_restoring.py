"""A backup read back: all parts merged, nothing old, nothing used twice; and loaded into another store."""

from __future__ import annotations

import asyncio
import random

import pytest
from backed_up import BACKUPS, gathered
from world import WALL_MS, Cluster, delete_record, put_record, run, vector_record

from raykv.errors import CorruptData, InvalidOption
from raykv.protocol import frames as f
from raykv.records import linear_record as linear
from raykv.records.keys import encode_key
from raykv.records.record import unpack
from raykv.repair.restoring import BATCH_ITEMS, Backup, _merged, listed
from raykv.sim.disk import SimDisk
from raykv.versions import merge


async def take(cluster, peer):
    return (await peer.front.carry_out(f.TakeSnapshot(BACKUPS, 20.0))).data


def records_in(backup):
    """Return key -> record, merged, and check that no key comes twice but from hints."""
    found = {}
    for batch in backup.batches(77):
        for key, record in batch.items:
            found[key] = merge(found.get(key), record)
    return found


async def backed_up(cluster, **gathering):
    peer = cluster.coordinator("taker")
    await take(cluster, peer)
    return gathered(cluster, **gathering)


def test_the_copies_are_merged():
    async def story():
        cluster = Cluster(3, versioning="vector").start()
        records = [vector_record(number, f"{number}") for number in (1, 2, 3)]
        for node_id, record in zip(cluster.ids, records, strict=True):
            await cluster.give(node_id, "a", record)
            await cluster.give(node_id, f"only {node_id}", record)
        found = records_in(Backup.open(await backed_up(cluster), BACKUPS))
        assert found[encode_key("a")] == merge(merge(records[0], records[1]), records[2])
        for node_id, record in zip(cluster.ids, records, strict=True):
            assert found[encode_key(f"only {node_id}")] == record
        assert len(found) == 4

    run(story())


def test_a_part_of_a_record_that_is_its_node_s_own_stays_behind():
    async def story():
        cluster = Cluster(3, versioning="vector").start()
        await cluster.coordinator().put("a", "1")
        found = records_in(Backup.open(await backed_up(cluster), BACKUPS))
        assert found == {encode_key("a"): await cluster.held("n1", "a")}
        assert any(cluster.stored(node_id, "a") != found[encode_key("a")] for node_id in cluster.ids)

    run(story())


def test_deletes_and_expiry_times_are_kept():
    async def story():
        cluster = Cluster(3).start()
        await cluster.give("n1", "gone", put_record("v"))
        await cluster.give("n2", "gone", delete_record(1))
        await cluster.give("n3", "brief", put_record("v", ttl_ms=5000))
        found = records_in(Backup.open(await backed_up(cluster), BACKUPS))
        assert found[encode_key("gone")] == delete_record(1)
        assert found[encode_key("brief")] == put_record("v", ttl_ms=5000)
        assert not unpack(found[encode_key("brief")]).live(WALL_MS + 10_000)

    run(story())


def test_what_a_node_no_longer_owns_does_not_come_back():
    """Schedule: n4 owned k, was replaced as owner, and has not dropped it yet; the others have forgotten its delete."""

    async def story():
        cluster = Cluster(4).start()
        key = "k"
        (stranger,) = {*cluster.ids} - {*cluster.owners(key)}
        engine = cluster.node(stranger)._engine
        engine.update(cluster.place(key), put_record("deleted long ago"))
        await cluster.give(stranger, "own", put_record("v")) if stranger in cluster.owners("own") else None
        found = records_in(Backup.open(await backed_up(cluster), BACKUPS))
        assert encode_key(key) not in found

    run(story())


def test_the_records_of_a_dropped_bucket_stay_away():
    async def story():
        cluster = Cluster(3).start()
        await cluster.give("n1", "a", put_record("v"), bucket=2)
        await cluster.give("n1", "b", put_record("v"))
        found = records_in(Backup.open(await backed_up(cluster), BACKUPS))
        assert found.keys() == {encode_key("b")}

    run(story())


def test_hints_count_as_copies_unless_they_are_too_old():
    """A sloppy bucket: a fallback's hint may be all that is left of an acknowledged write."""

    async def story():
        cluster = Cluster(4, sloppy=True).start()
        owners = cluster.owners("a")
        (fallback,) = {*cluster.ids} - {*owners}
        old_ms = WALL_MS - round(cluster.store.gc_grace_s * 1000 / 2) + 60_000
        for key, made_ms in (("a", WALL_MS), ("old", old_ms)):
            hint = f.Hint(1, [(encode_key(key), put_record(key), [owners[0]])], made_ms, counted=True)
            assert isinstance(await cluster.ask(fallback, hint), f.WriteDone)
        await asyncio.sleep(120)
        for host in cluster.hosts.values():
            del host
        found = records_in(Backup.open(await backed_up(cluster), BACKUPS))
        assert found == {encode_key("a"): put_record("a")}

    run(story())


def test_linearizable_records_come_below_all_terms_with_their_versions():
    record = linear.encode(
        linear.LinearRecord(linear.pack_term(7, 5), 9, 1234, b"\x01v", b"", 3, (linear.Receipt(b"lanelane", 4, 0),))
    )
    renewed = linear.renewed(record, 77)
    taken, before = linear.check(renewed), linear.check(record)
    assert (taken.version, taken.payload, taken.fence, taken.time) == (before.version, b"\x01v", 3, 1234)
    assert taken.receipts == ()
    assert linear.NO_TERM < taken.term < linear.pack_term(1, 0)
    assert linear.renewed(renewed, 78) != renewed
    assert linear.check(linear.renewed(renewed, 78)).version == before.version, "a restore of a restored store"


def test_batches_are_bounded_and_of_one_bucket():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        for first in range(0, 1200, 400):
            items = [(encode_key(f"k{number}"), put_record("v")) for number in range(first, first + 400)]
            await peer.front.carry_out(f.LoadRecords(1, items, 20.0))
        backup = Backup.open(await backed_up(cluster), BACKUPS)
        batches = [*backup.batches(1)]
        assert [len(batch.items) for batch in batches] == [BATCH_ITEMS, BATCH_ITEMS, 200]
        assert [batch.partition for batch in batches] == sorted(batch.partition for batch in batches)
        keys = [key for batch in batches for key, _ in batch.items]
        assert len({*keys}) == len(keys) == 1200

    run(story())


def test_windows_are_the_union_in_order():
    rng = random.Random(3)
    for _ in range(300):
        model = {}
        sources = []
        for _ in range(rng.randint(0, 4)):
            keys = sorted({b"%03d" % rng.randrange(60) for _ in range(rng.randrange(40))})
            records = [put_record(rng.choice("ab"), rng.randrange(4)) for _ in keys]
            for key, record in zip(keys, records, strict=True):
                model[key] = merge(model.get(key), record)
            size = rng.randint(1, 9)
            sources.append(iter([(keys[at : at + size], records[at : at + size]) for at in range(0, len(keys), size)]))
        found = [pair for keys, records in _merged(sources) for pair in zip(keys, records, strict=True)]
        assert found == sorted(model.items())


def test_a_part_that_is_elsewhere_is_named_with_its_host():
    async def story():
        cluster = Cluster(3).start()
        await cluster.coordinator().put("a", "1")
        everything = await backed_up(cluster)
        assert not Backup.open(everything, BACKUPS).lacking()
        backup = Backup.open(gathered(cluster, ["n1", "n2"]), BACKUPS)
        assert not backup.lacking(), "two of three suffice"
        assert backup.absent.keys() == {"n3"}
        assert "host" in backup.why()
        backup = Backup.open(gathered(cluster, ["n1"]), BACKUPS)
        assert backup.lacking()
        assert "node n2" in backup.why()
        assert "node n3" in backup.why()
        assert len(backup.check(set())) == 2

    run(story())


def test_damage_in_one_part_is_made_good_by_the_others_and_in_two_it_is_named():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        for number in range(200):
            await peer.put(f"k{number}", "v" * 50)
        disk = await backed_up(cluster)
        whole = records_in(Backup.open(disk, BACKUPS))
        (first, second, _) = sorted(path for path in disk.files() if path.endswith(".sst"))
        disk.flip_bit(first, 200)
        backup = Backup.open(disk, BACKUPS)
        assert records_in(backup) == whole
        assert not backup.lacking()
        assert len(backup.check(set())) == 1
        disk.flip_bit(second, 200)
        backup = Backup.open(disk, BACKUPS)
        records_in(backup)
        assert backup.lacking()
        assert len(Backup.open(disk, BACKUPS).check(set())) == 2

    run(story())


def test_a_table_that_two_snapshots_name_is_read_once():
    async def story():
        cluster = Cluster(3).start()
        await cluster.coordinator().put("a", "1")
        peer = cluster.coordinator("taker")
        await take(cluster, peer)
        await asyncio.sleep(2)
        await take(cluster, peer)
        disk = gathered(cluster)
        checked, steps = set(), []
        for each in listed(disk, BACKUPS):
            assert Backup(disk, BACKUPS, each.manifest).check(checked, lambda: steps.append(1)) == []
        assert (len(checked), len(steps)) == (3, 6)

    run(story())


def test_the_latest_is_the_latest_also_within_a_second():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        names = []
        for number in range(8):
            await peer.put("a", f"{number}")
            names.append((await take(cluster, peer))["snapshot"])
        assert len({name[:16] for name in names}) < len(names)
        assert sorted(names) != names
        assert [each.snapshot for each in listed(gathered(cluster), BACKUPS)] == names

    run(story())


def test_what_is_no_backup_or_no_snapshot_is_an_error():
    async def story():
        disk = SimDisk()
        disk.make_directories(BACKUPS)
        with pytest.raises(InvalidOption, match="no backups"):
            listed(disk, BACKUPS)
        with pytest.raises(InvalidOption, match="no backups"):
            listed(disk, "/nowhere")
        cluster = Cluster(3).start()
        disk = await backed_up(cluster)
        with pytest.raises(InvalidOption, match="no snapshot 20260101"):
            Backup.open(disk, BACKUPS, "20260101T000000Z-00000000")
        (manifest,) = [path for path in disk.files() if path.endswith("manifest")]
        disk.flip_bit(manifest, 60)
        (each,) = listed(disk, BACKUPS)
        assert each.manifest is None
        assert each.trouble
        with pytest.raises(CorruptData, match="cannot be read"):
            Backup.open(disk, BACKUPS)
        disk.unlink(manifest)
        assert listed(disk, BACKUPS) == []
        with pytest.raises(InvalidOption, match="none that was finished"):
            Backup.open(disk, BACKUPS)

    run(story())


@pytest.mark.parametrize("nodes", [1, 3, 5])
def test_another_store_gets_all_of_it_on_any_number_of_nodes(nodes):
    async def story():
        cluster = Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        for number in range(60):
            await peer.put(f"k{number}", f"{number}")
        await peer.delete("k5")
        _, seen = await peer.versions("k6")
        await peer.store("k6", "one", context=seen)
        await peer.store("k6", "other", context=seen)
        disk = await backed_up(cluster)
        other = Cluster(nodes, copies=min(nodes, 3), versioning="vector")
        other.random = random.Random(8)  # else its nodes would draw what those of the first have drawn
        other.start()
        loader = other.coordinator()
        backup = Backup.open(disk, BACKUPS)
        for batch in backup.batches(1):
            await loader.front.carry_out(f.LoadRecords(1, batch.items, 20.0))
        level = min(nodes, 2)
        for number in range(60):
            expected = await peer.versions(f"k{number}")
            assert await loader.versions(f"k{number}", r=level) == expected
        assert sorted((await loader.versions("k6", r=level))[0]) == ["one", "other"]
        # Life goes on: what is written now supersedes what was restored, under dots of its own.
        _, seen = await loader.versions("k6", r=level)
        await loader.store("k6", "after", context=seen, w=level)
        assert (await loader.versions("k6", r=level))[0] == ["after"]

    run(story())
