"""Locks: one holder at a time, as fencing tokens judge it; nothing is left behind by one that was released."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

import raykv
import raykv.sim
from raykv.client import locks
from raykv.client.exchange import Exchange
from raykv.client.renewals import LoopRenewals, ThreadRenewals
from raykv.errors import CorruptData, Overloaded

if TYPE_CHECKING:
    from raykv.sim.kernel import Process


@pytest.fixture
def world() -> Any:
    with raykv.sim.start(seed=4) as world:
        yield world


@pytest.fixture
def data(world: Any) -> Any:
    return world.store.bucket("data", versioning="linearizable")


def link_process(store: Any) -> Process:
    process: Process = store._session.link._process
    return process


# ---- one holder ----


def test_a_lock_is_held_within_its_block(world: Any) -> None:
    lock = world.store.lock("leader", lease=10, timeout=30)
    assert (lock.name, lock.token, lock.lost) == ("leader", 0, True)
    with lock as held:
        assert held is lock
        assert (held.token, held.lost) == (1, False)
        with pytest.raises(
            raykv.Conflict, match=r"'leader' was not acquired within 0 s: .* holds it, with fencing token 1"
        ):
            world.connect().lock("leader", timeout=0).acquire()
    assert lock.lost
    with world.connect().lock("leader") as held:
        assert held.token == 2, "tokens grow, whoever acquires it"
    assert world.store.buckets() == ["default", "raykv.locks"]


def test_what_a_conflict_says(world: Any) -> None:
    with world.store.lock("leader", lease=7), pytest.raises(raykv.Conflict) as caught:
        world.connect().lock("leader", timeout=1.5).acquire()
    assert caught.value.key == "leader"
    assert caught.value.value["token"] == 1
    assert caught.value.value["lease_s"] == 7.0
    assert caught.value.value["owner"] in str(caught.value)
    assert caught.value.version


def test_a_released_lock_is_free_at_once(world: Any) -> None:
    first, second = world.store.lock("leader", lease=600), world.connect().lock("leader", lease=600, timeout=5)
    assert first.acquire() is first
    assert first.release() is True
    assert first.release() is False, "once"
    second.acquire()
    assert (first.token, second.token) == (1, 2)
    assert first.release() is False
    assert not second.lost, "what is another's is not released"


def test_an_error_inside_the_block_releases_it(world: Any) -> None:
    with pytest.raises(KeyError), world.store.lock("leader", lease=600):
        raise KeyError("of the user's")
    world.connect().lock("leader", timeout=0).acquire()


def test_a_waiter_gets_it_when_the_holder_leaves(world: Any) -> None:
    events: list[str] = []

    async def holder(store: Any) -> None:
        async with store.lock("leader", lease=30):
            events.append("first in")
            await asyncio.sleep(3)
            events.append("first out")

    async def waiter(store: Any) -> float:
        await asyncio.sleep(1)
        began_s = world.now_s
        async with store.lock("leader", lease=30):
            events.append("second in")
            return float(world.now_s - began_s)

    async def work() -> float:
        stores = [await world.connect_aio() for _ in range(2)]
        _, waited_s = await asyncio.gather(holder(stores[0]), waiter(stores[1]))
        return waited_s

    assert 2 <= world.run(work()) < 3
    assert events == ["first in", "first out", "second in"]


@pytest.mark.parametrize("face", ["blocking", "awaitable"])
def test_a_holder_renews_it_for_as_long_as_it_likes(world: Any, face: str) -> None:
    other = world.connect().lock("leader", lease=1, timeout=3)
    if face == "blocking":
        with world.store.lock("leader", lease=1) as held:
            with pytest.raises(raykv.Conflict):
                other.acquire()
            world.sleep(30)
            assert not held.lost
        return

    async def work() -> None:
        async with world.store.aio.lock("leader", lease=1) as held:
            with pytest.raises(raykv.Conflict):
                await (await world.connect_aio()).lock("leader", timeout=3).acquire()
            await asyncio.sleep(30)
            assert not held.lost

    world.run(work())


def test_a_holder_keeps_it_while_a_leader_is_killed(world: Any) -> None:
    with world.store.lock("leader", lease=6) as held:
        for node_id in world.nodes:
            world.kill(node_id)
            world.sleep(8)
        assert not held.lost
        assert held.release() is True


# ---- a lost lock ----


def test_a_cut_off_holder_knows_before_another_gets_it(world: Any) -> None:
    """The holder counts from the sending of its last good renewal, the other from when it saw what that wrote."""
    mine = world.store.lock("leader", lease=4).acquire()
    mine._renewals.stop()  # as if no renewal arrived any more
    lost_at_s = mine._tenancy.expires_s
    other = world.connect().lock("leader", lease=4, timeout=30).acquire()
    assert world.now_s >= lost_at_s
    assert mine.lost
    assert mine.release() is False
    assert not other.lost
    assert (mine.token, other.token) == (1, 2)


def test_two_holders_never_overlap_though_one_is_frozen(world: Any, data: Any) -> None:
    """The first holder sleeps through its lease and then writes: its fence is refused, and it learns that it lost."""
    data.put("file", "empty")
    story: list[Any] = []

    async def frozen(store: Any) -> None:
        bucket = await store.bucket("data")
        held = await store.lock("leader", lease=2).acquire()
        await bucket.put("file", "first", fence=held.token)
        await asyncio.sleep(0.5)  # frozen in here, for longer than the lease
        try:
            await bucket.put("file", "late", fence=held.token)  # without looking at held.lost
        except raykv.Conflict as refused:
            story.append(("refused", refused.version is not None, held.lost, await held.release()))

    async def second(store: Any) -> None:
        bucket = await store.bucket("data")
        await asyncio.sleep(0.3)
        async with store.lock("leader", lease=2, timeout=30) as held:
            story.append(("second", held.token))
            await bucket.put("file", "second", fence=held.token)
            await asyncio.sleep(20)
            assert not held.lost

    async def work() -> None:
        stores = [await world.connect_aio() for _ in range(2)]
        process = link_process(stores[0])
        first = process.spawn(frozen(stores[0]))
        other = asyncio.ensure_future(second(stores[1]))
        await asyncio.sleep(0.4)
        process.freeze()
        await asyncio.sleep(8)
        process.thaw()
        await asyncio.gather(first, other)

    world.run(work())
    assert story == [("second", 2), ("refused", True, True, False)]
    assert data.get("file") == "second"


def test_a_frozen_holder_that_looks_knows_at_once(world: Any) -> None:
    seen: list[bool] = []

    async def holder(store: Any) -> None:
        async with store.lock("leader", lease=2) as held:
            seen.append(held.lost)
            await asyncio.sleep(0.5)
            seen.append(held.lost)
        async with store.lock("leader", lease=2, timeout=10) as held:
            seen.append(held.lost)

    async def work() -> None:
        store = await world.connect_aio()
        process = link_process(store)
        task = process.spawn(holder(store))
        await asyncio.sleep(0.3)
        process.freeze()
        await asyncio.sleep(5)
        process.thaw()
        await task

    world.run(work())
    assert seen == [False, True, False]


def test_a_lost_lock_stays_lost(world: Any) -> None:
    """Also where a renewal gets through after the lease has ended: somebody may have been shown that it is lost."""
    mine = world.store.lock("leader", lease=1).acquire()
    mine._renewals.stop()
    world.sleep(2)
    assert mine.lost
    assert world.store._session.run(mine._claims.renew(mine._tenancy)) is None
    mine._tenancy.renewed_s = world.now_s  # as a thread may do that was in the middle of a renewal
    assert mine.lost
    assert mine.acquire().token == 2, "the same handle may have it again"
    assert not mine.lost
    mine.release()


def test_a_renewal_that_meets_another_holder_says_so(world: Any) -> None:
    mine = world.store.lock("leader", lease=600).acquire()
    world.store.bucket("raykv.locks").put("leader", {"owner": "x", "token": 9, "lease_s": 600.0})
    assert not mine.lost, "nothing was asked yet"
    assert world.store._session.run(mine._claims.renew(mine._tenancy)) is None
    assert mine.lost
    assert mine.release() is False
    assert world.store.bucket("raykv.locks").get("leader")["owner"] == "x"


def test_a_renewal_whose_answer_was_lost_still_counts(world: Any) -> None:
    """It stands, as the next one finds; the lease is counted from when it was sent."""
    mine = world.store.lock("leader", lease=600).acquire()
    tenancy, claims = mine._tenancy, mine._claims
    sent_s = world.now_s
    tenancy.unsure_s = sent_s  # a renewal was sent and is unknown ...
    written = world.store.bucket("raykv.locks").put("leader", tenancy.entry._asdict())  # ... and has come into effect
    world.sleep(5)
    assert world.store._session.run(claims.renew(tenancy)) == 0.0, "it is renewed at once"
    assert (tenancy.renewed_s, tenancy.unsure_s, tenancy.version) == (sent_s, None, written.version)
    assert not mine.lost
    assert mine.release() is True


def test_an_acquisition_whose_answer_was_lost_is_found(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write, lost = locks.Claims._write, []

    def first_answer_lost(self: Any, *args: Any) -> Any:
        written = yield from write(self, *args)
        if not lost:
            lost.append(world.now_s)
            raise raykv.WriteOutcomeUnknown("the answer was lost", acks=[])
        return written

    monkeypatch.setattr(locks.Claims, "_write", first_answer_lost)
    with world.store.lock("leader", lease=60) as held:
        assert held.token == 1, "the same acquisition, not a second one"
        assert held._tenancy.renewed_s <= lost[0]


def slowly(monkeypatch: pytest.MonkeyPatch, by_s: float, times: int = 1000) -> None:
    """Have the answers to the first of a lock's writes arrive so late."""
    write, late_ones = locks.Claims._write, iter(range(times))

    def late(self: Any, *args: Any) -> Any:
        written = yield from write(self, *args)
        if next(late_ones, None) is not None:
            yield Exchange((), 0.0, repeatable=True, pause_s=by_s)
        return written

    monkeypatch.setattr(locks.Claims, "_write", late)


def test_a_lease_is_counted_from_the_sending(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the answer's arrival a waiter may have watched the version for a while."""
    slowly(monkeypatch, 1.5)
    began_s = world.now_s
    mine = world.store.lock("leader", lease=60).acquire()
    assert mine._tenancy.expires_s < began_s + 61
    world.sleep(5)
    sent_s = world.now_s
    assert world.store._session.run(mine._claims.renew(mine._tenancy)) == pytest.approx(20 - 1.5, abs=0.2)
    assert mine._tenancy.renewed_s == pytest.approx(sent_s, abs=0.1)


def test_what_is_acquired_is_held(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """*Schedule without: the answer comes after the lease; another has had the lock since, under a later token.*"""
    slowly(monkeypatch, 3, times=1)
    with world.store.lock("job", lease=1, timeout=10) as lock:
        assert not lock.lost
        assert lock.token == 2, "the first acquisition was over before it was known"


def test_a_store_slower_than_the_lease_is_named_as_that(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slowly(monkeypatch, 3)
    with pytest.raises(raykv.StoreUnavailable, match="took longer than its lease of 1 s; try again, or take a longer"):
        world.store.lock("job", lease=1, timeout=5).acquire()


def test_a_renewal_that_is_answered_after_the_lease_revives_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = world.store.lock("leader", lease=2).acquire()
    mine._renewals.stop()
    slowly(monkeypatch, 3)
    assert world.store._session.run(mine._claims.renew(mine._tenancy)) is None
    assert mine._tenancy.lost


def test_a_holder_that_is_cut_off_loses_it_and_says_so(world: Any) -> None:
    mine = world.connect("direct")
    with mine.lock("leader", lease=3) as held:
        for node_id in world.nodes:
            world.cut(node_id, 20)
        world.sleep(2.9)
        world.sleep(2)
        assert held.lost
    world.sleep(30)
    assert world.store.lock("leader", lease=3, timeout=20).acquire().token >= 2


# ---- the token ----


def test_a_write_with_an_older_token_is_refused(world: Any, data: Any) -> None:
    with world.store.lock("leader") as first:
        data.put("file", 1, fence=first.token)
    with world.store.lock("leader") as second:
        data.put("file", 2, fence=second.token)
        data.put("file", 3, fence=second.token)
    for change in (lambda: data.put("file", 4, fence=first.token), lambda: data.delete("file", fence=first.token)):
        with pytest.raises(raykv.Conflict, match="later fencing token"):
            change()
    assert data.get("file") == 3
    data.put("file", 5)
    assert data.get("file") == 5, "without a fence a write is not compared"
    data.delete("file", fence=second.token)
    with pytest.raises(raykv.Conflict, match="later fencing token"):
        data.put("file", 6, fence=first.token)
    with pytest.raises(raykv.Conflict, match="later fencing token"):
        data.put("file", 6, if_absent=True, fence=first.token)


def test_tokens_grow_over_releases_and_takeovers(world: Any) -> None:
    tokens = []
    for turn in range(6):
        lock = world.connect().lock("leader", lease=1, timeout=10).acquire()
        tokens.append(lock.token)
        if turn % 2:
            lock.release()
        else:
            lock._renewals.stop()
    assert tokens == [1, 2, 3, 4, 5, 6]


def test_many_clients_under_faults_write_in_the_order_of_their_tokens() -> None:
    with raykv.sim.start(seed=11, faults=True) as world:
        held: list[tuple[float, str, int]] = []

        async def client(store: Any, who: str) -> None:
            file = await store.bucket("data", versioning="linearizable")
            for _ in range(3):
                try:
                    async with store.lock("leader", lease=3, timeout=120) as lock:
                        held.append((world.now_s, who, lock.token))
                        for _ in range(2):
                            log = await file.get("log", [])
                            if lock.lost:
                                break
                            await file.put("log", [*log, lock.token], fence=lock.token, timeout=20)
                except raykv.RaykvError:
                    await asyncio.sleep(1)

        async def work() -> None:
            stores = [await world.connect_aio() for _ in range(4)]
            await asyncio.gather(*(client(store, f"c{at}") for at, store in enumerate(stores)))

        world.run(work())
        world.heal()
        world.sleep(30)
        log = world.store.bucket("data").get("log", timeout=60)
        tokens = [token for _, _, token in held]
        assert len(tokens) == len(set(tokens)), "no two holders of one token"
        assert len(tokens) >= 4
        assert log == sorted(log), "fenced writes came in order"


def test_a_lock_whose_key_was_deleted_is_free(world: Any) -> None:
    with world.store.lock("leader"):
        pass
    world.store.bucket("raykv.locks").delete("leader")
    with world.store.lock("leader", timeout=0) as held:
        assert not held.lost


# ---- misuse ----


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lease": 0}, "lease must be a number from 0.1 to 3600"),
        ({"lease": "long"}, "lease must be a number"),
        ({"timeout": -1}, "timeout must be a number from 0 to 3600"),
        ({"timeout": float("inf")}, "timeout must be"),
    ],
)
def test_a_lease_and_a_timeout_have_bounds(world: Any, options: dict[str, Any], match: str) -> None:
    for face in (world.store, world.store.aio):
        with pytest.raises(raykv.InvalidOption, match=match):
            face.lock("leader", **options)


def test_a_handle_is_held_once(world: Any) -> None:
    lock = world.store.lock("leader").acquire()
    with pytest.raises(raykv.InvalidOption, match="this handle holds lock 'leader' already"):
        lock.acquire()
    assert not lock.lost
    lock.release()

    async def work() -> None:
        async with world.store.aio.lock("leader"):
            waiting = (await world.connect_aio()).lock("leader", timeout=2)
            task = asyncio.ensure_future(waiting.acquire())
            await asyncio.sleep(1)
            with pytest.raises(raykv.InvalidOption, match="waits for lock 'leader' already"):
                await waiting.acquire()
            with pytest.raises(raykv.Conflict):
                await task

    world.run(work())


@pytest.mark.parametrize("value", ["text", {"owner": 1}, {"owner": "x", "token": 0, "lease_s": 1.0}])
def test_what_is_no_lock_is_not_taken_over(world: Any, value: Any) -> None:
    with world.store.lock("other"):
        pass
    world.store.bucket("raykv.locks").put("leader", value)
    with pytest.raises(CorruptData, match=r"'leader' is no lock: bucket 'raykv\.locks' holds"):
        world.store.lock("leader").acquire()


def test_a_copy_holds_nothing(world: Any) -> None:
    lock = world.store.lock("leader", lease=5, timeout=0).acquire()
    other = copy.copy(lock)
    assert (other.name, other.lost, other.token, other._claims.lease_s) == ("leader", True, 0, 5.0)
    assert other.release() is False
    assert not lock.lost
    assert repr(lock) == "<raykv lock 'leader' of store 'simulated'>"
    lock.release()


def test_a_fork_s_child_does_not_hold_its_parent_s_lock(world: Any) -> None:
    lock = world.store.lock("leader").acquire()
    if (pid := os.fork()) == 0:
        try:
            os._exit(0 if lock.lost and lock.release() is False else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not lock.lost
    lock._tenancy.pid += 1  # as the child sees it
    assert lock.release() is False
    assert world.store.bucket("raykv.locks").get("leader") == lock._tenancy.entry._asdict(), "it is the parent's"


def test_a_block_may_close_the_handle_that_it_holds_the_lock_by(world: Any) -> None:
    store = world.connect()
    with store.lock("leader", lease=2) as held:
        store.close()
        assert held.lost
    assert held.release() is False
    assert world.store.lock("leader", timeout=10).acquire().token == 2

    async def work() -> None:
        other = await world.connect_aio()
        async with other.lock("other", lease=2) as held:
            await other.aclose()
        assert held.lost

    world.run(work())


def test_locks_and_counters_come_back_after_their_buckets_were_dropped(world: Any) -> None:
    world.store.counter("hits").add(5)
    with world.store.lock("leader"):
        pass
    for name in ("raykv.counters", "raykv.locks"):
        assert world.store.drop_bucket(name)
    assert world.store.counter("hits").add() == 1
    with world.store.lock("leader", timeout=5) as held:
        assert held.token == 1


# ---- nothing is left ----


def test_a_handle_that_is_closed_renews_nothing_any_more(world: Any) -> None:
    store = world.connect()
    lock = store.lock("leader", lease=2).acquire()
    store.close()
    assert lock.lost
    assert world.store.lock("leader", timeout=10).acquire().token == 2


def test_a_handle_that_is_dropped_renews_nothing_any_more(world: Any) -> None:
    store = world.connect()
    store.lock("leader", lease=2).acquire()
    gc.collect()
    began_s = world.now_s
    assert world.store.lock("leader", timeout=10).acquire().token == 2
    assert world.now_s - began_s < 5


@pytest.mark.parametrize("ended", ["left", "cancelled"])
def test_no_task_is_left_of_a_lock(world: Any, ended: str) -> None:
    async def holder(store: Any) -> None:
        async with store.lock("leader", lease=0.3):
            await asyncio.sleep(5 if ended == "left" else 1e6)

    async def work() -> tuple[int, int]:
        store = await world.connect_aio()
        before = len(asyncio.all_tasks())
        task = asyncio.ensure_future(holder(store))
        await asyncio.sleep(7)
        task.cancel()
        await asyncio.wait({task})
        await asyncio.sleep(1)
        return before, len(asyncio.all_tasks())

    before, after = world.run(work())
    assert after <= before
    world.store.lock("leader", timeout=0).acquire()


class Steps:
    """Renewals that only count."""

    def __init__(self, every_s: float | None = 0.001) -> None:
        self.every_s = every_s
        self.begun = 0

    def __call__(self) -> Any:
        self.begun += 1
        return self.every_s
        yield


class User:
    """What renewals are for."""


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "raykv-lock"]


def wait_until(true: Any) -> None:
    until_s = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until_s, "it never came"
        time.sleep(0.002)


def test_a_thread_renews_until_it_is_stopped(link: Any) -> None:
    steps, user = Steps(), User()
    renewals = ThreadRenewals(steps, link, 0.0, user)
    wait_until(lambda: steps.begun > 3)
    assert threads() == ["raykv-lock"]
    renewals.stop()
    renewals.join(20)
    assert threads() == []


def test_a_thread_ends_with_its_user_and_with_the_last_renewal(link: Any) -> None:
    user = User()
    first = ThreadRenewals(Steps(), link, 3600.0, user)
    del user
    gc.collect()
    first.join(20)
    keeper = User()
    ThreadRenewals(Steps(None), link, 0.0, keeper).join(20)
    assert threads() == []


def test_a_process_without_threads_gets_an_error(link: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(Overloaded, match="no more threads"):
        ThreadRenewals(Steps(), link, 0.0, User())


def test_a_closed_loop_is_left_without_a_word(link: Any, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()

    async def begin() -> LoopRenewals:
        renewals = LoopRenewals(Steps(), link, 0.0)
        await asyncio.sleep(0.01)
        return renewals

    renewals = loop.run_until_complete(begin())
    loop.run_until_complete(renewals.stopped())
    loop.close()
    del renewals
    gc.collect()
    assert caplog.text == ""


def test_a_lock_may_be_released_in_another_loop_than_it_was_acquired_in(link: Any) -> None:
    class Slow(Steps):
        def __call__(self) -> Any:
            self.begun += 1
            yield Exchange((), 0.0, repeatable=True, pause_s=1.0)
            return self.every_s

    async def forever(_: float) -> None:
        await asyncio.Event().wait()

    async def begin() -> LoopRenewals:
        renewals = LoopRenewals(steps, link, 0.0)
        await asyncio.sleep(0.01)
        assert steps.begun == 1
        return renewals

    async def end(renewals: LoopRenewals) -> None:
        renewals.stop()
        await renewals.stopped()

    link.sleep = forever
    steps = Slow()
    asyncio.run(end(asyncio.run(begin())))  # which cancels what is left in its loop

    steps = Slow()
    loop = asyncio.new_event_loop()
    renewals = loop.run_until_complete(begin())
    task = renewals._task
    loop.close()
    asyncio.run(end(renewals))
    task.get_coro().close()  # the user's loop was closed over it, of which asyncio would complain


def test_a_handle_that_is_used_for_ever_keeps_nothing_of_former_acquisitions(link: Any) -> None:
    user = User()
    before = len(weakref.finalize._registry)
    for _ in range(3):
        renewals = ThreadRenewals(Steps(), link, 3600.0, user)
        renewals.stop()
        renewals.join(20)
    assert len(weakref.finalize._registry) == before
