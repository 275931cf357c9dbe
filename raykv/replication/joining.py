"""Natural batching: operations that begin in one turn of the event loop leave together.

A thousand tasks that each await a ``get`` would be a thousand operations, each with its own rounds, timers and messages.
What they ask for in the same turn of the loop becomes one request of many keys instead, and each gets its part of the
answer. Nobody waits on a timer for others to come: a group leaves at the end of the turn in which it began, so one
operation alone is as quick as ever. The busier the loop, the longer its turns, and the larger the groups. While
``MOST_UNDER_WAY`` are on their way already, those that come wait for one of them, together, as in a group commit.

Left alone, groups crumble: the nodes answer at different moments, each answer sets some operations free, and what these ask
next leaves without the rest. A group of few costs the nodes nearly as much as one of many. So while groups take several
times longer than they once did, for they wait in line at the nodes, a group leaves when the one before is back: it would
only stand in that line (the round-trip time as the sign of a queue: Brakmo & Peterson 1995, "TCP Vegas"). Nobody waits who
gains nothing by it, for no other can join his group any more; nor for a group that has met something unusual, or takes
longer than most (``LATER``); and reads do not wait for writes.

Only operations that ask for the same (bucket, level, time-out) go together, and of writes to one key each has a group of
its own: they are different writes, in the order in which they came.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from raykv.errors import CorruptData, RaykvError, StoreUnavailable
from raykv.records import frames as f

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from raykv.ports import Clock

    Serve = Callable[[f.CoordinatorRequest], Awaitable[f.CoordinatorAnswer]]


class Later(enum.Enum):
    """Said of a request whose answer may take its time, for reasons of its own."""

    LATER = "later"


LATER = Later.LATER
Outcome: TypeAlias = f.CoordinatorAnswer | Exception | Later
"""What became of a request."""
Begin: TypeAlias = "Callable[[f.CoordinatorRequest, Callable[[Outcome], None]], None]"
"""``begin(request, done)``: answers a request some time later, by telling ``done`` what became of it; once, and before that
perhaps ``LATER``, as often as it likes."""

T = TypeVar("T", f.GetMany, f.WriteMany)

MOST_TOGETHER = 250
MOST_UNDER_WAY = 16
CROWDED_S = 0.003
CROWDED = 4
"""Groups that take longer than ``CROWDED_S``, and so many times longer than the quickest did, wait in line somewhere."""
LOOKED_AT = 32
"""Of so many that wait one is found that may leave."""
_SHARE = 0.2
_FORGETS = 1.0001


def is_about_one_key(request: f.CoordinatorRequest) -> bool:
    """Whether a request may go with others."""
    return (isinstance(request, f.GetMany) and len(request.keys) == 1) or (
        isinstance(request, f.WriteMany) and len(request.items) == 1
    )


class _Group(Generic[T]):
    __slots__ = ("alike", "joinable", "keys", "members", "most")

    def __init__(self, alike: tuple[Any, ...], most: int) -> None:
        self.alike = alike
        self.most = most
        self.joinable = True
        self.members: list[tuple[T, asyncio.Future[f.CoordinatorAnswer]]] = []
        self.keys: set[bytes] = set()


class Traffic:
    """What reads are under way, or what writes, and whether more may leave. Pure."""

    __slots__ = ("_least_s", "_usual_s", "later", "straight")

    def __init__(self) -> None:
        self.straight = 0
        """Groups under way of which nothing else was heard yet,"""
        self.later = 0
        """and those that take their time."""
        self._least_s = float("inf")
        self._usual_s = 0.0

    @property
    def crowded(self) -> bool:
        """Whether groups wait in line at the nodes."""
        return self._usual_s > max(CROWDED_S, CROWDED * self._least_s)

    def lets_go(self, *, joinable: bool) -> bool:
        """Whether a group may leave now. ``joinable``: others may join it for as long as it waits."""
        if self.straight + self.later >= MOST_UNDER_WAY:
            return False
        return not (joinable and self.straight and self.crowded)

    def took(self, taken_s: float) -> None:
        """Learn how long a group took that was answered."""
        self._least_s = min(self._least_s * _FORGETS, taken_s)
        self._usual_s += _SHARE * (taken_s - self._usual_s)


class _Lane(Generic[T]):
    """The groups of reads, or those of writes. ``join(requests)``: the one request that stands for them."""

    def __init__(self, join: Callable[[list[T]], T]) -> None:
        self.join: Callable[[list[T]], T] = join
        self.traffic = Traffic()
        self.joinable: dict[tuple[Any, ...], _Group[T]] = {}
        """By what their members have in common."""
        self.held: deque[_Group[T]] = deque()
        """Those that wait to leave, the oldest first."""
        self.called = False
        """Whether it is seen to in the next turn."""

    @property
    def busy(self) -> bool:
        """Whether a group is under way, or waits to be."""
        return self.traffic.straight + self.traffic.later > 0 or bool(self.held)

    def next_to_go(self) -> int | None:
        """Return the place of the held group that may leave now; None if none may."""
        for place, group in enumerate(islice(self.held, LOOKED_AT)):
            if self.traffic.lets_go(joinable=group.joinable):
                return place
        return None


class _Flight:
    """A group under way."""

    __slots__ = ("began_s", "lane", "later", "waiters")

    def __init__(self, lane: _Lane[Any], waiters: list[asyncio.Future[f.CoordinatorAnswer]], began_s: float) -> None:
        self.lane = lane
        self.waiters = waiters
        self.began_s = began_s
        self.later = False


class InTasks:
    """A ``Begin`` by a coroutine: each request is a task."""

    def __init__(self, serve: Serve, tasks: set[asyncio.Task[None]]) -> None:
        """``tasks``: where those are that are under way."""
        self._serve = serve
        self._tasks = tasks

    def __call__(self, request: f.CoordinatorRequest, done: Callable[[Outcome], None]) -> None:
        """Begin with a request."""
        done(LATER)
        task = asyncio.get_running_loop().create_task(self._answer(request, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: f.CoordinatorRequest, done: Callable[[Outcome], None]) -> None:
        try:
            outcome: Outcome = await self._serve(request)
        except Exception as error:  # noqa: BLE001 - whose they are is told
            outcome = error
        done(outcome)


class Joining:
    """The groups of one event loop. ``begin`` answers a request, alone or joined. Errors of a group are its members'."""

    def __init__(self, begin: Begin, clock: Clock, most: Callable[[int], int] = lambda _: MOST_TOGETHER) -> None:
        """``most(bucket_id)``: of so many keys of a bucket one request may be."""
        self._begin_with = begin
        self._clock = clock
        self._most = most
        self._reads: _Lane[f.GetMany] = _Lane(_joined_reads)
        self._writes: _Lane[f.WriteMany] = _Lane(_joined_writes)

    @property
    def busy(self) -> bool:
        """Whether a group is under way, or waits to be."""
        return self._reads.busy or self._writes.busy

    def answer(self, request: f.CoordinatorRequest) -> asyncio.Future[f.CoordinatorAnswer]:
        """Answer a request that is about one key, a ``RaykvError`` as ``Refused``. Cancelled, the operation goes on."""
        if isinstance(request, f.GetMany):
            alike = (request.bucket_id, request.r, request.timeout_s, request.causality)
            return self._join(self._reads, alike, request, None)
        assert isinstance(request, f.WriteMany)
        ((key, _, _),) = request.items
        return self._join(self._writes, (request.bucket_id, request.w, request.timeout_s, request.run), request, key)

    def _join(
        self, lane: _Lane[T], alike: tuple[Any, ...], request: T, key: bytes | None
    ) -> asyncio.Future[f.CoordinatorAnswer]:
        """``key``: of a write, for a group has one write of a key at the most."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[f.CoordinatorAnswer] = loop.create_future()
        group = lane.joinable.get(alike)
        if group is None or key in group.keys or len(group.members) >= group.most:
            if group is not None:
                group.joinable = False
                self._see_to(lane)
            group = lane.joinable[alike] = _Group(alike, min(MOST_TOGETHER, self._most(alike[0])))
            loop.call_soon(self._leave, lane, group)
        if key is not None:
            group.keys.add(key)
        group.members.append((request, waiter))
        return waiter

    def _leave(self, lane: _Lane[T], group: _Group[T]) -> None:
        lane.held.append(group)
        self._let_go(lane)

    def _see_to(self, lane: _Lane[Any]) -> None:
        """Let the next one go soon: not from here, for what ends at once would begin the next, and that the next but one."""
        if not lane.called and lane.next_to_go() is not None:
            lane.called = True
            asyncio.get_running_loop().call_soon(self._called, lane)

    def _called(self, lane: _Lane[Any]) -> None:
        lane.called = False
        self._let_go(lane)

    def _let_go(self, lane: _Lane[T]) -> None:
        place = lane.next_to_go()
        if place is None:
            return
        group = lane.held[place]
        del lane.held[place]
        if lane.joinable.get(group.alike) is group:
            del lane.joinable[group.alike]
        first = group.members[0][0]
        request = first if len(group.members) == 1 else lane.join([member for member, _ in group.members])
        try:
            self._begin(lane, request, [waiter for _, waiter in group.members])
        finally:
            self._see_to(lane)

    def _begin(
        self, lane: _Lane[Any], request: f.CoordinatorRequest, waiters: list[asyncio.Future[f.CoordinatorAnswer]]
    ) -> None:
        flight = _Flight(lane, waiters, self._clock.monotonic_s())
        lane.traffic.straight += 1
        try:
            self._begin_with(request, partial(self._settle, flight))
        except Exception as error:  # noqa: BLE001 - a mistake of ours: nobody is to wait for ever because of it
            self._settle(flight, error)
        except BaseException:  # and who interrupts it leaves nobody's place taken
            self._settle(flight, StoreUnavailable("it was interrupted"))
            raise

    def _settle(self, flight: _Flight, outcome: Outcome) -> None:
        traffic = flight.lane.traffic
        if not flight.waiters or (flight.later and isinstance(outcome, Later)):
            return  # that was told already
        if flight.later:
            traffic.later -= 1
        else:
            traffic.straight -= 1
        if isinstance(outcome, Later):
            flight.later = True
            traffic.later += 1
        else:
            if not flight.later and _is_of_nodes(outcome):
                traffic.took(self._clock.monotonic_s() - flight.began_s)
            _tell(flight.waiters, outcome)
        self._see_to(flight.lane)


def _joined_reads(requests: list[f.GetMany]) -> f.GetMany:
    first = requests[0]
    return f.GetMany(
        first.bucket_id, [request.keys[0] for request in requests], first.r, first.timeout_s, first.causality
    )


def _joined_writes(requests: list[f.WriteMany]) -> f.WriteMany:
    first = requests[0]
    return f.WriteMany(
        first.bucket_id,
        [request.items[0] for request in requests],
        first.w,
        first.timeout_s,
        after=max(request.after for request in requests),
        run=first.run,
        expires_s=min(request.expires_s for request in requests),
    )


def _is_of_nodes(outcome: f.CoordinatorAnswer | Exception) -> bool:
    """Whether nodes have answered: what failed before any was asked says nothing of them."""
    return isinstance(outcome, f.GotMany | f.WroteMany) and not isinstance(outcome.items[0], f.Failed)


def _tell(waiters: list[asyncio.Future[f.CoordinatorAnswer]], outcome: f.CoordinatorAnswer | Exception) -> None:
    """Tell each of a group what became of it; ``waiters`` is empty afterwards."""
    if isinstance(outcome, RaykvError):
        outcome = f.Refused(f.Failed.of(outcome))
    if isinstance(outcome, Exception):
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(outcome)
    else:
        for waiter, part in zip(waiters, _parts(outcome, len(waiters)), strict=True):
            if not waiter.done():
                waiter.set_result(part)
    waiters.clear()


def _parts(answer: f.CoordinatorAnswer, count: int) -> list[f.CoordinatorAnswer]:
    """Return each member's part of the answer."""
    if count == 1 or isinstance(answer, f.Late | f.Refused):
        return [answer] * count
    if isinstance(answer, f.GotMany) and len(answer.items) == count:
        return [f.GotMany([item], answer.time) for item in answer.items]
    if isinstance(answer, f.WroteMany) and len(answer.items) == count:
        return [f.WroteMany([item], answer.time) for item in answer.items]
    wrong = CorruptData("a group of operations was answered with something else")
    return [f.Refused(f.Failed.of(wrong))] * count
