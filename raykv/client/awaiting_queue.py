"""What handles of a queue are, and what only the awaitable face has: claims that the event loop renews.

Everything else is in ``raykv.client.aio_queue``, the source of both faces; ``raykv.client.blocking_queue`` is this module's
sibling.
"""

from __future__ import annotations

import math
import time
import weakref
from typing import TYPE_CHECKING, Any, Generic, Self

from raykv.client.handle import LazySession, StoreHandle, V
from raykv.client.queues import Queues, all_held, claims_of, listed
from raykv.client.renewals import LoopRenewals
from raykv.config import check_store_name, shown
from raykv.errors import InvalidOption, RaykvError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from raykv.client.driver import Repeated
    from raykv.client.exchange import Steps
    from raykv.client.handle import Session
    from raykv.client.job_claims import ClaimKey
    from raykv.client.queues import Job
    from raykv.client.shards import Place


class QueueHandle(Generic[V]):
    """The common part of both faces."""

    def __init__(
        self,
        name: str,
        maxsize: int | None = None,
        *,
        store: str | StoreHandle[Any, Any] = "default",
        lease: float | None = None,
        max_deliveries: int | None = None,
        shards: int | None = None,
        codec: str = "auto",
    ) -> None:
        """As ``store.queue(name, ...)``. ``store``: a handle of it, or its name, to which the first call connects."""
        if isinstance(store, StoreHandle):
            session: Session = store._session  # noqa: SLF001 - the same package
        elif isinstance(store, str):
            check_store_name(store)
            session = LazySession(store, "auto")
        else:
            raise InvalidOption(f"store must be a store's name, or a handle of one; got {shown(store)}")
        given = {
            "maxsize": maxsize, "lease": lease, "max_deliveries": max_deliveries, "shards": shards, "codec": codec,
        }  # fmt: skip
        self._begin(session, name, {what: value for what, value in given.items() if value is not None})

    def _begin(self, session: Session, name: str, given: dict[str, Any]) -> None:
        self._session = session
        self._steps = Queues(session, name, **given)

    @property
    def name(self) -> str:
        """The queue's name."""
        return self._steps.name

    @property
    def lease(self) -> float:
        """For how many seconds this handle claims."""
        return self._steps.lease_s

    @property
    def maxsize(self) -> int:
        """The maximum that this handle was made with; 0 for none."""
        return self._steps.maxsize or 0

    def __repr__(self) -> str:
        return f"<raykv queue {self.name!r} of store {self._session.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return made, (type(self), self._session.sent(), self.name, self._steps.given())


def made(kind: Any, session: Session, name: str, given: dict[str, Any]) -> Any:
    """Return a handle of a queue."""
    handle = kind.__new__(kind)
    handle._begin(session, name, given)  # noqa: SLF001 - its own class
    return handle


class AwaitableQueue(QueueHandle[V]):
    """What ``AsyncQueue`` has beside its operations."""

    def hold(self, jobs: Job[V] | Iterable[Job[V]]) -> AwaitableHold[V]:
        """As ``Queue.hold``, for ``async with``."""
        return AwaitableHold(self._session, self._steps, listed(jobs))


class Lease:
    """Of one claim, as far as a block that holds jobs of it knows."""

    __slots__ = ("before", "began_s", "left", "settling")

    def __init__(self, places: set[Place], began_s: float, *, before: bool) -> None:
        self.left = places
        """Jobs that were not settled."""
        self.began_s = began_s
        """When the claim, or the last renewal that succeeded, was sent."""
        self.before = before
        """Whether some of its jobs were settled before the block: which, is not known."""
        self.settling = 0
        """Requests under way that settle some: whether it is there says nothing until they are answered."""


class Held(Generic[V]):
    """Jobs that are renewed in the background, for as long as the block lasts."""

    def __init__(self, session: Session, steps: Queues, jobs: list[Job[V]]) -> None:
        self._session = session
        self._steps = steps
        self._jobs = jobs
        self._now_s = session.link.monotonic_s if jobs else time.monotonic
        """Not by way of the handle, which may be closed meanwhile."""
        known, now_s = session.job_claims, self._now_s()
        self._age_s = 0.0
        self._leases: dict[ClaimKey, Lease] = {}
        """Without those of which nothing is held any more."""
        for claim, places in claims_of(jobs).items():
            made_s = known.made_s(claim)
            self._age_s = max(self._age_s, math.inf if made_s is None else now_s - made_s)
            began_s = now_s if made_s is None else made_s
            self._leases[claim] = Lease(places, began_s, before=known.has_settled(claim))
        self._lost = False
        self._over = False
        known.add(self)

    @property
    def lost(self) -> bool:
        """Whether the lease of some of them has run out, as far as is known: another may have them.

        By this process's clock: also where the store is out of reach. It begins with the claim; with the block, if another
        process has made that. Jobs that were acked or nacked by this handle are not lost. Behind the block: whether some
        were, also when it ended.
        """
        if not self._lost and not self._over:
            oldest_s = min([lease.began_s for lease in [*self._leases.values()] if lease.left], default=math.inf)
            self._lost = self._now_s() - oldest_s >= self._steps.lease_s
        return self._lost

    def settling(self, claim: ClaimKey, more: int) -> None:
        """See ``job_claims.Holder``."""
        if lease := self._leases.get(claim):
            lease.settling += more

    def settled(self, claim: ClaimKey, places: Collection[Place]) -> None:
        """See ``job_claims.Holder``."""
        if lease := self._leases.get(claim):
            lease.left = lease.left.difference(places)

    def __iter__(self) -> Iterator[Job[V]]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)

    def _repeated(self) -> Repeated:
        alive = weakref.ref(self)

        def steps() -> Steps[float | None]:
            held = alive()
            return None if held is None else (yield from held._renew())  # noqa: SLF001 - the same class

        return steps

    def _renew(self) -> Steps[float | None]:
        """Renew once what is left; return after how many seconds to do it again, None if there is nothing left."""
        steps, sent_s = self._steps, self._now_s()
        try:
            outcomes = yield from steps.renew_each([*self._leases], timeout=max(0.25, steps.every_s))
        except RaykvError:
            return steps.every_s / 4
        for claim, held in outcomes.items():
            lease = self._leases[claim]
            if held is True:
                lease.began_s = sent_s
            elif held is False and not lease.settling:
                self._gone(self._leases.pop(claim))
        if not self._leases:
            return None
        return steps.every_s / (4 if any(isinstance(held, RaykvError) for held in outcomes.values()) else 1)

    def _gone(self, lease: Lease) -> None:
        """Note that a claim is not there: its jobs were settled, or its lease was over, whatever the clock here says."""
        self._lost = self._lost or bool(lease.left and not lease.before)

    def _first_s(self) -> float:
        """Return when to renew first: at once what may have been claimed long ago."""
        return max(0.0, self._steps.first_renewal_s - self._age_s)

    def _end(self, *, failed: bool) -> Steps[None]:
        """Settle what was not settled in the block; note whether some of it was lost."""
        steps, leases = self._steps, dict(self._leases)
        jobs = [job for job in self._jobs if self._is_left(job)]
        if not jobs:
            return
        if failed:
            outcomes = yield from steps.give_back_each(jobs, delay=0.0, timeout=steps.request_most_s)
        else:
            outcomes = yield from steps.finish_each(jobs, timeout=steps.request_most_s)
        self._lost = self._lost or any(held is False and not leases[claim].before for claim, held in outcomes.items())
        all_held(outcomes)

    def _is_left(self, job: Job[V]) -> bool:
        ((claim, places),) = claims_of([job]).items()
        lease = self._leases.get(claim)
        return lease is not None and places <= lease.left

    def _note_end(self) -> None:
        """From now on no renewal is due."""
        self._lost, self._over = self.lost, True


class AwaitableHold(Held[V]):
    """Jobs that are renewed by the running event loop."""

    _renewals: LoopRenewals | None = None

    async def __aenter__(self) -> Self:
        if self._jobs:
            self._renewals = LoopRenewals(self._repeated(), self._session.link, self._first_s())
            self._session.stop_at_end(self._renewals)
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if self._renewals is not None:
            self._renewals.stop()
            await self._renewals.stopped()
            self._note_end()
            try:
                await self._session.run_async(self._end(failed=kind is not None))
            except RaykvError:
                if kind is None:  # else the block's own error is what counts, and their lease ends by itself
                    raise
