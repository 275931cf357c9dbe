"""A node was away, and is given what it missed (P11): all of it, nobody else's, no faster than allowed, and not too late."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.config import BucketConfig, NodeConfig
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.repair import handoff
from raykv.ring import Member, claim
from raykv.storage import Damage
from raykv.versions import merging

if TYPE_CHECKING:
    from types import ModuleType

SMALL = NodeConfig(
    memtable_bytes=4096, max_unflushed_bytes=1 << 20, block_cache_bytes=0, block_bytes=256, compression="none"
)


def keep(
    world: ModuleType, cluster: Any, holder: str, target: str, key: str, record: bytes = b"", age_ms: int = 0
) -> None:
    """A hint that counts if it has a record."""
    made_ms = cluster.clocks[holder].wall_ms() - age_ms
    cluster.node(holder)._hints.keep(target, 1, encode_key(key), record, made_ms, counted=bool(record))


def waiting(cluster: Any, target: str) -> int:
    return sum(cluster.node(node_id).hints_waiting.get(target, 0) for node_id in cluster.ids if cluster.runs(node_id))


def replayed(cluster: Any) -> int:
    return sum(cluster.node(node_id)._maintenance.handoff.replayed for node_id in cluster.ids)


async def replay(cluster: Any, holder: str, suspects: tuple[str, ...] = ()) -> None:
    """Do now what the node's own loop does once a second."""
    await cluster.node(holder)._maintenance.handoff.run(cluster.state, suspects)


@pytest.mark.parametrize("versioning", ["lww", "vector"])
def test_a_node_that_was_away_is_given_all_that_it_missed_without_a_read(world: ModuleType, versioning: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning=versioning, maintenance=True).start()
        peer = cluster.coordinator()
        keys = [f"k{number}" for number in range(30)]
        for key in keys[:15]:
            await peer.put(key, "before", w=3)
        cluster.kill("n3")
        for key in keys:
            await peer.put(key, "while it was away")
        await peer.delete(keys[0])
        await peer.put(keys[1], "again")
        await peer.rest()
        assert 30 <= waiting(cluster, "n3") <= 60
        hints = waiting(cluster, "n3")
        await asyncio.sleep(20)
        assert waiting(cluster, "n3") == hints, "as long as it is away they wait"
        read_before = len([1 for *_, frame in cluster.frames if b"Read" in frame])
        cluster.revive("n3")
        await asyncio.sleep(5)
        assert waiting(cluster, "n3") == 0
        assert replayed(cluster) == hints
        assert len([1 for *_, frame in cluster.frames if b"Read" in frame]) == read_before
        for key in keys:
            copies = [await cluster.held(node_id, key) for node_id in cluster.ids]
            assert copies[0] is not None
            assert copies == copies[:1] * 3, key
        assert cluster.failures == []

    world.run(story())


def test_a_suspected_node_is_left_alone(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await cluster.give("n1", "a", world.put_record("v"))
        keep(world, cluster, "n1", "n2", "a")
        keep(world, cluster, "n1", "n3", "a")
        await replay(cluster, "n1", ("n2",))
        assert cluster.node("n1").hints_waiting == {"n2": 1}
        assert {target for _, target, _ in cluster.between_nodes(f.Write)} == {"n3"}
        await asyncio.sleep(3)
        assert cluster.node("n1").hints_waiting == {}, "the node's own loop gives it to whom it does not suspect"
        assert await cluster.held("n2", "a") == world.put_record("v")

    world.run(story())


def test_the_loop_asks_the_failure_detector_whom_to_leave_alone(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await asyncio.sleep(10)
        cluster.kill("n3")
        await asyncio.sleep(20)
        assert cluster.node("n1")._maintenance.suspects() == ["n3"]
        await cluster.give("n1", "a", world.put_record("v"))
        keep(world, cluster, "n1", "n3", "a")
        await asyncio.sleep(20)
        assert cluster.between_nodes(f.Write) == []
        assert cluster.node("n1").hints_waiting == {"n3": 1}

    world.run(story())


def test_what_is_sent_is_what_is_held_then(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        keep(world, cluster, "n1", "n2", "a")
        keep(world, cluster, "n1", "n2", "not there any more")
        await cluster.give("n1", "a", world.put_record("newest", 9))
        await replay(cluster, "n1")
        assert await cluster.held("n2", "a") == world.put_record("newest", 9)
        assert cluster.node("n1").hints_waiting == {}
        ((_, _, write),) = cluster.between_nodes(f.Write)
        assert [key for key, _ in write.items] == [encode_key("a")]

    world.run(story())


def test_a_write_says_how_old_it_is(world: ModuleType) -> None:
    """A record that the holder owns is of now; one that it keeps for another is as old as the hint."""

    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True, gc_grace_s=1000.0).start()
        await cluster.give("n1", "a", world.put_record("v"))
        keep(world, cluster, "n1", "n2", "a", age_ms=200_000)
        await replay(cluster, "n1")
        keep(world, cluster, "n1", "n2", "b", world.put_record("v"), age_ms=200_000)
        keep(world, cluster, "n1", "n2", "c", world.put_record("v"), age_ms=300_000)
        now_ms = cluster.clocks["n1"].wall_ms()
        await replay(cluster, "n1")
        made = [write.made_ms for _, _, write in cluster.between_nodes(f.Write)]
        assert made[0] >= world.WALL_MS
        assert min(made[1:]) == now_ms - 300_000
        assert cluster.node("n1").hints_waiting == {}

    world.run(story())


@pytest.mark.parametrize("counted", [False, True])
def test_a_write_of_a_clock_that_was_far_ahead_is_given_too(world: ModuleType, counted: bool) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True).start()
        far = world.put_record("v", 7_200_000)
        for clock in cluster.clocks.values():
            clock.skew_ms = 7_200_000
        holder, target, *_ = cluster.owners("a")
        await cluster.give(holder, "a", far)
        keep(world, cluster, holder, target, "a", far if counted else b"")
        for clock in cluster.clocks.values():
            clock.skew_ms = 0
        await replay(cluster, holder)
        assert await cluster.held(target, "a") == far
        assert waiting(cluster, target) == 0

    world.run(story())


def test_a_write_that_counts_is_not_given_up_for_the_age_of_one_that_it_replaced(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True, sloppy=True, gc_grace_s=100.0).start()
        owners = cluster.owners("a")
        (holder,) = {*cluster.ids} - {*owners}
        old, new = world.put_record("old", 1), world.put_record("new", 2)
        keep(world, cluster, holder, owners[0], "a", old, age_ms=51_000)
        keep(world, cluster, holder, owners[0], "a", new, age_ms=2_000)
        await replay(cluster, holder)
        assert cluster.node(holder)._maintenance.handoff.expired == 0
        assert await cluster.held(owners[0], "a") == new

    world.run(story())


@pytest.mark.parametrize(("kind", "age_ms", "goes"), [
    ("strict", 10_000, True),
    ("strict", 10_001, False),
    ("long", 50_000, True),
    ("long", 50_001, False),
    ("counted", 10_001, True),
    ("counted", 50_000, True),
    ("counted", 50_001, False),
])  # fmt: skip
def test_what_is_too_old_is_given_up(world: ModuleType, kind: str, age_ms: int, goes: bool) -> None:
    async def story() -> None:
        config = NodeConfig(block_cache_bytes=0, max_hint_age_s=1000.0 if kind == "long" else 10.0)
        cluster = world.Cluster(3, maintenance=True, config=config, gc_grace_s=100.0).start()
        await cluster.give("n1", "a", world.put_record("v"))
        keep(world, cluster, "n1", "n2", "a", world.put_record("v") if kind == "counted" else b"", age_ms)
        hints = cluster.node("n1")._maintenance.handoff
        # The peer refuses what is older than half the grace, by its own clock: give the message time to be young enough.
        cluster.clocks["n2"].skew_ms = -1000
        await replay(cluster, "n1")
        assert cluster.node("n1").hints_waiting == {}
        assert (hints.replayed, hints.expired) == (int(goes), int(not goes))
        assert (await cluster.held("n2", "a") is not None) == goes

    world.run(story())


def test_hints_of_a_dropped_bucket_go_and_of_one_not_heard_of_yet_stay(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        second = BucketConfig(name="second", n=3, r=2, w=2, versioning="lww")
        cluster.change(cluster.state.with_bucket(second).without_bucket("default"))
        store = cluster.node("n1")._hints
        for bucket_id in (1, 2, 3):
            store.keep("n2", bucket_id, encode_key("a"), world.put_record("v"), world.WALL_MS, counted=True)
        await replay(cluster, "n1")
        assert [hint.bucket_id for hint in store.waiting("n2")] == [3]
        assert {write.bucket_id for _, _, write in cluster.between_nodes(f.Write)} == {2}
        assert cluster.node("n1")._maintenance.handoff.replayed == 1

    world.run(story())


def test_what_the_holder_owns_no_more_is_given_to_nobody(world: ModuleType) -> None:
    """The key was deleted and forgotten while the holder was away, and it has not dropped what it held (P10)."""

    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True).start()
        owners = cluster.owners("a")
        (former,) = {*cluster.ids} - {*owners}
        mine = next(
            key for key in map(str, range(100)) if former in cluster.owners(key) and owners[0] in cluster.owners(key)
        )
        for key in ("a", mine):
            await cluster.give(former, key, world.put_record("v"))
            keep(world, cluster, former, owners[0], key)
        await replay(cluster, former)
        for node_id in owners:
            assert await cluster.held(node_id, "a") is None
        assert await cluster.held(owners[0], mine) == world.put_record("v")
        assert cluster.node(former).hints_waiting == {}

    world.run(story())


def test_when_its_node_owns_the_key_no_more_a_hint_goes_to_the_owners(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True).start()
        keys = [key for key in (f"k{number}" for number in range(50)) if "n4" in cluster.owners(key)][:6]
        for key in keys[:3]:
            keep(world, cluster, "n1", "n4", key, world.put_record(key))
        for key in keys[3:]:  # n1 may not own them now: it will then
            await cluster.give("n1", key, world.put_record(key))
            keep(world, cluster, "n1", "n4", key)
        cluster.kill("n4")
        ring = claim([Member(node_id) for node_id in ("n1", "n2", "n3")], 8, 3)
        cluster.ids.remove("n4")
        cluster.change(msgspec.structs.replace(cluster.state, ring=ring, version=9))
        cluster.freeze("n3")
        await replay(cluster, "n1")
        assert waiting(cluster, "n4") == 6, "not before all of them have it"
        cluster.thaw(cluster.process("n3"))
        await asyncio.sleep(5)
        assert waiting(cluster, "n4") == 0
        for key in keys:
            for node_id in cluster.ids:
                assert await cluster.held(node_id, key) == world.put_record(key)

    world.run(story())


def test_a_bucket_of_fewer_copies_goes_to_its_own_primaries(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        cluster.change(cluster.state.with_bucket(BucketConfig(name="single", n=1, r=1, w=1, versioning="lww")))
        first, second, third = cluster.owners("a")
        cluster.node(third)._hints.keep(second, 2, encode_key("a"), world.put_record("v"), world.WALL_MS, counted=True)
        await replay(cluster, third)
        assert [target for _, target, _ in cluster.between_nodes(f.Write)] == [first]
        assert waiting(cluster, second) == 0

    world.run(story())


def test_many_hints_go_batch_by_batch(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "BATCH_ITEMS", 7)

    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        for number in range(50):
            keep(world, cluster, "n1", "n2", f"k{number:02}", world.put_record("v"))
        await replay(cluster, "n1")
        sizes = [len(write.items) for _, _, write in cluster.between_nodes(f.Write)]
        assert sizes == [7] * 7 + [1]
        assert cluster.node("n1").hints_waiting == {}

    world.run(story())


def test_no_batch_is_larger_than_some_bytes(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoff, "BATCH_BYTES", 3000)

    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        for number in range(20):
            await cluster.give("n1", f"own{number}", world.put_record("x" * 1000))
            keep(world, cluster, "n1", "n2", f"k{number:02}", world.put_record("x" * 1000))
            keep(world, cluster, "n1", "n2", f"own{number}")
        await replay(cluster, "n1")
        sizes = [sum(len(record) for _, record in write.items) for _, _, write in cluster.between_nodes(f.Write)]
        assert max(sizes) < 3000 + 1100
        assert sum(sizes) == 40 * len(world.put_record("x" * 1000))
        assert cluster.node("n1").hints_waiting == {}

    world.run(story())


def test_replay_is_throttled(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(block_cache_bytes=0, background_bytes_per_s=10 * 1024)
        cluster = world.Cluster(3, maintenance=True, config=config).start()
        arrived: list[tuple[float, int]] = []
        serve = cluster.process("n2").serve

        async def watched(frame: bytes) -> bytes:
            if isinstance(f.node_requests.decode(frame).body, f.Write):
                arrived.append((asyncio.get_running_loop().time(), len(frame)))
            return await serve(frame)

        cluster.process("n2").serve = watched
        for number in range(100):
            await cluster.give("n1", f"k{number}", world.put_record("x" * 1000))
            keep(world, cluster, "n1", "n2", f"k{number}")
        await asyncio.sleep(9)  # the node's own loop is at it
        assert cluster.node("n1").hints_waiting
        await asyncio.sleep(4)
        assert cluster.node("n1").hints_waiting == {}
        total = sum(size for _, size in arrived)
        assert total > 100_000
        for at, _ in arrived:
            within = sum(size for time, size in arrived if at <= time < at + 2)
            assert within < 2 * 10 * 1024 + 2 * 3600, "nor does a batch take a second's worth at once"

    world.run(story())


def test_a_holder_that_dies_in_the_middle_goes_on_after_its_restart(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(block_cache_bytes=0, background_bytes_per_s=4 * 1024)
        cluster = world.Cluster(3, maintenance=True, config=config).start()
        keys = [f"k{number}" for number in range(40)]
        for key in keys:
            await cluster.give("n1", key, world.put_record("x" * 400))
            keep(world, cluster, "n1", "n2", key)
        await cluster.give("n1", "last", world.put_record("v"))
        await asyncio.sleep(4)
        left = waiting(cluster, "n2")
        assert 0 < left < 40
        cluster.kill("n1", "drop")
        cluster.revive("n1")
        assert left <= waiting(cluster, "n2") <= 40, "what was not noted as delivered is delivered once more"
        await asyncio.sleep(20)
        assert waiting(cluster, "n2") == 0
        for key in keys:
            assert await cluster.held("n2", key) == world.put_record("x" * 400)
        assert cluster.failures == []

    world.run(story())


@pytest.mark.parametrize("how", ["dies", "refuses", "is silent"])
def test_a_hint_stays_until_it_is_durable_there(world: ModuleType, how: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        keep(world, cluster, "n1", "n2", "a", world.put_record("v"))
        process = cluster.process("n2")
        if how == "dies":
            process.executor.gate.clear()
            task = asyncio.create_task(replay(cluster, "n1"))
            await asyncio.sleep(0.1)
            cluster.kill("n2", "drop")
            await task
        elif how == "refuses":
            cluster.node("n2")._stopped = "for a test"
            await replay(cluster, "n1")
        else:
            cluster.freeze("n2")
            await replay(cluster, "n1")
        assert cluster.node("n1").hints_waiting == {"n2": 1}
        assert cluster.node("n1")._maintenance.handoff.replayed == 0
        if how == "dies":
            cluster.revive("n2")
        elif how == "refuses":
            cluster.node("n2")._stopped = None
        else:
            cluster.thaw(process)
        await asyncio.sleep(10)
        assert cluster.node("n1").hints_waiting == {}
        assert await cluster.held("n2", "a") == world.put_record("v")

    world.run(story())


def test_an_answer_that_does_not_fit_delivers_nothing(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        keep(world, cluster, "n1", "n2", "a", world.put_record("v"))

        async def confused(_: bytes) -> bytes:
            return f.node_answers.encode(f.NodeAnswer(1, f.Pong()))

        cluster.process("n2").serve = confused
        await replay(cluster, "n1")
        assert cluster.node("n1").hints_waiting == {"n2": 1}

    world.run(story())


def test_what_changes_while_it_is_under_way_is_sent_once_more(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        keep(world, cluster, "n1", "n2", "a", world.put_record("old", 1))
        cluster.network.delays["node/n1", "node/n2"] = 0.3
        task = asyncio.create_task(replay(cluster, "n1"))
        await asyncio.sleep(0.1)
        keep(world, cluster, "n1", "n2", "a", world.put_record("new", 2))
        await task
        assert cluster.node("n1").hints_waiting == {"n2": 1}
        await asyncio.sleep(5)
        assert cluster.node("n1").hints_waiting == {}
        assert await cluster.held("n2", "a") == world.put_record("new", 2)

    world.run(story())


def test_one_node_that_is_away_does_not_keep_the_others_from_theirs(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await cluster.give("n1", "a", world.put_record("v"))
        cluster.kill("n2")
        keep(world, cluster, "n1", "n2", "a")
        keep(world, cluster, "n1", "n3", "a")
        await replay(cluster, "n1")
        assert cluster.node("n1").hints_waiting == {"n2": 1}

    world.run(story())


# ---- bugs ----


def test_a_hint_that_finds_no_room_is_not_forgotten(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, versioning="vector").start()
        await cluster.give("n1", "a", world.vector_record(1, "x" * 900))
        keep(world, cluster, "n2", "n1", "a", world.vector_record(2, "y" * 900))
        monkeypatch.setattr(merging, "MAX_STORED_BYTES", 1000)
        await replay(cluster, "n2")
        assert cluster.node("n2").hints_waiting == {"n1": 1}, "it was an acknowledgement"

    world.run(story())


def test_corruption_under_what_a_hint_stands_for_costs_no_more_than_its_range(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, config=SMALL).start()
        cluster.kill("n3")
        for number in range(30):
            for node_id in ("n1", "n2"):
                await cluster.give(node_id, f"k{number}", world.put_record("x" * 50))
        (table, *_) = cluster.flush("n1")
        for number in range(30):
            keep(world, cluster, "n1", "n3", f"k{number}")
        data = bytes(cluster.disks["n1"]._names[table].data)
        corrupt = next(f"k{number}" for number in range(30) if cluster.place(f"k{number}") in data)
        cluster.disks["n1"].flip_bit(table, data.index(cluster.place(corrupt)))
        cluster.revive("n3")
        await asyncio.sleep(20)
        assert cluster.failures == []
        assert cluster.node("n1").complete

    world.run(story())


@pytest.mark.parametrize("extent", ["a range", "unknown"])
def test_a_hint_for_what_cannot_be_read_now_is_not_forgotten(world: ModuleType, extent: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        await cluster.give("n1", "a", world.put_record("v"))
        keep(world, cluster, "n1", "n2", "a")
        place = cluster.place("a")
        known = (place, place + b"\x00") if extent == "a range" else (None, None)
        cluster.node("n1")._engine._note(Damage("some.sst", 0, *known, "corruption"))
        await replay(cluster, "n1")
        assert cluster.between_nodes(f.Write) or cluster.node("n1").hints_waiting == {"n2": 1}

    world.run(story())
