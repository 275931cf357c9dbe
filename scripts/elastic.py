"""Grows a store on real Ray from three nodes to five and back under steady reads and writes, and reports the cost.

Before: records are loaded, and some seconds are measured in which nothing changes. Then two nodes join at once, and two
leave at once, while clients put (their own keys, unique values) and get (the loaded records). Measured: operations that
failed, the 99th percentile beside that of the steady time, bytes that new owners fetched beside the least that these
moves need (key and record of each copy that a node gains, as they are afterwards), and whether every record is right,
every acknowledged write is there, and no node keeps copies that it is not to have.

Ends with 1 if anything failed, was lost or stayed, or the bytes are more than 1.1 times the least.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import ray

import raykv
from raykv.actors.calls import RayTransport
from raykv.cluster.peers import node_address
from raykv.protocol import frames as f
from raykv.records.keys import LAST_TAG_END
from raykv.ring import Ring, moves
from rounds.percentiles import p99_ms

NAME = "elastic"
CLIENTS = 3
PAUSE_S = 0.02
BATCH = 1000
OWN_KEYS = 200
MOST_MOVED = 1.1


class Client(threading.Thread):
    """Puts its own keys and gets loaded ones, and keeps how long each took."""

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
            while not self.stop_it.wait(PAUSE_S):
                count += 1
                own, loaded = f"w{self.number}:{count % OWN_KEYS}", self.random.randrange(self.records)
                self._time("put", lambda own=own, count=count: self._put(store, own, count))
                self._time("get", lambda loaded=loaded: self._get(store, loaded))

    def _put(self, store: raykv.Store, key: str, count: int) -> None:
        store.put(key, count)
        self.acknowledged[key] = count

    def _get(self, store: raykv.Store, number: int) -> None:
        if store.get(f"k{number}") != value(number):
            self.failed.append(f"k{number} is wrong")

    def _time(self, what: str, work: Any) -> None:
        began = time.monotonic()
        try:
            work()
        except raykv.RaykvError as error:
            self.failed.append(f"{what}: {error}")
        self.took.append((began, what, time.monotonic() - began))


def value(number: int) -> dict[str, Any]:
    """Return the record of that number: about as long as one of GeoNames."""
    return {"n": number, "name": f"place {number}", "text": f"{number:09d}" * 28}


def load(store: raykv.Store, records: int) -> None:
    """Put all records."""
    for begin in range(0, records, BATCH):
        store.put_many(
            {f"k{number}": value(number) for number in range(begin, min(records, begin + BATCH))}, timeout=60
        )


async def held(node_id: str, partitions: int) -> dict[int, int]:
    """Return partition -> bytes of the keys and records that a node holds there, in the default bucket."""
    transport, found = RayTransport(NAME), {}
    for partition in range(partitions):
        size_bytes, start = 0, b""
        while True:
            request = f.NodeRequest(0, f.Scan(1, start, LAST_TAG_END, 2000, False, False, [partition]))
            frame = await transport.call(node_address(node_id), f.node_requests.encode(request), 30.0)
            page = f.node_answers.decode(frame).body
            assert isinstance(page, f.ScanDone), page
            size_bytes += sum(len(key) + len(record) for key, record in page.items)
            if page.covered is None or not page.items:
                break
            start = page.items[-1][0] + b"\0"
        if size_bytes:
            found[partition] = size_bytes
    return found


async def sizes_of(ring: Ring, partitions: int) -> dict[int, int]:
    """Return partition -> bytes that its owners hold, the largest of them."""
    sizes: dict[int, int] = {}
    for member in ring.members:
        for partition, size_bytes in (await held(member.node_id, partitions)).items():
            sizes[partition] = max(size_bytes, sizes.get(partition, 0))
    return sizes


def ring_of(store: raykv.Store) -> Ring:
    """Return the ring."""
    return msgspec.convert(dict(store.ring()), Ring)


def settle(store: raykv.Store) -> dict[str, Any]:
    """Wait until nothing moves; return what the moves came to."""
    last: dict[str, Any] = {}
    while True:
        moving = store.status(timeout=30)["rebalancing"]
        if moving is None:
            return last
        last = moving
        time.sleep(0.1)


def percentile(clients: list[Client], what: str, begin: float, end: float) -> float:
    """Return the 99th percentile of an operation's time in between, in milliseconds."""
    took = [each for client in clients for at, name, each in list(client.took) if begin <= at < end and name == what]
    return p99_ms(took)


def run_it(records: int, partitions: int, steady_s: float) -> dict[str, Any]:
    """Return the figures."""
    with tempfile.TemporaryDirectory(prefix="raykv-elastic-") as path:
        store = raykv.start(NAME, path=path, partitions=partitions)
        began = time.monotonic()
        load(store, records)
        print(f"{records:,} records loaded in {time.monotonic() - began:.0f} s", flush=True)
        clients = [Client(number, records) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        time.sleep(2.0)
        marks = [time.monotonic()]
        time.sleep(steady_s)
        marks.append(time.monotonic())
        figures: dict[str, Any] = {"records": records, "partitions": partitions}
        figures["steady"] = {what: round(percentile(clients, what, *marks[-2:]), 1) for what in ("put", "get")}
        fetched_bytes = 0
        for name, step in (("3 to 5", grow), ("5 to 3", shrink)):
            before, begin = ring_of(store), time.monotonic()
            step(store)
            moved = settle(store)
            end, after = time.monotonic(), ring_of(store)
            sizes = asyncio.run(sizes_of(after, partitions))  # clients add records meanwhile, for as long as it takes
            least = sum(sizes.get(partition, 0) for partition, _ in moves(before, after))
            # The supervisor's figures go on from one change to the next.
            bytes_moved, fetched_bytes = moved["bytes"] - fetched_bytes, moved["bytes"]
            figures[name] = {
                "s": round(end - begin, 1), "copies_moved": len(moves(before, after)), "bytes": bytes_moved,
                "least_bytes": least, "ratio": round(bytes_moved / least, 3), "postponed": moved["postponed"],
                **{what: round(percentile(clients, what, begin, end), 1) for what in ("put", "get")},
            }  # fmt: skip
            print(f"{name}: {figures[name]}", flush=True)
        for client in clients:
            client.stop_it.set()
        for client in clients:
            client.join(60)
        figures |= verify(store, clients, records)
        figures["operations"] = sum(len(client.took) for client in clients)
        figures["failed"] = [text for client in clients for text in client.failed]
        figures["stayed"] = stayed(store, partitions)
        left = sorted(entry.name for entry in Path(path, "nodes").iterdir())
        figures["directories"] = left
        raykv.shutdown(NAME)
    return figures


def grow(store: raykv.Store) -> None:
    """Let two nodes join."""
    for _ in range(2):
        store.add_node(weight=store.status(timeout=30)["nodes"][0]["weight"], wait=False)


def shrink(store: raykv.Store) -> None:
    """Let two of the first nodes leave, and the new ones stay."""
    for node_id in ("n1", "n2"):
        store.remove_node(node_id, wait=False)


def verify(store: raykv.Store, clients: list[Client], records: int) -> dict[str, Any]:
    """Read all back."""
    wrong = 0
    for begin in range(0, records, BATCH):
        numbers = range(begin, min(records, begin + BATCH))
        found = store.get_many([f"k{number}" for number in numbers], timeout=60)
        wrong += sum(found.get(f"k{number}") != value(number) for number in numbers)
    lost = [key for client in clients for key, count in client.acknowledged.items() if store.get(key) != count]
    return {"wrong_records": wrong, "acknowledged": sum(len(client.took) for client in clients) // 2, "lost": lost}


def stayed(store: raykv.Store, partitions: int) -> list[str]:
    """Return where nodes hold copies that they are not to hold: what was given away is cleared a moment later."""
    deadline = time.monotonic() + 30
    while True:
        ring = ring_of(store)
        found = [
            f"{member.node_id}: {partition}"
            for member in ring.members
            for partition in asyncio.run(held(member.node_id, partitions))
            if member.node_id not in ring.owners(partition)
        ]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(1)


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        prog="scripts/elastic", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=100_000, help="how many to load (default 100000)")
    parser.add_argument("--partitions", type=int, default=256, help="of the store (default 256)")
    parser.add_argument("--steady", type=float, default=20.0, help="seconds that nothing changes before (default 20)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        figures = run_it(arguments.records, arguments.partitions, arguments.steady)
    finally:
        ray.shutdown()
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures))
    ratios = [figures[name]["ratio"] for name in ("3 to 5", "5 to 3")]
    bad = figures["failed"] or figures["lost"] or figures["wrong_records"] or figures["stayed"]
    return 1 if bad or max(ratios) > MOST_MOVED else 0


if __name__ == "__main__":
    sys.exit(main())
