"""Merging sorted sources, newest first, a window at a time.

The textbook merge (O'Neil 1996; a heap of one entry a source) takes an interpreter step an entry. This one takes a few a
*window*: every source shows its next batch; all keys up to the smallest last key among those batches can be settled
now, since no source can bring a smaller one later. The settled parts go into a dict, oldest source first, so that the
newest record of a key stands; sorting the dict's keys merges sorted stretches, which CPython's sort (Timsort) does best.
Both steps run in C.

Invariant: windows come in key order and do not overlap; within a window keys are ascending and unique. Every window uses
up at least one batch. Backwards, windows come in descending order, and are themselves ascending all the same.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

V = TypeVar("V")
Batch: TypeAlias = tuple[list[bytes], list[V]]


class _Source(Generic[V]):
    """One sorted stream; what is left of its present batch is ``keys[low:high]``."""

    __slots__ = ("batches", "high", "keys", "low", "values")

    def __init__(self, batches: Iterator[Batch[V]]) -> None:
        self.batches = batches
        self.keys: list[bytes] = []
        self.values: list[V] = []
        self.low = self.high = 0

    def load(self) -> bool:
        """Load the next batch that is not empty; return False at the end."""
        for keys, values in self.batches:
            if keys:
                assert len(keys) == len(values)
                self.keys, self.values, self.low, self.high = keys, values, 0, len(keys)
                return True
        return False


def merge(sources: Sequence[Iterator[Batch[V]]], *, reverse: bool = False) -> Iterator[Batch[V]]:
    """Yield the union of ``sources`` in windows; of equal keys the one of the earlier source stands.

    Each source yields batches of ascending keys, batch after batch ascending (descending with ``reverse``).
    O(n log s) for n entries of s sources; memory: a batch of each source.
    """
    heads = [source for source in map(_Source, sources) if source.load()]
    while len(heads) > 1:
        yield _window_back(heads) if reverse else _window(heads)
        heads = [source for source in heads if source.low < source.high or source.load()]
    for source in heads:
        yield source.keys[source.low : source.high], source.values[source.low : source.high]
        yield from (batch for batch in source.batches if batch[0])


def _window(heads: list[_Source[V]]) -> Batch[V]:
    limit = min([source.keys[source.high - 1] for source in heads])
    parts: list[Batch[V]] = []
    for source in heads:
        low = source.low
        cut = bisect_right(source.keys, limit, low, source.high)
        if cut > low:
            parts.append((source.keys[low:cut], source.values[low:cut]))
            source.low = cut
    return settle(parts)


def _window_back(heads: list[_Source[V]]) -> Batch[V]:
    limit = max([source.keys[source.low] for source in heads])
    parts: list[Batch[V]] = []
    for source in heads:
        high = source.high
        cut = bisect_left(source.keys, limit, source.low, high)
        if cut < high:
            parts.append((source.keys[cut:high], source.values[cut:high]))
            source.high = cut
    return settle(parts)


def settle(parts: list[Batch[V]]) -> Batch[V]:
    """Return the union of sorted parts, at least one; of equal keys the one of the earlier part stands. O(n log n)."""
    assert parts, "the source that set the limit has a part"
    if len(parts) == 1:
        return parts[0]
    newest: dict[bytes, V] = {}
    for keys, values in reversed(parts):
        newest.update(zip(keys, values, strict=True))
    ordered = sorted(newest)
    return ordered, [newest[key] for key in ordered]
