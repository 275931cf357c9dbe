"""Clients at work on real Ray while storage processes are killed and frozen; then what they saw is checked.

Eight clients read, write and delete a few keys of a bucket with vectors, with contexts and without. One storage process
is killed, and again as often as it comes back, for a while; it may come back for good; then another one. Beside that
processes are frozen for moments. The checker is the simulation's (scripts/simulation/vector_checker.py), on clients'
results alone. Ends with 1 if it reports anything; with --weak (W=1, R=1, held to what quorums promise) it must report.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import ray

import raykv
from raykv.versions.causality import union, unpack_causality
from raykv.versions.context import causality_in
from simulation.history import History, VectorWrite
from simulation.vector_checker import VectorChecker
from simulation.workload import seen_in

if TYPE_CHECKING:
    from raykv.client.aio import AsyncBucket
    from raykv.records.vector_record import Seen

SHOWN_EVERY_S = 10.0


class Client:
    """Does operations one after another, and records the results."""

    def __init__(
        self, number: int, bucket: AsyncBucket[Any, Any], keys: list[str], history: History, seed: int
    ) -> None:
        self.name = f"client{number}"
        self.bucket = bucket
        self.keys = keys
        self.history = history
        self.random = random.Random(seed)
        self.contexts: dict[str, raykv.Context] = {}
        self.values = 0
        self.times: list[float] = []

    async def run(self, operations: int, levels: tuple[int, int]) -> None:
        """Do this many operations."""
        self.r, self.w = levels
        for _ in range(operations):
            key = self.random.choice(self.keys)
            began_s = time.monotonic()
            chance = self.random.random()
            if chance < 0.5:
                await self._read(key)
            else:
                await self._write(key, delete=chance > 0.95, blind=chance < 0.6)
            self.times.append(time.monotonic() - began_s)

    async def _read(self, key: str) -> None:
        began_s = time.monotonic()
        try:
            versions = await self.bucket.get_versions(key, r=self.r, timeout=5)
        except raykv.RaykvError as error:
            self._note("get", key, began_s, "refused", error=str(error), level=self.r)
            return
        self.contexts[key] = versions.context
        self._note(
            "get", key, began_s, "ok", value=versions.values[0] if versions.values else None,
            values=tuple(versions.values), seen=seen_in(versions.context), level=self.r,
        )  # fmt: skip

    async def _write(self, key: str, *, delete: bool, blind: bool) -> None:
        context = None if blind else self.contexts.get(key)
        self.values += 1
        value = None if delete else f"{self.name}.{self.values}@{key}"
        began_s = time.monotonic()
        given = None if context is None else seen_in(context)
        kind = "delete" if delete else "put"
        outcome, operation_id, error_said = "ok", "", ""
        try:
            if delete:
                result = await self.bucket.delete(key, context=context, w=self.w, timeout=5)
            else:
                result = await self.bucket.put(key, value, context=context, w=self.w, timeout=5)
        except raykv.RaykvError as error:
            outcome = "unknown" if isinstance(error, raykv.WriteOutcomeUnknown) else "refused"
            operation_id, error_said = str(error.details.get("operation_id", "")), str(error)
        else:
            operation_id = result.operation_id
            self.contexts[key] = result.context
            causality = unpack_causality(causality_in(result.context))
            own = (b"", 0)  # which of its dots is its own, ``dots_found`` says when all is known
            self.history.stamps.writes[operation_id] = VectorWrite(began_s, own, causality.seen, causality.time, delete)
        operation_id = operation_id or f"{self.name}.{self.values}"
        if value is not None:
            self.history.stamps.operation_of_value[value] = operation_id
        self._note(
            kind, key, began_s, outcome, value=value, operation_id=operation_id, seen=given, blind=context is None,
            error=error_said, level=self.w,
        )  # fmt: skip

    def _note(self, kind: str, key: str, began_s: float, outcome: str, **more: Any) -> None:
        self.history.add(self.name, kind, key, began_s, time.monotonic(), outcome, **more)


class Trouble(threading.Thread):
    """Kills and freezes storage processes, one node at a time."""

    def __init__(self, store: raykv.Store, seed: int) -> None:
        super().__init__(daemon=True)
        self.store = store
        self.random = random.Random(seed)
        self.share = 0.0
        """How far the clients are, from 0 to 1."""
        self.ended = threading.Event()
        self.kills = self.freezes = 0

    def run(self) -> None:
        """Go on until ``ended``: from a tenth to 4 tenths of the work one node is dead, from 6 to 9 tenths another."""
        nodes = [node["node_id"] for node in self.store.status()["nodes"]]
        first, second = self.random.sample(nodes, 2)
        while not self.ended.wait(0.3):
            victim = first if 0.1 < self.share < 0.4 else second if 0.6 < self.share < 0.9 else None
            pid = self._pid(victim or self.random.choice(nodes))
            if pid is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                if victim is not None:
                    os.kill(pid, signal.SIGKILL)
                    self.kills += 1
                elif self.random.random() < 0.3:
                    os.kill(pid, signal.SIGSTOP)
                    time.sleep(self.random.uniform(0.05, 0.4))
                    os.kill(pid, signal.SIGCONT)
                    self.freezes += 1

    def _pid(self, node_id: str) -> int | None:
        with contextlib.suppress(raykv.RaykvError):
            for node in self.store.status(timeout=2)["nodes"]:
                if node["node_id"] == node_id and node["state"] == "up":
                    return int(node["pid"])
        return None


def dots_found(history: History) -> None:
    """Find the own dot of each acknowledged write: with a context the one that the context did not have.

    Without a context it is one that no other write of the key owns; where that is not clear, the write is left out of the
    comparison of dots (its context still counts).
    """
    writes = history.stamps.writes
    for key_ops in history.by_key().values():
        acked = [op for op in key_ops if op.operation_id in writes]
        taken: set[tuple[bytes, int]] = set()
        for op in acked:
            if op.seen is not None:
                (own,) = _dots(writes[op.operation_id].seen, op.seen)
                writes[op.operation_id] = writes[op.operation_id]._replace(dot=own)
                taken.add(own)
        by_end = sorted(acked, key=lambda op: op.returned_s)
        earlier: Seen = ()
        at = 0
        for op in acked:  # in the order in which they were asked
            while at < len(by_end) and by_end[at].returned_s < op.invoked_s:
                earlier = union(earlier, writes[by_end[at].operation_id].seen)
                at += 1
            if op.seen is None:
                sent = writes[op.operation_id]
                new = [dot for dot in _dots(sent.seen, earlier) if dot not in taken]
                if len(new) == 1:
                    writes[op.operation_id] = sent._replace(dot=new[0])
                    taken.add(new[0])
        for op in acked:
            if writes[op.operation_id].dot == (b"", 0):
                del writes[op.operation_id]


def _dots(seen: Seen, without: Seen) -> list[tuple[bytes, int]]:
    """Return the dots of ``seen`` that ``without`` does not have. O(spans + dots returned)."""
    others: dict[bytes, list[tuple[int, int]]] = {}
    for actor, low, high in without:
        others.setdefault(actor, []).append((low, high))
    found: list[tuple[bytes, int]] = []
    for actor, low, high in seen:
        at = low
        for other_low, other_high in others.get(actor, ()):
            if other_low > high:
                break
            found += [(actor, counter) for counter in range(at, min(other_low, high + 1))]
            at = max(at, other_high + 1)
        found += [(actor, counter) for counter in range(at, high + 1)]
    return found


async def work(clients: list[Client], operations: int, levels: tuple[int, int], trouble: Trouble) -> None:
    """Let all clients work."""
    share = operations // len(clients)
    running = asyncio.gather(*(client.run(share, levels) for client in clients))
    shown_s = time.monotonic()
    while not running.done():
        await asyncio.sleep(0.2)
        done = sum(len(client.times) for client in clients)
        trouble.share = done / operations
        if time.monotonic() - shown_s > SHOWN_EVERY_S:
            shown_s = time.monotonic()
            print(f"{done:,} of {operations:,} operations, {trouble.kills} kills", file=sys.stderr, flush=True)
    await running


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run and check; return the figures."""
    levels = (1, 1) if arguments.weak else (2, 2)
    history = History()
    with tempfile.TemporaryDirectory(prefix="raykv-consistency-") as path:
        store = raykv.start("consistency", nodes=3, path=path)
        bucket = store.bucket("carts")
        keys = [f"k{number}" for number in range(arguments.keys)]
        clients = [
            Client(number, bucket.aio, keys, history, arguments.seed * 100 + number)
            for number in range(1, arguments.clients + 1)
        ]
        trouble = Trouble(store, arguments.seed)
        trouble.start()
        began_s = time.monotonic()
        asyncio.run(work(clients, arguments.operations, levels, trouble))
        taken_s = time.monotonic() - began_s
        trouble.ended.set()
        trouble.join(10)
        raykv.shutdown("consistency")
    print(f"{len(history.ops):,} operations; now they are checked", file=sys.stderr, flush=True)
    dots_found(history)
    found = []
    for key, ops in history.by_key().items():
        checker = VectorChecker(key, ops, history.stamps, 3, 0.0, strict=not arguments.weak, all_heard=False)
        found += checker.check()
    times = sorted(taken for client in clients for taken in client.times)
    siblings = Counter(len(op.values) for op in history.ops if op.values is not None)
    return {
        "operations": len(history.ops),
        "outcomes": dict(Counter(f"{op.kind} {op.outcome}" for op in history.ops)),
        "levels": {"r": levels[0], "w": levels[1]},
        "kills": trouble.kills,
        "freezes": trouble.freezes,
        "seconds": round(taken_s, 1),
        "ms": {"median": round(times[len(times) // 2] * 1000, 1), "max": round(times[-1] * 1000, 1)},
        "values_shown_by_a_read": dict(sorted(siblings.items())),
        "reported": len(found),
        "what": [f"{violation.rule}: {violation.text}"[:300] for violation in found[:10]],
    }


def main() -> int:
    """Return 1 if the checker reports, or with --weak if it does not."""
    parser = argparse.ArgumentParser(prog="scripts/consistency", description=__doc__)
    parser.add_argument("--operations", type=int, default=100_000, help="how many in all (default 100000)")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--weak", action="store_true", help="W=1, R=1: then the checker must report")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    ray.init(
        address="local", num_cpus=2, object_store_memory=150 * 1024 * 1024, include_dashboard=False,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    figures = run(arguments)
    print(json.dumps(figures, indent=1))
    return int(bool(figures["reported"]) != arguments.weak)


if __name__ == "__main__":
    sys.exit(main())
