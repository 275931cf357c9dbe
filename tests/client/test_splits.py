"""Splits of a bucket (P15): together each key once, whatever dies or moves; picklable; and never of another bucket."""

from __future__ import annotations

import copy
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import raykv
from raykv import sim
from raykv.client.splits import cut_up, hosts_of
from raykv.client.views import RingView
from raykv.config import BucketConfig
from raykv.errors import InvalidKey, InvalidOption

PAIRS = {f"k{number:04d}": {"number": number} for number in range(1500)} | {b"bytes": b"value"}


@pytest.fixture(scope="module")
def world():
    with sim.start(seed=11, nodes=5, partitions=64) as world:
        world.store.put_many(PAIRS)
        yield world


def all_of(splits):
    pairs = [pair for split in splits for pair in split]
    assert len(pairs) == len(dict(pairs)), "a key twice"
    return dict(pairs)


@pytest.mark.parametrize("count", [None, 1, 2, 7, 64, 1000])
def test_together_they_are_one_scan(world, count):
    store = world.connect()
    splits = store.splits(count)
    assert all_of(splits) == PAIRS
    assert len(splits) == (5 if count is None else min(count, 64))
    assert sorted(partition for split in splits for partition in split.partitions) == [*range(64)]
    sizes = [len(split.partitions) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for split in splits[:3]:
        keys = [key for key, _ in split]
        assert keys == sorted(keys, key=lambda key: (isinstance(key, str), key))
        assert [*split.items(after=keys[4])] == [(key, PAIRS[key]) for key in keys[5:]]


def test_a_split_can_be_read_twice_and_says_what_it_is(world):
    split = world.connect().splits(3)[1]
    assert dict(split) == dict(split)
    assert "split of 21 partitions" in repr(split)
    assert set(split.hosts) <= {node["host"] for node in world.store.status()["nodes"]}


def test_a_range_in_splits(world):
    store = world.connect()
    wanted = {key: value for key, value in PAIRS.items() if isinstance(key, str) and key.startswith("k01")}
    assert all_of(store.splits(4, prefix="k01")) == wanted
    assert all_of(store.splits(4, start="k01", end="k02")) == wanted
    assert all_of(store.splits(4, prefix="none")) == {}


def test_they_are_awaited_too(world):
    async def story():
        return [pair for split in await world.store.aio.splits(3) async for pair in split]

    pairs = world.run(story())
    assert (dict(pairs), len(pairs)) == (PAIRS, len(PAIRS))


def test_a_range_within_a_group_is_one_split_of_one_partition(world):
    orders = world.store.bucket("orders", group=":")
    pairs = {f"{user}:{number}": number for user in range(20) for number in range(10)}
    orders.put_many(pairs)
    assert all_of(orders.splits(6)) == pairs
    (split,) = orders.splits(6, prefix="7:")
    assert dict(split) == {f"7:{number}": number for number in range(10)}
    assert split.partitions == [orders.locate("7:1").partition]


@pytest.mark.parametrize("versioning", ["vector", "lww", "linearizable"])
def test_each_key_once_while_nodes_die_and_partitions_move(versioning):
    with sim.start(seed=17, nodes=4, partitions=32) as world:
        bucket = world.store.bucket("moving", versioning=versioning)
        pairs = {f"k{number:04d}": number for number in range(1200)}
        bucket.put_many(pairs)
        splits = bucket.splits(6)
        draw = random.Random(5)
        found = []
        waiting = [iter(split) for split in splits]
        events = [
            lambda: world.kill("n1"),
            lambda: world.store.add_node(wait=False),
            lambda: world.sleep(20),
            lambda: world.kill("n3"),
            lambda: world.store.remove_node("n2", wait=False),
            lambda: world.sleep(60),
        ]
        while waiting:
            pairs_of = draw.choice(waiting)
            some = [*itertools.islice(pairs_of, draw.randrange(1, 60))]
            found += some
            if not some:
                waiting.remove(pairs_of)
            if events and draw.random() < 0.3:
                events.pop(0)()
        assert not events
        assert sorted(found) == sorted(pairs.items())
        world.sleep(60)
        assert all_of(splits) == pairs


def test_a_split_is_of_its_own_bucket_alone(world):
    bucket = world.store.bucket("short-lived")
    bucket.put("a", 1)
    splits = bucket.splits(2)
    world.store.drop_bucket("short-lived")
    with pytest.raises(InvalidOption, match="dropped"):
        all_of(splits)
    arrived = copy.copy(splits[0])
    arrived._bucket = world.connect().bucket("short-lived")  # as a handle that travelled finds it
    with pytest.raises(InvalidOption, match="call splits"):
        dict(arrived)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2", True])
def test_a_bad_count_is_refused(world, count):
    with pytest.raises(InvalidOption, match="count"):
        world.store.splits(count)


def test_a_bad_range_or_level_is_refused(world):
    with pytest.raises(InvalidKey):
        world.store.splits(2, prefix=5)
    with pytest.raises(InvalidOption):
        world.store.splits(2, r=4)
    with pytest.raises(InvalidOption):
        world.store.splits(2, timeout=0)


@given(
    table=st.integers(1, 6).flatmap(
        lambda nodes: st.lists(st.permutations(range(nodes)), min_size=8, max_size=64).map(lambda table: (nodes, table))
    ),
    count=st.none() | st.integers(1, 80),
    n=st.integers(1, 3),
)
def test_how_a_ring_is_cut(table, count, n):
    nodes, owners = table
    ring = RingView({
        "partitions": len(owners), "table": owners,
        "members": [{"node_id": f"n{node}", "host": f"h{node % 3}"} for node in range(nodes)],
    })  # fmt: skip
    config = BucketConfig(name="b", n=min(n, nodes), r=1, w=1)
    cut = cut_up(ring, config, count)
    assert sorted(partition for part in cut for partition in part) == [*range(len(owners))]
    assert max(map(len, cut)) - min(map(len, cut)) <= 1
    assert cut == cut_up(ring, config, count)
    for part in cut:
        hosts = hosts_of(ring, config, part)
        assert len(hosts) == len(set(hosts))
        assert set(hosts) == {f"h{node % 3}" for partition in part for node in owners[partition][: config.n]}


def test_the_public_names():
    assert {"Split", "AsyncSplit"} <= set(raykv.__all__)
