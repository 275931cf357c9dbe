"""Scans: what a page costs among many records, what all keys cost, and YCSB's E in a grouped bucket beside Redis.

A page's cost should follow its pairs. It is measured at random places of the bucket ("anywhere"), again at a place that was
read a moment before ("again"), within one group of a grouped bucket, and behind many deleted pairs, the first time and the
second. All keys are read in one scan.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import raykv
from benchmarks.sides import redis_side
from benchmarks.timing import percentile, settle, spread
from benchmarks.ycsb import INDEX, Plan, RaykvDatabase, RedisDatabase, Step, carry_out
from benchmarks.ycsb import WORKLOADS as YCSB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.sides import RedisSide
    from benchmarks.stage import Stage

NAME = "scans"
RECORDS = 200_000
RECORD_BYTES = 300
PAGE = 50
GROUPS = 20
SEPARATOR = ":"
TARGETS = {f"{PAGE} pairs, again": "< 5 ms", "all keys": ">= 100,000/s", "YCSB E": ">= 0.6"}
"""With 2,000,000 records."""


class GroupedPlan(Plan):
    """YCSB's operations on keys in groups: a scan stays in the group of its first key."""

    def __init__(self, records: int, seed: int) -> None:
        super().__init__(records, seed)
        groups = random.Random(seed)
        self.keys = [f"group{groups.randrange(GROUPS):02d}{SEPARATOR}{key}" for key in self.keys]

    def steps(self, workload: str, count: int) -> list[Step]:
        """As YCSB's; inserts go to any group."""
        found = []
        for step in super().steps(workload, count):
            if step.kind == "insert":
                grouped = f"group{self._draw.randrange(GROUPS):02d}{SEPARATOR}{step.key}"
                self.keys[self.keys.index(step.key)] = grouped
                found.append(step._replace(key=grouped))
            else:
                found.append(step)
        return found


def _group(key: str) -> str:
    return key.partition(SEPARATOR)[0] + SEPARATOR


class GroupedRaykv(RaykvDatabase):
    """A grouped bucket."""

    def __init__(self, bucket: raykv.Bucket[Any, Any]) -> None:
        super().__init__(bucket)
        self.does["scan"] = lambda step: list(bucket.scan(prefix=_group(step.key), start=step.key, limit=step.count))


class GroupedRedis(RedisDatabase):
    """Redis with its ordered index, scanned up to the end of a group."""

    def __init__(self, side: RedisSide) -> None:
        super().__init__(side)
        self.does["scan"] = self._scan_group

    def _scan_group(self, step: Step) -> list[tuple[str, Any]]:
        end = f"({_group(step.key)[:-1]};"  # ";" follows ":"
        return self.found(self._client.zrangebylex(INDEX, f"[{step.key}", end, start=0, num=step.count))


def measure(stage: Stage, records: int = RECORDS) -> dict[str, Any]:
    """Return the figures of the part ``scans``."""
    count = 2_000 if stage.quick else records
    store = stage.store(name=NAME)
    rows = [*_pages(stage, store, count)]
    ratio = _ycsb_e(stage, store)
    raykv.shutdown(NAME)
    return {"records": count, "record_bytes": RECORD_BYTES, "rows": rows, "ycsb_e": ratio}


def _pages(stage: Stage, store: raykv.Store, count: int) -> list[dict[str, Any]]:
    draw = random.Random(11)
    value = bytes(draw.randrange(256) for _ in range(RECORD_BYTES))
    buckets = {"all partitions": store.bucket("plain"), "one group": store.bucket("grouped", group=SEPARATOR)}
    many = max(1, count // 100)
    loaded = {
        "all partitions": (f"key{number:08d}" for number in range(count)),
        "one group": (f"g{number % 100:02d}{SEPARATOR}{number:08d}" for number in range(count // 10)),
    }
    for what, bucket in buckets.items():
        keys = list(loaded[what])
        draw.shuffle(keys)
        for at in range(0, len(keys), 1000):
            if at % 50_000 == 0:
                stage.report(f"scans: loading, {what}: {at:,} of {len(keys):,}")
            bucket.put_many(dict.fromkeys(keys[at : at + 1000], value))
    queue = store.bucket("queue")
    dead = [f"job{number:08d}" for number in range(many)]
    for at in range(0, many, 1000):
        queue.put_many(dict.fromkeys(dead[at : at + 1000], b"x"))
        queue.delete_many(dead[at : at + 1000])
    queue.put("job99999999", b"x")
    time.sleep(1 if stage.quick else 20)  # flushes and compactions come to rest
    settle()
    plain, grouped = buckets.values()

    def anywhere() -> None:
        _full(plain.scan(start=f"key{draw.randrange(count - PAGE):08d}", limit=PAGE))

    def again() -> None:
        _full(plain.scan(start="key00000100", limit=PAGE))

    def in_a_group() -> None:
        group = draw.randrange(100)
        first = f"g{group:02d}{SEPARATOR}{draw.randrange(max(1, count // 10 - 100 * PAGE)):08d}"
        list(grouped.scan(prefix=f"g{group:02d}{SEPARATOR}", start=first, limit=PAGE))

    def behind_the_dead() -> None:
        assert [key for key, _ in queue.scan(limit=1)] == ["job99999999"]

    times = 10 if stage.quick else 200
    rows: list[dict[str, Any]] = []
    measured: Mapping[str, tuple[Callable[[], None], int]] = {
        f"{PAGE} pairs, anywhere": (anywhere, times),
        f"{PAGE} pairs, again": (again, times),
        f"{PAGE} pairs of a group": (in_a_group, times),
        f"the first pair behind {many:,} deleted": (behind_the_dead, 1),
        f"the same, again ({many:,} deleted)": (behind_the_dead, 5),
    }
    for what, (work, repeated) in measured.items():
        stage.report(f"scans: {what}")
        taken_ms: list[float] = []
        for _ in range(repeated):
            began = time.perf_counter()
            work()
            taken_ms.append((time.perf_counter() - began) * 1000)
        rows.append({"what": what, "p50_ms": percentile(taken_ms, 0.5), "p99_ms": percentile(taken_ms, 0.99)})
    for what, kind in (("all keys", "keys"), ("all pairs", "items")):
        stage.report(f"scans: {what}")
        began = time.perf_counter()
        seen = sum(1 for _ in getattr(plain, kind)())
        taken_s = time.perf_counter() - began
        assert seen == count, f"{seen} of {count}"
        rows.append({"what": what, "per_s": count / taken_s})
    for row in rows:
        row["target"] = TARGETS.get(row["what"], "")
    return rows


def _full(pairs: Any) -> None:
    seen = list(pairs)
    assert len(seen) == PAGE


def _ycsb_e(stage: Stage, store: raykv.Store) -> dict[str, Any]:
    """Return rates by side and their ratio, round by round."""
    records, count = (500, 40) if stage.quick else (10_000, 800)
    plan = GroupedPlan(records, seed=7)
    databases: dict[str, RaykvDatabase | RedisDatabase] = {
        "raykv": GroupedRaykv(store.bucket("ycsb", group=SEPARATOR)),
    }
    if redis := redis_side(stage):
        databases["Redis"] = GroupedRedis(redis)
    data = {key: plan.value() for key in plan.keys}
    for database in databases.values():
        database.load(data)
    step = Step("scan", plan.keys[5], count=20)
    seen = [database.does["scan"](step) for database in databases.values()]
    assert seen[0]
    assert all(other == seen[0] for other in seen), "the sides differ"
    settle()
    rates: dict[str, list[float]] = {name: [] for name in databases}
    for turn in range(stage.rounds):
        stage.report(f"scans: YCSB E in a grouped bucket, round {turn + 1}")
        steps = plan.steps("E", count)
        for block in range(4):
            names = list(databases) if (turn + block) % 2 == 0 else list(databases)[::-1]
            for name in names:
                rates[name].append(carry_out(databases[name], steps[block::4])[0])
    found: dict[str, Any] = {
        "what": YCSB["E"][0],
        "target": TARGETS["YCSB E"],
        **{name: spread(each) for name, each in rates.items()},
    }
    if "Redis" in rates:
        by_round = [
            [percentile(each[at * 4 : at * 4 + 4], 0.5) for at in range(stage.rounds)]
            for each in (rates["raykv"], rates["Redis"])
        ]
        found["ratio"] = spread([ours / its for ours, its in zip(*by_round, strict=True)])
    return found
