"""YCSB's core workloads (Cooper et al. 2010), one client, raykv beside Redis.

A record has ten fields of 100 bytes. Keys are chosen by a zipfian law with exponent 0.99 over records in random order;
workload D prefers the latest. Redis keeps an ordered index for E, as YCSB's own client for it does; its
read-modify-write is a GET and a SET, raykv's is ``modify``, which gives back the context of what it read.
"""

from __future__ import annotations

import itertools
import random
import string
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import raykv
from benchmarks.sides import PIPELINE, decode, encode, redis_side
from benchmarks.timing import percentile, settle, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.sides import RedisSide
    from benchmarks.stage import Stage

FIELDS, FIELD_BYTES = 10, 100
EXPONENT = 0.99
LONGEST_SCAN = 100
NAME = "ycsb"
INDEX = "index"

WORKLOADS: dict[str, tuple[str, dict[str, float]]] = {
    "A": ("half reads, half updates", {"read": 0.5, "update": 0.5}),
    "B": ("95 % reads, 5 % updates", {"read": 0.95, "update": 0.05}),
    "C": ("reads only", {"read": 1.0}),
    "D": ("95 % reads of the latest, 5 % inserts", {"read": 0.95, "insert": 0.05}),
    "E": ("95 % short scans, 5 % inserts", {"scan": 0.95, "insert": 0.05}),
    "F": ("half reads, half read-modify-writes", {"read": 0.5, "modify": 0.5}),
}


class Step(NamedTuple):
    """An operation, worked out beforehand: both sides carry out the same ones."""

    kind: str
    key: str
    value: Any = None
    count: int = 0  # type: ignore[assignment]  # a tuple has a method of that name


class Plan:
    """Draws operations."""

    def __init__(self, records: int, seed: int) -> None:
        self._draw = random.Random(seed)
        self.keys = [f"user{self._draw.getrandbits(48):015d}" for _ in range(records)]
        weights = [1 / rank**EXPONENT for rank in range(1, records + 1)]
        self._cumulated = list(itertools.accumulate(weights))

    def value(self) -> dict[str, str]:
        """Return a record."""
        letters = "".join(self._draw.choices(string.ascii_letters, k=FIELD_BYTES))
        return {f"field{number}": letters[number:] + letters[:number] for number in range(FIELDS)}

    def steps(self, workload: str, count: int) -> list[Step]:
        """Return the operations of a round."""
        shares = WORKLOADS[workload][1]
        kinds = self._draw.choices(list(shares), list(shares.values()), k=count)
        places = self._draw.choices(range(len(self._cumulated)), cum_weights=self._cumulated, k=count)
        steps = []
        for kind, place in zip(kinds, places, strict=True):
            key = self.keys[-1 - place] if workload == "D" else self.keys[place]
            match kind:
                case "insert":
                    self.keys.append(f"user{self._draw.getrandbits(48):015d}")
                    steps.append(Step(kind, self.keys[-1], self.value()))
                case "scan":
                    steps.append(Step(kind, key, count=self._draw.randint(1, LONGEST_SCAN)))
                case "read":
                    steps.append(Step(kind, key))
                case _:
                    steps.append(Step(kind, key, self.value()))
        return steps


class RaykvDatabase:
    """A bucket."""

    def __init__(self, bucket: raykv.Bucket[Any, Any]) -> None:
        self._bucket = bucket
        self.does: dict[str, Callable[[Step], Any]] = {
            "read": lambda step: bucket.get(step.key),
            "update": lambda step: bucket.put(step.key, step.value),
            "insert": lambda step: bucket.put(step.key, step.value),
            "modify": lambda step: bucket.modify(step.key, lambda old: old | {"field0": step.value["field0"]}),
            "scan": lambda step: list(bucket.scan(start=step.key, limit=step.count)),
        }

    def load(self, records: dict[str, Any]) -> None:
        """Put the records."""
        self._bucket.put_many(records)


class RedisDatabase:
    """Redis, with an ordered index of all keys."""

    def __init__(self, side: RedisSide) -> None:
        self._client = side.client
        self.does: dict[str, Callable[[Step], Any]] = {
            "read": lambda step: side.get(step.key),
            "update": lambda step: side.put(step.key, step.value),
            "insert": self._insert,
            "modify": lambda step: side.put(step.key, side.get(step.key) | {"field0": step.value["field0"]}),
            "scan": self._scan,
        }

    def load(self, records: dict[str, Any]) -> None:
        """Put the records, and their keys into the index."""
        pairs = list(records.items())
        self._client.flushdb()
        for at in range(0, len(pairs), PIPELINE):
            with self._client.pipeline(transaction=False) as pipe:
                for key, value in pairs[at : at + PIPELINE]:
                    pipe.set(key, encode(value))
                    pipe.zadd(INDEX, {key: 0})
                pipe.execute()

    def _insert(self, step: Step) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            pipe.set(step.key, encode(step.value))
            pipe.zadd(INDEX, {step.key: 0})
            pipe.execute()

    def _scan(self, step: Step) -> list[tuple[str, Any]]:
        return self.found(self._client.zrangebylex(INDEX, f"[{step.key}", "+", start=0, num=step.count))

    def found(self, keys: list[bytes]) -> list[tuple[str, Any]]:
        """Return the pairs of these keys."""
        found = self._client.mget(keys)
        return [(key.decode(), decode(raw)) for key, raw in zip(keys, found, strict=True)]


def carry_out(database: RaykvDatabase | RedisDatabase, steps: list[Step]) -> tuple[float, float]:
    """Return operations a second, and the 99th percentile in microseconds."""
    does, clock, taken = database.does, time.perf_counter_ns, []
    for step in steps:
        began = clock()
        does[step.kind](step)
        taken.append((clock() - began) / 1000)
    return len(steps) / (sum(taken) / 1e6), percentile(taken, 0.99)


def measure(stage: Stage) -> dict[str, Any]:
    """Return the figures of the part ``ycsb``."""
    records, count = (500, 60) if stage.quick else (10_000, 2_000)
    store = stage.store(name=NAME)
    databases: dict[str, RaykvDatabase | RedisDatabase] = {"raykv": RaykvDatabase(store)}
    redis = redis_side(stage)
    if redis:
        databases["Redis"] = RedisDatabase(redis)
    plan = Plan(records, seed=7)
    stage.report("ycsb: loading")
    data = {key: plan.value() for key in plan.keys}
    for database in databases.values():
        database.load(data)
    _check_equal(list(databases.values()), plan)
    found: dict[str, Any] = {}
    settle()
    for workload, (words, _) in WORKLOADS.items():
        rates: dict[str, list[float]] = {name: [] for name in databases}
        tails: dict[str, list[float]] = {name: [] for name in databases}
        for turn in range(stage.rounds):
            stage.report(f"ycsb: workload {workload}, round {turn + 1}")
            steps = plan.steps(workload, count // 5 if workload == "E" else count)
            blocks = [steps[at::4] for at in range(4)] if workload != "D" else [steps]
            for block, some in enumerate(blocks):
                names = list(databases) if (turn + block) % 2 == 0 else list(databases)[::-1]
                for name in names:
                    rate, tail = carry_out(databases[name], some)
                    rates[name].append(rate)
                    tails[name].append(tail)
        found[workload] = {"what": words, **_by_round(rates, tails, stage.rounds)}
    raykv.shutdown(NAME)
    return {"records": records, "record_bytes": FIELDS * FIELD_BYTES, "workloads": found}


def _by_round(rates: dict[str, list[float]], tails: dict[str, list[float]], rounds: int) -> dict[str, Any]:
    def rounded(values: list[float]) -> list[float]:
        each = len(values) // rounds
        return [percentile(values[at * each : (at + 1) * each], 0.5) for at in range(rounds)]

    by_side = {name: rounded(values) for name, values in rates.items()}
    found: dict[str, Any] = {
        name: {"ops_per_s": spread(by_side[name]), "p99_us": spread(rounded(tails[name]))} for name in rates
    }
    if "Redis" in by_side:
        found["ratio"] = spread([ours / its for ours, its in zip(by_side["raykv"], by_side["Redis"], strict=True)])
    return found


def _check_equal(databases: list[RaykvDatabase | RedisDatabase], plan: Plan) -> None:
    """See that both sides read and scan the same."""
    for step in (Step("read", plan.keys[3]), Step("scan", plan.keys[5], count=20)):
        seen = [database.does[step.kind](step) for database in databases]
        assert seen[0], f"nothing was found by {step}"
        assert all(other == seen[0] for other in seen[1:]), f"the sides differ in {step}"
