"""A node's own records, for its work in the background: trees, what is held, what is merged in, what is forgotten."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Any

from raykv.config import NodeConfig
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.keys import encode_key, storage_prefix
from raykv.repair import local_copy
from raykv.repair.merkle import digest
from raykv.storage import Damage
from raykv.versions import merging

if TYPE_CHECKING:
    from types import ModuleType

    import pytest

SMALL = NodeConfig(
    memtable_bytes=4096, max_unflushed_bytes=1 << 20, block_cache_bytes=0, block_bytes=256, compression="none"
)


def one_node(world: ModuleType, **options: Any) -> tuple[Any, Any]:
    cluster = world.Cluster(1, copies=1, maintenance=True, **options).start()
    return cluster, cluster.node("n1")._maintenance._local


def keys_in(cluster: Any, partition: int, count: int) -> list[str]:
    names = (f"k{number}" for number in range(100_000))
    return list(islice((key for key in names if cluster.partition(key) == partition), count))


def test_a_tree_is_over_the_partition_and_the_buckets_asked_for(world: ModuleType) -> None:
    async def story() -> None:
        cluster, local = one_node(world)
        here, there = keys_in(cluster, 3, 20), keys_in(cluster, 4, 5)
        for bucket_id in (1, 2, 3):
            for key in here + there:
                await cluster.give("n1", key, world.put_record(f"{bucket_id}"), bucket_id)
        tree = await local.tree(3, [1, 3], anew=True)
        expected = {
            (bucket_id, encode_key(key), digest(bucket_id, encode_key(key), world.put_record(f"{bucket_id}")))
            for bucket_id in (1, 3)
            for key in here
        }
        assert set(tree.entries) == expected
        assert (tree.records, tree.depth) == (40, 1), "as deep as suits"
        assert (await local.tree(3, [1], anew=True)).records == 20
        assert (await local.tree(5, [1], anew=True)).root == 0
        assert (await local.tree(3, [1], 2, anew=True)).depth == 2

    world.run(story())


def test_what_trees_are_kept_is_bounded_by_their_leaves_and_buckets_too(world: ModuleType) -> None:
    """A peer names the depth and the buckets: of an empty partition, too, a tree may take 9 MiB."""

    async def story() -> None:
        _, local = one_node(world)
        for partition in range(8):
            await local.tree(partition, [1], 5, anew=True)
            assert sum(8 * 16**kept.tree.depth for kept in local._trees.values()) <= 48 << 20
        for first in range(100):
            await local.tree(0, [*range(first, first + 10_000)], 0, anew=True)
        assert sum(len(buckets) for _, buckets, _ in local._trees) <= 4 * local_copy.MAX_TREE_RECORDS

    world.run(story())


def test_a_look_through_thousands_of_empty_buckets_lets_others_work_meanwhile(world: ModuleType) -> None:
    async def story() -> None:
        _, local = one_node(world)
        rests = 0
        rest = local._throttle.rest

        async def counting(since_s: float) -> float:
            nonlocal rests
            rests += 1
            return await rest(since_s)

        local._throttle.rest = counting
        for look in (
            lambda: local._entries(0, range(1, 501), hidden=False),
            lambda: local.dead(0, range(1, 501), 0.0),
        ):
            rests = 0
            assert await look() == []
            assert rests >= 500

    world.run(story())


def test_what_is_known_of_a_bucket_s_tombstones_goes_with_it(world: ModuleType) -> None:
    async def story() -> None:
        cluster, local = one_node(world)
        local._tombstones = {(0, 1): 5, (1, 1): 2, (0, 99): 7}
        assert local.tombstones() == [[1, 7]]
        assert local._tombstones == {(0, 1): 5, (1, 1): 2}
        assert cluster.node("n1")._replica.config_of(99) is None

    world.run(story())


def test_two_nodes_that_hold_the_same_have_the_same_root_whatever_they_keep_for_themselves(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector", maintenance=True).start()
        peer = cluster.coordinator()
        (key,) = keys_in(cluster, 3, 1)
        await peer.put(key, "v", w=3)
        kept = {cluster.stored(node_id, key) for node_id in cluster.ids}
        assert len(kept) == 2, "who gave the dot keeps its own part"
        trees = [await cluster.node(node_id)._maintenance._local.tree(3, [1], anew=True) for node_id in cluster.ids]
        assert len({tree.root for tree in trees}) == 1
        records = [(await cluster.node(n)._maintenance._local.fetch(1, [encode_key(key)]))[0] for n in cluster.ids]
        assert len(set(records)) == 1
        assert vector.own_of(records[0]) == b""

    world.run(story())


def test_a_tree_of_some_seconds_ago_will_do_unless_it_is_wanted_anew(world: ModuleType) -> None:
    async def story() -> None:
        cluster, local = one_node(world)
        first, second = keys_in(cluster, 3, 2)
        await cluster.give("n1", first, world.put_record("v"))
        tree = await local.tree(3, [1], anew=True)
        await cluster.give("n1", second, world.put_record("v"))
        await asyncio.sleep(local_copy.KEEP_TREE_S / 2)
        assert await local.tree(3, [1], anew=False) is tree
        assert (await local.tree(3, [1], 2, anew=False)).records == 1, "also with another depth"
        await asyncio.sleep(local_copy.KEEP_TREE_S / 2 + 1)
        assert (await local.tree(3, [1], anew=False)).records == 2, "it does not live longer for being used"
        third = keys_in(cluster, 3, 3)[2]
        await cluster.give("n1", third, world.put_record("v"))
        assert (await local.tree(3, [1], anew=True)).records == 3
        assert (await local.tree(3, [1, 2], anew=False)).records == 3, "another set of buckets is another tree"

    world.run(story())


def test_a_tree_is_as_good_as_a_new_one_until_something_changes_in_its_partition(world: ModuleType) -> None:
    async def story() -> None:
        cluster, local = one_node(world)
        first, second = keys_in(cluster, 3, 2)
        await cluster.give("n1", first, world.put_record("v"))
        tree = await local.tree(3, [1], anew=True)
        await cluster.give("n1", keys_in(cluster, 4, 1)[0], world.put_record("of another partition"))
        await asyncio.sleep(10 * local_copy.KEEP_TREE_S)
        assert await local.tree(3, [1], anew=True) is tree
        for key, value in ((second, "new"), (first, "newer than v")):
            await cluster.give("n1", key, world.put_record(value, at_ms=1))
            assert (await local.tree(3, [1], anew=True)) is not tree, value
            tree = await local.tree(3, [1], anew=True)
        entry = next(entry for entry in tree.entries if entry[1] == encode_key(first))
        await local.forget([entry])
        assert (await local.tree(3, [1], anew=True)).records == 1

    world.run(story())


def test_what_is_written_while_a_tree_is_made_makes_the_next_one_another(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_copy, "REST_EVERY", 1)

    async def story() -> None:
        cluster, local = one_node(world)
        keys = sorted(keys_in(cluster, 3, 4), key=encode_key)
        for key in keys[1:]:
            await cluster.give("n1", key, world.put_record("v"))
        making = asyncio.create_task(local.tree(3, [1], anew=True))
        await asyncio.sleep(0)
        local._engine.update(local._place(1, encode_key(keys[0])), world.put_record("behind the scan"))
        assert (await making).records == 3
        assert (await local.tree(3, [1], anew=True)).records == 4

    world.run(story())


def test_corruption_and_its_healing_make_a_tree_another(world: ModuleType) -> None:
    async def story() -> None:
        cluster, local = one_node(world)
        (key,) = keys_in(cluster, 3, 1)
        await cluster.give("n1", key, world.put_record("v"))
        tree = await local.tree(3, [1], anew=True)
        place = local._place(1, encode_key(key))
        damage = Damage("table", 0, place, place + b"\x00", "flipped")
        local._engine._note(damage)
        assert (await local.tree(3, [1], anew=True)).records == 0
        local._engine.heal(damage)
        assert (await local.tree(3, [1], anew=True)).root == tree.root

    world.run(story())


def test_no_more_than_some_trees_are_kept(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_copy, "MAX_TREE_RECORDS", 6)
    monkeypatch.setattr(local_copy, "TREE_WEIGHT", 1)

    async def story() -> None:
        cluster, local = one_node(world)
        for partition, count in ((0, 1), (1, 1), (2, 1), (3, 5)):
            for key in keys_in(cluster, partition, count):
                await cluster.give("n1", key, world.put_record("v"))
        trees = [await local.tree(partition, [1], anew=True) for partition in range(3)]
        assert [await local.tree(partition, [1], anew=False) for partition in range(3)] == trees
        await local.tree(0, [1], anew=False)
        large = await local.tree(3, [1], anew=True)
        assert next(iter(local._trees.values())).tree is large, "one of any size"
        assert len(local._trees) == 1
        small = await local.tree(0, [1], anew=True)
        assert [each.tree for each in local._trees.values()] == [small]

    world.run(story())


def test_what_is_dead_is_found_with_its_digest_and_nothing_else(world: ModuleType) -> None:
    async def story() -> None:
        cluster, local = one_node(world)
        living, dead, fresh, lately = keys_in(cluster, 3, 4)
        await cluster.give("n1", living, world.put_record("v"))
        old, new = -60_000, -1000
        await cluster.give("n1", dead, world.delete_record(old), 2)
        await cluster.give("n1", fresh, world.delete_record(new))
        await cluster.give("n1", lately, world.delete_record(old), 3)
        found = await local.dead(3, [1, 2], world.WALL_MS - 30_000)
        assert found == [(2, encode_key(dead), digest(2, encode_key(dead), world.delete_record(old)))]

    world.run(story())


def test_the_loop_is_given_back_while_a_tree_is_made(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_copy, "REST_EVERY", 10)

    async def story() -> None:
        cluster, local = one_node(world)
        for key in keys_in(cluster, 3, 100):
            await cluster.give("n1", key, world.put_record("v"))
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        assert (await local.tree(3, [1], anew=True)).records == 100
        assert turns >= 10
        task.cancel()

    world.run(story())


def test_nothing_is_fetched_before_it_is_durable(world: ModuleType) -> None:
    async def story() -> None:
        cluster, local = one_node(world)
        gate = cluster.process("n1").executor.gate
        gate.clear()
        write = asyncio.create_task(cluster.give("n1", "a", world.put_record("v")))
        fetch = asyncio.create_task(local.fetch(1, [encode_key("b"), encode_key("a")]))
        merge = asyncio.create_task(local.write(1, [(encode_key("c"), world.put_record("v"))], 0))
        await asyncio.sleep(1)
        assert not any(task.done() for task in (write, fetch, merge))
        assert await local.fetch(1, [encode_key("b")]) == [None], "of what is not there nothing is waited for"
        gate.set()
        assert await fetch == [None, world.put_record("v")]
        assert await merge is True

    world.run(story())


def test_what_is_written_is_merged(world: ModuleType) -> None:
    async def story() -> None:
        cluster, local = one_node(world)
        await cluster.give("n1", "a", world.put_record("newer", 9))
        items = [(encode_key("a"), world.put_record("older", 1)), (encode_key("b"), world.put_record("b"))]
        assert await local.write(1, items, 0) is True, "to hold something newer is as good"
        assert await cluster.held("n1", "a") == world.put_record("newer", 9)
        assert await cluster.held("n1", "b") == world.put_record("b")

    world.run(story())


def test_what_the_node_refuses_is_reported(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        cluster, local = one_node(world, versioning="vector", gc_grace_s=100.0)
        key = encode_key("a")
        assert await local.write(1, [(key, b"garbage")], 0) is True, "which is no record at all, and passed over"
        assert await local.write(1, [(key, world.vector_record(1, "x"))], world.WALL_MS - 50_001) is False
        assert await cluster.held("n1", "a") is None
        assert await local.write(1, [(key, world.vector_record(1, "x" * 900))], world.WALL_MS - 50_000) is True
        monkeypatch.setattr(merging, "MAX_STORED_BYTES", 1000)
        items = [(key, world.vector_record(2, "x" * 900)), (encode_key("b"), world.vector_record(1, "b"))]
        assert await local.write(1, items, 0) is False
        assert await cluster.held("n1", "b") == world.vector_record(1, "b")
        far = world.vector_record(1, "x", at_ms=7_200_000)
        assert await local.write(1, [(encode_key("c"), far)], 0) is True, (
            "of a clock that was far ahead: it is kept elsewhere"
        )
        assert await cluster.held("n1", "c") == far

    world.run(story())


def test_when_the_node_is_overloaded_a_write_waits(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(memtable_bytes=4096, max_unflushed_bytes=4096, block_cache_bytes=0)
        cluster, local = one_node(world, config=config)
        engine, next_job = cluster.node("n1")._engine, cluster.node("n1")._engine.next_job
        engine.next_job = lambda: None
        while not engine.overloaded:
            await cluster.give("n1", f"k{engine.appended_position}", world.put_record("x" * 500))
        write = asyncio.create_task(local.write(1, [(encode_key("a"), world.put_record("v"))], 0))
        await asyncio.sleep(2)
        assert not write.done()
        engine.next_job = next_job
        cluster.node("n1").work()
        assert await write is True
        assert await cluster.held("n1", "a") == world.put_record("v")

    world.run(story())


def test_erase_forgets_exactly_that_record(world: ModuleType) -> None:
    async def story() -> None:
        cluster, local = one_node(world)
        key, now_ms = encode_key("a"), world.WALL_MS
        alive, record = world.vector_record(1, "v"), world.delete_record()
        await cluster.give("n1", "b", alive)
        assert local.erase(1, encode_key("b"), digest(1, encode_key("b"), alive), now_ms + 10**9) is False, "it lives"
        await cluster.give("n1", "a", record)
        value = digest(1, key, record)
        assert local.erase(1, key, digest(1, key, b"another"), now_ms) is False
        assert local.erase(1, key, value, now_ms - 1) is False, "it lived then"
        assert await cluster.held("n1", "a") == record
        assert local.erase(1, key, value, now_ms) is True
        assert await cluster.held("n1", "a") is None
        assert local.erase(1, key, value, now_ms) is True, "what is gone is gone"

    world.run(story())


def test_where_corruption_is_nothing_is_held_and_the_partition_is_incomplete(world: ModuleType) -> None:
    async def story() -> None:
        cluster, local = one_node(world, config=SMALL)
        keys = keys_in(cluster, 3, 12)
        others = keys_in(cluster, 4, 3)
        for key in keys + others:
            await cluster.give("n1", key, world.put_record("x" * 60))
        (table,) = cluster.flush("n1")
        assert all(local.complete(partition) for partition in range(8))
        at = bytes(cluster.disks["n1"]._names[table].data).index(cluster.place(keys[0]))
        cluster.disks["n1"].flip_bit(table, at)
        tree = await local.tree(3, [1], anew=True)
        assert not local.complete(3)
        assert [partition for partition in range(8) if not local.complete(partition)] == [3]
        lost = {encode_key(key) for key in keys} - {key for _, key, _ in tree.entries}
        assert 0 < len(lost) < 12
        assert local.held(1, sorted(lost)) == (f.ReadDone([None] * len(lost), [*range(len(lost))]), 0)
        assert None not in local.held(1, [encode_key(key) for key in keys if encode_key(key) not in lost])[0].records
        cluster.node("n1")._replica.mark_incomplete()
        assert not any(local.complete(partition) for partition in range(8)), "an incomplete node is complete nowhere"

    world.run(story())


def test_what_this_node_stamped_itself_is_looked_at_without_its_own_part(world: ModuleType) -> None:
    """A record with a dot that this node gave has a part that must not travel; its age is reported all the same."""

    async def story() -> None:
        cluster, local = one_node(world, config=SMALL)
        key, engine = encode_key("a"), cluster.node("n1")._engine
        reserved = (await cluster.ask("n1", f.ReserveDots(1, [key], [b"7" * 16]))).items[0]
        stamper = cluster.node("n1")._replica._dot_allocator
        engine.update(cluster.place("a"), stamper.sign(cluster.place("a"), world.vector_record(1, "v")))
        assert reserved is not None
        (table,) = cluster.flush("n1")
        disk = cluster.disks["n1"]
        disk.flip_bit(table, bytes(disk._names[table].data).index(cluster.place("a")))
        assert (await cluster.ask("n1", f.Read(1, [key]))).unreadable == [0]
        later_ms = cluster.clocks["n1"].wall_ms() + 1e9
        assert await local.uncovered(cluster.partition("a"), [1], later_ms) == []
        engine.update(cluster.place("a"), stamper.sign(cluster.place("a"), world.vector_record(1, "v")))
        assert [entry[1] for entry in await local.uncovered(cluster.partition("a"), [1], later_ms)] == [key]
        assert await local.uncovered(cluster.partition("a"), [1], 0.0) == []

    world.run(story())


def test_what_corruption_of_unknown_keys_may_have_uncovered_is_shown_to_nobody(world: ModuleType) -> None:
    """It stands in the node's own tree: what others hold of it need not be fetched again."""

    async def story() -> None:
        cluster, local = one_node(world, config=SMALL)
        cluster.clocks["n1"].skew_ms = 20 * 86_400_000
        old, new = keys_in(cluster, 3, 2)
        await cluster.give("n1", old, world.put_record("old"))
        await cluster.give("n1", new, world.put_record("new", 20 * 86_400_000))
        assert (await local.tree(3, [1], 1, anew=True)).records == 2
        cluster.node("n1")._engine._damaged.append(Damage("1.wal", 0, None, None, "corruption"))
        shown = await local.tree(3, [1], 1, anew=True)
        assert [key for _, key, _ in shown.entries] == [encode_key(new)]
        assert (await local.tree(3, [1], 1, anew=True, own=True)).records == 2
        assert (await local.tree(3, [1], 1, anew=False)).records == 1, "each has a place of its own"

    world.run(story())


def test_what_comes_for_a_partition_that_this_node_is_not_to_hold_any_more_is_not_kept(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        cluster, local = one_node(world)
        here, given_away = keys_in(cluster, 3, 1)[0], keys_in(cluster, 4, 1)[0]
        monkeypatch.setattr(local._replica, "holds", lambda partition, _: partition != 4)
        assert await local.write(1, [(encode_key(here), world.put_record("v"))], 0) is True
        assert await local.write(1, [(encode_key(given_away), world.put_record("v"))], 0) is False
        assert await local.fetch(1, [encode_key(here), encode_key(given_away)]) == [world.put_record("v"), None]

    world.run(story())


def test_what_is_under_no_key_goes_where_there_is_no_other_owner_too(world: ModuleType) -> None:
    async def story() -> None:
        cluster, _ = one_node(world)
        key = keys_in(cluster, 3, 1)[0]
        await cluster.give("n1", key, world.put_record("v"))
        stray = storage_prefix(3, 1) + b"\x00k"
        cluster.node("n1")._engine.update(stray, world.put_record("stray"))
        assert isinstance(await cluster.ask("n1", f.Repair(3, 5.0)), f.Repaired)
        assert cluster.node("n1")._engine.get(stray) is None
        assert await cluster.held("n1", key) is not None

    world.run(story())
