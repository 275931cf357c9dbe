"""Claims over random clusters (P13): the bounds after every change, no needless moves, the same everywhere, and quick."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.errors import InvalidOption, NotEnoughNodes
from raykv.ring import Member, claim, moves, targets


def check_bounds(ring):
    """The bounds in the plain words of the rule, apart from ``Ring.check``, which is called too."""
    ring.check()
    n, q = ring.copies, ring.partitions
    by_id = {m.node_id: m for m in ring.members}
    hosts, zones = len({m.host_key for m in ring.members}), len({m.zone for m in ring.members})
    goals = targets(ring.members, q, n)
    held, first = dict.fromkeys(by_id, 0), dict.fromkeys(by_id, 0)
    for partition in range(q):
        owners = ring.owners(partition)
        assert len(set(owners)) == n
        assert len({by_id[o].host_key for o in owners}) == n or hosts < n
        assert len({by_id[o].zone for o in owners}) == n or zones < n
        first[owners[0]] += 1
        for owner in owners:
            held[owner] += 1
    for node_id in by_id:
        assert floor(goals[node_id]) <= held[node_id] <= ceil(goals[node_id])
        assert held[node_id] // n <= first[node_id] <= -(-held[node_id] // n)


class Cluster:
    """A cluster that changes: every draw from one seeded generator."""

    def __init__(self, seed, count, zones, shared_hosts):
        self.rng = random.Random(seed)
        self.zones, self.shared_hosts, self.born = zones, shared_hosts, 0
        self.members = [self.fresh() for _ in range(count)]

    def fresh(self):
        self.born += 1
        host = self.rng.randrange(max(2, self.born // 2)) if self.shared_hosts else self.born
        name = f"h{host}" if self.shared_hosts else ""
        return Member(f"n{self.born:04}", round(self.rng.uniform(1, 8), 2), name, f"z{host % self.zones}")

    def change(self, copies):
        kind = self.rng.choice(["join", "leave", "leave", "weight", "replace"])
        at = self.rng.randrange(len(self.members))
        if kind in ("leave", "replace") and (kind == "replace" or len(self.members) > copies):
            del self.members[at]
        if kind in ("join", "replace"):
            self.members.insert(0, self.fresh())
        if kind == "weight":
            old = self.members[at]
            self.members[at] = Member(old.node_id, round(self.rng.uniform(1, 8), 2), old.host, old.zone)


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(3, 100),
    zones=st.integers(1, 5),
    shared_hosts=st.booleans(),
    partitions=st.sampled_from([256, 1024]),
    copies=st.sampled_from([3, 3, 3, 1, 2, 5]),
)
@settings(deadline=None, max_examples=25)
def test_the_bounds_hold_for_a_fresh_ring_and_after_every_change(seed, count, zones, shared_hosts, partitions, copies):
    copies = min(copies, count)
    cluster = Cluster(seed, count, zones, shared_hosts)
    ring = claim(cluster.members, partitions, copies)
    check_bounds(ring)
    for step in range(4):
        cluster.change(copies)
        changed = claim(cluster.members, partitions, copies, ring)
        assert changed.epoch == step + 2
        check_bounds(changed)
        ring = changed


@given(st.integers(0, 2**32), st.integers(3, 20), st.integers(1, 5), st.booleans(), st.sampled_from([1, 8, 16]))
@settings(deadline=None, max_examples=60)
def test_the_bounds_hold_where_partitions_are_few(seed, count, zones, shared_hosts, partitions):
    cluster = Cluster(seed, count, zones, shared_hosts)
    ring = claim(cluster.members, partitions, 3)
    check_bounds(ring)
    for _ in range(5):
        cluster.change(3)
        ring = claim(cluster.members, partitions, 3, ring)
        check_bounds(ring)


@pytest.mark.parametrize(
    "members",
    [
        [Member(f"n{i}", host="h") for i in range(3)],
        [Member(f"n{i}", host=f"h{i % 2}", zone=f"z{i % 2}") for i in range(5)],
        [Member("tiny", 0.1, "h0", "z0"), *(Member(f"n{i}", 8.0, f"h{i}", f"z{1 + i % 2}") for i in range(6))],
        [Member(f"a{i}", host="big", zone="a") for i in range(9)] + [Member(f"b{i}", zone="b") for i in range(3)],
        [Member("huge", 1000.0), *(Member(f"n{i}", 0.01) for i in range(5))],
        [Member(f"n{i}", host="laptop", zone=f"z{i % 2}") for i in range(5)],
        [Member(f"n{i:03}", 1 + i % 7) for i in range(300)],  # more nodes than partitions
    ],
    ids=["one-host", "two-hosts", "tiny-zone", "one-crowded-host", "unequal", "one-host-two-zones", "crowd"],
)
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_corners(members, copies):
    ring = claim(members, 64, copies)
    check_bounds(ring)
    check_bounds(claim([*members, Member("x", 2.0, "hx", "zx")], 64, copies, ring))
    if len(members) > copies:
        check_bounds(claim(members[1:], 64, copies, ring))


def test_a_zone_that_appears_is_used_and_one_that_goes_is_done_without():
    two = [Member(f"n{i}", zone=f"z{i % 2}") for i in range(6)]
    ring = claim(two, 64, 3)
    three = claim([*two, Member("m", zone="z2")], 64, 3, ring)
    check_bounds(three)
    assert len(three.partitions_of("m")) == 64
    back = claim(two, 64, 3, three)
    check_bounds(back)
    assert len(moves(three, back)) == 64


def test_the_number_of_copies_may_change():
    members = [Member(f"n{i}", zone=f"z{i % 3}") for i in range(7)]
    two = claim(members, 64, 2)
    three = claim(members, 64, 3, two)
    check_bounds(three)
    assert len(moves(two, three)) == 64
    check_bounds(claim(members, 64, 2, three))


def test_nothing_changes_if_nothing_changed():
    ring = claim([Member(f"n{i:02}", 1 + i % 5, zone=f"z{i % 4}") for i in range(30)], 256, 3)
    again = claim(reversed(ring.members), 256, 3, ring)
    assert again.table == ring.table
    assert (ring.epoch, again.epoch) == (1, 2)
    assert moves(ring, again) == ()


def test_a_join_moves_to_the_newcomer_only_and_changes_few_orders():
    ring = claim([Member(f"n{i:02}") for i in range(30)], 256, 3)
    joined = claim([*ring.members, Member("x")], 256, 3, ring)
    streamed = moves(ring, joined)
    assert {node for _, node in streamed} == {"x"}
    assert len(streamed) == len(joined.partitions_of("x")) == 24  # the floor of 768 / 31
    new_first = sum(ring.owners(p)[0] != joined.owners(p)[0] for p in range(256))
    assert new_first <= 12  # x is first in 8, and two dozen rounded shares shift


def test_moves_names_the_copies_to_stream():
    ring = claim([Member("a"), Member("b"), Member("c")], 8, 2)
    assert moves(None, ring) == tuple((p, node) for p in range(8) for node in ring.owners(p))
    bigger = claim([*ring.members, Member("d")], 8, 2, ring)
    for partition, node in moves(ring, bigger):
        assert node in bigger.owners(partition)
        assert node not in ring.owners(partition)
    assert len(moves(ring, bigger)) == 4


def test_a_lost_node_is_rebuilt_from_many():
    members = [Member(f"n{i:02}") for i in range(12)]
    ring = claim(members, 256, 3)
    for number in range(12):  # every node replaced, one after the other
        members[number] = Member(f"m{number:02}")
        ring = claim(members, 256, 3, ring)
    for member in ring.members:
        helped = dict.fromkeys((m.node_id for m in members), 0)
        for partition in ring.partitions_of(member.node_id):
            for other in ring.owners(partition):
                helped[other] += 1
        del helped[member.node_id]
        assert min(helped.values()) >= 4  # evenly mixed it would be 128 / 11, about 12
        assert max(helped.values()) <= 24


def test_bad_input_is_refused():
    three = [Member("a"), Member("b"), Member("c")]
    ring = claim(three, 8, 3)
    with pytest.raises(NotEnoughNodes):
        claim(three, 8, 4)
    with pytest.raises(NotEnoughNodes):
        claim(three[1:], 8, 3, ring)
    with pytest.raises(InvalidOption):
        claim([*three, Member("a")], 8, 3)
    with pytest.raises(InvalidOption):
        claim(three, 16, 3, ring)
    with pytest.raises(InvalidOption):
        claim(three, 12, 3)
    other = claim(three, 16, 3)
    for pair in ((ring, other), (other, ring)):
        with pytest.raises(InvalidOption):
            moves(*pair)


SCRIPT = """
import hashlib
from raykv.ring import Member, claim
members = [Member(f"n{i}", 1 + i % 5, f"h{i // 2}", f"z{i % 3}") for i in range(20)]
ring = claim(members, 256, 3)
ring = claim(members[3:] + [Member("new", 2.5)], 256, 3, ring)
text = repr([ring.table, [ring.preference_list(p, 3) for p in range(256)]])
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_the_same_ring_in_every_process():
    seen = set()
    for seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        seen.add(done.stdout.strip())
    assert len(seen) == 1


def test_the_order_of_the_members_does_not_matter():
    members = [Member(f"n{i}", 1 + i % 5, zone=f"z{i % 3}") for i in range(20)]
    shuffled = random.Random(1).sample(members, len(members))
    assert claim(members, 256, 3) == claim(shuffled, 256, 3)


def test_golden_ring():
    """A change of the algorithm is allowed, but should be on purpose: stores hold rings, so nothing depends on it."""
    ring = claim([Member(f"n{i}", 1 + i % 3, zone=f"z{i % 3}") for i in range(9)], 64, 3)
    assert hashlib.sha256(repr(ring.table).encode()).hexdigest()[:16] == "db74624404834fe6"
