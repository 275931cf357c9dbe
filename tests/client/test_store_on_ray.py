"""The face that blocks and the one that awaits, on a real store."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import raykv

pytestmark = pytest.mark.ray


class Colour(enum.IntEnum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: float
    y: tuple[int, ...]


plain = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=50)
    | st.binary(max_size=50)
)
hashable = plain | st.tuples(plain, plain) | st.frozensets(plain, max_size=3)
values = st.recursive(
    plain
    | st.just(Colour.RED)
    | st.builds(Point, st.floats(allow_nan=False), st.tuples(st.integers(), st.integers()))
    | st.datetimes(timezones=st.none() | st.just(dt.UTC))
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.uuids()
    | st.sets(hashable, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(hashable, inner, max_size=4),
    max_leaves=10,
)


@given(batch=st.lists(values, min_size=20, max_size=60))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_comes_back_is_of_the_type_that_went_in(shared_store: raykv.Store, batch: list[Any]) -> None:
    bucket = shared_store.bucket("types")
    bucket.put_many({f"k{index}": value for index, value in enumerate(batch)})
    for index, value in enumerate(batch):
        back = bucket.get(f"k{index}", default=KeyError)
        assert type(back) is type(value)
        assert back == value


def test_numpy_and_odd_floats_come_back(shared_store: raykv.Store) -> None:
    for value in (np.float32(1.5), np.arange(6).reshape(2, 3), np.array(3), np.datetime64("2026-01-01"), np.str_("x")):
        shared_store.put("numpy", value)
        back = shared_store.get("numpy")
        assert type(back) is type(value)
        assert np.array_equal(back, value)
    shared_store.put("nan", [math.nan, -0.0, math.inf])
    nan, zero, infinite = shared_store["nan"]
    assert math.isnan(nan)
    assert math.copysign(1, zero) == -1
    assert infinite == math.inf


def test_str_and_bytes_keys_are_different_keys(shared_store: raykv.Store) -> None:
    bucket = shared_store.bucket("two kinds")
    bucket.put("a", "str")
    bucket.put(b"a", "bytes")
    assert bucket.get_many(["a", b"a"]) == {"a": "str", b"a": "bytes"}
    assert list(bucket) == [b"a", "a"]


def test_like_a_dict(shared_store: raykv.Store) -> None:
    bucket = shared_store.bucket("dict")
    assert bucket
    bucket["a"] = 1
    bucket["none"] = None
    assert "a" in bucket
    assert "none" in bucket
    assert "b" not in bucket
    assert bucket["none"] is None
    assert bucket.get("b", "default") == "default"
    with pytest.raises(KeyError, match="b"):
        bucket["b"]
    with pytest.raises(KeyError, match="b"):
        del bucket["b"]
    del bucket["a"]
    assert bucket.get("a") is None
    bucket.put_many([("x", 1), ("y", 2)])
    assert list(bucket.keys()) == ["none", "x", "y"]
    assert list(bucket.values()) == [None, 1, 2]
    assert dict(bucket.items()) == {"none": None, "x": 1, "y": 2}
    assert bucket.count() == 3
    with pytest.raises(TypeError):
        len(bucket)  # type: ignore[arg-type]
    assert {bucket: 1}[bucket] == 1


def test_scans(shared_store: raykv.Store) -> None:
    bucket = shared_store.bucket("scanned")
    written = {f"user:{index:05d}": index for index in range(2500)} | {"usea": -1, "usf": -2, b"user:": -3}
    bucket.put_many(written)
    in_order = [(key, written[key]) for key in sorted(key for key in written if isinstance(key, str))]
    users = [pair for pair in in_order if pair[0].startswith("user:")]
    assert list(bucket.scan(prefix="user:")) == users
    assert list(bucket.scan(prefix="user:", reverse=True)) == users[::-1]
    assert list(bucket.scan()) == [(b"user:", -3), *in_order]
    assert list(bucket.scan(start="user:00010", end="user:00013")) == users[10:13]
    assert list(bucket.scan(prefix="user:", after="user:00010", limit=3)) == users[11:14]
    assert list(bucket.scan(prefix="user:", after="user:00010", limit=3, reverse=True)) == users[7:10][::-1]
    assert list(bucket.scan(prefix="user:", limit=1700)) == users[:1700]
    assert list(bucket.scan(prefix="nothing")) == []
    assert list(bucket.scan(start="b", end="a")) == []
    assert list(bucket.scan(prefix="user:", limit=0)) == []
    bucket.delete_many([key for key, _ in users[::2]])
    assert list(bucket.scan(prefix="user:")) == users[1::2]
    assert bucket.count() == len(users) // 2 + 3
    for bad in ({"limit": -1}, {"limit": True}, {"r": 7}, {"prefix": 3}, {"timeout": 0}):
        with pytest.raises((raykv.InvalidOption, raykv.InvalidKey)):
            list(bucket.scan(**bad))


def test_time_to_live(shared_store: raykv.Store) -> None:
    import time

    shared_store.put("short", 1, ttl=0.4)
    shared_store.put("long", 1, ttl=600)
    bucket = shared_store.bucket("all short", ttl=0.4)
    bucket.put("x", 1)
    assert bucket.get("x") == 1
    time.sleep(0.5)
    assert shared_store.get("short") is None
    assert "short" not in shared_store
    assert shared_store.get("long") == 1
    assert list(bucket) == []


def test_levels_and_acknowledgements(shared_store: raykv.Store) -> None:
    assert len(shared_store.put("levels", 1, w="all").acks) == 3
    for level in (1, 2, 3, "one", "quorum", "all"):
        assert len(shared_store.put("levels", 2, w=level).acks) >= 1
        assert shared_store.get("levels", r=level) is not None
    assert shared_store.delete("levels", w=3).operation_id != shared_store.delete("levels").operation_id


def test_buckets(shared_store: raykv.Store) -> None:
    made = shared_store.bucket("made", n=2, r=1, w=2, codec="msgpack")
    made.put("k", [1])
    assert made.config.n == 2
    assert shared_store.bucket("made").get("k") == [1], "without options: as it is"
    assert shared_store.get("k") is None, "keys of another bucket are other keys"
    with pytest.raises(raykv.BucketMismatch, match="n is 2, asked 3") as caught:
        shared_store.bucket("made", n=3)
    assert caught.value.details["differing"] == {"n": [2, 3]}
    with pytest.raises(raykv.InvalidOption, match="msgpack"):
        made.put("k", (1,))
    assert "made" in shared_store.buckets()
    assert shared_store.drop_bucket("made") is True
    assert shared_store.drop_bucket("made") is False
    assert "made" not in shared_store.buckets()
    with pytest.raises(raykv.InvalidOption, match="dropped"):
        made.get("k")
    assert shared_store.bucket("made").get("k") is None, "a new bucket of that name begins empty"
    shared_store.drop_bucket("made")
    bad: list[dict[str, Any]] = [
        {"n": 4},
        {"n": 0},
        {"r": 4},
        {"n": 2, "w": 3},
        {"versioning": "newest"},
        {"codec": "x"},
    ]
    for options in [*bad, {"ttl": -1}, {"pair_bytes": 0}, {"w": True}]:
        with pytest.raises(raykv.InvalidOption):
            shared_store.bucket("never made", **options)
    with pytest.raises(raykv.InvalidOption):
        shared_store.bucket("")
    assert "never made" not in shared_store.buckets()
    with pytest.raises(raykv.InvalidOption, match="cannot be dropped"):
        shared_store.drop_bucket("default")


def test_the_same_awaitable_in_successive_loops(shared_store: raykv.Store) -> None:
    aio = shared_store.aio

    async def first() -> None:
        await aio.put("aio", {"x": 1})
        assert await aio.get("aio") == {"x": 1}
        await asyncio.gather(*(aio.put(f"aio:{index}", index) for index in range(50)))

    async def second() -> None:
        bucket = await aio.bucket("aio bucket")
        await bucket.put_many({f"k{index}": index for index in range(700)})
        assert len(await bucket.get_many([f"k{index}" for index in range(700)])) == 700
        assert [key async for key, _ in bucket.scan(prefix="k1", limit=3)] == ["k1", "k10", "k100"]
        assert await bucket.count() == 700
        assert [value async for value in bucket.values()] == [
            value for _, value in sorted((f"k{i}", i) for i in range(700))
        ]
        await bucket.delete_many([f"k{index}" for index in range(700)])
        assert not await bucket.contains("k1")
        assert "aio bucket" in await aio.buckets()
        assert (await aio.status())["name"] == "shared"
        assert (await aio.ring())["partitions"] == 256
        with pytest.raises(raykv.InvalidKey):
            await aio.get("")

    asyncio.run(first())
    asyncio.run(second())


def test_status_and_ring_are_plain_data_that_shows_itself(shared_store: raykv.Store) -> None:
    import json

    status, ring = shared_store.status(), shared_store.ring()
    assert json.loads(json.dumps(status))["nodes"][0]["state"] == "up"
    assert status.healthy
    assert "n3" in repr(status)
    assert "<table" in status._repr_html_()
    assert json.loads(json.dumps(ring))["copies"] == 3
    assert sorted(ring.owners(17)) == ["n1", "n2", "n3"]
    assert ring._repr_html_().startswith("<svg")


BAD_KEYS = ["", b"", b"x" * 1025, "é" * 600, "lone \ud800", 3, None, ("a",), bytearray(b"a")]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: f"{type(key).__name__}-{len(repr(key))}")
def test_bad_keys(shared_store: raykv.Store, key: Any) -> None:
    for call in (
        lambda: shared_store.put(key, 1),
        lambda: shared_store.get(key),
        lambda: shared_store.delete(key),
        lambda: shared_store.put_many([("good", 1), (key, 1)]),
        lambda: shared_store.get_many(["good", key]),
        lambda: key in shared_store,
    ):
        with pytest.raises(raykv.InvalidKey):
            call()
    assert shared_store.get("good") is None, "a malformed item refuses the whole call"


BAD_OPTIONS: list[dict[str, Any]] = [
    *({"w": w} for w in (4, 0, -1, True, 1.0, "two", "ALL", [])),
    *({"ttl": ttl} for ttl in (-1, 0, math.nan, math.inf, 1e12, "60", True)),
    *({"timeout": timeout} for timeout in (-1, 0, math.nan, math.inf, 1e9, "5", None, True)),
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=repr)
def test_bad_options(shared_store: raykv.Store, options: dict[str, Any]) -> None:
    with pytest.raises(raykv.InvalidOption, match=next(iter(options))):
        shared_store.put("bad option", 1, **options)
    assert shared_store.get("bad option") is None


def test_pairs_up_to_the_limit(shared_store: raykv.Store) -> None:
    for value in (b"x" * 10_236, "x" * 10_236):
        shared_store.put("size", value)  # 4 + 10,236 = 10,240
        assert shared_store.get("size") == value
    for value in (b"x" * 10_237, "x" * 10_237, "é" * 5_119, list(range(8000))):
        with pytest.raises(raykv.PairTooLarge, match="10240"):
            shared_store.put("size", value)
    big = shared_store.bucket("big", pair_bytes=200_000)
    big.put("k", b"x" * 150_000)
    assert big.get("k") == b"x" * 150_000


BAD_STARTS: list[tuple[dict[str, Any], type[Exception]]] = [
    ({"nodes": 2, "n": 3}, raykv.NotEnoughNodes),
    ({"nodes": 0}, raykv.InvalidOption),
    ({"nodes": True}, raykv.InvalidOption),
    ({"partitions": 100}, raykv.InvalidOption),
    ({"durability": "sometimes"}, raykv.InvalidOption),
    ({"path": ""}, raykv.InvalidOption),
    ({"zones": "a"}, raykv.InvalidOption),
    ({"zones": ["a b"]}, raykv.InvalidOption),
    ({"weights": [1, 2]}, raykv.InvalidOption),
    ({"weights": [1, math.nan, 1]}, raykv.InvalidOption),
    ({"name": "../x"}, raykv.InvalidOption),
    ({"name": ""}, raykv.InvalidOption),
]


@pytest.mark.parametrize(("options", "error"), BAD_STARTS, ids=lambda case: repr(case)[:40])
def test_bad_starts(ray_cluster: None, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        raykv.start(**{"name": "never-started"} | options)


def test_a_closed_handle(shared_store: raykv.Store) -> None:
    with raykv.connect("shared") as store:
        store.put("closing", 1)
        bucket = store.bucket("types")
    for call in (lambda: store.get("closing"), lambda: bucket.get("x"), lambda: list(store.scan())):
        with pytest.raises(raykv.StoreClosed):
            call()
    store.close()
    assert shared_store.get("closing") == 1
