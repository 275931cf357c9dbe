"""Natural batching: operations that begin in one turn of the event loop leave together.

A thousand tasks that each await a ``get`` would be a thousand operations, each with its own rounds, timers and messages.
Instead, all that they request in one turn of the loop becomes one request of many keys, and each gets its part of the
answer. No timer is involved: a group leaves at the end of the turn in which it began, so a lone operation is as quick
as ever. A busier loop has longer turns, and so larger groups. While ``MOST_UNDER_WAY`` groups are in flight, later
operations wait together for one of them to return, as in a group commit.

Only operations with the same (bucket, level, time-out) share a group. Writes to one key each go to a group of their own:
they are different writes and keep their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from raykv.errors import CorruptData, RaykvError
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable

Outcome: TypeAlias = f.CoordinatorAnswer | Exception
"""The outcome of a request."""
Begin: TypeAlias = "Callable[[f.CoordinatorRequest, Callable[[Outcome], None]], None]"
"""``begin(request, done)``: starts a request; calls ``done`` with the outcome, later and once."""

T = TypeVar("T")

MOST_TOGETHER = 250
MOST_UNDER_WAY = 16


def is_about_one_key(request: f.CoordinatorRequest) -> bool:
    """Whether a request may share a group. One that waits for its turn may not: those behind it would wait too."""
    if isinstance(request, f.GetMany):
        return len(request.keys) == 1
    if isinstance(request, f.ChangeMany):
        return len(request.items) == 1 and not request.items[0].turn
    return isinstance(request, f.WriteMany) and len(request.items) == 1


class _Group(Generic[T]):
    __slots__ = ("keys", "members", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.members: list[tuple[T, asyncio.Future[f.CoordinatorAnswer]]] = []
        self.keys: set[bytes] = set()


class Batcher:
    """The groups of one event loop. ``begin`` answers a request, alone or joined. A group's error is each member's error."""

    def __init__(self, begin: Begin, most: Callable[[int], int] = lambda _: MOST_TOGETHER) -> None:
        """``most(bucket_id)``: the largest number of keys of that bucket that one request may hold."""
        self._begin_with = begin
        self._most = most
        self._reads: dict[tuple[Any, ...], _Group[f.GetMany]] = {}
        self._writes: dict[tuple[Any, ...], _Group[f.WriteMany]] = {}
        self._changes: dict[tuple[Any, ...], _Group[f.ChangeMany]] = {}
        self._under_way = 0
        self._held: deque[Callable[[], None]] = deque()
        """Groups that wait for one in flight to return."""

    @property
    def busy(self) -> bool:
        """Whether a group is in flight or waits."""
        return self._under_way > 0 or bool(self._held)

    def answer(self, request: f.CoordinatorRequest) -> asyncio.Future[f.CoordinatorAnswer]:
        """Answer a single-key request, a ``RaykvError`` as ``Refused``. A cancelled future does not end the operation."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[f.CoordinatorAnswer] = loop.create_future()
        if isinstance(request, f.GetMany):
            alike = (request.bucket_id, request.r, request.timeout_s, request.causality)
            group = self._reads.get(alike)
            if group is None or len(group.members) >= group.most:
                group = self._reads[alike] = _Group(min(MOST_TOGETHER, self._most(request.bucket_id)))
                loop.call_soon(self._leave, partial(self._leave_to_read, alike, group))
            group.members.append((request, waiter))
        elif isinstance(request, f.ChangeMany):
            akin = (request.bucket_id, request.timeout_s, request.run)
            changes = self._changes.get(akin)
            if changes is None or len(changes.members) >= changes.most:  # changes of one key keep their order
                changes = self._changes[akin] = _Group(min(MOST_TOGETHER, self._most(request.bucket_id)))
                loop.call_soon(self._leave, partial(self._leave_to_change, akin, changes))
            changes.members.append((request, waiter))
        else:
            assert isinstance(request, f.WriteMany)
            ((key, _, _),) = request.items
            same = (request.bucket_id, request.w, request.timeout_s, request.run)
            writes = self._writes.get(same)
            if writes is None or key in writes.keys or len(writes.members) >= writes.most:
                writes = self._writes[same] = _Group(min(MOST_TOGETHER, self._most(request.bucket_id)))
                loop.call_soon(self._leave, partial(self._leave_to_write, same, writes))
            writes.keys.add(key)
            writes.members.append((request, waiter))
        return waiter

    def _leave(self, go: Callable[[], None]) -> None:
        if self._under_way >= MOST_UNDER_WAY:
            self._held.append(go)
        else:
            go()

    def _leave_to_read(self, alike: tuple[Any, ...], group: _Group[f.GetMany]) -> None:
        if self._reads.get(alike) is group:
            del self._reads[alike]
        first = group.members[0][0]
        request = first
        if len(group.members) > 1:
            keys = [member.keys[0] for member, _ in group.members]
            request = f.GetMany(first.bucket_id, keys, first.r, first.timeout_s, first.causality)
        self._begin(request, [waiter for _, waiter in group.members])

    def _leave_to_write(self, same: tuple[Any, ...], group: _Group[f.WriteMany]) -> None:
        if self._writes.get(same) is group:
            del self._writes[same]
        first = group.members[0][0]
        request = first
        if len(group.members) > 1:
            requests = [member for member, _ in group.members]
            request = f.WriteMany(
                first.bucket_id,
                [member.items[0] for member in requests],
                first.w,
                first.timeout_s,
                after=max(member.after for member in requests),
                run=first.run,
                expires_s=min(member.expires_s for member in requests),
            )
        self._begin(request, [waiter for _, waiter in group.members])

    def _leave_to_change(self, akin: tuple[Any, ...], group: _Group[f.ChangeMany]) -> None:
        if self._changes.get(akin) is group:
            del self._changes[akin]
        first = group.members[0][0]
        request = first
        if len(group.members) > 1:
            requests = [member for member, _ in group.members]
            request = f.ChangeMany(
                first.bucket_id,
                [member.items[0] for member in requests],
                first.timeout_s,
                run=first.run,
                expires_s=min(member.expires_s for member in requests),
            )
        self._begin(request, [waiter for _, waiter in group.members])

    def _begin(self, request: f.CoordinatorRequest, waiters: list[asyncio.Future[f.CoordinatorAnswer]]) -> None:
        self._under_way += 1
        try:
            self._begin_with(request, partial(self._settle, waiters))
        except Exception as error:  # noqa: BLE001 - a bug here must not leave its callers waiting for ever
            self._settle(waiters, error)

    def _settle(self, waiters: list[asyncio.Future[f.CoordinatorAnswer]], outcome: Outcome) -> None:
        if not waiters:
            return  # already settled
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
        self._under_way -= 1
        if self._held:  # not from here: an operation that ends at once would begin the next one recursively
            asyncio.get_running_loop().call_soon(self._begin_held)

    def _begin_held(self) -> None:
        if self._held and self._under_way < MOST_UNDER_WAY:
            self._held.popleft()()


def _parts(answer: f.CoordinatorAnswer, count: int) -> list[f.CoordinatorAnswer]:
    """Return each member's part of the answer."""
    if count == 1 or isinstance(answer, f.DeadlinePassed | f.Refused):
        return [answer] * count
    if isinstance(answer, f.GotMany) and len(answer.items) == count:
        return [f.GotMany([item], answer.time) for item in answer.items]
    if isinstance(answer, f.WroteMany) and len(answer.items) == count:
        return [f.WroteMany([item], answer.time) for item in answer.items]
    if isinstance(answer, f.ChangedMany) and len(answer.items) == count:
        return [f.ChangedMany([item]) for item in answer.items]
    wrong = CorruptData("a group of operations was answered with something else")
    return [f.Refused(f.Failed.of(wrong))] * count
