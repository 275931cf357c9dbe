"""What clients do: seeded programs of operations, run through the real client code, every answer written down.

Some keys are in the bucket "default", which keeps vectors, the others in "plain", where the last writer wins; a key's first
letter says which. Clients read some keys with their context and give it back, at once or much later.

A program is a plain list of steps, drawn before the run, so that a failing run can be run again with some left out.
Values are unique: they name the client and the step. Padding makes some of them large, so that memtables fill up and
compactions run.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from raykv.errors import BatchError, RaykvError, SiblingsFound, WriteOutcomeUnknown
from raykv.versions.causality import unpack_causality
from raykv.versions.context import Context, causality_in
from simulation.fleeting import FLEETING, FleetingBucket
from simulation.history import BucketSeen, ScanSeen, Violation

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    from raykv.client.aio import AsyncBucket, AsyncStore
    from raykv.client.writes import WriteResult
    from raykv.records.vector_record import Seen
    from raykv.sim.kernel import VirtualLoop
    from simulation.history import History

StepKind = Literal[
    "put", "get", "delete", "contains", "put_many", "get_many", "delete_many", "scan", "open",
    "get_versions", "put_seen", "delete_seen", "modify", "drop", "repair", "look",
    "get_versioned", "put_absent", "put_if", "delete_if", "add", "max", "min", "swap", "update", "put_many_absent",
    "put_fenced", "take_token", "hold",
]  # fmt: skip
"""The last two lines: of linearizable buckets (``change_workload``)."""
WEIGHTS: dict[StepKind, float] = {
    "put": 18, "get": 14, "delete": 4, "contains": 3, "put_many": 5, "get_many": 6, "delete_many": 2, "scan": 7, "open": 3,
    "get_versions": 18, "put_seen": 14, "delete_seen": 3, "modify": 4,
}  # fmt: skip
TTL_PREFIX = "ttl-"
PLAIN_BUCKET = "plain"
LOOSE_BUCKET = "loose"
LOOSE_OPTIONS: dict[str, Any] = {"versioning": "vector", "sloppy": True}
_FORGETS = 0.3
"""How often a client reads anew before it writes with a context, rather than giving back the one it has."""
_PAUSES = 0.2
"""This share of the steps comes after a longer pause."""
_BURST_S = 0.004
_CROWD_BURST_S = 0.001
_CROWD_PAUSE_S = 0.5
_CROWD_PAUSES = 0.02
_WITH_TTL = ("put", "put_seen", "modify")


MODIFIED: Literal["modified"] = "modified"
"""Stands for the context of a ``modify``, which its caller does not see."""


def seen_in(context: Context) -> Seen:
    """Return the causal history in a context."""
    return unpack_causality(causality_in(context)).seen


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
    """The keys that a scan asks for at a time; it continues behind the last one."""
    anew: bool = False
    """Whether a write with a context reads first, although it has a context."""
    together: bool = False
    """Whether it begins together with the step before it, as tasks of one program do."""
    passed_on: Literal["", "first", "last"] = ""
    """Which context of its key a write gives back, of all that any client was given: contexts travel."""


class Program(msgspec.Struct, frozen=True):
    """What one client does."""

    client: str
    coordinator: str
    steps: tuple[Step, ...]
    changes: bool = False
    """Whether it changes the linearizable bucket (``change_workload``), rather than use the others."""
    dies_s: float = 0.0
    """When its process ends, whatever it is at; 0: never."""


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
        ttl_s = round(rng.uniform(0.5, 4.0), 2) if kind in _WITH_TTL and chosen[0].startswith(TTL_PREFIX) else None
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
                anew=rng.random() < _FORGETS,
            )
        )
    return Program(client, coordinator, tuple(program))


def groups_of(steps: Iterable[Step]) -> list[list[Step]]:
    """Return the steps, those that begin together in one list."""
    groups: list[list[Step]] = []
    for step in steps:
        if step.together and groups:
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def draw_crowding(
    rng: random.Random,
    client: str,
    coordinator: str,
    keys: Sequence[str],
    steps: int,
    paddings: Sequence[int],
    timeouts_s: Sequence[float],
) -> Program:
    """Draw a program that hammers on a few keys with blind writes, one right after the other."""
    kinds: list[StepKind] = ["put", "get", "delete"]
    program = [
        Step(
            pause_s=round(rng.expovariate(1 / (_CROWD_PAUSE_S if rng.random() < _CROWD_PAUSES else _CROWD_BURST_S)), 4),
            kind=rng.choices(kinds, (50, 46, 4))[0],
            keys=(rng.choice(keys),),
            padding=rng.choice(paddings),
            timeout_s=rng.choice(timeouts_s),
        )
        for _ in range(steps)
    ]
    return Program(client, coordinator, tuple(program))


class Buckets(NamedTuple):
    """A client's handles: of the bucket that keeps vectors, and of others, by the first letters of their keys.

    In the loose one (a sloppy bucket) no two operations need meet: its reads are judged by level 0, its acknowledged writes
    by level 1. A read of all copies must therefore see an acknowledged write once everything is repaired; nothing else must.
    """

    vector: AsyncBucket[Any, Any]
    others: dict[str, AsyncBucket[Any, Any]]
    loose: str

    @classmethod
    async def open(cls, store: AsyncStore, plain: str, loose: str, attempts: int, *, grouped: bool = False) -> Buckets:
        """Open them. Raises ``RaykvError`` if that fails repeatedly.

        ``grouped``: by the first letter that each holds. The keys that begin with it are one group, of the empty name, and a
        scan of them asks one partition; other keys are a group each.
        """
        others: dict[str, AsyncBucket[Any, Any]] = {}
        wanted: list[tuple[str, str, dict[str, Any]]] = [
            (plain, PLAIN_BUCKET, {"versioning": "lww"}),
            (loose, LOOSE_BUCKET, LOOSE_OPTIONS),
        ]
        for letters, name, given in wanted:
            options = given | {"group": letters[0]} if grouped and letters else given
            for attempt in range(1, attempts + 1 if letters else 1):
                try:
                    others |= dict.fromkeys(letters, await store.bucket(name, **options))
                    break
                except RaykvError:
                    if attempt == attempts:
                        raise
                    await asyncio.sleep(0.5)
        return cls(store, others, loose)

    def of(self, key: str) -> AsyncBucket[Any, Any]:
        """Return the bucket of a key."""
        return self.others.get(key[0], self.vector)

    def split(self, keys: Iterable[str]) -> list[tuple[AsyncBucket[Any, Any], list[str]]]:
        """Return each bucket with its keys."""
        parts: dict[str, tuple[AsyncBucket[Any, Any], list[str]]] = {}
        for key in keys:
            bucket = self.of(key)
            parts.setdefault(bucket.name, (bucket, []))[1].append(key)
        return list(parts.values())


class Client:
    """Runs a program on a store, and records the answers."""

    def __init__(
        self,
        program: Program,
        buckets: Buckets,
        store: AsyncStore,
        loop: VirtualLoop,
        history: History,
        levels: tuple[int, int],
        given: dict[str, list[Context]],
    ) -> None:
        """``levels``: R and W. ``given``: the contexts of each key that any client was given; all of them share it."""
        self._program = program
        self._buckets = buckets
        self._store = store
        self._contexts: dict[str, Context] = {}
        """The last that this client got of each key."""
        self._given = given
        self._loop = loop
        self._history = history
        self._r, self._w = levels
        self._values = 0
        versioning = "lww" if FLEETING in buckets.others else "vector"
        self._fleeting = FleetingBucket(program.client, store, loop, history, levels, {"versioning": versioning})

    async def run(self, until_s: float) -> None:
        """Do all steps for which there is time."""
        for first, *others in groups_of(self._program.steps):
            await asyncio.sleep(first.pause_s)
            if self._loop.now_s > until_s:
                return
            if others:
                await asyncio.gather(*(self._do(step) for step in (first, *others)))
            else:
                await self._do(first)

    async def _do(self, step: Step) -> None:
        if step.keys[0].startswith(FLEETING):
            await self._fleeting.do(step)
        else:
            await getattr(self, f"_{step.kind}")(step)

    def _level(self, key: str, acks: object = ()) -> int:
        """Return the level by which a read is judged; ``acks``: a write, None if it was not acknowledged."""
        if key[0] in self._buckets.loose:
            return int(bool(acks))
        return self._r if acks == () else self._w

    def _value(self, key: str, padding: int) -> str:
        self._values += 1
        return f"{self._program.client}.{self._values}@{key}" + "." * padding

    # ---- writes ----

    async def _put(self, step: Step, context: Context | None = None) -> None:
        key = step.keys[0]
        value = self._value(key, step.padding)
        began_s = self._loop.now_s
        outcome: WriteResult | RaykvError
        try:
            outcome = await self._buckets.of(key).put(
                key, value, context=context, w=self._w, ttl=step.ttl_s, timeout=step.timeout_s
            )
        except RaykvError as error:
            outcome = error
        self._wrote("put", key, value, began_s, outcome, step.ttl_s, context, timeout_s=step.timeout_s)

    async def _delete(self, step: Step, context: Context | None = None) -> None:
        key, began_s = step.keys[0], self._loop.now_s
        outcome: WriteResult | RaykvError
        try:
            outcome = await self._buckets.of(key).delete(key, context=context, w=self._w, timeout=step.timeout_s)
        except RaykvError as error:
            outcome = error
        self._wrote("delete", key, None, began_s, outcome, None, context, timeout_s=step.timeout_s)

    async def _put_seen(self, step: Step) -> None:
        if (context := await self._context(step)) is not None:
            await self._put(step, context)

    async def _delete_seen(self, step: Step) -> None:
        if (context := await self._context(step)) is not None:
            await self._delete(step, context)

    async def _context(self, step: Step) -> Context | None:
        """Return a context of the key: one got before, perhaps long ago, or a new one. None if it cannot be read."""
        key = step.keys[0]
        if step.passed_on and key in self._given:
            return self._given[key][0 if step.passed_on == "first" else -1]
        if step.anew or key not in self._contexts:
            self._contexts.pop(key, None)
            await self._get_versions(step)
        return self._contexts.get(key)

    def _keep(self, key: str, context: Context) -> None:
        self._contexts[key] = context
        self._given.setdefault(key, []).append(context)

    async def _modify(self, step: Step) -> None:
        key = step.keys[0]
        value = self._value(key, step.padding)
        began_s = self._loop.now_s
        read: list[object] = []

        def change(present: object) -> str:
            read.append(present)
            return value

        outcome: WriteResult | RaykvError
        try:
            outcome = await self._buckets.of(key).modify(
                key, change, r=self._r, w=self._w, ttl=step.ttl_s, timeout=step.timeout_s
            )
        except SiblingsFound:  # as a program does that would rather merge than give up
            self._contexts.pop(key, None)
            await self._put_seen(step)
            return
        except RaykvError as error:
            outcome = error
        if read:  # else it did not come to write
            self._wrote("put", key, value, began_s, outcome, step.ttl_s, MODIFIED, timeout_s=step.timeout_s)

    async def _put_many(self, step: Step) -> None:
        values = {key: self._value(key, step.padding) for key in step.keys if not key.startswith(TTL_PREFIX)}
        for bucket, keys in self._buckets.split(values):
            began_s = self._loop.now_s
            part = {key: values[key] for key in keys}
            try:
                done: dict[Any, Any] = await bucket.put_many(part, w=self._w, timeout=step.timeout_s)
            except BatchError as error:
                done = {**error.results, **error.errors}
            for key, outcome in done.items():
                self._wrote("put", key, values[key], began_s, outcome, timeout_s=step.timeout_s)

    async def _delete_many(self, step: Step) -> None:
        for bucket, keys in self._buckets.split(step.keys):
            began_s = self._loop.now_s
            try:
                done: dict[Any, Any] = await bucket.delete_many(keys, w=self._w, timeout=step.timeout_s)
            except BatchError as error:
                done = {**error.results, **error.errors}
            for key, outcome in done.items():
                self._wrote("delete", key, None, began_s, outcome, timeout_s=step.timeout_s)

    def _wrote(
        self,
        kind: Literal["put", "delete"],
        key: str,
        value: str | None,
        began_s: float,
        outcome: WriteResult | RaykvError,
        ttl_s: float | None = None,
        context: Context | Literal["modified"] | None = None,
        *,
        timeout_s: float,
    ) -> None:
        acks: tuple[str, ...] | None = None
        if isinstance(outcome, RaykvError):
            result = "unknown" if isinstance(outcome, WriteOutcomeUnknown) else "refused"
            operation_id = str(outcome.details.get("operation_id", ""))
            error = f"{type(outcome).__name__}: {outcome}"
        else:
            result, operation_id, error, acks = "ok", outcome.operation_id, "", tuple(outcome.acks)
            self._history.acknowledged(key, operation_id, acks)
            self._keep(key, outcome.context)
        self._history.add(
            self._program.client, kind, key, began_s, self._loop.now_s, result,
            value=value, operation_id=operation_id, ttl_s=ttl_s, error=error, level=self._level(key, acks),
            seen=seen_in(context) if isinstance(context, Context) else None, blind=context is None,
            until_s=began_s + timeout_s, acks=acks,
        )  # fmt: skip

    # ---- reads ----

    async def _get(self, step: Step) -> None:
        reading = self._buckets.of(step.keys[0]).get(step.keys[0], r=self._r, timeout=step.timeout_s)
        await self._read_one(step, reading)

    async def _get_versions(self, step: Step) -> None:
        key, began_s = step.keys[0], self._loop.now_s
        try:
            versions = await self._buckets.of(key).get_versions(key, r=self._r, timeout=step.timeout_s)
        except RaykvError as error:
            self._read(key, began_s, error)
        else:
            self._keep(key, versions.context)
            newest = versions.values[0] if versions.values else None
            self._read(key, began_s, newest, tuple(versions.values), seen_in(versions.context))

    async def _contains(self, step: Step) -> None:
        """As ``in`` does; found, it is read once more, for a checker has no use for a bare yes."""
        began_s = self._loop.now_s
        try:
            bucket = self._buckets.of(step.keys[0])
            if await bucket.contains(step.keys[0], r=self._r, timeout=step.timeout_s):
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
        for bucket, keys in self._buckets.split(step.keys):
            began_s = self._loop.now_s
            try:
                done: dict[Any, Any] = await bucket.get_many(keys, r=self._r, timeout=step.timeout_s)
            except BatchError as error:
                done = {**error.results, **error.errors}
            for key, outcome in done.items():
                self._read(key, began_s, outcome)

    def _read(
        self,
        key: str,
        began_s: float,
        outcome: str | RaykvError | None,
        values: tuple[str, ...] | None = None,
        seen: Seen | None = None,
    ) -> None:
        if isinstance(outcome, RaykvError):
            error, result, value = f"{type(outcome).__name__}: {outcome}", "refused", None
        else:
            error, result, value = "", "ok", outcome
        self._history.add(
            self._program.client, "get", key, began_s, self._loop.now_s, result,
            value=value, error=error, level=self._level(key), values=values, seen=seen,
        )  # fmt: skip

    async def _scan(self, step: Step) -> None:
        prefix = step.keys[0][: 1 if step.keys[0][0] < "t" else 2]
        began_s = self._loop.now_s
        try:
            pairs = await self._pages(self._buckets.of(prefix), prefix, step)
        except RaykvError:
            return
        client, ended_s = self._program.client, self._loop.now_s
        seen = ScanSeen(
            client, began_s, ended_s, prefix, step.reverse, [str(key) for key, _ in pairs], self._level(prefix)
        )
        self._history.scans.append(seen)
        for key, value in pairs:
            self._history.add(
                client, "scan", str(key), began_s, ended_s, "ok", value=value, level=self._level(str(key))
            )

    async def _pages(self, bucket: AsyncBucket[Any, Any], prefix: str, step: Step) -> list[tuple[Any, Any]]:
        pairs: list[tuple[Any, Any]] = []
        while True:
            after = pairs[-1][0] if pairs else None
            found = bucket.scan(
                prefix=prefix, after=after, limit=step.page, reverse=step.reverse, r=self._r, timeout=step.timeout_s
            )
            page = [pair async for pair in found]
            pairs += page
            if step.page is None or len(page) < step.page:
                return pairs

    # ---- the store ----

    async def _repair(self, step: Step) -> None:
        with contextlib.suppress(RaykvError):  # that all copies are equal is asked when all has healed
            await self._store.repair(timeout=step.timeout_s)

    async def _look(self, step: Step) -> None:
        try:
            names = await self._store.buckets(timeout=step.timeout_s)
            await self._store.status(timeout=step.timeout_s)
        except RaykvError:
            return
        lacking = {bucket.name for bucket in (self._buckets.vector, *self._buckets.others.values())} - {*names}
        if lacking:
            text = f"{self._program.client} has {', '.join(sorted(lacking))} open, and was told of {', '.join(names)}"
            self._history.broken.append(Violation("bucket not listed", "", text, self._loop.now_s))

    async def _open(self, step: Step) -> None:
        name = f"bucket-{step.keys[0]}"
        try:
            bucket = await self._store.bucket(name, codec="raw", timeout=step.timeout_s)
        except RaykvError:
            return
        bucket_id = bucket._operations.bucket_id  # noqa: SLF001 - users have no use for it
        self._history.buckets.append(BucketSeen(self._program.client, name, bucket_id, self._loop.now_s))
