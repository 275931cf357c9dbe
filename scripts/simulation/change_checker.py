"""What may be demanded of the history of a linearizable bucket: an order of all its calls, key by key.

The *model* is one copy that is never wrong, with what a change does to it (``raykv.replica.applying`` has the same rules,
and nothing of this file): a value, its version, the highest fencing token. A call whose outcome is unknown may take effect
once, at any time after it was made, or never. One that was refused has no effect; a ``Conflict`` shows what stood then.

Versions are opaque. The model learns the version of a write from the first answer that shows it, and holds to it: as long
as that write stands all answers name the same, and a condition on a version holds for no other write.

Beside the search some things are compared directly, since they say at once what went wrong: a version names one value for
ever and later ones are greater, no value is shown that nobody wrote or that was refused, and a counter to which was only
added ends between what was acknowledged and that with all unknown amounts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from simulation.history import Violation, shown
from simulation.linearizability import Call, check

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ChangeKind = Literal["get", "put", "delete", "add", "max", "min", "swap", "update"]
ChangeOutcome = Literal["ok", "conflict", "fenced", "unknown", "refused"]
"""conflict, fenced: nothing was written, and what stood was shown. refused: certain that nothing was written, or read."""
Value: TypeAlias = "str | int | None"
ABSENT = b""
"""The version where nothing stands and nothing is remembered, and the condition that nothing stands."""
MAX_STEPS = 400_000
COUNTER = "ln"
"""Keys that begin so are only ever added to."""


class ChangeOp(NamedTuple):
    """A call on one key, as its client saw it. Times in virtual seconds."""

    client: str
    kind: ChangeKind
    key: str
    invoked_s: float
    returned_s: float
    outcome: ChangeOutcome
    given: Value = None
    """What was to be written, or added."""
    seen: Value = None
    """Of an update: what its function was given last."""
    condition: bytes | None = None
    fence: int = 0
    got: Value = None
    """What the answer showed: the value read, the sum, the value swapped out, what stood at a conflict."""
    version: bytes | None = None
    """The version that the answer named; None if it named none."""
    error: str = ""

    def told(self) -> str:
        """Return a line for the history of a key."""
        told = f" {_in_words(self.given)}" if self.kind not in {"get", "delete"} else ""
        told += f" for {_in_words(self.seen)}" if self.kind == "update" else ""
        if self.condition is not None:
            told += f" if {self.condition.hex()[-12:] or 'absent'}"
        told += f" fence {self.fence}" if self.fence else ""
        if self.kind in {"get", "add", "max", "min", "swap"} or self.outcome == "conflict":
            told += f" -> {_in_words(self.got)}"
        if self.version is not None:
            told += f" at {self.version.hex()[-12:] or 'none'}"
        outcome = "" if self.outcome == "ok" else f": {self.outcome}{f' ({self.error})' if self.error else ''}"
        return f"{self.invoked_s:10.4f} .. {self.returned_s:10.4f}  {self.client:<9} {self.kind:<6}{told}{outcome}"


class Step(NamedTuple):
    """What the model is asked: the call without its times."""

    kind: ChangeKind
    outcome: ChangeOutcome
    given: Value
    seen: Value
    condition: bytes | None
    fence: int
    got: Value
    version: bytes | None

    def __str__(self) -> str:
        return ChangeOp("", self.kind, "", 0.0, 0.0, self.outcome, *self[2:]).told()[26:].strip()


class State(NamedTuple):
    """What stands. ``version``: None while no answer has shown it."""

    value: Value = None
    version: bytes | None = ABSENT
    fence: int = 0


class Copy:
    """The model."""

    initial = State()

    def step(self, state: State, step: Step) -> tuple[bool, State]:
        """Return whether the call can have its answer here, and what stands after it. O(1)."""
        if step.kind == "get":
            return (False, state) if step.got != state.value else _named(state, step.version)
        if step.fence and step.fence < state.fence:
            if step.outcome == "fenced":
                return _named(state, step.version) if step.got == state.value else (False, state)
            return step.outcome == "unknown", state
        if step.outcome == "fenced":
            return False, state
        holds = _holds(state, step.condition)
        if step.outcome == "conflict":
            if holds is True or step.got != state.value:
                return False, state
            return _named(state, step.version)
        if holds is False:
            return step.outcome == "unknown", state
        return _changed(state, step)


def _changed(state: State, step: Step) -> tuple[bool, State]:
    """Return whether a change whose condition holds can have its answer, and what stands after it."""
    known, stands = step.outcome == "ok", state.value
    written = State(step.given, step.version, max(state.fence, step.fence))
    if step.kind == "put":
        return True, written
    if step.kind == "delete":
        if stands is None and step.fence <= state.fence:
            return _named(state, step.version)
        return True, written
    if step.kind == "swap":
        return not known or step.got == stands, written
    if step.kind == "update":
        return (stands == step.seen, written) if known or stands == step.seen else (True, state)
    if isinstance(stands, str) or not isinstance(step.given, int):
        return not known, state
    if step.kind == "add":
        result = (stands or 0) + step.given
    elif stands is None:
        result = step.given
    else:
        result = max(stands, step.given) if step.kind == "max" else min(stands, step.given)
    if known and step.got != result:
        return False, state
    if result == stands and step.kind != "add":
        return _named(state, step.version)
    return True, State(result, step.version, state.fence)


def _named(state: State, version: bytes | None) -> tuple[bool, State]:
    """Return whether what stands can have been named so, and what is known of it then."""
    if version is None or version == state.version:
        return True, state
    if state.value is None and version == ABSENT:  # its delete is forgotten
        return True, State()
    if version != ABSENT and (
        state.version is None or state == State()
    ):  # or a call that changed nothing left its name
        return True, state._replace(version=version)
    return False, state


def _holds(state: State, condition: bytes | None) -> bool | None:
    """Return whether a condition holds; None if that depends on whether a delete is forgotten already."""
    if condition is None:
        return True
    if condition == ABSENT:
        return state.value is None
    if condition != state.version:
        return False
    return True if state.value is not None else None


def check_changes(ops: Sequence[ChangeOp], *, max_steps: int = MAX_STEPS) -> list[Violation]:
    """Return what is wrong with the history of a linearizable bucket. Mostly O(n log n) for a key."""
    keys: dict[str, list[ChangeOp]] = {}
    for op in sorted(ops, key=lambda op: (op.invoked_s, op.returned_s, op.client)):
        keys.setdefault(op.key, []).append(op)
    found: list[Violation] = []
    for key, own in keys.items():
        wrong = [*_check_values(own), *_check_versions(own), *_check_sum(own)]
        found += wrong or _check_order(key, own, max_steps)
    return found


def _check_order(key: str, ops: list[ChangeOp], max_steps: int) -> Iterable[Violation]:
    calls = [
        Call(
            op.client,
            op.invoked_s,
            None if op.outcome == "unknown" else op.returned_s,
            Step(op.kind, op.outcome, op.given, op.seen, op.condition, op.fence, op.got, op.version),
        )
        for op in ops
        if op.outcome != "refused" and not (op.kind == "get" and op.outcome == "unknown")
    ]
    result = check(calls, Copy(), max_steps=max_steps)
    if result.linearizable is None:
        yield Violation("too hard", key, f"{len(calls)} calls of {key}: {result.explain()}", ops[-1].returned_s)
    elif not result.linearizable:
        at_s = result.unplaced[0].returned
        yield Violation("not linearizable", key, f"{key}: {result.explain()}", at_s or ops[-1].returned_s)


def _check_values(ops: list[ChangeOp]) -> Iterable[Violation]:
    """Report a value that nobody wrote, or of whose write it was certain that nothing was written."""
    writes: dict[Value, list[ChangeOp]] = {}
    for op in ops:
        if isinstance(op.given, str):
            writes.setdefault(op.given, []).append(op)
    for op in ops:
        if not isinstance(op.got, str) or op.outcome not in {"ok", "conflict", "fenced"}:
            continue
        origin = writes.get(op.got, [])
        if not any(write.invoked_s <= op.returned_s for write in origin):
            text = f"{op.client} was shown {shown(op.got)}, which nobody had written to {op.key}"
            yield Violation("invented", op.key, text, op.returned_s)
        elif all(write.outcome in {"refused", "conflict", "fenced"} for write in origin):
            text = (
                f"{op.client} was shown {shown(op.got)}, of which {origin[0].client} was told that it was not written"
            )
            yield Violation("refused change stands", op.key, text, op.returned_s)


def _check_versions(ops: list[ChangeOp]) -> Iterable[Violation]:
    """Report a version that names two values, or goes back."""
    named = [(op, op.version) for op in ops if op.version and op.outcome not in {"unknown", "refused"}]
    values: dict[bytes, tuple[Value, ChangeOp]] = {}
    for op, version in named:
        if op.kind == "delete" and op.outcome == "ok":
            continue  # it shows no value; that of what is absent names what stood
        value = op.given if op.kind in {"put", "swap"} and op.outcome == "ok" else op.got
        known, other = values.setdefault(version, (value, op))
        if known != value:
            text = f"version {version.hex()} of {op.key} names {_in_words(known)} to {other.client} ({other.kind}) and "
            text += f"{_in_words(value)} to {op.client} ({op.kind})"
            yield Violation("version used twice", op.key, text, op.returned_s)
    returned = sorted(named, key=lambda each: each[0].returned_s)
    at, highest, by = 0, b"", None
    for op, version in named:  # as they were invoked
        while at < len(returned) and returned[at][0].returned_s < op.invoked_s:
            if returned[at][1] > highest:
                by, highest = returned[at]
            at += 1
        if version < highest and by is not None:
            text = (
                f"{op.client} was shown version {version.hex()} of {op.key} after {by.client} had seen {highest.hex()}"
            )
            yield Violation("version went back", op.key, text, op.returned_s)
            return


def _check_sum(ops: list[ChangeOp]) -> Iterable[Violation]:
    """Report a counter that, when all is over, is below what was acknowledged, or above that with all that is unknown."""
    key = ops[0].key
    if not key.startswith(COUNTER) or any(op.kind not in {"get", "add"} for op in ops):
        return
    acknowledged = sum(_number(op.given) for op in ops if op.kind == "add" and op.outcome == "ok")
    unknown = sum(_number(op.given) for op in ops if op.kind == "add" and op.outcome == "unknown")
    last = max(ops, key=lambda op: op.invoked_s)
    if (
        last.kind != "get"
        or last.outcome != "ok"
        or any(op.returned_s >= last.invoked_s for op in ops if op is not last)
    ):
        return
    if not acknowledged <= _number(last.got) <= acknowledged + unknown:
        text = f"{key} ends at {last.got}; {acknowledged} were acknowledged, {unknown} more are unknown"
        yield Violation("miscounted", key, text, last.returned_s)


def _number(value: Value) -> int:
    return value if isinstance(value, int) else 0


def _in_words(value: Value) -> str:
    return shown(value) if isinstance(value, str) or value is None else str(value)
