"""An event loop with a thread of its own that a caller's thread can acquire.

A caller's thread may be interrupted between any two instructions: by a signal handler that raises (Ctrl-C, an alarm), by
Ray cancelling a task, or by ``PyThreadState_SetAsyncExc``. No ``try`` or ``with`` is a full defence, as the exception may
strike just before or inside it. The code that runs in callers' threads relies on neither:

* Only the loop's thread runs the loop, and no signal reaches it. Callers submit work and wait on a private lock.
* A caller that does its work itself, which beats any thread switch, *acquires* the loop; nothing else runs in it
  meanwhile. A single instruction takes the ``Lease``, which names its holder: a frame on the stack of a thread. Once
  that frame has left the stack, the holder was interrupted, wherever it was. The loop's thread detects this, lets the
  owner repair what may be half done (``mend``), and carries on.
* Callers change shared state only by single C calls on ``dict`` and ``SimpleQueue``.

The loop's thread finishes work that nobody awaits (the third acknowledgement of a write that needed two, the loser of a
hedged read) once the loop has been idle for some milliseconds. It starts on first use and ends with the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections import deque
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import FrameType

T = TypeVar("T")
Last: TypeAlias = "Callable[[], Coroutine[Any, Any, None]]"

PATIENCE_S = 0.005
"""The loop's thread finishes unawaited work once the loop has not been acquired for this long."""
SLICE_S = 0.05
"""Length of one slice of it: callers that arrive meanwhile submit their work."""
LOOK_EVERY_S = 0.001
LOOK_SELDOM_S = 0.01
"""Polling interval of the loop's thread, in case a caller was interrupted before it woke the thread."""
CLOSE_TIMEOUT_S = 5.0
_HOLDER = "holder"
_THREAD = "thread"


class LoopClosed(Exception):
    """The loop was closed; work that had begun may still have taken effect."""


class CannotBegin(Exception):
    """No thread or no descriptor is available; nothing was begun."""


class Work(Generic[T]):
    """A submitted coroutine. Its outcome is set once it is ``done``. One thread may wait for it."""

    __slots__ = ("_there", "done", "error", "result", "start", "task")

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self.start = start
        self.task: asyncio.Task[T] | None = None
        """That carries it out; used by the loop's thread only."""
        self._there = threading.Lock()
        self._there.acquire()
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is done. Returns False on a time-out."""
        return self.done or self._there.acquire(timeout=max(0.0, timeout_s))

    def end(self, result: T | None, error: BaseException | None) -> None:
        """Set the outcome and wake the waiting thread. Call once."""
        if not self.done:
            self.result, self.error = result, error
            self.done = True
            self._there.release()


class Lease:
    """The holder of the loop: a frame on the stack of a thread."""

    __slots__ = ("frame", "thread")

    def __init__(self, thread: int, frame: FrameType | None) -> None:
        self.thread = thread
        self.frame = frame

    @property
    def is_abandoned(self) -> bool:
        """Return whether the frame has left its stack. Meaningful only while the lease is held.

        Only ``clear``, a single C call, says so: it refuses a frame that is on a stack, of any thread; one that has left
        loses its variables, which nothing needs but a debugger. The stack of a running thread cannot be walked: it changes
        between two steps, and what it says of a frame that has gone may be any object.
        """
        frame = self.frame
        try:
            if frame is not None:
                frame.clear()
        except RuntimeError:
            return False
        return True


class _Close:
    """The last item submitted to the loop: it closes the loop."""

    def __init__(self, last: Last) -> None:
        self.last = last


class EmbeddedLoop:
    """See the module. Any thread may ``submit`` and wait for the ``result``."""

    def __init__(
        self,
        pending: Callable[[], bool],
        chore: Callable[[], None] = lambda: None,
        mend: Callable[[], None] = lambda: None,
    ) -> None:
        """``pending()``: whether unawaited work is still under way and must be finished.

        ``chore()``: periodic work of the loop's thread beside running the loop. ``mend()``: repairs what an interrupted
        holder left half done, with the loop acquired. The loop's thread calls all three; ``release`` also calls
        ``pending``.
        """
        self._pending = pending
        self._chore = chore
        self._mend = mend
        self._loop: asyncio.AbstractEventLoop | None = None
        self._box: SimpleQueue[Work[Any] | _Close | None] = SimpleQueue()
        """Submitted work. None: something else has changed."""
        self._held: dict[str, Lease] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._given_up: dict[int, Work[Any]] = {}
        """Work whose callers were interrupted, until the loop knows."""
        self._turns = 0
        self._wanted = False
        """Whether the loop's thread waits for the loop on behalf of waiting callers, and must acquire it first."""
        self._running = False
        self._resting = False
        self._over = False
        """Whether the loop has ended and begins nothing more."""
        self._closing: _Close | None = None
        """The final work, once ``close`` was called."""
        # Used by the loop's thread only:
        self._to_begin: deque[Work[Any]] = deque()
        self._open: set[Work[Any]] = set()
        self._ended: list[Work[Any]] = []
        """Finished work, reported once the loop is free: its callers can then acquire it. None while work is open."""

    # ---- callers ----

    def submit(self, start: Callable[[], Coroutine[Any, Any, T]]) -> Work[T]:
        """Submit work; it begins as soon as the loop is free. Raises ``CannotBegin``."""
        work = Work(start)
        if not self.closed:
            self._start_thread()
        self._box.put(work)
        loop = self._loop
        if self._running and loop is not None:
            with contextlib.suppress(RuntimeError):  # closed in the meantime
                loop.call_soon_threadsafe(self._take_in)
        if self._over or (self.closed and _THREAD not in self._threads):
            self._refuse_what_is_left()
        return work

    def result(self, work: Work[T], timeout_s: float) -> T:
        """Wait for the work. Raises its error, ``LoopClosed``, or ``TimeoutError`` (the work continues).

        If the caller is interrupted, the work is cancelled; nobody acquires the loop before it has heard of that.
        """
        try:
            in_time = work.wait(timeout_s)
        except BaseException:
            if not work.done:
                self._given_up[id(work)] = work
                self._box.put(None)
            raise
        if not in_time:
            raise TimeoutError
        if work.error is not None:
            raise work.error
        return work.result  # type: ignore[return-value] # it is done and has not failed

    def call(self, start: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """``submit`` and wait for the ``result``."""
        return self.result(self.submit(start), timeout_s)

    def acquire(self, frame: FrameType) -> Lease | None:
        """Acquire the loop if nobody holds or wants it: nothing else runs in it until ``release``.

        ``frame``: that of the function that releases it, which is no generator. If the frame is left without a release,
        ``mend`` runs.
        """
        if self._wanted or self._held or self._closing is not None or self._given_up:
            return None
        lease = Lease(threading.get_ident(), frame)
        return lease if self._held.setdefault(_HOLDER, lease) is lease else None

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing is not None

    def release(self, lease: Lease) -> None:
        """End what ``acquire`` began."""
        self._turns += 1
        if self._held.get(_HOLDER) is lease:
            del self._held[_HOLDER]
        lease.frame = None
        if self._wanted or (self._resting and self._pending()):
            self._box.put(None)

    def abandon(self) -> None:
        """Wake the loop's thread: a lease will not be released."""
        self._box.put(None)

    @property
    def is_acquired_here(self) -> bool:
        """Return whether a function further up this thread's stack holds the loop, interrupted by this call."""
        thread = self._threads.get(_THREAD)
        if thread is not None and thread.ident == threading.get_ident():
            return True  # a finalizer may run, and call this, in any thread
        holder = self._held.get(_HOLDER)
        return holder is not None and holder.thread == threading.get_ident() and not holder.is_abandoned

    @property
    def begun_all(self) -> bool:
        """Return whether all submitted work has begun. Call it in the loop."""
        self._take_in()
        return not self._to_begin

    def _start_thread(self) -> None:
        if _THREAD in self._threads:
            return
        try:
            threading.Thread(target=self._main, name="raykv-loop", daemon=True).start()
        except RuntimeError as error:  # "can't start new thread", also at the interpreter's end
            raise CannotBegin(f"this process gets no more threads ({error})") from None

    def _refuse_what_is_left(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                work = self._box.get_nowait()
                if isinstance(work, Work):
                    work.end(None, LoopClosed("the loop was closed"))

    # ---- the loop's thread ----

    def _main(self) -> None:
        here = threading.current_thread()
        if self._threads.setdefault(_THREAD, here) is not here:
            return  # two threads were started at once
        mine = Lease(threading.get_ident(), sys._getframe())  # noqa: SLF001 - the only way to get it
        try:
            self._run_turns(mine)
        except BaseException as error:
            for work in [*self._open, *self._to_begin]:
                work.end(None, LoopClosed(f"its thread has failed: {error!r}"))
            self._open.clear()
            self._to_begin.clear()
            raise
        finally:
            self._running = self._wanted = False
            if self._held.get(_HOLDER) is mine:
                del self._held[_HOLDER]
            del self._threads[_THREAD]

    def _run_turns(self, mine: Lease) -> None:
        while not self._over:
            awaited = self._wait_for_something_to_do()
            if not self._have(mine, awaited):
                continue
            try:
                if self._closing is not None:
                    self._end(self._closing)
                elif awaited:
                    self._serve()
                else:
                    self._finish_unawaited()
            finally:
                del self._held[_HOLDER]
                self._tell_ended()
        self._refuse_what_is_left()

    def _tell_ended(self) -> None:
        ended, self._ended = self._ended, []
        for work in ended:
            work.end(work.result, work.error)

    def _wait_for_something_to_do(self) -> bool:
        """Return whether a caller is waiting for it."""
        called = False
        while not self._to_begin and self._closing is None:
            turns = self._turns
            self._resting = True  # set before the check: later submitters wake the loop's thread
            left = self._pending() or (called and bool(self._held))
            self._resting = not left  # polls: a wake-up by every operation would slow them all down
            try:
                self._take(PATIENCE_S if left else None)
                called = True  # perhaps because of an abandoned lease
            except Empty:
                if turns == self._turns:
                    return False
                called = False
            finally:
                self._resting = False
        return True

    def _take(self, timeout_s: float | None) -> None:
        """Take one submitted item. Raises ``Empty``. ``timeout_s`` 0 does not block."""
        work = self._box.get_nowait() if timeout_s == 0 else self._box.get(timeout=timeout_s)
        if isinstance(work, _Close):
            self._closing = work
        elif work is not None:
            self._to_begin.append(work)

    def _have(self, mine: Lease, awaited: bool) -> bool:
        """Acquire the loop. If ``awaited``, wait for the current holder; otherwise return False when it is held."""
        self._wanted = awaited
        try:
            while (holder := self._held.setdefault(_HOLDER, mine)) is not mine:
                if holder.is_abandoned and self._held.get(_HOLDER) is holder:
                    self._mend()  # the loop counts as held throughout
                    self._held[_HOLDER] = mine
                elif not awaited:
                    return False
                else:
                    with contextlib.suppress(Empty):
                        self._take(LOOK_SELDOM_S)
            return True
        finally:
            self._wanted = False

    def _made(self) -> asyncio.AbstractEventLoop:
        """Return the loop, created on first use. Raises ``OSError`` when out of descriptors."""
        if self._loop is None:
            self._loop = uvloop.new_event_loop()
        return self._loop

    def _serve(self) -> None:
        """Run the loop until all submitted work is done."""
        try:
            loop = self._made()
        except OSError as error:
            for work in self._to_begin:
                work.end(None, error)
            self._to_begin.clear()
            return
        self._run(loop, lambda: not self._open or self.closed, LOOK_SELDOM_S)

    def _finish_unawaited(self) -> None:
        try:
            loop = self._made()
        except OSError:
            return  # outstanding work began in a loop, hence one exists
        until_s = time.monotonic() + SLICE_S

        def enough() -> bool:
            if self._ended:  # a caller waits for ``close``, which needs the loop stopped
                return True
            return self.closed or (not self._open and (time.monotonic() > until_s or not self._pending()))

        self._run(loop, enough, LOOK_EVERY_S)

    def _run(self, loop: asyncio.AbstractEventLoop, enough: Callable[[], bool], look_every_s: float) -> None:
        failures: list[BaseException] = []
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            try:
                self._take_in()
                self._chore()
            except BaseException as error:  # noqa: BLE001 - raised below: a loop only logs what its callbacks raise
                failures.append(error)
            if failures or enough():
                loop.stop()
            else:
                timer = loop.call_later(look_every_s, look)

        self._running = True  # set before taking work: later submitters wake the loop
        try:
            self._take_in()
            timer = loop.call_later(look_every_s, look)
            while not enough():  # a stop that comes too late for one run ends the next
                loop.run_forever()
                if failures:
                    raise failures[0]
        finally:
            self._running = False
            if timer is not None:
                timer.cancel()

    def _take_in(self) -> None:
        """Start the submitted work."""
        with contextlib.suppress(Empty):
            while True:
                self._take(0)
        loop = self._loop
        while self._to_begin and not self._over and loop is not None:
            work = self._to_begin.popleft()
            self._open.add(work)
            work.task = loop.create_task(work.start())
            work.task.add_done_callback(partial(self._settle, work))
        if self._open:
            self._tell_ended()  # this loop is not free soon, though it may have been about to stop
        for number, work in [*self._given_up.items()]:
            if work.task is not None and loop is not None and not work.done:
                work.task.cancel()
                loop.call_soon(self._given_up.pop, number, None)  # when those who waited for its parts have heard of it
            elif work.done:
                self._given_up.pop(number, None)

    def _settle(self, work: Work[Any], task: asyncio.Task[Any]) -> None:
        self._open.discard(work)
        if task.cancelled():  # by ``close``, or its caller has given it up
            work.error = LoopClosed("the loop was closed")
        elif (error := task.exception()) is not None:
            work.error = error
        else:
            work.result = task.result()
        if self._open or self._to_begin:
            work.end(work.result, work.error)
        else:
            self._ended.append(work)
            if self._loop is not None:
                self._loop.stop()

    # ---- the end ----

    def close(self, last: Last, *, wait: bool = True) -> None:
        """Run ``last()``, cancel what is left, and close. Idempotent. Waits for that, for a bounded time."""
        if not self.closed:
            closing = _Close(last)
            self._box.put(closing)  # reaches the loop's thread even if this thread is interrupted now
            self._closing = closing
        thread = self._threads.get(_THREAD)
        if thread is None:
            self._refuse_what_is_left()
        elif wait and thread is not threading.current_thread():
            thread.join(CLOSE_TIMEOUT_S)

    def _end(self, closing: _Close) -> None:
        async def finish(loop: asyncio.AbstractEventLoop) -> None:
            try:
                await closing.last()
            finally:
                self._over = True
                left = asyncio.all_tasks() - {asyncio.current_task()}
                for task in left:
                    task.cancel()
                await asyncio.gather(*left, return_exceptions=True)
                await loop.shutdown_default_executor()

        loop = self._loop
        try:
            if loop is not None:
                ending = loop.create_task(finish(loop))
                self._run(loop, ending.done, LOOK_SELDOM_S)
                ending.result()
        finally:
            self._over = True
            if loop is not None:
                loop.close()
            for work in [*self._open, *self._to_begin]:
                work.end(None, LoopClosed("the loop was closed"))
            self._to_begin.clear()
