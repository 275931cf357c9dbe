"""Handles of queues: made by name or by a store, pickled, and holding claims in the background."""

from __future__ import annotations

import asyncio
import copy
import queue as standard
from typing import TYPE_CHECKING, Any

import pytest

import raykv
import raykv.sim
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world() -> Iterator[Any]:
    with raykv.sim.start(seed=7) as world:
        yield world


def test_a_queue_by_its_name_is_the_store_s(world: Any) -> None:
    jobs = raykv.Queue("jobs", store=world.store, lease=7, max_deliveries=2, shards=2)
    assert (jobs.name, jobs.lease, jobs.maxsize) == ("jobs", 7.0, 0)
    assert repr(jobs) == "<raykv queue 'jobs' of store 'simulated'>"
    jobs.put("a")
    assert world.store.queue("jobs").size() == 1
    assert repr(raykv.Queue("jobs")) == "<raykv queue 'jobs' of store 'default'>", "it connects with its first call"
    for given in ({"store": 3}, {"store": "no name!"}, {"lease": -1}):
        with pytest.raises(InvalidOption):
            raykv.Queue("jobs", **given)


def test_a_copy_has_the_options(world: Any) -> None:
    jobs = world.store.queue("jobs", lease=7, max_deliveries=2, shards=2, codec="msgpack")
    for copied in (copy.copy(jobs), copy.deepcopy(jobs), jobs.aio):
        assert (copied.name, copied._steps.given()) == (jobs.name, jobs._steps.given())
    assert type(copy.copy(jobs)) is raykv.Queue
    assert type(jobs.aio) is raykv.AsyncQueue


def test_the_errors_are_the_standard_library_s_too(world: Any) -> None:
    jobs = world.store.queue("jobs", maxsize=1)
    with pytest.raises(standard.Empty):
        jobs.get_nowait()
    jobs.put(1)
    with pytest.raises(standard.Full):
        jobs.put_nowait(2)
    jobs.shutdown()
    assert jobs.get() == 1


def test_what_is_held_is_renewed_and_then_acked(world: Any) -> None:
    jobs = world.store.queue("jobs", lease=6)
    jobs.put_many(["a", "b"])
    with jobs.hold(jobs.claim(2)) as held:
        assert [job.value for job in held] == ["a", "b"]
        assert len(held) == 2
        assert world.connect().queue("jobs").claim(wait=40) == []
        assert held.lost is False
    assert jobs.stats()["done"] == 2
    with jobs.hold([]) as nothing:
        assert list(nothing) == []


def test_what_is_held_when_the_block_fails_is_nacked(world: Any) -> None:
    async def work() -> None:
        jobs = world.store.aio.queue("jobs", lease=6)
        await jobs.put_many(["a", "b"])
        claimed = await jobs.claim(2)

        async def fails() -> None:
            async with jobs.hold(claimed):
                await asyncio.sleep(20)
                await jobs.ack(claimed[0])
                raise RuntimeError("failed")

        with pytest.raises(RuntimeError, match="failed"):
            await fails()
        stats = await jobs.stats()
        assert (stats["done"], stats["waiting"], stats["claimed"]) == (1, 1, 0)
        assert [job.deliveries for job in await jobs.claim(2)] == [2]

    world.run(work())


def test_a_hold_that_was_frozen_says_that_it_is_lost(world: Any) -> None:
    async def work() -> None:
        mine, other = await world.connect_aio(), await world.connect_aio()
        jobs = mine.queue("jobs", lease=6)
        await jobs.put("a")
        process = mine._session.link._process

        async def hold() -> bool:
            async with jobs.hold(await jobs.claim()) as held:
                await asyncio.sleep(30)
                return held.lost

        task = process.spawn(hold())
        await asyncio.sleep(1)
        process.freeze()
        taken = await other.queue("jobs", lease=60).claim(wait=20)
        process.thaw()
        assert await task
        assert await other.queue("jobs").ack(taken) is True

    world.run(work())


def test_the_awaitable_methods_of_the_blocking_face(world: Any) -> None:
    jobs = world.store.queue("jobs")

    async def work() -> Any:
        await jobs.put_async("a")
        return await jobs.get_async(timeout=5)

    assert world.run(work()) == "a"
