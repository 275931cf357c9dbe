"""A bucket that is dropped and made again while clients use it.

A handle is of one bucket, by its id: what was written through it is gone with that bucket, and must not come back in the
next one of the same name. Each key of each of these buckets is a key of its own here (``f1~7``: of the bucket with the
id 7), and is judged as any other: what was acknowledged is read as long as the bucket is there. Once it was dropped, an
operation may fail by that reason and no other one may; of a write it is not known then whether it stood.

The error of such a write does not name its operation, and only by its value can it be found among what was sent: nothing
is deleted here.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.errors import BatchError, InvalidOption, RaykvError, WriteOutcomeUnknown
from raykv.versions.causality import unpack_causality
from raykv.versions.context import causality_in
from simulation.history import Violation

if TYPE_CHECKING:
    from raykv.client.aio import AsyncBucket, AsyncStore
    from raykv.client.writes import WriteResult
    from raykv.sim.kernel import VirtualLoop
    from simulation.history import History
    from simulation.workload import Step

FLEETING_BUCKET = "fleeting"
FLEETING = "f"
"""The first letter of its keys."""
_MARK = "~"
_DROPPED = "the bucket was dropped"


class Opened(NamedTuple):
    """A client was given a handle of the bucket with this id."""

    client: str
    bucket_id: int
    invoked_s: float
    returned_s: float


class Gone(NamedTuple):
    """A client was told that the bucket with this id was dropped."""

    client: str
    bucket_id: int
    at_s: float


def lasting_keys(history: History) -> list[str]:
    """Return all keys that are in buckets which nobody drops."""
    return sorted({op.key for op in history.ops if _MARK not in op.key})


def check_fleeting(history: History) -> list[Violation]:
    """Return what is wrong with dropped buckets: one that came back, or an operation that failed for no drop.

    Coordinators hear of a drop one after the other, but none forgets it: whom a client asks is always the same.
    """
    found = []
    for gone in history.gone:
        for opened in history.opened:
            if opened.client == gone.client and opened.invoked_s > gone.at_s and opened.bucket_id <= gone.bucket_id:
                text = (
                    f"{gone.client} was told at {gone.at_s:.4f} s that the bucket with the id {gone.bucket_id} was dropped; "
                    f"it asked for a new one at {opened.invoked_s:.4f} s and got the one with the id {opened.bucket_id}"
                )
                found.append(Violation("dropped and back", "", text, opened.returned_s))
    first_s = min(history.dropped_s, default=None)
    for op in history.ops:
        if _DROPPED in op.error and (_MARK not in op.key or first_s is None or op.returned_s < first_s):
            text = f"{op.client}'s {op.kind} failed, for the bucket was dropped; nobody had dropped it"
            found.append(Violation("dropped by nobody", op.key, text, op.returned_s))
    return found


def is_excused(key: str, error: str) -> bool:
    """Whether an operation failed because its bucket was dropped. ``check_fleeting`` says whether it was."""
    return _MARK in key and _DROPPED in error


class FleetingBucket:
    """What one client does with the bucket."""

    def __init__(
        self,
        client: str,
        store: AsyncStore,
        loop: VirtualLoop,
        history: History,
        levels: tuple[int, int],
        options: dict[str, Any],
    ) -> None:
        """``levels``: R and W. ``options``: those of the bucket."""
        self._client = client
        self._store = store
        self._loop = loop
        self._history = history
        self._r, self._w = levels
        self._options = options
        self._handle: AsyncBucket[Any, Any] | None = None
        self._values = 0

    async def do(self, step: Step) -> None:
        """Do a step, with a new handle if the bucket of the last one is known to be gone."""
        if step.kind == "drop":
            await self._drop(step)
            return
        handle = self._handle or await self._open(step)
        if handle is None:
            return
        match step.kind:
            case "put" | "put_seen" | "modify" | "delete" | "delete_seen":  # nothing is deleted: see the module
                await self._write(handle, step)
            case "put_many" | "delete_many":
                await self._write_many(handle, step)
            case "scan":
                await self._scan(handle, step)
            case _:
                await self._read(handle, step)

    async def _open(self, step: Step) -> AsyncBucket[Any, Any] | None:
        began_s = self._loop.now_s
        try:
            handle = await self._store.bucket(FLEETING_BUCKET, timeout=step.timeout_s, **self._options)
        except RaykvError:
            return None
        self._history.opened.append(Opened(self._client, _id_of(handle), began_s, self._loop.now_s))
        self._handle = handle
        return handle

    async def _drop(self, step: Step) -> None:
        self._history.dropped_s.append(self._loop.now_s)
        with contextlib.suppress(RaykvError):
            await self._store.drop_bucket(FLEETING_BUCKET, timeout=step.timeout_s)

    # ---- writes ----

    async def _write(self, handle: AsyncBucket[Any, Any], step: Step) -> None:
        key, began_s = step.keys[0], self._loop.now_s
        value = self._value(handle, key, step.padding)
        outcome: WriteResult | RaykvError
        try:
            outcome = await handle.put(key, value, w=self._w, timeout=step.timeout_s)
        except RaykvError as error:
            outcome = error
        self._wrote(handle, key, value, began_s, outcome, step)

    async def _write_many(self, handle: AsyncBucket[Any, Any], step: Step) -> None:
        began_s = self._loop.now_s
        values = {key: self._value(handle, key, step.padding) for key in step.keys}
        done: dict[str, Any]
        try:
            done = await handle.put_many(values, w=self._w, timeout=step.timeout_s)
        except BatchError as error:
            done = {**error.results, **error.errors}
        for key, outcome in done.items():
            self._wrote(handle, key, values[key], began_s, outcome, step)

    def _value(self, handle: AsyncBucket[Any, Any], key: str, padding: int) -> str:
        self._values += 1
        return f"{self._client}.{FLEETING}{self._values}@{_known_as(handle, key)}" + "." * padding

    def _wrote(
        self,
        handle: AsyncBucket[Any, Any],
        key: str,
        value: str,
        began_s: float,
        outcome: WriteResult | RaykvError,
        step: Step,
    ) -> None:
        acks: tuple[str, ...] | None = None
        if isinstance(outcome, RaykvError):
            unknown = isinstance(outcome, WriteOutcomeUnknown) or self._is_gone(handle, outcome)
            told = "unknown" if unknown else "refused"
            operation_id = self._history.stamps.operation_of_value.get(value, "")
            error = f"{type(outcome).__name__}: {outcome}"
        else:
            told, operation_id, error, acks = "ok", outcome.operation_id, "", tuple(outcome.acks)
        self._history.add(
            self._client, "put", _known_as(handle, key), began_s, self._loop.now_s, told,
            value=value, operation_id=operation_id, error=error, level=self._w, blind=True,
            until_s=began_s + step.timeout_s, acks=acks,
        )  # fmt: skip

    # ---- reads ----

    async def _read(self, handle: AsyncBucket[Any, Any], step: Step) -> None:
        began_s = self._loop.now_s
        done: dict[str, Any] = {}
        try:
            if step.kind == "get_many":
                done = await handle.get_many(step.keys, r=self._r, timeout=step.timeout_s)
            elif step.kind == "get_versions":
                done[step.keys[0]] = await handle.get_versions(step.keys[0], r=self._r, timeout=step.timeout_s)
            else:
                done[step.keys[0]] = await handle.get(step.keys[0], r=self._r, timeout=step.timeout_s)
        except BatchError as error:
            done = {**error.results, **error.errors}
        except RaykvError as error:
            done[step.keys[0]] = error
        for key, outcome in done.items():
            self._add_read(handle, key, began_s, outcome)

    def _add_read(self, handle: AsyncBucket[Any, Any], key: str, began_s: float, outcome: Any) -> None:
        told, error, values, seen = "ok", "", None, None
        value: str | None = None
        if isinstance(outcome, RaykvError):
            self._is_gone(handle, outcome)
            told, error = "refused", f"{type(outcome).__name__}: {outcome}"
        elif outcome is None or isinstance(outcome, str):
            value = outcome
        else:
            values, seen = tuple(outcome.values), unpack_causality(causality_in(outcome.context)).seen
            value = values[0] if values else None
        self._history.add(
            self._client, "get", _known_as(handle, key), began_s, self._loop.now_s, told,
            value=value, error=error, level=self._r, values=values, seen=seen,
        )  # fmt: skip

    async def _scan(self, handle: AsyncBucket[Any, Any], step: Step) -> None:
        """Only what a scan shows is judged: which keys it had to show, their bucket's end leaves open."""
        began_s = self._loop.now_s
        pairs = handle.scan(limit=step.page, reverse=step.reverse, r=self._r, timeout=step.timeout_s)
        try:
            found = [pair async for pair in pairs]
        except RaykvError as error:
            self._is_gone(handle, error)
            return
        for key, value in found:
            self._history.add(
                self._client,
                "scan",
                _known_as(handle, key),
                began_s,
                self._loop.now_s,
                "ok",
                value=value,
                level=self._r,
            )

    def _is_gone(self, handle: AsyncBucket[Any, Any], error: RaykvError) -> bool:
        """Whether the error says that the bucket was dropped: then the next step asks for it anew."""
        gone = isinstance(error, InvalidOption) and _DROPPED in str(error)
        if gone:
            self._history.gone.append(Gone(self._client, _id_of(handle), self._loop.now_s))
            self._handle = None if self._handle is handle else self._handle
        return gone


def _id_of(handle: AsyncBucket[Any, Any]) -> int:
    return handle._operations.bucket_id  # noqa: SLF001 - users have no use for it


def _known_as(handle: AsyncBucket[Any, Any], key: str) -> str:
    return f"{key}{_MARK}{_id_of(handle)}"
