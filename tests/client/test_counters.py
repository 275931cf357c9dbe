"""Counters: each change counts once, whatever happens to the nodes meanwhile."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

import raykv
import raykv.sim


@pytest.fixture
def world() -> Any:
    with raykv.sim.start(seed=3) as world:
        yield world


def test_a_counter_counts(world: Any) -> None:
    hits = world.store.counter("hits")
    assert hits.name == "hits"
    assert hits.value() == 0, "nobody has counted yet"
    assert [hits.add(), hits.add(5), hits.add(-2)] == [1, 6, 4]
    assert [hits.max(3), hits.max(9), hits.min(12), hits.min(-7)] == [4, 9, 9, -7]
    hits.set(100)
    assert world.connect().counter("hits").add() == 101, "another handle counts on"
    assert world.store.counter("others").value() == 0


def test_the_first_high_and_low_are_what_was_given(world: Any) -> None:
    assert world.store.counter("high").max(-5) == -5
    assert world.store.counter("low").min(5) == 5


def test_counters_have_a_bucket_of_their_own(world: Any) -> None:
    assert world.store.buckets() == ["default"]
    world.store.counter("hits")
    assert world.store.buckets() == ["default"], "naming one sends nothing"
    world.store.counter("hits").add()
    assert world.store.buckets() == ["default", "raykv.counters"]
    kept = world.store.bucket("raykv.counters")
    assert (kept.config.versioning, kept.config.codec) == ("linearizable", "msgpack")
    assert kept.get("hits") == 1
    assert world.store.get("hits") is None


def test_eight_tasks_count_exactly_while_nodes_are_killed(world: Any) -> None:
    async def count(store: Any) -> None:
        hits = store.counter("hits")
        for _ in range(25):
            await hits.add(timeout=30)

    async def work() -> None:
        stores = [await world.connect_aio() for _ in range(8)]
        tasks = [asyncio.ensure_future(count(store)) for store in stores]
        for node_id in world.nodes:
            await asyncio.sleep(1)
            world.kill(node_id)
        await asyncio.gather(*tasks)

    world.run(work())
    assert world.store.counter("hits").value() == 200


@pytest.mark.parametrize("amount", [1.0, True, "1", None, 1 << 63, pytest.param(10**5000, id="enormous")])
def test_a_counter_takes_whole_numbers_of_64_bits(world: Any, amount: Any) -> None:
    hits = world.store.counter("hits")
    for change in (hits.add, hits.max, hits.min, hits.set):
        with pytest.raises(raykv.InvalidOption, match="number"):
            change(amount)
    assert hits.value() == 0


def test_a_sum_beyond_64_bits_changes_nothing(world: Any) -> None:
    hits = world.store.counter("hits")
    hits.set((1 << 63) - 1)
    with pytest.raises(raykv.InvalidOption, match="would exceed 64 bits"):
        hits.add()
    assert hits.value() == (1 << 63) - 1


@pytest.mark.parametrize(("name", "error"), [(b"hits", "InvalidOption"), (7, "InvalidOption"), ("", "InvalidKey")])
def test_a_counter_needs_a_name(world: Any, name: Any, error: str) -> None:
    with pytest.raises(getattr(raykv, error)):
        world.store.counter(name)
    with pytest.raises(getattr(raykv, error)):
        world.store.aio.counter(name)


def test_what_is_no_counter_is_not_read_as_one(world: Any) -> None:
    world.store.counter("hits").add()
    world.store.bucket("raykv.counters").put("text", "seven")
    with pytest.raises(raykv.InvalidOption, match=r"is no counter: bucket 'raykv\.counters' holds 'seven' under it"):
        world.store.counter("text").value()
    with pytest.raises(raykv.InvalidOption, match="no 64-bit integer"):
        world.store.counter("text").add()


def test_both_faces_count_on_one_counter(world: Any) -> None:
    async def work() -> list[int]:
        hits = world.store.aio.counter("hits")
        await hits.set(3)
        return [await hits.value(), await hits.add(2), await hits.max(9), await hits.min(1)]

    assert world.run(work()) == [3, 5, 9, 1]
    assert world.store.counter("hits").value() == 1


def test_a_counter_prints_and_can_be_copied(world: Any) -> None:
    hits = world.store.counter("hits")
    assert repr(hits) == "<raykv counter 'hits' of store 'simulated'>"
    assert copy.copy(hits).add() == 1
    assert hits.value() == 1
