"""The memory of a node and a coordinator does not grow with operations, keys, clients, buckets, runs or days.

Not a list of what is known to grow: everything that can be reached from a node and from a coordinator is walked, and
whatever has more in it later than before is named by the path that leads to it.
"""

from __future__ import annotations

import asyncio
import functools
import random
import sys
import types
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from raykv.config import KIB, BucketConfig, NodeConfig
from raykv.protocol import frames as f
from raykv.records.keys import LAST_TAG_END, encode_key
from raykv.records.record import pack_body, pack_tombstone_body
from raykv.repair import local_copy

if TYPE_CHECKING:
    from types import ModuleType

    import pytest

OPERATIONS = 300_000
WARM = 100_000
BATCH = 250
MANY = 1000
SLACK = 250
"""Entries by which a path may differ: less than one for each eight hundred operations, or for each client."""
SLACK_BYTES = 3 << 20
SMALL = NodeConfig(
    memtable_bytes=64 * KIB,
    max_unflushed_bytes=512 * KIB,
    block_cache_bytes=64 * KIB,
    gossip_every_s=5.0,
    repair_every_s=10.0,
)
_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, types.FrameType, types.CodeType)
_OUTSIDE = {
    "SimDisk",
    "ProcessDisk",
    "Network",
    "VirtualLoop",
    "SimClock",
    "Clock",
    "Random",
    "Metrics",
    "Process",
    "Cluster",
    "Logger",
    "Executor",
}
"""Types of the world around them: disks and wires of the test."""
_ON_DISK = ("._runs", "._settled", "._manifest", "._file", "._fs", "._cache._blocks")
"""The index of tables is in memory: it grows with the data. The cache of their blocks has a bound of its own, in bytes; how
full it is depends on when a compaction last removed tables."""


class Walk:
    """All containers that can be reached, by the path to them; the items of a container have one path together."""

    def __init__(self, **roots: object) -> None:
        self.lengths: Counter[str] = Counter()
        self.size_bytes = 0
        seen: set[int] = set()
        waiting: deque[tuple[str, object]] = deque(roots.items())
        while waiting:
            path, each = waiting.popleft()
            if id(each) in seen or type(each).__name__ in _OUTSIDE or path.endswith(_ON_DISK):
                continue
            if isinstance(each, _LEAVES):
                self.size_bytes += sys.getsizeof(each) if isinstance(each, str | bytes) else 0
                continue
            seen.add(id(each))
            self.size_bytes += sys.getsizeof(each)
            if isinstance(each, Mapping | list | tuple | set | frozenset | deque | bytearray) and not _is_struct(each):
                self.lengths[path] += len(each)
            waiting.extend(_inside(path, each))

    def grown(self, before: Walk, slack: int) -> dict[str, tuple[int, int]]:
        return {
            path: (before.lengths[path], length)
            for path, length in self.lengths.items()
            if length - before.lengths[path] > slack
        }


def _is_struct(each: object) -> bool:
    return isinstance(each, tuple) and hasattr(each, "_fields")


def _inside(path: str, each: object) -> Iterator[tuple[str, object]]:
    if isinstance(each, Mapping):
        for key, value in list(each.items()):
            yield f"{path}{{key}}", key
            yield f"{path}[*]", value
    elif isinstance(each, list | tuple | set | frozenset | deque):
        for value in list(each):
            yield f"{path}[*]", value
    elif isinstance(each, functools.partial):
        yield from ((f"{path}()", value) for value in (each.func, *each.args, *each.keywords.values()))
    elif isinstance(each, types.MethodType):
        yield f"{path}.__self__", each.__self__
    elif isinstance(each, types.FunctionType):
        for cell in each.__closure__ or ():
            yield f"{path}()", cell.cell_contents
    elif not isinstance(each, asyncio.Future):
        names = [name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())]
        names += getattr(each, "__struct_fields__", ())
        for name in [*dict.fromkeys(names), *getattr(each, "__dict__", ())]:
            value = getattr(each, name, None)
            if value is not None:
                yield f"{path}.{name.removeprefix('_' + type(each).__name__)}", value


def walk(cluster: Any, *peers: Any) -> Walk:
    roots: dict[str, object] = {f"node {node_id}": cluster.node(node_id) for node_id in cluster.ids}
    for at, peer in enumerate(peers):
        roots[f"coordinator {at}"] = peer.core
    return Walk(**roots)


class Load:
    """Operations of all kinds, some of which go wrong."""

    def __init__(self, world: ModuleType, cluster: Any) -> None:
        self.world, self.cluster = world, cluster
        self.rng = random.Random(3)
        self.peer = cluster.coordinator()
        self.done = self.turn = 0

    async def run(self, operations: int) -> None:
        while self.done < operations:
            self.turn += 1
            await self._turn()
            self.cluster.frames.clear()

    async def _turn(self) -> None:
        rng, turn = self.rng, self.turn
        some = [f"k{rng.randrange(1000):05}" for _ in range(BATCH)]
        bucket = 1 + turn % 2
        match turn % 6:
            case 0 | 1:
                keys = dict.fromkeys(some[:100])
                await self._write([(key, pack_body(rng.randbytes(16), b"v" * 40)) for key in keys], bucket)
            case 2 | 3:  # many keys that are asked for once, and are nowhere
                await self._ask(f.Read(bucket, [encode_key(f"a{rng.getrandbits(60)}") for _ in range(MANY)]))
                await self.peer.front.carry_out(
                    f.GetMany(bucket, [encode_key(f"b{rng.getrandbits(60)}") for _ in some[:50]], 2, 5.0)
                )
                self.done += MANY + 50
            case 4:  # dots that nothing is written under: of ever other keys, and of a few again and again
                hot = [encode_key(f"hot{number}") for number in range(8)]
                if turn % 60 == 4:
                    for node_id in self.cluster.ids:
                        await self.cluster.ask(node_id, f.ReserveDots(1, hot, [rng.randbytes(16) for _ in hot]))
                keys = [encode_key(f"c{rng.getrandbits(60)}") for _ in some]
                await self.cluster.ask(
                    "n2", f.ReserveDots(1, keys, [rng.randbytes(16) for _ in keys])
                )  # it begins anew, n1 does not
                for _ in range(3):
                    bodies = [(key[1:].decode(), pack_body(rng.randbytes(16), b"h")) for key in hot]
                    await self._write(bodies, 1)
                self.done += len(keys)
            case 5:
                keys = dict.fromkeys(some[:50])
                bodies = [pack_tombstone_body(rng.randbytes(16)), pack_body(rng.randbytes(16), b"t", 500)]
                await self._write([(key, bodies[at % 2]) for at, key in enumerate(keys)], bucket)
                await self.peer.page(limit=rng.choice([1, 50]), start=encode_key(some[0]), end=LAST_TAG_END)
        if turn % 40 == 7:  # answers that do not come, and hints for who misses what is written
            self.cluster.cut("coordinator", "node/n3")
            await self._write([(key, pack_body(rng.randbytes(16), b"m")) for key in dict.fromkeys(some[:20])], 1)
            await asyncio.sleep(1.0)
            self.cluster.mend()
        if turn:  # another client, which is never heard of again
            other = self.world.Peer(self.cluster, f"client {turn}", 0)
            self.cluster.publish(other)
            await other.front.carry_out(f.GetMany(1, [encode_key(some[0])], 2, 5.0))
        await asyncio.sleep(0.2)

    async def _write(self, items: list[tuple[str, bytes]], bucket: int) -> None:
        await self.peer.write(items, bucket=bucket)
        self.done += len(items)

    async def _ask(self, body: Any) -> None:
        await self.cluster.ask(self.rng.choice(self.cluster.ids), body)


def with_lww(cluster: Any, *peers: Any) -> None:
    cluster.change(cluster.state.with_bucket(BucketConfig(name="last", n=3, r=2, w=2, versioning="lww")), *peers)


def test_nothing_grows_with_operations(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector", maintenance=True, config=SMALL).start()
        load = Load(world, cluster)
        with_lww(cluster, load.peer)
        for node_id in cluster.ids:
            stamper = cluster.node(node_id)._replica._dot_allocator
            stamper._max_open, stamper._max_remembered = 200, 200
        monkeypatch.setattr(local_copy, "MAX_TREE_RECORDS", 100)
        await load.run(WARM)
        before = walk(cluster, load.peer)
        await load.run(OPERATIONS)
        await load.peer.rest()
        after = walk(cluster, load.peer)
        assert any(path.endswith("._dot_allocator._open") for path in after.lengths), "the walk goes where it should"
        assert any(path.endswith(".peers._nodes") for path in after.lengths)
        assert after.grown(before, SLACK) == {}
        assert after.size_bytes - before.size_bytes < SLACK_BYTES
        assert cluster.failures == []

    world.run(story())


def test_nothing_grows_with_buckets(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_copy, "MAX_TREE_RECORDS", 100)
    config = msgspec.structs.replace(SMALL, repair_every_s=2.0)

    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector", maintenance=True, config=config).start()
        peer = cluster.coordinator()
        walks = []
        for number in range(120):
            name = f"bucket {number}"
            cluster.change(cluster.state.with_bucket(BucketConfig(name=name, n=3, r=2, w=2)), peer)
            bucket_id = cluster.state.buckets[-1].bucket_id
            await peer.write([("a", pack_body(bytes([number]) * 16, b"v"))], bucket=bucket_id)
            await peer.get("a", bucket=bucket_id)
            await asyncio.sleep(4)  # it is repaired too
            cluster.change(cluster.state.without_bucket(name), peer)
            for node_id in cluster.ids:
                cluster.flush(node_id)
            await asyncio.sleep(1)
            if number in {39, 119}:
                walks.append(walk(cluster, peer))
        before, after = walks
        assert after.grown(before, 40) == {}

    world.run(story())


def test_nothing_grows_with_runs_of_nodes(world: ModuleType) -> None:
    async def story() -> None:
        cluster = world.Cluster(3, versioning="vector", maintenance=True, config=SMALL).start()
        peer = cluster.coordinator()
        walks = []
        for number in range(90):
            node_id = cluster.ids[number % 3]
            cluster.kill(node_id, "keep")
            await peer.put("k", f"{number}")
            cluster.revive(node_id)
            cluster.publish(peer)
            await asyncio.sleep(3)
            if number in {29, 89}:
                walks.append(walk(cluster, peer))
        before, after = walks
        assert {path: sizes for path, sizes in after.grown(before, 20).items() if "_engine" not in path} == {}

    world.run(story())


def test_the_walk_finds_what_grows() -> None:
    class Leak:
        __slots__ = ("__dict__", "kept")

        def __init__(self, count: int) -> None:
            self.kept = [deque(range(count))]
            self.found = {"a": functools.partial(print, dict.fromkeys(range(count), 1))}
            self.asked = self.ask
            self.struct = f.GetMany(1, [bytes([number]) for number in range(count)], 2, 5.0)

        def ask(self) -> None: ...

    before, after = Walk(leak=Leak(10)), Walk(leak=Leak(100))
    assert after.grown(before, 50) == {
        "leak.kept[*]": (10, 100), "leak.found[*]()": (10, 100), "leak.struct.keys": (10, 100)
    }  # fmt: skip
    assert after.size_bytes > before.size_bytes
    assert isinstance(Leak(1).struct, msgspec.Struct)
