"""Combined updates: tasks of one event loop that update one key at the same time share one read and one write.

After flat combining (Hendler et al. 2010). Who comes while an update of the key is under way waits; then all that wait are
applied in turn, and what the last one returns is written once. Each sees exactly the value that it replaces, as it would be
read: to everybody else they came one right after the other. Of tasks that update one key all the time nearly all are
carried out together, and the leader of the key has one change to make for them. An update that is alone goes its usual way.

A batch is a task of its own: a member that is cancelled, or whose time is over, takes nobody's update along.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
from typing import TYPE_CHECKING, Any, TypeAlias

from raykv.client.driver import GRACE
from raykv.client.given import CallersStop
from raykv.config import shown
from raykv.errors import Conflict, RaykvError, StoreUnavailable, WriteOutcomeUnknown
from raykv.records.keys import Key, encode_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.client.handle import Session
    from raykv.client.operations import Operations

Name: TypeAlias = "tuple[asyncio.AbstractEventLoop, int, bytes]"
"""Event loop, bucket and key."""
MOST_MEMBERS = 128
"""Members of one batch: applying them must not hold the event loop for long."""


class Member:
    """An update that waits for others, or is carried out together with them."""

    __slots__ = ("_apply", "context", "error", "future", "is_sent", "until_s", "value")

    def __init__(self, apply: Callable[[bytes | None], tuple[Any, bytes]], until_s: float) -> None:
        """``apply(payload)``: the value that replaces what stands, and its payload."""
        self._apply = apply
        self.until_s = until_s
        self.context = contextvars.copy_context()
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_sent = False
        """Whether it is part of a write of which nobody knows yet that it was refused."""
        self.value: Any = None
        self.error: Exception | None = None

    @property
    def is_told(self) -> bool:
        """Whether its outcome is known; not so if its caller has left."""
        return self.future.done() and not self.future.cancelled()

    def applied(self, payload: bytes | None, now_s: float) -> bytes | None:
        """Apply it, in its caller's context; return the new payload, or ``payload`` where it is not applied."""
        self.is_sent, self.error = False, None
        if self.future.done() or now_s >= self.until_s:
            return payload
        try:
            self.value, payload = self.context.run(self._apply, payload)
            self.is_sent = True
        except Exception as error:  # noqa: BLE001 - the caller's own, which its call raises
            self.error = error
        return payload

    def tell(self, error: Exception | None, raised: Exception | None) -> None:
        """Wake its caller. ``error``: of the whole batch; ``raised``: if that is the error of an update itself, which."""
        if self.future.done():
            return
        if error is not None and error is not raised:
            self.error = copy.copy(error) if self.is_sent else _not_written(error)
        elif not self.is_sent and self.error is None:
            return  # its time is over, and its caller is about to say so
        self.future.set_result(None)

    def result(self) -> Any:
        """Return the new value. Raises what the update raised, or the error of the batch."""
        if isinstance(self.error, CallersStop):
            raise self.error.error
        if self.error is not None:
            raise self.error
        return self.value


class _Batch:
    """Members whose updates are applied one after the other."""

    def __init__(self, members: list[Member], now_s: Callable[[], float]) -> None:
        self._members = members
        self._now_s = now_s
        self.raised: Exception | None = None

    def __call__(self, payload: bytes | None) -> tuple[None, bytes]:
        """Return the payload that all of them together leave. Raises an update's error where none leaves any."""
        now_s, self.raised = self._now_s(), None
        for member in self._members:
            payload = member.applied(payload, now_s)
        if payload is None or not any(member.is_sent for member in self._members):
            errors = [member.error for member in self._members if member.error is not None]
            errors.sort(key=lambda error: isinstance(error, CallersStop))  # which comes out as another error
            self.raised = errors[0] if errors else StoreUnavailable("nothing was written: nobody waits for it any more")
            raise self.raised
        return None, payload


class _Line:
    """An update of one key that is under way, and those that wait for it."""

    def __init__(self, session: Session, operations: Operations, key: Key) -> None:
        self._session = session
        self._operations = operations
        self._key = key
        self.now_s = operations.now_s
        self.waiting: list[Member] = []
        self._failed: RaykvError | None = None
        """Why the last update did not succeed; None if it did."""

    async def replace(self, applied: Callable[[bytes | None], tuple[Any, bytes]], timeout_s: float) -> Any:
        """See ``Operations.replace``."""
        try:
            value = await self._session.run_async(self._operations.replace(self._key, applied, timeout_s))
        except RaykvError as error:
            self._failed = error
            raise
        self._failed = None
        return value

    def over(self, timeout_s: float) -> RaykvError:
        """Return the error of an update whose time was over before it was sent."""
        if self._failed is None or isinstance(self._failed, Conflict):
            return self._operations.never_first(self._key, timeout_s)
        return StoreUnavailable(
            f"nothing was written in {timeout_s:g} s: an earlier update of {shown(self._key)} came first, and failed "
            f"({self._failed})"
        )


class Updates:
    """The updates of one session's awaitable handles that are under way."""

    def __init__(self) -> None:
        self._lines: dict[Name, _Line] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def update(
        self,
        session: Session,
        operations: Operations,
        key: Key,
        change: Callable[[Any], Any],
        default: Any,
        timeout: Any,
    ) -> Any:
        """Carry out ``update``, together with others of the same key if there are any."""
        timeout_s = operations.check_update(change, timeout)
        encoded = encode_key(key)
        apply = functools.partial(operations.applied, key, encoded, change, default)
        name = asyncio.get_running_loop(), operations.bucket_id, encoded
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(session, operations, key)
            try:
                return await line.replace(apply, timeout_s)
            finally:
                self._go_on(name, line)
        member = Member(apply, line.now_s() + timeout_s)
        line.waiting.append(member)
        try:
            async with asyncio.timeout(timeout_s * GRACE):
                await member.future
        except TimeoutError:
            if member.is_told:
                return member.result()
            if member.is_sent:
                raise WriteOutcomeUnknown(
                    "the outcome of the update is unknown: it was sent together with others, and no answer came in time. It "
                    "may stand, or surface later; read the key, then decide",
                    acks=[],
                ) from None
            raise line.over(timeout_s) from None
        return member.result()

    def _go_on(self, name: Name, line: _Line) -> None:
        """Carry out what waits; if nothing does, the next update is alone."""
        waiting = [member for member in line.waiting if not member.future.done()]
        loop = name[0]
        if not waiting or loop.is_closed():
            del self._lines[name]
            return
        members, line.waiting = waiting[:MOST_MEMBERS], waiting[MOST_MEMBERS:]
        task = loop.create_task(self._carry_out(name, line, members), context=members[0].context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, name: Name, line: _Line, members: list[Member]) -> None:
        batch = _Batch(members, line.now_s)
        error: Exception | None = WriteOutcomeUnknown("the outcome of the update is unknown: it was cancelled", acks=[])
        timeout_s = max(member.until_s for member in members) - line.now_s()
        try:
            if timeout_s > 0:
                await line.replace(batch, timeout_s)
            error = None
        except Exception as caught:  # noqa: BLE001 - each member's call raises it
            error = caught
        finally:
            for member in members:
                member.tell(error, batch.raised)
            self._go_on(name, line)


def _not_written(error: Exception) -> Exception:
    """Return what an error of a batch means for a member that was not part of what was sent."""
    if isinstance(error, WriteOutcomeUnknown):
        return StoreUnavailable(f"nothing was written: {error}")
    return copy.copy(error)
