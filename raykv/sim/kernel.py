"""Time, processes and tasks of the simulated world: one event loop in which many processes live, freeze and die.

**Time is virtual.** When nothing is left to do now, the loop's clock jumps to the next timer; ten minutes of a cluster
take a second, and take it the same way every time. What the core awaits is asyncio's; only where time comes from is ours.

**A process is a set of tasks.** Which process a task belongs to is in its context (``contextvars``), which asyncio hands
on to all that a task starts, callbacks and timers included. So a process can be

* *killed*: its tasks are cancelled, its ports raise ``ProcessEnded``, and nothing that it still does reaches anybody;
* *frozen* (SIGSTOP): its steps are parked, timers too, and run late and in order when it is thawed. That is how a
  process sees a stop of its host: the world has gone on meanwhile.

**Nothing is swept under the carpet.** An exception that nobody retrieved and a task that is still there at the end are
failures of the run (``VirtualLoop.failures``, ``unfinished``).

Deterministic: callbacks run in the order in which they fell due, tasks are kept in dicts, and nobody but the seeded
generators of the run draws anything. Omitted: pre-emption. As in asyncio, a step runs to its next ``await``.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import selectors
import traceback
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

T = TypeVar("T")

_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("raykv_sim_process", default=None)
WORLD = contextvars.Context()
"""The context of what belongs to no process: the network, the nemesis, timers of the world."""


class ProcessEnded(BaseException):
    """Raised at the ports of a process that was killed. Not an ``Exception``: no handler of the core may take it."""


class NothingLeft(RuntimeError):
    """Nothing is left to happen, and somebody still waits: for ever."""


class _Step:
    """A callback of a process, which may find the process frozen when its turn comes."""

    __slots__ = ("args", "callback", "context", "handle", "process")

    def __init__(
        self,
        process: Process,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context,
    ) -> None:
        self.process = process
        self.callback = callback
        self.args = args
        self.context = context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if self.process.frozen:
            self.process.parked.append(self)
        elif self.handle is None or not self.handle.cancelled():  # it may have been cancelled while it was parked
            self.callback(*self.args)


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        super().__init__(_JumpingSelector(self))
        self.now_s = 0.0
        self.failures: list[str] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Tasks of no process that are not done."""
        self.set_task_factory(cast("Any", self._make_task))
        self.set_exception_handler(self._note_failure)

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self.now_s

    def call_soon(  # type: ignore[override] # typeshed ties the arguments to the callback
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """See asyncio; a frozen process's callbacks wait."""
        process = _process.get() if context is None else context.get(_process)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        step = _Step(process, callback, args, contextvars.copy_context() if context is None else context)
        step.handle = super().call_soon(step, context=step.context)
        return step.handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio; a frozen process's timers fire late."""
        process = _process.get() if context is None else context.get(_process)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        step = _Step(process, callback, args, contextvars.copy_context() if context is None else context)
        handle = super().call_at(when, step, context=step.context)
        step.handle = handle
        return handle

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """See asyncio; also from inside another loop, as a notebook's cell is: this one waits for nothing real."""
        outer = asyncio._get_running_loop()  # noqa: SLF001
        asyncio._set_running_loop(None)  # noqa: SLF001
        try:
            return super().run_until_complete(future)
        finally:
            asyncio._set_running_loop(outer)  # noqa: SLF001

    def later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Let the world do something after a delay, whatever becomes of the process that is running now."""
        return self.call_at(self.now_s + delay_s, callback, *args, context=WORLD)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        context = options.get("context")
        process = _process.get() if context is None else context.get(_process)
        owner = self.tasks if process is None else process.tasks
        owner[task] = None

        def done(task: asyncio.Task[Any]) -> None:
            owner.pop(task, None)
            if process is not None and not process.alive and not task.cancelled():
                task.exception()  # what a killed process came upon is nobody's concern

        task.add_done_callback(done, context=WORLD)
        return task

    def _note_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        del loop
        error = context.get("exception")
        if isinstance(error, ProcessEnded):
            return
        text = "".join(traceback.format_exception(error)) if error is not None else ""
        self.failures.append(f"{context.get('message', 'an exception that nobody handled')}\n{text}".rstrip())


class _JumpingSelector(selectors.SelectSelector):
    """Asks no file; lets the time pass instead."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft("nothing is left to happen, and somebody still waits")
        if timeout > 0:
            self._loop.now_s += timeout + 1e-9  # rounding must not leave the timer in the future
        return []


class Process:
    """A process of the simulated world. ``name`` is its address."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.frozen = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Its tasks that are not done."""
        self.parked: list[_Step] = []
        self.on_kill: list[Callable[[], None]] = []
        """What the world does when it ends: give locks back, tell those who wait for an answer."""
        self._context = contextvars.Context()
        self._context.run(_process.set, self)

    def __repr__(self) -> str:
        return f"<process {self.name}{'' if self.alive else ', ended'}{', frozen' if self.frozen else ''}>"

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task in this process."""
        return self.loop.create_task(coroutine, context=self._context.copy())

    def run(self, work: Callable[[], T]) -> T:
        """Do something at once, as this process."""
        return self._context.copy().run(work)

    def check(self) -> None:
        """Raise ``ProcessEnded`` if it was killed: the first line of every port."""
        if not self.alive:
            raise ProcessEnded(self.name)

    def freeze(self) -> None:
        """Stop it between two of its steps (SIGSTOP)."""
        self.frozen = self.alive

    def thaw(self) -> None:
        """Let it go on (SIGCONT): first with what it has missed."""
        self.frozen = False
        parked, self.parked = self.parked, []
        for step in parked:
            self.loop.call_soon(step, context=step.context)

    def kill(self) -> None:
        """End it (SIGKILL). Idempotent."""
        if not self.alive:
            return
        self.alive = False
        for callback in self.on_kill:
            callback()
        self.thaw()
        for task in list(self.tasks):
            task.cancel()


def current_process() -> Process | None:
    """Return the process whose step is running; None for the world itself."""
    return _process.get()


def run_virtual(story: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> tuple[T, VirtualLoop]:
    """Run ``story(loop)`` in a loop of its own to its end; return its result and the loop, for ``failures``.

    What is left behind is cancelled, after the story has had the chance to look at it.
    """
    loop = VirtualLoop()
    try:
        main = loop.create_task(story(loop), context=WORLD.copy())
        result = loop.run_until_complete(main)
        leftovers = [task for task in [*loop.tasks] if not task.done()]
        for task in leftovers:
            task.cancel()
        if leftovers:
            loop.run_until_complete(asyncio.gather(*leftovers, return_exceptions=True))
        gc.collect()  # asyncio reports an exception that nobody retrieved when its future is collected
        return result, loop
    finally:
        loop.close()
