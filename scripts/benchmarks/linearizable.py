"""Linearizable buckets beside what they take the place of: a named actor's counter, Redis, vector buckets of the same store.

As in ``floors`` a ratio is formed within a round, from sides that were measured in turn. Then how long nobody is served
when the leader of a key is killed, is frozen, or its partition moves: adders of a few keys work all the time, and the
longest time between two acknowledgements of one of them counts, beside the longest while nothing happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import ray

import raykv
from benchmarks.faults import until_all_up
from benchmarks.sides import redis_side
from benchmarks.stage import STORE, keys_in_turn
from benchmarks.timing import (
    Timed,
    alternate,
    alternate_rates,
    closed_loop,
    longer_until,
    percentile,
    settle,
    spread,
)
from leaders import leaders, pids

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from benchmarks.sides import RedisSide
    from benchmarks.stage import Stage

KEYS = 1000
CLIENTS = 64
UPDATERS = 32
BLOCK = 50
UPDATE_TIMEOUT_S = 30.0
ADDERS = 4
GAP_TIMEOUT_S = 20.0
BEFORE_S, AFTER_S = 2.0, 5.0
QUICK_S = 0.5, 2.0
"""The same in a short run."""
_actors = itertools.count(1)
_fresh = itertools.count(1)


class Target(NamedTuple):
    """A ratio that must be at most, or at least, ``target``; ``least_rate``: a rate that must be reached besides."""

    what: str
    beside: str
    bound: Literal["most", "least"]
    target: float
    unit: str = "us"
    least_rate: float = 0.0


TARGETS = {
    "add": Target("add, one client, p50", "vector put", "most", 1.3),
    "add_actor": Target(f"add, {CLIENTS} clients, one key", "a named actor's counter", "least", 2.0, "1/s", 5000.0),
    "add_redis": Target(f"add, {CLIENTS} clients, one key", f"redis INCR, {CLIENTS} connections", "least", 0.25, "1/s"),
    "add_keys": Target(f"add, {CLIENTS} clients, {KEYS:,} keys", "vector put, same load", "least", 0.8, "1/s"),
    "if_absent": Target("put(if_absent=True) of a new key, p50", "redis SET NX", "most", 5.0),
    "get": Target("get, one client, p50", "vector get, r=2", "most", 1.1),
    "update": Target(f"update(fn), {UPDATERS} clients, one key", "a named actor's counter", "least", 0.5, "1/s"),
    "slowest": Target(f"update(fn), the slowest of {UPDATERS}", "their mean", "least", 0.3, "1/s"),
}  # fmt: skip
GAPS = {
    "killed": ("the leader's process is killed", 0.5),
    "frozen": ("the leader's process is frozen", 2.0),
    "moved": ("a node joins, and one leaves", 0.3),
}
"""What happens -> in words, and how long the longest gap in service may be, in seconds."""


@ray.remote(num_cpus=0)
class Counting:
    """What a Ray user would write otherwise."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, amount: int) -> int:
        """Count; return the sum."""
        self.count += amount
        return self.count


class Counter:
    """A named actor that counts, and the fastest way found to have many add to it."""

    def __init__(self) -> None:
        self.actor = Counting.options(name=f"bench-counter-{next(_actors)}").remote()  # type: ignore[attr-defined]
        self.in_waves = False

    async def add(self, _: str = "") -> None:
        """Add, as one of many tasks."""
        await self.actor.add.remote(1)

    def rate(self, runner: asyncio.Runner, adds: int, width: int) -> float:
        """Return how many adds a second ``width`` callers have."""
        began_s = time.perf_counter()
        if self.in_waves:
            for _ in range(adds // width):
                ray.get([self.actor.add.remote(1) for _ in range(width)])
        else:
            runner.run(closed_loop(self.add, [""] * adds, width))
        return adds / (time.perf_counter() - began_s)

    def tune(self, runner: asyncio.Runner, width: int) -> str:
        """Choose the faster way; return its name."""
        rates = {}
        for self.in_waves in (False, True):
            self.rate(runner, 4 * width, width)
            rates[self.in_waves] = self.rate(runner, 10 * width, width)
        self.in_waves = rates[True] > rates[False]
        return f"{width} calls, then ray.get of all" if self.in_waves else f"{width} tasks that await"

    def close(self) -> None:
        """End it."""
        ray.kill(self.actor)


def row(name: str, ours: list[float], theirs: list[float], **more: Any) -> dict[str, Any]:
    """Return a measure with its ratio, and whether that reaches its target."""
    target = TARGETS[name]
    ratio = spread([our / their for our, their in zip(ours, theirs, strict=True)])
    reached = ratio["median"] <= target.target if target.bound == "most" else ratio["median"] >= target.target
    reached = reached and spread(ours)["median"] >= target.least_rate
    return {
        "name": name, **target._asdict(), "ours": spread(ours), "theirs": spread(theirs), "ratio": ratio,
        "verdict": "reached" if reached else "missed", **more,
    }  # fmt: skip


class Linearizable:
    """All of it, on one store of three nodes."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.store = stage.store()
        self.linear = self.store.bucket("linear", versioning="linearizable")
        self.vector = self.store.bucket("vector")
        self.runner = asyncio.Runner()
        stage.end_with(self.runner)
        self.redis: RedisSide | None = redis_side(stage)
        self.counter: Counter = stage.end_with(Counter())
        self.rows: list[dict[str, Any]] = []
        self.keys = [f"key-{number}" for number in range(KEYS)]
        self.chosen: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """Measure all; return figures."""
        self.stage.report("linearizable: loading")
        for bucket in (self.linear, self.vector):
            for at in range(0, KEYS, 100):
                bucket.put_many(dict.fromkeys(self.keys[at : at + 100], 0))
        self._one_client()
        self._many()
        self._updates()
        gaps = [self._gap(kind) for kind in GAPS]
        raykv.shutdown(STORE)
        return {"rows": self.rows, "gaps": gaps, "chosen": self.chosen}

    def _rounds(self, what: str) -> range:
        self.stage.report(f"linearizable: {what}")
        settle()
        return range(self.stage.rounds)

    # ---- one client ----

    def _one_client(self) -> None:
        linear, vector = self.linear, self.vector
        sides: dict[str, Callable[[str], Any]] = {
            "add": lambda key: linear.add(key, 1),
            "vector put": lambda key: vector.put(key, 1),
            "if_absent": lambda _: linear.put(f"fresh-{next(_fresh)}", 1, if_absent=True),
            "get": linear.get,
            "vector get": vector.get,
        }
        if self.redis is not None:
            client = self.redis.client
            sides["SET NX"] = lambda _: client.set(f"fresh-{next(_fresh)}", b"1", nx=True)
        timed = {name: Timed(work, BLOCK) for name, work in sides.items()}
        few = self.keys[:100]
        alternate(timed, few, 0, 2)  # the leader looks each key up once
        medians: dict[str, list[float]] = {name: [] for name in sides}
        for turn in self._rounds("one client"):
            for name, taken in alternate(timed, keys_in_turn(few, turn), turn, 2 if self.stage.quick else 12).items():
                medians[name].append(percentile(taken, 0.5))
        self.rows.append(row("add", medians["add"], medians["vector put"]))
        if "SET NX" in medians:
            self.rows.append(row("if_absent", medians["if_absent"], medians["SET NX"]))
        self.rows.append(row("get", medians["get"], medians["vector get"]))

    # ---- many ----

    def _many(self) -> None:
        linear, vector, runner = self.linear.aio, self.vector.aio, self.runner
        adds = CLIENTS * (5 if self.stage.quick else 40)
        spread_out = [self.keys[number * 101 % KEYS] for number in range(adds)]
        numbers = itertools.count(1)

        def rate(work: Callable[[str], Awaitable[Any]], keys: Sequence[str]) -> Callable[[], float]:
            def measured() -> float:
                began_s = time.perf_counter()
                runner.run(closed_loop(work, keys, CLIENTS))
                return len(keys) / (time.perf_counter() - began_s)

            return measured

        self.stage.report(f"linearizable: {CLIENTS} clients, trying out")
        self.chosen["a named actor's counter"] = self.counter.tune(runner, CLIENTS)
        sides = {
            "one key": rate(linear.add, ["hot"] * adds),
            "actor": lambda: self.counter.rate(runner, adds, CLIENTS),
            "keys": rate(linear.add, spread_out),
            "vector": rate(lambda key: vector.put(key, next(numbers)), spread_out),
        }
        pool = None
        if self.redis is not None:
            pool = self.redis.pool(CLIENTS)
            sides["redis"] = rate(pool.incr, ["hot"] * adds)
        rounds: dict[str, list[float]] = {name: [] for name in sides}
        alternate_rates(sides, 0, 1)  # connections are open, and keys looked up
        for turn in self._rounds(f"{CLIENTS} clients"):
            for name, found in alternate_rates(sides, turn, 1 if self.stage.quick else 3).items():
                rounds[name].append(found)
        if pool is not None:
            runner.run(pool.aclose())
        self.rows.append(row("add_actor", rounds["one key"], rounds["actor"]))
        if "redis" in rounds:
            self.rows.append(row("add_redis", rounds["one key"], rounds["redis"]))
        self.rows.append(row("add_keys", rounds["keys"], rounds["vector"]))

    def _updates(self) -> None:
        bucket, runner = self.linear.aio, self.runner
        least_s = 1.0 if self.stage.quick else 4.0

        async def counts(during_s: float) -> list[int]:
            end_s = time.perf_counter() + during_s

            async def one() -> int:
                count = 0
                while time.perf_counter() < end_s:
                    await update()
                    count += 1
                return count

            return await asyncio.gather(*(one() for _ in range(UPDATERS)))

        def measured(during_s: float) -> tuple[list[int], float]:
            began_s = time.perf_counter()
            return runner.run(counts(during_s)), time.perf_counter() - began_s

        async def update() -> None:
            await bucket.update("updated", lambda present: present + 1, 0, timeout=UPDATE_TIMEOUT_S)

        self.counter.tune(runner, UPDATERS)
        ours, theirs, slowest, means, done = [], [], [], [], 0
        for turn in self._rounds(f"{UPDATERS} clients that update"):

            def updates() -> None:
                nonlocal done
                found, took_s = longer_until(measured, lambda found: sum(found[0]), least_s)
                ours.append(sum(found) / took_s)
                slowest.append(min(found) / took_s)
                means.append(sum(found) / UPDATERS / took_s)
                done += sum(found)

            def adds() -> None:
                wanted = UPDATERS * int(least_s * 40)
                theirs.append(self.counter.rate(runner, wanted, UPDATERS))

            for side in (updates, adds) if turn % 2 else (adds, updates):
                side()
        amiss = done - (self.linear.get("updated") or 0)
        self.rows.append(row("update", ours, theirs, amiss=amiss))
        self.rows.append(row("slowest", slowest, means))

    # ---- gaps in service ----

    def _gap(self, kind: str) -> dict[str, Any]:
        """Measure the longest gap in service of some adders, whose leader it happens to."""
        what, target_s = GAPS[kind]
        rounds = self._rounds(what)
        longest, calm, amiss = [], [], 0
        for turn in rounds[:1] if self.stage.quick else rounds:
            self.stage.report(f"linearizable: {what}, round {turn + 1}")
            keys, victim = self._of_one_leader(turn)
            adders = Adders(self.linear, keys)
            adders.start()
            time.sleep(QUICK_S[0] if self.stage.quick else BEFORE_S)
            began_s = time.monotonic()
            try:
                if kind == "moved":
                    self.store.remove_node(self.store.add_node())
                else:
                    self._harm(victim, kind)
            finally:
                ended_s = time.monotonic()
                amiss += adders.end()
            calm.append(adders.longest_gap_s(0.0, began_s))
            longest.append(adders.longest_gap_s(began_s, ended_s))
            until_all_up(self.store)
        gap_s = spread(longest)
        return {
            "name": kind, "what": what, "gap_s": gap_s, "calm_s": spread(calm), "target_s": target_s, "amiss": amiss,
            "verdict": "reached" if gap_s["median"] <= target_s and not amiss else "missed",
        }  # fmt: skip

    def _of_one_leader(self, turn: int) -> tuple[list[str], str]:
        """Return some keys that one node leads, and the node: another one each round."""
        keys = self.keys[:100]
        for key in keys:
            self.linear.add(key, 1)
        by_leader: dict[str, list[str]] = {}
        for key, leader in leaders(self.store, keys).items():
            by_leader.setdefault(leader, []).append(key)
        victim = sorted(by_leader)[turn % len(by_leader)]
        return by_leader[victim][:ADDERS], victim

    def _harm(self, victim: str, kind: str) -> None:
        pid = pids(self.store)[victim]
        os.kill(pid, signal.SIGKILL if kind == "killed" else signal.SIGSTOP)
        try:
            time.sleep(QUICK_S[1] if self.stage.quick else AFTER_S)
        finally:
            with contextlib.suppress(ProcessLookupError):  # another one runs in its place
                os.kill(pid, signal.SIGCONT)


class Adders(threading.Thread):
    """Adds to each of some keys all the time, one add after the other for each key."""

    def __init__(self, bucket: raykv.Bucket[Any, Any], keys: list[str]) -> None:
        super().__init__(daemon=True)
        self._bucket = bucket
        self._over = threading.Event()
        self._failed = 0
        self._acknowledged_s: dict[str, list[float]] = {key: [] for key in keys}

    def run(self) -> None:
        """Go on until ``end``."""
        asyncio.run(self._all())

    async def _all(self) -> None:
        await asyncio.gather(*(self._one(key, times) for key, times in self._acknowledged_s.items()))

    async def _one(self, key: str, times: list[float]) -> None:
        while not self._over.is_set():
            try:
                await self._bucket.aio.add(key, 1, timeout=GAP_TIMEOUT_S)
            except raykv.RaykvError:
                self._failed += 1
            else:
                times.append(time.monotonic())
            await asyncio.sleep(0.001)

    def end(self) -> int:
        """Stop; return how many adds failed."""
        self._over.set()
        self.join(2 * GAP_TIMEOUT_S)
        return self._failed

    def longest_gap_s(self, from_s: float, until_s: float) -> float:
        """Return the longest time between two acknowledgements of one key that touches this time."""
        return max(
            after - before
            for times in self._acknowledged_s.values()
            for before, after in itertools.pairwise(times)
            if after > from_s and before < until_s
        )


def measure(stage: Stage) -> dict[str, Any]:
    """Return the figures of the part ``linearizable``."""
    return Linearizable(stage).run()
