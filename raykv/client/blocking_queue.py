"""What only the blocking face of a queue has: access to the awaitable one, and claims that a thread renews.

Everything else is generated: ``raykv.client.task_queue`` from ``raykv.client.aio_queue``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from raykv.client.aio_queue import AsyncQueue
from raykv.client.awaiting_queue import Held, QueueHandle, made
from raykv.client.handle import V
from raykv.client.queues import listed
from raykv.errors import RaykvError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from raykv.client.driver import Beside
    from raykv.client.queues import Job


class BlockingQueue(QueueHandle[V]):
    """What ``Queue`` has beside its operations."""

    @property
    def aio(self) -> AsyncQueue[V]:
        """The same operations, awaitable; in any event loop, also in successive ones."""
        awaitable: AsyncQueue[V] = made(AsyncQueue, self._session, self.name, self._steps.given())
        return awaitable

    def hold(self, jobs: Job[V] | Iterable[Job[V]]) -> BlockingHold[V]:
        """Return a block in which claimed jobs are renewed in the background, and behind which they are acked.

        >>> jobs = store.queue("jobs", lease=30)
        >>> with jobs.hold(jobs.claim(10)) as claimed:
        ...     results = [job.value for job in claimed]

        If the block raises, those that it has not acked are nacked. ``lost``, of what it returns, says whether their lease
        ran out although: another has them then.
        """
        return BlockingHold(self._session, self._steps, listed(jobs))

    def put_async(self, item: V, block: bool = True, timeout: float | None = None) -> Awaitable[str]:
        """Return an awaitable that puts a job: ``aio.put``."""
        return self.aio.put(item, block, timeout)

    def get_async(self, block: bool = True, timeout: float | None = None) -> Awaitable[V]:
        """Return an awaitable that gets a job: ``aio.get``."""
        return self.aio.get(block, timeout)

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """Do nothing: a queue has no actor of its own, and outlives its handles."""


class BlockingHold(Held[V]):
    """Jobs that are renewed by a thread."""

    _renewals: Beside | None = None

    def __enter__(self) -> Self:
        if self._jobs:
            self._renewals = self._session.link.beside(self._repeated(), self._first_s(), self)
            self._session.stop_at_end(self._renewals)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._renewals is not None:
            self._renewals.stop()
            self._renewals.join(self._steps.request_most_s)
            self._note_end()
            try:
                self._session.run(self._end(failed=kind is not None))
            except RaykvError:
                if kind is None:  # else the block's own error is what counts, and their lease ends by itself
                    raise
