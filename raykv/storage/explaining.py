"""What one look-up touches: memtables, filters, blocks, in the order of a get, each with its time.

The steps of ``Engine.get``, taken one by one and timed: the same sources, the same caches, filled as a get fills them. It is
a second copy of that loop on purpose. A flag asked for at each step would cost every get; a test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raykv.storage.bloom import probe
from raykv.storage.memtable import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from raykv.storage.cache import BlockCache
    from raykv.storage.memtable import Memtable
    from raykv.storage.run import Run

MEMTABLE, SEALED, RECORD_CACHE, RUN = "memtable", "sealed memtable", "record cache", "run"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """One source that was asked for a key.

    A filter that passes (``filter`` "maybe") where nothing is ``found`` is a false positive.
    """

    source: str
    table: str = ""
    """The file, for a run."""
    filter: str = ""
    """"no", "maybe"; empty where there is none."""
    block: str = ""
    """"cached", "read"; empty if no block was looked into: no filter passed, or the key lies below the table's first."""
    found: bool = False
    record_bytes: int = 0
    us: float = 0.0
    """Microseconds."""


def look_up(
    key: bytes,
    *,
    memtable: Mapping[bytes, Found],
    sealed: Sequence[Memtable],
    kept: Callable[[bytes], Found | None],
    keep: Callable[[bytes, Found], None],
    runs: Sequence[Run],
    cache: BlockCache,
    now_s: Callable[[], float],
) -> list[Look]:
    """Look a key up as a get does; return what was asked, up to the source that has it. Raises ``CorruptBlock``.

    ``kept``, ``keep``: the cache of records. Deletion markers are found like records; they have no bytes.
    """
    looks: list[Look] = []
    before_s = now_s()
    for source, table, verdict, block, found in _steps(key, memtable, sealed, kept, keep, runs, cache):
        after_s = now_s()
        looks.append(
            Look(
                source=source,
                table=table,
                filter=verdict,
                block=block,
                found=found is not None,
                record_bytes=0 if found is None else len(found.record),
                us=round((after_s - before_s) * 1e6, 1),
            )
        )
        if found is not None:
            break
        before_s = now_s()
    return looks


def _steps(
    key: bytes,
    memtable: Mapping[bytes, Found],
    sealed: Sequence[Memtable],
    kept: Callable[[bytes], Found | None],
    keep: Callable[[bytes, Found], None],
    runs: Sequence[Run],
    cache: BlockCache,
) -> Iterator[tuple[str, str, str, str, Found | None]]:
    """Yield (source, table, filter, block, found) of each source in turn."""
    yield MEMTABLE, "", "", "", memtable.get(key)
    for each in sealed:
        yield SEALED, "", "", "", each.entries.get(key)
    if not runs:
        return
    if (found := kept(key)) is not None:
        yield RECORD_CACHE, "", "", "", found
    place, mask = probe(key)
    for run in runs:
        table = run.only or run.table_for(key)
        if table is None:
            yield f"{RUN} {run.number}", "", "", "", None
        elif table.filter_blocks[place * table.filter_count >> 64] & mask != mask:
            yield f"{RUN} {run.number}", table.name, "no", "", None
        else:
            hits, misses = cache.hits, cache.misses
            record = table.find(key, place)
            found = None if record is None else Found(record, 0)
            if found is not None and cache.misses == misses:
                keep(key, found)
            block = "read" if cache.misses > misses else "cached" if cache.hits > hits else ""
            yield f"{RUN} {run.number}", table.name, "maybe", block, found
