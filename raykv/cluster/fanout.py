"""Calls to several nodes at once, their outcomes in the order of arrival. No loop.

An operation is a generator. It sends through its ``Fanout`` and yields ``Wait`` when it can only go on with an outcome or
a time-out; its driver makes the calls and delivers the outcomes (``heard``).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from raykv.cluster.peers import MOVED, PeerRefused
from raykv.ports import PeerAbsent, PeerFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from raykv.cluster.health import Health
    from raykv.ports import Clock
    from raykv.protocol import frames as f

T = TypeVar("T")
R = TypeVar("R")
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

RETRY_S = 0.05

CALL_TIMEOUT_S = 2.0
"""A slower node is suspected. Longer than any healthy answer, shorter than an operation's time."""


class Call(NamedTuple, Generic[T]):
    """A call to make: a request of ``items`` items, and what it is about."""

    node_id: str
    body: f.NodeRequestBody
    items: int
    about: T


class Outcome(NamedTuple, Generic[T]):
    """The outcome of a call: its answer, or its failure."""

    node_id: str
    about: T
    answer: f.NodeAnswerBody | None
    failure: PeerFailure | None


class Wait(NamedTuple):
    """An action of an operation: start the calls of ``fan``; go on when one ends, or at ``until_s``."""

    fan: Fanout[Any]
    until_s: float
    """By the monotonic clock."""


Waits: TypeAlias = "Generator[Wait, Any, R]"


class Fanout(Generic[T]):
    """The calls of one operation. ``about`` goes with each call and comes back with its outcome.

    Calls in flight outlive the operation: a write should reach all N, not only W.
    """

    def __init__(self, health: Health, deadline_s: float, epoch: int = 0) -> None:
        """``epoch``: of the state by which the nodes are chosen."""
        self.moved = False
        """Whether a node knows other owners: the operation must choose its nodes anew (P4)."""
        self.deadline_s = deadline_s
        self.epoch = epoch
        self._health = health
        self._to_start: list[Call[T]] = []
        self._under_way: list[tuple[str, int]] = []
        """(Node id, number of items) of the calls without an outcome."""
        self._arrived: deque[Outcome[T]] = deque()
        self._late: Callable[[Outcome[T] | None], None] | None = None

    # ---- the operation ----

    def send(self, node_id: str, body: f.NodeRequestBody, items: int, about: T) -> None:
        """Queue a call for the next ``Wait``."""
        self._under_way.append((node_id, items))
        self._to_start.append(Call(node_id, body, items, about))

    def next(self, until_s: float) -> Waits[Outcome[T] | None]:
        """Return the next outcome; None if none comes by ``until_s``."""
        if self._to_start or not self._arrived:
            yield Wait(self, until_s)
        return self._arrived.popleft() if self._arrived else None

    def leave(self, late: Callable[[Outcome[T] | None], None]) -> None:
        """Stop waiting: from now on each outcome goes to ``late``, and None after the last one."""
        self._late = late
        while self._arrived:
            late(self._arrived.popleft())
        for call in self.start():
            self.heard(call, PeerAbsent(f"the operation ended before anything was sent to node {call.node_id}"))
        if not self._under_way:
            late(None)

    def note_slow(self) -> None:
        """Record the nodes that have not answered yet as slow: others are about to be asked."""
        if not self._health.spend_hedges(sum(items for _, items in self._under_way)):
            return
        for node_id in dict.fromkeys(node_id for node_id, _ in self._under_way):
            self._health.note_slow(node_id)

    # ---- its driver ----

    def start(self) -> list[Call[T]]:
        """Return the calls to make now. Once."""
        calls, self._to_start = self._to_start, []
        return calls

    @property
    def has_outcomes(self) -> bool:
        """Whether ``next`` has something to return."""
        return bool(self._arrived)

    def heard(self, call: Call[T], outcome: f.NodeAnswerBody | PeerFailure) -> None:
        """Record the outcome of a call. Once for each that ``start`` has returned."""
        self._under_way.remove((call.node_id, call.items))
        if isinstance(outcome, PeerFailure):
            self.moved = self.moved or (isinstance(outcome, PeerRefused) and outcome.reason == MOVED)
            came: Outcome[T] = Outcome(call.node_id, call.about, None, outcome)
        else:
            came = Outcome(call.node_id, call.about, outcome, None)
        if self._late is None:
            self._arrived.append(came)
            return
        self._late(came)
        if not self._under_way:
            self._late(None)


class Round(Protocol[A_co]):
    """An accumulator that says whom to ask next."""

    @property
    def open(self) -> bool:
        """Whether answers are still missing."""
        ...

    def more(self) -> A_co:
        """Time has passed: return whom to ask in addition."""
        ...


def gather(
    round_: Round[A],
    fan: Fanout[T],
    clock: Clock,
    *,
    send: Callable[[A], None],
    take: Callable[[Outcome[T]], A],
    hedge_s: float,
    deadline_s: float,
) -> Waits[None]:
    """Collect outcomes, and ask others where the round wants it, until it is settled, ``fan.moved``, or time is up.

    A slow answer is hedged after ``hedge_s``, and again after as long (at least ``RETRY_S``).
    """
    hedge_at_s = clock.monotonic_s() + hedge_s
    while round_.open and clock.monotonic_s() < deadline_s:
        outcome = yield from fan.next(min(hedge_at_s, deadline_s))
        if fan.moved:
            return
        if outcome is not None:
            send(take(outcome))
            continue
        if hedge_at_s < deadline_s:
            fan.note_slow()
            send(round_.more())
        hedge_at_s = clock.monotonic_s() + max(hedge_s, RETRY_S)
