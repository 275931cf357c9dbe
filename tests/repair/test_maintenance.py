"""A node's background work: it answers peers, gossips, becomes complete again (P1), and repairs now and then."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.config import NodeConfig
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.repair.anti_entropy import Mended
from raykv.replica.load import WINDOW_S
from raykv.ring import Member, claim

if TYPE_CHECKING:
    from types import ModuleType

SMALL = NodeConfig(
    memtable_bytes=1 << 18, max_unflushed_bytes=1 << 20, block_cache_bytes=0, block_bytes=256, compression="none"
)
REPAIRING = NodeConfig(block_cache_bytes=0, repair_every_s=100.0, gossip_every_s=5.0)
KEYS = [f"k{number}" for number in range(40)]


def now_s() -> float:
    return asyncio.get_running_loop().time()


def read(*keys: str) -> f.Read:
    return f.Read(1, [encode_key(key) for key in keys])


async def fill(world: ModuleType, cluster: Any, keys: list[str] = KEYS, size: int = 40) -> None:
    for node_id in cluster.ids:
        mine = [key for key in keys if node_id in cluster.owners(key)]
        items = [(encode_key(key), world.put_record(f"{key} " + "x" * size)) for key in mine]
        assert isinstance(await cluster.ask(node_id, f.Write(1, items)), f.WriteDone)


async def answers_reads(cluster: Any, node_id: str) -> bool:
    return isinstance(await cluster.ask(node_id, read("k0")), f.ReadDone)


async def missing(cluster: Any, node_id: str, keys: list[str] = KEYS) -> list[str]:
    mine = [key for key in keys if node_id in cluster.owners(key)]
    answer = await cluster.ask(node_id, read(*mine))
    assert answer.unreadable == []
    return [key for key, record in zip(mine, answer.records, strict=True) if record is None]


def corrupt(cluster: Any, node_id: str, table: str, key: str) -> None:
    """Corruption in the block of ``table`` that has the key."""
    disk = cluster.disks[node_id]
    disk.flip_bit(table, bytes(disk._names[table].data).index(cluster.place(key)))


# ---- answering ----


def test_what_a_peer_asks_for_is_answered(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        key, record = encode_key("a"), world.put_record("v")
        await cluster.give("n1", "a", record)
        partition = cluster.partition("a")
        gossip = await cluster.ask("n1", f.Gossip("n2", {"n2": (1, 7)}))
        assert isinstance(gossip, f.Gossip)
        assert gossip.sender == "n1"
        tree = await cluster.ask("n1", f.Tree(partition, [1], 1, -1, []))
        assert (len(tree.digests), tree.records, tree.complete) == (1, 1, True)
        children = await cluster.ask("n1", f.Tree(partition, [1], 1, 0, [0]))
        assert len(children.digests) == 16
        (leaf,) = [at for at, value in enumerate(children.digests) if value]
        leaves = await cluster.ask("n1", f.Leaves(partition, [1], 1, [leaf]))
        assert [(bucket_id, found) for bucket_id, found, _ in leaves.entries] == [(1, key)]
        assert (leaves.complete, leaves.left) == (True, [])
        assert await cluster.ask("n1", f.Fetch(1, [key, encode_key("b")])) == f.ReadDone([record, None])
        assert await cluster.ask("n1", f.Purge([], sure=True)) == f.Purged([])
        done = await cluster.ask("n1", f.Repair(partition, 5.0))
        assert done.figures["exchanges"] == 2
        assert await cluster.held("n2", "a") == record

    world.run(story())


@pytest.mark.parametrize("body", [
    f.Tree(3, [1], -1, 0, [0]),
    f.Tree(3, [1], 6, 0, [0]),
    f.Tree(3, [1], 1 << 40, 0, [0]),
    f.Tree(3, [1], 1, 1, [0]),
    f.Tree(3, [1], 1, -2, [0]),
    f.Tree(3, [1], 1, 0, [1]),
    f.Tree(3, [1], 1, 0, [-1]),
    f.Tree(3, [1], 2, 1, [0, 1 << 60]),
    f.Tree(3, [1], 2, 0, [0] * 257),
    f.Tree(-1, [1], 1, 0, [0]),
    f.Tree(1 << 20, [1], 1, 0, [0]),
    f.Tree(3, [-1], 1, 0, [0]),
    f.Tree(3, [1 << 32], 1, 0, [0]),
    f.Leaves(3, [1], -1, [0]),
    f.Leaves(3, [1], 6, [0]),
    f.Leaves(3, [1], 1, [0] * 257),
    f.Leaves(-1, [1], 1, [0]),
    f.Leaves(3, [1 << 40], 1, [0]),
    f.Fetch(1, [b"\x02a"] * 257),
    f.Fetch(-1, [b"\x02a"]),
    f.Purge([(-1, b"\x02a", 1)], sure=True),
    f.Purge([(1 << 33, b"\x02a", 1)], sure=False),
    f.Repair(-1, 1.0),
    f.Repair(8, 1.0),
    f.Repair(0, 0.0),
    f.Repair(0, -1.0),
])  # fmt: skip
def test_what_cannot_be_is_refused(world: ModuleType, body: Any) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        assert isinstance(await cluster.ask("n1", body), f.NodeRefused)
        assert cluster.failures == []
        assert isinstance(await cluster.ask("n1", f.Tree(3, [1], 5, -1, [])), f.TreeDone)
        assert await cluster.ask("n1", f.Leaves(3, [1], 1, [99, -5])) == f.LeavesDone([], True), "no such leaf: nothing"

    world.run(story())


def test_a_node_without_a_cluster_state_repairs_nothing(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True)
        tell, cluster.tell = cluster.tell, lambda *_: None
        cluster.start()
        await asyncio.sleep(10)
        answer = await cluster.ask("n1", f.Repair(0, 1.0))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "not yet"
        assert not any(source.startswith("node/") for source, _, _ in cluster.frames), "nor asks anybody"
        tell("n1", "n2", "n3")
        await asyncio.sleep(3)
        assert len(cluster.between_nodes(f.Gossip)) > 6
        assert isinstance(await cluster.ask("n1", f.Repair(0, 1.0)), f.Repaired)

    world.run(story())


def test_without_a_way_to_others_a_node_refuses_what_peers_ask(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        cluster.node("n1").begin()
        for body in (
            f.Gossip("n2", {}),
            f.Tree(0, [1], 1, -1, []),
            f.Repair(0, 1.0),
            f.Fetch(1, []),
            f.Purge([], True),
        ):
            answer = await cluster.ask("n1", body)
            assert isinstance(answer, f.NodeRefused)
            assert answer.reason == "not yet"
        assert cluster.node("n1").mended == {}

    world.run(story())


def test_figures_say_what_is_going_on(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await fill(world, cluster)
        await cluster.give("n1", "k0", world.put_record("newer", 9))
        await cluster.ask("n1", f.Repair(cluster.partition("k0"), 5.0))
        cluster.node("n1")._hints.keep("n2", 1, encode_key("k0"), b"", world.WALL_MS, counted=False)
        stats = (await cluster.ask("n1", f.Ping(with_stats=True))).stats
        assert stats["hints"] == {"n2": 1}
        assert stats["hint_bytes"] == cluster.node("n1")._hints.bytes > 0
        assert (stats["hints_replayed"], stats["hints_expired"]) == (0, 0)
        assert stats["suspects"] == []
        assert stats["repaired"]["sent"] == 2
        assert stats["background_bytes_per_s"] == cluster.config.background_bytes_per_s
        assert stats["healed_partitions"] is None
        await asyncio.sleep(3)
        stats = (await cluster.ask("n1", f.Ping(with_stats=True))).stats
        assert (stats["hints"], stats["hints_replayed"]) == ({}, 1)

    world.run(story())


def test_clients_that_wait_longer_slow_the_background_down(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, maintenance=True).start()
        executor, throttle = cluster.process("n1").executor, cluster.node("n1")._maintenance.throttle
        for taken_s, count in ((0.005, 300), (0.1, 30)):
            executor.delay_s = taken_s
            for number in range(count):
                await cluster.give("n1", f"k{number}", world.put_record("v", int(now_s() * 1000)))
                await asyncio.sleep(0.02)
        assert throttle.slowed > 0

    world.run(story())


# ---- gossip ----


def test_a_silent_node_is_suspected_and_a_ping_tells(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True).start()
        await asyncio.sleep(15)
        assert [(await cluster.ask(node_id, f.Ping())).suspects for node_id in cluster.ids] == [[]] * 4
        cluster.freeze("n3")
        await asyncio.sleep(10)
        for node_id in ("n1", "n2", "n4"):
            assert (await cluster.ask(node_id, f.Ping())).suspects == ["n3"]
        cluster.thaw(cluster.process("n3"))
        await asyncio.sleep(15)
        assert [(await cluster.ask(node_id, f.Ping())).suspects for node_id in cluster.ids] == [[]] * 4
        assert cluster.failures == []

    world.run(story())


def test_heartbeats_go_round_at_their_pace_whatever_a_peer_does(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await asyncio.sleep(10)
        cluster.freeze("n2")
        cluster.frames.clear()
        await asyncio.sleep(30)
        rounds = Counter(source for source, *_ in cluster.between_nodes(f.Gossip))
        assert 50 <= rounds["n1"] <= 150

    world.run(story())


def test_a_later_run_that_gossip_knows_of_ends_the_former(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await asyncio.sleep(5)
        cluster.freeze("n2")
        former = cluster.replace("n2")
        assert cluster.node("n2").incarnation == 2
        await asyncio.sleep(5)
        assert cluster.failures == []
        cluster.thaw(former)
        await asyncio.sleep(5)
        assert [(node_id, "gossip" in cause) for node_id, cause in cluster.failures] == [("n2", True)]
        answer = f.node_answers.decode(await former.serve(f.node_requests.encode(f.NodeRequest(0, f.Ping())))).body
        assert isinstance(answer, f.NodeRefused)
        assert isinstance(await cluster.ask("n2", f.Ping()), f.Pong), "the present one goes on"
        for task in former.node._loops:
            task.cancel()

    world.run(story())


def test_a_node_that_is_no_member_is_not_watched(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True).start()
        await asyncio.sleep(5)
        cluster.kill("n4")
        await asyncio.sleep(10)
        assert cluster.node("n1")._maintenance.suspects() == ["n4"]
        cluster.ids.remove("n4")
        ring = claim([Member(node_id) for node_id in cluster.ids], 8, 3)
        cluster.change(msgspec.structs.replace(cluster.state, ring=ring, version=9))
        await asyncio.sleep(2)
        assert cluster.node("n1")._maintenance.suspects() == []

    world.run(story())


def test_a_stopped_node_does_nothing_more(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=REPAIRING).start()
        await asyncio.sleep(5)
        await cluster.ask("n1", f.Stop())
        cluster.frames.clear()
        await asyncio.sleep(200)
        assert not any(source == "node/n1" for source, _, _ in cluster.frames)
        assert cluster.failures == []

    world.run(story())


# ---- becoming complete again ----


@pytest.mark.parametrize("versioning", ["lww", "vector"])
def test_a_node_that_lost_its_disk_becomes_complete_and_answers_reads(world: ModuleType, versioning: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, versioning=versioning, maintenance=True).start()
        peer = cluster.coordinator()
        for key in KEYS:
            await peer.put(key, f"value of {key}", w=2)
        await peer.rest()
        cluster.wipe("n2")
        cluster.revive("n2")
        assert not await answers_reads(cluster, "n2")
        await asyncio.sleep(5)
        assert await answers_reads(cluster, "n2")
        assert cluster.node("n2").complete
        assert await missing(cluster, "n2") == []
        for node_id in cluster.ids:
            for key in KEYS:
                if node_id in cluster.owners(key):
                    assert await cluster.held(node_id, key) == await cluster.held(cluster.owners(key)[0], key)
        cluster.kill("n2")
        cluster.revive("n2")
        assert await answers_reads(cluster, "n2"), "and stays so"
        assert await missing(cluster, "n2") == [], "what it took over is durable"
        assert cluster.failures == []

    world.run(story())


@pytest.mark.parametrize("versioning", ["lww", "vector"])
def test_a_node_becomes_complete_with_writes_of_clocks_that_were_far_ahead(world: ModuleType, versioning: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning=versioning, maintenance=True).start()
        peer = cluster.coordinator()
        clocks = [peer.clock, *cluster.clocks.values()]
        for clock in clocks:
            clock.skew_ms = 7_200_000
        for key in KEYS:
            await peer.put(key, f"value of {key}", w=3)
        await peer.rest()
        for clock in clocks:
            clock.skew_ms = 0
        cluster.wipe("n2")
        cluster.revive("n2")
        await asyncio.sleep(5)
        assert cluster.node("n2").complete
        assert await missing(cluster, "n2") == []
        for key in KEYS:
            assert await cluster.held("n2", key) == await cluster.held("n1", key) is not None
        assert cluster.failures == []

    world.run(story())


def test_it_answers_no_reads_before_enough_others_gave_all_that_they_have(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await fill(world, cluster)
        only_at_3 = world.put_record("acknowledged by n1 and n3", 9)
        await cluster.give("n1", "k0", only_at_3)
        await cluster.give("n3", "k0", only_at_3)
        cluster.freeze("n3")
        cluster.wipe("n1")
        cluster.revive("n1")
        await asyncio.sleep(60)
        assert not await answers_reads(cluster, "n1"), "one of two is not enough"
        assert cluster.stored("n1", "k1") is not None, "though it took what there was"
        cluster.thaw(cluster.process("n3"))
        await asyncio.sleep(10)
        assert await answers_reads(cluster, "n1")
        assert await cluster.held("n1", "k0") == only_at_3
        stats = (await cluster.ask("n1", f.Ping(with_stats=True))).stats
        assert stats["healed_partitions"] is None

    world.run(story())


def test_what_it_acknowledged_while_incomplete_is_kept(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await fill(world, cluster)
        cluster.freeze("n3")
        cluster.wipe("n1")
        cluster.revive("n1")
        peer = cluster.coordinator()
        for key in KEYS[:10]:
            assert "n1" in await peer.put(key, "meanwhile", w=2)
        await asyncio.sleep(3)
        cluster.thaw(cluster.process("n3"))
        for key in KEYS[10:20]:
            await peer.put(key, "meanwhile", w=2)
        await asyncio.sleep(10)
        assert await answers_reads(cluster, "n1")
        assert [await peer.get(key) for key in KEYS[:20]] == ["meanwhile"] * 20
        for key in KEYS[:10]:
            assert (await cluster.held("n1", key))[25:].endswith(b"meanwhile")

    world.run(story())


def test_when_the_others_are_incomplete_too_it_takes_from_all_and_says_so(
    world: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await fill(world, cluster)
        cluster.wipe("n1")
        cluster.wipe("n2")
        cluster.revive("n1")
        await asyncio.sleep(20)
        assert not await answers_reads(cluster, "n1"), "n2 may have something yet"
        assert caplog.text.count("may be lost") == 0
        cluster.revive("n2")
        await asyncio.sleep(10)
        for node_id in ("n1", "n2"):
            assert await answers_reads(cluster, node_id)
            assert await missing(cluster, node_id) == []
        assert "8 partitions may be lost" in caplog.text

    world.run(story())


def test_a_node_that_is_alone_is_complete_again_at_once(world: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, maintenance=True).start()
        cluster.wipe("n1")
        cluster.revive("n1")
        await asyncio.sleep(3)
        assert await answers_reads(cluster, "n1")
        assert "may be lost" in caplog.text

    world.run(story())


def test_a_corrupt_range_is_unreadable_until_the_others_gave_it_back(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=SMALL).start()
        await fill(world, cluster)
        (table,) = cluster.flush("n1")
        corrupt(cluster, "n1", table, "k7")
        cluster.freeze("n3")
        unreadable = (await cluster.ask("n1", read(*KEYS))).unreadable
        assert KEYS.index("k7") in unreadable
        assert 0 < len(unreadable) < 20
        await asyncio.sleep(20)
        assert (await cluster.ask("n1", read(*KEYS))).unreadable == unreadable, "one of two is not enough"
        assert await answers_reads(cluster, "n1"), "of the rest it has all"
        await cluster.give("n1", "k7", world.put_record("meanwhile", 7))
        cluster.thaw(cluster.process("n3"))
        await asyncio.sleep(10)
        assert cluster.node("n1").complete
        assert await missing(cluster, "n1") == []
        assert await cluster.held("n1", "k7") == world.put_record("meanwhile", 7)
        cluster.kill("n1", "drop")
        cluster.revive("n1")
        assert await missing(cluster, "n1") == []
        assert cluster.failures == []

    world.run(story())


def test_corruption_of_unknown_extent_makes_the_node_incomplete_until_it_is_healed(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await fill(world, cluster)
        await cluster.give(
            "n1", "k0", world.put_record("newer", 9)
        )  # corruption at the very end looks like a torn tail
        cluster.kill("n1", "drop")
        disk = cluster.disks["n1"]
        (log,) = [path for path in disk.files() if path.endswith(".wal")]
        disk.flip_bit(log, disk.size(log) // 3)
        cluster.revive("n1")
        assert not await answers_reads(cluster, "n1")
        await asyncio.sleep(5)
        assert cluster.node("n1").complete
        assert await missing(cluster, "n1") == []

    world.run(story())


def test_what_is_distrusted_in_the_middle_of_it_begins_anew(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True).start()
        await fill(world, cluster)
        cluster.kill("n4")
        cluster.wipe("n1")
        cluster.revive("n1")
        await asyncio.sleep(10)
        node = cluster.node("n1")
        done = set(node._maintenance._healed)
        assert done, "some partitions are not n4's"
        assert not node.complete
        key = next(key for key in KEYS if cluster.partition(key) in done and "n1" in cluster.owners(key))
        node._engine.erase(cluster.place(key))  # what it is found to have lost
        node._replica.mark_incomplete()
        cluster.tell("n1")  # its vote went with its memory, and it believes nobody until it has it back
        cluster.revive("n4")
        await asyncio.sleep(10)
        assert node.complete
        assert await missing(cluster, "n1") == []

    world.run(story())


def test_a_node_marked_incomplete_during_the_last_takeover_is_not_declared_complete(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await fill(world, cluster)
        cluster.all_delay(0.1)
        cluster.wipe("n1")
        cluster.revive("n1")
        node = cluster.node("n1")
        await asyncio.sleep(1.5)
        asked = len(cluster.between_nodes(f.Tree))
        assert asked
        node._replica.mark_incomplete()
        cluster.tell("n1")
        for _ in range(1200):
            await asyncio.sleep(0.05)
            if node.complete:
                break
        trees = Counter(tree.partition for _, _, tree in cluster.between_nodes(f.Tree) if tree.level == -1)
        assert all(count >= 4 for count in trees.values()), "each was compared with both, twice"
        assert node.complete

    world.run(story())


def test_corruption_that_turns_up_in_the_meantime_is_healed_too(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=SMALL).start()
        await fill(world, cluster)
        (table,) = cluster.flush("n1")
        corrupt(cluster, "n1", table, "k7")
        await cluster.ask("n1", read("k7"))
        cluster.all_delay(0.1)
        await asyncio.sleep(1.3)
        engine = cluster.node("n1")._engine
        first = engine.damaged
        assert first
        other = next(key for key in KEYS if cluster.partition(key) != cluster.partition("k7"))
        corrupt(cluster, "n1", table, other)
        await cluster.ask("n1", read(other))
        assert len(engine.damaged) > len(first)
        await asyncio.sleep(20)
        assert cluster.node("n1").complete
        assert await missing(cluster, "n1") == []

    world.run(story())


def test_corruption_in_what_the_node_keeps_for_itself_is_healed_with_nothing_to_take_over(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=SMALL).start()
        await fill(world, cluster)
        for number in range(5):
            cluster.node("n1")._hints.keep("n9", 9, encode_key(f"h{number}"), b"", world.WALL_MS, counted=False)
        (table,) = cluster.flush("n1")
        disk = cluster.disks["n1"]
        disk.flip_bit(table, bytes(disk._names[table].data).index(b"\xff\xffh"))
        list(cluster.node("n1")._hints.waiting("n9"))
        assert not cluster.node("n1").complete
        await asyncio.sleep(5)
        assert cluster.node("n1").complete
        assert await missing(cluster, "n1") == []
        assert cluster.failures == []

    world.run(story())


# ---- repair, now and then ----


def repairs(cluster: Any) -> list[tuple[str, int]]:
    """(leader, partition) of every comparison that was begun, in order."""
    return [
        (source, tree.partition)
        for source, target, tree in cluster.between_nodes(f.Tree)
        if tree.level == -1 and target == next(n for n in cluster.state.ring.owners(tree.partition) if n != source)
    ]


def test_each_partition_is_repaired_once_in_a_period_by_its_first_owner(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=REPAIRING).start()
        ring = cluster.state.ring
        await asyncio.sleep(100)
        once = Counter(repairs(cluster))
        assert once == {(ring.owners(partition)[0], partition): 1 for partition in range(8)}
        await asyncio.sleep(300)
        often = Counter(repairs(cluster))
        assert set(often) == set(once)
        assert all(count in {3, 4} for count in often.values()), often
        assert sum(cluster.node(node_id).mended["exchanges"] for node_id in cluster.ids) == 2 * sum(often.values())

    world.run(story())


def test_a_repair_mends_what_nobody_reads(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=REPAIRING).start()
        for number, key in enumerate(KEYS):
            await cluster.give(cluster.ids[number % 3], key, world.put_record(key))
        await asyncio.sleep(205)
        for key in KEYS:
            assert [await cluster.held(n, key) for n in cluster.owners(key)] == [world.put_record(key)] * 3

    world.run(story())


def test_a_restart_goes_on_where_the_former_run_was(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=REPAIRING).start()
        await asyncio.sleep(101)
        await fill(world, cluster)  # and so the log is synced
        before = Counter(repairs(cluster))
        for node_id in cluster.ids:
            cluster.kill(node_id, "drop")
        cluster.frames.clear()
        for node_id in cluster.ids:
            cluster.revive(node_id)
        await asyncio.sleep(99)
        assert len(repairs(cluster)) <= len(before), "none is repaired twice in a period"
        times = {node_id: dict(cluster.node(node_id)._maintenance._repaired_ms) for node_id in cluster.ids}
        first = [partition for known in times.values() for partition in known]
        assert sorted(first) == list(range(8))
        assert all(ms > world.WALL_MS for known in times.values() for ms in known.values())

    world.run(story())


def test_what_is_overdue_after_a_downtime_is_repaired_at_once(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=REPAIRING).start()
        await asyncio.sleep(101)
        await fill(world, cluster)
        for node_id in cluster.ids:
            cluster.kill(node_id, "drop")
        await asyncio.sleep(1000)
        cluster.frames.clear()
        for node_id in cluster.ids:
            cluster.revive(node_id)
        await asyncio.sleep(10)
        ring = cluster.state.ring
        assert Counter(repairs(cluster)) == {(ring.owners(partition)[0], partition): 1 for partition in range(8)}

    world.run(story())


def test_a_repair_that_found_an_owner_away_is_done_when_it_is_back(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=REPAIRING).start()
        cluster.kill("n3")
        await asyncio.sleep(150)
        leaders = ("n1", "n2")
        assert all(cluster.node(node_id).mended["exchanges"] == 0 for node_id in leaders)
        assert len(repairs(cluster)) < 3000, "tried again and again, but not without a pause"
        cluster.revive("n3")
        await asyncio.sleep(10)
        done = {partition for node_id in leaders for partition in cluster.state.ring.first_partitions_of(node_id)}
        assert sum(cluster.node(node_id).mended["exchanges"] for node_id in leaders) == 2 * len(done)

    world.run(story())


def test_an_incomplete_node_leads_no_repair(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=REPAIRING).start()
        node, led = cluster.node("n1"), []

        async def repair(_: Any, partition: int, *, purge: bool) -> Mended:
            assert purge
            led.append(partition)
            return Mended()

        node._maintenance.anti_entropy.repair = repair
        node._directory.set_complete(False)
        cluster.freeze("n3")
        await asyncio.sleep(120)
        assert not node.complete
        assert led == []
        cluster.thaw(cluster.process("n3"))
        await asyncio.sleep(110)
        assert led, "once it is complete it does"

    world.run(story())


def test_a_repair_that_was_asked_for_counts_as_the_periods(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=REPAIRING).start()
        ring = cluster.state.ring
        for partition in range(8):
            first, second, _ = ring.owners(partition)
            await cluster.ask(first, f.Repair(partition, 5.0))
            await cluster.ask(second, f.Repair(partition, 5.0))
        assert all(
            not set(cluster.node(n)._maintenance._repaired_ms) - {*ring.first_partitions_of(n)} for n in cluster.ids
        )
        cluster.frames.clear()
        await asyncio.sleep(98)
        assert repairs(cluster) == []
        await asyncio.sleep(5)
        assert len(repairs(cluster)) == 8

    world.run(story())


# ---- bugs ----


def test_a_node_that_refuses_what_it_is_given_is_incomplete(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await fill(world, cluster)
        cluster.wipe("n1")
        cluster.revive("n1")
        handlers = cluster.node("n1")._replica.handlers
        write = handlers[f.Write]
        handlers[f.Write] = lambda _: (f.NodeRefused("old", "as if it had been under way for too long"), 0)
        await asyncio.sleep(5)
        assert not await answers_reads(cluster, "n1"), "it would say that they are absent"
        handlers[f.Write] = write
        await asyncio.sleep(20)
        assert await missing(cluster, "n1") == []

    world.run(story())


def test_one_corrupt_record_does_not_cost_those_that_came_with_it(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        keys = [key for key in (f"k{number}" for number in range(300)) if cluster.partition(key) == 3]
        only_at_2 = keys[0]
        await fill(world, cluster, keys[1:-1])
        await cluster.give("n2", only_at_2, world.put_record("acknowledged by n1 and n2"))
        cluster.node("n2")._engine.replace(cluster.place(keys[-1]), b"\x01garbage")
        cluster.wipe("n1")
        cluster.revive("n1")
        await asyncio.sleep(20)
        answer = await cluster.ask("n1", read(only_at_2))
        assert isinstance(answer, f.Incomplete) or answer.records[0] is not None

    world.run(story())


def test_corruption_in_a_partition_that_was_taken_over_already_is_not_forgotten(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True, config=SMALL).start()
        await fill(world, cluster)
        cluster.kill("n4")
        cluster.wipe("n1")
        cluster.revive("n1")
        await asyncio.sleep(6)
        node = cluster.node("n1")
        healed = set(node._maintenance._healed)
        assert healed, "some partitions are not n4's"
        assert not node.complete
        (table,) = cluster.flush("n1")
        key = next(key for key in KEYS if cluster.partition(key) in healed and "n1" in cluster.owners(key))
        corrupt(cluster, "n1", table, key)
        await cluster.ask("n1", f.Fetch(1, [encode_key(key)]))
        assert node._engine.damaged
        cluster.revive("n4")
        await asyncio.sleep(20)
        assert node.complete
        assert await missing(cluster, "n1") == []

    world.run(story())


def test_from_a_node_with_corruption_of_unknown_extent_is_taken_what_is_left(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await fill(world, cluster)
        acked = world.put_record("acknowledged by n1 and n2", 9)
        for node_id in ("n1", "n2"):
            await cluster.give(node_id, "k0", acked)
        await cluster.give("n1", "k1", world.put_record("later", 9))
        cluster.kill("n1", "drop")
        disk = cluster.disks["n1"]
        (log,) = [path for path in disk.files() if path.endswith(".wal")]
        disk.flip_bit(log, disk.size(log) // 3)  # not where k0 is for the last time
        cluster.wipe("n2")
        cluster.revive("n1")
        cluster.revive("n2")
        assert cluster.stored("n1", "k0") == acked
        await asyncio.sleep(10)
        assert await cluster.held("n2", "k0") == acked

    world.run(story())


def long_after(cluster: Any) -> Any:
    """Let the records that the tests give be older than the grace."""
    for clock in cluster.clocks.values():
        clock.skew_ms = 20 * 86_400_000
    return cluster


def test_what_was_forgotten_does_not_come_back_with_the_corruption_of_its_marker(world: ModuleType) -> None:
    async def story() -> None:
        cluster = long_after(world.Cluster(3, maintenance=True, config=SMALL)).start()
        node = cluster.node("n1")
        for node_id in cluster.ids:
            await cluster.give(node_id, "a", world.put_record("deleted long ago"))
            cluster.flush(node_id)
            await cluster.give(node_id, "a", world.delete_record(5))
            cluster.node(node_id)._engine.erase(cluster.place("a"))  # it was purged on all
        (table,) = cluster.flush("n1")
        corrupt(cluster, "n1", table, "a")
        assert (await cluster.ask("n1", read("a"))).unreadable == [0]
        await asyncio.sleep(5)
        assert node.complete
        assert await cluster.held("n1", "a") is None
        await cluster.ask("n1", f.Repair(cluster.partition("a"), 5.0))
        assert await cluster.held("n2", "a") is None

    world.run(story())


@pytest.mark.parametrize(("r", "w", "away"), [(2, 2, ()), (1, 3, ()), (1, 3, ("n2",))])
def test_what_was_forgotten_does_not_come_back_with_the_corruption_of_a_log(
    world: ModuleType, r: int, w: int, away: tuple[str, ...]
) -> None:
    """One intact node of three that acknowledge together is enough to say what was not acknowledged."""

    async def story() -> None:
        cluster = long_after(world.Cluster(3, maintenance=True, config=SMALL, r=r, w=w)).start()
        for node_id in cluster.ids:
            await cluster.give(node_id, "a", world.put_record("deleted long ago"))
            cluster.flush(node_id)
            await cluster.give(node_id, "a", world.delete_record(5))
            cluster.node(node_id)._engine.erase(cluster.place("a"))
            await cluster.give(node_id, "b", world.put_record("synced with it"))
            await cluster.give(node_id, "c", world.put_record("later"))
        cluster.kill("n1", "drop")
        disk = cluster.disks["n1"]
        log = [path for path in disk.files() if path.endswith(".wal")][-1]
        data = disk._names[log].data
        first, last = bytes(data).index(cluster.place("a")), bytes(data).rindex(cluster.place("a"))
        data[first:last] = bytes(last - first)  # a sector: the delete, and that it was forgotten
        for node_id in away:
            cluster.kill(node_id)
        cluster.revive("n1")
        await asyncio.sleep(10)
        assert cluster.node("n1").complete
        for node_id in away:
            cluster.revive(node_id)
        assert [await cluster.held(node_id, "a") for node_id in cluster.ids] == [None] * 3

    world.run(story())


def test_corruption_under_a_repairs_mark_costs_no_more_than_the_mark(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(
            3, maintenance=True, config=msgspec.structs.replace(SMALL, repair_every_s=100.0)
        ).start()
        await asyncio.sleep(101)
        (table,) = cluster.flush("n1")
        cluster.kill("n1", "keep")
        disk = cluster.disks["n1"]
        disk.flip_bit(table, bytes(disk._names[table].data).index(b"\xff\xffr"))
        cluster.revive("n1")
        await asyncio.sleep(20)
        assert cluster.failures == []

    world.run(story())


def test_a_mark_from_the_future_does_not_put_repairs_off(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=REPAIRING).start()
        cluster.clocks["n1"].skew_ms = 3_600_000
        await asyncio.sleep(101)
        cluster.clocks["n1"].skew_ms = 0
        await fill(world, cluster)
        cluster.kill("n1", "drop")
        cluster.revive("n1")
        await asyncio.sleep(205)
        assert cluster.node("n1").mended["exchanges"] > 0

    world.run(story())


def test_a_node_that_is_no_member_any_more_does_not_fail(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True, config=REPAIRING).start()
        await asyncio.sleep(3)
        ring = claim([Member(node_id) for node_id in ("n1", "n2", "n3")], 8, 3)
        cluster.change(msgspec.structs.replace(cluster.state, ring=ring, version=9))
        await asyncio.sleep(20)
        assert cluster.failures == []

    world.run(story())


def test_a_repair_that_is_overtaken_by_a_stop_is_answered(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await fill(world, cluster)
        cluster.all_delay(0.1)
        task = asyncio.create_task(cluster.ask("n1", f.Repair(0, 20.0)))
        await asyncio.sleep(0.3)
        await cluster.ask("n1", f.Stop())
        assert isinstance(await task, f.NodeRefused)

    world.run(story())


def test_hints_that_were_corrupted_do_not_count_for_ever(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=SMALL).start()
        cluster.node("n1")._hints.keep("n9", 9, encode_key("h"), b"", world.WALL_MS, counted=False)
        (table,) = cluster.flush("n1")
        disk = cluster.disks["n1"]
        disk.flip_bit(table, bytes(disk._names[table].data).index(b"\xff\xffh"))
        await asyncio.sleep(5)
        assert cluster.node("n1").complete
        assert list(cluster.node("n1")._hints.waiting("n9")) == []
        assert cluster.node("n1").hints_waiting == {}

    world.run(story())


@pytest.mark.parametrize(("late", "also_on", "stays"), [(True, (), False), (True, ("n3",), True), (False, (), True)])
def test_corruption_costs_no_record_that_another_owner_has_or_that_is_recent(
    world: ModuleType, late: bool, also_on: tuple[str, ...], stays: bool
) -> None:
    """A record beside the corruption that only this node has is forgotten if older than the grace: no W acknowledged it."""

    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=SMALL)
        cluster = (long_after(cluster) if late else cluster).start()
        record = world.put_record("old", operation=2)
        for node_id in ("n1", *also_on):
            await cluster.give(node_id, "a", record)
        table = cluster.flush("n1")[0]
        await cluster.give("n1", "a", world.put_record("new", 5))
        newer = next(name for name in cluster.flush("n1") if name != table)
        corrupt(cluster, "n1", newer, "a")
        assert (await cluster.ask("n1", read("a"))).unreadable == [0]
        await asyncio.sleep(5)
        assert cluster.node("n1").complete
        assert await cluster.held("n1", "a") == (record if stays else None)

    world.run(story())


def test_a_node_is_not_complete_by_what_is_not_synced_yet(world: ModuleType) -> None:
    """A record that another owner has just sent looks like the node's own: without a sync it is lost with the power."""

    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=SMALL).start()
        for node_id in ("n2", "n3"):
            await cluster.give(node_id, "a", world.put_record("v"))
        cluster.kill("n1")
        cluster.disks["n1"] = world.SimDisk()
        cluster.revive("n1")
        executor = cluster.process("n1").executor
        executor.gate.clear()
        sending = asyncio.ensure_future(cluster.give("n1", "a", world.put_record("v")))
        await asyncio.sleep(10)
        assert not cluster.node("n1").complete
        executor.gate.set()
        await sending
        await asyncio.sleep(3)
        assert cluster.node("n1").complete

    world.run(story())


def test_what_nodes_ask_of_each_other_is_no_load_and_nobody_gives_way_to_it(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, maintenance=True).start()
        node = cluster.node("n1")
        throttle = node._maintenance.throttle

        async def rests() -> bool:
            began_s = asyncio.get_running_loop().time()
            await throttle.rest(began_s - 0.1)
            return asyncio.get_running_loop().time() > began_s

        scan = f.Scan(1, b"", b"\xff", 10, False, False, [3], background=True)
        assert isinstance(await cluster.ask("n1", scan), f.ScanDone)
        assert not await rests()
        assert isinstance(await cluster.ask("n1", msgspec.structs.replace(scan, background=False)), f.ScanDone)
        assert await rests()
        await asyncio.sleep(WINDOW_S)
        load = (await cluster.ask("n1", f.Ping(with_stats=True))).stats["load"]
        assert load["ops_per_s"] * WINDOW_S == pytest.approx(1, rel=0.2), load

    world.run(story())
