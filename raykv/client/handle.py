"""The common part of the four kinds of handles, and the session that they share.

``Store`` and ``AsyncStore`` are a ``StoreHandle``, ``Bucket`` and ``AsyncBucket`` a ``Handle``. Both faces pickle, compare
and print in the same way. A blocking handle references only its awaitable sibling; dropping the last handle releases the
connection.
"""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from raykv.client.administration import open_bucket
from raykv.client.driver import run, run_async
from raykv.client.exchange import DEFAULT_TIMEOUT_S
from raykv.client.job_claims import JobClaims
from raykv.client.lanes import Lanes
from raykv.client.plain_calls import decode_handed
from raykv.client.session_clock import SessionClock
from raykv.config import shown
from raykv.errors import InvalidOption, StoreClosed
from raykv.records.keys import encode_key
from raykv.versions.resolvers import Resolver, check_resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from typing_extensions import TypeVar as DefaultingTypeVar  # what type checkers know it by; it is never imported

    from raykv.client.combining import Updates
    from raykv.client.driver import Link, Stoppable
    from raykv.client.exchange import Steps
    from raykv.client.operations import Operations
    from raykv.config import BucketConfig, Routing
    from raykv.records.keys import Key

    K = DefaultingTypeVar("K", bound=Key, default=Any)
    V = DefaultingTypeVar("V", default=Any)
else:
    K = TypeVar("K")
    V = TypeVar("V")

T = TypeVar("T")

DEFAULT_BUCKET = "default"
OWN_BUCKET = {"versioning": "linearizable", "codec": "msgpack"}
"""The options of the buckets that hold counters and locks."""
_loop_warning = threading.Event()


class Session:
    """The state shared by the handles of one ``connect``: the link, and whether it was closed."""

    def __init__(self, name: str, link: Link, routing: Routing = "auto") -> None:
        self.name = name
        self.routing: Routing = routing
        self._link: Link | None = link
        self._session_clock = SessionClock(link.monotonic_s)
        self._lanes = Lanes(link.random_bytes)
        self._own_buckets: dict[str, Operations] = {}
        self._stops: weakref.WeakSet[Stoppable] = weakref.WeakSet()
        self._updates: Updates | None = None
        self.job_claims = JobClaims()

    @property
    def is_open(self) -> bool:
        """Whether the handle was not closed."""
        return self._link is not None

    @property
    def link(self) -> Link:
        """The link to the coordinator. Raises ``StoreClosed``."""
        if self._link is None:
            raise self._ended()
        return self._link

    def _ended(self) -> StoreClosed:
        return StoreClosed(
            f"this handle of store {self.name!r} is closed; raykv.connect({self.name!r}) opens a new one"
        )

    @property
    def updates(self) -> Updates:
        """The updates of awaitable handles that are under way."""
        if self._updates is None:
            from raykv.client.combining import Updates  # late: it needs asyncio, and blocking calls do without

            self._updates = Updates()
        return self._updates

    def run(self, steps: Steps[T]) -> T:
        """Run an operation, blocking."""
        _warn_inside_loop()
        return run(steps, self.link)

    def run_async(self, steps: Steps[T]) -> Coroutine[Any, Any, T]:
        """Run an operation, awaiting."""
        return run_async(steps, self.link)

    def open(self, name: str, options: Mapping[str, Any], timeout: float, resolver: Resolver = "newest") -> Operations:
        """Find or create a bucket, blocking; never warns of an event loop, in which a handle may open its bucket."""
        return run(self.open_bucket(name, options, timeout, resolver), self.link)

    def open_bucket(
        self, name: str, options: Mapping[str, Any], timeout: float, resolver: Resolver = "newest"
    ) -> Steps[Operations]:
        """Return the steps that find or create a bucket."""
        return open_bucket(
            name,
            options,
            timeout=timeout,
            random_bytes=self.link.random_bytes,
            session_clock=self._session_clock,
            resolver=check_resolver(resolver),
            pickled=self.link.pickled,
            lanes=self._lanes,
        )

    def own_bucket(self, name: str, timeout: Any, options: Mapping[str, Any] = OWN_BUCKET) -> Steps[Operations]:
        """Find or create the linearizable bucket of counters, of locks or of queues; only once."""
        operations = self._own_buckets.get(name)
        if operations is None:
            operations = yield from self.open_bucket(name, options, timeout)
            operations = self._own_buckets.setdefault(name, operations)  # another task's, that came first
        return operations

    def in_own_bucket(
        self,
        name: str,
        timeout: Any,
        work: Callable[[Operations], Steps[T]],
        options: Mapping[str, Any] = OWN_BUCKET,
    ) -> Steps[T]:
        """Return what ``work`` does in that bucket; if it was dropped meanwhile, in a new one."""
        known = name in self._own_buckets
        operations = yield from self.own_bucket(name, timeout, options)
        try:
            return (yield from work(operations))
        except InvalidOption as error:
            if not known or error.details.get("bucket_id") != operations.bucket_id:
                raise
        if self._own_buckets.get(name) is operations:
            self._own_buckets.pop(name, None)
        return (yield from work((yield from self.own_bucket(name, timeout, options))))

    def stop_at_end(self, work: Stoppable) -> None:
        """Stop this when the handle is closed."""
        self._stops.add(work)

    def close(self) -> None:
        """End the handle; the store goes on."""
        for work in list(self._stops):
            work.stop()
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def sent(self) -> Session:
        """Return the session for a copy of a handle, here or in another process."""
        return LazySession(self.name, self.routing)


class LazySession(Session):
    """The session of a pickled or copied handle: it connects on first use.

    Ray answers no requests while it unpickles a task's arguments, and a handle that is only passed on needs no connection.
    """

    def __init__(self, name: str, routing: Routing) -> None:
        self.name = name
        self.routing: Routing = routing
        self._there: Session | None = None
        self._closed = False
        self.job_claims = JobClaims()

    @property
    def _arrived(self) -> Session:
        if self._there is None:
            if not self.is_open:  # before Ray is joined
                raise self._ended()
            import raykv

            self._there = raykv.connect(self.name, routing=self.routing)._session  # noqa: SLF001 - the same class
            if self._closed:  # meanwhile, by another thread
                self._there.close()
        return self._there

    @property
    def is_open(self) -> bool:
        """See ``Session``."""
        return not self._closed

    @property
    def link(self) -> Link:
        """See ``Session``."""
        return self._arrived.link

    @property
    def updates(self) -> Updates:
        """See ``Session``."""
        return self._arrived.updates

    def open_bucket(
        self, name: str, options: Mapping[str, Any], timeout: float, resolver: Resolver = "newest"
    ) -> Steps[Operations]:
        """See ``Session``."""
        return self._arrived.open_bucket(name, options, timeout, resolver)

    def own_bucket(self, name: str, timeout: Any, options: Mapping[str, Any] = OWN_BUCKET) -> Steps[Operations]:
        """See ``Session``."""
        return self._arrived.own_bucket(name, timeout, options)

    def in_own_bucket(
        self,
        name: str,
        timeout: Any,
        work: Callable[[Operations], Steps[T]],
        options: Mapping[str, Any] = OWN_BUCKET,
    ) -> Steps[T]:
        """See ``Session``."""
        return self._arrived.in_own_bucket(name, timeout, work, options)

    def stop_at_end(self, work: Stoppable) -> None:
        """See ``Session``."""
        self._arrived.stop_at_end(work)

    def close(self) -> None:
        """See ``Session``."""
        self._closed = True
        if self._there is not None:
            self._there.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return LazySession, (self.name, self.routing)


class Handle(Generic[K, V]):
    """A handle of a bucket: its session, its policy, and the resolver of siblings.

    ``K``: the type of its keys, ``str`` or ``bytes``; ``V``: of its values. Both default to any:
    ``carts: raykv.Bucket[str, Cart] = store.bucket("carts")``.
    """

    _face = ""
    """Stands before "bucket" or "store" in the repr."""

    def __init__(
        self,
        session: Session,
        operations: Operations | None = None,
        options: Mapping[str, Any] | None = None,
        name: str = "",
        resolver: Resolver = "newest",
    ) -> None:
        """``operations``: None opens the bucket ``name`` on first use."""
        self._session = session
        self._opened = operations
        self._options = dict(options or {})
        self._name = name
        self._resolver: Resolver = resolver

    if not TYPE_CHECKING:  # type checkers know that a missing argument defaults to any

        def __class_getitem__(cls, given: Any) -> Any:
            given = given if isinstance(given, tuple) else (given,)
            return super().__class_getitem__((*given, Any) if len(given) == 1 else given)

    @property
    def _operations(self) -> Operations:
        if self._opened is None:
            self._opened = self._session.open(self._name, self._options, DEFAULT_TIMEOUT_S, self._resolver)
        return self._opened

    @property
    def name(self) -> str:
        """The bucket's name."""
        return self._name or self._operations.config.name

    @property
    def config(self) -> BucketConfig:
        """The bucket's policy."""
        return self._operations.config

    def __bool__(self) -> bool:
        return True  # "if store:" asks whether there is a store; testing for emptiness would take a scan

    def __repr__(self) -> str:
        return f"<raykv {self._face}bucket {self.name!r} of store {self._session.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        resolver = self._resolver if self._opened is None else self._opened.resolver
        return _arrived, (type(self), self._session.sent(), self.name, self._options, resolver)


class StoreHandle(Handle[K, V]):
    """A handle of a store, and of its bucket "default"."""

    @property
    def store_name(self) -> str:
        """The store's name."""
        return self._session.name

    @staticmethod
    def decode(answer: bytes) -> Any:
        """Return the result of a call on ``raykv.coordinator(name)``, or raise its error.

        >>> store.decode(ray.get(handle.get.remote("user:1")))           # doctest: +SKIP
        {'name': 'Ada'}
        """
        return decode_handed(answer)

    async def aclose(self) -> None:
        """End this handle and its buckets; the store goes on. Idempotent."""
        self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._session.close()

    def __repr__(self) -> str:
        return f"<raykv {self._face}store {self.store_name!r}>"


class Named:
    """A handle of something in a store that has a name: a counter."""

    _kind = ""

    def __init__(self, session: Session, name: str) -> None:
        """``name``: a str that can be a key. Raises ``InvalidKey``, ``InvalidOption``."""
        self._session = session
        self.name = checked_name(name)

    def __repr__(self) -> str:
        return f"<raykv {self._kind} {self.name!r} of store {self._session.name!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._session.sent(), self.name)


def checked_name(name: object) -> str:
    """Return the name of a counter, lock or queue: a str that can be a key. Raises ``InvalidKey``, ``InvalidOption``."""
    if not isinstance(name, str):
        raise InvalidOption(f"the name of a counter, lock or queue is a str; got {shown(name)}")
    encode_key(name)
    return str.__str__(name)


def _arrived(kind: Any, session: Session, name: str, options: Mapping[str, Any], resolver: Resolver) -> Any:
    """Return an unpickled or copied handle; it opens its bucket on first use."""
    handle = kind.__new__(kind)
    Handle.__init__(handle, session, None, options, name, resolver)
    return handle


def _warn_inside_loop() -> None:
    """Warn, once, of a blocking call inside a running event loop; not in notebooks, which always run one."""
    if _loop_warning.is_set() or "IPython" in sys.modules:
        return
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:  # where nobody has imported it no loop runs
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    _loop_warning.set()
    warnings.warn(
        "a blocking raykv call inside a running event loop blocks the loop; await the same method of store.aio instead",
        RuntimeWarning,
        stacklevel=4,
    )
