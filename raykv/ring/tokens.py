"""Tokens: a key's place on the ring, and the partition of that place.

The hash is xxh3, 64 bits, unseeded, of the *encoded* key. It is part of the stored format: with another hash every key
would be sought on the wrong nodes. Golden values in the tests pin it. It is no defence against someone who picks keys
that collide; anyone who may write can fill a node in simpler ways, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

from raykv.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """Return the partition of an encoded key: ``partition_of(token(key), partitions)``. O(len(key))."""
    if partitions < 1 or partitions & (partitions - 1):
        _check_partitions(partitions)  # the check is a call only if it fails: this runs for every key
    return (xxhash.xxh3_64_intdigest(key) * partitions) >> TOKEN_BITS


def partitions_of_keys(keys: Sequence[bytes], partitions: int) -> list[int]:
    """Return ``partition_of_key`` of each. O(their length)."""
    if partitions < 1 or partitions & (partitions - 1):
        _check_partitions(partitions)
    digest = xxhash.xxh3_64_intdigest
    return [(digest(key) * partitions) >> TOKEN_BITS for key in keys]


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
