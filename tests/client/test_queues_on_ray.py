"""A work queue in a Ray cluster: tasks put, claim and ack, and one of them dies with its claim."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import patience
import pytest

if TYPE_CHECKING:
    import raykv

pytestmark = pytest.mark.ray

JOBS = 120
CONSUMERS = 2
WAIT_S = 120


def consume(jobs: raykv.Queue[Any], done: raykv.Bucket[Any, Any], dies_after: int) -> list[int]:
    """Do jobs until all are done; die with a claim after as many, if any. Return those that were acked in time."""
    patience.be_patient()
    acked: list[int] = []
    until_s = time.monotonic() + WAIT_S
    while jobs.stats()["done"] < JOBS and time.monotonic() < until_s:
        for job in jobs.claim(4, wait=1):
            done.add(f"job-{job.value}", 1)
            acked += [job.value] if jobs.ack(job) else []
            if 0 < dies_after <= len(acked):
                os._exit(1)
    return acked


def test_each_job_is_done_though_a_consumer_dies_with_its_claim(shared_store: raykv.Store) -> None:
    import ray

    import raykv

    work = ray.remote(num_cpus=0, max_retries=0)(consume)
    jobs = shared_store.queue("work", lease=3)
    done = shared_store.bucket("work-done", versioning="linearizable")
    jobs.put_many(range(JOBS))
    with pytest.raises(ray.exceptions.RayError):
        ray.get(work.remote(jobs, done, 5), timeout=WAIT_S)
    running = [work.remote(jobs, done, 0) for _ in range(CONSUMERS)]
    acked = [job for task in running for job in ray.get(task, timeout=2 * WAIT_S)]
    assert {*acked} <= {*range(JOBS)}
    assert [number for number in range(JOBS) if not done.get(f"job-{number}")] == []
    figures = raykv.Queue("work", store=shared_store.store_name).stats()
    assert (figures["done"], figures["waiting"], figures["claimed"], figures["dead"]) == (JOBS, 0, 0, 0)


def test_a_consumer_waits_in_one_task_for_what_another_puts(shared_store: raykv.Store) -> None:
    import ray

    @ray.remote(num_cpus=0, max_retries=0)
    def first(jobs: raykv.Queue[Any]) -> Any:
        patience.be_patient()
        return jobs.get(timeout=WAIT_S)

    @ray.remote(num_cpus=0, max_retries=0)
    def put(jobs: raykv.Queue[Any], value: Any) -> str:
        patience.be_patient()
        return jobs.put(value, once="order:1")

    jobs = shared_store.queue("orders")
    waiting = first.remote(jobs)
    assert ray.wait([waiting], timeout=1)[1] == [waiting]
    ids = ray.get([put.remote(jobs, {"order": 1}) for _ in range(3)], timeout=WAIT_S)
    assert len({*ids}) == 1, "put under one name, it is one job"
    assert ray.get(waiting, timeout=WAIT_S) == {"order": 1}
    assert jobs.empty()
