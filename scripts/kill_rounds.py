"""Rounds of: write, SIGKILL a random storage process at a random moment, verify every acknowledged write.

Each of a few writers owns its keys and writes unique values, so after a round a key may hold only the value whose write
was acknowledged last, or one whose outcome was unknown since. One round in four kills two processes at once: then
writes may fail, and still none that was acknowledged may be lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import ray

import raykv

if TYPE_CHECKING:
    from collections.abc import Iterable

W = TypeVar("W", bound="Writer")

GONE = "(deleted)"
KEYS_PER_WRITER = 200
BACK_TIMEOUT_S = 60.0


class Writer(threading.Thread):
    """Writes to its own keys until asked to stop, and keeps what each of them may hold."""

    timeout_s = 2.0

    def __init__(self, store: raykv.Store, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.number = number
        self.random = random.Random(seed)
        self.may_hold: dict[str, set[Any]] = {}
        self.acknowledged = self.unknown = 0  # writes, by key
        self.operations = self.failed = 0  # calls, of which a batch is one
        self.stop_it = threading.Event()
        self.counter = 0

    def run(self) -> None:
        """Write."""
        while not self.stop_it.is_set():
            self.step()

    def step(self) -> None:
        """Do one operation."""
        choice = self.random.random()
        keys = [self.key() for _ in range(20 if choice < 0.2 else 1)]
        self.write(list(dict.fromkeys(keys)), GONE if choice > 0.9 else self.value())

    def key(self) -> str:
        """Choose a key."""
        return f"w{self.number}:{self.random.randrange(KEYS_PER_WRITER)}"

    def value(self) -> str:
        """Make a value that was not there yet."""
        self.counter += 1
        return f"{self.number}.{self.counter}." + "x" * self.random.randrange(2000)

    def write(self, keys: list[str], value: str) -> None:
        """Write the value under these keys, or delete them."""
        for key in keys:  # before it is sent, for it may be seen from then on
            self.may_hold.setdefault(key, {GONE}).add(value)
        errors: dict[str, raykv.RaykvError] = {}
        try:
            if value is GONE:
                self.store.delete_many(keys, timeout=self.timeout_s)
            elif len(keys) > 1:
                self.store.put_many(dict.fromkeys(keys, value), timeout=self.timeout_s)
            else:
                self.store.put(keys[0], value, timeout=self.timeout_s)
        except raykv.BatchError as error:
            errors = error.errors
        except raykv.RaykvError as error:
            errors = dict.fromkeys(keys, error)
        self.operations += 1
        self.failed += bool(errors)
        for key in keys:
            if key not in errors:
                self.acknowledged += 1
                self.may_hold[key] = {value}
            else:
                self.unknown += 1


def verify(store: raykv.Store, writers: Iterable[Writer]) -> list[str]:
    """Return what was lost, in words."""
    lost = []
    for writer in writers:
        found = store.get_many(list(writer.may_hold), default=GONE, timeout=20)
        for key, allowed in writer.may_hold.items():
            if found[key] not in allowed:
                lost.append(f"{key} holds {found[key]!r:.40}, may hold {sorted(value[:20] for value in allowed)}")
            writer.may_hold[key] = {found[key]} if len(allowed) == 1 else allowed
    return lost


def nodes_up(store: raykv.Store) -> list[raykv.NodeStatus] | None:
    """Return the nodes if all are up."""
    try:
        nodes = store.status(timeout=2)["nodes"]
    except raykv.RaykvError:
        return None
    return nodes if all(node["state"] == "up" for node in nodes) else None


def wait_for_nodes(store: raykv.Store) -> tuple[list[raykv.NodeStatus], float]:
    """Wait until all nodes are up; return them and the seconds that it took."""
    started = time.monotonic()
    while (nodes := nodes_up(store)) is None:
        if time.monotonic() - started > BACK_TIMEOUT_S:
            sys.exit("a node did not come back within a minute")
        time.sleep(0.05)
    return nodes, time.monotonic() - started


def run(rounds: int, seed: int, writers_count: int) -> dict[str, Any]:
    """Run the rounds; return the figures."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="raykv-kill-") as path:
        store = raykv.start(
            "kill-rounds", path=path, config=raykv.NodeConfig(memtable_bytes=512 * 1024, table_bytes=512 * 1024)
        )
        lost: list[str] = []
        back_s: list[float] = []
        acknowledged = unknown = 0
        state: list[Writer] = [Writer(store, number, seed * 1000 + number) for number in range(writers_count)]
        for turn in range(1, rounds + 1):
            nodes, _ = wait_for_nodes(store)
            for writer in state:
                writer.start()
            time.sleep(chance.uniform(0.05, 0.6))
            for victim in chance.sample(nodes, 2 if chance.random() < 0.25 else 1):
                os.kill(victim["pid"], signal.SIGKILL)
            killed = time.monotonic()
            time.sleep(chance.uniform(0.0, 0.6))
            for writer in state:
                writer.stop_it.set()
            for writer in state:
                writer.join(30)
            known = {node["node_id"]: node["incarnation"] for node in nodes}
            while not any(n["incarnation"] > known[n["node_id"]] for n in wait_for_nodes(store)[0]):
                time.sleep(0.02)
            back_s.append(time.monotonic() - killed)
            lost += verify(store, state)
            acknowledged += sum(writer.acknowledged for writer in state)
            unknown += sum(writer.unknown for writer in state)
            state = [successor_of(writer) for writer in state]
            if turn % 10 == 0 or turn == rounds or lost:
                print(
                    f"round {turn} of {rounds}: {acknowledged} acknowledged, {unknown} unknown, {len(lost)} lost",
                    flush=True,
                )
        raykv.shutdown("kill-rounds")
    back_s.sort()
    return {
        "rounds": rounds, "acknowledged": acknowledged, "unknown": unknown, "lost": len(lost), "what": lost[:20],
        "back_s_median": round(back_s[len(back_s) // 2], 2), "back_s_max": round(back_s[-1], 2),
    }  # fmt: skip


def successor_of(writer: W) -> W:
    """Return a writer that goes on where this one stopped: a thread runs once."""
    successor = type(writer)(writer.store, writer.number, writer.random.randrange(2**32))
    successor.may_hold, successor.counter = writer.may_hold, writer.counter
    return successor


def main() -> int:
    """Return 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="scripts/kill_rounds", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="how many (default 200, about 10 minutes)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--writers", type=int, default=3)
    arguments = parser.parse_args()
    ray.init(
        address="local", num_cpus=2, object_store_memory=150 * 1024 * 1024, include_dashboard=False,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    figures = run(arguments.rounds, arguments.seed, arguments.writers)
    print(json.dumps(figures, indent=1))
    return 1 if figures["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
