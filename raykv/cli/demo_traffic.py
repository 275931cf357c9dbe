"""The demo's steady traffic, the kill in the middle of it, and the wait for the node.

Each worker has a timetable, and sleeps until its next operation is due, so that latency is measured at a rate that the
machine can sustain. A latency counts from the operation's due time and includes waiting behind a slow one. Each worker
writes keys of its own, so that a key's writes are sequential (``demo_history``); all workers read all keys.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from raykv.cli import demo_cities
from raykv.cli.demo_report import Sample
from raykv.errors import RaykvError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from raykv.cli.demo_cities import City
    from raykv.cli.demo_history import History
    from raykv.client.aio import AsyncStore

WORKERS = 8
RATE_PER_S = 100.0
READ_SHARE = 0.8
POLL_S = 0.1
POLL_TIMEOUT_S = 2.0
BACK_WITHIN_S = 60.0


class Outage(NamedTuple):
    """The times of the kill and of the node's return (None: it did not return), on the mix's clock."""

    killed_s: float
    back_s: float | None


class Traffic:
    """The mix of operations, and its results."""

    def __init__(self, store: AsyncStore, cities: Mapping[str, City], history: History) -> None:
        self._store = store
        self._cities = cities
        self._keys = list(cities)
        self._history = history
        self._random = random.Random(1)  # noqa: S311 - traffic, not secrets
        self._stopping = False
        self.samples: list[Sample] = []
        self.failures: Counter[str] = Counter()
        self.stale = 0

    async def run(
        self, seconds: float, kill: Callable[[], None], node_id: str, incarnation: int, say: Callable[[str], None]
    ) -> Outage:
        """Run the mix for ``seconds``; kill the node; go on for ``seconds`` more, and until it has been back for a while."""
        workers = [asyncio.create_task(self._work(index)) for index in range(WORKERS)]
        try:
            await asyncio.sleep(seconds)
            killed_s = time.monotonic()
            kill()
            back_s = await self._until_back(node_id, incarnation, killed_s + BACK_WITHIN_S)
            if back_s is not None:
                say(f"node {node_id} is back after {back_s - killed_s:.1f} s; the mix goes on")
            until_s = max(killed_s + seconds, time.monotonic() + seconds / 2)
            await asyncio.sleep(until_s - time.monotonic())
            self._stopping = True
            await asyncio.gather(*workers)
            return Outage(killed_s, back_s)
        finally:
            for worker in workers:
                worker.cancel()

    async def _until_back(self, node_id: str, incarnation: int, deadline_s: float) -> float | None:
        """Wait until the node is up in a later incarnation; return the time."""
        while time.monotonic() < deadline_s:
            await asyncio.sleep(POLL_S)
            try:
                nodes = (await self._store.status(timeout=POLL_TIMEOUT_S))["nodes"]
            except RaykvError:
                continue  # the supervisor is busy with the node
            node = next((node for node in nodes if node["node_id"] == node_id), None)
            if node is not None and node["state"] == "up" and node["incarnation"] > incarnation:
                return time.monotonic()
        return None

    async def _work(self, index: int) -> None:
        interval_s = WORKERS / RATE_PER_S
        own = self._keys[index::WORKERS]
        due_s = time.monotonic() + interval_s * index / WORKERS
        while not self._stopping:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            try:
                if own and self._random.random() >= READ_SHARE:
                    await self._write(self._random.choice(own))
                else:
                    await self._read(self._random.choice(self._keys))
            except RaykvError as error:
                self.failures[f"{type(error).__name__}: {error.message}"] += 1
            ended_s = time.monotonic()
            self.samples.append(Sample(due_s, ended_s))
            due_s = max(due_s + interval_s, ended_s)

    async def _read(self, key: str) -> None:
        expectation = self._history.expect(key)
        revision = demo_cities.revision_of(self._cities[key], await self._store.get(key))
        if not self._history.allows(key, revision, expectation):
            self.stale += 1

    async def _write(self, key: str) -> None:
        revision = self._history.begin(key)
        try:
            await self._store.put(key, demo_cities.record(self._cities[key], revision))
        except BaseException:  # also when cancelled: its outcome is unknown
            self._history.unknown(key)
            raise
        self._history.acknowledged(key)
