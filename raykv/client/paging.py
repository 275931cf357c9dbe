"""A scan, page by page: how many pairs to ask for, where to resume, and when to give up.

A page of deleted pairs alone shows nothing. Each page that shows less than the scan wanted, for whatever reason
(tombstones, copies that differ, values that a resolver hides), is followed by one four times as large that is *passing*
(``coordinator.scans``). The first pair of a queue behind tens of thousands of deleted ones takes a few dozen pages at
most, and a single page where nothing was deleted.

**The timeout bounds a step**: the wait for the next pair, over any number of pages. A scan of millions of pairs may take
arbitrarily long, but no step of it longer than the timeout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from raykv.client.exchange import Steps
from raykv.config import check_timeout
from raykv.errors import QuorumNotMet, RaykvError
from raykv.records.keys import (
    LAST_TAG_END,
    MAX_ENCODED_KEY_BYTES,
    Key,
    after_prefix,
    decode_key,
    encode_bound,
)

PAGE_ITEMS = 1000
PAGE_KEYS = 2000


class Page(NamedTuple):
    """A page of a scan: pairs in order, and the bound at which the next page begins (None: the end).

    ``failed``: why the pair after these, and anything the page holds beyond it, is not shown.
    """

    items: list[tuple[Any, Any]]
    resume: bytes | None
    failed: Exception | None = None


class ScanRange(NamedTuple):
    """The rest of a scan: ``start <= encoded key < end``."""

    start: bytes
    end: bytes


Ask: TypeAlias = Callable[[ScanRange, int, bool, float], Steps[Page]]
"""``ask(left, pairs, passing, timeout_s)``: the operation that reads one page, of at most ``pairs`` pairs."""

_GROWTH = 4


class Paging:
    """One scan in progress."""

    def __init__(
        self,
        ask: Ask,
        now_s: Callable[[], float],
        left: ScanRange,
        *,
        limit: int | None,
        reverse: bool,
        timeout: Any,
        keys_only: bool = False,
    ) -> None:
        """``limit``: of pairs in all; None: to the end. ``timeout``: of each step, in seconds."""
        self._ask = ask
        self._now_s = now_s
        self._left = left
        self._wanted = limit
        self._reverse = reverse
        self._timeout = timeout
        self._most = PAGE_KEYS if keys_only else PAGE_ITEMS
        self._window = self._most if limit is None else min(limit, self._most)
        self._passing = False
        self._open = left.start < left.end and limit != 0
        self._failed: Exception | None = None

    def step(self) -> Steps[list[tuple[Key, Any]]]:
        """Return the next pairs in order, those of one page; none: the scan has ended.

        Raises ``QuorumNotMet`` if the whole timeout brought no pair; the error about one pair, after the pairs before it.
        """
        timeout_s = check_timeout(self._timeout)
        until_s = self._now_s() + timeout_s
        while self._open:
            if self._failed is not None:
                self._open = False
                raise self._failed
            left_s = until_s - self._now_s()
            if left_s <= 0:
                raise QuorumNotMet(
                    f"the scan found no pair to return within {timeout_s:g} s: it passed deleted and expired ones"
                    f"{self._how_far()}; give a larger timeout"
                )
            pairs = self._take((yield from self._ask(self._left, self._window, self._passing, left_s)))
            if pairs:
                return pairs
        return []

    def _take(self, page: Page) -> list[tuple[Key, Any]]:
        """Account for a page; return those of its pairs that the scan wants."""
        pairs = page.items
        self._passing = len(pairs) < self._window
        if self._passing:
            self._window = min(self._most, _GROWTH * self._window)
        if self._wanted is not None:
            pairs = pairs[: self._wanted]
            self._wanted -= len(pairs)
        self._failed = page.failed
        if page.failed is not None:
            self._open = self._wanted != 0
            return pairs
        self._open = page.resume is not None and self._wanted != 0
        if page.resume is not None:
            self._left = remaining(self._left, page.resume, reverse=self._reverse)
            self._open = self._open and self._left.start < self._left.end
        return pairs

    def _how_far(self) -> str:
        try:
            reached = decode_key(self._left.end if self._reverse else self._left.start[:-1])
        except RaykvError:
            return ""
        return f", as far as {reached!r}"


def scan_range(
    prefix: Key | None, start: Key | None, end: Key | None, after: Key | None, *, reverse: bool
) -> ScanRange:
    """Return the intersection of all these bounds, in encoded keys.

    ``start`` is inclusive, ``end`` exclusive, whatever the direction; ``after`` is where an earlier scan in the same
    direction stopped, and is excluded.
    """
    low, high = b"", LAST_TAG_END
    if prefix is not None:
        stem = _bound(prefix)
        low, high = stem, after_prefix(stem) or LAST_TAG_END
    if start is not None:
        low = max(low, _bound(start))
    if end is not None:
        high = min(high, _bound(end))
    if after is not None:
        bound = _bound(after)
        low, high = (low, min(high, bound)) if reverse else (max(low, bound + b"\x00"), high)
    return ScanRange(low, high)


def _bound(bound: Key) -> bytes:
    """Encode a bound, truncated to just above the longest key: bytes beyond that decide nothing."""
    return encode_bound(bound)[: MAX_ENCODED_KEY_BYTES + 1]


def remaining(left: ScanRange, resume: bytes, *, reverse: bool) -> ScanRange:
    """Return the rest of a scan after a page."""
    return ScanRange(left.start, resume) if reverse else ScanRange(resume, left.end)
