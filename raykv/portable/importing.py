"""A file into a bucket, batch by batch; interrupted, it goes on behind the last batch that was acknowledged.

The note stands beside the file, by the name of the store and the bucket. The batch that was under way is put again: the same
values under the same keys.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import xxhash

from raykv.config import shown
from raykv.errors import InvalidOption, RaykvError
from raykv.portable.exporting import FileFormat, checked_bucket, format_of
from raykv.portable.lasting import put_all
from raykv.portable.lines import LinesIn
from raykv.portable.notes import read_note, remove_note, write_note
from raykv.portable.parquet import ParquetIn

if TYPE_CHECKING:
    from collections.abc import Callable

    from raykv.client.store import Bucket

BATCH_ROWS = 2000
BATCH_BYTES = 16 << 20
_LOOKED_AT_BYTES = 1 << 20


class Imported(NamedTuple):
    """What an import has put."""

    records: int
    """Acknowledged, with those of ``resumed``."""
    skipped: int
    """With ``if_absent``: those whose key had a value."""
    resumed: int
    """Of the file's records, those that an earlier import of it had done when it was interrupted."""


def import_file(
    bucket: Bucket[Any, Any],
    path: str | os.PathLike[str],
    *,
    format: FileFormat | None = None,  # noqa: A002 - the word that everybody uses
    if_absent: bool = False,
    note: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Imported:
    """Put the records of a file of ``export_file`` into a store or bucket; return how many.

    A Parquet file of another program will do, if it has a column "key": the other columns are the fields of a dict or, if
    there is "value" alone, the value. JSON Lines have an object with "key" and "value" in each line.

    ``if_absent``: only keys that have no value (linearizable buckets). ``note``: the path of a file that says how far it is;
    None: beside the file, removed at the end. An import of the same file that was interrupted goes on there.
    ``progress(done, all)`` receives bytes of JSON Lines, or rows of Parquet.

    Raises ``InvalidOption``, which names the line or row that is wrong or the key that is refused, after all before it was
    put; ``OSError``; ``StoreUnavailable``, ``WriteOutcomeUnknown`` if the store could not take records for five minutes.
    """
    path = os.path.abspath(os.fspath(path))
    form = format_of(path, format)
    bucket = checked_bucket(bucket)
    if if_absent and bucket.config.versioning != "linearizable":
        raise InvalidOption(f"if_absent takes a linearizable bucket; {bucket.name!r} is {bucket.config.versioning}")
    operations = bucket._operations  # noqa: SLF001 - its own package's handle
    about = {"store": operations.store_id, "bucket": operations.bucket_id, "if_absent": bool(if_absent), **_looks(path)}
    noted = f"{path}.{about['store']}.{about['bucket']}.import" if note is None else os.path.abspath(os.fspath(note))
    state = read_note(noted, about, "import")
    records, skipped = int(state.get("records", 0)), int(state.get("skipped", 0))
    resumed = records + skipped
    source = LinesIn(path, state.get("at", {})) if form == "jsonl" else ParquetIn(path, state.get("at", {}))
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // bucket.config.pair_bytes))
    try:
        for pairs, at, done in source.chunks(rows):
            try:
                put = put_all(bucket, dict(pairs), if_absent=if_absent)
            except RaykvError as error:
                raise _told(error, records, noted) from None
            records += put.pairs + len(pairs) - len(dict(pairs))
            skipped += put.skipped
            _write_note(noted, about, {"records": records, "skipped": skipped, "at": at})
            if progress is not None:
                progress(done, source.size)
    finally:
        source.close()
    remove_note(noted)
    return Imported(records, skipped, resumed)


def _looks(path: str) -> dict[str, Any]:
    """Return what tells the file from another: its size, its time, and a digest of its beginning."""
    with open(path, "rb") as file:
        there = os.fstat(file.fileno())
        digest = xxhash.xxh3_64_hexdigest(file.read(_LOOKED_AT_BYTES))
    return {"size": there.st_size, "changed_ns": there.st_mtime_ns, "digest": digest}


def _write_note(noted: str, about: dict[str, Any], state: dict[str, Any]) -> None:
    try:
        write_note(noted, about, state)
    except OSError as error:
        raise InvalidOption(
            f"{shown(noted)} cannot be written ({error.strerror}), by which an interrupted import would go on; name another "
            "file for it (note=, or --note)"
        ) from None


def _told(error: RaykvError, records: int, noted: str) -> RaykvError:
    more = f" ({records:,} records were imported before; the next import of this file goes on there, by {noted})"
    return type(error)(error.message + (more if records else ""), **error.details)
