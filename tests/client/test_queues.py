"""Queues: each job is done, none is handed out twice within a lease, and none is lost, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import pickle
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import raykv
import raykv.sim
from raykv.client import shards
from raykv.client.queues import Queues
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raykv.sim.kernel import Process

LEASE_S = 6.0


@pytest.fixture
def world() -> Iterator[Any]:
    with raykv.sim.start(seed=4) as world:
        yield world


def process_of(store: Any) -> Process:
    process: Process = store._session.link._process
    return process


def jump(world: Any, store: Any, by_s: float) -> None:
    world._cluster.host_of_client(process_of(store).name).skew_ms += round(1000 * by_s)


# ---- the ordinary course ----


def test_what_is_put_is_claimed_and_done_once(world: Any) -> None:
    queue = world.store.queue("jobs")
    ids = queue.put_many([{"number": number} for number in range(250)])
    assert len({*ids}) == 250
    taken, jobs = [], queue.claim(40)
    while jobs:
        assert 1 <= len(jobs) <= 40
        assert {job.deliveries for job in jobs} == {1}
        taken += jobs
        assert queue.ack(jobs) is True
        jobs = queue.claim(40)
    assert sorted(job.id for job in taken) == sorted(ids)
    assert sorted(job.value["number"] for job in taken) == [*range(250)]
    assert queue.stats() == {
        "waiting": 0, "delayed": 0, "claimed": 0, "dead": 0, "put": 250, "done": 250, "redelivered": 0, "shards": 8,
        "maxsize": 0,
    }  # fmt: skip


def test_with_one_shard_jobs_come_in_order(world: Any) -> None:
    queue = world.store.queue("jobs", shards=1)
    for number in range(5):
        queue.put(number)
    queue.put_many(range(5, 300))
    taken: list[int] = []
    jobs = queue.claim(7)
    while jobs:
        taken += [job.value for job in jobs]
        jobs = queue.claim(7, done=jobs)
    assert taken == [*range(300)]
    assert queue.stats()["done"] == 300


def test_a_job_keeps_its_type_and_value(world: Any) -> None:
    queue = world.store.queue("jobs")
    queue.put((1, {2}))
    (job,) = queue.claim()
    assert job.value == (1, {2})
    with pytest.raises(InvalidOption, match="msgpack"):
        world.store.queue("jobs", codec="msgpack").put((1, 2))


def test_what_is_nacked_comes_again_after_its_delay(world: Any) -> None:
    queue = world.store.queue("jobs")
    queue.put("a")
    (job,) = queue.claim()
    assert queue.nack(job, delay=20) is True
    assert queue.claim(wait=15) == []
    (again,) = queue.claim(wait=15)
    assert (again.id, again.value, again.deliveries) == (job.id, "a", 2)
    assert queue.ack(job) is False, "of a claim that was given back"
    assert queue.ack(again) is True
    assert queue.stats()["redelivered"] == 1


def test_delayed_jobs_are_in_nobody_s_way(world: Any) -> None:
    queue = world.store.queue("jobs", shards=1)
    queue.put_many(range(120), delay=30)
    queue.put("now")
    assert [job.value for job in queue.claim(10, done=())] == ["now"]
    assert queue.claim() == []
    assert queue.size() == 120
    assert queue.stats()["delayed"] == 120
    world.sleep(31)
    assert sorted(job.value for _ in range(3) for job in queue.claim(50)) == [*range(120)]


def test_what_is_not_acked_within_the_lease_comes_again(world: Any) -> None:
    mine, other = world.store.queue("jobs", lease=10), world.connect().queue("jobs", lease=10)
    mine.put("a")
    (job,) = mine.claim()
    began_s = world.now_s
    assert other.claim(wait=8) == []
    (again,) = other.claim(wait=8)
    assert 10 <= world.now_s - began_s <= 13
    assert (again.id, again.deliveries) == (job.id, 2)
    assert mine.ack(job) is False
    assert mine.renew(job) is False
    assert other.ack(again) is True


def test_a_claim_that_is_renewed_is_kept(world: Any) -> None:
    mine, other = world.store.queue("jobs", lease=10), world.connect().queue("jobs", lease=10)
    mine.put("a")
    jobs = mine.claim()
    for _ in range(5):
        assert other.claim(wait=6) == []
        assert mine.renew(jobs) is True
    assert mine.ack(jobs) is True


def test_a_visitor_takes_over_by_the_wall_clock(world: Any) -> None:
    """Consumers that come and go watch nothing for a whole lease: then it takes a minute more."""
    world.store.queue("jobs", lease=10).put("a")
    world.connect().queue("jobs", lease=10).claim()
    world.sleep(60)
    assert world.connect().queue("jobs").claim() == []
    world.sleep(15)
    assert [job.value for job in world.connect().queue("jobs").claim()] == ["a"]


@pytest.mark.parametrize("whose", ["consumer", "watcher"])
@pytest.mark.parametrize("by_s", [-50.0, 50.0])
def test_a_clock_that_jumps_ends_no_lease(world: Any, whose: str, by_s: float) -> None:
    mine, other = [world.connect() for _ in range(2)]
    queue = mine.queue("jobs", lease=8)
    queue.put("a")
    if whose == "consumer":
        jump(world, mine, by_s)
    queue.claim()
    began_s = world.now_s
    if whose == "watcher":
        jump(world, other, by_s)
    while not (jobs := other.queue("jobs").claim(wait=5)) and world.now_s < began_s + 200:
        world.sleep(1)
    assert jobs
    assert world.now_s - began_s >= 8


def test_the_clock_of_a_consumer_that_is_far_behind_ends_no_lease(world: Any) -> None:
    mine, other = [world.connect() for _ in range(2)]
    other.queue("jobs", shards=1).put_many(["a", "b"])
    other.queue("jobs").ack(other.queue("jobs").claim())
    jump(world, mine, -3600)
    assert mine.queue("jobs", lease=8).claim()
    assert other.queue("jobs").claim(wait=6) == []


def test_any_handle_settles_a_job_however_old_what_it_remembers(world: Any) -> None:
    mine, other = world.store.queue("jobs", shards=1), world.connect().queue("jobs")
    mine.put_many(["a", "b", "c"])
    assert other.ack(other.claim()) is True
    first, second = pickle.loads(pickle.dumps(mine.claim(2)))
    assert other.renew(first) is True
    assert other.ack(first) is True
    third = world.connect().queue("jobs")
    third.peek()
    assert mine.nack(second) is True
    (again,) = mine.claim()
    assert third.ack(again) is True


# ---- dead letters ----


def test_what_fails_too_often_is_a_dead_letter(world: Any) -> None:
    queue = world.store.queue("jobs", max_deliveries=3)
    queue.put_many(["bad", "good"])
    for delivery in range(1, 4):
        for job in queue.claim(2):
            queue.ack(job) if job.value == "good" else queue.nack(job)
            assert job.value == "good" or job.deliveries == delivery
    assert queue.claim(wait=2) == []
    (dead,) = queue.dead()
    assert (dead.value, dead.deliveries) == ("bad", 3)
    with pytest.raises(InvalidOption, match="was not claimed, only looked at"):
        queue.ack(dead)
    assert queue.requeue_dead("0.999.0") == 0
    assert queue.requeue_dead(dead) == 1
    (again,) = queue.claim()
    assert (again.id, again.deliveries) == (dead.id, 1)
    for _ in range(3):
        queue.nack(queue.claim(wait=1) or again)
    assert queue.stats()["dead"] == 1
    assert queue.remove_dead() == 1
    assert queue.stats() | {"redelivered": 0} == {
        "waiting": 0, "delayed": 0, "claimed": 0, "dead": 0, "put": 2, "done": 1, "redelivered": 0, "shards": 8,
        "maxsize": 0,
    }  # fmt: skip


def test_no_more_dead_letters_are_read_than_are_asked_for(world: Any) -> None:
    queue = world.store.queue("jobs", max_deliveries=1, shards=2)
    queue.put_many(range(300))
    while jobs := queue.claim(300):
        queue.nack(jobs)
    assert queue.stats()["dead"] == 300
    assert [len(queue.dead(count)) for count in (1, 99, 150, 1000)] == [1, 99, 150, 300]
    assert len({job.id for job in queue.dead(1000)}) == 300


def test_a_consumer_that_always_dies_makes_a_dead_letter_too(world: Any) -> None:
    queue = world.store.queue("jobs", lease=5, max_deliveries=2)
    queue.put("poison")
    assert queue.claim()
    assert [job.deliveries for job in queue.claim(wait=10)] == [2]
    assert queue.claim(wait=10) == []
    assert [job.value for job in queue.dead()] == ["poison"]


def test_what_becomes_of_jobs_is_counted(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: Counter[str] = Counter()
    monkeypatch.setattr(world.store._session.link, "count", lambda name, amount: counted.update({name: amount}))
    queue = world.store.queue("jobs", max_deliveries=2, lease=5, shards=1)
    queue.put_many(["bad", "bad", "good", "slow"])
    queue.put("once", once="a")
    queue.put("once", once="a")
    jobs = queue.claim(10)
    assert queue.nack([job for job in jobs if job.value == "bad"])
    again = queue.claim(10, done=[job for job in jobs if job.value in {"good", "once"}])
    queue.nack(again)
    assert [job.value for job in queue.claim(10, wait=10)] == ["slow"], "its lease was over"
    assert counted == {
        "queues.put": 5, "queues.claimed": 8, "queues.given_back": 4, "queues.done": 2, "queues.redelivered": 3,
        "queues.dead": 2,
    }  # fmt: skip


# ---- as ray.util.queue has it ----


def test_the_face_of_ray_s_queue(world: Any) -> None:
    queue = world.store.queue("jobs", maxsize=3)
    assert (queue.empty(), queue.full(), queue.size(), queue.maxsize) == (True, False, 0, 3)
    with pytest.raises(raykv.Empty, match="'jobs' has no job at present"):
        queue.get_nowait()
    with pytest.raises(raykv.Empty):
        queue.get(timeout=1)
    queue.put("a")
    queue.put_nowait("b")
    queue.put("c", block=False)
    assert (queue.empty(), queue.full(), queue.qsize()) == (False, True, 3)
    with pytest.raises(raykv.Full, match="'jobs' has 3 of 3 jobs"):
        queue.put("d", timeout=1)
    assert [queue.get(), queue.get_nowait(), queue.get(block=False)] == ["a", "b", "c"]
    with pytest.raises(raykv.Full):
        queue.put_nowait_batch([1, 2, 3, 4])
    assert queue.empty()
    queue.put_nowait_batch([1, 2, 3])
    with pytest.raises(raykv.Empty, match="has 3 of the 4 jobs"):
        queue.get_nowait_batch(4)
    assert queue.get_nowait_batch(3) == [1, 2, 3]
    assert queue.get_nowait_batch(0) == []
    assert queue.stats()["done"] == 6


def test_a_batch_that_cannot_be_decoded_is_given_back_at_once(world: Any) -> None:
    queue = world.store.queue("jobs", shards=1)
    queue.put_many([1, complex(1, 2), 3])
    with pytest.raises(raykv.CorruptData):
        world.store.queue("jobs", codec="msgpack").get_nowait_batch(3)
    assert queue.stats()["waiting"] == 3
    assert [(job.value, job.deliveries) for job in sorted(queue.claim(3))] == [(1, 1), (complex(1, 2), 2), (3, 1)], (
        "only the one that failed counts as delivered"
    )


def test_a_batch_whose_claims_fail_on_the_way_is_given_back(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = world.store.queue("jobs")
    queue.put_many(["a"])
    queue.put_many(["b"])
    true, calls = Queues.claim, []

    def claim(self: Any, count: int, **options: Any) -> Any:
        calls.append(count)
        if len(calls) > 1:
            raise raykv.StoreUnavailable("all is gone")
        return true(self, 1, **options)

    monkeypatch.setattr(Queues, "claim", claim)
    with pytest.raises(raykv.StoreUnavailable):
        queue.get_nowait_batch(2)
    assert queue.stats()["waiting"] == 2


def test_one_that_waits_for_room_gets_it(world: Any) -> None:
    async def work() -> list[Any]:
        queue = world.store.aio.queue("jobs", maxsize=1)
        await queue.put(1)
        later = asyncio.get_running_loop().create_task(queue.put(2))
        await asyncio.sleep(3)
        assert not later.done()
        first = await queue.get()
        await later
        return [first, await queue.get()]

    assert world.run(work()) == [1, 2]


def test_a_consumer_hears_a_put_of_its_own_process_at_once(world: Any) -> None:
    async def work() -> float:
        queue = world.store.aio.queue("jobs")
        waiting = asyncio.get_running_loop().create_task(queue.claim(wait=60))
        await asyncio.sleep(20)
        put_s = world.now_s
        await queue.put(1)
        assert len(await waiting) == 1
        return float(world.now_s - put_s)

    assert world.run(work()) < 0.15


# ---- what is refused ----


def test_bad_arguments_are_refused_before_anything_is_sent(world: Any) -> None:
    store = world.store
    for given in ({"lease": 0}, {"max_deliveries": 0}, {"maxsize": -1}, {"shards": 65}, {"codec": "pickle"}):
        with pytest.raises(InvalidOption):
            store.queue("jobs", **given)
    with pytest.raises(raykv.InvalidKey):
        store.queue("")
    queue = store.queue("jobs")
    for call in (
        lambda: queue.claim(0), lambda: queue.claim(wait=-1), lambda: queue.put(1, delay=-1), lambda: queue.put_many("ab"),
        lambda: queue.ack("1.2.3"), lambda: queue.put(1, block=1), lambda: queue.claim(timeout=0), lambda: queue.put_many(3),
        lambda: queue.get_nowait_batch(-1), lambda: queue.requeue_dead("x"), lambda: queue.remove_dead(5),
        lambda: queue.requeue_dead([None]),
    ):  # fmt: skip
        with pytest.raises(InvalidOption):
            call()
    with pytest.raises(raykv.PairTooLarge, match="and put the key"):
        queue.put(b"x" * 2**20)
    assert store.buckets() == ["default"]


def test_what_all_must_agree_on_is_compared(world: Any) -> None:
    world.store.queue("jobs", shards=2).put(1)
    assert world.connect().queue("jobs").stats()["shards"] == 2
    with pytest.raises(raykv.BucketMismatch, match="exists with shards=2, and shards=3 was asked for"):
        world.connect().queue("jobs", shards=3).put(1)
    with pytest.raises(raykv.BucketMismatch, match="maxsize=0"):
        world.connect().queue("jobs", maxsize=3).put(1)
    with pytest.raises(InvalidOption, match="one shard"):
        world.connect().queue("other", maxsize=3, shards=2).put(1)


def test_queues_do_not_see_each_other(world: Any) -> None:
    names = ["a", "a/b", "a%2Fb", "a:0", "ä"]
    for name in names:
        world.store.queue(name).put(name)
    assert [[job.value for job in world.store.queue(name).claim(10)] for name in names] == [[name] for name in names]


def test_a_queue_goes_on_after_its_bucket_was_dropped(world: Any) -> None:
    queue = world.store.queue("jobs")
    queue.put("old")
    world.store.drop_bucket("raykv.queues")
    queue.put("new")
    assert [job.value for job in queue.claim(10)] == ["new"]


# ---- slots ----


def test_slots_are_removed_and_used_again(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "RING", 16)
    queue = world.store.queue("jobs", shards=1)
    for number in range(100):
        queue.put(number)
        assert queue.get() == number
    keys = [key for key in world.store.bucket("raykv.queues") if key.startswith("jobs:0/")]
    assert len(keys) <= 2 + 16, "the book, the settings, and a few slots"


@pytest.mark.parametrize("once", [None, "order:1"])
def test_a_slot_that_was_freed_last_stops_no_put_into_an_empty_queue(
    world: Any, monkeypatch: pytest.MonkeyPatch, once: str | None
) -> None:
    """Removals ride with changes of the book, and nobody changes that of an empty queue."""
    monkeypatch.setattr(shards, "RING", 8)
    queue, other = world.store.queue("jobs", shards=1, lease=3600), world.connect().queue("jobs")
    queue.put("held")
    (held,) = queue.claim()
    queue.put_many([b"x" * 40_000] * 7)
    rest = queue.claim(7)
    assert queue.ack(rest)
    with pytest.raises(raykv.Overloaded, match="has not been done while 8 slots were put after it"):
        other.put("too early", once=once)
    assert queue.ack(held)
    assert queue.claim() == []
    other.put("next", once=once)
    assert [job.value for job in queue.claim(5)] == ["next"]


def test_a_job_that_is_never_done_stops_a_ring_that_is_full_and_loses_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "RING", 16)
    queue = world.store.queue("jobs", shards=1, lease=3600)
    queue.put("held")
    (held,) = queue.claim()

    def fill() -> None:
        for number in range(40):
            queue.put(number)
            assert queue.get() == number

    with pytest.raises(raykv.Overloaded, match="has not been done while 16 slots were put after it"):
        fill()
    assert queue.ack(held)
    fill()


# ---- all at once, by seed ----


class Handed(NamedTuple):
    """A job as one consumer got it."""

    job_id: str
    value: Any
    asked_s: float
    got_s: float
    who: str


class Rig:
    """Producers and consumers of one queue, and what they were told."""

    def __init__(self, world: Any, seed: int) -> None:
        self.world = world
        self.rng = random.Random(f"queue {seed}")
        self.put: dict[int, str] = {}
        self.maybe: set[int] = set()
        self.handed: list[Handed] = []
        self.acked: dict[str, float] = {}
        """Job -> when an ack was answered with True, the first one."""
        self.nacked: set[str] = set()
        self.over = False

    async def produce(self, store: Any, first: int, count: int) -> None:
        queue = store.queue("jobs")
        numbers = [*range(first, first + count)]
        while numbers:
            some = numbers[: self.rng.choice([1, 1, 5, 130])]
            try:
                ids = await queue.put_many(
                    some, delay=self.rng.choice([0, 0, 0, 7]), timeout=self.rng.choice([1, 5, 20])
                )
            except raykv.WriteOutcomeUnknown:
                self.maybe |= {*some}
            except (raykv.Overloaded, raykv.StoreUnavailable, raykv.QuorumNotMet) as error:
                ids = error.details.get("put", [])
                if ids:
                    self.maybe |= {*some}  # some of them, which is not looked into here
                else:
                    await asyncio.sleep(0.5)
                    continue
            else:
                self.put.update(zip(some, ids, strict=True))
            numbers = numbers[len(some) :]
            await asyncio.sleep(self.rng.uniform(0, 1.5))

    async def consume(self, store: Any) -> None:
        who = process_of(store).name
        queue = store.queue("jobs", lease=LEASE_S, max_deliveries=1000)
        while not self.over:
            asked_s = self.world.now_s
            try:
                jobs = await queue.claim(self.rng.choice([1, 3, 40]), timeout=self.rng.choice([2, 5]))
                self.handed += [Handed(job.id, job.value, asked_s, self.world.now_s, who) for job in jobs]
                await asyncio.sleep(self.rng.choice([0, 0.2, 1.0]) if jobs else self.rng.uniform(0.2, 0.8))
                if jobs and self.rng.random() < 0.1:
                    self.nacked.add(jobs[0].id)
                    await queue.nack(jobs[:1])
                    jobs = jobs[1:]
                if jobs and self.rng.random() < 0.2:
                    await queue.renew(jobs)
                if jobs and await queue.ack(jobs):
                    for job in jobs:
                        self.acked.setdefault(job.id, self.world.now_s)
            except (raykv.Overloaded, raykv.StoreUnavailable, raykv.QuorumNotMet, raykv.WriteOutcomeUnknown):
                await asyncio.sleep(0.3)

    async def harm_consumers(self, stores: list[Any], for_s: float) -> None:
        until_s = self.world.now_s + for_s
        while self.world.now_s < until_s:
            await asyncio.sleep(self.rng.uniform(3, 9))
            at = self.rng.randrange(len(stores))
            store = stores[at]
            how = self.rng.choice(["kill", "freeze", "jump"])
            if how == "kill":
                process_of(store).kill()
                stores[at] = await self.world.connect_aio()
                process_of(stores[at]).spawn(self.consume(stores[at]))
            elif how == "freeze":
                process_of(store).freeze()
                await asyncio.sleep(self.rng.uniform(1, 2 * LEASE_S))
                process_of(store).thaw()
            else:
                jump(self.world, store, self.rng.uniform(-25, 25))
        self.world.heal()

    async def run(self, jobs: int, for_s: float) -> None:
        producers = [await self.world.connect_aio() for _ in range(2)]
        consumers = [await self.world.connect_aio() for _ in range(4)]
        for store in consumers:
            process_of(store).spawn(self.consume(store))
        await asyncio.gather(
            *(self.produce(store, at * jobs, jobs) for at, store in enumerate(producers)),
            self.harm_consumers(consumers, for_s),
        )
        queue = self.world.store.aio.queue("jobs")
        for _ in range(300):
            with contextlib.suppress(raykv.RaykvError):
                stats = await queue.stats()
                if stats["waiting"] == stats["claimed"] == 0:
                    break
            await asyncio.sleep(2)
        self.over = True
        assert stats["dead"] == 0
        assert stats["put"] == stats["done"], stats

    def check(self) -> None:
        """Check what was promised."""
        values: dict[Any, set[str]] = {}
        for handed in self.handed:
            values.setdefault(handed.value, set()).add(handed.job_id)
        for number, job_id in self.put.items():
            assert values.get(number) == {job_id}, f"job {number} was acknowledged as {job_id}"
        assert {*values} <= {*self.put} | self.maybe
        assert all(len(ids) == 1 for ids in values.values()), "a job is there once, whatever was known of its put"
        by_job: dict[str, list[Handed]] = {}
        for handed in self.handed:
            by_job.setdefault(handed.job_id, []).append(handed)
        for job_id, several in by_job.items():
            several.sort(key=lambda handed: handed.got_s)
            for former, later in itertools.pairwise(several):
                assert later.asked_s <= self.acked.get(job_id, later.asked_s), f"{job_id} was handed out after its ack"
                passed_s = later.got_s - former.asked_s
                assert passed_s >= LEASE_S or job_id in self.nacked, f"{job_id} came again after {passed_s:g} s"


@pytest.mark.parametrize("seed", range(4))
def test_every_job_is_done_and_none_is_handed_out_twice_within_a_lease(seed: int) -> None:
    with raykv.sim.start(seed=seed, faults=True, nodes=3 + seed % 2) as world:
        rig = Rig(world, seed)
        world.run(rig.run(jobs=80, for_s=45))
        rig.check()
        assert len(rig.put) > 20


def test_a_node_that_joins_and_one_that_leaves_lose_no_job(world: Any) -> None:
    async def work() -> None:
        rig = Rig(world, 9)
        stores = [await world.connect_aio() for _ in range(3)]
        for store in stores[:2]:
            process_of(store).spawn(rig.consume(store))
        added = asyncio.get_running_loop().create_task(world.store.aio.add_node(weight=1.0))
        await rig.produce(stores[2], 0, 120)
        await world.store.aio.remove_node(await added)
        queue = world.store.aio.queue("jobs")
        for _ in range(100):
            await asyncio.sleep(1)
            stats = await queue.stats()
            if not stats["waiting"] + stats["claimed"]:
                break
        rig.over = True
        await asyncio.sleep(2)
        rig.check()
        assert stats["done"] == len(rig.put) == 120

    world.run(work())
