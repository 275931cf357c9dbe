"""Locks with a lease and a fencing token: compare-and-set on one key of a linearizable bucket.

The key holds who has the lock, its *token*, which grows with each acquisition, and the length of its lease. Releasing it
writes "free" under the same token, never a delete: tokens would start again.

No clock is compared with another. A holder renews its lease, and so makes a new version of the key, and counts the lease
from the *sending* of its last good renewal. Another one may take over once it has seen one version stand for a whole lease
by its own clock: it saw that version after it was sent, so the holder knows first that its lock is lost. A holder that
sleeps through that (a frozen process) may still act before it looks at ``lost``; its *fencing token* saves the data then:
``put(..., fence=token)`` is refused where a later holder has written (Kleppmann, "How to do distributed locking", 2016).

Here are the decisions, as steps (``raykv.client.exchange``); ``raykv.client.renewals`` renews in the background.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from raykv.client.exchange import TRY_AGAIN, Exchange
from raykv.client.handle import checked_name
from raykv.client.version import Version, Versioned
from raykv.config import MAX_TIMEOUT_S, check_number, shown
from raykv.errors import (
    Conflict,
    CorruptData,
    InvalidOption,
    RaykvError,
    StoreUnavailable,
    WriteOutcomeUnknown,
)

if TYPE_CHECKING:
    from raykv.client.driver import Repeated
    from raykv.client.exchange import Steps
    from raykv.client.handle import Session
    from raykv.client.operations import Operations

LOCKS = "raykv.locks"
"""The bucket of the locks."""
LEAST_LEASE_S = 0.1
MOST_LEASE_S = 3600.0
DEFAULT_LEASE_S = 10.0
DEFAULT_WAIT_S = 30.0
RENEWALS_A_LEASE = 3
REQUEST_S = 5.0
LEAST_REQUEST_S = 0.05
PAUSE_S = 0.02
MOST_PAUSE_S = 0.25
"""A waiter looks at the lock this often at least; more often in the beginning."""
RELEASE_TRIES = 4


def check_lease(lease: object) -> float:
    """Return a lease in seconds. Raises ``InvalidOption``."""
    return check_number("lease", lease, LEAST_LEASE_S, MOST_LEASE_S)


def check_wait(timeout: object) -> float:
    """Return how long to wait for a lock, in seconds. Raises ``InvalidOption``."""
    return check_number("timeout", timeout, 0, MAX_TIMEOUT_S)


class Entry(NamedTuple):
    """What stands under a lock's key: who holds it ("": nobody), its last token, and the holder's lease."""

    owner: str
    token: int
    lease_s: float

    @classmethod
    def of(cls, name: str, value: Any) -> Entry:
        """Read a value. Raises ``CorruptData`` if no lock wrote it."""
        match value:
            case None:
                return cls("", 0, 0.0)
            case {"owner": str(owner), "token": int(token), "lease_s": float(lease_s)} if token > 0:
                return cls(owner, token, lease_s)
        raise CorruptData(f"{shown(name)} is no lock: bucket {LOCKS!r} holds {shown(value)} under it", key=name)


class Tenancy:
    """One acquisition of a lock, by this process."""

    __slots__ = ("entry", "lost", "pid", "renewed_s", "unsure_s", "version")

    def __init__(self, entry: Entry, version: Version, sent_s: float) -> None:
        self.entry = entry
        self.version = version
        self.renewed_s = sent_s
        """When the last good renewal was sent, by the holder's monotonic clock."""
        self.unsure_s: float | None = None
        """When the first renewal since was sent whose outcome is not known."""
        self.lost = False
        self.pid = os.getpid()

    @property
    def expires_s(self) -> float:
        """When the lease ends."""
        return self.renewed_s + self.entry.lease_s


class Claims:
    """The steps of one lock handle."""

    def __init__(self, session: Session, name: Any, lease: Any, timeout: Any) -> None:
        """``lease``, ``timeout``: seconds. Raises ``InvalidOption``, ``InvalidKey``."""
        self.session = session
        self.name = checked_name(name)
        self.lease_s = check_lease(lease)
        self.timeout_s = check_wait(timeout)

    def holds(self, tenancy: Tenancy | None) -> bool:
        """Return whether a tenancy has not ended. Once False, it stays so. A fork's child holds nothing."""
        if tenancy is None or tenancy.lost or tenancy.pid != os.getpid():
            return False
        try:
            over = self.session.link.monotonic_s() >= tenancy.expires_s
        except RaykvError:  # the handle is closed, and renews nothing any more
            over = True
        if over:
            tenancy.lost = True
        return not over

    @property
    def join_s(self) -> float:
        """How long a renewal under way may take at most."""
        return 1.0 + self.lease_s / RENEWALS_A_LEASE

    # ---- acquiring ----

    def acquire(self) -> Steps[Tenancy]:
        """Wait for the lock, and take it. Raises ``Conflict`` if others hold it for the whole time-out."""
        return self.session.in_own_bucket(LOCKS, REQUEST_S, self._acquire)

    def _acquire(self, operations: Operations) -> Steps[Tenancy]:
        link = self.session.link
        began_s = link.monotonic_s()
        until_s = began_s + self.timeout_s
        owner = f"{link.place()} {link.random_bytes(8).hex()}"
        watched, since_s = Version(), began_s  # a version, and since when it has been seen to stand
        claimed_s: float | None = None
        pause_s = PAUSE_S
        known: Versioned[Any] | None = None
        while True:
            failure: RaykvError | None = None
            held_until_s = until_s
            try:
                if known is None:
                    known = yield from operations.get_versioned(self.name, timeout=self._request_s(until_s))
                now_s = link.monotonic_s()
                entry = Entry.of(self.name, known.value)
                if known.version != watched:
                    watched, since_s = known.version, now_s
                if entry.owner == owner and claimed_s is not None and now_s < claimed_s + self.lease_s:
                    return Tenancy(entry, known.version, claimed_s)  # its outcome had been unknown
                held_until_s = since_s + entry.lease_s
                if not entry.owner or entry.owner == owner or now_s >= held_until_s:
                    if claimed_s is None:
                        claimed_s = now_s
                    taken = Entry(owner, entry.token + 1, self.lease_s)
                    stands = known.version if known.value is not None else Version()
                    written = yield from self._write(operations, taken, stands, self._request_s(until_s))
                    if link.monotonic_s() < now_s + self.lease_s:
                        return Tenancy(taken, written, now_s)
                    failure = StoreUnavailable(  # others may have it by now
                        f"lock {shown(self.name)} was not acquired: to write it took longer than its lease of "
                        f"{self.lease_s:g} s; try again, or take a longer lease"
                    )
            except Conflict as error:
                known = Versioned(error.value, error.version)
                continue
            except TRY_AGAIN as error:
                failure = error
            known_then, known = known, None
            now_s = link.monotonic_s()
            if now_s >= until_s:
                raise self._held_by_another(known_then) if failure is None else failure
            spread = 0.5 + link.random_bytes(1)[0] / 255
            wait_s = max(0.001, min(pause_s * spread, until_s - now_s, max(0.0, held_until_s - now_s) or pause_s))
            pause_s = min(2 * pause_s, MOST_PAUSE_S)
            yield Exchange((), 0.0, repeatable=True, pause_s=wait_s)

    def _request_s(self, until_s: float) -> float:
        """Return the time-out of one request: a lock that is free is taken however short the time-out for waiting is."""
        return min(REQUEST_S, max(1.0, until_s - self.session.link.monotonic_s()))

    def _held_by_another(self, known: Versioned[Any] | None) -> Conflict:
        version, value = (Version(), None) if known is None else (known.version, known.value)
        entry = Entry.of(self.name, value)
        return Conflict(
            f"lock {shown(self.name)} was not acquired within {self.timeout_s:g} s: {entry.owner or 'nobody'} holds it, "
            f"with fencing token {entry.token} and a lease of {entry.lease_s:g} s",
            key=self.name, version=version, value=value,
        )  # fmt: skip

    def _write(self, operations: Operations, entry: Entry, version: Version, timeout_s: float) -> Steps[Version]:
        value = entry._asdict()
        written = yield from operations.put_if(self.name, value, if_version=version, timeout=timeout_s)
        return written.version

    # ---- holding ----

    def renew(self, tenancy: Tenancy) -> Steps[float | None]:
        """Renew the lease once; return after how many seconds to do it again."""
        if not self.holds(tenancy):
            return None
        link = self.session.link
        sent_s = link.monotonic_s()
        every_s = tenancy.entry.lease_s / RENEWALS_A_LEASE
        try:
            operations = yield from self.session.own_bucket(LOCKS, REQUEST_S)
            timeout_s = max(LEAST_REQUEST_S, min(REQUEST_S, every_s, tenancy.expires_s - sent_s))
            version = yield from self._write(operations, tenancy.entry, tenancy.version, timeout_s)
        except Conflict as error:
            if not self._is_own(tenancy, error.value):
                tenancy.lost = True
                return None
            # A renewal whose outcome was unknown stands. Which of them is not known: count from the first.
            sent_s = tenancy.renewed_s if tenancy.unsure_s is None else tenancy.unsure_s
            tenancy.version, tenancy.unsure_s, every_s = error.version, None, 0.0
        except WriteOutcomeUnknown:
            if tenancy.unsure_s is None:
                tenancy.unsure_s = sent_s
            return every_s / 4
        except RaykvError:
            return every_s / 4
        else:
            tenancy.version, tenancy.unsure_s = version, None
        if not self.holds(tenancy):
            return None  # it came too late: others may have been shown that the lock is lost
        tenancy.renewed_s = max(tenancy.renewed_s, sent_s)
        return max(0.0, sent_s + every_s - link.monotonic_s())

    def first_renewal_s(self, tenancy: Tenancy) -> float:
        """Return after how many seconds a new tenancy is to be renewed."""
        due_s = tenancy.renewed_s + tenancy.entry.lease_s / RENEWALS_A_LEASE
        return max(0.0, due_s - self.session.link.monotonic_s())

    def _is_own(self, tenancy: Tenancy, value: Any) -> bool:
        with contextlib.suppress(CorruptData):
            return Entry.of(self.name, value) == tenancy.entry
        return False

    # ---- releasing ----

    def release(self, tenancy: Tenancy) -> Steps[bool]:
        """Free the lock; return whether it was held until then. Never touches the lock of another.

        If that fails, the lease ends by itself.
        """
        if tenancy.pid != os.getpid():
            return False  # it is the parent's
        held, tenancy.lost = self.holds(tenancy), True
        free = tenancy.entry._replace(owner="")
        version = tenancy.version
        with contextlib.suppress(RaykvError):
            operations = yield from self.session.own_bucket(LOCKS, REQUEST_S)
            for _ in range(RELEASE_TRIES):
                try:
                    yield from self._write(operations, free, version, REQUEST_S)
                    break
                except Conflict as error:
                    if not self._is_own(tenancy, error.value):
                        return False
                    version = error.version  # a renewal came in between
        return held


def renewing(claims: Claims, tenancy: Tenancy, user: object) -> Repeated:
    """Return the renewals of a tenancy, which end when its ``user`` is collected."""
    alive = weakref.ref(user)

    def steps() -> Steps[float | None]:
        if alive() is None:
            return None
        return (yield from claims.renew(tenancy))

    return steps


class LockHandle:
    """The common part of both faces of a lock."""

    def __init__(
        self, session: Session, name: str, lease: float = DEFAULT_LEASE_S, timeout: float = DEFAULT_WAIT_S
    ) -> None:
        """As ``Claims``."""
        self._session = session
        self._claims = Claims(session, name, lease, timeout)
        self._tenancy: Tenancy | None = None
        self._acquiring = False

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._claims.name

    @property
    def lost(self) -> bool:
        """False exactly while this handle holds the lock, as far as can be known without asking: costs no request."""
        return not self._claims.holds(self._tenancy)

    @property
    def token(self) -> int:
        """The fencing token of the last acquisition by this handle, greater than all before; 0 before the first."""
        return 0 if self._tenancy is None else self._tenancy.entry.token

    def _begin(self) -> None:
        """Raise ``InvalidOption`` if a handle would acquire the lock a second time."""
        if self._acquiring or not self.lost:
            raise InvalidOption(
                f"this handle {'waits for' if self._acquiring else 'holds'} lock {shown(self.name)} already; "
                f"store.lock({shown(self.name)}) makes another"
            )
        self._acquiring = True

    def __repr__(self) -> str:
        return f"<raykv lock {self.name!r} of store {self._session.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        claims = self._claims
        return type(self), (self._session.sent(), claims.name, claims.lease_s, claims.timeout_s)
