"""Users' programs, for the type checker alone: see ``test_types.py``. Nothing here is run.

A line that must be an error carries the ignore for it; ``warn_unused_ignores`` says so if it is none any more.
"""

from __future__ import annotations

from typing import Any, assert_type

import raykv
import raykv.sim


def keys_are_what_they_are(store: raykv.Store, carts: raykv.Bucket[str, list[str]]) -> None:
    for key in store:
        key.split(":")
    for key in store.bucket("b"):
        key.split(":")
    for key, value in store.scan(prefix="user:", limit=3):
        print(key.split(":"), value["name"])
    for key in store.keys():  # noqa: SIM118
        key.upper()
    for name in carts:
        assert_type(name, str)
        name.split(":")
        name.no_such_thing()  # type: ignore[attr-defined]
    for name, cart in carts.items():
        assert_type(name, str)
        assert_type(cart, list[str])
    for name, cart in carts.scan(prefix="a", start="a", end="b", after="a", reverse=True):
        assert_type((name, cart), tuple[str, list[str]])
    assert_type(list(carts.keys()), list[str])
    assert_type(list(carts.values()), list[list[str]])
    for cart in carts.values():
        cart.append(1)  # type: ignore[arg-type]


def single_keys(store: raykv.Store, counts: raykv.Bucket[str, int], raw: raykv.Bucket[bytes, bytes]) -> None:
    store.put("a", {"any": object()}, ttl=3, timeout=1.5)
    store["a"] = object()
    store.get(5)  # type: ignore[call-overload]
    store.put(("a", 1), 2)  # type: ignore[arg-type]
    print(store["a"].anything, "a" in store)
    print(store.get("a").anything)  # type: ignore[union-attr]
    del store[b"a"]
    assert_type(counts.get("a"), int | None)
    assert_type(counts.get("a", 0), int)
    assert_type(counts.get("a", "none"), int | str)
    assert_type(counts["a"], int)
    counts.get("a") + 1  # type: ignore[operator]
    counts["a"] = 1
    counts["a"] = "1"  # type: ignore[assignment]
    counts.put("a", "1")  # type: ignore[arg-type]
    written = counts.put("a", 1, r=2)  # type: ignore[call-arg]
    written = counts.put("a", 1, w="all")
    counts.put("a", 1, w="most")  # type: ignore[arg-type]
    assert_type(written.context, raykv.Context)
    assert_type(written.acks, tuple[str, ...])
    versions = counts.get_versions("a")
    assert_type(versions, raykv.Versions[int])
    assert_type(versions.values, list[int])
    counts.put("a", max(versions.values), context=versions.context)
    counts.delete("a", context=raykv.Context.from_bytes(bytes(versions.context)))
    counts.delete("a", context="none")  # type: ignore[arg-type]
    assert_type(raw[b"a"], bytes)
    assert_type(store.decode(b""), Any)


def add(number: int) -> int:
    return number + 1


def append(items: list[str]) -> list[str]:
    return [*items, "x"]


def modify(store: raykv.Store, counts: raykv.Bucket[str, int], carts: raykv.Bucket[str, list[str]]) -> None:
    store.modify("visits", lambda number: number + 1, 0)
    store.modify("visits", add, 0)
    store.modify("visits", add)
    store.modify("cart", append, [])
    store.modify("cart", lambda cart: [*cart, "x"], default=[])
    counts.modify("visits", lambda number: number + 1, 0)
    counts.modify("visits", lambda number: (number or 0) + 1)
    counts.modify("visits", add, 0)
    counts.modify("visits", add, w="all")
    counts.modify("visits", lambda number: str(number), 0)  # type: ignore[arg-type, return-value]
    counts.modify("visits", append, [])  # type: ignore[arg-type]
    carts.modify("cart", append, [])
    carts.modify("cart", lambda cart: [*cart, "x"], [])
    carts.modify("cart", lambda cart: [*(cart or []), "x"], None)


def batches(store: raykv.Store, counts: raykv.Bucket[str, int]) -> None:
    assert_type(store.get_many(["a", "b"]), dict[str, Any | None])
    assert_type(counts.get_many(["a"]), dict[str, int | None])
    assert_type(counts.get_many(name for name in ("a", "b")), dict[str, int | None])
    assert_type(counts.get_many(["a"], 0), dict[str, int])
    assert_type(counts.get_many(["a"], default="x", r=1), dict[str, int | str])
    assert_type(counts.get_many([b"a"]), dict[bytes, int | None])
    for key, value in counts.get_many(["a"]).items():
        print(key.split(":"), value + 1)  # type: ignore[operator]
    store.get_many([1, 2])  # type: ignore[type-var]
    assert_type(counts.put_many({"a": 1}), dict[str, raykv.WriteResult])
    assert_type(counts.put_many([(b"a", 1)], ttl=5), dict[bytes, raykv.WriteResult])
    assert_type(counts.put_many((f"n:{number}", number) for number in range(9)), dict[str, raykv.WriteResult])
    both_kinds: dict[raykv.Key, object] = {"a": 1, b"b": "two"}
    assert_type(store.put_many(both_kinds), dict[raykv.Key, raykv.WriteResult])
    store.put_many({1: 2})  # type: ignore[type-var]
    counts.put_many({"a": "1"})  # type: ignore[arg-type]
    assert_type(counts.delete_many({"a", "b"}), dict[str, raykv.WriteResult])


def handles(store: raykv.Store) -> None:
    carts: raykv.Bucket[str, list[str]] = store.bucket("carts", w="all", versioning="lww", codec="msgpack", ttl=3600)
    anything: raykv.Bucket = store.bucket("anything", resolver=lambda values: values[0])
    bytes_only: raykv.Bucket[bytes] = store.bucket("bytes")
    whole: raykv.Bucket[str, Any] = store
    assert_type(carts.config, raykv.BucketConfig)
    carts.config.n.bit_length()
    print(anything, bytes_only, whole, carts.name.upper(), store.store_name.upper())
    store.bucket("b", versioning="newest")  # type: ignore[arg-type]
    store.bucket("b", versions=3)  # type: ignore[call-arg]
    never: raykv.Bucket[int, str] = store.bucket("b")  # type: ignore[type-var]
    print(never)
    with raykv.connect("shop", routing="direct") as handle:
        assert_type(handle, raykv.Store)
    assert_type(handle.aio, raykv.AsyncStore)
    assert_type(carts.aio, raykv.AsyncBucket[str, list[str]])


def the_store_itself(store: raykv.Store) -> None:
    status = store.status()
    assert_type(status, raykv.Status)
    assert_type(status.healthy, bool)
    assert_type(status["buckets"], list[str])
    for node in status["nodes"]:
        assert_type(node, raykv.NodeStatus)
        assert_type(node["restarts"], int)
        node["stats"]  # type: ignore[typeddict-item]
        if node["storage"] is not None:
            print(node["storage"]["records"], node["node_id"].upper())
    status["nodes"].upper()  # type: ignore[attr-defined]
    ring = store.ring()
    assert_type(ring, raykv.RingView)
    assert_type(ring.owners(3), list[str])
    assert_type(ring["table"], list[list[int]])
    assert_type(ring["members"][0]["weight"], float)
    report = store.repair(progress=lambda done, whole: print(done / whole))
    assert_type(report, raykv.RepairReport)
    assert_type(report["fetched"], int)
    assert_type(report["failed"], dict[int, str])
    node_id = store.add_node(weight="auto", zone="a")
    store.set_weight(node_id, 2, wait=False)
    store.rebalance("pause")
    store.rebalance("stop")  # type: ignore[arg-type]
    limits: raykv.ScalingLimits = {"ops_per_s": 3000, "most": 9}
    scaling = store.autoscale(dry_run=True, **limits)
    assert_type(scaling, raykv.ScalingView)
    assert_type(scaling["would"], str)
    store.autoscale(ops_per_second=3)  # type: ignore[call-arg]


async def awaiting(store: raykv.Store, counts: raykv.Bucket[str, int]) -> None:
    async with store.aio as aio:
        assert_type(aio, raykv.AsyncStore)
    async for key in store.aio:
        key.split(":")
    async for key, value in store.aio.scan(prefix="user:"):
        print(key.split(":"), value["name"])
    async for name in counts.aio.keys():
        assert_type(name, str)
    async for name in counts.aio:
        assert_type(name, str)
        name.no_such_thing()  # type: ignore[attr-defined]
    async for name, number in counts.aio.items():
        assert_type((name, number), tuple[str, int])
    async for number in counts.aio.values():
        assert_type(number, int)
    numbers = counts.aio
    assert_type(numbers, raykv.AsyncBucket[str, int])
    assert_type(await numbers.get("a"), int | None)
    assert_type(await numbers.get("a", 0), int)
    assert_type(await numbers.contains("a"), bool)
    await numbers.put("a", "1")  # type: ignore[arg-type]
    await numbers.modify("visits", add, 0)
    await numbers.modify("visits", append, [])  # type: ignore[arg-type]
    assert_type(await numbers.get_versions("a"), raykv.Versions[int])
    assert_type(await numbers.get_many(["a"]), dict[str, int | None])
    assert_type(await numbers.get_many(["a"], 0), dict[str, int])
    assert_type(await numbers.put_many({"a": 1}), dict[str, raykv.WriteResult])
    assert_type(await numbers.delete_many([b"a"]), dict[bytes, raykv.WriteResult])
    assert_type(await numbers.count(), int)
    carts: raykv.AsyncBucket[str, list[str]] = await store.aio.bucket("carts")
    assert_type(await carts.get("a"), list[str] | None)
    assert_type(await store.aio.status(), raykv.Status)
    assert_type(await store.aio.ring(), raykv.RingView)
    assert_type(await store.aio.repair(), raykv.RepairReport)
    assert_type(store.aio.decode(b""), Any)
    assert_type(store.aio.store_name, str)
    assert_type(numbers.config, raykv.BucketConfig)


def simulated() -> None:
    with raykv.sim.start(seed=7, faults=True) as world:
        assert_type(world.store, raykv.Store)
        assert_type(world.run(world.store.aio.count()), int)


@raykv.sim.seeds(20, faults=True)
def test_of_a_user(world: raykv.sim.World, seed: int) -> None:
    world.store.put("a", seed)


@raykv.sim.seeds(range(100, 120), fault=True)  # type: ignore[call-arg]
def test_with_an_option_that_there_is_not(seed: int) -> None:
    print(seed)


def linearizable(store: raykv.Store) -> None:
    stock: raykv.Bucket[str, int] = store.bucket("stock", versioning="linearizable")
    found = stock.get_versioned("pears")
    assert_type(found, raykv.Versioned[int | None])
    assert_type(found.version, raykv.Version)
    assert_type(bytes(found.version), bytes)
    written = stock.put("pears", 1, if_version=found.version)
    assert_type(written.version, raykv.Version)
    stock.put("pears", 1, if_version=bytes(found.version), fence=7)
    stock.put("pears", "many", if_absent=True)  # type: ignore[arg-type]
    stock.put("pears", 1, if_version="7")  # type: ignore[arg-type]
    stock.delete("pears", if_version=found.version)
    stock.put_many({"pears": 1}, if_absent=True)
    assert_type(stock.add("pears"), int)
    assert_type(stock.max("pears", 3), int)
    stock.add("pears", "3")  # type: ignore[arg-type]
    assert_type(stock.swap("pears", 3), int | None)
    assert_type(stock.update("pears", add, 0), int)
    stock.update("pears", append, [])  # type: ignore[arg-type]
    hits = store.counter("hits")
    assert_type(hits, raykv.Counter)
    assert_type(hits.add(5), int)
    assert_type(hits.value(), int)
    hits.set("3")  # type: ignore[arg-type]
    with store.lock("leader", lease=10, timeout=30) as held:
        assert_type(held, raykv.Lock)
        assert_type(held.token, int)
        assert_type(held.lost, bool)
    assert_type(store.lock("leader").acquire(), raykv.Lock)
    assert_type(held.release(), bool)
    mails: raykv.Queue[str] = store.queue("mails", lease=30, max_deliveries=5)
    assert_type(mails.put("to Ada", delay=3, once="ada"), str)
    assert_type(mails.put_many(["to Ada"]), list[str])
    mails.put(3)  # type: ignore[arg-type]
    claimed = mails.claim(10, wait=60)
    assert_type(claimed, list[raykv.Job[str]])
    assert_type(claimed[0].value, str)
    assert_type(mails.ack(claimed), bool)
    assert_type(mails.get(timeout=1), str)
    assert_type(mails.stats()["waiting"], int)
    with mails.hold(claimed) as jobs:
        assert_type([job.value for job in jobs], list[str])
    try:
        stock.put("pears", 1, if_absent=True)
    except raykv.Conflict as conflict:
        print(conflict.key, conflict.value, conflict.version)


async def linearizable_awaited(store: raykv.Store) -> None:
    stock: raykv.AsyncBucket[str, int] = await store.aio.bucket("stock", versioning="linearizable")
    assert_type(await stock.get_versioned("pears"), raykv.Versioned[int | None])
    assert_type(await stock.update("pears", add, 0), int)
    assert_type(store.aio.counter("hits"), raykv.AsyncCounter)
    assert_type(await store.aio.counter("hits").add(), int)
    assert_type(store.aio.queue("mails"), raykv.AsyncQueue[Any])
    assert_type(await raykv.AsyncQueue[int]("numbers", store=store).get(), int)
    async with store.aio.lock("leader") as held:
        assert_type(held, raykv.AsyncLock)
        assert_type(held.token, int)
    assert_type(await held.release(), bool)
