"""Puts whose outcome is unknown: a job is there once, or the caller is told that it may be."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

import raykv
import raykv.sim
from raykv.client import queue_puts, shards
from raykv.client.queues import Queues
from raykv.protocol import changes as c
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def world() -> Iterator[Any]:
    with raykv.sim.start(seed=6) as world:
        world.store.queue("jobs", shards=1).stats()  # its bucket and its settings are there
        yield world


class Lossy:
    """Loses answers to changes, or the changes themselves, on their way."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, lost: list[str], between: Callable[[], None] | None = None
    ) -> None:
        """``lost``: for each request of changes in turn "answer", "request", or "" for none."""
        from raykv.client.operations import Operations

        carry_out = Operations.carry_out
        unknown = raykv.WriteOutcomeUnknown("lost", acks=[])

        def lossy(operations: Operations, items: list[f.Change], timeout_s: float) -> Any:
            how = lost.pop(0) if lost else ""
            if how == "request":
                return [unknown] * len(items), ""
            settled = yield from carry_out(operations, items, timeout_s)
            if how == "answer":
                if between is not None:
                    between()
                return [unknown] * len(items), ""
            return settled

        monkeypatch.setattr(Operations, "carry_out", lossy)


@pytest.mark.parametrize("lost", [["answer"], ["request"], ["answer", "request", "answer"], ["request", "answer"]])
def test_a_put_is_settled_where_it_was_sent(world: Any, monkeypatch: pytest.MonkeyPatch, lost: list[str]) -> None:
    Lossy(monkeypatch, lost)
    queue = world.store.queue("jobs")
    ids = queue.put_many(range(250))
    assert queue.put("last")
    assert [job.value for _ in range(3) for job in queue.claim(100)] == [*range(250), "last"]
    assert len({*ids}) == 250


def test_a_put_that_stays_unknown_says_what_stands(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Lossy(monkeypatch, ["", *["answer"] * 500])
    with pytest.raises(
        raykv.WriteOutcomeUnknown, match="of 150 jobs 100 were put, and the outcome of 50 is unknown"
    ) as caught:
        world.store.queue("jobs").put_many(range(150), timeout=2)
    assert len(caught.value.details["put"]) == 100
    monkeypatch.undo()
    assert [job.value for _ in range(2) for job in world.store.queue("jobs").claim(100)] == [*range(150)]


def test_a_put_whose_slot_was_done_meanwhile_is_unknown_and_is_not_put_twice(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is late by as long as it takes another to do the job, and to free its slot."""
    settle = Queues._settle

    def freed(self: Queues, call: Any, put: Any, settled: f.Settled, *, was_unsure: bool) -> None:
        gone = f.Settled(c.FENCED) if was_unsure else settled
        settle(self, call, put, gone, was_unsure=was_unsure)

    monkeypatch.setattr(Queues, "_settle", freed)
    Lossy(monkeypatch, ["answer"])
    with pytest.raises(raykv.WriteOutcomeUnknown, match="once, or not at all"):
        world.store.queue("jobs").put("a")
    assert world.store.queue("jobs").stats()["put"] == 1


@pytest.mark.parametrize(("lost", "error"), [([], raykv.Overloaded), (["request"], raykv.WriteOutcomeUnknown)])
def test_a_put_that_was_sent_before_is_unknown_where_an_earlier_slot_is_in_its_way(
    world: Any, monkeypatch: pytest.MonkeyPatch, lost: list[str], error: type[raykv.RaykvError]
) -> None:
    """What was sent first may still arrive, once the slot is free; without such a sending nothing was put."""
    monkeypatch.setattr(shards, "RING", 4)
    queue = world.store.queue("jobs", lease=3600)
    queue.put("held")
    (held,) = queue.claim()
    queue.put_many([b"x" * 40_000] * 3)
    Lossy(monkeypatch, lost)
    with pytest.raises(error):
        queue.put("next", timeout=2)
    assert queue.ack(held)
    assert queue.put("now")


@pytest.mark.parametrize("lost", ["answer", "request"])
def test_a_claim_and_an_ack_whose_outcome_was_unknown_are_done_once(
    world: Any, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    queue = world.store.queue("jobs")
    queue.put_many(["a", "b", "c", "d"])
    Lossy(monkeypatch, [lost, "", lost, "", lost, "", lost, "", lost])
    first = queue.claim(2)
    assert [job.value for job in first] == ["a", "b"]
    assert queue.renew(first) is True
    assert queue.ack(first) is True
    (again,) = queue.claim(1)
    assert queue.nack(again) is True
    monkeypatch.undo()
    assert queue.stats() | {"redelivered": 0} == {
        "waiting": 2, "delayed": 0, "claimed": 0, "dead": 0, "put": 4, "done": 2, "redelivered": 0, "shards": 1,
        "maxsize": 0,
    }  # fmt: skip


def test_producers_at_once_leave_no_gap(world: Any) -> None:
    async def produce(who: int) -> list[str]:
        store = await world.connect_aio()
        ids: list[str] = []
        for number in range(6):
            ids += await store.queue("jobs").put_many([f"{who}.{number}.{at}" for at in range(30 * (number % 3) + 1)])
        return ids

    async def work() -> list[list[str]]:
        return list(await asyncio.gather(*map(produce, range(6))))

    ids = [job_id for some in world.run(work()) for job_id in some]
    assert len(ids) == len({*ids}) == world.store.queue("jobs").size()
    seqs = {shards.parsed_id(job_id)[1][0] for job_id in ids}
    assert seqs == {*range(36)}


def test_a_maximum_holds_among_producers_at_once(world: Any) -> None:
    async def produce(number: int) -> bool:
        store = await world.connect_aio()
        try:
            await store.queue("few", maxsize=5).put_nowait(number)
        except raykv.Full:
            return False
        return True

    async def work() -> list[bool]:
        await world.store.aio.queue("few", maxsize=5).stats()
        return list(await asyncio.gather(*map(produce, range(12))))

    assert sum(world.run(work())) == 5
    assert world.store.queue("few").size() == 5


def test_of_what_never_ends_nothing_is_put(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_puts, "MOST_JOBS", 10)
    queue = world.store.queue("jobs")
    with pytest.raises(raykv.Overloaded, match="more than 10 jobs"):
        queue.put_many(itertools.count())
    assert len(queue.put_many(range(10))) == queue.size() == 10


def test_the_end_of_a_long_shard_is_found_in_few_reads(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store.queue("jobs").put_many([b"x" * 30_000] * 60, timeout=100)
    reads: list[int] = []
    read_once = Queues._read_once

    def counted(self: Queues, operations: Any, keys: Any, until_s: float) -> Any:
        reads.append(len(keys))
        return read_once(self, operations, keys, until_s)

    monkeypatch.setattr(Queues, "_read_once", counted)
    assert world.connect().queue("jobs").put("last").startswith("0.60.")
    assert len(reads) <= 10
