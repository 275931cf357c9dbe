"""Scans: the range that bounds leave, pages, and what a scan leaves out or stops at."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest
from client_values import FAILED, UNREADABLE, keep, payload_of

from raykv.client.paging import scan_range
from raykv.errors import BatchError, CorruptData, InvalidKey, InvalidOption, QuorumNotMet
from raykv.protocol import frames as f
from raykv.records.keys import encode_bound, encode_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


A, B, C = b"\x02a", b"\x02b", b"\x02c"
END = b"\x03"
TEXT_KEYS = [f"user:{number:02}" for number in range(20)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (b"", END)),
        ({"prefix": "a"}, (A, B)),
        ({"prefix": ""}, (b"\x02", END)),
        ({"prefix": b""}, (b"\x01", b"\x02")),
        ({"prefix": b"\xff"}, (b"\x01\xff", b"\x02")),
        ({"start": "b"}, (B, END)),
        ({"end": "b"}, (b"", B)),
        ({"start": "a", "end": "c"}, (A, C)),
        ({"start": b"a", "end": "c"}, (b"\x01a", C)),
        ({"prefix": "a", "start": "ab"}, (b"\x02ab", B)),
        ({"prefix": "b", "start": "a", "end": "c"}, (B, C)),
        ({"after": "a"}, (A + b"\x00", END)),
        ({"after": "a", "start": "b"}, (B, END)),
        ({"after": "b", "start": "a"}, (B + b"\x00", END)),
        ({"after": "b", "reverse": True}, (b"", B)),
        ({"after": "c", "end": "b", "reverse": True}, (b"", B)),
        ({"after": "a", "prefix": "b", "reverse": True}, (B, A)),
        ({"start": "c", "end": "a"}, (C, A)),
    ],
    ids=repr,
)
def test_what_range_the_bounds_leave(arguments: dict[str, Any], expected: tuple[bytes, bytes]) -> None:
    full = {"prefix": None, "start": None, "end": None, "after": None, "reverse": False} | arguments
    assert scan_range(**full) == expected


@pytest.mark.parametrize("bound", ["prefix", "start", "end", "after"])
@pytest.mark.parametrize("value", [5, ("a",), "\ud800", bytearray(b"a")], ids=repr)
def test_a_bad_bound_is_refused_at_the_call(
    both: Callable[..., Any], store: Any, link: Any, bound: str, value: Any
) -> None:
    with pytest.raises(InvalidKey):
        store.scan(**{bound: value})  # not only when somebody goes over it
    with pytest.raises(InvalidKey):
        both("scan", **{bound: value})
    assert link.sent == 0


@pytest.mark.parametrize("limit", [-1, 1.5, True, "5", math.inf], ids=repr)
def test_a_bad_limit_is_refused_at_the_call(store: Any, link: Any, limit: Any) -> None:
    with pytest.raises(InvalidOption, match="limit"):
        store.scan(limit=limit)
    with pytest.raises(InvalidOption, match="limit"):
        store.aio.scan(limit=limit)
    assert link.sent == 0


@pytest.mark.parametrize("page_items", [1, 3, 7, 1000])
def test_scans_over_pages(both: Callable[..., Any], link: Any, page_items: int) -> None:
    both("put_many", {key: key.upper() for key in TEXT_KEYS} | {b"raw": 0, "zz": 1})
    both("delete_many", TEXT_KEYS[5:9])
    link.page_items = page_items
    live = TEXT_KEYS[:5] + TEXT_KEYS[9:]
    everything = [(b"raw", 0), *((key, key.upper()) for key in live), ("zz", 1)]
    assert both("scan") == both("items") == everything
    assert both("scan", reverse=True) == everything[::-1]
    assert both("keys") == [key for key, _ in everything]
    assert both("values") == [value for _, value in everything]
    assert both("count") == len(everything)
    assert [key for key, _ in both("scan", prefix="user:")] == live
    assert [key for key, _ in both("scan", "user:", limit=7)] == live[:7]
    assert [key for key, _ in both("scan", "user:", limit=7, reverse=True)] == live[:-8:-1]
    assert [key for key, _ in both("scan", start="user:02", end="user:12")] == live[2:8]
    assert [key for key, _ in both("scan", prefix="user:", after=live[3], limit=2)] == live[4:6]
    assert [key for key, _ in both("scan", prefix="user:", after=live[3], limit=2, reverse=True)] == live[2:0:-1]
    link.requests.clear()
    assert both("scan", limit=0) == []
    assert both("scan", start="b", end="a") == []
    assert link.requests == []


def test_a_scan_asks_for_no_more_than_it_needs_and_for_keys_without_values(both: Callable[..., Any], link: Any) -> None:
    both("put_many", dict.fromkeys(TEXT_KEYS, 1))
    link.requests.clear()
    both("scan", limit=5, r="all", timeout=2)
    both("keys")
    assert (link.requests[0].limit, link.requests[0].r, link.requests[0].timeout_s) == (5, 3, 2.0)
    assert not link.requests[0].keys_only
    assert link.requests[1].keys_only


def test_a_scan_is_lazy(store: Any, link: Any) -> None:
    store.put_many(dict.fromkeys(TEXT_KEYS, 1))
    link.page_items = 4
    link.requests.clear()
    walk = iter(store.scan())
    assert link.requests == []
    for _ in range(4):
        next(walk)
    assert len(link.requests) == 1
    next(walk)
    assert len(link.requests) == 2


def test_a_scan_whose_page_fails_raises(both: Callable[..., Any], link: Any) -> None:
    link.script = [f.Page([(encode_key("a"), [payload_of(1)], False)], encode_bound("b")), f.Refused(FAILED)]
    with pytest.raises(QuorumNotMet):
        both("scan")


def test_a_full_scan_under_a_lower_hidden_bound(both: Callable[..., Any], link: Any) -> None:
    link.script = [
        f.Page([], encode_bound("b")),
        f.Page([], encode_bound("c")),
        f.Page([(encode_key("c"), [payload_of(1)], False)], None),
    ]
    assert both("scan") == [("c", 1)], "an empty page is not the end"
    assert [request.start for request in link.requests] == [b"", encode_bound("b"), encode_bound("c")]


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("page_items", [1, 2, 100])
def test_a_scan_names_a_value_that_cannot_be_read_and_goes_on_behind_it(
    store: Any, link: Any, payload: bytes, reverse: bool, page_items: int
) -> None:
    link.page_items = page_items
    keys = [b"a", b"b", "a", "b", "c"]
    for key in keys:
        keep(link, key, payload if key in (b"b", "c") else payload_of(key))
    for face in ("scan", "aio"):
        seen, bad, after = [], [], None
        for _ in range(5):
            try:
                for key, value in scanned(store, face, after, reverse):
                    assert key == value
                    seen.append(key)
                break
            except CorruptData as error:
                bad.append((error.key, repr(error.key) in str(error)))
                after = error.key
        expected = keys[::-1] if reverse else keys
        assert seen == [key for key in expected if key not in (b"b", "c")]
        assert bad == [(key, True) for key in expected if key in (b"b", "c")]
    assert len(list(store.scan(limit=1))) == 1, "what is not asked for is not missed"
    with pytest.raises(BatchError) as caught:
        store.get_many(store.keys())
    assert list(caught.value.results) == [b"a", "a", "b"]
    assert {key: error.key for key, error in caught.value.errors.items()} == {b"b": b"b", "c": "c"}


def scanned(store: Any, face: str, after: Any, reverse: bool) -> Iterator[Any]:
    if face == "scan":
        yield from store.scan(after=after, reverse=reverse)
        return
    found: list[Any] = []
    failed: list[CorruptData] = []

    async def go() -> None:
        try:
            async for pair in store.aio.scan(after=after, reverse=reverse):
                found.append(pair)  # noqa: PERF401 - those before the error count
        except CorruptData as error:
            failed.append(error)

    asyncio.run(go())
    yield from found
    for error in failed:
        raise error


def test_a_scan_shows_what_lies_before_a_key_whose_resolver_raises(store: Any, link: Any) -> None:
    def fails(values: list[Any]) -> Any:
        raise LookupError("own")

    bucket = store.bucket("merging", resolver=fails)
    two = [payload_of(1), payload_of(2)]
    link.script = [f.Page([(b"\x02a", [payload_of(0)], False), (b"\x02b", two, False), (b"\x02c", two, False)], None)]
    scan = bucket.scan()
    assert next(scan) == ("a", 0)
    with pytest.raises(LookupError, match="own") as caught:
        next(scan)
    assert caught.value.__notes__ == ["raykv called the resolver with the 2 versions of key 'b'"]


def test_a_scan_goes_on_past_what_is_no_key_and_says_so(both, link) -> None:
    both("put", "a", 1)
    both("put", "b", 2)
    for wrong in (b"\x00junk", b"\x02\xff"):
        link.records[wrong] = link.records[encode_key("a")]
    for words in ({}, {"reverse": True}, {"limit": 5}):
        with pytest.warns(UserWarning, match=r"skips a record whose stored key is invalid.*repair") as warned:
            assert {*both("scan", **words)} == {("a", 1), ("b", 2)}
        assert len(warned) >= 2
