"""Owners compare, repair, forget together (P10), complete each other; schedules in which a delete must not come undone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.config import MAX_BATCH_ITEMS, BucketConfig, NodeConfig
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.keys import encode_key
from raykv.repair import agreements, anti_entropy
from raykv.repair.anti_entropy import Healed, Mended, PeerLacks, shares
from raykv.repair.merkle import digest
from raykv.versions import merge

if TYPE_CHECKING:
    from types import ModuleType

GRACE_S = 100.0
QUIET = NodeConfig(block_cache_bytes=0, gossip_every_s=30)
SMALL = NodeConfig(
    memtable_bytes=4096, max_unflushed_bytes=1 << 20, block_cache_bytes=0, block_bytes=256, compression="none"
)


def keys_in(cluster: Any, partition: int, count: int) -> list[str]:
    return [key for key in (f"k{n}" for n in range(40 * count + 200)) if cluster.partition(key) == partition][:count]


async def give(cluster: Any, node_id: str, records: dict[str, bytes]) -> None:
    items = [(encode_key(key), record) for key, record in records.items()]
    for at in range(0, len(items), MAX_BATCH_ITEMS):
        answer = await cluster.ask(node_id, f.Write(1, items[at : at + MAX_BATCH_ITEMS]))
        assert isinstance(answer, f.WriteDone), answer


async def repair(cluster: Any, node_id: str, partition: int, timeout_s: float = 60.0) -> dict[str, Any]:
    answer = await cluster.ask(node_id, f.Repair(partition, timeout_s))
    assert isinstance(answer, f.Repaired), answer
    return answer.figures


async def copies(cluster: Any, key: str) -> list[bytes | None]:
    return [await cluster.held(node_id, key) for node_id in cluster.owners(key)]


def of(cluster: Any, node_id: str) -> Any:
    return cluster.node(node_id)._maintenance.anti_entropy


# ---- figures ----


def test_figures_add_up() -> None:
    one = Mended(compared=1, fetched=2, sent=3, bytes=4, purged=5, exchanges=6)
    one.add(Mended(compared=10, fetched=20, sent=30, bytes=40, purged=50, exchanges=60))
    assert one == Mended(11, 22, 33, 44, 55, 66, complete=True)
    one.add(Mended(complete=False))
    one.add(Mended())
    assert one.figures() == {
        "compared": 11,
        "fetched": 22,
        "sent": 33,
        "bytes": 44,
        "purged": 55,
        "exchanges": 66,
        "complete": False,
    }


def test_buckets_with_the_same_owners_are_one_share(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4)
        state = cluster.state
        for name, n, w in (("a", 3, 3), ("b", 1, 1), ("c", 3, 1)):
            state = state.with_bucket(BucketConfig(name=name, n=n, r=1, w=w))
        owners = state.ring.owners(5)
        found = [share[:3] for share in shares(state, 5)]
        assert found == [(owners[:1], (3,), 1), (owners, (1, 2, 4), 3)], "the least W decides"
        assert [share[:3] for share in shares(cluster.state, 5)] == [(owners, (1,), 2)]

    world.run(story())


# ---- comparing and mending ----


def test_two_replicas_are_equal_afterwards_and_the_figures_say_what_was_done(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(2, copies=2, maintenance=True).start()
        keys = keys_in(cluster, 3, 300)
        both = {key: world.put_record("both") for key in keys[:200]}
        await give(cluster, "n1", both | {key: world.put_record("older", 1) for key in keys[200:220]})
        await give(cluster, "n2", both | {key: world.put_record("newer", 2, operation=2) for key in keys[200:220]})
        await give(cluster, "n1", {key: world.put_record("n1 only") for key in keys[220:250]})
        await give(cluster, "n2", {key: world.put_record("n2 only") for key in keys[250:300]})
        await give(cluster, "n1", {key: world.put_record("newer at 1", 5) for key in keys[:7]})
        done = await repair(cluster, "n1", 3)
        assert done["compared"] == 250
        assert done["fetched"] == 20 + 50 + 7, "what the other holds there, newer or not"
        assert done["sent"] == 30 + 7, "what the other lacks, and no more"
        assert done["exchanges"] == 1
        assert done["complete"] is True
        assert done["purged"] == 0
        for key in keys:
            one, other = await copies(cluster, key)
            assert one == other is not None
        assert await cluster.held("n1", keys[205]) == world.put_record("newer", 2, operation=2)
        assert await cluster.held("n2", keys[0]) == world.put_record("newer at 1", 5)
        again = await repair(cluster, "n2", 3)
        assert (again["fetched"], again["sent"], again["compared"]) == (0, 0, 300), "nothing is left to do"
        assert again["bytes"] < 200
        mended = cluster.node("n1").mended
        assert (mended["fetched"], mended["sent"]) == (77, 37)

    world.run(story())


def test_versions_that_stand_side_by_side_are_on_all_afterwards(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector", maintenance=True).start()
        keys = keys_in(cluster, 3, 40)
        for number, key in enumerate(keys):
            for writer, node_id in enumerate(cluster.ids, start=1):
                if number % 4 != writer:
                    await give(cluster, node_id, {key: world.vector_record(writer, f"by {writer}")})
        done = await repair(cluster, "n2", 3)
        assert done["exchanges"] == 6, "the first that was asked may lack what the second brought"
        for number, key in enumerate(keys):
            found = await copies(cluster, key)
            writers = [writer for writer in (1, 2, 3) if number % 4 != writer]
            assert {s.record.payload.decode() for s in vector.decode(found[0]).siblings} == {f"by {w}" for w in writers}
            assert found == found[:1] * 3

    world.run(story())


def test_the_first_compared_gets_what_the_second_brought_at_the_next_repair(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        (key,) = keys_in(cluster, 3, 1)
        last = cluster.owners(key)[2]
        await give(cluster, last, {key: world.put_record("v")})
        for _ in range(2):
            await repair(cluster, cluster.owners(key)[0], 3)
        assert await copies(cluster, key) == [world.put_record("v")] * 3

    world.run(story())


def test_a_plain_copy_brings_a_partition_in_pages_and_nothing_where_there_is_something(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anti_entropy, "PAGE_RECORDS", 16)

    async def story() -> None:
        cluster = world.Cluster(2, copies=2, maintenance=True).start()
        keys = keys_in(cluster, 3, 50)
        others = keys_in(cluster, 5, 20)
        records = {key: world.put_record(f"of {key}" + "x" * 200) for key in keys}
        await give(cluster, "n1", records | {key: world.put_record("elsewhere") for key in others})
        share = shares(cluster.state, 3)[0]
        done = await of(cluster, "n2")._stream(3, share, "n1")
        assert (done.fetched, done.compared, done.sent) == (50, 0, 0)
        assert [await cluster.held("n2", key) for key in keys] == [*records.values()]
        assert await cluster.held("n2", others[0]) is None, "another partition"
        plain = sum(len(encode_key(key)) + len(record) for key, record in records.items())
        assert plain < done.bytes < 1.2 * plain, "what it costs is what it brings"
        assert len(cluster.between_nodes(f.Scan)) == 50 // 16 + 1
        assert (await of(cluster, "n2")._stream(3, share, "n1")).fetched == 0

    world.run(story())


def test_a_plain_copy_that_is_cut_short_leaves_the_rest_to_the_comparison(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anti_entropy, "PAGE_RECORDS", 16)

    async def story() -> None:
        cluster = world.Cluster(2, copies=2, maintenance=True).start()
        keys = keys_in(cluster, 3, 50)
        await give(cluster, "n1", {key: world.put_record(f"of {key}") for key in keys})
        local = of(cluster, "n2")._local
        write, room = local.write, 2

        async def full(bucket_id: int, items: Any, made_ms: int) -> bool:
            nonlocal room
            room -= 1
            return room >= 0 and await write(bucket_id, items, made_ms)

        monkeypatch.setattr(local, "write", full)
        assert (await of(cluster, "n2")._stream(3, shares(cluster.state, 3)[0], "n1")).fetched == 32
        monkeypatch.setattr(local, "write", write)
        assert (await repair(cluster, "n2", 3))["fetched"] == 18
        assert None not in [await cluster.held("n2", key) for key in keys]

    world.run(story())


def test_ten_that_differ_of_5000_cost_a_small_part_of_a_copy(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(2, copies=2, maintenance=True).start()
        records = {f"key {number:05}": world.put_record("x" * 100) for number in range(5000)}
        for node_id in cluster.ids:
            await give(cluster, node_id, records)
        changed = [f"key {number:05}" for number in range(0, 5000, 500)]
        await give(cluster, "n2", {key: world.put_record("changed", 9) for key in changed})
        done = [await repair(cluster, "n1", partition) for partition in range(8)]
        assert sum(figures["fetched"] for figures in done) == 10
        assert sum(figures["sent"] for figures in done) == 0
        full = sum(len(encode_key(key)) + len(record) for key, record in records.items())
        assert sum(figures["bytes"] for figures in done) < 0.05 * full
        frames = [len(frame) for source, _, frame in cluster.frames if source.startswith("node/")]
        assert sum(frames) < 0.05 * full
        for key in changed:
            assert await cluster.held("n1", key) == world.put_record("changed", 9)

    world.run(story())


def test_trees_of_unequal_size_are_compared_as_deep_as_the_larger_needs(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(2, copies=2, maintenance=True).start()
        keys = keys_in(cluster, 3, 300)
        await give(cluster, "n2", {key: world.put_record("v") for key in keys})
        assert (await repair(cluster, "n1", 3))["fetched"] == 300
        assert max(tree.depth for _, _, tree in cluster.between_nodes(f.Tree)) == 2
        await give(cluster, "n2", {keys[0]: world.put_record("w", 1)})
        assert (await repair(cluster, "n2", 3))["sent"] == 1

    world.run(story())


def test_what_is_large_goes_in_parts(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anti_entropy, "MAX_FRAME_BYTES", 4000)
    monkeypatch.setattr(anti_entropy, "LEAVES_BYTES", 300)
    monkeypatch.setattr(anti_entropy, "BATCH_BYTES", 1500)
    monkeypatch.setattr(anti_entropy, "KEYS_AT_ONCE", 16)
    monkeypatch.setattr(anti_entropy, "INDEXES_AT_ONCE", 7)

    async def story() -> None:
        cluster = world.Cluster(2, copies=2, maintenance=True).start()
        keys = keys_in(cluster, 3, 120)
        for number, key in enumerate(keys):
            node_id = cluster.ids[number % 2]
            await give(cluster, node_id, {key: world.put_record("x" * (3000 if number < 2 else 20 + 9 * number))})
        done = await repair(cluster, "n1", 3)
        assert (done["fetched"], done["sent"]) == (60, 60)
        for key in keys:
            one, other = await copies(cluster, key)
            assert one == other is not None
        assert max(len(request.keys) for *_, request in cluster.between_nodes(f.Fetch)) <= 16
        assert max(len(request.indexes) for *_, request in cluster.between_nodes(f.Tree)) <= 7
        sizes = [sum(len(r) for _, r in write.items) for *_, write in cluster.between_nodes(f.Write)]
        assert max(sizes) < 1500 + 3100
        assert len(sizes) > 10

    world.run(story())


def test_an_answer_that_has_no_room_says_what_is_left(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anti_entropy, "MAX_FRAME_BYTES", 4000)

    async def story() -> None:
        cluster = world.Cluster(1, copies=1, maintenance=True).start()
        keys = [f"k{number}" for number in range(5)]
        await give(cluster, "n1", {key: world.put_record("x" * 900) for key in keys})
        answer = await cluster.ask("n1", f.Fetch(1, [encode_key(key) for key in keys]))
        assert answer.left == [2, 3, 4]
        assert [record is None for record in answer.records] == [False, False, True, True, True]
        await give(cluster, "n1", {"k0": world.put_record("x" * 3000, 1)})
        answer = await cluster.ask("n1", f.Fetch(1, [encode_key(key) for key in keys]))
        assert answer.left == [1, 2, 3, 4], "one at the least"

    world.run(story())


def test_leaves_that_have_no_room_are_asked_for_again(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anti_entropy, "LEAVES_BYTES", 300)

    async def story() -> None:
        cluster = world.Cluster(1, copies=1, maintenance=True).start()
        keys = keys_in(cluster, 3, 60)
        await give(cluster, "n1", {key: world.put_record("v") for key in keys})
        wanted, found = list(range(16)), []
        while wanted:
            answer = await cluster.ask("n1", f.Leaves(3, [1], 1, wanted))
            assert len(answer.entries) <= 12
            found += answer.entries
            assert len(answer.left) < len(wanted)
            wanted = answer.left
        assert sorted(key for _, key, _ in found) == sorted(encode_key(key) for key in keys)

    world.run(story())


def test_writes_during_an_exchange_do_no_harm(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        peer = cluster.coordinator()
        keys = keys_in(cluster, 3, 100)
        cluster.all_delay(0.02)
        for number, key in enumerate(keys):
            await give(cluster, cluster.ids[number % 3], {key: world.put_record("v", operation=2)})
        task = asyncio.create_task(repair(cluster, "n1", 3))
        for key in keys[:50]:
            await peer.put(key, "newest")
        await task
        await peer.rest()
        await repair(cluster, "n2", 3)
        for key in keys:
            assert len(set(await copies(cluster, key))) == 1
        assert [await peer.get(key) for key in keys[:50]] == ["newest"] * 50

    world.run(story())


def test_two_owners_may_lead_at_once(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector", maintenance=True).start()
        keys = keys_in(cluster, 3, 60)
        for number, key in enumerate(keys):
            node_id = cluster.ids[number % 3]
            await give(cluster, node_id, {key: world.vector_record(number % 7 + 1, "v")})
        for _ in range(2):
            await asyncio.gather(*(repair(cluster, node_id, 3) for node_id in cluster.ids))
        for key in keys:
            assert len(set(await copies(cluster, key))) == 1

    world.run(story())


@pytest.mark.parametrize("how", ["dead", "silent"])
def test_an_unreachable_owner_is_reported_and_what_was_repaired_stays(world: ModuleType, how: str) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        (key,) = keys_in(cluster, 3, 1)
        first, second, third = cluster.owners(key)
        await give(cluster, third, {key: world.put_record("v")})
        (cluster.kill if how == "dead" else cluster.freeze)(second)
        with pytest.raises(PeerLacks, match=second):
            await of(cluster, first).repair(cluster.state, 3)
        assert await cluster.held(first, key) == world.put_record("v"), "those that are there are mended all the same"
        answer = await cluster.ask(first, f.Repair(3, 20.0))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "not yet"
        assert second in answer.message
        if how == "dead":
            cluster.revive(second)
        else:
            cluster.thaw(cluster.process(second))
        await asyncio.sleep(2)
        await repair(cluster, first, 3)
        assert await copies(cluster, key) == [world.put_record("v")] * 3

    world.run(story())


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (f.Tree, f.Pong()),
        (f.Tree, f.TreeDone([1] * 5, 100, complete=True)),
        (f.Leaves, f.LeavesDone([], True, [0, 1, 2, 3])),
        (f.Leaves, f.Pong()),
        (f.Fetch, f.ReadDone([])),
        (f.Fetch, f.ReadDone([None] * 12, [], [*range(12)])),
        (f.Fetch, f.Pong()),
        (f.Write, f.Pong()),
    ],
)
def test_what_does_not_fit_ends_the_exchange(world: ModuleType, kind: type[Any], answer: Any) -> None:
    async def story() -> None:
        cluster = world.Cluster(2, copies=2, maintenance=True).start()
        keys = keys_in(cluster, 3, 24)
        for number, key in enumerate(keys):
            await give(cluster, cluster.ids[number % 2], {key: world.put_record("v")})
        serve = cluster.process("n2").serve

        async def lying(frame: bytes) -> bytes:
            true = f.node_answers.decode(await serve(frame))
            if not isinstance(f.node_requests.decode(frame).body, kind):
                return f.node_answers.encode(true)
            return f.node_answers.encode(f.NodeAnswer(true.incarnation, answer, true.log_end))

        cluster.process("n2").serve = lying
        with pytest.raises(PeerLacks, match="n2"):
            await of(cluster, "n1").exchange(3, [1], "n2")

    world.run(story())


def test_what_a_repair_moves_goes_through_the_throttle(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(block_cache_bytes=0, background_bytes_per_s=8 * 1024)
        cluster = world.Cluster(2, copies=2, maintenance=True, config=config).start()
        keys = keys_in(cluster, 3, 80)
        await give(cluster, "n2", {key: world.put_record("x" * 1000) for key in keys})
        began_s = asyncio.get_running_loop().time()
        done = await repair(cluster, "n1", 3)
        await repair(cluster, "n1", 3)  # waits until what was taken is paid for
        assert done["fetched"] == 80
        assert asyncio.get_running_loop().time() - began_s > 8

    world.run(story())


def test_a_repair_that_takes_too_long_is_reported(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True).start()
        cluster.freeze("n2")
        answer = await cluster.ask("n1", f.Repair(3, 1.0))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "not yet"
        assert asyncio.get_running_loop().time() == pytest.approx(1.0, abs=0.1)

    world.run(story())


def test_a_bucket_of_fewer_copies_is_compared_among_its_own_owners(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True).start()
        cluster.change(cluster.state.with_bucket(BucketConfig(name="two", n=2, r=1, w=1, versioning="lww")))
        (key,) = keys_in(cluster, 3, 1)
        first, second, third = cluster.owners(key)
        await cluster.give(second, key, world.put_record("v"), 2)
        await cluster.give(third, key, world.put_record("stray", 9), 2)
        assert (await repair(cluster, first, 3))["exchanges"] == 3
        assert await cluster.held(first, key, 2) == world.put_record("v")
        assert await cluster.held(second, key, 2) == world.put_record("v")

    world.run(story())


# ---- purge ----


async def everywhere(cluster: Any, key: str, record: bytes) -> None:
    for node_id in cluster.owners(key):
        await give(cluster, node_id, {key: record})


async def purging(world: ModuleType, *, record: bytes | None = None) -> tuple[Any, str]:
    """A cluster in which a dead record of one key lies on all owners of partition 3, for longer than the grace."""
    cluster = world.Cluster(3, maintenance=True, gc_grace_s=GRACE_S, config=QUIET).start()
    (key,) = keys_in(cluster, 3, 1)
    await everywhere(cluster, key, record or world.delete_record())
    await asyncio.sleep(GRACE_S + 1)
    return cluster, key


def test_what_is_dead_for_the_grace_goes_when_all_agreed_twice_half_a_grace_apart(world: ModuleType) -> None:
    async def story() -> None:
        cluster, key = await purging(world)
        assert (await repair(cluster, "n1", 3))["purged"] == 0, "first all are asked"
        await asyncio.sleep(GRACE_S / 2 - 1)
        assert (await repair(cluster, "n1", 3))["purged"] == 0
        assert None not in await copies(cluster, key)
        await asyncio.sleep(2)
        done = await repair(cluster, "n1", 3)
        assert (done["purged"], done["fetched"], done["sent"]) == (1, 0, 0)
        assert await copies(cluster, key) == [None] * 3
        assert len(of(cluster, "n1")._agreed) == 0
        assert (await repair(cluster, "n1", 3))["purged"] == 0
        for node_id in cluster.ids:
            cluster.kill(node_id, "keep")
            cluster.revive(node_id)
        assert {cluster.stored(node_id, key) for node_id in cluster.ids} <= {None, world.delete_record()}

    world.run(story())


def test_all_may_agree_before_the_grace_is_over_but_none_forgets(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, gc_grace_s=GRACE_S, config=QUIET).start()
        early, late = keys_in(cluster, 3, 2)
        await everywhere(cluster, early, world.delete_record())
        await asyncio.sleep(GRACE_S / 2 - 1)
        await repair(cluster, "n1", 3)
        assert len(of(cluster, "n1")._agreed) == 0, "not before half of it"
        await everywhere(cluster, late, world.delete_record(49_000))
        await asyncio.sleep(2)
        await repair(cluster, "n1", 3)
        assert len(of(cluster, "n1")._agreed) == 1
        await asyncio.sleep(GRACE_S / 2 - 2)
        assert (await repair(cluster, "n1", 3))["purged"] == 0
        await asyncio.sleep(2.1)
        assert (await repair(cluster, "n1", 3))["purged"] == 1
        assert await copies(cluster, early) == [None] * 3
        assert None not in await copies(cluster, late)

    world.run(story())


def test_with_one_owner_down_nothing_is_forgotten(world: ModuleType) -> None:
    async def story() -> None:
        cluster, key = await purging(world)
        await repair(cluster, "n1", 3)
        cluster.kill("n3")
        await asyncio.sleep(GRACE_S)
        answer = await cluster.ask("n1", f.Repair(3, 20.0))
        assert isinstance(answer, f.NodeRefused)
        assert [await cluster.held(node_id, key) for node_id in ("n1", "n2")] == [world.delete_record()] * 2
        cluster.revive("n3")
        await asyncio.sleep(2)
        assert (await repair(cluster, "n1", 3))["purged"] == 1
        assert await copies(cluster, key) == [None] * 3

    world.run(story())


@pytest.mark.parametrize("when", ["before the first", "between", "as all are asked"])
def test_an_owner_that_has_a_newer_write_keeps_it_and_nobody_forgets(world: ModuleType, when: str) -> None:
    async def story() -> None:
        cluster, key = await purging(world)
        newer = world.put_record("newer", 150_000, operation=3)
        first, second, third = cluster.owners(key)
        await asyncio.sleep(60)
        if when == "before the first":
            await give(cluster, third, {key: newer})
        await repair(cluster, first, 3)
        await asyncio.sleep(GRACE_S / 2 + 1)
        if when == "between":
            await give(cluster, third, {key: newer})
        if when == "as all are asked":
            serve = cluster.process(third).serve

            async def overtaken(frame: bytes) -> bytes:
                body = f.node_requests.decode(frame).body
                if isinstance(body, f.Purge) and not body.sure:
                    await give(cluster, third, {key: newer})
                return await serve(frame)

            cluster.process(third).serve = overtaken
        assert (await repair(cluster, first, 3))["purged"] == 0
        await repair(cluster, second, 3)
        await repair(cluster, second, 3)
        assert await copies(cluster, key) == [newer] * 3

    world.run(story())


@pytest.mark.parametrize("where", ["leader", "follower"])
def test_a_write_between_the_agreement_and_the_forgetting_stays(world: ModuleType, where: str) -> None:
    async def story() -> None:
        cluster, key = await purging(world)
        newer = world.put_record("newer", 150_000, operation=3)
        first, second, third = cluster.owners(key)
        await asyncio.sleep(60)
        await repair(cluster, first, 3)
        await asyncio.sleep(GRACE_S / 2 + 1)
        serve = cluster.process(third).serve

        async def overtaken(frame: bytes) -> bytes:
            body = f.node_requests.decode(frame).body
            if isinstance(body, f.Purge) and body.sure:
                await give(cluster, first if where == "leader" else third, {key: newer})
            return await serve(frame)

        cluster.process(third).serve = overtaken
        done = await repair(cluster, first, 3)
        assert done["purged"] == (0 if where == "leader" else 1)
        await repair(cluster, second, 3)
        await repair(cluster, second, 3)
        assert await copies(cluster, key) == [newer] * 3

    world.run(story())


@pytest.mark.parametrize("victim", [1, 2])
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_tombstone_that_was_not_forgotten_by_all_flows_back_and_goes_next_time(
    world: ModuleType, victim: int, lost: str
) -> None:
    async def story() -> None:
        cluster, key = await purging(world)
        first = cluster.owners(key)[0]
        await repair(cluster, first, 3)
        await asyncio.sleep(GRACE_S / 2 + 1)
        process = cluster.process(cluster.owners(key)[victim])
        serve = process.serve

        async def losing(frame: bytes) -> bytes:
            body = f.node_requests.decode(frame).body
            sure = isinstance(body, f.Purge) and body.sure
            if sure and lost == "request":
                await asyncio.Event().wait()
            answer = await serve(frame)
            if sure:
                await asyncio.Event().wait()
            return answer

        process.serve = losing
        assert isinstance(await cluster.ask(first, f.Repair(3, 20.0)), f.NodeRefused)
        process.serve = serve
        await asyncio.sleep(2)
        assert await cluster.held(first, key) == world.delete_record(), "the leader forgets last"
        done = await repair(cluster, first, 3)
        assert (done["sent"] > 0) == ((victim, lost) != (1, "request")), (
            "if no owner was asked to forget, nothing flows"
        )
        assert done["purged"] == 1
        assert await copies(cluster, key) == [None] * 3

    world.run(story())


def test_an_expired_value_does_not_go_before_what_it_covers(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, gc_grace_s=GRACE_S, config=QUIET).start()
        (key,) = keys_in(cluster, 3, 1)
        first, second, third = cluster.owners(key)
        expired = world.put_record("newer", 10, operation=2, ttl_ms=1000)
        await give(cluster, third, {key: world.put_record("older, without an end", 1)})
        for node_id in (first, second):
            await give(cluster, node_id, {key: expired})
        for _ in range(6):
            await asyncio.sleep(GRACE_S / 2 + 1)
            await repair(cluster, first, 3)
            found = {await cluster.held(node_id, key) for node_id in (first, second)}
            assert found <= {expired, None}, "the older one must not come back"
        assert await copies(cluster, key) == [None] * 3

    world.run(story())


def test_a_value_that_has_not_expired_long_enough_ago_stays(world: ModuleType) -> None:
    async def story() -> None:
        cluster, key = await purging(world, record=world.put_record("v", 0, ttl_ms=100_000))
        live = keys_in(cluster, 3, 2)[1]
        await everywhere(cluster, live, world.put_record("v"))
        await asyncio.sleep(GRACE_S / 2 - 2)
        await repair(cluster, "n1", 3)
        assert len(of(cluster, "n1")._agreed) == 0, "counted from when it expired"
        await asyncio.sleep(GRACE_S / 2 + 3)
        for _ in range(3):
            await repair(cluster, "n1", 3)
            await asyncio.sleep(GRACE_S)
        assert await copies(cluster, key) == [None] * 3
        assert None not in await copies(cluster, live)

    world.run(story())


def test_a_vector_record_goes_when_nothing_in_it_lives(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, gc_grace_s=GRACE_S, versioning="vector", config=QUIET).start()
        peer = cluster.coordinator()
        deleted, both = keys_in(cluster, 3, 2)
        await peer.put(deleted, "v", w=3)
        await peer.delete(deleted, w=3)
        await everywhere(cluster, both, world.vector_record(1, "v"))
        context = (await peer.versions(both))[1]
        await peer.store(both, None, context=context, w=3)
        await everywhere(cluster, both, world.vector_record(2, "lives"))
        await peer.rest()
        await asyncio.sleep(GRACE_S)
        for _ in range(3):
            await asyncio.sleep(GRACE_S / 2 + 1)
            await repair(cluster, "n1", 3)
        assert await copies(cluster, deleted) == [None] * 3
        assert None not in await copies(cluster, both)
        await peer.put(deleted, "again")
        assert await peer.get(deleted) == "again"

    world.run(story())


def test_an_incomplete_owner_keeps_all_from_forgetting(world: ModuleType) -> None:
    async def story() -> None:
        cluster, key = await purging(world)
        first, _, third = cluster.owners(key)
        await repair(cluster, first, 3)
        await asyncio.sleep(GRACE_S / 2 + 1)
        cluster.node(first)._directory.set_complete(False)
        assert isinstance(await cluster.ask(first, f.Repair(3, 5.0)), f.NodeRefused), "it does not lead"
        cluster.node(first)._directory.set_complete(True)
        cluster.node(third)._directory.set_complete(False)
        assert (await repair(cluster, first, 3))["purged"] == 0
        cluster.node(third)._directory.set_complete(True)
        assert (await repair(cluster, first, 3))["purged"] == 1

    world.run(story())


def test_all_must_agree_on_the_same_record(world: ModuleType) -> None:
    """A delete after a delete is another record: it is agreed upon anew."""

    async def story() -> None:
        cluster, key = await purging(world)
        await repair(cluster, "n1", 3)
        await asyncio.sleep(GRACE_S / 2 - 2)
        later = world.delete_record(1, operation=9)
        await everywhere(cluster, key, later)
        await asyncio.sleep(4)
        assert (await repair(cluster, "n1", 3))["purged"] == 0
        assert len(of(cluster, "n1")._agreed) == 1, "what is there no more is not remembered"
        await asyncio.sleep(GRACE_S / 2 + 1)
        assert (await repair(cluster, "n1", 3))["purged"] == 1

    world.run(story())


def test_only_so_much_is_remembered_of_what_was_agreed(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreements, "MAX_AGREED", 6)

    async def story() -> None:
        cluster = world.Cluster(3, maintenance=True, gc_grace_s=GRACE_S, config=QUIET).start()
        keys = keys_in(cluster, 3, 8)
        for key in keys:
            await everywhere(cluster, key, world.delete_record())
        await asyncio.sleep(GRACE_S + 1)
        for left in (8, 5, 2, 0):
            done = await repair(cluster, "n1", 3)
            present = [key for key in keys if None not in await copies(cluster, key)]
            assert len(present) == left, done
            assert len(of(cluster, "n1")._agreed) <= 3
            await asyncio.sleep(GRACE_S / 2 + 1)
            await repair(cluster, "n1", 3)
        assert len(of(cluster, "n1")._agreed) == 0

    world.run(story())


def test_agreements_on_other_partitions_and_buckets_are_kept(world: ModuleType) -> None:
    async def story() -> None:
        cluster, key = await purging(world)
        cluster.change(cluster.state.with_bucket(BucketConfig(name="two", n=2, r=1, w=1, versioning="lww")))
        (other,) = keys_in(cluster, 4, 1)
        await everywhere(cluster, other, world.delete_record())
        await repair(cluster, "n1", 3)
        await repair(cluster, "n1", 4)
        assert len(of(cluster, "n1")._agreed) == 2
        await asyncio.sleep(GRACE_S / 2 + 1)
        assert (await repair(cluster, "n1", 3))["purged"] == 1
        assert (await repair(cluster, "n1", 4))["purged"] == 1
        assert await copies(cluster, key) == await copies(cluster, other) == [None] * 3

    world.run(story())


async def two_buckets(world: ModuleType) -> tuple[Any, list[str]]:
    """A cluster with a second bucket, and eight keys of partition 3 deleted in both for longer than the grace."""
    cluster = world.Cluster(3, maintenance=True, gc_grace_s=GRACE_S, config=QUIET).start()
    cluster.change(cluster.state.with_bucket(BucketConfig(name="two", n=3, r=2, w=2, versioning="lww")))
    keys = keys_in(cluster, 3, 8)
    for bucket_id in (1, 2):
        for key in keys:
            for node_id in cluster.ids:
                await cluster.give(node_id, key, world.delete_record(), bucket_id)
    await asyncio.sleep(GRACE_S + 1)
    return cluster, keys


def test_what_was_agreed_about_a_dropped_bucket_is_not_remembered(world: ModuleType) -> None:
    async def story() -> None:
        cluster, keys = await two_buckets(world)
        await repair(cluster, "n1", 3)
        assert len(of(cluster, "n1")._agreed) == 2 * len(keys)
        cluster.change(cluster.state.without_bucket("two"))
        await repair(cluster, "n1", 4)
        assert len(of(cluster, "n1")._agreed) == len(keys), "whichever partition is repaired"

    world.run(story())


def test_what_was_agreed_about_a_partition_that_moved_away_is_not_remembered(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True, gc_grace_s=GRACE_S, config=QUIET).start()
        (key,) = keys_in(cluster, 3, 1)
        owners = cluster.owners(key)
        await everywhere(cluster, key, world.delete_record())
        await asyncio.sleep(GRACE_S + 1)
        await repair(cluster, owners[0], 3)
        assert len(of(cluster, owners[0])._agreed) == 1
        ring = cluster.state.ring
        table = [*ring.table]
        table[3] = tuple(index for index in range(4) if cluster.ids[index] != owners[0])
        moved = msgspec.structs.replace(ring, epoch=9, table=tuple(table))
        cluster.change(msgspec.structs.replace(cluster.state, ring=moved, version=9, epoch=9))
        await repair(cluster, owners[0], moved.first_partitions_of(owners[0])[0])
        assert len(of(cluster, owners[0])._agreed) == 0

    world.run(story())


def test_a_bucket_with_many_deletes_does_not_stop_the_purge_of_another(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(agreements, "MAX_AGREED", 10)

    async def story() -> None:
        cluster, keys = await two_buckets(world)
        with caplog.at_level("WARNING", "raykv.node"):
            await repair(cluster, "n1", 3)
            await repair(cluster, "n1", 3)
        assert sum("wait to be forgotten" in record.message for record in caplog.records) == 1
        await asyncio.sleep(GRACE_S / 2 + 1)
        await repair(cluster, "n1", 3)
        left = [[await cluster.held("n1", key, bucket) for key in keys].count(None) for bucket in (1, 2)]
        assert left == [5, 2], "half is for whoever comes first, of the rest each has its share"

    world.run(story())


def test_a_wall_clock_that_jumps_brings_the_two_agreements_no_closer(world: ModuleType) -> None:
    async def story() -> None:
        cluster, _ = await purging(world)
        await repair(cluster, "n1", 3)
        cluster.clocks["n1"].skew_ms = GRACE_S * 1000
        assert (await repair(cluster, "n1", 3))["purged"] == 0
        cluster.clocks["n1"].skew_ms = 0
        await asyncio.sleep(GRACE_S / 2 + 1)
        assert (await repair(cluster, "n1", 3))["purged"] == 1

    world.run(story())


@pytest.mark.parametrize(
    ("dead_for_ms", "agreed"),
    [(-1000, (False, False)), (1000, (False, False)), (241_000, (True, False)), (541_000, (True, True))],
)
def test_an_owner_agrees_to_forget_what_is_dead_for_long_enough_by_its_own_clock(
    world: ModuleType, dead_for_ms: int, agreed: tuple[bool, bool]
) -> None:
    """Give or take a minute, which clocks may differ: for half the grace, and then for all of it."""

    async def story() -> None:
        cluster = world.Cluster(1, copies=1, maintenance=True, gc_grace_s=600.0, config=QUIET).start()
        await asyncio.sleep(1000)
        key, record = encode_key("a"), world.put_record("v", ttl_ms=1_000_000 - dead_for_ms)
        await give(cluster, "n1", {"a": record})
        item = (1, key, digest(1, key, record))
        held = f.Purge([item], sure=False, also_living=True)
        assert await cluster.ask("n1", held) == f.Purged([0]), "to be held is another question"
        for sure in (False, True):
            answer = await cluster.ask("n1", f.Purge([item], sure=sure))
            assert answer == f.Purged([0] if agreed[sure] else [])
        assert (await cluster.held("n1", "a") is None) == agreed[True]

    world.run(story())


def test_a_leader_whose_clock_is_far_ahead_takes_no_value_that_lives(world: ModuleType) -> None:
    async def story() -> None:
        cluster, key = await purging(world, record=world.put_record("v", 0, ttl_ms=1_000_000))
        cluster.clocks["n1"].skew_ms = 365 * 86_400_000
        for _ in range(3):
            assert (await repair(cluster, "n1", 3))["purged"] == 0
            await asyncio.sleep(GRACE_S / 2 + 1)
        assert None not in await copies(cluster, key)

    world.run(story())


def test_what_was_agreed_by_a_clock_far_ahead_is_not_put_off(world: ModuleType) -> None:
    async def story() -> None:
        cluster, key = await purging(world)
        cluster.clocks["n1"].skew_ms = 365 * 86_400_000
        await repair(cluster, "n1", 3)
        cluster.clocks["n1"].skew_ms = 0
        await asyncio.sleep(GRACE_S / 2 + 1)
        assert (await repair(cluster, "n1", 3))["purged"] == 1
        assert await copies(cluster, key) == [None] * 3

    world.run(story())


def test_nobody_agrees_to_forget_what_is_not_durable_yet(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, maintenance=True, gc_grace_s=GRACE_S).start()
        await asyncio.sleep(GRACE_S)
        key, record = encode_key("a"), world.delete_record()
        gate = cluster.process("n1").executor.gate
        gate.clear()
        write = asyncio.create_task(give(cluster, "n1", {"a": record}))
        await asyncio.sleep(0.1)
        item = (1, key, digest(1, key, record))
        asked = asyncio.create_task(cluster.ask("n1", f.Purge([item, (1, key, 7), (1, b"\x02b", 7)], sure=False)))
        await asyncio.sleep(1)
        assert not asked.done()
        gate.set()
        assert await asked == f.Purged([0])
        await write
        assert await cluster.held("n1", "a") == record, "asking is not forgetting"
        assert await cluster.ask("n1", f.Purge([(1, key, 7), item, item], sure=True)) == f.Purged([1, 2])
        assert await cluster.held("n1", "a") is None

    world.run(story())


@pytest.mark.parametrize(("age_ms", "taken"), [(50_000, True), (50_001, False), (-5000, True)])
def test_what_is_older_than_half_the_grace_is_no_new_write(world: ModuleType, age_ms: int, taken: bool) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, gc_grace_s=GRACE_S).start()
        key, record = encode_key("a"), world.put_record("v")
        for body in (
            f.Write(1, [(key, record)], 1),
            f.Hint(1, [(key, record, ["n2"])], 1),
            f.Hint(1, [(key, record, ["n3"])], 1, counted=True),
        ):
            made_ms = cluster.clocks["n1"].wall_ms() - age_ms
            answer = await cluster.ask("n1", msgspec.structs.replace(body, made_ms=made_ms))
            if taken:
                assert answer == f.WriteDone([0])
            else:
                assert isinstance(answer, f.NodeRefused)
                assert answer.reason == "old"
        assert (await cluster.held("n1", "a") is not None) == taken
        assert cluster.node("n1").hints_waiting == ({"n2": 1, "n3": 1} if taken else {})
        assert await cluster.ask("n1", f.Write(1, [(key, record)])) == f.WriteDone([0]), "of no age: no matter"

    world.run(story())


def test_a_repair_says_when_it_took_up_what_it_sends(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(2, copies=2, maintenance=True, gc_grace_s=GRACE_S, config=QUIET).start()
        (key,) = keys_in(cluster, 3, 1)
        await asyncio.sleep(500)
        await give(cluster, "n1", {key: world.put_record("v")})
        await repair(cluster, "n1", 3)
        ((_, _, write),) = cluster.between_nodes(f.Write)
        assert cluster.clocks["n1"].wall_ms() - 1000 < write.made_ms <= cluster.clocks["n1"].wall_ms()

    world.run(story())


# ---- healing one partition ----


@pytest.mark.parametrize(
    ("n", "w", "away", "incomplete", "expected"),
    [
        (3, 2, [], [], Healed.FULLY),
        (3, 2, [1], [], Healed.NOT_YET),
        (3, 2, [1, 2], [], Healed.NOT_YET),
        (3, 3, [1], [], Healed.FULLY),
        (3, 3, [2], [], Healed.FULLY),
        (3, 2, [], [1], Healed.AS_FAR_AS_CAN_BE),
        (3, 3, [], [1], Healed.FULLY),
        (3, 3, [1], [2], Healed.NOT_YET),
        (3, 2, [], [1, 2], Healed.AS_FAR_AS_CAN_BE),
        (3, 1, [], [], Healed.AS_FAR_AS_CAN_BE),
        (2, 2, [], [], Healed.FULLY),
        (2, 1, [], [], Healed.AS_FAR_AS_CAN_BE),
        (1, 1, [], [], Healed.AS_FAR_AS_CAN_BE),
    ],
)
def test_of_how_many_a_node_must_take_over_everything(
    world: ModuleType, n: int, w: int, away: list[int], incomplete: list[int], expected: Healed
) -> None:
    async def story() -> None:
        cluster = world.Cluster(max(n, 2), copies=n, maintenance=True)
        state = cluster.state.without_bucket("default").with_bucket(BucketConfig(name="b", n=n, r=1, w=w))
        cluster.state = state
        cluster.start()
        owners = state.ring.owners(3)
        for at in away:
            cluster.kill(owners[at])
        for at in incomplete:
            cluster.node(owners[at])._directory.set_complete(False)
        assert await of(cluster, owners[0]).heal(state, 3) is expected

    world.run(story())


def test_a_node_that_owns_nothing_there_lacks_nothing(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(4, maintenance=True).start()
        (stranger,) = {*cluster.ids} - {*cluster.state.ring.owners(3)}
        before = len(cluster.frames)
        assert await of(cluster, stranger).heal(cluster.state, 3) is Healed.FULLY
        assert (await of(cluster, stranger).repair(cluster.state, 3)).exchanges == 0
        assert len(cluster.frames) == before

    world.run(story())


def test_completeness_is_of_the_partition(world: ModuleType) -> None:
    """Corruption in another partition of the peer's says nothing of this one."""

    async def story() -> None:
        cluster = world.Cluster(2, copies=2, maintenance=True, config=SMALL).start()
        for partition in (3, 4):
            await give(cluster, "n2", {key: world.put_record("x" * 60) for key in keys_in(cluster, partition, 8)})
        (table,) = cluster.flush("n2")
        corrupt = cluster.place(keys_in(cluster, 4, 8)[5])
        cluster.disks["n2"].flip_bit(table, bytes(cluster.disks["n2"]._names[table].data).index(corrupt))
        four = await of(cluster, "n1").exchange(4, [1], "n2")
        three = await of(cluster, "n1").exchange(3, [1], "n2")
        assert (three.complete, four.complete) == (True, False)
        assert three.fetched == 8

    world.run(story())


def test_an_answer_says_whether_its_node_is_complete(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, maintenance=True).start()
        for complete in (True, False):
            cluster.node("n1")._directory.set_complete(complete)
            assert (await cluster.ask("n1", f.Tree(3, [1], 0, -1, []))).complete is complete
            assert (await cluster.ask("n1", f.Leaves(3, [1], 0, [0]))).complete is complete

    world.run(story())


def test_a_peer_that_turns_incomplete_in_the_middle_was_not_complete(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(2, copies=2, maintenance=True).start()
        await give(cluster, "n2", {key: world.put_record("v") for key in keys_in(cluster, 3, 3)})
        serve = cluster.process("n2").serve

        async def losing(frame: bytes) -> bytes:
            if isinstance(f.node_requests.decode(frame).body, f.Leaves):
                cluster.node("n2")._directory.set_complete(False)
            return await serve(frame)

        cluster.process("n2").serve = losing
        done = await of(cluster, "n1").exchange(3, [1], "n2")
        assert (done.fetched, done.complete) == (3, False)

    world.run(story())


def test_a_merge_is_the_same_whichever_node_leads(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(2, copies=2, versioning="vector", maintenance=True).start()
        (key,) = keys_in(cluster, 3, 1)
        one, two = world.vector_record(1, "one"), world.vector_record(2, "two")
        await give(cluster, "n1", {key: one})
        await give(cluster, "n2", {key: two})
        done = await repair(cluster, "n1", 3)
        assert (done["fetched"], done["sent"]) == (1, 1)
        assert await copies(cluster, key) == [merge(one, two)] * 2

    world.run(story())
