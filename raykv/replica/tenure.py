"""One term of one leader: its heads, its rounds, and who waits for them. No loop but the futures of those who wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from raykv.config import quorum
from raykv.protocol.changes import FINAL
from raykv.records.linear_record import TERM_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from raykv.protocol import frames as f
    from raykv.replica.applying import Head

Place: TypeAlias = tuple[int, int]
"""A partition, and the number of copies n of the buckets in question."""
Name: TypeAlias = tuple[int, bytes]
"""A bucket's id, and an encoded key."""


def held_by_majorities(sets: tuple[tuple[str, ...], ...], nodes: Collection[str]) -> bool:
    """Whether F of each set are among the nodes: of both sets apart while a partition moves (P4)."""
    if len(sets) == 1 and len(nodes) < quorum(len(sets[0])):  # as mostly, when the first have answered
        return False
    return all(sum(node_id in nodes for node_id in owners) >= quorum(len(owners)) for owners in sets)


class Answers:
    """The answers to one request: some at once, the others as rounds end."""

    __slots__ = ("_future", "_left", "over", "settled")

    def __init__(self, count: int) -> None:
        self.settled: list[f.Settled | None] = [None] * count
        self.over = False
        """Whether nobody waits for them any more."""
        self._left = 0
        self._future: asyncio.Future[None] | None = None

    def expect(self) -> None:
        """Wait for one more."""
        self._left += 1

    def settle(self, index: int, outcome: f.Settled) -> None:
        """Give an expected answer."""
        self.settled[index] = outcome
        self._left -= 1
        if not self._left and self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def complete(self) -> None:
        """Wait until all that are expected are there."""
        if self._left:
            self._future = asyncio.get_running_loop().create_future()
            await self._future


class Waiter:
    """An evaluated change, and the requests that wait for its answer."""

    __slots__ = ("_calls", "_hearers", "_name", "_outcome", "answer", "tenure")

    def __init__(self, tenure: Tenure, answer: f.Settled) -> None:
        self.tenure = tenure
        self.answer = answer
        self._outcome: f.Settled | None = None
        self._hearers: list[tuple[Answers, int]] = []
        self._calls: dict[Name, f.Settled | Waiter] | None = None
        self._name: Name = (0, b"")

    @property
    def done(self) -> bool:
        """Whether the answer was given."""
        return self._outcome is not None

    @property
    def given_up(self) -> bool:
        """Whether no request waits for it any more."""
        return all(answers.over for answers, _ in self._hearers)

    def remembered_in(self, calls: dict[Name, f.Settled | Waiter], name: Name) -> Waiter:
        """Stand among a lane's calls until there is an answer, and then leave it there if it is final (L11)."""
        calls[name] = self
        self._calls, self._name = calls, name
        return self

    def tell(self, answers: Answers, index: int) -> None:
        """Give the answer to a request too, at its place ``index``."""
        answers.expect()
        if self._outcome is not None:
            answers.settle(index, self._outcome)
        else:
            self._hearers.append((answers, index))

    def settle(self, outcome: f.Settled) -> None:
        """Give the answer."""
        if self._outcome is not None:
            return
        self._outcome = outcome
        if self._calls is not None:
            if outcome.status in FINAL:
                self._calls[self._name] = outcome
            elif self._calls.get(self._name) is self:
                del self._calls[self._name]
        for answers, index in self._hearers:
            answers.settle(index, outcome)


class Owned(NamedTuple):
    """Who owns a partition by one state of the cluster."""

    sets: tuple[tuple[str, ...], ...]
    """F of each must accept a record."""
    nodes: tuple[str, ...]
    """All of them, each once."""
    readers: tuple[str, ...]
    """Those of which reads ask: the leader has to be one of them."""


class Round:
    """Records on their way to the owners under one term, and who waits for them."""

    def __init__(self, tenure: Tenure, owned: Owned) -> None:
        self.tenure = tenure
        self.sets = owned.sets
        self.nodes = owned.nodes
        self.names: list[Name] = []
        self.stamps: dict[Name, bytes] = {}
        self.waiters: list[Waiter] = []
        self.sent: list[tuple[int, bytes, bytes]] = []
        self.met = False
        """Whether F of each set have accepted it."""
        self._accepted: set[str] = set()
        self._answered: set[str] = set()
        self._parts: dict[str, int] = {}
        """Node -> how many messages it has still to answer, where the round goes to it in several."""
        self._refused: set[str] = set()

    def expect(self, node_id: str) -> None:
        """Expect one more answer of a node: it has accepted the round once it has accepted all parts."""
        self._parts[node_id] = self._parts.get(node_id, 0) + 1

    def records(self) -> list[tuple[int, bytes, bytes]]:
        """Return what goes out: (bucket id, key, record)."""
        found = []
        for name in self.names:
            head, stamp = self.tenure.heads[name], self.stamps[name]
            record = self.tenure.sent.get(name, b"")
            if record[1 : 1 + len(stamp)] != stamp:
                record = head.record(stamp[:TERM_BYTES], int.from_bytes(stamp[TERM_BYTES:]))
            found.append((*name, record))
        self.sent = found
        return found

    def note(self, node_id: str, *, accepted: bool) -> bool:
        """Record a node's answer; return whether it is the one with which F of each set have accepted the round."""
        if node_id in self._parts:
            if not accepted:
                self._refused.add(node_id)
            self._parts[node_id] -= 1
            if self._parts[node_id]:
                return False
            accepted = node_id not in self._refused
        self._answered.add(node_id)
        if not accepted:
            return False
        self._accepted.add(node_id)
        if self.met or not held_by_majorities(self.sets, self._accepted):
            return False
        self.met = True
        return True

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

    def __init__(
        self, place: Place, term: bytes, sets: tuple[tuple[str, ...], ...], filled: Iterable[int] | None = None
    ) -> None:
        """Begin it with no heads. ``filled``: the buckets of which the F of each set may hold anything; None: any."""
        self.place = place
        self.term = term
        self.heads: dict[Name, Head] = {}
        self.loading: dict[Name, asyncio.Future[None]] = {}
        self.round: Round | None = None
        self.sent: dict[Name, bytes] = {}
        """The records of rounds that failed: sent again, they are the same bytes, whatever receipts are over since (L6)."""
        self.paused = False
        """Whether no round may begin: the sets of owners have changed, or the last round failed a moment ago."""
        self._sets = {frozenset(owners) for owners in sets}
        """The sets of owners of which F have promised the term (L9)."""
        self._known_bound: tuple[tuple[str, ...], ...] | None = None
        """Sets that were found among them last."""
        self._seq = 0
        self._dirty: dict[Name, Head] = {}
        self._waiters: list[Waiter] = []
        self._filled = None if filled is None else {*filled}

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
        if sets is self._known_bound:
            return True
        bound = all(frozenset(owners) in self._sets for owners in sets)
        if bound:
            self._known_bound = sets
        return bound

    def bind(self, sets: tuple[tuple[str, ...], ...]) -> None:
        """Record that F of each of these have promised it."""
        self._sets |= {frozenset(owners) for owners in sets}
        self._filled = None  # nobody has asked these

    def has_none_of(self, bucket_id: int) -> bool:
        """Whether F of each set held nothing of a bucket under this term, and all of it since is among the heads."""
        return self._filled is not None and bucket_id not in self._filled

    def drop(self, name: Name) -> Head:
        """Take a head out: what is asked for again is looked up again."""
        if self._filled is not None:
            self._filled.add(name[0])
        return self.heads.pop(name)

    def next_stamp(self) -> bytes:
        """Return the next stamp: seq counts over the term, not over a key (L6)."""
        self._seq += 1
        return self.term + self._seq.to_bytes(8)

    def wait(self, answer: f.Settled, due: Callable[[Tenure], None]) -> Waiter:
        """Return a waiter for the next round that begins, not for one under way (L7)."""
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

    def begin(self, owned: Owned) -> Round:
        """Begin a round with all heads that are not acknowledged, and all who wait."""
        round_ = self.round = Round(self, owned)
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
        self.sent.clear()
        for waiter in round_.waiters:
            waiter.settle(waiter.answer)

    def redo(self, round_: Round) -> None:
        """Have the next round do what this one could not."""
        self._done(round_)
        self.sent = {(bucket_id, key): record for bucket_id, key, record in round_.sent}
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
