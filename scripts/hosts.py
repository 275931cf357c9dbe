"""A store on several hosts (Rays on this machine that count as hosts): a host blinks, one is lost, all start again.

Under writes and reads all the while:

1. A host goes and comes back at once: its node comes back on its directory.
2. A host goes for good: after --replace-after seconds its node is replaced on another, by itself, until there are N full
   copies again.
3. Everything is stopped, Ray too. With one of the hosts back, the store must say that it is a minority, and what is
   missing. With the others back, it is started from a host that has no node, and must have everything, each node on the
   host where its directory is.

Ends with 1 if an acknowledged write is lost, a copy is missing, or the store does not come up as it should.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.cluster_utils import Cluster

import elastic
import raykv
from kill_rounds import Writer, verify
from raykv.actors.hosts import HOST_LABEL
from raykv.actors.naming import COORDINATOR, SUPERVISOR, find_actor, node_directory

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = elastic.NAME
PARTITIONS = 16
HEAD = "z-head"
OBJECT_STORE_BYTES = 80 << 20
WAIT_S = 180.0
KEYS = 300


class Hosts:
    """A Ray cluster of a head, on which no node is placed while there are others, and hosts by name."""

    def __init__(self) -> None:
        self._options = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=self._options | {"labels": {HOST_LABEL: HEAD}})
        self._raylets: dict[str, Any] = {}
        ray.init(address=self.cluster.address, log_to_driver=False, logging_level="ERROR")

    def add(self, *names: str) -> None:
        """Start hosts."""
        for name in names:
            self._raylets[name] = self.cluster.add_node(**self._options, labels={HOST_LABEL: name})

    def lose(self, name: str) -> None:
        """Kill a host's raylet; its workers end when they notice."""
        self.cluster.remove_node(self._raylets.pop(name), allow_graceful=False)

    def services(self) -> dict[str, str]:
        """Return on which hosts supervisor and coordinator are."""
        found = {}
        for who in (SUPERVISOR, COORDINATOR):
            pid = ray.get(find_actor(NAME, who).pid.remote())
            raylet = psutil.Process(pid).ppid()
            mine = (
                name for name, node in self._raylets.items() if node.all_processes["raylet"][0].process.pid == raylet
            )
            found[who] = next(mine, HEAD)
        return found

    def end(self) -> None:
        """End Ray, and everything in it."""
        ray.shutdown()
        self.cluster.shutdown()


def until(what: str, met: Callable[[], Any]) -> float:
    """Wait until it is so; return the seconds that it took."""
    began = time.monotonic()
    while time.monotonic() - began < WAIT_S:
        with contextlib.suppress(raykv.RaykvError):
            if met():
                return round(time.monotonic() - began, 1)
        time.sleep(0.2)
    raise TimeoutError(f"not within {WAIT_S:g} s: {what}")


def nodes(store: raykv.Store) -> dict[str, tuple[str, str]]:
    """Return node id -> (host, state)."""
    return {node["node_id"]: (node["host"], node["state"]) for node in store.status(timeout=5)["nodes"]}


def all_up(store: raykv.Store) -> bool:
    """Whether every node is up and has all its data."""
    return store.status(timeout=5).healthy


class Load:
    """Two writers that can be stopped and asked whether something was lost."""

    def __init__(self, store: raykv.Store) -> None:
        self._writers = [Writer(store, number, 7 + number) for number in range(2)]
        for writer in self._writers:
            writer.start()

    def end(self, store: raykv.Store) -> dict[str, Any]:
        """Stop, and read everything back."""
        for writer in self._writers:
            writer.stop_it.set()
        for writer in self._writers:
            writer.join(60)
        return {
            "acknowledged": sum(writer.acknowledged for writer in self._writers),
            "failed_operations": sum(writer.failed for writer in self._writers),
            "operations": sum(writer.operations for writer in self._writers),
            "lost": verify(store, self._writers),
        }


def missing(store: raykv.Store) -> list[str]:
    """Return the partitions of which an owner has less than another: there are not N full copies."""
    ring = elastic.ring_of(store)
    held = {member.node_id: asyncio.run(elastic.held(member.node_id, PARTITIONS)) for member in ring.members}
    return [
        f"partition {at}: {[(node_id, held[node_id].get(at, 0)) for node_id in ring.owners(at)]}"
        for at in range(PARTITIONS)
        if len({held[node_id].get(at, 0) for node_id in ring.owners(at)}) > 1
    ]


def run(replace_after_s: float, *, short: bool) -> dict[str, Any]:
    """Return the figures. ``short``: of the second step only."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="raykv-hosts-") as path:
        hosts = Hosts()
        try:
            hosts.add("h1", "h2", "h3")
            store = start_on_the_head(hosts, path, replace_after_s)
            fixed = {f"fixed:{number}": number for number in range(KEYS)}
            store.put_many(fixed)
            first = nodes(store)
            assert {host for host, _ in first.values()} == {"h1", "h2", "h3"}, first
            load = Load(store)
            if not short:
                figures["blinked"] = blink(hosts, store, first)
            figures["replaced"] = lose(hosts, store)
            figures["load"] = load.end(store)
            figures["missing"] = missing(store)
            before = nodes(store)
            raykv.shutdown(NAME)
            if short:
                return figures
            hosts.end()
            hosts = Hosts()
            figures["minority"] = alone(hosts, path, before)
            hosts.add("h2", "h3")
            began = time.monotonic()
            store = raykv.start(NAME, path=path)
            figures["cold_start_s"] = round(time.monotonic() - began, 1)
            until("all nodes are up", lambda: all_up(store))
            figures["wrong"] = [key for key, number in fixed.items() if store.get(key) != number]
            figures["moved_house"] = {
                node_id: [before[node_id], now]
                for node_id, now in nodes(store).items()
                if now != before.get(node_id)
            }  # fmt: skip
            raykv.shutdown(NAME)
        finally:
            hosts.end()
    return figures


def start_on_the_head(hosts: Hosts, path: str, replace_after_s: float) -> raykv.Store:
    """Start the store; its services are on the head, where this process is, not on a host that will be lost."""
    store = raykv.start(NAME, path=path, partitions=PARTITIONS, replace_after=replace_after_s)
    placed = hosts.services()
    if {*placed.values()} != {HEAD}:
        raise RuntimeError(f"the store was started on {HEAD}, yet its services are elsewhere: {placed}")
    return store


def blink(hosts: Hosts, store: raykv.Store, first: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Let a host go and come back."""
    victim = next(node_id for node_id, (host, _) in first.items() if host == "h2")
    hosts.lose("h2")
    down_s = until("the node is down", lambda: nodes(store)[victim][1] == "down")
    hosts.add("h2")
    back_s = until("the node is back on its host", lambda: nodes(store) == first and all_up(store))
    return {"down_s": down_s, "back_s": back_s}


def lose(hosts: Hosts, store: raykv.Store) -> dict[str, Any]:
    """Let a host go for good."""
    hosts.lose("h1")
    down_s = until("a node is down", lambda: any(state == "down" for _, state in nodes(store).values()))

    def complete() -> bool:
        found = nodes(store)
        return "h1" not in {host for host, _ in found.values()} and all_up(store) and not store.status()["rebalancing"]

    return {"down_s": down_s, "replaced_s": until("the node is replaced", complete), "nodes": nodes(store)}


def alone(hosts: Hosts, path: str, before: dict[str, tuple[str, str]]) -> str:
    """Start the store with the head and an empty host only; return what it says.

    Here all hosts share a file system, so what lies on those that are away is moved out of sight.
    """
    hosts.add("h1")
    away = [node_id for node_id, (host, _) in before.items() if host != HEAD]
    for node_id in away:
        os.rename(node_directory(path, node_id), f"{path}/{node_id}.away")
    try:
        raykv.start(NAME, path=path)
    except raykv.StoreUnavailable as error:
        return str(error)
    finally:
        for node_id in away:
            os.rename(f"{path}/{node_id}.away", node_directory(path, node_id))
    return "it serves"


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(
        prog="scripts/hosts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--replace-after", metavar="S", type=float, default=20.0, help="seconds until a lost node is replaced (20)"
    )
    parser.add_argument("--short", action="store_true", help="only the second step")
    arguments = parser.parse_args()
    figures = run(arguments.replace_after, short=arguments.short)
    print(json.dumps(figures, indent=1))
    good = not figures["load"]["lost"] and not figures["missing"]
    if not arguments.short:
        good = good and not figures["wrong"] and not figures["moved_house"] and "minority" in figures["minority"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
