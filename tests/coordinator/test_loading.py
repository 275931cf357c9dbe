"""Loading a backup's records: every owner holds them, as they are."""

from __future__ import annotations

import pytest
from world import Cluster, delete_record, put_record, run, vector_record

from raykv.errors import InvalidKey, InvalidOption, StoreUnavailable, WriteOutcomeUnknown
from raykv.protocol import frames as f
from raykv.records.keys import encode_key
from raykv.versions import merge


async def load(peer, items, timeout_s=5.0, bucket=1):
    return (
        await peer.front.carry_out(
            f.LoadRecords(bucket, [(encode_key(key), record) for key, record in items], timeout_s)
        )
    ).data


def test_every_owner_holds_them_as_they_are():
    async def story():
        cluster = Cluster(5).start()
        peer = cluster.coordinator()
        items = [(f"k{number}", put_record(f"{number}")) for number in range(50)] + [("gone", delete_record())]
        assert await load(peer, items) == 51
        for key, record in items:
            for node_id in cluster.owners(key):
                assert await cluster.held(node_id, key) == record
            for node_id in {*cluster.ids} - {*cluster.owners(key)}:
                assert cluster.stored(node_id, key) is None
        assert await peer.get("k7") == "7"
        assert await peer.get("gone") is None

    run(story())


def test_they_are_merged_with_what_is_there_and_twice_is_once():
    async def story():
        cluster = Cluster(3, versioning="vector").start()
        peer = cluster.coordinator()
        one, other = vector_record(1, "one"), vector_record(2, "other")
        await load(peer, [("a", one)])
        await load(peer, [("a", other)])
        await load(peer, [("a", one)])
        assert await cluster.held("n1", "a") == merge(one, other)
        values, _ = await peer.versions("a")
        assert sorted(values) == ["one", "other"]

    run(story())


def test_a_time_far_ahead_is_as_good_as_any():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        far = put_record("of a clock that was wrong", 7_200_000)
        assert await load(peer, [("k", far)], 1.0) == 1
        for node_id in cluster.ids:
            assert await cluster.held(node_id, "k") == far
        with pytest.raises(WriteOutcomeUnknown, match="ahead of this host's clock"):
            await peer.put("k", "below it", timeout_s=1.0)
        assert await peer.get("k") == "of a clock that was wrong"

    run(story())


def test_an_owner_that_is_away_is_waited_for():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        cluster.kill("n2")
        with pytest.raises(StoreUnavailable, match="n2"):
            await load(peer, [("a", put_record("1"))], 1.0)
        cluster.revive("n2")
        cluster.publish(peer)
        assert await load(peer, [("a", put_record("1"))], 20.0) == 1
        assert await cluster.held("n2", "a") == put_record("1")

    run(story())


def test_what_makes_no_sense_is_refused():
    async def story():
        cluster = Cluster(3).start()
        peer = cluster.coordinator()
        with pytest.raises(InvalidKey):
            await peer.front.carry_out(f.LoadRecords(1, [(b"\x07", put_record("1"))], 1.0))
        with pytest.raises(InvalidOption):
            await load(peer, [("a", put_record("1"))], 1.0, bucket=9)
        with pytest.raises(StoreUnavailable):
            await load(peer, [("a", b"nonsense")], 1.0)
        assert await load(peer, []) == 0

    run(story())
