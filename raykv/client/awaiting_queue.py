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
from raykv.client.queues import Queues, claims_of, listed
from raykv.client.renewals import LoopRenewals
from raykv.config import check_store_name, shown
from raykv.errors import InvalidOption, RaykvError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from raykv.client.driver import Repeated
    from raykv.client.exchange import Steps
    from raykv.client.handle import Session
    from raykv.client.queues import Job


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


class Held(Generic[V]):
    """Jobs that are renewed in the background, for as long as the block lasts."""

    def __init__(self, session: Session, steps: Queues, jobs: list[Job[V]]) -> None:
        self._session = session
        self._steps = steps
        self._jobs = jobs
        self._now_s = session.link.monotonic_s if jobs else time.monotonic
        """Not by way of the handle, which may be closed meanwhile."""
        self._renewed_s = dict.fromkeys(claims_of(jobs), self._now_s())
        """Claim -> when the last renewal that succeeded was sent. Without those of which nothing is held any more."""
        self._lost = False
        self._over = False

    @property
    def lost(self) -> bool:
        """Whether the lease of some of them has run out, as far as is known: another may have them.

        By this process's clock: also where the store is out of reach. A claim of which all was acked or nacked by this
        handle is not lost.
        """
        if not self._lost and not self._over:
            oldest_s = min([*self._renewed_s.values()], default=math.inf)
            self._lost = self._now_s() - oldest_s >= self._steps.lease_s
        return self._lost

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
            outcomes = yield from steps.renew_each([*self._renewed_s], timeout=max(0.25, steps.every_s))
        except RaykvError:
            return steps.every_s / 4
        for claim, held in outcomes.items():
            if held is True:
                self._renewed_s[claim] = sent_s
            elif held is False:  # it was settled in the block, or its lease was over, whatever the clock here says
                self._lost = self._lost or not steps.has_settled(claim)
                del self._renewed_s[claim]
        if not self._renewed_s:
            return None
        return steps.every_s / (4 if any(isinstance(held, RaykvError) for held in outcomes.values()) else 1)

    def _first_s(self) -> float:
        return self._steps.first_renewal_s

    def _end(self, *, failed: bool) -> Steps[bool]:
        if failed:
            return self._steps.give_back(self._jobs, delay=0.0, timeout=self._steps.request_most_s)
        return self._steps.finish(self._jobs, timeout=self._steps.request_most_s)

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
