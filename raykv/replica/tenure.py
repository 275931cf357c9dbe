"""One term of one leader: its heads, its rounds, and who waits for them. No loop but the futures of those who wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from raykv.config import quorum
from raykv.records.linear_record import TERM_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from raykv.ports import Clock
    from raykv.protocol import frames as f
    from raykv.replica.applying import Head

Place: TypeAlias = tuple[int, int]
"""A partition, and the number of copies n of the buckets in question."""
Name: TypeAlias = tuple[int, bytes]
"""A bucket's id, and an encoded key."""
MOST_IN_ROUND = 500


def held_by_majorities(sets: tuple[tuple[str, ...], ...], nodes: Collection[str]) -> bool:
    """Whether F of each set are among the nodes: of both sets apart while a partition moves (P4)."""
    return all(sum(node_id in nodes for node_id in owners) >= quorum(len(owners)) for owners in sets)


class Waiter:
    """An evaluated change, and the calls that wait for its answer."""

    __slots__ = ("_futures", "_outcome", "answer", "done", "name", "on_final", "tenure")

    def __init__(self, tenure: Tenure, answer: f.Settled) -> None:
        self.tenure = tenure
        self.answer = answer
        self.done = False
        self.on_final: Callable[[f.Settled], None] | None = None
        self._outcome: f.Settled | None = None
        self._futures: list[asyncio.Future[f.Settled]] = []

    def join(self) -> Waiter:
        """Return it: another call asks for the same change."""
        return self

    @property
    def given_up(self) -> bool:
        """Whether no call waits for it any more."""
        return bool(self._futures) and all(future.done() for future in self._futures)

    async def outcome(self) -> f.Settled:
        """Wait for the answer."""
        if self._outcome is not None:
            return self._outcome
        future: asyncio.Future[f.Settled] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        return await future

    def settle(self, outcome: f.Settled) -> None:
        """Give the answer."""
        if self.done:
            return
        self.done, self._outcome = True, outcome
        if self.on_final is not None:
            self.on_final(outcome)
        for future in self._futures:
            if not future.done():
                future.set_result(outcome)


class Round:
    """Records on their way to the owners under one term, and who waits for them."""

    def __init__(self, tenure: Tenure, sets: tuple[tuple[str, ...], ...]) -> None:
        self.tenure = tenure
        self.sets = sets
        self.nodes = tuple(dict.fromkeys(node_id for owners in sets for node_id in owners))
        self.names: list[Name] = []
        self.stamps: dict[Name, bytes] = {}
        self.waiters: list[Waiter] = []
        self._accepted: set[str] = set()
        self._answered: set[str] = set()

    def records(self) -> list[tuple[int, bytes, bytes]]:
        """Return what goes out: (bucket id, key, record)."""
        found = []
        for name in self.names:
            head, stamp = self.tenure.heads[name], self.stamps[name]
            found.append((*name, head.record(stamp[:TERM_BYTES], int.from_bytes(stamp[TERM_BYTES:]))))
        return found

    def note(self, node_id: str, *, accepted: bool) -> None:
        """Record a node's answer."""
        self._answered.add(node_id)
        if accepted:
            self._accepted.add(node_id)

    @property
    def met(self) -> bool:
        """Whether F of each set have accepted it."""
        return held_by_majorities(self.sets, self._accepted)

    @property
    def over(self) -> bool:
        """Whether all have answered, or failed to."""
        return len(self._answered) == len(self.nodes)

    @property
    def missed(self) -> list[str]:
        """The nodes that have not accepted it."""
        return [node_id for node_id in self.nodes if node_id not in self._accepted]


class Tenure:
    """One term of one partition."""

    def __init__(self, place: Place, term: bytes, sets: tuple[tuple[str, ...], ...], clock: Clock) -> None:
        self.place = place
        self.term = term
        self.heads: dict[Name, Head] = {}
        self.loading: dict[Name, asyncio.Future[None]] = {}
        self.round: Round | None = None
        self.paused = False
        """Whether no round may begin: the sets of owners have changed, or the last round failed a moment ago."""
        self._sets = {frozenset(owners) for owners in sets}
        """The sets of owners of which F have promised the term (L9)."""
        self._seq = 0
        self._dirty: dict[Name, Head] = {}
        self._waiters: list[Waiter] = []
        self._clock = clock

    @property
    def wanted(self) -> bool:
        """Whether a round has something to do."""
        return bool(self._dirty) or bool(self._waiters)

    @property
    def awaited(self) -> bool:
        """Whether a call waits for a round."""
        return bool(self._waiters)

    def bound_to(self, sets: tuple[tuple[str, ...], ...]) -> bool:
        """Whether F of each of these sets have promised the term."""
        return all(frozenset(owners) in self._sets for owners in sets)

    def bind(self, sets: tuple[tuple[str, ...], ...]) -> None:
        """Record that F of each of these have promised it."""
        self._sets |= {frozenset(owners) for owners in sets}

    def next_stamp(self) -> bytes:
        """Return the next stamp: seq counts over the term, not over a key (L6)."""
        self._seq += 1
        return self.term + self._seq.to_bytes(8)

    def wait(self, answer: f.Settled, due: Callable[[Tenure], None]) -> Waiter:
        """Return a waiter for the next round that begins."""
        waiter = Waiter(self, answer)
        self._waiters.append(waiter)
        due(self)
        return waiter

    def change(self, name: Name, head: Head, stamp: bytes, answer: f.Settled, due: Callable[[Tenure], None]) -> Waiter:
        """Return the waiter of a head that has changed."""
        self._mark(name, head, stamp)
        return self.wait(answer, due)

    def rewrite(self, name: Name, head: Head) -> None:
        """Have a head sent out under this term, as it is (L5)."""
        self._mark(name, head, self.next_stamp())

    def _mark(self, name: Name, head: Head, stamp: bytes) -> None:
        head.stamp, head.dirty = stamp, True
        self._dirty[name] = head

    def begin(self, sets: tuple[tuple[str, ...], ...]) -> Round:
        """Begin a round with all heads that are not acknowledged, and all who wait."""
        round_ = self.round = Round(self, sets)
        round_.names = [*self._dirty]
        round_.stamps = {name: head.stamp for name, head in self._dirty.items()}
        round_.waiters, self._waiters = self._waiters, []
        for name in round_.names:
            self.heads[name].awaited += 1
        return round_

    def end(self, round_: Round) -> None:
        """Give the answers of a round that F owners have accepted."""
        self._done(round_)
        for name, stamp in round_.stamps.items():
            head = self.heads.get(name)
            if head is not None and head.stamp == stamp:
                head.dirty = False
                self._dirty.pop(name, None)
        for waiter in round_.waiters:
            waiter.settle(waiter.answer)

    def redo(self, round_: Round) -> None:
        """Have the next round do what this one could not."""
        self._done(round_)
        self._waiters = [*round_.waiters, *self._waiters]

    def _done(self, round_: Round) -> None:
        self.round = None
        for name in round_.names:
            if (head := self.heads.get(name)) is not None:
                head.awaited -= 1

    def forget_the_late(self) -> None:
        """Drop those for whom no call waits any more."""
        self._waiters = [waiter for waiter in self._waiters if not waiter.given_up]

    def abandon(self, pointer: f.Settled) -> None:
        """Tell all who wait where to go instead: this term is over."""
        waiters = [*(self.round.waiters if self.round is not None else ()), *self._waiters]
        self.round, self._waiters, self._dirty = None, [], {}
        for waiter in waiters:
            waiter.settle(pointer)
