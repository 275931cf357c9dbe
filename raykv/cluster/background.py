"""Tasks without a waiter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

    from raykv.ports import Clock

T = TypeVar("T")


class Background(set[asyncio.Task[Any]]):
    """The running tasks of one event loop, kept from garbage collection meanwhile.

    Dropping a loop ends them by design: Python need not print a line for each in a user's program.
    """

    def start(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        """Run ``begin()`` in a task of the running loop, and keep it until it is done (its callback handles the outcome)."""
        task: asyncio.Task[T] = asyncio.get_running_loop().create_task(Begun(begin))
        self.add(task)
        task.add_done_callback(self.discard)
        return task

    def add(self, task: asyncio.Task[Any]) -> None:
        """Keep a task."""
        task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 - asyncio does so for its own
        super().add(task)


async def first_of(tasks: Collection[asyncio.Task[T]], clock: Clock, timeout_s: float | None) -> set[asyncio.Task[T]]:
    """Wait until one of the tasks is done; return those that are. Empty if time was up before."""
    if timeout_s is None:
        return (await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0]
    try:
        async with clock.timeout(timeout_s):
            return (await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0]
    except TimeoutError:
        return set()


class Begun(Coroutine[Any, Any, T]):
    """A coroutine that is made when its task takes the first step.

    Where the loop is closed before that, there is none of which Python could say that it "was never awaited".
    """

    __slots__ = ("_begin", "_work")

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._begin: Callable[[], Coroutine[Any, Any, T]] | None = begin
        self._work: Coroutine[Any, Any, T] | None = None

    def send(self, value: Any) -> Any:
        """Take a step, the first or another one."""
        work = self._work
        if work is None:
            begin, self._begin = self._begin, None
            if begin is None:
                raise RuntimeError("it was closed before its first step")
            work = self._work = begin()
        return work.send(value)

    def throw(self, kind: Any, value: BaseException | object = None, traceback: TracebackType | None = None) -> Any:
        """Raise an exception where it stands. Before the first step nothing has begun that could catch it."""
        if self._work is not None:
            return self._work.throw(kind, value, traceback) if traceback or value else self._work.throw(kind)
        self._begin = None
        return super().throw(kind, value, traceback)

    def close(self) -> None:
        """End it where it stands."""
        self._begin = None
        if self._work is not None:
            self._work.close()

    def __await__(self) -> Any:
        raise TypeError("it runs in a task alone")
