"""Backs a store on real Ray up while it is used, restores it on 3 and on 5 nodes, and reports times and what differs.

Records are loaded in batches. Then clients get loaded records and put keys of their own: first with nothing else going on,
then while snapshots are taken, each into a new directory (all tables copied; the first right after the load), and one more
into the last of them (only new tables). Measured: seconds of a snapshot, the 99th percentile of reads and of writes beside
that without; seconds of the verification; seconds of each restore beside those of the load; whether each restored store has
the keys and values of the original, and every write that was acknowledged before the snapshot began.

Ends with 1 if anything was lost or differs, or a 99th percentile is more than --most times that without (0: not judged).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray

import raykv
from raykv.actors import backups
from rounds.percentiles import p99_ms, times

NAME = "backed-up"
BATCH = 500
OWN_KEYS = 500
CLIENTS = 2
VALUE_BYTES = 280


def value_of(number: int) -> bytes:
    """Return the value of a loaded record: half of it compresses."""
    return random.Random(number).randbytes(VALUE_BYTES // 2) + b"%08d" % number * (VALUE_BYTES // 16)


class Client(threading.Thread):
    """Gets loaded records and puts its own keys, in turn, and keeps how long each took."""

    def __init__(self, number: int, records: int) -> None:
        super().__init__(daemon=True)
        self.number, self.records = number, records
        self.random = random.Random(number)
        self.acknowledged: dict[str, int] = {}
        self.took: list[tuple[float, str, float]] = []
        self.failed: list[str] = []
        self.stop_it = threading.Event()

    def run(self) -> None:
        """Work until asked to stop."""
        with raykv.connect(NAME) as store:
            count = 0
            while not self.stop_it.wait(0.001):
                count += 1
                began_s = time.monotonic()
                try:
                    if count % 2:
                        kind, number = "get", self.random.randrange(self.records)
                        if store.get(f"record:{number:08d}") != value_of(number):
                            self.failed.append(f"record {number} has another value")
                    else:
                        kind, key = "put", f"own:{self.number}:{count % OWN_KEYS}"
                        store.put(key, count)
                        self.acknowledged[key] = count
                except raykv.RaykvError as error:
                    self.failed.append(str(error))
                else:
                    self.took.append((began_s, kind, time.monotonic() - began_s))


def p99_ms_of(clients: list[Client], kind: str, spans: list[tuple[float, float]]) -> float:
    """Return the 99th percentile of what began within these spans."""
    took = [
        took_s
        for client in clients
        for began_s, what, took_s in client.took
        if what == kind and any(first <= began_s <= last for first, last in spans)
    ]
    return p99_ms(took)


def load(store: raykv.Store, records: int) -> float:
    """Load the records; return the seconds."""
    began_s = time.monotonic()
    for first in range(0, records, BATCH):
        numbers = range(first, min(first + BATCH, records))
        store.put_many({f"record:{number:08d}": value_of(number) for number in numbers}, timeout=60)
    return time.monotonic() - began_s


def compare(name: str, records: int, acknowledged: dict[str, int]) -> dict[str, int]:
    """Return what a restored store lacks or has wrong."""
    wrong = {"records": 0, "missing": 0, "differing": 0, "lost": 0}
    seen: dict[str, int] = {}
    with raykv.connect(name) as store:
        for key, value in store.scan(timeout=120):
            assert isinstance(key, str)
            if key.startswith("record:"):
                wrong["records"] += 1
                wrong["differing"] += value != value_of(int(key[7:]))
            else:
                seen[key] = value
    wrong["missing"] = records - wrong["records"]
    wrong["lost"] = sum(seen.get(key, -1) < count for key, count in acknowledged.items())
    return wrong


def measure(arguments: argparse.Namespace, directory: str) -> dict[str, Any]:
    """Load, back up, restore; return all figures."""
    records: int = arguments.records
    store = raykv.start(NAME, nodes=3, path=f"{directory}/{NAME}")
    found: dict[str, Any] = {"records": records, "load_s": load(store, records)}
    print(f"loaded {records} records in {found['load_s']:.1f} s", flush=True)
    clients = [Client(number, records) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    time.sleep(2)
    calm = [(time.monotonic(), time.monotonic() + arguments.calm)]
    time.sleep(arguments.calm)
    spans, reports = [], []
    acknowledged: dict[str, int] = {}
    for turn in [*range(arguments.turns), arguments.turns - 1]:
        acknowledged = {key: count for client in clients for key, count in dict(client.acknowledged).items()}
        began_s = time.monotonic()
        reports.append(store.snapshot(f"{directory}/backups-{turn}"))
        spans.append((began_s, time.monotonic()))
        print(repr(reports[-1]), flush=True)
        time.sleep(1)
    for client in clients:
        client.stop_it.set()
    for client in clients:
        client.join()
    found["snapshots"] = [dict(report) for report in reports]
    for kind in ("get", "put"):
        before, during = p99_ms_of(clients, kind, calm), p99_ms_of(clients, kind, spans)
        found[kind] = {"p99_ms": before, "p99_ms_during": during, "ratio": times(during, before)}
        print(
            f"{kind}: p99 {before:.2f} ms, while snapshots are taken {during:.2f} ms: {times(during, before):.2f} x",
            flush=True,
        )
    found["failed"] = [said for client in clients for said in client.failed]
    where = f"{directory}/backups-{arguments.turns - 1}"
    began_s = time.monotonic()
    verified = backups.verify(where)
    found["verify_s"] = time.monotonic() - began_s
    found["damaged"] = [wrong for each in verified for wrong in each["wrong"]]
    raykv.shutdown(NAME)
    found["restored"] = {}
    for nodes in arguments.nodes:
        name = f"again-{nodes}"
        report = raykv.restore(where, name, nodes=nodes, path=f"{directory}/{name}")
        wrong = compare(name, records, acknowledged)
        loaded_s = report["seconds"] - report["start_seconds"]
        ratio = loaded_s / found["load_s"]
        found["restored"][nodes] = {"load_s": loaded_s, "seconds": report["seconds"], "beside_load": ratio, **wrong}
        print(f"{report!r}; without the start {loaded_s:.1f} s, {ratio:.2f} x the load; {wrong}", flush=True)
        raykv.destroy(name, confirm=name)
    return found


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(
        prog="scripts/backups", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1_000_000, help="records to load (default 1,000,000)")
    parser.add_argument("--calm", type=float, default=10.0, help="seconds without a snapshot (default 10)")
    parser.add_argument("--turns", type=int, default=3, help="full snapshots (default 3)")
    parser.add_argument("--nodes", type=int, nargs="*", default=[3, 5], help="restore on as many (default 3 5)")
    parser.add_argument("--most", type=float, default=3.0, help="the largest ratio of p99 allowed (default 3)")
    parser.add_argument("--dir", help="where to keep everything (default: a temporary directory)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    arguments = parser.parse_args()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory(dir=arguments.dir, ignore_cleanup_errors=True) as directory:
        found = measure(arguments, directory)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2), encoding="utf-8")
    wrong = [f"{len(found['failed'])} operations failed: {found['failed'][:3]}"] if found["failed"] else []
    wrong += [f"{len(found['damaged'])} tables are damaged"] if found["damaged"] else []
    wrong += [
        f"restored on {nodes} nodes: {what} {count}"
        for nodes, row in found["restored"].items()
        for what, count in row.items()
        if what in {"missing", "differing", "lost"} and count
    ]
    wrong += [
        f"p99 of {kind} {found[kind]['ratio']:.2f} x"
        for kind in ("get", "put")
        if arguments.most and found[kind]["ratio"] > arguments.most
    ]
    print("\n".join(wrong) or "nothing was lost, nothing differs")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
