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
import threading
import traceback
from collections import deque
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable

T = TypeVar("T")

_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("raykv_sim_process", default=None)
WORLD = contextvars.Context()
"""The context of what belongs to no process: the network, the nemesis, timers of the world."""


class ProcessEnded(BaseException):
    """Raised at the ports of a process that was killed. Not an ``Exception``: no handler of the core may take it."""


INSIDE = (
    "a blocking call inside world.run would stop the time in which its answer comes: await it instead (world.store.aio has "
    "the same names; asyncio.sleep lets virtual time pass), or make it outside of world.run"
)
OTHER_THREAD = "a simulated world is in use by another thread: its time is one, so one thread at a time can go on in it"
OTHER_LOOP = (
    "this handle is of a simulated world and was awaited in another event loop: await it inside world.run(...) of its own "
    "world"
)
NOT_REAL = (
    "nothing real can be awaited in a simulated world (threads, sockets, processes, signals): its time jumps to what is "
    "next and waits for nobody"
)


class NothingLeft(RuntimeError):
    """Nothing is left to happen, and somebody still waits: for ever."""


class _Step(asyncio.Handle):
    """A callback whose turn it is, or will be; its process may be frozen by then. ``process`` is None for the world's."""

    __slots__ = ("process",)
    _args: tuple[Any, ...]
    _callback: Callable[..., object]
    _cancelled: bool
    _context: contextvars.Context
    process: Process | None


class _Timer(asyncio.TimerHandle):
    """A step that falls due at a moment."""

    __slots__ = ("process",)
    _args: tuple[Any, ...]
    _callback: Callable[..., object]
    _cancelled: bool
    _context: contextvars.Context
    _scheduled: bool
    process: Process | None


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module.

    It keeps what is to be done by itself, in place of ``BaseEventLoop``: half the time of a run would go there, for files
    that nobody asks, and for the order of timers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.failures: list[str] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Tasks of no process that are not done."""
        self._due: deque[_Step | _Timer] = deque()
        self._timers: list[tuple[float, int, _Timer]] = []
        """A heap; of timers for one moment, the one that was set first comes first."""
        self._set_timers = 0
        self._void_timers = 0
        """How many in the heap were cancelled."""
        self._turn = threading.Lock()
        """Held by the thread that runs the loop, ``_thread``."""
        self._thread = 0
        self.set_task_factory(cast("Any", self._make_task))
        self.set_exception_handler(self._note_failure)

    def time(self) -> float:
        """Return the virtual time, in seconds."""
        return self.now_s

    def call_soon(  # type: ignore[override] # typeshed ties the arguments to the callback
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """See asyncio; a frozen process's callbacks wait."""
        step = _Step(callback, args, self, context)
        step.process = step._context.get(_process)  # noqa: SLF001
        self._due.append(step)
        return step

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio; a frozen process's timers fire late."""
        return self.call_at(self.now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """See asyncio; a frozen process's timers fire late."""
        timer = _Timer(when, callback, args, self, context)
        timer.process = timer._context.get(_process)  # noqa: SLF001
        timer._scheduled = True  # noqa: SLF001 - it tells us when it is cancelled
        self._set_timers += 1
        heappush(self._timers, (when, self._set_timers, timer))
        return timer

    def again(self, steps: Iterable[_Step | _Timer]) -> None:
        """Let steps that were parked have their turn."""
        self._due.extend(steps)

    def _run_once(self) -> None:
        """Do what is due now; if nothing is, let the time pass until something is."""
        due, timers = self._due, self._timers
        if self._void_timers > 100 and 2 * self._void_timers > len(timers):  # those of timeouts that nobody needed
            timers[:] = [entry for entry in timers if not entry[2]._cancelled]  # noqa: SLF001
            heapify(timers)
            self._void_timers = 0
        if not due:
            while timers and timers[0][2]._cancelled:  # noqa: SLF001
                heappop(timers)
                self._void_timers -= 1
            if not timers:
                raise NothingLeft("nothing is left to happen, and somebody still waits")
            self.now_s = max(self.now_s, timers[0][0])
        while timers and timers[0][0] <= self.now_s:
            timer = heappop(timers)[2]
            timer._scheduled = False  # noqa: SLF001
            if timer._cancelled:  # noqa: SLF001
                self._void_timers -= 1
            else:
                due.append(timer)
        for _ in range(len(due)):
            step = due.popleft()
            if step._cancelled:  # noqa: SLF001 # it may have been while it was parked, too
                continue
            if step.process is not None and step.process.frozen:
                step.process.parked.append(step)
                continue
            try:
                step._context.run(step._callback, *step._args)  # noqa: SLF001
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does: it is the handler's
                self.call_exception_handler({"message": f"Exception in {step!r}", "exception": error})

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if cast("_Timer", handle)._scheduled:  # noqa: SLF001
            self._void_timers += 1

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """See asyncio; also from inside another loop, as a notebook's cell is: this one waits for nothing real."""
        try:
            self.check_free()
            if not self._turn.acquire(blocking=False):
                raise RuntimeError(OTHER_THREAD)
        except RuntimeError:
            if asyncio.iscoroutine(future):
                future.close()
            raise
        self._thread = threading.get_ident()
        outer = asyncio._get_running_loop()  # noqa: SLF001
        asyncio._set_running_loop(None)  # noqa: SLF001
        try:
            return super().run_until_complete(future)
        finally:
            asyncio._set_running_loop(outer)  # noqa: SLF001
            self._turn.release()

    def check_free(self) -> None:
        """Raise ``RuntimeError``, which says what to do instead, if the loop is running: it cannot be waited for then."""
        if self.is_running():
            raise RuntimeError(INSIDE if self._thread == threading.get_ident() else OTHER_THREAD)

    def check_running_here(self) -> None:
        """Raise ``RuntimeError``, which says what to do instead, if another loop awaits what happens in this one."""
        if asyncio._get_running_loop() is not self:  # noqa: SLF001
            raise RuntimeError(OTHER_LOOP)

    def _nothing_real(self, *arguments: object, **options: object) -> Any:
        del arguments, options
        raise RuntimeError(NOT_REAL)

    run_in_executor = call_soon_threadsafe = add_reader = add_writer = add_signal_handler = _nothing_real
    create_connection = create_server = create_datagram_endpoint = create_unix_connection = _nothing_real
    create_unix_server = connect_read_pipe = connect_write_pipe = subprocess_exec = subprocess_shell = _nothing_real
    sock_connect = sock_accept = sock_recv = sock_recv_into = sock_sendall = _nothing_real

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


class Process:
    """A process of the simulated world. ``name`` is its address."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.frozen = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Its tasks that are not done."""
        self.parked: list[_Step | _Timer] = []
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
        self.loop.again(parked)

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


def run_virtual(work: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> tuple[T, VirtualLoop]:
    """Run ``work(loop)`` in a loop of its own to its end; return its result and the loop, for ``failures``.

    What is left behind is cancelled, after the work has had the chance to look at it.
    """
    loop = VirtualLoop()
    try:
        main = loop.create_task(work(loop), context=WORLD.copy())
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
