"""Was there an order? Decides whether a history of calls could come from a single copy that is never wrong.

A history is linearizable (Herlihy and Wing 1990) if every call can be given one moment between its invocation and its
return so that, made at these moments one by one, the calls have the results they had. A call whose outcome is unknown
may have its moment at any time after its invocation, or never.

**The search** is that of Wing and Gong (1993), as Lowe (2017, "Testing for linearizability") and Porcupine have it. The
events, invocations and returns, stand in a linked list by time. What is invoked before the first return in the list may
come next; it is taken out, the model steps, and on a dead end it is put back. *Configurations* (bit set of the calls
placed, state) that were seen are not entered again. The problem is NP-complete: ``max_steps`` bounds the search, which
may end undecided. Three things keep unknown calls, which are open for ever, from multiplying, and the answer exact. A
configuration is dropped if one was seen that differs only in having *fewer* of them; so they are tried last, and one
after another only where the first makes a difference to the second. The first invoked of equal ones is used first.

**Time.** What returned strictly before another was invoked comes before it. Equal times, plentiful with virtual clocks,
are concurrent, but for one process: what it returned at t precedes what it invokes at t (if both do both: as listed).

**The verdict.** Whatever begins a linearizable history is linearizable. In one that is not, there is therefore a first
return at which it goes wrong: the result has that call, an order that leads up to it, and all states it may find there.

Omissions: the caller separates objects (``check_by_key``; a history is linearizable if and only if each object's is);
models are deterministic; no weaker condition is checked.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Key = TypeVar("Key", bound=Hashable)
Operation = TypeVar("Operation", bound=Hashable)
Operation_contra = TypeVar("Operation_contra", contravariant=True)
State = TypeVar("State", bound=Hashable)
_Row: TypeAlias = "list[tuple[State] | tuple[()]]"  # for each unknown call the state after it, or nothing

MAX_STEPS = 1_000_000  # of the model, and comparisons of configurations; each takes microseconds and some hundred bytes
_ROWS = 12  # lines of a kind that ``explain`` shows


class Call(NamedTuple, Generic[Operation]):
    """One call as its caller saw it; times in seconds of any one clock; the operation includes its result."""

    process: int | str
    invoked: float
    returned: float | None  # None: the outcome is unknown; it takes effect after ``invoked``, or never
    operation: Operation


class Model(Protocol[State, Operation_contra]):
    """What one correct copy does. States and operations are hashable, and the same if they are equal."""

    @property
    def initial(self) -> State:
        """The state before the first call."""

    def step(self, state: State, operation: Operation_contra) -> tuple[bool, State]:
        """Return whether the operation can have its result in ``state``, and the state after it. Pure."""


@dataclass(frozen=True, slots=True)
class Result(Generic[Operation, State]):
    """What ``check`` found. It has no truth value of its own, as it may be undecided: ask for ``linearizable``."""

    linearizable: bool | None  # None: undecided after ``max_steps``
    order: tuple[Call[Operation], ...]  # if linearizable, one that shows it; else it leads as far in time as any
    unplaced: tuple[Call[Operation], ...]  # what cannot follow: first the call at whose return it goes wrong
    unused: tuple[Call[Operation], ...]  # those of unknown outcome that have no place in ``order``
    states: tuple[State, ...]  # all that can be when what returned before ``unplaced[0]`` is placed; else the last one
    steps: int

    def __bool__(self) -> bool:
        raise TypeError("a Result may be undecided: ask for its linearizable")

    def explain(self) -> str:
        """Return lines for people: the verdict and, unless it is good, the calls around the one that fits nowhere."""
        if self.linearizable:
            return f"linearizable: {len(self.order)} calls in order, {len(self.unused)} unknown ones without effect"
        states = ", ".join(map(repr, self.states[:_ROWS])) + ", ..." * (len(self.states) > _ROWS)
        verdict = f"undecided after {self.steps} steps" if self.linearizable is None else "not linearizable"
        text = f"{verdict}: no order was found for the call marked no and all that returned before it."
        text += f"\nWithout that call there is one; the state at its end can be: {states}."
        return "\n".join([text, *_table(self)])


def check(
    calls: Iterable[Call[Operation]], model: Model[State, Operation], *, max_steps: int = MAX_STEPS
) -> Result[Operation, State]:
    """Return whether the calls, listed in any sequence, all on one object, are linearizable.

    ``ValueError`` for a call that returns before it is invoked. Mostly O(calls x concurrent calls) steps; at worst
    exponential in the concurrent writes and the unknown calls, up to ``max_steps``.
    """
    return _Search(calls, model).result(max_steps)


def check_by_key(
    calls: Mapping[Key, Iterable[Call[Operation]]], model: Model[State, Operation], *, max_steps: int = MAX_STEPS
) -> dict[Key, Result[Operation, State]]:
    """Check each key's calls on their own, each with ``max_steps``; the whole is linearizable if each key's are."""
    return {key: check(own, model, max_steps=max_steps) for key, own in calls.items()}


@dataclass(frozen=True, slots=True)
class Write:
    """The value was written; None: it was deleted."""

    value: Hashable


@dataclass(frozen=True, slots=True)
class ReadOf:
    """A read returned the value; None: there was none."""

    value: Hashable


@dataclass(frozen=True, slots=True)
class CompareAndSet:
    """``new`` was written if the value was ``expected``; ``succeeded``: whether it was, None if nobody knows."""

    expected: Hashable
    new: Hashable
    succeeded: bool | None


class Register:
    """A model: one value, absent (None) unless given, that is written, read, and compared and set."""

    def __init__(self, initial: Hashable = None) -> None:
        self.initial = initial

    def step(self, state: Hashable, operation: Write | ReadOf | CompareAndSet) -> tuple[bool, Hashable]:
        """Return whether it fits, and the value after it. O(1)."""
        if isinstance(operation, Write):
            return True, operation.value
        if isinstance(operation, ReadOf):
            return state == operation.value, state
        equal = state == operation.expected
        return operation.succeeded in {None, equal}, operation.new if equal else state


class _Search(Generic[Operation, State]):
    """The calls, numbered by invocation, unknown ones last; the list of events of the known ones that are not placed."""

    def __init__(self, calls: Iterable[Call[Operation]], model: Model[State, Operation]) -> None:
        # A stable sort, with what begins and ends at t before what only begins then: all that is tied is in order.
        self.calls = sorted(calls, key=lambda call: (call.returned is None, call.invoked, _end(call)))
        self.known = sum(call.returned is not None for call in self.calls)
        self.all_known = (1 << self.known) - 1
        self.needs = self._needs()
        known = enumerate(self.calls[: self.known])
        events = sorted((time, kind, n) for n, call in known for kind, time in enumerate((call.invoked, _end(call))))
        # Event 0 is both ends of the list; the return of call n is noted as ~n.
        self.call_at = [0, *(~number if kind else number for _, kind, number in events)]
        self.next, self.previous = [*range(1, len(events) + 1), 0], [len(events), *range(len(events))]
        self.events: list[list[int]] = [[] for _ in self.calls]
        for event, (_, _, number) in enumerate(events, start=1):
            self.events[number].append(event)
        self.step, self.initial, self.steps = model.step, model.initial, 0
        self.seen: dict[tuple[int, State], tuple[int, ...]] = {(0, model.initial): (0,)}
        self.order: list[int] = []
        self.furthest, self.best, self.stuck = (0, 0, 0), self.order, 0
        self.states: dict[int, dict[State, None]] = {}
        self.rows: dict[State, _Row[State]] = {}

    def _needs(self) -> list[int]:
        """Return for each call the set of those that it must follow though no times say so."""
        needs = []
        ended: dict[tuple[int | str, float], int] = {}
        latest: dict[tuple[type[Operation], Operation], tuple[float, int]] = {}
        for number, call in enumerate(self.calls):
            if not call.invoked <= _end(call):
                raise ValueError(f"it returned before it was invoked: {call}")
            need = ended.get((call.process, call.invoked), 0)
            if number < self.known:
                ended[call.process, _end(call)] = ended.get((call.process, _end(call)), 0) | 1 << number
            else:
                same = (type(call.operation), call.operation)
                invoked, twin = latest.get(same, (math.inf, 0))
                need |= (invoked < call.invoked) << twin  # if invoked at once they may differ in what they must follow
                latest[same] = (call.invoked, number)
            needs.append(need)
        return needs

    def _moves(self, done: int, state: State, lead: _Row[State]) -> Iterator[tuple[int, State]]:
        """Yield what may come next, and the state after it. Resume it only when the list is as it was."""
        event, moves = self.next[0], []
        while (number := self.call_at[event]) >= 0:
            if done & self.needs[number] == self.needs[number]:
                self.steps += 1
                fits, after = self.step(state, self.calls[number].operation)
                if fits:
                    moves.append((number, after))
            event = self.next[event]
        moves.sort(key=lambda move: move[1] != state)  # reads first: they seldom bar the way to anything
        yield from (move for move in moves if self._is_new(done | 1 << move[0], move[1]))
        limit, moves = _end(self.calls[~number]), []
        # ``lead`` is the row before the unknown call that led here: what does the same there did not need it.
        for number, (new, old) in enumerate(zip(self._row(state), lead, strict=True), start=self.known):
            if new and new != old and self.calls[number].invoked <= limit:
                need = self.needs[number]
                if done & (need | 1 << number) == need and self._is_new(done | 1 << number, new[0]):
                    moves.append((number, new[0]))
        yield from moves  # all are in ``seen`` before the first is followed: none is reached by way of another

    def _row(self, state: State) -> _Row[State]:
        if state not in self.rows:
            steps = [self.step(state, call.operation) for call in self.calls[self.known :]]
            self.rows[state] = [(after,) if fits else () for fits, after in steps]
            self.steps += len(steps)
        return self.rows[state]

    def run(self, max_steps: int) -> bool | None:
        """Search to the end or the bound."""
        none: _Row[State] = [()] * (len(self.calls) - self.known)
        done, state = 0, self.initial
        moves = self._moves(done, state, none)
        stack: list[tuple[Iterator[tuple[int, State]], int, State]] = []
        while done & self.all_known != self.all_known:
            move = next(moves, None)
            if move is None or self.steps >= max_steps:
                self._note(done, state)
                if move is not None or not stack:
                    return False if move is None else None
                moves, done, state = stack.pop()
                for event in reversed(self.events[self.order.pop()]):  # what is out of the list knows where it stood
                    self.next[self.previous[event]] = self.previous[self.next[event]] = event
                continue
            stack.append((moves, done, state))
            number, after = move
            self.order.append(number)
            for event in self.events[number]:
                before, behind = self.previous[event], self.next[event]
                self.next[before], self.previous[behind] = behind, before
            moves = self._moves(done | 1 << number, after, none if number < self.known else self._row(state))
            done, state = done | 1 << number, after
        self.furthest, self.states = (0, 0, 0), {0: {state: None}}
        return True

    def _is_new(self, done: int, state: State) -> bool:
        """Remember the configuration, unless one was seen that can do all that this one can."""
        key = (done & self.all_known, state)
        seen = self.seen.get(key, ())
        self.steps += len(seen)
        if any(not other & ~done for other in seen):
            return False
        self.seen[key] = (*(other for other in seen if done & ~other), done)
        return True

    def _note(self, done: int, state: State) -> None:
        """Keep the order if it leads further in time than any, or as far with more known or fewer unknown calls."""
        event = self.next[0]
        while self.call_at[event] >= 0:
            event = self.next[event]
        self.states.setdefault(event, {})[state] = None
        here = (event, (done & self.all_known).bit_count(), -len(self.order))
        if here > self.furthest:
            self.furthest, self.best, self.stuck = here, self.order.copy(), ~self.call_at[event]

    def result(self, max_steps: int) -> Result[Operation, State]:
        verdict = self.run(max_steps)
        order = self.order if verdict else self.best
        rest = sorted({*range(len(self.calls))}.difference(order))
        unused = [number for number in rest if number >= self.known]
        left = [n for n in rest if n < self.known and self.calls[n].invoked <= _end(self.calls[self.stuck])]
        left.sort(key=lambda number: number != self.stuck)
        placed, unplaced, unknown = (tuple(self.calls[number] for number in some) for some in (order, left, unused))
        return Result(verdict, placed, unplaced, unknown, tuple(self.states[self.furthest[0]]), self.steps)


def _end(call: Call[Operation]) -> float:
    return math.inf if call.returned is None else call.returned


def _table(result: Result[Operation, State]) -> list[str]:
    """Draw the end of the order and what was open beside the call that does not fit, with their times, not to scale."""
    stuck = result.unplaced[0]
    placed = [(str(place), call) for place, call in enumerate(result.order, start=1)]
    near = [row for row in placed[:-5] if _end(row[1]) >= stuck.invoked] + placed[-5:]
    others = [("open", call) for call in result.unplaced[1:]]
    unused = [("unused", call) for call in result.unused if call.invoked <= _end(stuck)]
    rows = [*near[-_ROWS:], ("no", stuck), *others[:_ROWS], *unused[-_ROWS:]]
    times = sorted({time for _, call in rows for time in (call.invoked, _end(call))})
    column = {time: 2 * number for number, time in enumerate(times)}
    lines = [("order", "process", "operation", "invoked", "returned", "times, not to scale")]
    for place, call in rows:
        start, stop = column[call.invoked], column[_end(call)]
        bar = " " * start + "|" + ("-" * (stop - start - 1) + "|?"[call.returned is None]) * (stop > start)
        rest = ("unknown" if call.returned is None else f"{call.returned:.9g}", bar)
        lines.append((place, str(call.process), str(call.operation), f"{call.invoked:.9g}", *rest))
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    hidden = len(near) + 1 + len(others) + len(unused) - len(rows)
    table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    return table + [f"... and {hidden} more"] * (hidden > 0)
