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
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeGuard

import msgspec

from raykv.coordinator.abandoned import Abandoned
from raykv.errors import CorruptData, RaykvError
from raykv.protocol import frames as f

Outcome: TypeAlias = f.CoordinatorAnswer | Exception
"""The outcome of a request."""
Begin: TypeAlias = Callable[[f.CoordinatorRequest, Callable[[Outcome], None]], None]
"""``begin(request, done)``: starts a request; calls ``done`` with the outcome, later and once."""

Joinable: TypeAlias = f.GetMany | f.WriteMany | f.ChangeMany

MOST_TOGETHER = 250
MOST_UNDER_WAY = 16


class _Waiter(asyncio.Future[f.CoordinatorAnswer]):
    """A member of a group of writes. Cancelled after the group has left, it notes its request as abandoned.

    Reads have plain futures: a class of its own costs a tenth of a concurrent read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, group: _Group, request: Joinable) -> None:
        super().__init__(loop=loop)
        self._request = request
        self._group: _Group | None = group

    def cancel(self, msg: Any | None = None) -> bool:
        """See ``asyncio.Future``."""
        cancelled, group = super().cancel(msg), self._group
        if cancelled and group is not None:
            self._group = None
            group.give_up(self._request, self.get_loop())
        return cancelled


class _Group:
    __slots__ = ("abandoned", "ends", "keys", "members", "most", "requests", "under_way")

    def __init__(self, most: int, abandoned: Abandoned) -> None:
        self.most = most
        self.abandoned = abandoned
        self.members: list[asyncio.Future[f.CoordinatorAnswer]] = []
        self.requests: list[Any] = []
        """One for each member."""
        self.keys: set[bytes] = set()
        self.under_way = False
        self.ends: list[Callable[[], None]] = []
        """What to call when it is over."""

    def give_up(self, request: Joinable, loop: asyncio.AbstractEventLoop) -> None:
        """Hear that nobody waits for a member's request any more."""
        if self.under_way:
            self.ends.append(self.abandoned.add(request, loop))


class _Kind(NamedTuple):
    """How single-key requests of one kind share a group."""

    single: Callable[[Any], bool]
    """Whether a request may share a group. One that waits for its turn may not: those behind it would wait too."""
    alike: Callable[[Any], tuple[Any, ...]]
    """What those of one group have in common."""
    joined: Callable[[list[Any]], f.CoordinatorRequest]
    """The request of many keys in their place."""
    key: Callable[[Any], bytes] | None = None
    """The key of which a group holds one request; None: several of one key keep their order in it."""
    writes: bool = True
    """Whether a later write has to wait for one that nobody waits for any more (``raykv.coordinator.abandoned``)."""


_KINDS: dict[type, _Kind] = {
    f.GetMany: _Kind(
        lambda read: len(read.keys) == 1,
        lambda read: (f.GetMany, read.bucket_id, read.r, read.timeout_s, read.causality),
        lambda reads: msgspec.structs.replace(reads[0], keys=[read.keys[0] for read in reads]),
        writes=False,
    ),
    f.WriteMany: _Kind(
        lambda write: len(write.items) == 1,
        lambda write: (f.WriteMany, write.bucket_id, write.w, write.timeout_s, write.run),
        lambda writes: msgspec.structs.replace(
            writes[0],
            items=[write.items[0] for write in writes],
            after=max([write.after for write in writes]),
            expires_s=min([write.expires_s for write in writes]),
        ),
        lambda write: write.items[0][0],
    ),
    f.ChangeMany: _Kind(
        lambda change: len(change.items) == 1 and not change.items[0].turn,
        lambda change: (f.ChangeMany, change.bucket_id, change.timeout_s, change.run),
        lambda changes: msgspec.structs.replace(
            changes[0],
            items=[change.items[0] for change in changes],
            expires_s=min([change.expires_s for change in changes]),
            left_s=max([change.left_s for change in changes]),
        ),
    ),
}


def is_about_one_key(request: f.CoordinatorRequest) -> TypeGuard[Joinable]:
    """Whether a request may share a group."""
    kind = _KINDS.get(type(request))
    return kind is not None and kind.single(request)


class Batcher:
    """The groups of one event loop. ``begin`` answers a request, alone or joined. A group's error is each member's error."""

    def __init__(
        self, begin: Begin, most: Callable[[int], int] = lambda _: MOST_TOGETHER, abandoned: Abandoned | None = None
    ) -> None:
        """``most(bucket_id)``: the largest number of keys of that bucket that one request may hold.

        ``abandoned``: where requests under way are noted whose future was cancelled.
        """
        self._begin_with = begin
        self._abandoned = Abandoned() if abandoned is None else abandoned
        self._most = most
        self._groups: dict[tuple[Any, ...], _Group] = {}
        self._under_way = 0
        self._held: deque[Callable[[], None]] = deque()
        """Groups that wait for one in flight to return."""

    @property
    def busy(self) -> bool:
        """Whether a group is in flight or waits."""
        return self._under_way > 0 or bool(self._held)

    def answer(self, request: Joinable) -> asyncio.Future[f.CoordinatorAnswer]:
        """Answer a single-key request, a ``RaykvError`` as ``Refused``. A cancelled future does not end the operation."""
        loop = asyncio.get_running_loop()
        kind = _KINDS[type(request)]
        alike = kind.alike(request)
        group = self._groups.get(alike)
        key = kind.key(request) if kind.key is not None else None
        if group is None or len(group.members) >= group.most or key in group.keys:
            group = self._groups[alike] = _Group(min(MOST_TOGETHER, self._most(request.bucket_id)), self._abandoned)
            loop.call_soon(self._leave, partial(self._leave_together, kind, alike, group))
        if key is not None:
            group.keys.add(key)
        waiter = _Waiter(loop, group, request) if kind.writes else loop.create_future()
        group.members.append(waiter)
        group.requests.append(request)
        return waiter

    def _leave(self, go: Callable[[], None]) -> None:
        if self._under_way >= MOST_UNDER_WAY:
            self._held.append(go)
        else:
            go()

    def _leave_together(self, kind: _Kind, alike: tuple[Any, ...], group: _Group) -> None:
        if self._groups.get(alike) is group:
            del self._groups[alike]
        members = [*zip(group.members, group.requests, strict=True)]
        if any(waiter.done() for waiter in group.members):  # cancelled in time: nobody waits for it
            members = [member for member in members if not member[0].done()]
            if not members:
                return
        group.members = [waiter for waiter, _ in members]
        requests = [request for _, request in members]
        request = requests[0] if len(requests) == 1 else kind.joined(requests)
        group.under_way = True
        self._under_way += 1
        try:
            self._begin_with(request, partial(self._settle, group))
        except Exception as error:  # noqa: BLE001 - a bug here must not leave its callers waiting for ever
            self._settle(group, error)

    def _settle(self, group: _Group, outcome: Outcome) -> None:
        if not group.under_way:
            return  # already settled
        group.under_way = False
        if isinstance(outcome, RaykvError):
            outcome = f.Refused(f.Failed.of(outcome))
        if isinstance(outcome, Exception):
            for waiter in group.members:
                if not waiter.done():
                    waiter.set_exception(outcome)
        else:
            for waiter, part in zip(group.members, _parts(outcome, len(group.members)), strict=True):
                if not waiter.done():
                    waiter.set_result(part)
        for end in group.ends:
            end()
        self._under_way -= 1
        if self._held:  # not from here: an operation that ends at once would begin the next one recursively
            asyncio.get_running_loop().call_soon(self._begin_held)

    def _begin_held(self) -> None:
        while self._held and self._under_way < MOST_UNDER_WAY:  # one of which nobody waits for anything begins nothing
            self._held.popleft()()


def _parts(answer: f.CoordinatorAnswer, count: int) -> list[f.CoordinatorAnswer]:
    """Return each member's part of the answer."""
    if count == 1 or isinstance(answer, f.DeadlinePassed | f.Refused):
        return [answer] * count
    if isinstance(answer, f.GotMany | f.WroteMany | f.ChangedMany) and len(answer.items) == count:
        return [msgspec.structs.replace(answer, items=[item]) for item in answer.items]
    wrong = CorruptData("a group of operations was answered with something else")
    return [f.Refused(f.Failed.of(wrong))] * count
