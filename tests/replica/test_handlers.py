"""What a node answers: completeness, order of times, scans, the register."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raykv.cluster.state import encode_state
from raykv.config import NodeConfig
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.keys import LAST_TAG_END, encode_key
from raykv.records.record import header_of, pack_body
from raykv.replica import handlers
from raykv.versions.causality import NOTHING_SEEN, unpack_causality
from raykv.versions.dvvset import event, join

if TYPE_CHECKING:
    from types import ModuleType

    from raykv.records.vector_record import Dot, Seen

ALL = list(range(8))


@pytest.fixture(autouse=True)
def _nobody_tells(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TELLS", False)


def read(*keys: str) -> f.Read:
    return f.Read(1, [encode_key(key) for key in keys])


def scan(
    *, start: bytes = b"", end: bytes = LAST_TAG_END, limit: int = 100, reverse: bool = False, keys_only: bool = False,
    partitions: list[int] = ALL, bucket: int = 1,
) -> f.Scan:  # fmt: skip
    return f.Scan(bucket, start, end, limit, reverse, keys_only, partitions)


# ---- reads and writes ----


def test_reads_come_in_the_order_asked_with_none_for_absent(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        a, b = world.put_record("a"), world.delete_record()
        await cluster.give("n1", "a", a)
        await cluster.give("n1", "b", b)
        assert (await cluster.ask("n1", read("b", "x", "a", "b"))).records == [b, None, a, b]
        assert (await cluster.ask("n1", read())).records == []
        assert (await cluster.ask("n1", f.Read(2, [encode_key("a")]))).records == [None], "another bucket"

    world.run(story())


def test_a_write_tells_0_or_the_newer_time_for_each_item(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        newer, older = world.put_record("new", 5), world.put_record("old", 1)
        await cluster.give("n1", "a", newer)
        items = [(encode_key("a"), older), (encode_key("b"), older), (encode_key("a"), newer)]
        answer = await cluster.ask("n1", f.Write(1, items))
        assert answer.newer == [world.time_from_ms(world.WALL_MS + 5), 0, 0]
        assert await cluster.held("n1", "a") == newer
        one, other = world.put_record("1", 9, operation=1), world.put_record("2", 9, operation=2)
        await cluster.give("n1", "c", other)
        answer = await cluster.ask("n1", f.Write(1, [(encode_key("c"), one)]))
        assert answer.newer == [world.time_from_ms(world.WALL_MS + 9)], "a tie goes by operation; the lesser is no ack"

    world.run(story())


@pytest.mark.parametrize(("ahead_ms", "taken"), [(60_000, True), (60_001, False), (-(10**9), True)])
def test_a_time_too_far_ahead_is_refused_and_nothing_of_the_batch_is_kept(
    world: ModuleType, ahead_ms: int, taken: bool
) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        items = [(encode_key("a"), world.put_record("a")), (encode_key("b"), world.put_record("b", ahead_ms))]
        answer = await cluster.ask("n1", f.Write(1, items))
        if taken:
            assert answer == f.WriteDone([0, 0])
        else:
            assert isinstance(answer, f.NodeRefused)
            assert answer.reason == "clock"
            assert "60 s are allowed" in answer.message
            assert await cluster.held("n1", "a") is None

    world.run(story())


@pytest.mark.parametrize("record", [b"", b"\x01", b"\x02" + bytes(40), b"\x01" + bytes(24) + b"\xff"])
def test_a_garbled_record_is_refused_and_nothing_of_the_batch_is_kept(world: ModuleType, record: bytes) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        items = [(encode_key("a"), world.put_record("a")), (encode_key("b"), record)]
        answer = await cluster.ask("n1", f.Write(1, items))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "corrupt"
        assert await cluster.held("n1", "a") is None
        assert cluster.failures == []

    world.run(story())


@pytest.mark.parametrize("key", [b"", b"\x02", b"\x02" + b"k" * 1025])
def test_a_key_that_no_client_could_send_is_refused(world: ModuleType, key: bytes) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        for body in (f.Read(1, [key]), f.Reserve(1, [key], [bytes(16)]), f.Write(1, [(key, world.put_record("a"))])):
            answer = await cluster.ask("n1", body)
            assert isinstance(answer, f.NodeRefused)
            assert answer.reason == "corrupt"

    world.run(story())


def test_a_bad_key_leaves_nothing_of_its_batch_behind(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        items = [(encode_key("a"), world.put_record("a")), (b"", world.put_record("b"))]
        assert isinstance(await cluster.ask("n1", f.Write(1, items)), f.NodeRefused)
        assert await cluster.held("n1", "a") is None, "a refusal is certain that nothing was done"

    world.run(story())


def test_too_much_unflushed_is_overloaded_for_writes_and_not_for_reads(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(memtable_bytes=4096, max_unflushed_bytes=4096, block_cache_bytes=0)
        cluster = world.Cluster(1, copies=1, config=config).start()
        executor = cluster.process("n1").executor
        await cluster.give("n1", "a", world.put_record("a"))
        cluster.disks["n1"].fail("create", ".sst")
        wrote = 0
        refused = None
        for number in range(40):
            answer = await cluster.ask("n1", f.Write(1, [(encode_key(f"k{number}"), world.put_record("x" * 500))]))
            if isinstance(answer, f.NodeRefused):
                refused = answer
                break
            wrote += 1
        assert refused is not None
        assert refused.reason == "overloaded"
        assert 4 < wrote < 20
        assert await cluster.held("n1", "k0") is not None
        assert executor.runs > 0
        await world.asyncio.sleep(3)  # the flush is tried again
        assert await cluster.ask("n1", f.Write(1, [(encode_key("z"), world.put_record("z"))])) == f.WriteDone([0])

    world.run(story())


def test_an_answer_has_room_for_so_much_and_says_what_it_left(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "MAX_READ_BYTES", 1000)

    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        records = [world.put_record("x" * 600, number) for number in range(5)]
        for number, record in enumerate(records):
            await cluster.give("n1", f"k{number}", record)
        answer = await cluster.ask("n1", read("k0", "absent", "k1", "k2", "k3"))
        assert answer == f.ReadDone([records[0], None, records[1], None, None], [], [3, 4])
        assert await cluster.ask("n1", read("k2", "k3")) == f.ReadDone(records[2:4]), "whoever asks again comes on"
        assert (await cluster.ask("n1", read("k4"))).left == []

    world.run(story())


# ---- dots and vector records ----


def version(world: ModuleType, value: str, dot: Dot, seen: Seen = (), at_ms: int = 0) -> bytes:
    body = pack_body(value.encode().ljust(16)[:16], value.encode())
    return vector.encode(event(dot, seen, world.time_from_ms(world.WALL_MS + at_ms), body))


def reserve(*keys: str, operations: tuple[int, ...]) -> f.Reserve:
    """Operation 0: no dot is wanted."""
    ids = [bytes([operation]) * 16 if operation else b"" for operation in operations]
    return f.Reserve(1, [encode_key(key) for key in keys], ids)


def test_a_dot_is_given_and_what_is_held_is_shown_and_nothing_is_kept(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, versioning="vector").start()
        records = [version(world, value, (value.encode() * 8, 1), at_ms=3) for value in ("a", "b")]
        for record in records:
            await cluster.give("n1", "held", record)
        merged = await cluster.held("n1", "held")
        before = [cluster.stored("n1", key) for key in ("held", "new")]
        answer = await cluster.ask("n1", reserve("held", "new", "held", operations=(1, 2, 0)))
        held, new, shown = answer.items
        assert (held.counter, new.counter, shown.counter) == (1, 1, 0)
        assert (len(held.actor), len(new.actor), shown.actor) == (vector.ACTOR_BYTES, vector.ACTOR_BYTES, b"")
        assert held.actor != new.actor, "an id is of one key"
        for one in (held, shown):
            assert unpack_causality(one.causality) == join(vector.decode(merged))
            assert (one.siblings, one.record_bytes) == (2, len(merged))
        assert (new.causality, new.siblings, new.record_bytes) == (NOTHING_SEEN, 0, 0)
        assert [cluster.stored("n1", key) for key in ("held", "new")] == before
        again = await cluster.ask("n1", reserve("held", "held", operations=(1, 3)))
        assert [(item.actor, item.counter) for item in again.items] == [(held.actor, 1), (held.actor, 2)], (
            "one operation, one dot; another one, another dot"
        )

    world.run(story())


def test_a_write_under_a_dot_of_this_node_goes_on_from_there_and_its_own_part_stays_here(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, versioning="vector").start()
        (given,) = (await cluster.ask("n1", reserve("k", operations=(1,)))).items
        record = version(world, "1", (given.actor, given.counter))
        assert await cluster.ask("n1", f.Write(1, [(encode_key("k"), record)])) == f.WriteDone([0])
        stored = cluster.stored("n1", "k")
        assert vector.own_of(stored)[vector.ACTOR_BYTES :] == given.actor
        assert await cluster.held("n1", "k") == record, "what is read is what was sent"
        assert (await cluster.ask("n1", scan())).items == [(encode_key("k"), record)]
        bare = (await cluster.ask("n1", scan(keys_only=True))).items
        assert bare == [(encode_key("k"), vector.header(record))]
        (next_one,) = (await cluster.ask("n1", reserve("k", operations=(2,)))).items
        assert (next_one.actor, next_one.counter) == (given.actor, 2)
        for bad in (stored, b"\x02", record[:-1]):
            answer = await cluster.ask("n1", f.Write(1, [(encode_key("k"), bad)]))
            assert isinstance(answer, f.NodeRefused)
            assert answer.reason == "corrupt", "a part that must not travel is not taken in"
        assert cluster.stored("n1", "k") == stored

    world.run(story())


def test_a_write_that_was_superseded_before_it_came_is_held_all_the_same(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, versioning="vector").start()
        first = version(world, "1", (b"a" * 8, 1), at_ms=9)
        above = version(world, "2", (b"b" * 8, 1), vector.decode(first).seen)
        await cluster.give("n1", "k", above)
        assert await cluster.ask("n1", f.Write(1, [(encode_key("k"), first)])) == f.WriteDone([0])
        assert await cluster.held("n1", "k") == above, "though its time is the newer one: what counts is who saw whom"

    world.run(story())


def test_a_version_of_a_time_too_far_ahead_is_refused(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, versioning="vector").start()
        items = [(encode_key("k"), version(world, "far", (b"a" * 8, 1), at_ms=60_001))]
        answer = await cluster.ask("n1", f.Write(1, items))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "clock"
        assert cluster.stored("n1", "k") is None

    world.run(story())


def test_what_was_shown_waits_until_it_is_durable(world: ModuleType) -> None:
    """P3: a context that names a write which its node then forgets would supersede what nobody has."""

    async def story() -> None:
        cluster = world.Cluster(1, copies=1, versioning="vector").start()
        gate = cluster.process("n1").executor.gate
        gate.clear()
        write = f.Write(1, [(encode_key("k"), version(world, "1", (b"a" * 8, 1)))])
        pending = [
            world.asyncio.create_task(cluster.ask("n1", body)) for body in (write, reserve("k", operations=(1,)))
        ]
        free = world.asyncio.create_task(cluster.ask("n1", reserve("other", operations=(1,))))
        for _ in range(20):
            await world.asyncio.sleep(0)
        assert [task.done() for task in (*pending, free)] == [False, False, True]
        gate.set()
        assert (await pending[1]).items[0].siblings == 1

    world.run(story())


def test_who_is_overloaded_gives_no_dot(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(memtable_bytes=4096, max_unflushed_bytes=4096, block_cache_bytes=0)
        cluster = world.Cluster(1, copies=1, config=config, versioning="vector").start()
        cluster.disks["n1"].fail("create", ".sst")
        for number in range(40):
            record = version(world, "x" * 500, (b"a" * 8, 1))
            answer = await cluster.ask("n1", f.Write(1, [(encode_key(f"k{number}"), record)]))
            if isinstance(answer, f.NodeRefused):
                break
        assert answer.reason == "overloaded"
        answer = await cluster.ask("n1", reserve("k", operations=(1,)))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "overloaded"
        assert await cluster.held("n1", "k0") is not None

    world.run(story())


def test_two_kinds_of_records_never_meet(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1, versioning="vector").start()
        lww, vectors = world.put_record("lww"), version(world, "vector", (b"a" * 8, 1))
        await cluster.give("n1", "lww", lww)
        await cluster.give("n1", "vector", vectors)
        for key, record in (("lww", vectors), ("vector", lww)):
            answer = await cluster.ask("n1", f.Write(1, [(encode_key(key), record)]))
            assert isinstance(answer, f.NodeRefused)
            assert answer.reason == "corrupt"
        answer = await cluster.ask("n1", reserve("lww", operations=(1,)))
        assert isinstance(answer, f.NodeRefused)
        assert (await cluster.held("n1", "lww"), await cluster.held("n1", "vector")) == (lww, vectors)
        assert cluster.failures == []

    world.run(story())


# ---- completeness (P1) ----


def test_a_node_that_lost_its_directory_takes_writes_and_answers_no_reads(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        await cluster.give("n1", "a", world.put_record("a"))
        cluster.wipe("n1")
        cluster.revive("n1")
        assert isinstance(await cluster.ask("n1", read("a")), f.Incomplete)
        assert isinstance(await cluster.ask("n1", scan()), f.Incomplete)
        assert isinstance(await cluster.ask("n1", reserve("a", operations=(1,))), f.Incomplete)
        assert await cluster.ask("n1", f.Write(1, [(encode_key("a"), world.put_record("b", 9))])) == f.WriteDone([0])
        assert isinstance(await cluster.ask("n1", read("a")), f.Incomplete), "one write makes nobody whole"
        assert (await cluster.ask("n1", f.Ping(with_stats=True))).stats["complete"] is False
        cluster.kill("n1")
        cluster.revive("n1")
        assert isinstance(await cluster.ask("n1", read("a")), f.Incomplete), "a restart makes nobody whole either"

    world.run(story())


def rot(disk: Any, part: str, at: float = 0.3) -> None:
    (path,) = [path for path in disk._names if part in path]
    disk.flip_bit(path, int(disk.size(path) * at))


def test_rot_in_a_table_makes_its_keys_unreadable_and_no_others(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(
            memtable_bytes=4096, max_unflushed_bytes=1 << 20, block_cache_bytes=0, block_bytes=256, compression="none"
        )
        cluster = world.Cluster(1, copies=1, partitions=8, config=config).start()
        for number in range(100):
            await cluster.give("n1", f"k{number}", world.put_record("x" * 100))
        await world.asyncio.sleep(1)
        disk = cluster.disks["n1"]
        tables = sorted(path for path in disk._names if path.endswith(".sst"))
        assert tables
        disk.flip_bit(tables[0], 600)
        outcomes = [await cluster.ask("n1", read(f"k{number}")) for number in range(100)]
        unreadable = [number for number, answer in enumerate(outcomes) if answer.unreadable]
        assert 0 < len(unreadable) < 30
        lost = unreadable[0]
        all_at_once = await cluster.ask("n1", read(*(f"k{number}" for number in range(100))))
        assert all_at_once.unreadable == unreadable, "one rotten key does not fail the batch (P14)"
        assert all(record is not None for at, record in enumerate(all_at_once.records) if at not in unreadable)
        write = f.Write(1, [(encode_key(f"k{lost}"), world.put_record("new", 9))])
        assert await cluster.ask("n1", write) == f.WriteDone([0]), "it takes writes (P1)"
        stats = (await cluster.ask("n1", f.Ping(with_stats=True))).stats
        assert stats["complete"] is True
        assert len(stats["damage"]) == 1
        shown = (await cluster.ask("n1", reserve("absent", f"k{unreadable[1]}", operations=(1, 1)))).items
        assert [item is None for item in shown] == [False, True], "of what it cannot read it gives no dot"
        assert cluster.failures == []

    world.run(story())


def test_rot_in_the_log_whose_keys_are_unknown_makes_the_node_incomplete(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        for number in range(20):
            await cluster.give("n1", f"k{number}", world.put_record("x" * 50))
        cluster.kill("n1", "drop")
        rot(cluster.disks["n1"], "00000001.wal")
        cluster.revive("n1")
        assert isinstance(await cluster.ask("n1", read("k19")), f.Incomplete)
        cluster.kill("n1")
        cluster.revive("n1")
        assert isinstance(await cluster.ask("n1", read("k19")), f.Incomplete), "and it remembers that"

    world.run(story())


# ---- scans ----


def test_a_scan_is_in_key_order_over_partitions_and_says_how_far_it_is_whole(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        keys = [f"k{number:02}" for number in range(30)]
        for key in random.Random(1).sample(keys, 30):
            await cluster.give("n1", key, world.put_record(key))
        encoded = [encode_key(key) for key in keys]
        everything = await cluster.ask("n1", scan())
        assert [key for key, _ in everything.items] == encoded
        assert everything.covered is None
        some = await cluster.ask("n1", scan(limit=7))
        assert [key for key, _ in some.items] == encoded[:7]
        assert some.covered == encoded[6]
        exactly = await cluster.ask("n1", scan(limit=30))
        assert (len(exactly.items), exactly.covered) == (30, None), "nothing follows"
        back = await cluster.ask("n1", scan(limit=7, reverse=True))
        assert [key for key, _ in back.items] == encoded[:-8:-1]
        assert back.covered == encoded[-7]
        within = await cluster.ask("n1", scan(start=encoded[3], end=encoded[9]))
        assert [key for key, _ in within.items] == encoded[3:9], "the start is in, the end is not"
        within = await cluster.ask("n1", scan(start=encoded[3], end=encoded[9], reverse=True))
        assert [key for key, _ in within.items] == encoded[3:9][::-1]
        ring = cluster.state.ring
        one = await cluster.ask("n1", scan(partitions=[0, 3]))
        assert [key for key, _ in one.items] == [key for key in encoded if ring.partition_of(key) in {0, 3}]
        assert (await cluster.ask("n1", scan(bucket=2))).items == []
        bare = await cluster.ask("n1", scan(keys_only=True))
        assert [record for _, record in bare.items] == [header_of(record) for _, record in everything.items]
        assert (await cluster.ask("n1", scan(partitions=[]))) == f.ScanDone([], None)

    world.run(story())


@pytest.mark.parametrize(("limit", "given_back"), [(0, 1), (-5, 1), (7, 7), (50, 40)])
def test_a_scans_limit_is_held_within_bounds(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch, limit: int, given_back: int
) -> None:
    monkeypatch.setattr(handlers, "MAX_SCAN_ITEMS", 40)

    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        items = [(encode_key(f"k{number:04}"), world.put_record("v")) for number in range(60)]
        await cluster.ask("n1", f.Write(1, items))
        answer = await cluster.ask("n1", scan(limit=limit))
        assert len(answer.items) == given_back
        assert answer.covered == answer.items[-1][0]

    world.run(story())


def test_a_scans_answer_has_a_largest_size(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "MAX_SCAN_BYTES", 1000)

    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        for number in range(5):
            await cluster.give("n1", f"k{number}", world.put_record("x" * 600))
        answer = await cluster.ask("n1", scan())
        assert [key for key, _ in answer.items] == [encode_key("k0"), encode_key("k1")]
        assert answer.covered == encode_key("k1")
        assert len((await cluster.ask("n1", scan(keys_only=True))).items) == 5

    world.run(story())


# ---- the register (P5) ----


def accept(world_cluster: Any, generation: int, version: int) -> f.AcceptRegister:
    state = msgspec.structs.replace(world_cluster.state, generation=generation, version=version)
    return f.AcceptRegister(generation, version, encode_state(state))


def test_a_node_that_was_told_nothing_says_so(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        answer = await cluster.ask("n1", f.ReadRegister())
        assert answer == f.RegisterAnswer(True, 0, 0, 0, None, life=answer.life)
        assert answer.life

    world.run(story())


def test_promise_and_accept_by_the_rules_and_over_restarts(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()

        async def step(body: Any, granted: bool, promised: int, held: tuple[int, int]) -> None:
            answer = await cluster.ask("n1", body)
            assert (answer.granted, answer.promised, (answer.generation, answer.version)) == (granted, promised, held)
            cluster.kill("n1", "drop")
            cluster.revive("n1")
            kept = await cluster.ask("n1", f.ReadRegister())
            assert (kept.promised, (kept.generation, kept.version)) == (promised, held), "durable before it is answered"

        await step(accept(cluster, 1, 1), True, 1, (1, 1))
        await step(accept(cluster, 1, 2), True, 1, (1, 2))
        await step(accept(cluster, 1, 1), False, 1, (1, 2))  # older than what is held
        await step(accept(cluster, 1, 2), True, 1, (1, 2))  # the same again
        await step(f.PromiseRegister(1), False, 1, (1, 2))  # a generation is promised once
        await step(f.PromiseRegister(3), True, 3, (1, 2))
        await step(f.PromiseRegister(2), False, 3, (1, 2))
        await step(accept(cluster, 2, 9), False, 3, (1, 2))  # a former supervisor
        await step(accept(cluster, 3, 2), True, 3, (3, 2))
        await step(accept(cluster, 4, 3), True, 4, (4, 3))  # a later one that this node did not promise
        await step(accept(cluster, 3, 9), False, 4, (4, 3))
        await step(f.PromiseRegister(5), True, 5, (4, 3))

    world.run(story())


def test_a_promise_brings_the_state_along(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        kept = accept(cluster, 1, 1)
        await cluster.ask("n1", kept)
        assert (await cluster.ask("n1", f.PromiseRegister(2))).state == kept.state
        assert (await cluster.ask("n1", f.PromiseRegister(2))).state == kept.state

    world.run(story())


def test_a_state_that_cannot_be_read_is_not_kept(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        answer = await cluster.ask("n1", f.AcceptRegister(1, 1, b"nonsense"))
        assert isinstance(answer, f.NodeRefused)
        assert answer.reason == "corrupt"
        assert (await cluster.ask("n1", f.ReadRegister())).state is None
        assert await cluster.ask("n1", f.Ping()) == f.Pong()

    world.run(story())


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_register_is_a_paxos_acceptor(world: ModuleType, data: st.DataObject) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        promised, held = 0, (0, 0)
        for _ in range(data.draw(st.integers(1, 12))):
            generation = data.draw(st.integers(1, 5))
            if data.draw(st.booleans()):
                answer = await cluster.ask("n1", f.PromiseRegister(generation))
                assert answer.granted == (generation > promised)
                promised = max(promised, generation)
            else:
                version = data.draw(st.integers(1, 4))
                answer = await cluster.ask("n1", accept(cluster, generation, version))
                fine = generation >= promised and (generation, version) >= held
                assert answer.granted == fine
                if fine:
                    promised, held = generation, (generation, version)
            assert answer.promised == promised
            assert (answer.generation, answer.version) == held

    world.run(story())


def test_records_of_a_dropped_bucket_go_as_compactions_come_by_and_no_others(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(
            memtable_bytes=4096,
            max_unflushed_bytes=1 << 20,
            block_cache_bytes=0,
            runs_per_level=2,
            table_bytes=16 << 10,
        )
        cluster = world.Cluster(1, copies=1, config=config).start()
        named = msgspec.structs.replace(cluster.state.bucket("default").config, name="gone")
        with_it = cluster.state.with_bucket(named)
        without = with_it.without_bucket("gone")
        await cluster.ask("n1", f.AcceptRegister(1, with_it.version, encode_state(with_it)))
        for number in range(30):
            await cluster.give("n1", f"k{number}", world.put_record("x" * 200), bucket=2)
            await cluster.give(
                "n1", f"k{number}", world.put_record("x" * 200), bucket=9
            )  # not given out as far as it knows

        async def left_after_compactions(turn: int) -> list[int]:
            for number in range(200):
                await cluster.give("n1", f"l{turn}:{number}", world.put_record("x" * 200))
            await world.asyncio.sleep(5)
            return [len((await cluster.ask("n1", scan(bucket=bucket, limit=2000))).items) for bucket in (1, 2, 9)]

        accept = f.AcceptRegister(1, without.version, encode_state(without))
        await cluster.ask("n1", accept)
        assert await left_after_compactions(1) == [200, 30, 30], "accepted is not decided: it may yet be undone"
        await cluster.ask("n1", msgspec.structs.replace(accept, decided=True))
        kept, gone, unknown = await left_after_compactions(2)
        assert kept == 400
        assert gone < 30
        assert unknown == 30

    world.run(story())


# ---- a node that forgot (P1, P5, P6) ----


def test_one_ballot_has_one_state(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        state = cluster.state
        other = msgspec.structs.replace(state.without_bucket("default"), version=state.version + 5)
        first = msgspec.structs.replace(state, version=other.version)
        assert (await cluster.ask("n1", f.AcceptRegister(1, first.version, encode_state(first)))).granted
        assert (await cluster.ask("n1", f.AcceptRegister(1, first.version, encode_state(first)))).granted, "repeated"
        refused = await cluster.ask("n1", f.AcceptRegister(1, other.version, encode_state(other)))
        assert not refused.granted
        assert refused.state == encode_state(first)

    world.run(story())


def test_a_node_that_lost_its_directory_has_no_vote_until_a_later_decision_names_its_life(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        assert (await cluster.ask("n1", f.ReadRegister())).voter
        cluster.kill("n1")
        cluster.disks["n1"] = world.SimDisk()
        cluster.revive("n1")
        assert not (await cluster.ask("n1", f.ReadRegister())).voter
        accept = f.AcceptRegister(1, cluster.state.version, encode_state(cluster.state))
        answer = await cluster.ask("n1", accept)
        assert not answer.voter
        assert answer.state is None
        assert not (await cluster.ask("n1", f.PromiseRegister(7))).voter
        decided = msgspec.structs.replace(accept, generation=7, decided=True)
        answer = await cluster.ask("n1", decided)
        assert not answer.voter  # it may have been decided before the vote was lost
        await cluster.ask("n1", msgspec.structs.replace(decided, lives=[answer.life + 1]))
        assert not (await cluster.ask("n1", f.ReadRegister())).voter
        assert (await cluster.ask("n1", msgspec.structs.replace(decided, lives=[answer.life]))).voter
        cluster.kill("n1")
        cluster.revive("n1")
        assert (await cluster.ask("n1", f.ReadRegister())).voter

    world.run(story())


def test_an_answer_that_has_no_room_ends_with_what_filled_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "MAX_READ_BYTES", 5)
    cut = handlers._cut([b"12345", None, b"1", None], [1, 3], 6)
    assert cut == f.ReadDone([b"12345", None, b"1", None, None, None], [1], [3, 4, 5])
