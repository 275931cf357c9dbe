"""Restarts every node of a store on real Ray, one after the other, under load, and reports what that costs its users.

Clients put and get in a vector, an lww and a linearizable bucket (which they also count in). In turn: some seconds in which
nothing changes; as many processes of Ray as there are nodes started and ended, one after the other, that have nothing to do
with the store (on two busy processors that alone is felt); a rolling restart of all nodes. Measured for each round:
operations that failed, the 99th percentile of each kind of operation in the restart beside that of the steady time just
before it, and of those other starts, seconds of the restart. At the end: every acknowledged write is there, and each
addition was counted once.

Ends with 1 if an operation failed or anything was lost, or the median over the rounds of a ratio of 99th percentiles is more
than --most (0: not judged).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

import raykv
from rounds.percentiles import p99_ms, times

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "restarted"
BUCKETS = ("vector", "lww", "linearizable")
LOADED = 1000
OWN_KEYS = 100
COUNTERS = 20
PAUSE_S = 0.004
SETTLE_S = 3.0
DOWN_S = 1.0


class Client(threading.Thread):
    """Puts its own keys, adds to shared counters and gets loaded records, and keeps how long each took."""

    def __init__(self, number: int) -> None:
        super().__init__(daemon=True)
        self.number = number
        self.random = random.Random(number)
        self.acknowledged: dict[tuple[str, str], int] = {}
        self.added = 0
        self.took: list[tuple[float, str, float]] = []
        self.failed: list[str] = []
        self.stop_it = threading.Event()

    def run(self) -> None:
        """Work until asked to stop."""
        with raykv.connect(NAME) as store:
            buckets = {name: store.bucket(name) for name in BUCKETS}
            count = 0
            while not self.stop_it.wait(PAUSE_S):
                count += 1
                name = BUCKETS[count % len(BUCKETS)]
                bucket, own = buckets[name], f"own:{self.number}:{count % OWN_KEYS}"
                loaded = self.random.randrange(LOADED)
                if self._time(f"{name} put", partial(bucket.put, own, count)):
                    self.acknowledged[name, own] = count
                self._time(f"{name} get", partial(self._get, bucket, loaded))
                if name == "linearizable":
                    key = f"count:{self.random.randrange(COUNTERS)}"
                    self.added += self._time(f"{name} add", partial(bucket.add, key, 1))

    def _get(self, bucket: raykv.Bucket, number: int) -> None:
        if (found := bucket.get(f"loaded:{number}")) != value(number):
            self.failed.append(f"loaded:{number} is {found!r}")

    def _time(self, what: str, work: Callable[[], Any]) -> bool:
        began = time.monotonic()
        try:
            work()
        except raykv.RaykvError as error:
            self.failed.append(f"{what}: {type(error).__name__}: {error}")
            return False
        self.took.append((began, what, time.monotonic() - began))
        return True


def value(number: int) -> dict[str, Any]:
    """Return the record of that number."""
    return {"n": number, "text": f"{number:09d}" * 28}


def p99s_ms(clients: list[Client], begin: float, end: float) -> dict[str, float]:
    """Return the 99th percentile of each kind of operation that began in between."""
    found: dict[str, list[float]] = {}
    for client in clients:
        for at, what, took in list(client.took):
            if begin <= at < end:
                found.setdefault(what, []).append(took)
    return {what: round(p99_ms(took), 2) for what, took in sorted(found.items())}


def start_another_process() -> None:
    """Start a process as a storage node's, which imports the same, and end it."""

    class Other:
        def ready(self) -> str:
            from raykv.actors import storage_node

            return storage_node.__name__

    other = ray.remote(num_cpus=0, max_restarts=0)(Other).remote()
    ray.get(other.ready.remote(), timeout=60)
    ray.kill(other)
    time.sleep(DOWN_S)


def one_round(store: raykv.Store, clients: list[Client], steady_s: float) -> dict[str, Any]:
    """Measure a steady time, and a restart of all nodes after it."""
    begin = time.monotonic()
    time.sleep(steady_s)
    before = p99s_ms(clients, begin, time.monotonic())
    started = time.monotonic()
    for _ in store.status(timeout=30)["nodes"]:
        start_another_process()
    starts = p99s_ms(clients, started, time.monotonic())
    time.sleep(SETTLE_S)
    middle, failed = time.monotonic(), sum(len(client.failed) for client in clients)
    restarted = store.restart_nodes()
    end = time.monotonic()
    during = p99s_ms(clients, middle, end)
    took = [at for client in clients for at, _, _ in list(client.took)]
    return {
        "restarted": restarted,
        "s": round(end - middle, 1),
        "failed": sum(len(client.failed) for client in clients) - failed,
        "operations": [sum(begin <= at < started for at in took), sum(middle <= at < end for at in took)],
        "p99_ms": {what: [before[what], starts.get(what), during.get(what)] for what in before},
        "ratio_of_starts": {what: round(times(starts[what], before[what]), 2) for what in before if what in starts},
        "ratio": {what: round(times(during[what], before[what]), 2) for what in before if what in during},
    }  # fmt: skip


def lost(store: raykv.Store, clients: list[Client]) -> list[str]:
    """Return what is not as it was acknowledged."""
    found = []
    for client in clients:
        for (name, key), count in client.acknowledged.items():
            if (stands := store.bucket(name).get(key)) != count:
                found.append(f"{name} {key}: {stands} instead of {count}")
    counts = store.bucket("linearizable").get_many([f"count:{number}" for number in range(COUNTERS)], 0)
    added = sum(client.added for client in clients)
    if (counted := sum(counts.values())) != added:
        found.append(f"counted {counted} instead of {added}")
    return found


def run_it(arguments: argparse.Namespace, path: str) -> dict[str, Any]:
    """Return the figures."""
    store = raykv.start(NAME, nodes=arguments.nodes, path=path)
    for name in BUCKETS:
        bucket: raykv.Bucket = store.bucket(name, versioning=name)  # type: ignore[arg-type]
        bucket.put_many({f"loaded:{number}": value(number) for number in range(LOADED)}, timeout=60)
    clients = [Client(number) for number in range(arguments.clients)]
    for client in clients:
        client.start()
    time.sleep(SETTLE_S)
    rounds = []
    for _ in range(arguments.rounds):
        rounds.append(one_round(store, clients, arguments.steady))
        print(json.dumps(rounds[-1]), flush=True)
        time.sleep(SETTLE_S)
    for client in clients:
        client.stop_it.set()
    for client in clients:
        client.join(60)
    names = sorted({name for each in rounds for name in each["ratio"]})
    figures = {
        "rounds": rounds,
        "median_ratio": {name: statistics.median(each["ratio"].get(name, 0.0) for each in rounds) for name in names},
        "median_ratio_of_starts": {
            name: statistics.median(each["ratio_of_starts"].get(name, 0.0) for each in rounds) for name in names
        },
        "operations": sum(len(client.took) for client in clients),
        "failed": [text for client in clients for text in client.failed],
        "lost": lost(store, clients),
        "healthy": store.status(timeout=30).healthy,
    }
    raykv.shutdown(NAME)
    return figures


def main() -> int:
    """Parse the arguments, run, judge."""
    parser = argparse.ArgumentParser(
        prog="scripts/restarts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=3, help="of the store (default 3)")
    parser.add_argument("--clients", type=int, default=2, help="threads, each with a client of its own (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="restarts of all nodes (default 3)")
    parser.add_argument(
        "--steady", type=float, default=15.0, help="seconds without a restart, before each (default 15)"
    )
    parser.add_argument("--most", type=float, default=3.0, help="the largest median ratio of a p99 (default 3; 0: any)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    ray.init(
        address="local", num_cpus=2, object_store_memory=200 << 20, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    try:
        with tempfile.TemporaryDirectory(prefix="raykv-restarts-") as path:
            figures = run_it(arguments, path)
    finally:
        ray.shutdown()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1))
    print(json.dumps({name: figures[name] for name in figures if name != "rounds"}))
    worst = max(figures["median_ratio"].values())
    bad = figures["failed"] or figures["lost"] or not figures["healthy"]
    return 1 if bad or (arguments.most and worst > arguments.most) else 0


if __name__ == "__main__":
    sys.exit(main())
