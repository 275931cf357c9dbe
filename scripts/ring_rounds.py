"""Rounds of: begin to change the ring under load, SIGKILL every process of the store, start it again, verify.

In each round a node joins, leaves or is to carry more, while writers go on; at a random moment of it all storage
processes, the coordinator and the supervisor are killed at once. In every other round the store is then shut down and
started again from its directories (a cold start), in the others Ray brings it back. When all nodes are up, and the ring is
as it was to be, every key must hold what was acknowledged last, or what has become unknown since.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from typing import Any

import ray

import raykv
from kill_rounds import Writer, nodes_up, successor_of, verify
from raykv.actors.naming import COORDINATOR, SUPERVISOR, find_actor

NAME = "ring-rounds"
LEAST, MOST = 3, 5
SETTLED_TIMEOUT_S = 240.0


def pids(store: raykv.Store) -> list[int]:
    """Return the processes of the store, as far as they can be asked."""
    found = [node["pid"] for node in nodes_up(store) or []]
    for peer in (SUPERVISOR, COORDINATOR):
        with contextlib.suppress(Exception):
            found.append(int(ray.get(find_actor(NAME, peer).pid.remote(), timeout=5)))
    return found


def change(store: raykv.Store, chance: random.Random) -> str:
    """Begin to change the ring; return what was asked for, or why it was refused."""
    members = [node["node_id"] for node in store.status(timeout=60)["nodes"]]
    may = ["add"] * (len(members) < MOST) + ["remove"] * (len(members) > LEAST) + ["weight"]
    what, node_id = chance.choice(may), chance.choice(members)
    try:
        if what == "add":
            return f"add {store.add_node(weight=chance.choice((0.5, 1.0)), wait=False)}"
        if what == "remove":
            store.remove_node(node_id, wait=False)
        else:
            store.set_weight(node_id, chance.choice((0.3, 1.0, 3.0)), wait=False)
    except raykv.RaykvError as error:
        return f"{what}: {error}"
    return f"{what} {node_id}"


def settle(store: raykv.Store) -> tuple[float, str]:
    """Wait until all nodes are up and nothing has to move; return the seconds that it took, and what it waited for."""
    began, waited_for = time.monotonic(), ""
    while time.monotonic() - began < SETTLED_TIMEOUT_S:
        with contextlib.suppress(raykv.RaykvError):
            status = store.status(timeout=5)
            if all(node["state"] == "up" for node in status["nodes"]) and status["rebalancing"] is None:
                return time.monotonic() - began, waited_for
            if status["rebalancing"] is not None:
                waited_for = status["rebalancing"]["waits_for"] or waited_for
        time.sleep(0.2)
    sys.exit(f"not settled within {SETTLED_TIMEOUT_S:g} s: {store.status(timeout=10)}")


def run(rounds: int, seed: int, partitions: int) -> dict[str, Any]:
    """Run the rounds; return the figures."""
    chance = random.Random(seed)
    settled_s: list[float] = []
    lost: list[str] = []
    acknowledged = unknown = 0
    with tempfile.TemporaryDirectory(prefix="raykv-ring-") as path:
        store = raykv.start(NAME, path=path, partitions=partitions)
        state = [Writer(store, number, seed * 1000 + number) for number in range(2)]
        for turn in range(1, rounds + 1):
            for writer in state:
                writer.start()
            said = change(store, chance)
            time.sleep(chance.uniform(0.0, 6.0))
            killed = pids(store)
            for pid in killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for writer in state:
                writer.stop_it.set()
            for writer in state:
                writer.join(60)
            if turn % 2:
                with contextlib.suppress(raykv.RaykvError):
                    raykv.shutdown(NAME)
                store = raykv.start(NAME, path=path, partitions=partitions)
                for writer in state:
                    writer.store = store
            taken_s, waited_for = settle(store)
            settled_s.append(taken_s)
            why = f" ({waited_for[:150]})" if taken_s > 20 and waited_for else ""
            lost += verify(store, state)
            acknowledged += sum(writer.acknowledged for writer in state)
            unknown += sum(writer.unknown for writer in state)
            state = [successor_of(writer) for writer in state]
            print(
                f"round {turn} of {rounds}: {said}; {len(killed)} killed; well after {taken_s:.1f} s{why}; "
                f"{acknowledged} acknowledged, {unknown} unknown, {len(lost)} lost",
                flush=True,
            )
        raykv.shutdown(NAME)
    settled_s.sort()
    return {
        "rounds": rounds, "acknowledged": acknowledged, "unknown": unknown, "lost": len(lost), "what": lost[:20],
        "settled_s_median": round(settled_s[len(settled_s) // 2], 2), "settled_s_max": round(settled_s[-1], 2),
    }  # fmt: skip


def main() -> int:
    """Return 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        prog="scripts/ring_rounds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50, help="how many (default 50, about 20 minutes)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--partitions", type=int, default=16, help="of the store (default 16)")
    arguments = parser.parse_args()
    ray.init(
        address="local", num_cpus=2, object_store_memory=150 * 1024 * 1024, include_dashboard=False,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    figures = run(arguments.rounds, arguments.seed, arguments.partitions)
    print(json.dumps(figures, indent=1))
    return 1 if figures["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
