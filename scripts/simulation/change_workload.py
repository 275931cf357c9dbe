"""What clients do in the linearizable bucket: programs on a few hot keys, and what became of each call.

A key's name says what it holds: ``lr`` a text, ``ln`` a number that is only added to, ``lm`` a number with which anything
is done, ``lf`` a text under fencing tokens, ``lt`` the number from which these are drawn. The programs are drawn from a
generator of their own, so those of the other buckets stay as they are.
"""

from __future__ import annotations

import asyncio
import random as random_module
from typing import TYPE_CHECKING, Any

from raykv.errors import BatchError, Conflict, RaykvError, WriteOutcomeUnknown
from raykv.sim.cluster import DIRECT
from simulation.change_checker import ChangeOp
from simulation.lock_checker import Holding
from simulation.workload import Program, Step

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine, Sequence

    from raykv.client.aio import AsyncBucket, AsyncStore
    from raykv.client.version import Version
    from raykv.sim.kernel import VirtualLoop
    from simulation.change_checker import ChangeKind, ChangeOutcome, Value
    from simulation.history import History
    from simulation.workload import StepKind

LINEAR_BUCKET = "linear"
GROUP_LETTER = "n"
LOCK = "job"
KEYS = ("lr1", "lr2", "ln1", "ln2", "lm1", "lf1")
SHARE = 0.7
"""This share of the runs has clients that change a linearizable bucket."""
_WEIGHTS: dict[str, dict[StepKind, float]] = {
    "lr": {
        "get": 12, "get_versioned": 14, "put": 10, "put_absent": 8, "put_if": 18, "delete": 6, "delete_if": 5, "swap": 8,
        "update": 12, "put_many_absent": 3, "get_many": 4, "put_many": 2, "delete_many": 1,
    },
    "ln": {"get": 15, "get_versioned": 5, "add": 80},
    "lm": {
        "get": 12, "get_versioned": 10, "add": 24, "max": 12, "min": 12, "swap": 8, "put_if": 8, "update": 10, "delete": 4,
    },
    "lf": {"get": 10, "get_versioned": 8, "put_fenced": 60, "put_if": 10, "take_token": 12},
}  # fmt: skip
_KEEPS_OLD = 0.25
"""How often a condition is on a version that this client saw before its last one."""
_BURST_S, _PAUSES = 0.004, 0.15
AMOUNTS = (1, 1, 10)
"""Few: which of many unknown ones have taken effect is a question of all their sums."""


def draw_changes(
    rng: random.Random, coordinators: Sequence[str], duration_s: float, *, clients: int = 0, direct: float = 0.3
) -> tuple[Program, ...]:
    """Draw the programs of some clients; ``direct``: the share of those that coordinate for themselves."""
    clients = clients or rng.randint(2, 5)
    keys = rng.sample(KEYS, rng.randint(1, 3))
    steps = rng.randint(80, 160) // clients
    pause_s = duration_s / (_PAUSES * steps)
    programs = []
    for number in range(clients):
        chosen = []
        for _ in range(steps):
            key = rng.choice(keys)
            weights = _WEIGHTS[key[:2]]
            kind = rng.choices([*weights], [*weights.values()])[0]
            batch = [each for each in KEYS if each[:2] == key[:2]] if "many" in kind else [key]
            chosen.append(
                Step(
                    pause_s=round(rng.expovariate(1 / (pause_s if rng.random() < _PAUSES else _BURST_S)), 4),
                    kind=kind,
                    keys=tuple(batch),
                    padding=rng.choice((0, 0, 20, 300)),
                    timeout_s=rng.choice((0.5, 2.0, 5.0, 5.0)),
                    anew=rng.random() < _KEEPS_OLD,
                )
            )
        coordinator = DIRECT if rng.random() < direct else rng.choice(coordinators)
        dies_s = round(rng.uniform(1.0, duration_s), 3) if rng.random() < 0.1 else 0.0
        programs.append(Program(f"client-l{number + 1}", coordinator, tuple(chosen), changes=True, dies_s=dies_s))
    return tuple(programs)


def draw_holders(rng: random.Random, coordinators: Sequence[str], duration_s: float) -> tuple[Program, ...]:
    """Draw the programs of some clients that take a lock again and again, and write under its token."""
    programs = []
    for number in range(rng.randint(2, 4)):
        steps = [
            Step(
                pause_s=round(rng.expovariate(5.0), 4),
                kind="hold",
                keys=("lf2",),
                timeout_s=rng.choice((0.0, 1.0, 5.0)),
                ttl_s=rng.choice((0.3, 1.0, 1.0, 3.0)),
            )
            for _ in range(int(duration_s))
        ]
        coordinator = DIRECT if rng.random() < 0.5 else rng.choice(coordinators)
        dies_s = round(rng.uniform(1.0, duration_s), 3) if rng.random() < 0.3 else 0.0
        programs.append(Program(f"client-h{number + 1}", coordinator, tuple(steps), changes=True, dies_s=dies_s))
    return tuple(programs)


class ChangeClient:
    """Runs such a program, and writes down what it was told."""

    def __init__(
        self, program: Program, store: AsyncStore, loop: VirtualLoop, history: History, *, grouped: bool = False
    ) -> None:
        self._program = program
        self._grouped = grouped
        self._store = store
        self._loop = loop
        self._history = history
        self._bucket: AsyncBucket[Any, Any]
        self._rng = random_module.Random(f"{program.client} {len(program.steps)}")
        self._versions: dict[str, list[Version]] = {}
        self._token = 0
        self._values = 0

    async def run(self, until_s: float) -> None:
        """Do all steps for which there is time."""
        if not await self._open(until_s):
            return
        for step in self._program.steps:
            await asyncio.sleep(step.pause_s)
            if self._loop.now_s > until_s:
                return
            await getattr(self, f"_{step.kind}")(step)

    @classmethod
    async def opened(
        cls,
        program: Program,
        store: AsyncStore,
        loop: VirtualLoop,
        history: History,
        until_s: float,
        *,
        grouped: bool = False,
    ) -> ChangeClient:
        """Return one that has its bucket. Raises ``RaykvError`` if there is none until then."""
        client = cls(program, store, loop, history, grouped=grouped)
        if not await client._open(until_s):
            client._bucket = await open_linear(store, grouped=grouped)
        return client

    async def last(self, key: str) -> RaykvError | None:
        """Change a key, and read it: as a run ends. Return why that failed."""
        step = Step(0.0, "get", (key,), timeout_s=2.0)
        made = self._add if key[:2] in {"ln", "lm", "lt"} else self._put
        for work in (made, self._get_versioned):
            await work(step)
            op = self._history.changes[-1]
            if op.outcome != "ok":
                return RaykvError(op.error or op.outcome)
        return None

    async def _open(self, until_s: float) -> bool:
        while self._loop.now_s < until_s:
            try:
                self._bucket = await open_linear(self._store, grouped=self._grouped)
            except RaykvError:
                await asyncio.sleep(0.5)
            else:
                return True
        return False

    # ---- reads ----

    async def _get(self, step: Step) -> None:
        await self.call("get", step, lambda key: self._bucket.get(key, timeout=step.timeout_s))

    async def _get_versioned(self, step: Step) -> None:
        await self.call("get", step, lambda key: self._bucket.get_versioned(key, timeout=step.timeout_s))

    async def _get_many(self, step: Step) -> None:
        began_s = self._loop.now_s
        try:
            done: dict[Any, Any] = await self._bucket.get_many(step.keys, timeout=step.timeout_s)
        except BatchError as error:
            done = {**error.results, **error.errors}
        for key, outcome in done.items():
            self._note("get", key, began_s, outcome)

    # ---- writes ----

    async def _put(self, step: Step, condition: Version | None = None, *, absent: bool = False, fence: int = 0) -> None:
        key = step.keys[0]
        value: str | int = self._value(key, step.padding)
        if key.startswith("lm"):
            value = self._rng.randint(-50, 50)
        given = b"" if absent else None if condition is None else bytes(condition)

        def put(key: str) -> Coroutine[Any, Any, Any]:
            return self._bucket.put(
                key, value, if_absent=absent, if_version=condition, fence=fence or None, timeout=step.timeout_s
            )

        await self.call("put", step, put, given=value, condition=given, fence=fence)

    async def _put_absent(self, step: Step) -> None:
        await self._put(step, absent=True)

    async def _put_if(self, step: Step) -> None:
        if (version := await self._version(step)) is not None:
            await self._put(step, version)

    async def _put_fenced(self, step: Step) -> None:
        if not self._token:
            await self._take_token(step)
        if self._token:
            await self._put(step, fence=self._token)

    async def _take_token(self, step: Step) -> None:
        """Draw the next fencing token, as one does who has got a lock."""
        got = await self.call(
            "add", step, lambda key: self._bucket.add(key, 1, timeout=step.timeout_s), key="lt1", given=1
        )
        if isinstance(got, int):
            self._token = got

    async def _hold(self, step: Step) -> None:
        """Take a lock with a lease of ``ttl_s``, look at it now and then, and write under its token meanwhile."""
        lock = self._store.lock(LOCK, lease=step.ttl_s or 1.0, timeout=step.timeout_s)
        try:
            await lock.acquire()
        except RaykvError:
            return
        since_s = until_s = self._loop.now_s
        lost = False
        try:
            for _ in range(self._rng.choice((1, 3, 10, 40))):
                if lost := lock.lost:
                    break
                until_s = self._loop.now_s
                if self._rng.random() < 0.3:
                    await self._put(step, fence=lock.token)
                await asyncio.sleep(self._rng.choice((0.005, 0.05)))
        finally:
            self._history.holdings.append(Holding(self._program.client, LOCK, lock.token, since_s, until_s, lost))
        await lock.release()

    async def _delete(self, step: Step) -> None:
        await self.call("delete", step, lambda key: self._bucket.delete(key, timeout=step.timeout_s))

    async def _delete_if(self, step: Step) -> None:
        if (version := await self._version(step)) is not None:
            await self.call(
                "delete", step, lambda key: self._bucket.delete(key, if_version=version, timeout=step.timeout_s),
                condition=bytes(version),
            )  # fmt: skip

    async def _version(self, step: Step) -> Version | None:
        """Return a version of the key that this client was shown: its last, or an older one; read if it has none."""
        known = self._versions.get(step.keys[0])
        if not known:
            await self._get_versioned(step)
            known = self._versions.get(step.keys[0])
        if not known:
            return None
        return self._rng.choice(known) if step.anew else known[-1]

    async def _add(self, step: Step) -> None:
        amount = self._rng.choice(AMOUNTS)
        await self.call("add", step, lambda key: self._bucket.add(key, amount, timeout=step.timeout_s), given=amount)

    async def _max(self, step: Step) -> None:
        value = self._rng.randint(-50, 50)
        await self.call("max", step, lambda key: self._bucket.max(key, value, timeout=step.timeout_s), given=value)

    async def _min(self, step: Step) -> None:
        value = self._rng.randint(-50, 50)
        await self.call("min", step, lambda key: self._bucket.min(key, value, timeout=step.timeout_s), given=value)

    async def _swap(self, step: Step) -> None:
        key = step.keys[0]
        value: Any = self._rng.randint(-50, 50) if key.startswith("lm") else self._value(key, step.padding)
        await self.call("swap", step, lambda key: self._bucket.swap(key, value, timeout=step.timeout_s), given=value)

    async def _update(self, step: Step) -> None:
        key, given = step.keys[0], list[Any]()
        number = self._rng.choice(AMOUNTS)

        def change(present: Any) -> Any:
            value = (present or 0) + number if key.startswith("lm") else self._value(key, step.padding)
            given.append((present, value))
            return value

        await self.call(
            "update", step, lambda key: self._bucket.update(key, change, timeout=step.timeout_s), updates=given
        )

    async def _put_many(self, step: Step, *, absent: bool = False) -> None:
        values = {key: self._value(key, step.padding) for key in step.keys}
        await self._batch(
            "put", step, self._bucket.put_many(values, if_absent=absent, timeout=step.timeout_s), values,
            b"" if absent else None,
        )  # fmt: skip

    async def _put_many_absent(self, step: Step) -> None:
        await self._put_many(step, absent=True)

    async def _delete_many(self, step: Step) -> None:
        await self._batch("delete", step, self._bucket.delete_many(step.keys, timeout=step.timeout_s), {}, None)

    async def _batch(
        self,
        kind: ChangeKind,
        step: Step,
        working: Coroutine[Any, Any, dict[Any, Any]],
        values: dict[str, str],
        condition: bytes | None,
    ) -> None:
        began_s = self._loop.now_s
        done: dict[Any, Any] = dict.fromkeys(step.keys, WriteOutcomeUnknown("the client has ended", acks=[]))
        try:
            done = await working
        except BatchError as error:
            done = {**error.results, **error.errors}
        finally:
            for key, outcome in done.items():
                self._note(kind, key, began_s, outcome, given=values.get(key), condition=condition)

    # ---- what becomes of a call ----

    async def call(
        self,
        kind: ChangeKind,
        step: Step,
        make: Callable[[str], Coroutine[Any, Any, Any]],
        *,
        key: str = "",
        updates: Sequence[tuple[Value, Value]] = (),
        **asked: Any,
    ) -> object:
        """Make a call, and write down what became of it; return that. One that is cut off has an unknown outcome."""
        key, began_s = key or step.keys[0], self._loop.now_s
        outcome: object = WriteOutcomeUnknown("the client has ended", acks=[])
        try:
            outcome = await make(key)
        except RaykvError as error:
            outcome = error
        finally:
            if kind == "update":
                seen, given = updates[-1] if updates else (None, None)
                asked |= {"seen": seen, "given": given}
                if not updates and isinstance(outcome, WriteOutcomeUnknown):
                    outcome = RaykvError("it had not come to write")
            self._note(kind, key, began_s, outcome, **asked)
        return outcome

    def _note(self, kind: ChangeKind, key: str, began_s: float, outcome: Any, **asked: Any) -> None:
        got: Any = None
        version: Version | None = None
        told: ChangeOutcome = "ok"
        error = ""
        if isinstance(outcome, Conflict):
            fenced = "fencing token" in str(outcome)
            # An update that gives up was last shown a conflict some time before: only that nothing was written is said.
            told = "fenced" if fenced else "refused" if kind == "update" else "conflict"
            got, version = outcome.value, outcome.version
        elif isinstance(outcome, RaykvError):
            told = "unknown" if isinstance(outcome, WriteOutcomeUnknown) else "refused"
            error = f"{type(outcome).__name__}: {outcome}"
        elif kind == "get" and isinstance(outcome, tuple):
            got, version = outcome
        elif kind in {"put", "delete"}:
            version = outcome.version
        elif kind != "update":
            got = outcome
        if version:
            seen = self._versions.setdefault(key, [])
            seen.append(version)
            del seen[:-5]
        shown = None if version is None else bytes(version)
        self._history.changes.append(
            ChangeOp(
                self._program.client, kind, key, began_s, self._loop.now_s, told, got=got, version=shown, error=error,
                **asked,
            )
        )  # fmt: skip

    def _value(self, key: str, padding: int) -> str:
        self._values += 1
        return f"{self._program.client}.{self._values}@{key}" + "." * padding


async def open_linear(store: AsyncStore, *, grouped: bool = False) -> AsyncBucket[Any, Any]:
    """Return the bucket that all such clients change. Raises ``RaykvError``. ``grouped``: by a letter of some keys."""
    return await store.bucket(LINEAR_BUCKET, versioning="linearizable", group=GROUP_LETTER if grouped else None)
