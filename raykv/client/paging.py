"""A scan, page by page: how many pairs to ask for, where to go on, and when to give up.

What lies between two pairs is passed a page at a time, and a page of nothing but deleted pairs shows nothing. So each page
that shows less than was wanted is followed by one four times as large that is *passing* (``coordinator.scans``), whatever
the reason: tombstones, copies that differ, values that only a resolver hides. The first pair of a queue behind tens of
thousands of deleted ones takes some dozens of pages at the most, and one page where nothing was deleted.

**The timeout bounds a step**: the wait for the next pair, over however many pages. A scan of millions of pairs takes as long
as it takes, and no step of it longer than that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from raykv.client.operations import PAGE_ITEMS, PAGE_KEYS, Page, ScanRange, Steps, remaining
from raykv.config import check_timeout
from raykv.errors import QuorumNotMet, RaykvError
from raykv.records.keys import Key, decode_key

if TYPE_CHECKING:
    from raykv.client.operations import Operations

Ask: TypeAlias = Callable[[ScanRange, int, bool, float], Steps[Page]]
"""``ask(left, pairs, passing, timeout_s)``: the steps of one page of at most so many pairs."""

_GROWTH = 4


class Paging:
    """One scan on its way."""

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
        """Return the next pairs in order, as many as came together; none: the scan is at its end.

        Raises ``QuorumNotMet`` once there was nothing to be shown for the whole of the timeout; what kept a pair from being
        shown, when those before it have been.
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
                    f"nothing was found to be shown within {timeout_s:g} s, though much was passed{self._how_far()}; a "
                    "larger timeout goes on for longer"
                )
            pairs = self._take((yield from self._ask(self._left, self._window, self._passing, left_s)))
            if pairs:
                return pairs
        return []

    def _take(self, page: Page) -> list[tuple[Key, Any]]:
        """Take note of a page; return what is wanted of it."""
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


def scan_of(
    operations: Operations,
    left: ScanRange,
    *,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
    r: Any,
    timeout: Any,
) -> Paging:
    """Return a scan of a bucket, about to begin."""

    def ask(left: ScanRange, pairs: int, passing: bool, timeout_s: float) -> Steps[Page]:
        return operations.page(
            left, limit=pairs, reverse=reverse, keys_only=keys_only, r=r, timeout=timeout_s, passing=passing
        )

    return Paging(ask, operations.now_s, left, limit=limit, reverse=reverse, timeout=timeout, keys_only=keys_only)
