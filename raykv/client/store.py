"""``Store`` and ``Bucket``: the faces that block. ``.aio`` has the same names, awaitable.

A handle is cheap: it holds the store's name, the bucket's policy, and a link. It can be passed to Ray tasks and actors
and pickled; it travels as its name and finds the coordinator again where it arrives. In a process that was forked it goes
on with pairs, by what its parent knew; Ray does not work there, nor do commands to the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, cast, overload

from raykv.client import elastic
from raykv.client import operations as ops
from raykv.client.handle import DEFAULT_BUCKET, Handle, K, Session, StoreHandle, V
from raykv.client.paging import scan_of
from raykv.client.repairs import REPAIR_TIMEOUT_S, RepairReport
from raykv.client.views import RingView, ScalingView, Status
from raykv.config import (
    DEFAULT_PAIR_BYTES,
    Codec,
    Level,
    Routing,
    Versioning,
    check_bucket_name,
    check_choice,
    check_count,
    check_level,
    check_ttl,
    shown,
)
from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from raykv.client.aio import AsyncBucket, AsyncStore
    from raykv.client.driver import Link
    from raykv.client.operations import Versions, WriteResult
    from raykv.records.keys import Key
    from raykv.versions.context import Context
    from raykv.versions.resolvers import Resolver

    A = TypeVar("A", bound=Key)
    """The type of the keys that were asked for."""
    D = TypeVar("D")

_MISSING: Any = object()


class Bucket(Handle[K, V]):
    """A named set of keys with a policy of its own. Made by ``store.bucket(name)``.

    Every operation takes ``timeout`` in seconds (default 5, never none) and its consistency level, ``r`` or ``w``: a
    number from 1 to the bucket's N, or ``"one"``, ``"quorum"``, ``"all"``; by default the bucket's own.

    For type checkers: ``Bucket[str, Cart]`` is one whose keys come back as ``str``, and whose values are carts.
    """

    @property
    def aio(self) -> AsyncBucket[K, V]:
        """The same operations, awaitable; in any event loop, also in successive ones."""
        if self._awaitable is None:
            from raykv.client.aio import AsyncBucket

            self._awaitable = AsyncBucket(self._session, self._operations, self._options)
        face: AsyncBucket[K, V] = self._awaitable
        return face

    # ---- single keys ----

    @overload
    def get(self, key: Key, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S) -> V | None: ...
    @overload
    def get(self, key: Key, default: D, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S) -> V | D: ...
    def get(
        self, key: Key, default: Any = None, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S
    ) -> Any:
        """Return the key's value, or ``default`` if it has none.

        >>> store.get("user:1")           # doctest: +SKIP
        {'name': 'Ada'}

        Raises ``QuorumNotMet`` if R replicas did not answer in time: a failed read is never "absent". Cost: one round
        to R replicas, and a second one to those that lacked what the first round found.
        """
        return self._session.run(self._operations.get(key, default, r=r, timeout=timeout))

    def put(
        self,
        key: Key,
        value: V,
        *,
        context: Context | None = None,
        w: Level | None = None,
        ttl: float | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> WriteResult:
        """Write the value; return once W replicas hold it durably.

        With the ``context`` of a read it supersedes exactly what that read has shown; what it has not shown stays beside
        it (in a bucket with vector versioning). Without one it supersedes whatever the cluster holds when it is asked.

        ``ttl``: seconds after which it is absent again. Raises ``InvalidContext``, ``PairTooLarge``, ``InvalidKey``,
        ``InvalidOption``
        before anything is sent; ``WriteOutcomeUnknown`` if fewer than W acknowledged in time (it may stand).

        >>> store.put("user:1", {"name": "Ada"}, w="all").acks           # doctest: +SKIP
        ('n1', 'n2', 'n3')
        """
        steps = self._operations.put(key, value, context=context, w=w, ttl=ttl, timeout=timeout)
        return self._session.run(steps)

    def delete(
        self,
        key: Key,
        *,
        context: Context | None = None,
        w: Level | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> WriteResult:
        """Delete the key, whether or not it has a value. Like ``put``, it writes: a tombstone.

        With the ``context`` of a read, values that were written meanwhile stay.
        """
        return self._session.run(self._operations.delete(key, context=context, w=w, timeout=timeout))

    def get_versions(self, key: Key, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S) -> Versions[V]:
        """Return all values that stand under the key, the newest first, and their context. An absent key has none.

        A delete hides what it had seen and nothing else; ``get`` finds nothing if the newest version is a delete.

        >>> versions = store.get_versions("cart:1")           # doctest: +SKIP
        >>> store.put("cart:1", union(versions.values), context=versions.context)           # doctest: +SKIP

        Errors and cost as for ``get``.
        """
        return self._session.run(self._operations.get_versions(key, r=r, timeout=timeout))

    @overload
    def modify(
        self,
        key: Key,
        change: Callable[[Any], V],
        *,
        r: Level | None = None,
        w: Level | None = None,
        ttl: float | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> WriteResult: ...
    @overload
    def modify(
        self,
        key: Key,
        change: Callable[[V | D], V],
        default: D,
        *,
        r: Level | None = None,
        w: Level | None = None,
        ttl: float | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> WriteResult: ...
    def modify(
        self,
        key: Key,
        change: Callable[[Any], V],
        default: Any = None,
        *,
        r: Level | None = None,
        w: Level | None = None,
        ttl: float | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> WriteResult:
        """Read the value (``default`` if absent), apply ``change``, write the outcome with the context that was read.

        Not a compare-and-set: of two at the same time both are acknowledged, and their outcomes stand side by side until
        somebody merges them: the handle's resolver, at the next ``modify``. What it supersedes it has looked at: where
        several stand and the handle has no resolver that merges, it raises ``SiblingsFound``, and nothing is written. Nor is
        anything if ``change`` raises, which is passed on.

        >>> store.modify("visits", lambda n: n + 1, 0)           # doctest: +SKIP
        """
        return self._session.run(self._operations.modify(key, change, default, r=r, w=w, ttl=ttl, timeout=timeout))

    # ---- batches ----

    @overload
    def get_many(
        self, keys: Iterable[A], *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S
    ) -> dict[A, V | None]: ...
    @overload
    def get_many(
        self, keys: Iterable[A], default: D, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S
    ) -> dict[A, V | D]: ...
    def get_many(
        self,
        keys: Iterable[A],
        default: Any = None,
        *,
        r: Level | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> dict[A, Any]:
        """Return ``{key: value}`` in the order asked, with ``default`` for absent keys.

        The batch goes out in requests of some hundred keys; ``timeout`` bounds each of them. All items are settled;
        then, if any failed, ``BatchError`` with ``.results`` and ``.errors`` is raised.
        """
        return self._session.run(self._operations.get_many(keys, default, r=r, timeout=timeout))

    def put_many(
        self,
        items: Mapping[A, V] | Iterable[tuple[A, V]],
        *,
        w: Level | None = None,
        ttl: float | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> dict[A, WriteResult]:
        """Write many pairs; not one transaction, each stands for itself.

        One malformed item refuses the whole call before anything is sent. Otherwise as ``get_many``.
        """
        return self._session.run(self._operations.put_many(items, w=w, ttl=ttl, timeout=timeout))

    def delete_many(
        self, keys: Iterable[A], *, w: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S
    ) -> dict[A, WriteResult]:
        """Delete many keys. As ``put_many``."""
        return self._session.run(self._operations.delete_many(keys, w=w, timeout=timeout))

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
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> Iterator[tuple[K, V]]:
        """Iterate over pairs in key order (bytes keys, then str keys by code point).

        ``start`` is included, ``end`` is not; ``after`` continues behind a key where an earlier scan in the same
        direction stopped. Page by page, R replicas each; no snapshot: what is written meanwhile may or may not show.
        One value that cannot be read here (its module is missing, it is damaged) raises ``CorruptData`` in its place, after
        all before it; ``error.key`` names it, and ``after=error.key`` goes on behind it. ``get_many(store.keys())`` settles
        each by itself.

        ``timeout`` bounds each step: the wait for the next pair, however much that is deleted lies before it.
        ``QuorumNotMet`` if that was too long, or R replicas did not answer. Cost: O(pairs shown + pairs passed that were
        deleted or have expired and are not forgotten yet).

        >>> for key, value in store.scan(prefix="user:", limit=10): ...           # doctest: +SKIP
        """
        left = ops.scan_range(prefix, start, end, after, reverse=reverse)
        check_level("r", self._operations.config.r if r is None else r, self._operations.config.n)
        count = check_limit(limit)
        return self._pages(left, count, reverse, False, r, timeout)

    def keys(self) -> Iterator[K]:
        """Iterate over the keys, in order. Values do not travel."""
        left = ops.scan_range(None, None, None, None, reverse=False)
        return (key for key, _ in self._pages(left, None, False, True, None, ops.DEFAULT_TIMEOUT_S))

    def values(self) -> Iterator[V]:
        """Iterate over the values, in the order of their keys."""
        return (value for _, value in self.scan())

    def items(self) -> Iterator[tuple[K, V]]:
        """Iterate over the pairs, in the order of their keys."""
        return self.scan()

    def count(self) -> int:
        """Count the keys. This is a scan over all of them: O(keys)."""
        return sum(1 for _ in self.keys())

    def _pages(
        self, left: ops.ScanRange, limit: int | None, reverse: bool, keys_only: bool, r: Level | None, timeout: float
    ) -> Iterator[tuple[Any, Any]]:
        paging = scan_of(
            self._operations, left, limit=limit, reverse=reverse, keys_only=keys_only, r=r, timeout=timeout
        )
        while pairs := self._session.run(paging.step()):
            yield from pairs

    # ---- like a dict ----

    def __getitem__(self, key: Key) -> V:
        value = self.get(key, _MISSING)
        if value is _MISSING:
            raise KeyError(key)
        return cast("V", value)

    def __setitem__(self, key: Key, value: V) -> None:
        self.put(key, value)

    def __delitem__(self, key: Key) -> None:
        if key not in self:
            raise KeyError(key)
        self.delete(key)

    def __contains__(self, key: Key) -> bool:
        return self._session.run(self._operations.contains(key, r=None, timeout=ops.DEFAULT_TIMEOUT_S))

    def __iter__(self) -> Iterator[K]:
        return self.keys()


class Store(StoreHandle[Any, Any], Bucket[Any, Any]):
    """A handle of a store, and of its bucket "default". Made by ``raykv.start`` and ``raykv.connect``."""

    def __init__(
        self,
        name: str,
        link: Link,
        *,
        timeout_s: float = ops.DEFAULT_TIMEOUT_S,
        routing: Routing = "auto",
        session_of: Callable[[str, Link, Routing], Session] = Session,
    ) -> None:
        """Open the bucket; ``timeout_s``: a store that is only just starting may take longer to answer."""
        session = session_of(name, link, routing)
        try:
            super().__init__(session, session.open(DEFAULT_BUCKET, {}, timeout_s), {})
        except BaseException:
            session.close()
            raise

    @property
    def aio(self) -> AsyncStore:
        """The same operations, awaitable; in any event loop, also in successive ones."""
        if self._awaitable is None:
            from raykv.client.aio import AsyncStore

            self._awaitable = AsyncStore(self._session, self._operations)
        face: AsyncStore = self._awaitable
        return face

    def bucket(
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
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> Bucket[Any, Any]:
        """Return the bucket of that name, created with these options if there is none.

        ``versioning``: ``"vector"`` (concurrent writes are kept as siblings) or ``"lww"`` (the last writer wins, a round
        less); ``n``: copies, at most the store's; ``r``, ``w``: default levels, a majority unless said otherwise;
        ``ttl``: seconds, for all its pairs; ``codec``: ``"auto"``, ``"msgpack"``, ``"raw"``; ``pair_bytes``: largest key
        and value together. These are kept with the bucket: ``BucketMismatch`` if it exists with other settings.

        ``sloppy=True``: another node may stand in for one of the n that does not answer, for writes and for reads; so it
        answers on both sides of a cut, and what was acknowledged on one side may not be seen on the other until the cut
        has healed. Without it the side with too few of the n refuses.

        ``resolver`` belongs to this handle: ``"newest"``, or a function of the list of values (the newest first) that
        returns the one that ``get`` is to give.
        """
        options = bucket_options(
            self._operations.config.n, versioning=versioning, n=n, r=r, w=w, sloppy=sloppy, ttl=ttl, codec=codec,
            pair_bytes=pair_bytes,
        )  # fmt: skip
        steps = self._session.open_bucket(check_bucket_name(name), options, timeout, resolver)
        return Bucket(self._session, self._session.run(steps), options)

    def buckets(self, *, timeout: float = ops.DEFAULT_TIMEOUT_S) -> list[str]:
        """Return the names of the buckets, in the order of their creation."""
        return [config["name"] for config in self._session.run(ops.tell("buckets", timeout=timeout))]

    def drop_bucket(self, name: str, *, timeout: float = ops.DEFAULT_TIMEOUT_S) -> bool:
        """Drop a bucket and all in it; False if there was none. The bucket "default" cannot be dropped."""
        return self._session.run(ops.drop_bucket(check_bucket_name(name), timeout=timeout))

    def repair(
        self, *, progress: Callable[[int, int], object] | None = None, timeout: float = REPAIR_TIMEOUT_S
    ) -> RepairReport:
        """Compare all copies now, partition by partition, and mend what differs (anti-entropy by Merkle trees).

        It goes on by itself in the background, once a day for each partition; call this when you know that something was
        lost. Returns a dict of figures. ``progress(done, all)`` is called with numbers of partitions; ``timeout``: seconds
        for some of them. Raises ``StoreUnavailable`` if some partitions could not be compared with all their owners (the
        figures are in ``.details``); the others are mended. Call it again: what is equal costs next to nothing.
        """
        report = RepairReport.begin(self._session.run(ops.tell("ring", timeout=timeout))["partitions"])
        for some in report.portions():
            report.add(self._session.run(ops.repair(some, timeout=timeout)))
            if progress is not None:
                progress(some[-1] + 1, report["partitions"])
        return report.checked()

    def add_node(
        self,
        weight: float | Literal["auto"] = "auto",
        zone: str | None = None,
        *,
        host: str | None = None,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> str:
        """Let one more storage node join, and give it its share of the partitions. Returns its id.

        ``weight``: what it carries beside the others, "auto" for what its host has room for. ``zone``, ``host``: where it
        is wanted; else on the host with the fewest nodes for its processors, or, if nodes ask Ray for processors
        (``NodeConfig.cpus``), wherever these come free, for which Ray may start a machine. ``wait``: until it has its
        share, at most ``timeout`` seconds; ``progress(moved, all)`` is called with numbers of partitions. Reads and writes
        go on all the while. Raises ``InvalidOption``, ``StoreUnavailable``.
        """
        node_id = self._session.run(elastic.add_node(weight, zone, host, timeout))
        self._until_balanced(wait, progress, timeout)
        return node_id

    def remove_node(
        self,
        node_id: str,
        *,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> None:
        """Let a node give its partitions to the others, and leave; also one that is gone for good: others have its copies.

        Raises ``NotEnoughNodes`` if fewer would be left than there are copies: add one before. ``wait`` and the rest: as
        in ``add_node``.
        """
        self._session.run(elastic.remove_node(node_id))
        self._until_balanced(wait, progress, timeout)

    def replace_node(
        self,
        node_id: str,
        *,
        host: str | None = None,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> str:
        """Let a new node take the place of one that is down, at once. Returns its id.

        By itself this happens when a node's host has been gone for ``replace_after`` (see ``raykv.start``). Raises
        ``InvalidOption`` if the node is up. ``host``, ``wait`` and the rest: as in ``add_node``.
        """
        new = self._session.run(elastic.replace_node(node_id, host, timeout))
        self._until_balanced(wait, progress, timeout)
        return new

    def autoscale(
        self, *, dry_run: bool = False, off: bool = False, **limits: Unpack[elastic.ScalingLimits]
    ) -> ScalingView:
        """Let the store grow and shrink by itself between ``least`` and ``most`` nodes, and tell what it sees and would do.

        ``ops_per_s``: what a node of weight 1 can carry, each copy that is read or written counted as one; ``node_bytes``:
        what it can hold, ``p99_ms``: how slow one answer of a hundred may be, if these are to count. Nodes are added above
        ``high`` of that, and one at a time is removed below ``low``; after a change ``cool_down`` seconds pass before
        another in the other direction. With ``dry_run`` nothing is set, and nothing done; with ``off`` it rests; without
        anything it only tells. The result is plain data: "would" and "why", "hot" (keys that more nodes would not help),
        "nodes" with their load. Raises ``InvalidOption``.
        """
        return ScalingView(self._session.run(elastic.autoscale(limits, dry_run=dry_run, off=off)))

    def set_weight(
        self,
        node_id: str,
        weight: float,
        *,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> None:
        """Let a node carry more or less of the partitions than it does. ``wait`` and the rest: as in ``add_node``."""
        self._session.run(elastic.set_weight(node_id, weight))
        self._until_balanced(wait, progress, timeout)

    def rebalance(self, action: elastic.RebalanceAction) -> None:
        """Hold the moves of partitions ("pause"), go on with them ("resume"), or take back what can be ("abort").

        After an "abort" the ring stays as it is by then: a node that joined may own little, one that was to leave stays.
        """
        self._session.run(elastic.rebalance(action))

    def _until_balanced(self, wait: bool, progress: Callable[[int, int], object] | None, timeout: float) -> None:
        if wait:
            self._session.run(elastic.until_balanced(progress, timeout))

    def status(self, *, timeout: float = ops.DEFAULT_TIMEOUT_S) -> Status:
        """Return how the store is: plain data (a dict) that prints well and shows itself in a notebook."""
        return Status(self._session.run(ops.tell("status", timeout=timeout)))

    def ring(self, *, timeout: float = ops.DEFAULT_TIMEOUT_S) -> RingView:
        """Return who owns what: plain data (a dict) that prints well and shows itself as a picture in a notebook."""
        return RingView(self._session.run(ops.tell("ring", timeout=timeout)))

    def close(self) -> None:
        """End this handle and its buckets; the store goes on. Idempotent."""
        self._session.close()

    async def aclose(self) -> None:
        """End this handle. Idempotent."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()


def bucket_options(store_copies: int, **given: Any) -> dict[str, Any]:
    """Return the given options in the form in which buckets keep them. Raises ``InvalidOption``.

    ``store_copies``: the n of the store's default bucket, the most a bucket can keep.
    """
    options = {name: value for name, value in given.items() if value is not None and name != "ttl"}
    if "versioning" in options:
        options["versioning"] = check_choice("versioning", options["versioning"], ("vector", "lww"))
    if not isinstance(options.get("sloppy", False), bool):
        raise InvalidOption(f"sloppy must be True or False; got {shown(options['sloppy'])}")
    n = check_count("n", options.get("n", store_copies), 1, store_copies)
    if "n" in options:
        options["n"] = n
    for level in ("r", "w"):
        if level in options:
            options[level] = check_level(level, options[level], n)
    if given.get("ttl") is not None:
        options["ttl_ms"] = check_ttl(given["ttl"])
    if "codec" in options:
        options["codec"] = check_choice("codec", options["codec"], ("auto", "msgpack", "raw"))
    if "pair_bytes" in options:
        options["pair_bytes"] = check_count("pair_bytes", options["pair_bytes"], 1, 1024 * DEFAULT_PAIR_BYTES // 10)
    return options


def check_limit(limit: int | None) -> int | None:
    """Return a scan's limit if it is None or a whole number from 0."""
    return None if limit is None else check_count("limit", limit, 0, 2**63)


def check_routing(routing: Routing) -> Routing:
    """Return a routing if it is one. Raises ``InvalidOption``."""
    check_choice("routing", routing, ("auto", "direct", "coordinator"))
    return routing
