"""A store in three zones: what crosses from zone to zone, and what goes on while a zone is cut off.

Makes hosts of network namespaces, each with a Ray of its own, and a relay between their zones, which delays, cuts and
counts: storage nodes on a1 (zone a), b1 and c1, and a host of zone a without a node, "x-head". Clients run on that and
on b1. In turn:

1. Bytes that cross between zones for single gets with R=1 and R=2, get_many and a scan: as raykv reads, the nearest owners
   first, and beside it as it would read without knowing where it is.
2. The same gets with --delay seconds from zone to zone: the median.
3. Zone c is cut off under reads and writes, and comes back: what failed, and that every acknowledged write is there.

Ends with 1 if a read of one copy crosses zones, or an acknowledged write is lost. Needs Linux, root, iproute2 and the right
to make networks; leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import raykv
from network.hosts import Network, alone, lacking
from raykv.actors.hosts import HOST_LABEL, ZONE_LABELS, living

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ZONES = {"a1": "a", "b1": "b", "c1": "c", "x-head": "a"}
HEAD = "x-head"
STARTED = "will now block"
"""Said by Ray's command once it has started a host."""
PORT = 6379
NAME = "zones"
OBJECT_STORE_BYTES = 80 << 20
VALUE_BYTES = 1024
WAIT_S = 600.0
CROSSES = 0.05
"""A share of the values' bytes: below it nothing but the cluster's own talk crosses."""


class Client:
    """A client on one host."""

    def __init__(self, *, knows: bool) -> None:
        """``knows``: where it is; else it is made to forget."""
        if not knows:
            from raykv.actors import embedded_coordinator
            from raykv.coordinator.nearness import NOWHERE

            vars(embedded_coordinator)["whereabouts"] = lambda: NOWHERE
        self._bucket = raykv.connect(NAME).bucket("values", r=1, w=3)

    def get(self, keys: list[str], r: int) -> float:
        """Get each, one after the other; return the median of seconds."""
        taken = []
        for key in keys:
            began_s = time.perf_counter()
            value = self._bucket.get(key, r=r, timeout=30)
            taken.append(time.perf_counter() - began_s)
            assert value is not None, key
        return statistics.median(taken)

    def get_many(self, keys: list[str], r: int) -> int:
        """Get all at once; return how many there are."""
        return sum(value is not None for value in self._bucket.get_many(keys, r=r, timeout=60).values())

    def scan(self, r: int) -> int:
        """Return how many there are."""
        return sum(1 for _ in self._bucket.scan(r=r, timeout=60))


class Writer:
    """Writes to keys of its own and reads them until it is told to stop; an actor with two threads."""

    def __init__(self, *, name: str) -> None:
        self._name = name
        self._bucket = raykv.connect(NAME).bucket("written")
        self._over = False

    def run(self) -> dict[str, Any]:
        """Return what was acknowledged, and what failed."""
        acknowledged: dict[str, int] = {}
        failed, longest_s, number = 0, 0.0, 0
        while not self._over:
            number += 1
            key, began_s = f"{self._name}-{number % 200}", time.perf_counter()
            try:
                self._bucket.put(key, number, timeout=10)
                acknowledged[key] = number
                self._bucket.get(key, timeout=10)
            except raykv.RaykvError:
                failed += 1
            longest_s = max(longest_s, time.perf_counter() - began_s)
        return {"acknowledged": acknowledged, "operations": 2 * number, "failed": failed, "longest_s": longest_s}

    def stop(self) -> None:
        """Let ``run`` return."""
        self._over = True


@contextlib.contextmanager
def cluster(network: Network, folder: str) -> Iterator[None]:
    """Start a Ray on every host, and be on the head."""
    raylets = []
    try:
        for name in sorted(ZONES, key=lambda name: name != HEAD):
            raylets.append(_ray_on(network, name, folder))  # noqa: PERF401 - those that started are ended if one does not
        network.enter(HEAD)
        address = network.hosts[HEAD].address
        ray.init(f"{address}:{PORT}", _node_ip_address=address, log_to_driver=False, logging_level="ERROR")
        until("every host is in the cluster", lambda: len(living(ray.nodes())) == len(ZONES))
        yield
    finally:
        ray.shutdown()
        for raylet in reversed(raylets):
            raylet.terminate()
        for raylet in raylets:
            try:
                raylet.wait(30)
            except subprocess.TimeoutExpired:
                raylet.kill()


def _ray_on(network: Network, name: str, folder: str) -> subprocess.Popen[bytes]:
    host, head = network.hosts[name], network.hosts[HEAD]
    labels = json.dumps({HOST_LABEL: name, ZONE_LABELS[0]: host.zone})
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
        f"--node-ip-address={host.address}",
        "--num-cpus=2", f"--object-store-memory={OBJECT_STORE_BYTES}", f"--labels={labels}",
    ]  # fmt: skip
    if name == HEAD:
        command += ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}"]
    else:
        command += [f"--address={head.address}:{PORT}"]
    log = Path(folder, f"{name}.log")
    with log.open("wb") as output:
        made = subprocess.Popen(host.command(*command), stdout=output, stderr=subprocess.STDOUT)
    until(
        f"Ray runs on {name}", lambda: _runs(made, log)
    )  # one after the other: they look for free names in one directory
    return made


def _runs(process: subprocess.Popen[bytes], log: Path) -> bool:
    said = log.read_text(errors="replace")
    if process.poll() is not None:
        raise RuntimeError(f"Ray did not start: {said[-2000:]}")
    return STARTED in said


def until(what: str, met: Callable[[], Any]) -> None:
    """Wait until it is so. Raises ``TimeoutError``."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        with contextlib.suppress(raykv.RaykvError):
            if met():
                return
        time.sleep(0.2)
    raise TimeoutError(f"not within {WAIT_S:g} s: {what}")


def on(host: str, kind: type[Any], **options: Any) -> Any:
    """Return an actor on a host."""
    node = living(ray.nodes())[host][0]["NodeID"]
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_concurrency=2)(kind).options(scheduling_strategy=strategy).remote(**options)


def crossing(network: Network, begin: Callable[[], Any]) -> int:
    """Return how many bytes cross between zones for some work, less what crosses in as much time without it."""
    before, began_s = network.relay.carried_bytes(), time.monotonic()
    ray.get(begin(), timeout=WAIT_S)
    taken_s, carried = time.monotonic() - began_s, network.relay.carried_bytes() - before
    before, began_s = network.relay.carried_bytes(), time.monotonic()
    time.sleep(min(5.0, max(1.0, taken_s)))
    idle = (network.relay.carried_bytes() - before) / (time.monotonic() - began_s)
    return max(0, round(carried - idle * taken_s))


def measured(network: Network, keys: list[str], delay_s: float) -> dict[str, Any]:
    """Return for each place of a client, and each way of reading, what crosses and how long a get takes."""
    return {
        f"{host}, {'near first' if knows else 'anywhere'}": _measured_on(network, host, keys, delay_s, knows=knows)
        for host in (HEAD, "b1")
        for knows in (True, False)
    }


def _measured_on(network: Network, host: str, keys: list[str], delay_s: float, *, knows: bool) -> dict[str, float]:
    client = on(host, Client, knows=knows)
    ray.get(client.get.remote(keys[:20], 2), timeout=WAIT_S)
    ways: dict[str, Callable[[], Any]] = {
        "get, R=1": lambda: client.get.remote(keys, 1),
        "get, R=2": lambda: client.get.remote(keys, 2),
        "get_many, R=1": lambda: client.get_many.remote(keys, 1),
        "scan, R=1": lambda: client.scan.remote(1),
    }
    found = {
        f"{what}: bytes of a value's": round(crossing(network, begin) / (len(keys) * VALUE_BYTES), 3)
        for what, begin in ways.items()
    }
    network.relay.delay(delay_s)
    found["get, R=1: ms, delayed"] = round(1e3 * ray.get(client.get.remote(keys[:100], 1), timeout=WAIT_S), 2)
    network.relay.delay(0.0)
    ray.kill(client)
    return found


def cut_off(network: Network, seconds: float) -> dict[str, Any]:
    """Cut zone c off and join it again, under reads and writes on two hosts; return figures."""
    writers = {host: on(host, Writer, name=host) for host in (HEAD, "b1")}
    runs = {host: writer.run.remote() for host, writer in writers.items()}
    time.sleep(seconds)
    network.relay.cut("c")
    time.sleep(seconds)
    network.relay.cut()
    time.sleep(seconds)
    ray.get([writer.stop.remote() for writer in writers.values()], timeout=WAIT_S)
    found = {host: ray.get(run, timeout=WAIT_S) for host, run in runs.items()}
    store = raykv.connect(NAME)
    until("all nodes are up again", lambda: store.status(timeout=10).healthy)
    bucket = store.bucket("written")
    acknowledged = {key: number for each in found.values() for key, number in each["acknowledged"].items()}
    stands = bucket.get_many([*acknowledged], timeout=WAIT_S)
    lost = [key for key, number in acknowledged.items() if (stands[key] or 0) < number]  # a later one may have failed
    return {
        "operations": sum(each["operations"] for each in found.values()),
        "failed": sum(each["failed"] for each in found.values()),
        "longest_s": round(max(each["longest_s"] for each in found.values()), 2),
        "lost": len(lost),
    }


def run(records: int, delay_s: float, cut_s: float) -> dict[str, Any]:
    """Return all figures."""
    network = Network(ZONES)
    try:
        with tempfile.TemporaryDirectory() as folder, cluster(network, folder):
            store = raykv.start(NAME, path=os.path.join(folder, "store"), nodes=3)
            placed = {node["node_id"]: (node["host"], node["zone"]) for node in store.status(timeout=30)["nodes"]}
            bucket = store.bucket("values", r=1, w=3)
            keys = [f"k{number}" for number in range(records)]
            bucket.put_many({key: os.urandom(VALUE_BYTES // 2).hex() for key in keys}, timeout=WAIT_S)
            figures = {"nodes": placed, **measured(network, keys, delay_s), "zone c cut off": cut_off(network, cut_s)}
            raykv.shutdown(NAME)
            return figures
    finally:
        network.end()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/zones", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=1000, metavar="N", help="values of 1 KiB (default 1000)")
    parser.add_argument(
        "--delay", type=float, default=0.01, metavar="SECONDS", help="one way between zones (default 0.01)"
    )
    parser.add_argument(
        "--cut", type=float, default=8.0, metavar="SECONDS", help="how long zone c is cut off (default 8)"
    )
    return parser.parse_args()


def main() -> int:
    """Return 0 if reads of one copy stayed in their zone, and nothing was lost; 2 where there can be no such hosts."""
    arguments = parse()
    if why := lacking():
        print(f"no zones here: {why}", file=sys.stderr)
        return 2
    alone()
    figures = run(arguments.records, arguments.delay, arguments.cut)
    print(json.dumps(figures, indent=2))
    crosses = [
        f"{place}: {what} {share}"
        for place, found in figures.items()
        if place.endswith("near first")
        for what, share in found.items()
        if "R=1" in what and what.endswith("value's") and share > CROSSES
    ]
    for line in crosses:
        print(f"crosses between zones: {line}", file=sys.stderr)
    return int(bool(crosses or figures["zone c cut off"]["lost"]))


if __name__ == "__main__":
    sys.exit(main())
