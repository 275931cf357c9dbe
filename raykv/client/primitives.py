"""The blocking face of counters and locks: ``Counter`` and ``Lock``.

GENERATED from raykv/client/aio_primitives.py by scripts/generate_faces: change that file and run the script, never this one.
"""

from __future__ import annotations

from typing import Self

from raykv.client import counters
from raykv.client.blocking import BlockingLock
from raykv.client.exchange import DEFAULT_TIMEOUT_S
from raykv.client.handle import Named
from raykv.protocol.changes import ADD, MAXIMUM, MINIMUM


class Counter(Named):
    """An integer of 64 bits that all may count on: made by ``store.counter(name)``.

    Each change is atomic, carried out where the data is, and counted once, however often it had to be sent. Errors as for
    ``put``; ``InvalidOption`` for a result beyond 64 bits. They are in the bucket "raykv.counters".
    """

    _kind = "counter"

    def add(self, amount: int = 1, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Add ``amount``, which may be negative; return the sum.

        >>> hits = store.counter("hits")
        >>> hits.add(), hits.add(5)
        (1, 6)
        """
        return self._session.run(counters.counted(self._session, self.name, ADD, amount, timeout))

    def value(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Return what it is: with all that was acknowledged before. 0 where nobody has counted yet."""
        return self._session.run(counters.value_of(self._session, self.name, timeout))

    def max(self, value: int, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Raise it to ``value`` if it is lower, or was never set; return what it is then."""
        return self._session.run(counters.counted(self._session, self.name, MAXIMUM, value, timeout))

    def min(self, value: int, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Lower it to ``value`` if it is higher, or was never set; return what it is then."""
        return self._session.run(counters.counted(self._session, self.name, MINIMUM, value, timeout))

    def set(self, value: int, *, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        """Set it to ``value``, whatever it was."""
        self._session.run(counters.set_to(self._session, self.name, value, timeout))


class Lock(BlockingLock):
    """A lock that one holder has at a time, for as long as it renews its lease: made by ``store.lock(name)``.

    While it is held it is renewed in the background, three times a lease. A holder that cannot renew it for a whole lease
    (cut off, frozen, killed; its event loop blocked, or its interpreter held by native code) has lost it, and another may
    acquire it: look at ``lost`` between steps, and give ``token`` as ``fence`` with each write that the lock is to protect.
    A process that sleeps and wakes cannot be stopped by any lock; its fenced writes are refused.

    A handle is held once; other threads and tasks make their own. A copy that was pickled, and a fork's child, hold nothing.
    """

    def acquire(self) -> Self:
        """Wait for the lock and take it; return this handle. Entering a block does so, leaving it releases the lock.

        >>> leader = store.lock("leader", lease=10, timeout=30)
        >>> with leader as held:
        ...     held.token, held.lost
        (1, False)

        Raises ``Conflict``, which names the holder, if another has it for all of ``timeout``.
        """
        self._begin()
        try:
            self._hold(self._session.run(self._claims.acquire()))
        finally:
            self._acquiring = False
        return self

    def release(self) -> bool:
        """Free the lock, if this handle holds it; return False if it did not, or not any more.

        The lock of another holder is never touched. If the store does not answer, the lock becomes free with its lease.
        """
        tenancy = self._let_go()
        if tenancy is None:
            return False
        held = self._session.run(self._claims.release(tenancy))
        self._stopped()
        return held
