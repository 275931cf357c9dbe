"""A simulated machine."""

from __future__ import annotations

import asyncio
import random

import pytest

from raykv.sim.disk import SimDisk
from raykv.sim.host import EPOCH_MS, Host, SimClock, SimExecutor
from raykv.sim.kernel import Process, ProcessEnded, run_virtual
from raykv.sim.trace import Trace


def run(story):
    async def on(loop):
        host = Host("h", loop, random.Random(1), Trace(loop))
        host.disk.make_directories("/d")
        return await story(host, Process(loop, "p"))

    result, loop = run_virtual(on)
    assert loop.failures == []
    return result


def test_clocks_are_off_and_drift():
    async def story(host, process):
        host.skew_ms, host.drift = 500.0, 1.01
        clock = SimClock(host, process)
        assert clock.wall_ms() == EPOCH_MS + 500
        await clock.sleep(101)
        assert host.loop.now_s == pytest.approx(100)
        assert clock.wall_ms() == pytest.approx(EPOCH_MS + 500 + 101_000, abs=2)
        assert clock.monotonic_s() == pytest.approx(101)
        with pytest.raises(TimeoutError):
            async with clock.timeout(10.1):
                await asyncio.sleep(60)
        assert host.loop.now_s == pytest.approx(110)

    run(story)


def test_work_takes_time_and_a_dead_process_does_none():
    async def story(host, process):
        executor = SimExecutor(host, process)
        assert await process.spawn(executor.run(lambda: 7)) == 7
        host.slow_disk_s = 1.0
        before_s = host.loop.now_s
        done = []
        await process.spawn(executor.run(lambda: done.append(1)))
        assert host.loop.now_s - before_s > 1.5
        task = process.spawn(executor.run(lambda: done.append(2)))
        await asyncio.sleep(0.5)
        process.kill()
        await asyncio.sleep(5)
        assert task.cancelled()
        assert done == [1]
        for port in (SimClock(host, process).sleep(1), executor.run(lambda: 1)):
            with pytest.raises(ProcessEnded):
                await port

    run(story)


def test_a_process_dies_in_front_of_the_nth_operation():
    async def story(host, process):
        disk = host.files(process)
        host.crash_after = 2

        def work():
            file = disk.create("/d/a")
            file.append(b"x")
            file.sync()

        with pytest.raises(ProcessEnded):
            process.run(work)
        assert not process.alive
        assert host.disk.size("/d/a") == 1
        assert host.disk.synced_size("/d/a") == 0
        assert host.crash_after is None
        with pytest.raises(ProcessEnded):
            disk.exists("/d/a")

    run(story)


def test_only_operations_of_one_kind_count_if_one_is_named():
    async def story(host, process):
        host.crash_after, host.crash_of = 0, "sync_directory"
        disk = host.files(process)
        process.run(lambda: disk.create("/d/a").append(b"x"))
        with pytest.raises(ProcessEnded):
            process.run(lambda: disk.sync_directory("/d"))
        assert host.disk.trace == [("create", "/d/a"), ("append", "/d/a")]

    run(story)


def test_locks_end_with_their_process_and_are_held_until_then():
    async def story(host, process):
        other = Process(host.loop, "other")
        host.files(process).lock("/d/lock")
        process.freeze()
        with pytest.raises(BlockingIOError):
            host.files(other).lock("/d/lock")
        process.kill()
        host.files(other).lock("/d/lock")

    run(story)


def test_two_runs_that_change_one_disk_are_noticed():
    async def story(host, process):
        other = Process(host.loop, "other")
        process.run(lambda: host.files(process).create("/d/a"))
        process.freeze()
        other.run(lambda: host.files(other).create("/d/b"))
        assert len(host.two_writers) == 1
        process.kill()
        third = Process(host.loop, "third")
        other.kill()
        third.run(lambda: host.files(third).create("/d/c"))
        assert len(host.two_writers) == 1

    run(story)


def test_a_disk_is_put_in_place_of_another():
    async def story(host, process):
        process.run(lambda: host.files(process).create("/d/a"))
        host.replace_disk(SimDisk())
        assert not host.files(process).exists("/d/a")
        host.crash_after = 0
        host.disk.make_directories("/d")
        with pytest.raises(ProcessEnded):
            process.run(lambda: host.files(process).create("/d/a"))

    run(story)
