"""Scans of a bucket: a page at a time, resolved and decoded here; ``raykv.client.paging`` decides which page is next."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from raykv.client.exchange import DEFAULT_TIMEOUT_S, ask, unexpected
from raykv.client.paging import Page, Paging, ScanRange, scan_range
from raykv.client.reads import Reads
from raykv.config import check_count, check_timeout, shown
from raykv.errors import CorruptData
from raykv.protocol import frames as f
from raykv.records.keys import Key, decode_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.client.exchange import Steps


class Scans(Reads):
    """Reads ranges of keys."""

    def scan(
        self,
        prefix: Key | None = None,
        start: Key | None = None,
        end: Key | None = None,
        *,
        after: Key | None = None,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        r: Any = None,
        timeout: Any = DEFAULT_TIMEOUT_S,
        partitions: Sequence[int] = (),
    ) -> Paging:
        """Return a scan about to begin. The timeout is checked, and counts, at each of its steps.

        ``partitions``: only the keys of these; none: of all.
        """
        left = scan_range(prefix, start, end, after, reverse=reverse)
        self.check_r(r)
        most = None if limit is None else check_count("limit", limit, 0, 2**63)

        def ask_page(left: ScanRange, pairs: int, passing: bool, timeout_s: float) -> Steps[Page]:
            return self.page(
                left,
                limit=pairs,
                reverse=reverse,
                keys_only=keys_only,
                r=r,
                timeout=timeout_s,
                passing=passing,
                partitions=partitions,
            )

        return Paging(ask_page, self.now_s, left, limit=most, reverse=reverse, timeout=timeout, keys_only=keys_only)

    def page(
        self,
        left: ScanRange,
        *,
        limit: int,
        reverse: bool,
        keys_only: bool,
        r: Any,
        timeout: Any,
        passing: bool = False,
        partitions: Sequence[int] = (),
    ) -> Steps[Page]:
        """Read the next page of a scan; ``passing``: skip over many hidden pairs (see ``coordinator.scans``).

        An error about one pair is part of the page, which holds the pairs before it.
        """
        timeout_s = check_timeout(timeout)
        replicas = self.check_r(r)
        request = f.ScanPage(
            self.bucket_id,
            left.start,
            left.end,
            limit,
            bool(reverse),
            keys_only,
            replicas,
            timeout_s,
            passing,
            [*partitions],
        )
        answer = yield from ask(request, timeout_s)
        if not isinstance(answer, f.Page):
            raise unexpected()
        pairs: list[tuple[Key, Any]] = []
        for encoded, payloads, gone in answer.items:
            if not payloads or (gone and self._newest):
                continue
            try:
                key = decode_key(encoded)
            except CorruptData as error:
                _warn_of_no_key(self.config.name, encoded, error)
                continue
            try:
                pairs.append((key, None if keys_only else self._resolved(key, payloads)))
            except Exception as error:  # noqa: BLE001 - raised once the pairs before it have been shown
                return Page(pairs, answer.resume, error)
        return Page(pairs, answer.resume)


def _warn_of_no_key(bucket: str, encoded: bytes, error: CorruptData) -> None:
    """Warn that a scan skips data that an earlier version of raykv stored under bytes that are no key."""
    warnings.warn(
        f"bucket {bucket!r}: the scan skips a record whose stored key is invalid ({shown(encoded)}: {error.message}); "
        "store.repair() deletes it",
        UserWarning,
        stacklevel=2,
    )
