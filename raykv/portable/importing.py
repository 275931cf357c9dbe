"""A file into a bucket, batch by batch; interrupted, it goes on behind the last batch that was acknowledged.

The note stands beside the file, by the name of the store and the bucket. The batch that was under way is put again: the same
values under the same keys.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import xxhash

from raykv.config import shown
from raykv.errors import InvalidOption, RaykvError
from raykv.portable.exporting import FileFormat, checked_bucket, format_of
from raykv.portable.lasting import put_all
from raykv.portable.lines import BATCH_BYTES, LinesIn
from raykv.portable.notes import held_note, read_note, remove_note, write_note
from raykv.portable.parquet import ParquetIn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raykv.client.store import Bucket

BATCH_ROWS = 2000
_LOOKED_AT_BYTES = 1 << 20
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Imported(NamedTuple):
    """What an import has put."""

    records: int
    """Acknowledged, with those of ``resumed``."""
    skipped: int
    """With ``if_absent``: those whose key had a value; it may be from a batch that was under way at an interruption."""
    resumed: int
    """Of the file's records, those that an earlier import of it had done when it was interrupted."""


class _State(msgspec.Struct):
    records: _Count = 0
    skipped: _Count = 0
    at: dict[str, _Count] = {}


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

    Raises ``InvalidOption``, which names the line or row that is wrong or the key that is refused, after the lines before
    it, or the batches of rows before its own, were put; ``OSError``; ``StoreUnavailable``, ``WriteOutcomeUnknown`` if the
    store could not take records for five minutes.
    """
    path = os.path.abspath(os.fsdecode(path))
    form = format_of(path, format)
    bucket = checked_bucket(bucket)
    if if_absent and bucket.config.versioning != "linearizable":
        raise InvalidOption(f"if_absent takes a linearizable bucket; {bucket.name!r} is {bucket.config.versioning}")
    operations = bucket._operations  # noqa: SLF001 - its own package's handle
    about = {"store": operations.store_id, "bucket": operations.bucket_id, "if_absent": bool(if_absent), **_looks(path)}
    noted = f"{path}.{about['store']}.{about['bucket']}.import" if note is None else os.path.abspath(os.fsdecode(note))
    with _held(noted, path):
        return _import_noted(bucket, path, form, if_absent, noted, about, progress)


def _import_noted(
    bucket: Bucket[Any, Any],
    path: str,
    form: FileFormat,
    if_absent: bool,
    noted: str,
    about: dict[str, Any],
    progress: Callable[[int, int], object] | None,
) -> Imported:
    state = read_note(noted, about, "import", _State)
    resumed = state.records + state.skipped
    rows = max(1, min(BATCH_ROWS, BATCH_BYTES // bucket.config.pair_bytes))
    with _opened(path, form, state.at) as source:
        for pairs, at, done in source.chunks(rows):
            try:
                put = put_all(bucket, pairs, if_absent=if_absent)
            except RaykvError as error:
                raise _told(error, state, len(pairs), noted) from None
            state = _State(state.records + put.pairs, state.skipped + put.skipped, at)
            _write_note(noted, about, state)
            if progress is not None:
                progress(done, source.size)
    remove_note(noted)
    return Imported(state.records, state.skipped, resumed)


@contextlib.contextmanager
def _held(noted: str, path: str) -> Iterator[None]:
    """Hold the note: of two imports by one, the slower would put its values over what came after the other's end."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held_note(noted, f"imports {path} by {noted}"))
        except OSError as error:
            raise _no_note(noted, str(error.strerror)) from None
        yield


def check_file(path: str, form: FileFormat) -> None:
    """Raise ``InvalidOption`` for a file that does not begin as one of this format does."""
    with _opened(path, form, {}) as source:
        next(source.chunks(1), None)


@contextlib.contextmanager
def _opened(path: str, form: FileFormat, at: dict[str, int]) -> Iterator[LinesIn | ParquetIn]:
    _check_regular(path)
    source = LinesIn(path, at) if form == "jsonl" else ParquetIn(path, at)
    try:
        yield source
    finally:
        source.close()


def _check_regular(path: str) -> None:
    """Raise ``InvalidOption`` for a pipe, which nothing could go on in and whose opening may wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise InvalidOption(
            f"{path} is no regular file; an import reads its beginning twice, and goes on in it: store it first"
        )


def _looks(path: str) -> dict[str, Any]:
    """Return what tells the file from another: its size, its time, and a digest of its beginning."""
    _check_regular(path)
    with open(path, "rb") as file:
        there = os.fstat(file.fileno())
        digest = xxhash.xxh3_64_hexdigest(file.read(_LOOKED_AT_BYTES))
    return {"size": there.st_size, "changed_ns": there.st_mtime_ns, "digest": digest}


def _write_note(noted: str, about: dict[str, Any], state: _State) -> None:
    try:
        write_note(noted, about, state)
    except OSError as error:
        raise _no_note(noted, str(error.strerror)) from None


def _no_note(noted: str, why: str) -> InvalidOption:
    return InvalidOption(
        f"{shown(noted)} cannot be written ({why}), by which an interrupted import would go on; name another file for it "
        "(note=, or --note)"
    )


def _told(error: RaykvError, state: _State, count: int, noted: str) -> RaykvError:
    done = state.records + state.skipped
    more = f" (it is one of the file's records {done + 1:,} to {done + count:,}"
    more += f"; those before are imported, and the next import of this file goes on there, by {noted})" if done else ")"
    return type(error)(error.message + more, **error.details)
