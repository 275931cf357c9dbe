"""The ring as a value: what it answers, what it refuses, what its check catches, and preference lists."""

from __future__ import annotations

import pickle

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykv.errors import InvalidOption
from raykv.ring import Member, Ring, claim, partition_of_key

ABC = (Member("a"), Member("b"), Member("c"))


def ring_of(*rows, members=ABC, epoch=1, copies=2):
    return Ring(epoch, copies, len(rows), members, rows)


def test_it_answers_which_nodes_own_what():
    ring = ring_of((0, 1), (2, 0), (1, 2), (0, 2))
    assert ring.owners(1) == ("c", "a")
    assert ring.partitions_of("a") == (0, 1, 3)
    assert ring.first_partitions_of("a") == (0, 3)
    assert ring.first_partitions_of("b") == (2,)
    assert ring.member("b") == Member("b")
    assert ring.has_member("c")
    assert not ring.has_member("d")
    assert ring.partition_of(b"user:1") == partition_of_key(b"user:1", 4)


def test_it_refuses_what_it_does_not_have():
    ring = ring_of((0, 1), (2, 0), (1, 2), (0, 2))
    for ask in (ring.partitions_of, ring.first_partitions_of, ring.member):
        with pytest.raises(InvalidOption):
            ask("d")
    for partition in (-1, 4):
        with pytest.raises(InvalidOption):
            ring.owners(partition)
        with pytest.raises(InvalidOption):
            ring.preference_list(partition, 1)
        with pytest.raises(InvalidOption):
            ring.primaries(partition, 1)
    for n in (0, 3):
        with pytest.raises(InvalidOption):
            ring.preference_list(0, n)
        with pytest.raises(InvalidOption):
            ring.primaries(0, n)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (((0, 1), (0, 1), (0, 1)), {}),  # three partitions
        (((0, 0), (0, 1)), {}),  # an owner twice
        (((0, 3), (0, 1)), {}),  # no such member
        (((0, -1), (0, 1)), {}),
        (((0,), (0, 1)), {}),  # an owner short
        (((0, 1), (0, 1)), {"epoch": 0}),
        (((0, 1), (0, 1)), {"copies": 0}),
        (((0, 1), (0, 1)), {"members": (Member("b"), Member("a"))}),  # out of order
        (((0, 1), (0, 1)), {"members": (Member("a"), Member("a"))}),
    ],
)
def test_a_ring_of_a_wrong_shape_cannot_be_made(rows, options):
    with pytest.raises(InvalidOption):
        ring_of(*rows, **options)


def test_a_row_count_must_be_the_number_of_partitions():
    with pytest.raises(InvalidOption):
        Ring(1, 2, 4, ABC, ((0, 1), (0, 1)))


def test_a_ring_is_a_value_that_travels():
    ring = claim([Member(f"n{i}", 1 + i % 3, f"h{i // 2}", f"z{i % 2}") for i in range(8)], 64, 3)
    ring.preference_list(0, 3)  # what was worked out does not travel and does not matter
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(ring), type=Ring)
    assert copy == ring
    assert hash(copy) == hash(ring)
    assert pickle.loads(pickle.dumps(ring)) == ring
    assert copy.preference_list(0, 3) == ring.preference_list(0, 3)
    with pytest.raises(AttributeError):
        ring.epoch = 2
    broken = msgspec.msgpack.encode({**msgspec.to_builtins(ring), "epoch": 0})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(broken, type=Ring)


def swapped(ring, change):
    rows = [list(row) for row in ring.table]
    change(rows)
    return msgspec.structs.replace(ring, table=tuple(tuple(row) for row in rows))


def test_check_passes_what_claim_makes_and_catches_each_broken_invariant():
    zoned = claim([Member(f"n{i}", zone=f"z{i % 3}", host=f"h{i}") for i in range(9)], 64, 3)
    zoned.check()
    n0_to_n3 = next(p for p in range(64) if 0 in zoned.table[p] and 3 not in zoned.table[p])

    def take_one(rows):
        rows[n0_to_n3] = [3 if owner == 0 else owner for owner in rows[n0_to_n3]]

    with pytest.raises(AssertionError, match="copies, not about"):
        swapped(swapped(zoned, take_one), lambda rows: steal(rows, 0, 3)).check()

    def one_zone(rows):
        rows[0] = [0, 3, 6]

    with pytest.raises(AssertionError, match="owners in a zone"):
        swapped(zoned, one_zone).check()
    hosts = claim([Member(f"n{i}", host=f"h{i % 3}") for i in range(9)], 64, 3)
    with pytest.raises(AssertionError, match="owners on a host"):
        swapped(hosts, one_zone).check()
    for place in (0, 1):

        def always_last(rows, place=place):
            for row in rows:
                row[place:] = sorted(row[place:])

        with pytest.raises(AssertionError, match=f"at place {place}"):
            swapped(zoned, always_last).check()


def steal(rows, loser, winner):
    """One more copy from ``loser`` to ``winner``, so that the difference is over one."""
    row = next(row for row in rows if loser in row and winner not in row)
    row[row.index(loser)] = winner


# ---- preference lists ----------------------------------------------------------------------------------------------


def test_preference_list_goes_on_around_the_ring():
    members = tuple(Member(name) for name in "abcdef")
    ring = ring_of((0, 1), (2, 0), (1, 4), (3, 2), members=members)
    assert ring.preference_list(0, 2) == ("a", "b", "c", "e", "d", "f")  # f owns nothing and comes last
    assert ring.preference_list(2, 2) == ("b", "e", "d", "c", "a", "f")
    assert ring.preference_list(0, 1) == ring.preference_list(0, 2)  # b is a's first fallback
    for partition in range(4):
        for n in (1, 2):
            assert ring.primaries(partition, n) == ring.preference_list(partition, n)[:n]


def test_fallbacks_bring_in_new_zones_first_then_new_hosts():
    members = (
        Member("a", host="h1", zone="x"),
        Member("b", host="h2", zone="x"),
        Member("c", host="h1", zone="x"),
        Member("d", host="h3", zone="x"),
        Member("e", host="h4", zone="y"),
        Member("f", host="h4", zone="y"),
    )
    ring = ring_of((0, 1), (2, 3), (5, 4), (2, 4), members=members)
    # on the walk: c d f e. f brings zone y; d brings host h3; c and e share their hosts with a and f
    assert ring.preference_list(0, 2) == ("a", "b", "f", "d", "c", "e")


@given(st.integers(3, 40), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_preference_lists_name_every_node_once_and_keep_apart_first(count, zones, per_host, copies):
    copies = min(copies, count)
    members = [Member(f"n{i:02}", 1 + i % 4, f"h{i // per_host}", f"z{i // per_host % zones}") for i in range(count)]
    ring = claim(members, 64, copies)
    by_id = {m.node_id: m for m in members}
    all_zones, all_hosts = len({m.zone for m in members}), len({m.host_key for m in members})
    for partition in range(0, 64, 7):
        listed = ring.preference_list(partition, copies)
        assert listed[:copies] == ring.owners(partition)
        assert sorted(listed) == sorted(by_id)
        zone_of = [by_id[n].zone for n in listed]
        host_of = [by_id[n].host_key for n in listed]
        # after the primaries: first every zone that is missing, once; then every host that is missing, once
        missing_zones = all_zones - len(set(zone_of[:copies]))
        end = copies + missing_zones
        assert len(set(zone_of[:end])) == all_zones
        missing_hosts = all_hosts - len(set(host_of[:end]))
        assert len(set(host_of[: end + missing_hosts])) == all_hosts
        if all_hosts >= copies:
            assert len(set(host_of[:copies])) == copies
        if all_zones >= copies:
            assert len(set(zone_of[:copies])) == copies


def test_partitions_of_one_node_fall_back_to_many():
    ring = claim([Member(f"n{i:02}") for i in range(20)], 256, 3)
    first_fallbacks = {ring.preference_list(p, 3)[3] for p in ring.first_partitions_of("n00")}
    assert len(first_fallbacks) >= 6
