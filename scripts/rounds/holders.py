"""Holders of one lock, each in a process of its own, who write under its fencing token whatever they know of their lease.

Each writes down what it does, in a file of its own, at once: it may be killed at any moment. Then it is found out whether
two held one token, two held the lock at a time, or a write of a former holder stands after one of a later holder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import ray

import raykv
from rounds.changes import BUCKET, Client, as_words, from_words
from simulation.change_checker import check_changes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simulation.change_checker import ChangeOp

LOCK = "leader"
GUARDED = "lf1"
LEASE_S = 2.0
WAIT_S = 60.0
WRITES = 3
STEP_S = 0.01
LONG_STEP_S = 0.2
LONG_SHARE = 0.2
"""This share of the tenancies lasts longer: there is time to be killed in it."""
STEPS_A_CALL = 500


class Journal(Client):
    """A client whose calls are in a file before they are made."""

    def __init__(self, name: str, bucket: raykv.Bucket[Any, Any], seed: int, path: str) -> None:
        super().__init__(name, bucket, seed)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, what: str, **words: Any) -> None:
        """Write a line."""
        os.write(self._file, (json.dumps({"what": what, "holder": self.name, **words}) + "\n").encode())

    def wrote_down(self, number: int, call: ChangeOp) -> None:
        """See ``Client``."""
        self.write("call", number=number, call=as_words(call))


class Holding:
    """Acquires the lock, writes under its token, releases it; again and again."""

    def __init__(self, store: str, name: str, path: str, seed: int) -> None:
        self._store = raykv.connect(store)
        self._journal = Journal(name, self._store.bucket(BUCKET, versioning="linearizable"), seed, path)
        self._random = random.Random(seed)
        self._blocks = seed % 2 == 0
        """Whether it uses the lock's blocking face, which renews by a thread."""
        self.over = False

    async def work(self) -> None:
        """Go on until it is ``over``."""
        lock = self._store.lock(LOCK, lease=LEASE_S, timeout=WAIT_S)
        awaited = self._store.aio.lock(LOCK, lease=LEASE_S, timeout=WAIT_S)
        while not self.over:
            with contextlib.suppress(raykv.RaykvError):
                asked_s = time.monotonic()
                if self._blocks:
                    await asyncio.to_thread(lock.acquire)
                    try:
                        await self._hold(lock, asked_s)
                    finally:
                        held = await asyncio.to_thread(lock.release)
                else:
                    await awaited.acquire()
                    try:
                        await self._hold(awaited, asked_s)
                    finally:
                        held = await awaited.release()
                self._journal.write("released", held=held, at_s=time.monotonic())
            await asyncio.sleep(self._random.uniform(0.0, 0.05))

    async def _hold(self, held: Any, asked_s: float) -> None:
        """Write under the token, even if the lease is over: the fence has to save the data then."""
        journal, token = self._journal, held.token
        journal.write("acquired", token=token, asked_s=asked_s, at_s=time.monotonic(), pid=os.getpid())
        step_s = LONG_STEP_S if self._random.random() < LONG_SHARE else STEP_S
        for number in range(WRITES):
            at_s = time.monotonic()
            if not held.lost:
                journal.write("held", token=token, at_s=at_s)
            await asyncio.sleep(step_s)
            value = f"{token}.{number}@{journal.name}"
            put = journal.bucket.put(GUARDED, value, fence=token, timeout=10.0)
            await journal.note("put", GUARDED, put, given=value, fence=token)
        at_s = time.monotonic()
        if not held.lost:
            journal.write("held", token=token, at_s=at_s)


@ray.remote(num_cpus=0, max_restarts=0, max_concurrency=2)
class Holder:
    """The process of one."""

    def __init__(self, store: str, name: str, path: str, seed: int) -> None:
        self._holding = Holding(store, name, path, seed)

    def work(self) -> None:
        """Go on until ``stop``."""
        asyncio.run(self._holding.work())

    def stop(self) -> None:
        """Have ``work`` return after this tenancy."""
        self._holding.over = True


class Tenancy(NamedTuple):
    """One acquisition, as its holder wrote it down. Times of the host's monotonic clock, in seconds."""

    holder: str
    pid: int
    token: int
    asked_s: float
    acquired_s: float
    held_s: float
    """When it last saw that the lock was not lost."""
    over: bool
    """Whether it has released the lock, or tried to."""


class Told(NamedTuple):
    """What all journals say."""

    tenancies: list[Tenancy]
    calls: list[ChangeOp]


def read(directory: str) -> Told:
    """Read the journals. O(their length)."""
    tenancies: list[Tenancy] = []
    calls: list[ChangeOp] = []
    for name in sorted(os.listdir(directory)):
        own: list[Tenancy] = []
        by_number: dict[int, ChangeOp] = {}
        with open(os.path.join(directory, name)) as file:
            for line in file:
                if not line.endswith("\n"):
                    break  # it was killed as it wrote, or is writing
                words = json.loads(line)
                match words["what"]:
                    case "call":
                        by_number[words["number"]] = from_words(words["call"])
                    case "acquired":
                        at_s = words["at_s"]
                        own.append(
                            Tenancy(words["holder"], words["pid"], words["token"], words["asked_s"], at_s, at_s, False)
                        )
                    case "held":
                        own[-1] = own[-1]._replace(held_s=words["at_s"])
                    case "released" if own:
                        own[-1] = own[-1]._replace(over=True)
        tenancies += own
        calls += by_number.values()
    return Told(sorted(tenancies, key=lambda tenancy: tenancy.acquired_s), calls)


def present_holder(directory: str) -> Tenancy | None:
    """Return the one who has acquired the lock last, unless it has released it."""
    tenancies = read(directory).tenancies
    return tenancies[-1] if tenancies and not tenancies[-1].over else None


def violations(told: Told) -> list[str]:
    """Return what is wrong, in words."""
    found = [*_of_tokens(told.tenancies), *_of_times(told.tenancies), *_of_writes(told.calls)]
    ended = [call for call in told.calls if call.returned_s < math.inf]
    last_s = max((call.returned_s for call in ended), default=0.0)
    calls = [call if call.returned_s < math.inf else call._replace(returned_s=last_s + 1.0) for call in told.calls]
    return found + [f"{each.rule}: {each.text}" for each in check_changes(calls, max_steps=STEPS_A_CALL * len(calls))]


def _of_tokens(tenancies: list[Tenancy]) -> Iterable[str]:
    by_token: dict[int, Tenancy] = {}
    for tenancy in tenancies:
        other = by_token.setdefault(tenancy.token, tenancy)
        if other is not tenancy:
            yield f"token {tenancy.token} was held by {other.holder} and by {tenancy.holder}"


def _of_times(tenancies: list[Tenancy]) -> Iterable[str]:
    latest: Tenancy | None = None
    for tenancy in sorted(tenancies, key=lambda each: each.token):
        if latest is not None and tenancy.acquired_s < latest.held_s:
            yield (
                f"{tenancy.holder} acquired token {tenancy.token} at {tenancy.acquired_s:.3f}, and {latest.holder} still "
                f"held token {latest.token} at {latest.held_s:.3f}"
            )
        if latest is None or tenancy.held_s > latest.held_s:
            latest = tenancy


def _of_writes(calls: list[ChangeOp]) -> Iterable[str]:
    """Report a write that stands after one under a later token: versions of one key grow."""
    written = sorted((call.version or b"", call.fence) for call in calls if call.outcome == "ok" and call.fence)
    highest = 0
    for version, token in written:
        if token < highest:
            yield f"a write under token {token} stands after one under {highest}, as version {version.hex()}"
        highest = max(highest, token)
