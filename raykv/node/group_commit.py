"""Group commit: one ``fdatasync`` for all answers that wait for the log (DeWitt et al. 1984).

An answer waits here until the log holds the position that it depends on (P3), by the store's durability: with "group" one
sync serves all waiting answers, with "always" each write has its own sync, with "interval" the kernel having the bytes is
enough, and a sync follows a little later. Syncs run through the Executor port, one at a time: the log is one file.

A failed sync is never retried: what the disk holds after it is unknown (the kernel may have dropped the pages and will
report success next time). A log without room differs: it has lost nothing, and the write is retried. Waiting answers do
not wait for room: they report an unknown outcome.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from raykv.storage import DiskFull, EngineFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from raykv.ports import Clock, Executor
    from raykv.storage import Engine, SyncJob

RETRY_S = 1.0


class Shell(Protocol):
    """What the log needs of the node around it."""

    @property
    def stopped(self) -> bool:
        """Whether the node accepts nothing new."""
        ...

    def fail(self, cause: str) -> None:
        """Stop the node: its disk cannot be trusted."""
        ...

    def look_for_room(self) -> None:
        """Check the free space again: the log has found no room, or has found some again."""
        ...

    def without_room(self) -> DiskFull:
        """Return the error of an answer that the log has no room for."""
        ...

    def work(self) -> None:
        """Start the flushes and compactions that are due."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it in the background; a clean stop waits for it."""
        ...


class GroupCommit:
    """The answers of one run of a node that wait for its log, and the syncs that release them."""

    def __init__(
        self,
        engine: Engine,
        shell: Shell,
        *,
        clock: Clock,
        executor: Executor,
        durability: str,
        sync_interval_s: float,
    ) -> None:
        self._engine = engine
        self._shell = shell
        self._clock = clock
        self._executor = executor
        self._durability = durability
        self._sync_interval_s = sync_interval_s
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._syncs: deque[tuple[SyncJob, bool]] = deque()
        """Log jobs to run, each with whether it must sync what it writes."""
        self._syncing = False
        self._later = False
        """Whether a sync is due at the end of the interval."""
        self.full: DiskFull | None = None
        """Set while the log has no room for what is already in memory; else None."""

    @property
    def waiting(self) -> bool:
        """Whether any answer waits."""
        return bool(self._waiting)

    async def until_durable(self, position: int) -> None:
        """Wait until the log holds ``position``. Raises ``DiskFull``, ``EngineFailed``."""
        if position > self._engine.durable_position and not self.safe_now(position):
            await self.enqueue(position)

    def safe_now(self, position: int) -> bool:
        """Whether the log is already safe enough up to there. May make it so, or start a sync."""
        if self._durability != "interval":
            return False
        if not self._later:
            self._later = True
            self._shell.spawn(self._sync_later())
        return self._written_now(position)

    def enqueue(self, position: int) -> asyncio.Future[None]:
        """Return a future that is done when the log is durable up to there."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.full is not None:
            waiter.set_exception(self._shell.without_room())
            return waiter
        self._waiting.append((position, waiter))
        if self._durability == "always":  # each write has its own sync
            self._take(sync=True)
        self._begin()
        return waiter

    def sync_soon(self) -> None:
        """Sync although no answer waits.

        A flush waits for its segment's sync, and a node that refuses writes has no answers that would cause one.
        """
        if not self._syncing:
            self._take(sync=True)
            if self._syncs:
                self._begin()

    def _begin(self) -> None:
        if not self._syncing:
            self._syncing = True
            self._shell.spawn(self._sync_all())

    def _written_now(self, position: int) -> bool:
        """Hand the log to the operating system at once, if that costs no more than a thread would.

        Returns whether that was enough.
        """
        if self._syncing or self._syncs:
            return False
        self._take(sync=False)
        if self._syncs and self._syncs[0][0].brief:
            job, _ = self._syncs[0]
            try:
                job.run(sync=False)
            except DiskFull:
                return False  # the waiting answer has it run again, and gets the error
            self._syncs.popleft()
            self._engine.finish_sync(job)
        return position <= self._engine.durable_position

    def _take(self, *, sync: bool) -> None:
        job = self._engine.next_sync(sync=sync)
        if job is not None:
            self._syncs.append((job, sync))

    async def _sync_all(self) -> None:
        """Sync repeatedly while any answer waits."""
        try:
            while self._waiting or self._syncs:
                if not self._syncs:
                    self._take(sync=self._durability != "interval")
                job, sync = self._syncs.popleft()
                try:
                    if not sync and job.brief:
                        job.run(sync)  # a change of threads would take several times as long
                    else:
                        await self._executor.run(partial(job.run, sync))
                except DiskFull as full:
                    self._syncs.appendleft((job, sync))
                    self._found_no_room(full)
                    if self._shell.stopped:
                        self._engine.give_up(full)
                        return
                    await self._clock.sleep(RETRY_S)
                    continue
                if self.full is not None:
                    self.full = None
                    self._shell.look_for_room()
                self._engine.finish_sync(job)
                self._release()
                if not self._shell.stopped:
                    self._shell.work()
        except Exception as error:  # noqa: BLE001 - whatever it is: nobody else releases the answers that wait
            cause = str(error) if isinstance(error, EngineFailed | OSError) else repr(error)
            self._engine.give_up(error)  # else the next job would be written, and leave a gap
            self._shell.fail(f"its log could not be made durable: {cause}")
            self._refuse_all(lambda: EngineFailed(cause))
        finally:
            self._syncing = False

    async def _sync_later(self) -> None:
        await self._clock.sleep(self._sync_interval_s)
        self._later = False
        if not self._shell.stopped:
            self._take(sync=True)
            if self._syncs and not self._syncing:
                self._syncing = True
                await self._sync_all()

    def _release(self) -> None:
        """Release the answers whose position is durable."""
        durable = self._engine.durable_position
        still: list[tuple[int, asyncio.Future[None]]] = []
        while self._waiting:
            position, waiter = self._waiting.popleft()
            if position > durable:
                still.append((position, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._waiting.extend(still)

    def _found_no_room(self, error: DiskFull) -> None:
        """Fail the waiting answers instead of waiting for room: their writes may have been kept or not."""
        self.full = error
        self._shell.look_for_room()
        self._refuse_all(self._shell.without_room)

    def _refuse_all(self, error: Callable[[], Exception]) -> None:
        while self._waiting:
            _, waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(error())
