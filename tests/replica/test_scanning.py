"""A node's page of a scan (P15): order, limits, how far it is complete."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from raykv.config import KIB, NodeConfig
from raykv.protocol import frames as f
from raykv.records.keys import LAST_TAG_END, encode_key
from raykv.records.record import header_of
from raykv.replica import scanning

if TYPE_CHECKING:
    from types import ModuleType


ALL = list(range(8))
SMALL = NodeConfig(
    memtable_bytes=4 * KIB, max_unflushed_bytes=64 * KIB, block_bytes=256, table_bytes=16 * KIB, runs_per_level=2,
    block_cache_bytes=0,
)  # fmt: skip


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
        assert bare == everything, "to leave out the payload of a small record takes longer than to send it"
        await cluster.give("n1", "k00", world.put_record("x" * scanning.BARE_KEY_BYTES, 1))
        ((_, large), *rest) = (await cluster.ask("n1", scan(keys_only=True))).items
        assert large == header_of(world.put_record("x" * scanning.BARE_KEY_BYTES, 1))
        assert rest == everything.items[1:]
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


class Counted:
    """An engine of which the looks for records are counted."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def window(self, *args: Any, **options: Any) -> Any:
        self.looks += 1
        return self._engine.window(*args, **options)

    def first(self, *args: Any, **options: Any) -> Any:
        self.looks += 1
        return self._engine.first(*args, **options)


def counted(node: Any, max_bytes: int = 1 << 20) -> Counted:
    engine = Counted(node._engine)
    node._replica.scanner = scanning.Scanner(engine, max_bytes)
    return engine


def test_what_was_read_beyond_a_page_begins_the_next_and_the_same_page_again(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        keys = [f"k{number:03}" for number in range(200)]
        await cluster.ask("n1", f.Write(1, [(encode_key(key), world.put_record(key)) for key in keys]))
        engine = counted(cluster.node("n1"))
        first = await cluster.ask("n1", scan(limit=10))
        read = engine.looks
        assert read > 0
        assert await cluster.ask("n1", scan(limit=10)) == first
        assert await cluster.ask("n1", scan(limit=3, start=first.items[2][0])) == f.ScanDone(
            first.items[2:5], first.items[4][0]
        )
        assert engine.looks == read, "nothing is read twice while nothing changes"
        await cluster.give("n1", "k0005", world.put_record("between"))
        again = await cluster.ask("n1", scan(limit=10))
        assert [key for key, _ in again.items] == [encode_key(key) for key in sorted(["k0005", *keys])[:10]]
        assert read < engine.looks <= read + 4, "only one partition has changed"
        pages = 0
        start, seen = b"", []
        while True:
            page = await cluster.ask("n1", scan(limit=7, start=start))
            seen += [key for key, _ in page.items]
            pages += 1
            if page.covered is None:
                break
            start = page.covered + b"\x00"
        assert seen == [encode_key(key) for key in sorted(["k0005", *keys])]
        assert engine.looks - read < 10 * 8, f"{pages} pages, and a few looks at each of 8 partitions"

    world.run(story())


def test_what_is_kept_is_bounded_and_nothing_is_kept_without_room(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        items = [(encode_key(f"k{number:04}"), world.put_record("x" * 100)) for number in range(900)]
        await cluster.ask("n1", f.Write(1, items))
        for max_bytes in (0, 20_000, 1 << 20):
            counted(cluster.node("n1"), max_bytes)
            stretches = cluster.node("n1")._replica.scanner.stretches
            for reverse in (False, True):
                answer = await cluster.ask("n1", scan(limit=900, reverse=reverse))
                assert [key for key, _ in answer.items] == sorted((key for key, _ in items), reverse=reverse)
                kept = [each for some in stretches._kept.values() for each in some.stretches]
                assert stretches.used_bytes == sum(each.size_bytes for each in kept) <= max_bytes
                assert all(len(each.keys) <= scanning.MAX_STRETCH for each in kept)

    world.run(story())


def test_keys_and_bounds_count_among_what_is_kept(world: ModuleType) -> None:
    """A bound has up to 4 KiB, and any of a million scans another one."""

    async def story() -> None:
        cluster = world.Cluster(1, copies=1).start()
        items = [(encode_key(f"{number:04}" + "k" * 900), world.put_record("x")) for number in range(50)]
        await cluster.ask("n1", f.Write(1, items))
        counted(cluster.node("n1"), 1 << 20)
        stretches = cluster.node("n1")._replica.scanner.stretches
        for number in range(300):
            await cluster.ask("n1", scan(start=encode_key("a")[:1] + b"%03d" % number * 1000, limit=10))
        kept = [each for some in stretches._kept.values() for each in some.stretches]
        holds = sum(len(each.low) + len(each.high) + sum(map(len, each.keys)) for each in kept)
        assert holds < stretches.used_bytes <= 1 << 20

    world.run(story())


@pytest.mark.parametrize("seed", range(8))
def test_scans_by_turns_see_every_write_before_them(world: ModuleType, seed: int) -> None:
    """Pages of any size, in both directions, from anywhere, of some of the partitions, with writes in between."""

    async def story() -> None:
        rng = random.Random(seed)
        cluster = world.Cluster(1, copies=1, config=SMALL).start()
        engine = counted(cluster.node("n1"), rng.choice((3000, 1 << 20)))
        ring, held = cluster.state.ring, dict[bytes, bytes]()
        for step in range(400):
            if rng.random() < 0.5:
                keys = rng.sample([encode_key(f"k{number:03}") for number in range(300)], rng.choice((1, 1, 30)))
                record = world.put_record(f"{step}", step) if rng.random() < 0.7 else world.delete_record(step)
                await cluster.ask("n1", f.Write(1, [(key, record) for key in keys]))
                held |= dict.fromkeys(keys, record)
                continue
            low, high = sorted(encode_key(f"k{rng.randrange(300):03}") for _ in range(2))
            reverse, limit = rng.random() < 0.5, rng.choice((1, 2, 9, 60, 1000))
            partitions = rng.sample(ALL, rng.choice((1, 3, 8)))
            while True:
                asked = scan(start=low, end=high, limit=limit, reverse=reverse, partitions=sorted(partitions))
                page = await cluster.ask("n1", asked)
                there = [
                    (key, record) for key, record in held.items()
                    if low <= key < high and ring.partition_of(key) in partitions
                ]  # fmt: skip
                assert page.items == sorted(there, reverse=reverse)[:limit]
                if page.covered is None:
                    assert len(there) <= limit
                    break
                assert page.covered == page.items[-1][0]
                low, high = (low, page.covered) if reverse else (page.covered + b"\x00", high)
                if rng.random() < 0.5:
                    break
        assert engine.looks

    world.run(story())
