"""The awaitable faces: the same names as ``Store`` and ``Bucket``, the same operations behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

from raykv.client import elastic
from raykv.client import operations as ops
from raykv.client.driver import run_async
from raykv.client.handle import Handle, K, StoreHandle, V
from raykv.client.paging import scan_of
from raykv.client.repairs import REPAIR_TIMEOUT_S, RepairReport
from raykv.client.store import bucket_options, check_limit
from raykv.client.views import RingView, ScalingView, Status
from raykv.config import Codec, Level, Versioning, check_bucket_name, check_level

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    from raykv.client.operations import Steps, Versions, WriteResult
    from raykv.records.keys import Key
    from raykv.versions.context import Context
    from raykv.versions.resolvers import Resolver

    A = TypeVar("A", bound=Key)
    D = TypeVar("D")

T = TypeVar("T")


class AsyncBucket(Handle[K, V]):
    """``Bucket``, awaitable. See there for what each operation promises."""

    _face = "awaitable "

    def _run(self, steps: Steps[T]) -> Coroutine[Any, Any, T]:
        return run_async(steps, self._session.link)

    @overload
    async def get(self, key: Key, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S) -> V | None: ...
    @overload
    async def get(
        self, key: Key, default: D, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S
    ) -> V | D: ...
    async def get(
        self, key: Key, default: Any = None, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S
    ) -> Any:
        """See ``Bucket.get``."""
        return await self._run(self._operations.get(key, default, r=r, timeout=timeout))

    async def contains(self, key: Key, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S) -> bool:
        """Say whether the key has a value: the awaitable form of ``key in bucket``."""
        return await self._run(self._operations.contains(key, r=r, timeout=timeout))

    async def put(
        self,
        key: Key,
        value: V,
        *,
        context: Context | None = None,
        w: Level | None = None,
        ttl: float | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> WriteResult:
        """See ``Bucket.put``."""
        return await self._run(self._operations.put(key, value, context=context, w=w, ttl=ttl, timeout=timeout))

    async def delete(
        self,
        key: Key,
        *,
        context: Context | None = None,
        w: Level | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> WriteResult:
        """See ``Bucket.delete``."""
        return await self._run(self._operations.delete(key, context=context, w=w, timeout=timeout))

    async def get_versions(
        self, key: Key, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S
    ) -> Versions[V]:
        """See ``Bucket.get_versions``."""
        return await self._run(self._operations.get_versions(key, r=r, timeout=timeout))

    @overload
    async def modify(
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
    async def modify(
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
    async def modify(
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
        """See ``Bucket.modify``. ``change`` is an ordinary function."""
        return await self._run(self._operations.modify(key, change, default, r=r, w=w, ttl=ttl, timeout=timeout))

    @overload
    async def get_many(
        self, keys: Iterable[A], *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S
    ) -> dict[A, V | None]: ...
    @overload
    async def get_many(
        self, keys: Iterable[A], default: D, *, r: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S
    ) -> dict[A, V | D]: ...
    async def get_many(
        self,
        keys: Iterable[A],
        default: Any = None,
        *,
        r: Level | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> dict[A, Any]:
        """See ``Bucket.get_many``."""
        return await self._run(self._operations.get_many(keys, default, r=r, timeout=timeout))

    async def put_many(
        self,
        items: Mapping[A, V] | Iterable[tuple[A, V]],
        *,
        w: Level | None = None,
        ttl: float | None = None,
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> dict[A, WriteResult]:
        """See ``Bucket.put_many``."""
        return await self._run(self._operations.put_many(items, w=w, ttl=ttl, timeout=timeout))

    async def delete_many(
        self, keys: Iterable[A], *, w: Level | None = None, timeout: float = ops.DEFAULT_TIMEOUT_S
    ) -> dict[A, WriteResult]:
        """See ``Bucket.delete_many``."""
        return await self._run(self._operations.delete_many(keys, w=w, timeout=timeout))

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
    ) -> AsyncIterator[tuple[K, V]]:
        """See ``Bucket.scan``; ``async for`` goes over it."""
        left = ops.scan_range(prefix, start, end, after, reverse=reverse)
        check_level("r", self._operations.config.r if r is None else r, self._operations.config.n)
        return self._pages(left, check_limit(limit), reverse, False, r, timeout)

    def keys(self) -> AsyncIterator[K]:
        """See ``Bucket.keys``."""
        left = ops.scan_range(None, None, None, None, reverse=False)
        return _Each(self._pages(left, None, False, True, None, ops.DEFAULT_TIMEOUT_S), 0)

    def values(self) -> AsyncIterator[V]:
        """See ``Bucket.values``."""
        return _Each(self.scan(), 1)

    def items(self) -> AsyncIterator[tuple[K, V]]:
        """See ``Bucket.items``."""
        return self.scan()

    async def count(self) -> int:
        """See ``Bucket.count``."""
        counted = 0
        async for _ in self.keys():
            counted += 1
        return counted

    def __aiter__(self) -> AsyncIterator[K]:
        return self.keys()

    def _pages(
        self, left: ops.ScanRange, limit: int | None, reverse: bool, keys_only: bool, r: Level | None, timeout: float
    ) -> _Pairs:
        paging = scan_of(
            self._operations, left, limit=limit, reverse=reverse, keys_only=keys_only, r=r, timeout=timeout
        )
        return _Pairs(lambda: self._run(paging.step()))


class _Pairs:
    """The pairs of a scan.

    No asynchronous generator, for an event loop has to finish those that were not read to their end: one that is closed
    without that leaves a warning behind. Here there is nothing to finish.
    """

    def __init__(self, step: Callable[[], Awaitable[Sequence[tuple[Any, Any]]]]) -> None:
        """``step()``: awaits the next pairs; none: it is the end."""
        self._step: Callable[[], Awaitable[Sequence[tuple[Any, Any]]]] | None = step
        self._pairs: Iterator[tuple[Any, Any]] = iter(())
        self._stepping = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[Any, Any]:
        for pair in self._pairs:
            return pair
        if self._stepping:
            raise RuntimeError("the scan is being read by somebody else already")
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
        """End it, as one ends an asynchronous generator."""
        self._step, self._pairs = None, iter(())


class _Each:
    """One of both of each pair: the key, or the value."""

    def __init__(self, pairs: Any, which: int) -> None:
        self._pairs = pairs
        self._which = which

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return (await anext(self._pairs))[self._which]

    async def aclose(self) -> None:
        """See ``_Pairs``."""
        await self._pairs.aclose()


class AsyncStore(StoreHandle[Any, Any], AsyncBucket[Any, Any]):
    """``Store``, awaitable. ``async with store.aio`` ends the handle, as ``with store`` does; the store goes on."""

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
        timeout: float = ops.DEFAULT_TIMEOUT_S,
    ) -> AsyncBucket[Any, Any]:
        """See ``Store.bucket``."""
        options = bucket_options(
            self._operations.config.n, versioning=versioning, n=n, r=r, w=w, sloppy=sloppy, ttl=ttl, codec=codec,
            pair_bytes=pair_bytes,
        )  # fmt: skip
        opened = await self._run(self._session.open_bucket(check_bucket_name(name), options, timeout, resolver))
        return AsyncBucket(self._session, opened, options)

    async def buckets(self, *, timeout: float = ops.DEFAULT_TIMEOUT_S) -> list[str]:
        """See ``Store.buckets``."""
        return [config["name"] for config in await self._run(ops.tell("buckets", timeout=timeout))]

    async def drop_bucket(self, name: str, *, timeout: float = ops.DEFAULT_TIMEOUT_S) -> bool:
        """See ``Store.drop_bucket``."""
        return await self._run(ops.drop_bucket(check_bucket_name(name), timeout=timeout))

    async def repair(
        self, *, progress: Callable[[int, int], object] | None = None, timeout: float = REPAIR_TIMEOUT_S
    ) -> RepairReport:
        """See ``Store.repair``."""
        report = RepairReport.begin((await self._run(ops.tell("ring", timeout=timeout)))["partitions"])
        for some in report.portions():
            report.add(await self._run(ops.repair(some, timeout=timeout)))
            if progress is not None:
                progress(some[-1] + 1, report["partitions"])
        return report.checked()

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
        """See ``Store.add_node``."""
        node_id: str = await self._run(elastic.add_node(weight, zone, host, timeout))
        await self._until_balanced(wait, progress, timeout)
        return node_id

    async def remove_node(
        self,
        node_id: str,
        *,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> None:
        """See ``Store.remove_node``."""
        await self._run(elastic.remove_node(node_id))
        await self._until_balanced(wait, progress, timeout)

    async def replace_node(
        self,
        node_id: str,
        *,
        host: str | None = None,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> str:
        """See ``Store.replace_node``."""
        new: str = await self._run(elastic.replace_node(node_id, host, timeout))
        await self._until_balanced(wait, progress, timeout)
        return new

    async def autoscale(
        self, *, dry_run: bool = False, off: bool = False, **limits: Unpack[elastic.ScalingLimits]
    ) -> ScalingView:
        """See ``Store.autoscale``."""
        return ScalingView(await self._run(elastic.autoscale(limits, dry_run=dry_run, off=off)))

    async def set_weight(
        self,
        node_id: str,
        weight: float,
        *,
        wait: bool = True,
        progress: Callable[[int, int], object] | None = None,
        timeout: float = elastic.REBALANCE_TIMEOUT_S,
    ) -> None:
        """See ``Store.set_weight``."""
        await self._run(elastic.set_weight(node_id, weight))
        await self._until_balanced(wait, progress, timeout)

    async def rebalance(self, action: elastic.RebalanceAction) -> None:
        """See ``Store.rebalance``."""
        await self._run(elastic.rebalance(action))

    async def _until_balanced(self, wait: bool, progress: Callable[[int, int], object] | None, timeout: float) -> None:
        if wait:
            await self._run(elastic.until_balanced(progress, timeout))

    async def status(self, *, timeout: float = ops.DEFAULT_TIMEOUT_S) -> Status:
        """See ``Store.status``."""
        return Status(await self._run(ops.tell("status", timeout=timeout)))

    async def ring(self, *, timeout: float = ops.DEFAULT_TIMEOUT_S) -> RingView:
        """See ``Store.ring``."""
        return RingView(await self._run(ops.tell("ring", timeout=timeout)))

    async def aclose(self) -> None:
        """End the handle. Idempotent."""
        self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
