"""A bucket cut into splits, to be scanned in parallel: each is a set of partitions and a range of keys, and pickles.

A key's partition is decided by the key (of a grouped bucket: by its group) and never changes; what changes is who owns the
partition. A split therefore names partitions, and each page finds their present owners (``coordinator.scans``): the splits
of one ``splits()`` show each key once between them (P15), whatever dies or moves while they are read. Neighbours in a
split have the same owners as far as can be, so that a page asks few nodes; the hosts of their copies are a hint where to
read it, never a condition.

A split is of one bucket of one store, by their ids: of another of the same name it would show a part, and nobody would
notice. Left out: a snapshot. Splits are as current as scans.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from raykv.client.exchange import ask_info
from raykv.client.paging import scan_range
from raykv.client.views import RingView
from raykv.config import MAX_PARTITIONS, check_count, check_timeout
from raykv.errors import InvalidOption
from raykv.protocol import frames as f
from raykv.records.keys import group_of_range
from raykv.ring import partition_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from raykv.client.exchange import Steps
    from raykv.client.handle import Handle, K, V
    from raykv.client.operations import Operations
    from raykv.client.paging import Paging
    from raykv.config import BucketConfig
    from raykv.records.keys import Key
else:
    K, V = TypeVar("K"), TypeVar("V")


class Piece(NamedTuple):
    """What a split covers."""

    store_id: str
    bucket_id: int
    partitions: list[int]
    hosts: list[str]
    """Where copies of them lie, the host with the most of them first."""
    prefix: Key | None
    start: Key | None
    end: Key | None
    r: Any
    timeout: Any


def pieces(
    operations: Operations,
    count: int | None,
    prefix: Key | None,
    start: Key | None,
    end: Key | None,
    *,
    r: Any,
    timeout: Any,
) -> Steps[list[Piece]]:
    """Return what each of ``count`` splits covers. Raises ``InvalidOption``, ``InvalidKey`` before anything is sent."""
    timeout_s = check_timeout(timeout)
    left = scan_range(prefix, start, end, None, reverse=False)
    operations.check_r(r)
    most = None if count is None else check_count("count", count, 1, MAX_PARTITIONS)
    ring = RingView((yield from ask_info(f.GetInfo("ring", timeout_s), timeout_s)))
    config = operations.config
    group = None if config.group is None else group_of_range(left.start, left.end, config.group)
    cut = cut_up(ring, config, most) if group is None else [[partition_in(config, group, ring["partitions"])]]
    return [
        Piece(
            operations.store_id,
            operations.bucket_id,
            partitions,
            hosts_of(ring, config, partitions),
            prefix,
            start,
            end,
            r,
            timeout,
        )
        for partitions in cut
    ]


def cut_up(ring: RingView, config: BucketConfig, count: int | None) -> list[list[int]]:
    """Return the ring's partitions in ``count`` sets of equal size; fewer where there are fewer partitions.

    None: as many as nodes own partitions. Sets that follow one another have different first owners, as far as can be.
    """
    owners = [tuple(table[: config.n]) for table in ring["table"]]
    first = len({nodes[0] for nodes in owners})
    in_order = sorted(range(len(owners)), key=lambda partition: (owners[partition], partition))
    count = min(first if count is None else count, len(in_order))
    bounds = [len(in_order) * index // count for index in range(count + 1)]
    cut = [sorted(in_order[low:high]) for low, high in itertools.pairwise(bounds)]
    stride = max(1, count // first)
    return [cut[index] for index in sorted(range(count), key=lambda index: (index % stride, index))]


def hosts_of(ring: RingView, config: BucketConfig, partitions: list[int]) -> list[str]:
    """Return the hosts with copies of these partitions, the one with the most first, a first owner's before another's."""
    points: dict[str, int] = {}
    for partition in partitions:
        for place, index in enumerate(ring["table"][partition][: config.n]):
            host = str(ring["members"][index]["host"])
            points[host] = points.get(host, 0) + (2 if place == 0 else 1)
    return sorted(points, key=lambda host: (-points[host], host))


class _AnySplit(Generic[K, V]):
    """What splits of both faces have."""

    def __init__(self, bucket: Handle[K, V], piece: Piece) -> None:
        self._bucket = bucket
        self._piece = piece

    @property
    def partitions(self) -> list[int]:
        """The partitions that it covers, ascending."""
        return [*self._piece.partitions]

    @property
    def hosts(self) -> list[str]:
        """The hosts where copies of them lay when it was made, the best first: a hint where to read it."""
        return [*self._piece.hosts]

    def __repr__(self) -> str:
        return f"<raykv split of {len(self._piece.partitions)} partitions of {self._bucket!r}>"

    def _paging(self, after: Key | None) -> Paging:
        piece, operations = self._piece, self._bucket._operations  # noqa: SLF001 - a part of the handle
        if (operations.store_id, operations.bucket_id) != (piece.store_id, piece.bucket_id):
            raise InvalidOption(
                f"bucket {operations.config.name!r} was dropped and made anew since this split was made; call splits() again"
            )
        return operations.scan(
            piece.prefix,
            piece.start,
            piece.end,
            after=after,
            r=piece.r,
            timeout=piece.timeout,
            partitions=piece.partitions,
        )


class Split(_AnySplit[K, V]):
    """A part of a bucket, to be scanned by itself: made by ``bucket.splits()``; pickles, and is read in any process.

    Iterating it yields its pairs in key order, as a scan does, with a scan's errors. It can be read any number of times.
    """

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self.items()

    def items(self, after: Key | None = None) -> Iterator[tuple[K, V]]:
        """Iterate over the pairs, behind the key ``after`` if one is given."""
        return self._bucket._pairs(self._paging(after))  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001


class AsyncSplit(_AnySplit[K, V]):
    """The awaitable form of ``Split``: made by ``await bucket.aio.splits()``."""

    def __aiter__(self) -> AsyncIterator[tuple[K, V]]:
        return self.items()

    def items(self, after: Key | None = None) -> AsyncIterator[tuple[K, V]]:
        """See ``Split``."""
        return self._bucket._pairs(self._paging(after))  # type: ignore[attr-defined, no-any-return]  # noqa: SLF001
