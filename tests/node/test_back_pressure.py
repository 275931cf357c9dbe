"""A node whose flushes and compactions do not keep up: slower, then refusing, never beyond its memory; and an idle one."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from raykv.config import NodeConfig
from raykv.node.pace import HELD_BACK_S
from raykv.protocol import frames as f
from raykv.records.keys import encode_key, storage_prefix
from raykv.storage.jobs import CompactionJob, FlushJob

if TYPE_CHECKING:
    from types import ModuleType

    import pytest

LIMIT = 65_536
SMALL = NodeConfig(memtable_bytes=4096, max_unflushed_bytes=LIMIT, block_cache_bytes=0)


def write(world: ModuleType, key: str, size: int = 500) -> f.Write:
    return f.Write(1, [(encode_key(key), world.put_record("x" * size))])


class Flushes:
    """Flushes that come to an end only while they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may = False
        step = FlushJob.step

        def slow(job: FlushJob) -> bool:
            return step(job) if self.may else False

        monkeypatch.setattr(FlushJob, "step", slow)


def test_writes_slow_down_then_are_refused_and_memory_keeps_its_bound(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes = Flushes(monkeypatch)

    async def story() -> None:
        cluster = world.Cluster(1, copies=1, config=SMALL, maintenance=True).start()
        node = cluster.node("n1")
        engine, loop = node._engine, asyncio.get_running_loop()
        held: list[tuple[int, float]] = []
        for number in range(500):
            began_s = loop.time()
            answer = await cluster.ask("n1", write(world, f"k{number % 7}{number}"))
            assert engine.unflushed_bytes < LIMIT + 1500, "one request at most beyond it"
            if isinstance(answer, f.NodeRefused):
                break
            held.append((engine.unflushed_bytes, loop.time() - began_s))
        else:
            raise AssertionError("it was never refused")
        assert answer.reason == "overloaded"
        early = [took_s for size, took_s in held if size < LIMIT // 2]
        late = [took_s for size, took_s in held if size > 0.9 * LIMIT]
        assert max(early) < 0.01
        assert min(late) > HELD_BACK_S / 4
        began_s = loop.time()
        assert (await cluster.ask("n1", f.Read(1, [encode_key("k00")]))).records[0] is not None
        assert loop.time() - began_s < 0.01, "reads are not held back"
        flushes.may = True
        await asyncio.sleep(5)
        assert engine.unflushed_bytes < LIMIT // 2
        began_s = loop.time()
        assert await cluster.ask("n1", write(world, "again")) == f.WriteDone([0])
        assert loop.time() - began_s < 0.01

    world.run(story())


def test_one_key_written_again_and_again_keeps_the_bound_too(world: ModuleType) -> None:
    """The memtable holds one record, the log all that it has not written."""

    async def story() -> None:
        cluster = world.Cluster(1, copies=1, config=SMALL).start()
        node, engine = cluster.node("n1"), cluster.node("n1")._engine
        gate = cluster.process("n1").executor.gate
        gate.clear()
        asked = []
        for number in range(300):
            body = world.put_record("x" * 500, number)
            asked.append(asyncio.create_task(cluster.ask("n1", f.Write(1, [(encode_key("k"), body)]))))
            await asyncio.sleep(0)
            assert engine.unflushed_bytes < LIMIT + 1500
        await asyncio.sleep(0.1)
        done = [task.result() for task in asked if task.done()]
        assert {answer.reason for answer in done} == {"overloaded"}
        gate.set()
        await asyncio.wait(asked)
        assert engine.unflushed_bytes < LIMIT // 2
        assert node._stopped is None

    world.run(story())


def test_compactions_rest_while_clients_ask_and_go_on_at_once_without(world: ModuleType) -> None:
    async def story(*, asking: bool) -> tuple[float, bool]:
        config = NodeConfig(memtable_bytes=1 << 20, max_unflushed_bytes=1 << 24, compaction_share=0.05)
        cluster = world.Cluster(1, copies=1, config=config, maintenance=True).start()
        node: Any = cluster.node("n1")
        rng = random.Random(1)
        for number in range(1500):
            node._engine.replace(storage_prefix(0, 1) + encode_key(f"k{number}"), rng.randbytes(900))
        node._engine.compact_fully()
        loop: Any = asyncio.get_running_loop()
        began_s = loop.time()
        node._commit.sync_soon()
        await asyncio.sleep(0.01)
        node.work()
        while node._engine.stats().flushes == 0 or node._engine.stats().compactions == 0:
            if asking:
                await cluster.ask("n1", f.Read(1, [encode_key("k")]))
            await asyncio.sleep(0.001)
        return loop.time() - began_s, True

    quiet, _ = world.run(story(asking=False))
    busy, _ = world.run(story(asking=True))
    assert busy > 3 * quiet


def test_a_stop_gives_a_compaction_up_and_finishes_a_flush(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompactionJob, "step", lambda _: False)  # a very large one

    async def story() -> None:
        config = NodeConfig(memtable_bytes=4096, max_unflushed_bytes=LIMIT, runs_per_level=2)
        cluster = world.Cluster(1, copies=1, config=config).start()
        node = cluster.node("n1")
        for number in range(60):
            assert await cluster.ask("n1", write(world, f"k{number}")) == f.WriteDone([0])
        assert node._engine._schedule.under_way
        await asyncio.wait_for(node.stop(), 5)
        assert cluster.failures == []
        cluster.kill("n1")
        cluster.revive("n1")
        assert await cluster.held("n1", "k0") is not None

    world.run(story())


def test_what_was_erased_leaves_the_disk_of_an_idle_node(world: ModuleType) -> None:
    async def story() -> None:
        config = NodeConfig(memtable_bytes=4096, max_unflushed_bytes=LIMIT, max_marker_age_s=60)
        cluster = world.Cluster(1, copies=1, config=config).start()
        node = cluster.node("n1")
        if not node._loops:
            node.begin()
        for number in range(12):
            await cluster.ask("n1", write(world, f"k{number}"))
        node._engine.compact_fully()
        node._commit.sync_soon()
        await asyncio.sleep(5)
        place = next(key for key, _ in node._engine.scan(b"", None))
        node._engine.erase(place)
        node._engine.begin_snapshot()  # seals
        node._commit.sync_soon()
        await asyncio.sleep(5)
        before = node._engine.stats()
        assert before.table_records > before.runs == 2
        await asyncio.sleep(70)
        after = node._engine.stats()
        assert (after.runs, after.table_records) == (1, before.table_records - 2), "the record and its marker"

    world.run(story())
