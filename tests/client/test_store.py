"""The faces: like a dict where that is honest, closed when closed, and no surprises in an event loop."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
import warnings
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

import raykv
from raykv.client import handle as handle_module
from raykv.client import store as store_module
from raykv.client.codecs import encode_value
from raykv.errors import InvalidOption, QuorumNotMet, StoreClosed
from raykv.protocol import frames as f

if TYPE_CHECKING:
    from collections.abc import Callable


def test_it_reads_like_a_dict(store: Any) -> None:
    store["a"] = 1
    store[b"b"] = 2
    assert store["a"] == 1
    assert "a" in store
    assert "x" not in store
    with pytest.raises(KeyError, match="x"):
        store["x"]
    del store["a"]
    with pytest.raises(KeyError):
        del store["a"]
    assert list(store) == [b"b"]
    assert list(store.items()) == [(b"b", 2)]
    store["none"] = None
    assert store["none"] is None
    assert "none" in store


def test_it_is_no_dict_where_that_would_cost(store: Any) -> None:
    with pytest.raises(TypeError):
        len(store)
    assert bool(store) is True
    assert store == store
    assert store != store.bucket("other")
    assert {store: 1}[store] == 1
    assert hash(store) == hash(store)


def test_it_says_what_it_is(store: Any) -> None:
    assert repr(store) == "<raykv store 'shop'>"
    assert repr(store.bucket("carts")) == "<raykv bucket 'carts' of store 'shop'>"
    assert store.store_name == "shop"
    assert store.name == "default"
    assert store.bucket("carts").name == "carts"
    assert store.config.n == 3


def test_a_closed_handle_says_so_in_every_call(store: Any, link: Any) -> None:
    bucket = store.bucket("carts")
    walk = store.scan()
    link.sent = 0
    store.close()
    store.close()
    calls: list[Callable[[], Any]] = [
        lambda: store.get("a"), lambda: store.put("a", 1), lambda: store.delete("a"), lambda: store.get_many(["a"]),
        lambda: store.put_many({"a": 1}), lambda: store.delete_many(["a"]), lambda: list(store.scan()),
        lambda: next(walk), lambda: store["a"], lambda: "a" in store, lambda: list(store.keys()), lambda: store.count(),
        lambda: store.status(), lambda: store.ring(), lambda: store.buckets(), lambda: store.bucket("b"),
        lambda: store.drop_bucket("b"), lambda: bucket.get("a"), lambda: asyncio.run(store.aio.get("a")),
        lambda: asyncio.run(bucket.aio.put("a", 1)), lambda: store.get_versions("a"),
        lambda: store.modify("a", lambda value: value), lambda: asyncio.run(store.aio.get_versions("a")),
        lambda: asyncio.run(bucket.aio.modify("a", lambda value: value)),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreClosed, match=r"raykv\.connect"):
            call()
    assert link.sent == 0
    assert repr(store) == "<raykv store 'shop'>"


def test_a_with_block_closes(link: Any) -> None:
    with store_module.Store("shop", link) as store:
        store.put("a", 1)
    with pytest.raises(StoreClosed):
        store.get("a")

    async def story() -> None:
        async with store_module.Store("shop", link) as other:
            await other.aio.put("a", 1)
        with pytest.raises(StoreClosed):
            await other.aio.get("a")
        third = store_module.Store("shop", link)
        await third.aclose()
        with pytest.raises(StoreClosed):
            await third.aio.get("a")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        asyncio.run(story())


def test_the_awaitable_face_works_in_one_loop_after_another(store: Any) -> None:
    asyncio.run(store.aio.put("a", 1))
    assert asyncio.run(store.aio.get("a")) == 1
    aio = store.aio
    assert [asyncio.run(aio.get("a")) for _ in range(3)] == [1, 1, 1]


# ---- a blocking call inside a loop ----


@pytest.fixture
def unwarned(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(handle_module, "_loop_warning", threading.Event())
    monkeypatch.delitem(sys.modules, "IPython", raising=False)


def test_a_blocking_call_inside_a_loop_warns_once_and_works(store: Any, unwarned: None) -> None:
    async def story() -> None:
        store.put("a", 1)
        assert store.get("a") == 1
        store.get("a")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(story())
    assert [warning.category for warning in caught] == [RuntimeWarning]
    assert "store.aio" in str(caught[0].message)
    assert caught[0].filename == __file__, "it points at the caller's line"


def test_no_warning_outside_a_loop_nor_for_the_awaitable_face_nor_in_ipython(
    store: Any, unwarned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        await store.aio.put("a", 1)

    async def blocking() -> None:
        store.get("a")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.get("a")
        asyncio.run(story())
        monkeypatch.setitem(sys.modules, "IPython", sys)
        asyncio.run(blocking())


# ---- buckets ----


def test_bucket_options_as_they_are_sent(both: Callable[..., Any], link: Any) -> None:
    both("bucket", "b", n=2, r="one", w="all", ttl=1.5, codec="raw", pair_bytes=100, versioning="lww", group=":")
    assert link.requests[-1].name == "b"
    assert link.requests[-1].options == {
        "n": 2, "r": 1, "w": 2, "ttl_ms": 1500, "codec": "raw", "pair_bytes": 100, "versioning": "lww", "group": ":",
    }  # fmt: skip
    both("bucket", "b")
    assert link.requests[-1].options == {}, "what was not said is not compared either"


@pytest.mark.parametrize(
    "options",
    [
        {"n": 4}, {"n": 0}, {"n": True}, {"n": "all"}, {"r": 4}, {"n": 2, "w": 3}, {"w": "some"}, {"w": True},
        {"versioning": "newest"}, {"versioning": True}, {"resolver": "oldest"}, {"resolver": None},
        {"codec": "pickle"}, {"codec": ["auto"]}, {"pair_bytes": 0}, {"pair_bytes": 2**20 + 1},
        {"group": ""}, {"group": b":"},
        {"ttl": 0}, {"ttl": "5"}, {"timeout": None},
    ],
    ids=repr,
)  # fmt: skip
def test_bad_bucket_options_are_refused_and_nothing_is_sent(
    both: Callable[..., Any], link: Any, options: dict[str, Any]
) -> None:
    kind: Any = (InvalidOption, TypeError) if options == {"codec": ["auto"]} else InvalidOption
    with pytest.raises(kind):
        both("bucket", "b", **options)
    assert link.sent == 0


def test_an_unhashable_codec_is_an_invalid_option(store: Any) -> None:
    with pytest.raises(InvalidOption):
        store.bucket("b", codec=["auto"])


@pytest.mark.parametrize("name", ["", "a\n", None, 5, "x" * 256])
def test_bad_bucket_names_are_refused_and_nothing_is_sent(both: Callable[..., Any], link: Any, name: Any) -> None:
    for operation in ("bucket", "drop_bucket"):
        with pytest.raises(InvalidOption, match="name"):
            both(operation, name)
    assert link.sent == 0


def test_buckets_are_listed_and_dropped(both: Callable[..., Any], link: Any) -> None:
    assert both("buckets") == ["default"]
    link.script = [f.Info(True), f.Info(False), f.Refused(f.Failed.of(InvalidOption("part of the store")))]
    assert both("drop_bucket", "b") is True
    assert both("drop_bucket", "b") is False
    with pytest.raises(InvalidOption, match="part of the store"):
        both("drop_bucket", "default")


def test_a_buckets_own_policy_is_used(store: Any, link: Any) -> None:
    bucket = store.bucket("b", n=2, r=1, w=1, codec="raw")
    bucket.put("a", b"x")
    assert (link.requests[-1].bucket_id, link.requests[-1].w) == (2, 1)
    with pytest.raises(InvalidOption):
        bucket.put("a", "text")
    with pytest.raises(InvalidOption, match="must be 1 to 2"):
        bucket.get("a", r=3)


# ---- travelling ----


def test_a_store_travels_as_its_name(store: Any, link: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[tuple[str, str]] = []

    def connect(name: str, *, routing: Any) -> Any:
        connected.append((name, routing))
        return store_module.Store(name, link, routing=routing)

    monkeypatch.setattr(raykv, "connect", connect)
    bucket = store.bucket("carts", n=2, ttl=3)
    data = pickle.dumps((store, bucket))
    assert len(data) < 500
    back, back_bucket = pickle.loads(data)
    assert connected == [], "nothing is asked while a task's arguments are unpickled"
    assert back.store_name == "shop"
    assert back_bucket.name == "carts"
    assert back_bucket.config.n
    assert link.requests[-1].options == {"n": 2, "ttl_ms": 3000}
    assert connected == [("shop", "auto")]
    assert pickle.loads(pickle.dumps(back)).store_name == "shop"
    assert copy.copy(store).store_name == "shop"
    assert pickle.loads(pickle.dumps(store_module.Store("shop", link, routing="coordinator"))).config.n
    assert connected[-1] == ("shop", "coordinator")


def test_a_resolver_belongs_to_the_handle_and_travels_with_it(
    store: Any, link: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raykv, "connect", lambda name, routing: store_module.Store(name, link, routing=routing))
    bucket = store.bucket("counts", resolver=sum, versioning="vector")
    assert "resolver" not in link.requests[-1].options, "it is nothing that all must agree on"
    assert link.requests[-1].options == {"versioning": "vector"}
    both_stand = f.GotMany([f.KeyVersions([encode_value(2, "auto"), encode_value(40, "auto")])])
    for handle, expected in (
        (bucket, 42),
        (store.bucket("counts"), 2),
        (store.bucket("counts", resolver=max), 40),
        (pickle.loads(pickle.dumps(bucket)), 42),
        (cloudpickle.loads(cloudpickle.dumps(store.bucket("counts", resolver=lambda values: values[-1]))), 40),
    ):
        assert handle.config.name == "counts", "one that has arrived opens its bucket now"
        link.script = [both_stand]
        assert handle.get("k") == expected
    link.script = [both_stand]
    assert asyncio.run(bucket.aio.get("k")) == 42


def test_status_and_ring_are_plain_data_that_prints(both: Callable[..., Any], link: Any) -> None:
    node = {
        "node_id": "n<1>", "state": "up", "cause": "", "for_s": 5.0, "restarts": 0, "host": "h", "zone": "", "weight": 1.0,
        "partitions": 8, "storage": {"complete": True, "records": 3, "disk_bytes": 2048},
    }  # fmt: skip
    data = {
        "name": "shop", "config": {"copies": 1, "partitions": 8, "durability": "group"}, "buckets": ["default"],
        "nodes": [node],
    }  # fmt: skip
    link.script = [f.Info(data)]
    status = both("status")
    assert dict(status) == data
    assert "n<1>" in repr(status)
    assert "2.0 KiB" in repr(status)
    assert "n<1>" not in status._repr_html_()
    assert "n&lt;1&gt;" in status._repr_html_()
    assert status.healthy
    link.script = [f.Info({"epoch": 1, "copies": 1, "partitions": 2, "table": [[0], [0]],
                           "members": [{"node_id": "n1", "weight": 1.0, "host": "h", "zone": ""}]})]  # fmt: skip
    ring = both("ring")
    assert ring.owners(1) == ["n1"]
    assert "2 partitions" in repr(ring)
    assert "<svg" in ring._repr_html_()


def test_opening_a_store_that_does_not_answer_raises(link: Any) -> None:
    link.script = [f.Refused(f.Failed.of(QuorumNotMet("m")))]
    with pytest.raises(QuorumNotMet):
        store_module.Store("shop", link)
