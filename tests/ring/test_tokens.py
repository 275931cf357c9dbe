"""Tokens: the hash never changes, and the arcs are equal, in order and without gaps."""

from __future__ import annotations

import doctest
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raykv.ring
from raykv.config import BucketConfig
from raykv.errors import InvalidOption
from raykv.ring import (
    arc,
    claim,
    members,
    partition_in,
    partition_of,
    partition_of_key,
    partitions_in,
    partitions_of_keys,
    targets,
    token,
    tokens,
)

GOLDEN = [
    (b"", 0x2D06800538D394C2),  # the published value of XXH3_64bits for no input
    (b"a", 0xE6C632B61E964E1F),
    (b"user:1", 0x3B577AFD7FED9501),
    (b"\x00", 0xC44BDFF4074EECDB),
    (bytes(range(256)) * 4, 0xA870F92984398D22),
]


@pytest.mark.parametrize(("key", "expected"), GOLDEN)
def test_the_hash_of_a_stored_key_never_changes(key, expected):
    assert token(key) == expected


def test_golden_partition():
    assert [partition_of_key(b"user:1", q) for q in (1, 8, 256, 1024, 65_536)] == [0, 1, 0x3B, 0x3B57 >> 6, 0x3B57]
    keys = [b"user:1", b"user:2", b""]
    assert partitions_of_keys(keys, 1024) == [partition_of_key(key, 1024) for key in keys]
    assert partitions_of_keys([], 8) == []


def test_in_a_grouped_bucket_the_group_decides():
    grouped, plain = (BucketConfig(name="b", n=1, r=1, w=1, group=group) for group in (":", None))
    keys = [b"\x02user:1", b"\x02user:2", b"\x02user", b"\x02:1", b"\x01user:1"]
    groups = [b"\x02user", b"\x02user", b"\x02user", b"\x02", b"\x01user"]
    assert partitions_in(grouped, keys, 4096) == [partition_of_key(group, 4096) for group in groups]
    assert partitions_in(grouped, keys, 4096) == [partition_in(grouped, key, 4096) for key in keys]
    for config in (plain, None):
        assert partitions_in(config, keys, 4096) == partitions_of_keys(keys, 4096)
        assert partitions_in(config, keys, 4096) == [partition_in(config, key, 4096) for key in keys]


@given(st.integers(0, 2**64 - 1), st.integers(0, 16))
@settings(deadline=None)
def test_a_token_lies_in_the_arc_of_its_partition(position, power):
    partition = partition_of(position, 1 << power)
    first, end = arc(partition, 1 << power)
    assert first <= position < end


def test_arcs_are_equal_and_cover_the_ring():
    arcs = [arc(partition, 256) for partition in range(256)]
    assert arcs[0][0] == 0
    assert arcs[-1][1] == 2**64
    assert all(left[1] == right[0] for left, right in pairwise(arcs))
    assert {end - first for first, end in arcs} == {2**56}


def test_keys_spread_evenly():
    counts = [0] * 16
    for number in range(16_000):
        counts[partition_of_key(b"key:%d" % number, 16)] += 1
    assert 850 < min(counts) <= max(counts) < 1150


@pytest.mark.parametrize("partitions", [0, -1, 3, 255, 1000])
def test_partitions_are_a_power_of_two(partitions):
    with pytest.raises(InvalidOption):
        partition_of(1, partitions)
    with pytest.raises(InvalidOption):
        arc(0, partitions)


def test_a_token_has_64_bits():
    for wrong in (-1, 2**64):
        with pytest.raises(InvalidOption):
            partition_of(wrong, 256)
    for wrong in (-1, 256):
        with pytest.raises(InvalidOption):
            arc(wrong, 256)


def test_the_examples_in_the_docstrings_hold():
    names = [name for name in sys.modules if name.startswith("raykv.ring.")]
    assert raykv.ring.__doc__
    assert {f.__module__ for f in (token, claim, targets, members.auto_weight)} <= set(names)
    tested = [doctest.testmod(sys.modules[name]) for name in names]
    assert sum(result.attempted for result in tested) >= 8
    assert sum(result.failed for result in tested) == 0
    assert tokens.TOKEN_BITS == 64
