"""The source of both faces: every public operation, once, in its awaitable form.

``scripts/generate_faces`` generates the blocking form, ``raykv/client/store.py``, from this file: it drops ``async`` and
``await`` and renames what has two names (``AsyncBucket`` and ``Bucket``). Run it after a change here; a test compares them.
Docstrings are shared as well, and their examples run against a simulated store (``tests/client/test_faces.py``).
``raykv.client.awaiting`` and ``raykv.client.blocking`` hold what the faces do not share. ``raykv.client.operations`` and
``raykv.client.administration`` decide what to send and how to read the answers: a method here only delegates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from raykv.client import administration, backups, elastic, restarts
from raykv.client.aio_primitives import AsyncCounter, AsyncLock
from raykv.client.aio_queue import AsyncQueue
from raykv.client.awaiting import AwaitableBucket, AwaitableStore
from raykv.client.exchange import DEFAULT_TIMEOUT_S
from raykv.client.handle import K, V
from raykv.client.locks import DEFAULT_LEASE_S, DEFAULT_WAIT_S
from raykv.client.queue_books import DEFAULT_DELIVERIES
from raykv.client.queue_books import DEFAULT_LEASE_S as QUEUE_LEASE_S
from raykv.client.repairs import REPAIR_TIMEOUT_S, RepairReport
from raykv.client.splits import AsyncSplit
from raykv.config import Codec, Level, Versioning, check_bucket_name
from raykv.protocol.changes import ADD, MAXIMUM, MINIMUM

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from raykv.client.backups import SnapshotReport
    from raykv.client.explaining import Explanation
    from raykv.client.location import Location
    from raykv.client.reads import Versions
    from raykv.client.version import Version, Versioned
    from raykv.client.views import RingView, ScalingView, Status
    from raykv.client.writes import WriteResult
    from raykv.records.keys import Key
    from raykv.versions.context import Context
    from raykv.versions.resolvers import Resolver

    A = TypeVar("A", bound=Key)
    """The type of the keys that are asked for."""
    D = TypeVar("D")


class AsyncBucket(AwaitableBucket[K, V]):
    """A named set of keys with a policy of its own. Made by ``await store.aio.bucket(name)``.

    Every operation takes ``timeout`` in seconds (default 5, never none) and its consistency level, ``r`` or ``w``: a
    number from 1 to the bucket's N, or ``"one"``, ``"quorum"``, ``"all"``; by default the bucket's own.

    For type checkers: ``AsyncBucket[str, Cart]`` returns its keys as ``str``, and its values as carts.
    """

    # ---- single keys ----

    @overload
    async def get(self, key: Key, *, r: Level | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> V | None: ...
    @overload
    async def get(
        self, key: Key, default: D, *, r: Level | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> V | D: ...
    async def get(
        self, key: Key, default: Any = None, *, r: Level | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Any:
        """Return the key's value, or ``default`` if it has none.

        >>> await store.aio.get("user:1")
        {'name': 'Ada'}
        >>> await store.aio.get("user:2", "nobody")
        'nobody'

        Raises ``QuorumNotMet`` if R replicas did not answer in time: a failed read is never "absent". Cost: one round
        to R replicas, and a second one to those that lacked what the first round found.
        """
        return await self._session.run_async(self._operations.get(key, default, r=r, timeout=timeout))

    async def put(
        self,
        key: Key,
        value: V,
        *,
        context: Context | None = None,
        w: Level | None = None,
        ttl: float | None = None,
        if_absent: bool = False,
        if_version: Version | bytes | None = None,
        fence: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> WriteResult:
        """Write the value; return once W replicas hold it durably.

        With the ``context`` of a read, the write supersedes exactly what that read showed; anything else stays as a
        sibling (in a bucket with vector versioning). Without a context it supersedes whatever the cluster holds when it
        arrives. ``ttl``: seconds after which the key is absent again.

        In a linearizable bucket: ``if_absent`` writes only where there is no value, ``if_version`` only where that version
        stands, ``fence`` only where no higher fencing token was seen (``lock``); else ``Conflict``, which has what stands.
        What was deleted forgets its fence with its tombstone, after ten days (``gc_grace_s``).

        >>> written = await store.aio.put("user:1", {"name": "Ada"}, w="all")
        >>> sorted(written.acks)
        ['n1', 'n2', 'n3']

        Raises ``InvalidContext``, ``PairTooLarge``, ``InvalidKey``, ``InvalidOption`` before anything is sent;
        ``WriteOutcomeUnknown`` if fewer than W replicas acknowledged in time (the write may stand).
        """
        steps = self._operations.put(
            key, value, context=context, w=w, ttl=ttl, if_absent=if_absent, if_version=if_version, fence=fence,
            timeout=timeout,
        )  # fmt: skip
        return await self._session.run_async(steps)

    async def delete(
        self,
        key: Key,
        *,
        context: Context | None = None,
        w: Level | None = None,
        if_version: Version | bytes | None = None,
        fence: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> WriteResult:
        """Delete the key, whether or not it has a value. Like ``put``, it writes: a tombstone.

        With the ``context`` of a read, values written since that read stay. ``if_version``, ``fence``: as for ``put``.
        """
        steps = self._operations.delete(key, context=context, w=w, if_version=if_version, fence=fence, timeout=timeout)
        return await self._session.run_async(steps)

    async def get_versions(
        self, key: Key, *, r: Level | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Versions[V]:
        """Return all values that stand under the key, the newest first, and their context. An absent key has none.

        A delete hides only what it had seen; ``get`` finds nothing if the newest version is a delete.

        >>> versions = await store.aio.get_versions("cart:1")
        >>> merged = sorted({item for cart in versions.values for item in cart})
        >>> written = await store.aio.put("cart:1", merged, context=versions.context)

        Errors and cost as for ``get``.
        """
        return await self._session.run_async(self._operations.get_versions(key, r=r, timeout=timeout))

    @overload
    async def modify(
        self,
        key: Key,
        change: Callable[[Any], V],
        *,
        r: Level | None = None,
        w: Level | None = None,
        ttl: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> WriteResult: ...
    @overload
    async def modify(
        self,
        key: Key,
        change: Callable[[V | D], V],
        default: D,
        *,
        r: Level | None = None,
        w: Level | None = None,
        ttl: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> WriteResult: ...
    async def modify(
        self,
        key: Key,
        change: Callable[[Any], V],
        default: Any = None,
        *,
        r: Level | None = None,
        w: Level | None = None,
        ttl: float | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> WriteResult:
        """Read the value (``default`` if absent), apply ``change``, write the result with the context of the read.

        Not a compare-and-set: two concurrent calls are both acknowledged, and their results stand side by side until
        the handle's resolver merges them, at the next ``modify``. To count, or to let one of them win, use ``update`` or
        ``add`` of a linearizable bucket. Where several versions stand and the handle has no resolver, it raises
        ``SiblingsFound`` and writes nothing. An error of ``change``, an ordinary function, is passed on, and nothing is
        written either.

        >>> written = await store.aio.modify("tags:1", lambda tags: sorted({*tags, "new"}), [])
        """
        steps = self._operations.modify(key, change, default, r=r, w=w, ttl=ttl, timeout=timeout)
        return await self._session.run_async(steps)

    # ---- what an operation does ----

    async def explain_get(self, key: Key, *, r: Level | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> Explanation:
        """Read the key as ``get`` does; return what that did, step by step: its ``result`` is the value.

        Whom it asked and what they answered, when; hedges and repairs; and in each node the memtable, filters and blocks
        that it looked into. ``print`` shows a ladder, a notebook draws it. An error of the read is in ``error``, with the
        ladder that led to it. Costs some milliseconds, and nothing while it is not called.

        >>> explanation = await store.aio.explain_get("user:1")
        >>> explanation.result
        {'name': 'Ada'}
        """
        return await self._session.run_async(self._operations.explain_get(key, r=r, timeout=timeout))

    async def explain_put(
        self,
        key: Key,
        value: V,
        *,
        context: Context | None = None,
        w: Level | None = None,
        ttl: float | None = None,
        if_absent: bool = False,
        if_version: Version | bytes | None = None,
        fence: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Explanation:
        """Write the value as ``put`` does; return what that did, step by step: its ``result`` is the ``WriteResult``.

        As ``explain_get``, also for how long each node waited until its log was durable.
        """
        steps = self._operations.explain_put(
            key, value, context=context, w=w, ttl=ttl, if_absent=if_absent, if_version=if_version, fence=fence,
            timeout=timeout,
        )  # fmt: skip
        return await self._session.run_async(steps)

    async def explain_update(
        self, key: Key, change: Callable[[Any], V], default: Any = None, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> Explanation:
        """Update the key as ``update`` does; return what that did, every try of it: its ``result`` is the new value."""
        steps = self._operations.explain_update(key, change, default, timeout=timeout)
        return await self._session.run_async(steps)

    async def locate(self, key: Key, *, timeout: float = DEFAULT_TIMEOUT_S) -> Location:
        """Return where the key lives, whether it exists or not: its token, its partition, and the nodes that own it.

        >>> place = await store.aio.locate("user:1")
        >>> sorted(place.owners)
        ['n1', 'n2', 'n3']
        """
        return await self._session.run_async(self._operations.locate(key, timeout=timeout))

    # ---- changes of linearizable buckets ----

    async def get_versioned(self, key: Key, *, timeout: float = DEFAULT_TIMEOUT_S) -> Versioned[V | None]:
        """Return the key's value (None: absent) with its version, for a later ``if_version``.

        >>> jobs = await store.aio.bucket("jobs", versioning="linearizable")
        >>> written = await jobs.put("job:1", "waiting", if_absent=True)
        >>> found = await jobs.get_versioned("job:1")
        >>> claimed = await jobs.put("job:1", "claimed by Ada", if_version=found.version)
        >>> claimed.version == found.version
        False

        A version is never used twice, and ``bytes(version)`` stores it. Errors and cost as for ``get``.
        """
        return await self._session.run_async(self._operations.get_versioned(key, timeout=timeout))

    @overload
    async def update(self, key: Key, change: Callable[[Any], V], *, timeout: float = DEFAULT_TIMEOUT_S) -> V: ...
    @overload
    async def update(
        self, key: Key, change: Callable[[V | D], V], default: D, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> V: ...
    async def update(
        self, key: Key, change: Callable[[Any], V], default: Any = None, *, timeout: float = DEFAULT_TIMEOUT_S
    ) -> V:
        """Replace the value by ``change(value)``, atomically (``default`` where there is none); return the new one.

        ``change`` sees exactly the value that it replaces. It may be called several times, where others write meanwhile,
        and has to be free of side effects. Its error is passed on, and nothing is written.

        Awaiting tasks of one event loop that update one key at the same time are carried out together: ``change`` of each is
        called in turn, and what the last one returns is written once, for all of them.

        >>> stock = await store.aio.bucket("stock", versioning="linearizable")
        >>> await stock.update("pears", lambda boxes: [*boxes, "a"], [])
        ['a']

        ``Conflict`` if others came first for the whole ``timeout``.
        """
        new: V = await self._updated(key, change, default, timeout)
        return new

    async def add(self, key: Key, amount: int = 1, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Add to the integer under the key (0 where there is none); return the sum.

        Carried out where the data is: one round, however many callers there are. 64 bits; ``InvalidOption`` beyond, or
        where something else than an ``int`` stands.

        >>> hits = await store.aio.bucket("hits", versioning="linearizable")
        >>> await hits.add("page"), await hits.add("page", 5)
        (1, 6)
        """
        return await self._session.run_async(self._operations.count(key, ADD, amount, timeout=timeout))

    async def max(self, key: Key, value: int, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Raise the integer under the key to ``value``, if it is lower or there is none; return what it is then."""
        return await self._session.run_async(self._operations.count(key, MAXIMUM, value, timeout=timeout))

    async def min(self, key: Key, value: int, *, timeout: float = DEFAULT_TIMEOUT_S) -> int:
        """Lower the integer under the key to ``value``, if it is higher or there is none; return what it is then."""
        return await self._session.run_async(self._operations.count(key, MINIMUM, value, timeout=timeout))

    async def swap(self, key: Key, value: V, *, timeout: float = DEFAULT_TIMEOUT_S) -> V | None:
        """Write the value; return the one that it replaces (None: there was none)."""
        former: V | None = await self._session.run_async(self._operations.swap(key, value, timeout=timeout))
        return former

    # ---- batches ----

    @overload
    async def get_many(
        self, keys: Iterable[A], *, r: Level | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> dict[A, V | None]: ...
    @overload
    async def get_many(
        self, keys: Iterable[A], default: D, *, r: Level | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> dict[A, V | D]: ...
    async def get_many(
        self,
        keys: Iterable[A],
        default: Any = None,
        *,
        r: Level | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> dict[A, Any]:
        """Return ``{key: value}`` in the order asked, with ``default`` for absent keys.

        The batch is sent in requests of some hundred keys; ``timeout`` bounds each of them. All items are settled;
        then, if any failed, ``BatchError`` with ``.results`` and ``.errors`` is raised.

        >>> await store.aio.get_many(["user:1", "user:2"])
        {'user:1': {'name': 'Ada'}, 'user:2': None}
        """
        return await self._session.run_async(self._operations.get_many(keys, default, r=r, timeout=timeout))

    async def put_many(
        self,
        items: Mapping[A, V] | Iterable[tuple[A, V]],
        *,
        w: Level | None = None,
        ttl: float | None = None,
        if_absent: bool = False,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> dict[A, WriteResult]:
        """Write many pairs: not a transaction, each stands for itself. ``if_absent``: as for ``put``, each for itself.

        One malformed item refuses the whole call before anything is sent. Otherwise as ``get_many``.
        """
        steps = self._operations.put_many(items, w=w, ttl=ttl, if_absent=if_absent, timeout=timeout)
        return await self._session.run_async(steps)

    async def delete_many(
        self, keys: Iterable[A], *, w: Level | None = None, timeout: float = DEFAULT_TIMEOUT_S
    ) -> dict[A, WriteResult]:
        """Delete many keys. As ``put_many``."""
        return await self._session.run_async(self._operations.delete_many(keys, w=w, timeout=timeout))

    # ---- scans ----

    def scan(
        self,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        *,
        after: Key | None = None,
        limit: int | None = None,
        reverse: bool = False,
        r: Level | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> AsyncIterator[tuple[K, V]]:
        """Iterate over pairs in key order (bytes keys, then str keys by code point).

        >>> async for key, value in store.aio.scan(prefix="user:", limit=10):
        ...     print(key, value)
        user:1 {'name': 'Ada'}

        ``start`` is included, ``end`` is not; ``after`` resumes behind a key where an earlier scan in the same
        direction stopped. Reads page by page, R replicas each; no snapshot: concurrent writes may or may not show.
        A value that is unreadable here (damaged, or its module is missing) raises ``CorruptData`` in its place, after
        all before it; ``error.key`` names it, and ``after=error.key`` resumes behind it. ``get_many`` of the keys settles
        each by itself.

        ``timeout`` bounds each step: the wait for the next pair, however many deleted pairs lie before it.
        ``QuorumNotMet`` if that took too long, or R replicas did not answer. Cost: O(pairs shown + pairs passed that are
        deleted or expired and not forgotten yet).
        """
        paging = self._operations.scan(
            prefix, start, end, after=after, limit=limit, reverse=reverse, r=r, timeout=timeout
        )
        return self._pairs(paging)

    def keys(self) -> AsyncIterator[K]:
        """Iterate over the keys, in order. Values do not travel."""
        return self._parts(self._operations.scan(keys_only=True), 0)

    def values(self) -> AsyncIterator[V]:
        """Iterate over the values, in the order of their keys."""
        return self._parts(self._operations.scan(), 1)

    def items(self) -> AsyncIterator[tuple[K, V]]:
        """Iterate over the pairs, in the order of their keys."""
        return self._pairs(self._operations.scan())

    async def splits(
        self,
        count: int | None = None,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        r: Level | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> list[AsyncSplit[K, V]]:
        """Cut the bucket, or a range of its keys, into ``count`` splits, to be scanned in parallel.

        Each is a set of partitions of about the same size (None: one split for each node), pickles, and yields its pairs in
        key order when iterated. Together they yield what one ``scan`` of the range would, each pair once, also while nodes
        die and partitions move. ``split.hosts`` names the hosts with copies. A range within a group is one split.
        Of many small splits a page costs less: its partitions are read in longer stretches.

        >>> halves = await store.aio.splits(2)
        >>> sum([len([pair async for pair in half]) for half in halves]) == await store.aio.count()
        True

        ``r``, ``timeout`` and errors: as of ``scan``.
        """
        steps = self._operations.splits(count, prefix, start, end, r=r, timeout=timeout)
        return [AsyncSplit(self, piece) for piece in await self._session.run_async(steps)]

    async def count(self) -> int:
        """Count the keys. This is a scan over all of them: O(keys)."""
        counted = 0
        async for _ in self.keys():
            counted += 1
        return counted


class AsyncStore(AwaitableStore, AsyncBucket[Any, Any]):
    """A handle of a store, and of its bucket "default". ``raykv.start`` and ``raykv.connect`` make one.

    ``async with store.aio`` ends the handle with the block, and its buckets; the store goes on.
    """

    # ---- buckets ----

    async def bucket(
        self,
        name: str,
        *,
        versioning: Versioning | None = None,
        n: int | None = None,
        r: Level | None = None,
        w: Level | None = None,
        sloppy: bool | None = None,
        resolver: Resolver = "newest",
        ttl: float | None = None,
        codec: Codec | None = None,
        pair_bytes: int | None = None,
        group: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> AsyncBucket[Any, Any]:
        """Return the bucket of that name, created with these options if there is none.

        ``n``: copies, at most the store's; ``r``, ``w``: default levels, a majority unless given; ``ttl``: seconds, for all
        its pairs; ``codec``: ``"auto"``, ``"msgpack"``, ``"raw"``; ``pair_bytes``: largest key and value together, 10 KiB
        unless given, 1 MiB at the most. These, ``versioning`` and ``group`` are kept with the bucket: ``BucketMismatch`` if
        it exists with other settings.

        ``versioning``: what becomes of concurrent writes, and what that costs.

        * ``"vector"``, the default: they stand side by side as siblings, until merged. A write takes two rounds. Right for
          what can be merged; not for counting.
        * ``"lww"``: the last writer wins, and the others are lost. A write takes one round.
        * ``"linearizable"``: one value a key, and one order of all calls on it, for conditional writes, ``update``, ``add``
          and locks. A write goes to the partition's leader and on to a majority, a read to a majority. Takes no ``r``,
          ``w``, ``sloppy`` or ``ttl``. In a network partition the side without a majority refuses, reads too.

        ``sloppy=True``: another node may stand in for one of the n that does not answer, for writes and for reads. Such a
        bucket answers on both sides of a network partition, and a write acknowledged on one side may stay invisible on the
        other until the partition heals. Without it, the side with too few of the n refuses.

        ``group``: a separator, 1 to 16 bytes of text. What of a key stands before the first one decides the partition, so
        that the keys of a group lie together, in order: with ``group="/"`` those of ``"user:1"``, which are ``"user:1"``
        itself and all that begin with ``"user:1/"``. A scan with a prefix that includes the separator asks the n nodes of
        one partition alone, and costs what it shows; any other asks all. A key without a separator is a group of its own.
        Groups are the unit of placement, and each should stay small beside a node: ``store.status()`` names the largest.

        ``resolver`` belongs to this handle: ``"newest"``, or a function of the list of values (the newest first) that
        returns the value for ``get`` to return.

        >>> carts = await store.aio.bucket("carts", resolver=lambda carts: sorted(set().union(*carts)))
        >>> carts.name
        'carts'
        """
        options = administration.bucket_options(
            self._operations.config.n, versioning=versioning, n=n, r=r, w=w, sloppy=sloppy, ttl=ttl, codec=codec,
            pair_bytes=pair_bytes, group=group,
        )  # fmt: skip
        steps = self._session.open_bucket(check_bucket_name(name), options, timeout, resolver)
        return AsyncBucket(self._session, await self._session.run_async(steps), options)

    async def buckets(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> list[str]:
        """Return the names of the buckets, in the order of their creation."""
        return [config["name"] for config in await self._session.run_async(administration.buckets(timeout=timeout))]

    async def drop_bucket(self, name: str, *, timeout: float = DEFAULT_TIMEOUT_S) -> bool:
        """Drop a bucket and all in it; False if there was none. The bucket "default" cannot be dropped."""
        return await self._session.run_async(administration.drop_bucket(name, timeout=timeout))

    # ---- counters, locks and queues ----

    def counter(self, name: str) -> AsyncCounter:
        """Return the counter of that name; nothing is sent.

        >>> pages = store.aio.counter("pages")
        >>> await pages.add(3)
        3
        """
        return AsyncCounter(self._session, name)

    def lock(self, name: str, *, lease: float = DEFAULT_LEASE_S, timeout: float = DEFAULT_WAIT_S) -> AsyncLock:
        """Return a handle of the lock of that name; entering it acquires the lock. Nothing is sent before.

        ``lease``: seconds, 0.1 to 3,600, for which it stays the holder's after the last sign of life. A short one is taken
        over sooner, a long one survives longer silence. ``timeout``: seconds to wait for another holder; 0: ask once.

        >>> shop = await store.aio.bucket("shop", versioning="linearizable")
        >>> async with store.aio.lock("till", lease=10) as held:
        ...     written = await shop.put("till", "open", fence=held.token)

        It is a key of the bucket "raykv.locks". Clocks of different machines are not compared (``raykv.client.locks``).
        """
        return AsyncLock(self._session, name, lease, timeout)

    def queue(
        self,
        name: str,
        *,
        lease: float = QUEUE_LEASE_S,
        max_deliveries: int = DEFAULT_DELIVERIES,
        maxsize: int | None = None,
        shards: int | None = None,
        codec: Codec = "auto",
    ) -> AsyncQueue[Any]:
        """Return the work queue of that name; nothing is sent.

        ``lease``: seconds, 0.1 to 86,400, for which this handle claims jobs. ``max_deliveries``: how often a job is
        delivered before it is a dead letter. ``codec``: as of a bucket; ``"msgpack"`` and ``"raw"`` never unpickle.

        ``shards``, 1 to 64, and ``maxsize`` are fixed by the first use of a queue (``BucketMismatch`` for others). With one
        shard jobs come strictly in order; with more (8, unless given) as many are put and claimed at once. ``maxsize``: how
        many jobs may wait, 0 for any number; such a queue has one shard. Delayed jobs do not count.

        >>> jobs = store.aio.queue("mails", lease=30, max_deliveries=5)
        >>> ids = await jobs.put_many(["to Ada", "to Grace"])
        >>> claimed = await jobs.claim(10)
        >>> await jobs.ack(claimed)
        True
        """
        return AsyncQueue(
            name, maxsize, store=self, lease=lease, max_deliveries=max_deliveries, shards=shards, codec=codec
        )

    # ---- administration ----

    async def repair(
        self, *, progress: Callable[[int, int], object] | None = None, timeout: float = REPAIR_TIMEOUT_S
    ) -> RepairReport:
        """Compare all copies now, partition by partition, and repair differences (anti-entropy by Merkle trees).

        The store does so in the background, once a day for each partition; call this after a known loss. Returns a dict
        of figures. ``progress(done, all)`` receives numbers of partitions; ``timeout``: seconds for a few of them. Raises
        ``StoreUnavailable`` if some partitions could not be compared with all their owners (the figures are in
        ``.details``); the others are repaired. Call it again: equal copies cost next to nothing.
        """
        report = await self._session.run_async(administration.repair(progress, timeout=timeout))
        return report.checked()

    async def snapshot(
        self, path: str | os.PathLike[str], *, keep: int | None = None, timeout: float = backups.SNAPSHOT_TIMEOUT_S
    ) -> SnapshotReport:
        """Copy the store into the directory ``path`` of each node's host, while reads and writes go on.

        ``path``: absolute; new, empty, or with earlier snapshots of this store, of which only new tables are copied then (by
        hard links on the same disk). Hosts may share it. Returns a dict of figures; ``raykv backup --list`` and ``--verify``
        show what is there, ``raykv.restore`` makes a store of it. ``keep``: how many snapshots stay there, this one among
        them; once it is made, older ones are removed, with the tables that only they name.

        What it promises: every write acknowledged before this call by W owners or more is in it, or a later one of its key;
        deletes and expiry times too. Writes made meanwhile may be in it, each for itself: it is no picture of one instant.

        Raises ``StoreUnavailable`` if too few nodes could copy theirs within ``timeout`` seconds; nothing counts as a
        snapshot then. Some may be missing, N-W+1 owners of each partition must not (``["missing"]`` says which).
        Raises ``InvalidOption`` for a path that is none.

        >>> report = await store.aio.snapshot("/backups/shop")
        >>> report["missing"]
        {}
        """
        return await self._session.run_async(backups.snapshot(path, keep=keep, timeout=timeout))

    async def add_node(
        self,
        weight: float | Literal["auto"] = "auto",
        zone: str | None = None,
        *,
        host: str | None = None,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> str:
        """Add a storage node and give it its share of the partitions. Returns its id.

        ``weight``: its share relative to the others, "auto" by its host's resources. ``zone``, ``host``: where it runs; by
        default on the host with the fewest nodes for its processors or, if nodes ask Ray for processors
        (``NodeConfig.cpus``), wherever these come free, for which Ray may start a machine. ``wait``: until it has its
        share, at most ``timeout`` seconds; ``progress(moved, all)`` receives numbers of partitions. Reads and writes
        continue throughout. Raises ``InvalidOption``, ``StoreUnavailable`` (if the partitions take longer, the moves go on,
        and ``.details["node_id"]`` is the node's id), ``WriteOutcomeUnknown`` (look at ``status()`` before repeating it).
        """
        change = elastic.add_node(weight, zone, host, timeout)
        return await self._session.run_async(
            elastic.balanced(change, wait, progress, timeout, self._session.link.monotonic_s)
        )

    async def remove_node(
        self,
        node_id: str,
        *,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> None:
        """Move a node's partitions to the others and remove it; works for a lost node too: others have its copies.

        Raises ``NotEnoughNodes`` if fewer nodes than copies would remain: add one first. ``wait`` and the rest: as in
        ``add_node``.
        """
        change = elastic.remove_node(node_id)
        await self._session.run_async(elastic.balanced(change, wait, progress, timeout, self._session.link.monotonic_s))

    async def replace_node(
        self,
        node_id: str,
        *,
        host: str | None = None,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> str:
        """Replace a node that is down by a new one, at once. Returns its id.

        The store does so by itself once a node's host has been gone for ``replace_after`` (see ``raykv.start``). Raises
        ``InvalidOption`` if the node is up. ``host``, ``wait`` and the rest: as in ``add_node``.
        """
        change = elastic.replace_node(node_id, host, timeout)
        return await self._session.run_async(
            elastic.balanced(change, wait, progress, timeout, self._session.link.monotonic_s)
        )

    async def restart_nodes(
        self,
        nodes: Iterable[str] | None = None,
        *,
        force: bool = False,
        outdated: bool = False,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = restarts.RESTART_TIMEOUT_S,
    ) -> list[str]:
        """Restart the storage nodes one after the other, while reads and writes go on. Returns their ids.

        Each is drained (others are asked, others lead what it leads), stopped cleanly and started again on its directory,
        with the code that is installed by then. The next one follows when it is complete again and hints are delivered.
        ``nodes``: only these, in this order. ``outdated``: only those that run another version of raykv than this process.
        ``timeout``: seconds that one node may take. ``progress(done, all)`` receives numbers of nodes.

        Raises ``StoreUnavailable`` at the start, with nothing done, if a node is not up or not complete, or partitions move;
        and half-way if a node takes longer than ``timeout``: ``.details`` has "restarted" and "left", nothing is lost, and
        the supervisor goes on bringing the node back. Raises ``InvalidOption`` if a bucket cannot spare a copy (n=1, w=n):
        with ``force`` its operations fail until the node is back.

        After an interrupted call (Ctrl-C, a cancelled task) the node that is being restarted comes back by itself, and the
        others stay as they are; call it again.

        >>> await store.aio.restart_nodes(["n2", "n3"])
        ['n2', 'n3']
        """
        steps = restarts.restart_nodes(
            nodes, force=force, outdated=outdated, progress=progress, timeout=timeout,
            monotonic_s=self._session.link.monotonic_s,
        )  # fmt: skip
        return await self._session.run_async(steps)

    async def set_weight(
        self,
        node_id: str,
        weight: float,
        *,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> None:
        """Change a node's share of the partitions. ``wait`` and the rest: as in ``add_node``."""
        change = elastic.set_weight(node_id, weight)
        await self._session.run_async(elastic.balanced(change, wait, progress, timeout, self._session.link.monotonic_s))

    async def rebalance(self, action: elastic.RebalanceAction) -> None:
        """Stop the moves of partitions ("pause"), continue them ("resume"), or undo those that can be ("abort").

        After an "abort" the ring stays as it is by then: a new node may own little, a leaving one stays.
        """
        await self._session.run_async(elastic.rebalance(action))

    async def autoscale(
        self, *, dry_run: bool = False, off: bool = False, **limits: Unpack[elastic.ScalingLimits]
    ) -> ScalingView:
        """Let the store grow and shrink between ``least`` and ``most`` nodes; return its measurements and plan.

        ``ops_per_s``: the capacity of a node of weight 1, where each copy read or written counts as one; ``node_bytes``:
        its storage capacity, ``p99_ms``: the limit on the 99th percentile of latency; both optional. Nodes are added above
        ``high`` of that, and removed one at a time below ``low``; after a change, ``cool_down`` seconds pass before one
        in the other direction. With ``dry_run`` nothing is set or done; with ``off`` it rests; without arguments it only
        reports. The result is plain data: "would" and "why", "hot" (keys that more nodes would not help), "nodes" with
        their load. Raises ``InvalidOption``.
        """
        return await self._session.run_async(elastic.autoscale(limits, dry_run=dry_run, off=off))

    async def status(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> Status:
        """Return the store's state: plain data (a dict) that prints well and renders itself in a notebook.

        >>> status = await store.aio.status()
        >>> status.healthy
        True
        """
        return await self._session.run_async(administration.status(timeout=timeout))

    async def ring(self, *, timeout: float = DEFAULT_TIMEOUT_S) -> RingView:
        """Return who owns what: plain data (a dict) that prints well and renders as a picture in a notebook."""
        return await self._session.run_async(administration.ring(timeout=timeout))
