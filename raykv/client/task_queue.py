"""The blocking face of queues: ``Queue``.

GENERATED from raykv/client/aio_queue.py by scripts/generate_faces: change that file and run the script, never this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raykv.client.blocking_queue import BlockingQueue
from raykv.client.exchange import DEFAULT_TIMEOUT_S
from raykv.client.handle import V

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raykv.client.queues import Job, QueueStats


class Queue(BlockingQueue[V]):
    """A durable queue of jobs that are each done at least once: made by ``store.queue(name)``, or by its name.

    A consumer claims jobs for a lease, and acks what it has done. What it nacks, or has not acked or renewed within the
    lease (it died, was frozen, was cut off), is delivered again, ``max_deliveries`` times at most; then it is a dead letter,
    which ``dead`` lists. A job that a consumer had when it died is delivered twice, and no other.

    Jobs are any values, up to 1 MiB less 8 KiB each. They come nearly in the order in which they were put: a queue has
    several ``shards``, each in order; ``shards=1`` keeps order and is slower. All methods can be called by many at once.

    It has the methods of ``ray.util.queue.Queue`` besides, with ``raykv.Empty`` and ``raykv.Full``, which are subclasses of
    the standard library's. Its jobs are in the bucket "raykv.queues".
    """

    # ---- putting ----

    def put(
        self,
        item: V,
        block: bool = True,
        timeout: float | None = None,
        *,
        delay: float = 0.0,
        once: str | None = None,
    ) -> str:
        """Put a job; return its id, once a majority of its copies is durable. ``delay``: seconds until it can be claimed.

        >>> jobs = store.queue("jobs")
        >>> job_id = jobs.put({"resize": "cat.jpg"})

        In a queue with a ``maxsize`` that is full it waits for room, an hour at most, or raises ``Full`` after ``timeout``
        seconds, or at once without ``block``. ``WriteOutcomeUnknown``: the job is there once, or not at all.

        ``once``: a name of the job, by which it may be put again and again, by anybody, even after it was done: there is one
        job, and its id is returned. A name costs a record for good, and a put with one three requests.

        At most 4,000 delayed puts are in view at a time: one behind them waits until some of these are done, even if it is
        due earlier.
        """
        return self._session.run(self._steps.put(item, block, timeout, delay, once))

    def put_many(self, items: Iterable[V], *, delay: float = 0.0, timeout: float = 10 * DEFAULT_TIMEOUT_S) -> list[str]:
        """Put jobs, a hundred at a time and in several shards at once; return their ids, in order.

        Not a transaction: if it fails, ``error.details["put"]`` has the ids of those that were put, in order of the items,
        each whole hundred for itself.

        >>> ids = store.queue("jobs").put_many(["a", "b", "c"])
        >>> len(ids)
        3
        """
        return self._session.run(self._steps.put_all(items, delay=delay, timeout=timeout))

    def put_nowait(self, item: V) -> None:
        """Put a job; ``Full`` where there is no room."""
        self._session.run(self._steps.put(item, False, None, 0.0))

    def put_nowait_batch(self, items: Iterable[V]) -> None:
        """Put jobs; ``Full``, and none is put, where there is not room for all at present."""
        self._session.run(self._steps.put_all(items, delay=0.0, timeout=10 * DEFAULT_TIMEOUT_S, whole=True))

    # ---- claiming, and what becomes of a claim ----

    def claim(
        self,
        count: int = 1,
        *,
        wait: float | None = 0.0,
        done: Job[V] | Iterable[Job[V]] = (),
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> list[Job[V]]:
        """Claim up to ``count`` jobs for the lease; wait up to ``wait`` seconds for the first (None: an hour).

        >>> jobs = store.queue("pictures", lease=30, max_deliveries=5)
        >>> job_id = jobs.put("cat.jpg")
        >>> claimed = jobs.claim(10, wait=60)
        >>> while claimed:
        ...     print(*[job.value for job in claimed])
        ...     claimed = jobs.claim(10, done=claimed)
        cat.jpg

        All of a call are one claim, and ``count`` at once cost little more than one. ``done``: jobs to ack first, which
        costs nothing more where they came from the same shard. A consumer that waits asks the nodes twice a second in the
        end. ``timeout``: seconds for what has to be asked; errors as for ``get`` of a bucket.
        """
        return self._session.run(self._steps.claim(count, wait=wait, timeout=timeout, done=done))

    def ack(self, jobs: Job[V] | Iterable[Job[V]], *, timeout: float = DEFAULT_TIMEOUT_S) -> bool:
        """Note that claimed jobs are done: they never come again. False if some were not held any more.

        Those may be delivered again, or have been done by another.
        """
        return self._session.run(self._steps.finish(jobs, timeout=timeout))

    def nack(self, jobs: Job[V] | Iterable[Job[V]], *, delay: float = 0.0, timeout: float = DEFAULT_TIMEOUT_S) -> bool:
        """Give claimed jobs back, to be delivered again after ``delay`` seconds. False if some were not held any more."""
        return self._session.run(self._steps.give_back(jobs, delay=delay, timeout=timeout))

    def renew(self, jobs: Job[V] | Iterable[Job[V]], *, timeout: float = DEFAULT_TIMEOUT_S) -> bool:
        """Begin the lease of their claims anew; False if some are lost. ``hold`` does so in the background."""
        return self._session.run(self._steps.renew(jobs, timeout=timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> V:
        """Claim a job, ack it, and return its value: what becomes of it then is the caller's.

        It is lost if the caller dies with it; to be sure of each, ``claim`` and ``ack``. Waits an hour at most, or raises
        ``Empty`` after ``timeout`` seconds, or at once without ``block``.
        """
        value: V = self._session.run(self._steps.get(block, timeout))
        return value

    def get_nowait(self) -> V:
        """As ``get``; ``Empty`` where there is no job at present."""
        value: V = self._session.run(self._steps.get(False, None))
        return value

    def get_nowait_batch(self, num_items: int) -> list[V]:
        """As ``get``, for exactly as many jobs; ``Empty``, and none is taken, where there are fewer."""
        return self._session.run(self._steps.get_batch(num_items))

    # ---- looking ----

    def size(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Return how many jobs wait to be claimed, delayed ones included. O(shards * log(jobs))."""
        return self._session.run(self._steps.size(timeout=timeout))

    def qsize(self) -> int:
        """Return ``size()``."""
        return self._session.run(self._steps.size(timeout=DEFAULT_TIMEOUT_S))

    def empty(self) -> bool:
        """Return whether no job waits to be claimed."""
        return not self._session.run(self._steps.size(timeout=DEFAULT_TIMEOUT_S))

    def full(self) -> bool:
        """Return whether as many jobs wait as may; never in a queue without a ``maxsize``."""
        found = self._session.run(self._steps.stats(timeout=DEFAULT_TIMEOUT_S))
        return 0 < found["maxsize"] <= found["waiting"]

    def stats(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> QueueStats:
        """Return figures: jobs that wait, are delayed, claimed or dead, and how many were put, done and delivered again.

        >>> jobs = store.queue("letters")
        >>> ids = jobs.put_many(["a", "b", "c"])
        >>> claimed = jobs.claim()
        >>> figures = jobs.stats()
        >>> figures["waiting"], figures["claimed"], figures["done"]
        (2, 1, 0)
        """
        return self._session.run(self._steps.stats(timeout=timeout))

    def peek(self, count: int = 1, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Job[V]]:
        """Return jobs that would be claimed next, and leave them."""
        return self._session.run(self._steps.peek(count, timeout=timeout))

    # ---- dead letters ----

    def dead(self, count: int = 100, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[Job[V]]:
        """Return up to ``count`` jobs that were delivered ``max_deliveries`` times and never acked."""
        return self._session.run(self._steps.dead(count, timeout=timeout))

    def requeue_dead(
        self, jobs: Job[V] | str | Iterable[Job[V] | str] | None = None, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        """Let these dead letters, or their ids, be delivered again as if they were new (None: all); return how many."""
        return self._session.run(self._steps.change_dead(jobs, again=True, timeout=timeout))

    def remove_dead(
        self, jobs: Job[V] | str | Iterable[Job[V] | str] | None = None, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> int:
        """Remove these dead letters for good (None: all); return how many."""
        return self._session.run(self._steps.change_dead(jobs, again=False, timeout=timeout))
