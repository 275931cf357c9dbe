"""What renews a lock in the background: a thread of the blocking face, timers of the event loop in the awaitable one.

Neither keeps a lock alive that its user has dropped. Neither outlives its process, its loop or its handle.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING

from raykv.client.driver import run, run_async
from raykv.errors import Overloaded

if TYPE_CHECKING:
    import asyncio

    from raykv.client.driver import Link, Repeated


class LoopRenewals:
    """Renewals by an event loop. Between two of them there is a timer, and no task: nothing is left in a closed loop."""

    def __init__(
        self, steps: Repeated, link: Link, delay_s: float, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """``loop``: of the simulation, which has one for callers outside; by default the running one."""
        import asyncio  # late, as in ``handle``: most who import raykv never need it

        self._steps = steps
        self._link = link
        self._loop = loop or asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._timer = self._loop.call_later(delay_s, self._begin)

    def _begin(self) -> None:
        if not self._stopped:
            self._task = self._loop.create_task(self._renew())

    async def _renew(self) -> None:
        delay_s = await run_async(self._steps(), self._link)
        self._task = None
        if delay_s is not None and not self._stopped:
            self._timer = self._loop.call_later(delay_s, self._begin)

    def stop(self) -> None:
        """See ``client.driver.Stoppable``."""
        self._stopped = True
        self._timer.cancel()
        if self._task is not None:
            with contextlib.suppress(RuntimeError):  # its loop was closed in the middle of it
                self._task.cancel()

    async def stopped(self) -> None:
        """Wait until nothing of it is under way."""
        import asyncio

        if self._task is not None and not self._task.done() and not self._loop.is_closed():
            await asyncio.wait({self._task})


class ThreadRenewals:
    """Renewals by a daemon thread. It ends with ``stop``, with the lock's user, and with the process."""

    def __init__(self, steps: Repeated, link: Link, delay_s: float, user: object) -> None:
        """``user``: the lock's handle. Raises ``Overloaded`` if this process gets no more threads."""
        self._over = threading.Event()
        self._pid = os.getpid()
        thread = threading.Thread(
            target=_keep_on, args=(steps, link, delay_s, self._over), name="raykv-lock", daemon=True
        )
        self._thread = thread
        try:
            thread.start()
        except RuntimeError as error:
            raise Overloaded(f"this process gets no more threads ({error}), and a lock needs one") from None
        self._end = weakref.finalize(user, _set_here, self._over, self._pid)  # at the interpreter's end too

    def stop(self) -> None:
        """See ``client.driver.Stoppable``."""
        self._end()  # and nothing of it is kept for the user's sake

    def join(self, timeout_s: float) -> None:
        """Wait for the thread to end."""
        if self._pid == os.getpid() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)


def _set_here(over: threading.Event, pid: int) -> None:
    if pid == os.getpid():  # in a fork's child there is no such thread, and its lock may be held for ever
        over.set()


def _keep_on(steps: Repeated, link: Link, delay_s: float | None, over: threading.Event) -> None:
    while delay_s is not None and not over.wait(delay_s):
        delay_s = run(steps(), link)
