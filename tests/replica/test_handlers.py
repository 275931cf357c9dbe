"""A node's answers: reads, writes, dots, completeness (P1), and waiting for the log (P3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from raykv.cluster.state import encode_state
from raykv.config import NodeConfig
from raykv.protocol import frames as f
from raykv.records import vector_record as vector
from raykv.records.dropped import DroppedBuckets
from raykv.records.keys import LAST_TAG_END, encode_key
from raykv.records.record import pack_body
from raykv.replica import handlers
from raykv.storage.remote import Merging, Request, Worker
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
        for body in (
            f.Read(1, [key]),
            f.ReserveDots(1, [key], [bytes(16)]),
            f.Write(1, [(key, world.put_record("a"))]),
        ):
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
        assert await cluster.ask("n1", read("k2", "k3")) == f.ReadDone(records[2:4]), "the next request continues"
        assert (await cluster.ask("n1", read("k4"))).left == []

    world.run(story())


# ---- dots and vector records ----


def version(world: ModuleType, value: str, dot: Dot, seen: Seen = (), at_ms: int = 0) -> bytes:
    body = pack_body(value.encode().ljust(16)[:16], value.encode())
    return vector.encode(event(dot, seen, world.time_from_ms(world.WALL_MS + at_ms), body))


def reserve(*keys: str, operations: tuple[int, ...]) -> f.ReserveDots:
    """Operation 0: no dot is wanted."""
    ids = [bytes([operation]) * 16 if operation else b"" for operation in operations]
    return f.ReserveDots(1, [encode_key(key) for key in keys], ids)


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
        assert bare == [(encode_key("k"), record)], "a small one is not worth taking apart"
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


def test_an_overloaded_owner_gives_no_dot(world: ModuleType) -> None:
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
        assert isinstance(await cluster.ask("n1", read("a")), f.Incomplete), "one write makes no node complete"
        assert (await cluster.ask("n1", f.Ping(with_stats=True))).stats["complete"] is False
        cluster.kill("n1")
        cluster.revive("n1")
        assert isinstance(await cluster.ask("n1", read("a")), f.Incomplete), "nor does a restart"

    world.run(story())


def corrupt(disk: Any, part: str, at: float = 0.3) -> None:
    (path,) = [path for path in disk._names if part in path]
    disk.flip_bit(path, int(disk.size(path) * at))


def test_corruption_in_a_table_makes_its_keys_unreadable_and_no_others(world: ModuleType) -> None:
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
        assert all_at_once.unreadable == unreadable, "one corrupt key does not fail the batch (P14)"
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


def test_corruption_in_the_log_whose_keys_are_unknown_makes_the_node_incomplete(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        for number in range(20):
            await cluster.give("n1", f"k{number}", world.put_record("x" * 50))
        cluster.kill("n1", "drop")
        corrupt(cluster.disks["n1"], "00000001.wal")
        cluster.revive("n1")
        assert isinstance(await cluster.ask("n1", read("k19")), f.Incomplete)
        cluster.kill("n1")
        cluster.revive("n1")
        assert isinstance(await cluster.ask("n1", read("k19")), f.Incomplete), "and it remembers that"

    world.run(story())


# ---- dropped buckets ----


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
        await cluster.ask("n1", f.AcceptState(1, with_it.version, encode_state(with_it)))
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

        accept = f.AcceptState(1, without.version, encode_state(without))
        await cluster.ask("n1", accept)
        assert await left_after_compactions(1) == [200, 30, 30], "accepted is not decided: it may yet be undone"
        await cluster.ask("n1", msgspec.structs.replace(accept, decided=True))
        kept, gone, unknown = await left_after_compactions(2)
        assert kept == 400
        assert gone < 30
        assert unknown == 30

    world.run(story())


class Helper:
    """A helper without the process, which notes what it was asked for."""

    def __init__(self, fs: Any) -> None:
        self.worker = Worker(fs)
        self.merges: list[Merging] = []

    def call(self, message: bytes) -> bytes:
        request = msgspec.msgpack.decode(message, type=Request)
        self.merges += [request] if isinstance(request, Merging) else []
        return self.worker.handle(message)

    def close(self) -> None:
        pass


def test_a_state_with_nothing_dropped_leaves_merges_to_the_helper_and_tables_where_they_are(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(
            memtable_bytes=16 << 10, block_cache_bytes=0, runs_per_level=2, table_bytes=16 << 10, compression="none"
        )
        cluster = world.Cluster(1, copies=1, config=config).start()
        cluster.tell()
        engine, helper = cluster.node("n1")._engine, Helper(cluster.disks["n1"])
        engine.use_helper(helper, worth_bytes=0)
        names = [f"k{number}" for number in range(900)]
        for key in [key for key in names if cluster.partition(key) == 0][:30]:
            await cluster.give("n1", key, world.put_record("x" * 200))
        (table,) = cluster.flush("n1")
        for turn in range(6):
            for key in [key for key in names if cluster.partition(key) == 1][:70]:
                await cluster.give("n1", key, world.put_record("x" * 200, turn))
            await world.asyncio.sleep(5)
        assert len(engine._runs) == 1, "all have been merged"
        assert helper.merges
        assert {merge.drop for merge in helper.merges} == {None}
        assert table in cluster.disks["n1"].files(), "it overlaps no other"

    world.run(story())


def test_the_helper_is_told_what_was_dropped(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(memtable_bytes=4096, block_cache_bytes=0, runs_per_level=2, table_bytes=16 << 10)
        cluster = world.Cluster(1, copies=1, config=config).start()
        named = msgspec.structs.replace(cluster.state.bucket("default").config, name="gone")
        cluster.state = cluster.state.with_bucket(named).without_bucket("gone")
        engine, helper = cluster.node("n1")._engine, Helper(cluster.disks["n1"])
        engine.use_helper(helper, worth_bytes=0)
        for number in range(30):
            await cluster.give("n1", f"k{number}", world.put_record("x" * 200), bucket=2)
        cluster.tell()
        for turn in range(4):
            for number in range(100):
                await cluster.give("n1", f"l{number}", world.put_record("x" * 200, turn))
            await world.asyncio.sleep(5)
        assert helper.merges[-1].drop == DroppedBuckets(3, frozenset([1]))
        places = [place for place, _ in engine.scan(b"", None)]
        assert sum(place[5] == 1 for place in places) == 100
        assert sum(place[5] == 2 for place in places) < 30

    world.run(story())


# ---- limits of an answer ----


def test_an_answer_that_has_no_room_ends_with_what_filled_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "MAX_READ_BYTES", 5)
    cut = handlers._cut([b"12345", None, b"1", None], [1, 3], 6)
    assert cut == f.ReadDone([b"12345", None, b"1", None, None, None], [1], [3, 4, 5])
