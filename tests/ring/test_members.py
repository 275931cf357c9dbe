"""Members: what a node may be called and weigh, and what a host's resources come to."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.config import GIB
from raykv.errors import InvalidOption
from raykv.ring import Member, auto_weight, partition_warning


@pytest.mark.parametrize(
    "wrong",
    [
        {"node_id": ""},
        {"node_id": "n" * 256},
        {"node_id": "n", "weight": 0.0},
        {"node_id": "n", "weight": -1.0},
        {"node_id": "n", "weight": float("nan")},
        {"node_id": "n", "weight": float("inf")},
        {"node_id": "n", "weight": 1001.0},
        {"node_id": "n", "weight": True},
        {"node_id": "n", "host": "h" * 256},
        {"node_id": "n", "zone": "no spaces"},
    ],
)
def test_a_bad_member_is_refused(wrong):
    with pytest.raises(InvalidOption):
        Member(**wrong)


def test_a_member_travels():
    member = Member("n1", 2.5, "host-1", "zone-a")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(member), type=Member) == member


def test_unnamed_hosts_are_hosts_of_their_own():
    assert Member("a").host_key != Member("b").host_key
    assert Member("a", host="h").host_key == Member("b", host="h").host_key
    assert Member("a", host="h", zone="z").host_key != Member("b", host="h").host_key
    assert Member("a").host_key != Member("b", host="a").host_key


@pytest.mark.parametrize(
    ("cpus", "memory_gib", "disk_gib", "nodes", "expected"),
    [
        (4, 16, 200, 1, 1.0),
        (8, 32, 400, 1, 2.0),
        (8, 32, 400, 2, 1.0),  # two nodes share the host
        (64, 16, 10_000, 1, 1.0),  # memory decides
        (2, 1024, 10_000, 1, 0.5),  # cpus decide
        (64, 1024, 300, 1, 1.5),  # disk decides
        (1000, 10_000, 100_000, 1, 16.0),  # the upper bound
        (0.5, 1, 10, 4, 0.25),  # the lower bound
        (4, 15.6, 200, 1, 1.0),  # a host that reports a little less is the same host
    ],
)
def test_auto_weight(cpus, memory_gib, disk_gib, nodes, expected):
    assert auto_weight(cpus, int(memory_gib * GIB), int(disk_gib * GIB), nodes) == expected


@given(st.floats(0.01, 1e4), st.integers(1, 10**15), st.integers(1, 10**15), st.integers(1, 64))
@settings(deadline=None)
def test_auto_weight_is_a_usable_weight_and_grows_with_every_resource(cpus, memory, disk, nodes):
    weight = auto_weight(cpus, memory, disk, nodes)
    assert Member("n", weight).weight == weight
    assert 0.25 <= weight <= 16
    assert weight % 0.25 == 0
    assert auto_weight(cpus * 2, memory * 2, disk * 2, nodes) >= weight >= auto_weight(cpus, memory, disk, nodes + 1)


@pytest.mark.parametrize(
    "wrong", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, -1, 1), (float("nan"), 1, 1, 1), (float("inf"), 1, 1, 1), (1, 1, 1, 0)]
)
def test_auto_weight_refuses_nonsense(wrong):
    with pytest.raises(InvalidOption):
        auto_weight(*wrong)


def test_partition_warning():
    assert partition_warning(range(32), 256) is None
    message = partition_warning(range(33), 256)
    assert message is not None
    assert "partitions=512" in message
    suggestion = partition_warning(range(100), 256)
    assert suggestion is not None
    assert "partitions=1024" in suggestion
    assert partition_warning(range(100), 1024) is None
