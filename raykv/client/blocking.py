"""What only the blocking face has: access to the awaitable one, the operators of a dict, iteration, a lock's renewals.

Everything else is generated: ``raykv.client.store`` from ``raykv.client.aio``, the source of both faces.
"""

from __future__ import annotations

import copy
import itertools
from html import escape
from typing import TYPE_CHECKING, Any, Self, cast

from raykv.client import administration, faces
from raykv.client.aio import AsyncBucket, AsyncStore
from raykv.client.exchange import DEFAULT_TIMEOUT_S
from raykv.client.handle import DEFAULT_BUCKET, Handle, K, Session, StoreHandle, V
from raykv.client.locks import LockHandle, renewing
from raykv.errors import RaykvError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raykv.client.driver import Beside, Link
    from raykv.client.locks import Tenancy
    from raykv.client.paging import Paging
    from raykv.config import Routing
    from raykv.records.keys import Key

_MISSING: Any = object()


class BlockingBucket(Handle[K, V]):
    """What ``Bucket`` has beside the operations."""

    _awaitable: AsyncBucket[Any, Any] | None = None

    @property
    def aio(self) -> AsyncBucket[K, V]:
        """The same operations, awaitable; in any event loop, also in successive ones."""
        if self._awaitable is None:
            self._awaitable = AsyncBucket(self._session, self._operations, self._options)
        return self._awaitable

    def _updated(self, key: Key, change: Callable[[Any], Any], default: Any, timeout: Any) -> Any:
        return self._session.run(self._operations.update(key, change, default, timeout=timeout))

    def __getitem__(self, key: Key) -> V:
        steps = self._operations.get(key, _MISSING, r=None, timeout=DEFAULT_TIMEOUT_S)
        value = self._session.run(steps)
        if value is _MISSING:
            raise KeyError(key)
        return cast("V", value)

    def __setitem__(self, key: Key, value: V) -> None:
        self._session.run(self._operations.put(key, value, w=None, ttl=None, timeout=DEFAULT_TIMEOUT_S))

    def __delitem__(self, key: Key) -> None:
        if not self._session.run(self._operations.contains(key, r=None, timeout=DEFAULT_TIMEOUT_S)):
            raise KeyError(key)
        self._session.run(self._operations.delete(key, w=None, timeout=DEFAULT_TIMEOUT_S))

    def __contains__(self, key: Key) -> bool:
        return self._session.run(self._operations.contains(key, r=None, timeout=DEFAULT_TIMEOUT_S))

    def __iter__(self) -> Iterator[K]:
        return self._parts(self._operations.scan(keys_only=True), 0)

    def _repr_html_(self) -> str:
        """Return a page of pairs for a notebook. Pickled values are not unpickled."""
        looking = copy.copy(self._operations)
        looking._decode = faces.decode_shown  # noqa: SLF001 - its own class's way of reading, for this look
        config = looking.config
        about = f"n={config.n}, r={config.r}, w={config.w}, {config.versioning}"
        try:
            paging = looking.scan(limit=faces.ROWS + 1, timeout=faces.LOOK_TIMEOUT_S)
            pairs = [*itertools.islice(self._pairs(paging), faces.ROWS + 1)]
        except RaykvError as error:
            return faces.card(escape(repr(self)), faces.line(about), faces.line(f"{type(error).__name__}: {error}"))
        cells = [[faces.short(key), faces.short(value)] for key, value in pairs[: faces.ROWS]]
        more = "and more" if len(pairs) > faces.ROWS else "" if pairs else "no pairs"
        return faces.card(
            escape(repr(self)),
            faces.line(about),
            faces.rows(["key", "value"], cells) if cells else "",
            faces.line(more),
        )

    def _pairs(self, paging: Paging) -> Iterator[tuple[Any, Any]]:
        while pairs := self._session.run(paging.step()):
            yield from pairs

    def _parts(self, paging: Paging, which: int) -> Iterator[Any]:
        return (pair[which] for pair in self._pairs(paging))


class BlockingStore(StoreHandle[Any, Any]):
    """What ``Store`` has beside the operations."""

    _awaitable_store: AsyncStore | None = None

    def __init__(
        self,
        name: str,
        link: Link,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        routing: Routing = "auto",
        session_of: Callable[[str, Link, Routing], Session] = Session,
    ) -> None:
        """Open the bucket; ``timeout_s``: a store that is still starting may take longer to answer."""
        session = session_of(name, link, routing)
        try:
            super().__init__(session, session.open(DEFAULT_BUCKET, {}, timeout_s), {})
        except BaseException:
            session.close()
            raise

    @property
    def aio(self) -> AsyncStore:
        """The same operations, awaitable; in any event loop, also in successive ones."""
        if self._awaitable_store is None:
            self._awaitable_store = AsyncStore(self._session, self._operations)
        return self._awaitable_store

    def _repr_html_(self) -> str:
        """Return the store's nodes for a notebook."""
        try:
            status = self._session.run(administration.status(timeout=faces.LOOK_TIMEOUT_S))
        except RaykvError as error:
            return faces.card(escape(repr(self)), faces.line(f"{type(error).__name__}: {error}"))
        return status.card()

    def close(self) -> None:
        """End this handle and its buckets; the store goes on. Idempotent."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._session.close()


class BlockingLock(LockHandle):
    """What ``Lock`` has beside its operations: renewals by a thread."""

    _renewals: Beside | None = None

    def acquire(self) -> Self:
        """See ``Lock``."""
        raise NotImplementedError

    def release(self) -> bool:
        """See ``Lock``."""
        raise NotImplementedError

    def _hold(self, tenancy: Tenancy) -> None:
        steps = renewing(self._claims, tenancy, self)
        try:
            self._renewals = self._session.link.beside(steps, self._claims.first_renewal_s(tenancy), self)
        except BaseException:
            self._session.run(self._claims.release(tenancy))
            raise
        self._session.stop_at_end(self._renewals)
        self._tenancy = tenancy

    def _let_go(self) -> Tenancy | None:
        renewals = self._renewals
        if renewals is None or self._tenancy is None:
            return None
        renewals.stop()
        return self._tenancy if self._session.is_open else None

    def _stopped(self) -> None:
        renewals, self._renewals = self._renewals, None
        if renewals is not None:
            renewals.join(self._claims.join_s)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()
