"""Jobs that have a name are put once, whoever repeats the put, and whenever."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

import raykv
import raykv.sim
from raykv.client import shards
from raykv.client.queues import Queues
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world() -> Iterator[Any]:
    with raykv.sim.start(seed=8) as world:
        yield world


def test_a_name_puts_one_job_before_and_after_it_is_done(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "RING", 16)
    queue = world.store.queue("jobs", shards=1)
    first = queue.put("a", once="order:1")
    assert queue.put("b", once="order:1") == first
    assert queue.put("c", once="order:2", delay=5) != first
    assert queue.put("c", once="order:2") != first, "a delay or none: it is there"
    (job,) = queue.claim(5)
    assert job.value == "a"
    assert queue.ack([job, *queue.claim(5, wait=10)])
    for number in range(60):  # its slot is freed, and used again
        queue.put(number)
        queue.get()
    assert queue.put("a", once="order:1") == first
    assert queue.claim(5) == []
    for bad in ("", "x" * 501, 3, b"x"):
        with pytest.raises(InvalidOption, match="once takes a text"):
            queue.put("a", once=bad)


@pytest.mark.parametrize("stops_after", ["plan", "slot", "taken by another"])
def test_one_who_repeats_a_put_goes_on_where_the_other_died(
    world: Any, monkeypatch: pytest.MonkeyPatch, stops_after: str
) -> None:
    """The first dies with its place noted, or with the job written; then the job is done, and the slot is freed."""
    mine, other = world.store.queue("jobs", shards=1), world.connect().queue("jobs")
    mine.stats()

    class Died(Exception):
        pass

    def dies(*_: Any, **__: Any) -> Any:
        raise Died

    with monkeypatch.context() as patched:
        patched.setattr(Queues, "note_named" if stops_after == "slot" else "_put_id", dies)
        with pytest.raises(Died):
            mine.put("a", once="order:1")
    if stops_after == "taken by another":
        other.put("x")
    if stops_after == "slot":
        for number in range(30):
            other.put(number)
            other.get()
    again = other.put("a", once="order:1")
    assert again == {"plan": "0.0.0", "slot": "0.0.0", "taken by another": "0.1.0"}[stops_after]
    waiting = [job.value for job in other.claim(100)]
    assert waiting.count("a") == (stops_after != "slot")


@pytest.mark.parametrize("seed", range(3))
def test_names_are_put_once_while_everything_fails(seed: int) -> None:
    with raykv.sim.start(seed=100 + seed, faults=True) as world:
        rng = random.Random(seed)
        names = [f"order:{number}" for number in range(12)]
        handed: dict[str, set[str]] = {}

        async def produce() -> None:
            store = await world.connect_aio()
            for name in rng.sample(names, len(names)):
                for _ in range(200):
                    try:
                        await store.queue("jobs", shards=2).put(name, timeout=rng.choice([0.3, 2, 5]), once=name)
                        break
                    except (raykv.Overloaded, raykv.StoreUnavailable, raykv.QuorumNotMet, raykv.WriteOutcomeUnknown):
                        await asyncio.sleep(rng.uniform(0, 2))

        over: list[float] = []

        async def consume() -> None:
            queue = (await world.connect_aio()).queue("jobs", shards=2, lease=5, max_deliveries=1000)
            while not over or world.now_s < over[0] + 30:
                try:
                    jobs = await queue.claim(2)
                    for job in jobs:
                        handed.setdefault(job.value, set()).add(job.id)
                    await queue.ack(jobs)
                except (raykv.Overloaded, raykv.StoreUnavailable, raykv.QuorumNotMet, raykv.WriteOutcomeUnknown):
                    pass
                await asyncio.sleep(rng.uniform(0, 1))

        async def work() -> None:
            consumers = [asyncio.ensure_future(consume()) for _ in range(2)]
            producers = [asyncio.ensure_future(produce()) for _ in range(3)]
            await asyncio.sleep(40)
            world.heal()
            await asyncio.gather(*producers)
            over.append(world.now_s)
            await asyncio.gather(*consumers)

        world.run(work())
        assert {name: len(ids) for name, ids in handed.items()} == dict.fromkeys(names, 1)
