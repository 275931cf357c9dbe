"""An event loop without a thread of its own: whoever waits for something in it drives it meanwhile.

A blocking call that hands its work to a loop in another thread pays for two changes of threads, a tenth of a
millisecond and more; that is several times what a round trip on a connection takes. So a thread that waits becomes the
*leader*: it runs the loop until its own work is done. Others who come meanwhile are *followers* (Schmidt et al. 2000,
"Leader/Followers"): their work runs in the leader's loop, and when the leader goes, one of them leads on.

Work that nobody waits for (the third acknowledgement of a write that needed two, a race that was lost) is left to the
*keeper*: a thread that looks after a few milliseconds whether anybody still drives, and does so itself until nothing is
left to do. It also leads for those who may not: a thread in which another loop is running. It starts when it is first
needed, and ends with the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

PATIENCE_S = 0.005
"""The keeper drives when nobody else has for so long."""
SLICE_S = 0.05
"""So long it drives at a time: whoever comes meanwhile is a follower."""
LOOK_EVERY_S = 0.001
CLOSE_TIMEOUT_S = 5.0


class Work(Generic[T]):
    """A coroutine that was handed in. Its outcome is there once it is ``done``."""

    __slots__ = ("_start", "done", "error", "result", "task")

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._start = start
        self.task: asyncio.Task[T] | None = None
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[T]:
        """Start it."""
        self.task = loop.create_task(self._start())
        return self.task


class DrivenLoop:
    """See the module. Any thread may ``submit`` and wait for the ``result``."""

    def __init__(self, pending: Callable[[], bool], chore: Callable[[], None] = lambda: None) -> None:
        """``pending()``: whether something is going on that must be brought to its end although nobody waits for it.

        ``chore()``: what the keeper does now and then meanwhile, beside driving the loop.
        """
        self._loop = uvloop.new_event_loop()
        self._pending = pending
        self._chore = chore
        self._turn = threading.Condition()
        self._handed_in: deque[Work[Any]] = deque()
        self._driving = False
        self._turns = 0
        self._followers = 0
        self._kept_waiting = 0
        """How many wait that may not lead."""
        self._keeper: threading.Thread | None = None
        self._keeper_rests = True
        self._closed = False

    # ---- those who want something done ----

    def submit(self, start: Callable[[], Coroutine[Any, Any, T]]) -> Work[T]:
        """Hand work in; it begins at once if the loop is being driven, else when somebody waits for it."""
        work = Work(start)
        self._handed_in.append(work)
        if self._driving:
            self._wake()
        return work

    def result(self, work: Work[T], timeout_s: float) -> T:
        """Wait until the work is done. Raises what it raised; ``TimeoutError``: it goes on all the same."""
        deadline_s = time.monotonic() + timeout_s
        if _in_a_loop():
            self._let_the_keeper_lead(work, deadline_s)
        elif not self._follow(work, deadline_s):
            self._lead(work, deadline_s)
        if work.error is not None:
            raise work.error
        return work.result  # type: ignore[return-value] # it is done, and did not fail

    def call(self, start: Callable[[], Coroutine[Any, Any, T]], timeout_s: float) -> T:
        """``submit`` and wait for the ``result``."""
        return self.result(self.submit(start), timeout_s)

    def borrow(self) -> bool:
        """Have the loop to oneself, if nobody drives it just now: nothing happens in it until ``give_back``."""
        with self._turn:
            if self._driving or self._closed:
                return False
            self._driving = True
            return True

    def give_back(self) -> None:
        """End what ``borrow`` began."""
        self._step_down()

    def _follow(self, work: Work[Any], deadline_s: float) -> bool:
        """Wait while somebody else drives. True if the work is done; False if this thread is to lead, as of now."""
        with self._turn:
            self._followers += 1
            try:
                while self._driving and not work.done:
                    if not self._turn.wait(deadline_s - time.monotonic()) and time.monotonic() >= deadline_s:
                        raise TimeoutError
            finally:
                self._followers -= 1
            if work.done:
                return True
            self._check_open()
            self._driving = True
            return False

    def _lead(self, work: Work[Any], deadline_s: float) -> None:
        try:
            self._take_in()
            assert work.task is not None
            timer = self._loop.call_later(deadline_s - time.monotonic(), self._loop.stop)
            try:
                work.task.add_done_callback(self._stop)
                self._loop.run_forever()  # until the work is done, its time is up, or the caller is interrupted
            finally:
                work.task.remove_done_callback(self._stop)
                timer.cancel()
            if not work.done:
                raise TimeoutError
        finally:
            self._step_down()

    def _step_down(self) -> None:
        with self._turn:
            self._driving = False
            self._turns += 1
            if self._followers or self._kept_waiting or self._closed:
                self._turn.notify_all()
            elif self._keeper_rests and self._left():
                self._rouse_keeper()

    def _left(self) -> bool:
        return bool(self._handed_in) or self._pending()

    def _stop(self, _: asyncio.Task[Any]) -> None:
        self._loop.stop()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was closed meanwhile
            self._loop.call_soon_threadsafe(self._take_in)

    def _take_in(self) -> None:
        """Begin what was handed in. In the thread that drives."""
        while self._handed_in:
            work = self._handed_in.popleft()
            work.begin(self._loop).add_done_callback(partial(self._settle, work))

    def _settle(self, work: Work[Any], task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            work.error = asyncio.CancelledError()
        elif (error := task.exception()) is not None:
            work.error = error
        else:
            work.result = task.result()
        work.done = True
        if self._followers or self._kept_waiting:
            with self._turn:
                self._turn.notify_all()

    # ---- the keeper ----

    def _let_the_keeper_lead(self, work: Work[Any], deadline_s: float) -> None:
        with self._turn:
            self._check_open()
            self._kept_waiting += 1
            try:
                self._rouse_keeper()
                while not work.done:
                    if not self._turn.wait(deadline_s - time.monotonic()) and time.monotonic() >= deadline_s:
                        raise TimeoutError
            finally:
                self._kept_waiting -= 1

    def _rouse_keeper(self) -> None:
        """With ``_turn`` held."""
        self._keeper_rests = False
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="raykv-keeper", daemon=True)
            self._keeper.start()
        else:
            self._turn.notify_all()

    def _keep(self) -> None:
        while self._wait_for_my_turn():
            try:
                self._take_in()
                self._loop.run_until_complete(self._until_nothing_is_left())
            finally:
                self._step_down()

    def _wait_for_my_turn(self) -> bool:
        """Wait until it is for the keeper to drive. False: until the loop is closed."""
        with self._turn:
            while not self._closed:
                if self._kept_waiting and not self._driving:
                    self._driving = True
                    return True
                if self._kept_waiting:  # somebody drives, and their work is done there
                    self._turn.wait(SLICE_S)
                elif not self._left():
                    self._keeper_rests = True
                    self._turn.wait()
                    self._keeper_rests = False
                else:
                    turns = self._turns
                    self._turn.wait(PATIENCE_S)
                    if not self._driving and turns == self._turns and not self._closed:
                        self._driving = True
                        return True
        return False

    async def _until_nothing_is_left(self) -> None:
        for _ in range(round(SLICE_S / LOOK_EVERY_S)):
            self._take_in()
            self._chore()
            if not self._left() and not self._kept_waiting:
                return
            await asyncio.sleep(LOOK_EVERY_S)

    # ---- the end ----

    def close(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``last()``, cancel what is left, and close. Idempotent. Not in the thread of a running loop's callback."""
        with self._turn:
            if self._closed:
                return
            self._closed = True
            self._turn.notify_all()
            deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
            while self._driving and time.monotonic() < deadline_s:
                self._wake()
                self._turn.wait(0.05)
            if self._driving:
                return  # somebody's call goes on for ever; the loop is left to it
            self._driving = True
        ending = threading.Thread(target=self._end, args=(last,), name="raykv-end")
        ending.start()  # a thread of its own: in this one another loop may be running
        ending.join(CLOSE_TIMEOUT_S)
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join(CLOSE_TIMEOUT_S)

    def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def finish() -> None:
            await last()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        self._loop.run_until_complete(finish())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        with self._turn:
            self._driving = False
            self._turn.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the loop was closed")


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
