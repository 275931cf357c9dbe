"""Limits (P13) against brute force, targets against an independent water-filling by bisection."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.errors import InvalidOption, NotEnoughNodes
from raykv.ring import Limits, Member, limits, targets


def nodes(layout):
    """``{"a": [2, 1]}``: zone a has a host of two nodes and a host of one."""
    return [
        Member(f"{zone}-{host}-{number}", host=f"h{host}", zone=zone)
        for zone, hosts in layout.items()
        for host, count in enumerate(hosts)
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("layout", "copies", "expected"),
    [
        ({"a": [1, 1, 1]}, 3, (1, 3)),
        ({"a": [1], "b": [1], "c": [1]}, 3, (1, 1)),
        ({"a": [1, 1], "b": [1]}, 3, (1, 2)),
        ({"a": [3]}, 3, (3, 3)),  # three nodes on one host
        ({"a": [3], "b": [2]}, 3, (2, 2)),  # two hosts in two zones
        ({"a": [1], "b": [9], "c": [1, 1, 1]}, 3, (1, 1)),
        ({"a": [1], "b": [1, 1, 1, 1]}, 4, (1, 3)),  # zone a cannot take two of four: zone b takes three
        ({"a": [4], "b": [1]}, 4, (3, 3)),  # host b cannot take two of four
        ({"a": [5], "b": [1, 1, 1]}, 4, (1, 3)),  # four hosts: they stay distinct, the zones are less even
        ({"a": [3], "b": [1, 1, 1]}, 5, (2, 3)),
        ({"a": [1], "b": [2, 2, 2]}, 5, (2, 4)),
    ],
)
def test_limits(layout, copies, expected):
    assert limits(nodes(layout), copies) == Limits(*expected)


@st.composite
def clusters(draw, biggest=14, copies_to=5):
    rng = random.Random(draw(st.integers(0, 2**32)))
    count = draw(st.integers(3, biggest))
    zones, hosts = draw(st.integers(1, 5)), draw(st.integers(1, count))
    copies = draw(st.integers(1, min(copies_to, count)))
    home = [f"z{rng.randrange(zones)}" for _ in range(hosts)]
    members = []
    for number in range(count):
        host = rng.randrange(hosts)
        name = f"h{host}" if rng.random() < 0.8 else ""
        members.append(Member(f"n{number:03}", round(rng.uniform(1, 8), rng.randrange(3)), name, home[host]))
    return members, copies


@given(clusters(biggest=8))
@settings(deadline=None, max_examples=60)
def test_limits_are_the_least_that_some_choice_of_owners_keeps(cluster):
    members, copies = cluster
    seen = set()
    for owners in combinations(members, copies):
        hosts, zones = [m.host_key for m in owners], [m.zone for m in owners]
        seen.add((max(map(hosts.count, hosts)), max(map(zones.count, zones))))
    assert limits(members, copies) == min(seen)
    if len({m.host_key for m in members}) >= copies:
        assert limits(members, copies).host == 1
    if len({m.zone for m in members}) >= copies:
        assert limits(members, copies).zone == 1


def sup_level(filled, cap):
    """The highest level at which ``filled(level)`` is at most ``cap``, by bisection."""
    low, high = 0.0, 1e7
    if filled(high) <= cap:
        return high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if filled(middle) <= cap else (low, middle)
    return low


def water_filled(members, partitions, copies):
    """From the inside out: a node's own level, its host's, its zone's, the ring's; the least of them is its level."""
    limit = limits(members, copies)
    level = {m.node_id: partitions / m.weight for m in members}
    for cap, key in (
        (limit.host * partitions, lambda m: m.host_key),
        (limit.zone * partitions, lambda m: m.zone),
        (copies * partitions, lambda m: ""),
    ):
        for group in sorted({key(m) for m in members}):
            inside = [m for m in members if key(m) == group]
            top = sup_level(
                lambda rising, inside=inside: sum(m.weight * min(rising, level[m.node_id]) for m in inside), cap
            )
            level.update({m.node_id: min(top, level[m.node_id]) for m in inside})
    return {m.node_id: m.weight * level[m.node_id] for m in members}


@given(clusters())
@settings(deadline=None, max_examples=60)
def test_targets_are_the_water_filled_shares(cluster):
    members, copies = cluster
    exact = targets(members, 256, copies)
    assert list(exact) == sorted(exact)
    assert sum(exact.values()) == 256 * copies
    assert all(isinstance(value, Fraction) for value in exact.values())
    for node_id, amount in water_filled(members, 256, copies).items():
        assert float(exact[node_id]) == pytest.approx(amount, abs=1e-3)


def test_targets_are_exact_where_floats_are_not():
    thirds = targets([Member(f"n{i}", 0.1) for i in range(3)], 256, 3)
    assert set(thirds.values()) == {Fraction(256)}
    tenths = targets([Member("a", 0.1), Member("b", 0.2), Member("c", 0.3), Member("d", 0.4)], 1024, 1)
    assert tenths["c"] == Fraction(1024 * 3, 10)


def test_a_zone_with_one_small_host_carries_every_partition_if_the_zones_are_just_enough():
    members = [Member("small", 1.0, zone="a"), *(Member(f"{z}{i}", 8.0, zone=z) for z in "bc" for i in range(4))]
    assert targets(members, 256, 3)["small"] == 256


def test_a_heavy_node_stops_at_q_and_the_rest_share_what_is_left():
    got = targets([Member("heavy", 100.0), *(Member(f"n{i}") for i in range(4))], 256, 3)
    assert got["heavy"] == 256
    assert {value for node, value in got.items() if node != "heavy"} == {Fraction(128)}


def test_bad_input_is_refused():
    three = [Member("a"), Member("b"), Member("c")]
    with pytest.raises(NotEnoughNodes):
        targets(three, 256, 4)
    with pytest.raises(NotEnoughNodes):
        limits(three, 4)
    with pytest.raises(InvalidOption):
        targets([*three, Member("a", 2.0)], 256, 3)
    for partitions, copies in ((0, 3), (100, 3), (256, 0), (256, 10), (2**17, 3)):
        with pytest.raises(InvalidOption):
            targets(three, partitions, copies)
