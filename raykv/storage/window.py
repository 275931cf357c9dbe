"""The first entries of a range, without a scan: a bisection a source, no iterator that stays open.

A scan (``merge``) is made to run on: it opens an iterator over each source and holds the files that it reads. Who wants a
few entries from each of hundreds of ranges pays for little else. A window reads what each source has next, a block or
some, and settles the keys up to the smallest last key among these; the caller asks again from there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from raykv.storage.merge import settle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raykv.storage.cache import Block
    from raykv.storage.memtable import Found, Memtable
    from raykv.storage.merge import Batch
    from raykv.storage.run import Run


class Window(NamedTuple):
    """Entries in ascending order, the newest of each key; a record in a table stands for itself.

    ``reached``: the window holds all of its range as far as this key, up to it, or down to it; None: all of it.
    """

    keys: list[bytes]
    found: list[Found | bytes]
    reached: bytes | None


def window(
    memtables: Sequence[Memtable],
    runs: Sequence[Run],
    start: bytes,
    end: bytes,
    *,
    least: int,
    enough_bytes: int,
    reverse: bool,
) -> Window:
    """Return the first entries of ``[start, end)``, with ``reverse`` the last ones. The sources: newest first.

    Each source gives at least one entry, if it has any, and goes on up to ``least`` entries or ``enough_bytes``. O(log n)
    a source, and O(1) an entry. The lists may be those of a cached block: they must not be changed.
    """
    parts: list[Batch[Found | bytes]] = []
    edge: bytes | None = None
    for memtable in memtables:
        keys, founds = memtable.first(start, end, least, reverse=reverse)
        if keys:
            parts.append((keys, [*founds]))
            if len(keys) >= least:
                edge = _nearer(edge, keys, reverse=reverse)
    for run in runs:
        block, more = _first_of(run, start, end, least, enough_bytes, reverse=reverse)
        if block[0]:
            parts.append((block[0], block[1]))  # type: ignore[arg-type]  # a list of bytes, which nobody changes
            if more:
                edge = _nearer(edge, block[0], reverse=reverse)
    if edge is not None and len(parts) > 1:
        parts = [part for part in (_within(part, edge, reverse=reverse) for part in parts) if part[0]]
    if not parts:
        return Window([], [], None)
    return Window(*settle(parts), edge)


def _nearer(edge: bytes | None, keys: list[bytes], *, reverse: bool) -> bytes:
    if reverse:
        return keys[0] if edge is None else max(edge, keys[0])
    return keys[-1] if edge is None else min(edge, keys[-1])


def _within(part: Batch[Found | bytes], edge: bytes, *, reverse: bool) -> Batch[Found | bytes]:
    keys, found = part
    if reverse:
        at = bisect_left(keys, edge)
        return (keys[at:], found[at:]) if at else part
    at = bisect_right(keys, edge)
    return (keys[:at], found[:at]) if at < len(keys) else part


def _first_of(
    run: Run, start: bytes, end: bytes, least: int, enough_bytes: int, *, reverse: bool
) -> tuple[Block, bool]:
    """Return the first entries of a run, and whether there may be more."""
    blocks: list[Block] = []
    count = size_bytes = 0
    tables = run.overlapping(start, end)
    for table in reversed(tables) if reverse else tables:
        for block in table.batches(start, end, reverse=reverse):
            if not block[0]:
                continue
            blocks.append(block)
            count += len(block[0])
            if count >= least:
                return _joined(blocks, reverse=reverse), True
            size_bytes += sum(map(len, block[1]))
            if size_bytes >= enough_bytes:
                return _joined(blocks, reverse=reverse), True
    return _joined(blocks, reverse=reverse), False


def _joined(blocks: list[Block], *, reverse: bool) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    if reverse:
        blocks.reverse()
    return [*chain.from_iterable(keys for keys, _ in blocks)], [*chain.from_iterable(found for _, found in blocks)]
