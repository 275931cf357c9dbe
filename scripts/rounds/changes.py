"""Clients of a linearizable bucket in processes of their own, who write down what they were told.

A key's name says what it holds: ``lr`` a text, ``ln`` a number that is only added to, ``lm`` a number with which anything is
done. Times are of the host's monotonic clock, which all processes of a host share.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import json
import math
import random
import time
from typing import TYPE_CHECKING, Any

import ray

import raykv
from simulation.change_checker import ChangeOp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from simulation.change_checker import ChangeKind, ChangeOutcome

BUCKET = "changed"
KEYS = ("ln1", "ln2", "lm1", "lm2", "lr1", "lr2", "lr3", "lr4")
TIMEOUT_S = 20.0
_WEIGHTS = {
    "ln": {"add": 8, "get": 2},
    "lm": {"add": 4, "get": 2, "get_versioned": 1, "max": 1, "min": 1, "swap": 1, "put_if": 2, "update": 2, "delete": 1},
    "lr": {
        "get": 3, "get_versioned": 2, "put": 2, "put_absent": 2, "put_if": 3, "delete": 1, "delete_if": 1, "swap": 1,
        "update": 2,
    },
}  # fmt: skip


class Client:
    """Makes one call after another."""

    def __init__(self, name: str, bucket: raykv.Bucket[Any, Any], seed: int) -> None:
        self.name = name
        self.bucket = bucket.aio
        self.random = random.Random(seed)
        self.ops: list[ChangeOp] = []
        self.versions: dict[str, raykv.Version] = {}
        self.values = self.number = 0

    async def run(self, calls: int) -> None:
        """Make so many."""
        for _ in range(calls):
            key = self.random.choice(KEYS)
            weights = _WEIGHTS[key[:2]]
            (kind,) = self.random.choices([*weights], [*weights.values()])
            await self.step(kind, key)

    async def step(self, kind: str, key: str) -> None:
        """Make a call."""
        bucket, version = self.bucket, self.versions.get(key)
        match kind:
            case "get":
                await self.note("get", key, bucket.get(key, timeout=TIMEOUT_S))
            case "add" | "max" | "min":
                given: Any = self.random.randint(1, 9) if kind == "add" else self.random.randint(-50, 50)
                changed = getattr(bucket, kind)(key, given, timeout=TIMEOUT_S)
                await self.note(kind, key, changed, given=given)
            case "swap":
                given = self.value(key)
                await self.note("swap", key, bucket.swap(key, given, timeout=TIMEOUT_S), given=given)
            case "update":
                await self.update(key)
            case "delete":
                await self.note("delete", key, bucket.delete(key, timeout=TIMEOUT_S))
            case "delete_if" if version is not None:
                deleted = bucket.delete(key, if_version=version, timeout=TIMEOUT_S)
                await self.note("delete", key, deleted, condition=bytes(version))
            case "put" | "put_absent":
                given, absent = self.value(key), kind == "put_absent"
                put = bucket.put(key, given, if_absent=absent, timeout=TIMEOUT_S)
                await self.note("put", key, put, given=given, condition=b"" if absent else None)
            case "put_if" if version is not None:
                given = self.value(key)
                put = bucket.put(key, given, if_version=version, timeout=TIMEOUT_S)
                await self.note("put", key, put, given=given, condition=bytes(version))
            case _:  # a condition needs a version
                await self.note("get", key, bucket.get_versioned(key, timeout=TIMEOUT_S))

    async def update(self, key: str) -> None:
        """Update a key; write down what the function was given last, and what it returned."""
        calls: list[tuple[Any, Any]] = []

        def change(present: Any) -> Any:
            value = (present or 0) + 1 if key.startswith("lm") else self.value(key)
            calls.append((present, value))
            return value

        await self.note("update", key, self.bucket.update(key, change, timeout=TIMEOUT_S), calls=calls)

    def value(self, key: str) -> Any:
        """Return a number, or a text that nobody else writes."""
        if key.startswith("lm"):
            return self.random.randint(-50, 50)
        self.values += 1
        return f"{self.name}.{self.values}@{key}"

    async def note(
        self,
        kind: ChangeKind,
        key: str,
        work: Awaitable[Any],
        *,
        given: Any = None,
        condition: bytes | None = None,
        fence: int = 0,
        calls: list[tuple[Any, Any]] | None = None,
    ) -> Any:
        """Wait for a call, and write down what became of it."""
        call = ChangeOp(
            self.name, kind, key, time.monotonic(), math.inf, "unknown", given=given, condition=condition, fence=fence,
            error="its client has ended",
        )  # fmt: skip
        number = self.number = self.number + 1
        self.wrote_down(number, call)
        got: Any = None
        version: raykv.Version | None = None
        told: ChangeOutcome = "ok"
        outcome: Any = None
        error = ""
        try:
            outcome = await work
        except raykv.Conflict as conflict:
            fenced = "fencing token" in str(conflict)
            # An update that gives up was shown its last conflict some time before.
            told = "fenced" if fenced else "refused" if kind == "update" else "conflict"
            got, version = conflict.value, conflict.version
        except raykv.RaykvError as failure:
            told = "unknown" if isinstance(failure, raykv.WriteOutcomeUnknown) else "refused"
            error = f"{type(failure).__name__}: {failure}"
        else:
            if isinstance(outcome, raykv.Versioned):
                got, version = outcome
            elif isinstance(outcome, raykv.WriteResult):
                version = outcome.version
            elif kind != "update":
                got = outcome
        if calls is not None:
            seen, given = calls[-1] if calls else (None, None)
            told = "refused" if told == "unknown" and not calls else told
            call = call._replace(seen=seen, given=given)
        if version is not None:
            self.versions[key] = version
        named = None if version is None else bytes(version)
        call = call._replace(returned_s=time.monotonic(), outcome=told, got=got, version=named, error=error)
        self.ops.append(call)
        self.wrote_down(number, call)
        return outcome

    def wrote_down(self, number: int, call: ChangeOp) -> None:
        """Take a call when it is made, its outcome unknown, and when it returns."""


@ray.remote(num_cpus=0, max_restarts=0, max_concurrency=2)
class Clients:
    """Some clients in a process of their own."""

    def __init__(self, store: str, routing: Any, names: list[str], seed: int) -> None:
        bucket = raykv.connect(store, routing=routing).bucket(BUCKET, versioning="linearizable")
        self.clients = [Client(name, bucket, seed + number) for number, name in enumerate(names)]

    def work(self, calls: int) -> None:
        """Have each client make so many calls."""

        async def all_of_them() -> None:
            await asyncio.gather(*(client.run(calls) for client in self.clients))

        asyncio.run(all_of_them())

    def take(self) -> list[ChangeOp]:
        """Return the calls made since the last time."""
        taken = []
        for client in self.clients:
            count = len(client.ops)
            taken += client.ops[:count]
            del client.ops[:count]
        return taken


def as_lines(ops: Iterable[ChangeOp]) -> Iterable[str]:
    """Yield each call as a line of JSON; versions in hexadecimal."""
    for op in ops:
        yield json.dumps(as_words(op)) + "\n"


def as_words(op: ChangeOp) -> dict[str, Any]:
    """Return a call as plain data."""
    return {name: word.hex() if isinstance(word, bytes) else word for name, word in op._asdict().items()}


def from_words(words: dict[str, Any]) -> ChangeOp:
    """Return a call from what ``as_words`` returned."""
    named = {name: bytes.fromhex(words[name]) for name in ("condition", "version") if words[name] is not None}
    return ChangeOp(**words | named)


class Answers:
    """When changes of one key were answered: a gap in service is a time in which one was awaited, and none was."""

    def __init__(self, ops: Iterable[ChangeOp]) -> None:
        """Sort the calls of the key. O(n log n)."""
        made = sorted(
            (op.returned_s, op.invoked_s) for op in ops if op.kind != "get" and op.outcome in {"ok", "conflict"}
        )
        self._answered_s = [returned_s for returned_s, _ in made]
        self._awaited_s = [*itertools.accumulate((invoked_s for _, invoked_s in reversed(made)), min)][::-1]
        """Since when one was awaited that was not answered before this one."""

    def longest_gap_s(self, from_s: float, until_s: float) -> float:
        """Return the longest gap that touches this time. O(answers in it)."""
        longest, times = 0.0, self._answered_s
        for at in range(bisect.bisect_left(times, from_s), len(times)):
            since_s = max(self._awaited_s[at], times[at - 1] if at else 0.0)
            if since_s >= until_s:
                break
            longest = max(longest, times[at] - since_s)
        return longest


def answers(ops: Iterable[ChangeOp]) -> dict[str, Answers]:
    """Return the answers of each key."""
    by_key: dict[str, list[ChangeOp]] = {}
    for op in ops:
        by_key.setdefault(op.key, []).append(op)
    return {key: Answers(own) for key, own in by_key.items()}
