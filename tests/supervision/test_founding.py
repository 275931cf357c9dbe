"""The first state: who stands where, with what weight."""

from __future__ import annotations

from collections import Counter

import pytest

from raykv.config import GIB, StoreConfig
from raykv.errors import NotEnoughNodes
from raykv.ports import Host
from raykv.ring import Member, claim
from raykv.supervision.founding import Plan, first_state, place, place_one


def host(name: str, zone: str = "", cpus: float = 4, memory: float = 16, disk: float = 200) -> Host:
    return Host(name=name, cpus=cpus, memory_bytes=int(memory * GIB), disk_bytes=int(disk * GIB), zone=zone)


def plan(nodes: int, copies: int = 3, partitions: int = 16, **options: object) -> Plan:
    store = StoreConfig(name="t", copies=copies, partitions=partitions)
    return Plan(store=store, nodes=nodes, **options)  # type: ignore[arg-type]


def test_nodes_are_dealt_out_over_the_hosts_in_turn() -> None:
    members = place(plan(5), [host("h1"), host("h2")])
    assert [(member.node_id, member.host) for member in members] == [
        ("n1", "h1"), ("n2", "h2"), ("n3", "h1"), ("n4", "h2"), ("n5", "h1"),
    ]  # fmt: skip


def test_a_nodes_zone_is_its_hosts_unless_zones_are_asked_for() -> None:
    hosts = [host("h1", "a"), host("h2", "b")]
    assert [member.zone for member in place(plan(3), hosts)] == ["a", "b", "a"]
    assert [member.zone for member in place(plan(4, zones=("x", "y", "z")), hosts)] == ["x", "y", "z", "x"]
    assert [member.zone for member in place(plan(2, copies=2), [host("h")])] == ["", ""]


@pytest.mark.parametrize(
    ("where", "hosts", "lost", "asked", "expected"),
    [
        # The host's nodes, the new host's label aside.
        ("h1:x h2:y h3:x", "h1 h2 h3", "", "h1", "x"),
        ("h1:x h2:y h3:x", "h1 h2 h3", "", "h2", "y"),
        ("h1:x h2:y h3:x", "h1/eu h2/eu h3/eu", "", "h2", "y"),
        ("h1:x h2:y h3:x", "h1 h2 h3", "n2", "h1", "x"),
        ("h1: h2:", "h1/eu h2/eu", "", "h2", ""),
        ("h1:x h1: h2:y", "h1 h2", "", "h1", "x"),
        ("h1:x h1: h2:y", "h1 h2", "n2", "h1", "x"),
        # Several zones on one host, on purpose.
        ("h:x h:y h:z", "h", "n2", "h", "y"),
        ("h:x h:y h:z h:x", "h", "", "h", "y"),
        ("h:x h:y h:z h:y", "h", "n1", "h", "x"),
        # A host without nodes.
        ("h1:x h2:y h3:z", "h1 h2 h4", "n3", "h4", "z"),
        ("h1:x h2:y h3:z", "h1 h2 h4", "", "h4", ""),
        ("h1:a h2:b h3:c", "h1/a h2/b h4/d", "n3", "h4", "d"),
        ("h1:a h2:b h3:c", "h1/a h2/b h4/d", "", "h4", "d"),
        ("h1: h2: h3:", "h1 h2 h4", "n3", "h4", ""),
        ("h1:x", "h2/b", "n1", "h2", "b"),
    ],
)  # fmt: skip
def test_a_node_that_is_put_into_no_zone_is_in_that_of_its_neighbours(
    where: str, hosts: str, lost: str, asked: str, expected: str
) -> None:
    members = [
        Member(node_id=f"n{number}", host=name, zone=zone)
        for number, (name, zone) in enumerate((each.split(":") for each in where.split()), 1)
    ]
    there = [host(name, zone) for name, _, zone in (each.partition("/") for each in hosts.split())]
    new = place_one(members, there, "n9", weight=1.0, host=asked, zone="", instead_of=lost)
    assert (new.host, new.zone) == (asked, expected)
    beside = {member.zone for member in members if member.host == asked}
    assert not beside or new.zone in beside
    assert place_one(members, there, "n9", weight=1.0, host=asked, zone="own", instead_of=lost).zone == "own"


@pytest.mark.parametrize(("nodes", "lost"), [(2, ""), (3, "n3")])
def test_two_copies_do_not_share_a_host_after_a_node_was_added_to_a_store_with_zones(nodes: int, lost: str) -> None:
    hosts = [host("h1"), host("h2"), host("h3")][:nodes]
    members = place(plan(nodes, copies=2, zones=("x", "y", "z"), weights=(1.0,) * nodes), hosts)
    new = place_one(members, hosts, "n4", weight=1.0, host="h1", zone="", instead_of=lost)
    ring = claim([member for member in [*members, new] if member.node_id != lost], 16, 2)
    for partition in range(16):
        on = [ring.member(node_id).host for node_id in ring.owners(partition)]
        assert len({*on}) == 2, on


@pytest.mark.parametrize("lacking", ["disk", "memory", "both"])
def test_a_host_that_has_not_said_what_it_has_weighs_as_the_least_of_the_others(lacking: str) -> None:
    """It may be slow, or gone without Ray's notice: then its node does not come up, which is said."""
    unknown = host("c", **{what: 0.0 for what in ("disk", "memory") if lacking in {what, "both"}})
    hosts = [host("a", cpus=8, memory=32, disk=400), host("b", disk=100), unknown]
    members = place(plan(3), hosts)
    assert [member.weight for member in members] == [2.0, 0.5, 0.5 if lacking != "memory" else 1.0]
    assert [member.weight for member in place(plan(1), [unknown])] == [1.0], "nobody knows: it does not decide"
    assert place_one(members, [unknown], "n4", weight=0, host="", zone="").weight == 0.5


def test_auto_weights_share_a_host_and_given_ones_stand() -> None:
    hosts = [host("big", cpus=16, memory=64, disk=800), host("small")]
    auto = {member.node_id: member.weight for member in place(plan(3), hosts)}
    assert auto == {"n1": 2.0, "n3": 2.0, "n2": 1.0}, "the big host weighs 4 and carries two nodes"
    given = place(plan(3, weights=(3.0, 0.5, 1.0)), hosts)
    assert [member.weight for member in given] == [3.0, 0.5, 1.0]


@pytest.mark.parametrize("nodes", [3, 4, 7, 30])
def test_the_first_state_has_a_sound_ring_and_the_default_bucket(nodes: int) -> None:
    made = first_state(plan(nodes, partitions=64), "s1", [host("h1"), host("h2"), host("h3")])
    made.ring.check()
    assert (made.generation, made.version, made.ring.epoch) == (1, 1, 1)
    assert made.store_id == "s1"
    assert len(made.ring.members) == nodes
    (entry,) = made.buckets
    assert (entry.bucket_id, entry.config.name) == (1, "default")
    assert (entry.config.n, entry.config.r, entry.config.w) == (3, 2, 2)


@pytest.mark.parametrize(("copies", "majority"), [(1, 1), (2, 2), (3, 2), (5, 3)])
def test_the_default_buckets_levels_are_majorities(copies: int, majority: int) -> None:
    (entry,) = first_state(plan(5, copies=copies), "s", [host("h")]).buckets
    assert (entry.config.n, entry.config.r, entry.config.w) == (copies, majority, majority)


def test_copies_lie_on_distinct_hosts_and_zones_while_there_are_enough() -> None:
    ring = first_state(plan(6, partitions=32), "s", [host(f"h{n}", zone=f"z{n % 3}") for n in range(6)]).ring
    for partition in range(32):
        owners = [ring.member(node_id) for node_id in ring.owners(partition)]
        assert len({owner.zone for owner in owners}) == 3
    laptop = first_state(plan(3, zones=("a", "b", "c")), "s", [host("laptop")]).ring
    assert Counter(member.zone for member in laptop.members) == {"a": 1, "b": 1, "c": 1}


def test_more_copies_than_nodes_is_the_callers_mistake() -> None:
    with pytest.raises(NotEnoughNodes):
        first_state(plan(2), "s", [host("h")])


def test_the_same_plan_makes_the_same_state() -> None:
    one, other = (first_state(plan(7), "s", [host("h1"), host("h2")]) for _ in range(2))
    assert one == other
