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


class LoopClosed(Exception):
    """The loop was closed; what had begun may have been done all the same."""


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
        self._over = False
        """Whether nothing is begun any more, for the loop is at its very end."""
        self._last: Callable[[], Coroutine[Any, Any, None]] | None = None
        """What is to be done at the end, once nobody drives any more."""

    # ---- those who want something done ----

    def submit(self, start: Callable[[], Coroutine[Any, Any, T]]) -> Work[T]:
        """Hand work in; it begins at once if the loop is being driven, else when somebody waits for it."""
        work = Work(start)
        self._handed_in.append(work)
        if self._driving:
            self._wake()
        return work

    def result(self, work: Work[T], timeout_s: float) -> T:
        """Wait until the work is done. Raises what it raised, ``LoopClosed``; ``TimeoutError``: it goes on all the same."""
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
            if not self._free:
                return False
            self._driving = True
            return True

    @property
    def begun_all(self) -> bool:
        """Whether all that was handed in has begun."""
        return not self._handed_in

    @property
    def _free(self) -> bool:
        return not self._driving and not self._closed

    def give_back(self) -> None:
        """End what ``borrow`` began."""
        self._step_down()

    def _follow(self, work: Work[Any], deadline_s: float) -> bool:
        """Wait while somebody else drives. True if the work is done; False if this thread is to lead, as of now."""
        with self._turn:
            self._followers += 1
            leads = False
            try:
                while self._driving and not work.done:
                    self._wait(deadline_s)
                if work.done:
                    return True
                self._check_open()
                self._driving = leads = True
                return False
            finally:
                self._followers -= 1
                if not leads and not self._driving and not self._followers:
                    self._leave_what_is_left()  # whoever drove has left it to this thread, which does not lead

    def _wait(self, deadline_s: float) -> None:
        """Wait until something has changed. With ``_turn`` held. Raises ``TimeoutError``."""
        if not self._turn.wait(deadline_s - time.monotonic()) and time.monotonic() >= deadline_s:
            raise TimeoutError

    def _lead(self, work: Work[Any], deadline_s: float) -> None:
        try:
            self._take_in()
            assert work.task is not None
            work.task.add_done_callback(self._stop)
            try:
                while not work.done:  # a former leader's stop may have come too late for it, and end this one's turn
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0:
                        raise TimeoutError
                    timer = self._loop.call_later(left_s, self._loop.stop)
                    try:
                        self._loop.run_forever()  # until the work is done, its time is up, or the caller is interrupted
                    finally:
                        timer.cancel()
            finally:
                work.task.remove_done_callback(self._stop)
        finally:
            self._step_down()

    def _step_down(self) -> None:
        with self._turn:
            self._driving = False
            self._turns += 1
            if self._closed and self._last is not None:
                self._begin_the_end()  # whoever closed it could not wait so long
            elif self._followers or self._kept_waiting or self._closed:
                self._turn.notify_all()
            else:
                self._leave_what_is_left()

    def _leave_what_is_left(self) -> None:
        """Let the keeper see to it that what goes on comes to its end. With ``_turn`` held, while nobody drives."""
        if self._keeper_rests and not self._closed and self._left():
            self._rouse_keeper()

    def _left(self) -> bool:
        """Whether something is to be driven on. Only to be asked by whoever drives, or with ``_turn`` while nobody does."""
        return bool(self._handed_in) or self._pending()

    def _stop(self, _: asyncio.Task[Any]) -> None:
        self._loop.stop()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # it was closed meanwhile
            self._loop.call_soon_threadsafe(self._take_in)

    def _take_in(self) -> None:
        """Begin what was handed in. In the thread that drives."""
        while self._handed_in and not self._over:
            work = self._handed_in.popleft()
            work.begin(self._loop).add_done_callback(partial(self._settle, work))

    def _settle(self, work: Work[Any], task: asyncio.Task[Any]) -> None:
        if task.cancelled():  # nobody cancels but ``close``
            work.error = LoopClosed("the loop was closed")
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
                    if not self._driving:
                        self._check_open()
                    self._wait(deadline_s)
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
        try:
            self._keep_on()
        except BaseException:
            with self._turn:
                self._keeper, self._keeper_rests = None, True  # another one is to be started when it is needed
            raise

    def _keep_on(self) -> None:
        while self._wait_for_my_turn():
            try:
                self._take_in()
                look = self._loop.create_task(self._until_nothing_is_left())
                look.add_done_callback(self._stop)
                while not look.done():  # see ``_lead``
                    self._loop.run_forever()
                look.result()
            finally:
                self._step_down()

    def _wait_for_my_turn(self) -> bool:
        """Wait until it is for the keeper to drive. False: until the loop is closed."""
        with self._turn:
            while not self._closed:
                if self._kept_waiting and not self._driving:
                    self._driving = True
                    return True
                if self._driving:  # they do the work, and what is left is theirs to change
                    self._turn.wait(SLICE_S if self._kept_waiting else PATIENCE_S)
                elif not self._left():
                    self._keeper_rests = True
                    self._turn.wait()
                    self._keeper_rests = False
                else:
                    turns = self._turns
                    self._turn.wait(PATIENCE_S)
                    if self._free and turns == self._turns:
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
        """Run ``last()``, cancel what is left, and close. Idempotent. Not in the thread of a running loop's callback.

        Waits for whoever drives, but not for ever: after ``CLOSE_TIMEOUT_S`` the end is left to them.
        """
        with self._turn:
            if self._closed:
                return
            self._closed, self._last = True, last
            self._turn.notify_all()
            deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
            while self._driving and time.monotonic() < deadline_s:
                self._wake()
                self._turn.wait(0.05)
            ending = None if self._driving else self._begin_the_end()
        if ending is not None:
            ending.join(CLOSE_TIMEOUT_S)
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join(CLOSE_TIMEOUT_S)

    def _begin_the_end(self) -> threading.Thread | None:
        """With ``_turn`` held, while nobody drives: end the loop, in a thread of its own, for another loop may run here."""
        last, self._last = self._last, None
        if last is None:
            return None  # it has ended
        self._driving = True
        ending = threading.Thread(target=self._end, args=(last,), name="raykv-end")
        try:
            ending.start()
        except RuntimeError:  # the interpreter is at its end, and starts no threads any more; nor does a loop run here
            self._end(last)
            return None
        return ending

    def _end(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def finish() -> None:
            await last()
            self._over = True
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        try:
            for work in (finish, self._loop.shutdown_default_executor):
                ending = self._loop.create_task(work())
                ending.add_done_callback(self._stop)
                while not ending.done():
                    self._loop.run_forever()
        finally:
            self._loop.close()
            with self._turn:
                while self._handed_in:  # too late to be begun
                    work = self._handed_in.popleft()
                    work.error, work.done = LoopClosed("the loop was closed"), True
                self._driving = False
                self._turn.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise LoopClosed("the loop was closed")


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
