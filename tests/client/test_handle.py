"""The four faces of a handle: what the blocking one can do the awaitable one can, and by the same words."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import typing
from typing import Any

import cloudpickle
import pytest

import raykv
from raykv.client.store import Store
from raykv.errors import QuorumNotMet, StoreClosed
from raykv.protocol import frames as f

FACES = [(raykv.Bucket, raykv.AsyncBucket), (raykv.Store, raykv.AsyncStore)]

BLOCKING_ONLY = {
    "aio",  # leads to the other
    "close",  # there it is ``aclose``
    "__getitem__", "__setitem__", "__delitem__", "__contains__",  # nobody can await these: get, put, delete, contains
    "__enter__", "__exit__",  # there it is ``async with``
    "__iter__",  # there it is ``async for``
}  # fmt: skip
AWAITABLE_ONLY = {"aclose", "contains", "__aiter__"}
OF_PYTHON = {"__init__", "__module__", "__doc__", "__dict__", "__weakref__", "__parameters__", "__orig_bases__",
             "__class_getitem__", "__annotations__", "__slots__", "__subclasshook__", "__init_subclass__", "__hash__",
             "__firstlineno__", "__static_attributes__", "__abstractmethods__", "__annotate__",
             "__annotate_func__", "__annotations_cache__"}  # fmt: skip


def offered(face: type) -> dict[str, Any]:
    """Return what a face offers, by name."""
    found: dict[str, Any] = {}
    for base in reversed(face.__mro__[: face.__mro__.index(typing.Generic)]):
        found |= vars(base)
    return {
        name: value
        for name, value in found.items()
        if name not in OF_PYTHON and (not name.startswith("_") or name.endswith("__"))
    }


@pytest.mark.parametrize(("blocking", "awaitable"), FACES)
def test_both_faces_offer_the_same_names(blocking: type, awaitable: type) -> None:
    here, there = offered(blocking), offered(awaitable)
    assert len(here) > 20
    assert here.keys() - there.keys() <= BLOCKING_ONLY
    assert there.keys() - here.keys() <= AWAITABLE_ONLY
    for name in here.keys() & there.keys():
        assert isinstance(here[name], property) == isinstance(there[name], property), name
    assert offered(raykv.Store).keys() - {"__aenter__", "__aexit__"} >= BLOCKING_ONLY, "exceptions that are none"
    assert offered(raykv.AsyncStore).keys() >= AWAITABLE_ONLY


def words(function: Any) -> list[tuple[Any, ...]]:
    """Return a signature without what says who waits."""

    def plain(annotation: object) -> str:
        return str(annotation).replace("Async", "")

    signature = inspect.signature(function)
    parameters = [
        (each.name, each.kind, repr(each.default), plain(each.annotation)) for each in signature.parameters.values()
    ]
    return [*parameters, (plain(signature.return_annotation),)]


@pytest.mark.parametrize(("blocking", "awaitable"), FACES)
def test_both_faces_take_the_same_arguments_and_give_the_same(blocking: type, awaitable: type) -> None:
    shared = offered(blocking).keys() & offered(awaitable).keys()
    compared = 0
    for name in sorted(shared):
        here, there = getattr(blocking, name), getattr(awaitable, name)
        if isinstance(here, property):
            assert here.fget.__annotations__ == there.fget.__annotations__, name
            continue
        compared += 1
        assert words(here) == words(there), name
        assert [words(each) for each in typing.get_overloads(here)] == [
            words(each) for each in typing.get_overloads(there)
        ], name
        if here is not there and not name.startswith("__"):
            walks = "Iterator" in str(inspect.signature(there).return_annotation)
            sends = name not in {"counter", "lock", "queue"}
            assert inspect.iscoroutinefunction(there) or walks or not sends, (
                f"{name} of the awaitable face is to be awaited"
            )
    assert compared > 12


# ---- what all of them are ----


def handles_of(store: Any) -> list[Any]:
    bucket = store.bucket("carts", n=2, ttl=3)
    return [store, store.aio, bucket, bucket.aio]


def test_all_are_true_hashable_and_equal_to_themselves(store: Any) -> None:
    handles = handles_of(store)
    assert len({*handles, *handles}) == 4
    for handle in handles:
        assert bool(handle) is True
        with pytest.raises(TypeError):
            len(handle)
    assert store.aio is store.aio


def test_all_say_what_they_are(store: Any) -> None:
    assert [repr(handle) for handle in handles_of(store)] == [
        "<raykv store 'shop'>",
        "<raykv awaitable store 'shop'>",
        "<raykv bucket 'carts' of store 'shop'>",
        "<raykv awaitable bucket 'carts' of store 'shop'>",
    ]
    assert [handle.name for handle in handles_of(store)] == ["default", "default", "carts", "carts"]
    assert {handle.config.n for handle in handles_of(store)} == {2, 3}
    assert store.aio.store_name == "shop"


@pytest.mark.parametrize("there", [lambda handle: cloudpickle.loads(cloudpickle.dumps(handle)), copy.copy, copy.deepcopy,
                                   lambda handle: pickle.loads(pickle.dumps(handle))])  # fmt: skip
def test_all_travel(store: Any, link: Any, monkeypatch: pytest.MonkeyPatch, there: Any) -> None:
    connected: list[str] = []

    def connect(name: str, *, routing: Any) -> Any:
        connected.append(name)
        return Store(name, link, routing=routing)

    monkeypatch.setattr(raykv, "connect", connect)
    store.put("a", 1)
    for handle in handles_of(store):
        back = there(there(handle))
        assert connected == [], "nothing is asked before it is used"
        assert type(back) is type(handle)
        assert repr(back) == repr(handle)
        if isinstance(back, raykv.AsyncBucket):
            assert asyncio.run(back.get("a")) == 1
        else:
            assert back.get("a") == 1
        assert connected == ["shop"]
        assert back.config.n == handle.config.n
        connected.clear()


def test_a_copy_is_a_handle_of_its_own(store: Any, link: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raykv, "connect", lambda name, routing: Store(name, link, routing=routing))
    for other in (copy.copy(store), copy.deepcopy(store)):
        other.close()
        with pytest.raises(StoreClosed):
            other.get("a")
        assert store.get("a") is None


def test_a_closed_copy_says_so_and_does_not_connect(store: Any, link: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[str] = []

    def connect(name: str, *, routing: Any) -> Any:
        connected.append(name)
        return Store(name, link, routing=routing)

    monkeypatch.setattr(raykv, "connect", connect)
    uses: list[Any] = [
        lambda handle: handle.get("a"), lambda handle: handle.bucket("carts"), lambda handle: handle.counter("c").add(),
        lambda handle: handle.lock("l").acquire(), lambda handle: asyncio.run(handle.aio.get("a")),
        lambda handle: asyncio.run(handle.aio.counter("c").add()), lambda handle: handle.status(),
    ]  # fmt: skip
    for other in (copy.copy(store), pickle.loads(pickle.dumps(store))):
        other.close()
        other.close()
        for use in uses:
            with pytest.raises(StoreClosed, match=r"this handle of store 'shop' is closed; raykv\.connect\('shop'\)"):
                use(other)
    assert connected == []


def test_an_async_with_block_closes_the_handle(store: Any) -> None:
    async def story() -> None:
        async with store.aio as aio:
            assert aio is store.aio
            await aio.put("a", 1)
        with pytest.raises(StoreClosed):
            await aio.get("a")
        await aio.aclose()

    asyncio.run(story())
    with pytest.raises(StoreClosed):
        store.get("a")


def test_an_async_for_walks_over_the_keys(store: Any) -> None:
    async def story() -> list[Any]:
        await store.aio.put_many({"b": 1, "a": 2})
        return [key async for key in store.aio]

    assert asyncio.run(story()) == ["a", "b"]


def test_both_decode_what_a_coordinator_brought(store: Any) -> None:
    refused = f.handed_answers.encode(f.HandleAnswer(True, "auto", f.Refused(f.Failed.of(QuorumNotMet("too few")))))
    for face in (store, store.aio, raykv.Store, raykv.AsyncStore):
        with pytest.raises(QuorumNotMet, match="too few"):
            face.decode(refused)
