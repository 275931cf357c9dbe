"""Clients that coordinate for themselves, on a real store: from wherever a program may call, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import patience
import psutil
import pytest
import ray

import raykv
from raykv.actors import embedded_coordinator
from raykv.transport import sockets

pytestmark = pytest.mark.ray

WAIT_S = 10.0


@pytest.fixture
def direct(shared_store):
    """A handle of its own, whose connections end with it."""
    del shared_store
    with raykv.connect("shared", routing="direct") as store:
        yield store


def link_of(store):
    return store._session.link._link


def until(condition, wait_s=WAIT_S):
    deadline_s = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline_s, "it does not come to be"
        time.sleep(0.01)


def warmed(store, key="warm"):
    """Use the store until all take the fast path, over lines of its own."""
    link = link_of(store)

    def straight():
        before = link._metrics.counted().get("fast_path_writes", 0)
        store.put(key, 0)
        return link._metrics.counted().get("fast_path_writes", 0) > before and len(link._connections._connections) == 3

    until(straight)
    return link


def test_from_plain_code_it_takes_the_fast_path(direct):
    counted = warmed(direct)._metrics.counted

    def used(before):  # a busy machine is slow now and then, and then it does not go the fast path for a while
        for number in range(7):
            direct.put(f"plain{number}", number)
            assert direct.get(f"plain{number}") == number
        return all(
            counted().get(name, 0) >= before.get(name, 0) + 30 for name in ("fast_path_writes", "fast_path_reads")
        )

    before = counted()
    until(lambda: used(before))


def test_threads_at_once(direct):
    def one(number):
        for turn in range(60):
            direct.put(f"thread{number}", turn)
            assert direct.get(f"thread{number}") == turn
        return number

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(one, range(6), timeout=30)) == list(range(6))


def test_in_a_running_loop_blocking_and_awaiting(direct):
    async def go():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            direct.put("inside", 1)
        await direct.aio.put("inside", await direct.aio.get("inside") + 1)
        return direct.get("inside")

    assert asyncio.run(go()) == 2


def test_loops_one_after_the_other_leave_nothing(direct):
    async def go(turn):
        await asyncio.gather(*(direct.aio.put(f"loop{number}", turn) for number in range(20)))
        return await direct.aio.get("loop7")

    process = psutil.Process()
    assert asyncio.run(go(0)) == 0
    gc.collect()
    seats, connections = link_of(direct)._embedded, len(process.net_connections("all"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for turn in range(1, 4):
            assert asyncio.run(go(turn)) == turn
        gc.collect()
    assert not [str(warning.message) for warning in warned if warning.category is ResourceWarning]
    assert len(process.net_connections("all")) <= connections
    until(
        lambda: gc.collect() >= 0 and len(seats) == 0
    )  # a loop that is gone is forgotten; a thread may hold it for a moment


def test_a_loop_in_another_thread_while_this_one_blocks(direct):
    async def go():
        for turn in range(50):
            await direct.aio.put("other loop", turn)
        return await direct.aio.get("other loop")

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(lambda: asyncio.run(go()))
        for turn in range(50):
            direct.put("this thread", turn)
        assert other.result(WAIT_S) == 49
    assert direct.get("this thread") == 49


@ray.remote(num_cpus=0)
class Worker:
    async def count(self, store, key, turns):
        patience.be_patient()
        for turn in range(turns):
            await store.aio.put(f"{key}{turn}", turn)
        return [await store.aio.get(f"{key}{turn}") for turn in range(turns)], type(store._session.link).__name__


@ray.remote(num_cpus=0)
def task(store, key):
    patience.be_patient()
    store.put(key, "from a task")
    return store.get(key), type(store._session.link).__name__


def test_in_an_async_actor_and_in_a_task(direct):
    worker = Worker.remote()
    found = ray.get([worker.count.remote(direct, f"actor{number}-", 10) for number in range(3)], timeout=60)
    assert found == [(list(range(10)), "DirectHandle")] * 3
    assert ray.get(task.remote(direct, "task"), timeout=60) == ("from a task", "DirectHandle")
    assert direct.get("task") == "from a task"
    ray.kill(worker)


def test_pickled_it_shares_what_this_process_has_open(direct):
    bucket = direct.bucket("pickled", versioning="lww")
    other = pickle.loads(pickle.dumps(bucket))
    other.put("a", 1)
    assert bucket.get("a") == 1
    assert other._session.link._link is link_of(direct)
    other._session.close()
    assert bucket.get("a") == 1, "the last handle ends the connections, not the first"


@pytest.mark.skipif(not sockets.LOCAL, reason="local sockets are counted")
def test_closed_it_leaves_no_thread_and_no_socket(direct, monkeypatch):
    """The last handle of a store ends all."""
    monkeypatch.setattr(embedded_coordinator, "_links", {})  # of this test's own, beside what the others have open
    made = []
    connect = sockets._local_socket
    monkeypatch.setattr(sockets, "_local_socket", lambda *how: made.append(connect(*how)) or made[-1])
    store = raykv.connect("shared", routing="direct")
    link = warmed(store)
    assert link is not link_of(direct)
    asyncio.run(store.aio.get("closing"))
    lines = {line.socket for line in link._connections._connections.values()}
    assert len(lines) == 3
    assert lines < {*made}
    store.close()
    store.close()
    assert not link._loop._threads
    assert link._loop._loop.is_closed()
    until(lambda: {each.fileno() for each in made} == {-1}, 3.0)


def test_closed_at_once_it_has_brought_its_writes_to_all_owners(direct, monkeypatch):
    for turn in range(20):
        with monkeypatch.context() as alone:
            alone.setattr(embedded_coordinator, "_links", {})
            store = raykv.connect("shared", routing="direct")
            bucket = store.bucket("closed", versioning="lww")
            bucket.put("warm", turn)
            bucket.put(f"key {turn}", turn)
            store.close()
    bucket = direct.bucket("closed", versioning="lww")
    metrics = link_of(direct)._metrics
    before = metrics.counted().get("read_repairs", 0)
    assert [bucket.get(f"key {turn}", r=3) for turn in range(20)] == list(range(20))
    assert metrics.counted().get("read_repairs", 0) == before, "the third owner holds it, too"


def test_closed_while_others_call(shared_store):
    """They get raykv's errors or their answers; none hangs."""
    del shared_store
    store = raykv.connect("shared", routing="direct")
    others = raykv.connect("shared", routing="direct")
    others.close()
    outcomes = []

    def one():
        try:
            for turn in range(100_000):
                store.put("closed meanwhile", turn)
        except raykv.RaykvError as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    began_s = time.monotonic()
    store.close()
    for thread in threads:
        thread.join(WAIT_S)
    assert time.monotonic() - began_s < WAIT_S
    assert len(outcomes) == 4
    assert {*outcomes} <= {"StoreClosed", "WriteOutcomeUnknown"}


def test_handles_that_are_forgotten_do_not_end_what_others_use(direct):
    for _ in range(5):
        forgotten = raykv.connect("shared", routing="direct")
        forgotten.get("nothing")
        del forgotten
    gc.collect()
    assert embedded_coordinator._links[direct._session.link._place].link is link_of(direct)
    assert direct.get("nothing") is None


def test_links_whose_handles_are_forgotten_end_with_the_next_connect(shared_store, monkeypatch):
    """*Schedule: a store is stopped and started again and again; each time it has another supervisor.*"""
    monkeypatch.setattr(embedded_coordinator, "_links", {})  # of this test's own, beside what the others have open

    def loops():
        return {thread for thread in threading.enumerate() if thread.name == "raykv-loop"}

    before, seats = loops(), []
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        for number in range(5):
            store = raykv.Store("shared", embedded_coordinator.DirectHandle("shared", f"supervisor {number}"))
            assert store.get("nothing") is None
            assert loop.run_until_complete(store.aio.get("nothing")) is None
            seats.append(link_of(store)._embedded[loop])
            del store
            gc.collect()
        until(lambda: len(loops() - before) == 1)
        loop.run_until_complete(asyncio.sleep(2 * embedded_coordinator.CLOSING_S))
        until(lambda: gc.collect() >= 0 and [seat() is None for seat in seats] == [True] * 4 + [False])
    embedded_coordinator._close_all()
    until(lambda: loops() <= before)
    assert shared_store.get("nothing") is None


def test_a_node_that_is_killed_under_load(start_store):
    """Quorums of two of three: reads and writes go on, and only operations fail that fail with a coordinator too."""
    store = start_store(nodes=3, routing="direct")
    warmed(store)
    failures, done = [], []
    stop = threading.Event()

    def load(number):
        turn = 0
        while not stop.is_set():
            turn += 1
            try:
                store.put(f"load{number}", turn)
                if (found := store.get(f"load{number}")) != turn:
                    failures.append(f"{found} after {turn}")
            except raykv.RaykvError as error:
                failures.append(f"{type(error).__name__}: {error}")
            done.append(number)

    threads = [threading.Thread(target=load, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    try:
        victim = next(node for node in store.status()["nodes"] if node["node_id"] == "n2")
        os.kill(victim["pid"], signal.SIGKILL)
        before = len(done)
        until(lambda: len(done) > before + 100)
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert failures == []


# ---- a process that forks ----


def in_a_child(work):
    """Run ``work`` in a forked child; return what it says."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child():
        try:
            theirs.send(work())
        except BaseException as error:  # noqa: BLE001 - it is reported
            theirs.send(f"{type(error).__name__}: {error}")

    process = context.Process(target=child)
    process.start()
    try:
        assert ours.poll(30), "the child says nothing"
        return ours.recv()
    finally:
        process.join(WAIT_S)
        if process.is_alive():
            process.kill()
            process.join()


def test_a_forked_child_works_and_touches_nothing_of_its_parents(direct):
    link = warmed(direct)
    direct.put("fork", "parent")
    sockets = {line.socket.getsockname() for line in link._connections._connections.values()}

    def child():
        found = direct.get("fork", timeout=60)
        for number in range(50):
            direct.put(f"child{number}", number, timeout=60)
        found_by_many = direct.get_many([f"child{number}" for number in range(50)], timeout=60)
        awaited = asyncio.run(awaiting())
        return found, len(found_by_many), awaited, link_of(direct) is link, in_a_child(lambda: direct.get("fork"))

    async def awaiting():
        return await direct.aio.get("fork", timeout=60)

    assert in_a_child(child) == ("parent", 50, "parent", False, "parent")
    assert direct.get("child49") == 49
    assert direct.get("fork") == "parent"
    assert link_of(direct) is link
    assert sockets == {line.socket.getsockname() for line in link._connections._connections.values()}


def test_what_a_forked_child_cannot_do_is_an_error_in_time(direct):
    """Ray does not work there."""
    warmed(direct)

    def child():
        began_s, said = time.monotonic(), []
        embedded_coordinator._fork_states.clear()  # as if the parent had never been connected
        for work in (lambda: direct.get("fork", timeout=0.5), lambda: direct.bucket("new-there", timeout=0.5)):
            try:
                said.append(work())
            except raykv.RaykvError as error:
                said.append(type(error).__name__)
        return said, time.monotonic() - began_s < 30.0

    said, in_time = in_a_child(child)
    assert set(said) <= {"StoreUnavailable", "QuorumNotMet"}
    assert in_time


def test_a_handle_that_is_pickled_to_a_forked_child_works_there(direct):
    """Pools of processes pickle what they are given, although the child has it already."""
    warmed(direct)
    direct.put("fork", "parent")

    def child():
        sent = pickle.loads(pickle.dumps(direct.bucket("default")))
        anew = [raykv.connect("shared", routing=routing) for routing in ("auto", "direct", "coordinator")]
        return sent.get("fork", timeout=60), [store.get("fork", timeout=60) for store in anew]

    assert in_a_child(child) == ("parent", ["parent"] * 3)


def test_what_needs_ray_is_an_error_at_once_in_a_forked_child(direct):
    """Ray would wait there for threads that only the parent has."""
    warmed(direct)
    with raykv.connect("shared", routing="coordinator") as by_actor:
        by_actor.put("fork", "parent")
        works = {
            "connect": lambda: raykv.connect("unknown"),
            "start": lambda: raykv.start("unknown"),
            "shutdown": lambda: raykv.shutdown("shared"),
            "coordinator": lambda: raykv.coordinator("shared"),
            "call": lambda: by_actor.get("fork", timeout=0.5),
            "awaited": lambda: asyncio.run(by_actor.aio.get("fork", timeout=0.5)),
        }

        def child():
            said = {}
            for name, work in works.items():
                try:
                    work()
                except raykv.StoreUnavailable as error:
                    said[name] = "was forked" in str(error)
            return said

        assert in_a_child(child) == dict.fromkeys(works, True)
        assert by_actor.get("fork") == "parent"


def test_a_forked_child_that_has_joined_ray_itself_uses_it(direct, monkeypatch):
    """*Schedule: the parent was not in Ray when it forked.*"""
    monkeypatch.setattr(embedded_coordinator, "_generation", 1)
    monkeypatch.setattr(embedded_coordinator, "_links", {})
    with raykv.connect("shared", routing="direct") as store:
        assert link_of(store)._fork_state is None
        assert store.get("nothing") is None
    monkeypatch.undo()
    assert direct.get("nothing") is None


def test_a_client_that_closes_reports_what_it_has_counted_since_its_last_poll(shared_store):
    def counted():
        latencies = shared_store.status()["clients"]["latencies"]
        return {each["kind"]: sum(count for _, count in each["counts"]) + each["beyond"] for each in latencies}

    @ray.remote
    def work(name):
        store = raykv.connect(name)
        for number in range(30):
            store.put("reported at the end", number)
        store.close()

    before = counted().get("put", 0)
    ray.get(work.remote(shared_store.store_name), timeout=120)
    assert counted()["put"] - before >= 30
