"""Merkle trees over the records of a partition, which two owners compare to find where they differ (Merkle 1987).

A leaf stands for a slice of the keys (by a hash of the key, so that slices are even) and has the sum of its records'
digests; a node above has a hash over its 16 children. Equal roots mean equal contents. Where they differ the children
are compared, and so on down: with d of n records differing, about ``16 d log16(n)`` digests travel, and the keys of
about d leaves. Dynamo (DeCandia et al. 2007, section 4.7) keeps such trees up to date; here a scan makes them on demand,
since a partition is one contiguous run on disk and each is compared about once a day.

A digest covers bucket, key and record as sent to others (``kinds.public``): replicas that hold the same have equal
bytes. 64 bits find every difference that is no attack; where two digests collide, at a chance of 2^-64, the next write
repairs the difference.

Omitted: trees that are updated with every write.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, TypeAlias

from xxhash import xxh3_64_intdigest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FAN_OUT = 16
MAX_DEPTH = 5
RECORDS_PER_LEAF = 4
LEAVES_PER_ENTRY = 16
"""The leaves that take as much memory as an entry."""
_CHILDREN = struct.Struct(f">{FAN_OUT}Q")
_BUCKET = struct.Struct(">I")
_MASK = (1 << 64) - 1

Entry: TypeAlias = tuple[int, bytes, int]
"""(bucket id, encoded key, digest of the record)."""


def digest(bucket_id: int, key: bytes, record: bytes) -> int:
    """Return the digest of a record, as sent to others."""
    return xxh3_64_intdigest(_BUCKET.pack(bucket_id) + len(key).to_bytes(2) + key + record)


def depth_for(records: int) -> int:
    """Return the depth that suits a tree over this number of records."""
    return next((depth for depth in range(MAX_DEPTH) if FAN_OUT**depth * RECORDS_PER_LEAF >= records), MAX_DEPTH)


class Tree:
    """A tree over ``entries``. Building it is O(entries x depth), beside the memory of its leaves (``weight``)."""

    def __init__(self, entries: Sequence[Entry], depth: int) -> None:
        assert 0 <= depth <= MAX_DEPTH
        self.depth = depth
        self.records = len(entries)
        self.entries = entries
        leaves = FAN_OUT**depth
        self._leaf_of = array("L", (_slice(bucket_id, key) & (leaves - 1) for bucket_id, key, _ in entries))
        sums = array("Q", bytes(8 * leaves))
        for leaf, (_, _, value) in zip(self._leaf_of, entries, strict=True):
            sums[leaf] = (sums[leaf] + value) & _MASK
        self._levels = [sums]
        touched = {*self._leaf_of}  # all else is 0: whoever asks for a depth decides the leaves, and not the work
        while len(self._levels[0]) > 1:
            below = self._levels[0]
            touched = {at // FAN_OUT for at in touched}
            above = array("Q", bytes(8 * len(below) // FAN_OUT))
            for at in touched:
                above[at] = _above(below, at * FAN_OUT)
            self._levels.insert(0, above)

    @property
    def weight(self) -> int:
        """Return its memory, in about as many entries."""
        return self.records + len(self._levels[-1]) // LEAVES_PER_ENTRY

    @property
    def root(self) -> int:
        """The digest of everything; 0 if there are no entries."""
        return self._levels[0][0]

    def children(self, level: int, indexes: Iterable[int]) -> list[int]:
        """Return the 16 digests below each of these nodes of ``level`` (0: the root); level -1: the root itself.

        ``IndexError`` for a level or node that the tree does not have.
        """
        if level == -1:
            return [self.root]
        if not 0 <= level < self.depth:
            raise IndexError(level)
        below = self._levels[level + 1]
        found: list[int] = []
        for index in indexes:
            if not 0 <= index < len(self._levels[level]):
                raise IndexError(index)
            found += below[index * FAN_OUT : (index + 1) * FAN_OUT]
        return found

    def leaves(self, indexes: Iterable[int]) -> dict[int, list[Entry]]:
        """Return the entries of these leaves. O(records)."""
        found: dict[int, list[Entry]] = {index: [] for index in indexes}
        for leaf, entry in zip(self._leaf_of, self.entries, strict=True):
            if leaf in found:
                found[leaf].append(entry)
        return found

    def deeper(self, depth: int) -> Tree:
        """Return the tree over the same entries with another depth."""
        return self if depth == self.depth else Tree(self.entries, depth)


def differing(indexes: Sequence[int], mine: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """Return the children of ``indexes`` whose digests differ, as indexes of the next level."""
    assert len(mine) == len(theirs) == FAN_OUT * len(indexes)
    return [
        indexes[at // FAN_OUT] * FAN_OUT + at % FAN_OUT
        for at, (one, other) in enumerate(zip(mine, theirs, strict=True))
        if one != other
    ]


def _slice(bucket_id: int, key: bytes) -> int:
    return xxh3_64_intdigest(key, seed=bucket_id + 1)


def _above(below: array[int], at: int) -> int:
    children = below[at : at + FAN_OUT]
    return xxh3_64_intdigest(_CHILDREN.pack(*children)) if any(children) else 0
