"""What only the awaitable face has: ``contains`` (nobody can await ``in``), asynchronous iteration, a lock's renewals.

Everything else is in ``raykv.client.aio``, the source of both faces; ``raykv.client.blocking`` is this module's sibling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from raykv.client.exchange import DEFAULT_TIMEOUT_S
from raykv.client.handle import Handle, K, StoreHandle, V
from raykv.client.locks import LockHandle, renewing
from raykv.client.renewals import LoopRenewals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from raykv.client.locks import Tenancy
    from raykv.client.paging import Paging
    from raykv.config import Level
    from raykv.records.keys import Key


class AwaitableBucket(Handle[K, V]):
    """What ``AsyncBucket`` has beside the operations."""

    _face = "awaitable "

    async def contains(self, key: Key, *, r: Level | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> bool:
        """Return whether the key has a value: the awaitable form of ``key in bucket``. Errors and cost as for ``get``."""
        return await self._session.run_async(self._operations.contains(key, r=r, timeout=timeout))

    async def _updated(self, key: Key, change: Callable[[Any], Any], default: Any, timeout: Any) -> Any:
        return await self._session.updates.update(self._session, self._operations, key, change, default, timeout)

    def __aiter__(self) -> AsyncIterator[K]:
        return self._parts(self._operations.scan(keys_only=True), 0)

    def _pairs(self, paging: Paging) -> Pairs:
        return Pairs(lambda: self._session.run_async(paging.step()))

    def _parts(self, paging: Paging, which: int) -> Parts:
        return Parts(self._pairs(paging), which)


class AwaitableStore(StoreHandle[Any, Any]):
    """What ``AsyncStore`` has beside the operations: nothing more than any handle of a store."""


class AwaitableLock(LockHandle):
    """What ``AsyncLock`` has beside its operations: renewals by the running event loop."""

    _renewals: LoopRenewals | None = None

    async def acquire(self) -> Self:
        """See ``AsyncLock``."""
        raise NotImplementedError

    async def release(self) -> bool:
        """See ``AsyncLock``."""
        raise NotImplementedError

    def _hold(self, tenancy: Tenancy) -> None:
        steps = renewing(self._claims, tenancy, self)
        self._renewals = LoopRenewals(steps, self._session.link, self._claims.first_renewal_s(tenancy))
        self._session.stop_at_end(self._renewals)
        self._tenancy = tenancy

    def _let_go(self) -> Tenancy | None:
        renewals = self._renewals
        if renewals is None or self._tenancy is None:
            return None
        renewals.stop()
        return self._tenancy if self._session.is_open else None

    async def _stopped(self) -> None:
        renewals, self._renewals = self._renewals, None
        if renewals is not None:
            await renewals.stopped()

    async def __aenter__(self) -> Self:
        return await self.acquire()

    async def __aexit__(self, *exception: object) -> None:
        await self.release()


class Pairs:
    """The pairs of a scan.

    Not an asynchronous generator: an event loop must finish the ones not read to their end, and closing the loop without
    that causes a warning. Here nothing is left to finish.
    """

    def __init__(self, step: Callable[[], Awaitable[Sequence[tuple[Any, Any]]]]) -> None:
        """``step()`` awaits the next pairs; none: the scan has ended."""
        self._step: Callable[[], Awaitable[Sequence[tuple[Any, Any]]]] | None = step
        self._pairs: Iterator[tuple[Any, Any]] = iter(())
        self._stepping = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Any, Any]:
        for pair in self._pairs:
            return pair
        if self._stepping:
            raise RuntimeError("another task is reading this scan; each task needs a scan of its own")
        if self._step is None:
            raise StopAsyncIteration
        self._stepping = True
        step, self._step = self._step, None  # for good, if it fails
        try:
            pairs = await step()
        finally:
            self._stepping = False
        if not pairs:
            raise StopAsyncIteration
        self._pairs, self._step = iter(pairs), step
        return next(self._pairs)

    async def aclose(self) -> None:
        """End the scan, like an asynchronous generator."""
        self._step, self._pairs = None, iter(())


class Parts:
    """The keys of a scan's pairs, or the values."""

    def __init__(self, pairs: Pairs, which: int) -> None:
        self._pairs = pairs
        self._which = which

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return (await anext(self._pairs))[self._which]

    async def aclose(self) -> None:
        """See ``Pairs``."""
        await self._pairs.aclose()
