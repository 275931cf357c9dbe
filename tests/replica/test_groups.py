"""The largest group, estimated from keys that stand for bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from raykv.config import KIB, BucketConfig, NodeConfig
from raykv.protocol import frames as f
from raykv.records.keys import HINTS, encode_key, storage_prefix
from raykv.replica.groups import EVERY_S, GroupSizes, largest_groups

if TYPE_CHECKING:
    from types import ModuleType

CONFIGS = {
    1: BucketConfig(name="plain", n=1, r=1, w=1),
    2: BucketConfig(name="orders", n=1, r=1, w=1, group=":"),
    3: BucketConfig(name="paths", n=1, r=1, w=1, group="/"),
}


def place(bucket_id: int, key: str, partition: int = 4) -> bytes:
    return storage_prefix(partition, bucket_id) + encode_key(key)


def test_bytes_are_added_up_by_group_and_bucket():
    sample = [
        (place(1, "a:1"), 900), (place(2, "a:1"), 10), (place(2, "a:2"), 10), (place(2, "b"), 15), (place(2, "a"), 1),
        (place(3, "a:1/x"), 7), (place(3, "a:2/x"), 6), (place(9, "z:1"), 500), (HINTS + b"2a:1", 900),
        (storage_prefix(4, 2), 900), (b"\x00", 900),
    ]  # fmt: skip
    assert largest_groups(sample, CONFIGS.get) == [
        (storage_prefix(4, 2) + b"\x02a", 21),
        (storage_prefix(4, 3) + b"\x02a:1", 7),
    ]
    assert largest_groups([], CONFIGS.get) == []


@pytest.mark.parametrize("memtable_bytes", [4 * KIB, 1024 * KIB])
def test_a_node_finds_its_largest_group_in_tables_and_memtables(world: ModuleType, memtable_bytes: int) -> None:
    config = NodeConfig(
        memtable_bytes=memtable_bytes, max_unflushed_bytes=1024 * KIB, block_bytes=256, table_bytes=16 * KIB
    )

    async def story() -> None:
        cluster = world.Cluster(1, copies=1, config=config)
        cluster.state = cluster.state.with_bucket(CONFIGS[2])
        cluster.start()
        for number in range(600):
            group = "large" if number % 3 else f"small{number % 40}"
            await cluster.give("n1", f"{group}:{number:04}", world.put_record("x" * 50), 2)
        engine = cluster.node("n1")._engine
        sizes = GroupSizes(engine, cluster.node("n1")._replica.config_of)
        ((group, size_bytes),) = sizes.figures(0.0)
        assert group[6:] == b"\x02large"
        everything = sum(size for _, size in engine.sample(4096))
        assert everything / 2 < size_bytes < everything
        await cluster.ask("n1", f.Write(2, [(encode_key(f"later:{n:04}"), world.put_record("y")) for n in range(900)]))
        assert sizes.figures(EVERY_S / 2) == [[group, size_bytes]], "it is kept for a while"
        assert engine.sample(1), "however few are asked for"

    world.run(story())
