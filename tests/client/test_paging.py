"""Scans step by step (P15): few pages behind what is deleted, and no step beyond its timeout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from raykv.cli import reading
from raykv.client.paging import PAGE_ITEMS, PAGE_KEYS, Paging, scan_range
from raykv.errors import InvalidOption, QuorumNotMet
from raykv.protocol import frames as f
from raykv.records.keys import encode_bound, encode_key

if TYPE_CHECKING:
    from collections.abc import Callable

GONE = 20_000


def take_out(link: Any, store: Any, count: int = GONE) -> None:
    """Delete this many pairs before the last one, "z", and behind the first one, "a"."""
    store.put_many({"a": 1, "z": 2, "q": 0})
    store.delete("q")
    tombstone = link.records[encode_key("q")]
    link.records |= {encode_key(f"q{number:06}"): tombstone for number in range(count)}
    link.requests.clear()


@pytest.mark.parametrize("reverse", [False, True])
def test_pages_grow_while_they_show_nothing(both: Callable[..., Any], store: Any, link: Any, reverse: bool) -> None:
    """Also of a coordinator to which what is deleted fills a page. *Before: as many pages as pairs were deleted.*"""
    take_out(link, store)
    assert both("scan", limit=1, reverse=reverse) == ([("z", 2)] if reverse else [("a", 1)])
    assert [request.limit for request in link.requests] == [1]
    link.requests.clear()
    assert both("scan", limit=1, after="z" if reverse else "a", reverse=reverse) == (
        [("a", 1)] if reverse else [("z", 2)]
    )
    assert [request.limit for request in link.requests[:5]] == [1, 4, 16, 64, 256]
    assert max(request.limit for request in link.requests) == PAGE_ITEMS
    assert len(link.requests) < GONE / PAGE_ITEMS + 12


def test_what_a_larger_page_shows_beyond_the_limit_is_left_out(both: Callable[..., Any], store: Any, link: Any) -> None:
    take_out(link, store, 50)
    store.put_many({f"r{number}": number for number in range(30)})
    expected = [("a", 1), *((f"r{number}", number) for number in sorted(range(30), key=str))]
    for limit in range(1, 31):
        assert both("scan", limit=limit) == expected[:limit]


@pytest.mark.parametrize("hidden", ["gone", "dead"])
def test_versions_that_this_handle_hides_make_pages_grow_too(both: Callable[..., Any], link: Any, hidden: str) -> None:
    def page(request: Any) -> f.Page:
        count = int.from_bytes(request.start[2:6], "big") if request.start else 0
        items = [(encode_key("k"), [b"\x01\x01"], True)] * (request.limit if hidden == "gone" else 0)
        return f.Page(items, None if count > 5000 else b"\x010" + (count + request.limit).to_bytes(4, "big"))

    link.script = [page] * 10_000
    assert both("scan", limit=1) == []
    assert len(link.requests) < 20


@pytest.mark.parametrize("limit", [None, 1, 7])
@pytest.mark.parametrize("way", ["scan", "cli"])
def test_a_step_ends_in_its_time_over_however_many_pages(
    both: Callable[..., Any], store: Any, link: Any, limit: int | None, way: str
) -> None:
    """*Before: the timeout was for each page, and a step of 30 pages took 30 times as long.*"""
    began_s = link.now_s

    def slowly(request: Any) -> f.Page:
        assert request.timeout_s <= began_s + 5 - link.now_s + 1e-9, "what is left of it"
        link.now_s += 0.7
        return f.Page([], request.start + b"\x00" if request.start else encode_bound("c"))

    link.script = [slowly] * 1000

    def walk() -> None:
        if way == "scan":
            both("scan", limit=limit, timeout=5)
        else:
            list(reading.pages(link, store._operations.scan(limit=limit or 9, keys_only=True, timeout=5.0)))

    with pytest.raises(QuorumNotMet, match="within 5 s: it passed deleted and expired ones, as far as 'c"):
        walk()
    assert 5 <= link.now_s - began_s <= 5 * 1.1 + 0.7


def test_time_that_the_caller_takes_between_steps_does_not_count(store: Any, link: Any) -> None:
    store.put_many({f"k{number}": number for number in range(9)})
    link.page_items = 2
    for _ in store.scan(timeout=5):
        link.now_s += 4


def test_each_step_has_its_own_time(store: Any, link: Any) -> None:
    """A scan of many steps takes longer than its timeout."""

    def slowly(request: Any) -> f.Page:
        link.now_s += 3
        return link.answer(request)

    store.put_many({f"k{number}": number for number in range(9)})
    link.page_items = 1
    link.script = [slowly] * 9
    assert len(list(store.scan(timeout=5))) == 9


@pytest.mark.parametrize("timeout", [0, -1, None, "5"])
def test_a_bad_timeout_is_refused(both: Callable[..., Any], timeout: Any) -> None:
    with pytest.raises(InvalidOption, match="timeout"):
        both("scan", timeout=timeout)


def test_keys_come_in_larger_pages() -> None:
    def windows(**options: Any) -> int:
        left = scan_range(None, None, None, None, reverse=False)
        paging = Paging(lambda *_: None, lambda: 0.0, left, reverse=False, timeout=5, **options)  # type: ignore[arg-type,return-value]
        return paging._window

    assert windows(limit=None) == PAGE_ITEMS
    assert windows(limit=None, keys_only=True) == windows(limit=10**6, keys_only=True) == PAGE_KEYS
    assert windows(limit=3, keys_only=True) == 3


def test_the_command_line_says_in_a_line_what_a_scan_leaves_out(
    store: Any, link: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put("a", 1)
    link.records[b"\x00junk"] = link.records[encode_key("a")]
    assert list(reading.pages(link, store._operations.scan())) == [[("a", 1)]]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("raykv: bucket 'default': ")
    assert "repair" in line
