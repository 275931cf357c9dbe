"""Tokens: a key's place on the ring, and the partition of that place.

The hash is xxh3, 64 bits, unseeded, of the *encoded* key. It is part of the stored format: with another hash every key
would be sought on the wrong nodes. Golden values in the tests pin it. It is no defence against someone who picks keys
that collide; anyone who may write can fill a node in simpler ways, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

from raykv.errors import InvalidOption
from raykv.records.keys import group_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.config import BucketConfig

TOKEN_BITS = 64
"""A token is an int in ``0 .. 2**TOKEN_BITS - 1``."""


def token(key: bytes) -> int:
    """Return the token of an encoded key, an int in ``0 .. 2**64 - 1``. O(len(key)).

    >>> token(b"user:1") == token(b"user:1")
    True
    """
    return xxhash.xxh3_64_intdigest(key)


def partition_of(token: int, partitions: int) -> int:
    """Return the partition, ``0 .. partitions - 1``, in whose arc ``token`` lies. O(1).

    The arcs are equal and in order: partition i is the tokens from ``i * 2**64 / partitions`` up to the next one's.
    ``partitions`` must be a power of two, ``token`` an int in ``0 .. 2**64 - 1``, else ``InvalidOption``.

    >>> partition_of(0, 256), partition_of(2**63, 256), partition_of(2**64 - 1, 256)
    (0, 128, 255)
    """
    _check_partitions(partitions)
    if token < 0 or token >> TOKEN_BITS:
        raise InvalidOption(f"a token is a whole number from 0 to 2**{TOKEN_BITS} - 1; got {token}")
    return (token * partitions) >> TOKEN_BITS


def partition_of_key(key: bytes, partitions: int) -> int:
    """Return the partition of what decides a key's place: ``partition_of(token(key), partitions)``. O(len(key)).

    That is the encoded key itself only where the bucket is not grouped: see ``partition_in``.
    """
    if partitions < 1 or partitions & (partitions - 1):
        _check_partitions(partitions)  # the check is a call only if it fails: this runs for every key
    return (xxhash.xxh3_64_intdigest(key) * partitions) >> TOKEN_BITS


def partitions_of_keys(keys: Sequence[bytes], partitions: int) -> list[int]:
    """Return ``partition_of_key`` of each. O(their length)."""
    if partitions < 1 or partitions & (partitions - 1):
        _check_partitions(partitions)
    digest = xxhash.xxh3_64_intdigest
    return [(digest(key) * partitions) >> TOKEN_BITS for key in keys]


def partition_in(config: BucketConfig | None, key: bytes, partitions: int) -> int:
    """Return the partition of an encoded key in a bucket: by the key, or in a grouped bucket by its group. O(len(key)).

    Everything that seeks a key in the cluster asks this function, or the next one (P15). ``config``: None for an unknown
    bucket, which is not grouped: a grouped one is never unknown where a key is sought (``ClusterState.with_bucket``).
    """
    if config is not None and config.group is not None:
        key = group_of(key, config.group)
    return partition_of_key(key, partitions)


def token_in(config: BucketConfig | None, key: bytes) -> int:
    """Return the token by which an encoded key is placed in a bucket: its own, or in a grouped bucket its group's."""
    return token(group_of(key, config.group) if config is not None and config.group is not None else key)


def partitions_in(config: BucketConfig | None, keys: Sequence[bytes], partitions: int) -> list[int]:
    """Return ``partition_in`` of each. O(their length)."""
    if config is not None and (separator := config.group) is not None:
        keys = [group_of(key, separator) for key in keys]
    return partitions_of_keys(keys, partitions)


def arc(partition: int, partitions: int) -> tuple[int, int]:
    """Return the tokens of a partition as (first, one past the last). O(1). ``InvalidOption`` if there is none.

    >>> arc(3, 4) == (3 * 2**62, 2**64)
    True
    """
    _check_partitions(partitions)
    if not 0 <= partition < partitions:
        raise InvalidOption(f"a partition is a whole number from 0 to {partitions - 1}; got {partition}")
    width = (1 << TOKEN_BITS) // partitions
    return partition * width, (partition + 1) * width


def _check_partitions(partitions: int) -> None:
    if partitions < 1 or partitions & (partitions - 1) or partitions >> TOKEN_BITS:
        raise InvalidOption(f"partitions must be a power of two, as 256 or 1024; got {partitions}")
