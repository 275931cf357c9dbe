"""Counters, locks and conditional writes on a real store: processes, threads, forks, and the coordinator's actor handle."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from typing import Any

import patience
import pytest
import ray

import raykv

pytestmark = pytest.mark.ray


@pytest.fixture
def jobs(shared_store: raykv.Store) -> Any:
    return shared_store.bucket("linearizable jobs", versioning="linearizable")


def lock_threads() -> int:
    return sum(thread.name == "raykv-lock" for thread in threading.enumerate())


def test_tasks_count_exactly(shared_store: raykv.Store) -> None:
    @ray.remote(num_cpus=0)
    def count(store: raykv.Store, times: int) -> None:
        patience.be_patient()
        hits = store.counter("tasks")
        for _ in range(times):
            hits.add(timeout=30)

    ray.get([count.remote(shared_store, 50) for _ in range(4)])
    assert shared_store.counter("tasks").value() == 200


def test_threads_of_one_handle_count_exactly(shared_store: raykv.Store) -> None:
    hits = shared_store.counter("threads")

    def count() -> None:
        for _ in range(50):
            hits.add(timeout=30)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert hits.value() == 200


def test_the_coordinator_s_handle_changes_what_it_holds(shared_store: raykv.Store, jobs: Any) -> None:
    handle = raykv.coordinator(shared_store.store_name)

    def call(name: str, *args: Any, **options: Any) -> Any:
        return shared_store.decode(ray.get(getattr(handle, name).remote(*args, bucket=jobs.name, **options)))

    first = call("put", "handle", "new", if_absent=True)
    assert first.version == jobs.get_versioned("handle").version
    with pytest.raises(raykv.Conflict) as caught:
        call("put", "handle", "again", if_absent=True)
    assert (caught.value.value, caught.value.version) == ("new", first.version)
    second = call("put", "handle", "next", if_version=first.version)
    assert call("get_versioned", "handle") == ("next", second.version)
    with pytest.raises(raykv.Conflict):
        call("delete", "handle", if_version=first.version)
    call("delete", "handle", if_version=second.version)
    assert call("get", "handle") is None
    assert call("get_many", ["handle"]) == [None]
    assert [call("add", "n"), call("add", "n", 4), call("max", "n", 9), call("min", "n", 2), call("swap", "n", "x")] == [
        1, 5, 9, 2, 2,
    ]  # fmt: skip
    with pytest.raises(raykv.InvalidOption, match="no 64-bit integer"):
        call("add", "n")
    with pytest.raises(raykv.BatchError) as several:
        call("put_many", {"n": 1, "m": 2}, if_absent=True)
    assert [*several.value.results] == [1]
    assert isinstance(several.value.errors[0], raykv.Conflict)
    call("put", "file", 1, fence=7)
    with pytest.raises(raykv.Conflict, match="later fencing token"):
        call("put", "file", 2, fence=6)
    for wrong in ({"w": 2}, {"ttl": 5}, {"timeout": 61}):
        with pytest.raises(raykv.InvalidOption):
            call("put", "n", 1, **wrong)
    for name in ("add", "swap", "get_versioned"):
        refs = getattr(handle, name).remote("k", *(["v"] if name == "swap" else []))
        with pytest.raises(raykv.InvalidOption, match="needs a linearizable bucket"):
            shared_store.decode(ray.get(refs))
    with pytest.raises(raykv.InvalidOption, match="if_absent needs a linearizable bucket"):
        shared_store.decode(ray.get(handle.put.remote("k", 1, if_absent=True)))


def test_calls_of_the_handle_in_parallel_count_exactly(shared_store: raykv.Store, jobs: Any) -> None:
    handle = raykv.coordinator(shared_store.store_name)
    answers = ray.get([handle.add.remote("parallel", bucket=jobs.name, timeout=30) for _ in range(100)])
    assert sorted(map(shared_store.decode, answers)) == list(range(1, 101))


def test_a_thread_holds_a_lock_for_as_long_as_its_user_likes(shared_store: raykv.Store) -> None:
    before = lock_threads()
    with shared_store.lock("held", lease=0.6) as held:
        assert lock_threads() == before + 1
        with raykv.connect(shared_store.store_name) as other, pytest.raises(raykv.Conflict, match=f"pid {os.getpid()}"):
            other.lock("held", timeout=2).acquire()
        assert not held.lost
    assert lock_threads() == before
    with shared_store.lock("held", timeout=10) as again:
        assert again.token == held.token + 1


def test_no_thread_is_left_of_a_lock_that_was_dropped_or_whose_handle_was_closed(shared_store: raykv.Store) -> None:
    before = lock_threads()
    lock = shared_store.lock("dropped", lease=600).acquire()
    with raykv.connect(shared_store.store_name) as store:
        other = store.lock("closed", lease=600).acquire()
    assert other.lost
    del lock
    gc.collect()
    until_s = time.monotonic() + 20
    while lock_threads() > before:
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_lock_of_a_killed_task_is_taken_over(shared_store: raykv.Store) -> None:
    @ray.remote(num_cpus=0, max_retries=0)
    def die(store: raykv.Store) -> None:
        patience.be_patient()
        store.lock("killed", lease=1).acquire()
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(die.remote(shared_store))
    with shared_store.lock("killed", timeout=30) as held:
        assert held.token == 2


def _in_a_child(store: raykv.Store, lock: raykv.Lock, wanted: int, results: Any) -> None:
    hits = store.counter("forked")
    for _ in range(wanted):
        hits.add(timeout=30)
    results.put((lock.lost, lock.release()))


def test_a_fork_s_child_counts_in_lanes_of_its_own_and_holds_no_lock(shared_store: raykv.Store) -> None:
    """Parent and child had the same free lanes at the fork: two calls of one name would count once."""
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    hits = shared_store.counter("forked")
    hits.set(0)
    with shared_store.lock("forked", lease=30) as held:
        child = fork.Process(target=_in_a_child, args=(shared_store, held, 20, results))
        child.start()
        for _ in range(20):
            hits.add(timeout=30)
        assert results.get() == (True, False)
        child.join(30)
        assert not held.lost
        assert held.release() is True
    assert hits.value() == 40


def test_both_faces_share_locks_and_counters(shared_store: raykv.Store) -> None:
    async def outlives_its_lease(lease_s: float) -> bool:
        async with shared_store.aio.lock("both", lease=lease_s) as held:
            await asyncio.sleep(2.5 * lease_s)
            return not held.lost

    async def work() -> int:
        store = shared_store.aio
        for lease_s in (0.6, 3.0, 15.0):  # on a busy machine nothing may run for as long as a short one
            if outlived := await outlives_its_lease(lease_s):
                break
        assert outlived
        assert "_renew" not in repr(asyncio.all_tasks())
        await store.counter("both").set(4)
        return await store.counter("both").add()

    assert asyncio.run(work()) == 5
    assert asyncio.run(work()) == 5, "in successive event loops too"
    assert shared_store.counter("both").value() == 5


@pytest.mark.parametrize("face", ["blocking", "awaitable"])
def test_an_interpreter_ends_while_it_holds_a_lock(shared_store: raykv.Store, face: str) -> None:
    """It waits for no thread, and says nothing; the lock is free after its lease."""
    name = f"at the end, {face}"
    acquire = f"lock({name!r}, lease=1.5).acquire()"
    code = "import asyncio, raykv; store = raykv.connect('shared'); "
    code += f"kept = store.{acquire}" if face == "blocking" else f"kept = asyncio.run(store.aio.{acquire})"
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    for word in ("Traceback", "Exception", "never awaited", "pending"):
        assert word not in done.stderr
    with shared_store.lock(name, timeout=30) as held:
        assert held.token == 2
