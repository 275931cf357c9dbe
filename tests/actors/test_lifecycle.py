"""Stores on a real Ray: started, found, stopped, started again, killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import patience
import pytest

import raykv

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.ray


def wait_until(condition: Callable[[], bool], timeout_s: float = 120.0) -> float:
    """Wait for it and return the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "did not come about in time"
        time.sleep(0.05)
    return time.monotonic() - started


def node(store: raykv.Store, node_id: str) -> dict[str, Any]:
    return next(node for node in store.status()["nodes"] if node["node_id"] == node_id)


def store_processes(store: raykv.Store) -> list[int]:
    import ray

    from raykv.actors.naming import find_actor

    pids = [found["pid"] for found in store.status()["nodes"]]
    return pids + ray.get([find_actor(store.store_name, peer).pid.remote() for peer in ("coordinator", "supervisor")])


def test_a_stopped_store_has_all_its_data_again(start_store: Any, store_name: str) -> None:
    store = start_store()
    carts = store.bucket("carts", w="all", ttl=3600)
    written = {f"key:{index}": {"n": index} for index in range(500)}
    store.put_many(written)
    carts.put("c", [1, 2])
    store.delete("key:7")
    raykv.shutdown(store_name)
    with pytest.raises(raykv.StoreNotFound, match=store_name):
        raykv.connect(store_name)
    with pytest.raises((raykv.StoreUnavailable, raykv.QuorumNotMet)):
        store.get("key:1", timeout=0.5)

    again = start_store()
    assert again.get_many(written, default="gone") == written | {"key:7": "gone"}
    assert again.buckets() == ["default", "carts"]
    assert again.bucket("carts", w="all").get("c") == [1, 2]
    assert all(found["incarnation"] == 2 for found in again.status()["nodes"])


def test_a_store_whose_processes_were_all_killed_has_all_that_it_acknowledged(
    start_store: Any, store_name: str
) -> None:
    store = start_store()
    written = {f"key:{index}": index for index in range(300)}
    store.put_many(written)
    for pid in store_processes(store):
        os.kill(pid, signal.SIGKILL)
    # Ray restarts the supervisor and the coordinator by itself; the supervisor starts the nodes.
    wait_until(lambda: _answers(store, "key:1", 1), timeout_s=180)
    assert raykv.connect(store_name).get_many(written) == written


def _answers(store: raykv.Store, key: str, value: object) -> bool:
    try:
        return bool(store.get(key, timeout=5) == value)
    except raykv.RaykvError:
        return False


def test_reads_and_writes_go_on_while_a_node_is_killed_and_everyone_finds_the_new_one(start_store: Any) -> None:
    store = start_store()
    store.put_many({f"k{index}": index for index in range(100)})
    victim = node(store, "n2")
    os.kill(victim["pid"], signal.SIGKILL)
    killed = time.monotonic()
    slowest = 0.0
    turn = 0
    while time.monotonic() - killed < 3:
        started = time.monotonic()
        store.put(f"k{turn % 100}", turn, timeout=60)
        assert store.get(f"k{turn % 100}", timeout=60) == turn
        slowest = max(slowest, time.monotonic() - started)
        turn += 1
    wait_until(lambda: node(store, "n2")["state"] == "up")
    assert node(store, "n2")["incarnation"] == victim["incarnation"] + 1
    assert slowest < 30, "nothing waited for the dead node: half of a time-out"
    wait_until(lambda: "n2" in store.put("after", 1, w="all").acks)


def test_a_frozen_node_is_recreated_and_its_former_process_is_ended(start_store: Any) -> None:
    store = start_store()
    victim = node(store, "n1")
    os.kill(victim["pid"], signal.SIGSTOP)
    try:
        store.put("while frozen", 1, timeout=60)
        assert store.get("while frozen", timeout=60) == 1
        wait_until(lambda: node(store, "n1")["incarnation"] == victim["incarnation"] + 1)
        with pytest.raises(ProcessLookupError):  # two processes would write one log (P6)
            wait_until(lambda: os.kill(victim["pid"], 0) is not None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim["pid"], signal.SIGCONT)


def test_a_wiped_node_is_incomplete_and_never_answers_absent(start_store: Any, tmp_path: Path, store_name: str) -> None:
    """P1: v acknowledged by A and B; A wiped and recreated; a read of {A, C} must not find it absent."""
    import shutil

    store = start_store()
    written = {f"k{index}": index for index in range(50)}
    store.put_many(written, w=2)
    raykv.shutdown(store_name)
    shutil.rmtree(tmp_path / store_name / "nodes" / "n1")
    again = start_store()
    assert again.get_many(written) == written
    assert again.count() == 50
    assert node(again, "n1")["storage"]["complete"] is False
    assert "incomplete" in repr(again.status())
    assert len(again.put("k1", "new", w="all").acks) == 3, "it takes writes"


def test_the_coordinator_killed(start_store: Any, store_name: str) -> None:
    import ray

    store = start_store(routing="coordinator")
    store.put("k", 1)
    os.kill(ray.get(raykv.coordinator(store_name).pid.remote()), signal.SIGKILL)
    assert store.get("k", timeout=60) == 1, "a read waits for the new coordinator"
    os.kill(ray.get(raykv.coordinator(store_name).pid.remote()), signal.SIGKILL)
    assert asyncio.run(store.aio.get("k", timeout=60)) == 1, "an awaited one too"


def test_a_pool_of_coordinators(start_store: Any, store_name: str) -> None:
    """Handles are dealt out over it; one that is killed costs nobody an operation; the next start adds what is lacking."""
    import ray

    from raykv.actors.naming import find_actor, pool_of

    start_store(coordinators=2)
    assert pool_of(store_name) == ["coordinator", "coordinator-2"]
    start_store(coordinators=3)
    assert len(pool_of(store_name)) == 3
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(raykv.connect(store_name, routing="coordinator")) for _ in range(12)]
        for number, handle in enumerate(handles):
            handle.put("k", number, timeout=60)
            assert handles[number - 1].get("k", timeout=60) == number, "they serve one store"
        drawn = {handle._session.link._peer for handle in handles}
        assert len(drawn) > 1
        pids = {peer: ray.get(find_actor(store_name, peer).pid.remote()) for peer in pool_of(store_name)}
        assert len(set(pids.values())) == 3
        os.kill(pids[min(drawn)], signal.SIGKILL)
        for handle in handles:
            assert handle.get("k", timeout=60) == 11
        assert asyncio.run(handles[0].aio.get("k", timeout=60)) == 11
    with pytest.raises(raykv.InvalidOption, match="coordinators"):
        raykv.start(store_name, coordinators=0)


def test_a_coordinator_that_was_ended_for_good_is_made_again_by_the_next_start(
    start_store: Any, store_name: str
) -> None:
    import ray

    store = start_store()
    store.put("k", 1)
    ray.kill(raykv.coordinator(store_name))
    wait_until(lambda: not _is_there(store_name))
    with pytest.raises(raykv.StoreNotFound):
        raykv.connect(store_name)
    pids = [found["pid"] for found in start_store().status()["nodes"]]
    assert raykv.connect(store_name).get("k") == 1
    for pid in pids:
        os.kill(pid, 0)  # the nodes were not disturbed


def _is_there(store_name: str) -> bool:
    try:
        return raykv.coordinator(store_name) is not None
    except raykv.StoreNotFound:
        return False


def test_what_a_supervisor_that_was_ended_for_good_left_running_is_ended_by_the_next_start(
    start_store: Any, store_name: str
) -> None:
    import ray

    from raykv.actors.naming import COORDINATOR, SUPERVISOR, find_actor

    store = start_store()
    store.put("k", 1)
    before = store_processes(store)
    coordinator = find_actor(store_name, COORDINATOR)._actor_id
    ray.kill(find_actor(store_name, SUPERVISOR))
    again = start_store()
    assert again.get("k") == 1
    assert not {*before} & {*store_processes(again)}
    assert find_actor(store_name, COORDINATOR)._actor_id != coordinator


def test_a_start_that_finds_the_supervisor_late_leaves_it_alone(
    start_store: Any, store_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """*Schedule: B finds no supervisor; A creates it; B clears away what a former supervisor may have left.*"""
    from raykv.actors import lifecycle
    from raykv.actors.naming import SUPERVISOR, find_actor

    store = start_store()
    store.put("k", 1)
    before = find_actor(store_name, SUPERVISOR)._actor_id, store_processes(store)
    looks = []

    def late(name: str, peer: str) -> Any:
        looks.append(peer)
        if looks == [SUPERVISOR]:
            raise ValueError("not there yet")
        return find_actor(name, peer)

    monkeypatch.setattr(lifecycle, "find_actor", late)
    assert start_store().get("k") == 1
    assert store.get("k") == 1
    assert (find_actor(store_name, SUPERVISOR)._actor_id, store_processes(store)) == before


def test_several_starters_at_once_start_one_store(
    start_store: Any, store_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ranks of a job may start the store that they share."""
    from raykv.actors import lifecycle
    from raykv.actors.naming import SUPERVISOR, find_actor

    starters = 4
    none_found = threading.Barrier(starters)
    own = threading.local()

    def there(name: str) -> bool:
        with contextlib.suppress(ValueError):
            return find_actor(name, SUPERVISOR) is not None
        return False

    def at_once(name: str, peer: str) -> Any:
        if peer == SUPERVISOR and not hasattr(own, "looked"):
            own.looked = True
            if none_found.wait(60):  # the others go on when the first has created it
                wait_until(lambda: there(name))
            raise ValueError("not there yet")
        return find_actor(name, peer)

    monkeypatch.setattr(lifecycle, "find_actor", at_once)
    with ThreadPoolExecutor(starters) as pool:
        stores = list(pool.map(lambda _: start_store(), range(starters)))
    for number, store in enumerate(stores):
        store.put("k", number)
        assert [each.get("k") for each in stores] == [number] * starters
    assert all(found["incarnation"] == 1 for found in stores[0].status()["nodes"])


def test_a_start_that_fails_ends_only_what_it_has_begun(
    start_store: Any, store_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """*Schedule: A's supervisor is ended while A waits for it, and B starts the store anew before A hears of that.*"""
    import ray
    from ray.exceptions import ActorDiedError

    from raykv.actors import lifecycle
    from raykv.actors.naming import SUPERVISOR, find_actor

    anew = []

    def meanwhile(asked: Any, timeout: float) -> Any:
        monkeypatch.undo()
        ray.get(asked, timeout=timeout)
        raykv.shutdown(store_name)
        anew.append(start_store())
        raise ActorDiedError

    monkeypatch.setattr(lifecycle.ray, "get", meanwhile)
    with pytest.raises(raykv.StoreUnavailable):
        start_store()
    assert find_actor(store_name, SUPERVISOR)._actor_id.hex() == anew[0]._session.link._place[1]
    anew[0].put("k", 1)
    assert anew[0].get("k") == 1
    raykv.shutdown(store_name)


def test_attaching_compares_what_all_must_agree_on(start_store: Any, store_name: str, tmp_path: Path) -> None:
    store = start_store(partitions=64)
    store.put("k", 1)
    assert raykv.start(store_name).get("k") == 1
    assert raykv.start(store_name, nodes=5, path=str(tmp_path / "elsewhere")).get("k") == 1, (
        "these matter at creation only"
    )
    for setting in ({"partitions": 128}, {"n": 2}, {"durability": "always"}):
        with pytest.raises(raykv.InvalidOption, match="other settings") as caught:
            raykv.start(store_name, **setting)
        assert next(iter(setting)) in str(caught.value)
    assert store.get("k") == 1, "nothing was disturbed"


def test_a_store_keeps_the_settings_that_it_was_founded_with(start_store: Any, store_name: str, tmp_path: Path) -> None:
    """With another number of partitions every node would look in the wrong place and find nothing."""
    written = {f"k{index}": index for index in range(50)}
    start_store(partitions=64, durability="always", nodes=2, n=2).put_many(written)
    raykv.shutdown(store_name)
    for setting in ({"partitions": 256}, {"durability": "group"}, {"n": 1}):
        with pytest.raises(raykv.InvalidOption, match="other settings"):
            raykv.start(store_name, path=str(tmp_path / store_name), **setting)
        with pytest.raises(raykv.StoreNotFound):
            raykv.connect(store_name)
    again = start_store()
    assert again.get_many(written) == written
    config = again.status()["config"]
    assert (config["partitions"], config["durability"], config["copies"]) == (64, "always", 2)


def test_a_path_belongs_to_one_store(start_store: Any, store_name: str, tmp_path: Path) -> None:
    start_store(path=str(tmp_path / "data"))
    with pytest.raises(raykv.InvalidOption, match=f"in use by store '{store_name}'"):
        raykv.start(f"{store_name}-other", path=str(tmp_path / "data"))
    with pytest.raises(raykv.StoreNotFound):
        raykv.connect(f"{store_name}-other")


def test_a_path_that_cannot_be_written(ray_cluster: None, store_name: str, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.raises(raykv.InvalidOption, match="cannot be used"):
        raykv.start(store_name, path=str(blocked))
    assert blocked.read_text() == "not a directory"


def test_a_directory_held_by_another_process_is_left_alone(ray_cluster: None, store_name: str, tmp_path: Path) -> None:
    import json

    from raykv.actors.naming import node_directory
    from raykv.system.files import OsFileSystem

    fs = OsFileSystem()
    path = str(tmp_path / store_name)
    fs.make_directories(node_directory(path, "n2"))
    lock = fs.lock(f"{node_directory(path, 'n2')}/lock", json.dumps({"pid": os.getpid()}).encode())
    with pytest.raises(raykv.InvalidOption, match="n2"):
        raykv.start(store_name, path=path)
    lock.release()  # had it been ended as a former process of the node, this test would not have got here


def test_destroy_asks_by_name(start_store: Any, store_name: str, tmp_path: Path) -> None:
    store = start_store()
    store.put("k", 1)
    for confirm in (None, "yes", ""):
        with pytest.raises(raykv.InvalidOption, match=store_name):
            raykv.destroy(store_name, confirm=confirm)
    assert store.get("k") == 1
    raykv.destroy(store_name, confirm=store_name)
    assert not (tmp_path / store_name).exists()
    with pytest.raises(raykv.StoreNotFound):
        raykv.destroy(store_name, path=str(tmp_path), confirm=store_name)


def test_a_missing_store_is_named_with_those_that_run(shared_store: raykv.Store) -> None:
    with pytest.raises(raykv.StoreNotFound, match="'shared'"):
        raykv.connect("no-such-store")
    with pytest.raises(raykv.StoreNotFound):
        raykv.shutdown("no-such-store")


def test_handles_travel_to_tasks_actors_and_other_jobs(shared_store: raykv.Store) -> None:
    import ray

    carts = shared_store.bucket("travelling", ttl=1000)
    carts.put("from the driver", {1, 2})

    @ray.remote
    def in_a_task(store: raykv.Store, bucket: raykv.Bucket[Any, Any]) -> Any:
        patience.be_patient()
        store.put("from a task", (1, "x"))
        return bucket.get("from the driver"), bucket["from the driver"]

    @ray.remote
    class Asking:
        def __init__(self, store: raykv.Store) -> None:
            patience.be_patient()
            self.store = store

        async def ask(self) -> Any:
            await self.store.aio.put("from an async actor", 3)
            return await self.store.aio.get("from a task")

    assert ray.get(in_a_task.remote(shared_store, carts)) == ({1, 2}, {1, 2})
    assert ray.get(Asking.remote(shared_store).ask.remote()) == (1, "x")
    assert shared_store["from an async actor"] == 3
    assert pickle.loads(pickle.dumps(shared_store)).get("from a task") == (1, "x")

    script = """
        import ray, raykv, sys
        ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
        store = raykv.connect("shared")
        assert store.get("from a task") == (1, "x")
        store.put("from another job", b"\\x00")
    """
    address = ray.get_runtime_context().gcs_address
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), address], check=True, timeout=60)
    assert shared_store["from another job"] == b"\x00"


def test_the_coordinators_handle(shared_store: raykv.Store) -> None:
    import ray

    handle = raykv.coordinator("shared")
    written = shared_store.decode(ray.get(handle.put.remote("h", {"a": (1,)}, ttl=60)))
    assert len(written.acks) >= 2
    assert len(written.operation_id) == 32
    assert shared_store.decode(ray.get(handle.get.remote("h", r="all"))) == {"a": (1,)}
    assert shared_store.get("h") == {"a": (1,)}
    many = shared_store.decode(ray.get(handle.put_many.remote({"h1": 1, b"h2": 2})))
    assert [type(result) for result in many] == [raykv.WriteResult] * 2
    assert shared_store.decode(ray.get(handle.get_many.remote(["h1", b"h2", "absent"]))) == [1, 2, None]
    shared_store.decode(ray.get(handle.delete.remote("h")))
    assert shared_store.decode(ray.get(handle.get.remote("h"))) is None
    for ref, error in [
        (handle.get.remote(""), raykv.InvalidKey),
        (handle.put.remote("k", 1, w=4), raykv.InvalidOption),
        (handle.put.remote("k", b"x" * 10_240), raykv.PairTooLarge),
        (handle.get.remote("k", bucket="none such"), raykv.InvalidOption),
        (handle.get.remote("k", timeout=float("nan")), raykv.InvalidOption),
        (handle.get_many.remote(5), raykv.InvalidKey),
        (handle.put_many.remote(5), raykv.InvalidOption),
    ]:
        answer = ray.get(ref)  # no exception of raykv's comes out of Ray
        with pytest.raises(error):
            shared_store.decode(answer)
