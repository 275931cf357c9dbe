"""Queues and updates where several tasks, claims and failures meet in one handle: nothing is dropped without a word."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import raykv
import raykv.sim
from raykv.errors import Conflict, InvalidOption, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEASE_S = 6.0


@pytest.fixture
def world() -> Iterator[Any]:
    with raykv.sim.start(seed=4, gc_grace_s=300.0) as world:
        yield world


def cut_all(world: Any, for_s: float) -> None:
    for node in world.nodes:
        world.cut(node, for_s)


# ---- a handle that several tasks begin with ----


@pytest.mark.parametrize("what", ["ack", "nack", "renew"])
@pytest.mark.parametrize("seed", range(3))
def test_a_fresh_handle_settles_for_all_tasks_at_once(seed: int, what: str) -> None:
    """Each opened the queue anew, and took the book that another had not read yet for an empty one."""
    with raykv.sim.start(seed=seed) as world:
        queue = world.store.queue("jobs", lease=30)
        queue.put_many(range(6))
        jobs = queue.claim(6)
        fresh = world.connect().aio.queue("jobs", lease=30)

        async def all_at_once() -> list[bool]:
            return await asyncio.gather(*(getattr(fresh, what)(job) for job in jobs))

        assert world.run(all_at_once()) == [True] * 6
        stats = queue.stats()
        assert (stats["claimed"], stats["done"]) == {"ack": (0, 6), "nack": (0, 0), "renew": (6, 0)}[what]


def test_two_first_callers_share_one_bucket(world: Any) -> None:
    session = world.connect()._session

    async def both() -> list[Any]:
        return await asyncio.gather(*(session.run_async(session.own_bucket("jobs", 5.0)) for _ in range(2)))

    first, second = world.run(both())
    assert first is second


def test_what_is_finished_is_judged_by_what_stands(world: Any) -> None:
    """B's last look saw another claim of the job; A hands it on, and B's ack went by that look: nothing was done."""
    jobs = world.store.queue("jobs", shards=1, lease=30)
    a, b = (world.connect().queue("jobs", shards=1, lease=30) for _ in range(2))
    while b._steps._home != 0:
        jobs.put(0)
        b.ack(b.claim())
    before = jobs.stats()["done"]
    jobs.put("x")
    (job,) = a.claim()
    world.sleep(1.1)
    assert b.claim() == []
    a.nack(job)
    (again,) = a.claim()
    assert b.claim(done=again) == []
    assert (jobs.stats()["claimed"], jobs.stats()["done"]) == (0, before + 1)


# ---- holds ----


def test_of_two_claims_one_that_is_acked_takes_no_renewal_from_the_other(world: Any) -> None:
    queue, other = world.store.queue("jobs", lease=LEASE_S), world.connect().queue("jobs", lease=LEASE_S)
    queue.put_many(range(4))
    queue.put_many(range(10, 14))
    first, second = queue.claim(4), queue.claim(4)
    with queue.hold(first + second) as held:
        for job in first:
            assert queue.ack(job)
        for _ in range(20):
            world.sleep(1)
            assert other.claim(4) == []
            assert not held.lost
    assert queue.stats()["done"] == 8


def test_a_hold_of_which_all_was_acked_is_not_lost(world: Any) -> None:
    queue = world.store.queue("jobs", lease=LEASE_S)
    queue.put(1)
    with queue.hold(queue.claim()) as held:
        assert queue.ack([*held])
        world.sleep(3 * LEASE_S)
        assert not held.lost
    assert not held.lost


def test_what_was_settled_with_the_next_claim_or_by_the_other_face_is_not_lost(world: Any) -> None:
    queue = world.store.queue("jobs", lease=LEASE_S)
    queue.put_many([1])
    with queue.hold(queue.claim()) as held:
        queue.claim(done=[*held])
        world.sleep(2 * LEASE_S)
        assert not held.lost
    queue.put_many([2])
    with queue.hold(queue.claim()) as held:
        assert world.run(queue.aio.ack([*held]))
        world.sleep(2 * LEASE_S)
        assert not held.lost


def test_jobs_that_were_lost_before_they_are_held_are_lost(world: Any) -> None:
    """They waited in this process for their turn, and their lease was over before their block began."""
    queue, other = world.store.queue("jobs", lease=LEASE_S), world.connect().queue("jobs", lease=60)
    queue.put(1)
    jobs = queue.claim()
    taken: list[Any] = []
    while not taken:
        world.sleep(0.5)
        taken = other.claim()
    with queue.hold(jobs) as held:
        world.sleep(LEASE_S / 2)
        assert held.lost
    assert other.ack(taken)


def test_a_lease_begins_with_the_claim_and_not_with_the_block(world: Any) -> None:
    """A consumer that waited for its turn, and is cut off then, must not think that it has its jobs for a lease more."""
    mine = world.connect("direct")
    queue, other = mine.queue("jobs", lease=LEASE_S), world.store.queue("jobs", lease=LEASE_S)
    queue.put("x")
    jobs = queue.claim()
    assert other.claim() == []
    world.sleep(LEASE_S - 1)
    for node in world.nodes:
        world.cut(node, 60, peer=mine._session.link._process.name)
    held = queue.hold(jobs)
    held.__enter__()
    assert not held.lost
    taken: list[Any] = []
    while not taken:
        world.sleep(0.25)
        taken = other.claim()
    assert held.lost
    mine.close()


def test_a_block_that_ends_finds_what_was_lost(world: Any) -> None:
    """Another process has made the claim, so how old it was is not known here; the last request of the block tells."""
    maker, holder, other = (world.connect().queue("jobs", lease=LEASE_S) for _ in range(3))
    maker.put("x")
    jobs = maker.claim()
    taken: list[Any] = []
    while not taken:
        world.sleep(0.5)
        taken = other.claim()
    with holder.hold(jobs) as held:
        assert not held.lost
    assert held.lost
    with pytest.raises(ValueError, match="mine"), holder.hold(jobs) as held:
        raise ValueError("mine")
    assert held.lost
    assert other.ack(taken)
    with holder.hold(taken) as held:
        pass
    assert held.lost, "acked, but not by this handle"


def test_of_a_claim_that_is_acked_one_by_one_the_rest_may_be_lost(world: Any) -> None:
    queue, other = world.store.queue("jobs", lease=LEASE_S), world.connect().queue("jobs", lease=LEASE_S)
    queue.put_many([1, 2])
    first, second = queue.claim(2)
    with queue.hold([first, second]) as held:
        assert queue.ack(first)
        world.sleep(LEASE_S)
        assert not held.lost
        assert other.nack(second)
        world.sleep(LEASE_S / 2)
        assert held.lost
    queue.put_many([3])
    jobs = queue.claim(2)
    with queue.hold(jobs) as held:
        for job in jobs:
            assert queue.ack(job)
            world.sleep(LEASE_S / 2)
    assert not held.lost


def test_a_hold_that_is_cut_off_knows_by_its_own_clock(world: Any) -> None:
    mine = world.connect("direct")
    queue, other = mine.queue("jobs", lease=LEASE_S), world.store.queue("jobs", lease=LEASE_S)
    queue.put("x")
    held = queue.hold(queue.claim())
    held.__enter__()
    for node in world.nodes:
        world.cut(node, 60, peer=mine._session.link._process.name)
    taken: list[Any] = []
    while not taken:
        world.sleep(0.5)
        taken = other.claim()
    assert held.lost
    mine.close()
    assert held.lost, "also of a closed handle"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_error_of_a_block_is_the_one_that_comes_out(world: Any, error: type[BaseException]) -> None:
    queue = world.store.queue("jobs", lease=LEASE_S)
    queue.put_many(range(2))
    with pytest.raises(error, match="mine"), queue.hold(queue.claim(2)):  # noqa: PT012
        cut_all(world, 60)
        raise error("mine")


def test_a_task_in_a_block_is_cancelled_though_the_store_is_away(world: Any) -> None:
    queue = world.store.aio.queue("jobs", lease=LEASE_S)

    async def work() -> None:
        await queue.put_many(range(2))
        async with queue.hold(await queue.claim(2)):
            cut_all(world, 60)
            await asyncio.sleep(100)

    async def story() -> None:
        task = asyncio.create_task(work())
        await asyncio.sleep(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    world.run(story())


# ---- several claims in one call ----


class Acks:
    """Stands in for the acks of a queue's handle: some claims fail."""

    def __init__(self, queue: Any, failing: Callable[[int], bool]) -> None:
        self._finish_each = queue._steps.finish_each
        self._revise = queue._steps.revise
        self._failing = failing
        self._steps = queue._steps
        queue._steps.finish_each = self.finish_each

    def finish_each(self, jobs: Any, *, timeout: Any) -> Any:
        count = 0

        def revise(*given: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if self._failing(count):
                raise StoreUnavailable("nothing was written: n2 is away")
            return (yield from self._revise(*given, **options))

        self._steps.revise = revise
        try:
            return (yield from self._finish_each(jobs, timeout=timeout))
        finally:
            self._steps.revise = self._revise


def test_a_batch_of_which_some_was_acked_comes_out(world: Any) -> None:
    """The error of one shard went to the caller, and the values of the others, which were acked, to nobody."""
    queue = world.store.queue("jobs")
    queue.put_many(range(300))
    Acks(queue, lambda count: count == 2)
    values = queue.get_nowait_batch(300)
    assert sorted(values) == [*range(300)]
    assert queue.stats()["done"] >= 100


def test_a_batch_of_which_nothing_was_acked_is_given_back(world: Any) -> None:
    queue = world.store.queue("jobs")
    queue.put_many(range(300))
    Acks(queue, lambda _: True)
    with pytest.raises(StoreUnavailable):
        queue.get_nowait_batch(300)
    assert (queue.stats()["waiting"], queue.stats()["claimed"]) == (300, 0)


def test_an_ack_of_several_claims_goes_on_behind_one_that_fails(world: Any) -> None:
    queue = world.store.queue("jobs")
    queue.put_many(range(300))
    jobs = queue.claim(100) + queue.claim(100) + queue.claim(100)
    Acks(queue, lambda count: count == 1)
    with pytest.raises(StoreUnavailable):
        queue.ack(jobs)
    assert queue.stats()["done"] == 200


# ---- time ----


def test_get_keeps_a_short_time_out(world: Any) -> None:
    queue = world.store.queue("jobs")
    queue.put(1)
    queue.get()
    cut_all(world, 60)
    began_s = world.now_s
    with pytest.raises(raykv.RaykvError):
        queue.get(timeout=0.1)
    assert world.now_s - began_s < 1.5, "a second for a claim that was sent, and no five"


def test_an_update_keeps_its_time_out_over_read_and_write(world: Any) -> None:
    bucket = world.store.bucket("stock", versioning="linearizable")
    bucket.put("k", 1)

    def change(value: int) -> int:
        cut_all(world, 60)
        return value + 1

    for node in world.nodes:
        world.freeze(node, 3.0)
    began_s = world.now_s
    with pytest.raises(raykv.RaykvError):
        bucket.update("k", change, timeout=5)
    assert world.now_s - began_s < 5.6


def test_an_update_whose_function_takes_all_the_time_sends_nothing(world: Any) -> None:
    bucket = world.store.bucket("stock", versioning="linearizable")
    bucket.put("k", 1)
    process = bucket._operations.now_s
    with pytest.raises(StoreUnavailable, match=r"nothing was written: the 0\.5 s were over"):
        bucket.update("k", lambda value: (spend(bucket, process), value)[1] + 1, timeout=0.5)
    assert bucket.get("k") == 1


def spend(bucket: Any, now_s: Any) -> None:
    """Let the update's clock be a second on, from now."""
    clock = bucket._operations._session_clock
    began_s = now_s()
    clock.now_s = lambda: began_s + 1.0


def test_updates_that_waited_for_one_that_failed_do_not_say_conflict(world: Any) -> None:
    bucket = world.store.bucket("stock", versioning="linearizable").aio
    cut_all(world, 60)

    async def story() -> list[Any]:
        updates = (bucket.update("k", lambda value: (value or 0) + 1, timeout=2) for _ in range(3))
        return await asyncio.gather(*updates, return_exceptions=True)

    errors = world.run(story())
    assert all(isinstance(error, raykv.RaykvError) and not isinstance(error, Conflict) for error in errors), errors


def test_each_member_of_a_batch_gets_its_own_error(world: Any) -> None:
    bucket = world.store.bucket("stock", versioning="linearizable").aio

    def stops(_: Any) -> Any:
        raise StopIteration("mine")

    def fails(_: Any) -> Any:
        raise KeyError("own")

    async def story() -> list[Any]:
        updates = (bucket.update("k", change, 0) for change in (lambda value: value + 1, stops, fails, fails))
        return await asyncio.gather(*updates, return_exceptions=True)

    first, *rest = world.run(story())
    assert first == 1
    assert [type(error) for error in rest] == [RuntimeError, KeyError, KeyError]


# ---- places that everybody has forgotten ----


def forget_all(world: Any) -> None:
    """Let what was deleted be forgotten everywhere, also by the leaders."""
    for _ in range(3):
        world.sleep(200)
        world.store.repair(timeout=60)
    bulk = world.store.bucket("bulk")
    for number in range(300):
        bulk.put(f"k{number}", "x" * 3000)  # memtables are flushed, as they are all the time
    world.sleep(100)
    for node in [*world.nodes]:
        world.kill(node)
        world.sleep(20)


def drained(queue: Any) -> list[Any]:
    values = []
    while jobs := queue.claim(10):
        values += [job.value for job in jobs]
        queue.ack(jobs)
    return values


def test_what_is_put_after_a_long_pause_is_found(world: Any) -> None:
    """A producer that remembers the end of its shard, and one that died between the plan for a name and its slot."""
    idle, busy, consumer = (world.connect().queue("jobs", shards=1) for _ in range(3))
    idle.put("first")
    dying = world.connect().queue("jobs", shards=1)
    plan = dying._steps._plan

    class Died(BaseException):
        pass

    def plans_and_dies(*given: Any) -> Any:
        yield from plan(*given)
        raise Died

    dying._steps._plan = plans_and_dies
    with pytest.raises(Died):
        dying.put("named", once="order:17")
    for number in range(40):
        busy.put(number)
    assert len(drained(consumer)) == 41
    forget_all(world)
    idle.put("late")
    world.connect().queue("jobs", shards=1).put("named", once="order:17")
    busy.put("other")
    world.sleep(2)
    assert sorted(drained(consumer)) == ["late", "named", "other"]


# ---- small ----


def test_a_name_without_an_encoding_is_refused(world: Any) -> None:
    with pytest.raises(InvalidOption, match="once takes a text"):
        world.store.queue("jobs").put(1, once="\ud800")


def test_what_has_no_items_is_no_list_of_jobs(world: Any) -> None:
    numpy = pytest.importorskip("numpy")
    queue = world.store.queue("jobs")
    for call in (queue.put_many, queue.ack, queue.requeue_dead):
        with pytest.raises(InvalidOption):
            call(numpy.array(5))


def test_room_is_judged_by_what_stands(world: Any) -> None:
    queue, other = (world.connect().queue("jobs", maxsize=3) for _ in range(2))
    queue.put_many([1, 2])
    (job,) = other.claim(1)
    assert queue.size() == 1
    queue.put(3)
    other.nack(job)
    assert other.full()
    with pytest.raises(raykv.Full):
        queue.put_nowait(4)
