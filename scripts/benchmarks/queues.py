"""Work queues beside what they take the place of: Redis lists, and ``ray.util.queue``.

Eight consumers, each a process, empty a queue: one job at a time, and a hundred at a time, on each side as it is best done
there. raykv claims and acks; Redis moves each job to a list of the consumer's own and removes it from there (by "lmove" and
"lrem", pipelined for a hundred), which is how a job survives its consumer; ``ray.util.queue`` pops it from an actor's
memory. As in ``floors`` a ratio is formed within a round. Then three of the eight are killed amid 100,000 jobs, and what
was done is counted; and what a consumer asks of the nodes that waits for nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
import ray
from ray.util.queue import Empty as RayEmpty
from ray.util.queue import Queue as RayQueue

import raykv
from benchmarks.servers import Missing, start_redis
from benchmarks.stage import STORE
from benchmarks.timing import settle, spread
from raykv.client.queue_books import QUEUES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.stage import Stage

CONSUMERS = 8
KILLED = 3
MANY = 100
KILLED_JOBS = 100_000
KILLED_LEASE_S = 5.0
IDLE_S = 10.0
WAIT_S = 300.0
SIDES = ("raykv", "Redis lists", "ray.util.queue")
_names = itertools.count(1)


class Target(NamedTuple):
    """A ratio that must be at least ``target``."""

    what: str
    beside: str
    target: float
    bound: Literal["least"] = "least"
    unit: str = "1/s"


TARGETS = {
    ("one", "Redis lists"): Target("jobs, one at a time", "Redis, LMOVE and LREM", 0.3),
    ("one", "ray.util.queue"): Target("jobs, one at a time", "ray.util.queue, get", 3.0),
    ("many", "Redis lists"): Target(f"jobs, {MANY} at a time", "Redis, the same pipelined", 0.3),
    ("many", "ray.util.queue"): Target(f"jobs, {MANY} at a time", "ray.util.queue, get_nowait_batch", 3.0),
    ("meant", "ray.util.queue"): Target(f"jobs, {MANY} at a time", "ray.util.queue, get", 3.0),
    ("put", "Redis lists"): Target("put_many, 1,000 a call", "Redis, RPUSH of 1,000", 0.3),
    ("put", "ray.util.queue"): Target("put_many, 1,000 a call", "ray.util.queue, put_nowait_batch", 3.0),
}  # fmt: skip


@ray.remote(num_cpus=0)
class Consumer:
    """One consumer, in a process of its own."""

    def __init__(self, queue: Any, port: int, number: int) -> None:
        """``queue``: raykv's or Ray's; None for Redis at ``port``."""
        self.queue, self.number = queue, number
        self.client: Any = None
        if queue is None:
            import redis

            self.client = redis.Redis(host="127.0.0.1", port=port)

    def pid(self) -> int:
        """Return its process."""
        return os.getpid()

    def drain(self, name: str, count: int) -> int:
        """Take jobs until there are none; return how many."""
        if self.client is not None:
            return self._drain_redis(name, count)
        if isinstance(self.queue, raykv.Queue):
            return self._drain_raykv(self.queue, count)
        done = 0
        with contextlib.suppress(RayEmpty):
            while True:
                values = self.queue.get_nowait_batch(count) if count > 1 else [self.queue.get_nowait()]
                done += len([msgspec.msgpack.decode(value) for value in values])
        return done

    def _drain_raykv(self, queue: raykv.Queue[Any], count: int) -> int:
        done, jobs = 0, queue.claim(count)
        while jobs:
            done += len([msgspec.msgpack.decode(job.value) for job in jobs])
            jobs = queue.claim(count, done=jobs)
        return done

    def _drain_redis(self, name: str, count: int) -> int:
        own, done, client = f"{name}:{self.number}", 0, self.client
        while True:
            if count == 1:
                value = client.lmove(name, own, "LEFT", "RIGHT")
                values = [] if value is None else [value]
            else:
                with client.pipeline(transaction=False) as pipe:
                    for _ in range(count):
                        pipe.lmove(name, own, "LEFT", "RIGHT")
                    values = [value for value in pipe.execute() if value is not None]
            if not values:
                return done
            done += len([msgspec.msgpack.decode(value) for value in values])
            with client.pipeline(transaction=False) as pipe:
                for value in values:
                    pipe.lrem(own, 1, value)
                pipe.execute()

    def work(self, count: int, log: str, over: str) -> None:
        """Claim and ack until the file ``over`` is there; write down each job when it is done."""
        with Path(log).open("ab", buffering=0) as done, Path(f"{log}.claims").open("ab", buffering=0) as claims:
            while not Path(over).exists():
                jobs = self.queue.claim(count, wait=0.5)
                if not jobs:
                    continue
                claims.write(f"{len(jobs)}\n".encode())
                for job in jobs:  # one after the other: it may be killed between
                    os.write(done.fileno(), f"{job.value}\n".encode())
                self.queue.ack(jobs)
                claims.write(b"acked\n")

    def wait(self, seconds: float) -> int:
        """Wait for a job that never comes."""
        return len(self.queue.claim(wait=seconds))


class Queues:
    """All of it, on one store of three nodes."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.store = stage.store()
        self.port = 0
        try:
            import redis  # noqa: F401 - whether it is there

            self.port = stage.end_with(start_redis(stage.directory())).port
        except (ImportError, Missing) as missing:
            stage.skip("Redis", str(missing))
        self.sides = [side for side in SIDES if side != "Redis lists" or self.port]
        self.jobs = list(stage.some(1000).values())

    def run(self) -> dict[str, Any]:
        """Measure all; return figures."""
        quick = self.stage.quick
        rates: dict[tuple[str, str], list[float]] = {}
        settle()
        for turn in range(self.stage.rounds):
            for how, count, jobs in (("one", 1, 400 if quick else 4000), ("many", MANY, 2000 if quick else 20_000)):
                first = turn % len(self.sides)
                for side in self.sides[first:] + self.sides[:first]:
                    self.stage.report(f"queue: {side}, {how}, round {turn + 1}")
                    put, taken = self._drained(side, count, jobs)
                    rates.setdefault((how, side), []).append(taken)
                    if how == "many":
                        rates.setdefault(("put", side), []).append(put)
        rows = []
        for (how, side), target in TARGETS.items():
            theirs = rates.get(("one" if how == "meant" else how, side))
            if theirs is not None:
                rows.append(_row(how, target, rates["many" if how == "meant" else how, "raykv"], theirs))
        killed = self._killed(4000 if quick else KILLED_JOBS)
        idle = self._idle(2.0 if quick else IDLE_S)
        raykv.shutdown(STORE)
        return {"rows": rows, "killed": killed, "idle": idle}

    # ---- rates ----

    def _drained(self, side: str, count: int, jobs: int) -> tuple[float, float]:
        """Put jobs and have them taken; return both rates."""
        name = f"bench{next(_names)}"
        queue: Any = {"raykv": lambda: self.store.queue(name), "ray.util.queue": RayQueue}.get(side, lambda: None)()
        consumers = [Consumer.remote(queue, self.port, number) for number in range(CONSUMERS)]  # type: ignore[attr-defined]
        try:
            ray.get([each.drain.remote(name, count) for each in consumers], timeout=WAIT_S)  # connected, and warm
            many = [self.jobs[at % len(self.jobs)] for at in range(jobs)]
            began_s = time.perf_counter()
            for at in range(0, jobs, 1000):
                self._put(side, queue, name, many[at : at + 1000])
            put_s = time.perf_counter() - began_s
            began_s = time.perf_counter()
            done = ray.get([each.drain.remote(name, count) for each in consumers], timeout=WAIT_S)
            taken_s = time.perf_counter() - began_s
        finally:
            for each in consumers:
                ray.kill(each)
            if side == "ray.util.queue":
                queue.shutdown(force=True)
        # Of Ray's queue a rest smaller than a batch stays.
        if sum(done) < jobs - (count if side == "ray.util.queue" and count > 1 else 0):
            raise RuntimeError(f"{side}: of {jobs} jobs {sum(done)} were taken")
        return jobs / put_s, sum(done) / taken_s

    def _put(self, side: str, queue: Any, name: str, jobs: Sequence[Any]) -> None:
        if side == "raykv":
            queue.put_many([msgspec.msgpack.encode(job) for job in jobs])
        elif side == "ray.util.queue":
            queue.put_nowait_batch([msgspec.msgpack.encode(job) for job in jobs])
        else:
            import redis

            redis.Redis(host="127.0.0.1", port=self.port).rpush(name, *[msgspec.msgpack.encode(job) for job in jobs])

    # ---- consumers that die ----

    def _killed(self, jobs: int) -> dict[str, Any]:
        """Kill some consumers amid many jobs; return what became of the jobs."""
        self.stage.report(f"queue: {jobs:,} jobs, {KILLED} of {CONSUMERS} consumers killed")
        queue = self.store.queue(f"bench{next(_names)}", lease=KILLED_LEASE_S)
        folder = Path(self.stage.directory())
        over = folder / "over"
        for at in range(0, jobs, 10_000):
            queue.put_many(range(at, min(jobs, at + 10_000)))
        consumers = [Consumer.remote(queue, 0, number) for number in range(CONSUMERS)]  # type: ignore[attr-defined]
        pids = ray.get([each.pid.remote() for each in consumers], timeout=WAIT_S)
        logs = [folder / f"done{number}" for number in range(CONSUMERS)]
        began_s = time.perf_counter()
        runs = [each.work.remote(MANY, str(log), str(over)) for each, log in zip(consumers, logs, strict=True)]
        try:
            for number in range(KILLED):
                self._until(queue, (number + 1) * jobs // (KILLED + 2))
                os.kill(pids[number], signal.SIGKILL)
            self._until(queue, jobs)
            taken_s = time.perf_counter() - began_s
        finally:
            over.touch()
            ray.wait(runs, num_returns=len(runs), timeout=30)
            for each in consumers:
                ray.kill(each)
        done = Counter(line for log in logs for line in log.read_text().split())
        under_way = [_under_way(Path(f"{log}.claims")) for log in logs[:KILLED]]
        duplicates = sum(done.values()) - len(done)
        missing = jobs - len({int(line) for line in done} & {*range(jobs)})
        return {
            "jobs": jobs, "consumers": CONSUMERS, "killed": KILLED, "missing": missing, "duplicates": duplicates,
            "claims_under_way": sum(1 for each in under_way if each), "jobs_under_way": sum(under_way),
            "seconds": round(taken_s, 1), "lease_s": KILLED_LEASE_S,
            "verdict": "reached" if not missing and duplicates <= sum(under_way) else "missed",
        }  # fmt: skip

    def _until(self, queue: raykv.Queue[Any], done: int) -> None:
        until_s = time.monotonic() + WAIT_S
        while queue.stats()["done"] < done:
            if time.monotonic() > until_s:
                raise RuntimeError(f"not done after {WAIT_S:g} s: {queue.stats()}")
            time.sleep(0.05)

    # ---- consumers that wait ----

    def _idle(self, for_s: float) -> dict[str, Any]:
        """Return what one consumer asks of the nodes that waits for nothing."""
        self.stage.report("queue: a consumer that waits")
        queue = self.store.queue(f"bench{next(_names)}")
        consumer = Consumer.remote(queue, 0, 0)  # type: ignore[attr-defined]
        ray.get(consumer.wait.remote(2.0), timeout=WAIT_S)  # connected, and at its longest pause
        asked = []
        for waits in (False, True):
            before = self._requests()
            began_s = time.perf_counter()
            ray.get(consumer.wait.remote(for_s), timeout=WAIT_S) if waits else time.sleep(for_s)
            passed_s = time.perf_counter() - began_s
            asked.append({what: (count - before[what]) / passed_s for what, count in self._requests().items()})
        ray.kill(consumer)
        without, within = asked
        return {what: within[what] - without[what] for what in within}

    def _requests(self) -> dict[str, float]:
        """Return how many requests for queues all nodes have answered, and how many seconds these took them."""
        counted = {"requests_per_s": 0.0, "node_s_per_s": 0.0}
        for node in self.store.status()["nodes"]:
            for each in (node["storage"] or {}).get("latencies", []):
                if each["bucket"] == QUEUES:
                    counted["requests_per_s"] += sum(count for _, count in each["counts"]) + each["beyond"]
                    counted["node_s_per_s"] += each["sum_s"]
        return counted


def _under_way(claims: Path) -> int:
    """Return how many jobs a consumer had claimed and not acked when it was killed."""
    lines = claims.read_text().split()
    return int(lines[-1]) if lines and lines[-1] != "acked" else 0


def _row(how: str, target: Target, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    ratio = spread([our / their for our, their in zip(ours, theirs, strict=True)])
    return {
        "name": how, **target._asdict(), "ours": spread(ours), "theirs": spread(theirs), "ratio": ratio,
        "verdict": "reached" if ratio["median"] >= target.target else "missed",
    }  # fmt: skip


def measure(stage: Stage) -> dict[str, Any]:
    """Return the figures of the part ``queue``."""
    return Queues(stage).run()
