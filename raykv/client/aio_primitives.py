"""The source of both faces of counters and locks, in their awaitable form. See ``raykv.client.aio``.

``raykv.client.primitives`` is generated from it. ``raykv.client.counters`` and ``raykv.client.locks`` decide; a method here
only delegates.
"""

from __future__ import annotations

from typing import Self

from raykv.client import counters
from raykv.client.awaiting import AwaitableLock
from raykv.client.exchange import DEFAULT_TIMEOUT_S
from raykv.client.handle import Named
from raykv.protocol.changes import ADD, MAXIMUM, MINIMUM


class AsyncCounter(Named):
    """An integer of 64 bits that all may count on: made by ``store.aio.counter(name)``.

    Each change is atomic, carried out where the data is, and counted once, however often it had to be sent. Errors as for
    ``put``; ``InvalidOption`` for a result beyond 64 bits. They are in the bucket "raykv.counters".
    """

    _kind = "counter"

    async def add(self, amount: int = 1, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Add ``amount``, which may be negative; return the sum.

        >>> hits = store.aio.counter("hits")
        >>> await hits.add(), await hits.add(5)
        (1, 6)
        """
        return await self._session.run_async(counters.counted(self._session, self.name, ADD, amount, timeout))

    async def value(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Return what it is: with all that was acknowledged before. 0 where nobody has counted yet."""
        return await self._session.run_async(counters.value_of(self._session, self.name, timeout))

    async def max(self, value: int, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Raise it to ``value`` if it is lower, or was never set; return what it is then."""
        return await self._session.run_async(counters.counted(self._session, self.name, MAXIMUM, value, timeout))

    async def min(self, value: int, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Lower it to ``value`` if it is higher, or was never set; return what it is then."""
        return await self._session.run_async(counters.counted(self._session, self.name, MINIMUM, value, timeout))

    async def set(self, value: int, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Set it to ``value``, whatever it was."""
        await self._session.run_async(counters.set_to(self._session, self.name, value, timeout))


class AsyncLock(AwaitableLock):
    """A lock that one holder has at a time, for as long as it renews its lease: made by ``store.aio.lock(name)``.

    While it is held it is renewed in the background, three times a lease. A holder that cannot renew it for a whole lease
    (cut off, frozen, killed; its event loop blocked, or its interpreter held by native code) has lost it, and another may
    acquire it: look at ``lost`` between steps, and give ``token`` as ``fence`` with each write that the lock is to protect.
    A process that sleeps and wakes cannot be stopped by any lock; its fenced writes are refused.

    A handle is held once; other threads and tasks make their own. A copy that was pickled, and a fork's child, hold nothing.
    """

    async def acquire(self) -> Self:
        """Wait for the lock and take it; return this handle. Entering a block does so, leaving it releases the lock.

        >>> leader = store.aio.lock("leader", lease=10, timeout=30)
        >>> async with leader as held:
        ...     held.token, held.lost
        (1, False)

        Raises ``Conflict``, which names the holder, if another has it for all of ``timeout``.
        """
        self._begin()
        try:
            self._hold(await self._session.run_async(self._claims.acquire()))
        finally:
            self._acquiring = False
        return self

    async def release(self) -> bool:
        """Free the lock, if this handle holds it; return False if it did not, or not any more.

        The lock of another holder is never touched. If the store does not answer, the lock becomes free with its lease.
        """
        tenancy = self._let_go()
        if tenancy is None:
            return False
        held = await self._session.run_async(self._claims.release(tenancy))
        await self._stopped()
        return held
