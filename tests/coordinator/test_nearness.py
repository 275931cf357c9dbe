"""The nearest of several nodes, and that reads ask it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raykv.coordinator.nearness import NOWHERE, Nearness, Place
from raykv.protocol import frames as f
from raykv.ring import Member, claim

MEMBERS = [
    Member("n1", host="h1", zone="a"),
    Member("n2", host="h2", zone="b"),
    Member("n3", host="h3", zone="b"),
    Member("n4", host="h4", zone="a"),
]


def order(here: Place, members: list[Member] = MEMBERS, nodes: tuple[str, ...] = ("n1", "n2", "n3")) -> tuple[str, ...]:
    nearness = Nearness(here)
    nearness.learn(members)
    return nearness.nearest_first(nodes)


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (Place("h3", "b"), ("n3", "n2", "n1")),
        (Place("h3"), ("n3", "n2", "n1")),
        (Place("h9", "b"), ("n2", "n3", "n1")),
        (Place("h9", "c"), ("n1", "n2", "n3")),
        (NOWHERE, ("n1", "n2", "n3")),
    ],
    ids=["host and zone", "the zone by the host's node", "no node on this host", "another zone", "unknown"],
)
def test_this_host_comes_first_and_then_its_zone(here: Place, expected: tuple[str, ...]) -> None:
    assert order(here) == expected


def test_the_zone_that_a_node_was_given_counts_more_than_the_label_of_its_host() -> None:
    assert order(Place("h1", "b"), nodes=("n2", "n4", "n1")) == ("n1", "n4", "n2")


def test_a_host_in_two_zones_is_in_none() -> None:
    members = [Member("n1", host="h1", zone="a"), Member("n2", host="h1", zone="b"), Member("n3", host="h2", zone="b")]
    assert order(Place("h1"), members, ("n3", "n2", "n1")) == ("n2", "n1", "n3")


def test_nodes_without_a_host_are_near_nobody() -> None:
    members = [Member("n1"), Member("n2"), Member("n3", zone="a")]
    assert order(Place("", "a"), members) == ("n3", "n1", "n2")
    assert order(NOWHERE, members) == ("n1", "n2", "n3")


def test_one_that_came_later_is_known_too() -> None:
    nearness = Nearness(Place("h9", "z"))
    nearness.learn(MEMBERS)
    assert nearness.nearest_first(("n1", "n5")) == ("n1", "n5")
    nearness.learn([*MEMBERS, Member("n5", host="h9")])
    assert nearness.nearest_first(("n1", "n5")) == ("n5", "n1")


def spread(world: Any, here: Place, *, asks: bool, **options: Any) -> tuple[Any, Any]:
    """Three nodes on three hosts, and a coordinator that is somewhere; ``asks``: as in a client, by the fast path."""
    cluster = world.Cluster(3, **options)
    ring = claim([Member(node_id, host=f"h-{node_id}") for node_id in cluster.ids], 8, 3)
    cluster.state = msgspec.structs.replace(cluster.state, ring=ring)
    peer = cluster.start().coordinator(here=here)
    peer.core.routing.asks = asks
    return cluster, peer


@pytest.mark.parametrize("near", ["n1", "n2", "n3"])
@pytest.mark.parametrize("versioning", ["vector", "lww"])
@pytest.mark.parametrize("asks", [True, False], ids=["in a client", "in an actor"])
def test_reads_of_one_copy_stay_on_the_caller_s_host(world: Any, near: str, versioning: str, asks: bool) -> None:
    """Single ones, many at once and scans: no other node is asked."""

    async def story() -> set[str]:
        cluster, peer = spread(world, Place(f"h-{near}"), asks=asks, versioning=versioning)
        keys = [f"k{number}" for number in range(30)]
        for key in keys:
            await peer.put(key, "v", w=3)
        await peer.rest()
        cluster.frames.clear()
        assert await peer.get("k1", r=1) == "v"
        assert await peer.get_many(keys, r=1) == ["v"] * 30
        assert len(await peer.scan(r=1)) == 30
        return {target for source, target, _ in cluster.frames if source == "coordinator"}

    assert world.run(story()) == {f"node/{near}"}


@pytest.mark.parametrize("asks", [True, False], ids=["in a client", "in an actor"])
def test_a_quorum_is_the_near_one_and_another(world: Any, asks: bool) -> None:
    async def story() -> None:
        cluster, peer = spread(world, Place("h-n3"), asks=asks)
        keys = [f"k{number}" for number in range(30)]
        for key in keys:
            await peer.put(key, "v", w=3)
        await peer.rest()
        for key in keys:
            cluster.frames.clear()
            assert await peer.get(key) == "v"
            asked = {target for source, target, _ in cluster.frames if source == "coordinator"}
            assert len(asked) == 2
            assert "node/n3" in asked

    world.run(story())


def asked_of(cluster: Any, kind: type[Any]) -> set[str]:
    """The nodes that the coordinator has sent such requests to."""
    frames = [(target, frame) for source, target, frame in cluster.frames if source == "coordinator"]
    return {target for target, frame in frames if isinstance(f.node_requests.decode(frame).body, kind)}


def test_a_linearizable_read_asks_the_leader_and_the_nearest(world: Any) -> None:
    async def story() -> None:
        cluster, peer = spread(world, Place("h-n3"), asks=True, versioning="linearizable")
        for key in [f"k{number}" for number in range(30)]:
            cluster.frames.clear()
            await peer.get(key)
            first, second, _ = cluster.owners(key)
            other = second if first == "n3" else "n3"
            assert asked_of(cluster, f.ReadHeads) == {f"node/{first}", f"node/{other}"}

    world.run(story())


def test_a_dot_is_asked_of_the_nearest(world: Any) -> None:
    async def story() -> None:
        cluster, peer = spread(world, Place("h-n3"), asks=True, versioning="vector")
        for key in [f"k{number}" for number in range(30)]:
            cluster.frames.clear()
            await peer.put(key, "v")
            asked = asked_of(cluster, f.ReserveDots)
            assert len(asked) == 2
            assert "node/n3" in asked

    world.run(story())


@pytest.mark.parametrize("asks", [True, False], ids=["in a client", "in an actor"])
def test_a_read_goes_elsewhere_while_the_near_node_is_gone(world: Any, asks: bool) -> None:
    async def story() -> None:
        cluster, peer = spread(world, Place("h-n2"), asks=asks)
        await peer.put("k", "v", w=3)
        cluster.kill("n2")
        assert await peer.get("k", r=1) == "v"
        assert await peer.get("k") == "v"

    world.run(story())
