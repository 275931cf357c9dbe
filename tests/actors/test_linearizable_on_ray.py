"""Linearizable buckets on a real store: many processes change one key, leaders die, the store is stopped and started."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

import msgspec
import patience
import pytest
import ray

import raykv
from raykv.client.lanes import Lane
from raykv.protocol import changes as c
from raykv.protocol import frames as f
from raykv.protocol.changes import cell
from raykv.records.keys import encode_key
from raykv.ring import partition_of_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.ray
NAME = "linear"
BUCKET = "jobs"
TASKS, ADDS = 8, 60
PAUSE_S = 0.02
IDS = 25
PARTITIONS = 16


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("linear")


@pytest.fixture(scope="module")
def store(ray_cluster: None, path: Path) -> Iterator[raykv.Store]:
    """One store of three nodes for all tests here; the last one starts it anew."""
    yield raykv.start(NAME, nodes=3, path=str(path), partitions=PARTITIONS)
    with contextlib.suppress(raykv.StoreNotFound):
        raykv.shutdown(NAME)


@pytest.fixture
def jobs(store: raykv.Store) -> raykv.Bucket[Any, Any]:
    until_all_up(store)
    return store.bucket(BUCKET, versioning="linearizable")


def bucket_of(routing: Any = "auto") -> raykv.Bucket[Any, Any]:
    patience.be_patient()
    return raykv.connect(NAME, routing=routing).bucket(BUCKET, versioning="linearizable")


def until_all_up(store: raykv.Store) -> None:
    until_s = time.monotonic() + patience.PATIENCE_S
    while time.monotonic() < until_s:
        with contextlib.suppress(raykv.RaykvError):
            nodes = store.status()["nodes"]
            if all(node["state"] == "up" and node["storage"] and node["storage"]["complete"] for node in nodes):
                return
        time.sleep(0.1)
    raise AssertionError("not all nodes are up")


def kill_leader(store: raykv.Store, key: str) -> str:
    from leaders import leaders, pids  # late: a Ray worker imports this module without the scripts on its path

    leader = leaders(store, [key])[key]
    os.kill(pids(store)[leader], signal.SIGKILL)
    return leader


def terms(store: raykv.Store) -> dict[int, bytes]:
    """Return the latest term that is promised for each partition of which there is one."""
    from leaders import promised  # late: a Ray worker imports this module without the scripts on its path

    found: dict[int, bytes] = {}
    for node in store.status()["nodes"]:
        for at, (term, _) in promised(NAME, node["node_id"], range(PARTITIONS)).items():
            found[at] = max(term, found.get(at, b""))
    return found


def send(bucket: raykv.Bucket[Any, Any], change: f.Change, lane: Lane, *, again: bool = False) -> Any:
    """Send a change as the lane's next call, or, ``again``, as its last one."""
    if again:
        lane.last -= 1
        lane.settled = True  # the very same call, also where the last sending was not answered by all
        change = msgspec.structs.replace(change, resent=True)
    ((settled,),) = bucket._session.run(bucket._operations._send_changes([[change]], patience.PATIENCE_S, lane))
    return settled


@ray.remote(num_cpus=0, max_retries=0)
def add_often(key: str, adds: int, routing: str) -> list[int]:
    bucket, sums = bucket_of(routing), []
    for _ in range(adds):
        sums.append(bucket.add(key, 1))
        time.sleep(PAUSE_S)  # or all is over before the leader is killed
    return sums


@ray.remote(num_cpus=0, max_retries=0)
def claim_all(worker: int) -> list[int]:
    """Return the ids that this task was the first to insert."""
    bucket, won = bucket_of(), []
    for number in random.Random(worker).sample(range(IDS), IDS):
        try:
            bucket.put(f"id-{number}", worker, if_absent=True)
        except raykv.Conflict:
            continue
        won.append(number)
    return won


@ray.remote(num_cpus=0, max_retries=0)
def elsewhere(key: str, version: bytes) -> tuple[Any, bytes]:
    """In another process: what the key holds, and the version of a write under this condition."""
    bucket = bucket_of()
    value = bucket.get(key)
    written = bucket.put(key, "elsewhere", if_version=raykv.Version(version))
    return value, bytes(written.version)


def test_tasks_count_exactly_while_the_leader_is_killed(store: raykv.Store, jobs: raykv.Bucket[Any, Any]) -> None:
    jobs.put("hits", 0)
    working = [
        add_often.remote("hits", ADDS, "coordinator" if task == 0 else "auto")  # type: ignore[attr-defined]
        for task in range(TASKS)
    ]
    until_s = time.monotonic() + patience.PATIENCE_S
    while (jobs.get("hits") or 0) < TASKS * ADDS // 8 and time.monotonic() < until_s:
        time.sleep(0.02)
    assert (jobs.get("hits") or 0) < TASKS * ADDS, "the leader is to be killed in between"
    kill_leader(store, "hits")
    sums = [each for task in ray.get(working, timeout=patience.PATIENCE_S) for each in task]
    assert jobs.get("hits") == TASKS * ADDS
    assert sorted(sums) == list(range(1, TASKS * ADDS + 1)), "each was told a sum of its own"


def test_of_many_tasks_one_inserts_each_id(jobs: raykv.Bucket[Any, Any]) -> None:
    won = ray.get([claim_all.remote(worker) for worker in range(6)], timeout=patience.PATIENCE_S)  # type: ignore[attr-defined]
    assert sorted(number for numbers in won for number in numbers) == list(range(IDS))
    holds = jobs.get_many([f"id-{number}" for number in range(IDS)])
    assert holds == {f"id-{number}": worker for worker, numbers in enumerate(won) for number in numbers}


def test_all_clients_share_one_order(jobs: raykv.Bucket[Any, Any]) -> None:
    """A handle of this process, one by the coordinator's actor, one of another process: what one writes binds the others."""
    by_actor = bucket_of("coordinator")
    first = jobs.put("shared", "embedded").version
    assert by_actor.get_versioned("shared") == ("embedded", first)
    second = by_actor.put("shared", "by actor", if_version=first).version
    with pytest.raises(raykv.Conflict) as told:
        jobs.put("shared", "too late", if_version=first)
    assert (told.value.value, told.value.version) == ("by actor", second)
    value, third = ray.get(elsewhere.remote("shared", bytes(second)), timeout=patience.PATIENCE_S)  # type: ignore[attr-defined]
    assert value == "by actor"
    assert jobs.get_versioned("shared") == by_actor.get_versioned("shared") == ("elsewhere", raykv.Version(third))
    with pytest.raises(raykv.Conflict):
        by_actor.delete("shared", if_version=second)
    by_actor.delete("shared", if_version=raykv.Version(third))
    assert jobs.get("shared") is None
    assert by_actor.update("shared", lambda present: (present or 0) + 1) == 1
    assert jobs.add("shared", 4) == 5


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_without_its_leader_a_key_is_served_on(
    store: raykv.Store, jobs: raykv.Bucket[Any, Any], how: signal.Signals
) -> None:
    from leaders import leaders, pids  # late: a Ray worker imports this module without the scripts on its path

    key, by_actor = f"on-{how.name}", bucket_of("coordinator")
    version = jobs.put(key, 1).version
    leader = leaders(store, [key])[key]
    pid = pids(store)[leader]
    os.kill(pid, how)
    try:
        assert jobs.get_versioned(key) == (1, version)
        for number in range(10):
            assert (jobs if number % 2 else by_actor).add(key, 1) == number + 2
        assert leaders(store, [key])[key] != leader, "another node leads"
        with pytest.raises(raykv.Conflict):
            jobs.put(key, 0, if_version=version)
        assert by_actor.get(key) == 11
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    until_all_up(store)
    assert jobs.add(key, 1) == 12


def test_values_terms_and_receipts_stand_after_a_cold_start(
    store: raykv.Store, jobs: raykv.Bucket[Any, Any], path: Path
) -> None:
    written = {f"cold-{number}": jobs.put(f"cold-{number}", number).version for number in range(10)}
    jobs.delete("cold-0")
    lane, call = Lane(os.urandom), f.Change(encode_key("cold"), c.ADD, cell(5))
    assert send(jobs, call, lane).status == c.DONE
    before = terms(store)
    raykv.shutdown(NAME)
    anew = raykv.start(NAME, path=str(path))
    until_all_up(anew)
    stand = terms(anew)
    assert all(stand[at] >= term for at, term in before.items()), "promises are durable"
    bucket = anew.bucket(BUCKET, versioning="linearizable")
    assert bucket.get("cold-0") is None
    for number in range(1, 10):
        assert bucket.get_versioned(f"cold-{number}") == (number, written[f"cold-{number}"])
    assert send(bucket, call, lane, again=True).status == c.DONE  # as if its answer had been lost
    assert bucket.get("cold") == 5, "it was added once"
    assert send(bucket, call, lane).status == c.DONE
    assert bucket.get("cold") == 10
    later = bucket.put("cold-1", "new", if_version=written["cold-1"]).version
    assert bytes(later) > bytes(written["cold-1"])
    place = partition_of_key(encode_key("cold"), PARTITIONS)
    assert terms(anew)[place] > before[place], "nobody goes on under the term of a former run"
