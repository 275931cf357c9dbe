"""Time, processes and tasks of the simulated world: one event loop in which many processes live, freeze and die.

**Time is virtual.** When nothing is left to do now, the loop's clock jumps to the next timer; ten minutes of a cluster
take a second, and pass identically every time. The core awaits asyncio's own primitives; only the clock is replaced.

**A process is a set of tasks.** A task's process is in its context (``contextvars``), which asyncio hands on to everything
that the task starts, callbacks and timers included. A process can therefore be

* *killed*: its tasks are cancelled, its ports raise ``ProcessEnded``, and nothing that it still does has any effect;
* *frozen* (SIGSTOP): its steps are parked, timers too, and run late and in order when it is thawed. A process experiences
  a stop of its host in this way: the world has moved on meanwhile.

**Nothing is swept under the carpet.** An unretrieved exception or a task left over at the end is a failure of the run
(``VirtualLoop.failures``, ``unfinished``).

Deterministic: callbacks run in the order in which they fell due, tasks are kept in dicts, and only the run's seeded
generators draw random numbers. Omitted: pre-emption. As in asyncio, a step runs to its next ``await``.
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
"""The context of everything outside processes: the network, the nemesis, timers of the world."""


class ProcessEnded(BaseException):
    """Raised at the ports of a killed process. Not an ``Exception``: no handler of the core may catch it."""


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
    """Nothing is left to happen, yet a task still waits, for ever."""


class _Step(asyncio.Handle):
    """A due or future callback; its process may be frozen by then. ``process`` is None for the world's own."""

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

    It keeps its own queues: those of ``BaseEventLoop`` would take half the time of a run, for polling unused files and
    ordering timers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.failures: list[str] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Tasks of no process that are not done."""
        self._due: deque[_Step | _Timer] = deque()
        self._timers: list[tuple[float, int, _Timer]] = []
        """A heap; timers for one moment fire in the order in which they were set."""
        self._set_timers = 0
        self._void_timers = 0
        """The number of cancelled timers in the heap."""
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
        timer._scheduled = True  # noqa: SLF001 - reports its cancellation to the loop
        self._set_timers += 1
        heappush(self._timers, (when, self._set_timers, timer))
        return timer

    def again(self, steps: Iterable[_Step | _Timer]) -> None:
        """Requeue steps that were parked."""
        self._due.extend(steps)

    def _run_once(self) -> None:
        """Run what is due now; if nothing is, advance the time to the next timer."""
        due, timers = self._due, self._timers
        if self._void_timers > 100 and 2 * self._void_timers > len(timers):  # timeouts that were not needed
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
            if step._cancelled:  # noqa: SLF001 # it may have been cancelled while parked, too
                continue
            if step.process is not None and step.process.frozen:
                step.process.parked.append(step)
                continue
            try:
                step._context.run(step._callback, *step._args)  # noqa: SLF001
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does: the handler decides
                self.call_exception_handler({"message": f"Exception in {step!r}", "exception": error})

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if cast("_Timer", handle)._scheduled:  # noqa: SLF001
            self._void_timers += 1

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """See asyncio; works inside another loop too, as in a notebook's cell: this one awaits nothing real."""
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
        """Raise ``RuntimeError``, with advice, if the loop is running: a blocking call cannot wait for it then."""
        if self.is_running():
            raise RuntimeError(INSIDE if self._thread == threading.get_ident() else OTHER_THREAD)

    def check_running_here(self) -> None:
        """Raise ``RuntimeError``, with advice, if another loop awaits an event of this one."""
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
        """Schedule a step of the world after a delay, independent of the process running now."""
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
                task.exception()  # errors of a killed process do not matter

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
        """Called when it ends: to release locks, and to notify those who wait for an answer."""
        self._context = contextvars.Context()
        self._context.run(_process.set, self)

    def __repr__(self) -> str:
        return f"<process {self.name}{'' if self.alive else ', ended'}{', frozen' if self.frozen else ''}>"

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task in this process."""
        return self.loop.create_task(coroutine, context=self._context.copy())

    def run(self, work: Callable[[], T]) -> T:
        """Run ``work`` at once, as this process."""
        return self._context.copy().run(work)

    def check(self) -> None:
        """Raise ``ProcessEnded`` if the process was killed: the first line of every port."""
        if not self.alive:
            raise ProcessEnded(self.name)

    def freeze(self) -> None:
        """Stop the process between two steps (SIGSTOP)."""
        self.frozen = self.alive

    def thaw(self) -> None:
        """Resume the process (SIGCONT), parked steps first."""
        self.frozen = False
        parked, self.parked = self.parked, []
        self.loop.again(parked)

    def kill(self) -> None:
        """End the process (SIGKILL). Idempotent."""
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
    """Run ``work(loop)`` to completion in a new loop; return its result and the loop, for ``failures``.

    Leftover tasks are cancelled, after the work has had the chance to inspect them.
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
        gc.collect()  # asyncio reports an unretrieved exception when its future is collected
        return result, loop
    finally:
        loop.close()
