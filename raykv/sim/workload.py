"""What clients do: seeded programs of operations, run through the real client code, every answer written down.

A program is a plain list of steps, drawn before the run, so that a failing run can be run again with some left out.
Values are unique: they name the client and the step. Padding makes some of them large, so that memtables fill up and
compactions run.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from raykv.errors import BatchError, RaykvError, WriteOutcomeUnknown
from raykv.sim.history import BucketSeen, ScanSeen

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from raykv.client.aio import AsyncStore
    from raykv.client.operations import WriteResult
    from raykv.sim.history import History
    from raykv.sim.kernel import VirtualLoop

StepKind = Literal["put", "get", "delete", "contains", "put_many", "get_many", "delete_many", "scan", "open"]
WEIGHTS: dict[StepKind, float] = {
    "put": 34, "get": 34, "delete": 6, "contains": 3, "put_many": 6, "get_many": 6, "delete_many": 2, "scan": 7, "open": 3,
}  # fmt: skip
TTL_PREFIX = "ttl-"
_PAUSES = 0.2
"""This share of the steps comes after a longer pause."""
_BURST_S = 0.004


class Step(msgspec.Struct, frozen=True):
    """One operation of a program: after ``pause_s``, on these keys."""

    pause_s: float
    kind: StepKind
    keys: tuple[str, ...]
    padding: int = 0
    ttl_s: float | None = None
    timeout_s: float = 5.0
    reverse: bool = False
    page: int | None = None
    """A scan asks for so many keys at a time, and goes on behind the last one."""


class Program(msgspec.Struct, frozen=True):
    """What one client does."""

    client: str
    coordinator: str
    steps: tuple[Step, ...]


def draw_program(
    rng: random.Random, client: str, coordinator: str, keys: Sequence[str], steps: int, duration_s: float
) -> Program:
    """Draw a program for about ``duration_s``: bursts of steps a few milliseconds apart, and longer pauses."""
    pause_s = duration_s / (_PAUSES * steps)
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    program = []
    for _ in range(steps):
        kind = rng.choices(kinds, weights)[0]
        count = rng.randint(2, len(keys)) if kind.endswith("_many") else 1
        chosen = tuple(rng.sample(list(keys), min(count, len(keys))))
        ttl_s = round(rng.uniform(0.5, 4.0), 2) if kind == "put" and chosen[0].startswith(TTL_PREFIX) else None
        program.append(
            Step(
                pause_s=round(rng.expovariate(1 / (pause_s if rng.random() < _PAUSES else _BURST_S)), 4),
                kind=kind,
                keys=chosen,
                padding=rng.choice((0, 0, 20, 300, 1500, 3000)),
                ttl_s=ttl_s,
                timeout_s=rng.choice((1.0, 5.0, 5.0)),
                reverse=rng.random() < 0.3,
                page=rng.choice((None, 1, 2)) if kind == "scan" else None,
            )
        )
    return Program(client, coordinator, tuple(program))


class Client:
    """Runs a program on a store, and writes down what it was told."""

    def __init__(
        self,
        program: Program,
        store: AsyncStore,
        loop: VirtualLoop,
        history: History,
        levels: tuple[int, int],
    ) -> None:
        """``levels``: R and W."""
        self._program = program
        self._store = store
        self._loop = loop
        self._history = history
        self._r, self._w = levels
        self._values = 0

    async def run(self, until_s: float) -> None:
        """Do all steps for which there is time."""
        for step in self._program.steps:
            await asyncio.sleep(step.pause_s)
            if self._loop.now_s > until_s:
                return
            await getattr(self, f"_{step.kind}")(step)

    def _value(self, key: str, padding: int) -> str:
        self._values += 1
        return f"{self._program.client}.{self._values}@{key}" + "." * padding

    # ---- writes ----

    async def _put(self, step: Step) -> None:
        key = step.keys[0]
        value = self._value(key, step.padding)
        began_s = self._loop.now_s
        try:
            result = await self._store.put(key, value, w=self._w, ttl=step.ttl_s, timeout=step.timeout_s)
        except RaykvError as error:
            self._wrote("put", key, value, began_s, error, step.ttl_s)
        else:
            self._wrote("put", key, value, began_s, result, step.ttl_s)

    async def _delete(self, step: Step) -> None:
        began_s = self._loop.now_s
        try:
            result = await self._store.delete(step.keys[0], w=self._w, timeout=step.timeout_s)
        except RaykvError as error:
            self._wrote("delete", step.keys[0], None, began_s, error)
        else:
            self._wrote("delete", step.keys[0], None, began_s, result)

    async def _put_many(self, step: Step) -> None:
        values = {key: self._value(key, step.padding) for key in step.keys if not key.startswith(TTL_PREFIX)}
        began_s = self._loop.now_s
        try:
            done: dict[Any, Any] = await self._store.put_many(values, w=self._w, timeout=step.timeout_s)
        except BatchError as error:
            done = {**error.results, **error.errors}
        for key, outcome in done.items():
            self._wrote("put", key, values[key], began_s, outcome)

    async def _delete_many(self, step: Step) -> None:
        began_s = self._loop.now_s
        try:
            done: dict[Any, Any] = await self._store.delete_many(step.keys, w=self._w, timeout=step.timeout_s)
        except BatchError as error:
            done = {**error.results, **error.errors}
        for key, outcome in done.items():
            self._wrote("delete", key, None, began_s, outcome)

    def _wrote(
        self,
        kind: Literal["put", "delete"],
        key: str,
        value: str | None,
        began_s: float,
        outcome: WriteResult | RaykvError,
        ttl_s: float | None = None,
    ) -> None:
        if isinstance(outcome, RaykvError):
            told = "unknown" if isinstance(outcome, WriteOutcomeUnknown) else "refused"
            operation_id = str(outcome.details.get("operation_id", ""))
            error = f"{type(outcome).__name__}: {outcome}"
        else:
            told, operation_id, error = "ok", outcome.operation_id, ""
        self._history.add(
            self._program.client, kind, key, began_s, self._loop.now_s, told,
            value=value, operation_id=operation_id, ttl_s=ttl_s, error=error, level=self._w,
        )  # fmt: skip

    # ---- reads ----

    async def _get(self, step: Step) -> None:
        await self._read_one(step, self._store.get(step.keys[0], r=self._r, timeout=step.timeout_s))

    async def _contains(self, step: Step) -> None:
        """As ``in`` does; found, it is read once more, for a checker has no use for a bare yes."""
        began_s = self._loop.now_s
        try:
            if await self._store.contains(step.keys[0], r=self._r, timeout=step.timeout_s):
                await self._get(step)
            else:
                self._read(step.keys[0], began_s, None)
        except RaykvError as error:
            self._read(step.keys[0], began_s, error)

    async def _read_one(self, step: Step, reading: Any) -> None:
        began_s = self._loop.now_s
        try:
            self._read(step.keys[0], began_s, await reading)
        except RaykvError as error:
            self._read(step.keys[0], began_s, error)

    async def _get_many(self, step: Step) -> None:
        began_s = self._loop.now_s
        try:
            done: dict[Any, Any] = await self._store.get_many(step.keys, r=self._r, timeout=step.timeout_s)
        except BatchError as error:
            done = {**error.results, **error.errors}
        for key, outcome in done.items():
            self._read(key, began_s, outcome)

    def _read(self, key: str, began_s: float, outcome: str | RaykvError | None) -> None:
        if isinstance(outcome, RaykvError):
            error, told, value = f"{type(outcome).__name__}: {outcome}", "refused", None
        else:
            error, told, value = "", "ok", outcome
        self._history.add(
            self._program.client, "get", key, began_s, self._loop.now_s, told, value=value, error=error, level=self._r
        )

    async def _scan(self, step: Step) -> None:
        prefix = step.keys[0][: 1 if step.keys[0][0] < "t" else 2]
        began_s = self._loop.now_s
        try:
            pairs = await self._pages(prefix, step)
        except RaykvError:
            return
        client, ended_s = self._program.client, self._loop.now_s
        seen = ScanSeen(client, began_s, ended_s, prefix, step.reverse, [str(key) for key, _ in pairs], self._r)
        self._history.scans.append(seen)
        for key, value in pairs:
            self._history.add(client, "scan", str(key), began_s, ended_s, "ok", value=value, level=self._r)

    async def _pages(self, prefix: str, step: Step) -> list[tuple[Any, Any]]:
        pairs: list[tuple[Any, Any]] = []
        while True:
            after = pairs[-1][0] if pairs else None
            found = self._store.scan(
                prefix=prefix, after=after, limit=step.page, reverse=step.reverse, r=self._r, timeout=step.timeout_s
            )
            page = [pair async for pair in found]
            pairs += page
            if step.page is None or len(page) < step.page:
                return pairs

    # ---- buckets ----

    async def _open(self, step: Step) -> None:
        name = f"bucket-{step.keys[0]}"
        try:
            bucket = await self._store.bucket(name, codec="raw", timeout=step.timeout_s)
        except RaykvError:
            return
        bucket_id = bucket._operations.bucket_id  # noqa: SLF001 - users have no use for it
        self._history.buckets.append(BucketSeen(self._program.client, name, bucket_id, self._loop.now_s))
