"""The largest groups of grouped buckets, estimated: a group lies on the n nodes of one partition, and never divides.

The estimate takes a few thousand keys spread evenly over what the node stores (the first keys of blocks, and some of the
memtable's), each of which stands for the bytes up to the next, and adds them up by group. A group that matters has many;
one smaller than what a key stands for may be missed. What was overwritten counts until compactions remove it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from raykv.records.keys import STORAGE_PREFIX_BYTES, group_of, is_private, storage_bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from raykv.config import BucketConfig
    from raykv.storage import Engine

SAMPLED = 4096
EVERY_S = 30.0
"""An estimate is good for so long."""


def largest_groups(
    sample: Iterable[tuple[bytes, int]], config_of: Callable[[int], BucketConfig | None]
) -> list[tuple[bytes, int]]:
    """Return for each grouped bucket in a sample of (storage key, bytes) its largest group, as it would be stored."""
    sums: Counter[bytes] = Counter()
    for key, size_bytes in sample:
        if is_private(key) or len(key) <= STORAGE_PREFIX_BYTES:
            continue
        config = config_of(storage_bucket(key))
        if config is not None and config.group is not None:
            sums[key[:STORAGE_PREFIX_BYTES] + group_of(key[STORAGE_PREFIX_BYTES:], config.group)] += size_bytes
    largest: dict[int, tuple[bytes, int]] = {}
    for group, size_bytes in sorted(sums.items()):
        bucket_id = storage_bucket(group)
        if size_bytes > largest.get(bucket_id, (b"", 0))[1]:
            largest[bucket_id] = group, size_bytes
    return [largest[bucket_id] for bucket_id in sorted(largest)]


class GroupSizes:
    """The estimate of one node, made anew when it is asked for and old."""

    def __init__(self, engine: Engine, config_of: Callable[[int], BucketConfig | None]) -> None:
        self._engine = engine
        self._config_of = config_of
        self._made_s = 0.0
        self._found: list[tuple[bytes, int]] | None = None

    def figures(self, now_s: float) -> list[list[bytes | int]]:
        """Return the largest group of each grouped bucket: its storage key up to the separator, and its bytes."""
        if self._found is None or now_s - self._made_s >= EVERY_S:
            self._made_s = now_s
            self._found = largest_groups(self._engine.sample(SAMPLED), self._config_of)
        return [[group, size_bytes] for group, size_bytes in self._found]
