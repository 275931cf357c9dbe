"""A node's page of a scan: order, limits, how far it is complete."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from raykv.protocol import frames as f
from raykv.records.keys import LAST_TAG_END, encode_key
from raykv.records.record import header_of
from raykv.replica import scanning

if TYPE_CHECKING:
    from types import ModuleType


ALL = list(range(8))


@pytest.fixture(autouse=True)
def _nobody_tells(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TELLS", False)


def scan(
    *, start: bytes = b"", end: bytes = LAST_TAG_END, limit: int = 100, reverse: bool = False, keys_only: bool = False,
    partitions: list[int] = ALL, bucket: int = 1,
) -> f.Scan:  # fmt: skip
    return f.Scan(bucket, start, end, limit, reverse, keys_only, partitions)


def test_a_scan_is_in_key_order_over_partitions_and_says_how_far_it_is_complete(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        keys = [f"k{number:02}" for number in range(30)]
        for key in random.Random(1).sample(keys, 30):
            await cluster.give("n1", key, world.put_record(key))
        encoded = [encode_key(key) for key in keys]
        everything = await cluster.ask("n1", scan())
        assert [key for key, _ in everything.items] == encoded
        assert everything.covered is None
        some = await cluster.ask("n1", scan(limit=7))
        assert [key for key, _ in some.items] == encoded[:7]
        assert some.covered == encoded[6]
        exactly = await cluster.ask("n1", scan(limit=30))
        assert (len(exactly.items), exactly.covered) == (30, None), "nothing follows"
        back = await cluster.ask("n1", scan(limit=7, reverse=True))
        assert [key for key, _ in back.items] == encoded[:-8:-1]
        assert back.covered == encoded[-7]
        within = await cluster.ask("n1", scan(start=encoded[3], end=encoded[9]))
        assert [key for key, _ in within.items] == encoded[3:9], "the start is in, the end is not"
        within = await cluster.ask("n1", scan(start=encoded[3], end=encoded[9], reverse=True))
        assert [key for key, _ in within.items] == encoded[3:9][::-1]
        ring = cluster.state.ring
        one = await cluster.ask("n1", scan(partitions=[0, 3]))
        assert [key for key, _ in one.items] == [key for key in encoded if ring.partition_of(key) in {0, 3}]
        assert (await cluster.ask("n1", scan(bucket=2))).items == []
        bare = await cluster.ask("n1", scan(keys_only=True))
        assert [record for _, record in bare.items] == [header_of(record) for _, record in everything.items]
        assert (await cluster.ask("n1", scan(partitions=[]))) == f.ScanDone([], None)

    world.run(story())


@pytest.mark.parametrize(("limit", "given_back"), [(0, 1), (-5, 1), (7, 7), (50, 40)])
def test_a_scans_limit_is_held_within_bounds(
    world: ModuleType, monkeypatch: pytest.MonkeyPatch, limit: int, given_back: int
) -> None:
    monkeypatch.setattr(scanning, "MAX_SCAN_ITEMS", 40)

    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        items = [(encode_key(f"k{number:04}"), world.put_record("v")) for number in range(60)]
        await cluster.ask("n1", f.Write(1, items))
        answer = await cluster.ask("n1", scan(limit=limit))
        assert len(answer.items) == given_back
        assert answer.covered == answer.items[-1][0]

    world.run(story())


def test_a_scans_answer_has_a_largest_size(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "MAX_SCAN_BYTES", 1000)

    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        for number in range(5):
            await cluster.give("n1", f"k{number}", world.put_record("x" * 600))
        answer = await cluster.ask("n1", scan())
        assert [key for key, _ in answer.items] == [encode_key("k0"), encode_key("k1")]
        assert answer.covered == encode_key("k1")
        assert len((await cluster.ask("n1", scan(keys_only=True))).items) == 5

    world.run(story())
